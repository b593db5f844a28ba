//! Which numbers and which lines of the rings map are whose. Pure; the maps are next door, and
//! [`steerd_ebpf::place`] has the slots.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use steerd_core::time::Instant;
use steerd_ebpf::abi::RING_LINE;

/// Small numbers for keys; a freed one is used again as late as possible, because flows may still
/// name it.
#[derive(Debug)]
pub(super) struct Ids<K> {
    used: BTreeMap<K, u32>,
    free: VecDeque<u32>,
}

impl<K: Ord + Clone> Ids<K> {
    /// The numbers 1 to `limit` - 1, of which `used` are taken.
    pub(super) fn new(limit: u32, used: BTreeMap<K, u32>) -> Self {
        let mut taken = vec![false; limit as usize];
        for &id in used.values() {
            if let Some(taken) = taken.get_mut(id as usize) {
                *taken = true;
            }
        }
        let free = (1..limit).filter(|&id| !taken[id as usize]).collect();
        Self { used, free }
    }

    /// The number of `key`, a new one if it has none; `None` when all are taken.
    pub(super) fn get_or_take(&mut self, key: &K) -> Option<u32> {
        if let Some(&id) = self.used.get(key) {
            return Some(id);
        }
        let id = self.free.pop_front()?;
        self.used.insert(key.clone(), id);
        Some(id)
    }

    pub(super) fn get(&self, key: &K) -> Option<u32> {
        self.used.get(key).copied()
    }

    /// Takes back the numbers that are not `named`, and returns them.
    pub(super) fn sweep(&mut self, named: impl Fn(u32) -> bool) -> Vec<u32> {
        let gone: Vec<u32> = self
            .used
            .extract_if(.., |_, &mut id| !named(id))
            .map(|(_, id)| id)
            .collect();
        self.free.extend(&gone);
        gone
    }
}

/// A table's place in the rings map: its first line and its number of slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Region {
    pub(super) first: u32,
    pub(super) slots: u32,
}

impl Region {
    pub(super) fn lines(self) -> u32 {
        self.slots.div_ceil(RING_LINE)
    }
}

/// How long a ring that was replaced is left alone: a packet on its way may still read it.
const GRACE: Duration = Duration::from_secs(1);

/// Which lines of the rings map are whose.
#[derive(Debug)]
pub(super) struct Regions {
    /// First line to number of lines, neighbours merged.
    free: BTreeMap<u32, u32>,
    /// What was taken, by first line, and since when nothing names it any more.
    taken: BTreeMap<u32, (Region, Option<Instant>)>,
}

impl Regions {
    /// `lines` lines, of which `used` are taken.
    pub(super) fn new(lines: u32, used: impl IntoIterator<Item = Region>) -> Self {
        let used = used.into_iter().filter(|region| region.slots != 0);
        let taken: BTreeMap<u32, (Region, Option<Instant>)> =
            used.map(|region| (region.first, (region, None))).collect();
        let mut free = BTreeMap::new();
        let mut next = 0;
        for (region, _) in taken.values() {
            if region.first > next {
                free.insert(next, region.first - next);
            }
            next = next.max(region.first + region.lines());
        }
        if next < lines {
            free.insert(next, lines - next);
        }
        Self { free, taken }
    }

    /// Room for `slots` slots, one or more, first fit.
    pub(super) fn take(&mut self, slots: u32) -> Option<Region> {
        let wanted = Region { first: 0, slots }.lines();
        let (&first, &lines) = self.free.iter().find(|&(_, &lines)| lines >= wanted)?;
        self.free.remove(&first);
        if lines > wanted {
            self.free.insert(first + wanted, lines - wanted);
        }
        let region = Region { first, slots };
        self.taken.insert(first, (region, None));
        Some(region)
    }

    /// Frees what is not `named`, once no packet can be reading it. Returns whether something has
    /// still to wait for that.
    pub(super) fn sweep(&mut self, named: impl Fn(Region) -> bool, now: Instant) -> bool {
        let mut gone = Vec::new();
        let mut waiting = false;
        for (region, unnamed) in self.taken.values_mut() {
            if named(*region) {
                *unnamed = None;
            } else if now.since(*unnamed.get_or_insert(now)) >= GRACE {
                gone.push(*region);
            } else {
                waiting = true;
            }
        }
        for region in gone {
            self.taken.remove(&region.first);
            self.give(region);
        }
        waiting
    }

    fn give(&mut self, region: Region) {
        let (mut first, mut lines) = (region.first, region.lines());
        if let Some((&before, &size)) = self.free.range(..first).next_back()
            && before + size == first
        {
            self.free.remove(&before);
            first = before;
            lines += size;
        }
        if let Some(size) = self.free.remove(&(first + lines)) {
            lines += size;
        }
        self.free.insert(first, lines);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_reused_late() {
        let mut ids = Ids::new(5, BTreeMap::from([("a", 2)]));
        assert_eq!(ids.get_or_take(&"a"), Some(2));
        assert_eq!(ids.get_or_take(&"b"), Some(1));
        assert_eq!(ids.sweep(|id| id != 1), [1]);
        assert_eq!(ids.get_or_take(&"c"), Some(3));
        assert_eq!(ids.get_or_take(&"d"), Some(4));
        assert_eq!(ids.get_or_take(&"e"), Some(1), "the last of all");
        assert_eq!(ids.get_or_take(&"f"), None);
    }

    #[test]
    fn regions_wait_before_they_are_used_again() {
        let at = |ms| Instant::from_origin(Duration::from_millis(ms));
        let kept = Region {
            first: 1,
            slots: 40,
        };
        let mut regions = Regions::new(4, [kept, Region::default()]);
        let first = regions.take(32).expect("a line before");
        assert_eq!(first.first, 0);
        let last = regions.take(5).expect("a line behind");
        assert_eq!(last.first, 3);
        assert!(regions.take(1).is_none());
        assert!(!regions.sweep(|_| true, at(0)));
        assert!(regions.sweep(|region| region == last, at(10)));
        assert!(regions.take(1).is_none(), "a packet may still read it");
        assert!(regions.sweep(|region| region == last, at(1009)));
        assert!(!regions.sweep(|region| region == last, at(1010)));
        assert_eq!(
            regions.take(96),
            Some(Region {
                first: 0,
                slots: 96
            }),
            "merged"
        );
    }

    #[test]
    fn what_is_named_again_stays() {
        let at = |ms| Instant::from_origin(Duration::from_millis(ms));
        let mut regions = Regions::new(4, []);
        let region = regions.take(64).expect("room");
        assert!(regions.sweep(|_| false, at(0)));
        assert!(!regions.sweep(|named| named == region, at(900)));
        assert!(regions.sweep(|_| false, at(1500)), "from now on");
        assert!(!regions.sweep(|_| false, at(2500)));
        assert_eq!(
            regions.take(128).map(|region| region.first),
            Some(0),
            "all is free"
        );
    }
}
