//! What the control socket speaks: JSON over HTTP/1.1 on a Unix socket.
//!
//! | request | answer | who |
//! |---|---|---|
//! | `GET /v1/status` | [`Status`] | viewer |
//! | `GET /v1/flows` ([`FlowsQuery`]) | [`Flows`] | viewer |
//! | `GET /v1/maps` | [`Maps`] | viewer |
//! | `GET /v1/maps/{name}` ([`DumpQuery`]) | [`MapDump`] | viewer |
//! | `POST /v1/reload` ([`ReloadQuery`]) | [`Reloaded`] | admin |
//! | `POST /v1/failover` ([`FailoverRequest`]) | [`Done`] | admin |
//!
//! A refusal is an HTTP status of 400 or above with a [`Failure`].

mod channel;

use std::{net::IpAddr, ops::Add, time::Duration};

pub use channel::{ChannelPeerStatus, ChannelStatus, PeerConfig, PeerRole, PeerView, RefusedPeers};
use serde::{Deserialize, Serialize};

use crate::{
    config::{Mode, Name, Protocol, Scheduler, XdpMode},
    vrrp::election::Role,
};

/// The whole of a node at one look.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The node's name.
    pub node: Name,
    /// The daemon's version.
    pub version: String,
    /// Seconds since the daemon started.
    pub uptime_s: u64,
    /// The path of the configuration.
    pub config: String,
    /// The interfaces that carry the program.
    pub interfaces: Vec<InterfaceStatus>,
    /// The virtual routers.
    pub virtual_routers: Vec<VirtualRouterStatus>,
    /// What virtual routers track.
    pub tracks: Vec<TrackStatus>,
    /// The services with their backends.
    pub services: Vec<ServiceStatus>,
    /// What the program did with packets, by verdict, zero ones left out.
    pub verdicts: Vec<VerdictCount>,
    /// What the program met by the way, zero ones left out.
    pub events: Vec<EventCount>,
    /// How full the program's tables are.
    pub tables: Vec<TableUse>,
    /// VRRP packets that were not taken for a peer's advert, by cause, zero ones left out.
    pub dropped_adverts: Vec<DroppedAdverts>,
    /// What does not work at the moment and is tried again, in words.
    #[serde(default)]
    pub faults: Vec<String>,
    /// The last notices, newest last.
    pub recent: Vec<RecentNotice>,
    /// The peer channel, where one is configured.
    #[serde(default)]
    pub channel: Option<ChannelStatus>,
}

/// An interface that carries the program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceStatus {
    /// Its name.
    pub name: Name,
    /// Whether it has carrier.
    pub up: bool,
    /// How the program is attached.
    pub xdp_mode: XdpMode,
}

/// A virtual router.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VirtualRouterStatus {
    /// Its name.
    pub name: Name,
    /// Its interface.
    pub interface: Name,
    /// Its VRID.
    pub vrid: u8,
    /// What this node is for it.
    pub role: Role,
    /// Since when, in milliseconds before now.
    pub since_ms: u64,
    /// Why.
    pub cause: String,
    /// The priority it was given.
    pub priority: u8,
    /// The priority it has: with what its tracks add.
    pub effective_priority: u8,
    /// What its tracks add to its priority, each that does.
    pub weightings: Vec<Weighting>,
    /// Its own advert interval in milliseconds.
    pub advert_interval_ms: u64,
    /// The current master's address, if a peer is master.
    pub master: Option<IpAddr>,
    /// The addresses with their prefix lengths.
    pub addresses: Vec<String>,
    /// The peers heard of or configured.
    pub peers: Vec<PeerStatus>,
    /// What is wrong with the set-up, each with what to change.
    pub diagnoses: Vec<String>,
    /// Adverts of other masters heard while this node was master, since the daemon started.
    #[serde(default)]
    pub rival_adverts: u64,
    /// How often another host claimed one of the addresses while this node was master.
    #[serde(default)]
    pub address_claims: u64,
    /// That the program has fenced this host off, as another one has the addresses.
    #[serde(default)]
    pub fenced: Option<FencedStatus>,
}

/// That another host took the addresses over while this one's daemon was dead, and the kernel program
/// leaves them to it. The daemon ends that as soon as it knows who has them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FencedStatus {
    /// Since when, in milliseconds before now.
    pub since_ms: u64,
    /// The other host's MAC.
    pub mac: String,
    /// What made it known: `advert` or `announcement`.
    pub by: String,
}

/// A peer of a virtual router.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Its address.
    pub address: IpAddr,
    /// The priority of its last advert.
    pub priority: Option<u8>,
    /// Milliseconds since its last advert.
    pub last_advert_ms: Option<u64>,
}

/// What a track adds to a priority now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Weighting {
    /// The track.
    pub track: Name,
    /// What it adds.
    pub adds: i16,
}

/// Something that virtual routers track.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrackStatus {
    /// Its name.
    pub name: Name,
    /// What is watched: `interface`, `service`, `script`, `file`, `process`, `gateway`.
    pub kind: String,
    /// Whether virtual routers have a fault while it is bad.
    pub fault: bool,
    /// What it adds to a priority: positive, while it is good; negative, while it is bad.
    pub weight: Option<i16>,
    /// What it adds now.
    pub adds: i16,
    /// Its state.
    pub state: TrackState,
    /// Since when it is good, bad or undecided, in milliseconds before now.
    pub since_ms: u64,
    /// What was seen last.
    pub last: String,
    /// The virtual routers that track it.
    pub virtual_routers: Vec<Name>,
}

/// The state of a track.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TrackState {
    /// It has not answered yet.
    Undecided,
    /// Good.
    Good,
    /// Good, but it was bad when it was looked at last.
    Failing,
    /// Bad.
    Bad,
    /// Bad, but it was good when it was looked at last.
    Rising,
}

/// A service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Its name.
    pub name: Name,
    /// Its virtual address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Its protocol.
    pub protocol: Protocol,
    /// The virtual router.
    pub virtual_router: Name,
    /// How a new flow's backend is chosen.
    pub scheduler: Scheduler,
    /// The tier that takes new flows.
    pub active_tier: Option<u8>,
    /// Whether so few backends are healthy that all are used.
    pub panic: bool,
    /// Packets and bytes since the program was first loaded.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
    /// Its backends.
    pub backends: Vec<BackendStatus>,
}

impl ServiceStatus {
    /// The connections of all its backends; none where none were counted.
    #[must_use]
    pub fn connections(&self) -> Option<Connections> {
        let counted = self
            .backends
            .iter()
            .filter_map(|backend| backend.connections);
        counted.reduce(Add::add)
    }
}

/// A backend.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BackendStatus {
    /// Its name.
    pub name: Name,
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Its weight.
    pub weight: u16,
    /// The percentage of its weight that it has now, while it is in slow start.
    pub slow_start_percent: Option<u8>,
    /// Its tier; of no meaning where it is a sorry backend.
    pub tier: u8,
    /// Whether it takes new flows only where no other backend can.
    pub sorry: bool,
    /// How packets reach it.
    pub mode: Mode,
    /// Its state.
    pub state: BackendState,
    /// Why it is in that state.
    pub reason: String,
    /// Since when, in milliseconds before now.
    pub since_ms: u64,
    /// Whether new flows go to it.
    pub in_use: bool,
    /// How long the last good check took, in microseconds.
    pub latency_us: Option<u64>,
    /// Its connections in the flow table; none where they were not counted.
    pub connections: Option<Connections>,
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Connections in the flow table, by their state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connections {
    /// The handshake is not complete.
    pub new: u64,
    /// It is.
    pub established: u64,
    /// A FIN or RST was seen.
    pub closing: u64,
}

impl Connections {
    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        let Self {
            new,
            established,
            closing,
        } = self;
        new.saturating_add(*established).saturating_add(*closing)
    }
}

impl Add for Connections {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            new: self.new.saturating_add(other.new),
            established: self.established.saturating_add(other.established),
            closing: self.closing.saturating_add(other.closing),
        }
    }
}

/// The health of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackendState {
    /// Not checked yet.
    Unknown,
    /// Passes its checks.
    Up,
    /// Up, but the last checks failed.
    Failing,
    /// Down.
    Down,
    /// Down, but the last checks passed.
    Rising,
    /// Healthy, but its next hop is not resolved.
    Unreachable,
}

/// Packets and bytes of one verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerdictCount {
    /// The verdict's name.
    pub verdict: String,
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// How often the program met something that a packet's verdict does not tell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventCount {
    /// The event's name.
    pub event: String,
    /// How often, since the program was first loaded.
    pub times: u64,
}

/// How full a table is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableUse {
    /// The map's name.
    pub table: String,
    /// Entries in use.
    pub used: u64,
    /// How many there can be; 0: what it is for is not configured.
    pub capacity: u64,
}

/// VRRP packets dropped for one cause.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DroppedAdverts {
    /// Why.
    pub cause: String,
    /// How many since the daemon started.
    pub packets: u64,
}

/// A notice of the past.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecentNotice {
    /// Milliseconds since the Unix epoch.
    pub at_unix_ms: u64,
    /// What happened.
    pub text: String,
}

/// Which flows are asked for: the query string.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlowsQuery {
    /// Only this service's, by its name.
    pub service: Option<String>,
    /// Only this backend's, by its name.
    pub backend: Option<String>,
    /// How many at most, up to [`FlowsQuery::MAX_LIMIT`]; none: [`FlowsQuery::DEFAULT_LIMIT`].
    pub limit: Option<u32>,
}

impl FlowsQuery {
    /// How many flows an answer holds where the request does not say.
    pub const DEFAULT_LIMIT: u32 = 100;
    /// How many flows one answer can hold.
    pub const MAX_LIMIT: u32 = 10_000;

    /// How many flows at most.
    #[must_use]
    pub fn limit(&self) -> u32 {
        self.limit
            .unwrap_or(Self::DEFAULT_LIMIT)
            .min(Self::MAX_LIMIT)
    }
}

/// The flows of the table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flows {
    /// How many the table holds that fit the request.
    pub total: u64,
    /// The first of them, up to the limit.
    pub flows: Vec<Flow>,
}

/// One client connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// The client's address.
    pub client: IpAddr,
    /// The client's port.
    pub client_port: u16,
    /// The service; its number where the daemon no longer knows it.
    pub service: String,
    /// The backend; its number where the daemon no longer knows it.
    pub backend: String,
    /// `new`, `established`, `closing`.
    pub state: String,
    /// Seconds since its last packet.
    pub idle_s: u64,
}

/// The maps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Maps {
    /// Each of them.
    pub maps: Vec<MapInfo>,
}

/// One map.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapInfo {
    /// Its name.
    pub name: String,
    /// Its kernel id.
    pub id: u32,
    /// Its type: `array`, `percpu-array`, `lpm-trie`, `devmap-hash`.
    pub map_type: String,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value.
    pub value_size: u32,
    /// How many entries it can hold.
    pub max_entries: u32,
    /// What it is for.
    pub purpose: String,
}

/// From where a map is dumped: the query string.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DumpQuery {
    /// The first index; of a trie: how many entries to pass over.
    #[serde(default)]
    pub from: u64,
}

/// A part of a map's entries, decoded, empty ones left out. Answers are bounded: a big map is
/// read part by part.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MapDump {
    /// Its name.
    pub name: String,
    /// The entries, by rising index.
    pub entries: Vec<MapEntry>,
    /// The [`DumpQuery::from`] of the next part; none: this was the last one.
    pub next: Option<u64>,
}

impl MapDump {
    /// How many entries one answer can hold.
    pub const MAX_ENTRIES: usize = 4096;
}

/// One entry: its key and its fields by name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MapEntry {
    /// The index.
    pub key: u64,
    /// The fields, in order; in JSON an object.
    #[serde(with = "fields")]
    pub fields: Vec<(String, String)>,
}

/// The order to give addresses away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FailoverRequest {
    /// Which virtual router; none: all of which this node is master.
    pub virtual_router: Option<Name>,
}

/// How to reload: the query string.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReloadQuery {
    /// Only say what would change.
    #[serde(default)]
    pub dry_run: bool,
}

/// What a reload changed, or would change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// One line a change, empty where nothing changed.
    pub changes: Vec<String>,
}

/// It was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// What.
    pub message: String,
}

/// It was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Why, and what to do.
    pub error: String,
}

/// A duration in the unit a person would choose: `450µs`, `12ms`, `3.4s`, `5m 12s`, `2h 3m`, `4d 1h`.
#[must_use]
pub fn human_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 if duration < Duration::from_millis(1) => format!("{}µs", duration.as_micros()),
        0 => format!("{}ms", duration.as_millis()),
        1..=9 => format!("{:.1}s", duration.as_secs_f64()),
        10..=59 => format!("{seconds}s"),
        60..=3599 => format!("{}m {}s", seconds / 60, seconds % 60),
        3600..=86_399 => format!("{}h {}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// Pairs as a JSON object that keeps their order.
mod fields {
    use std::fmt;

    use serde::{
        Deserializer, Serializer,
        de::{MapAccess, Visitor},
    };

    pub(super) fn serialize<S: Serializer>(
        fields: &[(String, String)],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_map(fields.iter().map(|(name, value)| (name, value)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<(String, String)>, D::Error> {
        struct Pairs;

        impl<'de> Visitor<'de> for Pairs {
            type Value = Vec<(String, String)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of texts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(pairs)
            }
        }

        deserializer.deserialize_map(Pairs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_an_object_in_their_order() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let entry = MapEntry {
            key: 7,
            fields: vec![pair("z", "1"), pair("a", "2")],
        };
        let json = serde_json::to_string(&entry).unwrap();
        assert_eq!(json, r#"{"key":7,"fields":{"z":"1","a":"2"}}"#);
        assert_eq!(serde_json::from_str::<MapEntry>(&json).unwrap(), entry);
    }

    #[test]
    fn durations_are_short() {
        let shown = [
            (0, "0µs"),
            (450, "450µs"),
            (12_900, "12ms"),
            (3_400_000, "3.4s"),
            (59_999_999, "59s"),
            (312_000_000, "5m 12s"),
            (7_380_000_000, "2h 3m"),
            (349_200_000_000, "4d 1h"),
        ];
        for (micros, text) in shown {
            assert_eq!(human_duration(Duration::from_micros(micros)), text);
        }
    }
}
