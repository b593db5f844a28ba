//! The way to an address: which interface, which MAC, how large a packet.
//!
//! The kernel's route says whether the address is on the segment or behind a gateway, its neighbour
//! table which MAC that has, its links which device frames leave through. Where that does not know, or has not heard of it for a while, [`look_up`] makes the kernel ask
//! (`NTF_USE`): the daemon sends no packets for this.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, Ipv6Addr},
};

use rtnetlink::packet_route::{
    AddressFamily, RouteNetlinkMessage,
    neighbour::{
        NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
    },
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteType, RouteVia},
};
use steerd_core::{config::Name, event::NextHop};

use super::{request::Kernel, table::Table};
use crate::io::dataplane::Exit;

/// Why an address cannot be reached, however long one waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// There is no route, or one that refuses.
    NoRoute,
    /// It is one of this host's addresses.
    Local,
    /// The interface has no MACs.
    NotEthernet,
    /// The kernel does not say.
    Kernel(String),
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRoute => f.pad("there is no route to it; add one or correct its address"),
            Self::Local => f.pad("it is this host's own address; use mode local"),
            Self::NotEthernet => {
                f.pad("its interface has no MACs, but packets are sent by Ethernet")
            }
            Self::Kernel(error) => write!(f, "the kernel does not say: {error}"),
        }
    }
}

/// What the kernel knows of the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    /// The way, and what frames on it look like.
    Hop(NextHop, Exit),
    /// The kernel is asking the segment, or nobody answers.
    Unresolved,
    /// There is no way.
    Obstacle(Obstacle),
}

/// What a look-up goes by.
pub(super) struct Surroundings<'t> {
    /// The kernel's links.
    pub(super) table: &'t Table,
    /// The numbers of the interfaces on which a link-local address is looked for, as no route tells
    /// where it is.
    pub(super) interfaces: &'t [u32],
    /// The interfaces that carry the program.
    pub(super) programs: &'t BTreeSet<Name>,
}

/// Asks the kernel for the way to `address`, and makes it refresh what it has not heard of lately.
/// Returns also whose MAC that takes: the gateway's, or that of `address`.
pub(super) async fn look_up(
    kernel: &Kernel,
    address: IpAddr,
    around: &Surroundings<'_>,
) -> (Found, IpAddr) {
    if matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local()) {
        let mut found = Found::Unresolved;
        for &interface in around.interfaces {
            let route = Route {
                interface,
                gateway: None,
                mtu: None,
            };
            if let hop @ Found::Hop(..) = hop(kernel, address, &route, around).await {
                found = hop;
            }
        }
        return (found, address);
    }
    match route(kernel, address).await {
        Ok(route) => {
            let asked = route.gateway.unwrap_or(address);
            (hop(kernel, address, &route, around).await, asked)
        }
        Err(obstacle) => (Found::Obstacle(obstacle), address),
    }
}

/// The way to `address` by `route`.
async fn hop(kernel: &Kernel, address: IpAddr, route: &Route, around: &Surroundings<'_>) -> Found {
    let asked = route.gateway.unwrap_or(address);
    let mac = match neighbour(kernel, route.interface, asked).await {
        Ok(Some(mac)) => mac,
        Ok(None) => return Found::Unresolved,
        Err(obstacle) => return Found::Obstacle(obstacle),
    };
    // The link's own message may still be on its way.
    let Some((exit, link_mtu)) = around.table.exit(route.interface, around.programs) else {
        return Found::Unresolved;
    };
    let mtu = route
        .mtu
        .filter(|&mtu| mtu != 0)
        .unwrap_or(u32::MAX)
        .min(link_mtu);
    let hop = NextHop {
        ifindex: exit.ifindex,
        mac,
        vlan: exit.vlan,
        mtu: u16::try_from(mtu).unwrap_or(u16::MAX),
        gateway: route.gateway.is_some(),
    };
    Found::Hop(hop, exit)
}

/// What a route says.
#[derive(Debug, PartialEq, Eq)]
struct Route {
    interface: u32,
    /// None: the address is on the segment.
    gateway: Option<IpAddr>,
    /// As configured for it, or learnt (RFC 1191, RFC 8201).
    mtu: Option<u32>,
}

async fn route(kernel: &Kernel, address: IpAddr) -> Result<Route, Obstacle> {
    let mut question = RouteMessage::default();
    let (family, bits, destination) = match address {
        IpAddr::V4(v4) => (AddressFamily::Inet, 32, RouteAddress::Inet(v4)),
        IpAddr::V6(v6) => (AddressFamily::Inet6, 128, RouteAddress::Inet6(v6)),
    };
    question.header.address_family = family;
    question.header.destination_prefix_length = bits;
    question
        .attributes
        .push(RouteAttribute::Destination(destination));
    match kernel.get(RouteNetlinkMessage::GetRoute(question)).await {
        Ok(Some(RouteNetlinkMessage::NewRoute(route))) => read_route(&route),
        Ok(_) => Err(Obstacle::NoRoute),
        Err(error) => Err(match error.raw_os_error() {
            Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES | libc::EINVAL) => {
                Obstacle::NoRoute
            }
            _ => Obstacle::Kernel(error.to_string()),
        }),
    }
}

fn read_route(route: &RouteMessage) -> Result<Route, Obstacle> {
    match route.header.kind {
        RouteType::Unicast => {}
        RouteType::Local => return Err(Obstacle::Local),
        _ => return Err(Obstacle::NoRoute),
    }
    let (mut interface, mut gateway, mut mtu) = (None, None, None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => {
                gateway = Some((*address).into())
            }
            RouteAttribute::Gateway(RouteAddress::Inet6(address))
            | RouteAttribute::Via(RouteVia::Inet6(address))
                if *address != Ipv6Addr::UNSPECIFIED =>
            {
                gateway = Some((*address).into());
            }
            RouteAttribute::Oif(index) => interface = Some(*index),
            RouteAttribute::Metrics(metrics) => {
                mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    Ok(Route {
        interface: interface.ok_or(Obstacle::NoRoute)?,
        gateway,
        mtu,
    })
}

/// The MAC of `address` on an interface; none while it is not known.
async fn neighbour(
    kernel: &Kernel,
    ifindex: u32,
    address: IpAddr,
) -> Result<Option<[u8; 6]>, Obstacle> {
    let question = RouteNetlinkMessage::GetNeighbour(entry(ifindex, address));
    let knowledge = match kernel.get(question).await {
        Ok(Some(RouteNetlinkMessage::NewNeighbour(entry))) => Knowledge::of(&entry),
        _ => Knowledge::Nothing,
    };
    if !matches!(knowledge, Knowledge::Fresh(_)) {
        let mut use_it = entry(ifindex, address);
        use_it.header.flags = NeighbourFlags::Use;
        if let Err(error) = kernel.set(RouteNetlinkMessage::NewNeighbour(use_it)).await {
            // The interface may be down or gone: there is nothing to find then.
            return match error.raw_os_error() {
                Some(libc::ENODEV | libc::ENETDOWN) => Ok(None),
                Some(libc::EINVAL) => Err(Obstacle::NotEthernet),
                _ => Err(Obstacle::Kernel(error.to_string())),
            };
        }
    }
    match knowledge {
        Knowledge::Fresh(mac) | Knowledge::Stale(mac) => Ok(Some(mac)),
        Knowledge::NoMac => Err(Obstacle::NotEthernet),
        Knowledge::Nothing => Ok(None),
    }
}

fn entry(ifindex: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    let (family, destination) = match address {
        IpAddr::V4(v4) => (AddressFamily::Inet, NeighbourAddress::Inet(v4)),
        IpAddr::V6(v6) => (AddressFamily::Inet6, NeighbourAddress::Inet6(v6)),
    };
    message.header.family = family;
    message.header.ifindex = ifindex;
    message
        .attributes
        .push(NeighbourAttribute::Destination(destination));
    message
}

/// The address that a neighbour message is about.
pub(super) fn subject(message: &NeighbourMessage) -> Option<IpAddr> {
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => Some((*v4).into()),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => Some((*v6).into()),
            _ => None,
        })
}

/// What an entry of the neighbour table is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Knowledge {
    /// Confirmed lately, being confirmed, or fixed.
    Fresh([u8; 6]),
    /// Usable, but unconfirmed.
    Stale([u8; 6]),
    /// Usable, but without a MAC.
    NoMac,
    /// Not usable.
    Nothing,
}

impl Knowledge {
    fn of(entry: &NeighbourMessage) -> Self {
        let mac = entry
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                NeighbourAttribute::LinkLayerAddress(mac) => {
                    <[u8; 6]>::try_from(mac.as_slice()).ok()
                }
                _ => None,
            });
        match (entry.header.state, mac) {
            (NeighbourState::Noarp, _) => Self::NoMac,
            (
                NeighbourState::Reachable
                | NeighbourState::Delay
                | NeighbourState::Probe
                | NeighbourState::Permanent,
                Some(mac),
            ) => Self::Fresh(mac),
            (NeighbourState::Stale, Some(mac)) => Self::Stale(mac),
            _ => Self::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

    #[test]
    fn only_usable_neighbours_have_a_mac() {
        let knowledge = |state, mac: &[u8]| {
            let mut message = entry(3, "10.0.0.1".parse().unwrap());
            message.header.state = state;
            message
                .attributes
                .push(NeighbourAttribute::LinkLayerAddress(mac.into()));
            Knowledge::of(&message)
        };
        assert_eq!(
            knowledge(NeighbourState::Reachable, &MAC),
            Knowledge::Fresh(MAC)
        );
        assert_eq!(
            knowledge(NeighbourState::Permanent, &MAC),
            Knowledge::Fresh(MAC)
        );
        assert_eq!(
            knowledge(NeighbourState::Probe, &MAC),
            Knowledge::Fresh(MAC)
        );
        assert_eq!(
            knowledge(NeighbourState::Stale, &MAC),
            Knowledge::Stale(MAC)
        );
        assert_eq!(knowledge(NeighbourState::Failed, &MAC), Knowledge::Nothing);
        assert_eq!(
            knowledge(NeighbourState::Incomplete, &MAC),
            Knowledge::Nothing
        );
        assert_eq!(
            knowledge(NeighbourState::Reachable, &MAC[..4]),
            Knowledge::Nothing
        );
        assert_eq!(knowledge(NeighbourState::Noarp, &[0; 6]), Knowledge::NoMac);
    }

    #[test]
    fn a_route_says_where_packets_go_first() {
        let answer = |kind, attributes: &[RouteAttribute]| {
            let mut route = RouteMessage::default();
            route.header.kind = kind;
            route.attributes = attributes.into();
            read_route(&route)
        };
        let oif = RouteAttribute::Oif(3);
        let gateway = RouteAttribute::Gateway(RouteAddress::Inet([10, 0, 0, 254].into()));
        let via = RouteAttribute::Via(RouteVia::Inet6("fe80::1".parse().unwrap()));
        let found = |gateway: Option<&str>, mtu| {
            let gateway = gateway.map(|text| text.parse().unwrap());
            Ok(Route {
                interface: 3,
                gateway,
                mtu,
            })
        };
        assert_eq!(
            answer(RouteType::Unicast, std::slice::from_ref(&oif)),
            found(None, None)
        );
        let mtu = RouteAttribute::Metrics(vec![RouteMetric::Advmss(9), RouteMetric::Mtu(1400)]);
        assert_eq!(
            answer(RouteType::Unicast, &[oif.clone(), gateway, mtu]),
            found(Some("10.0.0.254"), Some(1400))
        );
        assert_eq!(
            answer(RouteType::Unicast, &[via, oif.clone()]),
            found(Some("fe80::1"), None)
        );
        assert_eq!(
            answer(RouteType::Local, std::slice::from_ref(&oif)),
            Err(Obstacle::Local)
        );
        assert_eq!(
            answer(RouteType::Unreachable, &[oif]),
            Err(Obstacle::NoRoute)
        );
        assert_eq!(answer(RouteType::Unicast, &[]), Err(Obstacle::NoRoute));
    }
}
