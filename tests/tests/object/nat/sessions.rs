//! Sessions: found again, made, established, closed, opened again, over.

use std::collections::HashMap;

use steerd_ebpf::{
    abi::{Control, MovedLine, NatPool, Session, maps},
    event::Event,
    flow::{Key6, State},
    nat::moved,
    verdict::Verdict,
};

use super::*;
use crate::world::FLOW_SEED;

/// One set: four translations for each family.
const ONE_SET: NatPool = NatPool {
    first_set: 5000,
    sets: 1,
    ipv4: 1,
    ipv6: 1,
    ..NatPool::NONE
};

fn small_world() -> World {
    let mut world = world();
    world.control(Control::NAT_POOL, ONE_SET.pack());
    world
}

fn client(spec: Spec, number: u16) -> Spec {
    Spec {
        from_port: 30_000 + number,
        ..spec
    }
}

/// As if both sides had been heard.
fn establish(world: &mut World, translation: (IpAddr, u16)) {
    change(world, translation, |session| {
        session.value.state = State::Established;
        session.answered = true;
    });
}

/// Established flows that have all ports.
fn fill(world: &mut World, spec: &Spec) -> (Vec<Spec>, Vec<(IpAddr, u16)>) {
    let flows: Vec<_> = (0..4).map(|n| client(spec.clone(), n)).collect();
    let translations: Vec<_> = flows.iter().map(|flow| translated(world, flow)).collect();
    for &translation in &translations {
        establish(world, translation);
    }
    (flows, translations)
}

fn state(world: &World, translation: (IpAddr, u16)) -> State {
    session(world, translation).0.state()
}

#[test]
fn a_flow_keeps_its_translation() {
    let world = world();
    for spec in [Spec::v4(Transport::Syn), Spec::v6(Transport::Udp)] {
        let translation = translated(&world, &spec);
        for _ in 0..3 {
            assert_eq!(translated(&world, &spec), translation);
        }
        let other = client(spec, 1);
        assert_ne!(translated(&world, &other), translation);
    }
    assert_eq!(world.events(Event::NatRecorded), 4);
}

#[test]
fn states_follow_both_sides() {
    let world = world();
    for syn in [Spec::v4(Transport::Syn), Spec::v6(Transport::Syn)] {
        let send = |transport| {
            translated(
                &world,
                &Spec {
                    transport,
                    ..syn.clone()
                },
            )
        };
        let translation = send(Transport::Syn);
        let receive = |transport| answered(&world, &syn, &answer(&syn, translation, transport));
        let is = |expected| assert_eq!(state(&world, translation), expected);
        is(State::New);
        receive(Transport::SynAck);
        is(State::New);
        send(Transport::Ack);
        is(State::Established);
        send(Transport::Fin);
        is(State::Closing);
        receive(Transport::Ack);
        send(Transport::Ack);
        is(State::Closing);
        assert_eq!(send(Transport::Syn), translation, "opened again");
        is(State::New);
        send(Transport::Ack);
        is(State::New);
        receive(Transport::SynAck);
        send(Transport::Ack);
        is(State::Established);
        receive(Transport::Rst);
        is(State::Closing);
    }
    for spec in [Spec::v4(Transport::Udp), Spec::v6(Transport::Udp)] {
        let translation = translated(&world, &spec);
        translated(&world, &spec);
        assert_eq!(state(&world, translation), State::New);
        answered(&world, &spec, &answer(&spec, translation, Transport::Udp));
        assert_eq!(state(&world, translation), State::Established);
    }
}

/// Four flows have all there is: a fifth is refused, they go on.
#[test]
fn exhaustion_is_refused_and_harms_nobody() {
    let mut world = small_world();
    for spec in [Spec::v4(Transport::Syn), Spec::v6(Transport::Udp)] {
        let before = world.events(Event::NatRecorded);
        let (flows, translations) = fill(&mut world, &spec);
        let mut ports: Vec<_> = translations
            .iter()
            .map(|translation| translation.1)
            .collect();
        ports.sort_unstable();
        assert_eq!(ports, [20_000, 20_001, 20_002, 20_003]);
        for n in 4..20 {
            refused(&world, &client(spec.clone(), n), Verdict::NatExhausted);
        }
        for (flow, translation) in flows.iter().zip(translations) {
            assert_eq!(translated(&world, flow), translation);
            let transport = match spec.transport {
                Transport::Udp => Transport::Udp,
                _ => Transport::SynAck,
            };
            answered(&world, flow, &answer(flow, translation, transport));
        }
        assert_eq!(world.events(Event::NatRecorded) - before, 4);
    }
    assert_eq!(world.events(Event::NatEvicted), 0);
}

/// What was never established makes room for who comes later, the oldest first, and takes no port
/// from what is.
#[test]
fn a_flood_takes_no_port_for_long_and_none_of_an_established_session() {
    for spec in [Spec::v4(Transport::Syn), Spec::v6(Transport::Udp)] {
        let mut world = small_world();
        let flows: Vec<_> = (0..4).map(|n| client(spec.clone(), n)).collect();
        let translations: Vec<_> = flows.iter().map(|flow| translated(&world, flow)).collect();
        establish(&mut world, translations[1]);
        for (n, age) in [(0, 5), (2, 9), (3, 2)] {
            change(&mut world, translations[n], |session| {
                session.value.seen = session.value.seen.wrapping_sub(age) & 0xf_ffff;
            });
        }
        assert_eq!(
            translated(&world, &client(spec.clone(), 4)),
            translations[2]
        );
        assert_eq!(
            translated(&world, &client(spec.clone(), 5)),
            translations[0]
        );
        assert_eq!(world.events(Event::NatEvicted), 2);
        for n in 10..200 {
            let taken = translated(&world, &client(spec.clone(), n));
            assert_ne!(taken, translations[1]);
        }
        assert_eq!(world.events(Event::NatEvicted), 192);
        assert_eq!(state(&world, translations[1]), State::Established);
        assert_eq!(translated(&world, &flows[1]), translations[1]);
        // Who answers what the backend says to it is in, and stays.
        let late = client(spec.clone(), 300);
        let translation = translated(&world, &late);
        let (reply, next) = match spec.transport {
            Transport::Udp => (Transport::Udp, Transport::Udp),
            _ => (Transport::SynAck, Transport::Ack),
        };
        answered(&world, &late, &answer(&late, translation, reply));
        let confirmed = Spec {
            transport: next,
            ..late.clone()
        };
        assert_eq!(translated(&world, &confirmed), translation);
        for n in 400..500 {
            translated(&world, &client(spec.clone(), n));
        }
        assert_eq!(translated(&world, &confirmed), translation);
        assert_eq!(translated(&world, &flows[1]), translations[1]);
    }
}

/// A flood of RSTs, with SYNs before them or without, ends nothing that would keep its port.
#[test]
fn what_ends_before_it_was_established_keeps_no_port() {
    for first in [Transport::Syn, Transport::Rst] {
        let world = small_world();
        let flow = |n, transport| client(Spec::v4(transport), n);
        for n in 0..50 {
            let translation = translated(&world, &flow(n, first));
            if first == Transport::Syn {
                let reply = answer(&flow(n, first), translation, Transport::SynAck);
                answered(&world, &flow(n, first), &reply);
            }
            assert_eq!(translated(&world, &flow(n, Transport::Rst)), translation);
            assert_eq!(state(&world, translation), State::Closing);
        }
        assert_eq!(world.events(Event::NatEvicted), 46);
    }
    // One that was established keeps it.
    let mut world = small_world();
    let (flows, translations) = fill(&mut world, &Spec::v4(Transport::Rst));
    for (flow, translation) in flows.iter().zip(translations) {
        assert_eq!(translated(&world, flow), translation);
        assert_eq!(state(&world, translation), State::Closing);
    }
    let other = client(Spec::v4(Transport::Syn), 9);
    refused(&world, &other, Verdict::NatExhausted);
}

/// Other ports and addresses lead a flow's hash elsewhere; where its session is, was noted.
#[test]
fn a_flow_keeps_its_translation_when_addresses_and_ports_change() {
    for spec in [
        Spec::v4(Transport::Ack),
        Spec::v4(Transport::Udp),
        Spec::v6(Transport::Ack),
    ] {
        let mut world = world();
        // Fewer: those of the third address are left out.
        let few = NatPool {
            sets: 4000,
            ipv6: 1,
            ..POOL
        };
        world.control(Control::NAT_POOL, few.pack());
        let flows: Vec<_> = (0..100).map(|n| client(spec.clone(), n)).collect();
        let translations: Vec<_> = flows.iter().map(|flow| translated(&world, flow)).collect();
        let mut noted = 0;
        for &translation in &translations {
            establish(&mut world, translation);
            noted += usize::from(note_unless_home(&mut world, translation, POOL));
        }
        assert!(noted > 50, "{noted}");
        let pool = NatPool {
            has_moved: true,
            ..POOL
        };
        world.control(Control::NAT_POOL, pool.pack());
        let recorded = world.events(Event::NatRecorded);
        for (flow, &translation) in flows.iter().zip(&translations) {
            for _ in 0..2 {
                assert_eq!(translated(&world, flow), translation);
            }
            answered(&world, flow, &answer(flow, translation, flow.transport));
        }
        assert_eq!(world.events(Event::NatRecorded), recorded);
        // Once it is over, the next one is made where it is found without a note.
        let mut set: [u64; 16] = world.get(maps::NAT, place(translations[0]) / 4);
        set[(place(translations[0]) % 4) as usize * 4 + 3] = 0;
        world.set(maps::NAT, place(translations[0]) / 4, set);
        let next = translated(&world, &flows[0]);
        assert!(!note_unless_home(&mut world, next, pool));
    }
}

/// What the daemon does with a session when it is about to use `pool`. Returns whether it has to.
fn note_unless_home(world: &mut World, translation: (IpAddr, u16), pool: NatPool) -> bool {
    let place = place(translation);
    let set: [u64; 16] = world.get(maps::NAT, place / 4);
    let key = &set[(place % 4) as usize * 4..][..3];
    let key = Key6([key[0], key[1], key[2]]);
    if moved::is_home(pool, FLOW_SEED, key, place) {
        return false;
    }
    let lines: HashMap<u32, MovedLine> = moved::lines(FLOW_SEED, key)
        .map(|line| {
            (
                line,
                MovedLine(world.get::<8>(maps::NAT_MOVED, line).map(Shared::new)),
            )
        })
        .into();
    assert!(moved::note(|line| &lines[&line].0, FLOW_SEED, key, place));
    for (line, MovedLine(words)) in lines {
        world.set(maps::NAT_MOVED, line, words.map(|word| word.load()));
    }
    true
}

#[test]
fn without_addresses_there_is_no_translation() {
    let mut world = world();
    for pool in [NatPool { ipv4: 0, ..POOL }, NatPool::default()] {
        world.control(Control::NAT_POOL, pool.pack());
        refused(&world, &Spec::v4(Transport::Syn), Verdict::NatExhausted);
    }
    world.control(Control::NAT_POOL, NatPool { ipv6: 0, ..POOL }.pack());
    refused(&world, &Spec::v6(Transport::Syn), Verdict::NatExhausted);
    translated(&world, &Spec::v4(Transport::Syn));
}

/// Each state of each protocol in which a session keeps its port has its timeout: until then the port
/// is nobody else's, then it is.
#[test]
fn ports_are_taken_when_their_time_is_over() {
    let cases = [
        (Transport::Syn, State::Established, TIMEOUTS.tcp_established),
        (
            Transport::Syn,
            State::Closing,
            u32::from(TIMEOUTS.tcp_closing),
        ),
        (Transport::Udp, State::Established, TIMEOUTS.udp_established),
    ];
    for (transport, state, timeout) in cases {
        for spec in [Spec::v4(transport), Spec::v6(transport)] {
            let mut world = small_world();
            let (flows, translations) = fill(&mut world, &spec);
            let old = translations[2];
            // The clock may move on meanwhile, but not by three.
            let past = |seen: u32, age| seen.wrapping_sub(age) & 0xf_ffff;
            change(&mut world, old, |session| {
                session.value.state = state;
                session.value.seen = past(session.value.seen, timeout - 3);
            });
            refused(&world, &client(spec.clone(), 9), Verdict::NatExhausted);
            change(&mut world, old, |session| {
                session.value.seen = past(session.value.seen, 4);
            });
            assert_eq!(translated(&world, &client(spec.clone(), 9)), old);
            establish(&mut world, old);
            refused(&world, &flows[2], Verdict::NatExhausted);
            // An answer to it is the newcomer's.
            let newcomer = client(spec.clone(), 9);
            answered(&world, &newcomer, &answer(&newcomer, old, transport));
        }
    }
}

#[test]
fn what_is_over_longest_goes_first() {
    let mut world = small_world();
    let flow = |n| client(Spec::v4(Transport::Udp), n);
    let translations: Vec<_> = (0..4).map(|n| translated(&world, &flow(n))).collect();
    for (&translation, ago) in translations.iter().zip([30, 50, 0, 40]) {
        change(&mut world, translation, |session| {
            session.value.seen = session.value.seen.wrapping_sub(ago) & 0xf_ffff;
        });
    }
    for (n, expected) in [(10, 1), (11, 3), (12, 0)] {
        assert_eq!(translated(&world, &flow(n)), translations[expected]);
        establish(&mut world, translations[expected]);
    }
    assert_eq!(world.events(Event::NatEvicted), 0);
    // Its time is not over, but it has no answer.
    assert_eq!(translated(&world, &flow(13)), translations[2]);
    establish(&mut world, translations[2]);
    refused(&world, &flow(14), Verdict::NatExhausted);
}

/// A flow of a backend that is gone gets its new one's packets, the old one's are no answers.
#[test]
fn a_session_goes_along_to_another_backend() {
    let mut world = world();
    let spec = Spec::v4(Transport::Ack);
    let translation = translated(&world, &spec);
    let back = answer(&spec, translation, Transport::Ack);
    answered(&world, &spec, &back);
    // The same id, another backend.
    let next = Server {
        generation: 2,
        at: ("10.0.0.6", SERVER_PORT),
        ..SERVERS[0]
    };
    next.put(&mut world);
    refused(&world, &back, Verdict::NatUnknown);
    let from_next = Spec {
        from: ip("10.0.0.6"),
        ..back.clone()
    };
    refused(&world, &from_next, Verdict::NatUnknown);
    let outcome = world.run(&spec.build());
    let to = (ip("10.0.0.6"), SERVER_PORT);
    assert_eq!(ends(&outcome.frame), (translation, to));
    assert_eq!(state(&world, translation), State::New);
    refused(&world, &back, Verdict::NatUnknown);
    answered(&world, &spec, &from_next);
}

/// Sessions of a backend that is dead, or of another generation, are over at once.
#[test]
fn ports_of_a_backend_that_is_gone_are_free() {
    for gone in [
        Server {
            alive: false,
            ..SERVERS[0]
        },
        Server {
            generation: 2,
            ..SERVERS[0]
        },
    ] {
        let mut world = small_world();
        let second = Server {
            id: 9,
            service: 9,
            vip: (VIP, 443),
            ..SERVERS[0]
        };
        second.put(&mut world);
        world.service(9, ip(VIP), 443, 6, &[9]);
        let flow = |n| client(Spec::v4(Transport::Ack), n);
        fill(&mut world, &Spec::v4(Transport::Ack));
        let other = |n| Spec {
            to_port: 443,
            ..flow(n)
        };
        refused(&world, &other(0), Verdict::NatExhausted);
        gone.put(&mut world);
        for n in 0..4 {
            let translation = translated(&world, &other(n));
            establish(&mut world, translation);
        }
        assert_eq!(world.events(Event::NatEvicted), 0);
        refused(&world, &other(4), Verdict::NatExhausted);
    }
}

/// A dead backend's answers go on to its clients, as long as nobody else has the port.
#[test]
fn a_dead_backend_may_still_answer() {
    let mut world = world();
    let spec = Spec::v6(Transport::Ack);
    let translation = translated(&world, &spec);
    let dead = Server {
        alive: false,
        ..SERVERS[2]
    };
    dead.put(&mut world);
    answered(&world, &spec, &answer(&spec, translation, Transport::Fin));
}

/// What another CPU is just writing is nobody's: neither found nor taken.
#[test]
fn a_claimed_entry_is_left_alone() {
    let mut world = small_world();
    let flow = |n| client(Spec::v4(Transport::Udp), n);
    let (_, translations) = fill(&mut world, &Spec::v4(Transport::Udp));
    let now = session(&world, translations[1]).0.value.seen;
    let mut set: [u64; 16] = world.get(maps::NAT, 5000);
    let word = 4 * (translations[1].1 % 4) as usize + 3;
    set[word] = Session::claim(now);
    world.set(maps::NAT, 5000, set);
    refused(&world, &flow(1), Verdict::NatExhausted);
    let back = answer(&flow(1), translations[1], Transport::Udp);
    refused(&world, &back, Verdict::NatUnknown);
    // One that nobody finished.
    set[word] = Session::claim(now.wrapping_sub(9) & 0xf_ffff);
    world.set(maps::NAT, 5000, set);
    assert_eq!(translated(&world, &flow(1)), translations[1]);
}

/// While the daemon changes the addresses nothing can be translated. Nobody is refused for that: the
/// stack would reset connections that go on a moment later.
#[test]
fn without_a_pool_packets_are_lost_and_flows_go_on() {
    let mut world = world();
    for spec in [Spec::v4(Transport::Ack), Spec::v6(Transport::Udp)] {
        let translation = translated(&world, &spec);
        world.control(Control::NAT_POOL, NatPool { sets: 0, ..POOL }.pack());
        let outcome = world.run(&spec.build());
        assert_eq!(
            (outcome.verdict, outcome.action),
            (Verdict::BadBackend, DROP)
        );
        world.control(Control::NAT_POOL, POOL.pack());
        assert_eq!(translated(&world, &spec), translation);
    }
}
