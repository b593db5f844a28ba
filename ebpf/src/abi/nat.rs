//! Translated flows: the place of a flow's entry is its translation.
//!
//! [`super::maps::NAT`] has [`NAT_PORT_SETS`] sets of four entries for each of
//! [`super::NAT_ADDRESSES`] addresses, one entry for each port: that of the packets that a backend
//! sees. So an answer finds its flow by its destination alone, and a client's packet finds it in
//! one of the two sets that its hash picks.
//!
//! An entry's key is a [`crate::flow::Key6`], an IPv4 client's address mapped; its value word is a
//! [`Session`], which has the fields of a [`crate::flow::Value`] at the same places.

use crate::{
    flow::{State, Value},
    shared::Shared,
};

/// Sets of four ports of one address.
pub const NAT_PORT_SETS: u32 = 1 << 14;

/// Sets of all addresses.
pub const NAT_SETS: u32 = NAT_PORT_SETS * super::NAT_ADDRESSES as u32;

/// What an entry knows: a [`Value`], and in bits that this leaves free 32: it is UDP, 33: the
/// backend answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session {
    /// Backend, state and time last seen. New until both sides were heard: TCP's client again, after
    /// the backend answered, as anybody can send a SYN in another's name.
    pub value: Value,
    /// Whether it is UDP; else TCP.
    pub udp: bool,
    /// Whether the backend answered. UDP is established then. What is closing without ever having
    /// been established stays as if it had not.
    pub answered: bool,
}

impl Session {
    const UDP: u64 = 1 << 32;
    const ANSWERED: u64 = 1 << 33;
    const TAG: u64 = 0xfff << 20;
    /// The state of an entry that is being written: none.
    const CLAIMED: u64 = 0xf << 36;

    /// The word of an entry whose key has `tag`.
    #[must_use]
    #[inline(always)]
    pub const fn pack(self, tag: u64) -> u64 {
        let udp = if self.udp { Self::UDP } else { 0 };
        let answered = if self.answered { Self::ANSWERED } else { 0 };
        self.value.pack(tag) | udp | answered
    }

    /// From an entry's word; `None` if it is free, being written or not of this key's tag.
    #[must_use]
    #[inline(always)]
    pub const fn unpack(word: u64, tag: u64) -> Option<Self> {
        match Value::unpack(word, tag) {
            Some(value) => Some(Self {
                value,
                udp: Self::is_udp(word),
                answered: word & Self::ANSWERED != 0,
            }),
            None => None,
        }
    }

    /// The key's tag in an entry's word.
    #[must_use]
    #[inline(always)]
    pub const fn tag(word: u64) -> u64 {
        (word >> 20) & 0xfff
    }

    /// The word of an entry that is being written since `now`: for all others there is none.
    #[must_use]
    #[inline(always)]
    pub const fn claim(now: u32) -> u64 {
        Self::CLAIMED | now as u64
    }

    /// Whether the session in an entry's word is UDP.
    #[must_use]
    #[inline(always)]
    pub const fn is_udp(word: u64) -> bool {
        word & Self::UDP != 0
    }

    /// Whether an entry of this word has a session.
    #[must_use]
    #[inline(always)]
    pub const fn is_known(word: u64) -> bool {
        State::from_word(word).is_some()
    }

    /// Whether an entry of this word is being written.
    #[must_use]
    #[inline(always)]
    pub const fn is_claim(word: u64) -> bool {
        word & Self::CLAIMED == Self::CLAIMED
    }

    /// Whether nothing is known in an entry of this word.
    #[must_use]
    #[inline(always)]
    pub const fn is_free(word: u64) -> bool {
        word & Self::CLAIMED == 0
    }

    /// The word without what a packet of the flow changes: as long as it stays, so does the key.
    #[must_use]
    #[inline(always)]
    pub const fn identity(word: u64) -> u64 {
        const STATE: u64 = 0xf << 36;
        const SEEN: u64 = (1 << 20) - 1;
        word & !(STATE | SEEN | Self::ANSWERED)
    }

    /// Whether a packet that neither opens nor ends anything changes nothing in an entry's word:
    /// `self` is what would be known, were it the first one.
    #[must_use]
    #[inline(always)]
    pub const fn is_steady(self, word: u64) -> bool {
        const KEPT: u64 = Session::CLAIMED | Session::ANSWERED;
        const MOVING: u64 = (State::New as u64) << 36 | Session::ANSWERED;
        word & KEPT != MOVING && (word ^ self.pack(0)) & !(KEPT | Self::TAG) == 0
    }

    /// [`Session::is_steady`], and the entry has a session, whose key has this tag.
    #[must_use]
    #[inline(always)]
    pub const fn is_steady_as(self, tag: u64, word: u64) -> bool {
        Self::tag(word) == tag & 0xfff && Self::is_known(word) && self.is_steady(word)
    }

    /// Whether an answer that ends nothing changes nothing in an entry's word.
    #[must_use]
    #[inline(always)]
    pub const fn was_answered(word: u64, now: u32) -> bool {
        const SEEN: u64 = (1 << 20) - 1;
        word & (SEEN | Self::ANSWERED) == now as u64 | Self::ANSWERED
    }

    /// Whether it is, or was before it ended, established: it keeps its port until its time is over.
    #[must_use]
    #[inline(always)]
    pub const fn was_established(self) -> bool {
        match self.value.state {
            State::New => false,
            State::Established => true,
            State::Closing => self.answered,
        }
    }

    /// How far it is.
    #[must_use]
    #[inline(always)]
    pub const fn state(self) -> State {
        self.value.state
    }
}

/// The way back to the client of a translated flow: as its packets came.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Hop {
    /// Whose MAC its packets came from, low 48 bits.
    pub client: Shared,
    /// This host's MAC that they came to, low 48 bits.
    pub own: Shared,
    /// The interface they came through; 0: the entry is empty.
    pub ifindex: Shared,
    /// Their VLAN tags, as read: what stands between the MACs and the type of what they carry, so
    /// nothing, four bytes or eight.
    pub tags: Shared,
}

/// Lines of [`super::maps::NAT_MOVED`].
pub const MOVED_LINES: u32 = 1 << 16;

/// Where sessions are that are not in the sets that their flows pick: they are from before addresses
/// or ports were changed. A word is 32 bits of the hash of a session's key above its place in
/// [`super::maps::NAT`], plus one; 0: none.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct MovedLine(pub [Shared; 8]);

const _: () = {
    assert!(size_of::<Hop>() == 32);
    assert!(size_of::<MovedLine>() == 64);
};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn sessions_survive_packing(
            backend: u16, generation: u8, state in 0..3_usize, seen in 0_u32..1 << 20, tag in 0_u64..1 << 12,
            udp: bool, answered: bool,
        ) {
            let state = [State::Closing, State::New, State::Established][state];
            let value = Value { backend, generation, state, seen };
            let session = Session { value, udp, answered };
            let word = session.pack(tag);
            prop_assert_eq!(Session::unpack(word, tag), Some(session));
            prop_assert_eq!(Session::unpack(word, tag ^ 1), None);
            prop_assert_eq!(Session::tag(word), tag);
            prop_assert!(!Session::is_free(word));
            let moved = Session { value: Value { state: State::Closing, seen: 7, ..value }, answered: true, ..session };
            prop_assert_eq!(Session::identity(moved.pack(tag)), Session::identity(word));
            let other = Session { value: Value { generation: generation ^ 1, ..value }, ..session };
            prop_assert_ne!(Session::identity(other.pack(tag)), Session::identity(word));
        }
    }

    #[test]
    fn a_claimed_entry_is_neither_free_nor_known() {
        for now in [0, 1, (1 << 20) - 1] {
            let word = Session::claim(now);
            assert!(Session::is_claim(word) && !Session::is_free(word));
            assert_eq!(Session::unpack(word, Session::tag(word)), None);
        }
        assert!(Session::is_free(0) && !Session::is_claim(0));
    }
}
