//! The configuration changes under load, and only what it says changes.

use std::fs;

use nix::sys::signal::Signal;
use steerd_tests::{
    config::Settings,
    error::Result,
    lab::Options,
    node::NodeId::{self, Backup, Primary},
    scenario::{self, Stage},
};

use crate::{assert_unnoticed, stage};

/// Alone: another lab that begins or ends beside this one, on two cores, costs the stream packets
/// that steerd has not lost.
const FAST: Options = Options {
    exclusive: true,
    ..Options::new(Settings::Fast)
};

#[test]
fn services_and_weights_change_without_loss() -> Result<()> {
    let mut stage = stage(FAST)?;
    let cuts = stage.load.players.snapshot().cuts;
    let report = scenario::reload(&mut stage)?;
    assert_unnoticed(&report, &stage, cuts);

    let remove = |stage: &mut Stage| {
        NodeId::ALL.into_iter().try_for_each(|id| {
            stage
                .lab
                .reload(id, |config| config.remove_service("extra"))?;
            stage.lab.until_status(id, "no service extra", |status| {
                status
                    .services
                    .iter()
                    .all(|service| service.name.as_str() != "extra")
            })
        })
    };
    let report = stage.measure("service_removed", remove, (Primary, Primary))?;
    assert_unnoticed(&report, &stage, cuts);
    Ok(())
}

#[test]
fn a_drained_backend_keeps_its_players() -> Result<()> {
    let mut stage = stage(FAST)?;
    let cuts = stage.load.players.snapshot().cuts;
    // One tier, one of weight 0: new connections go to the other, old ones stay.
    let drain = |stage: &mut Stage| {
        NodeId::ALL.into_iter().try_for_each(|id| {
            stage.lab.reload(id, |config| {
                let game = config.game()?;
                for (weight, backend) in [0, 1].into_iter().zip(config.backends(&game)?) {
                    backend.insert("tier".into(), 1.into());
                    backend.insert("weight".into(), weight.into());
                }
                Ok(())
            })?;
            stage.lab.until_status(id, "the new weights", |status| {
                status.services[0]
                    .backends
                    .iter()
                    .map(|b| b.weight)
                    .eq([0, 1])
            })
        })
    };
    let report = stage.measure("drained", drain, (Primary, Backup))?;
    assert_unnoticed(&report, &stage, cuts);
    let players = stage.load.players.snapshot();
    assert_eq!(
        players.per_server.get("primary"),
        Some(&players.players),
        "{players:?}"
    );
    Ok(())
}

#[test]
fn a_missing_interface_changes_nothing() -> Result<()> {
    let mut stage = stage(FAST)?;
    let cuts = stage.load.players.snapshot().cuts;
    let before = stage.lab.status(Primary)?;
    let event = |stage: &mut Stage| {
        stage.lab.configure(Primary, |config| {
            for router in config.array("virtual_router")? {
                router.insert("interface".into(), "eth7".into());
            }
            Ok(())
        })?;
        let refused = stage.lab.ctl(Primary)?.run(&["reload"]);
        let refused = refused.map_err(|error| error.to_string());
        assert!(
            refused.as_ref().is_err_and(|error| error.contains("eth7")),
            "{refused:?}"
        );
        Ok(())
    };
    let report = stage.measure("missing_interface", event, (Primary, Primary))?;
    assert_unnoticed(&report, &stage, cuts);
    let after = stage.lab.status(Primary)?;
    assert_eq!(after.interfaces, before.interfaces);
    let (before, after) = (&before.virtual_routers[0], &after.virtual_routers[0]);
    assert_eq!(after.interface, before.interface);
    assert!(after.since_ms > before.since_ms, "{after:?}");
    Ok(())
}

#[test]
fn a_broken_config_changes_nothing() -> Result<()> {
    let mut stage = stage(FAST)?;
    let cuts = stage.load.players.snapshot().cuts;
    let before = stage.lab.status(Primary)?;
    let event = |stage: &mut Stage| {
        let node = stage.lab.node(Primary)?;
        let (path, log) = (node.config_path(), node.daemon_log());
        let text = fs::read_to_string(&path).unwrap_or_default();
        let broken = text
            .replace("tier = 2", "teir = 2")
            .replace("vrid = 51", "vrid = 510");
        fs::write(&path, &broken).unwrap_or_default();
        assert_ne!(broken, text);
        node.daemon()?.signal(Signal::SIGHUP)?;
        stage.lab.until("the mistakes in the log", |_| {
            let log = fs::read_to_string(&log).unwrap_or_default();
            Ok(log.contains("teir") && log.contains("510"))
        })
    };
    let report = stage.measure("broken_reload", event, (Primary, Primary))?;
    assert_unnoticed(&report, &stage, cuts);
    let after = stage.lab.status(Primary)?;
    assert_eq!(
        after.virtual_routers[0].vrid,
        before.virtual_routers[0].vrid
    );
    assert_eq!(after.services.len(), before.services.len());

    // By the command line it is an error of the command, with the places.
    let refused = stage
        .lab
        .ctl(Primary)?
        .run(&["reload"])
        .map_err(|error| error.to_string());
    assert!(
        refused.as_ref().is_err_and(|error| error.contains("teir")),
        "{refused:?}"
    );
    Ok(())
}
