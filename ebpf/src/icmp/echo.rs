//! Echo requests to a virtual address: answered here, so that the address answers as long as the
//! node steers, whatever its backends do.

use crate::{
    packet::Packet,
    parse::{Family, Head},
    rewrite, sum,
    verdict::Verdict,
};

use super::quote::stated_end;

const REQUEST: u8 = 8;
const REPLY: u8 = 0;
const REQUEST6: u8 = 128;
const REPLY6: u8 = 129;

/// The TTL or hop limit of an answer.
const HOPS: u8 = 64;

/// Whether a message of this type is an echo request (RFC 792, RFC 4443 section 4.1).
#[inline(always)]
pub(super) const fn is_request(family: Family, kind: u8) -> bool {
    match family {
        Family::V4 => kind == REQUEST,
        Family::V6 => kind == REQUEST6,
    }
}

/// Makes the request its answer: ends swapped, type and hops changed, all else the sender's. One
/// with options or extension headers, or from an address that cannot be answered, is the stack's.
#[inline(always)]
pub(super) fn answer<P: Packet>(packet: &mut P, head: &Head) -> Verdict {
    if head.source[1] == head.destination[1] && head.source[0] == head.destination[0] {
        return Verdict::Land;
    }
    if !is_plain(packet, head) || !is_unicast(head.family, head.source) {
        return Verdict::NoService;
    }
    match turn(packet, head) {
        Some(()) => Verdict::Echo,
        None => Verdict::Truncated,
    }
}

/// Whether the message lies right behind its network header, and is all there.
#[inline(always)]
fn is_plain<P: Packet>(packet: &P, head: &Head) -> bool {
    let header = match head.family {
        Family::V4 => 20,
        Family::V6 => 40,
    };
    let end = match stated_end(packet, head) {
        Some(end) => end,
        None => return false,
    };
    head.l4() == head.l3() + header && end >= head.l4() + 8 && end <= packet.length()
}

/// Whether an answer to this address goes to one host: neither "this network", loopback, multicast
/// nor broadcast (RFC 1122 section 3.2.1.3, RFC 4291 section 2).
#[inline(always)]
fn is_unicast(family: Family, address: [u64; 2]) -> bool {
    match family {
        Family::V4 => {
            let first = (address[1] >> 32) as u8;
            first != 0 && first != 127 && first < 224
        }
        Family::V6 => {
            const LOOPBACK: u64 = 1_u64.to_be();
            address[0] as u8 != 0xff
                && !(address[0] == 0 && (address[1] == 0 || address[1] == LOOPBACK))
        }
    }
}

#[inline(always)]
fn turn<P: Packet>(packet: &mut P, head: &Head) -> Option<()> {
    let (l3, l4) = (head.l3(), head.l4());
    // Type, code and checksum; the type is the low byte of its 16-bit word. Of IPv6's pseudo-header
    // the sum stays: its addresses only change places.
    let message: u32 = packet.load(l4)?;
    let from = rewrite::source_mac(packet)?;
    let to = rewrite::destination_mac(packet)?;
    let reply = match head.family {
        Family::V4 => {
            let addresses: u64 = packet.load(l3 + 12)?;
            // TTL, protocol and checksum.
            let hops: u32 = packet.load(l3 + 8)?;
            packet.store(l3 + 12, addresses.rotate_left(32))?;
            packet.store(l3 + 8, with_byte(hops, HOPS))?;
            REPLY
        }
        Family::V6 => {
            packet.store(l3 + 32, head.source[1])?;
            packet.store(l3 + 24, head.source[0])?;
            packet.store(l3 + 16, head.destination[1])?;
            packet.store(l3 + 8, head.destination[0])?;
            packet.store(l3 + 7, HOPS)?;
            REPLY6
        }
    };
    packet.store(l4, with_byte(message, reply))?;
    rewrite::set_macs(packet, from, to)
}

/// A 16-bit word and the checksum that covers it, with another low byte in the former.
#[inline(always)]
const fn with_byte(word: u32, byte: u8) -> u32 {
    let old = word as u16;
    let new = old & 0xff00 | byte as u16;
    let checksum = sum::replace((word >> 16) as u16, !old as u64 + new as u64);
    new as u32 | (checksum as u32) << 16
}
