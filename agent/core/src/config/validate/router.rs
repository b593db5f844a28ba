//! Virtual routers and the addresses they hold.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    time::Duration,
};

use ipnet::IpNet;

use super::{
    family,
    track::{self, Tracks},
    unique_names, wire,
};
use crate::{
    config::{
        Announce, Name, VirtualRouter,
        error::{Mistake, quote},
        raw::{RawAnnounce, RawVirtualRouter},
        reader::{At, Given, List},
    },
    vrrp::election::OWNER,
};

/// The addresses of all virtual routers.
pub(super) struct Vips<'a> {
    /// The first virtual router that holds each.
    holders: HashMap<IpAddr, &'a RawVirtualRouter>,
    routers: &'a List<RawVirtualRouter>,
}

/// Which virtual router holds an address.
pub(super) enum Holder {
    /// This one.
    Router(Name),
    /// One whose name is unusable, or perhaps one whose addresses are.
    Unknown,
    /// None.
    Nobody,
}

impl<'a> Vips<'a> {
    /// The addresses of `routers`.
    pub(super) fn of(routers: &'a List<RawVirtualRouter>) -> Self {
        let mut holders = HashMap::new();
        for router in &routers.items {
            for net in &router.value.addresses.items {
                holders.entry(net.value.addr()).or_insert(&router.value);
            }
        }
        Self { holders, routers }
    }

    /// Whether `address` is one of them.
    pub(super) fn contains(&self, address: IpAddr) -> bool {
        self.holders.contains_key(&address)
    }

    /// The first virtual router with `address`.
    pub(super) fn holder(&self, address: IpAddr) -> Holder {
        let routers = &self.routers.items;
        let mut lists = routers.iter().map(|router| &router.value.addresses);
        // Having none at all is a mistake of its own.
        let whole = self.routers.whole && !routers.is_empty();
        let whole = whole && lists.all(|list| list.whole && !list.items.is_empty());
        match self.holders.get(&address) {
            Some(router) => router.name.value().map_or(Holder::Unknown, Holder::Router),
            None if whole => Holder::Nobody,
            None => Holder::Unknown,
        }
    }

    /// Whether the virtual router called `name` holds `address`; none where that is not known
    /// because of another mistake.
    pub(super) fn holds(&self, name: &Name, address: IpAddr) -> Option<bool> {
        let named =
            |router: &&At<RawVirtualRouter>| router.value.name.value().as_ref() == Some(name);
        let router = &self.routers.items.iter().find(named)?.value;
        let holds = router
            .addresses
            .items
            .iter()
            .any(|net| net.value.addr() == address);
        (holds || router.addresses.whole && !router.addresses.items.is_empty()).then_some(holds)
    }

    /// The names of the virtual routers; none if one of them is unusable.
    pub(super) fn router_names(&self) -> Option<Vec<Name>> {
        let names = self
            .routers
            .items
            .iter()
            .map(|router| router.value.name.value());
        names.collect::<Option<_>>().filter(|_| self.routers.whole)
    }
}

/// The virtual routers. There may be none where the node `unwraps` for others.
pub(super) fn virtual_routers(
    raw: &List<RawVirtualRouter>,
    vips: &Vips<'_>,
    tracks: &Tracks,
    unwraps: bool,
    mistakes: &mut Vec<Mistake>,
) -> Option<Vec<VirtualRouter>> {
    if raw.whole && raw.items.is_empty() && !unwraps {
        let span = raw.span.clone().unwrap_or(0..0);
        let mistake = Mistake::new(&span, "no virtual router: there is no address to keep");
        let help =
            "add a [[virtual_router]]; a backend that only unwraps needs `endpoints` in [tunnel]";
        mistakes.push(mistake.help(help));
    }
    unique_names(
        "virtual router",
        raw.items.iter().map(|router| router.value.name.at()),
        mistakes,
    );
    unique_ids(raw, mistakes);
    unique_addresses(raw, mistakes);
    let routers: Vec<_> = raw
        .items
        .iter()
        .map(|router| virtual_router(&router.value, vips, tracks, mistakes))
        .collect();
    routers.into_iter().collect()
}

fn virtual_router(
    raw: &RawVirtualRouter,
    vips: &Vips<'_>,
    tracks: &Tracks,
    mistakes: &mut Vec<Mistake>,
) -> Option<VirtualRouter> {
    addresses(&raw.addresses, mistakes);
    owner(raw, mistakes);
    never_preempts(raw, mistakes);
    impatient(raw, mistakes);
    let ipv6 = raw
        .addresses
        .items
        .first()
        .map(|net| net.value.addr().is_ipv6());
    let mut seen = HashSet::new();
    for peer in &raw.peers.items {
        if let Some(mistake) = host_mistake("peer", peer, ipv6, vips) {
            mistakes.push(mistake);
        } else if !seen.insert(peer.value) {
            mistakes.push(Mistake::new(
                &peer.span,
                format!("peer {} is listed twice", peer.value),
            ));
        } else if raw.source.value() == Some(peer.value) {
            let message = format!("peer {} is this node's own `source`", peer.value);
            mistakes.push(Mistake::new(&peer.span, message).help("list the other nodes only"));
        }
    }
    if let Given::Value(source) = &raw.source {
        let multicast = raw.peers.whole && raw.peers.items.is_empty();
        if let Some(mistake) = host_mistake("source", source, ipv6, vips) {
            mistakes.push(mistake);
        } else if multicast && matches!(source.value, IpAddr::V6(ip) if !ip.is_unicast_link_local())
        {
            let message = format!("source {} is not link-local", source.value);
            let help =
                "multicast adverts over IPv6 come from a link-local address (RFC 9568, 5.1.2.1)";
            mistakes.push(Mistake::new(&source.span, message).help(help));
        }
    }
    let track = track::names(&raw.track, tracks, mistakes);
    let advert_interval = raw.advert_interval.or(Duration::from_secs(1))?;
    Some(VirtualRouter {
        name: raw.name.value()?,
        interface: raw.interface.value()?,
        vrid: raw.vrid.value()?,
        priority: raw.priority.or(100)?,
        advert_interval,
        preempt: raw.preempt.or(true)?,
        addresses: raw.addresses.items.iter().map(|net| net.value).collect(),
        peers: raw.peers.items.iter().map(|peer| peer.value).collect(),
        source: raw.source.optional()?,
        announce: announce(&raw.announce)?,
        preempt_delay: raw.preempt_delay.or(Duration::ZERO)?,
        fence_after: raw.fence_after.or(FENCE_INTERVALS * advert_interval)?,
        wire: wire::wire(raw, ipv6, mistakes)?,
        track,
    })
}

/// After so many advert intervals without a sign of life a daemon counts as dead. Its peers wait for
/// three, and take a part of one more: when they announce themselves, the fence can fall at once.
const FENCE_INTERVALS: u32 = 2;

/// A daemon that works gives a sign of life in each advert interval, but not much more often.
fn impatient(raw: &RawVirtualRouter, mistakes: &mut Vec<Mistake>) {
    let (Given::Value(after), Some(interval)) = (
        &raw.fence_after,
        raw.advert_interval.or(Duration::from_secs(1)),
    ) else {
        return;
    };
    if !after.value.is_zero() && after.value < FENCE_INTERVALS * interval {
        let message = "`fence_after` is less than two advert intervals";
        let help = "a daemon that works may be silent for that long; \"0s\": never fence";
        mistakes.push(Mistake::new(&after.span, message).help(help));
    }
}

fn never_preempts(raw: &RawVirtualRouter, mistakes: &mut Vec<Mistake>) {
    let delays = |delay: &&At<Duration>| !delay.value.is_zero();
    let delay = raw.preempt_delay.at().filter(delays);
    if let (Some(delay), Some(false)) = (delay, raw.preempt.value())
        && raw.priority.value() != Some(OWNER)
    {
        let message = "`preempt_delay` means nothing with `preempt = false`";
        let help = "leave one of the two out";
        mistakes.push(Mistake::new(&delay.span, message).help(help));
    }
}

/// The owner takes the addresses whatever a peer does (RFC 9568, 6.4.1), so it has no rules for it.
fn owner(raw: &RawVirtualRouter, mistakes: &mut Vec<Mistake>) {
    if raw.priority.value() != Some(OWNER) {
        return;
    }
    if let Given::Value(preempt @ At { value: false, .. }) = &raw.preempt {
        let message = "priority 255 always preempts: it means the addresses' owner";
        let help = "use 254 or less: the highest priority still wins";
        mistakes.push(Mistake::new(&preempt.span, message).help(help));
    }
    let delays = |delay: &&At<Duration>| !delay.value.is_zero();
    if let Some(delay) = raw.preempt_delay.at().filter(delays) {
        let message = "priority 255 does not wait: it means the addresses' owner";
        let help = "use 254 or less, or leave the delay out";
        mistakes.push(Mistake::new(&delay.span, message).help(help));
    }
}

fn announce(raw: &RawAnnounce) -> Option<Announce> {
    Some(Announce {
        count: raw.count.or(5)?,
        interval: raw.interval.or(Duration::from_millis(100))?,
        repeat_after: raw.repeat_after.or(Duration::from_secs(5))?,
        refresh: raw.refresh.or(Duration::ZERO)?,
    })
}

/// What must hold for the addresses of one virtual router.
fn addresses(list: &List<IpNet>, mistakes: &mut Vec<Mistake>) {
    if let Some(span) = list
        .span
        .as_ref()
        .filter(|_| list.whole && list.items.is_empty())
    {
        mistakes.push(Mistake::new(span, "`addresses` must not be empty"));
    }
    for net in &list.items {
        if let Some((fault, help)) = vip_fault(net.value) {
            let mistake = Mistake::new(&net.span, format!("{} {fault}", net.value));
            mistakes.push(Mistake {
                help: help.map(str::to_owned),
                ..mistake
            });
        }
    }
    let Some(first) = list.items.first() else {
        return;
    };
    let ipv6 = first.value.addr().is_ipv6();
    let is_link_local =
        |net: &IpNet| matches!(net.addr(), IpAddr::V6(ip) if ip.is_unicast_link_local());
    for net in list.items.iter().skip(1) {
        if net.value.addr().is_ipv6() != ipv6 {
            let message = "`addresses` mixes IPv4 and IPv6, which VRRP elects separately";
            let other = family(!ipv6);
            let help = format!(
                "make a second [[virtual_router]] for the {other} addresses; it may have the same vrid",
            );
            mistakes.push(Mistake::new(&net.span, message).help(help));
            return;
        }
        if is_link_local(&net.value) && !is_link_local(&first.value) {
            let message = format!("the link-local address {} must come first", net.value);
            let help = "RFC 9568, 5.2.9, wants it first in the packet";
            mistakes.push(Mistake::new(&net.span, message).help(help));
        }
    }
}

/// Why `net` cannot be a virtual address.
fn vip_fault(net: IpNet) -> Option<(&'static str, Option<&'static str>)> {
    let address = net.addr();
    if let Some(fault) = address_fault(address) {
        return Some((
            fault,
            Some("a virtual address is one that clients can reach"),
        ));
    }
    if net.prefix_len() == 0 {
        return Some((
            "puts the whole Internet on this link",
            Some("give the network's prefix length"),
        ));
    }
    let IpNet::V4(net) = net else { return None };
    // A /31 and a /32 have neither (RFC 3021).
    match net.prefix_len() {
        31 | 32 => None,
        _ if net.addr() == net.network() => Some(("is the address of the network itself", None)),
        _ if net.addr() == net.broadcast() => Some(("is the network's broadcast address", None)),
        _ => None,
    }
}

/// Why no host can have `address` for others to reach.
pub(super) fn address_fault(address: IpAddr) -> Option<&'static str> {
    match address {
        _ if address.is_unspecified() => Some("is the unspecified address"),
        _ if address.is_loopback() => Some("is a loopback address"),
        _ if address.is_multicast() => Some("is a multicast address"),
        IpAddr::V4(ip) if ip.is_broadcast() => Some("is the broadcast address"),
        IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some() => Some("is an IPv4 address in IPv6 form"),
        _ => None,
    }
}

/// What is wrong with the address of a peer or of this node.
fn host_mistake(
    what: &str,
    at: &At<IpAddr>,
    ipv6: Option<bool>,
    vips: &Vips<'_>,
) -> Option<Mistake> {
    let address = at.value;
    let mistake = |message| Some(Mistake::new(&at.span, message));
    if let Some(fault) = address_fault(address) {
        return mistake(format!("{what} {address} {fault}"));
    }
    if let Some(ipv6) = ipv6.filter(|&ipv6| ipv6 != address.is_ipv6()) {
        return mistake(format!(
            "{what} {address} is {}, but the virtual router's addresses are {}",
            family(!ipv6),
            family(ipv6),
        ));
    }
    if vips.contains(address) {
        let mistake = mistake(format!("{what} {address} is a virtual address"));
        return mistake.map(|mistake| mistake.help("give the node's own address"));
    }
    None
}

/// An interface, VRID and family are what tells one virtual router's adverts from another's.
fn unique_ids(raw: &List<RawVirtualRouter>, mistakes: &mut Vec<Mistake>) {
    let mut seen = HashSet::new();
    for router in &raw.items {
        let router = &router.value;
        let (Given::Value(interface), Given::Value(vrid)) = (&router.interface, &router.vrid)
        else {
            continue;
        };
        let Some(first) = router.addresses.items.first() else {
            continue;
        };
        let ipv6 = first.value.addr().is_ipv6();
        if !seen.insert((&interface.value, vrid.value, ipv6)) {
            let message = format!(
                "an earlier virtual router has vrid {} on {} for {} too",
                vrid.value,
                quote(interface.value.as_str()),
                family(ipv6),
            );
            let help = "choose another vrid, or move the addresses to that virtual router";
            mistakes.push(Mistake::new(&vrid.span, message).help(help));
        }
    }
}

/// An address belongs to one virtual router; a link-local one, to one for each interface.
fn unique_addresses(raw: &List<RawVirtualRouter>, mistakes: &mut Vec<Mistake>) {
    let mut seen = HashSet::new();
    for router in &raw.items {
        for net in &router.value.addresses.items {
            let address = net.value.addr();
            let is_link_local = matches!(address, IpAddr::V6(ip) if ip.is_unicast_link_local());
            let scope = router.value.interface.value().filter(|_| is_link_local);
            if !seen.insert((address, scope)) {
                let message = format!("virtual address {address} is already taken");
                let help = "an address belongs to one virtual router, once";
                mistakes.push(Mistake::new(&net.span, message).help(help));
            }
        }
    }
}
