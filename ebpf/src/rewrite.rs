//! What forwarding changes in a packet: hops, MACs, VLAN tag.

use crate::{
    abi::{Backend, BackendState, MAC_MASK},
    packet::Packet,
    parse::{Family, Head, ethertype},
    parts::Parts,
    verdict::Verdict,
};

/// Why a packet cannot be forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stuck {
    /// Its TTL or hop limit is used up.
    TtlExpired,
    /// It ended before a field that was there when it was parsed, or has no room for a tag: never,
    /// but the verifier asks.
    Truncated,
}

impl Stuck {
    /// The verdict on it.
    #[must_use]
    #[inline(always)]
    pub const fn verdict(self) -> Verdict {
        match self {
            Self::TtlExpired => Verdict::TtlExpired,
            Self::Truncated => Verdict::Truncated,
        }
    }
}

/// Makes the packet one for a backend of mode dsr: one hop older, in a frame with its MACs and the
/// VLAN tag that it must carry.
///
/// The hop is what ends a loop between two nodes that both think they are master.
///
/// # Errors
///
/// The packet is unchanged then.
#[inline(always)]
pub fn forward<P: Packet, T: Parts>(
    packet: &mut P,
    tables: &T,
    head: &Head,
    backend: &Backend,
    state: BackendState,
) -> Result<(), Stuck> {
    let (destination, source) = (state.mac, backend.source.load());
    age(packet, head.family, head.l3())?;
    if head.l3() == 14 && source >> 48 == 0 {
        set_macs(packet, destination, source).ok_or(Stuck::Truncated)
    } else {
        match tables.retag(packet, head.l3(), destination, source) {
            0 => Err(Stuck::Truncated),
            _ => Ok(()),
        }
    }
}

/// Whether a packet that stays as long as it is fits the way to its backend. None fits one that was
/// lost, which has no MTU.
#[inline(always)]
pub fn fits<P: Packet>(packet: &P, family: Family, l3: usize, backend: &Backend) -> bool {
    length(packet, family, l3).is_some_and(|length| length <= backend.mtu as usize)
}

/// The length of a packet, as its network header says.
#[inline(always)]
pub fn length<P: Packet>(packet: &P, family: Family, l3: usize) -> Option<usize> {
    Some(match family {
        Family::V4 => u16::from_be(packet.load(l3 + 2)?) as usize,
        Family::V6 => 40 + u16::from_be(packet.load(l3 + 4)?) as usize,
    })
}

/// Tells the sender of a packet that does not fit how large it may be. Returns the verdict.
#[inline(always)]
pub fn too_big<P: Packet, T: Parts>(
    packet: &mut P,
    tables: &T,
    head: &Head,
    backend: &Backend,
) -> Verdict {
    // The way was lost, and the ring does not know yet: nobody must be told this MTU.
    if backend.mtu == 0 {
        return Verdict::BadBackend;
    }
    Verdict::unpack(tables.too_big(packet, head.pack(), backend.mtu))
}

/// Refuses a packet whose hops are used up, before anything is done for it.
///
/// # Errors
///
/// The verdict on it.
#[inline(always)]
pub fn has_hops<P: Packet>(packet: &P, head: &Head) -> Result<(), Verdict> {
    let at = head.l3()
        + match head.family {
            Family::V4 => 8,
            Family::V6 => 7,
        };
    match packet.load::<u8>(at) {
        Some(0 | 1) => Err(Verdict::TtlExpired),
        Some(_) => Ok(()),
        None => Err(Verdict::Truncated),
    }
}

/// One hop less.
///
/// # Errors
///
/// None is left; the packet is unchanged then.
#[inline(always)]
pub fn age<P: Packet>(packet: &mut P, family: Family, l3: usize) -> Result<(), Stuck> {
    match family {
        Family::V4 => age_ipv4(packet, l3),
        Family::V6 => age_ipv6(packet, l3),
    }
}

#[inline(always)]
fn age_ipv4<P: Packet>(packet: &mut P, l3: usize) -> Result<(), Stuck> {
    let word: u32 = packet.load(l3 + 8).ok_or(Stuck::Truncated)?;
    if word as u8 <= 1 {
        return Err(Stuck::TtlExpired);
    }
    packet.store(l3 + 8, aged(word)).ok_or(Stuck::Truncated)
}

/// The word of an IPv4 header that has TTL (above 0), protocol and checksum, one hop later.
///
/// The checksum is adjusted (RFC 1624 equation 3): TTL is the high byte of its 16-bit word, so the
/// sum grows by 0x0100.
#[must_use]
#[inline(always)]
pub const fn aged(word: u32) -> u32 {
    let sum = (word >> 16) + 0x0100_u16.to_be() as u32;
    let checksum = (sum + (sum >= 0xffff) as u32) as u16;
    (word as u16 - 1) as u32 | (checksum as u32) << 16
}

#[inline(always)]
fn age_ipv6<P: Packet>(packet: &mut P, l3: usize) -> Result<(), Stuck> {
    let hop_limit: u8 = packet.load(l3 + 7).ok_or(Stuck::Truncated)?;
    if hop_limit <= 1 {
        return Err(Stuck::TtlExpired);
    }
    packet.store(l3 + 7, hop_limit - 1).ok_or(Stuck::Truncated)
}

/// Destination and the first two bytes of the source in one word, then the rest.
#[inline(always)]
pub fn set_macs<P: Packet>(packet: &mut P, destination: u64, source: u64) -> Option<()> {
    packet.store(0, destination & MAC_MASK | source << 48)?;
    packet.store(8, (source >> 16) as u32)
}

/// Gives a frame whose network header begins at `l3` its MACs and its VLAN tag, that in the upper
/// 16 bits of `source`: the innermost tag is changed, added or taken off; its priority and an outer
/// tag stay. Returns where the network header begins then; 0 if there is no room.
#[inline(always)]
pub fn retag<P: Packet>(packet: &mut P, l3: usize, destination: u64, source: u64) -> u64 {
    match set_tag(packet, l3, (source >> 48) as u16) {
        Some(l3) if set_macs(packet, destination, source).is_some() => l3 as u64,
        _ => 0,
    }
}

#[inline(always)]
fn set_tag<P: Packet>(packet: &mut P, l3: usize, tag: u16) -> Option<usize> {
    const ID: u16 = 0x0fff_u16.to_be();
    match (l3, tag) {
        (14, 0) => Some(14),
        (14, _) => {
            packet.advance(-4)?;
            packet.store(12, ethertype::VLAN)?;
            packet.store(14, tag)?;
            Some(18)
        }
        (18, 0) => {
            packet.advance(4)?;
            Some(14)
        }
        (18, _) => {
            let before: u16 = packet.load(14)?;
            packet.store(14, before & !ID | tag & ID)?;
            Some(18)
        }
        (_, 0) => {
            let outer: u32 = packet.load(12)?;
            packet.advance(4)?;
            packet.store(12, outer)?;
            Some(18)
        }
        (_, _) => {
            let before: u16 = packet.load(18)?;
            packet.store(18, before & !ID | tag & ID)?;
            Some(22)
        }
    }
}

/// The six bytes at the start of a frame: to whom it is.
#[inline(always)]
pub fn destination_mac<P: Packet>(packet: &P) -> Option<u64> {
    Some(packet.load::<u64>(0)? & MAC_MASK)
}

/// The six bytes behind: from whom it is.
#[inline(always)]
pub fn source_mac<P: Packet>(packet: &P) -> Option<u64> {
    Some(packet.load::<u64>(6)? & MAC_MASK)
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;
    use crate::packet::Buffer;

    fn checksum(header: &[u8]) -> u16 {
        let words = header
            .chunks(2)
            .map(|pair| u64::from(u16::from_be_bytes([pair[0], pair[1]])));
        !crate::sum::fold(words.sum())
    }

    /// Every TTL and a few thousand identifications: the incremental checksum equals the full one.
    #[test]
    fn checksum_stays_right() {
        for ttl in 2..=255_u8 {
            for id in (0..=u16::MAX).step_by(37) {
                let mut frame = std::vec![0_u8; 34];
                frame[14..34].copy_from_slice(&[
                    0x45, 0, 0, 40, 0, 0, 0x40, 0, ttl, 6, 0, 0, 10, 0, 0, 1, 192, 168, 1, 25,
                ]);
                frame[18..20].copy_from_slice(&id.to_be_bytes());
                let sum = checksum(&frame[14..34]);
                frame[24..26].copy_from_slice(&sum.to_be_bytes());
                let mut frame = Buffer {
                    bytes: frame,
                    ingress: 1,
                };
                age_ipv4(&mut frame, 14).expect("a hop is left");
                assert_eq!(frame.bytes[22], ttl - 1);
                assert_eq!(checksum(&frame.bytes[14..34]), 0, "ttl {ttl} id {id}");
            }
        }
    }

    #[test]
    fn tags_are_changed_added_and_taken_off() {
        const OUTER: [u8; 4] = [0x88, 0xa8, 0x10, 9];
        let frame = |tags: &[[u8; 4]]| {
            let mut bytes = Vec::from([0; 12]);
            bytes.extend(tags.iter().flatten());
            bytes.extend([8, 0, 0x45, 1, 2, 3, 4, 5]);
            bytes
        };
        /// Tags before, the VLAN id wanted, tags after.
        type Case = (&'static [[u8; 4]], u16, &'static [[u8; 4]]);
        const SEVEN: [u8; 4] = [0x81, 0, 0xa0, 7];
        const EIGHT: [u8; 4] = [0x81, 0, 0, 8];
        // The priority stays.
        const EIGHT_OF_SEVEN: [u8; 4] = [0x81, 0, 0xa0, 8];
        let cases: [Case; 8] = [
            (&[], 0, &[]),
            (&[], 8, &[EIGHT]),
            (&[SEVEN], 0, &[]),
            (&[SEVEN], 7, &[SEVEN]),
            (&[SEVEN], 8, &[EIGHT_OF_SEVEN]),
            (&[OUTER, SEVEN], 0, &[OUTER]),
            (&[OUTER, SEVEN], 7, &[OUTER, SEVEN]),
            (&[OUTER, SEVEN], 8, &[OUTER, EIGHT_OF_SEVEN]),
        ];
        for (before, vlan, after) in cases {
            let mut packet = Buffer {
                bytes: frame(before),
                ingress: 1,
            };
            let l3 = 14 + 4 * before.len();
            let source = 0x0605_0403_0201 | u64::from(vlan.to_be()) << 48;
            let moved = retag(&mut packet, l3, 0x1615_1413_1211, source);
            assert_eq!(moved, 14 + 4 * after.len() as u64);
            let mut expected = frame(after);
            expected[..6].copy_from_slice(&[0x11, 0x12, 0x13, 0x14, 0x15, 0x16]);
            expected[6..12].copy_from_slice(&[1, 2, 3, 4, 5, 6]);
            assert_eq!(packet.bytes, expected, "{before:?} to {vlan}");
        }
    }
}
