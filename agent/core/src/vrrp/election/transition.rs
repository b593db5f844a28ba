//! The way to a mastership, to a fault and to the end.

use std::{mem, net::IpAddr, time::Duration};

use super::{
    Ability, Effect, Election, Role,
    state::{Backup, Fault, Listen, State},
};
use crate::{
    api::human_duration,
    config::{Name, Version},
    time::Instant,
    vrrp::{peers, wire::Advert},
};

/// The time between questions whether a conflict has ended.
const REPROBE_GAP: Duration = Duration::from_secs(1);

/// So many questions without an answer end a conflict.
const REPROBES: u8 = 2;

/// How often a new backup asks for the addresses within its first wait.
const FIRST_PROBES: u8 = 3;

/// Why the owner is master.
const OWNS: &str = "priority 255: this node owns the addresses";

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
            let followed = self.member(router).and_then(|member| member.follows);
            if followed.is_none_or(|(followed, _)| followed != source) {
                return backup;
            }
            // It was followed before our priority was raised: that its adverts keep nothing from firing
            // any more is no sign of silence.
            self.follows_only(None, now);
            return Backup {
                late_at: None,
                ..backup
            };
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
        if backup.late_at.is_some_and(|at| at <= now) {
            backup.late_at = None;
        }
        let due = match backup.preempt_at {
            Some(at) => at.min(backup.down_at),
            None => backup.down_at,
        };
        if due > now {
            self.ask(&mut backup, now);
            return State::Backup(backup);
        }
        if let Some(down_at) = self.waits_for(&backup, now) {
            return State::Backup(Backup { down_at, ..backup });
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
            Some(conflict) if !conflict.doubted && !self.any_heard() => {
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
            if let Some(conflict) = &mut self.conflict {
                conflict.doubted = true;
            }
            backup.probe = (left > 1).then(|| (now + self.first_wait() / 4, left - 1));
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

    /// Skew_Time of RFC 9568 6.1, a part of the interval; of RFC 3768 6.1, a part of a second.
    pub(super) fn skew(&self) -> Duration {
        let whole = match self.settings().wire.version {
            Version::V2 => Duration::from_secs(1),
            Version::V3 => self.master_interval,
        };
        whole * (256 - u32::from(self.priority())) / 256
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
}
