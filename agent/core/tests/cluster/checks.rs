//! What must hold.

use std::{collections::BTreeMap, time::Duration};

use steerd_core::{time::Instant, vrrp::election::Role};

use crate::{
    host::{LONGEST, ROUTERS},
    support::ms,
    world::{WAY, World},
};

/// From the end of a fault until no server that is dead may be in a ring.
pub(crate) const DETECTION: Duration = Duration::from_millis(1000 + 150 + 200 + 150 + 50);
/// The first steering after a restart may wait so long for next hops.
pub(crate) const SETTLE: Duration = Duration::from_secs(1);

/// What has been seen and must come to an end.
#[derive(Default)]
pub(crate) struct Checks {
    /// Since when two hosts are both master of a virtual router.
    doubles: BTreeMap<(usize, usize, usize), Instant>,
    /// Who must have announced a virtual router's addresses since when, and until when.
    announcements: BTreeMap<(usize, usize), (Instant, Instant)>,
    /// Since when a host is backup of a virtual router that nobody is master of.
    vacancies: BTreeMap<(usize, usize), Instant>,
}

impl World {
    /// What must hold at every moment.
    pub(crate) fn check(&mut self) {
        for router in 0..ROUTERS.len() {
            self.one_at_a_time(router);
            self.winner_announces(router);
            self.somebody_takes_over(router);
        }
        self.no_traffic_to_the_dead();
    }

    fn one_at_a_time(&mut self, router: usize) {
        let count = self.hosts.len();
        for a in 0..count {
            for b in a + 1..count {
                let key = (a, b, router);
                let rules = (self.hosts[a].rules(router), self.hosts[b].rules(router));
                let calm = self.connected(a, b) && self.loss == 0.0;
                if rules == (true, true) && calm {
                    let since = *self.checks.doubles.entry(key).or_insert(self.now);
                    let awake = self.hosts[a].awake_since.max(self.hosts[b].awake_since);
                    let both_for = self.now.since(since.max(self.network_since).max(awake));
                    // Between equals of which one has no group, addresses decide with some delay.
                    let intervals = if self.agree_on_groups() { 1 } else { 4 };
                    let interval = |host: usize| self.hosts[host].settings.interval;
                    let bound = interval(a).max(interval(b)) * intervals + self.way * 2 + ms(1);
                    assert!(
                        both_for <= bound,
                        "{}: {a} and {b} both master of {} for {both_for:?}",
                        self.now,
                        ROUTERS[router]
                    );
                    continue;
                }
                let Some(since) = self.checks.doubles.remove(&key) else {
                    continue;
                };
                let (winner, loser) = if rules.0 { (a, b) } else { (b, a) };
                // Who was told to go cannot send one more advert without taking the addresses back.
                let loser = &self.hosts[loser].places[router];
                let yielded = loser.role == Role::Backup && !loser.ordered;
                if calm && rules.0 != rules.1 && yielded && self.network_since <= since {
                    // What the loser said last is to be said otherwise.
                    let from = since.max(loser.announced);
                    let until = self.now + LONGEST + self.way * 2 + ms(1);
                    self.checks
                        .announcements
                        .insert((winner, router), (from, until));
                }
            }
        }
    }

    /// Whether all nodes have the same virtual routers and groups.
    fn agree_on_groups(&self) -> bool {
        let configs = self
            .hosts
            .iter()
            .filter_map(|host| Some(host.node.as_ref()?.config()));
        let mut groups = configs.map(|config| (config.virtual_routers.len(), &config.sync_groups));
        let first = groups.next();
        groups.all(|other| Some(other) == first)
    }

    /// Who becomes master takes the addresses from no living one that it hears, except by priority,
    /// and then not before its delay is over.
    pub(crate) fn may_take_over(&self, index: usize, router: usize) {
        let host = &self.hosts[index];
        // Two lost adverts are rare, but not never.
        let heard = |since: Instant| self.now.since(since) > LONGEST * 4;
        if self.loss > 0.0 || !heard(self.network_since) || !self.agree_on_groups() {
            return;
        }
        for (other, master) in self.hosts.iter().enumerate() {
            let place = &master.places[router];
            let lives = master.rules(router)
                && heard(place.since)
                && heard(master.awake_since)
                && heard(place.resigned)
                && master.settings.interval == host.settings.interval;
            if other == index || !lives || !self.connected(index, other) {
                continue;
            }
            let priority = master.priority(router);
            assert!(
                host.preempts(router, priority),
                "{}: {index} takes {} from {other}, which lives",
                self.now,
                ROUTERS[router]
            );
            let own = &host.places[router];
            assert!(
                !own.held || host.began >= own.since,
                "{}: {index} takes {} back from {other}, against an order",
                self.now,
                ROUTERS[router]
            );
            let delay = match host.priority(router) {
                255 => Duration::ZERO,
                _ => host.delay,
            };
            assert!(
                self.now.since(host.began) >= delay,
                "{}: {index} takes {} from {other} too early",
                self.now,
                ROUTERS[router]
            );
        }
    }

    /// An order to fail over came to nothing.
    pub(crate) fn may_be_called_off(&self, index: usize, router: usize) {
        let master = &self.hosts[index];
        let settled = |since: Instant| self.now.since(since) > LONGEST * 8;
        // A late advert after the resignation is the master's last word.
        let slow = self.way > WAY;
        if self.loss > 0.0 || slow || !settled(self.network_since) || !self.agree_on_groups() {
            return;
        }
        for (other, host) in self.hosts.iter().enumerate() {
            let place = &host.places[router];
            let waits = host.node.is_some()
                && !host.paused
                && place.role == Role::Backup
                && settled(place.since)
                && settled(host.awake_since)
                && settled(master.awake_since)
                && host.settings.interval == master.settings.interval;
            assert!(
                !waits || !self.connected(index, other),
                "{}: {index} keeps {} although {other} was told to take it",
                self.now,
                ROUTERS[router]
            );
        }
    }

    fn winner_announces(&mut self, router: usize) {
        for (winner, host) in self.hosts.iter().enumerate() {
            let key = (winner, router);
            let Some((from, until)) = self.checks.announcements.get(&key).copied() else {
                continue;
            };
            let disturbed = self.loss > 0.0 || self.network_since > from || host.awake_since > from;
            if host.places[router].announced >= from || !host.rules(router) || disturbed {
                self.checks.announcements.remove(&key);
            } else {
                assert!(
                    self.now <= until,
                    "{}: {winner} is master of {} and has not announced it since {from}",
                    self.now,
                    ROUTERS[router]
                );
            }
        }
    }

    fn somebody_takes_over(&mut self, router: usize) {
        let ruled = self.hosts.iter().any(|host| host.rules(router));
        // Where nodes disagree on what belongs together, a master of one half keeps others from both.
        let groups = self
            .hosts
            .iter()
            .filter_map(|host| Some(host.node.as_ref()?.config()));
        let mut groups = groups.map(|config| (config.virtual_routers.len(), &config.sync_groups));
        let first = groups.next();
        let agreed = groups.all(|other| Some(other) == first);
        for (index, host) in self.hosts.iter().enumerate() {
            let waits = host.node.is_some()
                && !host.paused
                && !host.stopping
                && host.places[router].role == Role::Backup;
            if ruled || !agreed || !waits || self.loss > 0.0 {
                self.checks.vacancies.remove(&(index, router));
                continue;
            }
            let vacancies = &mut self.checks.vacancies;
            let since = *vacancies.entry((index, router)).or_insert(self.now);
            // Others that are disturbed may have sent something just before.
            let calm = self.hosts.iter().map(|host| host.awake_since).max();
            let since = since.max(self.network_since).max(calm.unwrap_or(since));
            let waited = self.now.since(since);
            // A master's interval is kept until the timer fires that it was set by.
            let began = self.hosts.iter().map(|host| host.began).max();
            let interval = match began.is_some_and(|began| self.now.since(began) > LONGEST * 4) {
                true => self.hosts.iter().map(|host| host.settings.interval).max(),
                false => None,
            };
            assert!(
                waited <= interval.unwrap_or(LONGEST) * 4 + self.way * 2 + ms(1),
                "{}: {index} is backup of {} without a master for {waited:?}",
                self.now,
                ROUTERS[router]
            );
        }
    }

    fn no_traffic_to_the_dead(&mut self) {
        let count = self.hosts.len();
        for from in 0..count {
            for to in 0..count {
                let reached = self.reaches(from, to) && self.hosts[to].server;
                let since = &mut self.hosts[from].unreachable[to];
                *since = if reached {
                    None
                } else {
                    since.or(Some(self.now))
                };
            }
            let host = &self.hosts[from];
            let (Some(steering), true) = (
                &host.steering,
                host.node.is_some() && !host.paused && !host.stopping,
            ) else {
                continue;
            };
            for (to, since) in host.unreachable.iter().enumerate() {
                let Some(since) = since else { continue };
                let gone = self.now.since((*since).max(host.awake_since));
                let used = steering.ring.iter().any(|slot| usize::from(*slot) == to);
                let bound = DETECTION + SETTLE;
                assert!(
                    !used || gone <= bound,
                    "{}: {from} steers to {to}, gone for {gone:?}",
                    self.now
                );
            }
        }
    }

    /// After everything that a node did at once: all of a group, or nothing.
    pub(crate) fn whole_groups(&self, index: usize) {
        let host = &self.hosts[index];
        let grouped = |config: &steerd_core::config::Config| !config.sync_groups.is_empty();
        if !host
            .node
            .as_ref()
            .is_some_and(|node| grouped(node.config()))
        {
            return;
        }
        let [main, six] = &host.places;
        assert_eq!(main.role, six.role, "{}: roles at {index}", self.now);
        let holds = [main, six].map(|place| place.holds);
        let did = main.last.is_some() || six.last.is_some();
        assert!(
            holds == [main.role == Role::Master; 2] || !did,
            "{}: host {index} is {} and holds {holds:?}",
            self.now,
            main.role
        );
    }

    /// What must hold when faults have ended.
    pub(crate) fn one_master(&self) {
        for router in 0..self.hosts[0].settings.routers {
            self.one_master_of(router);
        }
    }

    fn one_master_of(&self, router: usize) {
        let indices = || 0..self.hosts.len();
        let able: Vec<usize> = indices()
            .filter(|index| self.able(*index, router))
            .collect();
        let masters: Vec<usize> = indices()
            .filter(|index| self.hosts[*index].rules(router))
            .collect();
        let (now, called) = (self.now, ROUTERS[router]);
        assert_eq!(
            masters.len(),
            able.len().min(1),
            "{now}: masters of {called} {masters:?} of able {able:?}"
        );
        for index in indices().filter(|index| self.hosts[*index].power) {
            let holds = self.hosts[index].places[router].holds;
            assert_eq!(
                holds,
                masters.contains(&index),
                "{now}: the addresses of {called} at host {index}"
            );
        }
        let Some(master) = masters.first() else {
            return;
        };
        assert!(
            able.contains(master),
            "{now}: {master} is master of {called} and cannot serve"
        );
        let priority = self.hosts[*master].priority(router);
        for other in able {
            let host = &self.hosts[other];
            // A group keeps to an order for all of it.
            let held = match host.settings.grouped {
                true => host.places.iter().any(|place| place.held),
                false => host.places[router].held,
            };
            let may = host.preempts(router, priority) && !held;
            assert!(!may, "{now}: {master} is master of {called} before {other}");
        }
    }

    /// Whether a host can serve: the second virtual router has no service of its own.
    fn able(&self, index: usize, router: usize) -> bool {
        let host = &self.hosts[index];
        let reaches = |to: usize| self.reaches(index, to) && self.hosts[to].server;
        let serves = (0..self.hosts.len()).any(reaches);
        host.node.is_some() && host.link && (serves || router == 1 && !host.settings.grouped)
    }
}
