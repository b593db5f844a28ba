//! Where the figures are from: the machine, and the CPU that the benchmark keeps to itself.

use std::{fs, io};

use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::{Pid, geteuid},
};

use super::error::{Error, Result};

/// The machine in words: its CPU's model and its kernel.
#[must_use]
pub fn describe() -> String {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let kernel = read("/proc/sys/kernel/osrelease");
    let kernel = kernel.trim();
    format!("{}, Linux {kernel}", model(&read("/proc/cpuinfo")))
}

/// The model's name in a `/proc/cpuinfo`.
fn model(cpuinfo: &str) -> &str {
    cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown CPU", |(_, name)| name.trim())
}

/// Keeps this thread on one CPU, `wanted` or the last one it may use, and before other work there:
/// both change what is in the caches. Returns the CPU.
///
/// # Errors
///
/// Not root, or no such CPU.
pub fn settle(wanted: Option<usize>) -> Result<usize> {
    if !geteuid().is_root() {
        return Err(Error::NotRoot);
    }
    let os = |what| {
        move |errno: nix::errno::Errno| Error::Os {
            what,
            source: errno.into(),
        }
    };
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this).map_err(os("ask which CPUs may be used"))?;
    let last = (0..CpuSet::count()).rfind(|&cpu| allowed.is_set(cpu).unwrap_or(false));
    let cpu = wanted.or(last).unwrap_or(0);
    let mut one = CpuSet::new();
    one.set(cpu)
        .and_then(|()| sched_setaffinity(this, &one))
        .map_err(os("stay on one CPU (see --cpu)"))?;
    // SAFETY: plain numbers; 0 is the calling thread.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -20) } != 0 {
        return Err(Error::Os {
            what: "raise the priority",
            source: io::Error::last_os_error(),
        });
    }
    Ok(cpu)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_is_found() {
        let cpuinfo =
            "processor\t: 0\nmodel\t\t: 17\nmodel name\t: Some CPU @ 3 GHz\nstepping: 1\n";
        assert_eq!(model(cpuinfo), "Some CPU @ 3 GHz");
        assert_eq!(model("processor: 0\n"), "unknown CPU");
    }
}
