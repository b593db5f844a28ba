//! `[channel]` and `[[peer]]` as they are written.

use std::{net::SocketAddr, ops::Range, path::PathBuf};

use crate::config::{
    Name,
    reader::{Given, TableReader},
    scalar,
};

/// `[channel]`.
#[derive(Debug)]
pub(in crate::config) struct RawChannel {
    /// Where it stands; none: it does not.
    pub(in crate::config) span: Option<Range<usize>>,
    pub(in crate::config) listen: Given<SocketAddr>,
    pub(in crate::config) ca_file: Given<PathBuf>,
    pub(in crate::config) cert_file: Given<PathBuf>,
    pub(in crate::config) key_file: Given<PathBuf>,
}

/// `[[peer]]`.
#[derive(Debug)]
pub(in crate::config) struct RawPeer {
    pub(in crate::config) name: Given<Name>,
    pub(in crate::config) address: Given<SocketAddr>,
}

pub(super) fn channel(mut table: TableReader<'_>) -> RawChannel {
    if !table.is_given() {
        return RawChannel {
            span: None,
            listen: Given::Absent,
            ca_file: Given::Absent,
            cert_file: Given::Absent,
            key_file: Given::Absent,
        };
    }
    RawChannel {
        span: Some(table.span.clone()),
        listen: table.require("listen", scalar::net::endpoint),
        ca_file: table.require("ca_file", scalar::path),
        cert_file: table.require("cert_file", scalar::path),
        key_file: table.require("key_file", scalar::path),
    }
}

pub(super) fn peer(table: &mut TableReader<'_>) -> RawPeer {
    RawPeer {
        name: table.require("name", scalar::name),
        address: table.require("address", scalar::net::endpoint),
    }
}
