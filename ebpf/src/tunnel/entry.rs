//! Where a tunnel begins: a packet is put into another one for its backend.
//!
//! The outer header says of the packet what the inner one does: its hops (one less than it came
//! with, which ends loops between nodes), its class of service and its mark of congestion (RFC 6040
//! section 4.1). Routers and the backend's network card spread wrapped packets by their outer
//! headers, so these must differ from client to client and not within a flow: a hash of the client
//! is in the host bits of the outer source address, in the flow label (RFC 6438), and in the source
//! port of UDP. Wrapped packets are never fragmented: DF is set, so the identification says nothing
//! (RFC 6864 section 4.1).
//!
//! UDP has no checksum. Over IPv6 that is for tunnels only (RFC 6935 section 5), on the conditions
//! of RFC 6936: what a damaged address or port lets astray is known by the checksums within, and
//! the exit of a tunnel takes packets from the tunnels' network only.

use super::{IPV4, IPV6, UDP, link::Link};
use crate::{
    abi::{Backend, Control, Mode, is_mapped, mapped},
    hash,
    packet::Packet,
    parse::{Family, Head, ethertype, protocol},
    parts::Parts,
    rewrite::aged,
    steer::usable,
    sum,
    verdict::Verdict,
};

/// Wraps a packet for its backend. Returns the verdict's number.
#[inline(always)]
pub fn wrap<P: Packet, T: Parts>(packet: &mut P, tables: &T, head: &Head, backend: u16) -> u64 {
    match enter(packet, tables, head, backend) {
        Ok(()) => Verdict::Tunnel as u64,
        Err(verdict) => verdict as u64,
    }
}

#[inline(always)]
fn enter<P: Packet, T: Parts>(
    packet: &mut P,
    tables: &T,
    head: &Head,
    backend: u16,
) -> Result<(), Verdict> {
    let bad = Verdict::BadBackend;
    let control = tables.control().ok_or(bad)?;
    let (backend, state) = usable(tables, backend).ok_or(bad)?;
    // The way to it was lost, and the ring does not know yet: nobody must be told this MTU.
    if backend.mtu == 0 {
        return Err(bad);
    }
    let is_gue = match state.mode {
        Mode::Ipip => false,
        Mode::Gue => true,
        _ => return Err(bad),
    };
    let inner = Inner::load(packet, head.family, head.l3())?;
    let end = head.l3() + inner.length;
    if inner.length < head.l4() - head.l3() || !packet.has(end) && packet.length() < end {
        return Err(Verdict::BadLength);
    }
    let outer = Outer::new(control, backend, head, is_gue).ok_or(bad)?;
    let room = (backend.mtu as usize).saturating_sub(outer.length());
    if inner.length > room {
        return Err(Verdict::unpack(tables.too_big(
            packet,
            head.pack(),
            room as u16,
        )));
    }
    let source = backend.source.load();
    let link = Link::onward(packet, head.l3(), state.mac, source).ok_or(Verdict::Truncated)?;
    put(packet, control, &outer, &inner, head.l3(), &link)
}

/// What the outer header takes over from the inner one.
pub(super) struct Inner {
    family: Family,
    /// Of the packet: bytes, by its header.
    pub(super) length: usize,
    /// TOS or traffic class.
    class: u8,
    /// The hops that are left after this one.
    hops: u8,
    /// Of IPv4: the word in which they are.
    aged: u32,
}

impl Inner {
    #[inline(always)]
    pub(super) fn load<P: Packet>(packet: &P, family: Family, l3: usize) -> Result<Self, Verdict> {
        // TTL, protocol and checksum; the last of what is read, first.
        let word: u32 = packet.load(l3 + 8).ok_or(Verdict::Truncated)?;
        let first: u64 = packet.load(l3).ok_or(Verdict::Truncated)?;
        let hops = match family {
            Family::V4 => word as u8,
            Family::V6 => (first >> 56) as u8,
        };
        if hops <= 1 {
            return Err(Verdict::TtlExpired);
        }
        Ok(match family {
            Family::V4 => Self {
                family: Family::V4,
                length: u16::from_be((first >> 16) as u16) as usize,
                class: (first >> 8) as u8,
                hops: hops - 1,
                aged: aged(word),
            },
            Family::V6 => Self {
                family: Family::V6,
                length: IPV6 + u16::from_be((first >> 32) as u16) as usize,
                class: ((first & 0xf) << 4 | (first >> 12) & 0xf) as u8,
                hops: hops - 1,
                aged: 0,
            },
        })
    }

    /// Takes its hop, once it is at `l3`.
    #[inline(always)]
    pub(super) fn age<P: Packet>(&self, packet: &mut P, l3: usize) -> Option<()> {
        match self.family {
            Family::V4 => packet.store(l3 + 8, self.aged),
            Family::V6 => packet.store(l3 + 7, self.hops),
        }
    }

    const fn protocol(&self) -> u8 {
        match self.family {
            Family::V4 => protocol::IPV4,
            Family::V6 => protocol::IPV6,
        }
    }
}

/// Where the outer packet comes from and goes to.
pub(super) struct Outer {
    family: Family,
    is_gue: bool,
    pub(super) source: [u64; 2],
    destination: [u64; 2],
    /// Of the client.
    hash: u64,
}

impl Outer {
    /// `None`: there is no network that packets of this family could come from.
    #[inline(always)]
    fn new(control: &Control, backend: &Backend, head: &Head, is_gue: bool) -> Option<Self> {
        // Of fragments only the first one has ports; all go the same way.
        let hash = if head.part.is_whole() {
            head.flow_hash(control.flow_seed.load())
        } else {
            hash::client(head.source, 0)
        };
        let destination = [backend.addr[0], backend.addr[1]];
        if is_mapped(destination) {
            Self::from4(control, destination, hash, is_gue)
        } else {
            Self::from6(control, destination, hash, is_gue)
        }
    }

    /// From the IPv4 network.
    #[inline(always)]
    pub(super) fn from4(
        control: &Control,
        destination: [u64; 2],
        hash: u64,
        is_gue: bool,
    ) -> Option<Self> {
        let tunnel = control.tunnel4.load();
        if tunnel == 0 {
            return None;
        }
        let source = tunnel as u32 | hash as u32 & !(tunnel >> 32) as u32;
        Some(Self {
            family: Family::V4,
            is_gue,
            source: mapped(source),
            destination,
            hash,
        })
    }

    /// From the IPv6 network.
    #[inline(always)]
    pub(super) fn from6(
        control: &Control,
        destination: [u64; 2],
        hash: u64,
        is_gue: bool,
    ) -> Option<Self> {
        let [network0, network1, mask0, mask1] = &control.tunnel6;
        let network = [network0.load(), network1.load()];
        if network[0] == 0 {
            return None;
        }
        // A network shorter than /64 has all of the hash in each half: enough to spread.
        let source = [
            network[0] | hash & !mask0.load(),
            network[1] | hash & !mask1.load(),
        ];
        Some(Self {
            family: Family::V6,
            is_gue,
            source,
            destination,
            hash,
        })
    }

    /// How many bytes it adds.
    #[inline(always)]
    const fn length(&self) -> usize {
        let ip = match self.family {
            Family::V4 => IPV4,
            Family::V6 => IPV6,
        };
        ip + if self.is_gue { UDP } else { 0 }
    }

    /// What the outer IP header says is in it.
    #[inline(always)]
    const fn protocol(&self, inner: &Inner) -> u8 {
        if self.is_gue {
            protocol::UDP
        } else {
            inner.protocol()
        }
    }

    /// Source and destination port: from the dynamic ones (RFC 6335 section 6), to GUE's.
    #[inline(always)]
    pub(super) fn ports(&self, gue_port: u64) -> u32 {
        let source = 0xc000 | (self.hash >> 48) as u16 & 0x3fff;
        source.to_be() as u32 | (gue_port as u32) << 16
    }

    /// The IPv4 header but for its destination, which is the last word.
    #[inline(always)]
    pub(super) fn ipv4(&self, inner: &Inner) -> [u64; 2] {
        const DONT_FRAGMENT: u64 = 0x4000_u16.to_be() as u64;
        let length = (inner.length + self.length()) as u16;
        let first =
            0x45 | (inner.class as u64) << 8 | (length.to_be() as u64) << 16 | DONT_FRAGMENT << 48;
        let second =
            inner.hops as u64 | (self.protocol(inner) as u64) << 8 | self.source[1] >> 32 << 32;
        let checksum =
            !sum::fold(sum::word(first) + sum::word(second) + (self.destination[1] >> 32));
        [first, second | (checksum as u64) << 16]
    }

    /// The first word of the IPv6 header.
    #[inline(always)]
    pub(super) fn ipv6(&self, inner: &Inner) -> u64 {
        const FLOW_LABEL: u64 = 0x000f_ffff_u32.to_be() as u64;
        let length = (inner.length + self.length() - IPV6) as u16;
        let class = inner.class as u64;
        0x60 | class >> 4
            | (class & 0xf) << 12
            | (self.hash >> 32) & FLOW_LABEL
            | (length.to_be() as u64) << 32
            | (self.protocol(inner) as u64) << 48
            | (inner.hops as u64) << 56
    }

    /// Length and checksum of UDP: there is none.
    #[inline(always)]
    pub(super) fn udp(inner: &Inner) -> u32 {
        ((inner.length + UDP) as u16).to_be() as u32
    }
}

/// Puts the packet, whose header begins at `from`, behind the outer header in its frame. Checked already: nothing fails but for want of room in
/// front, and then the packet is unchanged.
#[inline(always)]
fn put<P: Packet>(
    packet: &mut P,
    control: &Control,
    outer: &Outer,
    inner: &Inner,
    from: usize,
    link: &Link,
) -> Result<(), Verdict> {
    let to = link.l3;
    let ports = outer.ports(control.gue_port.load());
    let written = (|| match outer.family {
        Family::V4 => {
            let [first, second] = outer.ipv4(inner);
            let destination = outer.destination[1] >> 32;
            packet.advance(from as isize - (to + outer.length()) as isize)?;
            link.store(packet, ethertype::IPV4)?;
            packet.store(to, first)?;
            packet.store(to + 8, second)?;
            if outer.is_gue {
                packet.store(to + 16, destination | (ports as u64) << 32)?;
                packet.store(to + 24, Outer::udp(inner))?;
                inner.age(packet, to + IPV4 + UDP)
            } else {
                packet.store(to + 16, destination as u32)?;
                inner.age(packet, to + IPV4)
            }
        }
        Family::V6 => {
            packet.advance(from as isize - (to + outer.length()) as isize)?;
            link.store(packet, ethertype::IPV6)?;
            packet.store(to, outer.ipv6(inner))?;
            packet.store(to + 8, outer.source[0])?;
            packet.store(to + 16, outer.source[1])?;
            packet.store(to + 24, outer.destination[0])?;
            packet.store(to + 32, outer.destination[1])?;
            if outer.is_gue {
                packet.store(to + 40, ports as u64 | (Outer::udp(inner) as u64) << 32)?;
                inner.age(packet, to + IPV6 + UDP)
            } else {
                inner.age(packet, to + IPV6)
            }
        }
    })();
    written.ok_or(Verdict::Truncated)
}
