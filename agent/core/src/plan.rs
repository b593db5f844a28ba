//! The difference between two configurations: what `steerctl reload --dry-run` prints and a reload does.

use std::{fmt, time::Duration};

use crate::{
    config::{Backend, Config, Name, Probe, ProbeKind, Service, VirtualRouter},
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
}

impl Plan {
    /// What changes from `old` to `new`.
    #[must_use]
    pub fn between(old: &Config, new: &Config) -> Self {
        let mut steps = Vec::new();
        restarts(old, new, &mut steps);
        routers(old, new, &mut steps);
        services(old, new, &mut steps);
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
        .shown("announce", &announce(old), &announce(new));
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
        .shown("ring_size", &old.ring_size, &new.ring_size);
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
        .keyword("mode", &old.mode, &new.mode);
    let moved = (old.address, old.port) != (new.address, new.port);
    Step::BackendChanged {
        backend: key,
        moved,
        fields,
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

/// The fields that differ, as `field old -> new`.
#[derive(Default)]
struct Fields(Vec<String>);

impl Fields {
    fn shown<T: PartialEq + fmt::Display>(mut self, field: &str, old: &T, new: &T) -> Self {
        if old != new {
            self.0.push(format!("{field} {old} -> {new}"));
        }
        self
    }

    fn debug<T: PartialEq + fmt::Debug>(mut self, field: &str, old: &T, new: &T) -> Self {
        if old != new {
            self.0.push(format!("{field} {old:?} -> {new:?}"));
        }
        self
    }

    /// A keyword of the configuration, which is its variant's name in lower case.
    fn keyword<T: PartialEq + fmt::Debug>(self, field: &str, old: &T, new: &T) -> Self {
        let show = |value: &T| format!("{value:?}").to_lowercase();
        self.shown(field, &show(old), &show(new))
    }

    fn optional<T: PartialEq + fmt::Display>(
        self,
        field: &str,
        old: &Option<T>,
        new: &Option<T>,
    ) -> Self {
        let show = |value: &Option<T>| value.as_ref().map_or("none".to_owned(), T::to_string);
        self.shown(field, &show(old), &show(new))
    }

    fn listed<T: PartialEq + fmt::Display>(self, field: &str, old: &[T], new: &[T]) -> Self {
        let list = |items: &[T]| {
            let items: Vec<String> = items.iter().map(ToString::to_string).collect();
            format!("[{}]", items.join(", "))
        };
        self.shown(field, &list(old), &list(new))
    }

    fn time(self, field: &str, old: Duration, new: Duration) -> Self {
        // Exact, so that two that differ never look the same.
        self.debug(field, &old, &new)
    }
}
