//! Passes over a flow table in memory: how many connections each backend has, and which flows have
//! to go. For user space, which sees the tables that the program works on.
//!
//! A pass takes no lock and stops nothing: what changes meanwhile is counted as it was or as it is.

use std::{vec, vec::Vec};

use crate::{
    abi::{MAX_BACKENDS, MAX_SERVICES, mapped},
    flow::{self, Entry4, Entry6, State},
    shared::Shared,
};

/// A kind of entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entries {
    /// [`Entry4`]
    V4,
    /// [`Entry6`]
    V6,
}

impl Entries {
    const fn words(self) -> usize {
        match self {
            Self::V4 => size_of::<Entry4>() / 8,
            Self::V6 => size_of::<Entry6>() / 8,
        }
    }
}

/// How long after its last packet a flow still counts, in units of [`flow::SEEN_SHIFT`] jiffies: of
/// a client that vanished nothing is heard, and UDP has no last packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ages {
    /// Before the second packet.
    pub new: u32,
    /// After it.
    pub established: u32,
    /// After FIN or RST.
    pub closing: u32,
}

/// Connections of a backend.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Connections {
    /// Of which one packet was seen.
    pub new: u32,
    /// Of which more were.
    pub established: u32,
    /// Whose client sent FIN or RST.
    pub closing: u32,
}

/// What was counted so far, and by what rules. Made for one look at the tables.
#[derive(Debug)]
pub struct Count {
    now: u32,
    /// By backend id: the generation that counts.
    generations: Vec<Option<u8>>,
    /// By service id and state.
    ages: Vec<[u32; 4]>,
    /// By backend id and state; state 0 is what does not count.
    counted: Vec<[u32; 4]>,
}

/// The program may have seen a packet since `now` was read.
const AHEAD: u32 = 16;

const SEEN_MASK: u32 = (1 << 20) - 1;

impl Count {
    /// At a time of the table's clock, see [`flow::seen`]. Only flows of backends and services that
    /// are told count.
    #[must_use]
    pub fn new(now: u32) -> Self {
        Self {
            now: now.wrapping_add(AHEAD),
            generations: vec![None; MAX_BACKENDS as usize],
            ages: vec![[0; 4]; MAX_SERVICES as usize],
            counted: vec![[0; 4]; MAX_BACKENDS as usize],
        }
    }

    /// Flows of this generation of a backend count: not those of who had its id before.
    pub fn backend(&mut self, id: u32, generation: u8) {
        if let Some(counts) = self.generations.get_mut(id as usize) {
            *counts = Some(generation);
        }
    }

    /// Flows of this service count for so long.
    pub fn service(&mut self, id: u32, ages: Ages) {
        let age = |age: u32| age.saturating_add(AHEAD).min(SEEN_MASK);
        if let Some(counts) = self.ages.get_mut(id as usize) {
            counts[State::Closing as usize] = age(ages.closing);
            counts[State::New as usize] = age(ages.new);
            counts[State::Established as usize] = age(ages.established);
        }
    }

    /// Counts the flows of a table. Returns how many entries are not free, whether they count or
    /// not.
    pub fn table(&mut self, table: &[Shared], entries: Entries) -> u64 {
        match entries {
            Entries::V4 => self.pass::<{ Entries::V4.words() }>(table),
            Entries::V6 => self.pass::<{ Entries::V6.words() }>(table),
        }
    }

    /// Without branches that depend on an entry: a table is a random mix of all kinds, and a wrong
    /// guess costs more than the rest.
    fn pass<const WORDS: usize>(&mut self, table: &[Shared]) -> u64 {
        let (entries, _) = table.as_chunks::<WORDS>();
        let mut used = 0;
        for entry in entries {
            let (key, value) = (entry[WORDS - 2].load(), entry[WORDS - 1].load());
            let state = (value >> 36) as usize & 3;
            used += u64::from(state != 0);
            let id = (value >> 48) as usize & (MAX_BACKENDS as usize - 1);
            let service = key as usize & (MAX_SERVICES as usize - 1);
            let age = self.now.wrapping_sub(value as u32) & SEEN_MASK;
            let counts = (self.generations[id] == Some((value >> 40) as u8))
                & (age <= self.ages[service][state]);
            self.counted[id][state * usize::from(counts)] += 1;
        }
        used
    }

    /// What was counted for a backend.
    #[must_use]
    pub fn of(&self, id: u32) -> Connections {
        let counted = self.counted.get(id as usize).copied().unwrap_or_default();
        Connections {
            new: counted[State::New as usize],
            established: counted[State::Established as usize],
            closing: counted[State::Closing as usize],
        }
    }
}

/// Removes the flows that `goes`, by service id and client, says so of. Returns how many.
///
/// A packet that passes at this moment may put its flow back: look again until there is none.
pub fn remove(
    table: &[Shared],
    entries: Entries,
    mut goes: impl FnMut(u32, [u64; 2]) -> bool,
) -> u64 {
    let mut removed = 0;
    for entry in table.chunks_exact(entries.words()) {
        let (client, key, value) = match entry {
            [key, value] => (mapped((key.load() >> 32) as u32), key, value),
            [first, second, key, value] => ([first.load(), second.load()], key, value),
            _ => continue,
        };
        let word = value.load();
        if State::from_word(word).is_some()
            && goes(key.load() as u32 & 0xffff, client)
            && value.compare_exchange(word, 0) == word
        {
            removed += 1;
        }
    }
    removed
}

/// A time span in units of the table's clock, not above what the clock can tell apart.
#[must_use]
pub fn age(span: core::time::Duration, unit: core::time::Duration) -> u32 {
    let units = span.as_nanos().div_ceil(unit.as_nanos().max(1));
    u32::try_from(units).unwrap_or(u32::MAX).min(SEEN_MASK / 2)
}

const _: () = assert!(flow::seen(u64::MAX) == SEEN_MASK);

#[cfg(test)]
mod tests {
    use core::time::Duration;
    use std::time::Instant;

    use super::*;
    use crate::{
        abi::{FLOW4_SETS, FLOW6_SETS},
        flow::{Key4, Key6, Value, WAYS},
        hash::mix,
    };

    const NOW: u32 = 5;
    const AGES: Ages = Ages {
        new: 60,
        established: 7000,
        closing: 30,
    };

    fn value(backend: u16, generation: u8, state: State, idle: u32) -> Value {
        Value {
            backend,
            generation,
            state,
            seen: NOW.wrapping_sub(idle) & SEEN_MASK,
        }
    }

    /// Entries one behind the other, as in the map.
    fn table4(flows: &[(u32, Value)]) -> Vec<Shared> {
        let entry = |(client, (service, value)): (u32, &(u32, Value))| {
            let key = Key4::new(client.to_be(), 7, *service).0;
            [Shared::new(key), Shared::new(value.pack(9))]
        };
        (1..).zip(flows).flat_map(entry).collect()
    }

    fn count() -> Count {
        let mut count = Count::new(NOW);
        count.service(1, AGES);
        count.service(
            2,
            Ages {
                established: 100,
                ..AGES
            },
        );
        count.backend(7, 3);
        count.backend(8, 0);
        count
    }

    #[test]
    fn flows_are_counted_by_state() {
        use State::{Closing, Established, New};
        let table = table4(&[
            (1, value(7, 3, New, 0)),
            (1, value(7, 3, Established, 0)),
            (1, value(7, 3, Established, 6999)),
            (1, value(7, 3, Closing, 30)),
            (1, value(8, 0, Established, 0)),
        ]);
        let mut count = count();
        assert_eq!(count.table(&table, Entries::V4), 5);
        let expected = Connections {
            new: 1,
            established: 2,
            closing: 1,
        };
        assert_eq!(count.of(7), expected);
        assert_eq!(count.of(8).established, 1);
        assert_eq!(count.of(9), Connections::default());
        // IPv6 adds to it.
        let six: Vec<Shared> = [1, 2, 1, value(7, 3, New, 0).pack(0)]
            .map(Shared::new)
            .into();
        assert_eq!(count.table(&six, Entries::V6), 1);
        assert_eq!(count.of(7).new, 2);
    }

    #[test]
    fn what_is_of_before_or_long_idle_is_used_but_does_not_count() {
        use State::{Closing, Established, New};
        let table = table4(&[
            (1, value(7, 2, Established, 0)), // an earlier backend of that id
            (1, value(9, 0, Established, 0)), // none
            (3, value(7, 3, Established, 0)), // a service that is no more
            (1, value(7, 3, New, 61 + AHEAD)),
            (1, value(7, 3, Closing, 31 + AHEAD)),
            (2, value(7, 3, Established, 101 + AHEAD)),
            (1, value(7, 3, Established, 7001 + AHEAD)),
        ]);
        let mut count = count();
        assert_eq!(count.table(&table, Entries::V4), 7);
        assert_eq!(count.of(7), Connections::default());
        let empty: Vec<Shared> = (0..8).map(|_| Shared::new(0)).collect();
        assert_eq!(count.table(&empty, Entries::V4), 0);
        // A packet that passed after the clock was read.
        let ahead = table4(&[(1, value(7, 3, New, 0_u32.wrapping_sub(2)))]);
        count.table(&ahead, Entries::V4);
        assert_eq!(count.of(7).new, 1);
    }

    #[test]
    fn flows_are_removed_by_service_and_client() {
        let table = table4(&[
            (1, value(7, 3, State::New, 0)),
            (2, value(7, 3, State::New, 0)),
            (1, value(7, 3, State::Established, 0)),
        ]);
        let second = mapped(2_u32.to_be());
        let removed = remove(&table, Entries::V4, |service, client| {
            service == 2 && client == second
        });
        assert_eq!(removed, 1);
        let left: Vec<bool> = table.chunks(2).map(|entry| entry[1].load() != 0).collect();
        assert_eq!(left, [true, false, true]);
        let key = Key6::new([5, 6], 7, 9).0;
        let six: Vec<Shared> = [key[0], key[1], key[2], value(7, 3, State::New, 0).pack(0)]
            .map(Shared::new)
            .into();
        assert_eq!(
            remove(&six, Entries::V6, |service, client| (service, client)
                == (9, [5, 6])),
            1
        );
        assert_eq!(remove(&six, Entries::V6, |_, _| true), 0);
    }

    #[test]
    fn spans_stay_within_the_clock() {
        let unit = Duration::from_millis(1024);
        assert_eq!(age(Duration::from_secs(60), unit), 59);
        assert_eq!(age(Duration::ZERO, unit), 0);
        assert_eq!(age(Duration::MAX, unit), SEEN_MASK / 2);
    }

    /// By hand, for the figure: `cargo test -p steerd-ebpf --release a_million -- --ignored --nocapture`.
    #[test]
    #[ignore = "a measurement"]
    fn a_million_flows_in_twenty_milliseconds() {
        // As full as it gets without evictions: a million flows at random places, of both families.
        let flow = |n: u64| {
            let backend = (mix(n) % 1000) as u16;
            let state = match mix(n + 7) % 10 {
                0 => State::New,
                1 => State::Closing,
                _ => State::Established,
            };
            value(backend, 1, state, (mix(n + 9) % 50) as u32).pack(0)
        };
        let four: Vec<Shared> = (0..2 * WAYS as u64 * u64::from(FLOW4_SETS))
            .map(|_| Shared::new(0))
            .collect();
        let six: Vec<Shared> = (0..4 * WAYS as u64 * u64::from(FLOW6_SETS))
            .map(|_| Shared::new(0))
            .collect();
        let mut flows = 0_u64;
        for n in 0_u64.. {
            let at = (mix(n) >> 20) as usize % (four.len() / 2);
            if four[2 * at + 1].load() == 0 {
                four[2 * at].store((n << 16) | (n % 50 + 1));
                four[2 * at + 1].store(flow(n));
                flows += 1;
            }
            if flows == 900_000 {
                break;
            }
        }
        for n in 0..100_000_u64 {
            let at = n as usize * 10;
            six[4 * at + 2].store(n % 50 + 1);
            six[4 * at + 3].store(flow(n));
        }
        let mut took = Vec::new();
        for _ in 0..21 {
            let start = Instant::now();
            let mut count = Count::new(NOW);
            (1..51).for_each(|id| count.service(id, AGES));
            (0..1000).for_each(|id| count.backend(id, 1));
            let used = count.table(&four, Entries::V4) + count.table(&six, Entries::V6);
            took.push(start.elapsed());
            assert_eq!(used, 1_000_000);
            let counted: u32 = (0..1000)
                .map(|id| {
                    let Connections {
                        new,
                        established,
                        closing,
                    } = count.of(id);
                    new + established + closing
                })
                .sum();
            assert!(counted > 900_000, "{counted}");
        }
        took.sort();
        std::println!("1,000,000 flows: median {:?}, min {:?}", took[10], took[0]);
        assert!(took[10] < Duration::from_millis(20));
    }
}
