//! In which slots entries go, so that the program finds each with one look or two. Pure: whoever
//! fills the maps, the daemon, the tests or the benchmark, places with this.

use std::{vec, vec::Vec};

use crate::{
    abi::{FILTER_WORDS, MAC_SLOTS, MacOwner, SERVICE_SLOTS},
    hash,
};

/// How many seeds are tried before a placement is given up. At a quarter's load cuckoo placement
/// fails about once in a thousand, so this is never reached within the limits of the ABI.
const SEEDS: u32 = 10_000;

/// A service's key in the program's table: address words, port and protocol; or an address's, with
/// [`crate::abi::Service::ADDRESS`].
pub type ServiceKey = ([u64; 2], u32);

/// A placement of all services: a seed, and a slot for each of `keys`, in their order.
///
/// Cuckoo hashing with two choices (Pagh and Rodler, 2004): the program reads two slots, however
/// many services there are.
#[must_use]
pub fn services(keys: &[ServiceKey]) -> Option<(u32, Vec<u32>)> {
    (1..SEEDS).find_map(|seed| place_with(keys, seed).map(|slots| (seed, slots)))
}

fn place_with(keys: &[ServiceKey], seed: u32) -> Option<Vec<u32>> {
    let mut owner: Vec<Option<usize>> = vec![None; SERVICE_SLOTS as usize];
    let mut slots = vec![0; keys.len()];
    for first in 0..keys.len() {
        let mut key = first;
        let mut avoid = None;
        let mut moves = 0;
        loop {
            let (addr, port_proto) = keys[key];
            let (one, other) =
                hash::service_slots(hash::service(hash::address(addr, seed), port_proto));
            let slot = if avoid == Some(one) { other } else { one };
            let free = if owner[slot as usize].is_some() && owner[other as usize].is_none() {
                other
            } else {
                slot
            };
            slots[key] = free;
            match owner[free as usize].replace(key) {
                None => break,
                Some(evicted) => {
                    key = evicted;
                    avoid = Some(free);
                }
            }
            moves += 1;
            if moves > 64 {
                return None;
            }
        }
    }
    Some(slots)
}

/// The filter's words for these services: the bit of each one's address is set.
#[must_use]
pub fn filter(keys: &[ServiceKey], seed: u32) -> [u64; FILTER_WORDS] {
    let mut filter = [0; FILTER_WORDS];
    for &(addr, _) in keys {
        let (word, bit) = hash::address_filter(hash::address(addr, seed));
        filter[word] |= bit;
    }
    filter
}

/// A MAC table without collisions: a seed and the table's entries. `None` if there are too many
/// MACs for that.
#[must_use]
pub fn macs(macs: &[(u64, MacOwner)]) -> Option<(u32, Vec<u64>)> {
    (1..SEEDS).find_map(|seed| {
        let mut table = vec![0; MAC_SLOTS as usize];
        for &(mac, owner) in macs {
            let slot = hash::mac_slot(mac, seed) as usize;
            let entry = owner.entry(mac);
            if table[slot] != 0 && table[slot] != entry {
                return None;
            }
            table[slot] = entry;
        }
        Some((seed, table))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::{MAX_SERVICES, Service, addr_words, mac_word};

    #[test]
    fn as_many_services_as_the_abi_allows_find_a_place() {
        let keys: Vec<ServiceKey> = (0..MAX_SERVICES - 1)
            .map(|n| {
                let [.., b, c] = n.to_be_bytes();
                let addr = std::net::Ipv4Addr::new(10, 0, b, c)
                    .to_ipv6_mapped()
                    .octets();
                (addr_words(addr), Service::key(443_u16.to_be(), 6))
            })
            .collect();
        let (seed, slots) = services(&keys).expect("placed");
        let mut seen = std::collections::BTreeSet::new();
        for (&(addr, port_proto), &slot) in keys.iter().zip(&slots) {
            let (one, other) =
                hash::service_slots(hash::service(hash::address(addr, seed), port_proto));
            assert!(slot == one || slot == other, "where the program looks");
            assert!(seen.insert(slot), "one service a slot");
        }
    }

    #[test]
    fn two_hundred_macs_find_a_place() {
        let macs: Vec<(u64, MacOwner)> = (0..200_u8)
            .map(|n| {
                let owner = if n < 8 {
                    MacOwner::Own
                } else {
                    MacOwner::Forwarder
                };
                (mac_word([2, 0, 0, 0, 1, n]), owner)
            })
            .collect();
        let (seed, table) = self::macs(&macs).expect("placed");
        for (mac, owner) in macs {
            assert_eq!(table[hash::mac_slot(mac, seed) as usize], owner.entry(mac));
        }
    }
}
