//! What the program must know of a virtual router to fence this host off without its daemon.

use crate::shared::Shared;

/// Virtual routers, number 0 (never used) included: twice as many as a configuration may have, so
/// that a reload finds room for new ones before old ones go.
pub const MAX_ROUTERS: u32 = 1 << 7;

/// A virtual router of this host. The address entries of the service table name it by its number
/// ([`super::Role::router`]).
#[repr(C)]
#[derive(Debug, Default)]
pub struct Fence {
    /// [`Watch`]; 0: the number is free.
    pub watch: Shared,
    /// How old the daemon's sign of life must be for it to count as dead, in nanoseconds; 0: it
    /// never does.
    pub patience_ns: Shared,
    /// Since when this host is fenced off, nanoseconds of CLOCK_BOOTTIME; 0: it is not. The program
    /// sets it, the daemon clears it.
    pub since_ns: Shared,
    /// [`Rival`]: who took over.
    pub rival: Shared,
}

impl Fence {
    /// How many words it has.
    pub const WORDS: usize = size_of::<Self>() / 8;
    /// The place of [`Fence::watch`].
    pub const WATCH: usize = 0;
    /// The place of [`Fence::patience_ns`].
    pub const PATIENCE: usize = 1;
    /// The place of [`Fence::since_ns`].
    pub const SINCE: usize = 2;
    /// The place of [`Fence::rival`].
    pub const RIVAL: usize = 3;
}

/// Which virtual router it is, and whether this host has its addresses.
///
/// Bits: 0-7 VRID, 8 in use, 9 held, 10 IPv6, 16-23 the least TTL, 32-63 the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watch {
    /// VRID.
    pub vrid: u8,
    /// Whether this host has its addresses, as far as the daemon had come.
    pub held: bool,
    /// Whether its addresses are IPv6.
    pub ipv6: bool,
    /// The least TTL or hop limit that an advert is believed with.
    pub min_ttl: u8,
    /// The number of its interface.
    pub ifindex: u32,
}

impl Watch {
    const USED: u64 = 1 << 8;
    const HELD: u64 = 1 << 9;
    const IPV6: u64 = 1 << 10;

    /// The word.
    #[must_use]
    pub const fn pack(self) -> u64 {
        let held = if self.held { Self::HELD } else { 0 };
        let ipv6 = if self.ipv6 { Self::IPV6 } else { 0 };
        self.vrid as u64
            | Self::USED
            | held
            | ipv6
            | (self.min_ttl as u64) << 16
            | (self.ifindex as u64) << 32
    }

    /// From the word; `None`: the number is free.
    #[must_use]
    #[inline(always)]
    pub const fn unpack(word: u64) -> Option<Self> {
        if word & Self::USED == 0 {
            return None;
        }
        Some(Self {
            vrid: word as u8,
            held: word & Self::HELD != 0,
            ipv6: word & Self::IPV6 != 0,
            min_ttl: (word >> 16) as u8,
            ifindex: (word >> 32) as u32,
        })
    }
}

/// By what the program knew that another host has taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Claim {
    /// An advert.
    Advert = 1,
    /// An announcement: gratuitous ARP or an unsolicited neighbour advertisement.
    Announcement = 2,
}

impl Claim {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Advert => "advert",
            Self::Announcement => "announcement",
        }
    }
}

/// Who took over: its MAC in the low 48 bits, the [`Claim`] above.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rival {
    /// As read from the frame.
    pub mac: u64,
    /// How it made itself known.
    pub claim: Claim,
}

impl Rival {
    /// The word.
    #[must_use]
    #[inline(always)]
    pub const fn pack(self) -> u64 {
        self.mac & super::MAC_MASK | (self.claim as u64) << 48
    }

    /// From the word.
    #[must_use]
    pub const fn unpack(word: u64) -> Option<Self> {
        let claim = match word >> 48 {
            1 => Claim::Advert,
            2 => Claim::Announcement,
            _ => return None,
        };
        let mac = word & super::MAC_MASK;
        Some(Self { mac, claim })
    }
}

const _: () = assert!(size_of::<Fence>() == 32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_packing() {
        for (held, ipv6) in [(false, true), (true, false)] {
            let watch = Watch {
                vrid: 255,
                held,
                ipv6,
                min_ttl: 254,
                ifindex: u32::MAX,
            };
            assert_eq!(Watch::unpack(watch.pack()), Some(watch));
        }
        assert_eq!(Watch::unpack(0), None);
        for claim in [Claim::Advert, Claim::Announcement] {
            let mac = 0x0102_0304_0506;
            let rival = Rival { mac, claim };
            assert_eq!(Rival::unpack(rival.pack()), Some(rival));
        }
        assert_eq!(Rival::unpack(0), None);
    }
}
