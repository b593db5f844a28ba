//! Packets that are cut off or make no sense: counted, passed as they are, never read beyond.

use proptest::prelude::*;
use steerd_ebpf::{abi::Mode, verdict::Verdict};

use crate::{
    packets::{PORT, Spec, Transport, VIP, VIP6, ip},
    world::{DROP, INGRESS, PASS, World},
};

fn world() -> World {
    let mut world = World::new();
    world.backend(1, Mode::Dsr, true, 1, INGRESS);
    for (id, vip, protocol) in [(1, VIP, 6), (2, VIP, 17), (3, VIP6, 6), (4, VIP6, 17)] {
        world.service(id, ip(vip), PORT, protocol, &[1]);
    }
    world
}

/// Every length from an Ethernet header on: cut within the headers the packet passes as it is; cut
/// behind them it opens no flow, as it is shorter than it says.
#[test]
fn truncated_at_every_length() {
    let world = world();
    for vlans in [vec![], vec![7], vec![100, 7]] {
        for transport in [Transport::Udp, Transport::Ack] {
            for spec in [Spec::v4(transport), Spec::v6(transport)] {
                let spec = Spec {
                    vlans: vlans.clone(),
                    ..spec
                };
                let whole = spec.build();
                let network = 14 + 4 * vlans.len();
                let transport_at = network + if spec.to.is_ipv4() { 20 } else { 40 };
                let needed = transport_at + if transport == Transport::Udp { 8 } else { 20 };
                for length in 14..whole.len() {
                    let outcome = world.run(&whole[..length]);
                    let expected = if length < needed {
                        (Verdict::Truncated, PASS)
                    } else {
                        (Verdict::BadLength, DROP)
                    };
                    let seen = (outcome.verdict, outcome.action);
                    assert_eq!(
                        seen,
                        expected,
                        "{spec:?} cut to {length} of {}",
                        whole.len()
                    );
                    assert_eq!(outcome.frame, whole[..length]);
                }
            }
        }
    }
}

#[test]
fn headers_that_contradict_themselves() {
    let world = world();
    for version_ihl in (0..=u8::MAX).filter(|byte| byte >> 4 != 4 || byte & 0xf < 5) {
        let mut frame = Spec::v4(Transport::Ack).build();
        frame[14] = version_ihl;
        let outcome = world.run(&frame);
        assert_eq!(
            (outcome.verdict, outcome.action),
            (Verdict::BadHeader, PASS),
            "{version_ihl:#x}"
        );
    }
    for version in (0..16).filter(|&version| version != 6) {
        let mut frame = Spec::v6(Transport::Ack).build();
        frame[14] = version << 4;
        let outcome = world.run(&frame);
        assert_eq!(
            (outcome.verdict, outcome.action),
            (Verdict::BadHeader, PASS)
        );
    }
    // Options that would end behind the packet.
    let mut frame = Spec::v4(Transport::Ack).build();
    frame[14] = 0x4f;
    // No-operation options.
    frame.truncate(34);
    frame.resize(80, 1);
    assert_eq!(world.run(&frame).verdict, Verdict::Truncated);
}

/// Whatever arrives, the object leaves alone what it does not forward.
fn agrees(world: &World, frame: &[u8]) {
    let outcome = world.run(frame);
    if outcome.verdict != Verdict::Dsr {
        assert_eq!(outcome.frame, frame);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutated_packets(
        kind in 0..2_usize, udp: bool, tags in 0..3_usize,
        changes in prop::collection::vec((0..90_usize, any::<u8>()), 0..6),
        length in 14..110_usize,
    ) {
        thread_local!(static WORLD: World = world());
        let transport = if udp { Transport::Udp } else { Transport::Ack };
        let spec = [Spec::v4(transport), Spec::v6(transport)][kind].clone();
        let mut frame = Spec { vlans: [vec![], vec![1], vec![1, 2]][tags].clone(), ..spec }.build();
        for (at, byte) in changes {
            if let Some(place) = frame.get_mut(at) {
                *place = byte;
            }
        }
        frame.truncate(length);
        WORLD.with(|world| agrees(world, &frame));
    }

    #[test]
    fn random_bytes(frame in prop::collection::vec(any::<u8>(), 14..200), kind in 0..4_usize) {
        thread_local!(static WORLD: World = world());
        let mut frame = frame;
        let ethertypes = [[8, 0], [0x86, 0xdd], [0x81, 0], [0x88, 0xa8]];
        frame[12..14].copy_from_slice(&ethertypes[kind]);
        WORLD.with(|world| agrees(world, &frame));
    }
}
