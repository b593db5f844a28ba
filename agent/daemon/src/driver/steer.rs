//! Steering, and steering again what could not be: a ring that found no room finds some when an
//! earlier one is given up, an interface that was gone comes back.

use std::{collections::BTreeMap, time::Duration};

use steerd_core::{action::Steering, config::Name, time::Instant};

use super::{Driver, now};

/// How long after a failure a service is steered again: after the first one so long, after each
/// further one twice as long, up to the longest.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);

impl Driver {
    /// Steers a service so, from now on.
    pub(super) fn steer(&mut self, steering: Steering) {
        let service = steering.service.clone();
        self.steering.insert(service.clone(), steering);
        // What the core says is new: what was before has nothing to say about it.
        self.unsteered.forget(&service);
        self.write_steering([service]);
    }

    /// Steers a service no more.
    pub(super) fn unsteer(&mut self, service: &Name) {
        self.steering.remove(service);
        self.plane.unsteer(service);
        self.unsteered.forget(service);
        self.set_faults("steer", self.unsteered.faults().collect());
    }

    /// Steers everything as before: backends' entries hold this host's MACs.
    pub(super) fn steer_again(&mut self) {
        let all: Vec<Name> = self.steering.keys().cloned().collect();
        self.write_steering(all);
    }

    /// Steers what failed before and is due.
    pub(super) fn retry_steering(&mut self) {
        let due = self.unsteered.due(now());
        if !due.is_empty() {
            self.write_steering(due);
        }
    }

    fn write_steering(&mut self, services: impl IntoIterator<Item = Name>) {
        for service in services {
            let Some(steering) = self.steering.get(&service) else {
                self.unsteered.forget(&service);
                continue;
            };
            match self.plane.steer(steering) {
                Ok(()) => self.unsteered.forget(&service),
                Err(error) => {
                    let error = error.to_string();
                    self.unsteered.failed(service, error, now());
                }
            }
        }
        self.set_faults("steer", self.unsteered.faults().collect());
    }
}

/// Services whose steering could not be written: packets go as was said before.
#[derive(Debug, Default)]
pub(super) struct Unsteered(BTreeMap<Name, Failure>);

#[derive(Debug)]
struct Failure {
    error: String,
    again: Instant,
    wait: Duration,
}

impl Unsteered {
    fn failed(&mut self, service: Name, error: String, now: Instant) {
        let wait = match self.0.get(&service) {
            Some(before) => (before.wait * 2).min(LONGEST),
            None => FIRST,
        };
        let failure = Failure {
            error,
            again: now + wait,
            wait,
        };
        self.0.insert(service, failure);
    }

    fn forget(&mut self, service: &Name) {
        self.0.remove(service);
    }

    fn due(&self, now: Instant) -> Vec<Name> {
        let due = self.0.iter().filter(|(_, failure)| failure.again <= now);
        due.map(|(service, _)| service.clone()).collect()
    }

    fn faults(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|(service, Failure { error, .. })| {
            format!("service {service} is steered as before, not as it should be: {error}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_is_due_ever_more_rarely_until_it_works() {
        let at = |seconds| Instant::from_origin(Duration::from_secs(seconds));
        let mut unsteered = Unsteered::default();
        let game = Name::new("game");
        let mut now = 0;
        for wait in [1, 2, 4, 8, 16, 32, 60, 60] {
            unsteered.failed(game.clone(), "no room".to_owned(), at(now));
            assert!(unsteered.due(at(now + wait - 1)).is_empty(), "{wait}");
            assert_eq!(unsteered.due(at(now + wait)), std::slice::from_ref(&game));
            now += wait;
        }
        let faults: Vec<String> = unsteered.faults().collect();
        let expected = "service game is steered as before, not as it should be: no room";
        assert_eq!(faults, [expected]);
        unsteered.forget(&game);
        assert!(unsteered.due(at(now + 1000)).is_empty());
        assert_eq!(unsteered.faults().count(), 0);
        unsteered.failed(game.clone(), "no room".to_owned(), at(now));
        assert_eq!(unsteered.due(at(now + 1)), [game], "from the beginning");
    }
}
