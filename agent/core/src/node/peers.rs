//! What other nodes say over the channel, and what they are told.

use std::{collections::BTreeSet, time::Duration};

use super::Node;
use crate::{
    action::{Action, Notice},
    api::BackendState,
    channel::{
        Happening,
        book::{Heard, News, PeerReport},
        message::{RoleView, RoleWord, TakeOver, View},
    },
    config::Name,
    event::BackendKey,
    health::Health,
    time::Instant,
    vrrp::election::{Election, Input, Role},
};

impl Node {
    /// What is known of the peer called `name`.
    #[must_use]
    pub fn peer_report(&self, name: &Name, now: Instant) -> Option<PeerReport> {
        let view = |key: &BackendKey| view(&self.health, key, now);
        self.book.report(name, view, now)
    }

    /// Takes what happened on the channel to `peer`.
    pub(super) fn hear_peer(&mut self, peer: &Name, what: Happening, now: Instant) {
        for heard in self.book.handle(peer, what, &self.config, now) {
            match heard {
                Heard::TakeOver(order) => {
                    let done = self.take_over(peer, order, now);
                    self.book.answer(peer, order, done);
                }
                Heard::TakenOver(answer) => {
                    if let Some(router) = self.book.name_of(answer.router) {
                        let done = answer.done;
                        let router = &router;
                        self.input(router, Input::Answered { router, done }, now);
                    }
                }
                Heard::LetGo { router, source } => {
                    if let Some(router) = self.book.name_of(router) {
                        let router = &router;
                        self.input(router, Input::LetGo { router, source }, now);
                    }
                }
            }
        }
    }

    /// Passes the word of living masters on to the elections.
    pub(super) fn vouch(&mut self) {
        for election in self.routers.values_mut() {
            let names: Vec<Name> = election.names().cloned().collect();
            for name in names {
                election.vouch(&name, self.book.word(&name));
            }
        }
    }

    /// Tells an election whom it may ask to take over: who can take over all of a sync group.
    pub(super) fn name_successor(&mut self, election: &Name, now: Instant) {
        if let Some(election) = self.routers.get_mut(election) {
            let names = election.names();
            let successors: BTreeSet<_> =
                names.map(|name| self.book.successor(name, now)).collect();
            let only = successors.first().cloned().flatten();
            election.set_successor(only.filter(|_| successors.len() == 1));
        }
    }

    /// Says what is news, and gives the sign of life if that is due.
    pub(super) fn tell_peers(&mut self, now: Instant) {
        let (routers, health) = (&self.routers, &self.health);
        let roles = |ids: &std::collections::BTreeMap<Name, _>| {
            let known = ids.iter().filter_map(|(name, id)| {
                let mut elections = routers.values();
                let (election, member) =
                    elections.find_map(|election| Some((election, election.member(name)?)))?;
                Some(RoleView {
                    router: *id,
                    role: RoleWord::from(election.role().0),
                    priority: election.priority(),
                    able: election.is_serving(),
                    source: member.source(),
                })
            });
            known.collect()
        };
        self.book.tick(roles, |key| view(health, key, now), now);
        let news = self.book.take_news().into_iter();
        self.actions.extend(news.map(|news| match news {
            News::Say { peer, message } => Action::Say { peer, message },
            News::Tell {
                peer,
                what,
                trouble,
            } => Action::Notice(Notice::Channel {
                peer,
                what,
                trouble,
            }),
        }));
    }

    /// Obeys the order of a peer to take over, if that is its to give: if it is the master.
    fn take_over(&mut self, peer: &Name, order: TakeOver, now: Instant) -> bool {
        let Some(router) = self.book.name_of(order.router) else {
            return false;
        };
        let said = self.book.role_of(peer, order.router);
        let Some(said) = said.filter(|said| said.role == RoleWord::Master) else {
            return false;
        };
        let Some(member) = self.member(&router) else {
            return false;
        };
        // Whom this node hears as master, if anyone, must be the one that orders.
        let heard = member.master(now);
        if heard.is_some() && heard != said.source {
            return false;
        }
        let source = said.source;
        let input = Input::TakeOver {
            router: &router,
            source,
        };
        self.input(&router, input, now);
        let is_master =
            |election: &Election| election.role().0 == Role::Master && election.is_serving();
        let election = self.election_of(&router);
        election
            .and_then(|name| self.routers.get(&name))
            .is_some_and(is_master)
    }
}

/// How this node sees a backend, and for how long.
fn view(health: &Health, key: &BackendKey, now: Instant) -> Option<(View, Duration)> {
    let report = health.report(key)?;
    let view = match report.state {
        BackendState::Unknown => View::Undecided,
        BackendState::Up | BackendState::Failing | BackendState::Unreachable => View::Up,
        BackendState::Down | BackendState::Rising => View::Down,
    };
    Some((view, now.since(report.since)))
}
