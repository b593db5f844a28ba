//! A node whose services are all served by other hosts, which run no steerd: what the program
//! knows of them, it knows by the daemon alone.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use steerd_core::api::{BackendState, Status};
use steerd_tests::{
    clients::Clients,
    config::{ECHO, ECHO_PORT, Settings},
    error::Result,
    lab::{Lab, Load, Options},
    netns,
    node::NodeId::{self, Backup, Primary},
    process::Process,
    switch::{Host, HostSpec, INTERFACE},
};

use crate::{
    lab,
    maps::{assert_sound, flows_of, moved},
};

/// Alone: another lab that begins or ends beside this one, on two cores, costs the stream packets
/// that steerd has not lost.
const FAST: Options = Options {
    exclusive: true,
    ..Options::new(Settings::Fast)
};
const S3: HostSpec = HostSpec {
    name: "s3",
    number: 33,
};
const S4: HostSpec = HostSpec {
    name: "s4",
    number: 34,
};
const CLIENTS: usize = 200;

/// Two servers, and flows that began when only the first was up: now half of them are not where
/// the ring would send them.
struct Remote {
    old: Clients,
    new: Clients,
    load: Load,
    _servers: [Process; 2],
    _hosts: [Host; 2],
    lab: Lab,
}

impl Remote {
    fn new(options: Options, nodes: &[NodeId], probed: bool) -> Result<Self> {
        let mut lab = lab(options)?;
        if !probed {
            forget_neighbours_soon(&mut lab)?;
        }
        let hosts = [lab.plug_backend(S3)?, lab.plug_backend(S4)?];
        let configure = |lab: &mut Lab, id, specs: &[HostSpec], probed: bool| {
            lab.configure(id, |config| {
                for service in [&config.game()?, ECHO] {
                    config.set_backends(service, specs)?;
                    if !probed {
                        let none = Vec::<String>::new();
                        config
                            .service(service)?
                            .insert("probes".into(), none.into());
                    }
                }
                Ok(())
            })
        };
        // What is not probed is up as soon as it is there.
        let first: &[HostSpec] = if probed { &[S3, S4] } else { &[S3] };
        let s3 = lab.serve(&hosts[0])?;
        for &id in nodes {
            configure(&mut lab, id, first, probed)?;
            lab.start_daemon(id)?;
        }
        lab.until_master(Primary)?;
        lab.until_status(Primary, "s3 up", |status| up(status, &["s3"]))?;
        let load = lab.load(20)?;
        let old = clients(&lab)?;
        let started = Instant::now();
        lab.until("all clients on s3", |_| {
            let calm = load.stream.is_calm() && load.players.all_play_on("s3");
            Ok(calm && old.all_answered_since(started))
        })?;
        let s4 = lab.serve(&hosts[1])?;
        for &id in nodes {
            if !probed {
                configure(&mut lab, id, &[S3, S4], probed)?;
                lab.reload(id, |_| Ok(()))?;
            }
            lab.until_status(id, "both up", |status| up(status, &["s3", "s4"]))?;
        }
        let new = clients(&lab)?;
        let mut remote = Self {
            old,
            new,
            load,
            _servers: [s3, s4],
            _hosts: hosts,
            lab,
        };
        remote.until_all_answered()?;
        let flows = remote.flows()?;
        let on = |clients: &Clients, backend: &str| {
            let ports = clients.ports().iter();
            ports.filter(|port| flows[*port] == backend).count()
        };
        assert_eq!(on(&remote.old, "s3"), CLIENTS, "a flow moved: {flows:?}");
        let by_ring = on(&remote.new, "s4");
        assert!(by_ring > CLIENTS / 4, "{by_ring} of the new ones are on s4");
        Ok(remote)
    }

    /// To which backend each client's flow belongs: all of them have one.
    fn flows(&self) -> Result<BTreeMap<u16, String>> {
        let ports = [self.old.ports(), self.new.ports()].concat();
        let flows = flows_of(&self.lab.ctl(Primary)?, ECHO, &ports)?;
        assert_eq!(flows.len(), ports.len(), "flows are missing in the table");
        Ok(flows)
    }

    fn lost(&self) -> u64 {
        self.old.lost() + self.new.lost()
    }

    /// Until everyone got an echo of what was sent from now on.
    fn until_all_answered(&mut self) -> Result<()> {
        let since = Instant::now();
        let (old, new) = (&self.old, &self.new);
        self.lab.until("all clients answered", |_| {
            Ok(old.all_answered_since(since) && new.all_answered_since(since))
        })
    }

    fn until_both_up(&mut self) -> Result<()> {
        self.lab.until_master(Primary)?;
        let both = |status: &Status| up(status, &["s3", "s4"]);
        self.lab.until_status(Primary, "both up", both)?;
        self.until_all_answered()
    }
}

/// Without probes a backend is known to be gone when the primary's kernel has given up on its MAC.
/// By default that takes up to a minute: a confirmation is good for 15 to 45 s, then it waits for
/// 5 s and asks for 3 s. Here it takes about two seconds.
fn forget_neighbours_soon(lab: &mut Lab) -> Result<()> {
    lab.node(Primary)?.host.namespace.run(|| {
        [
            ("base_reachable_time_ms", "1000"),
            ("delay_first_probe_time", "0"),
            ("retrans_time_ms", "100"),
        ]
        .into_iter()
        .try_for_each(|(key, value)| {
            netns::sysctl(&format!("net/ipv4/neigh/{INTERFACE}/{key}"), value)
        })
    })
}

fn clients(lab: &Lab) -> Result<Clients> {
    let echo = SocketAddr::new(lab.vip(), ECHO_PORT);
    Clients::start(&lab.client().namespace, echo, CLIENTS)
}

/// Whether these backends of all services are up and take new flows.
fn up(status: &Status, names: &[&str]) -> bool {
    status.services.iter().all(|service| {
        names.iter().all(|name| {
            let mut backends = service.backends.iter();
            backends.any(|b| b.name.as_str() == *name && b.state == BackendState::Up && b.in_use)
        })
    })
}

#[test]
fn a_killed_and_restarted_daemon_moves_no_flow() -> Result<()> {
    // Nothing else may make the restart slower than the backup's patience.
    let options = Options {
        exclusive: true,
        ..FAST
    };
    let mut remote = Remote::new(options, &[Primary, Backup], true)?;
    let (before, lost, mark) = (remote.flows()?, remote.lost(), remote.load.stream.mark());
    let cuts = remote.load.players.snapshot().cuts;
    remote.lab.kill_daemon(Primary)?;
    remote.lab.start_daemon(Primary)?;
    remote.until_both_up()?;
    assert_eq!(moved(&before, &remote.flows()?), []);
    assert_eq!(remote.load.stream.lost(mark), 0);
    assert_eq!(remote.lost() - lost, 0);
    assert_eq!(remote.load.players.snapshot().cuts, cuts);
    assert_sound(&remote.lab.ctl(Primary)?)
}

#[test]
fn a_restart_in_order_of_the_only_master_moves_no_flow() -> Result<()> {
    let mut remote = Remote::new(FAST, &[Primary], true)?;
    let before = remote.flows()?;
    remote.lab.stop_daemon(Primary)?;
    remote.lab.start_daemon(Primary)?;
    remote.until_both_up()?;
    assert_eq!(moved(&before, &remote.flows()?), []);
    assert_sound(&remote.lab.ctl(Primary)?)
}

/// Nothing is lost while the daemon is away for longer than its peers and the maps' heartbeat tell
/// from a restart.
#[test]
fn a_daemon_that_was_away_moves_no_flow() -> Result<()> {
    let mut remote = Remote::new(FAST, &[Primary], true)?;
    let (before, mark) = (remote.flows()?, remote.load.stream.mark());
    remote.lab.kill_daemon(Primary)?;
    let away = Instant::now();
    remote.lab.until("the daemon was away for a second", |_| {
        Ok(away.elapsed() > Duration::from_secs(1))
    })?;
    remote.lab.start_daemon(Primary)?;
    remote.until_both_up()?;
    assert_eq!(moved(&before, &remote.flows()?), []);
    assert_eq!(remote.load.stream.lost(mark), 0);
    Ok(())
}

#[test]
fn an_unprobed_backend_whose_link_is_cut_is_given_up() -> Result<()> {
    const SOON: Duration = Duration::from_secs(10);
    let mut remote = Remote::new(FAST, &[Primary], false)?;
    let cut = Instant::now();
    remote.lab.cut_host(S3)?;
    remote
        .lab
        .until_status(Primary, "s3 not in use", |status| {
            let mut backends = status.services.iter().flat_map(|s| &s.backends);
            !backends.any(|b| b.name.as_str() == "s3" && b.in_use)
        })?;
    remote.until_all_answered()?;
    let took = cut.elapsed();
    assert!(took < SOON, "{took:?}");
    assert_sound(&remote.lab.ctl(Primary)?)?;
    // The table says so too: each flow's last word is the backend that answers it.
    let left = remote.flows()?;
    let left = left.values().filter(|backend| *backend != "s4").count();
    assert_eq!(left, 0, "flows are still on s3");
    // And it stays so: its neighbour is asked for again and again, and never answers.
    thread::sleep(Duration::from_millis(500));
    remote.until_all_answered()
}
