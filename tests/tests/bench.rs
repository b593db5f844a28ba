//! The benchmark measures what it says: its wrapper restores every packet, its references do their
//! work right, and a row whose packets are treated otherwise has no figure. Needs root and what
//! `cargo xtask build-ebpf` builds.

// A test's helpers may panic too: that is how it fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use steerd_ebpf::verdict::Verdict;
use steerd_tests::bench::{
    error::Error,
    frame::{self, Family, Kind},
    measure,
    rig::Rig,
    rows::{self, Row},
    wrapper::{Bench, Head, Packets, Reference, Wrapped},
};

fn bench() -> Bench {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/ebpf/bench.o");
    Bench::read(&path).unwrap()
}

/// A client's packet.
fn plain(family: Family) -> Vec<u8> {
    frame::build(family, Kind::Ack, &|frame| Ok(frame)).unwrap()
}

/// The last of `count` packets from `clients` clients, as it leaves.
fn last(
    wrapped: &mut Wrapped,
    reference: Reference,
    family: Family,
    clients: u32,
    count: u32,
) -> Vec<u8> {
    let frame = plain(family);
    let packets = Packets {
        frame: &frame,
        family,
        clients,
        after: 0,
        count,
    };
    wrapped.run(packets, reference.action()).unwrap().frame
}

/// As much as is ever changed.
const fn head(family: Family) -> Head {
    match family {
        Family::V4 => Head::Short,
        Family::V6 => Head::Long,
    }
}

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

#[test]
fn the_last_packet_is_treated_as_the_first() {
    let bench = bench();
    for reference in Reference::ALL {
        let family = match reference {
            Reference::Forward(family)
            | Reference::Encapsulate(family)
            | Reference::EncapsulateUdp(family)
            | Reference::Translate(family) => family,
            Reference::Tx | Reference::Pass => Family::V4,
            Reference::Decapsulate(_) | Reference::DecapsulateUdp(_) => Family::V6,
        };
        let mut wrapped = bench.reference(reference, head(family)).unwrap();
        let first = last(&mut wrapped, reference, family, 1, 1);
        // Not a number after which a drifting field is back where it was.
        let other = last(&mut wrapped, reference, family, 1, 1001);
        assert_eq!(first, other, "{}", reference.name());
    }
}

/// An IPv6 packet's TCP checksum lies behind the short head.
#[test]
fn what_is_not_restored_shows() {
    let reference = Reference::Translate(Family::V6);
    let mut wrapped = bench().reference(reference, Head::Short).unwrap();
    let first = last(&mut wrapped, reference, Family::V6, 1, 1);
    let other = last(&mut wrapped, reference, Family::V6, 1, 2);
    assert_ne!(first, other);
}

#[test]
fn each_client_has_its_address_and_a_valid_header() {
    let bench = bench();
    for family in FAMILIES {
        let frame = plain(family);
        let mut wrapped = bench.reference(Reference::Tx, Head::Short).unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for count in 1..=8 {
            let out = last(&mut wrapped, Reference::Tx, family, 8, count);
            let packet = SlicedPacket::from_ethernet(&out).unwrap();
            match packet.net.unwrap() {
                NetSlice::Ipv4(ip) => {
                    let header = ip.header().to_header();
                    assert_eq!(header.header_checksum, header.calc_header_checksum());
                    assert_eq!(header.destination, frame[30..34]);
                    seen.insert(header.source.to_vec());
                }
                NetSlice::Ipv6(ip) => {
                    let header = ip.header().to_header();
                    assert_eq!(header.destination, frame[38..54]);
                    seen.insert(header.source.to_vec());
                }
                NetSlice::Arp(_) => panic!("not IP"),
            }
            assert_eq!(out[38..], frame[38..], "nothing else differs");
        }
        assert_eq!(seen.len(), 8, "{seen:?}");
    }
}

#[test]
fn references_leave_valid_packets() {
    let bench = bench();
    for family in FAMILIES {
        let before = plain(family);
        let out = |reference| {
            let mut wrapped = bench.reference(reference, head(family)).unwrap();
            last(&mut wrapped, reference, family, 1, 1)
        };

        let forwarded = out(Reference::Forward(family));
        assert_eq!(forwarded.len(), before.len());
        assert_eq!(hops(&forwarded), 63);
        assert_ne!(forwarded[..12], before[..12]);

        let translated = out(Reference::Translate(family));
        assert_eq!(hops(&translated), 63);
        assert_ne!(ports(&translated), ports(&before));

        let ip = if family == Family::V4 { 20 } else { 40 };
        for (reference, added) in [
            (Reference::Encapsulate(family), ip),
            (Reference::EncapsulateUdp(family), ip + 8),
        ] {
            let outer = out(reference);
            assert_eq!(hops(&outer), 64);
            assert_eq!(outer.len(), before.len() + added);
            assert_eq!(outer[14 + added..], before[14..]);
            assert_eq!(unwrapped(&bench, reference, &outer)[14..], before[14..]);
        }
    }
}

/// A packet that a reference has wrapped, as the reference for the other direction leaves it.
fn unwrapped(bench: &Bench, wrapper: Reference, frame: &[u8]) -> Vec<u8> {
    let (reference, family) = match wrapper {
        Reference::Encapsulate(family) => (Reference::Decapsulate(family), family),
        Reference::EncapsulateUdp(family) => (Reference::DecapsulateUdp(family), family),
        other => panic!("{} wraps nothing", other.name()),
    };
    let packets = Packets {
        frame,
        family,
        clients: 1,
        after: 0,
        count: 1001,
    };
    let mut wrapped = bench.reference(reference, Head::Short).unwrap();
    wrapped.run(packets, reference.action()).unwrap().frame
}

/// The hops that are left; the checksums, where there are any, must be right.
fn hops(frame: &[u8]) -> u8 {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let transport = packet.transport;
    match packet.net.unwrap() {
        NetSlice::Ipv4(ip) => {
            let header = ip.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            if let Some(TransportSlice::Tcp(tcp)) = transport {
                let sum = tcp.calc_checksum_ipv4(header.source, header.destination);
                assert_eq!(tcp.checksum(), sum.unwrap());
            }
            header.time_to_live
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header().to_header();
            if let Some(TransportSlice::Tcp(tcp)) = transport {
                let sum = tcp.calc_checksum_ipv6(header.source, header.destination);
                assert_eq!(tcp.checksum(), sum.unwrap());
            }
            header.hop_limit
        }
        NetSlice::Arp(_) => panic!("not IP"),
    }
}

fn ports(frame: &[u8]) -> (u16, u16) {
    match SlicedPacket::from_ethernet(frame).unwrap().transport {
        Some(TransportSlice::Tcp(tcp)) => (tcp.source_port(), tcp.destination_port()),
        other => panic!("not TCP: {other:?}"),
    }
}

/// One round: enough to have a figure, and to see that a row which names another verdict has none.
#[test]
fn a_row_has_a_figure_only_if_its_verdict_is_right() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/ebpf/steerd.o");
    let object = std::fs::read(path).unwrap();
    let bench = bench();
    let row = rows::named(&["udp".to_owned()]).unwrap().remove(0);
    let mut rig = Rig::new(&object, row.world).unwrap();
    let figures = measure::row(&bench, &mut rig, &row, 1).unwrap();
    assert!(figures.net_median > 0.0, "{figures:?}");

    let wrong = Row {
        kind: Kind::Elsewhere,
        // What passes anyway: the returned action says nothing.
        verdict: Verdict::Local,
        ..row
    };
    let error = measure::row(&bench, &mut rig, &wrong, 1).unwrap_err();
    assert!(
        matches!(error, Error::Verdict { counted: 0, .. }),
        "{error}"
    );
    assert!(error.to_string().contains("not-vip"), "{error}");
}
