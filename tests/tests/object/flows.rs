//! The flow table in the kernel: who stays, who moves, what is remembered.

use steerd_ebpf::{abi::Mode, flow::State};

use crate::{
    packets::{PORT, Spec, Transport, VIP, VIP6, ip},
    world::{INGRESS, World},
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
