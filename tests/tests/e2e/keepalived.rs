//! steerd and keepalived as the two nodes of one virtual router: either as master, in each way they
//! can speak, through orderly handover, crash, and return.

use std::thread;

use steerd_core::vrrp::election::Role;
use steerd_tests::{
    error::Result,
    node::Binaries,
    site::{
        keepalived::{Case, Mixed, Side, Speech},
        plan::Family,
    },
    slots::Slots,
};

#[test]
fn version_2_to_the_group() -> Result<()> {
    all(&[Speech::V2, Speech::Pass, Speech::Ah], Family::V4, false)
}

#[test]
fn version_2_to_each_other() -> Result<()> {
    all(&[Speech::V2, Speech::Pass, Speech::Ah], Family::V4, true)
}

#[test]
fn version_3_over_ipv4() -> Result<()> {
    all(&[Speech::V3], Family::V4, false)?;
    all(&[Speech::V3], Family::V4, true)
}

#[test]
fn version_3_over_ipv6() -> Result<()> {
    all(&[Speech::V3], Family::V6, false)?;
    all(&[Speech::V3], Family::V6, true)
}

/// keepalived 2.2.7 wants the checksum of RFC 5798, and takes adverts with the other one for none.
/// So it is of use only among others; what steerd hears may have either.
#[test]
fn keepalived_does_not_hear_the_checksum_of_rfc_9568() -> Result<()> {
    let _slot = Slots::one()?;
    let case = Case {
        keys: "checksum = \"rfc9568\"\n",
        ..case(Speech::V3, Family::V4, false, Side::Keepalived)
    };
    let mut mixed = Mixed::new(case, Binaries::find()?)?;
    start_both(&mut mixed)?;
    settled(&mut mixed, Side::Keepalived)?;
    mixed.stop(Side::Keepalived)?;
    mixed.until_held_by(Side::Steerd)?;
    // The other way round it would hear a master's adverts, of a higher priority than 100.
    mixed.start(Side::Keepalived)?;
    mixed.until_held_by(Side::Keepalived)?;
    assert_eq!(mixed.counted(0)?.received, 0);
    assert_eq!(mixed.dropped()?, []);
    Ok(())
}

/// What each version is to the other: neither hears the other, and steerd says so.
#[test]
fn another_version_is_diagnosed() -> Result<()> {
    let _slot = Slots::one()?;
    let case = Case {
        steerd: Speech::V3,
        ..case(Speech::V2, Family::V4, false, Side::Steerd)
    };
    let mut mixed = Mixed::new(case, Binaries::find()?)?;
    start_both(&mut mixed)?;
    mixed.until_status("a diagnosis", |status| {
        let mut routers = status.virtual_routers.iter();
        routers.any(|router| {
            let mut told = router.diagnoses.iter();
            told.any(|what| what.contains("sends VRRP version 2") && what.contains("`version`"))
        })
    })?;
    let dropped = mixed.dropped()?;
    assert!(
        dropped.len() == 1 && dropped[0].cause.contains("`version` differs"),
        "{dropped:?}"
    );
    Ok(())
}

fn case(speech: Speech, family: Family, unicast: bool, leader: Side) -> Case {
    Case {
        steerd: speech,
        keepalived: speech,
        family,
        unicast,
        leader,
        keys: match (family, unicast) {
            // keepalived 2.2.7 sends those with the kernel's hop limit, unless `unicast_ttl` is set.
            (Family::V6, true) => "min_ttl = 64\n",
            _ => "",
        },
    }
}

/// Each way of speaking, with either as the leader. They run at the same time: almost all of it is
/// waiting for adverts that do not come.
fn all(speeches: &[Speech], family: Family, unicast: bool) -> Result<()> {
    let _slot = Slots::one()?;
    let binaries = Binaries::find()?;
    thread::scope(|scope| {
        let cases = speeches
            .iter()
            .flat_map(|&speech| Side::ALL.map(|leader| case(speech, family, unicast, leader)));
        let running: Vec<_> = cases
            .map(|case| {
                let binaries = binaries.clone();
                (case, scope.spawn(move || through_all(case, binaries)))
            })
            .collect();
        let mut outcome = Ok(());
        for (case, thread) in running {
            match thread.join() {
                Ok(Ok(())) => println!("{case:?}: good"),
                Ok(Err(error)) => {
                    println!("{case:?}: {error}");
                    outcome = Err(error);
                }
                Err(panic) => {
                    println!("{case:?} panicked");
                    std::panic::resume_unwind(panic)
                }
            }
        }
        outcome
    })
}

/// Start, handover, failback, crash, return.
fn through_all(case: Case, binaries: Binaries) -> Result<()> {
    let (leader, other) = (case.leader, case.leader.other());
    let mut mixed = Mixed::new(case, binaries)?;
    start_both(&mut mixed)?;
    settled(&mut mixed, leader)?;

    mixed.stop(leader)?;
    mixed.until_held_by(other)?;
    mixed.start(leader)?;
    settled(&mut mixed, leader)?;

    mixed.crash(leader)?;
    mixed.until_held_by(other)?;
    mixed.boot(leader)?;
    mixed.start(leader)?;
    settled(&mut mixed, leader)?;

    // The follower's end and crash move nothing.
    mixed.stop(other)?;
    mixed.until_held_by(leader)?;
    mixed.start(other)?;
    settled(&mut mixed, leader)?;
    mixed.crash(other)?;
    mixed.until_held_by(leader)
}

fn start_both(mixed: &mut Mixed) -> Result<()> {
    Side::ALL.into_iter().try_for_each(|side| mixed.start(side))
}

/// `leader` holds the address, the other one follows it, and neither refused anything.
fn settled(mixed: &mut Mixed, leader: Side) -> Result<()> {
    mixed.until_held_by(leader)?;
    let role = match leader {
        Side::Steerd => Role::Master,
        Side::Keepalived => Role::Backup,
    };
    mixed.until_status("its role", |status| {
        let mut routers = status.virtual_routers.iter();
        routers.all(|router| {
            let follows = role == Role::Master || router.master.is_some();
            router.role == role && follows && router.diagnoses.is_empty()
        })
    })?;
    let heard = match leader {
        Side::Steerd => 1,
        // A master need not have heard anybody.
        Side::Keepalived => 0,
    };
    let (dropped, counted) = (mixed.dropped()?, mixed.counted(heard)?);
    assert_eq!(dropped, [], "steerd, {:?}", mixed.case);
    assert!(
        counted.refused.is_empty(),
        "keepalived, {:?}: {counted:?}",
        mixed.case
    );
    Ok(())
}
