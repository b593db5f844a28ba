//! From one configuration to the next, touching only what the plan names.
//!
//! The plan goes by names. A server that is the same under another name (that of its service or its
//! own) keeps its health, so that new names move no traffic.

use std::collections::{BTreeMap, BTreeSet};

use super::{Node, routers, steering::ServiceState};
use crate::{
    action::{Action, Notice},
    config::{Backend, Config, Name, Service, VirtualRouter},
    event::BackendKey,
    plan::{Plan, Step},
    time::Instant,
    vrrp::election::{Election, Input, Role},
};

impl Node {
    /// Works by `new` from now on.
    pub(super) fn reload(&mut self, new: Config, now: Instant) {
        let plan = Plan::between(&self.config, &new);
        let renamed = renamed(&self.config, &new);
        self.health.rename(&renamed, now);
        let known: BTreeSet<&BackendKey> = renamed.iter().map(|(_, to)| to).collect();
        for step in plan.steps() {
            match step {
                Step::BackendChanged { backend, .. } if known.contains(backend) => {}
                step => self.take_down(step, now),
            }
        }
        let ended = self.tracks.end(&new.tracks);
        self.apply_tracks(ended);
        self.actions.push_back(Action::Reconfigured);
        self.config = Config {
            node: self.config.node.clone(),
            control: self.config.control.clone(),
            log: self.config.log.clone(),
            dataplane: self.config.dataplane.clone(),
            ..new
        };
        self.network.reconfigure(&self.config);
        self.tracks.begin(&self.config.tracks, now);
        self.book.reconfigure(&self.config, now);
        for step in plan.steps() {
            self.build_up(step, now);
        }
        self.regroup(now);
        for service in &self.config.services {
            for backend in &service.backends {
                self.health.set(
                    &BackendKey::of(service, backend),
                    &service.probes,
                    None,
                    now,
                );
            }
        }
        self.index(now);
    }

    /// What must end while the old configuration holds.
    fn take_down(&mut self, step: &Step, now: Instant) {
        match step {
            Step::RouterRemoved(router) | Step::RouterReplaced { router, .. } => {
                self.part(router);
                self.input(router, Input::Stop { linger: false }, now);
                self.routers.remove(router);
            }
            Step::RouterChanged {
                router,
                readdressed: true,
                ..
            } if self.is_master(router) => {
                self.actions.push_back(Action::Release {
                    router: router.clone(),
                });
            }
            Step::ServiceRemoved(service) => {
                self.services.remove(service);
                for backend in self
                    .config
                    .service(service)
                    .into_iter()
                    .flat_map(|s| &s.backends)
                {
                    let backend = backend.name.clone();
                    self.health.remove(&BackendKey {
                        service: service.clone(),
                        backend,
                    });
                }
                self.actions.push_back(Action::Unsteer {
                    service: service.clone(),
                });
            }
            Step::BackendRemoved(backend) => self.health.remove(backend),
            Step::BackendChanged {
                backend,
                moved: true,
                ..
            } => self.health.renew(backend, now),
            Step::NeedsRestart { .. }
            | Step::SectionChanged { .. }
            | Step::GroupsChanged { .. }
            | Step::RouterAdded(_)
            | Step::RouterChanged { .. }
            | Step::ServiceAdded(_)
            | Step::ServiceChanged { .. }
            | Step::ProbeAdded { .. }
            | Step::ProbeRemoved { .. }
            | Step::ProbeChanged { .. }
            | Step::BackendAdded(_)
            | Step::BackendChanged { .. }
            | Step::TrackAdded(_)
            | Step::TrackRemoved(_)
            | Step::TrackChanged { .. } => {}
        }
    }

    /// What begins with the new one.
    fn build_up(&mut self, step: &Step, now: Instant) {
        match step {
            Step::RouterChanged {
                router,
                readdressed: true,
                ..
            } if self.is_master(router) => {
                self.actions.push_back(Action::Acquire {
                    router: router.clone(),
                });
            }
            Step::ServiceAdded(service) => {
                let state = ServiceState::new(now);
                self.services.insert(service.clone(), state);
            }
            // Elections follow when all of it is known: `regroup`.
            Step::NeedsRestart { .. }
            | Step::SectionChanged { .. }
            | Step::GroupsChanged { .. }
            | Step::RouterAdded(_)
            | Step::RouterReplaced { .. }
            | Step::RouterChanged { .. }
            | Step::RouterRemoved(_)
            | Step::ServiceRemoved(_)
            | Step::ServiceChanged { .. }
            | Step::ProbeAdded { .. }
            | Step::ProbeRemoved { .. }
            | Step::ProbeChanged { .. }
            | Step::BackendAdded(_)
            | Step::BackendRemoved(_)
            | Step::BackendChanged { .. }
            | Step::TrackAdded(_)
            | Step::TrackRemoved(_)
            | Step::TrackChanged { .. } => {}
        }
    }

    /// Makes the elections those of the configuration: an election whose members stay together goes
    /// on, others are divided and joined, and those of new virtual routers begin.
    fn regroup(&mut self, now: Instant) {
        for names in self.config.elections() {
            // Those of the group that were elected before, with nobody else.
            for name in &names {
                let others = self
                    .election_of(name)
                    .and_then(|name| self.routers.get(&name));
                let strangers =
                    |election: &Election| election.names().any(|of| !names.contains(of));
                if others.is_some_and(strangers) {
                    self.part(name);
                }
            }
            let mut parts: Vec<Election> = Vec::new();
            for name in &names {
                let election = self.election_of(name);
                parts.extend(election.and_then(|name| self.routers.remove(&name)));
            }
            let election = match parts.is_empty() {
                true => routers::elect(&self.config, &names, false, now),
                false => self.join(parts, &names, now),
            };
            if let Some(mut election) = election {
                Self::take_effects(&mut election, &mut self.actions, &mut self.book);
                self.routers.insert(election.name().clone(), election);
            }
        }
    }

    /// One election of `parts`, and of those of `names` that are new.
    fn join(&mut self, mut parts: Vec<Election>, names: &[Name], now: Instant) -> Option<Election> {
        if parts.len() > 1 {
            let role = Election::common_role(parts.iter());
            for part in &mut parts {
                part.give_way(role, "joins the others of its sync group", now);
                Self::take_effects(part, &mut self.actions, &mut self.book);
            }
        }
        let joined = parts.into_iter().reduce(|mut joined, part| {
            joined.join(part, now);
            joined
        });
        let mut election = joined?;
        let routers = names
            .iter()
            .filter_map(|name| self.config.virtual_router(name));
        let is_new = |router: &&VirtualRouter| election.member(&router.name).is_none();
        let new: Vec<&VirtualRouter> = routers.clone().filter(is_new).collect();
        for router in new {
            let (role, _, _) = election.role();
            let name = router.name.clone();
            if role == Role::Master {
                self.actions.push_back(Action::Acquire {
                    router: name.clone(),
                });
            }
            if role != Role::Init {
                self.actions.push_back(Action::Notice(Notice::Role {
                    router: name,
                    from: Role::Init,
                    to: role,
                    cause: "joins its sync group".to_owned(),
                }));
            }
            election.adopt(router.clone(), now);
        }
        let same = |router: &&VirtualRouter| {
            let member = election.member(&router.name);
            member.is_some_and(|member| member.config() == *router)
        };
        if !routers.clone().all(|router| same(&router)) {
            election.reconfigure(routers.cloned(), now);
        }
        Some(election)
    }

    /// Takes a virtual router out of its sync group, if it is in one.
    fn part(&mut self, router: &Name) {
        let Some(mut election) = self
            .election_of(router)
            .and_then(|name| self.routers.remove(&name))
        else {
            return;
        };
        for election in election.split(router).into_iter().chain([election]) {
            self.routers.insert(election.name().clone(), election);
        }
    }

    fn is_master(&self, router: &Name) -> bool {
        let election = self.election_of(router);
        election
            .and_then(|name| self.routers.get(&name))
            .is_some_and(|election| election.role().0 == Role::Master)
    }
}

/// The servers that have another key in `new` than in `old`: their keys there and here.
fn renamed(old: &Config, new: &Config) -> Vec<(BackendKey, BackendKey)> {
    let identity = |service: &Service, backend: &Backend| {
        let service = (service.address, service.port, service.protocol);
        (service, backend.address, backend.port)
    };
    let before: BTreeMap<_, _> = servers(old)
        .map(|(service, backend)| (identity(service, backend), BackendKey::of(service, backend)))
        .collect();
    let places: BTreeMap<_, _> = servers(old)
        .map(|(service, backend)| {
            let place = (backend.address, backend.port);
            (BackendKey::of(service, backend), place)
        })
        .collect();
    servers(new)
        .filter_map(|(service, backend)| {
            let to = BackendKey::of(service, backend);
            // The plan finds that one by its name.
            if places.get(&to) == Some(&(backend.address, backend.port)) {
                return None;
            }
            let from = before.get(&identity(service, backend))?;
            Some((from.clone(), to))
        })
        .collect()
}

fn servers(config: &Config) -> impl Iterator<Item = (&Service, &Backend)> {
    let services = config.services.iter();
    services.flat_map(|service| {
        service
            .backends
            .iter()
            .map(move |backend| (service, backend))
    })
}
