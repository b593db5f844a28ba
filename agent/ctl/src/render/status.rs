//! The whole of a node at one look.

use std::time::Duration;

use steerd_core::{
    api::{BackendStatus, ServiceStatus, Status, VirtualRouterStatus, human_duration},
    config::XdpMode,
};

use super::{mode_word, role_word, socket, state_word};
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
    for router in &status.virtual_routers {
        text.push('\n');
        virtual_router(look, router, &mut text);
    }
    if !status.services.is_empty() {
        text.push_str(&format!(
            "\n{}\n{}",
            services(look, &status.services),
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
        Column::right("TIER"),
        Column::right("IN USE"),
        Column::right("PACKETS"),
        Column::right("BYTES"),
    ];
    let mut table = Table::new(look, columns);
    for service in services {
        let in_use = service
            .backends
            .iter()
            .filter(|backend| backend.in_use)
            .count();
        let tier = match service.active_tier {
            Some(tier) => Cell::new(tier),
            None => Cell::toned("none", Tone::Bad),
        };
        table.row([
            Cell::new(&service.name),
            Cell::new(format_args!(
                "{}/{}",
                socket(service.address, service.port),
                service.protocol
            )),
            Cell::new(&service.virtual_router),
            tier,
            Cell::new(format_args!("{in_use} of {}", service.backends.len())),
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
            Cell::new(backend.tier),
            Cell::new(backend.weight),
            Cell::new(mode_word(backend.mode)),
            Cell::toned(state, tone),
            Cell::new(ago(backend.since_ms)),
            Cell::new(yes(backend.in_use)),
            Cell::or_dash(
                backend
                    .latency_us
                    .map(Duration::from_micros)
                    .map(human_duration),
            ),
            Cell::new(number(backend.packets)),
            Cell::new(bytes(backend.bytes)),
            Cell::new(&backend.reason),
        ]);
    }
    table.to_string()
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
        Column::right("PACKETS"),
        Column::prose("REASON"),
    ];
    let mut table = Table::new(look, columns);
    for (service, backend) in each(&status.services) {
        let (state, tone) = state_word(backend.state);
        table.row([
            Cell::new(&service.name),
            Cell::new(&backend.name),
            Cell::new(backend.tier),
            Cell::new(mode_word(backend.mode)),
            Cell::toned(state, tone),
            Cell::new(ago(backend.since_ms)),
            Cell::new(yes(backend.in_use)),
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
        router.priority,
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
    for diagnosis in &router.diagnoses {
        text.push_str(&format!(
            "  {}    {}\n",
            look.paint("problem", Tone::Bad),
            clean(diagnosis)
        ));
    }
}

fn each(services: &[ServiceStatus]) -> impl Iterator<Item = (&ServiceStatus, &BackendStatus)> {
    services.iter().flat_map(|service| {
        service
            .backends
            .iter()
            .map(move |backend| (service, backend))
    })
}

fn yes(is: bool) -> &'static str {
    if is { "yes" } else { "no" }
}

fn ago(ms: u64) -> String {
    human_duration(Duration::from_millis(ms))
}

#[cfg(test)]
mod tests {
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
            services: Vec::new(),
            verdicts: Vec::new(),
            dropped_adverts: Vec::new(),
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
    fn a_service_that_goes_nowhere() {
        let mut service = samples::status().services.remove(0);
        service.active_tier = None;
        service.backends.clear();
        let expected = "\
SERVICE  ADDRESS                VIRTUAL ROUTER  TIER  IN USE  PACKETS    BYTES
game     192.168.1.25:8765/tcp  game            none  0 of 0  981,204  1.1 GiB
";
        assert_eq!(services(Look::default(), &[service]), expected);
    }

    #[test]
    fn services_and_backends() {
        let services_of_sample = samples::status().services;
        documented(&services(Look::default(), &services_of_sample));
        documented(&backends(Look::default(), &services_of_sample));
    }
}
