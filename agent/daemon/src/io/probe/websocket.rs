//! The WebSocket check: the handshake succeeds, and a ping is answered by its pong.
//!
//! A server that accepts connections but whose event loop hangs passes a TCP check for ever; it does
//! not answer a ping.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    net::SocketAddr,
};

use futures_util::{SinkExt, StreamExt};
use steerd_core::{config::WebSocketProbe, event::ProbeFailure};
use tokio_tungstenite::{
    client_async_with_config,
    tungstenite::{
        Error, Message,
        client::IntoClientRequest,
        error::ProtocolError,
        handshake::client::Request,
        http::{HeaderValue, header::HOST},
        protocol::WebSocketConfig,
    },
};

use super::Stream;

/// The largest frame and message that is read: a server may greet before it answers.
const MOST_MESSAGE_BYTES: usize = 64 * 1024;
/// How many other messages may come before the pong.
const MOST_OTHER_MESSAGES: usize = 64;

pub(super) async fn check(
    probe: &WebSocketProbe,
    target: SocketAddr,
    stream: Box<dyn Stream>,
) -> Result<(), ProbeFailure> {
    let config = WebSocketConfig::default()
        .read_buffer_size(4096)
        .write_buffer_size(0)
        .max_message_size(Some(MOST_MESSAGE_BYTES))
        .max_frame_size(Some(MOST_MESSAGE_BYTES));
    let request = request(probe, target)?;
    let shaken = client_async_with_config(request, stream, Some(config)).await;
    let (mut socket, _) = shaken.map_err(failure)?;

    let payload = RandomState::new().build_hasher().finish().to_be_bytes();
    socket
        .send(Message::Ping(payload.to_vec().into()))
        .await
        .map_err(failure)?;
    for _ in 0..=MOST_OTHER_MESSAGES {
        match socket.next().await {
            Some(Ok(Message::Pong(answer))) if *answer == payload => {
                // In order, but without waiting for the server to agree.
                let _ = socket.send(Message::Close(None)).await;
                return Ok(());
            }
            Some(Ok(Message::Close(_))) | None => return Err(ProbeFailure::Reset),
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(failure(error)),
        }
    }
    Err(ProbeFailure::Protocol(format!(
        "{MOST_OTHER_MESSAGES} messages, but no pong"
    )))
}

fn request(probe: &WebSocketProbe, target: SocketAddr) -> Result<Request, ProbeFailure> {
    let local = |error: &dyn std::fmt::Display| {
        ProbeFailure::Local(format!("the probe makes no request: {error}"))
    };
    let scheme = if probe.tls.is_some() { "wss" } else { "ws" };
    let uri = format!("{scheme}://{target}{}", probe.path);
    let mut request = uri.into_client_request().map_err(|error| local(&error))?;
    let host = super::host(probe.host.as_ref(), target);
    let host = HeaderValue::from_str(&host).map_err(|error| local(&error))?;
    request.headers_mut().insert(HOST, host);
    Ok(request)
}

fn failure(error: Error) -> ProbeFailure {
    match error {
        Error::Io(error) => super::failure(&error),
        Error::Http(response) => ProbeFailure::Status(response.status().as_u16()),
        Error::ConnectionClosed
        | Error::AlreadyClosed
        | Error::Protocol(
            ProtocolError::HandshakeIncomplete | ProtocolError::ResetWithoutClosingHandshake,
        ) => ProbeFailure::Reset,
        error => ProbeFailure::Protocol(error.to_string()),
    }
}
