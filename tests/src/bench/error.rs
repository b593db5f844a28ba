//! Why nothing could be measured, or why a figure would be wrong.

use std::{io, path::PathBuf};

use aya::{
    EbpfError,
    maps::{MapError, xdp::XdpMapError},
    programs::ProgramError,
};

/// The benchmark's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why nothing could be measured, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Test runs need privileges.
    #[error("the benchmark loads programs into the kernel: run it as root or with sudo")]
    NotRoot,
    /// An object is missing.
    #[error("cannot read {}: {source}; `cargo xtask build-ebpf` builds it", path.display())]
    Object {
        /// The object.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An object is none, or not of this version.
    #[error("cannot load the object: {0}; was it built from these sources?")]
    Load(#[from] EbpfError),
    /// The object lacks a program.
    #[error("the object has no XDP program `{0}`: was it built from these sources?")]
    NoProgram(String),
    /// The kernel refused a program.
    #[error("program `{program}`: {source}")]
    Program {
        /// Its name.
        program: String,
        /// Why.
        source: ProgramError,
    },
    /// The object lacks a map.
    #[error("the object has no map {0}: was it built from these sources?")]
    NoMap(&'static str),
    /// The kernel refused an access to a map.
    #[error("map {map}: {source}")]
    Map {
        /// Its name.
        map: &'static str,
        /// Why.
        source: MapError,
    },
    /// The kernel refused an entry of the map of interfaces.
    #[error("cannot name an interface to the program: {source}")]
    Device {
        /// Why.
        source: XdpMapError,
    },
    /// The services have no place.
    #[error("{0} services are too many for the service table: measure with fewer")]
    Full(u32),
    /// A frame could not be made.
    #[error("cannot build the frame: {0}")]
    Frame(#[from] etherparse::err::packet::BuildWriteError),
    /// A packet left as none that can be answered.
    #[error("a packet that is to be answered left as something else: {0}")]
    Answer(String),
    /// The kernel refused something else.
    #[error("cannot {what}: {source}")]
    Os {
        /// What was tried.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A name that is none.
    #[error("there is no row `{name}`; there are: {rows}")]
    NoRow {
        /// What was asked for.
        name: String,
        /// What there is.
        rows: String,
    },
    /// Not all packets were treated as the row says.
    #[error(
        "of {packets} packets, {counted} were counted as {verdict}; all: {all}. The figure would be of other work"
    )]
    Verdict {
        /// How many were run.
        packets: u64,
        /// The verdict that all should have.
        verdict: &'static str,
        /// How many had it.
        counted: u64,
        /// The counters that grew, in words.
        all: String,
    },
    /// The program returned something else.
    #[error("program `{program}` returned {got}, not {wanted} (XDP action)")]
    Action {
        /// Its name.
        program: String,
        /// What it returned.
        got: u32,
        /// What it should have returned.
        wanted: u32,
    },
    /// The wrapper did not restore what the program changed.
    #[error(
        "after many packets the last leaves as another than the first did: the program changes bytes that the wrapper does not restore"
    )]
    NotRestored,
    /// The flow table is not as the row needs it.
    #[error("the flow table {0}: the figure would be of other work")]
    Flows(String),
    /// A row failed.
    #[error("row {row}: {source}")]
    Row {
        /// Its name.
        row: &'static str,
        /// Why.
        source: Box<Error>,
    },
}

/// Names the program that the kernel refused.
pub(super) fn program(name: &str) -> impl FnOnce(ProgramError) -> Error {
    let program = name.to_owned();
    move |source| Error::Program { program, source }
}

/// Names the map that the kernel refused.
pub(super) fn map(name: &'static str) -> impl FnOnce(MapError) -> Error {
    move |source| Error::Map { map: name, source }
}
