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
        self,
        change::{self, Address, ports},
        session,
    },
    packet::{Packet, Word},
    parse::{Family, Head, protocol},
    parts::Parts,
    rewrite::Stuck,
    steer::Decision,
    sum,
    verdict::Verdict,
};

use super::quote::{self, Quote};

/// Translates an error about a packet of the session at `place`: for the backend, or, if `homeward`
/// is not 0, for the client. The word is a [`Decision::pack`]ed one.
#[inline(always)]
pub fn retell<P: Packet, T: Parts>(
    packet: &mut P,
    tables: &T,
    head: &Head,
    place: u32,
    homeward: u32,
) -> u64 {
    let (told, unknown) = match homeward {
        0 => (to_backend(packet, tables, head, place), Verdict::NoService),
        _ => (to_client(packet, tables, head, place), Verdict::NatUnknown),
    };
    match told {
        Ok(decision) => {
            tables.event(Event::IcmpSteered);
            decision
        }
        // There is no such session, or it is another one now.
        Err(Verdict::NatUnknown) => Decision::new(unknown).pack(),
        Err(verdict) => Decision::new(verdict).pack(),
    }
}

/// A service's packet did not reach its client. Errors are not answered, so whose this one is may
/// stay.
#[inline(always)]
fn to_backend<P: Packet, T: Parts>(
    packet: &mut P,
    tables: &T,
    head: &Head,
    place: u32,
) -> Result<u64, Verdict> {
    let control = tables.control().ok_or(Verdict::NatUnknown)?;
    let mut quote = Quote::EMPTY;
    quote::read(packet, head, &mut quote).ok_or(Verdict::NatUnknown)?;
    let (found, backend) = nat::held(tables, place)?;
    if !found.is_of(quote.protocol as u8) {
        return Err(Verdict::NatUnknown);
    }
    let client = session::client(tables, place, found).ok_or(Verdict::NatUnknown)?;
    let (seen, port) = session::translation(control, place);
    let ports = ports(backend.port, port);
    tell(
        packet,
        head,
        &quote,
        &head.source,
        &backend.addr,
        seen,
        ports,
    )
    .map_err(Stuck::verdict)?;
    nat::onward(packet, tables, head, found, backend, client.service)
}

/// A packet of ours did not reach its backend. The client knows the service, and may reach nothing
/// else: the error is told by that.
#[inline(always)]
fn to_client<P: Packet, T: Parts>(
    packet: &mut P,
    tables: &T,
    head: &Head,
    place: u32,
) -> Result<u64, Verdict> {
    let mut quote = Quote::EMPTY;
    quote::read(packet, head, &mut quote).ok_or(Verdict::NatUnknown)?;
    let (found, backend) = nat::held(tables, place)?;
    if !found.is_of(quote.protocol as u8)
        || quote.destination_port() != backend.port
        || quote.destination[1] != backend.addr[1]
        || quote.destination[0] != backend.addr[0]
    {
        return Err(Verdict::NatUnknown);
    }
    let client = session::client(tables, place, found).ok_or(Verdict::NatUnknown)?;
    let service = &backend.service_addr;
    let ports = ports(client.port, backend.service_port);
    tell(
        packet,
        head,
        &quote,
        service,
        &client.address,
        service,
        ports,
    )
    .map_err(Stuck::verdict)?;
    nat::homeward(packet, tables, head, place, found, client.service)
}

/// Makes it an error from `source` to `to`, about a packet from `to` to `other` with these ports.
///
/// Field by field, as the kernel's machine has few registers; the first one is refused where any
/// would be.
///
/// # Errors
///
/// The packet is unchanged then.
#[inline(always)]
fn tell<P: Packet>(
    packet: &mut P,
    head: &Head,
    quote: &Quote,
    source: &impl Address,
    to: &impl Address,
    other: &impl Address,
    ports: u32,
) -> Result<(), Stuck> {
    let is_udp = quote.protocol == protocol::UDP as u32;
    let checksum_at = quote.transport() + if is_udp { 6 } else { 16 };
    let is_quoted = checksum_at + 2 <= quote.end();
    let before: u16 = if is_quoted {
        packet.load(checksum_at).ok_or(Stuck::Truncated)?
    } else {
        0
    };
    // UDP: none was computed (RFC 768).
    let follows = is_quoted && !(is_udp && before == 0);
    let outer = change::network(packet, head, source, to)?;
    let addresses = readdress(packet, head, quote.at(), to, other).ok_or(Stuck::Truncated)?;
    let port_change = put(packet, quote.transport(), ports).ok_or(Stuck::Truncated)?;
    let mut change = addresses + port_change;
    if follows {
        let checksum = match sum::replace(before, addresses + port_change) {
            0 if is_udp => u16::MAX,
            checksum => checksum,
        };
        change += put(packet, checksum_at, checksum).ok_or(Stuck::Truncated)?;
    }
    match head.family {
        Family::V4 => {
            let at = quote.at() + 10;
            let before: u16 = packet.load(at).ok_or(Stuck::Truncated)?;
            let checksum = sum::replace(before, addresses);
            change += put(packet, at, checksum).ok_or(Stuck::Truncated)?;
        }
        // The message's checksum covers a pseudo header (RFC 4443 section 2.3).
        Family::V6 => change += outer,
    }
    let at = head.l4() + 2;
    let before: u16 = packet.load(at).ok_or(Stuck::Truncated)?;
    packet
        .store(at, sum::replace(before, change))
        .ok_or(Stuck::Truncated)
}

/// Gives the quoted network header new ends. Returns what a sum of them grows by.
#[inline(always)]
fn readdress<P: Packet>(
    packet: &mut P,
    head: &Head,
    at: usize,
    source: &impl Address,
    destination: &impl Address,
) -> Option<u64> {
    match head.family {
        Family::V4 => {
            let addresses = source.word(1) >> 32 | destination.word(1) >> 32 << 32;
            put(packet, at + 12, addresses)
        }
        Family::V6 => Some(
            put(packet, at + 32, destination.word(1))?
                + put(packet, at + 24, destination.word(0))?
                + put(packet, at + 16, source.word(1))?
                + put(packet, at + 8, source.word(0))?,
        ),
    }
}

/// Writes a word, and returns what a sum of those there grows by. What is beyond a shorter word is
/// all ones in the complement, which is zero in the sum.
#[inline(always)]
fn put<P: Packet, W: Word>(packet: &mut P, at: usize, word: W) -> Option<u64> {
    let before: W = packet.load(at)?;
    packet.store(at, word)?;
    Some(sum::word(!before.widen()) + sum::word(word.widen()))
}
