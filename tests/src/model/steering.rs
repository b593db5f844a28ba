//! Service, flow and backend of a packet.

use std::net::IpAddr;

use steerd_ebpf::{
    abi::{self, Scheduler},
    event::Event,
    hash,
    verdict::Verdict,
};

use super::{
    Decision, Flow, Model, Stage,
    config::{Service, words},
    forward::From,
    headers::{Headers, Transport, UDP},
    link::Link,
    mss,
};

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// How many backends are compared for the fewest connections.
const COMPARED: usize = 32;

impl Transport {
    pub(super) const fn is_syn(&self) -> bool {
        self.flags & SYN != 0
    }

    pub(super) const fn is_ack(&self) -> bool {
        self.flags & ACK != 0
    }

    /// A connection is asked for.
    pub(super) const fn opens(&self) -> bool {
        self.flags & (FIN | SYN | RST | ACK) == SYN
    }

    /// A connection is over.
    pub(super) const fn closes(&self) -> bool {
        self.flags & (FIN | RST) != 0
    }
}

impl Model {
    /// Decides about a packet whose network header makes sense.
    pub(super) fn steer(
        &mut self,
        link: &Link,
        packet: &[u8],
        headers: &Headers,
    ) -> Result<Decision, Verdict> {
        if let Some(part) = headers.part {
            return self.fragment(link, packet, headers, part);
        }
        if headers.has_ports() {
            return self.any(link, packet, headers);
        }
        if headers.is_icmp() {
            return self.message(link, packet, headers);
        }
        if self.config.role(headers.destination).0 == 0 {
            return Err(Verdict::NotVip);
        }
        if !headers.is_wrapped() {
            return Err(Verdict::NoService);
        }
        if !self.config.own_macs.contains(&link.to) {
            return Err(Verdict::OtherHost);
        }
        self.unwrap(link, packet, headers)
    }

    /// Whether a packet that is for no service, or not for sure, is for this host: in a frame to
    /// it, and not on its way from a peer that steered it here already. To other addresses peers
    /// send for themselves: they may be backends of translated flows.
    pub(super) fn is_for_us(&self, link: &Link, headers: &Headers) -> Result<(), Verdict> {
        let role = self.config.role(headers.destination);
        if role.0 == 0 {
            return Err(Verdict::NotVip);
        }
        if !self.config.own_macs.contains(&link.to) {
            return Err(Verdict::OtherHost);
        }
        if role.is_virtual() && self.config.peer_macs.contains(&link.from) {
            return Err(Verdict::Delivered);
        }
        Ok(())
    }

    /// Decides about a TCP or UDP packet.
    pub(super) fn any(
        &mut self,
        link: &Link,
        packet: &[u8],
        headers: &Headers,
    ) -> Result<Decision, Verdict> {
        let transport = headers.transport(packet).ok_or(Verdict::Truncated)?;
        self.of_transport(link, packet, headers, &transport)
    }

    fn of_transport(
        &mut self,
        link: &Link,
        packet: &[u8],
        headers: &Headers,
        transport: &Transport,
    ) -> Result<Decision, Verdict> {
        let role = self.config.role(headers.destination);
        if role.0 == 0 {
            return Err(Verdict::NotVip);
        }
        let is_ours = self.config.own_macs.contains(&link.to);
        let Some(service) = self.service_of(headers, transport) else {
            let is_gue = headers.protocol == UDP
                && headers.part.is_none()
                && transport.destination_port == self.config.gue_port;
            return match role {
                _ if !is_ours => Err(Verdict::OtherHost),
                role if role.is_endpoint() && is_gue => self.unwrap(link, packet, headers),
                role if role.nat().is_some() => self.answer(packet, headers, transport),
                _ => Err(Verdict::NoService),
            };
        };
        let mut decision = Decision {
            service: service.id,
            ..Decision::new(Verdict::OtherHost)
        };
        if !is_ours {
            return Ok(decision);
        }
        if self.config.peer_macs.contains(&link.from) {
            decision.verdict = Verdict::Delivered;
            return Ok(decision);
        }
        if headers.is_extended {
            self.events.push(match headers.source {
                IpAddr::V4(_) => Event::Ipv4Options,
                IpAddr::V6(_) => Event::Ipv6Extensions,
            });
        }
        match self.backend_of(packet, headers, transport, &service) {
            Err((id, verdict)) => {
                decision.backend = id;
                decision.verdict = verdict;
            }
            Ok(id) => {
                let packet = self.clamp(packet, headers, transport, &service);
                decision.backend = id;
                (decision.verdict, decision.leaving) =
                    self.deliver(link, &packet, headers, From::Client(transport), id);
            }
        }
        Ok(decision)
    }

    /// The service that a packet is for.
    fn service_of(&self, headers: &Headers, transport: &Transport) -> Option<Service> {
        self.config
            .services
            .iter()
            .find(|service| {
                service.address == headers.destination
                    && service.port == transport.destination_port
                    && service.protocol == headers.protocol
            })
            .cloned()
    }

    /// The backend of a packet's flow: the one it has, or a new one's. Else the verdict, and the
    /// backend that is to blame.
    fn backend_of(
        &mut self,
        packet: &[u8],
        headers: &Headers,
        transport: &Transport,
        service: &Service,
    ) -> Result<u16, (u16, Verdict)> {
        let key = (headers.source, transport.source_port, service.id);
        let named = if service.policy.is_quic() {
            self.named_by_quic(&packet[headers.transport + 8..], service)
        } else {
            None
        };
        let known = self.flows.get(&key).copied();
        if let Some(flow) = known {
            // From the same port, but another connection.
            let is_another = flow.stage == Stage::Closing && transport.opens();
            let is_elsewhere = named.is_some_and(|named| named != flow.backend);
            if !is_another && !is_elsewhere && self.keeps(&flow) {
                self.seen(key, flow, transport);
                return Ok(flow.backend);
            }
        }
        self.admit(packet, headers, transport, service)
            .map_err(|verdict| (0, verdict))?;
        let id = match named {
            Some(named) => named,
            None => self
                .chosen((headers.source, transport.source_port), service)
                .unwrap_or(0),
        };
        if id == 0 {
            return Err((0, Verdict::NoBackend));
        }
        let Some(backend) = self.config.backends.get(&id) else {
            return Err((id, Verdict::BadBackend));
        };
        let flow = Flow {
            backend: id,
            generation: backend.generation,
            stage: if transport.closes() {
                Stage::Closing
            } else {
                Stage::New
            },
        };
        match known.map(|known| known.stage) {
            Some(Stage::Closing) => self.events.push(Event::FlowEvictedClosing),
            Some(_) => self.leaves(known.map_or(0, |known| known.backend)),
            None => {}
        }
        self.flows.insert(key, flow);
        self.events.push(Event::FlowRecorded);
        let is_counted = service.policy.scheduler() == Scheduler::LeastConnections;
        if is_counted && flow.stage != Stage::Closing {
            *self.connections.entry(id).or_default() += 1;
        }
        Ok(id)
    }

    /// Whether a flow may stay where it is.
    pub(super) fn keeps(&self, flow: &Flow) -> bool {
        self.config
            .backends
            .get(&flow.backend)
            .is_some_and(|backend| backend.alive && backend.generation == flow.generation)
    }

    /// One more packet of a flow.
    fn seen(&mut self, key: super::FlowKey, flow: Flow, transport: &Transport) {
        let stage = match flow.stage {
            Stage::Closing => Stage::Closing,
            _ if transport.closes() => Stage::Closing,
            stage if transport.opens() => stage,
            _ => Stage::Established,
        };
        if stage == Stage::Closing && flow.stage != Stage::Closing {
            self.leaves(flow.backend);
        }
        self.flows.insert(key, Flow { stage, ..flow });
    }

    /// A backend has a connection less, if its connections are counted.
    fn leaves(&mut self, id: u16) {
        if self.config.backends.get(&id).is_some_and(|b| b.weight != 0) {
            *self.connections.entry(id).or_default() -= 1;
        }
    }

    /// Whom the scheduler gives a new flow.
    pub(super) fn chosen(
        &mut self,
        (client, port): (IpAddr, u16),
        service: &Service,
    ) -> Option<u16> {
        let slots = service.ring.len();
        if slots == 0 {
            return None;
        }
        let (client, port) = (words(client), port.to_be());
        match service.policy.scheduler() {
            Scheduler::Hash => {
                let key = abi::Service::key(service.port.to_be(), service.protocol);
                let salt = hash::salt(words(service.address), key);
                let hash = hash::ring(client, port, salt, service.policy.affinity());
                service
                    .ring
                    .get(hash::reduce(hash, slots as u32) as usize)
                    .copied()
            }
            Scheduler::Sequence => {
                let turn = self.turns.entry(service.id).or_default();
                let slot = *turn % slots as u64;
                *turn += 1;
                service.ring.get(slot as usize).copied()
            }
            Scheduler::LeastConnections => {
                let first = hash::reduce(hash::client(client, port), slots as u32) as usize;
                let compared = (0..slots.min(COMPARED)).map(|n| service.ring[(first + n) % slots]);
                // Connections for each of weight, the newcomer among them, as fractions of a
                // number that all weights divide: exact.
                let cost = |id: u16| {
                    let weight = self.config.backends.get(&id).map_or(0, |b| b.weight);
                    let connections = self.connections.get(&id).map_or(0, |&n| n.max(0));
                    const COMMON: u64 = 2 * 2 * 3 * 5 * 7;
                    (weight != 0).then(|| (connections as u64 + 1) * (COMMON / weight))
                };
                compared
                    .filter_map(|id| Some((cost(id)?, id)))
                    .min_by_key(|&(cost, _)| cost)
                    .map(|(_, id)| id)
            }
        }
    }

    /// The backend that a QUIC packet names by its connection id (draft-ietf-quic-load-balancers,
    /// plain form): two octets of server id behind the first one.
    fn named_by_quic(&mut self, packet: &[u8], service: &Service) -> Option<u16> {
        let named = service
            .servers
            .get(usize::from(server_id(packet)?))
            .copied()
            .filter(|id| self.config.backends.get(id).is_some_and(|b| b.alive));
        self.events.push(match named {
            Some(_) => Event::QuicRouted,
            None => Event::QuicUnknown,
        });
        named
    }

    /// The packet with the MSS that its service allows.
    fn clamp(
        &mut self,
        packet: &[u8],
        headers: &Headers,
        transport: &Transport,
        service: &Service,
    ) -> Vec<u8> {
        let most = service.policy.mss();
        if most != 0
            && transport.opens()
            && let Some(clamped) = mss::clamped(packet, headers, most)
        {
            self.events.push(Event::MssClamped);
            return clamped;
        }
        packet.to_vec()
    }
}

/// The server id of a connection id, if it is one to be routed by.
fn server_id(packet: &[u8]) -> Option<u16> {
    let is_long = packet.first()? & 0x80 != 0;
    let id = if is_long {
        // RFC 8999 5.1: a version behind the first octet, then the id's length.
        let length = *packet.get(5)?;
        if length < 4 {
            return None;
        }
        packet.get(6..)?
    } else {
        packet.get(1..)?
    };
    match id {
        [first, high, low, ..] if first >> 5 != 7 => Some(u16::from_be_bytes([*high, *low])),
        _ => None,
    }
}
