//! New addresses in an IP header, and what they change in the checksums that cover them.

use crate::{packet::Packet, parse::Family, sum};

/// Who sends to whom, IPv4 mapped.
#[derive(Debug, Clone, Copy)]
pub struct Ends {
    /// The source address.
    pub source: [u64; 2],
    /// The destination address.
    pub destination: [u64; 2],
}

impl Ends {
    /// What a sum over both addresses grows by when these take the place of `old`: for
    /// [`sum::replace`].
    #[must_use]
    #[inline(always)]
    pub const fn change(&self, old: &Self) -> u64 {
        sum::words([!old.source[0], !old.source[1]])
            + sum::words(self.source)
            + sum::words([!old.destination[0], !old.destination[1]])
            + sum::words(self.destination)
    }
}

/// Gives the network header at `at` new ends. `change` is what they change in a sum: IPv4's header
/// checksum follows it.
#[inline(always)]
pub fn readdress<P: Packet>(
    packet: &mut P,
    family: Family,
    at: usize,
    ends: &Ends,
    change: u64,
) -> Option<()> {
    match family {
        Family::V4 => {
            let checksum: u16 = packet.load(at + 10)?;
            let both = ends.source[1] >> 32 | ends.destination[1] & !0xffff_ffff;
            packet.store(at + 12, both)?;
            packet.store(at + 10, sum::replace(checksum, change))
        }
        Family::V6 => {
            packet.store(at + 32, ends.destination[1])?;
            packet.store(at + 24, ends.destination[0])?;
            packet.store(at + 16, ends.source[1])?;
            packet.store(at + 8, ends.source[0])
        }
    }
}
