//! Servers, nodes and links die and come back.

use steerd_core::vrrp::election::Role;
use steerd_tests::{
    config::Settings,
    error::Result,
    lab::Options,
    node::NodeId::{Backup, Primary},
    scenario::{self, Stage},
};

use crate::{assert_good, stage};

/// What has a target of milliseconds is measured with the machine to itself.
const FAST: Options = Options {
    exclusive: true,
    ..Options::new(Settings::Fast)
};
const SEED: Options = Options::new(Settings::Seed);

#[test]
fn a_server_dies_and_comes_back() -> Result<()> {
    let mut stage = stage(FAST)?;
    assert_good(&scenario::server_killed(&mut stage)?, FAST);
    let cuts = stage.load.players.snapshot().cuts;
    assert_good(&scenario::server_back(&mut stage)?, FAST);
    // No flow moves while its backend lives: only new connections go back.
    assert_eq!(stage.load.players.snapshot().cuts, cuts);
    Ok(())
}

#[test]
fn a_node_dies_and_comes_back() -> Result<()> {
    let mut stage = stage(FAST)?;
    assert_good(&scenario::node_killed(&mut stage)?, FAST);
    assert_good(&scenario::node_back(&mut stage)?, FAST);
    Ok(())
}

#[test]
fn a_server_hangs() -> Result<()> {
    let mut stage = stage(Options::new(Settings::Fast))?;
    assert_good(&scenario::server_hung(&mut stage)?, FAST);
    Ok(())
}

#[test]
fn a_link_is_lost() -> Result<()> {
    let mut stage = stage(FAST)?;
    let report = scenario::link_lost(&mut stage)?;
    assert_good(&report, FAST);
    Ok(())
}

#[test]
fn a_node_without_link_says_so() -> Result<()> {
    let mut stage = stage(Options::new(Settings::Fast))?;
    stage.lab.cut(Primary)?;
    stage.lab.until_status(Primary, "a fault", |status| {
        let faulty = status
            .virtual_routers
            .iter()
            .all(|router| router.role == Role::Fault);
        faulty && status.interfaces.iter().all(|interface| !interface.up)
    })?;
    stage.lab.until_master(Backup)
}

#[test]
fn both_servers_die_and_one_comes_back() -> Result<()> {
    let mut stage = stage(Options::new(Settings::Fast))?;
    for id in [Primary, Backup] {
        stage.lab.node(id)?.kill_server()?;
    }
    for id in [Primary, Backup] {
        stage.lab.until_status(id, "no tier", |status| {
            status
                .services
                .iter()
                .all(|service| service.active_tier.is_none())
        })?;
    }
    let report = stage.measure(
        "last_server_back",
        |stage| stage.lab.node(Backup)?.start_server(),
        // Whoever is master by then: the server is what counts.
        (Primary, Backup),
    )?;
    assert_eq!(report.reconnected, report.players, "{report:?}");
    Ok(())
}

#[test]
fn ipv6_fails_over_too() -> Result<()> {
    let options = Options { ipv6: true, ..FAST };
    let mut stage = stage(options)?;
    each_with_its_return(&mut stage, options)
}

#[test]
fn a_server_dies_on_the_seed_settings() -> Result<()> {
    let mut stage = stage(SEED)?;
    assert_good(&scenario::server_killed(&mut stage)?, SEED);
    Ok(())
}

#[test]
fn a_node_dies_on_the_seed_settings() -> Result<()> {
    let mut stage = stage(SEED)?;
    assert_good(&scenario::node_killed(&mut stage)?, SEED);
    assert_good(&scenario::node_back(&mut stage)?, SEED);
    Ok(())
}

fn each_with_its_return(stage: &mut Stage, options: Options) -> Result<()> {
    assert_good(&scenario::server_killed(stage)?, options);
    assert_good(&scenario::server_back(stage)?, options);
    assert_good(&scenario::node_killed(stage)?, options);
    assert_good(&scenario::node_back(stage)?, options);
    Ok(())
}
