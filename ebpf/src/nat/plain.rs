//! Translation for nearly all packets of a client: without VLAN tags before or after, of a session
//! that they do not change, in the sets where most sessions are, and by the way that its packets
//! came before. What [`super::translate`] does for any packet is done here with constant offsets and
//! no call. It is compiled into the program, as [`crate::tunnel::plain`] is.
//!
//! All other packets of the function must not pay for it. So it takes no headers that were read:
//! they would be kept for it, on every way that leads here. It reads them again, in the first-level
//! cache.

use super::{change, session};
use crate::{
    abi::{Hop, MAC_MASK},
    packet::Packet,
    parse::{Family, PLAIN4, PLAIN6, Signal, protocol},
    steer::{Tables, usable},
    sum,
    verdict::Verdict,
};
use session::Client;

/// [`translate`]: it is for [`super::deliver`]; unchanged.
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

#[inline(always)]
fn to_backend<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    family: Family,
    id: u16,
) -> Option<()> {
    if !packet.has(match family {
        Family::V4 => PLAIN4,
        Family::V6 => PLAIN6,
    }) {
        return None;
    }
    let control = tables.control()?;
    let (backend, state) = usable(tables, id)?;
    let frame = backend.source.load();
    if frame >> 48 != 0 || super::family(backend.addr) != family {
        return None;
    }
    let (client, is_udp) = match family {
        Family::V4 => client4(packet, backend.service)?,
        Family::V6 => client6(packet, backend.service)?,
    };
    let place = session::steady(
        tables,
        control,
        family,
        client,
        is_udp,
        id,
        state.generation,
    )?;
    let hop = tables.hop(place)?;
    if !came_by(packet, hop)? {
        return None;
    }
    let (source, port) = session::translation(control, place);
    let ports = change::ports(port, backend.port);
    match family {
        Family::V4 => {
            let addresses = source[1].load() >> 32 | backend.addr[1] >> 32 << 32;
            ipv4(packet, addresses, ports, is_udp)?;
        }
        Family::V6 => {
            let source = [source[0].load(), source[1].load()];
            ipv6(packet, source, backend.addr, ports, is_udp)?;
        }
    }
    packet.store_at::<u64, 0>(state.mac | frame << 48)?;
    packet.store_at::<u32, 8>((frame >> 16) as u32)
}

/// Who sent it, and whether it is UDP; `None`: it begins or ends something.
#[inline(always)]
fn client4<P: Packet>(packet: &P, service: u32) -> Option<(Client, bool)> {
    let is_udp = packet.load_at::<u8, { L3 + 9 }>()? == protocol::UDP;
    if !is_udp && Signal(packet.load_at::<u8, { L3 + 20 + 13 }>()?).is_any() {
        return None;
    }
    let client = Client {
        address: crate::abi::mapped(packet.load_at::<u32, { L3 + 12 }>()?),
        port: packet.load_at::<u16, { L3 + 20 }>()?,
        service,
    };
    Some((client, is_udp))
}

#[inline(always)]
fn client6<P: Packet>(packet: &P, service: u32) -> Option<(Client, bool)> {
    let is_udp = packet.load_at::<u8, { L3 + 6 }>()? == protocol::UDP;
    if !is_udp && Signal(packet.load_at::<u8, { L3 + 40 + 13 }>()?).is_any() {
        return None;
    }
    let client = Client {
        address: [
            packet.load_at::<u64, { L3 + 8 }>()?,
            packet.load_at::<u64, { L3 + 16 }>()?,
        ],
        port: packet.load_at::<u16, { L3 + 40 }>()?,
        service,
    };
    Some((client, is_udp))
}

/// Whether a frame without tags came this way.
#[inline(always)]
fn came_by<P: Packet>(packet: &P, hop: &Hop) -> Option<bool> {
    let same = hop.client.load() == packet.load_at::<u64, 6>()? & MAC_MASK
        && hop.own.load() == packet.load_at::<u64, 0>()? & MAC_MASK
        && hop.ifindex.load() == packet.ingress() as u64
        && hop.tags.load() == 0;
    Some(same)
}

/// Gives a packet new ends; `None`: it has no hop left, and is unchanged.
#[inline(always)]
fn ipv4<P: Packet>(packet: &mut P, addresses: u64, ports: u32, is_udp: bool) -> Option<()> {
    let word = packet.load_at::<u32, { L3 + 8 }>()?;
    if word as u8 <= 1 {
        return None;
    }
    let before = packet.load_at::<u64, { L3 + 12 }>()?;
    let change = sum::word(!before) + sum::word(addresses);
    let (old, new) = (word as u16, word as u16 - 1);
    let checksum = sum::replace(
        (word >> 16) as u16,
        change + u64::from(!old) + u64::from(new),
    );
    packet.store_at::<u32, { L3 + 8 }>(u32::from(new) | u32::from(checksum) << 16)?;
    packet.store_at::<u64, { L3 + 12 }>(addresses)?;
    let before = packet.load_at::<u32, { L3 + 20 }>()?;
    packet.store_at::<u32, { L3 + 20 }>(ports)?;
    let change = change + u64::from(!before) + u64::from(ports);
    if is_udp {
        udp::<P, { L3 + 20 + 6 }>(packet, change)
    } else {
        tcp::<P, { L3 + 20 + 16 }>(packet, change)
    }
}

/// As [`ipv4`].
#[inline(always)]
fn ipv6<P: Packet>(
    packet: &mut P,
    source: [u64; 2],
    destination: [u64; 2],
    ports: u32,
    is_udp: bool,
) -> Option<()> {
    let hops = packet.load_at::<u8, { L3 + 7 }>()?;
    if hops <= 1 {
        return None;
    }
    packet.store_at::<u8, { L3 + 7 }>(hops - 1)?;
    let mut change = swap::<P, { L3 + 8 }>(packet, source[0])?;
    change += swap::<P, { L3 + 16 }>(packet, source[1])?;
    change += swap::<P, { L3 + 24 }>(packet, destination[0])?;
    change += swap::<P, { L3 + 32 }>(packet, destination[1])?;
    let before = packet.load_at::<u32, { L3 + 40 }>()?;
    packet.store_at::<u32, { L3 + 40 }>(ports)?;
    change += u64::from(!before) + u64::from(ports);
    if is_udp {
        udp::<P, { L3 + 40 + 6 }>(packet, change)
    } else {
        tcp::<P, { L3 + 40 + 16 }>(packet, change)
    }
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
