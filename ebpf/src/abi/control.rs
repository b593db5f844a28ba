//! What the program reads about the node as a whole.

use core::mem::offset_of;

use crate::{flow::Idle, shared::Shared};

/// Words of the filter before the service table, 65,536 bits: a thousand addresses fill 1.5 %.
pub const FILTER_WORDS: usize = 1 << 10;

/// How many addresses translated packets can come from.
pub const NAT_ADDRESSES: usize = 8;

/// What the program reads once a packet: its first cache line and the filter; the rest where it is
/// needed.
#[repr(C)]
#[derive(Debug)]
pub struct Control {
    /// Which service table is in use and its seed: `seed << 32 | first slot`.
    pub services: Shared,
    /// Which MAC table is in use and its seed: `seed << 32 | first slot`.
    pub macs: Shared,
    /// Seeds the flow tables' hash, so that nobody outside can aim at a set. Never changes while
    /// the flow tables live.
    pub flow_seed: Shared,
    /// The daemon's last sign of life, nanoseconds of CLOCK_BOOTTIME.
    pub heartbeat_ns: Shared,
    /// How long after its second packet one more confirms a TCP connection, in units of
    /// [`crate::flow::SEEN_SHIFT`] jiffies.
    pub confirm: Shared,
    /// [`NatTimeouts`], two words.
    pub nat_timeouts: [Shared; 2],
    /// [`super::NatPool`].
    pub nat_pool: Shared,
    /// Where wrapped IPv4 packets come from: `mask << 32 | network`, as read from a packet; a hash
    /// of the client fills the bits that the mask leaves.
    pub tunnel4: Shared,
    /// The same for IPv6: the network's two words, then the mask's.
    pub tunnel6: [Shared; 4],
    /// The UDP port of GUE, network byte order.
    pub gue_port: Shared,
    /// [`FragmentLifetimes`]
    pub fragment_lifetimes: Shared,
    /// Zero.
    pub reserved: Shared,
    /// [`Idle`], of the flow tables.
    pub flow_idle: [Shared; Idle::WORDS],
    /// The addresses that translated packets come from, by number; zero: there is none.
    pub nat_addresses: [[Shared; 2]; NAT_ADDRESSES],
    /// Whose bit is not set is no address of ours: most packets go no further. It may say yes to
    /// what is none, never no to what is one. See [`crate::hash::address_filter`].
    pub filter: [Shared; FILTER_WORDS],
}

/// The places of the words within [`Control`].
impl Control {
    /// How many there are.
    pub const WORDS: usize = size_of::<Self>() / 8;
    /// [`Control::services`]
    pub const SERVICES: usize = offset_of!(Self, services) / 8;
    /// [`Control::macs`]
    pub const MACS: usize = offset_of!(Self, macs) / 8;
    /// [`Control::flow_seed`]
    pub const FLOW_SEED: usize = offset_of!(Self, flow_seed) / 8;
    /// [`Control::heartbeat_ns`]
    pub const HEARTBEAT: usize = offset_of!(Self, heartbeat_ns) / 8;
    /// [`Control::confirm`]
    pub const CONFIRM: usize = offset_of!(Self, confirm) / 8;
    /// [`Control::nat_timeouts`], two words.
    pub const NAT_TIMEOUTS: usize = offset_of!(Self, nat_timeouts) / 8;
    /// [`Control::nat_pool`]
    pub const NAT_POOL: usize = offset_of!(Self, nat_pool) / 8;
    /// [`Control::tunnel4`]
    pub const TUNNEL4: usize = offset_of!(Self, tunnel4) / 8;
    /// [`Control::tunnel6`], four words.
    pub const TUNNEL6: usize = offset_of!(Self, tunnel6) / 8;
    /// [`Control::gue_port`]
    pub const GUE_PORT: usize = offset_of!(Self, gue_port) / 8;
    /// [`Control::fragment_lifetimes`]
    pub const FRAGMENT_LIFETIMES: usize = offset_of!(Self, fragment_lifetimes) / 8;
    /// [`Control::flow_idle`]
    pub const FLOW_IDLE: usize = offset_of!(Self, flow_idle) / 8;
    /// [`Control::nat_addresses`], two words each.
    pub const NAT_ADDRESSES: usize = offset_of!(Self, nat_addresses) / 8;
    /// [`Control::filter`]
    pub const FILTER: usize = offset_of!(Self, filter) / 8;
}

/// How long a translated flow keeps its port without a packet, by how far it is, in units of
/// [`crate::flow::SEEN_SHIFT`] jiffies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NatTimeouts {
    /// TCP, until both sides were heard.
    pub tcp_new: u32,
    /// TCP, then (RFC 5382 REQ-5: not less than 2 hours 4 minutes).
    pub tcp_established: u32,
    /// TCP, after a FIN or RST.
    pub tcp_closing: u16,
    /// UDP, until the server answered.
    pub udp_new: u16,
    /// UDP, then (RFC 4787 REQ-5: not less than 2 minutes).
    pub udp_established: u32,
}

impl NatTimeouts {
    /// Three of 20 bits and two of 16 in two words.
    #[must_use]
    pub const fn pack(self) -> [u64; 2] {
        [
            self.tcp_new as u64 | (self.tcp_established as u64) << 32,
            self.tcp_closing as u64
                | (self.udp_new as u64) << 16
                | (self.udp_established as u64) << 32,
        ]
    }

    /// From the words.
    #[must_use]
    #[inline(always)]
    pub const fn unpack(words: [u64; 2]) -> Self {
        Self {
            tcp_new: words[0] as u32,
            tcp_established: (words[0] >> 32) as u32,
            tcp_closing: words[1] as u16,
            udp_new: (words[1] >> 16) as u16,
            udp_established: (words[1] >> 32) as u32,
        }
    }
}

/// How long later fragments may follow the first one, in units of [`crate::flow::SEEN_SHIFT`] jiffies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FragmentLifetimes {
    /// Of IPv4.
    pub v4: u32,
    /// Of IPv6.
    pub v6: u32,
}

impl FragmentLifetimes {
    /// The word.
    #[must_use]
    pub const fn pack(self) -> u64 {
        self.v4 as u64 | (self.v6 as u64) << 32
    }

    /// From the word.
    #[must_use]
    #[inline(always)]
    pub const fn unpack(word: u64) -> Self {
        Self {
            v4: word as u32,
            v6: (word >> 32) as u32,
        }
    }
}

const _: () =
    assert!(size_of::<Control>() == 64 + 64 + 128 + 16 * NAT_ADDRESSES + 8 * FILTER_WORDS);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_packing() {
        let lifetimes = FragmentLifetimes { v4: 30, v6: 59 };
        assert_eq!(FragmentLifetimes::unpack(lifetimes.pack()), lifetimes);
        let timeouts = NatTimeouts {
            tcp_new: 59,
            tcp_established: 7266,
            tcp_closing: 58,
            udp_new: 29,
            udp_established: 175,
        };
        assert_eq!(NatTimeouts::unpack(timeouts.pack()), timeouts);
    }
}
