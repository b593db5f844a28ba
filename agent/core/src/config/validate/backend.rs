//! The backends of a service.

use std::{collections::HashSet, net::IpAddr};

use super::{
    family,
    mode::Means,
    router::{Vips, address_fault},
    unique_names,
};
use crate::config::{
    Backend, Encapsulation, Mode,
    error::Mistake,
    raw::{RawBackend, RawService},
    reader::{At, Given},
};

/// The backends of the service `raw`.
pub(super) fn backends(
    raw: &RawService,
    vips: &Vips<'_>,
    means: &Means<'_>,
    mistakes: &mut Vec<Mistake>,
) -> Option<Vec<Backend>> {
    let items = &raw.backends.items;
    unique_names(
        "backend of this service",
        items.iter().map(|item| item.value.name.at()),
        mistakes,
    );
    unique_servers(raw, mistakes);
    unique_server_ids(raw, mistakes);
    let backends: Vec<_> = items
        .iter()
        .map(|item| backend(item, raw, vips, means, mistakes))
        .collect();
    backends.into_iter().collect()
}

fn backend(
    at: &At<RawBackend>,
    service: &RawService,
    vips: &Vips<'_>,
    means: &Means<'_>,
    mistakes: &mut Vec<Mistake>,
) -> Option<Backend> {
    let raw = &at.value;
    let mode = raw.mode.or(Mode::Auto);
    if let Given::Value(address) = &raw.address {
        let service = service.address.value();
        mistakes.extend(address_mistake(address, mode, service, vips, means));
    }
    if let Some(mode) = mode {
        mode_mistakes(raw, mode, service, means, mistakes);
    }
    let sorry = raw.sorry.or(false);
    if let Given::Value(tier) = &raw.tier
        && sorry == Some(true)
    {
        let message = "`tier` means nothing to a sorry backend: it belongs to none";
        mistakes.push(Mistake::new(&tier.span, message).help("remove one of the two"));
    }
    match (service.quic.or(false), &raw.quic_server_id) {
        (Some(false), Given::Value(id)) => {
            let message = "`quic_server_id` means nothing without `quic` of its service";
            let help = "set quic = true above the backends, or remove it";
            mistakes.push(Mistake::new(&id.span, message).help(help));
        }
        (Some(true), Given::Absent) => {
            let message = "missing key `quic_server_id`: every backend of a service with `quic` \
                           has one";
            let help = "give the server id that its QUIC stack puts into connection ids";
            mistakes.push(Mistake::new(&at.span, message).help(help));
        }
        _ => {}
    }
    Some(Backend {
        name: raw.name.value()?,
        address: raw.address.value()?,
        port: raw.port.or_else(|| service.port.value())?,
        weight: raw.weight.or(1)?,
        tier: raw.tier.or(1)?,
        mode: mode?,
        encapsulation: raw.encapsulation.or(Encapsulation::Ipip)?,
        mtu: raw.mtu.optional()?,
        sorry: sorry?,
        quic_server_id: raw.quic_server_id.optional()?,
    })
}

/// What is wrong with a backend's address.
fn address_mistake(
    at: &At<IpAddr>,
    mode: Option<Mode>,
    service: Option<IpAddr>,
    vips: &Vips<'_>,
    means: &Means<'_>,
) -> Option<Mistake> {
    let address = at.value;
    let mistake = |message: String| Some(Mistake::new(&at.span, message));
    let tunnels = mode.is_none_or(|mode| mode == Mode::Tunnel);
    if let Some(service) =
        service.filter(|service| service.is_ipv6() != address.is_ipv6() && !tunnels)
    {
        let mistake = mistake(format!(
            "backend {address} is {}, but the service is {}",
            family(address.is_ipv6()),
            family(service.is_ipv6()),
        ));
        return mistake
            .map(|mistake| mistake.help("only mode \"tunnel\" goes from one to the other"));
    }
    if vips.contains(address) || service == Some(address) {
        let mistake = mistake(format!("backend {address} is a virtual address"));
        return mistake.map(|mistake| mistake.help("give the server's own address"));
    }
    if address.is_loopback() {
        // This host's own stack can be reached so, a server elsewhere cannot.
        let help =
            "set mode = \"local\" if the server runs on every node, else give its own address";
        return mistake(format!("backend {address} is a loopback address"))
            .filter(|_| mode.is_some_and(|mode| mode != Mode::Local))
            .map(|mistake| mistake.help(help));
    }
    if let Some(fault) = address_fault(address) {
        return mistake(format!("backend {address} {fault}"));
    }
    if matches!(address, IpAddr::V6(ip) if ip.is_unicast_link_local()) {
        let mistake = mistake(format!(
            "backend {address} is link-local: it says nothing without an interface"
        ));
        return mistake.map(|mistake| mistake.help("give a global or unique local address"));
    }
    if mode == Some(Mode::Tunnel)
        && let Some((key, net)) = means.outer_sources(address)
    {
        let mistake = mistake(format!(
            "backend {address} is in {net}, from which outer sources are made up"
        ));
        let help = format!("set `{key}` in [tunnel] to a network that no host is in");
        return mistake.map(|mistake| mistake.help(help));
    }
    None
}

/// What must hold for the mode and what belongs to one.
fn mode_mistakes(
    raw: &RawBackend,
    mode: Mode,
    service: &RawService,
    means: &Means<'_>,
    mistakes: &mut Vec<Mistake>,
) {
    if let (Given::Value(port), Some(service_port)) = (&raw.port, service.port.value())
        && port.value != service_port
        && mode != Mode::Nat
    {
        let message = format!(
            "port {} differs from the service's {service_port}: there is no port translation in mode {mode}",
            port.value,
        );
        let help = "set mode = \"nat\", or leave `port` out; to check another port, set `port` in the probe";
        mistakes.push(Mistake::new(&port.span, message).help(help));
    }
    let ipv6 = raw.address.value().map(|address| address.is_ipv6());
    if let (Mode::Nat, Given::Value(at), Some(ipv6)) = (mode, &raw.mode, ipv6)
        && service
            .address
            .value()
            .is_none_or(|address| address.is_ipv6() == ipv6)
        && means.nat_lacks(ipv6)
    {
        let family = family(ipv6);
        let message = format!("mode \"nat\" needs an {family} address for packets to come from");
        let help = "set `addresses` in [nat] to addresses of this host's own";
        mistakes.push(Mistake::new(&at.span, message).help(help));
    }
    if mode != Mode::Tunnel {
        let encapsulation = raw.encapsulation.at().map(|at| &at.span);
        let mtu = raw.mtu.at().map(|at| &at.span);
        for (key, span) in [("encapsulation", encapsulation), ("mtu", mtu)] {
            let Some(span) = span else { continue };
            let message = format!("`{key}` means nothing to a backend of mode \"{mode}\"");
            mistakes.push(Mistake::new(span, message).help("set mode = \"tunnel\", or remove it"));
        }
        return;
    }
    // The sender of an IPv6 packet need not make it smaller than 1280 bytes (RFC 8200, 5), so a way
    // that carries less would lose it for good.
    let (Given::Value(mtu), Some(outer6), Some(inner)) = (&raw.mtu, ipv6, service.address.value())
    else {
        return;
    };
    let header = if outer6 { 40 } else { 20 };
    let gue = match raw.encapsulation.or(Encapsulation::Ipip) {
        Some(Encapsulation::Gue) => 8,
        Some(Encapsulation::Ipip) | None => 0,
    };
    let (least, message) = match (inner.is_ipv6(), outer6) {
        (true, _) => {
            let least = 1280 + header + gue;
            let what = format!("an IPv6 packet of 1280 bytes takes {least} in this tunnel");
            (least, what)
        }
        (false, true) => (1280, "IPv6 carries at least 1280".to_owned()),
        (false, false) => return,
    };
    if mtu.value < least {
        let message = format!("`mtu` is {}, but {message}", mtu.value);
        let help = "no way may carry less than 1280 bytes of IPv6 (RFC 8200, 5)";
        mistakes.push(Mistake::new(&mtu.span, message).help(help));
    }
}

/// One server is one backend.
fn unique_servers(raw: &RawService, mistakes: &mut Vec<Mistake>) {
    let mut seen = HashSet::new();
    for item in &raw.backends.items {
        let raw_backend = &item.value;
        let Given::Value(address) = &raw_backend.address else {
            continue;
        };
        // Only translated ports tell two servers at one address apart.
        let port = match raw_backend.mode.or(Mode::Auto) {
            Some(Mode::Nat) => raw_backend.port.or_else(|| raw.port.value()),
            Some(Mode::Auto | Mode::Local | Mode::Dsr | Mode::Tunnel) | None => raw.port.value(),
        };
        if !seen.insert((address.value, port)) {
            let message = format!(
                "an earlier backend of this service is {} too",
                address.value
            );
            let help = "give one of them the sum of their weights";
            mistakes.push(Mistake::new(&address.span, message).help(help));
        }
    }
}

/// A server id names one backend.
fn unique_server_ids(raw: &RawService, mistakes: &mut Vec<Mistake>) {
    let mut seen = HashSet::new();
    let ids = raw.backends.items.iter();
    for id in ids.filter_map(|item| item.value.quic_server_id.at()) {
        if !seen.insert(id.value) {
            let message = format!(
                "an earlier backend of this service has quic_server_id {} too",
                id.value
            );
            mistakes.push(Mistake::new(&id.span, message).help("each needs an id of its own"));
        }
    }
}
