//! The election of a virtual router's master, on one node (RFC 9568 section 6).
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
//! * **A failover lasts.** Who gave the addresses away by order does not take them back by priority;
//!   it acts as with `preempt = false` until it is master again (the peer's master is gone or was
//!   told to fail over), its own configuration changes, or the daemon restarts.
//! * **A rival is answered at a bounded rate**, once in 10 ms, where RFC 9568 6.4.3 answers each
//!   advert: two nodes without distinct addresses would answer each other for ever. The answer is
//!   followed by new announcements, because the segment has learned the rival's MAC.
//! * **A resignation counts only from the master that is followed**, so the end of a rival does not
//!   cause a third node's takeover from a healthy master.
//! * **A late timer is no evidence.** If [`Input::Timer`] comes more than half an interval late, this
//!   node was stopped and the adverts may wait unread: it listens one interval more, once.
//! * **A successor that is known is asked.** Where the node has a channel to one, a resigning master
//!   has it take over instead of sending priority 0, and lets go when that says that it has; if it does
//!   not in time, priority 0 follows. What this node is ordered so it does at once, without the skew.
//! * **A living master is not replaced** because its adverts are not heard: while a peer says over
//!   the channel that it is master and serves ([`Election::vouch`]), the master-down timer waits.
//! * **Forged adverts** are bounded in what they say: `telling` and [`crate::vrrp::peers`].
//! * **Address conflict.** In the wait before its first takeover a node asks whether anyone has the
//!   addresses. A peer does so by right, but any peer that lives is heard within that wait; so an
//!   answer counts when the wait ends with no peer ever heard.

mod handover;
mod state;
mod telling;
mod transition;

#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, fmt, mem, net::IpAddr, time::Duration};

use serde::{Deserialize, Serialize};

use self::{
    state::{Conflict, Fault, Master, Resign, Round, State},
    telling::Telling,
};
use crate::{
    channel::{self, book::Word},
    config::{Name, VirtualRouter},
    time::Instant,
    vrrp::{
        peers::{self, Peers},
        wire::Advert,
    },
};

/// What a node is for a virtual router.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Just started: nothing decided yet. Also: stopped.
    Init,
    /// Listens to a master, ready to take over.
    Backup,
    /// Holds the addresses.
    Master,
    /// Cannot do its work: lost link, no healthy backend, address conflict.
    Fault,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Init => "init",
            Self::Backup => "backup",
            Self::Master => "master",
            Self::Fault => "fault",
        })
    }
}

/// Whether this node could do a master's work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ability {
    /// Not known yet, and what is waited for: a starting node waits, a running one goes on.
    Undecided(String),
    /// It could.
    Able,
    /// It could not, and why.
    Unable(String),
}

/// Something that happened to the virtual router.
#[derive(Debug, Clone, PartialEq)]
pub enum Input<'a> {
    /// What the node can do changed, or was looked at again.
    Ability(Ability),
    /// A peer's advert.
    Advert {
        /// Who sent it.
        source: IpAddr,
        /// What it says.
        advert: &'a Advert,
    },
    /// Another host, which is no known peer, has one of the addresses.
    Conflict {
        /// The address.
        address: IpAddr,
        /// The host's MAC.
        mac: [u8; 6],
    },
    /// A deadline may have passed.
    Timer,
    /// Give the addresses to a peer.
    FailOver,
    /// End; `linger`: a master waits for a new holder first.
    Stop {
        /// Whether to wait.
        linger: bool,
    },
    /// The master orders this node over the channel to take over. The caller has made sure that it is
    /// the master.
    TakeOver {
        /// It sends its adverts from here.
        source: Option<IpAddr>,
    },
    /// The successor that was asked answers over the channel.
    Answered {
        /// Whether it is master now.
        done: bool,
    },
    /// The peer that was master says over the channel that it is no longer.
    LetGo {
        /// It sent its adverts from here.
        source: Option<IpAddr>,
    },
}

/// Something to do, in the order given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Send an advert.
    Advert {
        /// With this priority, 0 to resign.
        priority: u8,
    },
    /// Put the addresses on the interface.
    Acquire,
    /// Take them off.
    Release,
    /// Announce them once.
    Announce,
    /// Ask who has them.
    ProbeAddresses,
    /// Order this peer over the channel to take over.
    Ask {
        /// Whom.
        peer: Name,
    },
    /// The role changed.
    Role {
        /// Before.
        from: Role,
        /// After.
        to: Role,
        /// Why.
        cause: String,
    },
    /// A peer is heard for the first time or again, or a master is silent. When many appear at
    /// once, not each is told.
    Peer {
        /// The peer.
        address: IpAddr,
        /// Whether it is heard.
        alive: bool,
    },
    /// Something is wrong with the set-up, with what to change. Of each kind of mistake one is told
    /// in a minute.
    Misconfigured(String),
}

/// What the adverts of the master that is followed say about its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// One is overdue by half an interval.
    Late(IpAddr),
    /// The master-down timer fires now.
    Silent(IpAddr, Duration),
}

/// One virtual router on one node.
#[derive(Debug, Clone)]
pub struct Election {
    config: VirtualRouter,
    source: Option<IpAddr>,
    state: State,
    role: Role,
    since: Instant,
    cause: String,
    ability: Ability,
    /// The interval of the master that is followed: Active_Adver_Interval of RFC 9568 6.1.
    master_interval: Duration,
    /// Who sent the last advert that was no resignation while this node was not master.
    master: Option<IpAddr>,
    /// Gave the addresses away by order: does not preempt.
    held: bool,
    /// A daemon that was killed may have left the addresses on the interface.
    stale: bool,
    conflict: Option<Conflict>,
    defended: Option<Instant>,
    peers: Peers,
    telling: Telling,
    effects: Vec<Effect>,
    /// A living peer's word that it is master and serves.
    vouched: Option<Word>,
    /// Whom to ask when resigning.
    successor: Option<Name>,
    /// Who ordered this node to take over, and until when its adverts of before may still come.
    taken_from: Option<(IpAddr, Instant)>,
}

impl Election {
    /// A virtual router on a node that starts. `source` is the address of this node's adverts as
    /// far as known. With `resumed` it goes on as the master that it was moments ago; else what
    /// an earlier daemon may have left on the interface is released.
    #[must_use]
    pub fn new(config: VirtualRouter, source: Option<IpAddr>, resumed: bool, now: Instant) -> Self {
        let mut election = Self {
            master_interval: config.advert_interval,
            config,
            source,
            state: State::Init,
            role: Role::Init,
            since: now,
            cause: "just started".to_owned(),
            ability: Ability::Undecided("just started".to_owned()),
            master: None,
            held: false,
            stale: !resumed,
            conflict: None,
            defended: None,
            peers: Peers::default(),
            telling: Telling::new(now),
            effects: Vec::new(),
            vouched: None,
            successor: None,
            taken_from: None,
        };
        if resumed {
            let cause = "resumed: it was master when the daemon stopped".to_owned();
            election.state = election.become_master(cause, now);
        }
        election
    }

    /// Takes an input; then take the effects with [`Election::take_effects`].
    pub fn handle(&mut self, input: Input<'_>, now: Instant) {
        if let Input::Advert { source, advert } = &input
            && !self.observe(*source, advert, now)
        {
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
            (State::Init, Input::Ability(Ability::Undecided(wait))) => {
                self.cause = format!("waiting for {wait}");
                State::Init
            }
            (State::Init, Input::Ability(Ability::Able)) => {
                self.become_backup("ready to serve".to_owned(), now)
            }
            (State::Init, Input::Ability(Ability::Unable(cause))) => {
                self.become_fault(cause, Fault::default(), now)
            }
            (
                State::Init,
                Input::Advert { .. } | Input::Conflict { .. } | Input::Timer | Input::FailOver,
            ) => State::Init,
            (
                state @ (State::Init | State::Fault(_)),
                Input::TakeOver { .. } | Input::Answered { .. } | Input::LetGo { .. },
            ) => state,
            (State::Init | State::Backup(_) | State::Fault(_), Input::Stop { .. }) => {
                self.become_stopped(now)
            }

            (State::Backup(_), Input::Ability(Ability::Unable(cause))) => {
                self.become_fault(cause, Fault::default(), now)
            }
            (State::Backup(backup), Input::Advert { source, advert }) => {
                self.backup_hears(backup, source, advert, now)
            }
            (State::Backup(backup), Input::Conflict { address, mac }) => {
                self.conflict = Some(Conflict { address, mac });
                State::Backup(backup)
            }
            (State::Backup(backup), Input::Timer) => self.backup_timer(backup, now),
            (
                State::Backup(backup),
                Input::Ability(Ability::Undecided(_) | Ability::Able)
                | Input::FailOver
                | Input::Answered { .. },
            ) => State::Backup(backup),
            (State::Backup(backup), Input::TakeOver { source }) => {
                self.take_over(backup, source, now)
            }
            (State::Backup(backup), Input::LetGo { source }) => self.let_go(backup, source, now),

            (State::Master(master), Input::Ability(Ability::Unable(cause))) => {
                if !master.has_resigned() {
                    self.effects.push(Effect::Advert { priority: 0 });
                }
                self.effects.push(Effect::Release);
                match master.resign {
                    Some(Resign { stop: true, .. }) => self.become_stopped(now),
                    Some(Resign { stop: false, .. }) | None => {
                        self.become_fault(cause, Fault::default(), now)
                    }
                }
            }
            (State::Master(master), Input::Advert { source, advert }) => {
                self.master_hears(master, source, advert, now)
            }
            (State::Master(master), Input::Conflict { address, mac }) => {
                self.defend(address, mac, now);
                State::Master(master)
            }
            (State::Master(master), Input::Timer) => self.master_timer(master, now),
            (State::Master(master), Input::FailOver) => self.resign(master, false, now),
            (State::Master(master), Input::Stop { linger: true }) => self.resign(master, true, now),
            (State::Master(master), Input::Stop { linger: false }) => {
                if !master.has_resigned() {
                    self.effects.push(Effect::Advert { priority: 0 });
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
            (State::Master(master), Input::Answered { done }) => self.answered(master, done, now),

            (State::Fault(fault), Input::Ability(ability)) => match (ability, &self.conflict) {
                (Ability::Able, None) => self.become_backup("able to serve again".to_owned(), now),
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
            (State::Fault(fault), Input::Conflict { address, mac }) => match fault.reprobe {
                Some((at, _)) => {
                    self.conflict = Some(Conflict { address, mac });
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
    pub fn evidence(&mut self, now: Instant) -> Option<Evidence> {
        let slack = self.slack();
        let State::Backup(backup) = &mut self.state else {
            return None;
        };
        let (address, heard) = backup.follows?;
        if self
            .vouched
            .is_some_and(|word| now <= word.heard + channel::belief(self.master_interval))
        {
            return None;
        }
        if backup.down_at <= now && (backup.forgiven || now.since(backup.down_at) <= slack) {
            if self.peers.get(address).is_some_and(|peer| !peer.silent) {
                self.peers.fell_silent(address);
                self.effects.push(Effect::Peer {
                    address,
                    alive: false,
                });
                return Some(Evidence::Silent(address, now.since(heard)));
            }
            return None;
        }
        let late = backup.late_at.is_some_and(|at| at <= now);
        late.then(|| {
            backup.late_at = None;
            Evidence::Late(address)
        })
    }

    /// When [`Input::Timer`] is due.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Init | State::Stopped => None,
            State::Backup(backup) => {
                let probe = backup.probe.map(|(at, _)| at);
                [Some(backup.down_at), backup.late_at, probe]
                    .into_iter()
                    .flatten()
                    .min()
            }
            State::Master(Master {
                resign: Some(resign),
                ..
            }) => Some(resign.asked.unwrap_or(resign.until)),
            State::Master(Master {
                advert_at,
                round,
                resign: None,
                ..
            }) => round.iter().map(|round| round.at).chain([*advert_at]).min(),
            State::Fault(fault) => fault.reprobe.map(|(at, _)| at),
        }
    }

    /// Works by a new configuration of the same VRID, interface and family. A master whose
    /// addresses changed must release them before and acquire them after; that is the caller's.
    pub fn reconfigure(&mut self, config: VirtualRouter, now: Instant) {
        self.held = false;
        self.config = config;
        self.peers.reconfigure(&self.config);
        if let State::Master(master) = &mut self.state {
            master.advert_at = now;
            master.round = Some(Round::new(&self.config.announce, now));
        } else {
            self.master_interval = self.config.advert_interval;
        }
    }

    /// Has this priority from now on, whatever the configuration says; a master tells at once.
    pub fn set_priority(&mut self, priority: u8, now: Instant) {
        if self.config.priority != priority {
            self.config.priority = priority;
            if let State::Master(master) = &mut self.state {
                master.advert_at = now;
            }
        }
    }

    /// The word of a living peer over the channel that it is master and serves; none: there is none.
    pub fn vouch(&mut self, word: Option<Word>) {
        self.vouched = word;
    }

    /// Whom to ask to take over when this node resigns; none: nobody.
    pub fn set_successor(&mut self, peer: Option<Name>) {
        self.successor = peer;
    }

    /// Whether it could do a master's work, or as master does and is not about to hand over.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        match &self.state {
            State::Backup(_) => {
                // The master answers for its addresses by right.
                let by_right = self.peers.any_heard() || self.vouched.is_some();
                self.ability == Ability::Able && (self.conflict.is_none() || by_right)
            }
            State::Master(master) => master.resign.is_none(),
            State::Init | State::Fault(_) | State::Stopped => false,
        }
    }

    /// The address of this node's adverts.
    pub fn set_source(&mut self, source: Option<IpAddr>) {
        self.source = source;
    }

    /// The address of this node's adverts, as far as known.
    #[must_use]
    pub fn source(&self) -> Option<IpAddr> {
        self.source
    }

    /// What there is to do since the last call.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        mem::take(&mut self.effects)
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &VirtualRouter {
        &self.config
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

    /// The master, where it is a peer that is heard.
    #[must_use]
    pub fn master(&self, now: Instant) -> Option<IpAddr> {
        self.heard_master(now).map(|(address, _)| address)
    }

    /// The peers whose packets are taken for forwarded ones, and when to ask again; see
    /// [`Peers::forwarders`].
    #[must_use]
    pub fn forwarders(&self, now: Instant) -> (BTreeSet<IpAddr>, Option<Instant>) {
        self.peers.forwarders(&self.config, now)
    }

    /// Whether an advert from `source` counts; see [`peers::is_admitted`].
    #[must_use]
    pub fn admits(&self, source: IpAddr) -> bool {
        peers::is_admitted(&self.config, source)
    }

    /// Whom it heard.
    #[must_use]
    pub fn peers(&self) -> &Peers {
        &self.peers
    }

    /// The advert to send now.
    #[must_use]
    pub fn advert(&self, priority: u8) -> Advert {
        let centiseconds = self.config.advert_interval.as_millis() / 10;
        Advert {
            vrid: self.config.vrid,
            priority,
            interval_cs: u16::try_from(centiseconds).unwrap_or(u16::MAX),
            addresses: self.config.addresses.iter().map(|net| net.addr()).collect(),
        }
    }
}
