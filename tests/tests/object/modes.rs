//! Worlds in which all backends are reached in one mode: for what has to hold in each.

use std::net::IpAddr;

use steerd_ebpf::{
    abi::{Backend, BackendState, Control, Mode, NatPool, NatTimeouts, Role, mac_word},
    shared::Shared,
    verdict::Verdict,
};

use crate::{
    packets::{CLIENT, CLIENT6, PORT, VIP, VIP6, ip},
    raw::{self, TCP, UDP},
    world::{BACKEND_MAC, INGRESS, OWN_MAC, PASS, TX, World, words},
};

/// A way to a backend: its mode, and what becomes of a packet that goes there.
pub(crate) type Way = (Mode, Verdict, u32);

/// All of them.
pub(crate) const WAYS: [Way; 5] = [LOCAL, DSR, IPIP, GUE, NAT];
pub(crate) const LOCAL: Way = (Mode::Local, Verdict::Local, PASS);
pub(crate) const DSR: Way = (Mode::Dsr, Verdict::Dsr, TX);
pub(crate) const IPIP: Way = (Mode::Ipip, Verdict::Tunnel, TX);
pub(crate) const GUE: Way = (Mode::Gue, Verdict::Tunnel, TX);
pub(crate) const NAT: Way = (Mode::Nat, Verdict::Nat, TX);

/// One virtual address of each family; each has a TCP and a UDP service on `PORT`.
pub(crate) const VIPS: [&str; 2] = [VIP, VIP6];

/// Where translated packets come from.
pub(crate) const NAT_ADDRESSES: [&str; 2] = ["192.168.1.26", "fd00:1::26"];

/// The port of translated backends.
pub(crate) const BACKEND_PORT: u16 = 8080;

pub(crate) const CLIENT_PORT: u16 = 50_000;

const GUE_PORT: u16 = 6080;

/// No tag, one, two; outer first.
pub(crate) fn tags() -> [Vec<u16>; 3] {
    [vec![], vec![7], vec![100, 7]]
}

/// Of the address's family.
fn of(family: IpAddr, [v4, v6]: [&str; 2]) -> IpAddr {
    ip(if family.is_ipv4() { v4 } else { v6 })
}

pub(crate) fn client(vip: IpAddr) -> IpAddr {
    of(vip, [CLIENT, CLIENT6])
}

pub(crate) fn nat_address(vip: IpAddr) -> IpAddr {
    of(vip, NAT_ADDRESSES)
}

/// The id of the service of an address and protocol.
pub(crate) fn service(vip: IpAddr, protocol: u8) -> u32 {
    1 + 2 * u32::from(vip.is_ipv6()) + u32::from(protocol == UDP)
}

/// The id of a service's backend number 1 or 2.
pub(crate) const fn backend(service: u32, number: u32) -> u32 {
    10 * service + number
}

/// The address of the backend.
pub(crate) fn backend_address(vip: IpAddr, number: u32) -> IpAddr {
    match number {
        1 => of(vip, ["10.7.0.1", "fd00:7::1"]),
        _ => of(vip, ["10.7.0.2", "fd00:7::2"]),
    }
}

/// Two backends for each service, whose rings name the first.
pub(crate) fn world(mode: Mode) -> World {
    let mut world = World::new();
    for number in [1, 2] {
        set_backends(&mut world, mode, number, true, 5);
    }
    for vip in VIPS.map(ip) {
        for protocol in [TCP, UDP] {
            let id = service(vip, protocol);
            world.service(id, vip, PORT, protocol, &[backend(id, 1) as u16; 32]);
        }
    }
    let pool = NatPool {
        first_set: 256,
        sets: 16_128,
        ipv4: 1,
        ipv6: 1,
        ..NatPool::NONE
    };
    let timeouts = NatTimeouts {
        tcp_new: 60,
        tcp_established: 7440,
        tcp_closing: 60,
        udp_new: 30,
        udp_established: 180,
    };
    world.control(Control::NAT_POOL, pool.pack());
    for (n, word) in timeouts.pack().into_iter().enumerate() {
        world.control(Control::NAT_TIMEOUTS + n, word);
    }
    world.control(Control::GUE_PORT, u64::from(GUE_PORT.to_be()));
    let network = u64::from(u32::from_ne_bytes([172, 31, 0, 0]));
    let mask = u64::from(u32::from_ne_bytes([255, 255, 0, 0]));
    world.control(Control::TUNNEL4, mask << 32 | network);
    let [network, host] = words(ip("fd00:31::"));
    for (n, word) in [network, host, u64::MAX, 0].into_iter().enumerate() {
        world.control(Control::TUNNEL6 + n, word);
    }
    for (number, address) in NAT_ADDRESSES.map(ip).into_iter().enumerate() {
        for (n, word) in words(address).into_iter().enumerate() {
            world.control(Control::NAT_ADDRESSES + 2 * number + n, word);
        }
        world.address(address, Role::nat_bits(number as u32));
    }
    world
}

/// Makes the backends with this number, one of each service, such ones.
pub(crate) fn set_backends(
    world: &mut World,
    mode: Mode,
    number: u32,
    alive: bool,
    generation: u8,
) {
    for vip in VIPS.map(ip) {
        for protocol in [TCP, UDP] {
            let state = BackendState {
                mac: mac_word(BACKEND_MAC),
                generation,
                mode,
                alive,
            };
            let service = service(vip, protocol);
            let entry = Backend {
                state: Shared::new(state.pack()),
                source: Shared::new(Backend::source_word(mac_word(OWN_MAC), 0)),
                ifindex: INGRESS,
                service,
                addr: words(backend_address(vip, number)),
                port: BACKEND_PORT.to_be(),
                mtu: 1500,
                service_port: PORT.to_be(),
                service_addr: words(vip),
                ..Backend::default()
            };
            world.backend_with(backend(service, number), &entry);
        }
    }
}

/// Makes each service's ring name its backend with this number.
pub(crate) fn point_rings_to(world: &mut World, number: u32) {
    for service in 1..=4 {
        world.line(service - 1, &[backend(service, number) as u16; 32]);
    }
}

/// A frame as the stack of a backend sees it: without an outer header, which must be to there.
pub(crate) fn unwrapped(mode: Mode, mut frame: Vec<u8>) -> Vec<u8> {
    let transport = match mode {
        Mode::Ipip => 0,
        Mode::Gue => 8,
        Mode::Local | Mode::Dsr | Mode::Nat => return frame,
    };
    let mut at = 14;
    while frame[at - 2..at] == [0x81, 0] || frame[at - 2..at] == [0x88, 0xa8] {
        at += 4;
    }
    let (_, to, protocol, header) = raw::ends(&frame[at..]);
    let ours = [1, 2].map(|number| backend_address(to, number));
    assert!(ours.contains(&to), "{to}");
    let inner = at + header + transport;
    // These tests have backends of the family of their service.
    let wrapping = match (mode, to.is_ipv4()) {
        (Mode::Gue, _) => UDP,
        (_, true) => 4,
        (_, false) => 41,
    };
    assert_eq!(protocol, wrapping);
    assert_eq!(frame[inner] >> 4, frame[at] >> 4);
    frame.drain(at..inner);
    frame
}

/// Takes off a frame's inner tag, as the backends of these tests are on no VLAN. Returns where the
/// network header is then.
pub(crate) fn untag(frame: &mut Vec<u8>) -> usize {
    match frame[12..14] {
        [0x81, 0] => {
            frame.drain(12..16);
            14
        }
        [0x88, 0xa8] => {
            frame.drain(16..20);
            18
        }
        _ => 14,
    }
}
