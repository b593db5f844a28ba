//! The way from the daemon to a script: what the new process does before it is the script.
//!
//! The daemon starts its own executable with [`ARGUMENT`], and that becomes the script. So there is a
//! whole program, with memory of its own, in which to look up users and drop privileges; and the daemon,
//! whose memory is locked and whose adverts must not wait, is not copied by a fork: it can be started by
//! `posix_spawn(3)`.
//!
//! What the script is left with:
//!
//! | | |
//! |---|---|
//! | priority | ordinary: no real-time policy, no protection from the OOM killer |
//! | user | that of `user`, with its groups; else the daemon's |
//! | capabilities | none, and no way to get any: the bounding set is emptied as far as permitted, and `no_new_privs` is set, so that neither sudo nor a file's capabilities give some |
//! | files | stdin is `/dev/null`, stdout and stderr go to the daemon; no others are open |
//! | environment | `PATH`, `LANG`, `STEERD_TRACK`; with `user` also `USER`, `LOGNAME` and `HOME` |
//! | else | directory `/`, umask 022, a process group of its own, SIGKILL when the daemon dies |

use std::{
    ffi::{OsStr, OsString},
    fmt::Display,
    io,
    os::unix::{ffi::OsStrExt, process::CommandExt},
    process::{Command, ExitCode},
};

use nix::{
    errno::Errno,
    sys::{
        prctl,
        signal::Signal,
        stat::{Mode, umask},
    },
    unistd::{self, Pid, Uid, User},
};

/// The first argument that makes the daemon's executable become a script. Then come the daemon's
/// process number, the user (empty: none), and the script's arguments.
pub(crate) const ARGUMENT: &str = "--become-script";

/// The exit code where this process could not become the script, as of env(1) and nohup(1).
const FAILED: u8 = 125;
/// The program is there, but cannot be executed.
const NOT_EXECUTABLE: u8 = 126;
/// The program is not there.
const NOT_FOUND: u8 = 127;

/// If the arguments say so, becomes a script. Returns what to exit with where that fails.
pub(crate) fn become_script() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next()? != ARGUMENT {
        return None;
    }
    let (parent, user) = (arguments.next()?, arguments.next()?);
    let argv: Vec<OsString> = arguments.collect();
    let program = argv.first()?;
    let parent = parent.to_str().and_then(|text| text.parse().ok());
    let mut command = Command::new(program);
    command.args(argv.iter().skip(1));
    if let Err((what, error)) = drop_powers(parent.map(Pid::from_raw), &user, &mut command) {
        return Some(give_up(FAILED, format_args!("cannot {what}: {error}")));
    }
    let error = command.exec();
    let code = match error.kind() {
        io::ErrorKind::NotFound => NOT_FOUND,
        _ => NOT_EXECUTABLE,
    };
    let program = program.to_string_lossy();
    Some(give_up(
        code,
        format_args!("cannot execute {program}: {error}"),
    ))
}

/// Tells the daemon by the script's own ways: a line of output and an exit code.
fn give_up(code: u8, what: impl Display) -> ExitCode {
    eprintln!("{what}");
    ExitCode::from(code)
}

fn drop_powers(
    parent: Option<Pid>,
    user: &OsStr,
    command: &mut Command,
) -> Result<(), (String, io::Error)> {
    let failed = |what: &str| {
        let what = what.to_owned();
        move |error: Errno| (what, error.into())
    };
    // SAFETY: takes no pointer. Descriptors that the daemon's parts did not mark to be closed are
    // closed, and this process has opened none that it uses.
    unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) };
    leave_real_time();
    // Where it is not negative there is no need; where it is, giving it up is permitted to all.
    let _ = std::fs::write("/proc/self/oom_score_adj", "0");
    umask(Mode::from_bits_truncate(0o022));
    empty_bounding_set();
    if !user.is_empty() {
        become_user(user, command)?;
    }
    prctl::set_no_new_privs().map_err(failed("give up new privileges"))?;
    drop_capabilities().map_err(failed("give up capabilities"))?;
    // Only now: a change of the user would undo it.
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(failed("die with steerd"))?;
    if parent.is_some_and(|parent| parent != unistd::getppid()) {
        return Err(("run".to_owned(), io::Error::other("steerd is gone")));
    }
    Ok(())
}

fn leave_real_time() {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the pointer is to a live, whole sched_param, which the kernel only reads. To leave
    // real-time scheduling is permitted to all.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_OTHER, &raw const parameters) };
}

fn become_user(user: &OsStr, command: &mut Command) -> Result<(), (String, io::Error)> {
    let name = user.to_string_lossy();
    let become_it = |error: Errno| {
        let what = format!(
            "become user {name} (steerd needs CAP_SETUID, CAP_SETGID and CAP_KILL, and the system calls \
             of systemd's @setuid)"
        );
        (what, io::Error::from(error))
    };
    let look_up = |error: io::Error| (format!("look up user {name}"), error);
    let entry = match name.parse() {
        Ok(number) => User::from_uid(Uid::from_raw(number)),
        Err(_) => User::from_name(&name),
    };
    let entry = entry
        .map_err(|error| look_up(error.into()))?
        .ok_or_else(|| look_up(io::Error::other("there is no such user")))?;
    let group_name = std::ffi::CString::new(entry.name.as_bytes())
        .map_err(|error| look_up(io::Error::other(error)))?;
    unistd::initgroups(&group_name, entry.gid).map_err(become_it)?;
    unistd::setgid(entry.gid).map_err(become_it)?;
    unistd::setuid(entry.uid).map_err(become_it)?;
    command.env("USER", &entry.name);
    command.env("LOGNAME", &entry.name);
    command.env("HOME", OsStr::from_bytes(entry.dir.as_os_str().as_bytes()));
    Ok(())
}

/// As far as permitted, which takes CAP_SETPCAP: without it `no_new_privs` has to do.
fn empty_bounding_set() {
    for capability in 0..64_u64 {
        // SAFETY: takes no pointer.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) } != 0 {
            break;
        }
    }
}

/// Clears the effective, permitted and inheritable sets, and with them the ambient one.
fn drop_capabilities() -> Result<(), Errno> {
    /// `_LINUX_CAPABILITY_VERSION_3`: sets of 64 bits, in two halves (capget(2)).
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    struct Half {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    const NONE: Half = Half {
        effective: 0,
        permitted: 0,
        inheritable: 0,
    };
    let header = Header {
        version: 0x2008_0522,
        pid: 0,
    };
    let none = [NONE, NONE];
    // SAFETY: both pointers are to live values of the layout that this version has; the kernel
    // reads them and writes the header's version alone, and only where it does not know it.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, none.as_ptr()) };
    Errno::result(result).map(drop)
}
