//! `virtual_server`: a service, or one for each address of its group.

use std::{collections::HashMap, net::IpAddr, time::Duration};

use super::{
    Translator,
    backend::{Means, Real},
    probe::Checks,
    value,
};
use crate::import::{
    account::Note,
    hints::Block,
    steer::{Affinity, Piece, Service},
    tree::Node,
};

/// What the lines of a virtual server say of all its real servers.
pub(super) struct Settings<'a> {
    scheduler: (&'static str, Affinity),
    scheduler_note: Option<Note>,
    /// `fo`: the heaviest server takes it all.
    pub(super) failover: bool,
    affinity_note: Option<Note>,
    pub(super) means: Means,
    pub(super) udp: bool,
    protocol_note: Option<Note>,
    quorum: Option<(&'a Node, u32)>,
    pub(super) checks: Checks,
    name: Option<String>,
    left: Vec<Note>,
}

impl<'a> Translator<'a> {
    pub(super) fn virtual_server(&mut self, node: &'a Node) {
        let targets = match self.targets(node) {
            Ok(targets) => targets,
            Err(why) => {
                let left = self.account.left(node, why);
                self.file.left.extend(left);
                return;
            }
        };
        let Some(settings) = self.settings(node) else {
            let why = "there are services of TCP and UDP only";
            let left = self.account.left(node, why);
            self.file.left.extend(left);
            return;
        };
        self.account.used(node);
        let group = (node.word(1) == Some("group")).then(|| node.word(2).unwrap_or(""));
        let ports = |(_, port): &(IpAddr, u16)| *port != targets[0].1;
        let one_port = !targets.iter().any(ports);
        let mut left = Vec::new();
        for (index, &(address, port)) in targets.iter().enumerate() {
            let name = match (&settings.name, group) {
                (Some(name), _) => name.clone(),
                (None, Some(group)) if one_port => group.to_owned(),
                (None, Some(group)) => format!("{group}-{}", port_name(port, settings.udp)),
                (None, None) => port_name(port, settings.udp),
            };
            let (scheduler, affinity) = settings.scheduler;
            let mut service = Piece::new(Service {
                name,
                address,
                port,
                udp: settings.udp,
                min_healthy: 1,
                scheduler,
                affinity,
                probes: Vec::new(),
                backends: Vec::new(),
            });
            self.place(&mut service);
            self.servers(node, &settings, &mut service);
            let notes = [
                ("scheduler", &settings.scheduler_note),
                ("affinity", &settings.affinity_note),
                ("protocol", &settings.protocol_note),
            ];
            for (key, note) in notes {
                service.remarks.extend(note.clone().map(|note| (key, note)));
            }
            self.quorum(&settings, &mut service);
            // What has no counterpart stands with the first of a group.
            if index == 0 {
                left = self.account.rest(node, Block::Virtual);
                left.extend(settings.left.iter().cloned());
                service.left.append(&mut left);
                service.left.sort_by_key(|note| note.place);
            } else {
                service.left.clear();
                service.remarks.clear();
            }
            self.file.services.push(service);
        }
        self.file.left.append(&mut left);
    }

    /// Gives the services their names: of the port, and of the address too where several have it.
    pub(super) fn name_services(&mut self) {
        let mut count: HashMap<String, usize> = HashMap::new();
        for service in &self.file.services {
            *count.entry(service.value.name.clone()).or_default() += 1;
        }
        for service in &mut self.file.services {
            let service = &mut service.value;
            let many = count.get(&service.name).is_some_and(|count| *count > 1);
            let name = match many {
                true => format!("{}-{}", service.name, service.address),
                false => service.name.clone(),
            };
            service.name = self.service_names.take(&name);
        }
    }

    /// Whether somebody holds the service's address, and nobody else serves it.
    fn place(&mut self, service: &mut Piece<Service>) {
        let Service {
            address, port, udp, ..
        } = service.value;
        if !self.held.contains(&address) {
            service.off(format!("No virtual router holds {address}:"));
            self.todo.push(format!(
                "Add {address} to a [[virtual_router]], then take the `#` off its services."
            ));
        } else if !self.places.insert((address, port, udp)) {
            service.off("An earlier service has this address, port and protocol too:");
        }
    }

    /// The lines that hold for all real servers; none: another protocol.
    fn settings(&mut self, node: &'a Node) -> Option<Settings<'a>> {
        let mut settings = Settings {
            // keepalived's default is `wlc`.
            scheduler: ("least-connections", Affinity::FiveTuple),
            scheduler_note: None,
            failover: false,
            affinity_note: None,
            means: Means::default(),
            udp: false,
            protocol_note: None,
            quorum: None,
            checks: Checks::default(),
            name: None,
            left: Vec::new(),
        };
        let mut protocol = None;
        let (mut persistent, mut granularity) = (None, None);
        let with_port = |flag| node.inner().any(|line| line.keyword() == flag);
        for line in node.inner() {
            match line.keyword() {
                "lb_algo" | "lvs_sched" => {
                    let sticky = match line.word(1) {
                        Some("sh") => !with_port("sh-port"),
                        _ => !with_port("mh-port"),
                    };
                    let Some((scheduler, why)) = scheduler(line.word(1).unwrap_or(""), sticky)
                    else {
                        continue;
                    };
                    settings.failover = line.word(1) == Some("fo");
                    settings.scheduler = scheduler;
                    if let Some(why) = why {
                        settings.scheduler_note = Some(self.account.differs(line, why));
                    }
                }
                "sh-port" | "mh-port" => {}
                "lb_kind" | "lvs_method" => match Means::read(line) {
                    Ok(means) => settings.means = means,
                    Err(why) => {
                        settings.left.extend(self.account.left(line, why));
                        continue;
                    }
                },
                "protocol" => {
                    protocol = Some(line.word(1).unwrap_or("").to_ascii_uppercase());
                }
                "persistence_timeout" => persistent = Some(line),
                "persistence_granularity" => granularity = Some(line),
                "quorum" => match value::first(line, value::parsed) {
                    Some(quorum) => settings.quorum = Some((line, quorum)),
                    None => continue,
                },
                // No backend counts as up before its first checks have passed.
                "alpha" => {}
                "snmp_name" => settings.name = line.word(1).map(str::to_owned),
                _ if settings.checks.read(line) => {}
                _ => continue,
            }
            self.account.used(line);
        }
        settings.udp = match protocol.as_deref() {
            Some("TCP") => false,
            Some("UDP") => true,
            None => {
                let why = "without `protocol` keepalived takes UDP";
                settings.protocol_note = Some(self.account.differs(node, why));
                true
            }
            Some(_) => return None,
        };
        self.persistence(persistent, granularity, &mut settings);
        Some(settings)
    }

    fn persistence(
        &mut self,
        timeout: Option<&'a Node>,
        granularity: Option<&'a Node>,
        settings: &mut Settings<'a>,
    ) {
        let Some(timeout) = timeout else {
            if let Some(line) = granularity {
                let why = "without persistence_timeout it means nothing";
                settings.left.extend(self.account.left(line, why));
            }
            return;
        };
        let why = "not for a time: a client's address always leads to the same server, on every node; \
                   that is scheduler \"maglev\"";
        settings.affinity_note = Some(self.account.differs(timeout, why));
        settings.scheduler_note = None;
        let length = granularity.and_then(|line| value::first(line, value::prefix_length));
        let affinity = match length {
            None | Some(32 | 128) => Affinity::SourceAddress,
            Some(length) => Affinity::SourcePrefix(length.clamp(1, 128)),
        };
        settings.scheduler = ("maglev", affinity);
    }

    /// `quorum`: a sum of weights, which steerd has no word for.
    fn quorum(&mut self, settings: &Settings<'a>, service: &mut Piece<Service>) {
        let Some((line, quorum)) = settings.quorum else {
            return;
        };
        let backends = &service.value.backends;
        let mut weights: Vec<u32> = Vec::new();
        weights.extend(
            backends
                .iter()
                .filter(|b| !b.sorry && b.weight > 0)
                .map(|b| u32::from(b.weight)),
        );
        if quorum <= 1 || weights.is_empty() {
            return;
        }
        if !backends.iter().any(|backend| backend.sorry) {
            let why = "without a sorry server keepalived goes on with the servers it has left, and so \
                       does steerd; `min_healthy` is for handing over to another tier";
            service.left.extend(self.account.left(line, why));
            return;
        }
        let sum: u32 = weights.iter().sum();
        let all = u32::try_from(weights.len()).unwrap_or(u32::MAX);
        let wanted = quorum.saturating_mul(all).div_ceil(sum);
        let mut tiers: HashMap<u8, u32> = HashMap::new();
        for backend in backends.iter().filter(|backend| !backend.sorry) {
            *tiers.entry(backend.tier).or_default() += 1;
        }
        let most = tiers.into_values().max().unwrap_or(1);
        service.value.min_healthy = u16::try_from(wanted.clamp(1, most)).unwrap_or(u16::MAX);
        let why = "a number of servers here, in keepalived a sum of weights";
        let note = self.account.differs(line, why);
        service.remark("min_healthy", note);
    }

    fn servers(&mut self, node: &'a Node, settings: &Settings<'a>, service: &mut Piece<Service>) {
        let mut reals: Vec<Real<'a>> = Vec::new();
        let mut names = crate::import::toml::Names::default();
        for line in node.inner() {
            match line.keyword() {
                "real_server" => {
                    reals.extend(self.real_server(line, settings, service, &mut names));
                }
                "sorry_server" => self.sorry_server(node, line, settings, service, &mut names),
                _ => {}
            }
        }
        self.weights(&reals, settings, service);
        self.probes_of(&mut reals, service);
        self.unchecked(node, service);
        // The sorry server stands last.
        service.value.backends.sort_by_key(|backend| backend.sorry);
        let serving = |backend: &&crate::import::steer::Backend| !backend.sorry;
        if service.value.backends.iter().filter(serving).count() == 0 {
            service.off("It has no server that can be used:");
        } else if service
            .value
            .backends
            .iter()
            .filter(serving)
            .all(|backend| backend.weight == 0)
        {
            service.off("Every server of it has weight 0:");
        }
    }
}

impl<'a> Translator<'a> {
    /// Says so where servers were checked, and are not any more.
    fn unchecked(&mut self, node: &'a Node, service: &mut Piece<Service>) {
        let checks = |server: &Node| {
            server
                .inner()
                .any(|line| line.keyword().ends_with("_CHECK"))
        };
        let mut servers = node.inner().filter(|line| line.keyword() == "real_server");
        if service.value.backends.is_empty()
            || !service.value.probes.is_empty()
            || !servers.any(checks)
        {
            return;
        }
        let why =
            "its checks have no counterpart, and without a probe servers count as healthy, always";
        let note = self.account.differs(node, why);
        service.remark("probes", note);
        let todo = "Add probes to services whose checks have no counterpart: without one their servers \
                    count as healthy, always.";
        if !self.todo.iter().any(|other| other == todo) {
            self.todo.push(todo.to_owned());
        }
    }
}

/// The scheduler that comes nearest, and what differs.
type Nearest = ((&'static str, Affinity), Option<&'static str>);

fn scheduler(algorithm: &str, sticky: bool) -> Option<Nearest> {
    const KEEP: &str = "after a change of master connections may reach another server; without this line, \
                        which is scheduler \"maglev\", they stay";
    let hash = match sticky {
        true => Affinity::SourceAddress,
        false => Affinity::FiveTuple,
    };
    Some(match algorithm {
        "rr" | "wrr" => (("weighted-round-robin", Affinity::FiveTuple), Some(KEEP)),
        "lc" | "wlc" => (("least-connections", Affinity::FiveTuple), Some(KEEP)),
        "sed" | "nq" | "twos" => (
            ("least-connections", Affinity::FiveTuple),
            Some("the nearest: the server with the fewest connections for its weight"),
        ),
        "sh" | "mh" => (("maglev", hash), None),
        "fo" => (
            ("maglev", Affinity::FiveTuple),
            Some("the heaviest server first: here tiers say so"),
        ),
        "ovf" => (
            ("maglev", Affinity::FiveTuple),
            Some("a server does not overflow to the next here; `tier` is the nearest"),
        ),
        "dh" | "lblc" | "lblcr" => (
            ("maglev", Affinity::FiveTuple),
            Some("it spreads destinations over caches; steerd spreads clients"),
        ),
        _ => return None,
    })
}

/// What a port is called.
fn port_name(port: u16, udp: bool) -> String {
    let name = match port {
        21 => "ftp",
        22 => "ssh",
        25 => "smtp",
        53 => "dns",
        80 => "http",
        110 => "pop3",
        123 => "ntp",
        143 => "imap",
        389 => "ldap",
        443 => "https",
        465 => "smtps",
        514 => "syslog",
        587 => "submission",
        636 => "ldaps",
        993 => "imaps",
        995 => "pop3s",
        1812 => "radius",
        3306 => "mysql",
        5432 => "postgresql",
        6379 => "redis",
        _ if udp => return format!("udp-{port}"),
        _ => return format!("tcp-{port}"),
    };
    match udp {
        true => format!("{name}-udp"),
        false => name.to_owned(),
    }
}

/// The longest time between checks.
pub(super) const LONGEST: Duration = Duration::from_hours(1);
