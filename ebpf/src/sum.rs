//! The Internet checksum (RFC 1071), changed along with what it covers (RFC 1624).
//!
//! All words are as read from the packet: the sum does not care about the order of bytes.

/// Adds up a sum's carries to 16 bits.
#[must_use]
#[inline(always)]
pub const fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// A checksum after `change` was added to what it covers: new words, and old ones complemented
/// (RFC 1624 equation 3).
#[must_use]
#[inline(always)]
pub const fn replace(checksum: u16, change: u64) -> u16 {
    !fold(!checksum as u64 + change)
}

/// The sum of an address's words.
#[must_use]
#[inline(always)]
pub const fn words(address: [u64; 2]) -> u64 {
    word(address[0]) + word(address[1])
}

/// The sum of a word's halves: so that a few of them fit in another word.
#[must_use]
#[inline(always)]
pub const fn word(word: u64) -> u64 {
    (word & 0xffff_ffff) + (word >> 32)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn full(bytes: &[u8]) -> u16 {
        let words = bytes
            .chunks(2)
            .map(|pair| u64::from(u16::from_le_bytes([pair[0], pair[1]])));
        !fold(words.sum())
    }

    /// Of any width, with the two zeros told apart: only nothing at all is 0.
    #[test]
    fn folding_is_adding_around() {
        let around = |mut sum: u64| {
            while sum > 0xffff {
                sum = (sum & 0xffff) + (sum >> 16);
            }
            sum as u16
        };
        let parts = [0, 1, 2, 0x7fff, 0x8000, 0xfffd, 0xfffe, 0xffff];
        for a in parts {
            for b in parts {
                for c in parts {
                    for d in parts {
                        let sum = a << 48 | b << 32 | c << 16 | d;
                        assert_eq!(fold(sum), around(sum), "{sum:#x}");
                    }
                }
            }
        }
    }

    proptest! {
        /// The changed checksum is the one computed anew, but for the two forms of zero, of which
        /// RFC 1624 says which one: what was not all zeros stays so.
        #[test]
        fn changing_equals_computing(mut bytes in prop::collection::vec(any::<u8>(), 40..=40), new: u32, at in 0_usize..9) {
            bytes[0] = 0x45;
            let before = full(&bytes);
            let old = u32::from_le_bytes(bytes[4 * at..4 * at + 4].try_into().unwrap());
            bytes[4 * at..4 * at + 4].copy_from_slice(&new.to_le_bytes());
            prop_assume!(bytes.iter().any(|&byte| byte != 0));
            let change = word(u64::from(!old)) + word(u64::from(new));
            prop_assert_eq!(replace(before, change), full(&bytes));
        }
    }
}
