//! What opens a flow, or changes what is known of one: SYNs, first packets, QUIC.
//!
//! ```text
//! flow known, its backend alive, and no new connection from the same port? its backend
//! may it come in? no: Land, ZeroPort, BadLength, Denied, Limited
//! a QUIC connection id names a backend? that one
//! else the scheduler's choice; recorded, in place of what is missed least
//! ```

use crate::{
    abi::{BackendState, Control, Service},
    admit,
    event::Event,
    flow::{self, Entry, Key, Key4, Key6, State, Value, WAYS},
    mss,
    packet::Packet,
    parse::{Family, Head, Signal},
    parts::Parts,
    select,
    steer::{Tables, kept, usable},
    verdict::Verdict,
};

const REFUSED: u64 = 1 << 32;

/// Decides about a packet whose flow is not known, or may be another one now. [`unpack`] says what
/// the word means.
#[inline(always)]
pub fn arrive<P: Packet, T: Parts>(
    packet: &mut P,
    tables: &T,
    head: &Head,
    service_slot: u32,
) -> u64 {
    let Some(service) = tables.service(service_slot) else {
        return refused(0, Verdict::BadBackend);
    };
    match decide(packet, tables, service, head) {
        Ok(id) => {
            let mss = service.policy().mss();
            if mss != 0 && head.signal.opens() {
                mss::clamp(packet, tables, head, mss);
            }
            id as u64
        }
        Err((id, verdict)) => refused(id, verdict),
    }
}

#[inline(always)]
const fn refused(id: u16, verdict: Verdict) -> u64 {
    id as u64 | (verdict as u64) << 16 | REFUSED
}

/// The backend's id, and the verdict where the packet does not go there.
#[must_use]
#[inline(always)]
pub const fn unpack(word: u64) -> (u16, Option<Verdict>) {
    let refusal = if word & REFUSED != 0 {
        Some(Verdict::unpack(word >> 16))
    } else {
        None
    };
    (word as u16, refusal)
}

/// Notes a packet of a known flow, whose word is `word`. Writes only what changed: at most once a
/// second for a flow whose state stays, so that its cache line stays shared.
#[inline(always)]
pub fn touch<T: Tables, E: Entry<K>, K>(
    tables: &T,
    control: &Control,
    entry: &E,
    word: u64,
    signal: Signal,
) {
    let now = flow::seen(tables.jiffies());
    let next = flow::follow(word, signal, now, control.confirm.load() as u32);
    if next != word {
        entry.value().store(next);
        if is_closing(next) && !is_closing(word) {
            select::left(tables, (word >> 48) as u16);
        }
    }
}

#[inline(always)]
const fn is_closing(word: u64) -> bool {
    matches!(State::from_word(word), Some(State::Closing))
}

#[inline(always)]
fn decide<P: Packet, T: Parts>(
    packet: &P,
    tables: &T,
    service: &Service,
    head: &Head,
) -> Result<u16, (u16, Verdict)> {
    let bad = (0, Verdict::BadBackend);
    let control = tables.control().ok_or(bad)?;
    let seed = control.flow_seed.load();
    match head.family {
        Family::V4 => {
            let key = Key4::new(head.source4(), head.source_port, service.id);
            let hash = head.flow_hash(seed);
            let set = &tables.set4(hash).ok_or(bad)?.0;
            let tag = flow::tag(hash);
            decide_in(packet, tables, control, service, head, set, key, tag)
        }
        Family::V6 => {
            let key = Key6::new(head.source, head.source_port, service.id);
            let hash = head.flow_hash(seed);
            let set = &tables.set6(hash).ok_or(bad)?.0;
            let tag = flow::tag(hash);
            decide_in(packet, tables, control, service, head, set, key, tag)
        }
    }
}

#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "the same for both families")]
fn decide_in<P: Packet, T: Parts, K: Key>(
    packet: &P,
    tables: &T,
    control: &Control,
    service: &Service,
    head: &Head,
    set: &[K::Entry; WAYS],
    key: K,
    tag: u64,
) -> Result<u16, (u16, Verdict)> {
    let now = flow::seen(tables.jiffies());
    let found = flow::find(set, key);
    let named = if service.policy().is_quic() {
        select::quic(packet, tables, service, head)
    } else {
        0
    };
    if let Some(entry) = found
        && let Some((value, ..)) = kept(tables, entry.value(), tag)
    {
        // A SYN on a closing flow is a new connection from the same port.
        let reopened = value.state.is_closing() && head.signal.opens();
        if !reopened && (named == 0 || named == value.backend) {
            touch(tables, control, entry, entry.value().load(), head.signal);
            return Ok(value.backend);
        }
    }
    admit::admit(packet, tables, service, head).map_err(|verdict| (0, verdict))?;
    // Where it will be recorded, if it may have a place.
    let entry = found.or_else(|| flow::victim::<K>(set, now, &control.flow_idle));
    let id = if named != 0 {
        named
    } else {
        let is_kept = entry.is_some();
        select::choose(tables, service, head.source, head.source_port, is_kept)
    };
    if id == 0 {
        return Err((0, Verdict::NoBackend));
    }
    let Some((_, state)) = usable(tables, id) else {
        return Err((id, Verdict::BadBackend));
    };
    match entry {
        Some(entry) => {
            let is_known = found.is_some();
            record(
                tables, service, head, entry, is_known, key, tag, now, id, state,
            );
        }
        None => tables.event(Event::FlowUnrecorded),
    }
    Ok(id)
}

/// Records a new flow in this entry, its own before or another one's.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "one caller, whose tail it is")]
fn record<T: Parts, K: Key>(
    tables: &T,
    service: &Service,
    head: &Head,
    entry: &K::Entry,
    is_known: bool,
    key: K,
    tag: u64,
    now: u32,
    id: u16,
    state: BackendState,
) {
    let before = entry.value().load();
    match State::from_word(before) {
        None => {}
        Some(State::Closing) => tables.event(Event::FlowEvictedClosing),
        Some(gone) => {
            if !is_known {
                tables.event(match gone {
                    State::New => Event::FlowEvictedNew,
                    _ if flow::is_confirmed(before) => Event::FlowEvictedIdle,
                    _ => Event::FlowEvictedUnconfirmed,
                });
            }
            select::left(tables, (before >> 48) as u16);
        }
    }
    let value = Value {
        backend: id,
        generation: state.generation,
        state: State::first(head.signal),
        seen: now,
    };
    flow::record(entry, key, flow::first(value, tag, head.protocol()));
    tables.event(Event::FlowRecorded);
    if !value.state.is_closing() {
        select::joined(tables, service, id);
    }
}
