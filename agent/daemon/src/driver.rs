//! The one loop: takes events from IO, feeds them to the core with the time, and carries out what
//! the core decides. The only reader of the clock.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::IpAddr,
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use sd_notify::NotifyState;
use steerd_core::{
    action::{Action, Notice, Steering},
    api::{InterfaceStatus, RecentNotice, Reloaded, Status},
    config::{Config, Name},
    event::{BackendKey, Command, Event},
    node::{Node, Restored},
    time::Instant,
    vrrp::election::Role,
};
use tokio::{
    runtime::Handle,
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, watch},
    time::MissedTickBehavior,
};
use tracing::{debug, error, info, warn};

use crate::{
    io::{
        announce::{AnnounceError, Announcer},
        control::{self, ControlError, Request},
        dataplane::{Dataplane, DataplaneError, Own},
        netlink::{Iface, Netlink, NetlinkError},
        peer::{PeerError, Peers},
        probe,
        state::{StateError, StateFile},
    },
    read_config,
};

/// Events that wait for the loop at most; IO that finds no room drops what the network may lose
/// and waits with the rest.
const EVENTS: usize = 4096;

/// How often the daemon gives its sign of life to the control map.
const HEARTBEAT: Duration = Duration::from_millis(100);

/// How many notices `steerctl status` shows at most.
const HISTORY: usize = 64;

/// Why the daemon stops.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DriverError {
    #[error(transparent)]
    Dataplane(#[from] DataplaneError),
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error(transparent)]
    Peer(#[from] PeerError),
    #[error(transparent)]
    Announce(#[from] AnnounceError),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error("cannot wait for signals: {0}")]
    Signals(std::io::Error),
}

/// The running daemon.
pub(crate) struct Driver {
    node: Node,
    plane: Dataplane,
    netlink: Netlink,
    peers: Peers,
    announcer: Announcer,
    state: StateFile,
    config_path: PathBuf,
    workers: Handle,
    events: mpsc::Receiver<Event>,
    /// For what probes report.
    sender: mpsc::Sender<Event>,
    requests: mpsc::Receiver<Request>,
    interfaces: watch::Receiver<Vec<Iface>>,
    signals: Signals,
    started: Instant,
    history: VecDeque<RecentNotice>,
    /// What was last said of each service, to be said again when this host's MACs change.
    steering: BTreeMap<Name, Steering>,
    forwarders: Vec<[u8; 6]>,
    masters: BTreeSet<Name>,
    sources: BTreeMap<Name, Option<IpAddr>>,
    /// This host's addresses.
    addresses: BTreeSet<IpAddr>,
    /// The virtual addresses that this host serves as a backend.
    served: BTreeSet<IpAddr>,
    /// When an error of each kind was last logged.
    complained: BTreeMap<&'static str, Instant>,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

/// Whether to go on.
enum Next {
    Continue,
    Stop,
}

impl Driver {
    /// Opens everything and attaches the program.
    pub(crate) async fn start(
        config: Config,
        config_path: PathBuf,
        workers: Handle,
    ) -> Result<Self, DriverError> {
        let started = now();
        // First what can be refused without having changed anything.
        let bound = control::bind(&config.control)?;
        let state = StateFile::open(&config.node.state_dir)?;
        let mut plane = Dataplane::load(&config.dataplane)?;
        let (sender, events) = mpsc::channel(EVENTS);
        let peers = Peers::open(&config, sender.clone())?;
        let announcer = Announcer::open(&config, sender.clone())?;
        let netlink = Netlink::start(&config, sender.clone()).await?;
        let interfaces = netlink.interfaces();

        let restored = restored(&config, &plane, &state, started);
        let node = Node::new(config, &restored, random_seed(started), started);
        start_kernel_log(&mut plane);
        let (request_sender, requests) = mpsc::channel(64);
        workers.spawn(bound.serve(request_sender));
        let mut driver = Self {
            node,
            plane,
            netlink,
            peers,
            announcer,
            state,
            config_path,
            workers,
            events,
            sender,
            requests,
            interfaces,
            signals: Signals::new().map_err(DriverError::Signals)?,
            started,
            history: VecDeque::new(),
            steering: BTreeMap::new(),
            forwarders: Vec::new(),
            masters: BTreeSet::new(),
            sources: BTreeMap::new(),
            addresses: BTreeSet::new(),
            served: BTreeSet::new(),
            complained: BTreeMap::new(),
        };
        driver.update_macs();
        driver.update_sources();
        // The maps say what the core decided, then packets follow them: a new program must not
        // begin with empty maps.
        driver.perform_all().await;
        driver.plane.attach()?;
        info!(config = %driver.config_path.display(), "steerd {} is running", env!("CARGO_PKG_VERSION"));
        notify_systemd(NotifyState::Ready);
        Ok(driver)
    }

    /// The loop. Ends after an orderly handover.
    pub(crate) async fn run(mut self) -> Result<(), DriverError> {
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let deadline = self.node.next_deadline();
            let sleep = deadline.map_or(Duration::MAX, |deadline| deadline.since(now()));
            tokio::select! {
                // In this order: what has arrived counts before what is late.
                biased;
                Some(event) = self.events.recv() => self.handle(event).await,
                request = self.requests.recv() => match request {
                    Some(request) => self.answer(request),
                    None => error!("the control socket is closed"),
                },
                _ = self.signals.terminate.recv() => self.stop("SIGTERM"),
                _ = self.signals.interrupt.recv() => self.stop("SIGINT"),
                _ = self.signals.hangup.recv() => {
                    match self.reload(false) {
                        Ok(_) => {}
                        Err(message) => error!("nothing was reloaded:\n{message}"),
                    }
                }
                Ok(()) = self.interfaces.changed() => self.interfaces_changed(),
                () = tokio::time::sleep(sleep), if deadline.is_some() => self.node.tick(now()),
                _ = heartbeat.tick() => {
                    self.plane.heartbeat(now());
                    self.update_sources();
                }
            }
            // What else has arrived meanwhile is taken before any timer.
            while let Ok(event) = self.events.try_recv() {
                self.handle(event).await;
            }
            if deadline.is_some_and(|deadline| deadline <= now()) {
                self.node.tick(now());
            }
            if let Next::Stop = self.perform_all().await {
                info!("handed over; the kernel program keeps steering");
                return Ok(());
            }
        }
    }

    async fn handle(&mut self, event: Event) {
        debug!(?event);
        let addresses = match &event {
            Event::LocalAddresses(addresses) => Some(addresses.clone()),
            _ => None,
        };
        self.node.handle(event, now());
        if let Some(addresses) = addresses {
            self.addresses = addresses;
            self.update_served().await;
        }
    }

    fn stop(&mut self, signal: &str) {
        info!("{signal}: handing over");
        notify_systemd(NotifyState::Stopping);
        self.node.handle(Event::Command(Command::Shutdown), now());
    }

    async fn perform_all(&mut self) -> Next {
        let mut next = Next::Continue;
        while let Some(action) = self.node.poll_action() {
            if let Next::Stop = self.perform(action).await {
                next = Next::Stop;
            }
        }
        if let Err(error) = self.plane.commit() {
            self.complain("commit", &error);
        }
        next
    }

    async fn perform(&mut self, action: Action) -> Next {
        match action {
            Action::RunProbe { backend, probe } => self.run_probe(backend, &probe),
            Action::SendAdvert { router, advert } => {
                if let Err(error) = self.peers.send(&router, &advert) {
                    self.complain("advert", &error);
                }
            }
            Action::Acquire { router } => {
                if let Some(config) = self.node.config().virtual_router(&router)
                    && let Err(error) = self.netlink.acquire(config).await
                {
                    error!(%router, "{error}");
                }
            }
            Action::Release { router } => {
                if let Some(config) = self.node.config().virtual_router(&router)
                    && let Err(error) = self.netlink.release(config).await
                {
                    error!(%router, "{error}");
                }
            }
            Action::Announce { router } => {
                if let Err(error) = self.announcer.announce(&router) {
                    self.complain("announce", &error);
                }
            }
            Action::ProbeAddresses { router } => {
                if let Err(error) = self.announcer.probe_addresses(&router) {
                    self.complain("probe addresses", &error);
                }
            }
            Action::Resolve { address } => self.netlink.resolve(address),
            Action::Forget { address } => self.netlink.forget(address),
            Action::Steer(steering) => {
                if let Err(error) = self.plane.steer(&steering, now()) {
                    error!(service = %steering.service, "{error}");
                }
                self.steering.insert(steering.service.clone(), steering);
            }
            Action::Unsteer { service } => {
                self.steering.remove(&service);
                self.plane.unsteer(&service, now());
            }
            Action::Forwarders(macs) => {
                self.forwarders = macs;
                self.update_macs();
            }
            Action::Reconfigured => self.reconfigured().await,
            Action::Notice(notice) => self.note(&notice),
            Action::Exit => return Next::Stop,
        }
        Next::Continue
    }

    fn run_probe(&self, key: BackendKey, name: &Name) {
        let Some(service) = self.node.config().service(&key.service) else {
            return;
        };
        let backend = service
            .backends
            .iter()
            .find(|backend| backend.name == key.backend);
        let probe = service.probes.iter().find(|probe| probe.name == *name);
        let (Some(backend), Some(probe)) = (backend, probe) else {
            return;
        };
        let (probe, address) = (probe.clone(), backend.address);
        let port = probe.port.unwrap_or(backend.port);
        let sender = self.sender.clone();
        self.workers.spawn(async move {
            let (outcome, took) = probe::run(&probe, address, port).await;
            let event = Event::Probe {
                backend: key,
                probe: probe.name,
                outcome,
                took,
            };
            // The driver is gone: nobody wants to know.
            let _ = sender.send(event).await;
        });
    }

    /// Reads the configuration again; what changed, or the mistakes in words.
    fn reload(&mut self, dry_run: bool) -> Result<Vec<String>, String> {
        let config = read_config(&self.config_path)?;
        let changes = self.node.plan(&config).changes();
        if !dry_run {
            for change in &changes {
                info!("reload: {change}");
            }
            info!(
                changes = changes.len(),
                "reloaded {}",
                self.config_path.display()
            );
            self.node
                .handle(Event::Command(Command::Reload(Box::new(config))), now());
        }
        Ok(changes)
    }

    /// The core works by a new configuration: the IO follows.
    async fn reconfigured(&mut self) {
        let config = self.node.config();
        if let Err(error) = self.peers.reconfigure(config) {
            error!("{error}");
        }
        if let Err(error) = self.announcer.reconfigure(config) {
            error!("{error}");
        }
        self.netlink.reconfigure(config);
        self.update_sources();
        self.update_served().await;
    }

    /// Makes this host a backend of the services that have one of its addresses among their
    /// backends, whoever is master: peers hand it their packets.
    async fn update_served(&mut self) {
        let mut served = BTreeSet::new();
        for service in &self.node.config().services {
            if service
                .backends
                .iter()
                .any(|backend| self.addresses.contains(&backend.address))
            {
                served.insert(service.address);
            }
        }
        let config = &self.node.config().dataplane;
        for &vip in served.difference(&self.served) {
            if let Err(error) = self.netlink.prepare_backend(vip, &config.interfaces).await {
                error!("{error}");
            }
        }
        for &vip in self.served.difference(&served) {
            if let Err(error) = self.netlink.unprepare(vip).await {
                error!("{error}");
            }
        }
        self.served = served;
    }

    /// An interface came, went or changed its MAC.
    fn interfaces_changed(&mut self) {
        self.update_macs();
        // An interface that was removed and made again is another one to its sockets.
        let config = self.node.config();
        if let Err(error) = self.peers.reconfigure(config) {
            warn!("{error}");
        }
        if let Err(error) = self.announcer.reconfigure(config) {
            warn!("{error}");
        }
        self.update_sources();
    }

    /// Tells the program which MACs are this host's and which are peers'.
    fn update_macs(&mut self) {
        let own: Vec<Own> = self
            .interfaces
            .borrow_and_update()
            .iter()
            .map(|interface| Own {
                ifindex: interface.index,
                mac: interface.mac,
            })
            .collect();
        let own_changed = own != self.plane.own();
        if let Err(error) = self.plane.set_macs(own, self.forwarders.clone()) {
            self.complain("macs", &error);
        }
        if own_changed {
            // Backends' entries hold this host's MAC.
            for steering in self.steering.values() {
                if let Err(error) = self.plane.steer(steering, now()) {
                    error!(service = %steering.service, "{error}");
                }
            }
        }
    }

    /// Tells the core from which addresses adverts are sent.
    fn update_sources(&mut self) {
        let routers: Vec<Name> = self
            .node
            .config()
            .virtual_routers
            .iter()
            .map(|router| router.name.clone())
            .collect();
        for router in routers {
            let address = self.peers.source(&router);
            if self.sources.get(&router) != Some(&address) {
                self.sources.insert(router.clone(), address);
                self.node.handle(Event::Source { router, address }, now());
            }
        }
    }

    fn note(&mut self, notice: &Notice) {
        let text = notice.to_string();
        match notice {
            Notice::Misconfigured { .. } => error!("{text}"),
            Notice::Backend { up: false, .. }
            | Notice::Tier { to: None, .. }
            | Notice::Role {
                to: Role::Fault, ..
            }
            | Notice::Link { up: false, .. }
            | Notice::Peer { alive: false, .. } => warn!("{text}"),
            _ => info!("{text}"),
        }
        if let Notice::Role { router, to, .. } = notice {
            if *to == Role::Master {
                self.masters.insert(router.clone());
            } else {
                self.masters.remove(router);
            }
            if let Err(error) = self.state.set_masters(self.masters.clone()) {
                self.complain("state", &error);
            }
        }
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        let since_epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let at_unix_ms = u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX);
        self.history.push_back(RecentNotice { at_unix_ms, text });
    }

    /// Logs an error of a kind that may repeat: at most once in ten seconds.
    fn complain(&mut self, kind: &'static str, error: &dyn std::error::Error) {
        let now = now();
        let last = self.complained.get(kind);
        if last.is_none_or(|last| now.since(*last) >= Duration::from_secs(10)) {
            self.complained.insert(kind, now);
            error!("{error}");
        }
    }

    fn answer(&mut self, request: Request) {
        // Who no longer waits for the answer does not get it.
        match request {
            Request::Status(reply) => drop(reply.send(self.status())),
            Request::Flows { query, reply } => drop(reply.send(self.plane.flows(&query))),
            Request::Maps(reply) => drop(reply.send(Ok(self.plane.map_list()))),
            Request::MapDump { name, from, reply } => {
                drop(reply.send(self.plane.map_dump(&name, from)));
            }
            Request::Reload { dry_run, reply } => {
                let outcome = self.reload(dry_run).map(|changes| Reloaded { changes });
                drop(reply.send(outcome));
            }
            Request::Failover { router, reply } => {
                let outcome = self.node.failover(router.as_ref(), now());
                drop(reply.send(outcome.map_err(|error| error.to_string())));
            }
        }
    }

    fn status(&self) -> Status {
        let now = now();
        let (virtual_routers, mut services) = self.node.status(now);
        for service in &mut services {
            let counter = self.plane.service_counter(&service.name);
            (service.packets, service.bytes) = (counter.packets, counter.bytes);
            for backend in &mut service.backends {
                let counter = self.plane.backend_counter(&service.name, &backend.name);
                (backend.packets, backend.bytes) = (counter.packets, counter.bytes);
            }
        }
        let config = self.node.config();
        let interfaces = self.interfaces.borrow();
        let interfaces = config
            .dataplane
            .interfaces
            .iter()
            .map(|name| InterfaceStatus {
                name: name.clone(),
                up: interfaces
                    .iter()
                    .any(|interface| interface.name == *name && interface.up),
                xdp_mode: config.dataplane.xdp_mode,
            });
        Status {
            node: config.node.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_s: now.since(self.started).as_secs(),
            config: self.config_path.display().to_string(),
            interfaces: interfaces.collect(),
            virtual_routers,
            services,
            verdicts: self.plane.verdicts(),
            recent: self.history.iter().cloned().collect(),
        }
    }
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }
}

/// What the last daemon left: its backends' health from the maps, and its roles if it stopped so
/// shortly ago that its peers still wait for its next advert.
fn restored(config: &Config, plane: &Dataplane, state: &StateFile, now: Instant) -> Restored {
    let away = plane.last_heartbeat().map(|last| now.since(last));
    let masters = state.masters().into_iter().filter(|name| {
        let patience = config
            .virtual_router(name)
            .map(|router| 3 * router.advert_interval);
        away.zip(patience)
            .is_some_and(|(away, patience)| away < patience)
    });
    let restored = Restored {
        backends: plane.restored(&config.services),
        masters: masters.collect(),
    };
    if let Some(away) = away {
        info!(
            away_ms = u64::try_from(away.as_millis()).unwrap_or(u64::MAX),
            backends = restored.backends.len(),
            resumed = restored.masters.len(),
            "found the maps of an earlier steerd: its flows go on"
        );
    }
    restored
}

/// Hands what the kernel program reports to the log.
fn start_kernel_log(plane: &mut Dataplane) {
    let logger = match aya_log::EbpfLogger::init(plane.ebpf()) {
        Ok(logger) => logger,
        Err(error) => return warn!("the kernel program's reports are not logged: {error}"),
    };
    let mut logger = match tokio::io::unix::AsyncFd::new(logger) {
        Ok(logger) => logger,
        Err(error) => return warn!("the kernel program's reports are not logged: {error}"),
    };
    tokio::spawn(async move {
        while let Ok(mut guard) = logger.readable_mut().await {
            guard.get_inner_mut().flush();
            guard.clear_ready();
        }
    });
}

/// The time since the boot, suspended or not: the same clock for every daemon of a boot.
fn now() -> Instant {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME);
    // The kernel has had this clock since 2.6.39, and a reading is never negative.
    Instant::from_origin(time.map(Duration::from).unwrap_or_default())
}

fn random_seed(now: Instant) -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(now)
}

/// Tells systemd, where it started us and wants to know.
fn notify_systemd(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        debug!("could not tell systemd: {error}");
    }
}
