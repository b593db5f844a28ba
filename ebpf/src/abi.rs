//! The contract between the kernel program and the daemon: map names, values and their version.
//!
//! Every value is a sequence of whole 64-bit words or smaller naturally aligned fields without
//! padding, so it can be memory-mapped, and what one side must see change at once is one word.
//! Addresses, ports and MACs are in network byte order, as words read from the packet in native
//! order, so the program compares them without conversion. IPv4 addresses are stored mapped into
//! IPv6 (RFC 4291 2.5.5.2), so there is one table and one way to look up.

use crate::shared::Shared;

/// The version of everything in this module. It is part of the pin path: a program never sees
/// maps of another version.
pub const VERSION: u32 = 1;

/// The name of the pinned directory of this version within the bpffs directory.
pub const PIN_DIR: &str = "v1";

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
    /// Per-CPU [`super::Counter`]s by verdict.
    pub const VERDICT_STATS: &str = "VERDICT_STATS";
    /// Per-CPU [`super::Counter`]s by service id.
    pub const SERVICE_STATS: &str = "SERVICE_STATS";
    /// Per-CPU [`super::Counter`]s by backend id.
    pub const BACKEND_STATS: &str = "BACKEND_STATS";

    /// Each map that is pinned, with its value's size, its capacity and what it is for.
    pub const ALL: [(&str, usize, u32, &str); 10] = [
        (
            CONTROL,
            size_of::<super::Control>(),
            1,
            "switches and seeds",
        ),
        (
            SERVICES,
            size_of::<super::Service>(),
            2 * super::SERVICE_SLOTS,
            "virtual services",
        ),
        (
            BACKENDS,
            size_of::<super::Backend>(),
            super::MAX_BACKENDS,
            "backends by id",
        ),
        (
            RINGS,
            size_of::<super::RingLine>(),
            super::RING_LINES,
            "Maglev tables",
        ),
        (
            FLOWS4,
            size_of::<crate::flow::Set4>(),
            super::FLOW4_SETS,
            "IPv4 flow table",
        ),
        (
            FLOWS6,
            size_of::<crate::flow::Set6>(),
            super::FLOW6_SETS,
            "IPv6 flow table",
        ),
        (
            MACS,
            8,
            2 * super::MAC_SLOTS,
            "MACs of this host and of peers",
        ),
        (
            VERDICT_STATS,
            size_of::<super::Counter>(),
            super::MAX_VERDICTS,
            "packets by verdict",
        ),
        (
            SERVICE_STATS,
            size_of::<super::Counter>(),
            super::MAX_SERVICES,
            "packets by service id",
        ),
        (
            BACKEND_STATS,
            size_of::<super::Counter>(),
            super::MAX_BACKENDS,
            "packets by backend id",
        ),
    ];
}

/// Slots of one service table. Four times [`MAX_SERVICES`], so that cuckoo placement with two
/// choices stays far below its threshold of half.
pub const SERVICE_SLOTS: u32 = 1 << 14;
/// Services, id 0 (never used) included.
pub const MAX_SERVICES: u32 = 1 << 12;
/// Backends, id 0 (never used) included.
pub const MAX_BACKENDS: u32 = 1 << 15;
/// Backend ids in one [`RingLine`].
pub const RING_LINE: u32 = 32;
/// Lines for the Maglev tables of all services: 8 Mi slots.
pub const RING_LINES: u32 = 1 << 18;
/// Sets of four IPv4 flows: 2 Mi flows, 32 MiB.
pub const FLOW4_SETS: u32 = 1 << 19;
/// Sets of four IPv6 flows: 1 Mi flows, 32 MiB.
pub const FLOW6_SETS: u32 = 1 << 18;
/// Slots of one MAC table: enough that some seed gives each of 256 MACs a slot of its own.
pub const MAC_SLOTS: u32 = 1 << 12;
/// Room for verdicts.
pub const MAX_VERDICTS: u32 = 64;

/// Words of the filter before the service table, 65,536 bits: a thousand services fill 1.5 %.
pub const FILTER_WORDS: usize = 1 << 10;

/// What the program reads once a packet. One cache line, and the filter.
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
    /// How long an established flow must have been idle before a new one may take its place, in
    /// units of [`crate::flow::SEEN_SHIFT`] jiffies.
    pub established_idle: Shared,
    /// Zero.
    pub reserved: [Shared; 3],
    /// Whose bit is not set is no service: most packets go no further. It may say yes to what is
    /// none, never no to what is one.
    pub filter: [Shared; FILTER_WORDS],
}

/// A service: (virtual address, port, protocol). One cache line.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Service {
    /// The address, network byte order.
    pub addr: [u64; 2],
    /// [`Service::key`] of port and protocol; 0: the slot is free.
    pub port_proto: u32,
    /// 1 to [`MAX_SERVICES`] - 1.
    pub id: u32,
    /// Its Maglev table: `first line << 32 | slots`. One word: a new table takes over at once.
    pub ring: Shared,
    /// Distinguishes services in the ring's hash, equal on all nodes.
    pub salt: u64,
    /// Zero.
    pub reserved: [u64; 3],
}

impl Service {
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
            0,
            0,
            0,
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
            reserved: [0; 3],
        }
    }

    /// The ring's first line and its number of slots.
    #[inline(always)]
    pub fn ring(&self) -> (u32, u32) {
        let ring = self.ring.load();
        ((ring >> 32) as u32, ring as u32)
    }
}

/// A backend. One cache line; what forwarding needs to change at once is [`Backend::state`].
#[repr(C)]
#[derive(Debug, Default)]
pub struct Backend {
    /// See [`BackendState`]; 0: the id is free.
    pub state: Shared,
    /// This host's MAC on the way out, low 48 bits.
    pub source_mac: Shared,
    /// The interface on the way out.
    pub ifindex: u32,
    /// The service it belongs to.
    pub service: u32,
    /// Its own address, network byte order.
    pub addr: [u64; 2],
    /// Its port, network byte order.
    pub port: u16,
    /// Zero.
    pub reserved16: [u16; 3],
    /// Zero.
    pub reserved: [u64; 2],
}

impl Backend {
    /// The entry in memory, word by word; the first is [`Backend::state`].
    #[must_use]
    pub fn words(&self) -> [u64; 8] {
        [
            self.state.load(),
            self.source_mac.load(),
            self.ifindex as u64 | (self.service as u64) << 32,
            self.addr[0],
            self.addr[1],
            self.port as u64,
            0,
            0,
        ]
    }

    /// An entry from its memory.
    #[must_use]
    pub const fn from_words(words: [u64; 8]) -> Self {
        Self {
            state: Shared::new(words[0]),
            source_mac: Shared::new(words[1]),
            ifindex: words[2] as u32,
            service: (words[2] >> 32) as u32,
            addr: [words[3], words[4]],
            port: words[5] as u16,
            reserved16: [0; 3],
            reserved: [0; 2],
        }
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
}

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
    assert!(size_of::<Control>() == 64 + 8 * FILTER_WORDS);
    assert!(size_of::<Service>() == 64);
    assert!(size_of::<Backend>() == 64);
    assert!(size_of::<RingLine>() == 64);
    assert!(size_of::<Counter>() == 16);
    assert!(crate::verdict::Verdict::COUNT as u32 <= MAX_VERDICTS);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backend_state_survives_packing() {
        for mode in [Mode::Local, Mode::Dsr] {
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
        let service = Service {
            addr: [1, 2],
            port_proto: 3,
            id: 4,
            ring: Shared::new(5),
            salt: 6,
            reserved: [0; 3],
        };
        let backend = Backend {
            state: Shared::new(1),
            source_mac: Shared::new(2),
            ifindex: 3,
            service: 4,
            addr: [5, 6],
            port: 7,
            ..Backend::default()
        };
        // SAFETY: both are 64 bytes without padding, and any bits are valid words.
        let (service_words, backend_words): ([u64; 8], [u64; 8]) = unsafe {
            (
                core::mem::transmute_copy(&service),
                core::mem::transmute_copy(&backend),
            )
        };
        assert_eq!(service.words(), service_words);
        assert_eq!(backend.words(), backend_words);
        assert_eq!(Service::from_words(service_words).words(), service_words);
        assert_eq!(Backend::from_words(backend_words).words(), backend_words);
    }

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
    }

    #[test]
    fn macs_survive() {
        let mac = [2, 0, 0x5e, 0, 1, 51];
        assert_eq!(mac_bytes(mac_word(mac)), mac);
        assert_eq!(mac_word([0xff; 6]), MAC_MASK);
    }
}
