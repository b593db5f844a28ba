//! The object and the model, told the same, side by side.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use proptest::{prelude::*, test_runner::TestCaseError};
use steerd_ebpf::{
    abi::{
        self, Affinity, BackendState, Control, Counter, Mode, NatPool, NatTimeouts, Policy, Role,
        Scheduler, SourceRule, mac_word, maps,
    },
    event::Event,
    flow::State,
    inspect,
    shared::Shared,
};
use steerd_tests::model::{
    Action, Address, Backend, Config, Flow, FlowKey, Model, Network, Service, Session,
    SourceNetwork, Stage, words,
};

use super::{
    Step,
    packet::{self, Answer, ENDPOINT4, ENDPOINT6, GUE_PORT, Message, VIP4, VIP6},
};
use crate::world::{
    BACKEND_MAC, DROP, ELSEWHERE, FLOW_SEED, INGRESS, Mapped, OWN_MAC, PASS, PEER_MAC, REDIRECT,
    SEED, TX, World,
};

/// Object and model.
pub(super) struct Rig {
    world: World,
    flows4: Mapped,
    flows6: Mapped,
    sessions: Mapped,
    hops: Mapped,
    fragments: Mapped,
    /// What both start with.
    config: Config,
    /// Where each service's entry is, and the line of its ring.
    places: Vec<(u32, u32)>,
    model: Model,
    /// What the counters of services and backends said at the start.
    before: [Vec<Counter>; 2],
    /// What the model's do.
    counted: [BTreeMap<u32, Counter>; 2],
    /// How often each verdict and each event was met, over all runs.
    pub(super) verdicts: BTreeMap<&'static str, u64>,
    pub(super) happened: BTreeMap<&'static str, u64>,
}

impl Rig {
    pub(super) fn new() -> Self {
        let mut world = World::new();
        let config = config();
        set_control(&mut world);
        for ours in &config.addresses {
            world.address(ours.address, ours.role.0);
        }
        let places = config
            .services
            .iter()
            .map(|service| place(&mut world, service))
            .collect();
        Self {
            flows4: world.mapped(maps::FLOWS4),
            flows6: world.mapped(maps::FLOWS6),
            sessions: world.mapped(maps::NAT),
            hops: world.mapped(maps::NAT_HOPS),
            fragments: world.mapped(maps::FRAGMENTS),
            world,
            places,
            model: Model::new(config.clone()),
            config,
            before: Default::default(),
            counted: Default::default(),
            verdicts: BTreeMap::new(),
            happened: BTreeMap::new(),
        }
    }

    /// Both as if they had just started.
    pub(super) fn reset(&mut self) {
        self.model = Model::new(self.config.clone());
        for map in [
            &self.flows4,
            &self.flows6,
            &self.sessions,
            &self.hops,
            &self.fragments,
        ] {
            for word in map.occupied(1).into_iter().flat_map(|(_, element)| element) {
                word.store(0);
            }
        }
        for at in 0..self.config.services.len() {
            let service = self.config.services[at].clone();
            self.ring(at, &service.ring);
            let burst = service.burst << 16;
            self.world
                .set(maps::SYN_LIMITS, service.id, [0, burst, burst, 0]);
        }
        for (&id, backend) in &self.config.backends {
            set_backend(&mut self.world, &self.config, id, backend);
            self.world
                .set(maps::LOADS, u32::from(id), [0, backend.weight]);
        }
        self.before = self.counters();
        self.counted = Default::default();
    }

    /// Lets something happen to both.
    pub(super) fn step(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match step {
            Step::Packet(plan) => self.packet(&plan.build()),
            Step::Wrapped(wrapped) => self.packet(&wrapped.build()),
            Step::Answer(answer) => self.answer(answer),
            Step::Message(message) => self.message(message),
            Step::Noise(frame) => self.packet(frame),
            &Step::Alive(id, alive) => {
                self.change(id, |backend| backend.alive = alive);
                Ok(())
            }
            &Step::Reused(id) => {
                self.change(id, |backend| {
                    backend.generation = backend.generation.wrapping_add(1);
                });
                Ok(())
            }
            Step::Ring(at, ring) => {
                let service = &self.config.services[*at];
                let is_its = |id: u16| {
                    let owner = self
                        .config
                        .backends
                        .get(&id)
                        .map_or(0, |backend| backend.service);
                    owner == service.id
                        || owner == 0 && !is_counted(service)
                        || owner == COUNTED && is_counted(service)
                };
                let ring: Vec<u16> = ring.iter().copied().filter(|&id| is_its(id)).collect();
                self.ring(*at, &ring);
                self.model.config.services[*at].ring = ring;
                Ok(())
            }
        }
    }

    /// An answer of one of the sessions that there are, if there is one.
    fn answer(&mut self, answer: &Answer) -> Result<(), TestCaseError> {
        match self.session(&answer.which) {
            Some((backend, session)) => {
                self.packet(&answer.build(backend, session.translation, session.is_udp))
            }
            None => Ok(()),
        }
    }

    fn message(&mut self, message: &Message) -> Result<(), TestCaseError> {
        let session = message.of_session.and_then(|which| self.session(&which));
        let frame = match session {
            Some((backend, session)) => {
                message.build_about(session.translation, backend, session.is_udp)
            }
            None => message.build(),
        };
        self.packet(&frame)
    }

    /// One of the sessions, and its backend's address and port.
    fn session(&self, which: &prop::sample::Index) -> Option<((IpAddr, u16), Session)> {
        let sessions = self.model.sessions();
        if sessions.is_empty() {
            return None;
        }
        let (_, session) = which.get(&sessions).clone();
        let backend = self.config.backends.get(&session.backend)?;
        Some(((backend.address, backend.port), session))
    }

    fn packet(&mut self, frame: &[u8]) -> Result<(), TestCaseError> {
        // One message to a sender is always allowed then.
        self.world.allow_telling();
        let events = self.events();
        let seen = self.world.run(frame);
        let said = self.model.step(frame, &seen.frame);
        prop_assert_eq!(seen.verdict, said.verdict, "verdict on {:02x?}", frame);
        let action = match said.action {
            Action::Pass => PASS,
            Action::Drop => DROP,
            Action::Tx => TX,
            Action::Redirect => REDIRECT,
        };
        prop_assert_eq!(seen.action, action, "action of {:?}", said.verdict);
        if said.action != Action::Drop {
            prop_assert_eq!(
                hex(&seen.frame),
                hex(&said.frame),
                "what became of {}",
                hex(frame)
            );
        }
        let happened: Vec<(Event, u64)> = Event::ALL
            .into_iter()
            .zip(self.events().into_iter().zip(events))
            .map(|(event, (after, before))| (event, after - before))
            .filter(|&(_, times)| times != 0)
            .collect();
        let expected: Vec<(Event, u64)> = Event::ALL
            .into_iter()
            .map(|event| {
                (
                    event,
                    said.events.iter().filter(|&&said| said == event).count() as u64,
                )
            })
            .filter(|&(_, times)| times != 0)
            .collect();
        prop_assert_eq!(&happened, &expected, "events of {}", hex(frame));
        *self.verdicts.entry(said.verdict.name()).or_default() += 1;
        for &(event, times) in &expected {
            *self.happened.entry(event.name()).or_default() += times;
        }
        let ids = [
            said.service,
            if said.service == 0 {
                0
            } else {
                u32::from(said.backend)
            },
        ];
        for (counted, id) in self.counted.iter_mut().zip(ids) {
            if id != 0 {
                let counter = counted.entry(id).or_default();
                counter.packets += 1;
                counter.bytes += frame.len() as u64;
            }
        }
        Ok(())
    }

    /// What both remember, and have counted.
    pub(super) fn compare_tables(&self) -> Result<(), TestCaseError> {
        prop_assert!(
            !self.model.crowded(),
            "more flows of a set than it has room for"
        );
        let mut flows = BTreeMap::new();
        for (map, size) in [(&self.flows4, 2), (&self.flows6, 4)] {
            for (_, entry) in map.occupied(size) {
                let bytes: Vec<u8> = entry
                    .iter()
                    .flat_map(|word| word.load().to_ne_bytes())
                    .collect();
                let flow = if size == 2 {
                    inspect::flow4(&bytes)
                } else {
                    inspect::flow6(&bytes)
                };
                let flow = flow.expect("an entry that is not free");
                let key: FlowKey = (flow.client, flow.client_port, u32::from(flow.service));
                let flow = Flow {
                    backend: flow.backend,
                    generation: flow.generation,
                    stage: stage(flow.state),
                };
                prop_assert_eq!(flows.insert(key, flow), None, "twice in the table");
            }
        }
        self.compare_sessions()?;
        let said: BTreeMap<FlowKey, Flow> = self
            .model
            .flows
            .iter()
            .map(|(&(client, port, service), &flow)| ((client.to_canonical(), port, service), flow))
            .collect();
        prop_assert_eq!(flows, said, "flow table");
        for (&id, backend) in &self.config.backends {
            if backend.weight != 0 {
                let said = self.model.connections.get(&id).copied().unwrap_or(0);
                prop_assert_eq!(
                    self.world.connections(u32::from(id)),
                    said,
                    "connections of {}",
                    id
                );
            }
        }
        for ((after, before), counted) in
            self.counters().iter().zip(&self.before).zip(&self.counted)
        {
            for (id, (after, before)) in (0..).zip(after.iter().zip(before)) {
                let seen = Counter {
                    packets: after.packets - before.packets,
                    bytes: after.bytes - before.bytes,
                };
                prop_assert_eq!(
                    seen,
                    counted.get(&id).copied().unwrap_or_default(),
                    "counter {}",
                    id
                );
            }
        }
        Ok(())
    }

    fn compare_sessions(&self) -> Result<(), TestCaseError> {
        let mut seen = BTreeMap::new();
        for (place, entry) in self.sessions.occupied(4) {
            let word = entry[3].load();
            let session = abi::Session::unpack(word, abi::Session::tag(word)).expect("whole");
            let address = IpAddr::from(abi::addr_octets([entry[0].load(), entry[1].load()]));
            let third = entry[2].load();
            let key: FlowKey = (
                address.to_canonical(),
                u16::from_be((third >> 16) as u16),
                third as u32 & 0xffff,
            );
            let numbered = NAT_ADDRESSES[place >> 16];
            let value = (
                session.value.backend,
                session.value.generation,
                session.udp,
                stage(session.state()),
                session.answered,
                (numbered, place as u16),
            );
            prop_assert_eq!(seen.insert(key, value), None, "twice in the table");
        }
        let said: BTreeMap<_, _> = self
            .model
            .sessions()
            .into_iter()
            .map(|(key, session)| {
                let value = (
                    session.backend,
                    session.generation,
                    session.is_udp,
                    session.stage,
                    session.answered,
                    session.translation,
                );
                (key, value)
            })
            .collect();
        prop_assert_eq!(seen, said, "sessions");
        Ok(())
    }

    fn change(&mut self, id: u16, change: impl FnOnce(&mut Backend)) {
        if let Some(backend) = self.model.config.backends.get_mut(&id) {
            change(backend);
            set_backend(&mut self.world, &self.config, id, backend);
        }
    }

    /// Gives a service a ring, and its cursor its start.
    fn ring(&mut self, at: usize, ring: &[u16]) {
        let (slot, line) = self.places[at];
        self.world.line(line, ring);
        let mut entry: [u64; 8] = self.world.get(maps::SERVICES, slot);
        entry[3] = ring.len() as u64 | u64::from(line) << 32;
        entry[7] = self.model.turns(self.config.services[at].id);
        self.world.set(maps::SERVICES, slot, entry);
    }

    fn events(&self) -> Vec<u64> {
        let counters = self.world.counters(maps::EVENT_STATS, Event::COUNT);
        counters.iter().map(|counter| counter.packets).collect()
    }

    fn counters(&self) -> [Vec<Counter>; 2] {
        let last = |ids: &mut dyn Iterator<Item = u32>| ids.max().unwrap_or(0);
        let services = last(&mut self.config.services.iter().map(|service| service.id));
        let backends = last(&mut self.config.backends.keys().map(|&id| u32::from(id)));
        let read = |map, last| self.world.counters(map, last as usize + 1);
        [
            read(maps::SERVICE_STATS, services),
            read(maps::BACKEND_STATS, backends.max(UNUSED.into())),
        ]
    }
}

fn stage(state: State) -> Stage {
    match state {
        State::New => Stage::New,
        State::Established => Stage::Established,
        State::Closing => Stage::Closing,
    }
}

fn is_counted(service: &Service) -> bool {
    service.policy.scheduler() == Scheduler::LeastConnections
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for (at, byte) in bytes.iter().enumerate() {
        let gap = if at % 16 == 0 { "\n  " } else { " " };
        text.push_str(&format!("{gap}{byte:02x}"));
    }
    text
}

fn place(world: &mut World, service: &Service) -> (u32, u32) {
    let Service {
        id,
        address,
        port,
        protocol,
        policy,
        ..
    } = *service;
    // A line of the rings, whatever it has first.
    let slot = if policy.is_quic() {
        world.quic(id, address, port, policy, &[0], &service.servers)
    } else {
        world.service_with(id, address, port, protocol, &[0], policy)
    };
    for source in &service.sources {
        world.source(id, source.network, source.prefix.into(), source.rule);
    }
    let entry: [u64; 8] = world.get(maps::SERVICES, slot);
    (slot, (entry[3] >> 32) as u32)
}

fn set_backend(world: &mut World, config: &Config, id: u16, backend: &Backend) {
    let state = BackendState {
        mac: mac_word(backend.mac),
        generation: backend.generation,
        mode: backend.mode,
        alive: backend.alive,
    };
    let service = config
        .services
        .iter()
        .find(|service| service.id == backend.service);
    let entry = abi::Backend {
        state: Shared::new(state.pack()),
        source: Shared::new(abi::Backend::source_word(
            mac_word(backend.source_mac),
            backend.vlan,
        )),
        ifindex: backend.ifindex,
        service: backend.service,
        addr: words(backend.address),
        port: backend.port.to_be(),
        mtu: backend.mtu,
        service_port: service.map_or(0, |service| service.port.to_be()),
        service_addr: service.map_or([0; 2], |service| words(service.address)),
        ..abi::Backend::default()
    };
    world.backend_with(id.into(), &entry);
}

/// The id of no backend.
const UNUSED: u16 = 99;

pub(super) fn any_backend() -> impl Strategy<Value = u16> {
    let mut ids: Vec<u16> = backends().into_keys().collect();
    ids.push(UNUSED);
    prop::sample::select(ids)
}

/// Of [`Backend::service`]: one whose connections are counted.
const COUNTED: u32 = 1000;

const BACKEND4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 3, 0, 99));
const BACKEND6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 3, 0, 0, 0, 0, 0, 0x99));

/// Backends of every mode; what they have and what they have not in common is to be told apart.
fn backends() -> BTreeMap<u16, Backend> {
    let backend = |id: u16, mode, ifindex, vlan, service| {
        let mut mac = BACKEND_MAC;
        mac[4] = id as u8;
        let mut source_mac = OWN_MAC;
        source_mac[4] = (ifindex % 7) as u8;
        let backend = Backend {
            mode,
            mac,
            source_mac,
            vlan,
            ifindex,
            alive: true,
            generation: id as u8,
            address: BACKEND4,
            port: 8080 + id,
            mtu: 1500,
            service,
            weight: if service == COUNTED {
                u64::from(id - 10)
            } else {
                0
            },
        };
        (id, backend)
    };
    let mut backends = BTreeMap::from([
        backend(1, Mode::Local, 0, 0, 0),
        backend(2, Mode::Dsr, INGRESS, 0, 0),
        backend(3, Mode::Dsr, ELSEWHERE, 0, 0),
        backend(4, Mode::Dsr, INGRESS, 7, 0),
        backend(5, Mode::Dsr, ELSEWHERE, 4094, 0),
        // Through an interface that is not there.
        backend(6, Mode::Dsr, 55, 0, 0),
        backend(11, Mode::Dsr, INGRESS, 0, COUNTED),
        backend(12, Mode::Dsr, ELSEWHERE, 7, COUNTED),
        backend(13, Mode::Local, 0, 0, COUNTED),
        backend(21, Mode::Ipip, INGRESS, 0, 0),
        backend(22, Mode::Ipip, ELSEWHERE, 7, 0),
        backend(23, Mode::Gue, INGRESS, 9, 0),
        backend(24, Mode::Gue, ELSEWHERE, 0, 0),
        backend(25, Mode::Gue, INGRESS, 0, 0),
    ]);
    for id in [22, 24] {
        backends
            .entry(id)
            .and_modify(|backend| backend.address = BACKEND6);
    }
    backends.entry(25).and_modify(|backend| backend.mtu = 700);
    // Two for each service that translates.
    let translating = services()
        .into_iter()
        .filter(|service| service.ring.iter().any(|&id| id > 30 && id != UNUSED));
    for service in translating {
        for &id in &service.ring {
            let (ifindex, vlan) = if id % 2 == 0 {
                (INGRESS, 0)
            } else {
                (ELSEWHERE, 7)
            };
            let (id, mut backend) = backend(id, Mode::Nat, ifindex, vlan, service.id);
            backend.address = if service.address.is_ipv4() {
                BACKEND4
            } else {
                BACKEND6
            };
            backends.insert(id, backend);
        }
    }
    backends
}

/// The kinds of services, each on a port of its own: ring and policy.
fn kinds() -> Vec<(Vec<u16>, Policy)> {
    let all = Affinity {
        prefix: 128,
        port: true,
    };
    let network = |prefix| Affinity {
        prefix,
        port: false,
    };
    let hash = |affinity, mss, sources, limited| {
        Policy::new(Scheduler::Hash, affinity, mss, sources, limited, false)
    };
    let scheduled = |scheduler| Policy::new(scheduler, all, 0, false, false, false);
    let quic = Policy::new(Scheduler::Hash, all, 0, false, false, true);
    vec![
        (vec![2], Policy::default()),
        (vec![1], Policy::default()),
        (vec![3, 4, 5, 2, 1], Policy::default()),
        (vec![2, 3, 6], hash(network(128), 0, false, false)),
        (vec![2, 3, 4, 5], hash(network(123), 0, false, false)),
        (vec![2, 3, 2, 4, 1], scheduled(Scheduler::Sequence)),
        (vec![11, 12, 13], scheduled(Scheduler::LeastConnections)),
        (vec![1, 2, 4], hash(all, 1200, false, false)),
        (vec![2, 5], hash(all, 0, true, false)),
        (vec![2, 3], hash(all, 0, false, true)),
        (vec![3, 4], hash(network(64), 536, true, true)),
        (vec![2, 3, 4], quic),
        (vec![], Policy::default()),
        (vec![UNUSED, 2], Policy::default()),
        (vec![21, 22, 23, 24, 25], Policy::default()),
        (vec![21, 22, 23, 24], hash(all, 1200, false, false)),
        (vec![25], Policy::default()),
        // See `services`.
        (vec![NAT, NAT], Policy::default()),
        (vec![NAT, NAT], hash(all, 1200, false, false)),
    ]
}

/// In a ring of [`kinds`]: a backend of the service's own that translates.
const NAT: u16 = 31;

/// How many kinds of services there are: their ports follow each other.
pub(super) fn kinds_count() -> u16 {
    kinds().len() as u16
}

/// Every kind, for TCP and UDP, IPv4 and IPv6.
pub(super) fn services() -> Vec<Service> {
    let mut services = Vec::new();
    let mut own = NAT;
    for (port, (ring, policy)) in (packet::PORT..).zip(kinds()) {
        for (address, protocol) in [(VIP4, 6), (VIP4, 17), (VIP6, 6), (VIP6, 17)] {
            if policy.is_quic() && protocol == 6 {
                continue;
            }
            let source = |network: &str, prefix, rule| SourceNetwork {
                network: network.parse().unwrap(),
                prefix,
                rule,
            };
            let sources = if !policy.has_sources() {
                vec![]
            } else if address.is_ipv4() {
                vec![
                    source("10.0.0.0", 29, SourceRule::Deny),
                    source("10.0.0.2", 31, SourceRule::Allow),
                    source("10.0.0.3", 32, SourceRule::Deny),
                ]
            } else {
                vec![
                    source("fd00:2::", 64, SourceRule::Deny),
                    source("fd00:2::2", 127, SourceRule::Allow),
                    source("fd00:2::3", 128, SourceRule::Deny),
                ]
            };
            let mut ring = ring.clone();
            for id in ring.iter_mut().filter(|id| **id == NAT) {
                *id = own;
                own += 1;
            }
            services.push(Service {
                id: services.len() as u32 + 1,
                address,
                port,
                protocol,
                ring,
                policy,
                servers: if policy.is_quic() {
                    vec![0, 2, 3, 4, UNUSED]
                } else {
                    vec![]
                },
                sources,
                burst: 1,
            });
        }
    }
    services
}

/// The addresses that translated packets come from: IPv4's first, in the order of their numbers.
const NAT_ADDRESSES: [IpAddr; 3] = [
    IpAddr::V4(Ipv4Addr::new(192, 168, 1, 31)),
    IpAddr::V4(Ipv4Addr::new(192, 168, 1, 32)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 0x31)),
];
const POOL: NatPool = NatPool {
    first_set: 4096,
    sets: 256,
    ipv4: 2,
    ipv6: 1,
};

const NETWORK4: Network = Network {
    address: IpAddr::V4(Ipv4Addr::new(10, 64, 0, 0)),
    mask: IpAddr::V4(Ipv4Addr::new(255, 192, 0, 0)),
};
const NETWORK6: Network = Network {
    address: IpAddr::V6(Ipv6Addr::new(0xfd00, 0x64, 0, 0, 0, 0, 0, 0)),
    mask: IpAddr::V6(Ipv6Addr::new(0xffff, 0xffff, 0xffff, 0xffff, 0, 0, 0, 0)),
};

fn config() -> Config {
    let address = |address: IpAddr, role| Address {
        address,
        role: Role(role),
    };
    let mut addresses = vec![
        address(VIP4, Role::VIRTUAL),
        address(VIP6, Role::VIRTUAL),
        address(ENDPOINT4, Role::ENDPOINT),
        address(ENDPOINT6, Role::ENDPOINT),
    ];
    for (number, nat) in (0..).zip(NAT_ADDRESSES) {
        addresses.push(address(nat, Role::nat_bits(number)));
    }
    Config {
        ingress: INGRESS,
        interfaces: vec![ELSEWHERE],
        own_macs: vec![OWN_MAC],
        peer_macs: vec![PEER_MAC],
        addresses,
        services: services(),
        backends: backends(),
        tunnel4: Some(NETWORK4),
        tunnel6: Some(NETWORK6),
        gue_port: GUE_PORT,
        nat_ports: POOL.first_set * 4..(POOL.first_set + POOL.sets) * 4,
        address_seed: SEED,
        flow_seed: FLOW_SEED,
    }
}

/// What of the configuration is in the control map.
fn set_control(world: &mut World) {
    let octets4 = |address: IpAddr| (words(address)[1] >> 32) as u32;
    let tunnel4 = u64::from(octets4(NETWORK4.mask)) << 32 | u64::from(octets4(NETWORK4.address));
    world.control(Control::TUNNEL4, tunnel4);
    let tunnel6 = [words(NETWORK6.address), words(NETWORK6.mask)];
    for (at, word) in tunnel6.into_iter().flatten().enumerate() {
        world.control(Control::TUNNEL6 + at, word);
    }
    world.control(Control::GUE_PORT, GUE_PORT.to_be().into());
    world.control(Control::NAT_POOL, POOL.pack());
    // Longer than a run takes.
    let timeouts = NatTimeouts {
        tcp_new: 3600,
        tcp_established: 3600,
        tcp_closing: 3600,
        udp_new: 3600,
        udp_established: 3600,
    };
    for (at, word) in timeouts.pack().into_iter().enumerate() {
        world.control(Control::NAT_TIMEOUTS + at, word);
    }
    for (at, word) in NAT_ADDRESSES.map(words).into_iter().flatten().enumerate() {
        world.control(Control::NAT_ADDRESSES + at, word);
    }
}
