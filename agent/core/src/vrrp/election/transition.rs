//! What happens on the way from one state to the next, and while one lasts.

use std::{cmp::Ordering, mem, net::IpAddr, time::Duration};

use super::{
    Ability, Effect, Election, Role,
    state::{Backup, Conflict, Fault, Listen, Master, Resign, State},
};
use crate::{
    api::human_duration,
    config::Name,
    time::Instant,
    vrrp::{
        peers::{self, Mistake},
        wire::Advert,
    },
};

/// The least time between two adverts that answer a rival: the protocol's shortest interval.
const ASSERT_GAP: Duration = Duration::from_millis(10);

/// How often a conflict is defended against or asked about (RFC 5227 section 2.4 (b)).
const DEFEND_GAP: Duration = Duration::from_secs(10);

/// The time between questions whether a conflict has ended.
const REPROBE_GAP: Duration = Duration::from_secs(5);

/// So many questions without an answer end a conflict.
const REPROBES: u8 = 2;

/// How often a new backup asks for the addresses within its first wait.
const FIRST_PROBES: u8 = 3;

/// Why the owner is master.
const OWNS: &str = "priority 255: this node owns the addresses";

/// The longest a shutdown waits for a new holder.
const MAX_STOP_WAIT: Duration = Duration::from_secs(3);

impl Election {
    /// The links are up while this node does not know yet what it can do.
    pub(super) fn listens(&mut self, now: Instant) -> Listen {
        let mut wait = Backup::until(now + self.first_wait());
        self.effects.push(Effect::ProbeAddresses);
        wait.probe = Some((now + self.first_wait() / 4, FIRST_PROBES - 1));
        Listen { wait, over: false }
    }

    pub(super) fn listener_hears(
        &mut self,
        listen: Listen,
        router: &Name,
        source: IpAddr,
        advert: &Advert,
        now: Instant,
    ) -> Listen {
        let until = listen.wait.down_at;
        let wait = self.backup_hears(listen.wait, router, source, advert, now);
        Listen {
            over: listen.over && wait.down_at <= until,
            wait,
        }
    }

    /// Sees on time that nobody is master, and goes on seeing it: what was true before a pause is not
    /// known to be true after it.
    pub(super) fn listener_timer(&mut self, mut listen: Listen, now: Instant) -> Listen {
        let wait = &mut listen.wait;
        self.ask(wait, now);
        if wait.down_at > now {
            return listen;
        }
        let late = now.since(wait.down_at) > self.slack();
        if late && (listen.over || !wait.forgiven) {
            (listen.over, wait.forgiven) = (false, true);
            wait.down_at = now + self.master_interval + self.skew();
        } else {
            (listen.over, wait.forgiven) = (true, false);
            wait.down_at = now + self.slack();
        }
        listen
    }

    /// RFC 9568 6.4.1, (100).
    pub(super) fn starts(&mut self, listen: Option<Listen>, now: Instant) -> State {
        if self.is_owner() {
            return self.become_master(OWNS.to_owned(), now);
        }
        let Some(Listen { mut wait, over }) = listen else {
            return self.become_backup("ready to serve".to_owned(), now);
        };
        if over {
            wait.down_at = match now.since(wait.down_at) <= self.slack() {
                true => now,
                false => now + self.master_interval + self.skew(),
            };
        }
        self.enter(Role::Backup, "ready to serve".to_owned(), now);
        State::Backup(wait)
    }

    /// Able again after a fault.
    pub(super) fn recovers(&mut self, cause: String, now: Instant) -> State {
        match self.is_owner() {
            true => self.become_master(OWNS.to_owned(), now),
            false => self.become_backup(cause, now),
        }
    }

    /// RFC 9568 6.4.2, (420).
    pub(super) fn backup_hears(
        &mut self,
        backup: Backup,
        router: &Name,
        source: IpAddr,
        advert: &Advert,
        now: Instant,
    ) -> Backup {
        if advert.priority == 0 {
            let follows = self.member(router).and_then(|member| member.follows);
            let counts = match follows {
                Some((followed, _)) => followed == source,
                None => self.followed().is_none(),
            };
            if !counts {
                return backup;
            }
            self.follows_only(None, now);
            return Backup {
                down_at: backup.down_at.min(now + self.skew()),
                late_at: None,
                preempt_at: None,
                resigned: Some(source),
                forgiven: false,
                ..backup
            };
        }
        let lower = advert.priority < self.priority() && self.settings().preempt && !self.held;
        let delay = self.settings().preempt_delay;
        let preempt_at = match lower {
            true => Some(backup.preempt_at.unwrap_or(now + delay)),
            false => None,
        };
        // A lower master is as good as none, once it is time.
        if preempt_at.is_some_and(|at| at <= now) {
            return backup;
        }
        self.master_interval = peers::interval(advert);
        if let Some(member) = self.member_mut(router) {
            member.follows = Some((source, now));
        }
        Backup {
            late_at: Some(now + self.master_interval * 3 / 2),
            preempt_at,
            ..Backup::until(now + self.master_down())
        }
    }

    /// RFC 9568 6.4.2, (410).
    pub(super) fn backup_timer(&mut self, mut backup: Backup, now: Instant) -> State {
        if self.is_owner() && !self.held {
            return self.become_master(OWNS.to_owned(), now);
        }
        self.ask(&mut backup, now);
        if backup.late_at.is_some_and(|at| at <= now) {
            backup.late_at = None;
        }
        let due = match backup.preempt_at {
            Some(at) => at.min(backup.down_at),
            None => backup.down_at,
        };
        if due > now {
            return State::Backup(backup);
        }
        if !backup.forgiven && now.since(due) > self.slack() {
            let later = now + self.master_interval + self.skew();
            return State::Backup(Backup {
                down_at: later.max(backup.down_at),
                preempt_at: backup.preempt_at.map(|at| at.max(later)),
                forgiven: true,
                ..backup
            });
        }
        match &self.conflict {
            Some(conflict) if !self.any_heard() => {
                let reprobe = Some((now + REPROBE_GAP, 0));
                self.become_fault(conflict.to_string(), Fault { reprobe }, now)
            }
            Some(_) | None => {
                let cause = self.takes_over_because(&backup, now);
                self.become_master(cause, now)
            }
        }
    }

    fn takes_over_because(&self, backup: &Backup, now: Instant) -> String {
        let priority = self.priority();
        let master = self.heard_master(now).map(|(address, _)| address);
        match (backup.resigned, self.followed(), master) {
            (Some(master), ..) => format!("{master} resigned"),
            (None, Some((master, _)), _) if backup.down_at > now => {
                let delay = human_duration(self.settings().preempt_delay);
                format!("preempts {master} with priority {priority} after {delay}")
            }
            (None, Some((master, heard)), _) => {
                let silence = human_duration(now.since(heard));
                format!("no adverts from {master} for {silence}")
            }
            (None, None, Some(master)) => format!("preempts {master} with priority {priority}"),
            (None, None, None) => format!("no master heard for {}", self.waited(now)),
        }
    }

    /// Asks for the addresses where that is due.
    fn ask(&mut self, backup: &mut Backup, now: Instant) {
        if let Some((at, left)) = backup.probe
            && at <= now
        {
            self.effects.push(Effect::ProbeAddresses);
            backup.probe = (left > 1).then(|| (now + self.first_wait() / 4, left - 1));
        }
    }

    /// RFC 9568 6.4.3, (735).
    pub(super) fn master_hears(
        &mut self,
        mut master: Master,
        router: &Name,
        source: IpAddr,
        advert: &Advert,
        now: Instant,
    ) -> State {
        let resigned = master.resign.is_some();
        if advert.priority == 0 {
            if !resigned {
                self.answer_rival(&mut master, now);
            }
            return State::Master(master);
        }
        let priority = self.priority();
        let wins = match advert.priority.cmp(&priority) {
            Ordering::Greater => true,
            Ordering::Equal => self.loses_tie(&mut master, router, source, now),
            Ordering::Less => false,
        };
        match master.resign {
            Some(Resign { stop: true, .. }) => {
                self.effects.push(Effect::Release);
                self.become_stopped(now)
            }
            Some(Resign { stop: false, .. }) => {
                self.held = true;
                let cause = format!("failover by order: {source} took over");
                self.step_down(router, source, advert, cause, now)
            }
            None if wins => {
                let cause = match advert.priority == priority {
                    true => format!("{source} has the same priority and the greater address"),
                    false => format!(
                        "{source} has priority {} over our {priority}",
                        advert.priority
                    ),
                };
                self.notes_rival(router, source, advert, now);
                // Whoever wins by its advert alone does not know that there was anything to win.
                self.say(priority, now);
                self.step_down(router, source, advert, cause, now)
            }
            None => {
                self.notes_rival(router, source, advert, now);
                self.answer_rival(&mut master, now);
                State::Master(master)
            }
        }
    }

    /// The rival learns who is master, and the segment where the addresses are.
    fn answer_rival(&mut self, master: &mut Master, now: Instant) {
        if now.since(master.sent) >= ASSERT_GAP {
            self.send(master, now);
        }
        master.announce_again(&self.settings().announce, now);
        self.announce(master, now);
    }

    /// Another host says that an address is its own.
    pub(super) fn is_claimed(
        &mut self,
        mut master: Master,
        router: &Name,
        peer: bool,
        claim: &Conflict,
        now: Instant,
    ) -> State {
        if let Some(member) = self.member_mut(router) {
            member.notes_claim();
        }
        if !peer {
            self.defend(router, claim, now);
        } else if master.resign.is_none() && master.reclaim_at.is_none() {
            let rested = self.defended.map(|at| at + DEFEND_GAP);
            let at = now + self.reclaim_wait();
            master.reclaim_at = Some(rested.map_or(at, |rested| at.max(rested)));
        }
        State::Master(master)
    }

    pub(super) fn master_timer(&mut self, mut master: Master, now: Instant) -> State {
        match master.resign {
            Some(Resign { until, .. }) if until > now => State::Master(master),
            Some(Resign { stop: true, .. }) => {
                self.effects.push(Effect::Release);
                self.become_stopped(now)
            }
            Some(Resign { stop: false, .. }) => {
                let waited = human_duration(self.resign_wait());
                let what = format!(
                    "failover called off: no peer took over within {waited}; see that steerd runs \
                     on a peer and that `steerctl status` there shows it as backup"
                );
                self.cause.clone_from(&what);
                let effects = self
                    .members
                    .iter()
                    .map(|member| member.misconfigured(what.clone()));
                self.effects.extend(effects);
                self.send(&mut master, now);
                master.resign = None;
                // What a reload wanted to be announced meanwhile.
                self.announce(&mut master, now);
                State::Master(master)
            }
            None => {
                if master.advert_at <= now {
                    // On the grid of the interval, unless that is past too.
                    let next = master.advert_at + self.settings().advert_interval;
                    self.send(&mut master, now);
                    if next > now {
                        master.advert_at = next;
                    }
                }
                if master.reclaim_at.is_some_and(|at| at <= now) {
                    master.reclaim_at = None;
                    self.defended = Some(now);
                    master.announce_again(&self.settings().announce, now);
                }
                self.announce(&mut master, now);
                State::Master(master)
            }
        }
    }

    pub(super) fn fault_timer(&mut self, fault: Fault, now: Instant) -> State {
        match fault.reprobe {
            Some((at, quiet)) if at <= now => {
                if quiet >= REPROBES {
                    self.conflict = None;
                    return self.conflict_ends("the address conflict has ended".to_owned(), now);
                }
                self.effects.push(Effect::ProbeAddresses);
                State::Fault(Fault {
                    reprobe: Some((now + REPROBE_GAP, quiet + 1)),
                })
            }
            Some(_) | None => State::Fault(fault),
        }
    }

    pub(super) fn conflict_ends(&mut self, cause: String, now: Instant) -> State {
        match self.ability.clone() {
            Ability::Able => self.recovers(cause, now),
            Ability::Undecided(why) | Ability::Unable(why) => {
                self.cause = why;
                State::Fault(Fault::default())
            }
        }
    }

    pub(super) fn become_backup(&mut self, cause: String, now: Instant) -> State {
        // A master that was heard of late keeps its own pace, not ours.
        self.master_interval = match self.heard_master(now) {
            Some((_, interval)) => interval,
            None => self.settings().advert_interval,
        };
        self.conflict = None;
        self.follows_only(None, now);
        self.enter(Role::Backup, cause, now);
        let probe = (!self.any_heard()).then(|| {
            self.effects.push(Effect::ProbeAddresses);
            (now + self.first_wait() / 4, FIRST_PROBES - 1)
        });
        State::Backup(Backup {
            probe,
            ..Backup::until(now + self.master_down())
        })
    }

    fn step_down(
        &mut self,
        router: &Name,
        source: IpAddr,
        advert: &Advert,
        cause: String,
        now: Instant,
    ) -> State {
        self.effects.push(Effect::Release);
        self.enter(Role::Backup, cause, now);
        self.follows_only(Some((router, source)), now);
        if let Some(member) = self.member_mut(router) {
            member.master = Some(source);
        }
        self.master_interval = peers::interval(advert);
        State::Backup(Backup {
            late_at: Some(now + self.master_interval * 3 / 2),
            ..Backup::until(now + self.master_down())
        })
    }

    pub(super) fn become_master(&mut self, cause: String, now: Instant) -> State {
        self.held = false;
        self.follows_only(None, now);
        for member in &mut self.members {
            member.master = None;
        }
        // The addresses first: the advert makes the old master take them off.
        self.effects.push(Effect::Acquire);
        let mut master = Master::new(&self.settings().announce, now);
        self.send(&mut master, now);
        self.announce(&mut master, now);
        self.enter(Role::Master, cause, now);
        State::Master(master)
    }

    pub(super) fn become_fault(&mut self, cause: String, fault: Fault, now: Instant) -> State {
        if fault.reprobe.is_none() {
            self.conflict = None;
        }
        self.enter(Role::Fault, cause, now);
        State::Fault(fault)
    }

    pub(super) fn become_stopped(&mut self, now: Instant) -> State {
        self.enter(Role::Init, "stopped".to_owned(), now);
        State::Stopped
    }

    /// Takes off what a killed daemon left. Not before there is a reason to: as long as no other
    /// master is heard, the addresses that it left are answered for here, and clients find a way.
    pub(super) fn release_stale(&mut self) {
        if mem::take(&mut self.stale) {
            self.effects.push(Effect::Release);
        }
    }

    pub(super) fn enter(&mut self, to: Role, cause: String, now: Instant) {
        let from = mem::replace(&mut self.role, to);
        if from != to {
            self.since = now;
            match to {
                // What it has it keeps.
                Role::Master => self.stale = false,
                Role::Fault | Role::Init => self.release_stale(),
                Role::Backup => {}
            }
            self.effects.push(Effect::Role {
                from,
                to,
                cause: cause.clone(),
            });
        }
        self.cause = cause;
    }

    /// Resigns, or where that is under way makes it an order to stop.
    pub(super) fn resign(&mut self, master: Master, stop: bool, now: Instant) -> State {
        let resign = match master.resign {
            Some(Resign {
                until,
                stop: stopping,
            }) => Resign {
                until,
                stop: stop || stopping,
            },
            None => {
                self.say(0, now);
                Resign {
                    until: now + self.resign_wait(),
                    stop,
                }
            }
        };
        self.cause = "handing over to a peer".to_owned();
        let until = match resign.stop {
            true => resign.until.min(now + MAX_STOP_WAIT),
            false => resign.until,
        };
        State::Master(Master {
            round: None,
            reclaim_at: None,
            resign: Some(Resign { until, ..resign }),
            ..master
        })
    }

    /// Sends an advert now.
    pub(super) fn say(&mut self, priority: u8, now: Instant) {
        self.effects.push(Effect::Advert { priority });
        self.sent = Some(now);
    }

    fn send(&mut self, master: &mut Master, now: Instant) {
        self.say(self.priority(), now);
        master.sent = now;
        master.advert_at = now + self.settings().advert_interval;
    }

    fn announce(&mut self, master: &mut Master, now: Instant) {
        let announce = self.settings().announce;
        while let Some(round) = master.round.take_if(|round| round.at <= now) {
            self.effects.push(Effect::Announce);
            master.round = round.next(&announce);
        }
        if master.refresh_at.is_some_and(|at| at <= now) {
            self.effects.push(Effect::Announce);
            master.refresh_at = announce.next_refresh(now);
        }
    }

    fn defend(&mut self, router: &Name, claim: &Conflict, now: Instant) {
        if self.defended.is_some_and(|at| now.since(at) < DEFEND_GAP) {
            return;
        }
        self.defended = Some(now);
        self.effects.push(Effect::Announce);
        let recently = self.master_down();
        let mut effects = mem::take(&mut self.effects);
        if let Some(member) = self.member_mut(router) {
            // A peer that was master until a moment ago, or still thinks that it is, announces the
            // address too, and its MAC need not be known yet. The protocol settles that.
            let mut peers = member.peers.iter();
            let rival = peers.any(|(_, peer)| now.since(peer.heard) < recently);
            drop(peers);
            if !rival && member.telling.mistake(Mistake::Conflict, now) {
                effects.push(member.misconfigured(claim.to_string()));
            }
        }
        self.effects = effects;
    }

    /// Skew_Time of RFC 9568 6.1.
    pub(super) fn skew(&self) -> Duration {
        self.master_interval * (256 - u32::from(self.priority())) / 256
    }

    /// Active_Down_Interval of RFC 9568 6.1.
    pub(super) fn master_down(&self) -> Duration {
        self.master_interval * 3 + self.skew()
    }

    /// How long a node that starts listens where it hears no master.
    fn first_wait(&self) -> Duration {
        self.master_interval * 2 + self.skew()
    }

    /// How late a timer may fire and still count.
    pub(super) fn slack(&self) -> Duration {
        self.master_interval / 2
    }

    /// How long a new holder may take: the longest skew, which is below an interval, and what a
    /// busy host may need to act on it. This node serves meanwhile, so patience costs nothing.
    pub(super) fn resign_wait(&self) -> Duration {
        self.settings().advert_interval * 5 / 4 + Duration::from_millis(150)
    }
}
