//! A lab: a switch, a client, two nodes, and what can be done to them.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use steerd_core::{api::Status, vrrp::election::Role};

use crate::{
    config::{ECHO_PORT, NodeConfig, Settings},
    dir::Dir,
    error::{Error, Result},
    netns::{self, Bpffs},
    node::{self, Binaries, Ctl, Node, NodeId},
    players::Players,
    prober::Prober,
    process::Process,
    slots::Slots,
    stream::UdpStream,
    switch::{Host, HostSpec, Switch, VIP, VIP6},
    timeline::Timeline,
};

/// What kind of lab.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// By which example the nodes are configured.
    pub settings: Settings,
    /// With a second virtual router and second services over IPv6, which carry the load.
    pub ipv6: bool,
    /// Keep other labs out: for what is measured against a target of milliseconds.
    pub exclusive: bool,
    /// Whether the nodes have the BPF file system.
    pub bpffs: Bpffs,
}

impl Options {
    /// The usual lab on these settings.
    #[must_use]
    pub const fn new(settings: Settings) -> Self {
        Self {
            settings,
            ipv6: false,
            exclusive: false,
            bpffs: Bpffs::Mounted,
        }
    }
}

/// A lab. Everything in it ends with it.
#[derive(Debug)]
pub struct Lab {
    /// What it was made by.
    pub options: Options,
    /// Where its story is told.
    pub timeline: Arc<Timeline>,
    nodes: [Option<Node>; 2],
    configs: [NodeConfig; 2],
    client: Host,
    switch: Switch,
    binaries: Binaries,
    ctls: Ctls,
    dir: Dir,
    _slots: Slots,
}

/// Ways to ask the daemons that should be running.
pub type Ctls = Arc<Mutex<[Option<Ctl>; 2]>>;

/// The client.
pub const CLIENT: HostSpec = HostSpec {
    name: "client",
    number: 10,
};

impl Lab {
    /// Plugs everything together and switches the nodes on; nothing runs on them yet.
    ///
    /// # Errors
    ///
    /// Not root, a kernel that lacks something, or an example that the lab cannot use.
    pub fn new(options: Options, binaries: Binaries, timeline: Arc<Timeline>) -> Result<Self> {
        netns::require_root()?;
        let slots = if options.exclusive {
            Slots::all()?
        } else {
            Slots::one()?
        };
        let config = |id| {
            let mut config = NodeConfig::load(options.settings, id)?;
            config.add_echo()?;
            if options.ipv6 {
                config.add_ipv6()?;
            }
            Ok(config)
        };
        let switch = Switch::new()?;
        let client = switch.plug(CLIENT, Bpffs::Missing)?;
        let mut lab = Self {
            options,
            timeline,
            nodes: [None, None],
            configs: [config(NodeId::Primary)?, config(NodeId::Backup)?],
            client,
            switch,
            binaries,
            ctls: Ctls::default(),
            dir: Dir::new()?,
            _slots: slots,
        };
        NodeId::ALL.into_iter().try_for_each(|id| lab.boot(id))?;
        Ok(lab)
    }

    /// Switches a node on, as after a crash: nothing of the time before is left on it.
    ///
    /// # Errors
    ///
    /// See [`Switch::plug`].
    pub fn boot(&mut self, id: NodeId) -> Result<()> {
        let (bpffs, binaries) = (self.options.bpffs, self.binaries.clone());
        let node = Node::boot(id, &self.switch, bpffs, binaries, self.dir.path())?;
        node.configure(&self.configs[id as usize])?;
        self.nodes[id as usize] = Some(node);
        Ok(())
    }

    /// Pulls a node's plug: its link is gone first, so that nobody hears its programs die, and
    /// nothing of what it had in memory survives.
    ///
    /// # Errors
    ///
    /// It is off already.
    pub fn crash(&mut self, id: NodeId) -> Result<()> {
        self.switch.cut(id.spec())?;
        self.forget_ctl(id);
        let node = self.nodes[id as usize].take();
        drop(node.ok_or(Error::State {
            node: id.name(),
            reason: "it is off",
        })?);
        self.switch.unplug(id.spec())
    }

    /// A node that is on.
    ///
    /// # Errors
    ///
    /// It is off.
    pub fn node(&mut self, id: NodeId) -> Result<&mut Node> {
        let node = self.nodes[id as usize].as_mut();
        node.ok_or(Error::State {
            node: id.name(),
            reason: "it is off",
        })
    }

    /// Starts server and daemon on a node.
    ///
    /// # Errors
    ///
    /// The node is off, or one cannot be executed.
    pub fn start(&mut self, id: NodeId) -> Result<()> {
        self.node(id)?.start_server()?;
        self.start_daemon(id)
    }

    /// Starts a node's daemon.
    ///
    /// # Errors
    ///
    /// The node is off, or it cannot be executed.
    pub fn start_daemon(&mut self, id: NodeId) -> Result<()> {
        self.node(id)?.start_daemon()?;
        let config = self.configs[id as usize].clone();
        let ctl = self.node(id)?.ctl(&config);
        self.ctls.lock().unwrap_or_else(PoisonError::into_inner)[id as usize] = Some(ctl);
        Ok(())
    }

    /// Kills a node's daemon (SIGKILL).
    ///
    /// # Errors
    ///
    /// It does not run.
    pub fn kill_daemon(&mut self, id: NodeId) -> Result<()> {
        self.forget_ctl(id);
        self.node(id)?.kill_daemon()
    }

    /// Asks a node's daemon to stop (SIGTERM) and waits for its orderly end.
    ///
    /// # Errors
    ///
    /// It does not run, or does not end well.
    pub fn stop_daemon(&mut self, id: NodeId) -> Result<()> {
        self.forget_ctl(id);
        self.node(id)?.stop_daemon(Duration::from_secs(10))
    }

    /// Changes a node's configuration and has its daemon reload it (SIGHUP).
    ///
    /// # Errors
    ///
    /// The daemon does not run, or `change` failed.
    pub fn reload(
        &mut self,
        id: NodeId,
        change: impl FnOnce(&mut NodeConfig) -> Result<()>,
    ) -> Result<()> {
        self.configure(id, change)?;
        self.node(id)?.daemon()?.signal(Signal::SIGHUP)
    }

    /// Changes a node's configuration, for its daemon's next start.
    ///
    /// # Errors
    ///
    /// The node is off, or `change` failed.
    pub fn configure(
        &mut self,
        id: NodeId,
        change: impl FnOnce(&mut NodeConfig) -> Result<()>,
    ) -> Result<()> {
        change(&mut self.configs[id as usize])?;
        let config = self.configs[id as usize].clone();
        self.node(id)?.configure(&config)
    }

    /// Takes a node's port on the switch down.
    ///
    /// # Errors
    ///
    /// The node is off.
    pub fn cut(&self, id: NodeId) -> Result<()> {
        self.switch.cut(id.spec())
    }

    /// Brings a node's port on the switch up again.
    ///
    /// # Errors
    ///
    /// The node is off.
    pub fn restore(&self, id: NodeId) -> Result<()> {
        self.switch.restore(id.spec())
    }

    /// A further host on the switch.
    ///
    /// # Errors
    ///
    /// See [`Switch::plug`].
    pub fn plug(&self, spec: HostSpec) -> Result<Host> {
        self.switch.plug(spec, Bpffs::Mounted)
    }

    /// A further host on the switch that serves, once [`Lab::serve`] starts its server, as a backend
    /// on which no steerd runs.
    ///
    /// # Errors
    ///
    /// See [`Switch::plug`].
    pub fn plug_backend(&self, spec: HostSpec) -> Result<Host> {
        let host = self.plug(spec)?;
        host.prepare_backend()?;
        Ok(host)
    }

    /// Starts the game server on a host that is no node.
    ///
    /// # Errors
    ///
    /// It cannot be executed.
    pub fn serve(&self, host: &Host) -> Result<Process> {
        let name = host.spec.name;
        let log = self.dir.path().join(format!("{name}-server.log"));
        let command = node::server_command(host, &self.binaries);
        Process::start(format!("server on {name}"), command, log)
    }

    /// Takes the port of a host that is no node down on the switch.
    ///
    /// # Errors
    ///
    /// The host is not plugged in.
    pub fn cut_host(&self, spec: HostSpec) -> Result<()> {
        self.switch.cut(spec)
    }

    /// Takes a node's interface away and gives it a new one that looks the same.
    ///
    /// # Errors
    ///
    /// The node is off.
    pub fn replug(&mut self, id: NodeId) -> Result<()> {
        let node = self.nodes[id as usize].as_mut().ok_or(Error::State {
            node: id.name(),
            reason: "it is off",
        })?;
        self.switch.replug(&mut node.host)
    }

    /// What a node's daemon says of itself.
    ///
    /// # Errors
    ///
    /// It does not answer.
    pub fn status(&self, id: NodeId) -> Result<Status> {
        self.ctl(id)?.status()
    }

    /// A way to ask a node's daemon.
    ///
    /// # Errors
    ///
    /// It does not run.
    pub fn ctl(&self, id: NodeId) -> Result<Ctl> {
        let ctls = self.ctls.lock().unwrap_or_else(PoisonError::into_inner);
        let none = Error::State {
            node: id.name(),
            reason: "no daemon runs",
        };
        ctls[id as usize].clone().ok_or(none)
    }

    /// The same for all that run, as they come and go.
    #[must_use]
    pub fn ctls(&self) -> Ctls {
        self.ctls.clone()
    }

    /// Asks `probe` again and again until it is true, as long as the settings allow.
    ///
    /// # Errors
    ///
    /// A program ended meanwhile, `probe` failed, or it was never true: with the ends of the logs.
    pub fn until(
        &mut self,
        what: &str,
        mut probe: impl FnMut(&mut Self) -> Result<bool>,
    ) -> Result<()> {
        let (start, patience) = (Instant::now(), self.options.settings.patience());
        while !probe(self)? {
            for node in self.nodes.iter_mut().flatten() {
                node.check()?;
            }
            if start.elapsed() > patience {
                let seen = format!("the logs end:\n{}", self.dir.logs());
                return Err(Error::Late {
                    what: what.to_owned(),
                    after: patience,
                    seen,
                });
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Asks a node's daemon again and again until its status is as awaited.
    ///
    /// # Errors
    ///
    /// See [`Lab::until`].
    pub fn until_status(
        &mut self,
        id: NodeId,
        what: &str,
        mut awaited: impl FnMut(&Status) -> bool,
    ) -> Result<()> {
        let what = format!("{what} on {}", id.name());
        self.until(&what, |lab| {
            // It may still be starting.
            let done = lab.status(id).is_ok_and(|status| awaited(&status));
            if !done {
                // Asking is a process each time: leave the machine to those who are measured.
                thread::sleep(Duration::from_millis(40));
            }
            Ok(done)
        })
    }

    /// Waits until `master` is master of all virtual routers, and the other node, if its daemon
    /// runs, of none.
    ///
    /// # Errors
    ///
    /// See [`Lab::until`].
    pub fn until_master(&mut self, master: NodeId) -> Result<()> {
        self.until_status(master, "the role master", is_master)?;
        let other = master.other();
        if self.ctl(other).is_ok() {
            self.until_status(other, "a role other than master", |status| {
                is_no_master(status)
            })?;
        }
        Ok(())
    }

    /// The address that the load goes to.
    #[must_use]
    pub const fn vip(&self) -> IpAddr {
        if self.options.ipv6 { VIP6 } else { VIP }
    }

    /// Starts players, prober and stream.
    ///
    /// # Errors
    ///
    /// The client's namespace is unusable.
    pub fn load(&self, players: usize) -> Result<Load> {
        let game = SocketAddr::new(self.vip(), 8765);
        let echo = SocketAddr::new(self.vip(), ECHO_PORT);
        let client = &self.client.namespace;
        Ok(Load {
            players: Players::start(client, game, players)?,
            prober: Prober::start(client, game)?,
            stream: UdpStream::start(client, echo)?,
        })
    }

    /// The client.
    #[must_use]
    pub const fn client(&self) -> &Host {
        &self.client
    }

    fn forget_ctl(&self, id: NodeId) {
        self.ctls.lock().unwrap_or_else(PoisonError::into_inner)[id as usize] = None;
    }
}

/// The load on the virtual address, and what it measures.
#[derive(Debug)]
pub struct Load {
    /// Some hundred sessions.
    pub players: Players,
    /// Service as a new client sees it: `outage_ms`.
    pub prober: Prober,
    /// Single packets: `lost_packets`.
    pub stream: UdpStream,
}

/// Whether a node is master of all its virtual routers.
#[must_use]
pub fn is_master(status: &Status) -> bool {
    status
        .virtual_routers
        .iter()
        .all(|router| router.role == Role::Master)
}

/// Whether a node is master of none.
#[must_use]
pub fn is_no_master(status: &Status) -> bool {
    status
        .virtual_routers
        .iter()
        .all(|router| router.role != Role::Master)
}
