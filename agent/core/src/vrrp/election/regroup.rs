//! New configurations: of the members, and of who belongs together.
//!
//! A reload divides elections into those of their members ([`Election::split`]) and joins them anew
//! ([`Election::join`]). Each goes on in its role. Where members that are to be one group have
//! different roles, none of them keeps the addresses: what is not whole is no group's, and a peer that
//! is master of the others may be one of all by the same reload. Whoever was master resigns, so the
//! next one is elected within the skew.

use super::{
    Ability, Election, Member, Role, member,
    state::{Backup, Fault, State},
};
use crate::{
    config::{Name, VirtualRouter},
    time::Instant,
};

impl Election {
    /// Works by new configurations of its members, each of the same name, VRID, interface and family.
    /// A master whose addresses changed must release them before and acquire them after; that is the
    /// caller's.
    pub fn reconfigure(&mut self, routers: impl IntoIterator<Item = VirtualRouter>, now: Instant) {
        self.held = false;
        for router in routers {
            let members = &mut self.members;
            if let Some(member) = members.iter_mut().find(|m| m.config.name == router.name) {
                member.reconfigure(router);
            }
        }
        member::sort(&mut self.members);
        self.priority = self.settings().priority;
        let interval = self.settings().advert_interval;
        let announce = self.settings().announce;
        match &mut self.state {
            State::Master(master) => {
                master.advert_at = now;
                master.announce_again(&announce, now);
                master.refresh_at = announce.next_refresh(now);
            }
            State::Backup(backup) => backup.preempt_at = None,
            State::Init(_) | State::Fault(_) | State::Stopped => {}
        }
        if self.role == Role::Master || self.followed().is_none() {
            self.master_interval = interval;
        }
    }

    /// Takes the virtual router called `name` out; it goes on by itself, in the same role. None if it
    /// is no member, or the only one.
    pub fn split(&mut self, name: &Name) -> Option<Self> {
        if self.members.len() < 2 {
            return None;
        }
        let at = self.members.iter().position(|m| m.config.name == *name)?;
        let member = self.members.remove(at);
        Some(Self {
            members: vec![member],
            state: self.state.clone(),
            cause: self.cause.clone(),
            ability: self.ability.clone(),
            conflict: self.conflict.clone(),
            effects: Vec::new(),
            successor: None,
            ..*self
        })
    }

    /// The role that elections have as one; see [`Election::join`].
    #[must_use]
    pub fn common_role<'a>(elections: impl Iterator<Item = &'a Self> + Clone) -> Role {
        let any = |role| elections.clone().any(|election| election.role == role);
        let hands_over = |election: &Self| match &election.state {
            State::Master(master) => master.resign.is_some(),
            State::Init(_) | State::Backup(_) | State::Fault(_) | State::Stopped => false,
        };
        match () {
            () if any(Role::Fault) => Role::Fault,
            () if any(Role::Init) => Role::Init,
            () if any(Role::Backup) || elections.clone().any(hands_over) => Role::Backup,
            () => Role::Master,
        }
    }

    /// Takes the role that it is to have as part of a group, which is [`Election::common_role`].
    /// Take its effects before it is joined: they are for its own members alone.
    pub fn give_way(&mut self, role: Role, cause: &str, now: Instant) {
        if let State::Master(master) = &self.state {
            if role == Role::Master {
                return;
            }
            if !master.has_resigned() {
                self.say(0, now);
            }
            self.effects.push(super::Effect::Release);
        } else {
            // One of the group's may have released already what a killed daemon left.
            self.release_stale();
            if self.role == role {
                return;
            }
        }
        let cause = cause.to_owned();
        self.state = match role {
            Role::Fault => self.become_fault(cause, Fault::default(), now),
            Role::Backup => self.become_backup(cause, now),
            // Only masters are asked to be masters.
            Role::Init | Role::Master => {
                self.enter(Role::Init, cause, now);
                self.ability = Ability::Undecided("the sync group".to_owned());
                State::Init(None)
            }
        };
    }

    /// Takes the members of `other`, which has the same role.
    pub fn join(&mut self, other: Self, now: Instant) {
        self.held |= other.held;
        self.stale |= other.stale;
        self.sent = self.sent.max(other.sent);
        self.members.extend(other.members);
        member::sort(&mut self.members);
        match (&mut self.state, other.state) {
            (State::Master(master), _) => master.advert_at = now,
            (State::Backup(backup), State::Backup(theirs)) => {
                *backup = Backup::until(backup.down_at.max(theirs.down_at));
            }
            (state @ State::Init(_), _) => *state = State::Init(None),
            _ => {}
        }
    }

    /// Takes a virtual router that did not exist before, in the role that it has. A master must
    /// acquire the addresses before; that is the caller's.
    pub fn adopt(&mut self, router: VirtualRouter, now: Instant) {
        let settings = router.announce;
        self.members
            .extend(member::in_order([router].into_iter(), now));
        member::sort(&mut self.members);
        if let State::Master(master) = &mut self.state {
            master.advert_at = now;
            master.announce_again(&settings, now);
        }
    }

    /// The names of its members.
    pub fn names(&self) -> impl Iterator<Item = &Name> {
        self.members
            .iter()
            .map(|member: &Member| &member.config.name)
    }
}
