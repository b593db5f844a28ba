//! Where a tunnel begins for nearly all packets: of known flows, without VLAN tags before or after,
//! small enough, all in one piece. What [`super::entry`] does for any packet is done here with
//! constant offsets, few registers and one read of the packet, and adds half as much to the packet's
//! cost. It is compiled into the program, as a function of its own would cost its call, two look-ups more, and a return:
//! where the kernel guards returns against speculation, that alone is some nanoseconds.

use super::{
    IPV4, IPV6, UDP,
    entry::{Inner, Outer},
};
use crate::{
    abi::{Backend, BackendState, Control, MAC_MASK, Mode, is_mapped},
    packet::Packet,
    parse::{Family, ethertype},
    verdict::Verdict,
};

/// Where the network header of such a packet begins.
const L3: usize = 14;

/// [`wrap`]: it is for [`super::wrap`]; unchanged.
pub const OTHER: u64 = u64::MAX;

/// Wraps a packet for its backend; `hash` is any that its flow has. Returns the verdict's number, or
/// [`OTHER`].
#[inline(always)]
pub fn wrap<P: Packet>(
    packet: &mut P,
    control: &Control,
    family: Family,
    hash: u64,
    backend: &Backend,
    state: BackendState,
) -> u64 {
    match enter(packet, control, family, hash, backend, state) {
        Some(()) => Verdict::Tunnel as u64,
        None => OTHER,
    }
}

#[inline(always)]
fn enter<P: Packet>(
    packet: &mut P,
    control: &Control,
    family: Family,
    hash: u64,
    backend: &Backend,
    state: BackendState,
) -> Option<()> {
    let source = backend.source.load();
    if source >> 48 != 0 {
        return None;
    }
    let inner = Inner::load(packet, family, L3).ok()?;
    let least = match family {
        Family::V4 => IPV4,
        Family::V6 => IPV6,
    };
    if inner.length < least || !packet.has(L3 + inner.length) {
        return None;
    }
    let room = (backend.mtu as usize).checked_sub(inner.length)?;
    let destination = [backend.addr[0], backend.addr[1]];
    let is_ipv4 = is_mapped(destination);
    // Before the packet is moved: one without a network is `super::wrap`'s to refuse, unchanged.
    if !is_ipv4 && control.tunnel6[0].load() == 0 {
        return None;
    }
    // Each of the four on its own: the length is constant in it.
    match (is_ipv4, state.mode) {
        (true, Mode::Ipip) if room >= IPV4 => {
            let outer = Outer::from4(control, destination, hash, false)?;
            packet.advance(-(IPV4 as isize))?;
            ipv4(packet, &outer, &inner, state, source)?;
            packet.store(L3 + 16, (destination[1] >> 32) as u32)?;
            inner.age(packet, L3 + IPV4)
        }
        (true, Mode::Gue) if room >= IPV4 + UDP => {
            let outer = Outer::from4(control, destination, hash, true)?;
            packet.advance(-((IPV4 + UDP) as isize))?;
            ipv4(packet, &outer, &inner, state, source)?;
            let ports = outer.ports(control.gue_port.load());
            packet.store(L3 + 16, destination[1] >> 32 | (ports as u64) << 32)?;
            packet.store(L3 + 24, Outer::udp(&inner))?;
            inner.age(packet, L3 + IPV4 + UDP)
        }
        (false, Mode::Ipip) if room >= IPV6 => {
            packet.advance(-(IPV6 as isize))?;
            ipv6(
                packet,
                control,
                destination,
                hash,
                false,
                &inner,
                state,
                source,
            )?;
            inner.age(packet, L3 + IPV6)
        }
        (false, Mode::Gue) if room >= IPV6 + UDP => {
            packet.advance(-((IPV6 + UDP) as isize))?;
            let ports = ipv6(
                packet,
                control,
                destination,
                hash,
                true,
                &inner,
                state,
                source,
            )?;
            let udp = ports as u64 | (Outer::udp(&inner) as u64) << 32;
            packet.store(L3 + IPV6, udp)?;
            inner.age(packet, L3 + IPV6 + UDP)
        }
        _ => None,
    }
}

/// The frame's header, and the first two bytes of what follows it: those are written next.
#[inline(always)]
fn link<P: Packet>(packet: &mut P, kind: u16, state: BackendState, source: u64) -> Option<()> {
    packet.store(0, state.mac & MAC_MASK | source << 48)?;
    packet.store(8, source >> 16 | (kind as u64) << 32)
}

#[inline(always)]
fn ipv4<P: Packet>(
    packet: &mut P,
    outer: &Outer,
    inner: &Inner,
    state: BackendState,
    source: u64,
) -> Option<()> {
    link(packet, ethertype::IPV4, state, source)?;
    let [first, second] = outer.ipv4(inner);
    packet.store(L3, first)?;
    packet.store(L3 + 8, second)
}

/// Returns UDP's ports.
#[inline(always)]
#[allow(
    clippy::too_many_arguments,
    reason = "two callers, whose common part it is"
)]
fn ipv6<P: Packet>(
    packet: &mut P,
    control: &Control,
    destination: [u64; 2],
    hash: u64,
    is_gue: bool,
    inner: &Inner,
    state: BackendState,
    source: u64,
) -> Option<u32> {
    link(packet, ethertype::IPV6, state, source)?;
    let outer = Outer::from6(control, destination, hash, is_gue)?;
    packet.store(L3, outer.ipv6(inner))?;
    packet.store(L3 + 8, outer.source[0])?;
    packet.store(L3 + 16, outer.source[1])?;
    packet.store(L3 + 24, destination[0])?;
    packet.store(L3 + 32, destination[1])?;
    Some(outer.ports(control.gue_port.load()))
}
