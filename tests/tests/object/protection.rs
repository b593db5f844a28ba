//! What may not come in, and what is changed in what comes in.

use etherparse::{SlicedPacket, TcpOptionElement, TransportSlice};
use steerd_ebpf::{
    abi::{Affinity, Mode, Policy, Scheduler, SourceRule, maps},
    event::Event,
    verdict::Verdict,
};

use crate::{
    packets::{CLIENT, CLIENT6, PORT, Spec, Transport, VIP, VIP6, ip},
    world::{DROP, INGRESS, Outcome, PASS, World},
};

/// Services 1 to 4: TCP and UDP, IPv4 and IPv6.
fn world(policy: Policy) -> World {
    let mut world = World::new();
    world.backend(1, Mode::Dsr, true, 1, INGRESS);
    for (id, vip, protocol) in [(1, VIP, 6), (2, VIP, 17), (3, VIP6, 6), (4, VIP6, 17)] {
        world.service_with(id, ip(vip), PORT, protocol, &[1], policy);
    }
    world
}

fn policy(mss: u16, sources: bool, limited: bool) -> Policy {
    let affinity = Affinity {
        prefix: 128,
        port: true,
    };
    Policy::new(Scheduler::Hash, affinity, mss, sources, limited, false)
}

fn every() -> Vec<Spec> {
    let mut specs = Vec::new();
    for vlans in [vec![], vec![7], vec![100, 7]] {
        for transport in [Transport::Syn, Transport::Udp] {
            for spec in [Spec::v4(transport), Spec::v6(transport)] {
                specs.push(Spec {
                    vlans: vlans.clone(),
                    from_port: 50_000 + vlans.len() as u16,
                    ..spec
                });
            }
        }
    }
    specs
}

fn refused(world: &World, frame: &[u8], verdict: Verdict) {
    let expected = Outcome {
        verdict,
        action: DROP,
        frame: frame.to_vec(),
    };
    assert_eq!(world.run(frame), expected);
}

#[test]
fn from_its_own_destination() {
    let world = world(Policy::default());
    for spec in every() {
        let land = Spec {
            from: spec.to,
            from_port: spec.to_port,
            ..spec
        };
        refused(&world, &land.build(), Verdict::Land);
    }
}

#[test]
fn from_port_zero() {
    let world = world(Policy::default());
    for spec in every() {
        let zero = Spec {
            from_port: 0,
            ..spec
        };
        refused(&world, &zero.build(), Verdict::ZeroPort);
    }
}

/// The network header's length: shorter than its headers, longer than the packet; then the same of
/// the transport header's.
#[test]
fn lengths_that_lie() {
    let world = world(Policy::default());
    for spec in every() {
        let whole = spec.build();
        let l3 = 14 + 4 * spec.vlans.len();
        let (at, headers, l4) = if spec.to.is_ipv4() {
            (l3 + 2, 20, l3 + 20)
        } else {
            (l3 + 4, 0, l3 + 40)
        };
        let transport = if spec.transport == Transport::Udp {
            8
        } else {
            20
        };
        for length in [
            0,
            1,
            headers,
            headers + transport - 1,
            headers + transport + 6,
            65_535,
        ] {
            let mut frame = whole.clone();
            frame[at..at + 2].copy_from_slice(&(length as u16).to_be_bytes());
            refused(&world, &frame, Verdict::BadLength);
        }
        if spec.transport == Transport::Udp {
            for length in [0_u16, 7, 14, 65_535] {
                let mut frame = whole.clone();
                frame[l4 + 4..l4 + 6].copy_from_slice(&length.to_be_bytes());
                refused(&world, &frame, Verdict::BadLength);
            }
        } else {
            for words in 0..5 {
                let mut frame = whole.clone();
                frame[l4 + 12] = words << 4;
                // The stack drops it.
                let outcome = world.run(&frame);
                assert_eq!(
                    (outcome.verdict, outcome.action),
                    (Verdict::BadHeader, PASS)
                );
            }
            let mut frame = whole.clone();
            frame[l4 + 12] = 0xf0;
            refused(&world, &frame, Verdict::BadLength);
        }
        // Ethernet's padding is no lie.
        let mut padded = whole.clone();
        padded.resize(whole.len() + 13, 0);
        assert_eq!(world.run(&padded).verdict, Verdict::Dsr);
    }
}

/// Only who opens a flow is asked.
#[test]
fn networks_allowed_and_denied() {
    let mut world = world(policy(0, true, false));
    let before = Spec {
        from: ip("192.168.1.77"),
        ..Spec::v4(Transport::Syn)
    };
    assert_eq!(world.run(&before.build()).verdict, Verdict::Dsr);
    for service in 1..5 {
        world.source(service, ip("192.168.1.0"), 24, SourceRule::Deny);
        world.source(service, ip(CLIENT), 32, SourceRule::Allow);
        world.source(service, ip("fd00:1::"), 64, SourceRule::Deny);
        world.source(service, ip(CLIENT6), 128, SourceRule::Allow);
    }
    for spec in every() {
        assert_eq!(world.run(&spec.build()).verdict, Verdict::Dsr);
        let (neighbour, stranger) = if spec.to.is_ipv4() {
            ("192.168.1.11", "10.9.9.9")
        } else {
            ("fd00:1::11", "2001:db8::1")
        };
        let from = |from| Spec {
            from: ip(from),
            ..spec.clone()
        };
        refused(&world, &from(neighbour).build(), Verdict::Denied);
        assert_eq!(world.run(&from(stranger).build()).verdict, Verdict::Dsr);
    }
    let known = Spec {
        transport: Transport::Ack,
        ..before
    };
    assert_eq!(world.run(&known.build()).verdict, Verdict::Dsr);
    // The networks of one service are not another's.
    world.source(1, ip("10.0.0.0"), 8, SourceRule::Deny);
    let from = |transport| Spec {
        from: ip("10.9.9.9"),
        from_port: 60_000,
        ..Spec::v4(transport)
    };
    refused(&world, &from(Transport::Syn).build(), Verdict::Denied);
    assert_eq!(
        world.run(&from(Transport::Udp).build()).verdict,
        Verdict::Dsr
    );
}

/// A bucket of three that does not fill: three flows come in, whose packets are then not counted.
#[test]
fn new_flows_are_limited() {
    let mut world = world(policy(0, false, true));
    for service in 1..5 {
        world.set(maps::SYN_LIMITS, service, [0, 3 << 16, 3 << 16, 0]);
    }
    for spec in [
        Spec::v4(Transport::Syn),
        Spec::v4(Transport::Udp),
        Spec::v6(Transport::Syn),
        Spec::v6(Transport::Udp),
    ] {
        for n in 0..3 {
            for _ in 0..5 {
                let spec = Spec {
                    from_port: 40_000 + n,
                    ..spec.clone()
                };
                assert_eq!(world.run(&spec.build()).verdict, Verdict::Dsr);
            }
        }
        let fourth = Spec {
            from_port: 40_003,
            ..spec
        };
        refused(&world, &fourth.build(), Verdict::Limited);
    }
}

/// The options of a TCP header: bytes, a multiple of four.
fn with_options(spec: &Spec, options: &[u8]) -> Vec<u8> {
    let frame = spec.with_payload(&[options, b"hello"].concat());
    let l4 = 14 + 4 * spec.vlans.len() + if spec.to.is_ipv4() { 20 } else { 40 };
    let mut frame = frame;
    frame[l4 + 12] = ((20 + options.len() as u8) / 4) << 4;
    set_checksum(&mut frame);
    frame
}

/// Sets a TCP packet's checksum right.
fn set_checksum(frame: &mut [u8]) {
    let (at, checksum) = {
        let packet = SlicedPacket::from_ethernet(frame).unwrap();
        let Some(TransportSlice::Tcp(tcp)) = &packet.transport else {
            panic!("not TCP");
        };
        let at = tcp.slice().as_ptr() as usize - frame.as_ptr() as usize;
        (at + 16, computed(&packet))
    };
    frame[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
}

fn computed(packet: &SlicedPacket<'_>) -> u16 {
    use etherparse::NetSlice;
    let Some(TransportSlice::Tcp(tcp)) = &packet.transport else {
        panic!("not TCP");
    };
    match packet.net.as_ref().unwrap() {
        NetSlice::Ipv4(ip) => tcp
            .to_header()
            .calc_checksum_ipv4(&ip.header().to_header(), tcp.payload())
            .unwrap(),
        NetSlice::Ipv6(ip) => tcp
            .to_header()
            .calc_checksum_ipv6(&ip.header().to_header(), tcp.payload())
            .unwrap(),
        NetSlice::Arp(_) => panic!("not IP"),
    }
}

fn mss_of(frame: &[u8]) -> Option<u16> {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(TransportSlice::Tcp(tcp)) = &packet.transport else {
        panic!("not TCP");
    };
    assert_eq!(tcp.checksum(), computed(&packet), "checksum");
    tcp.options_iterator().find_map(|option| match option {
        Ok(TcpOptionElement::MaximumSegmentSize(mss)) => Some(mss),
        _ => None,
    })
}

#[test]
fn the_mss_of_a_syn_is_lowered() {
    const MSS: [u8; 4] = [2, 4, 5, 0xb4];
    let world = world(policy(1400, false, false));
    let cases: [(&[u8], Option<u16>, Option<u16>); 7] = [
        (&MSS, Some(1460), Some(1400)),
        (&[2, 4, 5, 0x78], Some(1400), Some(1400)),
        (&[2, 4, 2, 0], Some(512), Some(512)),
        (&[], None, None),
        // At an odd offset.
        (&[1, 2, 4, 5, 0xb4, 1, 1, 0], Some(1460), Some(1400)),
        (&[4, 2, 1, 2, 4, 5, 0xb4, 0], Some(1460), Some(1400)),
        // Behind the end of the options.
        (&[0, 0, 0, 0, 2, 4, 5, 0xb4], None, None),
    ];
    let mut clamped = 0;
    for spec in every()
        .into_iter()
        .filter(|spec| spec.transport == Transport::Syn)
    {
        for (n, (options, before, after)) in cases.into_iter().enumerate() {
            let spec = Spec {
                from_port: 40_000 + n as u16,
                ..spec.clone()
            };
            let frame = with_options(&spec, options);
            assert_eq!(mss_of(&frame), before);
            let outcome = world.run(&frame);
            assert_eq!(outcome.verdict, Verdict::Dsr);
            assert_eq!(mss_of(&outcome.frame), after, "{options:?}");
            clamped += u64::from(before != after);
            // No SYN, no change; and a SYN sent again is changed again.
            let ack = Spec {
                transport: Transport::Ack,
                ..spec.clone()
            };
            assert_eq!(
                mss_of(&world.run(&with_options(&ack, options)).frame),
                before
            );
        }
    }
    assert_eq!(world.events(Event::MssClamped), clamped);
}

/// Options that a router may use to choose another way are dropped, others steered.
#[test]
fn ipv4_options() {
    let world = world(Policy::default());
    let with = |options: &[u8]| {
        let mut frame = Spec::v4(Transport::Syn).build();
        frame[14] = 0x45 + options.len() as u8 / 4;
        frame.splice(34..34, options.iter().copied());
        let length = u16::from_be_bytes([frame[16], frame[17]]) + options.len() as u16;
        frame[16..18].copy_from_slice(&length.to_be_bytes());
        frame
    };
    for kind in [131, 137] {
        refused(
            &world,
            &with(&[kind, 7, 4, 10, 0, 0, 9, 0]),
            Verdict::SourceRoute,
        );
        refused(&world, &with(&[1, kind, 3, 4]), Verdict::SourceRoute);
    }
    // Record route, timestamp, router alert; and what stands behind the end is no option.
    let others: [&[u8]; 4] = [
        &[7, 7, 4, 0, 0, 0, 0, 0],
        &[68, 8, 5, 0, 0, 0, 0, 0],
        &[148, 4, 0, 0],
        &[0, 131, 3, 4],
    ];
    for options in others {
        assert_eq!(world.run(&with(options)).verdict, Verdict::Dsr);
    }
    assert_eq!(world.events(Event::Ipv4Options), 4);
    for options in [&[7, 0, 0, 0], &[7, 1, 0, 0], &[7, 5, 0, 0]] {
        assert_eq!(world.run(&with(options)).verdict, Verdict::BadHeader);
    }
}

#[test]
fn ipv6_extension_headers() {
    let world = world(Policy::default());
    let mut sent = 0;
    for transport in [Transport::Syn, Transport::Udp] {
        let plain = Spec::v6(transport).build();
        // The headers, each: its number, what it says, and what becomes of the packet.
        let with = |chain: &[(u8, &[u8])]| {
            let mut frame = plain.clone();
            let last = frame[20];
            let mut headers = Vec::new();
            for (n, (_, body)) in chain.iter().enumerate() {
                headers.push(chain.get(n + 1).map_or(last, |next| next.0));
                headers.extend(*body);
            }
            frame[20] = chain[0].0;
            let length = u16::from_be_bytes([frame[18], frame[19]]) + headers.len() as u16;
            frame[18..20].copy_from_slice(&length.to_be_bytes());
            frame.splice(54..54, headers);
            frame
        };
        let pad: &[u8] = &[0, 1, 4, 0, 0, 0, 0];
        let long: &[u8] = &[1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let atomic: &[u8] = &[0, 0, 0, 9, 9, 9, 9];
        let authentication: &[u8] = &[
            4, 0, 0, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        ];
        let arrived: &[u8] = &[
            2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        ];
        let under_way: &[u8] = &[
            2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        ];
        let good: [&[(u8, &[u8])]; 6] = [
            &[(0, pad)],
            &[(60, long)],
            &[(0, pad), (60, pad), (43, arrived), (44, atomic), (60, long)],
            &[(44, atomic)],
            &[(51, authentication)],
            &[(0, pad), (0, pad), (0, pad), (0, pad), (0, pad), (0, pad)],
        ];
        for chain in good {
            let frame = with(chain);
            let outcome = world.run(&frame);
            assert_eq!(outcome.verdict, Verdict::Dsr, "{chain:?}");
            assert_eq!(outcome.frame[54..], frame[54..]);
            sent += 1;
        }
        refused(&world, &with(&[(43, under_way)]), Verdict::SourceRoute);
        refused(
            &world,
            &with(&[(0, pad), (43, under_way)]),
            Verdict::SourceRoute,
        );
        assert_eq!(
            world.run(&with(&[(0, pad); 7])).verdict,
            Verdict::ExtensionHeader
        );
        assert_eq!(
            world.run(&with(&[(0, pad), (135, pad)])).verdict,
            Verdict::ExtensionHeader
        );
        // A payload of length 0 with hop-by-hop options is a jumbogram (RFC 2675).
        let mut jumbo = with(&[(0, &[0, 0xc2, 4, 0, 1, 0, 0])]);
        jumbo[18..20].copy_from_slice(&[0, 0]);
        refused(&world, &jumbo, Verdict::Jumbogram);
    }
    assert_eq!(world.events(Event::Ipv6Extensions), sent);
}
