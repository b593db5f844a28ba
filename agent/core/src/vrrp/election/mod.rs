//! The election of a master, on one node (RFC 9568 section 6): for one virtual router, or for all of a
//! sync group's at once.
//!
//! ```text
//!                      able
//!       +------+  -------------->  +--------+
//!       | Init |                   | Backup | <-+  advert that wins, follows, or resigns (skew)
//!       +------+  <--------------  +--------+ --+
//!        |    ^        stop          |    ^
//! resume |    |                 down |    | advert that wins, or takes over
//!        v    | stop                 v    |
//!       +--------+ <-----------------+    |
//!       | Master | -----------------------+
//!       +--------+
//!
//!       any of them  -- unable -->  Fault  -- able again -->  Backup
//! ```
//!
//! The owner (priority 255) goes from Init and Fault to Master at once (6.4.1).
//!
//! A sync group has one state for all its members, so it cannot be divided: each effect is carried
//! out for every member, and a peer's advert for any member counts for all.
//!
//! * `input`: what an election is told, and what it answers.
//! * `transition`, `mastery`: what happens on the way from one state to the next, and while one lasts.
//! * `handover`: what the peer channel adds.
//! * `member`: what differs between the members of a group; where addresses decide between equals.
//! * `regroup`: new configurations, and other groups.
//! * `telling`: what is told to people.
//!
//! [`Election::handle`] takes an [`Input`] with its time and leaves [`Effect`]s;
//! [`Election::next_deadline`] tells when [`Input::Timer`] is due.
//!
//! What is done beyond the RFC, or otherwise:
//!
//! * **Hand-over without a gap.** A master that an operator or a shutdown tells to resign sends
//!   priority 0 but keeps the addresses until a peer's advert shows that they have a new holder. If
//!   none comes in the time the slowest backup needs (one interval, 6.1: skew is below it), a
//!   shutdown releases them, a failover is called off. A master with a fault releases at once: its
//!   service is dead anyway.
//! * **A resignation is said twice**, an eighth of an interval apart: the first may be lost, or overtake
//!   the advert before it, which would make the backups wait for the whole of the down interval.
//! * **A failover lasts.** Who gave the addresses away by order does not take them back by priority;
//!   it acts as with `preempt = false` until it is master again (the peer's master is gone or was
//!   told to fail over), its own configuration changes, or the daemon restarts.
//! * **A rival is answered at a bounded rate**, once in 10 ms, where RFC 9568 6.4.3 answers each
//!   advert: two nodes without distinct addresses would answer each other for ever. The answer is
//!   followed by new announcements, because the segment has learned the rival's MAC.
//! * **A quick start.** What is heard counts from when the links are up, although this node may not
//!   know yet whether it can serve. Where that is nobody, it waits two of its own intervals and the
//!   skew after that, not three: a master that is there was due to be heard twice. That costs p² in
//!   place of p³ false starts where a share p of adverts is lost, and a false start is ended by the
//!   master's answer to the first advert. Who comes back from a fault waits as the RFC says.
//! * **`preempt_delay`** counts from the first advert of a lower master. Until it is over such a
//!   master is followed like any other, so its silence ends the wait.
//! * **Who yields to a rival says so** with one more advert, where the RFC is silent: a winner whose
//!   advert came first would not know that the segment had learned another's MAC, and not announce.
//! * **The winner announces again**, whether it hears a rival's advert, a rival that resigns, or only
//!   the rival's announcement, which may be all that got through: then after the time in which a
//!   rightful master would have been heard.
//! * **A resignation counts only from the master that is followed**, so the end of a rival does not
//!   cause a third node's takeover from a healthy master.
//! * **A late timer is no evidence.** If [`Input::Timer`] comes more than half an interval late, this
//!   node was stopped and the adverts may wait unread: it listens one interval more, once.
//! * **A successor that is known is asked.** Where the node has a channel to one, a resigning master
//!   has it take over instead of sending priority 0, and lets go when that says that it has, for every
//!   member; if it does not in time, priority 0 follows. What this node is ordered so it does at once,
//!   without the skew.
//! * **A living master is not replaced** because its adverts are not heard: while a peer says over
//!   the channel that it is master and serves ([`Election::vouch`]), the master-down timer waits.
//! * **Forged adverts** are bounded in what they say: `telling` and [`crate::vrrp::peers`].
//! * **Address conflict.** In the wait before its first takeover a node asks whether anyone has the
//!   addresses. A peer does so by right, but any peer that lives is heard within that wait; so an
//!   answer counts when the wait ends with no peer ever heard. A master that dies within that wait
//!   answers one question and not the next: only an answer to the last one counts.

mod handover;
mod input;
mod mastery;
mod member;
mod regroup;
mod state;
mod telling;
mod transition;

#[cfg(test)]
mod tests;

use std::{mem, time::Duration};

use self::state::{Conflict, Fault, Master, Resign, State};
pub use self::{
    input::{Ability, Effect, Evidence, Input, Role},
    member::Member,
};
use crate::{
    config::{Name, VirtualRouter},
    time::Instant,
};

/// The priority of the addresses' owner (RFC 9568 5.2.4).
pub const OWNER: u8 = 255;

/// One virtual router on one node, or the virtual routers of a sync group.
#[derive(Debug, Clone)]
pub struct Election {
    /// Never empty; the first decides between equals.
    members: Vec<Member>,
    state: State,
    role: Role,
    since: Instant,
    cause: String,
    ability: Ability,
    /// The configured one, or what [`Election::set_priority`] made of it.
    priority: u8,
    /// The interval of the master that is followed: Active_Adver_Interval of RFC 9568 6.1.
    master_interval: Duration,
    /// Gave the addresses away by order: does not preempt.
    held: bool,
    /// A daemon that was killed may have left the addresses on the interface.
    stale: bool,
    conflict: Option<Conflict>,
    defended: Option<Instant>,
    /// When an advert was sent last, a resignation too.
    sent: Option<Instant>,
    effects: Vec<Effect>,
    /// Whom to ask when resigning.
    successor: Option<Name>,
}

impl Election {
    /// A virtual router, with others where they are a sync group, on a node that starts. With
    /// `resumed` it goes on as the master that it was moments ago; else what an earlier daemon may
    /// have left on the interface is released.
    #[must_use]
    pub fn new(
        router: VirtualRouter,
        others: impl IntoIterator<Item = VirtualRouter>,
        resumed: bool,
        now: Instant,
    ) -> Self {
        let mut election = Self {
            priority: router.priority,
            master_interval: router.advert_interval,
            members: member::in_order([router].into_iter().chain(others), now),
            state: State::Init(None),
            role: Role::Init,
            since: now,
            cause: "just started".to_owned(),
            ability: Ability::Undecided("just started".to_owned()),
            held: false,
            stale: !resumed,
            conflict: None,
            defended: None,
            sent: None,
            effects: Vec::new(),
            successor: None,
        };
        if resumed {
            let cause = "resumed: it was master when the daemon stopped".to_owned();
            election.state = election.become_master(cause, now);
        }
        election
    }

    /// Takes an input; then take the effects with [`Election::take_effects`].
    pub fn handle(&mut self, input: Input<'_>, now: Instant) {
        if let Input::Advert {
            router,
            source,
            advert,
        } = &input
            && !self.observe(router, *source, advert, now)
        {
            return;
        }
        if let Input::Echo { router, advert } = &input {
            self.hears_itself(router, advert, now);
            return;
        }
        if let Input::Ability(ability) = &input {
            self.ability = ability.clone();
        }
        let state = mem::replace(&mut self.state, State::Stopped);
        self.state = self.step(state, input, now);
    }

    /// The transition table.
    fn step(&mut self, state: State, input: Input<'_>, now: Instant) -> State {
        match (state, input) {
            (State::Init(listen), Input::Ability(Ability::Undecided(wait))) => {
                self.cause = format!("waiting for {wait}");
                State::Init(listen)
            }
            (State::Init(listen), Input::Ability(Ability::Able)) => self.starts(listen, now),
            (State::Init(_), Input::Ability(Ability::Unable(cause))) => {
                self.become_fault(cause, Fault::default(), now)
            }
            (State::Init(listen), Input::Listening) => {
                State::Init(Some(listen.unwrap_or_else(|| self.listens(now))))
            }
            (
                State::Init(Some(listen)),
                Input::Advert {
                    router,
                    source,
                    advert,
                },
            ) => State::Init(Some(
                self.listener_hears(listen, router, source, advert, now),
            )),
            (State::Init(Some(listen)), Input::Timer) => {
                State::Init(Some(self.listener_timer(listen, now)))
            }
            // A peer is master by right or will be told otherwise.
            (
                state @ (State::Init(_) | State::Backup(_) | State::Fault(_)),
                Input::Conflict { peer: true, .. },
            ) => state,
            (State::Init(Some(listen)), Input::Conflict { address, mac, .. }) => {
                self.conflict = Some(Conflict::seen(address, mac));
                State::Init(Some(listen))
            }
            (
                State::Init(listen),
                Input::Advert { .. } | Input::Conflict { .. } | Input::Timer | Input::FailOver,
            ) => State::Init(listen),
            (state, Input::Listening | Input::Echo { .. }) => state,
            (
                state @ (State::Init(_) | State::Fault(_)),
                Input::TakeOver { .. } | Input::Answered { .. } | Input::LetGo { .. },
            ) => state,
            (State::Init(_) | State::Backup(_) | State::Fault(_), Input::Stop { .. }) => {
                self.become_stopped(now)
            }

            (State::Backup(_), Input::Ability(Ability::Unable(cause))) => {
                self.become_fault(cause, Fault::default(), now)
            }
            (
                State::Backup(backup),
                Input::Advert {
                    router,
                    source,
                    advert,
                },
            ) => State::Backup(self.backup_hears(backup, router, source, advert, now)),
            (State::Backup(backup), Input::Conflict { address, mac, .. }) => {
                self.conflict = Some(Conflict::seen(address, mac));
                State::Backup(backup)
            }
            (State::Backup(backup), Input::Timer) => self.backup_timer(backup, now),
            (
                State::Backup(backup),
                Input::Ability(Ability::Undecided(_) | Ability::Able)
                | Input::FailOver
                | Input::Answered { .. },
            ) => State::Backup(backup),
            (State::Backup(backup), Input::TakeOver { router, source }) => {
                self.take_over(backup, router, source, now)
            }
            (State::Backup(backup), Input::LetGo { router, source }) => {
                self.let_go(backup, router, source, now)
            }

            (State::Master(master), Input::Ability(Ability::Unable(cause))) => {
                if !master.has_resigned() {
                    self.say(0, now);
                }
                self.effects.push(Effect::Release);
                match master.resign {
                    Some(Resign { stop: true, .. }) => self.become_stopped(now),
                    Some(Resign { stop: false, .. }) | None => {
                        self.become_fault(cause, Fault::default(), now)
                    }
                }
            }
            (
                State::Master(master),
                Input::Advert {
                    router,
                    source,
                    advert,
                },
            ) => self.master_hears(master, router, source, advert, now),
            (
                State::Master(master),
                Input::Conflict {
                    router,
                    address,
                    mac,
                    peer,
                },
            ) => self.is_claimed(master, router, peer, &Conflict::seen(address, mac), now),
            (State::Master(master), Input::Timer) => self.master_timer(master, now),
            (State::Master(master), Input::FailOver) => self.resign(master, false, now),
            (State::Master(master), Input::Stop { linger: true }) => self.resign(master, true, now),
            (State::Master(master), Input::Stop { linger: false }) => {
                if !master.has_resigned() {
                    self.say(0, now);
                }
                self.effects.push(Effect::Release);
                self.become_stopped(now)
            }
            (
                State::Master(master),
                Input::Ability(Ability::Undecided(_) | Ability::Able)
                | Input::TakeOver { .. }
                | Input::LetGo { .. },
            ) => State::Master(master),
            (State::Master(master), Input::Answered { router, done }) => {
                self.answered(master, router, done, now)
            }

            (State::Fault(fault), Input::Ability(ability)) => match (ability, &self.conflict) {
                (Ability::Able, None) => self.recovers("able to serve again".to_owned(), now),
                (Ability::Unable(cause), None) => {
                    self.cause = cause;
                    State::Fault(fault)
                }
                (Ability::Undecided(_), _) | (Ability::Able | Ability::Unable(_), Some(_)) => {
                    State::Fault(fault)
                }
            },
            (State::Fault(fault), Input::Advert { source, .. }) => match self.conflict.take() {
                // Who answered for the address is a peer's host after all, or the peer will see to it.
                Some(_) => self.conflict_ends(format!("heard {source}"), now),
                None => State::Fault(fault),
            },
            (State::Fault(fault), Input::Conflict { address, mac, .. }) => match fault.reprobe {
                Some((at, _)) => {
                    self.conflict = Some(Conflict::seen(address, mac));
                    State::Fault(Fault {
                        reprobe: Some((at, 0)),
                    })
                }
                None => State::Fault(fault),
            },
            (State::Fault(fault), Input::Timer) => self.fault_timer(fault, now),
            (State::Fault(fault), Input::FailOver) => State::Fault(fault),

            (State::Stopped, _) => State::Stopped,
        }
    }

    /// What the master's silence says about its node, each piece once. Ask right before
    /// [`Input::Timer`], so that what follows from it is known before a takeover.
    pub fn evidence(&mut self, now: Instant) -> Vec<Evidence> {
        // Its own word counts for more than its silence.
        if self.word(now).is_some() {
            return Vec::new();
        }
        let slack = self.slack();
        let State::Backup(backup) = &mut self.state else {
            return Vec::new();
        };
        let silent =
            backup.down_at <= now && (backup.forgiven || now.since(backup.down_at) <= slack);
        let late = backup.late_at.is_some_and(|at| at <= now);
        if late {
            backup.late_at = None;
        }
        let mut evidence = Vec::new();
        for member in &mut self.members {
            let Some((address, heard)) = member.follows else {
                continue;
            };
            if silent && member.peers.get(address).is_some_and(|peer| !peer.silent) {
                member.peers.fell_silent(address);
                self.effects.push(Effect::Peer {
                    router: member.config.name.clone(),
                    address,
                    alive: false,
                });
                evidence.push(Evidence::Silent(address, now.since(heard)));
            } else if late && !silent {
                evidence.push(Evidence::Late(address));
            }
        }
        evidence
    }

    /// When [`Input::Timer`] is due.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Init(listen) => listen.as_ref().map(|listen| listen.wait.down_at),
            State::Stopped => None,
            State::Backup(backup) => {
                let probe = backup.probe.map(|(at, _)| at);
                [
                    Some(backup.down_at),
                    backup.late_at,
                    backup.preempt_at,
                    probe,
                ]
                .into_iter()
                .flatten()
                .min()
            }
            State::Master(Master {
                resign: Some(resign),
                ..
            }) => [Some(resign.until), resign.asked, resign.again_at]
                .into_iter()
                .flatten()
                .min(),
            State::Master(Master {
                advert_at,
                round,
                refresh_at,
                reclaim_at,
                resign: None,
                ..
            }) => [
                Some(*advert_at),
                round.as_ref().map(|round| round.at),
                *refresh_at,
                *reclaim_at,
            ]
            .into_iter()
            .flatten()
            .min(),
            State::Fault(fault) => fault.reprobe.map(|(at, _)| at),
        }
    }

    /// Has this priority from now on, whatever the configuration says; a master tells at once.
    pub fn set_priority(&mut self, priority: u8, now: Instant) {
        if self.priority != priority {
            self.priority = priority;
            if let State::Master(master) = &mut self.state {
                master.advert_at = now;
            }
        }
    }

    /// Its priority now.
    #[must_use]
    pub fn priority(&self) -> u8 {
        self.priority
    }

    /// What there is to do since the last call.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        mem::take(&mut self.effects)
    }

    /// The role, since when, and why.
    #[must_use]
    pub fn role(&self) -> (Role, Instant, &str) {
        (self.role, self.since, &self.cause)
    }

    /// Whether it ended.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        matches!(self.state, State::Stopped)
    }

    /// Its virtual routers: one, or those of the sync group.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// What is known of the virtual router called `name`, if it is one of its own.
    #[must_use]
    pub fn member(&self, name: &Name) -> Option<&Member> {
        self.members
            .iter()
            .find(|member| member.config.name == *name)
    }

    /// The same, to be told something.
    pub fn member_mut(&mut self, name: &Name) -> Option<&mut Member> {
        self.members
            .iter_mut()
            .find(|member| member.config.name == *name)
    }

    /// The name of the first member: it tells this election from others.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.lead().config.name
    }
}
