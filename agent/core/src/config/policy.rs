//! What a service does with new flows beside choosing a tier: scheduler, affinity and protection.
//! The core decides by some of it and the data plane enforces the rest, so it is handed on whole
//! ([`crate::action::Steering::policy`]).

use std::fmt;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// How the flows of a service are spread and limited. The default is what a service gets whose
/// configuration says nothing of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policy {
    /// How a new flow's backend is chosen.
    pub scheduler: Scheduler,
    /// What of a flow the choice depends on; anything but [`Affinity::FiveTuple`] only with
    /// [`Scheduler::Maglev`].
    pub affinity: Affinity,
    /// The largest TCP segment that servers send, with mode `nat` clients too, 536 to 65495; none: any.
    pub mss: Option<u16>,
    /// How many new flows each node takes.
    pub syn_rate: Option<SynRate>,
    /// Which clients it takes.
    pub sources: Sources,
    /// Whether packets follow the server id of their QUIC connection id (UDP only).
    pub quic: bool,
}

/// How a new flow's backend is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scheduler {
    /// By a hash of the client: every node chooses alike.
    #[default]
    Maglev,
    /// The one with the fewest flows for its weight.
    LeastConnections,
    /// In turn, each as often as its weight says.
    WeightedRoundRobin,
}

impl fmt::Display for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Maglev => "maglev",
            Self::LeastConnections => "least-connections",
            Self::WeightedRoundRobin => "weighted-round-robin",
        })
    }
}

/// What of a flow the choice of its backend depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Affinity {
    /// Addresses and ports: each connection is spread for itself.
    #[default]
    FiveTuple,
    /// So many leading bits of the client's address: what has them in common has its backend in
    /// common. All of them (32 and 128): each client for itself.
    Source {
        /// Of an IPv4 address, 1 to 32.
        prefix4: u8,
        /// Of an IPv6 address, 1 to 128.
        prefix6: u8,
    },
}

impl fmt::Display for Affinity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FiveTuple => f.pad("5-tuple"),
            Self::Source {
                prefix4: 32,
                prefix6: 128,
            } => f.pad("source-address"),
            Self::Source { prefix4, prefix6 } => {
                write!(f, "source-prefix /{prefix4} /{prefix6}")
            }
        }
    }
}

/// A token bucket for new flows: TCP handshakes begun, or flows of UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SynRate {
    /// How many a second in the long run, 1 or more.
    pub per_second: u32,
    /// How many at once after a quiet time, 1 or more.
    pub burst: u32,
}

impl fmt::Display for SynRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/s, burst {}", self.per_second, self.burst)
    }
}

/// Which clients a service takes: of all networks that hold the client's address, the one with the
/// longest prefix decides. Where none does, `allow` being empty lets the client in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sources {
    /// Networks that are let in, of the service's family, none of them in `deny` too.
    pub allow: Vec<IpNet>,
    /// Networks that are not.
    pub deny: Vec<IpNet>,
}

impl Sources {
    /// Whether there is nothing to look up.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.allow.is_empty() && self.deny.is_empty()
    }
}
