//! Packets to an address of ours that are for no service: answers of translated flows, wrapped
//! packets, and what the host's stack takes.

use crate::{
    abi::{Control, Role, Service},
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

/// Decides about a TCP or UDP packet that no service is for.
///
/// The parts are called one after another and not by each other, as all functions on the way to the
/// innermost one share the stack.
#[inline(always)]
pub fn transport<P: Packet, T: Parts>(packet: &mut P, tables: &T, head: u64) -> Decision {
    let word = tables.address(packet, head);
    Decision::unpack(match word & 0xff {
        next::ANSWER => tables.answer(packet, head, (word >> 8) as u32),
        next::UNWRAP => tables.unwrap(packet, head),
        _ => word,
    })
}

/// The lowest byte of [`purpose`]'s word, if it is no verdict.
mod next {
    /// [`crate::nat::answer`], with the address's number in bits 8-39.
    pub(super) const ANSWER: u64 = 0xfe;
    /// [`crate::tunnel::unwrap`]
    pub(super) const UNWRAP: u64 = 0xff;
}

/// What becomes of a TCP or UDP packet that no service is for. The word is a [`Decision::pack`]ed
/// one, or what is [`next`].
#[inline(always)]
pub fn purpose<P: Packet, T: Tables>(packet: &mut P, tables: &T, head: &Head) -> u64 {
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
        return next::UNWRAP;
    }
    match role.nat() {
        Some(number) => next::ANSWER | (number as u64) << 8,
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
