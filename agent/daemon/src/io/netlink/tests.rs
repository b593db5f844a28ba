//! Links, addresses and next hops of a host in a network namespace.

use std::time::Duration;

use steerd_core::event::NextHop;

use super::*;
use crate::io::lab::{self, DEV, DEV_B, Lab};

const V4: &str = "10.9.0.100/24";
const V6: &str = "fd09::100/64";

async fn start(config: &Config) -> (Netlink, mpsc::Receiver<Event>) {
    let (events, received) = mpsc::channel(64);
    (Netlink::start(config, events).await.unwrap(), received)
}

async fn link_event(events: &mut mpsc::Receiver<Event>) -> bool {
    lab::wait_for(events, |event| match event {
        Event::Link { interface, up } if interface.as_str() == DEV => Some(*up),
        _ => None,
    })
    .await
}

/// Waits until the host's addresses have, or lack, this one.
async fn wait_for_address(events: &mut mpsc::Receiver<Event>, address: &str, there: bool) {
    let address: IpAddr = address.parse().unwrap();
    lab::wait_for(events, |event| match event {
        Event::LocalAddresses(addresses) if addresses.contains(&address) == there => Some(()),
        _ => None,
    })
    .await;
}

/// The next report of this next hop that is `wanted`.
async fn whole_next_hop(
    events: &mut mpsc::Receiver<Event>,
    of: &str,
    wanted: impl Fn(Option<NextHop>) -> bool,
) -> Option<NextHop> {
    let of: IpAddr = of.parse().unwrap();
    lab::wait_for(events, |event| match event {
        Event::NextHop { address, next_hop } if *address == of && wanted(*next_hop) => {
            Some(*next_hop)
        }
        _ => None,
    })
    .await
}

/// The next report of this next hop: the MAC.
async fn next_hop(events: &mut mpsc::Receiver<Event>, wanted: &str) -> Option<[u8; 6]> {
    let wanted: IpAddr = wanted.parse().unwrap();
    let index = nix::net::if_::if_nametoindex(DEV).unwrap();
    lab::wait_for(events, |event| match event {
        Event::NextHop { address, next_hop } if *address == wanted => {
            if let Some(hop) = next_hop {
                assert_eq!(hop.ifindex, index);
            }
            Some(next_hop.map(|hop| hop.mac))
        }
        _ => None,
    })
    .await
}

async fn next_known_hop(events: &mut mpsc::Receiver<Event>, wanted: &str) -> [u8; 6] {
    loop {
        if let Some(mac) = next_hop(events, wanted).await {
            return mac;
        }
    }
}

#[test]
fn addresses_come_and_go() {
    Lab::run(|_lab| async {
        for (net, address) in [(V4, "10.9.0.100"), (V6, "fd09::100")] {
            let config = lab::config(DEV, &[net], &[]);
            let router = &config.virtual_routers[0];
            let (netlink, mut events) = start(&config).await;
            wait_for_address(&mut events, address, false).await;
            // Each twice: what is there or gone already is no error.
            netlink.acquire(router).await.unwrap();
            netlink.acquire(router).await.unwrap();
            wait_for_address(&mut events, address, true).await;
            let shown = lab::ip(&format!("address show dev {DEV}"));
            assert!(shown.contains(net), "{shown}");
            netlink.release(router).await.unwrap();
            netlink.release(router).await.unwrap();
            wait_for_address(&mut events, address, false).await;
        }
    });
}

#[test]
fn a_v6_address_is_usable_at_once_and_never_a_source() {
    Lab::run(|lab| async move {
        let config = lab::config(DEV, &[V6], &[]);
        let (netlink, _events) = start(&config).await;
        let routes = lab::ip("-6 route show fd09::/64");
        netlink.acquire(&config.virtual_routers[0]).await.unwrap();
        let shown = lab::ip("address show dev veth0 to fd09::100");
        assert!(
            !shown.contains("tentative") && shown.contains("deprecated"),
            "{shown}"
        );
        assert!(
            shown.contains("valid_lft forever preferred_lft 0sec"),
            "{shown}"
        );
        assert_eq!(lab::ip("-6 route show fd09::/64"), routes);
        let chosen = lab::ip("-6 route get fd09::2");
        assert!(chosen.contains("src fd09::1 "), "{chosen}");
        lab.on_b(|| lab::ip("neigh flush all"));
        netlink.release(&config.virtual_routers[0]).await.unwrap();
        assert_eq!(lab::ip("-6 route show fd09::/64"), routes);

        // Without an address of its own there, the host still gets the route to the segment.
        lab::ip("address del fd09::1/64 dev veth0");
        netlink.acquire(&config.virtual_routers[0]).await.unwrap();
        assert!(lab::ip("-6 route show fd09::/64").contains("dev veth0"));
    });
}

#[test]
fn interfaces_are_named_where_they_are_missing() {
    Lab::run(|_lab| async {
        let (events, _events) = mpsc::channel(8);
        let started = Netlink::start(&lab::config("nosuch0", &[V4], &[]), events).await;
        let Err(error) = started else {
            panic!("started")
        };
        assert!(matches!(&error, NetlinkError::NoInterface(name) if name.as_str() == "nosuch0"));

        let config = lab::config(DEV, &[V4], &[]);
        let (netlink, _events) = start(&config).await;
        lab::ip("link del veth0");
        let acquired = netlink.acquire(&config.virtual_routers[0]).await;
        assert!(matches!(acquired, Err(NetlinkError::NoInterface(_))));
        netlink.release(&config.virtual_routers[0]).await.unwrap();
    });
}

#[test]
fn links_are_reported_as_they_change() {
    Lab::run(|lab| async move {
        let (netlink, mut events) = start(&lab::config(DEV, &[V4], &[])).await;
        assert!(link_event(&mut events).await);
        let mut interfaces = netlink.interfaces();
        let before = interfaces.borrow_and_update().clone();
        assert_eq!(
            (before.len(), before[0].mac, before[0].up),
            (1, lab::mac_of(DEV), true)
        );

        // The far end of the cable: carrier.
        lab.on_b(|| lab::ip("link set veth1 down"));
        assert!(!link_event(&mut events).await);
        lab.on_b(|| lab::ip("link set veth1 up"));
        assert!(link_event(&mut events).await);
        // This end: the administrator.
        lab::ip("link set veth0 down");
        assert!(!link_event(&mut events).await);
        lab::ip("link set veth0 address 02:00:00:00:00:77");
        lab::ip("link set veth0 up");
        assert!(link_event(&mut events).await);
        let now = interfaces.borrow_and_update().clone();
        assert_eq!(now[0].mac, [2, 0, 0, 0, 0, 0x77]);
        // And the whole interface, back under another number.
        lab::ip("link del veth0");
        assert!(!link_event(&mut events).await);
        lab::ip("link add veth0 index 77 type veth peer name veth9");
        lab::ip("link set veth9 up");
        lab::ip("link set veth0 up");
        assert!(link_event(&mut events).await);
        assert_eq!(interfaces.borrow_and_update()[0].index, 77);
    });
}

#[test]
fn a_new_configuration_reports_its_interfaces() {
    Lab::run(|_lab| async {
        let (netlink, mut events) = start(&lab::config(DEV, &[V4], &[])).await;
        assert!(link_event(&mut events).await);
        netlink.reconfigure(&lab::config("lo", &[V4], &[]));
        let up = lab::wait_for(&mut events, |event| match event {
            Event::Link { interface, up } if interface.as_str() == "lo" => Some(*up),
            _ => None,
        });
        assert!(up.await);
    });
}

#[test]
fn next_hops_are_found_without_traffic_and_followed() {
    Lab::run(|lab| async move {
        let (netlink, mut events) = start(&lab::config(DEV, &[V4], &[])).await;
        let mac = lab.on_b(|| lab::mac_of(DEV_B));
        for address in ["10.9.0.2", "fd09::2"] {
            assert!(netlink.resolve(address.parse().unwrap()));
            assert_eq!(next_known_hop(&mut events, address).await, mac);
        }
        // Another MAC, as after a change of the card: the host tells the segment.
        lab.on_b(|| {
            lab::ip("link set veth1 address 02:00:00:00:00:42");
        });
        lab::ip("neigh replace 10.9.0.2 lladdr 02:00:00:00:00:42 nud reachable dev veth0");
        assert_eq!(
            next_hop(&mut events, "10.9.0.2").await,
            Some([2, 0, 0, 0, 0, 0x42])
        );
        // Nobody answers any more.
        lab.on_b(|| lab::ip("address del 10.9.0.2/24 dev veth1"));
        lab::ip("neigh replace 10.9.0.2 nud failed dev veth0");
        assert_eq!(next_hop(&mut events, "10.9.0.2").await, None);
        // It is back: found by asking again and again.
        lab.on_b(|| lab::ip("address add 10.9.0.2/24 dev veth1"));
        assert_eq!(
            next_hop(&mut events, "10.9.0.2").await,
            Some([2, 0, 0, 0, 0, 0x42])
        );
        // Forgotten: a change is no event, and resolving anew reports anew.
        netlink.forget("10.9.0.2".parse().unwrap());
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(netlink.resolve("10.9.0.2".parse().unwrap()));
        assert_eq!(
            next_hop(&mut events, "10.9.0.2").await,
            Some([2, 0, 0, 0, 0, 0x42])
        );
    });
}

#[test]
fn a_link_local_peer_is_found_on_the_interfaces() {
    Lab::run(|lab| async move {
        let (netlink, mut events) = start(&lab::config(DEV, &[V6], &[])).await;
        let (address, mac) = lab.on_b(|| {
            let shown = lab::ip("-6 address show dev veth1 scope link");
            let net = shown
                .split("inet6 ")
                .nth(1)
                .unwrap()
                .split('/')
                .next()
                .unwrap();
            (net.to_owned(), lab::mac_of(DEV_B))
        });
        assert!(netlink.resolve(address.parse().unwrap()));
        assert_eq!(next_known_hop(&mut events, &address).await, mac);
    });
}

#[test]
fn an_address_without_a_way_has_no_next_hop() {
    Lab::run(|_lab| async {
        let (netlink, mut events) = start(&lab::config(DEV, &[V4], &[])).await;
        // No route; this host itself; nobody there.
        for address in ["192.0.2.1", "10.9.0.1", "10.9.0.77"] {
            assert!(netlink.resolve(address.parse().unwrap()));
            assert_eq!(next_hop(&mut events, address).await, None, "{address}");
        }
        // On the segment after all: the change of route is noticed, and asked about.
        lab::ip("route replace 192.0.2.1/32 dev veth0");
        lab::ip("neigh replace 192.0.2.1 lladdr 02:00:00:00:00:11 nud permanent dev veth0");
        assert_eq!(
            next_hop(&mut events, "192.0.2.1").await,
            Some([2, 0, 0, 0, 0, 0x11])
        );
    });
}

#[test]
fn behind_a_gateway_the_next_hop_is_the_gateway() {
    Lab::run(|lab| async move {
        let (netlink, mut events) = start(&lab::config(DEV, &[V4], &[])).await;
        let mac = lab.on_b(|| lab::mac_of(DEV_B));
        let index = nix::net::if_::if_nametoindex(DEV).unwrap();
        let hop = |mac, mtu, gateway| {
            Some(NextHop {
                ifindex: index,
                mac,
                vlan: 0,
                mtu,
                gateway,
            })
        };
        lab::ip("route add 192.0.2.0/24 via 10.9.0.2 mtu 1400");
        lab::ip("route add 198.51.100.0/24 via inet6 fd09::2 dev veth0");
        lab::ip("-6 route add 2001:db8::/32 via fd09::2");
        for (address, mtu) in [
            ("192.0.2.1", 1400),
            ("198.51.100.1", 1500),
            ("2001:db8::1", 1500),
        ] {
            assert!(netlink.resolve(address.parse().unwrap()));
            let found = whole_next_hop(&mut events, address, |hop| hop.is_some()).await;
            assert_eq!(found, hop(mac, mtu, true), "{address}");
        }
        let exits = netlink.exits();
        let own = Exit {
            ifindex: index,
            vlan: 0,
            mac: lab::mac_of(DEV),
        };
        assert_eq!(*exits.borrow(), [own]);
        // The gateway's card was changed: what is behind it has another next hop too.
        lab::ip("neigh replace 10.9.0.2 lladdr 02:00:00:00:00:42 nud reachable dev veth0");
        let other = hop([2, 0, 0, 0, 0, 0x42], 1400, true);
        assert_eq!(
            whole_next_hop(&mut events, "192.0.2.1", |_| true).await,
            other
        );
        // And the way takes less, or is direct.
        lab::ip("link set veth0 mtu 1300");
        let small = hop([2, 0, 0, 0, 0, 0x42], 1300, true);
        assert_eq!(
            whole_next_hop(&mut events, "192.0.2.1", |_| true).await,
            small
        );
        lab::ip("neigh replace 192.0.2.1 lladdr 02:00:00:00:00:11 nud permanent dev veth0");
        lab::ip("route add 192.0.2.1/32 dev veth0");
        let direct = hop([2, 0, 0, 0, 0, 0x11], 1300, false);
        assert_eq!(
            whole_next_hop(&mut events, "192.0.2.1", |_| true).await,
            direct
        );
        // Another MAC of this host's: the exits say so, as the next hop is the same.
        lab::ip("link set veth0 address 02:00:00:00:00:77");
        let mut exits = exits;
        let changed = exits.wait_for(|exits| exits.iter().any(|exit| exit.mac[5] == 0x77));
        tokio::time::timeout(lab::DEADLINE, changed)
            .await
            .unwrap()
            .unwrap();
    });
}

#[test]
fn a_lost_link_loses_its_next_hops() {
    Lab::run(|lab| async move {
        let (netlink, mut events) = start(&lab::config(DEV, &[V4], &[])).await;
        assert!(netlink.resolve("10.9.0.2".parse().unwrap()));
        let mac = next_known_hop(&mut events, "10.9.0.2").await;
        lab::ip("link set veth0 down");
        assert_eq!(next_hop(&mut events, "10.9.0.2").await, None);
        lab::ip("link set veth0 up");
        assert_eq!(next_hop(&mut events, "10.9.0.2").await, Some(mac));
        drop(lab);
    });
}

#[test]
fn lost_notifications_are_made_up_for() {
    Lab::run(|_lab| async {
        // Nobody reads the events for a while: the monitor waits, and the kernel's buffer overflows.
        let (events, mut received) = mpsc::channel(1);
        let netlink = Netlink::start(&lab::config(DEV, &[V4], &[]), events)
            .await
            .unwrap();
        let batch: String = (0..8000)
            .map(|n| {
                format!(
                    "address add 10.8.{}.{}/32 dev veth0\n",
                    n / 250,
                    n % 250 + 1
                )
            })
            .collect();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), batch).unwrap();
        lab::ip(&format!("-batch {}", file.path().display()));
        let full = lab::wait_for(&mut received, |event| match event {
            Event::LocalAddresses(addresses) => (addresses.len() >= 8000).then_some(()),
            _ => None,
        });
        full.await;
        drop(netlink);
    });
}

#[test]
fn a_backend_takes_the_address_in_silence() {
    Lab::run(|lab| async move {
        let vip: IpAddr = "10.9.0.100".parse().unwrap();
        let setting = |name| {
            let path = format!("/proc/sys/net/ipv4/conf/{DEV}/{name}");
            std::fs::read_to_string(path).unwrap().trim().to_owned()
        };
        let config = lab::config(DEV, &[V4], &[]);
        let (netlink, mut events) = start(&config).await;
        lab::ip("link set lo down");
        for _ in 0..2 {
            netlink
                .prepare_backend(vip, &[Name::new(DEV)])
                .await
                .unwrap();
        }
        wait_for_address(&mut events, "10.9.0.100", true).await;
        assert_eq!(
            (setting("arp_ignore"), setting("arp_announce")),
            ("1".into(), "2".into())
        );
        // Packets for it are taken, ARP for it is not answered.
        assert!(lab::ip("route get 10.9.0.100 from 10.9.0.2 iif veth0").contains("local"));
        assert!(!lab.is_answered_for(vip));
        // As master it has the address on the interface too, and is answered for.
        netlink.acquire(&config.virtual_routers[0]).await.unwrap();
        assert!(lab.is_answered_for(vip));
        netlink.release(&config.virtual_routers[0]).await.unwrap();
        assert!(!lab.is_answered_for(vip));
        assert!(lab::ip("address show dev lo").contains("10.9.0.100/32"));

        netlink.unprepare(vip).await.unwrap();
        wait_for_address(&mut events, "10.9.0.100", false).await;
        assert_eq!(setting("arp_ignore"), "1", "other addresses may need it");
    });
}

#[test]
fn a_v6_backend_takes_the_address_in_silence() {
    Lab::run(|lab| async move {
        let vip: IpAddr = "fd09::100".parse().unwrap();
        let config = lab::config(DEV, &[V6], &[]);
        let (netlink, _events) = start(&config).await;
        netlink
            .prepare_backend(vip, &[Name::new(DEV)])
            .await
            .unwrap();
        assert!(lab::ip("-6 address show dev lo").contains("fd09::100/128"));
        assert!(!lab.is_answered_for(vip));
        netlink.acquire(&config.virtual_routers[0]).await.unwrap();
        assert!(lab.is_answered_for(vip));
        netlink.release(&config.virtual_routers[0]).await.unwrap();
        assert!(!lab.is_answered_for(vip));
        for _ in 0..2 {
            netlink.unprepare(vip).await.unwrap();
        }
        assert!(!lab::ip("-6 address show dev lo").contains("fd09::100"));
    });
}

#[test]
fn one_address_is_taken_off() {
    Lab::run(|_lab| async {
        let nets = [V4, "10.9.0.101/24"];
        let config = lab::config(DEV, &nets, &[]);
        let (netlink, _events) = start(&config).await;
        netlink.acquire(&config.virtual_routers[0]).await.unwrap();
        // Twice: what is gone is no error, nor is an interface that is.
        for _ in 0..2 {
            netlink
                .remove(&Name::new(DEV), V4.parse().unwrap())
                .await
                .unwrap();
        }
        let gone = Name::new("nosuch0");
        netlink.remove(&gone, V4.parse().unwrap()).await.unwrap();
        let shown = lab::ip("address show dev veth0");
        assert!(!shown.contains(V4) && shown.contains(nets[1]), "{shown}");
    });
}

#[test]
fn an_address_alone_is_put_and_listed() {
    Lab::run(|_lab| async {
        let (netlink, _events) = start(&lab::config(DEV, &[V4], &[])).await;
        for net in ["10.9.0.50/32", "fd09::50/128"] {
            let net: IpNet = net.parse().unwrap();
            assert!(!netlink.addresses().await.unwrap().contains(&net.addr()));
            for _ in 0..2 {
                netlink.put(&Name::new(DEV), net).await.unwrap();
            }
            assert!(netlink.addresses().await.unwrap().contains(&net.addr()));
            netlink.remove(&Name::new(DEV), net).await.unwrap();
            assert!(!netlink.addresses().await.unwrap().contains(&net.addr()));
        }
        // It is no source for connections of the host's own.
        let put = |net: &str| net.parse().unwrap();
        netlink
            .put(&Name::new(DEV), put("10.9.0.50/32"))
            .await
            .unwrap();
        netlink
            .put(&Name::new(DEV), put("fd09::50/128"))
            .await
            .unwrap();
        assert!(lab::ip("route get 10.9.0.2").contains("src 10.9.0.1 "));
        assert!(lab::ip("-6 route get fd09::2").contains("src fd09::1 "));
        let gone = netlink
            .put(&Name::new("nosuch0"), put("10.9.0.50/32"))
            .await;
        assert!(matches!(gone, Err(NetlinkError::NoInterface(_))));
    });
}

#[test]
fn a_backend_is_prepared_on_the_interfaces_that_are_there() {
    Lab::run(|_lab| async {
        let vip: IpAddr = "10.9.0.100".parse().unwrap();
        let (netlink, _events) = start(&lab::config(DEV, &[V4], &[])).await;
        let interfaces = [Name::new("nosuch0"), Name::new(DEV)];
        netlink.prepare_backend(vip, &interfaces).await.unwrap();
        let setting = |device| {
            std::fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{device}/arp_ignore")).unwrap()
        };
        assert_eq!(setting(DEV), "1\n");
        lab::ip("link add nosuch0 type veth peer name nosuch1");
        assert_eq!(setting("nosuch0"), "0\n");
        netlink.prepare_backend(vip, &interfaces).await.unwrap();
        assert_eq!(setting("nosuch0"), "1\n");
    });
}

#[test]
fn a_flood_of_addresses_is_bounded() {
    let mut lists = Lists::default();
    let address = |number: u32| IpAddr::from(number.to_be_bytes());
    for number in 0..2 * MOST_ADDRESSES as u32 {
        let room = (number as usize) < MOST_ADDRESSES;
        assert_eq!(lists.add(address(number)), room);
        assert_eq!(lists.warned, !room);
    }
    assert_eq!(lists.addresses.len(), MOST_ADDRESSES);
    assert!(lists.add(address(7)), "one that is kept already");
    lists.addresses.remove(&address(7));
    assert!(lists.add(address(u32::MAX)));
}
