//! Passes over the flow tables.

use steerd_core::{api, config};
use steerd_ebpf::{
    abi::{FLOW4_SETS, FLOW6_SETS},
    flow::{self, Key4, Key6, State, Value},
    hash,
};

use super::*;

/// Puts a flow somewhere, as a pass does not care where.
fn put_flow(plane: &Dataplane, client: IpAddr, service: u32, backend: u32, state: State) {
    let value = Value {
        backend: backend as u16,
        generation: plane.maps.backend_state(backend).unwrap().generation,
        state,
        seen: flow::seen(view::read_clock().jiffies),
    };
    match client {
        IpAddr::V4(client) => {
            let key = Key4::new(u32::from_ne_bytes(client.octets()), 7, service);
            let hash = hash::mix(key.0);
            let set = plane.maps.flows4.element(hash as u32 & (FLOW4_SETS - 1));
            let way = set.chunks(2).find(|entry| entry[1].load() == 0).unwrap();
            way[0].store(key.0);
            way[1].store(value.pack(flow::tag(hash)));
        }
        IpAddr::V6(client) => {
            let key = Key6::new(abi::addr_words(client.octets()), 7, service);
            let hash = hash::mix(key.0[0] ^ key.0[1]);
            let set = plane.maps.flows6.element(hash as u32 & (FLOW6_SETS - 1));
            let way = set.chunks(4).find(|entry| entry[3].load() == 0).unwrap();
            for (word, value) in way.iter().zip(key.0) {
                word.store(value);
            }
            way[3].store(value.pack(flow::tag(hash)));
        }
    }
}

/// Counts anew, as if the last time were long ago.
fn count(plane: &Dataplane, status: &mut api::Status) {
    let mut view = plane.view();
    view.last_count = Arc::default();
    view.count(status);
}

fn status(service: &Name, backends: &[SteeredBackend]) -> api::Status {
    let backend = |backend: &SteeredBackend| api::BackendStatus {
        name: backend.name.clone(),
        address: backend.address,
        port: backend.port,
        weight: 1,
        slow_start_percent: None,
        tier: 1,
        sorry: false,
        mode: config::Mode::Local,
        state: api::BackendState::Up,
        reason: String::new(),
        since_ms: 0,
        in_use: true,
        latency_us: None,
        connections: None,
        packets: 0,
        bytes: 0,
    };
    api::Status {
        node: Name::new("a"),
        version: String::new(),
        uptime_s: 0,
        config: String::new(),
        interfaces: Vec::new(),
        virtual_routers: Vec::new(),
        tracks: Vec::new(),
        services: vec![api::ServiceStatus {
            name: service.clone(),
            address: ip(VIP),
            port: 8765,
            protocol: Protocol::Tcp,
            virtual_router: Name::new("vip"),
            scheduler: Scheduler::Maglev,
            active_tier: Some(1),
            panic: false,
            packets: 0,
            bytes: 0,
            backends: backends.iter().map(backend).collect(),
        }],
        verdicts: Vec::new(),
        events: Vec::new(),
        tables: Vec::new(),
        dropped_adverts: Vec::new(),
        faults: Vec::new(),
        recent: Vec::new(),
        channel: None,
    }
}

#[test]
fn connections_are_counted_corrected_and_removed() {
    with_bpffs(|bpffs| {
        let mut plane = plane(bpffs);
        let mut steering = steering(vec![backend(2, Way::Local), backend(3, Way::Local)]);
        steering.policy.scheduler = Scheduler::LeastConnections;
        plane.steer(&steering).unwrap();
        plane.commit(at(1000)).unwrap();
        assert!(plane.counts_connections());
        let id = entry(&plane, &steering).id;
        let numbers: Vec<u32> = plane.steered[&steering.service]
            .backends
            .iter()
            .map(|b| b.0)
            .collect();
        for n in 0..100_u8 {
            let state = [
                State::New,
                State::Established,
                State::Closing,
                State::Established,
            ][usize::from(n % 4)];
            put_flow(
                &plane,
                [10, 1, 0, n].into(),
                id,
                numbers[usize::from(n >= 40)],
                state,
            );
        }
        put_flow(
            &plane,
            ip("2001:db8::1"),
            id,
            numbers[1],
            State::Established,
        );

        let mut status = status(&steering.service, &steering.backends);
        count(&plane, &mut status);
        let connections: Vec<_> = status.services[0]
            .backends
            .iter()
            .map(|b| b.connections.unwrap())
            .collect();
        let expected = |new, established, closing| api::Connections {
            new,
            established,
            closing,
        };
        assert_eq!(connections, [expected(10, 20, 10), expected(15, 31, 15)]);
        let table = |name: &str| {
            status
                .tables
                .iter()
                .find(|table| table.table == name)
                .unwrap()
        };
        assert_eq!(
            (table("FLOWS4").used, table("FLOWS4").capacity),
            (100, 1 << 21)
        );
        assert_eq!(
            (table("FLOWS6").used, table("FLOWS6").capacity),
            (1, 1 << 20)
        );
        assert_eq!((table("NAT").used, table("NAT").capacity), (0, 0));
        assert_eq!(
            (table("FRAGMENTS").used, table("FRAGMENTS").capacity),
            (0, 8192)
        );

        // Who asks again at once gets the same.
        let view = plane.view();
        let mut first = status.clone();
        view.count(&mut first);
        put_flow(&plane, [10, 1, 1, 1].into(), id, numbers[0], State::Closing);
        view.count(&mut status);
        assert_eq!(status, first);
        count(&plane, &mut status);
        assert_eq!(
            status.services[0].backends[0].connections,
            Some(expected(10, 20, 11))
        );

        // What the program has miscounted, below zero too, is right afterwards.
        let load = |at: usize| &plane.maps.loads.element(numbers[at])[0];
        load(0).store(3_u64.wrapping_neg());
        load(1).store(1000);
        plane.view().correct_loads();
        assert_eq!((load(0).load(), load(1).load()), (30, 46));

        // Clients that are denied from now on lose their flows, others not.
        steering.policy.sources.deny = vec!["10.1.0.0/27".parse().unwrap()];
        plane.steer(&steering).unwrap();
        let purge = plane.take_purge().unwrap();
        assert!(plane.take_purge().is_none(), "once");
        plane.view().purge(&purge);
        count(&plane, &mut status);
        assert_eq!(status.tables[0].used, 101 - 32);
        steering.policy.sources.allow = vec!["10.1.0.64/26".parse().unwrap()];
        plane.steer(&steering).unwrap();
        plane.view().purge(&plane.take_purge().unwrap());
        count(&plane, &mut status);
        assert_eq!(status.tables[0].used, 36);
    });
}
