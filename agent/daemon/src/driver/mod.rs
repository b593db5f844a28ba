//! The one loop: takes events from IO, feeds them to the core with the time, and carries out what
//! the core decides. The only reader of the clock.
//!
//! * [`act`] carries out actions;
//! * [`answer`] answers the control socket;
//! * [`fence`] tells the program what to fence, and what it has fenced;
//! * [`links`] knows which interfaces the core may count on;
//! * [`nat`] puts the addresses for translation on the host;
//! * [`resume`] takes over what an earlier daemon left;
//! * [`steer`] says to the data plane where packets go, until it is written.

mod act;
mod answer;
mod fence;
mod links;
mod nat;
mod resume;
mod steer;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::IpAddr,
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use act::PortError;
use links::Links;
use nat::NatError;
use sd_notify::NotifyState;
use steer::Unsteered;
use steerd_core::{
    action::{Notice, Steering},
    api::RecentNotice,
    config::{Config, Name},
    event::{Command, Event},
    node::Node,
    time::Instant,
    vrrp::election::Role,
};
use tokio::{
    runtime::Handle,
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tracing::{debug, error, info, trace, warn};

use crate::io::{
    announce::{AnnounceError, Announcer},
    channel::{Channel, ChannelError},
    control::{self, ControlError, Request},
    dataplane::{Dataplane, DataplaneError, Exit},
    netlink::{Iface, Netlink, NetlinkError},
    peer::{PeerError, Peers},
    rt,
    state::{StateError, StateFile},
    track::Tracks,
};

/// Events that wait for the loop at most; IO that finds no room drops what the network may lose
/// and waits with the rest.
const EVENTS: usize = 4096;

/// How often what failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

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
    #[error(transparent)]
    Nat(#[from] NatError),
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error(transparent)]
    Port(#[from] PortError),
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
    tracks: Tracks,
    channel: Channel,
    state: StateFile,
    config_path: PathBuf,
    /// What the IO works by: the core's configuration, but for actions of before a reload.
    config: Config,
    workers: Handle,
    events: mpsc::Receiver<Event>,
    /// For what probes report.
    sender: mpsc::Sender<Event>,
    requests: mpsc::Receiver<Request>,
    interfaces: watch::Receiver<Vec<Iface>>,
    exits: watch::Receiver<Vec<Exit>>,
    signals: Signals,
    started: Instant,
    history: VecDeque<RecentNotice>,
    /// What was last said of each service, to be said again when this host's MACs change.
    steering: BTreeMap<Name, Steering>,
    unsteered: Unsteered,
    forwarders: Vec<[u8; 6]>,
    masters: BTreeSet<Name>,
    sources: BTreeMap<Name, Option<IpAddr>>,
    /// This host's addresses.
    addresses: BTreeSet<IpAddr>,
    /// The virtual addresses that this host serves as a backend, and whether all is prepared for
    /// that. Those of an earlier daemon are among them at first.
    served: BTreeMap<IpAddr, bool>,
    links: Links,
    /// Addresses that wrapped packets are to come to and that the host lacks.
    missing_endpoints: BTreeSet<IpAddr>,
    /// Whether a program steers: an earlier daemon's or this one's. Until then nothing of this host is
    /// changed.
    steers: bool,
    /// The worker's count of connections.
    counting: Option<JoinHandle<()>>,
    /// What does not work at the moment, by kind: logged when it begins, tried again all the time.
    faults: BTreeMap<&'static str, BTreeSet<String>>,
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
        let mut state = StateFile::open(&config.node.state_dir)?;
        let plane = Dataplane::open(&config.dataplane)?;
        // While the kernel verifies the program, for hundreds of milliseconds, this node takes part in
        // the election: as before, where an earlier daemon's program steers meanwhile, else listening.
        let steers = plane.is_carried();
        // Only now: the threads that were started keep the ordinary priority, so that what serves
        // packets on their CPU has its turn.
        rt::make_realtime();
        let (sender, events) = mpsc::channel(EVENTS);
        let peers = Peers::open(&config, sender.clone())?;
        let announcer = Announcer::open(&config, sender.clone())?;
        let mut channel = Channel::new(sender.clone(), workers.clone());
        channel.configure(&config)?;
        let netlink = Netlink::start(&config, sender.clone()).await?;
        let interfaces = netlink.interfaces();
        let exits = netlink.exits();
        let addresses = netlink.addresses().await?;
        nat::check(&config, &addresses, &state)?;
        if let Some(error) = act::ports(&interfaces.borrow()).next() {
            return Err(error.into());
        }

        resume::tidy_up(&config, &netlink, &mut state).await?;
        let restored = resume::restored(&config, &plane, &state, started);
        let mut node = Node::new(config.clone(), &restored, random_seed(started), started);
        node.handle(Event::Steers(steers), started);
        let forwarders = plane.forwarders().to_vec();
        let (request_sender, requests) = mpsc::channel(64);
        workers.spawn(bound.serve(request_sender));
        let served = state.served().clone();
        let links = Links::new(&config);
        let mut driver = Self {
            node,
            plane,
            netlink,
            peers,
            announcer,
            tracks: Tracks::new(workers.clone(), sender.clone()),
            channel,
            state,
            config_path,
            config,
            workers,
            events,
            sender,
            requests,
            interfaces,
            exits,
            signals: Signals::new().map_err(DriverError::Signals)?,
            started,
            history: VecDeque::new(),
            steering: BTreeMap::new(),
            unsteered: Unsteered::default(),
            forwarders,
            masters: BTreeSet::new(),
            sources: BTreeMap::new(),
            addresses,
            served: served.into_iter().map(|vip| (vip, false)).collect(),
            links,
            missing_endpoints: BTreeSet::new(),
            steers,
            counting: None,
            faults: BTreeMap::new(),
            complained: BTreeMap::new(),
        };
        driver.update_macs();
        driver.update_sources();
        driver.plane.set_flow_idle(&driver.config.flows);
        driver
            .plane
            .configure(&driver.config.tunnel, &driver.config.nat)?;
        driver.update_fences();
        for router in &restored.masters {
            driver.plane.hold(router, true);
        }
        driver.update_own().await;
        // The maps say what the core decided, then packets follow them: a new program must not
        // begin with empty maps.
        driver.perform_all().await;
        let interfaces = driver.interfaces.borrow().clone();
        driver.links.set_attached(&interfaces);
        if driver.steers {
            driver.is_running();
        }
        Ok(driver)
    }

    fn is_running(&self) {
        info!(config = %self.config_path.display(), "steerd {} is running", env!("CARGO_PKG_VERSION"));
        notify_systemd(NotifyState::Ready);
    }

    /// The loop. Ends after an orderly handover.
    pub(crate) async fn run(mut self) -> Result<(), DriverError> {
        let mut heartbeat_at = now();
        let mut retry_at = now();
        let mut control_open = true;
        let mut refused = None;
        loop {
            let deadline = self.node.next_deadline();
            // One timer for all: the runtime makes two system calls for each that is set.
            let wake = deadline
                .map_or(retry_at, |deadline| deadline.min(retry_at))
                .min(heartbeat_at);
            tokio::select! {
                // In this order: what has arrived counts before what is late.
                biased;
                Some(event) = self.events.recv() => self.handle(event).await,
                request = self.requests.recv(), if control_open => match request {
                    Some(request) => self.answer(request),
                    None => {
                        // Asked again it would say so again, at once.
                        control_open = false;
                        error!("the control socket is closed: restart steerd to use steerctl");
                    }
                },
                _ = self.signals.terminate.recv() => self.stop("SIGTERM"),
                _ = self.signals.interrupt.recv() => self.stop("SIGINT"),
                _ = self.signals.hangup.recv() => {
                    match self.reload(false) {
                        Ok(_) => {}
                        Err(message) => error!("nothing was reloaded:\n{message}"),
                    }
                }
                Ok(()) = self.interfaces.changed() => self.interfaces_changed().await,
                Ok(()) = self.exits.changed() => self.update_exits(),
                loaded = self.plane.loaded(), if !self.plane.is_loaded() && refused.is_none() => {
                    match loaded.and_then(|()| self.plane.attach()) {
                        Ok(()) => self.now_steers().await,
                        Err(error) => {
                            refused = Some(error);
                            self.stop("this version's program cannot steer");
                        }
                    }
                }
                () = tokio::time::sleep(wake.since(now())) => {}
            }
            // What else has arrived meanwhile is taken before any timer.
            while let Ok(event) = self.events.try_recv() {
                self.handle(event).await;
            }
            if deadline.is_some_and(|deadline| deadline <= now()) {
                self.node.tick(now());
            }
            let time = now();
            let period = resume::heartbeat_period(&self.config);
            // With an advert that goes out or comes in, rather than wake for it alone.
            if heartbeat_at.since(time) <= period / 2 {
                heartbeat_at = time + period;
                self.update_sources();
                self.note_fences();
            }
            if retry_at <= time {
                retry_at = time + RETRY;
                self.retry().await;
            }
            if let Next::Stop = self.perform_all().await {
                info!("handed over; the kernel program keeps steering");
                return refused.map_or(Ok(()), |error| Err(error.into()));
            }
            self.plane.heartbeat(now());
        }
    }

    /// The program is attached.
    async fn now_steers(&mut self) {
        if !self.steers {
            self.steers = true;
            self.update_own().await;
            self.update_served().await;
            self.node.handle(Event::Steers(true), now());
            self.is_running();
        }
    }

    async fn handle(&mut self, event: Event) {
        match &event {
            Event::Probe {
                outcome: Err(_), ..
            } => debug!(?event),
            _ => trace!(?event),
        }
        match event {
            Event::Link { interface, up } => {
                self.links.set(interface, up);
                self.interfaces_changed().await;
            }
            Event::LocalAddresses(addresses) => {
                self.addresses.clone_from(&addresses);
                self.node.handle(Event::LocalAddresses(addresses), now());
                self.update_served().await;
                self.update_own().await;
            }
            event => self.node.handle(event, now()),
        }
    }

    fn stop(&mut self, why: &str) {
        info!("{why}: handing over");
        notify_systemd(NotifyState::Stopping);
        self.node.handle(Event::Command(Command::Shutdown), now());
    }

    async fn perform_all(&mut self) -> Next {
        let mut next = Next::Continue;
        // A next hop was told here before the core heard of it.
        self.update_exits();
        while let Some(action) = self.node.poll_action() {
            if let Next::Stop = self.perform(action).await {
                next = Next::Stop;
            }
        }
        // Until each service was steered once, the maps say what the last daemon steered.
        if self.node.settled()
            && let Err(error) = self.plane.commit(now())
        {
            self.complain("commit", &error);
        }
        self.purge();
        next
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
            | Notice::Track { good: false, .. }
            | Notice::Peer { alive: false, .. }
            | Notice::Fenced { .. }
            | Notice::Channel { trouble: true, .. } => warn!("{text}"),
            _ => info!("{text}"),
        }
        if let Notice::Role { router, to, .. } = notice {
            if *to == Role::Master {
                self.masters.insert(router.clone());
            } else {
                self.masters.remove(router);
            }
            if let Err(error) = self.state.set_masters(&self.masters) {
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

    /// Logs what does not work of one kind, where it worked before.
    fn set_faults(&mut self, kind: &'static str, faults: BTreeSet<String>) {
        let before = self.faults.entry(kind).or_default();
        for fault in faults.difference(before) {
            error!("{fault}");
        }
        *before = faults;
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
