//! What the program needs to fence this host off when its daemon is dead ([`steerd_ebpf::fence`]):
//! the virtual routers, whether this host has their addresses, and what says who else has.
//!
//! The program fences, the daemon ends it: when this host has no address of the virtual router any
//! more, or is about to claim them by right ([`Dataplane::lift`]); and, lest it be for ever, some
//! advert intervals after the daemon is back. By then the election has decided.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use steerd_core::{
    config::{Name, VirtualRouter},
    time::Instant,
    vrrp::wire::{GROUP_V4, GROUP_V6},
};
use steerd_ebpf::abi::{Claim, Fence, MAX_ROUTERS, Rival, Watch, mac_bytes};

use super::{Dataplane, entries::Maps, error::DataplaneError, placement::Ids, words};

/// A virtual router, and where its adverts come to.
#[derive(Debug, Clone)]
pub(crate) struct Watched<'c> {
    pub(crate) router: &'c VirtualRouter,
    /// The number of its interface; 0: there is none.
    pub(crate) ifindex: u32,
    /// The address that adverts are sent from, and that those of unicast peers come to.
    pub(crate) source: Option<IpAddr>,
}

/// That another host has taken over while this one's daemon was dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fenced {
    pub(crate) since: Instant,
    /// That host's.
    pub(crate) mac: [u8; 6],
    /// By what the program knew.
    pub(crate) claim: Claim,
}

/// What tells a virtual router from others: interface, VRID, and whether it is an IPv6 one.
type Key = (u32, u8, bool);

impl Watched<'_> {
    fn key(&self) -> Key {
        (self.ifindex, self.router.vrid, self.router.is_ipv6())
    }
}

/// The virtual routers that the program knows.
#[derive(Debug)]
pub(super) struct Fences {
    numbers: Ids<Key>,
    routers: BTreeMap<Name, Known>,
    /// Those whose addresses this host has.
    held: BTreeSet<Name>,
    /// The virtual router's number by address.
    pub(super) addresses: BTreeMap<[u64; 2], u32>,
    /// Where adverts, announcements and questions come to, beside those.
    pub(super) listens: BTreeSet<[u64; 2]>,
}

#[derive(Debug)]
struct Known {
    number: u32,
    advert_interval: Duration,
    /// Since when it is known that the program has fenced it.
    fenced: Option<Instant>,
}

impl Fences {
    /// With the numbers that the maps have.
    pub(super) fn read_back(maps: &Maps) -> Self {
        let known = entries(maps).map(|(number, watch)| (key(watch), number));
        Self {
            numbers: Ids::new(MAX_ROUTERS, known.collect()),
            routers: BTreeMap::new(),
            held: BTreeSet::new(),
            addresses: BTreeMap::new(),
            listens: BTreeSet::new(),
        }
    }
}

impl Dataplane {
    /// Takes the virtual routers. At the start after [`configure`](Self::configure).
    pub(crate) fn watch(&mut self, watched: &[Watched<'_>]) -> Result<(), DataplaneError> {
        let mut routers = BTreeMap::new();
        for one in watched {
            let full = DataplaneError::Full {
                what: "another virtual router",
                limit: MAX_ROUTERS - 1,
            };
            let number = self.fences.numbers.get_or_take(&one.key()).ok_or(full)?;
            let name = &one.router.name;
            let before = self.fences.routers.get(name);
            // What an earlier daemon has said of it, if this one has not said anything.
            let said = Watch::unpack(self.fence_word(number, Fence::WATCH));
            if before.is_none() && said.is_some_and(|watch| watch.held) {
                self.fences.held.insert(name.clone());
            }
            let known = Known {
                number,
                advert_interval: one.router.advert_interval,
                fenced: before.and_then(|known| known.fenced),
            };
            routers.insert(name.clone(), known);
            self.write_watch(number, one);
        }
        self.fences.held.retain(|name| routers.contains_key(name));
        self.fences.routers = routers;
        let (addresses, listens) = (addresses(watched, &self.fences), listens(watched));
        if addresses != self.fences.addresses || listens != self.fences.listens {
            self.fences.addresses = addresses;
            self.fences.listens = listens;
            self.place_services()?;
        }
        let named: BTreeSet<u32> = self.fences.routers.values().map(|one| one.number).collect();
        for number in self.fences.numbers.sweep(|number| named.contains(&number)) {
            for word in self.maps.fences.element(number) {
                word.store(0);
            }
        }
        Ok(())
    }

    fn write_watch(&self, number: u32, watched: &Watched<'_>) {
        let router = watched.router;
        let patience = u64::try_from(router.fence_after.as_nanos()).unwrap_or(u64::MAX);
        let min_ttl = match router.peers.is_empty() {
            true => 255,
            false => router.wire.min_ttl,
        };
        let watch = Watch {
            vrid: router.vrid,
            held: self.fences.held.contains(&router.name),
            ipv6: router.is_ipv6(),
            min_ttl,
            ifindex: watched.ifindex,
        };
        self.set_fence_word(number, Fence::PATIENCE, patience);
        self.set_fence_word(number, Fence::WATCH, watch.pack());
    }

    /// Tells the program whether this host has the addresses of a virtual router: before they come,
    /// after they went. Who has them changes by right, so that a fence ends.
    pub(crate) fn hold(&mut self, router: &Name, held: bool) {
        let Some(known) = self.fences.routers.get(router) else {
            return;
        };
        match held {
            true => self.fences.held.insert(router.clone()),
            false => self.fences.held.remove(router),
        };
        let word = self.fence_word(known.number, Fence::WATCH);
        if let Some(watch) = Watch::unpack(word) {
            self.set_fence_word(known.number, Fence::WATCH, Watch { held, ..watch }.pack());
        }
        self.lift(router);
    }

    /// Ends the fence of a virtual router, if there is one.
    pub(crate) fn lift(&mut self, router: &Name) {
        if let Some(known) = self.fences.routers.get_mut(router) {
            known.fenced = None;
            let number = known.number;
            self.set_fence_word(number, Fence::SINCE, 0);
        }
    }

    /// Whether the program fenced a virtual router while there was no daemon. To be asked before
    /// [`watch`](Self::watch) too.
    pub(crate) fn was_fenced(&self, watched: &Watched<'_>) -> bool {
        let mut entries = entries(&self.maps).filter(|(_, watch)| key(*watch) == watched.key());
        entries.any(|(number, _)| self.fence_word(number, Fence::SINCE) != 0)
    }

    /// The virtual routers that the program has fenced.
    pub(crate) fn fenced(&self) -> impl Iterator<Item = (&Name, Fenced)> {
        self.fences.routers.iter().filter_map(|(name, known)| {
            let since = self.fence_word(known.number, Fence::SINCE);
            let rival = Rival::unpack(self.fence_word(known.number, Fence::RIVAL))?;
            let fenced = Fenced {
                since: Instant::from_origin(Duration::from_nanos(since)),
                mac: mac_bytes(rival.mac),
                claim: rival.claim,
            };
            (since != 0).then_some((name, fenced))
        })
    }

    /// Those that are known now and were not before. Ends fences that nothing else has ended for
    /// some advert intervals.
    pub(crate) fn newly_fenced(&mut self, now: Instant) -> Vec<(Name, Fenced)> {
        /// A node that starts where it hears no master takes over after two and the skew, so after
        /// so many each has its role.
        const INTERVALS: u32 = 4;
        let fenced: Vec<(Name, Fenced)> = self
            .fenced()
            .map(|(name, fenced)| (name.clone(), fenced))
            .collect();
        let mut new = Vec::new();
        for (name, fenced) in fenced {
            let Some(known) = self.fences.routers.get_mut(&name) else {
                continue;
            };
            match known.fenced {
                None => {
                    known.fenced = Some(now);
                    new.push((name, fenced));
                }
                Some(first) if now.since(first) >= INTERVALS * known.advert_interval => {
                    self.lift(&name);
                }
                Some(_) => {}
            }
        }
        new
    }

    fn fence_word(&self, number: u32, word: usize) -> u64 {
        let element = self.maps.fences.element(number);
        element.get(word).map_or(0, |word| word.load())
    }

    fn set_fence_word(&self, number: u32, word: usize, value: u64) {
        if let Some(word) = self.maps.fences.element(number).get(word) {
            word.store(value);
        }
    }
}

fn entries(maps: &Maps) -> impl Iterator<Item = (u32, Watch)> {
    (1..MAX_ROUTERS).filter_map(|number| {
        let word = maps.fences.element(number).get(Fence::WATCH)?.load();
        Some((number, Watch::unpack(word)?))
    })
}

fn key(watch: Watch) -> Key {
    (watch.ifindex, watch.vrid, watch.ipv6)
}

/// The virtual router's number by address. A link-local address may belong to several, each on an
/// interface of its own: the program cannot tell them apart, and lets it be.
fn addresses(watched: &[Watched<'_>], fences: &Fences) -> BTreeMap<[u64; 2], u32> {
    let mut numbers: BTreeMap<[u64; 2], BTreeSet<u32>> = BTreeMap::new();
    for one in watched {
        if let Some(known) = fences.routers.get(&one.router.name) {
            for net in &one.router.addresses {
                let address = words::address(net.addr());
                numbers.entry(address).or_default().insert(known.number);
            }
        }
    }
    let only = |numbers: BTreeSet<u32>| (numbers.len() == 1).then(|| numbers.first().copied())?;
    numbers
        .into_iter()
        .filter_map(|(address, numbers)| Some((address, only(numbers)?)))
        .collect()
}

/// Where adverts come to, and over IPv6 announcements and questions.
fn listens(watched: &[Watched<'_>]) -> BTreeSet<[u64; 2]> {
    /// All nodes of the link (RFC 4291 section 2.7.1), to which announcements go.
    const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let mut listens = BTreeSet::new();
    for one in watched {
        let (router, ipv6) = (one.router, one.router.is_ipv6());
        let to = match (router.peers.is_empty(), ipv6) {
            (true, true) => Some(IpAddr::from(GROUP_V6)),
            (true, false) => Some(IpAddr::from(GROUP_V4)),
            (false, _) => one.source,
        };
        listens.extend(to.map(words::address));
        if ipv6 {
            listens.insert(words::address(ALL_NODES.into()));
        }
        let addresses = router.addresses.iter().map(|net| net.addr());
        listens.extend(addresses.filter_map(solicited).map(words::address));
    }
    listens
}

/// The group that questions for an IPv6 address go to (RFC 4291 section 2.7.1).
fn solicited(address: IpAddr) -> Option<IpAddr> {
    let IpAddr::V6(address) = address else {
        return None;
    };
    let [.., high, low] = address.segments();
    Some(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | high & 0xff, low).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_for_an_address_go_to_its_group() {
        let group = |text: &str| solicited(text.parse().unwrap()).map(|ip| ip.to_string());
        let expected = Some("ff02::1:ff12:3425".to_owned());
        assert_eq!(group("fd00:1::ab12:3425"), expected);
        assert_eq!(group("192.168.1.25"), None);
    }
}
