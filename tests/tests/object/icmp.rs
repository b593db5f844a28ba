//! ICMP to an address of ours: echo, errors that are steered by what they quote, and what the
//! stack gets as it is.

use std::net::IpAddr;

use proptest::prelude::*;
use steerd_ebpf::{
    abi::{Affinity, Mode, Policy, Role, Scheduler, maps},
    event::Event,
    flow::State,
    verdict::Verdict,
};

use crate::{
    modes::{
        BACKEND_PORT, CLIENT_PORT, VIPS, WAYS, backend, backend_address, client, nat_address,
        point_rings_to, service, set_backends, tags, untag, unwrapped, world,
    },
    packets::{PORT, Spec, Transport, VIP, VIP6, ip},
    raw::{self, Raw, TCP, UDP, icmp_of, message, segment},
    world::{BACKEND_MAC, CLIENT_MAC, DROP, OWN_MAC, Outcome, PASS, PEER_MAC, TX, World},
};

fn router(vip: IpAddr) -> IpAddr {
    ip(if vip.is_ipv4() {
        "10.9.9.9"
    } else {
        "fd00:9::9"
    })
}

/// A packet, without its frame.
fn packet(protocol: u8, from: (IpAddr, u16), to: (IpAddr, u16)) -> Vec<u8> {
    let segment = segment(protocol, from, to, b"what the service said");
    Raw::new(from.0, to.0, protocol).packet(&segment)
}

/// How much of a packet may be quoted: eight bytes of transport header, as much as has TCP's
/// checksum, all.
fn quoted(packet: &[u8]) -> [usize; 3] {
    let (_, _, _, at) = raw::ends(packet);
    [at + 8, at + 18, packet.len()]
}

/// What a service sent to the client.
fn sent(vip: IpAddr, protocol: u8) -> Vec<u8> {
    packet(protocol, (vip, PORT), (client(vip), CLIENT_PORT))
}

/// A router's error about a packet.
fn error(vip: IpAddr, kind: [u8; 2], quote: &[u8], vlans: &[u16]) -> Vec<u8> {
    let from = router(vip);
    Raw {
        vlans: vlans.to_vec(),
        ..Raw::new(from, vip, icmp_of(vip))
    }
    .frame(&message(from, vip, kind, 1400, quote))
}

/// Every error that is steered.
fn errors(vip: IpAddr) -> Vec<[u8; 2]> {
    if vip.is_ipv4() {
        let mut errors: Vec<[u8; 2]> = (0..=15).map(|code| [3, code]).collect();
        errors.extend([[11, 0], [11, 1], [12, 0], [12, 2]]);
        errors
    } else {
        let mut errors: Vec<[u8; 2]> = (0..=6).map(|code| [1, code]).collect();
        errors.extend([[2, 0], [3, 0], [3, 1], [4, 0], [4, 1], [4, 2]]);
        errors
    }
}

fn passes(world: &World, frame: &[u8], verdict: Verdict, what: &str) {
    let expected = Outcome {
        verdict,
        action: PASS,
        frame: frame.to_vec(),
    };
    assert_eq!(world.run(frame), expected, "{what}");
}

fn echo(vip: IpAddr) -> (Raw, Vec<u8>) {
    let kind = [if vip.is_ipv4() { 8 } else { 128 }, 0];
    let from = client(vip);
    let request = message(from, vip, kind, 0x1234_0001, b"are you there?");
    (Raw::new(from, vip, icmp_of(vip)), request)
}

/// In every mode, by what a host would have built: its bytes are compared with an answer built from
/// nothing.
#[test]
fn echo_requests_are_answered() {
    for (mode, ..) in WAYS {
        echoes(&world(mode));
    }
}

fn echoes(world: &World) {
    for vip in VIPS.map(ip) {
        for vlans in tags() {
            for length in [0, 1, 56, 1400] {
                for ttl in [1, 63, 64, 255] {
                    let data: Vec<u8> = (0..length).map(|n| (n * 7) as u8).collect();
                    let ask = [if vip.is_ipv4() { 8 } else { 128 }, 0];
                    let tell = [if vip.is_ipv4() { 0 } else { 129 }, 0];
                    let from = client(vip);
                    let raw = Raw {
                        ttl,
                        vlans: vlans.clone(),
                        ..Raw::new(from, vip, icmp_of(vip))
                    };
                    let request = raw.frame(&message(from, vip, ask, 0x1234_0001, &data));
                    let answer = Raw {
                        from: vip,
                        to: from,
                        ttl: 64,
                        source_mac: raw.destination_mac,
                        destination_mac: raw.source_mac,
                        ..raw
                    }
                    .frame(&message(vip, from, tell, 0x1234_0001, &data));
                    let expected = Outcome {
                        verdict: Verdict::Echo,
                        action: TX,
                        frame: answer,
                    };
                    assert_eq!(world.run(&request), expected, "{vip} {vlans:?} {length}");
                }
            }
        }
    }
}

/// What the program does not answer the stack may.
#[test]
fn other_echo_requests_pass() {
    let mut world = world(Mode::Dsr);
    let endpoints = ["192.168.1.30", "fd00:1::30"].map(ip);
    for address in endpoints {
        world.address(address, Role::ENDPOINT);
    }
    for (vip, endpoint) in VIPS.map(ip).into_iter().zip(endpoints) {
        let (raw, request) = echo(vip);
        let frame = |raw: Raw| raw.frame(&request);
        let to = |to| frame(Raw { to, ..raw.clone() });
        passes(&world, &to(endpoint), Verdict::NoService, "not virtual");
        let own = Raw {
            to: endpoint,
            source_mac: PEER_MAC,
            ..raw.clone()
        };
        passes(&world, &frame(own), Verdict::NoService, "a peer's own");
        let strangers = ["192.168.1.24", "fd00:1::24"].map(ip);
        let stranger = strangers[usize::from(vip.is_ipv6())];
        passes(&world, &to(stranger), Verdict::NotVip, "a stranger's");
        let peers = Raw {
            source_mac: PEER_MAC,
            ..raw.clone()
        };
        passes(&world, &frame(peers), Verdict::Delivered, "from a peer");
        let flooded = Raw {
            destination_mac: [2, 9, 9, 9, 9, 9],
            ..raw.clone()
        };
        passes(&world, &frame(flooded), Verdict::OtherHost, "flooded");
        let nobodies = if vip.is_ipv4() {
            ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255"]
        } else {
            ["::", "::1", "ff02::1", "ff05::2"]
        };
        for from in nobodies.map(ip) {
            let frame = frame(Raw {
                from,
                ..raw.clone()
            });
            passes(&world, &frame, Verdict::NoService, "no answer could arrive");
        }
        // Says it is longer, or shorter than its header.
        let length_at = if vip.is_ipv4() { 16 } else { 18 };
        let lengths: [u16; 4] = if vip.is_ipv4() {
            [1000, 27, 20, 0]
        } else {
            [1000, 7, 1, 0]
        };
        for length in lengths {
            let mut frame = frame(raw.clone());
            frame[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
            passes(&world, &frame, Verdict::NoService, "a bad length");
        }
        let mut land = raw.clone();
        land.from = vip;
        let outcome = world.run(&frame(land));
        assert_eq!((outcome.verdict, outcome.action), (Verdict::Land, DROP));
    }
    let (raw, request) = echo(ip(VIP));
    let record_route = vec![7, 7, 4, 0, 0, 0, 0, 1];
    let frame = Raw {
        options: record_route,
        ..raw
    }
    .frame(&request);
    passes(&world, &frame, Verdict::NoService, "options");
    let (raw, request) = echo(ip(VIP6));
    let mut extended = vec![58, 0, 1, 4, 0, 0, 0, 0];
    extended.extend(request);
    let frame = Raw {
        protocol: 60,
        ..raw
    }
    .frame(&extended);
    passes(&world, &frame, Verdict::NoService, "destination options");
}

/// Neighbour discovery, multicast listeners, redirects, answers to the host's own requests.
#[test]
fn other_messages_pass() {
    let world = world(Mode::Dsr);
    for vip in VIPS.map(ip) {
        let steered = errors(vip);
        let quote = sent(vip, TCP);
        for kind in 0..=255 {
            let is_echo = kind == if vip.is_ipv4() { 8 } else { 128 };
            if is_echo || steered.iter().any(|steered| steered[0] == kind) {
                continue;
            }
            for vlans in tags() {
                let frame = error(vip, [kind, 0], &quote, &vlans);
                passes(&world, &frame, Verdict::NoService, &format!("type {kind}"));
            }
        }
    }
    assert_eq!(world.events(Event::IcmpSteered), 0);
}

/// In every mode, family, protocol, kind of error and tag: to the backend that the flow table
/// knows, and to the ring's where it knows none.
#[test]
fn errors_go_to_the_flows_backend() {
    for (mode, verdict, action) in WAYS {
        for known in [false, true] {
            // Which client is meant only a session knows.
            if mode == Mode::Nat && !known {
                continue;
            }
            let mut world = world(mode);
            let number = if known { 2 } else { 1 };
            let mut sources = Vec::new();
            if known {
                // The flows are those of the second backends; the rings then name the first.
                point_rings_to(&mut world, 2);
                sources = flows().iter().map(|spec| source(&world, spec)).collect();
                point_rings_to(&mut world, 1);
            }
            let mut steered = 0;
            for vip in VIPS.map(ip) {
                for protocol in [TCP, UDP] {
                    let backend = backend(service(vip, protocol), number);
                    let source = sources.get(service(vip, protocol) as usize - 1);
                    let seen = match source {
                        Some(&source) if mode == Mode::Nat => packet(
                            protocol,
                            (backend_address(vip, number), BACKEND_PORT),
                            source,
                        ),
                        _ => sent(vip, protocol),
                    };
                    for (kind, vlans) in each(errors(vip), tags()) {
                        let what = format!("{mode:?} {vip} {protocol} {kind:?} {vlans:?}");
                        let quote = sent(vip, protocol);
                        for length in quoted(&quote) {
                            let frame = error(vip, kind, &quote[..length], &vlans);
                            let before = world.counter(maps::BACKEND_STATS, backend).packets;
                            let outcome = world.run(&frame);
                            let got = (outcome.verdict, outcome.action);
                            assert_eq!(got, (verdict, action), "{what}");
                            let after = world.counter(maps::BACKEND_STATS, backend).packets;
                            assert_eq!(after - before, 1, "{what}");
                            let expected = delivered(mode, vip, kind, &seen[..length], &vlans);
                            let frame = unwrapped(mode, outcome.frame);
                            assert_eq!(frame, expected, "{what} {length}");
                            steered += 1;
                        }
                    }
                }
            }
            assert_eq!(world.events(Event::IcmpSteered), steered);
            if !known {
                let recorded = world.events(Event::FlowRecorded);
                assert_eq!(recorded, 0, "an error opens no flow");
            }
        }
    }
}

fn each<A: Clone, B: Clone>(
    first: impl IntoIterator<Item = A>,
    second: impl IntoIterator<Item = B>,
) -> Vec<(A, B)> {
    let second: Vec<B> = second.into_iter().collect();
    first
        .into_iter()
        .flat_map(|a| second.iter().map(move |b| (a.clone(), b.clone())))
        .collect()
}

/// Sends a client's first packet; returns whom it seems to be from where it arrives.
fn source(world: &World, spec: &Spec) -> (IpAddr, u16) {
    let frame = world.run(&spec.build()).frame;
    let packet = &frame[14 + 4 * spec.vlans.len().saturating_sub(1)..];
    let (from, _, _, at) = raw::ends(packet);
    (from, u16::from_be_bytes([packet[at], packet[at + 1]]))
}

/// An error as it arrives at the backend that sent what it quotes, built from nothing.
fn delivered(mode: Mode, vip: IpAddr, kind: [u8; 2], quote: &[u8], vlans: &[u16]) -> Vec<u8> {
    if mode == Mode::Local {
        return error(vip, kind, quote, vlans);
    }
    let (from, to) = match mode {
        Mode::Nat => (router(vip), raw::ends(quote).0),
        _ => (router(vip), vip),
    };
    let mut frame = Raw {
        ttl: 63,
        vlans: vlans.to_vec(),
        source_mac: OWN_MAC,
        destination_mac: BACKEND_MAC,
        ..Raw::new(from, to, icmp_of(vip))
    }
    .frame(&message(from, to, kind, 1400, quote));
    untag(&mut frame);
    frame
}

/// Errors about what was sent to a backend, or from there: its client gets them from the service,
/// about its own packet, in a frame as its own came.
#[test]
fn errors_about_translated_packets_reach_the_client() {
    let world = world(Mode::Nat);
    for spec in flows() {
        for client_tags in tags() {
            let spec = Spec {
                vlans: client_tags.clone(),
                ..spec.clone()
            };
            let vip = spec.to;
            let protocol = if spec.transport == Transport::Udp {
                UDP
            } else {
                TCP
            };
            let (nat, nat_port) = source(&world, &spec);
            assert_eq!(nat, nat_address(vip));
            let server = (backend_address(vip, 1), BACKEND_PORT);
            let quote = packet(protocol, (nat, nat_port), server);
            let own = packet(protocol, (client(vip), CLIENT_PORT), (vip, PORT));
            for (kind, vlans) in each(errors(vip), tags()) {
                for (length, from) in each(quoted(&quote), [router(vip), server.0]) {
                    let frame = Raw {
                        vlans: vlans.clone(),
                        source_mac: BACKEND_MAC,
                        ..Raw::new(from, nat, icmp_of(vip))
                    }
                    .frame(&message(from, nat, kind, 1400, &quote[..length]));
                    let expected = Raw {
                        ttl: 63,
                        vlans: client_tags.clone(),
                        source_mac: OWN_MAC,
                        destination_mac: CLIENT_MAC,
                        ..Raw::new(vip, client(vip), icmp_of(vip))
                    }
                    .frame(&message(
                        vip,
                        client(vip),
                        kind,
                        1400,
                        &own[..length],
                    ));
                    let outcome = world.run(&frame);
                    let what = format!("{spec:?} {kind:?} {vlans:?} {length}");
                    assert_eq!(outcome.verdict, Verdict::NatReturn, "{what}");
                    assert_eq!((outcome.action, outcome.frame), (TX, expected), "{what}");
                }
            }
            // Not what was sent, or not there.
            let others = [
                packet(protocol, (nat, nat_port ^ 1), server),
                packet(protocol, (nat, nat_port), (server.0, 1)),
                packet(protocol, (nat, nat_port), (router(vip), BACKEND_PORT)),
                packet(TCP + UDP - protocol, (nat, nat_port), server),
            ];
            for quote in others {
                let frame = Raw::new(router(vip), nat, icmp_of(vip)).frame(&message(
                    router(vip),
                    nat,
                    errors(vip)[0],
                    0,
                    &quote,
                ));
                passes(&world, &frame, Verdict::NatUnknown, "no such session");
            }
        }
    }
}

/// A client's packet without UDP checksum: what is quoted of it has none either.
#[test]
fn a_quoted_datagram_without_checksum_stays_so() {
    let world = world(Mode::Nat);
    let vip = ip(VIP);
    let nat = source(&world, &Spec::v4(Transport::Udp));
    let without = |mut packet: Vec<u8>| {
        packet[26..28].fill(0);
        packet
    };
    let outcome = world.run(&error(vip, [3, 4], &without(sent(vip, UDP)), &[]));
    let seen = without(packet(UDP, (backend_address(vip, 1), BACKEND_PORT), nat));
    assert_eq!(outcome.frame, delivered(Mode::Nat, vip, [3, 4], &seen, &[]));
}

/// A translated flow of which nothing is known: whom the backend knows as the client nobody can
/// say.
#[test]
fn errors_of_unknown_sessions_pass() {
    let world = world(Mode::Nat);
    for vip in VIPS.map(ip) {
        for protocol in [TCP, UDP] {
            let frame = error(vip, errors(vip)[0], &sent(vip, protocol), &[]);
            passes(&world, &frame, Verdict::NoService, "no session");
        }
    }
}

/// The client's first packets, in the order of the services.
fn flows() -> Vec<Spec> {
    let first = [Transport::Syn, Transport::Udp];
    first
        .map(Spec::v4)
        .into_iter()
        .chain(first.map(Spec::v6))
        .collect()
}

/// Anybody can send an error: it neither keeps a flow nor moves its state.
#[test]
fn errors_leave_flows_alone() {
    let world = world(Mode::Dsr);
    for spec in flows() {
        world.run(&spec.build());
    }
    for vip in VIPS.map(ip) {
        let before = world
            .flow(client(vip), CLIENT_PORT, service(vip, TCP))
            .unwrap();
        assert_eq!(before.state, State::New);
        world.run(&error(vip, errors(vip)[0], &sent(vip, TCP), &[]));
        let after = world
            .flow(client(vip), CLIENT_PORT, service(vip, TCP))
            .unwrap();
        assert_eq!(after, before);
    }
    assert_eq!(world.events(Event::IcmpSteered), 2);
}

/// A flow's backend died, or its number is another's now: the error goes where the flow's next
/// packet will.
#[test]
fn errors_of_a_dead_backends_flow_follow_the_ring() {
    for (alive, generation) in [(false, 5), (true, 6)] {
        let mut world = world(Mode::Dsr);
        for spec in flows() {
            world.run(&spec.build());
        }
        set_backends(&mut world, Mode::Dsr, 1, alive, generation);
        point_rings_to(&mut world, 2);
        for vip in VIPS.map(ip) {
            world.run(&error(vip, errors(vip)[0], &sent(vip, TCP), &[]));
            let second = backend(service(vip, TCP), 2);
            assert_eq!(world.counter(maps::BACKEND_STATS, second).packets, 1);
        }
    }
}

/// Schedulers that remember: an error takes no turn, and is nobody's where the table knows no flow.
#[test]
fn errors_take_no_turn() {
    for scheduler in [Scheduler::Sequence, Scheduler::LeastConnections] {
        let mut world = World::new();
        world.backend(1, Mode::Dsr, true, 5, crate::world::INGRESS);
        world.set::<2>(maps::LOADS, 1, [0, 1]);
        let affinity = Affinity {
            prefix: 128,
            port: true,
        };
        let policy = Policy::new(scheduler, affinity, 0, false, false, false);
        let slot = world.service_with(1, ip(VIP), PORT, TCP, &[1], policy);
        let frame = error(ip(VIP), [3, 4], &sent(ip(VIP), TCP), &[]);
        passes(&world, &frame, Verdict::NoService, "unknown flow");
        assert_eq!(world.get::<8>(maps::SERVICES, slot)[7], 0, "its cursor");
        assert_eq!(world.get::<2>(maps::LOADS, 1), [0, 1]);
        world.run(&Spec::v4(Transport::Syn).build());
        let turns = world.get::<8>(maps::SERVICES, slot)[7];
        let loads = world.get::<2>(maps::LOADS, 1);
        assert_eq!(world.run(&frame).verdict, Verdict::Dsr);
        assert_eq!(world.get::<8>(maps::SERVICES, slot)[7], turns);
        assert_eq!(world.get::<2>(maps::LOADS, 1), loads);
    }
}

#[test]
fn a_quote_may_have_options_and_be_a_first_fragment() {
    let world = world(Mode::Dsr);
    let (vip, client) = (ip(VIP), client(ip(VIP)));
    let segment = segment(UDP, (vip, PORT), (client, CLIENT_PORT), b"data");
    for words in 0..=10 {
        for more in [false, true] {
            let quote = Raw {
                options: vec![1; 4 * words],
                fragment: Some((9, 0, more)),
                ..Raw::new(vip, client, UDP)
            }
            .packet(&segment);
            let outcome = world.run(&error(vip, [3, 4], &quote, &[]));
            assert_eq!(outcome.verdict, Verdict::Dsr, "{words} words, {more}");
            // No more of the transport header than an error has to quote.
            let least = &quote[..20 + 4 * words + 8];
            let outcome = world.run(&error(vip, [3, 4], least, &[]));
            assert_eq!(outcome.verdict, Verdict::Dsr, "{words} words, {more}");
            let short = &least[..least.len() - 1];
            let frame = error(vip, [3, 4], short, &[]);
            passes(&world, &frame, Verdict::NoService, "too little is quoted");
        }
    }
}

/// A backend's first fragment, or one with options: each header that a host may send, alone and
/// behind others, tells the error's backend as the bare packet would.
#[test]
fn a_quote_may_have_extension_headers() {
    let (vip, client) = (ip(VIP6), client(ip(VIP6)));
    let chains: [&[u8]; 7] = [
        &[44],
        &[60],
        &[0],
        &[43],
        &[51],
        &[0, 60, 43, 44, 51, 60],
        &[60; 6],
    ];
    for (mode, verdict, action) in WAYS {
        let world = world(mode);
        for protocol in [TCP, UDP] {
            // A flow, and for mode nat its session: whose packets the backend sends.
            let transport = if protocol == TCP {
                Transport::Syn
            } else {
                Transport::Udp
            };
            let spec = Spec {
                transport,
                ..Spec::v6(Transport::Syn)
            };
            world.run(&spec.build());
            let segment = segment(protocol, (vip, PORT), (client, CLIENT_PORT), b"data");
            let bare = Raw::new(vip, client, protocol).packet(&segment);
            let answer = world.run(&error(vip, [2, 0], &bare, &[]));
            if mode != Mode::Nat {
                assert_eq!((answer.verdict, answer.action), (verdict, action));
            }
            for chain in chains {
                let quote = extended(vip, client, chain, protocol, &segment);
                let outcome = world.run(&error(vip, [2, 0], &quote, &[]));
                let what = format!("{mode:?} {protocol} {chain:?}");
                assert_eq!(
                    (outcome.verdict, outcome.action),
                    (answer.verdict, answer.action),
                    "{what}"
                );
                let least = &quote[..quote.len() - segment.len() + 8];
                let outcome = world.run(&error(vip, [2, 0], least, &[]));
                assert_eq!(outcome.verdict, answer.verdict, "{what}");
                let short = error(vip, [2, 0], &least[..least.len() - 1], &[]);
                passes(&world, &short, Verdict::NoService, "too little is quoted");
            }
            for (chain, what) in [(&[60; 7][..], "too many"), (&[135], "mobility")] {
                let quote = extended(vip, client, chain, protocol, &segment);
                let frame = error(vip, [2, 0], &quote, &[]);
                passes(&world, &frame, Verdict::NoService, what);
            }
        }
    }
}

/// A packet with these extension headers, each of eight bytes.
fn extended(from: IpAddr, to: IpAddr, chain: &[u8], protocol: u8, segment: &[u8]) -> Vec<u8> {
    let mut payload = Vec::new();
    for (n, kind) in chain.iter().enumerate() {
        let next = chain.get(n + 1).copied().unwrap_or(protocol);
        payload.extend(match kind {
            // The first fragment; more follow.
            44 => [next, 0, 0, 1, 0, 0, 0, 7],
            // No segments left.
            43 => [next, 0, 4, 0, 0, 0, 0, 0],
            51 => [next, 0, 0, 0, 0, 0, 0, 1],
            _ => [next, 0, 1, 4, 0, 0, 0, 0],
        });
    }
    payload.extend(segment);
    Raw::new(from, to, chain[0]).packet(&payload)
}

#[test]
fn quotes_that_say_nothing_pass() {
    let world = world(Mode::Dsr);
    for vip in VIPS.map(ip) {
        let kind = errors(vip)[0];
        let client = client(vip);
        let whole = sent(vip, TCP);
        let refused = |quote: &[u8], what: &str| {
            for vlans in tags() {
                let frame = error(vip, kind, quote, &vlans);
                passes(&world, &frame, Verdict::NoService, what);
            }
        };
        let later = Raw {
            fragment: Some((9, 1480, false)),
            ..Raw::new(vip, client, TCP)
        };
        refused(&later.packet(&[0; 64]), "a later fragment");
        let from = |from, port, protocol| {
            let segment = segment(protocol, (from, port), (client, CLIENT_PORT), b"data");
            Raw::new(from, client, protocol).packet(&segment)
        };
        refused(&from(router(vip), PORT, TCP), "sent by another host");
        refused(&from(vip, 22, TCP), "of no service");
        let pong = message(
            vip,
            client,
            [if vip.is_ipv4() { 0 } else { 129 }, 0],
            1,
            b"",
        );
        refused(
            &Raw::new(vip, client, icmp_of(vip)).packet(&pong),
            "an answer to an echo request",
        );
        let mut version = whole.clone();
        version[0] ^= 0x20;
        refused(&version, "another version");
        if vip.is_ipv4() {
            let mut header = whole.clone();
            header[0] = 0x44;
            refused(&header, "a header too short");
        } else {
            let mut extended = whole.clone();
            extended[6] = 60;
            refused(&extended, "an extension header");
            let mut fragment = whole.clone();
            fragment[6] = 44;
            refused(&fragment, "a fragment header");
        }
        for length in 0..whole.len() {
            let header = if vip.is_ipv4() { 20 } else { 40 };
            if length < header + 8 {
                refused(&whole[..length], &format!("cut to {length}"));
            }
        }
    }
}

#[test]
fn errors_lose_a_hop() {
    let world = world(Mode::Dsr);
    for vip in VIPS.map(ip) {
        let from = router(vip);
        let raw = Raw {
            ttl: 1,
            ..Raw::new(from, vip, icmp_of(vip))
        };
        let frame = raw.frame(&message(from, vip, errors(vip)[0], 0, &sent(vip, TCP)));
        let expected = Outcome {
            verdict: Verdict::TtlExpired,
            action: DROP,
            frame: frame.clone(),
        };
        assert_eq!(world.run(&frame), expected);
    }
}

/// Cut anywhere, a message is answered or steered if what says so is there, and else as it was.
#[test]
fn cut_at_every_length() {
    let world = world(Mode::Dsr);
    for vip in VIPS.map(ip) {
        let (raw, request) = echo(vip);
        for vlans in tags() {
            let raw = Raw {
                vlans: vlans.clone(),
                ..raw.clone()
            };
            for whole in [
                raw.frame(&request),
                error(vip, errors(vip)[0], &sent(vip, TCP), &vlans),
            ] {
                for length in 14..whole.len() {
                    let cut = &whole[..length];
                    let outcome = world.run(cut);
                    // Its header says that it is longer.
                    assert_eq!((outcome.action, &outcome.frame[..]), (PASS, cut));
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    /// What is refused is as it was; what is sent on has the ends it should.
    #[test]
    fn mutated_messages(
        v6: bool, is_echo: bool, udp: bool, tag in 0..3_usize,
        changes in prop::collection::vec((12..140_usize, any::<u8>()), 0..5),
        length in 14..160_usize,
    ) {
        thread_local!(static WORLD: World = world(Mode::Dsr));
        let vip = ip(VIPS[usize::from(v6)]);
        let vlans = tags()[tag].clone();
        let mut frame = if is_echo {
            let (raw, request) = echo(vip);
            Raw { vlans, ..raw }.frame(&request)
        } else {
            let protocol = if udp { UDP } else { TCP };
            error(vip, errors(vip)[0], &sent(vip, protocol), &vlans)
        };
        for (at, byte) in changes {
            if let Some(place) = frame.get_mut(at) {
                *place = byte;
            }
        }
        frame.truncate(length);
        let outcome = WORLD.with(|world| world.run(&frame));
        match outcome.verdict {
            Verdict::Dsr => prop_assert_eq!(&outcome.frame[..6], &BACKEND_MAC),
            Verdict::Echo => {
                prop_assert_eq!(&outcome.frame[..6], &frame[6..12]);
                prop_assert_eq!(&outcome.frame[6..12], &frame[..6]);
                prop_assert_eq!(outcome.frame.len(), frame.len());
            }
            _ => prop_assert_eq!(&outcome.frame, &frame),
        }
    }
}
