//! What the program knows of this host as a whole: its MACs and interfaces, the addresses that are
//! not services, and how packets are wrapped and translated.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    time::Duration,
};

use aya::{
    Ebpf,
    maps::{DevMapHash, MapData, MapError},
};
use steerd_core::config::{FlowTimeouts, Nat, Tunnel};
use steerd_ebpf::{
    abi::{
        Control, MAC_SLOTS, MAX_DEVICES, MAX_SERVICES, MacOwner, Role, SERVICE_SLOTS, Service,
        mac_word, maps,
    },
    place::{self, ServiceKey},
    scan,
};

use super::{
    Dataplane,
    entries::{missing, write},
    error::DataplaneError,
    view, words,
};

/// An interface of this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Own {
    pub(crate) ifindex: u32,
    pub(crate) mac: [u8; 6],
}

/// What frames to next hops look like on their way out: the MAC that they come from, by interface and
/// VLAN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exit {
    pub(crate) ifindex: u32,
    /// 802.1Q id; 0: untagged.
    pub(crate) vlan: u16,
    pub(crate) mac: [u8; 6],
}

/// How long after its second packet one more says that a connection lasts. Flooding the table with
/// flows that count as such takes three packets each and this time between them.
const CONFIRM: Duration = Duration::from_secs(10);

impl Dataplane {
    /// Takes the section `[flows]`, and what else is told in the flow clock's units. At the start before
    /// anything is steered.
    pub(crate) fn set_flow_idle(&self, flows: &FlowTimeouts) {
        let unit = view::read_clock().unit();
        let confirm = scan::age(CONFIRM, unit);
        self.maps.set_control(Control::CONFIRM, &[confirm.into()]);
        let idle = words::flow_idle(flows, unit);
        self.maps.set_control(Control::FLOW_IDLE, &idle.words());
        let lifetimes = words::fragment_lifetimes(unit);
        self.maps
            .set_control(Control::FRAGMENT_LIFETIMES, &[lifetimes.pack()]);
    }

    /// Takes the sections `[tunnel]` and `[nat]`. At the start before anything is steered, as what is
    /// steered may need it.
    ///
    /// Translations stay as long as their address and their port do.
    pub(crate) fn configure(&mut self, tunnel: &Tunnel, nat: &Nat) -> Result<(), DataplaneError> {
        let maps = &self.maps;
        maps.set_control(Control::GUE_PORT, &[u64::from(tunnel.gue_port.to_be())]);
        maps.set_control(Control::TUNNEL4, &[words::tunnel4(tunnel.source4)]);
        maps.set_control(Control::TUNNEL6, &words::tunnel6(tunnel.source6));
        let timeouts = words::nat_timeouts(&nat.timeouts, view::read_clock().unit());
        maps.set_control(Control::NAT_TIMEOUTS, &timeouts.pack());

        let (pool, addresses) = self.prepare_translation(nat);

        let mut roles: BTreeMap<[u64; 2], u32> = BTreeMap::new();
        for &endpoint in &tunnel.endpoints {
            *roles.entry(words::address(endpoint)).or_default() |= Role::ENDPOINT;
        }
        for number in pool.in_use() {
            let address = addresses[usize::from(number)];
            *roles.entry(address).or_default() |= Role::nat_bits(number.into());
        }
        // The answers to a translated packet must be known for that before there is one.
        if self.roles.as_ref() != Some(&roles) {
            self.roles = Some(roles);
            self.place_services()?;
        }
        self.maps.set_control(Control::NAT_POOL, &[pool.pack()]);
        Ok(())
    }

    /// Places services and addresses anew, in the table that is not in use, and makes it the one that
    /// is.
    pub(super) fn place_services(&mut self) -> Result<(), DataplaneError> {
        let mut entries: BTreeMap<ServiceKey, Service> = BTreeMap::new();
        let in_use = self.maps.services_in_use();
        if self.complete {
            let cursors: BTreeMap<ServiceKey, u64> = in_use
                .map(|service| ((service.addr, service.port_proto), service.cursor.load()))
                .collect();
            // By key: of two names for one key the later one counts, until a failed change is mended.
            for steered in self.steered.values() {
                let cursor = cursors.get(&steered.key).copied().unwrap_or(0);
                entries.insert(steered.key, steered.service(cursor));
            }
        } else {
            // What the last daemon steered holds until each service was steered once.
            entries.extend(in_use.map(|service| ((service.addr, service.port_proto), service)));
        }
        let mut roles = self.roles.clone().unwrap_or_default();
        for &(addr, _) in entries.keys() {
            *roles.entry(addr).or_default() |= Role::VIRTUAL;
        }
        for (&addr, &number) in &self.fences.addresses {
            *roles.entry(addr).or_default() |= Role::router_bits(number);
        }
        for (addr, id) in roles {
            let address = Service {
                addr,
                port_proto: Service::ADDRESS,
                id,
                ..Service::default()
            };
            entries.insert((addr, Service::ADDRESS), address);
        }
        let keys: Vec<ServiceKey> = entries.keys().copied().collect();
        let (seed, slots) = place::services(&keys).ok_or(DataplaneError::Full {
            what: "another service",
            limit: MAX_SERVICES - 1,
        })?;
        let base = self.maps.spare(Control::SERVICES, SERVICE_SLOTS);
        for slot in base..base + SERVICE_SLOTS {
            if let Some(port_proto_id) = self.maps.services.element(slot).get(2) {
                port_proto_id.store(0);
            }
        }
        for (entry, slot) in entries.values().zip(slots) {
            write(self.maps.services.element(base + slot), entry.words());
        }
        // Some have no entry: what comes to them may concern others that do.
        let listens = self.fences.listens.iter();
        let listens = listens.map(|&addr| (addr, Service::ADDRESS));
        let filtered: Vec<ServiceKey> = keys.into_iter().chain(listens).collect();
        let filter = place::filter(&filtered, seed);
        // Around the switch both tables' addresses must pass.
        self.maps.filter(|word, before| before | filter[word]);
        self.maps.switch(Control::SERVICES, base, seed);
        self.maps.filter(|word, _| filter[word]);
        Ok(())
    }

    /// Tells the program whose frames are for this host and whose were steered already.
    pub(crate) fn set_macs(
        &mut self,
        own: Vec<Own>,
        forwarders: Vec<[u8; 6]>,
    ) -> Result<(), DataplaneError> {
        if own == self.own && forwarders == self.forwarders {
            return Ok(());
        }
        // The ports of a bond have the same one.
        let distinct: BTreeSet<[u8; 6]> = own.iter().map(|own| own.mac).collect();
        let mut macs: Vec<(u64, MacOwner)> = distinct
            .iter()
            .map(|&mac| (mac_word(mac), MacOwner::Own))
            .collect();
        macs.extend(
            forwarders
                .iter()
                .filter(|mac| own.iter().all(|own| own.mac != **mac))
                .map(|&mac| (mac_word(mac), MacOwner::Forwarder)),
        );
        let (seed, table) = place::macs(&macs).ok_or(DataplaneError::Full {
            what: "another peer",
            limit: MAC_SLOTS / 16,
        })?;
        let base = self.maps.spare(Control::MACS, MAC_SLOTS);
        for (slot, entry) in (base..).zip(table) {
            if let [word] = self.maps.macs.element(slot) {
                word.store(entry);
            }
        }
        self.maps.switch(Control::MACS, base, seed);
        self.own = own;
        self.forwarders = forwarders;
        // The kernel struck out those that went; one that was made again has another number.
        self.litter = true;
        for own in &self.own {
            self.devices.add(own.ifindex)?;
        }
        Ok(())
    }

    /// Takes what frames to next hops look like. What is steered has to be steered again.
    pub(crate) fn set_exits(&mut self, exits: Vec<Exit>) {
        self.exits = exits;
    }

    /// What frames to next hops look like, as far as is known.
    pub(crate) fn exits(&self) -> &[Exit] {
        &self.exits
    }

    /// The MAC that frames to a next hop come from.
    pub(super) fn source_mac(&self, ifindex: u32, vlan: u16) -> Option<u64> {
        let exits = self.exits.iter();
        let mut exit = exits.filter(|exit| (exit.ifindex, exit.vlan) == (ifindex, vlan));
        let own = || self.own.iter().find(|own| own.ifindex == ifindex);
        let mac = exit
            .next()
            .map(|exit| exit.mac)
            .or_else(|| own().map(|own| own.mac));
        mac.map(mac_word)
    }

    /// The peers' MACs that the program knows.
    pub(crate) fn forwarders(&self) -> &[[u8; 6]] {
        &self.forwarders
    }

    /// The interfaces' MACs that the program knows.
    pub(crate) fn own(&self) -> &[Own] {
        &self.own
    }
}

/// The interfaces that packets may leave through. The kernel takes one out when it goes.
pub(super) struct Devices {
    map: DevMapHash<MapData>,
}

impl Devices {
    /// The object's.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, DataplaneError> {
        let map = ebpf
            .take_map(maps::DEVICES)
            .ok_or_else(|| missing(maps::DEVICES))?;
        let map = map.try_into().map_err(failed)?;
        Ok(Self { map })
    }

    /// Packets may leave through this one.
    pub(super) fn add(&mut self, ifindex: u32) -> Result<(), DataplaneError> {
        if self
            .map
            .get(ifindex, 0)
            .is_ok_and(|value| value.if_index == ifindex)
        {
            return Ok(());
        }
        match self.map.insert(ifindex, ifindex, None, 0) {
            Ok(()) => Ok(()),
            Err(error) => {
                let text = error.to_string();
                let errno = match error {
                    aya::maps::xdp::XdpMapError::MapError(MapError::SyscallError(error)) => {
                        error.io_error.raw_os_error()
                    }
                    _ => None,
                };
                match errno {
                    // It went meanwhile, and with it the next hops through it.
                    Some(libc::EINVAL | libc::ENODEV) => Ok(()),
                    Some(libc::E2BIG | libc::ENOSPC) => Err(DataplaneError::Full {
                        what: "another interface",
                        limit: MAX_DEVICES,
                    }),
                    _ => Err(failed(text)),
                }
            }
        }
    }

    /// Packets leave through no other than these.
    pub(super) fn keep(&mut self, wanted: &BTreeSet<u32>) -> Result<(), DataplaneError> {
        let known: Vec<u32> = self.map.keys().flatten().collect();
        for ifindex in known
            .into_iter()
            .filter(|ifindex| !wanted.contains(ifindex))
        {
            match self.map.remove(ifindex) {
                // The kernel was faster.
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(())
    }
}

fn failed(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> DataplaneError {
    DataplaneError::Map {
        map: maps::DEVICES,
        source: io::Error::other(error),
    }
}
