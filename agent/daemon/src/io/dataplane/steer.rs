//! One service's steering, put into the maps.

use steerd_core::{
    action::{SteeredBackend, Steering},
    config::Name,
};
use steerd_ebpf::{
    abi::{
        Backend, BackendState, MAX_BACKENDS, MAX_SERVICES, Policy, RING_LINE, RING_LINES,
        Scheduler, Service,
    },
    hash,
    place::ServiceKey,
    shared::Shared,
};

use super::{
    BackendId, Dataplane,
    entries::{pack_ids, write},
    error::DataplaneError,
    placement::Region,
    sources::Rules,
    view, words,
};

/// A service as it is steered.
pub(super) struct Steered {
    pub(super) key: ServiceKey,
    pub(super) id: u32,
    pub(super) ring: Region,
    pub(super) quic: Region,
    pub(super) policy: Policy,
    /// The backends' numbers and names.
    pub(super) backends: Vec<(u32, Name)>,
    /// The interfaces on the ways to them.
    pub(super) devices: Vec<u32>,
}

impl Steered {
    /// Whether the program counts its connections.
    pub(super) fn counts(&self) -> bool {
        matches!(self.policy.scheduler(), Scheduler::LeastConnections)
    }

    /// Its entry.
    pub(super) fn service(&self, cursor: u64) -> Service {
        let (addr, port_proto) = self.key;
        Service {
            addr,
            port_proto,
            id: self.id,
            ring: Shared::new(region_word(self.ring)),
            salt: hash::salt(addr, port_proto),
            policy: Shared::new(self.policy.0),
            quic: Shared::new(region_word(self.quic)),
            cursor: Shared::new(cursor),
        }
    }
}

impl Dataplane {
    /// Steers a service so. One that is new takes effect with [`Dataplane::commit`].
    ///
    /// Nothing is freed here: numbers belong to addresses and ports, not to names, so a service or
    /// backend that was renamed keeps them, and what nothing names any more is swept up after a
    /// whole batch of changes.
    pub(crate) fn steer(&mut self, steering: &Steering) -> Result<(), DataplaneError> {
        // Should it fail half way, what it took already is named by nothing.
        self.litter = true;
        let key = words::service_key(steering.address, steering.port, steering.protocol);
        let id = self
            .services
            .get_or_take(&key)
            .ok_or(DataplaneError::Full {
                what: "another service",
                limit: MAX_SERVICES - 1,
            })?;
        let policy = words::policy(&steering.policy, steering.address);
        let mut ids = Vec::with_capacity(steering.backends.len());
        let mut devices = Vec::new();
        for backend in &steering.backends {
            let identity = (id, words::address(backend.address), backend.port.to_be());
            let number = self
                .backends
                .get_or_take(&identity)
                .ok_or(DataplaneError::Full {
                    what: "another backend",
                    limit: MAX_BACKENDS - 1,
                })?;
            if let Some(hop) = backend.way.next_hop() {
                self.devices.add(hop.ifindex)?;
                devices.push(hop.ifindex);
            }
            self.write_backend(number, identity, steering, backend);
            ids.push((number, backend.name.clone()));
        }
        let rules = Rules::of(&steering.policy.sources);
        // What the policy says to look up is there before it says so, and goes after.
        if let Some(rate) = steering.policy.syn_rate {
            let (rate, burst) = words::limit(rate, view::read_clock().tick);
            self.write_limit(id, [rate, burst]);
        }
        if policy.has_sources() {
            self.set_sources(id, &rules)?;
        }
        let counted = matches!(policy.scheduler(), Scheduler::LeastConnections);
        if counted {
            self.write_weights(steering, &ids, true);
        }
        let numbers = |&index: &u16| {
            let backend = ids.get(usize::from(index));
            backend.map_or(0, |&(number, _)| number as u16)
        };
        let ring: Vec<u16> = steering.ring.iter().map(numbers).collect();
        let quic = match policy.is_quic() {
            true => words::quic_table(&steering.backends, &ids),
            false => Vec::new(),
        };
        let in_use = self.maps.find_service(key);
        let (ring_before, quic_before) = match &in_use {
            Some((_, service)) => (region(service.ring()), region(service.quic())),
            None => self.regions_of(&steering.service, key),
        };
        let steered = Steered {
            key,
            id,
            ring: self.write_ring(&ring, ring_before)?,
            quic: self.write_ring(&quic, quic_before)?,
            policy,
            backends: ids,
            devices,
        };
        match in_use {
            Some((slot, _)) => {
                let words = steered.service(0).words();
                for at in [RING, QUIC, POLICY] {
                    if let Some(word) = self.maps.services.element(slot).get(at) {
                        word.store(words[at]);
                    }
                }
            }
            None => self.dirty = true,
        }
        if !counted {
            self.write_weights(steering, &steered.backends, false);
        }
        if !policy.is_limited() {
            self.clear_limit(id);
        }
        if !policy.has_sources() {
            self.set_sources(id, &rules)?;
        }
        let before = self.steered.insert(steering.service.clone(), steered);
        if before.is_none_or(|before| before.key != key) {
            self.dirty = true;
        }
        Ok(())
    }

    /// Steers a service no more. Takes effect with [`Dataplane::commit`].
    pub(crate) fn unsteer(&mut self, service: &Name) {
        if self.steered.remove(service).is_some() {
            self.dirty = true;
            self.litter = true;
        }
    }

    /// Ring and QUIC table of a service that was steered but is not yet in the table in use.
    fn regions_of(&self, name: &Name, key: ServiceKey) -> (Region, Region) {
        match self.steered.get(name) {
            Some(steered) if steered.key == key => (steered.ring, steered.quic),
            _ => Default::default(),
        }
    }

    fn write_backend(
        &mut self,
        number: u32,
        identity: BackendId,
        steering: &Steering,
        backend: &SteeredBackend,
    ) {
        let (service, addr, port) = identity;
        let next_hop = backend.way.next_hop();
        let source = next_hop.map_or(0, |hop| {
            let mac = self.source_mac(hop.ifindex, hop.vlan).unwrap_or(0);
            Backend::source_word(mac, hop.vlan)
        });
        let element = self.maps.backends.element(number);
        let [state, ..] = element else { return };
        let was = state.load();
        // A number that was free begins a new generation; one in use keeps it.
        let generation = match BackendState::unpack(was) {
            Some(state) => state.generation,
            None => ((was >> 48) as u8).wrapping_add(1),
        };
        let state = BackendState {
            mac: next_hop.map_or(0, |hop| steerd_ebpf::abi::mac_word(hop.mac)),
            generation,
            mode: words::mode(&backend.way),
            alive: backend.alive,
        };
        let entry = Backend {
            state: Shared::new(state.pack()),
            source: Shared::new(source),
            ifindex: next_hop.map_or(0, |hop| hop.ifindex),
            service,
            addr,
            port,
            mtu: next_hop.map_or(0, |hop| hop.mtu),
            service_port: steering.port.to_be(),
            reserved: 0,
            service_addr: words::address(steering.address),
        };
        write(element, entry.words());
    }

    /// What the backends' connections are weighed with; nothing where they are not counted. How many
    /// there are stays.
    fn write_weights(&self, steering: &Steering, ids: &[(u32, Name)], counted: bool) {
        for (backend, &(number, _)) in steering.backends.iter().zip(ids) {
            if let [_, weight] = self.maps.loads.element(number) {
                weight.store(if counted { backend.weight.into() } else { 0 });
            }
        }
    }

    /// Rate and burst of a service's new flows; one that had no limit begins with a full bucket.
    fn write_limit(&self, id: u32, values: [u64; 2]) {
        if let [limit @ .., _, _] = self.maps.limits.element(id) {
            for (word, value) in limit.iter().zip(values) {
                word.store(value);
            }
        }
    }

    /// Without a limit the time of the last count is long ago, which fills the bucket.
    pub(super) fn clear_limit(&self, id: u32) {
        for word in self.maps.limits.element(id) {
            word.store(0);
        }
    }

    /// Makes these the networks that are allowed and denied. The flows that are denied now have to go:
    /// they were asked when they came.
    fn set_sources(&mut self, id: u32, rules: &Rules) -> Result<(), DataplaneError> {
        if self.sources.set(id, rules)? {
            self.purge.0.insert(id, rules.clone());
        }
        Ok(())
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

/// Where [`Service::words`] has these.
const RING: usize = 3;
const POLICY: usize = 5;
const QUIC: usize = 6;

/// A region from its first line and number of slots.
pub(super) fn region((first, slots): (u32, u32)) -> Region {
    Region { first, slots }
}

fn region_word(region: Region) -> u64 {
    u64::from(region.slots) | u64::from(region.first) << 32
}
