//! How a program is attached to an interface, as the kernel tells it.

use std::io;

use rtnetlink::{
    packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
    packet_route::{
        RouteNetlinkMessage,
        link::{LinkAttribute, LinkMessage, LinkXdp, XdpAttached},
    },
    sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE},
};
use steerd_core::config::XdpMode;

/// An XDP program on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Attached {
    pub(super) mode: XdpMode,
    /// The kernel's number of the program.
    pub(super) program: u32,
}

/// The XDP program on the interface; `None`: there is none.
///
/// One question and one answer, which the kernel has ready before the question's `send` returns.
pub(super) fn attached(ifindex: u32) -> io::Result<Option<Attached>> {
    let mut link = LinkMessage::default();
    link.header.index = ifindex;
    let mut question = NetlinkMessage::from(RouteNetlinkMessage::GetLink(link));
    question.header.flags = NLM_F_REQUEST;
    question.finalize();
    let mut bytes = vec![0; question.buffer_len()];
    question.serialize(&mut bytes);

    let socket = Socket::new(NETLINK_ROUTE)?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&bytes, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
    match answer.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => Ok(program(&link)),
        NetlinkPayload::Error(error) => Err(error.to_io()),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn program(link: &LinkMessage) -> Option<Attached> {
    let xdp = link
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::Xdp(xdp) => Some(xdp),
            _ => None,
        })?;
    let mode = xdp.iter().find_map(|xdp| match xdp {
        LinkXdp::Attached(XdpAttached::None) => None,
        LinkXdp::Attached(XdpAttached::SocketBuffer) => Some(XdpMode::Generic),
        // Hardware is beyond the driver; of several, the driver's sees packets first.
        LinkXdp::Attached(_) => Some(XdpMode::Driver),
        _ => None,
    })?;
    let program = xdp.iter().find_map(|xdp| match xdp {
        LinkXdp::ProgId(program) => Some(*program),
        _ => None,
    });
    Some(Attached {
        mode,
        program: program.unwrap_or_default(),
    })
}
