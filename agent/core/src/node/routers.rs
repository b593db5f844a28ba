//! A node's virtual routers: what they are told, and what comes of it.

use std::net::IpAddr;

use super::{Node, Stage, choice::Target, steering::ServiceState};
use crate::{
    action::{Action, Notice},
    api::human_duration,
    config::{Name, VirtualRouter},
    time::Instant,
    vrrp::election::{Ability, Effect, Election, Evidence, Input, Role},
};

/// Why an order to fail over was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FailoverError {
    /// No such virtual router.
    #[error("there is no virtual router {router}; there is: {}", list(.known))]
    Unknown {
        /// What was asked for.
        router: Name,
        /// What there is.
        known: Vec<Name>,
    },
    /// This node does not hold its addresses.
    #[error("this node is {role} for {router}: run `steerctl failover` on the master{}", at(.master))]
    NotMaster {
        /// The virtual router.
        router: Name,
        /// What the node is for it.
        role: Role,
        /// Who holds them.
        master: Option<IpAddr>,
    },
    /// This node holds no virtual router's addresses.
    #[error("this node is master of no virtual router: run `steerctl failover` on the master")]
    NoMaster,
    /// The node hands everything over already.
    #[error("this node is stopping and gives all its addresses away: nothing is left to do")]
    Stopping,
}

impl Node {
    /// Gives the addresses of `router`, or of all that this node is master of, to a peer; whose.
    ///
    /// Backups are silent, so a master cannot know that there is one. It asks for a takeover and
    /// keeps the addresses until a peer announces it; if none does, it stays master and says so in
    /// a [`Notice::Misconfigured`]. Thus an order without a peer loses no packet.
    ///
    /// # Errors
    ///
    /// Why nothing was done.
    pub fn failover(
        &mut self,
        router: Option<&Name>,
        now: Instant,
    ) -> Result<Vec<Name>, FailoverError> {
        if self.stage != Stage::Running {
            return Err(FailoverError::Stopping);
        }
        let is_master = |election: &Election| election.role().0 == Role::Master;
        let given: Vec<Name> = match router {
            None => {
                let masters = self
                    .routers
                    .iter()
                    .filter(|(_, election)| is_master(election));
                masters.map(|(name, _)| name.clone()).collect()
            }
            Some(name) => match self.routers.get(name) {
                None => {
                    let known = self.routers.keys().cloned().collect();
                    return Err(FailoverError::Unknown {
                        router: name.clone(),
                        known,
                    });
                }
                Some(election) if !is_master(election) => {
                    let (role, master) = (election.role().0, election.master(now));
                    return Err(FailoverError::NotMaster {
                        router: name.clone(),
                        role,
                        master,
                    });
                }
                Some(_) => vec![name.clone()],
            },
        };
        if given.is_empty() {
            return Err(FailoverError::NoMaster);
        }
        for name in &given {
            self.name_successor(name, now);
            self.input(name, Input::FailOver, now);
        }
        self.advance(now);
        Ok(given)
    }

    /// Silence of a peer's adverts tells of the backends on its node.
    pub(super) fn weigh_evidence(&mut self, now: Instant) {
        for name in self.router_names() {
            let Some(election) = self.routers.get_mut(&name) else {
                continue;
            };
            while let Some(evidence) = election.evidence(now) {
                let (Evidence::Late(address) | Evidence::Silent(address, _)) = evidence;
                let keys = self.backends_at.get(&address).cloned().unwrap_or_default();
                for key in keys {
                    match evidence {
                        Evidence::Late(_) => self.health.suspect(&key, now),
                        Evidence::Silent(address, silence) => {
                            let silence = human_duration(silence);
                            let cause =
                                format!("node silent: no adverts from {address} for {silence}");
                            let change = self.health.silence(&key, &cause, now);
                            self.book.turned(&key);
                            Self::apply_to(&mut self.actions, &mut self.services, change);
                        }
                    }
                }
            }
            self.drain(&name);
        }
    }

    /// Tells each virtual router whether this node could be its master.
    pub(super) fn decide_abilities(&mut self, now: Instant) {
        if !std::mem::take(&mut self.reconsider) {
            return;
        }
        for name in self.router_names() {
            if let Some(router) = self.config.virtual_router(&name) {
                let (ability, priority) = self.tracked(router, self.ability(router));
                if let Some(election) = self.routers.get_mut(&name) {
                    election.set_priority(priority, now);
                }
                self.input(&name, Input::Ability(ability), now);
            }
        }
    }

    fn ability(&self, router: &VirtualRouter) -> Ability {
        let interface = &router.interface;
        match self.network.link(interface) {
            None => return Ability::Undecided(format!("the state of link {interface}")),
            Some(false) => return Ability::Unable(format!("link {interface} is down")),
            Some(true) => {}
        }
        let mut without = Vec::new();
        let mut pending = None;
        let services = self.config.services.iter();
        for service in services.filter(|service| service.virtual_router == router.name) {
            match self.services.get(&service.name).map(ServiceState::target) {
                Some(Target::Tier(_) | Target::Panic(_) | Target::Sorry) => return Ability::Able,
                Some(Target::Nobody) | None => without.push(service.name.clone()),
            }
            pending = pending.or_else(|| self.pending(service));
        }
        match pending {
            Some(what) => Ability::Undecided(what),
            None if without.is_empty() => Ability::Able,
            None => Ability::Unable(format!("no usable backend of service {}", list(&without))),
        }
    }

    /// Gives a virtual router an input and takes its effects.
    pub(super) fn input(&mut self, router: &Name, input: Input<'_>, now: Instant) {
        if let Some(election) = self.routers.get_mut(router) {
            election.handle(input, now);
            self.drain(router);
        }
    }

    /// Turns a virtual router's effects into actions.
    pub(super) fn drain(&mut self, router: &Name) {
        let Some(election) = self.routers.get_mut(router) else {
            return;
        };
        for effect in election.take_effects() {
            let router = router.clone();
            self.actions.push_back(match effect {
                Effect::Advert { priority } => Action::SendAdvert {
                    router,
                    advert: election.advert(priority),
                },
                Effect::Acquire => Action::Acquire { router },
                Effect::Release => Action::Release { router },
                Effect::Announce => Action::Announce { router },
                Effect::ProbeAddresses => Action::ProbeAddresses { router },
                Effect::Role { from, to, cause } => Action::Notice(Notice::Role {
                    router,
                    from,
                    to,
                    cause,
                }),
                Effect::Peer { address, alive } => Action::Notice(Notice::Peer {
                    router,
                    address,
                    alive,
                }),
                Effect::Ask { peer } => {
                    self.book.order(&router, &peer);
                    continue;
                }
                Effect::Misconfigured(what) => {
                    Action::Notice(Notice::Misconfigured { router, what })
                }
            });
        }
    }

    pub(super) fn stop(&mut self, linger: bool, now: Instant) {
        self.stage = Stage::Stopping;
        for name in self.router_names() {
            self.name_successor(&name, now);
            self.input(&name, Input::Stop { linger }, now);
        }
    }
}

fn list(names: &[Name]) -> String {
    names
        .iter()
        .map(Name::as_str)
        .collect::<Vec<_>>()
        .join(", ")
}

fn at(master: &Option<IpAddr>) -> String {
    master.map_or(String::new(), |address| format!(", {address}"))
}
