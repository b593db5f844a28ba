//! Translated packets: source and destination of a client's, and back of the backend's answers.
//!
//! ```text
//! client:port ---> service           translate: its session is found or made (session.rs)
//!      address:place ---> backend    addresses, ports, checksums (change.rs); the way it came is
//!                                    kept (hop.rs)
//! backend ---> address:place         answer: the place says which session it is
//!      service ---> client:port      back the way that was kept
//! ```
//!
//! A backend sees its clients under addresses of this node, so it answers to this node, whatever its
//! own routes are, and nothing about it has to change.
//!
//! Sessions are not counted as connections (`LOADS`): the flow table does that, by what the client
//! says; a backend's FIN or RST ends the session, not the flow.

pub mod change;
mod claim;
pub mod hop;
pub mod moved;
pub mod plain;
pub mod session;
mod sets;

use crate::{
    abi::{Backend, MAC_MASK, NAT_SETS, Service, is_mapped},
    mss,
    packet::Packet,
    parse::{Family, Head, protocol, tcp},
    parts::Parts,
    rewrite::{self, Stuck},
    steer::{Decision, Tables, find, usable},
    verdict::Verdict,
};
use session::Found;

/// Makes a client's packet one for its backend. Where that takes more than one step, they come one
/// after another, as within each other they would need more of the stack than there is.
#[inline(always)]
pub fn deliver<P: Packet, T: Parts>(
    packet: &mut P,
    tables: &T,
    head: u64,
    backend: u16,
) -> Verdict {
    let word = tables.translate(packet, head, backend, LOOK_UP);
    if word != UNKNOWN {
        return Verdict::unpack(word);
    }
    match tables.open(packet, head, backend) {
        UNKNOWN => Verdict::NatExhausted,
        place => Verdict::unpack(tables.translate(packet, head, backend, place as u32)),
    }
}

/// [`translate`]: its session is to be looked up.
const LOOK_UP: u32 = u32::MAX;

/// [`translate`]: it has no session where most are. [`open`]: no port is left.
const UNKNOWN: u64 = u64::MAX;

/// The place of no session: [`translate`] drops its packets ([`Verdict::BadBackend`]).
const NOWHERE: u64 = 4 * NAT_SETS as u64;

/// Finds or makes a session for a client's packet. Returns its place, [`NOWHERE`] or [`UNKNOWN`].
#[inline(always)]
pub fn open<P: Packet, T: Tables>(packet: &mut P, tables: &T, head: &Head, backend: u16) -> u64 {
    if !packet.has(head.l4()) {
        return UNKNOWN;
    }
    match session::open(tables, head, backend) {
        Some(place) => place as u64,
        // Not the stack's to refuse: its session may be there again in a moment.
        None if session::is_paused(tables) => NOWHERE,
        None => UNKNOWN,
    }
}

/// Translates a client's packet for its backend, with the session at `place` or as it is looked up.
/// One that is too big for the way there becomes a message to the client. Returns the verdict's
/// number, or [`UNKNOWN`].
#[inline(always)]
pub fn translate<P: Packet, T: Parts>(
    packet: &mut P,
    tables: &T,
    head: &Head,
    backend: u16,
    place: u32,
) -> u64 {
    match to_backend(packet, tables, head, backend, place) {
        Ok(true) => Verdict::Nat as u64,
        Ok(false) => UNKNOWN,
        Err(verdict) => verdict as u64,
    }
}

#[inline(always)]
fn to_backend<P: Packet, T: Parts>(
    packet: &mut P,
    tables: &T,
    head: &Head,
    id: u16,
    place: u32,
) -> Result<bool, Verdict> {
    let control = tables.control().ok_or(Verdict::BadBackend)?;
    let (backend, state) = usable(tables, id).ok_or(Verdict::BadBackend)?;
    if family(backend.addr) != head.family {
        return Err(Verdict::BadBackend);
    }
    if !rewrite::fits(packet, head.family, head.l3(), backend) {
        return Err(rewrite::too_big(packet, tables, head, backend));
    }
    let place = if place != LOOK_UP {
        place
    } else {
        match session::known(tables, control, head, id, backend, state.generation) {
            Some(place) => place,
            None => {
                rewrite::has_hops(packet, head)?;
                return Ok(false);
            }
        }
    };
    let hop = tables.hop(place).ok_or(Verdict::BadBackend)?;
    hop::keep(packet, head.l3(), hop).ok_or(Verdict::Truncated)?;
    let (source, port) = session::translation(control, place);
    let ports = change::ports(port, backend.port);
    change::plain(packet, head, source, &backend.addr, ports).map_err(Stuck::verdict)?;
    frame(packet, tables, head, backend).map(|()| true)
}

/// Translates a backend's answer to the `address` with this number for its client. The word is a
/// [`Decision::pack`]ed one.
#[inline(always)]
pub fn answer<P: Packet, T: Parts>(packet: &mut P, tables: &T, head: &Head, address: u32) -> u64 {
    match to_client(packet, tables, head, address) {
        Ok(decision) => decision,
        Err(verdict) => Decision::new(verdict).pack(),
    }
}

#[inline(always)]
fn to_client<P: Packet, T: Parts>(
    packet: &mut P,
    tables: &T,
    head: &Head,
    address: u32,
) -> Result<u64, Verdict> {
    let place = session::place(address, head.destination_port());
    const SYN_ACK: u8 = tcp::SYN | tcp::ACK;
    if head.signal.0 & SYN_ACK == SYN_ACK {
        // Looked up again behind it: so nothing has to be kept on the stack over it.
        let (_, backend) = session(tables, head, place)?;
        rewrite::has_hops(packet, head)?;
        clamp(packet, tables, head, backend);
    }
    let (found, backend) = session(tables, head, place)?;
    // Not asked before: what is of no session is the host's, and needs no hop more. BGP's are one.
    rewrite::has_hops(packet, head)?;
    session::answered(tables, place, found, head.signal);
    let client = session::client(tables, place, found).ok_or(Verdict::NatUnknown)?;
    let ports = change::ports(backend.service_port, client.port);
    change::whole(packet, head, &backend.service_addr, &client.address, ports)
        .map_err(Stuck::verdict)?;
    homeward(packet, tables, head, place, found, client.service)
}

/// The session at a place and its backend, if a packet is that one's.
#[inline(always)]
fn session<'t, T: Tables>(
    tables: &'t T,
    head: &Head,
    place: u32,
) -> Result<(Found, &'t Backend), Verdict> {
    let (found, backend) = held(tables, place)?;
    if !found.is_of(head.protocol())
        || backend.port != head.source_port
        || backend.addr[1] != head.source[1]
        || backend.addr[0] != head.source[0]
    {
        return Err(Verdict::NatUnknown);
    }
    Ok((found, backend))
}

/// The frame to a session's client, whose packet it is by now: it must not reach the host's stack.
/// Returns the decision, packed.
#[inline(always)]
pub(crate) fn homeward<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    head: &Head,
    place: u32,
    found: Found,
    service: u32,
) -> Result<u64, Verdict> {
    let hop = tables.hop(place).ok_or(Verdict::BadBackend)?;
    let decision = Decision {
        verdict: Verdict::NatReturn,
        service,
        backend: found.backend(),
        ifindex: hop.ifindex.load() as u32,
    };
    hop::back(packet, head.family, head.l3(), hop).ok_or(Verdict::BadBackend)?;
    Ok(decision.pack())
}

/// Translates a later fragment of a client's, which has no ports, for the backend of the session at
/// `place`: where that is the first one said, which came the normal way, by [`session::find`].
/// Returns a [`Decision::pack`]ed word.
///
/// # Errors
///
/// The verdict on a packet that is refused; it is unchanged then.
#[inline(always)]
pub fn part_to_backend<P: Packet, T: Parts>(
    packet: &mut P,
    tables: &T,
    head: &Head,
    place: u32,
) -> Result<u64, Verdict> {
    let control = tables.control().ok_or(Verdict::NatUnknown)?;
    let (found, backend) = held(tables, place)?;
    let client = session::client(tables, place, found).ok_or(Verdict::NatUnknown)?;
    // Its sender was told when the first fragment came, which is no smaller.
    if !rewrite::fits(packet, head.family, head.l3(), backend) {
        return Err(Verdict::TooBigDropped);
    }
    let (source, _) = session::translation(control, place);
    change::part(packet, head, source, &backend.addr).map_err(Stuck::verdict)?;
    onward(packet, tables, head, found, backend, client.service)
}

/// Translates a later fragment of an answer for the client of the session at `place`: that of the
/// answer's destination, by [`session::place`].
///
/// # Errors
///
/// As [`part_to_backend`].
#[inline(always)]
pub fn part_to_client<P: Packet, T: Parts>(
    packet: &mut P,
    tables: &T,
    head: &Head,
    place: u32,
) -> Result<u64, Verdict> {
    let (found, backend) = held(tables, place)?;
    let client = session::client(tables, place, found).ok_or(Verdict::NatUnknown)?;
    change::part(packet, head, &backend.service_addr, &client.address).map_err(Stuck::verdict)?;
    homeward(packet, tables, head, place, found, client.service)
}

/// The session at a place, and its backend, if that is still the one that it was.
#[inline(always)]
pub(crate) fn held<T: Tables>(tables: &T, place: u32) -> Result<(Found, &Backend), Verdict> {
    let found = session::at(tables, place).ok_or(Verdict::NatUnknown)?;
    match usable(tables, found.backend()) {
        Some((backend, state)) if state.generation == found.generation() => Ok((found, backend)),
        _ => Err(Verdict::NatUnknown),
    }
}

/// The frame to a session's backend. Returns the decision, packed.
#[inline(always)]
pub(crate) fn onward<P: Packet, T: Parts>(
    packet: &mut P,
    tables: &T,
    head: &Head,
    found: Found,
    backend: &Backend,
    service: u32,
) -> Result<u64, Verdict> {
    let decision = Decision {
        verdict: Verdict::Nat,
        service,
        backend: found.backend(),
        ifindex: backend.ifindex,
    };
    frame(packet, tables, head, backend).map(|()| decision.pack())
}

/// The frame to a backend. The packet in it is translated already, so that a refusal must not reach
/// the host's stack.
#[inline(always)]
fn frame<P: Packet, T: Parts>(
    packet: &mut P,
    tables: &T,
    head: &Head,
    backend: &Backend,
) -> Result<(), Verdict> {
    let (source, state) = (backend.source.load(), backend.state.load());
    if head.l3() == 14 && source >> 48 == 0 {
        return rewrite::set_macs(packet, state, source).ok_or(Verdict::BadBackend);
    }
    match tables.retag(packet, head.l3(), state & MAC_MASK, source) {
        0 => Err(Verdict::BadBackend),
        _ => Ok(()),
    }
}

/// Lowers the MSS that a backend offers, if its service says so.
#[inline(always)]
fn clamp<P: Packet, T: Tables>(packet: &mut P, tables: &T, head: &Head, backend: &Backend) {
    let key = Service::key(backend.service_port, protocol::TCP);
    if let Some(control) = tables.control()
        && let Some((_, service)) = find(tables, control, backend.service_addr, key)
    {
        let most = service.policy().mss();
        if most != 0 {
            mss::clamp(packet, tables, head, most);
        }
    }
}

/// The family of an address, IPv4 mapped.
#[inline(always)]
const fn family(address: [u64; 2]) -> Family {
    if is_mapped(address) {
        Family::V4
    } else {
        Family::V6
    }
}
