//! The way to an address on the segment: which interface, which MAC.
//!
//! The kernel's route says whether the address is on the segment, its neighbour table which MAC it
//! has. Where that does not know, or has not heard of it for a while, [`look_up`] makes the kernel ask
//! (`NTF_USE`): the daemon sends no packets for this.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
};

use rtnetlink::packet_route::{
    AddressFamily, RouteNetlinkMessage,
    neighbour::{
        NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
    },
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteType, RouteVia},
};
use steerd_core::event::NextHop;

use super::request::Kernel;

/// Why an address cannot be reached on the segment, however long one waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// There is no route, or one that refuses.
    NoRoute,
    /// The way leads through a router.
    Gateway(String),
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
            Self::Gateway(gateway) => write!(
                f,
                "it is behind the gateway {gateway}, but dsr needs the same segment; move it there \
                 or give this host an address in its subnet"
            ),
            Self::Local => f.pad("it is this host's own address; use mode local"),
            Self::NotEthernet => f.pad("its interface has no MACs, but dsr needs Ethernet"),
            Self::Kernel(error) => write!(f, "the kernel does not say: {error}"),
        }
    }
}

/// What the kernel knows of the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    /// The way.
    Hop(NextHop),
    /// The kernel is asking the segment, or nobody answers.
    Unresolved,
    /// There is no direct way.
    Obstacle(Obstacle),
}

/// Asks the kernel for the way to `address`, and makes it refresh what it has not heard of lately.
/// `interfaces` are tried for a link-local address, whose interface no route tells.
pub(super) async fn look_up(kernel: &Kernel, address: IpAddr, interfaces: &[u32]) -> Found {
    if matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local()) {
        let mut found = Found::Unresolved;
        for ifindex in interfaces {
            if let hop @ Found::Hop(_) = neighbour(kernel, *ifindex, address).await {
                found = hop;
            }
        }
        return found;
    }
    match route(kernel, address).await {
        Ok(ifindex) => neighbour(kernel, ifindex, address).await,
        Err(obstacle) => Found::Obstacle(obstacle),
    }
}

/// The interface on whose segment the address is.
async fn route(kernel: &Kernel, address: IpAddr) -> Result<u32, Obstacle> {
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
        Ok(Some(RouteNetlinkMessage::NewRoute(route))) => direct_interface(&route),
        Ok(_) => Err(Obstacle::NoRoute),
        Err(error) => Err(match error.raw_os_error() {
            Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES | libc::EINVAL) => {
                Obstacle::NoRoute
            }
            _ => Obstacle::Kernel(error.to_string()),
        }),
    }
}

fn direct_interface(route: &RouteMessage) -> Result<u32, Obstacle> {
    match route.header.kind {
        RouteType::Unicast => {}
        RouteType::Local => return Err(Obstacle::Local),
        _ => return Err(Obstacle::NoRoute),
    }
    let mut interface = None;
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Gateway(RouteAddress::Inet(gateway)) => {
                return Err(Obstacle::Gateway(gateway.to_string()));
            }
            RouteAttribute::Gateway(RouteAddress::Inet6(gateway))
            | RouteAttribute::Via(RouteVia::Inet6(gateway))
                if *gateway != Ipv6Addr::UNSPECIFIED =>
            {
                return Err(Obstacle::Gateway(gateway.to_string()));
            }
            RouteAttribute::Oif(index) => interface = Some(*index),
            _ => {}
        }
    }
    interface.ok_or(Obstacle::NoRoute)
}

/// What the neighbour table says of `address` on an interface.
async fn neighbour(kernel: &Kernel, ifindex: u32, address: IpAddr) -> Found {
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
                Some(libc::ENODEV | libc::ENETDOWN) => Found::Unresolved,
                Some(libc::EINVAL) => Found::Obstacle(Obstacle::NotEthernet),
                _ => Found::Obstacle(Obstacle::Kernel(error.to_string())),
            };
        }
    }
    match knowledge {
        Knowledge::Fresh(mac) | Knowledge::Stale(mac) => Found::Hop(NextHop {
            ifindex,
            mac,
            vlan: 0,
            mtu: 1500,
            gateway: false,
        }),
        Knowledge::NoMac => Found::Obstacle(Obstacle::NotEthernet),
        Knowledge::Nothing => Found::Unresolved,
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
    fn only_a_direct_route_leads_to_the_segment() {
        let answer = |kind, attributes: &[RouteAttribute]| {
            let mut route = RouteMessage::default();
            route.header.kind = kind;
            route.attributes = attributes.into();
            direct_interface(&route)
        };
        let oif = RouteAttribute::Oif(3);
        let gateway = RouteAttribute::Gateway(RouteAddress::Inet([10, 0, 0, 254].into()));
        let via = RouteAttribute::Via(RouteVia::Inet6("fe80::1".parse().unwrap()));
        assert_eq!(
            answer(RouteType::Unicast, std::slice::from_ref(&oif)),
            Ok(3)
        );
        assert_eq!(
            answer(RouteType::Unicast, &[oif.clone(), gateway]),
            Err(Obstacle::Gateway("10.0.0.254".into()))
        );
        assert_eq!(
            answer(RouteType::Unicast, &[via, oif.clone()]),
            Err(Obstacle::Gateway("fe80::1".into()))
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
