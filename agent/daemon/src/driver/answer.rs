//! Answering the control socket.

use steerd_core::api::{DroppedAdverts, InterfaceStatus, Reloaded, Status};

use super::{Driver, now};
use crate::io::control::Request;

impl Driver {
    pub(super) fn answer(&mut self, request: Request) {
        // Who no longer waits for the answer does not get it.
        match request {
            // Millions of entries are not for this thread, which adverts wait for.
            Request::Status(reply) => {
                let (mut status, view) = (self.status(), self.plane.view());
                self.workers.spawn_blocking(move || {
                    view.count(&mut status);
                    drop(reply.send(status));
                });
            }
            Request::Flows { query, reply } => {
                let view = self.plane.view();
                self.workers
                    .spawn_blocking(move || reply.send(view.flows(&query)));
            }
            Request::Maps(reply) => {
                let view = self.plane.view();
                self.workers
                    .spawn_blocking(move || reply.send(Ok(view.map_list())));
            }
            Request::MapDump { name, from, reply } => {
                let view = self.plane.view();
                self.workers
                    .spawn_blocking(move || reply.send(view.map_dump(&name, from)));
            }
            Request::Reload { dry_run, reply } => {
                let outcome = self.reload(dry_run).map(|changes| Reloaded { changes });
                drop(reply.send(outcome));
            }
            Request::Failover { router, reply } => {
                let outcome = self.node.failover(router.as_ref(), now());
                drop(reply.send(outcome.map_err(|error| error.to_string())));
            }
        }
    }

    /// All but what takes a look at the flow tables.
    fn status(&self) -> Status {
        let now = now();
        let (virtual_routers, mut services) = self.node.status(now);
        for service in &mut services {
            let counter = self.plane.service_counter(&service.name);
            (service.packets, service.bytes) = (counter.packets, counter.bytes);
            for backend in &mut service.backends {
                let counter = self.plane.backend_counter(&service.name, &backend.name);
                (backend.packets, backend.bytes) = (counter.packets, counter.bytes);
            }
        }
        let config = &self.config;
        let interfaces = self.interfaces.borrow();
        let interfaces = config
            .dataplane
            .interfaces
            .iter()
            .map(|name| InterfaceStatus {
                name: name.clone(),
                up: interfaces
                    .iter()
                    .any(|interface| interface.name == *name && interface.up),
                xdp_mode: self.plane.mode(name).unwrap_or(config.dataplane.xdp_mode),
            });
        let dropped = self
            .peers
            .drops()
            .into_iter()
            .filter(|(_, packets)| *packets != 0);
        let dropped = dropped.map(|(cause, packets)| DroppedAdverts {
            cause: cause.to_string(),
            packets,
        });
        Status {
            node: config.node.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_s: now.since(self.started).as_secs(),
            config: self.config_path.display().to_string(),
            interfaces: interfaces.collect(),
            virtual_routers,
            tracks: self.node.track_status(now),
            services,
            verdicts: self.plane.verdicts(),
            events: self.plane.events(),
            tables: Vec::new(),
            dropped_adverts: dropped.collect(),
            recent: self.history.iter().cloned().collect(),
        }
    }
}
