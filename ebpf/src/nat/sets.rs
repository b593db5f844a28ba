//! In which sets of the table a flow's session can be.
//!
//! A flow's hash picks two sets of four entries, and two more. A new session is made in the first two
//! as long as they have room: so nearly all sessions are found there, and yet three quarters of the
//! ports are in use before the first flow finds none (measured with 4096; with two sets only, 57 to
//! 63 %).

use crate::{
    abi::{NAT_PORT_SETS, NAT_SETS, PoolWord, Session},
    flow::{self, Entry, Entry6, Key6, WAYS},
    hash,
    parse::Family,
    steer::Tables,
};

/// Which two of a flow's four sets.
pub(super) type Which = bool;
pub(super) const NEAR: Which = false;
pub(super) const FAR: Which = true;

/// Two sets in which a flow's session can be.
pub(super) struct Sets {
    pub(super) first: u32,
    pub(super) second: u32,
    tag: u64,
}

impl Sets {
    /// `None`: there is no translation in this family.
    #[inline(always)]
    pub(super) fn of(pool: PoolWord, family: Family, hash: Hash, which: Which) -> Option<Self> {
        let (skip, count) = match family {
            Family::V4 => (0, pool.ipv4()),
            Family::V6 => (pool.ipv4(), pool.ipv6()),
        };
        if count == 0 || pool.sets() == 0 {
            return None;
        }
        let Hash(hash) = hash;
        // Fewer rounds for the set that most are found in than for the others.
        let (first, second) = if which == NEAR {
            (hash, hash::mix(hash))
        } else {
            (hash::mix(hash) << 32, hash::mix(!hash))
        };
        Some(Self {
            first: spread(pool, skip, count, first >> 32),
            second: spread(pool, skip, count, second >> 32),
            tag: Hash(hash).tag(),
        })
    }

    /// The entry of the flow with this key, and its place.
    #[inline(always)]
    pub(super) fn find<'t, T: Tables>(
        &self,
        tables: &'t T,
        key: Key6,
    ) -> Option<(u32, &'t Entry6)> {
        let known = |entry: &Entry6| {
            entry.is(key) && Session::unpack(entry.value.load(), self.tag).is_some()
        };
        match find_in(tables, self.first, known) {
            None => find_in(tables, self.second, known),
            found => found,
        }
    }

    /// As [`Sets::find`], but the entry may be torn.
    #[inline(always)]
    pub(super) fn keyed<'t, T: Tables>(
        &self,
        tables: &'t T,
        key: Key6,
    ) -> Option<(u32, &'t Entry6)> {
        match find_in(tables, self.first, |entry| entry.is(key)) {
            None => find_in(tables, self.second, |entry| entry.is(key)),
            found => found,
        }
    }

    /// Whether a place is in one of them.
    #[cfg(not(target_arch = "bpf"))]
    pub(super) fn hold(&self, place: u32) -> bool {
        [self.first, self.second].contains(&(place / WAYS as u32))
    }
}

#[inline(always)]
fn find_in<T: Tables>(
    tables: &T,
    set: u32,
    is: impl Fn(&Entry6) -> bool,
) -> Option<(u32, &Entry6)> {
    let [a, b, c, d] = &tables.nat(set)?.0;
    let place = set * WAYS as u32;
    if is(a) {
        Some((place, a))
    } else if is(b) {
        Some((place + 1, b))
    } else if is(c) {
        Some((place + 2, c))
    } else if is(d) {
        Some((place + 3, d))
    } else {
        None
    }
}

/// The hash of a key, whose upper half is what counts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hash(pub(super) u64);

impl Hash {
    /// The words' factors are secret, so that nobody outside can make keys meet, whatever the seed is.
    #[inline(always)]
    pub(super) const fn of(key: Key6, seed: u64) -> Self {
        let Key6([first, second, third]) = key;
        let sum = first.wrapping_mul(seed | 1);
        let sum = sum.wrapping_add(second.wrapping_mul(seed.rotate_left(21) ^ SPREAD | 1));
        let sum = sum.wrapping_add(third.wrapping_mul(seed.rotate_left(42) ^ SPREAD | 1));
        Self((sum ^ sum >> 32).wrapping_mul(SPREAD))
    }

    /// The tag of an entry: from the bits that say least about the first set.
    #[inline(always)]
    pub(super) const fn tag(self) -> u64 {
        flow::tag(self.0 << 8)
    }
}

/// Bits for a seed that has few.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// Spreads 32 bits of a hash over the sets of some of the pool's addresses: the upper half of a
/// product says which address, the rest of it, spread as evenly, which set.
#[inline(always)]
const fn spread(pool: PoolWord, skip: u64, addresses: u64, hash: u64) -> u32 {
    let address = hash * addresses;
    let number = pool.number(skip + (address >> 32)) as u32;
    let set = (address & 0xffff_ffff) * pool.sets();
    number * NAT_PORT_SETS + pool.first_set() as u32 + (set >> 32) as u32
}

const _: () = assert!(NAT_SETS.is_power_of_two());
