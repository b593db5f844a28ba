//! What adverts that anyone can forge do not do: fill the log, the book, the list of forwarders.

use super::*;

/// What is told of peers that appear and of mistakes.
fn told(election: &mut Election) -> (usize, usize) {
    let effects = election.take_effects();
    let count = |fits: fn(&Effect) -> bool| effects.iter().filter(|effect| fits(effect)).count();
    (
        count(|effect| matches!(effect, Effect::Peer { alive: true, .. })),
        count(|effect| matches!(effect, Effect::Misconfigured { .. })),
    )
}

#[test]
fn forged_adverts_of_many_sources_fill_no_log() {
    let mut election = backup();
    election.take_effects();
    // Ten seconds, 100 adverts in each: four peers at once, of which the master was the first, then
    // one a second.
    for number in 0..1000_u64 {
        let source = IpAddr::from([192, 168, 9, (number % 250) as u8]);
        hears(&mut election, source, &advert(200), at(10 * number));
    }
    let (appeared, _) = told(&mut election);
    assert_eq!(appeared, 3 + 9);
    // A quiet time later a peer is told at once.
    hears(&mut election, ip(30), &advert(200), at(60_000));
    assert_eq!(told(&mut election).0, 1);
}

#[test]
fn each_kind_of_mistake_is_told_once_a_minute_whoever_makes_it() {
    let mut election = backup();
    election.take_effects();
    let strange = |number: u64| Advert {
        priority: OWN,
        interval_cs: 200 + number as u16,
        addresses: vec![ip(25), ip((100 + number % 100) as u8)],
        vrid: 51,
    };
    let foreign = |number: u64| Advert {
        addresses: vec![ip((100 + number % 100) as u8)],
        ..advert(200)
    };
    let mut flood = |from: u64| {
        for number in from..from + 500 {
            let source = IpAddr::from([192, 168, 9, (number % 250) as u8]);
            hears(&mut election, source, &strange(number), at(100 * number));
            hears(&mut election, source, &foreign(number), at(100 * number));
        }
        told(&mut election).1
    };
    // Priority, interval, addresses and VRID.
    assert_eq!(flood(0), 4);
    assert_eq!(flood(600), 4);
}

#[test]
fn a_mistake_that_had_to_wait_is_told_when_its_turn_comes() {
    let mut election = backup();
    election.take_effects();
    hears(&mut election, ip(30), &advert(OWN), at(0));
    hears(&mut election, ip(31), &advert(OWN), at(0));
    assert_eq!(told(&mut election).1, 1);
    hears(&mut election, ip(31), &advert(OWN), at(59_999));
    assert_eq!(told(&mut election).1, 0);
    hears(&mut election, ip(31), &advert(OWN), at(60_000));
    assert_eq!(told(&mut election).1, 1);
    hears(&mut election, ip(31), &advert(OWN), at(180_000));
    assert_eq!(told(&mut election).1, 0);
}

#[test]
fn configured_peers_alone_are_heard() {
    let config = VirtualRouter {
        peers: vec![ip(30)],
        ..config()
    };
    let mut election = elect(config.clone(), Some(ip(26)), false);
    give(&mut election, able(), 0);
    election.take_effects();
    hears(&mut election, ip(40), &advert(255), at(100));
    assert_eq!(election.take_effects(), []);
    assert!(!election.lead().peers().any_heard());
    hears(&mut election, ip(30), &advert(200), at(200));
    assert_eq!(election.lead().master(at(200)), Some(ip(30)));
    assert_eq!(
        election.lead().forwarders(at(900_000)),
        ([ip(30)].into(), None)
    );
    // Who was heard before and is no peer now is forgotten.
    let other = VirtualRouter {
        peers: vec![ip(31)],
        ..config
    };
    election.reconfigure([other], at(300));
    assert!(!election.lead().peers().any_heard());
    assert_eq!(election.lead().forwarders(at(300)).0, [ip(31)].into());
}

#[test]
fn a_peer_forwards_when_heard_twice_and_until_it_is_silent_for_long() {
    let mut election = backup();
    let forwards = |election: &Election, now| election.lead().forwarders(at(now)).0;
    hears(&mut election, ip(31), &advert(200), at(0));
    assert_eq!(forwards(&election, 0), [].into());
    hears(&mut election, ip(31), &advert(200), at(1000));
    assert_eq!(
        election.lead().forwarders(at(1000)),
        ([ip(31)].into(), Some(at(13_000)))
    );
    assert_eq!(forwards(&election, 12_999), [ip(31)].into());
    assert_eq!(forwards(&election, 13_000), [].into());
    // With short intervals the least time counts.
    let quick = Advert {
        interval_cs: 10,
        ..advert(200)
    };
    hears(&mut election, ip(31), &quick, at(20_000));
    assert_eq!(election.lead().forwarders(at(20_000)).1, Some(at(30_000)));
    // Another group's master does not forward to us.
    let foreign = Advert {
        addresses: vec![ip(99)],
        ..advert(200)
    };
    for now in [20_000, 21_000] {
        hears(&mut election, ip(40), &foreign, at(now));
    }
    assert_eq!(forwards(&election, 21_000), [ip(31)].into());
}

#[test]
fn strangers_do_not_drive_out_a_known_peer() {
    let mut election = backup();
    for now in [0, 1000] {
        hears(&mut election, ip(30), &advert(200), at(now));
    }
    for number in 0..2000_u64 {
        // Each twice in a row.
        let source = IpAddr::from([192, 168, 9, (number / 2 % 250) as u8]);
        hears(&mut election, source, &advert(150), at(1000 + number));
    }
    let (forwarders, _) = election.lead().forwarders(at(3000));
    assert!(forwarders.contains(&ip(30)));
    assert_eq!(forwarders.len(), crate::vrrp::peers::MAX_PEERS);
}
