//! Who has the addresses, after somebody else had them too.

use super::*;

#[test]
fn a_refresh_goes_on_while_it_is_master() {
    let mut config = config();
    config.announce.refresh = Duration::from_secs(60);
    let mut election = elect(config, Some(ip(26)), true);
    let mut announced = Vec::new();
    for now in (0..200_000).step_by(100) {
        if give(&mut election, Input::Timer, now).contains(&Effect::Announce) {
            announced.push(now);
        }
    }
    let late: Vec<_> = announced.into_iter().filter(|at| *at > 6000).collect();
    assert_eq!(late, [60_000, 120_000, 180_000]);
    give(&mut election, unable(), 200_000);
    assert_eq!(give(&mut election, Input::Timer, 240_000), []);
}

#[test]
fn a_rival_that_goes_is_announced_against() {
    let mut election = master();
    assert_eq!(hear(&mut election, 30, 0, 6100), [PRIO, Effect::Announce]);
}

#[test]
fn who_yields_says_so_before_it_lets_go() {
    let mut election = master();
    assert_eq!(hear(&mut election, 30, 200, 6100), [PRIO, Effect::Release]);
    // The winner hears that, and announces.
    let mut winner = master();
    assert_eq!(hear(&mut winner, 30, 50, 6100), [PRIO, Effect::Announce]);
}

#[test]
fn a_peers_claim_is_answered_when_its_advert_does_not_come() {
    let claim = || Input::Conflict {
        router: &MAIN,
        address: ip(25),
        mac: MAC,
        peer: true,
    };
    let mut election = master();
    assert_eq!(give(&mut election, claim(), 6100), []);
    assert_eq!(give(&mut election, Input::Timer, 7599), [PRIO]);
    assert_eq!(give(&mut election, Input::Timer, 7600), [Effect::Announce]);
    // Seldom: two that claim it by turns fill the segment.
    for now in (7700..17_600).step_by(100) {
        give(&mut election, claim(), now);
        let acts = give(&mut election, Input::Timer, now);
        // The rest of the first answer, and its second round.
        let rest = (7700..7900).contains(&now) || (12_000..13_500).contains(&now);
        assert!(rest || !acts.contains(&Effect::Announce), "{now}: {acts:?}");
    }
    // A rightful successor is heard first.
    let mut election = master();
    give(&mut election, claim(), 6100);
    hear(&mut election, 30, 200, 7000);
    assert_eq!(give(&mut election, Input::Timer, 7600), []);
    assert_eq!(election.lead().claims(), 1);
}

#[test]
fn rivals_are_counted_and_told_once_a_minute() {
    let mut election = master();
    election.take_effects();
    let mut told = 0;
    for second in 0..150 {
        let now = at(6100 + 1000 * second);
        hears(&mut election, ip(30), &advert(50), now);
        let effects = election.take_effects();
        let rival = |effect: &&Effect| matches!(effect, Effect::Misconfigured { what, .. } if what.contains("is master too"));
        told += effects.iter().filter(rival).count();
    }
    assert_eq!((election.lead().rivals(), told), (150, 3));
}

#[test]
fn another_node_with_our_address_is_diagnosed() {
    let echo = |election: &mut Election, advert: &Advert, now: u64| {
        let router = &MAIN;
        give(election, Input::Echo { router, advert }, now)
    };
    let diagnosed = |election: &Election, now: u64| {
        let diagnoses = election.lead().diagnoses(at(now));
        diagnoses
            .iter()
            .any(|one| one.what.contains("192.168.1.26"))
    };
    // A backup sends nothing, so it is another's.
    let mut election = backup();
    for now in [100, 1100, 2100] {
        assert!(!diagnosed(&election, now), "{now}");
        assert_eq!(echo(&mut election, &advert(OWN), now), []);
    }
    assert!(diagnosed(&election, 2200));
    assert!(!diagnosed(&election, 63_000), "for a minute");
    // A loop in the network brings back what was sent.
    let mut election = master();
    for second in 7..20 {
        give(&mut election, Input::Timer, second * 1000);
        echo(&mut election, &advert(OWN), second * 1000 + 2);
    }
    assert!(!diagnosed(&election, 20_000));
    // Another priority, or another time, is another's.
    for second in 21..24 {
        give(&mut election, Input::Timer, second * 1000);
        echo(&mut election, &advert(OWN - 1), second * 1000 + 2);
    }
    assert!(diagnosed(&election, 24_000));
    let mut election = master();
    for second in 7..10 {
        give(&mut election, Input::Timer, second * 1000);
        echo(&mut election, &advert(OWN), second * 1000 + 400);
    }
    assert!(diagnosed(&election, 10_000));
}
