//! Reading, writing and resizing a packet.
//!
//! One implementation of the logic serves host tests ([`Buffer`]) and the kernel (pointers that the
//! verifier checks). Kernel packets are never made into a slice: the verifier could not follow its
//! bounds.

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

    /// [`Packet::load`] at a constant offset: it is part of the kernel's instruction then, so the
    /// address takes neither an instruction nor a register.
    #[inline(always)]
    fn load_at<W: Word, const OFFSET: usize>(&self) -> Option<W> {
        self.load(OFFSET)
    }

    /// [`Packet::store`] at a constant offset; see [`Packet::load_at`].
    #[inline(always)]
    fn store_at<W: Word, const OFFSET: usize>(&mut self, word: W) -> Option<()> {
        self.store(OFFSET, word)
    }

    /// The sum of the 32-bit words of `BYTES` bytes at `offset`, a multiple of 4 and at most 512,
    /// for a checksum. `None` if they are not wholly within the packet.
    fn sum<const BYTES: usize>(&self, offset: usize) -> Option<u64>;

    /// Whether so many bytes can be read and written.
    fn has(&self, bytes: usize) -> bool;

    /// How long the packet is. More than can be read, where its end lies elsewhere.
    fn length(&self) -> usize;

    /// Moves the beginning of the packet: forward by so many bytes, which are then no longer part
    /// of it, or backward where negative; what is new there is to be written. `None` if there is no
    /// room, and the packet is as before.
    fn advance(&mut self, bytes: isize) -> Option<()>;

    /// Cuts the packet off behind so many bytes. `None` if that is not possible.
    fn truncate(&mut self, length: usize) -> Option<()>;

    /// The interface it came in through.
    fn ingress(&self) -> u32;

    /// What the kernel knows the packet by.
    fn context(&self) -> *mut core::ffi::c_void;
}

/// A packet in ordinary memory.
#[cfg(not(target_arch = "bpf"))]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Buffer {
    /// Its bytes.
    pub bytes: std::vec::Vec<u8>,
    /// The interface it came in through.
    pub ingress: u32,
}

#[cfg(not(target_arch = "bpf"))]
impl Packet for Buffer {
    fn load<W: Word>(&self, offset: usize) -> Option<W> {
        let end = offset.checked_add(size_of::<W>())?;
        let mut wide = [0; 8];
        wide.get_mut(..size_of::<W>())?
            .copy_from_slice(self.bytes.get(offset..end)?);
        Some(W::truncate(u64::from_le_bytes(wide)))
    }

    fn store<W: Word>(&mut self, offset: usize, word: W) -> Option<()> {
        let end = offset.checked_add(size_of::<W>())?;
        let wide = word.widen().to_le_bytes();
        self.bytes
            .get_mut(offset..end)?
            .copy_from_slice(wide.get(..size_of::<W>())?);
        Some(())
    }

    fn sum<const BYTES: usize>(&self, offset: usize) -> Option<u64> {
        let end = offset.checked_add(BYTES)?;
        let words = self.bytes.get(offset..end)?.as_chunks().0;
        Some(
            words
                .iter()
                .map(|&word| u64::from(u32::from_le_bytes(word)))
                .sum(),
        )
    }

    fn has(&self, bytes: usize) -> bool {
        bytes <= self.bytes.len()
    }

    fn length(&self) -> usize {
        self.bytes.len()
    }

    fn advance(&mut self, bytes: isize) -> Option<()> {
        if let Ok(shorter) = usize::try_from(bytes) {
            // As the kernel: an Ethernet header must stay.
            if shorter + 14 > self.bytes.len() {
                return None;
            }
            self.bytes.drain(..shorter);
        } else {
            let room = std::vec![0; bytes.unsigned_abs()];
            self.bytes.splice(..0, room);
        }
        Some(())
    }

    fn truncate(&mut self, length: usize) -> Option<()> {
        (14..=self.bytes.len())
            .contains(&length)
            .then(|| self.bytes.truncate(length))
    }

    fn ingress(&self) -> u32 {
        self.ingress
    }

    fn context(&self) -> *mut core::ffi::c_void {
        core::ptr::null_mut()
    }
}
