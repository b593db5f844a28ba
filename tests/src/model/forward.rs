//! What leaves for a backend.

use steerd_ebpf::{abi::Mode, verdict::Verdict};

use super::{
    Model, checksum,
    config::Backend,
    headers::{Headers, Transport},
    link::Link,
    tunnel::refused,
};

/// A packet on its way: the verdict, and what leaves through which interface.
pub(super) type Sent = (Verdict, Option<(Vec<u8>, u32)>);

/// What is known of who sent a packet.
#[derive(Debug, Clone, Copy)]
pub(super) enum From<'t> {
    /// A client: its transport header.
    Client(&'t Transport),
    /// It is a part of a packet, or a message about one.
    Part,
}

impl Model {
    /// Sends a packet to a backend.
    pub(super) fn deliver(
        &mut self,
        link: &Link,
        packet: &[u8],
        headers: &Headers,
        from: From<'_>,
        id: u16,
    ) -> Sent {
        let Some(backend) = self.config.backends.get(&id).cloned() else {
            return (Verdict::BadBackend, None);
        };
        let sent = match backend.mode {
            // As it came, but for what was changed in it already.
            Mode::Local => return (Verdict::Local, Some((link.around(packet), 0))),
            Mode::Dsr => dsr(link, packet, headers, &backend),
            Mode::Ipip | Mode::Gue => self.wrap(link, packet, headers, from, &backend),
            Mode::Nat => match from {
                From::Client(transport) => {
                    self.translate(link, packet, headers, transport, id, &backend)
                }
                From::Part => Err(Verdict::BadBackend),
            },
        };
        match sent {
            Ok((verdict, frame)) => (verdict, Some((frame, backend.ifindex))),
            Err(verdict) => (verdict, None),
        }
    }
}

/// New MACs, the backend's VLAN, one hop less.
fn dsr(
    link: &Link,
    packet: &[u8],
    headers: &Headers,
    backend: &Backend,
) -> Result<(Verdict, Vec<u8>), Verdict> {
    if let Some(refused) = refused(link, packet, headers, backend) {
        return refused;
    }
    let aged = aged(packet, headers)?;
    let link = link.onward(backend.mac, backend.source_mac, backend.vlan);
    Ok((Verdict::Dsr, link.around(&aged)))
}

/// The packet with one hop less. The last one is not for forwarding (RFC 1812 5.3.1, RFC 8200 3).
pub(super) fn aged(packet: &[u8], headers: &Headers) -> Result<Vec<u8>, Verdict> {
    let mut aged = packet.to_vec();
    let at = if headers.source.is_ipv4() { 8 } else { 7 };
    if aged[at] <= 1 {
        return Err(Verdict::TtlExpired);
    }
    aged[at] -= 1;
    if headers.source.is_ipv4() {
        let header = usize::from(packet[0] & 0xf) * 4;
        let sum = checksum::after(&packet[..header], &aged[..header], 10);
        aged[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    Ok(aged)
}
