//! A whole node: virtual routers, backends and services, tied together.
//!
//! The daemon calls [`Node::handle`] with each event and [`Node::tick`] at [`Node::next_deadline`],
//! and after either takes what [`Node::poll_action`] gives until there is none. It should drain its
//! sockets before it calls `tick`, so that no timer fires over an advert that has already arrived;
//! `handle` fires none.
//! It starts with the state of each interface ([`Event::Link`]) and [`Event::LocalAddresses`]: until
//! it knows them, a node takes part in no election.
//!
//! How the parts hang together, in the order [`Node::tick`] works in:
//!
//! ```text
//!  adverts that stopped --> health --> steering (tier, ring) --> ability --> election
//!       (evidence)       up or down    what new flows get     of a router   its role
//! ```
//!
//! * `network`: what the host's surroundings look like: links, addresses, next hops.
//! * `steering`: which backends a service's traffic goes to: who takes new flows (`choice`), with
//!   which share (`slow_start`).
//! * `routers`: the virtual routers.
//! * `reload`: from one configuration to the next.
//! * `track`: what else is watched, and what that means for virtual routers.
//! * `status`: what the control socket tells.
//! * `peers`: what other nodes say over the channel, and what they are told.

mod choice;
mod network;
mod peers;
mod reload;
mod routers;
mod slow_start;
mod status;
mod steering;
mod track;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::IpAddr,
};

pub use self::routers::FailoverError;
use self::{network::Network, steering::ServiceState};
use crate::{
    action::{Action, Notice},
    channel::Book,
    config::{Config, Name},
    event::{BackendKey, Command, Event},
    health::{Change, Health},
    plan::Plan,
    time::Instant,
    track::Tracks,
    vrrp::election::{Election, Input},
};

/// What an earlier daemon left behind; the default is a cold start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Restored {
    /// Whether each backend was alive, from the pinned maps. One that was counts as up until its
    /// probes say otherwise.
    pub backends: BTreeMap<BackendKey, bool>,
    /// The virtual routers whose addresses are on their interface because the daemon stopped only
    /// moments ago. The node goes on as their master.
    pub masters: BTreeSet<Name>,
}

/// A node.
#[derive(Debug)]
pub struct Node {
    config: Config,
    health: Health,
    network: Network,
    /// The elections, each by [`Election::name`]: one for each sync group, and for each virtual router
    /// that is in none.
    routers: BTreeMap<Name, Election>,
    services: BTreeMap<Name, ServiceState>,
    /// The backends at each address.
    backends_at: BTreeMap<IpAddr, Vec<BackendKey>>,
    tracks: Tracks,
    actions: VecDeque<Action>,
    /// Whether what steers packets is in place.
    steers: bool,
    /// Something that decides on the ability of virtual routers may have changed.
    reconsider: bool,
    /// When peers are to be looked at again: one may no longer be a forwarder by then.
    peers_at: Option<Instant>,
    stage: Stage,
    /// What peers say over the channel.
    book: Book,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Running,
    Stopping,
    Stopped,
}

impl Node {
    /// A node that starts now. `seed` is for the jitter of probes.
    #[must_use]
    pub fn new(config: Config, restored: &Restored, seed: u64, now: Instant) -> Self {
        let elections = config.elections();
        let elections = elections.iter().filter_map(|names| {
            // Half a group is not resumed: the others were another's.
            let resumed = names.iter().all(|name| restored.masters.contains(name));
            routers::elect(&config, names, resumed, now)
        });
        let services = config
            .services
            .iter()
            .map(|service| (service.name.clone(), ServiceState::new(now)));
        let mut node = Self {
            health: Health::new(seed),
            network: Network::default(),
            routers: elections
                .map(|election| (election.name().clone(), election))
                .collect(),
            services: services.collect(),
            backends_at: BTreeMap::new(),
            tracks: Tracks::new(&config.tracks, now),
            actions: VecDeque::new(),
            steers: true,
            reconsider: true,
            peers_at: None,
            stage: Stage::Running,
            book: Book::new(&config, now),
            config,
        };
        for service in &node.config.services {
            for backend in &service.backends {
                let key = BackendKey::of(service, backend);
                let restored = restored.backends.get(&key).copied();
                node.health.set(&key, &service.probes, restored, now);
            }
        }
        node.index(now);
        node.advance(now);
        node
    }

    /// Takes an event that happened at `now`.
    pub fn handle(&mut self, event: Event, now: Instant) {
        match (self.stage, event) {
            (Stage::Stopped, _) => return,
            (Stage::Running, Event::Command(Command::Reload(config))) => self.reload(*config, now),
            (Stage::Running, Event::Command(Command::Shutdown)) => self.stop(true, now),
            (Stage::Stopping, Event::Command(Command::Shutdown)) => self.stop(false, now),
            (Stage::Stopping, Event::Command(Command::Reload(_))) => {}
            (Stage::Running | Stage::Stopping, event) => self.note(event, now),
        }
        self.conclude(now);
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Instant) {
        if self.stage != Stage::Stopped {
            self.advance(now);
        }
    }

    /// What there is to do, in order.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Node::tick`] is due.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let elections = self.routers.values().filter_map(Election::next_deadline);
        match self.stage {
            Stage::Running => {
                let settling = self.services.values().filter_map(ServiceState::deadline);
                elections
                    .chain(settling)
                    .chain(self.health.next_deadline())
                    .chain(self.peers_at)
                    .chain(self.tracks.next_deadline())
                    .chain(self.book.next_deadline())
                    .min()
            }
            Stage::Stopping => elections.chain(self.book.next_deadline()).min(),
            Stage::Stopped => None,
        }
    }

    /// Whether every service has said its first [`Action::Steer`]: the actions given until now name
    /// all that is to be steered. After a restart that takes until next hops are known, at most a
    /// second; before, what an earlier daemon left in the kernel is not to be replaced.
    #[must_use]
    pub fn settled(&self) -> bool {
        self.services.values().all(ServiceState::settled)
    }

    /// What a reload with `config` would change.
    #[must_use]
    pub fn plan(&self, config: &Config) -> Plan {
        Plan::between(&self.config, config)
    }

    /// What the node works by. After a reload its sections for the daemon are the old ones, because
    /// only a restart changes those.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Takes note of what happened; [`Node::advance`] draws the consequences.
    fn note(&mut self, event: Event, now: Instant) {
        match event {
            Event::Probe {
                backend,
                probe,
                outcome,
                took,
            } => {
                let change = self.health.result(&backend, &probe, outcome, took, now);
                self.apply(change);
            }
            Event::Advert {
                router,
                source,
                advert,
            } => {
                if self.network.is_own(source) {
                    let (router, advert) = (&router, &advert);
                    self.input(router, Input::Echo { router, advert }, now);
                    return;
                }
                if !self.member(&router).is_some_and(|of| of.admits(source)) {
                    return;
                }
                self.peers_at = Some(now);
                let input = Input::Advert {
                    router: &router,
                    source,
                    advert: &advert,
                };
                self.input(&router, input, now);
                for key in self.backends_at.get(&source).into_iter().flatten() {
                    self.health.trust(key);
                }
            }
            Event::Refused {
                router,
                source,
                mismatch,
            } => {
                if let Some(name) = self.election_of(&router) {
                    if let Some(election) = self.routers.get_mut(&name) {
                        election.refuse(&router, source, mismatch, now);
                    }
                    self.drain(&name);
                }
            }
            Event::Link { interface, up } => self.link(interface, up),
            Event::Steers(steers) => {
                self.steers = steers;
                self.reconsider = true;
            }
            Event::LocalAddresses(addresses) => {
                if self.network.set_own(addresses, &self.config) {
                    self.resolve(now);
                    self.touch_all();
                }
            }
            Event::Source { router, address } => {
                let mut elections = self.routers.values_mut();
                if let Some(of) = elections.find_map(|election| election.member_mut(&router)) {
                    of.set_source(address);
                }
            }
            Event::NextHop { address, next_hop } => {
                if self.network.set_next_hop(address, next_hop) {
                    self.touch(address);
                    self.forwarders();
                }
            }
            Event::AddressConflict {
                router,
                address,
                mac,
            } => {
                let peer = self.network.is_peer_mac(mac);
                let ours = self
                    .config
                    .virtual_router(&router)
                    .is_some_and(|router| router.addresses.iter().any(|net| net.addr() == address));
                if ours {
                    let input = Input::Conflict {
                        router: &router,
                        address,
                        mac,
                        peer,
                    };
                    self.input(&router, input, now);
                }
            }
            Event::Track {
                track,
                ticket,
                outcome,
            } => {
                let change = self.tracks.report(&track, ticket, outcome, now);
                self.apply_tracks(change);
            }
            Event::Channel { peer, what } => self.hear_peer(&peer, what, now),
            // Handled by stage.
            Event::Command(Command::Reload(_) | Command::Shutdown) => {}
        }
    }

    /// Draws the consequences of what was noted. Not of the time: what else has arrived by now counts
    /// before any timer, and an advert may be among it.
    pub(super) fn conclude(&mut self, now: Instant) {
        self.vouch();
        if self.stage == Stage::Running {
            self.recognise_peers(now);
            self.steer(now);
            self.track(now);
            self.decide_abilities(now);
        }
        self.tell_peers(now);
        if self.stage == Stage::Stopping && self.routers.values().all(Election::is_stopped) {
            self.actions.push_back(Action::Exit);
            self.stage = Stage::Stopped;
        }
    }

    /// Draws the consequences of the time, and then all others.
    fn advance(&mut self, now: Instant) {
        self.vouch();
        if self.stage == Stage::Running {
            self.weigh_evidence(now);
            for change in self.health.tick(now) {
                self.apply(Some(change));
            }
            // Who cannot serve must not take over.
            self.recognise_peers(now);
            self.steer(now);
            self.track(now);
            self.decide_abilities(now);
        }
        for name in self.election_names() {
            self.input(&name, Input::Timer, now);
        }
        self.conclude(now);
    }

    fn apply(&mut self, change: Option<Change>) {
        if let Some(Change::Turned { backend, .. }) = &change {
            self.book.turned(backend);
        }
        Self::apply_to(&mut self.actions, &mut self.services, change);
    }

    fn apply_to(
        actions: &mut VecDeque<Action>,
        services: &mut BTreeMap<Name, ServiceState>,
        change: Option<Change>,
    ) {
        match change {
            None => {}
            Some(Change::Run { backend, probe }) => {
                actions.push_back(Action::RunProbe { backend, probe });
            }
            Some(Change::Turned { backend, up, cause }) => {
                if let Some(service) = services.get_mut(&backend.service) {
                    service.touch();
                }
                actions.push_back(Action::Notice(Notice::Backend { backend, up, cause }));
            }
        }
    }

    fn link(&mut self, interface: Name, up: bool) {
        let ours = self.config.dataplane.interfaces.contains(&interface)
            || self
                .config
                .virtual_routers
                .iter()
                .any(|router| router.interface == interface);
        if !ours {
            return;
        }
        let before = self.network.set_link(interface.clone(), up);
        if before != Some(up) {
            self.reconsider = true;
            // That a link is up at the start is no news.
            if before.is_some() || !up {
                self.actions
                    .push_back(Action::Notice(Notice::Link { interface, up }));
            }
        }
    }

    /// Looks for peers that became forwarders or ceased to be, if that is due.
    fn recognise_peers(&mut self, now: Instant) {
        if self.peers_at.is_some_and(|at| at <= now) {
            let (peers, until) = self.peers(now);
            self.peers_at = until;
            if peers != *self.network.peers() {
                self.want(peers);
            }
        }
    }

    /// Which next hops are needed, and which MACs are peers', follows from configuration, own
    /// addresses and peers heard.
    fn resolve(&mut self, now: Instant) {
        let (peers, until) = self.peers(now);
        self.peers_at = until;
        self.want(peers);
    }

    fn want(&mut self, peers: BTreeSet<IpAddr>) {
        self.actions
            .extend(self.network.set_wanted(&self.config, peers));
        self.forwarders();
    }

    /// The peers of all virtual routers that may forward, and when to look again.
    fn peers(&self, now: Instant) -> (BTreeSet<IpAddr>, Option<Instant>) {
        let mut all = BTreeSet::new();
        let mut look = None;
        for member in self.routers.values().flat_map(Election::members) {
            let (peers, until) = member.forwarders(now);
            all.extend(peers);
            look = [look, until].into_iter().flatten().min();
        }
        (all, look)
    }

    fn forwarders(&mut self) {
        self.actions
            .extend(self.network.forwarders().map(Action::Forwarders));
    }

    /// Rebuilds what is derived from the configuration alone.
    fn index(&mut self, now: Instant) {
        self.backends_at.clear();
        for service in &self.config.services {
            for backend in &service.backends {
                let keys = self.backends_at.entry(backend.address).or_default();
                keys.push(BackendKey::of(service, backend));
            }
        }
        self.resolve(now);
        self.touch_all();
    }

    /// The steering of services with a backend at `address` is to be looked at again.
    fn touch(&mut self, address: IpAddr) {
        for key in self.backends_at.get(&address).into_iter().flatten() {
            if let Some(service) = self.services.get_mut(&key.service) {
                service.touch();
            }
        }
        self.reconsider = true;
    }

    fn touch_all(&mut self) {
        self.services.values_mut().for_each(ServiceState::touch);
        self.reconsider = true;
    }

    fn election_names(&self) -> Vec<Name> {
        self.routers.keys().cloned().collect()
    }
}
