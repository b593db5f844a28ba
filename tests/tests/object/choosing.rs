//! Which backend a new flow gets: by hash, in turn, by load, by QUIC connection id.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use proptest::prelude::*;
use steerd_ebpf::{
    abi::{Affinity, BackendState, Mode, Policy, Scheduler, Service, mac_word, maps},
    event::Event,
    flow::State,
    hash,
    verdict::Verdict,
};

use crate::{
    packets::{PORT, Spec, Transport, VIP, VIP6, ip},
    world::{BACKEND_MAC, INGRESS, World, words},
};

const FIVE_TUPLE: Affinity = Affinity {
    prefix: 128,
    port: true,
};

fn policy(scheduler: Scheduler, affinity: Affinity) -> Policy {
    Policy::new(scheduler, affinity, 0, false, false, false)
}

/// Services 1 and 2, IPv4 and IPv6, whose ring these backends are.
fn world(ring: &[u16], policy: Policy, protocol: u8) -> World {
    let mut world = World::new();
    for &id in ring.iter().collect::<BTreeSet<_>>() {
        world.backend(id.into(), Mode::Dsr, true, 1, INGRESS);
    }
    world.service_with(1, ip(VIP), PORT, protocol, ring, policy);
    world.service_with(2, ip(VIP6), PORT, protocol, ring, policy);
    world
}

/// The backend that a packet's flow has, as the flow table says.
fn chosen(world: &World, spec: &Spec) -> u16 {
    assert_eq!(world.run(&spec.build()).verdict, Verdict::Dsr);
    recorded(world, spec)
}

fn recorded(world: &World, spec: &Spec) -> u16 {
    let service = if spec.to.is_ipv4() { 1 } else { 2 };
    world
        .flow(spec.from, spec.from_port, service)
        .expect("recorded")
        .backend
}

fn numbered(from: IpAddr, n: u16) -> IpAddr {
    let [high, low] = n.to_be_bytes();
    match from {
        IpAddr::V4(address) => {
            let [a, b, ..] = address.octets();
            IpAddr::from([a, b, high, low])
        }
        IpAddr::V6(address) => {
            let mut octets = address.octets();
            octets[14..].copy_from_slice(&[high, low]);
            IpAddr::from(octets)
        }
    }
}

fn both(transport: Transport) -> [Spec; 2] {
    [Spec::v4(transport), Spec::v6(transport)]
}

const RING: [u16; 8] = [1, 2, 3, 4, 5, 6, 7, 8];

/// The slot is the one that every node computes: a flow that another node opened stays.
#[test]
fn the_hash_picks_the_slot() {
    let world = world(&RING, Policy::default(), 6);
    let mut seen = BTreeSet::new();
    for spec in both(Transport::Syn) {
        let salt = hash::salt(words(spec.to), Service::key(PORT.to_be(), 6));
        for from_port in 40_000..40_100_u16 {
            let spec = Spec {
                from_port,
                ..spec.clone()
            };
            let hash = hash::ring(words(spec.from), from_port.to_be(), salt, FIVE_TUPLE);
            let backend = chosen(&world, &spec);
            assert_eq!(backend, RING[hash::reduce(hash, 8) as usize]);
            seen.insert(backend);
        }
    }
    assert_eq!(seen.len(), RING.len(), "all take part");
}

#[test]
fn all_ports_of_a_source_go_to_one_backend() {
    let source = |prefix| Affinity {
        prefix,
        port: false,
    };
    let world = world(&RING, policy(Scheduler::Hash, source(128)), 6);
    let mut seen = BTreeSet::new();
    for spec in both(Transport::Syn) {
        for n in 0..50 {
            let from = numbered(spec.from, 0x900 + n);
            let backends: BTreeSet<u16> = (40_000..40_005)
                .map(|from_port| Spec {
                    from,
                    from_port,
                    ..spec.clone()
                })
                .map(|spec| chosen(&world, &spec))
                .collect();
            assert_eq!(backends.len(), 1);
            seen.extend(backends);
        }
    }
    assert_eq!(seen.len(), RING.len(), "sources spread");
}

#[test]
fn all_sources_of_a_network_go_to_one_backend() {
    for (spec, prefix) in [
        (Spec::v4(Transport::Syn), 96 + 24),
        (Spec::v6(Transport::Syn), 120),
    ] {
        let affinity = Affinity {
            prefix,
            port: false,
        };
        let world = world(&RING, policy(Scheduler::Hash, affinity), 6);
        let mut seen = BTreeSet::new();
        for network in 0..50 {
            let backends: BTreeSet<u16> = (0..5)
                .map(|host| Spec {
                    from: numbered(spec.from, network << 8 | host),
                    from_port: 40_000 + host,
                    ..spec.clone()
                })
                .map(|spec| chosen(&world, &spec))
                .collect();
            assert_eq!(backends.len(), 1);
            seen.extend(backends);
        }
        assert_eq!(seen.len(), RING.len(), "networks spread");
    }
}

#[test]
fn in_turn_each_slot_gets_its_flow() {
    let ring = [1, 2, 1, 3, 1];
    let world = world(&ring, policy(Scheduler::Sequence, FIVE_TUPLE), 6);
    for spec in both(Transport::Syn) {
        let backends: Vec<u16> = (0..20)
            .map(|n| Spec {
                from_port: 40_000 + n,
                ..spec.clone()
            })
            .map(|spec| chosen(&world, &spec))
            .collect();
        let start = (0..5)
            .find(|&start| (0..20).all(|n| backends[n] == ring[(start + n) % 5]))
            .unwrap_or_else(|| panic!("{backends:?} does not follow {ring:?}"));
        // What is known does not take a turn.
        let known = Spec {
            from_port: 40_000,
            transport: Transport::Ack,
            ..spec.clone()
        };
        assert_eq!(chosen(&world, &known), backends[0]);
        let next = Spec {
            from_port: 41_000,
            ..spec
        };
        assert_eq!(chosen(&world, &next), ring[start % 5]);
    }
}

/// A world whose backends have these weights, least connections first.
fn by_load(weights: &[u64]) -> World {
    let ring: Vec<u16> = (1..=weights.len() as u16).collect();
    let mut world = world(&ring, policy(Scheduler::LeastConnections, FIVE_TUPLE), 6);
    for (id, &weight) in (1..).zip(weights) {
        world.set(maps::LOADS, id, [0, weight]);
    }
    world
}

#[test]
fn the_least_loaded_gets_the_next_flow() {
    let world = by_load(&[1, 1, 1]);
    for spec in both(Transport::Syn) {
        for from_port in 40_000..40_030 {
            let spec = Spec {
                from_port,
                ..spec.clone()
            };
            let before: Vec<i64> = (1..4).map(|id| world.connections(id)).collect();
            let backend = usize::from(chosen(&world, &spec));
            let least = before.iter().min().unwrap();
            assert_eq!(before[backend - 1], *least, "{before:?}");
            // The SYN again, and its ACK, are no more connections.
            for transport in [Transport::Syn, Transport::Ack] {
                let spec = Spec {
                    transport,
                    ..spec.clone()
                };
                world.run(&spec.build());
            }
            assert_eq!(world.connections(backend as u32), before[backend - 1] + 1);
        }
    }
    assert_eq!((1..4).map(|id| world.connections(id)).sum::<i64>(), 60);
    // Ten of one backend end: the next ten go there.
    let mut spec = Spec::v4(Transport::Fin);
    let mut ended = 0;
    for from_port in 40_000..40_030 {
        spec.from_port = from_port;
        if recorded(&world, &spec) == 2 {
            world.run(&spec.build());
            // Once more: it ends only once.
            world.run(&spec.build());
            ended += 1;
        }
    }
    assert_eq!(world.connections(2), 20 - ended);
    for n in 0..ended as u16 {
        let spec = Spec {
            from_port: 42_000 + n,
            ..Spec::v4(Transport::Syn)
        };
        assert_eq!(chosen(&world, &spec), 2);
    }
}

#[test]
fn weights_share_connections() {
    let world = by_load(&[1, 3, 0]);
    for from_port in 40_000..40_400 {
        world.run_uncounted(
            &Spec {
                from_port,
                ..Spec::v4(Transport::Syn)
            }
            .build(),
        );
    }
    assert_eq!(
        (1..4).map(|id| world.connections(id)).collect::<Vec<_>>(),
        [100, 300, 0]
    );
}

/// More backends than are compared: all take part alike.
#[test]
fn a_hundred_backends_share_connections() {
    let world = by_load(&[1; 100]);
    for from_port in 40_000..42_000 {
        world.run_uncounted(
            &Spec {
                from_port,
                ..Spec::v4(Transport::Syn)
            }
            .build(),
        );
    }
    let most = (1..=100).map(|id| world.connections(id)).max().unwrap();
    let least = (1..=100).map(|id| world.connections(id)).min().unwrap();
    assert!(
        least >= 10 && most <= 40,
        "{least} to {most}, 20 each were even"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever clients do, the counts are those of the flow table.
    #[test]
    fn counts_are_those_of_the_flow_table(
        packets in prop::collection::vec((0..40_u16, 0..4_usize, any::<bool>()), 1..300)
    ) {
        let world = by_load(&[1, 2, 1, 5]);
        let transports = [Transport::Syn, Transport::Ack, Transport::Fin, Transport::Rst];
        let spec = |n: u16, transport, ipv6| Spec {
            from_port: 40_000 + n,
            ..if ipv6 { Spec::v6(transport) } else { Spec::v4(transport) }
        };
        for (n, transport, ipv6) in packets {
            world.run_uncounted(&spec(n, transports[transport], ipv6).build());
        }
        let mut counts = BTreeMap::new();
        for (n, ipv6) in (0..40).flat_map(|n| [(n, false), (n, true)]) {
            let spec = spec(n, Transport::Ack, ipv6);
            let flow = world.flow(spec.from, spec.from_port, if ipv6 { 2 } else { 1 });
            if let Some(flow) = flow.filter(|flow| flow.state != State::Closing) {
                *counts.entry(u32::from(flow.backend)).or_insert(0) += 1;
            }
        }
        for id in 1..5 {
            prop_assert_eq!(world.connections(id), counts.get(&id).copied().unwrap_or(0));
        }
    }
}

/// A QUIC service (RFC 9000) of four backends, whose server ids are 10 to 13.
fn quic() -> World {
    let mut policy = Policy::new(Scheduler::Hash, FIVE_TUPLE, 0, false, false, true);
    let mut world = world(&RING[..4], policy, 17);
    let mut table = [0; 14];
    table[10..].copy_from_slice(&RING[..4]);
    policy = Policy::new(Scheduler::Hash, FIVE_TUPLE, 0, false, false, true);
    world.quic(1, ip(VIP), PORT, policy, &RING[..4], &table);
    world.quic(2, ip(VIP6), PORT, policy, &RING[..4], &table);
    world
}

/// The first bytes of a packet with a long header (RFC 8999 5.1) or a short one.
fn quic_payload(long: bool, connection_id: &[u8]) -> Vec<u8> {
    let mut bytes = if long {
        vec![0xc3, 0, 0, 0, 1, connection_id.len() as u8]
    } else {
        vec![0x43]
    };
    bytes.extend(connection_id);
    bytes.extend([0; 20]);
    bytes
}

fn datagram(spec: &Spec, payload: &[u8]) -> Vec<u8> {
    spec.with_payload(payload)
}

#[test]
fn a_connection_id_names_the_backend() {
    let world = quic();
    for spec in both(Transport::Udp) {
        for long in [true, false] {
            for (n, backend) in RING[..4].iter().enumerate() {
                for from_port in [50_000, 50_001, 50_002] {
                    // The same tuple with another connection's id: as after a NAT's rebinding.
                    let spec = Spec {
                        from_port,
                        ..spec.clone()
                    };
                    let id = [0x07, 0, 10 + n as u8, 1, 2, 3, 4, 5];
                    let frame = datagram(&spec, &quic_payload(long, &id));
                    assert_eq!(world.run(&frame).verdict, Verdict::Dsr);
                    assert_eq!(recorded(&world, &spec), *backend);
                }
            }
        }
    }
    assert_eq!(world.events(Event::QuicRouted), 48);
    assert_eq!(world.events(Event::QuicUnknown), 0);
}

/// Ids that name nobody: the flow is steered by its tuple, and stays.
#[test]
fn other_connection_ids_follow_the_tuple() {
    let mut world = quic();
    let gone = BackendState {
        mac: mac_word(BACKEND_MAC),
        generation: 1,
        mode: Mode::Dsr,
        alive: false,
    };
    let mut entry: [u64; 8] = world.get(maps::BACKENDS, 4);
    entry[0] = gone.pack();
    world.set(maps::BACKENDS, 4, entry);
    let spec = Spec::v4(Transport::Udp);
    let salt = hash::salt(words(ip(VIP)), Service::key(PORT.to_be(), 17));
    let hash = hash::ring(words(spec.from), spec.from_port.to_be(), salt, FIVE_TUPLE);
    let by_tuple = RING[hash::reduce(hash, 4) as usize];
    assert_ne!(by_tuple, 4, "choose another port");
    let ids: [&[u8]; 5] = [
        // Not to be routed by.
        &[0xe7, 0, 10, 1, 2, 3, 4, 5],
        // No server's.
        &[0x07, 0, 9, 1, 2, 3, 4, 5],
        &[0x07, 0xff, 0xff, 1, 2, 3, 4, 5],
        // A dead one's.
        &[0x07, 0, 13, 1, 2, 3, 4, 5],
        // Too short to say.
        &[0x07, 0, 10],
    ];
    for id in ids {
        let frame = datagram(&spec, &quic_payload(true, id));
        assert_eq!(world.run(&frame).verdict, Verdict::Dsr);
        assert_eq!(recorded(&world, &spec), by_tuple, "{id:02x?}");
    }
    // Cut off before its id.
    for length in 0..8 {
        let payload = &quic_payload(true, &[0x07, 0, 10, 1])[..length];
        let frame = datagram(&spec, payload);
        assert_eq!(world.run(&frame).verdict, Verdict::Dsr);
        assert_eq!(recorded(&world, &spec), by_tuple);
    }
}
