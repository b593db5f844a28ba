//! Which packets are adverts for our virtual routers, and an account of those that are not.

use std::{
    collections::BTreeMap,
    fmt,
    net::IpAddr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use steerd_core::{config::Name, vrrp::wire::Advert};

/// The virtual routers of a segment by VRID.
pub(super) type Routes = BTreeMap<u8, Route>;

/// A virtual router, as far as its packets are concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Route {
    /// Its name.
    pub(super) router: Name,
    /// Its unicast peers; empty: multicast.
    pub(super) peers: Vec<IpAddr>,
}

/// A VRRP packet without its IP header.
#[derive(Debug, Clone, Copy)]
pub(super) struct Packet<'a> {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) hop_limit: u8,
    pub(super) payload: &'a [u8],
}

/// Why a packet was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DropCause {
    /// The IP packet is cut short or contradicts itself.
    Malformed,
    /// It was forwarded: TTL or hop limit is not 255 (RFC 9568 section 5.1.1.3).
    HopLimit,
    /// It is our own, back from a loop in the network, or somebody uses our address.
    OwnAddress,
    /// Another VRRP group of the segment; nothing is wrong.
    OtherRouter,
    /// A unicast advert, but not from a configured peer.
    NotAPeer,
    /// Multicast for a unicast virtual router, or the reverse.
    WrongDestination,
    /// The VRRP message is damaged, of another version or family.
    BadAdvert,
    /// The daemon did not keep up.
    Busy,
    /// The kernel reported an error instead of a packet.
    ReadFailed,
}

impl DropCause {
    /// All of them.
    pub(crate) const ALL: [Self; 9] = [
        Self::Malformed,
        Self::HopLimit,
        Self::OwnAddress,
        Self::OtherRouter,
        Self::NotAPeer,
        Self::WrongDestination,
        Self::BadAdvert,
        Self::Busy,
        Self::ReadFailed,
    ];
}

impl fmt::Display for DropCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Malformed => "malformed packet",
            Self::HopLimit => "TTL or hop limit is not 255: it does not come from this segment",
            Self::OwnAddress => "it has our own source address: a loop, or a duplicate address",
            Self::OtherRouter => "another virtual router's",
            Self::NotAPeer => "its source is not among the configured `peers`",
            Self::WrongDestination => "unicast and multicast are mixed up: `peers` differ",
            Self::BadAdvert => "malformed advert",
            Self::Busy => "the daemon is busy",
            Self::ReadFailed => "cannot read from the socket",
        })
    }
}

/// The virtual router that `packet` is for and what it says, or why it is dropped.
pub(super) fn accept(
    routes: &Routes,
    is_ours: impl Fn(IpAddr) -> bool,
    packet: &Packet<'_>,
) -> Result<(Name, Advert), (DropCause, String)> {
    let drop = |cause| {
        Err((
            cause,
            format!("from {} to {}", packet.source, packet.destination),
        ))
    };
    if packet.hop_limit != 255 {
        return drop(DropCause::HopLimit);
    }
    if is_ours(packet.source) {
        return drop(DropCause::OwnAddress);
    }
    // The second byte is the VRID in every version, so a neighbouring VRRPv2 group is not called bad.
    let Some(vrid) = packet.payload.get(1) else {
        return drop(DropCause::BadAdvert);
    };
    let Some(route) = routes.get(vrid) else {
        return drop(DropCause::OtherRouter);
    };
    if packet.destination.is_multicast() != route.peers.is_empty() {
        return drop(DropCause::WrongDestination);
    }
    if !route.peers.is_empty() && !route.peers.contains(&packet.source) {
        return drop(DropCause::NotAPeer);
    }
    match Advert::decode(packet.payload, packet.source, packet.destination) {
        Ok(advert) => Ok((route.router.clone(), advert)),
        Err(error) => Err((
            DropCause::BadAdvert,
            format!("from {}: {error}", packet.source),
        )),
    }
}

/// Counters of drops, and the log of them, held down to a line a minute for each cause.
#[derive(Default)]
pub(super) struct Drops {
    counters: [AtomicU64; DropCause::ALL.len()],
    logged: Mutex<[Option<(Instant, u64)>; DropCause::ALL.len()]>,
}

impl Drops {
    const LOG_INTERVAL: Duration = Duration::from_secs(60);

    pub(super) fn count(&self, cause: DropCause, interface: &Name, detail: &dyn fmt::Display) {
        let count = self.counters[cause as usize].fetch_add(1, Ordering::Relaxed) + 1;
        if cause == DropCause::OtherRouter {
            return;
        }
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        let last = &mut logged[cause as usize];
        if last.is_none_or(|(at, _)| at.elapsed() >= Self::LOG_INTERVAL) {
            let dropped = count - last.map_or(0, |(_, count)| count);
            *last = Some((Instant::now(), count));
            tracing::warn!(%interface, %cause, %detail, dropped, "dropped VRRP packets");
        }
    }

    pub(super) fn counts(&self) -> [(DropCause, u64); DropCause::ALL.len()] {
        DropCause::ALL.map(|cause| (cause, self.counters[cause as usize].load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: &str = "10.0.0.2";
    const GROUP: &str = "224.0.0.18";
    const OWN: &str = "10.0.0.1";

    fn routes() -> Routes {
        let route = |name: &str, peers: &[&str]| Route {
            router: Name::new(name),
            peers: peers.iter().map(|peer| peer.parse().unwrap()).collect(),
        };
        Routes::from([(51, route("group", &[])), (52, route("pair", &[PEER]))])
    }

    fn judge(vrid: u8, source: &str, destination: &str, hop_limit: u8) -> Result<Name, DropCause> {
        let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
        let advert = Advert {
            vrid,
            priority: 100,
            interval_cs: 100,
            addresses: vec!["10.0.0.100".parse().unwrap()],
        };
        let payload = advert.encode(source, destination);
        let packet = Packet {
            source,
            destination,
            hop_limit,
            payload: &payload,
        };
        let own: IpAddr = OWN.parse().unwrap();
        match accept(&routes(), |address| address == own, &packet) {
            Ok((router, got)) => {
                assert_eq!(got, advert);
                Ok(router)
            }
            Err((cause, _)) => Err(cause),
        }
    }

    #[test]
    fn adverts_find_their_virtual_router() {
        assert_eq!(judge(51, PEER, GROUP, 255), Ok(Name::new("group")));
        assert_eq!(judge(51, "10.0.0.9", GROUP, 255), Ok(Name::new("group")));
        assert_eq!(judge(52, PEER, OWN, 255), Ok(Name::new("pair")));
    }

    #[test]
    fn each_cause_of_a_drop_is_told_apart() {
        assert_eq!(judge(51, PEER, GROUP, 254), Err(DropCause::HopLimit));
        assert_eq!(judge(52, PEER, OWN, 64), Err(DropCause::HopLimit));
        assert_eq!(judge(51, OWN, GROUP, 255), Err(DropCause::OwnAddress));
        assert_eq!(judge(53, PEER, GROUP, 255), Err(DropCause::OtherRouter));
        assert_eq!(judge(52, "10.0.0.9", OWN, 255), Err(DropCause::NotAPeer));
        assert_eq!(
            judge(52, PEER, GROUP, 255),
            Err(DropCause::WrongDestination)
        );
        assert_eq!(judge(51, PEER, OWN, 255), Err(DropCause::WrongDestination));
    }

    #[test]
    fn a_damaged_advert_is_bad_at_every_length() {
        let (source, destination) = (PEER.parse().unwrap(), GROUP.parse().unwrap());
        for length in 0..8 {
            let payload = [0x31, 51, 100, 1, 0, 100, 0, 0];
            let packet = Packet {
                source,
                destination,
                hop_limit: 255,
                payload: &payload[..length],
            };
            let refused = accept(&routes(), |_| false, &packet);
            assert_eq!(refused.unwrap_err().0, DropCause::BadAdvert, "{length}");
        }
    }

    #[test]
    fn the_order_of_causes_fits_their_counters() {
        for (at, cause) in DropCause::ALL.into_iter().enumerate() {
            assert_eq!(cause as usize, at);
        }
        let drops = Drops::default();
        drops.count(DropCause::Busy, &Name::new("eth0"), &"");
        drops.count(DropCause::Busy, &Name::new("eth0"), &"");
        assert_eq!(
            drops.counts()[DropCause::Busy as usize],
            (DropCause::Busy, 2)
        );
        assert_eq!(
            drops.counts().iter().map(|(_, count)| count).sum::<u64>(),
            2
        );
    }
}
