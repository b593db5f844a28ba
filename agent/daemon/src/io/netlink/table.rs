//! The links and addresses of the host, as the kernel's messages tell them, and what they make of a
//! route: the device that frames leave through.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use rtnetlink::packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::{
        InfoData, InfoPortKind, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
        VlanProtocol,
    },
};
use steerd_core::config::Name;

use super::{Iface, Upper};
use crate::io::dataplane::Exit;

/// The links and addresses of the host.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Table {
    links: BTreeMap<u32, Link>,
    addresses: BTreeSet<(u32, IpAddr)>,
}

#[derive(Debug, PartialEq, Eq)]
struct Link {
    name: String,
    up: bool,
    mac: [u8; 6],
    mtu: u32,
    /// Of an 802.1Q VLAN device: the number of the device below it, and the VLAN's id.
    vlan: Option<(u32, u16)>,
    /// Of a port of another device: that one's number and kind.
    upper: Option<(u32, InfoPortKind)>,
}

impl Table {
    /// Takes in what a message tells; others are passed over.
    pub(super) fn apply(&mut self, message: &RouteNetlinkMessage) {
        match message {
            RouteNetlinkMessage::NewLink(link) if is_link(link) => self.set_link(link),
            RouteNetlinkMessage::DelLink(link) if is_link(link) => {
                self.links.remove(&link.header.index);
                self.addresses
                    .retain(|(index, _)| *index != link.header.index);
            }
            RouteNetlinkMessage::NewAddress(message) => {
                if let Some(address) = address_of(message) {
                    self.addresses.insert((message.header.index, address));
                }
            }
            RouteNetlinkMessage::DelAddress(message) => {
                if let Some(address) = address_of(message) {
                    self.addresses.remove(&(message.header.index, address));
                }
            }
            _ => {}
        }
    }

    /// The addresses of all interfaces.
    pub(super) fn addresses(&self) -> BTreeSet<IpAddr> {
        self.addresses.iter().map(|(_, address)| *address).collect()
    }

    /// Those of `names` that exist.
    pub(super) fn interfaces(&self, names: &BTreeSet<Name>) -> Vec<Iface> {
        names
            .iter()
            .filter_map(|name| {
                let mut links = self.links.iter();
                let (index, link) = links.find(|(_, link)| link.name == name.as_str())?;
                Some(Iface {
                    name: name.clone(),
                    index: *index,
                    mac: link.mac,
                    vlans: self.vlans(*index),
                    up: link.up,
                    ports: self.ports(*index),
                    upper: self.upper(link),
                })
            })
            .collect()
    }

    /// The VLAN devices on an interface, and their MACs.
    fn vlans(&self, below: u32) -> BTreeMap<Name, [u8; 6]> {
        let on_it = |link: &&Link| link.vlan.is_some_and(|(parent, _)| parent == below);
        self.links
            .values()
            .filter(on_it)
            .map(|link| (Name::new(&link.name), link.mac))
            .collect()
    }

    /// The ports of a bond or team: a frame comes in by one of them, as the program sees it.
    fn ports(&self, upper: u32) -> BTreeSet<u32> {
        let is_port = |link: &Link| matches!(link.upper, Some((of, InfoPortKind::Bond | InfoPortKind::Team)) if of == upper);
        let ports = self.links.iter().filter(|(_, link)| is_port(link));
        ports.map(|(index, _)| *index).collect()
    }

    /// What a link is a port of, where that has the addresses and routes in its place. A VRF has not.
    fn upper(&self, link: &Link) -> Option<Upper> {
        let (index, kind) = link.upper.as_ref()?;
        let upper = self.links.get(index)?;
        (*kind != InfoPortKind::Vrf).then(|| Upper {
            name: upper.name.clone(),
            kind: kind.to_string(),
        })
    }

    /// How frames leave through the interface with this number, and the largest packet in them.
    ///
    /// Through a VLAN device without the program the program sends tagged frames itself, by the device
    /// below: a driver sends redirected frames, a VLAN device does not. `programs` are the interfaces
    /// that carry the program. `None`: there is no such interface, as far as is known.
    pub(super) fn exit(&self, index: u32, programs: &BTreeSet<Name>) -> Option<(Exit, u32)> {
        let link = self.links.get(&index)?;
        let carries = programs.iter().any(|name| name.as_str() == link.name);
        // A frame has one tag: a VLAN within a VLAN is left to its device.
        let below = link.vlan.filter(|(below, _)| {
            let below = self.links.get(below);
            !carries && below.is_some_and(|below| below.vlan.is_none())
        });
        let (ifindex, vlan) = below.unwrap_or((index, 0));
        let exit = Exit {
            ifindex,
            vlan,
            mac: link.mac,
        };
        Some((exit, link.mtu))
    }

    fn set_link(&mut self, message: &LinkMessage) {
        let mut link = Link {
            name: String::new(),
            // Set up by the administrator, and with carrier.
            up: message
                .header
                .flags
                .contains(LinkFlags::Up | LinkFlags::LowerUp),
            mac: [0; 6],
            mtu: 0,
            vlan: None,
            upper: None,
        };
        let (mut upper, mut port) = (None, None);
        let (mut below, mut elsewhere, mut vlan) = (None, false, None);
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Address(mac) => {
                    link.mac = mac.as_slice().try_into().unwrap_or_default();
                }
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::Link(index) => below = Some(*index),
                // The number of the device below is another namespace's.
                LinkAttribute::LinkNetNsId(_) => elsewhere = true,
                LinkAttribute::Controller(index) => upper = Some(*index),
                LinkAttribute::LinkInfo(infos) => {
                    vlan = infos.iter().find_map(vlan_id);
                    port = infos.iter().find_map(|info| match info {
                        LinkInfo::PortKind(kind) => Some(kind.clone()),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        link.upper = upper.filter(|&index| index != 0).zip(port);
        link.vlan = below.filter(|_| !elsewhere).zip(vlan);
        self.links.insert(message.header.index, link);
    }
}

/// The id of an 802.1Q VLAN; of none that is 802.1ad, whose tags the program does not write.
fn vlan_id(info: &LinkInfo) -> Option<u16> {
    let LinkInfo::Data(InfoData::Vlan(data)) = info else {
        return None;
    };
    let plain = data.contains(&InfoVlan::Protocol(VlanProtocol::Ieee8021Q));
    let id = data.iter().find_map(|info| match info {
        InfoVlan::Id(id) => Some(*id),
        _ => None,
    });
    id.filter(|_| plain)
}

/// A bridge tells of its ports by link messages of its own family, and of a port that leaves it by a
/// deletion: the link itself is still there.
fn is_link(message: &LinkMessage) -> bool {
    message.header.interface_family == AddressFamily::Unspec
}

/// The host's own address: on point-to-point links the other one is the far end's.
fn address_of(message: &AddressMessage) -> Option<IpAddr> {
    let mut far = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => return Some(*address),
            AddressAttribute::Address(address) => far = Some(*address),
            _ => {}
        }
    }
    far
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str, flags: LinkFlags) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = flags;
        message.attributes = vec![
            LinkAttribute::IfName(name.into()),
            LinkAttribute::Address(vec![2, 0, 0, 0, 0, 1]),
        ];
        message
    }

    fn address(index: u32, attributes: Vec<AddressAttribute>) -> AddressMessage {
        let mut message = AddressMessage::default();
        message.header.index = index;
        message.attributes = attributes;
        message
    }

    fn up_states(table: &Table) -> Vec<bool> {
        let names = [Name::new("eth0"), Name::new("eth1")].into();
        table
            .interfaces(&names)
            .iter()
            .map(|interface| interface.up)
            .collect()
    }

    #[test]
    fn a_link_is_up_with_carrier_only() {
        let mut table = Table::default();
        for (flags, up) in [
            (LinkFlags::Up, false),
            (LinkFlags::LowerUp, false),
            (
                LinkFlags::Up | LinkFlags::LowerUp | LinkFlags::Running,
                true,
            ),
        ] {
            table.apply(&RouteNetlinkMessage::NewLink(link(3, "eth0", flags)));
            assert_eq!(up_states(&table), [up], "{flags:?}");
        }
    }

    #[test]
    fn a_link_goes_with_its_addresses_and_may_change_its_name() {
        let mut table = Table::default();
        let ip: IpAddr = "10.0.0.1".parse().unwrap();
        table.apply(&RouteNetlinkMessage::NewLink(link(
            3,
            "eth0",
            LinkFlags::Up,
        )));
        let own = address(
            3,
            vec![AddressAttribute::Address(ip), AddressAttribute::Local(ip)],
        );
        table.apply(&RouteNetlinkMessage::NewAddress(own));
        assert_eq!(table.addresses(), [ip].into());
        table.apply(&RouteNetlinkMessage::NewLink(link(
            3,
            "old0",
            LinkFlags::Up,
        )));
        assert!(up_states(&table).is_empty());
        table.apply(&RouteNetlinkMessage::DelLink(link(
            3,
            "old0",
            LinkFlags::empty(),
        )));
        assert_eq!(table, Table::default());
    }

    fn vlan(index: u32, name: &str, below: u32, id: u16, protocol: VlanProtocol) -> LinkMessage {
        let mut message = link(index, name, LinkFlags::Up);
        let data = vec![InfoVlan::Id(id), InfoVlan::Protocol(protocol)];
        message.attributes.extend([
            LinkAttribute::Mtu(1400),
            LinkAttribute::Link(below),
            LinkAttribute::LinkInfo(vec![LinkInfo::Data(InfoData::Vlan(data))]),
        ]);
        message
    }

    #[test]
    fn frames_for_a_vlan_leave_through_the_device_below() {
        let mut table = Table::default();
        let mut tell = |message| table.apply(&RouteNetlinkMessage::NewLink(message));
        tell(link(3, "eth0", LinkFlags::Up));
        tell(vlan(4, "eth0.7", 3, 7, VlanProtocol::Ieee8021Q));
        tell(vlan(5, "eth0.8", 3, 8, VlanProtocol::Ieee8021Ad));
        tell(vlan(6, "eth0.7.9", 4, 9, VlanProtocol::Ieee8021Q));
        let mut moved = vlan(8, "eth9", 3, 7, VlanProtocol::Ieee8021Q);
        moved.attributes.push(LinkAttribute::LinkNetNsId(1));
        tell(moved);
        let eth0 = [Name::new("eth0")].into();
        let way = |index, programs: &BTreeSet<Name>| {
            let (exit, mtu) = table.exit(index, programs)?;
            Some((exit.ifindex, exit.vlan, mtu))
        };
        assert_eq!(way(3, &eth0), Some((3, 0, 0)));
        assert_eq!(way(4, &eth0), Some((3, 7, 1400)));
        assert_eq!(way(4, &[Name::new("eth0.7")].into()), Some((4, 0, 1400)));
        assert_eq!(way(5, &eth0), Some((5, 0, 1400)), "another kind of tag");
        assert_eq!(way(6, &eth0), Some((6, 0, 1400)), "two tags");
        assert_eq!(
            way(8, &eth0),
            Some((8, 0, 1400)),
            "below in another namespace"
        );
        assert_eq!(way(9, &eth0), None);
    }

    #[test]
    fn a_port_is_told_from_what_it_is_a_port_of() {
        let mut table = Table::default();
        let mut tell = |message| table.apply(&RouteNetlinkMessage::NewLink(message));
        let port = |index, name, upper, kind| {
            let mut message = link(index, name, LinkFlags::Up);
            let info = LinkAttribute::LinkInfo(vec![LinkInfo::PortKind(kind)]);
            message
                .attributes
                .extend([LinkAttribute::Controller(upper), info]);
            message
        };
        tell(link(2, "bond0", LinkFlags::Up));
        tell(port(3, "eth0", 2, InfoPortKind::Bond));
        tell(port(4, "eth1", 2, InfoPortKind::Bond));
        tell(link(5, "br0", LinkFlags::Up));
        tell(port(6, "eth2", 5, InfoPortKind::Bridge));
        tell(link(7, "vrf0", LinkFlags::Up));
        tell(port(8, "eth3", 7, InfoPortKind::Vrf));
        let of = |name: &str| table.interfaces(&[Name::new(name)].into()).remove(0);
        let upper = |name| of(name).upper.map(|upper| (upper.name, upper.kind));
        let is = |name: &str, kind: &str| Some((name.to_owned(), kind.to_owned()));
        assert_eq!(upper("eth0"), is("bond0", "bond"));
        assert_eq!(upper("eth2"), is("br0", "bridge"));
        assert_eq!(upper("eth3"), None, "a VRF has no frames of its own");
        assert_eq!(upper("bond0"), None);
        assert_eq!(of("bond0").ports, [3, 4].into());
        assert_eq!(of("br0").ports, [].into(), "its frames come in by itself");
        // It leaves the bond.
        table.apply(&RouteNetlinkMessage::NewLink(link(
            4,
            "eth1",
            LinkFlags::Up,
        )));
        let bond = table.interfaces(&[Name::new("bond0")].into()).remove(0);
        assert_eq!(bond.ports, [3].into());
    }

    #[test]
    fn a_port_that_leaves_its_bridge_is_still_a_link() {
        let mut table = Table::default();
        table.apply(&RouteNetlinkMessage::NewLink(link(
            3,
            "eth0",
            LinkFlags::Up,
        )));
        let mut left = link(3, "eth0", LinkFlags::Up);
        left.header.interface_family = AddressFamily::Bridge;
        table.apply(&RouteNetlinkMessage::DelLink(left));
        assert_eq!(up_states(&table), [false]);
    }

    #[test]
    fn an_address_on_two_interfaces_is_there_until_both_lose_it() {
        let mut table = Table::default();
        let ip: IpAddr = "10.0.0.100".parse().unwrap();
        let on = |index| address(index, vec![AddressAttribute::Local(ip)]);
        table.apply(&RouteNetlinkMessage::NewAddress(on(1)));
        table.apply(&RouteNetlinkMessage::NewAddress(on(3)));
        table.apply(&RouteNetlinkMessage::DelAddress(on(3)));
        assert_eq!(table.addresses(), [ip].into());
        table.apply(&RouteNetlinkMessage::DelAddress(on(1)));
        assert!(table.addresses().is_empty());
    }

    #[test]
    fn the_far_end_of_a_tunnel_is_not_ours() {
        let (near, far): (IpAddr, IpAddr) =
            ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let mut table = Table::default();
        let both = vec![
            AddressAttribute::Address(far),
            AddressAttribute::Local(near),
        ];
        table.apply(&RouteNetlinkMessage::NewAddress(address(4, both)));
        assert_eq!(table.addresses(), [near].into());
    }
}
