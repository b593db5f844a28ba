//! A host's namespaces: its network, and its view of `/sys`, `/run` and the BPF file system.
//!
//! They have no names. They live as long as a [`Namespace`] or a process inside does, and take
//! interfaces, mounts, pinned maps and links with them: a killed test leaves nothing behind.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::process::CommandExt,
    },
    path::Path,
    process::Command,
    sync::Arc,
    thread::{self, JoinHandle},
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
    unistd::Uid,
};

use crate::{
    error::{Context, Error, Result},
    link,
};

/// A host's namespaces. Clones share them.
#[derive(Debug, Clone)]
pub struct Namespace {
    fds: Arc<Fds>,
}

#[derive(Debug)]
struct Fds {
    net: File,
    mnt: File,
}

/// What of its file system a host sees of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bpffs {
    /// `/sys/fs/bpf` is a BPF file system, as systemd mounts it.
    Mounted,
    /// It is not.
    Missing,
}

impl Namespace {
    /// New namespaces, with `lo` up, an empty `/run` and IPv6 that needs no second to find out that
    /// an address is unique.
    ///
    /// # Errors
    ///
    /// Not root, or a kernel without namespaces.
    pub fn new(bpffs: Bpffs) -> Result<Self> {
        require_root()?;
        // A thread of its own: unshare(2) moves the calling thread, and this one must stay.
        let made = thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
                .context(|| "make namespaces".into())?;
            mount_private(bpffs)?;
            for (key, value) in SYSCTLS {
                sysctl(key, value)?;
            }
            link::up("lo")?;
            let open = |kind: &str| {
                let path = format!("/proc/thread-self/ns/{kind}");
                File::open(&path).context(|| format!("open {path}"))
            };
            Ok(Fds {
                net: open("net")?,
                mnt: open("mnt")?,
            })
        });
        Ok(Self {
            fds: Arc::new(joined(made)?),
        })
    }

    /// Runs `work` in the network namespace.
    ///
    /// # Errors
    ///
    /// Those of `work`.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.enter_net()?;
                work()
            });
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// A thread in the network namespace.
    pub fn thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> JoinHandle<Result<T>> {
        let namespace = self.clone();
        thread::spawn(move || {
            namespace.enter_net()?;
            work()
        })
    }

    /// A program to be run on this host. It dies with the thread that starts it.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        let namespace = self.clone();
        let parent = nix::unistd::getpid();
        let enter = move || -> io::Result<()> {
            setns(&namespace.fds.mnt, CloneFlags::CLONE_NEWNS)?;
            setns(&namespace.fds.net, CloneFlags::CLONE_NEWNET)?;
            nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
            // The parent may have died before the order took effect.
            if nix::unistd::getppid() == parent {
                Ok(())
            } else {
                Err(io::ErrorKind::Interrupted.into())
            }
        };
        // SAFETY: between fork and exec only system calls are made; nothing allocates or locks.
        unsafe { command.pre_exec(enter) };
        command
    }

    /// The network namespace, to move interfaces into.
    #[must_use]
    pub fn net(&self) -> BorrowedFd<'_> {
        self.fds.net.as_fd()
    }

    fn enter_net(&self) -> Result<()> {
        setns(&self.fds.net, CloneFlags::CLONE_NEWNET).context(|| "enter a namespace".into())
    }
}

/// Fails early, and in words, where a namespace could not be made.
///
/// # Errors
///
/// Not root.
pub fn require_root() -> Result<()> {
    if Uid::effective().is_root() {
        Ok(())
    } else {
        Err(Error::NotRoot)
    }
}

/// Sets a sysctl of the network namespace this thread is in.
///
/// # Errors
///
/// An unknown key or a refused value.
pub fn sysctl(key: &str, value: &str) -> Result<()> {
    fs::write(Path::new("/proc/sys").join(key), value).context(|| format!("set {key} to {value}"))
}

/// Addresses work at once and nothing waits for a router.
const SYSCTLS: [(&str, &str); 4] = [
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv6/conf/default/dad_transmits", "0"),
    ("net/ipv6/conf/default/router_solicitations", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
];

/// Gives the calling thread, just moved into a new mount namespace, its own `/sys`, `/run` and
/// BPF file system, so that the default paths of a configuration work on each host.
fn mount_private(bpffs: Bpffs) -> Result<()> {
    let root: Option<&str> = None;
    mount(root, "/", root, MsFlags::MS_REC | MsFlags::MS_PRIVATE, root)
        .context(|| "make mounts private".into())?;
    let mut mounts = vec![("sysfs", "/sys"), ("tmpfs", "/run")];
    if bpffs == Bpffs::Mounted {
        mounts.push(("bpf", "/sys/fs/bpf"));
    }
    for (kind, at) in mounts {
        mount(Some(kind), at, Some(kind), MsFlags::empty(), root)
            .context(|| format!("mount {kind} at {at}"))?;
    }
    Ok(())
}

fn joined<T>(thread: JoinHandle<Result<T>>) -> Result<T> {
    thread
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_sees_only_its_host() {
        let namespace = Namespace::new(Bpffs::Mounted).unwrap();
        let list = |path| {
            let output = namespace.command("ls").arg(path).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        assert_eq!(list("/sys/class/net").trim(), "lo");
        assert_eq!(list("/run"), "");
        let kind = namespace
            .command("stat")
            .args(["-fc%T", "/sys/fs/bpf"])
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&kind.stdout).trim(), "bpf_fs");
    }

    #[test]
    fn a_host_may_lack_the_bpf_file_system() {
        let namespace = Namespace::new(Bpffs::Missing).unwrap();
        let kind = namespace
            .command("stat")
            .args(["-fc%T", "/sys/fs/bpf"])
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&kind.stdout).trim(), "sysfs");
    }
}
