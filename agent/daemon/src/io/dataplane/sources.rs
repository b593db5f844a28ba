//! Which clients a service takes, in the trie that the program asks about new flows.
//!
//! A service's rules change in place, one system call a rule. Each client's answer changes once, from
//! that of the old rules to that of the new ones: long prefixes are put before short ones, and what
//! goes is taken away only then, short prefixes before long ones. So no client meets a general rule
//! before, or after, the exception from it.

use std::{collections::BTreeMap, net::IpAddr};

use aya::{
    Ebpf,
    maps::{LpmTrie, MapData, MapError, lpm_trie::Key},
};
use ipnet::IpNet;
use steerd_core::action::Sources;
use steerd_ebpf::abi::{MAX_SOURCES, SourceRule, maps};

use super::{entries::missing, error::DataplaneError, words};

/// A key of the trie: service id and address.
type Data = [u8; 20];

/// Clients that have so many leading bits of their address (IPv4 mapped) in common. The order is by
/// the length of the prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Network {
    bits: u32,
    address: u128,
}

impl Network {
    /// Everybody. Shorter than any network of the configuration, as those are of one family.
    const ALL: Self = Self {
        bits: 0,
        address: 0,
    };

    fn of(net: &IpNet) -> Self {
        let mapped = if net.addr().is_ipv4() { 96 } else { 0 };
        Self::within(
            mapped + u32::from(net.prefix_len()),
            u128::from_be_bytes(words::octets(net.network())),
        )
    }

    /// The network of this length that has `address`.
    fn within(bits: u32, address: u128) -> Self {
        let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
        Self {
            bits,
            address: address & mask,
        }
    }

    fn key(self, service: u32) -> Key<Data> {
        let mut data = [0; 20];
        let (id, address) = data.split_at_mut(4);
        id.copy_from_slice(&service.to_ne_bytes());
        address.copy_from_slice(&self.address.to_be_bytes());
        Key::new(32 + self.bits, data)
    }

    fn from_key(key: &Key<Data>) -> Option<(u32, Self)> {
        let (prefix, data) = (key.prefix_len(), key.data());
        let (id, address) = data.split_first_chunk()?;
        let network = Self {
            bits: prefix.checked_sub(32)?,
            address: u128::from_be_bytes(address.try_into().ok()?),
        };
        Some((u32::from_ne_bytes(*id), network))
    }
}

/// What is done with new flows of one service, by network: the longest counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Rules(BTreeMap<Network, u32>);

impl Rules {
    /// The rules that say the same.
    pub(super) fn of(sources: &Sources) -> Self {
        let rules = |nets: &[IpNet], rule: SourceRule| -> Vec<(Network, u32)> {
            nets.iter()
                .map(|net| (Network::of(net), rule as u32))
                .collect()
        };
        let mut all: BTreeMap<Network, u32> =
            rules(&sources.deny, SourceRule::Deny).into_iter().collect();
        if !sources.allow.is_empty() {
            all.insert(Network::ALL, SourceRule::Deny as u32);
        }
        all.extend(rules(&sources.allow, SourceRule::Allow));
        Self(all)
    }

    /// Whether new flows of this client are refused, as the program would say.
    pub(super) fn deny(&self, client: IpAddr) -> bool {
        let client = u128::from_be_bytes(words::octets(client));
        let mut longest = self.0.last_key_value();
        while let Some((network, _)) = longest {
            let asked = Network::within(network.bits, client);
            if let Some(&rule) = self.0.get(&asked) {
                return rule == SourceRule::Deny as u32;
            }
            let shorter = Network {
                bits: network.bits,
                address: 0,
            };
            longest = self.0.range(..shorter).next_back();
        }
        false
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The way from these rules to `after`.
    fn steps(&self, after: &Self) -> Vec<Step> {
        let put = after.0.iter().rev();
        let put = put.filter(|&(network, rule)| self.0.get(network) != Some(rule));
        let take = self
            .0
            .keys()
            .filter(|network| !after.0.contains_key(network));
        put.map(|(&network, &rule)| Step::Put(network, rule))
            .chain(take.map(|&network| Step::Take(network)))
            .collect()
    }
}

/// One change of the trie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Put(Network, u32),
    Take(Network),
}

/// The trie, and what is in it.
pub(super) struct SourceMap {
    trie: LpmTrie<MapData, Data, u32>,
    known: BTreeMap<u32, Rules>,
}

impl SourceMap {
    /// The object's, with what an earlier daemon left there.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, DataplaneError> {
        let map = ebpf
            .take_map(maps::SOURCES)
            .ok_or_else(|| missing(maps::SOURCES))?;
        let trie: LpmTrie<MapData, Data, u32> = map.try_into().map_err(failed)?;
        let mut known: BTreeMap<u32, Rules> = BTreeMap::new();
        for entry in trie.iter() {
            let (key, rule) = entry.map_err(failed)?;
            if let Some((service, network)) = Network::from_key(&key) {
                known.entry(service).or_default().0.insert(network, rule);
            }
        }
        Ok(Self { trie, known })
    }

    /// Makes these the rules of a service. Returns whether they are other ones than before.
    ///
    /// # Errors
    ///
    /// The trie is full, or the kernel refuses: some of the rules are in it.
    pub(super) fn set(&mut self, service: u32, rules: &Rules) -> Result<bool, DataplaneError> {
        let known = self.known.entry(service).or_default();
        let steps = known.steps(rules);
        for &step in &steps {
            match step {
                Step::Put(network, rule) => {
                    self.trie
                        .insert(&network.key(service), rule, 0)
                        .map_err(failed)?;
                    known.0.insert(network, rule);
                }
                Step::Take(network) => {
                    match self.trie.remove(&network.key(service)) {
                        // What is not there need not go.
                        Ok(()) | Err(MapError::KeyNotFound) => {}
                        Err(error) => return Err(failed(error)),
                    }
                    known.0.remove(&network);
                }
            }
        }
        if rules.is_empty() {
            self.known.remove(&service);
        }
        Ok(!steps.is_empty())
    }

    /// What the kernel finds for a client of a service.
    #[cfg(test)]
    pub(super) fn look_up(&self, service: u32, client: IpAddr) -> Option<u32> {
        let client = u128::from_be_bytes(words::octets(client));
        let key = Network::within(128, client).key(service);
        self.trie.get(&key, 0).ok()
    }

    /// The services that have rules.
    pub(super) fn services(&self) -> Vec<u32> {
        self.known.keys().copied().collect()
    }
}

/// Of a trie the kernel says ENOSPC where it is full.
fn failed(error: MapError) -> DataplaneError {
    if let MapError::SyscallError(error) = &error
        && error.io_error.raw_os_error() == Some(libc::ENOSPC)
    {
        return DataplaneError::Full {
            what: "another network in `allow` or `deny`",
            limit: MAX_SOURCES,
        };
    }
    DataplaneError::Map {
        map: maps::SOURCES,
        source: std::io::Error::other(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(allow: &[&str], deny: &[&str]) -> Rules {
        let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        Rules::of(&Sources {
            allow: nets(allow),
            deny: nets(deny),
        })
    }

    fn denied(rules: &Rules, client: &str) -> bool {
        rules.deny(client.parse().unwrap())
    }

    #[test]
    fn the_longest_prefix_decides() {
        let rules = sources(&["10.1.2.0/24"], &["10.1.0.0/16"]);
        assert!(!denied(&rules, "10.1.2.3"));
        assert!(denied(&rules, "10.1.3.3"));
        assert!(
            denied(&rules, "192.0.2.1"),
            "in no network, and some are allowed"
        );
        let rules = sources(&[], &["10.1.0.0/16", "10.1.2.3/32"]);
        assert!(denied(&rules, "10.1.2.3") && denied(&rules, "10.1.9.9"));
        assert!(!denied(&rules, "192.0.2.1"));
        let all = sources(&["0.0.0.0/0"], &["10.0.0.0/8"]);
        assert!(denied(&all, "10.0.0.1") && !denied(&all, "192.0.2.1"));
        let six = sources(&["fd00::/8"], &["fd00:1::/32"]);
        assert!(
            !denied(&six, "fd00::1") && denied(&six, "fd00:1::1") && denied(&six, "2001:db8::1")
        );
        assert!(!denied(&Rules::default(), "10.0.0.1"));
    }

    #[test]
    fn keys_are_what_the_program_asks_with() {
        let Network { bits, .. } = Network::of(&"10.1.0.0/16".parse().unwrap());
        assert_eq!(bits, 112);
        let key = Network::of(&"10.1.0.0/16".parse().unwrap()).key(7);
        assert_eq!(key.prefix_len(), 32 + 96 + 16);
        let data = key.data();
        assert_eq!(data[..4], 7_u32.to_ne_bytes());
        assert_eq!(
            data[4..],
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 1, 0, 0]
        );
        assert_eq!(
            Network::from_key(&key),
            Some((7, Network::of(&"10.1.0.0/16".parse().unwrap())))
        );
        assert_eq!(Network::ALL.key(7).prefix_len(), 32, "the service alone");
        assert_eq!(size_of::<Key<Data>>(), 24);
    }

    /// The promise of the module: after each step each client's answer is the old or the new one,
    /// and once new it stays so.
    #[test]
    fn each_answer_changes_at_most_once() {
        let sets = [
            sources(&[], &[]),
            sources(&["10.0.0.0/8"], &["10.1.0.0/16"]),
            sources(&["10.1.2.0/24"], &["10.1.0.0/16"]),
            sources(&["10.1.0.0/16"], &["10.0.0.0/8", "10.1.2.3/32"]),
            sources(&[], &["10.1.2.0/24", "192.0.2.0/24"]),
            sources(&["0.0.0.0/0"], &["10.1.0.0/16"]),
            sources(&["192.0.2.1/32"], &[]),
        ];
        let clients = [
            "10.1.2.3",
            "10.1.2.4",
            "10.1.9.9",
            "10.9.9.9",
            "192.0.2.1",
            "192.0.2.2",
            "203.0.113.1",
        ];
        for before in &sets {
            for after in &sets {
                let mut now = before.clone();
                let mut changed = [false; 7];
                for step in before.steps(after) {
                    match step {
                        Step::Put(network, rule) => drop(now.0.insert(network, rule)),
                        Step::Take(network) => drop(now.0.remove(&network)),
                    }
                    for (client, changed) in clients.iter().zip(&mut changed) {
                        let (old, new) = (denied(before, client), denied(after, client));
                        let is = denied(&now, client);
                        *changed |= is == new && old != new;
                        assert_eq!(
                            is,
                            if *changed { new } else { old },
                            "{client}: {before:?} {after:?}"
                        );
                    }
                }
                assert_eq!(now, *after);
            }
        }
    }
}
