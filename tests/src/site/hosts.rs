//! The machines of a site.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use super::{
    NARROW,
    plan::{Family, Plan, Shape, Way},
};
use crate::{
    error::{Error, Result},
    link,
    netns::{self, Bpffs, Namespace},
    process,
    switch::{HostSpec, INTERFACE, Switch, VIP, VIP6},
    xdp::Pass,
};

/// The interface of those that have a second one, which is at the back.
pub const BACK_INTERFACE: &str = "eth1";

/// The client.
pub const CLIENT: HostSpec = HostSpec {
    name: "client",
    number: 10,
};

/// Where steerd runs.
pub const EDGE: HostSpec = HostSpec {
    name: "edge",
    number: 26,
};

/// The router between front and back.
pub const ROUTER: HostSpec = HostSpec {
    name: "router",
    number: 1,
};

/// The number of the address that packets are translated to come from.
pub const NAT_NUMBER: u8 = 28;

/// A machine.
#[derive(Debug)]
pub struct Host {
    /// Its name and number.
    pub spec: HostSpec,
    /// Where its programs run.
    pub namespace: Namespace,
    _ports: Vec<Pass>,
    _nowhere: Option<Switch>,
}

/// A server's name and number.
#[must_use]
pub fn spec(name: &'static str) -> HostSpec {
    let last = name.bytes().last().unwrap_or(b'0');
    HostSpec {
        name,
        number: 40 + last.wrapping_sub(b'0') % 10,
    }
}

/// A host's address, at the front or at the back.
#[must_use]
pub fn address(spec: HostSpec, family: Family, back: bool) -> IpAddr {
    match (family, back) {
        (Family::V4, false) => spec.v4(),
        (Family::V6, false) => spec.v6(),
        (Family::V4, true) => match spec.v4() {
            IpAddr::V4(v4) => {
                let [a, b, _, d] = v4.octets();
                Ipv4Addr::new(a, b, 2, d).into()
            }
            other => other,
        },
        (Family::V6, true) => match spec.v6() {
            IpAddr::V6(v6) => {
                let mut groups = v6.segments();
                groups[3] = 2;
                Ipv6Addr::from(groups).into()
            }
            other => other,
        },
    }
}

/// The client.
pub(crate) fn client(plan: &Plan, switches: &[Switch; 2]) -> Result<Host> {
    let host = Host::new(CLIENT, Bpffs::Missing)?;
    host.join(switches, plan.client_is_behind(), plan)
}

/// The host that steerd runs on.
pub(crate) fn edge(plan: &Plan, switches: &[Switch; 2]) -> Result<Host> {
    let mut host = Host::new(EDGE, Bpffs::Mounted)?;
    let host = match plan.shape {
        Shape::OneCable { front, back } => {
            host.add_trunk(switches, [front, back])?;
            host.route(false)?
        }
        Shape::TwoArms => {
            host.add_interface(switches, true, BACK_INTERFACE)?;
            host.join(switches, false, plan)?
        }
        _ => host.join(switches, false, plan)?,
    };
    if plan.servers.iter().any(|server| server.way == Way::Nat) {
        let [_, back] = plan.edge_interfaces();
        host.namespace.run(|| {
            link::add_address(&back, plan.nat_address(Family::V4), 24)?;
            link::add_address(&back, plan.nat_address(Family::V6), 64)
        })?;
    }
    Ok(host)
}

/// The router.
pub(super) fn router(plan: &Plan, switches: &[Switch; 2]) -> Result<Host> {
    let mut host = Host::new(ROUTER, Bpffs::Missing)?;
    host.add_interface(switches, false, INTERFACE)?;
    host.add_interface(switches, true, BACK_INTERFACE)?;
    host.namespace.run(|| {
        netns::sysctl("net/ipv4/ip_forward", "1")?;
        netns::sysctl("net/ipv6/conf/all/forwarding", "1")?;
        // It tells no host of shorter ways: a packet to the virtual address has none.
        netns::sysctl("net/ipv4/conf/all/send_redirects", "0")?;
        Ok(())
    })?;
    if plan.shape == Shape::FarClient {
        // Of the way there, not of the interface: that would not take large packets from there.
        let mtu = NARROW.to_string();
        host.ip(&[
            "route",
            "replace",
            "192.168.2.0/24",
            "dev",
            BACK_INTERFACE,
            "mtu",
            "lock",
            &mtu,
        ])?;
        let key = format!("net/ipv6/conf/{BACK_INTERFACE}/mtu");
        host.namespace.run(|| netns::sysctl(&key, &mtu))?;
    }
    Ok(host)
}

/// A server that is not on steerd's host.
pub(crate) fn server(
    plan: &Plan,
    name: &'static str,
    way: Way,
    switches: &[Switch; 2],
) -> Result<Host> {
    let host = Host::new(spec(name), Bpffs::Mounted)?;
    let host = host.join(switches, plan.servers_are_behind(), plan)?;
    if way != Way::Nat {
        // It has the virtual addresses, and tells nobody so. Of IPv6 addresses on another
        // interface Linux never tells.
        host.namespace.run(|| {
            netns::sysctl("net/ipv4/conf/all/arp_ignore", "1")?;
            netns::sysctl("net/ipv4/conf/all/arp_announce", "2")?;
            link::add_address("lo", VIP, 32)?;
            link::add_address("lo", VIP6, 128)
        })?;
    }
    Ok(host)
}

impl Host {
    fn new(spec: HostSpec, bpffs: Bpffs) -> Result<Self> {
        let namespace = Namespace::new(bpffs)?;
        namespace.run(|| {
            // Packets from the virtual address, and in tunnels from made-up ones, are no forgeries.
            netns::sysctl("net/ipv4/conf/all/rp_filter", "0")?;
            netns::sysctl("net/ipv4/conf/default/rp_filter", "0")?;
            // All may send echo requests.
            netns::sysctl("net/ipv4/ping_group_range", "0 0")
        })?;
        Ok(Self {
            spec,
            namespace,
            _ports: Vec::new(),
            _nowhere: None,
        })
    }

    fn add_interface(&mut self, switches: &[Switch; 2], back: bool, name: &str) -> Result<()> {
        let switch = &switches[usize::from(back)];
        let port = switch.join(self.spec, &self.namespace, name, &self.addresses(back))?;
        self._ports.push(port);
        Ok(())
    }

    /// Its addresses, at the front or at the back.
    fn addresses(&self, back: bool) -> [(IpAddr, u8); 2] {
        let [v4, v6] = Family::ALL.map(|family| address(self.spec, family, back));
        [(v4, 24), (v6, 64)]
    }

    /// One interface to both networks, each of which is a VLAN; 0: the one without tags.
    fn add_trunk(&mut self, switches: &[Switch; 2], vlans: [u16; 2]) -> Result<()> {
        // Where it ends that is in no VLAN, or nowhere.
        let nowhere = Switch::new()?;
        let untagged = vlans.iter().position(|&vlan| vlan == 0);
        let (end, own) = match untagged {
            Some(side) => (&switches[side], self.addresses(side == 1).to_vec()),
            None => (&nowhere, Vec::new()),
        };
        let port = end.join(self.spec, &self.namespace, INTERFACE, &own)?;
        self._ports.push(port);
        for (side, vlan) in vlans.into_iter().enumerate().filter(|(_, vlan)| *vlan != 0) {
            end.trunk(self.spec, vlan, &switches[side])?;
            self.namespace.run(|| {
                let name = format!("{INTERFACE}.{vlan}");
                link::add_vlan(&name, INTERFACE, vlan)?;
                link::configure(&name, self.spec.mac(), &self.addresses(side == 1))
            })?;
        }
        self._nowhere = untagged.is_none().then_some(nowhere);
        Ok(())
    }

    /// Tells it who has an address.
    pub(super) fn add_neighbour(&self, address: IpAddr, of: HostSpec) -> Result<()> {
        let [a, b, c, d, e, f] = of.mac();
        let mac = format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
        let address = address.to_string();
        self.ip(&[
            "neigh", "replace", &address, "lladdr", &mac, "dev", INTERFACE,
        ])
    }

    fn ip(&self, arguments: &[&str]) -> Result<()> {
        let mut command = self.namespace.command("ip");
        command.args(arguments);
        let output = process::output(command, Duration::from_secs(5))?;
        if output.status.success() {
            return Ok(());
        }
        Err(Error::Traffic {
            program: "ip",
            said: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// With its first interface, and a way to other networks where there are some.
    fn join(mut self, switches: &[Switch; 2], back: bool, plan: &Plan) -> Result<Self> {
        self.add_interface(switches, back, INTERFACE)?;
        if plan.shape == Shape::OneArm {
            return Ok(self);
        }
        self.route(back)
    }

    /// With the router's way to other networks.
    fn route(self, back: bool) -> Result<Self> {
        self.namespace.run(|| {
            for family in Family::ALL {
                link::add_default_route(address(ROUTER, family, back))?;
            }
            Ok(())
        })?;
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::switch::{v4, v6};

    #[test]
    fn front_and_back_are_two_networks() {
        let addresses = Family::ALL.map(|family| address(spec("s2"), family, true).to_string());
        assert_eq!(addresses, ["192.168.2.42", "fd00:192:168:2::42"]);
        assert_eq!(address(spec("s2"), Family::V4, false), v4(42));
        assert_eq!(address(spec("s2"), Family::V6, false), v6(0x42));
    }
}
