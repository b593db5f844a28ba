//! What tracks do to a node's virtual router, step by step.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)] // tests may panic

#[expect(dead_code, reason = "shared with other tests")]
mod support;

use std::net::IpAddr;

use steerd_core::{
    action::{Action, Notice},
    api::{TrackState, VirtualRouterStatus},
    config::{Config, Name, Pace, Script, Track, TrackKind},
    event::{Command, Event, NextHop, ProbeFailure, Sight, TrackFailure},
    node::{Node, Restored},
    time::Instant,
    vrrp::{election::Role, wire::Advert},
};
use support::{at, backend, config, drain, host, key, ms, name, own, router, service, vip};

fn track(text: &str, kind: TrackKind, weight: Option<i16>) -> Track {
    Track {
        name: name(text),
        kind,
        weight,
        pace: Pace {
            fall: 1,
            rise: 1,
            ..Pace::default()
        },
    }
}

fn script() -> TrackKind {
    TrackKind::Script(Script {
        argv: vec!["/bin/true".to_owned()],
        user: None,
    })
}

fn uplink() -> TrackKind {
    TrackKind::Interface {
        interface: name("eth1"),
    }
}

/// A virtual router of priority 100 with these tracks, and nothing else.
fn with(tracks: Vec<Track>) -> Config {
    let mut router = router(100);
    router.track = tracks.iter().map(|track| track.name.clone()).collect();
    Config {
        tracks,
        ..config(vec![router], Vec::new())
    }
}

/// A node on the first host.
struct Bench {
    node: Node,
    tickets: Vec<(Name, u64)>,
    now: Instant,
}

impl Bench {
    /// With link and addresses known at 0.
    fn new(config: Config) -> Self {
        let mut bench = Self {
            node: Node::new(config, &Restored::default(), 1, at(0)),
            tickets: Vec::new(),
            now: at(0),
        };
        bench.took();
        bench.give(Event::LocalAddresses(own(&[host(0)])));
        bench.give(Event::Link {
            interface: name("eth0"),
            up: true,
        });
        bench
    }

    fn took(&mut self) -> Vec<Action> {
        let actions = drain(&mut self.node);
        for action in &actions {
            if let Action::RunTrack { track, ticket } = action {
                self.tickets.retain(|(known, _)| known != track);
                self.tickets.push((track.clone(), *ticket));
            }
        }
        actions
    }

    fn give(&mut self, event: Event) -> Vec<Action> {
        self.node.handle(event, self.now);
        self.took()
    }

    /// Serves deadlines up to `until`.
    fn run(&mut self, until: Instant) -> Vec<Action> {
        let mut all = Vec::new();
        while let Some(next) = self.node.next_deadline().filter(|next| *next <= until) {
            self.now = next;
            self.node.tick(next);
            all.extend(self.took());
        }
        self.now = until;
        all
    }

    fn says(&mut self, track: &str, good: bool) -> Vec<Action> {
        let known = self.tickets.iter().find(|(known, _)| *known == name(track));
        let (track, ticket) = known.cloned().expect("it was ordered");
        let outcome = match good {
            true => Ok(Sight::of("fine")),
            false => Err(TrackFailure::Missing),
        };
        self.give(Event::Track {
            track,
            ticket,
            outcome,
        })
    }

    fn hear(&mut self, from: IpAddr, priority: u8) -> Vec<Action> {
        self.give(Event::Advert {
            router: name("main"),
            source: from,
            advert: Advert {
                vrid: 51,
                priority,
                interval_cs: 10,
                addresses: vec![vip()],
            },
        })
    }

    fn router(&self) -> VirtualRouterStatus {
        self.node.status(self.now).0.remove(0)
    }
}

/// The priorities of the adverts among these.
fn adverts(actions: &[Action]) -> Vec<u8> {
    let priority = |action: &Action| match action {
        Action::SendAdvert { advert, .. } => Some(advert.priority),
        _ => None,
    };
    actions.iter().filter_map(priority).collect()
}

#[test]
fn a_node_takes_part_when_its_fault_tracks_have_answered() {
    let mut bench = Bench::new(with(vec![
        track("a", script(), None),
        track("b", uplink(), Some(50)),
    ]));
    bench.run(at(900));
    assert_eq!(bench.router().role, Role::Init);
    let cause = bench.router().cause;
    assert_eq!(cause, "waiting for the first answer of track a");
    // One that has only a weight is not waited for.
    bench.says("a", true);
    assert_eq!(bench.router().role, Role::Backup);
    assert_eq!(bench.router().effective_priority, 100);
    bench.run(at(2000));
    assert_eq!(bench.router().role, Role::Master);
}

#[test]
fn a_node_that_starts_with_a_bad_fault_track_is_faulty() {
    let mut bench = Bench::new(with(vec![track("a", script(), None)]));
    bench.says("a", false);
    assert_eq!(bench.router().role, Role::Fault);
    assert_eq!(bench.router().cause, "track a: the file is not there");
}

#[test]
fn a_fault_gives_the_addresses_up_at_once_and_its_end_takes_them_back() {
    let mut bench = Bench::new(with(vec![track("a", uplink(), None)]));
    bench.says("a", true);
    bench.run(at(1000));
    assert_eq!(bench.router().role, Role::Master);
    let actions = bench.says("a", false);
    assert_eq!(adverts(&actions), [0]);
    let release = Action::Release {
        router: name("main"),
    };
    assert!(actions.contains(&release), "{actions:?}");
    let told = actions.iter().any(|action| {
        matches!(action, Action::Notice(Notice::Track { track, good: false, .. }) if *track == name("a"))
    });
    assert!(told, "{actions:?}");
    assert_eq!(bench.router().role, Role::Fault);
    bench.run(at(3000));
    bench.hear(host(1), 90);
    bench.says("a", true);
    for wait in 31..60 {
        bench.run(at(wait * 100));
        if bench.router().role != Role::Master {
            bench.hear(host(1), 90);
        }
    }
    assert_eq!(bench.router().role, Role::Master);
}

#[test]
fn a_weight_is_advertised_at_once_and_moves_the_addresses() {
    let mut bench = Bench::new(with(vec![track("a", uplink(), Some(-20))]));
    bench.says("a", true);
    bench.run(at(1050));
    assert_eq!(bench.router().role, Role::Master);
    // In the middle of an interval.
    bench.says("a", false);
    let actions = bench.run(bench.now);
    assert_eq!(adverts(&actions), [80]);
    let status = bench.router();
    assert_eq!((status.priority, status.effective_priority), (100, 80));
    assert_eq!(status.weightings.len(), 1);
    assert_eq!(status.weightings[0].adds, -20);
    let later = bench.run(at(1350));
    assert!(adverts(&later).iter().all(|priority| *priority == 80));
    // A peer of 90 wins by now.
    bench.hear(host(1), 90);
    assert_eq!(bench.router().role, Role::Backup);
    // And loses again.
    bench.says("a", true);
    assert_eq!(bench.router().effective_priority, 100);
    for wait in 14..40 {
        bench.run(at(wait * 100));
        if bench.router().role != Role::Master {
            bench.hear(host(1), 90);
        }
    }
    assert_eq!(bench.router().role, Role::Master);
    let status = bench.node.track_status(bench.now).remove(0);
    assert_eq!((status.state, status.adds), (TrackState::Good, 0));
    assert_eq!(status.virtual_routers, [name("main")]);
}

/// The master that was followed until then is not silent because it is followed no more.
#[test]
fn a_node_that_gains_priority_takes_over_from_a_master_that_is_well() {
    let mut bench = Bench::new(with(vec![track("a", uplink(), Some(-20))]));
    bench.says("a", false);
    let mut all = Vec::new();
    for wait in 1..20 {
        all.extend(bench.hear(host(1), 90));
        all.extend(bench.run(at(wait * 100)));
    }
    assert_eq!(bench.router().role, Role::Backup);
    all.extend(bench.says("a", true));
    for wait in 20..30 {
        if bench.router().role == Role::Master {
            break;
        }
        all.extend(bench.hear(host(1), 90));
        all.extend(bench.run(at(wait * 100)));
    }
    let router = bench.router();
    let why = (router.role, router.cause.as_str());
    assert_eq!(
        why,
        (Role::Master, "preempts 192.168.1.27 with priority 100")
    );
    let silent =
        |action: &Action| matches!(action, Action::Notice(Notice::Peer { alive: false, .. }));
    assert!(!all.iter().any(silent), "{all:?}");
}

#[test]
fn a_service_is_tracked_by_its_usable_backends() {
    let two = service(vec![backend("b0", host(0), 0), backend("b1", host(1), 0)]);
    let tracked = TrackKind::Service {
        service: name("game"),
        at_least: 2,
    };
    let mut config = with(vec![track("s", tracked, Some(-20))]);
    config.services = vec![two];
    let mut bench = Bench::new(config);
    let check = |bench: &mut Bench, which: &str, passes: bool| {
        let outcome = if passes {
            Ok(())
        } else {
            Err(ProbeFailure::Refused)
        };
        bench.give(Event::Probe {
            backend: key("game", which),
            probe: name("tcp"),
            outcome,
            took: ms(1),
        })
    };
    bench.run(at(10));
    let state = |bench: &Bench| bench.node.track_status(bench.now).remove(0).state;
    check(&mut bench, "b0", true);
    assert_eq!(state(&bench), TrackState::Undecided, "b1 may be the second");
    check(&mut bench, "b1", true);
    assert_eq!(state(&bench), TrackState::Undecided, "on no known way");
    let hop = |mac| NextHop {
        ifindex: 2,
        mac,
        vlan: 0,
        mtu: 1500,
        gateway: false,
    };
    let next_hop = |hop| Event::NextHop {
        address: host(1),
        next_hop: hop,
    };
    bench.give(next_hop(Some(hop([2, 0, 0, 0, 0, 1]))));
    assert_eq!(state(&bench), TrackState::Good);
    assert_eq!(bench.router().effective_priority, 100);
    bench.give(next_hop(None));
    assert_eq!(state(&bench), TrackState::Bad);
    assert_eq!(bench.router().effective_priority, 80);
    bench.give(next_hop(Some(hop([2, 0, 0, 0, 0, 1]))));
    assert_eq!(bench.router().effective_priority, 100);
    for _ in 0..2 {
        bench.run(bench.now + ms(1000));
        check(&mut bench, "b0", false);
        check(&mut bench, "b1", true);
    }
    let seen = bench.node.track_status(bench.now).remove(0);
    assert_eq!(seen.last, "1 usable backends of service game, 2 wanted");
    assert_eq!(bench.router().effective_priority, 80);
    assert_eq!(bench.router().role, Role::Master, "a weight is no fault");
}

#[test]
fn a_reload_ends_before_and_begins_after_it_takes_effect() {
    let (a, b) = (track("a", script(), None), track("b", uplink(), Some(-20)));
    let mut bench = Bench::new(with(vec![a.clone(), b.clone()]));
    bench.says("a", true);
    bench.says("b", false);
    bench.run(at(1000));
    assert_eq!(bench.router().role, Role::Master);
    assert_eq!(bench.router().effective_priority, 80);
    let c = track("c", uplink(), None);
    let new = with(vec![a, c]);
    let mut actions = bench.give(Event::Command(Command::Reload(Box::new(new))));
    actions.extend(bench.run(bench.now));
    let place = |wanted: &dyn Fn(&Action) -> bool| actions.iter().position(wanted).expect("it is");
    let stops =
        place(&|action| matches!(action, Action::StopTrack { track } if *track == name("b")));
    let reload = place(&|action| *action == Action::Reconfigured);
    let runs =
        place(&|action| matches!(action, Action::RunTrack { track, .. } if *track == name("c")));
    assert!(stops < reload && reload < runs, "{actions:?}");
    assert_eq!(adverts(&actions), [100], "what is gone weighs nothing");
    // A master goes on while a new fault track has not answered.
    bench.run(at(2000));
    assert_eq!(bench.router().role, Role::Master);
    bench.says("c", false);
    assert_eq!(bench.router().role, Role::Fault);
}
