//! Which addresses and ports translated packets come from, in one word.

use super::{NAT_ADDRESSES, NAT_PORT_SETS};

/// Which addresses and ports translated packets come from.
///
/// An address has a number, which is half of each translation from it. It keeps its number for as
/// long as it is configured, whatever becomes of the others, so the numbers in use may have holes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NatPool {
    /// The first set of four ports that may be used: port / 4.
    pub first_set: u16,
    /// How many sets follow, itself included, for each address; 0: there is no translation.
    pub sets: u16,
    /// How many IPv4 addresses there are.
    pub ipv4: u8,
    /// How many IPv6 addresses there are.
    pub ipv6: u8,
    /// The numbers of the IPv4 addresses, then those of the IPv6 ones.
    pub numbers: [u8; NAT_ADDRESSES],
    /// Whether there are sessions from before addresses or ports were changed, which
    /// [`super::maps::NAT_MOVED`] leads to.
    pub has_moved: bool,
}

impl NatPool {
    /// No translation.
    pub const NONE: Self = Self {
        first_set: 0,
        sets: 0,
        ipv4: 0,
        ipv6: 0,
        numbers: [0, 1, 2, 3, 4, 5, 6, 7],
        has_moved: false,
    };

    /// The word.
    #[must_use]
    pub fn pack(self) -> u64 {
        let numbers = self.numbers.iter().rev();
        let numbers = numbers.fold(0, |word, &number| word << 3 | u64::from(number & 7));
        u64::from(self.first_set)
            | u64::from(self.sets) << PoolWord::SETS
            | u64::from(self.ipv4) << PoolWord::IPV4
            | u64::from(self.ipv6) << PoolWord::IPV6
            | u64::from(self.has_moved) << PoolWord::HAS_MOVED
            | numbers << PoolWord::NUMBERS
    }

    /// From the word.
    #[must_use]
    pub fn unpack(word: u64) -> Self {
        let word = PoolWord(word);
        let (ipv4, ipv6) = (word.ipv4(), word.ipv6());
        Self {
            first_set: word.first_set() as u16,
            sets: word.sets() as u16,
            ipv4: ipv4 as u8,
            ipv6: ipv6 as u8,
            numbers: core::array::from_fn(|index| word.number(index as u64) as u8),
            has_moved: word.has_moved(),
        }
    }

    /// The numbers in use.
    pub fn in_use(&self) -> impl Iterator<Item = u8> + use<> {
        let count = usize::from(self.ipv4) + usize::from(self.ipv6);
        self.numbers.into_iter().take(count)
    }
}

impl Default for NatPool {
    fn default() -> Self {
        Self::NONE
    }
}

/// A [`NatPool`] as the program reads it: field by field, as it needs them.
#[derive(Debug, Clone, Copy)]
pub struct PoolWord(pub u64);

impl PoolWord {
    const SETS: u32 = 14;
    const IPV4: u32 = 29;
    const IPV6: u32 = 33;
    const HAS_MOVED: u32 = 37;
    const NUMBERS: u32 = 40;

    /// [`NatPool::first_set`]
    #[must_use]
    #[inline(always)]
    pub const fn first_set(self) -> u64 {
        self.0 & 0x3fff
    }

    /// [`NatPool::sets`]
    #[must_use]
    #[inline(always)]
    pub const fn sets(self) -> u64 {
        (self.0 >> Self::SETS) & 0x7fff
    }

    /// [`NatPool::ipv4`]
    #[must_use]
    #[inline(always)]
    pub const fn ipv4(self) -> u64 {
        (self.0 >> Self::IPV4) & 0xf
    }

    /// [`NatPool::ipv6`]
    #[must_use]
    #[inline(always)]
    pub const fn ipv6(self) -> u64 {
        (self.0 >> Self::IPV6) & 0xf
    }

    /// [`NatPool::has_moved`]
    #[must_use]
    #[inline(always)]
    pub const fn has_moved(self) -> bool {
        self.0 & 1 << Self::HAS_MOVED != 0
    }

    /// One of [`NatPool::numbers`].
    #[must_use]
    #[inline(always)]
    pub const fn number(self, index: u64) -> u64 {
        (self.0 >> Self::NUMBERS >> (3 * index)) & 7
    }
}

const _: () = {
    assert!(NAT_ADDRESSES == 8 && PoolWord::NUMBERS + 3 * NAT_ADDRESSES as u32 == 64);
    assert!(NAT_PORT_SETS == 1 << PoolWord::SETS);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_survive_packing() {
        for has_moved in [false, true] {
            let pool = NatPool {
                first_set: 16_383,
                sets: 16_384,
                ipv4: 8,
                ipv6: 8,
                numbers: [7, 0, 3, 5, 1, 2, 6, 4],
                has_moved,
            };
            assert_eq!(NatPool::unpack(pool.pack()), pool);
        }
        assert_eq!(NatPool::unpack(NatPool::NONE.pack()), NatPool::NONE);
        let pool = NatPool {
            ipv4: 1,
            ipv6: 2,
            numbers: [4, 1, 7, 0, 0, 0, 0, 0],
            ..NatPool::NONE
        };
        assert!(pool.in_use().eq([4, 1, 7]));
    }
}
