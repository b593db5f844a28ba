//! Packets that are cut off, changed, or made up: a packet that is not taken is as it was.

use proptest::prelude::*;
use steerd_ebpf::{
    abi::{Mode, Role},
    verdict::Verdict,
};

use super::{GUE_PORT, WAYS, build, every_kind, far_world, world};
use crate::{
    packets::{Spec, Transport, VIP, ip},
    world::{PASS, World},
};

const CHANGED: [Verdict; 3] = [Verdict::Tunnel, Verdict::Unwrapped, Verdict::TooBig];

/// The verdict on a frame, which is unchanged if it is not one that says otherwise.
fn verdict(world: &World, frame: &[u8]) -> Verdict {
    let outcome = world.run(frame);
    if !CHANGED.contains(&outcome.verdict) {
        assert_eq!(outcome.frame, frame, "{:?}", outcome.verdict);
    }
    outcome.verdict
}

#[test]
fn cut_off_at_every_length() {
    let (near, far) = (world(), far_world());
    for way in WAYS {
        for spec in every_kind() {
            let frame = build(&way.spec(spec));
            let between = near.run(&frame);
            assert_eq!(between.verdict, Verdict::Tunnel);
            for length in 14..frame.len() {
                let verdict = verdict(&near, &frame[..length]);
                let expected = [Verdict::Truncated, Verdict::BadLength];
                assert!(expected.contains(&verdict), "{verdict:?} at {length}");
            }
            for length in 14..between.frame.len() {
                let verdict = verdict(&far, &between.frame[..length]);
                let expected = [Verdict::Truncated, Verdict::BadTunnel];
                assert!(expected.contains(&verdict), "{verdict:?} at {length}");
            }
        }
    }
}

/// A node that wraps and takes out, with a virtual address that is the end of a tunnel.
fn both() -> World {
    let mut world = far_world();
    super::add_services(&mut world);
    world.address(ip(VIP), Role::ENDPOINT);
    world
}

/// What must not be among what comes out: a packet that is not the one it says it is.
fn sound(world: &World, frame: &[u8]) {
    let outcome = world.run(frame);
    if !CHANGED.contains(&outcome.verdict) {
        assert_eq!(outcome.frame, frame, "{:?}", outcome.verdict);
    }
    if outcome.verdict == Verdict::Unwrapped {
        assert_eq!(outcome.action, PASS);
        let packet = &outcome.frame[super::l3(&outcome.frame)..];
        let stated = match packet[0] >> 4 {
            4 => usize::from(u16::from_be_bytes([packet[2], packet[3]])),
            6 => 40 + usize::from(u16::from_be_bytes([packet[4], packet[5]])),
            version => panic!("version {version}"),
        };
        assert!(stated <= packet.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changed_packets(
        way in 0..4_usize, inner6: bool, udp: bool, tags in 0..3_usize, is_wrapped: bool,
        changes in prop::collection::vec((0..130_usize, any::<u8>()), 0..6),
        length in 14..160_usize,
    ) {
        thread_local!(static WORLDS: (World, World) = (world(), both()));
        let transport = if udp { Transport::Udp } else { Transport::Ack };
        let spec = if inner6 { Spec::v6(transport) } else { Spec::v4(transport) };
        let vlans = [vec![], vec![1], vec![1, 2]][tags].clone();
        let frame = build(&WAYS[way].spec(Spec { vlans, ..spec }));
        WORLDS.with(|(near, both)| {
            let mut frame = frame;
            if is_wrapped {
                frame = near.run(&frame).frame;
            }
            for (at, byte) in changes {
                if let Some(place) = frame.get_mut(at) {
                    *place = byte;
                }
            }
            frame.truncate(length);
            sound(both, &frame);
        });
    }

    /// Outer headers that are right, and anything within.
    #[test]
    fn anything_within(
        way in 0..4_usize, bytes in prop::collection::vec(any::<u8>(), 0..120), start in 0..8_usize,
    ) {
        thread_local!(static WORLDS: (World, World) = (world(), both()));
        let way = WAYS[way];
        let frame = build(&way.spec(Spec::v4(Transport::Ack)));
        WORLDS.with(|(near, both)| {
            let mut frame = near.run(&frame).frame;
            let at = 14 + way.overhead();
            frame.truncate(at);
            frame.extend(bytes);
            // Otherwise few get beyond their first byte.
            if let (Some(first), Some(&byte)) = (
                frame.get_mut(at),
                [0x45, 0x46, 0x60, 0, 1, 0x20, 0x4f].get(start),
            ) {
                *first = byte;
            }
            let length = frame.len() - 14;
            super::set_length(&mut frame[14..], length);
            if way.mode == Mode::Gue {
                let udp = (length - way.overhead() + 8) as u16;
                frame[at - 6..at - 4].copy_from_slice(&GUE_PORT.to_be_bytes());
                frame[at - 4..at - 2].copy_from_slice(&udp.to_be_bytes());
            }
            sound(both, &frame);
        });
    }
}
