//! Adverts out.

use std::{io, net::IpAddr, sync::Arc};

use steerd_core::{
    config::{Authentication, Name, VirtualRouter, Wire},
    vrrp::wire::{
        Advert, GROUP_V4, GROUP_V6, TTL,
        ah::{self, Header},
    },
};

use super::{PeerError, Segment, SharedSequences, socket};

/// How one virtual router sends.
pub(super) struct Sender {
    router: Name,
    segment: Arc<Segment>,
    configured_source: Option<IpAddr>,
    destinations: Vec<IpAddr>,
    wire: Wire,
    sequences: SharedSequences,
}

impl Sender {
    /// How `router` sends, through `segment`.
    pub(super) fn new(
        router: &VirtualRouter,
        segment: Arc<Segment>,
        sequences: SharedSequences,
    ) -> Self {
        let destinations = match (router.peers.is_empty(), router.is_ipv6()) {
            (false, _) => router.peers.clone(),
            (true, false) => vec![GROUP_V4.into()],
            (true, true) => vec![GROUP_V6.into()],
        };
        let configured_source = router.source;
        Self {
            router: router.name.clone(),
            segment,
            configured_source,
            destinations,
            wire: router.wire.clone(),
            sequences,
        }
    }

    /// Sends `advert` to the group or to each peer.
    ///
    /// # Errors
    ///
    /// The first thing that failed; the other peers were sent to all the same.
    pub(super) fn send(&self, advert: &Advert) -> Result<(), PeerError> {
        let mut outcome = Ok(());
        for destination in &self.destinations {
            outcome = outcome.and(self.send_to(advert, *destination));
        }
        outcome
    }

    /// The address that it sends from now, if it has one.
    pub(super) fn source(&self) -> Option<IpAddr> {
        self.configured_source
            .or_else(|| self.segment.sources().pick(self.kind()))
    }

    fn kind(&self) -> SourceKind {
        match self.destinations.first() {
            Some(IpAddr::V6(peer)) if !peer.is_unicast_link_local() && !peer.is_multicast() => {
                SourceKind::GlobalV6
            }
            Some(IpAddr::V6(_)) => SourceKind::LinkLocalV6,
            _ => SourceKind::V4,
        }
    }

    fn send_to(&self, advert: &Advert, destination: IpAddr) -> Result<(), PeerError> {
        let attempt = || {
            let source = self.source().ok_or_else(|| PeerError::NoSource {
                router: self.router.clone(),
                interface: self.segment.plan.interface.clone(),
                kind: self.kind().words(),
            })?;
            self.send_from(advert, source, destination)
                .map_err(|source| PeerError::Send {
                    router: self.router.clone(),
                    destination,
                    source,
                })
        };
        attempt().or_else(|_| {
            // The address may have changed since it was looked up.
            self.segment.forget_sources();
            attempt()
        })
    }

    fn send_from(&self, advert: &Advert, source: IpAddr, destination: IpAddr) -> io::Result<()> {
        let socket = self.segment.socket.get_ref();
        let message = advert.encode(&self.wire, source, destination);
        let ttl = match destination.is_multicast() {
            true => TTL,
            false => self.wire.ttl,
        };
        match (&self.wire.authentication, source, destination) {
            (Authentication::Ah(password), IpAddr::V4(source), IpAddr::V4(destination)) => {
                let header = Header {
                    source,
                    destination,
                    tos: socket::TRAFFIC_CLASS,
                    ttl,
                };
                let sequence = self.sequences.lock().next_number();
                let packet = ah::seal(password, header, sequence, &message);
                socket.send(&packet, source.into(), destination.into(), ttl)
            }
            _ => socket.send(&message, source, destination, ttl),
        }
    }
}

/// Which of its addresses a virtual router sends from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SourceKind {
    /// The interface's first address.
    V4,
    /// RFC 9568 section 5.1.2.2: the link-local address.
    LinkLocalV6,
    /// For unicast peers that know each other by their global addresses.
    GlobalV6,
}

impl SourceKind {
    fn words(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::LinkLocalV6 => "link-local IPv6",
            Self::GlobalV6 => "global IPv6",
        }
    }
}
