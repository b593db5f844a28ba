//! What translation changes in a packet's network and transport headers: addresses, ports, one hop
//! less, and the checksums along with them (RFC 1624).
//!
//! Whether all of it is there, and a hop left, is asked before anything is written: a packet that is
//! refused is as it was. Then it goes word by word, as the kernel's machine has few registers.

use crate::{
    packet::Packet,
    parse::{Family, Head, protocol},
    rewrite::Stuck,
    shared::Shared,
    sum,
};

/// An address wherever it is kept, IPv4 mapped.
pub trait Address {
    /// The first or second word.
    fn word(&self, number: usize) -> u64;
}

impl Address for [u64; 2] {
    #[inline(always)]
    fn word(&self, number: usize) -> u64 {
        self[number]
    }
}

impl Address for [Shared; 2] {
    #[inline(always)]
    fn word(&self, number: usize) -> u64 {
        self[number].load()
    }
}

/// From which port to which, as in a transport header; both in network byte order.
#[must_use]
#[inline(always)]
pub const fn ports(source: u16, destination: u16) -> u32 {
    source as u32 | (destination as u32) << 16
}

/// Gives a packet new ends.
///
/// # Errors
///
/// The packet is unchanged then.
#[inline(always)]
pub fn whole<P: Packet>(
    packet: &mut P,
    head: &Head,
    source: &impl Address,
    destination: &impl Address,
    ports: u32,
) -> Result<(), Stuck> {
    at(
        packet,
        head,
        head.l3(),
        head.l4(),
        source,
        destination,
        ports,
    )
}

/// The same, faster and larger: of nearly all packets the offsets are these, constants once it is
/// compiled for each.
///
/// # Errors
///
/// As [`whole`].
#[inline(always)]
pub fn plain<P: Packet>(
    packet: &mut P,
    head: &Head,
    source: &impl Address,
    destination: &impl Address,
    ports: u32,
) -> Result<(), Stuck> {
    match (head.family, head.l3(), head.l4()) {
        (Family::V4, 14, 34) => at(packet, head, 14, 34, source, destination, ports),
        (Family::V6, 14, 54) => at(packet, head, 14, 54, source, destination, ports),
        _ => whole(packet, head, source, destination, ports),
    }
}

/// [`whole`], with the offsets of the network and the transport header.
#[inline(always)]
fn at<P: Packet>(
    packet: &mut P,
    head: &Head,
    l3: usize,
    l4: usize,
    source: &impl Address,
    destination: &impl Address,
    ports: u32,
) -> Result<(), Stuck> {
    let is_udp = head.protocol() == protocol::UDP;
    let at = l4 + if is_udp { 6 } else { 16 };
    if packet.load::<u16>(at).is_none() {
        return Err(Stuck::Truncated);
    }
    let change = addresses(packet, head.family, l3, source, destination)?;
    let before: u32 = packet.load(l4).ok_or(Stuck::Truncated)?;
    packet.store(l4, ports).ok_or(Stuck::Truncated)?;
    let checksum: u16 = packet.load(at).ok_or(Stuck::Truncated)?;
    // UDP: none was computed (RFC 768, for IPv6 RFC 6935).
    if is_udp && checksum == 0 {
        return Ok(());
    }
    let change = change + u64::from(!before) + u64::from(ports);
    let checksum = match sum::replace(checksum, change) {
        0 if is_udp => u16::MAX,
        checksum => checksum,
    };
    packet.store(at, checksum).ok_or(Stuck::Truncated)
}

/// Gives a later fragment new ends: it has no ports, and the checksum that covers it is in the
/// first one.
///
/// # Errors
///
/// The packet is unchanged then.
#[inline(always)]
pub fn part<P: Packet>(
    packet: &mut P,
    head: &Head,
    source: &impl Address,
    destination: &impl Address,
) -> Result<(), Stuck> {
    network(packet, head, source, destination).map(|_| ())
}

/// Addresses, hops and the header's checksum. Returns what a checksum of the addresses changes by.
#[inline(always)]
pub(crate) fn network<P: Packet>(
    packet: &mut P,
    head: &Head,
    source: &impl Address,
    destination: &impl Address,
) -> Result<u64, Stuck> {
    addresses(packet, head.family, head.l3(), source, destination)
}

#[inline(always)]
fn addresses<P: Packet>(
    packet: &mut P,
    family: Family,
    l3: usize,
    source: &impl Address,
    destination: &impl Address,
) -> Result<u64, Stuck> {
    match family {
        Family::V4 => {
            let addresses = source.word(1) >> 32 | destination.word(1) >> 32 << 32;
            ipv4(packet, l3, addresses)
        }
        Family::V6 => ipv6(packet, l3, source, destination),
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
fn ipv6<P: Packet>(
    packet: &mut P,
    l3: usize,
    source: &impl Address,
    destination: &impl Address,
) -> Result<u64, Stuck> {
    let last: u64 = packet.load(l3 + 32).ok_or(Stuck::Truncated)?;
    let hops: u8 = packet.load(l3 + 7).ok_or(Stuck::Truncated)?;
    if hops <= 1 {
        return Err(Stuck::TtlExpired);
    }
    packet.store(l3 + 7, hops - 1).ok_or(Stuck::Truncated)?;
    let mut change = sum::word(!last);
    change += put(packet, l3 + 32, destination.word(1))?;
    change += swap(packet, l3 + 24, destination.word(0))?;
    change += swap(packet, l3 + 16, source.word(1))?;
    change += swap(packet, l3 + 8, source.word(0))?;
    Ok(change)
}

/// Puts a word in place of another one. Returns what a checksum changes by.
#[inline(always)]
fn swap<P: Packet>(packet: &mut P, at: usize, new: u64) -> Result<u64, Stuck> {
    let old: u64 = packet.load(at).ok_or(Stuck::Truncated)?;
    Ok(sum::word(!old) + put(packet, at, new)?)
}

#[inline(always)]
fn put<P: Packet>(packet: &mut P, at: usize, new: u64) -> Result<u64, Stuck> {
    packet.store(at, new).ok_or(Stuck::Truncated)?;
    Ok(sum::word(new))
}
