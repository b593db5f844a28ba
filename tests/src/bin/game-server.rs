//! The lab's game server; see [`steerd_tests::game`].

use std::{net::SocketAddr, process::ExitCode};

use clap::Parser;

/// A WebSocket game server for steerd's lab, with `GET /health` and a UDP echo.
#[derive(Debug, Parser)]
struct Arguments {
    /// The name it gives in every answer.
    #[arg(long)]
    name: String,
    /// Where to listen for players; may be repeated.
    #[arg(long, value_name = "ADDR:PORT", required = true)]
    listen: Vec<SocketAddr>,
    /// Where to echo UDP datagrams; may be repeated.
    #[arg(long, value_name = "ADDR:PORT")]
    echo: Vec<SocketAddr>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match steerd_tests::game::serve(&arguments.name, &arguments.listen, &arguments.echo) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("game-server: {error}");
            ExitCode::FAILURE
        }
    }
}
