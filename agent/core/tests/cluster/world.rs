//! The clock, the network and what kernels do.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use steerd_core::{
    action::{Action, Notice},
    event::{BackendKey, Event, NextHop, ProbeFailure},
    node::{Node, Restored},
    time::Instant,
    vrrp::{election::Role, wire::Advert},
};

use crate::{
    checks::{Checks, DETECTION, SETTLE},
    faults::{FAULTS_UNTIL, Fault},
    host::{self, Host, ROUTERS, mac, number},
    random::Random,
    support::{assert_deliverable, at, ms, name, own, probe},
};

/// The longest way of a packet, while the network is well.
pub(crate) const WAY: Duration = Duration::from_millis(3);

pub(crate) struct World {
    pub(crate) now: Instant,
    pub(crate) random: Random,
    pub(crate) trace: bool,
    pub(crate) hosts: Vec<Host>,
    queue: BTreeMap<(Instant, u64), Occasion>,
    sequence: u64,
    pub(crate) loss: f64,
    /// The longest way of a packet.
    pub(crate) way: Duration,
    /// The share of packets that arrive twice.
    duplicates: f64,
    /// Which side of the partition each host is on.
    pub(crate) side: Vec<bool>,
    /// From whom, to whom, and for which virtual router nothing arrives.
    pub(crate) deaf: BTreeSet<(usize, usize, usize)>,
    /// When the network last changed.
    pub(crate) network_since: Instant,
    pub(crate) checks: Checks,
    pub(crate) conflicts: bool,
    steps: u64,
}

pub(crate) enum Occasion {
    Deliver {
        to: usize,
        incarnation: u64,
        event: Event,
    },
    Advert {
        from: usize,
        to: usize,
        router: usize,
        advert: Advert,
    },
    ProbeEnd {
        from: usize,
        incarnation: u64,
        backend: BackendKey,
        started: Instant,
    },
    Neighbour {
        from: usize,
        incarnation: u64,
        address: IpAddr,
    },
    Fault(Fault),
}

impl World {
    pub(crate) fn new(seed: u64, trace: bool) -> Self {
        let mut random = Random::new(seed);
        let base = host::base(&mut random);
        let (equal, reversed) = (random.chance(0.2), random.chance(0.5));
        let crossed = random.chance(0.3);
        let owner = random.chance(0.1);
        let hosts = (0..base.hosts).map(|index| {
            let mut settings = base.clone();
            let ascending = 110 - 10 * (base.hosts - 1 - index) as u8;
            let descending = 110 - 10 * index as u8;
            settings.priority = match (equal, crossed) {
                (true, _) => [100, 100],
                (false, true) => [descending, ascending],
                (false, false) => [descending, descending],
            };
            if owner && index == 0 {
                settings.priority = [255; 2];
            }
            Host::new(index, settings, reversed)
        });
        let mut world = Self {
            now: Instant::ZERO,
            trace,
            hosts: hosts.collect(),
            queue: BTreeMap::new(),
            sequence: 0,
            loss: 0.0,
            way: WAY,
            duplicates: if random.chance(0.3) { 0.2 } else { 0.0 },
            side: vec![false; base.hosts],
            deaf: BTreeSet::new(),
            network_since: Instant::ZERO,
            checks: Checks::default(),
            conflicts: false,
            steps: 0,
            random,
        };
        world.schedule();
        world
    }

    pub(crate) fn run(&mut self) {
        let calm = at(0) + FAULTS_UNTIL + ms(500);
        self.run_until(calm + DETECTION + SETTLE + ms(1500));
        if self.conflicts {
            // Three questions, five seconds apart, until a conflict counts as ended.
            self.run_until(self.now + ms(16_000));
        }
        let until = self.now + ms(1000);
        while self.now < until {
            self.one_master();
            self.run_until((self.now + ms(50)).min(until));
        }
    }

    fn run_until(&mut self, until: Instant) {
        loop {
            let running = |host: &Host| if host.paused { None } else { host.deadline() };
            let timer = self
                .hosts
                .iter()
                .enumerate()
                .filter_map(|(index, host)| running(host).map(|deadline| (deadline, index)));
            let timer = timer.min();
            let queued = self.queue.first_key_value().map(|(key, _)| key.0);
            let next = [timer.map(|(deadline, _)| deadline), queued]
                .into_iter()
                .flatten()
                .min();
            let Some(next) = next.filter(|next| *next <= until) else {
                break;
            };
            self.now = self.now.max(next);
            self.steps += 1;
            assert!(self.steps < 1_000_000, "no progress at {}", self.now);
            match timer {
                Some((deadline, index)) if queued.is_none_or(|queued| deadline <= queued) => {
                    self.with_node(index, |node, now| node.tick(now));
                    let later = self.hosts[index].deadline();
                    assert!(
                        later.is_none_or(|at| at > self.now),
                        "host {index}: deadline in the past"
                    );
                }
                _ => {
                    let (_, occasion) = self.queue.pop_first().expect("it was the next");
                    self.happen(occasion);
                }
            }
            self.check();
        }
        self.now = until;
    }

    fn happen(&mut self, occasion: Occasion) {
        match occasion {
            Occasion::Deliver {
                to,
                incarnation,
                event,
            } => {
                if self.hosts[to].incarnation == incarnation {
                    self.give(to, event);
                }
            }
            Occasion::Advert {
                from,
                to,
                router,
                advert,
            } => {
                // The daemon has no socket for a virtual router that it does not know.
                if self.passes(from, to, router) && self.hosts[to].knows(router) {
                    let source = self.hosts[from].addresses[router];
                    let router = name(ROUTERS[router]);
                    self.give(
                        to,
                        Event::Advert {
                            router,
                            source,
                            advert,
                        },
                    );
                }
            }
            Occasion::ProbeEnd {
                from,
                incarnation,
                backend,
                started,
            } => self.probe_ends(from, incarnation, backend, started),
            Occasion::Neighbour {
                from,
                incarnation,
                address,
            } => self.neighbour(from, incarnation, address),
            Occasion::Fault(fault) => self.fault(fault),
        }
    }

    fn probe_ends(&mut self, from: usize, incarnation: u64, backend: BackendKey, started: Instant) {
        if self.hosts[from].incarnation != incarnation {
            return;
        }
        let took = self.now.since(started);
        let target = of(&backend);
        let outcome = match self.reaches(from, target) {
            true if self.hosts[target].server => Ok(()),
            true => Err(ProbeFailure::Refused),
            false if took < probe().timeout => {
                let wait = probe().timeout - took;
                let again = Occasion::ProbeEnd {
                    from,
                    incarnation,
                    backend,
                    started,
                };
                self.push(wait, again);
                return;
            }
            false => Err(ProbeFailure::Timeout(probe().timeout)),
        };
        let event = Event::Probe {
            backend,
            probe: name("tcp"),
            outcome,
            took,
        };
        self.give(from, event);
    }

    fn neighbour(&mut self, from: usize, incarnation: u64, address: IpAddr) {
        let mut hosts = self.hosts.iter();
        let host = hosts.position(|host| host.addresses.contains(&address));
        let found = host.filter(|host| self.reaches(from, *host));
        let next_hop = found.map(|host| NextHop {
            ifindex: 2,
            mac: mac(host),
            vlan: 0,
            mtu: 1500,
            gateway: false,
        });
        if self.hosts[from].incarnation == incarnation {
            self.give(from, Event::NextHop { address, next_hop });
            if next_hop.is_none() {
                let again = Occasion::Neighbour {
                    from,
                    incarnation,
                    address,
                };
                self.push(ms(500), again);
            }
        }
    }

    pub(crate) fn start(&mut self, index: usize) {
        let host = &mut self.hosts[index];
        let mut restored = Restored::default();
        if self.now.since(host.died) < ms(1000) {
            let masters = ROUTERS.iter().zip(&host.places);
            let masters = masters.filter(|(_, place)| place.holds);
            restored.masters = masters.map(|(router, _)| name(router)).collect();
        }
        for backend in host.steering.iter().flat_map(|steering| &steering.backends) {
            let key = BackendKey {
                service: name("game"),
                backend: backend.name.clone(),
            };
            restored.backends.insert(key, backend.alive);
        }
        host.incarnation += 1;
        (host.awake_since, host.began) = (self.now, self.now);
        host.delay = host.settings.preempt_delay;
        for (router, place) in host.places.iter_mut().enumerate() {
            (place.last, place.held, place.role) = (None, false, Role::Init);
            // The daemon takes off what is nobody's any more.
            place.holds &= router < host.settings.routers;
        }
        host.stopping = false;
        host.node = Some(Node::new(host.settings.config(), &restored, 1, self.now));
        let (addresses, link) = (host.on_interfaces(), host.link);
        self.carry_out(index);
        for (router, source) in ROUTERS.iter().zip(self.hosts[index].addresses) {
            let (router, address) = (name(router), Some(source));
            self.give(index, Event::Source { router, address });
        }
        self.give(index, Event::LocalAddresses(own(&addresses)));
        let interface = name("eth0");
        self.give(
            index,
            Event::Link {
                interface,
                up: link,
            },
        );
    }

    pub(crate) fn give(&mut self, to: usize, event: Event) {
        match &self.hosts[to] {
            Host { node: None, .. } => {}
            Host { paused: true, .. } => self.hosts[to].inbox.push(event),
            Host { .. } => self.with_node(to, |node, now| node.handle(event, now)),
        }
    }

    pub(crate) fn with_node(&mut self, index: usize, act: impl FnOnce(&mut Node, Instant)) {
        if let Some(node) = &mut self.hosts[index].node {
            act(node, self.now);
            self.carry_out(index);
        }
    }

    fn carry_out(&mut self, index: usize) {
        while let Some(action) = self.hosts[index]
            .node
            .as_mut()
            .and_then(|node| node.poll_action())
        {
            self.act(index, action);
        }
        // Sources are read when the sockets are opened anew.
        self.whole_groups(index);
    }

    fn act(&mut self, from: usize, action: Action) {
        if self.trace
            && !matches!(
                action,
                Action::RunProbe { .. } | Action::SendAdvert { .. } | Action::Announce { .. }
            )
        {
            println!("{} host {from}: {action:?}", self.now);
        }
        let incarnation = self.hosts[from].incarnation;
        match action {
            Action::RunProbe { backend, probe } => {
                assert_eq!(probe, name("tcp"));
                assert!(of(&backend) < self.hosts.len());
                let took = ms(1 + self.random.below(4));
                let started = self.now;
                self.push(
                    took,
                    Occasion::ProbeEnd {
                        from,
                        incarnation,
                        backend,
                        started,
                    },
                );
            }
            Action::SendAdvert { router, advert } => {
                let router = number(&router);
                if advert.priority == 0 {
                    self.hosts[from].places[router].resigned = self.now;
                    if self.trace {
                        println!("{} host {from} resigns {}", self.now, ROUTERS[router]);
                    }
                }
                for to in self.who_hears(from, router) {
                    let advert = advert.clone();
                    let way = self.a_way();
                    self.push(
                        way,
                        Occasion::Advert {
                            from,
                            to,
                            router,
                            advert,
                        },
                    );
                }
            }
            Action::Acquire { router } => self.hold(from, number(&router), true),
            Action::Release { router } => self.hold(from, number(&router), false),
            Action::Announce { router } => {
                let place = &mut self.hosts[from].places[number(&router)];
                assert!(place.holds, "announces what it does not hold");
                place.announced = self.now;
                self.claim(from, number(&router));
            }
            Action::ProbeAddresses { router } => {
                let router = number(&router);
                for to in self.who_hears(from, router) {
                    if self.hosts[to].places[router].holds && self.passes(to, from, router) {
                        let event = claim_of(router, to);
                        self.push(
                            ms(1),
                            Occasion::Deliver {
                                to: from,
                                incarnation,
                                event,
                            },
                        );
                    }
                }
            }
            Action::Resolve { address } => {
                let way = ms(1 + self.random.below(50));
                self.push(
                    way,
                    Occasion::Neighbour {
                        from,
                        incarnation,
                        address,
                    },
                );
            }
            Action::Forget { .. } => {}
            Action::RunTrack { .. } | Action::StopTrack { .. } => panic!("nobody tracks"),
            Action::Say { .. } => panic!("nobody has a channel"),
            Action::Steer(steering) => {
                assert_deliverable(&steering);
                assert!(matches!(steering.ring.len(), 0 | 31));
                self.hosts[from].steering = Some(steering);
            }
            Action::Forwarders(macs) => {
                let known = |mac: &[u8; 6]| (0..self.hosts.len()).any(|to| host::mac(to) == *mac);
                assert!(macs.iter().all(known));
            }
            Action::Notice(Notice::Role {
                router,
                from: before,
                to,
                cause,
            }) => {
                if to == Role::Master && !cause.contains("resumed") {
                    self.may_take_over(from, number(&router));
                }
                let place = &mut self.hosts[from].places[number(&router)];
                assert_eq!(place.role, before);
                (place.role, place.since) = (to, self.now);
                if to == Role::Init {
                    // Should it come back, it begins anew, and releases what may have been left.
                    place.last = None;
                }
                self.conflicts |= to == Role::Fault && cause.contains("in use by");
                if before == Role::Master && to == Role::Backup {
                    place.held = cause.contains("failover");
                    place.ordered = place.held;
                }
            }
            Action::Notice(Notice::Misconfigured { router, what }) => {
                if what.starts_with("failover called off") {
                    self.may_be_called_off(from, number(&router));
                }
            }
            Action::Notice(_) | Action::Reconfigured => {}
            Action::Exit => {
                let holds = self.hosts[from].places.iter().any(|place| place.holds);
                assert!(!holds, "stopped with the addresses");
                self.hosts[from].die(self.now);
            }
            Action::Unsteer { .. } => panic!("no reload takes the service away"),
        }
    }

    /// Who an advert or announcement of this moment may reach, each as often as it does.
    fn who_hears(&mut self, from: usize, router: usize) -> Vec<usize> {
        let mut hear = Vec::new();
        for to in (0..self.hosts.len()).filter(|to| *to != from) {
            if self.passes(from, to, router) && !self.random.chance(self.loss) {
                hear.push(to);
                if self.random.chance(self.duplicates) {
                    hear.push(to);
                }
            }
        }
        hear
    }

    fn a_way(&mut self) -> Duration {
        self.way.mul_f64(0.1 + 0.9 * self.random.share())
    }

    /// The announcement of `from` reaches the others: their daemons see that it claims the address.
    fn claim(&mut self, from: usize, router: usize) {
        for to in self.who_hears(from, router) {
            if self.hosts[to].knows(router) {
                let (incarnation, event) = (self.hosts[to].incarnation, claim_of(router, from));
                let way = self.a_way();
                self.push(
                    way,
                    Occasion::Deliver {
                        to,
                        incarnation,
                        event,
                    },
                );
            }
        }
    }

    fn hold(&mut self, index: usize, router: usize, holds: bool) {
        let host = &mut self.hosts[index];
        let place = &mut host.places[router];
        assert_ne!(
            place.last,
            Some(holds),
            "host {index} twice: {} {}",
            if holds { "acquire" } else { "release" },
            ROUTERS[router],
        );
        place.last = Some(holds);
        place.holds = holds;
        place.held &= !holds;
        let (to, incarnation) = (index, host.incarnation);
        let event = Event::LocalAddresses(own(&host.on_interfaces()));
        self.push(
            ms(1),
            Occasion::Deliver {
                to,
                incarnation,
                event,
            },
        );
    }

    /// Whether what one sends for a virtual router reaches another.
    pub(crate) fn passes(&self, from: usize, to: usize, router: usize) -> bool {
        let (a, b) = (&self.hosts[from], &self.hosts[to]);
        from == to && a.power
            || a.power
                && b.power
                && a.link
                && b.link
                && self.side[from] == self.side[to]
                && !self.deaf.contains(&(from, to, router))
    }

    /// Whether a connection succeeds; over IPv4.
    pub(crate) fn reaches(&self, from: usize, to: usize) -> bool {
        self.passes(from, to, 0) && self.passes(to, from, 0)
    }

    /// Whether two hosts hear each other in all ways.
    pub(crate) fn connected(&self, a: usize, b: usize) -> bool {
        let both = |router| self.passes(a, b, router) && self.passes(b, a, router);
        both(0) && both(1)
    }

    pub(crate) fn push(&mut self, after: Duration, occasion: Occasion) {
        self.sequence += 1;
        self.queue
            .insert((self.now + after, self.sequence), occasion);
    }
}

fn of(backend: &BackendKey) -> usize {
    backend
        .backend
        .as_str()
        .trim_start_matches('b')
        .parse()
        .expect("b and a number")
}

/// The address of `router` is at the host `of`, says that host.
fn claim_of(router: usize, of: usize) -> Event {
    let address = match router {
        0 => crate::support::vip(),
        _ => crate::support::ip("fd00::25"),
    };
    Event::AddressConflict {
        router: name(ROUTERS[router]),
        address,
        mac: mac(of),
    }
}
