//! `[tunnel]` and `[nat]` as they are written.

use std::{net::IpAddr, time::Duration};

use ipnet::{Ipv4Net, Ipv6Net};

use crate::config::{
    PortRange, limits,
    reader::{Given, List, TableReader},
    scalar,
};

/// `[tunnel]`.
#[derive(Debug)]
pub(in crate::config) struct RawTunnel {
    pub(in crate::config) source4: Given<Ipv4Net>,
    pub(in crate::config) source6: Given<Ipv6Net>,
    pub(in crate::config) gue_port: Given<u16>,
    pub(in crate::config) endpoints: List<IpAddr>,
}

/// `[nat]`.
#[derive(Debug)]
pub(in crate::config) struct RawNat {
    pub(in crate::config) addresses: List<IpAddr>,
    pub(in crate::config) ports: Given<PortRange>,
    pub(in crate::config) tcp_new: Given<Duration>,
    pub(in crate::config) tcp_established: Given<Duration>,
    pub(in crate::config) tcp_closing: Given<Duration>,
    pub(in crate::config) udp_new: Given<Duration>,
    pub(in crate::config) udp_established: Given<Duration>,
}

pub(super) fn tunnel(mut table: TableReader<'_>) -> RawTunnel {
    RawTunnel {
        source4: table.get("source4", scalar::net::outer_sources4),
        source6: table.get("source6", scalar::net::outer_sources6),
        gue_port: table.get("gue_port", scalar::integer(1..=65_535)),
        endpoints: table.list("endpoints", limits::ENDPOINTS, scalar::address),
    }
}

pub(super) fn nat(mut table: TableReader<'_>) -> RawNat {
    // The data plane counts in units of 256 jiffies, in 16 bits for the first ones and in 20 for the
    // others: 4 and 74 hours with 1000 jiffies a second.
    let second = Duration::from_secs(1);
    let short = || scalar::duration(second..=Duration::from_hours(1));
    let long = || scalar::duration(second..=Duration::from_hours(24));
    RawNat {
        addresses: table.list("addresses", limits::NAT_ADDRESSES, scalar::address),
        ports: table.get("ports", scalar::net::port_range),
        tcp_new: table.get("tcp_new", short()),
        tcp_established: table.get("tcp_established", long()),
        tcp_closing: table.get("tcp_closing", short()),
        udp_new: table.get("udp_new", short()),
        udp_established: table.get("udp_established", long()),
    }
}
