//! Tunnels: what is put around a packet, what is taken off, and what does not fit.

mod entry;
mod exit;
mod hostile;
mod mtu;

use std::net::IpAddr;

use steerd_ebpf::{
    abi::{Backend, BackendState, Control, MacOwner, Mode, Role, mac_word},
    shared::Shared,
};

use crate::{
    packets::{PORT, Spec, Transport, VIP, VIP6, ip},
    world::{BACKEND_MAC, INGRESS, OWN_MAC, World, words},
};

const GUE_PORT: u16 = 6080;
const BACKEND4: &str = "10.3.0.99";
const BACKEND6: &str = "fd00:3::99";

/// Outer sources: 10.64.0.0/10 and fd00:64::/64.
const NETWORK4: [u8; 4] = [10, 64, 0, 0];
const MASK4: [u8; 4] = [255, 192, 0, 0];
const NETWORK6: &str = "fd00:64::";

/// How packets are wrapped: mode and the family of the outer header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Way {
    mode: Mode,
    is_ipv4: bool,
}

/// All four; the services' ports count them up from [`PORT`], the backends' ids from 1.
const WAYS: [Way; 4] = [
    Way {
        mode: Mode::Ipip,
        is_ipv4: true,
    },
    Way {
        mode: Mode::Ipip,
        is_ipv4: false,
    },
    Way {
        mode: Mode::Gue,
        is_ipv4: true,
    },
    Way {
        mode: Mode::Gue,
        is_ipv4: false,
    },
];

impl Way {
    fn number(self) -> u16 {
        WAYS.iter().position(|&way| way == self).unwrap() as u16
    }

    /// A packet that is sent this way.
    fn spec(self, spec: Spec) -> Spec {
        Spec {
            to_port: PORT + self.number(),
            ..spec
        }
    }

    /// Its backend.
    fn address(self) -> IpAddr {
        ip(if self.is_ipv4 { BACKEND4 } else { BACKEND6 })
    }

    /// How much is added.
    fn overhead(self) -> usize {
        let ip = if self.is_ipv4 { 20 } else { 40 };
        ip + if self.mode == Mode::Gue { 8 } else { 0 }
    }

    fn backend(self, vlan: u16, mtu: u16, ifindex: u32) -> Backend {
        let state = BackendState {
            mac: mac_word(BACKEND_MAC),
            generation: 1,
            mode: self.mode,
            alive: true,
        };
        Backend {
            state: Shared::new(state.pack()),
            source: Shared::new(Backend::source_word(mac_word(OWN_MAC), vlan)),
            ifindex,
            addr: words(self.address()),
            mtu,
            ..Backend::default()
        }
    }
}

/// A node that wraps packets of all four ways.
fn world() -> World {
    let mut world = World::new();
    networks(&mut world);
    add_services(&mut world);
    world
}

/// A service for each way, family and protocol.
fn add_services(world: &mut World) {
    for way in WAYS {
        let number = u32::from(way.number());
        send(world, way, 0, 1500, INGRESS);
        for (n, (vip, protocol)) in (1..).zip([(VIP, 6), (VIP, 17), (VIP6, 6), (VIP6, 17)]) {
            let port = PORT + way.number();
            world.service(
                4 * number + n,
                ip(vip),
                port,
                protocol,
                &[1 + number as u16],
            );
        }
    }
}

/// Sends what goes this way with this VLAN tag, over a link of this MTU, out of this interface.
fn send(world: &mut World, way: Way, vlan: u16, mtu: u16, ifindex: u32) {
    let id = 1 + u32::from(way.number());
    world.backend_with(id, &way.backend(vlan, mtu, ifindex));
}

/// A backend's node, which takes out what is wrapped.
fn far_world() -> World {
    let mut world = World::new();
    networks(&mut world);
    world.mac(BACKEND_MAC, MacOwner::Own);
    for address in [BACKEND4, BACKEND6] {
        world.address(ip(address), Role::ENDPOINT);
    }
    world
}

fn networks(world: &mut World) {
    let [network, mask] = [NETWORK4, MASK4].map(|bytes| u64::from(u32::from_ne_bytes(bytes)));
    world.control(Control::TUNNEL4, mask << 32 | network);
    let network = words(ip(NETWORK6));
    let values = [network[0], network[1], u64::MAX, 0];
    for (word, value) in (Control::TUNNEL6..).zip(values) {
        world.control(word, value);
    }
    world.control(Control::GUE_PORT, u64::from(GUE_PORT.to_be()));
}

/// Where a frame's network header begins.
fn l3(frame: &[u8]) -> usize {
    match frame[12..14] {
        [0x81, 0] | [0x88, 0xa8] if frame[16..18] == [0x81, 0] => 22,
        [0x81, 0] | [0x88, 0xa8] => 18,
        _ => 14,
    }
}

fn is_ipv4(packet: &[u8]) -> bool {
    packet[0] >> 4 == 4
}

/// Gives an IP packet this TOS or traffic class.
fn set_class(packet: &mut [u8], class: u8) {
    if is_ipv4(packet) {
        packet[1] = class;
        set_checksum(packet);
    } else {
        packet[0] = 0x60 | class >> 4;
        packet[1] = packet[1] & 0xf | class << 4;
    }
}

fn class(packet: &[u8]) -> u8 {
    if is_ipv4(packet) {
        packet[1]
    } else {
        packet[0] << 4 | packet[1] >> 4
    }
}

fn set_hops(packet: &mut [u8], hops: u8) {
    if is_ipv4(packet) {
        packet[8] = hops;
        set_checksum(packet);
    } else {
        packet[7] = hops;
    }
}

/// Sets the length that an IP packet states.
fn set_length(packet: &mut [u8], length: usize) {
    if is_ipv4(packet) {
        packet[2..4].copy_from_slice(&(length as u16).to_be_bytes());
        set_checksum(packet);
    } else {
        packet[4..6].copy_from_slice(&(length as u16).wrapping_sub(40).to_be_bytes());
    }
}

/// Sets an IPv4 header's checksum.
fn set_checksum(packet: &mut [u8]) {
    packet[10..12].fill(0);
    let header = usize::from(packet[0] & 0xf) * 4;
    let checksum = !sum(&[&packet[..header]]);
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
}

/// The Internet checksum's sum of all these bytes (RFC 1071), in the plainest way.
fn sum(parts: &[&[u8]]) -> u16 {
    let bytes = parts.concat();
    let words = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |&byte| u32::from(byte)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Makes the packet in a frame one of so many bytes.
fn grow(frame: &mut Vec<u8>, length: usize) {
    let start = l3(frame);
    frame.extend(
        (0..)
            .map(|n: usize| n as u8)
            .take((start + length).saturating_sub(frame.len())),
    );
    set_length(&mut frame[start..], length);
}

/// Packets of both families and protocols, with up to two tags.
fn every_kind() -> Vec<Spec> {
    let mut specs = Vec::new();
    for transport in [Transport::Udp, Transport::Syn, Transport::Ack] {
        for spec in [Spec::v4(transport), Spec::v6(transport)] {
            for vlans in [vec![], vec![7], vec![100, 7]] {
                specs.push(Spec {
                    vlans,
                    from_port: 50_000 + specs.len() as u16,
                    ..spec.clone()
                });
            }
        }
    }
    specs
}

/// The frame: its inner tag has a priority, its packet a class and a mark of congestion.
fn build(spec: &Spec) -> Vec<u8> {
    let mut frame = spec.build();
    let start = l3(&frame);
    if start > 14 {
        frame[start - 4] |= 0xa0;
    }
    set_class(&mut frame[start..], 0xb9);
    frame
}
