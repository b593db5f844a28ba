//! Many flows: no two share a translation, and each answer goes to its own client.

use std::collections::HashMap;

use proptest::prelude::*;
use steerd_ebpf::abi::{Control, NatPool};

use super::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 4, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_two_flows_share_a_translation(
        clients in prop::collection::hash_set((any::<u32>(), 1..u16::MAX, 0..4_usize), 1500),
    ) {
        let world = world();
        let mut flows = HashMap::new();
        for (client, port, kind) in clients {
            let spec = spec(client, port, kind);
            let translation = translated(&world, &spec);
            prop_assert!(flows.insert(translation, spec).is_none(), "{:?} twice", translation);
        }
        for (&translation, spec) in &flows {
            answered(&world, spec, &answer(spec, translation, spec.transport));
            prop_assert_eq!(translated(&world, spec), translation);
        }
    }
}

/// A client of one of the four services.
fn spec(client: u32, port: u16, kind: usize) -> Spec {
    // No group, no zero, none of ours.
    let client = client & 0x3fff_ffff | 0x4000_0000;
    let transport = if kind.is_multiple_of(2) {
        Transport::Ack
    } else {
        Transport::Udp
    };
    let spec = if kind < 2 {
        Spec {
            from: IpAddr::from(client.to_be_bytes()),
            ..Spec::v4(transport)
        }
    } else {
        let address = 0xfd01 << 112 | u128::from(client) << 40 | 7;
        Spec {
            from: IpAddr::from(address.to_be_bytes()),
            ..Spec::v6(transport)
        }
    };
    Spec {
        from_port: port,
        ..spec
    }
}

/// Four sets to choose from: when the first flow finds no room, most ports are taken, each by
/// another one, which is found again.
#[test]
fn most_ports_are_used() {
    fill(|n| spec(n, 40_000, 3));
    fill(|n| spec(7, 1 + n as u16, 3));
}

fn fill(flow: impl Fn(u32) -> Spec) {
    let mut world = world();
    const SETS: u16 = 512;
    let pool = NatPool {
        first_set: 4096,
        sets: SETS,
        ipv4: 1,
        ipv6: 2,
        ..NatPool::NONE
    };
    world.control(Control::NAT_POOL, pool.pack());
    let ports = 2 * 4 * u32::from(SETS);
    let mut flows = HashMap::new();
    for n in 0..=ports {
        let flow = flow(n);
        let outcome = world.run(&flow.build());
        if outcome.verdict != Verdict::Nat {
            assert_eq!(outcome.verdict, Verdict::NatExhausted);
            break;
        }
        let translation = ends(&outcome.frame).0;
        // Established, or it would make room.
        answered(&world, &flow, &answer(&flow, translation, Transport::Udp));
        assert!(flows.insert(translation, flow).is_none());
    }
    for (&translation, flow) in &flows {
        assert_eq!(translated(&world, flow), translation);
        answered(&world, flow, &answer(flow, translation, Transport::Udp));
    }
    assert_eq!(world.events(Event::NatRecorded), flows.len() as u64);
    assert!(
        flows.len() * 10 > ports as usize * 7,
        "{} of {ports}",
        flows.len()
    );
}
