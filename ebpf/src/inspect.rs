//! Map values in words: what `steerctl maps dump` and the API show.

use std::{
    format,
    net::{IpAddr, Ipv6Addr},
    string::{String, ToString},
    vec,
    vec::Vec,
};

use crate::{
    abi::{
        BackendState, Control, Counter, FILTER_WORDS, Followed, FragmentLifetimes, MAC_MASK,
        MacOwner, NAT_ADDRESSES, NAT_PORT_SETS, NatPool, NatTimeouts, Policy, Rival, Role, Service,
        Watch, addr_octets, mac_bytes, maps,
    },
    event::Event,
    flow::{self, Idle, State},
    verdict::Verdict,
};

/// One field of an entry: its name and its value in words.
pub type Field = (&'static str, String);

/// Decodes the entries of one element of the map called `map`: empty for a free element, several
/// for a set of flows. `value` is the element's bytes; of a per-CPU map, the sum over CPUs.
#[must_use]
pub fn decode(map: &str, key: u32, value: &[u8]) -> Vec<Vec<Field>> {
    let word = |at: usize| -> u64 {
        value
            .get(at..at + 8)
            .and_then(|b| b.try_into().ok())
            .map_or(0, u64::from_ne_bytes)
    };
    let fields = match map {
        maps::CONTROL => control(word),
        maps::SERVICES => service(word),
        maps::BACKENDS => backend(word),
        maps::RINGS => ring(value),
        maps::LOADS => load(word),
        maps::MACS => mac(word(0)),
        maps::NAT_HOPS => hop(word),
        maps::NAT_MOVED => moved(word),
        maps::FENCES => fence(word),
        maps::SYN_LIMITS => limit(word),
        maps::SOURCES => Some(vec![("rule", source_rule(value).to_string())]),
        maps::DEVICES => Some(vec![("ifindex", (word(0) as u32).to_string())]),
        maps::EVENT_STATS => counter(
            word,
            Event::ALL.get(key as usize).map(|e| ("event", e.name())),
        ),
        maps::VERDICT_STATS => {
            let verdict = Verdict::ALL.get(key as usize);
            counter(word, verdict.map(|v| ("verdict", v.name())))
        }
        maps::SERVICE_STATS | maps::BACKEND_STATS => counter(word, None),
        maps::FLOWS4 => {
            return value
                .chunks_exact(16)
                .filter_map(flow4)
                .map(flow_fields)
                .collect();
        }
        maps::FLOWS6 => {
            return value
                .chunks_exact(32)
                .filter_map(flow6)
                .map(flow_fields)
                .collect();
        }
        maps::NAT => {
            return value
                .chunks_exact(32)
                .zip(0..)
                .filter_map(|(entry, way)| Some((flow6(entry)?, way)))
                .map(|(flow, way)| translated_fields(flow, key, way))
                .collect();
        }
        maps::FRAGMENTS => return value.chunks_exact(64).filter_map(fragment).collect(),
        _ => None,
    };
    fields.into_iter().collect()
}

/// A flow of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// The client's address.
    pub client: IpAddr,
    /// The client's port.
    pub client_port: u16,
    /// The service's id.
    pub service: u16,
    /// The backend's id.
    pub backend: u16,
    /// The generation of that id.
    pub generation: u8,
    /// How far it is.
    pub state: State,
    /// Whether it is a TCP connection that has lasted.
    pub confirmed: bool,
    /// The clock at its last packet, see [`crate::flow::seen`].
    pub seen: u32,
}

/// The flow in an entry of [`maps::FLOWS4`], if there is one.
#[must_use]
pub fn flow4(entry: &[u8]) -> Option<Flow> {
    let key = u64::from_ne_bytes(entry.get(..8)?.try_into().ok()?);
    let value = u64::from_ne_bytes(entry.get(8..16)?.try_into().ok()?);
    let client = IpAddr::from(((key >> 32) as u32).to_ne_bytes());
    flow(client, key, value)
}

/// The flow in an entry of [`maps::FLOWS6`], if there is one.
#[must_use]
pub fn flow6(entry: &[u8]) -> Option<Flow> {
    let client: [u8; 16] = entry.get(..16)?.try_into().ok()?;
    let client = IpAddr::from(client).to_canonical();
    let key = u64::from_ne_bytes(entry.get(16..24)?.try_into().ok()?);
    let value = u64::from_ne_bytes(entry.get(24..32)?.try_into().ok()?);
    flow(client, key, value)
}

fn flow(client: IpAddr, key: u64, value: u64) -> Option<Flow> {
    let state = State::from_word(value)?;
    Some(Flow {
        client,
        client_port: u16::from_be((key >> 16) as u16),
        service: key as u16,
        backend: (value >> 48) as u16,
        generation: (value >> 40) as u8,
        state,
        confirmed: flow::is_confirmed(value),
        seen: value as u32 & 0xf_ffff,
    })
}

/// The state's name.
#[must_use]
pub const fn state_name(state: State) -> &'static str {
    match state {
        State::New => "new",
        State::Established => "established",
        State::Closing => "closing",
    }
}

fn flow_fields(flow: Flow) -> Vec<Field> {
    vec![
        ("client", socket(flow.client, flow.client_port)),
        ("service", flow.service.to_string()),
        ("backend", flow.backend.to_string()),
        ("generation", flow.generation.to_string()),
        ("state", state_name(flow.state).to_string()),
        ("confirmed", flow.confirmed.to_string()),
        ("seen", flow.seen.to_string()),
    ]
}

/// A translated flow: its place in the table is the source that its backend sees.
fn translated_fields(flow: Flow, set: u32, way: u32) -> Vec<Field> {
    let mut fields = flow_fields(flow);
    let number = set / NAT_PORT_SETS;
    let port = set % NAT_PORT_SETS * 4 + way;
    fields.insert(0, ("translation", format!("address {number} port {port}")));
    fields
}

fn moved(word: impl Fn(usize) -> u64) -> Option<Vec<Field>> {
    let words = (0..8).map(|n| word(8 * n)).filter(|&word| word != 0);
    let places: Vec<String> = words
        .map(|word| (word as u32).wrapping_sub(1).to_string())
        .collect();
    (!places.is_empty()).then(|| vec![("places", places.join(" "))])
}

fn control(word: impl Fn(usize) -> u64) -> Option<Vec<Field>> {
    let table = |word: u64| format!("first slot {}, seed {:#x}", word as u32, word >> 32);
    let pool = NatPool::unpack(word(56));
    let timeouts = NatTimeouts::unpack([word(40), word(48)]);
    let at = |place: usize| word(8 * place);
    let nat_addresses: Vec<String> = (0..NAT_ADDRESSES)
        .map(|n| Control::NAT_ADDRESSES + 2 * n)
        .map(|place| [at(place), at(place + 1)])
        .filter(|words| *words != [0, 0])
        .map(|words| address(words).to_string())
        .collect();
    let flow_idle: Vec<String> = (0..Idle::WORDS)
        .map(|class| at(Control::FLOW_IDLE + class).to_string())
        .collect();
    Some(vec![
        ("services", table(word(0))),
        ("macs", table(word(8))),
        ("flow_seed", format!("{:#x}", word(16))),
        ("heartbeat_ns", word(24).to_string()),
        ("confirm", at(Control::CONFIRM).to_string()),
        (
            "fragment_lifetimes",
            format!(
                "{:?}",
                FragmentLifetimes::unpack(at(Control::FRAGMENT_LIFETIMES))
            ),
        ),
        ("flow_idle", flow_idle.join(" ")),
        ("nat_timeouts", format!("{timeouts:?}")),
        ("nat_pool", format!("{pool:?}")),
        ("nat_addresses", nat_addresses.join(" ")),
        (
            "tunnel4",
            format!(
                "{} mask {}",
                ipv4(word(64) as u32),
                ipv4((word(64) >> 32) as u32)
            ),
        ),
        (
            "tunnel6",
            format!(
                "{} mask {}",
                address([word(72), word(80)]),
                address([word(88), word(96)])
            ),
        ),
        ("gue_port", u16::from_be(word(104) as u16).to_string()),
        (
            "filter_bits",
            (0..FILTER_WORDS)
                .map(|n| at(Control::FILTER + n).count_ones())
                .sum::<u32>()
                .to_string(),
        ),
    ])
}

fn service(word: impl Fn(usize) -> u64) -> Option<Vec<Field>> {
    let (port_proto, id) = (word(16) as u32, (word(16) >> 32) as u32);
    let address = address([word(0), word(8)]);
    if port_proto == Service::ADDRESS {
        return Some(vec![
            ("address", address.to_string()),
            ("role", role(Role(id))),
        ]);
    }
    if port_proto == 0 {
        return None;
    }
    let protocol = match (port_proto >> 16) as u8 {
        6 => "tcp".to_string(),
        17 => "udp".to_string(),
        other => other.to_string(),
    };
    Some(vec![
        ("id", id.to_string()),
        ("address", socket(address, u16::from_be(port_proto as u16))),
        ("protocol", protocol),
        ("ring_line", (word(24) >> 32).to_string()),
        ("ring_slots", (word(24) as u32).to_string()),
        ("salt", format!("{:#018x}", word(32))),
        ("policy", format!("{:?}", Policy(word(40)))),
        ("quic_line", (word(48) >> 32).to_string()),
        ("quic_slots", (word(48) as u32).to_string()),
    ])
}

fn role(role: Role) -> String {
    let mut words = Vec::new();
    if role.is_virtual() {
        words.push("virtual".to_string());
    }
    if role.is_endpoint() {
        words.push("endpoint".to_string());
    }
    if let Some(number) = role.nat() {
        words.push(format!("nat {number}"));
    }
    if let Some(number) = role.router() {
        words.push(format!("router {number}"));
    }
    words.join(", ")
}

fn backend(word: impl Fn(usize) -> u64) -> Option<Vec<Field>> {
    let state = BackendState::unpack(word(0))?;
    let at = address([word(24), word(32)]);
    let service = address([word(48), word(56)]);
    Some(vec![
        ("address", socket(at, u16::from_be(word(40) as u16))),
        ("mode", state.mode.name().to_string()),
        ("alive", state.alive.to_string()),
        ("generation", state.generation.to_string()),
        ("mac", mac_text(state.mac)),
        ("source_mac", mac_text(word(8))),
        ("vlan", u16::from_be((word(8) >> 48) as u16).to_string()),
        ("ifindex", (word(16) as u32).to_string()),
        ("mtu", ((word(40) >> 16) as u16).to_string()),
        ("service", ((word(16) >> 32) as u32).to_string()),
        (
            "service_address",
            socket(service, u16::from_be((word(40) >> 32) as u16)),
        ),
    ])
}

fn load(word: impl Fn(usize) -> u64) -> Option<Vec<Field>> {
    (word(8) != 0).then(|| {
        vec![
            ("connections", word(0).cast_signed().to_string()),
            ("weight", word(8).to_string()),
        ]
    })
}

fn hop(word: impl Fn(usize) -> u64) -> Option<Vec<Field>> {
    (word(16) != 0).then(|| {
        vec![
            ("client_mac", mac_text(word(0))),
            ("own_mac", mac_text(word(8))),
            ("ifindex", word(16).to_string()),
            ("vlans", vlans(word(24))),
        ]
    })
}

/// The ids of tags as they stand in a frame, the outer one first.
fn vlans(tags: u64) -> String {
    let tags = tags.to_le_bytes();
    let ids = tags.chunks_exact(4).filter(|tag| tag[0] != 0);
    let ids = ids.map(|tag| (u16::from_be_bytes([tag[2], tag[3]]) & 0xfff).to_string());
    ids.collect::<Vec<_>>().join(" ")
}

fn fence(word: impl Fn(usize) -> u64) -> Option<Vec<Field>> {
    let watch = Watch::unpack(word(0))?;
    let family = if watch.ipv6 { "ipv6" } else { "ipv4" };
    let mut fields = vec![
        ("vrid", watch.vrid.to_string()),
        ("family", family.to_string()),
        ("ifindex", watch.ifindex.to_string()),
        ("held", watch.held.to_string()),
        ("min_ttl", watch.min_ttl.to_string()),
        ("patience_ns", word(8).to_string()),
        ("fenced", (word(16) != 0).to_string()),
    ];
    if let (Some(rival), true) = (Rival::unpack(word(24)), word(16) != 0) {
        fields.push(("since_ns", word(16).to_string()));
        fields.push(("rival", mac_text(rival.mac)));
        fields.push(("by", rival.claim.name().to_string()));
    }
    Some(fields)
}

fn limit(word: impl Fn(usize) -> u64) -> Option<Vec<Field>> {
    let fixed = |word: u64| format!("{:.3}", word as f64 / 65_536.0);
    (word(8) != 0).then(|| {
        vec![
            ("per_jiffy", fixed(word(0))),
            ("burst", fixed(word(8))),
            ("tokens", fixed(word(16))),
        ]
    })
}

/// An entry of [`maps::SOURCES`]: the length of its key, the rest of the key (service id and
/// address), and its value.
#[must_use]
pub fn source(length: u32, key: &[u8; 20], rule: u32) -> Vec<Field> {
    let (id, octets) = key.split_at(4);
    let id = id.try_into().map_or(0, u32::from_ne_bytes);
    let octets: [u8; 16] = octets.try_into().unwrap_or_default();
    let bits = length.saturating_sub(32);
    let network = match Ipv6Addr::from(octets).to_ipv4_mapped() {
        _ if bits == 0 => "any".to_string(),
        Some(ipv4) if bits >= 96 => format!("{ipv4}/{}", bits - 96),
        _ => format!("{}/{bits}", Ipv6Addr::from(octets)),
    };
    vec![
        ("service", id.to_string()),
        ("network", network),
        ("rule", source_rule(&rule.to_ne_bytes()).to_string()),
    ]
}

fn source_rule(value: &[u8]) -> &'static str {
    match value {
        [1, 0, 0, 0] => "allow",
        [2, 0, 0, 0] => "deny",
        _ => "unknown",
    }
}

fn fragment(entry: &[u8]) -> Option<Vec<Field>> {
    let word = |at: usize| -> u64 {
        entry
            .get(8 * at..8 * at + 8)
            .and_then(|b| b.try_into().ok())
            .map_or(0, u64::from_ne_bytes)
    };
    let followed = Followed::unpack(word(5));
    (word(5) != 0).then(|| {
        vec![
            ("source", address([word(0), word(1)]).to_string()),
            ("destination", address([word(2), word(3)]).to_string()),
            (
                "identification",
                ((word(4) >> 8) as u32).swap_bytes().to_string(),
            ),
            ("protocol", (word(4) as u8).to_string()),
            ("verdict", followed.verdict.name().to_string()),
            ("service", followed.service.to_string()),
            ("backend", followed.backend.to_string()),
            ("generation", followed.generation.to_string()),
            ("seen", followed.seen.to_string()),
        ]
    })
}

fn ring(value: &[u8]) -> Option<Vec<Field>> {
    let ids: Vec<u16> = value
        .chunks_exact(2)
        .map(|b| u16::from_ne_bytes([b[0], b[1]]))
        .collect();
    if ids.iter().all(|&id| id == 0) {
        return None;
    }
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    Some(vec![("backends", ids.join(" "))])
}

fn mac(word: u64) -> Option<Vec<Field>> {
    let owner = match word >> 48 {
        owner if owner == MacOwner::Own as u64 => "this host",
        owner if owner == MacOwner::Forwarder as u64 => "peer",
        _ => return None,
    };
    Some(vec![
        ("mac", mac_text(word & MAC_MASK)),
        ("owner", owner.to_string()),
    ])
}

fn counter(word: impl Fn(usize) -> u64, name: Option<(&'static str, &str)>) -> Option<Vec<Field>> {
    let Counter { packets, bytes } = Counter {
        packets: word(0),
        bytes: word(8),
    };
    if packets == 0 {
        return None;
    }
    let mut fields = vec![
        ("packets", packets.to_string()),
        ("bytes", bytes.to_string()),
    ];
    if let Some((kind, name)) = name {
        fields.insert(0, (kind, name.to_string()));
    }
    Some(fields)
}

/// An address from its words, IPv4 unmapped.
#[must_use]
pub fn address(words: [u64; 2]) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from(addr_octets(words))).to_canonical()
}

fn ipv4(word: u32) -> IpAddr {
    IpAddr::from(word.to_ne_bytes())
}

fn socket(address: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(address, port).to_string()
}

fn mac_text(word: u64) -> String {
    let [a, b, c, d, e, f] = mac_bytes(word);
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_shown_as_they_are_written() {
        let shown = |length, octets: [u8; 16], rule| {
            let mut key = [0; 20];
            key[..4].copy_from_slice(&7_u32.to_ne_bytes());
            key[4..].copy_from_slice(&octets);
            let fields = source(length, &key, rule).into_iter();
            fields.map(|(_, value)| value).collect::<Vec<_>>().join(" ")
        };
        let four = std::net::Ipv4Addr::new(10, 1, 0, 0).to_ipv6_mapped();
        assert_eq!(shown(32 + 96 + 16, four.octets(), 2), "7 10.1.0.0/16 deny");
        let none = std::net::Ipv4Addr::UNSPECIFIED.to_ipv6_mapped();
        assert_eq!(shown(32 + 96, none.octets(), 1), "7 0.0.0.0/0 allow");
        let six: Ipv6Addr = "fd00:1::".parse().unwrap();
        assert_eq!(shown(32 + 32, six.octets(), 1), "7 fd00:1::/32 allow");
        assert_eq!(shown(32, [0; 16], 2), "7 any deny");
    }
}
