//! Services and the addresses they have.

use crate::shared::Shared;

/// A service: (virtual address, port, protocol); or an address of ours. One cache line.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Service {
    /// The address, network byte order.
    pub addr: [u64; 2],
    /// [`Service::key`] of port and protocol, or [`Service::ADDRESS`]; 0: the slot is free.
    pub port_proto: u32,
    /// Of a service: 1 to [`super::MAX_SERVICES`] - 1. Of an address: its [`Role`].
    pub id: u32,
    /// Whom new flows go to: `first line << 32 | slots`. One word: a new table takes over at once.
    /// By [`Scheduler`] the slots are a Maglev table, a sequence or a list.
    pub ring: Shared,
    /// Distinguishes services in the ring's hash, equal on all nodes.
    pub salt: u64,
    /// [`Policy`].
    pub policy: Shared,
    /// Backend ids by QUIC server id: `first line << 32 | slots`.
    pub quic: Shared,
    /// Of [`Scheduler::Sequence`]: how many flows it has placed. Starts anywhere.
    pub cursor: Shared,
}

impl Service {
    /// [`Service::port_proto`] of an address.
    pub const ADDRESS: u32 = 1 << 25;

    /// Port (network byte order, as read) and protocol number as the table's second key word.
    #[must_use]
    #[inline(always)]
    pub const fn key(port_be: u16, protocol: u8) -> u32 {
        port_be as u32 | (protocol as u32) << 16 | 1 << 24
    }

    /// The entry in memory, word by word.
    #[must_use]
    pub fn words(&self) -> [u64; 8] {
        [
            self.addr[0],
            self.addr[1],
            self.port_proto as u64 | (self.id as u64) << 32,
            self.ring.load(),
            self.salt,
            self.policy.load(),
            self.quic.load(),
            self.cursor.load(),
        ]
    }

    /// An entry from its memory.
    #[must_use]
    pub const fn from_words(words: [u64; 8]) -> Self {
        Self {
            addr: [words[0], words[1]],
            port_proto: words[2] as u32,
            id: (words[2] >> 32) as u32,
            ring: Shared::new(words[3]),
            salt: words[4],
            policy: Shared::new(words[5]),
            quic: Shared::new(words[6]),
            cursor: Shared::new(words[7]),
        }
    }

    /// The protocol number.
    #[must_use]
    #[inline(always)]
    pub const fn protocol(&self) -> u8 {
        (self.port_proto >> 16) as u8
    }

    /// The ring's first line and its number of slots.
    #[inline(always)]
    pub fn ring(&self) -> (u32, u32) {
        region(self.ring.load())
    }

    /// The same of the table of QUIC server ids.
    #[inline(always)]
    pub fn quic(&self) -> (u32, u32) {
        region(self.quic.load())
    }

    /// How new flows are chosen for and packets treated.
    #[inline(always)]
    pub fn policy(&self) -> Policy {
        Policy(self.policy.load())
    }
}

#[inline(always)]
const fn region(word: u64) -> (u32, u32) {
    ((word >> 32) as u32, word as u32)
}

/// What an address of ours is for: bits of [`Service::id`], as an address can be several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Role(pub u32);

impl Role {
    /// A virtual address: it has services, and echo requests are answered.
    pub const VIRTUAL: u32 = 1;
    /// Wrapped packets come to it.
    pub const ENDPOINT: u32 = 2;
    /// Answers of translated flows come to it; its number is in bits 8 to 11.
    pub const NAT: u32 = 4;
    /// Bits 16 to 22: the number of the virtual router that it belongs to; 0: to none.
    const ROUTER_SHIFT: u32 = 16;

    /// Whether it is for anything.
    #[must_use]
    #[inline(always)]
    pub const fn is_ours(self) -> bool {
        self.0 != 0
    }

    /// Whether it is a virtual address.
    #[must_use]
    #[inline(always)]
    pub const fn is_virtual(self) -> bool {
        self.0 & Self::VIRTUAL != 0
    }

    /// Whether wrapped packets come to it.
    #[must_use]
    #[inline(always)]
    pub const fn is_endpoint(self) -> bool {
        self.0 & Self::ENDPOINT != 0
    }

    /// Its number among the addresses of translated flows, if it is one.
    #[must_use]
    #[inline(always)]
    pub const fn nat(self) -> Option<u32> {
        if self.0 & Self::NAT != 0 {
            Some((self.0 >> 8) & (super::NAT_ADDRESSES as u32 - 1))
        } else {
            None
        }
    }

    /// The number of the virtual router that it belongs to.
    #[must_use]
    #[inline(always)]
    pub const fn router(self) -> Option<u32> {
        match (self.0 >> Self::ROUTER_SHIFT) & (super::MAX_ROUTERS - 1) {
            0 => None,
            number => Some(number),
        }
    }

    /// The role of an address of the virtual router with this number.
    #[must_use]
    pub const fn router_bits(number: u32) -> u32 {
        number << Self::ROUTER_SHIFT
    }

    /// The role of the address of translated flows with this number.
    #[must_use]
    pub const fn nat_bits(number: u32) -> u32 {
        Self::NAT | number << 8
    }
}

/// Who decides about a new flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Scheduler {
    /// A hash of the client picks a slot of the Maglev table.
    #[default]
    Hash = 0,
    /// Flows take the slots in turn (weighted round robin).
    Sequence = 1,
    /// Of the backends listed, the one with the fewest connections for its weight.
    LeastConnections = 2,
}

/// Which of a client's flows go to the same backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Affinity {
    /// Leading bits of the (mapped) source address that count: 128 is all of them.
    pub prefix: u8,
    /// Whether the source port counts.
    pub port: bool,
}

/// How new flows of a service are chosen for and its packets treated. Zero is the default: by hash
/// of the 5-tuple, with no limits.
///
/// Bits: 0-1 scheduler, 2 sources, 3 limit, 4 QUIC, 5 the port does not count, 8-15 address bits
/// that do not count, 16-31 MSS.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Policy(pub u64);

impl Policy {
    const SOURCES: u64 = 1 << 2;
    const LIMITED: u64 = 1 << 3;
    const QUIC: u64 = 1 << 4;
    const NO_PORT: u64 = 1 << 5;

    /// From its parts; `mss` 0: as the client says.
    #[must_use]
    pub const fn new(
        scheduler: Scheduler,
        affinity: Affinity,
        mss: u16,
        sources: bool,
        limited: bool,
        quic: bool,
    ) -> Self {
        let mut word = scheduler as u64;
        if sources {
            word |= Self::SOURCES;
        }
        if limited {
            word |= Self::LIMITED;
        }
        if quic {
            word |= Self::QUIC;
        }
        if !affinity.port {
            word |= Self::NO_PORT;
        }
        let ignored = 128_u8.saturating_sub(affinity.prefix);
        Self(word | (ignored as u64) << 8 | (mss as u64) << 16)
    }

    /// Who decides about a new flow.
    #[must_use]
    #[inline(always)]
    pub const fn scheduler(self) -> Scheduler {
        match self.0 & 3 {
            1 => Scheduler::Sequence,
            2 => Scheduler::LeastConnections,
            _ => Scheduler::Hash,
        }
    }

    /// Which of a client's flows go to the same backend.
    #[must_use]
    #[inline(always)]
    pub const fn affinity(self) -> Affinity {
        Affinity {
            prefix: 128 - ((self.0 >> 8) as u8 & 0x7f),
            port: self.0 & Self::NO_PORT == 0,
        }
    }

    /// Whether [`super::maps::SOURCES`] has networks for it.
    #[must_use]
    #[inline(always)]
    pub const fn has_sources(self) -> bool {
        self.0 & Self::SOURCES != 0
    }

    /// Whether [`super::maps::SYN_LIMITS`] limits its new flows.
    #[must_use]
    #[inline(always)]
    pub const fn is_limited(self) -> bool {
        self.0 & Self::LIMITED != 0
    }

    /// Whether QUIC connection ids say which backend it is.
    #[must_use]
    #[inline(always)]
    pub const fn is_quic(self) -> bool {
        self.0 & Self::QUIC != 0
    }

    /// What a SYN's MSS is lowered to; 0: not at all.
    #[must_use]
    #[inline(always)]
    pub const fn mss(self) -> u16 {
        (self.0 >> 16) as u16
    }
}

impl core::fmt::Debug for Policy {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Policy")
            .field("scheduler", &self.scheduler())
            .field("affinity", &self.affinity())
            .field("mss", &self.mss())
            .field("sources", &self.has_sources())
            .field("limited", &self.is_limited())
            .field("quic", &self.is_quic())
            .finish()
    }
}

const _: () = assert!(size_of::<Service>() == 64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_lie_in_memory_as_their_words() {
        let service = Service::from_words([1, 2, 3 | 4 << 32, 5, 6, 7, 8, 9]);
        // SAFETY: it is 64 bytes without padding, and any bits are valid words.
        let words: [u64; 8] = unsafe { core::mem::transmute_copy(&service) };
        assert_eq!(service.words(), words);
        assert_eq!((service.port_proto, service.id), (3, 4));
    }

    #[test]
    fn policies_survive_packing() {
        let five_tuple = Affinity {
            prefix: 128,
            port: true,
        };
        let default = Policy::new(Scheduler::Hash, five_tuple, 0, false, false, false);
        assert_eq!(default, Policy::default());
        assert_eq!(default.affinity(), five_tuple);
        for scheduler in [
            Scheduler::Hash,
            Scheduler::Sequence,
            Scheduler::LeastConnections,
        ] {
            for prefix in [96, 120, 64, 128, 1] {
                let affinity = Affinity {
                    prefix,
                    port: false,
                };
                let policy = Policy::new(scheduler, affinity, 1400, true, false, true);
                assert_eq!(policy.scheduler(), scheduler);
                assert_eq!(policy.affinity(), affinity);
                assert_eq!(policy.mss(), 1400);
                assert!(policy.has_sources() && !policy.is_limited() && policy.is_quic());
            }
        }
    }

    #[test]
    fn roles_combine() {
        let role = Role(Role::ENDPOINT | Role::nat_bits(5));
        assert!(role.is_endpoint() && !role.is_virtual());
        assert_eq!(role.nat(), Some(5));
        assert_eq!(Role(Role::VIRTUAL).nat(), None);
        let last = super::super::MAX_ROUTERS - 1;
        let role = Role(Role::VIRTUAL | Role::nat_bits(7) | Role::router_bits(last));
        assert_eq!((role.nat(), role.router()), (Some(7), Some(last)));
        assert_eq!(Role(Role::nat_bits(7)).router(), None);
    }
}
