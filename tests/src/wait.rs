//! Waiting for an event with a deadline. In a [`guest`] all deadlines are later.

use std::{
    sync::LazyLock,
    thread,
    time::{Duration, Instant},
};

use crate::{
    error::{Error, Result},
    guest,
};

/// Asks `probe` every few milliseconds until it has an answer.
///
/// # Errors
///
/// Those of `probe`, or [`Error::Late`] after `deadline`, with what `seen` says there was instead.
pub fn until<T>(
    what: &str,
    deadline: Duration,
    mut probe: impl FnMut() -> Result<Option<T>>,
    seen: impl FnOnce() -> String,
) -> Result<T> {
    let (start, deadline) = (Instant::now(), patience(deadline));
    loop {
        if let Some(answer) = probe()? {
            return Ok(answer);
        }
        if start.elapsed() >= deadline {
            return Err(Error::Late {
                what: what.to_owned(),
                after: deadline,
                seen: seen(),
            });
        }
        thread::sleep(PERIOD);
    }
}

/// How long may be waited here for what takes no longer than `usually` on a machine that is not
/// emulated.
#[must_use]
pub fn patience(usually: Duration) -> Duration {
    static FACTOR: LazyLock<u32> = LazyLock::new(|| if guest::is_here() { SLOWER } else { 1 });
    usually * *FACTOR
}

/// A guest is some ten times slower, but what is waited for is mostly not that it computes.
const SLOWER: u32 = 5;

const PERIOD: Duration = Duration::from_millis(5);
