//! A node's virtual routers: what they are told, and what comes of it.

use std::{collections::VecDeque, net::IpAddr};

use super::{Node, Stage, choice::Target, steering::ServiceState};
use crate::{
    action::{Action, Notice},
    api::human_duration,
    channel::Book,
    config::{Config, Name, VirtualRouter},
    time::Instant,
    vrrp::election::{Ability, Effect, Election, Evidence, Input, Member, Role},
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
    /// Gives the addresses of `router`, or of all that this node is master of, to a peer; whose. A
    /// virtual router of a sync group takes the others with it.
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
        let asked =
            |election: &&Election| router.is_none_or(|name| election.member(name).is_some());
        let is_master = |election: &&Election| election.role().0 == Role::Master;
        let given: Vec<&Election> = self.routers.values().filter(asked).collect();
        if let Some(name) = router {
            match given.first() {
                None => {
                    let routers = self.config.virtual_routers.iter();
                    return Err(FailoverError::Unknown {
                        router: name.clone(),
                        known: routers.map(|router| router.name.clone()).collect(),
                    });
                }
                Some(election) if !is_master(election) => {
                    return Err(FailoverError::NotMaster {
                        router: name.clone(),
                        role: election.role().0,
                        master: election.member(name).and_then(|member| member.master(now)),
                    });
                }
                Some(_) => {}
            }
        }
        let masters = || given.iter().copied().filter(is_master);
        let elections: Vec<Name> = masters().map(|election| election.name().clone()).collect();
        let names: Vec<Name> = masters().flat_map(Election::names).cloned().collect();
        if names.is_empty() {
            return Err(FailoverError::NoMaster);
        }
        for name in &elections {
            self.name_successor(name, now);
            self.input(name, Input::FailOver, now);
        }
        self.conclude(now);
        Ok(names)
    }

    /// Silence of a peer's adverts tells of the backends on its node.
    pub(super) fn weigh_evidence(&mut self, now: Instant) {
        for name in self.election_names() {
            let Some(election) = self.routers.get_mut(&name) else {
                continue;
            };
            for evidence in election.evidence(now) {
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
        for name in self.election_names() {
            let Some(election) = self.routers.get(&name) else {
                continue;
            };
            let members = election.members();
            let up = |member: &Member| self.network.link(&member.config().interface) == Some(true);
            let listening = members.iter().all(up);
            let (ability, priority) = self.group_ability(members);
            if let Some(election) = self.routers.get_mut(&name) {
                election.set_priority(priority, now);
            }
            if listening {
                self.input(&name, Input::Listening, now);
            }
            self.input(&name, Input::Ability(ability), now);
        }
    }

    /// A group can do what each of its members can, and the tracks of each count for all.
    fn group_ability(&self, members: &[Member]) -> (Ability, u8) {
        let (mut all, priority) = self.tracked(members);
        for member in members {
            let router = member.config();
            match (self.ability(router), &all) {
                (_, Ability::Unable(_)) => break,
                (Ability::Unable(cause), _) if members.len() > 1 => {
                    all = Ability::Unable(format!("virtual router {}: {cause}", router.name));
                }
                (unable @ Ability::Unable(_), _) => all = unable,
                (undecided @ Ability::Undecided(_), Ability::Able) => all = undecided,
                (Ability::Undecided(_) | Ability::Able, _) => {}
            }
        }
        (all, priority)
    }

    fn ability(&self, router: &VirtualRouter) -> Ability {
        let interface = &router.interface;
        match self.network.link(interface) {
            None => return Ability::Undecided(format!("the state of link {interface}")),
            Some(false) => return Ability::Unable(format!("link {interface} is down")),
            Some(true) => {}
        }
        if !self.steers {
            return Ability::Undecided("the kernel, which verifies the program".to_owned());
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

    /// The virtual router called `name`.
    pub(super) fn member(&self, name: &Name) -> Option<&Member> {
        self.routers
            .values()
            .find_map(|election| election.member(name))
    }

    /// Which election the virtual router called `name` takes part in.
    pub(super) fn election_of(&self, name: &Name) -> Option<Name> {
        let mut elections = self.routers.values();
        let election = elections.find(|election| election.member(name).is_some())?;
        Some(election.name().clone())
    }

    /// Gives the election of a virtual router an input and takes its effects.
    pub(super) fn input(&mut self, router: &Name, input: Input<'_>, now: Instant) {
        let Some(name) = self.election_of(router) else {
            return;
        };
        if let Some(election) = self.routers.get_mut(&name) {
            election.handle(input, now);
            Self::take_effects(election, &mut self.actions, &mut self.book);
        }
    }

    /// Turns the effects of one election into actions.
    pub(super) fn drain(&mut self, name: &Name) {
        if let Some(election) = self.routers.get_mut(name) {
            Self::take_effects(election, &mut self.actions, &mut self.book);
        }
    }

    /// Turns an election's effects into actions: for each member, where none is named.
    pub(super) fn take_effects(
        election: &mut Election,
        actions: &mut VecDeque<Action>,
        book: &mut Book,
    ) {
        for effect in election.take_effects() {
            for member in election.members() {
                let router = member.config().name.clone();
                actions.push_back(match effect.clone() {
                    Effect::Advert { priority } => Action::SendAdvert {
                        router,
                        advert: member.advert(priority),
                    },
                    Effect::Acquire => Action::Acquire { router },
                    Effect::Release => Action::Release { router },
                    Effect::Announce => Action::Announce { router },
                    Effect::ProbeAddresses => Action::ProbeAddresses { router },
                    Effect::Ask { peer } => {
                        book.order(&router, &peer);
                        continue;
                    }
                    Effect::Role { from, to, cause } => Action::Notice(Notice::Role {
                        router,
                        from,
                        to,
                        cause,
                    }),
                    Effect::Peer { router: of, .. } | Effect::Misconfigured { router: of, .. }
                        if of != router =>
                    {
                        continue;
                    }
                    Effect::Peer { address, alive, .. } => Action::Notice(Notice::Peer {
                        router,
                        address,
                        alive,
                    }),
                    Effect::Misconfigured { what, .. } => {
                        Action::Notice(Notice::Misconfigured { router, what })
                    }
                });
            }
        }
    }

    pub(super) fn stop(&mut self, linger: bool, now: Instant) {
        self.stage = Stage::Stopping;
        for name in self.election_names() {
            self.name_successor(&name, now);
            self.input(&name, Input::Stop { linger }, now);
        }
    }
}

/// The election of the virtual routers called `names`, on a node that starts.
pub(super) fn elect(
    config: &Config,
    names: &[Name],
    resumed: bool,
    now: Instant,
) -> Option<Election> {
    let mut routers = names
        .iter()
        .filter_map(|name| config.virtual_router(name).cloned());
    let first = routers.next()?;
    Some(Election::new(first, routers, resumed, now))
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
