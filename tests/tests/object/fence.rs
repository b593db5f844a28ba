//! Another host takes over what this one has, with the daemon alive and dead: what fences, what
//! does not, and what a fenced host still hears.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::time::{ClockId, clock_gettime};
use steerd_core::vrrp::wire::{GROUP_V4, GROUP_V6};
use steerd_ebpf::{
    abi::{Claim, Control, Fence, MacOwner, Rival, Role, Watch, mac_word, maps},
    event::Event,
    verdict::Verdict,
};

use crate::{
    packets::{CLIENT, CLIENT6, PORT, Spec, Transport, VIP, VIP6, ip},
    world::{CLIENT_MAC, DROP, OWN_MAC, PASS, PEER_MAC, World},
};

const VRID: u8 = 51;
const PEER: &str = "192.168.1.27";
const PEER6: &str = "fe80::27";
/// The numbers of the virtual routers.
const V4: u32 = 1;
const V6: u32 = 127;
const PATIENCE_MS: u64 = 2000;
const ALL_NODES: &str = "ff02::1";
const BROADCAST: [u8; 6] = [0xff; 6];
/// A virtual MAC (RFC 9568 section 7.3): both hosts have it in turn.
const VIRTUAL_MAC: [u8; 6] = [0, 0, 0x5e, 0, 1, VRID];

/// A host that has both virtual addresses, with a local server, whose daemon last gave a sign of life
/// so long ago.
fn world(silent_ms: u64) -> World {
    let mut world = World::new();
    world.backend(1, steerd_ebpf::abi::Mode::Local, true, 1, 0);
    for (number, vip, id) in [(V4, VIP, 1), (V6, VIP6, 2)] {
        world.service(id, ip(vip), PORT, 6, &[1]);
        world.address(ip(vip), Role::router_bits(number));
        world.reset(number);
    }
    for group in [
        IpAddr::V4(GROUP_V4),
        IpAddr::V6(GROUP_V6),
        ip(ALL_NODES),
        solicited(),
    ] {
        world.listen(group);
    }
    world.silent(silent_ms);
    world
}

fn entry(number: u32, min_ttl: u8) -> [u64; Fence::WORDS] {
    let watch = Watch {
        vrid: VRID,
        held: true,
        ipv6: number == V6,
        min_ttl,
        ifindex: 1,
    };
    let mut entry = [0; Fence::WORDS];
    entry[Fence::WATCH] = watch.pack();
    entry[Fence::PATIENCE] = PATIENCE_MS * 1_000_000;
    entry
}

const DEAD: u64 = PATIENCE_MS + 100;
/// Far enough from the limit for a machine that is starved.
const ALIVE: u64 = 0;

impl World {
    fn silent(&mut self, ms: u64) {
        let now = clock_gettime(ClockId::CLOCK_BOOTTIME).unwrap();
        let now = now.tv_sec().cast_unsigned() * 1_000_000_000 + now.tv_nsec().cast_unsigned();
        self.control(Control::HEARTBEAT, now - ms * 1_000_000);
    }

    fn reset(&mut self, number: u32) {
        self.set(maps::FENCES, number, entry(number, 255));
    }

    fn fence(&self, number: u32) -> Option<Rival> {
        let entry: [u64; Fence::WORDS] = self.get(maps::FENCES, number);
        (entry[Fence::SINCE] != 0).then(|| Rival::unpack(entry[Fence::RIVAL]).unwrap())
    }
}

/// The group of neighbour solicitations for the IPv6 address (RFC 4291 section 2.7.1).
fn solicited() -> IpAddr {
    "ff02::1:ff00:25".parse().unwrap()
}

/// A frame with these tags around what comes behind them.
fn frame(to: [u8; 6], from: [u8; 6], tags: &[u16], kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = [to, from].concat();
    let kinds: &[u16] = match tags {
        [_, _] => &[0x88a8, 0x8100],
        _ => &[0x8100],
    };
    for (kind, tag) in kinds.iter().zip(tags) {
        frame.extend(kind.to_be_bytes());
        frame.extend(tag.to_be_bytes());
    }
    frame.extend(kind.to_be_bytes());
    frame.extend(payload);
    frame
}

fn arp(operation: u8, sender: &str, target: &str, from: [u8; 6], tags: &[u16]) -> Vec<u8> {
    let octets = |text: &str| text.parse::<Ipv4Addr>().unwrap().octets();
    let mut arp = vec![0, 1, 8, 0, 6, 4, 0, operation];
    arp.extend(from);
    arp.extend(octets(sender));
    arp.extend([0; 6]);
    arp.extend(octets(target));
    frame(BROADCAST, from, tags, 0x0806, &arp)
}

fn question(target: &str, tags: &[u16]) -> Vec<u8> {
    arp(1, CLIENT, target, CLIENT_MAC, tags)
}

/// An IP packet of another protocol than etherparse builds.
fn packet(
    from: &str,
    to: IpAddr,
    ttl: u8,
    protocol: u8,
    payload: &[u8],
    (mac, tags): ([u8; 6], &[u16]),
) -> Vec<u8> {
    let (mut head, kind, group) = match (ip(from), to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let total = (20 + payload.len()) as u16;
            let mut head = vec![0x45, 0, 0, 0, 0, 0, 0, 0, ttl, protocol, 0, 0];
            head[2..4].copy_from_slice(&total.to_be_bytes());
            head.extend(from.octets());
            head.extend(to.octets());
            (head, 0x0800, [1, 0, 0x5e, 0, 0, 0x12])
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let mut head = vec![0x60, 0, 0, 0, 0, 0, protocol, ttl];
            head[4..6].copy_from_slice(&(payload.len() as u16).to_be_bytes());
            head.extend(from.octets());
            head.extend(to.octets());
            (head, 0x86dd, [0x33, 0x33, 0, 0, 0, 0x12])
        }
        _ => panic!("one family"),
    };
    head.extend(payload);
    let to = if to.is_multicast() { group } else { OWN_MAC };
    frame(to, mac, tags, kind, &head)
}

/// The VRRP message of an advert.
fn vrrp(version: u8, vrid: u8, priority: u8, addresses: &[&str]) -> Vec<u8> {
    let mut advert = vec![
        version << 4 | 1,
        vrid,
        priority,
        addresses.len() as u8,
        0,
        100,
        0,
        0,
    ];
    for address in addresses {
        match ip(address) {
            IpAddr::V4(ip) => advert.extend(ip.octets()),
            IpAddr::V6(ip) => advert.extend(ip.octets()),
        }
    }
    advert
}

const FROM_PEER: ([u8; 6], &[u16]) = (PEER_MAC, &[]);

fn advert4(message: &[u8]) -> Vec<u8> {
    packet(PEER, GROUP_V4.into(), 255, 112, message, FROM_PEER)
}

fn advert6(message: &[u8]) -> Vec<u8> {
    packet(PEER6, GROUP_V6.into(), 255, 112, message, FROM_PEER)
}

/// An authentication header of 24 bytes (RFC 2402) in front.
fn authenticated(message: &[u8]) -> Vec<u8> {
    let mut header = vec![112, 4, 0, 0, 0, 0, 0, VRID, 0, 0, 0, 9];
    header.extend([0xaa; 12]);
    header.extend(message);
    header
}

fn neighbour(
    kind: u8,
    flags: u8,
    target: &str,
    (from, to): (&str, IpAddr),
    hops: u8,
    sender: ([u8; 6], &[u16]),
) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0, flags, 0, 0, 0];
    message.extend(target.parse::<Ipv6Addr>().unwrap().octets());
    // The option with the sender's address.
    message.extend([if kind == 135 { 1 } else { 2 }, 1]);
    message.extend(sender.0);
    packet(from, to, hops, 58, &message, sender)
}

fn question6(to: IpAddr, tags: &[u16]) -> Vec<u8> {
    neighbour(135, 0, VIP6, (CLIENT6, to), 255, (CLIENT_MAC, tags))
}

/// An announcement: override, not solicited.
fn announcement6(flags: u8, hops: u8, sender: ([u8; 6], &[u16])) -> Vec<u8> {
    neighbour(136, flags, VIP6, (PEER6, ip(ALL_NODES)), hops, sender)
}

/// Everything that says that another host has the addresses: number, frame, how.
fn claims() -> Vec<(&'static str, u32, Vec<u8>, Claim)> {
    let with_tag: ([u8; 6], &[u16]) = (PEER_MAC, &[7]);
    let with_two: ([u8; 6], &[u16]) = (PEER_MAC, &[100, 7]);
    let v3 = vrrp(3, VRID, 100, &[VIP]);
    let v3_six = vrrp(3, VRID, 100, &["fe80::5e", VIP6]);
    let group4 = GROUP_V4.into();
    let mut claims = vec![
        ("v3", V4, advert4(&v3), Claim::Advert),
        ("v2", V4, advert4(&vrrp(2, VRID, 1, &[VIP])), Claim::Advert),
        (
            "v2, two addresses",
            V4,
            advert4(&vrrp(2, VRID, 255, &["10.0.0.9", VIP])),
            Claim::Advert,
        ),
        (
            "v2 behind an authentication header",
            V4,
            packet(
                PEER,
                group4,
                255,
                51,
                &authenticated(&vrrp(2, VRID, 100, &[VIP])),
                FROM_PEER,
            ),
            Claim::Advert,
        ),
        (
            "v3 with a tag",
            V4,
            packet(PEER, group4, 255, 112, &v3, with_tag),
            Claim::Advert,
        ),
        (
            "v3 with two",
            V4,
            packet(PEER, group4, 255, 112, &v3, with_two),
            Claim::Advert,
        ),
        ("v3, IPv6", V6, advert6(&v3_six), Claim::Advert),
        (
            "v3, IPv6, with a tag",
            V6,
            packet(PEER6, GROUP_V6.into(), 255, 112, &v3_six, with_tag),
            Claim::Advert,
        ),
    ];
    for (what, tags) in [
        ("untagged", &[][..]),
        ("tagged", &[7]),
        ("twice tagged", &[100, 7]),
    ] {
        for operation in [1, 2] {
            let frame = arp(operation, VIP, VIP, PEER_MAC, tags);
            claims.push((what, V4, frame, Claim::Announcement));
        }
        let frame = announcement6(0x20, 255, (PEER_MAC, tags));
        claims.push((what, V6, frame, Claim::Announcement));
        let router = announcement6(0xa0, 255, (PEER_MAC, tags));
        claims.push((what, V6, router, Claim::Announcement));
    }
    claims
}

/// Who asks where an address is, by its number.
fn questions(number: u32) -> Vec<Vec<u8>> {
    let tags = [&[][..], &[7], &[100, 7]];
    tags.into_iter()
        .flat_map(|tags| match number {
            V4 => vec![question(VIP, tags)],
            _ => vec![question6(solicited(), tags), question6(ip(VIP6), tags)],
        })
        .collect()
}

fn assert_answers(world: &World, number: u32, what: &str) {
    for question in questions(number) {
        let outcome = world.run(&question);
        assert_eq!(outcome.action, PASS, "{what}: {outcome:?}");
        assert_eq!(outcome.frame, question, "{what}");
    }
}

fn assert_silent(world: &World, number: u32, what: &str) {
    for question in questions(number) {
        let outcome = world.run(&question);
        assert_eq!(
            (outcome.verdict, outcome.action),
            (Verdict::Fenced, DROP),
            "{what}"
        );
    }
}

#[test]
fn a_dead_daemons_host_is_fenced_by_whoever_takes_over() {
    let mut world = world(DEAD);
    for (times, (what, number, frame, claim)) in (1..).zip(claims()) {
        world.reset(number);
        assert_answers(&world, V4, what);
        assert_answers(&world, V6, what);
        let outcome = world.run(&frame);
        let rival = Rival {
            mac: mac_word(PEER_MAC),
            claim,
        };
        assert_eq!(world.fence(number), Some(rival), "{what}: {outcome:?}");
        assert_eq!(world.events(Event::Fenced), times, "{what}");
        assert_silent(&world, number, what);
        // The other family is another virtual router.
        let other = if number == V4 { V6 } else { V4 };
        assert_eq!(world.fence(other), None, "{what}");
        assert_answers(&world, other, what);
        // Once is enough.
        world.run(&frame);
        assert_eq!(world.events(Event::Fenced), times, "{what}");
        world.reset(number);
    }
}

/// Whatever is forged.
#[test]
fn nothing_fences_a_living_daemons_host() {
    let mut world = world(ALIVE);
    for (what, number, frame, _) in claims() {
        world.silent(ALIVE);
        world.run(&frame);
        assert_eq!(world.fence(number), None, "{what}");
        assert_answers(&world, number, what);
    }
    assert_eq!(world.events(Event::Fenced), 0);
}

#[test]
fn a_host_is_not_fenced_where_there_is_nothing_to_fence() {
    let mut world = world(DEAD);
    for (what, number, frame, _) in claims() {
        let held = entry(number, 255);
        let watch = Watch::unpack(held[Fence::WATCH]).unwrap();
        let (mut backup, mut patient) = (held, held);
        backup[Fence::WATCH] = Watch {
            held: false,
            ..watch
        }
        .pack();
        patient[Fence::PATIENCE] = 0;
        let free = [0; Fence::WORDS];
        for entry in [backup, patient, free] {
            world.set(maps::FENCES, number, entry);
            world.run(&frame);
            assert_eq!(world.fence(number), None, "{what}: {entry:x?}");
            assert_answers(&world, number, what);
        }
        world.reset(number);
        world.control(Control::HEARTBEAT, 0);
        world.run(&frame);
        assert_eq!(world.fence(number), None, "{what}: never a sign of life");
        world.silent(DEAD);
    }
}

#[test]
fn what_says_nothing_about_the_addresses_does_not_fence() {
    let good = vrrp(3, VRID, 100, &[VIP]);
    let mut unknown_type = good.clone();
    unknown_type[0] = 0x32;
    let own: ([u8; 6], &[u16]) = (OWN_MAC, &[]);
    let group4 = GROUP_V4.into();
    let solicited_answer = announcement6(0x60, 255, FROM_PEER);
    let cases: [(&str, Vec<u8>); 21] = [
        ("it resigns", advert4(&vrrp(3, VRID, 0, &[VIP]))),
        ("another VRID", advert4(&vrrp(3, VRID + 1, 100, &[VIP]))),
        (
            "other addresses",
            advert4(&vrrp(3, VRID, 100, &["192.168.1.99"])),
        ),
        ("no address", advert4(&vrrp(3, VRID, 100, &[]))),
        ("another version", advert4(&vrrp(4, VRID, 100, &[VIP]))),
        ("another type", advert4(&unknown_type)),
        ("cut off", advert4(&good[..10])),
        ("routed", packet(PEER, group4, 254, 112, &good, FROM_PEER)),
        ("our own", packet(PEER, group4, 255, 112, &good, own)),
        (
            "no VRRP in it",
            packet(
                PEER,
                group4,
                255,
                51,
                &authenticated(&[0; 12])[4..],
                FROM_PEER,
            ),
        ),
        (
            "an IPv6 one, routed",
            packet(
                PEER6,
                GROUP_V6.into(),
                254,
                112,
                &vrrp(3, VRID, 1, &[VIP6]),
                FROM_PEER,
            ),
        ),
        ("to another", arp(1, PEER, CLIENT, PEER_MAC, &[])),
        ("of another", arp(2, PEER, PEER, PEER_MAC, &[])),
        (
            "a question with the address as source",
            arp(1, VIP, CLIENT, PEER_MAC, &[]),
        ),
        ("a question for the address", question(VIP, &[])),
        ("our own announcement", arp(1, VIP, VIP, OWN_MAC, &[])),
        ("our own announcement", announcement6(0x20, 255, own)),
        ("routed announcement", announcement6(0x20, 254, FROM_PEER)),
        ("an answer", solicited_answer),
        ("a question", question6(solicited(), &[])),
        (
            "of another",
            neighbour(
                136,
                0x20,
                "fd00:1::26",
                (PEER6, ip(ALL_NODES)),
                255,
                FROM_PEER,
            ),
        ),
    ];
    let world = world(DEAD);
    for (what, frame) in cases {
        let outcome = world.run(&frame);
        assert_eq!(outcome.action, PASS, "{what}: {outcome:?}");
        assert_eq!((world.fence(V4), world.fence(V6)), (None, None), "{what}");
    }
    assert_eq!(world.events(Event::Fenced), 0);
}

/// At no length does a claim or a question make the program do anything odd.
#[test]
fn frames_that_are_cut_off_pass() {
    let mut world = world(DEAD);
    for (what, number, frame, _) in claims() {
        for length in 14..frame.len() {
            let outcome = world.run(&frame[..length]);
            assert_eq!(outcome.action, PASS, "{what}, {length}");
            // A frame may carry more than what was read of it.
            world.reset(number);
        }
    }
}

#[test]
fn unicast_adverts_fence_by_the_ttl_that_is_configured() {
    let mut world = world(DEAD);
    world.listen(ip("192.168.1.26"));
    for (min_ttl, ttl, fences) in [(255, 255, true), (255, 254, false), (250, 250, true)] {
        world.set(maps::FENCES, V4, entry(V4, min_ttl));
        let message = vrrp(3, VRID, 100, &[VIP]);
        world.run(&packet(
            PEER,
            ip("192.168.1.26"),
            ttl,
            112,
            &message,
            FROM_PEER,
        ));
        assert_eq!(world.fence(V4).is_some(), fences, "{min_ttl} {ttl}");
    }
}

/// Where the addresses have a MAC of their own, the new master uses it too.
#[test]
fn a_virtual_mac_is_not_this_hosts_own() {
    let mut world = world(DEAD);
    world.mac(VIRTUAL_MAC, MacOwner::Own);
    for frame in [
        arp(1, VIP, VIP, VIRTUAL_MAC, &[]),
        packet(
            PEER,
            GROUP_V4.into(),
            255,
            112,
            &vrrp(3, VRID, 100, &[VIP]),
            (VIRTUAL_MAC, &[]),
        ),
    ] {
        world.reset(V4);
        world.run(&frame);
        assert!(world.fence(V4).is_some());
    }
}

/// What is on its way still arrives, and the host itself still works.
#[test]
fn a_fenced_host_still_steers_and_hears_the_rest() {
    let world = world(DEAD);
    world.run(&arp(1, VIP, VIP, PEER_MAC, &[]));
    world.run(&announcement6(0x20, 255, FROM_PEER));
    assert!(world.fence(V4).is_some() && world.fence(V6).is_some());
    for spec in [Spec::v4(Transport::Ack), Spec::v6(Transport::Syn)] {
        let outcome = world.run(&spec.build());
        assert_eq!((outcome.verdict, outcome.action), (Verdict::Local, PASS));
    }
    let heard = [
        // Questions for the host's own address, and answers to the host's, whatever it asked from.
        question("192.168.1.26", &[]),
        arp(2, CLIENT, VIP, CLIENT_MAC, &[]),
        arp(2, CLIENT, "192.168.1.26", CLIENT_MAC, &[]),
        neighbour(
            135,
            0,
            "fe80::26",
            (CLIENT6, solicited()),
            255,
            (CLIENT_MAC, &[]),
        ),
        neighbour(
            136,
            0x60,
            CLIENT6,
            (CLIENT6, ip(VIP6)),
            255,
            (CLIENT_MAC, &[]),
        ),
        advert4(&vrrp(3, VRID, 100, &[VIP])),
        advert6(&vrrp(3, VRID, 100, &[VIP6])),
    ];
    for frame in heard {
        assert_eq!(world.run(&frame).action, PASS);
    }
}

/// The daemon is back and knows who has the addresses: it clears the word.
#[test]
fn the_fence_is_gone_when_the_daemon_clears_it() {
    let mut world = world(DEAD);
    world.run(&arp(1, VIP, VIP, PEER_MAC, &[]));
    // A sign of life alone does not end it: the addresses may still be on the host.
    world.silent(ALIVE);
    assert_silent(&world, V4, "a sign of life");
    world.reset(V4);
    assert_answers(&world, V4, "cleared");
    world.run(&arp(1, VIP, VIP, PEER_MAC, &[]));
    assert_answers(&world, V4, "alive");
}
