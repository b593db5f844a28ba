//! What is taken off a packet, and which packets are not taken.

use std::net::IpAddr;

use etherparse::{NetSlice, SlicedPacket};
use steerd_ebpf::{
    abi::{Control, MacOwner, Mode, Role},
    verdict::Verdict,
};

use super::{
    GUE_PORT, WAYS, Way, build, class, every_kind, far_world, grow, is_ipv4, l3, send, set_class,
    set_hops, set_length, world,
};
use crate::{
    packets::{Spec, Transport, VIP, ip},
    world::{BACKEND_MAC, CLIENT_MAC, DROP, INGRESS, OWN_MAC, PASS, PEER_MAC, World},
};

/// The frame as the node sends it to the backend.
fn wrapped(way: Way, frame: &[u8]) -> Vec<u8> {
    thread_local!(static WORLD: World = world());
    let outcome = WORLD.with(|world| world.run(frame));
    assert_eq!(outcome.verdict, Verdict::Tunnel, "{way:?}");
    outcome.frame
}

/// One of each way and inner family.
fn samples() -> Vec<(Way, Vec<u8>)> {
    let mut samples = Vec::new();
    for way in WAYS {
        for spec in [Spec::v4(Transport::Ack), Spec::v6(Transport::Udp)] {
            samples.push((way, wrapped(way, &build(&way.spec(spec)))));
        }
    }
    samples
}

/// The outer packet of a sample.
fn outer(frame: &mut [u8]) -> &mut [u8] {
    &mut frame[14..]
}

fn inner(way: Way, frame: &mut [u8]) -> &mut [u8] {
    &mut frame[14 + way.overhead()..]
}

fn taken(world: &World, frame: &[u8]) -> Vec<u8> {
    let outcome = world.run(frame);
    assert_eq!(
        (outcome.verdict, outcome.action),
        (Verdict::Unwrapped, PASS),
        "{frame:02x?}"
    );
    outcome.frame
}

fn refused(world: &World, frame: &[u8], verdict: Verdict) {
    let outcome = world.run(frame);
    let action = if verdict == Verdict::BadTunnel {
        DROP
    } else {
        PASS
    };
    assert_eq!(
        (outcome.verdict, outcome.action),
        (verdict, action),
        "{frame:02x?}"
    );
    assert_eq!(outcome.frame, frame, "unchanged");
}

/// Wrapped and taken out again, a packet is as it was but for its hop, and the frame is the one in
/// which it was wrapped; its tags are those of the link between.
#[test]
fn there_and_back() {
    let (mut near, far) = (world(), far_world());
    for way in WAYS {
        for vlan in [0, 9] {
            send(&mut near, way, vlan, 1500, INGRESS);
            for spec in every_kind() {
                let frame = build(&way.spec(spec));
                let between = near.run(&frame);
                assert_eq!(between.verdict, Verdict::Tunnel);
                let out = taken(&far, &between.frame);

                let mut packet = frame[l3(&frame)..].to_vec();
                set_hops(&mut packet, 63);
                let kind: [u8; 2] = if is_ipv4(&packet) {
                    [8, 0]
                } else {
                    [0x86, 0xdd]
                };
                let link = &between.frame[..l3(&between.frame) - 2];
                let expected = [link, &kind, &packet].concat();
                assert_eq!(out, expected, "{way:?} {vlan}");
                assert_eq!(out[..12], [BACKEND_MAC, OWN_MAC].concat()[..]);
                SlicedPacket::from_ethernet(&out).unwrap();
            }
        }
    }
}

/// A node's frames are from a MAC that is known as a peer's: of those that are steered once more
/// that is a reason to deliver them, here it is what is expected.
#[test]
fn packets_of_a_peer_are_taken() {
    let mut far = far_world();
    far.mac(OWN_MAC, MacOwner::Forwarder);
    for (_, frame) in samples() {
        taken(&far, &frame);
    }
    for (_, mut frame) in samples() {
        frame[6..12].copy_from_slice(&PEER_MAC);
        taken(&far, &frame);
    }
}

/// RFC 6040 figure 4.
#[test]
fn marks_of_congestion_are_taken_over() {
    let far = far_world();
    let [not_ect, ect_1, ect_0, ce] = [0, 1, 2, 3];
    for (way, frame) in samples() {
        for dscp in [0, 0xfc, 0x5c] {
            for before in [not_ect, ect_1, ect_0, ce] {
                for outside in [not_ect, ect_1, ect_0, ce] {
                    let mut frame = frame.clone();
                    set_class(outer(&mut frame), 0xa0 | outside);
                    set_class(inner(way, &mut frame), dscp | before);
                    let after = match (before, outside) {
                        (0, 3) => None,
                        (_, 3) => Some(ce),
                        (2, 1) => Some(ect_1),
                        _ => Some(before),
                    };
                    let Some(after) = after else {
                        refused(&far, &frame, Verdict::BadTunnel);
                        continue;
                    };
                    let out = taken(&far, &frame);
                    let mut expected = inner(way, &mut frame).to_vec();
                    set_class(&mut expected, dscp | after);
                    assert_eq!(out[14..], expected, "{way:?} {before} {outside}");
                    let sliced = SlicedPacket::from_ethernet(&out).unwrap();
                    if let Some(NetSlice::Ipv4(ip)) = sliced.net {
                        let header = ip.header().to_header();
                        assert_eq!(header.header_checksum, header.calc_header_checksum());
                    }
                    assert_eq!(class(&out[14..]), dscp | after);
                }
            }
        }
    }
}

#[test]
fn padding_stays_behind() {
    let far = far_world();
    for (way, mut frame) in samples() {
        let packet = inner(way, &mut frame).to_vec();
        frame.extend([0xee; 9]);
        let out = taken(&far, &frame);
        assert_eq!(out[14..14 + packet.len()], packet);
        assert_eq!(out[14 + packet.len()..], [0xee; 9]);
    }
}

/// To another address, host, or one that is no end of a tunnel: the stack decides.
#[test]
fn what_is_not_for_the_tunnel_passes() {
    let samples = samples();
    let world = World::new();
    for (_, frame) in &samples {
        refused(&world, frame, Verdict::NotVip);
    }

    let far = far_world();
    for (_, frame) in &samples {
        let mut frame = frame.clone();
        frame[..6].copy_from_slice(&CLIENT_MAC);
        refused(&far, &frame, Verdict::OtherHost);
    }

    // A virtual address is none.
    let mut virtual_only = far_world();
    virtual_only.address(ip(VIP), Role::VIRTUAL);
    for (way, frame) in &samples {
        if way.is_ipv4 {
            let mut frame = frame.clone();
            let IpAddr::V4(vip) = ip(VIP) else {
                panic!("IPv4");
            };
            frame[30..34].copy_from_slice(&vip.octets());
            refused(&virtual_only, &frame, Verdict::NoService);
        }
    }

    // Another port than GUE's.
    for (way, frame) in &samples {
        if way.mode == Mode::Gue {
            let mut frame = frame.clone();
            let at = 14 + way.overhead() - 6;
            frame[at..at + 2].copy_from_slice(&(GUE_PORT + 1).to_be_bytes());
            refused(&far, &frame, Verdict::NoService);
        }
    }
}

/// Only nodes may wrap: from elsewhere everybody could send packets from any address.
#[test]
fn only_the_tunnels_network_is_believed() {
    let far = far_world();
    for (way, frame) in samples() {
        let mut frame = frame;
        if way.is_ipv4 {
            frame[14 + 13] ^= 0x80;
        } else {
            frame[14 + 8 + 7] ^= 1;
        }
        refused(&far, &frame, Verdict::BadTunnel);
    }
    let mut nowhere = far_world();
    nowhere.control(Control::TUNNEL4, 0);
    for word in 0..4 {
        nowhere.control(Control::TUNNEL6 + word, 0);
    }
    for (_, frame) in samples() {
        refused(&nowhere, &frame, Verdict::BadTunnel);
    }
}

#[test]
fn what_is_within_must_be_a_packet() {
    let far = far_world();
    for (way, frame) in samples() {
        let bad = |change: &dyn Fn(&mut [u8])| {
            let mut frame = frame.clone();
            change(inner(way, &mut frame));
            refused(&far, &frame, Verdict::BadTunnel);
        };
        let length = frame.len() - 14 - way.overhead();
        let is_ipv4 = is_ipv4(&frame[14 + way.overhead()..]);
        // What is directly within GUE may be of either version.
        let is_right = |version| match way.mode {
            Mode::Gue => version == 4 || version == 6,
            _ => version == if is_ipv4 { 4 } else { 6 },
        };
        for version in (0..16).filter(|&version| !is_right(version)) {
            bad(&|packet| packet[0] = version << 4 | packet[0] & 0xf);
        }
        for stated in [length + 1, 2000, 65_535] {
            bad(&|packet| set_length(packet, stated));
        }
        if is_ipv4 {
            for words in 0..5 {
                bad(&|packet| packet[0] = 0x40 | words);
            }
            bad(&|packet| set_length(packet, 19));
            // Options that end behind the packet.
            bad(&|packet| packet[0] = 0x4f);
        }
    }
}

/// The outer lengths say where the packet ends, whatever follows.
#[test]
fn outer_lengths_bound_what_is_within() {
    let far = far_world();
    for (way, frame) in samples() {
        let whole = frame.len() - 14;
        for length in (0..whole).chain([whole + 1, 65_535]) {
            let mut frame = frame.clone();
            if way.mode == Mode::Gue {
                // Of UDP.
                let at = 14 + way.overhead() - 4;
                let udp = (length as u16).wrapping_sub(way.overhead() as u16 - 8);
                frame[at..at + 2].copy_from_slice(&udp.to_be_bytes());
                refused(&far, &frame, Verdict::BadTunnel);
            } else {
                set_length(outer(&mut frame), length);
                refused(&far, &frame, Verdict::BadTunnel);
            }
        }
    }
}

/// GUE's own header: variant 0 with up to 31 words of private data.
#[test]
fn gue_with_a_header() {
    let far = far_world();
    for (way, frame) in samples() {
        if way.mode != Mode::Gue {
            continue;
        }
        let at = 14 + way.overhead();
        let protocol = if is_ipv4(&frame[at..]) { 4 } else { 41 };
        let with = |header: [u8; 4], words: usize| {
            let mut frame = frame.clone();
            let length = frame.len() - 14 + 4 + 4 * words;
            frame.splice(at..at, header.into_iter().chain(vec![0x45; 4 * words]));
            set_length(outer(&mut frame), length);
            let udp = (length - way.overhead() + 8) as u16;
            frame[at - 4..at - 2].copy_from_slice(&udp.to_be_bytes());
            frame
        };
        for words in 0..=31_u8 {
            let out = taken(&far, &with([words, protocol, 0, 0], usize::from(words)));
            assert_eq!(out[14..], frame[at..], "{words} words");
        }
        let bad = |header| refused(&far, &with(header, 0), Verdict::BadTunnel);
        // A control message; flags; other protocols, one with the wrong version; variants 2 and 3;
        // fewer bytes than the header says.
        bad([0x20, protocol, 0, 0]);
        bad([0, protocol, 0x80, 0]);
        bad([0, protocol, 0, 1]);
        bad([0, 45 - protocol, 0, 0]);
        bad([0, 59, 0, 0]);
        bad([0, 0, 0, 0]);
        bad([0x80, protocol, 0, 0]);
        bad([0xc0, protocol, 0, 0]);
        bad([31, protocol, 0, 0]);
    }
}

/// What the stack puts together: within may be a fragment.
#[test]
fn fragments_within_are_taken() {
    let far = far_world();
    for (way, frame) in samples() {
        let mut frame = frame;
        if is_ipv4(inner(way, &mut frame)) {
            inner(way, &mut frame)[6..8].copy_from_slice(&[0x20, 0x08]);
            super::set_checksum(inner(way, &mut frame));
        } else {
            inner(way, &mut frame)[6] = 44;
        }
        let out = taken(&far, &frame);
        assert_eq!(out[14..], *inner(way, &mut frame));
    }
}

/// The largest packets, and those with outer headers that are longer than ours.
#[test]
fn large_packets_and_outer_options() {
    let far = far_world();
    for way in WAYS {
        for spec in [Spec::v4(Transport::Udp), Spec::v6(Transport::Udp)] {
            let mut frame = build(&way.spec(spec));
            grow(&mut frame, 1500 - way.overhead());
            let mut frame = wrapped(way, &frame);
            let packet = inner(way, &mut frame).to_vec();
            assert_eq!(taken(&far, &frame)[14..], packet);

            if way.is_ipv4 {
                frame.splice(34..34, [1; 40]);
                frame[14] = 0x4f;
            } else {
                // Destination options: one of padding (RFC 8200 section 4.2).
                let next = frame[20];
                frame.splice(54..54, [next, 0, 1, 4, 0, 0, 0, 0]);
                frame[20] = 60;
            }
            let length = frame.len() - 14;
            set_length(outer(&mut frame), length);
            assert_eq!(taken(&far, &frame)[14..], packet);
        }
    }
}
