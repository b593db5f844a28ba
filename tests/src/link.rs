//! Links and addresses of the network namespace the calling thread is in.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd, BorrowedFd},
};

use futures_util::TryStreamExt;
use nix::net::if_::if_nametoindex;
use rtnetlink::{
    Handle, LinkBridge, LinkUnspec, LinkVeth, LinkVlan, RouteMessageBuilder, new_connection,
    packet_route::link::{BridgeStpState, LinkAttribute, LinkXdp},
};
// The answer of [`xdp`].
pub use rtnetlink::packet_route::link::XdpAttached;

use crate::error::{Context, Result};

/// Makes the bridge `name`: no spanning tree, no delay, no multicast snooping, so that it forwards
/// a frame from the moment its port is up.
///
/// # Errors
///
/// The kernel has no bridges, or the name is taken.
pub fn add_bridge(name: &str) -> Result<()> {
    netlink(async |handle| {
        let bridge = LinkBridge::new(name)
            .stp_state(BridgeStpState::Disabled)
            .forward_delay(0)
            .mcast_snooping(false);
        handle
            .link()
            .add(bridge.build())
            .execute()
            .await
            .context(|| format!("add bridge {name}"))
    })
}

/// Makes a cable of which both ends, `name` and `far_name`, are here.
///
/// # Errors
///
/// The kernel has no veth, or a name is taken.
pub fn add_cable(name: &str, far_name: &str) -> Result<()> {
    netlink(async |handle| {
        let veth = LinkVeth::new(name, far_name).build();
        let add = handle.link().add(veth).execute().await;
        add.context(|| format!("add veth {name}"))
    })
}

/// Makes the interface `name` for frames in an 802.1Q VLAN of the interface `below`.
///
/// # Errors
///
/// No such interface, the kernel has no VLANs, or the name is taken.
pub fn add_vlan(name: &str, below: &str, vlan: u16) -> Result<()> {
    let device = LinkVlan::new(name, index(below)?, vlan).build();
    netlink(async |handle| {
        let add = handle.link().add(device).execute().await;
        add.context(|| format!("add VLAN {vlan} of {below}"))
    })
}

/// Moves an interface to the network namespace `to`, where it is called `new_name`.
///
/// # Errors
///
/// No such interface, or the name is taken there.
pub fn hand_over(name: &str, to: BorrowedFd<'_>, new_name: &str) -> Result<()> {
    let moved = LinkUnspec::new_with_index(index(name)?)
        .name(new_name)
        .setns_by_fd(to.as_raw_fd());
    netlink(async |handle| {
        let set = handle.link().set(moved.build()).execute().await;
        set.context(|| format!("move {name}"))
    })
}

/// Makes an interface a port of `bridge`, and brings it up.
///
/// # Errors
///
/// No such interface or bridge.
pub fn plug(name: &str, bridge: &str) -> Result<()> {
    let port = LinkUnspec::new_with_index(index(name)?)
        .controller(index(bridge)?)
        .up();
    netlink(async |handle| {
        let set = handle.link().set(port.build()).execute().await;
        set.context(|| format!("plug {name} into {bridge}"))
    })
}

/// Gives an interface its MAC, brings it up and adds addresses.
///
/// # Errors
///
/// No such interface, or an address that is already there.
pub fn configure(name: &str, mac: [u8; 6], addresses: &[(IpAddr, u8)]) -> Result<()> {
    let index = index(name)?;
    netlink(async |handle| {
        let set = LinkUnspec::new_with_index(index).address(mac.to_vec()).up();
        handle
            .link()
            .set(set.build())
            .execute()
            .await
            .context(|| format!("bring up {name}"))?;
        for &(address, prefix) in addresses {
            let add = handle.address().add(index, address, prefix).execute();
            add.await.context(|| format!("add {address} to {name}"))?;
        }
        Ok(())
    })
}

/// Adds an address.
///
/// # Errors
///
/// No such interface, or it has the address.
pub fn add_address(name: &str, address: IpAddr, prefix: u8) -> Result<()> {
    let index = index(name)?;
    netlink(async |handle| {
        let add = handle.address().add(index, address, prefix).execute();
        add.await.context(|| format!("add {address} to {name}"))
    })
}

/// Sends what is for other networks to `gateway`.
///
/// # Errors
///
/// The gateway is on no network of this host's, or there is a default route.
pub fn add_default_route(gateway: IpAddr) -> Result<()> {
    let route = match gateway {
        IpAddr::V4(gateway) => RouteMessageBuilder::<Ipv4Addr>::new()
            .gateway(gateway)
            .build(),
        IpAddr::V6(gateway) => RouteMessageBuilder::<Ipv6Addr>::new()
            .gateway(gateway)
            .build(),
    };
    netlink(async |handle| {
        let add = handle.route().add(route).execute().await;
        add.context(|| format!("add a default route by {gateway}"))
    })
}

/// The addresses of an interface.
///
/// # Errors
///
/// No such interface.
pub fn addresses(name: &str) -> Result<Vec<IpAddr>> {
    use rtnetlink::packet_route::address::AddressAttribute;

    let index = index(name)?;
    netlink(async |handle| {
        let get = handle
            .address()
            .get()
            .set_link_index_filter(index)
            .execute();
        let messages: Vec<_> = get
            .try_collect()
            .await
            .context(|| "list addresses".into())?;
        let attributes = messages.into_iter().flat_map(|message| message.attributes);
        Ok(attributes
            .filter_map(|attribute| match attribute {
                AddressAttribute::Address(address) => Some(address),
                _ => None,
            })
            .collect())
    })
}

/// How an XDP program is attached to an interface.
///
/// # Errors
///
/// No such interface.
pub fn xdp(name: &str) -> Result<XdpAttached> {
    let index = index(name)?;
    netlink(async |handle| {
        let mut get = handle.link().get().match_index(index).execute();
        let message = get.try_next().await;
        let message = message.context(|| format!("look at {name}"))?;
        let attributes = message.into_iter().flat_map(|message| message.attributes);
        let mut about_xdp = attributes.filter_map(|attribute| match attribute {
            LinkAttribute::Xdp(xdp) => Some(xdp),
            _ => None,
        });
        let attached = about_xdp.next().and_then(|xdp| {
            xdp.into_iter().find_map(|xdp| match xdp {
                LinkXdp::Attached(attached) => Some(attached),
                _ => None,
            })
        });
        Ok(attached.unwrap_or(XdpAttached::None))
    })
}

/// Brings an interface up.
///
/// # Errors
///
/// No such interface.
pub fn up(name: &str) -> Result<()> {
    let up = LinkUnspec::new_with_index(index(name)?).up().build();
    netlink(async |handle| {
        handle
            .link()
            .set(up)
            .execute()
            .await
            .context(|| format!("bring up {name}"))
    })
}

/// Takes an interface down; the far end of its cable loses carrier.
///
/// # Errors
///
/// No such interface.
pub fn down(name: &str) -> Result<()> {
    let down = LinkUnspec::new_with_index(index(name)?).down().build();
    netlink(async |handle| {
        handle
            .link()
            .set(down)
            .execute()
            .await
            .context(|| format!("take down {name}"))
    })
}

/// Removes an interface, and with it the far end of its cable.
///
/// # Errors
///
/// No such interface.
pub fn remove(name: &str) -> Result<()> {
    let index = index(name)?;
    netlink(async |handle| {
        handle
            .link()
            .del(index)
            .execute()
            .await
            .context(|| format!("remove {name}"))
    })
}

/// The interface's index.
///
/// # Errors
///
/// No such interface.
pub fn index(name: &str) -> Result<u32> {
    if_nametoindex(name).context(|| format!("find interface {name}"))
}

/// A function of the device that veth only pretends to have: it hands on half-finished packets,
/// which an XDP program at the other end must not forward as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Offload {
    /// Checksums of sent packets (`ETHTOOL_STXCSUM`).
    TxChecksum = 0x17,
    /// TCP segmentation (`ETHTOOL_STSO`).
    Tso = 0x1f,
    /// Generic segmentation (`ETHTOOL_SGSO`).
    Gso = 0x24,
    /// Receive merging (`ETHTOOL_SGRO`).
    Gro = 0x2c,
    /// VLAN tags beside the frame, where XDP does not see them (`ETHTOOL_SFLAGS`).
    VlanTags = 0x26,
}

/// Switches offloads off, as `ethtool -K name tx off ...` does.
///
/// # Errors
///
/// No such interface, or the driver cannot.
pub fn disable_offloads(name: &str, offloads: &[Offload]) -> Result<()> {
    /// `struct ethtool_value`.
    #[repr(C)]
    struct Value {
        command: u32,
        data: u32,
    }

    let what = || format!("switch offloads of {name} off");
    let socket = std::net::UdpSocket::bind(("127.0.0.1", 0)).context(what)?;
    for &offload in offloads {
        let mut value = Value {
            command: offload as u32,
            data: 0,
        };
        // SAFETY: an ifreq is plain integers and a union of such; all zeroes is one.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, &from) in request.ifr_name.iter_mut().zip(name.as_bytes()).take(15) {
            *to = from.cast_signed();
        }
        request.ifr_ifru.ifru_data = (&raw mut value).cast();
        // SAFETY: the kernel reads the request and reads and writes the value it points to; both
        // outlive the call, and `Value` is what these commands take.
        let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
        if done < 0 {
            return Err(io::Error::last_os_error()).context(what);
        }
    }
    Ok(())
}

/// Speaks rtnetlink in the calling thread's network namespace.
fn netlink<T>(talk: impl AsyncFnOnce(Handle) -> Result<T>) -> Result<T> {
    let what = || "speak netlink".into();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .context(what)?;
    runtime.block_on(async {
        let (connection, handle, _) = new_connection().context(what)?;
        tokio::spawn(connection);
        talk(handle).await
    })
}
