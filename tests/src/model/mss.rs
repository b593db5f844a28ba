//! The MSS that a SYN offers (RFC 9293 section 3.7.1).

use super::{
    checksum,
    headers::{Headers, be16},
};

/// The packet with its MSS lowered to `most`; `None`: it offers none, or less.
pub(super) fn clamped(packet: &[u8], headers: &Headers, most: u16) -> Option<Vec<u8>> {
    let at = option(packet, headers.transport)?;
    if be16(packet, at + 2)? <= most {
        return None;
    }
    let mut lowered = packet.to_vec();
    lowered[at + 2..at + 4].copy_from_slice(&most.to_be_bytes());
    // What the checksum covers ends where the network header says; padding comes behind. Who says
    // less than there is of headers is not believed.
    let end = match headers.end {
        end if end >= at + 4 && end <= packet.len() => end,
        _ => packet.len(),
    };
    let covered = |packet: &[u8]| {
        let segment = &packet[headers.transport..end];
        let mut bytes = checksum::pseudo_header(
            headers.source,
            headers.destination,
            headers.protocol,
            segment.len(),
        );
        let field = bytes.len() + 16;
        bytes.extend(segment);
        (bytes, field)
    };
    let (before, field) = covered(packet);
    let (after, _) = covered(&lowered);
    let sum = checksum::after(&before, &after, field);
    let at = headers.transport + 16;
    lowered[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    Some(lowered)
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
