//! The clock of the flow table, as seen from user space.

use core::time::Duration;

use crate::flow;

/// The kernel's tick, by which the flow table tells time.
///
/// User space cannot read jiffies, but can compute them: they start 300 s before a wrap of 32
/// bits (`INITIAL_JIFFIES`), go on with CLOCK_MONOTONIC, and one is the resolution of that
/// clock's coarse form.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// The time from one jiffy to the next.
    pub tick: Duration,
    /// The jiffies now.
    pub jiffies: u64,
}

impl Clock {
    /// From the resolution of CLOCK_MONOTONIC_COARSE and its reading; `None` if that is no
    /// kernel's tick.
    #[must_use]
    pub fn new(tick: Duration, monotonic: Duration) -> Option<Self> {
        let per_second = Duration::from_secs(1).div_duration_f64(tick).round();
        if !(1.0..=10_000.0).contains(&per_second) {
            return None;
        }
        let start = (1_u64 << 32) - 300 * per_second as u64;
        let ticks = monotonic.as_nanos().checked_div(tick.as_nanos())? as u64;
        Some(Self {
            tick,
            jiffies: start + ticks,
        })
    }

    /// The time since an entry's [`flow::Value::seen`].
    #[must_use]
    pub fn since(&self, seen: u32) -> Duration {
        // The boot's first moments count differently: an entry may seem to be of the near future.
        const FUTURE: u32 = (1 << 20) - 16;
        match flow::age(flow::seen(self.jiffies), seen) {
            FUTURE.. => Duration::ZERO,
            age => self.unit() * age,
        }
    }

    /// The unit of [`flow::Value::seen`].
    #[must_use]
    pub fn unit(&self) -> Duration {
        self.tick * (1 << flow::SEEN_SHIFT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_since() {
        let clock = Clock::new(Duration::from_millis(4), Duration::from_secs(400)).unwrap();
        // 100 s after the wrap of 32 bits.
        assert_eq!(clock.jiffies, (1 << 32) + 100 * 250);
        let now = flow::seen(clock.jiffies);
        assert_eq!(clock.since(now), Duration::ZERO);
        assert_eq!(clock.since(now + 1), Duration::ZERO);
        assert_eq!(clock.since(now - 10), Duration::from_millis(10_240));
        assert!(Clock::new(Duration::ZERO, Duration::ZERO).is_none());
        // 300 Hz and 1000 Hz: ticks that are no whole number of nanoseconds or milliseconds apart.
        let clock = Clock::new(Duration::from_nanos(3_333_333), Duration::ZERO).unwrap();
        assert_eq!(clock.jiffies, (1 << 32) - 300 * 300);
    }
}
