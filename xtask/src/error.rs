//! What can go wrong in a task, each with what to do about it.

use std::{io, path::PathBuf, process::ExitStatus};

/// A task's failure. Its text is all the user sees, so it names the command or file, and the way out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A program could not be started at all.
    #[error("cannot start `{command}`: {source}")]
    Start {
        /// The command as a shell line.
        command: String,
        /// Why.
        source: io::Error,
    },
    /// A program ended with a failure; what it printed says why.
    #[error("`{command}` failed ({status}); its own messages are above")]
    Failed {
        /// The command as a shell line.
        command: String,
        /// How it ended.
        status: ExitStatus,
    },
    /// A file operation failed.
    #[error("cannot {what} {}: {source}", path.display())]
    File {
        /// The operation, as a verb.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something must be installed, and `--no-install` forbids it.
    #[error(
        "{missing} missing, and --no-install was given; run these, then this once more, which names what is missing then:\n{commands}"
    )]
    NotInstalling {
        /// What is missing.
        missing: String,
        /// Shell lines.
        commands: String,
    },
    /// Something must be installed by root.
    #[error("{missing} missing, and installing needs root; run as root and try again:\n{commands}")]
    NeedsRoot {
        /// What is missing.
        missing: String,
        /// Shell lines.
        commands: String,
    },
    /// apt offers no compiler that will do.
    #[error("{why}")]
    NoPackages {
        /// What it lacks.
        why: String,
    },
    /// No way to get a compiler for the eBPF target.
    #[error(
        "no Rust compiler for eBPF here, and none to install: {why}\n\
         install one with `rustup toolchain install nightly --profile minimal --component rust-src --component clippy`"
    )]
    NoToolchain {
        /// Why the ways tried did not do.
        why: String,
    },
    /// The unpacked compiler lacks shared libraries that its packages do not name.
    #[error(
        "the unpacked compiler lacks {libraries}: install the packages that hold them and try again"
    )]
    MissingLibraries {
        /// The sonames.
        libraries: String,
    },
    /// Neither apt nor the program.
    #[error(
        "`{program}` is missing and this system has no apt-get: install the package that holds it (Debian: {package})"
    )]
    NoApt {
        /// The program.
        program: String,
        /// Debian's package with it.
        package: String,
    },
    /// Neither `XDG_CACHE_HOME`, `HOME` nor the override is set.
    #[error("no home directory: set STEERD_TOOLCHAIN_DIR to where the eBPF toolchain may live")]
    NoCacheDir,
    /// Tests failed; the summary line has said how many.
    #[error("tests failed")]
    TestsFailed,
    /// Checks failed; the summary has named them.
    #[error("{failed} of {total} checks failed")]
    ChecksFailed {
        /// How many.
        failed: usize,
        /// Of how many.
        total: usize,
    },
}

/// The result of everything here.
pub(crate) type Result<T> = std::result::Result<T, Error>;
