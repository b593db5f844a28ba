//! Answers that are none: from others, to ports of nobody, cut off, or bent.

use proptest::prelude::*;
use steerd_ebpf::verdict::Verdict;

use super::*;

#[test]
fn only_its_backend_can_answer() {
    let world = world();
    for spec in [Spec::v4(Transport::Ack), Spec::v6(Transport::Ack)] {
        let translation = translated(&world, &spec);
        let back = answer(&spec, translation, Transport::Ack);
        let stranger = ip(if spec.to.is_ipv4() {
            "10.0.0.6"
        } else {
            "fd00:2::6"
        });
        for wrong in [
            Spec {
                from: stranger,
                ..back.clone()
            },
            Spec {
                from_port: SERVER_PORT + 1,
                ..back.clone()
            },
            Spec {
                transport: Transport::Udp,
                ..back.clone()
            },
            Spec {
                to_port: translation.1 ^ 1,
                ..back.clone()
            },
            Spec {
                to_port: 80,
                ..back.clone()
            },
        ] {
            refused(&world, &wrong, Verdict::NatUnknown);
        }
        answered(&world, &spec, &back);
    }
    let spec = Spec::v4(Transport::Ack);
    let back = answer(&spec, translated(&world, &spec), Transport::Ack);
    let flooded = Spec {
        destination_mac: [2, 0, 0, 0, 0, 0x77],
        ..back
    };
    refused(&world, &flooded, Verdict::OtherHost);
}

/// Cut within its headers an answer passes as it is, cut behind them it is translated.
#[test]
fn answers_cut_at_every_length() {
    let world = world();
    for vlans in TAGS {
        for transport in [Transport::Udp, Transport::Ack] {
            for spec in [Spec::v4(transport), Spec::v6(transport)] {
                let back = Spec {
                    vlans: vlans.to_vec(),
                    ..answer(&spec, translated(&world, &spec), transport)
                };
                let whole = back.build();
                let headers = if spec.to.is_ipv4() { 20 } else { 40 };
                let transport_at = 14 + 4 * vlans.len() + headers;
                let needed = transport_at + if transport == Transport::Udp { 8 } else { 20 };
                for length in 14..whole.len() {
                    let outcome = world.run(&whole[..length]);
                    if length < needed {
                        assert_eq!(outcome.verdict, Verdict::Truncated, "{length} of {back:?}");
                        assert_eq!(outcome.frame, whole[..length]);
                    } else {
                        assert_eq!(outcome.verdict, Verdict::NatReturn, "{length} of {back:?}");
                        let tags = 4 * vlans.len();
                        assert_eq!(outcome.frame.len(), length - tags);
                    }
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is changed in an answer: either it is refused and as it was, or it is the client's
    /// in every byte that the change did not touch.
    #[test]
    fn bent_answers(
        v6: bool, udp: bool, tags in 0..3_usize,
        changes in prop::collection::vec((0..100_usize, any::<u8>()), 1..5),
        length in 14..110_usize,
    ) {
        thread_local!(static WORLD: World = world());
        let transport = if udp { Transport::Udp } else { Transport::Ack };
        let spec = if v6 { Spec::v6(transport) } else { Spec::v4(transport) };
        WORLD.with(|world| {
            let back = Spec { vlans: TAGS[tags].to_vec(), ..answer(&spec, translated(world, &spec), transport) };
            let mut frame = back.build();
            for &(at, byte) in &changes {
                if let Some(place) = frame.get_mut(at) {
                    *place = byte;
                }
            }
            frame.truncate(length);
            let outcome = world.run(&frame);
            if outcome.verdict == Verdict::NatReturn {
                assert_eq!(outcome.frame[..6], spec.source_mac);
                assert_eq!(outcome.frame[6..12], spec.destination_mac);
                let to_port = spec.from_port.to_be_bytes();
                let addresses = if v6 { 22..54 } else { 26..34 };
                let expected = homeward(&spec, &back).build();
                assert_eq!(outcome.frame[addresses.clone()], expected[addresses.clone()]);
                // Without options the ports follow.
                if v6 && outcome.frame[20] == expected[20] || outcome.frame[14] == 0x45 {
                    let at = addresses.end;
                    assert_eq!(outcome.frame[at + 2..at + 4], to_port);
                }
            } else {
                assert_eq!(outcome.frame, frame);
            }
        });
    }
}
