//! The lab itself, without steerd: what it measures is what happened.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use steerd_tests::{
    config::Settings,
    error::Result,
    lab::{Lab, Options},
    link,
    node::{Binaries, NodeId},
    process,
    switch::{HostSpec, INTERFACE, VIP, VIP6},
    timeline::Timeline,
    xdp::Pass,
};

const PLAYERS: usize = 40;

/// A lab whose primary has the virtual addresses by hand, and runs its server.
fn lab(ipv6: bool) -> Result<Lab> {
    let game_server = Binaries::game_server()?;
    // Not run here.
    let none = std::path::PathBuf::from("/nonexistent");
    let binaries = Binaries {
        steerd: none.clone(),
        steerctl: none,
        game_server,
    };
    let options = Options {
        ipv6,
        ..Options::new(Settings::Fast)
    };
    let mut lab = Lab::new(options, binaries, Arc::new(Timeline::test()))?;
    let primary = lab.node(NodeId::Primary)?;
    primary.host.namespace.run(|| {
        link::add_address(INTERFACE, VIP, 24)?;
        link::add_address(INTERFACE, VIP6, 64)
    })?;
    primary.start_server()?;
    Ok(lab)
}

fn an_outage_is_measured(ipv6: bool) -> Result<()> {
    let mut lab = lab(ipv6)?;
    let load = lab.load(PLAYERS)?;
    let start = Instant::now();
    lab.until("all players and the stream", |_| {
        Ok(load.players.playing_since(start) == PLAYERS && load.stream.flows())
    })?;
    let (began, mark) = (Instant::now(), load.stream.mark());

    lab.node(NodeId::Primary)?.kill_server()?;
    lab.until("all players cut", |_| {
        Ok(load.players.snapshot().connected == 0)
    })?;
    thread::sleep(Duration::from_millis(700).saturating_sub(began.elapsed()));
    lab.node(NodeId::Primary)?.start_server()?;
    let back = Instant::now();
    lab.until("all players back", |_| {
        Ok(load.players.playing_since(back) == PLAYERS && load.stream.flows())
    })?;

    let outage = load.prober.outage(began).as_millis();
    let lost = load.stream.lost(mark);
    let players = load.players.snapshot();
    println!("{outage} ms, {lost} lost, {players:?}");
    assert!((690..1500).contains(&outage), "{outage} ms");
    assert!((600..1500).contains(&lost), "{lost} lost");
    assert_eq!(players.cuts, PLAYERS as u64);
    assert_eq!(players.per_server["primary"], PLAYERS);

    let (quiet, mark) = (Instant::now(), load.stream.mark());
    lab.until("a second of quiet", |_| {
        Ok(quiet.elapsed() > Duration::from_secs(1))
    })?;
    assert_eq!(load.stream.lost(mark), 0);
    assert!(load.prober.outage(quiet) < Duration::from_millis(150));
    Ok(())
}

#[test]
fn an_outage_is_measured_over_ipv4() -> Result<()> {
    an_outage_is_measured(false)
}

#[test]
fn an_outage_is_measured_over_ipv6() -> Result<()> {
    an_outage_is_measured(true)
}

#[test]
fn players_change_games_without_a_cut() -> Result<()> {
    let mut lab = lab(false)?;
    let load = lab.load(PLAYERS)?;
    let start = Instant::now();
    let all = |since| load.players.playing_since(since) == PLAYERS;
    lab.until("all players", |_| Ok(all(start)))?;
    load.players.next_game();
    assert!(!load.players.all_play_on("primary"));
    lab.until("all players in the next game", |_| {
        Ok(load.players.all_play_on("primary"))
    })?;
    assert_eq!(load.players.snapshot().cuts, 0);
    Ok(())
}

#[test]
fn a_crashed_node_is_silent_and_comes_back_empty() -> Result<()> {
    let mut lab = lab(false)?;
    let load = lab.load(PLAYERS)?;
    let start = Instant::now();
    lab.until("all players", |_| {
        Ok(load.players.playing_since(start) == PLAYERS)
    })?;

    let crashed = Instant::now();
    lab.crash(NodeId::Primary)?;
    // No FIN and no RST: they notice by silence, after a second.
    lab.until("all players cut", |_| {
        Ok(load.players.snapshot().connected == 0)
    })?;
    assert!(
        crashed.elapsed() > Duration::from_millis(800),
        "{:?}",
        crashed.elapsed()
    );

    lab.boot(NodeId::Primary)?;
    let addresses = lab
        .node(NodeId::Primary)?
        .host
        .namespace
        .run(|| link::addresses(INTERFACE))?;
    assert!(!addresses.contains(&VIP), "{addresses:?}");
    assert!(
        addresses.contains(&NodeId::Primary.spec().v4()),
        "{addresses:?}"
    );
    Ok(())
}

#[test]
fn a_hung_server_and_a_pulled_cable_are_outages() -> Result<()> {
    use nix::sys::signal::Signal::{SIGCONT, SIGSTOP};

    let mut lab = lab(false)?;
    let load = lab.load(PLAYERS)?;
    type Act = fn(&mut Lab) -> Result<()>;
    let troubles: [(Act, Act); 2] = [
        (
            |lab| lab.node(NodeId::Primary)?.server()?.signal(SIGSTOP),
            |lab| lab.node(NodeId::Primary)?.server()?.signal(SIGCONT),
        ),
        (
            |lab| lab.cut(NodeId::Primary),
            |lab| lab.restore(NodeId::Primary),
        ),
    ];
    for (begin, end) in troubles {
        let start = Instant::now();
        lab.until("all players", |_| {
            Ok(load.players.playing_since(start) == PLAYERS)
        })?;
        let began = Instant::now();
        begin(&mut lab)?;
        lab.until("all players cut", |_| {
            Ok(load.players.snapshot().connected == 0)
        })?;
        end(&mut lab)?;
        lab.until("an answer", |_| {
            Ok(load
                .prober
                .last()
                .is_some_and(|answer| answer.asked > began && began < answer.at))
        })?;
        assert!(load.prober.outage(began) > Duration::from_millis(800));
    }
    Ok(())
}

#[test]
fn a_port_has_the_passing_program() -> Result<()> {
    let lab = lab(false)?;
    let host = lab.plug(HostSpec {
        name: "third",
        number: 30,
    })?;
    // The host's own end is free, once.
    let pass = host.namespace.run(|| Pass::attach(INTERFACE))?;
    assert!(host.namespace.run(|| Pass::attach(INTERFACE)).is_err());
    drop(pass);
    host.namespace.run(|| Pass::attach(INTERFACE))?;
    Ok(())
}

#[test]
fn a_process_that_ends_by_itself_is_noticed() -> Result<()> {
    let mut lab = lab(false)?;
    let node = lab.node(NodeId::Primary)?;
    let mut command = node.host.namespace.command("sh");
    command.args(["-c", "echo last words; exit 3"]);
    let output = process::output(command, Duration::from_secs(5))?;
    assert_eq!(
        (output.status.code(), output.stdout),
        (Some(3), b"last words\n".to_vec())
    );
    node.server()?.signal(nix::sys::signal::Signal::SIGTERM)?;
    let ended = lab
        .until("nothing", |_| Ok(false))
        .map_err(|error| error.to_string());
    let named = |error: &String| error.contains("server on primary ended with signal: 15");
    assert!(ended.as_ref().is_err_and(named), "{ended:?}");
    Ok(())
}
