//! Things get other names and ports while they are in use: nobody notices, and the maps stay sound.

use std::{collections::BTreeMap, net::SocketAddr, thread, time::Duration};

use steerd_core::api::Status;
use steerd_tests::{
    clients::Clients,
    config::{ECHO, ECHO_PORT, NodeConfig, OTHER_ECHO_PORT, Settings},
    error::Result,
    lab::Options,
    node::NodeId::{self, Primary},
    scenario::Stage,
    stream::UdpStream,
    switch::VIP,
};

use crate::{
    PLAYERS, assert_unnoticed,
    maps::{assert_sound, flows_of, moved, services},
    stage,
};

/// Alone: another lab that begins or ends beside this one, on two cores, costs the stream packets
/// that steerd has not lost.
const FAST: Options = Options {
    exclusive: true,
    ..Options::new(Settings::Fast)
};
const CLIENTS: usize = 100;
/// A ring that is no longer used is left alone for a second; then its place may be taken.
const RING_REST: Duration = Duration::from_millis(1200);

fn clients(stage: &mut Stage) -> Result<Clients> {
    let echo = SocketAddr::new(VIP, ECHO_PORT);
    let clients = Clients::start(&stage.lab.client().namespace, echo, CLIENTS)?;
    until_answered(stage, &clients)?;
    Ok(clients)
}

fn until_answered(stage: &mut Stage, clients: &Clients) -> Result<()> {
    let since = std::time::Instant::now();
    stage.lab.until("all clients answered", |_| {
        Ok(clients.all_answered_since(since))
    })
}

/// Where the clients' flows of `service` are on the primary: none is missing.
fn flows(stage: &Stage, service: &str, clients: &Clients) -> Result<BTreeMap<u16, String>> {
    let flows = flows_of(&stage.lab.ctl(Primary)?, service, clients.ports())?;
    assert_eq!(flows.len(), CLIENTS, "flows of {service} are missing");
    Ok(flows)
}

/// All nodes reload, and work by it.
fn reload(
    stage: &mut Stage,
    what: &str,
    change: impl Fn(&mut NodeConfig) -> Result<()>,
    done: impl Fn(&Status) -> bool,
) -> Result<()> {
    NodeId::ALL.into_iter().try_for_each(|id| {
        stage.lab.reload(id, &change)?;
        stage.lab.until_status(id, what, &done)
    })
}

fn has_service(status: &Status, name: &str, port: u16) -> bool {
    let mut services = status.services.iter();
    services.any(|s| s.name.as_str() == name && s.port == port && s.active_tier == Some(1))
}

fn rename_service(config: &mut NodeConfig, from: &str, to: &str) -> Result<()> {
    config.service(from)?.insert("name".into(), to.into());
    Ok(())
}

#[test]
fn services_are_renamed_again_and_again() -> Result<()> {
    let mut stage = stage(FAST)?;
    let clients = clients(&mut stage)?;
    let (before, cuts) = (
        flows(&stage, ECHO, &clients)?,
        stage.load.players.snapshot().cuts,
    );
    let event = |stage: &mut Stage| {
        let mut old = (ECHO.to_owned(), "game".to_owned());
        for number in 2..=4 {
            let new = (format!("{ECHO}{number}"), format!("game{number}"));
            let change = |config: &mut NodeConfig| {
                rename_service(config, &old.0, &new.0)?;
                rename_service(config, &old.1, &new.1)
            };
            let done = |status: &Status| {
                status.services.len() == 2
                    && has_service(status, &new.0, ECHO_PORT)
                    && has_service(status, &new.1, 8765)
            };
            reload(stage, "the new names", change, done)?;
            thread::sleep(RING_REST);
            old = new;
        }
        let added = [("x", 8771), ("y", 8772), ("z", 8773)];
        let add = |config: &mut NodeConfig| {
            added
                .iter()
                .try_for_each(|&(name, port)| config.copy_service("game4", name, port))
        };
        let done = |status: &Status| {
            status.services.len() == 5
                && added
                    .iter()
                    .all(|&(name, port)| has_service(status, name, port))
        };
        reload(stage, "three services more", add, done)
    };
    let report = stage.measure("renamed", event, (Primary, Primary))?;
    until_answered(&mut stage, &clients)?;
    for id in NodeId::ALL {
        let log = stage.lab.node(id)?.daemon_log();
        let log = std::fs::read_to_string(log).unwrap();
        // Shown if the test fails.
        println!("--- {}\n{log}", id.name());
        assert!(!log.contains("no room"));
    }
    assert_unnoticed(&report, &stage, cuts);
    assert_eq!(clients.lost(), 0);
    for id in NodeId::ALL {
        let ctl = stage.lab.ctl(id)?;
        assert_eq!(services(&ctl)?.len(), 5);
        assert_sound(&ctl)?;
    }
    assert_eq!(moved(&before, &flows(&stage, "echo4", &clients)?), []);
    Ok(())
}

#[test]
fn two_services_swap_their_ports() -> Result<()> {
    let mut stage = stage(FAST)?;
    let add = |config: &mut NodeConfig| {
        config.copy_service(&config.game()?, "other", OTHER_ECHO_PORT)?;
        let other = config.service("other")?;
        other.insert("protocol".into(), "udp".into());
        Ok(())
    };
    reload(&mut stage, "another echo", add, |status| {
        has_service(status, "other", OTHER_ECHO_PORT)
    })?;
    let target = SocketAddr::new(VIP, OTHER_ECHO_PORT);
    let other = UdpStream::start(&stage.lab.client().namespace, target)?;
    stage.lab.until("the other echo", |_| Ok(other.is_calm()))?;
    let clients = clients(&mut stage)?;
    let before = flows(&stage, ECHO, &clients)?;
    let (cuts, mark) = (stage.load.players.snapshot().cuts, other.mark());
    let swap = |stage: &mut Stage| {
        let change = |config: &mut NodeConfig| {
            for (name, port) in [(ECHO, OTHER_ECHO_PORT), ("other", ECHO_PORT)] {
                config
                    .service(name)?
                    .insert("port".into(), i64::from(port).into());
            }
            Ok(())
        };
        reload(stage, "swapped ports", change, |status| {
            has_service(status, ECHO, OTHER_ECHO_PORT) && has_service(status, "other", ECHO_PORT)
        })
    };
    let report = stage.measure("swapped", swap, (Primary, Primary))?;
    until_answered(&mut stage, &clients)?;
    assert_unnoticed(&report, &stage, cuts);
    assert_eq!((other.lost(mark), clients.lost()), (0, 0));
    let ctl = stage.lab.ctl(Primary)?;
    assert_eq!(services(&ctl)?.len(), 3);
    assert_sound(&ctl)?;
    // What the clients talk to is called `other` now; it is the same flow to the same backend.
    assert_eq!(moved(&before, &flows(&stage, "other", &clients)?), []);

    // From here on, only one of the two ports is talked to: only its service counts.
    drop(other);
    let packets = |status: &Status, name: &str| {
        let mut services = status.services.iter();
        let service = services.find(|service| service.name.as_str() == name);
        service
            .unwrap_or_else(|| panic!("no service {name}"))
            .packets
    };
    let before = stage.lab.status(Primary)?;
    stage
        .lab
        .until_status(Primary, "counted packets", |status| {
            packets(status, "other") >= packets(&before, "other") + 500
        })?;
    let after = stage.lab.status(Primary)?;
    assert_eq!(packets(&after, ECHO), packets(&before, ECHO));
    Ok(())
}

#[test]
fn a_renamed_backend_keeps_its_flows() -> Result<()> {
    let mut stage = stage(FAST)?;
    let clients = clients(&mut stage)?;
    let (before, cuts) = (
        flows(&stage, ECHO, &clients)?,
        stage.load.players.snapshot().cuts,
    );
    assert_eq!(stage.load.players.snapshot().players, PLAYERS);
    let rename = |stage: &mut Stage| {
        let change = |config: &mut NodeConfig| {
            for service in [&config.game()?, ECHO] {
                let mut backends = config.backends(service)?;
                let first = backends.next();
                first.map(|first| first.insert("name".into(), "first".into()));
            }
            Ok(())
        };
        reload(stage, "the new name", change, |status| {
            let mut services = status.services.iter();
            services.all(|service| {
                let first = &service.backends[0];
                first.name.as_str() == "first" && first.in_use
            })
        })
    };
    let report = stage.measure("backend_renamed", rename, (Primary, Primary))?;
    until_answered(&mut stage, &clients)?;
    assert_unnoticed(&report, &stage, cuts);
    assert_eq!(clients.lost(), 0);
    let renamed: BTreeMap<u16, String> = before
        .into_iter()
        .map(|(port, was)| match was.as_str() {
            "primary" => (port, "first".to_owned()),
            _ => (port, was),
        })
        .collect();
    assert_eq!(moved(&renamed, &flows(&stage, ECHO, &clients)?), []);
    assert_sound(&stage.lab.ctl(Primary)?)
}
