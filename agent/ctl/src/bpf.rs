//! The few bpf(2) calls that read a pinned map: open, describe, look up, go from key to key, and map
//! into memory.
//! Numbers and layouts are those of the kernel's `include/uapi/linux/bpf.h`.

use std::{
    ffi::CString,
    io,
    ops::Deref,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    ptr::NonNull,
    sync::atomic::AtomicU64,
};

const MAP_LOOKUP_ELEM: libc::c_int = 1;
const MAP_GET_NEXT_KEY: libc::c_int = 4;
const OBJ_GET: libc::c_int = 7;
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;

/// The map's type is an array.
pub(crate) const TYPE_ARRAY: u32 = 2;
/// The map's type is an array with one value for each CPU.
pub(crate) const TYPE_PERCPU_ARRAY: u32 = 6;
/// The map's type is a trie of longest prefixes.
pub(crate) const TYPE_LPM_TRIE: u32 = 11;
/// The map's type is a hash of interfaces.
pub(crate) const TYPE_DEVMAP_HASH: u32 = 25;

/// An open map.
#[derive(Debug)]
pub(crate) struct Map {
    fd: OwnedFd,
}

/// The beginning of `struct bpf_map_info`; the kernel fills in as much as it is asked for.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Info {
    /// [`TYPE_ARRAY`] and others.
    pub(crate) map_type: u32,
    /// The kernel's number for it.
    pub(crate) id: u32,
    /// Bytes.
    pub(crate) key_size: u32,
    /// Bytes.
    pub(crate) value_size: u32,
    /// How many it can hold.
    pub(crate) max_entries: u32,
    /// How it was made.
    pub(crate) flags: u32,
}

#[repr(C)]
struct ObjGet {
    path: u64,
    fd: u32,
    flags: u32,
}

#[repr(C)]
struct InfoByFd {
    fd: u32,
    length: u32,
    info: u64,
}

#[repr(C)]
struct NextKey {
    fd: u32,
    zero: u32,
    key: u64,
    next: u64,
}

#[repr(C)]
struct LookupElem {
    fd: u32,
    zero: u32,
    key: u64,
    value: u64,
    flags: u64,
}

impl Map {
    /// Opens the map pinned at `path`. Not with BPF_F_RDONLY: of a descriptor that cannot write,
    /// the kernel takes no mapping to be a shared one, and maps can only be mapped shared.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        let attributes = ObjGet {
            path: path.as_ptr() as u64,
            fd: 0,
            flags: 0,
        };
        // SAFETY: the path is a C string that lives through the call.
        let fd = unsafe { bpf(OBJ_GET, &attributes) }?;
        // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { fd })
    }

    /// What it is.
    pub(crate) fn info(&self) -> io::Result<Info> {
        let mut info = Info::default();
        let attributes = InfoByFd {
            fd: self.raw(),
            length: size_of::<Info>() as u32,
            info: &raw mut info as u64,
        };
        // SAFETY: `info` is writable for `length` bytes through the call, and any bytes make one.
        unsafe { bpf(OBJ_GET_INFO_BY_FD, &attributes) }?;
        Ok(info)
    }

    /// Reads the element of `key` into `value`; false if there is none. Of a per-CPU array that is one
    /// value after the other, for each possible CPU.
    ///
    /// # Safety
    ///
    /// The kernel reads and writes as much as the map's shape says: `key` must be as long as a key,
    /// and `value` must have room for the value size rounded up to 8, times the possible CPUs where
    /// the map has one for each.
    pub(crate) unsafe fn look_up(&self, key: &[u8], value: &mut [u64]) -> io::Result<bool> {
        let attributes = LookupElem {
            fd: self.raw(),
            zero: 0,
            key: key.as_ptr() as u64,
            value: value.as_mut_ptr() as u64,
            flags: 0,
        };
        // SAFETY: by this function's contract key and value take what the kernel reads and writes.
        found(unsafe { bpf(MAP_LOOKUP_ELEM, &attributes) })
    }

    /// Makes `key` the one that follows `after`, or the first one; false if there is none. That of a
    /// key that is gone is the first one.
    ///
    /// # Safety
    ///
    /// The kernel reads and writes as much as the map's shape says: both must be as long as a key.
    pub(crate) unsafe fn next_key(&self, after: Option<&[u8]>, key: &mut [u8]) -> io::Result<bool> {
        let attributes = NextKey {
            fd: self.raw(),
            zero: 0,
            key: after.map_or(0, |after| after.as_ptr() as u64),
            next: key.as_mut_ptr() as u64,
        };
        // SAFETY: by this function's contract both are as long as the kernel reads and writes.
        found(unsafe { bpf(MAP_GET_NEXT_KEY, &attributes) })
    }

    /// The first `bytes` of an array that was made with BPF_F_MMAPABLE (Linux 5.5).
    pub(crate) fn view(&self, bytes: usize) -> io::Result<View> {
        // SAFETY: a new mapping, at an address of the kernel's choice, touches no memory of ours.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ,
                libc::MAP_SHARED,
                self.fd.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        match NonNull::new(start.cast()) {
            Some(start) => Ok(View { start, bytes }),
            None => Err(io::ErrorKind::AddrNotAvailable.into()),
        }
    }

    fn raw(&self) -> u32 {
        self.fd.as_raw_fd() as u32
    }
}

/// A map's values in memory, as 64-bit words. The kernel writes them at the same time.
#[derive(Debug)]
pub(crate) struct View {
    start: NonNull<AtomicU64>,
    bytes: usize,
}

impl Deref for View {
    type Target = [AtomicU64];

    fn deref(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is page-aligned, `bytes` long, readable and lives as long as `self`.
        // Others write to it, which is why it is seen as atomics; these are only loaded from.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.bytes / 8) }
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, of this place and length, and nothing borrows from it.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

/// bpf(2).
///
/// # Safety
///
/// The addresses in `attributes` must be what `command` takes.
unsafe fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<i32> {
    // SAFETY: `attributes` is readable for its size; the kernel takes a shorter union than its
    // own. What its addresses point to is the caller's promise.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attributes),
            size_of::<T>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result as i32)
    }
}

/// Whether there was something.
fn found(result: io::Result<i32>) -> io::Result<bool> {
    match result {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod testing {
    //! Maps to read, as the daemon would have made and pinned them.

    use super::*;

    #[repr(C)]
    struct Create {
        map_type: u32,
        key_size: u32,
        value_size: u32,
        max_entries: u32,
        flags: u32,
    }

    #[repr(C)]
    struct Update {
        fd: u32,
        zero: u32,
        key: u64,
        value: u64,
        flags: u64,
    }

    impl Map {
        pub(crate) fn create(
            map_type: u32,
            shape: &steerd_ebpf::abi::maps::Shape,
            flags: u32,
        ) -> io::Result<Self> {
            let attributes = Create {
                map_type,
                key_size: shape.key_size,
                value_size: shape.value_size,
                max_entries: shape.entries,
                flags,
            };
            // SAFETY: no addresses in it.
            let fd = unsafe { bpf(0, &attributes) }?;
            // SAFETY: the kernel has just made this descriptor for us.
            let fd = unsafe { OwnedFd::from_raw_fd(fd) };
            Ok(Self { fd })
        }

        pub(crate) fn pin(&self, path: &Path) -> io::Result<()> {
            let path = CString::new(path.as_os_str().as_bytes())?;
            let attributes = ObjGet {
                path: path.as_ptr() as u64,
                fd: self.raw(),
                flags: 0,
            };
            // SAFETY: the path is a C string that lives through the call.
            unsafe { bpf(6, &attributes) }.map(|_| ())
        }

        /// `value` holds all that the kernel reads.
        pub(crate) fn update(&self, index: u32, value: &[u64]) -> io::Result<()> {
            self.insert(&index.to_ne_bytes(), value)
        }

        /// `key` and `value` hold all that the kernel reads.
        pub(crate) fn insert(&self, key: &[u8], value: &[u64]) -> io::Result<()> {
            let attributes = Update {
                fd: self.raw(),
                zero: 0,
                key: key.as_ptr() as u64,
                value: value.as_ptr() as u64,
                flags: 0,
            };
            // SAFETY: key and value live through the call; the tests give values of full length.
            unsafe { bpf(2, &attributes) }.map(|_| ())
        }
    }
}
