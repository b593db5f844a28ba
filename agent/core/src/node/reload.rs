//! From one configuration to the next, touching only what the plan names.

use super::{Node, steering::ServiceState};
use crate::{
    action::Action,
    config::{Config, Name},
    event::BackendKey,
    plan::{Plan, Step},
    time::Instant,
    vrrp::election::{Election, Input, Role},
};

impl Node {
    /// Works by `new` from now on.
    pub(super) fn reload(&mut self, new: Config, now: Instant) {
        let plan = Plan::between(&self.config, &new);
        for step in plan.steps() {
            self.take_down(step, now);
        }
        self.actions.push_back(Action::Reconfigured);
        self.config = Config {
            node: self.config.node.clone(),
            control: self.config.control.clone(),
            log: self.config.log.clone(),
            dataplane: self.config.dataplane.clone(),
            ..new
        };
        self.network.reconfigure(&self.config);
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
        self.index();
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
            | Step::RouterAdded(_)
            | Step::RouterChanged { .. }
            | Step::ServiceAdded(_)
            | Step::ServiceChanged { .. }
            | Step::ProbeAdded { .. }
            | Step::ProbeRemoved { .. }
            | Step::ProbeChanged { .. }
            | Step::BackendAdded(_)
            | Step::BackendChanged { .. } => {}
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
                self.services
                    .insert(service.clone(), ServiceState::new(false, now));
            }
            Step::NeedsRestart { .. }
            | Step::RouterRemoved(_)
            | Step::ServiceRemoved(_)
            | Step::ServiceChanged { .. }
            | Step::ProbeAdded { .. }
            | Step::ProbeRemoved { .. }
            | Step::ProbeChanged { .. }
            | Step::BackendAdded(_)
            | Step::BackendRemoved(_)
            | Step::BackendChanged { .. } => {}
        }
    }

    fn is_master(&self, router: &Name) -> bool {
        self.routers
            .get(router)
            .is_some_and(|election| election.role().0 == Role::Master)
    }
}
