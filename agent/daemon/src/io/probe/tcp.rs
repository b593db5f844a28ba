//! A connection, and the check that it can be made.

use std::net::SocketAddr;

use steerd_core::event::ProbeFailure;
use tokio::{io::AsyncWriteExt, net::TcpStream};

/// Connects.
pub(super) async fn connect(target: SocketAddr) -> Result<TcpStream, ProbeFailure> {
    let stream = TcpStream::connect(target)
        .await
        .map_err(|error| super::failure(&error))?;
    // A probe is a few small writes that wait for answers: Nagle's delay would be in the latency.
    stream
        .set_nodelay(true)
        .map_err(|error| super::failure(&error))?;
    Ok(stream)
}

/// The check is that the connection can be made; it is closed in order then.
pub(super) async fn check(target: SocketAddr) -> Result<(), ProbeFailure> {
    close(connect(target).await?).await;
    Ok(())
}

/// Says goodbye. That the server was first to is no failure of the check.
pub(super) async fn close(mut stream: TcpStream) {
    // Unread data would make the kernel close with a RST, which servers log as an error: take the
    // greeting that some send at once.
    let _ = stream.try_read(&mut [0; 4096]);
    let _ = stream.shutdown().await;
}
