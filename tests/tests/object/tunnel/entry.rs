//! What is put around a packet: every byte of it, against headers that another library makes.

use std::{collections::BTreeSet, net::IpAddr};

use etherparse::{Ipv4Header, Ipv6Header, UdpHeader};
use steerd_ebpf::{
    abi::{Control, Mode},
    event::Event,
    verdict::Verdict,
};

use super::{
    GUE_PORT, MASK4, NETWORK4, NETWORK6, WAYS, Way, build, class, every_kind, grow, is_ipv4, l3,
    send, set_hops, set_length, world,
};
use crate::{
    packets::{CLIENT, CLIENT6, PORT, Spec, Transport, VIP, VIP6, ip},
    raw::{self, Raw},
    world::{BACKEND_MAC, DROP, ELSEWHERE, INGRESS, OWN_MAC, REDIRECT, TX, World},
};

/// What differs from client to client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Chosen {
    source: IpAddr,
    /// Of UDP.
    port: Option<u16>,
    /// Of IPv6.
    label: Option<u32>,
}

/// Reads it, and checks that it is one of those to choose from.
fn chosen(way: Way, packet: &[u8]) -> Chosen {
    let port = |at: usize| {
        let port = u16::from_be_bytes([packet[at], packet[at + 1]]);
        assert!(port >= 49_152, "RFC 6335: a dynamic port, not {port}");
        port
    };
    let is_gue = way.mode == Mode::Gue;
    if way.is_ipv4 {
        let source: [u8; 4] = packet[12..16].try_into().unwrap();
        for ((byte, mask), network) in source.iter().zip(MASK4).zip(NETWORK4) {
            assert_eq!(byte & mask, network, "{source:?}");
        }
        Chosen {
            source: source.into(),
            port: is_gue.then(|| port(20)),
            label: None,
        }
    } else {
        let source: [u8; 16] = packet[8..24].try_into().unwrap();
        let IpAddr::V6(network) = ip(NETWORK6) else {
            panic!("IPv6");
        };
        assert_eq!(source[..8], network.octets()[..8]);
        let label = u32::from_be_bytes([0, packet[1] & 0xf, packet[2], packet[3]]);
        Chosen {
            source: source.into(),
            port: is_gue.then(|| port(40)),
            label: Some(label),
        }
    }
}

/// The outer header of a packet which has taken its hop.
fn outer(way: Way, chosen: Chosen, inner: &[u8]) -> Vec<u8> {
    let (protocol, hops) = if is_ipv4(inner) {
        (4, inner[8])
    } else {
        (41, inner[7])
    };
    let udp = chosen.port.map(|port| UdpHeader {
        source_port: port,
        destination_port: GUE_PORT,
        length: inner.len() as u16 + 8,
        checksum: 0,
    });
    let protocol = if udp.is_some() { 17 } else { protocol };
    let length = inner.len() as u16 + if udp.is_some() { 8 } else { 0 };
    let mut bytes = match (chosen.source, way.address()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut header =
                Ipv4Header::new(length, hops, protocol.into(), from.octets(), to.octets()).unwrap();
            header.dscp = (class(inner) >> 2).try_into().unwrap();
            header.ecn = (class(inner) & 3).try_into().unwrap();
            header.identification = 0;
            header.dont_fragment = true;
            header.header_checksum = header.calc_header_checksum();
            header.to_bytes().to_vec()
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => Ipv6Header {
            traffic_class: class(inner),
            flow_label: chosen.label.unwrap().try_into().unwrap(),
            payload_length: length,
            next_header: protocol.into(),
            hop_limit: hops,
            source: from.octets(),
            destination: to.octets(),
        }
        .to_bytes()
        .to_vec(),
        _ => panic!("one family"),
    };
    bytes.extend(udp.iter().flat_map(UdpHeader::to_bytes));
    bytes
}

/// A frame's tags on the way out: the innermost one is set, added or taken off, and keeps its
/// priority.
fn retagged(tags: &[u8], vlan: u16) -> Vec<u8> {
    let mut tags: Vec<[u8; 4]> = tags.chunks(4).map(|tag| tag.try_into().unwrap()).collect();
    let [high, low] = vlan.to_be_bytes();
    match (tags.pop(), vlan) {
        (_, 0) => {}
        (None, _) => tags.push([0x81, 0, high, low]),
        (Some([a, b, tci, _]), _) => tags.push([a, b, tci & 0xf0 | high, low]),
    }
    tags.concat()
}

/// The frame that goes out.
fn wrapped(way: Way, chosen: Chosen, frame: &[u8], length: usize, vlan: u16) -> Vec<u8> {
    let start = l3(frame);
    let mut packet = frame[start..].to_vec();
    let hops = if is_ipv4(&packet) {
        packet[8]
    } else {
        packet[7]
    };
    set_hops(&mut packet, hops - 1);
    let kind: [u8; 2] = if way.is_ipv4 { [8, 0] } else { [0x86, 0xdd] };
    let outer = outer(way, chosen, &packet[..length]);
    [
        &BACKEND_MAC,
        &OWN_MAC,
        &retagged(&frame[12..start - 2], vlan)[..],
        &kind,
        &outer,
        &packet,
    ]
    .concat()
}

fn check(world: &World, way: Way, frame: &[u8], length: usize, vlan: u16, action: u32) -> Chosen {
    let outcome = world.run(frame);
    assert_eq!(
        (outcome.verdict, outcome.action),
        (Verdict::Tunnel, action),
        "{way:?} {vlan} {frame:02x?}"
    );
    let chosen = chosen(way, &outcome.frame[l3(&outcome.frame)..]);
    let expected = wrapped(way, chosen, frame, length, vlan);
    assert_eq!(outcome.frame, expected, "{way:?} {vlan}");
    chosen
}

/// Every mode, outer family, inner family, protocol, and tags before and after.
#[test]
fn each_byte_is_right() {
    let mut world = world();
    for way in WAYS {
        for vlan in [0, 7, 8, 4094] {
            for (ifindex, action) in [(INGRESS, TX), (ELSEWHERE, REDIRECT)] {
                send(&mut world, way, vlan, 1500, ifindex);
                for spec in every_kind() {
                    let frame = build(&way.spec(spec));
                    let length = frame.len() - l3(&frame);
                    check(&world, way, &frame, length, vlan, action);
                }
            }
        }
    }
}

/// An ICMP error goes to whom the packet that it quotes was from, wrapped as that one's are: in every
/// mode, outer family, inner family and protocol, with tags before and after.
#[test]
fn errors_are_wrapped_too() {
    let mut world = world();
    for way in WAYS {
        for vlan in [0, 7, 8] {
            send(&mut world, way, vlan, 1500, INGRESS);
            for frame in errors(way) {
                let length = frame.len() - l3(&frame);
                check(&world, way, &frame, length, vlan, TX);
            }
        }
    }
    let sent = WAYS.len() * 3 * errors(WAYS[0]).len();
    assert_eq!(world.events(Event::IcmpSteered), sent as u64);
}

/// A router's errors about what services that are reached this way sent.
fn errors(way: Way) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let of_family = [
        (VIP, CLIENT, "10.9.9.9", [3, 4]),
        (VIP6, CLIENT6, "fd00:9::9", [2, 0]),
    ];
    for (vip, client, router, kind) in of_family {
        let [vip, client, router] = [vip, client, router].map(ip);
        for protocol in [raw::TCP, raw::UDP] {
            let ends = ((vip, PORT + way.number()), (client, 50_000));
            let segment = raw::segment(protocol, ends.0, ends.1, b"what the service said");
            let quote = Raw::new(vip, client, protocol).packet(&segment);
            for vlans in [vec![], vec![7], vec![100, 7]] {
                let error = raw::message(router, vip, kind, 1400, &quote);
                let raw = Raw {
                    vlans,
                    ..Raw::new(router, vip, raw::icmp_of(vip))
                };
                frames.push(raw.frame(&error));
            }
        }
    }
    frames
}

/// Every class of service, and hops to the last that can be taken.
#[test]
fn class_and_hops_are_taken_over() {
    let world = world();
    for way in WAYS {
        for spec in [Spec::v4(Transport::Ack), Spec::v6(Transport::Ack)] {
            let mut frame = build(&way.spec(spec));
            let length = frame.len() - 14;
            for class in 0..=255 {
                super::set_class(&mut frame[14..], class);
                check(&world, way, &frame, length, 0, TX);
            }
            for hops in 2..=255 {
                set_hops(&mut frame[14..], hops);
                check(&world, way, &frame, length, 0, TX);
            }
            for hops in [0, 1] {
                set_hops(&mut frame[14..], hops);
                refused(&world, &frame, Verdict::TtlExpired);
            }
        }
    }
}

/// Padding of a short frame is not part of the packet; behind it, it does no harm.
#[test]
fn padding_is_not_counted() {
    let world = world();
    for way in WAYS {
        let spec = way.spec(Spec::v4(Transport::Udp));
        let mut frame = build(&spec);
        let length = frame.len() - 14;
        frame.resize(60, 0xff);
        check(&world, way, &frame, length, 0, TX);
    }
}

/// The largest packet that fits, with options before its ports.
#[test]
fn large_packets_and_options() {
    let world = world();
    for way in WAYS {
        for spec in [Spec::v4(Transport::Udp), Spec::v6(Transport::Udp)] {
            let mut frame = build(&way.spec(spec));
            let room = 1500 - way.overhead();
            grow(&mut frame, room);
            check(&world, way, &frame, room, 0, TX);
        }
        let mut frame = build(&way.spec(Spec::v4(Transport::Ack)));
        frame[14] = 0x48;
        frame.splice(34..34, [1; 12]);
        let length = frame.len() - 14;
        set_length(&mut frame[14..], length);
        check(&world, way, &frame, length, 0, TX);
    }
}

/// Clients are told apart by the outer header, and each has the same one for all its packets.
#[test]
fn clients_spread_over_outer_sources() {
    let world = world();
    for way in WAYS {
        for spec in [Spec::v4(Transport::Ack), Spec::v6(Transport::Ack)] {
            let mut sources = BTreeSet::new();
            let mut ports = BTreeSet::new();
            let mut labels = BTreeSet::new();
            for client in 0..256 {
                let spec = Spec {
                    from_port: 20_000 + client,
                    ..way.spec(spec.clone())
                };
                let frame = build(&spec);
                let length = frame.len() - 14;
                let first = check(&world, way, &frame, length, 0, TX);
                let again = build(&Spec {
                    transport: Transport::Fin,
                    ..spec
                });
                assert_eq!(check(&world, way, &again, length, 0, TX), first);
                sources.insert(first.source);
                ports.insert(first.port);
                labels.insert(first.label);
            }
            // Of 256 out of 16,384 by chance, two are equal with two in a set of 254.
            let spread = |count: usize, has: bool| assert_eq!(count > 240, has, "{count}");
            spread(sources.len(), true);
            spread(ports.len(), way.mode == Mode::Gue);
            spread(labels.len(), !way.is_ipv4);
        }
    }
}

fn refused(world: &World, frame: &[u8], verdict: Verdict) {
    let outcome = world.run(frame);
    assert_eq!((outcome.verdict, outcome.action), (verdict, DROP));
    assert_eq!(outcome.frame, frame, "unchanged");
}

/// Packets that say they are longer than they are, or shorter than their headers.
#[test]
fn lengths_that_are_wrong() {
    let world = world();
    for way in WAYS {
        for spec in [Spec::v4(Transport::Ack), Spec::v6(Transport::Ack)] {
            let frame = build(&way.spec(spec));
            // Flows have to be known: of new ones lengths are looked at before.
            assert_eq!(world.run(&frame).verdict, Verdict::Tunnel);
            let length = frame.len() - 14;
            let header = if is_ipv4(&frame[14..]) { 20 } else { 40 };
            for (stated, is_right) in [
                (length + 1, false),
                (65_535, false),
                (length, true),
                (header, true),
                (header - 1, false),
            ] {
                let mut frame = frame.clone();
                set_length(&mut frame[14..], stated);
                if is_right {
                    check(&world, way, &frame, stated, 0, TX);
                } else {
                    refused(&world, &frame, Verdict::BadLength);
                }
            }
        }
    }
}

/// Without a network for outer sources they would be any address.
#[test]
fn nothing_is_wrapped_without_a_network() {
    let mut world = world();
    world.control(Control::TUNNEL4, 0);
    for word in 0..4 {
        world.control(Control::TUNNEL6 + word, 0);
    }
    for way in WAYS {
        for spec in [Spec::v4(Transport::Ack), Spec::v6(Transport::Ack)] {
            let frame = build(&way.spec(spec));
            // The first packet of a flow, and one of a known flow, which goes another way.
            refused(&world, &frame, Verdict::BadBackend);
            refused(&world, &frame, Verdict::BadBackend);
        }
    }
}
