//! What a node tracks beside its backends: when to look, and what is seen amounts to.
//!
//! Each track has a verdict of its own, good or bad, and from the first answer on one of the two. What
//! is checked (scripts, gateways) turns after `rise` or `fall` answers in a row; what is watched
//! (interfaces, services, files, processes) tells by itself when it changes, and turns when it has
//! stayed so for `debounce_up` or `debounce_down`.
//!
//! ```text
//!                  first answer          `fall` bad checks in a row, or bad for `debounce_down`
//!  Undecided  ------------------>  Good  ------------------------------------------------------>  Bad
//!                                    ^                                                             |
//!                                    +-------------------------------------------------------------+
//!                                        `rise` good checks in a row, or good for `debounce_up`
//! ```
//!
//! [`Tracks::tick`] says what to run, [`Tracks::report`] takes what comes back. Runs and watches have
//! a ticket each: what comes back with another one is of an earlier run, or of before a reload, and
//! says nothing. A check is never ordered while one of the same track is under way.
//!
//! [`Tracks::weigh`] adds up what tracks mean for a virtual router.

mod state;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, time::Duration};

pub use self::state::Report;
use self::state::State;
use crate::{
    config::{Name, Track, TrackKind},
    time::Instant,
    vrrp::election::Ability,
};

/// A check ends within its timeout; if nothing is heard of it by this much later, it never will.
const GUARD: Duration = Duration::from_secs(2);

/// What was seen of a track that is good.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sight {
    /// The number in a file that holds one.
    pub number: Option<i16>,
    /// What was seen, for the status.
    pub what: String,
}

impl Sight {
    /// A sight without a number.
    #[must_use]
    pub fn of(what: impl Into<String>) -> Self {
        Self {
            number: None,
            what: what.into(),
        }
    }
}

/// Why a track is bad, in words that an operator can act on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrackFailure {
    /// The interface cannot carry packets.
    #[error("interface {0} is down")]
    Down(Name),
    /// The interface is not there.
    #[error("there is no interface {0}")]
    NoInterface(Name),
    /// A service has too few usable backends.
    #[error("{usable} usable backends of service {service}, {wanted} wanted")]
    Backends {
        /// The service.
        service: Name,
        /// How many are usable.
        usable: u16,
        /// How many are wanted.
        wanted: u16,
    },
    /// A script ended with an exit code that is not 0.
    #[error("exit code {code}{}", said(.line))]
    Exit {
        /// The code.
        code: i32,
        /// The last line it wrote.
        line: String,
    },
    /// A script was killed by a signal.
    #[error("killed by signal {signal}{}", said(.line))]
    Killed {
        /// The signal.
        signal: i32,
        /// The last line it wrote.
        line: String,
    },
    /// A script did not end in time and was killed.
    #[error("did not end within {}{}", crate::api::human_duration(*.after), said(.line))]
    Timeout {
        /// The time it had.
        after: Duration,
        /// The last line it wrote.
        line: String,
    },
    /// The last run cannot be killed, so there is no new one.
    #[error("its last run was killed, but has not ended: it hangs in the kernel")]
    Stuck,
    /// A file that should be there is not.
    #[error("the file is not there")]
    Missing,
    /// A file that should not be there is.
    #[error("the file is there")]
    Present,
    /// A file holds no number.
    #[error("the file holds no integer")]
    NoNumber,
    /// Too few processes run.
    #[error("{running} processes, {wanted} wanted")]
    Processes {
        /// How many run.
        running: u16,
        /// How many are wanted.
        wanted: u16,
    },
    /// Nobody answered for an address.
    #[error("{protocol} is not answered within {}", crate::api::human_duration(*.after))]
    Silent {
        /// `ARP` or `neighbour discovery`.
        protocol: &'static str,
        /// The time there was.
        after: Duration,
    },
    /// This host could not look.
    #[error("could not look: {0}")]
    Local(String),
}

fn said(line: &str) -> String {
    match line {
        "" => String::new(),
        line => format!(": {line}"),
    }
}

/// Something to do about a track.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Check it once, or watch it from now on.
    Run {
        /// Which.
        track: Name,
        /// What its reports are to carry.
        ticket: u64,
    },
    /// Watch it no more; a check that is under way is to end at once.
    Stop {
        /// Which.
        track: Name,
    },
    /// It became good or bad, or its number is another one.
    Turned {
        /// Which.
        track: Name,
        /// Whether it is good now.
        good: bool,
        /// Why.
        cause: String,
    },
}

/// What the tracks of a virtual router mean for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Weighed {
    /// The priority: 1 to 254, or the 255 of the address owner, which no track changes.
    pub priority: u8,
    /// The tracks that add something to the configured one, and what.
    pub added: Vec<(Name, i16)>,
    /// What the tracks let it do.
    pub ability: Ability,
}

/// All tracks of a node.
#[derive(Debug, Clone, Default)]
pub struct Tracks {
    tracks: BTreeMap<Name, State>,
    /// The last one given out.
    ticket: u64,
}

impl Tracks {
    /// Tracks these from now on. Nothing is known of them.
    #[must_use]
    pub fn new(config: &[Track], now: Instant) -> Self {
        let mut tracks = Self::default();
        tracks.begin(config, now);
        tracks
    }

    /// Ends what `config` has no more, or has otherwise: a reload's first half.
    pub fn end(&mut self, config: &[Track]) -> Vec<Change> {
        let mut changes = Vec::new();
        self.tracks.retain(|name, state| {
            let new = config.iter().find(|track| track.name == *name);
            if new.is_none_or(|new| new.kind != state.config.kind) && state.stop() {
                changes.push(Change::Stop {
                    track: name.clone(),
                });
            }
            new.is_some()
        });
        changes
    }

    /// Works by `config` from now on: a reload's other half. One that watches something else now keeps
    /// its verdict until that has answered once, so that a reload moves nothing.
    pub fn begin(&mut self, config: &[Track], now: Instant) {
        for track in config {
            match self.tracks.get_mut(&track.name) {
                Some(state) => state.reconfigure(track, now),
                None => {
                    _ = self
                        .tracks
                        .insert(track.name.clone(), State::new(track, now))
                }
            }
        }
    }

    /// What was seen of a track by the run or watch with this ticket.
    pub fn report(
        &mut self,
        track: &Name,
        ticket: u64,
        outcome: Result<Sight, TrackFailure>,
        now: Instant,
    ) -> Option<Change> {
        let state = self.tracks.get_mut(track)?;
        state.redeem(ticket, now).then_some(())?;
        state.take(outcome, now)
    }

    /// What the node itself sees of a service that is tracked; none: that is not known yet.
    pub fn see(
        &mut self,
        track: &Name,
        outcome: Option<Result<Sight, TrackFailure>>,
        now: Instant,
    ) -> Option<Change> {
        self.tracks.get_mut(track)?.take(outcome?, now)
    }

    /// The services that are tracked: by which track, and how many backends are wanted.
    pub fn services(&self) -> impl Iterator<Item = (&Name, &Name, u16)> {
        let states = self.tracks.iter();
        states.filter_map(|(name, state)| match &state.config.kind {
            TrackKind::Service { service, at_least } => Some((name, service, *at_least)),
            _ => None,
        })
    }

    /// What is due now.
    pub fn tick(&mut self, now: Instant) -> Vec<Change> {
        let mut changes = Vec::new();
        for state in self.tracks.values_mut() {
            state.tick(&mut self.ticket, now, &mut changes);
        }
        changes
    }

    /// When [`Tracks::tick`] is due.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.tracks.values().filter_map(State::deadline).min()
    }

    /// What these tracks mean for an election of the configured `priority`.
    #[must_use]
    pub fn weigh(&self, priority: u8, tracks: &[&Name]) -> Weighed {
        let named = || {
            let names = tracks.iter().copied();
            names.filter_map(|name| Some((name, self.tracks.get(name)?)))
        };
        let added: Vec<(Name, i16)> = named()
            .map(|(name, state)| (name.clone(), state.adds()))
            .filter(|(_, added)| *added != 0)
            .collect();
        let sum: i32 = added.iter().map(|(_, added)| i32::from(*added)).sum();
        let priority = match priority {
            u8::MAX => u8::MAX,
            configured => {
                let sum = (i32::from(configured) + sum).clamp(1, 254);
                u8::try_from(sum).unwrap_or(configured)
            }
        };
        let faults = || named().filter(|(_, state)| state.config.is_fault());
        let bad = faults().find(|(_, state)| state.good() == Some(false));
        let unknown = faults().find(|(_, state)| state.good().is_none());
        let ability = match (bad, unknown) {
            (Some((name, state)), _) => Ability::Unable(format!("track {name}: {}", state.cause)),
            (None, Some((name, _))) => {
                Ability::Undecided(format!("the first answer of track {name}"))
            }
            (None, None) => Ability::Able,
        };
        Weighed {
            priority,
            added,
            ability,
        }
    }

    /// What is known of each.
    pub fn reports(&self) -> impl Iterator<Item = (&Track, Report)> {
        self.tracks
            .values()
            .map(|state| (&state.config, state.report()))
    }
}
