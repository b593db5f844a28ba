//! For whom a packet is, and from whom: the tuple that identifies its flow.
//!
//! Nearly all packets are plain: no VLAN tag, no IPv4 options or IPv6 extension headers, TCP or UDP.
//! For them [`plain4`] and [`plain6`] read whole words at constant offsets. [`network`] and
//! [`transport`] read every other one.

use crate::{
    abi::{Service, mapped},
    hash,
    packet::Packet,
    repeat::{Step, repeat},
    verdict::Verdict,
};

/// Ethernet types, as read from a packet in network byte order.
pub mod ethertype {
    /// IPv4.
    pub const IPV4: u16 = 0x0800_u16.to_be();
    /// IPv6.
    pub const IPV6: u16 = 0x86dd_u16.to_be();
    /// ARP.
    pub const ARP: u16 = 0x0806_u16.to_be();
    /// IEEE 802.1Q tag.
    pub const VLAN: u16 = 0x8100_u16.to_be();
    /// IEEE 802.1ad service tag.
    pub const QINQ: u16 = 0x88a8_u16.to_be();
}

/// IP protocol numbers.
pub mod protocol {
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// IPv4 in IP (RFC 2003, RFC 2473).
    pub const IPV4: u8 = 4;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 in IP (RFC 2473, RFC 4213).
    pub const IPV6: u8 = 41;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
    /// IPv6: hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// IPv6: routing header.
    pub const ROUTING: u8 = 43;
    /// IPv6: fragment header.
    pub const FRAGMENT: u8 = 44;
    /// IPv6: authentication header.
    pub const AUTHENTICATION: u8 = 51;
    /// IPv6: destination options.
    pub const DESTINATION_OPTIONS: u8 = 60;
    /// VRRP (RFC 9568).
    pub const VRRP: u8 = 112;
    /// IPv6 extension headers that are not looked into: mobility, HIP, shim6, and two for
    /// experiments (IANA's registry of extension header types).
    pub const OTHER_EXTENSIONS: [u8; 5] = [135, 139, 140, 253, 254];
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
#[repr(u8)]
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
#[repr(transparent)]
pub struct Signal(pub u8);

impl Signal {
    /// The connection ends: FIN or RST.
    #[must_use]
    #[inline(always)]
    pub const fn closes(self) -> bool {
        self.0 & (tcp::FIN | tcp::RST) != 0
    }

    /// A connection begins or ends.
    #[must_use]
    #[inline(always)]
    pub const fn begins_or_ends(self) -> bool {
        self.0 & (tcp::SYN | tcp::FIN | tcp::RST) != 0
    }

    /// A connection is asked for: SYN without ACK.
    #[must_use]
    #[inline(always)]
    pub const fn opens(self) -> bool {
        self.0 & (tcp::SYN | tcp::ACK | tcp::FIN | tcp::RST) == tcp::SYN
    }
}

/// The headers of a packet, and where they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// See [`Head::l3`].
    pub l3: u32,
    /// See [`Head::l4`].
    pub l4: u32,
    /// The source address, IPv4 mapped.
    pub source: [u64; 2],
    /// The destination address, IPv4 mapped.
    pub destination: [u64; 2],
    /// [`Service::key`] of destination port and protocol; of a protocol without ports, and of a
    /// later fragment, the port is 0.
    pub port_proto: u32,
    /// Which part of a fragmented packet it is.
    pub part: Part,
    /// The source port, network byte order; or 0.
    pub source_port: u16,
    /// IPv4 or IPv6.
    pub family: Family,
    /// What it does to its flow.
    pub signal: Signal,
    /// Whether the ports were read.
    pub ports: bool,
    /// Where IPv6's fragment header is; 0: there is none.
    pub fragment: u16,
}

impl Head {
    /// The protocol number.
    #[must_use]
    #[inline(always)]
    pub const fn protocol(&self) -> u8 {
        (self.port_proto >> 16) as u8
    }

    /// The destination port, network byte order.
    #[must_use]
    #[inline(always)]
    pub const fn destination_port(&self) -> u16 {
        self.port_proto as u16
    }

    /// Where the headers are, in one word: from it and the packet [`Head::unpack`] makes the head
    /// again. Bits: 0-7 the network header's place, 8-23 the transport header's, 24-31 protocol,
    /// 32-47 the fragment header's place, 48 family, 49 whether there are ports. The upper byte is
    /// free.
    #[must_use]
    #[inline(always)]
    pub const fn pack(&self) -> u64 {
        self.l3 as u64
            | (self.l4 as u64) << 8
            | (self.protocol() as u64) << 24
            | (self.fragment as u64) << 32
            | (self.family as u64) << 48
            | (self.ports as u64) << 49
    }

    /// The family of a packet without tags, options and extension headers, TCP or UDP, by its head as
    /// one word; `None`: it has some. A first fragment is one too.
    #[must_use]
    #[inline(always)]
    pub const fn plain(word: u64) -> Option<Family> {
        const PORTS: u64 = 1 << 49;
        const PLAIN4: u64 = 14 | (14 + 20) << 8 | PORTS;
        const PLAIN6: u64 = 14 | (14 + 40) << 8 | PORTS | 1 << 48;
        match word & ((1 << 50) - 1) & !(0xff << 24) {
            PLAIN4 => Some(Family::V4),
            PLAIN6 => Some(Family::V6),
            _ => None,
        }
    }

    /// Reads the head of a packet that was read before; `None` if it ended before that: never, but
    /// the verifier asks.
    #[inline(always)]
    pub fn unpack<P: Packet>(packet: &P, word: u64) -> Option<Self> {
        let is_ipv6 = word & 1 << 48 != 0;
        let mut head = Self {
            l3: word as u32 & 31,
            l4: (word >> 8) as u32 & (2 * MAX_L4 as u32 - 1),
            source: [0; 2],
            destination: [0; 2],
            port_proto: Service::key(0, (word >> 24) as u8),
            part: Part::default(),
            source_port: 0,
            family: if is_ipv6 { Family::V6 } else { Family::V4 },
            signal: Signal(0),
            ports: word & 1 << 49 != 0,
            fragment: (word >> 32) as u16 & (2 * MAX_L4 as u16 - 1),
        };
        let l3 = head.l3();
        if head.ports {
            transport(packet, &mut head)?;
        }
        match head.family {
            Family::V4 => {
                head.destination = mapped(packet.load(l3 + 16)?);
                head.source = mapped(packet.load(l3 + 12)?);
                head.part = part4(packet.load(l3 + 4)?);
            }
            Family::V6 => {
                if head.fragment != 0 {
                    head.part = part6(packet.load(head.fragment as usize)?);
                }
                let to1 = packet.load(l3 + 32)?;
                head.destination = [packet.load(l3 + 24)?, to1];
                let from1 = packet.load(l3 + 16)?;
                head.source = [packet.load(l3 + 8)?, from1];
            }
        }
        Some(head)
    }

    /// The hash of its flow.
    #[must_use]
    #[inline(always)]
    pub const fn flow_hash(&self, seed: u64) -> u64 {
        match self.family {
            Family::V4 => hash::flow4(
                self.source4(),
                self.source_port,
                (self.destination[1] >> 32) as u32,
                self.port_proto,
                seed,
            ),
            Family::V6 => hash::flow6(
                self.source,
                self.source_port,
                self.destination,
                self.port_proto,
                seed,
            ),
        }
    }

    /// The IPv4 source address, as read.
    #[must_use]
    #[inline(always)]
    pub const fn source4(&self) -> u32 {
        (self.source[1] >> 32) as u32
    }

    /// Where the network header begins: 14, 18 or 22. The verifier forgets it on the way from one
    /// function to another, so it is told again.
    #[must_use]
    #[inline(always)]
    pub const fn l3(&self) -> usize {
        self.l3 as usize & 31
    }

    /// Where what it carries begins, behind options and extension headers: [`MAX_L4`] at most.
    #[must_use]
    #[inline(always)]
    pub const fn l4(&self) -> usize {
        self.l4 as usize & (2 * MAX_L4 - 1)
    }
}

/// Transport headers further in are not looked for.
pub const MAX_L4: usize = 512;

/// Which part of a fragmented packet it is; all zero: it is whole.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Part {
    /// The packet's identification, as read.
    pub identification: u32,
    /// Where in the packet it lies, units of 8 bytes.
    pub offset: u16,
    /// 1 if others follow it.
    pub more: u16,
}

impl Part {
    /// Whether it is the whole packet.
    #[must_use]
    #[inline(always)]
    pub const fn is_whole(self) -> bool {
        self.offset == 0 && self.more == 0
    }
}

/// The part that the second word of an IPv4 header says (RFC 791 3.1).
#[inline(always)]
const fn part4(word: u32) -> Part {
    let place = u16::from_be((word >> 16) as u16);
    Part {
        identification: word as u16 as u32,
        offset: place & 0x1fff,
        more: (place >> 13) & 1,
    }
}

/// The part that an IPv6 fragment header says (RFC 8200 4.5).
#[inline(always)]
const fn part6(word: u64) -> Part {
    let place = u16::from_be((word >> 16) as u16);
    Part {
        identification: (word >> 32) as u32,
        offset: place >> 3,
        more: place & 1,
    }
}

/// A packet that may be steered, or why it is not plain or not wanted.
pub enum Plain {
    /// A TCP or UDP packet to an address of ours.
    Head(Head),
    /// To no address of ours.
    NotWanted,
    /// It has to be looked at more closely.
    Other,
}

/// How much of a plain IPv4 packet has to be there: up to a whole TCP header. Shorter UDP packets
/// are not plain; Ethernet pads them anyway.
pub const PLAIN4: usize = 14 + 20 + 20;
/// The same for IPv6.
pub const PLAIN6: usize = 14 + 40 + 20;

/// Reads a plain IPv4 packet without VLAN tag, if its destination is `wanted`. That is asked first:
/// most packets are not, and then leave without the registers that the rest needs.
#[inline(always)]
pub fn plain4<P: Packet>(packet: &P, wanted: impl Fn([u64; 2]) -> bool) -> Plain {
    const L3: usize = 14;
    if !packet.has(PLAIN4) {
        return Plain::Other;
    }
    // Destination address and ports; TTL, protocol, checksum and source address; the rest.
    let (Some(to), Some(from), Some(first)) = (
        packet.load::<u64>(L3 + 16),
        packet.load::<u64>(L3 + 8),
        packet.load::<u64>(L3),
    ) else {
        return Plain::Other;
    };
    let destination = mapped(to as u32);
    if !wanted(destination) {
        return Plain::NotWanted;
    }
    // Version 4, five words of header, no fragment (RFC 791 3.1).
    const SHAPE: u64 = u64::from_le_bytes([0xff, 0, 0, 0, 0, 0, 0x3f, 0xff]);
    let protocol = (from >> 8) as u8;
    if first & SHAPE != 0x45 || protocol != protocol::TCP && protocol != protocol::UDP {
        return Plain::Other;
    }
    let flags = if protocol == protocol::TCP {
        packet.load::<u8>(L3 + 20 + 13).unwrap_or(0)
    } else {
        0
    };
    Plain::Head(Head {
        family: Family::V4,
        l3: L3 as u32,
        l4: L3 as u32 + 20,
        source: mapped((from >> 32) as u32),
        destination,
        source_port: (to >> 32) as u16,
        port_proto: Service::key((to >> 48) as u16, protocol),
        signal: Signal(flags),
        part: Part::default(),
        ports: true,
        fragment: 0,
    })
}

/// Reads a plain IPv6 packet; see [`plain4`].
#[inline(always)]
pub fn plain6<P: Packet>(packet: &P, wanted: impl Fn([u64; 2]) -> bool) -> Plain {
    const L3: usize = 14;
    if !packet.has(PLAIN6) {
        return Plain::Other;
    }
    let (Some(ports), Some(to1), Some(to0), Some(from1), Some(from0), Some(first)) = (
        packet.load::<u32>(L3 + 40),
        packet.load::<u64>(L3 + 32),
        packet.load::<u64>(L3 + 24),
        packet.load::<u64>(L3 + 16),
        packet.load::<u64>(L3 + 8),
        packet.load::<u64>(L3),
    ) else {
        return Plain::Other;
    };
    let destination = [to0, to1];
    if !wanted(destination) || is_mapped(destination) {
        return Plain::NotWanted;
    }
    let protocol = (first >> 48) as u8;
    if first & 0xf0 != 0x60 || protocol != protocol::TCP && protocol != protocol::UDP {
        return Plain::Other;
    }
    let flags = if protocol == protocol::TCP {
        packet.load::<u8>(L3 + 40 + 13).unwrap_or(0)
    } else {
        0
    };
    Plain::Head(Head {
        family: Family::V6,
        l3: L3 as u32,
        l4: L3 as u32 + 40,
        source: [from0, from1],
        destination,
        source_port: ports as u16,
        port_proto: Service::key((ports >> 16) as u16, protocol),
        signal: Signal(flags),
        part: Part::default(),
        ports: true,
        fragment: 0,
    })
}

/// Reads the Ethernet and network headers of any packet if its destination is `wanted`.
///
/// # Errors
///
/// The verdict on a packet that cannot be steered, or is not wanted.
#[inline(always)]
pub fn network<P: Packet>(packet: &P, wanted: impl Fn([u64; 2]) -> bool) -> Result<Head, Verdict> {
    let mut l3 = 14;
    let mut kind: u16 = packet.load(12).ok_or(Verdict::Truncated)?;
    if kind == ethertype::VLAN || kind == ethertype::QINQ {
        l3 = 18;
        kind = packet.load(16).ok_or(Verdict::Truncated)?;
        if kind == ethertype::VLAN {
            l3 = 22;
            kind = packet.load(20).ok_or(Verdict::Truncated)?;
        }
    }
    match kind {
        ethertype::IPV4 => ipv4(packet, l3, wanted),
        ethertype::IPV6 => ipv6(packet, l3, wanted),
        _ => Err(Verdict::NotIp),
    }
}

#[inline(always)]
fn ipv4<P: Packet>(
    packet: &P,
    l3: usize,
    wanted: impl Fn([u64; 2]) -> bool,
) -> Result<Head, Verdict> {
    let to: u32 = packet.load(l3 + 16).ok_or(Verdict::Truncated)?;
    let destination = mapped(to);
    if !wanted(destination) {
        return Err(Verdict::NotVip);
    }
    let source: u32 = packet.load(l3 + 12).ok_or(Verdict::Truncated)?;
    let first: u64 = packet.load(l3).ok_or(Verdict::Truncated)?;
    let words = first as usize & 0xf;
    if first & 0xf0 != 0x40 || words < 5 {
        return Err(Verdict::BadHeader);
    }
    if words > 5 {
        if source_routed(packet, l3 + 20, l3 + 4 * words)? {
            return Err(Verdict::SourceRoute);
        }
        packet
            .load::<u8>(l3 + 4 * words - 1)
            .ok_or(Verdict::Truncated)?;
    }
    let protocol = packet.load(l3 + 9).ok_or(Verdict::Truncated)?;
    Ok(Head {
        family: Family::V4,
        l3: l3 as u32,
        l4: (l3 + 4 * words) as u32,
        source: mapped(source),
        destination,
        port_proto: Service::key(0, protocol),
        source_port: 0,
        signal: Signal(0),
        part: part4((first >> 32) as u32),
        ports: false,
        fragment: 0,
    })
}

/// Whether an IPv6 packet is to an IPv4 address in the form that the tables have them in. That form
/// is not for the wire (RFC 4291 section 2.5.5.2), so no service is meant.
#[inline(always)]
const fn is_mapped(address: [u64; 2]) -> bool {
    address[0] == 0 && address[1] as u32 == mapped(0)[1] as u32
}

/// Whether IPv4 options have one for a loose or strict source route (RFC 791 3.1). They are from
/// the sender who wants an answer to go another way than routing says; hosts drop them.
#[inline(always)]
fn source_routed<P: Packet>(packet: &P, start: usize, end: usize) -> Result<bool, Verdict> {
    let mut search = Options {
        packet,
        at: start,
        end,
        found: Ok(false),
    };
    // One option a round; 40 of one byte at most.
    repeat(40, &mut search);
    search.found
}

struct Options<'p, P> {
    packet: &'p P,
    at: usize,
    end: usize,
    found: Result<bool, Verdict>,
}

impl<P: Packet> Step for Options<'_, P> {
    #[inline(always)]
    fn step(&mut self) -> bool {
        const END: u8 = 0;
        const NOTHING: u8 = 1;
        const LOOSE: u8 = 131;
        const STRICT: u8 = 137;
        // No IPv4 header ends behind 22 + 60; the verifier wants to see it.
        if self.at >= self.end || self.at > 82 {
            return false;
        }
        let Some(kind) = self.packet.load::<u8>(self.at) else {
            self.found = Err(Verdict::Truncated);
            return false;
        };
        match kind {
            END => return false,
            NOTHING => self.at += 1,
            LOOSE | STRICT => {
                self.found = Ok(true);
                return false;
            }
            _ => {
                let Some(length) = self.packet.load::<u8>(self.at + 1) else {
                    self.found = Err(Verdict::Truncated);
                    return false;
                };
                if length < 2 || self.at + length as usize > self.end {
                    self.found = Err(Verdict::BadHeader);
                    return false;
                }
                self.at += length as usize;
            }
        }
        true
    }
}

#[inline(always)]
fn ipv6<P: Packet>(
    packet: &P,
    l3: usize,
    wanted: impl Fn([u64; 2]) -> bool,
) -> Result<Head, Verdict> {
    let to1: u64 = packet.load(l3 + 32).ok_or(Verdict::Truncated)?;
    let to0: u64 = packet.load(l3 + 24).ok_or(Verdict::Truncated)?;
    let destination = [to0, to1];
    if !wanted(destination) || is_mapped(destination) {
        return Err(Verdict::NotVip);
    }
    let from1: u64 = packet.load(l3 + 16).ok_or(Verdict::Truncated)?;
    let from0: u64 = packet.load(l3 + 8).ok_or(Verdict::Truncated)?;
    let first: u64 = packet.load(l3).ok_or(Verdict::Truncated)?;
    if first & 0xf0 != 0x60 {
        return Err(Verdict::BadHeader);
    }
    let next = (first >> 48) as u8;
    let payload = (first >> 32) as u16;
    if payload == 0 && next == protocol::HOP_BY_HOP {
        return Err(Verdict::Jumbogram);
    }
    let mut extensions = Extensions::new(packet, l3 + 40, next);
    repeat(MAX_EXTENSIONS + 1, &mut extensions);
    if let Some(verdict) = extensions.stuck {
        return Err(verdict);
    }
    if !extensions.arrived || extensions.at > MAX_L4 {
        return Err(Verdict::ExtensionHeader);
    }
    packet
        .load::<u8>(extensions.at - 1)
        .ok_or(Verdict::Truncated)?;
    Ok(Head {
        family: Family::V6,
        l3: l3 as u32,
        l4: extensions.at as u32,
        source: [from0, from1],
        destination,
        port_proto: Service::key(0, extensions.next),
        source_port: 0,
        signal: Signal(0),
        part: extensions.part,
        ports: false,
        fragment: extensions.fragment as u16,
    })
}

/// The transport protocol of a quoted IPv6 packet, and where its header is, behind the extension
/// headers that begin at `at` with one of number `next`: [`MAX_L4`] at most. `None`: it is a later
/// fragment, or what is quoted ends before that or goes further.
#[inline(always)]
pub fn quoted_transport<P: Packet>(packet: &P, at: usize, next: u8) -> Option<(u8, usize)> {
    let mut extensions = Extensions::new(packet, at, next);
    repeat(MAX_EXTENSIONS + 1, &mut extensions);
    let is_there = extensions.arrived && extensions.part.offset == 0 && extensions.at <= MAX_L4;
    is_there.then_some((extensions.next, extensions.at))
}

/// How many IPv6 extension headers are looked at.
const MAX_EXTENSIONS: u32 = 6;

/// Follows IPv6 extension headers (RFC 8200 section 4).
struct Extensions<'p, P> {
    packet: &'p P,
    at: usize,
    next: u8,
    part: Part,
    fragment: usize,
    /// Why it cannot go on; `None`: it may, or is there.
    stuck: Option<Verdict>,
    arrived: bool,
}

impl<'p, P: Packet> Extensions<'p, P> {
    #[inline(always)]
    fn new(packet: &'p P, at: usize, next: u8) -> Self {
        Self {
            packet,
            at,
            next,
            part: Part::default(),
            fragment: 0,
            stuck: None,
            arrived: false,
        }
    }

    /// The length of the header here; `None`: it is no extension header.
    #[inline(always)]
    fn length(&mut self) -> Result<Option<usize>, Verdict> {
        let (packet, at) = (self.packet, self.at);
        let units = || packet.load::<u8>(at + 1).ok_or(Verdict::Truncated);
        match self.next {
            protocol::HOP_BY_HOP | protocol::DESTINATION_OPTIONS => {
                Ok(Some(8 + 8 * units()? as usize))
            }
            // Segments left: it is not yet where it wants to go.
            protocol::ROUTING if packet.load::<u8>(at + 3).ok_or(Verdict::Truncated)? != 0 => {
                Err(Verdict::SourceRoute)
            }
            protocol::ROUTING => Ok(Some(8 + 8 * units()? as usize)),
            protocol::AUTHENTICATION => Ok(Some(8 + 4 * units()? as usize)),
            protocol::FRAGMENT => {
                self.part = part6(packet.load(at).ok_or(Verdict::Truncated)?);
                self.fragment = at;
                Ok(Some(8))
            }
            other if protocol::OTHER_EXTENSIONS.contains(&other) => Err(Verdict::ExtensionHeader),
            _ => Ok(None),
        }
    }
}

impl<P: Packet> Step for Extensions<'_, P> {
    #[inline(always)]
    fn step(&mut self) -> bool {
        // What follows in a later fragment is no header.
        if self.part.offset != 0 {
            self.arrived = true;
            return false;
        }
        if self.at > MAX_L4 {
            self.stuck = Some(Verdict::ExtensionHeader);
            return false;
        }
        match self.length() {
            Ok(None) => {
                self.arrived = true;
                false
            }
            Ok(Some(length)) => match self.packet.load(self.at) {
                Some(next) => {
                    self.next = next;
                    self.at += length;
                    true
                }
                None => {
                    self.stuck = Some(Verdict::Truncated);
                    false
                }
            },
            Err(verdict) => {
                self.stuck = Some(verdict);
                false
            }
        }
    }
}

/// Reads the ports behind a network header, and TCP's flags; `None` if the transport header is not
/// all there.
#[inline(always)]
pub fn transport<P: Packet>(packet: &P, head: &mut Head) -> Option<()> {
    if head.protocol() == protocol::TCP {
        packet.load::<u32>(head.l4() + 16)?;
        head.signal = Signal(packet.load(head.l4() + 13)?);
    } else {
        packet.load::<u16>(head.l4() + 6)?;
    }
    let ports: u32 = packet.load(head.l4())?;
    head.source_port = ports as u16;
    head.port_proto = Service::key((ports >> 16) as u16, head.protocol());
    head.ports = true;
    Some(())
}
