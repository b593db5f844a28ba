//! Who is found, who is confirmed, who has to go.

use proptest::prelude::*;

use super::*;
use crate::parse::tcp;

const NOW: u32 = 100_000;
const CONFIRM: u32 = 10;
const SYN: Signal = Signal(tcp::SYN);
const ACK: Signal = Signal(tcp::ACK);
const FIN: Signal = Signal(tcp::FIN | tcp::ACK);
const DATAGRAM: Signal = Signal(0);
const IDLE: Idle = Idle {
    tcp_new: 60,
    tcp_established: 3516,
    tcp_closing: 30,
    udp_new: 20,
    udp_established: 180,
};

fn insert<K: Key>(set: &[K::Entry; WAYS], key: K, seen: u32, word: u64) -> bool {
    let idle = IDLE.words().map(Shared::new);
    match find(set, key).or_else(|| victim::<K>(set, seen, &idle)) {
        Some(entry) => {
            record(entry, key, word);
            true
        }
        None => false,
    }
}

fn known<K: Key>(set: &[K::Entry; WAYS], key: K, tag: u64) -> Option<Value> {
    Value::unpack(find(set, key)?.value().load(), tag)
}

fn value(backend: u16, state: State, seen: u32) -> Value {
    Value {
        backend,
        generation: 1,
        state,
        seen,
    }
}

fn begun(protocol: u8, signal: Signal, seen: u32) -> u64 {
    first(value(1, State::first(signal), seen), 0, protocol)
}

fn syn(seen: u32) -> u64 {
    begun(protocol::TCP, SYN, seen)
}

/// A connection's word, begun at this time; confirmed right after, if `confirmed`.
fn connection(confirmed: bool, seen: u32) -> u64 {
    let word = follow(syn(seen), ACK, seen, 0);
    if confirmed {
        follow(word, ACK, seen, 0)
    } else {
        word
    }
}

fn key(n: u32) -> Key4 {
    Key4::new(n, 1000, 1)
}

fn state(word: u64) -> (State, bool, u32) {
    let value = Value::unpack(word, 0).expect("whole");
    (value.state, is_confirmed(word), value.seen)
}

#[test]
fn a_recorded_flow_is_found() {
    let set = Set4::default();
    assert!(find(&set.0, key(1)).is_none());
    let new = value(3, State::New, NOW);
    assert!(insert(&set.0, key(1), NOW, new.pack(7)));
    assert_eq!(known(&set.0, key(1), 7), Some(new));
    assert!(find(&set.0, key(2)).is_none());
}

#[test]
fn a_torn_entry_counts_as_free() {
    let set = Set4::default();
    let word = value(3, State::Established, NOW).pack(7);
    insert(&set.0, key(1), NOW, word);
    set.0[0].key.store(key(2).0);
    assert!(
        known(&set.0, key(2), 8).is_none(),
        "the tag is another key's"
    );
}

#[test]
fn tcp_is_confirmed_by_lasting() {
    use State::{Closing, Established, New};
    let mut word = syn(NOW);
    let mut send = |signal, at| {
        word = follow(word, signal, NOW + at, CONFIRM);
        let (state, confirmed, seen) = state(word);
        (state, confirmed, seen - NOW)
    };
    assert_eq!(send(SYN, 1), (New, false, 1), "sent again");
    assert_eq!(send(ACK, 2), (Established, false, 2));
    assert_eq!(send(ACK, 3), (Established, false, 2), "nothing is written");
    assert_eq!(send(ACK, 11), (Established, false, 2));
    assert_eq!(send(SYN, 12), (Established, false, 2), "confirms nothing");
    assert_eq!(send(ACK, 12), (Established, true, 12));
    assert_eq!(send(ACK, 13), (Established, true, 13));
    assert_eq!(send(FIN, 14), (Closing, true, 14));
    assert_eq!(send(ACK, 15), (Closing, true, 15));
}

#[test]
fn udp_is_never_confirmed() {
    let mut word = begun(protocol::UDP, DATAGRAM, NOW);
    for at in [1, 2, 100, 10_000] {
        word = follow(word, DATAGRAM, NOW + at, CONFIRM);
        assert_eq!(state(word), (State::Established, false, NOW + at));
        assert!(is_udp(word));
    }
}

#[test]
fn a_syn_flood_evicts_no_confirmed_connection() {
    let set = Set4::default();
    for n in 0..3 {
        insert(&set.0, key(n), NOW, connection(true, NOW - 500));
    }
    for n in 100..10_100 {
        let now = NOW + n / 50;
        assert!(insert(&set.0, key(n), now, syn(now)));
    }
    for n in 0..3 {
        assert!(find(&set.0, key(n)).is_some());
    }
    insert(&set.0, key(3), NOW, connection(true, NOW));
    assert!(!insert(&set.0, key(4), NOW, syn(NOW)), "nothing may go");
    let over = NOW - 500 + IDLE.tcp_established;
    assert!(!insert(&set.0, key(4), over, syn(over)), "idle for an hour");
    assert!(insert(&set.0, key(4), over + 1, syn(over + 1)), "longer");
}

/// What a flood of two packets each leaves behind keeps nobody out: not for a moment.
#[test]
fn flows_that_have_not_lasted_make_room() {
    let ways: [fn(u32) -> u64; 2] = [
        |seen| connection(false, seen),
        |seen| follow(begun(protocol::UDP, DATAGRAM, seen), DATAGRAM, seen, 0),
    ];
    for flooded in ways {
        let set = Set4::default();
        insert(&set.0, key(1), NOW, connection(true, NOW));
        for n in 2..100 {
            assert!(insert(&set.0, key(n), NOW, flooded(NOW + n - 100)));
        }
        assert!(insert(&set.0, key(100), NOW, syn(NOW)));
        assert!(find(&set.0, key(1)).is_some(), "it has lasted");
        assert!(find(&set.0, key(97)).is_none(), "the oldest of the three");
        assert!(find(&set.0, key(98)).is_some());
    }
}

#[test]
fn each_kind_goes_before_the_next() {
    let udp = |seen| follow(begun(protocol::UDP, DATAGRAM, seen), DATAGRAM, seen, 0);
    let order = [
        0,
        connection(true, NOW - IDLE.tcp_established - 1),
        begun(protocol::TCP, FIN, NOW),
        begun(protocol::TCP, SYN, NOW - 10),
        begun(protocol::UDP, DATAGRAM, NOW),
        connection(false, NOW - 10),
        udp(NOW),
        connection(true, NOW - IDLE.tcp_established),
    ];
    let idle = IDLE.words().map(Shared::new);
    let costs = order.map(|word| {
        let entry = Entry4::default();
        record(&entry, key(1), word);
        cost::<_, Key4>(&entry, NOW, &idle)
    });
    assert!(costs.is_sorted(), "{costs:?}");
    let may_go = costs.map(|cost| cost < KEPT << 20);
    assert_eq!(may_go, [true, true, true, true, true, true, true, false]);
}

/// As for connection tracking in the kernel, a connection that lasted and now ends is kept
/// while it is in use: half of it may go on for long, and anybody can forge a FIN.
#[test]
fn a_half_closed_connection_is_kept_while_it_speaks() {
    let closing = follow(connection(true, NOW), FIN, NOW, CONFIRM);
    let set = Set4::default();
    for n in 0..4 {
        insert(&set.0, key(n), NOW, closing);
    }
    let over = NOW + IDLE.tcp_closing;
    assert!(!insert(&set.0, key(9), over, syn(over)));
    find(&set.0, key(2))
        .unwrap()
        .value()
        .store(follow(closing, ACK, over, CONFIRM));
    assert!(insert(&set.0, key(9), over + 1, syn(over + 1)));
    assert!(find(&set.0, key(2)).is_some());
}

#[test]
fn what_was_silent_for_too_long_goes_first() {
    let after = |word, span| {
        let set = Set4::default();
        insert(&set.0, key(1), NOW, word);
        let now = NOW + span;
        for n in 2..5 {
            insert(&set.0, key(n), now, syn(now));
        }
        insert(&set.0, key(5), now, syn(now));
        find(&set.0, key(1)).is_none()
    };
    let udp = begun(protocol::UDP, DATAGRAM, NOW);
    let stream = follow(udp, DATAGRAM, NOW, CONFIRM);
    for (word, span) in [
        (stream, IDLE.udp_established),
        (connection(false, NOW), IDLE.tcp_new),
        (connection(true, NOW), IDLE.tcp_established),
        (follow(connection(true, NOW), FIN, NOW, 0), IDLE.tcp_closing),
    ] {
        assert!(!after(word, span), "{word:#x}");
        assert!(after(word, span + 1), "{word:#x}");
    }
    assert_eq!(Idle::from_words(|class| IDLE.words()[class]), IDLE);
    assert_eq!(IDLE.words()[0], SEEN_MASK, "a free entry is never silent");
}

#[test]
fn time_wraps() {
    let set = Set4::default();
    let end = SEEN_MASK as u32;
    for n in 0..4 {
        insert(&set.0, key(n), end, connection(true, end - n));
    }
    assert_eq!(age(2, end), 3);
    assert!(!insert(&set.0, key(9), 2, syn(2)), "all are young");
}

proptest! {
    #[test]
    fn values_survive_packing(backend: u16, generation: u8, state in 1_u8..4, seen in 0_u32..1 << 20, tag in 0_u64..1 << 12) {
        let state = [State::Closing, State::New, State::Established][usize::from(state) - 1];
        let value = Value { backend, generation, state, seen };
        prop_assert_eq!(Value::unpack(value.pack(tag), tag), Some(value));
        prop_assert_eq!(Value::unpack(value.pack(tag), tag ^ 1), None);
    }

    /// A set behaves as a small map: what was recorded last is found with its value.
    #[test]
    fn the_last_record_is_found(keys in prop::collection::vec(0_u64..12, 1..64)) {
        let set = Set6::default();
        for (n, &k) in keys.iter().enumerate() {
            let key = Key6([k, !k, 9]);
            let value = value(n as u16, State::New, NOW + n as u32);
            prop_assert!(insert(&set.0, key, value.seen, value.pack(k)));
            let same = set.0.iter().filter(|entry| entry.is(key)).count();
            prop_assert!(same >= 1);
            prop_assert_eq!(known(&set.0, key, k).map(|found| found.seen), Some(value.seen));
        }
    }
}
