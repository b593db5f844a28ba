//! The server that is kept alive: a WebSocket game, reduced to what a network sees of it.
//!
//! * `GET /health` answers 200 with [`Health`].
//! * Any other request with a WebSocket key is upgraded: a [`Said`] greets, then each message comes
//!   back in one. Pings are answered.
//! * A UDP port echoes datagrams, always from the address they were sent to, because a client of a
//!   virtual address must not be answered from another one.

use std::{
    io::{self, IoSlice, IoSliceMut},
    net::SocketAddr,
    os::fd::{AsRawFd, RawFd},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use futures_util::{SinkExt, StreamExt};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt,
    sockopt,
};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, handshake::derive_accept_key, protocol::Role},
};

use crate::error::{Context, Result};

/// The answer to `GET /health`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// `ok`.
    pub status: String,
    /// The server's name.
    pub server: String,
    /// Players connected.
    pub players: u64,
}

/// What the server says to a player.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// The server's name.
    pub server: String,
    /// The player's message; none in the greeting.
    pub echo: Option<String>,
}

/// Serves until the process ends.
///
/// # Errors
///
/// An address cannot be bound.
pub fn serve(name: &str, listen: &[SocketAddr], echo: &[SocketAddr]) -> Result<()> {
    for &address in echo {
        let socket = bind(address, Type::DGRAM)?;
        thread::spawn(move || echo_datagrams(&socket));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context(|| "start a runtime".into())?;
    runtime.block_on(async {
        let game = Arc::new(Game {
            name: name.to_owned(),
            players: AtomicU64::new(0),
        });
        let mut listeners = Vec::new();
        for &address in listen {
            let socket = bind(address, Type::STREAM)?;
            let what = || format!("listen on {address}");
            socket.listen(1024).context(what)?;
            let listener = TcpListener::from_std(socket.into()).context(what)?;
            listeners.push(tokio::spawn(accept(game.clone(), listener)));
        }
        for listener in listeners {
            // It runs for ever; it ends only if it panicked, and then so should we.
            listener
                .await
                .map_err(io::Error::other)
                .context(|| "accept players".into())?;
        }
        Ok(())
    })
}

struct Game {
    name: String,
    players: AtomicU64,
}

async fn accept(game: Arc<Game>, listener: TcpListener) {
    loop {
        // An error is of one connection, or a shortage that passes.
        if let Ok((stream, _)) = listener.accept().await {
            let game = game.clone();
            tokio::spawn(async move {
                // A client that goes away is the point of this server.
                let _ = talk(&game, stream).await;
            });
        }
    }
}

async fn talk(game: &Game, mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let head = read_head(&mut stream).await?;
    if head.starts_with("GET /health ") {
        let health = Health {
            status: "ok".into(),
            server: game.name.clone(),
            players: game.players.load(Ordering::Relaxed),
        };
        let body = serde_json::to_string(&health)?;
        return respond(&mut stream, "200 OK", &body).await;
    }
    let Some(key) = header(&head, "sec-websocket-key") else {
        return respond(&mut stream, "404 Not Found", "{}").await;
    };
    let accept = derive_accept_key(key.as_bytes());
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    stream.write_all(answer.as_bytes()).await?;
    game.players.fetch_add(1, Ordering::Relaxed);
    // The end of a game needs no words: the client sees the connection close.
    let _ = play(
        game,
        WebSocketStream::from_raw_socket(stream, Role::Server, None).await,
    )
    .await;
    game.players.fetch_sub(1, Ordering::Relaxed);
    Ok(())
}

async fn play(
    game: &Game,
    mut player: WebSocketStream<TcpStream>,
) -> Result<(), tokio_tungstenite::tungstenite::Error> {
    let say = |echo: Option<String>| {
        let said = Said {
            server: game.name.clone(),
            echo,
        };
        Message::text(serde_json::to_string(&said).unwrap_or_default())
    };
    player.send(say(None)).await?;
    while let Some(message) = player.next().await {
        // Pings are answered by the library as the next message is read.
        if let Message::Text(text) = message? {
            player.send(say(Some(text.as_str().to_owned()))).await?;
        }
    }
    Ok(())
}

/// Reads a request up to its empty line.
async fn read_head(stream: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() > 8192 || stream.read_buf(&mut head).await? == 0 {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    String::from_utf8(head).map_err(|_| io::ErrorKind::InvalidData.into())
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut fields = head.lines().filter_map(|line| line.split_once(':'));
    fields
        .find(|(field, _)| field.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
}

async fn respond(stream: &mut TcpStream, status: &str, body: &str) -> io::Result<()> {
    let length = body.len();
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{body}"
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

/// Binds; an IPv6 address takes IPv6 only, so that the IPv4 one beside it can be bound too.
fn bind(address: SocketAddr, kind: Type) -> Result<Socket> {
    let what = || format!("bind {address}");
    let stream = kind == Type::STREAM;
    let protocol = if stream { Protocol::TCP } else { Protocol::UDP };
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol)).context(what)?;
    if address.is_ipv6() {
        socket.set_only_v6(true).context(what)?;
        setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true).context(what)?;
    } else {
        setsockopt(&socket, sockopt::Ipv4PacketInfo, &true).context(what)?;
    }
    if stream {
        socket.set_reuse_address(true).context(what)?;
        socket.set_nonblocking(true).context(what)?;
    }
    socket.bind(&address.into()).context(what)?;
    Ok(socket)
}

fn echo_datagrams(socket: &Socket) {
    loop {
        // A datagram that cannot be answered is a lost one, which is what the sender counts.
        let _ = echo_datagram(socket.as_raw_fd());
    }
}

fn echo_datagram(socket: RawFd) -> nix::Result<()> {
    let mut data = [0; 65_535];
    let mut space = nix::cmsg_space!(libc::in_pktinfo, libc::in6_pktinfo);
    let mut buffers = [IoSliceMut::new(&mut data)];
    let flags = MsgFlags::empty();
    let received = recvmsg::<SockaddrStorage>(socket, &mut buffers, Some(&mut space), flags)?;
    let (length, client) = (received.bytes, received.address);
    let mut source = None;
    for message in received.cmsgs()? {
        match message {
            ControlMessageOwned::Ipv4PacketInfo(mut to) => {
                to.ipi_ifindex = 0;
                to.ipi_spec_dst = to.ipi_addr;
                source = Some(Source::V4(to));
            }
            ControlMessageOwned::Ipv6PacketInfo(mut to) => {
                to.ipi6_ifindex = 0;
                source = Some(Source::V6(to));
            }
            _ => {}
        }
    }
    let control = source.as_ref().map(|source| match source {
        Source::V4(info) => ControlMessage::Ipv4PacketInfo(info),
        Source::V6(info) => ControlMessage::Ipv6PacketInfo(info),
    });
    let data = [IoSlice::new(&data[..length])];
    sendmsg(socket, &data, control.as_slice(), flags, client.as_ref())?;
    Ok(())
}

/// The address a datagram came to, as the source of its answer.
enum Source {
    V4(libc::in_pktinfo),
    V6(libc::in6_pktinfo),
}
