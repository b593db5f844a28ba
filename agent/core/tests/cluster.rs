//! A cluster of nodes on a virtual clock, under every fault we could think of.
//!
//! Each seed is a cluster of two or three hosts, each with a game server, and a random history of
//! faults: loss, partitions, daemons killed, stopped in order and restarted, daemons paused, hosts
//! crashed and booted, servers dying, links cut, orders to fail over. What must hold:
//!
//! * **One master.** Two nodes that run, hear each other and have been free of faults (their own and
//!   the network's) for as long are never both master for longer than an advert interval and its
//!   way. Loss, partitions and pauses make double masters for a time; no protocol without a third
//!   party can avoid that, so the clock starts when the last fault ends.
//! * **A master.** When faults have ended, one able node is master within the time of detection and
//!   of the master-down timer: the one with the highest priority (and address), except with
//!   `preempt = false` and for who gave the addresses away by order.
//! * **No traffic to the dead.** No running node's ring holds a server that it could not reach for
//!   longer than the bound of its probes.
//! * **Order.** Addresses are acquired and released in turns, a stopped daemon holds none, actions
//!   name only what is configured, and no deadline is in the past after it was served.
//!
//! `STEERD_SIM_SEED=n` replays one seed with a trace, `STEERD_SIM_SEEDS=n` sets how many are run.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)] // tests may panic

#[expect(dead_code, reason = "shared with other tests")]
mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use steerd_core::{
    action::{Action, Notice, Steering},
    event::{BackendKey, Command, Event, NextHop, ProbeFailure},
    node::{Node, Restored},
    time::Instant,
    vrrp::{election::Role, wire::Advert},
};
use support::{
    assert_deliverable, at, backend, config, host, ms, name, own, probe, router, service, vip,
};

/// Faults happen up to then.
const FAULTS_UNTIL: Duration = Duration::from_secs(6);
/// The longest way of a packet.
const WAY: Duration = Duration::from_millis(3);
/// From the end of a fault until no server that is dead may be in a ring.
const DETECTION: Duration = Duration::from_millis(1000 + 150 + 200 + 150 + 50);
/// The first steering after a restart may wait so long for next hops.
const SETTLE: Duration = Duration::from_secs(1);

#[test]
fn holds_under_faults() {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse::<u64>().ok())
    };
    if let Some(seed) = number("STEERD_SIM_SEED") {
        World::new(seed, true).run();
        return;
    }
    let seeds = number("STEERD_SIM_SEEDS").unwrap_or(2000);
    let next = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let failed = std::thread::scope(|scope| {
        let work = || {
            let mut failed = Vec::new();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= seeds {
                    return failed;
                }
                if catch_unwind(AssertUnwindSafe(|| World::new(seed, false).run())).is_err() {
                    failed.push(seed);
                }
            }
        };
        let handles: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        handles
            .into_iter()
            .flat_map(|handle| handle.join().unwrap())
            .collect::<BTreeSet<u64>>()
    });
    assert!(
        failed.is_empty(),
        "replay with STEERD_SIM_SEED=n: {failed:?}"
    );
}

struct World {
    now: Instant,
    random: Random,
    trace: bool,
    hosts: Vec<Host>,
    queue: BTreeMap<(Instant, u64), Occasion>,
    sequence: u64,
    loss: f64,
    /// Which side of the partition each host is on.
    side: Vec<bool>,
    /// When the network last changed.
    network_since: Instant,
    /// Since when two nodes are both master.
    doubles: BTreeMap<(usize, usize), Instant>,
    conflicts: bool,
    steps: u64,
}

struct Host {
    address: IpAddr,
    config: steerd_core::config::Config,
    node: Option<Node>,
    /// Grows with each start of the daemon: what was meant for an earlier one is void.
    incarnation: u64,
    died: Instant,
    /// Since when daemon and host run undisturbed.
    awake_since: Instant,
    paused: bool,
    inbox: Vec<Event>,
    power: bool,
    link: bool,
    server: bool,
    /// What the kernel keeps without the daemon.
    holds: bool,
    steering: Option<Steering>,
    last: Option<bool>,
    held: bool,
    role: Role,
    /// Told to stop: it steers no more.
    stopping: bool,
    /// Since when each host's server is out of reach from here.
    unreachable: Vec<Option<Instant>>,
}

enum Occasion {
    Deliver {
        to: usize,
        incarnation: u64,
        event: Event,
    },
    Advert {
        from: usize,
        to: usize,
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

#[derive(Debug, Clone, Copy)]
enum Fault {
    Loss(f64),
    Split(usize),
    Heal,
    Kill(usize),
    Stop(usize),
    Start(usize),
    Pause(usize),
    Resume(usize),
    Crash(usize),
    Boot(usize),
    Server(usize, bool),
    Link(usize, bool),
    Failover(usize),
}

impl World {
    fn new(seed: u64, trace: bool) -> Self {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5eed);
        let count = 2 + random.below(2) as usize;
        let (preempt, equal, tiered) =
            (random.chance(0.8), random.chance(0.15), random.chance(0.5));
        let hosts = (0..count).map(|index| {
            let priority = if equal { 100 } else { 110 - 10 * index as u8 };
            let backends = (0..count).map(|of| {
                backend(
                    &format!("b{of}"),
                    host(of),
                    if tiered { of as u8 } else { 0 },
                )
            });
            let mut router = router(priority);
            router.preempt = preempt;
            Host {
                address: host(index),
                config: config(vec![router], vec![service(backends.collect())]),
                node: None,
                incarnation: 0,
                died: Instant::ZERO,
                awake_since: Instant::ZERO,
                paused: false,
                inbox: Vec::new(),
                power: true,
                link: true,
                server: true,
                holds: false,
                steering: None,
                last: None,
                held: false,
                role: Role::Init,
                stopping: false,
                unreachable: vec![None; count],
            }
        });
        let mut world = Self {
            now: Instant::ZERO,
            trace,
            hosts: hosts.collect(),
            queue: BTreeMap::new(),
            sequence: 0,
            loss: 0.0,
            side: vec![false; count],
            network_since: Instant::ZERO,
            doubles: BTreeMap::new(),
            conflicts: false,
            steps: 0,
            random,
        };
        world.schedule(count);
        world
    }

    /// A random history: each fault has its end, but a host or server may stay dead.
    fn schedule(&mut self, count: usize) {
        for index in 0..count {
            let start = ms(self.random.below(300));
            self.push(start, Occasion::Fault(Fault::Start(index)));
        }
        let limit = FAULTS_UNTIL.as_millis() as u64;
        for _ in 0..2 + self.random.below(7) {
            let host = self.random.below(count as u64) as usize;
            let begin = 500 + self.random.below(limit - 1500);
            let end = (begin + 20 + self.random.below(2000)).min(limit);
            let stays = self.random.chance(0.2);
            let (first, then) = match self.random.below(11) {
                0 => (
                    Fault::Loss(0.05 + 0.5 * self.random.share()),
                    Some(Fault::Loss(0.0)),
                ),
                1 | 2 => (Fault::Split(host), Some(Fault::Heal)),
                3 => (Fault::Kill(host), Some(Fault::Start(host))),
                4 => (Fault::Stop(host), Some(Fault::Start(host))),
                5 => (Fault::Pause(host), Some(Fault::Resume(host))),
                6 => (Fault::Crash(host), (!stays).then_some(Fault::Boot(host))),
                7 => (
                    Fault::Server(host, false),
                    (!stays).then_some(Fault::Server(host, true)),
                ),
                8 => (
                    Fault::Link(host, false),
                    (!stays).then_some(Fault::Link(host, true)),
                ),
                _ => (Fault::Failover(host), None),
            };
            self.push(ms(begin), Occasion::Fault(first));
            if let Some(then) = then {
                self.push(ms(end), Occasion::Fault(then));
            }
        }
        // Overlapping faults leave nothing behind but what stays dead by intent.
        for fault in [Fault::Loss(0.0), Fault::Heal] {
            self.push(FAULTS_UNTIL, Occasion::Fault(fault));
        }
        for index in 0..count {
            self.push(FAULTS_UNTIL, Occasion::Fault(Fault::Resume(index)));
            self.push(FAULTS_UNTIL + ms(500), Occasion::Fault(Fault::Start(index)));
        }
    }

    fn run(&mut self) {
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
            Occasion::Advert { from, to, advert } => {
                if self.connected(from, to) {
                    let source = self.hosts[from].address;
                    self.give(
                        to,
                        Event::Advert {
                            router: name("main"),
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
            } => {
                if self.hosts[from].incarnation != incarnation {
                    return;
                }
                let took = self.now.since(started);
                let target = of(&backend);
                let outcome = match self.connected(from, target) {
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
                self.give(
                    from,
                    Event::Probe {
                        backend,
                        probe: name("tcp"),
                        outcome,
                        took,
                    },
                );
            }
            Occasion::Neighbour {
                from,
                incarnation,
                address,
            } => {
                let host = self.hosts.iter().position(|host| host.address == address);
                let found = host.filter(|host| self.connected(from, *host));
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
                        self.push(
                            ms(500),
                            Occasion::Neighbour {
                                from,
                                incarnation,
                                address,
                            },
                        );
                    }
                }
            }
            Occasion::Fault(fault) => self.fault(fault),
        }
    }

    fn fault(&mut self, fault: Fault) {
        if self.trace {
            println!("{} {fault:?}", self.now);
        }
        match fault {
            Fault::Loss(loss) => {
                self.loss = loss;
                self.network_since = self.now;
            }
            Fault::Split(host) => {
                self.side.fill(false);
                self.side[host] = true;
                self.network_since = self.now;
            }
            Fault::Heal => {
                self.side.fill(false);
                self.network_since = self.now;
            }
            Fault::Kill(host) => self.hosts[host].die(self.now),
            Fault::Stop(host) => {
                self.hosts[host].awake_since = self.now;
                self.hosts[host].stopping = true;
                self.give(host, Event::Command(Command::Shutdown));
            }
            Fault::Start(host) => {
                if self.hosts[host].power && self.hosts[host].node.is_none() {
                    self.start(host);
                }
            }
            Fault::Pause(host) => self.hosts[host].paused = self.hosts[host].node.is_some(),
            Fault::Resume(host) => {
                if std::mem::take(&mut self.hosts[host].paused) {
                    self.hosts[host].awake_since = self.now;
                    // What its sockets hold first, as the daemon does.
                    for event in std::mem::take(&mut self.hosts[host].inbox) {
                        self.give(host, event);
                    }
                    self.with_node(host, |node, now| node.tick(now));
                }
            }
            Fault::Crash(host) => {
                let host = &mut self.hosts[host];
                host.die(self.now);
                (host.power, host.server, host.holds, host.steering) = (false, false, false, None);
            }
            Fault::Boot(host) => {
                if !std::mem::replace(&mut self.hosts[host].power, true) {
                    self.hosts[host].server = true;
                    self.start(host);
                }
            }
            Fault::Server(host, up) => {
                self.hosts[host].server = up && self.hosts[host].power;
            }
            Fault::Link(host, up) => {
                self.hosts[host].link = up;
                self.hosts[host].awake_since = self.now;
                self.give(
                    host,
                    Event::Link {
                        interface: name("eth0"),
                        up,
                    },
                );
            }
            Fault::Failover(host) => {
                if !self.hosts[host].paused {
                    self.with_node(host, |node, now| drop(node.failover(None, now)));
                }
            }
        }
    }

    fn start(&mut self, index: usize) {
        let host = &mut self.hosts[index];
        let mut restored = Restored::default();
        if host.holds && self.now.since(host.died) < ms(1000) {
            restored.masters.insert(name("main"));
        }
        for backend in host.steering.iter().flat_map(|steering| &steering.backends) {
            let key = BackendKey {
                service: name("game"),
                backend: backend.name.clone(),
            };
            restored.backends.insert(key, backend.alive);
        }
        host.incarnation += 1;
        host.awake_since = self.now;
        (host.last, host.held) = (None, false);
        (host.role, host.stopping) = (Role::Init, false);
        host.node = Some(Node::new(host.config.clone(), &restored, 1, self.now));
        let (address, link) = (host.address, host.link);
        let mut addresses = vec![address];
        addresses.extend(host.holds.then(vip));
        self.carry_out(index);
        let source = Some(address);
        self.give(
            index,
            Event::Source {
                router: name("main"),
                address: source,
            },
        );
        self.give(index, Event::LocalAddresses(own(&addresses)));
        self.give(
            index,
            Event::Link {
                interface: name("eth0"),
                up: link,
            },
        );
    }

    fn give(&mut self, to: usize, event: Event) {
        match &self.hosts[to] {
            Host { node: None, .. } => {}
            Host { paused: true, .. } => self.hosts[to].inbox.push(event),
            Host { .. } => self.with_node(to, |node, now| node.handle(event, now)),
        }
    }

    fn with_node(&mut self, index: usize, act: impl FnOnce(&mut Node, Instant)) {
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
        let main = name("main");
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
                assert_eq!(router, main);
                if self.trace && advert.priority == 0 {
                    println!("{} host {from} resigns", self.now);
                }
                for to in (0..self.hosts.len()).filter(|to| *to != from) {
                    if self.connected(from, to) && !self.random.chance(self.loss) {
                        let way = WAY.mul_f64(0.1 + 0.9 * self.random.share());
                        self.push(
                            way,
                            Occasion::Advert {
                                from,
                                to,
                                advert: advert.clone(),
                            },
                        );
                    }
                }
            }
            Action::Acquire { router } => self.hold(from, &router, true),
            Action::Release { router } => self.hold(from, &router, false),
            Action::Announce { router } => {
                assert_eq!(router, main);
                assert!(self.hosts[from].holds, "announces what it does not hold");
            }
            Action::ProbeAddresses { router } => {
                assert_eq!(router, main);
                for to in (0..self.hosts.len()).filter(|to| *to != from) {
                    if self.connected(from, to) && self.hosts[to].holds {
                        let (router, address, mac) = (main.clone(), vip(), mac(to));
                        let event = Event::AddressConflict {
                            router,
                            address,
                            mac,
                        };
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
            Action::Forget { address } => assert_eq!(address, self.hosts[from].address),
            Action::Steer(steering) => {
                assert_deliverable(&steering);
                assert!(matches!(steering.ring.len(), 0 | 31));
                self.hosts[from].steering = Some(steering);
            }
            Action::Forwarders(macs) => {
                assert!(
                    macs.iter()
                        .all(|known| (0..self.hosts.len()).any(|to| mac(to) == *known))
                );
            }
            Action::Notice(Notice::Role {
                from: before,
                to,
                cause,
                ..
            }) => {
                assert_eq!(self.hosts[from].role, before);
                self.hosts[from].role = to;
                self.conflicts |= to == Role::Fault && cause.contains("in use by");
                if before == Role::Master && to == Role::Backup {
                    self.hosts[from].held = cause.contains("failover");
                }
            }
            Action::Notice(_) => {}
            Action::Exit => {
                assert!(!self.hosts[from].holds, "stopped with the addresses");
                self.hosts[from].die(self.now);
            }
            Action::Unsteer { .. } | Action::Reconfigured => panic!("nobody reloads"),
            Action::RunTrack { .. } | Action::StopTrack { .. } => panic!("nobody tracks"),
            Action::Say { .. } => panic!("nobody has a channel"),
        }
    }

    fn hold(&mut self, index: usize, router: &steerd_core::config::Name, holds: bool) {
        assert_eq!(*router, name("main"));
        let host = &mut self.hosts[index];
        assert_ne!(
            host.last,
            Some(holds),
            "host {index} twice: {}",
            if holds { "acquire" } else { "release" }
        );
        host.last = Some(holds);
        host.holds = holds;
        host.held &= !holds;
        let mut addresses = vec![host.address];
        addresses.extend(holds.then(vip));
        let (to, incarnation, event) = (
            index,
            host.incarnation,
            Event::LocalAddresses(own(&addresses)),
        );
        self.push(
            ms(1),
            Occasion::Deliver {
                to,
                incarnation,
                event,
            },
        );
    }

    /// What must hold at every moment.
    fn check(&mut self) {
        let count = self.hosts.len();
        for a in 0..count {
            for b in a + 1..count {
                let both =
                    self.rules(a) && self.rules(b) && self.connected(a, b) && self.loss == 0.0;
                if !both {
                    self.doubles.remove(&(a, b));
                    continue;
                }
                let began = *self.doubles.entry((a, b)).or_insert(self.now);
                let calm = self.network_since;
                let calm = calm
                    .max(self.hosts[a].awake_since)
                    .max(self.hosts[b].awake_since);
                let both_for = self.now.since(began.max(calm));
                let bound = ms(100) + WAY * 2 + ms(1);
                assert!(
                    both_for <= bound,
                    "{}: {a} and {b} both master for {both_for:?}",
                    self.now
                );
            }
        }
        for from in 0..count {
            for to in 0..count {
                let reached = self.connected(from, to) && self.hosts[to].server;
                let since = &mut self.hosts[from].unreachable[to];
                *since = if reached {
                    None
                } else {
                    since.or(Some(self.now))
                };
            }
            let host = &self.hosts[from];
            let (Some(steering), Some(_), false) =
                (&host.steering, &host.node, host.paused || host.stopping)
            else {
                continue;
            };
            for (to, since) in host.unreachable.iter().enumerate() {
                let Some(since) = since else { continue };
                let gone = self.now.since((*since).max(host.awake_since));
                let used = steering.ring.iter().any(|slot| usize::from(*slot) == to);
                let bound = DETECTION + SETTLE;
                assert!(
                    !used || gone <= bound,
                    "{}: {from} steers to {to}, gone for {gone:?}",
                    self.now
                );
            }
        }
    }

    /// What must hold when faults have ended.
    fn one_master(&self) {
        let indices = || 0..self.hosts.len();
        let able: Vec<usize> = indices().filter(|index| self.able(*index)).collect();
        let masters: Vec<usize> = indices().filter(|index| self.rules(*index)).collect();
        let now = self.now;
        assert_eq!(
            masters.len(),
            able.len().min(1),
            "{now}: masters {masters:?} of able {able:?}"
        );
        for index in indices().filter(|index| self.hosts[*index].power) {
            let holds = self.hosts[index].holds;
            assert_eq!(
                holds,
                masters.contains(&index),
                "{now}: the addresses of host {index}"
            );
        }
        let Some(master) = masters.first() else {
            return;
        };
        assert!(
            able.contains(master),
            "{now}: {master} is master and cannot serve"
        );
        let router = &self.hosts[*master].config.virtual_routers[0];
        for other in able {
            let host = &self.hosts[other];
            // An equal priority does not preempt, whatever the address (RFC 9568 6.4.2).
            let better = host.config.virtual_routers[0].priority > router.priority;
            let may = better && router.preempt && !host.held;
            assert!(!may, "{now}: {master} is master before {other}");
        }
    }

    fn able(&self, index: usize) -> bool {
        let host = &self.hosts[index];
        let reaches = |to: usize| self.connected(index, to) && self.hosts[to].server;
        host.node.is_some() && host.link && (0..self.hosts.len()).any(reaches)
    }

    /// Whether it acts as a master.
    fn rules(&self, index: usize) -> bool {
        let host = &self.hosts[index];
        !host.paused && host.node.is_some() && host.role == Role::Master
    }

    fn connected(&self, a: usize, b: usize) -> bool {
        let (from, to) = (&self.hosts[a], &self.hosts[b]);
        a == b && from.power
            || from.power && to.power && from.link && to.link && self.side[a] == self.side[b]
    }

    fn push(&mut self, after: Duration, occasion: Occasion) {
        self.sequence += 1;
        self.queue
            .insert((self.now + after, self.sequence), occasion);
    }
}

impl Host {
    fn die(&mut self, now: Instant) {
        if self.node.take().is_some() {
            self.died = now;
        }
        self.awake_since = now;
        self.paused = false;
        self.inbox.clear();
        self.incarnation += 1;
    }

    fn deadline(&self) -> Option<Instant> {
        self.node.as_ref().and_then(Node::next_deadline)
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

fn mac(host: usize) -> [u8; 6] {
    [2, 0, 0, 0, 0, host as u8]
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn chance(&mut self, share: f64) -> bool {
        self.share() < share
    }
}
