//! The kernel program's policy a second time: slow, plain and made to be read.
//!
//! The model takes frames and says what becomes of each: verdict, action, the frame as it leaves,
//! what is counted, what is remembered. A property test hands the same frames to the built object
//! and compares (`tests/object/model.rs`). The two share the ABI (names, numbers, policies) and the
//! hash functions that every node has to agree on, and nothing else: the model reads bytes from
//! slices, keeps flows in maps, and computes every checksum anew.
//!
//! * [`Config`]: what the daemon would have told the program.
//! * `link`, `headers`: what a frame says (IEEE 802.1Q; RFC 791, 8200, 9293, 768).
//! * `steering`: service, flow, backend. `admission`: who may open a flow. `forward`, `tunnel`,
//!   `nat`, `mss`: what leaves. `icmp`, `fragments`: messages about packets, and parts of them.
//!
//! Two things are left out. Tables do not fill up: no run has more flows than sets have room for,
//! which [`Model::crowded`] denies. Time stands still: limits do not refill, nothing expires.

mod admission;
mod checksum;
mod config;
mod forward;
mod fragments;
mod headers;
mod icmp;
mod link;
mod mss;
mod nat;
mod steering;
mod tunnel;

use std::{collections::BTreeMap, net::IpAddr};

use steerd_ebpf::{event::Event, hash, verdict::Verdict};

pub use config::{Address, Backend, Config, Network, Service, SourceNetwork, words};
use fragments::{First, FragmentKey};
use headers::Headers;
use link::Link;
pub use nat::Session;

/// What becomes of a packet in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// On to the host's stack.
    Pass,
    /// Gone.
    Drop,
    /// Out where it came in.
    Tx,
    /// Out of another interface.
    Redirect,
}

/// What the model says of a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Why.
    pub verdict: Verdict,
    /// What becomes of it.
    pub action: Action,
    /// The frame as it leaves; of a dropped one it means nothing.
    pub frame: Vec<u8>,
    /// The service it is counted for; 0: none.
    pub service: u32,
    /// The backend it is counted for; 0: none.
    pub backend: u16,
    /// What happened by the way, each as often as it did.
    pub events: Vec<Event>,
}

/// Which flow: the client's address and port, and the service's id.
pub type FlowKey = (IpAddr, u16, u32);

/// What is remembered of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// Its backend.
    pub backend: u16,
    /// The generation its backend had.
    pub generation: u8,
    /// How far it is.
    pub stage: Stage,
}

/// How far a flow is, by what its client sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// One packet, or SYNs only.
    New,
    /// More.
    Established,
    /// A FIN or RST.
    Closing,
}

/// The program, and what it remembers.
#[derive(Debug, Clone)]
pub struct Model {
    /// What the daemon has told it. May change between packets.
    pub config: Config,
    /// The flow table.
    pub flows: BTreeMap<FlowKey, Flow>,
    /// The translated flows.
    sessions: BTreeMap<FlowKey, Session>,
    /// Where first fragments went.
    firsts: BTreeMap<FragmentKey, First>,
    /// The translation of the session of the packet at hand.
    touched: Option<(IpAddr, u16)>,
    /// Where the frame that was sent came from.
    given: Option<(IpAddr, u16)>,
    /// Connections of each backend of a service that counts them.
    pub connections: BTreeMap<u16, i64>,
    /// Flows that each service has placed in turn.
    turns: BTreeMap<u32, u64>,
    /// New flows that each limited service may have still.
    left: BTreeMap<u32, u64>,
    /// What happened to the packet at hand.
    events: Vec<Event>,
}

/// What was decided: verdict, service, backend, and the frame and interface of what leaves.
#[derive(Debug)]
struct Decision {
    verdict: Verdict,
    service: u32,
    backend: u16,
    leaving: Option<(Vec<u8>, u32)>,
}

impl Decision {
    /// About a packet of no service, which stays as it is.
    const fn new(verdict: Verdict) -> Self {
        Self {
            verdict,
            service: 0,
            backend: 0,
            leaving: None,
        }
    }
}

impl Model {
    /// A program that remembers nothing.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let left = config
            .services
            .iter()
            .map(|service| (service.id, service.burst))
            .collect();
        Self {
            config,
            flows: BTreeMap::new(),
            sessions: BTreeMap::new(),
            firsts: BTreeMap::new(),
            touched: None,
            given: None,
            connections: BTreeMap::new(),
            turns: BTreeMap::new(),
            left,
            events: Vec::new(),
        }
    }

    /// What becomes of a frame. `sent` is the frame that the program made of it: a new translated
    /// flow has the address and port that it comes from there, if it may.
    pub fn step(&mut self, frame: &[u8], sent: &[u8]) -> Outcome {
        self.events.clear();
        self.given = source_of(sent);
        self.touched = None;
        let decision = match self.decide(frame) {
            Ok(decision) => decision,
            Err(verdict) => Decision::new(verdict),
        };
        let (frame, ifindex) = match decision.leaving {
            Some((frame, ifindex)) => (frame, Some(ifindex)),
            None => (frame.to_vec(), None),
        };
        Outcome {
            verdict: decision.verdict,
            action: self.action(decision.verdict, ifindex),
            frame,
            service: decision.service,
            backend: decision.backend,
            events: std::mem::take(&mut self.events),
        }
    }

    /// Whether the table could have no room for a flow: more than four would share a set.
    #[must_use]
    pub fn crowded(&self) -> bool {
        let mut sets: BTreeMap<(bool, u64), u32> = BTreeMap::new();
        for &(client, port, service) in self.flows.keys() {
            *sets
                .entry(self.config.set_of(client, port, service))
                .or_default() += 1;
        }
        sets.values().any(|&flows| flows > 4)
    }

    /// How many flows a service has placed in turn.
    #[must_use]
    pub fn turns(&self, service: u32) -> u64 {
        self.turns.get(&service).copied().unwrap_or(0)
    }

    fn decide(&mut self, frame: &[u8]) -> Result<Decision, Verdict> {
        let (link, packet) = Link::read(frame)?;
        let headers = Headers::read(&link, packet, |address| self.may_be_ours(address))?;
        self.steer(&link, packet, &headers)
    }

    /// Whether the filter lets an address through: each of ours, and a few others.
    fn may_be_ours(&self, address: IpAddr) -> bool {
        let bit =
            |address| hash::address_filter(hash::address(words(address), self.config.address_seed));
        self.config
            .addresses
            .iter()
            .any(|ours| bit(ours.address) == bit(address))
    }

    /// The action that a verdict stands for.
    fn action(&self, verdict: Verdict, ifindex: Option<u32>) -> Action {
        match verdict {
            // The stack knows best, or says no in a way that its client understands.
            Verdict::NotIp
            | Verdict::NotVip
            | Verdict::NoService
            | Verdict::Truncated
            | Verdict::BadHeader
            | Verdict::ExtensionHeader
            | Verdict::OtherHost
            | Verdict::NoBackend
            | Verdict::NatUnknown
            | Verdict::NatExhausted => Action::Pass,
            // The stack is whom it is for.
            Verdict::Delivered | Verdict::Local | Verdict::Unwrapped => Action::Pass,
            // Nobody should get it.
            Verdict::BadLength
            | Verdict::SourceRoute
            | Verdict::Jumbogram
            | Verdict::ZeroPort
            | Verdict::Land
            | Verdict::TinyFragment
            | Verdict::EarlyFragment
            | Verdict::BadTunnel
            | Verdict::TooBigDropped
            | Verdict::Denied
            | Verdict::Limited
            | Verdict::BadBackend
            | Verdict::TtlExpired
            | Verdict::Fenced => Action::Drop,
            // Its sender is answered.
            Verdict::Echo | Verdict::TooBig => Action::Tx,
            Verdict::Dsr | Verdict::Tunnel | Verdict::Nat | Verdict::NatReturn => match ifindex {
                Some(ifindex) if ifindex == self.config.ingress => Action::Tx,
                Some(ifindex) if self.config.interfaces.contains(&ifindex) => Action::Redirect,
                _ => Action::Drop,
            },
        }
    }
}

/// The source address and port of a frame.
fn source_of(frame: &[u8]) -> Option<(IpAddr, u16)> {
    let (link, packet) = Link::read(frame).ok()?;
    let headers = Headers::read(&link, packet, |_| true).ok()?;
    Some((headers.source, headers.transport(packet)?.source_port))
}
