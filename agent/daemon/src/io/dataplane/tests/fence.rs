//! What the program knows of virtual routers, and what becomes of its fences.

use steerd_core::config::VirtualRouter;
use steerd_ebpf::abi::{Claim, Fence, Rival, Watch};

use super::{super::fence::Fenced, host::passes_filter, *};
use crate::io::lab;

const OWN: &str = "10.9.0.1";

fn router(name: &str, vrid: u8, addresses: &[&str]) -> VirtualRouter {
    let mut router = lab::config("lo", addresses, &[]).virtual_routers.remove(0);
    router.name = Name::new(name);
    router.vrid = vrid;
    router.fence_after = Duration::from_secs(2);
    router.advert_interval = Duration::from_secs(1);
    router
}

fn watch(plane: &mut Dataplane, routers: &[VirtualRouter]) {
    let watched: Vec<Watched<'_>> = routers.iter().map(watched).collect();
    plane.watch(&watched).unwrap();
}

fn watched(router: &VirtualRouter) -> Watched<'_> {
    Watched {
        router,
        ifindex: 1,
        source: Some(ip(OWN)),
    }
}

/// The number of the virtual router that an address belongs to.
fn number(plane: &Dataplane, address: &str) -> Option<u32> {
    role(plane, address)?.router()
}

fn said(plane: &Dataplane, number: u32) -> Option<Watch> {
    Watch::unpack(plane.maps.fences.element(number)[Fence::WATCH].load())
}

/// As the program does.
fn set_fence(plane: &Dataplane, number: u32) {
    let rival = Rival {
        mac: mac_word(MAC),
        claim: Claim::Announcement,
    };
    let entry = plane.maps.fences.element(number);
    entry[Fence::RIVAL].store(rival.pack());
    entry[Fence::SINCE].store(7_000_000);
}

fn is_fenced(plane: &Dataplane, number: u32) -> bool {
    plane.maps.fences.element(number)[Fence::SINCE].load() != 0
}

#[test]
fn virtual_routers_are_known_by_their_addresses() {
    with_bpffs(|bpffs| {
        let mut plane = plane(bpffs);
        let game = router("game", 51, &["10.9.0.100/24", "10.9.0.101/24"]);
        let game6 = router("game6", 51, &["fe80::1:2/64", "fd09::ab:cdef/64"]);
        watch(&mut plane, &[game.clone(), game6.clone()]);
        let (four, six) = (
            number(&plane, "10.9.0.100").unwrap(),
            number(&plane, "fd09::ab:cdef").unwrap(),
        );
        assert_ne!(four, six);
        assert_eq!(number(&plane, "10.9.0.101"), Some(four));
        assert_eq!(number(&plane, "fe80::1:2"), Some(six));
        let expected = Watch {
            vrid: 51,
            held: false,
            ipv6: true,
            min_ttl: 255,
            ifindex: 1,
        };
        assert_eq!(said(&plane, six), Some(expected));
        let patience = plane.maps.fences.element(four)[Fence::PATIENCE].load();
        assert_eq!(patience, 2_000_000_000);
        // Where adverts, announcements and questions come to.
        let groups = ["224.0.0.18", "ff02::12", "ff02::1", "ff02::1:ffab:cdef"];
        for group in groups {
            assert!(passes_filter(&plane, group), "{group}");
            assert_eq!(role(&plane, group), None, "{group} is no address of ours");
        }
        assert!(!passes_filter(&plane, OWN));

        // To peers by unicast, and no IPv6 any more.
        let mut unicast = game;
        unicast.peers = vec![ip("10.9.0.2")];
        unicast.wire.min_ttl = 250;
        watch(&mut plane, &[unicast]);
        assert_eq!(said(&plane, four).map(|watch| watch.min_ttl), Some(250));
        assert_eq!((said(&plane, six), role(&plane, "fe80::1:2")), (None, None));
        assert!(passes_filter(&plane, OWN));
        for group in groups {
            assert!(!passes_filter(&plane, group), "{group}");
        }
    });
}

/// Each on an interface of its own: the program cannot tell whose it is.
#[test]
fn an_address_of_two_virtual_routers_belongs_to_neither() {
    with_bpffs(|bpffs| {
        let mut plane = plane(bpffs);
        let one = router("one", 51, &["fe80::1:2/64", "fd09::1/64"]);
        let other = router("other", 52, &["fe80::1:2/64", "fd09::2/64"]);
        watch(&mut plane, &[one, other]);
        assert_eq!(number(&plane, "fe80::1:2"), None);
        assert_ne!(number(&plane, "fd09::1"), number(&plane, "fd09::2"));
    });
}

#[test]
fn a_daemon_that_starts_finds_what_was_fenced() {
    with_bpffs(|bpffs| {
        let mut before = plane(bpffs);
        let routers = [
            router("idle", 50, &["10.9.0.99/24"]),
            router("game", 51, &["10.9.0.100/24"]),
        ];
        let game = Name::new("game");
        watch(&mut before, &routers);
        before.hold(&game, true);
        let fenced = number(&before, "10.9.0.100").unwrap();
        assert!(said(&before, fenced).unwrap().held);
        set_fence(&before, fenced);
        drop(before);

        // In another order, under another name: the number stays, and all that it stands for.
        let mut after = plane(bpffs);
        let [idle, mut renamed] = routers;
        renamed.name = Name::new("renamed");
        assert!(after.was_fenced(&watched(&renamed)) && !after.was_fenced(&watched(&idle)));
        watch(&mut after, &[renamed, idle]);
        assert_eq!(number(&after, "10.9.0.100"), Some(fenced));
        assert!(said(&after, fenced).unwrap().held && is_fenced(&after, fenced));
        let expected = Fenced {
            since: at(7),
            mac: MAC,
            claim: Claim::Announcement,
        };
        let renamed = Name::new("renamed");
        assert_eq!(after.newly_fenced(at(100)), [(renamed.clone(), expected)]);
        assert_eq!(after.newly_fenced(at(200)), []);

        // The addresses are off the interface.
        after.hold(&renamed, false);
        assert!(!said(&after, fenced).unwrap().held && !is_fenced(&after, fenced));
        assert_eq!(after.fenced().count(), 0);
    });
}

#[test]
fn a_fence_ends_by_right_or_in_time() {
    with_bpffs(|bpffs| {
        let mut plane = plane(bpffs);
        watch(&mut plane, &[router("game", 51, &["10.9.0.100/24"])]);
        let (game, number) = (Name::new("game"), number(&plane, "10.9.0.100").unwrap());
        let acquires: fn(&mut Dataplane, &Name) = |plane, game| plane.hold(game, true);
        let announces: fn(&mut Dataplane, &Name) = |plane, game| plane.lift(game);
        for ends in [acquires, announces] {
            set_fence(&plane, number);
            ends(&mut plane, &game);
            assert!(!is_fenced(&plane, number));
        }
        // The program fenced while the daemon stood still, and the election sees no reason to act.
        set_fence(&plane, number);
        assert_eq!(plane.newly_fenced(at(1000)).len(), 1);
        assert_eq!(plane.newly_fenced(at(4999)), []);
        assert!(is_fenced(&plane, number));
        assert_eq!(plane.newly_fenced(at(5000)), []);
        assert!(!is_fenced(&plane, number));
        // Once more is news again. A reload changes nothing about it.
        set_fence(&plane, number);
        watch(&mut plane, &[router("game", 51, &["10.9.0.100/24"])]);
        assert_eq!(plane.newly_fenced(at(6000)).len(), 1);
        assert!(said(&plane, number).unwrap().held);
    });
}
