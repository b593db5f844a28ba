//! For tests that need a network: two hosts, each a network namespace, with a cable (veth) between.
//!
//! [`Lab::run`] makes them on a thread of its own and runs a future there, in host A. A socket belongs
//! to the namespace of the thread that makes it, so [`Lab::on_b`] can make host B's sockets by a visit
//! to its namespace; what it made goes on working after the return. Everything is gone when the
//! thread ends.

use std::{fs::File, io, net::IpAddr, process::Command, rc::Rc, time::Duration};

use ipnet::IpNet;
use nix::sched::{CloneFlags, setns, unshare};
use socket2::{Domain, Socket, Type};
use steerd_core::{
    announce,
    config::{
        Announce, Config, Control, Dataplane, FlowTimeouts, Log, LogFormat, Name, Nat, Node,
        Tunnel, VirtualRouter, Wire, XdpMode,
    },
    event::Event,
};
use tokio::sync::mpsc;

use super::announce::link_address;

/// Host A's interface.
pub(crate) const DEV: &str = "veth0";
/// Host B's interface.
pub(crate) const DEV_B: &str = "veth1";
/// How long a test waits for what must happen.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

/// Two hosts: A has 10.9.0.1/24 and fd09::1/64, B .2 and ::2.
pub(crate) struct Lab {
    a: File,
    b: File,
}

impl Lab {
    /// Runs `test` on host A. Without root it prints why it does not, except in CI, where it fails.
    pub(crate) fn run<F: Future<Output = ()>>(test: impl FnOnce(Rc<Self>) -> F + Send + 'static) {
        if !nix::unistd::geteuid().is_root() {
            assert!(
                std::env::var_os("CI").is_none(),
                "CI must run this test as root"
            );
            eprintln!("SKIPPED: network namespaces need root");
            return;
        }
        let thread = std::thread::spawn(|| {
            let lab = Rc::new(Self::new());
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime
                .unwrap()
                .block_on(async { test(Rc::clone(&lab)).await });
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    }

    fn new() -> Self {
        let namespace = || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            ip("link set lo up");
            File::open("/proc/thread-self/ns/net").unwrap()
        };
        let b = namespace();
        let a = namespace();
        let lab = Self { a, b };
        let b_path = format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            std::os::fd::AsRawFd::as_raw_fd(&lab.b)
        );
        ip(&format!("link add {DEV} type veth peer name {DEV_B}"));
        ip(&format!("link set {DEV_B} netns {b_path}"));
        lab.on_b(|| configure(DEV_B, 2));
        configure(DEV, 1);
        // The kernel lets packets through a little after it lets carrier be seen.
        wait_until_up(DEV);
        lab.on_b(|| wait_until_up(DEV_B));
        lab
    }

    /// Runs `visit` on host B.
    pub(crate) fn on_b<T>(&self, visit: impl FnOnce() -> T) -> T {
        setns(&self.b, CloneFlags::CLONE_NEWNET).unwrap();
        let result = visit();
        setns(&self.a, CloneFlags::CLONE_NEWNET).unwrap();
        result
    }

    /// Whether anybody answers host B's question who has `address`, asked six times in 300 ms.
    pub(crate) fn is_answered_for(&self, address: IpAddr) -> bool {
        let (own, socket) = self.on_b(|| {
            let everything = i32::from((libc::ETH_P_ALL as u16).to_be());
            let socket = Socket::new(Domain::PACKET, Type::RAW, Some(everything.into())).unwrap();
            let index = nix::net::if_::if_nametoindex(DEV_B).unwrap();
            socket
                .bind(&link_address(index, libc::ETH_P_ALL as u16))
                .unwrap();
            (mac_of(DEV_B), socket)
        });
        socket
            .set_read_timeout(Some(Duration::from_millis(10)))
            .unwrap();
        for _ in 0..6 {
            socket.send(&announce::probe(own, address)).unwrap();
            let asked = std::time::Instant::now();
            while asked.elapsed() < Duration::from_millis(50) {
                let mut frame = [0; 1600];
                let length = io::Read::read(&mut &socket, &mut frame).unwrap_or(0);
                let claim = announce::parse_claim(&frame[..length]);
                if claim.is_some_and(|claim| claim.address == address && claim.mac != own) {
                    return true;
                }
            }
        }
        false
    }
}

fn configure(device: &str, host: u8) {
    ip(&format!("address add 10.9.0.{host}/24 dev {device}"));
    ip(&format!("address add fd09::{host}/64 dev {device} nodad"));
    // Without duplicate address detection of the link-local address, there is nothing to wait for.
    std::fs::write(format!("/proc/sys/net/ipv6/conf/{device}/accept_dad"), "0").unwrap();
    ip(&format!("link set {device} up"));
}

/// Waits until the device can carry packets, and from its link-local address too.
pub(crate) fn wait_until_up(device: &str) {
    let start = std::time::Instant::now();
    let is_up = || {
        let addresses = ip(&format!("address show dev {device}"));
        addresses.contains("state UP")
            && addresses.contains("scope link")
            && !addresses.contains("tentative")
    };
    while !is_up() {
        assert!(start.elapsed() < DEADLINE, "{device} does not come up");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Runs `ip` with these arguments where the thread is, and gives what it printed.
pub(crate) fn ip(arguments: &str) -> String {
    let output = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// A MAC as `ip` prints it.
pub(crate) fn mac_of(device: &str) -> [u8; 6] {
    let json = ip(&format!("-o link show dev {device}"));
    let text = json
        .split("link/ether ")
        .nth(1)
        .unwrap()
        .split(' ')
        .next()
        .unwrap();
    let bytes: Vec<u8> = text
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16).unwrap())
        .collect();
    bytes.try_into().unwrap()
}

/// The first event that `wanted` makes something of, others passed over.
pub(crate) async fn wait_for<T>(
    events: &mut mpsc::Receiver<Event>,
    mut wanted: impl FnMut(&Event) -> Option<T>,
) -> T {
    let mut seen = Vec::new();
    let search = async {
        loop {
            let event = events.recv().await.expect("the sender is gone");
            if let Some(found) = wanted(&event) {
                return found;
            }
            seen.push(event);
        }
    };
    match tokio::time::timeout(DEADLINE, search).await {
        Ok(found) => found,
        Err(_) => panic!("no such event within {DEADLINE:?}, only {seen:#?}"),
    }
}

/// A configuration with one virtual router, `vip`.
pub(crate) fn config(device: &str, addresses: &[&str], peers: &[&str]) -> Config {
    Config {
        node: Node {
            name: Name::new("a"),
            state_dir: "/nonexistent".into(),
        },
        control: Control {
            socket: "/nonexistent".into(),
            viewer_group: None,
            admin_group: None,
        },
        log: Log {
            level: "info".into(),
            format: LogFormat::Text,
        },
        dataplane: Dataplane {
            interfaces: vec![Name::new(device)],
            xdp_mode: XdpMode::Auto,
            bpf_dir: "/nonexistent".into(),
        },
        flows: FlowTimeouts::default(),
        tunnel: Tunnel::default(),
        nat: Nat::default(),
        virtual_routers: vec![VirtualRouter {
            name: Name::new("vip"),
            interface: Name::new(device),
            vrid: 51,
            priority: 110,
            advert_interval: Duration::from_secs(1),
            preempt: true,
            addresses: addresses
                .iter()
                .map(|net| net.parse::<IpNet>().unwrap())
                .collect(),
            peers: peers
                .iter()
                .map(|peer| peer.parse::<IpAddr>().unwrap())
                .collect(),
            source: None,
            announce: Announce {
                count: 5,
                interval: Duration::from_millis(1),
                repeat_after: Duration::ZERO,
                refresh: Duration::ZERO,
            },
            preempt_delay: Duration::ZERO,
            fence_after: Duration::ZERO,
            wire: Wire::default(),
            track: Vec::new(),
        }],
        services: Vec::new(),
        sync_groups: Vec::new(),
        tracks: Vec::new(),
        channel: None,
    }
}
