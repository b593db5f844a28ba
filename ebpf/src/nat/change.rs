//! What translation changes in a packet's network and transport headers: addresses, ports, one hop
//! less, and the checksums along with them (RFC 1624).
//!
//! All is read before anything is written, and what is read proves that it can be written: a packet
//! that is refused is as it was.

use crate::{
    packet::Packet,
    parse::{Family, Head, protocol},
    rewrite::Stuck,
    sum,
};

/// A packet's new ends.
#[derive(Debug, Clone, Copy)]
pub struct Ends {
    /// From whom, IPv4 mapped.
    pub source: [u64; 2],
    /// To whom, IPv4 mapped.
    pub destination: [u64; 2],
    /// From which port, network byte order.
    pub source_port: u16,
    /// To which port, network byte order.
    pub destination_port: u16,
}

impl Ends {
    #[inline(always)]
    const fn ports(&self) -> u32 {
        self.source_port as u32 | (self.destination_port as u32) << 16
    }

    /// Source and destination, as in an IPv4 header.
    #[inline(always)]
    const fn ipv4(&self) -> u64 {
        self.source[1] >> 32 | self.destination[1] >> 32 << 32
    }
}

/// Gives a packet its new ends.
///
/// # Errors
///
/// The packet is unchanged then.
#[inline(always)]
pub fn whole<P: Packet>(packet: &mut P, head: &Head, ends: &Ends) -> Result<(), Stuck> {
    let (l3, l4) = (head.l3(), head.l4());
    let is_udp = head.protocol() == protocol::UDP;
    let at = l4 + if is_udp { 6 } else { 16 };
    let checksum: u16 = packet.load(at).ok_or(Stuck::Truncated)?;
    let ports: u32 = packet.load(l4).ok_or(Stuck::Truncated)?;
    let change =
        network(packet, head.family, l3, ends)? + u64::from(!ports) + u64::from(ends.ports());
    packet.store(l4, ends.ports()).ok_or(Stuck::Truncated)?;
    // UDP: none was computed (RFC 768), and none is needed (RFC 6935).
    if is_udp && checksum == 0 {
        return Ok(());
    }
    let checksum = match sum::replace(checksum, change) {
        0 if is_udp => u16::MAX,
        checksum => checksum,
    };
    packet.store(at, checksum).ok_or(Stuck::Truncated)
}

/// Gives a later fragment its new ends: it has no ports, and the checksum that covers it is in the
/// first one.
///
/// # Errors
///
/// The packet is unchanged then.
#[inline(always)]
pub fn part<P: Packet>(packet: &mut P, head: &Head, ends: &Ends) -> Result<(), Stuck> {
    network(packet, head.family, head.l3(), ends).map(|_| ())
}

/// Addresses, hops and the header's checksum. Returns what a checksum of the addresses changes by.
#[inline(always)]
fn network<P: Packet>(
    packet: &mut P,
    family: Family,
    l3: usize,
    ends: &Ends,
) -> Result<u64, Stuck> {
    match family {
        Family::V4 => ipv4(packet, l3, ends.ipv4()),
        Family::V6 => ipv6(packet, l3, ends),
    }
}

/// TTL, protocol and checksum are one word in the packet, the addresses another.
#[inline(always)]
fn ipv4<P: Packet>(packet: &mut P, l3: usize, new: u64) -> Result<u64, Stuck> {
    let old: u64 = packet.load(l3 + 12).ok_or(Stuck::Truncated)?;
    let word: u32 = packet.load(l3 + 8).ok_or(Stuck::Truncated)?;
    if word as u8 <= 1 {
        return Err(Stuck::TtlExpired);
    }
    let change = sum::word(!old) + sum::word(new);
    let (before, after) = (word as u16, word as u16 - 1);
    let checksum = sum::replace(
        (word >> 16) as u16,
        change + u64::from(!before) + u64::from(after),
    );
    let word = u32::from(after) | u32::from(checksum) << 16;
    packet.store(l3 + 12, new).ok_or(Stuck::Truncated)?;
    packet.store(l3 + 8, word).ok_or(Stuck::Truncated)?;
    Ok(change)
}

#[inline(always)]
fn ipv6<P: Packet>(packet: &mut P, l3: usize, ends: &Ends) -> Result<u64, Stuck> {
    let to1: u64 = packet.load(l3 + 32).ok_or(Stuck::Truncated)?;
    let to0: u64 = packet.load(l3 + 24).ok_or(Stuck::Truncated)?;
    let from1: u64 = packet.load(l3 + 16).ok_or(Stuck::Truncated)?;
    let from0: u64 = packet.load(l3 + 8).ok_or(Stuck::Truncated)?;
    let hops: u8 = packet.load(l3 + 7).ok_or(Stuck::Truncated)?;
    if hops <= 1 {
        return Err(Stuck::TtlExpired);
    }
    packet
        .store(l3 + 32, ends.destination[1])
        .ok_or(Stuck::Truncated)?;
    packet
        .store(l3 + 24, ends.destination[0])
        .ok_or(Stuck::Truncated)?;
    packet
        .store(l3 + 16, ends.source[1])
        .ok_or(Stuck::Truncated)?;
    packet
        .store(l3 + 8, ends.source[0])
        .ok_or(Stuck::Truncated)?;
    packet.store(l3 + 7, hops - 1).ok_or(Stuck::Truncated)?;
    Ok(sum::words([!from0, !from1])
        + sum::words([!to0, !to1])
        + sum::words(ends.source)
        + sum::words(ends.destination))
}
