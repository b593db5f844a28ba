//! Announcements and claims between two hosts.

use super::*;
use crate::io::lab::{self, DEV, Lab};

const V4: &str = "10.9.0.100/24";
const V6: &str = "fd09::100/64";
const STRANGER: Mac = [2, 0, 0, 0, 0, 9];

/// Host B's ear: every claim of the addresses that it can hear.
fn ear(addresses: &[&str]) -> (Socket, Socket) {
    let index = nix::net::if_::if_nametoindex(lab::DEV_B).unwrap();
    let owners = addresses
        .iter()
        .map(|net| {
            (
                net.parse::<ipnet::IpNet>().unwrap().addr(),
                Name::new("vip"),
            )
        })
        .collect();
    let plan = Plan { index, owners };
    let listen = |ipv6| {
        let socket = open(&plan, ipv6).unwrap().into_inner();
        socket.set_nonblocking(false).unwrap();
        socket.set_read_timeout(Some(lab::DEADLINE)).unwrap();
        socket
    };
    (listen(false), listen(true))
}

fn hear(socket: &Socket) -> Claim {
    let mut frame = [0; 256];
    let length = io::Read::read(&mut &*socket, &mut frame).unwrap();
    announce::parse_claim(&frame[..length]).unwrap()
}

/// Sends a frame from host B.
fn speak(lab: &Lab, frame: &[u8]) {
    lab.on_b(|| {
        let socket = Socket::new(Domain::PACKET, Type::RAW, None::<Protocol>).unwrap();
        let index = nix::net::if_::if_nametoindex(lab::DEV_B).unwrap();
        socket.send_to(frame, &link_address(index, 0)).unwrap();
    });
}

async fn next_conflict(events: &mut mpsc::Receiver<Event>) -> (Name, IpAddr, Mac) {
    lab::wait_for(events, |event| match event {
        Event::AddressConflict {
            router,
            address,
            mac,
        } => Some((router.clone(), *address, *mac)),
        _ => None,
    })
    .await
}

fn two_routers() -> Config {
    let mut config = lab::config(DEV, &[V4], &[]);
    let mut six = lab::config(DEV, &[V6], &[]).virtual_routers.remove(0);
    six.name = Name::new("six");
    config.virtual_routers.push(six);
    config
}

#[test]
fn the_other_host_hears_announcements() {
    Lab::run(|lab| async move {
        let (events, mut own) = mpsc::channel(8);
        let announcer = Announcer::open(&two_routers(), events).unwrap();
        let (arp, neighbour) = lab.on_b(|| ear(&[V4, V6]));
        let mac = lab::mac_of(DEV);
        announcer.announce(&Name::new("vip")).unwrap();
        assert_eq!(
            hear(&arp),
            Claim {
                address: "10.9.0.100".parse().unwrap(),
                mac
            }
        );
        announcer.announce(&Name::new("six")).unwrap();
        assert_eq!(
            hear(&neighbour),
            Claim {
                address: "fd09::100".parse().unwrap(),
                mac
            }
        );
        assert!(
            own.try_recv().is_err(),
            "our own announcements are no conflict"
        );
        assert!(matches!(
            announcer.announce(&Name::new("nobody")),
            Err(AnnounceError::UnknownRouter(_))
        ));
    });
}

#[test]
fn the_other_host_believes_announcements() {
    Lab::run(|lab| async move {
        let (events, _events) = mpsc::channel(8);
        let announcer = Announcer::open(&two_routers(), events).unwrap();
        lab.on_b(|| {
            for vip in ["10.9.0.100", "fd09::100"] {
                lab::ip(&format!(
                    "neigh add {vip} lladdr 02:00:00:00:00:09 nud stale dev veth1"
                ));
            }
        });
        announcer.announce(&Name::new("vip")).unwrap();
        announcer.announce(&Name::new("six")).unwrap();
        let mac = lab::mac_of(DEV).map(|byte| format!("{byte:02x}")).join(":");
        let entries = lab.on_b(|| lab::ip("neigh show dev veth1"));
        for vip in ["10.9.0.100", "fd09::100"] {
            assert!(
                entries
                    .lines()
                    .any(|line| line.starts_with(vip) && line.contains(&mac)),
                "{vip} at {mac}: {entries}"
            );
        }
    });
}

#[test]
fn claims_of_another_host_are_conflicts() {
    Lab::run(|lab| async move {
        let (events, mut conflicts) = mpsc::channel(8);
        let _announcer = Announcer::open(&two_routers(), events).unwrap();
        for (router, address) in [("vip", "10.9.0.100"), ("six", "fd09::100")] {
            let address: IpAddr = address.parse().unwrap();
            speak(&lab, &announce::announcement(STRANGER, address));
            let conflict = next_conflict(&mut conflicts).await;
            assert_eq!(conflict, (Name::new(router), address, STRANGER));
            // The same again at once is not news, our own is none, nor is another's address.
            speak(&lab, &announce::announcement(STRANGER, address));
            speak(&lab, &announce::announcement(lab::mac_of(DEV), address));
            speak(
                &lab,
                &announce::announcement(STRANGER, "10.9.0.7".parse().unwrap()),
            );
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(conflicts.try_recv().is_err());
    });
}

#[test]
fn a_probe_finds_the_host_that_has_the_address() {
    Lab::run(|lab| async move {
        let (events, mut conflicts) = mpsc::channel(8);
        let announcer = Announcer::open(&two_routers(), events).unwrap();
        let mac = lab.on_b(|| {
            lab::ip(&format!("address add {V4} dev veth1"));
            lab::ip(&format!("address add {V6} dev veth1 nodad"));
            lab::mac_of(lab::DEV_B)
        });
        for (router, address) in [("vip", "10.9.0.100"), ("six", "fd09::100")] {
            let router = Name::new(router);
            // Twice in a row: each question gets its answer reported.
            for _ in 0..2 {
                announcer.probe_addresses(&router).unwrap();
                let conflict = next_conflict(&mut conflicts).await;
                assert_eq!(conflict, (router.clone(), address.parse().unwrap(), mac));
            }
        }
    });
}

#[test]
fn it_goes_on_after_the_link_was_down() {
    Lab::run(|lab| async move {
        let (events, mut conflicts) = mpsc::channel(8);
        let announcer = Announcer::open(&two_routers(), events).unwrap();
        lab::ip("link set veth0 down");
        let refused = announcer.announce(&Name::new("vip"));
        assert!(
            matches!(refused, Err(AnnounceError::Send { .. })),
            "{refused:?}"
        );
        lab::ip("link set veth0 up");
        announcer.announce(&Name::new("vip")).unwrap();
        // The other end of the cable takes a moment to notice its carrier.
        let claim = announce::announcement(STRANGER, "10.9.0.100".parse().unwrap());
        let repeat = async {
            loop {
                speak(&lab, &claim);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            conflict = next_conflict(&mut conflicts) => assert_eq!(conflict.2, STRANGER),
            () = repeat => {}
        }
    });
}

#[test]
fn unusable_interfaces_are_named() {
    Lab::run(|_lab| async {
        let open = |device| {
            let (events, _) = mpsc::channel(8);
            Announcer::open(&lab::config(device, &[V4], &[]), events)
                .map(drop)
                .unwrap_err()
        };
        assert!(matches!(open("nosuch0"), AnnounceError::NoInterface { .. }));
        assert!(matches!(open("lo"), AnnounceError::NotEthernet { .. }));
    });
}

#[test]
fn an_unusable_interface_does_not_deafen_the_others() {
    Lab::run(|lab| async move {
        let (events, mut conflicts) = mpsc::channel(8);
        let mut announcer =
            Announcer::open(&lab::config(DEV, &["10.9.0.1/24"], &[]), events).unwrap();
        let mut changed = two_routers();
        for device in ["nosuch0", "lo"] {
            let mut lost = lab::config(device, &["10.9.0.101/24"], &[]).virtual_routers;
            lost[0].name = Name::new(device);
            changed.virtual_routers.splice(0..0, lost);
        }
        let errors = announcer.reconfigure(&changed);
        assert!(
            matches!(
                &errors[..],
                [
                    AnnounceError::NotEthernet { .. },
                    AnnounceError::NoInterface { .. }
                ]
            ),
            "{errors:?}"
        );
        let address: IpAddr = "10.9.0.100".parse().unwrap();
        speak(&lab, &announce::announcement(STRANGER, address));
        let conflict = next_conflict(&mut conflicts).await;
        assert_eq!(conflict, (Name::new("vip"), address, STRANGER));
        announcer.announce(&Name::new("six")).unwrap();
    });
}

#[test]
fn a_storm_of_claims_is_held_down() {
    let address: IpAddr = "10.9.0.100".parse().unwrap();
    let (reports, start) = (Reports::default(), Instant::now());
    let after = |ms| start + Duration::from_millis(ms);
    let due = |mac: Mac, at| reports.due(&Claim { address, mac }, at);
    assert!(due(STRANGER, start));
    assert!(!due(STRANGER, after(999)));
    assert!(due(STRANGER, after(1000)));
    let another = [2, 0, 0, 0, 0, 8];
    assert!(!due(another, after(1049)));
    assert!(due(another, after(1050)));
    // Changing MACs at 1 kHz for a second: twenty reports, one entry.
    let storm =
        (2000..3000_u64).filter(|ms| due([2, 0, 0, 0, (ms >> 8) as u8, *ms as u8], after(*ms)));
    assert_eq!(storm.count(), 20);
    assert_eq!(reports.0.lock().unwrap().len(), 1);
    reports.forget();
    assert!(due(another, after(3000)));
}
