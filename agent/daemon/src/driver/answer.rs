//! Answering the control socket.

use std::time::Duration;

use steerd_core::{
    api::{ChannelPeerStatus, ChannelStatus, DroppedAdverts, InterfaceStatus, Reloaded, Status},
    time::Instant,
};

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
        let (mut virtual_routers, mut services) = self.node.status(now);
        self.show_fences(&mut virtual_routers, now);
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
            faults: self.faults.values().flatten().cloned().collect(),
            recent: self.history.iter().cloned().collect(),
            channel: self.channel_status(now),
        }
    }

    fn channel_status(&self, now: Instant) -> Option<ChannelStatus> {
        let channel = self.config.channel.as_ref()?;
        let (expires, mut warnings) = self.channel.health()?;
        warnings.extend(self.faults.get("channel").into_iter().flatten().cloned());
        let peers = channel.peers.iter().filter_map(|peer| {
            let report = self.node.peer_report(&peer.name, now)?;
            let line = self.channel.line(&peer.name);
            let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
            let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
            Some(ChannelPeerStatus {
                name: peer.name.clone(),
                address: peer.address,
                up: report.up,
                since_ms: millis(now.since(report.since)),
                error: line.error.filter(|_| !report.up),
                version: report.version,
                round_trip_us: report.round_trip.map(micros),
                last_sign_ms: report.heard.map(millis),
                config: report.config,
                certificate_expires_unix_s: line.expires,
                roles: report.roles,
                views: report.views,
            })
        });
        Some(ChannelStatus {
            listen: channel.listen,
            certificate_expires_unix_s: expires,
            warnings,
            refused: self.channel.refused(),
            peers: peers.collect(),
        })
    }
}
