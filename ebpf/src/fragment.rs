//! Fragmented packets: the first fragment has the ports, the others follow it.
//!
//! ```text
//! to an address of ours, in a frame to us? no: NotVip, OtherHost · from a peer? Delivered
//! nonsense? BadLength
//! first: headers whole? no: TinyFragment
//!        as any packet; where it went is recorded
//! later: over the first one's headers? TinyFragment
//!        first one known? no: EarlyFragment · its backend still the same? there
//! ```
//!
//! The program can hold no packet back, so a later fragment that overtakes its first is dropped.
//! The first one, arriving then, is recorded all the same: what the sender sends again finds it.
//! Nothing that was refused is recorded, so what is left of it is dropped too.
//!
//! The table is sets of four. A newcomer takes a free entry or the oldest: whoever floods it with
//! first fragments can make others' later fragments be dropped, and nothing else.
//!
//! Several CPUs may write a set at once. An entry is claimed by exchanging its value for one that
//! nobody follows, then gets its key, then its value; who reads it looks at the value before and
//! after the key.

use crate::{
    abi::{Control, FRAGMENT_WAYS, Followed, Fragment, FragmentLifetimes, Mode, identity},
    address,
    event::Event,
    flow, hash,
    nat::{self, session},
    packet::Packet,
    parse::{Family, Head, protocol},
    parts::Parts,
    steer::{Arrival, Decision, Tables, arrival, deliver, steer_any, usable},
    verdict::{Fate, Verdict},
};

/// How long later fragments may follow, in units of [`flow::SEEN_SHIFT`] jiffies.
#[inline(always)]
fn lifetime(control: &Control, family: Family) -> u32 {
    let lifetimes = FragmentLifetimes::unpack(control.fragment_lifetimes.load());
    match family {
        Family::V4 => lifetimes.v4,
        Family::V6 => lifetimes.v6,
    }
}

/// The value of an entry that is being written.
const CLAIMED: u64 = 1;

/// Decides about a fragment.
///
/// The parts are called one after another and not by each other, as all functions on the way to the
/// innermost one share the stack.
#[inline(always)]
pub fn fragment<P: Packet, T: Parts>(packet: &mut P, tables: &T, head: u64) -> Decision {
    let word = tables.follow(packet, head);
    match word & 0xff {
        next::SEND => deliver(
            packet,
            tables,
            head,
            (word >> 8) as u32,
            (word >> 40) as u16,
        ),
        next::FIRST => {
            let decision = steer_any(packet, tables, head);
            tables.record((word >> 8) as u32, decision.pack());
            decision
        }
        _ => Decision::unpack(word),
    }
}

/// The lowest byte of [`follow`]'s word, if it is no verdict.
mod next {
    /// [`crate::steer::deliver`], with the service in bits 8-39 and the backend in 40-55.
    pub(super) const SEND: u64 = 0xfe;
    /// It is a first fragment: [`crate::steer::steer_any`], then [`super::record`] with what is in
    /// bits 8-39.
    pub(super) const FIRST: u64 = 0xff;
}

/// Decides about a fragment, or about what is [`next`]. The word is a [`Decision::pack`]ed one, or
/// its.
#[inline(always)]
pub fn follow<P: Packet, T: Parts>(packet: &mut P, tables: &T, head: &Head) -> u64 {
    match decide(packet, tables, head) {
        Ok(word) => word,
        Err(verdict) => Decision::new(verdict).pack(),
    }
}

#[inline(always)]
fn decide<P: Packet, T: Parts>(packet: &mut P, tables: &T, head: &Head) -> Result<u64, Verdict> {
    let control = tables.control().ok_or(Verdict::NotVip)?;
    let payload = sound(packet, tables, control, head)?;
    if head.part.offset != 0 {
        return later(packet, tables, control, head);
    }
    match header(head.protocol()) {
        // Large echo requests, wrapped packets.
        0 => {
            let decision = Decision::new(Verdict::NoService).pack();
            record(tables, reserve(tables, control, head), decision);
            Ok(decision)
        }
        needed if payload < needed => Err(Verdict::TinyFragment),
        _ => Ok(next::FIRST | (reserve(tables, control, head) as u64) << 8),
    }
}

/// [`reserve`]: there is no place.
const NOWHERE: u32 = u32::MAX;

/// Records where a first fragment went, a [`Decision::pack`]ed word, in its place.
#[inline(always)]
pub fn record<T: Tables>(tables: &T, place: u32, decision: u64) -> u64 {
    let decision = Decision::unpack(decision);
    // Nowhere is in no set.
    let Some(set) = tables.fragments(place / FRAGMENT_WAYS as u32) else {
        return 0;
    };
    let entry = &set.0[place as usize % FRAGMENT_WAYS];
    if !matches!(decision.verdict.fate(), Fate::Pass | Fate::Out) {
        entry.value.store(0);
        return 0;
    }
    let generation = match usable(tables, decision.backend) {
        Some((_, state)) => state.generation,
        None => 0,
    };
    let value = Followed {
        backend: decision.backend,
        generation,
        service: decision.service,
        verdict: decision.verdict,
        seen: flow::seen(tables.jiffies()),
    };
    entry.value.store(value.pack());
    tables.event(Event::FragmentRecorded);
    1
}

/// How many bytes of its packet a fragment has, if it is for this host.
///
/// # Errors
///
/// The verdict on it.
#[inline(always)]
fn sound<P: Packet, T: Parts>(
    packet: &P,
    tables: &T,
    control: &Control,
    head: &Head,
) -> Result<usize, Verdict> {
    let role = address::role(tables, control, head.destination);
    if role.0 == 0 {
        return Err(Verdict::NotVip);
    }
    match arrival(packet, tables, control) {
        Arrival::Other => Err(Verdict::OtherHost),
        // To other addresses a peer sends for itself: it may be a backend of translated flows.
        Arrival::FromPeer if role.is_virtual() => Err(Verdict::Delivered),
        Arrival::Ours | Arrival::FromPeer => payload(packet, head),
    }
}

/// How many bytes of its packet a fragment has.
///
/// # Errors
///
/// [`Verdict::BadLength`]: none, or not a multiple of eight although others follow (RFC 791 3.2),
/// or beyond what a packet can have, or beyond the frame.
#[inline(always)]
fn payload<P: Packet>(packet: &P, head: &Head) -> Result<usize, Verdict> {
    let (at, header) = match head.family {
        Family::V4 => (head.l3() + 2, 0),
        Family::V6 => (head.l3() + 4, 40),
    };
    let stated: u16 = packet.load(at).ok_or(Verdict::Truncated)?;
    let end = head.l3() + header + u16::from_be(stated) as usize;
    if end <= head.l4() || end > packet.length() {
        return Err(Verdict::BadLength);
    }
    let payload = end - head.l4();
    if head.part.more != 0 && !payload.is_multiple_of(8) {
        return Err(Verdict::BadLength);
    }
    // The headers of each fragment that the whole packet's length counts too: IPv6's own header and
    // that of the fragment it does not.
    let counted = head.l4()
        - head.l3()
        - match head.family {
            Family::V4 => 0,
            Family::V6 => 48,
        };
    if counted + head.part.offset as usize * 8 + payload > 0xffff {
        return Err(Verdict::BadLength);
    }
    Ok(payload)
}

/// The transport header that must be in the first fragment (RFC 1858); 0: of a protocol that is not
/// steered.
#[inline(always)]
const fn header(protocol: u8) -> usize {
    match protocol {
        protocol::TCP => 20,
        protocol::UDP => 8,
        _ => 0,
    }
}

/// Takes a place for a first fragment, before it goes on its way: behind that it would not say any
/// more which one it was.
#[inline(always)]
fn reserve<T: Tables>(tables: &T, control: &Control, head: &Head) -> u32 {
    let now = flow::seen(tables.jiffies());
    let key = key(head);
    let number = set(control, head);
    let Some(set) = tables.fragments(number) else {
        return NOWHERE;
    };
    let way = match find(&set.0, head, key) {
        Some(way) => way,
        None => oldest(&set.0, now),
    };
    let entry = &set.0[way as usize % FRAGMENT_WAYS];
    let before = entry.value.load();
    // Another CPU took it: the packet goes unrecorded, as if it had been pushed out at once.
    if before == CLAIMED || entry.value.compare_exchange(before, CLAIMED) != before {
        return NOWHERE;
    }
    let evicts = before != 0 && !is(entry, head, key) && {
        let family = match entry.identity.load() as u8 {
            protocol::FRAGMENT => Family::V6,
            _ => Family::V4,
        };
        flow::age(now, Followed::unpack(before).seen) <= lifetime(control, family)
    };
    entry.source[0].store(head.source[0]);
    entry.source[1].store(head.source[1]);
    entry.destination[0].store(head.destination[0]);
    entry.destination[1].store(head.destination[1]);
    entry.identity.store(key);
    let ports = head.source_port as u64 | (head.destination_port() as u64) << 16;
    entry.ports.store(ports);
    if evicts {
        tables.event(Event::FragmentEvicted);
    }
    number * FRAGMENT_WAYS as u32 + way
}

/// A later fragment goes where the first one went.
#[inline(always)]
fn later<P: Packet, T: Parts>(
    packet: &mut P,
    tables: &T,
    control: &Control,
    head: &Head,
) -> Result<u64, Verdict> {
    // It would lie over the header that the first fragment had (RFC 1858 section 4).
    if (head.part.offset as usize * 8) < header(head.protocol()) {
        return Err(Verdict::TinyFragment);
    }
    let early = Verdict::EarlyFragment;
    let key = key(head);
    let set = tables.fragments(set(control, head)).ok_or(early)?;
    let way = find(&set.0, head, key).ok_or(early)?;
    let entry = &set.0[way as usize % FRAGMENT_WAYS];
    let value = entry.value.load();
    let ports = entry.ports.load();
    if value == 0 || value == CLAIMED || !is(entry, head, key) {
        return Err(early);
    }
    let followed = Followed::unpack(value);
    if flow::age(flow::seen(tables.jiffies()), followed.seen) > lifetime(control, head.family) {
        return Err(early);
    }
    let word = match followed.verdict {
        Verdict::Local | Verdict::Dsr | Verdict::Tunnel | Verdict::Nat => {
            let (_, state) = usable(tables, followed.backend).ok_or(early)?;
            // By the mode it has now, unless that has to know more than was recorded.
            let is_translated = matches!(followed.verdict, Verdict::Nat);
            if !state.alive
                || state.generation != followed.generation
                || is_translated != matches!(state.mode, Mode::Nat)
            {
                return Err(early);
            }
            if is_translated {
                let place = session::find(
                    tables,
                    control,
                    head.family,
                    head.source,
                    ports as u16,
                    followed.service,
                );
                translated(packet, tables, head, place.ok_or(early)?, false)?
            } else {
                next::SEND | (followed.service as u64) << 8 | (followed.backend as u64) << 40
            }
        }
        Verdict::NatReturn => {
            let role = address::role(tables, control, head.destination);
            let number = role.nat().ok_or(early)?;
            let place = session::place(number, (ports >> 16) as u16);
            translated(packet, tables, head, place, true)?
        }
        verdict => Decision {
            service: followed.service,
            ..Decision::new(verdict)
        }
        .pack(),
    };
    tables.event(Event::FragmentFollowed);
    Ok(word)
}

#[inline(always)]
fn translated<P: Packet, T: Parts>(
    packet: &mut P,
    tables: &T,
    head: &Head,
    place: u32,
    homeward: bool,
) -> Result<u64, Verdict> {
    let word = if homeward {
        nat::part_to_client(packet, tables, head, place)
    } else {
        nat::part_to_backend(packet, tables, head, place)
    };
    match word {
        // The session is gone, or another one's now: not one that the stack could have.
        Err(Verdict::NatUnknown) => Err(Verdict::EarlyFragment),
        word => word,
    }
}

#[inline(always)]
const fn key(head: &Head) -> u64 {
    let protocol = match head.family {
        Family::V4 => head.protocol(),
        Family::V6 => protocol::FRAGMENT,
    };
    identity(head.part.identification, protocol)
}

#[inline(always)]
fn set(control: &Control, head: &Head) -> u32 {
    hash::fragment(
        head.source,
        head.destination,
        key(head),
        control.flow_seed.load(),
    )
}

/// The entry's way in the set.
#[inline(always)]
fn find(set: &[Fragment; FRAGMENT_WAYS], head: &Head, key: u64) -> Option<u32> {
    let [a, b, c, d] = set;
    if is(a, head, key) {
        Some(0)
    } else if is(b, head, key) {
        Some(1)
    } else if is(c, head, key) {
        Some(2)
    } else if is(d, head, key) {
        Some(3)
    } else {
        None
    }
}

#[inline(always)]
fn is(entry: &Fragment, head: &Head, key: u64) -> bool {
    entry.identity.load() == key
        && entry.source[1].load() == head.source[1]
        && entry.source[0].load() == head.source[0]
        && entry.destination[1].load() == head.destination[1]
        && entry.destination[0].load() == head.destination[0]
}

/// The way of a free entry, else of the oldest.
#[inline(always)]
fn oldest(set: &[Fragment; FRAGMENT_WAYS], now: u32) -> u32 {
    let [a, b, c, d] = set;
    let ab = older((0, age(a, now)), (1, age(b, now)));
    let cd = older((2, age(c, now)), (3, age(d, now)));
    older(ab, cd).0
}

#[inline(always)]
fn older<T>(one: (T, u32), other: (T, u32)) -> (T, u32) {
    if other.1 > one.1 { other } else { one }
}

/// How old an entry is; a free one is older than any.
#[inline(always)]
fn age(entry: &Fragment, now: u32) -> u32 {
    match entry.value.load() {
        0 => u32::MAX,
        value => flow::age(now, Followed::unpack(value).seen),
    }
}
