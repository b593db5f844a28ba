//! What the program is told.

use std::{collections::BTreeMap, net::IpAddr, ops::Range};

use steerd_ebpf::{
    abi::{self, FLOW4_SETS, FLOW6_SETS, Mode, Policy, SourceRule, addr_words},
    hash,
};

/// Everything that the daemon tells the program.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// The interface that packets come from.
    pub ingress: u32,
    /// Other interfaces they may leave through.
    pub interfaces: Vec<u32>,
    /// This host's MACs.
    pub own_macs: Vec<[u8; 6]>,
    /// The MACs of peers that forward.
    pub peer_macs: Vec<[u8; 6]>,
    /// Our addresses.
    pub addresses: Vec<Address>,
    /// The services.
    pub services: Vec<Service>,
    /// The backends by id.
    pub backends: BTreeMap<u16, Backend>,
    /// Where wrapped IPv4 packets come from.
    pub tunnel4: Option<Network>,
    /// Where wrapped IPv6 packets come from.
    pub tunnel6: Option<Network>,
    /// The UDP port of GUE.
    pub gue_port: u16,
    /// The ports that translated flows may have, at each address with that role.
    pub nat_ports: Range<u16>,
    /// The seed of the address filter.
    pub address_seed: u32,
    /// The seed of the flow table.
    pub flow_seed: u64,
}

/// A network: its address, and a mask of the bits that are its own.
#[derive(Debug, Clone, Copy)]
pub struct Network {
    /// Host bits are zero.
    pub address: IpAddr,
    /// Of the same family.
    pub mask: IpAddr,
}

/// An address of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// It.
    pub address: IpAddr,
    /// What it is for.
    pub role: abi::Role,
}

/// A service.
#[derive(Debug, Clone)]
pub struct Service {
    /// Its id.
    pub id: u32,
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Its protocol number.
    pub protocol: u8,
    /// Whom new flows go to.
    pub ring: Vec<u16>,
    /// How they are chosen for.
    pub policy: Policy,
    /// Backend ids by QUIC server id.
    pub servers: Vec<u16>,
    /// Which networks may open flows, and which may not.
    pub sources: Vec<SourceNetwork>,
    /// How many flows it may have, if they are limited: the bucket does not refill.
    pub burst: u64,
}

/// A network and what is done with new flows from there.
#[derive(Debug, Clone, Copy)]
pub struct SourceNetwork {
    /// Its address.
    pub network: IpAddr,
    /// How many bits of that count.
    pub prefix: u8,
    /// What is done.
    pub rule: SourceRule,
}

/// A backend.
#[derive(Debug, Clone)]
pub struct Backend {
    /// How packets reach it.
    pub mode: Mode,
    /// Its MAC, or that of the router on the way.
    pub mac: [u8; 6],
    /// This host's MAC on the way out.
    pub source_mac: [u8; 6],
    /// The VLAN there; 0: none.
    pub vlan: u16,
    /// The interface there.
    pub ifindex: u32,
    /// Whether it keeps its flows.
    pub alive: bool,
    /// Which use of its id this is.
    pub generation: u8,
    /// Its own address.
    pub address: IpAddr,
    /// Its own port.
    pub port: u16,
    /// The largest packet the way to it takes.
    pub mtu: u16,
    /// The service it belongs to; 0: it does not matter.
    pub service: u32,
    /// Its weight, if its service counts connections; else 0.
    pub weight: u64,
}

impl Config {
    /// The service with this id.
    pub(super) fn service(&self, id: u32) -> Option<&Service> {
        self.services.iter().find(|service| service.id == id)
    }

    /// What an address is for; nothing, if it is not ours.
    pub(super) fn role(&self, address: IpAddr) -> abi::Role {
        self.addresses
            .iter()
            .find(|ours| ours.address == address)
            .map_or_else(abi::Role::default, |ours| ours.role)
    }

    /// The hash of a flow, from its client's end to our one.
    pub(super) fn flow_hash(&self, from: (IpAddr, u16), to: (IpAddr, u16), protocol: u8) -> u64 {
        let (source, destination) = (words(from.0), words(to.0));
        let key = abi::Service::key(to.1.to_be(), protocol);
        match from.0 {
            IpAddr::V4(client) => {
                let client = u32::from_ne_bytes(client.octets());
                let address = (destination[1] >> 32) as u32;
                hash::flow4(client, from.1.to_be(), address, key, self.flow_seed)
            }
            IpAddr::V6(_) => hash::flow6(source, from.1.to_be(), destination, key, self.flow_seed),
        }
    }

    /// The set of the flow table in which a flow is, and whether that is IPv6's.
    pub(super) fn set_of(&self, client: IpAddr, port: u16, service: u32) -> (bool, u64) {
        let Some(service) = self.service(service) else {
            return (false, 0);
        };
        let to = (service.address, service.port);
        let hash = self.flow_hash((client, port), to, service.protocol);
        let sets = if client.is_ipv4() {
            FLOW4_SETS
        } else {
            FLOW6_SETS
        };
        (client.is_ipv6(), hash & u64::from(sets - 1))
    }
}

/// An address as the program's tables have it.
#[must_use]
pub fn words(address: IpAddr) -> [u64; 2] {
    addr_words(match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    })
}
