//! Two ways to translate a packet: a short one for nearly all, and one for any. What takes which
//! cannot be seen from outside; these tests make the same packet take both, and look for a
//! difference.

use steerd_ebpf::{
    abi::{Control, NatPool, Session, maps},
    flow::State,
    verdict::Verdict,
};

use super::*;

/// Few ports, so that the sets fill up: sessions are in the first, the second and the other sets.
const FEW: NatPool = NatPool {
    first_set: 5000,
    sets: 16,
    ipv4: 1,
    ipv6: 1,
    ..NatPool::NONE
};

/// Frames as the short way takes them: what is not SYN, FIN or RST, and has the length of a TCP
/// header behind the network header.
fn specs() -> [Spec; 4] {
    [
        Spec::v4(Transport::Ack),
        Spec::v4(Transport::Udp),
        Spec::v6(Transport::Ack),
        Spec::v6(Transport::Udp),
    ]
}

/// Of an odd length, so that the last byte has a half of a checksum's word for itself.
const PAYLOAD: &[u8] = b"what is carried, 31 bytes of it";

/// Lets a session be one that a packet changes: it was last seen long ago.
fn age(world: &mut World, translation: (IpAddr, u16)) {
    change(world, translation, |session| {
        session.value.seen = session.value.seen.wrapping_sub(9) & 0xf_ffff;
    });
}

/// A session, but for the time: it runs on meanwhile.
fn timeless(world: &World, translation: (IpAddr, u16)) -> (Session, u64) {
    let (mut session, tag) = session(world, translation);
    session.value.seen = 0;
    (session, tag)
}

/// What becomes of a frame of a session that stays as it is, and that it does. Then the same one
/// makes the session younger: it is the same frame, and the same session.
fn both(world: &mut World, frame: &[u8], translation: (IpAddr, u16)) -> Outcome {
    let before = timeless(world, translation);
    let hop: [u64; 4] = world.get(maps::NAT_HOPS, place(translation));
    // The first one may be the first in another second.
    world.run(frame);
    let short = world.run(frame);
    age(world, translation);
    let aged = session(world, translation).0.value.seen;
    let long = world.run(frame);
    assert_eq!(short, long, "{translation:?}");
    assert_eq!(before, timeless(world, translation));
    assert_ne!(session(world, translation).0.value.seen, aged);
    assert_eq!(
        hop,
        world.get::<4>(maps::NAT_HOPS, place(translation)),
        "{translation:?}"
    );
    short
}

/// In each state, each direction, each of the sets in which a session can be.
#[test]
fn the_short_way_is_the_long_one() {
    let mut world = world();
    world.control(Control::NAT_POOL, FEW.pack());
    for spec in specs() {
        for number in 0..20 {
            let spec = Spec {
                from_port: 30_000 + number,
                ..spec.clone()
            };
            let frame = spec.with_payload(PAYLOAD);
            let translation = ends(&world.run(&frame).frame).0;
            let there = outward(&spec, translation, Vec::new()).with_payload(PAYLOAD);
            let back = answer(&spec, translation, spec.transport);
            let again = homeward(&spec, &back).with_payload(PAYLOAD);
            let answered = back.with_payload(PAYLOAD);

            let outcome = both(&mut world, &frame, translation);
            assert_eq!(outcome.verdict, Verdict::Nat);
            assert_eq!(outcome.frame, there);
            // The first answer, then the client's next packet: both change the session.
            for frame in [&answered, &frame] {
                world.run(frame);
            }
            let (session, _) = session(&world, translation);
            assert!(session.answered);
            assert_eq!(session.state(), State::Established);
            for state in [State::Established, State::Closing] {
                change(&mut world, translation, |session| {
                    session.value.state = state;
                });
                let outcome = both(&mut world, &frame, translation);
                assert_eq!(outcome.verdict, Verdict::Nat);
                assert_eq!(outcome.frame, there);
                let outcome = both(&mut world, &answered, translation);
                assert_eq!(outcome.verdict, Verdict::NatReturn);
                assert_eq!(outcome.frame, again);
            }
        }
    }
}

/// Whatever the transport's checksum was: wrong by any difference, it is wrong by the same one.
#[test]
fn checksums_of_either_way_agree() {
    let mut world = world();
    for spec in specs() {
        let translation = ends(&world.run(&spec.with_payload(PAYLOAD)).frame).0;
        let back = answer(&spec, translation, spec.transport);
        world.run(&back.with_payload(PAYLOAD));
        world.run(&spec.with_payload(PAYLOAD));
        let l4 = if spec.to.is_ipv4() { 34 } else { 54 };
        let at = l4
            + if spec.transport == Transport::Udp {
                6
            } else {
                16
            };
        for spec in [&spec, &back] {
            for checksum in (0..=u16::MAX).step_by(251).chain([u16::MAX]) {
                let mut frame = spec.with_payload(PAYLOAD);
                frame[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
                let outcome = both(&mut world, &frame, translation);
                let none = spec.transport == Transport::Udp && checksum == 0;
                assert_eq!(outcome.frame[at..at + 2] == [0; 2], none, "{checksum:#x}");
            }
        }
    }
}

/// The hop that a packet must have left, the way it came, the backend's answer: what the short way
/// leaves to the other one, with sessions that are otherwise for it.
#[test]
fn what_differs_takes_the_long_way() {
    let mut world = world();
    for spec in specs() {
        let frame = spec.with_payload(PAYLOAD);
        let translation = ends(&world.run(&frame).frame).0;
        let back = answer(&spec, translation, spec.transport);
        world.run(&back.with_payload(PAYLOAD));
        world.run(&frame);

        for spec in [&spec, &back] {
            let last = Spec {
                ttl: 1,
                ..spec.clone()
            };
            let last = last.with_payload(PAYLOAD);
            let outcome = world.run(&last);
            assert_eq!(outcome.verdict, Verdict::TtlExpired);
            assert_eq!(outcome.frame, last);
        }
        // The client moved.
        let moved = Spec {
            source_mac: [2, 0, 0, 0, 0, 0x11],
            ..spec.clone()
        };
        world.run(&moved.with_payload(PAYLOAD));
        let outcome = world.run(&back.with_payload(PAYLOAD));
        assert_eq!(outcome.verdict, Verdict::NatReturn);
        assert_eq!(outcome.frame, homeward(&moved, &back).with_payload(PAYLOAD));
        // Other hosts' frames, and other hosts.
        let stranger = ip(if spec.to.is_ipv4() {
            "10.0.0.6"
        } else {
            "fd00:2::6"
        });
        for (wrong, verdict) in [
            (
                Spec {
                    destination_mac: [2, 0, 0, 0, 0, 0x77],
                    ..back.clone()
                },
                Verdict::OtherHost,
            ),
            (
                Spec {
                    from: stranger,
                    ..back.clone()
                },
                Verdict::NatUnknown,
            ),
            (
                Spec {
                    from_port: SERVER_PORT + 1,
                    ..back.clone()
                },
                Verdict::NatUnknown,
            ),
        ] {
            let frame = wrong.with_payload(PAYLOAD);
            let outcome = world.run(&frame);
            assert_eq!(outcome.verdict, verdict, "{wrong:?}");
            assert_eq!(outcome.frame, frame);
        }
        // A backend that is another one's id by now has no sessions.
        let id = match (spec.to.is_ipv4(), spec.transport) {
            (true, Transport::Ack) => 0,
            (true, _) => 1,
            (false, Transport::Ack) => 2,
            (false, _) => 3,
        };
        Server {
            generation: 2,
            ..SERVERS[id]
        }
        .put(&mut world);
        let outcome = world.run(&back.with_payload(PAYLOAD));
        assert_eq!(outcome.verdict, Verdict::NatUnknown);
        assert_eq!(translated(&world, &spec), translation);
        assert_eq!(session(&world, translation).0.value.generation, 2);
    }
}
