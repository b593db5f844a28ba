//! A mastership: adverts, announcements, rivals, and the way out of it.

use std::{cmp::Ordering, mem, net::IpAddr, time::Duration};

use super::{
    Effect, Election, Role,
    state::{Backup, Conflict, Master, Resign, State},
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

/// The longest a shutdown waits for a new holder.
const MAX_STOP_WAIT: Duration = Duration::from_secs(3);

impl Election {
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
        if advert.priority != 0 && self.is_late_advert(router, source, now) {
            return State::Master(master);
        }
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

    pub(super) fn master_timer(&mut self, mut master: Master, now: Instant) -> State {
        match master.resign {
            Some(Resign {
                asked: Some(until), ..
            }) if until <= now => self.resign_openly(master, now),
            Some(resign) if resign.until > now => {
                let again = resign.again_at.is_some_and(|at| at <= now);
                if again {
                    self.say(0, now);
                }
                let again_at = resign.again_at.filter(|_| !again);
                State::Master(Master {
                    resign: Some(Resign { again_at, ..resign }),
                    ..master
                })
            }
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

    /// Resigns, or where that is under way makes it an order to stop.
    pub(super) fn resign(&mut self, master: Master, stop: bool, now: Instant) -> State {
        let resign = match master.resign {
            Some(resign) => Resign {
                stop: stop || resign.stop,
                ..resign
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
            reclaim_at: None,
            resign: Some(Resign { until, ..resign }),
            ..master
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

    /// The rival learns who is master, and the segment where the addresses are.
    fn answer_rival(&mut self, master: &mut Master, now: Instant) {
        if now.since(master.sent) >= ASSERT_GAP {
            self.send(master, now);
        }
        master.announce_again(&self.settings().announce, now);
        self.announce(master, now);
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

    /// How long a new holder may take: the longest skew, which is below an interval, and what a
    /// busy host may need to act on it. This node serves meanwhile, so patience costs nothing.
    pub(super) fn resign_wait(&self) -> Duration {
        self.settings().advert_interval * 5 / 4 + Duration::from_millis(150)
    }
}
