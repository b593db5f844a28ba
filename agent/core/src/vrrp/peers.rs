//! Whom a virtual router heard, and what their adverts say about the set-up.
//!
//! Anyone on the segment can send adverts, so the book is bounded, what a stranger says can be told
//! but not grow, and a single advert makes nobody a peer whose packets are taken for forwarded ones
//! ([`Peers::forwarders`]). Who wants more certainty configures `peers`.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use crate::{
    api::human_duration,
    config::VirtualRouter,
    time::Instant,
    vrrp::{
        election::OWNER,
        wire::{Advert, Mismatch},
    },
};

/// The most peers that are remembered, if not more are configured. Beyond it the one silent for
/// longest is forgotten, of those that are no forwarders.
pub const MAX_PEERS: usize = 16;

/// For so long at least a silent peer is recognised as a forwarder: packets are still on their way
/// when a master hands over.
pub const MIN_RECOGNISED: Duration = Duration::from_secs(10);

/// So many adverts make a forwarder of a peer that is not configured.
const ENOUGH_ADVERTS: u8 = 2;

/// One who sends adverts for the same addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// How many adverts were heard from it, up to those that make it a forwarder.
    pub adverts: u8,
    /// When its last advert arrived.
    pub heard: Instant,
    /// The priority of its last advert that was no resignation; none so far: 0.
    pub priority: u8,
    /// The time between its adverts.
    pub interval: Duration,
    /// Its addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// Whether it fell silent as a master since.
    pub silent: bool,
}

impl Peer {
    /// Until when it is recognised as a forwarder, if nothing more is heard: three master-down
    /// intervals, each of four adverts at most.
    #[must_use]
    pub fn recognised_until(&self) -> Option<Instant> {
        let life = (self.interval * 12).max(MIN_RECOGNISED);
        (self.adverts >= ENOUGH_ADVERTS).then(|| self.heard + life)
    }

    fn is_recognised(&self, now: Instant) -> bool {
        self.recognised_until().is_some_and(|until| now < until)
    }
}

/// Something wrong with the set-up.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Diagnosis {
    /// What kind of thing.
    pub mistake: Mistake,
    /// What, and what to change.
    pub what: String,
}

/// The kinds of what can be wrong with a set-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mistake {
    /// Two nodes with one priority.
    SamePriority,
    /// Two nodes with distinct intervals.
    Interval,
    /// Two nodes with distinct addresses.
    Addresses,
    /// Two groups with one VRID.
    ForeignVrid,
    /// A host that is no peer uses a virtual address.
    Conflict,
    /// Two nodes with priority 255.
    Owners,
    /// Two nodes with one address of their own.
    SameAddress,
    /// Another master is heard while this node is one.
    Rival,
    /// Two nodes that do not speak alike, so that neither hears the other.
    Wire,
    /// The channel says that the master lives, and its adverts are not heard.
    Unheard,
}

/// What an advert means for the book.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Observed {
    /// From a virtual router that shares nothing with ours but the VRID.
    Foreign,
    /// From a peer that is heard for the first time, or again after a silence.
    Appeared,
    /// From a peer that is heard all the time.
    Known,
    /// From a peer for which the book has no room.
    Crowd,
}

/// The peers of one virtual router.
#[derive(Debug, Clone, Default)]
pub struct Peers {
    heard: BTreeMap<IpAddr, Peer>,
    foreign: Option<(IpAddr, Vec<IpAddr>)>,
    /// The last whose adverts were refused for how they are sent. One, whoever sends what: each of
    /// them is a mistake of its own, and the next one shows when this one is mended.
    refused: Option<(IpAddr, Mismatch)>,
}

impl Peers {
    /// Takes note of an advert.
    pub fn observe(
        &mut self,
        own: &VirtualRouter,
        source: IpAddr,
        advert: &Advert,
        now: Instant,
    ) -> Observed {
        if self.refused.is_some_and(|(refused, _)| refused == source) {
            self.refused = None;
        }
        let addresses: BTreeSet<IpAddr> = advert.addresses.iter().copied().collect();
        // Lists that overlap belong together, if only because one node has a newer configuration.
        if addresses.is_disjoint(&own_addresses(own)) {
            self.foreign = Some((source, advert.addresses.clone()));
            return Observed::Foreign;
        }
        let before = self.heard.remove(&source);
        if before.is_none() && !self.make_room(own, now) {
            return Observed::Crowd;
        }
        let adverts = before.as_ref().map_or(0, |peer| peer.adverts);
        let priority = match advert.priority {
            0 => before.as_ref().map_or(0, |peer| peer.priority),
            priority => priority,
        };
        let interval = interval(advert);
        self.heard.insert(
            source,
            Peer {
                adverts: adverts.saturating_add(1).min(ENOUGH_ADVERTS),
                heard: now,
                priority,
                interval,
                addresses,
                silent: false,
            },
        );
        match before {
            Some(Peer { silent: false, .. }) => Observed::Known,
            Some(Peer { silent: true, .. }) | None => Observed::Appeared,
        }
    }

    /// Takes note of an advert that was refused because it is sent in another way.
    pub fn refuse(&mut self, source: IpAddr, mismatch: Mismatch) {
        self.refused = Some((source, mismatch));
    }

    /// Whether there is room for one more. It is not made at the cost of a forwarder: strangers
    /// cannot drive out those known before.
    fn make_room(&mut self, own: &VirtualRouter, now: Instant) -> bool {
        if self.heard.len() < MAX_PEERS.max(own.peers.len()) {
            return true;
        }
        let stalest = self
            .heard
            .iter()
            .filter(|(_, peer)| !peer.is_recognised(now))
            .min_by_key(|(_, peer)| peer.heard)
            .map(|(at, _)| *at);
        stalest
            .and_then(|address| self.heard.remove(&address))
            .is_some()
    }

    /// Forgets whoever is no peer in this configuration.
    pub fn reconfigure(&mut self, own: &VirtualRouter) {
        self.heard.retain(|address, _| is_admitted(own, *address));
        self.foreign = None;
        self.refused = None;
    }

    /// The peers whose packets are taken for forwarded ones, and to when that holds if nothing is
    /// heard meanwhile: those configured; where none are, those heard twice and of late. A backup
    /// is silent, but only a master forwards.
    #[must_use]
    pub fn forwarders(
        &self,
        own: &VirtualRouter,
        now: Instant,
    ) -> (BTreeSet<IpAddr>, Option<Instant>) {
        if !own.peers.is_empty() {
            return (own.peers.iter().copied().collect(), None);
        }
        let recognised = || self.iter().filter(|(_, peer)| peer.is_recognised(now));
        let until = recognised().filter_map(|(_, peer)| peer.recognised_until());
        let until = until.min();
        (recognised().map(|(address, _)| address).collect(), until)
    }

    /// The master at `address` fell silent.
    pub fn fell_silent(&mut self, address: IpAddr) {
        if let Some(peer) = self.heard.get_mut(&address) {
            peer.silent = true;
        }
    }

    /// Whether any peer was ever heard.
    #[must_use]
    pub fn any_heard(&self) -> bool {
        !self.heard.is_empty()
    }

    /// The peer at `address`.
    #[must_use]
    pub fn get(&self, address: IpAddr) -> Option<&Peer> {
        self.heard.get(&address)
    }

    /// All that were heard.
    pub fn iter(&self) -> impl Iterator<Item = (IpAddr, &Peer)> {
        self.heard.iter().map(|(address, peer)| (*address, peer))
    }

    /// What is wrong with the set-up, each with what to change.
    #[must_use]
    pub fn diagnoses(&self, own: &VirtualRouter) -> BTreeSet<Diagnosis> {
        let mut found = BTreeSet::new();
        let mut tell = |mistake, what| found.insert(Diagnosis { mistake, what });
        let ours = own_addresses(own);
        for (address, peer) in self.iter() {
            if peer.priority == OWNER && own.priority == OWNER {
                tell(
                    Mistake::Owners,
                    format!(
                        "{address} has priority 255 too, but the addresses have one owner: give \
                         `priority` 254 or less to all nodes but one"
                    ),
                );
            } else if peer.priority == own.priority {
                tell(
                    Mistake::SamePriority,
                    format!(
                        "{address} has our priority {} too, so the greater address wins: give each \
                     node its own `priority`",
                        own.priority
                    ),
                );
            }
            if peer.interval != own.advert_interval {
                tell(
                    Mistake::Interval,
                    format!(
                        "{address} sends an advert every {}, this node every {}: make \
                     `advert_interval` the same on all nodes",
                        human_duration(peer.interval),
                        human_duration(own.advert_interval)
                    ),
                );
            }
            if peer.addresses != ours {
                tell(
                    Mistake::Addresses,
                    format!(
                        "{address} holds {}, this node {}: make `addresses` the same on all nodes",
                        list(&peer.addresses),
                        list(&ours)
                    ),
                );
            }
        }
        if let Some((source, mismatch)) = self.refused {
            tell(
                Mistake::Wire,
                mismatch.advice(source, &own.wire, own.advert_interval),
            );
        }
        if let Some((source, addresses)) = &self.foreign {
            tell(
                Mistake::ForeignVrid,
                format!(
                    "{source} uses VRID {} on {} for {}: give one of the two another `vrid` (its \
                 adverts are ignored here)",
                    own.vrid,
                    own.interface,
                    list(addresses)
                ),
            );
        }
        found
    }
}

/// Whether adverts from `source` count: where peers are configured, theirs alone do.
#[must_use]
pub fn is_admitted(own: &VirtualRouter, source: IpAddr) -> bool {
    own.peers.is_empty() || own.peers.contains(&source)
}

/// The time between adverts that `advert` tells.
#[must_use]
pub fn interval(advert: &Advert) -> Duration {
    Duration::from_millis(u64::from(advert.interval_cs) * 10)
}

fn own_addresses(own: &VirtualRouter) -> BTreeSet<IpAddr> {
    own.addresses.iter().map(|net| net.addr()).collect()
}

fn list<'a>(addresses: impl IntoIterator<Item = &'a IpAddr>) -> String {
    let all: Vec<String> = addresses.into_iter().map(ToString::to_string).collect();
    match all.as_slice() {
        [few @ .., _] if few.len() < 4 => all.join(", "),
        [first, .., last] => format!("{first} to {last} ({} addresses)", all.len()),
        _ => "nothing".to_owned(),
    }
}
