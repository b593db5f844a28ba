//! A raw socket for VRRP on one interface: its options, one packet in, one packet out.

use std::{
    collections::BTreeSet,
    fmt, io,
    io::{IoSlice, IoSliceMut},
    mem,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6},
    ops::Range,
    os::fd::{AsRawFd, RawFd},
};

use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, SockaddrIn6, recvmsg, sendmsg,
    setsockopt, sockopt,
};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, SockFilter, Socket, Type};
use steerd_core::{
    config::Name,
    vrrp::wire::{GROUP_V4, GROUP_V6, PROTOCOL, ah},
};

use super::{PeerError, send::SourceKind};

/// What is in the packets of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Framing {
    /// Adverts in IPv4.
    V4,
    /// Adverts in IPv6.
    V6,
    /// Adverts behind authentication headers in IPv4.
    Ah,
}

impl Framing {
    fn is_v6(self) -> bool {
        self == Self::V6
    }

    fn protocol(self) -> i32 {
        match self {
            Self::V4 | Self::V6 => PROTOCOL.into(),
            Self::Ah => ah::PROTOCOL.into(),
        }
    }
}

/// More than the largest advert (255 IPv6 addresses) with its headers.
pub(super) const LARGEST_PACKET: usize = 4352;

/// Internetwork control (CS6), which switches and queues let through first.
pub(super) const TRAFFIC_CLASS: u8 = 0xc0;
/// Some thirty adverts of the common size, as the kernel accounts for them.
const RECEIVE_BUFFER: usize = 64 * 1024;

/// What a read brought; `payload` is a part of the buffer it was read into.
pub(super) enum Received {
    Packet {
        source: IpAddr,
        destination: IpAddr,
        hop_limit: u8,
        payload: Range<usize>,
    },
    Malformed(&'static str),
}

/// A raw socket of one protocol, bound to an interface, without blocking.
pub(super) struct VrrpSocket {
    socket: Socket,
    index: u32,
    framing: Framing,
}

impl AsRawFd for VrrpSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl VrrpSocket {
    pub(super) fn open(
        interface: &Name,
        index: u32,
        framing: Framing,
        multicast: bool,
    ) -> Result<Self, PeerError> {
        let domain = if framing.is_v6() {
            Domain::IPV6
        } else {
            Domain::IPV4
        };
        let socket = Socket::new(
            domain,
            Type::from(libc::SOCK_RAW),
            Some(Protocol::from(framing.protocol())),
        )
        .map_err(|source| PeerError::Open {
            interface: interface.clone(),
            source,
        })?;
        let setup = |what: &'static str, result: io::Result<()>| {
            result.map_err(|source| PeerError::Setup {
                interface: interface.clone(),
                what,
                source,
            })
        };
        setup(
            "binding to the interface",
            socket.bind_device(Some(interface.as_str().as_bytes())),
        )?;
        setup("non-blocking mode", socket.set_nonblocking(true))?;
        setup(
            "receive buffer",
            socket.set_recv_buffer_size(RECEIVE_BUFFER),
        )?;
        if framing.is_v6() {
            setup("hop limit", socket.set_unicast_hops_v6(255))?;
            setup("multicast hop limit", socket.set_multicast_hops_v6(255))?;
            setup("traffic class", socket.set_tclass_v6(TRAFFIC_CLASS.into()))?;
            setup("multicast loop", socket.set_multicast_loop_v6(false))?;
            setup("multicast interface", socket.set_multicast_if_v6(index))?;
            setup("multicast filter", socket.set_multicast_all_v6(false))?;
            setup("hop limit of packets", socket.set_recv_hoplimit_v6(true))?;
            let packet_info = setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true);
            setup(
                "destination of packets",
                packet_info.map_err(io::Error::from),
            )?;
            if multicast {
                setup(
                    "joining ff02::12",
                    socket.join_multicast_v6(&GROUP_V6, index),
                )?;
            }
        } else {
            setup("TTL", socket.set_ttl_v4(255))?;
            setup("multicast TTL", socket.set_multicast_ttl_v4(255))?;
            setup("type of service", socket.set_tos_v4(TRAFFIC_CLASS.into()))?;
            setup("multicast loop", socket.set_multicast_loop_v4(false))?;
            setup("multicast filter", socket.set_multicast_all_v4(false))?;
            setup("don't-fragment bit", allow_fragments(&socket))?;
            if framing == Framing::Ah {
                // The check value covers the header, so all of it is ours.
                setup("IPv4 headers", socket.set_header_included_v4(true))?;
                // What else the host has authenticated is none of our business.
                setup(
                    "filter of packets",
                    socket.attach_filter(&adverts_behind_ah()),
                )?;
            }
            if multicast {
                let on = InterfaceIndexOrAddress::Index(index);
                setup(
                    "joining 224.0.0.18",
                    socket.join_multicast_v4_n(&GROUP_V4, &on),
                )?;
            }
        }
        Ok(Self {
            socket,
            index,
            framing,
        })
    }

    /// Sends `payload`, with [`Framing::Ah`] a packet with its header, from exactly `source`: the
    /// kernel refuses where it is not this host's.
    pub(super) fn send(
        &self,
        payload: &[u8],
        source: IpAddr,
        destination: IpAddr,
        ttl: u8,
    ) -> io::Result<()> {
        let data = [IoSlice::new(payload)];
        let flags = MsgFlags::MSG_DONTWAIT;
        let ttl = libc::c_int::from(ttl);
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let info = libc::in_pktinfo {
                    ipi_ifindex: self.index.cast_signed(),
                    ipi_spec_dst: libc::in_addr {
                        s_addr: u32::from(source).to_be(),
                    },
                    ipi_addr: libc::in_addr { s_addr: 0 },
                };
                let to = SockaddrIn::from(SocketAddrV4::new(destination, 0));
                let control = [
                    ControlMessage::Ipv4PacketInfo(&info),
                    ControlMessage::Ipv4Ttl(&ttl),
                ];
                sendmsg(self.as_raw_fd(), &data, &control, flags, Some(&to))?;
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let info = libc::in6_pktinfo {
                    ipi6_addr: libc::in6_addr {
                        s6_addr: source.octets(),
                    },
                    ipi6_ifindex: self.index,
                };
                // A scope would be refused for a global destination.
                let scope = if destination.is_unicast_link_local() || destination.is_multicast() {
                    self.index
                } else {
                    0
                };
                let to = SockaddrIn6::from(SocketAddrV6::new(destination, 0, 0, scope));
                let control = [
                    ControlMessage::Ipv6PacketInfo(&info),
                    ControlMessage::Ipv6HopLimit(&ttl),
                ];
                sendmsg(self.as_raw_fd(), &data, &control, flags, Some(&to))?;
            }
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        }
        Ok(())
    }

    /// Reads one packet; `WouldBlock` where there is none.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> io::Result<Received> {
        if self.framing.is_v6() {
            self.receive_v6(buffer)
        } else {
            self.receive_v4(buffer)
        }
    }

    /// A raw IPv4 socket gives the packet with its IP header.
    fn receive_v4(&self, buffer: &mut [u8]) -> io::Result<Received> {
        let length = io::Read::read(&mut &self.socket, buffer)?;
        Ok(parse_v4(buffer.get(..length).unwrap_or_default()))
    }

    /// A raw IPv6 socket gives the payload; what the header said comes beside it (RFC 3542).
    fn receive_v6(&self, buffer: &mut [u8]) -> io::Result<Received> {
        let mut control = nix::cmsg_space!(libc::in6_pktinfo, libc::c_int);
        let mut data = [IoSliceMut::new(buffer)];
        let message = recvmsg::<SockaddrIn6>(
            self.as_raw_fd(),
            &mut data,
            Some(&mut control),
            MsgFlags::MSG_DONTWAIT,
        )?;
        let length = message.bytes;
        if message
            .flags
            .intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC)
        {
            return Ok(Received::Malformed("longer than any advert"));
        }
        let source = message.address.map(|address| address.ip());
        let (mut hop_limit, mut destination) = (None, None);
        for control in message.cmsgs()? {
            match control {
                ControlMessageOwned::Ipv6HopLimit(limit) => hop_limit = u8::try_from(limit).ok(),
                ControlMessageOwned::Ipv6PacketInfo(info) => {
                    destination = Some(Ipv6Addr::from(info.ipi6_addr.s6_addr));
                }
                _ => {}
            }
        }
        let (Some(source), Some(destination), Some(hop_limit)) = (source, destination, hop_limit)
        else {
            return Ok(Received::Malformed("the kernel did not tell its addresses"));
        };
        Ok(Received::Packet {
            source: source.into(),
            destination: destination.into(),
            hop_limit,
            payload: 0..length,
        })
    }
}

/// Takes an IPv4 packet apart.
fn parse_v4(packet: &[u8]) -> Received {
    let Some(header) = packet.first_chunk::<20>() else {
        return Received::Malformed("shorter than an IPv4 header");
    };
    let header_length = usize::from(header[0] & 0x0f) * 4;
    let total_length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if header[0] >> 4 != 4 || header_length < header.len() {
        return Received::Malformed("not an IPv4 header");
    }
    if total_length > packet.len() || header_length > total_length {
        return Received::Malformed("shorter than its IPv4 header says");
    }
    Received::Packet {
        source: Ipv4Addr::new(header[12], header[13], header[14], header[15]).into(),
        destination: Ipv4Addr::new(header[16], header[17], header[18], header[19]).into(),
        hop_limit: header[8],
        payload: header_length..total_length,
    }
}

/// Lets authentication headers with an advert behind them through, in classic BPF: the byte after
/// the IPv4 header, whose length the first byte tells in words, is the protocol of what follows.
fn adverts_behind_ah() -> [SockFilter; 5] {
    let instruction = |code: u32, jump_true, jump_false, value| {
        SockFilter::new(code as u16, jump_true, jump_false, value)
    };
    [
        instruction(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, 0, 0, 0),
        instruction(libc::BPF_LD | libc::BPF_B | libc::BPF_IND, 0, 0, 0),
        instruction(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            0,
            1,
            PROTOCOL.into(),
        ),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    ]
}

/// Path MTU discovery off, so that adverts go out without the don't-fragment bit.
fn allow_fragments(socket: &Socket) -> io::Result<()> {
    let value: libc::c_int = libc::IP_PMTUDISC_DONT;
    // SAFETY: the descriptor is open for as long as `socket` lives, and the pointer and length
    // describe `value`, which the kernel only reads.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            (&raw const value).cast(),
            mem::size_of_val(&value) as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The addresses that this host has of its own on an interface, in the kernel's order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Sources(Vec<IpAddr>);

impl Sources {
    /// Those of `interface` that are not among `virtual_addresses`. An interface that is gone, or a
    /// failing look-up, is one without addresses.
    pub(super) fn of(interface: &Name, virtual_addresses: &BTreeSet<IpAddr>) -> Self {
        let addresses = nix::ifaddrs::getifaddrs().into_iter().flatten();
        // IPv4 addresses go by their label, `eth0:web`, instead of the interface's name.
        let here = |name: &str| name.split(':').next() == Some(interface.as_str());
        Self(
            addresses
                .filter(|entry| here(&entry.interface_name))
                .filter_map(|entry| {
                    let address = entry.address?;
                    let v4 = address
                        .as_sockaddr_in()
                        .map(|address| IpAddr::from(address.ip()));
                    v4.or_else(|| address.as_sockaddr_in6().map(|address| address.ip().into()))
                })
                .filter(|address| !virtual_addresses.contains(address))
                .collect(),
        )
    }

    pub(super) fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address)
    }

    pub(super) fn pick(&self, kind: SourceKind) -> Option<IpAddr> {
        self.0
            .iter()
            .copied()
            .find(|address| match (address, kind) {
                (IpAddr::V4(_), SourceKind::V4) => true,
                (IpAddr::V6(v6), SourceKind::LinkLocalV6) => v6.is_unicast_link_local(),
                (IpAddr::V6(v6), SourceKind::GlobalV6) => !v6.is_unicast_link_local(),
                _ => false,
            })
    }
}

impl fmt::Debug for VrrpSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VrrpSocket")
            .field("index", &self.index)
            .field("framing", &self.framing)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Vec<u8> {
        #[rustfmt::skip]
        let packet = vec![
            0x45, 0xc0, 0, 32, 0, 0, 0, 0, 255, 112, 0, 0, 10, 77, 0, 1, 224, 0, 0, 18,
            0x31, 0x33, 110, 1, 0, 10, 0x6b, 0x33, 10, 77, 0, 100,
        ];
        packet
    }

    #[test]
    fn an_ipv4_packet_is_taken_apart() {
        let mut packet = header();
        packet.extend([0; 28]); // Ethernet's padding
        let Received::Packet {
            source,
            destination,
            hop_limit,
            payload,
        } = parse_v4(&packet)
        else {
            panic!("malformed")
        };
        assert_eq!(source, IpAddr::from([10, 77, 0, 1]));
        assert_eq!(destination, IpAddr::from([224, 0, 0, 18]));
        assert_eq!((hop_limit, payload), (255, 20..32));
    }

    #[test]
    fn options_are_skipped() {
        let mut packet = header();
        packet.splice(20..20, [1, 1, 1, 1]);
        packet[0] = 0x46;
        packet[3] = 36;
        let Received::Packet { payload, .. } = parse_v4(&packet) else {
            panic!("malformed")
        };
        assert_eq!(payload, 24..36);
    }

    #[test]
    fn no_truncated_ipv4_packet_is_read() {
        let packet = header();
        for length in 0..packet.len() {
            assert!(
                matches!(parse_v4(&packet[..length]), Received::Malformed(_)),
                "{length}"
            );
        }
        for (at, value) in [(0, 0x44), (0, 0x65), (0, 0x4f), (3, 19)] {
            let mut packet = header();
            packet[at] = value;
            assert!(
                matches!(parse_v4(&packet), Received::Malformed(_)),
                "{at} {value}"
            );
        }
    }

    #[test]
    fn sources_are_chosen_by_kind() {
        let address = |text: &str| -> IpAddr { text.parse().unwrap() };
        let sources = Sources(
            ["10.0.0.1", "10.0.0.2", "fd00::1", "fe80::1"]
                .map(address)
                .into(),
        );
        assert_eq!(sources.pick(SourceKind::V4), Some(address("10.0.0.1")));
        assert_eq!(sources.pick(SourceKind::GlobalV6), Some(address("fd00::1")));
        assert_eq!(
            sources.pick(SourceKind::LinkLocalV6),
            Some(address("fe80::1"))
        );
        assert_eq!(Sources::default().pick(SourceKind::V4), None);
    }
}
