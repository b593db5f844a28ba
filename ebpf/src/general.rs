//! Packets that are not plain: tagged, with options or extension headers, fragments, ICMP.

use crate::{
    address,
    event::Event,
    fence,
    packet::Packet,
    parse::{Family, Head, network, protocol, transport},
    parts::Parts,
    rewrite,
    steer::{self, Found, Tables, is_ours, usable},
    verdict::Verdict,
};

/// What is next, in the upper byte of [`general`]'s word.
pub mod next {
    /// The packet is decided about: the lower byte is the verdict.
    pub const DONE: u64 = 0;
    /// [`crate::steer::steer_any`]
    pub const STEER: u64 = 1 << 56;
    /// [`crate::icmp::icmp`]
    pub const MESSAGE: u64 = 2 << 56;
    /// [`crate::fragment::fragment`]
    pub const PART: u64 = 3 << 56;
    /// [`crate::tunnel::unwrap`]
    pub const UNWRAP: u64 = 4 << 56;
    /// [`crate::fence::message`]
    pub const FENCE: u64 = 5 << 56;
    /// [`crate::fence::arp`]
    pub const ARP: u64 = 6 << 56;
}

/// Reads any packet, and says what is [`next`] and, in the lower bytes, where its headers are
/// ([`Head::pack`]).
#[inline(always)]
pub fn general<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> u64 {
    let Some(control) = tables.control() else {
        return done(Verdict::NotVip);
    };
    let mut head = match network(packet, |addr| is_ours(control, addr)) {
        Ok(head) => head,
        Err(Verdict::NotIp) => return next::ARP,
        Err(verdict) => return done(verdict),
    };
    let next = if !head.part.is_whole() {
        // The first one has the ports; whether it has a whole header is asked there.
        if head.part.offset == 0 && matches!(head.protocol(), protocol::TCP | protocol::UDP) {
            let _ = transport(packet, &mut head);
        }
        next::PART
    } else {
        match (head.protocol(), head.family) {
            (protocol::TCP | protocol::UDP, _) => match transport(packet, &mut head) {
                Some(()) => next::STEER,
                None => return done(Verdict::Truncated),
            },
            _ if fence::concerns(packet, &head) => next::FENCE,
            (protocol::ICMP, Family::V4) | (protocol::ICMPV6, Family::V6) => next::MESSAGE,
            (protocol::IPV4 | protocol::IPV6, _) => next::UNWRAP,
            _ => return done(address::other(tables, control, &head)),
        }
    };
    next | head.pack()
}

#[inline(always)]
const fn done(verdict: Verdict) -> u64 {
    next::DONE | verdict as u64
}

/// Looks up any TCP or UDP packet's service and flow. The word is a [`Found::pack`]ed one.
#[inline(always)]
pub fn look_up<P: Packet, T: Tables>(packet: &mut P, tables: &T, head: &Head) -> u64 {
    let Some(control) = tables.control() else {
        return Found::NoService.pack();
    };
    let found = steer::look_up(
        packet,
        tables,
        control,
        head,
        head.flow_hash(control.flow_seed.load()),
    );
    if matches!(found, Found::Known(..) | Found::New(..)) {
        match head.family {
            Family::V4 if head.l4() - head.l3() > 20 => tables.event(Event::Ipv4Options),
            Family::V6 if head.l4() - head.l3() > 40 => tables.event(Event::Ipv6Extensions),
            _ => {}
        }
    }
    found.pack()
}

/// Forwards any packet to a backend of mode dsr. Returns the verdict's number.
#[inline(always)]
pub fn forward<P: Packet, T: Parts>(packet: &mut P, tables: &T, head: &Head, id: u16) -> u64 {
    let Some((backend, state)) = usable(tables, id) else {
        return Verdict::BadBackend as u64;
    };
    if !rewrite::fits(packet, head.family, head.l3(), backend) {
        return rewrite::too_big(packet, tables, head, backend) as u64;
    }
    match rewrite::forward(packet, tables, head, backend, state) {
        Ok(()) => Verdict::Dsr as u64,
        Err(stuck) => stuck.verdict() as u64,
    }
}
