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

use std::{
    fmt::Write as _,
    fs,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use steerd_core::api::{DroppedAdverts, Status};

use super::plan::Family;
use crate::{
    dir::Dir,
    error::{Context, Error, Result},
    lab::CLIENT,
    link,
    netns::{self, Bpffs},
    node::{Binaries, Ctl, server_command},
    prober::Prober,
    process::{self, Process},
    switch::{Host, HostSpec, INTERFACE, Switch, VIP, VIP6},
    wait,
};

/// Which of the two nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// It runs steerd.
    Steerd,
    /// It runs keepalived.
    Keepalived,
}

impl Side {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Steerd, Self::Keepalived];

    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Steerd => Self::Keepalived,
            Self::Keepalived => Self::Steerd,
        }
    }

    /// Its name and addresses.
    #[must_use]
    pub const fn spec(self) -> HostSpec {
        match self {
            Self::Steerd => HostSpec {
                name: "steerd",
                number: 26,
            },
            Self::Keepalived => HostSpec {
                name: "keepalived",
                number: 27,
            },
        }
    }

    fn address(self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.spec().v4(),
            Family::V6 => self.spec().v6(),
        }
    }
}

/// How the two speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speech {
    /// VRRPv2 without authentication.
    V2,
    /// VRRPv2 with a password.
    Pass,
    /// VRRPv2 with an authentication header.
    Ah,
    /// VRRPv3.
    V3,
}

impl Speech {
    const fn interval(self) -> &'static str {
        match self {
            Self::V3 => "100ms",
            Self::V2 | Self::Pass | Self::Ah => "1s",
        }
    }
}

/// A virtual router of both.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// How steerd speaks.
    pub steerd: Speech,
    /// How keepalived does: alike, or they do not hear each other.
    pub keepalived: Speech,
    /// About which address.
    pub family: Family,
    /// Whether to each other's address, or to the group.
    pub unicast: bool,
    /// Who has the higher priority.
    pub leader: Side,
    /// Further lines for steerd's virtual router.
    pub keys: &'static str,
}

impl Case {
    /// The virtual address.
    #[must_use]
    pub const fn vip(&self) -> IpAddr {
        match self.family {
            Family::V4 => VIP,
            Family::V6 => VIP6,
        }
    }

    fn priority(&self, side: Side) -> u8 {
        if side == self.leader { 110 } else { 100 }
    }

    fn addresses(&self) -> Vec<String> {
        match self.family {
            Family::V4 => vec![format!("{VIP}/24")],
            // RFC 9568, section 5.2.9: a link-local address first.
            Family::V6 => vec!["fe80::8765:25/64".into(), format!("{VIP6}/64")],
        }
    }

    /// The configuration of steerd. Its service is on its own host: the address is all that moves.
    #[must_use]
    pub fn steerd_config(&self) -> String {
        let mut text = format!(
            "[node]\nname = \"steerd\"\n[[virtual_router]]\nname = \"vr\"\n\
             interface = \"{INTERFACE}\"\nvrid = 51\npriority = {}\nadvert_interval = \"{}\"\n\
             addresses = {:?}\n{}",
            self.priority(Side::Steerd),
            self.steerd.interval(),
            self.addresses(),
            self.keys,
        );
        if self.unicast {
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "source = \"{}\"\npeers = [\"{}\"]",
                Side::Steerd.address(self.family),
                Side::Keepalived.address(self.family)
            );
        }
        text += match self.steerd {
            Speech::V2 => "version = 2\n",
            Speech::Pass => {
                "version = 2\nauthentication = { type = \"pass\", password = \"s3cret12\" }\n"
            }
            Speech::Ah => {
                "version = 2\nauthentication = { type = \"ah\", password = \"s3cret12\" }\n"
            }
            Speech::V3 => "",
        };
        let _ = write!(
            text,
            "[[service]]\nname = \"game\"\naddress = \"{}\"\nport = 8765\n\
             [[service.backend]]\nname = \"here\"\naddress = \"{}\"\nmode = \"local\"\n",
            self.vip(),
            Side::Steerd.address(self.family),
        );
        text
    }

    /// The configuration of keepalived.
    #[must_use]
    pub fn keepalived_config(&self) -> String {
        let (version, interval) = match self.keepalived {
            Speech::V3 => (3, "0.1"),
            Speech::V2 | Speech::Pass | Speech::Ah => (2, "1"),
        };
        let mut text = format!(
            "global_defs {{\n  vrrp_version {version}\n}}\nvrrp_instance vr {{\n  state BACKUP\n  \
             interface {INTERFACE}\n  virtual_router_id 51\n  priority {}\n  \
             advert_int {interval}\n",
            self.priority(Side::Keepalived),
        );
        if self.unicast {
            let _ = write!(
                text,
                "  unicast_src_ip {}\n  unicast_peer {{\n    {}\n  }}\n",
                Side::Keepalived.address(self.family),
                Side::Steerd.address(self.family)
            );
        }
        let authentication = match self.keepalived {
            Speech::Pass => Some("PASS"),
            Speech::Ah => Some("AH"),
            Speech::V2 | Speech::V3 => None,
        };
        if let Some(kind) = authentication {
            let _ = write!(
                text,
                "  authentication {{\n    auth_type {kind}\n    auth_pass s3cret12\n  }}\n"
            );
        }
        let addresses = self.addresses().join("\n    ");
        let _ = write!(text, "  virtual_ipaddress {{\n    {addresses}\n  }}\n}}\n");
        text
    }
}

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
            Side::Keepalived => {
                let mut command = node.host.namespace.command("keepalived");
                // In the foreground, VRRP only, with its configuration and counters here.
                command.args(["--dont-fork", "--log-console", "--log-detail", "--vrrp"]);
                command.arg("--use-file").arg(dir.join("keepalived.conf"));
                // The host's own `/run`, which a crash empties.
                command.args(["--pid", "/run/keepalived.pid"]);
                command.args(["--vrrp_pid", "/run/keepalived-vrrp.pid"]);
                command.env("TMPDIR", &dir);
                command
            }
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
    use steerd_core::config::Config;

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

    #[test]
    fn all_configurations_of_steerd_are_valid() {
        for speech in [Speech::V2, Speech::Pass, Speech::Ah, Speech::V3] {
            for family in Family::ALL {
                if speech != Speech::V3 && family == Family::V6 {
                    continue;
                }
                for unicast in [false, true] {
                    let case = Case {
                        steerd: speech,
                        keepalived: speech,
                        family,
                        unicast,
                        leader: Side::Steerd,
                        keys: "",
                    };
                    let text = case.steerd_config();
                    if let Err(mistakes) = Config::parse("steerd.toml", &text, "host") {
                        panic!("{case:?}: {mistakes}\n{text}");
                    }
                }
            }
        }
    }
}
