//! Packets that do not fit: what their senders are told, and when they are not.

use std::{
    net::IpAddr,
    thread::{available_parallelism, sleep},
    time::{Duration, Instant},
};

use etherparse::{
    Icmpv4Type, Icmpv6Type, NetSlice, SlicedPacket, TransportSlice, icmpv4::DestUnreachableHeader,
};
use steerd_ebpf::{abi::Mode, verdict::Verdict};

use super::{
    WAYS, Way, build, every_kind, grow, is_ipv4, l3, send, set_checksum, set_length, sum, world,
};
use crate::{
    modes,
    packets::{CLIENT, Spec, Transport, VIP, VIP6, ip},
    world::{CLIENT_MAC, DROP, INGRESS, OWN_MAC, Outcome, TX, World},
};

/// A packet of so many bytes.
fn sized(way: Way, spec: Spec, length: usize) -> Vec<u8> {
    let mut frame = build(&way.spec(spec));
    grow(&mut frame, length);
    frame
}

/// The message about a packet: some are not sent, as others were just now.
fn told(world: &World, frame: &[u8]) -> Vec<u8> {
    for _ in 0..1000 {
        let outcome = world.run(frame);
        if outcome.verdict == Verdict::TooBig {
            assert_eq!(outcome.action, TX);
            return outcome.frame;
        }
        not_told(outcome, frame);
        sleep(Duration::from_millis(2));
    }
    panic!("never told");
}

fn not_told(outcome: Outcome, frame: &[u8]) {
    assert_eq!(
        outcome,
        Outcome {
            verdict: Verdict::TooBigDropped,
            action: DROP,
            frame: frame.to_vec()
        }
    );
}

/// Checks a message: frame, addresses, checksums, MTU, and how much of the packet it quotes.
fn check(message: &[u8], frame: &[u8], mtu: u16, quote: usize) {
    let start = l3(frame);
    assert_eq!(message[..6], CLIENT_MAC);
    assert_eq!(message[6..12], OWN_MAC);
    assert_eq!(message[12..start], frame[12..start], "tags and type");
    let sliced = SlicedPacket::from_ethernet(message).unwrap();
    let (ip_header, (from, to)) = match sliced.net.unwrap() {
        NetSlice::Ipv4(ip) => {
            let header = ip.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            assert_eq!(header.time_to_live, 64);
            assert!(header.dont_fragment && header.options.is_empty());
            assert_eq!(usize::from(header.total_len), message.len() - start);
            let addresses = (header.source.into(), header.destination.into());
            (20, addresses)
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header().to_header();
            assert_eq!(header.hop_limit, 64);
            assert_eq!(
                usize::from(header.payload_length),
                message.len() - start - 40
            );
            let addresses = (header.source.into(), header.destination.into());
            (40, addresses)
        }
        NetSlice::Arp(_) => panic!("not IP"),
    };
    let packet = &frame[start..];
    assert_eq!((to, from), addresses(packet), "back to its sender");
    let icmp = &message[start + ip_header..];
    match sliced.transport.unwrap() {
        TransportSlice::Icmpv4(slice) => {
            assert_eq!(
                slice.icmp_type(),
                Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::FragmentationNeeded {
                    next_hop_mtu: mtu
                })
            );
            assert_eq!(sum(&[icmp]), 0xffff);
        }
        TransportSlice::Icmpv6(slice) => {
            let mtu = u32::from(mtu);
            assert_eq!(slice.icmp_type(), Icmpv6Type::PacketTooBig { mtu });
            let (IpAddr::V6(from), IpAddr::V6(to)) = (from, to) else {
                panic!("ICMPv6 over IPv4");
            };
            let rest = [0, 0, (icmp.len() >> 8) as u8, icmp.len() as u8, 0, 0, 0, 58];
            assert_eq!(sum(&[&from.octets(), &to.octets(), &rest, icmp]), 0xffff);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(icmp.len() - 8, quote);
    assert_eq!(icmp[8..], packet[..quote], "as it arrived");
}

/// Source and destination of a packet.
fn addresses(packet: &[u8]) -> (IpAddr, IpAddr) {
    if is_ipv4(packet) {
        let address = |at| IpAddr::from(<[u8; 4]>::try_from(&packet[at..at + 4]).unwrap());
        (address(12), address(16))
    } else {
        let address = |at| IpAddr::from(<[u8; 16]>::try_from(&packet[at..at + 16]).unwrap());
        (address(8), address(24))
    }
}

/// Modes without an outer header: what the way to the backend takes is all there is.
#[test]
fn senders_are_told_without_a_tunnel() {
    for (mode, sent) in [(Mode::Dsr, Verdict::Dsr), (Mode::Nat, Verdict::Nat)] {
        let world = modes::world(mode);
        for from_port in [0, 1] {
            for spec in every_kind() {
                let spec = Spec {
                    from_port: spec.from_port + from_port,
                    ..spec
                };
                let frame = |length| {
                    let mut frame = build(&spec);
                    grow(&mut frame, length);
                    frame
                };
                // Of a flow that is not known yet, and that is known by then.
                for length in [1501, 1500, 1502, 3000, 1500] {
                    let frame = frame(length);
                    if length <= 1500 {
                        assert_eq!(world.run(&frame).verdict, sent, "{spec:?}");
                        continue;
                    }
                    let quote = if spec.to.is_ipv4() { 548 } else { 1232 };
                    check(&told(&world, &frame), &frame, 1500, quote);
                }
                let last = Spec { ttl: 1, ..spec };
                let mut frame = build(&last);
                grow(&mut frame, 1501);
                assert_eq!(world.run(&frame).verdict, Verdict::TtlExpired);
            }
        }
    }
}

/// One byte more than fits, and far more; tags in and out make no difference.
#[test]
fn senders_are_told() {
    let mut world = world();
    for way in WAYS {
        for (mtu, vlan) in [(1500, 0), (1400, 9)] {
            send(&mut world, way, vlan, mtu, INGRESS);
            let room = usize::from(mtu) - way.overhead();
            for spec in every_kind() {
                let fits = sized(way, spec.clone(), room);
                assert_eq!(world.run(&fits).verdict, Verdict::Tunnel);
                for length in [room + 1, room + 2, room + 3, 1500, 3000] {
                    let frame = sized(way, spec.clone(), length);
                    let quote = if spec.to.is_ipv4() { 548 } else { 1232 };
                    check(&told(&world, &frame), &frame, room as u16, quote);
                }
            }
        }
    }
}

/// What is quoted of packets that are themselves small; and MTUs that no link may have are not
/// told of.
#[test]
fn small_mtus() {
    let mut world = world();
    for way in WAYS {
        let overhead = way.overhead() as u16;
        for (room, length, mtu, quote) in [
            (600, 601, 600, 548),
            (500, 548, 500, 548),
            (500, 547, 500, 128),
            (127, 128, 127, 128),
            (100, 127, 100, 28),
            (68, 69, 68, 28),
            (67, 68, 68, 28),
            (0, 600, 68, 548),
        ] {
            send(&mut world, way, 0, room + overhead, INGRESS);
            let frame = sized(way, Spec::v4(Transport::Udp), length);
            check(&told(&world, &frame), &frame, mtu, quote);
        }
        for (room, length, mtu, quote) in [
            (1300, 1301, 1300, 1232),
            (1280, 1281, 1280, 1232),
            (1279, 1280, 1280, 1232),
            (1200, 1232, 1280, 1232),
            (1200, 1231, 1280, 512),
            (400, 511, 1280, 48),
        ] {
            send(&mut world, way, 0, room + overhead, INGRESS);
            let frame = sized(way, Spec::v6(Transport::Udp), length);
            check(&told(&world, &frame), &frame, mtu, quote);
        }
        // Not even the outer header fits.
        send(&mut world, way, 0, 1, INGRESS);
        let frame = sized(way, Spec::v4(Transport::Udp), 600);
        check(&told(&world, &frame), &frame, 68, 548);
    }
}

/// A message must have the ports, or its receiver does not know whose it is.
#[test]
fn ports_are_quoted_behind_options() {
    let mut world = world();
    let way = WAYS[0];
    send(&mut world, way, 0, 80, INGRESS);
    for words in [0, 1, 10] {
        for (length, quote) in [(600, 548), (200, 128), (100, 28)] {
            let mut frame = sized(way, Spec::v4(Transport::Udp), length - 4 * words);
            frame[14] = 0x45 + words as u8;
            frame.splice(34..34, vec![1; 4 * words]);
            set_length(&mut frame[14..], length);
            if quote < 28 + 4 * words {
                not_told(world.run(&frame), &frame);
            } else {
                check(&told(&world, &frame), &frame, 68, quote);
            }
        }
    }
}

/// IPv4 packets that may be fragmented would have to be.
#[test]
fn packets_that_may_be_fragmented_are_dropped() {
    let world = world();
    for way in WAYS {
        let mut frame = sized(way, Spec::v4(Transport::Ack), 1500);
        frame[20] &= !0x40;
        set_checksum(&mut frame[14..]);
        for _ in 0..20 {
            not_told(world.run(&frame), &frame);
        }
    }
}

/// RFC 1122 3.2.2, RFC 4443 2.4 (e): a message to such a source would be for nobody, or for many.
#[test]
fn sources_that_are_no_host_are_not_told() {
    let world = world();
    let way = WAYS[0];
    for (from, is_told) in [
        ("0.0.0.0", false),
        ("127.0.0.1", false),
        ("224.0.0.1", false),
        ("255.255.255.255", false),
        ("223.255.255.1", true),
        (CLIENT, true),
        ("::", false),
        ("ff02::1", false),
        ("fe80::1", true),
    ] {
        let spec = if ip(from).is_ipv4() {
            Spec::v4(Transport::Ack)
        } else {
            Spec::v6(Transport::Ack)
        };
        let from = ip(from);
        let frame = sized(way, Spec { from, ..spec }, 1500);
        if is_told {
            told(&world, &frame);
        } else {
            for _ in 0..20 {
                not_told(world.run(&frame), &frame);
            }
        }
    }
}

/// Four messages a jiffy and CPU: whoever sends a flood of packets that do not fit gets no flood of
/// messages, nor does he whose address it claims to have.
#[test]
fn messages_are_limited() {
    const A_JIFFY: u128 = 4;
    let mut world = world();
    let way = WAYS[0];
    send(&mut world, way, 0, 100, INGRESS);
    for spec in [Spec::v4(Transport::Ack), Spec::v6(Transport::Ack)] {
        let frame = sized(way, spec, 1300);
        let packets = 2000;
        let start = Instant::now();
        let mut count = 0;
        for _ in 0..packets {
            let outcome = world.run(&frame);
            match outcome.verdict {
                Verdict::TooBig => count += 1,
                _ => not_told(outcome, &frame),
            }
        }
        // At 1,000 jiffies a second, the most that Linux has.
        let jiffies = start.elapsed().as_millis() + 2;
        let cpus = available_parallelism().unwrap().get() as u128;
        assert!(count >= A_JIFFY, "{count}");
        assert!(count <= A_JIFFY * jiffies * cpus, "{count} in {jiffies}");
        assert!(count < packets, "all were sent in {jiffies} jiffies");
    }
}

/// The addresses that messages come from have to be those that were asked.
#[test]
fn messages_come_from_the_virtual_address() {
    let world = world();
    for (spec, vip) in [
        (Spec::v4(Transport::Ack), VIP),
        (Spec::v6(Transport::Ack), VIP6),
    ] {
        let frame = sized(WAYS[3], spec, 1500);
        let message = told(&world, &frame);
        assert_eq!(addresses(&message[14..]).0, ip(vip));
    }
}

/// Of a backend whose way was lost the entry has no MTU any more, while the ring still names it: that is
/// no MTU to tell anybody.
#[test]
fn a_lost_way_is_not_taken_for_a_narrow_one() {
    for way in WAYS {
        let mut world = world();
        send(&mut world, way, 0, 0, INGRESS);
        for spec in [Spec::v4(Transport::Syn), Spec::v6(Transport::Ack)] {
            let outcome = world.run(&build(&way.spec(spec)));
            assert_eq!(
                (outcome.verdict, outcome.action),
                (Verdict::BadBackend, DROP),
                "{way:?}"
            );
        }
    }
}
