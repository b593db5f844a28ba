//! Two nodes of one contender, a client and a host that watches, on a switch; what can be done to the
//! nodes, and how to tell what they are doing.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;

use super::{
    beat::{Beat, Echo},
    contender::{Contender, PORT, Pace, Role, VIP},
    segment::Segment,
    trace::{Answer, Fault, Outage},
};
use crate::{
    dir::Dir,
    error::{Context, Error, Result},
    lab::CLIENT,
    netns::Bpffs,
    node::{Binaries, Ctl, NodeId},
    process::Process,
    site::keepalived,
    switch::{Host, HostSpec, Switch},
    wait,
};

/// Two nodes. Everything in it ends with it.
#[derive(Debug)]
pub struct Pair {
    /// Whose they are.
    pub contender: Contender,
    /// How fast they speak.
    pub pace: Pace,
    /// What is seen on the segment.
    pub segment: Segment,
    beat: Option<Beat>,
    // The programs go before the hosts they run on.
    nodes: [Option<Node>; 2],
    client: Host,
    _watcher: Host,
    switch: Switch,
    binaries: Binaries,
    dir: Dir,
}

/// A node that is switched on.
#[derive(Debug)]
struct Node {
    daemon: Option<Daemon>,
    _echo: Echo,
    host: Host,
}

/// A daemon, and where its log was when it was started.
#[derive(Debug)]
struct Daemon {
    process: Process,
    log_from: usize,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // What has ended needs nothing.
        let _ = keepalived::kill_all(&mut self.process);
    }
}

/// The host that watches.
const WATCHER: HostSpec = HostSpec {
    name: "watcher",
    number: 11,
};

/// What is sent in the last moments may still be answered.
const ON_THE_WAY: Duration = Duration::from_millis(20);

impl Pair {
    /// Plugs everything together and switches both nodes on; no daemon runs yet. The client sends
    /// already.
    ///
    /// # Errors
    ///
    /// Not root, or a kernel that lacks something.
    pub fn new(contender: Contender, pace: Pace, binaries: &Binaries) -> Result<Self> {
        let (switch, dir) = (Switch::new()?, Dir::new()?);
        for node in NodeId::ALL {
            let path = dir.path().join(format!("{}.conf", node.name()));
            let write = fs::write(&path, contender.config(node, pace));
            write.context(|| format!("write {}", path.display()))?;
        }
        let client = switch.plug(CLIENT, Bpffs::Missing)?;
        let watcher = switch.plug(WATCHER, Bpffs::Missing)?;
        let mut pair = Self {
            contender,
            pace,
            segment: Segment::watch(&watcher, VIP)?,
            beat: None,
            nodes: [None, None],
            client,
            _watcher: watcher,
            switch,
            binaries: binaries.clone(),
            dir,
        };
        pair.send(true)?;
        NodeId::ALL.into_iter().try_for_each(|id| pair.boot(id))?;
        Ok(pair)
    }

    /// Has the client send, or not.
    ///
    /// # Errors
    ///
    /// The client's namespace is unusable.
    pub fn send(&mut self, sends: bool) -> Result<()> {
        let client = &self.client.namespace;
        self.beat = match sends {
            true => Some(Beat::start(client, target())?),
            false => None,
        };
        Ok(())
    }

    /// Switches a node on, as after a crash: nothing of the time before is left on it.
    ///
    /// # Errors
    ///
    /// See [`Switch::plug`].
    pub fn boot(&mut self, id: NodeId) -> Result<()> {
        let host = self.switch.plug(id.spec(), Bpffs::Mounted)?;
        let echo = Echo::start(&host.namespace, target(), id)?;
        self.nodes[id as usize] = Some(Node {
            daemon: None,
            _echo: echo,
            host,
        });
        Ok(())
    }

    /// Cuts a node's cable: nobody hears what becomes of it.
    ///
    /// # Errors
    ///
    /// It is off.
    pub fn cut(&self, id: NodeId) -> Result<()> {
        self.switch.cut(id.spec())
    }

    /// Takes a node away, with all that runs on it.
    ///
    /// # Errors
    ///
    /// It is off already.
    pub fn remove(&mut self, id: NodeId) -> Result<()> {
        self.cut(id)?;
        // While the host is there: its end takes the cable along, sooner or later.
        self.switch.unplug(id.spec())?;
        drop(self.nodes[id as usize].take());
        Ok(())
    }

    /// Whether a node is on.
    #[must_use]
    pub fn is_on(&self, id: NodeId) -> bool {
        self.nodes[id as usize].is_some()
    }

    /// Whether a node's daemon runs.
    #[must_use]
    pub fn runs(&self, id: NodeId) -> bool {
        let node = self.nodes[id as usize].as_ref();
        node.is_some_and(|node| node.daemon.is_some())
    }

    /// Starts a node's daemon.
    ///
    /// # Errors
    ///
    /// The node is off, or it cannot be executed.
    pub fn start(&mut self, id: NodeId) -> Result<()> {
        let config = self.dir.path().join(format!("{}.conf", id.name()));
        let log = self.log(id);
        let (contender, binaries) = (self.contender, self.binaries.clone());
        let log_from = fs::metadata(&log).map_or(0, |data| data.len() as usize);
        let node = self.node(id)?;
        let command = contender.command(&node.host, &binaries, &config);
        let name = format!("{} on {}", contender.name(), id.name());
        let process = Process::start(name, command, log)?;
        node.daemon = Some(Daemon { process, log_from });
        Ok(())
    }

    /// Asks a node's daemon to end (SIGTERM).
    ///
    /// # Errors
    ///
    /// It does not run.
    pub fn terminate(&mut self, id: NodeId) -> Result<()> {
        self.daemon(id)?.process.signal(Signal::SIGTERM)
    }

    /// Waits for the end of a daemon that was asked to.
    ///
    /// # Errors
    ///
    /// It does not end.
    pub fn gone(&mut self, id: NodeId) -> Result<()> {
        self.daemon(id)?.process.wait(PATIENCE)?;
        self.node(id)?.daemon = None;
        Ok(())
    }

    /// Kills a node's daemon; the node stays on.
    ///
    /// # Errors
    ///
    /// It does not run.
    pub fn kill(&mut self, id: NodeId) -> Result<()> {
        keepalived::kill_all(&mut self.daemon(id)?.process)?;
        self.node(id)?.daemon = None;
        Ok(())
    }

    /// Has steerd on a node give the address away (`steerctl failover`).
    ///
    /// # Errors
    ///
    /// It refuses.
    pub fn order_failover(&mut self, id: NodeId) -> Result<()> {
        let binaries = self.binaries.clone();
        let namespace = &self.node(id)?.host.namespace;
        let socket = "/run/steerd/control.sock".into();
        let ctl = Ctl::new(id.name(), namespace, &binaries, socket);
        ctl.run(&["failover"]).map(drop)
    }

    /// How long a node's daemon has worked.
    ///
    /// # Errors
    ///
    /// It does not run.
    pub fn cpu_time(&mut self, id: NodeId) -> Result<Duration> {
        self.daemon(id)?.process.cpu_time()
    }

    /// How often a node's daemon, since it was started, has said that it took on a role.
    ///
    /// # Errors
    ///
    /// It does not run.
    pub fn said(&mut self, id: NodeId, role: Role) -> Result<usize> {
        let (path, logged) = (self.log(id), self.contender.logged(role));
        let from = self.daemon(id)?.log_from;
        let text = fs::read(&path).context(|| format!("read {}", path.display()))?;
        let text = String::from_utf8_lossy(text.get(from..).unwrap_or_default()).into_owned();
        Ok(text.lines().filter(|line| line.contains(logged)).count())
    }

    /// Brings everything into the state before an event: both nodes are on and their daemons run, the
    /// primary is master and has served for a while, and the backup follows it.
    ///
    /// # Errors
    ///
    /// It does not come to that.
    pub fn ready(&mut self) -> Result<()> {
        for id in NodeId::ALL {
            if !self.is_on(id) {
                self.boot(id)?;
            }
            if !self.runs(id) {
                self.start(id)?;
            }
        }
        self.until_steady(NodeId::Primary, Instant::now())?;
        self.until("the backup to listen", |pair| {
            Ok((pair.said(NodeId::Backup, Role::Backup)? > 0).then_some(()))
        })?;
        // And to have heard something.
        self.until_advert(2).map(drop)
    }

    /// Waits for so many adverts of the primary; the time of the last.
    ///
    /// # Errors
    ///
    /// It sends none.
    pub fn until_advert(&mut self, count: usize) -> Result<Instant> {
        let since = Instant::now();
        // Not every few milliseconds: what waits for an advert wants to know when it came.
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (seen, _) = self
                .segment
                .read(|seen| seen.adverts(NodeId::Primary, since))?;
            if seen >= count {
                return Ok(Instant::now());
            }
            if Instant::now() > deadline {
                return Err(self.late("adverts of the primary"));
            }
            thread::sleep(Duration::from_micros(500));
        }
    }

    /// Waits until nobody but `node` answers, and that without a pause, since after `since`.
    ///
    /// # Errors
    ///
    /// It is never so.
    pub fn until_steady(&mut self, node: NodeId, since: Instant) -> Result<()> {
        let what = format!("the {} to serve alone and without a pause", node.name());
        self.until(&what, |pair| {
            let steady = pair
                .beat()?
                .read(|trace| trace.is_steady(node, since, Instant::now()))?;
            Ok(steady.then_some(()))
        })
    }

    /// Waits for the first answer after `since`.
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn until_answer(&mut self, since: Instant) -> Result<Answer> {
        self.until("an answer", |pair| {
            pair.beat()?.read(|trace| trace.first(since))
        })
    }

    /// Waits until nobody answers.
    ///
    /// # Errors
    ///
    /// Somebody always does.
    pub fn until_silent(&mut self) -> Result<()> {
        const SILENCE: Duration = Duration::from_millis(100);
        self.until("silence", |pair| {
            let last = pair.beat()?.read(|trace| trace.last())?;
            Ok(last
                .is_none_or(|last| last.at.elapsed() > SILENCE)
                .then_some(()))
        })
    }

    /// The outage of what happened at `event`, up to now.
    ///
    /// # Errors
    ///
    /// See [`Fault`].
    pub fn outage(&self, event: Instant) -> Result<Result<Outage, Fault>> {
        thread::sleep(ON_THE_WAY);
        let until = Instant::now() - ON_THE_WAY;
        self.beat()?.read(|trace| trace.outage(event, until))
    }

    fn until<T>(
        &mut self,
        what: &str,
        mut probe: impl FnMut(&mut Self) -> Result<Option<T>>,
    ) -> Result<T> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(answer) = probe(self)? {
                return Ok(answer);
            }
            if Instant::now() > deadline {
                return Err(self.late(what));
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn late(&self, what: &str) -> Error {
        Error::Late {
            what: what.to_owned(),
            after: wait::patience(PATIENCE),
            seen: format!("the logs end:\n{}", self.dir.logs()),
        }
    }

    fn beat(&self) -> Result<&Beat> {
        self.beat.as_ref().ok_or(Error::State {
            node: CLIENT.name,
            reason: "it does not send",
        })
    }

    fn daemon(&mut self, id: NodeId) -> Result<&mut Daemon> {
        self.node(id)?.daemon.as_mut().ok_or(Error::State {
            node: id.name(),
            reason: "no daemon runs",
        })
    }

    fn node(&mut self, id: NodeId) -> Result<&mut Node> {
        self.nodes[id as usize].as_mut().ok_or(Error::State {
            node: id.name(),
            reason: "it is off",
        })
    }

    fn log(&self, id: NodeId) -> PathBuf {
        self.dir.path().join(format!("{}.log", id.name()))
    }
}

fn target() -> SocketAddr {
    SocketAddr::new(IpAddr::V4(VIP), PORT)
}

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);
