//! What a virtual router remembers in each state.

use std::{fmt, net::IpAddr};

use crate::{config::Announce, time::Instant};

#[derive(Debug, Clone)]
pub(super) enum State {
    /// What was heard, since the links are up.
    Init(Option<Listen>),
    Backup(Backup),
    Master(Master),
    Fault(Fault),
    Stopped,
}

/// A backup that does not know yet whether it can serve.
#[derive(Debug, Clone)]
pub(super) struct Listen {
    pub(super) wait: Backup,
    /// The wait is over, and no master was heard up to half an interval ago.
    pub(super) over: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Backup {
    pub(super) down_at: Instant,
    pub(super) late_at: Option<Instant>,
    /// When the delay ends with which a lower master is preempted.
    pub(super) preempt_at: Option<Instant>,
    /// Whoever resigned last.
    pub(super) resigned: Option<IpAddr>,
    /// A late timer was forgiven since the last advert.
    pub(super) forgiven: bool,
    /// The next question for the addresses, and how many are left.
    pub(super) probe: Option<(Instant, u8)>,
}

#[derive(Debug, Clone)]
pub(super) struct Master {
    pub(super) advert_at: Instant,
    pub(super) sent: Instant,
    pub(super) round: Option<Round>,
    /// The next announcement of those that never end.
    pub(super) refresh_at: Option<Instant>,
    /// A peer announced the addresses: announce them again then, if still master.
    pub(super) reclaim_at: Option<Instant>,
    /// Since when a master of the same priority is heard, and last, without the first member.
    pub(super) tie: Option<(Instant, Instant)>,
    pub(super) resign: Option<Resign>,
}

/// A round of announcements.
#[derive(Debug, Clone)]
pub(super) struct Round {
    pub(super) at: Instant,
    pub(super) left: u8,
    /// Another one follows.
    pub(super) again: bool,
    /// The first of this one was sent.
    pub(super) begun: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Resign {
    pub(super) until: Instant,
    /// When to say it again.
    pub(super) again_at: Option<Instant>,
    pub(super) stop: bool,
    /// A successor was asked, and its answer is waited for until then. No priority 0 was sent.
    pub(super) asked: Option<Instant>,
}

impl Master {
    /// Whether priority 0 was sent.
    pub(super) fn has_resigned(&self) -> bool {
        self.resign
            .as_ref()
            .is_some_and(|resign| resign.asked.is_none())
    }
}

#[derive(Debug, Clone, Default)]
pub(super) struct Fault {
    /// While the fault is a conflict: when to ask again, and how many questions were in vain.
    pub(super) reprobe: Option<(Instant, u8)>,
}

#[derive(Debug, Clone)]
pub(super) struct Conflict {
    pub(super) address: IpAddr,
    pub(super) mac: [u8; 6],
    /// Asked again since, and not heard: whoever it was may be gone.
    pub(super) doubted: bool,
}

impl Conflict {
    pub(super) fn seen(address: IpAddr, mac: [u8; 6]) -> Self {
        Self {
            address,
            mac,
            doubted: false,
        }
    }
}

impl Backup {
    /// Takes over at `down_at` if nothing is heard.
    pub(super) fn until(down_at: Instant) -> Self {
        Self {
            down_at,
            late_at: None,
            preempt_at: None,
            resigned: None,
            forgiven: false,
            probe: None,
        }
    }
}

impl Master {
    /// Since now, with its announcements before it.
    pub(super) fn new(announce: &Announce, now: Instant) -> Self {
        Self {
            advert_at: now,
            sent: now,
            round: Some(Round::new(announce, now)),
            refresh_at: announce.next_refresh(now),
            reclaim_at: None,
            tie: None,
            resign: None,
        }
    }

    /// Announces the addresses anew, except where that is under way.
    pub(super) fn announce_again(&mut self, announce: &Announce, now: Instant) {
        if self.round.as_ref().is_none_or(|round| !round.begun) {
            self.round = Some(Round::new(announce, now));
        }
    }
}

impl Round {
    pub(super) fn new(announce: &Announce, now: Instant) -> Self {
        Self {
            at: now,
            left: announce.count,
            again: !announce.repeat_after.is_zero(),
            begun: false,
        }
    }

    pub(super) fn next(self, announce: &Announce) -> Option<Self> {
        match self.left {
            2.. => Some(Self {
                at: self.at + announce.interval,
                left: self.left - 1,
                begun: true,
                ..self
            }),
            0 | 1 if self.again => Some(Self {
                at: self.at + announce.repeat_after,
                left: announce.count,
                again: false,
                begun: false,
            }),
            0 | 1 => None,
        }
    }
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.mac;
        write!(
            f,
            "{} is in use by {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}, which is no known \
             peer: take the address off that host, or choose another one",
            self.address
        )
    }
}
