//! `[tunnel]` and `[nat]`, and what backends need of them.

use std::{collections::HashSet, net::IpAddr};

use ipnet::IpNet;

use super::router::{Vips, address_fault};
use crate::config::{
    Nat, NatTimeouts, Tunnel,
    error::Mistake,
    raw::{RawNat, RawTunnel},
    reader::{At, List},
};

/// What this node has for backends of modes `tunnel` and `nat`.
pub(super) struct Means<'a> {
    tunnel: &'a RawTunnel,
    nat: &'a RawNat,
}

impl<'a> Means<'a> {
    /// What `tunnel` and `nat` provide.
    pub(super) fn of(tunnel: &'a RawTunnel, nat: &'a RawNat) -> Self {
        Self { tunnel, nat }
    }

    /// Whether packets of the family cannot be translated, for lack of an address.
    pub(super) fn nat_lacks(&self, ipv6: bool) -> bool {
        let addresses = &self.nat.addresses;
        let fits = |address: &At<IpAddr>| address.value.is_ipv6() == ipv6;
        addresses.whole && !addresses.items.iter().any(fits)
    }

    /// The key and the network that `address` is in, where that is one of made-up outer sources. A
    /// network of one address is no such: it may well be this host's own.
    pub(super) fn outer_sources(&self, address: IpAddr) -> Option<(&'static str, IpNet)> {
        let defaults = Tunnel::default();
        let source4 = self.tunnel.source4.or(defaults.source4).map(IpNet::V4);
        let source6 = self.tunnel.source6.or(defaults.source6).map(IpNet::V6);
        let fits = |net: &IpNet| net.prefix_len() < net.max_prefix_len() && net.contains(&address);
        let nets = [("source4", source4), ("source6", source6)];
        nets.into_iter()
            .find_map(|(key, net)| Some((key, net.filter(fits)?)))
    }
}

/// What tunnels are made of.
pub(super) fn tunnel(
    means: &Means<'_>,
    vips: &Vips<'_>,
    mistakes: &mut Vec<Mistake>,
) -> Option<Tunnel> {
    let raw = means.tunnel;
    own_addresses("endpoint", &raw.endpoints, vips, mistakes, |at| {
        let (key, net) = means.outer_sources(at.value)?;
        let message = format!(
            "endpoint {} is in {net}, from which outer sources are made up",
            at.value
        );
        let help = format!("set `{key}` to a network that no host is in");
        Some(Mistake::new(&at.span, message).help(help))
    });
    let defaults = Tunnel::default();
    Some(Tunnel {
        source4: raw.source4.or(defaults.source4)?,
        source6: raw.source6.or(defaults.source6)?,
        gue_port: raw.gue_port.or(defaults.gue_port)?,
        endpoints: values(&raw.endpoints),
    })
}

/// What translation needs.
pub(super) fn nat(means: &Means<'_>, vips: &Vips<'_>, mistakes: &mut Vec<Mistake>) -> Option<Nat> {
    let raw = means.nat;
    let Nat {
        ports, timeouts, ..
    } = Nat::default();
    let wrapped = means.tunnel.gue_port.or(Tunnel::default().gue_port);
    let both = raw.ports.or(ports).zip(wrapped);
    let taken = both.filter(|(ports, gue_port)| (ports.low..=ports.high).contains(gue_port));
    own_addresses("address", &raw.addresses, vips, mistakes, |at| {
        let (ports, gue_port) = taken?;
        let mut endpoints = means.tunnel.endpoints.items.iter();
        let _both = endpoints.find(|endpoint| endpoint.value == at.value)?;
        let message = format!(
            "address {} is an endpoint under [tunnel] too, and answers to its port {gue_port} would be \
             taken for GUE packets",
            at.value
        );
        let help = format!(
            "give another address, or make `ports` ({ports}) end before port {gue_port} or begin behind \
             it, or change `gue_port` on all nodes"
        );
        Some(Mistake::new(&at.span, message).help(help))
    });
    Some(Nat {
        addresses: values(&raw.addresses),
        ports: raw.ports.or(ports)?,
        timeouts: NatTimeouts {
            tcp_new: raw.tcp_new.or(timeouts.tcp_new)?,
            tcp_established: raw.tcp_established.or(timeouts.tcp_established)?,
            tcp_closing: raw.tcp_closing.or(timeouts.tcp_closing)?,
            udp_new: raw.udp_new.or(timeouts.udp_new)?,
            udp_established: raw.udp_established.or(timeouts.udp_established)?,
        },
    })
}

/// What must hold for a list of this host's own addresses, and `more`.
fn own_addresses(
    what: &str,
    list: &List<IpAddr>,
    vips: &Vips<'_>,
    mistakes: &mut Vec<Mistake>,
    more: impl Fn(&At<IpAddr>) -> Option<Mistake>,
) {
    let mut seen = HashSet::new();
    for at @ At { value, span } in &list.items {
        let mistake = |message: String| Mistake::new(span, message);
        let link_local = matches!(value, IpAddr::V6(ip) if ip.is_unicast_link_local());
        mistakes.extend(if let Some(fault) = address_fault(*value) {
            Some(mistake(format!("{what} {value} {fault}")))
        } else if link_local {
            let help = "give a global or unique local address";
            Some(mistake(format!("{what} {value} is link-local")).help(help))
        } else if vips.contains(*value) {
            let help = "give an address of this host's own, which never moves";
            Some(mistake(format!("{what} {value} is a virtual address")).help(help))
        } else if !seen.insert(*value) {
            Some(mistake(format!("{what} {value} is listed twice")))
        } else {
            more(at)
        });
    }
}

fn values(list: &List<IpAddr>) -> Vec<IpAddr> {
    list.items.iter().map(|at| at.value).collect()
}
