//! The object and the model, told the same, side by side.

use std::{collections::BTreeMap, net::IpAddr};

use proptest::{prelude::*, test_runner::TestCaseError};
use steerd_ebpf::{
    abi::{self, BackendState, Counter, Scheduler, mac_word, maps},
    event::Event,
    flow::State,
    inspect,
    shared::Shared,
};
use steerd_tests::model::{
    Action, Backend, Config, Flow, FlowKey, Model, Service, Session, Stage, words,
};

use super::{
    Step,
    config::{COUNTED, NAT_ADDRESSES, UNUSED, config, set_control},
    others::{Answer, Message},
};
use crate::world::{DROP, Mapped, PASS, REDIRECT, TX, World};

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
        if said.action != Action::Drop && seen.frame != said.frame {
            let same = seen
                .frame
                .iter()
                .zip(&said.frame)
                .take_while(|(one, other)| one == other);
            let at = same.count();
            return Err(TestCaseError::fail(format!(
                "{:?}: byte {at} of what became of{}\nis{}\nnot{}",
                said.verdict,
                hex(frame),
                hex(&seen.frame),
                hex(&said.frame)
            )));
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

/// As far as a reader wants to see it: the headers are at the front.
fn hex(bytes: &[u8]) -> String {
    const SHOWN: usize = 160;
    let mut text = String::new();
    for (at, byte) in bytes.iter().enumerate().take(SHOWN) {
        let gap = if at % 16 == 0 { "\n  " } else { " " };
        text.push_str(&format!("{gap}{byte:02x}"));
    }
    if bytes.len() > SHOWN {
        text.push_str(&format!("\n  ... {} bytes", bytes.len()));
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
