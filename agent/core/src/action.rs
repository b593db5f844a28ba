//! What a node decides to do.

use std::{fmt, net::IpAddr, time::Duration};

pub use crate::config::{Affinity, Policy, Scheduler, Sources, SynRate};
use crate::{
    api::human_duration,
    channel::Message,
    config::{Encapsulation, Mode, Name, Protocol},
    event::{BackendKey, NextHop},
    vrrp::{election::Role, wire::Advert},
};

/// Something to do, in the order given.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Check a backend now; its end comes back as [`crate::event::Event::Probe`].
    RunProbe {
        /// Whom.
        backend: BackendKey,
        /// Which of the service's probes, by name.
        probe: Name,
    },
    /// Send an advert to the virtual router's group or peers.
    SendAdvert {
        /// The virtual router.
        router: Name,
        /// What to say.
        advert: Advert,
    },
    /// Put the virtual router's addresses on its interface.
    Acquire {
        /// The virtual router.
        router: Name,
    },
    /// Take them off.
    Release {
        /// The virtual router.
        router: Name,
    },
    /// Announce them (gratuitous ARP, unsolicited NA), once; the core times the repetitions.
    Announce {
        /// The virtual router.
        router: Name,
    },
    /// Ask the segment whether another host has the virtual router's addresses (RFC 5227 ARP
    /// probe, RFC 4862 neighbour solicitation); an answer is an
    /// [`crate::event::Event::AddressConflict`].
    ProbeAddresses {
        /// The virtual router.
        router: Name,
    },
    /// Keep the next hop of this address resolved and report it.
    Resolve {
        /// A backend's or peer's address.
        address: IpAddr,
    },
    /// Its next hop is no longer needed.
    Forget {
        /// The address.
        address: IpAddr,
    },
    /// Steer a service like this from now on.
    Steer(Steering),
    /// A service is no more.
    Unsteer {
        /// Its name.
        service: Name,
    },
    /// The MACs of peers, whose forwarded packets are delivered locally: of configured ones, and
    /// where none are, of those that were heard more than once and of late.
    Forwarders(Vec<[u8; 6]>),
    /// Check a track once (a script, a gateway), or watch it from now on (the others) and tell what is
    /// seen at first and whenever it changes. It comes back as [`crate::event::Event::Track`].
    RunTrack {
        /// Which.
        track: Name,
        /// What its events carry.
        ticket: u64,
    },
    /// Watch a track no more; a check of it that is under way ends at once.
    StopTrack {
        /// Which.
        track: Name,
    },
    /// A reload takes effect here: the actions before are about virtual routers as they were
    /// configured until now, those after as in [`crate::node::Node::config`]. So do its sections
    /// `[tunnel]` and `[nat]`.
    Reconfigured,
    /// Say this to a peer over the channel.
    Say {
        /// Whom.
        peer: Name,
        /// What.
        message: Message,
    },
    /// Tell the log and the history.
    Notice(Notice),
    /// Everything was handed over: stop.
    Exit,
}

/// How the traffic of a service is steered.
#[derive(Debug, Clone, PartialEq)]
pub struct Steering {
    /// The service.
    pub service: Name,
    /// Its virtual address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its backends, in the order of the configuration.
    pub backends: Vec<SteeredBackend>,
    /// Indices into `backends`; empty: no backend can take new flows. By the scheduler: the Maglev
    /// table; for weighted round robin one whole cycle of turns, interleaved; for least connections
    /// each backend that can, once.
    pub ring: Vec<u16>,
    /// How its flows are spread and limited.
    pub policy: Policy,
}

/// One backend of a service's steering.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SteeredBackend {
    /// Its name.
    pub name: Name,
    /// Its own address.
    pub address: IpAddr,
    /// Its port; not the service's only for [`Way::Nat`].
    pub port: u16,
    /// Its weight now, relative to the other weights of this steering: as configured, or a hundred
    /// times that while a backend of the service is in slow start.
    pub weight: u16,
    /// Whether it may keep the flows it has. Never where its way lacks the next hop.
    pub alive: bool,
    /// What names it in QUIC connection ids, where [`Policy::quic`] is set.
    pub quic_server_id: Option<u16>,
    /// How packets reach it.
    pub way: Way,
}

/// How packets reach a backend. A next hop is none while it is not known or of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// This host's own stack.
    Local,
    /// A new destination MAC.
    Dsr(Option<NextHop>),
    /// Within another packet.
    Tunnel {
        /// Which.
        encapsulation: Encapsulation,
        /// Where that goes first; its MTU is the smaller of the way's and the configured one.
        next_hop: Option<NextHop>,
    },
    /// With addresses and ports translated.
    Nat(Option<NextHop>),
}

impl Way {
    /// The mode it is the way of; never [`Mode::Auto`].
    #[must_use]
    pub fn mode(&self) -> Mode {
        match self {
            Self::Local => Mode::Local,
            Self::Dsr(_) => Mode::Dsr,
            Self::Tunnel { .. } => Mode::Tunnel,
            Self::Nat(_) => Mode::Nat,
        }
    }

    /// Its next hop, where it needs one and has it.
    #[must_use]
    pub fn next_hop(&self) -> Option<NextHop> {
        match self {
            Self::Local => None,
            Self::Dsr(next_hop) | Self::Tunnel { next_hop, .. } | Self::Nat(next_hop) => *next_hop,
        }
    }

    /// Whether packets can be sent on it.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self, Self::Local) || self.next_hop().is_some()
    }
}

/// Something worth telling: one transition with its cause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A virtual router changed its role.
    Role {
        /// The virtual router.
        router: Name,
        /// Before.
        from: Role,
        /// After.
        to: Role,
        /// Why.
        cause: String,
    },
    /// A backend came up or went down.
    Backend {
        /// Which.
        backend: BackendKey,
        /// Whether it is up now.
        up: bool,
        /// Why.
        cause: String,
    },
    /// A service's traffic goes to another tier; none: to no backend of a tier.
    Tier {
        /// The service.
        service: Name,
        /// The tier before.
        from: Option<u8>,
        /// The tier now.
        to: Option<u8>,
    },
    /// So few backends of a service are healthy that their health is not believed any more; or
    /// enough of them are again.
    Panic {
        /// The service.
        service: Name,
        /// Whether it panics now.
        panics: bool,
        /// How many backends are healthy.
        healthy: usize,
        /// Of how many.
        of: usize,
    },
    /// A service's new flows go to its sorry backends, or no longer.
    Sorry {
        /// The service.
        service: Name,
        /// Whether they do now.
        begins: bool,
    },
    /// A peer was heard for the first time, or again, or is silent. When many appear at once, not
    /// each is told.
    Peer {
        /// The virtual router.
        router: Name,
        /// The peer.
        address: IpAddr,
        /// Whether it is heard.
        alive: bool,
    },
    /// Something is wrong with the set-up; with what to change.
    Misconfigured {
        /// The virtual router.
        router: Name,
        /// What, and what to change.
        what: String,
    },
    /// An interface's carrier came or went.
    Link {
        /// The interface.
        interface: Name,
        /// Whether it is up.
        up: bool,
    },
    /// A track became good or bad, or its number is another one.
    Track {
        /// Which.
        track: Name,
        /// Whether it is good now.
        good: bool,
        /// Why.
        cause: String,
    },
    /// While the daemon was dead, another host took a virtual router over, and the program left the
    /// addresses to it.
    Fenced {
        /// The virtual router.
        router: Name,
        /// That host's MAC.
        mac: [u8; 6],
        /// How long ago.
        since: Duration,
        /// Whether this was an advert or an announcement.
        by: &'static str,
    },
    /// News of a peer on the channel.
    Channel {
        /// The peer.
        peer: Name,
        /// What.
        what: String,
        /// Whether something has to be done about it.
        trouble: bool,
    },
}

/// One line for the log and for `steerctl status`.
impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Role {
                router,
                from,
                to,
                cause,
            } => {
                write!(f, "virtual router {router}: {from} -> {to}: {cause}")
            }
            Self::Backend {
                backend: BackendKey { service, backend },
                up,
                cause,
            } => {
                let state = if *up { "up" } else { "down" };
                write!(f, "backend {service}/{backend} is {state}: {cause}")
            }
            Self::Tier { service, from, to } => match (from, to) {
                (_, None) => write!(f, "service {service} has no healthy backend"),
                (None, Some(to)) => write!(f, "service {service}: new flows go to tier {to}"),
                (Some(from), Some(to)) => {
                    write!(
                        f,
                        "service {service}: new flows go from tier {from} to tier {to}"
                    )
                }
            },
            Self::Panic {
                service,
                panics: true,
                healthy,
                of,
            } => write!(
                f,
                "service {service}: only {healthy} of {of} backends are healthy, below its \
                 panic_threshold: all that can be reached are used"
            ),
            Self::Panic {
                service,
                panics: false,
                healthy,
                of,
            } => write!(
                f,
                "service {service}: {healthy} of {of} backends are healthy: only those are used again"
            ),
            Self::Sorry {
                service,
                begins: true,
            } => write!(
                f,
                "service {service}: no other backend can serve: new flows go to the sorry backend"
            ),
            Self::Sorry {
                service,
                begins: false,
            } => write!(
                f,
                "service {service}: no new flows go to the sorry backend any more"
            ),
            Self::Peer {
                router,
                address,
                alive,
            } => {
                let state = if *alive { "is heard" } else { "is silent" };
                write!(f, "virtual router {router}: peer {address} {state}")
            }
            Self::Misconfigured { router, what } => write!(f, "virtual router {router}: {what}"),
            Self::Link { interface, up } => {
                let state = if *up { "up" } else { "down" };
                write!(f, "interface {interface} is {state}")
            }
            Self::Track { track, good, cause } => {
                let state = if *good { "good" } else { "bad" };
                write!(f, "track {track} is {state}: {cause}")
            }
            Self::Fenced {
                router,
                mac: [a, b, c, d, e, g],
                since,
                by,
            } => write!(
                f,
                "virtual router {router}: another host, {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}, \
                 took over while there was no daemon here: since its {by}, {} ago, this host's kernel \
                 has answered no question for the addresses",
                human_duration(*since)
            ),
            Self::Channel { peer, what, .. } => write!(f, "peer {peer}: {what}"),
        }
    }
}
