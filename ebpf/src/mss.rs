//! Lowering the MSS that a SYN offers (RFC 9293 section 3.7.1): for ways whose MTU is lower than
//! the ends know.

use crate::{
    event::Event,
    packet::Packet,
    parse::Head,
    repeat::{Step, repeat},
    steer::Tables,
    sum,
};

const END: u8 = 0;
const NOTHING: u8 = 1;
const MSS: u8 = 2;

/// Behind any TCP option within the headers that are looked at.
const MAX_AT: usize = 4096;

/// Lowers the MSS of a TCP packet to `most`, if it offers more, and sets its checksum right. One
/// that offers none is left alone: its sender then takes 536 or 1220, which is below any limit that
/// makes sense.
#[inline(always)]
pub fn clamp<P: Packet, T: Tables>(packet: &mut P, tables: &T, head: &Head, most: u16) {
    if lower(packet, head.l4(), most).is_some() {
        tables.event(Event::MssClamped);
    }
}

#[inline(always)]
fn lower<P: Packet>(packet: &mut P, l4: usize, most: u16) -> Option<()> {
    let words: u8 = packet.load(l4 + 12)?;
    let mut search = Search {
        packet: &*packet,
        at: l4 + 20,
        end: l4 + (words >> 4) as usize * 4,
        found: 0,
    };
    repeat(40, &mut search);
    let at = search.found;
    // TCP options end 60 bytes behind the header's start; the verifier wants to see it.
    if at < l4 || at > l4 + 60 {
        return None;
    }
    let before: u16 = packet.load(at + 2)?;
    if u16::from_be(before) <= most {
        return None;
    }
    let checksum: u16 = packet.load(l4 + 16)?;
    packet.store(at + 2, most.to_be())?;
    // At an odd offset its bytes count in the other order.
    let (old, new) = if (at - l4).is_multiple_of(2) {
        (before, most.to_be())
    } else {
        (before.swap_bytes(), most)
    };
    let checksum = sum::replace(checksum, u64::from(!old) + u64::from(new));
    packet.store(l4 + 16, checksum)
}

/// The place of the MSS option, an option a round: there are 40 at most.
struct Search<'p, P> {
    packet: &'p P,
    at: usize,
    end: usize,
    found: usize,
}

impl<P: Packet> Step for Search<'_, P> {
    #[inline(always)]
    fn step(&mut self) -> bool {
        if self.at >= self.end || self.at > MAX_AT {
            return false;
        }
        match self.packet.load::<u8>(self.at) {
            Some(NOTHING) => self.at += 1,
            Some(MSS) => {
                // Of another length, or not all within the header, it is none: what lies there is
                // data.
                if self.packet.load(self.at + 1) == Some(4_u8) && self.at + 4 <= self.end {
                    self.found = self.at;
                }
                return false;
            }
            None | Some(END) => return false,
            Some(_) => match self.packet.load::<u8>(self.at + 1) {
                Some(length) if length >= 2 => self.at += length as usize,
                _ => return false,
            },
        }
        true
    }
}
