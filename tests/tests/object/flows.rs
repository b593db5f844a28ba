//! The flow table in the kernel: who stays, who moves, what is remembered.

use steerd_ebpf::{
    abi::{Affinity, FLOW4_SETS, Mode, Policy, Scheduler, Service, maps},
    event::Event,
    flow::State,
    hash,
    verdict::Verdict,
};

use crate::{
    packets::{PORT, Spec, Transport, VIP, VIP6, ip},
    world::{FLOW_SEED, INGRESS, World, words},
};

fn both() -> [Spec; 2] {
    [Spec::v4(Transport::Syn), Spec::v6(Transport::Syn)]
}

/// Two backends; the ring names the first.
fn world() -> World {
    let mut world = World::new();
    for id in [1, 2] {
        world.backend(id, Mode::Dsr, true, 5, INGRESS);
    }
    world.service(1, ip(VIP), PORT, 6, &[1; 32]);
    world.service(2, ip(VIP6), PORT, 6, &[1; 32]);
    world
}

fn backend_of(world: &World, spec: &Spec) -> Option<(u16, State)> {
    let service = if spec.to.is_ipv4() { 1 } else { 2 };
    let flow = world.flow(spec.from, spec.from_port, service)?;
    assert_eq!((flow.client, u32::from(flow.service)), (spec.from, service));
    Some((flow.backend, flow.state))
}

#[test]
fn a_connection_goes_through_its_states() {
    let world = world();
    for spec in both() {
        let send = |transport| {
            world.run(
                &Spec {
                    transport,
                    ..spec.clone()
                }
                .build(),
            )
        };
        assert_eq!(backend_of(&world, &spec), None);
        send(Transport::Syn);
        assert_eq!(backend_of(&world, &spec), Some((1, State::New)));
        send(Transport::Syn);
        assert_eq!(
            backend_of(&world, &spec),
            Some((1, State::New)),
            "sent again"
        );
        send(Transport::Ack);
        assert_eq!(backend_of(&world, &spec), Some((1, State::Established)));
        send(Transport::Syn);
        assert_eq!(
            backend_of(&world, &spec),
            Some((1, State::Established)),
            "forged or stray"
        );
        send(Transport::Fin);
        assert_eq!(backend_of(&world, &spec), Some((1, State::Closing)));
        send(Transport::Ack);
        assert_eq!(
            backend_of(&world, &spec),
            Some((1, State::Closing)),
            "the last ACK"
        );
        send(Transport::Syn);
        assert_eq!(
            backend_of(&world, &spec),
            Some((1, State::New)),
            "the port is used again"
        );
        send(Transport::Rst);
        assert_eq!(backend_of(&world, &spec), Some((1, State::Closing)));
    }
}

/// Promise: no flow moves while its backend lives, whatever happens to the ring.
#[test]
fn a_flow_stays_while_its_backend_lives() {
    let world = world();
    for spec in both() {
        world.run(&spec.build());
    }
    let world = rering(world, 2);
    for spec in both() {
        world.run(
            &Spec {
                transport: Transport::Ack,
                ..spec.clone()
            }
            .build(),
        );
        assert_eq!(backend_of(&world, &spec), Some((1, State::Established)));
        let newcomer = Spec {
            from_port: 40_001,
            ..spec
        };
        world.run(&newcomer.build());
        assert_eq!(backend_of(&world, &newcomer), Some((2, State::New)));
    }
}

/// The same world with rings that name another backend.
fn rering(mut world: World, backend: u16) -> World {
    world.line(0, &[backend; 32]);
    world.line(1, &[backend; 32]);
    world
}

#[test]
fn a_flow_of_a_dead_backend_moves() {
    moves_when_its_backend_becomes(false, 5);
}

/// A backend id that was freed and given to another server: the flow is not that one's.
#[test]
fn a_flow_of_an_earlier_generation_moves() {
    moves_when_its_backend_becomes(true, 6);
}

fn moves_when_its_backend_becomes(alive: bool, generation: u8) {
    let mut world = world();
    for spec in both() {
        world.run(&spec.build());
    }
    world = rering(world, 2);
    world.backend(1, Mode::Dsr, alive, generation, INGRESS);
    for spec in both() {
        let next = Spec {
            transport: Transport::Ack,
            ..spec.clone()
        };
        world.run(&next.build());
        assert_eq!(backend_of(&world, &spec), Some((2, State::New)));
    }
}

/// 100,000 handshakes that are never completed, from as many ports and addresses, push out none
/// of 1,000 established connections.
#[test]
fn a_syn_flood_moves_nobody() {
    let mut world = world();
    let players: Vec<Spec> = (0..1000)
        .map(|n| Spec {
            from_port: 20_000 + n,
            ..Spec::v4(Transport::Syn)
        })
        .collect();
    for player in &players {
        world.run(&player.build());
        world.run(
            &Spec {
                transport: Transport::Ack,
                ..player.clone()
            }
            .build(),
        );
    }
    world = rering(world, 2);
    let mut frame = Spec::v4(Transport::Syn).build();
    for n in 0..100_000_u32 {
        frame[26..30].copy_from_slice(&(0x0a00_0000 | n).to_be_bytes());
        world.run_uncounted(&frame);
    }
    for player in &players {
        assert_eq!(backend_of(&world, player), Some((1, State::Established)));
    }
}

/// Clients whose flows with service 1 meet in one set.
fn in_one_set(count: usize) -> Vec<Spec> {
    let (vip, key) = (words(ip(VIP))[1], Service::key(PORT.to_be(), 6));
    let set = |spec: &Spec| {
        let from = (words(spec.from)[1] >> 32) as u32;
        let hash = hash::flow4(
            from,
            spec.from_port.to_be(),
            (vip >> 32) as u32,
            key,
            FLOW_SEED,
        );
        hash as u32 & (FLOW4_SETS - 1)
    };
    let clients = (0..u32::MAX).map(|n| {
        let [port, b, c, d] = n.to_be_bytes();
        Spec {
            from: [10, b, c, d].into(),
            from_port: 40_000 + u16::from(port),
            ..Spec::v4(Transport::Ack)
        }
    });
    let wanted = set(&Spec::v4(Transport::Ack));
    clients
        .filter(|spec| set(spec) == wanted)
        .take(count)
        .collect()
}

/// A flow that finds no place stays with one backend, whatever the scheduler: else each of its packets
/// would be the next one's turn.
#[test]
fn a_flow_without_a_place_stays_with_one_backend() {
    let clients = in_one_set(12);
    let (established, others) = clients.split_at(4);
    for scheduler in [Scheduler::Sequence, Scheduler::LeastConnections] {
        let mut world = World::new();
        for id in [1, 2] {
            world.backend(id, Mode::Dsr, true, 1, INGRESS);
            world.set(maps::LOADS, id, [0, 1]);
        }
        let five_tuple = Affinity {
            prefix: 128,
            port: true,
        };
        let policy = Policy::new(scheduler, five_tuple, 0, false, false, false);
        world.service_with(1, ip(VIP), PORT, 6, &[1, 2], policy);
        for spec in established.iter().chain(established).chain(established) {
            assert_eq!(world.run(&spec.build()).verdict, Verdict::Dsr);
        }
        let backends =
            |world: &World| [1, 2].map(|id| world.counter(maps::BACKEND_STATS, id).packets);
        let mut seen = [0; 2];
        for (number, spec) in (1..).zip(others) {
            let before = backends(&world);
            for (transport, load) in [
                (Transport::Syn, 0),
                (Transport::Ack, 9),
                (Transport::Fin, 0),
            ] {
                // Meanwhile one backend gets more to bear, or less.
                world.set(maps::LOADS, 1, [load, 1]);
                let spec = Spec {
                    transport,
                    ..spec.clone()
                };
                assert_eq!(world.run(&spec.build()).verdict, Verdict::Dsr);
            }
            let after = backends(&world);
            let packets = [after[0] - before[0], after[1] - before[1]];
            assert!(packets.contains(&3), "{scheduler:?}: {packets:?}");
            seen[usize::from(packets[1] == 3)] += 1;
            assert_eq!(world.events(Event::FlowUnrecorded), 3 * number);
        }
        assert!(
            !seen.contains(&0),
            "{scheduler:?}: all went to one: {seen:?}"
        );
    }
}
