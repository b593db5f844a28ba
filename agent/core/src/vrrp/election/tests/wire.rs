//! Peers that speak otherwise, and what another version means for the timers.

use super::*;
use crate::{
    config::{Authentication, Password, Version},
    vrrp::wire::Mismatch,
};

fn refuse(election: &mut Election, from: u8, mismatch: Mismatch, now: u64) -> Vec<String> {
    let router = &election.name().clone();
    election.refuse(router, ip(from), mismatch, at(now));
    told(election)
}

fn told(election: &mut Election) -> Vec<String> {
    let effects = election.take_effects().into_iter();
    effects
        .filter_map(|effect| match effect {
            Effect::Misconfigured { what, .. } => Some(what),
            _ => None,
        })
        .collect()
}

#[test]
fn a_peer_that_speaks_otherwise_is_named_until_it_does_not() {
    let mut election = master();
    let diagnoses = |election: &Election| -> Vec<String> {
        let all = election.members[0].diagnoses(at(0));
        all.into_iter().map(|diagnosis| diagnosis.what).collect()
    };
    let said = refuse(&mut election, 30, Mismatch::Version(2), 6000);
    assert_eq!(said, diagnoses(&election));
    assert_eq!(
        said,
        [
            "192.168.1.30 sends VRRP version 2, this node 3, and neither hears the other: make \
          `version` the same on all nodes (keepalived: `vrrp_version`)"
        ]
    );
    // It sends each second, and is told once.
    for second in 1..10 {
        let again = refuse(
            &mut election,
            30,
            Mismatch::Version(2),
            6000 + second * 1000,
        );
        assert_eq!(again, [""; 0]);
    }
    assert_eq!(role(&election), Role::Master, "it changes nothing else");
    hear(&mut election, 30, 50, 17_000);
    assert!(
        diagnoses(&election)
            .iter()
            .all(|what| !what.contains("version")),
        "{:?}",
        diagnoses(&election)
    );
}

#[test]
fn forged_ones_are_bounded() {
    let mut election = master();
    let mut said = 0;
    for from in 0..=250 {
        said += refuse(&mut election, from, Mismatch::Version(from), 6000).len();
    }
    assert_eq!(said, 1);
    assert_eq!(election.members[0].diagnoses(at(0)).len(), 1);
    assert_eq!(
        election.members[0].peers().iter().count(),
        0,
        "they are no peers"
    );
}

#[test]
fn who_is_no_configured_peer_says_nothing() {
    let own = VirtualRouter {
        peers: vec![ip(27)],
        ..config()
    };
    let mut election = elect(own.clone(), Some(ip(26)), false);
    assert_eq!(refuse(&mut election, 30, Mismatch::Password, 1), [""; 0]);
    assert_eq!(refuse(&mut election, 27, Mismatch::Password, 1).len(), 1);
}

#[test]
fn version_2_skews_by_seconds() {
    let own = VirtualRouter {
        advert_interval: Duration::from_secs(5),
        wire: Wire {
            version: Version::V2,
            authentication: Authentication::Pass(Password::new("x").unwrap()),
            ..Wire::default()
        },
        ..config()
    };
    let skew = Duration::from_secs(1) * (256 - u32::from(OWN)) / 256;
    let election = elect(own.clone(), None, false);
    assert_eq!(election.master_down(), Duration::from_secs(15) + skew);
    let own = VirtualRouter {
        wire: Wire::default(),
        ..own
    };
    let election = elect(own, None, false);
    assert_eq!(election.master_down(), Duration::from_secs(15) + skew * 5);
}
