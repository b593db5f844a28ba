//! The way back to a translated flow's client: a frame as its own came, the other way round.
//!
//! The answer's frame has other tags than the client's, or none. So its whole header is written
//! anew, however many tags there were.

use crate::{
    abi::Hop,
    packet::Packet,
    parse::{Family, ethertype},
    rewrite::{destination_mac, set_macs, source_mac},
    shared::Shared,
};

/// Keeps the way that a frame came whose network header begins at `l3`. Writes only what changed, so
/// that the cache line stays shared. `None`: the frame is shorter than its header.
#[inline(always)]
pub fn keep<P: Packet>(packet: &P, l3: usize, hop: &Hop) -> Option<()> {
    // The last ones first: the verifier then knows the others to be within bounds too.
    let tags = match l3 {
        14 => 0,
        18 => packet.load::<u32>(12)? as u64,
        _ => packet.load::<u64>(12)?,
    };
    update(&hop.tags, tags);
    update(&hop.client, source_mac(packet)?);
    update(&hop.own, destination_mac(packet)?);
    update(&hop.ifindex, packet.ingress() as u64);
    Some(())
}

#[inline(always)]
fn update(word: &Shared, value: u64) {
    if word.load() != value {
        word.store(value);
    }
}

/// Gives a frame whose network header begins at `l3` the header that leads back. `None` if there is
/// no room.
#[inline(always)]
pub fn back<P: Packet>(packet: &mut P, family: Family, l3: usize, hop: &Hop) -> Option<()> {
    let kind = match family {
        Family::V4 => ethertype::IPV4,
        Family::V6 => ethertype::IPV6,
    };
    let tags = hop.tags.load();
    let header = if tags == 0 {
        14
    } else if tags >> 32 == 0 {
        18
    } else {
        22
    };
    if header != l3 {
        packet.advance(l3 as isize - header as isize)?;
    }
    match header {
        14 => packet.store(12, kind)?,
        18 => {
            packet.store(16, kind)?;
            packet.store(12, tags as u32)?;
        }
        _ => {
            packet.store(20, kind)?;
            packet.store(12, tags)?;
        }
    }
    set_macs(packet, hop.client.load(), hop.own.load())
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;
    use crate::packet::Buffer;

    const TAGS: [&[u8]; 4] = [
        &[],
        &[0x81, 0, 0xa0, 7],
        &[0x88, 0xa8, 0, 9],
        &[0x88, 0xa8, 0x10, 9, 0x81, 0, 0x20, 0],
    ];

    fn frame(to: u8, from: u8, tags: &[u8], kind: [u8; 2]) -> Buffer {
        let mut bytes = Vec::from([to; 6]);
        bytes.extend([from; 6]);
        bytes.extend(tags);
        bytes.extend(kind);
        bytes.extend([0x45, 1, 2, 3, 4, 5, 6, 7]);
        Buffer { bytes, ingress: 5 }
    }

    /// From any number of tags to any: MACs change places, the client's tags are there again.
    #[test]
    fn a_frame_goes_back_as_the_clients_came() {
        for client in TAGS {
            for answer in TAGS {
                for (family, kind) in [(Family::V4, [8, 0]), (Family::V6, [0x86, 0xdd])] {
                    let from_client = frame(1, 2, client, kind);
                    let hop = Hop::default();
                    keep(&from_client, 14 + client.len(), &hop).expect("long enough");
                    assert_eq!(hop.ifindex.load(), 5);
                    let mut packet = frame(8, 9, answer, kind);
                    back(&mut packet, family, 14 + answer.len(), &hop).expect("there is room");
                    assert_eq!(
                        packet,
                        frame(2, 1, client, kind),
                        "{answer:?} to {client:?}"
                    );
                }
            }
        }
    }
}
