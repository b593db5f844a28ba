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
mod retell;

pub use self::retell::retell;

use self::quote::Quote;
use crate::{
    abi::{Control, Mode, Scheduler, Service},
    address,
    event::Event,
    flow::{self, Entry, Key, Key4, Key6, WAYS},
    nat::session,
    packet::Packet,
    parse::{Family, Head},
    parts::Parts,
    select,
    steer::{self, Arrival, Decision, Tables, arrival, deliver, find, usable},
    verdict::Verdict,
};

/// Decides about an ICMP message.
///
/// The parts are called one after another and not by each other, as all functions on the way to the
/// innermost one share the stack.
#[inline(always)]
pub fn icmp<P: Packet, T: Parts>(packet: &mut P, tables: &T, head: u64) -> Decision {
    let word = tables.message(packet, head);
    let (one, other) = ((word >> 8) as u32, (word >> 40) as u32);
    match word & 0xff {
        next::SEND => deliver(packet, tables, head, one, other as u16),
        next::RETELL => Decision::unpack(tables.retell(packet, head, one, other)),
        _ => Decision::unpack(word),
    }
}

/// The lowest byte of [`message`]'s word, if it is no verdict; what is next has arguments in bits
/// 8-39 and 40-63.
mod next {
    /// [`crate::steer::deliver`]
    pub(super) const SEND: u64 = 0xfe;
    /// [`super::retell()`]
    pub(super) const RETELL: u64 = 0xff;

    #[inline(always)]
    pub(super) const fn pack(what: u64, one: u32, other: u32) -> u64 {
        what | (one as u64) << 8 | (other as u64) << 40
    }
}

/// Decides about an ICMP message, or about what is [`next`]. The word is a [`Decision::pack`]ed one,
/// or its.
#[inline(always)]
pub fn message<P: Packet, T: Parts>(packet: &mut P, tables: &T, head: &Head) -> u64 {
    match decide(packet, tables, head) {
        Ok(word) => word,
        Err(verdict) => Decision::new(verdict).pack(),
    }
}

#[inline(always)]
fn decide<P: Packet, T: Parts>(packet: &mut P, tables: &T, head: &Head) -> Result<u64, Verdict> {
    let control = tables.control().ok_or(Verdict::NotVip)?;
    let role = address::role(tables, control, head.destination);
    if role.0 == 0 {
        return Err(Verdict::NotVip);
    }
    match arrival(packet, tables, control) {
        Arrival::Other => return Err(Verdict::OtherHost),
        // To other addresses a peer sends for itself: it may be a backend of translated flows.
        Arrival::FromPeer if role.is_virtual() => return Err(Verdict::Delivered),
        Arrival::Ours | Arrival::FromPeer => {}
    }
    let kind: u8 = packet.load(head.l4()).ok_or(Verdict::Truncated)?;
    if echo::is_request(head.family, kind) && role.is_virtual() {
        return Err(echo::answer(packet, head));
    }
    if !is_error(head.family, kind) {
        return Err(Verdict::NoService);
    }
    let mut quote = Quote::EMPTY;
    quote::read(packet, head, &mut quote).ok_or(Verdict::NoService)?;
    let key = Service::key(quote.source_port(), quote.protocol as u8);
    if let Some((_, service)) = find(tables, control, head.destination, key) {
        return to_backend(tables, control, service, head, &quote);
    }
    let number = role.nat().ok_or(Verdict::NoService)?;
    let place = session::place(number, quote.source_port());
    Ok(next::pack(next::RETELL, place, 1))
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
fn to_backend<T: Parts>(
    tables: &T,
    control: &Control,
    service: &Service,
    head: &Head,
    quote: &Quote,
) -> Result<u64, Verdict> {
    let id = backend_of(tables, control, service, head, quote);
    let (_, state) = usable(tables, id).ok_or(Verdict::NoService)?;
    if matches!(state.mode, Mode::Nat) {
        let (client, port) = (quote.destination, quote.destination_port());
        let place = session::find(tables, control, head.family, client, port, service.id)
            .ok_or(Verdict::NoService)?;
        return Ok(next::pack(next::RETELL, place, 0));
    }
    tables.event(Event::IcmpSteered);
    Ok(next::pack(next::SEND, service.id, id as u32))
}

/// The backend of the flow that is quoted; 0: nobody knows. The flow stays as it is: the error is
/// not the client's, and anybody can send one.
#[inline(always)]
fn backend_of<T: Parts>(
    tables: &T,
    control: &Control,
    service: &Service,
    head: &Head,
    quote: &Quote,
) -> u16 {
    let (client, port) = (quote.destination, quote.destination_port());
    let seed = control.flow_seed.load();
    // The flow's packets come from whom the quoted one was sent to.
    let flow = Head {
        source: client,
        source_port: port,
        port_proto: service.port_proto,
        ..*head
    };
    let hash = flow.flow_hash(seed);
    let known = match head.family {
        Family::V4 => {
            let key = Key4::new((client[1] >> 32) as u32, port, service.id);
            match tables.set4(hash) {
                Some(set) => holder(tables, &set.0, key, hash),
                None => 0,
            }
        }
        Family::V6 => {
            let key = Key6::new(client, port, service.id);
            match tables.set6(hash) {
                Some(set) => holder(tables, &set.0, key, hash),
                None => 0,
            }
        }
    };
    // Another scheduler's choice would be another one than it was, and count as a new flow.
    if known != 0 || !matches!(service.policy().scheduler(), Scheduler::Hash) {
        return known;
    }
    select::choose(tables, service, client, port, true)
}

/// The backend of a flow in the table that may keep it; 0: none.
#[inline(always)]
fn holder<T: Tables, K: Key>(tables: &T, set: &[K::Entry; WAYS], key: K, hash: u64) -> u16 {
    let known =
        flow::find(set, key).and_then(|entry| steer::kept(tables, entry.value(), flow::tag(hash)));
    match known {
        Some((value, ..)) => value.backend,
        None => 0,
    }
}
