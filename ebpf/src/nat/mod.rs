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
pub mod hop;
pub mod session;

use crate::{
    abi::{Backend, BackendState, Control, Service},
    mss,
    packet::Packet,
    parse::{Family, Head, protocol, tcp},
    parts::Parts,
    rewrite::{self, Stuck},
    steer::{Decision, Tables, find, usable},
    verdict::Verdict,
};
use change::Ends;
use hop::Way;

/// Translates a client's packet for its backend. Returns the verdict's number.
#[inline(always)]
pub fn translate<P: Packet, T: Parts>(
    packet: &mut P,
    tables: &T,
    head: &Head,
    backend: u16,
) -> u64 {
    match to_backend(packet, tables, head, backend) {
        Ok(()) => Verdict::Nat as u64,
        Err(verdict) => verdict as u64,
    }
}

#[inline(always)]
fn to_backend<P: Packet, T: Parts>(
    packet: &mut P,
    tables: &T,
    head: &Head,
    id: u16,
) -> Result<(), Verdict> {
    let control = tables.control().ok_or(Verdict::BadBackend)?;
    let (backend, state) = usable(tables, id).ok_or(Verdict::BadBackend)?;
    if family(backend.addr) != head.family {
        return Err(Verdict::BadBackend);
    }
    has_hops(packet, head)?;
    let way = Way::of(packet, head.l3()).ok_or(Verdict::Truncated)?;
    let place = session::obtain(tables, control, head, id, backend, state.generation)
        .ok_or(Verdict::NatExhausted)?;
    let hop = tables.hop(place).ok_or(Verdict::BadBackend)?;
    way.keep(hop);
    let ends = outward(control, place, backend);
    change::whole(packet, head, &ends).map_err(Stuck::verdict)?;
    frame(packet, tables, head, backend, state)
}

/// Translates a backend's answer to the `address` with this number for its client. The word is a
/// [`Decision::pack`]ed one.
#[inline(always)]
pub fn answer<P: Packet, T: Parts>(packet: &mut P, tables: &T, head: &Head, address: u32) -> u64 {
    let mut decision = Decision::new(Verdict::NatUnknown);
    decision.verdict = match to_client(packet, tables, head, address, &mut decision) {
        Ok(()) => Verdict::NatReturn,
        Err(verdict) => verdict,
    };
    decision.pack()
}

#[inline(always)]
fn to_client<P: Packet, T: Parts>(
    packet: &mut P,
    tables: &T,
    head: &Head,
    address: u32,
    decision: &mut Decision,
) -> Result<(), Verdict> {
    let place = session::place(address, head.destination_port());
    let client = session::client(tables, place).ok_or(Verdict::NatUnknown)?;
    let (backend, state) = usable(tables, client.backend).ok_or(Verdict::NatUnknown)?;
    let is_udp = head.protocol() == protocol::UDP;
    if state.generation != client.generation
        || is_udp != client.udp
        || backend.port != head.source_port
        || backend.addr[1] != head.source[1]
        || backend.addr[0] != head.source[0]
    {
        return Err(Verdict::NatUnknown);
    }
    let hop = tables.hop(place).ok_or(Verdict::NatUnknown)?;
    let way = Way::kept(hop).ok_or(Verdict::NatUnknown)?;
    decision.service = client.service;
    decision.backend = client.backend;
    decision.ifindex = way.ifindex();
    change::whole(packet, head, &homeward(&client, backend)).map_err(Stuck::verdict)?;
    session::answered(tables, place, client.word, head.signal);
    const SYN_ACK: u8 = tcp::SYN | tcp::ACK;
    if head.signal.0 & SYN_ACK == SYN_ACK {
        clamp(packet, tables, head, backend);
    }
    // The packet is the client's now: it must not reach the host's stack.
    way.back(packet, head.family, head.l3())
        .ok_or(Verdict::BadBackend)
}

/// Which way a packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// To the backend.
    Outward,
    /// To the client.
    Homeward,
}

/// Translates a later fragment, which has no ports, of the session at `place`.
///
/// Whose it is the first fragment said, which came the normal way: see
/// [`session::find`] and [`session::place`].
#[inline(always)]
pub fn part<P: Packet, T: Parts>(
    packet: &mut P,
    tables: &T,
    head: &Head,
    place: u32,
    direction: Direction,
) -> Decision {
    let mut decision = Decision::new(Verdict::NatUnknown);
    decision.verdict = match follow(packet, tables, head, place, direction, &mut decision) {
        Ok(verdict) | Err(verdict) => verdict,
    };
    decision
}

#[inline(always)]
fn follow<P: Packet, T: Parts>(
    packet: &mut P,
    tables: &T,
    head: &Head,
    place: u32,
    direction: Direction,
    decision: &mut Decision,
) -> Result<Verdict, Verdict> {
    let control = tables.control().ok_or(Verdict::NatUnknown)?;
    let client = session::client(tables, place).ok_or(Verdict::NatUnknown)?;
    let (backend, state) = usable(tables, client.backend).ok_or(Verdict::NatUnknown)?;
    if state.generation != client.generation {
        return Err(Verdict::NatUnknown);
    }
    decision.service = client.service;
    decision.backend = client.backend;
    match direction {
        Direction::Outward => {
            decision.ifindex = backend.ifindex;
            let ends = outward(control, place, backend);
            change::part(packet, head, &ends).map_err(Stuck::verdict)?;
            frame(packet, tables, head, backend, state)?;
            Ok(Verdict::Nat)
        }
        Direction::Homeward => {
            let hop = tables.hop(place).ok_or(Verdict::NatUnknown)?;
            let way = Way::kept(hop).ok_or(Verdict::NatUnknown)?;
            decision.ifindex = way.ifindex();
            change::part(packet, head, &homeward(&client, backend)).map_err(Stuck::verdict)?;
            way.back(packet, head.family, head.l3())
                .ok_or(Verdict::BadBackend)?;
            Ok(Verdict::NatReturn)
        }
    }
}

/// The ends of a packet to a session's backend.
#[inline(always)]
pub fn outward(control: &Control, place: u32, backend: &Backend) -> Ends {
    let (source, source_port) = session::translation(control, place);
    Ends {
        source,
        destination: backend.addr,
        source_port,
        destination_port: backend.port,
    }
}

/// The ends of a packet to a session's client.
#[inline(always)]
pub fn homeward(client: &session::Client, backend: &Backend) -> Ends {
    Ends {
        source: backend.service_addr,
        destination: client.address,
        source_port: backend.service_port,
        destination_port: client.port,
    }
}

/// The frame to a backend. The packet in it is translated already, so that a refusal must not reach
/// the host's stack.
#[inline(always)]
pub(crate) fn frame<P: Packet, T: Parts>(
    packet: &mut P,
    tables: &T,
    head: &Head,
    backend: &Backend,
    state: BackendState,
) -> Result<(), Verdict> {
    let source = backend.source.load();
    if head.l3() == 14 && source >> 48 == 0 {
        return rewrite::set_macs(packet, state.mac, source).ok_or(Verdict::BadBackend);
    }
    match tables.retag(packet, head.l3(), state.mac, source) {
        0 => Err(Verdict::BadBackend),
        _ => Ok(()),
    }
}

/// Refuses a packet whose hops are used up, before a session is made for it.
#[inline(always)]
fn has_hops<P: Packet>(packet: &P, head: &Head) -> Result<(), Verdict> {
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
    if address[0] == 0 && address[1] as u32 == 0xffff_0000 {
        Family::V4
    } else {
        Family::V6
    }
}
