//! Errors about packets of a translated flow: told to who sent the packet, as if that one had
//! arrived there as it was sent.
//!
//! ```text
//! about a service's packet to its client:   the backend gets one about its own packet to us
//! about our packet to a backend:            the client gets one about its own, from the service
//! ```
//!
//! Five checksums change: of both network headers, of the quoted segment if the quote reaches so
//! far, and that of the message, which covers all of what is quoted.

use crate::{
    event::Event,
    nat::{
        self, Direction,
        change::{self, Ends},
        hop::Way,
        session,
    },
    packet::Packet,
    parse::{Family, Head, protocol},
    parts::Parts,
    rewrite::Stuck,
    steer::{Decision, usable},
    sum,
    verdict::Verdict,
};

use super::quote::{self, Quote};

/// Translates an error about a packet of the session at `place`, whose receiver is at the end of
/// [`Direction::Homeward`] if `homeward` is not 0. The word is a [`Decision::pack`]ed one.
#[inline(always)]
pub fn retell<P: Packet, T: Parts>(
    packet: &mut P,
    tables: &T,
    head: &Head,
    place: u32,
    homeward: u32,
) -> u64 {
    let direction = match homeward {
        0 => Direction::Outward,
        _ => Direction::Homeward,
    };
    let mut decision = Decision::new(Verdict::NoService);
    match translate(packet, tables, head, place, direction, &mut decision) {
        Ok(verdict) => {
            tables.event(Event::IcmpSteered);
            decision.verdict = verdict;
        }
        // There is no such session, or it is another one now.
        Err(Verdict::NoService) if homeward != 0 => decision.verdict = Verdict::NatUnknown,
        Err(verdict) => decision.verdict = verdict,
    }
    decision.pack()
}

#[inline(always)]
fn translate<P: Packet, T: Parts>(
    packet: &mut P,
    tables: &T,
    head: &Head,
    place: u32,
    direction: Direction,
    decision: &mut Decision,
) -> Result<Verdict, Verdict> {
    let control = tables.control().ok_or(Verdict::NoService)?;
    let client = session::client(tables, place).ok_or(Verdict::NoService)?;
    let (backend, state) = usable(tables, client.backend).ok_or(Verdict::NoService)?;
    let mut quote = Quote::EMPTY;
    quote::read(packet, head, &mut quote).ok_or(Verdict::NoService)?;
    let is_udp = quote.protocol == protocol::UDP as u32;
    if state.generation != client.generation || is_udp != client.udp {
        return Err(Verdict::NoService);
    }
    decision.service = client.service;
    decision.backend = client.backend;
    match direction {
        Direction::Outward => {
            decision.ifindex = backend.ifindex;
            let ends = nat::outward(control, place, backend);
            // An error is not answered, so whose it is may stay.
            apply(packet, head, &quote, head.source, &ends).map_err(Stuck::verdict)?;
            nat::frame(packet, tables, head, backend, state)?;
            Ok(Verdict::Nat)
        }
        Direction::Homeward => {
            if quote.destination_port() != backend.port
                || quote.destination[1] != backend.addr[1]
                || quote.destination[0] != backend.addr[0]
            {
                return Err(Verdict::NoService);
            }
            let hop = tables.hop(place).ok_or(Verdict::NoService)?;
            let way = Way::kept(hop).ok_or(Verdict::NoService)?;
            decision.ifindex = way.ifindex();
            let ends = nat::homeward(&client, backend);
            // Only the service is known to the client, and may be all that it can reach.
            apply(packet, head, &quote, ends.source, &ends).map_err(Stuck::verdict)?;
            way.back(packet, head.family, head.l3())
                .ok_or(Verdict::BadBackend)?;
            Ok(Verdict::NatReturn)
        }
    }
}

/// Tells the error, from `source`, to the destination of `ends`, as one about a packet from there:
/// of the opposite ends.
///
/// # Errors
///
/// The packet is unchanged then.
#[inline(always)]
fn apply<P: Packet>(
    packet: &mut P,
    head: &Head,
    quote: &Quote,
    source: [u64; 2],
    ends: &Ends,
) -> Result<(), Stuck> {
    let (at, transport) = (quote.at(), quote.transport());
    let is_udp = quote.protocol == protocol::UDP as u32;
    // What a sum over both addresses grows by, first as quoted, then as in the error's own header.
    let quoted = sum::words(ends.destination)
        + sum::words(complement(head.destination))
        + sum::words(ends.source)
        + sum::words(complement(quote.destination));
    let outer = sum::words(source)
        + sum::words(complement(head.source))
        + sum::words(ends.destination)
        + sum::words(complement(head.destination));
    let ports = ends.destination_port as u32 | (ends.source_port as u32) << 16;
    let port_change = !quote.ports as u64 + ports as u64;

    let checksum_at = transport + if is_udp { 6 } else { 16 };
    let is_quoted = checksum_at + 2 <= quote.end();
    let before: u16 = if is_quoted {
        packet.load(checksum_at).ok_or(Stuck::Truncated)?
    } else {
        0
    };
    // UDP: none was computed (RFC 768).
    let follows = is_quoted && !(is_udp && before == 0);
    let segment = match sum::replace(before, quoted + port_change) {
        0 if is_udp => u16::MAX,
        checksum => checksum,
    };
    let message_at = head.l4() + 2;
    let message: u16 = packet.load(message_at).ok_or(Stuck::Truncated)?;
    let mut change = quoted + port_change;
    let header = match head.family {
        Family::V4 => {
            let old: u16 = packet.load(at + 10).ok_or(Stuck::Truncated)?;
            let new = sum::replace(old, quoted);
            change += !old as u64 + new as u64;
            new
        }
        // The message's checksum covers a pseudo header (RFC 4443 section 2.3).
        Family::V6 => {
            change += outer;
            0
        }
    };
    if follows {
        change += !before as u64 + segment as u64;
    }
    change::part(packet, head, &Ends { source, ..*ends })?;
    if follows {
        packet.store(checksum_at, segment).ok_or(Stuck::Truncated)?;
    }
    packet.store(transport, ports).ok_or(Stuck::Truncated)?;
    match head.family {
        Family::V4 => {
            let both = ends.destination[1] >> 32 | ends.source[1] >> 32 << 32;
            packet.store(at + 12, both).ok_or(Stuck::Truncated)?;
            packet.store(at + 10, header).ok_or(Stuck::Truncated)?;
        }
        Family::V6 => {
            let words = [
                (32, ends.source[1]),
                (24, ends.source[0]),
                (16, ends.destination[1]),
                (8, ends.destination[0]),
            ];
            for (offset, word) in words {
                packet.store(at + offset, word).ok_or(Stuck::Truncated)?;
            }
        }
    }
    packet
        .store(message_at, sum::replace(message, change))
        .ok_or(Stuck::Truncated)
}

#[inline(always)]
const fn complement(address: [u64; 2]) -> [u64; 2] {
    [!address[0], !address[1]]
}
