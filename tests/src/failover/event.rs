//! What is done to a pair, and what is read off it.

use std::{
    thread,
    time::{Duration, Instant},
};

use clap::ValueEnum;

use super::{
    contender::{Contender, Pace},
    pair::Pair,
    segment::Holders,
    trace::Outage,
};
use crate::{
    error::{Error, Result},
    node::NodeId,
};

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Event {
    /// A daemon is started on a node that never had one, with no other node: until it serves.
    Start,
    /// The same on a node where it was stopped in order: what it left is there.
    StartAgain,
    /// Nothing happens, for two seconds.
    NoiseFloor,
    /// The master's cable is cut.
    Crash,
    /// The node of the higher priority comes back, after a crash.
    Failback,
    /// The master's daemon is asked to end (SIGTERM).
    Handover,
    /// The master is told to give the address away (`steerctl failover`), and the other one then.
    Failover,
    /// The master's daemon is killed (SIGKILL) and not started again: until one node answers.
    DaemonKilled,
    /// The master and the backup do nothing but speak: what share of a CPU they take.
    Cpu,
    /// Six busy processes beside the nodes: how often the backup takes over from a living master.
    FalseTakeovers,
}

/// What an event came to, once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// Milliseconds; none if both nodes answer in the end.
    pub ms: Option<f64>,
    /// The same by the client's datagrams, where `ms` is by something else.
    pub stream_ms: Option<f64>,
    /// Datagrams without an answer, where there should have been one for each.
    pub lost: Option<u64>,
}

impl Event {
    /// Its name in rows.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::StartAgain => "start_again",
            Self::NoiseFloor => "noise_floor",
            Self::Crash => "crash",
            Self::Failback => "failback",
            Self::Handover => "handover",
            Self::Failover => "failover",
            Self::DaemonKilled => "daemon_killed",
            Self::Cpu => "cpu",
            Self::FalseTakeovers => "false_takeovers",
        }
    }

    /// Whether it is an outage, or a time, that is measured once a run.
    #[must_use]
    pub const fn is_timed(self) -> bool {
        !matches!(self, Self::Cpu | Self::FalseTakeovers)
    }

    /// Whether it exists for a contender.
    #[must_use]
    pub fn concerns(self, contender: Contender) -> bool {
        contender == Contender::Steerd || self != Self::Failover
    }

    /// Does it to a pair, and measures. The event comes at this `phase` (0 to 1) of the time between two
    /// adverts, where it matters: a dead node is missed the later, the sooner after an advert it died.
    ///
    /// # Errors
    ///
    /// The address did not answer before, or does not after it; or the pair does not do what it should.
    pub fn measure(self, pair: &mut Pair, phase: f64) -> Result<Vec<Sample>> {
        let one = match self {
            Self::Start => start(pair),
            Self::StartAgain => start_again(pair),
            Self::NoiseFloor => noise_floor(pair),
            Self::Crash => crash(pair, phase),
            Self::Failback => failback(pair),
            Self::Handover => handover(pair),
            Self::Failover => return failover(pair),
            Self::DaemonKilled => daemon_killed(pair, phase),
            // Not by the run.
            Self::Cpu | Self::FalseTakeovers => return Ok(Vec::new()),
        };
        Ok(vec![one?])
    }
}

/// Whom it happens to.
const MASTER: NodeId = NodeId::Primary;

/// Who takes over.
const BACKUP: NodeId = NodeId::Backup;

fn start(pair: &mut Pair) -> Result<Sample> {
    let since = Instant::now();
    pair.start(MASTER)?;
    let answer = pair.until_answer(since)?;
    Ok(Sample {
        ms: Some(ms(answer.at - since)),
        stream_ms: None,
        lost: None,
    })
}

fn start_again(pair: &mut Pair) -> Result<Sample> {
    if pair.runs(BACKUP) {
        pair.remove(BACKUP)?;
    }
    if !pair.runs(MASTER) {
        pair.start(MASTER)?;
    }
    pair.until_steady(MASTER, Instant::now())?;
    pair.terminate(MASTER)?;
    pair.gone(MASTER)?;
    pair.until_silent()?;
    start(pair)
}

fn noise_floor(pair: &mut Pair) -> Result<Sample> {
    const WHILE: Duration = Duration::from_secs(2);
    pair.ready()?;
    let event = Instant::now();
    thread::sleep(WHILE);
    outage(pair, event)
}

fn crash(pair: &mut Pair, phase: f64) -> Result<Sample> {
    pair.ready()?;
    wait_for_phase(pair, phase)?;
    let event = Instant::now();
    pair.cut(MASTER)?;
    pair.until_steady(BACKUP, event)?;
    let sample = outage(pair, event);
    pair.remove(MASTER)?;
    sample
}

fn failback(pair: &mut Pair) -> Result<Sample> {
    if pair.is_on(MASTER) {
        pair.ready()?;
        pair.remove(MASTER)?;
    }
    pair.boot(MASTER)?;
    pair.until_steady(BACKUP, Instant::now())?;
    let event = Instant::now();
    pair.start(MASTER)?;
    pair.until_steady(MASTER, event)?;
    outage(pair, event)
}

fn handover(pair: &mut Pair) -> Result<Sample> {
    pair.ready()?;
    let event = Instant::now();
    pair.terminate(MASTER)?;
    pair.until_steady(BACKUP, event)?;
    let sample = outage(pair, event);
    pair.gone(MASTER)?;
    sample
}

/// There and back: the one that gave the address away by order does not take it back by itself.
fn failover(pair: &mut Pair) -> Result<Vec<Sample>> {
    pair.ready()?;
    let mut samples = Vec::new();
    for (from, to) in [(MASTER, BACKUP), (BACKUP, MASTER)] {
        let event = Instant::now();
        pair.order_failover(from)?;
        pair.until_steady(to, event)?;
        samples.push(outage(pair, event)?);
    }
    Ok(samples)
}

fn daemon_killed(pair: &mut Pair, phase: f64) -> Result<Sample> {
    pair.ready()?;
    pair.segment.ask(true);
    // Answers that come now are the master's: that the watcher's questions are answered at all.
    thread::sleep(CALM);
    let before = Instant::now();
    let holders = pair
        .segment
        .read(|seen| seen.holders(before - CALM, before, CALM))?;
    if !matches!(holders, Holders::One(MASTER, _)) {
        return Err(fault(
            pair,
            format!("before the kill, {holders:?} answers ARP"),
        ));
    }
    wait_for_phase(pair, phase)?;
    let event = Instant::now();
    pair.kill(MASTER)?;
    // What the target allows, the end that is looked at, and half of both once more.
    thread::sleep(interval(pair.pace) * 6 + CALM * 3);
    let now = Instant::now();
    let holders = pair.segment.read(|seen| seen.holders(event, now, CALM))?;
    pair.segment.ask(false);
    let Outage { ms: stream, lost } = pair.outage(event)?.map_err(|error| fault(pair, error))?;
    let sample = |ms| Sample {
        ms,
        stream_ms: Some(stream),
        lost: Some(lost),
    };
    // The host goes on without its daemon: not into what comes next.
    pair.remove(MASTER)?;
    match holders {
        Holders::One(BACKUP, at) => Ok(sample(Some(ms(at - event)))),
        Holders::Both => Ok(sample(None)),
        Holders::One(MASTER, _) => Err(fault(pair, "the backup never answered ARP")),
        Holders::None => Err(fault(pair, "in the end nobody answered ARP")),
    }
}

/// The end of what is looked at, in which a host that answers is one that will.
const CALM: Duration = Duration::from_millis(300);

/// Waits for an advert, and for this part of an interval after it.
fn wait_for_phase(pair: &mut Pair, phase: f64) -> Result<()> {
    let advert = pair.until_advert(1)?;
    let at = advert + interval(pair.pace).mul_f64(phase);
    thread::sleep(at.saturating_duration_since(Instant::now()));
    Ok(())
}

fn outage(pair: &Pair, event: Instant) -> Result<Sample> {
    let Outage { ms, lost } = pair.outage(event)?.map_err(|error| fault(pair, error))?;
    Ok(Sample {
        ms: Some(ms),
        stream_ms: None,
        lost: Some(lost),
    })
}

fn fault(pair: &Pair, what: impl ToString) -> Error {
    Error::Traffic {
        program: pair.contender.name(),
        said: what.to_string(),
    }
}

fn interval(pace: Pace) -> Duration {
    Duration::from_millis(pace.advert_ms.into())
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
