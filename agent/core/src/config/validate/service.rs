//! Services.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use super::{
    backend::backends,
    mode::Means,
    policy::policy,
    probe::Probes,
    router::{Holder, Vips},
    unique_names,
};
use crate::config::{
    Backend, Name, Probe, Protocol, Scheduler, Service,
    error::{Mistake, quote},
    limits,
    raw::RawService,
    reader::{At, Given, List},
    words::suggestion,
};

/// The default sizes of a ring. Of the larger one, removing one of 100 backends moves less than 1 %
/// beside what the removed one had; of the smaller one, 3 %. But a thousand of those fit.
const RING: u32 = 4099;
const LARGE_RING: u32 = 65_537;
/// With more backends a ring is large.
const MANY_BACKENDS: usize = 40;

/// The services.
pub(super) fn services(
    raw: &List<RawService>,
    vips: &Vips<'_>,
    means: &Means<'_>,
    probes: &Probes,
    mistakes: &mut Vec<Mistake>,
) -> Option<Vec<Service>> {
    unique_names(
        "service",
        raw.items.iter().map(|service| service.value.name.at()),
        mistakes,
    );
    unique_places(raw, mistakes);
    fits(raw, mistakes);
    let services: Vec<_> = raw
        .items
        .iter()
        .map(|raw| service(raw, vips, means, probes, mistakes))
        .collect();
    services.into_iter().collect()
}

fn service(
    at: &At<RawService>,
    vips: &Vips<'_>,
    means: &Means<'_>,
    probes: &Probes,
    mistakes: &mut Vec<Mistake>,
) -> Option<Service> {
    let raw = &at.value;
    let virtual_router = virtual_router(raw, vips, mistakes);
    let probes = probe_references(&raw.probes, probes, mistakes);
    let policy = policy(raw, mistakes);
    let backends = backends(raw, vips, means, mistakes);
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
        ring_size: ring_size(raw)?,
        policy: policy?,
        slow_start: raw.slow_start.or(Duration::ZERO)?,
        panic_threshold: raw.panic_threshold.or(0)?,
        probes: probes?,
        backends: backends?,
    })
}

/// The size of a service's Maglev table.
fn ring_size(raw: &RawService) -> Option<u32> {
    raw.ring_size.or(match raw.backends.items.len() {
        ..=MANY_BACKENDS => RING,
        _ => LARGE_RING,
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
    if raw.backends.whole && backends.iter().all(|backend| backend.sorry) {
        let message = "every backend of this service is a sorry backend";
        let help = "remove `sorry` from those that clients are to reach as a rule";
        mistakes.push(Mistake::new(span, message).help(help));
        return;
    }
    let mut tiers: HashMap<u8, u16> = HashMap::new();
    for backend in backends.iter().filter(|backend| !backend.sorry) {
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

/// How many entries of rings a service takes at most.
fn entries_of(raw: &RawService) -> usize {
    let backends = raw.backends.items.len();
    let ring = match raw.scheduler.or(Scheduler::Maglev) {
        Some(Scheduler::LeastConnections) => backends,
        Some(Scheduler::Maglev | Scheduler::WeightedRoundRobin) | None => {
            ring_size(raw).unwrap_or(RING) as usize
        }
    };
    // Backends by server id, from 0 to the largest.
    let ids = raw.backends.items.iter();
    let ids = ids.filter_map(|backend| backend.value.quic_server_id.value());
    let largest = ids.max().map_or(0, |id| usize::from(id) + 1);
    // Each begins a line.
    ring.next_multiple_of(limits::RING_LINE) + largest.next_multiple_of(limits::RING_LINE)
}

/// What all services together may take of the data plane.
fn fits(raw: &List<RawService>, mistakes: &mut Vec<Mistake>) {
    let (mut backends, mut entries, mut sources) = (0, 0, 0);
    let mut told = [false; 3];
    for At { value: raw, span } in &raw.items {
        backends += raw.backends.items.len();
        sources += raw.allow_sources.items.len() + raw.deny_sources.items.len();
        entries += entries_of(raw);
        let checks = [
            (
                backends > limits::ALL_BACKENDS,
                format!(
                    "more than {} backends of all services, together",
                    limits::ALL_BACKENDS
                ),
                "leave some out: other nodes can serve other virtual routers",
            ),
            (
                entries > limits::RING_ENTRIES,
                format!(
                    "more than {} entries of all rings, together",
                    limits::RING_ENTRIES
                ),
                "set a smaller `ring_size` where 100 times the number of backends is less, and small server ids",
            ),
            (
                sources > limits::ALL_SOURCES,
                format!(
                    "more than {} networks of all source lists, together",
                    limits::ALL_SOURCES
                ),
                "leave some out, or write larger networks",
            ),
        ];
        for ((exceeded, message, help), told) in checks.into_iter().zip(&mut told) {
            if exceeded && !*told {
                mistakes.push(Mistake::new(span, message).help(help));
                *told = true;
            }
        }
    }
}
