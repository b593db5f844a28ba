//! `[channel]` and `[[peer]]`: the connections between nodes.

use std::{collections::HashSet, net::SocketAddr, path::PathBuf};

use super::{
    Name,
    error::{Mistake, quote},
    raw::{RawChannel, RawPeer},
    reader::{Given, List},
};

/// The TCP port of the channel where none is given.
pub const CHANNEL_PORT: u16 = 7112;

/// The peer channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Channel {
    /// Where this node listens.
    pub listen: SocketAddr,
    /// A PEM file with the certificates of the authority that both sides are to have theirs from.
    pub ca_file: PathBuf,
    /// A PEM file with this node's certificate, which bears its name.
    pub cert_file: PathBuf,
    /// A PEM file with its key.
    pub key_file: PathBuf,
    /// The other nodes, at least one.
    pub peers: Vec<ChannelPeer>,
}

/// Another node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelPeer {
    /// Its name, which its certificate bears.
    pub name: Name,
    /// Where it listens.
    pub address: SocketAddr,
}

/// The channel of the node called `own`; the inner none says that it has none.
pub(super) fn validate(
    raw: &RawChannel,
    peers: &List<RawPeer>,
    own: Option<&Name>,
    mistakes: &mut Vec<Mistake>,
) -> Option<Option<Channel>> {
    let before = mistakes.len();
    let listed: Vec<&RawPeer> = peers.items.iter().map(|at| &at.value).collect();
    let mut seen = HashSet::new();
    for at in listed.iter().filter_map(|peer| peer.name.at()) {
        if !seen.insert(at.value.clone()) {
            let message = format!("an earlier peer is called {} too", quote(at.value.as_str()));
            mistakes.push(Mistake::new(&at.span, message).help("each needs a name of its own"));
        }
    }
    let mut seen = HashSet::new();
    for at in listed.iter().filter_map(|peer| peer.address.at()) {
        if !seen.insert(at.value) {
            let message = format!("an earlier peer is at {} too", at.value);
            mistakes
                .push(Mistake::new(&at.span, message).help("each listens at a place of its own"));
        }
        if at.value.ip().is_unspecified() || at.value.ip().is_multicast() {
            let message = format!("nobody can be reached at {}", at.value.ip());
            mistakes.push(Mistake::new(&at.span, message).help("give the peer's own address"));
        }
    }
    let Some(span) = &raw.span else {
        if let Some(first) = peers.items.first() {
            let help = "add [channel], or remove the peers";
            let message = "a [[peer]] means nothing without [channel]";
            mistakes.push(Mistake::new(&first.span, message).help(help));
        }
        return (mistakes.len() == before).then_some(None);
    };
    if let Given::Value(at) = &raw.listen
        && at.value.ip().is_multicast()
    {
        let message = format!("nobody can listen at {}", at.value.ip());
        mistakes.push(Mistake::new(&at.span, message).help("give an address of this host"));
    }
    // So that the list can be the same on all nodes.
    let is_other = |peer: &&RawPeer| own.is_none() || peer.name.value().as_ref() != own;
    let others: Vec<&RawPeer> = listed.into_iter().filter(is_other).collect();
    if peers.whole && others.is_empty() {
        let message = "[channel] means nothing without a [[peer]] that is another node";
        let help = "add a [[peer]] with `name` and `address` of each other node";
        mistakes.push(Mistake::new(span, message).help(help));
    }
    if mistakes.len() > before {
        return None;
    }
    let others = others.into_iter().map(|peer| {
        Some(ChannelPeer {
            name: peer.name.value()?,
            address: peer.address.value()?,
        })
    });
    Some(Some(Channel {
        listen: raw.listen.value()?,
        ca_file: raw.ca_file.value()?,
        cert_file: raw.cert_file.value()?,
        key_file: raw.key_file.value()?,
        peers: others.collect::<Option<_>>()?,
    }))
}
