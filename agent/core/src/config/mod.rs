//! The configuration: TOML text -> `raw` types with spans -> `validate` -> the valid types below.
//!
//! A value of these types has been checked: names are unique, references resolve, addresses and
//! families fit, durations are in range. Parsing reports every mistake at once, each with file,
//! line and column ([`ConfigErrors`]), and changes nothing.

mod channel;
mod error;
mod flow;
pub mod limits;
mod mode;
mod policy;
mod raw;
mod reader;
mod scalar;
mod schema;
#[cfg(test)]
mod tests;
mod track;
mod validate;
mod wire;
mod words;

use std::{fmt, net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

pub use channel::{CHANNEL_PORT, Channel, ChannelPeer};
pub use error::{ConfigErrors, Mistake};
pub use flow::FlowTimeouts;
use ipnet::IpNet;
pub use mode::{Encapsulation, Mode, Nat, NatTimeouts, PortRange, Tunnel};
pub use policy::{Affinity, Policy, Scheduler, Sources, SynRate};
use serde::{Deserialize, Serialize};
pub use track::{FileCheck, Pace, Script, Track, TrackKind};
pub use wire::{Authentication, Checksum, Password, Version, Wire};

use crate::time::Instant;

/// The name of a node, virtual router, service, backend, probe or interface.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Name(Arc<str>);

impl Name {
    /// A name as given; the configuration checks its shape before it makes one.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A whole configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// This node.
    pub node: Node,
    /// The control socket.
    pub control: Control,
    /// The log.
    pub log: Log,
    /// The kernel program and where it runs.
    pub dataplane: Dataplane,
    /// How long flows count that nothing is heard of.
    pub flows: FlowTimeouts,
    /// The outer packets of mode `tunnel`.
    pub tunnel: Tunnel,
    /// The translations of mode `nat`.
    pub nat: Nat,
    /// The virtual routers, in the order of the file.
    pub virtual_routers: Vec<VirtualRouter>,
    /// The services, in the order of the file.
    pub services: Vec<Service>,
    /// What virtual routers track, in the order of the file.
    pub tracks: Vec<Track>,
    /// The peer channel; none: this node has none.
    pub channel: Option<Channel>,
    /// The virtual routers that are master together, in the order of the file.
    pub sync_groups: Vec<SyncGroup>,
}

impl Config {
    /// Parses `text`, which came from `path` (used in messages only). `hostname` names the node
    /// where the file does not.
    ///
    /// # Errors
    ///
    /// Every mistake in the text, with its place.
    pub fn parse(path: &str, text: &str, hostname: &str) -> Result<Self, ConfigErrors> {
        let (raw, mut mistakes) = raw::parse(text);
        let config = raw.and_then(|raw| validate::validate(raw, hostname, &mut mistakes));
        match config {
            Some(config) if mistakes.is_empty() => Ok(config),
            _ => Err(ConfigErrors::new(path, text, mistakes)),
        }
    }

    /// The service called `name`.
    #[must_use]
    pub fn service(&self, name: &Name) -> Option<&Service> {
        self.services.iter().find(|service| service.name == *name)
    }

    /// The names of the virtual routers that are elected together: one list for each sync group, and
    /// one for each virtual router that is in none.
    #[must_use]
    pub fn elections(&self) -> Vec<Vec<Name>> {
        let groups = self.sync_groups.iter();
        let mut lists: Vec<Vec<Name>> = groups.map(|group| group.virtual_routers.clone()).collect();
        let alone = |name: &&Name| !lists.iter().flatten().any(|member| member == *name);
        let names = self.virtual_routers.iter().map(|router| &router.name);
        let alone: Vec<Name> = names.filter(alone).cloned().collect();
        lists.extend(alone.into_iter().map(|name| vec![name]));
        lists
    }

    /// The virtual router called `name`.
    #[must_use]
    pub fn virtual_router(&self, name: &Name) -> Option<&VirtualRouter> {
        self.virtual_routers
            .iter()
            .find(|router| router.name == *name)
    }
}

/// This node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name in logs and status.
    pub name: Name,
    /// Where state that should outlive the daemon but not the boot is kept.
    pub state_dir: PathBuf,
}

/// The control socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Control {
    /// The path of the Unix socket.
    pub socket: PathBuf,
    /// The group whose members may read status. Root always may.
    pub viewer_group: Option<String>,
    /// The group whose members may change things too. Root always may.
    pub admin_group: Option<String>,
}

/// The log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// The filter, in tracing's directive syntax (`info`, `steerd=debug`).
    pub level: String,
    /// The form of a line.
    pub format: LogFormat,
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The kernel program and where it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dataplane {
    /// The interfaces that get the XDP program, without duplicates, at least one.
    pub interfaces: Vec<Name>,
    /// How it is attached.
    pub xdp_mode: XdpMode,
    /// The bpffs directory of links and maps.
    pub bpf_dir: PathBuf,
}

/// How the XDP program is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum XdpMode {
    /// In the driver where it can, else generic.
    Auto,
    /// In the driver or not at all.
    Driver,
    /// In the stack: works everywhere, costs an order of magnitude more.
    Generic,
}

/// The addresses that move together, and how their master is elected (RFC 9568).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtualRouter {
    /// Its name.
    pub name: Name,
    /// The interface that carries its addresses and adverts.
    pub interface: Name,
    /// VRID, 1 to 255, unique for an interface and family.
    pub vrid: u8,
    /// 1 to 254; 255: it owns the addresses, and takes them whenever it can serve.
    pub priority: u8,
    /// The time between adverts: a multiple of 10 ms, 10 ms to 40.95 s; of 1 s in VRRPv2.
    pub advert_interval: Duration,
    /// Whether a higher priority takes the addresses from a working master.
    pub preempt: bool,
    /// The addresses, all of one family, at least one, with the prefix they are configured with.
    pub addresses: Vec<IpNet>,
    /// Unicast peers; empty: multicast.
    pub peers: Vec<IpAddr>,
    /// The source address of adverts; none: the interface's first fitting one.
    pub source: Option<IpAddr>,
    /// How an acquired address is announced.
    pub announce: Announce,
    /// How it speaks on the wire.
    pub wire: Wire,
    /// What changes its priority or is a fault of it: tracks of the configuration, none twice.
    pub track: Vec<Name>,
    /// How long a master of lower priority is left alone when this node starts or recovers.
    pub preempt_delay: Duration,
    /// How long the daemon of a master must have been silent for its kernel program to leave the
    /// addresses to another host that has taken them over; zero: it never does.
    pub fence_after: Duration,
}

impl VirtualRouter {
    /// Whether its addresses are IPv6.
    #[must_use]
    pub fn is_ipv6(&self) -> bool {
        self.addresses
            .first()
            .is_some_and(|net| net.addr().is_ipv6())
    }
}

/// How an acquired address is announced: gratuitous ARP or unsolicited NA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announce {
    /// How often at once, 1 to 100.
    pub count: u8,
    /// The time between those.
    pub interval: Duration,
    /// How long after the last one a second round follows; zero: never.
    pub repeat_after: Duration,
    /// The time between the announcements that go on while this node is master; zero: none.
    pub refresh: Duration,
}

impl Announce {
    /// When the next of those that go on is due, if the last was at `now`.
    #[must_use]
    pub fn next_refresh(&self, now: Instant) -> Option<Instant> {
        (!self.refresh.is_zero()).then(|| now + self.refresh)
    }
}

/// Virtual routers that are master together or not at all. They have the same priority, interval,
/// announcements and rules of preemption.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncGroup {
    /// Its name.
    pub name: Name,
    /// Its virtual routers, at least two, each in this group alone.
    pub virtual_routers: Vec<Name>,
}

/// The transport protocol of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// A service: what clients reach at a virtual address.
#[derive(Debug, Clone, PartialEq)]
pub struct Service {
    /// Its name.
    pub name: Name,
    /// The virtual router that holds its address.
    pub virtual_router: Name,
    /// The virtual address.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
    /// The protocol.
    pub protocol: Protocol,
    /// A tier takes traffic when it has at least this many healthy backends, 1 or more.
    pub min_healthy: u16,
    /// The size of the Maglev table: a prime, at least 100 times the number of backends advised.
    pub ring_size: u32,
    /// How its flows are spread and limited.
    pub policy: Policy,
    /// How long a backend that joins others takes to get its whole share; zero: none.
    pub slow_start: Duration,
    /// Below this percentage of healthy backends, health is not believed: all are used. 0: never.
    pub panic_threshold: u8,
    /// What each backend is probed with; all must pass. Empty: backends count as healthy.
    pub probes: Vec<Probe>,
    /// The backends, at least one.
    pub backends: Vec<Backend>,
}

/// A server behind a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    /// Its name, unique within the service.
    pub name: Name,
    /// Its own address, of the service's family except with [`Mode::Tunnel`].
    pub address: IpAddr,
    /// The port it is probed on; the service's except with [`Mode::Nat`], which delivers to it.
    pub port: u16,
    /// Its share of new flows among its tier, 0 (no new flows) to 256.
    pub weight: u16,
    /// Its tier; the lowest with enough healthy backends takes the traffic.
    pub tier: u8,
    /// How packets reach it.
    pub mode: Mode,
    /// What packets are wrapped in, for [`Mode::Tunnel`].
    pub encapsulation: Encapsulation,
    /// The largest packet that the way to it carries, for [`Mode::Tunnel`]; none: what the kernel
    /// knows of it.
    pub mtu: Option<u16>,
    /// Whether it takes new flows only where no other backend of the service can. Its tier means
    /// nothing then.
    pub sorry: bool,
    /// What names it in QUIC connection ids: unique in the service, there for all of its backends
    /// or none ([`Policy::quic`]).
    pub quic_server_id: Option<u16>,
}

/// A check of a backend's health.
#[derive(Debug, Clone, PartialEq)]
pub struct Probe {
    /// Its name.
    pub name: Name,
    /// What is asked and what must be answered.
    pub kind: ProbeKind,
    /// The port, where it is not the backend's.
    pub port: Option<u16>,
    /// The time from the start of one check to the start of the next.
    pub interval: Duration,
    /// The same while a failure or other evidence makes the backend suspect.
    pub fast_interval: Duration,
    /// How long an answer may take; not above `interval`.
    pub timeout: Duration,
    /// Successes in a row that bring a backend up, 1 or more.
    pub rise: u8,
    /// Failures in a row that bring it down, 1 or more.
    pub fall: u8,
    /// Each interval is shortened by a random part of up to this share of it, 0.0 to 0.5.
    pub jitter: f64,
}

/// What a probe asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbeKind {
    /// A connection is accepted.
    Tcp,
    /// A request is answered with an expected status.
    Http(HttpProbe),
    /// A WebSocket handshake succeeds and a ping is answered by a pong.
    WebSocket(WebSocketProbe),
}

/// An HTTP or HTTPS check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpProbe {
    /// With TLS.
    pub tls: Option<TlsCheck>,
    /// `GET`, `HEAD`, ...
    pub method: String,
    /// The path, beginning with a slash.
    pub path: String,
    /// The Host header; none: address and port.
    pub host: Option<String>,
    /// The statuses that count as success, as inclusive ranges.
    pub status: Vec<(u16, u16)>,
    /// What the body must contain, within its first 64 KiB.
    pub body_contains: Option<String>,
}

/// A WebSocket check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebSocketProbe {
    /// With TLS (`wss`).
    pub tls: Option<TlsCheck>,
    /// The path, beginning with a slash.
    pub path: String,
    /// The Host header; none: address and port.
    pub host: Option<String>,
}

/// How a server's certificate is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsCheck {
    /// The name in SNI and in the certificate; none: the backend's address.
    pub server_name: Option<String>,
    /// False: any certificate will do.
    pub verify: bool,
    /// A PEM file of trusted roots; none: the system's.
    pub ca_file: Option<PathBuf>,
}
