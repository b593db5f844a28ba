//! The master's daemon dies and stays dead, or stops for a while: how many hosts answer for the
//! virtual addresses then, as a client's kernel asks (ARP, neighbour discovery).

#![allow(clippy::expect_used)] // tests may panic

use std::{
    collections::BTreeSet,
    net::IpAddr,
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use steerd_core::announce::Mac;
use steerd_tests::{
    asker::Asker,
    config::Settings,
    error::Result,
    lab::{Lab, Options},
    node::NodeId::{self, Backup, Primary},
    scenario,
    switch::{VIP, VIP6},
};

use crate::{assert_unnoticed, lab, stage};

/// Adverts of 100 ms; a virtual router for each family, and the nodes' own servers in mode `local`.
const BOTH: Options = Options {
    ipv6: true,
    ..Options::new(Settings::Fast)
};
const ADVERT: Duration = Duration::from_millis(100);
const FAMILIES: [IpAddr; 2] = [VIP, VIP6];

/// How often it is asked before it is believed.
const ASKED: usize = 20;

/// Who ever answers.
fn all_answers(asker: &Asker, address: IpAddr) -> Result<BTreeSet<Mac>> {
    let mut macs = BTreeSet::new();
    for _ in 0..ASKED {
        macs.extend(asker.ask(address)?);
    }
    Ok(macs)
}

fn only(id: NodeId) -> BTreeSet<Mac> {
    BTreeSet::from([id.spec().mac()])
}

fn assert_answered_by(asker: &Asker, id: NodeId, when: &str) -> Result<()> {
    for address in FAMILIES {
        let macs = all_answers(asker, address)?;
        assert_eq!(macs, only(id), "{when}: {address}");
    }
    Ok(())
}

/// Both nodes run, the primary has the addresses.
fn lab_in_order(fence_after: Option<&str>) -> Result<(Lab, Asker)> {
    let mut lab = lab(BOTH)?;
    for id in NodeId::ALL {
        lab.configure(id, |config| {
            for router in config.array("virtual_router")? {
                if let Some(after) = fence_after {
                    router.insert("fence_after".into(), after.into());
                }
            }
            Ok(())
        })?;
        lab.start(id)?;
    }
    lab.until_master(Primary)?;
    let asker = Asker::new(lab.client())?;
    assert_answered_by(&asker, Primary, "in order")?;
    Ok((lab, asker))
}

/// Asks in turn until the backup answers for both addresses and the primary for none, and tells how
/// long after `since` the primary answered last.
fn until_handed_over(lab: &mut Lab, asker: &Asker, since: Instant) -> Result<Duration> {
    let mut last = Duration::ZERO;
    for address in FAMILIES {
        lab.until(&format!("{address} at the backup alone"), |_| {
            let asked = since.elapsed();
            let macs = asker.ask(address)?;
            if macs.contains(&Primary.spec().mac()) {
                last = last.max(asked);
            }
            Ok(macs == only(Backup))
        })?;
    }
    Ok(last)
}

#[test]
fn one_host_answers_when_a_daemon_is_killed_and_stays_dead() -> Result<()> {
    let (mut lab, asker) = lab_in_order(None)?;
    let killed = Instant::now();
    lab.kill_daemon(Primary)?;
    let last = until_handed_over(&mut lab, &asker, killed)?;
    println!(
        "the killed daemon's host answered last {:.1} advert intervals after",
        last.div_duration_f64(ADVERT)
    );
    lab.until_master(Backup)?;
    // And it stays so, though the addresses are still on the dead daemon's host.
    assert_answered_by(&asker, Backup, "killed")?;
    let namespace = lab.node(Primary)?.host.namespace.clone();
    let addresses = namespace.run(|| steerd_tests::link::addresses("eth0"))?;
    for address in FAMILIES {
        assert!(addresses.contains(&address), "{addresses:?}");
    }

    // The next daemon takes stock, and takes the addresses back.
    lab.start_daemon(Primary)?;
    lab.until_master(Primary)?;
    assert_answered_by(&asker, Primary, "back")?;
    let status = lab.status(Primary)?;
    let noted = status
        .recent
        .iter()
        .filter(|notice| notice.text.contains("took over while there was no daemon"));
    assert_eq!(noted.count(), FAMILIES.len(), "{:?}", status.recent);
    let rival = Backup
        .spec()
        .mac()
        .map(|byte| format!("{byte:02x}"))
        .join(":");
    assert!(
        status
            .recent
            .iter()
            .any(|notice| notice.text.contains(&rival))
    );
    for router in &status.virtual_routers {
        assert_eq!(router.fenced, None, "{router:?}");
    }
    Ok(())
}

/// What it would be like without: the test above can fail.
#[test]
fn without_a_fence_both_hosts_answer() -> Result<()> {
    let (mut lab, asker) = lab_in_order(Some("0s"))?;
    lab.kill_daemon(Primary)?;
    lab.until_master(Backup)?;
    for address in FAMILIES {
        let both: BTreeSet<Mac> = NodeId::ALL.map(|id| id.spec().mac()).into();
        assert_eq!(all_answers(&asker, address)?, both, "{address}");
    }
    Ok(())
}

/// A daemon that gets no CPU is as good as dead; when it runs again, the election decides.
#[test]
fn a_daemon_that_stands_still_is_fenced_until_it_runs_again() -> Result<()> {
    let (mut lab, asker) = lab_in_order(None)?;
    lab.node(Primary)?.daemon()?.signal(Signal::SIGSTOP)?;
    until_handed_over(&mut lab, &asker, Instant::now())?;
    assert_answered_by(&asker, Backup, "stopped")?;
    lab.node(Primary)?.daemon()?.signal(Signal::SIGCONT)?;
    lab.until_master(Primary)?;
    lab.until_status(Primary, "the end of the fences", |status| {
        let mut routers = status.virtual_routers.iter();
        routers.all(|router| router.fenced.is_none())
    })?;
    assert_answered_by(&asker, Primary, "running again")
}

/// systemd starts it again after so long. With adverts of a second nobody has taken over then.
#[test]
fn a_daemon_that_is_back_at_once_is_not_fenced() -> Result<()> {
    let mut stage = stage(Options {
        exclusive: true,
        ..Options::new(Settings::Seed)
    })?;
    let asker = Asker::new(stage.lab.client())?;
    let cuts = stage.load.players.snapshot().cuts;
    let event = |stage: &mut scenario::Stage| {
        stage.lab.kill_daemon(Primary)?;
        thread::sleep(Duration::from_millis(200));
        stage.lab.start_daemon(Primary)
    };
    let report = stage.measure("daemon_killed_restarted_late", event, (Primary, Primary))?;
    assert_unnoticed(&report, &stage, cuts);
    assert_eq!(all_answers(&asker, VIP)?, only(Primary));
    assert_never_fenced(&stage.lab)
}

/// Nor is one that hands over as it should, and comes back.
#[test]
fn an_orderly_restart_is_not_fenced() -> Result<()> {
    let (mut lab, asker) = lab_in_order(None)?;
    lab.stop_daemon(Primary)?;
    lab.until_master(Backup)?;
    assert_answered_by(&asker, Backup, "stopped")?;
    lab.start_daemon(Primary)?;
    lab.until_master(Primary)?;
    assert_answered_by(&asker, Primary, "back")?;
    assert_never_fenced(&lab)
}

fn assert_never_fenced(lab: &Lab) -> Result<()> {
    for id in NodeId::ALL {
        let status = lab.status(id)?;
        let fences = status.events.iter().find(|one| one.event == "fence-set");
        assert_eq!(fences, None, "{}", id.name());
    }
    Ok(())
}
