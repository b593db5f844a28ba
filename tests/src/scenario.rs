//! What goes wrong, and how long it hurts.
//!
//! Each scenario takes a [`Stage`] on which everything is well and the primary is in charge, does
//! one thing, waits until the consequences are there, and reports. The figures:
//!
//! * `outage_ms`: the longest time in which no new client was served ([`crate::prober`]).
//! * `lost_packets`: datagrams of a 1 ms stream that were not echoed ([`crate::stream`]).
//! * `reconnected`: players who, when all was over, had their messages echoed
//!   ([`crate::players`]).

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use crate::{
    config::Settings,
    error::{Error, Result},
    lab::{Lab, Load, Options},
    node::{Binaries, NodeId},
    stream::Mark,
    timeline::Timeline,
    watch::Watcher,
};

/// What a scenario measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The scenario.
    pub scenario: String,
    /// The longest time in which no new client was served.
    pub outage_ms: u64,
    /// How many players there are.
    pub players: usize,
    /// How many of them played at the end.
    pub reconnected: usize,
    /// Datagrams that were not echoed.
    pub lost_packets: u64,
}

/// A lab under load.
#[derive(Debug)]
pub struct Stage {
    // The watcher asks the lab's daemons: it goes first.
    _watcher: Watcher,
    /// The load.
    pub load: Arc<Load>,
    /// The lab.
    pub lab: Lab,
}

impl Stage {
    /// A lab in which everything runs, with the primary in charge and all players on it.
    ///
    /// # Errors
    ///
    /// It never came to that.
    pub fn new(
        options: Options,
        binaries: Binaries,
        timeline: Arc<Timeline>,
        players: usize,
    ) -> Result<Self> {
        let mut lab = Lab::new(options, binaries, timeline)?;
        NodeId::ALL.into_iter().try_for_each(|id| lab.start(id))?;
        let load = Arc::new(lab.load(players)?);
        let watcher = Watcher::start(&lab, load.clone());
        let mut stage = Self {
            _watcher: watcher,
            load,
            lab,
        };
        stage.until_in_charge(NodeId::Primary, NodeId::Primary)?;
        stage.gather(NodeId::Primary)?;
        Ok(stage)
    }

    /// Waits until `master` has the addresses and `server` serves new clients.
    ///
    /// # Errors
    ///
    /// See [`Lab::until`].
    pub fn until_in_charge(&mut self, master: NodeId, server: NodeId) -> Result<()> {
        let load = self.load.clone();
        let since = Instant::now();
        self.lab
            .until(&format!("service by {}", server.name()), |_| {
                let by = |answer: crate::prober::Answer| {
                    answer.asked > since && answer.server == server.name()
                };
                Ok(load.prober.last().is_some_and(by))
            })?;
        self.lab.until_master(master)
    }

    /// Has all players begin a new game, which brings them to `server`, and waits until all is calm.
    ///
    /// # Errors
    ///
    /// See [`Lab::until`].
    pub fn gather(&mut self, server: NodeId) -> Result<()> {
        let load = self.load.clone();
        let gathered = || load.players.all_play_on(server.name());
        if !gathered() {
            load.players.next_game();
        }
        let all_play = |_: &mut Lab| Ok(gathered() && load.stream.is_calm());
        self.lab
            .until(&format!("all players on {}", server.name()), all_play)
    }

    /// Does something and measures the consequences, until `master` and `server` are in charge and
    /// all players play again.
    ///
    /// # Errors
    ///
    /// `event` failed, or the two never were in charge. Players that do not come back are no
    /// error, but a report of fewer.
    pub fn measure(
        &mut self,
        scenario: &str,
        event: impl FnOnce(&mut Self) -> Result<()>,
        (master, server): (NodeId, NodeId),
    ) -> Result<Report> {
        let before = Before {
            at: Instant::now(),
            mark: self.load.stream.mark(),
        };
        event(self)?;
        self.until_in_charge(master, server)?;
        let (load, settled) = (self.load.clone(), Instant::now());
        let count = load.players.snapshot().players;
        let back = self.lab.until("all players to play again", |_| {
            Ok(load.players.playing_since(settled) == count && load.stream.flows())
        });
        let reconnected = match back {
            Ok(()) => count,
            Err(Error::Late { .. }) => load.players.playing_since(settled),
            Err(error) => return Err(error),
        };
        let outage = load.prober.outage(before.at);
        let report = Report {
            scenario: scenario.to_owned(),
            outage_ms: u64::try_from(outage.as_millis()).unwrap_or(u64::MAX),
            players: count,
            reconnected,
            lost_packets: load.stream.lost(before.mark),
        };
        self.lab.timeline.event(&report);
        Ok(report)
    }

    fn tell(&self, what: &str) {
        self.lab.timeline.event(format_args!("***      {what}"));
    }
}

/// When, and where in the stream, an event began.
struct Before {
    at: Instant,
    mark: Mark,
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            scenario,
            outage_ms,
            players,
            reconnected,
            lost_packets,
        } = self;
        write!(
            f,
            "===      {scenario}: {outage_ms} ms without service, {reconnected} of {players} \
             players back, {lost_packets} packets lost"
        )
    }
}

impl Report {
    /// What it must not exceed on these settings: time without service.
    #[must_use]
    pub fn target(&self, settings: Settings) -> Option<Duration> {
        match self.scenario.as_str() {
            "server_killed" => Some(settings.server_target()),
            "node_killed" | "link_lost" => Some(settings.node_target()),
            _ => None,
        }
    }

    /// Whether all players are back and the target, if there is one, is met.
    #[must_use]
    pub fn is_good(&self, settings: Settings) -> bool {
        let met = |target: Duration| u128::from(self.outage_ms) < target.as_millis();
        self.reconnected == self.players && self.target(settings).is_none_or(met)
    }
}

use NodeId::{Backup, Primary};

/// The primary's game server dies.
///
/// # Errors
///
/// See [`Stage::measure`]; so with all below.
pub fn server_killed(stage: &mut Stage) -> Result<Report> {
    let event = |stage: &mut Stage| {
        stage.tell("kill -9 of the primary's game server");
        stage.lab.node(Primary)?.kill_server()
    };
    stage.measure("server_killed", event, (Primary, Backup))
}

/// It comes back, after [`server_killed`].
///
/// # Errors
///
/// See [`server_killed`].
pub fn server_back(stage: &mut Stage) -> Result<Report> {
    let event = |stage: &mut Stage| {
        stage.tell("the primary's game server is started again");
        stage.lab.node(Primary)?.start_server()
    };
    let report = stage.measure("server_back", event, (Primary, Primary))?;
    stage.gather(Primary)?;
    Ok(report)
}

/// The primary's game server hangs (SIGSTOP): it accepts and never answers. Afterwards it is let
/// go again.
///
/// # Errors
///
/// See [`server_killed`].
pub fn server_hung(stage: &mut Stage) -> Result<Report> {
    let event = |stage: &mut Stage| {
        stage.tell("SIGSTOP to the primary's game server");
        stage.lab.node(Primary)?.server()?.signal(Signal::SIGSTOP)
    };
    let report = stage.measure("server_hung", event, (Primary, Backup))?;
    stage.lab.node(Primary)?.server()?.signal(Signal::SIGCONT)?;
    stage.until_in_charge(Primary, Primary)?;
    stage.gather(Primary)?;
    Ok(report)
}

/// The primary's plug is pulled.
///
/// # Errors
///
/// See [`server_killed`].
pub fn node_killed(stage: &mut Stage) -> Result<Report> {
    let event = |stage: &mut Stage| {
        stage.tell("the primary's plug is pulled");
        stage.lab.crash(Primary)
    };
    stage.measure("node_killed", event, (Backup, Backup))
}

/// It is switched on again, after [`node_killed`].
///
/// # Errors
///
/// See [`server_killed`].
pub fn node_back(stage: &mut Stage) -> Result<Report> {
    let event = |stage: &mut Stage| {
        stage.tell("the primary is switched on again");
        stage.lab.boot(Primary)?;
        stage.lab.start(Primary)
    };
    let report = stage.measure("node_back", event, (Primary, Primary))?;
    stage.gather(Primary)?;
    Ok(report)
}

/// The primary's port on the switch goes down. Afterwards it is brought up again.
///
/// # Errors
///
/// See [`server_killed`].
pub fn link_lost(stage: &mut Stage) -> Result<Report> {
    let event = |stage: &mut Stage| {
        stage.tell("the primary's cable is pulled");
        stage.lab.cut(Primary)
    };
    let report = stage.measure("link_lost", event, (Backup, Backup))?;
    stage.tell("the primary's cable is plugged in again");
    stage.lab.restore(Primary)?;
    stage.until_in_charge(Primary, Primary)?;
    stage.gather(Primary)?;
    Ok(report)
}

/// The primary's daemon dies and is restarted at once, as by a supervisor.
///
/// # Errors
///
/// See [`server_killed`].
pub fn daemon_killed_restarted(stage: &mut Stage) -> Result<Report> {
    let event = |stage: &mut Stage| {
        stage.tell("kill -9 and restart of the primary's steerd");
        stage.lab.kill_daemon(Primary)?;
        stage.lab.start_daemon(Primary)
    };
    stage.measure("daemon_killed_restarted", event, (Primary, Primary))
}

/// The primary's daemon is restarted in order.
///
/// # Errors
///
/// See [`server_killed`].
pub fn daemon_restarted(stage: &mut Stage) -> Result<Report> {
    let event = |stage: &mut Stage| {
        stage.tell("SIGTERM to the primary's steerd, and restart");
        stage.lab.stop_daemon(Primary)?;
        stage.lab.start_daemon(Primary)
    };
    stage.measure("daemon_restarted", event, (Primary, Primary))
}

/// Both daemons get a changed configuration: a service more, and other weights.
///
/// # Errors
///
/// See [`server_killed`].
pub fn reload(stage: &mut Stage) -> Result<Report> {
    let event = |stage: &mut Stage| {
        for id in NodeId::ALL {
            stage.tell(&format!(
                "{} reloads: service extra is new, weights are 7",
                id.name()
            ));
            stage.lab.reload(id, |config| {
                let game = config.game()?;
                for backend in config.backends(&game)? {
                    backend.insert("weight".into(), 7.into());
                }
                config.copy_service(&game, "extra", 8770)
            })?;
            stage
                .lab
                .until_status(id, "service extra and weights of 7", |status| {
                    let weights = status
                        .services
                        .first()
                        .into_iter()
                        .flat_map(|s| &s.backends);
                    let mut weights = weights.map(|backend| backend.weight);
                    let extra = status.services.iter().any(|s| s.name.as_str() == "extra");
                    extra && weights.all(|weight| weight == 7)
                })?;
        }
        Ok(())
    };
    stage.measure("reload", event, (Primary, Primary))
}
