//! The MSS that a SYN offers (RFC 9293 section 3.7.1).

use std::net::IpAddr;

use super::{
    checksum,
    headers::{Headers, TCP, be16},
};

/// The packet with its MSS lowered to `most`; `None`: it offers none, or less.
pub(super) fn clamped(packet: &[u8], headers: &Headers, most: u16) -> Option<Vec<u8>> {
    let at = option(packet, headers.transport)?;
    if be16(packet, at + 2)? <= most {
        return None;
    }
    let mut lowered = packet.to_vec();
    lowered[at + 2..at + 4].copy_from_slice(&most.to_be_bytes());
    let ends = (headers.source, headers.destination);
    let (before, field) = covered(packet, headers, ends);
    let (after, _) = covered(&lowered, headers, ends);
    let sum = checksum::after(&before, &after, field);
    let at = headers.transport + 16;
    lowered[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    Some(lowered)
}

/// What the transport checksum covers, and where it is within that: up to where the network header
/// says that the packet ends; padding comes behind. Who says less than there is of headers, or more
/// than there is, is not believed.
pub(super) fn covered(
    packet: &[u8],
    headers: &Headers,
    (source, destination): (IpAddr, IpAddr),
) -> (Vec<u8>, usize) {
    let (least, field) = if headers.protocol == TCP {
        let words = usize::from(packet[headers.transport + 12] >> 4);
        (words.max(5) * 4, 16)
    } else {
        (8, 6)
    };
    let is_true = headers.transport + least <= headers.end && headers.end <= packet.len();
    let end = if is_true { headers.end } else { packet.len() };
    let segment = &packet[headers.transport..end];
    let mut bytes = checksum::pseudo_header(source, destination, headers.protocol, segment.len());
    let field = bytes.len() + field;
    bytes.extend(segment);
    (bytes, field)
}

/// Where the MSS option is: kind 2, length 4, whole within the header.
fn option(packet: &[u8], transport: usize) -> Option<usize> {
    let header = usize::from(packet.get(transport + 12)? >> 4) * 4;
    let end = transport + header;
    let mut at = transport + 20;
    while at < end {
        match packet.get(at)? {
            0 => return None,
            1 => at += 1,
            kind => {
                let length = usize::from(*packet.get(at + 1)?);
                if length < 2 || at + length > end {
                    return None;
                }
                if *kind == 2 {
                    return (length == 4).then_some(at);
                }
                at += length;
            }
        }
    }
    None
}
