//! What steerd is to reach, and whether it does.

use std::fmt;

use super::{event::Event, stats::Summary, trace::PERIOD};

/// What steerd is to reach.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Target {
    /// Not above keepalived's median, but for noise.
    NotWorse,
    /// Not above the noise.
    Noise,
    /// So many intervals between adverts.
    Adverts(u32),
    /// Percent of a CPU.
    Percent(f64),
    /// Never.
    None,
}

impl Target {
    /// That of an event; none: it has none.
    pub(super) fn of(event: Event, advert_ms: u32) -> Option<Self> {
        match event {
            Event::Start => Some(Self::Adverts(3)),
            Event::Crash => Some(Self::NotWorse),
            Event::Failback | Event::Handover | Event::Failover => Some(Self::Noise),
            Event::DaemonKilled => Some(Self::Adverts(4)),
            Event::Cpu if advert_ms == 10 => Some(Self::Percent(1.0)),
            Event::FalseTakeovers => Some(Self::None),
            Event::Cpu | Event::NoiseFloor | Event::StartAgain => None,
        }
    }

    /// Whether this time is within it; none where what it is compared with was not measured.
    pub(super) fn is_met(
        self,
        ms: f64,
        advert_ms: u32,
        keepalived: Option<f64>,
        noise: Option<Summary>,
    ) -> Option<bool> {
        // The client does not see what is shorter than the time between two datagrams.
        let noise = noise.map(|noise| noise.max + PERIOD.as_secs_f64() * 1e3);
        match self {
            Self::NotWorse => Some(ms <= keepalived? + noise?),
            Self::Noise => Some(ms <= noise?),
            Self::Adverts(count) => Some(ms <= f64::from(count * advert_ms)),
            // Not of times.
            Self::Percent(_) | Self::None => None,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotWorse => f.write_str("<= keepalived + noise"),
            Self::Noise => f.write_str("<= noise"),
            Self::Adverts(count) => write!(f, "<= {count} adverts"),
            Self::Percent(percent) => write!(f, "< {percent} %"),
            Self::None => f.write_str("0"),
        }
    }
}
