//! Fragmented packets: where the first fragment went, so that the others follow.

use crate::{flow, shared::Shared, verdict::Verdict};

/// Entries in a set.
pub const FRAGMENT_WAYS: usize = 4;

/// A fragmented packet: source, destination, identification and protocol say which one. One cache
/// line.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct Fragment {
    /// The source address, IPv4 mapped.
    pub source: [Shared; 2],
    /// The destination address.
    pub destination: [Shared; 2],
    /// [`identity`].
    pub identity: Shared,
    /// See [`Followed`]; 0: the entry is free.
    pub value: Shared,
    /// The first fragment's ports as read, the source port lowest; 0: it has none.
    pub ports: Shared,
    /// Zero.
    pub reserved: Shared,
}

/// A set of fragmented packets.
#[repr(C)]
#[derive(Debug, Default)]
pub struct FragmentSet(pub [Fragment; FRAGMENT_WAYS]);

/// Tells fragmented packets from one address to another apart: `identification << 8 | protocol`, as
/// read from the packet. For IPv6 the protocol is that of the fragment header, since only the first
/// fragment says for sure what the packet carries (RFC 8200 section 4.5).
#[must_use]
#[inline(always)]
pub const fn identity(identification: u32, protocol: u8) -> u64 {
    (identification as u64) << 8 | protocol as u64
}

/// Where a first fragment went: backend in bits 48-63, its generation in 40-47, service in 28-39,
/// verdict in 20-27, time in 0-19.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Followed {
    /// The backend's id; 0: none.
    pub backend: u16,
    /// The backend's generation.
    pub generation: u8,
    /// The service's id; 0: none.
    pub service: u32,
    /// What became of it.
    pub verdict: Verdict,
    /// When it passed; see [`flow::seen`].
    pub seen: u32,
}

impl Followed {
    /// The word. It is never 0, as no fragment is of no IP packet: [`Verdict::NotIp`].
    #[must_use]
    #[inline(always)]
    pub const fn pack(self) -> u64 {
        (self.backend as u64) << 48
            | (self.generation as u64) << 40
            | (self.service as u64 & 0xfff) << 28
            | (self.verdict as u64) << 20
            | self.seen as u64 & flow::SEEN_MASK
    }

    /// From the word of an entry that is not free.
    #[must_use]
    #[inline(always)]
    pub const fn unpack(word: u64) -> Self {
        Self {
            backend: (word >> 48) as u16,
            generation: (word >> 40) as u8,
            service: (word >> 28) as u32 & 0xfff,
            verdict: Verdict::unpack(word >> 20),
            seen: (word & flow::SEEN_MASK) as u32,
        }
    }
}

const _: () = assert!(size_of::<FragmentSet>() == 256);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_fragment_went_survives_packing() {
        for verdict in Verdict::ALL {
            let followed = Followed {
                backend: 0x7fff,
                generation: 0xa5,
                service: 0xfff,
                verdict,
                seen: 0xf_fff0,
            };
            assert_eq!(Followed::unpack(followed.pack()), followed);
        }
        assert_ne!(identity(1, 17), identity(1, 6));
    }
}
