//! What a whole node does, step by step; `cluster` has nodes together.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)] // tests may panic

mod support;

use std::{collections::BTreeSet, net::IpAddr};

use steerd_core::{
    action::{Action, Notice, Steering, Way},
    api::BackendState,
    config::{Config, Mode, Service, SyncGroup, VirtualRouter},
    event::{Command, Event, NextHop, ProbeFailure},
    node::{FailoverError, Node, Restored},
    time::Instant,
    vrrp::{election::Role, wire::Advert},
};
use support::{
    at, backend, config, drain, host, ip, key, ms, name, own, probe, router, service, vip,
};

/// The own server first, then that of the peer, in the next tier.
fn two() -> Service {
    service(vec![backend("b0", host(0), 0), backend("b1", host(1), 1)])
}

fn pair() -> Config {
    config(vec![router(100)], vec![two()])
}

fn hop(last: u8) -> NextHop {
    NextHop {
        ifindex: 2,
        mac: [2, 0, 0, 0, 0, last],
        vlan: 0,
        mtu: 1500,
        gateway: false,
    }
}

/// A node on the first host, of whose actions each is taken at once.
struct Bench {
    node: Node,
    actions: Vec<Action>,
}

impl Bench {
    fn cold(config: Config) -> Self {
        Self::start(config, &Restored::default())
    }

    fn start(config: Config, restored: &Restored) -> Self {
        let mut node = Node::new(config, restored, 1, at(0));
        let actions = drain(&mut node);
        Self { node, actions }
    }

    /// With link, addresses and next hop known at 0, and the servers' first checks passed at 10.
    fn ready(config: Config) -> Self {
        let mut bench = Self::cold(config);
        bench.surroundings();
        bench.tick(at(10));
        bench.check("b0", true, at(10));
        bench.check("b1", true, at(10));
        bench
    }

    /// The same as master, at 500.
    fn master(config: Config) -> Self {
        let mut bench = Self::ready(config);
        bench.run(at(500));
        assert_eq!(bench.role(), Role::Master);
        bench
    }

    fn surroundings(&mut self) {
        self.give(Event::LocalAddresses(own(&[host(0)])), at(0));
        self.give(
            Event::Link {
                interface: name("eth0"),
                up: true,
            },
            at(0),
        );
        self.give(
            Event::NextHop {
                address: host(1),
                next_hop: Some(hop(1)),
            },
            at(0),
        );
    }

    fn give(&mut self, event: Event, now: Instant) -> Vec<Action> {
        self.node.handle(event, now);
        self.took()
    }

    fn tick(&mut self, now: Instant) -> Vec<Action> {
        self.node.tick(now);
        self.took()
    }

    /// Serves deadlines up to `until`.
    fn run(&mut self, until: Instant) -> Vec<Action> {
        let mut all = Vec::new();
        while let Some(next) = self.node.next_deadline().filter(|next| *next <= until) {
            all.extend(self.tick(next));
        }
        all
    }

    fn took(&mut self) -> Vec<Action> {
        let actions = drain(&mut self.node);
        for steering in steerings(&actions) {
            support::assert_deliverable(&steering);
        }
        self.actions.extend(actions.iter().cloned());
        actions
    }

    fn check(&mut self, backend: &str, passes: bool, now: Instant) -> Vec<Action> {
        let outcome = if passes {
            Ok(())
        } else {
            Err(ProbeFailure::Refused)
        };
        let (backend, probe) = (key("game", backend), name("tcp"));
        self.give(
            Event::Probe {
                backend,
                probe,
                outcome,
                took: ms(1),
            },
            now,
        )
    }

    fn hear(&mut self, from: IpAddr, priority: u8, now: Instant) -> Vec<Action> {
        let advert = Advert {
            vrid: 51,
            priority,
            interval_cs: 10,
            addresses: vec![vip()],
        };
        self.give(
            Event::Advert {
                router: name("main"),
                source: from,
                advert,
            },
            now,
        )
    }

    fn role(&self) -> Role {
        self.node.status(at(0)).0[0].role
    }

    fn cause(&self) -> String {
        self.node.status(at(0)).0[0].cause.clone()
    }

    fn steered(&self) -> Steering {
        steerings(&self.actions).pop().expect("it was steered")
    }
}

fn steerings(actions: &[Action]) -> Vec<Steering> {
    let steering = |action: &Action| match action {
        Action::Steer(steering) => Some(steering.clone()),
        _ => None,
    };
    actions.iter().filter_map(steering).collect()
}

/// The backends that the ring holds.
fn used(steering: &Steering) -> BTreeSet<&str> {
    steering
        .ring
        .iter()
        .map(|slot| steering.backends[usize::from(*slot)].name.as_str())
        .collect()
}

/// The place of the first action that `fits`.
fn place(actions: &[Action], fits: impl Fn(&Action) -> bool) -> usize {
    actions
        .iter()
        .position(fits)
        .unwrap_or_else(|| panic!("not among {actions:?}"))
}

fn is_resignation(action: &Action) -> bool {
    matches!(action, Action::SendAdvert { advert, .. } if advert.priority == 0)
}

#[test]
fn a_cold_start_probes_and_steers_nowhere() {
    let mut bench = Bench::cold(pair());
    assert!(!bench.node.settled(), "it does not know yet");
    let probes = bench.run(at(5));
    assert_eq!(steerings(&bench.actions), []);
    let all = [bench.actions.clone(), probes].concat();
    let runs: BTreeSet<String> = all
        .iter()
        .filter_map(|action| match action {
            Action::RunProbe { backend, .. } => Some(backend.backend.to_string()),
            _ => None,
        })
        .collect();
    assert_eq!(runs.len(), 2);
    assert_eq!(
        (bench.role(), bench.cause().as_str()),
        (Role::Init, "waiting for the state of link eth0")
    );
    // Who has not answered by then is not waited for.
    bench.run(at(1001));
    assert!(bench.node.settled());
    let steering = bench.steered();
    assert!(steering.ring.is_empty());
    assert!(steering.backends.iter().all(|backend| !backend.alive));
}

/// The first answer is not the whole truth: a second tier that is quicker to answer gets nothing.
#[test]
fn a_cold_start_hears_every_backend_first() {
    let mut bench = Bench::cold(pair());
    bench.give(Event::LocalAddresses(own(&[host(0)])), at(1));
    let next_hop = Some(hop(1));
    bench.give(
        Event::NextHop {
            address: host(1),
            next_hop,
        },
        at(2),
    );
    bench.run(at(5));
    bench.check("b1", true, at(6));
    assert!(!bench.node.settled());
    bench.check("b0", true, at(7));
    assert!(bench.node.settled());
    assert_eq!(used(&bench.steered()), BTreeSet::from(["b0"]));
}

#[test]
fn the_mode_follows_the_hosts_own_addresses_but_not_virtual_ones() {
    let mut config = pair();
    config.services[0].backends.push(backend("vip", vip(), 2));
    let mut bench = Bench::cold(config);
    let actions = bench.give(Event::LocalAddresses(own(&[host(0), vip()])), at(1));
    bench.run(at(1001));
    let modes: Vec<Mode> = bench
        .steered()
        .backends
        .iter()
        .map(|backend| backend.way.mode())
        .collect();
    assert_eq!(modes, [Mode::Local, Mode::Dsr, Mode::Dsr]);
    assert!(actions.contains(&Action::Resolve { address: host(1) }));
    assert!(
        !bench
            .actions
            .contains(&Action::Resolve { address: host(0) })
    );
    // The virtual address coming and going is no news.
    assert_eq!(
        bench.give(Event::LocalAddresses(own(&[host(0)])), at(1002)),
        []
    );
}

#[test]
fn a_node_becomes_backup_then_master_when_it_can_serve() {
    let mut bench = Bench::ready(pair());
    assert_eq!(bench.role(), Role::Backup);
    assert!(
        !bench
            .actions
            .iter()
            .any(|action| matches!(action, Action::Acquire { .. }))
    );
    let actions = bench.run(at(500));
    let acquire = place(&actions, |action| matches!(action, Action::Acquire { .. }));
    let advert = place(&actions, |action| {
        matches!(action, Action::SendAdvert { .. })
    });
    let announce = place(&actions, |action| matches!(action, Action::Announce { .. }));
    assert!(acquire < advert && advert < announce);
    assert_eq!(used(&bench.steered()), BTreeSet::from(["b0"]));
    let Action::SendAdvert { advert, .. } = &actions[advert] else {
        panic!("it was one")
    };
    let expected = Advert {
        vrid: 51,
        priority: 100,
        interval_cs: 10,
        addresses: vec![vip()],
    };
    assert_eq!(*advert, expected);
}

#[test]
fn a_node_without_its_program_listens_and_takes_over_only_with_it() {
    let start = || {
        let mut bench = Bench::cold(pair());
        bench.give(Event::Steers(false), at(0));
        bench.surroundings();
        bench.tick(at(10));
        bench.check("b0", true, at(10));
        bench.check("b1", true, at(10));
        bench
    };
    // Nobody is heard for longer than it would have waited: then nothing more is waited for.
    let mut alone = start();
    alone.run(at(600));
    assert_eq!(alone.role(), Role::Init);
    assert!(alone.cause().contains("verifies the program"));
    assert!(!alone.actions.iter().any(takes_part));
    alone.give(Event::Steers(true), at(600));
    alone.run(at(610));
    assert_eq!(alone.role(), Role::Master);
    // A master that was heard meanwhile is followed.
    let mut second = start();
    for time in [100, 200, 300, 400, 500, 600] {
        second.run(at(time));
        second.hear(host(1), 200, at(time));
    }
    second.give(Event::Steers(true), at(610));
    second.run(at(690));
    assert_eq!(second.role(), Role::Backup);
    assert!(!second.actions.iter().any(takes_part));
}

fn takes_part(action: &Action) -> bool {
    matches!(
        action,
        Action::Acquire { .. } | Action::SendAdvert { .. } | Action::Announce { .. }
    )
}

#[test]
fn without_a_usable_backend_a_master_resigns_then_releases() {
    let mut bench = Bench::master(pair());
    bench.give(
        Event::NextHop {
            address: host(1),
            next_hop: None,
        },
        at(600),
    );
    assert_eq!(bench.role(), Role::Master);
    let mut now = at(600);
    while bench.role() == Role::Master {
        now = bench.node.next_deadline().unwrap();
        let actions = bench.tick(now);
        let fails = actions.contains(&Action::RunProbe {
            backend: key("game", "b0"),
            probe: name("tcp"),
        });
        bench.actions.clear();
        if fails {
            bench.check("b0", false, now);
        }
    }
    let resigns = place(&bench.actions, is_resignation);
    let releases = place(&bench.actions, |action| {
        matches!(action, Action::Release { .. })
    });
    assert!(resigns < releases);
    assert_eq!(
        (bench.role(), bench.cause().as_str()),
        (Role::Fault, "no usable backend of service game")
    );
    assert!(bench.steered().ring.is_empty());
    // Healthy, but not to be reached.
    let backends = bench.node.status(now).1[0].backends.clone();
    assert_eq!(
        (backends[0].state, backends[1].state),
        (BackendState::Down, BackendState::Unreachable)
    );
    assert!(backends.iter().all(|backend| !backend.in_use));
    bench.give(
        Event::NextHop {
            address: host(1),
            next_hop: Some(hop(1)),
        },
        now,
    );
    assert_eq!(bench.role(), Role::Backup);
}

#[test]
fn a_lost_link_is_a_fault_at_once() {
    let mut bench = Bench::master(pair());
    let actions = bench.give(
        Event::Link {
            interface: name("eth0"),
            up: false,
        },
        at(600),
    );
    assert!(
        place(&actions, is_resignation) < place(&actions, |a| matches!(a, Action::Release { .. }))
    );
    assert_eq!(
        (bench.role(), bench.cause().as_str()),
        (Role::Fault, "link eth0 is down")
    );
    bench.give(
        Event::Link {
            interface: name("eth0"),
            up: true,
        },
        at(700),
    );
    assert_eq!(bench.role(), Role::Backup);
}

#[test]
fn the_lowest_tier_with_enough_takes_the_traffic_else_the_fullest() {
    let up = |min_healthy: u16, up: &[(&str, u8)]| {
        let all = [("b0", 0), ("b1", 0), ("b2", 1), ("b3", 1), ("b4", 2)];
        let backends = all.map(|(text, tier)| steerd_core::config::Backend {
            mode: Mode::Local,
            ..backend(text, host(tier.into()), tier)
        });
        let mut service = service(backends.to_vec());
        service.min_healthy = min_healthy;
        let mut bench = Bench::cold(config(vec![router(100)], vec![service]));
        bench.surroundings();
        bench.run(at(20));
        for (name, _) in all {
            bench.check(name, up.iter().any(|(up, _)| *up == name), at(20));
        }
        bench.node.status(at(20)).1[0].active_tier
    };
    let (b0, b1, b2, b3, b4) = (("b0", 0), ("b1", 0), ("b2", 1), ("b3", 1), ("b4", 2));
    assert_eq!(up(1, &[b0, b1, b2, b3, b4]), Some(0));
    assert_eq!(up(1, &[b0, b2, b3, b4]), Some(0));
    assert_eq!(up(2, &[b0, b2, b3, b4]), Some(1));
    assert_eq!(up(1, &[b4]), Some(2));
    assert_eq!(up(3, &[b0, b2, b3, b4]), Some(1), "none has enough");
    assert_eq!(
        up(3, &[b0, b2, b4]),
        Some(0),
        "none has enough, all as many"
    );
    assert_eq!(up(1, &[]), None);
}

#[test]
fn a_backend_without_weight_takes_no_new_flows_and_keeps_those_it_has() {
    let mut config = pair();
    config.services[0].backends[0].weight = 0;
    let bench = Bench::ready(config);
    let steering = bench.steered();
    assert_eq!(used(&steering), BTreeSet::from(["b1"]));
    assert!(steering.backends[0].alive);
}

#[test]
fn flows_do_not_stay_on_a_backend_that_cannot_be_reached() {
    let mut config = pair();
    config.services[0].backends.push(backend("b2", host(2), 0));
    let mut bench = Bench::ready(config);
    // Healthy, but its next hop is not known yet.
    bench.check("b2", true, at(12));
    bench.run(at(1012));
    let alive = |bench: &Bench| -> Vec<bool> {
        let backends = bench.steered().backends;
        backends.iter().map(|backend| backend.alive).collect()
    };
    assert_eq!(alive(&bench), [true, true, false]);
    let answer = |address, next_hop| Event::NextHop { address, next_hop };
    bench.give(answer(host(2), Some(hop(2))), at(1020));
    assert_eq!(alive(&bench), [true, true, true]);
    bench.give(answer(host(1), None), at(1030));
    assert_eq!(alive(&bench), [true, false, true]);
}

#[test]
fn steering_is_told_only_when_it_changes() {
    let mut bench = Bench::ready(pair());
    let before = bench.steered();
    let same = Event::NextHop {
        address: host(1),
        next_hop: Some(hop(1)),
    };
    assert_eq!(bench.give(same, at(20)), []);
    let other = Event::NextHop {
        address: host(1),
        next_hop: Some(hop(9)),
    };
    let told = steerings(&bench.give(other, at(20)));
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].ring, before.ring);
    assert_eq!(told[0].backends[1].way, Way::Dsr(Some(hop(9))));
    // Not one of ours.
    let stranger = Event::NextHop {
        address: ip("10.0.0.1"),
        next_hop: Some(hop(1)),
    };
    assert_eq!(bench.give(stranger, at(20)), []);
}

#[test]
fn a_restart_steers_as_before_until_it_knows_as_much() {
    let mut before = pair();
    before.services[0].backends[1].tier = 0;
    let pinned = Bench::ready(before.clone()).steered();
    let restored = Restored {
        backends: [(key("game", "b0"), true), (key("game", "b1"), true)].into(),
        masters: [name("main")].into(),
    };
    let mut bench = Bench::start(before, &restored);
    assert_eq!(bench.role(), Role::Master);
    assert!(
        matches!(bench.actions[0], Action::Acquire { .. }),
        "{:?}",
        bench.actions
    );
    assert!(
        matches!(bench.actions[1], Action::SendAdvert { .. }),
        "{:?}",
        bench.actions
    );
    assert!(
        !bench
            .actions
            .iter()
            .any(|action| matches!(action, Action::Release { .. }))
    );
    assert_eq!(steerings(&bench.actions), []);
    assert!(!bench.node.settled());
    bench.surroundings();
    assert_eq!(steerings(&bench.actions), [pinned]);
    assert!(bench.node.settled());
    assert_eq!(bench.role(), Role::Master);
}

#[test]
fn a_restart_does_not_wait_for_ever_for_a_next_hop() {
    let restored = Restored {
        backends: [(key("game", "b0"), true), (key("game", "b1"), true)].into(),
        masters: BTreeSet::new(),
    };
    let mut bench = Bench::start(pair(), &restored);
    bench.give(Event::LocalAddresses(own(&[host(0)])), at(0));
    bench.run(at(999));
    assert_eq!(steerings(&bench.actions), []);
    assert!(!bench.node.settled());
    bench.run(at(1000));
    assert!(bench.node.settled());
    assert_eq!(used(&bench.steered()), BTreeSet::from(["b0"]));
}

/// The seed's slow probes: every 5 s, 3 failures.
fn slow() -> Config {
    let mut service = two();
    service.backends[1].tier = 0;
    service.probes[0] = steerd_core::config::Probe {
        interval: ms(5000),
        fall: 3,
        timeout: ms(2000),
        ..probe()
    };
    config(vec![router(100)], vec![service])
}

#[test]
fn a_dead_nodes_server_leaves_the_ring_before_its_backup_takes_over() {
    let mut bench = Bench::ready(slow());
    bench.hear(host(1), 110, at(100));
    bench.hear(host(1), 110, at(200));
    assert_eq!(used(&bench.steered()), BTreeSet::from(["b0", "b1"]));
    // Late: checked at once, and the check does not end.
    let actions = bench.run(at(350));
    let check = Action::RunProbe {
        backend: key("game", "b1"),
        probe: name("tcp"),
    };
    assert!(actions.contains(&check), "{actions:?}");
    let actions = bench.run(at(600));
    let steer = place(&actions, |action| matches!(action, Action::Steer(_)));
    let acquire = place(&actions, |action| matches!(action, Action::Acquire { .. }));
    assert!(steer < acquire);
    assert_eq!(used(&bench.steered()), BTreeSet::from(["b0"]));
    let status = bench.node.status(at(600)).1[0].backends[1].clone();
    assert_eq!(
        status.reason,
        "node silent: no adverts from 192.168.1.27 for 360ms"
    );
    // One success brings it back.
    bench.check("b1", true, at(700));
    assert_eq!(used(&bench.steered()), BTreeSet::from(["b0", "b1"]));
}

#[test]
fn a_node_whose_daemon_alone_died_keeps_its_server() {
    let mut bench = Bench::ready(slow());
    bench.hear(host(1), 110, at(100));
    bench.run(at(250));
    bench.check("b1", true, at(255));
    bench.run(at(600));
    assert_eq!(bench.role(), Role::Master);
    assert_eq!(used(&bench.steered()), BTreeSet::from(["b0", "b1"]));
}

#[test]
fn a_node_with_nothing_but_the_dead_nodes_server_does_not_take_over() {
    let mut config = slow();
    config.services[0].backends.remove(0);
    let mut bench = Bench::cold(config);
    bench.surroundings();
    bench.tick(at(10));
    bench.check("b1", true, at(10));
    bench.hear(host(1), 110, at(100));
    let actions = bench.run(at(1000));
    assert!(
        !actions
            .iter()
            .any(|action| matches!(action, Action::Acquire { .. }))
    );
    assert_eq!(bench.role(), Role::Fault);
}

#[test]
fn configured_peers_forward_and_nobody_else() {
    let mut config = pair();
    config.virtual_routers[0].peers = vec![host(3)];
    let mut bench = Bench::ready(config);
    assert!(
        bench
            .actions
            .contains(&Action::Resolve { address: host(3) })
    );
    let actions = bench.give(
        Event::NextHop {
            address: host(3),
            next_hop: Some(hop(3)),
        },
        at(20),
    );
    assert_eq!(actions, [Action::Forwarders(vec![hop(3).mac])]);
    assert_eq!(bench.hear(host(2), 50, at(30)), []);
    assert_eq!(bench.hear(host(2), 50, at(40)), []);
}

#[test]
fn peers_that_are_not_configured_forward_when_heard_twice_and_for_a_time() {
    let mut bench = Bench::master(pair());
    let resolve = Action::Resolve { address: host(2) };
    // One advert can be anyone's, in the name of anyone.
    let actions = bench.hear(host(2), 50, at(600));
    assert!(!actions.contains(&resolve), "{actions:?}");
    let actions = bench.hear(host(2), 50, at(700));
    assert!(actions.contains(&resolve), "{actions:?}");
    let found = Event::NextHop {
        address: host(2),
        next_hop: Some(hop(2)),
    };
    assert_eq!(
        bench.give(found, at(700)),
        [Action::Forwarders(vec![hop(2).mac])]
    );
    let changes = |actions: &[Action]| {
        let fits = |action: &&Action| {
            matches!(action, Action::Forwarders(_) | Action::Forget { .. }) || **action == resolve
        };
        actions.iter().filter(fits).cloned().collect::<Vec<_>>()
    };
    assert_eq!(changes(&bench.hear(host(2), 50, at(800))), []);
    assert_eq!(changes(&bench.run(at(10_799))), []);
    assert_eq!(
        changes(&bench.run(at(10_800))),
        [
            Action::Forget { address: host(2) },
            Action::Forwarders(Vec::new())
        ]
    );
}

#[test]
fn forged_adverts_resolve_a_bounded_number_of_peers() {
    let mut bench = Bench::ready(pair());
    let mut resolved = 0;
    for number in 0..1000_u64 {
        let source = IpAddr::from([10, 0, (number / 200) as u8, (number / 2 % 100) as u8]);
        let actions = bench.hear(source, 200, at(20 + number));
        let is_resolve = |action: &&Action| matches!(action, Action::Resolve { .. });
        resolved += actions.iter().filter(is_resolve).count();
    }
    assert_eq!(resolved, 16);
}

#[test]
fn a_known_peer_is_no_address_conflict() {
    let mut config = pair();
    config.virtual_routers[0].peers = vec![host(1)];
    let conflict = |mac| Event::AddressConflict {
        router: name("main"),
        address: vip(),
        mac,
    };
    let mut bench = Bench::ready(config.clone());
    bench.give(conflict(hop(1).mac), at(20));
    bench.run(at(500));
    assert_eq!(bench.role(), Role::Master);
    let mut bench = Bench::ready(config);
    bench.give(conflict(hop(9).mac), at(20));
    for now in (20..=500).step_by(5) {
        let asks = |action: &Action| matches!(action, Action::ProbeAddresses { .. });
        if bench.run(at(now)).iter().any(asks) {
            bench.give(conflict(hop(9).mac), at(now));
        }
    }
    assert_eq!(bench.role(), Role::Fault);
}

#[test]
fn a_shutdown_resigns_waits_for_the_new_holder_releases_and_ends() {
    let mut bench = Bench::master(pair());
    let actions = bench.give(Event::Command(Command::Shutdown), at(600));
    assert!(is_resignation(&actions[0]), "{actions:?}");
    assert!(!actions.contains(&Action::Exit));
    let actions = bench.hear(host(1), 90, at(660));
    let releases = place(&actions, |action| matches!(action, Action::Release { .. }));
    assert!(releases < place(&actions, |action| *action == Action::Exit));
    assert_eq!(bench.node.next_deadline(), None);
    assert_eq!(bench.hear(host(1), 90, at(700)), []);
}

#[test]
fn a_shutdown_without_a_peer_or_a_second_one_ends_too() {
    let mut alone = Bench::master(pair());
    alone.give(Event::Command(Command::Shutdown), at(600));
    let actions = alone.run(at(10_000));
    assert_eq!(actions.last(), Some(&Action::Exit));
    assert_eq!(
        actions
            .iter()
            .filter(|action| **action == Action::Exit)
            .count(),
        1
    );
    let mut urged = Bench::master(pair());
    urged.give(Event::Command(Command::Shutdown), at(600));
    assert_eq!(
        urged
            .give(Event::Command(Command::Shutdown), at(601))
            .last(),
        Some(&Action::Exit)
    );
    let mut backup = Bench::ready(pair());
    assert_eq!(
        backup
            .give(Event::Command(Command::Shutdown), at(20))
            .last(),
        Some(&Action::Exit)
    );
}

#[test]
fn failover_is_refused_where_there_is_nothing_to_give() {
    let mut bench = Bench::ready(pair());
    bench.hear(host(1), 110, at(20));
    let error = bench
        .node
        .failover(Some(&name("mian")), at(20))
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "there is no virtual router mian; there is: main"
    );
    let error = bench
        .node
        .failover(Some(&name("main")), at(20))
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "this node is backup for main: run `steerctl failover` on the master, 192.168.1.27"
    );
    assert_eq!(
        bench.node.failover(None, at(20)),
        Err(FailoverError::NoMaster)
    );
    let mut bench = Bench::master(pair());
    assert_eq!(bench.node.failover(None, at(600)), Ok(vec![name("main")]));
    let actions = drain(&mut bench.node);
    assert!(is_resignation(&actions[0]), "{actions:?}");
    bench.give(Event::Command(Command::Shutdown), at(610));
    assert_eq!(
        bench.node.failover(None, at(620)),
        Err(FailoverError::Stopping)
    );
}

#[test]
fn unknown_names_are_ignored() {
    let mut bench = Bench::ready(pair());
    let advert = Advert {
        vrid: 9,
        priority: 9,
        interval_cs: 9,
        addresses: vec![vip()],
    };
    let events = [
        Event::Probe {
            backend: key("x", "y"),
            probe: name("z"),
            outcome: Ok(()),
            took: ms(1),
        },
        Event::Probe {
            backend: key("game", "b0"),
            probe: name("z"),
            outcome: Ok(()),
            took: ms(1),
        },
        Event::Advert {
            router: name("x"),
            source: host(1),
            advert,
        },
        Event::Link {
            interface: name("x"),
            up: false,
        },
        Event::Source {
            router: name("x"),
            address: None,
        },
        Event::AddressConflict {
            router: name("x"),
            address: vip(),
            mac: hop(9).mac,
        },
        Event::AddressConflict {
            router: name("main"),
            address: host(9),
            mac: hop(9).mac,
        },
    ];
    for event in events {
        assert_eq!(bench.give(event.clone(), at(20)), [], "{event:?}");
    }
}

#[test]
fn a_reload_touches_only_what_changed() {
    let mut bench = Bench::master(pair());
    bench.run(at(600));
    let same = bench.node.config().clone();
    assert_eq!(bench.node.plan(&same).changes(), Vec::<String>::new());
    let actions = bench.give(Event::Command(Command::Reload(Box::new(same))), at(600));
    assert_eq!(actions, [Action::Reconfigured]);
    let mut more = pair();
    more.node.name = name("z");
    more.services[0].backends.push(backend("b2", host(2), 0));
    let plan = bench.node.plan(&more);
    assert_eq!(
        plan.changes(),
        [
            "needs a restart: node: name a -> z",
            "service game: backend b2 added"
        ]
    );
    let actions = bench.give(
        Event::Command(Command::Reload(Box::new(more.clone()))),
        at(610),
    );
    assert!(actions.contains(&Action::Resolve { address: host(2) }));
    assert!(
        !actions
            .iter()
            .any(|action| matches!(action, Action::Release { .. }))
    );
    assert_eq!(bench.role(), Role::Master);
    let backends = bench.node.status(at(610)).1[0].backends.clone();
    assert_eq!(
        backends
            .iter()
            .map(|backend| backend.state)
            .collect::<Vec<_>>(),
        [BackendState::Up, BackendState::Up, BackendState::Unknown]
    );
    assert_eq!(bench.node.config().node.name, name("a"));
    assert_eq!(
        bench.node.plan(&more).changes(),
        ["needs a restart: node: name a -> z"]
    );
    // And away again.
    let actions = bench.give(Event::Command(Command::Reload(Box::new(pair()))), at(620));
    assert!(actions.contains(&Action::Forget { address: host(2) }));
    assert_eq!(bench.steered().backends.len(), 2);
}

#[test]
fn a_removed_router_and_service_are_handed_over_and_forgotten() {
    let mut bench = Bench::master(pair());
    let empty = config(Vec::new(), Vec::new());
    let actions = bench.give(Event::Command(Command::Reload(Box::new(empty))), at(600));
    let resigns = place(&actions, is_resignation);
    let releases = place(&actions, |action| matches!(action, Action::Release { .. }));
    let switch = place(&actions, |action| *action == Action::Reconfigured);
    assert!(resigns < releases && releases < switch);
    assert!(actions.contains(&Action::Unsteer {
        service: name("game")
    }));
    assert!(actions.contains(&Action::Forget { address: host(1) }));
    assert_eq!(bench.node.next_deadline(), None);
}

#[test]
fn changed_addresses_are_exchanged_in_the_same_role() {
    let mut bench = Bench::master(pair());
    let mut more = pair();
    more.virtual_routers[0]
        .addresses
        .push("192.168.1.24/24".parse().unwrap());
    let mut actions = bench.give(Event::Command(Command::Reload(Box::new(more))), at(600));
    actions.extend(bench.run(at(600)));
    let releases = place(&actions, |action| matches!(action, Action::Release { .. }));
    let switch = place(&actions, |action| *action == Action::Reconfigured);
    let acquires = place(&actions, |action| matches!(action, Action::Acquire { .. }));
    let tells = place(&actions, |action| {
        matches!(action, Action::SendAdvert { .. })
    });
    let announces = place(&actions, |action| matches!(action, Action::Announce { .. }));
    assert!(releases < switch && switch < acquires && acquires < tells && tells < announces);
    assert_eq!(bench.role(), Role::Master);
}

#[test]
fn another_vrid_begins_anew() {
    let mut bench = Bench::master(pair());
    let mut other = pair();
    other.virtual_routers[0].vrid = 52;
    let actions = bench.give(Event::Command(Command::Reload(Box::new(other))), at(600));
    assert!(place(&actions, is_resignation) < place(&actions, |a| *a == Action::Reconfigured));
    assert_eq!(bench.role(), Role::Backup);
    bench.run(at(1100));
    assert_eq!(bench.role(), Role::Master);
}

#[test]
fn another_address_makes_another_server() {
    let mut bench = Bench::master(pair());
    let mut moved = pair();
    moved.services[0].backends[0].address = host(5);
    bench.give(Event::Command(Command::Reload(Box::new(moved))), at(600));
    let backends = bench.node.status(at(600)).1[0].backends.clone();
    assert_eq!(
        (backends[0].state, backends[1].state),
        (BackendState::Unknown, BackendState::Up)
    );
    // The next tier takes over meanwhile.
    assert_eq!(used(&bench.steered()), BTreeSet::from(["b1"]));
    let tier = Notice::Tier {
        service: name("game"),
        from: Some(0),
        to: Some(1),
    };
    assert!(bench.actions.contains(&Action::Notice(tier)));
}

fn reload(bench: &mut Bench, config: &Config, now: Instant) -> Vec<Action> {
    let config = Box::new(config.clone());
    bench.give(Event::Command(Command::Reload(config)), now)
}

fn states(bench: &Bench) -> Vec<BackendState> {
    let services = bench.node.status(at(600)).1;
    services[0].backends.iter().map(|b| b.state).collect()
}

#[test]
fn a_renamed_backend_keeps_its_health_and_its_traffic() {
    let mut bench = Bench::master(pair());
    let mut renamed = pair();
    renamed.services[0].backends[0].name = name("first");
    let actions = reload(&mut bench, &renamed, at(600));
    assert_eq!(states(&bench), [BackendState::Up, BackendState::Up]);
    let told = steerings(&actions);
    assert_eq!(told.len(), 1);
    assert_eq!(used(&told[0]), BTreeSet::from(["first"]));
    assert!(
        !actions
            .iter()
            .any(|action| matches!(action, Action::Notice(_)))
    );
    // It is probed under its new name, and what an older check says means nothing.
    assert_eq!(bench.check("b0", false, at(601)), []);
    let actions = bench.run(at(3000));
    let runs = |backend: &str| {
        let (backend, probe) = (key("game", backend), name("tcp"));
        actions.contains(&Action::RunProbe { backend, probe })
    };
    assert!(runs("first") && !runs("b0"));
}

#[test]
fn a_renamed_service_keeps_its_backends_health_and_its_traffic() {
    let mut bench = Bench::master(pair());
    let mut renamed = pair();
    renamed.services[0].name = name("play");
    renamed.services[0].backends[0].name = name("first");
    let actions = reload(&mut bench, &renamed, at(600));
    assert_eq!(bench.role(), Role::Master);
    assert_eq!(states(&bench), [BackendState::Up, BackendState::Up]);
    let gone = Action::Unsteer {
        service: name("game"),
    };
    let steer = place(&actions, |action| matches!(action, Action::Steer(_)));
    assert!(place(&actions, |action| *action == gone) < steer);
    let told = steerings(&actions);
    assert_eq!(told.len(), 1);
    assert_eq!(
        (&told[0].service, used(&told[0])),
        (&name("play"), BTreeSet::from(["first"]))
    );
}

#[test]
fn a_service_renamed_while_it_settles_goes_on_settling() {
    let restored = Restored {
        backends: [(key("game", "b0"), true), (key("game", "b1"), true)].into(),
        masters: BTreeSet::new(),
    };
    let mut bench = Bench::start(pair(), &restored);
    let mut renamed = pair();
    renamed.services[0].name = name("play");
    let actions = reload(&mut bench, &renamed, at(0));
    assert_eq!(steerings(&actions), []);
    assert!(!bench.node.settled());
    bench.surroundings();
    assert_eq!(used(&bench.steered()), BTreeSet::from(["b0"]));
}

#[test]
fn a_renamed_backend_with_other_probes_counts_as_it_did_until_they_say_otherwise() {
    let mut bench = Bench::master(pair());
    let mut renamed = pair();
    renamed.services[0].backends[0].name = name("first");
    renamed.services[0].probes[0].name = name("connect");
    let actions = reload(&mut bench, &renamed, at(600));
    assert_eq!(states(&bench), [BackendState::Up, BackendState::Up]);
    let connect = Action::RunProbe {
        backend: key("game", "first"),
        probe: name("connect"),
    };
    assert!([actions, bench.run(at(610))].concat().contains(&connect));
    for now in [620, 640] {
        let (backend, probe) = (key("game", "first"), name("connect"));
        let outcome = Err(ProbeFailure::Refused);
        bench.give(
            Event::Probe {
                backend,
                probe,
                outcome,
                took: ms(1),
            },
            at(now),
        );
        bench.run(at(now + 200));
    }
    assert_eq!(states(&bench)[0], BackendState::Down);
}

#[test]
fn backends_that_exchange_their_names_keep_their_health_and_ignore_checks_of_the_other() {
    let mut bench = Bench::master(pair());
    let mut now = at(600);
    while states(&bench)[1] != BackendState::Down {
        now = bench.node.next_deadline().unwrap();
        let runs = bench.tick(now);
        for (backend, passes) in [("b0", true), ("b1", false)] {
            let (key, probe) = (key("game", backend), name("tcp"));
            if runs.contains(&Action::RunProbe {
                backend: key,
                probe,
            }) {
                bench.check(backend, passes, now);
            }
        }
    }
    // A check of the one that is up is under way.
    let run = Action::RunProbe {
        backend: key("game", "b0"),
        probe: name("tcp"),
    };
    while !bench.tick(now).contains(&run) {
        now = bench.node.next_deadline().unwrap();
    }
    let mut exchanged = pair();
    exchanged.services[0].backends[0].name = name("b1");
    exchanged.services[0].backends[1].name = name("b0");
    reload(&mut bench, &exchanged, now);
    assert_eq!(states(&bench), [BackendState::Up, BackendState::Down]);
    // Its end comes under the name that the dead one has now.
    bench.check("b0", true, now);
    assert_eq!(states(&bench), [BackendState::Up, BackendState::Down]);
    assert_eq!(used(&bench.steered()), BTreeSet::from(["b1"]));
}

/// Of IPv6, without a service of its own.
fn six() -> VirtualRouter {
    let mut six = router(100);
    six.name = name("six");
    six.addresses = vec!["fd00::25/64".parse().unwrap()];
    six
}

fn group() -> Config {
    let mut config = config(vec![router(100), six()], vec![two()]);
    config.sync_groups = vec![SyncGroup {
        name: name("both"),
        virtual_routers: vec![name("main"), name("six")],
    }];
    config
}

fn acquired(actions: &[Action]) -> Vec<&str> {
    fn router(action: &Action) -> Option<&str> {
        match action {
            Action::Acquire { router } => Some(router.as_str()),
            _ => None,
        }
    }
    actions.iter().filter_map(router).collect()
}

fn released(actions: &[Action]) -> Vec<&str> {
    fn router(action: &Action) -> Option<&str> {
        match action {
            Action::Release { router } => Some(router.as_str()),
            _ => None,
        }
    }
    actions.iter().filter_map(router).collect()
}

#[test]
fn a_node_that_starts_alone_serves_within_three_intervals() {
    let mut bench = Bench::ready(pair());
    bench.run(at(260));
    assert_eq!(bench.role(), Role::Backup);
    bench.run(at(262));
    assert_eq!(bench.role(), Role::Master);
}

#[test]
fn a_group_is_acquired_handed_over_and_lost_as_one() {
    let mut bench = Bench::ready(group());
    let actions = bench.run(at(300));
    assert_eq!(acquired(&actions), ["main", "six"]);
    let given = bench.node.failover(Some(&name("six")), at(300)).unwrap();
    assert_eq!(given, [name("main"), name("six")]);
    assert_eq!(bench.took().iter().filter(|a| is_resignation(a)).count(), 2);
    let advert = Event::Advert {
        router: name("main"),
        source: host(1),
        advert: Advert {
            vrid: 51,
            priority: 50,
            interval_cs: 10,
            addresses: vec![vip()],
        },
    };
    assert_eq!(released(&bench.give(advert, at(360))), ["main", "six"]);
    assert_eq!(
        bench.node.failover(None, at(361)),
        Err(FailoverError::NoMaster)
    );

    // The second has no service, but it goes with the first.
    let mut bench = Bench::master(group());
    bench.check("b0", false, at(510));
    let interface = name("eth0");
    let gone = bench.give(
        Event::Link {
            interface,
            up: false,
        },
        at(520),
    );
    assert_eq!(released(&gone), ["main", "six"]);
    let (routers, _) = bench.node.status(at(530));
    assert!(routers.iter().all(|router| router.role == Role::Fault));
}

#[test]
fn half_a_group_is_not_resumed() {
    let restored = |masters: &[&str]| Restored {
        masters: masters.iter().map(|router| name(router)).collect(),
        ..Restored::default()
    };
    let whole = Bench::start(group(), &restored(&["main", "six"]));
    assert_eq!(whole.role(), Role::Master);
    let half = Bench::start(group(), &restored(&["main"]));
    assert_eq!(half.role(), Role::Init);
}

#[test]
fn a_group_is_divided_and_joined_without_a_break() {
    let apart = || Config {
        sync_groups: Vec::new(),
        ..group()
    };
    let mut bench = Bench::master(apart());
    let actions = reload(&mut bench, &group(), at(600));
    assert_eq!((acquired(&actions), released(&actions)), (vec![], vec![]));
    assert!(!actions.iter().any(is_resignation));
    let actions = reload(&mut bench, &apart(), at(700));
    assert_eq!((acquired(&actions), released(&actions)), (vec![], vec![]));
    let (routers, _) = bench.node.status(at(710));
    assert!(routers.iter().all(|router| router.role == Role::Master));
}

#[test]
fn a_new_member_goes_where_the_group_is() {
    let mut bench = Bench::master(pair());
    let mut actions = reload(&mut bench, &group(), at(600));
    assert_eq!(
        (acquired(&actions), released(&actions)),
        (vec!["six"], vec![])
    );
    actions.extend(bench.run(at(600)));
    let announced =
        |action: &Action| matches!(action, Action::Announce { router } if router.as_str() == "six");
    assert!(actions.iter().any(announced));
    // One that is taken out is given away; the other stays.
    let actions = reload(&mut bench, &pair(), at(700));
    assert_eq!(released(&actions), ["six"]);
    assert_eq!(bench.role(), Role::Master);
}

#[test]
fn members_that_have_different_roles_are_elected_anew() {
    let mut config = group();
    config.sync_groups.clear();
    config.virtual_routers[1].preempt = false;
    let mut bench = Bench::ready(config);
    let advert = Event::Advert {
        router: name("six"),
        source: ip("fe80::27"),
        advert: Advert {
            vrid: 51,
            priority: 100,
            interval_cs: 10,
            addresses: vec![ip("fd00::25")],
        },
    };
    for now in [100, 200, 300, 400] {
        bench.run(at(now));
        bench.give(advert.clone(), at(now));
    }
    assert_eq!(bench.role(), Role::Master);
    let actions = reload(&mut bench, &group(), at(410));
    assert_eq!(released(&actions).first(), Some(&"main"));
    assert_eq!(actions.iter().filter(|a| is_resignation(a)).count(), 1);
    assert_eq!(bench.role(), Role::Backup);
    let actions = bench.run(at(900));
    assert_eq!(acquired(&actions), ["main", "six"]);
}

#[test]
fn adverts_from_our_own_address_are_no_peers_but_a_diagnosis() {
    let mut bench = Bench::ready(pair());
    bench.give(
        Event::Source {
            router: name("main"),
            address: Some(host(0)),
        },
        at(10),
    );
    let advert = Event::Advert {
        router: name("main"),
        source: host(0),
        advert: Advert {
            vrid: 51,
            priority: 200,
            interval_cs: 10,
            addresses: vec![vip()],
        },
    };
    for now in [20, 120, 220] {
        bench.give(advert.clone(), at(now));
    }
    let (routers, _) = bench.node.status(at(230));
    assert_eq!(routers[0].peers, []);
    let told = &routers[0].diagnoses;
    assert!(
        matches!(&told[..], [one] if one.contains("an address of its own")),
        "{told:?}"
    );
    bench.run(at(300));
    assert_eq!(bench.role(), Role::Master, "it is no election's business");
}
