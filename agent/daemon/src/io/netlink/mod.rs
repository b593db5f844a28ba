//! The kernel's links, addresses and neighbours, through rtnetlink.
//!
//! * [`Netlink`] is what the rest of the daemon holds: it puts virtual addresses on interfaces and
//!   takes them off ([`address`]), and says which next hops to keep resolved.
//! * The [`monitor`] task follows the kernel's notifications and reports links, addresses and next
//!   hops as events. What it knows of links and addresses is a [`table::Table`].
//! * [`next_hop`] asks the kernel for the way to an address.
//! * [`request`] is one question to the kernel and its answer.
//!
//! Questions and notifications have a socket each. The notifications' one is bounded by the kernel's
//! receive buffer: where the daemon falls behind, the kernel says so, and the monitor asks anew for
//! everything.

mod address;
mod monitor;
mod next_hop;
mod request;
mod table;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ipnet::IpNet;
use rtnetlink::packet_route::{RouteNetlinkMessage, address::AddressMessage};
use steerd_core::{
    config::{Config, Name, VirtualRouter},
    event::Event,
};
use tokio::{
    sync::{Notify, mpsc, watch},
    task::JoinSet,
};

use self::{monitor::Monitor, request::Kernel, table::Table};
use super::{
    dataplane::Exit,
    sysctl::{self, SysctlError},
};

/// How many next hops are kept resolved at most. Peers are among them, and who claims to be one can
/// be anybody on the segment.
const MOST_ADDRESSES: usize = 4096;

/// Why the kernel's network cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetlinkError {
    /// No netlink socket.
    #[error("cannot talk to the kernel through netlink: {0}")]
    Connect(io::Error),
    /// The kernel does not tell.
    #[error("cannot read the host's {what}: {source}")]
    Read {
        what: &'static str,
        source: io::Error,
    },
    /// An interface of the configuration is not there.
    #[error("there is no interface {0}; correct the configuration or create it")]
    NoInterface(Name),
    /// The kernel refuses an address.
    #[error(
        "cannot {verb} {address} on {interface}: {source}; run steerd with CAP_NET_ADMIN, and check \
         that the address's IP version is enabled on {interface}"
    )]
    Address {
        verb: &'static str,
        address: String,
        interface: Name,
        source: io::Error,
    },
    /// A kernel setting that direct server return needs cannot be made.
    #[error("direct server return of {vip} needs a kernel setting: {source}")]
    Setting { vip: IpAddr, source: SysctlError },
}

/// An interface of the configuration, as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Iface {
    /// Its name.
    pub(crate) name: Name,
    /// The kernel's number for it.
    pub(crate) index: u32,
    /// Its MAC; zero where it is no Ethernet interface.
    pub(crate) mac: [u8; 6],
    /// The VLAN devices on it, whose frames come through it, and their MACs.
    pub(crate) vlans: BTreeMap<Name, [u8; 6]>,
    /// Whether it is set up and has carrier.
    pub(crate) up: bool,
    /// Of a bond or team, the numbers of its ports.
    pub(crate) ports: BTreeSet<u32>,
    /// What it is a port of.
    pub(crate) upper: Option<Upper>,
}

/// A bond, bridge or the like, seen from one of its ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Upper {
    pub(crate) name: String,
    /// What it is, as `ip link` says it.
    pub(crate) kind: String,
}

/// The kernel's network.
pub(crate) struct Netlink {
    kernel: Kernel,
    wanted: Arc<Wanted>,
    interfaces: watch::Receiver<Vec<Iface>>,
    exits: watch::Receiver<Vec<Exit>>,
    /// The tasks end with this.
    _tasks: JoinSet<()>,
}

impl Netlink {
    /// Reads the host's network and starts to follow it. Afterwards every interface of `config` is
    /// reported once as [`Event::Link`], and the addresses as [`Event::LocalAddresses`].
    ///
    /// # Errors
    ///
    /// Netlink does not work, or an interface of `config` is missing.
    pub(crate) async fn start(
        config: &Config,
        events: mpsc::Sender<Event>,
    ) -> Result<Self, NetlinkError> {
        let mut tasks = JoinSet::new();
        let kernel = Kernel::connect(&mut tasks).map_err(NetlinkError::Connect)?;
        let wanted = Arc::new(Wanted::default());
        wanted.set_interfaces(config);
        let (interfaces_tx, interfaces) = watch::channel(Vec::new());
        let (exits_tx, exits) = watch::channel(Vec::new());
        let channels = monitor::Channels {
            events,
            interfaces: interfaces_tx,
            exits: exits_tx,
        };
        let mut monitor = Monitor::open(kernel.clone(), Arc::clone(&wanted), channels)?;
        monitor.read_all().await?;
        for name in &wanted.lock().interfaces {
            if !interfaces
                .borrow()
                .iter()
                .any(|interface| interface.name == *name)
            {
                return Err(NetlinkError::NoInterface(name.clone()));
            }
        }
        tasks.spawn(monitor.run());
        Ok(Self {
            kernel,
            wanted,
            interfaces,
            exits,
            _tasks: tasks,
        })
    }

    /// Reports the links of `config`'s interfaces from now on, those that are new to it at once.
    pub(crate) fn reconfigure(&self, config: &Config) {
        self.wanted.set_interfaces(config);
        self.wanted.changed.notify_one();
    }

    /// The configuration's interfaces that exist, with their MACs, as they are and change.
    pub(crate) fn interfaces(&self) -> watch::Receiver<Vec<Iface>> {
        self.interfaces.clone()
    }

    /// What frames to the reported next hops look like on their way out. One of a next hop is there
    /// before its event.
    pub(crate) fn exits(&self) -> watch::Receiver<Vec<Exit>> {
        self.exits.clone()
    }

    /// This host's addresses.
    ///
    /// # Errors
    ///
    /// The kernel does not tell.
    pub(crate) async fn addresses(&self) -> Result<BTreeSet<IpAddr>, NetlinkError> {
        let all = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let list = self.kernel.list(all).await;
        let list = list.map_err(|source| NetlinkError::Read {
            what: "addresses",
            source,
        })?;
        let mut table = Table::default();
        list.iter().for_each(|message| table.apply(message));
        Ok(table.addresses())
    }

    /// Which addresses are on which interfaces.
    ///
    /// # Errors
    ///
    /// The kernel does not tell.
    pub(crate) fn placed(&self) -> Result<BTreeSet<(Name, IpAddr)>, NetlinkError> {
        address::placed().map_err(|source| NetlinkError::Read {
            what: "addresses",
            source,
        })
    }

    /// Puts one address on an interface. One that is there already stays.
    ///
    /// # Errors
    ///
    /// The kernel refuses, or there is no such interface.
    pub(crate) async fn put(&self, interface: &Name, net: IpNet) -> Result<(), NetlinkError> {
        address::put(&self.kernel, interface, net).await
    }

    /// Puts the addresses of `router` on its interface. Those that are there already stay.
    ///
    /// # Errors
    ///
    /// The first that the kernel refused; the others are there.
    pub(crate) async fn acquire(&self, router: &VirtualRouter) -> Result<(), NetlinkError> {
        address::acquire(&self.kernel, router).await
    }

    /// Takes the addresses of `router` off its interface. Those that are not there, or whose
    /// interface is gone, are no error.
    ///
    /// # Errors
    ///
    /// The first that the kernel refused; the others are gone.
    pub(crate) async fn release(&self, router: &VirtualRouter) -> Result<(), NetlinkError> {
        address::release(&self.kernel, router).await
    }

    /// Takes one address off an interface. That it is not there, or the interface is gone, is no
    /// error.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub(crate) async fn remove(&self, interface: &Name, net: IpNet) -> Result<(), NetlinkError> {
        address::release_one(&self.kernel, interface, net).await
    }

    /// Makes this host a backend of `vip` by direct server return: it takes packets for the address
    /// without telling the segment that it has it. See [`address::prepare`] for what that needs.
    ///
    /// An interface that is missing is passed over: its settings begin with it, so call this again
    /// when it is there.
    ///
    /// # Errors
    ///
    /// The kernel refuses the address or a setting.
    pub(crate) async fn prepare_backend(
        &self,
        vip: IpAddr,
        interfaces: &[Name],
    ) -> Result<(), NetlinkError> {
        // The settings come first: with the address there, the host would answer ARP for it.
        if vip.is_ipv4() {
            let present = interfaces
                .iter()
                .filter(|name| nix::net::if_::if_nametoindex(name.as_str()).is_ok());
            for (path, least) in present.flat_map(arp_settings) {
                let raised = sysctl::raise(&path, least);
                raised.map_err(|source| NetlinkError::Setting { vip, source })?;
            }
        }
        address::prepare(&self.kernel, vip).await
    }

    /// Ends what [`Self::prepare_backend`] began for `vip`, but for the settings, which other
    /// addresses may need.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub(crate) async fn unprepare(&self, vip: IpAddr) -> Result<(), NetlinkError> {
        address::unprepare(&self.kernel, vip).await
    }

    /// Keeps the next hop of `address` resolved and reports it as [`Event::NextHop`], at first and
    /// whenever it changes. For backends and peers alike.
    ///
    /// False if there are too many already: nothing is reported then.
    #[must_use]
    pub(crate) fn resolve(&self, address: IpAddr) -> bool {
        let accepted = self.wanted.lock().add(address);
        self.wanted.changed.notify_one();
        accepted
    }

    /// The next hop of `address` is no longer needed.
    pub(crate) fn forget(&self, address: IpAddr) {
        self.wanted.lock().addresses.remove(&address);
        self.wanted.changed.notify_one();
    }
}

/// What direct server return needs of an interface that the packets come in on.
///
/// `arp_ignore` 1: answer ARP only for addresses of the interface that is asked, so not for one on
/// the loopback interface. While this node is master the address is on the interface too, and is
/// answered for. `arp_announce` 2: never name an address of another interface as ARP's sender; else
/// the answer of a backend, sent from the virtual address, would make it ask for its gateway in the
/// virtual address's name and so take it from the master. The kernel uses the higher of this and
/// `conf/all`, so other interfaces keep their ways. IPv6 answers only for the asked interface by
/// itself.
///
/// `rp_filter` may stay: the packets come from clients, by the interface that leads back to them.
fn arp_settings(interface: &Name) -> [(PathBuf, i64); 2] {
    let setting = |name| format!("/proc/sys/net/ipv4/conf/{interface}/{name}").into();
    [(setting("arp_ignore"), 1), (setting("arp_announce"), 2)]
}

/// What the monitor is to report. Shared instead of sent, so that neither the driver nor the monitor
/// ever waits for the other with both channels full.
#[derive(Default)]
struct Wanted {
    lists: Mutex<Lists>,
    changed: Notify,
}

#[derive(Default)]
struct Lists {
    interfaces: BTreeSet<Name>,
    /// Those that carry the program.
    programs: BTreeSet<Name>,
    addresses: BTreeSet<IpAddr>,
    /// Whether it was said that there are too many.
    warned: bool,
}

impl Lists {
    /// Adds an address to resolve, unless there are too many.
    fn add(&mut self, address: IpAddr) -> bool {
        if self.addresses.len() < MOST_ADDRESSES {
            self.addresses.insert(address);
        }
        let accepted = self.addresses.contains(&address);
        if !accepted && !self.warned {
            self.warned = true;
            tracing::warn!(
                "{MOST_ADDRESSES} next hops are kept resolved, which is the most: {address} and others \
                 are not; use fewer backends, or find out who floods the segment with adverts"
            );
        }
        accepted
    }
}

impl Wanted {
    fn lock(&self) -> MutexGuard<'_, Lists> {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_interfaces(&self, config: &Config) {
        let routers = config
            .virtual_routers
            .iter()
            .map(|router| &router.interface);
        let programs = &config.dataplane.interfaces;
        let mut lists = self.lock();
        lists.interfaces = routers.chain(programs).cloned().collect();
        lists.programs = programs.iter().cloned().collect();
    }
}
