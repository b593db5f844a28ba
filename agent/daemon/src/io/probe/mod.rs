//! Checks of a backend's health: one connection each, made, used and closed within the probe's timeout.
//!
//! * [`run`] is the whole of it for the driver.
//! * [`tcp`] connects and tells the kernel's errors apart; [`tls`] wraps the connection; [`http`] and
//!   [`websocket`] speak on it.
//!
//! A backend is not trusted: whatever it answers, a check ends in time and reads a bounded amount.

mod http;
mod tcp;
#[cfg(test)]
mod tests;
mod tls;
mod websocket;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use steerd_core::{
    config::{Probe, ProbeKind, TlsCheck},
    event::ProbeFailure,
};
use tokio::io::{AsyncRead, AsyncWrite};

/// Checks `address`, on the probe's own port or else `port`: how it ended and how long it took. Ends
/// within the probe's timeout, and may be dropped at any time.
pub(crate) async fn run(
    probe: &Probe,
    address: IpAddr,
    port: u16,
) -> (Result<(), ProbeFailure>, Duration) {
    let target = SocketAddr::new(address, probe.port.unwrap_or(port));
    let start = Instant::now();
    let outcome = match tokio::time::timeout(probe.timeout, check(&probe.kind, target)).await {
        // The kernel's own timeouts say no more than ours.
        Err(_) | Ok(Err(ProbeFailure::Timeout(_))) => Err(ProbeFailure::Timeout(probe.timeout)),
        Ok(outcome) => outcome,
    };
    (outcome, start.elapsed())
}

async fn check(kind: &ProbeKind, target: SocketAddr) -> Result<(), ProbeFailure> {
    match kind {
        ProbeKind::Tcp => tcp::check(target).await,
        ProbeKind::Http(probe) => {
            let stream = connect(target, probe.tls.as_ref()).await?;
            http::check(probe, target, stream).await
        }
        ProbeKind::WebSocket(probe) => {
            let stream = connect(target, probe.tls.as_ref()).await?;
            websocket::check(probe, target, stream).await
        }
    }
}

/// A connection, with or without TLS.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

async fn connect(
    target: SocketAddr,
    tls: Option<&TlsCheck>,
) -> Result<Box<dyn Stream>, ProbeFailure> {
    let stream = tcp::connect(target).await?;
    match tls {
        None => Ok(Box::new(stream)),
        Some(check) => Ok(Box::new(tls::handshake(check, target.ip(), stream).await?)),
    }
}

/// What the Host header says where the configuration does not.
fn host(configured: Option<&String>, target: SocketAddr) -> String {
    configured.cloned().unwrap_or_else(|| target.to_string())
}

/// Tells an error of the connection apart.
fn failure(error: &io::Error) -> ProbeFailure {
    use io::ErrorKind;
    match error.kind() {
        ErrorKind::ConnectionRefused => ProbeFailure::Refused,
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => ProbeFailure::Unreachable,
        ErrorKind::ConnectionReset
        | ErrorKind::ConnectionAborted
        | ErrorKind::BrokenPipe
        | ErrorKind::NotConnected
        | ErrorKind::UnexpectedEof => ProbeFailure::Reset,
        ErrorKind::TimedOut => ProbeFailure::Timeout(Duration::ZERO),
        ErrorKind::InvalidData => ProbeFailure::Protocol(error.to_string()),
        // Out of ports or descriptors, forbidden by a firewall: nothing that the backend did.
        _ => ProbeFailure::Local(error.to_string()),
    }
}

/// The I/O error at the root of `error`, if there is one.
fn io_cause<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a io::Error> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref() {
            return Some(error);
        }
        cause = error.source();
    }
    None
}
