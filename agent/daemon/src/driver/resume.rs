//! What a daemon takes over from the one before it.

use steerd_core::{config::Config, node::Restored, time::Instant};
use tracing::info;

use crate::io::{dataplane::Dataplane, state::StateFile};

/// What the last daemon left: its backends' health from the maps, and its roles if it stopped so
/// shortly ago that its peers still wait for its next advert.
pub(super) fn restored(
    config: &Config,
    plane: &Dataplane,
    state: &StateFile,
    now: Instant,
) -> Restored {
    let away = plane.last_heartbeat().map(|last| now.since(last));
    let masters = state.masters().into_iter().filter(|name| {
        let patience = config
            .virtual_router(name)
            .map(|router| 3 * router.advert_interval);
        away.zip(patience)
            .is_some_and(|(away, patience)| away < patience)
    });
    let restored = Restored {
        backends: plane.restored(&config.services),
        masters: masters.collect(),
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
