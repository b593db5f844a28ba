//! The way to the daemon: JSON over HTTP/1.1 on its Unix socket, one request a connection. Each
//! step has a deadline and each answer a largest size, so a sick daemon cannot hang `steerctl`.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request,
    body::{Body, Bytes},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use steerd_core::api::Failure;
use tokio::{net::UnixStream, time::timeout};

/// How long the daemon may take to answer. Its own limit is 5 s, so that its word comes first.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(8);

/// The largest answer.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// There is no socket.
    #[error(
        "steerd does not run: there is no socket {}; start it with `systemctl start steerd`, or \
         name its socket with --socket",
        .0.display()
    )]
    NoSocket(PathBuf),
    /// There is a socket, but no daemon.
    #[error(
        "steerd does not run: nobody listens on {}; start it with `systemctl start steerd`, and \
         see `journalctl -u steerd` for why it ended",
        .0.display()
    )]
    NobodyListens(PathBuf),
    /// The socket is not for this user.
    #[error("no permission to use {}: {hint}", socket.display())]
    NoPermission {
        /// The socket.
        socket: PathBuf,
        /// What to do.
        hint: String,
    },
    /// Something else is wrong with the socket.
    #[error("cannot connect to {}", socket.display())]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It listens, but says nothing.
    #[error(
        "steerd did not answer within {}s: see `journalctl -u steerd`",
        ANSWER_TIMEOUT.as_secs()
    )]
    Silent,
    /// It hung up.
    #[error("steerd ended the connection: it is stopping or serves too many; try again")]
    HungUp(#[source] hyper::Error),
    /// It said no.
    #[error("{0}")]
    Refused(String),
    /// More than this program takes.
    #[error("steerd's answer is larger than {} MiB", MAX_ANSWER >> 20)]
    TooLarge,
    /// It said something else than expected.
    #[error(
        "steerd's answer cannot be understood: are steerctl {} and the running steerd of one \
         version?",
        env!("CARGO_PKG_VERSION")
    )]
    NotUnderstood(#[source] serde_json::Error),
    /// A request that cannot be made.
    #[error("cannot make the request")]
    Request(#[source] hyper::http::Error),
}

impl ClientError {
    /// Whether the daemon is down or hangs: what it would say must be found without it.
    pub(crate) fn is_down(&self) -> bool {
        matches!(
            self,
            Self::NoSocket(_) | Self::NobodyListens(_) | Self::Silent
        )
    }

    /// Whether the daemon was not reached at all.
    pub(crate) fn is_unreachable(&self) -> bool {
        self.is_down()
            || matches!(
                self,
                Self::NoPermission { .. } | Self::Connect { .. } | Self::HungUp(_)
            )
    }
}

/// Where the daemon listens.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    socket: PathBuf,
}

impl Client {
    /// A client of the daemon on `socket`.
    pub(crate) fn new(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
        }
    }

    /// Asks for something.
    pub(crate) async fn get<T: DeserializeOwned>(&self, target: &Target) -> Result<T, ClientError> {
        self.ask(Method::GET, target, Bytes::new()).await
    }

    /// Orders something.
    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        target: &Target,
        order: &impl Serialize,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(order).map_err(ClientError::NotUnderstood)?;
        self.ask(Method::POST, target, body.into()).await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        target: &Target,
        body: Bytes,
    ) -> Result<T, ClientError> {
        let asked = self.exchange(method, target, body);
        let (ok, answer) = timeout(ANSWER_TIMEOUT, asked)
            .await
            .map_err(|_| ClientError::Silent)??;
        if ok {
            return serde_json::from_slice(&answer).map_err(ClientError::NotUnderstood);
        }
        let failure: Failure =
            serde_json::from_slice(&answer).map_err(ClientError::NotUnderstood)?;
        Err(ClientError::Refused(failure.error))
    }

    /// Whether the answer is a success, and its body.
    async fn exchange(
        &self,
        method: Method,
        target: &Target,
        body: Bytes,
    ) -> Result<(bool, Bytes), ClientError> {
        let request = Request::builder()
            .method(method)
            .uri(target.as_str())
            .header("host", "steerd")
            .header("content-type", "application/json")
            .body(Full::new(body))
            .map_err(ClientError::Request)?;

        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|error| self.unconnected(error))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(ClientError::HungUp)?;
        // Its end shows in the request's.
        let connection = tokio::spawn(connection);
        let response = sender
            .send_request(request)
            .await
            .map_err(ClientError::HungUp)?;
        let ok = response.status().is_success();
        if response.body().size_hint().lower() > MAX_ANSWER as u64 {
            return Err(ClientError::TooLarge);
        }
        let body = Limited::new(response.into_body(), MAX_ANSWER)
            .collect()
            .await;
        connection.abort();
        match body {
            Ok(body) => Ok((ok, body.to_bytes())),
            Err(error) => Err(match error.downcast::<hyper::Error>() {
                Ok(error) => ClientError::HungUp(*error),
                // A `LengthLimitError`: there is no other.
                Err(_) => ClientError::TooLarge,
            }),
        }
    }

    fn unconnected(&self, error: io::Error) -> ClientError {
        let socket = self.socket.clone();
        match error.kind() {
            io::ErrorKind::NotFound => ClientError::NoSocket(socket),
            io::ErrorKind::ConnectionRefused => ClientError::NobodyListens(socket),
            io::ErrorKind::PermissionDenied => {
                let hint = permission_hint(&self.socket);
                ClientError::NoPermission { socket, hint }
            }
            _ => ClientError::Connect {
                socket,
                source: error,
            },
        }
    }
}

/// A path with its query, percent-encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target(String);

impl Target {
    /// A path, its segments taken as they are, whatever is in them.
    pub(crate) fn new(segments: &[&str]) -> Self {
        let mut text = String::new();
        for segment in segments {
            text.push('/');
            encode(segment, &mut text);
        }
        Self(text)
    }

    /// The same with one more parameter, if there is a value.
    pub(crate) fn with(mut self, name: &str, value: Option<impl ToString>) -> Self {
        if let Some(value) = value {
            self.0.push(if self.0.contains('?') { '&' } else { '?' });
            self.0.push_str(name);
            self.0.push('=');
            encode(&value.to_string(), &mut self.0);
        }
        self
    }

    fn as_str(&self) -> &str {
        &self.0
    }
}

/// All but RFC 3986's unreserved characters as `%XX`.
fn encode(text: &str, into: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            into.push(char::from(byte));
        } else {
            into.push_str(&format!("%{byte:02X}"));
        }
    }
}

/// Whom the socket is for, and how to become one of them.
fn permission_hint(socket: &Path) -> String {
    let Ok(found) = fs::metadata(socket) else {
        return "use sudo".to_owned();
    };
    if found.mode() & 0o020 == 0 {
        return "it is for root only: use sudo, or set control.admin_group in steerd's \
                configuration"
            .to_owned();
    }
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    match group_name(&groups, found.gid()) {
        Some(name) => format!(
            "it is for the group `{name}`: join it with `sudo usermod -aG {name} $USER` and log \
             in again, or use sudo"
        ),
        None => format!("it is for the group number {}: use sudo", found.gid()),
    }
}

/// The name of a group in the text of `/etc/group`: `name:password:number:members`.
fn group_name(groups: &str, gid: u32) -> Option<&str> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(gid)).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use steerd_core::api::Done;

    use super::*;

    /// A daemon that answers one connection with these bytes; returns what it was asked.
    fn answer(socket: &Path, answer: impl Into<Vec<u8>>) -> std::thread::JoinHandle<String> {
        let listener = std::os::unix::net::UnixListener::bind(socket).unwrap();
        let answer = answer.into();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            let length = stream.read(&mut request).unwrap();
            let _ = stream.write_all(&answer);
            String::from_utf8_lossy(&request[..length]).into_owned()
        })
    }

    async fn ask(reply: &str) -> (Result<Done, ClientError>, String) {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("s");
        let server = answer(&socket, reply);
        let target = Target::new(&["v1", "fail over"]).with("q", Some("a&b"));
        let result = Client::new(&socket).post(&target, &"order").await;
        (result, server.join().unwrap())
    }

    #[tokio::test]
    async fn asks_and_understands() {
        let reply = "HTTP/1.1 200 OK\r\ncontent-length: 18\r\n\r\n{\"message\":\"done\"}";
        let (result, asked) = ask(reply).await;
        assert_eq!(result.unwrap().message, "done");
        assert!(
            asked.starts_with("POST /v1/fail%20over?q=a%26b HTTP/1.1\r\n"),
            "{asked}"
        );
        assert!(asked.ends_with("\r\n\r\n\"order\""), "{asked}");
    }

    #[tokio::test]
    async fn a_refusal_is_told_in_the_daemons_words() {
        let reply = "HTTP/1.1 422 X\r\ncontent-length: 19\r\n\r\n{\"error\":\"no, so.\"}";
        let (result, _) = ask(reply).await;
        let error = result.unwrap_err();
        assert_eq!(error.to_string(), "no, so.");
        assert!(!error.is_unreachable());
    }

    #[tokio::test]
    async fn nonsense_is_no_answer() {
        for nonsense in [
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
            "HTTP/1.1 500 X\r\n\r\n",
        ] {
            let error = ask(nonsense).await.0.unwrap_err();
            assert!(matches!(error, ClientError::NotUnderstood(_)), "{error:?}");
        }
        for nonsense in [
            "",
            "SSH-2.0-x\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{",
        ] {
            let error = ask(nonsense).await.0.unwrap_err();
            assert!(matches!(error, ClientError::HungUp(_)), "{error:?}");
            assert!(error.is_unreachable() && !error.is_down());
        }
        let huge = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{{",
            MAX_ANSWER + 1
        );
        let error = ask(&huge).await.0.unwrap_err();
        assert!(matches!(error, ClientError::TooLarge), "{error:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_daemon_is_not_waited_for_for_ever() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("s");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let error = Client::new(&socket)
            .get::<Done>(&Target::new(&["v1"]))
            .await
            .unwrap_err();
        assert!(matches!(error, ClientError::Silent), "{error:?}");
        assert!(error.is_down());
    }

    #[tokio::test]
    async fn a_daemon_that_is_down_is_told_from_one_that_never_was() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("s");
        let client = Client::new(&socket);
        let get = async || client.get::<Done>(&Target::new(&["v1"])).await.unwrap_err();
        let error = get().await;
        assert!(matches!(error, ClientError::NoSocket(_)), "{error:?}");
        assert!(error.to_string().contains("systemctl start steerd"));
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        let error = get().await;
        assert!(matches!(error, ClientError::NobodyListens(_)), "{error:?}");
    }

    #[test]
    fn groups_by_number() {
        let groups = "root:x:0:\nbroken\nsteerd:x:987:ann,bob\n";
        assert_eq!(group_name(groups, 987), Some("steerd"));
        assert_eq!(group_name(groups, 1), None);
    }

    #[test]
    fn targets_hold_whatever_they_are_given() {
        let target = Target::new(&["v1", "maps", "../x"])
            .with("a", Some(1))
            .with("b", None::<u8>);
        assert_eq!(
            target.with("c", Some("ü")).as_str(),
            "/v1/maps/..%2Fx?a=1&c=%C3%BC"
        );
    }
}
