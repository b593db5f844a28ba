//! Translated flows: packets to their backend and back, against packets of another library with the
//! ends that they should have by then. Those are compared whole, so checksums are too.

mod hostile;
mod plain;
mod sessions;
mod spread;

use std::net::IpAddr;

use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TcpOptionElement, TransportSlice};
use steerd_ebpf::{
    abi::{
        Affinity, Backend, BackendState, Control, Mode, NatPool, NatTimeouts, Policy, Role,
        Scheduler, Session, mac_word, maps,
    },
    event::Event,
    shared::Shared,
    verdict::Verdict,
};

use crate::{
    packets::{PORT, Spec, Transport, VIP, VIP6, ip},
    world::{
        BACKEND_MAC, DROP, ELSEWHERE, INGRESS, OWN_MAC, Outcome, PASS, PEER_MAC, REDIRECT, TX,
        World, words,
    },
};

const SERVER: &str = "10.0.0.5";
const SERVER6: &str = "fd00:2::5";
const SERVER_PORT: u16 = 8080;
const NAT: [&str; 3] = ["192.168.1.30", "fd00:1::30", "fd00:1::31"];

const TIMEOUTS: NatTimeouts = NatTimeouts {
    tcp_new: 60,
    tcp_established: 7000,
    tcp_closing: 30,
    udp_new: 20,
    udp_established: 150,
};

/// Where translated packets come from: three addresses, of each the ports from 16,384 on.
const POOL: NatPool = NatPool {
    first_set: 4096,
    sets: 8192,
    ipv4: 1,
    ipv6: 2,
    ..NatPool::NONE
};

/// A backend of mode nat of a service.
#[derive(Clone, Copy)]
struct Server {
    id: u32,
    service: u32,
    at: (&'static str, u16),
    vip: (&'static str, u16),
    generation: u8,
    alive: bool,
    vlan: u16,
}

/// The four: TCP and UDP, IPv4 and IPv6. Backend and service have the same id.
const SERVERS: [Server; 4] = [
    server(1, SERVER, VIP),
    server(2, SERVER, VIP),
    server(3, SERVER6, VIP6),
    server(4, SERVER6, VIP6),
];

const fn server(id: u32, at: &'static str, vip: &'static str) -> Server {
    Server {
        id,
        service: id,
        at: (at, SERVER_PORT),
        vip: (vip, PORT),
        generation: 1,
        alive: true,
        vlan: 0,
    }
}

impl Server {
    fn put(self, world: &mut World) {
        let state = BackendState {
            mac: mac_word(BACKEND_MAC),
            generation: self.generation,
            mode: Mode::Nat,
            alive: self.alive,
        };
        let backend = Backend {
            state: Shared::new(state.pack()),
            source: Shared::new(Backend::source_word(mac_word(OWN_MAC), self.vlan)),
            ifindex: INGRESS,
            service: self.service,
            addr: words(ip(self.at.0)),
            port: self.at.1.to_be(),
            mtu: 1500,
            service_port: self.vip.1.to_be(),
            service_addr: words(ip(self.vip.0)),
            ..Backend::default()
        };
        world.backend_with(self.id, &backend);
    }
}

fn world() -> World {
    let mut world = World::new();
    for server in SERVERS {
        server.put(&mut world);
        let protocol = if server.id % 2 == 1 { 6 } else { 17 };
        let (id, (vip, port)) = (server.id, server.vip);
        world.service(id, ip(vip), port, protocol, &[id as u16]);
    }
    for (number, address) in NAT.into_iter().enumerate() {
        world.address(ip(address), Role::nat_bits(number as u32));
        for (word, value) in words(ip(address)).into_iter().enumerate() {
            world.control(Control::NAT_ADDRESSES + 2 * number + word, value);
        }
    }
    world.control(Control::NAT_POOL, POOL.pack());
    for (word, value) in TIMEOUTS.pack().into_iter().enumerate() {
        world.control(Control::NAT_TIMEOUTS + word, value);
    }
    world
}

/// The ends that a packet has: from whom, to whom.
fn ends(frame: &[u8]) -> ((IpAddr, u16), (IpAddr, u16)) {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let (from, to) = match packet.net.unwrap() {
        NetSlice::Ipv4(slice) => (
            IpAddr::from(slice.header().source_addr()),
            IpAddr::from(slice.header().destination_addr()),
        ),
        NetSlice::Ipv6(slice) => (
            IpAddr::from(slice.header().source_addr()),
            IpAddr::from(slice.header().destination_addr()),
        ),
        NetSlice::Arp(_) => panic!("not IP"),
    };
    let (from_port, to_port) = match packet.transport.unwrap() {
        TransportSlice::Tcp(slice) => (slice.source_port(), slice.destination_port()),
        TransportSlice::Udp(slice) => (slice.source_port(), slice.destination_port()),
        _ => panic!("no ports"),
    };
    ((from, from_port), (to, to_port))
}

/// Hands a client's frame over; its flow's translation.
fn translated(world: &World, spec: &Spec) -> (IpAddr, u16) {
    let outcome = world.run(&spec.build());
    assert_eq!(
        (outcome.verdict, outcome.action),
        (Verdict::Nat, TX),
        "{spec:?}"
    );
    ends(&outcome.frame).0
}

/// A client's frame as its backend should get it.
fn outward(spec: &Spec, translation: (IpAddr, u16), vlans: Vec<u16>) -> Spec {
    Spec {
        from: translation.0,
        from_port: translation.1,
        to: ip(if spec.to.is_ipv4() { SERVER } else { SERVER6 }),
        to_port: SERVER_PORT,
        ttl: spec.ttl - 1,
        vlans,
        source_mac: OWN_MAC,
        destination_mac: BACKEND_MAC,
        ..spec.clone()
    }
}

/// What the backend answers.
fn answer(spec: &Spec, translation: (IpAddr, u16), transport: Transport) -> Spec {
    let sent = outward(spec, translation, Vec::new());
    Spec {
        from: sent.to,
        from_port: sent.to_port,
        to: sent.from,
        to_port: sent.from_port,
        transport,
        ttl: 61,
        source_mac: BACKEND_MAC,
        destination_mac: OWN_MAC,
        ..sent
    }
}

/// An answer as the client should get it.
fn homeward(spec: &Spec, answer: &Spec) -> Spec {
    Spec {
        from: spec.to,
        from_port: spec.to_port,
        to: spec.from,
        to_port: spec.from_port,
        ttl: answer.ttl - 1,
        vlans: spec.vlans.clone(),
        source_mac: spec.destination_mac,
        destination_mac: spec.source_mac,
        ..answer.clone()
    }
}

/// Where a translation's entry is.
fn place(translation: (IpAddr, u16)) -> u32 {
    let number = NAT.iter().position(|&address| ip(address) == translation.0);
    (number.expect("an address of ours") as u32) << 16 | u32::from(translation.1)
}

/// The session of a translation, with its key's tag.
fn session(world: &World, translation: (IpAddr, u16)) -> (Session, u64) {
    let place = place(translation);
    let set: [u64; 16] = world.get(maps::NAT, place / 4);
    let word = set[(place % 4) as usize * 4 + 3];
    let tag = Session::tag(word);
    (Session::unpack(word, tag).expect("it has one"), tag)
}

/// Changes the session of a translation.
fn change(world: &mut World, translation: (IpAddr, u16), change: impl FnOnce(&mut Session)) {
    let (mut session, tag) = session(world, translation);
    change(&mut session);
    let place = place(translation);
    let mut set: [u64; 16] = world.get(maps::NAT, place / 4);
    set[(place % 4) as usize * 4 + 3] = session.pack(tag);
    world.set(maps::NAT, place / 4, set);
}

fn refused(world: &World, spec: &Spec, verdict: Verdict) {
    let frame = spec.build();
    let expected = Outcome {
        verdict,
        action: PASS,
        frame: frame.clone(),
    };
    assert_eq!(world.run(&frame), expected, "{spec:?}");
}

/// An answer, and that its client gets it as it should.
fn answered(world: &World, spec: &Spec, answer: &Spec) {
    let outcome = world.run(&answer.build());
    let seen = (outcome.verdict, outcome.action);
    assert_eq!(seen, (Verdict::NatReturn, TX), "{answer:?}");
    assert_eq!(
        outcome.frame,
        homeward(spec, answer).build(),
        "{spec:?} {answer:?}"
    );
}

const TAGS: [&[u16]; 3] = [&[], &[7], &[100, 7]];

/// Each family, protocol and kind of packet, behind any tags, for a backend with a tag or without,
/// whose answer comes behind any tags: whole frames in both directions.
#[test]
fn there_and_back() {
    let mut world = world();
    let mut port = 20_000;
    for vlan in [0, 8] {
        for server in SERVERS {
            Server { vlan, ..server }.put(&mut world);
        }
        for tags in TAGS {
            for transport in [
                Transport::Udp,
                Transport::Syn,
                Transport::Ack,
                Transport::Fin,
            ] {
                for spec in [Spec::v4(transport), Spec::v6(transport)] {
                    port += 1;
                    let spec = Spec {
                        from_port: port,
                        vlans: tags.to_vec(),
                        ..spec
                    };
                    both_ways(&world, &spec, vlan);
                }
            }
        }
    }
    assert_eq!(world.events(Event::NatRecorded), u64::from(port - 20_000));
}

fn both_ways(world: &World, spec: &Spec, vlan: u16) {
    let outcome = world.run(&spec.build());
    let seen = (outcome.verdict, outcome.action);
    assert_eq!(seen, (Verdict::Nat, TX), "{spec:?}");
    let translation = ends(&outcome.frame).0;
    assert!(
        (16_384..49_152).contains(&translation.1),
        "outside the pool: {translation:?}"
    );
    // The innermost tag is the backend's; one around it stays.
    let mut vlans = spec.vlans.clone();
    vlans.pop();
    vlans.extend((vlan != 0).then_some(vlan));
    let mut expected = outward(spec, translation, vlans).build();
    if spec.vlans.len() == 2 && vlan == 0 {
        expected[12..14].copy_from_slice(&[0x88, 0xa8]);
    }
    assert_eq!(outcome.frame, expected, "{spec:?}");
    let transports = match spec.transport {
        Transport::Udp => vec![Transport::Udp],
        _ => vec![
            Transport::SynAck,
            Transport::Ack,
            Transport::Fin,
            Transport::Rst,
        ],
    };
    for transport in transports {
        for tags in TAGS {
            let answer = Spec {
                vlans: tags.to_vec(),
                ..answer(spec, translation, transport)
            };
            answered(world, spec, &answer);
        }
    }
}

/// One's complement addition of the words at two offsets, as a checksum adds.
fn add(frame: &mut [u8], at: usize, value: u16) {
    let word = u32::from(u16::from_be_bytes([frame[at], frame[at + 1]])) + u32::from(value);
    let word = (word & 0xffff) + (word >> 16);
    frame[at..at + 2].copy_from_slice(&(word as u16).to_be_bytes());
}

/// UDP: no checksum stays none; one that comes out as zero is sent as all ones (RFC 768).
#[test]
fn the_two_zeros_of_udp() {
    let world = world();
    for spec in [Spec::v4(Transport::Udp), Spec::v6(Transport::Udp)] {
        let checksum = if spec.to.is_ipv4() { 40 } else { 60 };
        let translation = translated(&world, &spec);
        let sent = outward(&spec, translation, Vec::new());
        let back = answer(&spec, translation, Transport::Udp);
        for (before, after) in [(&spec, &sent), (&back, &homeward(&spec, &back))] {
            let (mut frame, mut expected) = (before.build(), after.build());
            frame[checksum..checksum + 2].fill(0);
            expected[checksum..checksum + 2].fill(0);
            assert_eq!(world.run(&frame).frame, expected);

            let (mut frame, mut expected) = (before.build(), after.build());
            // The payload grows by what the new checksum lacks to zero, the old one shrinks by it.
            let lack = u16::from_be_bytes([expected[checksum], expected[checksum + 1]]);
            add(&mut frame, checksum + 2, lack);
            add(&mut frame, checksum, !lack);
            add(&mut expected, checksum + 2, lack);
            expected[checksum..checksum + 2].fill(0xff);
            assert_eq!(world.run(&frame).frame, expected);
        }
    }
}

/// Options move the transport header.
#[test]
fn ipv4_options_and_ipv6_extensions() {
    let world = world();
    for transport in [Transport::Udp, Transport::Ack] {
        for spec in [Spec::v4(transport), Spec::v6(transport)] {
            let translation = translated(&world, &spec);
            let sent = outward(&spec, translation, Vec::new());
            let back = answer(&spec, translation, transport);
            for (before, after) in [(&spec, &sent), (&back, &homeward(&spec, &back))] {
                let outcome = world.run(&with_options(before.build()));
                assert_eq!(outcome.frame, with_options(after.build()), "{before:?}");
            }
        }
    }
}

/// Adds four bytes of IPv4 options that do nothing, or an IPv6 header of such.
fn with_options(mut frame: Vec<u8>) -> Vec<u8> {
    if frame[14] == 0x45 {
        frame.splice(34..34, [1; 4]);
        frame[14] = 0x46;
        add(&mut frame, 16, 4);
        let sum = 0x0100 + 4 + 2 * 0x0101;
        add(&mut frame, 24, !sum);
    } else {
        let next = frame[20];
        frame.splice(54..54, [next, 0, 1, 4, 0, 0, 0, 0]);
        frame[20] = 60;
        add(&mut frame, 18, 8);
    }
    frame
}

/// The backend's MSS too, where the service says so: its SYN-ACK tells the client.
#[test]
fn the_mss_of_an_answer_is_clamped() {
    let mut world = world();
    let affinity = Affinity {
        prefix: 128,
        port: true,
    };
    let policy = Policy::new(Scheduler::Hash, affinity, 1400, false, false, false);
    world.service_with(1, ip(VIP), PORT, 6, &[1], policy);
    let spec = Spec::v4(Transport::Ack);
    let translation = translated(&world, &spec);
    let frame = |from: Spec, mss| {
        let (IpAddr::V4(source), IpAddr::V4(destination)) = (from.from, from.to) else {
            panic!("IPv4");
        };
        let mut frame = Vec::new();
        PacketBuilder::ethernet2(from.source_mac, from.destination_mac)
            .ipv4(source.octets(), destination.octets(), from.ttl)
            .tcp(from.from_port, from.to_port, 1, 2)
            .syn()
            .ack(3)
            .options(&[TcpOptionElement::MaximumSegmentSize(mss)])
            .unwrap()
            .write(&mut frame, &[])
            .unwrap();
        frame
    };
    let back = answer(&spec, translation, Transport::SynAck);
    for (offered, got) in [(1460, 1400), (1400, 1400), (536, 536)] {
        let outcome = world.run(&frame(back.clone(), offered));
        assert_eq!(outcome.verdict, Verdict::NatReturn);
        assert_eq!(outcome.frame, frame(homeward(&spec, &back), got));
    }
    assert_eq!(world.events(Event::MssClamped), 1);
}

/// The way back is the one of the client's last packet.
#[test]
fn the_way_back_follows_the_client() {
    let mut world = world();
    let spec = Spec::v4(Transport::Ack);
    let translation = translated(&world, &spec);
    let back = answer(&spec, translation, Transport::Ack);
    answered(&world, &spec, &back);
    let other = Spec {
        source_mac: [2, 0, 0, 0, 0, 0x11],
        vlans: vec![9],
        ..spec
    };
    assert_eq!(translated(&world, &other), translation);
    answered(&world, &other, &back);
    let mut hop: [u64; 4] = world.get(maps::NAT_HOPS, place(translation));
    assert_eq!(hop[2], u64::from(INGRESS));
    hop[2] = u64::from(ELSEWHERE);
    world.set(maps::NAT_HOPS, place(translation), hop);
    let outcome = world.run(&back.build());
    let seen = (outcome.verdict, outcome.action);
    assert_eq!(seen, (Verdict::NatReturn, REDIRECT));
}

/// A peer node can be a backend: its answers are no packets that it steered here.
#[test]
fn a_peers_answer_is_an_answer() {
    let world = world();
    let spec = Spec::v6(Transport::Ack);
    let back = Spec {
        source_mac: PEER_MAC,
        ..answer(&spec, translated(&world, &spec), Transport::Ack)
    };
    answered(&world, &spec, &back);
}

/// Two services on one server: each is answered under its own address.
#[test]
fn services_may_share_a_server() {
    let mut world = world();
    let second = Server {
        id: 9,
        service: 9,
        vip: (VIP, 443),
        ..SERVERS[0]
    };
    second.put(&mut world);
    world.service(9, ip(VIP), 443, 6, &[9]);
    let one = Spec::v4(Transport::Ack);
    let other = Spec {
        to_port: 443,
        ..one.clone()
    };
    let translations = [translated(&world, &one), translated(&world, &other)];
    assert_ne!(translations[0], translations[1]);
    for (spec, translation) in [one, other].iter().zip(translations) {
        answered(&world, spec, &answer(spec, translation, Transport::Ack));
    }
}

/// The last hop is not used up by us, and no port for it.
#[test]
fn the_last_hop_is_dropped() {
    let world = world();
    for spec in [Spec::v4(Transport::Ack), Spec::v6(Transport::Udp)] {
        for ttl in [0, 1] {
            let frame = Spec {
                ttl,
                ..spec.clone()
            };
            let outcome = world.run(&frame.build());
            assert_eq!(outcome.verdict, Verdict::TtlExpired);
            assert_eq!(outcome.frame, frame.build());
        }
    }
    assert_eq!(world.events(Event::NatRecorded), 0);
    for spec in [Spec::v4(Transport::Ack), Spec::v6(Transport::Udp)] {
        let back = answer(&spec, translated(&world, &spec), spec.transport);
        let frame = Spec { ttl: 1, ..back }.build();
        let outcome = world.run(&frame);
        assert_eq!(outcome.verdict, Verdict::TtlExpired);
        assert_eq!(outcome.frame, frame);
    }
}

/// IPv4 clients are not translated for an IPv6 server, nor the other way round.
#[test]
fn families_are_not_mixed() {
    let mut world = world();
    let at = (SERVER6, SERVER_PORT);
    Server { at, ..SERVERS[0] }.put(&mut world);
    let frame = Spec::v4(Transport::Ack).build();
    let outcome = world.run(&frame);
    assert_eq!(outcome.verdict, Verdict::BadBackend);
    assert_eq!(outcome.frame, frame);
}
