//! Two implementations, one suite: whatever arrives in whatever order, the built object does what
//! the model (`steerd_tests::model`) says: verdict, action, every byte of the frame, events, flows.
//!
//! A run is a sequence of packets and of changes that the daemon makes. Packets are mostly sound
//! ones of few clients, so that they meet again; others lie, are changed by a few bytes, cut off, or
//! are noise. A failing run is shrunk to the few steps that show the difference.

mod config;
mod others;
mod packet;
mod packets;
mod rig;

use proptest::{prelude::*, strategy::ValueTree};

use others::{Answer, Message, Wrapped, answer, message, wrapped};
use packet::Plan;
use packets::{noise, plan};
use rig::Rig;
use steerd_ebpf::{event::Event, verdict::Verdict};

/// Something that happens.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// A packet arrives.
    Packet(Plan),
    /// A packet in another one arrives.
    Wrapped(Wrapped),
    /// A backend answers a translated flow.
    Answer(Answer),
    /// An ICMP message arrives.
    Message(Message),
    /// A frame without much sense arrives.
    Noise(Vec<u8>),
    /// A backend dies, or lives again.
    Alive(u16, bool),
    /// A backend's id is given to another one.
    Reused(u16),
    /// The ring of a service has these slots now.
    Ring(usize, Vec<u16>),
}

fn step() -> BoxedStrategy<Step> {
    prop_oneof![
        30 => plan().prop_map(Step::Packet),
        3 => wrapped().prop_map(Step::Wrapped),
        4 => answer().prop_map(Step::Answer),
        4 => message().prop_map(Step::Message),
        3 => noise().prop_map(Step::Noise),
        1 => (config::any_backend(), any::<bool>()).prop_map(|(id, alive)| Step::Alive(id, alive)),
        1 => config::any_backend().prop_map(Step::Reused),
        1 => (any::<prop::sample::Index>(), prop::collection::vec(config::any_backend(), 0..8))
            .prop_map(|(service, ring)| Step::Ring(service.index(config::services().len()), ring)),
    ]
    .boxed()
}

/// The steps of a run: about few services, so that flows meet again.
fn run(length: impl Into<prop::collection::SizeRange>) -> impl Strategy<Value = Vec<Step>> {
    // Two ports more than there are services.
    let service = 0..config::kinds_count() + 2;
    let services = prop::collection::vec(service, usize::from(packet::SERVICES));
    (services, prop::collection::vec(step(), length)).prop_map(|(services, mut steps)| {
        for step in &mut steps {
            match step {
                Step::Packet(plan) => plan.of_run(&services),
                Step::Wrapped(wrapped) => wrapped.inner.of_run(&services),
                Step::Message(message) => message.about.of_run(&services),
                _ => {}
            }
        }
        steps
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn the_object_does_what_the_model_says(steps in run(1..120)) {
        thread_local!(static RIG: std::cell::RefCell<Rig> = std::cell::RefCell::new(Rig::new()));
        RIG.with_borrow_mut(|rig| {
            rig.reset();
            for step in &steps {
                rig.step(step)?;
            }
            rig.compare_tables()
        })?;
    }
}

/// What is compared is worth something only if packets end in every way. The runs are the same
/// ones each time.
#[test]
fn the_packets_meet_every_verdict_and_event() {
    let mut rig = Rig::new();
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let run = run(100);
    for _ in 0..60 {
        rig.reset();
        for step in run.new_tree(&mut runner).unwrap().current() {
            rig.step(&step).unwrap();
        }
        rig.compare_tables().unwrap();
    }
    let never = |verdict: &&Verdict| !rig.verdicts.contains_key(verdict.name());
    let missed: Vec<&str> = Verdict::ALL
        .iter()
        .filter(never)
        .map(|verdict| verdict.name())
        .collect();
    // The pool of translations is larger than the number of flows, and there is no virtual router.
    assert_eq!(missed, ["nat-exhausted", "fenced"], "{:?}", rig.verdicts);
    let never = |event: &&Event| !rig.happened.contains_key(event.name());
    let missed: Vec<&str> = Event::ALL
        .iter()
        .filter(never)
        .map(|event| event.name())
        .collect();
    // Sets never fill up, and nothing is fenced.
    assert_eq!(
        missed,
        [
            "flow-evicted-new",
            "flow-evicted-unconfirmed",
            "flow-evicted-idle",
            "flow-unrecorded",
            "nat-evicted",
            "fragment-evicted",
            "fence-set"
        ],
        "{:?}",
        rig.happened
    );
}
