//! What the daemons cost while nothing happens, and what a busy machine does to them.

use std::{
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use super::{
    contender::{Contender, Pace, Role},
    pair::Pair,
};
use crate::{
    error::{Context, Result},
    node::{Binaries, NodeId},
};

/// Shares of a CPU, in percent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cpu {
    /// The master's daemon.
    pub master: f64,
    /// The backup's.
    pub backup: f64,
}

/// Measures what each contender's daemons take at this pace, all in the same time. Nobody sends to
/// the address meanwhile: what the kernel does for packets would be put down to whom it interrupts.
///
/// # Errors
///
/// A pair does not get ready, or a daemon ends.
pub fn cpu(
    pace: Pace,
    contenders: &[Contender],
    span: Duration,
    binaries: &Binaries,
) -> Result<Vec<(Contender, Cpu)>> {
    let mut pairs = Vec::new();
    for &contender in contenders {
        let mut pair = Pair::new(contender, pace, binaries)?;
        pair.ready()?;
        pair.send(false)?;
        pairs.push(pair);
    }
    // What belongs to a start, such as second announcements, is over.
    thread::sleep(Duration::from_secs(6));
    let times = |pair: &mut Pair| -> Result<[Duration; 2]> {
        Ok([
            pair.cpu_time(NodeId::Primary)?,
            pair.cpu_time(NodeId::Backup)?,
        ])
    };
    let before = pairs.iter_mut().map(times).collect::<Result<Vec<_>>>()?;
    thread::sleep(span);
    let mut shares = Vec::new();
    for (pair, before) in pairs.iter_mut().zip(before) {
        let after = times(pair)?;
        let share = |id: NodeId| {
            let worked = after[id as usize].saturating_sub(before[id as usize]);
            100.0 * worked.as_secs_f64() / span.as_secs_f64()
        };
        let cpu = Cpu {
            master: share(NodeId::Primary),
            backup: share(NodeId::Backup),
        };
        shares.push((pair.contender, cpu));
    }
    Ok(shares)
}

/// How many processes are busy.
pub const BUSY: usize = 6;

/// Counts how often the backup takes over while the master lives and the machine is busy.
///
/// # Errors
///
/// The pair does not get ready, or a daemon ends.
pub fn false_takeovers(
    contender: Contender,
    pace: Pace,
    span: Duration,
    binaries: &Binaries,
) -> Result<usize> {
    let mut pair = Pair::new(contender, pace, binaries)?;
    pair.ready()?;
    pair.send(false)?;
    let before = pair.said(NodeId::Backup, Role::Master)?;
    let busy = Busy::start()?;
    thread::sleep(span);
    drop(busy);
    Ok(pair.said(NodeId::Backup, Role::Master)? - before)
}

/// Busy processes of ordinary priority; they end on drop.
#[derive(Debug)]
struct Busy(Vec<Child>);

impl Busy {
    fn start() -> Result<Self> {
        let mut busy = Self(Vec::new());
        for _ in 0..BUSY {
            let mut command = Command::new("sh");
            // It ends by itself soon after this process, should that be killed: who has to read what
            // nobody writes any more knows.
            command.args([
                "-c",
                "while kill -0 $PPID; do i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; done",
            ]);
            command.stderr(Stdio::null());
            let child = command.spawn().context(|| "start a busy process".into())?;
            busy.0.push(child);
        }
        Ok(busy)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // What has ended needs nothing.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
