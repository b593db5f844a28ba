//! Measuring a row: rounds, in which nothing, the reference and the program take turns, so that
//! what the machine does meanwhile touches all three; and the checks that the figure is of the work
//! that the row names.

use steerd_ebpf::{
    bench::SOURCES,
    verdict::{Fate, Verdict},
};

use super::{
    error::{Error, Result},
    frame,
    rig::{FLOWS4, Rig},
    rows::{Flows, Row},
    wrapper::{Bench, Packets, Reference, Wrapped, action},
};

/// Packets of one program in one round: each of the row with most flows has one.
const PACKETS: u32 = 1 << 20;

/// New clients before the measurement, each in a random set of four: fewer than one set in ten
/// thousand is then not full.
const FILL: u32 = 4 * FLOWS4;

const _: () = assert!(FILL < SOURCES, "clients for the measurement are left");

/// New clients that are looked for in the table afterwards.
const NEWEST: u32 = 1000;

/// What a row costs, nanoseconds a packet.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figures {
    /// The program's time less that of nothing: the median of the rounds.
    pub net_median: f64,
    /// The program's least time less the least of nothing.
    pub net_min: f64,
    /// The program's time less that of nothing: the most of the rounds.
    pub net_max: f64,
    /// The reference's time less that of nothing: the median of the rounds.
    pub limit: f64,
}

/// Measures a row on a rig of its own.
///
/// # Errors
///
/// The kernel refuses something, or the packets were not treated as the row says.
pub fn row(bench: &Bench, rig: &mut Rig, row: &Row, rounds: u32) -> Result<Figures> {
    let frame = frame::build(row.family, row.kind, &|frame| rig.send(&frame))?;
    let family = row.outer.unwrap_or(row.family);
    let (name, program) = rig.program()?;
    let mut program = bench.wrap(name, program, row.head)?;
    let mut nothing = bench.reference(Reference::Tx, row.head)?;
    let mut limit = bench.reference(row.limit, row.head)?;
    let wanted = action_of(row);
    let (clients, warm_up, packets) = match row.flows {
        // The second packet establishes a flow.
        Flows::Known(flows) => (flows, PACKETS.max(2 * flows), PACKETS),
        Flows::New => (SOURCES, FILL, ((SOURCES - FILL) / rounds).min(PACKETS)),
    };
    let run = |after, count| Packets {
        frame: &frame,
        family,
        clients,
        after,
        count,
    };

    let before = rig.verdicts()?;
    if let Err(error) = check_restored(&mut program, run(0, 1), wanted) {
        // If it returned something else: what it counted tells more.
        if matches!(error, Error::Action { .. }) {
            check_verdicts(&before, &rig.verdicts()?, row.verdict, 1)?;
        }
        return Err(error);
    }
    program.run(run(0, warm_up), wanted)?;
    if row.flows == Flows::New {
        check_full(rig)?;
    }
    nothing.run(run(0, packets), action::TX)?;
    limit.run(run(0, packets), row.limit.action())?;

    let mut figures = Rounds::default();
    let mut after = warm_up;
    for _ in 0..rounds {
        let run = run(after, packets);
        figures.nothing.push(nothing.run(run, action::TX)?.ns);
        figures.limit.push(limit.run(run, row.limit.action())?.ns);
        figures.program.push(program.run(run, wanted)?.ns);
        after += packets;
    }

    let sent =
        1 + u64::from(RESTORED) + u64::from(warm_up) + u64::from(rounds) * u64::from(packets);
    check_verdicts(&before, &rig.verdicts()?, row.verdict, sent)?;
    if row.flows == Flows::New {
        check_newest(rig, after)?;
    }
    Ok(figures.figures())
}

/// The action that makes a row's verdict true.
const fn action_of(row: &Row) -> u32 {
    match row.verdict.fate() {
        Fate::Pass => action::PASS,
        Fate::Drop => action::DROP,
        Fate::Tx => action::TX,
        Fate::Out if row.world.same_interface => action::TX,
        Fate::Out => action::REDIRECT,
    }
}

/// Packets after which the last must leave as the first did.
const RESTORED: u32 = 1000;

/// Checks that the wrapper restores all that the program changes.
fn check_restored(program: &mut Wrapped, one: Packets<'_>, action: u32) -> Result<()> {
    let one = Packets { clients: 1, ..one };
    let first = program.run(one, action)?.frame;
    let many = Packets {
        count: RESTORED,
        ..one
    };
    let last = program.run(many, action)?.frame;
    if first == last {
        Ok(())
    } else {
        Err(Error::NotRestored)
    }
}

/// Checks that all packets were counted under one verdict.
fn check_verdicts(
    before: &[u64; Verdict::COUNT],
    after: &[u64; Verdict::COUNT],
    wanted: Verdict,
    packets: u64,
) -> Result<()> {
    let grown = |verdict: Verdict| after[verdict as usize] - before[verdict as usize];
    let others = Verdict::ALL
        .into_iter()
        .any(|verdict| verdict != wanted && grown(verdict) != 0);
    if grown(wanted) == packets && !others {
        return Ok(());
    }
    let all: Vec<String> = Verdict::ALL
        .into_iter()
        .filter(|&verdict| grown(verdict) != 0)
        .map(|verdict| format!("{} {}", grown(verdict), verdict.name()))
        .collect();
    Err(Error::Verdict {
        packets,
        verdict: wanted.name(),
        counted: grown(wanted),
        all: all.join(", "),
    })
}

/// Checks that the flow table has no room left.
fn check_full(rig: &Rig) -> Result<()> {
    let flows = rig.flows4()?;
    if flows >= FLOWS4 - FLOWS4 / 1000 {
        return Ok(());
    }
    Err(Error::Flows(format!(
        "has {flows} flows of {FLOWS4} after {FILL} new clients"
    )))
}

/// Checks that new flows did get a place.
fn check_newest(rig: &Rig, last: u32) -> Result<()> {
    let mut known = 0;
    for client in 0..NEWEST {
        known += u32::from(rig.knows4(last - client)?);
    }
    // Two of them may want the same place.
    if known >= NEWEST - NEWEST / 100 {
        return Ok(());
    }
    Err(Error::Flows(format!(
        "knows {known} of the newest {NEWEST} clients"
    )))
}

/// The times of all rounds, nanoseconds a packet with the wrapper; none is left out.
#[derive(Debug, Default)]
struct Rounds {
    nothing: Vec<f64>,
    limit: Vec<f64>,
    program: Vec<f64>,
}

impl Rounds {
    fn figures(&self) -> Figures {
        let net = |times: &[f64]| {
            let rounds = times.iter().zip(&self.nothing);
            let mut net: Vec<f64> = rounds.map(|(time, nothing)| time - nothing).collect();
            net.sort_by(f64::total_cmp);
            net
        };
        let least = |times: &[f64]| times.iter().copied().fold(f64::INFINITY, f64::min);
        let program = net(&self.program);
        Figures {
            net_median: median(&program),
            // Not the least difference: that is of the round in which nothing was slowest.
            net_min: least(&self.program) - least(&self.nothing),
            net_max: program.last().copied().unwrap_or_default(),
            limit: median(&net(&self.limit)),
        }
    }
}

/// The middle of sorted values; of an even number of them, the mean of the two.
fn median(sorted: &[f64]) -> f64 {
    let (low, high) = (sorted.len().saturating_sub(1) / 2, sorted.len() / 2);
    match (sorted.get(low), sorted.get(high)) {
        (Some(low), Some(high)) => (low + high) / 2.0,
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[1.0, 2.0, 9.0]), 2.0);
        assert_eq!(median(&[1.0, 2.0, 3.0, 9.0]), 2.5);
        let rounds = Rounds {
            nothing: vec![20.0, 29.0, 21.0],
            limit: vec![22.0, 30.0, 24.0],
            program: vec![30.0, 31.0, 32.0],
        };
        let figures = rounds.figures();
        assert_eq!(figures.net_median, 10.0);
        assert_eq!((figures.net_min, figures.net_max), (10.0, 11.0));
        assert_eq!(figures.limit, 2.0);
    }

    #[test]
    fn a_packet_of_another_verdict_is_noticed() {
        let before = [1; Verdict::COUNT];
        let mut after = before;
        after[Verdict::Dsr as usize] += 10;
        assert!(check_verdicts(&before, &after, Verdict::Dsr, 10).is_ok());
        assert!(check_verdicts(&before, &after, Verdict::Dsr, 11).is_err());
        assert!(check_verdicts(&before, &after, Verdict::Local, 10).is_err());
        after[Verdict::NotVip as usize] += 1;
        let error = check_verdicts(&before, &after, Verdict::Dsr, 10).unwrap_err();
        assert!(error.to_string().contains("1 not-vip, 10 dsr"), "{error}");
    }
}
