//! The Internet checksum (RFC 1071), always over everything.

use std::net::IpAddr;

/// The ones' complement sum of 16-bit words; an odd byte counts as if a zero followed.
fn sum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u64;
    for pair in bytes.chunks(2) {
        let word = [pair[0], pair.get(1).copied().unwrap_or(0)];
        sum += u64::from(u16::from_be_bytes(word));
    }
    add_carries(sum)
}

fn add_carries(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The checksum of bytes whose own checksum field is among them: what the field has to be is the
/// complement of the sum without it, so of a right one the sum is all ones.
pub(super) fn is_right(bytes: &[u8]) -> bool {
    sum(bytes) == 0xffff
}

/// The checksum of bytes in which its field is zero.
pub(super) fn of(bytes: &[u8]) -> u16 {
    !sum(bytes)
}

/// What the field at `at` has to be after a change of what it covers. A right checksum is computed
/// anew. A wrong one stays as wrong as it was (RFC 1624): who forwards must not hide damage.
pub(super) fn after(before: &[u8], after: &[u8], at: usize) -> u16 {
    let without = |bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        bytes[at..at + 2].fill(0);
        sum(&bytes)
    };
    if is_right(before) {
        return !without(after);
    }
    let stated = u16::from_be_bytes([before[at], before[at + 1]]);
    !add_carries(u64::from(!stated) + u64::from(!without(before)) + u64::from(without(after)))
}

/// What a transport checksum covers beside its segment (RFC 9293 3.1, RFC 8200 8.1).
pub(super) fn pseudo_header(
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    length: usize,
) -> Vec<u8> {
    let mut bytes = Vec::new();
    for address in [source, destination] {
        bytes.extend(octets(address));
    }
    // Upper-layer length and next header, each in 32 bits: for IPv4 the same sum.
    bytes.extend((length as u32).to_be_bytes());
    bytes.extend(u32::from(protocol).to_be_bytes());
    bytes
}

/// The octets of an address.
pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}
