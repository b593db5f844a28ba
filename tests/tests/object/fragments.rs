//! Fragments: later ones go where the first one went.

use std::{collections::BTreeMap, net::IpAddr};

use proptest::prelude::*;
use steerd_ebpf::{
    abi::{Control, FRAGMENT_SETS, FragmentLifetimes, Mode, Role, maps},
    event::Event,
    verdict::Verdict,
};

use crate::{
    modes::{
        BACKEND_PORT, CLIENT_PORT, DSR, GUE, IPIP, LOCAL, VIPS, WAYS, Way, backend,
        backend_address, client, nat_address, point_rings_to, set_backends, tags, unwrapped, world,
    },
    packets::{PORT, VIP, VIP6, ip},
    raw::{self, Raw, TCP, UDP, icmp_of, message, segment},
    world::{BACKEND_MAC, CLIENT_MAC, DROP, OWN_MAC, Outcome, PASS, PEER_MAC, TX, World},
};

/// A packet of a client to `PORT`, in fragments.
#[derive(Debug, Clone)]
struct Fragmented {
    raw: Raw,
    id: u32,
    /// How many bytes each fragment has, the last one aside.
    step: usize,
    payload: Vec<u8>,
}

impl Fragmented {
    fn new(vip: IpAddr, protocol: u8, id: u32) -> Self {
        let data: Vec<u8> = (0..3000_u32).map(|n| (n * 7 + id) as u8).collect();
        let payload = segment(protocol, (client(vip), CLIENT_PORT), (vip, PORT), &data);
        Self {
            raw: Raw::new(client(vip), vip, protocol),
            id,
            step: 1280,
            payload,
        }
    }

    fn frames(&self) -> Vec<Vec<u8>> {
        let pieces = self.payload.chunks(self.step);
        let last = pieces.len() - 1;
        pieces
            .enumerate()
            .map(|(n, piece)| {
                Raw {
                    fragment: Some((self.id, n * self.step, n != last)),
                    ..self.raw.clone()
                }
                .frame(piece)
            })
            .collect()
    }
}

/// The packet that a host makes of fragments. They must be of one.
fn reassemble(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut pieces = BTreeMap::new();
    let mut identities = Vec::new();
    for frame in frames {
        let (network, _) = network(frame);
        let packet = &frame[network..];
        let (from, to, protocol, at) = raw::ends(packet);
        let (protocol, at, id, offset) = if from.is_ipv4() {
            assert_eq!(raw::checksum(&packet[..at]), 0, "IPv4 header");
            let flags = u16::from_be_bytes([packet[6], packet[7]]);
            let id = u32::from(u16::from_be_bytes([packet[4], packet[5]]));
            (protocol, at, id, usize::from(flags & 0x1fff) * 8)
        } else {
            assert_eq!(protocol, 44);
            let offset = u16::from_be_bytes([packet[42], packet[43]]) & !7;
            let id = u32::from_be_bytes(packet[44..48].try_into().unwrap());
            (packet[40], 48, id, usize::from(offset))
        };
        identities.push((from, to, protocol, id));
        pieces.insert(offset, packet[at..].to_vec());
    }
    identities.dedup();
    let [(from, to, protocol, _)] = identities[..] else {
        panic!("of several packets: {identities:?}");
    };
    let mut payload = Vec::new();
    for (offset, piece) in pieces {
        assert_eq!(offset, payload.len(), "nothing is missing");
        payload.extend(piece);
    }
    let packet = Raw::new(from, to, protocol).packet(&payload);
    raw::assert_sound(&packet);
    packet
}

/// Where the network header of a frame begins, and its VLAN ids.
fn network(frame: &[u8]) -> (usize, Vec<u16>) {
    let mut at = 12;
    let mut vlans = Vec::new();
    while [[0x81, 0], [0x88, 0xa8]].contains(&[frame[at], frame[at + 1]]) {
        vlans.push(u16::from_be_bytes([frame[at + 2], frame[at + 3]]));
        at += 4;
    }
    (at + 2, vlans)
}

/// Hands frames to the program, each of which must end so, and returns what became of them.
fn run_all(
    world: &World,
    frames: &[Vec<u8>],
    (mode, verdict, action): Way,
    what: &str,
) -> Vec<Vec<u8>> {
    frames
        .iter()
        .map(|frame| {
            let outcome = world.run(frame);
            assert_eq!(
                (outcome.verdict, outcome.action),
                (verdict, action),
                "{what}"
            );
            if mode == Mode::Local {
                assert_eq!(&outcome.frame, frame);
            } else {
                assert_eq!(outcome.frame[..6], BACKEND_MAC);
                assert_eq!(outcome.frame[6..12], OWN_MAC);
            }
            unwrapped(mode, outcome.frame)
        })
        .collect()
}

/// Asserts that a backend's host reassembles from what arrives there what the client sent.
fn assert_arrived(frames: &[Vec<u8>], sent: &Fragmented, mode: Mode, number: u32) {
    let packet = reassemble(frames);
    let (vip, protocol) = (sent.raw.to, sent.raw.protocol);
    if mode != Mode::Nat {
        assert_eq!(packet, sent.raw.packet(&sent.payload));
        return;
    }
    let (from, to, _, at) = raw::ends(&packet);
    assert_eq!((from, to), (nat_address(vip), backend_address(vip, number)));
    assert_eq!(packet[at + 2..at + 4], BACKEND_PORT.to_be_bytes());
    assert_same_data(&packet[at..], &sent.payload, protocol);
}

/// All but ports and checksum, which [`reassemble`] verified.
fn assert_same_data(one: &[u8], other: &[u8], protocol: u8) {
    let at = raw::checksum_at(protocol);
    assert_eq!(one[4..at], other[4..at]);
    assert_eq!(one[at + 2..], other[at + 2..]);
}

fn passes(world: &World, frame: &[u8], verdict: Verdict, what: &str) {
    let expected = Outcome {
        verdict,
        action: PASS,
        frame: frame.to_vec(),
    };
    assert_eq!(world.run(frame), expected, "{what}");
}

fn drops(world: &World, frame: &[u8], verdict: Verdict, what: &str) {
    let expected = Outcome {
        verdict,
        action: DROP,
        frame: frame.to_vec(),
    };
    assert_eq!(world.run(frame), expected, "{what}");
}

/// Three fragments in order, in every mode, family, protocol and tag; the backend's host makes the
/// packet of them that the client sent. The ring changes meanwhile: a packet stays together.
#[test]
fn fragments_follow_the_first() {
    for way in WAYS {
        let mut world = world(way.0);
        let mut id = 0x1_0000;
        for vip in VIPS.map(ip) {
            for protocol in [TCP, UDP] {
                for vlans in tags() {
                    id += 1;
                    let what = format!("{way:?} {vip} {protocol} {vlans:?}");
                    let mut sent = Fragmented::new(vip, protocol, id & 0xffff);
                    sent.raw.vlans = vlans;
                    let frames = sent.frames();
                    assert_eq!(frames.len(), 3);
                    let mut seen = run_all(&world, &frames[..1], way, &what);
                    point_rings_to(&mut world, 2);
                    seen.extend(run_all(&world, &frames[1..], way, &what));
                    point_rings_to(&mut world, 1);
                    assert_arrived(&seen, &sent, way.0, 1);
                }
            }
        }
        assert_eq!(world.events(Event::FragmentRecorded), 12);
        assert_eq!(world.events(Event::FragmentFollowed), 24);
        assert_eq!(world.events(Event::FragmentEvicted), 0);
        // Later ones count too.
        for service in 1..=4 {
            let counted = world.counter(maps::BACKEND_STATS, backend(service, 1));
            assert_eq!(counted.packets, 9);
            assert_eq!(world.counter(maps::SERVICE_STATS, service).packets, 9);
        }
    }
}

/// What overtakes the first fragment is lost; sent again, the packet arrives.
#[test]
fn early_fragments_are_dropped() {
    for way in WAYS {
        let world = world(way.0);
        for vip in VIPS.map(ip) {
            let sent = Fragmented::new(vip, UDP, 77);
            let frames = sent.frames();
            drops(
                &world,
                &frames[2],
                Verdict::EarlyFragment,
                "the last, first",
            );
            drops(&world, &frames[1], Verdict::EarlyFragment, "the middle");
            let mut seen = run_all(&world, &frames[..1], way, "the first");
            seen.extend(run_all(&world, &[frames[2].clone()], way, "again"));
            seen.extend(run_all(&world, &[frames[1].clone()], way, "again"));
            assert_arrived(&seen, &sent, way.0, 1);
        }
    }
}

/// A translated backend's answer in fragments: the client gets it from the service.
#[test]
fn fragmented_answers_reach_the_client() {
    let world = world(Mode::Nat);
    let mut id = 0;
    for vip in VIPS.map(ip) {
        for protocol in [TCP, UDP] {
            for (client_tags, answer_tags) in [(0, 0), (1, 0), (2, 1), (0, 2)] {
                let what = format!("{vip} {protocol} {client_tags} {answer_tags}");
                id += 1;
                let mut asked = Fragmented::new(vip, protocol, id);
                asked.raw.vlans = tags()[client_tags].clone();
                asked.payload.truncate(300);
                let asked = asked.raw.frame(&segment(
                    protocol,
                    (client(vip), CLIENT_PORT),
                    (vip, PORT),
                    b"question",
                ));
                let arrived = world.run(&asked).frame;
                let at = network(&arrived).0;
                let (nat, server, _, header) = raw::ends(&arrived[at..]);
                let ports = &arrived[at + header..];
                let nat_port = u16::from_be_bytes([ports[0], ports[1]]);
                let mut answer = Fragmented::new(vip, protocol, id);
                answer.raw.from = server;
                answer.raw.to = nat;
                answer.raw.vlans = tags()[answer_tags].clone();
                answer.raw.source_mac = BACKEND_MAC;
                answer.payload = segment(
                    protocol,
                    (server, BACKEND_PORT),
                    (nat, nat_port),
                    &[3; 3000],
                );
                let frames = answer.frames();
                drops(&world, &frames[1], Verdict::EarlyFragment, &what);
                let seen: Vec<Vec<u8>> = frames
                    .iter()
                    .map(|frame| {
                        let outcome = world.run(frame);
                        let got = (outcome.verdict, outcome.action);
                        assert_eq!(got, (Verdict::NatReturn, TX), "{what}");
                        assert_eq!(outcome.frame[..6], CLIENT_MAC, "{what}");
                        assert_eq!(outcome.frame[6..12], OWN_MAC, "{what}");
                        assert_eq!(network(&outcome.frame).1, tags()[client_tags], "{what}");
                        outcome.frame
                    })
                    .collect();
                let data = segment(
                    protocol,
                    (vip, PORT),
                    (client(vip), CLIENT_PORT),
                    &[3; 3000],
                );
                let expected = Raw::new(vip, client(vip), protocol).packet(&data);
                assert_eq!(reassemble(&seen), expected, "{what}");
            }
        }
    }
}

/// A session that ended meanwhile, or whose place is another's: nobody's rest.
#[test]
fn fragments_of_a_lost_session_are_dropped() {
    let mut world = world(Mode::Nat);
    for vip in VIPS.map(ip) {
        let frames = Fragmented::new(vip, UDP, 5).frames();
        let outcome = world.run(&frames[0]);
        assert_eq!(outcome.verdict, Verdict::Nat);
        let (_, _, _, at) = raw::ends(&outcome.frame[14..]);
        let header = if vip.is_ipv4() { at } else { 48 };
        let port = u16::from_be_bytes([outcome.frame[14 + header], outcome.frame[15 + header]]);
        // Of the family's only address; four to a set.
        let place = u32::from(vip.is_ipv6()) << 16 | u32::from(port);
        assert_ne!(world.get::<16>(maps::NAT, place / 4), [0; 16]);
        world.set::<16>(maps::NAT, place / 4, [0; 16]);
        drops(&world, &frames[1], Verdict::EarlyFragment, "no session");
    }
}

/// Wrapped, all fragments of a packet go the same way: outer addresses and ports are equal.
#[test]
fn wrapped_fragments_go_one_way() {
    for (mode, verdict, _) in [IPIP, GUE] {
        let world = world(mode);
        for vip in VIPS.map(ip) {
            let ends: Vec<Vec<u8>> = Fragmented::new(vip, UDP, 5)
                .frames()
                .iter()
                .map(|frame| {
                    let outcome = world.run(frame);
                    assert_eq!(outcome.verdict, verdict);
                    let packet = &outcome.frame[14..];
                    let (from, _, _, at) = raw::ends(packet);
                    let ports = if mode == Mode::Gue { 4 } else { 0 };
                    [from.to_string().as_bytes(), &packet[at..at + ports]].concat()
                })
                .collect();
            assert!(ends.iter().all(|end| *end == ends[0]), "{ends:?}");
        }
    }
}

#[test]
fn interleaved_packets_stay_apart() {
    let mut world = world(Mode::Dsr);
    set_backends(&mut world, LOCAL.0, 2, true, 5);
    for vip in VIPS.map(ip) {
        let one = Fragmented::new(vip, UDP, 1);
        let mut other = Fragmented::new(vip, UDP, 2);
        other.payload = segment(UDP, (client(vip), CLIENT_PORT + 1), (vip, PORT), &[9; 3000]);
        let (a, b) = (one.frames(), other.frames());
        let run = |world: &World, frame: &Vec<u8>| world.run(frame);
        let mut verdicts = vec![run(&world, &a[0])];
        point_rings_to(&mut world, 2);
        for frame in [&b[0], &b[1], &a[1], &a[2], &b[2]] {
            verdicts.push(run(&world, frame));
        }
        point_rings_to(&mut world, 1);
        let (to_one, to_other): (Vec<_>, Vec<_>) = verdicts
            .into_iter()
            .partition(|outcome| outcome.verdict == Verdict::Dsr);
        let frames = |outcomes: Vec<Outcome>| -> Vec<Vec<u8>> {
            outcomes.into_iter().map(|outcome| outcome.frame).collect()
        };
        assert_arrived(&frames(to_one), &one, Mode::Dsr, 1);
        assert!(to_other.iter().all(|o| o.verdict == Verdict::Local));
        assert_arrived(&frames(to_other), &other, Mode::Local, 2);
    }
}

/// The same identification of another source, to another address, of another protocol: not that
/// packet's.
#[test]
fn fragments_are_told_apart_by_all_of_their_identity() {
    let mut world = world(Mode::Dsr);
    let others = ["192.168.1.77", "fd00:1::77"].map(ip);
    for (vip, other) in VIPS.map(ip).into_iter().zip(others) {
        world.address(other, Role::VIRTUAL);
        let sent = Fragmented::new(vip, UDP, 5);
        assert_eq!(world.run(&sent.frames()[0]).verdict, Verdict::Dsr);
        let change = |change: &dyn Fn(&mut Fragmented)| {
            let mut sent = sent.clone();
            change(&mut sent);
            sent.frames()[1].clone()
        };
        let strangers = [
            change(&|sent| sent.id = 6),
            change(&|sent| sent.raw.to = other),
            change(&|sent| sent.raw.from = other),
        ];
        for frame in strangers {
            drops(&world, &frame, Verdict::EarlyFragment, "a stranger");
        }
        let protocol = change(&|sent| sent.raw.protocol = TCP);
        if vip.is_ipv4() {
            drops(&world, &protocol, Verdict::EarlyFragment, "of TCP");
        } else {
            // RFC 8200 section 4.5: of one packet, whatever the later fragment says it is.
            assert_eq!(world.run(&protocol).verdict, Verdict::Dsr);
        }
        assert_eq!(world.run(&sent.frames()[1]).verdict, Verdict::Dsr);
    }
    // All 32 bits count of an IPv6 identification.
    let sent = Fragmented::new(ip(VIP6), UDP, 0x0001_0005);
    drops(
        &world,
        &sent.frames()[1],
        Verdict::EarlyFragment,
        "upper bits",
    );
}

#[test]
fn a_dead_or_another_backend_gets_no_rest() {
    for (alive, generation) in [(false, 5), (true, 6)] {
        let mut world = world(Mode::Dsr);
        let frames: Vec<_> = VIPS
            .map(|vip| Fragmented::new(ip(vip), UDP, 5).frames())
            .into();
        for frames in &frames {
            assert_eq!(world.run(&frames[0]).verdict, Verdict::Dsr);
        }
        set_backends(&mut world, Mode::Dsr, 1, alive, generation);
        for frames in &frames {
            drops(&world, &frames[1], Verdict::EarlyFragment, "its rest");
        }
        assert_eq!(world.events(Event::FragmentFollowed), 0);
    }
}

/// As the daemon says, which knows the kernel's tick.
#[test]
fn old_entries_are_not_followed() {
    for (vip, lifetime) in [(ip(VIP), 12), (ip(VIP6), 118)] {
        for (age, follows) in [(lifetime - 1, true), (lifetime + 2, false)] {
            let mut world = world(Mode::Dsr);
            let lifetimes = FragmentLifetimes { v4: 12, v6: 118 };
            world.control(Control::FRAGMENT_LIFETIMES, lifetimes.pack());
            let frames = Fragmented::new(vip, UDP, 5).frames();
            world.run(&frames[0]);
            let (set, way, mut words) = recorded(&world).remove(0);
            let seen = (words[5] & 0xf_ffff).wrapping_sub(age) & 0xf_ffff;
            words[5] = words[5] & !0xf_ffff | seen;
            let mut all: [u64; 32] = world.get(maps::FRAGMENTS, set);
            all[8 * way..8 * way + 8].copy_from_slice(&words);
            world.set(maps::FRAGMENTS, set, all);
            if follows {
                assert_eq!(world.run(&frames[1]).verdict, Verdict::Dsr);
            } else {
                drops(&world, &frames[1], Verdict::EarlyFragment, "too old");
            }
        }
    }
}

/// All entries: set, way, words.
fn recorded(world: &World) -> Vec<(u32, usize, [u64; 8])> {
    let mut found = Vec::new();
    for set in 0..FRAGMENT_SETS {
        let words: [u64; 32] = world.get(maps::FRAGMENTS, set);
        for (way, entry) in words.chunks_exact(8).enumerate() {
            if entry[5] != 0 {
                found.push((set, way, entry.try_into().unwrap()));
            }
        }
    }
    found
}

/// 50,000 packets that are begun and never ended take the table's places and no more; those that
/// come after them still arrive.
#[test]
fn a_flood_stays_bounded() {
    let world = world(Mode::Dsr);
    let mut frame = Fragmented::new(ip(VIP), UDP, 5).frames().swap_remove(0);
    for n in 0..50_000_u32 {
        frame[26..30].copy_from_slice(&(0x0a00_0000 | n).to_be_bytes());
        world.run_uncounted(&frame);
    }
    let places = u64::from(FRAGMENT_SETS) * 4;
    let filled = recorded(&world).len() as u64;
    assert!(filled <= places && filled > places * 99 / 100, "{filled}");
    assert_eq!(world.events(Event::FragmentRecorded), 50_000);
    assert_eq!(world.events(Event::FragmentEvicted), 50_000 - filled);
    for vip in VIPS.map(ip) {
        let sent = Fragmented::new(vip, UDP, 6);
        let seen = run_all(&world, &sent.frames(), DSR, "after the flood");
        assert_arrived(&seen, &sent, Mode::Dsr, 1);
    }
}

/// A first fragment sent twice takes one place.
#[test]
fn a_first_fragment_again_is_recorded_once() {
    let world = world(Mode::Dsr);
    for vip in VIPS.map(ip) {
        for _ in 0..3 {
            world.run(&Fragmented::new(vip, UDP, 5).frames()[0]);
        }
    }
    assert_eq!(recorded(&world).len(), 2);
    assert_eq!(world.events(Event::FragmentEvicted), 0);
}

/// Large echo requests, other protocols, other ports: the stack's, all of their fragments.
#[test]
fn what_no_service_is_for_passes() {
    let mut world = world(Mode::Dsr);
    let endpoints = ["192.168.1.30", "fd00:1::30"].map(ip);
    for address in endpoints {
        world.address(address, Role::ENDPOINT);
    }
    for (vip, endpoint) in VIPS.map(ip).into_iter().zip(endpoints) {
        let from = client(vip);
        let ask = message(
            from,
            vip,
            [if vip.is_ipv4() { 8 } else { 128 }, 0],
            1,
            &[5; 3000],
        );
        let mut ping = Fragmented::new(vip, icmp_of(vip), 5);
        ping.payload = ask;
        let mut other_port = Fragmented::new(vip, UDP, 6);
        other_port.payload = segment(UDP, (from, CLIENT_PORT), (vip, 53), &[5; 3000]);
        let wrapped = Fragmented::new(vip, if vip.is_ipv4() { 4 } else { 41 }, 7);
        let mut elsewhere = Fragmented::new(vip, UDP, 8);
        elsewhere.raw.to = endpoint;
        for sent in [ping, other_port, wrapped, elsewhere] {
            for frame in sent.frames() {
                passes(
                    &world,
                    &frame,
                    Verdict::NoService,
                    &format!("{:?}", sent.raw),
                );
            }
        }
    }
    assert_eq!(world.events(Event::FragmentRecorded), 8);
    assert_eq!(world.events(Event::FragmentFollowed), 16);
}

/// Another CPU is writing the entry: who reads it does not follow it, who would write it does not.
#[test]
fn an_entry_that_is_being_written_is_nobodys() {
    const CLAIMED: u64 = 1;
    let mut world = world(Mode::Dsr);
    let frames = Fragmented::new(ip(VIP), UDP, 5).frames();
    world.run(&frames[0]);
    let (set, way, _) = recorded(&world).remove(0);
    let mut words: [u64; 32] = world.get(maps::FRAGMENTS, set);
    words[8 * way + 5] = CLAIMED;
    world.set(maps::FRAGMENTS, set, words);
    drops(&world, &frames[1], Verdict::EarlyFragment, "half written");
    assert_eq!(world.run(&frames[0]).verdict, Verdict::Dsr);
    assert_eq!(world.get::<32>(maps::FRAGMENTS, set), words);
    assert_eq!(world.events(Event::FragmentRecorded), 1);
}

#[test]
fn without_a_backend_the_host_takes_all_of_it() {
    let mut world = World::new();
    world.service(1, ip(VIP), PORT, UDP, &[]);
    for frame in Fragmented::new(ip(VIP), UDP, 5).frames() {
        passes(&world, &frame, Verdict::NoBackend, "no backend");
    }
}

#[test]
fn other_hosts_fragments_pass() {
    let world = world(Mode::Dsr);
    let strangers = ["192.168.1.24", "fd00:1::24"].map(ip);
    for (vip, stranger) in VIPS.map(ip).into_iter().zip(strangers) {
        let sent = Fragmented::new(vip, UDP, 5);
        for (n, frame) in sent.frames().iter().enumerate() {
            let mut flooded = frame.clone();
            flooded[..6].copy_from_slice(&[2, 9, 9, 9, 9, 9]);
            passes(&world, &flooded, Verdict::OtherHost, &format!("{n}"));
            let mut steered = frame.clone();
            steered[6..12].copy_from_slice(&PEER_MAC);
            passes(&world, &steered, Verdict::Delivered, &format!("{n}"));
        }
        // What a peer sends to another address than a virtual one is its own.
        let mut sent = sent;
        sent.raw.to = nat_address(vip);
        sent.raw.source_mac = PEER_MAC;
        let frame = &sent.frames()[1];
        drops(&world, frame, Verdict::EarlyFragment, "a peer's own");
        sent.raw.to = stranger;
        for frame in sent.frames() {
            passes(&world, &frame, Verdict::NotVip, "a stranger's");
        }
    }
    assert_eq!(recorded(&world).len(), 0);
}

/// An IPv6 packet with a fragment header that is whole (RFC 6946).
#[test]
fn atomic_fragments_are_whole_packets() {
    for way in WAYS {
        let world = world(way.0);
        for protocol in [TCP, UDP] {
            let mut sent = Fragmented::new(ip(VIP6), protocol, 5);
            sent.payload = segment(
                protocol,
                (client(sent.raw.to), CLIENT_PORT),
                (sent.raw.to, PORT),
                &[7; 1000],
            );
            let seen = run_all(&world, &sent.frames(), way, "atomic");
            assert_arrived(&seen, &sent, way.0, 1);
        }
        assert_eq!(recorded(&world).len(), 0);
    }
}

/// A frame with a fragment of these bytes.
fn fragment(vip: IpAddr, protocol: u8, at: (usize, bool), payload: &[u8]) -> Vec<u8> {
    Raw {
        fragment: Some((9, at.0, at.1)),
        ..Raw::new(client(vip), vip, protocol)
    }
    .frame(payload)
}

/// RFC 1858, and the overlap of the header by the second fragment.
#[test]
fn tiny_fragments_are_dropped() {
    for vip in VIPS.map(ip) {
        let world = world(Mode::Dsr);
        let bytes = segment(TCP, (client(vip), CLIENT_PORT), (vip, PORT), &[7; 64]);
        for length in [8, 16] {
            let frame = fragment(vip, TCP, (0, true), &bytes[..length]);
            drops(&world, &frame, Verdict::TinyFragment, "not all of a header");
        }
        assert_eq!(recorded(&world).len(), 0, "and not recorded");
        let whole = fragment(vip, TCP, (0, true), &bytes[..24]);
        assert_eq!(world.run(&whole).verdict, Verdict::Dsr);
        for offset in [8, 16] {
            let frame = fragment(vip, TCP, (offset, true), &bytes[offset..offset + 16]);
            drops(&world, &frame, Verdict::TinyFragment, "over the header");
        }
        let behind = fragment(vip, TCP, (24, false), &bytes[24..]);
        assert_eq!(world.run(&behind).verdict, Verdict::Dsr);
        let least = fragment(vip, UDP, (0, true), &bytes[..8]);
        let verdict = world.run(&least).verdict;
        assert_ne!(verdict, Verdict::TinyFragment, "a UDP header is enough");
    }
}

#[test]
fn fragments_of_nonsense_are_dropped() {
    let world = world(Mode::Dsr);
    for vip in VIPS.map(ip) {
        for protocol in [UDP, icmp_of(vip)] {
            let bad = |at, payload: &[u8], what| {
                let frame = fragment(vip, protocol, at, payload);
                drops(&world, &frame, Verdict::BadLength, what);
            };
            bad((0, true), &[7; 13], "not a multiple of eight");
            bad((80, true), &[7; 9], "not a multiple of eight");
            bad((0, true), &[], "the first is empty");
            bad((80, true), &[], "a middle one is empty");
            bad((80, false), &[], "the last is empty");
            bad((65_528, false), &[7; 8], "beyond what a packet can be");
            bad((65_000, true), &[7; 1000], "beyond what a packet can be");
            for length in [1_u16, 19, 8000] {
                let mut frame = fragment(vip, protocol, (80, false), &[7; 16]);
                let at = if vip.is_ipv4() { 16 } else { 18 };
                let length = if vip.is_ipv4() || length > 100 {
                    length
                } else {
                    8
                };
                frame[at..at + 2].copy_from_slice(&length.to_be_bytes());
                drops(&world, &frame, Verdict::BadLength, "its length");
            }
        }
        let last = if vip.is_ipv4() { 7 } else { 15 };
        let frame = fragment(vip, UDP, (65_528 - 24, false), &vec![7; last]);
        drops(&world, &frame, Verdict::EarlyFragment, "the longest packet");
    }
    assert_eq!(recorded(&world).len(), 0);
}

/// Cut anywhere, a fragment is not what its header says.
#[test]
fn cut_at_every_length() {
    let world = world(Mode::Dsr);
    for vip in VIPS.map(ip) {
        for vlans in tags() {
            let mut sent = Fragmented::new(vip, UDP, 5);
            sent.raw.vlans = vlans;
            sent.step = 64;
            for whole in &sent.frames()[..2] {
                assert_eq!(world.run(whole).verdict, Verdict::Dsr);
                for length in 14..whole.len() {
                    let outcome = world.run(&whole[..length]);
                    let verdicts = [Verdict::Truncated, Verdict::BadLength];
                    assert!(verdicts.contains(&outcome.verdict), "{outcome:?}");
                    assert_eq!(outcome.frame, whole[..length]);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    /// What is not sent on is as it was.
    #[test]
    fn mutated_fragments(
        v6: bool, udp: bool, tag in 0..3_usize, which in 0..3_usize,
        changes in prop::collection::vec((12..110_usize, any::<u8>()), 0..5),
        cut in 0..200_usize,
    ) {
        thread_local!(static WORLD: World = world(Mode::Dsr));
        let vip = ip(VIPS[usize::from(v6)]);
        let mut sent = Fragmented::new(vip, if udp { UDP } else { TCP }, 5);
        sent.raw.vlans = tags()[tag].clone();
        sent.payload.truncate(120);
        sent.step = 48;
        let frames = sent.frames();
        let mut frame = frames[which].clone();
        for (at, byte) in changes {
            if let Some(place) = frame.get_mut(at) {
                *place = byte;
            }
        }
        if cut >= 14 {
            frame.truncate(cut);
        }
        let outcome = WORLD.with(|world| {
            world.run(&frames[0]);
            world.run(&frame)
        });
        if outcome.verdict == Verdict::Dsr {
            prop_assert_eq!(&outcome.frame[..6], &BACKEND_MAC);
        } else if outcome.verdict != Verdict::Echo {
            prop_assert_eq!(&outcome.frame, &frame);
        }
    }
}
