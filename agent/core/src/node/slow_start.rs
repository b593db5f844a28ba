//! Slow start: a backend that joins others gets its share of new flows little by little.
//!
//! It begins with a tenth of its weight, and ten steps of equal length and height bring it to the
//! whole. Weights are integers, often 1, so while a ramp is under way all weights of the service are
//! counted in hundredths ([`Ramps::weight`]); only their proportions matter.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use crate::time::Instant;

const STEPS: u32 = 10;
const FIRST_PERCENT: u32 = 10;
const STEP_PERCENT: u32 = (100 - FIRST_PERCENT) / STEPS;

/// The ramps of a service.
#[derive(Debug, Clone, Default)]
pub(super) struct Ramps {
    /// When each server joined.
    begun: BTreeMap<SocketAddr, Instant>,
}

impl Ramps {
    /// A server joins others now.
    pub(super) fn begin(&mut self, server: SocketAddr, now: Instant) {
        self.begun.insert(server, now);
    }

    /// Ends the ramps that are complete, and those of servers that are not `in_use`.
    pub(super) fn sweep(
        &mut self,
        length: Duration,
        in_use: impl Fn(&SocketAddr) -> bool,
        now: Instant,
    ) {
        self.begun
            .retain(|server, begun| in_use(server) && now.since(*begun) < length);
    }

    /// The percentage of its weight that `server` has now; none: all of it, and no ramp.
    pub(super) fn percent(
        &self,
        server: &SocketAddr,
        length: Duration,
        now: Instant,
    ) -> Option<u8> {
        let elapsed = now.since(*self.begun.get(server)?);
        let percent = FIRST_PERCENT + STEP_PERCENT * steps(elapsed, length);
        u8::try_from(percent).ok().filter(|percent| *percent < 100)
    }

    /// What `weight` of `server` counts now, in the proportion in which those of the others do.
    pub(super) fn weight(
        &self,
        server: &SocketAddr,
        weight: u16,
        length: Duration,
        now: Instant,
    ) -> u16 {
        if self.begun.is_empty() {
            return weight;
        }
        // A weight is 256 at most.
        weight.saturating_mul(self.percent(server, length, now).unwrap_or(100).into())
    }

    /// When the next step is due.
    pub(super) fn deadline(&self, length: Duration, now: Instant) -> Option<Instant> {
        let next = |begun: &Instant| {
            let step = steps(now.since(*begun), length) + 1;
            // Rounded up: at that moment the step is over, not almost.
            let nanos = (length.as_nanos() * u128::from(step)).div_ceil(STEPS.into());
            *begun + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
        };
        self.begun.values().map(next).min()
    }
}

/// How many of the steps are over.
fn steps(elapsed: Duration, length: Duration) -> u32 {
    let over = elapsed.as_nanos() * u128::from(STEPS);
    let over = over.checked_div(length.as_nanos());
    over.and_then(|over| u32::try_from(over).ok())
        .map_or(STEPS, |over| over.min(STEPS))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn server(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 80))
    }

    fn at(nanos: u64) -> Instant {
        Instant::from_origin(Duration::from_nanos(nanos))
    }

    #[test]
    fn ten_steps_of_nine_percent() {
        let mut ramps = Ramps::default();
        let length = Duration::from_nanos(1000);
        assert_eq!(ramps.weight(&server(1), 5, length, at(7)), 5);
        ramps.begin(server(1), at(7));
        let seen: Vec<_> = (0..11)
            .map(|step| ramps.percent(&server(1), length, at(7 + step * 100)))
            .collect();
        let percents = [10, 19, 28, 37, 46, 55, 64, 73, 82, 91].map(Some);
        assert_eq!(seen[..10], percents);
        assert_eq!(seen[10], None);
        assert_eq!(ramps.weight(&server(1), 5, length, at(106)), 50);
        assert_eq!(ramps.weight(&server(1), 256, length, at(107)), 4864);
        assert_eq!(ramps.weight(&server(2), 256, length, at(107)), 25_600);
        ramps.sweep(length, |_| true, at(1006));
        assert_eq!(ramps.deadline(length, at(1006)), Some(at(1007)));
        ramps.sweep(length, |_| true, at(1007));
        assert_eq!(ramps.deadline(length, at(1007)), None);
        assert_eq!(ramps.weight(&server(2), 256, length, at(1007)), 256);
    }

    #[test]
    fn a_reload_without_slow_start_ends_ramps() {
        let mut ramps = Ramps::default();
        ramps.begin(server(1), at(0));
        assert_eq!(ramps.percent(&server(1), Duration::ZERO, at(0)), None);
        ramps.sweep(Duration::ZERO, |_| true, at(0));
        assert_eq!(ramps.deadline(Duration::ZERO, at(0)), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever the length, ten wake-ups bring a server to its whole weight, each to a higher one,
        /// and never behind the straight line by more than a step.
        #[test]
        fn each_wake_up_is_a_step(
            length in 10_u64..10_000_000_000_000,
            begun in 0_u64..1_000_000_000_000,
        ) {
            let mut ramps = Ramps::default();
            let whole = Duration::from_nanos(length);
            ramps.begin(server(1), at(begun));
            let mut now = at(begun);
            let mut percents = vec![10];
            while let Some(next) = ramps.deadline(whole, now) {
                prop_assert!(next > now);
                now = next;
                ramps.sweep(whole, |_| true, now);
                let percent = ramps.percent(&server(1), whole, now).unwrap_or(100);
                let elapsed = now.since(at(begun)).as_nanos() as f64 / length as f64;
                let line = 10.0 + 90.0 * elapsed;
                prop_assert!((f64::from(percent) - line).abs() <= 9.0 + 1e-6, "{percent} {line}");
                percents.push(percent);
            }
            prop_assert_eq!(now, at(begun + length));
            prop_assert_eq!(percents, [10, 19, 28, 37, 46, 55, 64, 73, 82, 91, 100]);
        }
    }
}
