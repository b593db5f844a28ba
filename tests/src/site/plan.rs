//! What a site is like: shape, servers, policy; and the configurations that follow from it.

use std::{fmt::Write as _, fs, net::IpAddr, path::Path};

use super::{
    hosts::{self, BACK_INTERFACE, CLIENT, EDGE, NAT_NUMBER},
    vip,
};
use crate::{
    error::{Context, Result},
    switch::{HostSpec, INTERFACE},
};

/// IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::V4 => Self::V6,
            Self::V6 => Self::V4,
        }
    }

    /// What the names of its services end in.
    const fn suffix(self) -> &'static str {
        match self {
            Self::V4 => "",
            Self::V6 => "6",
        }
    }
}

/// How the networks hang together: see [`crate::site`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// All are on one network.
    OneArm,
    /// Packets come in through one interface of steerd's host, and leave by another.
    TwoArms,
    /// The same, but both are VLANs of one interface.
    OneCable {
        /// The VLAN of the network at the front; 0: its frames have no tag.
        front: u16,
        /// Likewise at the back.
        back: u16,
    },
    /// The servers are behind a router.
    FarServers,
    /// The client is behind a router, on a network whose packets are smaller.
    FarClient,
}

/// How packets reach a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// It is on steerd's own host.
    Local,
    /// By a new MAC.
    Dsr,
    /// Within an IP header of the same family.
    Ipip,
    /// Within an IP header of the other family.
    Cross,
    /// Within IP and UDP.
    Gue,
    /// Translated, to another port.
    Nat,
}

impl Way {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Local,
        Self::Dsr,
        Self::Ipip,
        Self::Cross,
        Self::Gue,
        Self::Nat,
    ];

    /// Its name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Dsr => "dsr",
            Self::Ipip => "ipip",
            Self::Cross => "cross",
            Self::Gue => "gue",
            Self::Nat => "nat",
        }
    }

    /// The verdict of packets that go it.
    #[must_use]
    pub const fn verdict(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Dsr => "dsr",
            Self::Ipip | Self::Cross | Self::Gue => "tunnel",
            Self::Nat => "nat",
        }
    }

    /// Whether the server unwraps.
    #[must_use]
    pub const fn is_tunnel(self) -> bool {
        matches!(self, Self::Ipip | Self::Cross | Self::Gue)
    }

    /// What is added to a packet of this family: it must be so much smaller.
    #[must_use]
    pub const fn overhead(self, family: Family) -> u32 {
        match (self, family) {
            (Self::Ipip, Family::V4) | (Self::Cross, Family::V6) => 20,
            (Self::Ipip, Family::V6) | (Self::Cross, Family::V4) => 40,
            (Self::Gue, Family::V4) => 28,
            (Self::Gue, Family::V6) => 48,
            (Self::Local | Self::Dsr | Self::Nat, _) => 0,
        }
    }

    /// The keys of its `[[service.backend]]`.
    const fn keys(self) -> &'static str {
        match self {
            Self::Local => "mode = \"local\"\n",
            Self::Dsr => "mode = \"dsr\"\n",
            Self::Ipip | Self::Cross => "mode = \"tunnel\"\n",
            Self::Gue => "mode = \"tunnel\"\nencapsulation = \"gue\"\n",
            Self::Nat => "mode = \"nat\"\n",
        }
    }
}

/// What servers offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    /// The game: HTTP and WebSocket.
    Game,
    /// iperf3.
    Bulk,
    /// HTTP of a server that keeps connections.
    Web,
    /// A UDP echo.
    Echo,
    /// UDP, for a test to listen on.
    Talk,
}

impl Port {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Game, Self::Bulk, Self::Web, Self::Echo, Self::Talk];

    /// Where servers listen.
    #[must_use]
    pub const fn of_server(self) -> u16 {
        match self {
            Self::Game => 8765,
            Self::Bulk => 5201,
            Self::Web => 8080,
            Self::Echo => 8766,
            Self::Talk => 8767,
        }
    }

    /// Where clients connect to, if ports are translated.
    const fn translated(self) -> u16 {
        match self {
            Self::Game => 443,
            Self::Bulk => 5300,
            Self::Web => 80,
            Self::Echo => 7,
            Self::Talk => 517,
        }
    }

    /// The name of its service.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Game => "game",
            Self::Bulk => "bulk",
            Self::Web => "web",
            Self::Echo => "echo",
            Self::Talk => "talk",
        }
    }

    const fn protocol(self) -> &'static str {
        match self {
            Self::Game | Self::Bulk | Self::Web => "tcp",
            Self::Echo | Self::Talk => "udp",
        }
    }
}

/// A server.
#[derive(Debug, Clone, Copy)]
pub struct ServerPlan {
    /// Its name: `s1`, `s2` or `s3`.
    pub name: &'static str,
    /// How packets reach it.
    pub way: Way,
    /// Further lines for its `[[service.backend]]` of the service on a port.
    pub keys: fn(Port) -> &'static str,
}

/// What a site is like.
#[derive(Debug, Clone)]
pub struct Plan {
    /// How the networks hang together.
    pub shape: Shape,
    /// The servers of all services.
    pub servers: Vec<ServerPlan>,
    /// Further lines for the `[[service]]`s on a port.
    pub policy: fn(Port, Family) -> String,
}

impl Plan {
    /// One server, reached this way.
    #[must_use]
    pub fn one(shape: Shape, way: Way) -> Self {
        Self {
            shape,
            servers: vec![ServerPlan {
                name: "s1",
                way,
                keys: |_| "",
            }],
            policy: |_, _| String::new(),
        }
    }

    /// Three servers, reached this way.
    #[must_use]
    pub fn three(way: Way, policy: fn(Port, Family) -> String) -> Self {
        let server = |name| ServerPlan {
            name,
            way,
            keys: |_| "",
        };
        Self {
            shape: Shape::OneArm,
            servers: ["s1", "s2", "s3"].map(server).into(),
            policy,
        }
    }

    /// Where clients connect to.
    #[must_use]
    pub fn service_port(&self, port: Port) -> u16 {
        if self.servers.iter().all(|server| server.way == Way::Nat) {
            port.translated()
        } else {
            port.of_server()
        }
    }

    /// The address by which steerd knows a server of services of this family.
    #[must_use]
    pub fn address(&self, server: &ServerPlan, family: Family) -> IpAddr {
        let of = match server.way {
            Way::Cross => family.other(),
            _ => family,
        };
        let spec = match server.way {
            Way::Local => EDGE,
            _ => hosts::spec(server.name),
        };
        hosts::address(
            spec,
            of,
            self.servers_are_behind() && server.way != Way::Local,
        )
    }

    /// Whether the servers are on the network at the back.
    #[must_use]
    pub fn servers_are_behind(&self) -> bool {
        matches!(
            self.shape,
            Shape::TwoArms | Shape::OneCable { .. } | Shape::FarServers
        )
    }

    /// Whether the client is there.
    #[must_use]
    pub fn client_is_behind(&self) -> bool {
        self.shape == Shape::FarClient
    }

    /// The client's address.
    #[must_use]
    pub fn client_address(&self, family: Family) -> IpAddr {
        hosts::address(CLIENT, family, self.client_is_behind())
    }

    /// The addresses that packets are translated to come from.
    #[must_use]
    pub fn nat_address(&self, family: Family) -> IpAddr {
        let spec = HostSpec {
            name: "nat",
            number: NAT_NUMBER,
        };
        let [front, back] = self.edge_interfaces();
        hosts::address(spec, family, front != back)
    }

    /// The interfaces of steerd's host to the front and to the back.
    #[must_use]
    pub fn edge_interfaces(&self) -> [String; 2] {
        let tagged = |vlan| match vlan {
            0 => INTERFACE.into(),
            vlan => format!("{INTERFACE}.{vlan}"),
        };
        match self.shape {
            Shape::TwoArms => [INTERFACE.into(), BACK_INTERFACE.into()],
            Shape::OneCable { front, back } => [front, back].map(tagged),
            Shape::OneArm | Shape::FarServers | Shape::FarClient => [tagged(0), tagged(0)],
        }
    }

    /// The configuration of steerd between client and servers.
    #[must_use]
    pub fn edge_config(&self) -> String {
        let mut text = format!("[node]\nname = \"{}\"\n", EDGE.name);
        let interfaces: &[&str] = match self.shape {
            Shape::TwoArms => &[INTERFACE, BACK_INTERFACE],
            _ => &[INTERFACE],
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "[dataplane]\ninterfaces = {interfaces:?}");
        if self.servers.iter().any(|server| server.way == Way::Nat) {
            let addresses = Family::ALL.map(|family| self.nat_address(family).to_string());
            let _ = writeln!(
                text,
                "[nat]\naddresses = {addresses:?}\nports = \"1024-32000\""
            );
        }
        for family in Family::ALL {
            let [front, _] = self.edge_interfaces();
            text += &router(family, &front, 51, &vip(family).to_string());
        }
        text += PROBE;
        for family in Family::ALL {
            for port in Port::ALL {
                self.service(&mut text, family, port);
            }
        }
        text
    }

    fn service(&self, text: &mut String, family: Family, port: Port) {
        let _ = write!(
            text,
            "[[service]]\nname = \"{}{}\"\naddress = \"{}\"\nport = {}\nprotocol = \"{}\"\n\
             probes = [\"health\"]\n{}",
            port.name(),
            family.suffix(),
            vip(family),
            self.service_port(port),
            port.protocol(),
            (self.policy)(port, family),
        );
        for server in &self.servers {
            let _ = write!(
                text,
                "[[service.backend]]\nname = \"{}\"\naddress = \"{}\"\nport = {}\n{}{}",
                server.name,
                self.address(server, family),
                port.of_server(),
                server.way.keys(),
                (server.keys)(port),
            );
        }
    }

    /// The configuration of steerd on a server that unwraps.
    #[must_use]
    pub fn endpoint_config(&self, spec: HostSpec) -> String {
        let own = Family::ALL.map(|family| hosts::address(spec, family, self.servers_are_behind()));
        let own = own.map(|address| address.to_string());
        let name = spec.name;
        format!(
            "[node]\nname = \"{name}\"\n[dataplane]\ninterfaces = [\"{INTERFACE}\"]\n\
             [tunnel]\nendpoints = {own:?}\n"
        )
    }
}

/// Writes a configuration.
pub(super) fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).context(|| format!("write {}", path.display()))
}

/// A virtual router that is soon master.
fn router(family: Family, interface: &str, vrid: u8, address: &str) -> String {
    let (suffix, addresses) = match family {
        Family::V4 => ("", format!("[\"{address}/24\"]")),
        // RFC 9568, section 5.2.9: a link-local address first.
        Family::V6 => ("6", format!("[\"fe80::25/64\", \"{address}/64\"]")),
    };
    format!(
        "[[virtual_router]]\nname = \"vr{suffix}\"\ninterface = \"{interface}\"\nvrid = {vrid}\n\
         advert_interval = \"100ms\"\naddresses = {addresses}\n"
    )
}

/// One check of a server for all its services. Unhurried: what it measures is not under test, and
/// the load is.
const PROBE: &str = "[probe.health]\ntype = \"http\"\npath = \"/health\"\nport = 8765\n\
                     interval = \"500ms\"\nfast_interval = \"100ms\"\ntimeout = \"500ms\"\n\
                     rise = 1\nfall = 10\n";

#[cfg(test)]
mod tests {
    use steerd_core::config::Config;

    use super::*;

    #[test]
    fn all_configurations_are_valid() {
        for shape in [
            Shape::OneArm,
            Shape::TwoArms,
            Shape::OneCable { front: 10, back: 0 },
            Shape::FarServers,
            Shape::FarClient,
        ] {
            for way in Way::ALL {
                let plan = Plan::one(shape, way);
                for text in [plan.edge_config(), plan.endpoint_config(hosts::spec("s1"))] {
                    if let Err(mistakes) = Config::parse("site.toml", &text, "host") {
                        panic!("{shape:?} {way:?}: {mistakes}\n{text}");
                    }
                }
            }
        }
    }
}
