//! The frames that are sent, and to whom.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};

use super::error::{Error, Result};

/// This host's MAC.
pub const OWN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x26];

const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x10];

/// The port of all services, and of all backends that keep it.
pub const PORT: u16 = 8765;

/// The port of the client, the same in all flows.
pub const CLIENT_PORT: u16 = 31_337;

/// IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A TCP segment of a connection, without data.
    Ack,
    /// A connection's first segment.
    Syn,
    /// A UDP datagram.
    Udp,
    /// [`Kind::Ack`] to an address that is no service's.
    Elsewhere,
    /// A backend's answer to [`Kind::Syn`] as the program sent it on.
    Answer,
    /// [`Kind::Ack`] as the program sent it on, at its backend.
    Wrapped,
}

/// The address of service number `n`, 0 being the one that packets are sent to.
#[must_use]
pub const fn vip(family: Family, n: u32) -> IpAddr {
    let [_, _, high, low] = (n + 1).to_be_bytes();
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::new(10, 200, high, low)),
        Family::V6 => IpAddr::V6(Ipv6Addr::new(0xfd00, 0x200, 0, 0, 0, 0, 0, n as u16 + 1)),
    }
}

/// Client number 0: what differs between clients is 0 in its address.
#[must_use]
pub const fn client(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::new(100, 0, 0, 0)),
        Family::V6 => IpAddr::V6(Ipv6Addr::new(0xfd00, 0x100, 0, 0, 0, 0, 0, 0)),
    }
}

/// Sends a frame to the program, and returns it as it leaves.
pub type Send<'s> = &'s dyn Fn(Vec<u8>) -> Result<Vec<u8>>;

/// A frame from client 0 to service 0, padded to Ethernet's 60 bytes without checksum, and four
/// more; or what becomes of such a frame later, for which it is sent.
///
/// # Errors
///
/// The program does not treat what was sent as it should.
pub fn build(family: Family, kind: Kind, send: Send<'_>) -> Result<Vec<u8>> {
    if kind == Kind::Answer {
        return answer(&send(build(family, Kind::Syn, send)?)?);
    }
    if kind == Kind::Wrapped {
        let mut frame = send(build(family, Kind::Ack, send)?)?;
        frame.splice(..12, OWN_MAC.into_iter().chain(CLIENT_MAC));
        return Ok(frame);
    }
    let to = match (kind, family) {
        (Kind::Elsewhere, Family::V4) => IpAddr::V4(Ipv4Addr::new(10, 201, 9, 9)),
        (Kind::Elsewhere, Family::V6) => IpAddr::V6(Ipv6Addr::new(0xfd00, 0x201, 0, 0, 0, 0, 9, 9)),
        _ => vip(family, 0),
    };
    let ethernet = PacketBuilder::ethernet2(CLIENT_MAC, OWN_MAC);
    let ip = match (client(family), to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ethernet.ipv4(from.octets(), to.octets(), 64),
        (from, to) => ethernet.ipv6(octets(from), octets(to), 64),
    };
    let mut frame = Vec::new();
    match kind {
        Kind::Udp => ip.udp(CLIENT_PORT, PORT).write(&mut frame, &[b'x'; 22])?,
        Kind::Syn => ip
            .tcp(CLIENT_PORT, PORT, 1, 65_535)
            .syn()
            .write(&mut frame, &[])?,
        _ => {
            ip.tcp(CLIENT_PORT, PORT, 1, 65_535)
                .ack(1)
                .write(&mut frame, &[])?;
        }
    }
    frame.resize(frame.len().max(64), 0);
    Ok(frame)
}

/// The server's answer to a TCP frame.
fn answer(frame: &[u8]) -> Result<Vec<u8>> {
    let refuse = |why: &dyn std::fmt::Debug| Error::Answer(format!("{why:?}"));
    let packet = SlicedPacket::from_ethernet(frame).map_err(|error| refuse(&error))?;
    let Some(TransportSlice::Tcp(tcp)) = packet.transport else {
        return Err(refuse(&packet.transport));
    };
    let ethernet = PacketBuilder::ethernet2(CLIENT_MAC, OWN_MAC);
    let ip = match packet.net {
        Some(NetSlice::Ipv4(ip)) => {
            let ip = ip.header();
            ethernet.ipv4(ip.destination(), ip.source(), 64)
        }
        Some(NetSlice::Ipv6(ip)) => {
            let ip = ip.header();
            ethernet.ipv6(ip.destination(), ip.source(), 64)
        }
        other => return Err(refuse(&other)),
    };
    let (from, to) = (tcp.destination_port(), tcp.source_port());
    let mut frame = Vec::new();
    ip.tcp(from, to, 1, 65_535).ack(2).write(&mut frame, &[])?;
    frame.resize(frame.len().max(64), 0);
    Ok(frame)
}

/// An address's bytes, IPv4 mapped into IPv6.
pub(super) fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn send(_: Vec<u8>) -> Result<Vec<u8>> {
        Err(Error::Answer("nothing is sent".into()))
    }

    /// The wrapper writes over certain bytes: they have to be the source address's, and 0.
    #[test]
    fn client_0_is_zero_where_clients_differ() {
        let v4 = build(Family::V4, Kind::Ack, &send).unwrap();
        assert_eq!((v4.len(), &v4[26..30]), (64, &[100, 0, 0, 0][..]));
        let v6 = build(Family::V6, Kind::Ack, &send).unwrap();
        let source = octets(client(Family::V6));
        assert_eq!((v6.len(), &v6[22..38]), (74, &source[..]));
        assert_eq!(v6[35..38], [0; 3]);
    }

    #[test]
    fn an_answer_goes_the_other_way() {
        for family in [Family::V4, Family::V6] {
            let there = build(family, Kind::Syn, &send).unwrap();
            let back = answer(&there).unwrap();
            let again = answer(&back).unwrap();
            assert_ne!(back[14..], there[14..]);
            // Addresses and ports are where they were; flags and numbers are not.
            let same = if family == Family::V4 { 38 } else { 58 };
            assert_eq!(again[26..same], there[26..same]);
        }
    }
}
