use proptest::prelude::*;

use super::{
    codec::{CodecError, LENGTH, MAX_FRAME, decode, encode, frame_length},
    digest::{ConfigDigest, Part},
    message::{
        Alive, BackendView, FLOW_REPLICATION, Health, Hello, Message, RoleView, RoleWord, Roles,
        RouterId, TakeOver, TakenOver, VIEWS, View,
    },
    *,
};

/// What arrives of a message that is sent.
fn there(message: &Message) -> Message {
    let bytes = encode(message).unwrap();
    let (length, frame) = bytes.split_first_chunk::<LENGTH>().unwrap();
    assert_eq!(frame_length(*length), Ok(frame.len()));
    decode(frame).unwrap().unwrap()
}

fn hello() -> Hello {
    Hello {
        protocol: PROTOCOL,
        node: Name::new("primary"),
        version: "0.1.0".to_owned(),
        capabilities: 0,
    }
}

fn router_id() -> impl Strategy<Value = RouterId> {
    any::<(u8, [u8; 8])>().prop_map(|(vrid, addresses)| RouterId { vrid, addresses })
}

fn role() -> impl Strategy<Value = RoleView> {
    let words = [
        RoleWord::Init,
        RoleWord::Backup,
        RoleWord::Master,
        RoleWord::Fault,
    ];
    let word = proptest::sample::select(words.to_vec());
    (
        router_id(),
        word,
        any::<(u8, bool)>(),
        any::<Option<std::net::IpAddr>>(),
    )
        .prop_map(|(router, role, (priority, able), source)| RoleView {
            router,
            role,
            priority,
            able,
            source,
        })
}

fn view() -> impl Strategy<Value = BackendView> {
    let views = proptest::sample::select(vec![View::Undecided, View::Up, View::Down]);
    (
        "[A-Za-z0-9._-]{1,64}",
        "[A-Za-z0-9._-]{1,64}",
        views,
        any::<u64>(),
    )
        .prop_map(|(service, backend, view, since_ms)| BackendView {
            service: Name::new(&service),
            backend: Name::new(&backend),
            view,
            since_ms,
        })
}

fn message() -> impl Strategy<Value = Message> {
    prop_oneof![
        ("[A-Za-z0-9._-]{1,64}", "[!-~]{0,64}", any::<(u16, u64)>()).prop_map(
            |(node, version, (protocol, capabilities))| Message::Hello(Hello {
                protocol,
                node: Name::new(&node),
                version,
                capabilities,
            })
        ),
        any::<(u64, u64, u64)>().prop_map(|(sent, echo, held)| Message::Alive(Alive {
            sent,
            echo,
            held
        })),
        any::<[[u8; 32]; 5]>().prop_map(|parts| Message::Config(ConfigDigest { parts })),
        prop::collection::vec(role(), 0..=64).prop_map(|routers| Message::Roles(Roles { routers })),
        prop::collection::vec(view(), 0..=VIEWS)
            .prop_map(|backends| Message::Health(Health { backends })),
        (router_id(), any::<u64>())
            .prop_map(|(router, order)| Message::TakeOver(TakeOver { router, order })),
        (router_id(), any::<(u64, bool)>()).prop_map(|(router, (order, done))| {
            Message::TakenOver(TakenOver {
                router,
                order,
                done,
            })
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_said_is_heard(message in message()) {
        prop_assert_eq!(there(&message), message);
    }

    /// Cut anywhere, a message is refused and nothing worse. A list of bytes never grows by being read.
    #[test]
    fn what_is_cut_is_refused(message in message(), at in any::<prop::sample::Index>()) {
        let bytes = encode(&message).unwrap();
        let frame = &bytes[LENGTH..];
        let cut = at.index(frame.len());
        prop_assert!(decode(&frame[..cut]).is_err());
    }

    /// A later version may add fields.
    #[test]
    fn what_follows_is_passed_over(message in message(), more in prop::collection::vec(any::<u8>(), 0..64)) {
        let mut bytes = encode(&message).unwrap();
        bytes.extend(more);
        prop_assert_eq!(decode(&bytes[LENGTH..]), Ok(Some(message)));
    }

    /// Any bytes behind any kind; what reads can be said again.
    #[test]
    fn any_bytes(kind in 0_u16..12, bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut frame = kind.to_be_bytes().to_vec();
        frame.extend(bytes);
        if let Ok(Some(message)) = decode(&frame) {
            prop_assert_eq!(there(&message), message);
        }
    }

    #[test]
    fn any_damage(message in message(), flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let mut bytes = encode(&message).unwrap();
        for (at, with) in flips {
            let at = LENGTH + at.index(bytes.len() - LENGTH);
            bytes[at] ^= with;
        }
        if let Ok(Some(message)) = decode(&bytes[LENGTH..]) {
            prop_assert_eq!(there(&message), message);
        }
    }
}

#[test]
fn the_bytes_are_these() {
    let order = Message::TakeOver(TakeOver {
        router: RouterId {
            vrid: 51,
            addresses: [1, 2, 3, 4, 5, 6, 7, 8],
        },
        order: 300,
    });
    let golden = [0, 0, 0, 13, 0, 6, 51, 1, 2, 3, 4, 5, 6, 7, 8, 0xac, 0x02];
    assert_eq!(encode(&order).unwrap(), golden);
    let golden = [
        0, 0, 0, 18, 0, 1, 1, 7, b'p', b'r', b'i', b'm', b'a', b'r', b'y', 5, b'0', b'.', b'1',
        b'.', b'0', 0,
    ];
    assert_eq!(encode(&Message::Hello(hello())).unwrap(), golden);
}

#[test]
fn lengths_are_bounded() {
    let of = |length: u32| frame_length(length.to_be_bytes());
    assert_eq!(of(2), Ok(2));
    assert_eq!(of(65_536), Ok(MAX_FRAME));
    assert_eq!(of(65_537), Err(CodecError::TooLong(65_537)));
    assert_eq!(of(u32::MAX), Err(CodecError::TooLong(4_294_967_295)));
    assert_eq!(of(1), Err(CodecError::TooShort(1)));
    assert_eq!(decode(&[0]), Err(CodecError::TooShort(1)));
}

#[test]
fn the_longest_messages_fit() {
    let longest = Name::new(&"x".repeat(64));
    let view = BackendView {
        service: longest.clone(),
        backend: longest,
        view: View::Down,
        since_ms: u64::MAX,
    };
    let backends = vec![view; VIEWS];
    let health = Message::Health(Health { backends });
    assert!(encode(&health).unwrap().len() <= MAX_FRAME);
}

#[test]
fn lists_and_texts_are_bounded() {
    // 257 backends, of names of one letter, are one too many.
    let mut frame = vec![0, 5, 0x81, 0x02];
    for _ in 0..=VIEWS {
        frame.extend([1, b'a', 1, b'b', 1, 0]);
    }
    assert!(matches!(
        decode(&frame),
        Err(CodecError::Malformed { kind: 5, .. })
    ));
    // A list that claims 2^32 entries and has none.
    assert!(decode(&[0, 4, 0xff, 0xff, 0xff, 0xff, 0x0f]).is_err());
    // Names that could forge a line of the log.
    for name in ["", "a\nb", "a b", "\u{1b}[31m", &"x".repeat(65)] {
        let forged = Message::Hello(Hello {
            node: Name::new(name),
            ..hello()
        });
        assert!(
            decode(&encode(&forged).unwrap()[LENGTH..]).is_err(),
            "{name:?}"
        );
    }
}

#[test]
fn unknown_kinds_are_passed_over() {
    for kind in [
        0,
        8,
        *FLOW_REPLICATION.start(),
        *FLOW_REPLICATION.end(),
        u16::MAX,
    ] {
        let [high, low] = kind.to_be_bytes();
        assert_eq!(decode(&[high, low, 1, 2, 3]), Ok(None));
    }
}

const CONFIG: &str = r#"
[[virtual_router]]
name = "game"
interface = "eth0"
vrid = 51
addresses = ["192.168.1.25/24", "192.168.1.30/24"]
[[virtual_router]]
name = "chat"
interface = "eth0"
vrid = 52
addresses = ["192.168.1.40/24"]
[probe.health]
type = "http"
[[service]]
name = "game"
address = "192.168.1.25"
port = 8765
probes = ["health"]
[[service.backend]]
name = "primary"
address = "192.168.1.26"
[[service.backend]]
name = "backup"
address = "192.168.1.27"
"#;

fn config(text: &str) -> Config {
    Config::parse("a.toml", text, "a").unwrap_or_else(|errors| panic!("{errors}"))
}

/// What differs after a change of the text.
fn differs(from: &str, to: &str) -> Vec<Part> {
    assert!(CONFIG.contains(from), "{from}");
    let changed = config(&CONFIG.replacen(from, to, 1));
    ConfigDigest::of(&config(CONFIG)).differences(&ConfigDigest::of(&changed))
}

#[test]
fn a_difference_has_a_name() {
    assert_eq!(differs("vrid = 51", "vrid = 53"), [Part::VirtualRouters]);
    assert_eq!(
        differs("/24\", \"192.168.1.30/24", "/24"),
        [Part::VirtualRouters]
    );
    let faster = "vrid = 51\nadvert_interval = \"100ms\"";
    assert_eq!(differs("vrid = 51", faster), [Part::VirtualRouters]);
    assert_eq!(differs("port = 8765", "port = 8765\nmin_healthy = 1"), []);
    assert_eq!(
        differs("probes =", "slow_start = \"1s\"\nprobes ="),
        [Part::Services]
    );
    assert_eq!(
        differs("probes =", "deny_sources = [\"10.0.0.0/8\"]\nprobes ="),
        [Part::Services]
    );
    assert_eq!(
        differs("\"backup\"", "\"backup\"\ntier = 2"),
        [Part::Backends]
    );
    assert_eq!(differs("192.168.1.27", "192.168.1.28"), [Part::Backends]);
    assert_eq!(differs("\"http\"", "\"http\"\nfall = 2"), [Part::Probes]);
    assert_eq!(differs("\"http\"", "\"tcp\""), [Part::Probes]);
    let network = "[tunnel]\nsource4 = \"172.17.0.0/16\"\n[[virtual_router]]";
    assert_eq!(differs("[[virtual_router]]", network), [Part::Tunnel]);
    // Whose key is the service's port changes with it.
    assert!(differs("8765", "8766").contains(&Part::Services));
}

#[test]
fn what_is_each_nodes_own_makes_no_difference() {
    let own = "vrid = 51\npriority = 90\npeers = [\"192.168.1.27\"]\nsource = \"192.168.1.26\"\n\
               preempt = false";
    assert_eq!(differs("vrid = 51", own), []);
    assert_eq!(
        differs(
            "name = \"game\"\ninterface = \"eth0\"",
            "name = \"g\"\ninterface = \"ens3\""
        ),
        []
    );
    assert_eq!(
        differs("[probe.health]", "[log]\nlevel = \"debug\"\n[probe.health]"),
        []
    );
    let order = "\"192.168.1.30/24\", \"192.168.1.25/24\"";
    assert_eq!(
        differs("\"192.168.1.25/24\", \"192.168.1.30/24\"", order),
        []
    );
}

/// The digest is part of the protocol: were it to change, nodes of two versions would differ.
#[test]
fn the_digest_is_this_one() {
    let digest = ConfigDigest::of(&config(CONFIG));
    let short: Vec<String> = digest
        .parts
        .iter()
        .map(|part| format!("{:02x}{:02x}", part[0], part[1]))
        .collect();
    assert_eq!(short.join(" "), "89e8 170b ae62 857e fb5d");
}

#[test]
fn signs_of_life_are_as_frequent_as_adverts() {
    let period = |interval: &str| {
        let text = CONFIG.replacen(
            "vrid = 51",
            &format!("vrid = 51\nadvert_interval = \"{interval}\""),
            1,
        );
        period(&config(&text)).as_millis()
    };
    assert_eq!(period("1s"), 500);
    assert_eq!(period("100ms"), 50);
    assert_eq!(period("10ms"), 10);
    assert_eq!(period("40s"), 500, "the other virtual router has 1 s");
}

/// The rule that keeps a crash from being noticed later with the channel than without.
#[test]
fn no_takeover_is_delayed_by_belief() {
    for interval in [10_u64, 20, 100, 1000, 5000, 40_950].map(Duration::from_millis) {
        for priority in [1_u32, 100, 254] {
            let skew = interval * (256 - priority) / 256;
            // The crash comes as late as it can after the last advert, and right after a sign of life.
            let (advert, crash) = (Duration::ZERO, interval);
            let fires = advert + interval * 3 + skew;
            assert!(crash + belief(interval) <= fires, "{interval:?} {priority}");
        }
    }
}
