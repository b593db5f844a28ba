//! An account of the packets that were not taken for a peer's advert.

use std::{
    fmt,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use steerd_core::config::Name;

/// Why a packet was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DropCause {
    /// The IP packet is cut short or contradicts itself.
    Malformed,
    /// It was forwarded: TTL or hop limit is below what is accepted (RFC 9568 section 5.1.1.3).
    HopLimit,
    /// It is our own, back from a loop in the network, or somebody uses our address.
    OwnAddress,
    /// Another VRRP group of the segment; nothing is wrong.
    OtherRouter,
    /// A unicast advert, but not from a configured peer.
    NotAPeer,
    /// Multicast for a unicast virtual router, or the reverse.
    WrongDestination,
    /// The VRRP message is cut short.
    Truncated,
    /// It is of another version.
    Version,
    /// It is no advert.
    Type,
    /// The count of addresses is not what the length says.
    AddressCount,
    /// It is damaged.
    Checksum,
    /// The interval is 0, or in VRRPv2 not ours.
    Interval,
    /// It has another authentication.
    AuthenticationType,
    /// Wrong password, or wrong check value.
    Password,
    /// The authentication header is not one of VRRP, or is missing.
    MalformedAh,
    /// The sequence number of its authentication header was heard before.
    Replayed,
    /// The daemon did not keep up.
    Busy,
    /// The kernel reported an error instead of a packet.
    ReadFailed,
}

impl DropCause {
    /// All of them.
    pub(crate) const ALL: [Self; 18] = [
        Self::Malformed,
        Self::HopLimit,
        Self::OwnAddress,
        Self::OtherRouter,
        Self::NotAPeer,
        Self::WrongDestination,
        Self::Truncated,
        Self::Version,
        Self::Type,
        Self::AddressCount,
        Self::Checksum,
        Self::Interval,
        Self::AuthenticationType,
        Self::Password,
        Self::MalformedAh,
        Self::Replayed,
        Self::Busy,
        Self::ReadFailed,
    ];
}

impl fmt::Display for DropCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Malformed => "malformed packet",
            Self::HopLimit => "TTL or hop limit below 255, or below `min_ttl`: it was forwarded",
            Self::OwnAddress => "it has our own source address: a loop, or a duplicate address",
            Self::OtherRouter => "another virtual router's",
            Self::NotAPeer => "its source is not among the configured `peers`",
            Self::WrongDestination => "unicast and multicast are mixed up: `peers` differ",
            Self::Truncated => "truncated advert",
            Self::Version => "another VRRP version: `version` differs",
            Self::Type => "no advert",
            Self::AddressCount => "count of addresses and length differ",
            Self::Checksum => "wrong checksum",
            Self::Interval => "wrong interval: `advert_interval` differs",
            Self::AuthenticationType => "another authentication: `authentication` differs",
            Self::Password => "wrong password or check value: `password` differs",
            Self::MalformedAh => "malformed authentication header",
            Self::Replayed => "replayed sequence number",
            Self::Busy => "the daemon is busy",
            Self::ReadFailed => "cannot read from the socket",
        })
    }
}

/// Counters of drops, and the log of them, held down to a line a minute for each cause.
#[derive(Default)]
pub(super) struct Drops {
    counters: [AtomicU64; DropCause::ALL.len()],
    logged: Mutex<[Option<(Instant, u64)>; DropCause::ALL.len()]>,
}

impl Drops {
    const LOG_INTERVAL: Duration = Duration::from_secs(60);

    pub(super) fn count(&self, cause: DropCause, interface: &Name, detail: &dyn fmt::Display) {
        if let Some(dropped) = self.note(cause, Instant::now()) {
            tracing::warn!(%interface, %cause, %detail, dropped, "dropped VRRP packets");
        }
    }

    pub(super) fn counts(&self) -> [(DropCause, u64); DropCause::ALL.len()] {
        DropCause::ALL.map(|cause| (cause, self.counters[cause as usize].load(Ordering::Relaxed)))
    }

    /// Counts, and says of how many the log is to tell, if it is.
    fn note(&self, cause: DropCause, now: Instant) -> Option<u64> {
        let count = self.counters[cause as usize].fetch_add(1, Ordering::Relaxed) + 1;
        if cause == DropCause::OtherRouter {
            return None;
        }
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        let last = &mut logged[cause as usize];
        let due = last.is_none_or(|(at, _)| now.duration_since(at) >= Self::LOG_INTERVAL);
        due.then(|| {
            let before = last.map_or(0, |(_, count)| count);
            *last = Some((now, count));
            count - before
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_causes_fits_their_counters() {
        for (at, cause) in DropCause::ALL.into_iter().enumerate() {
            assert_eq!(cause as usize, at);
        }
        let drops = Drops::default();
        drops.count(DropCause::Busy, &Name::new("eth0"), &"");
        drops.count(DropCause::Busy, &Name::new("eth0"), &"");
        assert_eq!(
            drops.counts()[DropCause::Busy as usize],
            (DropCause::Busy, 2)
        );
        assert_eq!(
            drops.counts().iter().map(|(_, count)| count).sum::<u64>(),
            2
        );
    }

    #[test]
    fn a_cause_is_logged_once_a_minute_and_another_one_for_itself() {
        let drops = Drops::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(drops.note(DropCause::Checksum, at(0)), Some(1));
        for second in 1..60 {
            assert_eq!(drops.note(DropCause::Checksum, at(second)), None);
        }
        assert_eq!(drops.note(DropCause::Password, at(59)), Some(1));
        assert_eq!(drops.note(DropCause::Checksum, at(60)), Some(60));
        assert_eq!(drops.note(DropCause::Checksum, at(61)), None);
        assert_eq!(drops.note(DropCause::OtherRouter, at(61)), None);
    }

    #[test]
    fn no_two_causes_are_told_alike() {
        let mut words: Vec<String> = DropCause::ALL.iter().map(ToString::to_string).collect();
        words.sort();
        words.dedup();
        assert_eq!(words.len(), DropCause::ALL.len());
    }
}
