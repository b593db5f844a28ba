//! Who takes new flows, on a node whose probes answer at once: schedulers, slow start, panic, sorry
//! backends, and the ways of each mode.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)] // tests may panic

mod support;

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use steerd_core::{
    action::{Action, Notice, Steering, Way},
    api::{BackendState, BackendStatus, ServiceStatus},
    config::{Backend, Config, Encapsulation, Mode, Scheduler, Service},
    event::{Command, Event, NextHop, ProbeFailure},
    node::{Node, Restored},
    time::Instant,
    vrrp::election::Role,
};
use support::{at, backend, config, drain, host, ip, key, ms, name, own, router, service};

/// A node on the first host, of whose backends all are healthy that were not said to fail, and whose
/// next hops are found at once.
struct World {
    node: Node,
    now: Instant,
    failing: BTreeMap<String, bool>,
    gateways: Vec<IpAddr>,
    nowhere: Vec<IpAddr>,
    steerings: Vec<Steering>,
    notices: Vec<Notice>,
}

impl World {
    /// After its first checks, at 100 ms.
    fn new(service: Service) -> Self {
        Self::start(service, &Restored::default(), |_| {})
    }

    fn start(service: Service, restored: &Restored, prepare: impl FnOnce(&mut Self)) -> Self {
        let config = config(vec![router(100)], vec![service]);
        let mut world = Self {
            node: Node::new(config, restored, 1, at(0)),
            now: at(0),
            failing: BTreeMap::new(),
            gateways: Vec::new(),
            nowhere: Vec::new(),
            steerings: Vec::new(),
            notices: Vec::new(),
        };
        prepare(&mut world);
        world.give(Event::LocalAddresses(own(&[host(0)])));
        world.give(Event::Link {
            interface: name("eth0"),
            up: true,
        });
        world.run(ms(100));
        world
    }

    /// Lets the time pass, and answers.
    fn run(&mut self, span: Duration) {
        let until = self.now + span;
        self.settle();
        while let Some(next) = self.node.next_deadline().filter(|next| *next <= until) {
            assert!(next >= self.now, "a deadline in the past");
            self.now = next;
            self.node.tick(next);
            self.settle();
        }
        self.now = until;
    }

    fn give(&mut self, event: Event) {
        self.node.handle(event, self.now);
        self.settle();
    }

    fn settle(&mut self) {
        loop {
            let actions = drain(&mut self.node);
            if actions.is_empty() {
                return;
            }
            for action in actions {
                self.answer(action);
            }
        }
    }

    fn answer(&mut self, action: Action) {
        let event = match action {
            Action::RunProbe { backend, probe } => {
                let fails = self.failing.get(backend.backend.as_str()) == Some(&true);
                let outcome = if fails {
                    Err(ProbeFailure::Refused)
                } else {
                    Ok(())
                };
                Event::Probe {
                    backend,
                    probe,
                    outcome,
                    took: ms(1),
                }
            }
            Action::Resolve { address } => self.next_hop(address),
            Action::Steer(steering) => {
                support::assert_deliverable(&steering);
                self.steerings.push(steering);
                return;
            }
            Action::Notice(notice) => {
                self.notices.push(notice);
                return;
            }
            _ => return,
        };
        self.node.handle(event, self.now);
    }

    fn next_hop(&self, address: IpAddr) -> Event {
        let next_hop = (!self.nowhere.contains(&address)).then(|| NextHop {
            gateway: self.gateways.contains(&address),
            ..hop()
        });
        Event::NextHop { address, next_hop }
    }

    /// Makes backends fail or pass their checks, and waits for that to be noticed.
    fn set(&mut self, failing: bool, names: &[&str]) {
        for name in names {
            self.failing.insert((*name).to_owned(), failing);
        }
        self.run(ms(2500));
    }

    fn reload(&mut self, change: impl FnOnce(&mut Config)) {
        let mut config = self.node.config().clone();
        change(&mut config);
        self.give(Event::Command(Command::Reload(Box::new(config))));
    }

    fn steering(&self) -> &Steering {
        self.steerings.last().expect("it was steered")
    }

    /// The share of each backend in the ring, in percent.
    fn shares(&self) -> BTreeMap<&str, usize> {
        let steering = self.steering();
        let mut counts = BTreeMap::new();
        for slot in &steering.ring {
            let name = steering.backends[usize::from(*slot)].name.as_str();
            *counts.entry(name).or_default() += 1;
        }
        let percent = |count: usize| (count * 100 + steering.ring.len() / 2) / steering.ring.len();
        counts
            .into_iter()
            .map(|(name, count)| (name, percent(count)))
            .collect()
    }

    fn used(&self) -> Vec<&str> {
        self.shares().into_keys().collect()
    }

    fn alive(&self) -> Vec<&str> {
        let alive = self.steering().backends.iter().filter(|b| b.alive);
        alive.map(|backend| backend.name.as_str()).collect()
    }

    fn status(&self) -> ServiceStatus {
        self.node.status(self.now).1.remove(0)
    }

    fn backend(&self, wanted: &str) -> BackendStatus {
        let backends = self.status().backends;
        let mut found = backends.into_iter().filter(|b| b.name.as_str() == wanted);
        found.next().expect("there is one")
    }

    fn told(&self) -> Vec<String> {
        let of_services = |notice: &&Notice| !matches!(notice, Notice::Role { .. });
        let notices = self.notices.iter().filter(of_services);
        let lines = notices.map(ToString::to_string);
        lines.filter(|line| line.starts_with("service")).collect()
    }
}

fn hop() -> NextHop {
    NextHop {
        ifindex: 2,
        mac: [2, 0, 0, 0, 0, 7],
        vlan: 0,
        mtu: 1500,
        gateway: false,
    }
}

/// `b1` to `b{count}`, each on a host of its own, in one tier.
fn many(count: u8) -> Service {
    let backends = (1..=count).map(|n| backend(&format!("b{n}"), IpAddr::from([10, 0, 0, n]), 1));
    Service {
        ring_size: 1009,
        ..service(backends.collect())
    }
}

fn sorry() -> Backend {
    Backend {
        sorry: true,
        ..backend("sorry", ip("10.0.1.1"), 1)
    }
}

// Schedulers.

#[test]
fn the_ring_is_what_the_scheduler_needs() {
    let ring = |scheduler| {
        let mut service = many(4);
        service.policy.scheduler = scheduler;
        for (backend, weight) in service.backends.iter_mut().zip([2, 4, 0, 6]) {
            backend.weight = weight;
        }
        let world = World::new(service);
        assert_eq!(world.steering().policy.scheduler, scheduler);
        let weights: Vec<u16> = world.steering().backends.iter().map(|b| b.weight).collect();
        assert_eq!(weights, [2, 4, 0, 6]);
        world.steering().ring.clone()
    };
    assert_eq!(ring(Scheduler::Maglev).len(), 1009);
    assert_eq!(ring(Scheduler::LeastConnections), [0, 1, 3]);
    assert_eq!(ring(Scheduler::WeightedRoundRobin), [3, 1, 3, 0, 1, 3]);
}

#[test]
fn another_scheduler_takes_effect_with_a_reload() {
    let mut world = World::new(many(3));
    world.reload(|config| config.services[0].policy.scheduler = Scheduler::LeastConnections);
    assert_eq!(world.steering().ring, [0, 1, 2]);
    world.reload(|config| config.services[0].policy.mss = Some(1400));
    assert_eq!(world.steering().policy.mss, Some(1400));
    assert_eq!(world.steering().ring, [0, 1, 2]);
}

/// "Moves no flow of the other 99 that the flow table knows, and at most 1 % of the ring."
#[test]
fn removing_one_of_a_hundred_leaves_the_others_alone() {
    let mut service = many(100);
    service.ring_size = 65_537; // the default for so many
    let mut world = World::new(service);
    world.run(ms(500)); // first checks are spread
    let before = world.steering().clone();
    let gone = name("b50");
    world.reload(|config| config.services[0].backends.retain(|b| b.name != gone));
    let after = world.steering();
    // The flow table knows flows by their backend: every other one is there, alive, on its way.
    let rest = before
        .backends
        .iter()
        .filter(|backend| backend.name != gone);
    assert!(rest.eq(after.backends.iter()));
    assert!(after.backends.iter().all(|backend| backend.alive));
    let names = |steering: &Steering| -> Vec<_> {
        let name = |slot: &u16| steering.backends[usize::from(*slot)].name.clone();
        steering.ring.iter().map(name).collect()
    };
    let slots = names(&before).into_iter().zip(names(after));
    let moved = slots.filter(|(b, a)| *b != gone && b != a).count();
    assert!(moved * 100 <= before.ring.len(), "{moved} slots");
}

// Slow start.

fn slow(scheduler: Scheduler) -> Service {
    let mut service = many(2);
    service.slow_start = ms(10_000);
    service.policy.scheduler = scheduler;
    service
}

#[test]
fn a_backend_that_comes_back_gets_its_share_in_ten_steps() {
    let mut world = World::new(slow(Scheduler::Maglev));
    let whole = world.steering().ring.clone();
    assert_eq!(world.shares(), [("b1", 50), ("b2", 50)].into());
    world.set(true, &["b2"]);
    assert_eq!(world.used(), ["b1"]);

    world.failing.clear();
    while world.used() == ["b1"] {
        world.run(ms(10));
    }
    world.steerings.drain(..world.steerings.len() - 1);
    assert_eq!(world.shares()["b2"], 9, "10 of 110");
    assert_eq!(world.backend("b2").slow_start_percent, Some(10));
    assert_eq!(world.backend("b1").slow_start_percent, None);
    let weights = |world: &World| -> Vec<u16> {
        let backends = &world.steering().backends;
        backends.iter().map(|backend| backend.weight).collect()
    };
    assert_eq!(weights(&world), [100, 10]);
    world.run(ms(5000));
    assert_eq!(weights(&world), [100, 55]);
    assert_eq!(world.shares()["b2"], 35, "55 of 155");
    world.run(ms(4990));
    assert_eq!(weights(&world), [100, 91]);
    world.run(ms(20));
    assert_eq!(weights(&world), [1, 1]);
    assert_eq!(world.backend("b2").slow_start_percent, None);
    assert_eq!(world.steering().ring, whole);
    assert_eq!(world.steerings.len(), 11, "a steering a step, and no more");
    world.run(ms(20_000));
    assert_eq!(world.steerings.len(), 11);
}

#[test]
fn slow_start_goes_by_turns_and_by_weights_too() {
    let mut world = World::new(slow(Scheduler::WeightedRoundRobin));
    assert_eq!(world.steering().ring.len(), 2);
    world.set(true, &["b2"]);
    world.set(false, &["b2"]);
    // Somewhere on its ramp.
    let percent = world.backend("b2").slow_start_percent.expect("on its ramp");
    let count = |slot| world.steering().ring.iter().filter(|s| **s == slot).count();
    assert_eq!(count(0) * usize::from(percent), count(1) * 100);

    let mut world = World::new(slow(Scheduler::LeastConnections));
    world.set(true, &["b2"]);
    world.set(false, &["b2"]);
    assert_eq!(world.steering().ring, [0, 1]);
    let percent = world.backend("b2").slow_start_percent.expect("on its ramp");
    assert_eq!(world.steering().backends[0].weight, 100);
    assert_eq!(world.steering().backends[1].weight, percent.into());
}

#[test]
fn nobody_starts_slowly_where_all_begin_together() {
    // At the start of the node.
    let mut world = World::new(slow(Scheduler::Maglev));
    let ramps = |world: &World| {
        let backends = world.status().backends;
        let ramp = |backend: &BackendStatus| backend.slow_start_percent.is_some();
        backends.iter().filter(|backend| ramp(backend)).count()
    };
    assert_eq!(ramps(&world), 0);
    // The first of those that were all gone.
    world.set(true, &["b1", "b2"]);
    assert!(world.steering().ring.is_empty());
    world.set(false, &["b1"]);
    assert_eq!((world.used(), ramps(&world)), (vec!["b1"], 0));
    // The second one joins.
    world.failing.clear();
    world.run(ms(1500));
    assert_eq!((world.used(), ramps(&world)), (vec!["b1", "b2"], 1));
    // It goes again: nothing is left of its ramp.
    world.set(true, &["b2"]);
    assert_eq!(ramps(&world), 0);
    assert_eq!(world.steering().backends[0].weight, 1);

    // A tier that takes over, or is back.
    let mut service = slow(Scheduler::Maglev);
    service.backends[0].tier = 2;
    let mut world = World::new(service);
    world.set(true, &["b2"]);
    assert_eq!((world.used(), ramps(&world)), (vec!["b1"], 0));
    world.set(false, &["b2"]);
    assert_eq!((world.used(), ramps(&world)), (vec!["b2"], 0));
}

#[test]
fn after_a_restart_nobody_starts_slowly() {
    let restored = Restored {
        backends: [(key("game", "b1"), true), (key("game", "b2"), true)].into(),
        ..Restored::default()
    };
    let world = World::start(slow(Scheduler::Maglev), &restored, |_| {});
    assert_eq!(world.backend("b2").slow_start_percent, None);
    assert_eq!(world.steerings.len(), 1);
}

#[test]
fn added_and_undrained_backends_start_slowly_renamed_ones_do_not() {
    let mut world = World::new(slow(Scheduler::Maglev));
    world.reload(|config| config.services[0].backends[1].name = name("other"));
    assert_eq!(world.backend("other").slow_start_percent, None);
    world.reload(|config| config.services[0].backends[1].weight = 0);
    assert_eq!(world.used(), ["b1"]);
    world.reload(|config| config.services[0].backends[1].weight = 1);
    assert_eq!(world.backend("other").slow_start_percent, Some(10));
    world.reload(|config| config.services[0].slow_start = Duration::ZERO);
    assert_eq!(world.backend("other").slow_start_percent, None);
    world.reload(|config| {
        config.services[0].slow_start = ms(1000);
        let more = backend("b3", ip("10.0.0.3"), 1);
        config.services[0].backends.push(more);
    });
    world.run(ms(50));
    assert_eq!(world.backend("b3").slow_start_percent, Some(10));
}

// Panic.

fn panicky(count: u8) -> Service {
    Service {
        panic_threshold: 50,
        ..many(count)
    }
}

#[test]
fn with_too_few_healthy_all_are_used_and_keep_their_flows() {
    let mut world = World::new(panicky(4));
    world.set(true, &["b1", "b2"]);
    assert_eq!(world.used(), ["b3", "b4"], "half of them is enough");
    assert!(!world.status().panic);
    world.set(true, &["b3"]);
    assert_eq!(world.used(), ["b1", "b2", "b3", "b4"]);
    assert_eq!(world.alive(), ["b1", "b2", "b3", "b4"]);
    assert!(world.status().panic);
    let in_use = world.backend("b1");
    assert!(in_use.in_use && in_use.state == BackendState::Down);
    assert_eq!(world.status().active_tier, Some(1));
    world.set(false, &["b1"]);
    assert_eq!(world.used(), ["b1", "b4"]);
    assert_eq!(world.alive(), ["b1", "b4"]);
    assert!(!world.status().panic);
    assert_eq!(
        world.told(),
        [
            "service game: new flows go to tier 1",
            "service game: only 1 of 4 backends are healthy, below its panic_threshold: all that \
             can be reached are used",
            "service game: 2 of 4 backends are healthy: only those are used again",
        ]
    );
}

/// Servers that failed their checks a moment ago are not cold, and all are needed.
#[test]
fn nobody_starts_slowly_in_panic() {
    let mut service = panicky(4);
    service.slow_start = ms(10_000);
    let mut world = World::new(service);
    world.set(true, &["b1", "b2", "b3"]);
    assert!(world.status().panic);
    let backends = world.status().backends;
    assert!(backends.iter().all(|b| b.slow_start_percent.is_none()));
}

#[test]
fn none_healthy_is_panic_too_and_the_node_stays_master() {
    let mut world = World::new(panicky(2));
    world.run(ms(1000));
    assert_eq!(world.node.status(world.now).0[0].role, Role::Master);
    world.set(true, &["b1", "b2"]);
    assert_eq!(world.used(), ["b1", "b2"]);
    assert_eq!(world.node.status(world.now).0[0].role, Role::Master);
}

#[test]
fn panic_uses_nobody_who_cannot_be_reached() {
    let mut world = World::start(panicky(4), &Restored::default(), |world| {
        world.nowhere = vec![ip("10.0.0.1")];
    });
    assert_eq!(world.used(), ["b2", "b3", "b4"]);
    world.set(true, &["b2", "b3", "b4"]);
    assert_eq!(world.used(), ["b2", "b3", "b4"]);
    assert_eq!(world.alive(), ["b2", "b3", "b4"]);
    assert!(world.status().panic);
    assert_eq!(world.backend("b1").state, BackendState::Unreachable);
}

#[test]
fn a_start_is_no_panic() {
    // The checks of three of four do not end in time.
    let mut service = panicky(4);
    service.probes[0].timeout = ms(1000);
    let config = config(vec![router(100)], vec![service]);
    let mut node = Node::new(config, &Restored::default(), 1, at(0));
    node.handle(Event::LocalAddresses(own(&[host(0)])), at(0));
    for n in 1..=4 {
        let address = IpAddr::from([10, 0, 0, n]);
        let next_hop = Some(hop());
        node.handle(Event::NextHop { address, next_hop }, at(0));
    }
    node.tick(at(20));
    let first = Event::Probe {
        backend: key("game", "b1"),
        probe: name("tcp"),
        outcome: Ok(()),
        took: ms(1),
    };
    node.handle(first, at(20));
    node.tick(at(1010));
    assert!(node.settled());
    let service = node.status(at(1010)).1.remove(0);
    let in_use: Vec<bool> = service.backends.iter().map(|b| b.in_use).collect();
    assert_eq!(
        (service.panic, in_use),
        (false, vec![true, false, false, false])
    );
}

#[test]
fn panic_looks_at_all_tiers_and_leaves_the_drained_out() {
    let mut service = panicky(5);
    for (backend, tier) in service.backends.iter_mut().zip([1, 1, 2, 2, 2]) {
        backend.tier = tier;
    }
    service.backends[4].weight = 0;
    let mut world = World::new(service);
    world.set(true, &["b1", "b2"]);
    assert_eq!(world.used(), ["b3", "b4"], "2 of 4");
    world.set(true, &["b3"]);
    assert!(world.status().panic, "1 of 4");
    assert_eq!(world.used(), ["b1", "b2"], "the lowest tier");
    assert_eq!(world.alive(), ["b1", "b2", "b3", "b4", "b5"]);
}

// Sorry.

#[test]
fn a_sorry_backend_serves_only_where_no_other_can() {
    let mut service = many(2);
    service.backends[1].tier = 2;
    service.backends.push(sorry());
    let mut world = World::new(service);
    world.run(ms(1000));
    assert_eq!(world.used(), ["b1"]);
    world.set(true, &["b1"]);
    assert_eq!(world.used(), ["b2"]);
    world.set(true, &["b2"]);
    assert_eq!(world.used(), ["sorry"]);
    assert_eq!(world.alive(), ["sorry"]);
    let status = world.status();
    assert_eq!((status.active_tier, status.panic), (None, false));
    assert!(world.backend("sorry").sorry && world.backend("sorry").in_use);
    // Somebody must say it.
    assert_eq!(world.node.status(world.now).0[0].role, Role::Master);
    world.set(false, &["b1"]);
    assert_eq!(world.used(), ["b1"]);
    assert_eq!(world.alive(), ["b1", "sorry"], "it keeps the flows it has");
    assert_eq!(
        world.told(),
        [
            "service game: new flows go to tier 1",
            "service game: new flows go from tier 1 to tier 2",
            "service game has no healthy backend",
            "service game: no other backend can serve: new flows go to the sorry backend",
            "service game: new flows go to tier 1",
            "service game: no new flows go to the sorry backend any more",
        ]
    );
}

#[test]
fn where_none_is_healthy_sorry_comes_before_panic() {
    let mut service = panicky(3);
    service.backends.push(sorry());
    let mut world = World::new(service);
    world.set(true, &["b1", "b2"]);
    assert!(world.status().panic);
    assert_eq!(world.used(), ["b1", "b2", "b3"]);
    world.set(true, &["b3"]);
    assert_eq!(world.used(), ["sorry"]);
    // It fails as well: then anybody.
    world.set(true, &["sorry"]);
    assert_eq!(world.used(), ["b1", "b2", "b3"]);
}

#[test]
fn a_sorry_backend_does_not_make_a_tier() {
    let mut service = many(2);
    service.min_healthy = 2;
    service.backends[0].tier = 1;
    service.backends[1].tier = 1;
    service.backends.push(sorry());
    let mut world = World::new(service);
    world.set(true, &["b1"]);
    assert_eq!(world.used(), ["b2"], "too few, but more than none");
}

// Ways.

fn with_mode(mode: Mode, address: &str, port: u16) -> Service {
    let mut service = many(1);
    service.backends.push(Backend {
        mode,
        port,
        ..backend("b2", ip(address), 1)
    });
    service
}

fn way(world: &World) -> Way {
    world.steering().backends[1].way
}

#[test]
fn each_mode_has_its_way() {
    let world = |mode| World::new(with_mode(mode, "10.0.0.2", 8765));
    assert_eq!(way(&world(Mode::Auto)), Way::Dsr(Some(hop())));
    assert_eq!(way(&world(Mode::Dsr)), Way::Dsr(Some(hop())));
    assert_eq!(way(&world(Mode::Local)), Way::Local);
    assert_eq!(way(&world(Mode::Nat)), Way::Nat(Some(hop())));
    let mut service = with_mode(Mode::Tunnel, "fd00::2", 8765);
    service.backends[1].encapsulation = Encapsulation::Gue;
    service.backends[1].mtu = Some(1400);
    let mut world = World::new(service);
    let tunnel = |mtu| Way::Tunnel {
        encapsulation: Encapsulation::Gue,
        next_hop: Some(NextHop { mtu, ..hop() }),
    };
    assert_eq!(way(&world), tunnel(1400));
    // The way becomes narrower than that, then unknown, then wide.
    let address = ip("fd00::2");
    let mut narrow = |mtu: Option<u16>| {
        let next_hop = mtu.map(|mtu| NextHop { mtu, ..hop() });
        world.give(Event::NextHop { address, next_hop });
        (way(&world), world.steering().backends[1].alive)
    };
    assert_eq!(narrow(Some(1280)), (tunnel(1280), true));
    let lost = Way::Tunnel {
        encapsulation: Encapsulation::Gue,
        next_hop: None,
    };
    assert_eq!(narrow(None), (lost, false));
    assert_eq!(narrow(Some(9000)), (tunnel(1400), true));
}

#[test]
fn tunnels_and_translation_go_through_gateways_dsr_does_not() {
    let world = |mode| {
        let service = with_mode(mode, "10.9.0.2", 8765);
        World::start(service, &Restored::default(), |world| {
            world.gateways = vec![ip("10.9.0.2")];
        })
    };
    for mode in [Mode::Tunnel, Mode::Nat] {
        let world = world(mode);
        assert!(way(&world).next_hop().is_some_and(|hop| hop.gateway));
        assert_eq!(world.used(), ["b1", "b2"]);
        assert_eq!(world.backend("b2").mode, mode);
    }
    for mode in [Mode::Auto, Mode::Dsr] {
        let world = world(mode);
        assert_eq!(way(&world), Way::Dsr(None));
        assert_eq!(world.used(), ["b1"]);
        let backend = world.backend("b2");
        assert_eq!(backend.state, BackendState::Unreachable);
        assert_eq!(
            backend.reason,
            "10.9.0.2 is behind a router: dsr needs it on a segment of this host, tunnel does not"
        );
    }
}

#[test]
fn this_hosts_own_address_is_local_in_every_mode_but_dsr() {
    for mode in [Mode::Auto, Mode::Tunnel, Mode::Nat] {
        let world = World::new(with_mode(mode, "192.168.1.26", 8765));
        assert_eq!(way(&world), Way::Local, "{mode}");
        assert_eq!(world.backend("b2").mode, Mode::Local);
        assert_eq!(world.used(), ["b1", "b2"]);
    }
    // Its own stack does not translate.
    let world = World::new(with_mode(Mode::Nat, "192.168.1.26", 8080));
    assert_eq!(way(&world), Way::Nat(None));
    assert_eq!(world.used(), ["b1"]);
    let backend = world.backend("b2");
    assert_eq!(
        (backend.mode, backend.state),
        (Mode::Nat, BackendState::Unreachable)
    );
    assert_eq!(
        backend.reason,
        "192.168.1.26 is this host itself, which is served without translation: let the server \
         listen on 8765, the service's port"
    );
}

#[test]
fn a_router_on_the_way_to_a_peer_is_no_peer() {
    let mut config = config(vec![router(100)], vec![many(1)]);
    config.virtual_routers[0].peers = vec![ip("10.9.0.9"), ip("10.0.0.9")];
    let mut node = Node::new(config, &Restored::default(), 1, at(0));
    drain(&mut node);
    for (address, gateway, last) in [("10.9.0.9", true, 1), ("10.0.0.9", false, 2)] {
        let next_hop = Some(NextHop {
            gateway,
            mac: [2, 0, 0, 0, 0, last],
            ..hop()
        });
        let address = ip(address);
        node.handle(Event::NextHop { address, next_hop }, at(1));
    }
    let forwarders: Vec<Action> = drain(&mut node)
        .into_iter()
        .filter(|action| matches!(action, Action::Forwarders(_)))
        .collect();
    assert_eq!(forwarders, [Action::Forwarders(vec![[2, 0, 0, 0, 0, 2]])]);
}

#[test]
fn server_ids_and_policies_are_handed_on() {
    let mut service = many(2);
    service.policy.quic = true;
    service.backends[0].quic_server_id = Some(7);
    service.backends[1].quic_server_id = Some(9);
    let world = World::new(service.clone());
    assert_eq!(world.steering().policy, service.policy);
    let ids: Vec<_> = world
        .steering()
        .backends
        .iter()
        .map(|backend| backend.quic_server_id)
        .collect();
    assert_eq!(ids, [Some(7), Some(9)]);
}
