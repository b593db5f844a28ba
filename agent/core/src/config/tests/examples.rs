//! The example files against the deployment they are for, the code's defaults and the reference.

use std::{net::IpAddr, ops::Range, time::Duration};

use super::{
    super::{
        Encapsulation, HttpProbe, Mode, ProbeKind, Protocol, Scheduler, WebSocketProbe, XdpMode,
    },
    *,
};

#[test]
fn steerd_toml_is_the_deployment() {
    let config = valid(STEERD);
    assert_eq!(config.node.name.as_str(), "primary");
    assert_eq!(config.dataplane.interfaces.len(), 1);
    assert_eq!(config.dataplane.interfaces[0].as_str(), "eth0");
    assert_eq!(config.dataplane.xdp_mode, XdpMode::Auto);

    let [router] = config.virtual_routers.as_slice() else {
        panic!("one virtual router")
    };
    assert_eq!(
        (router.vrid, router.priority, router.preempt),
        (51, 110, true)
    );
    assert_eq!(router.advert_interval, Duration::from_secs(1));
    assert_eq!(router.addresses, ["192.168.1.25/24".parse().unwrap()]);

    let [service] = config.services.as_slice() else {
        panic!("one service")
    };
    assert_eq!((service.port, service.protocol), (8765, Protocol::Tcp));
    assert_eq!(service.virtual_router, router.name);
    let backends: Vec<_> = service
        .backends
        .iter()
        .map(|b| (b.name.as_str(), b.tier, b.mode))
        .collect();
    assert_eq!(
        backends,
        [("primary", 1, Mode::Auto), ("backup", 2, Mode::Auto)]
    );

    let [health, websocket] = service.probes.as_slice() else {
        panic!("two probes")
    };
    for probe in [health, websocket] {
        assert_eq!((probe.interval, probe.fall), (Duration::from_secs(5), 3));
    }
    assert_eq!(
        health.kind,
        ProbeKind::Http(HttpProbe {
            tls: None,
            method: "GET".to_owned(),
            path: "/health".to_owned(),
            host: None,
            status: vec![(200, 399)],
            body_contains: None,
        })
    );
    let expected = WebSocketProbe {
        tls: None,
        path: "/".to_owned(),
        host: None,
    };
    assert_eq!(websocket.kind, ProbeKind::WebSocket(expected));
}

#[test]
fn backup_differs_in_name_and_priority_only() {
    let mut backup = valid(BACKUP);
    assert_eq!(backup.node.name.as_str(), "backup");
    assert_eq!(backup.virtual_routers[0].priority, 100);
    let primary = valid(STEERD);
    backup.node.name = primary.node.name.clone();
    backup.virtual_routers[0].priority = primary.virtual_routers[0].priority;
    assert_eq!(backup, primary);
}

#[test]
fn fast_is_steerd_toml_with_its_fast_lines() {
    let mut swapped: Vec<String> = STEERD.lines().map(str::to_owned).collect();
    let mut swaps = 0;
    for at in 0..swapped.len() {
        let Some((key, value)) = left_out(&swapped[at].clone()) else {
            continue;
        };
        // The alternative stands at most one comment below the line that it replaces.
        let near = (at.saturating_sub(2)..at).rev();
        let alternative = near
            .into_iter()
            .find(|&above| key_of(&swapped[above]) == Some(key.clone()));
        if let Some(above) = alternative {
            swapped[above] = format!("{key} = {value}");
            swaps += 1;
        }
    }
    assert_eq!(
        swaps, 9,
        "the advert interval, and four keys of each of two probes"
    );
    assert_eq!(valid(&swapped.join("\n")), valid(FAST));
    for probe in &valid(FAST).services[0].probes {
        assert_eq!(probe.interval, Duration::from_millis(100));
        assert_eq!(probe.fast_interval, Duration::from_millis(50));
        assert_eq!(probe.timeout, Duration::from_millis(100));
        assert_eq!((probe.rise, probe.fall), (2, 2));
    }
    assert_eq!(
        valid(FAST).virtual_routers[0].advert_interval,
        Duration::from_millis(100)
    );
}

#[test]
fn dual_stack_serves_both_families() {
    let config = valid(DUAL_STACK);
    let families: Vec<_> = config.virtual_routers.iter().map(|r| r.is_ipv6()).collect();
    assert_eq!(families, [false, true]);
    let names = config.virtual_routers.iter().map(|r| r.name.clone());
    assert_eq!(
        config.sync_groups[0].virtual_routers,
        names.collect::<Vec<_>>()
    );
    let services: Vec<_> = config
        .services
        .iter()
        .map(|s| (s.address.is_ipv6(), s.virtual_router.as_str()))
        .collect();
    assert_eq!(services, [(false, "game-v4"), (true, "game-v6")]);
}

/// A node may unwrap for others and do nothing else; but it has to say where.
#[test]
fn a_backend_that_only_unwraps() {
    let config = valid(TUNNEL_BACKEND);
    assert!(config.virtual_routers.is_empty() && config.services.is_empty());
    assert_eq!(
        config.dataplane.interfaces,
        ["eth0"].map(super::super::Name::new)
    );
    assert_eq!(config.tunnel.endpoints, [IpAddr::from([10, 2, 0, 13])]);
    let nodes = valid(TUNNEL).tunnel;
    assert_eq!(config.tunnel.source4, nodes.source4, "as the nodes wrap");
    assert_eq!(config.tunnel.source6, nodes.source6);
    let nowhere = TUNNEL_BACKEND.replace("interfaces = [\"eth0\"]", "");
    let found = mistakes(&nowhere);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("no interface"), "{found:?}");
}

#[test]
fn tunnel_reaches_other_networks() {
    let config = valid(TUNNEL);
    assert_eq!(config.tunnel.endpoints, [IpAddr::from([10, 1, 0, 11])]);
    let [service] = config.services.as_slice() else {
        panic!("one service")
    };
    assert_eq!(service.policy.scheduler, Scheduler::LeastConnections);
    let tunnels: Vec<_> = service
        .backends
        .iter()
        .filter(|backend| backend.mode == Mode::Tunnel)
        .map(|backend| (backend.encapsulation, backend.mtu))
        .collect();
    let ipip = (Encapsulation::Ipip, None);
    assert_eq!(
        tunnels,
        [ipip, ipip, ipip, (Encapsulation::Gue, Some(1400))]
    );
    let sorry = service.backends.last().map(|backend| backend.sorry);
    assert_eq!(sorry, Some(true));
    // What the widest segment becomes on the narrowest way.
    let advice = TUNNEL.split_once("advmss ").map(|(_, rest)| &rest[..4]);
    let mss: Option<u16> = advice.and_then(|mss| mss.parse().ok());
    assert_eq!(mss.map(|mss| mss + 40 + 28), Some(1400));
    assert_eq!(service.policy.mss, None, "it limits what servers send");
}

#[test]
fn nat_translates_ports() {
    let config = valid(NAT);
    assert_eq!(config.nat.addresses, [IpAddr::from([192, 168, 1, 28])]);
    assert_eq!(config.nat.ports.to_string(), "1024-65535");
    let [service] = config.services.as_slice() else {
        panic!("one service")
    };
    let ports: Vec<_> = service
        .backends
        .iter()
        .map(|backend| (backend.mode, backend.port))
        .collect();
    assert_eq!(
        ports,
        [(Mode::Nat, 8080), (Mode::Nat, 8080), (Mode::Nat, 8081)]
    );
}

#[test]
fn every_key_is_shown_in_steerd_toml() {
    let mut table = String::new();
    let mut shown = BTreeSet::new();
    for line in STEERD.lines() {
        let line = line.strip_prefix('#').unwrap_or(line);
        if line.starts_with('[') {
            table = canonical(line);
        } else if let Some(key) = key_of(line) {
            shown.insert((table.clone(), key));
        }
    }
    for schema in SCHEMAS.iter().filter(|schema| !is_inline(schema)) {
        // Tables are no keys of their own.
        for key in schema
            .keys
            .iter()
            .filter(|key| schema.table != FILE.table && **key != "backend")
        {
            assert!(
                shown.contains(&(schema.table.to_owned(), (*key).to_owned())),
                "{key} of {}",
                schema.table
            );
        }
    }
}

/// What is left out can be put in as it stands: each line alone, and each block as a whole.
#[test]
fn keys_left_out_are_valid() {
    let lines: Vec<&str> = STEERD.lines().collect();
    let blocks = blocks(&lines);
    let mut tried = 0;
    for (at, line) in lines.iter().enumerate() {
        let Some((key, value)) = left_out(line) else {
            continue;
        };
        let near = at.saturating_sub(2)..at;
        if near
            .into_iter()
            .any(|above| key_of(lines[above]) == Some(key.clone()))
        {
            continue; // fast settings: tested above
        }
        if blocks.iter().any(|block| block.contains(&at)) {
            continue; // tested below
        }
        let mut changed: Vec<String> = lines.iter().map(|&line| line.to_owned()).collect();
        changed[at] = format!("{key} = {value}");
        valid(&changed.join("\n"));
        tried += 1;
    }
    assert_eq!(tried, 15);

    let what = "another virtual router, the TLS probe, tracks, voice, the game over IPv6 in a group, the channel";
    assert_eq!(blocks.len(), 6, "{what}");
    for block in blocks {
        let mut changed: Vec<String> = lines.iter().map(|&line| line.to_owned()).collect();
        for line in &mut changed[block] {
            if let Some((key, value)) = left_out(line) {
                *line = format!("{key} = {value}");
            } else if line.starts_with("#[") {
                line.remove(0);
            }
        }
        let text = changed.join("\n");
        // A probe that no service names is not looked at as closely.
        let probed = text.replace("\"game-websocket\"]", "\"game-websocket\", \"game-https\"]");
        valid(if text.contains("\n[probe.game-https]") {
            &probed
        } else {
            &text
        });
    }
}

/// The lines of each block that is left out: from a header to the next empty line.
fn blocks(lines: &[&str]) -> Vec<Range<usize>> {
    let mut blocks: Vec<Range<usize>> = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let known = blocks.last().is_some_and(|block| block.contains(&at));
        if line.starts_with("#[") && !known {
            let rest = lines[at..].iter();
            let length = rest.take_while(|line| !line.is_empty()).count();
            blocks.push(at..at + length);
        }
    }
    blocks
}

/// Where a comment tells a default, a file without the key says the same as one with it.
#[test]
fn defaults_are_what_the_comments_say() {
    let lines: Vec<&str> = STEERD.lines().collect();
    let mut table = String::new();
    let mut default = None;
    let mut checked = 0;
    for (at, line) in lines.iter().enumerate() {
        if let Some(told) = line.strip_prefix("# Default: ") {
            default = Some(told.split(" (").next().unwrap());
            continue;
        }
        let bare = line.strip_prefix('#').unwrap_or(line);
        if bare.starts_with('[') {
            table = canonical(bare);
        }
        let (Some(key), Some(value)) = (key_of(bare), default) else {
            continue;
        };
        default = None;
        checked += 1;
        let reference = reference_default(&table, &key);
        let dependent = key == "port" && table == "[[service.backend]]";
        if !dependent {
            assert_eq!(
                reference.as_deref(),
                Some(value),
                "`{key}` of {table} in the reference"
            );
        }
        if line.starts_with('#') {
            continue; // not in the file at all; the reference's row is the check
        }
        let with = |line: &str| {
            let mut changed = lines.clone();
            changed[at] = line;
            parse(&changed.join("\n"))
        };
        let without = with("").unwrap_or_else(|errors| panic!("without {key}:\n{errors}"));
        assert_eq!(
            with(&format!("{key} = {value}")),
            Ok(without),
            "`{key}` of {table}"
        );
    }
    assert_eq!(checked, 69);
}

/// A key and its value where the line is one that was left out (`#key = value`).
fn left_out(line: &str) -> Option<(String, String)> {
    let line = line.strip_prefix('#')?;
    Some((key_of(line)?, line.split_once(" = ")?.1.to_owned()))
}

fn key_of(line: &str) -> Option<String> {
    let (key, _) = line.split_once(" = ")?;
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    (!key.is_empty() && key.bytes().all(fits)).then(|| key.to_owned())
}

fn canonical(header: &str) -> String {
    if header.starts_with("[probe.") {
        "[probe.NAME]".to_owned()
    } else if header.starts_with("[track.") {
        "[track.NAME]".to_owned()
    } else {
        header.to_owned()
    }
}

/// The first code span of the default column of a key's row.
fn reference_default(table: &str, key: &str) -> Option<String> {
    let row = section(table)
        .lines()
        .find(|line| line.starts_with(&format!("| `{key}` |")))?;
    row.split(" | ")
        .nth(2)?
        .split('`')
        .nth(1)
        .map(str::to_owned)
}
