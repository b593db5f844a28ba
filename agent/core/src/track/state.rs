//! One track: its answers in a row, or how long it has been so, and what that amounts to.

use super::{Change, GUARD, Sight, TrackFailure};
use crate::{
    api::TrackState,
    config::{Track, TrackKind},
    time::Instant,
};

/// What is known of a track.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Its state.
    pub state: TrackState,
    /// Since when it is good, bad or undecided.
    pub since: Instant,
    /// What it adds to a priority now.
    pub adds: i16,
    /// What was seen last.
    pub last: String,
}

#[derive(Debug, Clone)]
pub(super) struct State {
    pub(super) config: Track,
    /// What it counts as; none: undecided.
    verdict: Option<Seen>,
    since: Instant,
    /// Why it counts as that.
    pub(super) cause: String,
    /// What was seen last, in words.
    last: String,
    /// The next answer decides.
    fresh: bool,
    /// Answers in a row that contradict the verdict.
    against: u8,
    /// What is watched differs from the verdict, and from when on that counts.
    pending: Option<(Seen, Instant, String)>,
    work: Work,
}

/// What was seen, as far as it counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Seen {
    good: bool,
    number: i16,
}

/// The run or watch under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    /// Nothing is under way; when something is to begin.
    Due(Instant),
    /// A check, and when it is given up.
    Check {
        ticket: u64,
        since: Instant,
        until: Instant,
    },
    /// A watch.
    Watch { ticket: u64 },
    /// The node sees by itself.
    Own,
}

impl State {
    pub(super) fn new(config: &Track, now: Instant) -> Self {
        Self {
            work: Work::first(config, now),
            config: config.clone(),
            verdict: None,
            since: now,
            cause: "not looked at yet".to_owned(),
            last: "not looked at yet".to_owned(),
            fresh: true,
            against: 0,
            pending: None,
        }
    }

    /// Ends the run or watch; whether there was one.
    pub(super) fn stop(&mut self) -> bool {
        let began = matches!(self.work, Work::Check { .. } | Work::Watch { .. });
        if let Work::Check { since, .. } = self.work {
            self.work = Work::Due(since);
        }
        began
    }

    pub(super) fn reconfigure(&mut self, config: &Track, now: Instant) {
        if config.kind != self.config.kind {
            self.work = Work::first(config, now);
            self.fresh = true;
            self.against = 0;
            self.pending = None;
            if let Some(verdict) = self.verdict.as_mut().filter(|_| !config.is_number()) {
                verdict.number = 0;
            }
        } else if let Work::Due(at) = &mut self.work {
            // A shorter interval holds from now on.
            *at = (*at).min(now + config.pace.interval);
        }
        self.config = config.clone();
    }

    /// Whether what comes with `ticket` counts. A check is over by that.
    pub(super) fn redeem(&mut self, presented: u64, now: Instant) -> bool {
        match self.work {
            Work::Check { ticket, since, .. } if ticket == presented => {
                self.work = Work::Due(now.max(since + self.config.pace.interval));
                true
            }
            Work::Watch { ticket } => ticket == presented,
            Work::Check { .. } | Work::Due(_) | Work::Own => false,
        }
    }

    /// Takes what was seen.
    pub(super) fn take(
        &mut self,
        outcome: Result<Sight, TrackFailure>,
        now: Instant,
    ) -> Option<Change> {
        let (seen, words) = match outcome {
            Ok(sight) => {
                let number = sight.number.filter(|_| self.config.is_number());
                let number = number.unwrap_or(0);
                (Seen { good: true, number }, sight.what)
            }
            Err(failure) => {
                let bad = Seen {
                    good: false,
                    number: 0,
                };
                (bad, failure.to_string())
            }
        };
        self.last.clone_from(&words);
        let Some(verdict) = self.verdict.filter(|_| !self.fresh) else {
            self.fresh = false;
            return self.turn(seen, words, now);
        };
        if seen == verdict {
            self.against = 0;
            self.pending = None;
            self.cause = words;
            return None;
        }
        let pace = &self.config.pace;
        if self.config.kind.is_checked() {
            self.against = self.against.saturating_add(1);
            let limit = if seen.good { pace.rise } else { pace.fall };
            return (self.against >= limit)
                .then(|| self.turn(seen, words, now))
                .flatten();
        }
        let rises = seen > verdict;
        // Its number may change further while it waits: in the same direction the wait goes on.
        let at = match &self.pending {
            Some((waiting, at, _))
                if (*waiting > verdict) == rises && waiting.good == seen.good =>
            {
                *at
            }
            _ if rises => now + pace.debounce_up,
            _ => now + pace.debounce_down,
        };
        self.pending = Some((seen, at, words));
        self.settle(now)
    }

    pub(super) fn tick(&mut self, tickets: &mut u64, now: Instant, changes: &mut Vec<Change>) {
        let track = || self.config.name.clone();
        match self.work {
            Work::Due(at) if at <= now => {
                *tickets += 1;
                let ticket = *tickets;
                self.work = match self.config.kind.is_checked() {
                    true => Work::Check {
                        ticket,
                        since: now,
                        until: now + self.config.pace.timeout + GUARD,
                    },
                    false => Work::Watch { ticket },
                };
                changes.push(Change::Run {
                    track: track(),
                    ticket,
                });
            }
            Work::Check {
                ticket,
                since,
                until,
            } if until <= now => {
                // So late, this whole process was stopped and the end may wait to be read.
                if now.since(until) > GUARD {
                    let until = now + GUARD;
                    self.work = Work::Check {
                        ticket,
                        since,
                        until,
                    };
                } else {
                    changes.push(Change::Stop { track: track() });
                    if self.redeem(ticket, now) {
                        let lost = TrackFailure::Local("the check never ended".to_owned());
                        changes.extend(self.take(Err(lost), now));
                    }
                    // The next one may be due by now.
                    return self.tick(tickets, now, changes);
                }
            }
            Work::Due(_) | Work::Check { .. } | Work::Watch { .. } | Work::Own => {}
        }
        changes.extend(self.settle(now));
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let work = match self.work {
            Work::Due(at) | Work::Check { until: at, .. } => Some(at),
            Work::Watch { .. } | Work::Own => None,
        };
        let pending = self.pending.as_ref().map(|(_, at, _)| *at);
        [work, pending].into_iter().flatten().min()
    }

    /// Whether it is good; none: undecided.
    pub(super) fn good(&self) -> Option<bool> {
        self.verdict.map(|verdict| verdict.good)
    }

    /// What it adds to a priority.
    pub(super) fn adds(&self) -> i16 {
        match (self.verdict, self.config.weight) {
            (None, _) => 0,
            (Some(verdict), None) => verdict.number,
            (Some(Seen { good: true, .. }), Some(weight)) => weight.max(0),
            (Some(Seen { good: false, .. }), Some(weight)) => weight.min(0),
        }
    }

    pub(super) fn report(&self) -> Report {
        let turning = self.against > 0 || self.pending.is_some();
        let state = match (self.good(), turning) {
            (None, _) => TrackState::Undecided,
            (Some(true), false) => TrackState::Good,
            (Some(true), true) => TrackState::Failing,
            (Some(false), false) => TrackState::Bad,
            (Some(false), true) => TrackState::Rising,
        };
        let of = match (self.against, self.good()) {
            (0, _) => String::new(),
            (against, Some(true)) => format!(" ({against} of {})", self.config.pace.fall),
            (against, _) => format!(" ({against} of {})", self.config.pace.rise),
        };
        Report {
            state,
            since: self.since,
            adds: self.adds(),
            last: format!("{}{of}", self.last),
        }
    }

    /// What has been waited for long enough counts.
    fn settle(&mut self, now: Instant) -> Option<Change> {
        let (seen, _, words) = self.pending.take_if(|(_, at, _)| *at <= now)?;
        self.turn(seen, words, now)
    }

    fn turn(&mut self, seen: Seen, cause: String, now: Instant) -> Option<Change> {
        self.against = 0;
        self.pending = None;
        let before = self.verdict.replace(seen);
        self.cause.clone_from(&cause);
        if before.map(|before| before.good) != Some(seen.good) {
            self.since = now;
        }
        (before != Some(seen)).then(|| Change::Turned {
            track: self.config.name.clone(),
            good: seen.good,
            cause,
        })
    }
}

impl Work {
    fn first(config: &Track, now: Instant) -> Self {
        match config.kind {
            TrackKind::Service { .. } => Self::Own,
            _ => Self::Due(now),
        }
    }
}
