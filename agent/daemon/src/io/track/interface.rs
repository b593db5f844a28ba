//! Interfaces: the kernel tells of every change of a link, and then the one that is tracked is looked
//! at.

use std::{io, time::Duration};

use nix::net::if_::InterfaceFlags;
use rtnetlink::{
    MulticastGroup,
    sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE},
};
use steerd_core::{
    config::Name,
    event::{Sight, TrackFailure},
};

use super::{Outcome, Reporter};

/// After how long a socket that cannot be opened is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Reports whether `interface` can carry packets.
pub(super) async fn watch(interface: Name, mut reporter: Reporter) {
    loop {
        let error = match subscribe() {
            Ok(links) => {
                let mut buffer = Vec::with_capacity(32 * 1024);
                loop {
                    reporter.report(look(&interface)).await;
                    buffer.clear();
                    // That notifications were lost (ENOBUFS) is one too.
                    match links.recv_from(&mut buffer).await {
                        Ok(_) => {}
                        Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                        Err(error) => break error,
                    }
                }
            }
            Err(error) => error,
        };
        let why = format!("cannot follow links: {error}");
        reporter.report(Err(TrackFailure::Local(why))).await;
        tokio::time::sleep(RETRY).await;
    }
}

/// Whether it is set up, and the kernel says that it works (RFC 2863's operational state).
fn look(interface: &Name) -> Outcome {
    let entries = nix::ifaddrs::getifaddrs();
    let mut entries = entries.map_err(|error| TrackFailure::Local(error.to_string()))?;
    let found = entries.find(|entry| entry.interface_name == interface.as_str());
    let works = InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING;
    match found {
        None => Err(TrackFailure::NoInterface(interface.clone())),
        Some(entry) if entry.flags.contains(works) => {
            Ok(Sight::of(format!("interface {interface} is up")))
        }
        Some(_) => Err(TrackFailure::Down(interface.clone())),
    }
}

fn subscribe() -> io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
    let links = 1 << (MulticastGroup::Link as u32 - 1);
    socket.socket_mut().bind(&SocketAddr::new(0, links))?;
    Ok(socket)
}
