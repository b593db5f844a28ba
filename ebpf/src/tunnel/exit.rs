//! Where a tunnel ends: the backend's node takes the packet out, and its stack, which has the
//! virtual address, takes that.
//!
//! Everybody who could wrap a packet could have it come from any address, past what guards the
//! network. So wrapped packets are taken only from the network that the nodes' own come from; a
//! network that lets in packets from its own addresses has to filter them at its edge (BCP 38).
//!
//! Of GUE both variants are known: 1, the IP packet directly behind UDP's header, and 0, which has a
//! header of its own (draft-ietf-intarea-gue section 3). A header that is flagged to have fields may
//! have one that says that what follows is encrypted or a fragment: such packets are dropped, as are
//! control messages.
//!
//! A checksum of UDP is not looked at. The nodes send none, and what is within has its own.

use super::{IPV4, IPV6, UDP, link::Link};
use crate::{
    abi::Control,
    address::role,
    packet::Packet,
    parse::{Family, Head, ethertype, protocol},
    parts::Parts,
    steer::{Arrival, Decision, arrival},
    sum,
    verdict::Verdict,
};

/// Takes a packet out of the one around it: an IP packet's or a UDP packet's payload. The word is a
/// [`Decision::pack`]ed one.
#[inline(always)]
pub fn unwrap<P: Packet, T: Parts>(packet: &mut P, tables: &T, head: &Head) -> u64 {
    let verdict = match exit(packet, tables, head) {
        Ok(()) => Verdict::Unwrapped,
        Err(verdict) => verdict,
    };
    Decision::new(verdict).pack()
}

#[inline(always)]
fn exit<P: Packet, T: Parts>(packet: &mut P, tables: &T, head: &Head) -> Result<(), Verdict> {
    let control = tables.control().ok_or(Verdict::NotVip)?;
    let role = role(tables, control, head.destination);
    if role.0 == 0 {
        return Err(Verdict::NotVip);
    }
    if arrival(packet, tables, control) == Arrival::Other {
        return Err(Verdict::OtherHost);
    }
    if !role.is_endpoint() {
        return Err(Verdict::NoService);
    }
    if !is_from_tunnel(control, head) {
        return Err(Verdict::BadTunnel);
    }
    let outer = Outer::load(packet, head)?;
    let carried = if head.protocol() == protocol::UDP {
        gue(packet, head.l4(), outer.end)?
    } else {
        Carried {
            at: head.l4(),
            end: outer.end,
            protocol: head.protocol(),
        }
    };
    let inner = match carried.protocol {
        protocol::IPV4 => ipv4(packet, &carried, outer.ecn),
        protocol::IPV6 => ipv6(packet, &carried, outer.ecn),
        _ => None,
    };
    let inner = inner.ok_or(Verdict::BadTunnel)?;
    take_out(packet, head.l3(), carried.at, &inner).ok_or(Verdict::Truncated)
}

/// Moves the frame's header before the packet within. Checked already: nothing fails.
#[inline(always)]
fn take_out<P: Packet>(packet: &mut P, l3: usize, at: usize, inner: &Inner) -> Option<()> {
    let link = Link::load(packet, l3)?;
    packet.advance(at as isize - l3 as isize)?;
    if inner.version() == 4 {
        packet.store(l3 + 10, inner.checksum)?;
        link.store(packet, ethertype::IPV4)?;
    } else {
        link.store(packet, ethertype::IPV6)?;
    }
    packet.store(l3, inner.first)
}

/// Whether the outer source is one of those that [`super::wrap`] chooses from.
#[inline(always)]
fn is_from_tunnel(control: &Control, head: &Head) -> bool {
    match head.family {
        Family::V4 => {
            let tunnel = control.tunnel4.load();
            tunnel != 0 && head.source4() & (tunnel >> 32) as u32 == tunnel as u32
        }
        Family::V6 => {
            let [network0, network1, mask0, mask1] = &control.tunnel6;
            network0.load() != 0
                && head.source[0] & mask0.load() == network0.load()
                && head.source[1] & mask1.load() == network1.load()
        }
    }
}

/// What the outer header says of what is within.
struct Outer {
    /// Where the packet ends.
    end: usize,
    /// Its mark of congestion.
    ecn: u8,
}

impl Outer {
    #[inline(always)]
    fn load<P: Packet>(packet: &P, head: &Head) -> Result<Self, Verdict> {
        let first: u64 = packet.load(head.l3()).ok_or(Verdict::Truncated)?;
        let (length, ecn) = match head.family {
            Family::V4 => (u16::from_be((first >> 16) as u16) as usize, first >> 8),
            Family::V6 => (
                IPV6 + u16::from_be((first >> 32) as u16) as usize,
                first >> 12,
            ),
        };
        let end = head.l3() + length;
        if end > packet.length() {
            return Err(Verdict::BadTunnel);
        }
        Ok(Self {
            end,
            ecn: ecn as u8 & ecn::MASK,
        })
    }
}

/// What is within.
struct Carried {
    /// Where it begins.
    at: usize,
    /// Where it ends at the latest.
    end: usize,
    /// Its protocol number: IPv4's or IPv6's, or it is not taken.
    protocol: u8,
}

/// What is within GUE, whose UDP header is at `l4` of a packet that ends at `end`.
#[inline(always)]
fn gue<P: Packet>(packet: &P, l4: usize, end: usize) -> Result<Carried, Verdict> {
    const VERSION: u32 = 0xf0;
    const CONTROL_OR_VARIANT: u32 = 0xe0;
    const WORDS: u32 = 0x1f;
    // Of variant 0: variant, C and header length; protocol; flags. Of 1 it is the packet.
    let header: u32 = packet.load(l4 + UDP).ok_or(Verdict::BadTunnel)?;
    let length: u16 = packet.load(l4 + 4).ok_or(Verdict::BadTunnel)?;
    let length = u16::from_be(length) as usize;
    if length < UDP || l4 + length > end {
        return Err(Verdict::BadTunnel);
    }
    let (header_length, protocol) = match header & VERSION {
        0x40 => (0, protocol::IPV4),
        0x60 => (0, protocol::IPV6),
        _ if header & CONTROL_OR_VARIANT == 0 && header >> 16 == 0 => {
            (4 + 4 * (header & WORDS) as usize, (header >> 8) as u8)
        }
        _ => return Err(Verdict::BadTunnel),
    };
    Ok(Carried {
        at: l4 + UDP + header_length,
        end: l4 + length,
        protocol,
    })
}

/// What the inner header has to be: the outer one's mark of congestion was taken over.
struct Inner {
    /// Its first two bytes: version, and TOS or part of the traffic class.
    first: u16,
    /// Of IPv4: its checksum.
    checksum: u16,
}

impl Inner {
    const fn version(&self) -> u16 {
        self.first >> 4 & 0xf
    }
}

/// `None`: it is no packet, or no whole one, or its mark of congestion would be lost.
#[inline(always)]
fn ipv4<P: Packet>(packet: &P, carried: &Carried, outer_ecn: u8) -> Option<Inner> {
    if !packet.has(carried.at + IPV4) {
        return None;
    }
    let checksum: u16 = packet.load(carried.at + 10)?;
    let first: u32 = packet.load(carried.at)?;
    let header = (first & 0xf) as usize * 4;
    let length = u16::from_be((first >> 16) as u16) as usize;
    let is_sound = first & 0xf0 == 0x40
        && header >= IPV4
        && length >= header
        && carried.at + length <= carried.end;
    if !is_sound {
        return None;
    }
    let before = first as u16;
    let ecn = ecn::after(outer_ecn, (before >> 8) as u8 & ecn::MASK)?;
    let after = before & !((ecn::MASK as u16) << 8) | (ecn as u16) << 8;
    Some(Inner {
        first: after,
        checksum: sum::replace(checksum, !before as u64 + after as u64),
    })
}

/// `None` as of [`ipv4`].
#[inline(always)]
fn ipv6<P: Packet>(packet: &P, carried: &Carried, outer_ecn: u8) -> Option<Inner> {
    if !packet.has(carried.at + IPV6) {
        return None;
    }
    let first: u64 = packet.load(carried.at)?;
    let length = IPV6 + u16::from_be((first >> 32) as u16) as usize;
    if first & 0xf0 != 0x60 || carried.at + length > carried.end {
        return None;
    }
    let before = first as u16;
    let ecn = ecn::after(outer_ecn, (before >> 12) as u8 & ecn::MASK)?;
    Some(Inner {
        first: before & !((ecn::MASK as u16) << 12) | (ecn as u16) << 12,
        checksum: 0,
    })
}

/// Explicit congestion notification (RFC 3168 section 5).
mod ecn {
    /// Its bits within TOS or traffic class.
    pub(super) const MASK: u8 = 3;
    const NOT_ECT: u8 = 0;
    const ECT_1: u8 = 1;
    const ECT_0: u8 = 2;
    const CE: u8 = 3;

    /// The mark of what leaves a tunnel (RFC 6040 section 4.2). `None`: congestion was met, and the
    /// inner packet's ends would not understand the mark: loss is what tells them.
    #[inline(always)]
    pub(super) const fn after(outer: u8, inner: u8) -> Option<u8> {
        match (inner, outer) {
            (NOT_ECT, CE) => None,
            (_, CE) => Some(CE),
            (ECT_0, ECT_1) => Some(ECT_1),
            _ => Some(inner),
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        /// The table of RFC 6040 figure 4: a row for each inner mark, a column for each outer one.
        #[test]
        fn marks_are_those_of_the_table() {
            let columns = [NOT_ECT, ECT_0, ECT_1, CE];
            let rows = [
                (NOT_ECT, [Some(NOT_ECT), Some(NOT_ECT), Some(NOT_ECT), None]),
                (ECT_0, [Some(ECT_0), Some(ECT_0), Some(ECT_1), Some(CE)]),
                (ECT_1, [Some(ECT_1), Some(ECT_1), Some(ECT_1), Some(CE)]),
                (CE, [Some(CE); 4]),
            ];
            for (inner, row) in rows {
                assert_eq!(columns.map(|outer| after(outer, inner)), row, "{inner}");
            }
        }
    }
}
