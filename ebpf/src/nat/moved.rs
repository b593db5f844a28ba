//! Sessions that are not in the sets that their flows pick: those from before addresses or ports were
//! changed. The daemon notes where they are while it makes the change; nothing else does.
//!
//! Two lines of eight words for each flow, by other bits of its hash. They are looked at only for
//! packets without a session where it would be by now, and only while there are any such sessions.

use super::{session, sets::Hash};
use crate::{
    abi::{MOVED_LINES, PoolWord, Session},
    flow::{Entry, Entry6, Key6},
    hash,
    shared::Shared,
    steer::Tables,
};

/// The session of the flow with this key, and its place.
#[inline(always)]
pub(super) fn find<T: Tables>(
    tables: &T,
    pool: PoolWord,
    key: Key6,
    hash: Hash,
) -> Option<(u32, &Entry6)> {
    if !pool.has_moved() {
        return None;
    }
    let spot = Spot::of(hash);
    let place = match spot.find_in(&tables.moved(spot.first)?.0) {
        None => spot.find_in(&tables.moved(spot.second)?.0)?,
        Some(place) => place,
    };
    let entry = session::entry(tables, place)?;
    // Another one's by now, if its flow is over.
    let is_its = entry.is(key) && Session::unpack(entry.value.load(), hash.tag()).is_some();
    is_its.then_some((place, entry))
}

/// Where a flow's word is.
struct Spot {
    first: u32,
    second: u32,
    /// In the upper half.
    tag: u64,
}

impl Spot {
    #[inline(always)]
    const fn of(hash: Hash) -> Self {
        let bits = hash::mix(hash.0);
        Self {
            first: bits as u32 % MOVED_LINES,
            second: (bits >> 16) as u32 % MOVED_LINES,
            tag: bits & TAG,
        }
    }

    #[inline(always)]
    fn find_in(&self, line: &[Shared; 8]) -> Option<u32> {
        let [a, b, c, d, e, f, g, h] = line;
        let is = |word: &Shared| {
            let word = word.load();
            (word & TAG == self.tag).then_some(word as u32)
        };
        let found = is(a).or_else(|| is(b)).or_else(|| is(c)).or_else(|| is(d));
        let found = found.or_else(|| is(e)).or_else(|| is(f)).or_else(|| is(g));
        found.or_else(|| is(h))?.checked_sub(1)
    }
}

const TAG: u64 = 0xffff_ffff << 32;

#[cfg(not(target_arch = "bpf"))]
pub use host::{is_home, lines, note};

/// What the daemon does.
#[cfg(not(target_arch = "bpf"))]
mod host {
    use super::{Hash, Key6, PoolWord, Shared, Spot, TAG};
    use crate::{
        abi::{NatPool, is_mapped},
        nat::sets::{FAR, NEAR, Sets},
        parse::Family,
    };

    /// Whether the program finds the session of the flow with this key at `place` without help, once
    /// `pool` is in use.
    #[must_use]
    pub fn is_home(pool: NatPool, seed: u64, key: Key6, place: u32) -> bool {
        let family = if is_mapped([key.0[0], key.0[1]]) {
            Family::V4
        } else {
            Family::V6
        };
        let pool = PoolWord(pool.pack());
        let hash = Hash::of(key, seed);
        [NEAR, FAR]
            .into_iter()
            .any(|which| Sets::of(pool, family, hash, which).is_some_and(|sets| sets.hold(place)))
    }

    /// The lines in one of which a flow's word is.
    #[must_use]
    pub fn lines(seed: u64, key: Key6) -> [u32; 2] {
        let spot = Spot::of(Hash::of(key, seed));
        [spot.first, spot.second]
    }

    /// Notes that the session of the flow with this key is at `place`. `line` are the words of the
    /// line with a number. `false`: there is no room.
    pub fn note<'l>(line: impl Fn(u32) -> &'l [Shared], seed: u64, key: Key6, place: u32) -> bool {
        let spot = Spot::of(Hash::of(key, seed));
        let (first, second) = (line(spot.first), line(spot.second));
        let used = |line: &[Shared]| line.iter().filter(|word| word.load() != 0).count();
        // Into the emptier one, so that both fill up.
        let line = if used(second) < used(first) {
            second
        } else {
            first
        };
        match line.iter().find(|word| word.load() == 0) {
            Some(word) => {
                word.store(spot.tag & TAG | u64::from(place + 1));
                true
            }
            None => false,
        }
    }
}
