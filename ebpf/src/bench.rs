//! What the benchmark's wrapper program (`bin/bench.rs`) and the process that runs it share.

/// The wrapper's map: one [`Run`].
pub const RUN: &str = "RUN";

/// The wrapper's program array: the program under test is its entry 0.
pub const UNDER_TEST: &str = "UNDER_TEST";

/// Bytes of a frame's head that the wrapper can restore. What lies behind them, a program under
/// test must leave alone.
pub const HEAD: usize = 8 * HEAD_WORDS;

/// [`HEAD`] in words.
pub const HEAD_WORDS: usize = 9;

/// How many source addresses there are: they differ in the three lower bytes of an IPv4 address,
/// and in the same number of an IPv6 address.
pub const SOURCES: u32 = 1 << 24;

/// What a run is to do.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The frame's first bytes, as words read from it.
    pub head: [u64; HEAD_WORDS],
    /// The frame's length.
    pub length: u64,
    /// 4 or 6: where the source address is.
    pub family: u64,
    /// The number of source addresses, a power of two of at most [`SOURCES`], less one.
    pub source_mask: u64,
    /// The source of the last packet; each packet has the next one.
    pub source: u64,
}

impl Run {
    /// Words of the whole.
    pub const WORDS: usize = HEAD_WORDS + 4;

    /// The entry in memory, word by word.
    #[must_use]
    pub fn words(&self) -> [u64; Self::WORDS] {
        let mut words = [0; Self::WORDS];
        words[..HEAD_WORDS].copy_from_slice(&self.head);
        words[HEAD_WORDS..].copy_from_slice(&[
            self.length,
            self.family,
            self.source_mask,
            self.source,
        ]);
        words
    }
}

/// The head's word 3 with source number `source` in an IPv4 header that has source 0 there: bytes
/// 27 to 29 of the frame, and the header's checksum in bytes 24 and 25 made right for them
/// (RFC 1071: it is a sum of 16-bit words in any one byte order).
#[must_use]
#[inline(always)]
pub const fn ipv4_source(word: u64, source: u64) -> u64 {
    let sum = (!word & 0xffff) + ((source & 0xff) << 8) + (source >> 8);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    (word & !0xffff | !sum & 0xffff) ^ source << 24
}

/// The head's word 4 with source number `source` in an IPv6 header: bytes 35 to 37 of the frame.
#[must_use]
#[inline(always)]
pub const fn ipv6_source(word: u64, source: u64) -> u64 {
    word ^ source << 24
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_lies_in_memory_as_its_words() {
        let run = Run {
            head: core::array::from_fn(|at| at as u64),
            length: 64,
            family: 4,
            source_mask: 7,
            source: 9,
        };
        // SAFETY: words without padding.
        let memory: [u64; Run::WORDS] = unsafe { core::mem::transmute(run) };
        assert_eq!(run.words(), memory);
    }

    /// Header checksums stay right, and no two sources are the same.
    #[test]
    fn sources_are_valid_and_distinct() {
        let mut frame = [0_u8; 40];
        frame[14..34].copy_from_slice(&[
            0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0, 100, 0, 0, 0, 10, 200, 0, 1,
        ]);
        let checksum = !sum(&frame[14..34]);
        frame[24..26].copy_from_slice(&checksum.to_be_bytes());
        let word = u64::from_le_bytes(frame[24..32].try_into().unwrap());
        let mut seen = std::collections::BTreeSet::new();
        for source in (0..u64::from(SOURCES)).step_by(4999) {
            frame[24..32].copy_from_slice(&ipv4_source(word, source).to_le_bytes());
            assert_eq!(sum(&frame[14..34]), 0xffff, "source {source}");
            assert_eq!((frame[26], frame[30]), (100, 10), "only the source differs");
            assert!(seen.insert(frame[26..30].to_vec()));
        }
    }

    fn sum(header: &[u8]) -> u16 {
        let words = header
            .chunks(2)
            .map(|b| u32::from(b[0]) << 8 | u32::from(b[1]));
        let sum: u32 = words.sum();
        ((sum & 0xffff) + (sum >> 16)) as u16
    }
}
