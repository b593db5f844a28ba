//! A virtual router of two nodes, of which one runs steerd and the other one keepalived.
//!
//! ```text
//!   client .10 ─┐
//!               ├─ switch ─┬─ .26: steerd, game-server
//!    VIP .25 on whichever  └─ .27: keepalived, game-server
//!      of the two is master
//! ```
//!
//! A [`Case`] says how the two speak and which of them has the higher priority. [`Mixed`] starts and
//! ends them, and knows who holds the address: by the addresses of both hosts, and by who answers
//! the client.

mod case;

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::{Signal, kill};
use steerd_core::api::{DroppedAdverts, Status};

use crate::{
    dir::Dir,
    error::{Context, Error, Result},
    lab::CLIENT,
    link,
    netns::{self, Bpffs},
    node::{Binaries, Ctl, server_command},
    prober::Prober,
    process::{self, Process},
    switch::{Host, INTERFACE, Switch},
    wait,
};
pub use case::{Case, Side, Speech};

/// The two nodes and their client. Everything in it ends with it.
#[derive(Debug)]
pub struct Mixed {
    /// What it was made by.
    pub case: Case,
    // The programs go before the hosts they run on.
    prober: Prober,
    nodes: [Option<Node>; 2],
    _client: Host,
    switch: Switch,
    binaries: Binaries,
    dir: Dir,
}

/// A node that is switched on.
#[derive(Debug)]
struct Node {
    daemon: Option<Process>,
    _server: Process,
    host: Host,
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(daemon) = &mut self.daemon {
            // What has ended needs nothing.
            let _ = kill_all(daemon);
        }
    }
}

/// The command that starts keepalived on a host: in the foreground, VRRP only, with its counters in
/// the directory of its configuration.
#[must_use]
pub fn command(host: &Host, config: &Path) -> Command {
    let mut command = host.namespace.command("keepalived");
    command.args(["--dont-fork", "--log-console", "--log-detail", "--vrrp"]);
    command.arg("--use-file").arg(config);
    // The host's own `/run`, which a crash empties.
    command.args(["--pid", "/run/keepalived.pid"]);
    command.args(["--vrrp_pid", "/run/keepalived-vrrp.pid"]);
    command.env("TMPDIR", config.parent().unwrap_or(Path::new("/tmp")));
    command
}

/// Kills a daemon and what it started: keepalived is two processes, of which the first one would
/// start the second one again, and the second one would end in good order without the first.
///
/// # Errors
///
/// It is gone already.
pub fn kill_all(daemon: &mut Process) -> Result<()> {
    daemon.signal(Signal::SIGSTOP)?;
    for child in daemon.children() {
        // It may be ending by itself.
        let _ = kill(child, Signal::SIGKILL);
    }
    daemon.kill()
}

impl Mixed {
    /// Plugs everything together and starts both servers, but no daemon yet.
    ///
    /// # Errors
    ///
    /// Not root, a kernel that lacks something, or a program that cannot be executed.
    pub fn new(case: Case, binaries: Binaries) -> Result<Self> {
        netns::require_root()?;
        let (switch, dir) = (Switch::new()?, Dir::new()?);
        for (name, text) in [
            ("steerd.toml", case.steerd_config()),
            ("keepalived.conf", case.keepalived_config()),
        ] {
            let path = dir.path().join(name);
            fs::write(&path, text).context(|| format!("write {}", path.display()))?;
        }
        let client = switch.plug(CLIENT, Bpffs::Missing)?;
        let target = SocketAddr::new(case.vip(), 8765);
        let mut mixed = Self {
            case,
            prober: Prober::start(&client.namespace, target)?,
            nodes: [None, None],
            _client: client,
            switch,
            binaries,
            dir,
        };
        Side::ALL
            .into_iter()
            .try_for_each(|side| mixed.boot(side))?;
        Ok(mixed)
    }

    /// Switches a node on, as after a crash, and starts its server.
    ///
    /// # Errors
    ///
    /// See [`Switch::plug`].
    pub fn boot(&mut self, side: Side) -> Result<()> {
        let host = self.switch.plug(side.spec(), Bpffs::Mounted)?;
        let server = server_command(&host, &self.binaries);
        let name = side.spec().name;
        let server = Process::start(
            format!("server on {name}"),
            server,
            self.log(side, "server"),
        )?;
        self.nodes[side as usize] = Some(Node {
            daemon: None,
            _server: server,
            host,
        });
        Ok(())
    }

    /// Pulls a node's plug: nobody hears its programs die, and nothing of it is left.
    ///
    /// # Errors
    ///
    /// It is off.
    pub fn crash(&mut self, side: Side) -> Result<()> {
        self.switch.cut(side.spec())?;
        // While the host is there: its end takes the cable along, sooner or later.
        self.switch.unplug(side.spec())?;
        drop(self.nodes[side as usize].take());
        Ok(())
    }

    /// Starts a node's daemon.
    ///
    /// # Errors
    ///
    /// The node is off, or it cannot be executed.
    pub fn start(&mut self, side: Side) -> Result<()> {
        let dir = self.dir.path().to_owned();
        let binary = self.binaries.steerd.clone();
        let log = self.log(side, "daemon");
        let node = self.node(side)?;
        let command = match side {
            Side::Steerd => {
                let mut command = node.host.namespace.command(binary);
                command.arg("--config").arg(dir.join("steerd.toml"));
                command
            }
            Side::Keepalived => command(&node.host, &dir.join("keepalived.conf")),
        };
        node.daemon = Some(Process::start(
            format!("{} of the two", side.spec().name),
            command,
            log,
        )?);
        Ok(())
    }

    /// Asks a node's daemon to end (SIGTERM) and waits until it has.
    ///
    /// # Errors
    ///
    /// It does not run, or does not end.
    pub fn stop(&mut self, side: Side) -> Result<()> {
        let daemon = self.node(side)?.daemon.take();
        let mut daemon = daemon.ok_or(Error::State {
            node: side.spec().name,
            reason: "no daemon runs",
        })?;
        daemon.signal(Signal::SIGTERM)?;
        daemon.wait(PATIENCE).map(drop)
    }

    /// Waits until `holder` has the address, the other node does not, and a client that connects
    /// then is served by it.
    ///
    /// # Errors
    ///
    /// A daemon ended meanwhile, or it was never so: with the ends of the logs.
    pub fn until_held_by(&mut self, holder: Side) -> Result<()> {
        let (since, vip) = (Instant::now(), self.case.vip());
        loop {
            for node in self.nodes.iter_mut().flatten() {
                node.daemon.as_mut().map_or(Ok(()), Process::check)?;
            }
            let (holders, answer) = (self.holders(vip)?, self.prober.last());
            let answer = answer.filter(|answer| answer.asked > since);
            let served = answer.as_ref().map(|answer| answer.server.as_str());
            if holders == [holder] && served == Some(holder.spec().name) {
                return Ok(());
            }
            if since.elapsed() > PATIENCE {
                return Err(Error::Late {
                    what: format!("{holder:?} to be the only holder"),
                    after: PATIENCE,
                    seen: format!(
                        "it is held by {holders:?} and answered by {served:?}; the logs end:\n{}",
                        self.dir.logs()
                    ),
                });
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Whoever has `address`.
    ///
    /// # Errors
    ///
    /// The kernel does not say.
    pub fn holders(&self, address: IpAddr) -> Result<Vec<Side>> {
        let mut holders = Vec::new();
        for (side, node) in Side::ALL.into_iter().zip(&self.nodes) {
            let Some(node) = node else { continue };
            let addresses = node.host.namespace.run(|| link::addresses(INTERFACE))?;
            if addresses.contains(&address) {
                holders.push(side);
            }
        }
        Ok(holders)
    }

    /// What steerd says of itself.
    ///
    /// # Errors
    ///
    /// It does not answer.
    pub fn status(&self) -> Result<Status> {
        let node = self.nodes[Side::Steerd as usize].as_ref();
        let node = node.ok_or(OFF)?;
        let socket = "/run/steerd/control.sock".into();
        Ctl::new("steerd", &node.host.namespace, &self.binaries, socket).status()
    }

    /// Waits until steerd's status is as awaited.
    ///
    /// # Errors
    ///
    /// It was never so: with the ends of the logs.
    pub fn until_status(&self, what: &str, mut awaited: impl FnMut(&Status) -> bool) -> Result<()> {
        wait::until(
            what,
            PATIENCE,
            || {
                let done = self.status().is_ok_and(|status| awaited(&status));
                Ok(done.then_some(()))
            },
            || format!("{:?}\n{}", self.status(), self.dir.logs()),
        )
    }

    /// What steerd refused.
    ///
    /// # Errors
    ///
    /// It does not answer.
    pub fn dropped(&self) -> Result<Vec<DroppedAdverts>> {
        Ok(self.status()?.dropped_adverts)
    }

    /// What keepalived counted since it was started, as soon as it heard so many adverts.
    ///
    /// # Errors
    ///
    /// It does not run, does not write its counters, or never heard so many.
    pub fn counted(&mut self, adverts: u64) -> Result<Counted> {
        let path = self.dir.path().join("keepalived.stats");
        let log = self.log(Side::Keepalived, "daemon");
        let daemon = self.node(Side::Keepalived)?.daemon.as_mut().ok_or(OFF)?;
        let mut asked: Option<Instant> = None;
        wait::until(
            &format!("{adverts} adverts in keepalived's counters"),
            PATIENCE,
            || {
                // Asked while it starts, it does not answer.
                if asked.is_none_or(|asked| asked.elapsed() > ASK_AGAIN) {
                    let _ = fs::remove_file(&path);
                    daemon.signal(Signal::SIGUSR2)?;
                    asked = Some(Instant::now());
                }
                let counted = Counted::parse(&fs::read_to_string(&path).unwrap_or_default());
                Ok(counted.filter(|counted| counted.received >= adverts))
            },
            || process::tail(&log),
        )
    }

    fn node(&mut self, side: Side) -> Result<&mut Node> {
        self.nodes[side as usize].as_mut().ok_or(Error::State {
            node: side.spec().name,
            reason: "it is off",
        })
    }

    fn log(&self, side: Side, what: &str) -> PathBuf {
        self.dir
            .path()
            .join(format!("{}-{what}.log", side.spec().name))
    }
}

/// What keepalived counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted {
    /// Adverts received.
    pub received: u64,
    /// The counters of what was refused that are not zero, as it calls them.
    pub refused: Vec<String>,
}

impl Counted {
    /// None while it is still writing.
    fn parse(text: &str) -> Option<Self> {
        let count = |line: &str| line.rsplit(": ").next()?.trim().parse::<u64>().ok();
        let (before, rest) = text.split_once("Packet Errors:")?;
        let (errors, last) = rest.split_once("Priority Zero:")?;
        last.contains("Sent:").then_some(())?;
        let received = before.lines().find(|line| line.contains("Received:"))?;
        let refused = errors
            .lines()
            .filter(|line| count(line).is_some_and(|count| count > 0));
        Some(Self {
            received: count(received)?,
            refused: refused.map(|line| line.trim().to_owned()).collect(),
        })
    }
}

const OFF: Error = Error::State {
    node: "one of the two",
    reason: "its daemon does not run",
};

/// When to ask keepalived again.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keepaliveds_counters_are_read() {
        let text = "VRRP Instance: vr\n  Advertisements:\n    Received: 3\n    Sent: 5\n  \
                    Became master: 1\n  Packet Errors:\n    Length: 0\n    TTL: 2\n  \
                    Authentication Errors:\n    Failure: 0\n  Priority Zero:\n    \
                    Received: 1\n    Sent: 0\n";
        let counted = Counted {
            received: 3,
            refused: vec!["TTL: 2".to_owned()],
        };
        assert_eq!(Counted::parse(text), Some(counted));
        assert_eq!(Counted::parse(&text[..text.len() - 9]), None);
    }
}
