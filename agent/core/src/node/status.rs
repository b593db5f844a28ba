//! What the control socket tells of a node.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use super::{
    Node,
    network::{Obstacle, Reach},
    steering::ServiceState,
};
use crate::{
    api::{BackendState, BackendStatus, PeerStatus, ServiceStatus, VirtualRouterStatus},
    config::{Backend, Mode, Service, VirtualRouter},
    event::BackendKey,
    time::Instant,
    vrrp::election::{Election, Role},
};

impl Node {
    /// The virtual routers and services. Packets and bytes are zero, and none is fenced: the daemon
    /// knows the program.
    #[must_use]
    pub fn status(&self, now: Instant) -> (Vec<VirtualRouterStatus>, Vec<ServiceStatus>) {
        let routers = self.config.virtual_routers.iter().filter_map(|router| {
            let mut elections = self.routers.values();
            elections.find_map(|election| self.router_status(router, election, now))
        });
        let services = self
            .config
            .services
            .iter()
            .map(|service| self.service_status(service, now));
        (routers.collect(), services.collect())
    }

    fn service_status(&self, service: &Service, now: Instant) -> ServiceStatus {
        let state = self.services.get(&service.name);
        let target = state.map(ServiceState::target).unwrap_or_default();
        let backends = service.backends.iter();
        ServiceStatus {
            name: service.name.clone(),
            address: service.address,
            port: service.port,
            protocol: service.protocol,
            virtual_router: service.virtual_router.clone(),
            scheduler: service.policy.scheduler,
            active_tier: target.tier(),
            panic: target.is_panic(),
            packets: 0,
            bytes: 0,
            backends: backends
                .filter_map(|backend| self.backend_status(service, backend, state, now))
                .collect(),
        }
    }

    fn backend_status(
        &self,
        service: &Service,
        backend: &Backend,
        state: Option<&ServiceState>,
        now: Instant,
    ) -> Option<BackendStatus> {
        let report = self.health.report(&BackendKey::of(service, backend))?;
        let (mode, reach) = self.network.reach(service, backend);
        let healthy = matches!(report.state, BackendState::Up | BackendState::Failing);
        let (health, reason) = match unreachable(service, backend, mode, reach) {
            Some(reason) if healthy => (BackendState::Unreachable, reason),
            Some(_) | None => (report.state, report.reason),
        };
        Some(BackendStatus {
            name: backend.name.clone(),
            address: backend.address,
            port: backend.port,
            weight: backend.weight,
            slow_start_percent: state.and_then(|state| state.percent(service, backend, now)),
            tier: backend.tier,
            sorry: backend.sorry,
            mode,
            state: health,
            reason,
            since_ms: millis(now.since(report.since)),
            in_use: state.is_some_and(|state| state.uses(backend)),
            latency_us: report.latency.map(micros),
            connections: None,
            packets: 0,
            bytes: 0,
        })
    }

    /// What is to be told of a virtual router, if it takes part in this election.
    fn router_status(
        &self,
        router: &VirtualRouter,
        election: &Election,
        now: Instant,
    ) -> Option<VirtualRouterStatus> {
        let member = election.member(&router.name)?;
        let (role, since, cause) = election.role();
        let unheard = |address| PeerStatus {
            address,
            priority: None,
            last_advert_ms: None,
        };
        let configured = router
            .peers
            .iter()
            .map(|address| (*address, unheard(*address)));
        let mut peers: BTreeMap<IpAddr, PeerStatus> = configured.collect();
        peers.extend(member.peers().iter().map(|(address, peer)| {
            let priority = (peer.priority > 0).then_some(peer.priority);
            let last_advert_ms = Some(millis(now.since(peer.heard)));
            (
                address,
                PeerStatus {
                    address,
                    priority,
                    last_advert_ms,
                },
            )
        }));
        let diagnoses = member.diagnoses(now).into_iter();
        Some(VirtualRouterStatus {
            name: router.name.clone(),
            interface: router.interface.clone(),
            vrid: router.vrid,
            role,
            since_ms: millis(now.since(since)),
            cause: cause.to_owned(),
            priority: router.priority,
            effective_priority: election.priority(),
            weightings: self.weightings(election.members()),
            advert_interval_ms: millis(router.advert_interval),
            master: if role == Role::Master {
                None
            } else {
                member.master(now)
            },
            addresses: router.addresses.iter().map(ToString::to_string).collect(),
            peers: peers.into_values().collect(),
            diagnoses: diagnoses.map(|diagnosis| diagnosis.what).collect(),
            rival_adverts: member.rivals(),
            address_claims: member.claims(),
            fenced: None,
        })
    }
}

/// Why no packet can be sent to a backend, if so.
fn unreachable(service: &Service, backend: &Backend, mode: Mode, reach: Reach) -> Option<String> {
    let address = backend.address;
    let obstacle = match reach {
        Reach::Local | Reach::Via(_) => return None,
        Reach::Pending => return Some("its next hop is not resolved yet".to_owned()),
        Reach::Lost(obstacle) => obstacle,
    };
    Some(match obstacle {
        Obstacle::Silent if mode == Mode::Dsr => format!(
            "nobody on the segment answers for {address}: dsr needs it on a segment of this host"
        ),
        Obstacle::Silent => format!(
            "no way to {address}: this host has no route to it, or its next hop does not answer"
        ),
        Obstacle::Gateway => format!(
            "{address} is behind a router: dsr needs it on a segment of this host, tunnel does not"
        ),
        Obstacle::OtherPort => format!(
            "{address} is this host itself, which is served without translation: let the server \
             listen on {}, the service's port",
            service.port
        ),
    })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
