//! What a node tracks: how that reaches its virtual routers and its status.

use std::time::Duration;

use super::{Node, network::Reach};
use crate::{
    action::{Action, Notice},
    api::{TrackStatus, Weighting},
    config::Name,
    event::BackendKey,
    time::Instant,
    track::{Change, Sight, TrackFailure, Weighed},
    vrrp::election::{Ability, Member},
};

impl Node {
    /// Looks at services that are tracked, and does what is due.
    pub(super) fn track(&mut self, now: Instant) {
        if self.reconsider {
            let wanted: Vec<(Name, Name, u16)> = self
                .tracks
                .services()
                .map(|(track, service, at_least)| (track.clone(), service.clone(), at_least))
                .collect();
            for (track, service, at_least) in wanted {
                let seen = self.usable_backends(&service, at_least);
                let change = self.tracks.see(&track, seen, now);
                self.apply_tracks(change);
            }
        }
        let changes = self.tracks.tick(now);
        self.apply_tracks(changes);
    }

    /// Turns what is to be done about tracks into actions.
    pub(super) fn apply_tracks(&mut self, changes: impl IntoIterator<Item = Change>) {
        for change in changes {
            self.actions.push_back(match change {
                Change::Run { track, ticket } => Action::RunTrack { track, ticket },
                Change::Stop { track } => Action::StopTrack { track },
                Change::Turned { track, good, cause } => {
                    self.reconsider = true;
                    Action::Notice(Notice::Track { track, good, cause })
                }
            });
        }
    }

    /// What the tracks of an election's virtual routers let it do, and its priority.
    pub(super) fn tracked(&self, members: &[Member]) -> (Ability, u8) {
        let weighed = self.weigh(members);
        (weighed.ability, weighed.priority)
    }

    /// What its tracks add to the priority of an election.
    pub(super) fn weightings(&self, members: &[Member]) -> Vec<Weighting> {
        let added = self.weigh(members).added.into_iter();
        added
            .map(|(track, adds)| Weighting { track, adds })
            .collect()
    }

    /// The tracks.
    #[must_use]
    pub fn track_status(&self, now: Instant) -> Vec<TrackStatus> {
        let all = self.tracks.reports().map(|(track, report)| {
            let routers = self.config.virtual_routers.iter();
            let naming = routers.filter(|router| router.track.contains(&track.name));
            TrackStatus {
                name: track.name.clone(),
                kind: track.kind.to_string(),
                fault: track.is_fault(),
                weight: track.weight,
                adds: report.adds,
                state: report.state,
                since_ms: millis(now.since(report.since)),
                last: report.last,
                virtual_routers: naming.map(|router| router.name.clone()).collect(),
            }
        });
        all.collect()
    }

    /// A track that several members name counts once.
    fn weigh(&self, members: &[Member]) -> Weighed {
        let priorities = members.iter().map(|member| member.config().priority);
        let tracks = members.iter().flat_map(|member| &member.config().track);
        let mut named: Vec<&Name> = Vec::new();
        for track in tracks {
            if !named.contains(&track) {
                named.push(track);
            }
        }
        self.tracks.weigh(priorities.min().unwrap_or(1), &named)
    }

    /// Whether a service has so many backends that are healthy, can be reached and have weight; none
    /// while it depends on those of which that is not known.
    fn usable_backends(&self, service: &Name, wanted: u16) -> Option<Result<Sight, TrackFailure>> {
        let (mut usable, mut unknown) = (0_u16, 0_u16);
        let service = self.config.service(service)?;
        for backend in service.backends.iter().filter(|one| one.weight > 0) {
            let health = self.health.up(&BackendKey::of(service, backend));
            match (health, self.network.reach(service, backend).1) {
                (Some(true), reach) if reach.is_open() => usable += 1,
                (None, _) | (Some(true), Reach::Pending) => unknown += 1,
                (Some(_), _) => {}
            }
        }
        match usable {
            enough if enough >= wanted => {
                let of = service.backends.len();
                Some(Ok(Sight::of(format!(
                    "{usable} of {of} backends are usable"
                ))))
            }
            _ if usable.saturating_add(unknown) >= wanted => None,
            _ => Some(Err(TrackFailure::Backends {
                service: service.name.clone(),
                usable,
                wanted,
            })),
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
