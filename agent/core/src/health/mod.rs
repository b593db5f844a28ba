//! The health of backends: when to probe, and what the results mean.
//!
//! Each (backend, probe) has a check with its own rise and fall; a backend is up if all its checks
//! are. [`Health::set`] adds or changes a backend, [`Health::tick`] tells which checks to run,
//! [`Health::result`] takes their ends. Transitions of the backend come back as [`Change`]s.
//!
//! ```text
//!              first result           `fall` failures in a row
//!  Unknown  ----------------->  Up  ---------------------------->  Down
//!                               ^ ^                                 |
//!        any success            | |     `rise` successes in a row   |
//!  Silenced --------------------+ +---------------------------------+
//!     ^
//!     +--- Up or Unknown, when the node's adverts stopped and no check has passed since
//! ```
//!
//! Probes alone find a dead node after `fall` intervals. Its VRRP adverts tell sooner: when they
//! are late the node's backends are suspect and checked at once; when it counts as gone and nothing
//! has passed since, its backends are down ([`Health::silence`]). A node of which only the daemon
//! died passes that check and keeps its traffic.

mod check;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use self::check::{Check, Random, Running, Verdict, judge};
use crate::{
    api::BackendState,
    config::{Name, Probe},
    event::{BackendKey, ProbeFailure},
    time::Instant,
};

/// The probing side reports within the timeout; if it does not by this much later, it never will.
const GUARD: Duration = Duration::from_secs(1);
/// The time between the first checks of backends that were added together.
const SPREAD: Duration = Duration::from_millis(2);

/// Something to do about a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Run this check.
    Run {
        /// Whom.
        backend: BackendKey,
        /// Which of its probes.
        probe: Name,
    },
    /// The backend came up or went down.
    Turned {
        /// Whom.
        backend: BackendKey,
        /// Whether it is up now.
        up: bool,
        /// Why.
        cause: String,
    },
}

/// What is known of a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The state its checks give it; never [`BackendState::Unreachable`].
    pub state: BackendState,
    /// Why.
    pub reason: String,
    /// Since when it is up, down or unknown.
    pub since: Instant,
    /// How long the last good check took.
    pub latency: Option<Duration>,
}

/// The health of all backends.
#[derive(Debug, Clone)]
pub struct Health {
    backends: BTreeMap<BackendKey, Backend>,
    /// One entry a check: when it is to be run, or its end to be given up.
    agenda: BTreeSet<(Instant, BackendKey, Name)>,
    last_first: Instant,
    random: Random,
}

#[derive(Debug, Clone)]
struct Backend {
    checks: Vec<Check>,
    up: Option<bool>,
    since: Instant,
    cause: String,
    latency: Option<Duration>,
    passed: Option<Instant>,
    /// Since when its node's adverts are late.
    suspect: Option<Instant>,
}

impl Health {
    /// Nobody yet. `seed` is for jitter.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            backends: BTreeMap::new(),
            agenda: BTreeSet::new(),
            last_first: Instant::ZERO,
            random: Random(seed),
        }
    }

    /// Probes `key` with `probes` from now on. Where it is known already, probes that did not
    /// change keep their history; changed and new ones start with what it is now, so that a reload
    /// moves no traffic. `restored` is how a new one was when an earlier daemon stopped.
    pub fn set(
        &mut self,
        key: &BackendKey,
        probes: &[Probe],
        restored: Option<bool>,
        now: Instant,
    ) {
        let before = self.take(key);
        let up = before.as_ref().map_or(restored, |backend| backend.up);
        let mut old = before
            .as_ref()
            .map(|backend| backend.checks.clone())
            .unwrap_or_default();
        let mut checks = Vec::new();
        for probe in probes {
            let found = old.iter().position(|check| check.probe.name == probe.name);
            let check = match found.map(|index| old.swap_remove(index)) {
                Some(check) if check.probe == *probe => check,
                Some(check) => {
                    let running = check.running.map(|run| Running { stale: true, ..run });
                    let due = if running.is_some() { check.due } else { now };
                    Check {
                        probe: probe.clone(),
                        against: 0,
                        running,
                        due,
                        ..check
                    }
                }
                None => Check {
                    probe: probe.clone(),
                    verdict: match up {
                        Some(true) => Verdict::Up,
                        Some(false) => Verdict::Down,
                        None => Verdict::Unknown,
                    },
                    against: 0,
                    last: None,
                    running: None,
                    due: self.first_due(probe, now),
                },
            };
            checks.push(check);
        }
        for check in &checks {
            self.agenda
                .insert((check.due, key.clone(), check.probe.name.clone()));
        }
        let backend = match before {
            Some(before) if before.up == judge(&checks) => Backend { checks, ..before },
            Some(_) => Backend {
                cause: "its probes were changed".to_owned(),
                ..Backend::new(checks, now)
            },
            None if restored.is_some() && !probes.is_empty() => Backend {
                cause: "as it was when the daemon stopped".to_owned(),
                ..Backend::new(checks, now)
            },
            None => Backend::new(checks, now),
        };
        self.backends.insert(key.clone(), backend);
    }

    /// The server under the first key of each pair is now also the one under the second, with all
    /// that is known of it; what was under that key is void. The first keys stay until they are
    /// removed or renewed, so that keys can be exchanged.
    pub fn rename(&mut self, moves: &[(BackendKey, BackendKey)], now: Instant) {
        let moved: Vec<Option<Backend>> = moves
            .iter()
            .map(|(from, _)| self.backends.get(from).cloned())
            .collect();
        for ((_, to), backend) in moves.iter().zip(moved) {
            let Some(mut backend) = backend else { continue };
            let mut void = self.take(to).map(|void| void.checks).unwrap_or_default();
            for check in &mut backend.checks {
                // The end of a check under way comes under the key that it was ordered with: its
                // own one is lost, and one of the former server is not to be taken for it.
                let ordered = void
                    .iter_mut()
                    .find(|void| void.probe.name == check.probe.name)
                    .and_then(|void| Some((void.running.take()?, void.due)));
                let lost = check.running.take().is_some();
                if let Some((run, due)) = ordered {
                    check.running = Some(Running { stale: true, ..run });
                    check.due = due;
                } else if lost {
                    check.due = now;
                }
                self.agenda
                    .insert((check.due, to.clone(), check.probe.name.clone()));
            }
            self.backends.insert(to.clone(), backend);
        }
    }

    /// Under this name there is another server now: what was known is void.
    pub fn renew(&mut self, key: &BackendKey, now: Instant) {
        let Some(before) = self.take(key) else { return };
        let checks: Vec<Check> = before
            .checks
            .into_iter()
            .map(|check| {
                let running = check.running.map(|run| Running { stale: true, ..run });
                let due = if running.is_some() { check.due } else { now };
                Check {
                    verdict: Verdict::Unknown,
                    against: 0,
                    last: None,
                    running,
                    due,
                    ..check
                }
            })
            .collect();
        for check in &checks {
            self.agenda
                .insert((check.due, key.clone(), check.probe.name.clone()));
        }
        self.backends.insert(key.clone(), Backend::new(checks, now));
    }

    /// Probes it no more.
    pub fn remove(&mut self, key: &BackendKey) {
        self.take(key);
    }

    /// A check ended. One that was not running, or was started by an older configuration, says
    /// nothing.
    pub fn result(
        &mut self,
        key: &BackendKey,
        probe: &Name,
        outcome: Result<(), ProbeFailure>,
        took: Duration,
        now: Instant,
    ) -> Option<Change> {
        let backend = self.backends.get_mut(key)?;
        let index = backend
            .checks
            .iter()
            .position(|check| check.probe.name == *probe)?;
        let check = backend.checks.get_mut(index)?;
        let Running { since, stale } = check.running.take()?;
        self.agenda.remove(&(check.due, key.clone(), probe.clone()));
        let turned = if stale {
            check.due = now;
            None
        } else {
            if outcome.is_ok() {
                backend.latency = Some(took);
                backend.passed = Some(now);
            }
            let cause = check.record(outcome);
            let suspect = backend.suspect.is_some_and(|late| since < late);
            let pause = check.pause(backend.suspect.is_some(), &mut self.random);
            check.due = if suspect { now } else { now.max(since + pause) };
            backend.turn(cause, now)
        };
        self.agenda
            .insert((backend.checks.get(index)?.due, key.clone(), probe.clone()));
        turned.map(|(up, cause)| Change::Turned {
            backend: key.clone(),
            up,
            cause,
        })
    }

    /// What is due now: checks to run, and the consequences of those that never ended.
    pub fn tick(&mut self, now: Instant) -> Vec<Change> {
        let mut changes = Vec::new();
        while self.agenda.first().is_some_and(|(at, ..)| *at <= now) {
            let Some((_, key, probe)) = self.agenda.pop_first() else {
                break;
            };
            let check = self
                .backends
                .get_mut(&key)
                .and_then(|backend| backend.check(&probe));
            let Some(check) = check else { continue };
            match check.running {
                None => {
                    check.running = Some(Running {
                        since: now,
                        stale: false,
                    });
                    check.due = now + check.probe.timeout + GUARD;
                    self.agenda.insert((check.due, key.clone(), probe.clone()));
                    changes.push(Change::Run {
                        backend: key,
                        probe,
                    });
                }
                // So late, this whole process was stopped and the end may wait to be read.
                Some(_) if now.since(check.due) > GUARD => {
                    check.due = now + GUARD;
                    self.agenda.insert((check.due, key, probe));
                }
                Some(_) => {
                    self.agenda.insert((check.due, key.clone(), probe.clone()));
                    let lost = ProbeFailure::Local("the check never ended".to_owned());
                    changes.extend(self.result(&key, &probe, Err(lost), Duration::ZERO, now));
                }
            }
        }
        changes
    }

    /// The adverts of its node are late: check it at once, and more often.
    pub fn suspect(&mut self, key: &BackendKey, now: Instant) {
        let Some(backend) = self.backends.get_mut(key) else {
            return;
        };
        backend.suspect = Some(now);
        for check in backend
            .checks
            .iter_mut()
            .filter(|check| check.running.is_none())
        {
            let name = &check.probe.name;
            self.agenda.remove(&(check.due, key.clone(), name.clone()));
            check.due = now;
            self.agenda.insert((check.due, key.clone(), name.clone()));
        }
    }

    /// Its node is heard again, or what it no longer says means nothing.
    pub fn trust(&mut self, key: &BackendKey) {
        if let Some(backend) = self.backends.get_mut(key) {
            backend.suspect = None;
        }
    }

    /// Its node counts as gone: it is down, unless a check has passed since that was suspected.
    pub fn silence(&mut self, key: &BackendKey, cause: &str, now: Instant) -> Option<Change> {
        let backend = self.backends.get_mut(key)?;
        let late = backend.suspect.take().unwrap_or(now);
        if backend.passed.is_some_and(|passed| passed >= late) {
            return None;
        }
        for check in &mut backend.checks {
            if matches!(check.verdict, Verdict::Up | Verdict::Unknown) {
                check.verdict = Verdict::Silenced;
                check.against = 0;
            }
        }
        let (up, cause) = backend.turn(cause.to_owned(), now)?;
        Some(Change::Turned {
            backend: key.clone(),
            up,
            cause,
        })
    }

    /// Whether it is up; none: unknown.
    #[must_use]
    pub fn up(&self, key: &BackendKey) -> Option<bool> {
        self.backends.get(key).and_then(|backend| backend.up)
    }

    /// What is known of it.
    #[must_use]
    pub fn report(&self, key: &BackendKey) -> Option<Report> {
        self.backends.get(key).map(Backend::report)
    }

    /// When [`Health::tick`] is due.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.agenda.first().map(|(at, ..)| *at)
    }

    fn take(&mut self, key: &BackendKey) -> Option<Backend> {
        let backend = self.backends.remove(key)?;
        for check in &backend.checks {
            self.agenda
                .remove(&(check.due, key.clone(), check.probe.name.clone()));
        }
        Some(backend)
    }

    /// The first check is made at once, but thousands are not made at one time.
    fn first_due(&mut self, probe: &Probe, now: Instant) -> Instant {
        let turn = now.max(self.last_first + SPREAD);
        self.last_first = turn;
        let interval = probe.interval.as_nanos().max(1);
        let wait = u64::try_from(turn.since(now).as_nanos() % interval).unwrap_or(0);
        now + Duration::from_nanos(wait)
    }
}

impl Backend {
    fn new(checks: Vec<Check>, now: Instant) -> Self {
        let cause = if checks.is_empty() {
            "it has no probes"
        } else {
            "not checked yet"
        };
        Self {
            up: judge(&checks),
            checks,
            since: now,
            cause: cause.to_owned(),
            latency: None,
            passed: None,
            suspect: None,
        }
    }

    fn check(&mut self, probe: &Name) -> Option<&mut Check> {
        self.checks
            .iter_mut()
            .find(|check| check.probe.name == *probe)
    }

    /// Judges anew; the turn, if it is one.
    fn turn(&mut self, cause: String, now: Instant) -> Option<(bool, String)> {
        let up = judge(&self.checks);
        if up == self.up {
            return None;
        }
        self.up = up;
        self.since = now;
        self.cause.clone_from(&cause);
        up.map(|up| (up, cause))
    }

    fn report(&self) -> Report {
        let against = || self.checks.iter().find(|check| check.against > 0);
        let rising = |check: &Check| match check.verdict {
            Verdict::Up => true,
            Verdict::Down => check.against > 0,
            Verdict::Unknown | Verdict::Silenced => false,
        };
        let (state, reason) = match (self.up, against()) {
            (None, _) => (BackendState::Unknown, self.cause.clone()),
            (Some(true), None) => (BackendState::Up, self.cause.clone()),
            (Some(true), Some(check)) => (BackendState::Failing, check.reason()),
            (Some(false), Some(check)) if self.checks.iter().all(rising) => {
                (BackendState::Rising, check.reason())
            }
            (Some(false), _) => (BackendState::Down, self.cause.clone()),
        };
        Report {
            state,
            reason,
            since: self.since,
            latency: self.latency,
        }
    }
}
