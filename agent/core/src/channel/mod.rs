//! The peer channel: what steerd nodes tell each other beside VRRP.
//!
//! An advert says that a master lives, and no more. Over the channel, a connection between each two
//! nodes on which both have proved who they are, a node also tells what it is for each virtual
//! router, how it sees the backends, and which configuration it works by; and a master can hand its
//! addresses to a peer that takes them before it lets go.
//!
//! * [`message`]: what is said. [`codec`]: how, in bytes.
//! * [`digest`]: what must be equal among peers.
//! * [`book`]: what each peer said last, whether it lives, and what follows from that.
//!
//! The channel is additional evidence and never the only one. Without it, all works as VRRP does.

pub mod book;
pub mod codec;
pub mod digest;
pub mod message;

#[cfg(test)]
mod tests;

use std::time::Duration;

pub use self::{
    book::Book,
    message::{Hello, Message},
};
use crate::config::{Config, Name};

/// The version of the protocol. A node of another version is told apart by it and not listened to;
/// what can be understood by both is announced as a capability instead.
pub const PROTOCOL: u16 = 1;

/// How often a node gives its sign of life: the bounds.
const SHORTEST_PERIOD: Duration = Duration::from_millis(10);
const LONGEST_PERIOD: Duration = Duration::from_millis(500);

/// The longest that a sign of life is believed.
const LONGEST_BELIEF: Duration = Duration::from_secs(3);

/// Something that happened on the connection to a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happening {
    /// It is there, or another one took its place; both sides have proved who they are.
    Up(Hello),
    /// It is gone.
    Down,
    /// The peer says this.
    Said(Message),
}

/// How often a node of this configuration gives its sign of life: twice in the shortest advert
/// interval, within bounds.
#[must_use]
pub fn period(config: &Config) -> Duration {
    let routers = config.virtual_routers.iter();
    let fastest = routers.map(|router| router.advert_interval / 2).min();
    fastest
        .unwrap_or(LONGEST_PERIOD)
        .clamp(SHORTEST_PERIOD, LONGEST_PERIOD)
}

/// How long after a master's last sign of life its word that it serves is believed, where it sends
/// adverts at this interval.
///
/// A crash silences adverts and channel at once, at most one interval after the last advert. The
/// master-down timer fires three intervals and the skew after that advert, so two intervals after the
/// crash at the earliest: then the last sign of life is no longer believed, and the takeover is not
/// delayed at all.
#[must_use]
pub fn belief(advert_interval: Duration) -> Duration {
    (advert_interval * 2).min(LONGEST_BELIEF)
}

/// Where the name of a node stands in its certificate, besides in a DNS name: as this URI.
#[must_use]
pub fn name_uri(node: &Name) -> String {
    format!("urn:steerd:node:{node}")
}
