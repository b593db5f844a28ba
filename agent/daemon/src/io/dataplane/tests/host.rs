//! What the program knows of the host as a whole.

use steerd_core::config::PortRange;
use steerd_ebpf::{
    abi::{NAT_PORT_SETS, NatPool, SERVICE_SLOTS},
    hash,
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

        // Translations last over another daemon; those from an address that is replaced do not.
        let last = |number: u32| (number + 1) * NAT_PORT_SETS - 1;
        for number in 0..3 {
            plane.maps.nat.element(last(number))[3].store(1);
        }
        drop(plane);
        let mut plane = plane_with(bpffs, &nat(&["fd09::50", "10.9.0.51", "10.9.0.52"]));
        assert_eq!(pool(&plane), expected);
        let lasts = |plane: &Dataplane| {
            [0, 1, 2].map(|number| plane.maps.nat.element(last(number))[3].load())
        };
        assert_eq!(address(&plane, 0), words::address(ip("10.9.0.52")));
        assert_eq!(lasts(&plane), [0, 1, 1]);
        plane
            .configure(&Tunnel::default(), &nat(&["10.9.0.51"]))
            .unwrap();
        assert_eq!(lasts(&plane), [0, 0, 0], "it has another number now");
        assert_eq!(address(&plane, 1), [0, 0]);
    });
}
