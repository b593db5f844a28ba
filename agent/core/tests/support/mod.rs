//! What the tests of a whole node share: configurations by hand, names, and time.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use steerd_core::{
    action::{Action, Steering},
    config::{
        Announce, Backend, Config, Control, Dataplane, Encapsulation, FlowTimeouts, Log, LogFormat,
        Mode, Name, Nat, Policy, Probe, ProbeKind, Protocol, Service, Tunnel, VirtualRouter, Wire,
        XdpMode,
    },
    event::BackendKey,
    node::Node,
    time::Instant,
};

pub(crate) fn name(text: &str) -> Name {
    Name::new(text)
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub(crate) fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

pub(crate) fn at(milliseconds: u64) -> Instant {
    Instant::from_origin(ms(milliseconds))
}

pub(crate) fn key(service: &str, backend: &str) -> BackendKey {
    BackendKey {
        service: name(service),
        backend: name(backend),
    }
}

/// The virtual address of [`router`] and [`service`].
pub(crate) fn vip() -> IpAddr {
    ip("192.168.1.25")
}

/// A node of the cluster's segment: 192.168.1.26 is the first.
pub(crate) fn host(index: usize) -> IpAddr {
    IpAddr::from([192, 168, 1, 26 + u8::try_from(index).expect("a few hosts")])
}

pub(crate) fn own(addresses: &[IpAddr]) -> BTreeSet<IpAddr> {
    addresses.iter().copied().collect()
}

/// Whoever keeps flows can be sent their packets.
pub(crate) fn assert_deliverable(steering: &Steering) {
    for backend in &steering.backends {
        assert!(
            backend.way.is_open() || !backend.alive,
            "alive, but without a next hop: {backend:?}"
        );
    }
}

/// Everything there is to do.
pub(crate) fn drain(node: &mut Node) -> Vec<Action> {
    std::iter::from_fn(|| node.poll_action()).collect()
}

pub(crate) fn config(routers: Vec<VirtualRouter>, services: Vec<Service>) -> Config {
    Config {
        node: steerd_core::config::Node {
            name: name("a"),
            state_dir: "/run/steerd".into(),
        },
        control: Control {
            socket: "/run/steerd/control.sock".into(),
            viewer_group: None,
            admin_group: None,
        },
        log: Log {
            level: "info".into(),
            format: LogFormat::Text,
        },
        dataplane: Dataplane {
            interfaces: vec![name("eth0")],
            xdp_mode: XdpMode::Auto,
            bpf_dir: "/sys/fs/bpf/steerd".into(),
        },
        flows: FlowTimeouts::default(),
        tunnel: Tunnel::default(),
        nat: Nat::default(),
        virtual_routers: routers,
        services,
        sync_groups: Vec::new(),
        tracks: Vec::new(),
        channel: None,
    }
}

pub(crate) fn router(priority: u8) -> VirtualRouter {
    VirtualRouter {
        name: name("main"),
        interface: name("eth0"),
        vrid: 51,
        priority,
        advert_interval: ms(100),
        preempt: true,
        addresses: vec!["192.168.1.25/24".parse().expect("a network")],
        peers: Vec::new(),
        source: None,
        announce: Announce {
            count: 2,
            interval: ms(50),
            repeat_after: ms(1000),
            refresh: Duration::ZERO,
        },
        preempt_delay: Duration::ZERO,
        fence_after: Duration::ZERO,
        wire: Wire::default(),
        track: Vec::new(),
    }
}

pub(crate) fn service(backends: Vec<Backend>) -> Service {
    Service {
        name: name("game"),
        virtual_router: name("main"),
        address: vip(),
        port: 8765,
        protocol: Protocol::Tcp,
        min_healthy: 1,
        ring_size: 31,
        policy: Policy::default(),
        slow_start: Duration::ZERO,
        panic_threshold: 0,
        probes: vec![probe()],
        backends,
    }
}

pub(crate) fn probe() -> Probe {
    Probe {
        name: name("tcp"),
        kind: ProbeKind::Tcp,
        port: None,
        interval: ms(1000),
        fast_interval: ms(200),
        timeout: ms(150),
        rise: 1,
        fall: 2,
        jitter: 0.1,
    }
}

pub(crate) fn backend(text: &str, address: IpAddr, tier: u8) -> Backend {
    Backend {
        name: name(text),
        address,
        port: 8765,
        weight: 1,
        tier,
        mode: Mode::Auto,
        encapsulation: Encapsulation::Ipip,
        mtu: None,
        sorry: false,
        quic_server_id: None,
    }
}
