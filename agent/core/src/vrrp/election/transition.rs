//! What happens on the way from one state to the next, and while one lasts.

use std::{mem, net::IpAddr, time::Duration};

use super::{
    Ability, Effect, Election, Role,
    state::{Backup, Conflict, Fault, Master, Resign, Round, State},
};
use crate::{
    api::human_duration,
    config::Version,
    time::Instant,
    vrrp::{
        peers::{self, Mistake, Observed},
        wire::{Advert, Mismatch},
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

/// The longest a shutdown waits for a new holder.
const MAX_STOP_WAIT: Duration = Duration::from_secs(3);

impl Election {
    pub(super) fn heard_master(&self, now: Instant) -> Option<(IpAddr, Duration)> {
        let address = self.master?;
        let peer = self.peers.get(address)?;
        let heard = !peer.silent && now.since(peer.heard) <= peer.interval * 4;
        heard.then_some((address, peer.interval))
    }

    /// Takes note of an advert; whether it concerns the election.
    pub(super) fn observe(&mut self, source: IpAddr, advert: &Advert, now: Instant) -> bool {
        if Some(source) == self.source || !self.admits(source) {
            return false;
        }
        let observed = self.peers.observe(&self.config, source, advert, now);
        let diagnoses = self.peers.diagnoses(&self.config);
        self.effects.extend(self.telling.diagnoses(diagnoses, now));
        match observed {
            Observed::Foreign => return false,
            Observed::Appeared if self.telling.appearance(now) => {
                self.effects.push(Effect::Peer {
                    address: source,
                    alive: true,
                });
            }
            Observed::Appeared | Observed::Known | Observed::Crowd => {}
        }
        match advert.priority {
            0 if self.master == Some(source) => self.master = None,
            1.. if self.role != Role::Master => {
                self.master = Some(source);
                self.release_stale();
            }
            _ => {}
        }
        true
    }

    /// Takes note of an advert that was refused because it is sent in another way.
    pub(crate) fn refuse(&mut self, source: IpAddr, mismatch: Mismatch, now: Instant) {
        if self.admits(source) {
            self.peers.refuse(source, mismatch);
            let diagnoses = self.peers.diagnoses(&self.config);
            self.effects.extend(self.telling.diagnoses(diagnoses, now));
        }
    }

    /// RFC 9568 6.4.2, (420).
    pub(super) fn backup_hears(
        &mut self,
        backup: Backup,
        source: IpAddr,
        advert: &Advert,
        now: Instant,
    ) -> State {
        let preempts = self.config.preempt && !self.held;
        State::Backup(match advert.priority {
            0 if backup
                .follows
                .is_none_or(|(followed, _)| followed == source) =>
            {
                Backup {
                    down_at: now + self.skew(),
                    follows: None,
                    late_at: None,
                    resigned: Some(source),
                    forgiven: false,
                    ..backup
                }
            }
            0 => backup,
            priority if priority >= self.config.priority || !preempts => {
                self.master_interval = peers::interval(advert);
                Backup {
                    down_at: now + self.master_down(),
                    follows: Some((source, now)),
                    late_at: Some(now + self.master_interval * 3 / 2),
                    resigned: None,
                    forgiven: false,
                    probe: None,
                }
            }
            // Our priority was raised above that of the master that was followed: it is followed no more,
            // and that its adverts keep nothing from firing is no sign of silence.
            _ if backup
                .follows
                .is_some_and(|(followed, _)| followed == source) =>
            {
                Backup {
                    follows: None,
                    late_at: None,
                    ..backup
                }
            }
            _ => backup,
        })
    }

    /// RFC 9568 6.4.2, (410).
    pub(super) fn backup_timer(&mut self, mut backup: Backup, now: Instant) -> State {
        if let Some((at, left)) = backup.probe
            && at <= now
        {
            self.effects.push(Effect::ProbeAddresses);
            backup.probe = (left > 1).then(|| (now + self.master_down() / 4, left - 1));
        }
        if backup.late_at.is_some_and(|at| at <= now) {
            backup.late_at = None;
        }
        if backup.down_at > now {
            return State::Backup(backup);
        }
        if let Some(until) = self.waits_for(&backup, now) {
            return State::Backup(Backup {
                down_at: until,
                ..backup
            });
        }
        if !backup.forgiven && now.since(backup.down_at) > self.slack() {
            let down_at = now + self.master_interval + self.skew();
            return State::Backup(Backup {
                down_at,
                forgiven: true,
                ..backup
            });
        }
        match &self.conflict {
            Some(conflict) if !self.peers.any_heard() => {
                let reprobe = Some((now + REPROBE_GAP, 0));
                self.become_fault(conflict.to_string(), Fault { reprobe }, now)
            }
            Some(_) | None => {
                let waited = human_duration(now.since(self.since));
                let cause = match (backup.follows, backup.resigned, self.master(now)) {
                    (Some((master, heard)), _, _) => {
                        let silence = human_duration(now.since(heard));
                        format!("no adverts from {master} for {silence}")
                    }
                    (None, Some(master), _) => format!("{master} resigned"),
                    (None, None, Some(master)) => {
                        format!("preempts {master} with priority {}", self.config.priority)
                    }
                    (None, None, None) => format!("no master heard for {waited}"),
                };
                self.become_master(cause, now)
            }
        }
    }

    /// RFC 9568 6.4.3, (735).
    pub(super) fn master_hears(
        &mut self,
        mut master: Master,
        source: IpAddr,
        advert: &Advert,
        now: Instant,
    ) -> State {
        let resigned = master.resign.is_some();
        if advert.priority != 0 && self.is_late_advert(source, now) {
            return State::Master(master);
        }
        if advert.priority == 0 {
            if !resigned {
                self.assert_mastery(&mut master, now);
            }
            return State::Master(master);
        }
        let wins = advert.priority > self.config.priority
            || advert.priority == self.config.priority
                && self.source.is_none_or(|own| source > own);
        match master.resign {
            Some(Resign { stop: true, .. }) => {
                self.effects.push(Effect::Release);
                self.become_stopped(now)
            }
            Some(Resign { stop: false, .. }) => {
                self.held = true;
                let cause = format!("failover by order: {source} took over");
                self.step_down(source, advert, cause, now)
            }
            None if wins => {
                let cause = match advert.priority == self.config.priority {
                    true => format!("{source} has the same priority and the greater address"),
                    false => format!(
                        "{source} has priority {} over our {}",
                        advert.priority, self.config.priority
                    ),
                };
                self.step_down(source, advert, cause, now)
            }
            None => {
                self.assert_mastery(&mut master, now);
                // Not while a round is under way, which does it anyway.
                if master.round.as_ref().is_none_or(|round| !round.begun) {
                    master.round = Some(Round::new(&self.config.announce, now));
                }
                self.announce(&mut master, now);
                State::Master(master)
            }
        }
    }

    pub(super) fn master_timer(&mut self, mut master: Master, now: Instant) -> State {
        match master.resign {
            Some(Resign {
                asked: Some(until), ..
            }) if until <= now => self.resign_openly(master),
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
                self.effects.push(Effect::Misconfigured(what));
                self.send(&mut master, now);
                State::Master(Master {
                    resign: None,
                    ..master
                })
            }
            None => {
                if master.advert_at <= now {
                    // On the grid of the interval, unless that is past too.
                    let next = master.advert_at + self.config.advert_interval;
                    self.send(&mut master, now);
                    if next > now {
                        master.advert_at = next;
                    }
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
            Ability::Able => self.become_backup(cause, now),
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
            None => self.config.advert_interval,
        };
        self.conflict = None;
        self.enter(Role::Backup, cause, now);
        let probe = (!self.peers.any_heard()).then(|| {
            self.effects.push(Effect::ProbeAddresses);
            (now + self.master_down() / 4, FIRST_PROBES - 1)
        });
        State::Backup(Backup {
            down_at: now + self.master_down(),
            follows: None,
            late_at: None,
            resigned: None,
            forgiven: false,
            probe,
        })
    }

    pub(super) fn step_down(
        &mut self,
        source: IpAddr,
        advert: &Advert,
        cause: String,
        now: Instant,
    ) -> State {
        self.effects.push(Effect::Release);
        self.enter(Role::Backup, cause, now);
        self.master = Some(source);
        self.master_interval = peers::interval(advert);
        State::Backup(Backup {
            down_at: now + self.master_down(),
            follows: Some((source, now)),
            late_at: Some(now + self.master_interval * 3 / 2),
            resigned: None,
            forgiven: false,
            probe: None,
        })
    }

    pub(super) fn become_master(&mut self, cause: String, now: Instant) -> State {
        self.held = false;
        self.master = None;
        // The addresses first: the advert makes the old master take them off.
        self.effects.push(Effect::Acquire);
        let round = Some(Round::new(&self.config.announce, now));
        let mut master = Master {
            advert_at: now,
            sent: now,
            round,
            resign: None,
        };
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
    fn release_stale(&mut self) {
        if std::mem::take(&mut self.stale) {
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
                asked,
            }) => Resign {
                until,
                stop: stop || stopping,
                asked,
            },
            None => self.begin_resigning(stop, now),
        };
        self.cause = "handing over to a peer".to_owned();
        let until = match resign.stop {
            true => resign.until.min(now + MAX_STOP_WAIT),
            false => resign.until,
        };
        State::Master(Master {
            round: None,
            resign: Some(Resign { until, ..resign }),
            ..master
        })
    }

    pub(super) fn send(&mut self, master: &mut Master, now: Instant) {
        self.effects.push(Effect::Advert {
            priority: self.config.priority,
        });
        master.sent = now;
        master.advert_at = now + self.config.advert_interval;
    }

    pub(super) fn assert_mastery(&mut self, master: &mut Master, now: Instant) {
        if now.since(master.sent) >= ASSERT_GAP {
            self.send(master, now);
        }
    }

    pub(super) fn announce(&mut self, master: &mut Master, now: Instant) {
        while let Some(round) = master.round.take_if(|round| round.at <= now) {
            self.effects.push(Effect::Announce);
            master.round = round.next(&self.config.announce);
        }
    }

    pub(super) fn defend(&mut self, address: IpAddr, mac: [u8; 6], now: Instant) {
        if self.defended.is_some_and(|at| now.since(at) < DEFEND_GAP) {
            return;
        }
        self.defended = Some(now);
        self.effects.push(Effect::Announce);
        // A peer that was master until a moment ago, or still thinks that it is, announces the
        // address too, and its MAC need not be known yet. The protocol settles that.
        let rival = self
            .peers
            .iter()
            .any(|(_, peer)| now.since(peer.heard) < self.master_down());
        if !rival && self.telling.mistake(Mistake::Conflict, now) {
            self.effects
                .push(Effect::Misconfigured(Conflict { address, mac }.to_string()));
        }
    }

    /// Skew_Time of RFC 9568 6.1, a part of the interval; of RFC 3768 6.1, a part of a second.
    pub(super) fn skew(&self) -> Duration {
        let whole = match self.config.wire.version {
            Version::V2 => Duration::from_secs(1),
            Version::V3 => self.master_interval,
        };
        whole * (256 - u32::from(self.config.priority)) / 256
    }

    /// Active_Down_Interval of RFC 9568 6.1.
    pub(super) fn master_down(&self) -> Duration {
        self.master_interval * 3 + self.skew()
    }

    /// How late a timer may fire and still count.
    pub(super) fn slack(&self) -> Duration {
        self.master_interval / 2
    }

    /// How long a new holder may take: the longest skew, which is below an interval, and what a
    /// busy host may need to act on it. This node serves meanwhile, so patience costs nothing.
    pub(super) fn resign_wait(&self) -> Duration {
        self.config.advert_interval * 5 / 4 + Duration::from_millis(150)
    }
}
