//! A 64-bit word that several CPUs and the daemon read and write at once, each access whole.

use core::fmt;

/// A word shared between CPUs and with the daemon. Reads and writes are single instructions and
/// order nothing else.
///
/// On the host it is a relaxed atomic. The BPF back end (LLVM 22, instruction set v3, which Linux
/// 5.12 has) selects no relaxed atomic loads and stores; there a volatile access is the one plain
/// 64-bit instruction that is wanted.
#[repr(transparent)]
#[derive(Default)]
pub struct Shared {
    #[cfg(not(target_arch = "bpf"))]
    word: core::sync::atomic::AtomicU64,
    #[cfg(target_arch = "bpf")]
    word: core::cell::UnsafeCell<u64>,
}

// SAFETY: on bpf every access is one aligned 64-bit instruction, which the machines that BPF is
// compiled for execute whole; on the host the atomic is `Sync` already.
#[cfg(target_arch = "bpf")]
unsafe impl Sync for Shared {}

impl Shared {
    /// A word of this value.
    #[must_use]
    pub const fn new(value: u64) -> Self {
        Self {
            word: value_cell(value),
        }
    }

    /// Its value now.
    #[must_use]
    #[inline(always)]
    pub fn load(&self) -> u64 {
        #[cfg(not(target_arch = "bpf"))]
        return self.word.load(core::sync::atomic::Ordering::Relaxed);
        #[cfg(target_arch = "bpf")]
        // SAFETY: the cell is valid and aligned; see `Sync` above for concurrent writers.
        return unsafe { self.word.get().read_volatile() };
    }

    /// Makes it `value`.
    #[inline(always)]
    pub fn store(&self, value: u64) {
        #[cfg(not(target_arch = "bpf"))]
        self.word
            .store(value, core::sync::atomic::Ordering::Relaxed);
        #[cfg(target_arch = "bpf")]
        // SAFETY: as in `load`.
        unsafe {
            self.word.get().write_volatile(value);
        }
    }
}

impl Shared {
    /// Adds to it, wrapping, and returns what it was: one atomic instruction.
    #[inline(always)]
    pub fn fetch_add(&self, value: u64) -> u64 {
        #[cfg(not(target_arch = "bpf"))]
        return self
            .word
            .fetch_add(value, core::sync::atomic::Ordering::Relaxed);
        #[cfg(target_arch = "bpf")]
        {
            let mut word = value;
            // SAFETY: the cell is valid and aligned. The standard library has no atomics for this
            // target, which has them since instruction set v3 (Linux 5.12).
            unsafe {
                core::arch::asm!(
                    "{word} = atomic_fetch_add((u64 *)({at} + 0), {word})",
                    word = inout(reg) word,
                    at = in(reg) self.word.get(),
                    options(nostack)
                );
            }
            word
        }
    }

    /// Makes it `new` if it is `old`, and returns what it was: one atomic instruction.
    #[inline(always)]
    pub fn compare_exchange(&self, old: u64, new: u64) -> u64 {
        #[cfg(not(target_arch = "bpf"))]
        {
            use core::sync::atomic::Ordering::SeqCst;
            match self.word.compare_exchange(old, new, SeqCst, SeqCst) {
                Ok(was) | Err(was) => was,
            }
        }
        #[cfg(target_arch = "bpf")]
        {
            let mut word = old;
            // SAFETY: as in `fetch_add`. The instruction compares with r0.
            unsafe {
                core::arch::asm!(
                    "r0 = cmpxchg_64({at} + 0, r0, {new})",
                    inout("r0") word,
                    at = in(reg) self.word.get(),
                    new = in(reg) new,
                    options(nostack)
                );
            }
            word
        }
    }
}

#[cfg(not(target_arch = "bpf"))]
const fn value_cell(value: u64) -> core::sync::atomic::AtomicU64 {
    core::sync::atomic::AtomicU64::new(value)
}

#[cfg(target_arch = "bpf")]
const fn value_cell(value: u64) -> core::cell::UnsafeCell<u64> {
    core::cell::UnsafeCell::new(value)
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.load())
    }
}
