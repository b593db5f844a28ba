//! Services and backends.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    time::Duration,
};

use super::{
    family,
    probe::Probes,
    router::{Holder, Vips, address_fault},
    unique_names,
};
use crate::config::{
    Backend, Encapsulation, Mode, Name, Policy, Probe, Protocol, Service,
    error::{Mistake, quote},
    raw::{RawBackend, RawService},
    reader::{At, Given, List},
    words::suggestion,
};

/// The services.
pub(super) fn services(
    raw: &List<RawService>,
    vips: &Vips<'_>,
    probes: &Probes,
    mistakes: &mut Vec<Mistake>,
) -> Option<Vec<Service>> {
    unique_names(
        "service",
        raw.items.iter().map(|service| service.value.name.at()),
        mistakes,
    );
    unique_places(raw, mistakes);
    let services: Vec<_> = raw
        .items
        .iter()
        .map(|raw| service(raw, vips, probes, mistakes))
        .collect();
    services.into_iter().collect()
}

fn service(
    at: &At<RawService>,
    vips: &Vips<'_>,
    probes: &Probes,
    mistakes: &mut Vec<Mistake>,
) -> Option<Service> {
    let raw = &at.value;
    let virtual_router = virtual_router(raw, vips, mistakes);
    let probes = probe_references(&raw.probes, probes, mistakes);
    let backends = backends(raw, vips, mistakes);
    let list = &raw.backends;
    if let Some(span) = list
        .span
        .as_ref()
        .filter(|_| list.whole && list.items.is_empty())
    {
        mistakes.push(Mistake::new(span, "a service without a backend"));
    }
    if let Some(backends) = backends.as_deref().filter(|list| !list.is_empty()) {
        together(at, backends, mistakes);
    }
    Some(Service {
        name: raw.name.value()?,
        virtual_router: virtual_router?,
        address: raw.address.value()?,
        port: raw.port.value()?,
        protocol: raw.protocol.or(Protocol::Tcp)?,
        min_healthy: raw.min_healthy.or(1)?,
        ring_size: raw.ring_size.or(4099)?,
        policy: Policy::default(),
        slow_start: Duration::ZERO,
        panic_threshold: 0,
        probes: probes?,
        backends: backends?,
    })
}

/// The virtual router that holds the service's address.
fn virtual_router(raw: &RawService, vips: &Vips<'_>, mistakes: &mut Vec<Mistake>) -> Option<Name> {
    if let Given::Value(name) = &raw.virtual_router
        && let Some(names) = vips
            .router_names()
            .filter(|names| !names.contains(&name.value))
    {
        let mut mistake = Mistake::new(
            &name.span,
            format!("there is no virtual router {}", quote(name.value.as_str())),
        );
        mistake.help = suggestion(name.value.as_str(), names.iter().map(Name::as_str));
        mistakes.push(mistake);
        return None;
    }
    let address = raw.address.at()?;
    let holder = match vips.holder(address.value) {
        Holder::Router(holder) => holder,
        Holder::Unknown => return None,
        Holder::Nobody => {
            let message = format!("no virtual router holds {}", address.value);
            let help = "add it to `addresses` of a [[virtual_router]]";
            mistakes.push(Mistake::new(&address.span, message).help(help));
            return None;
        }
    };
    match &raw.virtual_router {
        Given::Absent => Some(holder),
        Given::Bad => None,
        Given::Value(name) => {
            let holds = vips.holds(&name.value, address.value)?;
            if !holds {
                let router = quote(name.value.as_str());
                let message = format!("virtual router {router} does not hold {}", address.value);
                let help = format!("{} does", quote(holder.as_str()));
                mistakes.push(Mistake::new(&name.span, message).help(help));
            }
            holds.then(|| name.value.clone())
        }
    }
}

fn probe_references(
    raw: &List<Name>,
    probes: &Probes,
    mistakes: &mut Vec<Mistake>,
) -> Option<Vec<Probe>> {
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    for name in &raw.items {
        let quoted = quote(name.value.as_str());
        if !seen.insert(&name.value) {
            mistakes.push(Mistake::new(
                &name.span,
                format!("probe {quoted} is listed twice"),
            ));
        }
        let probe = probes.find(&name.value);
        if probe.is_none() {
            let help = suggestion(name.value.as_str(), probes.names())
                .unwrap_or_else(|| format!("define it: [probe.{}]", name.value));
            let message = format!("there is no probe {quoted}");
            mistakes.push(Mistake::new(&name.span, message).help(help));
        }
        found.push(probe.flatten().cloned());
    }
    found.into_iter().collect()
}

fn backends(
    raw: &RawService,
    vips: &Vips<'_>,
    mistakes: &mut Vec<Mistake>,
) -> Option<Vec<Backend>> {
    let items = &raw.backends.items;
    unique_names(
        "backend of this service",
        items.iter().map(|item| item.value.name.at()),
        mistakes,
    );
    let mut seen = HashSet::new();
    for address in items.iter().filter_map(|item| item.value.address.at()) {
        if !seen.insert(address.value) {
            let message = format!(
                "an earlier backend of this service is {} too",
                address.value
            );
            let help = "give one of them the sum of their weights";
            mistakes.push(Mistake::new(&address.span, message).help(help));
        }
    }
    let backends: Vec<_> = items
        .iter()
        .map(|item| backend(&item.value, raw, vips, mistakes))
        .collect();
    backends.into_iter().collect()
}

fn backend(
    raw: &RawBackend,
    service: &RawService,
    vips: &Vips<'_>,
    mistakes: &mut Vec<Mistake>,
) -> Option<Backend> {
    let mode = raw.mode.or(Mode::Auto);
    if let Given::Value(address) = &raw.address {
        mistakes.extend(address_mistake(
            address,
            mode,
            service.address.value(),
            vips,
        ));
    }
    if let (Given::Value(port), Some(service_port), Some(mode)) =
        (&raw.port, service.port.value(), mode)
        && port.value != service_port
    {
        let mode = match mode {
            Mode::Auto => "auto",
            Mode::Local => "local",
            Mode::Dsr => "dsr",
            Mode::Tunnel => "tunnel",
            Mode::Nat => "nat",
        };
        let message = format!(
            "port {} differs from the service's {service_port}: there is no port translation in mode {mode}",
            port.value,
        );
        let help = "leave `port` out; to check another port, set `port` in the probe";
        mistakes.push(Mistake::new(&port.span, message).help(help));
    }
    Some(Backend {
        name: raw.name.value()?,
        address: raw.address.value()?,
        port: raw.port.or_else(|| service.port.value())?,
        weight: raw.weight.or(1)?,
        tier: raw.tier.or(1)?,
        mode: mode?,
        encapsulation: Encapsulation::Ipip,
        mtu: None,
        sorry: false,
        quic_server_id: None,
    })
}

/// What is wrong with a backend's address.
fn address_mistake(
    at: &At<IpAddr>,
    mode: Option<Mode>,
    service: Option<IpAddr>,
    vips: &Vips<'_>,
) -> Option<Mistake> {
    let address = at.value;
    let mistake = |message: String| Some(Mistake::new(&at.span, message));
    if let Some(service) = service.filter(|service| service.is_ipv6() != address.is_ipv6()) {
        return mistake(format!(
            "backend {address} is {}, but the service is {}",
            family(address.is_ipv6()),
            family(service.is_ipv6()),
        ));
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
    None
}

/// What must hold for a service and its backends together.
fn together(service: &At<RawService>, backends: &[Backend], mistakes: &mut Vec<Mistake>) {
    let At { value: raw, span } = service;
    if raw.backends.whole && backends.iter().all(|backend| backend.weight == 0) {
        let message = "every backend of this service has weight 0: none would get a flow";
        mistakes.push(Mistake::new(span, message));
    }
    if let Given::Value(size) = &raw.ring_size
        && (size.value as usize) < backends.len()
    {
        let message = format!(
            "a ring of {} has no place for {} backends",
            size.value,
            backends.len()
        );
        let help = "take a prime of at least 100 times as many; 65537 is the largest";
        mistakes.push(Mistake::new(&size.span, message).help(help));
    }
    let mut tiers: HashMap<u8, u16> = HashMap::new();
    for backend in backends {
        *tiers.entry(backend.tier).or_default() += 1;
    }
    let most = tiers.values().copied().max().unwrap_or(0);
    if let Given::Value(min_healthy) = &raw.min_healthy
        && raw.backends.whole
        && min_healthy.value > most
    {
        let message = format!(
            "`min_healthy` is {}, but no tier has more than {most} backends: none would ever serve",
            min_healthy.value,
        );
        mistakes.push(Mistake::new(&min_healthy.span, message));
    }
}

/// What a client connects to leads to one service.
fn unique_places(raw: &List<RawService>, mistakes: &mut Vec<Mistake>) {
    let mut seen = HashSet::new();
    for raw in &raw.items {
        let raw = &raw.value;
        let (Some(address), Given::Value(port), Some(protocol)) = (
            raw.address.value(),
            &raw.port,
            raw.protocol.or(Protocol::Tcp),
        ) else {
            continue;
        };
        if !seen.insert((address, port.value, protocol)) {
            let message = format!(
                "an earlier service has {protocol} port {} of {address} too",
                port.value
            );
            mistakes.push(Mistake::new(&port.span, message));
        }
    }
}
