//! `steerctl`: operates and inspects steerd.
//!
//! * [`source`] finds the answers: from the daemon through [`client`], or of the maps from
//!   [`pins`] through [`bpf`];
//! * [`pki`] makes keys and certificates for the channel between nodes;
//! * [`render`] and [`mod@check`] make text of them with [`table`];
//! * here are the command line and what each command does with the two.
//!
//! Answers go to stdout, as tables or as JSON; all else goes to stderr. The exit code tells a
//! script what happened, see [`error`].

mod bpf;
mod check;
mod client;
mod error;
mod import;
mod pins;
mod pki;
mod render;
mod source;
mod table;

use std::{
    fs,
    io::{self, BufWriter, IsTerminal, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};

use clap::{Parser, Subcommand, ValueEnum};
use serde::Serialize;
use steerd_core::{
    api::{BackendStatus, Done, FailoverRequest, FlowsQuery, Reloaded, ServiceStatus},
    config::Name,
};

use crate::{client::Target, error::Error, render::DumpTable, source::Source, table::Look};

/// Operates and inspects steerd.
///
/// Exit codes: 0 done, 1 refused or failed, 2 bad usage or bad configuration, 3 steerd was not
/// reached.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// The form of the output.
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORM"
    )]
    output: Output,

    /// The daemon's control socket.
    #[arg(
        long,
        global = true,
        env = "STEERD_SOCKET",
        value_name = "PATH",
        default_value = "/run/steerd/control.sock"
    )]
    socket: PathBuf,

    /// The directory of the pinned maps, read where the daemon is down.
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        default_value = "/sys/fs/bpf/steerd"
    )]
    bpf_dir: PathBuf,

    #[command(subcommand)]
    command: Command,
}

/// The form of the output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    #[default]
    Table,
    /// For scripts.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows the whole node at one look: roles, peers, services, backends, what happened last.
    Status,
    /// Lists the services with their counters.
    Services,
    /// Lists the backends with their health and counters.
    Backends,
    /// Looks into the kernel's maps, also while the daemon is down (as root).
    #[command(subcommand)]
    Maps(MapsCommand),
    /// Lists client connections, also while the daemon is down (as root, by numbers for names).
    Flows {
        /// Only this service's.
        #[arg(long, value_name = "NAME")]
        service: Option<String>,
        /// Only this backend's.
        #[arg(long, value_name = "NAME")]
        backend: Option<String>,
        /// How many at most.
        #[arg(
            long,
            value_name = "COUNT",
            default_value_t = FlowsQuery::DEFAULT_LIMIT,
            value_parser = clap::value_parser!(u32).range(0..=i64::from(FlowsQuery::MAX_LIMIT))
        )]
        limit: u32,
    },
    /// Checks a configuration and tells all of its mistakes; needs no daemon.
    Check {
        /// The configuration.
        file: PathBuf,
    },
    /// Makes a steerd.toml of another program's configuration; needs no daemon.
    ///
    /// Every line without counterpart stays as a comment, with its place and what to do instead. Exit
    /// codes: 0 done, 1 a file could not be read or written, 2 not a configuration of that program.
    #[command(subcommand)]
    Import(ImportCommand),
    /// Has the daemon read its configuration again and work by it.
    Reload {
        /// Only show what would change.
        #[arg(long)]
        dry_run: bool,
    },
    /// Gives the addresses of a virtual router to a peer now.
    Failover {
        /// Which; without it all that this node is master of.
        virtual_router: Option<String>,
    },
    /// Makes keys and certificates for the channel between nodes; needs no daemon and no network.
    #[command(subcommand)]
    Pki(PkiCommand),
}

#[derive(Debug, Subcommand)]
enum PkiCommand {
    /// Makes an authority: ca.pem and ca.key.
    Init {
        /// Where.
        #[arg(long, value_name = "PATH", default_value = pki::DIRECTORY)]
        dir: PathBuf,
    },
    /// Makes a node's key and certificate, and tells what to copy where and what to configure.
    Issue {
        /// The node's name, as `name` under `[node]`.
        node: String,
        /// An address of the node, for what is told and for the certificate; more than one with more
        /// than one `--address`.
        #[arg(long, value_name = "ADDRESS")]
        address: Vec<std::net::IpAddr>,
        /// How many days it is to be valid.
        #[arg(long, default_value_t = 730, value_parser = clap::value_parser!(u32).range(1..=3650))]
        days: u32,
        /// Where the authority is and where the files go.
        #[arg(long, value_name = "PATH", default_value = pki::DIRECTORY)]
        dir: PathBuf,
    },
    /// Lists the certificates with their names, and when each expires.
    Show {
        /// Where they are.
        #[arg(long, value_name = "PATH", default_value = pki::DIRECTORY)]
        dir: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
enum ImportCommand {
    /// Makes it of a keepalived.conf, with all it includes.
    Keepalived(import::Keepalived),
}

#[derive(Debug, Subcommand)]
enum MapsCommand {
    /// Lists the maps.
    List,
    /// Shows the entries in use of one map, decoded.
    Dump {
        /// The map's name, see `maps list`.
        name: String,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args = Args::parse();
    let mut out = BufWriter::new(io::stdout().lock());
    let done = run(&args, &mut out).await.and_then(|()| Ok(out.flush()?));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // The reader has seen enough: `steerctl flows | head`.
        Err(Error::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            // What was printed before it failed stands before why.
            let _ = out.flush();
            if let Some(message) = error.message() {
                eprintln!("error: {message}");
            }
            ExitCode::from(error.exit_code())
        }
    }
}

async fn run(args: &Args, out: &mut impl Write) -> Result<(), Error> {
    let look = look();
    let mut source = Source::new(&args.socket, &args.bpf_dir);
    match &args.command {
        Command::Status => {
            let status = source.status().await?;
            show(out, args.output, &status, || {
                render::status(look, &status, now_unix_ms())
            })?;
        }
        Command::Services => {
            let services = source.status().await?.services;
            show(out, args.output, &services, || {
                render::services(look, &services)
            })?;
        }
        Command::Backends => {
            let services = source.status().await?.services;
            let rows = backend_rows(&services);
            show(out, args.output, &rows, || {
                render::backends(look, &services)
            })?;
        }
        Command::Maps(MapsCommand::List) => {
            let maps = source.maps().await?;
            show(out, args.output, &maps, || render::maps(look, &maps))?;
        }
        Command::Maps(MapsCommand::Dump { name }) => {
            dump(&mut source, name, look, args.output, out).await?;
        }
        Command::Flows {
            service,
            backend,
            limit,
        } => {
            let (service, backend, limit) = (service.clone(), backend.clone(), Some(*limit));
            let flows = source
                .flows(&FlowsQuery {
                    service,
                    backend,
                    limit,
                })
                .await?;
            show(out, args.output, &flows, || render::flows(look, &flows))?;
        }
        Command::Check { file } => check(file, look, args.output, out)?,
        Command::Import(ImportCommand::Keepalived(from)) => {
            import_keepalived(from, args.output, out)?;
        }
        Command::Reload { dry_run } => {
            let target = Target::new(&["v1", "reload"]).with("dry_run", Some(dry_run));
            let reloaded: Reloaded = source.client().post(&target, &()).await?;
            show(out, args.output, &reloaded, || {
                render::reloaded(&reloaded, *dry_run)
            })?;
        }
        Command::Failover { virtual_router } => {
            let virtual_router = virtual_router.as_deref().map(Name::new);
            let target = Target::new(&["v1", "failover"]);
            let order = FailoverRequest { virtual_router };
            let done: Done = source.client().post(&target, &order).await?;
            show(out, args.output, &done, || render::done(&done))?;
        }
        Command::Pki(PkiCommand::Init { dir }) => {
            let made = pki::init(dir)?;
            show(out, args.output, &made, || made.to_string())?;
        }
        Command::Pki(PkiCommand::Issue {
            node,
            address,
            days,
            dir,
        }) => {
            let made = pki::issue(dir, node, address, *days)?;
            show(out, args.output, &made, || made.to_string())?;
        }
        Command::Pki(PkiCommand::Show { dir }) => {
            let found = pki::certificates(dir)?;
            show(out, args.output, &found, || pki::render(look, &found))?;
        }
    }
    if let Some(note) = source.note() {
        out.flush()?;
        eprintln!("note: {note}");
    }
    Ok(())
}

/// An answer in one piece.
fn show(
    out: &mut impl Write,
    output: Output,
    answer: &impl Serialize,
    table: impl FnOnce() -> String,
) -> Result<(), Error> {
    match output {
        Output::Table => out.write_all(table().as_bytes())?,
        Output::Json => {
            serde_json::to_writer_pretty(&mut *out, answer).map_err(io::Error::from)?;
            out.write_all(b"\n")?;
        }
    }
    Ok(())
}

/// A map part by part, as it may be large: also the JSON is written as it comes, one entry a line.
async fn dump(
    source: &mut Source,
    name: &str,
    look: Look,
    output: Output,
    out: &mut impl Write,
) -> Result<(), Error> {
    let mut table = DumpTable::new(look);
    let mut part = source.dump(name, 0).await?;
    if output == Output::Json {
        let name = serde_json::to_string(&part.name).map_err(io::Error::from)?;
        write!(out, "{{\"name\":{name},\"entries\":[")?;
    }
    let mut separator = "\n";
    loop {
        match output {
            Output::Table => out.write_all(table.part(&part).as_bytes())?,
            Output::Json => {
                for entry in &part.entries {
                    out.write_all(separator.as_bytes())?;
                    serde_json::to_writer(&mut *out, entry).map_err(io::Error::from)?;
                    separator = ",\n";
                }
            }
        }
        match part.next {
            Some(next) => part = source.dump(name, next).await?,
            None => break,
        }
    }
    match output {
        Output::Table => out.write_all(table.end(name).as_bytes())?,
        Output::Json => out.write_all(b"\n]}\n")?,
    }
    Ok(())
}

fn check(file: &Path, look: Look, output: Output, out: &mut impl Write) -> Result<(), Error> {
    let text = fs::read_to_string(file).map_err(|source| Error::Read {
        path: file.to_owned(),
        source,
    })?;
    match check::check(&file.display().to_string(), &text) {
        Ok(summary) => show(out, output, &summary, || check::render(look, &summary)),
        Err(errors) => {
            if output == Output::Json {
                show(out, output, &check::mistakes(&errors), String::new)?;
            } else {
                eprintln!("{errors}");
            }
            Err(Error::Mistakes)
        }
    }
}

/// The text goes to a file or to stdout, what became of the lines to stderr.
fn import_keepalived(
    from: &import::Keepalived,
    output: Output,
    out: &mut impl Write,
) -> Result<(), Error> {
    let imported = import::keepalived(from, &check::hostname())?;
    if from.out.is_none() {
        out.write_all(imported.text.as_bytes())?;
        out.flush()?;
    }
    match output {
        Output::Table => eprintln!("{}", imported.sum),
        Output::Json => {
            let sum = serde_json::to_string(&imported.sum).map_err(io::Error::from)?;
            eprintln!("{sum}");
        }
    }
    Ok(())
}

/// A backend with the name of its service, for scripts.
#[derive(Debug, Serialize)]
struct BackendRow<'a> {
    service: &'a Name,
    #[serde(flatten)]
    backend: &'a BackendStatus,
}

fn backend_rows(services: &[ServiceStatus]) -> Vec<BackendRow<'_>> {
    let row = |service, backend| BackendRow { service, backend };
    let rows = services
        .iter()
        .map(|service| service.backends.iter().map(|b| row(&service.name, b)));
    rows.flatten().collect()
}

/// Colour and width of the terminal, if the output goes to one.
fn look() -> Look {
    if !io::stdout().is_terminal() {
        return Look::default();
    }
    // https://no-color.org: set and not empty.
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    Look {
        color: !no_color,
        width: comfy_table::Table::new().width(),
    }
}

fn now_unix_ms() -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Args::command().debug_assert();
        let args = Args::parse_from(["steerctl", "flows", "--limit", "7", "-o", "json"]);
        assert_eq!(args.output, Output::Json);
        assert!(matches!(args.command, Command::Flows { limit: 7, .. }));
        let error = Args::try_parse_from(["steerctl", "flows", "--limit", "10001"]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
    }
}
