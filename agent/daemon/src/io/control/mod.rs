//! The control socket: `steerctl`'s way in, JSON over HTTP/1.1 on a Unix socket (the table of
//! requests stands at [`steerd_core::api`]).
//!
//! * [`socket`] makes the socket and decides who can connect to it;
//! * [`access`] decides what a connected peer may do, from what the kernel says about it;
//! * [`http`] turns a request into a [`Request`] to the driver and the driver's reply into an
//!   answer.
//!
//! This part only asks: the driver owns all state and answers when its turn comes. Whatever comes
//! in is bounded in size, number and time, so no client can hang or grow the daemon.

mod access;
mod http;
mod socket;

use std::time::Duration;

use steerd_core::{
    api::{Flows, FlowsQuery, MapDump, Maps, Reloaded, Status},
    config::Name,
};
use tokio::sync::{mpsc, oneshot};

pub(crate) use socket::{Bound, ControlError, bind};

/// How long a client may take to send a request's head, and how long one of its own the daemon
/// may take to answer it.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a connection may live: a head, an answer, and the time for the client to read it.
const CONNECTION_LIFETIME: Duration = Duration::from_secs(30);

/// The largest body of a request.
const MAX_BODY: usize = 64 * 1024;

/// Connections served at once to those who may read.
const MAX_CONNECTIONS: usize = 32;

/// Connections served at once to all others, who get refusals only. They can connect where the
/// viewers' and the admins' groups differ (see [`socket`]), and shall not keep those two out.
const MAX_STRANGERS: usize = 4;

/// What is asked of the driver. It answers through the sender in each; one that was dropped means
/// that nobody waits any more. A refusal is a sentence for the operator: what is wrong and what
/// to do.
#[derive(Debug)]
pub(crate) enum Request {
    /// The whole of the node.
    Status(oneshot::Sender<Status>),
    /// Flows of the table: `total` counts all that fit, `flows` holds up to
    /// [`FlowsQuery::limit`].
    Flows {
        /// Which.
        query: FlowsQuery,
        /// Refused where it names a service or backend that is not there.
        reply: oneshot::Sender<Result<Flows, String>>,
    },
    /// The maps.
    Maps(oneshot::Sender<Result<Maps, String>>),
    /// A part of a map: up to [`MapDump::MAX_ENTRIES`] entries (whole elements) from an index on.
    MapDump {
        /// The map's name, as the client wrote it.
        name: String,
        /// The first index.
        from: u64,
        /// Refused where there is no such map.
        reply: oneshot::Sender<Result<MapDump, String>>,
    },
    /// Read the configuration again and work by it.
    Reload {
        /// Only say what would change.
        dry_run: bool,
        /// Refused with the mistakes of the configuration.
        reply: oneshot::Sender<Result<Reloaded, String>>,
    },
    /// Give addresses to a peer now.
    Failover {
        /// Which virtual router's; none: all that this node is master of.
        router: Option<Name>,
        /// Those that were given away. Refused where there is no such virtual router, or none
        /// that this node is master of.
        reply: oneshot::Sender<Result<Vec<Name>, String>>,
    },
}

impl Bound {
    /// Serves requests until the driver's end of `requests` is gone. The socket file goes when
    /// this future ends or is dropped.
    pub(crate) async fn serve(self, requests: mpsc::Sender<Request>) {
        http::serve(&self.listener, requests, self.access.clone()).await;
    }
}
