//! Bad files, each with what it must report.
//!
//! `agent/core/tests/config/mistakes.txt` says for each what to change in `base.toml` and which
//! mistakes that makes, in order:
//!
//! ```text
//! - the lines to replace, which are there once
//! + the lines instead of them
//! ! line:column: message
//! ? help for it
//! ```

use super::*;

/// A valid file, small enough to count its lines.
const BASE: &str = include_str!("../../../tests/config/base.toml");

const CASES: &str = include_str!("../../../tests/config/mistakes.txt");

#[test]
fn every_bad_file_reports_its_mistakes() {
    valid(BASE);
    let is_case = |block: &&str| block.starts_with('-');
    let cases: Vec<&str> = CASES.split("\n\n").filter(is_case).collect();
    assert!(cases.len() >= 190, "{} cases", cases.len());
    let failures: Vec<String> = cases.iter().filter_map(|case| failure(case)).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// What differs from what `case` expects.
fn failure(case: &str) -> Option<String> {
    let (mut from, mut to) = (String::new(), String::new());
    let mut text = BASE.to_owned();
    let mut expected = String::new();
    for line in case.lines().chain(["-"]) {
        let (sign, rest) = line.split_at(line.len().min(2));
        if sign.trim() == "-" && !to.is_empty() || sign == "! " {
            change(&mut text, &mut from, &mut to);
        }
        match sign.trim() {
            "-" => writeln!(from, "{rest}").unwrap(),
            "+" => writeln!(to, "{rest}").unwrap(),
            "!" | "?" => writeln!(expected, "{line}").unwrap(),
            _ => panic!("what is {line:?}?"),
        }
    }
    let errors = match parse(&text) {
        Ok(_) => return Some(format!("{case}\n=> no mistake at all\n")),
        Err(errors) => errors,
    };
    let mut found = String::new();
    for (line, mistake) in errors.lines().zip(errors.mistakes()) {
        writeln!(found, "! {}", line.strip_prefix("steerd.toml:").unwrap()).unwrap();
        if let Some(help) = &mistake.help {
            writeln!(found, "? {help}").unwrap();
        }
    }
    (found != expected).then(|| format!("{case}\n=>\n{found}"))
}

fn change(text: &mut String, from: &mut String, to: &mut String) {
    if from.is_empty() {
        return;
    }
    assert_eq!(
        text.matches(from.as_str()).count(),
        1,
        "must be there once:\n{from}"
    );
    *text = text.replace(from.as_str(), to);
    from.clear();
    to.clear();
}

#[test]
fn limits() {
    let many =
        |count: usize, one: &dyn Fn(usize) -> String| -> String { (0..count).map(one).collect() };

    let addresses = |count| {
        let list = many(count, &|n| format!("\"10.0.0.{}/24\", ", n + 1));
        BASE.replace("\"192.168.1.30/24\"", &list)
    };
    valid(&addresses(31));
    assert_eq!(
        mistakes(&addresses(32)),
        ["9:520: more than 32 `addresses`"]
    );

    let interfaces = |count| {
        let list = many(count, &|n| format!("\"eth{n}\", "));
        BASE.replace(
            "[dataplane]",
            &format!("[dataplane]\ninterfaces = [{list}]"),
        )
    };
    valid(&interfaces(16));
    assert_eq!(
        mistakes(&interfaces(17)),
        ["5:149: more than 16 `interfaces`"]
    );

    let routers = |count| {
        let router = |n| {
            format!(
                "[[virtual_router]]\nname = \"r{n}\"\ninterface = \"eth0\"\nvrid = {}\naddresses = [\"10.0.0.{}/24\"]\n",
                n + 100,
                n + 1
            )
        };
        format!("{BASE}{}", many(count, &router))
    };
    valid(&routers(63));
    assert_eq!(
        mistakes(&routers(64)),
        ["340:1: more than 64 `[[virtual_router]]`"]
    );

    let tracks = |count| {
        let track = |n| format!("[track.t{n}]\nkind = \"interface\"\ninterface = \"eth{n}\"\n");
        format!("{BASE}{}", many(count, &track))
    };
    valid(&tracks(64));
    assert_eq!(
        mistakes(&tracks(65)),
        ["217:1: more than 64 `[track.NAME]`"]
    );

    let services = |count| {
        let service = |n| {
            format!(
                "[[service]]\nname = \"s{n}\"\naddress = \"192.168.1.25\"\nport = {}\nring_size = 101\n[[service.backend]]\nname = \"b\"\naddress = \"192.168.1.26\"\n",
                n + 10_000
            )
        };
        format!("{BASE}{}", many(count, &service))
    };
    assert_eq!(valid(&services(4094)).services.len(), 4095);
    assert_eq!(
        mistakes(&services(4095)),
        ["32777:1: more than 4095 `[[service]]`"]
    );

    // Rings of the default size, each in lines of 32.
    let default_rings = |count| services(count).replace("ring_size = 101\n", "");
    valid(&default_rings(2031));
    assert_eq!(
        mistakes(&default_rings(2032)),
        ["14242:1: more than 8388608 entries of all rings, together"]
    );

    // A table by server id has as many entries as the largest id says.
    let server_ids = |count| {
        default_rings(count)
            .replace("port = 1", "protocol = \"udp\"\nquic = true\nport = 1")
            .replace("name = \"b\"", "name = \"b\"\nquic_server_id = 65535")
    };
    valid(&server_ids(120));
    assert_eq!(
        mistakes(&server_ids(121)),
        ["1225:1: more than 8388608 entries of all rings, together"]
    );

    let backends = |count| {
        let backend = |n| {
            format!(
                "[[service.backend]]\nname = \"b{n}\"\naddress = \"10.1.{}.{}\"\n",
                n / 256,
                n % 256
            )
        };
        format!("{BASE}{}", many(count, &backend))
    };
    assert_eq!(valid(&backends(1022)).services[0].backends.len(), 1024);
    assert_eq!(
        mistakes(&backends(1023)),
        ["3091:1: more than 1024 `[[service.backend]]`"]
    );

    let full_services = |count: usize| {
        let service = |service: usize| {
            let backend = |n| {
                format!(
                    "[[service.backend]]\nname = \"b{n}\"\naddress = \"10.1.{}.{}\"\n",
                    n / 256,
                    n % 256
                )
            };
            format!(
                "[[service]]\nname = \"s{service}\"\naddress = \"192.168.1.25\"\nport = {}\n{}",
                service + 10_000,
                many(1024, &backend)
            )
        };
        format!("{BASE}{}", many(count, &service))
    };
    valid(&full_services(31));
    assert_eq!(
        mistakes(&full_services(32)),
        ["95381:1: more than 32767 backends of all services, together"]
    );

    assert_eq!(valid(&backends(38)).services[0].ring_size, 4099);
    assert_eq!(valid(&backends(39)).services[0].ring_size, 65_537);

    let sources = |count: usize| {
        let service = |service| {
            let net = |n| format!("\"10.{service}.{}.{}/32\", ", n / 256, n % 256);
            format!(
                "[[service]]\nname = \"s{service}\"\naddress = \"192.168.1.25\"\nport = {}\ndeny_sources = [{}]\n[[service.backend]]\nname = \"b\"\naddress = \"192.168.1.26\"\n",
                service + 10_000,
                many(1024, &net)
            )
        };
        format!("{BASE}{}", many(count, &service))
    };
    valid(&sources(64));
    assert_eq!(
        mistakes(&sources(65)),
        ["537:1: more than 65536 networks of all source lists, together"]
    );

    let small_ring = |count| backends(count).replace("port = 8765", "port = 8765\nring_size = 101");
    valid(&small_ring(99));
    assert_eq!(
        mistakes(&small_ring(100)),
        ["18:13: a ring of 101 has no place for 102 backends"]
    );
}

#[test]
fn five_mistakes_are_five() {
    let text = include_str!("../../../tests/config/five-mistakes.toml");
    let errors = parse(text).unwrap_err();
    let expected = include_str!("../../../tests/config/five-mistakes.txt");
    assert_eq!(format!("{errors}\n"), expected);
    assert_eq!(errors.mistakes().len(), 5);
    assert_eq!(
        errors.lines().collect::<Vec<_>>(),
        [
            "steerd.toml:5:1: unknown key `colour` in [log]",
            "steerd.toml:11:12: `priority` must be an integer from 1 to 255, found the string `110`",
            "steerd.toml:18:11: `timeout` (2s) is above the probe's `interval` (500ms)",
            "steerd.toml:20:1: missing key `port` in [[service]]",
            "steerd.toml:23:11: there is no probe `helth`",
        ]
    );
}

/// What looks like one of the mistakes above, and is none.
#[test]
fn good_files_that_look_bad() {
    let with = |from: &str, to: &str| {
        assert_eq!(BASE.matches(from).count(), 1, "{from}");
        valid(&BASE.replace(from, to))
    };
    let more = |text: &str| valid(&format!("{BASE}{text}"));
    let service = "[[service]]\nname = \"b\"\naddress = \"192.168.1.25\"\n";
    let backend = "[[service.backend]]\nname = \"a\"\naddress = \"192.168.1.26\"\n";

    // The same port for the other protocol, checked over TCP.
    more(&format!(
        "{service}port = 8765\nprotocol = \"udp\"\nprobes = [\"ws\", \"health\"]\n{backend}"
    ));
    // The same server for another service.
    more(&format!("{service}port = 8766\n{backend}"));
    // The same vrid for the other family, and on another interface; the same link-local address on
    // another interface, where the service must say which.
    let router = |name: &str, interface: &str, addresses: &str| {
        format!(
            "[[virtual_router]]\nname = \"{name}\"\ninterface = \"{interface}\"\nvrid = 51\naddresses = [{addresses}]\n"
        )
    };
    let config = more(&format!(
        "{}{}{}port = 1\nvirtual_router = \"v6b\"\n[[service.backend]]\nname = \"a\"\naddress = \"fd00::2\"\n",
        router("v6a", "eth0", "\"fe80::1/64\", \"fd00::1/64\""),
        router("v6b", "eth1", "\"fe80::1/64\""),
        service.replace("192.168.1.25", "fe80::1"),
    ));
    assert_eq!(config.services[1].virtual_router.as_str(), "v6b");
    let interfaces: Vec<&str> = config
        .dataplane
        .interfaces
        .iter()
        .map(|name| name.as_str())
        .collect();
    assert_eq!(
        interfaces,
        ["eth0", "eth1"],
        "each once, in the order of the file"
    );
    more(&router("b", "eth1", "\"10.0.0.0/31\", \"10.0.0.2/32\""));
    // A server on every node itself.
    with("\"192.168.1.26\"", "\"127.0.0.1\"\nmode = \"local\"");
    // A drained backend.
    with("\"192.168.1.26\"", "\"192.168.1.26\"\nweight = 0");
    // A global source, where adverts are unicast; several nodes.
    more(&router("v6", "eth0", "\"fd00::1/64\"").replace(
        "vrid",
        "source = \"fd00::2\"\npeers = [\"fd00::3\", \"fe80::4\"]\nvrid",
    ));
    // A single outer source, which is this host's own; other networks of the same prefix.
    with(
        "[dataplane]",
        "[dataplane]\n[tunnel]\nsource4 = \"10.0.0.1/32\"\nsource6 = \"fd00::1/128\"\nendpoints = [\"10.0.0.1\", \"172.16.0.1\", \"fd00::1\"]",
    );
    // A server of the other family through a tunnel, two servers of one address behind nat.
    let config = with(
        "\"192.168.1.26\"",
        "\"fd00::26\"\nmode = \"tunnel\"\nmtu = 1280",
    );
    assert_eq!(config.services[0].backends[0].mtu, Some(1280));
    let translated = BASE
        .replace(
            "[dataplane]",
            "[dataplane]\n[nat]\naddresses = [\"192.168.1.5\"]",
        )
        .replace(
            "192.168.1.27\"",
            "192.168.1.26\"\nmode = \"nat\"\nport = 80",
        );
    assert_eq!(valid(&translated).services[0].backends[1].port, 80);
    // Everybody but some of those who may not, and a denied network within an allowed one.
    let config = with(
        "port = 8765",
        "port = 8765\nallow_sources = [\"0.0.0.0/0\", \"10.1.0.0/16\"]\ndeny_sources = [\"10.0.0.0/8\"]",
    );
    assert_eq!(config.services[0].policy.sources.allow.len(), 2);
    // The rate is the burst where none is given.
    let config = with("port = 8765", "port = 8765\nsyn_rate = 7");
    let rate = config.services[0].policy.syn_rate.map(|rate| rate.burst);
    assert_eq!(rate, Some(7));
    // All drained for maintenance, with a word of regret.
    let drained = BASE
        .replace("\"192.168.1.26\"", "\"192.168.1.26\"\nweight = 0")
        .replace("\"192.168.1.27\"", "\"192.168.1.27\"\nweight = 0");
    let sorry = "[[service.backend]]\nname = \"sorry\"\naddress = \"192.168.1.28\"\nsorry = true\n";
    valid(&format!("{drained}{sorry}"));
    // Dotted and quoted keys, inline tables.
    with("[node]", "node = { name = \"x\" }");
    with(
        "[probe.health]\ntype = \"http\"",
        "[probe.\"health\"]\n\"type\" = 'http'",
    );
    with(
        "vrid = 51",
        "vrid = 51\nannounce.count = 1\nannounce.repeat_after = \"0s\"",
    );
}

#[test]
fn the_host_name_names_the_node_or_is_refused() {
    assert_eq!(valid(BASE).node.name.as_str(), "host-1");
    for hostname in ["", "a b", "(none)", &"x".repeat(65)] {
        let errors = Config::parse("steerd.toml", BASE, hostname).unwrap_err();
        let message = errors.lines().next().unwrap();
        assert!(message.ends_with("cannot be the node's name"), "{message}");
        let named = BASE.replace("[node]", "[node]\nname = \"n\"");
        Config::parse("steerd.toml", &named, hostname).unwrap();
    }
}
