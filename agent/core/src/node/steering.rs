//! Where a service's traffic goes: who takes it, and the ring over them.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use super::{
    Node,
    choice::{Choice, Seen, Target},
    network::Reach,
    slow_start::Ramps,
};
use crate::{
    action::{Action, Notice, SteeredBackend, Steering, Way},
    config::{Backend, Mode, Name, Scheduler, Service},
    event::{BackendKey, NextHop},
    maglev::{self, Member},
    round_robin,
    time::Instant,
};

/// How long the first steering after a restart waits for next hops.
const SETTLE: Duration = Duration::from_secs(1);

/// What was decided on a service.
#[derive(Debug, Clone)]
pub(super) struct ServiceState {
    told: Option<Steering>,
    /// What the ring was built from.
    basis: (Scheduler, u32, Vec<Member>),
    target: Target,
    /// The servers that take new flows.
    in_use: BTreeSet<SocketAddr>,
    ramps: Ramps,
    /// When the next step of a ramp is due.
    step_at: Option<Instant>,
    dirty: bool,
    settle_until: Option<Instant>,
}

impl ServiceState {
    /// Nothing is decided, and nothing is said before each backend was checked once and its next hop
    /// is known, or [`SETTLE`] is over. An early answer would be an empty ring after a restart, while
    /// the pinned maps steer as they did; and at a cold start the tier of whichever backend happened
    /// to answer first.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            told: None,
            basis: (Scheduler::Maglev, 0, Vec::new()),
            target: Target::Nobody,
            in_use: BTreeSet::new(),
            ramps: Ramps::default(),
            step_at: None,
            dirty: true,
            settle_until: Some(now + SETTLE),
        }
    }

    /// It is to be looked at again.
    pub(super) fn touch(&mut self) {
        self.dirty = true;
    }

    /// What takes new flows.
    pub(super) fn target(&self) -> Target {
        self.target
    }

    /// Whether `backend` takes new flows.
    pub(super) fn uses(&self, backend: &Backend) -> bool {
        self.in_use.contains(&server(backend))
    }

    /// The percentage of its weight that `backend` has now, while it is in slow start.
    pub(super) fn percent(&self, service: &Service, backend: &Backend, now: Instant) -> Option<u8> {
        self.ramps
            .percent(&server(backend), service.slow_start, now)
    }

    /// Whether it was said how to steer it.
    pub(super) fn settled(&self) -> bool {
        self.told.is_some()
    }

    /// When to look at it even if nothing happens.
    pub(super) fn deadline(&self) -> Option<Instant> {
        [self.settle_until, self.step_at]
            .into_iter()
            .flatten()
            .min()
    }
}

impl Node {
    /// Looks at the services that may have to be steered otherwise, each once.
    pub(super) fn steer(&mut self, now: Instant) {
        let due = |state: &ServiceState| {
            state.dirty || state.deadline().is_some_and(|deadline| deadline <= now)
        };
        let due: BTreeSet<Name> = self
            .services
            .iter()
            .filter(|(_, state)| due(state))
            .map(|(name, _)| name.clone())
            .collect();
        if due.is_empty() {
            return;
        }
        self.reconsider = true;
        for index in 0..self.config.services.len() {
            let Some(service) = self.config.services.get(index) else {
                continue;
            };
            if !due.contains(&service.name) {
                continue;
            }
            let Some(mut state) = self.services.remove(&service.name) else {
                continue;
            };
            let name = service.name.clone();
            let actions = self.decide(service, &mut state, now);
            self.services.insert(name, state);
            self.actions.extend(actions);
        }
    }

    /// What a virtual router waits for before it knows that `service` has no usable backend.
    pub(super) fn pending(&self, service: &Service) -> Option<String> {
        service
            .backends
            .iter()
            .filter(|backend| backend.weight > 0)
            .find_map(|backend| {
                let key = BackendKey::of(service, backend);
                let name = || format!("backend {} of service {}", backend.name, service.name);
                match (self.health.up(&key), self.network.reach(service, backend).1) {
                    (None, _) => Some(format!("the first check of {}", name())),
                    (Some(true), Reach::Pending) => Some(format!("the next hop of {}", name())),
                    (Some(true), Reach::Local | Reach::Via(_) | Reach::Lost(_))
                    | (Some(false), _) => None,
                }
            })
    }

    fn decide(&self, service: &Service, state: &mut ServiceState, now: Instant) -> Vec<Action> {
        state.dirty = false;
        if let Some(until) = state.settle_until {
            if self.pending(service).is_some() && now < until {
                return Vec::new();
            }
            state.settle_until = None;
        }
        let seen: Vec<Seen> = service
            .backends
            .iter()
            .map(|backend| self.look_at(service, backend))
            .collect();
        let choice = Choice::of(
            &seen,
            service.min_healthy,
            service.panic_threshold,
            state.target,
        );
        state.take(service, &seen, &choice, now);
        let steering = state.steering(service, &seen, &choice, now);
        let mut actions = Vec::new();
        if state.told.as_ref() != Some(&steering) {
            state.told = Some(steering.clone());
            actions.push(Action::Steer(steering));
        }
        let before = std::mem::replace(&mut state.target, choice.target);
        actions.extend(notices(service, before, &choice).map(Action::Notice));
        actions
    }

    fn look_at(&self, service: &Service, backend: &Backend) -> Seen {
        let (mode, reach) = self.network.reach(service, backend);
        Seen {
            health: self.health.up(&BackendKey::of(service, backend)),
            mode,
            reach,
            weight: backend.weight,
            tier: backend.tier,
            sorry: backend.sorry,
        }
    }
}

impl ServiceState {
    /// Notes who takes new flows from now on, and who of them is in slow start.
    fn take(&mut self, service: &Service, seen: &[Seen], choice: &Choice, now: Instant) {
        let taking = service.backends.iter().zip(seen);
        let in_use: BTreeSet<SocketAddr> = taking
            .filter(|(_, seen)| choice.takes(seen))
            .map(|(backend, _)| server(backend))
            .collect();
        // Where nobody served before, or another tier did, all begin together and need all of it.
        let joins = matches!(choice.target, Target::Tier(_)) && !self.in_use.is_disjoint(&in_use);
        if joins {
            for server in in_use.difference(&self.in_use) {
                self.ramps.begin(*server, now);
            }
        }
        self.in_use = in_use;
        let in_use = |server: &SocketAddr| self.in_use.contains(server);
        self.ramps.sweep(service.slow_start, in_use, now);
        self.step_at = self.ramps.deadline(service.slow_start, now);
    }

    /// How to steer the service from now on.
    fn steering(
        &mut self,
        service: &Service,
        seen: &[Seen],
        choice: &Choice,
        now: Instant,
    ) -> Steering {
        let weight = |backend: &Backend| {
            let length = service.slow_start;
            self.ramps
                .weight(&server(backend), backend.weight, length, now)
        };
        let steered = |(backend, seen): (&Backend, &Seen)| SteeredBackend {
            name: backend.name.clone(),
            address: backend.address,
            port: backend.port,
            weight: weight(backend),
            alive: choice.keeps(seen),
            quic_server_id: backend.quic_server_id,
            way: way(backend, seen),
        };
        let members: Vec<Member> = (0..)
            .zip(&service.backends)
            .zip(seen)
            .filter(|(_, seen)| choice.takes(seen))
            .map(|((index, backend), _)| Member {
                index,
                identity: server(backend),
                weight: weight(backend),
            })
            .collect();
        let backends = service.backends.iter().zip(seen).map(steered).collect();
        // A ring depends on these alone, and is the expensive part.
        let basis = (service.policy.scheduler, service.ring_size, members);
        let ring = match &self.told {
            Some(told) if self.basis == basis => told.ring.clone(),
            Some(_) | None => ring(&basis),
        };
        self.basis = basis;
        Steering {
            service: service.name.clone(),
            address: service.address,
            port: service.port,
            protocol: service.protocol,
            backends,
            ring,
            policy: service.policy.clone(),
        }
    }
}

/// What is worth telling of a choice after another.
fn notices(service: &Service, before: Target, choice: &Choice) -> impl Iterator<Item = Notice> {
    let name = || service.name.clone();
    let now = choice.target;
    let panic = (before.is_panic() != now.is_panic()).then(|| Notice::Panic {
        service: name(),
        panics: now.is_panic(),
        healthy: choice.healthy,
        of: choice.of,
    });
    let tier = (before.tier() != now.tier()).then(|| Notice::Tier {
        service: name(),
        from: before.tier(),
        to: now.tier(),
    });
    let sorry = (before == Target::Sorry) != (now == Target::Sorry);
    let sorry = sorry.then(|| Notice::Sorry {
        service: name(),
        begins: now == Target::Sorry,
    });
    [panic, tier, sorry].into_iter().flatten()
}

fn ring((scheduler, size, members): &(Scheduler, u32, Vec<Member>)) -> Vec<u16> {
    match scheduler {
        Scheduler::Maglev => maglev::table(members, *size),
        Scheduler::WeightedRoundRobin => round_robin::cycle(members, *size),
        // Among all of them the program looks for the one with the fewest.
        Scheduler::LeastConnections => {
            let able = members.iter().filter(|member| member.weight > 0);
            able.map(|member| member.index).collect()
        }
    }
}

fn way(backend: &Backend, seen: &Seen) -> Way {
    let next_hop = match seen.reach {
        Reach::Via(next_hop) => Some(next_hop),
        Reach::Local | Reach::Lost(_) | Reach::Pending => None,
    };
    match seen.mode {
        Mode::Local => Way::Local,
        Mode::Dsr | Mode::Auto => Way::Dsr(next_hop),
        Mode::Tunnel => Way::Tunnel {
            encapsulation: backend.encapsulation,
            next_hop: next_hop.map(|hop| NextHop {
                mtu: hop.mtu.min(backend.mtu.unwrap_or(u16::MAX)),
                ..hop
            }),
        },
        Mode::Nat => Way::Nat(next_hop),
    }
}

/// Who a backend is, on every node and under every name.
fn server(backend: &Backend) -> SocketAddr {
    SocketAddr::new(backend.address, backend.port)
}
