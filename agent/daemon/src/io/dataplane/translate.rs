//! The addresses and ports of translated packets, and what becomes of translations when they change.
//!
//! A translation is a place in the table, and its flow finds it by a hash over the addresses and ports
//! that there are. Other ones lead elsewhere, so the daemon looks at each translation when they
//! change, and notes where those are that would not be found any more.

use steerd_core::config::Nat;
use steerd_ebpf::{
    abi::{Control, NAT_ADDRESSES, NAT_PORT_SETS, NatPool, Session},
    flow::{Key6, WAYS},
    nat::moved,
    shared::Shared,
};
use tracing::warn;

use super::{
    Dataplane,
    entries::Maps,
    words::{self, NatAddresses},
};

/// Words of an entry of the table: three of the key, then what is known.
const ENTRY: usize = 4;

impl Dataplane {
    /// Makes the addresses known, and the translations of these and others ready for the pool that is
    /// returned: it is the caller's to put it in use. Until then nothing is translated if anything
    /// changes.
    pub(super) fn prepare_translation(&self, nat: &Nat) -> (NatPool, NatAddresses) {
        let maps = &self.maps;
        let before = NatPool::unpack(maps.control_word(Control::NAT_POOL));
        let known = addresses(maps);
        let (pool, addresses) = words::nat_pool(nat, &known);
        let as_before = NatPool {
            has_moved: before.has_moved,
            ..pool
        };
        if as_before == before && addresses == known {
            return (before, known);
        }
        // Nothing begins meanwhile: packets are dropped, and sent again.
        let paused = NatPool { sets: 0, ..before };
        maps.set_control(Control::NAT_POOL, &[paused.pack()]);
        // First, as it takes longer than any packet that the program is at.
        for line in 0..maps.nat_moved.len() {
            clear(maps.nat_moved.element(line));
        }
        for number in 0..NAT_ADDRESSES {
            if known[number] != addresses[number] {
                forget(maps, number as u32, 0..NAT_PORT_SETS);
            }
        }
        let (has_moved, lost) = move_over(maps, pool);
        if lost != 0 {
            warn!("{lost} translated connections end: there is no room to note where so many are");
        }
        maps.set_control(Control::NAT_ADDRESSES, addresses.as_flattened());
        (NatPool { has_moved, ..pool }, addresses)
    }
}

/// The addresses that the program knows.
fn addresses(maps: &Maps) -> NatAddresses {
    std::array::from_fn(|number| {
        [0, 1].map(|word| maps.control_word(Control::NAT_ADDRESSES + 2 * number + word))
    })
}

/// Notes where the translations are that `pool` does not lead to, and ends those of ports that are
/// not in it. Returns whether there are any to note, and how many there was no room for.
fn move_over(maps: &Maps, pool: NatPool) -> (bool, usize) {
    let first = u32::from(pool.first_set);
    let end = first + u32::from(pool.sets);
    let seed = maps.control_word(Control::FLOW_SEED);
    let (mut has_moved, mut lost) = (false, 0);
    for number in pool.in_use().map(u32::from) {
        forget(maps, number, 0..first);
        forget(maps, number, end..NAT_PORT_SETS);
        for set in number * NAT_PORT_SETS + first..number * NAT_PORT_SETS + end {
            let (entries, _) = maps.nat.element(set).as_chunks::<ENTRY>();
            for ([first, second, third, value], way) in entries.iter().zip(0..) {
                let place = set * WAYS as u32 + way;
                let key = Key6([first.load(), second.load(), third.load()]);
                if !Session::is_known(value.load()) || moved::is_home(pool, seed, key, place) {
                    continue;
                }
                has_moved = true;
                let line = |line| maps.nat_moved.element(line);
                if !moved::note(line, seed, key, place) {
                    lost += 1;
                }
            }
        }
    }
    (has_moved, lost)
}

/// Ends the translations with these sets of ports from the address with this number.
fn forget(maps: &Maps, number: u32, sets: std::ops::Range<u32>) {
    for set in sets {
        clear(maps.nat.element(number * NAT_PORT_SETS + set));
    }
}

fn clear(words: &[Shared]) {
    for word in words {
        word.store(0);
    }
}
