//! The flow table: sets of four entries, found by a seeded hash, one cache line (IPv4) or two
//! (IPv6) each. A flow stays with its backend as long as its entry lives.
//!
//! An entry is a key and a [`Value`] word. The IPv4 key is exact in one word: client address,
//! client port and service id. The IPv6 key takes three words.
//!
//! Several CPUs may write one set at once, without locks: two flows can claim the same victim, and
//! a hit can write back what an insertion has just replaced. So the value carries a tag of its
//! key: an entry whose key and tag disagree is torn and counts as free. The tag leaves one torn
//! entry in 4096 unseen, of a race that needs two packets of one set within nanoseconds.
//!
//! Eviction: a handshake not yet completed goes before an established flow, so a SYN flood cannot
//! push out connections; an established one goes only when it has been idle for
//! [`crate::abi::Control::established_idle`]. If nothing may go, the newcomer is not recorded and follows the ring.

use crate::shared::Shared;

use crate::parse::Signal;

/// Entries in a set.
pub const WAYS: usize = 4;

/// One in [`Value::seen`] is 2^8 jiffies: about a second at 250 Hz.
pub const SEEN_SHIFT: u32 = 8;

pub(crate) const SEEN_MASK: u64 = (1 << 20) - 1;
const TAG_MASK: u64 = (1 << 12) - 1;

/// How far a connection is. The numbers rise with how much an entry would be missed, so that
/// eviction is arithmetic; 0 is a free entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// The client sent FIN or RST.
    Closing = 1,
    /// The first packet was seen.
    New = 2,
    /// More followed.
    Established = 3,
}

impl State {
    /// The state in a [`Value`]'s word; `None`: the entry is free.
    #[must_use]
    #[inline(always)]
    pub const fn from_word(word: u64) -> Option<Self> {
        match (word >> 36) & 0xf {
            1 => Some(Self::Closing),
            2 => Some(Self::New),
            3 => Some(Self::Established),
            _ => None,
        }
    }

    /// The state after a packet.
    #[must_use]
    #[inline(always)]
    pub const fn after(self, signal: Signal) -> Self {
        if signal.closes() || self.is_closing() {
            Self::Closing
        } else if signal.opens() {
            self
        } else {
            Self::Established
        }
    }

    /// The state of a flow whose first packet this is. One packet establishes nothing: a flood of
    /// them must stay evictable.
    #[must_use]
    #[inline(always)]
    pub const fn first(signal: Signal) -> Self {
        if signal.closes() {
            Self::Closing
        } else {
            Self::New
        }
    }

    /// Whether the client is done.
    #[must_use]
    #[inline(always)]
    pub const fn is_closing(self) -> bool {
        self as u8 == Self::Closing as u8
    }
}

/// What an entry knows: backend id in bits 48-63, its generation in 40-47, state in 36-39, key tag
/// in 20-31, time last seen in 0-19.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Value {
    /// The backend's id.
    pub backend: u16,
    /// The backend's generation.
    pub generation: u8,
    /// How far the connection is.
    pub state: State,
    /// When its last packet passed, modulo 2^20 units of 2^[`SEEN_SHIFT`] jiffies.
    pub seen: u32,
}

impl Value {
    /// The word of an entry whose key has `tag`.
    #[must_use]
    #[inline(always)]
    pub const fn pack(self, tag: u64) -> u64 {
        (self.backend as u64) << 48
            | (self.generation as u64) << 40
            | (self.state as u64) << 36
            | (tag & TAG_MASK) << 20
            | self.seen as u64 & SEEN_MASK
    }

    /// What it is after a packet.
    #[must_use]
    #[inline(always)]
    pub const fn after(self, signal: Signal, seen: u32) -> Self {
        Self {
            state: self.state.after(signal),
            seen,
            ..self
        }
    }

    /// From an entry's word; `None` if it is free or not of this key's tag.
    #[must_use]
    #[inline(always)]
    pub const fn unpack(word: u64, tag: u64) -> Option<Self> {
        if (word >> 20) & TAG_MASK != tag & TAG_MASK {
            return None;
        }
        let Some(state) = State::from_word(word) else {
            return None;
        };
        Some(Self {
            backend: (word >> 48) as u16,
            generation: (word >> 40) as u8,
            state,
            seen: (word & SEEN_MASK) as u32,
        })
    }
}

/// The clock of the table: jiffies to the unit of [`Value::seen`].
#[must_use]
#[inline(always)]
pub const fn seen(jiffies: u64) -> u32 {
    ((jiffies >> SEEN_SHIFT) & SEEN_MASK) as u32
}

/// The time between two values of the clock.
#[must_use]
#[inline(always)]
pub const fn age(now: u32, seen: u32) -> u32 {
    now.wrapping_sub(seen) & SEEN_MASK as u32
}

/// An entry's tag, from the bits of its key's hash that pick neither its set nor its ring slot.
#[must_use]
#[inline(always)]
pub const fn tag(hash: u64) -> u64 {
    (hash >> 40) & TAG_MASK
}

/// A key of the flow table.
pub trait Key: Copy {
    /// Where it is kept.
    type Entry: Entry<Self>;
}

/// An entry of the flow table.
pub trait Entry<K> {
    /// Whether it is this key's.
    fn is(&self, key: K) -> bool;
    /// Makes it this key's.
    fn claim(&self, key: K);
    /// What it knows.
    fn value(&self) -> &Shared;
}

/// An IPv4 flow: client address in the upper half, then client port and service id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key4(pub u64);

impl Key4 {
    /// The key of a client (network byte order, as read) and a service id.
    #[must_use]
    #[inline(always)]
    pub const fn new(client: u32, port: u16, service: u32) -> Self {
        Self((client as u64) << 32 | (port as u64) << 16 | service as u64 & 0xffff)
    }
}

/// An IPv6 flow: the client's address, then client port and service id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key6(pub [u64; 3]);

impl Key6 {
    /// The key of a client (network byte order, as read) and a service id.
    #[must_use]
    #[inline(always)]
    pub const fn new(client: [u64; 2], port: u16, service: u32) -> Self {
        Self([
            client[0],
            client[1],
            (port as u64) << 16 | service as u64 & 0xffff,
        ])
    }
}

/// An IPv4 entry.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Entry4 {
    /// [`Key4`].
    pub key: Shared,
    /// [`Value`]; 0: free.
    pub value: Shared,
}

/// An IPv6 entry.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Entry6 {
    /// [`Key6`].
    pub key: [Shared; 3],
    /// [`Value`]; 0: free.
    pub value: Shared,
}

/// A set of IPv4 flows: one cache line.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct Set4(pub [Entry4; WAYS]);

/// A set of IPv6 flows: two cache lines.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct Set6(pub [Entry6; WAYS]);

const _: () = {
    assert!(size_of::<Set4>() == 64);
    assert!(size_of::<Set6>() == 128);
};

impl Key for Key4 {
    type Entry = Entry4;
}

impl Key for Key6 {
    type Entry = Entry6;
}

impl Entry<Key4> for Entry4 {
    #[inline(always)]
    fn is(&self, key: Key4) -> bool {
        self.key.load() == key.0
    }

    #[inline(always)]
    fn claim(&self, key: Key4) {
        self.key.store(key.0);
    }

    #[inline(always)]
    fn value(&self) -> &Shared {
        &self.value
    }
}

impl Entry<Key6> for Entry6 {
    #[inline(always)]
    fn is(&self, key: Key6) -> bool {
        self.key[2].load() == key.0[2]
            && self.key[1].load() == key.0[1]
            && self.key[0].load() == key.0[0]
    }

    #[inline(always)]
    fn claim(&self, key: Key6) {
        self.key[0].store(key.0[0]);
        self.key[1].store(key.0[1]);
        self.key[2].store(key.0[2]);
    }

    #[inline(always)]
    fn value(&self) -> &Shared {
        &self.value
    }
}

/// The entry of `key`, if the set has it. What it knows may be torn: see [`Value::unpack`].
#[inline(always)]
pub fn find<K: Key>(set: &[K::Entry; WAYS], key: K) -> Option<&K::Entry> {
    let [a, b, c, d] = set;
    if a.is(key) {
        Some(a)
    } else if b.is(key) {
        Some(b)
    } else if c.is(key) {
        Some(c)
    } else if d.is(key) {
        Some(d)
    } else {
        None
    }
}

/// The entry that a new flow may have: the one that is missed least, if it may go. An established
/// flow may when it has been idle for `idle`, in units of [`SEEN_SHIFT`].
#[inline(always)]
pub fn victim<K: Key>(set: &[K::Entry; WAYS], now: u32, idle: u32) -> Option<&K::Entry> {
    let [a, b, c, d] = set;
    let (ab, ab_cost) = cheaper((a, cost(a, now)), (b, cost(b, now)));
    let (cd, cd_cost) = cheaper((c, cost(c, now)), (d, cost(d, now)));
    let (entry, cost) = cheaper((ab, ab_cost), (cd, cd_cost));
    (cost <= established_cost(idle)).then_some(entry)
}

/// Records a flow.
#[inline(always)]
pub fn record<E: Entry<K>, K>(entry: &E, key: K, tag: u64, value: Value) {
    entry.claim(key);
    entry.value().store(value.pack(tag));
}

/// The cost of an established flow that has been idle for exactly so long.
#[inline(always)]
const fn established_cost(idle: u32) -> u32 {
    ((State::Established as u32) << 20) + SEEN_MASK as u32 - (idle & SEEN_MASK as u32)
}

#[inline(always)]
fn cheaper<T>(one: (T, u32), other: (T, u32)) -> (T, u32) {
    if other.1 < one.1 { other } else { one }
}

/// How much an entry would be missed: by its state, and within a state the more the more recently
/// it was seen. Without branches: each would double the verifier's work.
#[inline(always)]
fn cost<E: Entry<K>, K>(entry: &E, now: u32) -> u32 {
    let word = entry.value().load();
    let state = (word >> 36) as u32 & 0xf;
    (state << 20) + (SEEN_MASK as u32 - age(now, word as u32))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: u32 = 100_000;
    const IDLE: u32 = 3516;

    fn insert<K: Key>(set: &[K::Entry; WAYS], key: K, tag: u64, value: Value) -> bool {
        match find(set, key).or_else(|| victim::<K>(set, value.seen, IDLE)) {
            Some(entry) => {
                record(entry, key, tag, value);
                true
            }
            None => false,
        }
    }

    fn known<K: Key>(set: &[K::Entry; WAYS], key: K, tag: u64) -> Option<Value> {
        Value::unpack(find(set, key)?.value().load(), tag)
    }

    fn value(backend: u16, state: State, seen: u32) -> Value {
        Value {
            backend,
            generation: 1,
            state,
            seen,
        }
    }

    fn key(n: u32) -> Key4 {
        Key4::new(n, 1000, 1)
    }

    #[test]
    fn a_recorded_flow_is_found() {
        let set = Set4::default();
        assert!(find(&set.0, key(1)).is_none());
        assert!(insert(&set.0, key(1), 7, value(3, State::New, NOW)));
        let entry = find(&set.0, key(1)).expect("recorded");
        let found = known(&set.0, key(1), 7).expect("whole");
        assert_eq!(found, value(3, State::New, NOW));
        let newer = Value {
            state: State::Established,
            ..found
        };
        entry.value().store(newer.pack(7));
        assert_eq!(known(&set.0, key(1), 7), Some(newer));
        assert!(find(&set.0, key(2)).is_none());
    }

    #[test]
    fn a_torn_entry_counts_as_free() {
        let set = Set4::default();
        insert(&set.0, key(1), 7, value(3, State::Established, NOW));
        set.0[0].key.store(key(2).0);
        assert!(
            known(&set.0, key(2), 8).is_none(),
            "the tag is another key's"
        );
    }

    #[test]
    fn a_syn_flood_evicts_no_established_flow() {
        let set = Set4::default();
        for n in 0..3 {
            insert(&set.0, key(n), 0, value(1, State::Established, NOW - 500));
        }
        for n in 100..10_100 {
            assert!(insert(
                &set.0,
                key(n),
                0,
                value(2, State::New, NOW + n / 50)
            ));
        }
        for n in 0..3 {
            assert!(find(&set.0, key(n)).is_some());
        }
        insert(&set.0, key(3), 0, value(1, State::Established, NOW));
        assert!(
            !insert(&set.0, key(4), 0, value(2, State::New, NOW)),
            "nothing may go"
        );
        let later = NOW - 500 + IDLE;
        assert!(
            insert(&set.0, key(4), 0, value(2, State::New, later)),
            "idle for an hour"
        );
    }

    #[test]
    fn closing_goes_before_new_and_old_before_young() {
        let set = Set4::default();
        insert(&set.0, key(1), 0, value(1, State::New, NOW - 100));
        insert(&set.0, key(2), 0, value(1, State::Closing, NOW));
        insert(&set.0, key(3), 0, value(1, State::New, NOW - 200));
        insert(&set.0, key(4), 0, value(1, State::Established, NOW - 300));
        insert(&set.0, key(5), 0, value(1, State::New, NOW));
        assert!(find(&set.0, key(2)).is_none(), "closing first");
        insert(&set.0, key(6), 0, value(1, State::New, NOW));
        assert!(find(&set.0, key(3)).is_none(), "then the older handshake");
        assert!(find(&set.0, key(1)).is_some());
    }

    #[test]
    fn time_wraps() {
        let set = Set4::default();
        let end = SEEN_MASK as u32;
        for n in 0..4 {
            insert(&set.0, key(n), 0, value(1, State::Established, end - n));
        }
        assert_eq!(age(2, end), 3);
        assert!(
            !insert(&set.0, key(9), 0, value(1, State::New, 2)),
            "all are young"
        );
    }

    proptest! {
        #[test]
        fn values_survive_packing(backend: u16, generation: u8, state in 1_u8..4, seen in 0_u32..1 << 20, tag in 0_u64..1 << 12) {
            let state = [State::Closing, State::New, State::Established][usize::from(state) - 1];
            let value = Value { backend, generation, state, seen };
            prop_assert_eq!(Value::unpack(value.pack(tag), tag), Some(value));
            prop_assert_eq!(Value::unpack(value.pack(tag), tag ^ 1), None);
        }

        /// A set behaves as a small map: what was recorded last is found with its value.
        #[test]
        fn the_last_record_is_found(keys in prop::collection::vec(0_u64..12, 1..64)) {
            let set = Set6::default();
            for (n, &k) in keys.iter().enumerate() {
                let key = Key6([k, !k, 9]);
                let value = value(n as u16, State::New, NOW + n as u32);
                prop_assert!(insert(&set.0, key, k, value));
                let same = set.0.iter().filter(|entry| entry.is(key)).count();
                prop_assert!(same >= 1);
                prop_assert_eq!(known(&set.0, key, k).map(|found| found.seen), Some(value.seen));
            }
        }
    }
}
