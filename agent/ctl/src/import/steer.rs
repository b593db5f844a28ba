//! The parts of a steerd.toml, typed: what a translation makes, and [`super::text`] writes.
//!
//! A [`Piece`] is one table of the file with what the output says about its keys.

use std::{net::IpAddr, time::Duration};

use ipnet::IpNet;

use super::account::Note;

/// One table.
#[derive(Debug, Clone)]
pub(super) struct Piece<T> {
    pub(super) value: T,
    /// Notes that belong to a key; to no key: the table.
    pub(super) remarks: Vec<(&'static str, Note)>,
    /// Lines without counterpart.
    pub(super) left: Vec<Note>,
    /// Why the whole table is commented out, if it is.
    pub(super) off: Option<String>,
}

impl<T> Piece<T> {
    pub(super) fn new(value: T) -> Self {
        Self {
            value,
            remarks: Vec::new(),
            left: Vec::new(),
            off: None,
        }
    }

    /// Says something about a key.
    pub(super) fn remark(&mut self, key: &'static str, note: Note) {
        self.remarks.push((key, note));
    }

    /// Comments the table out. The first reason stands.
    pub(super) fn off(&mut self, why: impl Into<String>) {
        self.off.get_or_insert(why.into());
    }
}

/// The whole file.
#[derive(Debug)]
pub(super) struct File {
    pub(super) node: Piece<Node>,
    pub(super) nat: Nat,
    /// The UDP port of GUE, if it is not steerd's.
    pub(super) gue_port: Option<u16>,
    pub(super) routers: Vec<Piece<Router>>,
    pub(super) groups: Vec<Piece<Group>>,
    pub(super) tracks: Vec<Piece<Track>>,
    pub(super) probes: Vec<Piece<Probe>>,
    pub(super) services: Vec<Piece<Service>>,
    /// What belongs to no table.
    pub(super) left: Vec<Note>,
}

/// `[node]`.
#[derive(Debug, Clone, Default)]
pub(super) struct Node {
    pub(super) name: Option<String>,
}

/// `[nat]`.
#[derive(Debug, Clone, Default)]
pub(super) struct Nat {
    /// Families that backends need an address of.
    pub(super) ipv4: bool,
    pub(super) ipv6: bool,
    pub(super) addresses: Vec<IpAddr>,
}

/// `[[virtual_router]]`.
#[derive(Debug, Clone)]
pub(super) struct Router {
    pub(super) name: String,
    pub(super) interface: String,
    pub(super) vrid: u8,
    pub(super) priority: u8,
    pub(super) advert_interval: Duration,
    pub(super) preempt: bool,
    pub(super) addresses: Vec<IpNet>,
    pub(super) peers: Vec<IpAddr>,
    pub(super) source: Option<IpAddr>,
    pub(super) announce: Announce,
    pub(super) more: RouterMore,
}

/// The keys of a virtual router that come with the failover between nodes.
#[derive(Debug, Clone, Default)]
pub(super) struct RouterMore {
    pub(super) version2: bool,
    pub(super) authentication: Option<Authentication>,
    /// Whether IPv4 adverts of version 3 carry RFC 5798's checksum.
    pub(super) rfc5798: bool,
    pub(super) ttl: Option<u8>,
    pub(super) min_ttl: Option<u8>,
    pub(super) preempt_delay: Option<Duration>,
    pub(super) track: Vec<String>,
    pub(super) accept: Option<bool>,
    pub(super) virtual_mac: bool,
    pub(super) routes: Vec<Route>,
    pub(super) rules: Vec<Rule>,
}

/// `announce`; what is none is as by default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Announce {
    pub(super) count: Option<u8>,
    pub(super) interval: Option<Duration>,
    pub(super) repeat_after: Option<Duration>,
    pub(super) refresh: Option<Duration>,
}

/// `authentication` of VRRPv2.
#[derive(Debug, Clone)]
pub(super) struct Authentication {
    pub(super) kind: &'static str,
    pub(super) password: String,
}

/// One of `routes`.
#[derive(Debug, Clone)]
pub(super) struct Route {
    pub(super) to: IpNet,
    pub(super) via: Option<IpAddr>,
    pub(super) interface: Option<String>,
    pub(super) source: Option<IpAddr>,
    pub(super) table: Option<u32>,
    pub(super) metric: Option<u32>,
}

/// One of `rules`.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    pub(super) from: Option<IpNet>,
    pub(super) to: Option<IpNet>,
    pub(super) table: u32,
    pub(super) priority: Option<u32>,
}

/// `[[sync_group]]`.
#[derive(Debug, Clone)]
pub(super) struct Group {
    pub(super) name: String,
    pub(super) virtual_routers: Vec<String>,
}

/// `[track.NAME]`.
#[derive(Debug, Clone)]
pub(super) struct Track {
    pub(super) name: String,
    pub(super) kind: TrackKind,
    /// None: a fault.
    pub(super) weight: Option<i16>,
    pub(super) interval: Option<Duration>,
    pub(super) timeout: Option<Duration>,
    pub(super) rise: Option<u8>,
    pub(super) fall: Option<u8>,
    pub(super) debounce_up: Option<Duration>,
    pub(super) debounce_down: Option<Duration>,
}

/// The `kind` of a track.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TrackKind {
    Interface(String),
    Script {
        argv: Vec<String>,
        user: Option<String>,
    },
    /// A number in a file.
    File(String),
    Process {
        process: String,
        at_least: u16,
    },
}

/// `[probe.NAME]`. What is none is as by default.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Probe {
    pub(super) kind: ProbeKind,
    pub(super) port: Option<u16>,
    pub(super) interval: Duration,
    pub(super) fast_interval: Duration,
    pub(super) timeout: Duration,
    pub(super) rise: u8,
    pub(super) fall: u8,
}

/// The `type` of a probe.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum ProbeKind {
    Tcp,
    Http {
        tls: bool,
        path: String,
        host: Option<String>,
        status: Vec<String>,
        body_contains: Option<String>,
        server_name: Option<String>,
    },
}

/// `[[service]]`.
#[derive(Debug, Clone)]
pub(super) struct Service {
    pub(super) name: String,
    pub(super) address: IpAddr,
    pub(super) port: u16,
    pub(super) udp: bool,
    pub(super) min_healthy: u16,
    pub(super) scheduler: &'static str,
    pub(super) affinity: Affinity,
    /// Places in [`File::probes`].
    pub(super) probes: Vec<usize>,
    pub(super) backends: Vec<Backend>,
}

/// `affinity`, with its prefix length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Affinity {
    FiveTuple,
    SourceAddress,
    SourcePrefix(u8),
}

/// `[[service.backend]]`.
#[derive(Debug, Clone)]
pub(super) struct Backend {
    pub(super) name: String,
    pub(super) address: IpAddr,
    pub(super) port: Option<u16>,
    pub(super) weight: u16,
    pub(super) tier: u8,
    pub(super) sorry: bool,
    pub(super) mode: Mode,
}

/// The `mode` of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Auto,
    Local,
    Nat,
    Tunnel { gue: bool },
}
