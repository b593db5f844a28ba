//! What can go wrong with the data plane, and what to do about it.

use std::{io, path::PathBuf};

use aya::programs::ProgramError;
use steerd_core::config::Name;

/// Why the data plane cannot work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DataplaneError {
    /// A capability is missing.
    #[error(
        "steerd lacks {missing}: run it as root, or with the capabilities that config/steerd.service grants"
    )]
    Capability { missing: String },
    /// The directory is on another file system.
    #[error("{path} is not on a bpffs: mount one with `mount -t bpf bpf /sys/fs/bpf`")]
    NoBpffs { path: PathBuf },
    /// The directory is a bpffs itself, which others use too.
    #[error(
        "{path} is a whole bpffs, where other programs keep their pins too: set `bpf_dir` under \
         [dataplane] to a directory in it, such as {path}/steerd"
    )]
    WholeBpffs { path: PathBuf },
    /// A file operation on pins failed.
    #[error("cannot {what} {path}: {source}")]
    Pin {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// The object was refused.
    #[error("the kernel refused the program: {0}; steerd needs Linux 5.18 or later with BTF")]
    Load(String),
    /// It is not verified yet, or was refused before.
    #[error("the program is not loaded yet")]
    NotLoaded,
    /// A configured interface does not exist.
    #[error(
        "interface {interface} does not exist: check `interfaces` under [dataplane], or `ip link`"
    )]
    NoInterface { interface: Name },
    /// Someone else's program is there.
    #[error(
        "interface {interface} already has an XDP program: if it is no longer needed, remove it with `ip link set dev {interface} xdp off` (or xdpgeneric off), or delete the pin of whoever attached it"
    )]
    Occupied { interface: Name },
    /// The kernel cannot hold a link to an XDP program.
    #[error(
        "this kernel has no XDP links, so the program could not outlive the daemon: steerd needs Linux 5.9 or later"
    )]
    NoXdpLinks,
    /// The driver cannot run XDP programs.
    #[error(
        "the driver of {interface} cannot run XDP programs: set `xdp_mode = \"generic\"` or \"auto\" under [dataplane]"
    )]
    NoDriverSupport { interface: Name },
    /// Attaching failed otherwise.
    #[error("cannot attach the program to {interface}: {source}")]
    Attach {
        interface: Name,
        source: ProgramError,
    },
    /// A map is missing from the object or cannot be mapped.
    #[error("map {map}: {source}")]
    Map {
        map: &'static str,
        source: io::Error,
    },
    /// More than the maps can hold.
    #[error("no room for {what}: this version holds {limit}")]
    Full { what: &'static str, limit: u32 },
}
