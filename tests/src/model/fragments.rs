//! Fragmented packets (RFC 791 3.2, RFC 8200 4.5, RFC 1858): the first fragment is steered as any
//! packet, the others go where it went.

use std::net::IpAddr;

use steerd_ebpf::{abi::Mode, event::Event, verdict::Verdict};

use super::{
    Action, Decision, Model,
    forward::From,
    headers::{Headers, Part, TCP, UDP},
    link::Link,
};

/// Which fragmented packet: from whom, to whom, its identification, and IPv4's protocol.
pub(super) type FragmentKey = (IpAddr, IpAddr, u32, u8);

/// Where a first fragment went.
#[derive(Debug, Clone)]
pub(super) struct First {
    verdict: Verdict,
    service: u32,
    backend: u16,
    generation: u8,
    /// Of a translated flow: the address and port that its backend sees.
    translation: Option<(IpAddr, u16)>,
}

impl Model {
    /// Decides about a fragment.
    pub(super) fn fragment(
        &mut self,
        link: &Link,
        packet: &[u8],
        headers: &Headers,
        part: Part,
    ) -> Result<Decision, Verdict> {
        self.is_for_us(link, headers)?;
        let payload = sound(packet, headers, part)?;
        let key = key(headers, part);
        // What has to be in the first one, and under no other.
        let transport_header = match headers.protocol {
            TCP => 20,
            UDP => 8,
            _ => 0,
        };
        if part.offset != 0 {
            if part.offset < transport_header {
                return Err(Verdict::TinyFragment);
            }
            let first = self
                .firsts
                .get(&key)
                .cloned()
                .ok_or(Verdict::EarlyFragment)?;
            return self.later(link, packet, headers, &first);
        }
        if !headers.has_ports() {
            let first = First {
                verdict: Verdict::NoService,
                service: 0,
                backend: 0,
                generation: 0,
                translation: None,
            };
            self.firsts.insert(key, first);
            self.events.push(Event::FragmentRecorded);
            return Err(Verdict::NoService);
        }
        if payload < transport_header {
            return Err(Verdict::TinyFragment);
        }
        let decision = match self.any(link, packet, headers) {
            Ok(decision) => decision,
            Err(verdict) => Decision::new(verdict),
        };
        // What was refused or answered has no others to follow it.
        let is_sent = matches!(
            decision.verdict,
            Verdict::Dsr | Verdict::Tunnel | Verdict::Nat | Verdict::NatReturn
        );
        if is_sent || self.action(decision.verdict, None) == Action::Pass {
            let backend = self.config.backends.get(&decision.backend);
            let translation = match decision.verdict {
                Verdict::Nat | Verdict::NatReturn => self.touched.take(),
                _ => None,
            };
            let first = First {
                verdict: decision.verdict,
                service: decision.service,
                backend: decision.backend,
                generation: backend.map_or(0, |backend| backend.generation),
                translation,
            };
            self.firsts.insert(key, first);
            self.events.push(Event::FragmentRecorded);
        } else {
            // Nor do they follow an earlier packet's.
            self.firsts.remove(&key);
        }
        Ok(decision)
    }

    /// A later fragment goes where the first one went, if that is still there.
    fn later(
        &mut self,
        link: &Link,
        packet: &[u8],
        headers: &Headers,
        first: &First,
    ) -> Result<Decision, Verdict> {
        let mut decision = Decision {
            service: first.service,
            ..Decision::new(first.verdict)
        };
        match first.verdict {
            Verdict::Local | Verdict::Dsr | Verdict::Tunnel | Verdict::Nat => {
                let backend = self.config.backends.get(&first.backend);
                let is_translated = first.verdict == Verdict::Nat;
                let mode = backend
                    .filter(|b| b.alive && b.generation == first.generation)
                    .map(|backend| backend.mode)
                    .filter(|&mode| is_translated == (mode == Mode::Nat))
                    .ok_or(Verdict::EarlyFragment)?;
                decision.backend = first.backend;
                if mode == Mode::Nat {
                    decision = self.later_out(link, packet, headers, first)?;
                    self.events.push(Event::FragmentFollowed);
                } else {
                    self.events.push(Event::FragmentFollowed);
                    (decision.verdict, decision.leaving) =
                        self.deliver(link, packet, headers, From::Part, first.backend);
                }
            }
            Verdict::NatReturn => {
                decision = self.later_home(packet, headers, first)?;
                self.events.push(Event::FragmentFollowed);
            }
            _ => self.events.push(Event::FragmentFollowed),
        }
        Ok(decision)
    }

    /// Of a client's packet, to the backend of its session.
    fn later_out(
        &mut self,
        link: &Link,
        packet: &[u8],
        headers: &Headers,
        first: &First,
    ) -> Result<Decision, Verdict> {
        let (key, session, backend) = self
            .session_at(first.translation)
            .ok_or(Verdict::EarlyFragment)?;
        if headers.end > usize::from(backend.mtu) {
            return Err(Verdict::TooBigDropped);
        }
        let moved =
            super::nat::readdressed(packet, headers, session.translation.0, backend.address)?;
        let link = link.onward(backend.mac, backend.source_mac, backend.vlan);
        Ok(Decision {
            verdict: Verdict::Nat,
            service: key.2,
            backend: session.backend,
            leaving: Some((link.around(&moved), backend.ifindex)),
        })
    }

    /// Of an answer, to the client of its session.
    fn later_home(
        &mut self,
        packet: &[u8],
        headers: &Headers,
        first: &First,
    ) -> Result<Decision, Verdict> {
        let (key, session, backend) = self
            .session_at(first.translation)
            .ok_or(Verdict::EarlyFragment)?;
        let service = self
            .config
            .service(backend.service)
            .ok_or(Verdict::EarlyFragment)?;
        let moved = super::nat::readdressed(packet, headers, service.address, key.0)?;
        Ok(self.homeward(&key, &session, &moved))
    }
}

/// How many bytes of its packet a fragment has.
fn sound(packet: &[u8], headers: &Headers, part: Part) -> Result<usize, Verdict> {
    if headers.end <= headers.transport || headers.end > packet.len() {
        return Err(Verdict::BadLength);
    }
    let payload = headers.end - headers.transport;
    // All but the last are of whole units.
    if part.more && !payload.is_multiple_of(8) {
        return Err(Verdict::BadLength);
    }
    // What the length of the whole packet has to say: IPv6's own header it does not count, and the
    // fragment's header is gone then.
    let uncounted = if headers.source.is_ipv4() { 0 } else { 48 };
    if headers.transport - uncounted + part.offset + payload > 65_535 {
        return Err(Verdict::BadLength);
    }
    Ok(payload)
}

fn key(headers: &Headers, part: Part) -> FragmentKey {
    // IPv6's identifications are for all protocols (RFC 8200 4.5), as only the first fragment says
    // for sure which it is.
    let protocol = if headers.source.is_ipv4() {
        headers.protocol
    } else {
        0
    };
    (
        headers.source,
        headers.destination,
        part.identification,
        protocol,
    )
}
