//! The benchmark of failover, once and briefly: that it measures what it says.

// A test's helpers may panic too: that is how it fails.
#![allow(clippy::panic)]

use std::time::Duration;

use steerd_tests::{
    error::Result,
    failover::{
        self, Schedule,
        contender::Pace,
        event::Event,
        report::{Report, Row},
    },
    node::Binaries,
};

/// Sooner than after two intervals nobody can know that a master is dead.
const NOT_BEFORE_MS: f64 = 200.0;

#[test]
fn what_happens_to_a_master_is_seen_by_the_client() -> Result<()> {
    let report = measure(&[Event::NoiseFloor, Event::Crash, Event::Handover])?;
    let crash = row(&report, "crash");
    for (who, ms, lost) in [
        ("steerd", crash.steerd_ms, crash.steerd.lost),
        ("keepalived", crash.keepalived_ms, crash.keepalived.lost),
    ] {
        assert!(ms.is_some_and(|ms| ms > NOT_BEFORE_MS), "{who}: {crash:?}");
        // One datagram each millisecond.
        assert!(lost.is_some_and(|lost| lost > 0.8 * NOT_BEFORE_MS), "{who}");
    }
    // The old master answers until the new one does.
    assert_eq!(row(&report, "handover").steerd.lost, Some(0.0));
    assert_eq!(row(&report, "noise_floor").keepalived.lost, Some(0.0));
    Ok(())
}

/// keepalived leaves the address where it was, so there is a case to tell.
#[test]
fn two_hosts_that_answer_are_seen() -> Result<()> {
    let report = measure(&[Event::DaemonKilled])?;
    let killed = row(&report, "daemon_killed");
    assert_eq!(killed.keepalived_ms, None);
    assert_eq!(killed.keepalived.both_answer, Some(1));
    Ok(())
}

fn measure(events: &[Event]) -> Result<Report> {
    let schedule = Schedule {
        events: events.to_vec(),
        paces: vec![Pace { advert_ms: 100 }],
        runs: 1,
        cpu: Duration::ZERO,
        busy: Duration::ZERO,
    };
    let report = failover::run(&schedule, &Binaries::find()?, |what| println!("{what}"))?;
    assert_eq!(report.faults(), [""; 0]);
    Ok(report)
}

fn row(report: &Report, event: &str) -> Row {
    let mut rows = report.rows().into_iter();
    let row = rows.find(|row| row.event == event);
    row.unwrap_or_else(|| panic!("no row {event}"))
}
