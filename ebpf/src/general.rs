//! Packets that are not plain: tagged, with options or extension headers, fragments, ICMP.

use crate::{
    address,
    event::Event,
    packet::Packet,
    parse::{Family, Head, network, protocol, transport},
    parts::Parts,
    steer::{Decision, is_ours, steer},
    verdict::Verdict,
};

/// What [`general`] found, in the lower byte of its word; a [`Verdict`] lies above it.
pub mod next {
    /// The packet is decided about.
    pub const DONE: u64 = 0;
    /// [`super::any`] is next.
    pub const STEER: u64 = 1;
    /// [`crate::icmp::message`] is next.
    pub const MESSAGE: u64 = 2;
    /// [`crate::fragment::follow`] is next.
    pub const PART: u64 = 3;
    /// [`crate::tunnel::unwrap`] is next.
    pub const UNWRAP: u64 = 4;
}

/// Reads any packet into `head`, and says what is [`next`].
#[inline(always)]
pub fn general<P: Packet, T: Parts>(packet: &mut P, tables: &T, head: &mut Head) -> u64 {
    let Some(control) = tables.control() else {
        return done(Verdict::NotVip);
    };
    if let Err(verdict) = network(packet, head, |addr| is_ours(control, addr)) {
        return done(verdict);
    }
    if !head.part.is_whole() {
        // The first one has the ports; whether it has a whole header is asked there.
        if head.part.offset == 0 && matches!(head.protocol(), protocol::TCP | protocol::UDP) {
            let _ = transport(packet, head);
        }
        return next::PART;
    }
    match (head.protocol(), head.family) {
        (protocol::TCP | protocol::UDP, _) => match transport(packet, head) {
            Some(()) => next::STEER,
            None => done(Verdict::Truncated),
        },
        (protocol::ICMP, Family::V4) | (protocol::ICMPV6, Family::V6) => next::MESSAGE,
        (protocol::IPV4 | protocol::IPV6, _) => next::UNWRAP,
        _ => done(address::other(tables, control, head)),
    }
}

#[inline(always)]
const fn done(verdict: Verdict) -> u64 {
    next::DONE | (verdict as u64) << 8
}

/// Decides about a TCP or UDP packet, wherever its headers are. The word is a [`Decision::pack`]ed
/// one.
#[inline(always)]
pub fn any<P: Packet, T: Parts>(packet: &mut P, tables: &T, head: &Head) -> u64 {
    let Some(control) = tables.control() else {
        return Decision::new(Verdict::NotVip).pack();
    };
    let decision = steer(packet, tables, control, head);
    if decision.backend != 0 {
        match head.family {
            Family::V4 if head.l4() - head.l3() > 20 => tables.event(Event::Ipv4Options),
            Family::V6 if head.l4() - head.l3() > 40 => tables.event(Event::Ipv6Extensions),
            _ => {}
        }
    }
    decision.pack()
}
