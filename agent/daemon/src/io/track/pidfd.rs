//! Process file descriptors: a process that cannot be mistaken for another one of the same number, and
//! whose end is an event (Linux 5.3).

use std::{
    io,
    os::fd::{AsFd, FromRawFd, OwnedFd},
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    unistd::Pid,
};
use tokio::io::{Interest, unix::AsyncFd};

/// A process.
pub(super) struct PidFd(AsyncFd<OwnedFd>);

impl PidFd {
    /// The process that has this number now.
    ///
    /// # Errors
    ///
    /// There is none, or the kernel is older than 5.3.
    pub(super) fn open(pid: Pid) -> io::Result<Self> {
        // SAFETY: takes no pointer; on success the result is a new descriptor that nobody else owns.
        let result = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
        let raw = i32::try_from(result).unwrap_or(-1);
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: as above.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        // SAFETY: it owns its descriptor, and never replaces or closes it before its drop.
        let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
        Ok(Self(fd?))
    }

    /// Whether it has ended. Its number is taken until it was waited for.
    pub(super) fn has_ended(&self) -> bool {
        let mut polled = [PollFd::new(self.0.get_ref().as_fd(), PollFlags::POLLIN)];
        poll(&mut polled, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }

    /// Waits for its end.
    pub(super) async fn end(&self) {
        loop {
            // It fails only while the runtime shuts down: then nobody waits.
            let Ok(mut ready) = self.0.readable().await else {
                return std::future::pending().await;
            };
            if self.has_ended() {
                return;
            }
            ready.clear_ready();
        }
    }
}
