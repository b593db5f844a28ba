//! One question to the kernel and its answer.

use std::io;

use futures_util::StreamExt;
use rtnetlink::{
    packet_core::{
        NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage,
        NetlinkPayload,
    },
    packet_route::RouteNetlinkMessage,
};
use tokio::task::JoinSet;

/// The kernel, to ask. Clones share a socket.
#[derive(Clone)]
pub(super) struct Kernel(rtnetlink::Handle);

impl Kernel {
    /// Opens the socket, which a task of `tasks` serves.
    pub(super) fn connect(tasks: &mut JoinSet<()>) -> io::Result<Self> {
        let (connection, handle, _notifications) = rtnetlink::new_connection()?;
        tasks.spawn(connection);
        Ok(Self(handle))
    }

    /// Everything that fits `message`.
    pub(super) async fn list(
        &self,
        message: RouteNetlinkMessage,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.request(message, NLM_F_DUMP).await
    }

    /// The one thing that `message` asks for.
    pub(super) async fn get(
        &self,
        message: RouteNetlinkMessage,
    ) -> io::Result<Option<RouteNetlinkMessage>> {
        Ok(self.request(message, 0).await?.pop())
    }

    /// Adds what `message` describes, or changes it to that.
    pub(super) async fn set(&self, message: RouteNetlinkMessage) -> io::Result<()> {
        self.request(message, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE)
            .await
            .map(drop)
    }

    /// Does what `message` says.
    pub(super) async fn order(&self, message: RouteNetlinkMessage) -> io::Result<()> {
        self.request(message, NLM_F_ACK).await.map(drop)
    }

    async fn request(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        let mut message = NetlinkMessage::from(message);
        message.header.flags = NLM_F_REQUEST | flags;
        let gone = |_| io::Error::from(io::ErrorKind::NotConnected);
        let mut answers = self.0.clone().request(message).map_err(gone)?;
        let mut found = Vec::new();
        while let Some(answer) = answers.next().await {
            match answer.payload {
                NetlinkPayload::InnerMessage(message) => found.push(message),
                // An acknowledgement is an error without a code.
                NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                _ => {}
            }
        }
        Ok(found)
    }
}

/// Whether the kernel gave this error number.
pub(super) fn is(error: &io::Error, number: i32) -> bool {
    error.raw_os_error() == Some(number)
}
