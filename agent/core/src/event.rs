//! What happens to a node.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

pub use crate::track::{Sight, TrackFailure};
use crate::{
    channel,
    config::{Backend, Config, Name, Service},
    vrrp::wire::{Advert, Mismatch},
};

/// A backend, by the names of its service and itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendKey {
    /// The service.
    pub service: Name,
    /// The backend within it.
    pub backend: Name,
}

impl BackendKey {
    /// The key of `backend` of `service`.
    #[must_use]
    pub fn of(service: &Service, backend: &Backend) -> Self {
        Self {
            service: service.name.clone(),
            backend: backend.name.clone(),
        }
    }
}

/// Something that happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// A check ordered by [`crate::action::Action::RunProbe`] ended.
    Probe {
        /// Whom it checked.
        backend: BackendKey,
        /// Which of the service's probes, by name.
        probe: Name,
        /// How it ended.
        outcome: Result<(), ProbeFailure>,
        /// How long it took.
        took: Duration,
    },
    /// A well-formed VRRP advert arrived (its TTL, checksum and version were right).
    Advert {
        /// The virtual router whose interface, VRID and family it fits.
        router: Name,
        /// Who sent it.
        source: IpAddr,
        /// What it says.
        advert: Advert,
    },
    /// An interface's carrier came or went, or the interface itself did.
    Link {
        /// The interface.
        interface: Name,
        /// Whether it can carry packets.
        up: bool,
    },
    /// Whether what steers packets is in place. Until this is said it is; a node that starts without it
    /// listens, and becomes no master.
    Steers(bool),
    /// An advert for a virtual router that was refused because its sender speaks otherwise; at a
    /// bounded rate.
    Refused {
        /// The virtual router.
        router: Name,
        /// Who sent it.
        source: IpAddr,
        /// What differs.
        mismatch: Mismatch,
    },
    /// The addresses of this host, all of them, virtual ones included.
    LocalAddresses(BTreeSet<IpAddr>),
    /// The source address of this node's adverts became known, changed or was lost. It decides
    /// between equal priorities.
    Source {
        /// The virtual router.
        router: Name,
        /// The address.
        address: Option<IpAddr>,
    },
    /// The next hop of a backend became known, changed or was lost.
    NextHop {
        /// The backend's address.
        address: IpAddr,
        /// How to reach it on the segment.
        next_hop: Option<NextHop>,
    },
    /// Another host answers for one of a virtual router's addresses.
    AddressConflict {
        /// The virtual router.
        router: Name,
        /// The address.
        address: IpAddr,
        /// Who answers.
        mac: [u8; 6],
    },
    /// A track was looked at by order of [`crate::action::Action::RunTrack`].
    Track {
        /// Which.
        track: Name,
        /// The order's ticket.
        ticket: u64,
        /// What was seen.
        outcome: Result<Sight, TrackFailure>,
    },
    /// An operator's or the system's order.
    Command(Command),
    /// Something happened on the channel to a peer, a node that has proved to be this one.
    Channel {
        /// The peer.
        peer: Name,
        /// What happened.
        what: channel::Happening,
    },
}

/// An order. One to fail over can be refused, so it is a method:
/// [`crate::node::Node::failover`].
#[derive(Debug, Clone)]
pub enum Command {
    /// Work by this configuration from now on.
    Reload(Box<Config>),
    /// Hand everything over and stop.
    Shutdown,
}

/// The first step on the way to a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextHop {
    /// The interface it is reached through.
    pub ifindex: u32,
    /// Its MAC: the backend's own, or the gateway's.
    pub mac: [u8; 6],
    /// The 802.1Q VLAN that the frame must name on that interface; 0: none.
    pub vlan: u16,
    /// The largest packet that the way carries, in bytes.
    pub mtu: u16,
    /// Whether that is a router on the way, and not the backend itself.
    pub gateway: bool,
}

/// Why a check failed, in words that an operator can act on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProbeFailure {
    /// Nothing listens.
    #[error("connection refused")]
    Refused,
    /// No route, or no neighbour answered.
    #[error("host unreachable")]
    Unreachable,
    /// The connection was cut during the check.
    #[error("connection reset")]
    Reset,
    /// No answer in time.
    #[error("no answer within {}", crate::api::human_duration(*.0))]
    Timeout(Duration),
    /// The status is not an expected one.
    #[error("HTTP status {0}")]
    Status(u16),
    /// The body lacks the expected text.
    #[error("body does not contain the expected text")]
    Body,
    /// The certificate or the handshake is bad.
    #[error("TLS: {0}")]
    Tls(String),
    /// The answer breaks the protocol.
    #[error("protocol: {0}")]
    Protocol(String),
    /// This host could not make the check.
    #[error("probe could not run: {0}")]
    Local(String),
}
