//! The way of a packet.
//!
//! ```text
//! to an address of ours? no: NotVip
//!   plain TCP or UDP ------------------> service? no: see `address`
//!   other: fragment, ICMP, wrapped, ...    -> frame to us? no: OtherHost · from a peer? Delivered
//!     (see `general`)                      -> flow known and its backend alive? its backend
//!                                             else a new one's: see `arrive`
//!                                          -> rewrite for the backend's mode
//! ```
//!
//! What packets of a known flow need stands here and is compiled into one function; everything else
//! is a function of its own, so that it costs them nothing.

use crate::{
    abi::{
        Backend, BackendState, Control, Fence, FragmentSet, Hop, Load, MacOwner, Mode, MovedLine,
        RingLine, Service, SynLimit,
    },
    arrive,
    event::Event,
    flow::{self, Entry, Key, Key4, Key6, Set4, Set6, Value, WAYS},
    fragment,
    general::next,
    hash, icmp, nat,
    packet::Packet,
    parse::{Family, Head, Plain, ethertype, plain4, plain6},
    parts::Parts,
    rewrite,
    shared::Shared,
    tunnel::plain,
    verdict::Verdict,
};

/// The maps, and the clock. In the kernel each look-up but [`Tables::source`] is inlined array
/// access.
pub trait Tables {
    /// The one entry of the control map.
    fn control(&self) -> Option<&Control>;
    /// A slot of the service tables.
    fn service(&self, slot: u32) -> Option<&Service>;
    /// A backend by id.
    fn backend(&self, id: u16) -> Option<&Backend>;
    /// What a backend bears, by its id.
    fn load(&self, id: u16) -> Option<&Load>;
    /// A line of the rings.
    fn ring_line(&self, line: u32) -> Option<&RingLine>;
    /// A slot of the MAC tables.
    fn mac(&self, slot: u32) -> Option<&Shared>;
    /// The set of an IPv4 flow, by its hash.
    fn set4(&self, hash: u64) -> Option<&Set4>;
    /// The set of an IPv6 flow, by its hash.
    fn set6(&self, hash: u64) -> Option<&Set6>;
    /// A set of translated flows.
    fn nat(&self, set: u32) -> Option<&Set6>;
    /// The way back of a translated flow.
    fn hop(&self, place: u32) -> Option<&Hop>;
    /// A line of where older translated flows are.
    fn moved(&self, line: u32) -> Option<&MovedLine>;
    /// A set of fragmented packets.
    fn fragments(&self, set: u32) -> Option<&FragmentSet>;
    /// The limit of a service's new flows, by its id.
    fn limit(&self, service: u32) -> Option<&SynLimit>;
    /// What is done with new flows of a service from an address: a [`crate::abi::SourceRule`];
    /// `None`: nothing is said.
    fn source(&self, service: u32, source: [u64; 2]) -> Option<u32>;
    /// A virtual router of this host, by its number.
    fn fence(&self, router: u32) -> Option<&Fence>;
    /// Whether one more error message may be sent now.
    fn may_tell(&self) -> bool;
    /// Counts an event.
    fn event(&self, event: Event);
    /// The kernel's jiffies.
    fn jiffies(&self) -> u64;
    /// The time since the boot, in nanoseconds, suspended or not. Dear: not for the way of packets.
    fn boot_ns(&self) -> u64;
}

/// What was decided about a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// What becomes of it, and why.
    pub verdict: Verdict,
    /// The service it is for; 0: none.
    pub service: u32,
    /// The backend it goes to; 0: none.
    pub backend: u16,
    /// The interface it leaves through, where its fate is [`crate::verdict::Fate::Out`].
    pub ifindex: u32,
}

impl Decision {
    /// A packet of no service.
    #[must_use]
    #[inline(always)]
    pub const fn new(verdict: Verdict) -> Self {
        Self {
            verdict,
            service: 0,
            backend: 0,
            ifindex: 0,
        }
    }

    /// In one word, for functions of the program to return: verdict in bits 0-7, service in 8-19,
    /// backend in 20-35, interface in 36-63 (Linux numbers them upwards from 1).
    #[must_use]
    #[inline(always)]
    pub const fn pack(self) -> u64 {
        self.verdict as u64
            | (self.service as u64 & 0xfff) << 8
            | (self.backend as u64) << 20
            | (self.ifindex as u64) << 36
    }

    /// From the word.
    #[must_use]
    #[inline(always)]
    pub const fn unpack(word: u64) -> Self {
        Self {
            verdict: Verdict::unpack(word),
            service: (word >> 8) as u32 & 0xfff,
            backend: (word >> 20) as u16,
            ifindex: (word >> 36) as u32,
        }
    }
}

/// Decides about a packet, and rewrites it where it is forwarded.
#[inline(always)]
pub fn run<P: Packet, T: Parts>(packet: &mut P, tables: &T) -> Decision {
    let (Some(control), Some(kind)) = (tables.control(), packet.load::<u16>(12)) else {
        return Decision::new(Verdict::Truncated);
    };
    let wanted = |addr| is_ours(control, addr);
    // A call of its own for each family: what differs is then constant in it.
    match kind {
        ethertype::IPV4 => match plain4(packet, wanted) {
            Plain::Head(head) => return steer(packet, tables, control, &head),
            Plain::NotWanted => return Decision::new(Verdict::NotVip),
            Plain::Other => {}
        },
        ethertype::IPV6 => match plain6(packet, wanted) {
            Plain::Head(head) => return steer(packet, tables, control, &head),
            Plain::NotWanted => return Decision::new(Verdict::NotVip),
            Plain::Other => {}
        },
        // Tagged, or ARP, or nothing for us. Two comparisons are all that IP packets pay for that.
        _ => {}
    }
    let found = tables.general(packet);
    match found & 0xff << 56 {
        next::STEER => steer_any(packet, tables, found),
        next::MESSAGE => icmp::icmp(packet, tables, found),
        next::PART => fragment::fragment(packet, tables, found),
        next::UNWRAP => Decision::unpack(tables.unwrap(packet, found)),
        next::FENCE => Decision::unpack(tables.fence_message(packet, found)),
        next::ARP => Decision::new(Verdict::unpack(tables.arp(packet))),
        _ => Decision::new(Verdict::unpack(found)),
    }
}

/// Whether an address may be ours. Most are not, so this comes first and costs little.
#[inline(always)]
pub fn is_ours(control: &Control, addr: [u64; 2]) -> bool {
    let seed = (control.services.load() >> 32) as u32;
    let (word, bit) = hash::address_filter(hash::address(addr, seed));
    control.filter[word].load() & bit != 0
}

/// Decides about a plain packet to an address of ours.
#[inline(always)]
fn steer<P: Packet, T: Parts>(
    packet: &mut P,
    tables: &T,
    control: &Control,
    head: &Head,
) -> Decision {
    let hash = head.flow_hash(control.flow_seed.load());
    let (service, slot) = match look_up(packet, tables, control, head, hash) {
        Found::Known(service, id, backend, state) => {
            let verdict = match state.mode {
                Mode::Local => Verdict::Local,
                Mode::Dsr if !rewrite::fits(packet, head.family, head.l3(), backend) => {
                    Verdict::unpack(tables.forward(packet, head.pack(), id))
                }
                Mode::Dsr => match rewrite::forward(packet, tables, head, backend, state) {
                    Ok(()) => Verdict::Dsr,
                    Err(stuck) => stuck.verdict(),
                },
                Mode::Ipip | Mode::Gue => {
                    let wrapped = plain::wrap(packet, control, head.family, hash, backend, state);
                    Verdict::unpack(match wrapped {
                        plain::OTHER => tables.wrap(packet, head.pack(), id),
                        verdict => verdict,
                    })
                }
                Mode::Nat => match tables.translate_plain(packet, head.family, id) {
                    nat::plain::OTHER => nat::deliver(packet, tables, head.pack(), id),
                    verdict => Verdict::unpack(verdict),
                },
            };
            return Decision {
                verdict,
                service,
                backend: id,
                ifindex: backend.ifindex,
            };
        }
        Found::New(service, slot) => (service, slot),
        Found::Not(service, verdict) => {
            return Decision {
                service,
                ..Decision::new(verdict)
            };
        }
        Found::NoService => return Decision::unpack(tables.address(packet, head.pack())),
    };
    arrive_and_deliver(packet, tables, head.pack(), service, slot)
}

/// Decides about any TCP or UDP packet to an address of ours: its head as one word.
#[inline(always)]
pub fn steer_any<P: Packet, T: Parts>(packet: &mut P, tables: &T, head: u64) -> Decision {
    let found = tables.look_up(packet, head);
    let (service, value) = ((found >> 40) as u32 & 0xfff, found as u32);
    match found >> 56 {
        Found::KNOWN => deliver(packet, tables, head, service, value as u16),
        Found::NEW => arrive_and_deliver(packet, tables, head, service, value),
        Found::NOT => Decision {
            service,
            ..Decision::new(Verdict::unpack(found))
        },
        _ => Decision::unpack(tables.address(packet, head)),
    }
}

#[inline(always)]
fn arrive_and_deliver<P: Packet, T: Parts>(
    packet: &mut P,
    tables: &T,
    head: u64,
    service: u32,
    slot: u32,
) -> Decision {
    let (id, refusal) = arrive::unpack(tables.arrive(packet, head, slot));
    match refusal {
        Some(verdict) => Decision {
            verdict,
            service,
            backend: id,
            ifindex: 0,
        },
        None => deliver(packet, tables, head, service, id),
    }
}

/// Makes the packet one for its backend.
#[inline(always)]
pub fn deliver<P: Packet, T: Parts>(
    packet: &mut P,
    tables: &T,
    head: u64,
    service: u32,
    id: u16,
) -> Decision {
    let mut decision = Decision {
        service,
        backend: id,
        ..Decision::new(Verdict::BadBackend)
    };
    let Some((backend, state)) = usable(tables, id) else {
        return decision;
    };
    decision.ifindex = backend.ifindex;
    decision.verdict = match state.mode {
        Mode::Local => Verdict::Local,
        Mode::Dsr => Verdict::unpack(tables.forward(packet, head, id)),
        Mode::Ipip | Mode::Gue => Verdict::unpack(tables.wrap(packet, head, id)),
        Mode::Nat => nat::deliver(packet, tables, head, id),
    };
    decision
}

/// What is known of a packet to an address of ours.
pub enum Found<'t> {
    /// Its flow is known, and its backend may keep it: the service's id, the backend's, and itself.
    Known(u32, u16, &'t Backend, BackendState),
    /// It may be the first of a flow: the service's id and its entry's slot.
    New(u32, u32),
    /// It is for a service, but not to be steered.
    Not(u32, Verdict),
    /// It is for no service.
    NoService,
}

impl Found<'_> {
    const KNOWN: u64 = 1;
    const NEW: u64 = 2;
    const NOT: u64 = 3;

    /// As one word: the kind in the upper byte, the service in bits 40 to 51, and below a backend's
    /// id, a slot or a verdict.
    #[must_use]
    #[inline(always)]
    pub fn pack(&self) -> u64 {
        let word = |kind: u64, service: u32, value: u32| {
            kind << 56 | (service as u64 & 0xfff) << 40 | value as u64
        };
        match *self {
            Self::Known(service, id, ..) => word(Self::KNOWN, service, id as u32),
            Self::New(service, slot) => word(Self::NEW, service, slot),
            Self::Not(service, verdict) => word(Self::NOT, service, verdict as u32),
            Self::NoService => 0,
        }
    }
}

/// Looks up a packet's service and flow.
#[inline(always)]
pub fn look_up<'t, P: Packet, T: Tables>(
    packet: &P,
    tables: &'t T,
    control: &Control,
    head: &Head,
    hash: u64,
) -> Found<'t> {
    let Some((slot, service)) = find(tables, control, head.destination, head.port_proto) else {
        return Found::NoService;
    };
    match arrival(packet, tables, control) {
        Arrival::Ours => {}
        Arrival::Other => return Found::Not(service.id, Verdict::OtherHost),
        Arrival::FromPeer => return Found::Not(service.id, Verdict::Delivered),
    }
    match known(tables, control, service, head, hash) {
        Some((id, backend, state)) => Found::Known(service.id, id, backend, state),
        None => Found::New(service.id, slot),
    }
}

/// A backend in use.
#[inline(always)]
pub fn usable<T: Tables>(tables: &T, id: u16) -> Option<(&Backend, BackendState)> {
    let backend = tables.backend(id)?;
    Some((backend, BackendState::unpack(backend.state.load())?))
}

/// The entry of a service, or of an address, in one of its two slots, and that slot.
#[inline(always)]
pub fn find<'t, T: Tables>(
    tables: &'t T,
    control: &Control,
    addr: [u64; 2],
    port_proto: u32,
) -> Option<(u32, &'t Service)> {
    let table = control.services.load();
    let base = table as u32;
    let address = hash::address(addr, (table >> 32) as u32);
    let (first, second) = hash::service_slots(hash::service(address, port_proto));
    let matches = |service: &Service| {
        service.port_proto == port_proto && service.addr[1] == addr[1] && service.addr[0] == addr[0]
    };
    let service = tables.service(base + first)?;
    if matches(service) {
        return Some((base + first, service));
    }
    let service = tables.service(base + second)?;
    matches(service).then_some((base + second, service))
}

/// Whom a frame is from and to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// To this host.
    Ours,
    /// To another one.
    Other,
    /// To this host, and a peer forwarded it.
    FromPeer,
}

/// Whether a frame is to this host.
#[inline(always)]
pub fn is_to_us<P: Packet, T: Tables>(packet: &P, tables: &T, control: &Control) -> bool {
    match rewrite::destination_mac(packet) {
        Some(to) => is_known(tables, control.macs.load(), to, MacOwner::Own),
        None => false,
    }
}

/// Whom a frame is from and to.
#[inline(always)]
pub fn arrival<P: Packet, T: Tables>(packet: &P, tables: &T, control: &Control) -> Arrival {
    // The last one first: the other is then within bounds too, and the verifier knows.
    let Some(from) = rewrite::source_mac(packet) else {
        return Arrival::Other;
    };
    let Some(to) = rewrite::destination_mac(packet) else {
        return Arrival::Other;
    };
    let table = control.macs.load();
    if !is_known(tables, table, to, MacOwner::Own) {
        Arrival::Other
    } else if is_known(tables, table, from, MacOwner::Forwarder) {
        Arrival::FromPeer
    } else {
        Arrival::Ours
    }
}

/// Whether the table of MACs has this one as one of `owner`.
#[inline(always)]
pub fn is_known<T: Tables>(tables: &T, table: u64, mac: u64, owner: MacOwner) -> bool {
    let slot = table as u32 + hash::mac_slot(mac, (table >> 32) as u32);
    match tables.mac(slot) {
        Some(entry) => entry.load() == owner.entry(mac),
        None => false,
    }
}

/// The backend of a known flow that may keep it, for a packet that changes nothing about that: no
/// SYN, and no service whose QUIC connection ids decide.
#[inline(always)]
fn known<'t, T: Tables>(
    tables: &'t T,
    control: &Control,
    service: &Service,
    head: &Head,
    hash: u64,
) -> Option<(u16, &'t Backend, BackendState)> {
    let arrives = head.signal.opens() || service.policy().is_quic();
    match head.family {
        Family::V4 => {
            let key = Key4::new(head.source4(), head.source_port, service.id);
            let set = &tables.set4(hash)?.0;
            if arrives {
                // It will be needed: its line is on its way while a call is prepared.
                let _ = set[0].key.load();
                return None;
            }
            known_in(tables, control, set, key, hash, head)
        }
        Family::V6 => {
            let key = Key6::new(head.source, head.source_port, service.id);
            let set = &tables.set6(hash)?.0;
            if arrives {
                let _ = set[0].value.load();
                return None;
            }
            known_in(tables, control, set, key, hash, head)
        }
    }
}

#[inline(always)]
fn known_in<'t, T: Tables, K: Key>(
    tables: &'t T,
    control: &Control,
    set: &[K::Entry; WAYS],
    key: K,
    hash: u64,
    head: &Head,
) -> Option<(u16, &'t Backend, BackendState)> {
    let tag = flow::tag(hash);
    let entry = flow::find(set, key)?;
    let word = entry.value().load();
    let (value, backend, state) = kept_by(tables, word, tag)?;
    arrive::touch(tables, control, entry, word, head.signal);
    Some((value.backend, backend, state))
}

/// What is known of a flow whose key has this tag, and its backend, if that may keep it.
#[inline(always)]
pub fn kept<'t, T: Tables>(
    tables: &'t T,
    value: &Shared,
    tag: u64,
) -> Option<(Value, &'t Backend, BackendState)> {
    kept_by(tables, value.load(), tag)
}

#[inline(always)]
fn kept_by<T: Tables>(tables: &T, word: u64, tag: u64) -> Option<(Value, &Backend, BackendState)> {
    let value = Value::unpack(word, tag)?;
    let (backend, state) = usable(tables, value.backend)?;
    if !state.alive || state.generation != value.generation {
        return None;
    }
    Some((value, backend, state))
}
