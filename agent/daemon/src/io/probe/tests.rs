//! Checks against small servers, good and bad, on the loopback interface.

use std::{future::Future, path::PathBuf, sync::Arc};

use rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer};
use steerd_core::config::{HttpProbe, Name, WebSocketProbe};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

use super::*;

const TIMEOUT: Duration = Duration::from_secs(5);
/// For servers that never answer.
const SHORT: Duration = Duration::from_millis(300);

/// A server that does `serve` with each connection; it ends with the test's runtime.
async fn server<F, S>(serve: F) -> SocketAddr
where
    F: Fn(TcpStream) -> S + Send + 'static,
    S: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    address
}

/// A server that reads a request and answers with these bytes.
async fn answering(answer: impl Into<Vec<u8>>) -> SocketAddr {
    let answer = Arc::new(answer.into());
    server(move |mut stream| {
        let answer = Arc::clone(&answer);
        async move {
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(&answer).await;
        }
    })
    .await
}

/// A server that reads a request and then writes `head` once and `rest` for ever.
async fn endless(head: &'static str, rest: &'static str) -> SocketAddr {
    server(move |mut stream| async move {
        let _ = stream.read(&mut [0; 4096]).await;
        let _ = stream.write_all(head.as_bytes()).await;
        while stream.write_all(rest.as_bytes()).await.is_ok() {}
    })
    .await
}

/// A server that keeps connections open and says nothing.
async fn hanging() -> SocketAddr {
    server(|stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await
}

fn probe(kind: ProbeKind, timeout: Duration) -> Probe {
    Probe {
        name: Name::new("probe"),
        kind,
        port: None,
        interval: TIMEOUT,
        fast_interval: TIMEOUT,
        timeout,
        rise: 1,
        fall: 1,
        jitter: 0.0,
    }
}

fn http(change: impl FnOnce(&mut HttpProbe)) -> ProbeKind {
    let mut http = HttpProbe {
        tls: None,
        method: "GET".into(),
        path: "/health".into(),
        host: None,
        status: vec![(200, 299)],
        body_contains: None,
    };
    change(&mut http);
    ProbeKind::Http(http)
}

fn websocket() -> ProbeKind {
    ProbeKind::WebSocket(WebSocketProbe {
        tls: None,
        path: "/ws".into(),
        host: None,
    })
}

async fn outcome(kind: ProbeKind, timeout: Duration, at: SocketAddr) -> Result<(), ProbeFailure> {
    let (outcome, took) = run(&probe(kind, timeout), at.ip(), at.port()).await;
    assert!(took < timeout + Duration::from_secs(1), "took {took:?}");
    outcome
}

fn is_protocol(outcome: &Result<(), ProbeFailure>) -> bool {
    matches!(outcome, Err(ProbeFailure::Protocol(_)))
}

#[tokio::test]
async fn tcp() {
    let at = hanging().await;
    assert_eq!(outcome(ProbeKind::Tcp, TIMEOUT, at).await, Ok(()));
    let mut elsewhere = probe(ProbeKind::Tcp, TIMEOUT);
    elsewhere.port = Some(at.port());
    assert_eq!(
        run(&elsewhere, at.ip(), 1).await.0,
        Ok(()),
        "the probe's own port"
    );

    let nobody = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    assert_eq!(
        outcome(ProbeKind::Tcp, TIMEOUT, nobody).await,
        Err(ProbeFailure::Refused)
    );
}

#[tokio::test]
async fn a_tcp_check_ends_in_order() {
    let (report, mut reports) = tokio::sync::mpsc::channel(1);
    let at = server(move |mut stream| {
        let report = report.clone();
        async move {
            let _ = stream.write_all(b"220 welcome\r\n").await;
            let end = stream.read(&mut [0; 16]).await;
            report
                .send(end.map_err(|error| error.kind()))
                .await
                .unwrap();
        }
    })
    .await;
    assert_eq!(outcome(ProbeKind::Tcp, TIMEOUT, at).await, Ok(()));
    assert_eq!(reports.recv().await, Some(Ok(0)), "end of file, no reset");
    let stream = tcp::connect(at).await.unwrap();
    stream.readable().await.unwrap();
    tcp::close(stream).await;
    assert_eq!(reports.recv().await, Some(Ok(0)), "end of file, no reset");
}

#[tokio::test]
async fn a_listener_with_a_full_queue_times_out() {
    // Nobody accepts, as with a stopped server: connections beyond the backlog are not answered.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let at = listener.local_addr().unwrap();
    let mut queued = Vec::new();
    while let Ok(Ok(stream)) = tokio::time::timeout(SHORT, TcpStream::connect(at)).await {
        queued.push(stream);
        assert!(queued.len() < 100, "the queue does not fill up");
    }
    let timed_out = outcome(ProbeKind::Tcp, SHORT, at).await;
    assert_eq!(timed_out, Err(ProbeFailure::Timeout(SHORT)));
}

#[tokio::test]
async fn http_status() {
    let ok = answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    assert_eq!(outcome(http(|_| {}), TIMEOUT, ok).await, Ok(()));
    let old = answering("HTTP/1.0 204 No Content\r\n\r\n").await;
    assert_eq!(outcome(http(|_| {}), TIMEOUT, old).await, Ok(()));
    let broken = answering("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n").await;
    assert_eq!(
        outcome(http(|_| {}), TIMEOUT, broken).await,
        Err(ProbeFailure::Status(503))
    );
    let expected = http(|http| http.status = vec![(200, 200), (500, 503)]);
    assert_eq!(outcome(expected, TIMEOUT, broken).await, Ok(()));
    let away = "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n";
    let away = answering(away).await;
    assert_eq!(
        outcome(http(|_| {}), TIMEOUT, away).await,
        Err(ProbeFailure::Status(302))
    );
}

#[tokio::test]
async fn the_http_request_is_as_configured() {
    let (report, mut requests) = tokio::sync::mpsc::channel(1);
    let at = server(move |mut stream| {
        let report = report.clone();
        async move {
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).await.unwrap();
            request.truncate(length);
            report
                .send(String::from_utf8(request).unwrap())
                .await
                .unwrap();
            let _ = stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n")
                .await;
        }
    })
    .await;
    let head = http(|http| {
        http.method = "HEAD".into();
        http.path = "/ready?deep=1".into();
        http.host = Some("game.example".into());
    });
    assert_eq!(outcome(head, TIMEOUT, at).await, Ok(()));
    let request = requests.recv().await.unwrap();
    assert!(
        request.starts_with("HEAD /ready?deep=1 HTTP/1.1\r\n"),
        "{request}"
    );
    assert!(request.contains("host: game.example\r\n"), "{request}");
    assert_eq!(outcome(http(|_| {}), TIMEOUT, at).await, Ok(()));
    let request = requests.recv().await.unwrap();
    assert!(request.contains(&format!("host: {at}\r\n")), "{request}");
}

#[tokio::test]
async fn http_body() {
    let with = |text: &str| {
        let text = text.to_owned();
        http(|http| http.body_contains = Some(text))
    };
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\
                   6\r\n{\"stat\r\n8\r\nus\":\"ok\"\r\n1\r\n}\r\n0\r\n\r\n";
    let chunked = answering(chunked).await;
    assert_eq!(
        outcome(with("\"status\":\"ok\"}"), TIMEOUT, chunked).await,
        Ok(())
    );
    assert_eq!(outcome(with("{"), TIMEOUT, chunked).await, Ok(()));
    assert_eq!(
        outcome(with("down"), TIMEOUT, chunked).await,
        Err(ProbeFailure::Body)
    );
    let empty = answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    assert_eq!(
        outcome(with("ok"), TIMEOUT, empty).await,
        Err(ProbeFailure::Body)
    );

    // Only the first 64 KiB count.
    let filler = "x".repeat(MOST_BODY);
    let length = MOST_BODY + 2;
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
    let late = answering(format!("{head}{filler}ok")).await;
    assert_eq!(
        outcome(with("ok"), TIMEOUT, late).await,
        Err(ProbeFailure::Body)
    );
    let just = answering(format!("{head}{}okxx", &filler[2..])).await;
    assert_eq!(outcome(with("ok"), TIMEOUT, just).await, Ok(()));

    let cut = answering("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nno").await;
    assert_eq!(
        outcome(with("ok"), TIMEOUT, cut).await,
        Err(ProbeFailure::Reset)
    );
}

const MOST_BODY: usize = 64 * 1024;

#[tokio::test]
async fn http_servers_that_misbehave() {
    let garbage = answering("\u{0}\u{1}SSH-2.0-hello\r\n\r\n").await;
    let answer = outcome(http(|_| {}), TIMEOUT, garbage).await;
    assert!(is_protocol(&answer), "{answer:?}");

    let closing = answering("").await;
    assert_eq!(
        outcome(http(|_| {}), TIMEOUT, closing).await,
        Err(ProbeFailure::Reset)
    );

    let headers = endless("HTTP/1.1 200 OK\r\n", "x-more: and-more-of-the-same\r\n").await;
    let answer = outcome(http(|_| {}), TIMEOUT, headers).await;
    assert!(is_protocol(&answer), "{answer:?}");

    let header = endless(
        "HTTP/1.1 200 OK\r\nx: ",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    )
    .await;
    let answer = outcome(http(|_| {}), TIMEOUT, header).await;
    assert!(is_protocol(&answer), "{answer:?}");

    let body = endless("HTTP/1.1 200 OK\r\n\r\n", "for ever and ").await;
    let search = http(|http| http.body_contains = Some("amen".into()));
    assert_eq!(
        outcome(search, TIMEOUT, body).await,
        Err(ProbeFailure::Body)
    );
    assert_eq!(outcome(http(|_| {}), TIMEOUT, body).await, Ok(()));

    let silent = hanging().await;
    let answer = outcome(http(|_| {}), SHORT, silent).await;
    assert_eq!(answer, Err(ProbeFailure::Timeout(SHORT)));

    let slow = server(|mut stream| async move {
        for byte in "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".bytes() {
            if stream.write_all(&[byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    let answer = outcome(http(|_| {}), SHORT, slow).await;
    assert_eq!(answer, Err(ProbeFailure::Timeout(SHORT)));
}

#[tokio::test]
async fn a_probe_that_makes_no_request_says_so() {
    let at = hanging().await;
    let bad = http(|http| http.method = "GET IT".into());
    assert!(matches!(
        outcome(bad, TIMEOUT, at).await,
        Err(ProbeFailure::Local(_))
    ));
    let bad = http(|http| http.host = Some("two\nlines".into()));
    assert!(matches!(
        outcome(bad, TIMEOUT, at).await,
        Err(ProbeFailure::Local(_))
    ));
}

/// A WebSocket server that does `serve` after the handshake.
async fn websocket_server<F, S>(serve: F) -> SocketAddr
where
    F: Fn(tokio_tungstenite::WebSocketStream<TcpStream>) -> S + Clone + Send + Sync + 'static,
    S: Future<Output = ()> + Send + 'static,
{
    server(move |stream| {
        let serve = serve.clone();
        async move {
            if let Ok(socket) = tokio_tungstenite::accept_async(stream).await {
                serve(socket).await;
            }
        }
    })
    .await
}

#[tokio::test]
async fn websocket_ping_and_pong() {
    use futures_util::{SinkExt, StreamExt};
    use tokio_tungstenite::tungstenite::Message;

    let echo = websocket_server(|mut socket| async move {
        let _ = socket.send(Message::text("welcome")).await;
        while let Some(Ok(_)) = socket.next().await {}
    })
    .await;
    assert_eq!(outcome(websocket(), TIMEOUT, echo).await, Ok(()));

    // Another's pong is none.
    let wrong = websocket_server(|mut socket| async move {
        let _ = socket.send(Message::Pong(vec![1, 2, 3].into())).await;
        std::future::pending::<()>().await;
    })
    .await;
    assert_eq!(
        outcome(websocket(), SHORT, wrong).await,
        Err(ProbeFailure::Timeout(SHORT))
    );

    let chatty = websocket_server(|mut socket| async move {
        while socket.send(Message::text("blah")).await.is_ok() {}
    })
    .await;
    let answer = outcome(websocket(), TIMEOUT, chatty).await;
    assert!(is_protocol(&answer), "{answer:?}");

    let huge = websocket_server(|mut socket| async move {
        let _ = socket.send(Message::binary(vec![0; 1 << 20])).await;
        std::future::pending::<()>().await;
    })
    .await;
    let answer = outcome(websocket(), TIMEOUT, huge).await;
    assert!(is_protocol(&answer), "{answer:?}");

    let closing = websocket_server(|mut socket| async move {
        let _ = socket.close(None).await;
    })
    .await;
    assert_eq!(
        outcome(websocket(), TIMEOUT, closing).await,
        Err(ProbeFailure::Reset)
    );
}

#[tokio::test]
async fn websocket_servers_that_misbehave() {
    let plain = answering("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").await;
    assert_eq!(
        outcome(websocket(), TIMEOUT, plain).await,
        Err(ProbeFailure::Status(404))
    );

    let no_key = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n\
                  upgrade: websocket\r\nsec-websocket-accept: nonsense\r\n\r\n";
    let answer = outcome(websocket(), TIMEOUT, answering(no_key).await).await;
    assert!(is_protocol(&answer), "{answer:?}");

    let answer = outcome(websocket(), TIMEOUT, answering("\r\ngarbage\r\n\r\n").await).await;
    assert!(is_protocol(&answer), "{answer:?}");

    let headers = endless(
        "HTTP/1.1 101 Switching Protocols\r\n",
        "x-more: and-more\r\n",
    )
    .await;
    let answer = outcome(websocket(), TIMEOUT, headers).await;
    assert!(is_protocol(&answer), "{answer:?}");

    assert_eq!(
        outcome(websocket(), TIMEOUT, answering("").await).await,
        Err(ProbeFailure::Reset)
    );

    let silent = hanging().await;
    assert_eq!(
        outcome(websocket(), SHORT, silent).await,
        Err(ProbeFailure::Timeout(SHORT))
    );
    let nobody = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    assert_eq!(
        outcome(websocket(), TIMEOUT, nobody).await,
        Err(ProbeFailure::Refused)
    );
}

/// An HTTPS server for `names`, and the PEM of its self-signed certificate.
async fn https(names: &[&str]) -> (SocketAddr, String) {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let at = server(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else {
                return;
            };
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                .await;
            let _ = stream.shutdown().await;
        }
    })
    .await;
    (at, made.cert.pem())
}

#[tokio::test]
async fn tls() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ca.pem");
    let (at, pem) = https(&["game.example", "127.0.0.1"]).await;
    std::fs::write(&file, &pem).unwrap();
    let with = |name: Option<&str>, verify, ca_file: Option<&PathBuf>| {
        let check = TlsCheck {
            server_name: name.map(Into::into),
            verify,
            ca_file: ca_file.cloned(),
        };
        http(|http| http.tls = Some(check))
    };
    let named = Some("game.example");
    assert_eq!(
        outcome(with(named, true, Some(&file)), TIMEOUT, at).await,
        Ok(())
    );
    assert_eq!(
        outcome(with(None, true, Some(&file)), TIMEOUT, at).await,
        Ok(()),
        "by address"
    );
    assert_eq!(outcome(with(None, false, None), TIMEOUT, at).await, Ok(()));
    let is_tls = |outcome| matches!(outcome, Err(ProbeFailure::Tls(_)));
    let other = Some("other.example");
    assert!(is_tls(
        outcome(with(other, true, Some(&file)), TIMEOUT, at).await
    ));
    // The same name, another's certificate.
    let (impostor, impostors_pem) = https(&["game.example"]).await;
    assert!(is_tls(
        outcome(with(named, true, Some(&file)), TIMEOUT, impostor).await
    ));
    // The file is replaced: the cache notices.
    std::fs::write(&file, format!("{impostors_pem}\n")).unwrap();
    assert_eq!(
        outcome(with(named, true, Some(&file)), TIMEOUT, impostor).await,
        Ok(())
    );
    assert!(is_tls(
        outcome(with(named, true, Some(&file)), TIMEOUT, at).await
    ));

    for text in [
        "no certificate",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ] {
        std::fs::write(&file, text).unwrap();
        let answer = outcome(with(named, true, Some(&file)), TIMEOUT, at).await;
        assert!(matches!(answer, Err(ProbeFailure::Local(_))), "{answer:?}");
    }
    let missing = directory.path().join("missing.pem");
    let answer = outcome(with(named, true, Some(&missing)), TIMEOUT, at).await;
    assert!(matches!(&answer, Err(ProbeFailure::Local(why)) if why.contains("missing.pem")));

    // A server without TLS, and one that never shakes hands.
    let plain = answering("HTTP/1.1 200 OK\r\n\r\n").await;
    assert!(is_tls(
        outcome(with(None, false, None), TIMEOUT, plain).await
    ));
    let silent = outcome(with(None, false, None), SHORT, hanging().await).await;
    assert_eq!(silent, Err(ProbeFailure::Timeout(SHORT)));
}

#[test]
fn kernel_errors_are_told_apart() {
    let of = |number| failure(&io::Error::from_raw_os_error(number));
    assert_eq!(of(libc::ECONNREFUSED), ProbeFailure::Refused);
    assert_eq!(of(libc::EHOSTUNREACH), ProbeFailure::Unreachable);
    assert_eq!(of(libc::ENETUNREACH), ProbeFailure::Unreachable);
    assert_eq!(of(libc::ECONNRESET), ProbeFailure::Reset);
    assert_eq!(of(libc::EPIPE), ProbeFailure::Reset);
    assert!(matches!(of(libc::ETIMEDOUT), ProbeFailure::Timeout(_)));
    assert!(matches!(of(libc::EMFILE), ProbeFailure::Local(_)));
    assert!(matches!(of(libc::EPERM), ProbeFailure::Local(_)));
}
