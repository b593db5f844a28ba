//! One connection: how it begins, and messages on it.
//!
//! After the TLS handshake each side says hello; a connection counts from the other's hello on, since
//! in TLS 1.3 a client does not know before that the server took its certificate. Whatever the other
//! side claims, a frame takes memory only as its bytes arrive.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use rustls::pki_types::{CertificateDer, ServerName};
use steerd_core::{
    channel::{
        Happening, Hello, Message, PROTOCOL,
        codec::{LENGTH, decode, encode, frame_length},
    },
    config::Name,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    sync::mpsc,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use super::{
    Ear, Settings,
    identity::Facts,
    refusal::{Cause, Refusal},
};

/// How long a connection may take to be made, and how long it may take from there to the hello.
const CONNECT: Duration = Duration::from_secs(3);
pub(super) const HANDSHAKE: Duration = Duration::from_secs(3);

/// A peer gives a sign of life twice a second at least; one that was silent for so long is gone.
const IDLE: Duration = Duration::from_secs(3);

/// A connection to a peer that has proved who it is.
pub(super) struct Line {
    pub(super) stream: TlsStream<TcpStream>,
    pub(super) peer: Name,
    pub(super) hello: Hello,
    /// When its certificate expires.
    pub(super) expires: i64,
}

/// Connects to the peer called `name`.
pub(super) async fn dial(
    settings: &Settings,
    name: &Name,
    address: SocketAddr,
) -> Result<Line, Refusal> {
    let late = |what: &str| Refusal::new(Cause::Slow, format!("{what} took too long"));
    let connecting = timeout(CONNECT, connect(settings.listen, address));
    let stream = connecting.await.map_err(|_| late("the connection"))??;
    let shaking = timeout(HANDSHAKE, async {
        let connector = TlsConnector::from(Arc::clone(&settings.identity.client));
        let server = ServerName::from(address.ip());
        let stream = connector.connect(server, stream).await?;
        greet(settings, stream.into(), Some(name)).await
    });
    shaking.await.map_err(|_| late("the handshake"))?
}

/// Takes a connection that somebody made.
pub(super) async fn accept(settings: &Settings, stream: TcpStream) -> Result<Line, Refusal> {
    let shaking = timeout(HANDSHAKE, async {
        set_up(&stream)?;
        let acceptor = TlsAcceptor::from(Arc::clone(&settings.identity.server));
        let stream = acceptor.accept(stream).await?;
        greet(settings, stream.into(), None).await
    });
    let late = || Refusal::new(Cause::Slow, "the handshake took too long");
    shaking.await.map_err(|_| late())?
}

/// Sends what `queue` gives, and hands what arrives to `ear`, until either ends.
pub(super) async fn run(
    stream: TlsStream<TcpStream>,
    queue: &mut mpsc::Receiver<Vec<u8>>,
    ear: &Ear,
) -> Refusal {
    let (reader, writer) = tokio::io::split(stream);
    tokio::select! {
        ended = read_all(reader, ear) => ended,
        ended = write_all(writer, queue) => ended,
    }
}

async fn connect(listen: SocketAddr, address: SocketAddr) -> Result<TcpStream, Refusal> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // From where the others expect this node.
    let own = listen.ip();
    if !own.is_unspecified() && own.is_ipv6() == address.is_ipv6() {
        socket.bind(SocketAddr::new(own, 0))?;
    }
    let stream = socket.connect(address).await?;
    set_up(&stream)?;
    Ok(stream)
}

fn set_up(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    // What was sent and is not acknowledged (TCP_USER_TIMEOUT).
    socket2::SockRef::from(stream).set_tcp_user_timeout(Some(IDLE))
}

/// Finds out who is there, and says hello.
async fn greet(
    settings: &Settings,
    mut stream: TlsStream<TcpStream>,
    expected: Option<&Name>,
) -> Result<Line, Refusal> {
    let (_, connection) = stream.get_ref();
    let certificate = connection.peer_certificates().and_then(<[_]>::first);
    let certificate: &CertificateDer<'_> =
        certificate.ok_or_else(|| Refusal::new(Cause::NoCertificate, "it showed none"))?;
    let facts = Facts::of(certificate).map_err(|error| Refusal::new(Cause::Untrusted, error))?;
    let mut fitting = settings.peers.iter().map(|peer| &peer.name);
    let fitting: Vec<&Name> = fitting.by_ref().filter(|name| facts.is_of(name)).collect();
    let wrong = |what: String| Refusal::new(Cause::WrongName, what);
    let names = || facts.names.join(", ");
    let peer = match (expected, fitting.as_slice()) {
        (Some(name), _) if facts.is_of(name) => name.clone(),
        (Some(name), _) => return Err(wrong(format!("it is for {}, not {name}", names()))),
        (None, [name]) => (*name).clone(),
        (None, []) => return Err(wrong(format!("it is for {}", names()))),
        (None, _) => return Err(wrong(format!("it is for several peers: {}", names()))),
    };
    let own = Message::Hello(Hello {
        protocol: PROTOCOL,
        node: settings.identity.node.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        capabilities: 0,
    });
    stream.write_all(&encode(&own)?).await?;
    stream.flush().await?;
    match read(&mut stream).await? {
        Some(Message::Hello(hello)) if hello.node == peer => Ok(Line {
            stream,
            peer,
            hello,
            expires: facts.expires,
        }),
        Some(Message::Hello(hello)) => {
            Err(wrong(format!("{} says that it is {}", peer, hello.node)))
        }
        _ => Err(Refusal::new(Cause::BadMessage, "it did not say hello")),
    }
}

async fn read_all(mut reader: impl AsyncRead + Unpin, ear: &Ear) -> Refusal {
    loop {
        match timeout(IDLE, read(&mut reader)).await {
            Err(_) => return Refusal::new(Cause::Cut, "it is silent"),
            Ok(Err(refusal)) => return refusal,
            Ok(Ok(None)) => {}
            Ok(Ok(Some(message))) => ear.hears(Happening::Said(message)).await,
        }
    }
}

/// The next message; none where its kind is not known.
pub(super) async fn read(mut reader: impl AsyncRead + Unpin) -> Result<Option<Message>, Refusal> {
    let mut length = [0; LENGTH];
    reader.read_exact(&mut length).await?;
    let length = frame_length(length)?;
    let mut frame = Vec::new();
    let limit = u64::try_from(length).unwrap_or(u64::MAX);
    let found = (&mut reader).take(limit).read_to_end(&mut frame).await?;
    if found < length {
        return Err(Refusal::new(Cause::Cut, "it ended within a message"));
    }
    Ok(decode(&frame)?)
}

async fn write_all(
    mut writer: impl AsyncWrite + Unpin,
    queue: &mut mpsc::Receiver<Vec<u8>>,
) -> Refusal {
    while let Some(frame) = queue.recv().await {
        let writing = async {
            writer.write_all(&frame).await?;
            while let Ok(frame) = queue.try_recv() {
                writer.write_all(&frame).await?;
            }
            writer.flush().await
        };
        match timeout(IDLE, writing).await {
            Err(_) => return Refusal::new(Cause::Stuck, "nothing can be sent to it"),
            Ok(Err(error)) => return error.into(),
            Ok(Ok(())) => {}
        }
    }
    Refusal::new(Cause::Cut, "closed here")
}
