//! Translation for nearly all packets, in both directions: without VLAN tags, options and extension
//! headers, of sessions that they do not change. What [`super::translate`] and [`super::answer`] do
//! for any packet is done here with constant offsets, less of the packet kept, and in one call.
//!
//! Packets of other modes do not pay for it, so it is not compiled into the program's main function
//! as [`crate::tunnel::plain`] is: they would be 2 ns slower, though these would be 9 ns faster.

use super::{
    change, held,
    session::{self, Client},
};
use crate::{
    abi::{Hop, MAC_MASK, mapped},
    address,
    packet::Packet,
    parse::{Family, Head, PLAIN4, PLAIN6, Signal, protocol},
    rewrite,
    steer::{Decision, Tables, is_to_us, usable},
    sum,
    verdict::Verdict,
};

/// It is another packet, and unchanged.
pub const OTHER: u64 = u64::MAX;

/// Where the network header of such a packet begins.
const L3: usize = 14;

/// Translates a client's packet, a [`crate::parse::Plain`] one, for its backend. Returns the
/// verdict's number, or [`OTHER`].
#[inline(always)]
pub fn translate<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    family: Family,
    backend: u16,
) -> u64 {
    // A call for each family: the offsets are then constants.
    let done = match family {
        Family::V4 => to_backend(packet, tables, Family::V4, backend),
        Family::V6 => to_backend(packet, tables, Family::V6, backend),
    };
    match done {
        Some(()) => Verdict::Nat as u64,
        None => OTHER,
    }
}

/// Of a session in one of the sets where most are, by the way that its packets came before.
#[inline(always)]
fn to_backend<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    family: Family,
    id: u16,
) -> Option<()> {
    let ends = Ends::load(packet, family)?;
    let control = tables.control()?;
    let (backend, state) = usable(tables, id)?;
    let frame = backend.source.load();
    if frame >> 48 != 0
        || super::family(backend.addr) != family
        || !rewrite::fits(packet, family, L3, backend)
    {
        return None;
    }
    let client = Client {
        address: source(packet, family)?,
        port: ends.ports as u16,
        service: backend.service,
    };
    let generation = state.generation;
    let place = session::steady(tables, control, family, client, ends.is_udp, id, generation)?;
    if !came_by(packet, tables.hop(place)?)? {
        return None;
    }
    let (address, port) = session::translation(control, place);
    let from = [address[0].load(), address[1].load()];
    let ports = change::ports(port, backend.port);
    ends.replace(packet, family, from, backend.addr, ports)?;
    set_macs(packet, state.mac, frame)
}

/// Translates a backend's answer for its client, if it is one: what came to an address of ours that
/// is no service's, whose head is this word. Returns a [`Decision::pack`]ed word, or [`OTHER`].
#[inline(always)]
pub fn answer<P: Packet, T: Tables>(packet: &mut P, tables: &T, head: u64) -> u64 {
    let done = match Head::plain(head) {
        Some(Family::V4) => to_client(packet, tables, Family::V4),
        Some(Family::V6) => to_client(packet, tables, Family::V6),
        None => None,
    };
    match done {
        Some(decision) => decision.pack(),
        None => OTHER,
    }
}

#[inline(always)]
fn to_client<P: Packet, T: Tables>(packet: &mut P, tables: &T, family: Family) -> Option<Decision> {
    let ends = Ends::load(packet, family)?;
    let control = tables.control()?;
    let role = address::role(tables, control, destination(packet, family)?);
    let number = role.nat()?;
    let to_port = (ends.ports >> 16) as u16;
    let is_gue = ends.is_udp && to_port as u64 == control.gue_port.load();
    if role.is_endpoint() && is_gue || !is_to_us(packet, tables, control) {
        return None;
    }
    let place = session::place(number, to_port);
    let (found, backend) = held(tables, place).ok()?;
    let from = source(packet, family)?;
    if found.is_udp() != ends.is_udp
        || backend.port != ends.ports as u16
        || backend.addr[1] != from[1]
        || backend.addr[0] != from[0]
        || !session::was_answered(tables, found)
    {
        return None;
    }
    let client = session::client(tables, place, found)?;
    let hop = tables.hop(place)?;
    if hop.tags.load() != 0 {
        return None;
    }
    let ports = change::ports(backend.service_port, client.port);
    ends.replace(packet, family, backend.service_addr, client.address, ports)?;
    set_macs(packet, hop.client.load(), hop.own.load())?;
    Some(Decision {
        verdict: Verdict::NatReturn,
        service: client.service,
        backend: found.backend(),
        ifindex: hop.ifindex.load() as u32,
    })
}

/// What stands in a transport header.
struct Ends {
    ports: u32,
    is_udp: bool,
}

impl Ends {
    /// `None`: a connection begins or ends, or not all of the headers can be read.
    #[inline(always)]
    fn load<P: Packet>(packet: &P, family: Family) -> Option<Self> {
        let (protocol, flags, ports) = match family {
            Family::V4 if packet.has(PLAIN4) => (
                packet.load_at::<u8, { L3 + 9 }>()?,
                packet.load_at::<u8, { L3 + 20 + 13 }>()?,
                packet.load_at::<u32, { L3 + 20 }>()?,
            ),
            Family::V6 if packet.has(PLAIN6) => (
                packet.load_at::<u8, { L3 + 6 }>()?,
                packet.load_at::<u8, { L3 + 40 + 13 }>()?,
                packet.load_at::<u32, { L3 + 40 }>()?,
            ),
            _ => return None,
        };
        let is_udp = protocol == protocol::UDP;
        if !is_udp && Signal(flags).begins_or_ends() {
            return None;
        }
        Some(Self { ports, is_udp })
    }

    /// Gives the packet new ones; `None`: it has no hop left, and is unchanged.
    #[inline(always)]
    fn replace<P: Packet>(
        &self,
        packet: &mut P,
        family: Family,
        source: [u64; 2],
        destination: [u64; 2],
        ports: u32,
    ) -> Option<()> {
        let change = u64::from(!self.ports) + u64::from(ports);
        match (family, self.is_udp) {
            (Family::V4, is_udp) => {
                let change = change + ipv4(packet, source[1] >> 32 | destination[1] >> 32 << 32)?;
                packet.store_at::<u32, { L3 + 20 }>(ports)?;
                if is_udp {
                    udp::<P, { L3 + 20 + 6 }>(packet, change)
                } else {
                    tcp::<P, { L3 + 20 + 16 }>(packet, change)
                }
            }
            (Family::V6, is_udp) => {
                let change = change + ipv6(packet, source, destination)?;
                packet.store_at::<u32, { L3 + 40 }>(ports)?;
                if is_udp {
                    udp::<P, { L3 + 40 + 6 }>(packet, change)
                } else {
                    tcp::<P, { L3 + 40 + 16 }>(packet, change)
                }
            }
        }
    }
}

#[inline(always)]
fn source<P: Packet>(packet: &P, family: Family) -> Option<[u64; 2]> {
    Some(match family {
        Family::V4 => mapped(packet.load_at::<u32, { L3 + 12 }>()?),
        Family::V6 => [
            packet.load_at::<u64, { L3 + 8 }>()?,
            packet.load_at::<u64, { L3 + 16 }>()?,
        ],
    })
}

#[inline(always)]
fn destination<P: Packet>(packet: &P, family: Family) -> Option<[u64; 2]> {
    Some(match family {
        Family::V4 => mapped(packet.load_at::<u32, { L3 + 16 }>()?),
        Family::V6 => [
            packet.load_at::<u64, { L3 + 24 }>()?,
            packet.load_at::<u64, { L3 + 32 }>()?,
        ],
    })
}

/// Whether a frame without tags came this way.
#[inline(always)]
fn came_by<P: Packet>(packet: &P, hop: &Hop) -> Option<bool> {
    let client = hop.client.load() ^ packet.load_at::<u64, 6>()? & MAC_MASK;
    let own = hop.own.load() ^ packet.load_at::<u64, 0>()? & MAC_MASK;
    let ifindex = hop.ifindex.load() ^ packet.ingress() as u64;
    // One branch for all.
    Some(client | own | ifindex | hop.tags.load() == 0)
}

#[inline(always)]
fn set_macs<P: Packet>(packet: &mut P, destination: u64, source: u64) -> Option<()> {
    packet.store_at::<u64, 0>(destination & MAC_MASK | source << 48)?;
    packet.store_at::<u32, 8>((source >> 16) as u32)
}

/// New addresses, and a hop less. Returns what a checksum of the addresses changes by.
#[inline(always)]
fn ipv4<P: Packet>(packet: &mut P, addresses: u64) -> Option<u64> {
    let word = packet.load_at::<u32, { L3 + 8 }>()?;
    if word as u8 <= 1 {
        return None;
    }
    let before = packet.load_at::<u64, { L3 + 12 }>()?;
    let change = sum::word(!before) + sum::word(addresses);
    let (old, new) = (word as u16, word as u16 - 1);
    let hop = u64::from(!old) + u64::from(new);
    let checksum = sum::replace((word >> 16) as u16, change + hop);
    packet.store_at::<u32, { L3 + 8 }>(u32::from(new) | u32::from(checksum) << 16)?;
    packet.store_at::<u64, { L3 + 12 }>(addresses)?;
    Some(change)
}

/// As [`ipv4`].
#[inline(always)]
fn ipv6<P: Packet>(packet: &mut P, source: [u64; 2], destination: [u64; 2]) -> Option<u64> {
    let hops = packet.load_at::<u8, { L3 + 7 }>()?;
    if hops <= 1 {
        return None;
    }
    packet.store_at::<u8, { L3 + 7 }>(hops - 1)?;
    let mut change = swap::<P, { L3 + 8 }>(packet, source[0])?;
    change += swap::<P, { L3 + 16 }>(packet, source[1])?;
    change += swap::<P, { L3 + 24 }>(packet, destination[0])?;
    change += swap::<P, { L3 + 32 }>(packet, destination[1])?;
    Some(change)
}

/// Puts a word in place of another one. Returns what a checksum changes by.
#[inline(always)]
fn swap<P: Packet, const AT: usize>(packet: &mut P, new: u64) -> Option<u64> {
    let old = packet.load_at::<u64, AT>()?;
    packet.store_at::<u64, AT>(new)?;
    Some(sum::word(!old) + sum::word(new))
}

#[inline(always)]
fn tcp<P: Packet, const AT: usize>(packet: &mut P, change: u64) -> Option<()> {
    let checksum = packet.load_at::<u16, AT>()?;
    packet.store_at::<u16, AT>(sum::replace(checksum, change))
}

/// A checksum of zero is none (RFC 768, for IPv6 RFC 6935), and stays so.
#[inline(always)]
fn udp<P: Packet, const AT: usize>(packet: &mut P, change: u64) -> Option<()> {
    let checksum = packet.load_at::<u16, AT>()?;
    if checksum == 0 {
        return Some(());
    }
    packet.store_at::<u16, AT>(match sum::replace(checksum, change) {
        0 => u16::MAX,
        checksum => checksum,
    })
}
