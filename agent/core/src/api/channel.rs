//! What the status tells of the channel between nodes.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::{config::Name, vrrp::election::Role};

/// The peer channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelStatus {
    /// Where this node listens.
    pub listen: SocketAddr,
    /// When this node's certificate expires, in seconds since the Unix epoch.
    pub certificate_expires_unix_s: i64,
    /// What is wrong, each with what to do.
    pub warnings: Vec<String>,
    /// Connections that came to nothing, by cause, zero ones left out.
    pub refused: Vec<RefusedPeers>,
    /// The other nodes.
    pub peers: Vec<ChannelPeerStatus>,
}

/// Connections of the channel that came to nothing for one cause.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedPeers {
    /// Why.
    pub cause: String,
    /// How many since the daemon started.
    pub times: u64,
}

/// Another node, on the channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelPeerStatus {
    /// Its name.
    pub name: Name,
    /// Where it listens.
    pub address: SocketAddr,
    /// Whether there is a connection.
    pub up: bool,
    /// Since when there is one, or none, in milliseconds before now.
    pub since_ms: u64,
    /// Why the last attempt to reach it failed; none while there is a connection.
    pub error: Option<String>,
    /// Its daemon's version.
    pub version: Option<String>,
    /// The time that a message takes there and back, in microseconds.
    pub round_trip_us: Option<u64>,
    /// Milliseconds since its last sign of life.
    pub last_sign_ms: Option<u64>,
    /// Whether its configuration fits.
    pub config: PeerConfig,
    /// When its certificate expires, in seconds since the Unix epoch.
    pub certificate_expires_unix_s: Option<i64>,
    /// What it is for the virtual routers that it shares with this node.
    pub roles: Vec<PeerRole>,
    /// The backends that it sees otherwise than this node.
    pub views: Vec<PeerView>,
}

/// Whether a peer's configuration is this node's, as far as it must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PeerConfig {
    /// It has not said.
    Unknown,
    /// It is.
    Same,
    /// It differs, in these parts.
    Differs(Vec<String>),
    /// It speaks this other version of the channel's protocol.
    OtherProtocol(u16),
}

/// What a peer says that it is for a virtual router.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerRole {
    /// The virtual router, by this node's name for it.
    pub virtual_router: Name,
    /// The role.
    pub role: Role,
    /// The effective priority.
    pub priority: u8,
    /// Whether it can do, or does, a master's work.
    pub able: bool,
}

/// How a peer sees a backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerView {
    /// The service.
    pub service: Name,
    /// The backend.
    pub backend: Name,
    /// `up`, `down` or `undecided`.
    pub state: String,
    /// Since when, in milliseconds before now.
    pub since_ms: u64,
}
