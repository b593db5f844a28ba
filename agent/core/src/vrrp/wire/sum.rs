//! The Internet checksum (RFC 1071), with and without pseudo-header.

use std::net::IpAddr;

use super::PROTOCOL;

/// The sum of the pseudo-header: the same terms in both families, only wider (RFC 8200 8.1).
pub(super) fn pseudo_header(source: IpAddr, destination: IpAddr, length: usize) -> u32 {
    let octets = |address: IpAddr| match address {
        IpAddr::V4(v4) => sum(&v4.octets()),
        IpAddr::V6(v6) => sum(&v6.octets()),
    };
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    octets(source) + octets(destination) + u32::from(PROTOCOL) + (length >> 16) + (length & 0xffff)
}

/// The sum of the 16-bit words; no payload an IP packet can hold overflows it.
pub(super) fn sum(bytes: &[u8]) -> u32 {
    bytes
        .chunks(2)
        .map(|pair| match *pair {
            [high, low] => u32::from(u16::from_be_bytes([high, low])),
            [high] => u32::from(high) << 8,
            _ => 0,
        })
        .fold(0, u32::wrapping_add)
}

/// One's complement: carries come back in at the bottom.
pub(super) fn fold(sum: u32) -> u16 {
    let once = (sum >> 16) + (sum & 0xffff);
    let twice = (once >> 16) + (once & 0xffff);
    (twice & 0xffff) as u16
}
