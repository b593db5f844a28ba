//! For whom a packet is, and from whom: the tuple that identifies its flow.
//!
//! Offsets are constants for each number of VLAN tags, so that the compiler folds them and the
//! verifier sees them; only the transport header behind IPv4 options has a computed one.

use crate::{
    abi::{Service, mapped},
    packet::Packet,
    verdict::Verdict,
};

/// Ethernet types, as read from a packet in network byte order.
pub mod ethertype {
    /// IPv4.
    pub const IPV4: u16 = 0x0800_u16.to_be();
    /// IPv6.
    pub const IPV6: u16 = 0x86dd_u16.to_be();
    /// IEEE 802.1Q tag.
    pub const VLAN: u16 = 0x8100_u16.to_be();
    /// IEEE 802.1ad service tag.
    pub const QINQ: u16 = 0x88a8_u16.to_be();
}

/// IP protocol numbers.
pub mod protocol {
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 extension headers that may stand before a transport header: hop-by-hop options,
    /// routing, fragment, authentication, destination options, mobility, HIP, shim6.
    pub const EXTENSIONS: [u8; 8] = [0, 43, 44, 51, 60, 135, 139, 140];
    /// The IPv6 fragment header.
    pub const FRAGMENT: u8 = 44;
}

/// TCP flags.
pub mod tcp {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise.
    pub const SYN: u8 = 0x02;
    /// Reset.
    pub const RST: u8 = 0x04;
    /// Acknowledgement.
    pub const ACK: u8 = 0x10;
}

/// The network protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// What of a segment moves its flow's state: the TCP flags, none for UDP.
///
/// Kept as read, not decoded into cases: what the verifier knows as a constant on each path it
/// follows separately.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signal(pub u8);

impl Signal {
    /// The connection ends: FIN or RST.
    #[must_use]
    #[inline(always)]
    pub const fn closes(self) -> bool {
        self.0 & (tcp::FIN | tcp::RST) != 0
    }

    /// A connection is asked for: SYN without ACK.
    #[must_use]
    #[inline(always)]
    pub const fn opens(self) -> bool {
        self.0 & (tcp::SYN | tcp::ACK | tcp::FIN | tcp::RST) == tcp::SYN
    }
}

/// For whom a packet is: all that is needed to tell whether it is for a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// IPv4 or IPv6.
    pub family: Family,
    /// The number of VLAN tags: 0, 1 or 2.
    pub tags: u8,
    /// Where the transport header begins.
    pub transport: usize,
    /// The destination address, IPv4 mapped.
    pub addr: [u64; 2],
    /// [`Service::key`] of destination port and protocol.
    pub port_proto: u32,
}

/// From whom it is and what it does to its flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// The source address, IPv4 mapped.
    pub addr: [u64; 2],
    /// The source port, network byte order.
    pub port: u16,
    /// What it does to its flow.
    pub signal: Signal,
}

/// Finds out for whom a frame is, and asks `wanted` about the destination's address words and
/// [`Service::key`].
///
/// It is asked where the address was read, once for each kind of header: what is not wanted, and
/// most packets are not, then leaves without the registers that the rest needs.
///
/// # Errors
///
/// The verdict on a packet that belongs to no flow, or is not wanted.
#[inline(always)]
pub fn target<P: Packet + ?Sized>(packet: &P, wanted: impl Wanted) -> Result<Target, Verdict> {
    let outer: u16 = packet.load(12).ok_or(Verdict::Truncated)?;
    match outer {
        ethertype::IPV4 => ipv4::<P, _, 14>(packet, wanted),
        ethertype::IPV6 => ipv6::<P, _, 14>(packet, wanted),
        ethertype::VLAN | ethertype::QINQ => tagged(packet, wanted),
        _ => Err(Verdict::NotIp),
    }
}

/// Tells whether a destination may be a service.
pub trait Wanted: Fn([u64; 2], u32) -> bool + Copy {}

impl<F: Fn([u64; 2], u32) -> bool + Copy> Wanted for F {}

/// Behind one tag or two.
#[inline(always)]
fn tagged<P: Packet + ?Sized>(packet: &P, wanted: impl Wanted) -> Result<Target, Verdict> {
    let inner: u16 = packet.load(16).ok_or(Verdict::Truncated)?;
    match inner {
        ethertype::IPV4 => ipv4::<P, _, 18>(packet, wanted),
        ethertype::IPV6 => ipv6::<P, _, 18>(packet, wanted),
        ethertype::VLAN => match packet.load::<u16>(20).ok_or(Verdict::Truncated)? {
            ethertype::IPV4 => ipv4::<P, _, 22>(packet, wanted),
            ethertype::IPV6 => ipv6::<P, _, 22>(packet, wanted),
            _ => Err(Verdict::NotIp),
        },
        _ => Err(Verdict::NotIp),
    }
}

/// The number of VLAN tags before a network header at this offset.
const fn tags(l3: usize) -> u8 {
    ((l3 - 14) / 4) as u8
}

#[inline(always)]
fn ipv4<P: Packet + ?Sized, W: Wanted, const L3: usize>(
    packet: &P,
    wanted: W,
) -> Result<Target, Verdict> {
    // The last field first: the others are then within bounds too.
    let addr: u32 = packet.load(L3 + 16).ok_or(Verdict::Truncated)?;
    let version_ihl: u8 = packet.load(L3).ok_or(Verdict::Truncated)?;
    let fragment: u16 = packet.load(L3 + 6).ok_or(Verdict::Truncated)?;
    let protocol: u8 = packet.load(L3 + 9).ok_or(Verdict::Truncated)?;

    // More fragments, or not the first one (RFC 791 3.1).
    if fragment & 0x3fff_u16.to_be() != 0 {
        return Err(Verdict::Fragment);
    }
    let transport = if version_ihl == 0x45 {
        L3 + 20
    } else if version_ihl >> 4 == 4 && version_ihl & 0xf > 5 {
        L3 + (version_ihl & 0xf) as usize * 4
    } else {
        return Err(Verdict::Malformed);
    };
    let port_proto = port_proto(packet, transport, protocol)?;
    let addr = mapped(addr);
    if !wanted(addr, port_proto) {
        return Err(Verdict::NotVip);
    }
    Ok(Target {
        family: Family::V4,
        tags: tags(L3),
        transport,
        addr,
        port_proto,
    })
}

#[inline(always)]
fn ipv6<P: Packet + ?Sized, W: Wanted, const L3: usize>(
    packet: &P,
    wanted: W,
) -> Result<Target, Verdict> {
    let addr1: u64 = packet.load(L3 + 32).ok_or(Verdict::Truncated)?;
    let addr0: u64 = packet.load(L3 + 24).ok_or(Verdict::Truncated)?;
    let version: u8 = packet.load(L3).ok_or(Verdict::Truncated)?;
    let next: u8 = packet.load(L3 + 6).ok_or(Verdict::Truncated)?;

    if version >> 4 != 6 {
        return Err(Verdict::Malformed);
    }
    if next == protocol::FRAGMENT {
        return Err(Verdict::Fragment);
    }
    if next != protocol::TCP && next != protocol::UDP && protocol::EXTENSIONS.contains(&next) {
        return Err(Verdict::ExtensionHeader);
    }
    let transport = L3 + 40;
    let port_proto = port_proto(packet, transport, next)?;
    let addr = [addr0, addr1];
    if !wanted(addr, port_proto) {
        return Err(Verdict::NotVip);
    }
    Ok(Target {
        family: Family::V6,
        tags: tags(L3),
        transport,
        addr,
        port_proto,
    })
}

#[inline(always)]
fn port_proto<P: Packet + ?Sized>(packet: &P, l4: usize, protocol: u8) -> Result<u32, Verdict> {
    if protocol != protocol::TCP && protocol != protocol::UDP {
        return Err(Verdict::NotTransport);
    }
    let port: u16 = packet.load(l4 + 2).ok_or(Verdict::Truncated)?;
    Ok(Service::key(port, protocol))
}

/// Finds out from whom a packet is that is for a service; `None` if it ends before that.
#[inline(always)]
pub fn client<P: Packet + ?Sized>(packet: &P, target: &Target) -> Option<Client> {
    let addr = match (target.family, target.tags) {
        (Family::V4, 0) => mapped(packet.load(14 + 12)?),
        (Family::V4, 1) => mapped(packet.load(18 + 12)?),
        (Family::V4, _) => mapped(packet.load(22 + 12)?),
        (Family::V6, 0) => [packet.load(14 + 8)?, packet.load(14 + 16)?],
        (Family::V6, 1) => [packet.load(18 + 8)?, packet.load(18 + 16)?],
        (Family::V6, _) => [packet.load(22 + 8)?, packet.load(22 + 16)?],
    };
    let port: u16 = packet.load(target.transport)?;
    let signal = if target.protocol() == protocol::TCP {
        Signal(packet.load(target.transport + 13)?)
    } else {
        // The whole header has to be there.
        packet.load::<u16>(target.transport + 6)?;
        Signal(0)
    };
    Some(Client { addr, port, signal })
}

impl Target {
    /// The protocol number.
    #[must_use]
    #[inline(always)]
    pub const fn protocol(&self) -> u8 {
        (self.port_proto >> 16) as u8
    }
}
