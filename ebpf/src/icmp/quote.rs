//! The packet that an ICMP error is about, as far as the error quotes it.

use crate::{
    abi::mapped,
    packet::Packet,
    parse::{Family, Head, MAX_L4, protocol, quoted_transport},
};

/// A quoted TCP or UDP packet. Plain words: the verifier cannot follow an optional one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Quote {
    /// Whom it was for; who sent it is the host that the error is for.
    pub(super) destination: [u64; 2],
    /// Its ports, as read: the source's in the lower half.
    pub(super) ports: u32,
    /// TCP or UDP.
    pub(super) protocol: u32,
    at: u32,
    transport: u32,
    end: u32,
}

impl Quote {
    /// Nothing is known yet.
    pub(super) const EMPTY: Self = Self {
        destination: [0; 2],
        ports: 0,
        protocol: 0,
        at: 0,
        transport: 0,
        end: 0,
    };

    /// Where its network header begins. The verifier forgets it on the way, so it is told again.
    #[inline(always)]
    pub(super) const fn at(&self) -> usize {
        self.at as usize & (4 * MAX_L4 - 1)
    }

    /// Where its transport header begins.
    #[inline(always)]
    pub(super) const fn transport(&self) -> usize {
        self.transport as usize & (4 * MAX_L4 - 1)
    }

    /// Where the error ends, as its network header says.
    #[inline(always)]
    pub(super) const fn end(&self) -> usize {
        self.end as usize
    }

    /// The port it was sent from, network byte order.
    #[inline(always)]
    pub(super) const fn source_port(&self) -> u16 {
        self.ports as u16
    }

    /// The port it was sent to, network byte order.
    #[inline(always)]
    pub(super) const fn destination_port(&self) -> u16 {
        (self.ports >> 16) as u16
    }
}

/// Reads what an error quotes; `None` if that is not the beginning of a TCP or UDP packet that the
/// error's destination sent: the eight bytes of transport header that an error has to quote
/// (RFC 792) are enough.
#[inline(always)]
pub(super) fn read<P: Packet>(packet: &P, head: &Head, quote: &mut Quote) -> Option<()> {
    let end = stated_end(packet, head)?;
    if end > packet.length() {
        return None;
    }
    let at = head.l4() + 8;
    let transport = match head.family {
        Family::V4 => {
            let to: u32 = packet.load(at + 16)?;
            let from: u32 = packet.load(at + 12)?;
            let first: u64 = packet.load(at)?;
            let words = first as usize & 0xf;
            // Version 4; of a later fragment there are no ports.
            let is_later = u16::from_be((first >> 48) as u16) & 0x1fff != 0;
            if first & 0xf0 != 0x40
                || words < 5
                || is_later
                || from != (head.destination[1] >> 32) as u32
            {
                return None;
            }
            quote.protocol = packet.load::<u8>(at + 9)? as u32;
            quote.destination = mapped(to);
            at + 4 * words
        }
        Family::V6 => {
            let to1: u64 = packet.load(at + 32)?;
            let to0: u64 = packet.load(at + 24)?;
            let from1: u64 = packet.load(at + 16)?;
            let from0: u64 = packet.load(at + 8)?;
            let first: u64 = packet.load(at)?;
            let is_ours = from1 == head.destination[1] && from0 == head.destination[0];
            if first & 0xf0 != 0x60 || !is_ours {
                return None;
            }
            quote.destination = [to0, to1];
            let next = (first >> 48) as u8;
            let is_transport = next == protocol::TCP || next == protocol::UDP;
            let (protocol, transport) = if is_transport {
                (next, at + 40)
            } else {
                quoted_transport(packet, at + 40, next)?
            };
            quote.protocol = protocol as u32;
            transport
        }
    };
    let known = [protocol::TCP as u32, protocol::UDP as u32].contains(&quote.protocol);
    if !known || transport + 8 > end {
        return None;
    }
    packet.load::<u32>(transport + 4)?;
    quote.ports = packet.load(transport)?;
    quote.at = at as u32;
    quote.transport = transport as u32;
    quote.end = end as u32;
    Some(())
}

/// Where a packet ends, as its network header says.
#[inline(always)]
pub(super) fn stated_end<P: Packet>(packet: &P, head: &Head) -> Option<usize> {
    let (at, header) = match head.family {
        Family::V4 => (head.l3() + 2, 0),
        Family::V6 => (head.l3() + 4, 40),
    };
    let length: u16 = packet.load(at)?;
    Some(head.l3() + header + u16::from_be(length) as usize)
}
