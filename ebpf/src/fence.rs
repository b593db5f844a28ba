//! Fencing this host off when its daemon is dead and another host has taken its addresses over.
//!
//! The kernel goes on answering ARP and neighbour discovery for the addresses that a killed daemon
//! left on the host: two hosts would then have them. The program outlives the daemon, and sees all
//! that it takes to know better:
//!
//! ```text
//! an advert of the virtual router, or an announcement of one of its addresses, by another host
//!   and this host has the addresses
//!   and the daemon's last sign of life is older than its patience ---> fenced
//! fenced: questions for the addresses are dropped, so that only the new master answers
//! ```
//!
//! While the daemon gives signs of life nothing that arrives can fence: who is master is then its
//! decision alone. It also ends the fence, when it is back and knows who has the addresses.
//!
//! Packets to the addresses are steered as before. Clients send them until they have heard of the new
//! master, and this host still knows where their flows belong.
//!
//! None of this is on the way of a packet to a service: what arrives here is ARP, neighbour
//! discovery, VRRP (IP protocol 112) and authentication headers around it.

use crate::{
    abi::{Claim, Control, Fence, MacOwner, Rival, Watch, mapped},
    address,
    event::Event,
    packet::Packet,
    parse::{Family, Head, MAX_L4, ethertype, protocol},
    rewrite,
    steer::{Arrival, Decision, Tables, arrival, is_known},
    verdict::Verdict,
};

/// ICMPv6's neighbour discovery (RFC 4861 section 4).
pub mod discovery {
    /// Neighbour solicitation.
    pub const SOLICITATION: u8 = 135;
    /// Neighbour advertisement.
    pub const ADVERTISEMENT: u8 = 136;
}

/// Ethernet and IPv4 with addresses of 6 and 4 bytes (RFC 826), the first six bytes of ARP as read.
const ARP_KIND: u64 = u64::from_le_bytes([0, 1, 8, 0, 6, 4, 0, 0]);
/// The operation "request", as read behind them.
const ARP_REQUEST: u64 = 1_u16.to_be() as u64;

/// How many of an advert's addresses are looked at. IPv6 adverts begin with a link-local address,
/// which need not be a virtual one here.
const ADVERT_ADDRESSES: usize = 3;

/// Decides about a frame that is neither IPv4 nor IPv6: ARP, behind at most two tags, may be for us.
/// The word is a verdict's number.
#[inline(always)]
pub fn arp<P: Packet, T: Tables>(packet: &P, tables: &T) -> u64 {
    decide_arp(packet, tables).unwrap_or(Verdict::NotIp) as u64
}

#[inline(always)]
fn decide_arp<P: Packet, T: Tables>(packet: &P, tables: &T) -> Option<Verdict> {
    let control = tables.control()?;
    let l3 = arp_place(packet)?;
    let kind: u64 = packet.load(l3)?;
    let (sender, target): (u32, u32) = (packet.load(l3 + 14)?, packet.load(l3 + 24)?);
    if kind & 0xffff_ffff_ffff != ARP_KIND {
        return None;
    }
    let fence = fence_of(tables, control, mapped(target))?;
    // Gratuitous: who sends it says that the address is its own, and asks nobody (RFC 5227 section 3).
    if sender == target {
        claimed(packet, tables, control, fence, Claim::Announcement);
    }
    (kind >> 48 == ARP_REQUEST && is_fenced(fence)).then_some(Verdict::Fenced)
}

/// Where ARP begins; `None`: the frame is something else.
#[inline(always)]
fn arp_place<P: Packet>(packet: &P) -> Option<usize> {
    let mut l3 = 14;
    let mut kind: u16 = packet.load(12)?;
    if kind == ethertype::VLAN || kind == ethertype::QINQ {
        l3 = 18;
        kind = packet.load(16)?;
        if kind == ethertype::VLAN {
            l3 = 22;
            kind = packet.load(20)?;
        }
    }
    (kind == ethertype::ARP).then_some(l3)
}

/// Whether what a packet carries may fence or is a question: [`message`] decides then. Asked of
/// whole packets that are neither TCP nor UDP.
#[inline(always)]
pub fn concerns<P: Packet>(packet: &P, head: &Head) -> bool {
    match (head.protocol(), head.family) {
        (protocol::VRRP, _) | (protocol::AUTHENTICATION, Family::V4) => true,
        (protocol::ICMPV6, Family::V6) => matches!(
            packet.load::<u8>(head.l4()),
            Some(discovery::SOLICITATION | discovery::ADVERTISEMENT)
        ),
        _ => false,
    }
}

/// Decides about neighbour discovery and adverts. The word is a [`Decision::pack`]ed one.
#[inline(always)]
pub fn message<P: Packet, T: Tables>(packet: &mut P, tables: &T, head: &Head) -> u64 {
    let verdict = match tables.control() {
        Some(control) => {
            let fenced = match head.protocol() {
                protocol::ICMPV6 => discover(packet, tables, control, head),
                _ => advert(packet, tables, control, head),
            };
            fenced.unwrap_or_else(|| otherwise(packet, tables, control, head))
        }
        None => Verdict::NotVip,
    };
    Decision::new(verdict).pack()
}

/// The verdict on what does not end here: the host's stack takes it, if it is for this host.
#[inline(always)]
fn otherwise<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    control: &Control,
    head: &Head,
) -> Verdict {
    let role = address::role(tables, control, head.destination);
    if !role.is_ours() {
        return Verdict::NotVip;
    }
    match arrival(packet, tables, control) {
        _ if head.protocol() != protocol::ICMPV6 => Verdict::NoService,
        Arrival::Other => Verdict::OtherHost,
        Arrival::FromPeer if role.is_virtual() => Verdict::Delivered,
        Arrival::Ours | Arrival::FromPeer => Verdict::NoService,
    }
}

#[inline(always)]
fn discover<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    control: &Control,
    head: &Head,
) -> Option<Verdict> {
    let l4 = head.l4();
    let target1 = packet.load(l4 + 16)?;
    let target = [packet.load(l4 + 8)?, target1];
    let (kind, flags): (u8, u8) = (packet.load(l4)?, packet.load(l4 + 4)?);
    // Only from the segment (RFC 4861 section 7.1).
    if ttl(packet, head)? != 255 {
        return None;
    }
    let fence = fence_of(tables, control, target)?;
    if kind == discovery::SOLICITATION {
        return is_fenced(fence).then_some(Verdict::Fenced);
    }
    // An answer to a question of ours is no announcement (RFC 4861 section 4.4).
    const SOLICITED: u8 = 0x40;
    if flags & SOLICITED == 0 {
        claimed(packet, tables, control, fence, Claim::Announcement);
    }
    None
}

#[inline(always)]
fn advert<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    control: &Control,
    head: &Head,
) -> Option<Verdict> {
    let l4 = match head.protocol() {
        protocol::AUTHENTICATION => behind_authentication(packet, head)?,
        _ => head.l4(),
    };
    let ttl = ttl(packet, head)?;
    // Version and type, VRID, priority, count of addresses: alike in versions 2 and 3 (RFC 3768
    // section 5.1, RFC 9568 section 5.1).
    let word: u32 = packet.load(l4)?;
    let [kind, vrid, priority, count] = word.to_le_bytes();
    // Priority 0: it resigns.
    if kind != 0x21 && kind != 0x31 || priority == 0 {
        return None;
    }
    let mut at = l4 + 8;
    for number in 0..ADVERT_ADDRESSES {
        if number >= count as usize {
            return None;
        }
        let address = match head.family {
            Family::V4 => mapped(packet.load(at)?),
            Family::V6 => {
                let second = packet.load(at + 8)?;
                [packet.load(at)?, second]
            }
        };
        at += match head.family {
            Family::V4 => 4,
            Family::V6 => 16,
        };
        let fence = fence_of(tables, control, address);
        let watch = fence.and_then(|fence| Watch::unpack(fence.watch.load()));
        if let (Some(fence), Some(watch)) = (fence, watch)
            && watch.vrid == vrid
            && ttl >= watch.min_ttl
        {
            claimed(packet, tables, control, fence, Claim::Advert);
            return None;
        }
    }
    None
}

/// Where what an authentication header protects begins (RFC 2402), if that is VRRP.
#[inline(always)]
fn behind_authentication<P: Packet>(packet: &P, head: &Head) -> Option<usize> {
    let word: u16 = packet.load(head.l4())?;
    let [next, length] = word.to_le_bytes();
    let l4 = head.l4() + 4 * (length as usize + 2);
    (next == protocol::VRRP).then_some(l4 & (4 * MAX_L4 - 1))
}

#[inline(always)]
fn ttl<P: Packet>(packet: &P, head: &Head) -> Option<u8> {
    packet.load(match head.family {
        Family::V4 => head.l3() + 8,
        Family::V6 => head.l3() + 7,
    })
}

/// The fence of the virtual router that an address belongs to.
#[inline(always)]
fn fence_of<'t, T: Tables>(
    tables: &'t T,
    control: &Control,
    address: [u64; 2],
) -> Option<&'t Fence> {
    let role = address::role(tables, control, address);
    tables.fence(role.router()?)
}

#[inline(always)]
fn is_fenced(fence: &Fence) -> bool {
    fence.since_ns.load() != 0
}

/// Another host says that it has the addresses: fences, if this one has them and its daemon is dead.
#[inline(always)]
fn claimed<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    control: &Control,
    fence: &Fence,
    claim: Claim,
) {
    let (Some(watch), Some(mac)) = (
        Watch::unpack(fence.watch.load()),
        rewrite::source_mac(packet),
    ) else {
        return;
    };
    // What this host sent comes back over a loop, or from a port that mirrors.
    let is_own = !is_virtual(mac) && is_known(tables, control.macs.load(), mac, MacOwner::Own);
    if !watch.held || is_fenced(fence) || is_own {
        return;
    }
    let (heartbeat, patience) = (control.heartbeat_ns.load(), fence.patience_ns.load());
    let now = tables.boot_ns();
    if heartbeat == 0 || patience == 0 || now.saturating_sub(heartbeat) <= patience {
        return;
    }
    fence.rival.store(Rival { mac, claim }.pack());
    fence.since_ns.store(now);
    tables.event(Event::Fenced);
}

/// Whether a MAC is a virtual router's (RFC 9568 section 7.3), which its masters have in turn.
#[inline(always)]
const fn is_virtual(mac: u64) -> bool {
    let prefix = u64::from_le_bytes([0, 0, 0x5e, 0, 0, 0, 0, 0]);
    let family = mac >> 32 & 0xff;
    mac & 0xffff_ffff == prefix && (family == 1 || family == 2)
}
