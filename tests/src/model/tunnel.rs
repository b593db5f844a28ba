//! Wrapped packets: IPIP (RFC 2003, 2473, 4213) and GUE (draft-ietf-intarea-gue), in and out.

use std::net::IpAddr;

use steerd_ebpf::{abi::Mode, hash, verdict::Verdict};

use super::{
    Decision, Model, checksum,
    config::{Backend, Network, words},
    forward::{From, aged},
    headers::{Headers, ICMP, ICMPV6, UDP, be16},
    link::Link,
};

const IPV4_IN_IP: u8 = 4;
const IPV6_IN_IP: u8 = 41;

/// Explicit congestion notification (RFC 3168 section 5).
const ECN: u8 = 3;
const NOT_CAPABLE: u8 = 0;
const CAPABLE_1: u8 = 1;
const CAPABLE_0: u8 = 2;
const CONGESTION: u8 = 3;

impl Headers {
    /// Whether it is a packet in a packet.
    pub(super) const fn is_wrapped(&self) -> bool {
        matches!(self.protocol, IPV4_IN_IP | IPV6_IN_IP)
    }
}

impl Model {
    /// A packet in another one, for a backend; or, where that is too big, a message to its sender.
    pub(super) fn wrap(
        &self,
        link: &Link,
        packet: &[u8],
        headers: &Headers,
        from: From<'_>,
        backend: &Backend,
    ) -> Result<(Verdict, Vec<u8>), Verdict> {
        let inner = aged(packet, headers)?;
        if headers.end < headers.transport || headers.end > packet.len() {
            return Err(Verdict::BadLength);
        }
        let network = match backend.address {
            IpAddr::V4(_) => self.config.tunnel4,
            IpAddr::V6(_) => self.config.tunnel6,
        };
        let network = network.ok_or(Verdict::BadBackend)?;
        let is_gue = backend.mode == Mode::Gue;
        let ip_header = if backend.address.is_ipv4() { 20 } else { 40 };
        let outer_length = ip_header + if is_gue { 8 } else { 0 };
        let room = usize::from(backend.mtu).saturating_sub(outer_length);
        if headers.end > room {
            return too_big(link, packet, headers, room);
        }
        let hash = self.spreading(headers, from);
        let mut behind_ip = Vec::new();
        if is_gue {
            behind_ip.extend((0xc000 | (hash >> 48) as u16 & 0x3fff).to_be_bytes());
            behind_ip.extend(self.config.gue_port.to_be_bytes());
            behind_ip.extend(((8 + headers.end) as u16).to_be_bytes());
            // No checksum (RFC 768, RFC 6935).
            behind_ip.extend([0, 0]);
        }
        let carried = match (is_gue, headers.source) {
            (true, _) => UDP,
            (false, IpAddr::V4(_)) => IPV4_IN_IP,
            (false, IpAddr::V6(_)) => IPV6_IN_IP,
        };
        let outer = Outer {
            source: network.with_host(&hash.to_le_bytes()),
            destination: backend.address,
            class: class(packet),
            label: (hash >> 32) as u32,
            length: behind_ip.len() + headers.end,
            protocol: carried,
            hops: if link.is_ipv6 { inner[7] } else { inner[8] },
        };
        let mut link = link.onward(backend.mac, backend.source_mac, backend.vlan);
        link.is_ipv6 = backend.address.is_ipv6();
        let wrapped = [outer.header(), behind_ip, inner].concat();
        Ok((Verdict::Tunnel, link.around(&wrapped)))
    }

    /// The hash by which routers on the way spread wrapped packets: of the flow; of a fragment, of
    /// which only the first knows its flow, of the client.
    fn spreading(&self, headers: &Headers, from: From<'_>) -> u64 {
        if headers.part.is_some() {
            return hash::client(words(headers.source), 0);
        }
        let (source_port, destination_port) = match from {
            From::Client(transport) => (transport.source_port, transport.destination_port),
            From::Part => (0, 0),
        };
        let from = (headers.source, source_port);
        let to = (headers.destination, destination_port);
        self.config.flow_hash(from, to, headers.protocol)
    }

    /// What is in a packet to an address of ours.
    pub(super) fn unwrap(
        &self,
        link: &Link,
        packet: &[u8],
        headers: &Headers,
    ) -> Result<Decision, Verdict> {
        if !self.config.role(headers.destination).is_endpoint() {
            return Err(Verdict::NoService);
        }
        let network = match headers.source {
            IpAddr::V4(_) => self.config.tunnel4,
            IpAddr::V6(_) => self.config.tunnel6,
        };
        if !network.is_some_and(|network| network.has(headers.source)) {
            return Err(Verdict::BadTunnel);
        }
        let (at, end, protocol) = carried(packet, headers).ok_or(Verdict::BadTunnel)?;
        let inner =
            taken_out(packet, at, end, protocol, class(packet) & ECN).ok_or(Verdict::BadTunnel)?;
        let link = Link {
            is_ipv6: protocol == IPV6_IN_IP,
            ..link.clone()
        };
        Ok(Decision {
            leaving: Some((link.around(&inner), 0)),
            ..Decision::new(Verdict::Unwrapped)
        })
    }
}

/// Where what is carried begins and ends, and its protocol.
fn carried(packet: &[u8], headers: &Headers) -> Option<(usize, usize, u8)> {
    if headers.end > packet.len() {
        return None;
    }
    if headers.protocol != UDP {
        return Some((headers.transport, headers.end, headers.protocol));
    }
    let length = usize::from(be16(packet, headers.transport + 4)?);
    let end = headers.transport + length;
    if length < 8 || end > headers.end {
        return None;
    }
    let at = headers.transport + 8;
    let first = *packet.get(at)?;
    match first >> 4 {
        // Variant 1 is an IP packet.
        4 => Some((at, end, IPV4_IN_IP)),
        6 => Some((at, end, IPV6_IN_IP)),
        // Variant 0, no control message; flags are for fields that are not known.
        0 | 1 if be16(packet, at + 2)? == 0 => {
            let header = 4 + 4 * usize::from(first & 0x1f);
            Some((at + header, end, packet[at + 1]))
        }
        _ => None,
    }
}

/// The packet from `at` on, with the mark that it had and the outer one's.
fn taken_out(packet: &[u8], at: usize, end: usize, protocol: u8, outer: u8) -> Option<Vec<u8>> {
    let mut inner = packet.get(at..)?.to_vec();
    let room = end.checked_sub(at)?;
    let (version, header, length) = match protocol {
        IPV4_IN_IP => {
            let header = usize::from(inner.first()? & 0xf) * 4;
            (4, header.max(20), usize::from(be16(&inner, 2)?))
        }
        IPV6_IN_IP => (6, 40, 40 + usize::from(be16(&inner, 4)?)),
        _ => return None,
    };
    let has_header = version == 6 || inner[0] & 0xf >= 5;
    if inner[0] >> 4 != version || !has_header || length < header || length > room {
        return None;
    }
    let before = inner.clone();
    let mark = marked(class(&inner) & ECN, outer)?;
    if version == 4 {
        inner[1] = inner[1] & !ECN | mark;
        let sum = checksum::after(&before[..header], &inner[..header], 10);
        inner[10..12].copy_from_slice(&sum.to_be_bytes());
    } else {
        inner[1] = inner[1] & !(ECN << 4) | mark << 4;
    }
    Some(inner)
}

/// RFC 6040 figure 4; `None`: drop.
fn marked(inner: u8, outer: u8) -> Option<u8> {
    Some(match (inner, outer) {
        (NOT_CAPABLE, CONGESTION) => return None,
        (NOT_CAPABLE, _) => NOT_CAPABLE,
        (CONGESTION, _) | (_, CONGESTION) => CONGESTION,
        (CAPABLE_0, CAPABLE_1) => CAPABLE_1,
        (inner, _) => inner,
    })
}

/// TOS or traffic class.
fn class(packet: &[u8]) -> u8 {
    if packet[0] >> 4 == 4 {
        packet[1]
    } else {
        packet[0] << 4 | packet[1] >> 4
    }
}

/// An IP header to be made.
struct Outer {
    source: IpAddr,
    destination: IpAddr,
    class: u8,
    label: u32,
    /// Of what follows.
    length: usize,
    protocol: u8,
    hops: u8,
}

impl Outer {
    fn header(&self) -> Vec<u8> {
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut bytes = vec![0x45, self.class];
                bytes.extend(((20 + self.length) as u16).to_be_bytes());
                // Not to be fragmented.
                bytes.extend([0, 0, 0x40, 0, self.hops, self.protocol, 0, 0]);
                bytes.extend(source.octets());
                bytes.extend(destination.octets());
                let sum = checksum::of(&bytes);
                bytes[10..12].copy_from_slice(&sum.to_be_bytes());
                bytes
            }
            (source, destination) => {
                let [_, label @ ..] = self.label.to_le_bytes();
                let mut bytes = vec![
                    0x60 | self.class >> 4,
                    self.class << 4 | label[0] & 0xf,
                    label[1],
                    label[2],
                ];
                bytes.extend((self.length as u16).to_be_bytes());
                bytes.extend([self.protocol, self.hops]);
                bytes.extend(checksum::octets(source));
                bytes.extend(checksum::octets(destination));
                bytes
            }
        }
    }
}

/// Says why a packet that is not wrapped does not fit the way to its backend, if so.
pub(super) fn refused(
    link: &Link,
    packet: &[u8],
    headers: &Headers,
    backend: &Backend,
) -> Option<Result<(Verdict, Vec<u8>), Verdict>> {
    let room = usize::from(backend.mtu);
    (headers.end > room).then(|| {
        aged(packet, headers)?;
        if headers.end > packet.len() {
            return Err(Verdict::BadLength);
        }
        too_big(link, packet, headers, room)
    })
}

/// The message that says how large a packet may be (RFC 1191, RFC 8201), from the address that the
/// packet was to, back the way that it came.
fn too_big(
    link: &Link,
    packet: &[u8],
    headers: &Headers,
    room: usize,
) -> Result<(Verdict, Vec<u8>), Verdict> {
    if !may_be_told(packet, headers) {
        return Err(Verdict::TooBigDropped);
    }
    // Never more than every host takes; one of a few lengths, the longest that the packet has.
    let (lengths, least) = match headers.source {
        IpAddr::V4(_) => ([576 - 28, 128, 28], 68),
        IpAddr::V6(_) => ([1280 - 48, 512, 48], 1280),
    };
    let length = lengths
        .into_iter()
        .find(|&length| length <= headers.end)
        .ok_or(Verdict::TooBigDropped)?;
    // Less than the ports is of no use.
    if headers.transport + 8 > length {
        return Err(Verdict::TooBigDropped);
    }
    let quote = &packet[..length];
    let mtu = room.max(least) as u16;
    let outer = |class, protocol| Outer {
        source: headers.destination,
        destination: headers.source,
        class,
        label: 0,
        length: 8 + length,
        protocol,
        hops: 64,
    };
    let [high, low] = mtu.to_be_bytes();
    let (header, message, covered) = match headers.source {
        IpAddr::V4(_) => {
            let message = [&[3, 4, 0, 0, 0, 0, high, low], quote].concat();
            (outer(0xc0, ICMP).header(), message, Vec::new())
        }
        IpAddr::V6(_) => {
            let message = [&[2, 0, 0, 0, 0, 0, high, low], quote].concat();
            let (from, to) = (headers.destination, headers.source);
            let covered = checksum::pseudo_header(from, to, ICMPV6, message.len());
            (outer(0, ICMPV6).header(), message, covered)
        }
    };
    let mut message = message;
    let sum = checksum::of(&[covered, message.clone()].concat());
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    Ok((
        Verdict::TooBig,
        link.turned().around(&[header, message].concat()),
    ))
}

/// Whether its sender is one host that may be told of it (RFC 1122 3.2.2, RFC 4443 2.4 (e)).
fn may_be_told(packet: &[u8], headers: &Headers) -> bool {
    let is_first = headers.part.is_none_or(|part| part.offset == 0);
    match headers.source {
        IpAddr::V4(source) => {
            let [first, ..] = source.octets();
            // Who lets it be fragmented does not want to know.
            let wants = packet[6] & 0x40 != 0;
            wants
                && is_first
                && first != 0
                && !source.is_loopback()
                && first < 224
                && headers.protocol != ICMP
        }
        IpAddr::V6(source) => {
            !source.is_unspecified() && !source.is_multicast() && headers.protocol != ICMPV6
        }
    }
}

impl Network {
    /// The network's address with these octets where the mask leaves room.
    fn with_host(&self, host: &[u8; 8]) -> IpAddr {
        match (self.address, self.mask) {
            (IpAddr::V4(address), IpAddr::V4(mask)) => {
                let mut octets = address.octets();
                for ((octet, mask), host) in octets.iter_mut().zip(mask.octets()).zip(host) {
                    *octet |= host & !mask;
                }
                IpAddr::from(octets)
            }
            (address, mask) => {
                let mut octets = [0; 16];
                octets.copy_from_slice(&checksum::octets(address));
                let masks = checksum::octets(mask);
                for ((octet, mask), host) in octets.iter_mut().zip(masks).zip(host.iter().cycle()) {
                    *octet |= host & !mask;
                }
                IpAddr::from(octets)
            }
        }
    }

    /// Whether an address is in it.
    fn has(&self, address: IpAddr) -> bool {
        let masked = checksum::octets(address)
            .into_iter()
            .zip(checksum::octets(self.mask))
            .map(|(octet, mask)| octet & mask);
        address.is_ipv4() == self.address.is_ipv4() && masked.eq(checksum::octets(self.address))
    }
}
