//! The daemon dies, restarts and hands over, and nobody notices; and what it says of itself.

use std::time::Duration;

use steerd_core::{
    api::{BackendState, Maps},
    vrrp::election::Role,
};
use steerd_ebpf::abi::PIN_DIR;
use steerd_tests::{
    config::Settings,
    error::{Context, Result},
    lab::Options,
    node::NodeId::{self, Backup, Primary},
    process,
    scenario::{self, Stage},
    switch::VIP,
};

use crate::{PLAYERS, assert_unnoticed, stage};

/// Alone: another lab that begins or ends beside this one, on two cores, costs the stream packets
/// that steerd has not lost.
const FAST: Options = Options {
    exclusive: true,
    ..Options::new(Settings::Fast)
};

/// One scenario that nobody may notice.
fn unnoticed(scenario: fn(&mut Stage) -> Result<steerd_tests::scenario::Report>) -> Result<()> {
    let mut stage = stage(FAST)?;
    let cuts = stage.load.players.snapshot().cuts;
    let report = scenario(&mut stage)?;
    assert_unnoticed(&report, &stage, cuts);
    Ok(())
}

#[test]
fn a_killed_and_restarted_daemon_loses_nothing() -> Result<()> {
    unnoticed(scenario::daemon_killed_restarted)
}

#[test]
fn a_restart_in_order_loses_nothing() -> Result<()> {
    unnoticed(scenario::daemon_restarted)
}

#[test]
fn a_restart_of_the_backup_loses_nothing() -> Result<()> {
    unnoticed(|stage| {
        let event = |stage: &mut Stage| {
            stage.lab.stop_daemon(Backup)?;
            stage.lab.start_daemon(Backup)
        };
        stage.measure("backup_restarted", event, (Primary, Primary))
    })
}

#[test]
fn the_backup_takes_over_from_a_dead_daemon() -> Result<()> {
    let mut stage = stage(FAST)?;
    let cuts = stage.load.players.snapshot().cuts;
    // The server of the node whose daemon is dead still serves.
    let report = stage.measure(
        "daemon_killed",
        |stage| stage.lab.kill_daemon(Primary),
        (Backup, Primary),
    )?;
    assert_unnoticed(&report, &stage, cuts);
    let report = stage.measure(
        "daemon_started",
        |stage| stage.lab.start_daemon(Primary),
        (Primary, Primary),
    )?;
    assert_unnoticed(&report, &stage, cuts);
    Ok(())
}

#[test]
fn failover_gives_the_addresses_away() -> Result<()> {
    let mut stage = stage(FAST)?;
    let cuts = stage.load.players.snapshot().cuts;
    let report = stage.measure(
        "failover",
        |stage| stage.lab.ctl(Primary)?.run(&["failover"]).map(drop),
        (Backup, Primary),
    )?;
    assert_unnoticed(&report, &stage, cuts);
    Ok(())
}

#[test]
fn status_shows_the_whole_at_one_look() -> Result<()> {
    let mut stage = stage(FAST)?;
    for id in NodeId::ALL {
        stage.lab.until_status(id, "all backends up", |status| {
            let mut backends = status.services.iter().flat_map(|service| &service.backends);
            backends.all(|backend| backend.state == BackendState::Up)
        })?;
        let status = stage.lab.status(id)?;
        let other = id.other().spec().v4();
        assert_eq!(status.node.as_str(), id.name());
        assert!(
            status.interfaces.iter().all(|interface| interface.up),
            "{status:?}"
        );
        let router = &status.virtual_routers[0];
        let (role, master) = if id == Primary {
            (Role::Master, None)
        } else {
            (Role::Backup, Some(other))
        };
        assert_eq!((router.role, router.master), (role, master), "{router:?}");
        assert_eq!(router.priority, id.priority());
        assert!(
            router.addresses.contains(&format!("{VIP}/24")),
            "{router:?}"
        );
        assert!(
            !router.cause.is_empty() && router.diagnoses.is_empty(),
            "{router:?}"
        );
        if id == Backup {
            // A backup hears the master; a master need not have heard of a backup.
            assert!(
                router.peers.iter().any(|peer| peer.address == other),
                "{router:?}"
            );
        }
        let game = &status.services[0];
        assert_eq!(
            (game.address, game.port, game.active_tier),
            (VIP, 8765, Some(1))
        );
        for backend in &game.backends {
            assert!(
                !backend.reason.is_empty() && backend.latency_us.is_some(),
                "{backend:?}"
            );
            assert_eq!(backend.in_use, backend.tier == 1, "{backend:?}");
        }
    }
    let packets = stage.lab.status(Primary)?.services[0].packets;
    assert!(packets > PLAYERS as u64, "{packets} packets were steered");
    Ok(())
}

#[test]
fn maps_can_be_looked_at_while_the_daemon_is_down() -> Result<()> {
    let mut stage = stage(FAST)?;
    let ctl = stage.lab.ctl(Primary)?;
    let list = || -> Result<Vec<String>> {
        let maps: Maps = serde_json::from_slice(&ctl.run(&["maps", "list"])?).unwrap();
        Ok(maps.maps.into_iter().map(|map| map.name).collect())
    };
    let alive = list()?;
    stage.lab.kill_daemon(Primary)?;
    let dead = list()?;
    assert!(!alive.is_empty());
    assert_eq!(alive, dead);
    for name in dead {
        let dump: serde_json::Value =
            serde_json::from_slice(&ctl.run(&["maps", "dump", &name])?).unwrap();
        assert_eq!(dump["name"], name.as_str());
    }
    Ok(())
}

#[test]
fn flows_name_client_service_and_backend() -> Result<()> {
    use steerd_core::api::Flows;

    let stage = stage(FAST)?;
    let ctl = stage.lab.ctl(Primary)?;
    let json = ctl.run(&[
        "flows",
        "--service",
        "game",
        "--backend",
        "primary",
        "--limit",
        "5",
    ])?;
    let flows: Flows = serde_json::from_slice(&json).unwrap();
    assert!(flows.total >= PLAYERS as u64, "{flows:?}");
    assert_eq!(flows.flows.len(), 5);
    for flow in flows.flows {
        assert_eq!(
            (flow.service.as_str(), flow.backend.as_str()),
            ("game", "primary")
        );
        assert_eq!(flow.client, stage.lab.client().spec.v4());
    }
    Ok(())
}

#[test]
fn a_terminated_daemon_leaves_the_address_to_its_peer() -> Result<()> {
    let mut stage = stage(FAST)?;
    stage.lab.stop_daemon(Primary)?;
    stage.lab.until_master(Backup)?;
    let primary = stage.lab.node(Primary)?;
    let addresses = primary
        .host
        .namespace
        .run(|| steerd_tests::link::addresses(steerd_tests::switch::INTERFACE));
    assert!(!addresses?.contains(&VIP));
    // Both alone: with no daemon left, and a moment to be sure, service goes on where it was.
    let server = stage.load.prober.last().map(|answer| answer.server);
    assert_eq!(server.as_deref(), Some("primary"));
    assert!(stage.load.prober.outage(std::time::Instant::now()) < Duration::from_millis(200));
    Ok(())
}

/// What an earlier version left is taken over at its link, so that no packet is lost; its maps go.
#[test]
fn pins_of_another_abi_are_replaced() -> Result<()> {
    const PINS: &str = "/sys/fs/bpf/steerd";
    let mut stage = stage(FAST)?;
    let cuts = stage.load.players.snapshot().cuts;
    let report = stage.measure(
        "another_version",
        |stage| {
            stage.lab.kill_daemon(Primary)?;
            in_host(
                stage,
                "mv",
                &[&format!("{PINS}/{PIN_DIR}"), &format!("{PINS}/v0")],
            )?;
            stage.lab.start_daemon(Primary)
        },
        (Primary, Primary),
    )?;
    assert_unnoticed(&report, &stage, cuts);
    assert_eq!(in_host(&mut stage, "ls", &[PINS])?, format!("{PIN_DIR}\n"));
    let log = daemon_log(&mut stage)?;
    assert!(log.contains("removed the maps of another version"), "{log}");

    // A map of this version, but of another shape: writing to it would go beyond its values.
    stage.lab.kill_daemon(Primary)?;
    let pin = |map| format!("{PINS}/{PIN_DIR}/{map}");
    in_host(&mut stage, "mv", &[&pin("MACS"), &pin("CONTROL")])?;
    stage.lab.start_daemon(Primary)?;
    stage.lab.until_master(Primary)?;
    let log = daemon_log(&mut stage)?;
    assert!(log.contains("replaced the pinned maps"), "{log}");
    Ok(())
}

/// What a command prints on the primary's host.
fn in_host(stage: &mut Stage, program: &str, arguments: &[&str]) -> Result<String> {
    let mut command = stage.lab.node(Primary)?.host.namespace.command(program);
    command.args(arguments);
    let output = process::output(command, Duration::from_secs(10))?;
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {output:?}"
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn daemon_log(stage: &mut Stage) -> Result<String> {
    let path = stage.lab.node(Primary)?.daemon_log();
    std::fs::read_to_string(&path).context(|| format!("read {}", path.display()))
}
