//! The adverts of virtual routers, to and from the segment: VRRP as IP protocol 112, or behind an
//! authentication header, protocol 51.
//!
//! * [`Peers`] holds one raw socket for each interface, family and protocol ([`socket`]); virtual
//!   routers that share an interface share its sockets. Those of VRRPv2 hear both protocols, so that
//!   a peer with another authentication is told from one that is silent.
//! * A task for each socket ([`receive`]) reads packets, decides whether they are adverts for one of
//!   our virtual routers ([`accept`]) and hands those on as [`Event::Advert`].
//! * [`Peers::send`] is plain blocking-free code ([`send`]), so that the real-time thread can call
//!   it.
//!
//! Nothing that arrives can hold up or grow the daemon: the kernel's receive buffer is small, an
//! advert that finds the event channel full is dropped like one that the network lost, and every drop
//! is counted by [`DropCause`] and logged at most once a minute ([`drops`]).

mod accept;
mod drops;
mod receive;
mod send;
mod socket;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use steerd_core::{
    config::{Authentication, Config, Name, Version, VirtualRouter},
    event::Event,
    vrrp::wire::{Advert, ah::Sequences},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    runtime::Handle,
    sync::mpsc,
    task::AbortHandle,
};

pub(crate) use self::drops::DropCause;
use self::{
    accept::{Route, Routes},
    drops::Drops,
    send::Sender,
    socket::{Framing, Sources, VrrpSocket},
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
    /// The sequence numbers of virtual routers with an authentication header, over every
    /// configuration.
    sequences: BTreeMap<Name, SharedSequences>,
}

/// What the senders and the receiver of one virtual router know of sequence numbers.
#[derive(Clone, Default)]
struct SharedSequences(Arc<Mutex<Sequences>>);

impl SharedSequences {
    /// Numbers above all that this node sent before it was started.
    fn above_earlier_ones() -> Self {
        let seconds = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        let floor = u32::try_from(seconds).unwrap_or(u32::MAX);
        Self(Arc::new(Mutex::new(Sequences::above(floor))))
    }

    fn lock(&self) -> MutexGuard<'_, Sequences> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
            sequences: BTreeMap::new(),
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
        let with_header = config
            .virtual_routers
            .iter()
            .filter(|router| matches!(router.wire.authentication, Authentication::Ah(_)));
        let mut known = std::mem::take(&mut self.sequences);
        self.sequences = with_header
            .map(|router| {
                let numbers = known.remove(&router.name);
                let numbers = numbers.unwrap_or_else(SharedSequences::above_earlier_ones);
                (router.name.clone(), numbers)
            })
            .collect();
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
        let wanted: BTreeSet<SegmentKey> = config
            .virtual_routers
            .iter()
            .flat_map(SegmentKey::heard_by)
            .collect();
        self.segments.retain(|key, _| wanted.contains(key));
        self.routers = config
            .virtual_routers
            .iter()
            .filter_map(|router| {
                let listening = self.segments.get(&SegmentKey::sent_by(router))?;
                let sequences = self.sequences.get(&router.name).cloned();
                let segment = Arc::clone(&listening.segment);
                let sender = Sender::new(router, segment, sequences.unwrap_or_default());
                Some((router.name.clone(), sender))
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
        sender.send(advert)
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
        let socket = VrrpSocket::open(&plan.interface, plan.index, plan.framing, plan.multicast())?;
        // SAFETY: the socket owns its descriptor, and never replaces or closes it before its drop.
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
        let socket = socket.map_err(|error| PeerError::Setup {
            interface: plan.interface.clone(),
            what: "registering with the event loop",
            source: error.into(),
        })?;
        let of_route = |route: &Route| {
            let numbers = self.sequences.get(&route.router)?;
            Some((route.router.clone(), numbers.clone()))
        };
        let sequences = plan.routes.values().filter_map(of_route).collect();
        let segment = Arc::new(Segment {
            plan,
            sequences,
            socket,
            sources: Mutex::default(),
        });
        let task = receive::receive(
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
    framing: Framing,
}

impl SegmentKey {
    /// The socket that `router` sends through.
    fn sent_by(router: &VirtualRouter) -> Self {
        let framing = match (router.is_ipv6(), &router.wire.authentication) {
            (true, _) => Framing::V6,
            (false, Authentication::Ah(_)) => Framing::Ah,
            (false, Authentication::None | Authentication::Pass(_)) => Framing::V4,
        };
        Self {
            interface: router.interface.clone(),
            framing,
        }
    }

    /// The sockets that `router` listens to: with VRRPv2 those of each authentication.
    fn heard_by(router: &VirtualRouter) -> impl Iterator<Item = Self> + use<> {
        let framings: &[Framing] = match (router.is_ipv6(), router.wire.version) {
            (true, _) => &[Framing::V6],
            (false, Version::V3) => &[Framing::V4],
            (false, Version::V2) => &[Framing::V4, Framing::Ah],
        };
        let interface = router.interface.clone();
        framings.iter().map(move |&framing| Self {
            interface: interface.clone(),
            framing,
        })
    }
}

/// All that decides how a socket is opened and what it accepts: equal plans can share a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Plan {
    interface: Name,
    index: u32,
    framing: Framing,
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
        for key in SegmentKey::heard_by(router) {
            let framing = key.framing;
            let plan: &mut Plan = plans.entry(key).or_insert_with(|| Plan {
                interface: router.interface.clone(),
                index,
                framing,
                routes: Routes::new(),
                virtual_addresses: virtual_addresses.clone(),
            });
            plan.routes.insert(router.vrid, Route::of(router));
        }
    }
    (plans, errors)
}

/// An open socket and what it is for.
struct Segment {
    plan: Plan,
    socket: AsyncFd<VrrpSocket>,
    sequences: BTreeMap<Name, SharedSequences>,
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
