//! What a node decides to do.

use std::{fmt, net::IpAddr};

use crate::{
    config::{Mode, Name, Protocol},
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
    /// A reload takes effect here: the actions before are about virtual routers as they were
    /// configured until now, those after as in [`crate::node::Node::config`].
    Reconfigured,
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
    /// The Maglev table: indices into `backends`; empty: no backend can take new flows.
    pub ring: Vec<u16>,
}

/// One backend of a service's steering.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SteeredBackend {
    /// Its name.
    pub name: Name,
    /// Its own address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// How packets reach it; never [`Mode::Auto`].
    pub mode: Mode,
    /// Whether it may keep the flows it has. Never for [`Mode::Dsr`] without a next hop.
    pub alive: bool,
    /// For [`Mode::Dsr`].
    pub next_hop: Option<NextHop>,
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
    /// A service's traffic goes to another tier; none: nowhere.
    Tier {
        /// The service.
        service: Name,
        /// The tier before.
        from: Option<u8>,
        /// The tier now.
        to: Option<u8>,
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
        }
    }
}
