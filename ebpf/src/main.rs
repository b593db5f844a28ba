//! The kernel entry point: maps, the packet's memory, counters. All logic is in the library.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

use steerd_ebpf::shared::Shared;

use core::{arch::asm, hint::assert_unchecked};

use aya_ebpf::{
    bindings::xdp_action,
    btf_maps::{Array, PerCpuArray},
    helpers::{bpf_redirect, generated::bpf_jiffies64},
    macros::{btf_map, xdp},
    programs::XdpContext,
};
use aya_log_ebpf::warn;
use steerd_ebpf::{
    abi::{
        Backend, Control, Counter, FLOW4_SETS, FLOW6_SETS, MAC_SLOTS, MAX_BACKENDS, MAX_SERVICES,
        MAX_VERDICTS, RING_LINES, RingLine, SERVICE_SLOTS, Service,
    },
    flow::{Set4, Set6},
    packet::{Packet, Word},
    steer::{Decision, Tables, classify, steer},
    verdict::{Fate, Verdict},
};

/// The daemon reads and writes these through mappings, without system calls.
const MMAPABLE: usize = 1 << 10;

#[btf_map]
static CONTROL: Array<Control, 1, MMAPABLE> = Array::new();
#[btf_map]
static SERVICES: Array<Service, { 2 * SERVICE_SLOTS as usize }, MMAPABLE> = Array::new();
#[btf_map]
static BACKENDS: Array<Backend, { MAX_BACKENDS as usize }, MMAPABLE> = Array::new();
#[btf_map]
static RINGS: Array<RingLine, { RING_LINES as usize }, MMAPABLE> = Array::new();
#[btf_map]
static FLOWS4: Array<Set4, { FLOW4_SETS as usize }, MMAPABLE> = Array::new();
#[btf_map]
static FLOWS6: Array<Set6, { FLOW6_SETS as usize }, MMAPABLE> = Array::new();
#[btf_map]
static MACS: Array<Shared, { 2 * MAC_SLOTS as usize }, MMAPABLE> = Array::new();
#[btf_map]
static VERDICT_STATS: PerCpuArray<Counter, { MAX_VERDICTS as usize }> = PerCpuArray::new();
#[btf_map]
static SERVICE_STATS: PerCpuArray<Counter, { MAX_SERVICES as usize }> = PerCpuArray::new();
#[btf_map]
static BACKEND_STATS: PerCpuArray<Counter, { MAX_BACKENDS as usize }> = PerCpuArray::new();

/// When each CPU last wrote to the log, in 2^8 jiffies.
#[btf_map]
static LOG_GATE: PerCpuArray<u64, 1> = PerCpuArray::new();

/// Steers what arrives at an interface.
#[xdp(frags)]
pub(crate) fn steerd(ctx: XdpContext) -> u32 {
    let mut frame = Frame {
        start: ctx.data(),
        end: ctx.data_end(),
    };
    let length = (frame.end - frame.start) as u64;
    let maps = Maps { ctx: &ctx };
    let target = match classify(&frame, &maps) {
        Ok(target) => target,
        Err(verdict) => {
            count(VERDICT_STATS.get_ptr_mut(verdict as u32), length);
            return action(verdict);
        }
    };
    let decision = steer(&mut frame, &maps, &target);
    count(VERDICT_STATS.get_ptr_mut(decision.verdict as u32), length);
    if decision.service != 0 {
        count(SERVICE_STATS.get_ptr_mut(decision.service), length);
        if decision.backend != 0 {
            count(
                BACKEND_STATS.get_ptr_mut(u32::from(decision.backend)),
                length,
            );
        }
    }
    match decision.verdict {
        Verdict::NoBackend | Verdict::BadBackend | Verdict::TtlExpired => report(&ctx, decision),
        _ => {}
    }
    match decision.verdict.fate() {
        // SAFETY: the helper takes any interface number and checks it.
        Fate::Redirect => unsafe { bpf_redirect(decision.ifindex, 0) as u32 },
        _ => action(decision.verdict),
    }
}

/// The return value that makes the verdict's fate come true.
#[inline(always)]
fn action(verdict: Verdict) -> u32 {
    match verdict.fate() {
        Fate::Pass => xdp_action::XDP_PASS,
        Fate::Drop => xdp_action::XDP_DROP,
        Fate::Tx => xdp_action::XDP_TX,
        Fate::Redirect => xdp_action::XDP_REDIRECT,
    }
}

#[inline(always)]
fn count(counter: Option<*mut Counter>, length: u64) {
    if let Some(counter) = counter {
        // SAFETY: the pointer is to this CPU's value, which nothing else writes while we run.
        unsafe {
            (*counter).packets += 1;
            (*counter).bytes += length;
        }
    }
}

/// Tells the daemon's log of a rare event: at most one in 2^8 jiffies a CPU, off the fast path.
#[inline(never)]
fn report(ctx: &XdpContext, decision: Decision) {
    // SAFETY: the helper has no arguments and always succeeds.
    let now = unsafe { bpf_jiffies64() } >> 8;
    let Some(gate) = LOG_GATE.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: the pointer is to this CPU's value, which nothing else writes while we run.
    unsafe {
        if *gate == now {
            return;
        }
        *gate = now;
    }
    // Numbers only: a string's length would make the verifier follow a loop for each.
    let (service, backend) = (decision.service, u32::from(decision.backend));
    match decision.verdict {
        Verdict::NoBackend => warn!(ctx, "no backend for service {}", service),
        Verdict::TtlExpired => warn!(
            ctx,
            "forwarding loop: a packet of service {} to backend {} ran out of hops",
            service,
            backend
        ),
        _ => warn!(
            ctx,
            "service {}: backend {} is not in use", service, backend
        ),
    }
}

/// A packet in the kernel: plain addresses, compared in the way the verifier follows.
struct Frame {
    start: usize,
    end: usize,
}

/// One load instruction of the given width.
///
/// A header's fields lie at any alignment. The verifier and the machines that steerd runs on take
/// unaligned packet access as one instruction; Rust has no expression for it that compiles to one:
/// an aligned read would be undefined behaviour, an unaligned one is taken apart into bytes unless
/// `allows-misaligned-mem-access` is on for all code, and then the verifier refuses what LLVM makes
/// of the stack. So the instruction is written as it is.
macro_rules! load {
    ($width:literal, $max:expr, $at:expr) => {{
        let value: u64;
        // SAFETY: the caller compared the address with the packet's end, and the verifier proves
        // it again before the program ever runs.
        unsafe {
            asm!(
                concat!("{value} = *(", $width, " *)({at} + 0)"),
                value = out(reg) value,
                at = in(reg) $at,
                options(pure, readonly, nostack, preserves_flags)
            );
            // The instruction extends with zeros; the compiler cannot know.
            assert_unchecked(value <= $max as u64);
        }
        value
    }};
}

/// One store instruction of the given width; see [`load`].
macro_rules! store {
    ($width:literal, $at:expr, $value:expr) => {{
        let value: u64 = $value;
        // SAFETY: as in `load`; XDP programs may write packets.
        unsafe {
            asm!(
                concat!("*(", $width, " *)({at} + 0) = {value}"),
                value = in(reg) value,
                at = in(reg) $at,
                options(nostack, preserves_flags)
            );
        }
    }};
}

impl Frame {
    /// The address at `offset`, if `size` bytes from there are within the packet.
    #[inline(always)]
    fn at(&self, offset: usize, size: usize) -> Option<usize> {
        let at = self.start + offset;
        (at + size <= self.end).then_some(at)
    }
}

impl Packet for Frame {
    #[inline(always)]
    fn load<W: Word>(&self, offset: usize) -> Option<W> {
        let at = self.at(offset, size_of::<W>())?;
        Some(W::truncate(match size_of::<W>() {
            1 => load!("u8", u8::MAX, at),
            2 => load!("u16", u16::MAX, at),
            4 => load!("u32", u32::MAX, at),
            _ => load!("u64", u64::MAX, at),
        }))
    }

    #[inline(always)]
    fn store<W: Word>(&mut self, offset: usize, word: W) -> Option<()> {
        let at = self.at(offset, size_of::<W>())?;
        match size_of::<W>() {
            1 => store!("u8", at, word.widen()),
            2 => store!("u16", at, word.widen()),
            4 => store!("u32", at, word.widen()),
            _ => store!("u64", at, word.widen()),
        }
        Some(())
    }
}

/// The maps of this file.
struct Maps<'c> {
    ctx: &'c XdpContext,
}

impl Tables for Maps<'_> {
    #[inline(always)]
    fn control(&self) -> Option<&Control> {
        CONTROL.get(0)
    }

    #[inline(always)]
    fn service(&self, slot: u32) -> Option<&Service> {
        SERVICES.get(slot)
    }

    #[inline(always)]
    fn backend(&self, id: u16) -> Option<&Backend> {
        BACKENDS.get(u32::from(id))
    }

    #[inline(always)]
    fn ring_line(&self, line: u32) -> Option<&RingLine> {
        RINGS.get(line)
    }

    #[inline(always)]
    fn mac(&self, slot: u32) -> Option<&Shared> {
        MACS.get(slot)
    }

    #[inline(always)]
    fn set4(&self, hash: u64) -> Option<&Set4> {
        FLOWS4.get(hash as u32 & (FLOW4_SETS - 1))
    }

    #[inline(always)]
    fn set6(&self, hash: u64) -> Option<&Set6> {
        FLOWS6.get(hash as u32 & (FLOW6_SETS - 1))
    }

    #[inline(always)]
    fn jiffies(&self) -> u64 {
        // SAFETY: the helper has no arguments and always succeeds; it is inlined by the verifier.
        unsafe { bpf_jiffies64() }
    }

    #[inline(always)]
    fn ingress(&self) -> u32 {
        self.ctx.ingress_ifindex() as u32
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
