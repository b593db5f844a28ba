//! Processes: some of a name must run.
//!
//! The end of a process is the kernel's word, through a descriptor of it (pidfd): no list of processes
//! is read for that, and none while enough run. Only while some are missing is `/proc` looked through,
//! once an interval: two small files for each process of the host, about 10 µs each. The kernel's own
//! notifications of new processes (the proc connector) would need CAP_NET_ADMIN in the host's first
//! namespaces, and wake the daemon for every process of the host.
//!
//! Each interval the names of those that are known are read again: a process can become another
//! program.

use std::{collections::BTreeMap, fs, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use nix::unistd::Pid;
use steerd_core::event::{Sight, TrackFailure};
use tokio::time::Instant;

use super::{Reporter, pidfd::PidFd};

/// The kernel keeps so many bytes of a process's name (TASK_COMM_LEN without the final zero).
const COMM_MAX: usize = 15;

/// The least time between two searches.
const PAUSE: Duration = Duration::from_millis(50);

/// Reports whether at least so many processes of this name run.
pub(super) async fn watch(name: String, at_least: u16, interval: Duration, mut reporter: Reporter) {
    let mut known: BTreeMap<i32, PidFd> = BTreeMap::new();
    let mut next_search = Instant::now();
    loop {
        known.retain(|pid, process| is_called(*pid, &name) && !process.has_ended());
        if known.len() < usize::from(at_least) {
            let (wanted, before) = (name.clone(), known.keys().copied().collect::<Vec<_>>());
            let missing = usize::from(at_least) - known.len();
            // One that dies again and again is no reason to do nothing else.
            tokio::time::sleep_until(next_search).await;
            next_search = Instant::now() + PAUSE;
            // A host may have tens of thousands.
            let found = tokio::task::spawn_blocking(move || {
                let new = all().filter(|pid| !before.contains(pid));
                new.filter(|pid| is_called(*pid, &wanted))
                    .collect::<Vec<_>>()
            });
            let found = found.await.unwrap_or_default().into_iter();
            known.extend(found.filter_map(|pid| held(pid, &name)).take(missing));
        }
        let running = u16::try_from(known.len()).unwrap_or(u16::MAX);
        let outcome = match running >= at_least {
            true => Ok(Sight::of(match running {
                1 => format!("{name} runs"),
                _ => format!("{running} processes {name} run"),
            })),
            false => Err(TrackFailure::Processes {
                running,
                wanted: at_least,
            }),
        };
        reporter.report(outcome).await;
        let mut ends: FuturesUnordered<_> = known.values().map(PidFd::end).collect();
        tokio::select! {
            // Never where there is none.
            Some(()) = ends.next() => {}
            () = tokio::time::sleep(interval) => {}
        }
    }
}

/// The numbers of all processes.
fn all() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The process with this number, if it has this name and lives. It is opened first: then what is read
/// is of that one, or of none.
fn held(pid: i32, name: &str) -> Option<(i32, PidFd)> {
    let process = PidFd::open(Pid::from_raw(pid)).ok()?;
    (is_called(pid, name) && !process.has_ended()).then_some((pid, process))
}

/// Whether the process calls itself so, or was started by a path that ends so.
fn is_called(pid: i32, name: &str) -> bool {
    let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let comm = read("comm");
    let comm = comm.strip_suffix(b"\n").unwrap_or(&comm);
    if comm == name.as_bytes() && name.len() <= COMM_MAX {
        return true;
    }
    let command = read("cmdline");
    let program = command.split(|byte| *byte == 0).next().unwrap_or_default();
    let last = program.rsplit(|byte| *byte == b'/').next();
    !name.is_empty() && last == Some(name.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_found_by_its_name() {
        let own = i32::try_from(std::process::id()).unwrap();
        let comm = fs::read_to_string("/proc/self/comm").unwrap();
        let exe = std::env::current_exe().unwrap();
        let exe = exe.file_name().unwrap().to_str().unwrap();
        assert!(all().any(|pid| pid == own));
        // A thread's name is not the process's, so this is the test binary's, cut.
        assert!(is_called(own, exe), "{exe}");
        assert!(!is_called(own, &format!("{exe}x")));
        assert!(!is_called(own, ""));
        assert!(comm.trim_end().len() <= COMM_MAX);
        assert!(!is_called(i32::MAX, exe));
    }
}
