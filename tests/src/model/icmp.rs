//! ICMP (RFC 792) and ICMPv6 (RFC 4443): echo requests are answered, errors go to whom the packet
//! that they quote was from.

use std::net::IpAddr;

use steerd_ebpf::{
    abi::{Mode, Scheduler},
    event::Event,
    verdict::Verdict,
};

use super::{
    Decision, Model, checksum,
    config::Service,
    forward::{From, aged},
    headers::{FURTHEST, Headers, ICMPV6, TCP, UDP, be16},
    link::Link,
};

/// The packet that an error is about, as far as it is quoted.
struct Quote {
    protocol: u8,
    /// From the address that the error is to.
    source_port: u16,
    destination: IpAddr,
    destination_port: u16,
    /// Where its network header and its transport header begin.
    at: usize,
    transport: usize,
}

impl Model {
    /// Decides about an ICMP message.
    pub(super) fn message(
        &mut self,
        link: &Link,
        packet: &[u8],
        headers: &Headers,
    ) -> Result<Decision, Verdict> {
        self.is_for_us(link, headers)?;
        let role = self.config.role(headers.destination);
        let kind = *packet.get(headers.transport).ok_or(Verdict::Truncated)?;
        let is_v4 = headers.source.is_ipv4();
        if kind == (if is_v4 { 8 } else { 128 }) && role.is_virtual() {
            return echo(link, packet, headers);
        }
        // Unreachable, time exceeded, parameter problem; of IPv6 too big.
        let is_error = if is_v4 {
            matches!(kind, 3 | 11 | 12)
        } else {
            matches!(kind, 1..=4)
        };
        if !is_error {
            return Err(Verdict::NoService);
        }
        let quote = quote(link, packet, headers).ok_or(Verdict::NoService)?;
        let service = self
            .config
            .services
            .iter()
            .find(|service| {
                service.address == headers.destination
                    && service.port == quote.source_port
                    && service.protocol == quote.protocol
            })
            .cloned();
        match service {
            Some(service) => self.tell_backend(link, packet, headers, &quote, &service),
            None if role.nat().is_some() => self.tell_client(packet, headers, &quote),
            None => Err(Verdict::NoService),
        }
    }

    /// A service's packet did not reach its client.
    fn tell_backend(
        &mut self,
        link: &Link,
        packet: &[u8],
        headers: &Headers,
        quote: &Quote,
        service: &Service,
    ) -> Result<Decision, Verdict> {
        let client = (quote.destination, quote.destination_port);
        let key = (client.0, client.1, service.id);
        let known = self
            .flows
            .get(&key)
            .filter(|flow| self.keeps(flow))
            .map(|flow| flow.backend);
        let id = match known {
            Some(id) => id,
            // A flow of which only the hash knows: another node's, before.
            None if service.policy.scheduler() == Scheduler::Hash => {
                self.chosen(client, service).ok_or(Verdict::NoService)?
            }
            None => return Err(Verdict::NoService),
        };
        let mode = self
            .config
            .backends
            .get(&id)
            .ok_or(Verdict::NoService)?
            .mode;
        let mut decision = Decision {
            service: service.id,
            backend: id,
            ..Decision::new(Verdict::Nat)
        };
        if mode != Mode::Nat {
            self.events.push(Event::IcmpSteered);
            (decision.verdict, decision.leaving) =
                self.deliver(link, packet, headers, From::Part, id);
            return Ok(decision);
        }
        let translation = self.sessions.get(&key).map(|session| session.translation);
        let (_, session, backend) = self.session_at(translation).ok_or(Verdict::NoService)?;
        if session.is_udp != (quote.protocol == UDP) {
            return Err(Verdict::NoService);
        }
        let told = retold(
            packet,
            headers,
            quote,
            (headers.source, backend.address),
            ((backend.address, backend.port), session.translation),
        )?;
        self.events.push(Event::IcmpSteered);
        let link = link.onward(backend.mac, backend.source_mac, backend.vlan);
        decision.backend = session.backend;
        decision.leaving = Some((link.around(&told), backend.ifindex));
        Ok(decision)
    }

    /// A translated packet did not reach its backend.
    fn tell_client(
        &mut self,
        packet: &[u8],
        headers: &Headers,
        quote: &Quote,
    ) -> Result<Decision, Verdict> {
        let translation = (headers.destination, quote.source_port);
        let (key, session, backend) = self
            .session_at(Some(translation))
            .ok_or(Verdict::NatUnknown)?;
        let was_for = (quote.destination, quote.destination_port);
        if session.is_udp != (quote.protocol == UDP) || was_for != (backend.address, backend.port) {
            return Err(Verdict::NatUnknown);
        }
        let service = self
            .config
            .service(backend.service)
            .ok_or(Verdict::NatUnknown)?;
        let (client, client_port, _) = key;
        let told = retold(
            packet,
            headers,
            quote,
            (service.address, client),
            ((client, client_port), (service.address, service.port)),
        )?;
        self.events.push(Event::IcmpSteered);
        Ok(self.homeward(&key, &session, &told))
    }
}

/// The answer to an echo request: as long as the node steers, the address answers.
fn echo(link: &Link, packet: &[u8], headers: &Headers) -> Result<Decision, Verdict> {
    if headers.source == headers.destination {
        return Err(Verdict::Land);
    }
    let is_whole = headers.end >= headers.transport + 8 && headers.end <= packet.len();
    let is_host = match headers.source {
        IpAddr::V4(source) => {
            let [first, ..] = source.octets();
            first != 0 && !source.is_loopback() && first < 224
        }
        IpAddr::V6(source) => {
            !source.is_multicast() && !source.is_unspecified() && !source.is_loopback()
        }
    };
    // The stack's: it may be right, but is not plain.
    if headers.is_extended || !is_whole || !is_host {
        return Err(Verdict::NoService);
    }
    let mut reply = packet.to_vec();
    let (from, to, hops, kind) = if link.is_ipv6 {
        (8, 24, 7, 129)
    } else {
        (12, 16, 8, 0)
    };
    let length = to - from;
    reply[from..to].copy_from_slice(&packet[to..to + length]);
    reply[to..to + length].copy_from_slice(&packet[from..to]);
    reply[hops] = 64;
    reply[headers.transport] = kind;
    let sum = message_sum(
        packet,
        &reply,
        headers,
        (headers.destination, headers.source),
    );
    let at = headers.transport + 2;
    reply[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    set_header_sum(packet, &mut reply, headers);
    Ok(Decision {
        leaving: Some((link.turned().around(&reply), 0)),
        ..Decision::new(Verdict::Echo)
    })
}

/// What an error quotes: enough of a TCP or UDP packet from the address that it is to.
fn quote(link: &Link, packet: &[u8], headers: &Headers) -> Option<Quote> {
    let message = packet.get(..headers.end)?;
    let at = headers.transport + 8;
    let quoted = message.get(at..)?;
    let (source, destination, protocol, header) = if headers.source.is_ipv4() {
        let header: &[u8; 20] = quoted.first_chunk()?;
        let length = usize::from(header[0] & 0xf) * 4;
        let is_later = be16(header, 6)? & 0x1fff != 0;
        if header[0] >> 4 != 4 || length < 20 || is_later {
            return None;
        }
        let address =
            |at: usize| IpAddr::from([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        (address(12), address(16), header[9], length)
    } else {
        let header: &[u8; 40] = quoted.first_chunk()?;
        if header[0] >> 4 != 6 {
            return None;
        }
        let address = |at: usize| {
            let mut octets = [0; 16];
            octets.copy_from_slice(&header[at..at + 16]);
            IpAddr::from(octets)
        };
        let (protocol, length) = behind_extensions(quoted, link.length() + at, header[6])?;
        (address(8), address(24), protocol, length)
    };
    let transport = quoted.get(header..)?;
    // RFC 792: 64 bits of it.
    if source != headers.destination || !matches!(protocol, TCP | UDP) || transport.len() < 8 {
        return None;
    }
    Some(Quote {
        protocol,
        source_port: be16(transport, 0)?,
        destination,
        destination_port: be16(transport, 2)?,
        at,
        transport: at + header,
    })
}

/// The transport protocol of a quoted IPv6 packet, whose first byte is the frame's `at`, and where its
/// header begins.
fn behind_extensions(quoted: &[u8], at: usize, mut next: u8) -> Option<(u8, usize)> {
    let mut length = 40;
    for _ in 0..=6 {
        let byte = |place: usize| quoted.get(length + place).copied().map(usize::from);
        if matches!(next, TCP | UDP) {
            return (length == 40 || at + length <= FURTHEST).then_some((next, length));
        }
        let here = match next {
            0 | 60 => 8 * (1 + byte(1)?),
            43 if byte(3)? != 0 => return None,
            43 => 8 * (1 + byte(1)?),
            51 => 4 * (2 + byte(1)?),
            44 if be16(quoted, length + 2)? >> 3 != 0 => return None,
            44 => 8,
            _ => return None,
        };
        next = *quoted.get(length)?;
        length += here;
    }
    None
}

/// The error, a hop older, between other ends, about a packet between other ends.
fn retold(
    packet: &[u8],
    headers: &Headers,
    quote: &Quote,
    ends: (IpAddr, IpAddr),
    quoted_ends: ((IpAddr, u16), (IpAddr, u16)),
) -> Result<Vec<u8>, Verdict> {
    let mut told = aged(packet, headers)?;
    let ((from, from_port), (to, to_port)) = quoted_ends;
    let addresses = if headers.source.is_ipv4() { 12 } else { 8 };
    let put = |told: &mut [u8], at: usize, ends: (IpAddr, IpAddr)| {
        let octets = [checksum::octets(ends.0), checksum::octets(ends.1)].concat();
        told[at..at + octets.len()].copy_from_slice(&octets);
    };
    put(&mut told, addresses, ends);
    put(&mut told, quote.at + addresses, (from, to));
    let ports = [from_port.to_be_bytes(), to_port.to_be_bytes()].concat();
    told[quote.transport..quote.transport + 4].copy_from_slice(&ports);

    // The quoted segment's, if the quote reaches so far; none was computed of some UDP packets.
    let field = if quote.protocol == UDP { 6 } else { 16 };
    let stated = be16(&packet[..headers.end], quote.transport + field);
    if stated.is_some_and(|stated| stated != 0 || quote.protocol != UDP) {
        let covered = |packet: &[u8], (from, to): (IpAddr, IpAddr)| {
            let segment = &packet[quote.transport..headers.end];
            let mut bytes = checksum::pseudo_header(from, to, quote.protocol, segment.len());
            bytes.extend(segment);
            bytes
        };
        let before = covered(packet, (headers.destination, quote.destination));
        let after = covered(&told, (from, to));
        let at = before.len() - (headers.end - quote.transport) + field;
        let sum = match checksum::after(&before, &after, at) {
            0 if quote.protocol == UDP => 0xffff,
            sum => sum,
        };
        let at = quote.transport + field;
        told[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }
    if headers.source.is_ipv4() {
        let header = quote.at..quote.transport;
        let sum = checksum::after(&packet[header.clone()], &told[header], 10);
        told[quote.at + 10..quote.at + 12].copy_from_slice(&sum.to_be_bytes());
    }
    let sum = message_sum(packet, &told, headers, ends);
    let at = headers.transport + 2;
    told[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    set_header_sum(packet, &mut told, headers);
    Ok(told)
}

/// The checksum of a message: with a pseudo header for IPv6 (RFC 4443 2.3).
fn message_sum(before: &[u8], after: &[u8], headers: &Headers, ends: (IpAddr, IpAddr)) -> u16 {
    let covered = |packet: &[u8], (from, to): (IpAddr, IpAddr)| {
        let message = &packet[headers.transport..headers.end];
        let mut bytes = if headers.source.is_ipv4() {
            Vec::new()
        } else {
            checksum::pseudo_header(from, to, ICMPV6, message.len())
        };
        let at = bytes.len() + 2;
        bytes.extend(message);
        (bytes, at)
    };
    let (before, at) = covered(before, (headers.source, headers.destination));
    checksum::after(&before, &covered(after, ends).0, at)
}

/// IPv4's header checksum, after a change of its header.
fn set_header_sum(before: &[u8], after: &mut [u8], headers: &Headers) {
    if headers.source.is_ipv4() {
        after[10..12].copy_from_slice(&before[10..12]);
        let sum = checksum::after(
            &before[..headers.transport],
            &after[..headers.transport],
            10,
        );
        after[10..12].copy_from_slice(&sum.to_be_bytes());
    }
}
