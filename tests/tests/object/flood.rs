//! Floods of ten million distinct sources, of SYNs and of what looks like connections: they evict no
//! connection that has lasted, move none, leave room for new ones, and the daemon's way of counting
//! connections stays right.

use std::{collections::BTreeMap, net::IpAddr, path::Path};

use steerd_ebpf::{
    abi::{FLOW4_SETS, Mode, maps},
    flow::{self, State},
    inspect,
    scan::{Ages, Count, Entries},
    shared::Shared,
};
use steerd_tests::bench::{
    frame::{self, Family, Kind, PORT},
    wrapper::{Bench, Head, Packets, action},
};

use crate::world::{INGRESS, World};

/// Connections, each of an address of its own, before the flood. Not so many that five of them meet in
/// a set of four.
const PLAYERS: u32 = 1 << 15;
/// Sources of the flood, none of them a player.
const FLOOD: u32 = 10_000_000;
/// So many sources at a time.
const BATCH: u32 = 1 << 14;
const SERVICE: u32 = 1;
const TCP: u8 = 6;
/// Long enough for all that happens here: the table's clock counts about seconds.
const AGE: u32 = 10_000;

/// The IPv4 flow table as it is in memory.
fn table(world: &World) -> Vec<u64> {
    let sets = (0..FLOW4_SETS).map(|set| world.get::<8>(maps::FLOWS4, set));
    sets.flatten().collect()
}

/// To which backend each client belongs whose connection has lasted.
fn established(table: &[u64]) -> BTreeMap<IpAddr, u16> {
    let entries = table.as_chunks::<2>().0.iter();
    let flows = entries.filter_map(|[key, value]| {
        let bytes = [key.to_ne_bytes(), value.to_ne_bytes()].concat();
        inspect::flow4(&bytes)
    });
    flows
        .filter(|flow| flow.state == State::Established && flow.confirmed)
        .map(|flow| (flow.client, flow.backend))
        .collect()
}

/// Connections of backends 1 and 2, counted as the daemon does: established, and not yet.
fn counted(table: &[u64]) -> [(u32, u32); 2] {
    let newest = table.iter().skip(1).step_by(2);
    let newest = newest
        .filter(|value| **value != 0)
        .map(|value| *value as u32 & 0xf_ffff);
    let mut count = Count::new(newest.max().unwrap());
    let ages = Ages {
        new: AGE,
        established: AGE,
        closing: AGE,
    };
    count.service(SERVICE, ages);
    for id in [1, 2] {
        count.backend(id, 5);
    }
    let shared: Vec<Shared> = table.iter().copied().map(Shared::new).collect();
    count.table(&shared, Entries::V4);
    [1, 2].map(|id| {
        let connections = count.of(id);
        assert_eq!(connections.closing, 0);
        (connections.established, connections.new)
    })
}

/// What a flood is of: the kind of its packets, and how many of each source.
struct Flood {
    kind: Kind,
    packets: u32,
    sources: u32,
}

#[test]
fn ten_million_syns_evict_no_connection() {
    survives(&Flood {
        kind: Kind::Syn,
        packets: 1,
        sources: FLOOD,
    });
}

/// Two packets of each source look like a handshake: that is nothing to keep.
#[test]
fn four_million_handshakes_evict_no_connection() {
    survives(&Flood {
        kind: Kind::Ack,
        packets: 2,
        sources: 4_000_000,
    });
}

fn survives(flood: &Flood) {
    let mut world = World::new();
    for id in [1, 2] {
        world.backend(id, Mode::Dsr, true, 5, INGRESS);
    }
    let ring: Vec<u16> = (0..32).map(|slot| slot % 2 + 1).collect();
    let vip = frame::vip(Family::V4, 0);
    world.service(SERVICE, vip, PORT, TCP, &ring);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/ebpf/bench.o");
    let bench = Bench::read(&path).unwrap();
    let mut program = bench.wrap("steerd", world.program(), Head::Short).unwrap();
    let mut send = |kind, clients, after, count| {
        let frame = frame::build(Family::V4, kind, &Ok).unwrap();
        let packets = Packets {
            frame: &frame,
            family: Family::V4,
            clients,
            after,
            count,
        };
        program.run(packets, action::TX).unwrap();
    };

    // The second packet establishes a flow, the next one confirms it: in this world at once.
    send(Kind::Ack, PLAYERS, 0, 3 * PLAYERS);
    let before = table(&world);
    let players = established(&before);
    // A few met in a set that was full.
    assert!(players.len() as u32 > PLAYERS - PLAYERS / 1000);
    let of = |backend| players.values().filter(|&&id| id == backend).count() as u32;
    let expected = [of(1), of(2)];
    assert_eq!(
        counted(&before),
        expected.map(|established| (established, 0))
    );

    for sent in (0..flood.sources).step_by(BATCH as usize) {
        let batch = BATCH.min(flood.sources - sent);
        for _ in 0..flood.packets {
            send(flood.kind, 1 << 24, PLAYERS + sent, batch);
        }
    }
    let after = table(&world);
    assert_eq!(
        established(&after),
        players,
        "players were evicted or moved"
    );
    let [one, two] = counted(&after);
    if flood.packets == 1 {
        assert_eq!([one.0, two.0], expected);
    }
    // The rest of the table is the flood's, and steerd says so.
    let used = after
        .iter()
        .skip(1)
        .step_by(2)
        .filter(|&&value| value != 0)
        .count();
    assert_eq!((one.0 + one.1 + two.0 + two.1) as usize, used);
    let room = FLOW4_SETS as usize * flow::WAYS;
    assert!(
        used > room - room / 40,
        "{used} of {room}: was there a flood?"
    );

    // The players play on, each where it was; and newcomers find room.
    send(Kind::Ack, PLAYERS, 0, PLAYERS);
    assert_eq!(established(&table(&world)), players);
    for _ in 0..3 {
        send(Kind::Ack, 1 << 24, PLAYERS + flood.sources, BATCH);
    }
    let all = established(&table(&world));
    assert!(
        players
            .iter()
            .all(|player| all.get(player.0) == Some(player.1))
    );
    let newcomers = all.len() - players.len();
    assert!(newcomers as u32 > BATCH - BATCH / 20, "{newcomers}");
}
