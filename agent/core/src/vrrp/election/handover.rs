//! What the peer channel adds to the election: a successor that is asked and answers, and a master
//! that lives although its adverts are not heard. What may be believed is in [`crate::channel`].

use std::{net::IpAddr, time::Duration};

use super::{
    Ability, Effect, Election, Role,
    state::{Backup, Master, Resign, State},
};
use crate::{channel, time::Instant, vrrp::peers::Mistake};

/// How long a successor may take to answer: the bounds. A third node must not lose its patience.
const SHORTEST_ASK: Duration = Duration::from_millis(25);
const LONGEST_ASK: Duration = Duration::from_millis(500);

/// How long adverts of before a takeover by order may still come: the bounds.
const SHORTEST_WAY: Duration = Duration::from_millis(100);
const LONGEST_WAY: Duration = Duration::from_secs(1);

impl Election {
    /// How long a backup whose master-down timer fires has to wait still, because a peer says over
    /// the channel that it is master and serves.
    ///
    /// Not where this node preempts a master that it hears: then nobody is missed. Nor is the word of
    /// a master that resigned since worth anything.
    pub(super) fn waits_for(&mut self, backup: &Backup, now: Instant) -> Option<Instant> {
        let word = self.vouched?;
        let until = word.heard + channel::belief(self.master_interval);
        let resigned = backup.resigned.is_some() && backup.resigned == word.source;
        let preempts = backup.follows.is_none()
            && backup.resigned.is_none()
            && self.heard_master(now).is_some();
        if until < now || resigned || preempts {
            return None;
        }
        self.conflict = None;
        if self.telling.mistake(Mistake::Unheard, now) {
            let who = word
                .source
                .map_or(String::new(), |at| format!(" from {at}"));
            self.effects.push(Effect::Misconfigured(format!(
                "no adverts{who} are heard, but over the channel the master says that it serves, so \
                 it stays master: look for what drops IP protocol 112 between the nodes, such as a \
                 switch port or a firewall"
            )));
        }
        // Later than now, so that the timer does not fire all the time.
        Some(until.max(now + Duration::from_millis(1)))
    }

    /// The master ordered it.
    pub(super) fn take_over(
        &mut self,
        backup: Backup,
        source: Option<IpAddr>,
        now: Instant,
    ) -> State {
        if self.ability != Ability::Able {
            return State::Backup(backup);
        }
        // Whoever answered for the addresses was the master, by right.
        self.conflict = None;
        let way = self.master_interval.clamp(SHORTEST_WAY, LONGEST_WAY);
        self.taken_from = source.map(|source| (source, now + way));
        let from = source.map_or("the master".to_owned(), |source| source.to_string());
        self.become_master(format!("{from} hands over by order"), now)
    }

    /// Whether an advert is one from before the takeover that its sender ordered: it may be behind
    /// the order, as the two go different ways.
    pub(super) fn is_late_advert(&self, source: IpAddr, now: Instant) -> bool {
        self.taken_from
            .is_some_and(|(from, until)| from == source && now < until)
    }

    /// The peer that was master says that it is no longer: as if it had resigned by an advert.
    pub(super) fn let_go(&mut self, backup: Backup, source: Option<IpAddr>, now: Instant) -> State {
        let followed = backup.follows.map(|(followed, _)| followed);
        if followed.is_some() && followed != source {
            return State::Backup(backup);
        }
        if self.master == source {
            self.master = None;
        }
        State::Backup(Backup {
            down_at: backup.down_at.min(now + self.skew()),
            follows: None,
            late_at: None,
            resigned: source.or(backup.resigned),
            forgiven: false,
            ..backup
        })
    }

    /// Asks the successor, or all by priority 0.
    pub(super) fn begin_resigning(&mut self, stop: bool, now: Instant) -> Resign {
        let asked = self.successor.take().map(|peer| {
            self.effects.push(Effect::Ask { peer });
            let patience = self.config.advert_interval * 2;
            now + patience.clamp(SHORTEST_ASK, LONGEST_ASK)
        });
        if asked.is_none() {
            self.effects.push(Effect::Advert { priority: 0 });
        }
        Resign {
            until: asked.unwrap_or(now) + self.resign_wait(),
            stop,
            asked,
        }
    }

    /// The successor did not answer, or cannot.
    pub(super) fn resign_openly(&mut self, master: Master) -> State {
        let resign = master.resign.clone().map(|resign| {
            if resign.asked.is_some() {
                self.effects.push(Effect::Advert { priority: 0 });
            }
            Resign {
                asked: None,
                ..resign
            }
        });
        State::Master(Master { resign, ..master })
    }

    /// The successor answers: where it is master, this node lets go.
    pub(super) fn answered(&mut self, master: Master, done: bool, now: Instant) -> State {
        match master.resign {
            Some(Resign { asked: Some(_), .. }) if !done => self.resign_openly(master),
            Some(Resign { stop: true, .. }) if done => {
                self.effects.push(Effect::Release);
                self.become_stopped(now)
            }
            Some(Resign { stop: false, .. }) if done => {
                self.held = true;
                self.effects.push(Effect::Release);
                let cause = "failover by order: the peer that was asked took over".to_owned();
                self.enter(Role::Backup, cause, now);
                self.master = None;
                State::Backup(Backup {
                    down_at: now + self.master_down(),
                    follows: None,
                    late_at: None,
                    resigned: None,
                    forgiven: false,
                    probe: None,
                })
            }
            // An answer that comes after the failover was called off: its adverts settle it.
            Some(_) | None => State::Master(master),
        }
    }
}
