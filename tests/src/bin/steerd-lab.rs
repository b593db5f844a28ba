//! `steerd-lab`: the lab as a command.

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use clap::{Parser, Subcommand, ValueEnum};
use steerd_tests::{
    config::Settings, demo, dir, error::Result, node::Binaries, timeline::Timeline,
};

/// Two nodes, a client and a switch on this machine, in which steerd's failover runs for real.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Kill a server and a node under load, bring both back, and show what it took.
    Demo(Demo),
    /// Remove what labs that were killed half-way left in the temporary directory.
    Clean,
}

#[derive(Debug, clap::Args)]
struct Demo {
    /// The steerd to use; without it: the one next to this program.
    #[arg(long, value_name = "PATH")]
    steerd: Option<PathBuf>,
    /// The steerctl to use; without it: the one next to this program.
    #[arg(long, value_name = "PATH")]
    steerctl: Option<PathBuf>,
    /// How many players.
    #[arg(long, value_name = "NUMBER", default_value_t = 200,
          value_parser = clap::value_parser!(u16).range(1..=10_000))]
    players: u16,
    /// Print one JSON object a scenario on stdout; the timeline goes to stderr.
    #[arg(long)]
    json: bool,
    /// The example configuration to run on.
    #[arg(long, value_enum, default_value_t = Which::Both)]
    settings: Which,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Which {
    /// config/steerd.toml.
    Seed,
    /// config/examples/fast.toml.
    Fast,
    /// One after the other.
    Both,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Demo(arguments) => run_demo(&arguments),
        Command::Clean => clean(),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("steerd-lab: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run_demo(arguments: &Demo) -> Result<ExitCode> {
    let binaries = Binaries::with(arguments.steerd.clone(), arguments.steerctl.clone())?;
    let settings: &[Settings] = match arguments.settings {
        Which::Seed => &[Settings::Seed],
        Which::Fast => &[Settings::Fast],
        Which::Both => &[Settings::Seed, Settings::Fast],
    };
    let timeline = if arguments.json {
        Timeline::stderr()
    } else {
        Timeline::stdout()
    };
    let timeline = Arc::new(timeline);
    let players = arguments.players.into();
    let outcome = demo::run(&binaries, &timeline, settings, players, |_, report| {
        if arguments.json {
            // Five plain fields: there is nothing in them that could fail.
            println!("{}", serde_json::to_string(report).unwrap_or_default());
        }
    })?;
    timeline.heading(&demo::table(&outcome.reports).to_string());
    for fault in &outcome.faults {
        eprintln!("steerd-lab: {fault}");
    }
    Ok(if outcome.faults.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn clean() -> Result<ExitCode> {
    for path in dir::sweep()? {
        println!("removed {}", path.display());
    }
    Ok(ExitCode::SUCCESS)
}
