//! Who may open a flow.

use std::net::IpAddr;

use steerd_ebpf::{abi::SourceRule, verdict::Verdict};

use super::{
    Model,
    config::{Service, SourceNetwork},
    headers::{Headers, TCP, Transport, be16},
};

impl Model {
    /// Whether the first packet of a flow is sound, and its sender welcome.
    pub(super) fn admit(
        &mut self,
        packet: &[u8],
        headers: &Headers,
        transport: &Transport,
        service: &Service,
    ) -> Result<(), Verdict> {
        sound(packet, headers, transport)?;
        if service.policy.has_sources() && is_denied(service, headers.source) {
            return Err(Verdict::Denied);
        }
        if service.policy.is_limited() {
            let left = self.left.entry(service.id).or_default();
            *left = left.checked_sub(1).ok_or(Verdict::Limited)?;
        }
        Ok(())
    }
}

/// Whether the headers are true.
fn sound(packet: &[u8], headers: &Headers, transport: &Transport) -> Result<(), Verdict> {
    if headers.source == headers.destination {
        return Err(Verdict::Land);
    }
    if transport.source_port == 0 {
        return Err(Verdict::ZeroPort);
    }
    if headers.end > packet.len() {
        return Err(Verdict::BadLength);
    }
    // The transport header was read, so these bytes are there.
    let segment = &packet[headers.transport..];
    let end = headers.end.checked_sub(headers.transport);
    let needed = if headers.protocol == TCP {
        let header = usize::from(segment[12] >> 4) * 4;
        if header < 20 {
            return Err(Verdict::BadHeader);
        }
        header
    } else {
        let length = be16(segment, 4).map_or(0, usize::from);
        if length < 8 {
            return Err(Verdict::BadLength);
        }
        // A first fragment says how long the whole datagram is.
        if headers.part.is_some() { 8 } else { length }
    };
    match end {
        Some(end) if needed <= end => Ok(()),
        _ => Err(Verdict::BadLength),
    }
}

/// Whether the longest network that has the source says no.
fn is_denied(service: &Service, source: IpAddr) -> bool {
    service
        .sources
        .iter()
        .filter(|network| has(network, source))
        .max_by_key(|network| network.prefix)
        .is_some_and(|network| network.rule == SourceRule::Deny)
}

fn has(network: &SourceNetwork, address: IpAddr) -> bool {
    let shift = |bits: u32| bits - u32::from(network.prefix);
    match (network.network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            let differs = network.to_bits() ^ address.to_bits();
            differs.checked_shr(shift(32)).unwrap_or(0) == 0
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => {
            let differs = network.to_bits() ^ address.to_bits();
            differs.checked_shr(shift(128)).unwrap_or(0) == 0
        }
        _ => false,
    }
}
