//! ICMP messages to an address of ours.
//!
//! ```text
//! echo request to a virtual address? answered here
//! error that quotes a packet of a service's? its flow's backend, else the ring's,
//!     as any packet of that flow
//! error that quotes a packet of a translated flow's? its client, as if the service had been quoted
//! all else, neighbour discovery above all: the host's stack
//! ```

mod echo;
mod quote;

use self::quote::Quote;
use crate::{
    abi::{Control, Mode, Scheduler, Service},
    address,
    event::Event,
    flow::{self, Entry, Key, Key4, Key6, Value, WAYS},
    hash,
    packet::Packet,
    parse::{Family, Head},
    parts::Parts,
    select,
    steer::{Arrival, Decision, Tables, arrival, deliver, find, usable},
    verdict::Verdict,
};

/// Decides about an ICMP message. The word is a [`Decision::pack`]ed one.
#[inline(always)]
pub fn message<P: Packet, T: Parts>(packet: &mut P, tables: &T, head: &Head) -> u64 {
    decide(packet, tables, head).pack()
}

#[inline(always)]
fn decide<P: Packet, T: Parts>(packet: &mut P, tables: &T, head: &Head) -> Decision {
    let Some(control) = tables.control() else {
        return Decision::new(Verdict::NotVip);
    };
    let role = address::role(tables, control, head.destination);
    if role.0 == 0 {
        return Decision::new(Verdict::NotVip);
    }
    match arrival(packet, tables, control) {
        Arrival::Other => return Decision::new(Verdict::OtherHost),
        // To other addresses a peer sends for itself: it may be a backend of translated flows.
        Arrival::FromPeer if role.is_virtual() => return Decision::new(Verdict::Delivered),
        Arrival::Ours | Arrival::FromPeer => {}
    }
    let Some(kind) = packet.load::<u8>(head.l4()) else {
        return Decision::new(Verdict::Truncated);
    };
    if echo::is_request(head.family, kind) && role.is_virtual() {
        return Decision::new(echo::answer(packet, head));
    }
    if !is_error(head.family, kind) {
        return Decision::new(Verdict::NoService);
    }
    let mut quote = Quote::EMPTY;
    if quote::read(packet, head, &mut quote).is_none() {
        return Decision::new(Verdict::NoService);
    }
    let key = Service::key(quote.source_port(), quote.protocol as u8);
    match find(tables, control, head.destination, key) {
        Some((_, service)) => to_backend(packet, tables, control, service, head, &quote),
        None => Decision::new(Verdict::NoService),
    }
}

/// Whether a message says that a packet did not arrive: destination unreachable, time exceeded,
/// parameter problem (RFC 792), and for IPv6 packet too big (RFC 4443). Source quench is deprecated
/// (RFC 6633); redirects are the host's.
#[inline(always)]
const fn is_error(family: Family, kind: u8) -> bool {
    match family {
        Family::V4 => matches!(kind, 3 | 11 | 12),
        Family::V6 => matches!(kind, 1..=4),
    }
}

/// An error about a packet that a service sent: for the backend that sent it.
#[inline(always)]
fn to_backend<P: Packet, T: Parts>(
    packet: &mut P,
    tables: &T,
    control: &Control,
    service: &Service,
    head: &Head,
    quote: &Quote,
) -> Decision {
    let mut decision = Decision {
        service: service.id,
        ..Decision::new(Verdict::NoService)
    };
    let id = backend_of(tables, control, service, head.family, quote);
    let Some((backend, state)) = usable(tables, id) else {
        return decision;
    };
    decision.backend = id;
    decision.ifindex = backend.ifindex;
    decision.verdict = match state.mode {
        Mode::Nat => Verdict::NoService,
        _ => deliver(packet, tables, head, id, backend, state),
    };
    if matches!(
        decision.verdict,
        Verdict::Local | Verdict::Dsr | Verdict::Tunnel | Verdict::Nat
    ) {
        tables.event(Event::IcmpSteered);
    }
    decision
}

/// The backend of the flow that is quoted; 0: nobody knows. The flow stays as it is: the error is
/// not the client's, and anybody can send one.
#[inline(always)]
fn backend_of<T: Parts>(
    tables: &T,
    control: &Control,
    service: &Service,
    family: Family,
    quote: &Quote,
) -> u16 {
    let (client, port) = (quote.destination, quote.destination_port());
    let seed = control.flow_seed.load();
    let known = match family {
        Family::V4 => {
            let key = Key4::new((client[1] >> 32) as u32, port, service.id);
            let hash = hash::flow4(key.0, seed);
            match tables.set4(hash) {
                Some(set) => kept(tables, &set.0, key, hash),
                None => 0,
            }
        }
        Family::V6 => {
            let key = Key6::new(client, port, service.id);
            let hash = hash::flow6(key.0, seed);
            match tables.set6(hash) {
                Some(set) => kept(tables, &set.0, key, hash),
                None => 0,
            }
        }
    };
    // Another scheduler's choice would be another one than it was, and count as a new flow.
    if known != 0 || !matches!(service.policy().scheduler(), Scheduler::Hash) {
        return known;
    }
    select::choose(
        tables,
        service,
        &Head {
            source: client,
            source_port: port,
            ..Head::EMPTY
        },
    )
}

/// The backend of a flow in the table that may keep it; 0: none.
#[inline(always)]
fn kept<T: Tables, K: Key>(tables: &T, set: &[K::Entry; WAYS], key: K, hash: u64) -> u16 {
    let Some(entry) = flow::find(set, key) else {
        return 0;
    };
    let Some(value) = Value::unpack(entry.value().load(), flow::tag(hash)) else {
        return 0;
    };
    match usable(tables, value.backend) {
        Some((_, state)) if state.alive && state.generation == value.generation => value.backend,
        _ => 0,
    }
}
