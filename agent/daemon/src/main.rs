//! `steerd`: keeps virtual IPs answering while servers, nodes and links die.
//!
//! This file is the wiring: arguments, configuration, log, threads. [`driver`] has the one loop
//! that feeds the core and carries out what it decides; [`io`] everything that touches the world.

mod driver;
mod io;

use std::{
    fs,
    io::IsTerminal as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Parser;
use steerd_core::config::{Config, LogFormat};
use tracing_subscriber::EnvFilter;

use crate::driver::Driver;

/// Keeps virtual IPs answering: steers their traffic to healthy backends in the kernel, and moves
/// them between nodes when one dies.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "\
Signals: SIGTERM and SIGINT hand all virtual addresses over and stop; SIGHUP reads the
configuration again. The kernel program keeps steering while no daemon runs.

Exit status: 0 stopped in order, 1 failed, 2 a mistake in the configuration or the arguments."
)]
struct Args {
    /// The configuration.
    #[arg(
        short,
        long,
        value_name = "FILE",
        default_value = "/etc/steerd/steerd.toml"
    )]
    config: PathBuf,

    /// Check the configuration and stop.
    #[arg(long)]
    check: bool,

    /// Take the kernel program and the virtual addresses off this host, forget all flows and stop.
    /// For when steerd is not wanted any more.
    #[arg(long, conflicts_with = "check")]
    unload: bool,
}

fn main() -> ExitCode {
    if let Some(code) = io::track::exec::become_script() {
        return code;
    }
    let args = Args::parse();
    let config = match read_config(&args.config) {
        Ok(config) => config,
        Err(message) => {
            eprintln!("{message}");
            return ExitCode::from(2);
        }
    };
    if args.check {
        println!("{}: no mistakes", args.config.display());
        return ExitCode::SUCCESS;
    }
    if let Err(message) = start_log(&config) {
        eprintln!("steerd: {message}");
        return ExitCode::from(2);
    }
    let outcome = if args.unload {
        unload(&config)
    } else {
        run(config, &args.config)
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{}", with_causes(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

/// An error and what caused it, where its own text does not tell already.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let told = error.to_string();
        if !text.contains(&told) {
            text = format!("{text}: {told}");
        }
        cause = error.source();
    }
    text
}

/// Reads and checks the configuration; every mistake in words otherwise.
fn read_config(path: &Path) -> Result<Config, String> {
    let text = fs::read_to_string(path)
        .map_err(|error| format!("steerd: cannot read {}: {error}", path.display()))?;
    Config::parse(&path.display().to_string(), &text, &hostname())
        .map_err(|errors| errors.to_string())
}

fn hostname() -> String {
    nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .unwrap_or_else(|| "localhost".to_owned())
}

fn start_log(config: &Config) -> Result<(), String> {
    let filter = EnvFilter::try_new(&config.log.level).map_err(|error| {
        format!("`level` under [log]: {error}; write for example \"info\" or \"steerd=debug\"")
    })?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match config.log.format {
        LogFormat::Text => log.with_target(false).init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    Ok(())
}

/// Leaves the host as if steerd had never run, but for the kernel's ARP settings.
fn unload(config: &Config) -> Result<(), Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let _entered = runtime.enter();
    // Not under a running daemon: it would go on as if nothing had happened.
    let _alone = io::control::bind(&config.control)?;
    if io::dataplane::unload(&config.dataplane)? {
        tracing::info!("the program is off all interfaces and its maps are removed");
    } else {
        tracing::info!("there was no program to remove");
    }
    runtime.block_on(async {
        // Nobody listens to what it reports.
        let (events, _) = tokio::sync::mpsc::channel(1);
        let netlink = io::netlink::Netlink::start(config, events).await?;
        for router in &config.virtual_routers {
            netlink.release(router).await?;
        }
        for service in &config.services {
            netlink.unprepare(service.address).await?;
        }
        // And what a daemon of another configuration left, that was killed.
        let state = io::state::StateFile::open(&config.node.state_dir)?;
        // Nothing is translated by then, wherever.
        let translating = std::collections::BTreeSet::new();
        for (interface, net) in state.left_behind(config, &translating) {
            netlink.remove(&interface, net).await?;
        }
        for &vip in state.served() {
            netlink.unprepare(vip).await?;
        }
        tracing::info!("the virtual addresses are off this host");
        Ok(())
    })
}

/// Runs until told to stop.
///
/// Two runtimes: this thread has the driver, soon with real-time priority and nothing that takes long;
/// probes and the control socket have a thread of their own.
fn run(config: Config, path: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let workers = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("steerd-worker")
        .enable_all()
        .build()?;
    let driver = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let outcome = driver.block_on(async {
        Driver::start(config, path.to_owned(), workers.handle().clone())
            .await?
            .run()
            .await
    });
    workers.shutdown_background();
    outcome.map_err(Into::into)
}
