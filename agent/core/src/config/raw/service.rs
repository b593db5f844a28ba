//! `[[service]]` and `[[service.backend]]` as they are written.

use std::{net::IpAddr, time::Duration};

use ipnet::IpNet;

use crate::config::{
    Encapsulation, Mode, Name, Protocol, Scheduler,
    error::Mistake,
    limits,
    reader::{Given, List, TableReader},
    scalar,
    schema::BACKEND,
};

/// `[[service]]`.
#[derive(Debug)]
pub(in crate::config) struct RawService {
    pub(in crate::config) name: Given<Name>,
    pub(in crate::config) address: Given<IpAddr>,
    pub(in crate::config) port: Given<u16>,
    pub(in crate::config) protocol: Given<Protocol>,
    pub(in crate::config) virtual_router: Given<Name>,
    pub(in crate::config) min_healthy: Given<u16>,
    pub(in crate::config) ring_size: Given<u32>,
    pub(in crate::config) scheduler: Given<Scheduler>,
    pub(in crate::config) affinity: Given<AffinityWord>,
    pub(in crate::config) affinity_prefix4: Given<u8>,
    pub(in crate::config) affinity_prefix6: Given<u8>,
    pub(in crate::config) slow_start: Given<Duration>,
    pub(in crate::config) panic_threshold: Given<u8>,
    pub(in crate::config) mss: Given<u16>,
    pub(in crate::config) syn_rate: Given<u32>,
    pub(in crate::config) syn_burst: Given<u32>,
    pub(in crate::config) allow_sources: List<IpNet>,
    pub(in crate::config) deny_sources: List<IpNet>,
    pub(in crate::config) quic: Given<bool>,
    pub(in crate::config) probes: List<Name>,
    pub(in crate::config) backends: List<RawBackend>,
}

/// The `affinity` of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) enum AffinityWord {
    FiveTuple,
    SourceAddress,
    SourcePrefix,
}

/// `[[service.backend]]`.
#[derive(Debug)]
pub(in crate::config) struct RawBackend {
    pub(in crate::config) name: Given<Name>,
    pub(in crate::config) address: Given<IpAddr>,
    pub(in crate::config) port: Given<u16>,
    pub(in crate::config) weight: Given<u16>,
    pub(in crate::config) tier: Given<u8>,
    pub(in crate::config) sorry: Given<bool>,
    pub(in crate::config) mode: Given<Mode>,
    pub(in crate::config) encapsulation: Given<Encapsulation>,
    pub(in crate::config) mtu: Given<u16>,
    pub(in crate::config) quic_server_id: Given<u16>,
}

pub(super) fn service(table: &mut TableReader<'_>) -> RawService {
    let protocols = [("tcp", Protocol::Tcp), ("udp", Protocol::Udp)];
    let schedulers = [
        ("maglev", Scheduler::Maglev),
        ("least-connections", Scheduler::LeastConnections),
        ("weighted-round-robin", Scheduler::WeightedRoundRobin),
    ];
    let affinities = [
        ("5-tuple", AffinityWord::FiveTuple),
        ("source-address", AffinityWord::SourceAddress),
        ("source-prefix", AffinityWord::SourcePrefix),
    ];
    let slow_start = Duration::ZERO..=Duration::from_hours(1);
    RawService {
        name: table.require("name", scalar::name),
        address: table.require("address", scalar::address),
        port: table.require("port", scalar::integer(1..=65_535)),
        protocol: table.get("protocol", scalar::choice(&protocols)),
        virtual_router: table.get("virtual_router", scalar::name),
        min_healthy: table.get("min_healthy", scalar::integer(1..=1024)),
        ring_size: table.get("ring_size", scalar::ring_size),
        scheduler: table.get("scheduler", scalar::choice(&schedulers)),
        affinity: table.get("affinity", scalar::choice(&affinities)),
        affinity_prefix4: table.get("affinity_prefix4", scalar::integer(1..=32)),
        affinity_prefix6: table.get("affinity_prefix6", scalar::integer(1..=128)),
        slow_start: table.get("slow_start", scalar::duration(slow_start)),
        panic_threshold: table.get("panic_threshold", scalar::integer(0..=100)),
        // RFC 9293, 3.7.1: what every IPv4 host takes; and the largest packet without its headers.
        mss: table.get("mss", scalar::integer(536..=65_495)),
        syn_rate: table.get("syn_rate", scalar::integer(1..=10_000_000)),
        syn_burst: table.get("syn_burst", scalar::integer(1..=10_000_000)),
        allow_sources: table.list("allow_sources", limits::SOURCES, scalar::net::sources),
        deny_sources: table.list("deny_sources", limits::SOURCES, scalar::net::sources),
        quic: table.get("quic", scalar::boolean),
        probes: table.list("probes", limits::PROBES, scalar::name),
        backends: {
            let backends = table.tables("backend", &BACKEND, limits::BACKENDS, backend);
            if backends.span.is_none() {
                table.mistake(
                    Mistake::new(&table.span.clone(), "a service without a backend")
                        .help("add a [[service.backend]] below it"),
                );
            }
            backends
        },
    }
}

fn backend(table: &mut TableReader<'_>) -> RawBackend {
    let modes = [
        ("auto", Mode::Auto),
        ("local", Mode::Local),
        ("dsr", Mode::Dsr),
        ("tunnel", Mode::Tunnel),
        ("nat", Mode::Nat),
    ];
    let encapsulations = [("ipip", Encapsulation::Ipip), ("gue", Encapsulation::Gue)];
    RawBackend {
        name: table.require("name", scalar::name),
        address: table.require("address", scalar::address),
        port: table.get("port", scalar::integer(1..=65_535)),
        weight: table.get("weight", scalar::integer(0..=256)),
        tier: table.get("tier", scalar::integer(1..=255)),
        sorry: table.get("sorry", scalar::boolean),
        mode: table.get("mode", scalar::choice(&modes)),
        encapsulation: table.get("encapsulation", scalar::choice(&encapsulations)),
        mtu: table.get("mtu", scalar::integer(576..=9000)),
        quic_server_id: table.get("quic_server_id", scalar::integer(1..=65_535)),
    }
}
