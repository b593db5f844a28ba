use steerd_core::{
    config::{Announce, Password},
    vrrp::wire::ah::{Header, Sequences},
};

use super::*;

const PEER: &str = "10.0.0.2";
const GROUP: &str = "224.0.0.18";
const OWN: &str = "10.0.0.1";

fn password() -> Password {
    Password::new("s3cret12").unwrap()
}

fn v2(authentication: Authentication) -> Wire {
    Wire {
        version: Version::V2,
        authentication,
        ..Wire::default()
    }
}

fn route(name: &str, peers: &[&str], wire: Wire) -> Route {
    Route::of(&VirtualRouter {
        name: Name::new(name),
        interface: Name::new("eth0"),
        vrid: 0,
        priority: 100,
        advert_interval: Duration::from_secs(1),
        preempt: true,
        addresses: vec!["10.0.0.100/24".parse().unwrap()],
        peers: peers.iter().map(|peer| peer.parse().unwrap()).collect(),
        source: None,
        announce: Announce {
            count: 1,
            interval: Duration::from_millis(1),
            repeat_after: Duration::ZERO,
            refresh: Duration::ZERO,
        },
        preempt_delay: Duration::ZERO,
        fence_after: Duration::ZERO,
        wire,
        track: Vec::new(),
    })
}

/// By VRID: 51 multicast, 52 unicast, 53 unicast behind two routers; VRRPv2 with each
/// authentication: 60, 61, 62.
fn routes() -> Routes {
    let far = Wire {
        min_ttl: 253,
        ..Wire::default()
    };
    Routes::from([
        (51, route("group", &[], Wire::default())),
        (52, route("pair", &[PEER], Wire::default())),
        (53, route("far", &[PEER], far)),
        (60, route("none", &[], v2(Authentication::None))),
        (61, route("pass", &[], v2(Authentication::Pass(password())))),
        (62, route("ah", &[], v2(Authentication::Ah(password())))),
    ])
}

fn advert(vrid: u8) -> Advert {
    Advert {
        vrid,
        priority: 100,
        interval_cs: 100,
        addresses: vec!["10.0.0.100".parse().unwrap()],
    }
}

/// A packet on its way, to be changed at will.
#[derive(Clone)]
struct Sent {
    framing: Framing,
    source: IpAddr,
    destination: IpAddr,
    hop_limit: u8,
    whole: Vec<u8>,
    header: usize,
}

fn sent(message: Vec<u8>, source: &str, destination: &str, hop_limit: u8) -> Sent {
    Sent {
        framing: Framing::V4,
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
        hop_limit,
        whole: message,
        header: 0,
    }
}

fn plain(wire: &Wire, vrid: u8) -> Sent {
    let (source, group) = (PEER.parse().unwrap(), GROUP.parse().unwrap());
    sent(advert(vrid).encode(wire, source, group), PEER, GROUP, 255)
}

fn sealed(vrid: u8, sequence: u32) -> Sent {
    let wire = v2(Authentication::Ah(password()));
    let header = Header {
        source: PEER.parse().unwrap(),
        destination: GROUP.parse().unwrap(),
        tos: 0xc0,
        ttl: 255,
    };
    let message = plain(&wire, vrid).whole;
    Sent {
        framing: Framing::Ah,
        header: 20,
        whole: ah::seal(&password(), header, sequence, &message),
        ..sent(Vec::new(), PEER, GROUP, 255)
    }
}

/// A node that hears.
struct Ear(BTreeMap<Name, SharedSequences>);

impl Ear {
    fn new() -> Self {
        let numbers = SharedSequences::default();
        *numbers.lock() = Sequences::default();
        Self(BTreeMap::from([(Name::new("ah"), numbers)]))
    }

    fn hears(&self, sent: &Sent) -> Result<Name, (DropCause, Option<Mismatch>)> {
        let own: IpAddr = OWN.parse().unwrap();
        let packet = Packet {
            framing: sent.framing,
            source: sent.source,
            destination: sent.destination,
            hop_limit: sent.hop_limit,
            whole: &sent.whole,
            payload: sent.whole.get(sent.header..).unwrap_or_default(),
        };
        match accept(&routes(), &self.0, |address| address == own, &packet) {
            Ok((router, got)) => {
                assert_eq!(got, advert(got.vrid));
                Ok(router)
            }
            Err(refusal) => {
                assert!(refusal.detail.contains(&sent.source.to_string()));
                Err((
                    refusal.cause,
                    refusal.mismatch.map(|(_, mismatch)| mismatch),
                ))
            }
        }
    }
}

fn judge(vrid: u8, source: &str, destination: &str, hop_limit: u8) -> Result<Name, DropCause> {
    let (from, to) = (source.parse().unwrap(), destination.parse().unwrap());
    let message = advert(vrid).encode(&Wire::default(), from, to);
    Ear::new()
        .hears(&sent(message, source, destination, hop_limit))
        .map_err(|(cause, _)| cause)
}

#[test]
fn adverts_find_their_virtual_router() {
    assert_eq!(judge(51, PEER, GROUP, 255), Ok(Name::new("group")));
    assert_eq!(judge(51, "10.0.0.9", GROUP, 255), Ok(Name::new("group")));
    assert_eq!(judge(52, PEER, OWN, 255), Ok(Name::new("pair")));
    assert_eq!(judge(53, PEER, OWN, 253), Ok(Name::new("far")));
}

#[test]
fn each_cause_of_a_drop_is_told_apart() {
    assert_eq!(judge(51, PEER, GROUP, 254), Err(DropCause::HopLimit));
    assert_eq!(judge(52, PEER, OWN, 254), Err(DropCause::HopLimit));
    assert_eq!(judge(53, PEER, OWN, 252), Err(DropCause::HopLimit));
    assert_eq!(judge(51, OWN, GROUP, 255), Err(DropCause::OwnAddress));
    assert_eq!(judge(54, PEER, GROUP, 255), Err(DropCause::OtherRouter));
    assert_eq!(judge(54, PEER, GROUP, 1), Err(DropCause::OtherRouter));
    assert_eq!(judge(52, "10.0.0.9", OWN, 255), Err(DropCause::NotAPeer));
    assert_eq!(
        judge(52, PEER, GROUP, 255),
        Err(DropCause::WrongDestination)
    );
    assert_eq!(judge(51, PEER, OWN, 255), Err(DropCause::WrongDestination));
}

#[test]
fn each_fault_of_a_message_has_its_cause() {
    let changed = |at: usize, value: u8| {
        let mut packet = plain(&Wire::default(), 51);
        packet.whole[at] = value;
        Ear::new().hears(&packet).unwrap_err()
    };
    assert_eq!(
        changed(0, 0x21),
        (DropCause::Version, Some(Mismatch::Version(2)))
    );
    assert_eq!(changed(0, 0x32), (DropCause::Type, None));
    assert_eq!(changed(3, 9), (DropCause::AddressCount, None));
    assert_eq!(changed(5, 0), (DropCause::Interval, None));
    assert_eq!(changed(6, 0x77), (DropCause::Checksum, None));
    for length in 0..8 {
        let mut packet = plain(&Wire::default(), 51);
        packet.whole.truncate(length);
        let refused = Ear::new().hears(&packet).unwrap_err();
        assert_eq!(refused, (DropCause::Truncated, None), "{length}");
    }
}

#[test]
fn version_2_is_authenticated_as_configured() {
    let (none, pass) = (
        v2(Authentication::None),
        v2(Authentication::Pass(password())),
    );
    let other = v2(Authentication::Pass(Password::new("other").unwrap()));
    let ear = Ear::new();
    assert_eq!(ear.hears(&plain(&none, 60)), Ok(Name::new("none")));
    assert_eq!(ear.hears(&plain(&pass, 61)), Ok(Name::new("pass")));
    assert_eq!(ear.hears(&sealed(62, 1)), Ok(Name::new("ah")));
    let of_type = |number| {
        Err((
            DropCause::AuthenticationType,
            Some(Mismatch::Authentication(number)),
        ))
    };
    assert_eq!(ear.hears(&plain(&none, 61)), of_type(0));
    assert_eq!(ear.hears(&plain(&pass, 60)), of_type(1));
    assert_eq!(ear.hears(&plain(&none, 62)), of_type(0));
    assert_eq!(ear.hears(&sealed(60, 1)), of_type(2));
    assert_eq!(ear.hears(&sealed(61, 1)), of_type(2));
    assert_eq!(
        ear.hears(&plain(&other, 61)),
        Err((DropCause::Password, Some(Mismatch::Password)))
    );
    assert_eq!(
        ear.hears(&plain(&Wire::default(), 60)),
        Err((DropCause::Version, Some(Mismatch::Version(3))))
    );
    // One that says it has a header, without.
    let bare = plain(&v2(Authentication::Ah(password())), 62);
    assert_eq!(ear.hears(&bare), Err((DropCause::MalformedAh, None)));
}

#[test]
fn an_authentication_header_is_checked() {
    let ear = Ear::new();
    assert!(ear.hears(&sealed(62, 7)).is_ok());
    for sequence in [7, 6, 0] {
        assert_eq!(
            ear.hears(&sealed(62, sequence)),
            Err((DropCause::Replayed, None))
        );
    }
    let changed = |at: usize, value: u8| {
        let mut packet = sealed(62, 9);
        packet.whole[at] = value;
        ear.hears(&packet).unwrap_err()
    };
    assert_eq!(changed(20, 4).0, DropCause::MalformedAh);
    assert_eq!(changed(27, 99).0, DropCause::MalformedAh);
    assert_eq!(
        changed(43, 0x77),
        (DropCause::Password, Some(Mismatch::Password))
    );
    for length in 0..44 {
        let mut packet = sealed(62, 9);
        packet.whole.truncate(length);
        let refused = ear.hears(&packet);
        assert_eq!(refused, Err((DropCause::Truncated, None)), "{length}");
    }
    assert!(
        ear.hears(&sealed(62, 8)).is_ok(),
        "what was wrong did not count"
    );
}

#[test]
fn version_2_refuses_another_interval_and_version_3_adopts_it() {
    let (source, group) = (PEER.parse().unwrap(), GROUP.parse().unwrap());
    let slow = |wire: &Wire, vrid| {
        let advert = Advert {
            interval_cs: 200,
            ..advert(vrid)
        };
        advert.encode(wire, source, group)
    };
    let message = slow(&v2(Authentication::None), 60);
    let mismatch = Mismatch::Interval(Duration::from_secs(2));
    assert_eq!(
        Ear::new().hears(&sent(message, PEER, GROUP, 255)),
        Err((DropCause::Interval, Some(mismatch)))
    );
    let message = slow(&Wire::default(), 51);
    let packet = Packet {
        framing: Framing::V4,
        source,
        destination: group,
        hop_limit: 255,
        whole: &message,
        payload: &message,
    };
    let (_, advert) = accept(&routes(), &BTreeMap::new(), |_| false, &packet).unwrap();
    assert_eq!(advert.interval_cs, 200);
}
