//! Why a command failed, and the number it exits with.

use std::{io, path::PathBuf};

use crate::{client::ClientError, import::ImportError, pins::PinError, pki::PkiError};

/// The daemon refused, or something failed.
const FAILED: u8 = 1;
/// The command line or the configuration is wrong; clap exits with the same.
const BAD_INPUT: u8 = 2;
/// The daemon was not reached.
const UNREACHABLE: u8 = 3;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The daemon did not answer, or said no.
    #[error(transparent)]
    Daemon(#[from] ClientError),
    /// Neither the daemon nor the pins answered.
    #[error("{down}\n{pins}")]
    Pins {
        /// What is wrong with the daemon.
        down: String,
        /// What is wrong with the pins.
        #[source]
        pins: PinError,
    },
    /// The configuration could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The configuration has mistakes, which were told already.
    #[error("the configuration has mistakes")]
    Mistakes,
    /// Another program's configuration could not be imported.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// No key or certificate was made or found.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The answer could not be printed.
    #[error("cannot write the output: {0}")]
    Write(#[from] io::Error),
}

impl Error {
    /// What the process exits with.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Daemon(error) if error.is_unreachable() => UNREACHABLE,
            Self::Pins {
                pins: PinError::Unknown { .. } | PinError::Name(_),
                ..
            } => FAILED,
            Self::Pins { .. } => UNREACHABLE,
            Self::Read { .. } | Self::Mistakes | Self::Pki(PkiError::Name(_)) => BAD_INPUT,
            Self::Import(error) => error.exit_code(),
            Self::Daemon(_) | Self::Pki(_) | Self::Write(_) => FAILED,
        }
    }

    /// The sentence for the user; none where there is nothing to add.
    pub(crate) fn message(&self) -> Option<String> {
        if let Self::Mistakes = self {
            return None;
        }
        let mut message = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            if !message.contains(&cause_text) {
                message.push_str(": ");
                message.push_str(&cause_text);
            }
            source = cause.source();
        }
        Some(message)
    }
}
