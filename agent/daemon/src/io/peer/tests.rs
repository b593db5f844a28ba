//! Adverts between two hosts.

use std::net::SocketAddr;

use socket2::{Domain, Protocol, Socket, Type};
use steerd_core::{
    config::{Password, Wire},
    vrrp::wire::Mismatch,
};

use super::*;
use crate::io::lab::{self, DEV, DEV_B, Lab};

const V4: &str = "10.9.0.100/24";
const V6: &str = "fd09::100/64";

fn advert(config: &Config) -> Advert {
    Advert {
        vrid: 51,
        priority: 110,
        interval_cs: 100,
        addresses: config.virtual_routers[0]
            .addresses
            .iter()
            .map(ipnet::IpNet::addr)
            .collect(),
    }
}

fn router() -> Name {
    Name::new("vip")
}

async fn next_advert(events: &mut mpsc::Receiver<Event>) -> (Name, IpAddr, Advert) {
    lab::wait_for(events, |event| match event {
        Event::Advert {
            router,
            source,
            advert,
        } => Some((router.clone(), *source, advert.clone())),
        _ => None,
    })
    .await
}

/// Waits until `cause` was counted `times` times.
async fn wait_for_drops(peers: &Peers, cause: DropCause, times: u64) {
    let wait = async {
        while peers.drops()[cause as usize].1 < times {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(lab::DEADLINE, wait).await;
    assert!(
        waited.is_ok(),
        "{cause:?} was not counted {times} times: {:?}",
        peers.drops()
    );
}

/// Both hosts send and hear each other.
fn exchange(addresses: &'static str, peers: Option<[&'static str; 2]>, sources: [&'static str; 2]) {
    exchange_with(addresses, peers, sources, Wire::default());
}

fn exchange_with(
    addresses: &'static str,
    peers: Option<[&'static str; 2]>,
    sources: [&'static str; 2],
    wire: Wire,
) {
    Lab::run(move |lab| async move {
        let of = |peer: Option<&'static str>| peer.as_slice().to_vec();
        let mut a_config = lab::config(DEV, &[addresses], &of(peers.map(|[_, b]| b)));
        let mut b_config = lab::config(DEV_B, &[addresses], &of(peers.map(|[a, _]| a)));
        a_config.virtual_routers[0].wire = wire.clone();
        b_config.virtual_routers[0].wire = wire;
        let (to_a, mut at_a) = mpsc::channel(8);
        let (to_b, mut at_b) = mpsc::channel(8);
        let a = Peers::open(&a_config, to_a).unwrap();
        // The virtual address must never be the source, even where it stands first.
        let b = lab.on_b(|| {
            lab::ip(&format!("address add {addresses} dev {DEV_B}"));
            Peers::open(&b_config, to_b).unwrap()
        });

        a.send(&router(), &advert(&a_config)).unwrap();
        let (name, source, heard) = next_advert(&mut at_b).await;
        assert_eq!((name, heard), (router(), advert(&a_config)));
        assert_eq!(Some(source), a.source(&router()));
        if !sources[0].is_empty() {
            assert_eq!(source, sources[0].parse::<IpAddr>().unwrap());
        }

        lab.on_b(|| b.send(&router(), &advert(&b_config))).unwrap();
        let (_, source, _) = next_advert(&mut at_a).await;
        assert_eq!(Some(source), lab.on_b(|| b.source(&router())));
        if !sources[1].is_empty() {
            assert_eq!(source, sources[1].parse::<IpAddr>().unwrap());
        }
        assert!(at_b.try_recv().is_err(), "a host hears only the other");
        assert!(
            a.drops().iter().all(|(_, count)| *count == 0),
            "{:?}",
            a.drops()
        );
    });
}

#[test]
fn multicast_v4() {
    exchange(V4, None, ["10.9.0.1", "10.9.0.2"]);
}

#[test]
fn multicast_v6() {
    exchange(V6, None, ["", ""]);
}

#[test]
fn unicast_v4() {
    exchange(V4, Some(["10.9.0.1", "10.9.0.2"]), ["10.9.0.1", "10.9.0.2"]);
}

#[test]
fn unicast_v6() {
    exchange(V6, Some(["fd09::1", "fd09::2"]), ["fd09::1", "fd09::2"]);
}

#[test]
fn the_header_is_as_the_protocol_wants() {
    Lab::run(|lab| async move {
        let config = lab::config(DEV, &[V4], &[]);
        let (events, _events) = mpsc::channel(8);
        let peers = Peers::open(&config, events).unwrap();
        let listener = lab.on_b(|| {
            let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(112))).unwrap();
            let on = socket2::InterfaceIndexOrAddress::Address([10, 9, 0, 2].into());
            socket
                .join_multicast_v4_n(&[224, 0, 0, 18].into(), &on)
                .unwrap();
            socket.set_read_timeout(Some(lab::DEADLINE)).unwrap();
            socket
        });
        peers.send(&router(), &advert(&config)).unwrap();
        let mut packet = [0; 128];
        let length = io::Read::read(&mut &listener, &mut packet).unwrap();
        let payload = advert(&config).encode(
            &Wire::default(),
            "10.9.0.1".parse().unwrap(),
            "224.0.0.18".parse().unwrap(),
        );
        assert_eq!(packet[20..length], payload);
        assert_eq!(
            (packet[1], packet[6] & 0x40, packet[8], packet[9]),
            (0xc0, 0, 255, 112)
        );
    });
}

/// Both hosts speak `wire`, once over the group and once as unicast peers.
fn exchange_in(wire: Wire) {
    for peers in [None, Some(["10.9.0.1", "10.9.0.2"])] {
        exchange_with(V4, peers, ["10.9.0.1", "10.9.0.2"], wire.clone());
    }
}

fn v2(authentication: Authentication) -> Wire {
    Wire {
        version: Version::V2,
        authentication,
        ..Wire::default()
    }
}

fn password(text: &str) -> Password {
    Password::new(text).unwrap()
}

#[test]
fn version_2_without_authentication() {
    exchange_in(v2(Authentication::None));
}

#[test]
fn version_2_with_a_password() {
    exchange_in(v2(Authentication::Pass(password("s3cret12"))));
}

#[test]
fn version_2_with_an_authentication_header() {
    exchange_in(v2(Authentication::Ah(password("s3cret12"))));
}

#[test]
fn version_3_with_the_checksum_of_rfc_9568() {
    let checksum = steerd_core::config::Checksum::Rfc9568;
    exchange_in(Wire {
        checksum,
        ..Wire::default()
    });
}

#[test]
fn unicast_goes_out_with_the_configured_ttl() {
    for (addresses, peers) in [(V4, ["10.9.0.1", "10.9.0.2"]), (V6, ["fd09::1", "fd09::2"])] {
        Lab::run(move |lab| async move {
            let open = |device, peer, ttl, min_ttl, to| {
                let mut config = lab::config(device, &[addresses], &[peer]);
                config.virtual_routers[0].wire = Wire {
                    ttl,
                    min_ttl,
                    ..Wire::default()
                };
                (Peers::open(&config, to).unwrap(), config)
            };
            let (to_a, _at_a) = mpsc::channel(8);
            let (to_b, mut at_b) = mpsc::channel(8);
            let (mut a, mut config) = open(DEV, peers[1], 99, 255, to_a);
            let (b, _) = lab.on_b(|| open(DEV_B, peers[0], 255, 100, to_b));
            a.send(&router(), &advert(&config)).unwrap();
            wait_for_drops(&b, DropCause::HopLimit, 1).await;
            config.virtual_routers[0].wire.ttl = 100;
            assert!(a.reconfigure(&config).is_empty());
            a.send(&router(), &advert(&config)).unwrap();
            assert_eq!(next_advert(&mut at_b).await.0, router());
        });
    }
}

/// Host b, with `theirs`, is refused by host a, with `ours`: counted, and told to the core.
fn refused(ours: Wire, theirs: Wire, cause: DropCause, wanted: Mismatch) {
    Lab::run(move |lab| async move {
        let config = |device, wire: &Wire| {
            let mut config = lab::config(device, &[V4], &[]);
            config.virtual_routers[0].wire = wire.clone();
            config
        };
        let (to_a, mut at_a) = mpsc::channel(8);
        let (to_b, _at_b) = mpsc::channel(8);
        let a = Peers::open(&config(DEV, &ours), to_a).unwrap();
        let b_config = config(DEV_B, &theirs);
        let b = lab.on_b(|| Peers::open(&b_config, to_b).unwrap());
        for _ in 0..3 {
            lab.on_b(|| b.send(&router(), &advert(&b_config))).unwrap();
        }
        wait_for_drops(&a, cause, 3).await;
        let told = lab::wait_for(&mut at_a, |event| match event {
            Event::Refused { mismatch, .. } => Some(*mismatch),
            other => panic!("{other:?}"),
        })
        .await;
        assert_eq!(told, wanted);
        assert!(at_a.try_recv().is_err(), "told once a second");
    });
}

#[test]
fn who_speaks_otherwise_is_refused_by_cause_and_told() {
    use Authentication::{Ah, None, Pass};
    let (pass, ah) = (Pass(password("s3cret12")), Ah(password("s3cret12")));
    refused(
        Wire::default(),
        v2(None),
        DropCause::Version,
        Mismatch::Version(2),
    );
    refused(
        v2(ah.clone()),
        Wire::default(),
        DropCause::Version,
        Mismatch::Version(3),
    );
    refused(
        v2(None),
        v2(ah.clone()),
        DropCause::AuthenticationType,
        Mismatch::Authentication(2),
    );
    refused(
        v2(ah.clone()),
        v2(pass),
        DropCause::AuthenticationType,
        Mismatch::Authentication(1),
    );
    refused(
        v2(ah),
        v2(Ah(password("other"))),
        DropCause::Password,
        Mismatch::Password,
    );
}

/// A host that is no peer sends `count` adverts with its own socket.
fn stranger(domain: Domain, hops: u32, to: &str, payload: &[u8], count: usize) {
    let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(112))).unwrap();
    if domain == Domain::IPV4 {
        socket.set_ttl_v4(hops).unwrap();
    } else {
        socket.set_unicast_hops_v6(hops).unwrap();
    }
    let to = SocketAddr::new(to.parse().unwrap(), 0).into();
    for _ in 0..count {
        socket.send_to(payload, &to).unwrap();
    }
}

#[test]
fn forwarded_and_foreign_adverts_are_dropped_and_counted() {
    Lab::run(|lab| async move {
        let mut config = lab::config(DEV, &[V4], &["10.9.0.2"]);
        config.virtual_routers.push(VirtualRouter {
            name: Name::new("six"),
            ..lab::config(DEV, &[V6], &["fd09::2"]).virtual_routers[0].clone()
        });
        let (events, mut received) = mpsc::channel(8);
        let peers = Peers::open(&config, events).unwrap();
        let payload = advert(&config).encode(
            &Wire::default(),
            "10.9.0.2".parse().unwrap(),
            "10.9.0.1".parse().unwrap(),
        );
        let of_other = {
            let mut advert = advert(&config);
            advert.vrid = 9;
            advert
        }
        .encode(
            &Wire::default(),
            "10.9.0.2".parse().unwrap(),
            "10.9.0.1".parse().unwrap(),
        );

        lab.on_b(|| stranger(Domain::IPV4, 254, "10.9.0.1", &payload, 2));
        lab.on_b(|| stranger(Domain::IPV6, 64, "fd09::1", &payload, 1));
        wait_for_drops(&peers, DropCause::HopLimit, 3).await;
        lab.on_b(|| stranger(Domain::IPV4, 255, "10.9.0.1", &of_other, 1));
        wait_for_drops(&peers, DropCause::OtherRouter, 1).await;
        lab.on_b(|| stranger(Domain::IPV4, 255, "10.9.0.1", &payload[..7], 1));
        wait_for_drops(&peers, DropCause::Truncated, 1).await;
        lab.on_b(|| {
            lab::ip("address add 10.9.0.3/32 dev veth1");
            lab::ip("route add 10.9.0.1/32 dev veth1 src 10.9.0.3");
            stranger(Domain::IPV4, 255, "10.9.0.1", &payload, 1);
            lab::ip("route del 10.9.0.1/32 dev veth1 src 10.9.0.3");
        });
        wait_for_drops(&peers, DropCause::NotAPeer, 1).await;
        assert!(received.try_recv().is_err());

        lab.on_b(|| stranger(Domain::IPV4, 255, "10.9.0.1", &payload, 1));
        assert_eq!(next_advert(&mut received).await.0, router());
    });
}

#[test]
fn a_full_channel_drops_adverts_instead_of_growing() {
    Lab::run(|lab| async move {
        let config = lab::config(DEV, &[V4], &["10.9.0.2"]);
        let (events, mut received) = mpsc::channel(2);
        let peers = Peers::open(&config, events).unwrap();
        let payload = advert(&config).encode(
            &Wire::default(),
            "10.9.0.2".parse().unwrap(),
            "10.9.0.1".parse().unwrap(),
        );
        lab.on_b(|| stranger(Domain::IPV4, 255, "10.9.0.1", &payload, 5));
        wait_for_drops(&peers, DropCause::Busy, 3).await;
        assert!(received.try_recv().is_ok() && received.try_recv().is_ok());
        assert!(received.try_recv().is_err());
    });
}

#[test]
fn a_source_may_come_later() {
    Lab::run(|lab| async move {
        lab::ip("address del 10.9.0.1/24 dev veth0");
        lab::ip("address add 10.9.0.100/24 dev veth0");
        let config = lab::config(DEV, &[V4], &[]);
        let (events, _events) = mpsc::channel(8);
        let peers = Peers::open(&config, events).unwrap();
        let refused = peers.send(&router(), &advert(&config));
        assert!(
            matches!(refused, Err(PeerError::NoSource { .. })),
            "{refused:?}"
        );
        lab::ip("address add 10.9.0.1/24 dev veth0");
        peers.send(&router(), &advert(&config)).unwrap();
        lab::ip("link set veth0 down");
        let refused = peers.send(&router(), &advert(&config));
        assert!(
            matches!(refused, Err(PeerError::Send { .. })),
            "{refused:?}"
        );
        drop(lab);
    });
}

#[test]
fn a_missing_interface_is_named() {
    Lab::run(|_lab| async {
        let (events, _events) = mpsc::channel(8);
        let Err(error) = Peers::open(&lab::config("nosuch0", &[V4], &[]), events) else {
            panic!("opened");
        };
        assert!(matches!(error, PeerError::NoInterface { .. }));
        assert!(error.to_string().contains("nosuch0"), "{error}");
    });
}

#[test]
fn a_new_configuration_takes_effect() {
    Lab::run(|lab| async move {
        let config = lab::config(DEV, &[V4], &[]);
        let (events, mut received) = mpsc::channel(8);
        let mut peers = Peers::open(&config, events).unwrap();
        let unicast = lab::config(DEV, &[V4], &["10.9.0.2"]);
        assert!(peers.reconfigure(&unicast).is_empty());
        let payload = advert(&config).encode(
            &Wire::default(),
            "10.9.0.2".parse().unwrap(),
            "10.9.0.1".parse().unwrap(),
        );
        lab.on_b(|| stranger(Domain::IPV4, 255, "10.9.0.1", &payload, 1));
        assert_eq!(next_advert(&mut received).await.0, router());

        // The interface is made anew: the same name, another index.
        lab::ip("link del veth0");
        lab::ip("link add veth0 index 77 type veth peer name spare0");
        lab::ip("link set veth0 up");
        lab::ip("address add 10.9.0.1/24 dev veth0");
        assert!(peers.send(&router(), &advert(&config)).is_err());
        assert!(peers.reconfigure(&unicast).is_empty());
        lab::ip("link set spare0 up");
        peers.send(&router(), &advert(&config)).unwrap();

        let mut none = unicast;
        none.virtual_routers.clear();
        assert!(peers.reconfigure(&none).is_empty());
        assert!(matches!(
            peers.send(&router(), &advert(&config)),
            Err(PeerError::UnknownRouter(_))
        ));
    });
}

#[test]
fn a_missing_interface_does_not_deafen_the_others() {
    Lab::run(|lab| async move {
        let config = lab::config(DEV, &[V4], &["10.9.0.7"]);
        let (events, mut received) = mpsc::channel(8);
        let mut peers = Peers::open(&config, events).unwrap();
        let mut changed = lab::config("nosuch0", &["10.9.0.101/24"], &[]);
        changed.virtual_routers[0].name = Name::new("lost");
        changed
            .virtual_routers
            .extend(lab::config(DEV, &[V4], &["10.9.0.2"]).virtual_routers);
        // Each time anew, until it is there.
        for _ in 0..2 {
            let errors = peers.reconfigure(&changed);
            assert!(
                matches!(&errors[..], [PeerError::NoInterface { router, .. }] if router.as_str() == "lost"),
                "{errors:?}"
            );
        }
        let payload = advert(&config).encode(
            &Wire::default(),
            "10.9.0.2".parse().unwrap(),
            "10.9.0.1".parse().unwrap(),
        );
        lab.on_b(|| stranger(Domain::IPV4, 255, "10.9.0.1", &payload, 1));
        assert_eq!(next_advert(&mut received).await.0, router());
        peers.send(&router(), &advert(&config)).unwrap();
        lab::ip("link add nosuch0 type veth peer name nosuch1");
        assert!(peers.reconfigure(&changed).is_empty());
    });
}
