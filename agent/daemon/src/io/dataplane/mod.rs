//! The data plane: the only place that names maps.
//!
//! [`Dataplane`] takes what the core decided and the configuration says, and makes the maps say so:
//!
//! * [`mod@steer`]: a service's steering; [`sources`]: the clients that it takes;
//! * [`host`]: MACs, interfaces, addresses, wrapping and translation;
//! * [`fence`]: virtual routers, for when the daemon is dead;
//! * [`words`]: all of that in the program's words;
//! * [`load`]: loading, pinning and attaching; [`placement`]: numbers and rings;
//! * [`mapped`] and [`entries`]: the maps' memory;
//! * [`view`]: what people see of it; [`flows`]: passes over the flow tables.
//!
//! Order of writes: a backend that died is marked first, so that no packet goes to it; one that is
//! new, and the interface on the way to it, is written before any ring names it; a ring is written
//! whole to a place that nothing reads and then put into its service by one word; what a policy says
//! to look up is there before the policy, and goes after it; a changed set of services and addresses
//! is placed in the table that is not in use, and one word makes it the one in use.

mod entries;
mod error;
mod fence;
mod flows;
mod host;
mod load;
mod mapped;
mod mode;
mod pins;
mod placement;
mod report;
mod sources;
mod steer;
#[cfg(test)]
mod tests;
mod translate;
mod view;
mod words;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    sync::Arc,
    thread,
    time::Duration,
};

use aya::Ebpf;
use entries::Maps;
pub(crate) use error::DataplaneError;
use fence::Fences;
pub(crate) use fence::Watched;
use flows::{LastCount, Purge};
use host::Devices;
pub(crate) use host::{Exit, Own};
use mapped::Mapped;
pub(crate) use pins::unload;
use placement::{Ids, Regions};
use sources::{Rules, SourceMap};
use steer::{Steered, region};
use steerd_core::{
    config::{Dataplane as Config, Name, XdpMode},
    event::BackendKey,
    time::Instant,
};
use steerd_ebpf::{
    abi::{Control, MAX_BACKENDS, MAX_SERVICES, MacOwner, RING_LINES, Service, mac_bytes, maps},
    place::ServiceKey,
};
use tokio::sync::oneshot;
pub(crate) use view::View;

/// A backend's key in the program's terms: service id, address, port in network byte order.
type BackendId = (u32, [u64; 2], u16);

/// How often what nothing names any more is looked for at most.
const SWEEP_INTERVAL: Duration = Duration::from_millis(100);

/// The running data plane.
pub(crate) struct Dataplane {
    program: Program,
    config: Config,
    maps: Arc<Maps>,
    services: Ids<ServiceKey>,
    backends: Ids<BackendId>,
    regions: Regions,
    /// The services that are steered, by name.
    steered: BTreeMap<Name, Steered>,
    /// Whether the set of services differs from the table in use.
    dirty: bool,
    /// Whether each configured service was steered once.
    complete: bool,
    /// What addresses are for, beside being virtual; none: not told yet.
    roles: Option<BTreeMap<[u64; 2], u32>>,
    /// The virtual routers.
    fences: Fences,
    /// Which clients services take.
    sources: SourceMap,
    /// Services whose flows have to be looked through: the clients they take are other ones.
    purge: Purge,
    devices: Devices,
    last_count: Arc<LastCount>,
    /// Whether there may be numbers and rings that nothing names any more, and when they were last
    /// looked for.
    litter: bool,
    swept: Instant,
    own: Vec<Own>,
    exits: Vec<Exit>,
    forwarders: Vec<[u8; 6]>,
    /// How the program is attached.
    modes: BTreeMap<Name, XdpMode>,
    /// Whether the pins stay when this ends: not those of a start that was refused.
    keep: bool,
}

/// The program on its way into the kernel.
enum Program {
    /// A thread waits for the kernel to verify it.
    Verifying(oneshot::Receiver<Result<Ebpf, DataplaneError>>),
    Loaded(Ebpf),
    /// The kernel refused it.
    Refused,
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
    /// Opens the pinned maps, or makes new ones, and has a thread load the program; attaches nothing
    /// yet.
    pub(crate) fn open(config: &Config) -> Result<Self, DataplaneError> {
        for interface in &config.interfaces {
            if nix::net::if_::if_nametoindex(interface.as_str()).is_err() {
                return Err(DataplaneError::NoInterface {
                    interface: interface.clone(),
                });
            }
        }
        let keep = load::is_resumed(config);
        let mut ebpf = match load::prepare(config) {
            Ok(ebpf) => ebpf,
            Err(error) if keep => return Err(error),
            Err(error) => {
                unload(config)?;
                return Err(error);
            }
        };
        let maps = Maps::take(&mut ebpf)?;
        let sources = SourceMap::take(&mut ebpf)?;
        let devices = Devices::take(&mut ebpf)?;
        if let Some(seed) = maps.control.element(0).get(Control::FLOW_SEED)
            && seed.load() == 0
        {
            seed.store(random_word()?);
        }
        let (sender, receiver) = oneshot::channel();
        thread::Builder::new()
            .name("steerd-load".to_owned())
            // If nobody waits for it any more, the daemon ends.
            .spawn(move || drop(sender.send(load::verify(ebpf))))
            .map_err(|error| {
                DataplaneError::Load(format!("no thread could be started: {error}"))
            })?;
        let mut plane = Self {
            program: Program::Verifying(receiver),
            config: config.clone(),
            services: Ids::new(MAX_SERVICES, BTreeMap::new()),
            backends: Ids::new(MAX_BACKENDS, BTreeMap::new()),
            regions: Regions::new(RING_LINES, []),
            steered: BTreeMap::new(),
            dirty: true,
            complete: false,
            roles: None,
            fences: Fences::read_back(&maps),
            sources,
            purge: Purge::default(),
            devices,
            last_count: Arc::default(),
            litter: true,
            swept: Instant::ZERO,
            own: Vec::new(),
            exits: Vec::new(),
            forwarders: Vec::new(),
            modes: load::carried(config),
            keep,
            maps: Arc::new(maps),
        };
        plane.read_back();
        Ok(plane)
    }

    /// Whether an earlier daemon's program steers by these maps on all configured interfaces, until
    /// [`attach`](Self::attach) puts this daemon's in its place.
    pub(crate) fn is_carried(&self) -> bool {
        let mut interfaces = self.config.interfaces.iter();
        interfaces.all(|interface| self.modes.contains_key(interface))
    }

    pub(crate) fn is_loaded(&self) -> bool {
        matches!(self.program, Program::Loaded(_))
    }

    /// Waits until the kernel has verified the program. What is left of the wait when this is dropped
    /// can be waited for again. Call it within a tokio runtime.
    ///
    /// # Errors
    ///
    /// The kernel refuses the program, for good.
    pub(crate) async fn loaded(&mut self) -> Result<(), DataplaneError> {
        let Program::Verifying(receiver) = &mut self.program else {
            return Ok(());
        };
        let ended = |_| DataplaneError::Load("the thread that loads it has ended".to_owned());
        match receiver.await.map_err(ended).flatten() {
            Ok(mut ebpf) => {
                report::log_reports(&mut ebpf);
                self.program = Program::Loaded(ebpf);
                Ok(())
            }
            Err(error) => {
                self.program = Program::Refused;
                Err(error)
            }
        }
    }

    /// Attaches the program, once it is loaded, to the configured interfaces, replacing an earlier one
    /// without a gap. Again, after an interface was removed and made anew.
    pub(crate) fn attach(&mut self) -> Result<(), DataplaneError> {
        let Program::Loaded(ebpf) = &mut self.program else {
            return Err(DataplaneError::NotLoaded);
        };
        self.modes = load::attach(ebpf, &self.config)?;
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
            regions.extend([region(service.ring()), region(service.quic())]);
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
            let Some(id) = self.services.get(&words::service_key(
                service.address,
                service.port,
                service.protocol,
            )) else {
                continue;
            };
            for backend in &service.backends {
                let known = (id, words::address(backend.address), backend.port.to_be());
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

    /// Ends a batch of changes: makes a changed set of services the one in use, and frees what
    /// nothing names any more.
    ///
    /// Not to be called before each configured service was steered once: a daemon that starts must
    /// not take away what the last one steered, nor the numbers that flows know.
    pub(crate) fn commit(&mut self, now: Instant) -> Result<(), DataplaneError> {
        self.complete = true;
        if self.dirty {
            self.place_services()?;
            self.dirty = false;
        }
        // It looks at every backend, so not after each of many changes.
        if self.litter && now.since(self.swept) >= SWEEP_INTERVAL {
            self.swept = now;
            self.litter = self.sweep(now)?;
        }
        Ok(())
    }

    /// Frees the numbers and rings that nothing names. Returns whether some have still to wait.
    fn sweep(&mut self, now: Instant) -> Result<bool, DataplaneError> {
        let steered = self.steered.values();
        let services: BTreeSet<u32> = steered.clone().map(|steered| steered.id).collect();
        let regions = steered
            .clone()
            .flat_map(|steered| [steered.ring, steered.quic]);
        let regions: BTreeSet<u32> = regions
            .filter(|region| region.slots != 0)
            .map(|region| region.first)
            .collect();
        let devices = steered
            .clone()
            .flat_map(|steered| &steered.devices)
            .copied();
        let devices: BTreeSet<u32> = devices
            .chain(self.own.iter().map(|own| own.ifindex))
            .collect();
        let backends: BTreeSet<u32> = steered
            .flat_map(|steered| &steered.backends)
            .map(|&(number, _)| number)
            .collect();
        for id in self.services.sweep(|id| services.contains(&id)) {
            self.clear_limit(id);
        }
        for id in self.sources.services() {
            if !services.contains(&id) {
                self.purge.0.remove(&id);
                self.sources.set(id, &Rules::default())?;
            }
        }
        self.devices.keep(&devices)?;
        for number in self.backends.sweep(|number| backends.contains(&number)) {
            self.clear_backend(number);
        }
        Ok(self
            .regions
            .sweep(|region| regions.contains(&region.first), now))
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
        for word in self.maps.loads.element(number) {
            word.store(0);
        }
    }
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
