//! What people see of the maps: counters, flows, dumps.
//!
//! Flows and dumps can be millions: a [`View`] holds the maps and the names, so that another thread
//! can look while the driver goes on.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use aya::{
    Pod,
    maps::{DevMapHash, LpmTrie, Map, MapData, MapError, PerCpuArray, lpm_trie::Key},
};
use steerd_core::{
    api::{
        EventCount, Flow, Flows, FlowsQuery, MapDump, MapEntry, MapInfo, Maps as MapList,
        VerdictCount,
    },
    config::Name,
};
use steerd_ebpf::{
    abi::{Counter, maps},
    clock::Clock,
    event::Event,
    inspect,
    parse::protocol,
    verdict::Verdict,
};

use super::{Dataplane, LastCount, Mapped, Maps, Steered};

/// A [`Counter`] as aya reads it.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Counts(Counter);

// SAFETY: two words without padding; any bits are valid.
unsafe impl Pod for Counts {}

impl Dataplane {
    /// What was done with packets, by verdict, zero ones left out.
    pub(crate) fn verdicts(&self) -> Vec<VerdictCount> {
        let counts = |verdict: Verdict| sum(&self.maps.verdict_stats, verdict as u32);
        Verdict::ALL
            .into_iter()
            .map(|verdict| (verdict, counts(verdict)))
            .filter(|(_, counter)| counter.packets != 0)
            .map(|(verdict, Counter { packets, bytes })| VerdictCount {
                verdict: verdict.name().to_owned(),
                packets,
                bytes,
            })
            .collect()
    }

    /// What the program met by the way, by event, zero ones left out.
    pub(crate) fn events(&self) -> Vec<EventCount> {
        Event::ALL
            .into_iter()
            .map(|event| EventCount {
                event: event.name().to_owned(),
                times: sum(&self.maps.event_stats, event as u32).packets,
            })
            .filter(|count| count.times != 0)
            .collect()
    }

    /// Packets and bytes of a service.
    pub(crate) fn service_counter(&self, service: &Name) -> Counter {
        match self.steered.get(service) {
            Some(steered) => sum(&self.maps.service_stats, steered.id),
            None => Counter::default(),
        }
    }

    /// Packets and bytes of a backend.
    pub(crate) fn backend_counter(&self, service: &Name, backend: &Name) -> Counter {
        let number = self
            .steered
            .get(service)
            .and_then(|steered| steered.backends.iter().find(|(_, name)| name == backend));
        match number {
            Some(&(number, _)) => sum(&self.maps.backend_stats, number),
            None => Counter::default(),
        }
    }

    /// The maps and the names as they are now.
    pub(crate) fn view(&self) -> View {
        let named = |(name, steered): (&Name, &Steered)| {
            let service = Service {
                name: name.clone(),
                is_udp: (steered.key.1 >> 16) as u8 == protocol::UDP,
            };
            (steered.id, service)
        };
        let backends = self.steered.iter().flat_map(|(service, steered)| {
            let backends = steered.backends.iter();
            backends.map(move |(number, name)| (*number, (service.clone(), name.clone())))
        });
        let counted = self.steered.values().filter(|steered| steered.counts());
        View {
            maps: Arc::clone(&self.maps),
            pins: self.config.bpf_dir.join(steerd_ebpf::abi::PIN_DIR),
            services: self.steered.iter().map(named).collect(),
            backends: backends.collect(),
            last_count: Arc::clone(&self.last_count),
            weighed: counted
                .flat_map(|steered| steered.backends.iter().map(|(number, _)| *number))
                .collect(),
        }
    }
}

/// The maps and the names of what they hold.
pub(crate) struct View {
    pub(super) maps: Arc<Maps>,
    pins: PathBuf,
    /// By id.
    pub(super) services: BTreeMap<u32, Service>,
    /// Service and backend, by number.
    pub(super) backends: BTreeMap<u32, (Name, Name)>,
    /// The backends whose connections the program counts, by number.
    pub(super) weighed: Vec<u32>,
    pub(super) last_count: Arc<LastCount>,
}

/// A service to look at.
pub(super) struct Service {
    name: Name,
    pub(super) is_udp: bool,
}

impl View {
    /// The flows that fit a query; it is refused in words where it names what is not there.
    pub(crate) fn flows(&self, query: &FlowsQuery) -> Result<Flows, String> {
        self.check(query)?;
        let named =
            |name: Option<&Name>, id: u16| name.map_or_else(|| id.to_string(), ToString::to_string);
        let fits = |wanted: &Option<String>, name: &str| {
            wanted.as_deref().is_none_or(|wanted| wanted == name)
        };
        let limit = query.limit() as usize;
        let clock = read_clock();
        let mut found = Flows {
            total: 0,
            flows: Vec::new(),
        };
        let four = entries(&self.maps.flows4, 2).filter_map(|entry| inspect::flow4(&entry));
        let six = entries(&self.maps.flows6, 4).filter_map(|entry| inspect::flow6(&entry));
        for flow in four.chain(six) {
            let service = self.services.get(&flow.service.into());
            let service = named(service.map(|service| &service.name), flow.service);
            let backend = self.backends.get(&flow.backend.into());
            let backend = named(backend.map(|(_, backend)| backend), flow.backend);
            if !fits(&query.service, &service) || !fits(&query.backend, &backend) {
                continue;
            }
            found.total += 1;
            if found.flows.len() < limit {
                found.flows.push(Flow {
                    client: flow.client,
                    client_port: flow.client_port,
                    service,
                    backend,
                    state: inspect::state_name(flow.state).to_owned(),
                    idle_s: clock.since(flow.seen).as_secs(),
                });
            }
        }
        Ok(found)
    }

    fn check(&self, query: &FlowsQuery) -> Result<(), String> {
        // A number is what is shown where no name is known.
        let is_number = |wanted: &str| wanted.parse::<u16>().is_ok();
        let mut services = self.services.values().map(|service| &service.name);
        let mut backends = self.backends.values().map(|(_, backend)| backend);
        match (query.service.as_deref(), query.backend.as_deref()) {
            (Some(service), _)
                if !services.any(|name| name.as_str() == service) && !is_number(service) =>
            {
                Err(format!(
                    "no service {service}: `steerctl services` lists them"
                ))
            }
            (_, Some(backend))
                if !backends.any(|name| name.as_str() == backend) && !is_number(backend) =>
            {
                Err(format!(
                    "no backend {backend}: `steerctl backends` lists them"
                ))
            }
            _ => Ok(()),
        }
    }

    /// The maps.
    pub(crate) fn map_list(&self) -> MapList {
        let infos = maps::ALL.into_iter().filter_map(|shape| {
            let path = self.pins.join(shape.name);
            let info = aya::maps::MapInfo::from_pin(path).ok()?;
            Some(MapInfo {
                name: shape.name.to_owned(),
                id: info.id(),
                map_type: shape.kind.name().to_owned(),
                key_size: info.key_size(),
                value_size: info.value_size(),
                max_entries: info.max_entries(),
                purpose: shape.purpose.to_owned(),
            })
        });
        MapList {
            maps: infos.collect(),
        }
    }

    /// The entries of a map that are in use, decoded, from an index on; refused in words where
    /// there is no such map. Where entries have no index, it is their place in the kernel's order.
    pub(crate) fn map_dump(&self, name: &str, from: u64) -> Result<MapDump, String> {
        let source = match name {
            maps::CONTROL => Source::Mapped(&self.maps.control),
            maps::SERVICES => Source::Mapped(&self.maps.services),
            maps::BACKENDS => Source::Mapped(&self.maps.backends),
            maps::LOADS => Source::Mapped(&self.maps.loads),
            maps::RINGS => Source::Mapped(&self.maps.rings),
            maps::FLOWS4 => Source::Mapped(&self.maps.flows4),
            maps::FLOWS6 => Source::Mapped(&self.maps.flows6),
            maps::NAT => Source::Mapped(&self.maps.nat),
            maps::NAT_HOPS => Source::Mapped(&self.maps.nat_hops),
            maps::NAT_MOVED => Source::Mapped(&self.maps.nat_moved),
            maps::FRAGMENTS => Source::Mapped(&self.maps.fragments),
            maps::SYN_LIMITS => Source::Mapped(&self.maps.limits),
            maps::MACS => Source::Mapped(&self.maps.macs),
            maps::EVENT_STATS => Source::Counters(&self.maps.event_stats),
            maps::VERDICT_STATS => Source::Counters(&self.maps.verdict_stats),
            maps::SERVICE_STATS => Source::Counters(&self.maps.service_stats),
            maps::BACKEND_STATS => Source::Counters(&self.maps.backend_stats),
            maps::SOURCES | maps::DEVICES => {
                return self
                    .keyed_dump(name, from)
                    .map_err(|error| format!("cannot read {name}: {error}; try again"));
            }
            _ => return Err(format!("no map {name}: `steerctl maps list` lists them")),
        };
        let mut dump = empty_dump(name);
        let first = u32::try_from(from).unwrap_or(u32::MAX);
        for key in first..source.len() {
            if dump.entries.len() >= MapDump::MAX_ENTRIES {
                dump.next = Some(u64::from(key));
                break;
            }
            let Some(bytes) = source.bytes(key) else {
                continue;
            };
            for fields in inspect::decode(name, key, &bytes) {
                dump.entries.push(entry(u64::from(key), fields));
            }
        }
        Ok(dump)
    }

    /// The same of a map whose keys are not numbers one after the other.
    fn keyed_dump(&self, name: &str, from: u64) -> Result<MapDump, MapError> {
        let map = MapData::from_pin(self.pins.join(name))?;
        let mut fields: Vec<(u64, Vec<inspect::Field>)> = Vec::new();
        if name == maps::SOURCES {
            let trie = LpmTrie::<_, [u8; 20], u32>::try_from(Map::LpmTrie(map))?;
            let keys = (0..).zip(trie.keys());
            let part = keys.skip(usize::try_from(from).unwrap_or(usize::MAX));
            for (at, key) in part.take(MapDump::MAX_ENTRIES + 1) {
                let key: Key<[u8; 20]> = key?;
                // What goes meanwhile is not there any more.
                if let Ok(rule) = trie.get(&key, 0) {
                    fields.push((at, inspect::source(key.prefix_len(), &key.data(), rule)));
                }
            }
        } else {
            let devices = DevMapHash::try_from(Map::DevMapHash(map))?;
            let mut indices: Vec<u32> = devices.keys().collect::<Result<_, _>>()?;
            indices.sort_unstable();
            for ifindex in indices
                .into_iter()
                .filter(|&ifindex| u64::from(ifindex) >= from)
            {
                let bytes = u64::from(devices.get(ifindex, 0)?.if_index).to_ne_bytes();
                let decoded = inspect::decode(name, ifindex, &bytes);
                fields.extend(decoded.into_iter().map(|fields| (ifindex.into(), fields)));
            }
        }
        let mut dump = empty_dump(name);
        for (key, fields) in fields {
            if dump.entries.len() == MapDump::MAX_ENTRIES {
                dump.next = Some(key);
                break;
            }
            dump.entries.push(entry(key, fields));
        }
        Ok(dump)
    }
}

fn empty_dump(name: &str) -> MapDump {
    MapDump {
        name: name.to_owned(),
        entries: Vec::new(),
        next: None,
    }
}

fn entry(key: u64, fields: Vec<inspect::Field>) -> MapEntry {
    let fields = fields
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value));
    MapEntry {
        key,
        fields: fields.collect(),
    }
}

/// Where a dump reads.
enum Source<'m> {
    Mapped(&'m Mapped),
    Counters(&'m PerCpuArray<MapData, Counts>),
}

impl Source<'_> {
    fn len(&self) -> u32 {
        match self {
            Self::Mapped(mapped) => mapped.len(),
            Self::Counters(counters) => counters.len(),
        }
    }

    /// An element's bytes; `None` if they are all zero.
    fn bytes(&self, key: u32) -> Option<Vec<u8>> {
        match self {
            Self::Mapped(mapped) => {
                let used = mapped.element(key).iter().any(|word| word.load() != 0);
                used.then(|| mapped.bytes(key))
            }
            Self::Counters(counters) => {
                let Counter { packets, bytes } = sum(counters, key);
                (packets != 0).then(|| [packets.to_ne_bytes(), bytes.to_ne_bytes()].concat())
            }
        }
    }
}

/// The sum over all CPUs; zero where the kernel does not answer.
fn sum(counters: &PerCpuArray<MapData, Counts>, index: u32) -> Counter {
    let Ok(values) = counters.get(&index, 0) else {
        return Counter::default();
    };
    values
        .iter()
        .fold(Counter::default(), |sum, Counts(counter)| Counter {
            packets: sum.packets.wrapping_add(counter.packets),
            bytes: sum.bytes.wrapping_add(counter.bytes),
        })
}

/// The entries, of so many words each, whose last word is not zero.
fn entries(mapped: &Mapped, words: usize) -> impl Iterator<Item = Vec<u8>> {
    mapped
        .all()
        .chunks_exact(words)
        .filter(|entry| entry.last().is_some_and(|value| value.load() != 0))
        .map(|entry| {
            entry
                .iter()
                .flat_map(|word| word.load().to_ne_bytes())
                .collect()
        })
}

/// The kernel's jiffies. A kernel that does not tell its tick is taken for one of 250 Hz.
pub(super) fn read_clock() -> Clock {
    use nix::time::{ClockId, clock_getres, clock_gettime};
    const TICK: Duration = Duration::from_millis(4);
    let coarse = ClockId::CLOCK_MONOTONIC_COARSE;
    let tick = clock_getres(coarse).map_or(TICK, Duration::from);
    let now = clock_gettime(coarse).map_or(Duration::ZERO, Duration::from);
    let fallback = Clock {
        tick: TICK,
        jiffies: 0,
    };
    Clock::new(tick, now)
        .or_else(|| Clock::new(TICK, now))
        .unwrap_or(fallback)
}
