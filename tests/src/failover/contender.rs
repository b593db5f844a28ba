//! Who is measured and how fast it speaks, with the configurations and commands that follow.

use std::{fmt::Write as _, net::Ipv4Addr, path::Path, process::Command};

use crate::{
    node::{Binaries, NodeId},
    site::keepalived,
    switch::{Host, INTERFACE},
};

/// The virtual address.
pub const VIP: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 25);

/// The port that is answered on, and steerd's service.
pub const PORT: u16 = 8766;

/// Whose nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contender {
    /// Two of steerd.
    Steerd,
    /// Two of keepalived.
    Keepalived,
}

/// How fast the nodes speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// The time between two adverts, in milliseconds.
    pub advert_ms: u32,
}

impl Pace {
    /// All that are measured, the fastest first: what goes wrong shows early.
    pub const ALL: [Self; 3] = [
        Self { advert_ms: 10 },
        Self { advert_ms: 100 },
        Self { advert_ms: 1000 },
    ];

    /// Who is measured at this pace.
    #[must_use]
    pub const fn contenders(self) -> &'static [Contender] {
        &[Contender::Steerd, Contender::Keepalived]
    }
}

impl Contender {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Steerd => "steerd",
            Self::Keepalived => "keepalived",
        }
    }

    /// What its daemon's log has in the line of a role.
    #[must_use]
    pub const fn logged(self, role: Role) -> &'static str {
        match (self, role) {
            (Self::Steerd, Role::Master) => "-> master",
            (Self::Steerd, Role::Backup) => "-> backup",
            (Self::Keepalived, Role::Master) => "Entering MASTER STATE",
            (Self::Keepalived, Role::Backup) => "Entering BACKUP STATE",
        }
    }

    /// A node's configuration. All that moves is the address: its service is on its own host.
    #[must_use]
    pub fn config(self, node: NodeId, pace: Pace) -> String {
        let Pace { advert_ms } = pace;
        let (name, priority, own) = (node.name(), node.priority(), node.spec().v4());
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = match self {
            Self::Steerd => write!(
                text,
                "[node]\nname = \"{name}\"\n\
                 [[virtual_router]]\nname = \"vr\"\ninterface = \"{INTERFACE}\"\nvrid = 51\n\
                 priority = {priority}\nadvert_interval = \"{advert_ms}ms\"\n\
                 addresses = [\"{VIP}/24\"]\n\
                 [[service]]\nname = \"echo\"\naddress = \"{VIP}\"\nport = {PORT}\n\
                 protocol = \"udp\"\n\
                 [[service.backend]]\nname = \"here\"\naddress = \"{own}\"\nmode = \"local\"\n"
            ),
            Self::Keepalived => write!(
                text,
                "global_defs {{\n  vrrp_version 3\n}}\nvrrp_instance vr {{\n  state BACKUP\n  \
                 interface {INTERFACE}\n  virtual_router_id 51\n  priority {priority}\n  \
                 advert_int {}\n  virtual_ipaddress {{\n    {VIP}/24\n  }}\n}}\n",
                f64::from(advert_ms) / 1e3
            ),
        };
        text
    }

    /// The command that starts a node's daemon with the configuration in `config`.
    #[must_use]
    pub fn command(self, host: &Host, binaries: &Binaries, config: &Path) -> Command {
        match self {
            Self::Steerd => {
                let mut command = host.namespace.command(&binaries.steerd);
                command.arg("--config").arg(config);
                command
            }
            Self::Keepalived => keepalived::command(host, config),
        }
    }
}

/// A role, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It holds the address.
    Master,
    /// It waits for it.
    Backup,
}

#[cfg(test)]
mod tests {
    use steerd_core::config::Config;

    use super::*;

    #[test]
    fn all_configurations_of_steerd_are_valid() {
        for pace in Pace::ALL {
            for node in NodeId::ALL {
                let text = Contender::Steerd.config(node, pace);
                if let Err(mistakes) = Config::parse("steerd.toml", &text, "host") {
                    panic!("{pace:?}: {mistakes}\n{text}");
                }
            }
        }
    }

    #[test]
    fn keepalived_is_given_its_interval_in_seconds() {
        let config = |pace| Contender::Keepalived.config(NodeId::Primary, pace);
        for (pace, line) in Pace::ALL.into_iter().zip(["0.01", "0.1", "1"]) {
            assert!(config(pace).contains(&format!("  advert_int {line}\n")));
        }
    }
}
