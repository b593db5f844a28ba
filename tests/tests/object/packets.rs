//! Frames, made by another library than the one under test.

use std::net::IpAddr;

use etherparse::{Ethernet2Header, PacketBuilder, PacketBuilderStep, VlanId};

use crate::world::{CLIENT_MAC, OWN_MAC};

/// A frame from a client.
#[derive(Debug, Clone)]
pub(crate) struct Spec {
    pub(crate) from: IpAddr,
    pub(crate) from_port: u16,
    pub(crate) to: IpAddr,
    pub(crate) to_port: u16,
    pub(crate) transport: Transport,
    pub(crate) ttl: u8,
    /// VLAN ids, outer first.
    pub(crate) vlans: Vec<u16>,
    pub(crate) source_mac: [u8; 6],
    pub(crate) destination_mac: [u8; 6],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Syn,
    SynAck,
    Ack,
    Fin,
    Rst,
}

pub(crate) const VIP: &str = "192.168.1.25";
pub(crate) const VIP6: &str = "fd00:1::25";
pub(crate) const CLIENT: &str = "192.168.1.10";
pub(crate) const CLIENT6: &str = "fd00:1::10";
pub(crate) const PORT: u16 = 8765;

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

impl Spec {
    pub(crate) fn v4(transport: Transport) -> Self {
        Self {
            from: ip(CLIENT),
            from_port: 50_000,
            to: ip(VIP),
            to_port: PORT,
            transport,
            ttl: 64,
            vlans: Vec::new(),
            source_mac: CLIENT_MAC,
            destination_mac: OWN_MAC,
        }
    }

    pub(crate) fn v6(transport: Transport) -> Self {
        Self {
            from: ip(CLIENT6),
            to: ip(VIP6),
            ..Self::v4(transport)
        }
    }

    pub(crate) fn build(&self) -> Vec<u8> {
        self.with_payload(b"hello")
    }

    pub(crate) fn with_payload(&self, payload: &[u8]) -> Vec<u8> {
        let ethernet = PacketBuilder::ethernet2(self.source_mac, self.destination_mac);
        match self.vlans[..] {
            [] => self.network(ethernet, payload),
            [id] => self.network(
                ethernet.vlan(etherparse::VlanHeader::Single(single(id))),
                payload,
            ),
            [outer, inner] => self.network(ethernet.double_vlan(vlan(outer), vlan(inner)), payload),
            _ => panic!("at most two tags"),
        }
    }

    fn network(&self, step: impl Ip, payload: &[u8]) -> Vec<u8> {
        let step = match (self.from, self.to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => step.ip4(from.octets(), to.octets(), self.ttl),
            (IpAddr::V6(from), IpAddr::V6(to)) => step.ip6(from.octets(), to.octets(), self.ttl),
            _ => panic!("one family"),
        };
        let mut frame = Vec::new();
        let (from, to) = (self.from_port, self.to_port);
        if self.transport == Transport::Udp {
            step.udp(from, to).write(&mut frame, payload).unwrap();
            return frame;
        }
        let tcp = step.tcp(from, to, 1000, 64_000);
        let tcp = match self.transport {
            Transport::Syn => tcp.syn(),
            Transport::SynAck => tcp.syn().ack(5),
            Transport::Ack => tcp.ack(5),
            Transport::Fin => tcp.fin().ack(5),
            Transport::Rst => tcp.rst(),
            Transport::Udp => panic!("not TCP"),
        };
        tcp.write(&mut frame, payload).unwrap();
        frame
    }
}

trait Ip {
    fn ip4(self, from: [u8; 4], to: [u8; 4], ttl: u8) -> PacketBuilderStep<etherparse::IpHeaders>;
    fn ip6(self, from: [u8; 16], to: [u8; 16], ttl: u8)
    -> PacketBuilderStep<etherparse::IpHeaders>;
}

impl Ip for PacketBuilderStep<Ethernet2Header> {
    fn ip4(self, from: [u8; 4], to: [u8; 4], ttl: u8) -> PacketBuilderStep<etherparse::IpHeaders> {
        self.ipv4(from, to, ttl)
    }
    fn ip6(
        self,
        from: [u8; 16],
        to: [u8; 16],
        ttl: u8,
    ) -> PacketBuilderStep<etherparse::IpHeaders> {
        self.ipv6(from, to, ttl)
    }
}

impl Ip for PacketBuilderStep<etherparse::VlanHeader> {
    fn ip4(self, from: [u8; 4], to: [u8; 4], ttl: u8) -> PacketBuilderStep<etherparse::IpHeaders> {
        self.ipv4(from, to, ttl)
    }
    fn ip6(
        self,
        from: [u8; 16],
        to: [u8; 16],
        ttl: u8,
    ) -> PacketBuilderStep<etherparse::IpHeaders> {
        self.ipv6(from, to, ttl)
    }
}

fn vlan(id: u16) -> VlanId {
    VlanId::try_new(id).unwrap()
}

fn single(id: u16) -> etherparse::SingleVlanHeader {
    etherparse::SingleVlanHeader {
        vlan_id: vlan(id),
        ..Default::default()
    }
}
