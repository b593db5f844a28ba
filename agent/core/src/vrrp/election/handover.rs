//! What the peer channel adds to the election: a successor that is asked and answers, and a master
//! that lives although its adverts are not heard. What may be believed is in [`crate::channel`].

use std::{net::IpAddr, time::Duration};

use super::{
    Ability, Effect, Election, Role,
    state::{Backup, Master, Resign, State},
};
use crate::{
    channel::{self, book::Word},
    config::Name,
    time::Instant,
    vrrp::peers::Mistake,
};

/// How long a successor may take to answer: the bounds. A third node must not lose its patience.
const SHORTEST_ASK: Duration = Duration::from_millis(25);
const LONGEST_ASK: Duration = Duration::from_millis(500);

/// How long adverts of before a takeover by order may still come: the bounds.
const SHORTEST_WAY: Duration = Duration::from_millis(100);
const LONGEST_WAY: Duration = Duration::from_secs(1);

impl Election {
    /// The word of a living peer over the channel that it is master of `router` and serves; none:
    /// there is none.
    pub fn vouch(&mut self, router: &Name, word: Option<Word>) {
        if let Some(member) = self.member_mut(router) {
            member.vouched = word;
        }
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
                let by_right = self.any_heard() || self.words().next().is_some();
                self.ability == Ability::Able && (self.conflict.is_none() || by_right)
            }
            State::Master(master) => master.resign.is_none(),
            State::Init(_) | State::Fault(_) | State::Stopped => false,
        }
    }

    /// The word of a living master, while it is believed.
    pub(super) fn word(&self, now: Instant) -> Option<Word> {
        let word = self.words().max_by_key(|word| word.heard)?;
        (now <= self.believes_until(&word)).then_some(word)
    }

    /// How long a backup whose timer fires has to wait still, because a peer says over the channel
    /// that it is master and serves.
    ///
    /// Not where this node preempts a master that it hears: then nobody is missed. Nor is the word of
    /// a master that resigned since worth anything.
    pub(super) fn waits_for(&mut self, backup: &Backup, now: Instant) -> Option<Instant> {
        let word = self.word(now)?;
        let resigned = backup
            .resigned
            .is_some_and(|who| self.words().any(|word| word.source == Some(who)));
        let preempts = backup.preempt_at.is_some_and(|at| at <= now)
            || self.followed().is_none()
                && backup.resigned.is_none()
                && self.heard_master(now).is_some();
        if resigned || preempts {
            return None;
        }
        self.conflict = None;
        let who = word
            .source
            .map_or(String::new(), |at| format!(" from {at}"));
        let what = format!(
            "no adverts{who} are heard, but over the channel the master says that it serves, so it \
             stays master: look for what drops IP protocol 112 between the nodes, such as a switch \
             port or a firewall"
        );
        for member in &mut self.members {
            if member.vouched.is_some() && member.telling.mistake(Mistake::Unheard, now) {
                self.effects.push(member.misconfigured(what.clone()));
            }
        }
        // Later than now, so that the timer does not fire all the time.
        let until = self.believes_until(&word);
        Some(until.max(now + Duration::from_millis(1)))
    }

    /// The master ordered it.
    pub(super) fn take_over(
        &mut self,
        backup: Backup,
        router: &Name,
        source: Option<IpAddr>,
        now: Instant,
    ) -> State {
        if self.ability != Ability::Able {
            return State::Backup(backup);
        }
        // Whoever answered for the addresses was the master, by right.
        self.conflict = None;
        let way = self.master_interval.clamp(SHORTEST_WAY, LONGEST_WAY);
        for member in &mut self.members {
            let from = match member.config.name == *router {
                true => source,
                false => member.master,
            };
            member.taken_from = from.map(|from| (from, now + way));
        }
        let from = source.map_or("the master".to_owned(), |source| source.to_string());
        self.become_master(format!("{from} hands over by order"), now)
    }

    /// Whether an advert is one from before the takeover that its sender ordered: it may be behind
    /// the order, as the two go different ways.
    pub(super) fn is_late_advert(&self, router: &Name, source: IpAddr, now: Instant) -> bool {
        self.member(router)
            .and_then(|member| member.taken_from)
            .is_some_and(|(from, until)| from == source && now < until)
    }

    /// The peer that was master says that it is no longer: as if it had resigned by an advert.
    pub(super) fn let_go(
        &mut self,
        backup: Backup,
        router: &Name,
        source: Option<IpAddr>,
        now: Instant,
    ) -> State {
        let follows = self.member(router).and_then(|member| member.follows);
        let counts = match follows {
            Some((followed, _)) => Some(followed) == source,
            None => self.followed().is_none(),
        };
        if !counts {
            return State::Backup(backup);
        }
        if let Some(member) = self.member_mut(router)
            && member.master == source
        {
            member.master = None;
        }
        self.follows_only(None, now);
        State::Backup(Backup {
            down_at: backup.down_at.min(now + self.skew()),
            late_at: None,
            preempt_at: None,
            resigned: source.or(backup.resigned),
            forgiven: false,
            ..backup
        })
    }

    /// Asks the successor, or all by priority 0.
    pub(super) fn begin_resigning(&mut self, stop: bool, now: Instant) -> Resign {
        let asked = self.successor.take().map(|peer| {
            self.effects.push(Effect::Ask { peer });
            for member in &mut self.members {
                member.asks = true;
            }
            let patience = self.settings().advert_interval * 2;
            now + patience.clamp(SHORTEST_ASK, LONGEST_ASK)
        });
        let resign = Resign {
            until: asked.unwrap_or(now) + self.resign_wait(),
            again_at: None,
            stop,
            asked,
        };
        match asked {
            Some(_) => resign,
            None => self.says_openly(resign, now),
        }
    }

    /// The successor did not answer, or cannot.
    pub(super) fn resign_openly(&mut self, mut master: Master, now: Instant) -> State {
        if let Some(resign) = master.resign.take_if(|resign| resign.asked.is_some()) {
            master.resign = Some(self.says_openly(resign, now));
        }
        State::Master(master)
    }

    /// The successor answers for one member: where it is master of all, this node lets go.
    pub(super) fn answered(
        &mut self,
        master: Master,
        router: &Name,
        done: bool,
        now: Instant,
    ) -> State {
        // An answer that comes after the failover was called off: its adverts settle it.
        let Some(Resign { asked, stop, .. }) = master.resign else {
            return State::Master(master);
        };
        if !done {
            return match asked {
                Some(_) => self.resign_openly(master, now),
                None => State::Master(master),
            };
        }
        if let Some(member) = self.member_mut(router) {
            member.asks = false;
        }
        if self.members.iter().any(|member| member.asks) {
            return State::Master(master);
        }
        self.effects.push(Effect::Release);
        if stop {
            return self.become_stopped(now);
        }
        self.held = true;
        let cause = "failover by order: the peer that was asked took over".to_owned();
        self.enter(Role::Backup, cause, now);
        self.follows_only(None, now);
        for member in &mut self.members {
            member.master = None;
        }
        State::Backup(Backup::until(now + self.master_down()))
    }

    /// Tells all by priority 0, and soon again.
    fn says_openly(&mut self, resign: Resign, now: Instant) -> Resign {
        self.say(0, now);
        Resign {
            again_at: Some(now + self.settings().advert_interval / 8),
            asked: None,
            ..resign
        }
    }

    fn words(&self) -> impl Iterator<Item = Word> + '_ {
        self.members.iter().filter_map(|member| member.vouched)
    }

    fn believes_until(&self, word: &Word) -> Instant {
        word.heard + channel::belief(self.master_interval)
    }
}
