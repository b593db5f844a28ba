//! What the status tells of a peer.

use std::time::Duration;

use super::{Book, Peer};
use crate::{
    api::{PeerConfig, PeerRole, PeerView},
    channel::message::{RoleWord, View},
    config::Name,
    event::BackendKey,
    time::Instant,
    vrrp::election::Role,
};

/// How many differing views of backends are told.
const SHOWN_VIEWS: usize = 32;

/// What the status tells of a peer.
#[derive(Debug, Clone, PartialEq)]
pub struct PeerReport {
    /// Since when its connection is there, or not there.
    pub since: Instant,
    /// Whether it is there.
    pub up: bool,
    /// Its daemon's version.
    pub version: Option<String>,
    /// The time that a message takes there and back.
    pub round_trip: Option<Duration>,
    /// The time since its last sign of life.
    pub heard: Option<Duration>,
    /// Whether its configuration fits.
    pub config: PeerConfig,
    /// What it is for the virtual routers that it shares with this node.
    pub roles: Vec<PeerRole>,
    /// The backends that it sees otherwise.
    pub views: Vec<PeerView>,
}

impl Book {
    /// What the status tells of `peer`. `view` is how this node sees a backend.
    #[must_use]
    pub fn report(
        &self,
        peer: &Name,
        view: impl Fn(&BackendKey) -> Option<(View, Duration)>,
        now: Instant,
    ) -> Option<PeerReport> {
        let Peer { since, line } = self.peers.get(peer)?;
        let mut report = PeerReport {
            since: *since,
            up: line.is_some(),
            version: None,
            round_trip: None,
            heard: None,
            config: PeerConfig::Unknown,
            roles: Vec::new(),
            views: Vec::new(),
        };
        let Some(line) = line else {
            return Some(report);
        };
        report.version = Some(line.hello.version.clone());
        report.round_trip = line.round_trip;
        report.heard = Some(now.since(line.heard));
        report.config = match &line.config {
            _ if !line.understood() => PeerConfig::OtherProtocol(line.hello.protocol),
            None => PeerConfig::Unknown,
            Some(config) => match self.digest.differences(config).as_slice() {
                [] => PeerConfig::Same,
                parts => PeerConfig::Differs(parts.iter().map(ToString::to_string).collect()),
            },
        };
        for (name, id) in &self.routers {
            report.roles.extend(line.roles.get(id).map(|role| PeerRole {
                virtual_router: name.clone(),
                role: match role.role {
                    RoleWord::Init => Role::Init,
                    RoleWord::Backup => Role::Backup,
                    RoleWord::Master => Role::Master,
                    RoleWord::Fault => Role::Fault,
                },
                priority: role.priority,
                able: role.able,
            }));
        }
        let differing = line.views.iter().filter(|(key, (theirs, _))| {
            let ours = view(key).map_or(View::Undecided, |(view, _)| view);
            ours != *theirs
        });
        report.views = differing
            .take(SHOWN_VIEWS)
            .map(|(key, (view, since))| PeerView {
                service: key.service.clone(),
                backend: key.backend.clone(),
                state: view.to_string(),
                since_ms: u64::try_from(now.since(*since).as_millis()).unwrap_or(u64::MAX),
            })
            .collect();
        Some(report)
    }
}
