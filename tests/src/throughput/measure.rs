//! One measurement: some seconds of one kind of load through one contender.

use std::{
    fs,
    num::NonZero,
    thread,
    time::{Duration, Instant},
};

use nix::unistd::{SysconfVar, sysconf};

use super::contender::Contender;
use crate::{
    error::{Context, Result},
    traffic::{self, Bulk, Web},
};

/// How long it all takes.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    /// How long each measurement is, in seconds.
    pub seconds: u32,
    /// How often each is made; of an odd number the median is one of them.
    pub rounds: u32,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// iperf3 over one connection.
    Bulk1,
    /// The same over four.
    Bulk4,
    /// wrk over 32 connections that are kept.
    Keep,
    /// wrk, 32 at once, with a connection for each request.
    Connect,
}

/// How many connections `wrk` has at once.
const CONNECTIONS: u32 = 32;

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Bulk1, Self::Bulk4, Self::Keep, Self::Connect];

    /// Its name in rows.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bulk1 => "iperf3_1",
            Self::Bulk4 => "iperf3_4",
            Self::Keep => "http_keep_alive",
            Self::Connect => "http_connect",
        }
    }

    /// The unit of its rates.
    #[must_use]
    pub const fn unit(self) -> &'static str {
        match self {
            Self::Bulk1 | Self::Bulk4 => "Gbit/s",
            Self::Keep | Self::Connect => "requests/s",
        }
    }
}

/// What a measurement came to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// Per second, in the kind's unit.
    pub rate: f64,
    /// What all of the machine's CPUs spent on one connection, of [`Kind::Connect`].
    pub cpu_us: Option<f64>,
    /// Requests that failed.
    pub errors: u64,
}

/// Measures.
///
/// # Errors
///
/// A program failed.
pub fn once(contender: &Contender, kind: Kind, seconds: u32) -> Result<Sample> {
    let Contender {
        client, bulk, web, ..
    } = contender;
    match kind {
        Kind::Bulk1 | Kind::Bulk4 => {
            let run = Bulk {
                seconds,
                streams: if kind == Kind::Bulk1 { 1 } else { 4 },
                reverse: false,
            };
            let carried = traffic::bulk(client, *bulk, run)?;
            Ok(Sample {
                rate: carried.bits_per_second / 1e9,
                cpu_us: None,
                errors: 0,
            })
        }
        Kind::Keep | Kind::Connect => {
            let close = kind == Kind::Connect;
            let run = Web {
                seconds,
                connections: CONNECTIONS,
                close,
            };
            let before = cpu_time_us()?;
            let answered = traffic::web(client, *web, "/", run)?;
            let took = cpu_time_us()? - before;
            let each = (close && answered.requests > 0).then(|| took / answered.requests as f64);
            Ok(Sample {
                rate: answered.per_second,
                cpu_us: each,
                errors: answered.errors,
            })
        }
    }
}

/// How much of the machine's CPUs is busy with other things, 0 to 1: the figures are of that too.
///
/// # Errors
///
/// The kernel does not say.
pub fn background() -> Result<f64> {
    const WHILE: Duration = Duration::from_secs(1);
    let (before, start) = (cpu_time_us()?, Instant::now());
    thread::sleep(WHILE);
    let worked = cpu_time_us()? - before;
    let cpus = thread::available_parallelism().map_or(1, NonZero::get);
    Ok(worked / (start.elapsed().as_secs_f64() * 1e6 * cpus as f64))
}

/// How long the machine's CPUs have worked since it started, microseconds.
fn cpu_time_us() -> Result<f64> {
    let text = fs::read_to_string("/proc/stat").context(|| "read /proc/stat".into())?;
    let ticks = sysconf(SysconfVar::CLK_TCK).context(|| "ask for the clock's tick".into())?;
    Ok(busy(&text) as f64 * 1e6 / ticks.unwrap_or(100) as f64)
}

/// The ticks of a `/proc/stat` in which a CPU worked: all but idle, waiting for a disk, and what a
/// hypervisor gave to others.
fn busy(stat: &str) -> u64 {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "));
    let figures = line
        .unwrap_or_default()
        .split_whitespace()
        .map(|figure| figure.parse::<u64>());
    let figures: Vec<u64> = figures.map(Result::unwrap_or_default).collect();
    // user, nice, system, idle, iowait, irq, softirq, steal.
    [0, 1, 2, 5, 6]
        .iter()
        .filter_map(|&at| figures.get(at))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_is_no_work() {
        let stat =
            "cpu  1 20 300 4000 50000 600000 7000000 80000000 0 0\ncpu0 9 9 9 9 9 9 9 9 0 0\n";
        assert_eq!(busy(stat), 7_600_321);
    }

    #[test]
    fn the_machine_has_worked() {
        assert!(cpu_time_us().unwrap() > 0.0);
    }
}
