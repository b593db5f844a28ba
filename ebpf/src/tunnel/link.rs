//! The header of a frame: MACs, VLAN tags and the type of what follows.

use crate::{
    packet::Packet,
    parse::ethertype,
    rewrite::{self, set_macs},
};

/// A frame's header but for its last field, the type of what follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// To whom, in the lower 48 bits.
    pub destination: u64,
    /// From whom, likewise.
    pub source: u64,
    /// Its tags as they lie in the frame; what is above the last one has no meaning.
    pub tags: u64,
    /// Where the network header begins: 14, 18 or 22.
    pub l3: usize,
}

impl Link {
    /// That of a frame whose network header begins at `l3`.
    #[inline(always)]
    pub fn load<P: Packet>(packet: &P, l3: usize) -> Option<Self> {
        // The last one first: the others are then within bounds too, and the verifier knows.
        let tags = packet.load(12)?;
        let source = rewrite::source_mac(packet)?;
        let destination = rewrite::destination_mac(packet)?;
        Some(Self {
            destination,
            source,
            tags,
            l3,
        })
    }

    /// The one with which the frame goes on to `destination`: from the MAC in `source`, with the
    /// VLAN tag above it, as [`rewrite::retag`] has it.
    #[inline(always)]
    pub fn onward<P: Packet>(packet: &P, l3: usize, destination: u64, source: u64) -> Option<Self> {
        const ID: u64 = 0x0fff_u16.to_be() as u64;
        let tag = source >> 48;
        let before: u64 = packet.load(12)?;
        let (l3, tags) = match (l3, tag) {
            (14 | 18, 0) => (14, 0),
            (14, _) => (18, ethertype::VLAN as u64 | tag << 16),
            (18, _) => (18, before & !(ID << 16) | (tag & ID) << 16),
            (_, 0) => (18, before),
            (_, _) => (22, before & !(ID << 48) | (tag & ID) << 48),
        };
        Some(Self {
            destination,
            source,
            tags,
            l3,
        })
    }

    /// Writes it, before a packet of this type at [`Link::l3`].
    #[inline(always)]
    pub fn store<P: Packet>(&self, packet: &mut P, kind: u16) -> Option<()> {
        set_macs(packet, self.destination, self.source)?;
        match self.l3 {
            14 => packet.store(12, kind),
            18 => {
                packet.store(12, self.tags as u32)?;
                packet.store(16, kind)
            }
            _ => {
                packet.store(12, self.tags)?;
                packet.store(20, kind)
            }
        }
    }

    /// The way back.
    #[must_use]
    #[inline(always)]
    pub const fn turned(self) -> Self {
        Self {
            destination: self.source,
            source: self.destination,
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;
    use crate::packet::Buffer;

    const TO: u64 = 0x1615_1413_1211;
    const FROM: u64 = 0x0605_0403_0201;

    fn frame(tags: &[[u8; 4]]) -> Buffer {
        let mut bytes = Vec::from([0; 12]);
        bytes.extend(tags.iter().flatten());
        bytes.extend([8, 0]);
        bytes.extend([0x45; 20]);
        Buffer { bytes, ingress: 1 }
    }

    /// Two functions say what becomes of a frame's tags: one where the packet stays, one where it
    /// moves. They agree.
    #[test]
    fn tags_are_those_of_retag() {
        let outer = [0x88, 0xa8, 0x10, 9];
        let seven = [0x81, 0, 0xa0, 7];
        for tags in [&[][..], &[seven], &[outer, seven]] {
            for vlan in [0_u16, 7, 8, 4094] {
                let source = FROM | u64::from(vlan.to_be()) << 48;
                let l3 = 14 + 4 * tags.len();

                let mut retagged = frame(tags);
                let moved = rewrite::retag(&mut retagged, l3, TO, source);

                let before = frame(tags);
                let link = Link::onward(&before, l3, TO, source).unwrap();
                assert_eq!(link.l3 as u64, moved);
                let mut after = before.clone();
                after.advance(l3 as isize - link.l3 as isize).unwrap();
                link.store(&mut after, ethertype::IPV4).unwrap();
                assert_eq!(after, retagged, "{tags:?} to {vlan}");
            }
        }
    }

    #[test]
    fn a_frame_turned_twice_is_itself() {
        let tags = [[0x88, 0xa8, 0x10, 9], [0x81, 0, 0xa0, 7]];
        for count in 0..=2 {
            let mut packet = frame(&tags[..count]);
            packet.bytes[..12].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
            let before = packet.clone();
            let link = Link::load(&packet, 14 + 4 * count).unwrap();
            link.turned().store(&mut packet, ethertype::IPV4).unwrap();
            assert_eq!(packet.bytes[..6], before.bytes[6..12]);
            assert_eq!(packet.bytes[6..12], before.bytes[..6]);
            assert_eq!(packet.bytes[12..], before.bytes[12..]);
            link.store(&mut packet, ethertype::IPV4).unwrap();
            assert_eq!(packet, before);
        }
    }
}
