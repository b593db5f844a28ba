//! What a configuration comes to, as far as it must be equal among peers.
//!
//! One SHA-256 for each part of it, so that a difference has a name. What is each node's own is
//! left out: names, priority, interface, source and peers of a virtual router, sockets, the log. The
//! order of the file means nothing.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::config::{Backend, Config, Probe, Service, SyncGroup, VirtualRouter};

/// A SHA-256 for each [`Part`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigDigest {
    /// In the order of [`Part::ALL`].
    pub parts: [[u8; 32]; Part::ALL.len()],
}

/// A part of a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// VRID, interval, addresses, version and authentication of the virtual routers, and which of them
    /// are a sync group.
    VirtualRouters,
    /// The services, without probes and backends.
    Services,
    /// Their backends.
    Backends,
    /// Their probes.
    Probes,
    /// What tunnels have in common.
    Tunnel,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::VirtualRouters,
        Self::Services,
        Self::Backends,
        Self::Probes,
        Self::Tunnel,
    ];
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::VirtualRouters => "virtual routers",
            Self::Services => "services",
            Self::Backends => "backends",
            Self::Probes => "probes",
            Self::Tunnel => "tunnel",
        })
    }
}

impl ConfigDigest {
    /// That of `config`.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let services = || config.services.iter();
        let key = |service: &Service| {
            let (address, port) = (service.address, service.port);
            format!("{address} {port} {} {}", service.protocol, service.name)
        };
        let within =
            |service: &Service, name: &dyn fmt::Display| format!("{} {name}", key(service));
        let routers = config.virtual_routers.iter().map(router);
        let groups = config.sync_groups.iter().map(|one| group(one, config));
        Self {
            parts: Part::ALL.map(|part| match part {
                Part::VirtualRouters => hash(routers.clone().chain(groups.clone())),
                Part::Services => hash(services().map(|one| (key(one), service(one)))),
                Part::Backends => hash(services().flat_map(|one| {
                    let backends = one.backends.iter();
                    backends.map(move |it| (within(one, &it.name), backend(it)))
                })),
                Part::Probes => hash(services().flat_map(|one| {
                    let probes = one.probes.iter();
                    probes.map(move |it| (within(one, &it.name), probe(it)))
                })),
                Part::Tunnel => {
                    let tunnel = &config.tunnel;
                    let mut text = Canonical::default();
                    text.field("source4", &tunnel.source4);
                    text.field("source6", &tunnel.source6);
                    text.field("gue_port", &tunnel.gue_port);
                    hash([(String::new(), text)].into_iter())
                }
            }),
        }
    }

    /// What is not the same in both.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<Part> {
        let pairs = self.parts.iter().zip(&other.parts);
        let differ = Part::ALL.into_iter().zip(pairs);
        differ
            .filter(|(_, (one, other))| one != other)
            .map(|(part, _)| part)
            .collect()
    }
}

/// Fields with their names, in an order of our own: what is hashed must not change with the
/// code's types, or nodes of two versions would differ.
#[derive(Default)]
struct Canonical(Vec<u8>);

impl Canonical {
    /// A field; lengths keep what is in one value from being taken for another field.
    fn field(&mut self, name: &str, value: &impl fmt::Display) {
        let value = value.to_string();
        for text in [name, &value] {
            self.0.extend((text.len() as u64).to_be_bytes());
            self.0.extend(text.as_bytes());
        }
    }

    fn time(&mut self, name: &str, value: Duration) {
        self.field(name, &value.as_nanos());
    }

    fn optional<T: fmt::Display>(&mut self, name: &str, value: &Option<T>) {
        if let Some(value) = value {
            self.field(name, value);
        }
    }
}

fn hash(items: impl Iterator<Item = (String, Canonical)>) -> [u8; 32] {
    let sorted: BTreeMap<String, Vec<u8>> = items.map(|(key, text)| (key, text.0)).collect();
    let mut hash = Sha256::new();
    for (key, text) in sorted {
        for bytes in [key.as_bytes(), &text] {
            hash.update((bytes.len() as u64).to_be_bytes());
            hash.update(bytes);
        }
    }
    hash.finalize().into()
}

fn router(router: &VirtualRouter) -> (String, Canonical) {
    let mut addresses: Vec<String> = router.addresses.iter().map(ToString::to_string).collect();
    addresses.sort();
    let mut text = Canonical::default();
    text.field("vrid", &router.vrid);
    text.time("advert_interval", router.advert_interval);
    text.field("addresses", &addresses.join(" "));
    text.field("version", &router.wire.version);
    text.field("authentication", &router.wire.authentication);
    (format!("{} {}", router.vrid, addresses.join(" ")), text)
}

/// By its members: names are each node's own.
fn group(group: &SyncGroup, config: &Config) -> (String, Canonical) {
    let members = group.virtual_routers.iter();
    let members = members.filter_map(|name| config.virtual_router(name));
    let mut members: Vec<String> = members.map(|member| router(member).0).collect();
    members.sort();
    (
        format!("group {}", members.join(", ")),
        Canonical::default(),
    )
}

fn service(service: &Service) -> Canonical {
    let Service {
        name,
        virtual_router: _, // a name of the node's own; the address tells
        address,
        port,
        protocol,
        min_healthy,
        ring_size,
        policy,
        slow_start,
        panic_threshold,
        probes: _,
        backends: _,
    } = service;
    let mut text = Canonical::default();
    text.field("name", name);
    text.field("address", address);
    text.field("port", port);
    text.field("protocol", protocol);
    text.field("min_healthy", min_healthy);
    text.field("ring_size", ring_size);
    text.field("scheduler", &policy.scheduler);
    text.field("affinity", &policy.affinity);
    text.optional("mss", &policy.mss);
    text.optional("syn_rate", &policy.syn_rate);
    for (name, nets) in [
        ("allow_sources", &policy.sources.allow),
        ("deny_sources", &policy.sources.deny),
    ] {
        let mut nets: Vec<String> = nets.iter().map(ToString::to_string).collect();
        nets.sort();
        nets.iter().for_each(|net| text.field(name, net));
    }
    text.field("quic", &policy.quic);
    text.time("slow_start", *slow_start);
    text.field("panic_threshold", panic_threshold);
    text
}

fn backend(backend: &Backend) -> Canonical {
    let Backend {
        name,
        address,
        port,
        weight,
        tier,
        mode,
        encapsulation,
        mtu,
        sorry,
        quic_server_id,
    } = backend;
    let mut text = Canonical::default();
    text.field("name", name);
    text.field("address", address);
    text.field("port", port);
    text.field("weight", weight);
    text.field("tier", tier);
    text.field("mode", mode);
    text.field("encapsulation", encapsulation);
    text.optional("mtu", mtu);
    text.field("sorry", sorry);
    text.optional("quic_server_id", quic_server_id);
    text
}

fn probe(probe: &Probe) -> Canonical {
    let Probe {
        name,
        kind,
        port,
        interval,
        fast_interval,
        timeout,
        rise,
        fall,
        jitter,
    } = probe;
    let mut text = Canonical::default();
    text.field("name", name);
    kind_of(kind, &mut text);
    text.optional("port", port);
    text.time("interval", *interval);
    text.time("fast_interval", *fast_interval);
    text.time("timeout", *timeout);
    text.field("rise", rise);
    text.field("fall", fall);
    text.field("jitter", jitter);
    text
}

fn kind_of(kind: &crate::config::ProbeKind, text: &mut Canonical) {
    use crate::config::{ProbeKind, TlsCheck};
    let tls = |check: &Option<TlsCheck>, text: &mut Canonical| {
        if let Some(check) = check {
            text.optional("server_name", &check.server_name);
            text.field("verify", &check.verify);
            // The path of its authorities is each node's own.
        }
        text.field("tls", &check.is_some());
    };
    match kind {
        ProbeKind::Tcp => text.field("type", &"tcp"),
        ProbeKind::Http(http) => {
            text.field("type", &"http");
            tls(&http.tls, text);
            text.field("method", &http.method);
            text.field("path", &http.path);
            text.optional("host", &http.host);
            for (low, high) in &http.status {
                text.field("status", &format_args!("{low}-{high}"));
            }
            text.optional("body_contains", &http.body_contains);
        }
        ProbeKind::WebSocket(websocket) => {
            text.field("type", &"websocket");
            tls(&websocket.tls, text);
            text.field("path", &websocket.path);
            text.optional("host", &websocket.host);
        }
    }
}
