//! The first program in a guest, from the kernel's call to its own end: it mounts what programs
//! expect, loads the modules, runs the command, says how that ended, and switches the guest off.

use std::{
    convert::Infallible,
    ffi::CStr,
    fs::{self, File},
    io::{self, Write as _},
    os::{fd::AsRawFd, unix::process::ExitStatusExt},
    process::{Command, ExitStatus},
};

use nix::{
    mount::{MsFlags, mount},
    sys::{
        reboot::{RebootMode, reboot},
        wait::{WaitStatus, wait},
    },
    unistd::Pid,
};

use crate::error::{Context, Result};

/// Where modules are, in the order of their names.
pub(super) const MODULES: &str = "/modules";
/// The file with the command: program and arguments, one a line.
pub(super) const COMMAND: &str = "/guest-command";
/// The line that says that the command succeeded.
pub(super) const PASSED: &str = "guest: the command succeeded";

/// Everything; returns only if the guest cannot be switched off.
///
/// # Errors
///
/// This is no guest's first program.
pub fn run() -> Result<Infallible> {
    match prepare().and_then(|()| command()) {
        Ok(status) if status.success() => println!("\n{PASSED}"),
        Ok(status) => println!("\nguest: {status}"),
        Err(error) => println!("\nguest: {error}"),
    }
    let _ = io::stdout().flush();
    reboot(RebootMode::RB_POWER_OFF).context(|| "switch the guest off".into())
}

fn prepare() -> Result<()> {
    let none: Option<&str> = None;
    for (kind, at) in [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("devtmpfs", "/dev"),
        ("tmpfs", "/tmp"),
        ("tmpfs", "/run"),
        ("bpf", "/sys/fs/bpf"),
    ] {
        mount(Some(kind), at, Some(kind), MsFlags::empty(), none)
            .context(|| format!("mount {at}"))?;
    }
    let mut modules: Vec<_> = fs::read_dir(MODULES)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
        .context(|| format!("list {MODULES}"))?;
    modules.sort();
    for module in modules {
        File::open(&module)
            .and_then(|file| load(&file))
            .context(|| format!("load {}", module.display()))?;
    }
    Ok(())
}

fn load(module: &File) -> io::Result<()> {
    let parameters: &CStr = c"";
    // SAFETY: the kernel reads a string that ends in a zero, and a file that is open.
    let done = unsafe {
        libc::syscall(
            libc::SYS_finit_module,
            module.as_raw_fd(),
            parameters.as_ptr(),
            0,
        )
    };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn command() -> Result<ExitStatus> {
    let what = || "run the command".into();
    let words = fs::read_to_string(COMMAND).context(what)?;
    let mut words = words.lines();
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words).env("PATH", "/bin").env("HOME", "/tmp");
    let child = command.spawn().context(what)?;
    let child = Pid::from_raw(child.id().cast_signed());
    // All whose parents died are its children too, and it buries them.
    loop {
        match wait().context(what)? {
            WaitStatus::Exited(pid, code) if pid == child => {
                return Ok(ExitStatus::from_raw(code << 8));
            }
            WaitStatus::Signaled(pid, signal, _) if pid == child => {
                return Ok(ExitStatus::from_raw(signal as i32));
            }
            _ => {}
        }
    }
}
