//! What must hold of each codec, whatever it is given. A target is a function of bytes that panics
//! where something does not hold; libFuzzer calls it from `fuzz_targets/`, and on every compiler
//! `agent/core/tests/codecs.rs` does.
//!
//! Random bytes do not get past a checksum or a hash, so each target also tries its input with the
//! right one put in.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use steerd_core::{
    announce,
    config::{Authentication, Checksum, Password, Version, Wire},
    vrrp::wire::{
        Advert, GROUP_V4, GROUP_V6, MAX_ADDRESSES,
        ah::{self, Header, Sequences},
    },
};

/// Every target by its name, which its directory in `seeds/` has too.
pub const TARGETS: [(&str, Target); 4] =
    [("v2", v2), ("v3", v3), ("ah", self::ah), ("claim", claim)];

/// Panics where something does not hold of the bytes.
pub type Target = fn(&[u8]);

const SOURCE_V4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const SOURCE_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// Where an advert has its checksum.
const CHECKSUM: std::ops::Range<usize> = 6..8;

/// An advert of VRRPv2, behind its IPv4 header.
pub fn v2(message: &[u8]) {
    let (source, group) = (SOURCE_V4.into(), GROUP_V4.into());
    for authentication in [
        Authentication::None,
        Authentication::Pass(password()),
        Authentication::Ah(password()),
    ] {
        let wire = Wire {
            version: Version::V2,
            authentication,
            ..Wire::default()
        };
        both(message, &wire, source, group, 0);
    }
}

/// An advert of VRRPv3, behind an IPv4 or IPv6 header.
pub fn v3(message: &[u8]) {
    let v4 = (SOURCE_V4.into(), GROUP_V4.into());
    let v6 = (SOURCE_V6.into(), GROUP_V6.into());
    for (source, group) in [v4, v6] {
        for checksum in [Checksum::Rfc5798, Checksum::Rfc9568] {
            let wire = Wire {
                checksum,
                ..Wire::default()
            };
            let pseudo = match source {
                IpAddr::V4(_) => 0,
                IpAddr::V6(_) => pseudo_header(message.len()),
            };
            both(message, &wire, source, group, pseudo);
        }
    }
}

/// An IPv4 packet with an authentication header.
pub fn ah(packet: &[u8]) {
    if let Ok(opened) = ah::open(&password(), packet) {
        assert!(packet.ends_with(opened.message));
        let mut sequences = Sequences::default();
        assert!(sequences.accept(SOURCE_V4, opened.sequence).is_ok());
        assert!(sequences.accept(SOURCE_V4, opened.sequence).is_err());
        assert!(sequences.next_number() >= opened.sequence);
        v2(opened.message);
    }
    // Any bytes at all can be sealed, and come out again.
    let [high, low, rest @ ..] = packet else {
        return;
    };
    let header = Header {
        source: SOURCE_V4,
        destination: if high & 1 == 0 { GROUP_V4 } else { SOURCE_V4 },
        tos: *low,
        ttl: *high,
    };
    let sequence = u32::from(*low) << 12;
    let sealed = ah::seal(&password(), header, sequence, rest);
    let opened = ah::open(&password(), &sealed);
    assert_eq!(
        opened.map(|opened| (opened.sequence, opened.message)),
        Ok((sequence, rest))
    );
    let other = Password::new("another1");
    assert!(other.is_some_and(|other| ah::open(&other, &sealed).is_err()));
}

/// A frame by which a host may claim an address: ARP, or a neighbour advertisement.
pub fn claim(frame: &[u8]) {
    for frame in [frame.to_vec(), with_icmpv6_sum(frame.to_vec())] {
        if let Some(claim) = announce::parse_claim(&frame) {
            assert!(!claim.address.is_unspecified());
            assert_eq!(claim.mac[0] & 1, 0, "a group has no address");
            let again = announce::announcement(claim.mac, claim.address);
            assert_eq!(announce::parse_claim(&again), Some(claim));
        }
    }
}

/// The input as it is, and with the right checksum.
fn both(message: &[u8], wire: &Wire, source: IpAddr, group: IpAddr, pseudo: u64) {
    decode(message, wire, source, group);
    let mut summed = message.to_vec();
    if summed.len() >= CHECKSUM.end {
        summed[CHECKSUM].fill(0);
        let sum = fold(words(&summed) + pseudo);
        summed[CHECKSUM].copy_from_slice(&(!sum).to_be_bytes());
        decode(&summed, wire, source, group);
    }
}

fn decode(message: &[u8], wire: &Wire, source: IpAddr, group: IpAddr) {
    let Ok(advert) = Advert::decode(message, wire, source, group) else {
        return;
    };
    assert!(advert.vrid != 0 && advert.interval_cs != 0);
    assert!((1..=MAX_ADDRESSES).contains(&advert.addresses.len()));
    let of_family = |address: &IpAddr| address.is_ipv6() == source.is_ipv6();
    assert!(advert.addresses.iter().all(of_family));
    let again = advert.encode(wire, source, group);
    assert_eq!(again.len(), message.len());
    assert_eq!(Advert::decode(&again, wire, source, group), Ok(advert));
}

fn password() -> Password {
    // It fits.
    Password::new("s3cret12").unwrap_or_else(|| unreachable!())
}

fn words(bytes: &[u8]) -> u64 {
    let word = |pair: &[u8]| u64::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u64::from(*low));
    bytes.chunks(2).map(word).sum()
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

fn pseudo_header(length: usize) -> u64 {
    words(&SOURCE_V6.octets()) + words(&GROUP_V6.octets()) + 112 + length as u64
}

/// Puts the right checksum into an ICMPv6 message that fills its frame.
fn with_icmpv6_sum(mut frame: Vec<u8>) -> Vec<u8> {
    const SUM: std::ops::Range<usize> = 56..58;
    if frame.len() >= SUM.end {
        frame[SUM].fill(0);
        let message = &frame[54..];
        let sum = words(&frame[22..54]) + words(message) + 58 + message.len() as u64;
        let sum = !fold(sum);
        frame[SUM].copy_from_slice(&sum.to_be_bytes());
    }
    frame
}
