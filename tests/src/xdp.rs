//! Programs for the ports of the lab's switch.
//!
//! * [`Pass`], an XDP program: a veth sends what the far end's program transmits (`XDP_TX`) only if
//!   it has an XDP program itself, so each port carries this one.
//! * [`Tag`], a classifier (tcx, Linux 6.6): makes a port one of a VLAN, on kernels without any.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use crate::{
    error::{Context, Result},
    link,
};

/// An XDP program that lets every packet pass, on an interface; it is detached on drop, or when the
/// process ends.
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
        let instructions = [
            [0xb7, 0, 0, 0, 2, 0, 0, 0], // r0 = 2 (XDP_PASS)
            [0x95, 0, 0, 0, 0, 0, 0, 0], // exit
        ];
        let program = load(6 /* BPF_PROG_TYPE_XDP */, &instructions).context(what)?;
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

/// Programs that make an interface one of a VLAN, as a switch's access port is, until they are
/// dropped.
#[derive(Debug)]
pub struct Tag {
    _links: [OwnedFd; 2],
}

impl Tag {
    /// Gives what arrives at an interface of the calling thread's network namespace an 802.1Q tag, and
    /// takes the tag of what leaves there off.
    ///
    /// # Errors
    ///
    /// No such interface, or a kernel without tcx.
    pub fn attach(interface: &str, vlan: u16) -> Result<Self> {
        let what = || format!("make {interface} one of VLAN {vlan}");
        let [low, high] = vlan.to_le_bytes();
        let push = [
            [0xb7, 2, 0, 0, 0x81, 0, 0, 0],   // r2 = 0x8100 in network byte order
            [0xb7, 3, 0, 0, low, high, 0, 0], // r3 = the VLAN
            [0x85, 0, 0, 0, 18, 0, 0, 0],     // call bpf_skb_vlan_push
            [0xb7, 0, 0, 0, 0, 0, 0, 0],      // r0 = 0 (TCX_PASS)
            [0x95, 0, 0, 0, 0, 0, 0, 0],      // exit
        ];
        let pop = [
            [0x85, 0, 0, 0, 19, 0, 0, 0], // call bpf_skb_vlan_pop: a frame without stays as it is
            [0xb7, 0, 0, 0, 0, 0, 0, 0],  // r0 = 0 (TCX_PASS)
            [0x95, 0, 0, 0, 0, 0, 0, 0],  // exit
        ];
        let ifindex = link::index(interface)?;
        let attach = |instructions: &[[u8; 8]], attach_type| {
            let program = load(3 /* BPF_PROG_TYPE_SCHED_CLS */, instructions).context(what)?;
            let link = LinkCreate {
                program: program.as_raw_fd().cast_unsigned(),
                ifindex,
                attach_type,
                flags: 0,
            };
            bpf(28 /* BPF_LINK_CREATE */, &link).context(what)
        };
        Ok(Self {
            _links: [
                attach(&push, 46 /* BPF_TCX_INGRESS */)?,
                attach(&pop, 47 /* BPF_TCX_EGRESS */)?,
            ],
        })
    }
}

/// Loads a program: each instruction is a `struct bpf_insn` of opcode, registers, offset (2) and
/// immediate (4).
fn load(kind: u32, instructions: &[[u8; 8]]) -> io::Result<OwnedFd> {
    let load = ProgLoad {
        kind,
        instruction_count: instructions.len() as u32,
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
