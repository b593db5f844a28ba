//! The whole of a node at one look.

use std::time::Duration;

use steerd_core::{
    api::{
        BackendStatus, ServiceStatus, Status, TrackState, TrackStatus, VirtualRouterStatus,
        human_duration,
    },
    config::{Name, XdpMode},
};

use super::{role_word, socket, state_word};
use crate::table::{Cell, Column, Look, Table, Tone, bytes, clean, number};

/// How many notices are shown.
const NOTICES: usize = 5;

/// All of it. `now_unix_ms` is the time for which it is shown.
pub(crate) fn status(look: Look, status: &Status, now_unix_ms: u64) -> String {
    let mut text = format!(
        "{}, steerd {}, up {}, {}\n",
        clean(status.node.as_str()),
        clean(&status.version),
        human_duration(Duration::from_secs(status.uptime_s)),
        clean(&status.config)
    );
    for interface in &status.interfaces {
        let (up, tone) = if interface.up {
            ("up", Tone::Good)
        } else {
            ("down", Tone::Bad)
        };
        let mode = match interface.xdp_mode {
            XdpMode::Auto => "auto",
            XdpMode::Driver => "driver",
            XdpMode::Generic => "generic",
        };
        let name = clean(interface.name.as_str());
        text.push_str(&format!("{name} is {}, XDP {mode}\n", look.paint(up, tone)));
    }
    for fault in &status.faults {
        let fails = look.paint("FAILS", Tone::Bad);
        text.push_str(&format!("{fails}  {}\n", clean(fault)));
    }
    for router in &status.virtual_routers {
        text.push('\n');
        virtual_router(look, router, &mut text);
    }
    if !status.tracks.is_empty() {
        text.push_str(&format!("\n{}", tracks(look, &status.tracks)));
    }
    if let Some(channel) = &status.channel {
        text.push('\n');
        super::channel::channel(look, channel, now_unix_ms, &mut text);
    }
    if !status.services.is_empty() {
        text.push_str(&format!(
            "\n{}\n{}",
            carried(look, &status.services),
            short(look, status)
        ));
    }
    if !status.verdicts.is_empty() {
        let counts = status
            .verdicts
            .iter()
            .map(|count| format!("{} {}", count.verdict, number(count.packets)));
        text.push_str(&format!("\n{}", look.list("PACKETS  ", counts)));
    }
    if !status.events.is_empty() {
        let counts = status
            .events
            .iter()
            .map(|count| format!("{} {}", count.event, number(count.times)));
        text.push_str(&look.list("EVENTS   ", counts));
    }
    let tables = status.tables.iter().filter(|table| table.capacity != 0);
    let mut tables = tables
        .map(|table| {
            let (used, capacity) = (number(table.used), number(table.capacity));
            format!("{} {used} of {capacity}", table.table)
        })
        .peekable();
    if tables.peek().is_some() {
        text.push_str(&look.list("TABLES   ", tables));
    }
    if !status.dropped_adverts.is_empty() {
        let drops = status
            .dropped_adverts
            .iter()
            .map(|drop| format!("{} {}", clean(&drop.cause), number(drop.packets)));
        text.push_str(&format!("\n{}", look.list("DROPPED ADVERTS  ", drops)));
    }
    if !status.recent.is_empty() {
        text.push('\n');
        let columns = [Column::right("AGO"), Column::prose("WHAT HAPPENED")];
        let mut table = Table::new(look, columns);
        let older = status.recent.len().saturating_sub(NOTICES);
        for notice in &status.recent[older..] {
            let ago = ago(now_unix_ms.saturating_sub(notice.at_unix_ms));
            table.row([Cell::new(ago), Cell::new(&notice.text)]);
        }
        text.push_str(&table.to_string());
    }
    text
}

/// The services, with what they carried.
pub(crate) fn services(look: Look, services: &[ServiceStatus]) -> String {
    let columns = [
        Column::left("SERVICE"),
        Column::left("ADDRESS"),
        Column::left("VIRTUAL ROUTER"),
        Column::left("SCHEDULER"),
        Column::right("TIER"),
        Column::right("IN USE"),
        Column::right("CONNS"),
        Column::right("PACKETS"),
        Column::right("BYTES"),
    ];
    let mut table = Table::new(look, columns);
    for service in services {
        table.row([
            Cell::new(&service.name),
            place(service),
            Cell::new(&service.virtual_router),
            Cell::new(service.scheduler),
            active(service),
            in_use(service),
            connections(service.connections().map(|counts| counts.total())),
            Cell::new(number(service.packets)),
            Cell::new(bytes(service.bytes)),
        ]);
    }
    table.to_string()
}

/// The backends, with all that is known of each.
pub(crate) fn backends(look: Look, services: &[ServiceStatus]) -> String {
    let columns = [
        Column::left("SERVICE"),
        Column::left("BACKEND"),
        Column::left("ADDRESS"),
        Column::right("TIER"),
        Column::right("WEIGHT"),
        Column::left("MODE"),
        Column::left("STATE"),
        Column::right("SINCE"),
        Column::left("IN USE"),
        Column::right("CHECK"),
        Column::right("NEW"),
        Column::right("ESTABLISHED"),
        Column::right("CLOSING"),
        Column::right("PACKETS"),
        Column::right("BYTES"),
        Column::prose("REASON"),
    ];
    let mut table = Table::new(look, columns);
    for (service, backend) in each(services) {
        let (state, tone) = state_word(backend.state);
        table.row([
            Cell::new(&service.name),
            Cell::new(&backend.name),
            Cell::new(socket(backend.address, backend.port)),
            tier(backend),
            weight(backend),
            Cell::new(backend.mode),
            Cell::toned(state, tone),
            Cell::new(ago(backend.since_ms)),
            Cell::new(yes(backend.in_use)),
            Cell::or_dash(
                backend
                    .latency_us
                    .map(Duration::from_micros)
                    .map(human_duration),
            ),
            connections(backend.connections.map(|counts| counts.new)),
            connections(backend.connections.map(|counts| counts.established)),
            connections(backend.connections.map(|counts| counts.closing)),
            Cell::new(number(backend.packets)),
            Cell::new(bytes(backend.bytes)),
            Cell::new(&backend.reason),
        ]);
    }
    let counted = services.iter().filter_map(ServiceStatus::connections);
    match counted.reduce(|one, other| one + other) {
        Some(all) => format!(
            "{table}\nconnections: {} new, {} established, {} closing\n",
            number(all.new),
            number(all.established),
            number(all.closing)
        ),
        None => table.to_string(),
    }
}

/// The services, as far as they fit beside the rest.
fn carried(look: Look, services: &[ServiceStatus]) -> Table {
    let columns = [
        Column::left("SERVICE"),
        Column::left("ADDRESS"),
        Column::right("TIER"),
        Column::right("IN USE"),
        Column::right("CONNS"),
        Column::right("PACKETS"),
        Column::right("BYTES"),
    ];
    let mut table = Table::new(look, columns);
    for service in services {
        table.row([
            Cell::new(&service.name),
            place(service),
            active(service),
            in_use(service),
            connections(service.connections().map(|counts| counts.total())),
            Cell::new(number(service.packets)),
            Cell::new(bytes(service.bytes)),
        ]);
    }
    table
}

/// The backends, as far as they fit beside the rest.
fn short(look: Look, status: &Status) -> Table {
    let columns = [
        Column::left("SERVICE"),
        Column::left("BACKEND"),
        Column::right("TIER"),
        Column::left("MODE"),
        Column::left("STATE"),
        Column::right("SINCE"),
        Column::left("IN USE"),
        Column::right("CONNS"),
        Column::right("PACKETS"),
        Column::prose("REASON"),
    ];
    let mut table = Table::new(look, columns);
    for (service, backend) in each(&status.services) {
        let (state, tone) = state_word(backend.state);
        table.row([
            Cell::new(&service.name),
            Cell::new(&backend.name),
            tier(backend),
            Cell::new(backend.mode),
            Cell::toned(state, tone),
            Cell::new(ago(backend.since_ms)),
            Cell::new(yes(backend.in_use)),
            connections(backend.connections.map(|counts| counts.total())),
            Cell::new(number(backend.packets)),
            Cell::new(&backend.reason),
        ]);
    }
    table
}

/// A block, as there are few of them and much to say of each.
fn virtual_router(look: Look, router: &VirtualRouterStatus, text: &mut String) {
    let (role, tone) = role_word(router.role);
    text.push_str(&format!(
        "{}  {} for {}: {}\n",
        clean(router.name.as_str()),
        look.paint(&role.to_uppercase(), tone),
        ago(router.since_ms),
        clean(&router.cause)
    ));
    text.push_str(&format!(
        "  on {}, VRID {}, priority {}, an advert every {}\n",
        clean(router.interface.as_str()),
        router.vrid,
        priority(router),
        ago(router.advert_interval_ms)
    ));
    text.push_str(&look.list("  addresses  ", router.addresses.iter().cloned()));
    if let Some(master) = router.master {
        text.push_str(&format!("  master     {master}\n"));
    }
    let mut lead = "peers";
    for peer in &router.peers {
        let heard = match (peer.priority, peer.last_advert_ms) {
            (Some(priority), Some(last)) => {
                format!("priority {priority}, last advert {} ago", ago(last))
            }
            _ => "never heard".to_owned(),
        };
        text.push_str(&format!("  {lead:9}  {}, {heard}\n", peer.address));
        lead = "";
    }
    if router.rival_adverts + router.address_claims > 0 {
        text.push_str(&format!(
            "  rivals     {} adverts of other masters, {} claims of the addresses\n",
            router.rival_adverts, router.address_claims
        ));
    }
    if let Some(fenced) = &router.fenced {
        text.push_str(&format!(
            "  {}     for {}: {} took over ({}); no question for the addresses is answered here\n",
            look.paint("fenced", Tone::Bad),
            ago(fenced.since_ms),
            clean(&fenced.mac),
            clean(&fenced.by)
        ));
    }
    for diagnosis in &router.diagnoses {
        text.push_str(&format!(
            "  {}    {}\n",
            look.paint("problem", Tone::Bad),
            clean(diagnosis)
        ));
    }
}

/// The priority that counts, and how it comes about where that is not the configured one.
fn priority(router: &VirtualRouterStatus) -> String {
    let added = router.weightings.iter().map(|weighting| {
        let name = clean(weighting.track.as_str());
        format!(" {:+} {name}", weighting.adds)
    });
    let added: String = added.collect();
    match added.as_str() {
        "" => router.effective_priority.to_string(),
        added => format!(
            "{} (configured {}{added})",
            router.effective_priority, router.priority
        ),
    }
}

/// What is tracked.
fn tracks(look: Look, tracks: &[TrackStatus]) -> Table {
    let columns = [
        Column::left("TRACK"),
        Column::left("KIND"),
        Column::left("STATE"),
        Column::right("SINCE"),
        Column::right("WEIGHT"),
        Column::left("FOR"),
        Column::prose("LAST SEEN"),
    ];
    let mut table = Table::new(look, columns);
    for track in tracks {
        let (state, tone) = match track.state {
            TrackState::Undecided => ("undecided", Tone::Doubtful),
            TrackState::Good => ("good", Tone::Good),
            TrackState::Failing => ("failing", Tone::Doubtful),
            TrackState::Bad => ("bad", Tone::Bad),
            TrackState::Rising => ("rising", Tone::Doubtful),
        };
        let weight = match (track.fault, track.weight) {
            (true, _) => "fault".to_owned(),
            (false, Some(weight)) => format!("{weight:+}"),
            (false, None) => format!("{:+}", track.adds),
        };
        let routers: Vec<&str> = track.virtual_routers.iter().map(Name::as_str).collect();
        table.row([
            Cell::new(&track.name),
            Cell::new(&track.kind),
            Cell::toned(state, tone),
            Cell::new(ago(track.since_ms)),
            Cell::new(weight),
            Cell::new(routers.join(", ")),
            Cell::new(&track.last),
        ]);
    }
    table
}

fn each(services: &[ServiceStatus]) -> impl Iterator<Item = (&ServiceStatus, &BackendStatus)> {
    services.iter().flat_map(|service| {
        service
            .backends
            .iter()
            .map(move |backend| (service, backend))
    })
}

fn place(service: &ServiceStatus) -> Cell {
    let socket = socket(service.address, service.port);
    Cell::new(format_args!("{socket}/{}", service.protocol))
}

/// What takes new connections: a tier, in panic or not, or a backend that says sorry.
fn active(service: &ServiceStatus) -> Cell {
    let is_sorry = |backend: &BackendStatus| backend.sorry && backend.in_use;
    match service.active_tier {
        Some(tier) if service.panic => Cell::toned(format_args!("{tier}, panic"), Tone::Bad),
        Some(tier) => Cell::new(tier),
        None if service.backends.iter().any(is_sorry) => Cell::toned("sorry", Tone::Bad),
        None => Cell::toned("none", Tone::Bad),
    }
}

fn in_use(service: &ServiceStatus) -> Cell {
    let backends = service.backends.iter();
    let in_use = backends.filter(|backend| backend.in_use).count();
    Cell::new(format_args!("{in_use} of {}", service.backends.len()))
}

fn tier(backend: &BackendStatus) -> Cell {
    if backend.sorry {
        Cell::new("sorry")
    } else {
        Cell::new(backend.tier)
    }
}

/// The weight, and how much of it a backend in slow start has by now.
fn weight(backend: &BackendStatus) -> Cell {
    match backend.slow_start_percent {
        Some(percent) => Cell::toned(
            format_args!("{} at {percent}%", backend.weight),
            Tone::Doubtful,
        ),
        None => Cell::new(backend.weight),
    }
}

fn connections(count: Option<u64>) -> Cell {
    Cell::or_dash(count.map(number))
}

fn yes(is: bool) -> &'static str {
    if is { "yes" } else { "no" }
}

pub(super) fn ago(ms: u64) -> String {
    human_duration(Duration::from_millis(ms))
}

#[cfg(test)]
mod tests {
    use steerd_core::config::Scheduler;

    use super::{
        super::samples::{self, documented},
        *,
    };

    #[test]
    fn a_node_at_one_look() {
        documented(&status(
            Look::default(),
            &samples::status(),
            samples::NOW_UNIX_MS,
        ));
    }

    #[test]
    fn fits_the_terminal() {
        for width in [80, 100] {
            let look = Look {
                color: false,
                width: Some(width),
            };
            let shown = status(look, &samples::status(), samples::NOW_UNIX_MS);
            let tables = shown
                .split("SERVICE")
                .nth(1)
                .into_iter()
                .chain(shown.split("PACKETS ").last());
            for line in tables.flat_map(str::lines) {
                assert!(line.chars().count() <= usize::from(width), "{line}");
            }
        }
    }

    #[test]
    fn roles_and_states_are_coloured() {
        let look = Look {
            color: true,
            width: None,
        };
        let shown = status(look, &samples::status(), samples::NOW_UNIX_MS);
        assert!(shown.contains("\u{1b}[32mMASTER\u{1b}[0m"), "{shown:?}");
        assert!(shown.contains("\u{1b}[31mproblem"), "{shown:?}");
    }

    #[test]
    fn a_node_without_anything() {
        let empty = Status {
            interfaces: Vec::new(),
            virtual_routers: Vec::new(),
            tracks: Vec::new(),
            services: Vec::new(),
            verdicts: Vec::new(),
            events: Vec::new(),
            tables: Vec::new(),
            dropped_adverts: Vec::new(),
            faults: Vec::new(),
            recent: Vec::new(),
            ..samples::status()
        };
        let shown = status(Look::default(), &empty, samples::NOW_UNIX_MS);
        assert_eq!(
            shown,
            "game-a, steerd 0.1.0, up 2h 3m, /etc/steerd/steerd.toml\n"
        );
    }

    #[test]
    fn what_does_not_work_is_said_first() {
        let failing = Status {
            faults: vec!["service game is steered as before: no room\u{1b}".to_owned()],
            ..samples::status()
        };
        let shown = status(Look::default(), &failing, samples::NOW_UNIX_MS);
        let line = "\nFAILS  service game is steered as before: no room";
        let (before, _) = shown.split_once(line).expect("it is there");
        assert!(before.lines().count() <= 3, "above the routers: {shown}");
        assert!(!shown.contains('\u{1b}'), "{shown:?}");
    }

    #[test]
    fn a_service_that_goes_nowhere() {
        let mut service = samples::status().services.remove(0);
        service.active_tier = None;
        service.backends.clear();
        let expected = "\
SERVICE  ADDRESS                VIRTUAL ROUTER  SCHEDULER  TIER  IN USE  CONNS  PACKETS    BYTES
game     192.168.1.25:8765/tcp  game            maglev     none  0 of 0      -  981,204  1.1 GiB
";
        assert_eq!(services(Look::default(), &[service]), expected);
    }

    #[test]
    fn panic_sorry_and_slow_start_are_seen() {
        let mut service = samples::status().services.remove(0);
        service.panic = true;
        service.scheduler = Scheduler::LeastConnections;
        let tiers = |service: &ServiceStatus| {
            let shown = services(Look::default(), std::slice::from_ref(service));
            shown.lines().nth(1).unwrap().to_owned()
        };
        let line = tiers(&service);
        assert!(
            line.contains("least-connections  1, panic  1 of 2"),
            "{line}"
        );
        service.panic = false;
        service.active_tier = None;
        service.backends[1].sorry = true;
        service.backends[1].in_use = true;
        let line = tiers(&service);
        assert!(line.contains("  sorry  2 of 2"), "{line}");
        service.backends[0].slow_start_percent = Some(28);
        service.backends[0].connections = None;
        service.backends[1].connections = None;
        let shown = backends(Look::default(), &[service]);
        assert!(shown.contains("  100 at 28%  local"), "{shown}");
        assert!(shown.contains("  sorry  "), "{shown}");
        assert!(!shown.contains("connections:"), "{shown}");
    }

    #[test]
    fn services_and_backends() {
        let services_of_sample = samples::status().services;
        documented(&services(Look::default(), &services_of_sample));
        documented(&backends(Look::default(), &services_of_sample));
    }
}
