//! IP packets byte by byte: ICMP, fragments, and what a library would not build. Checksums are
//! computed in full, so they check those that the program changed along.

use std::net::IpAddr;

use crate::world::{CLIENT_MAC, OWN_MAC};

/// Protocol numbers.
pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMPV6: u8 = 58;

/// An IP packet in a frame, without its payload.
#[derive(Debug, Clone)]
pub(crate) struct Raw {
    pub(crate) from: IpAddr,
    pub(crate) to: IpAddr,
    pub(crate) protocol: u8,
    pub(crate) ttl: u8,
    /// VLAN ids, outer first.
    pub(crate) vlans: Vec<u16>,
    pub(crate) source_mac: [u8; 6],
    pub(crate) destination_mac: [u8; 6],
    /// IPv4 options.
    pub(crate) options: Vec<u8>,
    /// Identification, offset in bytes, whether more follow.
    pub(crate) fragment: Option<(u32, usize, bool)>,
}

impl Raw {
    pub(crate) fn new(from: IpAddr, to: IpAddr, protocol: u8) -> Self {
        Self {
            from,
            to,
            protocol,
            ttl: 64,
            vlans: Vec::new(),
            source_mac: CLIENT_MAC,
            destination_mac: OWN_MAC,
            options: Vec::new(),
            fragment: None,
        }
    }

    pub(crate) fn frame(&self, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::from(self.destination_mac);
        frame.extend(self.source_mac);
        for (n, vlan) in self.vlans.iter().enumerate() {
            let kind: u16 = if n + 1 < self.vlans.len() {
                0x88a8
            } else {
                0x8100
            };
            frame.extend(kind.to_be_bytes());
            frame.extend(vlan.to_be_bytes());
        }
        frame.extend(if self.from.is_ipv4() {
            [8, 0]
        } else {
            [0x86, 0xdd]
        });
        frame.extend(self.packet(payload));
        frame
    }

    /// The packet alone.
    pub(crate) fn packet(&self, payload: &[u8]) -> Vec<u8> {
        let (id, offset, more) = self.fragment.unwrap_or_default();
        assert_eq!(offset % 8, 0, "offsets are in units of 8 bytes");
        let mut packet;
        match (self.from, self.to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let header = 20 + self.options.len();
                packet = vec![0x40 | (header / 4) as u8, 0];
                packet.extend(((header + payload.len()) as u16).to_be_bytes());
                packet.extend((id as u16).to_be_bytes());
                packet.extend(((offset / 8) as u16 | u16::from(more) << 13).to_be_bytes());
                packet.extend([self.ttl, self.protocol, 0, 0]);
                packet.extend(from.octets());
                packet.extend(to.octets());
                packet.extend(&self.options);
                let checksum = checksum(&packet);
                packet[10..12].copy_from_slice(&checksum.to_be_bytes());
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let fragment = if self.fragment.is_some() { 8 } else { 0 };
                packet = vec![0x60, 0, 0, 0];
                packet.extend(((fragment + payload.len()) as u16).to_be_bytes());
                packet.extend([if fragment != 0 { 44 } else { self.protocol }, self.ttl]);
                packet.extend(from.octets());
                packet.extend(to.octets());
                if fragment != 0 {
                    packet.extend([self.protocol, 0]);
                    packet.extend((offset as u16 | u16::from(more)).to_be_bytes());
                    packet.extend(id.to_be_bytes());
                }
            }
            _ => panic!("one family"),
        }
        packet.extend(payload);
        packet
    }
}

/// A TCP segment or UDP datagram, its checksum right.
pub(crate) fn segment(
    protocol: u8,
    (from, from_port): (IpAddr, u16),
    (to, to_port): (IpAddr, u16),
    data: &[u8],
) -> Vec<u8> {
    let mut segment = Vec::from(from_port.to_be_bytes());
    segment.extend(to_port.to_be_bytes());
    if protocol == UDP {
        segment.extend(((8 + data.len()) as u16).to_be_bytes());
        segment.extend([0, 0]);
    } else {
        // Sequence and acknowledgement numbers; ACK; window, checksum, urgent pointer.
        segment.extend([0, 0, 3, 232, 0, 0, 0, 5, 0x50, 0x10, 250, 0, 0, 0, 0, 0]);
    }
    segment.extend(data);
    let at = checksum_at(protocol);
    let mut sum = transport_checksum(protocol, from, to, &segment);
    if protocol == UDP && sum == 0 {
        sum = 0xffff;
    }
    segment[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    segment
}

/// An ICMP message, its checksum right: type, code, the four bytes behind the checksum, the rest.
pub(crate) fn message(from: IpAddr, to: IpAddr, kind: [u8; 2], word: u32, rest: &[u8]) -> Vec<u8> {
    let mut message = vec![kind[0], kind[1], 0, 0];
    message.extend(word.to_be_bytes());
    message.extend(rest);
    let sum = transport_checksum(icmp_of(from), from, to, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

/// The protocol number of ICMP beside this address.
pub(crate) fn icmp_of(address: IpAddr) -> u8 {
    if address.is_ipv4() { ICMP } else { ICMPV6 }
}

/// Asserts that the checksums of an IP packet, not fragmented, are right.
pub(crate) fn assert_sound(packet: &[u8]) {
    let (from, to, protocol, at) = ends(packet);
    if packet[0] >> 4 == 4 {
        assert_eq!(checksum(&packet[..at]), 0, "IPv4 header");
    }
    let payload = &packet[at..];
    if protocol == UDP && payload[6..8] == [0, 0] {
        assert!(from.is_ipv4(), "RFC 8200 section 8.1");
        return;
    }
    assert_eq!(
        transport_checksum(protocol, from, to, payload),
        0,
        "protocol {protocol}"
    );
}

/// Source, destination, protocol, and where its payload begins, of a packet without extension
/// headers.
pub(crate) fn ends(packet: &[u8]) -> (IpAddr, IpAddr, u8, usize) {
    if packet[0] >> 4 == 4 {
        let address = |at: usize| -> [u8; 4] { packet[at..at + 4].try_into().unwrap() };
        let header = usize::from(packet[0] & 15) * 4;
        (address(12).into(), address(16).into(), packet[9], header)
    } else {
        let address = |at: usize| -> [u8; 16] { packet[at..at + 16].try_into().unwrap() };
        (address(8).into(), address(24).into(), packet[6], 40)
    }
}

/// Where a protocol has its checksum.
pub(crate) fn checksum_at(protocol: u8) -> usize {
    match protocol {
        TCP => 16,
        UDP => 6,
        _ => 2,
    }
}

/// The checksum of a payload and, but for ICMP, of its pseudo header (RFC 793 3.1, RFC 8200 8.1).
/// Of one that has its checksum already it is 0.
pub(crate) fn transport_checksum(protocol: u8, from: IpAddr, to: IpAddr, payload: &[u8]) -> u16 {
    let mut covered = Vec::new();
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) if protocol != ICMP => {
            covered.extend(from.octets());
            covered.extend(to.octets());
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            covered.extend(from.octets());
            covered.extend(to.octets());
        }
        _ => {}
    }
    if !covered.is_empty() {
        covered.extend([0, protocol]);
        covered.extend((payload.len() as u32).to_be_bytes());
    }
    covered.extend(payload);
    checksum(&covered)
}

/// The Internet checksum (RFC 1071).
pub(crate) fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
