//! Where a service's traffic goes: the tier that takes it, and the ring over its backends.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use super::{Node, network::Reach};
use crate::{
    action::{Action, Notice, SteeredBackend, Steering, Way},
    config::{Backend, Mode, Name, Service},
    event::{BackendKey, NextHop},
    maglev::{self, Member},
    time::Instant,
};

/// How long the first steering after a restart waits for next hops.
const SETTLE: Duration = Duration::from_secs(1);

/// What was decided on a service.
#[derive(Debug, Clone)]
pub(super) struct ServiceState {
    told: Option<Steering>,
    /// What the ring was built from.
    basis: (u32, Vec<Member>),
    tier: Option<u8>,
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
            basis: (0, Vec::new()),
            tier: None,
            dirty: true,
            settle_until: Some(now + SETTLE),
        }
    }

    /// It is to be looked at again.
    pub(super) fn touch(&mut self) {
        self.dirty = true;
    }

    /// The tier that takes new flows.
    pub(super) fn tier(&self) -> Option<u8> {
        self.tier
    }

    /// Whether it was said how to steer it.
    pub(super) fn settled(&self) -> bool {
        self.told.is_some()
    }

    /// When to look at it even if nothing happens.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.settle_until
    }
}

impl Node {
    /// Looks at the services that may have to be steered otherwise, each once.
    pub(super) fn steer(&mut self, now: Instant) {
        let due = |state: &ServiceState| {
            state.dirty || state.settle_until.is_some_and(|until| until <= now)
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
                match (self.health.up(&key), self.network.reach(backend).1) {
                    (None, _) => Some(format!("the first check of {}", name())),
                    (Some(true), Reach::Pending) => Some(format!("the next hop of {}", name())),
                    (Some(true), Reach::Local | Reach::Dsr(_) | Reach::Lost) | (Some(false), _) => {
                        None
                    }
                }
            })
    }

    fn decide(&self, service: &Service, state: &mut ServiceState, now: Instant) -> Vec<Action> {
        state.dirty = false;
        let seen: Vec<Seen> = service
            .backends
            .iter()
            .map(|backend| {
                let up = self.health.up(&BackendKey::of(service, backend)) == Some(true);
                let (mode, reach) = self.network.reach(backend);
                Seen {
                    up,
                    mode,
                    reach,
                    weight: backend.weight,
                    tier: backend.tier,
                }
            })
            .collect();
        if let Some(until) = state.settle_until {
            if self.pending(service).is_some() && now < until {
                return Vec::new();
            }
            state.settle_until = None;
        }
        let tier = choose_tier(&seen, service.min_healthy);
        let members: Vec<Member> = (0..)
            .zip(&service.backends)
            .zip(&seen)
            .filter(|(_, seen)| seen.usable() && Some(seen.tier) == tier)
            .map(|((index, backend), seen)| Member {
                index,
                identity: SocketAddr::new(backend.address, backend.port),
                weight: seen.weight,
            })
            .collect();
        // A ring depends on these alone, and is the expensive part.
        let basis = (service.ring_size, members);
        let ring = match &state.told {
            Some(told) if state.basis == basis => told.ring.clone(),
            Some(_) | None => maglev::table(&basis.1, service.ring_size),
        };
        state.basis = basis;
        let steering = Steering {
            service: service.name.clone(),
            address: service.address,
            port: service.port,
            protocol: service.protocol,
            backends: steered(service, &seen),
            ring,
            policy: service.policy.clone(),
        };
        let mut actions = Vec::new();
        if state.told.as_ref() != Some(&steering) {
            state.told = Some(steering.clone());
            actions.push(Action::Steer(steering));
        }
        if state.tier != tier {
            let (service, from) = (service.name.clone(), state.tier);
            actions.push(Action::Notice(Notice::Tier {
                service,
                from,
                to: tier,
            }));
            state.tier = tier;
        }
        actions
    }
}

/// A backend as it looks now.
struct Seen {
    up: bool,
    mode: Mode,
    reach: Reach,
    weight: u16,
    tier: u8,
}

impl Seen {
    /// Whether it can take new flows.
    fn usable(&self) -> bool {
        self.up && self.weight > 0 && self.reachable()
    }

    /// Whether packets can be sent to it.
    fn reachable(&self) -> bool {
        matches!(self.reach, Reach::Local | Reach::Dsr(_))
    }
}

/// The lowest tier with enough usable backends; else the one with most of them, the lowest on ties.
fn choose_tier(seen: &[Seen], enough: u16) -> Option<u8> {
    let mut usable: BTreeMap<u8, usize> = BTreeMap::new();
    for seen in seen.iter().filter(|seen| seen.usable()) {
        *usable.entry(seen.tier).or_default() += 1;
    }
    let enough = usable
        .iter()
        .find(|(_, count)| **count >= usize::from(enough));
    // `max_by_key` takes the last of equals.
    let most = || usable.iter().rev().max_by_key(|(_, count)| **count);
    enough.or_else(most).map(|(tier, _)| *tier)
}

fn steered(service: &Service, seen: &[Seen]) -> Vec<SteeredBackend> {
    let backends = service.backends.iter().zip(seen);
    backends
        .map(|(backend, seen)| SteeredBackend {
            name: backend.name.clone(),
            address: backend.address,
            port: backend.port,
            weight: backend.weight,
            // A flow whose packets have nowhere to go is better off on another backend.
            alive: seen.up && seen.reachable(),
            quic_server_id: backend.quic_server_id,
            way: way(backend, seen),
        })
        .collect()
}

fn way(backend: &Backend, seen: &Seen) -> Way {
    let next_hop = match seen.reach {
        Reach::Dsr(next_hop) => Some(next_hop),
        Reach::Local | Reach::Lost | Reach::Pending => None,
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
