//! The way to the first mastership: listening, the owner, the delay of preemption.

use super::*;

/// Two intervals and the skew.
const START_MS: u64 = 2609;

fn with(change: impl FnOnce(&mut VirtualRouter)) -> Election {
    let mut config = config();
    change(&mut config);
    let mut election = elect(config, Some(ip(26)), false);
    election.stale = false;
    election
}

/// Serves deadlines up to `until`; when it became master.
fn master_at(election: &mut Election, until: u64) -> Option<u64> {
    while let Some(next) = election.next_deadline().filter(|next| *next <= at(until)) {
        election.handle(Input::Timer, next);
        if role(election) == Role::Master {
            return Some(next.since_origin().as_millis() as u64);
        }
    }
    None
}

#[test]
fn a_start_without_a_master_takes_less_than_three_intervals() {
    for priority in [1, 100, 254] {
        let mut election = with(|config| config.priority = priority);
        give(&mut election, Input::Listening, 0);
        give(&mut election, able(), 0);
        let served = master_at(&mut election, 9000).unwrap();
        assert!((2000..3000).contains(&served), "{priority}: {served}");
    }
}

#[test]
fn the_wait_counts_from_when_links_are_up() {
    let mut election = init();
    assert_eq!(
        give(&mut election, Input::Listening, 100),
        [Effect::ProbeAddresses]
    );
    // Again, as with each look at what the node can do.
    give(&mut election, Input::Listening, 900);
    assert_eq!(master_at(&mut election, 1500), None);
    give(&mut election, able(), 1500);
    assert_eq!(role(&election), Role::Backup);
    assert_eq!(master_at(&mut election, 9000), Some(100 + START_MS));

    // Able long after the wait: at once.
    let mut election = init();
    give(&mut election, Input::Listening, 0);
    assert_eq!(master_at(&mut election, 30_000), None);
    assert_eq!(role(&election), Role::Init);
    give(&mut election, able(), 30_000);
    assert_eq!(master_at(&mut election, 30_000), Some(30_000));
}

#[test]
fn a_pause_while_it_listens_proves_nothing() {
    let mut election = init();
    give(&mut election, Input::Listening, 0);
    master_at(&mut election, 4000);
    give(&mut election, able(), 30_000);
    assert_eq!(master_at(&mut election, 31_000), None);
    assert_eq!(master_at(&mut election, 32_000), Some(31_609));

    let mut election = init();
    give(&mut election, Input::Listening, 0);
    // The first look is a late one.
    give(&mut election, Input::Timer, 30_000);
    give(&mut election, able(), 30_000);
    assert_eq!(master_at(&mut election, 31_000), None);
}

#[test]
fn what_is_heard_before_it_is_able_counts() {
    let mut election = init();
    give(&mut election, Input::Listening, 0);
    hear(&mut election, 30, 200, 1000);
    give(&mut election, able(), 1500);
    assert_eq!(master_at(&mut election, 1000 + DOWN_MS), None);
    assert_eq!(
        master_at(&mut election, 9000),
        Some(1000 + DOWN_MS),
        "its silence is noticed as any master's"
    );
    // After the wait, too.
    let mut election = init();
    give(&mut election, Input::Listening, 0);
    assert_eq!(master_at(&mut election, 5000), None);
    hear(&mut election, 30, 200, 5000);
    give(&mut election, able(), 5100);
    assert_eq!(master_at(&mut election, 8600), None);
}

#[test]
fn a_conflict_found_while_listening_counts() {
    let mut election = init();
    give(&mut election, Input::Listening, 0);
    give(&mut election, conflict(), 10);
    give(&mut election, able(), 1000);
    assert_eq!(claimed_until(&mut election, 3000, 3000), Role::Fault);
}

/// Of a node that starts just before the only master dies: nothing of that one is ever heard, but it
/// answers a question.
#[test]
fn who_answered_one_question_and_not_the_next_is_no_conflict() {
    let mut election = init();
    give(&mut election, Input::Listening, 0);
    give(&mut election, able(), 0);
    give(&mut election, conflict(), 10);
    assert_eq!(claimed_until(&mut election, 10, START_MS + 1), Role::Master);
    // It lives until the last question was asked, at half of the wait.
    let mut election = init();
    give(&mut election, Input::Listening, 0);
    give(&mut election, able(), 0);
    assert_eq!(
        claimed_until(&mut election, START_MS / 2 + 1, START_MS + 1),
        Role::Fault
    );
    // That is found out soon.
    assert_eq!(
        claimed_until(&mut election, 0, START_MS + 4000),
        Role::Backup
    );
}

/// Serves deadlines up to `until`; up to `lives`, each question for the addresses is answered.
fn claimed_until(election: &mut Election, lives: u64, until: u64) -> Role {
    while let Some(next) = election.next_deadline().filter(|next| *next <= at(until)) {
        election.handle(Input::Timer, next);
        let asks = election.take_effects().contains(&Effect::ProbeAddresses);
        if asks && next <= at(lives) {
            election.handle(conflict(), next);
        }
    }
    role(election)
}

#[test]
fn the_owner_does_not_wait() {
    let owner = || with(|config| config.priority = OWNER);
    let says = Effect::Advert { priority: OWNER };
    let takes = vec![Effect::Acquire, says.clone(), Effect::Announce];
    let mut election = owner();
    assert_eq!(give(&mut election, able(), 5), takes);
    // After a fault, too, and whoever is master.
    give(&mut election, unable(), 10);
    hear(&mut election, 30, 254, 20);
    assert_eq!(give(&mut election, able(), 30), takes);
    assert_eq!(hear(&mut election, 30, 254, 1000)[0], says);
    assert_eq!(role(&election), Role::Master);
    // An order is kept.
    give(&mut election, Input::FailOver, 1100);
    hear(&mut election, 30, 254, 1200);
    assert_eq!(master_at(&mut election, 2000), None);
    assert_eq!(role(&election), Role::Backup);
    // A reload makes another node the owner.
    let mut election = backup();
    let config = VirtualRouter {
        priority: OWNER,
        ..config()
    };
    election.reconfigure([config], at(100));
    assert_eq!(give(&mut election, Input::Timer, 100)[0], Effect::Acquire);
}

#[test]
fn two_owners_are_diagnosed() {
    let mut election = with(|config| config.priority = OWNER);
    give(&mut election, able(), 5);
    hear(&mut election, 20, OWNER, 10);
    let told: Vec<_> = election.lead().diagnoses(at(20)).into_iter().collect();
    assert!(
        matches!(&told[..], [one] if one.what.contains("192.168.1.20") && one.what.contains("one owner")),
        "{told:?}"
    );
}

#[test]
fn a_lower_master_is_left_alone_for_the_delay() {
    let delayed = || {
        let mut election = with(|config| config.preempt_delay = Duration::from_secs(10));
        give(&mut election, Input::Listening, 0);
        give(&mut election, able(), 0);
        election
    };
    let follow = |election: &mut Election, priority: u8, until: u64| {
        for now in (500..until).step_by(1000) {
            assert_eq!(master_at(election, now), None, "{now}");
            hear(election, 30, priority, now);
        }
    };
    // From the first advert on.
    let mut election = delayed();
    follow(&mut election, 50, 10_400);
    assert_eq!(master_at(&mut election, 12_000), Some(10_500));
    assert_eq!(
        election.role().2,
        "preempts 192.168.1.30 with priority 100 after 10s"
    );
    // Not where there is no master, or no more.
    assert_eq!(master_at(&mut delayed(), 9000), Some(2609));
    let mut election = delayed();
    follow(&mut election, 50, 3400);
    assert_eq!(master_at(&mut election, 9000), Some(2500 + DOWN_MS));
    // A higher one in between makes it begin again.
    let mut election = delayed();
    follow(&mut election, 50, 3400);
    hear(&mut election, 31, 200, 3450);
    hear(&mut election, 30, 50, 3500);
    for now in (4500..13_000).step_by(1000) {
        assert_eq!(master_at(&mut election, now), None, "{now}");
        hear(&mut election, 30, 50, now);
    }
    assert_eq!(master_at(&mut election, 14_000), Some(13_500));
}

#[test]
fn a_pause_over_the_end_of_the_delay_proves_nothing() {
    let mut election = with(|config| config.preempt_delay = Duration::from_secs(2));
    give(&mut election, able(), 0);
    hear(&mut election, 30, 50, 100);
    give(&mut election, Input::Timer, 2900);
    assert_eq!(role(&election), Role::Backup);
    hear(&mut election, 31, 200, 2901);
    assert_eq!(master_at(&mut election, 6000), None);
}

#[test]
fn a_raised_priority_preempts_and_makes_no_silence_of_it() {
    let mut election = backup();
    hear(&mut election, 30, OWN + 1, 100);
    election.set_priority(OWN + 2, at(200));
    assert_eq!(election.priority(), OWN + 2);
    for now in [1100, 2100, 3100] {
        hear(&mut election, 30, OWN + 1, now);
        assert_eq!(election.evidence(at(now + 400)), []);
    }
    let skew = INTERVAL * (256 - u32::from(OWN)) / 256;
    let due = at(100) + INTERVAL * 3 + skew;
    assert_eq!(election.next_deadline(), Some(due));
    assert_eq!(election.evidence(due), []);
    assert_eq!(
        give_at(&mut election, due),
        [
            Effect::Acquire,
            Effect::Advert { priority: OWN + 2 },
            Effect::Announce
        ]
    );
    assert_eq!(election.role().2, "preempts 192.168.1.30 with priority 102");
    // A master tells of it at once.
    election.set_priority(OWN, due);
    assert_eq!(give_at(&mut election, due), [PRIO]);
}

fn give_at(election: &mut Election, now: Instant) -> Vec<Effect> {
    election.handle(Input::Timer, now);
    acts(election)
}
