//! Waiting for an event with a deadline.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::error::{Error, Result};

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
    let start = Instant::now();
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

const PERIOD: Duration = Duration::from_millis(5);
