//! Each verdict on a packet that deserves it, and what it does to the packet.

use etherparse::{NetSlice, SlicedPacket};
use steerd_ebpf::{
    abi::{Backend, BackendState, Counter, Mode, mac_word, maps},
    shared::Shared,
    verdict::Verdict,
};

use crate::{
    packets::{CLIENT, PORT, Spec, Transport, VIP, VIP6, ip},
    raw::{Raw, UDP, segment},
    world::{
        BACKEND_MAC, CLIENT_MAC, DROP, INGRESS, OWN_MAC, Outcome, PASS, PEER_MAC, REDIRECT, TX,
        World,
    },
};

const LOCAL: u32 = 1;
const DSR: u32 = 2;
const ELSEWHERE: u32 = 3;

/// Services on five ports: to this host, to a server on the segment, to one behind another
/// interface, to nobody, and to a backend that is not there.
fn world() -> World {
    let mut world = World::new();
    world.backend(LOCAL, Mode::Local, true, 1, 0);
    world.backend(DSR, Mode::Dsr, true, 1, INGRESS);
    world.backend(ELSEWHERE, Mode::Dsr, true, 1, crate::world::ELSEWHERE);
    let rings: [(u16, &[u16]); 5] = [
        (0, &[LOCAL as u16]),
        (1, &[DSR as u16]),
        (2, &[ELSEWHERE as u16]),
        (3, &[]),
        (4, &[999]),
    ];
    let mut id = 0;
    for (offset, ring) in rings {
        for (vip, protocol) in [(VIP, 6), (VIP, 17), (VIP6, 6), (VIP6, 17)] {
            id += 1;
            world.service(id, ip(vip), PORT + offset, protocol, ring);
        }
    }
    world
}

fn every_kind() -> Vec<Spec> {
    let transports = [
        Transport::Udp,
        Transport::Syn,
        Transport::Ack,
        Transport::Fin,
        Transport::Rst,
    ];
    let mut specs = Vec::new();
    for (n, transport) in transports.into_iter().enumerate() {
        for (m, vlans) in [vec![], vec![7], vec![100, 7]].into_iter().enumerate() {
            for spec in [Spec::v4(transport), Spec::v6(transport)] {
                let from_port = 50_000 + (n * 3 + m) as u16;
                specs.push(Spec {
                    vlans: vlans.clone(),
                    from_port,
                    ..spec
                });
            }
        }
    }
    specs
}

fn passed(world: &World, frame: &[u8], verdict: Verdict) {
    let outcome = world.run(frame);
    assert_eq!(
        outcome,
        Outcome {
            verdict,
            action: PASS,
            frame: frame.to_vec()
        }
    );
}

#[test]
fn local_traffic_passes_untouched() {
    let world = world();
    for spec in every_kind() {
        passed(&world, &spec.build(), Verdict::Local);
    }
}

/// New MACs, the VLAN tag of the way out, one hop less, a right checksum, and not one other byte.
#[test]
fn dsr_changes_macs_tags_and_hops_only() {
    let mut world = world();
    // No tag, that of the frames that have one, another one, the highest.
    for vlan in [0, 7, 8, 4094] {
        for (id, offset, action) in [(DSR, 1, TX), (ELSEWHERE, 2, REDIRECT)] {
            let ifindex = match action {
                TX => INGRESS,
                _ => crate::world::ELSEWHERE,
            };
            let state = BackendState {
                mac: mac_word(BACKEND_MAC),
                generation: 1,
                mode: Mode::Dsr,
                alive: true,
            };
            world.backend_with(
                id,
                &Backend {
                    state: Shared::new(state.pack()),
                    source: Shared::new(Backend::source_word(mac_word(OWN_MAC), vlan)),
                    ifindex,
                    mtu: 1500,
                    ..Backend::default()
                },
            );
            for spec in every_kind() {
                let spec = Spec {
                    to_port: PORT + offset,
                    ..spec
                };
                let outcome = world.run(&prioritized(&spec));
                assert_eq!(
                    (outcome.verdict, outcome.action),
                    (Verdict::Dsr, action),
                    "{spec:?} to {vlan}"
                );
                check_hop(&outcome.frame, spec.ttl - 1);
                let mut vlans = spec.vlans.clone();
                let had_tag = vlans.pop().is_some();
                if vlan != 0 {
                    vlans.push(vlan);
                }
                let expected = Spec {
                    ttl: 63,
                    source_mac: OWN_MAC,
                    destination_mac: BACKEND_MAC,
                    vlans,
                    ..spec
                };
                let mut frame = expected.build();
                match (had_tag, vlan, expected.vlans.len()) {
                    // Its priority stays.
                    (true, 1.., tags) => frame[10 + 4 * tags] |= PRIORITY,
                    // Only an outer tag is left: what it says it is stays.
                    (true, 0, 1) => frame[12..14].copy_from_slice(&[0x88, 0xa8]),
                    _ => {}
                }
                assert_eq!(outcome.frame, frame, "{expected:?}");
            }
        }
    }
}

/// Priority 5, drop eligible (IEEE 802.1Q 9.6).
const PRIORITY: u8 = 0xb0;

/// The frame, whose inner tag has a priority.
fn prioritized(spec: &Spec) -> Vec<u8> {
    let mut frame = spec.build();
    if !spec.vlans.is_empty() {
        frame[10 + 4 * spec.vlans.len()] |= PRIORITY;
    }
    frame
}

/// The hop count and, for IPv4, the header's checksum.
fn check_hop(frame: &[u8], hops: u8) {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    match packet.net.unwrap() {
        NetSlice::Ipv4(slice) => {
            let header = slice.header().to_header();
            assert_eq!(header.time_to_live, hops);
            assert_eq!(header.header_checksum, header.calc_header_checksum());
        }
        NetSlice::Ipv6(slice) => assert_eq!(slice.header().hop_limit(), hops),
        NetSlice::Arp(_) => panic!("not IP"),
    }
}

#[test]
fn the_last_hop_is_dropped() {
    let world = world();
    for ttl in [0, 1] {
        for spec in [Spec::v4(Transport::Ack), Spec::v6(Transport::Ack)] {
            let frame = Spec {
                ttl,
                to_port: PORT + 1,
                ..spec
            }
            .build();
            let outcome = world.run(&frame);
            assert_eq!(
                outcome,
                Outcome {
                    verdict: Verdict::TtlExpired,
                    action: DROP,
                    frame: frame.clone()
                }
            );
        }
    }
    let spec = Spec {
        ttl: 2,
        to_port: PORT + 1,
        ..Spec::v4(Transport::Ack)
    };
    assert_eq!(world.run(&spec.build()).verdict, Verdict::Dsr);
}

#[test]
fn what_is_no_service_passes_untouched() {
    let world = world();
    for spec in every_kind() {
        passed(
            &world,
            &Spec {
                to_port: 22,
                ..spec.clone()
            }
            .build(),
            Verdict::NoService,
        );
        let other = if spec.to.is_ipv4() {
            ip("192.168.1.24")
        } else {
            ip("fd00:1::24")
        };
        passed(&world, &Spec { to: other, ..spec }.build(), Verdict::NotVip);
    }
}

/// No service can be there: the stack refuses it as any other port that nobody listens on.
#[test]
fn to_port_zero_is_no_service() {
    let world = world();
    for spec in every_kind() {
        let zero = Spec { to_port: 0, ..spec };
        passed(&world, &zero.build(), Verdict::NoService);
    }
}

#[test]
fn a_frame_to_another_host_passes() {
    let world = world();
    let spec = Spec {
        destination_mac: [2, 9, 9, 9, 9, 9],
        ..Spec::v4(Transport::Ack)
    };
    passed(
        &world,
        &Spec {
            to_port: PORT + 1,
            ..spec
        }
        .build(),
        Verdict::OtherHost,
    );
}

/// What a peer steered here is for this host, whatever this host's own ring says.
#[test]
fn a_frame_from_a_peer_is_delivered() {
    let world = world();
    for spec in [Spec::v4(Transport::Ack), Spec::v6(Transport::Udp)] {
        let spec = Spec {
            source_mac: PEER_MAC,
            to_port: PORT + 1,
            ..spec
        };
        passed(&world, &spec.build(), Verdict::Delivered);
    }
}

#[test]
fn without_a_backend_the_host_answers() {
    let world = world();
    passed(
        &world,
        &Spec {
            to_port: PORT + 3,
            ..Spec::v4(Transport::Syn)
        }
        .build(),
        Verdict::NoBackend,
    );
    passed(
        &world,
        &Spec {
            to_port: PORT + 3,
            ..Spec::v6(Transport::Udp)
        }
        .build(),
        Verdict::NoBackend,
    );
}

#[test]
fn a_ring_that_names_nobody_drops() {
    let frame = Spec {
        to_port: PORT + 4,
        ..Spec::v4(Transport::Syn)
    }
    .build();
    let outcome = world().run(&frame);
    assert_eq!(
        (outcome.verdict, outcome.action),
        (Verdict::BadBackend, DROP)
    );
}

#[test]
fn ipv4_options_are_skipped() {
    let world = world();
    let plain = Spec {
        to_port: PORT + 1,
        ..Spec::v4(Transport::Ack)
    }
    .build();
    for words in 1..=10_u8 {
        let mut frame = plain.clone();
        frame[14] = 0x45 + words;
        // No-operation options (RFC 791 3.1).
        let options = vec![1; usize::from(words) * 4];
        frame.splice(34..34, options);
        let length = u16::from_be_bytes([frame[16], frame[17]]) + u16::from(words) * 4;
        frame[16..18].copy_from_slice(&length.to_be_bytes());
        let outcome = world.run(&frame);
        assert_eq!(outcome.verdict, Verdict::Dsr, "{words} words of options");
        assert_eq!(outcome.frame[34..], frame[34..]);
    }
}

#[test]
fn other_protocols_pass() {
    let world = world();
    let mut arp = Spec::v4(Transport::Ack).build();
    arp[12..14].copy_from_slice(&[8, 6]);
    passed(&world, &arp, Verdict::NotIp);
    let mut tagged = Spec {
        vlans: vec![7],
        ..Spec::v4(Transport::Ack)
    }
    .build();
    tagged[16..18].copy_from_slice(&[8, 6]);
    passed(&world, &tagged, Verdict::NotIp);
    let mut icmp = Spec::v4(Transport::Ack).build();
    icmp[23] = 1;
    passed(&world, &icmp, Verdict::NoService);
    let mut icmp6 = Spec::v6(Transport::Ack).build();
    icmp6[20] = 58;
    passed(&world, &icmp6, Verdict::NoService);
}

/// Headers whose meaning is not known may say anything about the packet: the stack decides.
#[test]
fn unknown_extension_headers_pass() {
    let world = world();
    let mut frame = Spec::v6(Transport::Ack).build();
    for next in [135, 139, 140, 253, 254] {
        frame[20] = next;
        passed(&world, &frame, Verdict::ExtensionHeader);
    }
}

#[test]
fn services_and_backends_are_counted() {
    let world = world();
    let frame = Spec {
        to_port: PORT + 1,
        ..Spec::v4(Transport::Syn)
    }
    .build();
    for _ in 0..3 {
        world.run(&frame);
    }
    world.run(&Spec::v4(Transport::Syn).build());
    let counter = Counter {
        packets: 3,
        bytes: 3 * frame.len() as u64,
    };
    assert_eq!(world.counter(maps::SERVICE_STATS, 5), counter);
    assert_eq!(world.counter(maps::BACKEND_STATS, DSR), counter);
    assert_eq!(world.counter(maps::BACKEND_STATS, LOCAL).packets, 1);
}

/// Where the test run puts what a page does not hold into other buffers, which programs cannot read
/// directly: `World::run` compares the bytes counted with the frame's.
#[test]
fn a_frame_of_several_buffers_is_steered_and_counted_as_a_whole() {
    let mut world = world();
    let state = BackendState {
        mac: mac_word(BACKEND_MAC),
        generation: 1,
        mode: Mode::Dsr,
        alive: true,
    };
    world.backend_with(DSR, &World::reached(state, INGRESS, 9000));
    for vip in [VIP, VIP6].map(ip) {
        let client = ip(if vip.is_ipv4() { CLIENT } else { "fd00:1::10" });
        for length in [1400, 1472, 1473, 3000, 4000, 8952] {
            let datagram = segment(UDP, (client, 40_000), (vip, PORT + 1), &vec![7; length]);
            let frame = Raw::new(client, vip, UDP).frame(&datagram);
            let outcome = world.run(&frame);
            assert_eq!(outcome.verdict, Verdict::Dsr, "{length}");
            assert!(outcome.frame.ends_with(&[7; 1400]), "{length}");
        }
    }
}

#[test]
fn client_mac_is_no_peer() {
    let world = world();
    let spec = Spec {
        source_mac: CLIENT_MAC,
        ..Spec::v4(Transport::Ack)
    };
    assert_eq!(world.run(&spec.build()).verdict, Verdict::Local);
}
