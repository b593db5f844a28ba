//! Which packets are adverts for our virtual routers.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use steerd_core::{
    config::{Authentication, Name, Version, VirtualRouter, Wire},
    vrrp::{
        peers,
        wire::{
            Advert, AdvertError, Mismatch, TTL,
            ah::{self, AhError},
        },
    },
};

use super::{SharedSequences, drops::DropCause, socket::Framing};

/// The virtual routers of a segment by VRID.
pub(super) type Routes = BTreeMap<u8, Route>;

/// A virtual router, as far as its packets are concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Route {
    /// Its name.
    pub(super) router: Name,
    /// Its unicast peers; empty: multicast.
    pub(super) peers: Vec<IpAddr>,
    wire: Wire,
    interval: Duration,
}

impl Route {
    /// What of `router` its packets are judged by.
    pub(super) fn of(router: &VirtualRouter) -> Self {
        Self {
            router: router.name.clone(),
            peers: router.peers.clone(),
            wire: router.wire.clone(),
            interval: router.advert_interval,
        }
    }

    fn least_hop_limit(&self) -> u8 {
        match self.peers.is_empty() {
            true => TTL,
            false => self.wire.min_ttl,
        }
    }
}

/// A packet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Packet<'a> {
    pub(super) framing: Framing,
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) hop_limit: u8,
    /// IPv4: with its header.
    pub(super) whole: &'a [u8],
    /// Without it.
    pub(super) payload: &'a [u8],
}

/// Why a packet is dropped.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) cause: DropCause,
    /// For the log: from whom, and what to change.
    pub(super) detail: String,
    /// If it is a peer that speaks otherwise: for which virtual router, and what differs.
    pub(super) mismatch: Option<(Name, Mismatch)>,
}

/// The virtual router that `packet` is for and what it says, or why it is dropped.
pub(super) fn accept(
    routes: &Routes,
    sequences: &BTreeMap<Name, SharedSequences>,
    is_ours: impl Fn(IpAddr) -> bool,
    packet: &Packet<'_>,
) -> Result<(Name, Advert), Refusal> {
    let refuse = |cause| {
        Err(Refusal {
            cause,
            detail: format!("from {} to {}", packet.source, packet.destination),
            mismatch: None,
        })
    };
    if is_ours(packet.source) {
        return refuse(DropCause::OwnAddress);
    }
    let message = match packet.framing {
        Framing::V4 | Framing::V6 => packet.payload,
        Framing::Ah if packet.payload.len() < ah::LENGTH => return refuse(DropCause::Truncated),
        Framing::Ah => match ah::peek(packet.payload) {
            Some(message) => message,
            None => return refuse(DropCause::MalformedAh),
        },
    };
    // The second byte is the VRID in every version, so a neighbouring group of another one is not
    // called bad.
    let Some(vrid) = message.get(1) else {
        return refuse(DropCause::Truncated);
    };
    let Some(route) = routes.get(vrid) else {
        return refuse(DropCause::OtherRouter);
    };
    if packet.hop_limit < route.least_hop_limit() {
        let least = route.least_hop_limit();
        let advice = match route.peers.is_empty() {
            true => "multicast adverts must not be forwarded",
            false if packet.hop_limit == 64 && packet.source.is_ipv6() => {
                "keepalived sends unicast over IPv6 so: set its `unicast_ttl` to 255, or `min_ttl` \
                 here to 64"
            }
            false => "if there are routers on the way, set `min_ttl` to 255 less their number",
        };
        return Err(Refusal {
            cause: DropCause::HopLimit,
            detail: format!(
                "from {}: TTL or hop limit {}, at least {least} is accepted: {advice}",
                packet.source, packet.hop_limit
            ),
            mismatch: None,
        });
    }
    if packet.destination.is_multicast() != route.peers.is_empty() {
        return refuse(DropCause::WrongDestination);
    }
    if !route.peers.is_empty() && !route.peers.contains(&packet.source) {
        return refuse(DropCause::NotAPeer);
    }
    match read(route, sequences, packet, message) {
        Ok(advert) => Ok((route.router.clone(), advert)),
        Err(Unread {
            cause,
            what,
            mismatch,
        }) => Err(Refusal {
            cause,
            detail: format!("from {}: {what}", packet.source),
            mismatch: mismatch.map(|mismatch| (route.router.clone(), mismatch)),
        }),
    }
}

/// Why a message for one of our virtual routers cannot be used.
struct Unread {
    cause: DropCause,
    what: String,
    mismatch: Option<Mismatch>,
}

fn read(
    route: &Route,
    sequences: &BTreeMap<Name, SharedSequences>,
    packet: &Packet<'_>,
    message: &[u8],
) -> Result<Advert, Unread> {
    let decode = || Advert::decode(message, &route.wire, packet.source, packet.destination);
    let advert = match (packet.framing, &route.wire.authentication) {
        (Framing::V4 | Framing::V6, Authentication::None | Authentication::Pass(_)) => decode()?,
        (Framing::V4 | Framing::V6, Authentication::Ah(_)) => {
            decode()?;
            return Err(Unread {
                cause: DropCause::MalformedAh,
                what: "it says that it has an authentication header, and has none: look for what \
                       takes it off on the way"
                    .to_owned(),
                mismatch: None,
            });
        }
        (Framing::Ah, Authentication::None | Authentication::Pass(_)) => {
            let wanted = route.wire.authentication.number();
            return Err(AdvertError::AuthenticationType { found: 2, wanted }.into());
        }
        (Framing::Ah, Authentication::Ah(password)) => {
            let opened = ah::open(password, packet.whole)?;
            let advert = decode()?;
            // Last of all: a number counts only with a packet that is right.
            if let (IpAddr::V4(source), Some(sequences)) =
                (packet.source, sequences.get(&route.router))
            {
                sequences.lock().accept(source, opened.sequence)?;
            }
            advert
        }
    };
    let interval = peers::interval(&advert);
    if route.wire.version == Version::V2 && interval != route.interval {
        let mismatch = Mismatch::Interval(interval);
        return Err(Unread {
            cause: DropCause::Interval,
            what: mismatch.advice(packet.source, &route.wire, route.interval),
            mismatch: Some(mismatch),
        });
    }
    Ok(advert)
}

impl From<AdvertError> for Unread {
    fn from(error: AdvertError) -> Self {
        let (cause, mismatch) = match error {
            AdvertError::Truncated(_) => (DropCause::Truncated, None),
            AdvertError::Version { found, .. } => {
                (DropCause::Version, Some(Mismatch::Version(found)))
            }
            AdvertError::Type(_) => (DropCause::Type, None),
            // Not one of ours, whose VRIDs are not 0.
            AdvertError::Vrid => (DropCause::OtherRouter, None),
            AdvertError::Interval => (DropCause::Interval, None),
            AdvertError::AddressCount { .. } => (DropCause::AddressCount, None),
            AdvertError::Checksum => (DropCause::Checksum, None),
            AdvertError::AuthenticationType { found, .. } => (
                DropCause::AuthenticationType,
                Some(Mismatch::Authentication(found)),
            ),
            AdvertError::Password => (DropCause::Password, Some(Mismatch::Password)),
        };
        Self {
            cause,
            what: error.to_string(),
            mismatch,
        }
    }
}

impl From<AhError> for Unread {
    fn from(error: AhError) -> Self {
        let (cause, mismatch) = match error {
            AhError::Truncated(_) => (DropCause::Truncated, None),
            AhError::Malformed { .. } | AhError::Index(_) => (DropCause::MalformedAh, None),
            AhError::CheckValue => (DropCause::Password, Some(Mismatch::Password)),
            AhError::Replayed { .. } => (DropCause::Replayed, None),
        };
        Self {
            cause,
            what: error.to_string(),
            mismatch,
        }
    }
}

#[cfg(test)]
mod tests;
