//! Tracks on a virtual clock.

use proptest::prelude::*;

use super::*;
use crate::{
    api::TrackState,
    config::{FileCheck, Pace, Script},
};

fn at(milliseconds: u64) -> Instant {
    Instant::from_origin(Duration::from_millis(milliseconds))
}

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn name() -> Name {
    Name::new("t")
}

fn track(kind: TrackKind, weight: Option<i16>) -> Track {
    Track {
        name: name(),
        kind,
        weight,
        pace: Pace {
            interval: ms(1000),
            timeout: ms(500),
            rise: 2,
            fall: 3,
            debounce_up: ms(200),
            debounce_down: ms(100),
        },
    }
}

fn script() -> TrackKind {
    TrackKind::Script(Script {
        argv: vec!["/bin/true".to_owned()],
        user: None,
    })
}

fn interface() -> TrackKind {
    TrackKind::Interface {
        interface: Name::new("eth1"),
    }
}

fn number() -> TrackKind {
    TrackKind::File {
        path: "/run/weight".into(),
        check: FileCheck::Number,
    }
}

fn good() -> Result<Sight, TrackFailure> {
    Ok(Sight::of("fine"))
}

fn bad() -> Result<Sight, TrackFailure> {
    Err(TrackFailure::Missing)
}

/// Holds a number.
fn holds(number: i16) -> Result<Sight, TrackFailure> {
    Ok(Sight {
        number: Some(number),
        what: number.to_string(),
    })
}

/// One track and the orders that were given for it.
struct Bench {
    tracks: Tracks,
    ticket: Option<u64>,
    turned: Vec<bool>,
    now: Instant,
}

impl Bench {
    fn new(kind: TrackKind, weight: Option<i16>) -> Self {
        let mut bench = Self {
            tracks: Tracks::new(&[track(kind, weight)], at(0)),
            ticket: None,
            turned: Vec::new(),
            now: at(0),
        };
        bench.tick(at(0));
        bench
    }

    fn took(&mut self, changes: impl IntoIterator<Item = Change>) {
        for change in changes {
            match change {
                Change::Run { ticket, .. } => {
                    assert!(self.ticket.is_none(), "two runs at a time");
                    self.ticket = Some(ticket);
                }
                Change::Stop { .. } => self.ticket = None,
                Change::Turned { good, .. } => self.turned.push(good),
            }
        }
    }

    fn tick(&mut self, now: Instant) {
        self.now = now;
        let changes = self.tracks.tick(now);
        self.took(changes);
    }

    /// Serves deadlines up to `until`.
    fn run(&mut self, until: Instant) {
        while let Some(next) = self.tracks.next_deadline().filter(|next| *next <= until) {
            self.tick(next);
        }
        self.now = until;
    }

    /// What is watched says so.
    fn says(&mut self, outcome: Result<Sight, TrackFailure>, now: Instant) {
        self.run(now);
        let ticket = self.ticket.unwrap();
        let change = self.tracks.report(&name(), ticket, outcome, now);
        self.took(change);
    }

    /// The check that is due is made and ends so.
    fn checks(&mut self, outcome: Result<Sight, TrackFailure>) {
        if self.ticket.is_none() {
            let next = self.tracks.next_deadline().unwrap();
            self.tick(next);
        }
        let ticket = self.ticket.take().unwrap();
        let change = self.tracks.report(&name(), ticket, outcome, self.now);
        self.took(change);
    }

    fn weighed(&self) -> Weighed {
        self.tracks.weigh(100, &[&name()])
    }

    fn state(&self) -> TrackState {
        self.tracks.reports().next().unwrap().1.state
    }
}

#[test]
fn the_first_check_decides_and_then_it_takes_some_in_a_row() {
    let mut bench = Bench::new(script(), None);
    assert_eq!(bench.state(), TrackState::Undecided);
    assert!(matches!(bench.weighed().ability, Ability::Undecided(_)));
    bench.checks(good());
    assert_eq!(bench.weighed().ability, Ability::Able);
    for _ in 0..2 {
        bench.checks(bad());
        assert_eq!(bench.state(), TrackState::Failing);
    }
    bench.checks(good());
    for _ in 0..2 {
        bench.checks(bad());
    }
    assert_eq!(bench.turned, [true]);
    bench.checks(bad());
    let why = "track t: the file is not there".to_owned();
    assert_eq!(bench.weighed().ability, Ability::Unable(why));
    bench.checks(good());
    assert_eq!(bench.state(), TrackState::Rising);
    bench.checks(bad());
    bench.checks(good());
    bench.checks(good());
    assert_eq!(bench.turned, [true, false, true]);
    assert_eq!(bench.weighed().ability, Ability::Able);
}

#[test]
fn weights_are_added_while_good_or_subtracted_while_bad() {
    for (weight, undecided, when_good, when_bad) in [
        (20, 100, 120, 100),
        (-20, 100, 100, 80),
        (253, 100, 254, 100),
        (-253, 100, 100, 1),
    ] {
        let mut bench = Bench::new(interface(), Some(weight));
        assert_eq!(bench.weighed().priority, undecided);
        assert_eq!(bench.weighed().ability, Ability::Able, "no fault, ever");
        bench.says(good(), at(0));
        assert_eq!(bench.weighed().priority, when_good, "{weight}");
        bench.says(bad(), at(1));
        bench.run(at(1000));
        assert_eq!(bench.weighed().priority, when_bad, "{weight}");
        assert_eq!(bench.weighed().ability, Ability::Able);
        let owner = bench.tracks.weigh(255, &[&name()]).priority;
        assert_eq!(owner, 255, "the owner's priority is not negotiable");
    }
}

#[test]
fn what_is_watched_must_last() {
    let mut bench = Bench::new(interface(), None);
    bench.says(good(), at(0));
    // Flaps shorter than the times are nothing.
    for start in [1000, 2000, 3000] {
        bench.says(bad(), at(start));
        assert_eq!(bench.state(), TrackState::Failing);
        bench.says(good(), at(start + 99));
        assert_eq!(bench.state(), TrackState::Good);
    }
    bench.run(at(4000));
    assert_eq!(bench.turned, [true]);
    bench.says(bad(), at(5000));
    bench.run(at(5099));
    assert_eq!(bench.turned, [true]);
    bench.run(at(5100));
    assert_eq!(bench.turned, [true, false]);
    bench.says(good(), at(6000));
    bench.run(at(6199));
    assert_eq!(bench.turned, [true, false]);
    bench.run(at(6200));
    assert_eq!(bench.turned, [true, false, true]);
}

#[test]
fn a_number_is_the_weight() {
    let mut bench = Bench::new(number(), None);
    assert_eq!(bench.weighed().priority, 100);
    assert_eq!(bench.weighed().ability, Ability::Able);
    bench.says(holds(-30), at(0));
    assert_eq!(bench.weighed().priority, 70);
    // A higher one, and a still higher one while it waits: from the first of them.
    bench.says(holds(5), at(1000));
    bench.says(holds(7), at(1100));
    bench.run(at(1199));
    assert_eq!(bench.weighed().priority, 70);
    bench.run(at(1200));
    assert_eq!(bench.weighed().priority, 107);
    assert_eq!(bench.weighed().added, [(name(), 7)]);
    bench.says(bad(), at(2000));
    bench.run(at(3000));
    assert_eq!(bench.weighed().priority, 100, "no file, no weight");
    assert_eq!(bench.weighed().ability, Ability::Able, "and no fault");
}

#[test]
fn a_check_that_never_ends_is_given_up_once() {
    let mut bench = Bench::new(script(), None);
    bench.checks(good());
    bench.run(at(1000));
    let lost = bench.ticket.unwrap();
    let given_up = bench.tracks.next_deadline().unwrap();
    assert_eq!(given_up, at(1000) + ms(500) + GUARD);
    bench.tick(given_up);
    assert_eq!(bench.state(), TrackState::Failing);
    // It was stopped, and by now the next one may run.
    bench.run(given_up + ms(10));
    assert_ne!(bench.ticket, Some(lost));
    let late = bench.tracks.report(&name(), lost, bad(), bench.now);
    assert_eq!(late, None);
    // A process that was stopped itself looks first whether the end is there.
    let until = bench.tracks.next_deadline().unwrap();
    bench.tick(until + ms(60_000));
    assert!(bench.ticket.is_some(), "not given up yet");
}

#[test]
fn a_reload_keeps_what_is_known() {
    let mut bench = Bench::new(script(), None);
    bench.checks(good());
    bench.run(at(1000));
    let old = bench.ticket.unwrap();
    // Only other numbers: the check goes on.
    let mut new = track(script(), Some(-5));
    new.pace.fall = 1;
    assert_eq!(bench.tracks.end(std::slice::from_ref(&new)), []);
    bench.tracks.begin(&[new], at(1100));
    bench.checks(bad());
    assert_eq!(bench.turned, [true, false]);
    assert_eq!(bench.weighed().priority, 95);
    // Another script: the one that runs is stopped, and what it says means nothing; but until the
    // new one has answered, and for the first time at once, the verdict stays.
    bench.run(at(2100));
    let old = bench.ticket.filter(|ticket| *ticket != old).unwrap();
    let other = TrackKind::Script(Script {
        argv: vec!["/bin/false".to_owned()],
        user: None,
    });
    let new = [track(other, Some(-5))];
    let stopped = bench.tracks.end(&new);
    assert_eq!(stopped, [Change::Stop { track: name() }]);
    bench.took(stopped);
    bench.tracks.begin(&new, at(2200));
    bench.tick(at(2200));
    assert_eq!(bench.tracks.report(&name(), old, good(), at(2200)), None);
    assert_eq!(bench.weighed().priority, 95);
    bench.checks(good());
    assert_eq!(bench.weighed().priority, 100);
    // Gone: its weight too.
    bench.checks(bad());
    assert_eq!(bench.tracks.end(&[]), []);
    assert_eq!(bench.weighed().added, []);
    assert_eq!(bench.tracks.next_deadline(), None);
}

#[test]
fn a_watch_that_is_gone_is_stopped_and_one_renewed_is_another() {
    let mut bench = Bench::new(interface(), Some(10));
    bench.says(good(), at(0));
    let old = bench.ticket.unwrap();
    let new = [track(number(), None)];
    assert_eq!(bench.tracks.end(&new).len(), 1);
    bench.ticket = None;
    bench.tracks.begin(&new, at(10));
    bench.tick(at(10));
    assert_eq!(bench.tracks.report(&name(), old, bad(), at(11)), None);
    bench.says(holds(3), at(12));
    assert_eq!(bench.weighed().priority, 103);
    assert_eq!(bench.tracks.end(&[]).len(), 1);
}

#[test]
fn more_tracks_add_up_and_the_first_fault_is_named() {
    let named = |text: &str, weight| Track {
        name: Name::new(text),
        ..track(interface(), weight)
    };
    let config = [
        named("a", Some(10)),
        named("b", Some(-20)),
        named("c", None),
        named("d", None),
    ];
    let mut tracks = Tracks::new(&config, at(0));
    let named = ["a", "b", "c", "d"].map(Name::new);
    let tickets: Vec<(Name, u64)> = tracks
        .tick(at(0))
        .into_iter()
        .map(|change| match change {
            Change::Run { track, ticket } => (track, ticket),
            other => panic!("{other:?}"),
        })
        .collect();
    for (track, ticket) in &tickets {
        let outcome = if *track == Name::new("a") {
            good()
        } else {
            bad()
        };
        tracks.report(track, *ticket, outcome, at(1));
    }
    let weighed = tracks.weigh(100, &named.each_ref());
    assert_eq!(weighed.priority, 90);
    let added = [(Name::new("a"), 10), (Name::new("b"), -20)];
    assert_eq!(weighed.added, added);
    let why = "track c: the file is not there".to_owned();
    assert_eq!(weighed.ability, Ability::Unable(why));
}

/// What may happen to a track.
#[derive(Debug, Clone)]
enum Step {
    Wait(u64),
    Says(Option<i16>),
    Stale(bool),
    Reload { weight: Option<i16>, other: bool },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let weight = prop_oneof![Just(None), (-253_i16..=253).prop_map(Some)];
    let step = prop_oneof![
        4 => (0_u64..1500).prop_map(Step::Wait),
        4 => prop_oneof![Just(None), (-253_i16..=253).prop_map(Some)].prop_map(Step::Says),
        1 => any::<bool>().prop_map(Step::Stale),
        1 => (weight, any::<bool>())
            .prop_map(|(weight, other)| Step::Reload { weight, other }),
    ];
    proptest::collection::vec(step, 0..80)
}

/// What a track must count as, by the words of the documentation.
#[derive(Debug, Default)]
struct Expected {
    good: Option<bool>,
    fresh: bool,
    /// How often in a row, and since when, the opposite was said.
    against: u32,
    since: Option<Instant>,
}

impl Expected {
    fn hears(&mut self, said: bool, checked: bool, now: Instant) {
        self.passes(checked, now);
        let limit = if said { 2 } else { 3 };
        if self.fresh || self.good == Some(said) {
            self.is(self.good.filter(|_| !self.fresh).unwrap_or(said));
        } else {
            self.against += 1;
            self.since.get_or_insert(now);
            if checked && self.against >= limit {
                self.is(said);
            }
        }
    }

    fn passes(&mut self, checked: bool, now: Instant) {
        let turns_to = self.good != Some(true);
        let lasts = if turns_to { ms(200) } else { ms(100) };
        if !checked && self.since.is_some_and(|since| now.since(since) >= lasts) {
            self.is(turns_to);
        }
    }

    fn is(&mut self, good: bool) {
        *self = Self {
            good: Some(good),
            ..Self::default()
        };
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever happens: one run at a time, priorities in bounds, deadlines that pass, and a verdict
    /// that turns when it must and not before.
    #[test]
    fn nothing_upsets_a_track(checked in any::<bool>(), steps in steps()) {
        let kind = |other| match (checked, other) {
            (true, false) => script(),
            (true, true) => TrackKind::Gateway {
                address: [10, 0, 0, 1].into(),
                interface: None,
            },
            (false, false) => interface(),
            (false, true) => number(),
        };
        let mut bench = Bench::new(kind(false), Some(-10));
        let mut config = track(kind(false), Some(-10));
        let mut expected = Expected { fresh: true, ..Expected::default() };
        for step in steps {
            match step {
                Step::Wait(wait) => {
                    let until = bench.now + ms(wait);
                    while let Some(next) = bench.tracks.next_deadline().filter(|next| *next <= until)
                    {
                        let ran = bench.ticket.is_some();
                        bench.tick(next);
                        // That it was given up counts as a bad end.
                        if checked && ran {
                            expected.hears(false, checked, next);
                        }
                        let then = bench.tracks.next_deadline();
                        prop_assert!(then.is_none_or(|then| then > next), "it stays due");
                    }
                    bench.now = until;
                    expected.passes(checked, until);
                }
                Step::Says(number) => {
                    let Some(ticket) = bench.ticket else { continue };
                    let outcome = number.map_or_else(bad, holds);
                    expected.hears(outcome.is_ok(), checked, bench.now);
                    let change = bench.tracks.report(&name(), ticket, outcome, bench.now);
                    bench.took(change);
                    if checked {
                        bench.ticket = None;
                    }
                }
                Step::Stale(good) => {
                    let stale = if good { holds(1) } else { bad() };
                    prop_assert_eq!(bench.tracks.report(&name(), u64::MAX, stale, bench.now), None);
                }
                Step::Reload { weight, other } => {
                    let new = Track {
                        weight: weight.filter(|weight| *weight != 0),
                        ..track(kind(other), None)
                    };
                    if new.kind != config.kind {
                        expected = Expected { good: expected.good, fresh: true, ..Expected::default() };
                    }
                    let changes = bench.tracks.end(std::slice::from_ref(&new));
                    bench.took(changes);
                    bench.tracks.begin(std::slice::from_ref(&new), bench.now);
                    config = new;
                    let now = bench.now;
                    bench.tick(now);
                }
            }
            let state = bench.tracks.tracks.get(&name()).map(State::good);
            prop_assert_eq!(state, Some(expected.good), "{:?}", expected);
            let weighed = bench.weighed();
            prop_assert!((1..=254).contains(&weighed.priority));
            prop_assert!(config.is_fault() || weighed.ability == Ability::Able);
            prop_assert_eq!(
                config.is_fault() && expected.good != Some(true),
                weighed.ability != Ability::Able
            );
        }
    }
}
