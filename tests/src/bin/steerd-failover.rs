//! `steerd-failover`: [`steerd_tests::failover`] as a command.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{Parser, ValueEnum};
use steerd_tests::{
    bench::machine,
    error::Result,
    failover::{self, Schedule, contender::Pace, event::Event},
    node::Binaries,
};

/// Measure how long the virtual address does not answer, for two nodes of steerd and two of keepalived.
///
/// They take turns: each run makes two nodes of either anew, in network namespaces, and puts them
/// through all events at each pace, while a client sends to the address each millisecond. A time is
/// the median of the longest pauses between two answers; of `start`, until the first answer; of
/// `daemon_killed`, until one node alone answers ARP for the address. What was to be reached stands
/// beside it. It fails if something could not be measured, not if a target is missed.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask bench failover",
    bin_name = "cargo xtask bench failover"
)]
struct Arguments {
    /// Print one JSON object a row on stdout; what goes on is told on stderr.
    #[arg(long)]
    json: bool,
    /// Measure this alone; may be given more than once.
    #[arg(long, value_name = "EVENT", value_enum)]
    event: Vec<Event>,
    /// Measure at this time between adverts alone, in milliseconds; may be given more than once.
    #[arg(long, value_name = "MILLISECONDS", value_parser = pace)]
    advert: Vec<Pace>,
    /// How often each event is measured.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=99),
          default_value_t = 7, default_value_if("quick", "true", "3"))]
    runs: u32,
    /// Three runs, without the slowest adverts, and a fifth of the time for CPU and false takeovers:
    /// some four minutes instead of twenty.
    #[arg(long)]
    quick: bool,
    /// The steerd to use; without it: the one next to this program.
    #[arg(long, value_name = "PATH")]
    steerd: Option<PathBuf>,
    /// The steerctl to use; without it: the one next to this program.
    #[arg(long, value_name = "PATH")]
    steerctl: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("steerd-failover: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<ExitCode> {
    let binaries = Binaries::with(arguments.steerd.clone(), arguments.steerctl.clone())?;
    let report = failover::run(&arguments.schedule(), &binaries, |what| {
        eprintln!("steerd-failover: {what}");
    })?;
    if arguments.json {
        for row in report.rows() {
            // Plain fields: there is nothing in them that could fail.
            println!("{}", serde_json::to_string(&row).unwrap_or_default());
        }
    } else {
        println!(
            "{}; medians of {} runs, in brackets the least and the greatest",
            machine::describe(),
            arguments.runs
        );
        println!("{}", report.table());
    }
    for fault in report.faults() {
        eprintln!("steerd-failover: {fault}");
    }
    Ok(if report.faults().is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

impl Arguments {
    fn schedule(&self) -> Schedule {
        let all_events = Event::value_variants().to_vec();
        let mut all_paces = Pace::ALL.to_vec();
        if self.quick {
            all_paces.retain(|pace| pace.advert_ms < 1000);
        }
        let part = if self.quick { 5 } else { 1 };
        Schedule {
            events: or(&self.event, all_events),
            paces: or(&self.advert, all_paces),
            runs: self.runs,
            cpu: Duration::from_secs(20) / part,
            busy: Duration::from_secs(60) / part,
        }
    }
}

/// What was asked for, or all.
fn or<T: Clone>(wanted: &[T], all: Vec<T>) -> Vec<T> {
    if wanted.is_empty() {
        all
    } else {
        wanted.to_vec()
    }
}

fn pace(text: &str) -> std::result::Result<Pace, String> {
    let wanted = text.parse::<u32>().ok();
    let found = Pace::ALL
        .into_iter()
        .find(|pace| Some(pace.advert_ms) == wanted);
    found.ok_or_else(|| {
        let known = Pace::ALL.map(|pace| pace.advert_ms.to_string());
        format!("is none of {}", known.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(arguments: &[&str]) -> Schedule {
        let name = ["steerd-failover"];
        let all = name.iter().chain(arguments);
        Arguments::try_parse_from(all).unwrap().schedule()
    }

    #[test]
    fn without_arguments_all_is_measured() {
        let all = schedule(&[]);
        assert_eq!((all.events.len(), all.paces.len(), all.runs), (10, 3, 7));
        assert_eq!((all.cpu.as_secs(), all.busy.as_secs()), (20, 60));
    }

    #[test]
    fn one_row_can_be_asked_for() {
        let one = schedule(&["--event", "daemon_killed", "--advert", "100", "--runs", "1"]);
        assert_eq!(one.events, [Event::DaemonKilled]);
        assert_eq!((one.paces.len(), one.runs), (1, 1));
        assert!(Arguments::try_parse_from(["x", "--advert", "7"]).is_err());
    }

    #[test]
    fn quick_is_less_of_everything_but_what_was_asked_for() {
        let quick = schedule(&["--quick"]);
        assert_eq!(
            (quick.paces.len(), quick.runs, quick.busy.as_secs()),
            (2, 3, 12)
        );
        let quick = schedule(&["--quick", "--runs", "5", "--advert", "1000"]);
        assert_eq!((quick.paces[0].advert_ms, quick.runs), (1000, 5));
    }
}
