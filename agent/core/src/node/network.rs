//! What a node knows of its surroundings: links, its own addresses, next hops and peers' MACs.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::{
    action::Action,
    config::{Backend, Config, Mode, Name, Service},
    event::NextHop,
};

/// How a backend can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// It is this host.
    Local,
    /// Through this next hop.
    Via(NextHop),
    /// Not at all.
    Lost(Obstacle),
    /// Not known yet.
    Pending,
}

impl Reach {
    /// Whether packets can be sent to it.
    pub(super) fn is_open(self) -> bool {
        matches!(self, Self::Local | Self::Via(_))
    }
}

/// Why a backend cannot be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// There is no way to it, or nobody answers there.
    Silent,
    /// It is behind a router, and its mode sends frames to itself.
    Gateway,
    /// It is this host, whose own stack is not reached on another port.
    OtherPort,
}

/// The surroundings.
#[derive(Debug, Clone, Default)]
pub(super) struct Network {
    links: BTreeMap<Name, bool>,
    /// This host's addresses without virtual ones; none: not told yet.
    own: Option<BTreeSet<IpAddr>>,
    told: BTreeSet<IpAddr>,
    peers: BTreeSet<IpAddr>,
    /// What is resolved; inner none: asked, but not answered yet; then the answer.
    next_hops: BTreeMap<IpAddr, Option<Option<NextHop>>>,
    forwarders: Vec<[u8; 6]>,
}

impl Network {
    /// Whether the link can carry packets; none: not told yet.
    pub(super) fn link(&self, interface: &Name) -> Option<bool> {
        self.links.get(interface).copied()
    }

    /// The state before.
    pub(super) fn set_link(&mut self, interface: Name, up: bool) -> Option<bool> {
        self.links.insert(interface, up)
    }

    /// Whether `address` is this host's own and not virtual.
    pub(super) fn is_own(&self, address: IpAddr) -> bool {
        self.own.as_ref().is_some_and(|own| own.contains(&address))
    }

    /// Takes this host's addresses; whether that changes anything but virtual ones.
    pub(super) fn set_own(&mut self, told: BTreeSet<IpAddr>, config: &Config) -> bool {
        self.told = told;
        self.sort_own(Some(config))
    }

    /// Tells virtual addresses from own ones anew.
    pub(super) fn reconfigure(&mut self, config: &Config) {
        let told = self.own.is_some();
        self.sort_own(told.then_some(config));
    }

    fn sort_own(&mut self, config: Option<&Config>) -> bool {
        let Some(config) = config else { return false };
        let routers = config.virtual_routers.iter();
        let virtual_ones: BTreeSet<IpAddr> = routers
            .flat_map(|router| &router.addresses)
            .map(|net| net.addr())
            .collect();
        let own = Some(self.told.difference(&virtual_ones).copied().collect());
        let changed = own != self.own;
        self.own = own;
        changed
    }

    /// How `backend` of `service` is reached: the mode, where that is known, and the way.
    pub(super) fn reach(&self, service: &Service, backend: &Backend) -> (Mode, Reach) {
        let is_own = self.own.as_ref().map(|own| own.contains(&backend.address));
        let mode = match (backend.mode, is_own) {
            (Mode::Local | Mode::Dsr, _) => backend.mode,
            (Mode::Auto, None) => Mode::Auto,
            (Mode::Auto, Some(false)) => Mode::Dsr,
            (Mode::Tunnel | Mode::Nat, None) => return (backend.mode, Reach::Pending),
            (Mode::Tunnel | Mode::Nat, Some(false)) => backend.mode,
            (Mode::Tunnel | Mode::Nat, Some(true)) if backend.port != service.port => {
                return (backend.mode, Reach::Lost(Obstacle::OtherPort));
            }
            (Mode::Auto | Mode::Tunnel | Mode::Nat, Some(true)) => Mode::Local,
        };
        let reach = match mode {
            Mode::Local => Reach::Local,
            Mode::Auto => Reach::Pending,
            Mode::Dsr | Mode::Tunnel | Mode::Nat => match self.next_hops.get(&backend.address) {
                Some(Some(Some(hop))) if hop.gateway && mode == Mode::Dsr => {
                    Reach::Lost(Obstacle::Gateway)
                }
                Some(Some(Some(hop))) => Reach::Via(*hop),
                Some(Some(None)) => Reach::Lost(Obstacle::Silent),
                Some(None) | None => Reach::Pending,
            },
        };
        (mode, reach)
    }

    /// Whether packets for `backend` of `service` leave this host, so that its next hop is needed.
    fn is_remote(&self, service: &Service, backend: &Backend) -> bool {
        match self.reach(service, backend) {
            (Mode::Local | Mode::Auto, _) | (_, Reach::Lost(Obstacle::OtherPort)) => false,
            (Mode::Dsr, _) => true,
            (Mode::Tunnel | Mode::Nat, _) => self.own.is_some(),
        }
    }

    /// Takes the next hop of an address that is resolved; whether it is another one.
    pub(super) fn set_next_hop(&mut self, address: IpAddr, next_hop: Option<NextHop>) -> bool {
        match self.next_hops.get_mut(&address) {
            Some(known) if *known != Some(next_hop) => {
                *known = Some(next_hop);
                true
            }
            Some(_) | None => false,
        }
    }

    /// The peers that may forward.
    pub(super) fn peers(&self) -> &BTreeSet<IpAddr> {
        &self.peers
    }

    /// Whether `mac` is a known peer's.
    pub(super) fn is_peer_mac(&self, mac: [u8; 6]) -> bool {
        self.peer_macs().any(|known| known == mac)
    }

    /// The peers' MACs, where they changed since the last call.
    pub(super) fn forwarders(&mut self) -> Option<Vec<[u8; 6]>> {
        let macs: BTreeSet<[u8; 6]> = self.peer_macs().collect();
        let macs: Vec<[u8; 6]> = macs.into_iter().collect();
        (macs != self.forwarders).then(|| {
            self.forwarders.clone_from(&macs);
            macs
        })
    }

    /// Takes the peers; what to resolve and what no longer.
    pub(super) fn set_wanted(&mut self, config: &Config, peers: BTreeSet<IpAddr>) -> Vec<Action> {
        self.peers = peers;
        let backends = config.services.iter().flat_map(|service| {
            let backends = service.backends.iter();
            backends.filter(|backend| self.is_remote(service, backend))
        });
        let remote = backends.map(|backend| backend.address);
        let wanted: BTreeSet<IpAddr> = remote.chain(self.peers.iter().copied()).collect();
        let mut actions = Vec::new();
        self.next_hops.retain(|address, _| {
            let keep = wanted.contains(address);
            if !keep {
                actions.push(Action::Forget { address: *address });
            }
            keep
        });
        for address in wanted {
            self.next_hops.entry(address).or_insert_with(|| {
                actions.push(Action::Resolve { address });
                None
            });
        }
        actions
    }

    fn peer_macs(&self) -> impl Iterator<Item = [u8; 6]> {
        let next_hops = self
            .peers
            .iter()
            .map(|peer| self.next_hops.get(peer).copied());
        // A gateway's MAC is no peer's.
        let direct = next_hops.filter_map(|known| known.flatten().flatten());
        direct.filter(|hop| !hop.gateway).map(|hop| hop.mac)
    }
}
