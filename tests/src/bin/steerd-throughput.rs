//! `steerd-throughput`: [`steerd_tests::throughput`] as a command.

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use steerd_tests::{
    bench::machine,
    error::Result,
    node::Binaries,
    throughput::{self, measure::Schedule},
};

/// Measure what steerd carries in each mode, beside a client and a server without a balancer, nftables
/// and HAProxy.
///
/// Every contender has a network of its own, made of network namespaces; they are measured in turns.
/// Rows are `CONTENDER_KIND`, each the median of the rounds: `iperf3_1` and `iperf3_4` over one
/// and four connections, `http_keep_alive` and `http_connect` with wrk, and `cpu_per_connection`, the
/// time that all CPUs spent on a connection with one request, beyond what the direct way takes.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask bench throughput",
    bin_name = "cargo xtask bench throughput"
)]
struct Arguments {
    /// Print one JSON object a row on stdout; what goes on is told on stderr.
    #[arg(long)]
    json: bool,
    /// How long each measurement is.
    #[arg(long, value_name = "NUMBER", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=60))]
    seconds: u32,
    /// How often each is made.
    #[arg(long, value_name = "NUMBER", default_value_t = 3,
          value_parser = clap::value_parser!(u32).range(1..=99))]
    rounds: u32,
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
            eprintln!("steerd-throughput: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<ExitCode> {
    let binaries = Binaries::with(arguments.steerd, arguments.steerctl)?;
    let schedule = Schedule {
        seconds: arguments.seconds,
        rounds: arguments.rounds,
    };
    let report = throughput::run(schedule, &binaries, |what| {
        eprintln!("steerd-throughput: {what}");
    })?;
    if arguments.json {
        for row in report.rows() {
            // Four plain fields: there is nothing in them that could fail.
            println!("{}", serde_json::to_string(&row).unwrap_or_default());
        }
    } else {
        let Schedule { seconds, rounds } = schedule;
        println!(
            "{}; medians of {rounds} times {seconds} s, in brackets the ratio to direct",
            machine::describe()
        );
        println!("{}", report.table());
    }
    for fault in report.faults() {
        eprintln!("steerd-throughput: {fault}");
    }
    Ok(if report.faults().is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
