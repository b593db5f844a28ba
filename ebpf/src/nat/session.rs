//! The sessions of translated flows: found, made, kept up to date.
//!
//! A session is an entry of the table, and the entry's place is its translation: no two flows can
//! have one. A flow's hash picks the sets in which its session can be (`sets.rs`), and a new session
//! takes the entry of those that can be spared best (`claim.rs`). What became of addresses or ports
//! since it was made moves no session: those that are not in their flows' sets any more are found by
//! a table of their own (`moved.rs`).
//!
//! Who takes an entry first makes its word that of a claim, in one atomic instruction, then writes
//! the key, then the word. So two CPUs never take the same one, and who reads a claim sees no
//! session. Who reads without knowing the key reads the word before it and behind it.

use super::{
    claim, moved,
    sets::{FAR, Hash, NEAR, Sets},
};
use crate::{
    abi::{Backend, Control, PoolWord, Session},
    event::Event,
    flow::{self, Entry, Entry6, Key6, State, Value, WAYS},
    parse::{Family, Head, Signal, protocol},
    shared::Shared,
    steer::{Tables, usable},
};

/// The place of an address's number and a port (network byte order) in the table.
#[must_use]
#[inline(always)]
pub const fn place(address: u32, port: u16) -> u32 {
    address << 16 | u16::from_be(port) as u32
}

/// The address and port (network byte order) that a backend sees a session's packets come from.
#[must_use]
#[inline(always)]
pub const fn translation(control: &Control, place: u32) -> (&[Shared; 2], u16) {
    let number = (place >> 16) as usize % control.nat_addresses.len();
    (&control.nat_addresses[number], (place as u16).to_be())
}

/// A session that was read: its entry's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found(u64);

impl Found {
    /// Its backend.
    #[must_use]
    #[inline(always)]
    pub const fn backend(self) -> u16 {
        (self.0 >> 48) as u16
    }

    /// The generation of the backend's id.
    #[must_use]
    #[inline(always)]
    pub const fn generation(self) -> u8 {
        (self.0 >> 40) as u8
    }

    /// Whether it is UDP; else TCP.
    #[must_use]
    #[inline(always)]
    pub const fn is_udp(self) -> bool {
        Session::is_udp(self.0)
    }

    /// Whether it is of this protocol.
    #[must_use]
    #[inline(always)]
    pub const fn is_of(self, protocol: u8) -> bool {
        Session::is_udp(self.0) == (protocol == protocol::UDP)
    }
}

/// The client's end of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// Its address, IPv4 mapped.
    pub address: [u64; 2],
    /// Its port, network byte order.
    pub port: u16,
    /// The id of the service that it talks to.
    pub service: u32,
}

/// Whether nothing can be translated for a moment: there are addresses, but no ports, which is how the
/// daemon changes them.
#[inline(always)]
pub fn is_paused<T: Tables>(tables: &T) -> bool {
    tables.control().is_some_and(|control| {
        let pool = PoolWord(control.nat_pool.load());
        pool.sets() == 0 && (pool.ipv4() != 0 || pool.ipv6() != 0)
    })
}

/// The session at a place, if there is one.
#[inline(always)]
pub fn at<T: Tables>(tables: &T, place: u32) -> Option<Found> {
    let word = entry(tables, place)?.value.load();
    Session::is_known(word).then_some(Found(word))
}

/// Its client; `None`: it is another one's meanwhile.
#[inline(always)]
pub fn client<T: Tables>(tables: &T, place: u32, found: Found) -> Option<Client> {
    let entry = entry(tables, place)?;
    let [first, second, third] = &entry.key;
    let (first, second, third) = (first.load(), second.load(), third.load());
    // If so, the key may be half the one's and half the other's.
    if Session::identity(entry.value.load()) != Session::identity(found.0) {
        return None;
    }
    Some(Client {
        address: [first, second],
        port: (third >> 16) as u16,
        service: third as u32 & 0xffff,
    })
}

/// The place of a client's session with a service, if there is one.
#[inline(always)]
pub fn find<T: Tables>(
    tables: &T,
    control: &Control,
    family: Family,
    client: [u64; 2],
    client_port: u16,
    service: u32,
) -> Option<u32> {
    let key = Key6::new(client, client_port, service);
    let pool = PoolWord(control.nat_pool.load());
    let hash = Hash::of(key, control.flow_seed.load());
    let near = Sets::of(pool, family, hash, NEAR)?;
    if let Some((place, _)) = near.find(tables, key) {
        return Some(place);
    }
    let far = Sets::of(pool, family, hash, FAR)?;
    if let Some((place, _)) = far.find(tables, key) {
        return Some(place);
    }
    let (place, _) = moved::find(tables, pool, key, hash)?;
    Some(place)
}

/// The place of the session of a client's packet for a backend, if there is one in the sets where
/// most are, and the packet is noted. One with another backend gets this one, with the same
/// translation.
#[inline(always)]
pub fn known<T: Tables>(
    tables: &T,
    control: &Control,
    head: &Head,
    id: u16,
    backend: &Backend,
    generation: u8,
) -> Option<u32> {
    let key = Key6::new(head.source, head.source_port, backend.service);
    let pool = PoolWord(control.nat_pool.load());
    let hash = Hash::of(key, control.flow_seed.load());
    let sets = Sets::of(pool, head.family, hash, NEAR)?;
    let (place, entry) = sets.find(tables, key)?;
    let fresh = first(tables, head, id, generation);
    keep(tables, entry, hash.tag(), head.signal, fresh).then_some(place)
}

/// The place of a client's session with a backend, if there is one in the sets where most are, and a
/// packet that neither opens nor ends anything changes nothing about it.
#[inline(always)]
pub fn steady<T: Tables>(
    tables: &T,
    control: &Control,
    family: Family,
    client: Client,
    is_udp: bool,
    id: u16,
    generation: u8,
) -> Option<u32> {
    let key = Key6::new(client.address, client.port, client.service);
    let pool = PoolWord(control.nat_pool.load());
    let hash = Hash::of(key, control.flow_seed.load());
    let (place, entry) = Sets::of(pool, family, hash, NEAR)?.keyed(tables, key)?;
    let fresh = Session {
        value: Value {
            backend: id,
            generation,
            state: State::New,
            seen: flow::seen(tables.jiffies()),
        },
        udp: is_udp,
        answered: false,
    };
    fresh
        .is_steady_as(hash.tag(), entry.value.load())
        .then_some(place)
}

/// The place of a session that [`known`] does not know: it is elsewhere, or is made. `None`: no port
/// is left.
#[inline(always)]
pub fn open<T: Tables>(tables: &T, head: &Head, id: u16) -> Option<u32> {
    let control = tables.control()?;
    let (backend, state) = usable(tables, id)?;
    let key = Key6::new(head.source, head.source_port, backend.service);
    let pool = PoolWord(control.nat_pool.load());
    let hash = Hash::of(key, control.flow_seed.load());
    let far = Sets::of(pool, head.family, hash, FAR)?;
    let elsewhere = match far.find(tables, key) {
        None => moved::find(tables, pool, key, hash),
        found => found,
    };
    if let Some((place, entry)) = elsewhere {
        let fresh = first(tables, head, id, state.generation);
        if keep(tables, entry, hash.tag(), head.signal, fresh) {
            return Some(place);
        }
    }
    let near = Sets::of(pool, head.family, hash, NEAR)?;
    let place = claim::claim(tables, control, &near, &far)?;
    let entry = entry(tables, place)?;
    let claim = entry.value.load();
    if !Session::is_claim(claim) {
        return None;
    }
    entry.claim(key);
    let fresh = first(tables, head, id, state.generation).pack(hash.tag());
    // An exchange, as it orders what was stored before it.
    if entry.value.compare_exchange(claim, fresh) != claim {
        return None;
    }
    tables.event(Event::NatRecorded);
    Some(place)
}

/// A session whose first packet this is.
#[inline(always)]
fn first<T: Tables>(tables: &T, head: &Head, backend: u16, generation: u8) -> Session {
    Session {
        value: Value {
            backend,
            generation,
            state: State::first(head.signal),
            seen: flow::seen(tables.jiffies()),
        },
        udp: head.protocol() == protocol::UDP,
        answered: false,
    }
}

/// Whether an answer that neither opens nor ends anything changes nothing about its session.
#[inline(always)]
pub fn was_answered<T: Tables>(tables: &T, found: Found) -> bool {
    Session::was_answered(found.0, flow::seen(tables.jiffies()))
}

/// Notes an answer.
#[inline(always)]
pub fn answered<T: Tables>(tables: &T, place: u32, found: Found, signal: Signal) {
    let Found(word) = found;
    let now = flow::seen(tables.jiffies());
    if !signal.closes() && Session::was_answered(word, now) {
        return;
    }
    let tag = Session::tag(word);
    let (Some(entry), Some(known)) = (entry(tables, place), Session::unpack(word, tag)) else {
        return;
    };
    let next = after_answer(known, signal, now).pack(tag);
    if next != word {
        // Who was faster noted a packet too, of this session or of the one that took its place.
        entry.value.compare_exchange(word, next);
    }
}

/// The entry at a place.
#[inline(always)]
pub(super) fn entry<T: Tables>(tables: &T, place: u32) -> Option<&Entry6> {
    let set = tables.nat(place / WAYS as u32)?;
    Some(&set.0[place as usize % WAYS])
}

/// A session after a packet of its client.
///
/// A SYN opens it again when it is closing: a new connection from the same port (RFC 5382 REQ-2).
#[inline(always)]
const fn after_client(session: Session, signal: Signal, now: u32) -> Session {
    let reopens = session.state().is_closing() && signal.opens();
    let heard_both = session.answered && !signal.opens();
    let state = match session.state() {
        _ if signal.closes() => State::Closing,
        _ if reopens => State::New,
        State::New if heard_both => State::Established,
        state => state,
    };
    Session {
        value: Value {
            state,
            seen: now,
            ..session.value
        },
        answered: session.answered && !reopens && !ends_early(session, signal),
        ..session
    }
}

/// A session after a packet of its backend.
#[inline(always)]
const fn after_answer(session: Session, signal: Signal, now: u32) -> Session {
    let state = match session.state() {
        _ if signal.closes() => State::Closing,
        State::New if session.udp => State::Established,
        state => state,
    };
    Session {
        value: Value {
            state,
            seen: now,
            ..session.value
        },
        answered: match session.state() {
            State::Closing => session.answered,
            _ => !ends_early(session, signal),
        },
        ..session
    }
}

/// Whether it ends and was never established: else who floods with SYNs would only have to send an
/// RST behind each, and its port would be taken for as long as that of a connection that ends.
#[inline(always)]
const fn ends_early(session: Session, signal: Signal) -> bool {
    signal.closes() && !session.was_established()
}

/// Notes a client's packet; `false`: the entry is another flow's now. A session whose backend is
/// not the packet's is made a `fresh` one, with the same translation.
#[inline(always)]
fn keep<T: Tables>(tables: &T, entry: &Entry6, tag: u64, signal: Signal, fresh: Session) -> bool {
    let word = entry.value.load();
    if !signal.opens() && !signal.closes() && fresh.is_steady(word) {
        return true;
    }
    let Some(known) = Session::unpack(word, tag) else {
        return false;
    };
    let same = known.value.backend == fresh.value.backend
        && known.value.generation == fresh.value.generation;
    let next = if same {
        after_client(known, signal, fresh.value.seen).pack(tag)
    } else {
        fresh.pack(tag)
    };
    if next == word {
        return true;
    }
    let was = entry.value.compare_exchange(word, next);
    if was == word && !same {
        tables.event(Event::NatRecorded);
    }
    was == word || Session::identity(was) == Session::identity(next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{abi::NAT_SETS, parse::tcp};

    const SYN: Signal = Signal(tcp::SYN);
    const SYN_ACK: Signal = Signal(tcp::SYN | tcp::ACK);
    const ACK: Signal = Signal(tcp::ACK);
    const FIN: Signal = Signal(tcp::FIN | tcp::ACK);
    const RST: Signal = Signal(tcp::RST);
    const DATAGRAM: Signal = Signal(0);

    enum By {
        Client(Signal),
        Backend(Signal),
    }
    use By::{Backend as B, Client as C};

    fn states(udp: bool, first: Signal, packets: &[By]) -> std::vec::Vec<State> {
        let mut session = Session {
            value: Value {
                backend: 1,
                generation: 1,
                state: State::first(first),
                seen: 0,
            },
            udp,
            answered: false,
        };
        packets
            .iter()
            .zip(1..)
            .map(|(packet, now)| {
                session = match packet {
                    C(signal) => after_client(session, *signal, now),
                    B(signal) => after_answer(session, *signal, now),
                };
                assert_eq!(session.value.seen, now);
                session.state()
            })
            .collect()
    }

    #[test]
    fn a_connection_is_established_when_its_client_answers_the_backend() {
        use State::{Closing, Established, New};
        let seen = states(false, SYN, &[C(SYN), B(SYN_ACK), C(SYN), C(ACK), B(ACK)]);
        assert_eq!(seen, [New, New, New, Established, Established]);
        // A SYN in another's name gets an answer, but no more.
        assert_eq!(states(false, SYN, &[B(SYN_ACK), B(SYN_ACK)]), [New, New]);
        // Known from before: no SYN is seen.
        assert_eq!(
            states(false, ACK, &[C(ACK), B(ACK), C(ACK)]),
            [New, New, Established]
        );
        for end in [FIN, RST] {
            let seen = states(false, SYN, &[B(SYN_ACK), C(ACK), C(end), B(ACK), C(ACK)]);
            assert_eq!(seen, [New, Established, Closing, Closing, Closing]);
            let seen = states(false, SYN, &[B(SYN_ACK), C(ACK), B(end), C(ACK)]);
            assert_eq!(seen, [New, Established, Closing, Closing]);
            assert_eq!(states(false, SYN, &[B(end)]), [Closing]);
        }
    }

    #[test]
    fn a_syn_opens_a_closing_session_again() {
        use State::{Closing, Established, New};
        let seen = states(
            false,
            SYN,
            &[B(SYN_ACK), C(RST), C(SYN), C(ACK), B(SYN_ACK), C(ACK)],
        );
        assert_eq!(seen, [New, Closing, New, New, New, Established]);
        assert_eq!(
            states(false, SYN, &[B(RST), B(SYN_ACK)]),
            [Closing, Closing]
        );
    }

    #[test]
    fn udp_is_established_when_it_is_answered() {
        use State::{Established, New};
        let seen = states(true, DATAGRAM, &[C(DATAGRAM), B(DATAGRAM), C(DATAGRAM)]);
        assert_eq!(seen, [New, Established, Established]);
    }

    #[test]
    fn places_are_translations() {
        assert_eq!(place(0, 1024_u16.to_be()), 1024);
        assert_eq!(place(7, 65_535_u16.to_be()), 4 * NAT_SETS - 1);
    }
}
