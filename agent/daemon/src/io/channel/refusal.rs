//! Connections that came to nothing: an account by cause, and a line a minute in the log for each.

use std::{
    fmt, io,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rustls::CertificateError;
use steerd_core::channel::codec::CodecError;
use tracing::warn;

const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Why a connection came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Too many others are at their handshake.
    Busy,
    /// The handshake was not done in time.
    Slow,
    /// Not TLS, or not TLS 1.3.
    NoTls,
    /// No certificate was shown.
    NoCertificate,
    /// The certificate is not of our authority.
    Untrusted,
    /// It has expired, or is not valid yet.
    Expired,
    /// It is not of the node that it should be of, or of none that is a peer.
    WrongName,
    /// The other side refused this node.
    Rejected,
    /// What was said is no message, or not in turn.
    BadMessage,
    /// It was cut.
    Cut,
    /// The peer does not take what it is told.
    Stuck,
}

impl Cause {
    const ALL: [Self; 11] = [
        Self::Busy,
        Self::Slow,
        Self::NoTls,
        Self::NoCertificate,
        Self::Untrusted,
        Self::Expired,
        Self::WrongName,
        Self::Rejected,
        Self::BadMessage,
        Self::Cut,
        Self::Stuck,
    ];
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Busy => "too many handshakes at a time",
            Self::Slow => "no handshake in time",
            Self::NoTls => "no TLS 1.3",
            Self::NoCertificate => "no certificate",
            Self::Untrusted => "certificate of another authority",
            Self::Expired => "certificate expired or not valid yet",
            Self::WrongName => "certificate of no peer",
            Self::Rejected => "refused by the other side",
            Self::BadMessage => "bad message",
            Self::Cut => "connection cut",
            Self::Stuck => "does not read",
        })
    }
}

/// Why a connection came to nothing, with what is known of it.
#[derive(Debug, thiserror::Error)]
#[error("{cause}: {detail}")]
pub(super) struct Refusal {
    pub(super) cause: Cause,
    pub(super) detail: String,
}

impl Refusal {
    pub(super) fn new(cause: Cause, detail: impl Into<String>) -> Self {
        Self {
            cause,
            detail: detail.into(),
        }
    }
}

impl From<CodecError> for Refusal {
    fn from(error: CodecError) -> Self {
        Self::new(Cause::BadMessage, error.to_string())
    }
}

/// Tells an error of the connection, or of TLS on it, apart.
impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref());
        let cause = tls.map_or(Cause::Cut, |error: &rustls::Error| match error {
            rustls::Error::InvalidCertificate(error) => match error {
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. } => Cause::Expired,
                _ => Cause::Untrusted,
            },
            rustls::Error::NoCertificatesPresented => Cause::NoCertificate,
            rustls::Error::AlertReceived(_) => Cause::Rejected,
            _ => Cause::NoTls,
        });
        Self::new(cause, error.to_string())
    }
}

/// The account.
#[derive(Default)]
pub(super) struct Refusals {
    counters: [AtomicU64; Cause::ALL.len()],
    logged: Mutex<[Option<Instant>; Cause::ALL.len()]>,
}

impl Refusals {
    /// Counts one, and logs it if its kind was not logged within the last minute. `who`: with whom.
    pub(super) fn count(&self, refusal: &Refusal, who: &dyn fmt::Display) {
        let Some(index) = Cause::ALL.iter().position(|cause| *cause == refusal.cause) else {
            return;
        };
        self.counters[index].fetch_add(1, Ordering::Relaxed);
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        if logged[index].is_none_or(|at| at.elapsed() >= LOG_INTERVAL) {
            logged[index] = Some(Instant::now());
            warn!("channel with {who}: {refusal}");
        }
    }

    /// How many there were, zero ones left out.
    pub(super) fn counts(&self) -> Vec<(Cause, u64)> {
        let counts = self
            .counters
            .iter()
            .map(|count| count.load(Ordering::Relaxed));
        let counts = Cause::ALL.into_iter().zip(counts);
        counts.filter(|(_, times)| *times != 0).collect()
    }
}
