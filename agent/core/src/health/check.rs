//! One probe of one backend: its results in a row and what they amount to.

use std::time::Duration;

use crate::{config::Probe, event::ProbeFailure, time::Instant};

#[derive(Debug, Clone)]
pub(super) struct Check {
    pub(super) probe: Probe,
    pub(super) verdict: Verdict,
    /// Results in a row that contradict the verdict.
    pub(super) against: u8,
    pub(super) last: Option<Result<(), ProbeFailure>>,
    pub(super) running: Option<Running>,
    pub(super) due: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Unknown,
    Up,
    Down,
    Silenced,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Running {
    pub(super) since: Instant,
    /// Of a probe as it was configured before: its end says nothing.
    pub(super) stale: bool,
}

impl Check {
    /// Takes a result; the reason that it would be for a turn.
    pub(super) fn record(&mut self, outcome: Result<(), ProbeFailure>) -> String {
        let passed = outcome.is_ok();
        self.last = Some(outcome);
        let (limit, turned) = match (self.verdict, passed) {
            (Verdict::Up, true) | (Verdict::Down | Verdict::Silenced, false) => {
                self.against = 0;
                return self.reason();
            }
            (Verdict::Unknown | Verdict::Silenced, true) => (1, Verdict::Up),
            (Verdict::Unknown, false) => (1, Verdict::Down),
            (Verdict::Up, false) => (self.probe.fall, Verdict::Down),
            (Verdict::Down, true) => (self.probe.rise, Verdict::Up),
        };
        self.against = self.against.saturating_add(1);
        let reason = self.reason();
        if self.against >= limit {
            self.verdict = turned;
            self.against = 0;
        }
        reason
    }

    pub(super) fn reason(&self) -> String {
        let what = match &self.last {
            Some(Ok(())) => "passed".to_owned(),
            Some(Err(failure)) => failure.to_string(),
            None => "not run yet".to_owned(),
        };
        let of = match (self.verdict, self.against) {
            (Verdict::Unknown, _) => " (first check)".to_owned(),
            (Verdict::Silenced, _) | (_, 0) => String::new(),
            (Verdict::Up, against) => format!(" ({against} of {})", self.probe.fall),
            (Verdict::Down, against) => format!(" ({against} of {})", self.probe.rise),
        };
        match self.last {
            Some(Err(_)) => format!("probe {}: {what}{of}", self.probe.name),
            Some(Ok(())) | None => format!("probe {} {what}{of}", self.probe.name),
        }
    }

    /// The time from the start of the last check to that of the next.
    pub(super) fn pause(&self, suspect: bool, random: &mut Random) -> Duration {
        let pause = match self.against > 0 || suspect {
            true => self.probe.fast_interval.min(self.probe.interval),
            false => self.probe.interval,
        };
        pause.mul_f64((1.0 - self.probe.jitter * random.share()).clamp(0.0, 1.0))
    }
}

/// Up if all are, down if one is.
pub(super) fn judge(checks: &[Check]) -> Option<bool> {
    let any = |verdicts: &[Verdict]| checks.iter().any(|check| verdicts.contains(&check.verdict));
    match any(&[Verdict::Down, Verdict::Silenced]) {
        true => Some(false),
        false if any(&[Verdict::Unknown]) => None,
        false => Some(true),
    }
}

/// SplitMix64: for jitter, not for secrets.
#[derive(Debug, Clone)]
pub(super) struct Random(pub(super) u64);

impl Random {
    /// From 0.0 to below 1.0.
    pub(super) fn share(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        // The upper 32 bits: a u32 is exact in an f64.
        let upper = u32::try_from((mixed ^ mixed >> 31) >> 32).unwrap_or(0);
        f64::from(upper) / (f64::from(u32::MAX) + 1.0)
    }
}
