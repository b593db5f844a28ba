//! The difference between two configurations: what `steerctl reload --dry-run` prints and a reload does.

mod fields;

use std::{fmt, path::PathBuf};

use self::fields::Fields;
use crate::{
    config::{Backend, Channel, Config, Name, Probe, ProbeKind, Service, SyncGroup, VirtualRouter},
    event::BackendKey,
};

/// What a reload from one configuration to another changes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    steps: Vec<Step>,
}

/// One change. Those with a list of fields tell each as `field old -> new`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A section that only a new start of the daemon reads: nothing happens.
    NeedsRestart {
        /// The section.
        section: &'static str,
        /// What changed in it.
        fields: Vec<String>,
    },
    /// A section of the data plane says something else.
    SectionChanged {
        /// The section.
        section: &'static str,
        /// What changed in it.
        fields: Vec<String>,
    },
    /// Other virtual routers are master together.
    GroupsChanged {
        /// Which groups changed, and how.
        fields: Vec<String>,
    },
    /// A virtual router is new.
    RouterAdded(Name),
    /// A virtual router is gone: its addresses are given away.
    RouterRemoved(Name),
    /// A virtual router has another interface, VRID or family: the old one ends, a new one begins.
    RouterReplaced {
        /// Its name.
        router: Name,
        /// What changed.
        fields: Vec<String>,
    },
    /// A virtual router works otherwise, in the role it has.
    RouterChanged {
        /// Its name.
        router: Name,
        /// Whether its addresses changed.
        readdressed: bool,
        /// What changed.
        fields: Vec<String>,
    },
    /// A service is new.
    ServiceAdded(Name),
    /// A service is gone.
    ServiceRemoved(Name),
    /// A service works otherwise.
    ServiceChanged {
        /// Its name.
        service: Name,
        /// What changed.
        fields: Vec<String>,
    },
    /// A service's probe is new.
    ProbeAdded {
        /// The service.
        service: Name,
        /// The probe.
        probe: Name,
    },
    /// A service's probe is gone.
    ProbeRemoved {
        /// The service.
        service: Name,
        /// The probe.
        probe: Name,
    },
    /// A service's probe asks otherwise.
    ProbeChanged {
        /// The service.
        service: Name,
        /// The probe.
        probe: Name,
        /// What changed.
        fields: Vec<String>,
    },
    /// A backend is new.
    BackendAdded(BackendKey),
    /// A backend is gone.
    BackendRemoved(BackendKey),
    /// A backend is used otherwise.
    BackendChanged {
        /// Which.
        backend: BackendKey,
        /// Whether it is another server now, of which nothing is known.
        moved: bool,
        /// What changed.
        fields: Vec<String>,
    },
    /// A track is new.
    TrackAdded(Name),
    /// A track is gone.
    TrackRemoved(Name),
    /// A track is another one, or means something else.
    TrackChanged {
        /// Its name.
        track: Name,
        /// What changed.
        fields: Vec<String>,
    },
}

impl Plan {
    /// What changes from `old` to `new`.
    #[must_use]
    pub fn between(old: &Config, new: &Config) -> Self {
        let mut steps = Vec::new();
        restarts(old, new, &mut steps);
        modes(old, new, &mut steps);
        routers(old, new, &mut steps);
        groups(old, new, &mut steps);
        services(old, new, &mut steps);
        tracks(old, new, &mut steps);
        Self { steps }
    }

    /// One line a change, empty where nothing changes.
    #[must_use]
    pub fn changes(&self) -> Vec<String> {
        self.steps.iter().map(ToString::to_string).collect()
    }

    /// The changes.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NeedsRestart { section, fields } => {
                write!(f, "needs a restart: {section}: {}", fields.join(", "))
            }
            Self::SectionChanged { section, fields } => {
                write!(f, "{section}: {}", fields.join(", "))
            }
            Self::GroupsChanged { fields } => write!(f, "sync groups: {}", fields.join(", ")),
            Self::RouterAdded(router) => write!(f, "virtual router {router} added"),
            Self::RouterRemoved(router) => write!(f, "virtual router {router} removed"),
            Self::RouterReplaced { router, fields } => {
                write!(
                    f,
                    "virtual router {router} ends and begins anew: {}",
                    fields.join(", ")
                )
            }
            Self::RouterChanged { router, fields, .. } => {
                write!(f, "virtual router {router}: {}", fields.join(", "))
            }
            Self::ServiceAdded(service) => write!(f, "service {service} added"),
            Self::ServiceRemoved(service) => write!(f, "service {service} removed"),
            Self::ServiceChanged { service, fields } => {
                write!(f, "service {service}: {}", fields.join(", "))
            }
            Self::ProbeAdded { service, probe } => {
                write!(f, "service {service}: probe {probe} added")
            }
            Self::ProbeRemoved { service, probe } => {
                write!(f, "service {service}: probe {probe} removed")
            }
            Self::ProbeChanged {
                service,
                probe,
                fields,
            } => {
                write!(f, "service {service}: probe {probe}: {}", fields.join(", "))
            }
            Self::BackendAdded(BackendKey { service, backend }) => {
                write!(f, "service {service}: backend {backend} added")
            }
            Self::BackendRemoved(BackendKey { service, backend }) => {
                write!(f, "service {service}: backend {backend} removed")
            }
            Self::BackendChanged {
                backend: BackendKey { service, backend },
                fields,
                ..
            } => {
                write!(
                    f,
                    "service {service}: backend {backend}: {}",
                    fields.join(", ")
                )
            }
            Self::TrackAdded(track) => write!(f, "track {track} added"),
            Self::TrackRemoved(track) => write!(f, "track {track} removed"),
            Self::TrackChanged { track, fields } => {
                write!(f, "track {track}: {}", fields.join(", "))
            }
        }
    }
}

fn restarts(old: &Config, new: &Config, steps: &mut Vec<Step>) {
    let mut section = |section, fields: Fields| {
        if !fields.0.is_empty() {
            steps.push(Step::NeedsRestart {
                section,
                fields: fields.0,
            });
        }
    };
    section(
        "node",
        Fields::default()
            .shown("name", &old.node.name, &new.node.name)
            .debug("state_dir", &old.node.state_dir, &new.node.state_dir),
    );
    section(
        "control",
        Fields::default()
            .debug("socket", &old.control.socket, &new.control.socket)
            .optional(
                "viewer_group",
                &old.control.viewer_group,
                &new.control.viewer_group,
            )
            .optional(
                "admin_group",
                &old.control.admin_group,
                &new.control.admin_group,
            ),
    );
    section(
        "log",
        Fields::default()
            .shown("level", &old.log.level, &new.log.level)
            .keyword("format", &old.log.format, &new.log.format),
    );
    let (before, after) = (&old.dataplane, &new.dataplane);
    section(
        "dataplane",
        Fields::default()
            .listed("interfaces", &before.interfaces, &after.interfaces)
            .keyword("xdp_mode", &before.xdp_mode, &after.xdp_mode)
            .debug("bpf_dir", &before.bpf_dir, &after.bpf_dir),
    );
}

fn modes(old: &Config, new: &Config, steps: &mut Vec<Step>) {
    let mut section = |section, Fields(fields): Fields| {
        if !fields.is_empty() {
            steps.push(Step::SectionChanged { section, fields });
        }
    };
    let (was, is) = (old.flows, new.flows);
    section(
        "flows",
        Fields::default()
            .time("tcp_new", was.tcp_new, is.tcp_new)
            .time("tcp_established", was.tcp_established, is.tcp_established)
            .time("tcp_closing", was.tcp_closing, is.tcp_closing)
            .time("udp_new", was.udp_new, is.udp_new)
            .time("udp_established", was.udp_established, is.udp_established),
    );
    let (before, after) = (&old.tunnel, &new.tunnel);
    section(
        "tunnel",
        Fields::default()
            .shown("source4", &before.source4, &after.source4)
            .shown("source6", &before.source6, &after.source6)
            .shown("gue_port", &before.gue_port, &after.gue_port)
            .listed("endpoints", &before.endpoints, &after.endpoints),
    );
    let (before, after) = (&old.nat, &new.nat);
    let (was, is) = (before.timeouts, after.timeouts);
    section(
        "nat",
        Fields::default()
            .listed("addresses", &before.addresses, &after.addresses)
            .shown("ports", &before.ports, &after.ports)
            .time("tcp_new", was.tcp_new, is.tcp_new)
            .time("tcp_established", was.tcp_established, is.tcp_established)
            .time("tcp_closing", was.tcp_closing, is.tcp_closing)
            .time("udp_new", was.udp_new, is.udp_new)
            .time("udp_established", was.udp_established, is.udp_established),
    );
    let (before, after) = (old.channel.as_ref(), new.channel.as_ref());
    let file =
        |get: fn(&Channel) -> &PathBuf| move |channel: &Channel| get(channel).display().to_string();
    let peers = |channel: Option<&Channel>| -> Vec<String> {
        let peers = channel.into_iter().flat_map(|channel| &channel.peers);
        peers
            .map(|peer| format!("{} at {}", peer.name, peer.address))
            .collect()
    };
    section(
        "channel",
        Fields::default()
            .optional(
                "listen",
                &before.map(|c| c.listen),
                &after.map(|c| c.listen),
            )
            .optional(
                "ca_file",
                &before.map(file(|c| &c.ca_file)),
                &after.map(file(|c| &c.ca_file)),
            )
            .optional(
                "cert_file",
                &before.map(file(|c| &c.cert_file)),
                &after.map(file(|c| &c.cert_file)),
            )
            .optional(
                "key_file",
                &before.map(file(|c| &c.key_file)),
                &after.map(file(|c| &c.key_file)),
            )
            .listed("peer", &peers(before), &peers(after)),
    );
}

fn routers(old: &Config, new: &Config, steps: &mut Vec<Step>) {
    let named = |router: &VirtualRouter| router.name.clone();
    for delta in deltas(&old.virtual_routers, &new.virtual_routers, named) {
        steps.push(match delta {
            Delta::Removed(router) => Step::RouterRemoved(router.name.clone()),
            Delta::Added(router) => Step::RouterAdded(router.name.clone()),
            Delta::Changed(old, new) => router(old, new),
        });
    }
}

/// Order and the names of groups mean nothing to elections, so they are told but change nothing.
fn groups(old: &Config, new: &Config, steps: &mut Vec<Step>) {
    let named = |group: &SyncGroup| group.name.clone();
    let mut fields = Vec::new();
    for delta in deltas(&old.sync_groups, &new.sync_groups, named) {
        match delta {
            Delta::Removed(group) => fields.push(format!("{} removed", group.name)),
            Delta::Added(group) => fields.push(format!("{} added", group.name)),
            Delta::Changed(old, new) => fields.extend(
                Fields::default()
                    .listed(
                        new.name.as_str(),
                        &old.virtual_routers,
                        &new.virtual_routers,
                    )
                    .0,
            ),
        }
    }
    if !fields.is_empty() {
        steps.push(Step::GroupsChanged { fields });
    }
}

fn router(old: &VirtualRouter, new: &VirtualRouter) -> Step {
    let announce = |router: &VirtualRouter| {
        let announce = &router.announce;
        format!(
            "{} every {:?}, again after {:?}",
            announce.count, announce.interval, announce.repeat_after
        )
    };
    let Fields(fields) = Fields::default()
        .shown("interface", &old.interface, &new.interface)
        .shown("vrid", &old.vrid, &new.vrid)
        .shown("priority", &old.priority, &new.priority)
        .time("advert_interval", old.advert_interval, new.advert_interval)
        .shown("preempt", &old.preempt, &new.preempt)
        .listed("addresses", &old.addresses, &new.addresses)
        .listed("peers", &old.peers, &new.peers)
        .optional("source", &old.source, &new.source)
        .shown("announce", &announce(old), &announce(new))
        .time(
            "announce.refresh",
            old.announce.refresh,
            new.announce.refresh,
        )
        .time("preempt_delay", old.preempt_delay, new.preempt_delay)
        .time("fence_after", old.fence_after, new.fence_after)
        .wire(&old.wire, &new.wire)
        .listed("track", &old.track, &new.track);
    let router = new.name.clone();
    let identity =
        |router: &VirtualRouter| (router.interface.clone(), router.vrid, router.is_ipv6());
    match identity(old) == identity(new) {
        true => {
            let readdressed = old.addresses != new.addresses;
            Step::RouterChanged {
                router,
                readdressed,
                fields,
            }
        }
        false => Step::RouterReplaced { router, fields },
    }
}

fn services(old: &Config, new: &Config, steps: &mut Vec<Step>) {
    for delta in deltas(&old.services, &new.services, |service| service.name.clone()) {
        match delta {
            Delta::Removed(service) => steps.push(Step::ServiceRemoved(service.name.clone())),
            Delta::Added(service) => steps.push(Step::ServiceAdded(service.name.clone())),
            Delta::Changed(old, new) => service(old, new, steps),
        }
    }
}

fn service(old: &Service, new: &Service, steps: &mut Vec<Step>) {
    let service = || new.name.clone();
    let Fields(fields) = Fields::default()
        .shown("virtual_router", &old.virtual_router, &new.virtual_router)
        .shown("address", &old.address, &new.address)
        .shown("port", &old.port, &new.port)
        .shown("protocol", &old.protocol, &new.protocol)
        .shown("min_healthy", &old.min_healthy, &new.min_healthy)
        .shown("ring_size", &old.ring_size, &new.ring_size)
        .time("slow_start", old.slow_start, new.slow_start)
        .shown(
            "panic_threshold",
            &old.panic_threshold,
            &new.panic_threshold,
        )
        .policy(&old.policy, &new.policy);
    if !fields.is_empty() {
        steps.push(Step::ServiceChanged {
            service: service(),
            fields,
        });
    }
    for delta in deltas(&old.probes, &new.probes, |probe| probe.name.clone()) {
        steps.push(match delta {
            Delta::Removed(Probe { name, .. }) => Step::ProbeRemoved {
                service: service(),
                probe: name.clone(),
            },
            Delta::Added(Probe { name, .. }) => Step::ProbeAdded {
                service: service(),
                probe: name.clone(),
            },
            Delta::Changed(old, new) => Step::ProbeChanged {
                service: service(),
                probe: new.name.clone(),
                fields: probe(old, new),
            },
        });
    }
    let key = |backend: &Backend| BackendKey {
        service: service(),
        backend: backend.name.clone(),
    };
    for delta in deltas(&old.backends, &new.backends, |backend| backend.name.clone()) {
        steps.push(match delta {
            Delta::Removed(backend) => Step::BackendRemoved(key(backend)),
            Delta::Added(backend) => Step::BackendAdded(key(backend)),
            Delta::Changed(old, new) => backend(key(new), old, new),
        });
    }
}

fn probe(old: &Probe, new: &Probe) -> Vec<String> {
    kind(&old.kind, &new.kind)
        .optional("port", &old.port, &new.port)
        .time("interval", old.interval, new.interval)
        .time("fast_interval", old.fast_interval, new.fast_interval)
        .time("timeout", old.timeout, new.timeout)
        .shown("rise", &old.rise, &new.rise)
        .shown("fall", &old.fall, &new.fall)
        .shown("jitter", &old.jitter, &new.jitter)
        .0
}

fn kind(old: &ProbeKind, new: &ProbeKind) -> Fields {
    let fields = Fields::default();
    match (old, new) {
        (ProbeKind::Tcp, ProbeKind::Tcp) => fields,
        (ProbeKind::Http(old), ProbeKind::Http(new)) => fields
            .debug("tls", &old.tls, &new.tls)
            .shown("method", &old.method, &new.method)
            .shown("path", &old.path, &new.path)
            .optional("host", &old.host, &new.host)
            .debug("status", &old.status, &new.status)
            .debug("body_contains", &old.body_contains, &new.body_contains),
        (ProbeKind::WebSocket(old), ProbeKind::WebSocket(new)) => fields
            .debug("tls", &old.tls, &new.tls)
            .shown("path", &old.path, &new.path)
            .optional("host", &old.host, &new.host),
        (ProbeKind::Tcp | ProbeKind::Http(_) | ProbeKind::WebSocket(_), _) => {
            let name = |kind: &ProbeKind| match kind {
                ProbeKind::Tcp => "tcp",
                ProbeKind::Http(_) => "http",
                ProbeKind::WebSocket(_) => "websocket",
            };
            fields.shown("kind", &name(old), &name(new))
        }
    }
}

fn backend(key: BackendKey, old: &Backend, new: &Backend) -> Step {
    let Fields(fields) = Fields::default()
        .shown("address", &old.address, &new.address)
        .shown("port", &old.port, &new.port)
        .shown("weight", &old.weight, &new.weight)
        .shown("tier", &old.tier, &new.tier)
        .shown("sorry", &old.sorry, &new.sorry)
        .shown("mode", &old.mode, &new.mode)
        .shown("encapsulation", &old.encapsulation, &new.encapsulation)
        .optional("mtu", &old.mtu, &new.mtu)
        .optional("quic_server_id", &old.quic_server_id, &new.quic_server_id);
    let moved = (old.address, old.port) != (new.address, new.port);
    Step::BackendChanged {
        backend: key,
        moved,
        fields,
    }
}

fn tracks(old: &Config, new: &Config, steps: &mut Vec<Step>) {
    for delta in deltas(&old.tracks, &new.tracks, |track| track.name.clone()) {
        steps.push(match delta {
            Delta::Removed(track) => Step::TrackRemoved(track.name.clone()),
            Delta::Added(track) => Step::TrackAdded(track.name.clone()),
            Delta::Changed(old, new) => {
                let (was, is) = (&old.pace, &new.pace);
                let Fields(fields) = Fields::default()
                    .track_kind(&old.kind, &new.kind)
                    .optional("weight", &old.weight, &new.weight)
                    .time("interval", was.interval, is.interval)
                    .time("timeout", was.timeout, is.timeout)
                    .shown("rise", &was.rise, &is.rise)
                    .shown("fall", &was.fall, &is.fall)
                    .time("debounce_up", was.debounce_up, is.debounce_up)
                    .time("debounce_down", was.debounce_down, is.debounce_down);
                Step::TrackChanged {
                    track: new.name.clone(),
                    fields,
                }
            }
        });
    }
}

enum Delta<'a, T> {
    Removed(&'a T),
    Added(&'a T),
    Changed(&'a T, &'a T),
}

/// What differs between two lists of named things: first those gone, then the rest in the new order.
fn deltas<'a, T: PartialEq>(
    old: &'a [T],
    new: &'a [T],
    name: impl Fn(&T) -> Name,
) -> Vec<Delta<'a, T>> {
    let find = |list: &'a [T], wanted: &T| list.iter().find(|item| name(item) == name(wanted));
    let removed = old
        .iter()
        .filter(|item| find(new, item).is_none())
        .map(Delta::Removed);
    let rest = new.iter().filter_map(|item| match find(old, item) {
        None => Some(Delta::Added(item)),
        Some(before) if before == item => None,
        Some(before) => Some(Delta::Changed(before, item)),
    });
    removed.chain(rest).collect()
}
