//! Datagrams: echoes of UDP and of ICMP, and refusals.

use std::{
    io::{self, ErrorKind},
    mem::MaybeUninit,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    error::{Context, Error, Result},
    netns::Namespace,
    wait,
};

/// How long an answer may take.
const SOON: Duration = Duration::from_millis(500);

/// Sends a datagram of `size` bytes to an echo, and returns whether the same came back.
///
/// # Errors
///
/// The client's namespace is unusable.
pub fn echo(client: &Namespace, to: SocketAddr, size: usize) -> Result<bool> {
    client.run(|| {
        let socket = open(to)?;
        let sent: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
        // An error of the datagram before is no answer to this one.
        if socket.send(&sent).is_err() {
            return Ok(false);
        }
        let mut received = vec![0; size + 1];
        Ok(socket
            .recv(&mut received)
            .is_ok_and(|length| received[..length] == sent))
    })
}

/// Sends an echo request with `size` bytes, and returns whether they came back.
///
/// # Errors
///
/// The client's namespace is unusable, or lets nobody send any.
pub fn ping(client: &Namespace, to: IpAddr, size: usize) -> Result<bool> {
    const REQUEST: u8 = 8;
    const REQUEST6: u8 = 128;
    client.run(|| {
        let what = || format!("ping {to}");
        let (domain, protocol, kind) = if to.is_ipv4() {
            (Domain::IPV4, Protocol::ICMPV4, REQUEST)
        } else {
            (Domain::IPV6, Protocol::ICMPV6, REQUEST6)
        };
        // Not a raw one: the kernel puts the id in, and hands over only what answers this socket.
        let socket = Socket::new(domain, Type::DGRAM, Some(protocol)).context(what)?;
        socket
            .set_read_timeout(Some(wait::patience(SOON)))
            .context(what)?;
        socket
            .connect(&SocketAddr::new(to, 0).into())
            .context(what)?;
        let mut sent = vec![kind, 0, 0, 0, 0, 0, 0, 1];
        sent.extend((0..size).map(|n| (n % 251) as u8));
        if socket.send(&sent).is_err() {
            return Ok(false);
        }
        let mut received = vec![MaybeUninit::uninit(); sent.len() + 1];
        let Ok(length) = socket.recv(&mut received) else {
            return Ok(false);
        };
        // SAFETY: `recv` says that it has written so many bytes.
        let received = received[..length]
            .iter()
            .map(|byte| unsafe { byte.assume_init() });
        // Behind type, code, checksum and id.
        Ok(received.skip(6).eq(sent.into_iter().skip(6)))
    })
}

/// Has a server at `heard_at` send to a client that asked it something at `to` and then closed its
/// port, and returns whether the server was told (by ICMP) that nobody is there.
///
/// # Errors
///
/// The namespaces are unusable, or the client's question or its answer was lost.
pub fn refusal(
    client: &Namespace,
    to: SocketAddr,
    server: &Namespace,
    heard_at: SocketAddr,
) -> Result<bool> {
    let asked = client.run(|| open(to))?;
    let server = server.run(|| {
        let socket = UdpSocket::bind(heard_at).context(|| format!("bind {heard_at}"))?;
        socket
            .set_read_timeout(Some(wait::patience(SOON)))
            .context(|| "set a timeout".into())?;
        Ok(socket)
    })?;
    let lost = |what: &'static str| {
        move |source: io::Error| Error::Os {
            what: what.into(),
            source,
        }
    };
    let mut data = [0; 16];
    asked.send(b"hello?").map_err(lost("ask the server"))?;
    let (_, from) = server
        .recv_from(&mut data)
        .map_err(lost("hear the client"))?;
    server.connect(from).map_err(lost("know the client"))?;
    server.send(b"yes?").map_err(lost("answer the client"))?;
    asked.recv(&mut data).map_err(lost("hear the server"))?;
    drop(asked);
    server
        .send(b"and?")
        .map_err(lost("answer a client that is gone"))?;
    let refused = server.recv(&mut data).map_err(|error| error.kind());
    Ok(refused == Err(ErrorKind::ConnectionRefused))
}

/// Sends a datagram whose UDP checksum is wrong to an IPv4 address.
///
/// # Errors
///
/// The client's namespace is unusable.
pub fn send_broken(client: &Namespace, to: SocketAddr) -> Result<()> {
    client.run(|| {
        let what = || format!("send a broken datagram to {to}");
        // By another socket: what the kernel knows of it makes it choose the source address.
        let own = open(to)?.local_addr().context(what)?;
        let (IpAddr::V4(from), IpAddr::V4(address)) = (own.ip(), to.ip()) else {
            return Err(io::Error::from(ErrorKind::Unsupported)).context(what);
        };
        let mut packet = Vec::new();
        etherparse::PacketBuilder::ipv4(from.octets(), address.octets(), 64)
            .udp(own.port(), to.port())
            .write(&mut packet, b"broken")
            .map_err(io::Error::other)
            .context(what)?;
        // The last octet of the data: the checksum no longer covers it.
        if let Some(last) = packet.last_mut() {
            *last ^= 1;
        }
        let raw = Protocol::from(libc::IPPROTO_RAW);
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(raw)).context(what)?;
        socket.send_to(&packet, &to.into()).context(what)?;
        Ok(())
    })
}

/// A socket that gets datagrams of `to` only.
fn open(to: SocketAddr) -> Result<UdpSocket> {
    let what = || format!("talk to {to}");
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).context(what)?;
    socket.connect(to).context(what)?;
    socket
        .set_read_timeout(Some(wait::patience(SOON)))
        .context(what)?;
    Ok(socket)
}
