//! A node of the seed's deployment, for tests and for the documentation's examples.

use steerd_core::{
    api::{
        BackendState, BackendStatus, ChannelPeerStatus, ChannelStatus, Connections, EventCount,
        InterfaceStatus, PeerConfig, PeerRole, PeerStatus, PeerView, RecentNotice, RefusedPeers,
        ServiceStatus, Status, TableUse, TrackState, TrackStatus, VerdictCount,
        VirtualRouterStatus, Weighting,
    },
    config::{Mode, Name, Protocol, Scheduler, XdpMode},
    vrrp::election::Role,
};

/// Fails unless docs/steerctl.md shows exactly this as an example: its examples are the expected
/// texts of the tests.
pub(crate) fn documented(shown: &str) {
    let documentation = include_str!("../../../../docs/steerctl.md");
    assert!(
        documentation.contains(&format!("\n{shown}```\n")),
        "not in docs/steerctl.md:\n{shown}"
    );
}

pub(crate) const NOW_UNIX_MS: u64 = 1_790_000_000_000;

const SECOND: u64 = 1000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;

pub(crate) fn status() -> Status {
    Status {
        node: Name::new("game-a"),
        version: "0.1.0".into(),
        uptime_s: (2 * HOUR + 3 * MINUTE) / SECOND,
        config: "/etc/steerd/steerd.toml".into(),
        interfaces: vec![InterfaceStatus {
            name: Name::new("eth0"),
            up: true,
            xdp_mode: XdpMode::Driver,
        }],
        virtual_routers: vec![VirtualRouterStatus {
            name: Name::new("game"),
            interface: Name::new("eth0"),
            vrid: 51,
            role: Role::Master,
            since_ms: 2 * HOUR + MINUTE,
            cause: "no advert from 192.168.1.27 within 3.6s".into(),
            priority: 110,
            effective_priority: 120,
            weightings: vec![Weighting {
                track: Name::new("uplink"),
                adds: 10,
            }],
            advert_interval_ms: SECOND,
            master: None,
            addresses: vec!["192.168.1.25/24".into()],
            peers: vec![
                PeerStatus {
                    address: [192, 168, 1, 27].into(),
                    priority: Some(100),
                    last_advert_ms: Some(400),
                },
                PeerStatus {
                    address: [192, 168, 1, 28].into(),
                    priority: None,
                    last_advert_ms: None,
                },
            ],
            diagnoses: vec![
                "192.168.1.27 sends an advert interval of 500ms, this node 1s: make them equal"
                    .into(),
            ],
            rival_adverts: 0,
            address_claims: 0,
            fenced: None,
        }],
        tracks: vec![
            TrackStatus {
                name: Name::new("gateway"),
                kind: "gateway".into(),
                fault: true,
                weight: None,
                adds: 0,
                state: TrackState::Failing,
                since_ms: 2 * HOUR + MINUTE,
                last: "ARP is not answered within 500ms (1 of 3)".into(),
                virtual_routers: vec![Name::new("game")],
            },
            TrackStatus {
                name: Name::new("uplink"),
                kind: "interface".into(),
                fault: false,
                weight: Some(10),
                adds: 10,
                state: TrackState::Good,
                since_ms: 5 * MINUTE + 12 * SECOND,
                last: "interface eth1 is up".into(),
                virtual_routers: vec![Name::new("game")],
            },
        ],
        services: vec![ServiceStatus {
            name: Name::new("game"),
            address: [192, 168, 1, 25].into(),
            port: 8765,
            protocol: Protocol::Tcp,
            virtual_router: Name::new("game"),
            scheduler: Scheduler::Maglev,
            active_tier: Some(1),
            panic: false,
            packets: 981_204,
            bytes: 1_181_116_006,
            backends: vec![
                BackendStatus {
                    name: Name::new("primary"),
                    address: [192, 168, 1, 26].into(),
                    port: 8765,
                    weight: 100,
                    slow_start_percent: None,
                    tier: 1,
                    sorry: false,
                    mode: Mode::Local,
                    state: BackendState::Up,
                    reason: "all probes pass".into(),
                    since_ms: 2 * HOUR + MINUTE,
                    in_use: true,
                    latency_us: Some(730),
                    connections: Some(Connections {
                        new: 3,
                        established: 412,
                        closing: 9,
                    }),
                    packets: 981_204,
                    bytes: 1_181_116_006,
                },
                BackendStatus {
                    name: Name::new("backup"),
                    address: [192, 168, 1, 27].into(),
                    port: 8765,
                    weight: 100,
                    slow_start_percent: None,
                    tier: 2,
                    sorry: false,
                    mode: Mode::Dsr,
                    state: BackendState::Down,
                    reason: "health: no answer within 3.0s".into(),
                    since_ms: 4200,
                    in_use: false,
                    latency_us: None,
                    connections: Some(Connections::default()),
                    packets: 0,
                    bytes: 0,
                },
            ],
        }],
        dropped_adverts: Vec::new(),
        faults: Vec::new(),
        verdicts: [("not-vip", 12_031), ("local", 981_204)]
            .map(|(verdict, packets)| VerdictCount {
                verdict: verdict.into(),
                packets,
                bytes: packets * 100,
            })
            .to_vec(),
        events: [("flow-recorded", 12_044), ("flow-evicted-new", 3)]
            .map(|(event, times)| EventCount {
                event: event.into(),
                times,
            })
            .to_vec(),
        tables: [
            ("FLOWS4", 424, 2_097_152),
            ("FLOWS6", 0, 1_048_576),
            ("NAT", 0, 0),
        ]
        .map(|(table, used, capacity)| TableUse {
            table: table.into(),
            used,
            capacity,
        })
        .to_vec(),
        recent: [
            (2 * HOUR + 3 * MINUTE, "eth0: up"),
            (2 * HOUR + 2 * MINUTE, "game/primary: up: all probes pass"),
            (2 * HOUR + 2 * MINUTE, "game: init -> backup: started"),
            (
                2 * HOUR + MINUTE,
                "game: backup -> master: no advert from 192.168.1.27 within 3.6s",
            ),
            (5 * MINUTE + 12 * SECOND, "game/backup: up: all probes pass"),
            (4200, "game/backup: down: health: no answer within 3.0s"),
        ]
        .map(|(ago, text)| RecentNotice {
            at_unix_ms: NOW_UNIX_MS - ago,
            text: text.into(),
        })
        .to_vec(),
        channel: None,
    }
}

/// What two nodes know of each other on the channel.
pub(crate) fn channel() -> ChannelStatus {
    let days = |days: i64| i64::try_from(NOW_UNIX_MS / SECOND).unwrap_or(0) + days * 86_400 + 60;
    ChannelStatus {
        listen: ([192, 168, 1, 26], 7112).into(),
        certificate_expires_unix_s: days(412),
        warnings: vec![
            "the certificate of game-b expires in 12 days: make a new one by `steerctl pki issue \
             game-b`"
                .into(),
        ],
        refused: vec![RefusedPeers {
            cause: "certificate of another authority".into(),
            times: 3,
        }],
        peers: vec![
            ChannelPeerStatus {
                name: Name::new("game-b"),
                address: ([192, 168, 1, 27], 7112).into(),
                up: true,
                since_ms: 2 * HOUR,
                error: None,
                version: Some("0.1.0".into()),
                round_trip_us: Some(412),
                last_sign_ms: Some(120),
                config: PeerConfig::Differs(vec!["services".into(), "backends".into()]),
                certificate_expires_unix_s: Some(days(12)),
                roles: vec![PeerRole {
                    virtual_router: Name::new("game"),
                    role: Role::Backup,
                    priority: 100,
                    able: true,
                }],
                views: vec![PeerView {
                    service: Name::new("game"),
                    backend: Name::new("backup"),
                    state: "up".into(),
                    since_ms: 5 * MINUTE,
                }],
            },
            ChannelPeerStatus {
                name: Name::new("game-c"),
                address: ([192, 168, 1, 28], 7112).into(),
                up: false,
                since_ms: 4200,
                error: Some("connection cut: Connection refused (os error 111)".into()),
                version: None,
                round_trip_us: None,
                last_sign_ms: None,
                config: PeerConfig::Unknown,
                certificate_expires_unix_s: None,
                roles: Vec::new(),
                views: Vec::new(),
            },
        ],
    }
}
