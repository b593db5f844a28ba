//! What each peer said last, whether it lives, and what there is to say to it.
//!
//! [`Book::handle`] takes what happened on a connection and tells what the node must see to;
//! [`Book::take_news`] gives what there is to say and to tell since the last call. Everything that
//! is kept of a peer is bounded by this node's own configuration.

mod report;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

pub use self::report::PeerReport;
use super::{
    Happening, PROTOCOL,
    digest::{ConfigDigest, Part},
    message::{
        Alive, BackendView, Health, Hello, Message, RoleView, RoleWord, Roles, RouterId, TakeOver,
        TakenOver, VIEWS, View,
    },
    period,
};
use crate::{
    config::{Config, Name},
    event::BackendKey,
    time::Instant,
};

/// How many messages about backends go to a peer for each sign of life: a node with very many of
/// them must not fill the queue.
const HEALTH_AT_ONCE: u8 = 8;

/// A peer that was silent for so many of the sender's own periods gets no order.
const FRESH: u32 = 6;

/// Something that a peer said and the node must see to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// It orders this node to take over.
    TakeOver(TakeOver),
    /// It answers an order.
    TakenOver(TakenOver),
    /// It was master and is no longer.
    LetGo {
        /// Of this virtual router.
        router: RouterId,
        /// It sent its adverts from here.
        source: Option<IpAddr>,
    },
}

/// Something to say, or to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// Say this to a peer.
    Say {
        /// Whom.
        peer: Name,
        /// What.
        message: Message,
    },
    /// Tell the log.
    Tell {
        /// About whom.
        peer: Name,
        /// What.
        what: String,
        /// Whether something has to be done about it.
        trouble: bool,
    },
}

/// The word of a living peer that it is master and serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Word {
    /// It sends its adverts from here.
    pub source: Option<IpAddr>,
    /// Its last sign of life.
    pub heard: Instant,
}

/// All peers.
#[derive(Debug)]
pub struct Book {
    peers: BTreeMap<Name, Peer>,
    /// This node's virtual routers.
    routers: BTreeMap<Name, RouterId>,
    digest: ConfigDigest,
    period: Duration,
    alive_at: Option<Instant>,
    /// What was said to all peers.
    roles: Roles,
    orders: u64,
    /// Who was ordered to take over, by which order.
    ordered: BTreeMap<RouterId, (Name, u64)>,
    news: Vec<News>,
}

#[derive(Debug)]
struct Peer {
    since: Instant,
    line: Option<Line>,
}

/// A connection, and what was said on it.
#[derive(Debug)]
struct Line {
    hello: Hello,
    heard: Instant,
    /// The peer's last clock, and when it came.
    echo: Option<(u64, Instant)>,
    round_trip: Option<Duration>,
    config: Option<ConfigDigest>,
    /// What of it differs, as was told.
    told: Vec<Part>,
    roles: BTreeMap<RouterId, RoleView>,
    views: BTreeMap<BackendKey, (View, Instant)>,
    /// The backends whose health it is still to be told.
    untold: BTreeSet<BackendKey>,
    /// How many messages of that may go before the next sign of life.
    budget: u8,
    /// It was told this node's roles.
    knows_roles: bool,
}

impl Line {
    fn understood(&self) -> bool {
        self.hello.protocol == PROTOCOL
    }
}

impl Book {
    /// No peer was heard of yet.
    #[must_use]
    pub fn new(config: &Config, now: Instant) -> Self {
        let mut book = Self {
            peers: BTreeMap::new(),
            routers: BTreeMap::new(),
            digest: ConfigDigest::of(config),
            period: period(config),
            alive_at: None,
            roles: Roles::default(),
            orders: 0,
            ordered: BTreeMap::new(),
            news: Vec::new(),
        };
        book.reconfigure(config, now);
        book
    }

    /// Works by `config` from now on.
    pub fn reconfigure(&mut self, config: &Config, now: Instant) {
        let channel = config.channel.iter();
        let names: BTreeSet<&Name> = channel.flat_map(|c| &c.peers).map(|p| &p.name).collect();
        self.peers.retain(|name, _| names.contains(name));
        for name in names {
            let peer = Peer {
                since: now,
                line: None,
            };
            self.peers.entry(name.clone()).or_insert(peer);
        }
        let routers = config.virtual_routers.iter();
        self.routers = routers
            .map(|router| (router.name.clone(), RouterId::of(router)))
            .collect();
        self.period = period(config);
        let known: BTreeSet<BackendKey> = backends(config).collect();
        self.digest = ConfigDigest::of(config);
        for (name, peer) in &mut self.peers {
            let Some(line) = peer.line.as_mut().filter(|line| line.understood()) else {
                continue;
            };
            line.views.retain(|key, _| known.contains(key));
            line.untold.clone_from(&known);
            self.news.push(News::Say {
                peer: name.clone(),
                message: Message::Config(self.digest),
            });
        }
        let names: Vec<Name> = self.peers.keys().cloned().collect();
        names.iter().for_each(|name| self.compare(name));
    }

    /// Takes what happened on the connection to `peer`.
    pub fn handle(
        &mut self,
        peer: &Name,
        what: Happening,
        config: &Config,
        now: Instant,
    ) -> Vec<Heard> {
        match what {
            Happening::Up(hello) => self.up(peer, hello, config, now),
            Happening::Down => self.down(peer, now),
            Happening::Said(message) => self.said(peer, message, config, now),
        }
    }

    /// A backend came up or went down.
    pub fn turned(&mut self, backend: &BackendKey) {
        for line in self.lines() {
            line.untold.insert(backend.clone());
        }
    }

    /// What this node is for each of its virtual routers, and how it sees its backends: said where
    /// it is news. Gives its sign of life where that is due.
    pub fn tick(
        &mut self,
        roles: impl FnOnce(&BTreeMap<Name, RouterId>) -> Vec<RoleView>,
        view: impl Fn(&BackendKey) -> Option<(View, Duration)>,
        now: Instant,
    ) {
        if !self.any_line() {
            self.alive_at = None;
            return;
        }
        let roles = Roles {
            routers: roles(&self.routers),
        };
        let changed = roles != self.roles;
        self.roles = roles;
        let due = self.alive_at.is_none_or(|at| at <= now);
        if due {
            self.alive_at = Some(now + self.period);
        }
        for (name, peer) in &mut self.peers {
            let Some(line) = &mut peer.line else {
                continue;
            };
            let mut say = |message| {
                let peer = name.clone();
                self.news.push(News::Say { peer, message });
            };
            if line.understood() && (changed || !line.knows_roles) {
                line.knows_roles = true;
                say(Message::Roles(self.roles.clone()));
            }
            if due {
                line.budget = HEALTH_AT_ONCE;
                let (echo, held) = line
                    .echo
                    .map_or((0, 0), |(sent, at)| (sent, micros(now.since(at))));
                let sent = micros(now.since_origin());
                say(Message::Alive(Alive { sent, echo, held }));
            }
            while line.budget > 0 && !line.untold.is_empty() {
                line.budget -= 1;
                let told: Vec<BackendKey> = line.untold.iter().take(VIEWS).cloned().collect();
                let mut backends = Vec::new();
                for key in told {
                    line.untold.remove(&key);
                    backends.extend(view(&key).map(|(view, since)| BackendView {
                        service: key.service,
                        backend: key.backend,
                        view,
                        since_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
                    }));
                }
                say(Message::Health(Health { backends }));
            }
        }
    }

    /// When [`Book::tick`] is due.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.alive_at.filter(|_| self.any_line())
    }

    /// The latest word of a peer that it is master of `router` and serves, however old.
    #[must_use]
    pub fn word(&self, router: &Name) -> Option<Word> {
        let id = self.routers.get(router)?;
        let words = self.peers.values().filter_map(|peer| {
            let line = peer.line.as_ref()?;
            let role = line.roles.get(id)?;
            (role.role == RoleWord::Master && role.able).then_some(Word {
                source: role.source,
                heard: line.heard,
            })
        });
        words.max_by_key(|word| word.heard)
    }

    /// The peer that `router` is best given to: a living backup that could serve, of the highest
    /// priority.
    #[must_use]
    pub fn successor(&self, router: &Name, now: Instant) -> Option<Name> {
        let id = self.routers.get(router)?;
        let able = self.peers.iter().filter_map(|(name, peer)| {
            let line = peer.line.as_ref()?;
            let role = line.roles.get(id)?;
            let fresh = now.since(line.heard) <= self.period * FRESH;
            let fits = fresh && role.able && role.role == RoleWord::Backup;
            fits.then_some((role.priority, std::cmp::Reverse(name)))
        });
        able.max().map(|(_, std::cmp::Reverse(name))| name.clone())
    }

    /// Orders `peer` to take `router` over.
    pub fn order(&mut self, router: &Name, peer: &Name) {
        let Some(&router) = self.routers.get(router) else {
            return;
        };
        self.orders += 1;
        let order = self.orders;
        self.ordered.insert(router, (peer.clone(), order));
        self.news.push(News::Say {
            peer: peer.clone(),
            message: Message::TakeOver(TakeOver { router, order }),
        });
    }

    /// Answers an order of `peer`.
    pub fn answer(&mut self, peer: &Name, order: TakeOver, done: bool) {
        let TakeOver { router, order } = order;
        self.news.push(News::Say {
            peer: peer.clone(),
            message: Message::TakenOver(TakenOver {
                router,
                order,
                done,
            }),
        });
    }

    /// What `peer` said that it is for `router`.
    #[must_use]
    pub fn role_of(&self, peer: &Name, router: RouterId) -> Option<RoleView> {
        let line = self.peers.get(peer)?.line.as_ref()?;
        line.roles.get(&router).copied()
    }

    /// The name of a virtual router of this node.
    #[must_use]
    pub fn name_of(&self, router: RouterId) -> Option<Name> {
        let mut routers = self.routers.iter();
        routers
            .find(|(_, id)| **id == router)
            .map(|(name, _)| name.clone())
    }

    /// What there is to say and to tell, in order.
    pub fn take_news(&mut self) -> Vec<News> {
        std::mem::take(&mut self.news)
    }

    fn up(&mut self, name: &Name, hello: Hello, config: &Config, now: Instant) -> Vec<Heard> {
        let Some(peer) = self.peers.get_mut(name) else {
            return Vec::new();
        };
        let (protocol, version) = (hello.protocol, hello.version.clone());
        let again = peer.line.is_some();
        let understood = protocol == PROTOCOL;
        peer.since = now;
        peer.line = Some(Line {
            hello,
            heard: now,
            echo: None,
            round_trip: None,
            config: None,
            told: Vec::new(),
            roles: BTreeMap::new(),
            views: BTreeMap::new(),
            untold: match understood {
                true => backends(config).collect(),
                false => BTreeSet::new(),
            },
            budget: HEALTH_AT_ONCE,
            knows_roles: false,
        });
        let what = match understood {
            true => format!("the channel is up, steerd {version}"),
            false => format!(
                "it speaks version {protocol} of the channel's protocol, this node {PROTOCOL}: run \
                 the same version of steerd on both"
            ),
        };
        if !again || !understood {
            self.news.push(News::Tell {
                peer: name.clone(),
                what,
                trouble: !understood,
            });
        }
        if understood {
            self.news.push(News::Say {
                peer: name.clone(),
                message: Message::Config(self.digest),
            });
        }
        // A sign of life at once, for the round trip.
        self.alive_at = Some(now);
        // What was ordered on the connection before is not answered any more.
        self.unanswered(name)
    }

    fn down(&mut self, name: &Name, now: Instant) -> Vec<Heard> {
        let Some(peer) = self.peers.get_mut(name) else {
            return Vec::new();
        };
        if peer.line.take().is_some() {
            peer.since = now;
            self.news.push(News::Tell {
                peer: name.clone(),
                what: "the channel is down".to_owned(),
                trouble: true,
            });
        }
        self.unanswered(name)
    }

    /// The orders to `name` count as refused.
    fn unanswered(&mut self, name: &Name) -> Vec<Heard> {
        let mut refused = Vec::new();
        self.ordered.retain(|&router, (peer, order)| {
            if peer == name {
                refused.push(Heard::TakenOver(TakenOver {
                    router,
                    order: *order,
                    done: false,
                }));
            }
            peer != name
        });
        refused
    }

    fn said(&mut self, name: &Name, message: Message, config: &Config, now: Instant) -> Vec<Heard> {
        let peer = self.peers.get_mut(name);
        let Some(line) = peer.and_then(|peer| peer.line.as_mut()) else {
            return Vec::new();
        };
        line.heard = now;
        if !line.understood() && !matches!(message, Message::Alive(_)) {
            return Vec::new();
        }
        match message {
            // Once is enough.
            Message::Hello(_) => {}
            Message::Alive(Alive { sent, echo, held }) => {
                line.echo = Some((sent, now));
                let elapsed = micros(now.since_origin()).checked_sub(echo);
                let way = elapsed.and_then(|elapsed| elapsed.checked_sub(held));
                if echo != 0
                    && let Some(way) = way
                {
                    line.round_trip = Some(Duration::from_micros(way));
                }
            }
            Message::Config(digest) => {
                line.config = Some(digest);
                self.compare(name);
            }
            Message::Roles(roles) => {
                let ours: BTreeSet<RouterId> = self.routers.values().copied().collect();
                let shared = roles.routers.into_iter();
                let shared = shared.filter(|role| ours.contains(&role.router));
                let now: BTreeMap<RouterId, RoleView> =
                    shared.map(|role| (role.router, role)).collect();
                let before = std::mem::replace(&mut line.roles, now);
                let is_master = |role: &RoleView| role.role == RoleWord::Master;
                let gone = before.into_values().filter(|role| {
                    is_master(role) && !line.roles.get(&role.router).is_some_and(is_master)
                });
                return gone
                    .map(|RoleView { router, source, .. }| Heard::LetGo { router, source })
                    .collect();
            }
            Message::Health(Health { backends: views }) => {
                // Only what this node knows too: a peer cannot make it keep more.
                let known = |key: &BackendKey| {
                    let service = config.service(&key.service);
                    service.is_some_and(|s| s.backends.iter().any(|b| b.name == key.backend))
                };
                for view in views {
                    let key = view.key();
                    if known(&key) {
                        let since = now - Duration::from_millis(view.since_ms);
                        line.views.insert(key, (view.view, since));
                    }
                }
            }
            Message::TakeOver(order) => return vec![Heard::TakeOver(order)],
            Message::TakenOver(answer) => {
                let asked = self.ordered.get(&answer.router);
                if asked.is_some_and(|(peer, order)| peer == name && *order == answer.order) {
                    self.ordered.remove(&answer.router);
                    return vec![Heard::TakenOver(answer)];
                }
            }
        }
        Vec::new()
    }

    /// Tells where a peer's configuration begins or ceases to differ.
    fn compare(&mut self, name: &Name) {
        let peer = self.peers.get_mut(name);
        let Some(line) = peer.and_then(|peer| peer.line.as_mut()) else {
            return;
        };
        let Some(config) = &line.config else {
            return;
        };
        let differs = self.digest.differences(config);
        if differs == line.told {
            return;
        }
        let what = match differs.is_empty() {
            true => "its configuration is the same again".to_owned(),
            false => {
                let parts: Vec<String> = differs.iter().map(ToString::to_string).collect();
                format!(
                    "its configuration differs from this node's in: {}; make these the same on all \
                     nodes",
                    parts.join(", ")
                )
            }
        };
        line.told = differs;
        self.news.push(News::Tell {
            peer: name.clone(),
            trouble: !line.told.is_empty(),
            what,
        });
    }

    fn any_line(&self) -> bool {
        self.peers.values().any(|peer| peer.line.is_some())
    }

    fn lines(&mut self) -> impl Iterator<Item = &mut Line> {
        let peers = self.peers.values_mut();
        peers
            .filter_map(|peer| peer.line.as_mut())
            .filter(|line| line.understood())
    }
}

fn backends(config: &Config) -> impl Iterator<Item = BackendKey> + use<'_> {
    let services = config.services.iter();
    services.flat_map(|service| {
        let backends = service.backends.iter();
        backends.map(move |backend| BackendKey::of(service, backend))
    })
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
