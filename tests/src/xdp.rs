//! An XDP program that lets every packet pass: `r0 = XDP_PASS; exit`.
//!
//! A veth sends what the far end's program transmits (`XDP_TX`) only if it has an XDP program
//! itself, so each port of the lab's switch carries this one.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use crate::{
    error::{Context, Result},
    link,
};

/// The program on an interface; it is detached on drop, or when the process ends.
#[derive(Debug)]
pub struct Pass {
    _link: OwnedFd,
}

impl Pass {
    /// Attaches it, in the driver, to an interface of the calling thread's network namespace.
    ///
    /// # Errors
    ///
    /// No such interface, it has a program, or this process may not load programs.
    pub fn attach(interface: &str) -> Result<Self> {
        let what = || format!("attach a passing XDP program to {interface}");
        let program = load().context(what)?;
        let link = LinkCreate {
            program: program.as_raw_fd().cast_unsigned(),
            ifindex: link::index(interface)?,
            attach_type: 37, // BPF_XDP
            flags: 1 << 2,   // XDP_FLAGS_DRV_MODE
        };
        Ok(Self {
            _link: bpf(28 /* BPF_LINK_CREATE */, &link).context(what)?,
        })
    }
}

/// Loads the program.
fn load() -> io::Result<OwnedFd> {
    // struct bpf_insn: opcode, registers, offset (2), immediate (4).
    let instructions: [[u8; 8]; 2] = [
        [0xb7, 0, 0, 0, 2, 0, 0, 0], // r0 = 2 (XDP_PASS)
        [0x95, 0, 0, 0, 0, 0, 0, 0], // exit
    ];
    let load = ProgLoad {
        kind: 6, // BPF_PROG_TYPE_XDP
        instruction_count: 2,
        instructions: instructions.as_ptr() as u64,
        license: c"Dual MIT/GPL".as_ptr() as u64,
    };
    bpf(5 /* BPF_PROG_LOAD */, &load)
}

/// The beginning of `union bpf_attr` for `BPF_PROG_LOAD`; the kernel takes the rest as zero.
#[repr(C)]
struct ProgLoad {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
}

/// The beginning of `union bpf_attr` for `BPF_LINK_CREATE`.
#[repr(C)]
struct LinkCreate {
    program: u32,
    ifindex: u32,
    attach_type: u32,
    flags: u32,
}

/// A bpf(2) call that answers with a file descriptor.
fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: the attributes and what they point to outlive the call, and the kernel is told their
    // size.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>()) };
    match i32::try_from(fd) {
        // SAFETY: a non-negative answer of these commands is a new descriptor that nobody owns.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}
