//! Probes.

use std::{collections::HashMap, time::Duration};

use crate::config::{
    HttpProbe, Name, Probe, ProbeKind, TlsCheck, WebSocketProbe,
    error::Mistake,
    raw::{ProbeType, RawProbe},
    reader::{Given, List},
};

/// The probes by name.
pub(super) struct Probes {
    /// None: it has a mistake of its own.
    probes: HashMap<Name, Option<Probe>>,
    /// Whether all names are known.
    whole: bool,
}

impl Probes {
    /// The probe called `name`. The outer none: there is no such probe. The inner: it is not
    /// known, because of another mistake.
    pub(super) fn find(&self, name: &Name) -> Option<Option<&Probe>> {
        match self.probes.get(name) {
            Some(probe) => Some(probe.as_ref()),
            None => (!self.whole).then_some(None),
        }
    }

    /// All names.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.probes.keys().map(Name::as_str)
    }
}

/// Checks the probes.
pub(super) fn probes(raw: &List<RawProbe>, mistakes: &mut Vec<Mistake>) -> Probes {
    let mut probes = Probes {
        probes: HashMap::new(),
        whole: raw.whole,
    };
    for raw in &raw.items {
        let probe = probe(&raw.value, mistakes);
        match raw.value.name.value() {
            Some(name) => _ = probes.probes.insert(name, probe),
            None => probes.whole = false,
        }
    }
    probes
}

fn probe(raw: &RawProbe, mistakes: &mut Vec<Mistake>) -> Option<Probe> {
    let interval = raw.interval.or(Duration::from_secs(5));
    not_above_interval("fast_interval", &raw.fast_interval, interval, mistakes);
    not_above_interval("timeout", &raw.timeout, interval, mistakes);
    let at_most_interval = |most: Duration| interval.map(|interval| interval.min(most));
    Some(Probe {
        name: raw.name.value()?,
        kind: kind(raw, mistakes)?,
        port: raw.port.optional()?,
        interval: interval?,
        fast_interval: raw
            .fast_interval
            .or_else(|| at_most_interval(Duration::from_secs(1)))?,
        timeout: raw
            .timeout
            .or_else(|| at_most_interval(Duration::from_secs(2)))?,
        rise: raw.rise.or(2)?,
        fall: raw.fall.or(3)?,
        jitter: raw.jitter.or(0.1)?,
    })
}

fn kind(raw: &RawProbe, mistakes: &mut Vec<Mistake>) -> Option<ProbeKind> {
    let path = raw.path.or("/".to_owned());
    let host = raw.host.optional();
    Some(match raw.kind.value()? {
        ProbeType::Tcp => ProbeKind::Tcp,
        ProbeType::Http { tls: with_tls } => {
            let tls = tls(raw, with_tls, mistakes);
            let status = statuses(&raw.status, mistakes);
            let method = raw.method.or("GET".to_owned());
            if let (Some("HEAD"), Given::Value(needle)) = (method.as_deref(), &raw.body_contains) {
                let message = "`body_contains` never holds: the answer to HEAD has no body";
                mistakes.push(Mistake::new(&needle.span, message).help("use method \"GET\""));
            }
            ProbeKind::Http(HttpProbe {
                tls: tls?,
                method: method?,
                path: path?,
                host: host?,
                status,
                body_contains: raw.body_contains.optional()?,
            })
        }
        ProbeType::WebSocket { tls: with_tls } => {
            let tls = tls(raw, with_tls, mistakes);
            ProbeKind::WebSocket(WebSocketProbe {
                tls: tls?,
                path: path?,
                host: host?,
            })
        }
    })
}

fn statuses(raw: &List<(u16, u16)>, mistakes: &mut Vec<Mistake>) -> Vec<(u16, u16)> {
    match &raw.span {
        None => vec![(200, 399)],
        Some(span) => {
            if raw.whole && raw.items.is_empty() {
                mistakes.push(Mistake::new(
                    span,
                    "`status` must not be empty: no answer would do",
                ));
            }
            raw.items.iter().map(|range| range.value).collect()
        }
    }
}

/// The outer none: it has a mistake. The inner: there is no TLS.
fn tls(raw: &RawProbe, with_tls: bool, mistakes: &mut Vec<Mistake>) -> Option<Option<TlsCheck>> {
    if !with_tls {
        return Some(None);
    }
    let verify = raw.verify.or(true);
    if let (Some(false), Given::Value(ca_file)) = (verify, &raw.ca_file) {
        let message = "`ca_file` has no effect with `verify = false`";
        mistakes.push(Mistake::new(&ca_file.span, message).help("remove one of them"));
    }
    Some(Some(TlsCheck {
        server_name: raw.server_name.optional()?,
        verify: verify?,
        ca_file: raw.ca_file.optional()?,
    }))
}

fn not_above_interval(
    key: &str,
    given: &Given<Duration>,
    interval: Option<Duration>,
    mistakes: &mut Vec<Mistake>,
) {
    if let (Given::Value(at), Some(interval)) = (given, interval)
        && at.value > interval
    {
        let message = format!(
            "`{key}` ({:?}) is above the probe's `interval` ({interval:?})",
            at.value
        );
        mistakes.push(Mistake::new(&at.span, message));
    }
}
