//! The backend of a new flow.

use crate::{
    abi::{RING_LINE, Scheduler, Service},
    event::Event,
    hash,
    packet::Packet,
    parse::Head,
    repeat::{Step, repeat},
    steer::{Tables, usable},
};

/// The scheduler's choice; 0: none. Of a flow that is not `kept`, each packet is chosen for anew: by
/// the hash, whatever the scheduler, or they would be spread over all backends.
#[inline(always)]
pub fn choose<T: Tables>(
    tables: &T,
    service: &Service,
    client: [u64; 2],
    client_port: u16,
    kept: bool,
) -> u16 {
    let (first, slots) = service.ring();
    if slots == 0 {
        return 0;
    }
    let policy = service.policy();
    let scheduler = if kept {
        policy.scheduler()
    } else {
        Scheduler::Hash
    };
    match scheduler {
        Scheduler::Hash => {
            let affinity = policy.affinity();
            let hash = hash::ring(client, client_port, service.salt, affinity);
            at(tables, first, hash::reduce(hash, slots))
        }
        Scheduler::Sequence => {
            let turn = service.cursor.fetch_add(1);
            at(tables, first, (turn % slots as u64) as u32)
        }
        Scheduler::LeastConnections => {
            let hash = hash::client(client, client_port);
            least(tables, first, slots, hash::reduce(hash, slots))
        }
    }
}

#[inline(always)]
fn at<T: Tables>(tables: &T, first: u32, slot: u32) -> u16 {
    match tables.ring_line(first + slot / RING_LINE) {
        Some(line) => line.backends[(slot % RING_LINE) as usize],
        None => 0,
    }
}

/// How many backends are compared: the cost does not grow with their number.
const COMPARED: u32 = 32;

/// The backend with the fewest connections for its weight: of all where they are not more than
/// [`COMPARED`], else of as many in a row from a place that the client picks. Of equals the first, so
/// that an idle service spreads its flows too.
#[inline(always)]
fn least<T: Tables>(tables: &T, first: u32, slots: u32, start: u32) -> u16 {
    let mut search = Search {
        tables,
        first,
        slots,
        slot: start,
        best: 0,
        // Nothing is worse than no weight.
        best_load: 1,
        best_weight: 0,
    };
    repeat(if slots < COMPARED { slots } else { COMPARED }, &mut search);
    search.best
}

struct Search<'t, T> {
    tables: &'t T,
    first: u32,
    slots: u32,
    slot: u32,
    best: u16,
    best_load: u64,
    best_weight: u64,
}

impl<T: Tables> Step for Search<'_, T> {
    #[inline(always)]
    fn step(&mut self) -> bool {
        let id = at(self.tables, self.first, self.slot);
        self.slot += 1;
        if self.slot >= self.slots {
            self.slot = 0;
        }
        let Some(load) = self.tables.load(id) else {
            return false;
        };
        // As it would be with the newcomer; below zero until corrected counts as none.
        let connections = load.connections.load();
        let would = if connections >> 63 == 0 {
            (connections & 0xffff_ffff) + 1
        } else {
            1
        };
        let weight = load.weight.load() & 0xffff;
        if would * self.best_weight < self.best_load * weight {
            self.best = id;
            self.best_load = would;
            self.best_weight = weight;
        }
        true
    }
}

/// A backend has one connection more, if its service counts them.
#[inline(always)]
pub fn joined<T: Tables>(tables: &T, service: &Service, id: u16) {
    if matches!(service.policy().scheduler(), Scheduler::LeastConnections)
        && let Some(load) = tables.load(id)
    {
        load.connections.fetch_add(1);
    }
}

/// A backend has one connection less, if its service counts them: only then it has a weight there.
#[inline(always)]
pub fn left<T: Tables>(tables: &T, id: u16) {
    if let Some(load) = tables.load(id)
        && load.weight.load() != 0
    {
        load.connections.fetch_add(u64::MAX);
    }
}

/// The backend that a QUIC packet's connection id names, if it can keep flows; 0: none.
///
/// The id is the server's, in the plain form of QUIC-LB (draft-ietf-quic-load-balancers-20, section
/// 5.1): a first octet, whose upper three bits are 111 where the id is not to be routed by, two
/// octets of server id, and what the server likes. A long header states the id's length (RFC 8999
/// section 5.1), a short one does not; the first packets of a client carry an id of its own choice,
/// which names a server only by chance, and then that server takes the flow like any other.
#[inline(always)]
pub fn quic<P: Packet, T: Tables>(packet: &P, tables: &T, service: &Service, head: &Head) -> u16 {
    let Some(server) = server_id(packet, head.l4() + 8) else {
        return 0;
    };
    let (first, slots) = service.quic();
    let id = if server < slots {
        at(tables, first, server)
    } else {
        0
    };
    match usable(tables, id) {
        Some((_, state)) if id != 0 && state.alive => {
            tables.event(Event::QuicRouted);
            id
        }
        _ => {
            tables.event(Event::QuicUnknown);
            0
        }
    }
}

#[inline(always)]
fn server_id<P: Packet>(packet: &P, quic: usize) -> Option<u32> {
    const LONG: u8 = 0x80;
    let flags: u8 = packet.load(quic)?;
    let id = if flags & LONG != 0 {
        // First octet, version, length of the destination's connection id.
        let length: u8 = packet.load(quic + 5)?;
        if length < 4 {
            return None;
        }
        quic + 6
    } else {
        quic + 1
    };
    let first: u8 = packet.load(id)?;
    if first >> 5 == 7 {
        return None;
    }
    let server: u16 = packet.load(id + 1)?;
    Some(u16::from_be(server) as u32)
}
