//! What a plan tells, for each field of the configuration.
#![allow(clippy::expect_used, clippy::unwrap_used)] // tests may panic

#[expect(dead_code, reason = "shared with other tests")]
mod support;

use steerd_core::{
    config::{
        Affinity, Authentication, Channel, ChannelPeer, Config, Encapsulation, FileCheck,
        HttpProbe, LogFormat, Mode, Pace, Password, ProbeKind, Protocol, Scheduler, SynRate,
        SyncGroup, Track, TrackKind, Version, Wire, XdpMode,
    },
    plan::{Plan, Step},
};
use support::{backend, config, host, ip, ms, name, probe, router, service};

fn base() -> Config {
    let backends = vec![backend("b0", host(0), 0), backend("b1", host(1), 1)];
    config(vec![router(100)], vec![service(backends)])
}

fn changes(change: impl FnOnce(&mut Config)) -> Vec<String> {
    let mut new = base();
    change(&mut new);
    Plan::between(&base(), &new).changes()
}

#[test]
fn nothing_changes_nothing() {
    assert_eq!(changes(|_| {}), [""; 0]);
}

#[test]
fn sections_of_the_daemon_need_a_restart() {
    let lines = changes(|new| {
        new.node.state_dir = "/var/lib/steerd".into();
        new.control.admin_group = Some("wheel".to_owned());
        new.log.format = LogFormat::Json;
        new.log.level = "debug".to_owned();
        new.dataplane.xdp_mode = XdpMode::Generic;
        new.dataplane.interfaces.push(name("eth1"));
    });
    assert_eq!(
        lines,
        [
            r#"needs a restart: node: state_dir "/run/steerd" -> "/var/lib/steerd""#,
            "needs a restart: control: admin_group none -> wheel",
            "needs a restart: log: level info -> debug, format text -> json",
            "needs a restart: dataplane: interfaces [eth0] -> [eth0, eth1], \
             xdp_mode auto -> generic",
        ]
    );
}

#[test]
fn the_channel_is_a_section_of_its_own() {
    let lines = changes(|new| {
        new.channel = Some(Channel {
            listen: (host(0), 7112).into(),
            ca_file: "/ca.pem".into(),
            cert_file: "/a.pem".into(),
            key_file: "/a.key".into(),
            peers: vec![ChannelPeer {
                name: name("b"),
                address: (host(1), 7112).into(),
            }],
        });
    });
    assert_eq!(
        lines,
        [
            "channel: listen none -> 192.168.1.26:7112, ca_file none -> /ca.pem, \
             cert_file none -> /a.pem, key_file none -> /a.key, \
             peer [] -> [b at 192.168.1.27:7112]"
        ]
    );
}

#[test]
fn each_field_of_a_router_is_told() {
    let lines = changes(|new| {
        let router = &mut new.virtual_routers[0];
        router.priority = 110;
        router.advert_interval = ms(1000);
        router.preempt = false;
        router.addresses.push("192.168.1.24/24".parse().unwrap());
        router.peers = vec![host(1)];
        router.source = Some(host(0));
        router.announce.count = 5;
        router.announce.refresh = ms(60_000);
        router.preempt_delay = ms(2000);
        router.fence_after = ms(2000);
        router.track = vec![name("gateway")];
    });
    assert_eq!(
        lines,
        [
            "virtual router main: priority 100 -> 110, advert_interval 100ms -> 1s, \
          preempt true -> false, addresses [192.168.1.25/24] -> [192.168.1.25/24, \
          192.168.1.24/24], peers [] -> [192.168.1.27], source none -> 192.168.1.26, \
          announce 2 every 50ms, again after 1s -> 5 every 50ms, again after 1s, \
          announce.refresh 0ns -> 60s, preempt_delay 0ns -> 2s, fence_after 0ns -> 2s, \
          track [] -> [gateway]"
        ]
    );
}

#[test]
fn tracks_are_told_one_by_one() {
    let track = |text: &str, kind| Track {
        name: name(text),
        kind,
        weight: None,
        pace: Pace::default(),
    };
    let gateway = |last| TrackKind::Gateway {
        address: ip(&format!("192.168.1.{last}")),
        interface: None,
    };
    let file = |path: &str, check| TrackKind::File {
        path: path.into(),
        check,
    };
    let plan = |old: &[Track], new: &[Track]| {
        let with = |tracks: &[Track]| Config {
            tracks: tracks.to_vec(),
            ..base()
        };
        Plan::between(&with(old), &with(new)).changes()
    };
    let mut other = track("a", gateway(254));
    other.weight = Some(-20);
    other.pace.fall = 5;
    other.pace.interval = ms(500);
    assert_eq!(
        plan(
            &[track("a", gateway(1)), track("b", gateway(2))],
            &[other, track("c", gateway(3))]
        ),
        [
            "track b removed",
            "track a: address 192.168.1.1 -> 192.168.1.254, weight none -> -20, interval 1s -> 500ms, \
             fall 3 -> 5",
            "track c added",
        ]
    );
    assert_eq!(
        plan(
            &[
                track("a", gateway(1)),
                track("b", file("/x", FileCheck::Exists))
            ],
            &[
                track("a", file("/x", FileCheck::Exists)),
                track("b", file("/y", FileCheck::Number)),
            ]
        ),
        [
            "track a: kind gateway -> file",
            r#"track b: path "/x" -> "/y", expect exists -> number"#,
        ]
    );
}

#[test]
fn another_interface_vrid_or_family_is_another_router() {
    let replaced = |change: fn(&mut Config)| {
        let mut new = base();
        change(&mut new);
        let plan = Plan::between(&base(), &new);
        matches!(plan.steps(), [Step::RouterReplaced { .. }])
    };
    assert!(replaced(
        |new| new.virtual_routers[0].interface = name("eth1")
    ));
    assert!(replaced(|new| new.virtual_routers[0].vrid = 52));
    let v6 = |new: &mut Config| {
        new.virtual_routers[0].addresses = vec!["fd00::25/64".parse().unwrap()];
    };
    assert!(replaced(v6));
    assert!(!replaced(|new| new.virtual_routers[0].priority = 9));
    let lines = changes(|new| new.virtual_routers[0].vrid = 52);
    assert_eq!(
        lines,
        ["virtual router main ends and begins anew: vrid 51 -> 52"]
    );
}

#[test]
fn services_backends_and_probes_are_told_one_by_one() {
    let lines = changes(|new| {
        let service = &mut new.services[0];
        service.port = 9000;
        service.protocol = Protocol::Udp;
        service.ring_size = 251;
        service.probes[0].fall = 5;
        service.probes[0].interval = ms(5000);
        service.probes.push(steerd_core::config::Probe {
            name: name("second"),
            ..probe()
        });
        service.backends.remove(0);
        service.backends[0].weight = 0;
        service.backends[0].mode = Mode::Dsr;
        service.backends.push(backend("b2", ip("192.168.1.40"), 0));
        let mut other = service.clone();
        other.name = name("other");
        new.services.push(other);
        let mut second = new.virtual_routers[0].clone();
        second.name = name("second");
        new.virtual_routers.push(second);
    });
    assert_eq!(
        lines,
        [
            "virtual router second added",
            "service game: port 8765 -> 9000, protocol tcp -> udp, ring_size 31 -> 251",
            "service game: probe tcp: interval 1s -> 5s, fall 2 -> 5",
            "service game: probe second added",
            "service game: backend b0 removed",
            "service game: backend b1: weight 1 -> 0, mode auto -> dsr",
            "service game: backend b2 added",
            "service other added",
        ]
    );
    let lines = changes(|new| {
        new.services.clear();
        new.virtual_routers.clear();
    });
    assert_eq!(
        lines,
        ["virtual router main removed", "service game removed"]
    );
}

#[test]
fn modes_are_told_and_need_no_restart() {
    let lines = changes(|new| {
        new.flows.tcp_established = ms(900_000);
        new.flows.udp_established = ms(300_000);
        new.tunnel.source4 = "10.9.0.0/16".parse().unwrap();
        new.tunnel.gue_port = 6081;
        new.tunnel.endpoints = vec![host(0)];
        new.nat.addresses = vec![host(0)];
        new.nat.ports.low = 32_768;
        new.nat.timeouts.udp_new = ms(10_000);
        let backend = &mut new.services[0].backends[1];
        backend.mode = Mode::Tunnel;
        backend.encapsulation = Encapsulation::Gue;
        backend.mtu = Some(1400);
        backend.sorry = true;
        backend.quic_server_id = Some(7);
    });
    assert_eq!(
        lines,
        [
            "flows: tcp_established 7440s -> 900s, udp_established 180s -> 300s",
            "tunnel: source4 172.16.0.0/16 -> 10.9.0.0/16, gue_port 6080 -> 6081, \
             endpoints [] -> [192.168.1.26]",
            "nat: addresses [] -> [192.168.1.26], ports 1024-65535 -> 32768-65535, \
             udp_new 30s -> 10s",
            "service game: backend b1: sorry false -> true, mode auto -> tunnel, \
             encapsulation ipip -> gue, mtu none -> 1400, quic_server_id none -> 7",
        ]
    );
}

#[test]
fn each_field_of_a_policy_is_told() {
    let net = |text: &str| text.parse().unwrap();
    let many = |from: u8| (from..from + 20).map(move |n| net(&format!("10.{n}.0.0/16")));
    let mut old = base();
    old.services[0].policy.sources.deny = many(0).collect();
    let mut new = old.clone();
    let service = &mut new.services[0];
    service.slow_start = ms(30_000);
    service.panic_threshold = 50;
    service.policy.scheduler = Scheduler::LeastConnections;
    service.policy.affinity = Affinity::Source {
        prefix4: 24,
        prefix6: 64,
    };
    service.policy.mss = Some(1400);
    service.policy.syn_rate = Some(SynRate {
        per_second: 10,
        burst: 20,
    });
    service.policy.sources.allow = vec![net("10.0.0.0/8")];
    service.policy.sources.deny = many(5).collect();
    service.policy.quic = true;
    assert_eq!(
        Plan::between(&old, &new).changes(),
        [
            "service game: slow_start 0ns -> 30s, panic_threshold 0 -> 50, \
          scheduler maglev -> least-connections, affinity 5-tuple -> source-prefix /24 /64, \
          mss none -> 1400, syn_rate none -> 10/s, burst 20, allow_sources [] -> [10.0.0.0/8], \
          deny_sources 5 added, 5 removed, quic false -> true"
        ]
    );
}

#[test]
fn a_password_is_not_told() {
    let wire = |password: &str| Wire {
        version: Version::V2,
        authentication: Authentication::Pass(Password::new(password).unwrap()),
        ttl: 99,
        ..Wire::default()
    };
    let lines = changes(|new| new.virtual_routers[0].wire = wire("s3cret12"));
    assert_eq!(
        lines,
        ["virtual router main: version 3 -> 2, authentication none -> pass, ttl 255 -> 99"]
    );
    let (mut old, mut new) = (base(), base());
    old.virtual_routers[0].wire = wire("s3cret12");
    new.virtual_routers[0].wire = wire("other");
    let lines = Plan::between(&old, &new).changes();
    assert_eq!(lines, ["virtual router main: password changed"]);
}

#[test]
fn what_a_probe_asks_is_told_by_field() {
    let http = |path: &str| {
        ProbeKind::Http(HttpProbe {
            tls: None,
            method: "GET".to_owned(),
            path: path.to_owned(),
            host: None,
            status: vec![(200, 299)],
            body_contains: None,
        })
    };
    let lines = changes(|new| new.services[0].probes[0].kind = http("/"));
    assert_eq!(lines, ["service game: probe tcp: kind tcp -> http"]);
    let (mut old, mut new) = (base(), base());
    old.services[0].probes[0].kind = http("/");
    new.services[0].probes[0].kind = http("/health");
    let lines = Plan::between(&old, &new).changes();
    assert_eq!(lines, ["service game: probe tcp: path / -> /health"]);
}

#[test]
fn sync_groups_are_told_by_their_members() {
    let group = |of: &str, routers: &[&str]| SyncGroup {
        name: name(of),
        virtual_routers: routers.iter().map(|router| name(router)).collect(),
    };
    let mut old = base();
    old.sync_groups = vec![group("a", &["x", "y"]), group("b", &["z", "w"])];
    let mut new = base();
    new.sync_groups = vec![group("a", &["x", "y", "z"]), group("c", &["v", "w"])];
    assert_eq!(
        Plan::between(&old, &new).changes(),
        ["sync groups: b removed, a [x, y] -> [x, y, z], c added"]
    );
}
