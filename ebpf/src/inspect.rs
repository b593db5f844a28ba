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
        BackendState, Counter, FILTER_WORDS, MAC_MASK, MacOwner, Mode, addr_octets, mac_bytes, maps,
    },
    flow::State,
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
        maps::MACS => mac(word(0)),
        maps::VERDICT_STATS => counter(word, Verdict::ALL.get(key as usize).map(|v| v.name())),
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
    let key = u64::from_ne_bytes(entry.get(16..24)?.try_into().ok()?);
    let value = u64::from_ne_bytes(entry.get(24..32)?.try_into().ok()?);
    flow(IpAddr::from(client), key, value)
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
        ("seen", flow.seen.to_string()),
    ]
}

fn control(word: impl Fn(usize) -> u64) -> Option<Vec<Field>> {
    let table = |word: u64| format!("first slot {}, seed {:#x}", word as u32, word >> 32);
    Some(vec![
        ("services", table(word(0))),
        ("macs", table(word(8))),
        ("flow_seed", format!("{:#x}", word(16))),
        ("heartbeat_ns", word(24).to_string()),
        ("established_idle", word(32).to_string()),
        (
            "filter_bits",
            (0..FILTER_WORDS)
                .map(|n| word(64 + 8 * n).count_ones())
                .sum::<u32>()
                .to_string(),
        ),
    ])
}

fn service(word: impl Fn(usize) -> u64) -> Option<Vec<Field>> {
    let (port_proto, id) = (word(16) as u32, (word(16) >> 32) as u32);
    if port_proto == 0 {
        return None;
    }
    let address = address([word(0), word(8)]);
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
    ])
}

fn backend(word: impl Fn(usize) -> u64) -> Option<Vec<Field>> {
    let state = BackendState::unpack(word(0))?;
    let mode = match state.mode {
        Mode::Local => "local",
        Mode::Dsr => "dsr",
    };
    let address = address([word(24), word(32)]);
    Some(vec![
        ("address", socket(address, u16::from_be(word(40) as u16))),
        ("mode", mode.to_string()),
        ("alive", state.alive.to_string()),
        ("generation", state.generation.to_string()),
        ("mac", mac_text(state.mac)),
        ("source_mac", mac_text(word(8))),
        ("ifindex", (word(16) as u32).to_string()),
        ("service", ((word(16) >> 32) as u32).to_string()),
    ])
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

fn counter(word: impl Fn(usize) -> u64, name: Option<&str>) -> Option<Vec<Field>> {
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
    if let Some(name) = name {
        fields.insert(0, ("verdict", name.to_string()));
    }
    Some(fields)
}

/// An address from its words, IPv4 unmapped.
#[must_use]
pub fn address(words: [u64; 2]) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from(addr_octets(words))).to_canonical()
}

fn socket(address: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(address, port).to_string()
}

fn mac_text(word: u64) -> String {
    let [a, b, c, d, e, f] = mac_bytes(word);
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}
