//! The contract between the kernel program and the daemon: map names, values and their version.
//!
//! Every value is a sequence of whole 64-bit words or smaller naturally aligned fields without
//! padding, so it can be memory-mapped, and what one side must see change at once is one word.
//! Addresses, ports and MACs are in network byte order, as words read from the packet in native
//! order, so the program compares them without conversion. IPv4 addresses are stored mapped into
//! IPv6 (RFC 4291 2.5.5.2), so there is one table and one way to look up.

mod backend;
mod control;
mod fence;
mod fragment;
mod limit;
mod nat;
mod pool;
mod service;

pub use backend::{Backend, BackendState, Load, Mode};
pub use control::{Control, FILTER_WORDS, FragmentLifetimes, NAT_ADDRESSES, NatTimeouts};
pub use fence::{Claim, Fence, MAX_ROUTERS, Rival, Watch};
pub use fragment::{FRAGMENT_WAYS, Followed, Fragment, FragmentSet, identity};
pub use limit::{SourceRule, SynLimit};
pub use nat::{Hop, MOVED_LINES, MovedLine, NAT_PORT_SETS, NAT_SETS, Session};
pub use pool::{NatPool, PoolWord};
pub use service::{Affinity, Policy, Role, Scheduler, Service};

/// The version of everything in this module. It is part of the pin path: a program never sees
/// maps of another version.
pub const VERSION: u32 = 3;

/// The name of the pinned directory of this version within the bpffs directory.
pub const PIN_DIR: &str = "v3";

/// The name of the kernel program.
pub const PROGRAM: &str = "steerd";

/// The prefix of a pinned link's name; the interface's name follows.
pub const LINK_PREFIX: &str = "link-";

/// The maps' names.
pub mod maps {
    /// One [`super::Control`].
    pub const CONTROL: &str = "CONTROL";
    /// [`super::Service`]s: two tables of [`super::SERVICE_SLOTS`], one of them in use.
    pub const SERVICES: &str = "SERVICES";
    /// [`super::Backend`]s by backend id; id 0 is never used.
    pub const BACKENDS: &str = "BACKENDS";
    /// [`super::RingLine`]s: the Maglev tables of all services.
    pub const RINGS: &str = "RINGS";
    /// Sets of IPv4 flows.
    pub const FLOWS4: &str = "FLOWS4";
    /// Sets of IPv6 flows.
    pub const FLOWS6: &str = "FLOWS6";
    /// Known MACs: two tables of [`super::MAC_SLOTS`], one of them in use.
    pub const MACS: &str = "MACS";
    /// [`super::Load`]s by backend id.
    pub const LOADS: &str = "LOADS";
    /// Sets of translated flows: the place in the table is the translation.
    pub const NAT: &str = "NAT";
    /// [`super::Hop`]s by place in [`NAT`].
    pub const NAT_HOPS: &str = "NAT_HOPS";
    /// [`super::MovedLine`]s: places in [`NAT`] of sessions from before addresses or ports changed.
    pub const NAT_MOVED: &str = "NAT_MOVED";
    /// [`super::FragmentSet`]s.
    pub const FRAGMENTS: &str = "FRAGMENTS";
    /// [`super::SynLimit`]s by service id.
    pub const SYN_LIMITS: &str = "SYN_LIMITS";
    /// [`super::SourceRule`]s by service id and source network: a trie of longest prefixes.
    pub const SOURCES: &str = "SOURCES";
    /// The interfaces that packets may leave through, by their numbers.
    pub const DEVICES: &str = "DEVICES";
    /// [`super::Fence`]s by the virtual router's number.
    pub const FENCES: &str = "FENCES";
    /// Per-CPU [`super::Counter`]s by event.
    pub const EVENT_STATS: &str = "EVENT_STATS";
    /// Per-CPU [`super::Counter`]s by verdict.
    pub const VERDICT_STATS: &str = "VERDICT_STATS";
    /// Per-CPU [`super::Counter`]s by service id.
    pub const SERVICE_STATS: &str = "SERVICE_STATS";
    /// Per-CPU [`super::Counter`]s by backend id.
    pub const BACKEND_STATS: &str = "BACKEND_STATS";

    /// What kind a map is.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Kind {
        /// An array in memory that the daemon maps.
        Array,
        /// An array for each CPU.
        PerCpu,
        /// A trie of longest prefixes.
        Trie,
        /// Interfaces by their numbers.
        Devices,
    }

    impl Kind {
        /// Its name.
        #[must_use]
        pub const fn name(self) -> &'static str {
            match self {
                Self::Array => "array",
                Self::PerCpu => "percpu-array",
                Self::Trie => "lpm-trie",
                Self::Devices => "devmap-hash",
            }
        }
    }

    /// A map that is pinned.
    #[derive(Debug, Clone, Copy)]
    pub struct Shape {
        /// Its name.
        pub name: &'static str,
        /// Its kind.
        pub kind: Kind,
        /// Its key's size in bytes.
        pub key_size: u32,
        /// Its value's size in bytes.
        pub value_size: u32,
        /// How many entries it has room for.
        pub entries: u32,
        /// What it is for.
        pub purpose: &'static str,
    }

    const fn array<T>(name: &'static str, entries: u32, purpose: &'static str) -> Shape {
        Shape {
            name,
            kind: Kind::Array,
            key_size: 4,
            value_size: size_of::<T>() as u32,
            entries,
            purpose,
        }
    }

    const fn counters(name: &'static str, entries: u32, purpose: &'static str) -> Shape {
        Shape {
            kind: Kind::PerCpu,
            ..array::<super::Counter>(name, entries, purpose)
        }
    }

    /// Each map that is pinned.
    pub const ALL: [Shape; 20] = [
        array::<super::Control>(CONTROL, 1, "switches and seeds"),
        array::<super::Service>(SERVICES, 2 * super::SERVICE_SLOTS, "virtual services"),
        array::<super::Backend>(BACKENDS, super::MAX_BACKENDS, "backends by id"),
        array::<super::Load>(LOADS, super::MAX_BACKENDS, "connections by backend id"),
        array::<super::RingLine>(RINGS, super::RING_LINES, "Maglev tables"),
        array::<crate::flow::Set4>(FLOWS4, super::FLOW4_SETS, "IPv4 flow table"),
        array::<crate::flow::Set6>(FLOWS6, super::FLOW6_SETS, "IPv6 flow table"),
        array::<crate::flow::Set6>(NAT, super::NAT_SETS, "translated flows"),
        array::<super::Hop>(
            NAT_HOPS,
            4 * super::NAT_SETS,
            "ways back of translated flows",
        ),
        array::<super::MovedLine>(NAT_MOVED, super::MOVED_LINES, "older translated flows"),
        array::<super::FragmentSet>(FRAGMENTS, super::FRAGMENT_SETS, "fragmented packets"),
        array::<super::SynLimit>(SYN_LIMITS, super::MAX_SERVICES, "limits of new flows"),
        array::<u64>(MACS, 2 * super::MAC_SLOTS, "MACs of this host and of peers"),
        array::<super::Fence>(FENCES, super::MAX_ROUTERS, "virtual routers and fences"),
        Shape {
            name: SOURCES,
            kind: Kind::Trie,
            key_size: 24,
            value_size: 4,
            entries: super::MAX_SOURCES,
            purpose: "networks allowed and denied",
        },
        Shape {
            name: DEVICES,
            kind: Kind::Devices,
            key_size: 4,
            value_size: 8,
            entries: super::MAX_DEVICES,
            purpose: "interfaces to send through",
        },
        counters(VERDICT_STATS, super::MAX_VERDICTS, "packets by verdict"),
        counters(EVENT_STATS, super::MAX_EVENTS, "packets by event"),
        counters(SERVICE_STATS, super::MAX_SERVICES, "packets by service id"),
        counters(BACKEND_STATS, super::MAX_BACKENDS, "packets by backend id"),
    ];
}

/// Slots of one service table: services, and the addresses that are theirs or that translated and
/// wrapped packets come to. Four times as many as there can be of both, so that cuckoo placement
/// with two choices stays far below its threshold of half.
pub const SERVICE_SLOTS: u32 = 1 << 15;
/// Services, id 0 (never used) included.
pub const MAX_SERVICES: u32 = 1 << 12;
/// Backends, id 0 (never used) included.
pub const MAX_BACKENDS: u32 = 1 << 15;
/// Backend ids in one [`RingLine`].
pub const RING_LINE: u32 = 32;
/// Lines for the Maglev tables of all services: 16 Mi slots.
pub const RING_LINES: u32 = 1 << 19;
/// Sets of four IPv4 flows: 2 Mi flows, 32 MiB.
pub const FLOW4_SETS: u32 = 1 << 19;
/// Sets of four IPv6 flows: 1 Mi flows, 32 MiB.
pub const FLOW6_SETS: u32 = 1 << 18;
/// Slots of one MAC table: enough that some seed gives each of 256 MACs a slot of its own.
pub const MAC_SLOTS: u32 = 1 << 12;
/// Room for verdicts.
pub const MAX_VERDICTS: u32 = 64;
/// Room for events.
pub const MAX_EVENTS: u32 = 64;
/// Sets of four fragmented packets.
pub const FRAGMENT_SETS: u32 = 1 << 11;
/// Networks in [`maps::SOURCES`].
pub const MAX_SOURCES: u32 = 1 << 17;
/// Interfaces in [`maps::DEVICES`].
pub const MAX_DEVICES: u32 = 1 << 8;

/// Part of a Maglev table: backend ids.
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy)]
pub struct RingLine {
    /// Backend ids; 0: none.
    pub backends: [u16; RING_LINE as usize],
}

/// The 48 bits of a MAC in a word.
pub const MAC_MASK: u64 = 0xffff_ffff_ffff;

/// Whose MAC it is, in the top 16 bits of an entry of [`maps::MACS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum MacOwner {
    /// One of this host's: a frame to it is for us.
    Own = 1,
    /// A peer node's: a frame from it was steered already.
    Forwarder = 2,
}

impl MacOwner {
    /// The table's entry for `mac`.
    #[must_use]
    #[inline(always)]
    pub const fn entry(self, mac: u64) -> u64 {
        mac & MAC_MASK | (self as u64) << 48
    }
}

/// The six bytes of a MAC as a word, as if read from a packet.
#[must_use]
pub const fn mac_word(mac: [u8; 6]) -> u64 {
    u64::from_le_bytes([mac[0], mac[1], mac[2], mac[3], mac[4], mac[5], 0, 0])
}

/// The six bytes of a MAC from its word.
#[must_use]
pub const fn mac_bytes(word: u64) -> [u8; 6] {
    let [a, b, c, d, e, f, _, _] = word.to_le_bytes();
    [a, b, c, d, e, f]
}

/// The words of an address given as 16 bytes in network byte order.
#[must_use]
pub const fn addr_words(octets: [u8; 16]) -> [u64; 2] {
    let wide = u128::from_le_bytes(octets);
    [wide as u64, (wide >> 64) as u64]
}

/// The 16 bytes of an address.
#[must_use]
pub const fn addr_octets(words: [u64; 2]) -> [u8; 16] {
    (words[0] as u128 | (words[1] as u128) << 64).to_le_bytes()
}

/// The words of an IPv4 address as read from a packet, mapped into IPv6.
#[must_use]
#[inline(always)]
pub const fn mapped(ipv4_ne: u32) -> [u64; 2] {
    [0, (ipv4_ne as u64) << 32 | 0xffff_0000]
}

/// Whether the words are those of an IPv4 address, mapped into IPv6.
#[must_use]
#[inline(always)]
pub const fn is_mapped(addr: [u64; 2]) -> bool {
    addr[0] == 0 && addr[1] as u32 == 0xffff_0000
}

/// Packets and bytes.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counter {
    /// Packets.
    pub packets: u64,
    /// Bytes, Ethernet headers included.
    pub bytes: u64,
}

const _: () = {
    assert!(size_of::<RingLine>() == 64);
    assert!(size_of::<Counter>() == 16);
    assert!(crate::verdict::Verdict::COUNT as u32 <= MAX_VERDICTS);
    assert!(crate::event::Event::COUNT as u32 <= MAX_EVENTS);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_mapped() {
        let ipv4 = [192, 168, 1, 25];
        let words = mapped(u32::from_ne_bytes(ipv4));
        let octets = addr_octets(words);
        assert_eq!(
            octets,
            std::net::Ipv4Addr::from(ipv4).to_ipv6_mapped().octets()
        );
        assert_eq!(addr_words(octets), words);
        assert!(is_mapped(words));
        assert!(!is_mapped([1, words[1]]) && !is_mapped([0, 1]));
    }

    #[test]
    fn macs_survive() {
        let mac = [2, 0, 0x5e, 0, 1, 51];
        assert_eq!(mac_bytes(mac_word(mac)), mac);
        assert_eq!(mac_word([0xff; 6]), MAC_MASK);
    }
}
