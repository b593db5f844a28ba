//! Backends: where their packets go and how.

use super::MAC_MASK;
use crate::shared::Shared;

/// A backend. One cache line; what forwarding needs to change at once is [`Backend::state`].
#[repr(C)]
#[derive(Debug, Default)]
pub struct Backend {
    /// See [`BackendState`]; 0: the id is free.
    pub state: Shared,
    /// This host's MAC on the way out in the low 48 bits; above, the 802.1Q tag the frame must
    /// carry there, as read from a packet; 0: none.
    pub source: Shared,
    /// The interface on the way out.
    pub ifindex: u32,
    /// The service it belongs to.
    pub service: u32,
    /// Its own address, network byte order.
    pub addr: [u64; 2],
    /// Its port, network byte order.
    pub port: u16,
    /// The largest IP packet the way to it takes, bytes.
    pub mtu: u16,
    /// The service's port, network byte order: where a translated answer comes from.
    pub service_port: u16,
    /// Zero.
    pub reserved: u16,
    /// The service's address, network byte order.
    pub service_addr: [u64; 2],
}

impl Backend {
    /// The entry in memory, word by word; the first is [`Backend::state`].
    #[must_use]
    pub fn words(&self) -> [u64; 8] {
        [
            self.state.load(),
            self.source.load(),
            self.ifindex as u64 | (self.service as u64) << 32,
            self.addr[0],
            self.addr[1],
            self.port as u64 | (self.mtu as u64) << 16 | (self.service_port as u64) << 32,
            self.service_addr[0],
            self.service_addr[1],
        ]
    }

    /// An entry from its memory.
    #[must_use]
    pub const fn from_words(words: [u64; 8]) -> Self {
        Self {
            state: Shared::new(words[0]),
            source: Shared::new(words[1]),
            ifindex: words[2] as u32,
            service: (words[2] >> 32) as u32,
            addr: [words[3], words[4]],
            port: words[5] as u16,
            mtu: (words[5] >> 16) as u16,
            service_port: (words[5] >> 32) as u16,
            reserved: 0,
            service_addr: [words[6], words[7]],
        }
    }

    /// [`Backend::source`] from a MAC and an 802.1Q VLAN id; 0: no tag.
    #[must_use]
    pub const fn source_word(mac: u64, vlan: u16) -> u64 {
        mac & MAC_MASK | (vlan.to_be() as u64) << 48
    }
}

/// A backend's changing part, packed in one word: MAC in bits 0-47, generation in 48-55, mode in
/// 56-59, alive in 60, used in 63.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackendState {
    /// The destination MAC, low 48 bits, as read from a packet.
    pub mac: u64,
    /// Counts the uses of this id, so that a flow of an earlier backend is not taken for its own.
    pub generation: u8,
    /// How packets reach it.
    pub mode: Mode,
    /// Whether it may keep the flows it has.
    pub alive: bool,
}

impl BackendState {
    const ALIVE: u64 = 1 << 60;
    const USED: u64 = 1 << 63;

    /// The word.
    #[must_use]
    pub const fn pack(self) -> u64 {
        let alive = if self.alive { Self::ALIVE } else { 0 };
        self.mac & MAC_MASK
            | (self.generation as u64) << 48
            | (self.mode as u64) << 56
            | alive
            | Self::USED
    }

    /// From the word; `None` if the id is free or the mode is one that this version lacks.
    #[must_use]
    #[inline(always)]
    pub const fn unpack(word: u64) -> Option<Self> {
        if word & Self::USED == 0 {
            return None;
        }
        let mode = match (word >> 56) & 0xf {
            0 => Mode::Local,
            1 => Mode::Dsr,
            2 => Mode::Ipip,
            3 => Mode::Gue,
            4 => Mode::Nat,
            _ => return None,
        };
        Some(Self {
            mac: word & MAC_MASK,
            generation: (word >> 48) as u8,
            mode,
            alive: word & Self::ALIVE != 0,
        })
    }
}

/// How packets reach a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Mode {
    /// This host's own stack.
    Local = 0,
    /// A new destination MAC.
    Dsr = 1,
    /// Within an IP packet to the backend (RFC 2003, RFC 2473, RFC 4213), whose families may differ.
    Ipip = 2,
    /// Within a UDP packet to the backend: Generic UDP Encapsulation, variant 1.
    Gue = 3,
    /// Source and destination translated.
    Nat = 4,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Local, Self::Dsr, Self::Ipip, Self::Gue, Self::Nat];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Dsr => "dsr",
            Self::Ipip => "ipip",
            Self::Gue => "gue",
            Self::Nat => "nat",
        }
    }
}

/// What a backend bears: kept by the program for services of
/// [`super::Scheduler::LeastConnections`], corrected by the daemon from the flow table.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Load {
    /// Its connections; as a signed number, below zero until corrected after a race.
    pub connections: Shared,
    /// Its weight.
    pub weight: Shared,
}

const _: () = {
    assert!(size_of::<Backend>() == 64);
    assert!(size_of::<Load>() == 16);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backend_state_survives_packing() {
        for mode in Mode::ALL {
            for alive in [false, true] {
                let state = BackendState {
                    mac: 0x0605_0403_0201,
                    generation: 0xa5,
                    mode,
                    alive,
                };
                assert_eq!(BackendState::unpack(state.pack()), Some(state));
            }
        }
        assert_eq!(BackendState::unpack(0), None);
        assert_eq!(
            BackendState::unpack(1 << 63 | 9 << 56),
            None,
            "unknown mode"
        );
    }

    #[test]
    fn entries_lie_in_memory_as_their_words() {
        let backend = Backend {
            state: Shared::new(1),
            source: Shared::new(2),
            ifindex: 3,
            service: 4,
            addr: [5, 6],
            port: 7,
            mtu: 8,
            service_port: 9,
            reserved: 0,
            service_addr: [10, 11],
        };
        // SAFETY: it is 64 bytes without padding, and any bits are valid words.
        let words: [u64; 8] = unsafe { core::mem::transmute_copy(&backend) };
        assert_eq!(backend.words(), words);
        assert_eq!(Backend::from_words(words).words(), words);
    }
}
