//! Carrying out what the core decided, and keeping the IO in step with it.

use std::collections::BTreeSet;

use steerd_core::{
    action::Action,
    config::Name,
    event::{BackendKey, Command, Event},
};
use tracing::{error, info, warn};

use super::{Driver, Next, now};
use crate::{
    io::{dataplane::Own, probe},
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
                if let Some(config) = self.config.virtual_router(&router)
                    && let Err(error) = self.netlink.acquire(config).await
                {
                    error!(%router, "{error}");
                }
            }
            Action::Release { router } => {
                if let Some(config) = self.config.virtual_router(&router)
                    && let Err(error) = self.netlink.release(config).await
                {
                    error!(%router, "{error}");
                }
            }
            Action::Announce { router } => {
                if let Err(error) = self.announcer.announce(&router) {
                    self.complain("announce", &error);
                }
            }
            Action::ProbeAddresses { router } => {
                if let Err(error) = self.announcer.probe_addresses(&router) {
                    self.complain("probe addresses", &error);
                }
            }
            Action::Resolve { address } => self.netlink.resolve(address),
            Action::Forget { address } => self.netlink.forget(address),
            Action::Steer(steering) => {
                if let Err(error) = self.plane.steer(&steering, now()) {
                    error!(service = %steering.service, "{error}");
                }
                self.steering.insert(steering.service.clone(), steering);
            }
            Action::Unsteer { service } => {
                self.steering.remove(&service);
                self.plane.unsteer(&service, now());
            }
            Action::Forwarders(macs) => {
                self.forwarders = macs;
                self.update_macs();
            }
            Action::Reconfigured => self.reconfigured().await,
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
        self.config = self.node.config().clone();
        let config = &self.config;
        if let Err(error) = self.peers.reconfigure(config) {
            error!("{error}");
        }
        if let Err(error) = self.announcer.reconfigure(config) {
            error!("{error}");
        }
        self.netlink.reconfigure(config);
        self.update_sources();
        self.update_served().await;
    }

    /// Makes this host a backend of the services that have one of its addresses among their
    /// backends, whoever is master: peers hand it their packets.
    pub(super) async fn update_served(&mut self) {
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
        let config = &self.config.dataplane;
        for &vip in served.difference(&self.served) {
            if let Err(error) = self.netlink.prepare_backend(vip, &config.interfaces).await {
                error!("{error}");
            }
        }
        for &vip in self.served.difference(&served) {
            if let Err(error) = self.netlink.unprepare(vip).await {
                error!("{error}");
            }
        }
        self.served = served;
    }

    /// An interface came, went or changed its MAC.
    pub(super) fn interfaces_changed(&mut self) {
        self.update_macs();
        // An interface that was removed and made again is another one to its sockets.
        let config = &self.config;
        if let Err(error) = self.peers.reconfigure(config) {
            warn!("{error}");
        }
        if let Err(error) = self.announcer.reconfigure(config) {
            warn!("{error}");
        }
        self.update_sources();
    }

    /// Tells the program which MACs are this host's and which are peers'.
    pub(super) fn update_macs(&mut self) {
        let own: Vec<Own> = self
            .interfaces
            .borrow_and_update()
            .iter()
            .map(|interface| Own {
                ifindex: interface.index,
                mac: interface.mac,
            })
            .collect();
        let own_changed = own != self.plane.own();
        if let Err(error) = self.plane.set_macs(own, self.forwarders.clone()) {
            self.complain("macs", &error);
        }
        if own_changed {
            // Backends' entries hold this host's MAC.
            for steering in self.steering.values() {
                if let Err(error) = self.plane.steer(steering, now()) {
                    error!(service = %steering.service, "{error}");
                }
            }
        }
    }

    /// Tells the core from which addresses adverts are sent.
    pub(super) fn update_sources(&mut self) {
        for router in &self.config.virtual_routers {
            let router = router.name.clone();
            let address = self.peers.source(&router);
            if self.sources.get(&router) != Some(&address) {
                self.sources.insert(router.clone(), address);
                self.node.handle(Event::Source { router, address }, now());
            }
        }
    }
}
