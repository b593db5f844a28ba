//! Two nodes with a channel between them, with certificates as an operator makes them.

use std::{path::Path, process::Command, thread, time::Duration};

use steerd_core::{
    api::{ChannelPeerStatus, PeerConfig, Status},
    vrrp::election::Role,
};
use steerd_tests::{
    config::{NodeConfig, Settings},
    error::{Context, Result},
    lab::{self, Options},
    node::{
        Binaries, NodeId,
        NodeId::{Backup, Primary},
    },
    process,
    scenario::{self, Stage},
};
use tempfile::TempDir;
use toml::Table;

use crate::{assert_good, assert_unnoticed, stage};

const FAST: Options = Options {
    exclusive: true,
    ..Options::new(Settings::Fast)
};
const SEED: Options = Options {
    exclusive: true,
    ..Options::new(Settings::Seed)
};

/// A lab under load whose nodes have a channel. It is configured by a reload: nobody is disturbed.
fn connected(options: Options) -> Result<(Stage, TempDir)> {
    let dir = tempfile::tempdir().context(|| "make a directory".into())?;
    pki(dir.path(), &["init"])?;
    for id in NodeId::ALL {
        let address = id.spec().v4().to_string();
        pki(dir.path(), &["issue", id.name(), "--address", &address])?;
    }
    let mut stage = stage(options)?;
    for id in NodeId::ALL {
        stage
            .lab
            .reload(id, |config| channel(config, id, dir.path()))?;
    }
    for id in NodeId::ALL {
        stage
            .lab
            .until_status(id, "a channel that works", |status| {
                peer(status).is_some_and(|peer| {
                    peer.up && peer.config == PeerConfig::Same && peer.round_trip_us.is_some()
                })
            })?;
    }
    Ok((stage, dir))
}

/// `steerctl pki`.
fn pki(dir: &Path, arguments: &[&str]) -> Result<()> {
    let mut command = Command::new(Binaries::find()?.steerctl);
    command.arg("pki").args(arguments).arg("--dir").arg(dir);
    let output = process::output(command, Duration::from_secs(5))?;
    assert!(output.status.success(), "{output:?}");
    Ok(())
}

/// What `steerctl pki issue` says to add.
fn channel(config: &mut NodeConfig, id: NodeId, dir: &Path) -> Result<()> {
    let file = |name: &str| dir.join(name).display().to_string();
    config.set("channel", "listen", format!("{}:7112", id.spec().v4()))?;
    config.set("channel", "ca_file", file("ca.pem"))?;
    config.set("channel", "cert_file", file(&format!("{}.pem", id.name())))?;
    config.set("channel", "key_file", file(&format!("{}.key", id.name())))?;
    for peer in NodeId::ALL {
        let mut table = Table::new();
        table.insert("name".into(), peer.name().into());
        table.insert(
            "address".into(),
            format!("{}:7112", peer.spec().v4()).into(),
        );
        config.push("peer", table)?;
    }
    Ok(())
}

fn peer(status: &Status) -> Option<&ChannelPeerStatus> {
    status.channel.as_ref()?.peers.first()
}

fn cause(stage: &Stage, id: NodeId) -> Result<String> {
    Ok(stage.lab.status(id)?.virtual_routers[0].cause.clone())
}

fn role(stage: &Stage, id: NodeId) -> Result<Role> {
    Ok(stage.lab.status(id)?.virtual_routers[0].role)
}

/// Cuts the adverts to `id`, and nothing else: what one port of a switch may do.
fn deafen(stage: &mut Stage, id: NodeId) -> Result<()> {
    let rules = "add table inet deaf; add chain inet deaf input { type filter hook input priority 0; }; \
                 add rule inet deaf input meta l4proto 112 drop";
    let node = stage.lab.node(id)?;
    let mut command = node.host.namespace.command("nft");
    command.arg(rules);
    let output = process::output(command, Duration::from_secs(5))?;
    assert!(output.status.success(), "{output:?}");
    Ok(())
}

/// A failover there and back, and a stop, with the peer asked over the channel: nobody notices.
fn handovers(options: Options) -> Result<()> {
    let (mut stage, _dir) = connected(options)?;
    for (from, to) in [(Primary, Backup), (Backup, Primary)] {
        let cuts = stage.load.players.snapshot().cuts;
        let report = stage.measure(
            "failover_by_channel",
            |stage| stage.lab.ctl(from)?.run(&["failover"]).map(drop),
            (to, Primary),
        )?;
        assert_unnoticed(&report, &stage, cuts);
        let cause = cause(&stage, to)?;
        assert!(cause.contains("hands over by order"), "{cause}");
    }
    let mark = stage.load.stream.mark();
    stage.lab.stop_daemon(Primary)?;
    stage.lab.until_master(Backup)?;
    let cause = cause(&stage, Backup)?;
    assert!(cause.contains("hands over by order"), "{cause}");
    assert_eq!(stage.load.stream.lost(mark), 0);
    Ok(())
}

#[test]
fn a_handover_over_the_channel_loses_nothing() -> Result<()> {
    handovers(FAST)
}

#[test]
fn a_handover_over_the_channel_loses_nothing_on_the_seed_settings() -> Result<()> {
    handovers(SEED)
}

#[test]
fn differing_configurations_are_told() -> Result<()> {
    let (mut stage, _dir) = connected(Options::new(Settings::Fast))?;
    stage.lab.reload(Backup, |config| {
        let game = config.game()?;
        for backend in config.backends(&game)? {
            backend.insert("weight".into(), toml::Value::Integer(7));
        }
        Ok(())
    })?;
    let differs = PeerConfig::Differs(vec!["backends".into()]);
    for id in NodeId::ALL {
        stage.lab.until_status(id, "a difference", |status| {
            peer(status).is_some_and(|peer| peer.config == differs)
        })?;
    }
    let told = |status: &Status, what: &str| status.recent.iter().any(|n| n.text.contains(what));
    let status = stage.lab.status(Primary)?;
    assert!(told(
        &status,
        "peer backup: its configuration differs from this node's in: backends"
    ));
    stage.lab.reload(Backup, |config| {
        let game = config.game()?;
        for backend in config.backends(&game)? {
            backend.remove("weight");
        }
        Ok(())
    })?;
    for id in NodeId::ALL {
        stage.lab.until_status(id, "no difference", |status| {
            peer(status).is_some_and(|peer| peer.config == PeerConfig::Same)
        })?;
    }
    let status = stage.lab.status(Primary)?;
    assert!(told(
        &status,
        "peer backup: its configuration is the same again"
    ));
    Ok(())
}

/// One dead switch port is no failover; a dead node is one, even behind that port.
#[test]
fn adverts_alone_that_are_lost_are_no_failover() -> Result<()> {
    let (mut stage, _dir) = connected(FAST)?;
    let cuts = stage.load.players.snapshot().cuts;
    let mark = stage.load.stream.mark();
    deafen(&mut stage, Backup)?;
    stage
        .lab
        .until_status(Backup, "adverts that are missed", |status| {
            let what = "over the channel the master says that it serves";
            status
                .recent
                .iter()
                .any(|notice| notice.text.contains(what))
        })?;
    // Ten times what it would take without the channel.
    thread::sleep(Duration::from_secs(4));
    assert_eq!(role(&stage, Primary)?, Role::Master);
    assert_eq!(role(&stage, Backup)?, Role::Backup);
    assert!(!lab::is_master(&stage.lab.status(Backup)?));
    assert_eq!(stage.load.stream.lost(mark), 0);
    assert_eq!(stage.load.players.snapshot().cuts, cuts);
    assert_good(&scenario::node_killed(&mut stage)?, FAST);
    Ok(())
}

#[test]
fn a_crash_with_the_channel_fails_over_in_time() -> Result<()> {
    let (mut stage, _dir) = connected(FAST)?;
    assert_good(&scenario::node_killed(&mut stage)?, FAST);
    Ok(())
}
