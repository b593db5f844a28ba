//! `steerctl check`: is this configuration right? Needs no daemon and no rights, so that it can
//! run where configurations are written.

use std::{fs, path::Path};

use serde::Serialize;
use steerd_core::config::{Config, ConfigErrors, Encapsulation, Mode, Scheduler};

use crate::table::{Cell, Column, Look, Table};

/// What a right configuration sets up.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Summary {
    file: String,
    node: String,
    interfaces: Vec<String>,
    virtual_routers: Vec<VirtualRouter>,
    services: Vec<Service>,
}

#[derive(Debug, PartialEq, Serialize)]
struct VirtualRouter {
    name: String,
    interface: String,
    vrid: u8,
    priority: u8,
    addresses: Vec<String>,
}

#[derive(Debug, PartialEq, Serialize)]
struct Service {
    name: String,
    address: String,
    protocol: String,
    virtual_router: String,
    scheduler: Scheduler,
    probes: Vec<String>,
    backends: Vec<Backend>,
}

#[derive(Debug, PartialEq, Serialize)]
struct Backend {
    name: String,
    address: String,
    tier: u8,
    weight: u16,
    sorry: bool,
    mode: Mode,
    /// For mode tunnel.
    encapsulation: Option<Encapsulation>,
}

/// What is wrong with a configuration, for scripts.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Mistakes {
    /// One each, as `file:line:column: message`.
    mistakes: Vec<String>,
}

/// Parses `text`, which came from `file`.
pub(crate) fn check(file: &str, text: &str) -> Result<Summary, ConfigErrors> {
    Config::parse(file, text, &hostname()).map(|config| Summary::new(file, &config))
}

/// The mistakes, for scripts.
pub(crate) fn mistakes(errors: &ConfigErrors) -> Mistakes {
    Mistakes {
        mistakes: errors.lines().collect(),
    }
}

/// The summary for people.
pub(crate) fn render(look: Look, summary: &Summary) -> String {
    let mut text = format!(
        "{} is right: node {}, program on {}\n\n",
        summary.file,
        summary.node,
        summary.interfaces.join(", ")
    );
    let mut routers = Table::new(
        look,
        [
            Column::left("VIRTUAL ROUTER"),
            Column::left("INTERFACE"),
            Column::right("VRID"),
            Column::right("PRIORITY"),
            Column::prose("ADDRESSES"),
        ],
    );
    for router in &summary.virtual_routers {
        routers.row([
            Cell::new(&router.name),
            Cell::new(&router.interface),
            Cell::new(router.vrid),
            Cell::new(router.priority),
            Cell::new(router.addresses.join(", ")),
        ]);
    }
    let mut services = Table::new(
        look,
        [
            Column::left("SERVICE"),
            Column::left("ADDRESS"),
            Column::left("VIRTUAL ROUTER"),
            Column::left("SCHEDULER"),
            Column::prose("PROBES"),
        ],
    );
    let mut backends = Table::new(
        look,
        [
            Column::left("SERVICE"),
            Column::left("BACKEND"),
            Column::left("ADDRESS"),
            Column::right("TIER"),
            Column::right("WEIGHT"),
            Column::left("MODE"),
        ],
    );
    for service in &summary.services {
        let probes = match service.probes.as_slice() {
            [] => "none: backends count as healthy".to_owned(),
            probes => probes.join(", "),
        };
        services.row([
            Cell::new(&service.name),
            Cell::new(format_args!("{}/{}", service.address, service.protocol)),
            Cell::new(&service.virtual_router),
            Cell::new(service.scheduler),
            Cell::new(probes),
        ]);
        for backend in &service.backends {
            backends.row([
                Cell::new(&service.name),
                Cell::new(&backend.name),
                Cell::new(&backend.address),
                if backend.sorry {
                    Cell::new("sorry")
                } else {
                    Cell::new(backend.tier)
                },
                Cell::new(backend.weight),
                match backend.encapsulation {
                    Some(encapsulation) => {
                        Cell::new(format_args!("{}, {encapsulation}", backend.mode))
                    }
                    None => Cell::new(backend.mode),
                },
            ]);
        }
    }
    text.push_str(&format!("{routers}\n{services}\n{backends}"));
    text
}

impl Summary {
    fn new(file: &str, config: &Config) -> Self {
        let virtual_routers = config.virtual_routers.iter().map(|router| VirtualRouter {
            name: router.name.to_string(),
            interface: router.interface.to_string(),
            vrid: router.vrid,
            priority: router.priority,
            addresses: router.addresses.iter().map(ToString::to_string).collect(),
        });
        let services = config.services.iter().map(|service| Service {
            name: service.name.to_string(),
            address: crate::render::socket(service.address, service.port),
            protocol: service.protocol.to_string(),
            virtual_router: service.virtual_router.to_string(),
            scheduler: service.policy.scheduler,
            probes: service
                .probes
                .iter()
                .map(|probe| probe.name.to_string())
                .collect(),
            backends: service.backends.iter().map(backend).collect(),
        });
        Self {
            file: file.to_owned(),
            node: config.node.name.to_string(),
            interfaces: config
                .dataplane
                .interfaces
                .iter()
                .map(ToString::to_string)
                .collect(),
            virtual_routers: virtual_routers.collect(),
            services: services.collect(),
        }
    }
}

fn backend(backend: &steerd_core::config::Backend) -> Backend {
    Backend {
        name: backend.name.to_string(),
        address: crate::render::socket(backend.address, backend.port),
        tier: backend.tier,
        weight: backend.weight,
        sorry: backend.sorry,
        mode: backend.mode,
        encapsulation: (backend.mode == Mode::Tunnel).then_some(backend.encapsulation),
    }
}

/// Names the node where the configuration does not; the daemon takes the same.
pub(crate) fn hostname() -> String {
    let name = fs::read_to_string(Path::new("/proc/sys/kernel/hostname")).unwrap_or_default();
    match name.trim() {
        "" => "localhost".to_owned(),
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::samples::documented;

    /// The example of docs/steerctl.md, from the line after `marker` to the end of its block.
    fn example(marker: &str) -> &'static str {
        let documentation = include_str!("../../../docs/steerctl.md");
        let (_, after) = documentation.split_once(marker).unwrap();
        let (_, block) = after.split_once("```toml\n").unwrap();
        block.split_once("```").unwrap().0
    }

    #[test]
    fn a_right_configuration_is_summed_up() {
        let summary = check("steerd.toml", example("Of a right one:")).unwrap();
        documented(&render(Look::default(), &summary));
    }

    #[test]
    fn modes_and_sorry_backends_are_summed_up() {
        let text = include_str!("../../../config/examples/tunnel.toml");
        let summary = check("tunnel.toml", text).unwrap();
        let shown = render(Look::default(), &summary);
        for part in [
            "least-connections",
            "1       2  tunnel, gue",
            "1       1  tunnel, ipip",
            "sorry       1  auto",
        ] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        let json = serde_json::to_string(&summary).unwrap();
        assert!(
            json.contains(r#""sorry":false,"mode":"tunnel","encapsulation":"gue""#),
            "{json}"
        );
    }

    #[test]
    fn all_mistakes_are_told() {
        let errors = check("steerd.toml", example("Of a wrong one:")).unwrap_err();
        documented(&format!("{errors}\n"));
        let lines = mistakes(&errors).mistakes;
        assert!(
            lines.len() > 1 && lines[0].starts_with("steerd.toml:"),
            "{lines:?}"
        );
    }
}
