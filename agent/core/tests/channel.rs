//! Nodes with a channel between them, on a virtual clock: handover by order, a master whose adverts are
//! not heard, crashes, and all of that at random.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)] // tests may panic

#[expect(dead_code, reason = "shared with other tests")]
mod support;

use std::collections::{BTreeMap, BTreeSet};

use steerd_core::{
    action::{Action, Notice},
    api::PeerConfig,
    channel::{Happening, Hello, Message, PROTOCOL, codec},
    config::{Channel, ChannelPeer, Config, Name, SyncGroup},
    event::{Command, Event},
    node::{Node, Restored},
    time::Instant,
    vrrp::{election::Role, wire::Advert},
};
use support::{backend, config, drain, host, ms, name, own, router, service};

const NAMES: [&str; 3] = ["a", "b", "c"];

/// How long a message takes over the segment, and over the channel.
const WAY: u64 = 1;

/// The virtual routers, where there is a sync group.
const ROUTERS: [&str; 2] = ["main", "other"];

fn node_config(index: usize, of: usize, priority: u8, interval: u64) -> Config {
    let mut router = router(priority);
    router.advert_interval = ms(interval);
    let mut config = config(vec![router], Vec::new());
    config.node.name = name(NAMES[index]);
    let others = (0..of).filter(|other| *other != index);
    config.channel = Some(Channel {
        listen: (host(index), 7112).into(),
        ca_file: "/ca.pem".into(),
        cert_file: "/a.pem".into(),
        key_file: "/a.key".into(),
        peers: others
            .map(|other| ChannelPeer {
                name: name(NAMES[other]),
                address: (host(other), 7112).into(),
            })
            .collect(),
    });
    config
}

/// With a second virtual router, and both in a sync group.
fn grouped(mut config: Config) -> Config {
    let mut other = config.virtual_routers[0].clone();
    other.name = name(ROUTERS[1]);
    other.vrid = 52;
    other.addresses = vec!["192.168.1.24/24".parse().expect("a network")];
    config.virtual_routers.push(other);
    config.sync_groups.push(SyncGroup {
        name: name("both"),
        virtual_routers: ROUTERS.map(name).to_vec(),
    });
    config
}

#[derive(Debug, Clone)]
enum Letter {
    Advert(Name, Advert),
    Say(Vec<u8>),
    Up,
    Down,
}

struct Host {
    node: Option<Node>,
    holds: BTreeSet<Name>,
    announced: u32,
    notices: Vec<String>,
    /// When it became master, and by which cause.
    roles: Vec<(Instant, Role, String)>,
}

/// Nodes, and what is on its way between them.
struct World {
    now: Instant,
    hosts: Vec<Host>,
    routers: Vec<Name>,
    /// By time of arrival: from, to.
    mail: BTreeMap<(Instant, u64), (usize, usize, Letter)>,
    sent: u64,
    /// Whose adverts do not reach whom.
    deaf: BTreeSet<(usize, usize)>,
    /// Between whom there is no channel.
    apart: BTreeSet<(usize, usize)>,
    channel_way: u64,
    /// Nobody, and more than one, held the addresses for so many milliseconds.
    nobody: u64,
    both: u64,
}

impl World {
    fn new(priorities: &[u8], interval: u64) -> Self {
        Self::with(1, priorities, interval)
    }

    /// With so many virtual routers, all in one sync group.
    fn with(routers: usize, priorities: &[u8], interval: u64) -> Self {
        let mut world = Self {
            now: Instant::ZERO,
            hosts: Vec::new(),
            routers: ROUTERS[..routers].iter().map(|text| name(text)).collect(),
            mail: BTreeMap::new(),
            sent: 0,
            deaf: BTreeSet::new(),
            apart: BTreeSet::new(),
            channel_way: WAY,
            nobody: 0,
            both: 0,
        };
        for _ in priorities {
            world.hosts.push(Host {
                node: None,
                holds: BTreeSet::new(),
                announced: 0,
                notices: Vec::new(),
                roles: Vec::new(),
            });
        }
        for (index, priority) in priorities.iter().enumerate() {
            world.start(
                index,
                node_config(index, priorities.len(), *priority, interval),
            );
        }
        world
    }

    /// The first is master and all are told of it.
    fn settled(priorities: &[u8], interval: u64) -> Self {
        Self::new(priorities, interval).settle(interval)
    }

    fn settle(self, interval: u64) -> Self {
        let mut world = self;
        world.run(interval * 10);
        assert_eq!(world.masters(), [0]);
        world.nobody = 0;
        world.both = 0;
        world
    }

    fn start(&mut self, index: usize, mut config: Config) {
        if self.routers.len() > 1 {
            config = grouped(config);
        }
        let mut node = Node::new(config, &Restored::default(), 1, self.now);
        let link = Event::Link {
            interface: name("eth0"),
            up: true,
        };
        node.handle(link, self.now);
        node.handle(Event::LocalAddresses(own(&[host(index)])), self.now);
        for router in &self.routers {
            let source = Event::Source {
                router: router.clone(),
                address: Some(host(index)),
            };
            node.handle(source, self.now);
        }
        self.hosts[index].node = Some(node);
        self.act(index);
        for other in 0..self.hosts.len() {
            if other != index && self.hosts[other].node.is_some() && self.joined(index, other) {
                self.connect(index, other);
            }
        }
    }

    /// It dies; the others' kernels need not notice.
    fn crash(&mut self, index: usize) {
        self.hosts[index].node = None;
        self.hosts[index].holds.clear();
    }

    fn joined(&self, one: usize, other: usize) -> bool {
        !self.apart.contains(&(one.min(other), one.max(other)))
    }

    fn connect(&mut self, one: usize, other: usize) {
        self.post(one, other, Letter::Up, self.channel_way);
        self.post(other, one, Letter::Up, self.channel_way);
    }

    fn cut(&mut self, one: usize, other: usize) {
        self.apart.insert((one.min(other), one.max(other)));
        self.post(one, other, Letter::Down, 0);
        self.post(other, one, Letter::Down, 0);
    }

    fn post(&mut self, from: usize, to: usize, letter: Letter, way: u64) {
        self.sent += 1;
        let at = self.now + ms(way);
        self.mail.insert((at, self.sent), (from, to, letter));
    }

    fn give(&mut self, index: usize, event: Event) {
        if let Some(node) = &mut self.hosts[index].node {
            node.handle(event, self.now);
            self.act(index);
        }
    }

    fn failover(&mut self, index: usize) {
        let now = self.now;
        let node = self.hosts[index].node.as_mut().unwrap();
        node.failover(None, now).unwrap();
        self.act(index);
    }

    fn act(&mut self, index: usize) {
        let Some(node) = &mut self.hosts[index].node else {
            return;
        };
        for action in drain(node) {
            match action {
                Action::SendAdvert { router, advert } => {
                    for to in (0..self.hosts.len()).filter(|to| *to != index) {
                        if !self.deaf.contains(&(index, to)) {
                            let letter = Letter::Advert(router.clone(), advert.clone());
                            self.post(index, to, letter, WAY);
                        }
                    }
                }
                Action::Say { peer, message } => {
                    let to = NAMES
                        .iter()
                        .position(|name| *name == peer.as_str())
                        .unwrap();
                    // As bytes, so that the codec is part of it.
                    let bytes = codec::encode(&message).unwrap();
                    if self.joined(index, to) {
                        self.post(index, to, Letter::Say(bytes), self.channel_way);
                    }
                }
                Action::Acquire { router } => drop(self.hosts[index].holds.insert(router)),
                Action::Release { router } => drop(self.hosts[index].holds.remove(&router)),
                Action::Announce { .. } => self.hosts[index].announced += 1,
                Action::Notice(notice) => {
                    let now = self.now;
                    let host = &mut self.hosts[index];
                    host.notices.push(notice.to_string());
                    if let Notice::Role { to, cause, .. } = notice {
                        host.roles.push((now, to, cause));
                    }
                }
                Action::Exit => self.hosts[index].node = None,
                _ => {}
            }
            if self.hosts[index].node.is_none() {
                return;
            }
        }
    }

    fn run(&mut self, milliseconds: u64) {
        let end = self.now + ms(milliseconds);
        while self.now < end {
            self.now = self.now + ms(1);
            while let Some(entry) = self.mail.first_entry().filter(|e| e.key().0 <= self.now) {
                let (from, to, letter) = entry.remove();
                self.deliver(from, to, letter);
            }
            for index in 0..self.hosts.len() {
                let now = self.now;
                if let Some(node) = &mut self.hosts[index].node
                    && node.next_deadline().is_some_and(|at| at <= now)
                {
                    node.tick(now);
                    self.act(index);
                }
            }
            for router in &self.routers {
                let holders = self.hosts.iter().filter(|host| host.holds.contains(router));
                match holders.count() {
                    0 => self.nobody += 1,
                    1 => {}
                    _ => self.both += 1,
                }
            }
        }
    }

    fn deliver(&mut self, from: usize, to: usize, letter: Letter) {
        let peer = name(NAMES[from]);
        let event = match letter {
            Letter::Advert(router, advert) => Event::Advert {
                router,
                source: host(from),
                advert,
            },
            Letter::Say(bytes) if self.joined(from, to) => {
                let message = codec::decode(&bytes[codec::LENGTH..]).unwrap().unwrap();
                let what = Happening::Said(message);
                Event::Channel { peer, what }
            }
            Letter::Say(_) => return,
            Letter::Up => {
                let hello = Hello {
                    protocol: PROTOCOL,
                    node: peer.clone(),
                    version: "0.1.0".to_owned(),
                    capabilities: 0,
                };
                let what = Happening::Up(hello);
                Event::Channel { peer, what }
            }
            Letter::Down => {
                let what = Happening::Down;
                Event::Channel { peer, what }
            }
        };
        self.give(to, event);
    }

    fn role(&self, index: usize) -> Option<Role> {
        let node = self.hosts[index].node.as_ref()?;
        Some(node.status(self.now).0[0].role)
    }

    fn masters(&self) -> Vec<usize> {
        let all = 0..self.hosts.len();
        all.filter(|index| self.role(*index) == Some(Role::Master))
            .collect()
    }

    fn last_role(&self, index: usize) -> &(Instant, Role, String) {
        self.hosts[index].roles.last().unwrap()
    }

    fn told(&self, index: usize, what: &str) -> bool {
        self.hosts[index]
            .notices
            .iter()
            .any(|notice| notice.contains(what))
    }
}

#[test]
fn a_failover_takes_two_ways_of_the_channel() {
    let mut world = World::settled(&[110, 100], 1000);
    let before = world.now;
    world.failover(0);
    world.run(20);
    let (when, role, cause) = world.last_role(1).clone();
    assert_eq!(role, Role::Master);
    assert!(cause.contains("hands over by order"), "{cause}");
    assert_eq!(when.since(before), ms(WAY), "no skew: it was ordered");
    let (when, role, cause) = world.last_role(0).clone();
    assert_eq!(
        (when.since(before), role),
        (ms(2 * WAY), Role::Backup),
        "{cause}"
    );
    assert!(world.hosts[1].announced > 0, "before the old one let go");
    assert_eq!(world.nobody, 0, "always somebody's");
    // And it lasts, although the old one has the higher priority.
    world.run(20_000);
    assert_eq!(world.masters(), [1]);
    assert_eq!(world.nobody, 0);
    // Back again.
    world.failover(1);
    world.run(20);
    assert_eq!(world.masters(), [0]);
    assert_eq!(world.nobody, 0);
}

#[test]
fn a_sync_group_is_handed_over_whole() {
    let mut world = World::with(2, &[110, 100], 1000).settle(1000);
    let before = world.now;
    world.failover(0);
    world.run(20);
    assert_eq!(world.masters(), [1]);
    assert!(world.hosts[0].holds.is_empty());
    assert_eq!(world.hosts[1].holds.len(), 2);
    assert_eq!(world.nobody, 0, "always somebody's");
    let (when, _, cause) = world.last_role(0).clone();
    assert_eq!(when.since(before), ms(2 * WAY), "{cause}");
    let (_, _, cause) = world.last_role(1);
    assert!(cause.contains("hands over by order"), "{cause}");
    world.run(20_000);
    assert_eq!((world.masters(), world.nobody), (vec![1], 0));
}

#[test]
fn a_group_that_is_none_on_the_peer_is_told() {
    let mut world = World::with(2, &[110, 100], 1000).settle(1000);
    let mut apart = grouped(node_config(1, 2, 100, 1000));
    apart.sync_groups.clear();
    world.give(1, Event::Command(Command::Reload(Box::new(apart))));
    world.run(20);
    for index in 0..2 {
        assert!(
            world.told(index, "virtual routers"),
            "{:?}",
            world.hosts[index].notices
        );
    }
}

/// The master answers the question that a new backup asks for the addresses; that is no conflict.
#[test]
fn an_answer_of_the_master_keeps_no_successor_away() {
    let mut world = World::new(&[110, 100], 1000);
    world.run(4000);
    assert_eq!(world.masters(), [0]);
    world.crash(1);
    world.start(1, node_config(1, 2, 100, 1000));
    world.give(
        1,
        Event::AddressConflict {
            router: name("main"),
            address: support::vip(),
            mac: [2, 0, 0, 0, 0, 1],
        },
    );
    world.run(2000);
    world.failover(0);
    world.run(20);
    assert_eq!(world.masters(), [1]);
    assert!(world.last_role(1).2.contains("hands over by order"));
}

#[test]
fn a_stop_hands_over_too() {
    let mut world = World::settled(&[110, 100], 1000);
    world.give(0, Event::Command(Command::Shutdown));
    world.run(20);
    assert!(world.hosts[0].node.is_none(), "it need not wait longer");
    assert_eq!(world.masters(), [1]);
    assert_eq!((world.nobody, world.last_role(1).1), (0, Role::Master));
}

#[test]
fn the_best_peer_is_asked() {
    let mut world = World::settled(&[110, 90, 100], 1000);
    world.failover(0);
    world.run(5000);
    assert_eq!(world.masters(), [2]);
    assert_eq!(world.nobody, 0);
    assert!(
        world.hosts[1]
            .roles
            .iter()
            .all(|(_, role, _)| *role != Role::Master)
    );
}

#[test]
fn without_an_answer_priority_zero_follows() {
    // The channel is slower than anyone waits.
    let mut world = World::settled(&[110, 100], 100);
    world.channel_way = 2000;
    let before = world.now;
    world.failover(0);
    world.run(1000);
    let (when, role, cause) = world.last_role(1).clone();
    assert_eq!(role, Role::Master);
    assert!(cause.contains("resigned"), "{cause}");
    // The patience of two intervals, and the skew.
    let took = when.since(before);
    assert!(took >= ms(200) && took <= ms(280), "{took:?}");
    assert_eq!(world.nobody, 0);
    // The order that comes after all does no harm.
    world.run(10_000);
    assert_eq!(world.masters(), [1]);
    assert_eq!(world.nobody, 0);
}

#[test]
fn a_channel_that_breaks_while_asking_is_no_answer() {
    let mut world = World::settled(&[110, 100], 1000);
    world.failover(0);
    world.cut(0, 1);
    world.run(1500);
    assert_eq!(world.masters(), [1]);
    assert!(world.last_role(1).2.contains("resigned"));
    assert_eq!(world.nobody, 0);
}

/// Only who is master may order; an adversary with a certificate that is none gets nothing.
#[test]
fn an_order_of_one_who_is_not_the_master_is_refused() {
    let mut world = World::settled(&[110, 100, 90], 1000);
    let routers = node_config(0, 3, 110, 1000).virtual_routers;
    let router = steerd_core::channel::message::RouterId::of(&routers[0]);
    let order = steerd_core::channel::message::TakeOver { router, order: 1 };
    let bytes = codec::encode(&Message::TakeOver(order)).unwrap();
    world.post(2, 1, Letter::Say(bytes), 1);
    world.run(3000);
    assert_eq!(world.masters(), [0]);
    // Even one that lies about its role: another is heard as master.
    let role = steerd_core::channel::message::RoleView {
        router,
        role: steerd_core::channel::message::RoleWord::Master,
        priority: 200,
        able: true,
        source: Some(host(2)),
    };
    let roles = steerd_core::channel::message::Roles {
        routers: vec![role],
    };
    let bytes = codec::encode(&Message::Roles(roles)).unwrap();
    world.post(2, 1, Letter::Say(bytes), 1);
    let bytes = codec::encode(&Message::TakeOver(order)).unwrap();
    world.post(2, 1, Letter::Say(bytes), 2);
    world.run(3000);
    assert_eq!(world.masters(), [0]);
}

#[test]
fn a_master_that_lives_is_not_replaced_for_its_adverts() {
    for interval in [10, 100, 1000] {
        let mut world = World::settled(&[110, 100], interval);
        world.deaf.insert((0, 1));
        world.run(interval * 100);
        assert_eq!(world.masters(), [0], "{interval} ms");
        assert_eq!((world.nobody, world.both), (0, 0));
        assert!(world.told(1, "look for what drops IP protocol 112"));
        let told = world.hosts[1]
            .notices
            .iter()
            .filter(|notice| notice.contains("112"))
            .count();
        assert!(
            told <= 1 + usize::try_from(interval * 100 / 60_000).unwrap(),
            "{told} times"
        );
        // It dies: both paths are silent.
        let before = world.now;
        world.crash(0);
        world.run(interval * 5);
        assert_eq!(world.masters(), [1]);
        let took = world.last_role(1).0.since(before);
        assert!(
            took <= ms(interval * 2 + interval),
            "{interval} ms: {took:?}"
        );
    }
}

/// Nor where it starts without ever having heard one, and has the higher priority.
#[test]
fn a_deaf_node_that_starts_takes_nothing() {
    let mut world = World::settled(&[110, 100], 100);
    world.crash(1);
    world.run(500);
    world.deaf.insert((0, 1));
    world.start(1, node_config(1, 2, 200, 100));
    world.run(5000);
    assert_eq!(world.masters(), [0]);
    assert_eq!(world.both, 0);
    // Once it hears the master, it preempts it.
    world.deaf.clear();
    world.run(1000);
    assert_eq!(world.masters(), [1]);
}

/// The takeover after a crash is to the millisecond where it is without a channel.
#[test]
fn a_crash_is_noticed_no_later_with_the_channel() {
    for interval in [10, 20, 100, 1000] {
        // At every point of an interval.
        for phase in 0..10 {
            let took = |with_channel: bool| {
                let mut world = World::settled(&[110, 100], interval);
                if !with_channel {
                    world.cut(0, 1);
                }
                world.run(interval * 5 + phase * interval / 10);
                let before = world.now;
                world.crash(0);
                world.run(interval * 5);
                assert_eq!(world.masters(), [1]);
                world.last_role(1).0.since(before)
            };
            assert_eq!(took(true), took(false), "{interval} ms, phase {phase}");
        }
    }
}

/// The master says that it cannot serve on its interface: nobody waits for its adverts to be missed.
#[test]
fn a_master_without_link_is_replaced_at_once() {
    let mut world = World::settled(&[110, 100], 1000);
    // Its link is down: nothing that it sends arrives, but the channel goes another way.
    world.deaf.insert((0, 1));
    let before = world.now;
    let link = Event::Link {
        interface: name("eth0"),
        up: false,
    };
    world.give(0, link);
    world.run(3000);
    assert_eq!(world.masters(), [1]);
    let took = world.last_role(1).0.since(before);
    assert!(took <= ms(700), "after the skew: {took:?}");
}

/// Preemption by a node that hears the master goes on as without a channel.
#[test]
fn a_higher_priority_still_preempts() {
    let mut world = World::new(&[100, 110], 100);
    world.run(2000);
    assert_eq!(world.masters(), [1]);
    world.crash(1);
    world.run(1000);
    assert_eq!(world.masters(), [0]);
    world.start(1, node_config(1, 2, 110, 100));
    world.run(2000);
    assert_eq!(world.masters(), [1]);
}

#[test]
fn a_frozen_channel_vouches_for_nobody() {
    let mut world = World::settled(&[110, 100], 100);
    // The connection is there, but nothing passes any more, and no adverts either.
    world.deaf.insert((0, 1));
    world.apart.insert((0, 1));
    world.run(400);
    assert_eq!(world.role(1), Some(Role::Master));
}

#[test]
fn differing_configurations_are_told_until_they_are_equal() {
    let mut world = World::settled(&[110, 100], 100);
    let state = |world: &World| {
        let node = world.hosts[0].node.as_ref().unwrap();
        node.peer_report(&name("b"), world.now).unwrap().config
    };
    assert_eq!(state(&world), PeerConfig::Same);
    assert!(!world.told(0, "differs"));
    let mut changed = node_config(1, 2, 100, 100);
    changed
        .services
        .push(service(vec![backend("b0", host(1), 0)]));
    world.give(1, Event::Command(Command::Reload(Box::new(changed))));
    world.run(50);
    let differ = ["services", "backends", "probes"]
        .map(str::to_owned)
        .to_vec();
    assert_eq!(state(&world), PeerConfig::Differs(differ));
    assert!(world.told(
        0,
        "peer b: its configuration differs from this node's in: services, backends, probes"
    ));
    let equal = node_config(1, 2, 100, 100);
    world.give(1, Event::Command(Command::Reload(Box::new(equal))));
    world.run(50);
    assert_eq!(state(&world), PeerConfig::Same);
    assert!(world.told(0, "peer b: its configuration is the same again"));
}

#[test]
fn round_trips_are_measured() {
    let mut world = World::settled(&[110, 100], 100);
    world.channel_way = 7;
    world.run(500);
    let node = world.hosts[0].node.as_ref().unwrap();
    let report = node.peer_report(&name("b"), world.now).unwrap();
    assert_eq!(report.round_trip, Some(ms(14)));
    assert_eq!(report.version.as_deref(), Some("0.1.0"));
    assert_eq!(report.roles[0].role, Role::Backup);
}

/// A small generator, so that a seed replays exactly.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// Adverts and channels that come and go, crashes, orders: while all that fails is the path of the
/// adverts, nobody else becomes master; when all is well again, there is one.
#[test]
fn whatever_happens_one_master_is_left() {
    for seed in 0..400 {
        let mut random = Random(seed);
        let nodes = usize::try_from(2 + random.below(2)).unwrap();
        let priorities = &[110, 100, 90][..nodes];
        let routers = 1 + usize::try_from(seed % 2).unwrap();
        let mut world = World::with(routers, priorities, 100);
        for _ in 0..12 {
            let mut pick = || usize::try_from(random.below(nodes as u64)).unwrap();
            let (one, other) = (pick(), pick());
            match random.below(8) {
                0 => drop(world.deaf.insert((one, other))),
                1 => drop(world.deaf.remove(&(one, other))),
                2 if one != other => world.cut(one, other),
                3 if one != other && world.apart.remove(&(one.min(other), one.max(other))) => {
                    world.connect(one, other);
                }
                4 if world.hosts[one].node.is_some() => world.crash(one),
                5 if world.hosts[one].node.is_none() => {
                    world.start(one, node_config(one, nodes, priorities[one], 100));
                }
                6 if world.role(one) == Some(Role::Master) => world.failover(one),
                7 => world.channel_way = 1 + random.below(400),
                _ => {}
            }
            world.run(random.below(600));
        }
        world.deaf.clear();
        world.apart.clear();
        world.channel_way = WAY;
        for (index, priority) in priorities.iter().enumerate() {
            if world.hosts[index].node.is_none() {
                world.start(index, node_config(index, nodes, *priority, 100));
            }
        }
        for one in 0..nodes {
            for other in 0..one {
                world.connect(one, other);
            }
        }
        // What was late on the channel, and then the protocol's bound: three intervals, the skew, and
        // one more for who was called off.
        world.run(1000 + 500);
        assert_eq!(world.masters().len(), 1, "seed {seed}");
        world.nobody = 0;
        world.both = 0;
        world.run(1000);
        assert_eq!((world.nobody, world.both), (0, 0), "seed {seed}");
    }
}
