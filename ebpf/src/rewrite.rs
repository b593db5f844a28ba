//! What forwarding changes in a packet.

use crate::{
    abi::MAC_MASK,
    packet::Packet,
    parse::{Family, Target},
};

/// Why a packet cannot be forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stuck {
    /// Its TTL or hop limit is used up.
    TtlExpired,
    /// It ended before a field that was there when it was parsed: never, but the verifier asks.
    Truncated,
}

/// Makes the packet one for `destination`, from `source`, one hop older.
///
/// The hop is what ends a loop between two nodes that both think they are master.
///
/// # Errors
///
/// The packet is unchanged then.
#[inline(always)]
pub fn forward<P: Packet + ?Sized>(
    packet: &mut P,
    target: &Target,
    destination: u64,
    source: u64,
) -> Result<(), Stuck> {
    match (target.family, target.tags) {
        (Family::V4, 0) => age_ipv4::<P, 14>(packet)?,
        (Family::V4, 1) => age_ipv4::<P, 18>(packet)?,
        (Family::V4, _) => age_ipv4::<P, 22>(packet)?,
        (Family::V6, 0) => age_ipv6::<P, 14>(packet)?,
        (Family::V6, 1) => age_ipv6::<P, 18>(packet)?,
        (Family::V6, _) => age_ipv6::<P, 22>(packet)?,
    }
    // Destination and the first two bytes of the source in one word, then the rest.
    packet
        .store(0, destination & MAC_MASK | source << 48)
        .ok_or(Stuck::Truncated)?;
    packet
        .store(8, (source >> 16) as u32)
        .ok_or(Stuck::Truncated)
}

/// One hop less, and the checksum adjusted for it (RFC 1624 equation 3: TTL is the high byte of
/// its 16-bit word, so the sum grows by 0x0100).
#[inline(always)]
fn age_ipv4<P: Packet + ?Sized, const L3: usize>(packet: &mut P) -> Result<(), Stuck> {
    let ttl: u8 = packet.load(L3 + 8).ok_or(Stuck::Truncated)?;
    if ttl <= 1 {
        return Err(Stuck::TtlExpired);
    }
    let checksum: u16 = packet.load(L3 + 10).ok_or(Stuck::Truncated)?;
    let sum = u32::from(checksum) + u32::from(0x0100_u16.to_be());
    let checksum = (sum + u32::from(sum >= 0xffff)) as u16;
    packet.store(L3 + 8, ttl - 1).ok_or(Stuck::Truncated)?;
    packet.store(L3 + 10, checksum).ok_or(Stuck::Truncated)
}

#[inline(always)]
fn age_ipv6<P: Packet + ?Sized, const L3: usize>(packet: &mut P) -> Result<(), Stuck> {
    let hop_limit: u8 = packet.load(L3 + 7).ok_or(Stuck::Truncated)?;
    if hop_limit <= 1 {
        return Err(Stuck::TtlExpired);
    }
    packet.store(L3 + 7, hop_limit - 1).ok_or(Stuck::Truncated)
}

/// The six bytes at the start of a frame: to whom it is.
#[inline(always)]
pub fn destination_mac<P: Packet + ?Sized>(packet: &P) -> Option<u64> {
    Some(packet.load::<u64>(0)? & MAC_MASK)
}

/// The six bytes behind: from whom it is.
#[inline(always)]
pub fn source_mac<P: Packet + ?Sized>(packet: &P) -> Option<u64> {
    Some(packet.load::<u64>(6)? & MAC_MASK)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checksum(header: &[u8]) -> u16 {
        let mut sum = 0_u32;
        for word in header.chunks(2) {
            sum += u32::from(u16::from_be_bytes([word[0], word[1]]));
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    /// Every TTL and a few thousand identifications: the incremental checksum equals the full one.
    #[test]
    fn checksum_stays_right() {
        for ttl in 2..=255_u8 {
            for id in (0..=u16::MAX).step_by(37) {
                let mut frame = [0_u8; 34];
                frame[14..34].copy_from_slice(&[
                    0x45, 0, 0, 40, 0, 0, 0x40, 0, ttl, 6, 0, 0, 10, 0, 0, 1, 192, 168, 1, 25,
                ]);
                frame[18..20].copy_from_slice(&id.to_be_bytes());
                let sum = checksum(&frame[14..34]);
                frame[24..26].copy_from_slice(&sum.to_be_bytes());
                age_ipv4::<[u8], 14>(&mut frame).expect("a hop is left");
                assert_eq!(frame[22], ttl - 1);
                assert_eq!(checksum(&frame[14..34]), 0, "ttl {ttl} id {id}");
            }
        }
    }
}
