//! Translation for nearly all packets of a client: without VLAN tags before or after, of a session
//! that they do not change, in the set where most sessions are, and by the way that its packets came
//! before. What [`super::translate`] does for any packet is done here with constant offsets, one read
//! of the packet and no call. It is compiled into the program, as [`crate::tunnel::plain`] is.

use super::{change, session};
use crate::{
    abi::{Backend, BackendState, Control, MAC_MASK},
    packet::Packet,
    parse::{Family, Head},
    rewrite::{destination_mac, set_macs, source_mac},
    steer::Tables,
    verdict::Verdict,
};

/// [`translate`]: it is for [`super::deliver`]; unchanged.
pub const OTHER: u64 = u64::MAX;

/// Where the network header of such a packet begins.
const L3: usize = 14;

/// Translates a client's packet for its backend. Returns the verdict's number, or [`OTHER`].
#[inline(always)]
pub fn translate<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    control: &Control,
    head: &Head,
    id: u16,
    backend: &Backend,
    state: BackendState,
) -> u64 {
    match to_backend(packet, tables, control, head, id, backend, state) {
        Some(()) => Verdict::Nat as u64,
        None => OTHER,
    }
}

#[inline(always)]
fn to_backend<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    control: &Control,
    head: &Head,
    id: u16,
    backend: &Backend,
    state: BackendState,
) -> Option<()> {
    let frame = backend.source.load();
    if frame >> 48 != 0 || super::family(backend.addr) != head.family {
        return None;
    }
    let place = session::steady(tables, control, head, id, backend, state.generation)?;
    let hop = tables.hop(place)?;
    if hop.tags.load() != 0
        || hop.client.load() != source_mac(packet)?
        || hop.own.load() != destination_mac(packet)?
        || hop.ifindex.load() != packet.ingress() as u64
    {
        return None;
    }
    let (source, port) = session::translation(control, place);
    let ports = change::ports(port, backend.port);
    let l4 = match head.family {
        Family::V4 => L3 + 20,
        Family::V6 => L3 + 40,
    };
    change::at(packet, head, L3, l4, source, &backend.addr, ports).ok()?;
    set_macs(packet, state.mac & MAC_MASK, frame)
}
