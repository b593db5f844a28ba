//! Whom a virtual router heard, and what their adverts say about the set-up.
//!
//! Anyone on the segment can send adverts, so the book is bounded, and what a stranger says can be
//! told but not grow.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use crate::{api::human_duration, config::VirtualRouter, time::Instant, vrrp::wire::Advert};

/// The most peers that are remembered; beyond it the one silent for longest is forgotten.
pub const MAX_PEERS: usize = 16;

/// One who sends adverts for the same addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
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

/// What an advert means for the book.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Observed {
    /// From a virtual router that shares nothing with ours but the VRID.
    Foreign,
    /// From a peer that is heard for the first time, or again after a silence.
    Appeared,
    /// From a peer that is heard all the time.
    Known,
}

/// The peers of one virtual router.
#[derive(Debug, Clone, Default)]
pub struct Peers {
    heard: BTreeMap<IpAddr, Peer>,
    foreign: Option<(IpAddr, Vec<IpAddr>)>,
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
        let addresses: BTreeSet<IpAddr> = advert.addresses.iter().copied().collect();
        // Lists that overlap belong together, if only because one node has a newer configuration.
        if addresses.is_disjoint(&own_addresses(own)) {
            self.foreign = Some((source, advert.addresses.clone()));
            return Observed::Foreign;
        }
        let before = self.heard.remove(&source);
        let priority = match advert.priority {
            0 => before.as_ref().map_or(0, |peer| peer.priority),
            priority => priority,
        };
        if self.heard.len() >= MAX_PEERS {
            let stalest = self
                .heard
                .iter()
                .min_by_key(|(_, peer)| peer.heard)
                .map(|(at, _)| *at);
            stalest.and_then(|address| self.heard.remove(&address));
        }
        let interval = interval(advert);
        self.heard.insert(
            source,
            Peer {
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
    pub fn diagnoses(&self, own: &VirtualRouter) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let ours = own_addresses(own);
        for (address, peer) in self.iter() {
            if peer.priority == own.priority {
                found.insert(format!(
                    "{address} has our priority {} too, so the greater address wins: give each \
                     node its own `priority`",
                    own.priority
                ));
            }
            if peer.interval != own.advert_interval {
                found.insert(format!(
                    "{address} sends an advert every {}, this node every {}: make \
                     `advert_interval` the same on all nodes",
                    human_duration(peer.interval),
                    human_duration(own.advert_interval)
                ));
            }
            if peer.addresses != ours {
                found.insert(format!(
                    "{address} holds {}, this node {}: make `addresses` the same on all nodes",
                    list(&peer.addresses),
                    list(&ours)
                ));
            }
        }
        if let Some((source, addresses)) = &self.foreign {
            found.insert(format!(
                "{source} uses VRID {} on {} for {}: give one of the two another `vrid` (its \
                 adverts are ignored here)",
                own.vrid,
                own.interface,
                list(addresses)
            ));
        }
        found
    }
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
