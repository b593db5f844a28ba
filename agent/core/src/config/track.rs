//! What a node watches beside its backends, and what that does to its virtual routers.

use std::{fmt, net::IpAddr, path::PathBuf, time::Duration};

use super::Name;

/// Something that is watched (`[track.NAME]`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Track {
    /// Its name.
    pub name: Name,
    /// What is watched.
    pub kind: TrackKind,
    /// What it adds to the priority: positive, while it is good; negative, while it is bad. None: a
    /// virtual router that names it has a fault while it is bad. Never with
    /// [`FileCheck::Number`], where the file says it.
    pub weight: Option<i16>,
    /// How it is paced.
    pub pace: Pace,
}

impl Track {
    /// Whether a virtual router that names it has a fault while it is bad.
    #[must_use]
    pub fn is_fault(&self) -> bool {
        self.weight.is_none() && !self.is_number()
    }

    /// Whether a file says what it adds.
    #[must_use]
    pub fn is_number(&self) -> bool {
        matches!(
            self.kind,
            TrackKind::File {
                check: FileCheck::Number,
                ..
            }
        )
    }
}

/// What is watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TrackKind {
    /// An interface is set up and can carry packets.
    Interface {
        /// Which.
        interface: Name,
    },
    /// A service of this configuration has usable backends.
    Service {
        /// Which.
        service: Name,
        /// At least so many, 1 or more.
        at_least: u16,
    },
    /// A program ends with exit code 0.
    Script(Script),
    /// A file is there, is not there, or holds a number.
    File {
        /// Which.
        path: PathBuf,
        /// What is wanted of it.
        check: FileCheck,
    },
    /// Processes run.
    Process {
        /// Their name.
        process: String,
        /// At least so many, 1 or more.
        at_least: u16,
    },
    /// A router, or any other host of a segment, answers for its address.
    Gateway {
        /// Its address.
        address: IpAddr,
        /// The interface that leads to it; none: the one in whose network it is.
        interface: Option<Name>,
    },
}

impl TrackKind {
    /// Whether it is checked time and again; else it is watched, and tells by itself when it
    /// changes.
    #[must_use]
    pub fn is_checked(&self) -> bool {
        matches!(self, Self::Script(_) | Self::Gateway { .. })
    }
}

/// The word for it in the configuration.
impl fmt::Display for TrackKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Interface { .. } => "interface",
            Self::Service { .. } => "service",
            Self::Script(_) => "script",
            Self::File { .. } => "file",
            Self::Process { .. } => "process",
            Self::Gateway { .. } => "gateway",
        })
    }
}

/// A program to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// The program, by its absolute path, and its arguments. No shell reads it.
    pub argv: Vec<String>,
    /// Whom it runs as; none: as the daemon.
    pub user: Option<String>,
}

/// What is wanted of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileCheck {
    /// That it is there.
    Exists,
    /// That it is not there.
    Absent,
    /// An integer in it, which is the weight.
    Number,
}

impl fmt::Display for FileCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Exists => "exists",
            Self::Absent => "absent",
            Self::Number => "number",
        })
    }
}

/// When a track is looked at, and how long what it says must last. What its kind has no use for is
/// as by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// From the start of one check to the start of the next; of processes, how often one that is
    /// missing is looked for.
    pub interval: Duration,
    /// How long a check may take; not above `interval`.
    pub timeout: Duration,
    /// Good checks in a row that make it good, 1 or more.
    pub rise: u8,
    /// Bad checks in a row that make it bad, 1 or more.
    pub fall: u8,
    /// How long what is watched must be good to count as such.
    pub debounce_up: Duration,
    /// How long it must be bad.
    pub debounce_down: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            rise: 2,
            fall: 3,
            debounce_up: Duration::ZERO,
            debounce_down: Duration::ZERO,
        }
    }
}
