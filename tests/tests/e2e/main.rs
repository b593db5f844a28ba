//! steerd end to end: the real binaries on two nodes, under load, while things break.
//!
//! * [`failover`]: servers, nodes and links die and come back.
//! * [`daemon`]: the daemon dies, restarts, hands over; the command line.
//! * [`fence`]: who answers for the addresses while a daemon is dead.
//! * [`reload`]: the configuration changes under load.
//! * [`channel`]: nodes with a channel between them.
//! * [`continuity`]: things get other names and ports under load.
//! * [`remote`]: a node whose services are all served by other hosts.
//! * [`interfaces`]: interfaces come and go; how the program is attached.
//! * [`keepalived`]: one virtual router with steerd and keepalived.
//! * [`modes`]: what passes in every mode, and arrives whole.
//! * [`own_addresses`]: what steerd puts on the host to translate packets with.
//! * [`policy`]: where new flows go, and which are let in.
//! * [`track`]: what a node watches beside its servers moves the addresses.
//! * [`vlan`]: what passes from one VLAN to another.
//! * [`refusal`]: what it cannot work with, it refuses, and says what to do.
//!
//! [`maps`]: what must be true of the maps after all of it.

mod channel;
mod continuity;
mod daemon;
mod dead_daemon;
mod failover;
mod interfaces;
mod keepalived;
mod maps;
mod modes;
mod own_addresses;
mod policy;
mod refusal;
mod reload;
mod remote;
mod track;
mod vlan;

use std::sync::Arc;

use steerd_tests::{
    error::Result,
    lab::{Lab, Options},
    node::Binaries,
    scenario::{Report, Stage},
    timeline::Timeline,
};

/// Enough to see one that is left behind, few enough for two labs at once.
const PLAYERS: usize = 40;

/// A lab under load, with the primary in charge.
fn stage(options: Options) -> Result<Stage> {
    Stage::new(
        options,
        Binaries::find()?,
        Arc::new(Timeline::test()),
        PLAYERS,
    )
}

/// A lab on which nothing runs.
fn lab(options: Options) -> Result<Lab> {
    Lab::new(options, Binaries::find()?, Arc::new(Timeline::test()))
}

/// Every player is back, and in time where there is a target.
fn assert_good(report: &Report, options: Options) {
    assert!(report.is_good(options.settings), "{report:?}");
}

/// Nobody noticed.
fn assert_unnoticed(report: &Report, stage: &Stage, cuts_before: u64) {
    assert_eq!(report.reconnected, report.players, "{report:?}");
    assert_eq!(report.lost_packets, 0, "{report:?}");
    let cuts = stage.load.players.snapshot().cuts - cuts_before;
    assert_eq!(cuts, 0, "players were cut: {report:?}");
}
