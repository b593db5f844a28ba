//! `[tunnel]` and `[nat]` as they are written.

use std::{net::IpAddr, time::Duration};

use ipnet::{Ipv4Net, Ipv6Net};

use crate::config::{
    PortRange,
    reader::{Given, List, TableReader},
    scalar,
    schema::{MAX_ENDPOINTS, MAX_NAT_ADDRESSES},
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
        endpoints: table.list("endpoints", MAX_ENDPOINTS, scalar::address),
    }
}

pub(super) fn nat(mut table: TableReader<'_>) -> RawNat {
    let timeout = || scalar::duration(Duration::from_secs(1)..=Duration::from_hours(168));
    RawNat {
        addresses: table.list("addresses", MAX_NAT_ADDRESSES, scalar::address),
        ports: table.get("ports", scalar::net::port_range),
        tcp_new: table.get("tcp_new", timeout()),
        tcp_established: table.get("tcp_established", timeout()),
        tcp_closing: table.get("tcp_closing", timeout()),
        udp_new: table.get("udp_new", timeout()),
        udp_established: table.get("udp_established", timeout()),
    }
}
