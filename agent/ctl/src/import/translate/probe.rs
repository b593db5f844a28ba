//! Health checks: `TCP_CHECK`, `HTTP_GET` and the like become probes.
//!
//! keepalived checks each real server in its own way, steerd all backends of a service alike: what all
//! of them have becomes the service's probes.

use std::time::Duration;

use super::{Translator, backend::Real, service::LONGEST, target::port, value};
use crate::import::{
    account::Note,
    hints::Block,
    steer::{Piece, Probe, ProbeKind, Service},
    tree::Node,
};

/// Probes of a service.
const MAX_PROBES: usize = 16;
/// Ranges of statuses of a probe.
const MAX_STATUSES: usize = 32;
const SHORTEST: Duration = Duration::from_millis(10);

/// How checks are paced, and what they ask for; set for a virtual server, a real one or a check.
#[derive(Debug, Clone, Default)]
pub(super) struct Checks {
    interval: Option<Duration>,
    timeout: Option<Duration>,
    retry: Option<u32>,
    before_retry: Option<Duration>,
    host: Option<String>,
}

impl Checks {
    /// Reads a line; false: it is none of these.
    pub(super) fn read(&mut self, line: &Node) -> bool {
        let seconds = || value::first(line, value::seconds);
        match line.keyword() {
            "delay_loop" => self.interval = seconds(),
            "connect_timeout" => self.timeout = seconds(),
            "retry" | "nb_get_retry" => self.retry = value::first(line, value::parsed),
            "delay_before_retry" => self.before_retry = seconds(),
            "virtualhost" => self.host = line.word(1).map(str::to_owned),
            _ => return false,
        }
        line.word(1).is_some()
    }
}

/// A check of a real server as a probe.
pub(super) struct Check<'a> {
    /// The checker, or the `url` of one.
    node: &'a Node,
    probe: Probe,
    remarks: Vec<(&'static str, Note)>,
}

impl<'a> Translator<'a> {
    /// The checks of a real server whose packets go to `port`.
    pub(super) fn checks(
        &mut self,
        server: &'a Node,
        all: &Checks,
        port: u16,
        service: &mut Piece<Service>,
    ) -> Vec<Check<'a>> {
        let mut checks = Vec::new();
        for node in server.inner() {
            match node.keyword() {
                "TCP_CHECK" => checks.push(self.tcp(node, all, port, None)),
                "SMTP_CHECK" => {
                    let why = "it connects, and says nothing";
                    checks.push(self.tcp(node, all, port, Some(why)));
                }
                "DNS_CHECK" => {
                    let why = "it connects over TCP, as every name server allows (RFC 7766), and asks \
                               nothing";
                    checks.push(self.tcp(node, all, port, Some(why)));
                }
                "HTTP_GET" | "SSL_GET" => self.http(node, all, port, &mut checks),
                _ => continue,
            }
            service.left.extend(self.account.rest(node, Block::Checker));
        }
        checks
    }

    /// Makes what all backends have the service's probes.
    pub(super) fn probes_of(&mut self, reals: &mut Vec<Real<'a>>, service: &mut Piece<Service>) {
        let checked = reals.iter().filter(|real| !real.checks.is_empty());
        let Some(first) = checked.min_by_key(|real| real.checks.len()) else {
            return;
        };
        let mut wanted: Vec<Probe> = Vec::new();
        for check in &first.checks {
            let everywhere = reals
                .iter()
                .all(|real| real.checks.iter().any(|other| other.probe == check.probe));
            if everywhere && !wanted.contains(&check.probe) {
                wanted.push(check.probe.clone());
            }
        }
        if wanted.is_empty() {
            wanted.extend(first.checks.iter().map(|check| check.probe.clone()));
            wanted.dedup();
        }
        wanted.truncate(MAX_PROBES);
        for check in reals.iter_mut().flat_map(|real| real.checks.drain(..)) {
            if !wanted.contains(&check.probe) {
                let why = "all backends of a service have the same probes, and not all of these have \
                           this check";
                service.left.extend(self.account.left(check.node, why));
                continue;
            }
            let index = self.probe(check);
            if !service.value.probes.contains(&index) {
                service.value.probes.push(index);
            }
        }
    }

    /// The place of the probe among all.
    fn probe(&mut self, check: Check<'a>) -> usize {
        let key = format!("{:?}", check.probe);
        if let Some(index) = self.probes.get(&key) {
            return *index;
        }
        let mut piece = Piece::new(check.probe);
        piece.remarks = check.remarks;
        self.file.probes.push(piece);
        let index = self.file.probes.len() - 1;
        self.probes.insert(key, index);
        index
    }

    fn tcp(
        &mut self,
        node: &'a Node,
        all: &Checks,
        server_port: u16,
        why: Option<&'static str>,
    ) -> Check<'a> {
        let mut remarks = Vec::new();
        match why {
            Some(why) => remarks.push(("type", self.account.differs(node, why))),
            None => self.account.used(node),
        }
        let (checks, asked) = self.paced(node, all);
        let retry = match node.keyword() {
            "DNS_CHECK" => 3,
            _ => 1,
        };
        let probe = probe(ProbeKind::Tcp, &checks, Duration::from_secs(1), retry);
        Check {
            node,
            probe: Probe {
                port: asked.filter(|asked| *asked != server_port),
                ..probe
            },
            remarks,
        }
    }

    fn http(
        &mut self,
        node: &'a Node,
        all: &Checks,
        server_port: u16,
        checks: &mut Vec<Check<'a>>,
    ) {
        self.account.used(node);
        let (paced, asked) = self.paced(node, all);
        let tls = node.keyword() == "SSL_GET";
        let sni = node.inner().find(|line| line.keyword() == "enable_sni");
        sni.into_iter().for_each(|line| self.account.used(line));
        for url in node.inner().filter(|line| line.keyword() == "url") {
            self.account.used(url);
            let mut paced = paced.clone();
            let mut path = "/".to_owned();
            let (mut status, mut body) = (vec!["200-299".to_owned()], None);
            for line in url.inner() {
                match line.keyword() {
                    "path" => match line.word(1).and_then(request_path) {
                        Some(given) => path = given,
                        None => continue,
                    },
                    "status_code" => match statuses(line) {
                        Some(given) => status = given,
                        None => continue,
                    },
                    "virtualhost" => {
                        paced.read(line);
                    }
                    "regex" if is_plain(url, line) => body = line.word(1).map(str::to_owned),
                    _ => continue,
                }
                self.account.used(line);
            }
            let host = paced.host.clone().filter(|host| is_host(host));
            let server_name = host.as_deref().filter(|_| tls && sni.is_some());
            let server_name =
                server_name.map(|host| host.split(':').next().unwrap_or("").to_owned());
            let kind = ProbeKind::Http {
                tls,
                path,
                host,
                status,
                body_contains: body,
                server_name: server_name.filter(|name| is_server_name(name)),
            };
            let probe = probe(kind, &paced, Duration::from_secs(3), 1);
            let mut remarks = Vec::new();
            if tls {
                let why = "keepalived takes any certificate; true is better";
                remarks.push(("verify", self.account.differs(node, why)));
            }
            checks.push(Check {
                node: url,
                probe: Probe {
                    port: asked.filter(|asked| *asked != server_port),
                    ..probe
                },
                remarks,
            });
        }
    }

    /// How a checker is paced, and the port it asks for.
    fn paced(&mut self, node: &'a Node, all: &Checks) -> (Checks, Option<u16>) {
        let mut checks = all.clone();
        let mut asked = None;
        // SMTP_CHECK may have them within `host`.
        let hosts = node.inner().filter(|line| line.keyword() == "host");
        let within = hosts.flat_map(|host| {
            let ports = |line: &&Node| line.keyword() == "connect_port";
            host.inner().filter(ports)
        });
        for line in node.inner().chain(within) {
            let known = match line.keyword() {
                "connect_port" => {
                    asked = line.word(1).and_then(port);
                    asked.is_some()
                }
                "alpha" => true,
                _ => checks.read(line),
            };
            if known {
                self.account.used(line);
            }
        }
        (checks, asked)
    }
}

/// A probe that is paced as keepalived would.
fn probe(kind: ProbeKind, checks: &Checks, before_retry: Duration, retry: u32) -> Probe {
    let interval = checks
        .interval
        .unwrap_or(Duration::from_mins(1))
        .clamp(SHORTEST, LONGEST);
    let before_retry = checks.before_retry.unwrap_or(before_retry);
    let timeout = checks.timeout.unwrap_or(Duration::from_secs(5));
    // The first failure, and as many again as it is retried.
    let fall = checks.retry.unwrap_or(retry).saturating_add(1);
    Probe {
        kind,
        port: None,
        interval,
        fast_interval: before_retry.clamp(SHORTEST, interval),
        timeout: timeout.clamp(Duration::from_millis(1), interval),
        rise: 1,
        fall: u8::try_from(fall).unwrap_or(u8::MAX),
    }
}

/// Whether a regular expression is a plain text, and the check passes where it is found.
fn is_plain(url: &Node, line: &Node) -> bool {
    let bare = |other: &Node| !other.keyword().starts_with("regex") || other.id == line.id;
    let text = line.word(1).unwrap_or("");
    let plain = !text.contains(|c: char| r"\^$.|?*+()[]{}".contains(c) || c.is_control());
    plain && (1..=4096).contains(&text.len()) && url.inner().all(bare)
}

/// `200 300-399`
fn statuses(line: &Node) -> Option<Vec<String>> {
    let read = |text: &str| {
        let status = |text: &str| {
            text.parse()
                .ok()
                .filter(|status| (100..=599_u16).contains(status))
        };
        match text.split_once('-') {
            Some((from, to)) => {
                let (from, to) = (status(from)?, status(to)?);
                (from <= to).then(|| format!("{from}-{to}"))
            }
            None => Some(status(text)?.to_string()),
        }
    };
    let words = line.values();
    let fits = (1..=MAX_STATUSES).contains(&words.len());
    words
        .iter()
        .map(|word| read(&word.text))
        .collect::<Option<_>>()
        .filter(|_| fits)
}

/// A path that a request may have.
fn request_path(text: &str) -> Option<String> {
    let fits = |byte: u8| byte.is_ascii_graphic() && byte != b'#';
    let valid = text.starts_with('/') && text.len() <= 2048 && text.bytes().all(fits);
    valid.then(|| text.to_owned())
}

/// A name that a Host header may have.
fn is_host(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b".-:_".contains(&byte);
    (1..=253).contains(&text.len()) && text.bytes().all(fits)
}

/// A name or an address that a certificate may have.
fn is_server_name(text: &str) -> bool {
    let label = |label: &str| {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        (1..=63).contains(&label.len())
            && label.bytes().all(fits)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(label)
}
