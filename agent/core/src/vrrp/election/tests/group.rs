//! Sync groups.

use super::*;

fn six() -> VirtualRouter {
    VirtualRouter {
        name: Name::new("six"),
        addresses: vec!["fd00::25/64".parse().unwrap()],
        ..config()
    }
}

fn ip6(last: u16) -> IpAddr {
    IpAddr::from([0xfe80, 0, 0, 0, 0, 0, 0, last])
}

/// Two virtual routers as one, at 192.168.1.26 and fe80::26.
fn pair(resumed: bool) -> Election {
    let mut election = Election::new(six(), [config()], resumed, at(0));
    election.stale = false;
    election.member_mut(&MAIN).unwrap().set_source(Some(ip(26)));
    let six = election.member_mut(&Name::new("six")).unwrap();
    six.set_source(Some(ip6(0x26)));
    election
}

fn hear_six(election: &mut Election, from: u16, priority: u8, now: u64) -> Vec<Effect> {
    let advert = Advert {
        addresses: vec!["fd00::25".parse().unwrap()],
        ..advert(priority)
    };
    let router = &Name::new("six");
    let source = ip6(from);
    let advert = &advert;
    let input = Input::Advert {
        router,
        source,
        advert,
    };
    give(election, input, now)
}

#[test]
fn a_master_of_one_is_a_master_of_all() {
    let mut election = pair(false);
    give(&mut election, able(), 0);
    // Heard for one of them only.
    for now in (0..20_000).step_by(1000) {
        give(&mut election, Input::Timer, now);
        hear_six(&mut election, 0x30, 200, now);
        assert_eq!(role(&election), Role::Backup);
    }
    // By turns.
    for now in (20_000..40_000).step_by(2000) {
        give(&mut election, Input::Timer, now);
        hear(&mut election, 30, 200, now);
        hear_six(&mut election, 0x30, 200, now + 1000);
    }
    assert_eq!(
        election.next_deadline(),
        Some(at(39_000) + INTERVAL * 3 / 2)
    );
    give(&mut election, Input::Timer, 39_000 + DOWN_MS + 1);
    assert_eq!(role(&election), Role::Master);
}

#[test]
fn each_member_tells_of_its_own_peer() {
    let mut election = pair(false);
    give(&mut election, able(), 0);
    hear(&mut election, 30, 200, 0);
    hear_six(&mut election, 0x30, 200, 1);
    let evidence = election.evidence(at(1501));
    assert_eq!(
        evidence,
        [Evidence::Late(ip(30)), Evidence::Late(ip6(0x30))]
    );
    assert_eq!(election.evidence(at(1501)), []);
    let silent = election.evidence(at(1 + DOWN_MS + 1));
    assert!(
        matches!(
            silent[..],
            [Evidence::Silent(a, _), Evidence::Silent(b, _)] if a == ip(30) && b == ip6(0x30)
        ),
        "{silent:?}"
    );
}

#[test]
fn one_advert_that_wins_ends_all() {
    let mut election = pair(true);
    acts(&mut election);
    assert_eq!(
        hear_six(&mut election, 0x30, 200, 100),
        [PRIO, Effect::Release]
    );
    assert_eq!(role(&election), Role::Backup);
}

#[test]
fn a_resignation_for_one_is_one_of_all() {
    let mut election = pair(false);
    give(&mut election, able(), 0);
    hear(&mut election, 30, 200, 0);
    hear_six(&mut election, 0x30, 200, 0);
    // Of another than the master it is none, for any of them.
    hear_six(&mut election, 0x31, 0, 50);
    assert!(election.next_deadline() > Some(at(1000)));
    hear_six(&mut election, 0x30, 0, 100);
    let due = at(100) + INTERVAL * 156 / 256;
    assert_eq!(election.next_deadline(), Some(due));
    // The second one changes nothing.
    hear(&mut election, 30, 0, 200);
    assert_eq!(election.next_deadline(), Some(due));
}

#[test]
fn an_order_hands_over_all_and_ends_with_the_first_advert() {
    let mut election = pair(true);
    acts(&mut election);
    assert_eq!(give(&mut election, Input::FailOver, 100), [RESIGN]);
    assert_eq!(hear_six(&mut election, 0x30, 50, 700), [Effect::Release]);
    assert_eq!(election.role().2, "failover by order: fe80::30 took over");
}

/// 192.168.1.26 is above 192.168.1.20, but fe80::26 is below fe80::30.
#[test]
fn the_first_member_decides_between_equals() {
    assert_eq!(
        pair(false).name(),
        &*MAIN,
        "whatever order they are given in"
    );
    let mut election = pair(true);
    for now in (100..60_000).step_by(1000) {
        hear(&mut election, 20, OWN, now);
        hear_six(&mut election, 0x30, OWN, now + 1);
        assert_eq!(role(&election), Role::Master, "{now}");
    }
    // The other node sees it the other way round.
    let mut other = pair(true);
    hear_six(&mut other, 0x20, OWN, 100);
    assert_eq!(role(&other), Role::Master);
    hear(&mut other, 30, OWN, 101);
    assert_eq!(role(&other), Role::Backup);
}

#[test]
fn the_other_decides_where_the_first_is_not_heard() {
    let mut election = pair(true);
    for now in [100, 1100] {
        hear_six(&mut election, 0x30, OWN, now);
        assert_eq!(role(&election), Role::Master, "{now}");
    }
    hear_six(&mut election, 0x30, OWN, 2100);
    assert_eq!(role(&election), Role::Backup);
}

#[test]
fn split_and_joined_again_it_is_what_it_was() {
    let name = Name::new("six");
    for resumed in [false, true] {
        let mut election = pair(resumed);
        give(&mut election, able(), 0);
        let was = role(&election);
        let six = election.split(&name).unwrap();
        assert_eq!((role(&six), role(&election)), (was, was));
        assert!(election.split(&MAIN).is_none(), "the last one");
        assert_eq!(Election::common_role([&six, &election].into_iter()), was);
        election.join(six, at(10));
        assert_eq!(role(&election), was);
        assert_eq!(election.names().count(), 2);
    }
}

#[test]
fn of_different_roles_the_master_gives_way() {
    let mut main = elect(config(), Some(ip(26)), true);
    let mut six = Election::new(six(), [], false, at(0));
    give(&mut six, able(), 0);
    acts(&mut main);
    let common = Election::common_role([&main, &six].into_iter());
    assert_eq!(common, Role::Backup);
    main.give_way(common, "joins", at(10));
    assert_eq!(
        acts(&mut main),
        [RESIGN, Effect::Release, Effect::ProbeAddresses]
    );
    six.give_way(common, "joins", at(10));
    main.join(six, at(10));
    assert_eq!(role(&main), Role::Backup);
}
