//! The HTTP and HTTPS check: one request, HTTP/1.1, redirects not followed.

use std::net::SocketAddr;

use http_body_util::{BodyExt, Empty};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    client::conn::http1,
    header::{ACCEPT, CONNECTION, HOST, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use steerd_core::{config::HttpProbe, event::ProbeFailure};
use tokio::task::JoinSet;

use super::Stream;

const USER_AGENT_VALUE: &str = concat!("steerd/", env!("CARGO_PKG_VERSION"));
/// All headers of an answer together.
const MOST_HEADER_BYTES: usize = 64 * 1024;
const MOST_HEADERS: usize = 100;
/// As much of the body as is searched.
const MOST_BODY_BYTES: usize = 64 * 1024;

pub(super) async fn check(
    probe: &HttpProbe,
    target: SocketAddr,
    stream: Box<dyn Stream>,
) -> Result<(), ProbeFailure> {
    let request = request(probe, target)?;
    let handshake = http1::Builder::new()
        .max_buf_size(MOST_HEADER_BYTES)
        .max_headers(MOST_HEADERS)
        .handshake(TokioIo::new(stream))
        .await;
    let (mut sender, connection) = handshake.map_err(failure)?;
    // The connection is driven beside the request, and ends with this function, however that ends.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let response = sender.send_request(request).await.map_err(failure)?;
    let status = response.status().as_u16();
    if !probe
        .status
        .iter()
        .any(|(low, high)| (*low..=*high).contains(&status))
    {
        return Err(ProbeFailure::Status(status));
    }
    match &probe.body_contains {
        None => Ok(()),
        Some(text) => search(response, text.as_bytes()).await,
    }
}

fn request(probe: &HttpProbe, target: SocketAddr) -> Result<Request<Empty<Bytes>>, ProbeFailure> {
    Request::builder()
        .method(probe.method.as_str())
        .uri(probe.path.as_str())
        .header(HOST, super::host(probe.host.as_ref(), target))
        .header(USER_AGENT, USER_AGENT_VALUE)
        .header(ACCEPT, "*/*")
        .header(CONNECTION, "close")
        .body(Empty::new())
        .map_err(|error| ProbeFailure::Local(format!("the probe makes no request: {error}")))
}

/// Looks for `text` in the beginning of the body, and no further than where it is found.
async fn search(mut response: Response<Incoming>, text: &[u8]) -> Result<(), ProbeFailure> {
    let mut body = Vec::new();
    let mut searched = 0;
    loop {
        if body[searched..]
            .windows(text.len().max(1))
            .any(|window| window == text)
            || text.is_empty()
        {
            return Ok(());
        }
        if body.len() >= MOST_BODY_BYTES {
            return Err(ProbeFailure::Body);
        }
        // What comes next may complete what the end began.
        searched = body.len().saturating_sub(text.len().saturating_sub(1));
        match response.frame().await {
            None => return Err(ProbeFailure::Body),
            Some(frame) => {
                if let Ok(data) = frame.map_err(failure)?.into_data() {
                    let room = MOST_BODY_BYTES - body.len();
                    body.extend_from_slice(&data[..data.len().min(room)]);
                }
            }
        }
    }
}

fn failure(error: hyper::Error) -> ProbeFailure {
    if let Some(cause) = super::io_cause(&error) {
        return super::failure(cause);
    }
    if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
        return ProbeFailure::Reset;
    }
    let detail = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
    ProbeFailure::Protocol(format!("{error}{}", detail.unwrap_or_default()))
}
