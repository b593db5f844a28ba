//! What a balancer carries, beside what its client and its server do without one.
//!
//! Each [`contender::Contender`] is a network of its own, on this machine, of the same parts: a client, a server
//! and, but for the first, what stands between them. All are there at once and are measured in turns,
//! so that what the machine does meanwhile touches all alike. [`measure`] is the order of play,
//! [`report`] what comes of it.
//!
//! The networks' offloads are off, as they are where a lab's packets must be whole: figures in
//! gigabits say little of a network card's, and the ratios say how much of a CPU is left.

pub mod contender;
pub mod measure;
pub mod report;

use crate::{
    error::{Error, Result},
    netns,
    node::Binaries,
    slots::Slots,
};
use measure::{Kind, Schedule};
use report::Report;

/// Sets all contenders up and measures them; `told` hears what goes on. What fails is in the report.
///
/// # Errors
///
/// Not root, or the temporary directory cannot be written.
pub fn run(schedule: Schedule, binaries: &Binaries, told: impl Fn(&str)) -> Result<Report> {
    netns::require_root()?;
    let _alone = Slots::all()?;
    let contenders = contender::all(binaries, &told);
    let mut report = Report::new(contenders.iter().map(|(name, _)| *name));
    let fault = |name: &str, error: &Error| format!("{name}: {error}");
    for (name, contender) in &contenders {
        if let Err(error) = contender {
            report.fault(fault(name, error));
        }
    }
    let busy = 100.0 * measure::background()?;
    told(&format!(
        "before the first round, the CPUs are {busy:.0} % busy"
    ));
    for round in 1..=schedule.rounds {
        told(&format!("round {round} of {}", schedule.rounds));
        for kind in Kind::ALL {
            for (index, (name, contender)) in contenders.iter().enumerate() {
                let Ok(contender) = contender else { continue };
                match measure::once(contender, kind, schedule.seconds) {
                    Ok(sample) => report.add(index, kind, sample),
                    Err(error) => report.fault(fault(name, &error)),
                }
            }
        }
    }
    Ok(report)
}
