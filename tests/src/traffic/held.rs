//! Connections that are held open, each to a game of a server that gives its name.

use std::{
    collections::BTreeMap,
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use socket2::{Domain, Socket, Type};

use crate::{
    error::{Context, Result},
    netns::Namespace,
};

/// A connection, and who is at its other end.
#[derive(Debug)]
pub struct Held {
    /// The server's name.
    pub server: String,
    _stream: TcpStream,
}

/// Begins a game from `from`, or from any address and port; none: nobody answered.
///
/// # Errors
///
/// The client's namespace is unusable, or it does not have the address.
pub fn begin(
    client: &Namespace,
    from: Option<SocketAddr>,
    to: SocketAddr,
    patience: Duration,
) -> Result<Option<Held>> {
    client.run(|| {
        let what = || format!("connect to {to}");
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).context(what)?;
        if let Some(from) = from {
            socket.set_reuse_address(true).context(what)?;
            socket
                .bind(&from.into())
                .context(|| format!("bind {from}"))?;
        }
        if socket.connect_timeout(&to.into(), patience).is_err() {
            return Ok(None);
        }
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(patience)).context(what)?;
        let ask = format!(
            "GET /play HTTP/1.1\r\nHost: {to}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        );
        if stream.write_all(ask.as_bytes()).is_err() {
            return Ok(None);
        }
        // The head of the answer, and in the first frame {"server":"s1",...}.
        let mut said = Vec::new();
        let mut data = [0; 1024];
        loop {
            match stream.read(&mut data) {
                Ok(length) if length > 0 => said.extend(&data[..length]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                _ => return Ok(None),
            }
            if let Some(server) = server_in(&String::from_utf8_lossy(&said)) {
                return Ok(Some(Held {
                    server,
                    _stream: stream,
                }));
            }
        }
    })
}

/// Begins `count` games, and returns those that someone answered.
///
/// # Errors
///
/// See [`begin`].
pub fn many(client: &Namespace, to: SocketAddr, count: usize) -> Result<Vec<Held>> {
    const PATIENCE: Duration = Duration::from_secs(2);
    let all = (0..count).map(|_| begin(client, None, to, PATIENCE));
    all.filter_map(Result::transpose).collect()
}

/// How many are on which server.
#[must_use]
pub fn per_server<'h>(all: impl IntoIterator<Item = &'h Held>) -> BTreeMap<&'h str, usize> {
    let mut counts = BTreeMap::new();
    for held in all {
        *counts.entry(held.server.as_str()).or_default() += 1;
    }
    counts
}

fn server_in(said: &str) -> Option<String> {
    let (_, name) = said.split_once("\"server\":\"")?;
    let (name, _) = name.split_once('"')?;
    Some(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_is_known_when_its_whole_name_is() {
        assert_eq!(server_in("HTTP/1.1 101\r\n\r\n\u{1}{\"server\":\"s"), None);
        let said = "{\"server\":\"s1\",\"echo\":null}";
        assert_eq!(server_in(said).as_deref(), Some("s1"));
    }
}
