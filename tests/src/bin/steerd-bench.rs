//! `steerd-bench`: the benchmarks as a command.

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use steerd_tests::bench::{self, Options, error::Result, machine, report, rows};

/// What steerd costs.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench", bin_name = "cargo xtask bench")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure nanoseconds a packet of the kernel program, on one CPU and no interface.
    ///
    /// Each row is a kind of packet, sent to the program by BPF_PROG_TEST_RUN; a wrapper restores the
    /// packet before each run. Figures are net: the time of the same wrapper around a program that does
    /// nothing, run in turns with the program, is taken off. `limit` is a program that does only the
    /// unavoidable part of the row's work. A row whose packets are not all treated as it says has no
    /// figure, and the command fails.
    Dataplane(Dataplane),
}

#[derive(Debug, clap::Args)]
struct Dataplane {
    /// Print one JSON object a row on stdout; what goes on is told on stderr.
    #[arg(long)]
    json: bool,
    /// Measure only this row; may be given several times.
    #[arg(long = "row", value_name = "NAME")]
    rows: Vec<String>,
    /// Print the rows' names, and measure nothing.
    #[arg(long)]
    list: bool,
    /// How many rounds a row has; each runs its three programs once.
    #[arg(long, value_name = "NUMBER", default_value_t = 15,
          value_parser = clap::value_parser!(u32).range(11..=1001))]
    rounds: u32,
    /// The CPU to run on; without it: the last one that this process may use.
    #[arg(long, value_name = "NUMBER")]
    cpu: Option<usize>,
    /// The kernel program to measure.
    #[arg(long, value_name = "FILE", default_value = "target/ebpf/steerd.o")]
    object: PathBuf,
    /// The wrapper and the reference programs.
    #[arg(long, value_name = "FILE", default_value = "target/ebpf/bench.o")]
    bench_object: PathBuf,
}

fn main() -> ExitCode {
    let Command::Dataplane(arguments) = Arguments::parse().command;
    match dataplane(arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("steerd-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn dataplane(arguments: Dataplane) -> Result<ExitCode> {
    if arguments.list {
        for row in rows::all() {
            println!("{}", row.name);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let cpu = machine::settle(arguments.cpu)?;
    let machine = machine::describe();
    let rounds = arguments.rounds;
    let options = Options {
        object: arguments.object,
        bench_object: arguments.bench_object,
        rounds,
        rows: arguments.rows,
    };
    let report = bench::run(&options, |row, figures| match figures {
        None => eprintln!("steerd-bench: {}", row.name),
        Some(Ok(figures)) if arguments.json => println!("{}", report::json(row, figures)),
        Some(_) => {}
    })?;
    if !arguments.json {
        println!("{machine}, CPU {cpu}; nanoseconds a packet, net, over {rounds} rounds");
        println!("{}", report.table());
        println!("{}", report.program_table());
    }
    for fault in &report.faults {
        eprintln!("steerd-bench: {fault}");
    }
    Ok(if report.faults.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
