//! From one configuration to the next, touching only what the plan names.
//!
//! The plan goes by names. A server that is the same under another name (that of its service or its
//! own) keeps its health, so that new names move no traffic.

use std::collections::{BTreeMap, BTreeSet};

use super::{Node, steering::ServiceState};
use crate::{
    action::Action,
    config::{Backend, Config, Name, Service},
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
            Step::RouterAdded(name) | Step::RouterReplaced { router: name, .. } => {
                if let Some(router) = self.config.virtual_router(name) {
                    let election = Election::new(router.clone(), router.source, false, now);
                    self.routers.insert(name.clone(), election);
                    self.drain(name);
                }
            }
            Step::RouterChanged {
                router: name,
                readdressed,
                ..
            } => {
                if *readdressed && self.is_master(name) {
                    self.actions.push_back(Action::Acquire {
                        router: name.clone(),
                    });
                }
                let router = self.config.virtual_router(name).cloned();
                if let (Some(election), Some(router)) = (self.routers.get_mut(name), router) {
                    if router.source != election.config().source {
                        election.set_source(router.source);
                    }
                    election.reconfigure(router, now);
                }
            }
            Step::ServiceAdded(service) => {
                let state = ServiceState::new(now);
                self.services.insert(service.clone(), state);
            }
            Step::NeedsRestart { .. }
            | Step::SectionChanged { .. }
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

    fn is_master(&self, router: &Name) -> bool {
        self.routers
            .get(router)
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
