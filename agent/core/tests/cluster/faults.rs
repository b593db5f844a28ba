//! What goes wrong, and when.

use std::time::Duration;

use steerd_core::event::{Command, Event};

use crate::{
    host::{Host, Settings},
    support::{ms, name},
    world::{Occasion, WAY, World},
};

/// Faults happen up to then.
pub(crate) const FAULTS_UNTIL: Duration = Duration::from_secs(6);
/// The longest way of a packet while the network is slow.
const SLOW_WAY: Duration = Duration::from_millis(80);

#[derive(Debug, Clone)]
pub(crate) enum Fault {
    Loss(f64),
    /// Packets take up to so long, each its own time.
    Slow(Duration),
    Split(usize),
    /// What the first sends does not reach the second: of one virtual router, or nothing at all.
    Deaf(usize, usize, Option<usize>),
    Heal,
    Kill(usize),
    Stop(usize),
    Start(usize),
    Pause(usize),
    Resume(usize),
    Crash(usize),
    Boot(usize),
    Server(usize, bool),
    Link(usize, bool),
    Failover(usize),
    Reload(usize, Change),
}

/// What a reload changes.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    Priority(u8),
    Interval(Duration),
    Preempt(bool),
    PreemptDelay(Duration),
    Address,
    Group,
    /// There is one virtual router less, or again as many.
    Routers,
    /// To what is the same for all.
    Base(Box<Settings>),
}

impl World {
    /// A random history: each fault has its end, but a host or server may stay dead.
    pub(crate) fn schedule(&mut self) {
        let count = self.hosts.len();
        for index in 0..count {
            let start = ms(self.random.below(300));
            self.push(start, Occasion::Fault(Fault::Start(index)));
        }
        let limit = FAULTS_UNTIL.as_millis() as u64;
        for _ in 0..2 + self.random.below(7) {
            let begin = 500 + self.random.below(limit - 1500);
            let end = (begin + 20 + self.random.below(2000)).min(limit);
            let (first, then) = self.random_fault(count);
            self.push(ms(begin), Occasion::Fault(first));
            if let Some(then) = then {
                self.push(ms(end), Occasion::Fault(then));
            }
        }
        // Overlapping faults leave nothing behind but what stays dead by intent.
        for fault in [Fault::Loss(0.0), Fault::Slow(WAY), Fault::Heal] {
            self.push(FAULTS_UNTIL, Occasion::Fault(fault));
        }
        for index in 0..count {
            let base = Box::new(self.hosts[index].settings.clone());
            let restore = Fault::Reload(index, Change::Base(base));
            self.push(FAULTS_UNTIL, Occasion::Fault(Fault::Resume(index)));
            let later = ms(self.random.below(400));
            self.push(FAULTS_UNTIL + later, Occasion::Fault(restore));
            self.push(FAULTS_UNTIL + ms(500), Occasion::Fault(Fault::Start(index)));
        }
    }

    fn random_fault(&mut self, count: usize) -> (Fault, Option<Fault>) {
        let random = &mut self.random;
        let host = random.below(count as u64) as usize;
        let stays = random.chance(0.2);
        match random.below(18) {
            0 => (
                Fault::Loss(0.05 + 0.5 * random.share()),
                Some(Fault::Loss(0.0)),
            ),
            1 => (Fault::Slow(SLOW_WAY), Some(Fault::Slow(WAY))),
            2 => (Fault::Split(host), Some(Fault::Heal)),
            3 | 4 => {
                let to = (host + 1 + random.below(count as u64 - 1) as usize) % count;
                let one = random.chance(0.4).then(|| random.below(2) as usize);
                (Fault::Deaf(host, to, one), Some(Fault::Heal))
            }
            5 => (Fault::Kill(host), Some(Fault::Start(host))),
            6 => (Fault::Stop(host), Some(Fault::Start(host))),
            7 => (Fault::Pause(host), Some(Fault::Resume(host))),
            8 => (Fault::Crash(host), (!stays).then_some(Fault::Boot(host))),
            9 => (
                Fault::Server(host, false),
                (!stays).then_some(Fault::Server(host, true)),
            ),
            10 => (
                Fault::Link(host, false),
                (!stays).then_some(Fault::Link(host, true)),
            ),
            11 | 12 => (Fault::Failover(host), None),
            _ => {
                let change = match random.below(7) {
                    0 => Change::Priority(1 + random.below(254) as u8),
                    1 => Change::Interval(ms([50, 100, 200][random.below(3) as usize])),
                    2 => Change::Preempt(random.chance(0.5)),
                    3 => Change::PreemptDelay(ms(random.below(500))),
                    4 => Change::Address,
                    5 => Change::Group,
                    _ => Change::Routers,
                };
                (Fault::Reload(host, change), None)
            }
        }
    }

    pub(crate) fn fault(&mut self, fault: Fault) {
        if self.trace {
            println!("{} {fault:?}", self.now);
        }
        match fault {
            Fault::Loss(loss) => {
                self.loss = loss;
                self.network_since = self.network_since.max(self.now);
            }
            Fault::Slow(way) => {
                // What is on its way still takes so long.
                self.network_since = self.network_since.max(self.now + self.way.max(way));
                self.way = way;
            }
            Fault::Split(host) => {
                self.side.fill(false);
                self.side[host] = true;
                self.network_since = self.network_since.max(self.now);
            }
            Fault::Deaf(from, to, one) => {
                let routers = one.map_or(0..2, |one| one..one + 1);
                self.deaf.extend(routers.map(|router| (from, to, router)));
                self.network_since = self.network_since.max(self.now);
            }
            Fault::Heal => {
                self.side.fill(false);
                self.deaf.clear();
                self.network_since = self.network_since.max(self.now);
            }
            Fault::Kill(host) => self.hosts[host].die(self.now),
            Fault::Stop(host) => {
                self.hosts[host].awake_since = self.now;
                self.hosts[host].stopping = true;
                self.give(host, Event::Command(Command::Shutdown));
            }
            Fault::Start(host) => {
                if self.hosts[host].power && self.hosts[host].node.is_none() {
                    self.start(host);
                }
            }
            Fault::Pause(host) => self.hosts[host].paused = self.hosts[host].node.is_some(),
            Fault::Resume(host) => {
                if std::mem::take(&mut self.hosts[host].paused) {
                    self.hosts[host].awake_since = self.now;
                    // What its sockets hold first, as the daemon does.
                    for event in std::mem::take(&mut self.hosts[host].inbox) {
                        self.give(host, event);
                    }
                    self.with_node(host, |node, now| node.tick(now));
                }
            }
            Fault::Crash(host) => {
                let host = &mut self.hosts[host];
                host.die(self.now);
                (host.power, host.server, host.steering) = (false, false, None);
                for place in &mut host.places {
                    place.holds = false;
                }
            }
            Fault::Boot(host) => {
                if !std::mem::replace(&mut self.hosts[host].power, true) {
                    self.hosts[host].server = true;
                    self.start(host);
                }
            }
            Fault::Server(host, up) => {
                self.hosts[host].server = up && self.hosts[host].power;
            }
            Fault::Link(host, up) => {
                self.hosts[host].link = up;
                self.hosts[host].awake_since = self.now;
                self.hosts[host].began = self.now;
                let interface = name("eth0");
                self.give(host, Event::Link { interface, up });
            }
            Fault::Failover(host) => {
                if !self.hosts[host].paused {
                    self.with_node(host, |node, now| drop(node.failover(None, now)));
                }
            }
            Fault::Reload(host, change) => self.reload(host, change),
        }
    }

    fn reload(&mut self, index: usize, change: Change) {
        let host = &mut self.hosts[index];
        let before = host.settings.clone();
        change.apply(host);
        if host.settings == before || host.stopping {
            return;
        }
        (host.awake_since, host.began) = (self.now, self.now);
        host.delay = host.delay.min(host.settings.preempt_delay);
        let config = Box::new(host.settings.config());
        self.give(index, Event::Command(Command::Reload(config)));
    }
}

impl Change {
    fn apply(self, host: &mut Host) {
        let settings = &mut host.settings;
        match self {
            Self::Priority(priority) => settings.priority = [priority; 2],
            Self::Interval(interval) => settings.interval = interval,
            Self::Preempt(preempt) => settings.preempt = preempt,
            Self::PreemptDelay(delay) => settings.preempt_delay = delay,
            Self::Address => settings.more = !settings.more,
            Self::Group => settings.grouped = settings.routers == 2 && !settings.grouped,
            Self::Routers => {
                settings.routers = 3 - settings.routers;
                settings.grouped &= settings.routers == 2;
            }
            Self::Base(base) => *settings = *base,
        }
    }
}
