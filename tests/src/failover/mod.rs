//! How long the virtual address does not answer, for steerd and keepalived, side by side.
//!
//! ```text
//!   client .10 ──┐
//!                ├─ switch ─┬─ primary .26: daemon, echo
//!   watcher .11 ─┘          └─ backup  .27: daemon, echo
//! ```
//!
//! A [`pair::Pair`] is two nodes of one [`contender`], at one pace of adverts. The client sends a
//! datagram to the virtual address each millisecond, and a node answers with its name ([`beat`]); what
//! an outage is follows from these answers alone ([`trace`]), so it is the same for everyone. The
//! watcher ([`segment`]) hears the adverts, and asks by ARP who has the address, where more than one may
//! say so. [`event`] is what happens to a pair. Each run makes the contenders' pairs anew and puts them
//! through all events, in turns, so that what the machine does meanwhile touches both alike.
//! [`cpus`] keeps the load and the daemons apart. [`load`] is what the daemons cost, and what they do on a busy machine.
//!
//! [`stats`] and [`report`] are what comes of it, with the targets beside it. What fails is in the report and has no figure.

pub mod beat;
pub mod contender;
pub mod cpus;
pub mod event;
pub mod load;
pub mod pair;
pub mod report;
pub mod segment;
pub mod stats;
mod target;
pub mod trace;

use std::time::Duration;

use self::{
    contender::{Contender, Pace},
    cpus::Part,
    event::Event,
    pair::Pair,
    report::Report,
};
use crate::{error::Result, netns, node::Binaries, slots::Slots};

/// What to measure, and how thoroughly.
#[derive(Debug, Clone)]
pub struct Schedule {
    /// The events; those of a run come in their order.
    pub events: Vec<Event>,
    /// The paces.
    pub paces: Vec<Pace>,
    /// How often each event is measured.
    pub runs: u32,
    /// How long the CPU time is measured.
    pub cpu: Duration,
    /// How long the machine is kept busy.
    pub busy: Duration,
}

/// The pace at which false takeovers are counted: the fastest of the standard.
const BUSY_PACE: u32 = 10;

/// Measures; `told` hears what goes on.
///
/// # Errors
///
/// Not root, or the temporary directory cannot be written.
pub fn run(schedule: &Schedule, binaries: &Binaries, told: impl Fn(&str)) -> Result<Report> {
    netns::require_root()?;
    let _alone = Slots::all()?;
    let mut report = Report::default();
    cpus::keep_to(Part::Daemons)?;
    let mut timed = schedule.events.clone();
    timed.retain(|event| event.is_timed());
    timed.sort();
    if !timed.is_empty() {
        for run in 0..schedule.runs {
            for &pace in &schedule.paces {
                for &contender in pace.contenders() {
                    told(&format!(
                        "run {} of {}: {} with adverts each {} ms",
                        run + 1,
                        schedule.runs,
                        contender.name(),
                        pace.advert_ms
                    ));
                    let phase = (f64::from(run) + 0.5) / f64::from(schedule.runs);
                    one_run(contender, pace, &timed, phase, binaries, &mut report);
                }
            }
        }
    }
    // What a busy machine does to the daemons is about all of it.
    cpus::keep_to(Part::All)?;
    if schedule.events.contains(&Event::Cpu) {
        for &pace in &schedule.paces {
            let seconds = schedule.cpu.as_secs();
            told(&format!(
                "CPU time over {seconds} s with adverts each {} ms",
                pace.advert_ms
            ));
            match load::cpu(pace, pace.contenders(), schedule.cpu, binaries) {
                Ok(shares) => shares
                    .into_iter()
                    .for_each(|(contender, cpu)| report.cpu(contender, pace, cpu)),
                Err(error) => report.fault(format!("cpu at {} ms: {error}", pace.advert_ms)),
            }
        }
    }
    if schedule.events.contains(&Event::FalseTakeovers) {
        for &pace in schedule
            .paces
            .iter()
            .filter(|pace| pace.advert_ms <= BUSY_PACE)
        {
            for &contender in pace.contenders() {
                // What is to be none is watched for longer than what is only there to compare.
                let span = match contender {
                    Contender::Steerd => schedule.busy,
                    Contender::Keepalived => schedule.busy / 3,
                };
                told(&format!(
                    "false takeovers of {} in {} s beside {} busy processes",
                    contender.name(),
                    span.as_secs(),
                    load::BUSY
                ));
                match load::false_takeovers(contender, pace, span, binaries) {
                    Ok(count) => report.takeovers(contender, pace, count, span),
                    Err(error) => {
                        report.fault(format!("false takeovers of {}: {error}", contender.name()))
                    }
                }
            }
        }
    }
    Ok(report)
}

/// Puts a new pair through the events. After one that failed, the next begins with another pair.
fn one_run(
    contender: Contender,
    pace: Pace,
    events: &[Event],
    phase: f64,
    binaries: &Binaries,
    report: &mut Report,
) {
    let mut kept = None;
    for &event in events.iter().filter(|event| event.concerns(contender)) {
        let measured = match kept.take() {
            Some(pair) => Ok(pair),
            None => Pair::new(contender, pace, binaries),
        }
        .and_then(|mut pair| {
            let samples = event.measure(&mut pair, phase)?;
            Ok((pair, samples))
        });
        match measured {
            Ok((pair, samples)) => {
                kept = Some(pair);
                for sample in samples {
                    report.add(contender, pace, event, sample);
                }
            }
            Err(error) => report.failed(contender, pace, event, &error),
        }
    }
}
