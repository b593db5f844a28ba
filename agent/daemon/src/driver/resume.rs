//! What a daemon takes over from the one before it, and its sign of life that this rests on.

use std::time::Duration;

use steerd_core::{config::Config, node::Restored, time::Instant};
use tracing::{error, info};

use super::fence::watched;
use crate::io::{
    dataplane::Dataplane,
    netlink::Netlink,
    state::{StateError, StateFile},
};

/// How often a daemon gives its sign of life to the control map: often enough that the next one can
/// tell whether the peers of the fastest virtual router still wait.
pub(super) fn heartbeat_period(config: &Config) -> Duration {
    const SHORTEST: Duration = Duration::from_millis(10);
    const LONGEST: Duration = Duration::from_millis(100);
    let intervals = config
        .virtual_routers
        .iter()
        .map(|router| router.advert_interval);
    intervals.min().unwrap_or(LONGEST).clamp(SHORTEST, LONGEST)
}

/// What the last daemon left: its backends' health from the maps, and its roles if it stopped so
/// shortly ago that its peers still wait for its next advert.
pub(super) fn restored(
    config: &Config,
    plane: &Dataplane,
    state: &StateFile,
    now: Instant,
) -> Restored {
    let away = plane.last_heartbeat().map(|last| now.since(last));
    let period = heartbeat_period(config);
    // What was master goes on only where its packets are steered meanwhile.
    let names = state.masters().iter().filter(|_| plane.is_carried());
    let masters = names.filter(|name| {
        config
            .virtual_router(name)
            .zip(away)
            .is_some_and(|(router, away)| still_waited_for(away, router.advert_interval, period))
            // Another one has not waited, by what the program has seen.
            && config.virtual_router(name).is_some_and(|router| !plane.was_fenced(&watched(router, None)))
    });
    let restored = Restored {
        backends: plane.restored(&config.services),
        masters: masters.cloned().collect(),
    };
    if let Some(away) = away {
        info!(
            away_ms = u64::try_from(away.as_millis()).unwrap_or(u64::MAX),
            backends = restored.backends.len(),
            resumed = restored.masters.len(),
            "found the maps of an earlier steerd: its flows go on"
        );
    }
    restored
}

/// Takes addresses that an earlier daemon did not live to take off, and that no virtual router has
/// any more, off their interfaces.
pub(super) async fn tidy_up(
    config: &Config,
    netlink: &Netlink,
    state: &mut StateFile,
) -> Result<(), StateError> {
    let translating = super::nat::translating(config, &netlink.interfaces().borrow());
    for (interface, net) in state.left_behind(config, &translating) {
        match netlink.remove(&interface, net).await {
            Ok(()) => {
                info!(%interface, "took off {net}, which an earlier steerd left behind");
                state.released(&interface, &[net])?;
            }
            // Still noted: the next daemon tries again.
            Err(error) => error!("{error}"),
        }
    }
    Ok(())
}

/// Whether peers still wait for an advert of a daemon whose last sign of life was `away` ago.
///
/// They take over after three intervals and the skew (RFC 9568 section 6.1). The last sign of life is
/// older than the death by up to a heartbeat's period.
fn still_waited_for(away: Duration, advert_interval: Duration, period: Duration) -> bool {
    away < 3 * advert_interval + period
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::lab;

    fn config(intervals: &[u64]) -> Config {
        let mut config = lab::config("eth0", &["10.9.0.100/24"], &[]);
        let router = config.virtual_routers.remove(0);
        for interval in intervals {
            let mut router = router.clone();
            router.advert_interval = Duration::from_millis(*interval);
            config.virtual_routers.push(router);
        }
        config
    }

    #[test]
    fn the_heartbeat_is_as_fast_as_the_fastest_adverts() {
        let period = |intervals: &[u64]| heartbeat_period(&config(intervals)).as_millis();
        assert_eq!(period(&[]), 100);
        assert_eq!(period(&[1000, 40_950]), 100);
        assert_eq!(period(&[1000, 30]), 30);
        assert_eq!(period(&[10]), 10);
    }

    #[test]
    fn a_daemon_that_is_back_at_once_resumes_whatever_the_interval() {
        for interval in [10, 30, 100, 1000] {
            let period = heartbeat_period(&config(&[interval]));
            let interval = Duration::from_millis(interval);
            let resumes = |away| still_waited_for(away, interval, period);
            // Killed right before a sign of life was due, and back within two intervals.
            assert!(resumes(period + 2 * interval), "{interval:?}");
            assert!(!resumes(period + 3 * interval), "{interval:?}");
        }
    }
}
