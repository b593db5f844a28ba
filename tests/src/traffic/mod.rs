//! Real traffic through a [`crate::site::Site`], and what came of it: bulk TCP by `iperf3`, HTTP by `wrk`,
//! and [`datagrams`] of every kind. [`crate::players`] are the WebSockets.

pub mod datagrams;
pub mod held;

use std::{net::SocketAddr, time::Duration};

use serde::Deserialize;

use crate::{
    error::{Error, Result},
    netns::Namespace,
    process,
};

/// How iperf3 is run.
#[derive(Debug, Clone, Copy)]
pub struct Bulk {
    /// For how long.
    pub seconds: u32,
    /// Over how many connections.
    pub streams: u32,
    /// From the server to the client.
    pub reverse: bool,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Carried {
    /// Bytes that the receiver got.
    pub bytes: u64,
    /// The same in bits a second.
    pub bits_per_second: f64,
    /// Segments that were sent again.
    pub retransmits: u64,
}

/// Runs `iperf3` on a client.
///
/// # Errors
///
/// It cannot be executed, or its connections failed.
pub fn bulk(client: &Namespace, server: SocketAddr, bulk: Bulk) -> Result<Carried> {
    let Bulk {
        seconds,
        streams,
        reverse,
    } = bulk;
    let length = ["-t".into(), seconds.to_string()];
    let limit = Duration::from_secs(u64::from(seconds) + 10);
    iperf3(client, server, &length, streams, reverse, limit)
}

/// Has `iperf3` on a client send so many bytes, or have them sent to it, over one connection.
///
/// # Errors
///
/// It cannot be executed, its connection failed, or it took more than ten seconds.
pub fn volume(
    client: &Namespace,
    server: SocketAddr,
    bytes: u64,
    reverse: bool,
) -> Result<Carried> {
    // Small buffers: what is under way when the sender has written all of it, the receiver does not count.
    let length = ["-n".into(), bytes.to_string(), "-w".into(), "128K".into()];
    iperf3(client, server, &length, 1, reverse, Duration::from_secs(10))
}

fn iperf3(
    client: &Namespace,
    server: SocketAddr,
    length: &[String],
    streams: u32,
    reverse: bool,
    limit: Duration,
) -> Result<Carried> {
    let mut command = client.command("iperf3");
    command
        .args(["-J", "--connect-timeout", "3000", "-c"])
        .arg(server.ip().to_string())
        .args(["-p", &server.port().to_string()])
        .args(length)
        .args(["-P", &streams.to_string()]);
    if reverse {
        command.arg("-R");
    }
    let output = process::output(command, limit)?;
    let json = String::from_utf8_lossy(&output.stdout);
    carried(&json).ok_or_else(|| failed("iperf3", &json))
}

/// How `wrk` is run.
#[derive(Debug, Clone, Copy)]
pub struct Web {
    /// For how long.
    pub seconds: u32,
    /// Over how many connections at once.
    pub connections: u32,
    /// Each request on a connection of its own.
    pub close: bool,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Answered {
    /// Requests that were answered.
    pub requests: u64,
    /// The same a second.
    pub per_second: f64,
    /// Connections that failed or were silent for two seconds, and answers that were none of 2xx or
    /// 3xx.
    pub errors: u64,
}

/// Runs `wrk` on a client.
///
/// # Errors
///
/// It cannot be executed, or said something else than it uses to.
pub fn web(client: &Namespace, server: SocketAddr, path: &str, web: Web) -> Result<Answered> {
    let Web {
        seconds,
        connections,
        close,
    } = web;
    let mut command = client.command("wrk");
    command
        .args(["-t", "1", "-d", &seconds.to_string()])
        .args(["-c", &connections.to_string()]);
    if close {
        command.args(["-H", "Connection: close"]);
    }
    command.arg(format!("http://{server}{path}"));
    let limit = Duration::from_secs(u64::from(seconds) + 10);
    let output = process::output(command, limit)?;
    let text = String::from_utf8_lossy(&output.stdout);
    answered(&text).ok_or_else(|| failed("wrk", &(text + String::from_utf8_lossy(&output.stderr))))
}

/// What of `iperf3 -J` is of interest.
#[derive(Deserialize)]
struct Iperf {
    end: End,
}

#[derive(Deserialize)]
struct End {
    sum_sent: Sum,
    sum_received: Sum,
}

#[derive(Deserialize)]
struct Sum {
    bytes: u64,
    bits_per_second: f64,
    #[serde(default)]
    retransmits: u64,
}

fn carried(json: &str) -> Option<Carried> {
    let Iperf { end } = serde_json::from_str(json).ok()?;
    Some(Carried {
        bytes: end.sum_received.bytes,
        bits_per_second: end.sum_received.bits_per_second,
        retransmits: end.sum_sent.retransmits,
    })
}

fn answered(text: &str) -> Option<Answered> {
    let requests = text.lines().find(|line| line.contains(" requests in "))?;
    let requests = requests.split_whitespace().next()?.parse().ok()?;
    let figure = |name: &str| {
        let mut lines = text.lines();
        lines.find_map(|line| line.trim().strip_prefix(name).map(str::trim))
    };
    // "Socket errors: connect 0, read 3, write 0, timeout 1": only if there were some.
    let failed = figure("Socket errors:").unwrap_or_default();
    let failed = failed
        .split([' ', ','])
        .filter_map(|word| word.parse::<u64>().ok());
    let refused = figure("Non-2xx or 3xx responses:").and_then(|figure| figure.parse().ok());
    Some(Answered {
        requests,
        per_second: figure("Requests/sec:")?.parse().ok()?,
        errors: failed.sum::<u64>() + refused.unwrap_or(0),
    })
}

fn failed(program: &'static str, said: &str) -> Error {
    Error::Traffic {
        program,
        said: said.trim().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrk_is_understood() {
        let text = "Running 1s test @ http://[::1]:80/\n  1 threads and 2 connections\n  \
                    Thread Stats   Avg      Stdev     Max   +/- Stdev\n  1234 requests in 1.10s, 5MB read\n  \
                    Socket errors: connect 1, read 20, write 3, timeout 4\n  \
                    Non-2xx or 3xx responses: 5\nRequests/sec:   1121.5\nTransfer/sec:      1.1MB\n";
        let all = Answered {
            requests: 1234,
            per_second: 1121.5,
            errors: 33,
        };
        assert_eq!(answered(text), Some(all));
        assert_eq!(answered("unable to connect"), None);
    }

    #[test]
    fn iperf3_is_understood() {
        let json = r#"{"start": {}, "end": {"streams": [],
            "sum_sent": {"bytes": 11, "bits_per_second": 80.5, "retransmits": 7},
            "sum_received": {"bytes": 10, "bits_per_second": 80.0}}}"#;
        let all = Carried {
            bytes: 10,
            bits_per_second: 80.0,
            retransmits: 7,
        };
        assert_eq!(carried(json), Some(all));
        assert_eq!(carried(r#"{"error": "unable to connect"}"#), None);
    }
}
