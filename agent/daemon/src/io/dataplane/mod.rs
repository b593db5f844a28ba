//! The data plane: the only place that names maps.
//!
//! [`Dataplane`] takes what the core decided ([`Steering`], MACs) and makes the maps say so;
//! [`load`] has loading, pinning and attaching, [`placement`] numbers and rings, [`mapped`] and
//! [`entries`] the maps' memory, [`view`] what people see of it.
//!
//! Order of writes: a backend that died is marked first, so that no packet goes to it; one that is
//! new is written before any ring names it; a ring is written whole to a place that nothing reads
//! and then put into its service by one word; a changed set of services is placed in the table
//! that is not in use, and one word makes it the one in use.

mod entries;
mod error;
mod load;
mod mapped;
mod mode;
mod placement;
mod report;
mod view;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use aya::Ebpf;
use entries::{Maps, pack_ids, write};
pub(crate) use error::DataplaneError;
pub(crate) use load::unload;
use mapped::Mapped;
use placement::{Ids, Region, Regions};
use steerd_core::{
    action::{SteeredBackend, Steering, Way},
    config::{Dataplane as Config, Name, Protocol, XdpMode},
    event::BackendKey,
    time::Instant,
};
use steerd_ebpf::{
    abi::{
        self, Backend, BackendState, Control, MAC_SLOTS, MAX_BACKENDS, MAX_SERVICES, MacOwner,
        RING_LINE, RING_LINES, SERVICE_SLOTS, Service, addr_words, mac_bytes, mac_word, maps,
    },
    hash,
    place::{self, ServiceKey},
    shared::Shared,
};

/// A backend's key in the program's terms: service id, address, port in network byte order.
type BackendId = (u32, [u64; 2], u16);

/// How long an established flow must have been idle before a new one may take its place.
const ESTABLISHED_IDLE: Duration = Duration::from_secs(3600);

/// How often what nothing names any more is looked for at most.
const SWEEP_INTERVAL: Duration = Duration::from_millis(100);

/// An interface of this host that carries the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Own {
    pub(crate) ifindex: u32,
    pub(crate) mac: [u8; 6],
}

/// The running data plane.
pub(crate) struct Dataplane {
    ebpf: Ebpf,
    config: Config,
    maps: Arc<Maps>,
    services: Ids<ServiceKey>,
    backends: Ids<BackendId>,
    regions: Regions,
    /// The services that are steered, by name.
    steered: BTreeMap<Name, Steered>,
    /// Whether the set of services differs from the table in use.
    dirty: bool,
    /// Whether there may be numbers and rings that nothing names any more, and when they were last
    /// looked for.
    litter: bool,
    swept: Instant,
    own: Vec<Own>,
    forwarders: Vec<[u8; 6]>,
    /// How the program is attached.
    modes: BTreeMap<Name, XdpMode>,
    /// Whether the pins stay when this ends: not those of a start that was refused.
    keep: bool,
}

struct Steered {
    key: ServiceKey,
    id: u32,
    region: Region,
    /// The backends' numbers and names.
    backends: Vec<(u32, Name)>,
}

impl Drop for Dataplane {
    fn drop(&mut self) {
        if !self.keep
            && let Err(error) = unload(&self.config)
        {
            tracing::warn!(%error, "could not remove what a refused start has made");
        }
    }
}

impl Dataplane {
    /// Loads the program on the pinned maps, or new ones; attaches nothing yet.
    pub(crate) fn load(config: &Config) -> Result<Self, DataplaneError> {
        for interface in &config.interfaces {
            if nix::net::if_::if_nametoindex(interface.as_str()).is_err() {
                return Err(DataplaneError::NoInterface {
                    interface: interface.clone(),
                });
            }
        }
        let keep = load::is_resumed(config);
        let mut ebpf = match load::load(config) {
            Ok(ebpf) => ebpf,
            Err(error) if keep => return Err(error),
            Err(error) => {
                unload(config)?;
                return Err(error);
            }
        };
        let maps = Maps::take(&mut ebpf)?;
        if let Some(seed) = maps.control.element(0).get(Control::FLOW_SEED)
            && seed.load() == 0
        {
            seed.store(random_word()?);
        }
        if let Some(idle) = maps.control.element(0).get(Control::ESTABLISHED_IDLE) {
            idle.store(view::flow_clock_units(ESTABLISHED_IDLE));
        }
        let mut plane = Self {
            ebpf,
            config: config.clone(),
            services: Ids::new(MAX_SERVICES, BTreeMap::new()),
            backends: Ids::new(MAX_BACKENDS, BTreeMap::new()),
            regions: Regions::new(RING_LINES, []),
            steered: BTreeMap::new(),
            dirty: true,
            litter: true,
            swept: Instant::ZERO,
            own: Vec::new(),
            forwarders: Vec::new(),
            modes: BTreeMap::new(),
            keep,
            maps: Arc::new(maps),
        };
        plane.read_back();
        Ok(plane)
    }

    /// Attaches the program to the configured interfaces, replacing an earlier one without a gap.
    /// Again, after an interface was removed and made anew.
    pub(crate) fn attach(&mut self) -> Result<(), DataplaneError> {
        self.modes = load::attach(&mut self.ebpf, &self.config)?;
        self.keep = true;
        Ok(())
    }

    /// How the program is attached to an interface; `None`: it is not.
    pub(crate) fn mode(&self, interface: &Name) -> Option<XdpMode> {
        self.modes.get(interface).copied()
    }

    /// Takes over the numbers that the pinned maps use, so that no flow changes its meaning.
    fn read_back(&mut self) {
        let services: Vec<Service> = self.maps.services_in_use().collect();
        let mut regions = Vec::new();
        let mut service_ids = BTreeMap::new();
        for service in &services {
            let (first, slots) = service.ring();
            regions.push(Region { first, slots });
            service_ids.insert((service.addr, service.port_proto), service.id);
        }
        let mut backend_ids = BTreeMap::new();
        for (id, backend) in self.maps.backends_in_use() {
            backend_ids.insert((backend.service, backend.addr, backend.port), id);
        }
        self.services = Ids::new(MAX_SERVICES, service_ids);
        self.backends = Ids::new(MAX_BACKENDS, backend_ids);
        self.regions = Regions::new(RING_LINES, regions);
        // Until peers are heard again, their frames are still known as theirs.
        self.forwarders = self
            .maps
            .macs_of(MacOwner::Forwarder)
            .map(mac_bytes)
            .collect();
    }

    /// Which of the configured backends the pinned maps know, and whether they were alive.
    pub(crate) fn restored(
        &self,
        services: &[steerd_core::config::Service],
    ) -> BTreeMap<BackendKey, bool> {
        let mut restored = BTreeMap::new();
        for service in services {
            let Some(id) = self
                .services
                .get(&key(service.address, service.port, service.protocol))
            else {
                continue;
            };
            for backend in &service.backends {
                let known = (id, words(backend.address), backend.port.to_be());
                if let Some(id) = self.backends.get(&known)
                    && let Some(state) = self.maps.backend_state(id)
                {
                    let key = BackendKey {
                        service: service.name.clone(),
                        backend: backend.name.clone(),
                    };
                    restored.insert(key, state.alive);
                }
            }
        }
        restored
    }

    /// Steers a service so. One that is new takes effect with [`Dataplane::commit`].
    ///
    /// Nothing is freed here: numbers belong to addresses and ports, not to names, so a service or
    /// backend that was renamed keeps them, and what nothing names any more is swept up after a
    /// whole batch of changes.
    pub(crate) fn steer(&mut self, steering: &Steering) -> Result<(), DataplaneError> {
        let key = key(steering.address, steering.port, steering.protocol);
        let id = self
            .services
            .get_or_take(&key)
            .ok_or(DataplaneError::Full {
                what: "another service",
                limit: MAX_SERVICES - 1,
            })?;
        let mut ids = Vec::with_capacity(steering.backends.len());
        for backend in &steering.backends {
            let identity = (id, words(backend.address), backend.port.to_be());
            let number = self
                .backends
                .get_or_take(&identity)
                .ok_or(DataplaneError::Full {
                    what: "another backend",
                    limit: MAX_BACKENDS - 1,
                })?;
            self.write_backend(number, identity, backend);
            ids.push((number, backend.name.clone()));
        }
        let ring: Vec<u16> = steering
            .ring
            .iter()
            .map(|&index| {
                ids.get(usize::from(index))
                    .map_or(0, |&(number, _)| number as u16)
            })
            .collect();
        let in_use = self.maps.find_service(key);
        let current = match &in_use {
            Some((_, service)) => region_of(service),
            None => self.region_of(&steering.service, key),
        };
        let region = self.write_ring(&ring, current)?;
        match in_use {
            Some((slot, _)) => {
                if let Some(ring) = self.maps.services.element(slot).get(3) {
                    ring.store(ring_word(region));
                }
            }
            None => self.dirty = true,
        }
        let steered = Steered {
            key,
            id,
            region,
            backends: ids,
        };
        let before = self.steered.insert(steering.service.clone(), steered);
        if before.is_none_or(|before| before.key != key) {
            self.dirty = true;
        }
        self.litter = true;
        Ok(())
    }

    /// The ring of a service that was steered but is not yet in the table in use.
    fn region_of(&self, name: &Name, key: ServiceKey) -> Region {
        match self.steered.get(name) {
            Some(steered) if steered.key == key => steered.region,
            _ => Region::default(),
        }
    }

    /// Steers a service no more. Takes effect with [`Dataplane::commit`].
    pub(crate) fn unsteer(&mut self, service: &Name) {
        if self.steered.remove(service).is_some() {
            self.dirty = true;
            self.litter = true;
        }
    }

    /// Tells the program whose frames are for this host and whose were steered already.
    pub(crate) fn set_macs(
        &mut self,
        own: Vec<Own>,
        forwarders: Vec<[u8; 6]>,
    ) -> Result<(), DataplaneError> {
        if own == self.own && forwarders == self.forwarders {
            return Ok(());
        }
        let mut macs: Vec<(u64, MacOwner)> = own
            .iter()
            .map(|own| (mac_word(own.mac), MacOwner::Own))
            .collect();
        macs.extend(
            forwarders
                .iter()
                .filter(|mac| own.iter().all(|own| own.mac != **mac))
                .map(|&mac| (mac_word(mac), MacOwner::Forwarder)),
        );
        let (seed, table) = place::macs(&macs).ok_or(DataplaneError::Full {
            what: "another peer",
            limit: MAC_SLOTS / 16,
        })?;
        let base = self.maps.spare(Control::MACS, MAC_SLOTS);
        for (slot, entry) in (base..).zip(table) {
            if let [word] = self.maps.macs.element(slot) {
                word.store(entry);
            }
        }
        self.maps.switch(Control::MACS, base, seed);
        self.own = own;
        self.forwarders = forwarders;
        Ok(())
    }

    /// The peers' MACs that the program knows.
    pub(crate) fn forwarders(&self) -> &[[u8; 6]] {
        &self.forwarders
    }

    /// The interfaces' MACs that the program knows.
    pub(crate) fn own(&self) -> &[Own] {
        &self.own
    }

    /// Ends a batch of changes: makes a changed set of services the one in use, and frees what
    /// nothing names any more.
    ///
    /// Not to be called before each configured service was steered once: a daemon that starts must
    /// not take away what the last one steered, nor the numbers that flows know.
    pub(crate) fn commit(&mut self, now: Instant) -> Result<(), DataplaneError> {
        if self.dirty {
            self.switch_services()?;
            self.dirty = false;
        }
        // It looks at every backend, so not after each of many changes.
        if self.litter && now.since(self.swept) >= SWEEP_INTERVAL {
            self.swept = now;
            self.litter = self.sweep(now);
        }
        Ok(())
    }

    fn switch_services(&mut self) -> Result<(), DataplaneError> {
        // By key: of two names for one key the later one counts, until a failed change is mended.
        let steered: BTreeMap<ServiceKey, &Steered> = self
            .steered
            .values()
            .map(|steered| (steered.key, steered))
            .collect();
        let keys: Vec<ServiceKey> = steered.keys().copied().collect();
        let (seed, slots) = place::services(&keys).ok_or(DataplaneError::Full {
            what: "another service",
            limit: MAX_SERVICES - 1,
        })?;
        let base = self.maps.spare(Control::SERVICES, SERVICE_SLOTS);
        for slot in base..base + SERVICE_SLOTS {
            if let Some(port_proto_id) = self.maps.services.element(slot).get(2) {
                port_proto_id.store(0);
            }
        }
        for (steered, slot) in steered.values().zip(slots) {
            let (addr, port_proto) = steered.key;
            let service = Service {
                addr,
                port_proto,
                id: steered.id,
                ring: Shared::new(ring_word(steered.region)),
                salt: hash::salt(addr, port_proto),
                ..Service::default()
            };
            write(self.maps.services.element(base + slot), service.words());
        }
        let filter = place::filter(&keys, seed);
        // Around the switch both tables' services must pass.
        self.maps.filter(|word, before| before | filter[word]);
        self.maps.switch(Control::SERVICES, base, seed);
        self.maps.filter(|word, _| filter[word]);
        Ok(())
    }

    /// Frees the numbers and rings that nothing names. Returns whether some have still to wait.
    fn sweep(&mut self, now: Instant) -> bool {
        let steered = self.steered.values();
        let services: BTreeSet<u32> = steered.clone().map(|steered| steered.id).collect();
        let regions = steered.clone().map(|steered| steered.region);
        let regions: BTreeSet<u32> = regions
            .filter(|region| region.slots != 0)
            .map(|region| region.first)
            .collect();
        let backends: BTreeSet<u32> = steered
            .flat_map(|steered| &steered.backends)
            .map(|&(number, _)| number)
            .collect();
        self.services.sweep(|id| services.contains(&id));
        for number in self.backends.sweep(|number| backends.contains(&number)) {
            self.clear_backend(number);
        }
        self.regions
            .sweep(|region| regions.contains(&region.first), now)
    }

    /// The daemon's sign of life.
    pub(crate) fn heartbeat(&self, now: Instant) {
        if let Some(word) = self.maps.control.element(0).get(Control::HEARTBEAT) {
            word.store(u64::try_from(now.since_origin().as_nanos()).unwrap_or(u64::MAX));
        }
    }

    /// When the last daemon gave its last sign of life.
    pub(crate) fn last_heartbeat(&self) -> Option<Instant> {
        let word = self.maps.control.element(0).get(Control::HEARTBEAT)?.load();
        (word != 0).then(|| Instant::from_origin(std::time::Duration::from_nanos(word)))
    }

    fn write_backend(&mut self, number: u32, identity: BackendId, backend: &SteeredBackend) {
        let (service, addr, port) = identity;
        let next_hop = backend.way.next_hop();
        let source = next_hop
            .and_then(|hop| self.own.iter().find(|own| own.ifindex == hop.ifindex))
            .map_or(0, |own| mac_word(own.mac));
        let element = self.maps.backends.element(number);
        let [state, ..] = element else { return };
        let was = state.load();
        // A number that was free begins a new generation; one in use keeps it.
        let generation = match BackendState::unpack(was) {
            Some(state) => state.generation,
            None => ((was >> 48) as u8).wrapping_add(1),
        };
        let mode = match backend.way {
            Way::Local => abi::Mode::Local,
            Way::Dsr(_) | Way::Tunnel { .. } | Way::Nat(_) => abi::Mode::Dsr,
        };
        let mac = next_hop.map_or(0, |hop| mac_word(hop.mac));
        let state = BackendState {
            mac,
            generation,
            mode,
            alive: backend.alive,
        };
        let entry = Backend {
            state: Shared::new(state.pack()),
            source: Shared::new(source),
            ifindex: next_hop.map_or(0, |hop| hop.ifindex),
            service,
            addr,
            port,
            ..Backend::default()
        };
        write(element, entry.words());
    }

    /// Ends the use of a number; its generation stays, so that flows that name it are seen to be of
    /// before.
    fn clear_backend(&self, number: u32) {
        if let [state, rest @ ..] = self.maps.backends.element(number) {
            let generation = state.load() & 0xff << 48;
            state.store(generation);
            for word in rest {
                word.store(0);
            }
        }
    }

    /// Puts a ring where nothing reads yet, unless `current` says the same.
    fn write_ring(&mut self, ring: &[u16], current: Region) -> Result<Region, DataplaneError> {
        if self.maps.ring_is(current, ring) {
            return Ok(current);
        }
        let slots = u32::try_from(ring.len()).unwrap_or(u32::MAX);
        let region = if slots == 0 {
            Region::default()
        } else {
            self.regions.take(slots).ok_or(DataplaneError::Full {
                what: "another ring",
                limit: RING_LINES * RING_LINE,
            })?
        };
        for (line, ids) in (region.first..).zip(ring.chunks(RING_LINE as usize)) {
            let words = ids.chunks(4).map(pack_ids);
            for (word, value) in self.maps.rings.element(line).iter().zip(words) {
                word.store(value);
            }
        }
        Ok(region)
    }
}

fn region_of(service: &Service) -> Region {
    let (first, slots) = service.ring();
    Region { first, slots }
}

fn ring_word(region: Region) -> u64 {
    u64::from(region.slots) | u64::from(region.first) << 32
}

fn key(address: IpAddr, port: u16, protocol: Protocol) -> ServiceKey {
    let number = match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
    };
    (words(address), Service::key(port.to_be(), number))
}

fn words(address: IpAddr) -> [u64; 2] {
    addr_words(match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    })
}

/// A random word that is not zero.
fn random_word() -> Result<u64, DataplaneError> {
    use io::Read;
    let mut bytes = [0; 8];
    fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|source| DataplaneError::Map {
            map: maps::CONTROL,
            source,
        })?;
    Ok(u64::from_ne_bytes(bytes) | 1)
}
