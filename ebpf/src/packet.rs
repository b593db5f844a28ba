//! Reading and writing a packet's bytes.
//!
//! One parser serves host tests (`&mut [u8]`) and the kernel (pointers that the verifier checks).
//! Kernel packets are never made into a slice: the verifier could not follow its bounds.

/// An unsigned integer of a header field.
pub trait Word: Copy {
    /// The low bits of `wide`.
    fn truncate(wide: u64) -> Self;
    /// Zero-extended.
    fn widen(self) -> u64;
}

macro_rules! word {
    ($($word:ty)*) => {$(
        impl Word for $word {
            #[inline(always)]
            fn truncate(wide: u64) -> Self {
                wide as Self
            }

            #[inline(always)]
            fn widen(self) -> u64 {
                self as u64
            }
        }
    )*};
}
word!(u8 u16 u32 u64);

/// A packet's bytes, from its Ethernet header on. Words are read as they lie in memory by a
/// little-endian machine, the only kind the kernel object is built for.
pub trait Packet {
    /// The word at `offset`; `None` if it is not wholly within the packet.
    fn load<W: Word>(&self, offset: usize) -> Option<W>;

    /// Writes the word at `offset`; `None` if it is not wholly within the packet.
    fn store<W: Word>(&mut self, offset: usize, word: W) -> Option<()>;
}

impl Packet for [u8] {
    fn load<W: Word>(&self, offset: usize) -> Option<W> {
        let end = offset.checked_add(size_of::<W>())?;
        let mut wide = [0; 8];
        wide.get_mut(..size_of::<W>())?
            .copy_from_slice(self.get(offset..end)?);
        Some(W::truncate(u64::from_le_bytes(wide)))
    }

    fn store<W: Word>(&mut self, offset: usize, word: W) -> Option<()> {
        let end = offset.checked_add(size_of::<W>())?;
        let wide = word.widen().to_le_bytes();
        self.get_mut(offset..end)?
            .copy_from_slice(wide.get(..size_of::<W>())?);
        Some(())
    }
}
