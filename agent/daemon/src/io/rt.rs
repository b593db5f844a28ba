//! Real-time scheduling for the thread that sends and times adverts, so that a busy host neither
//! falls silent as master nor takes over as backup for want of a time slice.

use std::io;

use nix::{
    sys::{
        mman::{MlockAllFlags, mlockall},
        resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit},
    },
    unistd::Pid,
};

/// Low among the real-time priorities: above everything ordinary, below the kernel's own threads.
const PRIORITY: libc::c_int = 10;

/// Gives the calling thread a real-time priority and locks the process's memory, as far as the system
/// permits. What it does not is logged with what to change: steerd works without, with less certainty.
pub(crate) fn make_realtime() {
    if let Err(error) = schedule_fifo() {
        tracing::warn!(
            %error,
            "adverts are sent without real-time priority, so a busy host may cause false takeovers; \
             give steerd CAP_SYS_NICE (systemd: LimitRTPRIO={PRIORITY})"
        );
    }
    if let Err(error) = lock_memory() {
        tracing::warn!(
            %error,
            "memory is not locked, so adverts may be late while the host swaps; give steerd \
             CAP_IPC_LOCK (systemd: LimitMEMLOCK=infinity)"
        );
    }
}

/// SCHED_FIFO for this thread. What it starts (hooks, other threads) goes back to ordinary.
fn schedule_fifo() -> io::Result<()> {
    let this_thread = Pid::from_raw(0);
    let parameters = libc::sched_param {
        sched_priority: PRIORITY,
    };
    // SAFETY: the pointer is to a live, whole sched_param, which the kernel only reads.
    let result = unsafe {
        libc::sched_setscheduler(
            this_thread.as_raw(),
            libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK,
            &raw const parameters,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Locks what is mapped now and later, page by page as it is touched (Linux 4.4), so that thread
/// stacks do not cost their full size.
fn lock_memory() -> io::Result<()> {
    // Under a limit, locking the future would turn later allocations into failures: worse than a
    // page fault. CAP_SYS_RESOURCE can lift the limit, CAP_IPC_LOCK makes it void.
    let (limit, _) = getrlimit(Resource::RLIMIT_MEMLOCK)?;
    let unlimited = limit == RLIM_INFINITY
        || has_ipc_lock()
        || setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY).is_ok();
    if !unlimited {
        return Err(io::Error::from_raw_os_error(libc::EPERM));
    }
    let flags = MlockAllFlags::MCL_CURRENT
        | MlockAllFlags::MCL_FUTURE
        | MlockAllFlags::from_bits_retain(libc::MCL_ONFAULT);
    Ok(mlockall(flags)?)
}

/// Whether this process has CAP_IPC_LOCK, which makes the limit on locked memory void.
fn has_ipc_lock() -> bool {
    const CAP_IPC_LOCK: u64 = 1 << 14;
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    effective_capabilities(&status).is_some_and(|capabilities| capabilities & CAP_IPC_LOCK != 0)
}

fn effective_capabilities(status: &str) -> Option<u64> {
    let value = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(value.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read() {
        let status = "Name:\tsteerd\nCapPrm:\t0000000000000000\nCapEff:\t0000000000004400\n";
        assert_eq!(effective_capabilities(status), Some(0x4400));
        assert_eq!(effective_capabilities("CapEff:\tnonsense\n"), None);
        assert_eq!(effective_capabilities(""), None);
    }

    #[test]
    fn the_thread_becomes_real_time_where_it_may() {
        let policy = std::thread::spawn(|| {
            let permitted = schedule_fifo().is_ok();
            // SAFETY: takes no pointer; zero is the calling thread.
            (permitted, unsafe { libc::sched_getscheduler(0) })
        });
        let (permitted, policy) = policy.join().unwrap();
        let expected = if permitted {
            libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK
        } else {
            eprintln!("SKIPPED: this user may not use real-time scheduling");
            libc::SCHED_OTHER
        };
        assert_eq!(policy, expected);
    }
}
