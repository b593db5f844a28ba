//! The sessions of translated flows: found, made, kept up to date.
//!
//! A session is an entry of the table, and the entry's place is its translation: no two flows can
//! have one. A flow's hash picks two sets of four, and two more. A new session takes the best of the
//! first eight entries: one that is free, or whose session is over: without a packet for longer
//! than its timeout, or its backend is gone. Only if there is none it looks at the other eight: so
//! nearly all sessions are found in the first two sets, and yet three quarters of the ports are in
//! use before the first flow finds none (measured with 4096; with two sets only, 57 to 63 %).
//!
//! Who takes an entry first makes its word that of a claim, in one atomic instruction, then writes
//! the key, then the word. So two CPUs never take the same one, and who reads a claim sees no
//! session. Who reads without knowing the key reads the word before it and behind it.

use crate::{
    abi::{Backend, Control, NAT_PORT_SETS, NAT_SETS, NatPool, NatTimeouts, Session},
    event::Event,
    flow::{self, Entry, Entry6, Key6, Set6, State, Value, WAYS},
    hash,
    parse::{Family, Head, Signal, protocol},
    repeat::{Step, repeat},
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
        let pool = NatPool::unpack(control.nat_pool.load());
        pool.sets == 0 && (pool.ipv4 != 0 || pool.ipv6 != 0)
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
    let near = Sets::of(control, family, key, NEAR)?;
    if let Some((place, _)) = near.find(tables, key) {
        return Some(place);
    }
    let far = Sets::of(control, family, key, FAR)?;
    let (place, _) = far.find(tables, key)?;
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
    let sets = Sets::of(control, head.family, key, NEAR)?;
    let (place, entry) = sets.find(tables, key)?;
    let fresh = first(tables, head, id, generation);
    keep(tables, entry, sets.tag, head.signal, fresh).then_some(place)
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
    let sets = Sets::of(control, family, key, NEAR)?;
    let (place, entry) = match keyed(tables, sets.first, key) {
        Some(found) => found,
        None => keyed(tables, sets.second, key)?,
    };
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
        .is_steady_as(sets.tag, entry.value.load())
        .then_some(place)
}

/// The entry of a set that has this key, and its place; it may be torn.
#[inline(always)]
fn keyed<T: Tables>(tables: &T, set: u32, key: Key6) -> Option<(u32, &Entry6)> {
    let [a, b, c, d] = &tables.nat(set)?.0;
    let place = set * WAYS as u32;
    if a.is(key) {
        Some((place, a))
    } else if b.is(key) {
        Some((place + 1, b))
    } else if c.is(key) {
        Some((place + 2, c))
    } else if d.is(key) {
        Some((place + 3, d))
    } else {
        None
    }
}

/// The place of a session that [`known`] does not know: it is in the other sets, or is made. `None`:
/// no port is left.
#[inline(always)]
pub fn open<T: Tables>(tables: &T, head: &Head, id: u16) -> Option<u32> {
    let control = tables.control()?;
    let (backend, state) = usable(tables, id)?;
    let key = Key6::new(head.source, head.source_port, backend.service);
    let far = Sets::of(control, head.family, key, FAR)?;
    if let Some((place, entry)) = far.find(tables, key) {
        let fresh = first(tables, head, id, state.generation);
        if keep(tables, entry, far.tag, head.signal, fresh) {
            return Some(place);
        }
    }
    let near = Sets::of(control, head.family, key, NEAR)?;
    let place = match near.claim(tables, control) {
        None => far.claim(tables, control)?,
        Some(place) => place,
    };
    let entry = entry(tables, place)?;
    let claim = entry.value.load();
    if !Session::is_claim(claim) {
        return None;
    }
    entry.claim(key);
    let fresh = first(tables, head, id, state.generation).pack(near.tag);
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

#[inline(always)]
fn entry<T: Tables>(tables: &T, place: u32) -> Option<&Entry6> {
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
        answered: session.answered && !reopens,
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
        answered: true,
        ..session
    }
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

/// Which two of a flow's four sets.
type Which = bool;
const NEAR: Which = false;
const FAR: Which = true;

/// Two sets in which a flow's session can be.
struct Sets {
    first: u32,
    second: u32,
    tag: u64,
}

impl Sets {
    /// `None`: there is no translation in this family.
    #[inline(always)]
    fn of(control: &Control, family: Family, key: Key6, which: Which) -> Option<Self> {
        let pool = NatPool::unpack(control.nat_pool.load());
        let (first, count) = match family {
            Family::V4 => (0, pool.ipv4),
            Family::V6 => (pool.ipv4, pool.ipv6),
        };
        if count == 0 || pool.sets == 0 {
            return None;
        }
        let hash = hash(key, control.flow_seed.load());
        // Fewer rounds for the set that most are found in than for the others.
        let (first_hash, second_hash) = if which == NEAR {
            (hash, hash::mix(hash))
        } else {
            (hash::mix(hash) << 32, hash::mix(!hash))
        };
        let first = first as u32 * NAT_PORT_SETS + pool.first_set as u32;
        Some(Self {
            first: first + spread(first_hash >> 32, count, pool.sets),
            second: first + spread(second_hash >> 32, count, pool.sets),
            // From the bits that say least about the first set.
            tag: flow::tag(hash << 8),
        })
    }

    /// Claims an entry for a new session. Returns its place.
    #[inline(always)]
    fn claim<T: Tables>(&self, tables: &T, control: &Control) -> Option<u32> {
        let now = flow::seen(tables.jiffies());
        let mut search = Search {
            tables,
            timeouts: &control.nat_timeouts,
            first: tables.nat(self.first)?,
            second: tables.nat(self.second)?,
            now,
            // Any way is as good to begin with; one that the verifier does not know it follows once.
            way: now,
            best_first: 0,
            best_second: 0,
        };
        repeat(WAYS as u32, &mut search);
        let of_first = self.first * WAYS as u32 + way(search.best_first);
        let of_second = self.second * WAYS as u32 + way(search.best_second);
        let (one, other) = if search.best_second > search.best_first {
            (of_second, of_first)
        } else {
            (of_first, of_second)
        };
        // Another CPU may be faster once.
        if search.claim(one) {
            Some(one)
        } else if search.claim(other) {
            Some(other)
        } else {
            None
        }
    }

    /// The entry of the flow with this key, and its place.
    #[inline(always)]
    fn find<'t, T: Tables>(&self, tables: &'t T, key: Key6) -> Option<(u32, &'t Entry6)> {
        match self.find_in(tables, self.first, key) {
            None => self.find_in(tables, self.second, key),
            found => found,
        }
    }

    #[inline(always)]
    fn find_in<'t, T: Tables>(
        &self,
        tables: &'t T,
        set: u32,
        key: Key6,
    ) -> Option<(u32, &'t Entry6)> {
        let [a, b, c, d] = &tables.nat(set)?.0;
        let place = set * WAYS as u32;
        if self.is(a, key) {
            Some((place, a))
        } else if self.is(b, key) {
            Some((place + 1, b))
        } else if self.is(c, key) {
            Some((place + 2, c))
        } else if self.is(d, key) {
            Some((place + 3, d))
        } else {
            None
        }
    }

    #[inline(always)]
    fn is(&self, entry: &Entry6, key: Key6) -> bool {
        entry.is(key) && Session::unpack(entry.value.load(), self.tag).is_some()
    }
}

/// The hash of a key, whose upper half is what counts. The words' factors are secret, so that nobody
/// outside can make keys meet, whatever the seed is.
#[inline(always)]
const fn hash(key: Key6, seed: u64) -> u64 {
    let Key6([first, second, third]) = key;
    let sum = first.wrapping_mul(seed | 1);
    let sum = sum.wrapping_add(second.wrapping_mul(seed.rotate_left(21) ^ SPREAD | 1));
    let sum = sum.wrapping_add(third.wrapping_mul(seed.rotate_left(42) ^ SPREAD | 1));
    (sum ^ sum >> 32).wrapping_mul(SPREAD)
}

/// Bits for a seed that has few.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// Spreads 32 bits of a hash over so many sets of so many addresses: the upper half of a product is
/// the address, the rest of it, spread as evenly, the set.
#[inline(always)]
const fn spread(hash: u64, addresses: u8, sets: u16) -> u32 {
    let address = hash * addresses as u64;
    let set = (address & 0xffff_ffff) * sets as u64;
    (address >> 32) as u32 * NAT_PORT_SETS + (set >> 32) as u32
}

const LAST_WAY: u32 = WAYS as u32 - 1;

/// The way in a word of [`Search`]'s best.
#[inline(always)]
const fn way(best: u64) -> u32 {
    LAST_WAY - best as u32 % WAYS as u32
}

/// Looks for the entry of each of two sets that may be taken first: a way a round.
struct Search<'t, T> {
    tables: &'t T,
    timeouts: &'t [Shared; 2],
    first: &'t Set6,
    second: &'t Set6,
    now: u32,
    way: u32,
    /// How many of the set are free in bits 32 and up; below, how well the one can be spared that
    /// can be spared best, and its way, the last one 0: of equals the first is found fastest. The
    /// greater the word, the better.
    best_first: u64,
    best_second: u64,
}

impl<T: Tables> Step for Search<'_, T> {
    #[inline(always)]
    fn step(&mut self) -> bool {
        self.best_first = self.better(self.best_first, self.first);
        self.best_second = self.better(self.best_second, self.second);
        self.way += 1;
        true
    }
}

impl<T: Tables> Search<'_, T> {
    #[inline(always)]
    fn better(&self, best: u64, set: &Set6) -> u64 {
        let way = self.way % WAYS as u32;
        let spare = self.spare(set.0[way as usize].value.load()) as u64;
        let one = (spare * WAYS as u64) | (LAST_WAY - way) as u64;
        let rest = best & 0xffff_ffff;
        let free = (best >> 32) + (spare >> FREE_BIT);
        free << 32 | if one > rest { one } else { rest }
    }

    /// Takes the entry at a place, if it can be spared still.
    #[inline(always)]
    fn claim(&self, place: u32) -> bool {
        let Some(entry) = entry(self.tables, place) else {
            return false;
        };
        let word = entry.value.load();
        let claim = Session::claim(self.now);
        self.spare(word) != 0 && entry.value.compare_exchange(word, claim) == word
    }

    /// How well the entry of this word can be spared; 0: not at all.
    #[inline(always)]
    fn spare(&self, word: u64) -> u32 {
        if Session::is_free(word) {
            return 1 << FREE_BIT;
        }
        let age = flow::age(self.now, word as u32);
        let Some(session) = Session::unpack(word, Session::tag(word)) else {
            // A claim: its CPU is at it, and done long before the clock moved twice.
            return age.saturating_sub(1);
        };
        match usable(self.tables, session.value.backend) {
            Some((_, state)) if state.alive && state.generation == session.value.generation => {}
            _ => return GONE,
        }
        let [first, second] = self.timeouts;
        let timeouts = NatTimeouts::unpack([first.load(), second.load()]);
        age.saturating_sub(match (session.udp, session.state()) {
            (_, State::Closing) => timeouts.tcp_closing as u32,
            (false, State::New) => timeouts.tcp_new,
            (false, State::Established) => timeouts.tcp_established,
            (true, State::New) => timeouts.udp_new as u32,
            (true, State::Established) => timeouts.udp_established,
        })
    }
}

/// Better than any time that is over, which are 20 bits.
const GONE: u32 = 1 << 20;
const FREE_BIT: u32 = 21;

const _: () = assert!(NAT_SETS.is_power_of_two());

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::tcp;

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
