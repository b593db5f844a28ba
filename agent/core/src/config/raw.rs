//! The file as it is written: which tables and keys there are, and what type each value has.
//!
//! [`parse`] turns TOML into a [`RawConfig`], whose values are typed and each within its own
//! bounds, but whose defaults are not filled in and whose parts have not been compared with each
//! other: that is [`super::validate`]'s part. There is one function for each table of
//! [`super::schema`]; those of services are in [`service`], those of modes in [`mode`],
//! those of the wire format in [`wire`].

mod channel;
mod flow;
mod mode;
mod service;
mod track;
mod wire;

use std::{net::IpAddr, path::PathBuf, time::Duration};

pub(super) use channel::{RawChannel, RawPeer};
pub(super) use flow::RawFlows;
use ipnet::IpNet;
pub(super) use mode::{RawNat, RawTunnel};
pub(super) use service::{AffinityWord, RawBackend, RawService};
use toml::de::DeTable;
pub(super) use track::{RawTrack, TrackWord};
pub(super) use wire::{RawAuthentication, RawWire};

use super::{
    LogFormat, Name, XdpMode,
    error::{Mistake, quote},
    limits,
    reader::{At, Given, List, TableReader},
    scalar,
    schema::{
        ANNOUNCE, CHANNEL, CONTROL, DATAPLANE, FILE, FLOWS, LOG, NAT, NODE, PEER, PROBE, SERVICE,
        SYNC_GROUP, TRACK, TUNNEL, VIRTUAL_ROUTER,
    },
};

/// A probe's interval, and its timeout.
const PROBE_INTERVAL: (Duration, Duration) = (Duration::from_millis(10), Duration::from_hours(1));

/// Reads the text. Where it is not TOML there is no configuration, only mistakes.
pub(super) fn parse(text: &str) -> (Option<RawConfig>, Vec<Mistake>) {
    let (document, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        // What follows from a recovered document may be wrong, so only the syntax is reported.
        return (None, syntax_mistakes(text, errors));
    }
    let mut mistakes = Vec::new();
    let mut file = TableReader::new(&FILE, 0..0, Some(document.get_ref()), &mut mistakes);
    let raw = RawConfig {
        node: node(file.table("node", &NODE)),
        control: control(file.table("control", &CONTROL)),
        log: log(file.table("log", &LOG)),
        dataplane: dataplane(file.table("dataplane", &DATAPLANE)),
        flows: flow::flows(file.table("flows", &FLOWS)),
        tunnel: mode::tunnel(file.table("tunnel", &TUNNEL)),
        nat: mode::nat(file.table("nat", &NAT)),
        virtual_routers: file.tables(
            "virtual_router",
            &VIRTUAL_ROUTER,
            limits::VIRTUAL_ROUTERS,
            virtual_router,
        ),
        probes: file.named_tables("probe", &PROBE, probe),
        services: file.tables("service", &SERVICE, limits::SERVICES, service::service),
        tracks: file.named_tables("track", &TRACK, track::track),
        channel: channel::channel(file.table("channel", &CHANNEL)),
        channel_peers: file.tables("peer", &PEER, limits::CHANNEL_PEERS, channel::peer),
        sync_groups: file.tables(
            "sync_group",
            &SYNC_GROUP,
            limits::VIRTUAL_ROUTERS,
            sync_group,
        ),
    };
    (Some(raw), mistakes)
}

/// The file.
#[derive(Debug)]
pub(super) struct RawConfig {
    pub(super) node: RawNode,
    pub(super) control: RawControl,
    pub(super) log: RawLog,
    pub(super) dataplane: RawDataplane,
    pub(super) flows: RawFlows,
    pub(super) tunnel: RawTunnel,
    pub(super) nat: RawNat,
    pub(super) virtual_routers: List<RawVirtualRouter>,
    pub(super) probes: List<RawProbe>,
    pub(super) services: List<RawService>,
    pub(super) tracks: List<RawTrack>,
    pub(super) channel: RawChannel,
    pub(super) channel_peers: List<RawPeer>,
    pub(super) sync_groups: List<RawSyncGroup>,
}

/// `[node]`.
#[derive(Debug)]
pub(super) struct RawNode {
    pub(super) name: Given<Name>,
    pub(super) state_dir: Given<PathBuf>,
}

/// `[control]`.
#[derive(Debug)]
pub(super) struct RawControl {
    pub(super) socket: Given<PathBuf>,
    pub(super) viewer_group: Given<String>,
    pub(super) admin_group: Given<String>,
}

/// `[log]`.
#[derive(Debug)]
pub(super) struct RawLog {
    pub(super) level: Given<String>,
    pub(super) format: Given<LogFormat>,
}

/// `[dataplane]`.
#[derive(Debug)]
pub(super) struct RawDataplane {
    pub(super) interfaces: List<Name>,
    pub(super) xdp_mode: Given<XdpMode>,
    pub(super) bpf_dir: Given<PathBuf>,
}

/// `[[virtual_router]]`.
#[derive(Debug)]
pub(super) struct RawVirtualRouter {
    pub(super) name: Given<Name>,
    pub(super) interface: Given<Name>,
    pub(super) vrid: Given<u8>,
    pub(super) priority: Given<u8>,
    pub(super) advert_interval: Given<Duration>,
    pub(super) preempt: Given<bool>,
    pub(super) addresses: List<IpNet>,
    pub(super) peers: List<IpAddr>,
    pub(super) source: Given<IpAddr>,
    pub(super) announce: RawAnnounce,
    pub(super) wire: RawWire,
    pub(super) track: List<Name>,
    pub(super) preempt_delay: Given<Duration>,
    pub(super) fence_after: Given<Duration>,
}

/// `[[sync_group]]`.
#[derive(Debug)]
pub(super) struct RawSyncGroup {
    pub(super) name: Given<Name>,
    pub(super) virtual_routers: List<Name>,
}

/// `announce` of a virtual router.
#[derive(Debug)]
pub(super) struct RawAnnounce {
    pub(super) count: Given<u8>,
    pub(super) interval: Given<Duration>,
    pub(super) repeat_after: Given<Duration>,
    pub(super) refresh: Given<Duration>,
}

/// The `type` of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ProbeType {
    Tcp,
    Http { tls: bool },
    WebSocket { tls: bool },
}

/// `[probe.NAME]`. A key that its type has no use for has been recorded as a mistake.
#[derive(Debug)]
pub(super) struct RawProbe {
    pub(super) name: Given<Name>,
    pub(super) kind: Given<ProbeType>,
    pub(super) port: Given<u16>,
    pub(super) interval: Given<Duration>,
    pub(super) fast_interval: Given<Duration>,
    pub(super) timeout: Given<Duration>,
    pub(super) rise: Given<u8>,
    pub(super) fall: Given<u8>,
    pub(super) jitter: Given<f64>,
    pub(super) method: Given<String>,
    pub(super) path: Given<String>,
    pub(super) host: Given<String>,
    pub(super) status: List<(u16, u16)>,
    pub(super) body_contains: Given<String>,
    pub(super) server_name: Given<String>,
    pub(super) verify: Given<bool>,
    pub(super) ca_file: Given<PathBuf>,
}

fn node(mut table: TableReader<'_>) -> RawNode {
    RawNode {
        name: table.get("name", scalar::name),
        state_dir: table.get("state_dir", scalar::path),
    }
}

fn control(mut table: TableReader<'_>) -> RawControl {
    RawControl {
        socket: table.get("socket", scalar::socket_path),
        viewer_group: table.get("viewer_group", scalar::group),
        admin_group: table.get("admin_group", scalar::group),
    }
}

fn log(mut table: TableReader<'_>) -> RawLog {
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    RawLog {
        level: table.get("level", scalar::log_level),
        format: table.get("format", scalar::choice(&formats)),
    }
}

fn dataplane(mut table: TableReader<'_>) -> RawDataplane {
    let modes = [
        ("auto", XdpMode::Auto),
        ("driver", XdpMode::Driver),
        ("generic", XdpMode::Generic),
    ];
    RawDataplane {
        interfaces: table.list("interfaces", limits::INTERFACES, scalar::interface),
        xdp_mode: table.get("xdp_mode", scalar::choice(&modes)),
        bpf_dir: table.get("bpf_dir", scalar::bpf_path),
    }
}

fn virtual_router(table: &mut TableReader<'_>) -> RawVirtualRouter {
    RawVirtualRouter {
        name: table.require("name", scalar::name),
        interface: table.require("interface", scalar::interface),
        vrid: table.require("vrid", scalar::integer(1..=255)),
        priority: table.get("priority", scalar::integer(1..=255)),
        advert_interval: table.get("advert_interval", scalar::advert_interval),
        preempt: table.get("preempt", scalar::boolean),
        addresses: table.require_list("addresses", limits::ADDRESSES, scalar::network),
        peers: table.list("peers", limits::PEERS, scalar::address),
        source: table.get("source", scalar::address),
        announce: announce(table.table("announce", &ANNOUNCE)),
        wire: wire::wire(table),
        track: table.list("track", limits::TRACKS, scalar::name),
        preempt_delay: table.get(
            "preempt_delay",
            scalar::duration(Duration::ZERO..=Duration::from_hours(1)),
        ),
        fence_after: table.get(
            "fence_after",
            scalar::duration(Duration::ZERO..=Duration::from_hours(1)),
        ),
    }
}

fn sync_group(table: &mut TableReader<'_>) -> RawSyncGroup {
    RawSyncGroup {
        name: table.require("name", scalar::name),
        virtual_routers: table.require_list(
            "virtual_routers",
            limits::VIRTUAL_ROUTERS,
            scalar::name,
        ),
    }
}

fn announce(mut table: TableReader<'_>) -> RawAnnounce {
    let interval = Duration::from_millis(1)..=Duration::from_secs(10);
    let repeat_after = Duration::ZERO..=Duration::from_hours(1);
    let refresh = Duration::ZERO..=Duration::from_hours(24);
    RawAnnounce {
        count: table.get("count", scalar::integer(1..=100)),
        interval: table.get("interval", scalar::duration(interval)),
        repeat_after: table.get("repeat_after", scalar::duration(repeat_after)),
        refresh: table.get("refresh", scalar::duration(refresh)),
    }
}

fn probe(name: At<&str>, table: &mut TableReader<'_>) -> RawProbe {
    let kinds = [
        ("tcp", ProbeType::Tcp),
        ("http", ProbeType::Http { tls: false }),
        ("https", ProbeType::Http { tls: true }),
        ("websocket", ProbeType::WebSocket { tls: false }),
        ("websockets", ProbeType::WebSocket { tls: true }),
    ];
    let (shortest, longest) = PROBE_INTERVAL;
    let probe = RawProbe {
        name: probe_name(name, table),
        kind: table.require("type", scalar::choice(&kinds)),
        port: table.get("port", scalar::integer(1..=65_535)),
        interval: table.get("interval", scalar::duration(shortest..=longest)),
        fast_interval: table.get("fast_interval", scalar::duration(shortest..=longest)),
        timeout: table.get(
            "timeout",
            scalar::duration(Duration::from_millis(1)..=longest),
        ),
        rise: table.get("rise", scalar::integer(1..=255)),
        fall: table.get("fall", scalar::integer(1..=255)),
        jitter: table.get("jitter", scalar::number(0.0..=0.5)),
        method: table.get("method", scalar::http::method),
        path: table.get("path", scalar::http::request_path),
        host: table.get("host", scalar::http::host),
        status: table.list("status", limits::STATUSES, scalar::http::status),
        body_contains: table.get("body_contains", scalar::http::needle),
        server_name: table.get("server_name", scalar::http::server_name),
        verify: table.get("verify", scalar::boolean),
        ca_file: table.get("ca_file", scalar::path),
    };
    useless_keys(&probe, table);
    probe
}

fn probe_name(name: At<&str>, table: &mut TableReader<'_>) -> Given<Name> {
    let At { value, span } = name;
    if let Some(value) = scalar::valid_name(value) {
        return Given::Value(At { value, span });
    }
    let message = format!(
        "a probe's name must be 1 to 64 letters (a-z, A-Z), digits, dots, underscores and hyphens, found {}",
        quote(value),
    );
    table.mistake(Mistake::new(&span, message));
    Given::Bad
}

/// Records the keys that the probe's type has no use for: each of them would do nothing.
fn useless_keys(probe: &RawProbe, table: &mut TableReader<'_>) {
    let Some(kind) = probe.kind.value() else {
        return;
    };
    let (word, http, requests, tls) = match kind {
        ProbeType::Tcp => ("tcp", false, false, false),
        ProbeType::Http { tls: false } => ("http", true, true, false),
        ProbeType::Http { tls: true } => ("https", true, true, true),
        ProbeType::WebSocket { tls: false } => ("websocket", false, true, false),
        ProbeType::WebSocket { tls: true } => ("websockets", false, true, true),
    };
    let span = |given: &Given<String>| given.at().map(|at| at.span.clone());
    let keys = [
        ("method", http, span(&probe.method)),
        ("path", requests, span(&probe.path)),
        ("host", requests, span(&probe.host)),
        ("status", http, probe.status.span.clone()),
        ("body_contains", http, span(&probe.body_contains)),
        ("server_name", tls, span(&probe.server_name)),
        ("verify", tls, probe.verify.at().map(|at| at.span.clone())),
        ("ca_file", tls, probe.ca_file.at().map(|at| at.span.clone())),
    ];
    for (key, useful, span) in keys {
        if let Some(span) = span.filter(|_| !useful) {
            let message = format!("`{key}` means nothing to a probe of type \"{word}\"");
            table.mistake(Mistake::new(&span, message).help("remove it, or change the type"));
        }
    }
}

/// The parser goes on after an error, and then may stumble over the rest of the same line: the
/// first error of a line is the one to read.
fn syntax_mistakes(text: &str, errors: Vec<toml::de::Error>) -> Vec<Mistake> {
    let mut mistakes: Vec<Mistake> = Vec::new();
    for error in errors {
        let span = error.span().unwrap_or(0..0);
        let same_line = mistakes.last().is_some_and(|last| {
            let between = last.span.start.min(span.start)..last.span.start.max(span.start);
            text.get(between)
                .is_none_or(|between| !between.contains('\n'))
        });
        if !same_line {
            mistakes.push(Mistake::new(
                &span,
                format!("not TOML: {}", error.message()),
            ));
        }
    }
    mistakes
}

#[cfg(test)]
mod tests {
    use super::{
        super::{reader::Schema, schema::SCHEMAS},
        *,
    };

    /// A file with every table, in which `key` of `schema` has a date: no key wants one.
    fn with_a_date(schema: &Schema, key: &str) -> String {
        let mut text = String::new();
        for table in SCHEMAS.iter().skip(1) {
            let header = match table.table {
                table if table.starts_with("announce") => "[virtual_router.announce]",
                table if table.starts_with("authentication") => "[virtual_router.authentication]",
                "[probe.NAME]" => "[probe.x]",
                "[track.NAME]" => "[track.x]",
                table => table,
            };
            text.push_str(&format!("{header}\n"));
            if table.table == schema.table {
                text.push_str(&format!("{key} = 2001-01-01\n"));
            }
        }
        text
    }

    #[test]
    fn every_key_of_a_schema_is_read_and_checked() {
        for schema in SCHEMAS.iter().skip(1) {
            // Subtables: the file would define them twice.
            for key in schema
                .keys
                .iter()
                .filter(|key| !["announce", "authentication", "backend"].contains(*key))
            {
                let text = with_a_date(schema, key);
                let (raw, mistakes) = parse(&text);
                assert!(raw.is_some(), "{text}{mistakes:?}");
                let at = text.find("2001").unwrap();
                let found: Vec<_> = mistakes.iter().filter(|m| m.span.start == at).collect();
                assert_eq!(found.len(), 1, "{key} of {}: {mistakes:?}", schema.table);
                assert!(
                    found[0].message.contains(&format!("`{key}` must be")),
                    "{found:?}"
                );
            }
        }
        for key in FILE.keys {
            let (_, mistakes) = parse(&format!("{key} = 2001-01-01\n"));
            assert_eq!(mistakes.len(), 1, "{key}: {mistakes:?}");
        }
    }

    #[test]
    fn a_syntax_error_hides_no_later_one() {
        let text = "[node]\nname = \n[log]\nlevel = \"info\nformat = \"text\"\nformat = \"json\"\n";
        let (raw, mistakes) = parse(text);
        assert!(raw.is_none());
        let lines: Vec<usize> = mistakes
            .iter()
            .map(|m| text[..m.span.start].matches('\n').count() + 1)
            .collect();
        assert_eq!(lines, [2, 4, 6], "{mistakes:?}");
    }
}
