//! Packets that do not fit into the way to their backend, with an outer header or, in modes dsr and
//! nat, as they are: their sender is told how large they may be (RFC 1191, RFC 8201).
//!
//! The message comes from the virtual address, as if from its host, and quotes the packet as it
//! arrived: as much as the smallest packet that every host takes has room for (RFC 1812 section
//! 4.3.2.3; RFC 4443 section 2.4 (c)). An IPv4 packet that may be fragmented would have to be: XDP
//! cannot, so it is dropped. TCP sends none if the backend offers a lower MSS; its SYN-ACK does not pass
//! here, so that has to be set there.

use super::{IPV4, IPV6, link::Link};
use crate::{
    packet::Packet,
    parse::{Family, Head, ethertype, protocol},
    parts::Parts,
    rewrite, sum,
    verdict::Verdict,
};

/// Hops of the messages.
const HOPS: u8 = 64;

/// The header of ICMP, and of ICMPv6.
const ICMP: usize = 8;

/// What a message of either family has room for behind its headers.
const QUOTE4: usize = 576 - IPV4 - ICMP;
const QUOTE6: usize = 1280 - IPV6 - ICMP;

/// Less than this no link may take (RFC 791 3.2; RFC 8200 section 5), and a message that says so is
/// not believed.
const MIN_MTU4: u16 = 68;
const MIN_MTU6: u16 = 1280;

/// Turns a packet that is too big into a message to its sender that says which is not: `mtu`
/// bytes. Returns the verdict's number.
#[inline(always)]
pub fn too_big<P: Packet, T: Parts>(packet: &mut P, tables: &T, head: &Head, mtu: u16) -> u64 {
    if let Err(verdict) = rewrite::has_hops(packet, head) {
        return verdict as u64;
    }
    // It may be smaller than it says.
    let Some(end) = rewrite::length(packet, head.family, head.l3()) else {
        return Verdict::Truncated as u64;
    };
    if packet.length() < head.l3() + end {
        return Verdict::BadLength as u64;
    }
    let told = match head.family {
        Family::V4 => tell4(packet, tables, head, mtu),
        Family::V6 => tell6(packet, tables, head, mtu),
    };
    match told {
        Some(()) => Verdict::TooBig as u64,
        None => Verdict::TooBigDropped as u64,
    }
}

/// `None`: no message may be sent about it, or not now; the packet is unchanged.
#[inline(always)]
fn tell4<P: Packet, T: Parts>(packet: &mut P, tables: &T, head: &Head, mtu: u16) -> Option<()> {
    const DONT_FRAGMENT: u16 = 0x4000_u16.to_be();
    /// Internetwork control (RFC 1812 section 4.3.2.5).
    const TOS: u64 = 0xc0;
    let l3 = head.l3();
    let flags: u16 = packet.load(l3 + 6)?;
    let first_byte = head.source4() as u8;
    // Of other sources than hosts, of later fragments and of ICMP errors no host may be told (RFC
    // 1122 3.2.2); no other ICMP message is steered.
    let may_be_told = first_byte != 0
        && first_byte != 127
        && first_byte < 224
        && head.part.offset == 0
        && head.protocol() != protocol::ICMP;
    if flags & DONT_FRAGMENT == 0 || !may_be_told {
        return None;
    }
    let stated: u16 = packet.load(l3 + 2)?;
    let quote = Quote::of4(packet, l3, u16::from_be(stated) as usize);
    if !quote.is_of_use(head) || !tables.may_tell() {
        return None;
    }
    // Type 3, code 4; the MTU in the last two bytes of the header (RFC 1191 section 4).
    let mtu = if mtu < MIN_MTU4 { MIN_MTU4 } else { mtu };
    let icmp = 0x0403 | (mtu.to_be() as u64) << 48;
    let checksum = !sum::fold(sum::word(icmp) + sum::word(quote.sum));
    let icmp = icmp | (checksum as u64) << 16;
    let length = (IPV4 + ICMP + quote.length) as u16;
    let first = 0x45 | TOS << 8 | (length.to_be() as u64) << 16 | (DONT_FRAGMENT as u64) << 48;
    let second = HOPS as u64 | (protocol::ICMP as u64) << 8 | head.destination[1] >> 32 << 32;
    let to = head.source4();
    let checksum = !sum::fold(sum::word(first) + sum::word(second) + to as u64);
    let second = second | (checksum as u64) << 16;

    let link = Link::load(packet, l3)?.turned();
    packet.advance(-((IPV4 + ICMP) as isize))?;
    packet.truncate(l3 + IPV4 + ICMP + quote.length)?;
    link.store(packet, ethertype::IPV4)?;
    packet.store(l3, first)?;
    packet.store(l3 + 8, second)?;
    packet.store(l3 + 16, to)?;
    packet.store(l3 + 20, icmp)
}

/// `None` as of [`tell4`].
#[inline(always)]
fn tell6<P: Packet, T: Parts>(packet: &mut P, tables: &T, head: &Head, mtu: u16) -> Option<()> {
    let l3 = head.l3();
    // RFC 4443 section 2.4 (e).
    let may_be_told = head.source[0] as u8 != 0xff
        && (head.source[0] != 0 || head.source[1] != 0)
        && head.protocol() != protocol::ICMPV6;
    if !may_be_told {
        return None;
    }
    let stated: u16 = packet.load(l3 + 4)?;
    let stated = IPV6 + u16::from_be(stated) as usize;
    let quote = Quote::of6(packet, l3, stated);
    if !quote.is_of_use(head) || !tables.may_tell() {
        return None;
    }
    // Type 2, code 0; the MTU in the last four bytes of the header (RFC 4443 section 3.2).
    let mtu = if mtu < MIN_MTU6 { MIN_MTU6 } else { mtu };
    let icmp = 0x0002 | (mtu.to_be() as u64) << 48;
    let length = ((ICMP + quote.length) as u16).to_be() as u64;
    // The addresses, length and protocol are covered too (RFC 8200 section 8.1).
    let sum = sum::word(icmp)
        + sum::word(quote.sum)
        + sum::words(head.source)
        + sum::words(head.destination)
        + length
        + (protocol::ICMPV6 as u16).to_be() as u64;
    let icmp = icmp | (!sum::fold(sum) as u64) << 16;
    let first = 0x60 | length << 32 | (protocol::ICMPV6 as u64) << 48 | (HOPS as u64) << 56;

    let link = Link::load(packet, l3)?.turned();
    packet.advance(-((IPV6 + ICMP) as isize))?;
    packet.truncate(l3 + IPV6 + ICMP + quote.length)?;
    link.store(packet, ethertype::IPV6)?;
    packet.store(l3, first)?;
    packet.store(l3 + 8, head.destination[0])?;
    packet.store(l3 + 16, head.destination[1])?;
    packet.store(l3 + 24, head.source[0])?;
    packet.store(l3 + 32, head.source[1])?;
    packet.store(l3 + 40, icmp)
}

/// The beginning of a packet. The verifier and the kernel's helper want lengths that are constant,
/// so there are a few to choose from: all that the message has room for; what a packet has that is
/// smaller, or whose end lies elsewhere; the least that is of use (RFC 792).
struct Quote {
    /// How many bytes; 0: there is no such part.
    length: usize,
    /// Their sum.
    sum: u64,
}

impl Quote {
    const NONE: Self = Self { length: 0, sum: 0 };

    #[inline(always)]
    fn of4<P: Packet>(packet: &P, l3: usize, stated: usize) -> Self {
        const _: () = assert!(QUOTE4 == 512 + 36);
        if stated >= QUOTE4
            && let Some(end) = packet.sum::<36>(l3 + 512)
            && let Some(start) = packet.sum::<512>(l3)
        {
            let sum = start + end;
            return Self {
                length: QUOTE4,
                sum,
            };
        }
        Self::of::<P, 128>(packet, l3, stated).or(|| Self::of::<P, 28>(packet, l3, stated))
    }

    #[inline(always)]
    fn of6<P: Packet>(packet: &P, l3: usize, stated: usize) -> Self {
        const _: () = assert!(QUOTE6 == 512 + 512 + 208);
        if stated >= QUOTE6
            && let Some(end) = packet.sum::<208>(l3 + 1024)
            && let Some(middle) = packet.sum::<512>(l3 + 512)
            && let Some(start) = packet.sum::<512>(l3)
        {
            let sum = start + middle + end;
            return Self {
                length: QUOTE6,
                sum,
            };
        }
        Self::of::<P, 512>(packet, l3, stated).or(|| Self::of::<P, 48>(packet, l3, stated))
    }

    #[inline(always)]
    fn of<P: Packet, const BYTES: usize>(packet: &P, l3: usize, stated: usize) -> Self {
        // One after the other: the verifier would find a sum that was not computed.
        if stated < BYTES {
            return Self::NONE;
        }
        match packet.sum::<BYTES>(l3) {
            Some(sum) => Self { length: BYTES, sum },
            None => Self::NONE,
        }
    }

    #[inline(always)]
    fn or(self, other: impl FnOnce() -> Self) -> Self {
        if self.length == 0 { other() } else { self }
    }

    /// Whether it has the ports, or what else is at the beginning of what the packet carries.
    #[inline(always)]
    fn is_of_use(&self, head: &Head) -> bool {
        head.l4() + 8 <= head.l3() + self.length
    }
}
