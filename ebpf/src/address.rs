//! Packets to an address of ours that are for no service: answers of translated flows, wrapped
//! packets, and what the host's stack takes.

use crate::{
    abi::{Control, Role, Service},
    nat::plain,
    packet::Packet,
    parse::{Head, protocol},
    parts::Parts,
    steer::{Arrival, Decision, Tables, arrival, find},
    verdict::Verdict,
};

/// What the address is for; nothing, if it is not ours after all.
#[inline(always)]
pub fn role<T: Tables>(tables: &T, control: &Control, addr: [u64; 2]) -> Role {
    match find(tables, control, addr, Service::ADDRESS) {
        Some((_, entry)) => Role(entry.id),
        None => Role(0),
    }
}

/// A TCP or UDP packet that no service is for. The word is a [`Decision::pack`]ed one.
#[inline(always)]
pub fn transport<P: Packet, T: Parts>(packet: &mut P, tables: &T, head: u64) -> u64 {
    let answered = plain::answer(packet, tables, head);
    if answered != plain::OTHER {
        return answered;
    }
    match Head::unpack(packet, head) {
        Some(head) => any(packet, tables, &head),
        None => Decision::new(Verdict::Truncated).pack(),
    }
}

#[inline(always)]
fn any<P: Packet, T: Parts>(packet: &mut P, tables: &T, head: &Head) -> u64 {
    let Some(control) = tables.control() else {
        return Decision::new(Verdict::NotVip).pack();
    };
    let role = role(tables, control, head.destination);
    if role.0 == 0 {
        return Decision::new(Verdict::NotVip).pack();
    }
    if arrival(packet, tables, control) == Arrival::Other {
        return Decision::new(Verdict::OtherHost).pack();
    }
    let is_gue = head.protocol() == protocol::UDP
        && head.part.is_whole()
        && head.destination_port() as u64 == control.gue_port.load();
    if role.is_endpoint() && is_gue {
        return tables.unwrap(packet, head.pack());
    }
    match role.nat() {
        Some(number) => tables.answer(packet, head.pack(), number),
        None => Decision::new(Verdict::NoService).pack(),
    }
}

/// The verdict on a packet of another protocol.
#[inline(always)]
pub fn other<T: Tables>(tables: &T, control: &Control, head: &Head) -> Verdict {
    if role(tables, control, head.destination).0 == 0 {
        Verdict::NotVip
    } else {
        Verdict::NoService
    }
}
