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
//! Eviction goes by how much an entry would be missed: one that is silent for longer than
//! [`Idle`] says goes first, then what is closing, then first packets, then UDP and TCP that has not
//! lasted yet. TCP that has lasted is *confirmed* and never goes before its time, so no flood pushes
//! out connections. Where packets come from cannot be proved, as their answers do not pass here; but
//! who makes flows up has to come back for each of them. If nothing may go, the newcomer is not
//! recorded and follows the ring.

use crate::{
    parse::{Signal, protocol},
    shared::Shared,
};

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
/// in 20-31, time last seen in 0-19. Bits 34 and 35 are for [`first`] and [`follow`].
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

/// A flow of UDP, in an entry's word.
const DATAGRAMS: u64 = 1 << 34;
/// A TCP connection that has lasted.
const CONFIRMED: u64 = 1 << 35;
const STATE: u64 = 0xf << 36;

const fn state_word(state: State) -> u64 {
    (state as u64) << 36
}

/// The word of an entry whose flow begins with a packet of this protocol.
#[must_use]
#[inline(always)]
pub const fn first(value: Value, tag: u64, protocol: u8) -> u64 {
    value.pack(tag)
        | if protocol == protocol::UDP {
            DATAGRAMS
        } else {
            0
        }
}

/// An entry's word after one more packet of its flow, at `now`.
///
/// TCP is confirmed by a packet that comes `confirm` or more after the second one; until then the
/// time of that one stays, and nothing is written.
#[must_use]
#[inline(always)]
pub const fn follow(word: u64, signal: Signal, now: u32, confirm: u32) -> u64 {
    const CLOSING: u64 = state_word(State::Closing);
    const NEW: u64 = state_word(State::New);
    const ESTABLISHED: u64 = state_word(State::Established);
    let seen = word & !SEEN_MASK | now as u64;
    if signal.closes() {
        return seen & !STATE | CLOSING;
    }
    if word & (STATE | DATAGRAMS | CONFIRMED) == ESTABLISHED {
        if signal.opens() || age(now, word as u32) < confirm {
            word
        } else {
            seen | CONFIRMED
        }
    } else if word & STATE == NEW && !signal.opens() {
        seen & !STATE | ESTABLISHED
    } else {
        seen
    }
}

/// Whether the flow of an entry's word is a connection that has lasted: see [`follow`].
#[must_use]
#[inline(always)]
pub const fn is_confirmed(word: u64) -> bool {
    word & CONFIRMED != 0
}

/// Whether the flow of an entry's word is UDP.
#[must_use]
#[inline(always)]
pub const fn is_udp(word: u64) -> bool {
    word & DATAGRAMS != 0
}

/// How long a flow may be silent, in units of [`SEEN_SHIFT`]: then its place is as good as free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Idle {
    /// TCP, before it is confirmed.
    pub tcp_new: u32,
    /// TCP, then.
    pub tcp_established: u32,
    /// TCP, after a FIN or RST of the client.
    pub tcp_closing: u32,
    /// UDP, before the second packet.
    pub udp_new: u32,
    /// UDP, then.
    pub udp_established: u32,
}

impl Idle {
    /// How many words it has.
    pub const WORDS: usize = 16;

    /// From the words, by their number.
    #[must_use]
    pub fn from_words(word: impl Fn(usize) -> u64) -> Self {
        let of =
            |state, bits: u64| word(((state_word(state) | bits) >> CLASS_SHIFT) as usize) as u32;
        Self {
            tcp_new: of(State::New, 0),
            tcp_established: of(State::Established, CONFIRMED),
            tcp_closing: of(State::Closing, 0),
            udp_new: of(State::New, DATAGRAMS),
            udp_established: of(State::Established, DATAGRAMS),
        }
    }

    /// By the bits of an entry's word that hold state and protocol.
    #[must_use]
    pub fn words(self) -> [u64; Self::WORDS] {
        core::array::from_fn(|class| {
            let word = (class as u64) << CLASS_SHIFT;
            let span = match State::from_word(word) {
                None => SEEN_MASK as u32,
                Some(State::Closing) => self.tcp_closing,
                Some(State::New) if is_udp(word) => self.udp_new,
                Some(State::New) => self.tcp_new,
                Some(State::Established) if is_confirmed(word) => self.tcp_established,
                Some(State::Established) if is_udp(word) => self.udp_established,
                Some(State::Established) => self.tcp_new,
            };
            u64::from(span).min(SEEN_MASK)
        })
    }
}

/// Where in an entry's word lies what tells how long it may be silent, and how much it would be
/// missed: state, confirmed, UDP.
const CLASS_SHIFT: u32 = 34;

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

/// The entry that a new flow may have: the one that is missed least, if it may go. `idle` is
/// [`Idle::words`].
#[inline(always)]
pub fn victim<'s, K: Key>(
    set: &'s [K::Entry; WAYS],
    now: u32,
    idle: &[Shared; Idle::WORDS],
) -> Option<&'s K::Entry> {
    let [a, b, c, d] = set;
    let (ab, ab_cost) = cheaper((a, cost(a, now, idle)), (b, cost(b, now, idle)));
    let (cd, cd_cost) = cheaper((c, cost(c, now, idle)), (d, cost(d, now, idle)));
    let (entry, cost) = cheaper((ab, ab_cost), (cd, cd_cost));
    (cost < KEPT << 20).then_some(entry)
}

/// Records a flow, of this word.
#[inline(always)]
pub fn record<E: Entry<K>, K>(entry: &E, key: K, word: u64) {
    entry.claim(key);
    entry.value().store(word);
}

/// How much flows of each class would be missed, four bits each: a free entry not at all; then, in
/// this order, one that was silent for too long, one that is closing, a first packet, more of them.
const RANKS: u64 = {
    let mut ranks = 0;
    let mut class = 0;
    while class < Idle::WORDS {
        let word = (class as u64) << CLASS_SHIFT;
        let rank = match State::from_word(word) {
            None => 0,
            Some(_) if is_confirmed(word) => KEPT,
            Some(State::Closing) => 2,
            Some(State::New) => 3,
            Some(State::Established) => 4,
        };
        ranks |= (rank as u64) << (4 * class);
        class += 1;
    }
    ranks
};
const SILENT: u32 = 1;
/// Too much to go.
const KEPT: u32 = 5;

#[inline(always)]
fn cheaper<T>(one: (T, u32), other: (T, u32)) -> (T, u32) {
    if other.1 < one.1 { other } else { one }
}

/// How much an entry would be missed: by its rank, and within a rank the more the more recently
/// it was seen. Without branches: each would double the verifier's work.
#[inline(always)]
fn cost<E: Entry<K>, K>(entry: &E, now: u32, idle: &[Shared; Idle::WORDS]) -> u32 {
    let word = entry.value().load();
    let class = (word >> CLASS_SHIFT) as usize % Idle::WORDS;
    let age = age(now, word as u32);
    let rank = (RANKS >> (4 * class)) as u32 & 0xf;
    // All ones if it was silent for too long.
    let silent = ((idle[class].load() as i64 - age as i64) >> 63) as u32;
    let rank = rank & !silent | SILENT & silent;
    (rank << 20) + (SEEN_MASK as u32 - age)
}

#[cfg(test)]
mod tests;
