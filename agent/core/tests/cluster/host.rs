//! A host: its daemon, what its kernel keeps without it, and its configuration.

use std::{net::IpAddr, time::Duration};

use steerd_core::{
    action::Steering,
    config::{Config, Name, SyncGroup},
    event::Event,
    node::Node,
    time::Instant,
    vrrp::election::Role,
};

use crate::support::{backend, config, host, ip, ms, name, router, service, vip};

/// The virtual routers: one of IPv4 and, in some clusters, one of IPv6.
pub(crate) const ROUTERS: [&str; 2] = ["main", "six"];

/// The longest advert interval.
pub(crate) const LONGEST: Duration = Duration::from_millis(200);

/// What differs between hosts and reloads.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Settings {
    /// Of each virtual router; the first counts for all of a group.
    pub(crate) priority: [u8; 2],
    pub(crate) interval: Duration,
    pub(crate) preempt: bool,
    pub(crate) preempt_delay: Duration,
    /// Each virtual router has one more address.
    pub(crate) more: bool,
    pub(crate) grouped: bool,
    /// How many of [`ROUTERS`] there are.
    pub(crate) routers: usize,
    pub(crate) tiered: bool,
    pub(crate) hosts: usize,
}

impl Settings {
    pub(crate) fn config(&self) -> Config {
        let backends = (0..self.hosts).map(|of| {
            let tier = if self.tiered { of as u8 } else { 0 };
            backend(&format!("b{of}"), host(of), tier)
        });
        let routers = (0..self.routers).map(|index| {
            let mut router = router(match self.grouped {
                true => self.priority[0],
                false => self.priority[index],
            });
            router.name = name(ROUTERS[index]);
            router.advert_interval = self.interval;
            // The owner always preempts, at once.
            let owner = router.priority == 255;
            router.preempt = self.preempt || owner;
            if self.preempt && !owner {
                router.preempt_delay = self.preempt_delay;
            }
            let mut addresses = match index {
                0 => vec!["192.168.1.25/24", "192.168.1.24/24"],
                _ => vec!["fd00::25/64", "fd00::24/64"],
            };
            addresses.truncate(if self.more { 2 } else { 1 });
            router.addresses = addresses.iter().map(|net| net.parse().unwrap()).collect();
            router
        });
        let mut config = config(routers.collect(), vec![service(backends.collect())]);
        if self.grouped {
            config.sync_groups = vec![SyncGroup {
                name: name("both"),
                virtual_routers: ROUTERS.map(name).to_vec(),
            }];
        }
        config
    }
}

/// A virtual router on a host.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) role: Role,
    /// Since when it has its role.
    pub(crate) since: Instant,
    /// When it said last that it goes.
    pub(crate) resigned: Instant,
    /// Whether the addresses are on the interface.
    pub(crate) holds: bool,
    /// What this daemon did with them last.
    pub(crate) last: Option<bool>,
    /// Gave them away by order.
    pub(crate) held: bool,
    /// The same, until it is master the next time.
    pub(crate) ordered: bool,
    pub(crate) announced: Instant,
}

pub(crate) struct Host {
    /// Its addresses: IPv4, IPv6.
    pub(crate) addresses: [IpAddr; 2],
    pub(crate) settings: Settings,
    pub(crate) node: Option<Node>,
    /// Grows with each start of the daemon: what was meant for an earlier one is void.
    pub(crate) incarnation: u64,
    pub(crate) died: Instant,
    /// Since when daemon and host run undisturbed.
    pub(crate) awake_since: Instant,
    /// Since when it runs, with this link and configuration.
    pub(crate) began: Instant,
    /// Its shortest `preempt_delay` since it was started.
    pub(crate) delay: Duration,
    pub(crate) paused: bool,
    pub(crate) inbox: Vec<Event>,
    pub(crate) power: bool,
    pub(crate) link: bool,
    pub(crate) server: bool,
    pub(crate) places: [Place; 2],
    pub(crate) steering: Option<Steering>,
    /// Told to stop: it steers no more.
    pub(crate) stopping: bool,
    /// Since when each host's server is out of reach from here.
    pub(crate) unreachable: Vec<Option<Instant>>,
}

impl Host {
    /// `reversed`: the order of IPv6 addresses is not that of IPv4 addresses.
    pub(crate) fn new(index: usize, settings: Settings, reversed: bool) -> Self {
        let six = if reversed { 99 - index } else { 26 + index };
        let place = Place {
            role: Role::Init,
            since: Instant::ZERO,
            resigned: Instant::ZERO,
            holds: false,
            last: None,
            held: false,
            ordered: false,
            announced: Instant::ZERO,
        };
        Self {
            addresses: [host(index), ip(&format!("fe80::{six}"))],
            unreachable: vec![None; settings.hosts],
            settings,
            node: None,
            incarnation: 0,
            died: Instant::ZERO,
            awake_since: Instant::ZERO,
            began: Instant::ZERO,
            delay: Duration::ZERO,
            paused: false,
            inbox: Vec::new(),
            power: true,
            link: true,
            server: true,
            places: [place.clone(), place],
            steering: None,
            stopping: false,
        }
    }

    pub(crate) fn die(&mut self, now: Instant) {
        if self.node.take().is_some() {
            self.died = now;
        }
        self.awake_since = now;
        self.paused = false;
        self.inbox.clear();
        self.incarnation += 1;
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.node.as_ref().and_then(Node::next_deadline)
    }

    /// Whether its daemon has a socket for a virtual router.
    pub(crate) fn knows(&self, router: usize) -> bool {
        let node = self.node.as_ref();
        node.is_some_and(|node| router < node.config().virtual_routers.len())
    }

    /// Its priority for a virtual router.
    pub(crate) fn priority(&self, router: usize) -> u8 {
        self.settings.priority[if self.settings.grouped { 0 } else { router }]
    }

    /// Whether it takes the addresses from a master of this priority.
    pub(crate) fn preempts(&self, router: usize, priority: u8) -> bool {
        let own = self.priority(router);
        own > priority && (self.settings.preempt || own == 255)
    }

    /// Whether it acts as a master.
    pub(crate) fn rules(&self, router: usize) -> bool {
        !self.paused && self.node.is_some() && self.places[router].role == Role::Master
    }

    /// The addresses on its interfaces.
    pub(crate) fn on_interfaces(&self) -> Vec<IpAddr> {
        let mut all = self.addresses.to_vec();
        if self.places[0].holds {
            all.push(vip());
        }
        if self.places[1].holds {
            all.push(ip("fd00::25"));
        }
        all
    }
}

/// Which of [`ROUTERS`] that is.
pub(crate) fn number(router: &Name) -> usize {
    let mut names = ROUTERS.iter();
    names
        .position(|name| *name == router.as_str())
        .expect("a virtual router of the cluster")
}

pub(crate) fn mac(host: usize) -> [u8; 6] {
    [2, 0, 0, 0, 0, host as u8]
}

/// A random configuration of the first host, from which the others differ in priority.
pub(crate) fn base(random: &mut crate::random::Random) -> Settings {
    let hosts = match random.below(20) {
        0..9 => 2,
        9..16 => 3,
        _ => 5,
    };
    let routers = 1 + usize::from(random.chance(0.7));
    Settings {
        priority: [110; 2],
        interval: ms(100),
        preempt: random.chance(0.8),
        preempt_delay: if random.chance(0.2) { ms(300) } else { ms(0) },
        more: random.chance(0.3),
        grouped: routers == 2 && random.chance(0.7),
        routers,
        tiered: random.chance(0.5),
        hosts,
    }
}
