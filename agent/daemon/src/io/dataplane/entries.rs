//! The maps in memory: entries read and written word by word, in the order that a packet which
//! arrives meanwhile needs.

use std::io;

use aya::{
    Ebpf,
    maps::{Map, MapData, PerCpuArray},
};
use steerd_ebpf::{
    abi::{
        Backend, BackendState, Control, FILTER_WORDS, MAC_MASK, MAC_SLOTS, MacOwner, RING_LINE,
        SERVICE_SLOTS, Service, maps,
    },
    hash,
    place::ServiceKey,
    shared::Shared,
};

use super::{error::DataplaneError, mapped::Mapped, placement::Region, view};

/// The maps' memory.
pub(super) struct Maps {
    pub(super) control: Mapped,
    pub(super) services: Mapped,
    pub(super) backends: Mapped,
    pub(super) rings: Mapped,
    pub(super) flows4: Mapped,
    pub(super) flows6: Mapped,
    pub(super) loads: Mapped,
    pub(super) nat: Mapped,
    pub(super) nat_hops: Mapped,
    pub(super) nat_moved: Mapped,
    pub(super) fragments: Mapped,
    pub(super) limits: Mapped,
    pub(super) macs: Mapped,
    pub(super) fences: Mapped,
    pub(super) event_stats: PerCpuArray<MapData, view::Counts>,
    pub(super) verdict_stats: PerCpuArray<MapData, view::Counts>,
    pub(super) service_stats: PerCpuArray<MapData, view::Counts>,
    pub(super) backend_stats: PerCpuArray<MapData, view::Counts>,
}

impl Maps {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, DataplaneError> {
        let array = |name: &'static str| -> Result<Mapped, DataplaneError> {
            let shape = maps::ALL
                .into_iter()
                .find(|shape| shape.name == name)
                .ok_or_else(|| missing(name))?;
            match ebpf.map(name) {
                Some(Map::Array(data)) => {
                    Mapped::new(data.fd(), shape.value_size as usize, shape.entries)
                        .map_err(|source| DataplaneError::Map { map: name, source })
                }
                _ => Err(missing(name)),
            }
        };
        let control = array(maps::CONTROL)?;
        let services = array(maps::SERVICES)?;
        let backends = array(maps::BACKENDS)?;
        let rings = array(maps::RINGS)?;
        let flows4 = array(maps::FLOWS4)?;
        let flows6 = array(maps::FLOWS6)?;
        let loads = array(maps::LOADS)?;
        let nat = array(maps::NAT)?;
        let nat_hops = array(maps::NAT_HOPS)?;
        let nat_moved = array(maps::NAT_MOVED)?;
        let fragments = array(maps::FRAGMENTS)?;
        let limits = array(maps::SYN_LIMITS)?;
        let macs = array(maps::MACS)?;
        let fences = array(maps::FENCES)?;
        let mut stats = |name: &'static str| -> Result<_, DataplaneError> {
            let map = ebpf.take_map(name).ok_or_else(|| missing(name))?;
            PerCpuArray::try_from(map).map_err(|error| DataplaneError::Map {
                map: name,
                source: io::Error::other(error),
            })
        };
        let event_stats = stats(maps::EVENT_STATS)?;
        let verdict_stats = stats(maps::VERDICT_STATS)?;
        let service_stats = stats(maps::SERVICE_STATS)?;
        let backend_stats = stats(maps::BACKEND_STATS)?;
        Ok(Self {
            control,
            services,
            backends,
            rings,
            flows4,
            flows6,
            loads,
            nat,
            nat_hops,
            nat_moved,
            fragments,
            limits,
            macs,
            fences,
            event_stats,
            verdict_stats,
            service_stats,
            backend_stats,
        })
    }

    /// A word of the control map.
    pub(super) fn control_word(&self, word: usize) -> u64 {
        self.control.element(0).get(word).map_or(0, Shared::load)
    }

    /// Makes a word of the control map, and those that follow it, these.
    pub(super) fn set_control(&self, first: usize, values: &[u64]) {
        let words = self.control.element(0).get(first..).unwrap_or_default();
        for (word, &value) in words.iter().zip(values) {
            word.store(value);
        }
    }

    /// The first slot of the half that is not in use.
    pub(super) fn spare(&self, word: usize, half: u32) -> u32 {
        let base = self.control_word(word) as u32;
        if base == 0 { half } else { 0 }
    }

    pub(super) fn switch(&self, word: usize, base: u32, seed: u32) {
        self.set_control(word, &[u64::from(base) | u64::from(seed) << 32]);
    }

    /// The MACs of one kind in the table in use.
    pub(super) fn macs_of(&self, owner: MacOwner) -> impl Iterator<Item = u64> {
        let base = self.control_word(Control::MACS) as u32;
        (base..base + MAC_SLOTS).filter_map(move |slot| {
            let entry = self.macs.element(slot).first()?.load();
            (entry == owner.entry(entry)).then_some(entry & MAC_MASK)
        })
    }

    /// Changes each word of the service filter.
    pub(super) fn filter(&self, change: impl Fn(usize, u64) -> u64) {
        let words = self
            .control
            .element(0)
            .get(Control::FILTER..)
            .unwrap_or_default();
        for (at, word) in words.iter().enumerate().take(FILTER_WORDS) {
            word.store(change(at, word.load()));
        }
    }

    pub(super) fn service(&self, slot: u32) -> Option<Service> {
        let words = read(self.services.element(slot))?;
        let service = Service::from_words(words);
        (service.port_proto != 0).then_some(service)
    }

    /// The services of the table in use, without the addresses.
    pub(super) fn services_in_use(&self) -> impl Iterator<Item = Service> {
        let base = self.control_word(Control::SERVICES) as u32;
        (base..base + SERVICE_SLOTS)
            .filter_map(|slot| self.service(slot))
            .filter(|service| service.port_proto != Service::ADDRESS)
    }

    /// The slot and entry of a service in the table in use.
    pub(super) fn find_service(&self, key: ServiceKey) -> Option<(u32, Service)> {
        let table = self.control_word(Control::SERVICES);
        let hash = hash::service(hash::address(key.0, (table >> 32) as u32), key.1);
        let (one, other) = hash::service_slots(hash);
        [one, other].into_iter().find_map(|slot| {
            let slot = table as u32 + slot;
            let service = self.service(slot)?;
            (service.addr == key.0 && service.port_proto == key.1).then_some((slot, service))
        })
    }

    pub(super) fn backend_state(&self, number: u32) -> Option<BackendState> {
        BackendState::unpack(self.backends.element(number).first()?.load())
    }

    pub(super) fn backends_in_use(&self) -> impl Iterator<Item = (u32, Backend)> {
        (1..self.backends.len()).filter_map(|number| {
            self.backend_state(number)?;
            Some((
                number,
                Backend::from_words(read(self.backends.element(number))?),
            ))
        })
    }

    pub(super) fn ring_is(&self, region: Region, ring: &[u16]) -> bool {
        region.slots as usize == ring.len()
            && (region.first..)
                .zip(ring.chunks(RING_LINE as usize))
                .all(|(line, ids)| {
                    let words = self.rings.element(line);
                    ids.chunks(4).zip(words).all(|(ids, word)| {
                        let mask = u64::MAX >> (64 - 16 * ids.len());
                        word.load() & mask == pack_ids(ids) & mask
                    })
                })
    }
}

/// Up to four backend ids as they lie in memory.
pub(super) fn pack_ids(ids: &[u16]) -> u64 {
    ids.iter()
        .rev()
        .fold(0, |word, &id| word << 16 | u64::from(id))
}

/// Writes an entry: its first word last, because that one says that it is valid.
pub(super) fn write(element: &[Shared], words: [u64; 8]) {
    for (word, value) in element.iter().zip(words).rev() {
        if word.load() != value {
            word.store(value);
        }
    }
}

pub(super) fn read(element: &[Shared]) -> Option<[u64; 8]> {
    let words: &[Shared; 8] = element.try_into().ok()?;
    Some(std::array::from_fn(|at| words[at].load()))
}

pub(super) fn missing(map: &'static str) -> DataplaneError {
    DataplaneError::Map {
        map,
        source: io::Error::from(io::ErrorKind::NotFound),
    }
}
