//! A map in this process's memory: what the program reads changes without a system call, one
//! whole word at a time.

use std::{fs::File, io, os::fd::AsFd, ptr::NonNull};

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use steerd_ebpf::shared::Shared;

/// An array map created with `BPF_F_MMAPABLE`.
#[derive(Debug)]
pub(super) struct Mapped {
    base: NonNull<Shared>,
    words: usize,
    /// Words of one element.
    stride: usize,
}

// SAFETY: the mapping belongs to this value, and every access to it is an atomic one.
unsafe impl Send for Mapped {}
// SAFETY: as above.
unsafe impl Sync for Mapped {}

impl Mapped {
    /// Maps the `elements` values of `value_size` bytes of the map behind `fd`.
    pub(super) fn new(fd: impl AsFd, value_size: usize, elements: u32) -> io::Result<Self> {
        let stride = value_size.div_ceil(8);
        let words = stride * elements as usize;
        let bytes = std::num::NonZeroUsize::new(words * 8)
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // The map is held by its pin; a duplicate of the descriptor is not needed afterwards.
        let file = File::from(fd.as_fd().try_clone_to_owned()?);
        // SAFETY: a new mapping at an address of the kernel's choice aliases nothing in Rust.
        let base = unsafe { mmap(None, bytes, protection, MapFlags::MAP_SHARED, &file, 0) }?;
        Ok(Self {
            base: base.cast(),
            words,
            stride,
        })
    }

    /// The words of one element; empty if there is no such element.
    pub(super) fn element(&self, index: u32) -> &[Shared] {
        let at = index as usize * self.stride;
        self.all().get(at..at + self.stride).unwrap_or_default()
    }

    /// All words.
    pub(super) fn all(&self) -> &[Shared] {
        // SAFETY: the mapping is as long, page-aligned, initialised by the kernel, lives as long as
        // self, and is only ever accessed through `Shared`'s atomics, here and in the kernel.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.words) }
    }

    /// The number of elements.
    pub(super) fn len(&self) -> u32 {
        (self.words / self.stride) as u32
    }

    /// The bytes of one element, word by word.
    pub(super) fn bytes(&self, index: u32) -> Vec<u8> {
        self.element(index)
            .iter()
            .flat_map(|word| word.load().to_ne_bytes())
            .collect()
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, of this length, and no borrow of it is left.
        if let Err(error) = unsafe { munmap(self.base.cast(), self.words * 8) } {
            tracing::warn!(%error, "could not unmap a map");
        }
    }
}
