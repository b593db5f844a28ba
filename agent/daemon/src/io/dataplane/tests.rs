//! What is steered, as it lies in the kernel's maps: the built object, loaded in a bpffs and a network
//! namespace of the test's own.

use std::{net::IpAddr, path::Path};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use steerd_core::{
    action::{Affinity, Policy, Scheduler, Sources, SteeredBackend, Steering, SynRate, Way},
    config::{Encapsulation, FlowTimeouts, Nat, Protocol, Tunnel},
    event::NextHop,
};
use steerd_ebpf::abi::{self, Backend, BackendState, Role, Service, mac_word};

use super::{placement::Region, *};

mod fence;
mod flows;
mod host;
mod pins;

const VIP: &str = "10.9.0.100";
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

/// Runs `test` where a bpffs is at the given directory and the only interfaces are `lo` and its own.
/// Without root it says so, except in CI, where it fails.
fn with_bpffs(test: impl FnOnce(&Path) + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        assert!(
            std::env::var_os("CI").is_none(),
            "CI must run this test as root"
        );
        eprintln!("SKIPPED: maps need root");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    let run = move || {
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).unwrap();
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        mount(none, &path, Some("bpf"), MsFlags::empty(), none).unwrap();
        test(&path);
    };
    if let Err(panic) = std::thread::spawn(run).join() {
        std::panic::resume_unwind(panic);
    }
}

/// The data plane of a daemon, as it begins.
fn plane(bpffs: &Path) -> Dataplane {
    plane_with(bpffs, &Nat::default())
}

/// The same with this translation.
fn plane_with(bpffs: &Path, nat: &Nat) -> Dataplane {
    let config = Config {
        interfaces: vec![Name::new("lo")],
        xdp_mode: XdpMode::Auto,
        bpf_dir: bpffs.join("steerd"),
    };
    let mut plane = Dataplane::open(&config).unwrap();
    // As if the program were attached: the pins stay for the next one.
    plane.keep = true;
    plane.set_flow_idle(&FlowTimeouts::default());
    plane.configure(&Tunnel::default(), nat).unwrap();
    plane
}

fn at(ms: u64) -> Instant {
    Instant::from_origin(Duration::from_millis(ms))
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn hop(mtu: u16) -> NextHop {
    NextHop {
        ifindex: 1,
        mac: MAC,
        vlan: 0,
        mtu,
        gateway: false,
    }
}

fn backend(last: u8, way: Way) -> SteeredBackend {
    SteeredBackend {
        name: Name::new(&format!("b{last}")),
        address: [10, 9, 0, last].into(),
        port: 8765,
        weight: 100,
        alive: true,
        quic_server_id: None,
        way,
    }
}

/// The service `game`, with a ring of each backend once.
fn steering(backends: Vec<SteeredBackend>) -> Steering {
    Steering {
        service: Name::new("game"),
        address: ip(VIP),
        port: 8765,
        protocol: Protocol::Tcp,
        ring: (0..backends.len() as u16).collect(),
        backends,
        policy: Policy::default(),
    }
}

fn entry(plane: &Dataplane, steering: &Steering) -> Service {
    let key = words::service_key(steering.address, steering.port, steering.protocol);
    plane.maps.find_service(key).unwrap().1
}

/// A backend's entry, by its place in the steering.
fn backend_entry(plane: &Dataplane, at: usize) -> (BackendState, Backend) {
    let number = plane.steered[&Name::new("game")].backends[at].0;
    let words = entries::read(plane.maps.backends.element(number)).unwrap();
    let backend = Backend::from_words(words);
    (BackendState::unpack(words[0]).unwrap(), backend)
}

fn role(plane: &Dataplane, address: &str) -> Option<Role> {
    let found = plane
        .maps
        .find_service((words::address(ip(address)), Service::ADDRESS));
    found.map(|(_, entry)| Role(entry.id))
}

/// What could not be written is tried again: half of it must not have gone for good.
#[test]
fn a_steering_that_failed_works_when_there_is_room() {
    with_bpffs(|bpffs| {
        let mut plane = plane(bpffs);
        let mut steering = steering(vec![backend(2, Way::Local)]);
        steering.policy.quic = true;
        steering.protocol = Protocol::Udp;
        steering.backends[0].quic_server_id = Some(40);
        (1..4).for_each(|seconds| plane.commit(at(1000 * seconds)).unwrap());
        // A line for the ring, and not the two for server ids.
        let all = RING_LINES * abi::RING_LINE;
        let taken = plane.regions.take(all - 2 * abi::RING_LINE).unwrap();
        let refusal = plane.steer(&steering).unwrap_err();
        assert!(refusal.to_string().contains("another ring"), "{refusal}");
        assert_eq!(plane.regions.take(2 * abi::RING_LINE), None, "it has one");
        // What nothing names is free once no packet can be reading it.
        (4..8).for_each(|seconds| plane.commit(at(1000 * seconds)).unwrap());
        assert_ne!(taken, Region::default());
        let room = plane.regions.take(all).expect("all of it");
        assert!(plane.steer(&steering).is_err());
        plane.regions.sweep(|_| false, at(10_000));
        plane.regions.sweep(|_| false, at(12_000));
        assert_ne!(room, Region::default());
        plane.steer(&steering).unwrap();
    });
}

#[test]
fn a_backend_is_written_as_its_way_says() {
    with_bpffs(|bpffs| {
        let mut plane = plane(bpffs);
        let own = Own {
            ifindex: 1,
            mac: [2, 0, 0, 0, 0, 1],
        };
        plane.set_macs(vec![own], Vec::new()).unwrap();
        plane.set_exits(vec![Exit {
            ifindex: 1,
            vlan: 7,
            mac: [2, 0, 0, 0, 0, 2],
        }]);
        let tunnel = |encapsulation| Way::Tunnel {
            encapsulation,
            next_hop: Some(hop(1400)),
        };
        let mut translated = backend(
            6,
            Way::Nat(Some(NextHop {
                vlan: 7,
                ..hop(1500)
            })),
        );
        translated.port = 80;
        let steering = steering(vec![
            backend(2, Way::Local),
            backend(3, Way::Dsr(Some(hop(1500)))),
            backend(4, tunnel(Encapsulation::Ipip)),
            backend(5, tunnel(Encapsulation::Gue)),
            translated,
            SteeredBackend {
                alive: false,
                ..backend(7, Way::Dsr(None))
            },
        ]);
        plane.steer(&steering).unwrap();
        plane.commit(at(1000)).unwrap();
        let service = entry(&plane, &steering);
        let modes = [
            abi::Mode::Local,
            abi::Mode::Dsr,
            abi::Mode::Ipip,
            abi::Mode::Gue,
            abi::Mode::Nat,
            abi::Mode::Dsr,
        ];
        for (n, mode) in modes.into_iter().enumerate() {
            let (state, backend) = backend_entry(&plane, n);
            let hop = steering.backends[n].way.next_hop();
            assert_eq!((state.mode, state.alive), (mode, n != 5));
            assert_eq!(state.mac, hop.map_or(0, |hop| mac_word(hop.mac)));
            assert_eq!(
                (backend.ifindex, backend.mtu),
                hop.map_or((0, 0), |hop| (1, hop.mtu))
            );
            assert_eq!(
                (backend.service, backend.addr),
                (service.id, words::address(steering.backends[n].address))
            );
            assert_eq!(backend.port.to_be(), steering.backends[n].port);
            assert_eq!(
                (backend.service_addr, backend.service_port.to_be()),
                (words::address(ip(VIP)), 8765)
            );
        }
        let source = |n| backend_entry(&plane, n).1.source.load();
        assert_eq!((source(0), source(1)), (0, mac_word(own.mac)));
        assert_eq!(
            source(4),
            Backend::source_word(mac_word([2, 0, 0, 0, 0, 2]), 7)
        );
        // Each is in the ring, in order.
        let ids: Vec<u16> = plane.steered[&steering.service]
            .backends
            .iter()
            .map(|b| b.0 as u16)
            .collect();
        let (first, slots) = service.ring();
        assert!(plane.maps.ring_is(Region { first, slots }, &ids));
        let devices = plane.view().map_dump(maps::DEVICES, 0).unwrap().entries;
        assert_eq!(devices.len(), 1);
        assert_eq!(devices[0].fields, [("ifindex".to_owned(), "1".to_owned())]);
    });
}

#[test]
fn what_a_policy_needs_comes_and_goes_with_it() {
    with_bpffs(|bpffs| {
        let mut plane = plane(bpffs);
        let mut steering = steering(vec![
            backend(2, Way::Local),
            backend(3, Way::Dsr(Some(hop(1500)))),
        ]);
        plane.steer(&steering).unwrap();
        plane.commit(at(1000)).unwrap();
        let id = entry(&plane, &steering).id;
        let limit = |plane: &Dataplane| {
            plane
                .maps
                .limits
                .element(id)
                .iter()
                .map(|word| word.load())
                .collect::<Vec<_>>()
        };
        let weight = |plane: &Dataplane, at: usize| {
            let number = plane.steered[&Name::new("game")].backends[at].0;
            plane.maps.loads.element(number)[1].load()
        };
        assert_eq!(entry(&plane, &steering).policy(), abi::Policy::default());
        assert_eq!((limit(&plane), weight(&plane, 0)), (vec![0; 4], 0));

        steering.backends[0].quic_server_id = Some(40);
        steering.backends[1].quic_server_id = Some(2);
        steering.backends[1].weight = 7;
        steering.policy = Policy {
            scheduler: Scheduler::LeastConnections,
            affinity: Affinity::FiveTuple,
            mss: Some(1360),
            syn_rate: Some(SynRate {
                per_second: 1000,
                burst: 50,
            }),
            sources: Sources {
                allow: Vec::new(),
                deny: vec!["10.1.0.0/16".parse().unwrap()],
            },
            quic: true,
        };
        plane.steer(&steering).unwrap();
        let service = entry(&plane, &steering);
        let policy = service.policy();
        assert_eq!(
            (policy.scheduler(), policy.mss()),
            (abi::Scheduler::LeastConnections, 1360)
        );
        assert!(policy.has_sources() && policy.is_limited() && policy.is_quic());
        let tick = view::read_clock().tick;
        let expected = words::limit(
            SynRate {
                per_second: 1000,
                burst: 50,
            },
            tick,
        );
        assert_eq!(limit(&plane), [expected.0, expected.1, 0, 0]);
        assert_eq!((weight(&plane, 0), weight(&plane, 1)), (100, 7));
        let numbers: Vec<u16> = plane.steered[&steering.service]
            .backends
            .iter()
            .map(|b| b.0 as u16)
            .collect();
        let mut table = [0; 41];
        (table[40], table[2]) = (numbers[0], numbers[1]);
        let (first, slots) = service.quic();
        assert!(plane.maps.ring_is(Region { first, slots }, &table));
        assert_ne!(first, service.ring().0);
        assert_eq!(
            plane
                .view()
                .map_dump(maps::SOURCES, 0)
                .unwrap()
                .entries
                .len(),
            1
        );

        // What the program counted meanwhile stays, whatever else changes.
        plane.maps.limits.element(id)[2].store(77);
        plane.maps.loads.element(u32::from(numbers[0]))[0].store(5);
        steering.policy.mss = None;
        plane.steer(&steering).unwrap();
        assert_eq!(limit(&plane)[2], 77);
        assert_eq!(plane.maps.loads.element(u32::from(numbers[0]))[0].load(), 5);
        assert_eq!(
            entry(&plane, &steering).quic(),
            (first, slots),
            "the same table"
        );

        steering.policy = Policy::default();
        plane.steer(&steering).unwrap();
        plane.commit(at(2000)).unwrap();
        assert_eq!(entry(&plane, &steering).policy(), abi::Policy::default());
        assert_eq!((limit(&plane), weight(&plane, 1)), (vec![0; 4], 0));
        assert_eq!(entry(&plane, &steering).quic(), (0, 0));
        assert!(
            plane
                .view()
                .map_dump(maps::SOURCES, 0)
                .unwrap()
                .entries
                .is_empty()
        );

        // The end of a service is the end of all it had.
        steering.policy.sources.allow = vec!["10.2.0.0/16".parse().unwrap()];
        steering.policy.syn_rate = Some(SynRate {
            per_second: 1,
            burst: 1,
        });
        plane.steer(&steering).unwrap();
        plane.commit(at(3000)).unwrap();
        assert_eq!(
            plane
                .view()
                .map_dump(maps::SOURCES, 0)
                .unwrap()
                .entries
                .len(),
            2
        );
        plane.unsteer(&steering.service);
        plane.commit(at(4000)).unwrap();
        assert!(
            plane
                .view()
                .map_dump(maps::SOURCES, 0)
                .unwrap()
                .entries
                .is_empty()
        );
        assert_eq!(limit(&plane), [0; 4]);
        assert!(plane.maps.backends_in_use().next().is_none());
    });
}

/// The kernel's trie and the daemon's own idea of the rules agree.
#[test]
fn the_kernel_finds_the_rules_that_were_meant() {
    with_bpffs(|bpffs| {
        let mut plane = plane(bpffs);
        let mut steering = steering(vec![backend(2, Way::Local)]);
        let nets = |texts: &[&str]| -> Vec<ipnet::IpNet> {
            texts.iter().map(|net| net.parse().unwrap()).collect()
        };
        let clients = [
            "10.1.2.3",
            "10.1.2.4",
            "10.1.9.9",
            "10.9.9.9",
            "192.0.2.1",
            "203.0.113.1",
        ];
        for (allow, deny) in [
            (&["10.0.0.0/8"][..], &["10.1.0.0/16"][..]),
            (&["10.1.2.0/24"], &["10.1.0.0/16", "10.1.2.3/32"]),
            (&[], &["10.1.2.0/24", "192.0.2.0/24"]),
            (&["0.0.0.0/0"], &["10.1.0.0/16"]),
            (&[], &[]),
        ] {
            steering.policy.sources = Sources {
                allow: nets(allow),
                deny: nets(deny),
            };
            plane.steer(&steering).unwrap();
            plane.commit(at(1000)).unwrap();
            let id = entry(&plane, &steering).id;
            let rules = Rules::of(&steering.policy.sources);
            for client in clients {
                let kernel = plane.sources.look_up(id, ip(client));
                let denied = kernel == Some(abi::SourceRule::Deny as u32);
                assert_eq!(
                    denied,
                    rules.deny(ip(client)),
                    "{client}: {allow:?} {deny:?}"
                );
                assert_eq!(
                    plane.sources.look_up(id + 1, ip(client)),
                    None,
                    "another service"
                );
            }
        }
    });
}

#[test]
fn the_next_daemon_goes_on_where_this_one_was() {
    with_bpffs(|bpffs| {
        let mut first = plane(bpffs);
        let mut steering = steering(vec![backend(2, Way::Local), backend(3, Way::Local)]);
        steering.backends[0].quic_server_id = Some(1);
        steering.policy.quic = true;
        steering.policy.sources.deny = vec!["10.1.0.0/16".parse().unwrap()];
        let other = Steering {
            service: Name::new("other"),
            port: 9,
            ..steering.clone()
        };
        // In another order than the next one's, so that numbers are not the same by chance.
        first.steer(&other).unwrap();
        first.steer(&steering).unwrap();
        first.commit(at(1000)).unwrap();
        let before = entry(&first, &steering);
        let numbers = first.steered[&steering.service].backends.clone();
        drop(first);

        let mut second = plane(bpffs);
        assert_eq!(
            entry(&second, &steering).words(),
            before.words(),
            "before anything is said"
        );
        assert_eq!(role(&second, VIP), Some(Role(Role::VIRTUAL)));
        second.steer(&steering).unwrap();
        second.steer(&other).unwrap();
        second.commit(at(2000)).unwrap();
        assert_eq!(entry(&second, &steering).words(), before.words());
        assert_eq!(second.steered[&steering.service].backends, numbers);
        assert_eq!(
            second.take_purge().map(|purge| purge.0.len()),
            None,
            "nobody is denied anew"
        );
        // Rings and QUIC tables that are in use are not given away.
        let mut third = Steering {
            service: Name::new("third"),
            port: 10,
            ..steering.clone()
        };
        third.ring = vec![0, 1, 0];
        second.steer(&third).unwrap();
        second.commit(at(9000)).unwrap();
        assert_eq!(entry(&second, &steering).words(), before.words());
        let tables = [&steering, &other, &third].map(|steering| {
            let service = entry(&second, steering);
            [service.ring().0, service.quic().0]
        });
        let tables: BTreeSet<u32> = tables.into_iter().flatten().collect();
        assert_eq!(tables.len(), 6);
        assert_eq!(
            second
                .view()
                .map_dump(maps::SOURCES, 0)
                .unwrap()
                .entries
                .len(),
            3
        );
    });
}
