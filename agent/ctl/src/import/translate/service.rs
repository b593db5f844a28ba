//! `virtual_server`: a service, or one for each address of its group.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

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

/// Services of a node, which is also how many addresses a range may have.
const MAX_SERVICES: usize = 4095;

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

    /// What clients connect to.
    fn targets(&mut self, node: &'a Node) -> Result<Vec<(IpAddr, u16)>, &'static str> {
        let room = MAX_SERVICES.saturating_sub(self.file.services.len());
        let full = "a node has 4095 services at most";
        match (node.word(1), node.word(2)) {
            (Some("fwmark"), _) => Err(
                "a service is an address and a port: write one for each that the \
                                        firewall marks",
            ),
            (Some("group"), Some(name)) => {
                let Some(&group) = self.server_groups.get(name) else {
                    return Err("there is no virtual_server_group of this name");
                };
                let mut targets = Vec::new();
                self.account.used(group);
                for line in group.inner() {
                    let found = range(line.keyword()).zip(line.word(1).and_then(port));
                    let Some(((first, count), port)) = found else {
                        let why = "a service is an address, or a range of them, and a port";
                        let left = self.account.left(line, why);
                        self.file.left.extend(left);
                        continue;
                    };
                    if count > room.saturating_sub(targets.len()) {
                        let left = self.account.left(line, full);
                        self.file.left.extend(left);
                        continue;
                    }
                    self.account.used(line);
                    targets.extend(successors(first, count).map(|address| (address, port)));
                }
                match targets.is_empty() {
                    true => Err("its group names no address with a port"),
                    false => Ok(targets),
                }
            }
            (Some(address), given) => {
                let address = address.parse().map_err(|_| "not an address")?;
                let port = given.and_then(port);
                let port = port.ok_or("a service has a port: write one for each that is served")?;
                match room {
                    0 => Err(full),
                    _ => Ok(vec![(address, port)]),
                }
            }
            (None, _) => Err("it names no address"),
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
        let mut names = crate::import::text::Names::default();
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

pub(super) fn port(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port| *port > 0)
}

/// The first address of `A`, `A-N`, `A-B` or `A/LENGTH`, and how many there are.
fn range(text: &str) -> Option<(IpAddr, usize)> {
    if let Ok(address) = text.parse() {
        return Some((address, 1));
    }
    if let Some((first, length)) = text.split_once('/') {
        let first: IpAddr = first.parse().ok()?;
        let bits = if first.is_ipv6() { 128 } else { 32_u32 };
        let rest = bits.checked_sub(length.parse().ok()?)?;
        return Some((first, 1_usize.checked_shl(rest).filter(|_| rest < 20)?));
    }
    let (first, last) = text.split_once('-')?;
    let first: IpAddr = first.parse().ok()?;
    let (from, to) = match (first, last.parse::<IpAddr>()) {
        (IpAddr::V4(from), Ok(IpAddr::V4(to))) => {
            (u128::from(u32::from(from)), u128::from(u32::from(to)))
        }
        (IpAddr::V6(from), Ok(IpAddr::V6(to))) => (u128::from(from), u128::from(to)),
        // The last part alone.
        (IpAddr::V4(from), Err(_)) => {
            let [a, b, c, _] = from.octets();
            let to = Ipv4Addr::new(a, b, c, last.parse().ok()?);
            (u128::from(u32::from(from)), u128::from(u32::from(to)))
        }
        (IpAddr::V6(from), Err(_)) => {
            let part = u128::from(u16::from_str_radix(last, 16).ok()?);
            let from = u128::from(from);
            (from, from & !0xffff | part)
        }
        _ => return None,
    };
    let count = to.checked_sub(from)?.checked_add(1)?;
    Some((first, usize::try_from(count).ok()?))
}

/// `count` addresses from `first` on.
fn successors(first: IpAddr, count: usize) -> impl Iterator<Item = IpAddr> {
    (0..count as u64).map(move |offset| match first {
        IpAddr::V4(first) => {
            let offset = u32::try_from(offset).unwrap_or(u32::MAX);
            Ipv4Addr::from(u32::from(first).wrapping_add(offset)).into()
        }
        IpAddr::V6(first) => Ipv6Addr::from(u128::from(first).wrapping_add(offset.into())).into(),
    })
}

/// The longest time between checks.
pub(super) const LONGEST: Duration = Duration::from_hours(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_have_all_forms() {
        let of = |text| range(text).map(|(first, count)| (first.to_string(), count));
        for (text, first, count) in [
            ("192.168.200.1-10", "192.168.200.1", 10),
            ("192.168.200.250-192.168.201.10", "192.168.200.250", 17),
            ("192.168.202.8/29", "192.168.202.8", 8),
            ("fd00::1-a", "fd00::1", 10),
            ("10.0.0.1", "10.0.0.1", 1),
        ] {
            assert_eq!(of(text), Some((first.to_owned(), count)), "{text}");
        }
        for bad in ["10.0.0.9-1", "10.0.0.0/33", "::/0", "x", "10.0.0.1-fd00::1"] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }
}
