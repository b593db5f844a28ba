//! Why the lab could not do something.

use std::{fmt, io, path::PathBuf, process::ExitStatus, time::Duration};

/// The lab's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the lab could not do something, and what to do about it.
#[derive(thiserror::Error)]
pub enum Error {
    /// Namespaces need privileges.
    #[error("the lab needs root, because it makes network namespaces: run it as root or with sudo")]
    NotRoot,
    /// The operating system refused.
    #[error("cannot {what}: {source}")]
    Os {
        /// What was tried.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel refused a change of links or addresses.
    #[error("cannot {what}: {source}")]
    Netlink {
        /// What was tried.
        what: String,
        /// The kernel's answer.
        source: rtnetlink::Error,
    },
    /// A binary under test is not built.
    #[error("{name} is not at {}: run `cargo xtask test`, which builds it, or set {variable} to its path", path.display())]
    NotBuilt {
        /// The binary.
        name: &'static str,
        /// Where it was looked for.
        path: PathBuf,
        /// The variable that names it.
        variable: &'static str,
    },
    /// No other kernel to run a test on.
    #[error("this kernel lacks what the test needs, and there is no guest in {}: run `cargo xtask test`, which sets one up", dir.display())]
    NoGuest {
        /// Where one was looked for.
        dir: PathBuf,
    },
    /// A program of the system is missing.
    #[error("there is no {program} here: run `cargo xtask test`, which installs what tests need")]
    NoProgram {
        /// Its name.
        program: &'static str,
    },
    /// An example configuration is not what the lab can work with.
    #[error("{}: {reason}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Something awaited did not happen.
    #[error("waited {after:?} for {what}; {seen}")]
    Late {
        /// What was awaited.
        what: String,
        /// For how long.
        after: Duration,
        /// What there was instead.
        seen: String,
    },
    /// A program ended that should run.
    #[error("{process} ended with {status}; its last words:\n{log}")]
    Ended {
        /// The program.
        process: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of its output.
        log: String,
    },
    /// A program that makes traffic failed.
    #[error("{program} failed: {said}")]
    Traffic {
        /// The program.
        program: &'static str,
        /// What it said.
        said: String,
    },
    /// `steerctl` failed.
    #[error("steerctl on {node} failed: {reason}")]
    Ctl {
        /// The node.
        node: &'static str,
        /// Its stderr or what was wrong with its answer.
        reason: String,
    },
    /// A node is not in the state for what was asked.
    #[error("{node}: {reason}")]
    State {
        /// The node.
        node: &'static str,
        /// What is missing.
        reason: &'static str,
    },
}

impl Error {
    /// Whether the kernel does not know what it was asked for.
    #[must_use]
    pub fn is_unsupported(&self) -> bool {
        let Self::Netlink {
            source: rtnetlink::Error::NetlinkError(message),
            ..
        } = self
        else {
            return false;
        };
        message.to_io().raw_os_error() == Some(libc::EOPNOTSUPP)
    }
}

/// A test that returns an error shows it by its `Debug`: that is read by a person too.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Names what was tried when the operating system refused it.
pub trait Context<T> {
    /// Turns the refusal into an [`Error`] that begins "cannot `what`".
    ///
    /// # Errors
    ///
    /// The refusal, if there was one.
    fn context(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Context<T> for Result<T, io::Error> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::Os {
            what: what(),
            source,
        })
    }
}

impl<T> Context<T> for Result<T, nix::errno::Errno> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|errno| Error::Os {
            what: what(),
            source: errno.into(),
        })
    }
}

impl<T> Context<T> for Result<T, rtnetlink::Error> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::Netlink {
            what: what(),
            source,
        })
    }
}
