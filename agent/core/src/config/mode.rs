//! How packets reach a backend, and what this node needs for that: `[tunnel]` and `[nat]`.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

/// How packets reach a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// `local` where the backend's address is one of this host's, else `dsr`.
    Auto,
    /// This host's own stack.
    Local,
    /// A new destination MAC, same segment (direct server return).
    Dsr,
    /// Within a packet to the backend's address, which unwraps it and answers the client itself.
    Tunnel,
    /// With source and destination translated, and translated back on the way to the client.
    Nat,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Auto => "auto",
            Self::Local => "local",
            Self::Dsr => "dsr",
            Self::Tunnel => "tunnel",
            Self::Nat => "nat",
        })
    }
}

/// What a tunnelled packet is wrapped in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Encapsulation {
    /// An IP header alone. By the families of client and backend: IPIP (RFC 2003), IP6IP6 (RFC 2473),
    /// IPv4 in IPv6 (RFC 2473) or IPv6 in IPv4 (RFC 4213).
    #[default]
    Ipip,
    /// IP, UDP and generic UDP encapsulation (draft-ietf-intarea-gue, version 1: no header of its
    /// own between UDP and the inner packet).
    Gue,
}

impl fmt::Display for Encapsulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ipip => "ipip",
            Self::Gue => "gue",
        })
    }
}

/// `[tunnel]`: the outer packets of mode `tunnel`, as sender and as receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tunnel {
    /// Outer IPv4 sources: the network's bits, and a hash of the client in the others, so that a
    /// backend's network card spreads clients over its queues. /8 to /32, host bits zero.
    pub source4: Ipv4Net,
    /// The same for outer IPv6 sources, /32 to /128.
    pub source6: Ipv6Net,
    /// The UDP port that GUE goes to.
    pub gue_port: u16,
    /// This host's addresses at which it unwraps what others tunnel to it. Empty: it is no backend
    /// of mode `tunnel`.
    pub endpoints: Vec<IpAddr>,
}

impl Default for Tunnel {
    fn default() -> Self {
        const SOURCE4: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 0, 0), 16);
        // The discard prefix (RFC 6666): nobody has such an address, so no answer goes astray.
        const SOURCE6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0), 64);
        Self {
            source4: SOURCE4,
            source6: SOURCE6,
            gue_port: 6080,
            endpoints: Vec::new(),
        }
    }
}

/// `[nat]`: what packets of mode `nat` come from, and how long a translation lasts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nat {
    /// This host's own addresses that translated packets come from, no virtual ones, at most 8.
    pub addresses: Vec<IpAddr>,
    /// The source ports of translated packets.
    pub ports: PortRange,
    /// How long a translation outlives its last packet.
    pub timeouts: NatTimeouts,
}

impl Default for Nat {
    fn default() -> Self {
        Self {
            addresses: Vec::new(),
            ports: PortRange {
                low: 1024,
                high: 65_535,
            },
            timeouts: NatTimeouts::default(),
        }
    }
}

/// Ports from `low` to `high`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRange {
    /// The first.
    pub low: u16,
    /// The last, not below the first.
    pub high: u16,
}

impl PortRange {
    /// How many ports it holds.
    #[must_use]
    pub fn count(self) -> u32 {
        u32::from(self.high.saturating_sub(self.low)) + 1
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.low, self.high)
    }
}

/// How long a translation outlives its last packet, by the state of its flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NatTimeouts {
    /// Before the handshake is complete.
    pub tcp_new: Duration,
    /// After it.
    pub tcp_established: Duration,
    /// After a FIN or RST.
    pub tcp_closing: Duration,
    /// Before an answer was seen.
    pub udp_new: Duration,
    /// After it.
    pub udp_established: Duration,
}

impl Default for NatTimeouts {
    fn default() -> Self {
        Self {
            // Short, as the kernel's retransmissions renew it: a SYN's until the backend answers, and the
            // answer's until the client does.
            tcp_new: Duration::from_secs(10),
            // RFC 5382, REQ-5: not below 2 hours 4 minutes, so that TCP's keepalive renews it.
            tcp_established: Duration::from_secs(7440),
            tcp_closing: Duration::from_secs(60),
            udp_new: Duration::from_secs(30),
            // RFC 4787, REQ-5: not below 2 minutes, 5 minutes recommended.
            udp_established: Duration::from_secs(180),
        }
    }
}
