//! Carrying out what the core decided, and keeping the IO in step with it.

use std::{collections::BTreeSet, net::IpAddr};

use steerd_core::{
    action::Action,
    config::{Config, Name},
    event::{BackendKey, Command, Event},
};
use tokio::task::JoinHandle;
use tracing::{error, info};

use super::{Driver, Next, nat, now};
use crate::{
    io::{channel::Identity, dataplane::Own, netlink::Iface, probe},
    read_config,
};

impl Driver {
    pub(super) async fn perform(&mut self, action: Action) -> Next {
        match action {
            Action::RunProbe { backend, probe } => self.run_probe(backend, &probe),
            Action::SendAdvert { router, advert } => {
                if let Err(error) = self.peers.send(&router, &advert) {
                    self.complain("advert", &error);
                }
            }
            Action::Acquire { router } => {
                self.plane.hold(&router, true);
                if let Some(config) = self.config.virtual_router(&router).cloned() {
                    if let Err(error) = self.state.acquiring(&config) {
                        self.complain("state", &error);
                    }
                    if let Err(error) = self.netlink.acquire(&config).await {
                        error!(%router, "{error}");
                    }
                }
            }
            Action::Release { router } => {
                if let Some(config) = self.config.virtual_router(&router).cloned() {
                    match self.netlink.release(&config).await {
                        Ok(()) => {
                            self.plane.hold(&router, false);
                            let (interface, nets) = (&config.interface, &config.addresses);
                            if let Err(error) = self.state.released(interface, nets) {
                                self.complain("state", &error);
                            }
                        }
                        Err(error) => error!(%router, "{error}"),
                    }
                }
            }
            Action::Announce { router } => {
                // By right, as the election has decided.
                self.plane.lift(&router);
                if let Err(error) = self.announcer.announce(&router) {
                    self.complain("announce", &error);
                }
            }
            Action::ProbeAddresses { router } => {
                if let Err(error) = self.announcer.probe_addresses(&router) {
                    self.complain("probe addresses", &error);
                }
            }
            Action::Resolve { address } => {
                if !self.netlink.resolve(address) {
                    // Nobody must wait for an answer that does not come.
                    let next_hop = None;
                    self.node
                        .handle(Event::NextHop { address, next_hop }, now());
                }
            }
            Action::Forget { address } => self.netlink.forget(address),
            Action::Steer(steering) => self.steer(steering),
            Action::Unsteer { service } => self.unsteer(&service),
            Action::Forwarders(macs) => {
                self.forwarders = macs;
                self.update_macs();
            }
            Action::RunTrack { track, ticket } => {
                let config = &self.config;
                if let Some(track) = config.tracks.iter().find(|one| one.name == track) {
                    let routers = config.virtual_routers.iter();
                    let nets = routers.flat_map(|router| &router.addresses);
                    self.tracks
                        .run(track, ticket, || nets.map(|net| net.addr()).collect());
                }
            }
            Action::StopTrack { track } => self.tracks.stop(&track),
            Action::Reconfigured => self.reconfigured().await,
            Action::Say { peer, message } => self.channel.send(&peer, &message),
            Action::Notice(notice) => self.note(&notice),
            Action::Exit => return Next::Stop,
        }
        Next::Continue
    }

    pub(super) fn run_probe(&self, key: BackendKey, name: &Name) {
        let Some(service) = self.config.service(&key.service) else {
            return;
        };
        let backend = service
            .backends
            .iter()
            .find(|backend| backend.name == key.backend);
        let probe = service.probes.iter().find(|probe| probe.name == *name);
        let (Some(backend), Some(probe)) = (backend, probe) else {
            return;
        };
        let (probe, address) = (probe.clone(), backend.address);
        let port = probe.port.unwrap_or(backend.port);
        let sender = self.sender.clone();
        self.workers.spawn(async move {
            let (outcome, took) = probe::run(&probe, address, port).await;
            let event = Event::Probe {
                backend: key,
                probe: probe.name,
                outcome,
                took,
            };
            // The driver is gone: nobody wants to know.
            let _ = sender.send(event).await;
        });
    }

    /// Reads the configuration again; what changed, or the mistakes in words.
    pub(super) fn reload(&mut self, dry_run: bool) -> Result<Vec<String>, String> {
        let config = read_config(&self.config_path)?;
        check_interfaces(&config)?;
        nat::check(&config, &self.addresses, &self.state)
            .map_err(|error| format!("{error}\nnothing was changed"))?;
        if let Some(channel) = &config.channel {
            Identity::load(channel, &self.config.node.name)
                .map_err(|error| format!("{error}\nnothing was changed"))?;
        }
        let changes = self.node.plan(&config).changes();
        if !dry_run {
            for change in &changes {
                info!("reload: {change}");
            }
            info!(
                changes = changes.len(),
                "reloaded {}",
                self.config_path.display()
            );
            self.node
                .handle(Event::Command(Command::Reload(Box::new(config))), now());
        }
        Ok(changes)
    }

    /// The core works by a new configuration: the IO follows.
    pub(super) async fn reconfigured(&mut self) {
        let before = std::mem::replace(&mut self.config, self.node.config().clone());
        // Before anything is steered by it.
        self.plane.set_flow_idle(&self.config.flows);
        if let Err(error) = self.plane.configure(&self.config.tunnel, &self.config.nat) {
            error!("{error}");
        }
        self.update_fences();
        self.drop_translation(&before).await;
        self.update_own().await;
        self.listen();
        self.connect();
        self.netlink.reconfigure(&self.config);
        self.links.keep(&self.config);
        self.update_sources();
        self.update_served().await;
    }

    /// Makes this host a backend of the services that have one of its addresses among their
    /// backends, whoever is master: peers hand it their packets.
    pub(super) async fn update_served(&mut self) {
        if self.addresses.is_empty() || !self.steers {
            // Netlink has not said yet, or the kernel may still refuse the program.
            return;
        }
        let mut served = BTreeSet::new();
        for service in &self.config.services {
            if service
                .backends
                .iter()
                .any(|backend| self.addresses.contains(&backend.address))
            {
                served.insert(service.address);
            }
        }
        let known: BTreeSet<IpAddr> = self.served.keys().copied().collect();
        if let Err(error) = self
            .state
            .set_served(known.union(&served).copied().collect())
        {
            self.complain("state", &error);
        }
        let mut faults = BTreeSet::new();
        for &vip in &served {
            let prepared = self.served.entry(vip).or_insert(false);
            if *prepared {
                continue;
            }
            let interfaces = &self.config.dataplane.interfaces;
            match self.netlink.prepare_backend(vip, interfaces).await {
                Ok(()) => *prepared = true,
                Err(error) => drop(faults.insert(error.to_string())),
            }
        }
        for vip in known.difference(&served) {
            match self.netlink.unprepare(*vip).await {
                Ok(()) => drop(self.served.remove(vip)),
                Err(error) => {
                    self.served.insert(*vip, false);
                    faults.insert(error.to_string());
                }
            }
        }
        self.set_faults("served", faults);
        let now_known = self.served.keys().copied().collect();
        if let Err(error) = self.state.set_served(now_known) {
            self.complain("state", &error);
        }
    }

    /// An interface came, went, changed its MAC, or is up or down.
    pub(super) async fn interfaces_changed(&mut self) {
        self.update_macs();
        // One that was removed and made again is another one: to the program, to the settings for
        // direct server return and to its sockets.
        let interfaces = self.interfaces.borrow().clone();
        if !self.links.bare(&interfaces).is_empty() {
            // First, as the host would answer ARP for what it serves as a backend.
            for prepared in self.served.values_mut() {
                *prepared = false;
            }
            self.update_served().await;
        }
        self.attach(&interfaces);
        self.set_faults(
            "ports",
            ports(&interfaces).map(|fault| fault.to_string()).collect(),
        );
        self.listen();
        self.update_sources();
        // What is translated may be answered through it.
        self.update_own().await;
        self.update_fences();
        for event in self.links.news(&interfaces) {
            self.node.handle(event, now());
        }
    }

    /// Tries again what failed.
    pub(super) async fn retry(&mut self) {
        let bare = !self.links.bare(&self.interfaces.borrow()).is_empty();
        let failed = |kind| {
            self.faults
                .get(kind)
                .is_some_and(|faults| !faults.is_empty())
        };
        let (deaf, unserved, untranslated) = (failed("listen"), failed("served"), failed("nat"));
        if failed("channel") {
            self.connect();
        }
        if bare || deaf {
            self.interfaces_changed().await;
        }
        if unserved {
            self.update_served().await;
        }
        if untranslated {
            self.update_own().await;
        }
        self.retry_steering();
        self.correct_loads();
    }

    /// Has the worker count the connections that services go by, unless it still does.
    fn correct_loads(&mut self) {
        if self.plane.counts_connections()
            && self.counting.as_ref().is_none_or(JoinHandle::is_finished)
        {
            let view = self.plane.view();
            self.counting = Some(self.workers.spawn_blocking(move || view.correct_loads()));
        }
    }

    /// Has the worker remove the flows of clients that are denied now.
    pub(super) fn purge(&mut self) {
        if let Some(purge) = self.plane.take_purge() {
            let view = self.plane.view();
            self.workers.spawn_blocking(move || view.purge(&purge));
        }
    }

    /// Frames to next hops come from other MACs than before, or there are other next hops.
    pub(super) fn update_exits(&mut self) {
        let exits = self.exits.borrow_and_update().clone();
        if exits != self.plane.exits() {
            self.plane.set_exits(exits);
            self.steer_again();
        }
    }

    /// Puts the program where it is missing. `interfaces` are from before: one that changes meanwhile
    /// is seen to be without it afterwards.
    fn attach(&mut self, interfaces: &[Iface]) {
        // It is attached to all of them when it is loaded.
        if !self.plane.is_loaded() {
            return;
        }
        let bare = self.links.bare(interfaces);
        let mut faults = BTreeSet::new();
        let attached = match bare.is_empty() {
            true => Ok(()),
            false => self.plane.attach(),
        };
        match attached {
            Ok(()) => self.links.set_attached(interfaces),
            Err(error) => {
                let names: Vec<&str> = bare.iter().map(Name::as_str).collect();
                faults.insert(format!(
                    "{error}; until then this node works as if the link of {} were down",
                    names.join(", ")
                ));
            }
        }
        self.set_faults("attach", faults);
    }

    /// Works on the channel by the configuration, and by the certificates as they are now.
    fn connect(&mut self) {
        let connected = self.channel.configure(&self.config);
        let faults = connected.err().map(|error| error.to_string());
        self.set_faults("channel", faults.into_iter().collect());
    }

    /// Opens the sockets of virtual routers that are missing.
    fn listen(&mut self) {
        let peers = self.peers.reconfigure(&self.config).into_iter();
        let mut faults: BTreeSet<String> = peers.map(|error| error.to_string()).collect();
        let announcer = self.announcer.reconfigure(&self.config).into_iter();
        faults.extend(announcer.map(|error| error.to_string()));
        self.set_faults("listen", faults);
    }

    /// Tells the program which MACs are this host's and which are peers'.
    pub(super) fn update_macs(&mut self) {
        let own: Vec<Own> = {
            let interfaces = self.interfaces.borrow_and_update();
            let own = |interface: &Iface, mac| Own {
                ifindex: interface.index,
                mac,
            };
            let themselves = interfaces.iter().map(|one| own(one, one.mac));
            let tagged = interfaces
                .iter()
                .flat_map(|one| one.vlans.values().map(move |&mac| own(one, mac)));
            // A frame for a bond comes in by a port of it, which answers leave through again.
            let ports = interfaces.iter().flat_map(|one| {
                let port = |&ifindex| Own {
                    ifindex,
                    mac: one.mac,
                };
                one.ports.iter().map(port)
            });
            themselves
                .chain(ports)
                .chain(tagged.filter(|tagged| interfaces.iter().all(|one| one.mac != tagged.mac)))
                .collect()
        };
        let own_changed = own != self.plane.own();
        if let Err(error) = self.plane.set_macs(own, self.forwarders.clone()) {
            self.complain("macs", &error);
        }
        if own_changed {
            self.steer_again();
        }
    }

    /// Tells the core from which addresses adverts are sent.
    pub(super) fn update_sources(&mut self) {
        let mut changed = false;
        for router in &self.config.virtual_routers {
            let router = router.name.clone();
            let address = self.peers.source(&router);
            if self.sources.get(&router) != Some(&address) {
                changed = true;
                self.sources.insert(router.clone(), address);
                self.node.handle(Event::Source { router, address }, now());
            }
        }
        if changed {
            self.update_fences();
        }
    }
}

/// Interfaces that are ports of others: what comes in by them is the other's, and so are the routes.
pub(super) fn ports(interfaces: &[Iface]) -> impl Iterator<Item = PortError> {
    interfaces.iter().filter_map(|interface| {
        let upper = interface.upper.as_ref()?;
        Some(PortError {
            port: interface.name.clone(),
            upper: upper.name.clone(),
            kind: upper.kind.clone(),
        })
    })
}

/// An interface that is a port of another one.
#[derive(Debug, thiserror::Error)]
#[error(
    "{port} is a port of the {kind} {upper}, which has the addresses and routes: name {upper} in its place \
     under `interfaces` of [dataplane] and as `interface` of virtual routers"
)]
pub(crate) struct PortError {
    port: Name,
    upper: String,
    kind: String,
}

/// That the interfaces of all virtual routers exist: the sockets of one without could not be opened,
/// and it would neither hear nor announce anything.
fn check_interfaces(config: &Config) -> Result<(), String> {
    let missing: Vec<String> = config
        .virtual_routers
        .iter()
        .filter(|router| nix::net::if_::if_nametoindex(router.interface.as_str()).is_err())
        .map(|router| {
            let (name, interface) = (&router.name, &router.interface);
            format!(
                "virtual router {name}: there is no interface {interface}; correct `interface` or \
                 create it"
            )
        })
        .collect();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(format!("{}\nnothing was changed", missing.join("\n")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::lab;

    #[test]
    fn every_missing_interface_is_named() {
        let mut config = lab::config("lo", &["10.9.0.100/24"], &[]);
        assert_eq!(check_interfaces(&config), Ok(()));
        let other = |name, interface| {
            let mut router = lab::config(interface, &["10.9.0.101/24"], &[]);
            router.virtual_routers[0].name = Name::new(name);
            router.virtual_routers.remove(0)
        };
        config.virtual_routers.push(other("game", "nosuch0"));
        config.virtual_routers.push(other("login", "nosuch1"));
        let refusal = check_interfaces(&config).unwrap_err();
        for word in ["game", "nosuch0", "login", "nosuch1", "nothing was changed"] {
            assert!(refusal.contains(word), "{refusal}");
        }
    }
}
