//! Network and transport headers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use steerd_ebpf::verdict::Verdict;

use super::link::Link;

pub(super) const ICMP: u8 = 1;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const ICMPV6: u8 = 58;

/// Transport headers further into the frame are not looked for.
pub(super) const FURTHEST: usize = 512;

/// How many IPv6 extension headers are looked at.
const MOST_EXTENSIONS: usize = 6;

/// What a network header says, and those behind it up to the transport header.
#[derive(Debug, Clone)]
pub(super) struct Headers {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    /// What the packet carries.
    pub(super) protocol: u8,
    /// Where that begins, from the network header on.
    pub(super) transport: usize,
    /// Where it ends, as the network header says.
    pub(super) end: usize,
    /// Whether there are IPv4 options or IPv6 extension headers.
    pub(super) is_extended: bool,
    /// Which part of a fragmented packet it is; `None`: it is whole.
    pub(super) part: Option<Part>,
}

/// A fragment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) identification: u32,
    /// Bytes before it.
    pub(super) offset: usize,
    /// Whether others follow.
    pub(super) more: bool,
}

/// What a TCP or UDP header says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Transport {
    pub(super) source_port: u16,
    pub(super) destination_port: u16,
    /// TCP's; none for UDP.
    pub(super) flags: u8,
}

impl Headers {
    /// Reads a packet. Whether its destination may be ours is asked first: nothing is said about
    /// the packets of others.
    pub(super) fn read(
        link: &Link,
        packet: &[u8],
        may_be_ours: impl Fn(IpAddr) -> bool,
    ) -> Result<Self, Verdict> {
        if link.is_ipv6 {
            ipv6(packet, link.length(), may_be_ours)
        } else {
            ipv4(packet, may_be_ours)
        }
    }

    /// Whether it is TCP or UDP.
    pub(super) const fn has_ports(&self) -> bool {
        matches!(self.protocol, TCP | UDP)
    }

    /// Whether it is an ICMP message.
    pub(super) const fn is_icmp(&self) -> bool {
        match self.source {
            IpAddr::V4(_) => self.protocol == ICMP,
            IpAddr::V6(_) => self.protocol == ICMPV6,
        }
    }

    /// The transport header: `None` if it is not all there.
    pub(super) fn transport(&self, packet: &[u8]) -> Option<Transport> {
        let segment = packet.get(self.transport..)?;
        if segment.len() < if self.protocol == TCP { 20 } else { 8 } {
            return None;
        }
        Some(Transport {
            source_port: be16(segment, 0)?,
            destination_port: be16(segment, 2)?,
            flags: if self.protocol == TCP { segment[13] } else { 0 },
        })
    }
}

/// RFC 791 section 3.1.
fn ipv4(packet: &[u8], may_be_ours: impl Fn(IpAddr) -> bool) -> Result<Headers, Verdict> {
    let header: &[u8; 20] = packet.first_chunk().ok_or(Verdict::Truncated)?;
    let address = |at: usize| {
        let [a, b, c, d] = [header[at], header[at + 1], header[at + 2], header[at + 3]];
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    if !may_be_ours(address(16)) {
        return Err(Verdict::NotVip);
    }
    let (version, length) = (header[0] >> 4, usize::from(header[0] & 0xf) * 4);
    if version != 4 || length < 20 {
        return Err(Verdict::BadHeader);
    }
    options(packet, length)?;
    if packet.len() < length {
        return Err(Verdict::Truncated);
    }
    let place = u16::from_be_bytes([header[6], header[7]]);
    let part = Part {
        identification: u32::from(u16::from_be_bytes([header[4], header[5]])),
        offset: usize::from(place & 0x1fff) * 8,
        more: place & 0x2000 != 0,
    };
    Ok(Headers {
        source: address(12),
        destination: address(16),
        protocol: header[9],
        transport: length,
        end: usize::from(u16::from_be_bytes([header[2], header[3]])),
        is_extended: length > 20,
        part: (part.more || part.offset != 0).then_some(part),
    })
}

/// IPv4's options, for those that choose the packet's way.
fn options(packet: &[u8], end: usize) -> Result<(), Verdict> {
    const LOOSE_SOURCE_ROUTE: u8 = 131;
    const STRICT_SOURCE_ROUTE: u8 = 137;
    let mut at = 20;
    while at < end {
        match packet.get(at).ok_or(Verdict::Truncated)? {
            0 => return Ok(()),
            1 => at += 1,
            &LOOSE_SOURCE_ROUTE | &STRICT_SOURCE_ROUTE => return Err(Verdict::SourceRoute),
            _ => {
                let length = usize::from(*packet.get(at + 1).ok_or(Verdict::Truncated)?);
                if length < 2 || at + length > end {
                    return Err(Verdict::BadHeader);
                }
                at += length;
            }
        }
    }
    Ok(())
}

/// RFC 8200 sections 3 and 4.
fn ipv6(
    packet: &[u8],
    before: usize,
    may_be_ours: impl Fn(IpAddr) -> bool,
) -> Result<Headers, Verdict> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const AUTHENTICATION: u8 = 51;
    const DESTINATION_OPTIONS: u8 = 60;
    // Mobility, HIP, shim6, experiments.
    const UNKNOWN: [u8; 5] = [135, 139, 140, 253, 254];

    let header: &[u8; 40] = packet.first_chunk().ok_or(Verdict::Truncated)?;
    let address = |at: usize| {
        let mut octets = [0; 16];
        octets.copy_from_slice(&header[at..at + 16]);
        Ipv6Addr::from(octets)
    };
    let (source, destination) = (address(8), address(24));
    // IPv4's addresses are not for the wire in this form (RFC 4291 2.5.5.2), so none is ours.
    if !may_be_ours(IpAddr::V6(destination)) || destination.to_ipv4_mapped().is_some() {
        return Err(Verdict::NotVip);
    }
    if header[0] >> 4 != 6 {
        return Err(Verdict::BadHeader);
    }
    let payload = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let mut next = header[6];
    if payload == 0 && next == HOP_BY_HOP {
        return Err(Verdict::Jumbogram);
    }
    let mut at = 40;
    let mut part = None;
    let mut extensions = 0;
    loop {
        let is_later = part.is_some_and(|part: Part| part.offset != 0);
        let byte = |at: usize| packet.get(at).copied().ok_or(Verdict::Truncated);
        if before + at > FURTHEST {
            return Err(Verdict::ExtensionHeader);
        }
        // Behind the header of a later fragment there is the middle of something.
        let length = match next {
            _ if is_later => break,
            HOP_BY_HOP | DESTINATION_OPTIONS => 8 * (1 + usize::from(byte(at + 1)?)),
            ROUTING if byte(at + 3)? != 0 => return Err(Verdict::SourceRoute),
            ROUTING => 8 * (1 + usize::from(byte(at + 1)?)),
            // RFC 4302 2.2: words of four bytes, minus 2.
            AUTHENTICATION => 4 * (2 + usize::from(byte(at + 1)?)),
            FRAGMENT => {
                let header = packet.get(at..at + 8).ok_or(Verdict::Truncated)?;
                let place = u16::from_be_bytes([header[2], header[3]]);
                let this = Part {
                    identification: u32::from_be_bytes([
                        header[4], header[5], header[6], header[7],
                    ]),
                    offset: usize::from(place >> 3) * 8,
                    more: place & 1 != 0,
                };
                part = Some(this);
                8
            }
            next if UNKNOWN.contains(&next) => return Err(Verdict::ExtensionHeader),
            _ => break,
        };
        extensions += 1;
        if extensions > MOST_EXTENSIONS {
            return Err(Verdict::ExtensionHeader);
        }
        next = byte(at)?;
        at += length;
    }
    if packet.len() < at {
        return Err(Verdict::Truncated);
    }
    Ok(Headers {
        source: IpAddr::V6(source),
        destination: IpAddr::V6(destination),
        protocol: next,
        transport: at,
        end: 40 + payload,
        is_extended: at > 40,
        // An "atomic" fragment is whole (RFC 6946).
        part: part.filter(|part| part.more || part.offset != 0),
    })
}

/// The 16-bit number at `at`.
pub(super) fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    let (&word, _) = bytes.get(at..)?.split_first_chunk()?;
    Some(u16::from_be_bytes(word))
}
