//! The transition table, row by row, and what the module's documentation promises.

mod forged;
mod group;
mod rivals;
mod start;
mod wire;

use std::net::IpAddr;

use super::*;
use crate::{
    config::{Announce, Name, Wire},
    vrrp::wire::Advert,
};

const OWN: u8 = 100;
const INTERVAL: Duration = Duration::from_secs(1);
/// 3 intervals and (256 - 100) / 256 of one.
const DOWN_MS: u64 = 3609;
const SKEW_MS: u64 = 609;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

static MAIN: std::sync::LazyLock<Name> = std::sync::LazyLock::new(|| Name::new("main"));

fn ip(last: u8) -> IpAddr {
    IpAddr::from([192, 168, 1, last])
}

fn at(milliseconds: u64) -> Instant {
    Instant::from_origin(Duration::from_millis(milliseconds))
}

fn config() -> VirtualRouter {
    VirtualRouter {
        name: Name::new("main"),
        interface: Name::new("eth0"),
        vrid: 51,
        priority: OWN,
        advert_interval: INTERVAL,
        preempt: true,
        addresses: vec!["192.168.1.25/24".parse().unwrap()],
        peers: Vec::new(),
        source: None,
        announce: Announce {
            count: 3,
            interval: Duration::from_millis(100),
            repeat_after: Duration::from_secs(5),
            refresh: Duration::ZERO,
        },
        preempt_delay: Duration::ZERO,
        fence_after: Duration::ZERO,
        wire: Wire::default(),
        track: Vec::new(),
    }
}

fn advert(priority: u8) -> Advert {
    Advert {
        vrid: 51,
        priority,
        interval_cs: 100,
        addresses: vec![ip(25)],
    }
}

/// An election of one virtual router, at the address of this node where that is known.
fn elect(config: VirtualRouter, source: Option<IpAddr>, resumed: bool) -> Election {
    let mut election = Election::new(config, [], resumed, at(0));
    election.members[0].source = source;
    election
}

fn hears(election: &mut Election, source: IpAddr, advert: &Advert, now: Instant) {
    let router = &election.name().clone();
    let input = Input::Advert {
        router,
        source,
        advert,
    };
    election.handle(input, now);
}

fn hear(election: &mut Election, from: u8, priority: u8, now: u64) -> Vec<Effect> {
    hears(election, ip(from), &advert(priority), at(now));
    acts(election)
}

fn give(election: &mut Election, input: Input<'_>, now: u64) -> Vec<Effect> {
    election.handle(input, at(now));
    acts(election)
}

/// What it does, without what it tells.
fn acts(election: &mut Election) -> Vec<Effect> {
    let told = |effect: &Effect| {
        matches!(
            effect,
            Effect::Role { .. } | Effect::Peer { .. } | Effect::Misconfigured { .. }
        )
    };
    election
        .take_effects()
        .into_iter()
        .filter(|effect| !told(effect))
        .collect()
}

fn able() -> Input<'static> {
    Input::Ability(Ability::Able)
}

fn unable() -> Input<'static> {
    Input::Ability(Ability::Unable("link eth0 is down".to_owned()))
}

fn undecided() -> Input<'static> {
    Input::Ability(Ability::Undecided("the state of link eth0".to_owned()))
}

fn conflict() -> Input<'static> {
    Input::Conflict {
        router: &MAIN,
        address: ip(25),
        mac: MAC,
        peer: false,
    }
}

fn role(election: &Election) -> Role {
    election.role().0
}

/// Just started, on a host where no killed daemon left addresses.
fn init() -> Election {
    let mut election = elect(config(), Some(ip(26)), false);
    election.stale = false;
    election
}

/// Follows 192.168.1.30, heard at 0.
fn backup() -> Election {
    let mut election = init();
    give(&mut election, able(), 0);
    hear(&mut election, 30, 200, 0);
    election
}

/// Since 0, its announcements done.
fn master() -> Election {
    let mut election = elect(config(), Some(ip(26)), true);
    give(&mut election, able(), 0);
    for now in (0..=6000).step_by(100) {
        give(&mut election, Input::Timer, now);
    }
    election
}

fn fault() -> Election {
    let mut election = init();
    give(&mut election, unable(), 0);
    election
}

fn conflicted() -> Election {
    let mut election = init();
    give(&mut election, able(), 0);
    give(&mut election, conflict(), 1);
    give(&mut election, Input::Timer, DOWN_MS + 1);
    acts(&mut election);
    assert_eq!(role(&election), Role::Fault);
    election
}

const PRIO: Effect = Effect::Advert { priority: OWN };
const RESIGN: Effect = Effect::Advert { priority: 0 };

type Act = Box<dyn Fn(&mut Election) -> Vec<Effect>>;

#[test]
fn every_state_answers_every_event() {
    use Effect::{Acquire, Announce, ProbeAddresses, Release};
    let input = |make: fn() -> Input<'static>, now: u64| -> Act {
        Box::new(move |election| give(election, make(), now))
    };
    let heard = |from: u8, priority: u8, now: u64| -> Act {
        Box::new(move |election| hear(election, from, priority, now))
    };
    let timer: fn() -> Input<'static> = || Input::Timer;
    let fail_over: fn() -> Input<'static> = || Input::FailOver;
    let stop: fn() -> Input<'static> = || Input::Stop { linger: true };
    let stop_now: fn() -> Input<'static> = || Input::Stop { linger: false };
    let none = Vec::new;
    let rows: Vec<(&str, Election, Act, Role, Vec<Effect>)> = vec![
        (
            "init, undecided",
            init(),
            input(undecided, 5),
            Role::Init,
            none(),
        ),
        (
            "init, able",
            init(),
            input(able, 5),
            Role::Backup,
            vec![ProbeAddresses],
        ),
        (
            "init, unable",
            init(),
            input(unable, 5),
            Role::Fault,
            none(),
        ),
        (
            "init, advert",
            init(),
            heard(30, 200, 5),
            Role::Init,
            none(),
        ),
        (
            "init, conflict",
            init(),
            input(conflict, 5),
            Role::Init,
            none(),
        ),
        (
            "init, timer",
            init(),
            input(timer, 99_999),
            Role::Init,
            none(),
        ),
        (
            "init, fail over",
            init(),
            input(fail_over, 5),
            Role::Init,
            none(),
        ),
        ("init, stop", init(), input(stop, 5), Role::Init, none()),
        (
            "backup, undecided",
            backup(),
            input(undecided, 5),
            Role::Backup,
            none(),
        ),
        (
            "backup, able",
            backup(),
            input(able, 5),
            Role::Backup,
            none(),
        ),
        (
            "backup, unable",
            backup(),
            input(unable, 5),
            Role::Fault,
            none(),
        ),
        (
            "backup, higher",
            backup(),
            heard(30, 200, 5),
            Role::Backup,
            none(),
        ),
        (
            "backup, lower",
            backup(),
            heard(30, 1, 5),
            Role::Backup,
            none(),
        ),
        (
            "backup, resigns",
            backup(),
            heard(30, 0, 5),
            Role::Backup,
            none(),
        ),
        (
            "backup, conflict",
            backup(),
            input(conflict, 5),
            Role::Backup,
            none(),
        ),
        (
            "backup, too early",
            backup(),
            input(timer, DOWN_MS),
            Role::Backup,
            none(),
        ),
        (
            "backup, down",
            backup(),
            input(timer, DOWN_MS + 1),
            Role::Master,
            vec![Acquire, PRIO, Announce],
        ),
        (
            "backup, down late",
            backup(),
            input(timer, DOWN_MS + 502),
            Role::Backup,
            none(),
        ),
        (
            "backup, fail over",
            backup(),
            input(fail_over, 5),
            Role::Backup,
            none(),
        ),
        ("backup, stop", backup(), input(stop, 5), Role::Init, none()),
        (
            "master, undecided",
            master(),
            input(undecided, 6001),
            Role::Master,
            none(),
        ),
        (
            "master, able",
            master(),
            input(able, 6001),
            Role::Master,
            none(),
        ),
        (
            "master, unable",
            master(),
            input(unable, 6001),
            Role::Fault,
            vec![RESIGN, Release],
        ),
        (
            "master, higher",
            master(),
            heard(30, 101, 6100),
            Role::Backup,
            vec![PRIO, Release],
        ),
        (
            "master, lower",
            master(),
            heard(30, 99, 6100),
            Role::Master,
            vec![PRIO, Announce],
        ),
        (
            "master, lower at once",
            master(),
            heard(30, 99, 6005),
            Role::Master,
            vec![Announce],
        ),
        (
            "master, equal and greater",
            master(),
            heard(30, 100, 6100),
            Role::Backup,
            vec![PRIO, Release],
        ),
        (
            "master, equal and smaller",
            master(),
            heard(20, 100, 6100),
            Role::Master,
            vec![PRIO, Announce],
        ),
        (
            "master, resigns",
            master(),
            heard(30, 0, 6100),
            Role::Master,
            vec![PRIO, Announce],
        ),
        (
            "master, conflict",
            master(),
            input(conflict, 6100),
            Role::Master,
            vec![Announce],
        ),
        (
            "master, timer",
            master(),
            input(timer, 7000),
            Role::Master,
            vec![PRIO],
        ),
        (
            "master, too early",
            master(),
            input(timer, 6999),
            Role::Master,
            none(),
        ),
        (
            "master, fail over",
            master(),
            input(fail_over, 6100),
            Role::Master,
            vec![RESIGN],
        ),
        (
            "master, stop",
            master(),
            input(stop, 6100),
            Role::Master,
            vec![RESIGN],
        ),
        (
            "master, stop now",
            master(),
            input(stop_now, 6100),
            Role::Init,
            vec![RESIGN, Release],
        ),
        (
            "fault, undecided",
            fault(),
            input(undecided, 5),
            Role::Fault,
            none(),
        ),
        (
            "fault, able",
            fault(),
            input(able, 5),
            Role::Backup,
            vec![ProbeAddresses],
        ),
        (
            "fault, unable",
            fault(),
            input(unable, 5),
            Role::Fault,
            none(),
        ),
        (
            "fault, advert",
            fault(),
            heard(30, 200, 5),
            Role::Fault,
            none(),
        ),
        (
            "fault, conflict",
            fault(),
            input(conflict, 5),
            Role::Fault,
            none(),
        ),
        (
            "fault, timer",
            fault(),
            input(timer, 99_999),
            Role::Fault,
            none(),
        ),
        (
            "fault, fail over",
            fault(),
            input(fail_over, 5),
            Role::Fault,
            none(),
        ),
        ("fault, stop", fault(), input(stop, 5), Role::Init, none()),
        (
            "conflict, able",
            conflicted(),
            input(able, 4000),
            Role::Fault,
            none(),
        ),
        (
            "conflict, unable",
            conflicted(),
            input(unable, 4000),
            Role::Fault,
            none(),
        ),
        (
            "conflict, advert",
            conflicted(),
            heard(30, 200, 4000),
            Role::Backup,
            none(),
        ),
        (
            "conflict, timer",
            conflicted(),
            input(timer, DOWN_MS + 1001),
            Role::Fault,
            vec![ProbeAddresses],
        ),
        (
            "conflict, stop",
            conflicted(),
            input(stop, 4000),
            Role::Init,
            none(),
        ),
    ];
    for (what, mut election, act, expected, effects) in rows {
        assert_eq!(act(&mut election), effects, "{what}");
        assert_eq!(role(&election), expected, "{what}");
    }
}

#[test]
fn stopped_is_the_end() {
    let mut election = backup();
    give(&mut election, Input::Stop { linger: true }, 5);
    assert!(election.is_stopped());
    for input in [able(), unable(), conflict(), Input::Timer, Input::FailOver] {
        assert_eq!(give(&mut election, input, 99_999), []);
    }
    assert_eq!(hear(&mut election, 30, 1, 99_999), []);
    assert_eq!(
        (role(&election), election.next_deadline()),
        (Role::Init, None)
    );
}

#[test]
fn start_releases_what_a_crash_left_and_resume_keeps_it() {
    let mut cold = elect(config(), None, false);
    assert_eq!(
        acts(&mut cold),
        [],
        "nobody else has them: they are answered for"
    );
    give(&mut cold, Input::Ability(Ability::Able), 10);
    assert_eq!(hear(&mut cold, 30, 50, 20), [Effect::Release]);
    assert_eq!(hear(&mut cold, 30, 50, 30), [], "once");
    let mut faulty = elect(config(), None, false);
    assert_eq!(give(&mut faulty, unable(), 10), [Effect::Release]);
    let mut resumed = elect(config(), None, true);
    assert_eq!(
        acts(&mut resumed),
        [Effect::Acquire, PRIO, Effect::Announce]
    );
    assert_eq!(role(&resumed), Role::Master);
    // What it can do is not known at once; that must not cost the role.
    assert_eq!(give(&mut resumed, undecided(), 0), []);
    assert_eq!(role(&resumed), Role::Master);
}

#[test]
fn a_resignation_is_answered_after_the_skew() {
    let mut election = backup();
    hear(&mut election, 30, 0, 100);
    assert_eq!(
        election.next_deadline(),
        Some(at(100) + INTERVAL * 156 / 256)
    );
    give(&mut election, Input::Timer, 100 + SKEW_MS);
    assert_eq!(role(&election), Role::Backup);
    give(&mut election, Input::Timer, 100 + SKEW_MS + 1);
    assert_eq!(role(&election), Role::Master);
    assert_eq!(election.role().2, "192.168.1.30 resigned");
}

#[test]
fn a_resignation_of_another_than_the_master_is_no_reason() {
    let mut election = backup();
    hear(&mut election, 31, 0, 100);
    give(&mut election, Input::Timer, 1500);
    assert!(election.next_deadline() > Some(at(DOWN_MS)));
}

#[test]
fn a_lower_priority_is_followed_only_without_preemption() {
    let waits_until = |preempt, priority| {
        let mut election = elect(
            VirtualRouter {
                preempt,
                ..config()
            },
            Some(ip(26)),
            false,
        );
        give(&mut election, able(), 0);
        hear(&mut election, 30, priority, 3000);
        give(&mut election, Input::Timer, 3600);
        give(&mut election, Input::Timer, DOWN_MS + 1);
        role(&election)
    };
    assert_eq!(waits_until(true, 99), Role::Master);
    assert_eq!(waits_until(true, 100), Role::Backup);
    assert_eq!(waits_until(false, 99), Role::Backup);
}

#[test]
fn the_masters_interval_is_adopted() {
    let mut election = backup();
    let fast = Advert {
        interval_cs: 10,
        ..advert(200)
    };
    hears(&mut election, ip(30), &fast, at(1000));
    // Late after one and a half intervals, down after three and the skew.
    assert_eq!(election.next_deadline(), Some(at(1150)));
    assert_eq!(election.evidence(at(1150)), [Evidence::Late(ip(30))]);
    assert_eq!(election.evidence(at(1150)), []);
    assert_eq!(
        election.next_deadline(),
        Some(at(1300) + INTERVAL / 10 * 156 / 256)
    );
    let silence = Duration::from_millis(361);
    assert_eq!(
        election.evidence(at(1361)),
        [Evidence::Silent(ip(30), silence)]
    );
    assert_eq!(election.evidence(at(1361)), []);
    give(&mut election, Input::Timer, 1361);
    assert_eq!(election.role().2, "no adverts from 192.168.1.30 for 361ms");
}

#[test]
fn a_timer_that_comes_late_is_forgiven_once() {
    let mut election = backup();
    assert_eq!(give(&mut election, Input::Timer, 60_000), []);
    // The advert was waiting in the socket.
    hear(&mut election, 30, 200, 60_001);
    give(&mut election, Input::Timer, 60_001 + DOWN_MS);
    assert_eq!(role(&election), Role::Backup);

    let mut election = backup();
    give(&mut election, Input::Timer, 60_000);
    assert_eq!(election.evidence(at(61_000)), []);
    give(&mut election, Input::Timer, 61_000);
    assert_eq!(role(&election), Role::Backup);
    // Late again, as on a host that is always slow; it can't wait for ever.
    assert!(matches!(
        election.evidence(at(63_000))[..],
        [Evidence::Silent(..)]
    ));
    give(&mut election, Input::Timer, 63_000);
    assert_eq!(role(&election), Role::Master);
}

#[test]
fn announcements_come_in_two_rounds_and_end_with_the_role() {
    let announced = |until: u64, lose: Option<u64>| {
        let mut election = elect(config(), Some(ip(26)), true);
        give(&mut election, able(), 0);
        let mut times = vec![0];
        for now in (0..until).step_by(10) {
            if lose == Some(now) {
                hear(&mut election, 30, 200, now);
            }
            if give(&mut election, Input::Timer, now).contains(&Effect::Announce) {
                times.push(now);
            }
        }
        times
    };
    assert_eq!(announced(30_000, None), [0, 100, 200, 5200, 5300, 5400]);
    assert_eq!(announced(3000, Some(150)), [0, 100]);
}

#[test]
fn a_rivals_flood_is_answered_at_a_bounded_rate() {
    let mut election = master();
    let mut sent = 0;
    for now in 6100..7100 {
        sent += hear(&mut election, 30, 99, now)
            .iter()
            .filter(|act| **act == PRIO)
            .count();
    }
    assert!((90..=101).contains(&sent), "{sent}");
}

#[test]
fn failover_hands_over_and_does_not_take_back() {
    let mut election = master();
    assert_eq!(give(&mut election, Input::FailOver, 6100), [RESIGN]);
    // Once more, in case it was lost; but no advert while it waits: backups must time out.
    assert_eq!(election.next_deadline(), Some(at(6225)));
    assert_eq!(give(&mut election, Input::Timer, 6225), [RESIGN]);
    assert_eq!(give(&mut election, Input::Timer, 7000), []);
    assert_eq!(hear(&mut election, 30, 50, 7000), [Effect::Release]);
    assert_eq!(
        election.role().2,
        "failover by order: 192.168.1.30 took over"
    );
    // The lower priority is followed.
    for second in 8..30 {
        hear(&mut election, 30, 50, second * 1000);
        give(&mut election, Input::Timer, second * 1000 + 500);
        assert_eq!(role(&election), Role::Backup);
    }
    // Until that master is gone; then the order is forgotten.
    give(&mut election, Input::Timer, 30_500);
    give(&mut election, Input::Timer, 29_000 + DOWN_MS + 1);
    assert_eq!(role(&election), Role::Master);
    let effects = hear(&mut election, 30, 50, 40_000);
    assert!(effects.contains(&PRIO), "{effects:?}");
}

#[test]
fn failover_without_a_peer_is_called_off() {
    let mut election = master();
    give(&mut election, Input::FailOver, 6100);
    assert_eq!(give(&mut election, Input::Timer, 7499), [RESIGN]);
    election.handle(Input::Timer, at(7500));
    let effects = election.take_effects();
    assert!(
        matches!(&effects[..], [Effect::Misconfigured { .. }, PRIO]),
        "{effects:?}"
    );
    assert_eq!(
        (role(&election), election.next_deadline()),
        (Role::Master, Some(at(8500)))
    );
}

#[test]
fn stop_waits_for_a_new_holder_but_not_for_ever() {
    let mut taken = master();
    give(&mut taken, Input::Stop { linger: true }, 6100);
    assert_eq!(hear(&mut taken, 30, 50, 6700), [Effect::Release]);
    assert!(taken.is_stopped());
    let mut alone = master();
    give(&mut alone, Input::Stop { linger: true }, 6100);
    assert_eq!(give(&mut alone, Input::Timer, 7500), [Effect::Release]);
    assert!(alone.is_stopped());
    let mut urged = master();
    give(&mut urged, Input::Stop { linger: true }, 6100);
    assert_eq!(
        give(&mut urged, Input::Stop { linger: false }, 6200),
        [Effect::Release]
    );
    let mut useless = master();
    give(&mut useless, Input::Stop { linger: true }, 6100);
    assert_eq!(give(&mut useless, unable(), 6200), [Effect::Release]);
    assert!(useless.is_stopped());
    let mut ordered = master();
    give(&mut ordered, Input::FailOver, 6100);
    assert_eq!(give(&mut ordered, Input::Stop { linger: true }, 6200), []);
    assert_eq!(hear(&mut ordered, 30, 50, 6700), [Effect::Release]);
    assert!(ordered.is_stopped());
}

#[test]
fn a_conflict_counts_when_no_peer_was_heard_and_ends_after_two_quiet_questions() {
    let mut election = conflicted();
    let cause = election.role().2.to_owned();
    assert!(
        cause.contains("192.168.1.25") && cause.contains("02:00:00:00:00:09"),
        "{cause}"
    );
    let asked = DOWN_MS + 1001;
    assert_eq!(
        give(&mut election, Input::Timer, asked),
        [Effect::ProbeAddresses]
    );
    give(&mut election, conflict(), asked + 1);
    assert_eq!(
        give(&mut election, Input::Timer, asked + 1000),
        [Effect::ProbeAddresses]
    );
    assert_eq!(
        give(&mut election, Input::Timer, asked + 2000),
        [Effect::ProbeAddresses]
    );
    assert_eq!(role(&election), Role::Fault);
    give(&mut election, Input::Timer, asked + 3000);
    assert_eq!(role(&election), Role::Backup);

    let mut heard = init();
    give(&mut heard, able(), 0);
    give(&mut heard, conflict(), 1);
    hear(&mut heard, 30, 50, 500);
    give(&mut heard, Input::Timer, 3600);
    give(&mut heard, Input::Timer, DOWN_MS + 1);
    assert_eq!(role(&heard), Role::Master);
}

#[test]
fn a_master_defends_its_address_seldom() {
    let mut election = master();
    assert_eq!(give(&mut election, conflict(), 6100), [Effect::Announce]);
    assert_eq!(give(&mut election, conflict(), 6200), []);
    assert_eq!(give(&mut election, conflict(), 16_100), [Effect::Announce]);
}

#[test]
fn what_is_wrong_with_the_setup_is_told_once() {
    let mut election = backup();
    election.take_effects();
    let odd = Advert {
        priority: OWN,
        interval_cs: 300,
        addresses: vec![ip(25), ip(24)],
        vrid: 51,
    };
    let told = |election: &mut Election| {
        let told = |effect| matches!(effect, Effect::Misconfigured { .. });
        election
            .take_effects()
            .into_iter()
            .filter(|effect| told(effect.clone()))
            .count()
    };
    hears(&mut election, ip(30), &odd, at(100));
    assert_eq!(told(&mut election), 3);
    hears(&mut election, ip(30), &odd, at(200));
    assert_eq!(told(&mut election), 0);
    let text = election
        .lead()
        .peers()
        .diagnoses(election.settings())
        .into_iter()
        .collect::<Vec<_>>();
    for word in ["priority", "advert_interval", "addresses"] {
        assert!(
            text.iter()
                .any(|line| line.what.contains(&format!("`{word}`"))),
            "{text:?}"
        );
    }
    // Put right, it is no longer said.
    hear(&mut election, 30, 200, 300);
    assert!(
        election
            .lead()
            .peers()
            .diagnoses(election.settings())
            .is_empty()
    );
}

#[test]
fn another_group_with_our_vrid_is_told_and_ignored() {
    let mut election = master();
    let foreign = Advert {
        addresses: vec![ip(99)],
        ..advert(255)
    };
    hears(&mut election, ip(40), &foreign, at(6100));
    let effects = election.take_effects();
    assert!(
        matches!(&effects[..], [Effect::Misconfigured { what, .. }] if what.contains("VRID 51"))
    );
    assert_eq!(role(&election), Role::Master);
    assert!(!election.lead().peers().any_heard());
}

#[test]
fn our_own_advert_means_nothing() {
    let mut election = master();
    assert_eq!(hear(&mut election, 26, 200, 6100), []);
    assert!(!election.lead().peers().any_heard());
}

#[test]
fn strangers_cannot_grow_the_book() {
    let mut election = backup();
    for from in 40..=255 {
        hear(&mut election, from, 200, u64::from(from));
    }
    assert_eq!(
        election.lead().peers().iter().count(),
        crate::vrrp::peers::MAX_PEERS
    );
}

#[test]
fn a_changed_configuration_is_told_to_peers_at_once_and_ends_the_hold() {
    let mut election = master();
    election.reconfigure(
        [VirtualRouter {
            priority: 120,
            ..config()
        }],
        at(6100),
    );
    let effects = give(&mut election, Input::Timer, 6100);
    assert_eq!(
        effects,
        [Effect::Advert { priority: 120 }, Effect::Announce]
    );
    give(&mut election, Input::FailOver, 6200);
    hear(&mut election, 30, 50, 6300);
    election.reconfigure([config()], at(6400));
    hear(&mut election, 30, 50, 7300);
    give(&mut election, Input::Timer, 8000);
    give(&mut election, Input::Timer, 6300 + DOWN_MS + 1);
    assert_eq!(role(&election), Role::Master);
}
