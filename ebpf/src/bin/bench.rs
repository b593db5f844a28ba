//! Programs for `cargo xtask bench dataplane`: the wrapper around a program under test, and the
//! references that say how fast a program could be.
//!
//! `BPF_PROG_TEST_RUN` hands a program its own output as the next input, so a program that forwards
//! would be measured on packets that it has already rewritten. The wrapper undoes that, gives each
//! packet another source address where several flows are wanted, and tail-calls the program under
//! test. Its own cost is that of the same wrapper around [`bare_tx`].
//!
//! A reference does the unavoidable part of a mode's work with everything already known: no parsing,
//! no look-up, no counter. Frames begin at a multiple of eight bytes, so all accesses are aligned.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

use core::arch::asm;

use aya_ebpf::{
    bindings::xdp_action,
    btf_maps::{Array, ProgramArray},
    helpers::generated::bpf_xdp_adjust_head,
    macros::{btf_map, xdp},
    programs::XdpContext,
};
use steerd_ebpf::bench::{HEAD_WORDS, Run, ipv4_source, ipv6_source};

#[btf_map]
static RUN: Array<Run, 1> = Array::new();
#[btf_map]
static UNDER_TEST: ProgramArray<1> = ProgramArray::new();

/// Restores 64 bytes of the head: all that forwarding to a backend changes, but for IPv6 with
/// translated ports.
#[xdp(frags)]
pub(crate) fn wrap64(ctx: XdpContext) -> u32 {
    wrap::<8>(&ctx)
}

/// Restores 72 bytes of the head: up to an IPv6 packet's TCP checksum.
#[xdp(frags)]
pub(crate) fn wrap72(ctx: XdpContext) -> u32 {
    wrap::<HEAD_WORDS>(&ctx)
}

/// Lets the packet go out again as it is.
#[xdp(frags)]
pub(crate) fn bare_tx(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_TX
}

/// Lets the packet pass.
#[xdp(frags)]
pub(crate) fn bare_pass(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// New MACs, one hop less, the checksum adjusted (RFC 1624).
#[xdp(frags)]
pub(crate) fn forward4(ctx: XdpContext) -> u32 {
    verdict(forward_ipv4(&Frame::of(&ctx)))
}

/// New MACs, one hop less.
#[xdp(frags)]
pub(crate) fn forward6(ctx: XdpContext) -> u32 {
    verdict(forward_ipv6(&Frame::of(&ctx)))
}

/// A constant IPv4 header in front.
#[xdp(frags)]
pub(crate) fn encap4(ctx: XdpContext) -> u32 {
    verdict(encapsulate(&ctx, IPIP))
}

/// A constant IPv6 header in front.
#[xdp(frags)]
pub(crate) fn encap6(ctx: XdpContext) -> u32 {
    verdict(encapsulate(&ctx, IP6IP6))
}

/// Constant IPv4 and UDP headers in front.
#[xdp(frags)]
pub(crate) fn encap_udp4(ctx: XdpContext) -> u32 {
    verdict(encapsulate(&ctx, GUE))
}

/// Constant IPv6 and UDP headers in front.
#[xdp(frags)]
pub(crate) fn encap_udp6(ctx: XdpContext) -> u32 {
    verdict(encapsulate(&ctx, GUE6))
}

/// The IPv4 header off.
#[xdp(frags)]
pub(crate) fn decap4(ctx: XdpContext) -> u32 {
    passed(decapsulate::<20>(&ctx, 0x0008))
}

/// The IPv6 header off; what was in it is IPv6.
#[xdp(frags)]
pub(crate) fn decap6(ctx: XdpContext) -> u32 {
    passed(decapsulate::<40>(&ctx, 0xdd86))
}

/// The IPv4 and UDP headers off.
#[xdp(frags)]
pub(crate) fn decap_udp4(ctx: XdpContext) -> u32 {
    passed(decapsulate::<28>(&ctx, 0x0008))
}

/// The IPv6 and UDP headers off.
#[xdp(frags)]
pub(crate) fn decap_udp6(ctx: XdpContext) -> u32 {
    passed(decapsulate::<48>(&ctx, 0xdd86))
}

/// Constant addresses and ports in an IPv4 TCP packet, both checksums adjusted, and
/// [`forward4`]'s work.
#[xdp(frags)]
pub(crate) fn translate4(ctx: XdpContext) -> u32 {
    let frame = Frame::of(&ctx);
    verdict(translate_ipv4(&frame).and_then(|()| forward_ipv4(&frame)))
}

/// Constant addresses and ports in an IPv6 TCP packet, the checksum adjusted, and
/// [`forward6`]'s work.
#[xdp(frags)]
pub(crate) fn translate6(ctx: XdpContext) -> u32 {
    let frame = Frame::of(&ctx);
    verdict(translate_ipv6(&frame).and_then(|()| forward_ipv6(&frame)))
}

#[inline(always)]
fn verdict(done: Option<()>) -> u32 {
    match done {
        Some(()) => xdp_action::XDP_TX,
        None => xdp_action::XDP_ABORTED,
    }
}

#[inline(always)]
fn passed(done: Option<()>) -> u32 {
    match done {
        Some(()) => xdp_action::XDP_PASS,
        None => xdp_action::XDP_ABORTED,
    }
}

/// Restores `WORDS` words and goes over to the program under test.
#[inline(always)]
fn wrap<const WORDS: usize>(ctx: &XdpContext) -> u32 {
    if restore::<WORDS>(ctx).is_some() {
        // SAFETY: nothing here needs to be dropped; an empty entry comes back.
        unsafe { UNDER_TEST.tail_call(ctx, 0) };
    }
    xdp_action::XDP_ABORTED
}

/// Gives the packet its length, its head and the next source address. The same work for one flow
/// and for many, so one baseline serves both.
#[inline(always)]
fn restore<const WORDS: usize>(ctx: &XdpContext) -> Option<()> {
    let run = RUN.get_ptr_mut(0)?;
    // SAFETY: one process runs the wrapper, on one CPU at a time; nothing else writes the value.
    let run = unsafe { &mut *run };
    let mut longer = (ctx.data_end() - ctx.data()) as u64;
    // SAFETY: plain arithmetic. As it is written here: the compiler would subtract in 32 bits and
    // in another order, which the verifier refuses for addresses.
    unsafe {
        asm!("{longer} -= {length}", longer = inout(reg) longer, length = in(reg) run.length,
            options(pure, nomem, nostack, preserves_flags));
    }
    // Always, also by 0: so that the baseline pays for it.
    // SAFETY: the helper checks the length; pointers into the packet are read anew below.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, longer as i32) } != 0 {
        return None;
    }
    let frame = Frame::of(ctx);
    let source = (run.source + 1) & run.source_mask;
    run.source = source;
    let (word3, word4) = match run.family {
        4 => (ipv4_source(run.head[3], source), run.head[4]),
        _ => (run.head[3], ipv6_source(run.head[4], source)),
    };
    let head = frame.array::<u64, WORDS>(0)?;
    for (at, word) in head.iter_mut().enumerate() {
        *word = match at {
            3 => word3,
            4 => word4,
            _ => run.head[at],
        };
    }
    Some(())
}

#[inline(always)]
fn forward_ipv4(frame: &Frame) -> Option<()> {
    let [ttl] = frame.array::<u8, 1>(22)?;
    let [checksum] = frame.array::<u16, 1>(24)?;
    *ttl -= 1;
    let sum = u32::from(*checksum) + u32::from(0x0100_u16.to_be());
    *checksum = (sum + u32::from(sum >= 0xffff)) as u16;
    macs(frame)
}

#[inline(always)]
fn forward_ipv6(frame: &Frame) -> Option<()> {
    let [hop_limit] = frame.array::<u8, 1>(21)?;
    *hop_limit -= 1;
    macs(frame)
}

#[inline(always)]
fn macs(frame: &Frame) -> Option<()> {
    *frame.array::<u32, 3>(0)? = [0x0000_0002, 0x0002_9900, 0x2600_0000];
    Some(())
}

/// Ethernet and IPv4 (10.0.0.1 to 10.0.0.2, IPIP) before a packet of 40 bytes.
const IPIP: [u8; 34] = [
    2, 0, 0, 0, 0, 0x99, 2, 0, 0, 0, 0, 0x26, 0x08, 0x00, //
    0x45, 0, 0, 60, 0, 0, 0x40, 0, 64, 4, 0x26, 0xbc, 10, 0, 0, 1, 10, 0, 0, 2,
];

/// Ethernet and IPv6 (fd00::1 to fd00::2, IPv6 within) before a packet of 60 bytes.
const IP6IP6: [u8; 54] = [
    2, 0, 0, 0, 0, 0x99, 2, 0, 0, 0, 0, 0x26, 0x86, 0xdd, //
    0x60, 0, 0, 0, 0, 60, 41, 64, //
    0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, //
    0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2,
];

/// [`IPIP`]'s with UDP between, without a checksum.
const GUE: [u8; 42] = [
    2, 0, 0, 0, 0, 0x99, 2, 0, 0, 0, 0, 0x26, 0x08, 0x00, //
    0x45, 0, 0, 68, 0, 0, 0x40, 0, 64, 17, 0x26, 0xa7, 10, 0, 0, 1, 10, 0, 0, 2, //
    0xc0, 0, 0x17, 0xc0, 0, 48, 0, 0,
];

/// [`IP6IP6`]'s with UDP between, without a checksum (RFC 6935).
const GUE6: [u8; 62] = [
    2, 0, 0, 0, 0, 0x99, 2, 0, 0, 0, 0, 0x26, 0x86, 0xdd, //
    0x60, 0, 0, 0, 0, 68, 17, 64, //
    0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, //
    0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, //
    0xc0, 0, 0x17, 0xc0, 0, 68, 0, 0,
];

/// Puts these bytes before the packet, over its Ethernet header.
#[inline(always)]
fn encapsulate<const BYTES: usize>(ctx: &XdpContext, header: [u8; BYTES]) -> Option<()> {
    const ETHERNET: i32 = 14;
    // SAFETY: as in `restore`.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, ETHERNET - BYTES as i32) } != 0 {
        return None;
    }
    let frame = Frame::of(ctx);
    for (bytes, word) in header.chunks_exact(4).zip(0..) {
        // IP headers are whole words and Ethernet's is not: two bytes are left.
        let [word] = frame.array::<u32, 1>(4 * word)?;
        *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    let [last] = frame.array::<u16, 1>(BYTES - 2)?;
    *last = u16::from_le_bytes([header[BYTES - 2], header[BYTES - 1]]);
    Some(())
}

/// Takes so many bytes from between the Ethernet header and what is in them, which is of this type.
#[inline(always)]
fn decapsulate<const BYTES: usize>(ctx: &XdpContext, kind: u16) -> Option<()> {
    let addresses = *Frame::of(ctx).array::<u32, 3>(0)?;
    // SAFETY: as in `restore`.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, BYTES as i32) } != 0 {
        return None;
    }
    let frame = Frame::of(ctx);
    *frame.array::<u32, 3>(0)? = addresses;
    let [ethertype] = frame.array::<u16, 1>(12)?;
    *ethertype = kind;
    Some(())
}

/// Addresses and ports are bytes 26 to 37: most of words 3 and 4.
#[inline(always)]
fn translate_ipv4(frame: &Frame) -> Option<()> {
    const SOURCE: u64 = 0x0201_000a << 16 | 0x000a << 48;
    const REST: u64 = 0x901f_39c8_0403;
    let [three, four] = frame.array::<u64, 2>(24)?;
    let [transport] = frame.array::<u16, 1>(50)?;
    let before = (*three >> 16) + (*four & 0xffff);
    let ports = (*four >> 16) & 0xffff_ffff;
    let addresses = adjust(*three as u16, before, (SOURCE >> 16) + (REST & 0xffff));
    *transport = adjust(
        *transport,
        before + ports,
        (SOURCE >> 16) + (REST & 0xffff) + (REST >> 16),
    );
    *three = SOURCE | u64::from(addresses);
    *four = *four & 0xffff << 48 | REST;
    Some(())
}

/// Addresses and ports are bytes 22 to 57: a quarter of word 2, words 3 to 6, a quarter of word 7.
#[inline(always)]
fn translate_ipv6(frame: &Frame) -> Option<()> {
    const TO: [u64; 6] = [
        0x00fd << 48,
        0x0300_0000_0000,
        0x00fd_0500_0000_0000,
        0x0300_0000_0000,
        0x39c8_0700_0000_0000,
        0x901f,
    ];
    let [two, three, four, five, six, seven] = frame.array::<u64, 6>(16)?;
    let [transport] = frame.array::<u16, 1>(70)?;
    let before = half(*three) + half(*four) + half(*five) + half(*six);
    let before = before + (*two >> 48) + (*seven & 0xffff);
    let after = half(TO[1]) + half(TO[2]) + half(TO[3]) + half(TO[4]);
    let after = after + (TO[0] >> 48) + (TO[5] & 0xffff);
    *transport = adjust(*transport, before, after);
    *two = *two & !(0xffff << 48) | TO[0];
    [*three, *four, *five, *six] = [TO[1], TO[2], TO[3], TO[4]];
    *seven = *seven & !0xffff | TO[5];
    Some(())
}

/// A word's halves added: congruent to it modulo 0xffff, and with room for more.
#[inline(always)]
const fn half(word: u64) -> u64 {
    (word & 0xffff_ffff) + (word >> 32)
}

/// A checksum after words whose sum was `before` have become words whose sum is `after`
/// (RFC 1624 equation 3). Sums are of any width: 2^16 is 1 modulo 0xffff.
#[inline(always)]
const fn adjust(checksum: u16, before: u64, after: u64) -> u16 {
    let sum = (!checksum) as u64 + half(after) + half(!before);
    let sum = half(sum);
    let sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}

/// A packet in the kernel: plain addresses, compared in the way the verifier follows.
struct Frame {
    start: usize,
    end: usize,
}

impl Frame {
    #[inline(always)]
    fn of(ctx: &XdpContext) -> Self {
        Self {
            start: ctx.data(),
            end: ctx.data_end(),
        }
    }

    /// The `N` integers at `offset`, if they are all within the packet.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)]
    fn array<T, const N: usize>(&self, offset: usize) -> Option<&mut [T; N]> {
        let at = self.start + offset;
        if at + N * size_of::<T>() > self.end {
            return None;
        }
        // SAFETY: within the packet, as the verifier proves again; aligned, because test runs start
        // a frame at a multiple of eight bytes and headers are put in front by multiples of four;
        // callers hold no two references to the same bytes.
        Some(unsafe { &mut *(at as *mut [T; N]) })
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
