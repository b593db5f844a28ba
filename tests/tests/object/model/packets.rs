//! Which client's packets there are: mostly sound ones, some that lie, some damaged, and noise.

use std::net::IpAddr;

use proptest::prelude::*;

use super::packet::{Damage, Extension, Piece, Plan, SERVICES, TCP, To, UDP, VIP4, VIP6, Way};
use crate::world::OWN_MAC;

pub(super) fn plan() -> BoxedStrategy<Plan> {
    let who = (
        any::<bool>(),
        prop_oneof![8 => Just(TCP), 6 => Just(UDP), 1 => Just(47_u8)],
        any::<u8>(),
        0..SERVICES,
        prop_oneof![4 => 0_u8..2, 1 => 0_u8..8],
        prop_oneof![12 => Just(40_000_u16), 4 => 40_001_u16..40_003, 1 => Just(0_u16)],
        any::<bool>(),
    );
    let what = (
        prop_oneof![
            4 => Just(0x02_u8), 6 => Just(0x10_u8), 2 => Just(0x11_u8), 1 => Just(0x04_u8),
            1 => Just(0x12_u8), 1 => any::<u8>()
        ],
        prop_oneof![6 => Just(64_u8), 1 => 0_u8..4, 1 => any::<u8>()],
        way(),
        prop_oneof![6 => Just(vec![]), 1 => options()],
        prop_oneof![6 => Just(vec![]), 2 => prop::collection::vec(extension(), 1..8)],
        prop_oneof![4 => Just(vec![]), 4 => tcp_options()],
        payload(),
        prop_oneof![5 => Just(None), 1 => piece().prop_map(Some)],
        prop_oneof![4 => Just(Damage::default()), 1 => damage()],
    );
    (who, what)
        .prop_map(
            |(
                (ipv6, protocol, class, service, client, client_port, may_fragment),
                (flags, hops, way, options, extensions, tcp_options, payload, part, damage),
            )| Plan {
                ipv6,
                protocol,
                service,
                client,
                client_port,
                flags,
                hops,
                class,
                may_fragment,
                way,
                options,
                extensions,
                tcp_options,
                payload,
                part,
                damage,
            },
        )
        .boxed()
}

fn piece() -> BoxedStrategy<Piece> {
    let place = prop_oneof![
        4 => Just((0_u16, 3_u16)),
        4 => Just((3, 3)),
        1 => (0_u16..4, 0_u16..6),
        1 => (any::<u16>().prop_map(|from| from & 0x1fff), 0_u16..6),
    ];
    (0_u8..2, place, prop::bool::weighted(0.7))
        .prop_map(|(identification, (from, units), more)| Piece {
            identification,
            from,
            units,
            more,
        })
        .boxed()
}

pub(super) fn way() -> BoxedStrategy<Way> {
    let value = || prop::sample::select(vec![7_u16, 8, 0xa007, 0x6000, 0xffff]);
    let kind = || prop::sample::select(vec![0x8100_u16, 0x88a8]);
    let tags = prop_oneof![
        8 => Just(vec![]),
        4 => (kind(), value()).prop_map(|tag| vec![tag]),
        3 => (kind(), value(), value()).prop_map(|(kind, one, other)| {
            vec![(kind, one), (0x8100, other)]
        }),
        1 => prop::collection::vec((kind(), value()), 1..4),
    ];
    let to = prop_oneof![
        20 => Just(To::Virtual), 1 => Just(To::Mapped), 1 => Just(To::Sender), 1 => Just(To::Other)
    ];
    (
        prop_oneof![12 => Just(true), 1 => Just(false)],
        prop_oneof![12 => Just(false), 1 => Just(true)],
        tags,
        to,
    )
        .prop_map(|(to_us, from_peer, tags, to)| Way {
            to_us,
            from_peer,
            tags,
            to,
        })
        .boxed()
}

/// Options of IPv4: nothing, router alert, timestamps, routes, nonsense.
fn options() -> BoxedStrategy<Vec<u8>> {
    let option = prop_oneof![
        4 => Just(vec![1]),
        2 => Just(vec![148, 4, 0, 0]),
        2 => Just(vec![7, 7, 4, 0, 0, 0, 0]),
        1 => Just(vec![0]),
        1 => Just(vec![131, 7, 4, 0, 0, 0, 0]),
        1 => Just(vec![137, 3, 4]),
        1 => prop::collection::vec(any::<u8>(), 1..6),
    ];
    prop::collection::vec(option, 1..8)
        .prop_map(|options| fitting(options.concat()))
        .boxed()
}

/// Options of TCP: nothing, MSS, window scale, timestamps, nonsense.
fn tcp_options() -> BoxedStrategy<Vec<u8>> {
    let mss = prop_oneof![
        Just(1460_u16),
        Just(1200),
        Just(1201),
        Just(536),
        Just(0xffff),
        any::<u16>()
    ];
    let option = prop_oneof![
        4 => Just(vec![1]),
        6 => mss.prop_map(|mss| [&[2, 4][..], &mss.to_be_bytes()].concat()),
        2 => Just(vec![3, 3, 7]),
        2 => Just(vec![4, 2]),
        2 => Just(vec![8, 10, 0, 1, 2, 3, 4, 5, 6, 7]),
        1 => Just(vec![0]),
        1 => Just(vec![2]),
        1 => Just(vec![2, 3, 0xff]),
        1 => prop::collection::vec(any::<u8>(), 1..6),
    ];
    prop::collection::vec(option, 1..8)
        .prop_map(|options| fitting(options.concat()))
        .boxed()
}

/// At most ten words, whole ones.
fn fitting(mut options: Vec<u8>) -> Vec<u8> {
    options.truncate(40);
    options.resize(options.len().next_multiple_of(4), 0);
    options
}

fn extension() -> BoxedStrategy<Extension> {
    prop_oneof![
        3 => (prop::sample::select(vec![0_u8, 60]), prop_oneof![4 => 0_u8..3, 1 => 0_u8..64])
            .prop_map(|(kind, units)| Extension::Options(kind, units)),
        2 => prop_oneof![4 => Just(0_u8), 1 => any::<u8>()].prop_map(Extension::Routing),
        1 => Just(Extension::Authentication),
        1 => Just(Extension::AtomicFragment),
        1 => prop::sample::select(vec![135_u8, 139, 140, 253, 254]).prop_map(Extension::Unknown),
    ]
    .boxed()
}

/// Anything, or the beginning of a QUIC packet.
fn payload() -> BoxedStrategy<Vec<u8>> {
    let quic = (
        any::<bool>(),
        prop_oneof![6 => Just(0x07_u8), 1 => any::<u8>()],
        0_u8..6,
        0_u8..20,
    )
        .prop_map(|(is_long, first, server, length)| {
            let mut bytes = if is_long {
                vec![0xc3, 0, 0, 0, 1, length]
            } else {
                vec![0x43]
            };
            bytes.extend([first, 0, server, 1, 2, 3, 4, 5]);
            bytes
        });
    prop_oneof![
        3 => prop::collection::vec(any::<u8>(), 0..40),
        3 => quic,
        2 => prop::collection::vec(any::<u8>(), 1000..1400),
    ]
    .boxed()
}

pub(super) fn damage() -> BoxedStrategy<Damage> {
    let rarely = |often| prop::bool::weighted(often);
    (
        prop_oneof![3 => Just(0_i16), 1 => -70_i16..20, 1 => any::<i16>()],
        prop_oneof![3 => Just(0_i16), 1 => -30_i16..20],
        rarely(0.3),
        rarely(0.2),
        prop_oneof![3 => Just(0_u8), 1 => 0_u8..40],
        prop_oneof![
            2 => Just(vec![]),
            1 => prop::collection::vec((0_u8..100, any::<u8>()), 1..5)
        ],
        prop::option::weighted(0.3, 14_u8..120),
    )
        .prop_map(
            |(length, transport_length, no_length, checksum, padding, changes, cut)| Damage {
                length,
                transport_length,
                no_length,
                checksum,
                padding,
                changes,
                cut,
            },
        )
        .boxed()
}

/// Frames whose headers lead to ours, and then are anything.
pub(super) fn noise() -> BoxedStrategy<Vec<u8>> {
    let kinds = prop::sample::select(vec![
        [8_u8, 0],
        [0x86, 0xdd],
        [0x81, 0],
        [0x88, 0xa8],
        [8, 6],
    ]);
    (prop::collection::vec(any::<u8>(), 14..200), kinds, 0..4_u8)
        .prop_map(|(mut frame, kind, ours)| {
            frame[..6].copy_from_slice(&OWN_MAC);
            frame[12..14].copy_from_slice(&kind);
            let (version, at, octets): (u8, usize, &[u8]) = match (kind, VIP4, VIP6) {
                ([8, 0], IpAddr::V4(vip), _) => (0x45, 30, &vip.octets()),
                ([0x86, 0xdd], _, IpAddr::V6(vip)) => (0x60, 38, &vip.octets()),
                _ => return frame,
            };
            if ours > 0 && frame.len() >= at + octets.len() {
                frame[at..at + octets.len()].copy_from_slice(octets);
            }
            if ours > 1 && frame.len() > 14 {
                frame[14] = version;
            }
            // No fragment, TCP or UDP.
            if ours > 2 && frame.len() > 23 && version == 0x45 {
                frame[20..22].fill(0);
                frame[23] = if frame[23] % 2 == 0 { TCP } else { UDP };
            }
            frame
        })
        .boxed()
}
