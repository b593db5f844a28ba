//! How many labs run at once on this machine: as many as it has slots, over all processes.
//!
//! A lab measures milliseconds; more of them than the processors can carry would measure each
//! other.

use std::{env, fs::File, path::PathBuf, thread, time::Duration};

use crate::error::{Context, Result};

/// The right to run a lab, until dropped.
#[derive(Debug)]
pub struct Slots {
    _held: Vec<File>,
}

impl Slots {
    /// Waits for a free slot.
    ///
    /// # Errors
    ///
    /// The temporary directory cannot be written.
    pub fn one() -> Result<Self> {
        loop {
            for number in 0..COUNT {
                let file = slot(number)?;
                if file.try_lock().is_ok() {
                    return Ok(Self { _held: vec![file] });
                }
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until no other lab runs, and keeps others out: for what is measured against a target.
    ///
    /// # Errors
    ///
    /// The temporary directory cannot be written.
    pub fn all() -> Result<Self> {
        // Always in the same order, so that two that want all cannot each hold half.
        let mut held = Vec::new();
        for number in 0..COUNT {
            let file = slot(number)?;
            file.lock().context(|| "lock a slot".into())?;
            held.push(file);
        }
        Ok(Self { _held: held })
    }
}

const COUNT: usize = 2;

fn slot(number: usize) -> Result<File> {
    let path: PathBuf = env::temp_dir().join(format!("steerd-lab.slot{number}"));
    let open = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path);
    open.context(|| format!("open {}", path.display()))
}
