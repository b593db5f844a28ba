//! The kernel entry point: maps, the packet's memory, counters. All logic is in the library.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
// For `is_val_statically_known`: what is constant is left to the compiler.
#![feature(core_intrinsics)]
#![allow(
    internal_features,
    reason = "the kernel object is built with one pinned compiler"
)]

use steerd_ebpf::shared::Shared;

use core::{
    arch::asm, ffi::c_void, hint::assert_unchecked, intrinsics::is_val_statically_known,
    ptr::null_mut,
};

use aya_ebpf::{
    bindings::{xdp_action, xdp_md},
    btf_maps::{Array, DevMapHash, LpmTrie, PerCpuArray, lpm_trie::Key},
    helpers::generated::{
        bpf_csum_diff, bpf_jiffies64, bpf_ktime_get_boot_ns, bpf_xdp_adjust_head,
        bpf_xdp_adjust_tail, bpf_xdp_get_buff_len,
    },
    macros::{btf_map, xdp},
    programs::XdpContext,
};
use aya_log_ebpf::warn;
use steerd_ebpf::{
    abi::{
        Backend, Control, Counter, FLOW4_SETS, FLOW6_SETS, FRAGMENT_SETS, Fence, FragmentSet, Hop,
        Load, MAC_SLOTS, MAX_BACKENDS, MAX_DEVICES, MAX_EVENTS, MAX_ROUTERS, MAX_SERVICES,
        MAX_SOURCES, MAX_VERDICTS, MOVED_LINES, MovedLine, NAT_SETS, RING_LINES, RingLine,
        SERVICE_SLOTS, Service, SynLimit,
    },
    address, arrive,
    event::Event,
    fence,
    flow::{Set4, Set6},
    fragment, general, icmp, nat,
    packet::{Packet, Word},
    parse::{Family, Head},
    parts::Parts,
    rewrite,
    steer::{Decision, Tables, run},
    tunnel,
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
static LOADS: Array<Load, { MAX_BACKENDS as usize }, MMAPABLE> = Array::new();
#[btf_map]
static RINGS: Array<RingLine, { RING_LINES as usize }, MMAPABLE> = Array::new();
#[btf_map]
static FLOWS4: Array<Set4, { FLOW4_SETS as usize }, MMAPABLE> = Array::new();
#[btf_map]
static FLOWS6: Array<Set6, { FLOW6_SETS as usize }, MMAPABLE> = Array::new();
#[btf_map]
static NAT: Array<Set6, { NAT_SETS as usize }, MMAPABLE> = Array::new();
#[btf_map]
static NAT_HOPS: Array<Hop, { 4 * NAT_SETS as usize }, MMAPABLE> = Array::new();
#[btf_map]
static NAT_MOVED: Array<MovedLine, { MOVED_LINES as usize }, MMAPABLE> = Array::new();
#[btf_map]
static FRAGMENTS: Array<FragmentSet, { FRAGMENT_SETS as usize }, MMAPABLE> = Array::new();
#[btf_map]
static SYN_LIMITS: Array<SynLimit, { MAX_SERVICES as usize }, MMAPABLE> = Array::new();
#[btf_map]
static SOURCES: LpmTrie<Source, u32, { MAX_SOURCES as usize }> = LpmTrie::new();
#[btf_map]
static DEVICES: DevMapHash<{ MAX_DEVICES as usize }> = DevMapHash::new();
#[btf_map]
static MACS: Array<Shared, { 2 * MAC_SLOTS as usize }, MMAPABLE> = Array::new();
#[btf_map]
static FENCES: Array<Fence, { MAX_ROUTERS as usize }, MMAPABLE> = Array::new();
#[btf_map]
static VERDICT_STATS: PerCpuArray<Counter, { MAX_VERDICTS as usize }> = PerCpuArray::new();
#[btf_map]
static EVENT_STATS: PerCpuArray<Counter, { MAX_EVENTS as usize }> = PerCpuArray::new();
#[btf_map]
static SERVICE_STATS: PerCpuArray<Counter, { MAX_SERVICES as usize }> = PerCpuArray::new();
#[btf_map]
static BACKEND_STATS: PerCpuArray<Counter, { MAX_BACKENDS as usize }> = PerCpuArray::new();

/// When each CPU last wrote to the log, in 2^8 jiffies.
#[btf_map]
static LOG_GATE: PerCpuArray<u64, 1> = PerCpuArray::new();

/// How many error messages each CPU sent, and in which jiffy.
#[btf_map]
static TELL_GATE: PerCpuArray<[u64; 2], 1> = PerCpuArray::new();

/// The key of the trie of sources, behind its length: a service id and an address.
#[repr(C)]
#[derive(Clone, Copy)]
struct Source {
    service: u32,
    address: [u32; 4],
}

/// A frame that is no longer lies in one buffer: drivers fill one, of 1.5 KiB and more, before they take
/// another.
const ONE_BUFFER: u64 = 1514;

/// Steers what arrives at an interface.
#[xdp(frags)]
pub(crate) fn steerd(ctx: XdpContext) -> u32 {
    let mut frame = Frame::new(&ctx);
    let mut length = (frame.end - frame.start) as u64;
    if length > ONE_BUFFER {
        // There may be more; the helper counts it, and costs 4 ns.
        length = frame.length() as u64;
    }
    let decision = run(&mut frame, &Maps);
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
        Verdict::NoBackend | Verdict::BadBackend | Verdict::TtlExpired | Verdict::NatExhausted => {
            report(&ctx, decision)
        }
        _ => {}
    }
    match decision.verdict.fate() {
        Fate::Pass => xdp_action::XDP_PASS,
        Fate::Drop => xdp_action::XDP_DROP,
        Fate::Tx => xdp_action::XDP_TX,
        Fate::Out if decision.ifindex == frame.ingress() => xdp_action::XDP_TX,
        Fate::Out => match DEVICES.redirect(decision.ifindex, u64::from(xdp_action::XDP_DROP)) {
            Ok(action) | Err(action) => action,
        },
    }
}

/// Makes each part a global function, and the call of it.
macro_rules! parts {
    ($($name:ident = $path:path, $symbol:ident ($($arg:ident: $kind:ty),*);)*) => {
        $(
            // Its BTF tells the verifier what the arguments are.
            #[unsafe(no_mangle)]
            #[inline(never)]
            pub(crate) extern "C" fn $symbol(ctx: *mut xdp_md, head: u64 $(, $arg: $kind)*) -> u64 {
                let ctx = XdpContext::new(ctx);
                let mut frame = Frame::new(&ctx);
                match Head::unpack(&frame, head) {
                    Some(head) => $path(&mut frame, &Maps, &head $(, $arg as _)*),
                    None => Verdict::Truncated as u64,
                }
            }
        )*

        impl Parts for Maps {
            #[inline(always)]
            fn general<P: Packet>(&self, packet: &mut P) -> u64 {
                steerd_general(packet.context().cast())
            }

            #[inline(always)]
            fn address<P: Packet>(&self, packet: &mut P, head: u64) -> u64 {
                steerd_address(packet.context().cast(), head)
            }

            #[inline(always)]
            fn translate_plain<P: Packet>(&self, packet: &mut P, family: Family, id: u16) -> u64 {
                steerd_translate_plain(packet.context().cast(), family as u64, id)
            }

            #[inline(always)]
            fn retag<P: Packet>(&self, packet: &mut P, l3: usize, to: u64, from: u64) -> u64 {
                steerd_retag(packet.context().cast(), l3 as u64, to, from)
            }

            #[inline(always)]
            fn arp<P: Packet>(&self, packet: &mut P) -> u64 {
                steerd_arp(packet.context().cast())
            }

            #[inline(always)]
            fn record(&self, place: u32, decision: u64) -> u64 {
                steerd_record(place, decision)
            }

            $(
                #[inline(always)]
                fn $name<P: Packet>(&self, packet: &mut P, head: u64 $(, $arg: $kind)*) -> u64 {
                    $symbol(packet.context().cast(), head $(, $arg)*)
                }
            )*
        }
    };
}

parts! {
    look_up = general::look_up, steerd_look_up();
    forward = general::forward, steerd_forward(backend: u16);
    arrive = arrive::arrive, steerd_arrive(slot: u32);
    wrap = tunnel::wrap, steerd_wrap(backend: u16);
    unwrap = tunnel::unwrap, steerd_unwrap();
    too_big = tunnel::too_big, steerd_too_big(mtu: u16);
    translate = nat::translate, steerd_translate(backend: u16, place: u32);
    open = nat::open, steerd_open(backend: u16);
    answer = nat::answer, steerd_answer(address: u32);
    message = icmp::message, steerd_message();
    retell = icmp::retell, steerd_retell(place: u32, homeward: u32);
    follow = fragment::follow, steerd_follow();
    fence_message = fence::message, steerd_fence();
}

#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn steerd_general(ctx: *mut xdp_md) -> u64 {
    let ctx = XdpContext::new(ctx);
    general::general(&mut Frame::new(&ctx), &Maps)
}

#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn steerd_address(ctx: *mut xdp_md, head: u64) -> u64 {
    let ctx = XdpContext::new(ctx);
    address::transport(&mut Frame::new(&ctx), &Maps, head)
}

#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn steerd_translate_plain(ctx: *mut xdp_md, family: u64, id: u16) -> u64 {
    let ctx = XdpContext::new(ctx);
    let family = match family {
        0 => Family::V4,
        _ => Family::V6,
    };
    nat::plain::translate(&mut Frame::new(&ctx), &Maps, family, id)
}

#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn steerd_retag(ctx: *mut xdp_md, l3: u64, to: u64, from: u64) -> u64 {
    let ctx = XdpContext::new(ctx);
    rewrite::retag(&mut Frame::new(&ctx), l3 as usize, to, from)
}

#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn steerd_arp(ctx: *mut xdp_md) -> u64 {
    let ctx = XdpContext::new(ctx);
    fence::arp(&Frame::new(&ctx), &Maps)
}

#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn steerd_record(place: u32, decision: u64) -> u64 {
    fragment::record(&Maps, place, decision)
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
        Verdict::NatExhausted => {
            warn!(ctx, "no port is left to translate service {} with", service)
        }
        _ => warn!(
            ctx,
            "service {}: backend {} is not in use", service, backend
        ),
    }
}

/// A packet in the kernel: plain addresses, compared in the way the verifier follows.
struct Frame<'c> {
    ctx: &'c XdpContext,
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
    ($width:literal, $max:expr, $at:expr, $offset:expr) => {{
        let value: u64;
        // SAFETY: the caller compared the address with the packet's end, and the verifier proves
        // it again before the program ever runs.
        unsafe {
            asm!(
                concat!("{value} = *(", $width, " *)({at} + {offset})"),
                value = out(reg) value,
                at = in(reg) $at,
                offset = const $offset,
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
    ($width:literal, $at:expr, $offset:expr, $value:expr) => {{
        let value: u64 = $value;
        // SAFETY: as in `load`; XDP programs may write packets.
        unsafe {
            asm!(
                concat!("*(", $width, " *)({at} + {offset}) = {value}"),
                value = in(reg) value,
                at = in(reg) $at,
                offset = const $offset,
                options(nostack, preserves_flags)
            );
        }
    }};
}

/// The word `OFFSET` bytes behind an address.
#[inline(always)]
fn read<W: Word, const OFFSET: usize>(at: usize) -> W {
    W::truncate(match size_of::<W>() {
        1 => load!("u8", u8::MAX, at, OFFSET),
        2 => load!("u16", u16::MAX, at, OFFSET),
        4 => load!("u32", u32::MAX, at, OFFSET),
        _ => load!("u64", u64::MAX, at, OFFSET),
    })
}

/// Writes the word `OFFSET` bytes behind an address.
#[inline(always)]
fn write<W: Word, const OFFSET: usize>(at: usize, word: W) {
    match size_of::<W>() {
        1 => store!("u8", at, OFFSET, word.widen()),
        2 => store!("u16", at, OFFSET, word.widen()),
        4 => store!("u32", at, OFFSET, word.widen()),
        _ => store!("u64", at, OFFSET, word.widen()),
    }
}

impl<'c> Frame<'c> {
    #[inline(always)]
    fn new(ctx: &'c XdpContext) -> Self {
        Self {
            ctx,
            start: ctx.data(),
            end: ctx.data_end(),
        }
    }

    /// The address at `offset`, if `size` bytes from there are within the packet.
    #[inline(always)]
    fn at(&self, offset: usize, size: usize) -> Option<usize> {
        let at = if is_val_statically_known(offset) {
            self.start + offset
        } else {
            // The compiler must not compute the address twice, once to compare and once to use: the
            // verifier would not know that they are the same.
            let mut at = self.start;
            // SAFETY: an addition.
            unsafe {
                asm!(
                    "{at} += {offset}",
                    at = inout(reg) at,
                    offset = in(reg) offset,
                    options(pure, nomem, nostack, preserves_flags)
                );
            }
            at
        };
        (at + size <= self.end).then_some(at)
    }
}

impl Packet for Frame<'_> {
    #[inline(always)]
    fn load<W: Word>(&self, offset: usize) -> Option<W> {
        Some(read::<W, 0>(self.at(offset, size_of::<W>())?))
    }

    #[inline(always)]
    fn store<W: Word>(&mut self, offset: usize, word: W) -> Option<()> {
        write::<W, 0>(self.at(offset, size_of::<W>())?, word);
        Some(())
    }

    #[inline(always)]
    fn load_at<W: Word, const OFFSET: usize>(&self) -> Option<W> {
        self.has(OFFSET + size_of::<W>())
            .then(|| read::<W, OFFSET>(self.start))
    }

    #[inline(always)]
    fn store_at<W: Word, const OFFSET: usize>(&mut self, word: W) -> Option<()> {
        self.has(OFFSET + size_of::<W>())
            .then(|| write::<W, OFFSET>(self.start, word))
    }

    #[inline(always)]
    fn sum<const BYTES: usize>(&self, offset: usize) -> Option<u64> {
        // The helper's limit until Linux 6.13.
        const { assert!(BYTES.is_multiple_of(4) && BYTES <= 512) };
        let at = self.at(offset, BYTES)?;
        // SAFETY: so many bytes of the packet can be read there, and no others are asked for.
        let sum = unsafe { bpf_csum_diff(null_mut(), 0, at as *mut u32, BYTES as u32, 0) };
        // A sum of 32 bits, or folded to 16 since then.
        Some(sum as u32 as u64)
    }

    #[inline(always)]
    fn has(&self, bytes: usize) -> bool {
        let mut bytes = bytes;
        if !is_val_statically_known(bytes) {
            // What is added to an address needs a bound. Kernels as old as 6.1 know none of a length
            // once its bytes were swapped, and the compiler, which does, would leave a plain mask out.
            // SAFETY: an AND. No length is larger: one of 16 bits, and the headers before it.
            unsafe {
                asm!(
                    "{bytes} &= 0x1ffff",
                    bytes = inout(reg) bytes,
                    options(pure, nomem, nostack, preserves_flags)
                );
            }
        }
        self.start + bytes <= self.end
    }

    #[inline(always)]
    fn length(&self) -> usize {
        // SAFETY: the context is the one this program was called with.
        unsafe { bpf_xdp_get_buff_len(self.ctx.ctx) as usize }
    }

    #[inline(always)]
    fn advance(&mut self, bytes: isize) -> Option<()> {
        // SAFETY: as in `length`; all addresses are read anew.
        let error = unsafe { bpf_xdp_adjust_head(self.ctx.ctx, bytes as i32) };
        *self = Self::new(self.ctx);
        (error == 0).then_some(())
    }

    #[inline(always)]
    fn truncate(&mut self, length: usize) -> Option<()> {
        let change = length as i32 - self.length() as i32;
        // SAFETY: as in `advance`.
        let error = unsafe { bpf_xdp_adjust_tail(self.ctx.ctx, change) };
        *self = Self::new(self.ctx);
        (error == 0).then_some(())
    }

    #[inline(always)]
    fn context(&self) -> *mut c_void {
        self.ctx.ctx.cast()
    }

    #[inline(always)]
    fn ingress(&self) -> u32 {
        self.ctx.ingress_ifindex() as u32
    }
}

/// The maps of this file.
struct Maps;

impl Tables for Maps {
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
    fn load(&self, id: u16) -> Option<&Load> {
        LOADS.get(u32::from(id))
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
    fn nat(&self, set: u32) -> Option<&Set6> {
        NAT.get(set)
    }

    #[inline(always)]
    fn hop(&self, place: u32) -> Option<&Hop> {
        NAT_HOPS.get(place)
    }

    #[inline(always)]
    fn moved(&self, line: u32) -> Option<&MovedLine> {
        NAT_MOVED.get(line)
    }

    #[inline(always)]
    fn fragments(&self, set: u32) -> Option<&FragmentSet> {
        FRAGMENTS.get(set)
    }

    #[inline(always)]
    fn limit(&self, service: u32) -> Option<&SynLimit> {
        SYN_LIMITS.get(service)
    }

    #[inline(always)]
    fn source(&self, service: u32, source: [u64; 2]) -> Option<u32> {
        let address = [
            source[0] as u32,
            (source[0] >> 32) as u32,
            source[1] as u32,
            (source[1] >> 32) as u32,
        ];
        SOURCES
            .get(&Key::new(160, Source { service, address }))
            .copied()
    }

    #[inline(always)]
    fn fence(&self, router: u32) -> Option<&Fence> {
        FENCES.get(router)
    }

    #[inline(always)]
    fn may_tell(&self) -> bool {
        // At 250 jiffies a second, a thousand messages a second and CPU.
        const A_JIFFY: u64 = 4;
        let Some(gate) = TELL_GATE.get_ptr_mut(0) else {
            return false;
        };
        let now = self.jiffies();
        // SAFETY: the pointer is to this CPU's value, which nothing else writes while we run.
        unsafe {
            if (*gate)[0] != now {
                *gate = [now, 0];
            }
            (*gate)[1] += 1;
            (*gate)[1] <= A_JIFFY
        }
    }

    #[inline(always)]
    fn event(&self, event: Event) {
        count(EVENT_STATS.get_ptr_mut(event as u32), 0);
    }

    #[inline(always)]
    fn jiffies(&self) -> u64 {
        // SAFETY: the helper has no arguments and always succeeds; it is inlined by the verifier.
        unsafe { bpf_jiffies64() }
    }

    #[inline(always)]
    fn boot_ns(&self) -> u64 {
        // SAFETY: the helper has no arguments and always succeeds.
        unsafe { bpf_ktime_get_boot_ns() }
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
