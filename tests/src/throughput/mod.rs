//! What a balancer carries, beside what its client and its server do without one.
//!
//! Each [`Contender`] is a network of its own, on this machine, of the same parts: a client, a server
//! and, but for the first, what stands between them. All are there at once and are measured in turns,
//! so that what the machine does meanwhile touches all alike. [`measure`] is the order of play,
//! [`report`] what comes of it.
//!
//! The networks' offloads are off, as they are where a lab's packets must be whole: figures in
//! gigabits say little of a network card's, and the ratios say how much of a CPU is left.

pub mod contender;
pub mod measure;
pub mod report;

use crate::{error::Result, netns, node::Binaries, slots::Slots};
use measure::{Kind, Schedule};
use report::Report;

/// Sets all contenders up and measures them; `told` hears what goes on.
///
/// # Errors
///
/// Not root, a program is missing, or a contender does not come to carry anything. Measurements
/// that fail later are in the report.
pub fn run(schedule: Schedule, binaries: &Binaries, told: impl Fn(&str)) -> Result<Report> {
    netns::require_root()?;
    let _alone = Slots::all()?;
    let contenders = contender::all(binaries, &told)?;
    let mut report = Report::new(contenders.iter().map(|contender| contender.name));
    for round in 1..=schedule.rounds {
        told(&format!("round {round} of {}", schedule.rounds));
        for kind in Kind::ALL {
            for (index, contender) in contenders.iter().enumerate() {
                match measure::once(contender, kind, schedule.seconds) {
                    Ok(sample) => report.add(index, kind, sample),
                    Err(error) => {
                        report.fault(format!("{} {}: {error}", contender.name, kind.name()));
                    }
                }
            }
        }
    }
    Ok(report)
}
