//! The task that follows the kernel's notifications and reports what changed.
//!
//! Each round it waits for a notification, a new wish of the daemon or the time to look at a next hop
//! again; takes in what came; and reports the difference to what it reported last. So a notification
//! that changes nothing, or one that came twice, is no event, and losing some costs nothing but the
//! asking for everything.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{BuildHasher, Hasher, RandomState},
    io,
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use rtnetlink::{
    MulticastGroup,
    packet_core::NetlinkMessage,
    packet_route::{RouteNetlinkMessage, address::AddressMessage, link::LinkMessage},
    sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE},
};
use steerd_core::{
    config::Name,
    event::{Event, NextHop},
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

use super::{
    Iface, NetlinkError, Wanted,
    next_hop::{self, Found, Obstacle, Surroundings},
    request::Kernel,
    table::Table,
};
use crate::io::dataplane::Exit;

/// How often an unknown next hop is asked for.
const RETRY: Duration = Duration::from_millis(500);
/// How often a known one is looked at, about: each time a fifth more or less.
const REFRESH: Duration = Duration::from_secs(5);
/// Notifications are answered by a look at most this often for each next hop, and after losses by a
/// look at everything.
const PAUSE: Duration = Duration::from_millis(20);

/// Holds what was learnt and what was reported.
pub(super) struct Monitor {
    kernel: Kernel,
    notifications: TokioSocket,
    wanted: Arc<Wanted>,
    channels: Channels,
    table: Table,
    targets: BTreeMap<IpAddr, Target>,
    /// When to ask for everything again, after notifications were lost.
    reread_at: Option<Instant>,
    reported_links: BTreeMap<Name, bool>,
    reported_addresses: Option<BTreeSet<IpAddr>>,
}

/// Where reports go.
pub(super) struct Channels {
    pub(super) events: mpsc::Sender<Event>,
    pub(super) interfaces: watch::Sender<Vec<Iface>>,
    pub(super) exits: watch::Sender<Vec<Exit>>,
}

/// A next hop to keep resolved.
struct Target {
    /// When to look at it.
    due: Instant,
    /// When it was looked at last.
    looked: Option<Instant>,
    /// Whose MAC it is: its own or the gateway's.
    asked: IpAddr,
    /// What frames to it look like.
    exit: Option<Exit>,
    /// What was reported; none: nothing yet.
    reported: Option<Option<NextHop>>,
    /// What was logged as being in the way.
    obstacle: Option<Obstacle>,
}

/// The reader of the events is gone.
struct Closed;

impl Monitor {
    /// Subscribes to the kernel's notifications.
    pub(super) fn open(
        kernel: Kernel,
        wanted: Arc<Wanted>,
        channels: Channels,
    ) -> Result<Self, NetlinkError> {
        let notifications = subscribe().map_err(NetlinkError::Connect)?;
        Ok(Self {
            kernel,
            notifications,
            wanted,
            channels,
            table: Table::default(),
            targets: BTreeMap::new(),
            reread_at: None,
            reported_links: BTreeMap::new(),
            reported_addresses: None,
        })
    }

    /// Asks for all links and addresses.
    pub(super) async fn read_all(&mut self) -> Result<(), NetlinkError> {
        let mut table = Table::default();
        for (what, question) in [
            (
                "links",
                RouteNetlinkMessage::GetLink(LinkMessage::default()),
            ),
            (
                "addresses",
                RouteNetlinkMessage::GetAddress(AddressMessage::default()),
            ),
        ] {
            let list = self.kernel.list(question).await;
            let list = list.map_err(|source| NetlinkError::Read { what, source })?;
            list.iter().for_each(|message| table.apply(message));
        }
        self.table = table;
        self.publish_interfaces();
        Ok(())
    }

    /// Follows and reports until nobody listens.
    pub(super) async fn run(mut self) {
        let mut buffer = Vec::with_capacity(64 * 1024);
        while self.round(&mut buffer).await.is_ok() {}
    }

    async fn round(&mut self, buffer: &mut Vec<u8>) -> Result<(), Closed> {
        self.adopt_wishes();
        self.report_hosts_state().await?;
        self.look_at_due_targets().await?;

        let next_look = self.targets.values().map(|target| target.due).min();
        let wake_at = next_look.into_iter().chain(self.reread_at).min();
        let timer = async {
            match wake_at {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        buffer.clear();
        tokio::select! {
            received = self.notifications.recv_from(buffer) => match received {
                Ok(_) => self.take_in(buffer),
                // ENOBUFS: notifications were lost. Whatever else it is, asking anew is right.
                Err(error) => {
                    tracing::debug!(%error, "netlink notifications");
                    self.reread_soon();
                }
            },
            () = self.wanted.changed.notified() => {}
            () = timer => {}
            () = self.channels.events.closed() => return Err(Closed),
        }
        if self.reread_at.is_some_and(|at| at <= Instant::now()) {
            self.reread_at = None;
            if let Err(error) = self.read_all().await {
                tracing::warn!(%error, "trying again");
                self.reread_soon();
            }
            self.look_again_at(|_| true);
        }
        Ok(())
    }

    /// Takes in the notifications of one datagram.
    fn take_in(&mut self, mut datagram: &[u8]) {
        while let Some((header, _)) = datagram.split_first_chunk::<6>() {
            let [a, b, c, d, kind_low, kind_high] = *header;
            let length = usize::try_from(u32::from_ne_bytes([a, b, c, d])).unwrap_or(usize::MAX);
            let Some(message) = datagram.get(..length).filter(|message| !message.is_empty()) else {
                return self.reread_soon();
            };
            match u16::from_ne_bytes([kind_low, kind_high]) {
                // A router has a million routes: that one changed is enough to know.
                libc::RTM_NEWROUTE | libc::RTM_DELROUTE => self.look_again_at(|_| true),
                _ => match NetlinkMessage::<RouteNetlinkMessage>::deserialize(message) {
                    Ok(message) => self.take_in_message(message),
                    Err(error) => {
                        tracing::debug!(%error, "a netlink notification that cannot be read");
                        self.reread_soon();
                    }
                },
            }
            // Messages begin at multiples of four bytes.
            datagram = datagram
                .get(length.next_multiple_of(4)..)
                .unwrap_or_default();
        }
    }

    fn take_in_message(&mut self, message: NetlinkMessage<RouteNetlinkMessage>) {
        use rtnetlink::packet_core::NetlinkPayload::InnerMessage;
        match message.payload {
            InnerMessage(
                RouteNetlinkMessage::NewNeighbour(entry) | RouteNetlinkMessage::DelNeighbour(entry),
            ) => {
                let subject = next_hop::subject(&entry);
                self.look_again_at(|target| Some(target.asked) == subject);
            }
            InnerMessage(message) => {
                self.table.apply(&message);
                self.look_again_at(|_| true);
            }
            _ => {}
        }
    }

    fn reread_soon(&mut self) {
        self.reread_at.get_or_insert_with(|| Instant::now() + PAUSE);
    }

    /// Makes those targets due that something happened to, but none more often than once a pause.
    fn look_again_at(&mut self, affected: impl Fn(&Target) -> bool) {
        let now = Instant::now();
        for target in self.targets.values_mut().filter(|target| affected(target)) {
            let soonest = target.looked.map_or(now, |at| at + PAUSE).max(now);
            target.due = target.due.min(soonest);
        }
    }

    /// Begins with the targets that are new and ends those that nobody wants any more.
    fn adopt_wishes(&mut self) {
        let wanted = self.wanted.lock();
        self.targets
            .retain(|address, _| wanted.addresses.contains(address));
        for address in &wanted.addresses {
            self.targets.entry(*address).or_insert_with(|| Target {
                due: Instant::now(),
                looked: None,
                asked: *address,
                exit: None,
                reported: None,
                obstacle: None,
            });
        }
        drop(wanted);
        self.publish_interfaces();
    }

    fn publish_interfaces(&self) {
        let now = self.table.interfaces(&self.wanted.lock().interfaces);
        self.channels.interfaces.send_if_modified(|before| {
            let changed = *before != now;
            *before = now;
            changed
        });
    }

    fn publish_exits(&self) {
        let exits = self.targets.values().filter_map(|target| target.exit);
        let now: BTreeMap<_, Exit> = exits
            .map(|exit| ((exit.ifindex, exit.vlan), exit))
            .collect();
        let now: Vec<Exit> = now.into_values().collect();
        self.channels.exits.send_if_modified(|before| {
            let changed = *before != now;
            *before = now;
            changed
        });
    }

    /// Reports links and addresses where they are not as reported last.
    async fn report_hosts_state(&mut self) -> Result<(), Closed> {
        let links: BTreeMap<Name, bool> = {
            let interfaces = self.channels.interfaces.borrow();
            let up = |name: &Name| interfaces.iter().any(|one| one.name == *name && one.up);
            self.wanted
                .lock()
                .interfaces
                .iter()
                .map(|name| (name.clone(), up(name)))
                .collect()
        };
        for (interface, up) in &links {
            if self.reported_links.get(interface) != Some(up) {
                self.report(Event::Link {
                    interface: interface.clone(),
                    up: *up,
                })
                .await?;
            }
        }
        self.reported_links = links;
        let addresses = self.table.addresses();
        if self.reported_addresses.as_ref() != Some(&addresses) {
            self.report(Event::LocalAddresses(addresses.clone()))
                .await?;
            self.reported_addresses = Some(addresses);
        }
        Ok(())
    }

    async fn look_at_due_targets(&mut self) -> Result<(), Closed> {
        let now = Instant::now();
        let interfaces: Vec<u32> = self
            .channels
            .interfaces
            .borrow()
            .iter()
            .map(|one| one.index)
            .collect();
        let due = self.targets.iter().filter(|(_, target)| target.due <= now);
        let due: Vec<IpAddr> = due.map(|(address, _)| *address).collect();
        let programs = self.wanted.lock().programs.clone();
        for address in due {
            let around = Surroundings {
                table: &self.table,
                interfaces: &interfaces,
                programs: &programs,
            };
            let (found, asked) = next_hop::look_up(&self.kernel, address, &around).await;
            let Some(target) = self.targets.get_mut(&address) else {
                continue;
            };
            target.looked = Some(now);
            target.asked = asked;
            let (hop, exit, obstacle) = match found {
                Found::Hop(hop, exit) => (Some(hop), Some(exit), None),
                Found::Unresolved => (None, None, None),
                Found::Obstacle(obstacle) => (None, None, Some(obstacle)),
            };
            let settled = hop.is_some() || obstacle == Some(Obstacle::Local);
            target.due = now + if settled { jittered(REFRESH) } else { RETRY };
            if obstacle != target.obstacle {
                match &obstacle {
                    // With `auto` that is how a backend is found to be local.
                    Some(Obstacle::Local) | None => {}
                    Some(obstacle) => {
                        tracing::warn!(%address, %obstacle, "no way to this address");
                    }
                }
                target.obstacle = obstacle;
            }
            let moved = target.exit != exit;
            target.exit = exit;
            if moved {
                self.publish_exits();
            }
            let Some(target) = self.targets.get_mut(&address) else {
                continue;
            };
            if target.reported != Some(hop) {
                target.reported = Some(hop);
                self.report(Event::NextHop {
                    address,
                    next_hop: hop,
                })
                .await?;
            }
        }
        Ok(())
    }

    /// Waits where the daemon is behind: the kernel's buffer holds what comes meanwhile, and says
    /// so where it cannot.
    async fn report(&self, event: Event) -> Result<(), Closed> {
        self.channels.events.send(event).await.map_err(|_| Closed)
    }
}

/// A socket that gets the notifications.
fn subscribe() -> io::Result<TokioSocket> {
    let groups = [
        MulticastGroup::Link,
        MulticastGroup::Neigh,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
    ];
    let mask = groups
        .iter()
        .fold(0, |mask, group| mask | 1 << (*group as u32 - 1));
    let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
    socket.socket_mut().bind(&SocketAddr::new(0, mask))?;
    socket.socket_mut().set_rx_buf_sz(512 * 1024)?;
    Ok(socket)
}

/// A fifth more or less, so that the nodes of a segment do not all ask at once.
fn jittered(period: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish() % 401;
    period * (800 + u32::try_from(random).unwrap_or(0)) / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_within_a_fifth_and_varies() {
        let periods: BTreeSet<Duration> = (0..200).map(|_| jittered(REFRESH)).collect();
        assert!(periods.len() > 10);
        assert!(
            periods
                .iter()
                .all(|period| (4000..=6000).contains(&period.as_millis()))
        );
    }
}
