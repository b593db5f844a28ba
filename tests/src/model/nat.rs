//! Translated flows.
//!
//! Which address and port a new flow gets is not foretold: that depends on what a table has room
//! for. The model reads it from the frame that was sent, and says whether it is one that may be
//! had: of the pool, and no other flow's.

use std::net::IpAddr;

use steerd_ebpf::{event::Event, verdict::Verdict};

use super::{
    Decision, FlowKey, Model, Stage, checksum,
    config::Backend,
    forward::aged,
    headers::{Headers, TCP, Transport, UDP},
    link::Link,
    mss,
    tunnel::refused,
};

/// A translated flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Its backend.
    pub backend: u16,
    /// The generation its backend had.
    pub generation: u8,
    /// UDP, or TCP.
    pub is_udp: bool,
    /// How far it is.
    pub stage: Stage,
    /// Whether the backend has answered.
    pub answered: bool,
    /// The address and port that the backend sees it come from.
    pub translation: (IpAddr, u16),
    /// The way back to the client: the header of its last frame.
    way: Link,
}

impl Model {
    /// A client's packet, for its backend.
    pub(super) fn translate(
        &mut self,
        link: &Link,
        packet: &[u8],
        headers: &Headers,
        transport: &Transport,
        id: u16,
        backend: &Backend,
    ) -> Result<(Verdict, Vec<u8>), Verdict> {
        if backend.address.is_ipv4() != headers.source.is_ipv4() {
            return Err(Verdict::BadBackend);
        }
        if let Some(refused) = refused(link, packet, headers, backend) {
            return refused;
        }
        let key = (headers.source, transport.source_port, backend.service);
        let fresh = Session {
            backend: id,
            generation: backend.generation,
            is_udp: headers.protocol == UDP,
            stage: if transport.closes() {
                Stage::Closing
            } else {
                Stage::New
            },
            answered: false,
            translation: (headers.destination, 0),
            way: link.clone(),
        };
        let session = match self.sessions.get(&key) {
            Some(known) if known.backend == id && known.generation == backend.generation => {
                after_client(known, transport)
            }
            known => {
                let translation = match known {
                    Some(known) => known.translation,
                    None => {
                        // What will not be sent on gets no port.
                        aged(packet, headers)?;
                        self.free_translation(headers)
                            .ok_or(Verdict::NatExhausted)?
                    }
                };
                self.events.push(Event::NatRecorded);
                Session {
                    translation,
                    ..fresh
                }
            }
        };
        let session = Session {
            way: link.clone(),
            ..session
        };
        let (from, to) = (session.translation, (backend.address, backend.port));
        // As of flows, its client's packets are noted even if they cannot be sent on.
        self.sessions.insert(key, session);
        let translated = between(packet, headers, from, to)?;
        self.touched = Some(from);
        let link = link.onward(backend.mac, backend.source_mac, backend.vlan);
        Ok((Verdict::Nat, link.around(&translated)))
    }

    /// A backend's answer to an address of ours, for the client.
    pub(super) fn answer(
        &mut self,
        packet: &[u8],
        headers: &Headers,
        transport: &Transport,
    ) -> Result<Decision, Verdict> {
        let to = (headers.destination, transport.destination_port);
        let from = (headers.source, transport.source_port);
        let is_its = |session: &Session| {
            let backend = self.config.backends.get(&session.backend);
            session.translation == to
                && session.is_udp == (headers.protocol == UDP)
                && backend.is_some_and(|backend| {
                    backend.generation == session.generation
                        && (backend.address, backend.port) == from
                })
        };
        let found = self.sessions.iter().find(|(_, session)| is_its(session));
        let (&key, session) = found.ok_or(Verdict::NatUnknown)?;
        let session = session.clone();
        let (client, client_port, id) = key;
        let service = self
            .config
            .service(id)
            .cloned()
            .ok_or(Verdict::NatUnknown)?;
        aged(packet, headers)?;

        let most = service.policy.mss();
        let is_offer = headers.protocol == TCP && transport.is_syn() && transport.is_ack();
        let clamped = if most != 0 && is_offer {
            mss::clamped(packet, headers, most)
        } else {
            None
        };
        if clamped.is_some() {
            self.events.push(Event::MssClamped);
        }
        let packet = clamped.as_deref().unwrap_or(packet);
        let from = (service.address, service.port);
        let translated = between(packet, headers, from, (client, client_port))?;
        let decision = self.homeward(&key, &session, &translated);
        self.touched = Some(session.translation);
        self.sessions.insert(key, after_answer(session, transport));
        Ok(decision)
    }

    /// The frame to the client of a session.
    pub(super) fn homeward(&self, key: &FlowKey, session: &Session, packet: &[u8]) -> Decision {
        Decision {
            verdict: Verdict::NatReturn,
            service: key.2,
            backend: session.backend,
            leaving: Some((session.way.turned().around(packet), self.config.ingress)),
        }
    }

    /// The session with a translation, and its backend, if that is still the one that it was.
    pub(super) fn session_at(
        &self,
        translation: Option<(IpAddr, u16)>,
    ) -> Option<(FlowKey, Session, Backend)> {
        let (&key, session) = self
            .sessions
            .iter()
            .find(|(_, session)| Some(session.translation) == translation)?;
        let backend = self.config.backends.get(&session.backend)?;
        let is_same = backend.generation == session.generation;
        is_same.then(|| (key, session.clone(), backend.clone()))
    }

    /// The translation that was given to a flow, if it could be had.
    fn free_translation(&self, headers: &Headers) -> Option<(IpAddr, u16)> {
        let given = self.given?;
        let is_free = self
            .sessions
            .values()
            .all(|session| session.translation != given);
        let is_of_pool = self.config.role(given.0).nat().is_some()
            && given.0.is_ipv4() == headers.source.is_ipv4()
            && self.config.nat_ports.contains(&given.1);
        (is_free && is_of_pool).then_some(given)
    }

    /// The sessions that are remembered.
    #[must_use]
    pub fn sessions(&self) -> Vec<(FlowKey, Session)> {
        self.sessions
            .iter()
            .map(|(&key, session)| (key, session.clone()))
            .collect()
    }
}

/// A session after a packet of its client. Anybody can send a SYN in another's name: established is
/// who answers what the backend said to it.
fn after_client(session: &Session, transport: &Transport) -> Session {
    let reopens = session.stage == Stage::Closing && transport.opens();
    let stage = if transport.closes() {
        Stage::Closing
    } else if reopens {
        Stage::New
    } else if session.stage == Stage::New && session.answered && !transport.opens() {
        Stage::Established
    } else {
        session.stage
    };
    Session {
        stage,
        answered: session.answered && !reopens && !ends_early(session, transport),
        ..session.clone()
    }
}

/// Whether it ends without ever having been established; that it was answered is then forgotten.
fn ends_early(session: &Session, transport: &Transport) -> bool {
    transport.closes()
        && match session.stage {
            Stage::New => true,
            Stage::Established => false,
            Stage::Closing => !session.answered,
        }
}

/// A session after a packet of its backend.
fn after_answer(session: Session, transport: &Transport) -> Session {
    let stage = if transport.closes() {
        Stage::Closing
    } else if session.stage == Stage::New && session.is_udp {
        Stage::Established
    } else {
        session.stage
    };
    let answered = match session.stage {
        Stage::Closing => session.answered,
        Stage::New | Stage::Established => !ends_early(&session, transport),
    };
    Session {
        stage,
        answered,
        ..session
    }
}

/// The packet, a hop older, from one end to another.
fn between(
    packet: &[u8],
    headers: &Headers,
    from: (IpAddr, u16),
    to: (IpAddr, u16),
) -> Result<Vec<u8>, Verdict> {
    let mut new = readdressed(packet, headers, from.0, to.0)?;
    let (before, field) = mss::covered(packet, headers, (headers.source, headers.destination));
    let ports = [from.1.to_be_bytes(), to.1.to_be_bytes()].concat();
    new[headers.transport..headers.transport + 4].copy_from_slice(&ports);
    let (after, _) = mss::covered(&new, headers, (from.0, to.0));
    let stated = u16::from_be_bytes([before[field], before[field + 1]]);
    // UDP: none was computed (RFC 768).
    if headers.protocol != UDP || stated != 0 {
        let sum = match checksum::after(&before, &after, field) {
            0 if headers.protocol == UDP => 0xffff,
            sum => sum,
        };
        let at = headers.transport + if headers.protocol == UDP { 6 } else { 16 };
        new[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }
    Ok(new)
}

/// The packet, a hop older, with other addresses in its network header.
pub(super) fn readdressed(
    packet: &[u8],
    headers: &Headers,
    from: IpAddr,
    to: IpAddr,
) -> Result<Vec<u8>, Verdict> {
    let mut new = aged(packet, headers)?;
    let at = if headers.source.is_ipv4() { 12 } else { 8 };
    let addresses = [checksum::octets(from), checksum::octets(to)].concat();
    new[at..at + addresses.len()].copy_from_slice(&addresses);
    if headers.source.is_ipv4() {
        new[10..12].copy_from_slice(&packet[10..12]);
        let header = usize::from(packet[0] & 0xf) * 4;
        let sum = checksum::after(&packet[..header], &new[..header], 10);
        new[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    Ok(new)
}
