//! The way of a packet: service look-up, flow table, ring, rewrite, verdict.
//!
//! ```text
//! for whom? -> service? no: NotVip
//!       -> frame to us? no: OtherHost · from a peer? yes: Delivered
//!       -> flow known and its backend alive? its backend
//!          else the ring's choice, recorded
//!       -> rewrite for the backend's mode
//! ```

use crate::shared::Shared;

use crate::{
    abi::{Backend, BackendState, Control, MacOwner, Mode, RING_LINE, RingLine, Service},
    flow::{self, Key, Key4, Key6, Set4, Set6, State, Value, WAYS},
    hash,
    packet::Packet,
    parse::{Client, Family, Target, client, target},
    rewrite::{self, Stuck},
    verdict::Verdict,
};

/// The maps, and the clock. In the kernel each look-up is inlined array access.
pub trait Tables {
    /// The one entry of the control map.
    fn control(&self) -> Option<&Control>;
    /// A slot of the service tables.
    fn service(&self, slot: u32) -> Option<&Service>;
    /// A backend by id.
    fn backend(&self, id: u16) -> Option<&Backend>;
    /// A line of the rings.
    fn ring_line(&self, line: u32) -> Option<&RingLine>;
    /// A slot of the MAC tables.
    fn mac(&self, slot: u32) -> Option<&Shared>;
    /// The set of an IPv4 flow, by its hash.
    fn set4(&self, hash: u64) -> Option<&Set4>;
    /// The set of an IPv6 flow, by its hash.
    fn set6(&self, hash: u64) -> Option<&Set6>;
    /// The kernel's jiffies.
    fn jiffies(&self) -> u64;
    /// The interface the packet came in through.
    fn ingress(&self) -> u32;
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
    /// The interface it leaves through, for [`Verdict::DsrRedirect`].
    pub ifindex: u32,
}

impl Decision {
    #[inline(always)]
    const fn new(verdict: Verdict) -> Self {
        Self {
            verdict,
            service: 0,
            backend: 0,
            ifindex: 0,
        }
    }
}

/// Decides whether a packet is for a service. Most are not, so this comes first and costs little:
/// what comes after is read only then.
///
/// # Errors
///
/// The verdict on a packet that is not.
#[inline(always)]
pub fn classify<P: Packet + ?Sized, T: Tables>(packet: &P, tables: &T) -> Result<Target, Verdict> {
    let control = tables.control().ok_or(Verdict::NotVip)?;
    let seed = (control.services.load() >> 32) as u32;
    target(packet, |addr, port_proto| {
        let (word, bit) = hash::service_filter(hash::service(addr, port_proto, seed));
        control.filter[word].load() & bit != 0
    })
}

/// Decides about a packet that [`classify`] let through, and rewrites it where it is forwarded.
#[inline(always)]
pub fn steer<P: Packet + ?Sized, T: Tables>(
    packet: &mut P,
    tables: &T,
    target: &Target,
) -> Decision {
    let Some(control) = tables.control() else {
        return Decision::new(Verdict::NotVip);
    };
    let Some(service) = find_service(tables, control, target) else {
        return Decision::new(Verdict::NotVip);
    };
    let mut decision = Decision {
        service: service.id,
        ..Decision::new(Verdict::BadBackend)
    };
    let Some(client) = client(packet, target) else {
        decision.verdict = Verdict::Truncated;
        return decision;
    };
    decision.verdict = match arrival(packet, tables, control) {
        Arrival::Ours => {
            let (id, choice) = choose(tables, control, service, target, &client);
            decision.backend = id;
            match choice {
                Ok((backend, state)) => {
                    decision.ifindex = backend.ifindex;
                    deliver(packet, tables, target, backend, state)
                }
                Err(verdict) => verdict,
            }
        }
        Arrival::Other => Verdict::OtherHost,
        Arrival::FromPeer => Verdict::Delivered,
        Arrival::Truncated => Verdict::Truncated,
    };
    decision
}

/// The service in one of its two slots.
#[inline(always)]
fn find_service<'t, T: Tables>(
    tables: &'t T,
    control: &Control,
    target: &Target,
) -> Option<&'t Service> {
    let table = control.services.load();
    let base = table as u32;
    let hash = hash::service(target.addr, target.port_proto, (table >> 32) as u32);
    let (first, second) = hash::service_slots(hash);
    let service = tables.service(base + first)?;
    if matches(service, target) {
        return Some(service);
    }
    let service = tables.service(base + second)?;
    matches(service, target).then_some(service)
}

#[inline(always)]
fn matches(service: &Service, target: &Target) -> bool {
    service.port_proto == target.port_proto
        && service.addr[1] == target.addr[1]
        && service.addr[0] == target.addr[0]
}

/// Whom a frame for a service is from and to.
enum Arrival {
    Ours,
    Other,
    FromPeer,
    Truncated,
}

#[inline(always)]
fn arrival<P: Packet + ?Sized, T: Tables>(packet: &P, tables: &T, control: &Control) -> Arrival {
    let (Some(to), Some(from)) = (
        rewrite::destination_mac(packet),
        rewrite::source_mac(packet),
    ) else {
        return Arrival::Truncated;
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

#[inline(always)]
fn is_known<T: Tables>(tables: &T, table: u64, mac: u64, owner: MacOwner) -> bool {
    let slot = table as u32 + hash::mac_slot(mac, (table >> 32) as u32);
    match tables.mac(slot) {
        Some(entry) => entry.load() == owner.entry(mac),
        None => false,
    }
}

type Choice<'t> = Result<(&'t Backend, BackendState), Verdict>;

/// The flow's backend, or the ring's.
#[inline(always)]
fn choose<'t, T: Tables>(
    tables: &'t T,
    control: &Control,
    service: &Service,
    target: &Target,
    client: &Client,
) -> (u16, Choice<'t>) {
    let seed = control.flow_seed.load();
    match target.family {
        Family::V4 => {
            let address = (client.addr[1] >> 32) as u32;
            let key = Key4::new(address, client.port, service.id);
            let hash = hash::flow4(key.0, seed);
            match tables.set4(hash) {
                Some(set) => choose_in(tables, control, service, client, &set.0, key, hash),
                None => (0, Err(Verdict::BadBackend)),
            }
        }
        Family::V6 => {
            let key = Key6::new(client.addr, client.port, service.id);
            let hash = hash::flow6(key.0, seed);
            match tables.set6(hash) {
                Some(set) => choose_in(tables, control, service, client, &set.0, key, hash),
                None => (0, Err(Verdict::BadBackend)),
            }
        }
    }
}

#[inline(always)]
fn choose_in<'t, T: Tables, K: Key>(
    tables: &'t T,
    control: &Control,
    service: &Service,
    client: &Client,
    set: &[K::Entry; WAYS],
    key: K,
    hash: u64,
) -> (u16, Choice<'t>) {
    let tag = flow::tag(hash);
    let now = flow::seen(tables.jiffies());
    let found = flow::find(set, key, tag);
    if let Some((entry, Some(value))) = found {
        // A SYN on a closing flow is a new connection from the same port.
        let reopened = value.state.is_closing() && client.signal.opens();
        if !reopened
            && let Some(backend) = tables.backend(value.backend)
            && let Some(state) = BackendState::unpack(backend.state.load())
            && state.alive
            && state.generation == value.generation
        {
            let new = Value {
                state: value.state.after(client.signal),
                seen: now,
                ..value
            };
            flow::touch(entry, value, new, tag);
            return (value.backend, Ok((backend, state)));
        }
    }
    let id = from_ring(tables, service, client);
    if id == 0 {
        return (0, Err(Verdict::NoBackend));
    }
    let Some(backend) = tables.backend(id) else {
        return (id, Err(Verdict::BadBackend));
    };
    let Some(state) = BackendState::unpack(backend.state.load()) else {
        return (id, Err(Verdict::BadBackend));
    };
    let entry = match found {
        Some((entry, _)) => Some(entry),
        None => flow::victim::<K>(set, now, control.established_idle.load() as u32),
    };
    if let Some(entry) = entry {
        let generation = state.generation;
        let value = Value {
            backend: id,
            generation,
            state: State::first(client.signal),
            seen: now,
        };
        flow::record(entry, key, tag, value);
    }
    (id, Ok((backend, state)))
}

/// The backend of a new flow; 0: none.
#[inline(always)]
fn from_ring<T: Tables>(tables: &T, service: &Service, client: &Client) -> u16 {
    let (first, slots) = service.ring();
    let slot = hash::reduce(hash::ring(client.addr, client.port, service.salt), slots);
    match tables.ring_line(first + slot / RING_LINE) {
        Some(line) if slots != 0 => line.backends[(slot % RING_LINE) as usize],
        _ => 0,
    }
}

/// Makes the packet one for its backend.
#[inline(always)]
fn deliver<P: Packet + ?Sized, T: Tables>(
    packet: &mut P,
    tables: &T,
    target: &Target,
    backend: &Backend,
    state: BackendState,
) -> Verdict {
    match state.mode {
        Mode::Local => Verdict::Local,
        Mode::Dsr => {
            let source = backend.source_mac.load();
            match rewrite::forward(packet, target, state.mac, source) {
                Ok(()) if backend.ifindex == tables.ingress() => Verdict::Dsr,
                Ok(()) => Verdict::DsrRedirect,
                Err(Stuck::TtlExpired) => Verdict::TtlExpired,
                Err(Stuck::Truncated) => Verdict::Truncated,
            }
        }
    }
}
