//! Gateways: a host of a segment is asked who it is, by ARP or neighbour discovery.
//!
//! Only an answer that came after the question counts, not what the kernel's neighbour table
//! remembers. The question goes out through a packet socket of its own, in the name of one of this
//! host's own addresses: never in that of a virtual address, whose place the segment would learn from
//! it. It is asked three times within the timeout, so that a single frame may be lost.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr},
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

use ipnet::IpNet;
use nix::{
    ifaddrs::InterfaceAddress,
    sys::socket::{LinkAddr, SockaddrStorage, recvfrom},
};
use socket2::{Domain, Protocol, Socket, Type};
use steerd_core::{
    announce::{self, Mac},
    api::human_duration,
    config::Name,
    event::{Sight, TrackFailure},
};
use tokio::io::{Interest, unix::AsyncFd};

use super::Outcome;
use crate::io::announce::{filter, link_address};

/// How often it is asked within the timeout.
const QUESTIONS: u32 = 3;

/// Asks `address` on `interface`, or on the one in whose network it is.
pub(super) async fn ask(
    address: IpAddr,
    interface: Option<Name>,
    virtual_addresses: &BTreeSet<IpAddr>,
    timeout: Duration,
) -> Outcome {
    let local = |why: String| TrackFailure::Local(why);
    let entries: Vec<InterfaceAddress> = nix::ifaddrs::getifaddrs()
        .map_err(|error| local(error.to_string()))?
        .collect();
    let from = asker(&entries, address, interface.as_ref(), virtual_addresses)?;
    let socket = open(&from, address).map_err(|error| {
        local(format!(
            "cannot open a packet socket on {}: {error}",
            from.interface
        ))
    })?;
    let question = announce::question(from.mac, from.address, address)
        .ok_or_else(|| local("it is of another family than its interface".to_owned()))?;
    let start = Instant::now();
    let answer = async {
        loop {
            // A link that is down is an error of the socket, and no answer either.
            let _ = socket.get_ref().send(&question);
            let pause = timeout / QUESTIONS;
            if let Ok(mac) = tokio::time::timeout(pause, answer(&socket, address, from.mac)).await {
                return mac;
            }
        }
    };
    let protocol = match address {
        IpAddr::V4(_) => "ARP",
        IpAddr::V6(_) => "neighbour discovery",
    };
    match tokio::time::timeout(timeout, answer).await {
        Err(_) => Err(TrackFailure::Silent {
            protocol,
            after: timeout,
        }),
        Ok([a, b, c, d, e, f]) => {
            // The time it took would be news each time.
            tracing::trace!(%address, took = human_duration(start.elapsed()), "answered");
            Ok(Sight::of(format!(
                "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x} answers {protocol}"
            )))
        }
    }
}

/// In whose name a question goes out.
#[derive(Debug, PartialEq, Eq)]
struct Asker {
    interface: String,
    index: u32,
    mac: Mac,
    address: IpAddr,
}

/// An address for IPv4 is one of the target's network, or any, or the unspecified one of an ARP
/// probe; for IPv6 the link-local one, or any: to one that is unspecified nobody would answer alone.
fn asker(
    entries: &[InterfaceAddress],
    target: IpAddr,
    interface: Option<&Name>,
    virtual_addresses: &BTreeSet<IpAddr>,
) -> Result<Asker, TrackFailure> {
    let nets = || {
        let nets = entries.iter().filter_map(|entry| {
            let net = network(entry.address.as_ref()?, entry.netmask.as_ref()?)?;
            Some((entry.interface_name.as_str(), net))
        });
        nets.filter(|(_, net)| net.addr().is_ipv6() == target.is_ipv6())
    };
    if nets().any(|(_, net)| net.addr() == target) {
        return Err(TrackFailure::Local(
            "it is this host's own address".to_owned(),
        ));
    }
    let interface = match interface {
        Some(interface) => interface.as_str(),
        None => {
            let found = nets().find(|(_, net)| net.contains(&target) && net.prefix_len() > 0);
            let (interface, _) = found.ok_or_else(|| {
                TrackFailure::Local(
                    "no interface has a network with it: set `interface`".to_owned(),
                )
            })?;
            interface
        }
    };
    let missing = || TrackFailure::NoInterface(Name::new(interface));
    let index = nix::net::if_::if_nametoindex(interface).map_err(|_| missing())?;
    let own = entries
        .iter()
        .filter(|entry| entry.interface_name == interface);
    let mac = own.filter_map(|entry| {
        let link = *entry.address.as_ref()?.as_link_addr()?;
        link.addr().filter(|_| link.hatype() == libc::ARPHRD_ETHER)
    });
    let mac = { mac }
        .next()
        .ok_or_else(|| TrackFailure::Local(format!("{interface} is no Ethernet interface")))?;
    let mut usable: Vec<IpNet> = nets()
        .filter(|(name, net)| *name == interface && !virtual_addresses.contains(&net.addr()))
        .map(|(_, net)| net)
        .collect();
    let link_local =
        |net: &IpNet| matches!(net.addr(), IpAddr::V6(ip) if ip.is_unicast_link_local());
    usable.sort_by_key(|net| (!link_local(net), !net.contains(&target)));
    let address = match (usable.first(), target) {
        (Some(net), _) => net.addr(),
        (None, IpAddr::V4(_)) => Ipv4Addr::UNSPECIFIED.into(),
        (None, IpAddr::V6(_)) => {
            return Err(TrackFailure::Local(format!(
                "{interface} has no IPv6 address to ask from"
            )));
        }
    };
    Ok(Asker {
        interface: interface.to_owned(),
        index,
        mac,
        address,
    })
}

/// An address with its mask.
fn network(address: &SockaddrStorage, mask: &SockaddrStorage) -> Option<IpNet> {
    let (address, mask): (IpAddr, IpAddr) = match (address.as_sockaddr_in(), mask.as_sockaddr_in())
    {
        (Some(address), Some(mask)) => (address.ip().into(), mask.ip().into()),
        _ => (
            address.as_sockaddr_in6()?.ip().into(),
            mask.as_sockaddr_in6()?.ip().into(),
        ),
    };
    IpNet::with_netmask(address, mask).ok()
}

/// A packet socket that gets the claims of `address` and nothing else.
fn open(from: &Asker, address: IpAddr) -> io::Result<AsyncFd<Socket>> {
    let socket = Socket::new(Domain::PACKET, Type::RAW, None::<Protocol>)?;
    socket.set_nonblocking(true)?;
    socket.attach_filter(&filter::claims_of(address.is_ipv6(), &[address].into()))?;
    let protocol = match address {
        IpAddr::V4(_) => libc::ETH_P_ARP,
        IpAddr::V6(_) => libc::ETH_P_IPV6,
    };
    socket.bind(&link_address(from.index, protocol as u16))?;
    // SAFETY: the socket owns its descriptor, and never replaces or closes it before its drop.
    let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
    Ok(socket?)
}

/// Waits until another host says that `address` is its own.
async fn answer(socket: &AsyncFd<Socket>, address: IpAddr, own: Mac) -> Mac {
    let mut buffer = [0; filter::SNAP_LENGTH as usize];
    loop {
        let read = socket
            .async_io(Interest::READABLE, |socket| {
                Ok(recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut buffer)?)
            })
            .await;
        let Ok((length, _)) = read else {
            // That the link went down: it may come back.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let claim = announce::parse_claim(buffer.get(..length).unwrap_or_default());
        if let Some(claim) = claim.filter(|claim| claim.address == address && claim.mac != own) {
            return claim.mac;
        }
    }
}
