//! Golden packets, each fault by its name, and anything at all as input.
//!
//! The golden packets were sent by keepalived 2.2.7, or worked out by hand where that is said.

use proptest::prelude::*;

use super::{
    ah::{AhError, Header, Sequences},
    sum::{fold, sum},
    *,
};
use crate::config::{Checksum, Password};

const SENDER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 1));
const GROUP: IpAddr = IpAddr::V4(GROUP_V4);

const V3: [u8; 12] = [
    0x31, 0x33, 0x6e, 0x01, 0x00, 0x0a, 0x6b, 0x33, 0x0a, 0x4d, 0x00, 0x64,
];
const V2_PASS: [u8; 20] = *b"\x21\x33\x6e\x01\x01\x01\xf7\xcc\x0a\x4d\x00\x64s3cret12";
/// By hand: 0x2133 + 0x6e01 + 0x0001 + 0x0a4d + 0x0064 = 0x99e6.
const V2_NONE: [u8; 20] = *b"\x21\x33\x6e\x01\x00\x01\x66\x19\x0a\x4d\x00\x64\0\0\0\0\0\0\0\0";
const AH_MULTICAST: &str = "45c0004000010000ff33d0690a4d0001e0000012\
    700400000a4d00010000000124d3cbf921374b7ed9f767d2\
    21336e01020164190a4d00640000000000000000";
const AH_UNICAST: &str = "45c0004000020000ff33a62c0a4d00010a4d0002\
    700400000a4d000100000002d8a3a71e8024f32a69be9613\
    21336e01020164190a4d00640000000000000000";

fn password() -> Password {
    Password::new("s3cret12").unwrap()
}

fn v2(authentication: Authentication) -> Wire {
    Wire {
        version: Version::V2,
        authentication,
        ..Wire::default()
    }
}

fn all_v2() -> [Wire; 3] {
    [
        Authentication::None,
        Authentication::Pass(password()),
        Authentication::Ah(password()),
    ]
    .map(v2)
}

fn v4_advert(interval_cs: u16) -> Advert {
    Advert {
        vrid: 51,
        priority: 110,
        interval_cs,
        addresses: vec![Ipv4Addr::new(10, 77, 0, 100).into()],
    }
}

fn v6_advert() -> Advert {
    let addresses = ["fe80::64", "fd77::64"]
        .map(|text| text.parse().unwrap())
        .to_vec();
    Advert {
        addresses,
        ..v4_advert(10)
    }
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex
        .chars()
        .filter_map(|digit| digit.to_digit(16))
        .map(|digit| digit as u8)
        .collect();
    digits
        .chunks_exact(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect()
}

/// Puts the right checksum in.
fn summed(mut message: Vec<u8>) -> Vec<u8> {
    message[6..8].fill(0);
    let sum = !fold(sum(&message));
    message[6..8].copy_from_slice(&sum.to_be_bytes());
    message
}

#[test]
fn version_3_is_what_keepalived_sends() {
    let wire = Wire::default();
    assert_eq!(v4_advert(10).encode(&wire, SENDER, GROUP), V3);
    assert_eq!(Advert::decode(&V3, &wire, SENDER, GROUP), Ok(v4_advert(10)));
}

#[test]
fn version_2_is_what_keepalived_sends() {
    let [none, pass, ah] = all_v2();
    let ah_message = &bytes(AH_MULTICAST)[44..];
    for (wire, golden) in [(none, &V2_NONE[..]), (pass, &V2_PASS[..]), (ah, ah_message)] {
        assert_eq!(
            v4_advert(100).encode(&wire, SENDER, GROUP),
            golden,
            "{wire:?}"
        );
        assert_eq!(
            Advert::decode(golden, &wire, SENDER, GROUP),
            Ok(v4_advert(100)),
            "{wire:?}"
        );
    }
}

#[test]
fn the_authentication_header_is_what_keepalived_sends() {
    for (golden, sequence) in [(AH_MULTICAST, 1), (AH_UNICAST, 2)] {
        let golden = bytes(golden);
        let opened = ah::open(&password(), &golden).unwrap();
        assert_eq!((opened.sequence, opened.message), (sequence, &golden[44..]));
        let destination = <[u8; 4]>::try_from(&golden[16..20]).unwrap().into();
        let header = Header {
            source: Ipv4Addr::new(10, 77, 0, 1),
            destination,
            tos: 0xc0,
            ttl: 255,
        };
        let mut sealed = ah::seal(&password(), header, sequence, opened.message);
        // The kernel's part.
        sealed[10..12].copy_from_slice(&golden[10..12]);
        assert_eq!(sealed, golden);
    }
}

#[test]
fn what_changes_on_the_way_is_not_in_the_check_value() {
    let changed = |golden, changes: &[(usize, u8)]| {
        let mut packet = bytes(golden);
        for (at, value) in changes {
            packet[*at] = *value;
        }
        ah::open(&password(), &packet).map(|opened| opened.sequence)
    };
    let routed = [(1, 0), (6, 0x40), (8, 61), (10, 1), (11, 2)];
    assert_eq!(changed(AH_UNICAST, &routed), Ok(2));
    assert_eq!(changed(AH_MULTICAST, &[(1, 0), (6, 0x40)]), Ok(1));
    assert_eq!(
        changed(AH_MULTICAST, &[(8, 254)]),
        Err(AhError::CheckValue),
        "keepalived covers the TTL of multicast"
    );
}

#[test]
fn each_fault_of_an_authentication_header_has_its_error() {
    let broken = |at: usize, value: u8| {
        let mut packet = bytes(AH_UNICAST);
        packet[at] = value;
        ah::open(&password(), &packet).unwrap_err()
    };
    assert!(matches!(
        broken(20, 6),
        AhError::Malformed {
            found: 6,
            wanted: 112,
            ..
        }
    ));
    assert!(matches!(
        broken(21, 5),
        AhError::Malformed {
            found: 5,
            wanted: 4,
            ..
        }
    ));
    assert_eq!(broken(27, 9), AhError::Index(Ipv4Addr::new(10, 77, 0, 9)));
    // Identification, sequence number, the value itself, priority.
    for at in [4, 31, 32, 43, 46] {
        assert_eq!(broken(at, 0x77), AhError::CheckValue, "{at}");
    }
    let other = Password::new("s3cret13").unwrap();
    assert_eq!(
        ah::open(&other, &bytes(AH_UNICAST)),
        Err(AhError::CheckValue)
    );
    for length in 0..44 {
        let packet = &bytes(AH_UNICAST)[..length];
        assert_eq!(
            ah::open(&password(), packet),
            Err(AhError::Truncated(length))
        );
    }
}

#[test]
fn no_sequence_number_is_taken_twice() {
    let (a, b) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
    let mut sequences = Sequences::above(100);
    assert_eq!(sequences.accept(a, 5), Ok(()));
    for found in [0, 4, 5] {
        assert_eq!(
            sequences.accept(a, found),
            Err(AhError::Replayed {
                sender: a,
                found,
                last: 5
            })
        );
    }
    // Another master counts for itself.
    assert_eq!(sequences.accept(b, 3), Ok(()));
    assert_eq!(sequences.next_number(), 101);
    assert_eq!(sequences.accept(a, 500), Ok(()));
    assert_eq!(
        (sequences.next_number(), sequences.next_number()),
        (501, 502)
    );
    assert_eq!(sequences.accept(b, u32::MAX), Ok(()));
    assert_eq!(sequences.next_number(), u32::MAX);
}

#[test]
fn senders_beyond_the_bound_push_out_the_one_silent_for_longest() {
    let sender = |number: usize| Ipv4Addr::from(0x0a00_0000 + u32::try_from(number).unwrap());
    let mut sequences = Sequences::default();
    for number in 0..ah::MAX_SENDERS {
        sequences.accept(sender(number), 7).unwrap();
    }
    sequences.accept(sender(0), 8).unwrap();
    sequences.accept(sender(ah::MAX_SENDERS), 7).unwrap();
    assert!(sequences.accept(sender(0), 8).is_err());
    assert_eq!(sequences.accept(sender(1), 7), Ok(()), "it was forgotten");
}

#[test]
fn both_ipv4_checksums_are_sent_as_configured_and_understood() {
    let wire = Wire {
        checksum: Checksum::Rfc9568,
        ..Wire::default()
    };
    let bare = v4_advert(10).encode(&wire, SENDER, GROUP);
    // 0x3133 + 0x6e01 + 0x000a + 0x0a4d + 0x0064 = 0xa9ef.
    assert_eq!(bare[6..8], (!0xa9ef_u16).to_be_bytes());
    let other: IpAddr = "10.77.0.9".parse().unwrap();
    for (source, destination) in [(SENDER, GROUP), (other, SENDER)] {
        assert_eq!(
            Advert::decode(&bare, &Wire::default(), source, destination),
            Ok(v4_advert(10))
        );
    }
    let source: IpAddr = "fe80::1".parse().unwrap();
    assert_eq!(
        v6_advert().encode(&wire, source, GROUP_V6.into()),
        v6_advert().encode(&Wire::default(), source, GROUP_V6.into()),
        "IPv6 knows one only"
    );
}

#[test]
fn ipv4_unicast_may_be_summed_as_if_to_the_group() {
    let (wire, unicast) = (Wire::default(), "10.77.0.2".parse().unwrap());
    let sent = v4_advert(10).encode(&wire, SENDER, unicast);
    assert_eq!(
        Advert::decode(&sent, &wire, SENDER, unicast),
        Ok(v4_advert(10))
    );
    assert_eq!(
        Advert::decode(&V3, &wire, SENDER, unicast),
        Ok(v4_advert(10))
    );
    let stranger: IpAddr = "10.77.0.3".parse().unwrap();
    assert_eq!(
        Advert::decode(&V3, &wire, stranger, GROUP),
        Err(AdvertError::Checksum)
    );
}

#[test]
fn ipv6_has_the_header_keepalived_sends_and_needs_the_pseudo_header() {
    let (wire, group) = (Wire::default(), GROUP_V6.into());
    let source: IpAddr = "fe80::1".parse().unwrap();
    let sent = v6_advert().encode(&wire, source, group);
    assert_eq!(sent[..6], [0x31, 0x33, 0x6e, 0x02, 0x00, 0x0a]);
    assert_eq!(Advert::decode(&sent, &wire, source, group), Ok(v6_advert()));
    // By hand: header 0x9f3f, addresses fe80+64+fd77+64 = 0x1fcbf, pseudo-header
    // fe80+1+ff02+12+70+28 = 0x1fe2d; together 0x49a2b, folded 0x9a2f.
    assert_eq!(sent[6..8], (!0x9a2f_u16).to_be_bytes());
    assert_eq!(
        Advert::decode(&summed(sent), &wire, source, group),
        Err(AdvertError::Checksum)
    );
}

#[test]
fn each_fault_of_version_3_has_its_error() {
    let decode = |message: &[u8]| Advert::decode(message, &Wire::default(), SENDER, GROUP);
    let broken = |index: usize, value: u8| {
        let mut message = V3;
        message[index] = value;
        decode(&message).unwrap_err()
    };
    let (found, wanted) = (2, Version::V3);
    assert_eq!(broken(0, 0x21), AdvertError::Version { found, wanted });
    assert_eq!(broken(0, 0x32), AdvertError::Type(2));
    assert_eq!(broken(1, 0), AdvertError::Vrid);
    assert_eq!(broken(5, 0), AdvertError::Interval);
    assert_eq!(
        broken(3, 2),
        AdvertError::AddressCount { count: 2, found: 4 }
    );
    assert_eq!(
        broken(3, 0),
        AdvertError::AddressCount { count: 0, found: 4 }
    );
    assert_eq!(broken(2, 111), AdvertError::Checksum);
    for length in 0..V3.len() {
        let expected = match length {
            0..8 => AdvertError::Truncated(length),
            _ => AdvertError::AddressCount {
                count: 1,
                found: length - 8,
            },
        };
        assert_eq!(decode(&V3[..length]), Err(expected));
    }
}

#[test]
fn each_fault_of_version_2_has_its_error() {
    let [none, pass, ah] = all_v2();
    let decode = |message: &[u8], wire: &Wire| Advert::decode(message, wire, SENDER, GROUP);
    let broken = |index: usize, value: u8| {
        let mut message = V2_PASS;
        message[index] = value;
        message
    };
    let refused = |index, value| decode(&broken(index, value), &pass).unwrap_err();
    let (found, wanted) = (3, Version::V2);
    assert_eq!(refused(0, 0x31), AdvertError::Version { found, wanted });
    assert_eq!(refused(0, 0x22), AdvertError::Type(2));
    assert_eq!(refused(1, 0), AdvertError::Vrid);
    assert_eq!(
        refused(3, 2),
        AdvertError::AddressCount { count: 2, found: 4 }
    );
    assert_eq!(refused(2, 111), AdvertError::Checksum);
    // Damage is not taken for a wrong password; a wrong one is.
    assert_eq!(refused(19, b'3'), AdvertError::Checksum);
    let resummed = |index, value| summed(broken(index, value).to_vec());
    assert_eq!(
        decode(&resummed(19, b'3'), &pass),
        Err(AdvertError::Password)
    );
    assert_eq!(decode(&resummed(5, 0), &pass), Err(AdvertError::Interval));
    for (message, wire, found, wanted) in [
        (&V2_NONE, &pass, 0, 1),
        (&V2_PASS, &none, 1, 0),
        (&V2_PASS, &ah, 1, 2),
    ] {
        assert_eq!(
            decode(message, wire),
            Err(AdvertError::AuthenticationType { found, wanted })
        );
    }
    for length in 0..V2_PASS.len() {
        let expected = match length {
            0..16 => AdvertError::Truncated(length),
            _ => AdvertError::AddressCount {
                count: 1,
                found: length - 16,
            },
        };
        assert_eq!(decode(&V2_PASS[..length], &pass), Err(expected), "{length}");
    }
}

#[test]
fn every_message_says_what_to_change() {
    let source = SENDER;
    let ours = v2(Authentication::Pass(password()));
    let second = Duration::from_secs(1);
    for (mismatch, word) in [
        (Mismatch::Version(3), "`version`"),
        (Mismatch::Authentication(2), "`authentication`"),
        (Mismatch::Password, "`password`"),
        (Mismatch::Interval(second * 2), "`advert_interval`"),
    ] {
        let advice = mismatch.advice(source, &ours, second);
        assert!(
            advice.contains(word) && advice.contains("keepalived: `"),
            "{advice}"
        );
        assert!(!advice.contains("s3cret"), "{advice}");
    }
}

fn addresses_v4() -> impl Strategy<Value = Vec<IpAddr>> {
    prop::collection::vec(any::<Ipv4Addr>().prop_map(IpAddr::from), 1..=MAX_ADDRESSES)
}

fn addresses_v6() -> impl Strategy<Value = Vec<IpAddr>> {
    prop::collection::vec(any::<Ipv6Addr>().prop_map(IpAddr::from), 1..=MAX_ADDRESSES)
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..1200),
        source: IpAddr,
        destination: IpAddr,
    ) {
        let _ = ah::open(&password(), &bytes);
        for wire in all_v2().into_iter().chain([Wire::default()]) {
            if let Ok(advert) = Advert::decode(&bytes, &wire, source, destination) {
                prop_assert_ne!(advert.vrid, 0);
                prop_assert_ne!(advert.interval_cs, 0);
            }
        }
    }

    #[test]
    fn decode_undoes_encode(
        vrid in 1..=u8::MAX,
        priority: u8,
        interval_cs in 1..=MAX_INTERVAL_CS,
        seconds in 1..=255_u16,
        v4 in addresses_v4(),
        v6 in addresses_v6(),
        from_v4: Ipv4Addr, to_v4: Ipv4Addr,
        from_v6: Ipv6Addr, to_v6: Ipv6Addr,
    ) {
        let (from4, to4) = (IpAddr::from(from_v4), IpAddr::from(to_v4));
        for (addresses, from, to) in
            [(v4.clone(), from4, to4), (v6, from_v6.into(), to_v6.into())]
        {
            let advert = Advert { vrid, priority, interval_cs, addresses };
            for checksum in [Checksum::Rfc5798, Checksum::Rfc9568] {
                let wire = Wire { checksum, ..Wire::default() };
                let sent = advert.encode(&wire, from, to);
                prop_assert_eq!(Advert::decode(&sent, &wire, from, to), Ok(advert.clone()));
            }
        }
        let advert = Advert { vrid, priority, interval_cs: seconds * 100, addresses: v4 };
        for wire in all_v2() {
            let sent = advert.encode(&wire, from4, to4);
            prop_assert_eq!(Advert::decode(&sent, &wire, from4, to4), Ok(advert.clone()));
        }
    }

    #[test]
    fn a_flipped_bit_is_noticed(bit in 0..V3.len() * 8, bit2 in 0..V2_PASS.len() * 8) {
        let mut message = V3;
        message[bit / 8] ^= 1 << (bit % 8);
        // The four reserved bits are covered by the sum too.
        prop_assert!(Advert::decode(&message, &Wire::default(), SENDER, GROUP).is_err());
        let mut message = V2_PASS;
        message[bit2 / 8] ^= 1 << (bit2 % 8);
        let pass = v2(Authentication::Pass(password()));
        prop_assert!(Advert::decode(&message, &pass, SENDER, GROUP).is_err());
    }
}
