//! Tests of the configuration as a whole: bad files with what they must report, the examples and
//! the documentation against the code, and anything at all as input.

mod bad;
mod examples;

use std::{collections::BTreeSet, fmt::Write as _};

use proptest::prelude::*;

use super::{
    Config, ConfigErrors,
    reader::Schema,
    schema::{FILE, SCHEMAS},
};

const STEERD: &str = include_str!("../../../../config/steerd.toml");
const BACKUP: &str = include_str!("../../../../config/examples/backup.toml");
const FAST: &str = include_str!("../../../../config/examples/fast.toml");
const DUAL_STACK: &str = include_str!("../../../../config/examples/dual-stack.toml");
const TUNNEL: &str = include_str!("../../../../config/examples/tunnel.toml");
const TUNNEL_BACKEND: &str = include_str!("../../../../config/examples/tunnel-backend.toml");
const NAT: &str = include_str!("../../../../config/examples/nat.toml");
const REFERENCE: &str = include_str!("../../../../docs/configuration.md");

fn parse(text: &str) -> Result<Config, ConfigErrors> {
    Config::parse("steerd.toml", text, "host-1")
}

fn valid(text: &str) -> Config {
    parse(text).unwrap_or_else(|errors| panic!("{text}\n{errors}"))
}

/// The mistakes as `line:column: message`.
fn mistakes(text: &str) -> Vec<String> {
    let errors = parse(text).expect_err(text);
    errors
        .lines()
        .map(|line| line.strip_prefix("steerd.toml:").unwrap().to_owned())
        .collect()
}

/// The part of the reference on a table.
fn section(table: &str) -> &'static str {
    let heading = format!("\n## `{table}`\n");
    let from = REFERENCE
        .find(&heading)
        .unwrap_or_else(|| panic!("no section on {table}"));
    let rest = &REFERENCE[from + heading.len()..];
    rest.split("\n## ").next().unwrap()
}

#[test]
fn every_key_is_in_the_reference_and_no_other() {
    let tables = SCHEMAS.iter().filter(|schema| !schema.table.is_empty());
    for schema in tables.clone().filter(|schema| !is_inline(schema)) {
        let mut known: BTreeSet<&str> = schema.keys.iter().copied().collect();
        known.remove("backend"); // has a section of its own
        let of_this = |inner: &&&Schema| is_inline(inner) && inner.table.ends_with(schema.table);
        known.extend(tables.clone().filter(of_this).flat_map(|s| s.keys));
        let rows = section(schema.table)
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split('`').next());
        assert_eq!(rows.collect::<BTreeSet<_>>(), known, "{}", schema.table);
    }
}

/// Whether a table is written in braces, within another one, in whose section it is.
fn is_inline(schema: &Schema) -> bool {
    schema.table.contains("{ ... } of ")
}

/// The console block of the reference is what the code prints.
#[test]
fn the_reference_shows_a_real_report() {
    let text = "[[virtual_router]]\nname = \"game\"\ninterface = \"eth0\"\nvrid = 51\n\n\naddresses = [\"192.168.1.25/24\"]\nprioritty = 110\n\n\n\n[probe.health]\ninterval = 5\ntype = \"tcp\"\n";
    let report = parse(text).unwrap_err().to_string();
    assert!(
        REFERENCE.contains(&format!("$ steerctl check steerd.toml\n{report}\n```")),
        "{report}"
    );
}

/// Writes a track out again.
fn render_track(track: &super::Track, line: &mut impl FnMut(&str, String)) {
    use super::{Script, TrackKind};
    let quoted = |text: &str| toml::Value::from(text).to_string();
    let duration = |d: std::time::Duration| format!("\"{}ns\"", d.as_nanos());
    line("", format!("[track.{}]", quoted(track.name.as_str())));
    line("kind", quoted(&track.kind.to_string()));
    if let Some(weight) = track.weight {
        line("weight", weight.to_string());
    }
    let pace = track.pace;
    if track.kind.is_checked() {
        line("interval", duration(pace.interval));
        line("timeout", duration(pace.timeout));
        line("rise", pace.rise.to_string());
        line("fall", pace.fall.to_string());
    } else {
        line("debounce_up", duration(pace.debounce_up));
        line("debounce_down", duration(pace.debounce_down));
    }
    match &track.kind {
        TrackKind::Interface { interface } => line("interface", quoted(interface.as_str())),
        TrackKind::Service { service, at_least } => {
            line("service", quoted(service.as_str()));
            line("at_least", at_least.to_string());
        }
        TrackKind::Script(Script { argv, user }) => {
            line("argv", toml::Value::from(argv.clone()).to_string());
            if let Some(user) = user {
                line("user", quoted(user));
            }
        }
        TrackKind::File { path, check } => {
            line("path", quoted(&path.to_string_lossy()));
            line("expect", quoted(&check.to_string()));
        }
        TrackKind::Process { process, at_least } => {
            line("process", quoted(process));
            line("at_least", at_least.to_string());
            line("interval", duration(pace.interval));
        }
        TrackKind::Gateway { address, interface } => {
            line("address", quoted(&address.to_string()));
            if let Some(interface) = interface {
                line("interface", quoted(interface.as_str()));
            }
        }
    }
}

/// Writes a configuration out again, every key of it.
fn render(config: &Config) -> String {
    use super::{
        Affinity, Authentication, LogFormat, Mode, ProbeKind, Scheduler, TlsCheck, Version, XdpMode,
    };
    let quoted = |text: &str| toml::Value::from(text).to_string();
    let list = |items: Vec<String>| format!("[{}]", items.join(", "));
    let mut out = String::new();
    let mut line = |key: &str, value: String| {
        if key.is_empty() {
            writeln!(out, "{value}")
        } else {
            writeln!(out, "{key} = {value}")
        }
        .unwrap();
    };
    let duration = |d: std::time::Duration| format!("\"{}ns\"", d.as_nanos());
    line("", "[node]".into());
    line("name", quoted(config.node.name.as_str()));
    line(
        "state_dir",
        quoted(&config.node.state_dir.to_string_lossy()),
    );
    line("", "[control]".into());
    line("socket", quoted(&config.control.socket.to_string_lossy()));
    if let Some(group) = &config.control.viewer_group {
        line("viewer_group", quoted(group));
    }
    if let Some(group) = &config.control.admin_group {
        line("admin_group", quoted(group));
    }
    line("", "[log]".into());
    line("level", quoted(&config.log.level));
    line(
        "format",
        quoted(match config.log.format {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        }),
    );
    line("", "[dataplane]".into());
    line(
        "interfaces",
        list(
            config
                .dataplane
                .interfaces
                .iter()
                .map(|i| quoted(i.as_str()))
                .collect(),
        ),
    );
    line(
        "xdp_mode",
        quoted(match config.dataplane.xdp_mode {
            XdpMode::Auto => "auto",
            XdpMode::Driver => "driver",
            XdpMode::Generic => "generic",
        }),
    );
    line(
        "bpf_dir",
        quoted(&config.dataplane.bpf_dir.to_string_lossy()),
    );
    let addresses =
        |list: &[std::net::IpAddr]| self::addresses(list.iter().map(ToString::to_string));
    let flows = config.flows;
    line("", "[flows]".into());
    line("tcp_new", duration(flows.tcp_new));
    line("tcp_established", duration(flows.tcp_established));
    line("tcp_closing", duration(flows.tcp_closing));
    line("udp_new", duration(flows.udp_new));
    line("udp_established", duration(flows.udp_established));
    let tunnel = &config.tunnel;
    line("", "[tunnel]".into());
    line("source4", format!("\"{}\"", tunnel.source4));
    line("source6", format!("\"{}\"", tunnel.source6));
    line("gue_port", tunnel.gue_port.to_string());
    line("endpoints", addresses(&tunnel.endpoints));
    let timeouts = config.nat.timeouts;
    line("", "[nat]".into());
    line("addresses", addresses(&config.nat.addresses));
    line("ports", format!("\"{}\"", config.nat.ports));
    line("tcp_new", duration(timeouts.tcp_new));
    line("tcp_established", duration(timeouts.tcp_established));
    line("tcp_closing", duration(timeouts.tcp_closing));
    line("udp_new", duration(timeouts.udp_new));
    line("udp_established", duration(timeouts.udp_established));
    for router in &config.virtual_routers {
        line("", "[[virtual_router]]".into());
        line("name", quoted(router.name.as_str()));
        line("interface", quoted(router.interface.as_str()));
        line("vrid", router.vrid.to_string());
        line("priority", router.priority.to_string());
        line("advert_interval", duration(router.advert_interval));
        line("preempt", router.preempt.to_string());
        line(
            "addresses",
            list(
                router
                    .addresses
                    .iter()
                    .map(|a| format!("\"{a}\""))
                    .collect(),
            ),
        );
        line(
            "peers",
            list(router.peers.iter().map(|a| format!("\"{a}\"")).collect()),
        );
        if let Some(source) = router.source {
            line("source", format!("\"{source}\""));
        }
        let announce = router.announce;
        line("announce.count", announce.count.to_string());
        line("announce.interval", duration(announce.interval));
        line("announce.repeat_after", duration(announce.repeat_after));
        line("announce.refresh", duration(announce.refresh));
        line("preempt_delay", duration(router.preempt_delay));
        line("fence_after", duration(router.fence_after));
        let wire = &router.wire;
        line("version", wire.version.to_string());
        let password = match &wire.authentication {
            Authentication::None => None,
            Authentication::Pass(password) | Authentication::Ah(password) => Some(password),
        };
        if let Some(password) = password {
            let text = password.bytes().iter().take_while(|byte| **byte != 0);
            let text: String = text.map(|byte| char::from(*byte)).collect();
            let kind = wire.authentication.to_string();
            line("authentication.type", quoted(&kind));
            line("authentication.password", quoted(&text));
        }
        if wire.version == Version::V3 && !router.is_ipv6() {
            line("checksum", quoted(&wire.checksum.to_string()));
        }
        if !router.peers.is_empty() {
            line("ttl", wire.ttl.to_string());
            line("min_ttl", wire.min_ttl.to_string());
        }
        line(
            "track",
            list(
                router
                    .track
                    .iter()
                    .map(|name| quoted(name.as_str()))
                    .collect(),
            ),
        );
    }
    for group in &config.sync_groups {
        line("", "[[sync_group]]".into());
        line("name", quoted(group.name.as_str()));
        let names = group.virtual_routers.iter();
        let names = names.map(|name| quoted(name.as_str())).collect();
        line("virtual_routers", list(names));
    }
    for track in &config.tracks {
        render_track(track, &mut line);
    }
    let mut probes = BTreeSet::new();
    for probe in config.services.iter().flat_map(|service| &service.probes) {
        if !probes.insert(&probe.name) {
            continue;
        }
        line("", format!("[probe.{}]", quoted(probe.name.as_str())));
        let mut tls_keys = |tls: &Option<TlsCheck>| {
            let Some(tls) = tls else { return };
            line("verify", tls.verify.to_string());
            if let Some(name) = &tls.server_name {
                line("server_name", quoted(name));
            }
            if let Some(file) = &tls.ca_file {
                line("ca_file", quoted(&file.to_string_lossy()));
            }
        };
        let (kind, path, host) = match &probe.kind {
            ProbeKind::Tcp => ("tcp", None, None),
            ProbeKind::Http(http) => {
                tls_keys(&http.tls);
                line("method", quoted(&http.method));
                line(
                    "status",
                    list(
                        http.status
                            .iter()
                            .map(|(low, high)| format!("\"{low}-{high}\""))
                            .collect(),
                    ),
                );
                if let Some(needle) = &http.body_contains {
                    line("body_contains", quoted(needle));
                }
                (
                    if http.tls.is_some() { "https" } else { "http" },
                    Some(&http.path),
                    http.host.as_ref(),
                )
            }
            ProbeKind::WebSocket(ws) => {
                tls_keys(&ws.tls);
                (
                    if ws.tls.is_some() {
                        "websockets"
                    } else {
                        "websocket"
                    },
                    Some(&ws.path),
                    ws.host.as_ref(),
                )
            }
        };
        line("type", quoted(kind));
        if let Some(path) = path {
            line("path", quoted(path));
        }
        if let Some(host) = host {
            line("host", quoted(host));
        }
        if let Some(port) = probe.port {
            line("port", port.to_string());
        }
        line("interval", duration(probe.interval));
        line("fast_interval", duration(probe.fast_interval));
        line("timeout", duration(probe.timeout));
        line("rise", probe.rise.to_string());
        line("fall", probe.fall.to_string());
        line("jitter", probe.jitter.to_string());
    }
    for service in &config.services {
        line("", "[[service]]".into());
        line("name", quoted(service.name.as_str()));
        line("address", format!("\"{}\"", service.address));
        line("port", service.port.to_string());
        line("protocol", format!("\"{}\"", service.protocol));
        line("virtual_router", quoted(service.virtual_router.as_str()));
        line("min_healthy", service.min_healthy.to_string());
        let policy = &service.policy;
        if policy.scheduler != Scheduler::LeastConnections {
            line("ring_size", service.ring_size.to_string());
        }
        line("scheduler", format!("\"{}\"", policy.scheduler));
        match policy.affinity {
            Affinity::FiveTuple => line("affinity", "\"5-tuple\"".into()),
            Affinity::Source {
                prefix4: 32,
                prefix6: 128,
            } => line("affinity", "\"source-address\"".into()),
            Affinity::Source { prefix4, prefix6 } => {
                line("affinity", "\"source-prefix\"".into());
                match service.address.is_ipv4() {
                    true => line("affinity_prefix4", prefix4.to_string()),
                    false => line("affinity_prefix6", prefix6.to_string()),
                }
            }
        }
        line("slow_start", duration(service.slow_start));
        line("panic_threshold", service.panic_threshold.to_string());
        if let Some(mss) = policy.mss {
            line("mss", mss.to_string());
        }
        if let Some(rate) = policy.syn_rate {
            line("syn_rate", rate.per_second.to_string());
            line("syn_burst", rate.burst.to_string());
        }
        let networks =
            |list: &[ipnet::IpNet]| self::addresses(list.iter().map(ToString::to_string));
        if !policy.sources.allow.is_empty() {
            line("allow_sources", networks(&policy.sources.allow));
        }
        line("deny_sources", networks(&policy.sources.deny));
        line("quic", policy.quic.to_string());
        line(
            "probes",
            list(
                service
                    .probes
                    .iter()
                    .map(|p| quoted(p.name.as_str()))
                    .collect(),
            ),
        );
        for backend in &service.backends {
            line("", "[[service.backend]]".into());
            line("name", quoted(backend.name.as_str()));
            line("address", format!("\"{}\"", backend.address));
            line("port", backend.port.to_string());
            line("weight", backend.weight.to_string());
            line("sorry", backend.sorry.to_string());
            if !backend.sorry {
                line("tier", backend.tier.to_string());
            }
            line("mode", format!("\"{}\"", backend.mode));
            if backend.mode == Mode::Tunnel {
                line("encapsulation", format!("\"{}\"", backend.encapsulation));
            }
            if let Some(mtu) = backend.mtu {
                line("mtu", mtu.to_string());
            }
            if let Some(id) = backend.quic_server_id {
                line("quic_server_id", id.to_string());
            }
        }
    }
    out
}

fn addresses(items: impl Iterator<Item = String>) -> String {
    let items: Vec<String> = items.map(|item| format!("\"{item}\"")).collect();
    format!("[{}]", items.join(", "))
}

/// What must hold for any text: a configuration that survives being written out, or mistakes that
/// have a place and can be shown.
fn check_any(text: &str) {
    match parse(text) {
        Ok(config) => assert_eq!(valid(&render(&config)), config),
        Err(errors) => {
            assert!(
                !errors.mistakes().is_empty(),
                "refused without a reason: {text}"
            );
            assert_eq!(errors.lines().count(), errors.mistakes().len());
            assert!(errors.to_string().lines().count() > errors.mistakes().len());
        }
    }
}

#[test]
fn the_examples_survive_being_written_out() {
    for text in [
        STEERD,
        BACKUP,
        FAST,
        DUAL_STACK,
        TUNNEL,
        TUNNEL_BACKEND,
        NAT,
    ] {
        assert_eq!(valid(&render(&valid(text))), valid(text));
    }
}

#[test]
fn tracks_of_every_kind_are_read_as_written() {
    let text = format!(
        "{}\n{}",
        STEERD.replace(
            "track = []",
            "track = [\"link\", \"game\", \"script\", \"there\", \"number\", \"procs\", \"gw\"]"
        ),
        r#"
[track.link]
kind = "interface"
interface = "eth1"
weight = -20
debounce_up = "5s"
[track.game]
kind = "service"
service = "game"
at_least = 2
[track.script]
kind = "script"
argv = ["/bin/echo", "a b", "$HOME", ""]
user = "nobody"
interval = "200ms"
rise = 4
[track.there]
kind = "file"
path = "/run/there"
weight = 7
[track.number]
kind = "file"
path = "/run/number"
expect = "number"
[track.procs]
kind = "process"
process = "redis-server"
interval = "3s"
debounce_down = "1s"
[track.gw]
kind = "gateway"
address = "fe80::1"
interface = "eth0"
fall = 7
[track.unnamed]
kind = "interface"
interface = "eth9"
"#
    );
    let config = valid(&text);
    assert_eq!(valid(&render(&config)), config);
    let names: Vec<&str> = config
        .tracks
        .iter()
        .map(|track| track.name.as_str())
        .collect();
    assert_eq!(
        names,
        ["link", "game", "script", "there", "number", "procs", "gw"],
        "the one that nobody names does nothing"
    );
    let faults: Vec<bool> = config.tracks.iter().map(super::Track::is_fault).collect();
    assert_eq!(faults, [false, true, true, false, false, true, true]);
    let script = &config.tracks[2];
    let pace = script.pace;
    assert_eq!((pace.interval, pace.timeout), (pace.timeout, pace.interval));
    assert_eq!((pace.rise, pace.fall), (4, 3));
    assert!(matches!(&script.kind, super::TrackKind::Script(script) if script.argv.len() == 4));
}

/// A byte position as a character boundary of `text`.
fn boundary(text: &str, at: usize) -> usize {
    text.floor_char_boundary(at % (text.len() + 1))
}

/// Values that are good for one key and bad for others.
fn any_value() -> impl Strategy<Value = String> {
    let words = [
        "0",
        "1",
        "255",
        "256",
        "65537",
        "-1",
        "0.3",
        "nan",
        "true",
        "[]",
        "{}",
        "[[]]",
        "\"\"",
        "\"5s\"",
        "\"1ns\"",
        "\"99999999h\"",
        "\"10ms\"",
        "\"::1\"",
        "\"fe80::1/64\"",
        "\"127.0.0.1\"",
        "\"192.168.1.25\"",
        "\"192.168.1.25/24\"",
        "[\"192.168.1.25/24\", \"fd00::1/64\"]",
        "\"tcp\"",
        "\"udp\"",
        "\"websockets\"",
        "\"local\"",
        "\"game\"",
        "\"tunnel\"",
        "\"nat\"",
        "\"gue\"",
        "\"least-connections\"",
        "\"source-prefix\"",
        "[\"192.168.1.28\"]",
        "[\"10.0.0.0/8\"]",
        "\"172.16.0.0/16\"",
        "\"20000-30000\"",
        "1400",
        "[\"game-health\"]",
        "\"\\u0000\\n\"",
        "2001-01-01",
        "9223372036854775808",
        "'''\n'''",
    ];
    proptest::sample::select(words.to_vec()).prop_map(str::to_owned)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text(text in any::<String>()) {
        check_any(&text);
    }

    /// Text of what TOML is made of gets further than any text does.
    #[test]
    fn any_toml_like_text(text in "([\\[\\]{}=.,#\"'\\\\\r\n \tä]|name|service|probe|virtual_router|x|1|0x|nan){0,60}") {
        check_any(&text);
    }

    #[test]
    fn any_damage(from in any::<usize>(), length in 0_usize..200, put in "\\PC{0,8}|[\\[\\]={}\"'\n#.]{0,4}") {
        let from = boundary(FAST, from);
        let until = FAST.floor_char_boundary((from + length).min(FAST.len()));
        check_any(&format!("{}{put}{}", &FAST[..from], &FAST[until.max(from)..]));
    }

    /// Any value for any key, up to six at a time.
    #[test]
    fn any_values(changes in prop::collection::vec((any::<usize>(), any_value()), 1..6), example in 0..3_usize) {
        let example = [STEERD, TUNNEL, NAT][example];
        let mut lines: Vec<String> = example.lines().map(str::to_owned).collect();
        let keys: Vec<usize> = (0..lines.len()).filter(|&at| !lines[at].starts_with('#') && lines[at].contains(" = ")).collect();
        for (which, value) in changes {
            let at = keys[which % keys.len()];
            let key = lines[at].split(" = ").next().unwrap().to_owned();
            lines[at] = format!("{key} = {value}");
        }
        check_any(&lines.join("\n"));
    }

    /// Lines dropped or doubled.
    #[test]
    fn any_lines(edits in prop::collection::vec((any::<usize>(), any::<bool>()), 1..8)) {
        let mut lines: Vec<&str> = DUAL_STACK.lines().collect();
        for (at, double) in edits {
            let at = at % lines.len();
            if double { lines.insert(at, lines[at]) } else { _ = lines.remove(at) }
        }
        check_any(&lines.join("\n"));
    }
}
