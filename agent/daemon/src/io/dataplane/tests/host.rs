//! What the program knows of the host as a whole.

use std::collections::BTreeSet;

use steerd_core::config::PortRange;
use steerd_ebpf::{
    abi::{NatPool, SERVICE_SLOTS, Session},
    flow::{Key6, State, Value},
    hash,
    nat::moved,
    shared::Shared,
};

use super::*;

/// Whether the program looks at packets to this address at all.
pub(super) fn passes_filter(plane: &Dataplane, address: &str) -> bool {
    let seed = (plane.maps.control_word(Control::SERVICES) >> 32) as u32;
    let (word, bit) = hash::address_filter(hash::address(words::address(ip(address)), seed));
    plane.maps.control_word(Control::FILTER + word) & bit != 0
}

#[test]
fn addresses_are_known_by_what_they_are_for() {
    with_bpffs(|bpffs| {
        let mut plane = plane(bpffs);
        let steering = steering(vec![backend(2, Way::Local)]);
        let tunnel = Tunnel {
            endpoints: vec![ip("10.9.0.1"), ip("fd09::1")],
            ..Tunnel::default()
        };
        let nat = Nat {
            addresses: vec![ip("10.9.0.1"), ip("fd09::50")],
            ..Nat::default()
        };
        plane.configure(&tunnel, &nat).unwrap();
        // At once: packets may come that were sent by the last daemon's steering.
        let both = role(&plane, "10.9.0.1").unwrap();
        assert!(both.is_endpoint() && both.nat() == Some(0) && !both.is_virtual());
        assert_eq!(role(&plane, "fd09::50").unwrap().nat(), Some(1));
        assert_eq!(role(&plane, VIP), None);
        plane.steer(&steering).unwrap();
        assert!(!passes_filter(&plane, VIP), "not before the commit");
        plane.commit(at(1000)).unwrap();
        assert_eq!(role(&plane, VIP), Some(Role(Role::VIRTUAL)));
        for address in [VIP, "10.9.0.1", "fd09::1", "fd09::50"] {
            assert!(passes_filter(&plane, address), "{address}");
        }
        assert!(entry(&plane, &steering).id != 0);
        // Addresses take no numbers of services.
        assert_eq!(plane.maps.services_in_use().count(), 1);

        plane
            .configure(&Tunnel::default(), &Nat::default())
            .unwrap();
        assert_eq!(
            (role(&plane, "10.9.0.1"), role(&plane, "fd09::50")),
            (None, None)
        );
        assert_eq!(role(&plane, VIP), Some(Role(Role::VIRTUAL)));
        assert!(!passes_filter(&plane, "fd09::50"));
        plane.unsteer(&steering.service);
        plane.commit(at(2000)).unwrap();
        assert_eq!(role(&plane, VIP), None);
        let used = (0..2 * SERVICE_SLOTS).filter(|slot| {
            let base = plane.maps.control_word(Control::SERVICES) as u32;
            (base..base + SERVICE_SLOTS).contains(slot) && plane.maps.service(*slot).is_some()
        });
        assert_eq!(used.count(), 0);
    });
}

#[test]
fn the_program_is_told_how_to_wrap_and_translate() {
    with_bpffs(|bpffs| {
        let mut plane = plane(bpffs);
        let pool = |plane: &Dataplane| NatPool::unpack(plane.maps.control_word(Control::NAT_POOL));
        assert_eq!(
            pool(&plane),
            NatPool {
                first_set: 256,
                ..NatPool::default()
            }
        );
        assert_eq!(
            plane.maps.control_word(Control::GUE_PORT),
            u64::from(6080_u16.to_be())
        );
        assert_eq!(
            plane.maps.control_word(Control::TUNNEL4),
            words::tunnel4("172.16.0.0/16".parse().unwrap())
        );
        let nat = |addresses: &[&str]| Nat {
            addresses: addresses.iter().map(|address| ip(address)).collect(),
            ports: PortRange {
                low: 2000,
                high: 2999,
            },
            ..Nat::default()
        };
        plane
            .configure(
                &Tunnel::default(),
                &nat(&["10.9.0.50", "10.9.0.51", "fd09::50"]),
            )
            .unwrap();
        let expected = NatPool {
            first_set: 500,
            sets: 250,
            ipv4: 2,
            ipv6: 1,
            ..NatPool::NONE
        };
        assert_eq!(pool(&plane), expected);
        let address = |plane: &Dataplane, number: usize| {
            [0, 1].map(|word| {
                plane
                    .maps
                    .control_word(Control::NAT_ADDRESSES + 2 * number + word)
            })
        };
        assert_eq!(address(&plane, 1), words::address(ip("10.9.0.51")));
        assert_eq!(address(&plane, 2), words::address(ip("fd09::50")));
        assert_eq!(address(&plane, 3), [0, 0]);

        // Another order and one replaced, by another daemon.
        drop(plane);
        let plane = plane_with(bpffs, &nat(&["fd09::50", "10.9.0.51", "10.9.0.52"]));
        assert_eq!(pool(&plane), expected);
        assert_eq!(address(&plane, 0), words::address(ip("10.9.0.52")));
    });
}

/// Translations last as long as their address and their port do, wherever others lead by then.
#[test]
fn translations_last_over_changes_of_addresses_and_ports() {
    with_bpffs(|bpffs| {
        let nat = |addresses: &[&str], low, high| Nat {
            addresses: addresses.iter().map(|address| ip(address)).collect(),
            ports: PortRange { low, high },
            ..Nat::default()
        };
        let mut plane = plane_with(bpffs, &nat(&["10.9.0.50", "10.9.0.51"], 2000, 2999));
        let pool = |plane: &Dataplane| NatPool::unpack(plane.maps.control_word(Control::NAT_POOL));
        let seed = plane.maps.control_word(Control::FLOW_SEED);
        let key = |n: u16| Key6::new(words::address(ip("192.0.2.1")), n.to_be(), 1);
        let session = Session {
            value: Value {
                backend: 1,
                generation: 1,
                state: State::Established,
                seen: 1,
            },
            udp: false,
            answered: true,
        };
        let entry = |plane: &Dataplane, place: u32| -> [u64; 4] {
            let words = &plane.maps.nat.element(place / 4)[4 * (place as usize % 4)..];
            std::array::from_fn(|at| words[at].load())
        };
        // A flow in each place of both addresses, in a set that its key leads to or not.
        let places: Vec<u32> = [0, 1]
            .into_iter()
            .flat_map(|number| (2000..3000).map(move |port| number << 16 | port))
            .collect();
        let begin = |plane: &Dataplane| {
            for (&place, n) in places.iter().zip(1..) {
                let words = &plane.maps.nat.element(place / 4)[4 * (place as usize % 4)..];
                let Key6(key) = key(n);
                for (word, value) in words.iter().zip(key.into_iter().chain([session.pack(0)])) {
                    word.store(value);
                }
            }
        };
        begin(&plane);
        // What the program looks up: the places of all words in either line.
        let noted = |plane: &Dataplane| -> BTreeSet<u32> {
            let words = plane.maps.nat_moved.all().iter().map(Shared::load);
            let noted = words.filter(|&word| word != 0);
            noted.map(|word| word as u32 - 1).collect()
        };
        let lasts = |plane: &Dataplane| -> BTreeSet<u32> {
            let mut all = places.clone();
            all.retain(|&place| entry(plane, place)[3] != 0);
            all.into_iter().collect()
        };
        let expected = |plane: &Dataplane, lasts: &BTreeSet<u32>| -> BTreeSet<u32> {
            let at_home = |place: u32| {
                let n = places.iter().position(|&other| other == place).unwrap() as u16 + 1;
                moved::is_home(pool(plane), seed, key(n), place)
            };
            let mut all = lasts.clone();
            all.retain(|&place| !at_home(place));
            all
        };
        // Addresses, ports from and to, and which places stay.
        type Case<'a> = (&'a [&'a str], u16, u16, &'a dyn Fn(u32) -> bool);
        let cases: [Case<'_>; 5] = [
            // One more of either family.
            (&["10.9.0.50", "fd09::50", "10.9.0.51"], 2000, 2999, &|_| {
                true
            }),
            (
                &["10.9.0.50", "10.9.0.52", "10.9.0.51"],
                2000,
                2999,
                &|_| true,
            ),
            // One less, in the middle of the others.
            (&["10.9.0.51", "10.9.0.52"], 2000, 2999, &|place| {
                place >> 16 == 1
            }),
            // More ports, then fewer.
            (&["10.9.0.51"], 1024, 9999, &|place| place >> 16 == 1),
            (&["10.9.0.51"], 2400, 2599, &|place| {
                place >> 16 == 1 && (2400..2600).contains(&(place & 0xffff))
            }),
        ];
        for (addresses, low, high, stays) in cases {
            plane
                .configure(&Tunnel::default(), &nat(addresses, low, high))
                .unwrap();
            let lasts = lasts(&plane);
            let wanted = places.iter().copied().filter(|&place| stays(place));
            assert_eq!(lasts, wanted.collect(), "{addresses:?} {low}-{high}");
            let noted = noted(&plane);
            assert_eq!(noted, expected(&plane, &lasts));
            assert!(noted.len() > lasts.len() / 2, "most lie anywhere");
            assert!(pool(&plane).has_moved && pool(&plane).sets != 0);
        }
        // The same again changes nothing; a daemon that comes after finds it so.
        let (before, was) = (noted(&plane), pool(&plane));
        drop(plane);
        let plane = plane_with(bpffs, &nat(&["10.9.0.51"], 2400, 2599));
        assert_eq!((noted(&plane), pool(&plane)), (before, was));
    });
}
