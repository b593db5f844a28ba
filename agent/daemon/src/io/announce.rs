//! Telling a segment where the virtual addresses are, asking who else has them, and listening for
//! those who say that they do.
//!
//! * [`Announcer`] holds a packet socket for each interface and family. The frames themselves are
//!   [`steerd_core::announce`]'s.
//! * A task for each socket reads the claims of other hosts and reports them as
//!   [`Event::AddressConflict`]. A filter in the kernel ([`filter`]) lets only claims of our virtual
//!   addresses through, so that a storm of other ARP never wakes the daemon; a storm of claims is
//!   held down by [`Reports`].

pub(super) mod filter;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    io, mem,
    net::IpAddr,
    os::fd::AsRawFd,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use nix::sys::socket::{LinkAddr, recvfrom};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use steerd_core::{
    announce::{self, Claim, Mac},
    config::{Config, Name, VirtualRouter},
    event::Event,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    runtime::Handle,
    sync::mpsc,
    task::AbortHandle,
};

/// Why addresses cannot be announced or watched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AnnounceError {
    /// The interface of a virtual router is not there.
    #[error(
        "virtual router {router}: there is no interface {interface}; correct `interface` or create it"
    )]
    NoInterface { router: Name, interface: Name },
    /// The interface has no MAC, so there is no ARP or neighbour discovery on it.
    #[error(
        "virtual router {router}: {interface} is no Ethernet interface, so addresses cannot be \
         announced on it; choose another `interface`"
    )]
    NotEthernet { router: Name, interface: Name },
    /// The kernel refuses the socket.
    #[error(
        "cannot open a packet socket on {interface}: {source}; run steerd as root or with CAP_NET_RAW"
    )]
    Open { interface: Name, source: io::Error },
    /// No such virtual router.
    #[error("there is no virtual router {0}")]
    UnknownRouter(Name),
    /// The kernel refuses to send.
    #[error("cannot announce or probe {address} on {interface}: {source}")]
    Send {
        interface: Name,
        address: IpAddr,
        source: io::Error,
    },
}

/// The packet sockets of all virtual routers.
pub(crate) struct Announcer {
    events: mpsc::Sender<Event>,
    runtime: Handle,
    segments: BTreeMap<SegmentKey, Listening>,
    routers: BTreeMap<Name, Announced>,
}

impl Announcer {
    /// Opens the sockets for `config` and starts to listen. Call it within a tokio runtime.
    ///
    /// # Errors
    ///
    /// An interface is missing, or the kernel refuses.
    pub(crate) fn open(
        config: &Config,
        events: mpsc::Sender<Event>,
    ) -> Result<Self, AnnounceError> {
        let mut announcer = Self {
            events,
            runtime: Handle::current(),
            segments: BTreeMap::new(),
            routers: BTreeMap::new(),
        };
        match announcer.reconfigure(config).into_iter().next() {
            Some(error) => Err(error),
            None => Ok(announcer),
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
    pub(crate) fn reconfigure(&mut self, config: &Config) -> Vec<AnnounceError> {
        let (plans, mut errors) = plan(config);
        for (key, plan) in plans {
            let keep = self
                .segments
                .get(&key)
                .is_some_and(|old| old.segment.plan == plan);
            if keep {
                continue;
            }
            match self.listen(&key, plan) {
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
                let announced = Announced {
                    interface: router.interface.clone(),
                    segment: Arc::clone(&listening.segment),
                    addresses: addresses(router).collect(),
                };
                Some((router.name.clone(), announced))
            })
            .collect();
        errors
    }

    /// Sends one gratuitous ARP or unsolicited NA for each address of `router`. Never blocks.
    ///
    /// # Errors
    ///
    /// The first thing that failed; the other addresses were announced all the same.
    pub(crate) fn announce(&self, router: &Name) -> Result<(), AnnounceError> {
        self.send(router, announce::announcement)
    }

    /// Asks the segment who has the addresses of `router`. Who answers is reported as
    /// [`Event::AddressConflict`], even when it was reported just before. Never blocks.
    ///
    /// # Errors
    ///
    /// As for [`Self::announce`].
    pub(crate) fn probe_addresses(&self, router: &Name) -> Result<(), AnnounceError> {
        if let Some(announced) = self.routers.get(router) {
            announced.segment.reports.forget();
        }
        self.send(router, announce::probe)
    }

    fn send(&self, name: &Name, frame: fn(Mac, IpAddr) -> Vec<u8>) -> Result<(), AnnounceError> {
        let Announced {
            interface,
            segment,
            addresses,
        } = self
            .routers
            .get(name)
            .ok_or_else(|| AnnounceError::UnknownRouter(name.clone()))?;
        // Looked up each time: a MAC can change under a running interface.
        let mac = macs().find_map(|(of, mac)| (of == interface.as_str()).then_some(mac));
        let mac = mac.ok_or_else(|| AnnounceError::NotEthernet {
            router: name.clone(),
            interface: interface.clone(),
        })?;
        let mut outcome = Ok(());
        for address in addresses {
            let attempt = || segment.socket.get_ref().send(&frame(mac, *address));
            // The first error may be an old one: that the link was down stays on the socket until it
            // was reported.
            let sent = attempt().or_else(|_| attempt());
            outcome = outcome.and(sent.map(drop).map_err(|source| AnnounceError::Send {
                interface: interface.clone(),
                address: *address,
                source,
            }));
        }
        outcome
    }

    fn listen(&self, key: &SegmentKey, plan: Plan) -> Result<Listening, AnnounceError> {
        let _runtime = self.runtime.enter();
        let socket = open(&plan, key.ipv6);
        let socket = socket.map_err(|source| AnnounceError::Open {
            interface: key.interface.clone(),
            source,
        })?;
        let segment = Arc::new(Segment {
            plan,
            socket,
            reports: Reports::default(),
        });
        let task = self
            .runtime
            .spawn(receive(Arc::clone(&segment), self.events.clone()));
        Ok(Listening {
            segment,
            task: task.abort_handle(),
        })
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

/// All that decides how a socket is opened: equal plans can share one.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Plan {
    index: u32,
    /// The addresses to watch and whose they are.
    owners: BTreeMap<IpAddr, Name>,
}

/// The plan of each segment, and the virtual routers whose interface cannot do it.
fn plan(config: &Config) -> (BTreeMap<SegmentKey, Plan>, Vec<AnnounceError>) {
    let macs: BTreeMap<String, Mac> = macs().collect();
    let (mut plans, mut errors) = (BTreeMap::new(), Vec::new());
    for router in &config.virtual_routers {
        let (name, interface) = (router.name.clone(), router.interface.clone());
        let Ok(index) = nix::net::if_::if_nametoindex(interface.as_str()) else {
            errors.push(AnnounceError::NoInterface {
                router: name,
                interface,
            });
            continue;
        };
        if !macs.contains_key(interface.as_str()) {
            errors.push(AnnounceError::NotEthernet {
                router: name,
                interface,
            });
            continue;
        }
        let plan: &mut Plan = plans.entry(SegmentKey::of(router)).or_insert_with(|| Plan {
            index,
            owners: BTreeMap::new(),
        });
        plan.owners
            .extend(addresses(router).map(|address| (address, name.clone())));
    }
    (plans, errors)
}

fn addresses(router: &VirtualRouter) -> impl Iterator<Item = IpAddr> {
    router.addresses.iter().map(ipnet::IpNet::addr)
}

/// What one virtual router announces.
struct Announced {
    interface: Name,
    segment: Arc<Segment>,
    addresses: Vec<IpAddr>,
}

/// An open socket and what it is for.
struct Segment {
    plan: Plan,
    socket: AsyncFd<Socket>,
    reports: Reports,
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

/// Which claims are reported: the same one at most every second, and no more than twenty a second for
/// an address whatever they say. One entry an address, so a storm does not grow it.
#[derive(Default)]
struct Reports(Mutex<BTreeMap<IpAddr, (Instant, Mac)>>);

impl Reports {
    const SAME: Duration = Duration::from_secs(1);
    const OTHER: Duration = Duration::from_millis(50);

    /// Whether to report `claim` at `now`, which then counts as reported.
    fn due(&self, claim: &Claim, now: Instant) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let due = last.get(&claim.address).is_none_or(|(at, mac)| {
            let pause = if *mac == claim.mac {
                Self::SAME
            } else {
                Self::OTHER
            };
            now.saturating_duration_since(*at) >= pause
        });
        if due {
            last.insert(claim.address, (now, claim.mac));
        }
        due
    }

    fn forget(&self) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}

/// A packet socket that gets the claims of the plan's addresses and nothing else.
fn open(plan: &Plan, ipv6: bool) -> io::Result<AsyncFd<Socket>> {
    // Without a protocol it hears nothing until it is bound, when the filter is in place.
    let socket = Socket::new(Domain::PACKET, Type::RAW, None::<Protocol>)?;
    socket.set_nonblocking(true)?;
    socket.set_recv_buffer_size(64 * 1024)?;
    let owned: BTreeSet<IpAddr> = plan.owners.keys().copied().collect();
    socket.attach_filter(&filter::claims_of(ipv6, &owned))?;
    let protocol = if ipv6 {
        libc::ETH_P_IPV6
    } else {
        libc::ETH_P_ARP
    };
    socket.bind(&link_address(plan.index, protocol as u16))?;
    // SAFETY: the socket owns its descriptor, and never replaces or closes it before its drop.
    let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
    Ok(socket?)
}

/// The address of a packet socket: an interface and an EtherType.
pub(super) fn link_address(index: u32, protocol: u16) -> SockAddr {
    let mut storage = socket2::SockAddrStorage::zeroed();
    // SAFETY: sockaddr_ll is one of the address types that the storage is made to hold.
    let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol.to_be();
    address.sll_ifindex = index.cast_signed();
    let length = mem::size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the storage holds a whole sockaddr_ll, and `length` is its size.
    unsafe { SockAddr::new(storage, length) }
}

/// The Ethernet interfaces of this host and their MACs.
fn macs() -> impl Iterator<Item = (String, Mac)> {
    nix::ifaddrs::getifaddrs()
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let address = *entry.address.as_ref()?.as_link_addr()?;
            let mac = address
                .addr()
                .filter(|_| address.hatype() == libc::ARPHRD_ETHER)?;
            Some((entry.interface_name, mac))
        })
}

/// Reads claims for as long as the segment is listened to.
async fn receive(segment: Arc<Segment>, events: mpsc::Sender<Event>) {
    // An interface that goes down is an error of its socket, which stays usable.
    const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(100);
    let mut buffer = [0; filter::SNAP_LENGTH as usize];
    loop {
        let read = segment
            .socket
            .async_io(Interest::READABLE, |socket| {
                Ok(recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut buffer)?)
            })
            .await;
        let (length, from) = match read {
            Ok(read) => read,
            Err(error) => {
                tracing::debug!(%error, index = segment.plan.index, "packet socket");
                tokio::time::sleep(PAUSE_AFTER_ERROR).await;
                continue;
            }
        };
        // A frame for another host is none of our segment's: the kernel marks those of a VLAN
        // without an interface so, with the tag taken off.
        if from.is_some_and(|from| from.pkttype() == libc::PACKET_OTHERHOST) {
            continue;
        }
        let frame = buffer.get(..length).unwrap_or_default();
        if let Some((router, claim)) = conflict(&segment, frame) {
            let Claim { address, mac } = claim;
            let event = Event::AddressConflict {
                router,
                address,
                mac,
            };
            if events.try_send(event).is_err() {
                // It will be claimed again; forgotten here, it is reported then.
                segment.reports.forget();
            }
        }
    }
}

/// The claim of another host that `frame` makes, where it is to be reported.
fn conflict(segment: &Segment, frame: &[u8]) -> Option<(Name, Claim)> {
    let claim = announce::parse_claim(frame)?;
    let router = segment.plan.owners.get(&claim.address)?;
    let due = segment.reports.due(&claim, Instant::now());
    // Our own frames come back where two interfaces share a segment.
    let reported = due && macs().all(|(_, ours)| ours != claim.mac);
    reported.then(|| (router.clone(), claim))
}
