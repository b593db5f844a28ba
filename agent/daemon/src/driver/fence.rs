//! Tells the program what to fence this host off from when the daemon is dead, and people what it has
//! fenced.

use std::{net::IpAddr, time::Duration};

use steerd_core::{
    action::Notice,
    api::{FencedStatus, VirtualRouterStatus},
    config::VirtualRouter,
    time::Instant,
};

use super::{Driver, now};
use crate::io::dataplane::Watched;

impl Driver {
    /// Tells the program which virtual routers there are.
    pub(super) fn update_fences(&mut self) {
        let routers = self.config.virtual_routers.iter();
        let watched: Vec<Watched<'_>> = routers
            .map(|router| watched(router, self.sources.get(&router.name).copied().flatten()))
            .collect();
        if let Err(error) = self.plane.watch(&watched) {
            let error: &dyn std::error::Error = &error;
            tracing::error!("{error}");
        }
    }

    /// Tells of what the program fenced while there was no daemon.
    pub(super) fn note_fences(&mut self) {
        let now = now();
        for (router, fenced) in self.plane.newly_fenced(now) {
            self.note(&Notice::Fenced {
                router,
                mac: fenced.mac,
                since: Duration::from_millis(millis(now, fenced.since)),
                by: fenced.claim.name(),
            });
        }
    }

    /// Says which virtual routers are fenced.
    pub(super) fn show_fences(&self, routers: &mut [VirtualRouterStatus], now: Instant) {
        for (name, fenced) in self.plane.fenced() {
            if let Some(router) = routers.iter_mut().find(|router| router.name == *name) {
                let mac = fenced.mac.map(|byte| format!("{byte:02x}"));
                router.fenced = Some(FencedStatus {
                    since_ms: millis(now, fenced.since),
                    mac: mac.join(":"),
                    by: fenced.claim.name().to_owned(),
                });
            }
        }
    }
}

/// What the program is told of a virtual router, whose adverts come from `source`.
pub(super) fn watched(router: &VirtualRouter, source: Option<IpAddr>) -> Watched<'_> {
    Watched {
        router,
        ifindex: nix::net::if_::if_nametoindex(router.interface.as_str()).unwrap_or(0),
        source,
    }
}

fn millis(now: Instant, then: Instant) -> u64 {
    u64::try_from(now.since(then).as_millis()).unwrap_or(u64::MAX)
}
