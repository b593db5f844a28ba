//! Virtual addresses on interfaces, and on the loopback interface of a backend.

use std::{collections::BTreeSet, io, net::IpAddr};

use ipnet::IpNet;
use rtnetlink::{
    AddressMessageBuilder, LinkMessageBuilder, LinkUnspec,
    packet_route::{
        RouteNetlinkMessage,
        address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope, CacheInfo},
    },
};
use steerd_core::config::{Name, VirtualRouter};

use super::{
    NetlinkError,
    request::{self, Kernel},
};

/// Puts the addresses of `router` on its interface.
pub(super) async fn acquire(kernel: &Kernel, router: &VirtualRouter) -> Result<(), NetlinkError> {
    let mut outcome = Ok(());
    for net in &router.addresses {
        outcome = outcome.and(put(kernel, &router.interface, *net).await);
    }
    outcome
}

/// Puts `net` on `interface`.
pub(super) async fn put(kernel: &Kernel, interface: &Name, net: IpNet) -> Result<(), NetlinkError> {
    let index = index_of(interface).ok_or_else(|| NetlinkError::NoInterface(interface.clone()))?;
    let flags = match net {
        IpNet::V4(_) => AddressFlags::empty(),
        IpNet::V6(_) if has_prefix(kernel, index, &net).await => {
            AddressFlags::Nodad | AddressFlags::Noprefixroute
        }
        IpNet::V6(_) => AddressFlags::Nodad,
    };
    let message = with_flags(message(index, net), flags);
    let added = kernel.set(RouteNetlinkMessage::NewAddress(message)).await;
    added.map_err(|source| failed("put", net, interface, source))
}

/// Takes the addresses of `router` off its interface.
pub(super) async fn release(kernel: &Kernel, router: &VirtualRouter) -> Result<(), NetlinkError> {
    let mut outcome = Ok(());
    for net in &router.addresses {
        outcome = outcome.and(release_one(kernel, &router.interface, *net).await);
    }
    outcome
}

/// Takes `net` off `interface`.
pub(super) async fn release_one(
    kernel: &Kernel,
    interface: &Name,
    net: IpNet,
) -> Result<(), NetlinkError> {
    let Some(index) = index_of(interface) else {
        return Ok(());
    };
    let removed = remove(kernel, index, net).await;
    removed.map_err(|source| failed("remove", net, interface, source))
}

/// Puts `vip` alone on the loopback interface, where this host takes packets for it as its own.
///
/// An IPv4 address there has scope host, so the kernel never chooses it as a source by itself.
pub(super) async fn prepare(kernel: &Kernel, vip: IpAddr) -> Result<(), NetlinkError> {
    let (loopback, index) = loopback()?;
    let net = IpNet::from(vip);
    let fail = |source| failed("put", net, &loopback, source);
    // Without it up there is no local route, as in a fresh network namespace.
    let up = LinkMessageBuilder::<LinkUnspec>::new()
        .index(index)
        .up()
        .build();
    kernel
        .order(RouteNetlinkMessage::SetLink(up))
        .await
        .map_err(fail)?;
    let mut message = message(index, net);
    if vip.is_ipv4() {
        message.header.scope = AddressScope::Host;
    }
    let message = with_flags(message, AddressFlags::Nodad);
    kernel
        .set(RouteNetlinkMessage::NewAddress(message))
        .await
        .map_err(fail)
}

/// Takes `vip` off the loopback interface.
pub(super) async fn unprepare(kernel: &Kernel, vip: IpAddr) -> Result<(), NetlinkError> {
    let (loopback, index) = loopback()?;
    let net = IpNet::from(vip);
    let removed = remove(kernel, index, net).await;
    removed.map_err(|source| failed("remove", net, &loopback, source))
}

fn loopback() -> Result<(Name, u32), NetlinkError> {
    let name = Name::new("lo");
    match index_of(&name) {
        Some(index) => Ok((name, index)),
        None => Err(NetlinkError::NoInterface(name)),
    }
}

/// Which addresses are on which interfaces.
pub(super) fn placed() -> io::Result<BTreeSet<(Name, IpAddr)>> {
    let placed = nix::ifaddrs::getifaddrs()?.filter_map(|entry| {
        let address = entry.address?;
        let ip = match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
            (Some(ipv4), _) => IpAddr::V4(ipv4.ip()),
            (_, Some(ipv6)) => IpAddr::V6(ipv6.ip()),
            _ => return None,
        };
        Some((Name::new(&entry.interface_name), ip))
    });
    Ok(placed.collect())
}

fn index_of(interface: &Name) -> Option<u32> {
    nix::net::if_::if_nametoindex(interface.as_str()).ok()
}

fn failed(verb: &'static str, net: IpNet, interface: &Name, source: io::Error) -> NetlinkError {
    NetlinkError::Address {
        verb,
        address: net.to_string(),
        interface: interface.clone(),
        source,
    }
}

/// Whether another address of the interface already brings the route to the prefix of `net`. A
/// second route by the virtual address would come and go with it.
async fn has_prefix(kernel: &Kernel, index: u32, net: &IpNet) -> bool {
    let all = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    let list = kernel.list(all).await.unwrap_or_default();
    list.iter().any(|entry| match entry {
        RouteNetlinkMessage::NewAddress(other) => {
            other.header.index == index
                && other.header.prefix_len == net.prefix_len()
                && other.attributes.iter().any(|attribute| {
                    matches!(attribute, AddressAttribute::Address(address)
                        if net.contains(address) && *address != net.addr())
                })
        }
        _ => false,
    })
}

async fn remove(kernel: &Kernel, index: u32, net: IpNet) -> io::Result<()> {
    let removed = kernel
        .order(RouteNetlinkMessage::DelAddress(message(index, net)))
        .await;
    // No such address, or the interface went meanwhile.
    removed.or_else(|error| {
        let absent = request::is(&error, libc::EADDRNOTAVAIL) || request::is(&error, libc::ENODEV);
        if absent { Ok(()) } else { Err(error) }
    })
}

fn message(index: u32, net: IpNet) -> AddressMessage {
    match net {
        IpNet::V4(net) => AddressMessageBuilder::<std::net::Ipv4Addr>::new()
            .index(index)
            .address(net.addr(), net.prefix_len())
            .build(),
        IpNet::V6(net) => AddressMessageBuilder::<std::net::Ipv6Addr>::new()
            .index(index)
            .address(net.addr(), net.prefix_len())
            .build(),
    }
}

/// IPv6 addresses come without duplicate address detection, which would keep them unusable for a
/// second (the election is what keeps them unique), and deprecated from the start: valid for ever,
/// but not chosen as a source for connections that would break when the address moves.
fn with_flags(mut message: AddressMessage, flags: AddressFlags) -> AddressMessage {
    let is_v6 = message.header.family == rtnetlink::packet_route::AddressFamily::Inet6;
    if is_v6 {
        let mut lifetimes = CacheInfo::default();
        lifetimes.ifa_preferred = 0;
        lifetimes.ifa_valid = u32::MAX;
        message
            .attributes
            .push(AddressAttribute::CacheInfo(lifetimes));
        message.attributes.push(AddressAttribute::Flags(flags));
    }
    message
}
