//! The adverts of virtual routers, to and from the segment: VRRP as IP protocol 112.
//!
//! * [`Peers`] holds one raw socket for each interface and family ([`socket`]); virtual routers that
//!   share an interface share its socket.
//! * A task for each socket reads packets, decides whether they are adverts for one of our virtual
//!   routers ([`accept`]) and hands those on as [`Event::Advert`].
//! * [`Peers::send`] is plain blocking-free code, so that the real-time thread can call it.
//!
//! Nothing that arrives can hold up or grow the daemon: the kernel's receive buffer is small, an
//! advert that finds the event channel full is dropped like one that the network lost, and every drop
//! is counted by [`DropCause`] and logged at most once a minute.

mod accept;
mod socket;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use steerd_core::{
    config::{Config, Name, VirtualRouter},
    event::Event,
    vrrp::wire::Advert,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    runtime::Handle,
    sync::mpsc,
    task::AbortHandle,
};

pub(crate) use self::accept::DropCause;
use self::{
    accept::{Drops, Packet, Route, Routes},
    socket::{Received, Sources, VrrpSocket},
};

/// Why adverts cannot be exchanged.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PeerError {
    /// The interface of a virtual router is not there.
    #[error(
        "virtual router {router}: there is no interface {interface}; correct `interface` or create it"
    )]
    NoInterface { router: Name, interface: Name },
    /// The kernel refuses the socket.
    #[error(
        "cannot open a VRRP socket on {interface}: {source}; run steerd as root or with CAP_NET_RAW"
    )]
    Open { interface: Name, source: io::Error },
    /// The kernel refuses an option of the socket.
    #[error(
        "cannot set up the VRRP socket on {interface} ({what}): {source}; check that {interface} \
         exists, that its IP version is enabled and that steerd has CAP_NET_RAW"
    )]
    Setup {
        interface: Name,
        what: &'static str,
        source: io::Error,
    },
    /// No such virtual router.
    #[error("there is no virtual router {0}")]
    UnknownRouter(Name),
    /// The interface has no address to send from (yet).
    #[error(
        "virtual router {router}: {interface} has no {kind} address of its own to send adverts from; \
         give it one or set `source`"
    )]
    NoSource {
        router: Name,
        interface: Name,
        kind: &'static str,
    },
    /// The kernel refuses to send.
    #[error("cannot send the advert of {router} to {destination}: {source}")]
    Send {
        router: Name,
        destination: IpAddr,
        source: io::Error,
    },
}

/// The sockets of all virtual routers.
pub(crate) struct Peers {
    events: mpsc::Sender<Event>,
    runtime: Handle,
    drops: Arc<Drops>,
    segments: BTreeMap<SegmentKey, Listening>,
    routers: BTreeMap<Name, Sender>,
}

impl Peers {
    /// Opens the sockets for `config` and starts to listen. Call it within a tokio runtime.
    ///
    /// An interface may be down or without an address: what it needs is found when it sends.
    ///
    /// # Errors
    ///
    /// An interface is missing, or the kernel refuses.
    pub(crate) fn open(config: &Config, events: mpsc::Sender<Event>) -> Result<Self, PeerError> {
        let mut peers = Self {
            events,
            runtime: Handle::current(),
            drops: Arc::default(),
            segments: BTreeMap::new(),
            routers: BTreeMap::new(),
        };
        match peers.reconfigure(config).into_iter().next() {
            Some(error) => Err(error),
            None => Ok(peers),
        }
    }

    /// Works by `config` from now on. Sockets that still fit stay open.
    ///
    /// Call it after an interface came up too: one that was removed and made again is another
    /// interface to the kernel, and its old socket is deaf.
    ///
    /// Returns what failed. Each segment is on its own: one whose socket cannot be opened keeps the
    /// one it had, if any, and the others are not affected. Call it again to try again.
    #[must_use]
    pub(crate) fn reconfigure(&mut self, config: &Config) -> Vec<PeerError> {
        let (plans, mut errors) = plan(config);
        for (key, plan) in plans {
            let keep = self
                .segments
                .get(&key)
                .is_some_and(|old| old.segment.plan == plan);
            if keep {
                continue;
            }
            // The new socket listens already when the old one closes: an advert in between is heard
            // twice rather than never.
            match self.listen(plan) {
                Ok(fresh) => drop(self.segments.insert(key, fresh)),
                Err(error) => errors.push(error),
            }
        }
        let wanted: BTreeSet<SegmentKey> =
            config.virtual_routers.iter().map(SegmentKey::of).collect();
        self.segments.retain(|key, _| wanted.contains(key));
        self.routers = config
            .virtual_routers
            .iter()
            .filter_map(|router| {
                let listening = self.segments.get(&SegmentKey::of(router))?;
                Some((
                    router.name.clone(),
                    Sender::new(router, Arc::clone(&listening.segment)),
                ))
            })
            .collect();
        errors
    }

    /// Sends an advert of `router` to its group or to each of its peers. Never blocks.
    ///
    /// # Errors
    ///
    /// The first thing that failed; the other peers were sent to all the same.
    pub(crate) fn send(&self, router: &Name, advert: &Advert) -> Result<(), PeerError> {
        let sender = self
            .routers
            .get(router)
            .ok_or_else(|| PeerError::UnknownRouter(router.clone()))?;
        let mut outcome = Ok(());
        for destination in &sender.destinations {
            outcome = outcome.and(sender.send(advert, *destination));
        }
        outcome
    }

    /// The address that `router` sends from now, if it has one.
    pub(crate) fn source(&self, router: &Name) -> Option<IpAddr> {
        self.routers.get(router)?.source()
    }

    /// How many packets were dropped so far, by cause.
    pub(crate) fn drops(&self) -> [(DropCause, u64); DropCause::ALL.len()] {
        self.drops.counts()
    }

    fn listen(&self, plan: Plan) -> Result<Listening, PeerError> {
        let _runtime = self.runtime.enter();
        let socket = VrrpSocket::open(&plan.interface, plan.index, plan.ipv6, plan.multicast())?;
        // SAFETY: the socket owns its descriptor, and never replaces or closes it before its drop.
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
        let socket = socket.map_err(|error| PeerError::Setup {
            interface: plan.interface.clone(),
            what: "registering with the event loop",
            source: error.into(),
        })?;
        let segment = Arc::new(Segment {
            plan,
            socket,
            sources: Mutex::default(),
        });
        let task = receive(
            Arc::clone(&segment),
            self.events.clone(),
            Arc::clone(&self.drops),
        );
        let task = self.runtime.spawn(task).abort_handle();
        Ok(Listening { segment, task })
    }
}

/// What a socket is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct SegmentKey {
    interface: Name,
    ipv6: bool,
}

impl SegmentKey {
    fn of(router: &VirtualRouter) -> Self {
        Self {
            interface: router.interface.clone(),
            ipv6: router.is_ipv6(),
        }
    }
}

/// All that decides how a socket is opened and what it accepts: equal plans can share a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Plan {
    interface: Name,
    index: u32,
    ipv6: bool,
    routes: Routes,
    /// Every virtual address of the configuration: never a source.
    virtual_addresses: BTreeSet<IpAddr>,
}

impl Plan {
    fn multicast(&self) -> bool {
        self.routes.values().any(|route| route.peers.is_empty())
    }
}

/// The plan of each segment, and the virtual routers whose interface is missing.
fn plan(config: &Config) -> (BTreeMap<SegmentKey, Plan>, Vec<PeerError>) {
    let virtual_addresses: BTreeSet<IpAddr> = config
        .virtual_routers
        .iter()
        .flat_map(|router| router.addresses.iter().map(ipnet::IpNet::addr))
        .collect();
    let (mut plans, mut errors) = (BTreeMap::new(), Vec::new());
    for router in &config.virtual_routers {
        let Ok(index) = nix::net::if_::if_nametoindex(router.interface.as_str()) else {
            errors.push(PeerError::NoInterface {
                router: router.name.clone(),
                interface: router.interface.clone(),
            });
            continue;
        };
        let plan: &mut Plan = plans.entry(SegmentKey::of(router)).or_insert_with(|| Plan {
            interface: router.interface.clone(),
            index,
            ipv6: router.is_ipv6(),
            routes: Routes::new(),
            virtual_addresses: virtual_addresses.clone(),
        });
        let route = Route {
            router: router.name.clone(),
            peers: router.peers.clone(),
        };
        plan.routes.insert(router.vrid, route);
    }
    (plans, errors)
}

/// An open socket and what it is for.
struct Segment {
    plan: Plan,
    socket: AsyncFd<VrrpSocket>,
    sources: Mutex<Option<(Instant, Sources)>>,
}

impl Segment {
    /// This host's addresses on the interface, looked up at most once a second: adverts can be due
    /// every 10 ms.
    fn sources(&self) -> Sources {
        const FRESH: Duration = Duration::from_secs(1);
        let mut cached = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        match &*cached {
            Some((at, sources)) if at.elapsed() < FRESH => sources.clone(),
            _ => {
                let sources = Sources::of(&self.plan.interface, &self.plan.virtual_addresses);
                *cached = Some((Instant::now(), sources.clone()));
                sources
            }
        }
    }

    fn forget_sources(&self) {
        *self.sources.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// A segment whose receiving task runs until this is dropped.
struct Listening {
    segment: Arc<Segment>,
    task: AbortHandle,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// How one virtual router sends.
struct Sender {
    router: Name,
    segment: Arc<Segment>,
    configured_source: Option<IpAddr>,
    destinations: Vec<IpAddr>,
}

impl Sender {
    const GROUP_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(224, 0, 0, 18));
    const GROUP_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12));

    fn new(router: &VirtualRouter, segment: Arc<Segment>) -> Self {
        let destinations = match (router.peers.is_empty(), router.is_ipv6()) {
            (false, _) => router.peers.clone(),
            (true, false) => vec![Self::GROUP_V4],
            (true, true) => vec![Self::GROUP_V6],
        };
        let configured_source = router.source;
        Self {
            router: router.name.clone(),
            segment,
            configured_source,
            destinations,
        }
    }

    fn source(&self) -> Option<IpAddr> {
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

    fn send(&self, advert: &Advert, destination: IpAddr) -> Result<(), PeerError> {
        let attempt = || {
            let source = self.source().ok_or_else(|| PeerError::NoSource {
                router: self.router.clone(),
                interface: self.segment.plan.interface.clone(),
                kind: self.kind().words(),
            })?;
            let payload = advert.encode(source, destination);
            self.segment
                .socket
                .get_ref()
                .send(&payload, source, destination)
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
}

/// Which of its addresses a virtual router sends from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SourceKind {
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

/// Reads packets for as long as the segment is listened to.
async fn receive(segment: Arc<Segment>, events: mpsc::Sender<Event>, drops: Arc<Drops>) {
    // A read that fails at once, over and over, must not take the processor with it.
    const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(100);
    let mut buffer = vec![0; socket::LARGEST_PACKET];
    loop {
        let received = segment
            .socket
            .async_io(Interest::READABLE, |socket| socket.receive(&mut buffer))
            .await;
        let packet = match received {
            Ok(Received::Packet {
                source,
                destination,
                hop_limit,
                payload,
            }) => {
                let payload = buffer.get(payload).unwrap_or_default();
                Packet {
                    source,
                    destination,
                    hop_limit,
                    payload,
                }
            }
            Ok(Received::Malformed(what)) => {
                drops.count(DropCause::Malformed, &segment.plan.interface, &what);
                continue;
            }
            Err(error) => {
                drops.count(DropCause::ReadFailed, &segment.plan.interface, &error);
                tokio::time::sleep(PAUSE_AFTER_ERROR).await;
                continue;
            }
        };
        let ours = segment.sources();
        match accept::accept(
            &segment.plan.routes,
            |address| ours.contains(address),
            &packet,
        ) {
            Ok((router, advert)) => {
                let event = Event::Advert {
                    router,
                    source: packet.source,
                    advert,
                };
                if events.try_send(event).is_err() {
                    drops.count(DropCause::Busy, &segment.plan.interface, &packet.source);
                }
            }
            Err((cause, detail)) => drops.count(cause, &segment.plan.interface, &detail),
        }
    }
}
