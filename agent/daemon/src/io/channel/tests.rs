//! Two channels with real TLS on loopback, and those who are to be refused.

use std::{fs, path::Path, sync::Arc};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    SanType,
};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
    version::{TLS12, TLS13},
};
use steerd_core::{
    channel::{
        Hello, PROTOCOL,
        message::{Alive, BackendView, Health, Roles, VIEWS, View},
        name_uri,
    },
    config::Channel as Section,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::*;
use crate::io::lab;

const PATIENCE: Duration = Duration::from_secs(20);

/// An authority with the files of the nodes that it made certificates for.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: TempDir,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, dir }
    }

    /// A certificate for `node`, valid as long as `year` is not over.
    fn issue_until(&self, node: &str, name: SanType, year: i32) {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![name];
        params.not_before = rcgen::date_time_ymd(2000, 1, 1);
        params.not_after = rcgen::date_time_ymd(year, 12, 31);
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        fs::write(self.path(node, "pem"), certificate.pem()).unwrap();
        fs::write(self.path(node, "key"), key.serialize_pem()).unwrap();
    }

    fn issue(&self, node: &str) {
        self.issue_until(node, SanType::DnsName(node.try_into().unwrap()), 2099);
    }

    fn path(&self, node: &str, kind: &str) -> std::path::PathBuf {
        self.dir.path().join(format!("{node}.{kind}"))
    }

    /// The configuration of `node` with these peers.
    fn config(&self, node: &str, port: u16, peers: &[(&str, u16)]) -> Config {
        let mut config = lab::config("lo", &["10.9.0.100/24"], &[]);
        config.node.name = Name::new(node);
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let peers = peers.iter().map(|(name, port)| ChannelPeer {
            name: Name::new(name),
            address: local(*port),
        });
        config.channel = Some(Section {
            listen: local(port),
            ca_file: self.dir.path().join("ca.pem"),
            cert_file: self.path(node, "pem"),
            key_file: self.path(node, "key"),
            peers: peers.collect(),
        });
        config
    }
}

/// A port that nobody listens on.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

struct End {
    channel: Channel,
    events: mpsc::Receiver<Event>,
}

impl End {
    fn new(config: &Config) -> Self {
        let (sender, events) = mpsc::channel(1024);
        let mut channel = Channel::new(sender, Handle::current());
        channel.configure(config).unwrap();
        Self { channel, events }
    }

    async fn next(&mut self) -> (Name, Happening) {
        match timeout(PATIENCE, self.events.recv()).await {
            Ok(Some(Event::Channel { peer, what })) => (peer, what),
            other => panic!("{other:?}"),
        }
    }

    async fn until(&mut self, fits: impl Fn(&Happening) -> bool) -> Happening {
        loop {
            let (_, what) = self.next().await;
            if fits(&what) {
                return what;
            }
        }
    }

    async fn until_up(&mut self) -> Hello {
        match self.until(|what| matches!(what, Happening::Up(_))).await {
            Happening::Up(hello) => hello,
            _ => unreachable!(),
        }
    }

    fn times(&self, cause: Cause) -> u64 {
        let counts = self.channel.shared.refusals.counts();
        counts
            .iter()
            .find(|(found, _)| *found == cause)
            .map_or(0, |(_, times)| *times)
    }

    async fn until_refused(&self, cause: Cause) {
        let refused = async {
            while self.times(cause) == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let seen = || format!("not {cause}: {:?}", self.channel.refused());
        timeout(PATIENCE, refused)
            .await
            .unwrap_or_else(|_| panic!("{}", seen()));
    }
}

/// `b` listens for `a`, which is not there.
fn alone() -> (Authority, End, u16) {
    let authority = Authority::new();
    authority.issue("b");
    let port = free_port();
    let end = End::new(&authority.config("b", port, &[("a", free_port())]));
    (authority, end, port)
}

fn pair() -> (Authority, End, End) {
    let authority = Authority::new();
    authority.issue("a");
    authority.issue("b");
    let (at_a, at_b) = (free_port(), free_port());
    let a = End::new(&authority.config("a", at_a, &[("b", at_b)]));
    let b = End::new(&authority.config("b", at_b, &[("a", at_a)]));
    (authority, a, b)
}

fn alive(sent: u64) -> Message {
    Message::Alive(Alive {
        sent,
        echo: 0,
        held: 0,
    })
}

/// Says one thing again and again until it is heard: connections may still be sorted out.
async fn says(from: &End, to: &str, at: &mut End, sent: u64) {
    let heard = async {
        loop {
            from.channel.send(&Name::new(to), &alive(sent));
            let wait = Duration::from_millis(50);
            if let Ok(Some(Event::Channel { what, .. })) = timeout(wait, at.events.recv()).await
                && what == Happening::Said(alive(sent))
            {
                return;
            }
        }
    };
    timeout(PATIENCE, heard).await.unwrap();
}

#[tokio::test]
async fn two_nodes_meet_and_talk() {
    let (_authority, mut a, mut b) = pair();
    let hello = a.until_up().await;
    assert_eq!((hello.node.as_str(), hello.protocol), ("b", PROTOCOL));
    assert_eq!(b.until_up().await.node.as_str(), "a");
    says(&a, "b", &mut b, 7).await;
    says(&b, "a", &mut a, 8).await;
    // Both dialled; one connection is left, the same for both.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let dialled = |end: &End, peer| end.channel.shared.lock().lines[&Name::new(peer)].dialled;
    assert_ne!(dialled(&a, "b"), dialled(&b, "a"));
    assert_eq!(a.channel.refused(), []);
    assert_eq!(b.channel.refused(), []);
    // A peer that goes is noticed, and found again when it is back.
    drop(b);
    a.until(|what| *what == Happening::Down).await;
}

#[tokio::test]
async fn a_peer_comes_back() {
    let (authority, mut a, mut b) = pair();
    a.until_up().await;
    b.until_up().await;
    let port = |end: &End| end.channel.listening.as_ref().unwrap().0.port();
    let (at_a, at_b) = (port(&a), port(&b));
    drop(b);
    a.until(|what| *what == Happening::Down).await;
    let mut b = End::new(&authority.config("b", at_b, &[("a", at_a)]));
    b.until_up().await;
    a.until_up().await;
    says(&b, "a", &mut a, 9).await;
}

/// Names that DNS does not know stand in the URI.
#[tokio::test]
async fn a_uri_names_a_node_too() {
    let authority = Authority::new();
    for node in ["a_1", "b"] {
        let uri = name_uri(&Name::new(node));
        authority.issue_until(node, SanType::URI(uri.as_str().try_into().unwrap()), 2099);
    }
    let (at_a, at_b) = (free_port(), free_port());
    let mut a = End::new(&authority.config("a_1", at_a, &[("b", at_b)]));
    let _b = End::new(&authority.config("b", at_b, &[("a_1", at_a)]));
    assert_eq!(a.until_up().await.node.as_str(), "b");
}

#[tokio::test]
async fn new_certificates_are_used_after_a_reload() {
    let (authority, mut a, mut b) = pair();
    a.until_up().await;
    b.until_up().await;
    let at = a.channel.listening.as_ref().unwrap().0.port();
    let peer = b.channel.listening.as_ref().unwrap().0.port();
    let config = authority.config("a", at, &[("b", peer)]);
    let soon = 2098;
    let expires = |end: &End| end.channel.line(&Name::new("a")).expires.unwrap_or(0);
    let before = expires(&b);
    a.channel.configure(&config).unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(
        expires(&b),
        before,
        "nothing changed, so the connection stays"
    );
    authority.issue_until("a", SanType::DnsName("a".try_into().unwrap()), soon);
    a.channel.configure(&config).unwrap();
    let renewed = async {
        while expires(&b) == 0 || expires(&b) == before {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, renewed).await.unwrap();
    // One that cannot be used changes nothing.
    fs::write(authority.path("a", "key"), "nonsense").unwrap();
    let error = a.channel.configure(&config).unwrap_err().to_string();
    assert!(
        error.contains("a.key") && error.contains("pki issue"),
        "{error}"
    );
    says(&a, "b", &mut b, 10).await;
}

#[tokio::test]
async fn a_peer_that_is_no_longer_one_is_cut_off() {
    let (authority, mut a, mut b) = pair();
    a.until_up().await;
    b.until_up().await;
    let at = a.channel.listening.as_ref().unwrap().0.port();
    a.channel
        .configure(&authority.config("a", at, &[("c", free_port())]))
        .unwrap();
    a.until(|what| *what == Happening::Down).await;
    b.until(|what| *what == Happening::Down).await;
    a.until_refused(Cause::WrongName).await;
}

/// Whatever they show, they get no connection, and each is counted for what it was.
async fn refused(stranger: &Authority, node: &str, end: &mut End, port: u16, cause: Cause) {
    let config = stranger.config(node, free_port(), &[("b", port)]);
    let caller = End::new(&config);
    end.until_refused(cause).await;
    assert!(end.events.try_recv().is_err(), "it was let in");
    drop(caller);
}

#[tokio::test]
async fn another_authority() {
    let (_authority, mut b, port) = alone();
    let other = Authority::new();
    other.issue("a");
    // Whoever dials finds out first: it is shown a certificate of an authority that it does not know.
    let caller = End::new(&other.config("a", free_port(), &[("b", port)]));
    caller.until_refused(Cause::Untrusted).await;
    b.until_refused(Cause::Rejected).await;
    assert!(b.events.try_recv().is_err());
}

#[tokio::test]
async fn an_expired_certificate() {
    let (authority, mut b, port) = alone();
    authority.issue_until("a", SanType::DnsName("a".try_into().unwrap()), 2001);
    refused(&authority, "a", &mut b, port, Cause::Expired).await;
}

#[tokio::test]
async fn a_node_that_is_no_peer() {
    let (authority, mut b, port) = alone();
    authority.issue("c");
    refused(&authority, "c", &mut b, port, Cause::WrongName).await;
}

/// A wildcard is no node's name.
#[tokio::test]
async fn a_certificate_of_another_name_than_the_hello() {
    let (authority, mut b, port) = alone();
    authority.issue("a");
    let stream = connect(&authority, Some("a"), port, &[&TLS13]).await;
    let mut stream = stream.unwrap();
    let hello = Hello {
        protocol: PROTOCOL,
        node: Name::new("z"),
        version: String::new(),
        capabilities: 0,
    };
    let bytes = codec::encode(&Message::Hello(hello)).unwrap();
    stream.write_all(&bytes).await.unwrap();
    b.until_refused(Cause::WrongName).await;
    assert!(b.events.try_recv().is_err());
}

/// The dialler too looks at whom it reached.
#[tokio::test]
async fn whoever_answers_must_be_the_peer_that_was_dialled() {
    let authority = Authority::new();
    authority.issue("a");
    authority.issue("c");
    let at_c = free_port();
    let _c = End::new(&authority.config("c", at_c, &[("a", free_port())]));
    let a = End::new(&authority.config("a", free_port(), &[("b", at_c)]));
    a.until_refused(Cause::WrongName).await;
    let error = a.channel.line(&Name::new("b")).error.unwrap();
    assert!(error.contains("for c, not b"), "{error}");
}

/// Trusts anybody, as one who wants to get in would.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

/// Connects by hand, with the certificate of a node or none.
async fn connect(
    authority: &Authority,
    node: Option<&str>,
    port: u16,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> std::io::Result<TlsStream<TcpStream>> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody));
    let config = match node {
        None => builder.with_no_client_auth(),
        Some(node) => {
            let (chain, key) = files(&authority.path(node, "pem"), &authority.path(node, "key"));
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let name = ServerName::try_from("b").unwrap();
    TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
}

fn files(certificate: &Path, key: &Path) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let chain = CertificateDer::pem_file_iter(certificate).unwrap();
    let chain = chain.map(Result::unwrap).collect();
    (chain, PrivateKeyDer::from_pem_file(key).unwrap())
}

#[tokio::test]
async fn no_certificate() {
    let (authority, mut b, port) = alone();
    let _stream = connect(&authority, None, port, &[&TLS13]).await;
    b.until_refused(Cause::NoCertificate).await;
    assert!(b.events.try_recv().is_err());
}

#[tokio::test]
async fn a_self_signed_certificate() {
    let (authority, mut b, port) = alone();
    let made = rcgen::generate_simple_self_signed(vec!["a".to_owned()]).unwrap();
    fs::write(authority.path("a", "pem"), made.cert.pem()).unwrap();
    fs::write(authority.path("a", "key"), made.signing_key.serialize_pem()).unwrap();
    let _stream = connect(&authority, Some("a"), port, &[&TLS13]).await;
    b.until_refused(Cause::Untrusted).await;
    assert!(b.events.try_recv().is_err());
}

#[tokio::test]
async fn another_authority_whose_caller_trusts_anybody() {
    let (_authority, mut b, port) = alone();
    let other = Authority::new();
    other.issue("a");
    let _stream = connect(&other, Some("a"), port, &[&TLS13]).await;
    b.until_refused(Cause::Untrusted).await;
    assert!(b.events.try_recv().is_err());
}

#[tokio::test]
async fn an_older_tls() {
    let (authority, mut b, port) = alone();
    authority.issue("a");
    assert!(
        connect(&authority, Some("a"), port, &[&TLS12])
            .await
            .is_err()
    );
    b.until_refused(Cause::NoTls).await;
    assert!(b.events.try_recv().is_err());
}

#[tokio::test]
async fn plain_text() {
    let (_authority, b, port) = alone();
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    b.until_refused(Cause::NoTls).await;
    // It hears an alert at most, and then the end.
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(answer.len() < 16, "{answer:?}");
}

/// Strangers who say nothing hold no more than their places, and not for long; a peer's are kept.
#[tokio::test]
async fn slow_strangers() {
    let (authority, mut b, port) = alone();
    // Loopback's other addresses are no peer's.
    let mut strangers = Vec::new();
    for _ in 0..STRANGERS + 5 {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.9:0".parse().unwrap()).unwrap();
        let at = SocketAddr::from(([127, 0, 0, 1], port));
        strangers.push(socket.connect(at).await.unwrap());
    }
    b.until_refused(Cause::Busy).await;
    assert_eq!(b.channel.shared.strangers.available_permits(), 0);
    authority.issue("a");
    let _a = End::new(&authority.config("a", free_port(), &[("b", port)]));
    b.until_up().await;
    assert_eq!(b.times(Cause::Slow), 0, "they are still there");
    b.until_refused(Cause::Slow).await;
    assert!(b.times(Cause::Busy) >= 5);
}

/// One that drips its handshake byte by byte has no more time than others.
#[tokio::test]
async fn a_handshake_that_drips() {
    let (_authority, b, port) = alone();
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let dripping = tokio::spawn(async move {
        // A record of 500 bytes that never comes to its end.
        for byte in [22, 3, 1, 1, 244].into_iter().chain([1; 200]) {
            if stream.write_all(&[byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    b.until_refused(Cause::Slow).await;
    dripping.abort();
}

/// A peer that says what nobody would say.
async fn cut_off_for(bytes: &[u8]) {
    let (authority, mut b, port) = alone();
    authority.issue("a");
    let stream = connect(&authority, Some("a"), port, &[&TLS13]).await;
    let mut stream = stream.unwrap();
    let hello = Hello {
        protocol: PROTOCOL,
        node: Name::new("a"),
        version: "0.1.0".to_owned(),
        capabilities: 0,
    };
    let hello = codec::encode(&Message::Hello(hello)).unwrap();
    stream.write_all(&hello).await.unwrap();
    b.until_up().await;
    stream.write_all(bytes).await.unwrap();
    b.until_refused(Cause::BadMessage).await;
    b.until(|what| *what == Happening::Down).await;
}

#[tokio::test]
async fn frames_that_are_too_long() {
    cut_off_for(&[0, 1, 0, 1]).await;
    cut_off_for(&[0xff; 4]).await;
}

#[tokio::test]
async fn frames_that_are_no_messages() {
    cut_off_for(&[0, 0, 0, 1, 0]).await;
    cut_off_for(&[0, 0, 0, 7, 0, 4, 0xff, 0xff, 0xff, 0xff, 0x0f]).await;
}

/// Anything instead of the hello.
#[tokio::test]
async fn no_hello() {
    let (authority, mut b, port) = alone();
    authority.issue("a");
    let stream = connect(&authority, Some("a"), port, &[&TLS13]).await;
    let roles = codec::encode(&Message::Roles(Roles::default())).unwrap();
    stream.unwrap().write_all(&roles).await.unwrap();
    b.until_refused(Cause::BadMessage).await;
    assert!(b.events.try_recv().is_err());
}

/// A claimed length takes no memory, and a frame that does not come ends the connection in time.
#[tokio::test(start_paused = true)]
async fn a_frame_that_does_not_come() {
    let (mut near, far) = tokio::io::duplex(64);
    near.write_all(&[0, 0, 255, 255, 0, 5]).await.unwrap();
    let reading = timeout(Duration::from_secs(1), line::read(far));
    assert!(reading.await.is_err(), "it waits for the rest");
}

/// A peer that does not read is cut off, not waited for.
#[tokio::test]
async fn a_peer_that_does_not_read() {
    let (authority, mut b, port) = alone();
    authority.issue("a");
    let stream = connect(&authority, Some("a"), port, &[&TLS13]).await;
    let mut stream = stream.unwrap();
    let hello = Hello {
        protocol: PROTOCOL,
        node: Name::new("a"),
        version: "0.1.0".to_owned(),
        capabilities: 0,
    };
    let hello = codec::encode(&Message::Hello(hello)).unwrap();
    stream.write_all(&hello).await.unwrap();
    b.until_up().await;
    let view = BackendView {
        service: Name::new(&"x".repeat(64)),
        backend: Name::new(&"y".repeat(64)),
        view: View::Up,
        since_ms: 0,
    };
    let backends = vec![view; VIEWS];
    let long = Message::Health(Health { backends });
    // More than the kernel's buffers of both ends hold.
    for _ in 0..2000 {
        b.channel.send(&Name::new("a"), &long);
        tokio::task::yield_now().await;
    }
    b.until_refused(Cause::Stuck).await;
    b.until(|what| *what == Happening::Down).await;
}

#[tokio::test]
async fn what_is_wrong_with_the_files_is_told() {
    let authority = Authority::new();
    authority.issue("a");
    let load = |config: &Config| {
        Identity::load(config.channel.as_ref().unwrap(), &config.node.name).map(|_| ())
    };
    let config = authority.config("a", 1, &[]);
    load(&config).unwrap();
    let mut other = config.clone();
    other.node.name = Name::new("b");
    let error = load(&other).unwrap_err().to_string();
    assert!(error.contains("is for a, and this node is b"), "{error}");
    assert!(error.contains("steerctl pki issue b"), "{error}");
    authority.issue("b");
    let mut other = config.clone();
    other.channel.as_mut().unwrap().key_file = authority.path("b", "key");
    assert!(load(&other).is_err(), "another's key");
    fs::remove_file(authority.path("a", "pem")).unwrap();
    let error = load(&config).unwrap_err().to_string();
    assert!(error.contains("cannot read `cert_file`"), "{error}");
}

#[test]
fn expiry_is_warned_of_in_time() {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let in_days = |days: i64| expiry(i64::try_from(now).unwrap() + days * 86_400 + 60);
    assert_eq!(in_days(31), None);
    assert_eq!(in_days(29).as_deref(), Some("expires in 29 days"));
    assert_eq!(in_days(-1).as_deref(), Some("has expired"));
}
