//! What object and model are told: services of every kind, backends of every mode.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use proptest::prelude::*;
use steerd_ebpf::abi::{
    Affinity, Control, Mode, NatPool, NatTimeouts, Policy, Role, Scheduler, SourceRule,
};
use steerd_tests::model::{Address, Backend, Config, Network, Service, SourceNetwork, words};

use super::packet::{self, ENDPOINT4, ENDPOINT6, GUE_PORT, VIP4, VIP6};
use crate::world::{BACKEND_MAC, ELSEWHERE, FLOW_SEED, INGRESS, OWN_MAC, PEER_MAC, SEED, World};

/// The id of no backend.
pub(super) const UNUSED: u16 = 99;

pub(super) fn any_backend() -> impl Strategy<Value = u16> {
    let mut ids: Vec<u16> = backends().into_keys().collect();
    ids.push(UNUSED);
    prop::sample::select(ids)
}

/// Of [`Backend::service`]: one whose connections are counted.
pub(super) const COUNTED: u32 = 1000;

const BACKEND4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 3, 0, 99));
const BACKEND6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 3, 0, 0, 0, 0, 0, 0x99));

/// Backends of every mode; what they have and what they have not in common is to be told apart.
fn backends() -> BTreeMap<u16, Backend> {
    let backend = |id: u16, mode, ifindex, vlan, service| {
        let mut mac = BACKEND_MAC;
        mac[4] = id as u8;
        let mut source_mac = OWN_MAC;
        source_mac[4] = (ifindex % 7) as u8;
        let backend = Backend {
            mode,
            mac,
            source_mac,
            vlan,
            ifindex,
            alive: true,
            generation: id as u8,
            address: BACKEND4,
            port: 8080 + id,
            mtu: 1500,
            service,
            weight: if service == COUNTED {
                u64::from(id - 10)
            } else {
                0
            },
        };
        (id, backend)
    };
    let mut backends = BTreeMap::from([
        backend(1, Mode::Local, 0, 0, 0),
        backend(2, Mode::Dsr, INGRESS, 0, 0),
        backend(3, Mode::Dsr, ELSEWHERE, 0, 0),
        backend(4, Mode::Dsr, INGRESS, 7, 0),
        backend(5, Mode::Dsr, ELSEWHERE, 4094, 0),
        // Through an interface that is not there.
        backend(6, Mode::Dsr, 55, 0, 0),
        backend(11, Mode::Dsr, INGRESS, 0, COUNTED),
        backend(12, Mode::Dsr, ELSEWHERE, 7, COUNTED),
        backend(13, Mode::Local, 0, 0, COUNTED),
        backend(21, Mode::Ipip, INGRESS, 0, 0),
        backend(22, Mode::Ipip, ELSEWHERE, 7, 0),
        backend(23, Mode::Gue, INGRESS, 9, 0),
        backend(24, Mode::Gue, ELSEWHERE, 0, 0),
        backend(25, Mode::Gue, INGRESS, 0, 0),
    ]);
    for id in [22, 24] {
        backends
            .entry(id)
            .and_modify(|backend| backend.address = BACKEND6);
    }
    for id in [4, 11, 25] {
        backends.entry(id).and_modify(|backend| backend.mtu = 700);
    }
    // Two for each service that translates.
    let translating = services()
        .into_iter()
        .filter(|service| service.ring.iter().any(|&id| id > 30 && id != UNUSED));
    for service in translating {
        for &id in &service.ring {
            let (ifindex, vlan) = if id % 2 == 0 {
                (INGRESS, 0)
            } else {
                (ELSEWHERE, 7)
            };
            let (id, mut backend) = backend(id, Mode::Nat, ifindex, vlan, service.id);
            backend.address = if service.address.is_ipv4() {
                BACKEND4
            } else {
                BACKEND6
            };
            if id % 4 == 0 {
                backend.mtu = 700;
            }
            backends.insert(id, backend);
        }
    }
    backends
}

/// The kinds of services, each on a port of its own: ring and policy.
fn kinds() -> Vec<(Vec<u16>, Policy)> {
    let all = Affinity {
        prefix: 128,
        port: true,
    };
    let network = |prefix| Affinity {
        prefix,
        port: false,
    };
    let hash = |affinity, mss, sources, limited| {
        Policy::new(Scheduler::Hash, affinity, mss, sources, limited, false)
    };
    let scheduled = |scheduler| Policy::new(scheduler, all, 0, false, false, false);
    let quic = Policy::new(Scheduler::Hash, all, 0, false, false, true);
    vec![
        (vec![2], Policy::default()),
        (vec![1], Policy::default()),
        (vec![3, 4, 5, 2, 1], Policy::default()),
        (vec![2, 3, 6], hash(network(128), 0, false, false)),
        (vec![2, 3, 4, 5], hash(network(123), 0, false, false)),
        (vec![2, 3, 2, 4, 1], scheduled(Scheduler::Sequence)),
        (vec![11, 12, 13], scheduled(Scheduler::LeastConnections)),
        (vec![1, 2, 4], hash(all, 1200, false, false)),
        (vec![2, 5], hash(all, 0, true, false)),
        (vec![2, 3], hash(all, 0, false, true)),
        (vec![3, 4], hash(network(64), 536, true, true)),
        (vec![2, 3, 4], quic),
        (vec![], Policy::default()),
        (vec![UNUSED, 2], Policy::default()),
        (vec![21, 22, 23, 24, 25], Policy::default()),
        (vec![21, 22, 23, 24], hash(all, 1200, false, false)),
        (vec![25], Policy::default()),
        // See `services`.
        (vec![NAT, NAT], Policy::default()),
        (vec![NAT, NAT], hash(all, 1200, false, false)),
    ]
}

/// In a ring of [`kinds`]: a backend of the service's own that translates.
const NAT: u16 = 31;

/// How many kinds of services there are: their ports follow each other.
pub(super) fn kinds_count() -> u16 {
    kinds().len() as u16
}

/// Every kind, for TCP and UDP, IPv4 and IPv6.
pub(super) fn services() -> Vec<Service> {
    let mut services = Vec::new();
    let mut own = NAT;
    for (port, (ring, policy)) in (packet::PORT..).zip(kinds()) {
        for (address, protocol) in [(VIP4, 6), (VIP4, 17), (VIP6, 6), (VIP6, 17)] {
            if policy.is_quic() && protocol == 6 {
                continue;
            }
            let source = |network: &str, prefix, rule| SourceNetwork {
                network: network.parse().unwrap(),
                prefix,
                rule,
            };
            let sources = if !policy.has_sources() {
                vec![]
            } else if address.is_ipv4() {
                vec![
                    source("10.0.0.0", 29, SourceRule::Deny),
                    source("10.0.0.2", 31, SourceRule::Allow),
                    source("10.0.0.3", 32, SourceRule::Deny),
                ]
            } else {
                vec![
                    source("fd00:2::", 64, SourceRule::Deny),
                    source("fd00:2::2", 127, SourceRule::Allow),
                    source("fd00:2::3", 128, SourceRule::Deny),
                ]
            };
            let mut ring = ring.clone();
            for id in ring.iter_mut().filter(|id| **id == NAT) {
                *id = own;
                own += 1;
            }
            services.push(Service {
                id: services.len() as u32 + 1,
                address,
                port,
                protocol,
                ring,
                policy,
                servers: if policy.is_quic() {
                    vec![0, 2, 3, 4, UNUSED]
                } else {
                    vec![]
                },
                sources,
                burst: 1,
            });
        }
    }
    services
}

/// The addresses that translated packets come from: IPv4's first, in the order of their numbers.
pub(super) const NAT_ADDRESSES: [IpAddr; 3] = [
    IpAddr::V4(Ipv4Addr::new(192, 168, 1, 31)),
    IpAddr::V4(Ipv4Addr::new(192, 168, 1, 32)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 0x31)),
];
const POOL: NatPool = NatPool {
    first_set: 4096,
    sets: 256,
    ipv4: 2,
    ipv6: 1,
    ..NatPool::NONE
};

const NETWORK4: Network = Network {
    address: IpAddr::V4(Ipv4Addr::new(10, 64, 0, 0)),
    mask: IpAddr::V4(Ipv4Addr::new(255, 192, 0, 0)),
};
const NETWORK6: Network = Network {
    address: IpAddr::V6(Ipv6Addr::new(0xfd00, 0x64, 0, 0, 0, 0, 0, 0)),
    mask: IpAddr::V6(Ipv6Addr::new(0xffff, 0xffff, 0xffff, 0xffff, 0, 0, 0, 0)),
};

pub(super) fn config() -> Config {
    let address = |address: IpAddr, role| Address {
        address,
        role: Role(role),
    };
    let mut addresses = vec![
        address(VIP4, Role::VIRTUAL),
        address(VIP6, Role::VIRTUAL),
        address(ENDPOINT4, Role::ENDPOINT),
        address(ENDPOINT6, Role::ENDPOINT),
    ];
    for (number, nat) in (0..).zip(NAT_ADDRESSES) {
        addresses.push(address(nat, Role::nat_bits(number)));
    }
    Config {
        ingress: INGRESS,
        interfaces: vec![ELSEWHERE],
        own_macs: vec![OWN_MAC],
        peer_macs: vec![PEER_MAC],
        addresses,
        services: services(),
        backends: backends(),
        tunnel4: Some(NETWORK4),
        tunnel6: Some(NETWORK6),
        gue_port: GUE_PORT,
        nat_ports: POOL.first_set * 4..(POOL.first_set + POOL.sets) * 4,
        address_seed: SEED,
        flow_seed: FLOW_SEED,
    }
}

/// What of the configuration is in the control map.
pub(super) fn set_control(world: &mut World) {
    let octets4 = |address: IpAddr| (words(address)[1] >> 32) as u32;
    let tunnel4 = u64::from(octets4(NETWORK4.mask)) << 32 | u64::from(octets4(NETWORK4.address));
    world.control(Control::TUNNEL4, tunnel4);
    let tunnel6 = [words(NETWORK6.address), words(NETWORK6.mask)];
    for (at, word) in tunnel6.into_iter().flatten().enumerate() {
        world.control(Control::TUNNEL6 + at, word);
    }
    world.control(Control::GUE_PORT, GUE_PORT.to_be().into());
    world.control(Control::NAT_POOL, POOL.pack());
    // Longer than a run takes.
    let timeouts = NatTimeouts {
        tcp_new: 3600,
        tcp_established: 3600,
        tcp_closing: 3600,
        udp_new: 3600,
        udp_established: 3600,
    };
    for (at, word) in timeouts.pack().into_iter().enumerate() {
        world.control(Control::NAT_TIMEOUTS + at, word);
    }
    for (at, word) in NAT_ADDRESSES.map(words).into_iter().flatten().enumerate() {
        world.control(Control::NAT_ADDRESSES + at, word);
    }
}
