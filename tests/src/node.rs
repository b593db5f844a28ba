//! A node: a host on which `steerd` and the game server run.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use nix::sys::signal::Signal;
use serde::de::DeserializeOwned;
use steerd_core::api::{Flows, FlowsQuery, MapDump, Status};

use crate::{
    config::{ECHO_PORT, NodeConfig, OTHER_ECHO_PORT},
    error::{Error, Result},
    netns::{Bpffs, Namespace},
    process::{self, Process},
    switch::{Host, HostSpec, Switch},
};

/// Which of the two nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NodeId {
    /// Priority 110.
    Primary,
    /// Priority 100.
    Backup,
}

impl NodeId {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Primary, Self::Backup];

    /// Its name, also its server's.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.spec().name
    }

    /// Its name and addresses.
    #[must_use]
    pub const fn spec(self) -> HostSpec {
        match self {
            Self::Primary => HostSpec {
                name: "primary",
                number: 26,
            },
            Self::Backup => HostSpec {
                name: "backup",
                number: 27,
            },
        }
    }

    /// Its VRRP priority.
    #[must_use]
    pub const fn priority(self) -> u8 {
        match self {
            Self::Primary => 110,
            Self::Backup => 100,
        }
    }

    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Primary => Self::Backup,
            Self::Backup => Self::Primary,
        }
    }
}

/// The programs that run in a lab.
#[derive(Debug, Clone)]
pub struct Binaries {
    /// The daemon under test.
    pub steerd: PathBuf,
    /// Its command line.
    pub steerctl: PathBuf,
    /// The lab's game server.
    pub game_server: PathBuf,
}

impl Binaries {
    /// Those named by `STEERD_BIN`, `STEERCTL_BIN` and `GAME_SERVER_BIN`, else those that cargo
    /// built next to the running executable.
    ///
    /// # Errors
    ///
    /// One is not there.
    pub fn find() -> Result<Self> {
        Self::with(None, None)
    }

    /// The same, with the first two given by hand.
    ///
    /// # Errors
    ///
    /// One is not there.
    pub fn with(steerd: Option<PathBuf>, steerctl: Option<PathBuf>) -> Result<Self> {
        Ok(Self {
            steerd: built("steerd", "STEERD_BIN", steerd)?,
            steerctl: built("steerctl", "STEERCTL_BIN", steerctl)?,
            game_server: Self::game_server()?,
        })
    }

    /// The game server alone.
    ///
    /// # Errors
    ///
    /// It is not there.
    pub fn game_server() -> Result<PathBuf> {
        built("game-server", "GAME_SERVER_BIN", None)
    }
}

/// A node that is switched on.
#[derive(Debug)]
pub struct Node {
    /// Which one.
    pub id: NodeId,
    /// Its host.
    pub host: Host,
    binaries: Binaries,
    dir: PathBuf,
    server: Option<Process>,
    daemon: Option<Process>,
}

impl Node {
    /// Switches a node on; nothing runs on it yet. Its configuration, and the logs of its programs,
    /// are in `dir`.
    ///
    /// # Errors
    ///
    /// See [`Switch::plug`].
    pub fn boot(
        id: NodeId,
        switch: &Switch,
        bpffs: Bpffs,
        binaries: Binaries,
        dir: &Path,
    ) -> Result<Self> {
        let host = switch.plug(id.spec(), bpffs)?;
        Ok(Self {
            id,
            host,
            binaries,
            dir: dir.to_owned(),
            server: None,
            daemon: None,
        })
    }

    /// Starts the game server and its UDP echo.
    ///
    /// # Errors
    ///
    /// It cannot be executed.
    pub fn start_server(&mut self) -> Result<()> {
        let command = server_command(&self.host, &self.binaries);
        self.server = Some(self.start("server", command)?);
        Ok(())
    }

    /// Starts the daemon with the configuration in [`Node::config_path`].
    ///
    /// # Errors
    ///
    /// It cannot be executed.
    pub fn start_daemon(&mut self) -> Result<()> {
        let command = self.daemon_command();
        self.daemon = Some(self.start("steerd", command)?);
        Ok(())
    }

    /// The command that starts the daemon, to be changed and run by hand.
    #[must_use]
    pub fn daemon_command(&self) -> Command {
        let mut command = self.host.namespace.command(&self.binaries.steerd);
        command.arg("--config").arg(self.config_path());
        command
    }

    /// Where its configuration is.
    #[must_use]
    pub fn config_path(&self) -> PathBuf {
        self.dir.join(format!("{}.toml", self.id.name()))
    }

    /// Where the daemon's log is.
    #[must_use]
    pub fn daemon_log(&self) -> PathBuf {
        self.log("steerd")
    }

    /// Writes its configuration.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn configure(&self, config: &NodeConfig) -> Result<()> {
        config.write(&self.config_path())
    }

    /// The game server.
    ///
    /// # Errors
    ///
    /// It was not started, or was killed.
    pub fn server(&mut self) -> Result<&mut Process> {
        let node = self.id.name();
        self.server.as_mut().ok_or(Error::State {
            node,
            reason: "no server was started",
        })
    }

    /// The daemon.
    ///
    /// # Errors
    ///
    /// It was not started, or was killed.
    pub fn daemon(&mut self) -> Result<&mut Process> {
        let node = self.id.name();
        self.daemon.as_mut().ok_or(Error::State {
            node,
            reason: "no daemon was started",
        })
    }

    /// Kills the server.
    ///
    /// # Errors
    ///
    /// It was not started.
    pub fn kill_server(&mut self) -> Result<()> {
        self.server()?.kill()?;
        self.server = None;
        Ok(())
    }

    /// Kills the daemon.
    ///
    /// # Errors
    ///
    /// It was not started.
    pub fn kill_daemon(&mut self) -> Result<()> {
        self.daemon()?.kill()?;
        self.daemon = None;
        Ok(())
    }

    /// Asks the daemon to stop (SIGTERM) and waits for its end.
    ///
    /// # Errors
    ///
    /// It was not started, does not stop, or stops with an error.
    pub fn stop_daemon(&mut self, deadline: Duration) -> Result<()> {
        let log = self.daemon_log();
        let daemon = self.daemon()?;
        daemon.signal(Signal::SIGTERM)?;
        let status = daemon.wait(deadline)?;
        self.daemon = None;
        if status.success() {
            Ok(())
        } else {
            let process = "steerd, after SIGTERM,".into();
            Err(Error::Ended {
                process,
                status,
                log: process::tail(&log),
            })
        }
    }

    /// Whether all that was started and not killed still runs.
    ///
    /// # Errors
    ///
    /// Something ended by itself: its last words.
    pub fn check(&mut self) -> Result<()> {
        [&mut self.server, &mut self.daemon]
            .into_iter()
            .flatten()
            .try_for_each(Process::check)
    }

    /// A way to ask its daemon, from any thread.
    #[must_use]
    pub fn ctl(&self, config: &NodeConfig) -> Ctl {
        Ctl::new(
            self.id.name(),
            &self.host.namespace,
            &self.binaries,
            config.socket(),
        )
    }

    fn start(&self, what: &str, command: Command) -> Result<Process> {
        Process::start(
            format!("{} on {}", what, self.id.name()),
            command,
            self.log(what),
        )
    }

    fn log(&self, what: &str) -> PathBuf {
        self.dir.join(format!("{}-{what}.log", self.id.name()))
    }
}

/// A way to ask a node's daemon.
#[derive(Debug, Clone)]
pub struct Ctl {
    /// The node's name.
    pub node: &'static str,
    namespace: Namespace,
    steerctl: PathBuf,
    socket: PathBuf,
}

impl Ctl {
    /// A way to ask the daemon of the node `node`, which runs in `namespace`, at its `socket`.
    #[must_use]
    pub fn new(
        node: &'static str,
        namespace: &Namespace,
        binaries: &Binaries,
        socket: PathBuf,
    ) -> Self {
        Self {
            node,
            namespace: namespace.clone(),
            steerctl: binaries.steerctl.clone(),
            socket,
        }
    }

    /// Runs `steerctl --socket PATH -o json ARGUMENTS` and returns its stdout.
    ///
    /// # Errors
    ///
    /// It fails or takes over two seconds: its stderr.
    pub fn run(&self, arguments: &[&str]) -> Result<Vec<u8>> {
        let mut command = self.namespace.command(&self.steerctl);
        command
            .arg("--socket")
            .arg(&self.socket)
            .args(["-o", "json"])
            .args(arguments);
        let output = process::output(command, Duration::from_secs(2))?;
        if output.status.success() {
            Ok(output.stdout)
        } else {
            Err(self.failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
        }
    }

    /// What the daemon says of itself.
    ///
    /// # Errors
    ///
    /// It does not answer, or not as [`steerd_core::api`] says.
    pub fn status(&self) -> Result<Status> {
        self.ask(&["status"])
    }

    /// All flows of a service.
    ///
    /// # Errors
    ///
    /// See [`Ctl::status`].
    pub fn flows(&self, service: &str) -> Result<Flows> {
        let limit = FlowsQuery::MAX_LIMIT.to_string();
        self.ask(&["flows", "--service", service, "--limit", &limit])
    }

    /// The entries of a map, decoded.
    ///
    /// # Errors
    ///
    /// See [`Ctl::status`].
    pub fn dump(&self, map: &str) -> Result<MapDump> {
        self.ask(&["maps", "dump", map])
    }

    fn ask<T: DeserializeOwned>(&self, arguments: &[&str]) -> Result<T> {
        let json = self.run(arguments)?;
        serde_json::from_slice(&json)
            .map_err(|error| self.failed(format!("{error} in {}", String::from_utf8_lossy(&json))))
    }

    fn failed(&self, reason: String) -> Error {
        Error::Ctl {
            node: self.node,
            reason,
        }
    }
}

/// The command that starts the game server and its UDP echoes on a host.
#[must_use]
pub fn server_command(host: &Host, binaries: &Binaries) -> Command {
    let mut command = host.namespace.command(&binaries.game_server);
    command.args(["--name", host.spec.name]);
    let ports = [
        ("--listen", 8765),
        ("--echo", ECHO_PORT),
        ("--echo", OTHER_ECHO_PORT),
    ];
    for (option, port) in ports {
        for any in ["0.0.0.0", "[::]"] {
            command.arg(option).arg(format!("{any}:{port}"));
        }
    }
    command
}

/// A binary that cargo built beside the running executable, or that `given` or `variable` name.
pub(crate) fn built(
    name: &'static str,
    variable: &'static str,
    given: Option<PathBuf>,
) -> Result<PathBuf> {
    let path = given
        .or_else(|| env::var_os(variable).map(PathBuf::from))
        .unwrap_or_else(|| {
            let exe = env::current_exe().unwrap_or_default();
            let mut dir = exe.parent().unwrap_or(Path::new("."));
            if dir.ends_with("deps") {
                dir = dir.parent().unwrap_or(dir);
            }
            dir.join(name)
        });
    // The programs run with another working directory.
    match path.canonicalize() {
        Ok(path) if path.is_file() => Ok(path),
        _ => Err(Error::NotBuilt {
            name,
            path,
            variable,
        }),
    }
}
