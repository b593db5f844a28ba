//! Who takes the new flows of a service: the backends of a tier, all that can be reached, or those
//! that say sorry.
//!
//! ```text
//!  fewer healthy than `panic_threshold`? --yes--> all that can be reached count as healthy
//!        | no                                          |
//!        +---------------------------------------------+--> the lowest tier with `min_healthy` of
//!                                                           them, else the one with most
//!  none healthy at all, but a sorry backend is -----------> the sorry backends
//! ```

use std::collections::BTreeMap;

use super::network::Reach;
use crate::config::Mode;

/// A backend as it looks now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    /// Whether it is healthy; none: not known yet.
    pub(super) health: Option<bool>,
    pub(super) mode: Mode,
    pub(super) reach: Reach,
    pub(super) weight: u16,
    pub(super) tier: u8,
    pub(super) sorry: bool,
}

impl Seen {
    /// Whether it is healthy and packets can be sent to it.
    fn serves(&self) -> bool {
        self.health == Some(true) && self.reach.is_open()
    }
}

/// What takes new flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Target {
    /// Nothing.
    #[default]
    Nobody,
    /// The healthy backends of a tier.
    Tier(u8),
    /// Those of a tier that can be reached.
    Panic(u8),
    /// The sorry backends.
    Sorry,
}

impl Target {
    /// The tier.
    pub(super) fn tier(self) -> Option<u8> {
        match self {
            Self::Tier(tier) | Self::Panic(tier) => Some(tier),
            Self::Nobody | Self::Sorry => None,
        }
    }

    /// Whether health is not believed.
    pub(super) fn is_panic(self) -> bool {
        matches!(self, Self::Panic(_))
    }
}

/// What was chosen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Choice {
    pub(super) target: Target,
    /// How many backends could take new flows were they healthy, and how many of them are.
    pub(super) of: usize,
    pub(super) healthy: usize,
}

impl Choice {
    /// Chooses among `seen`. `before` is what took the flows until now: panic and sorry begin only
    /// where every backend's health is known, and then stay while one that is new is looked at.
    pub(super) fn of(seen: &[Seen], min_healthy: u16, panic_threshold: u8, before: Target) -> Self {
        let regular = || seen.iter().filter(|seen| !seen.sorry && seen.weight > 0);
        let of = regular().count();
        let healthy = regular().filter(|seen| seen.serves()).count();
        let all_known = regular().all(|seen| seen.health.is_some());
        let sorry = seen
            .iter()
            .any(|seen| seen.sorry && seen.weight > 0 && seen.serves());

        let few = healthy * 100 < usize::from(panic_threshold) * of;
        let panic = few && (all_known || before.is_panic()) && !(healthy == 0 && sorry);
        let panicked = panic
            .then(|| tier(regular().filter(|seen| seen.reach.is_open()), min_healthy))
            .flatten();
        let target = match (
            panicked,
            tier(regular().filter(|seen| seen.serves()), min_healthy),
        ) {
            (Some(tier), _) => Target::Panic(tier),
            (None, Some(tier)) => Target::Tier(tier),
            (None, None) if sorry && (all_known || before == Target::Sorry) => Target::Sorry,
            (None, None) => Target::Nobody,
        };
        Self {
            target,
            of,
            healthy,
        }
    }

    /// Whether `seen` takes new flows.
    pub(super) fn takes(&self, seen: &Seen) -> bool {
        seen.weight > 0
            && match self.target {
                Target::Nobody => false,
                Target::Tier(tier) => !seen.sorry && seen.tier == tier && seen.serves(),
                Target::Panic(tier) => !seen.sorry && seen.tier == tier && seen.reach.is_open(),
                Target::Sorry => seen.sorry && seen.serves(),
            }
    }

    /// Whether `seen` may keep the flows it has. A flow whose packets have nowhere to go is better
    /// off on another backend.
    pub(super) fn keeps(&self, seen: &Seen) -> bool {
        seen.serves() || self.target.is_panic() && !seen.sorry && seen.reach.is_open()
    }
}

/// The lowest tier with `enough` of `usable`; else the one with most of them, the lowest on ties.
fn tier<'a>(usable: impl Iterator<Item = &'a Seen>, enough: u16) -> Option<u8> {
    let mut counts: BTreeMap<u8, usize> = BTreeMap::new();
    for seen in usable {
        *counts.entry(seen.tier).or_default() += 1;
    }
    let enough = counts
        .iter()
        .find(|(_, count)| **count >= usize::from(enough));
    // `max_by_key` takes the last of equals.
    let most = || counts.iter().rev().max_by_key(|(_, count)| **count);
    enough.or_else(most).map(|(tier, _)| *tier)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::network::Obstacle, *};

    fn seen() -> impl Strategy<Value = Seen> {
        let health = prop_oneof![
            6 => Just(Some(true)), 4 => Just(Some(false)), 1 => Just(None)
        ];
        let reach = prop_oneof![
            6 => Just(Reach::Local),
            1 => Just(Reach::Lost(Obstacle::Silent)),
            1 => Just(Reach::Pending),
        ];
        let sorry = prop::bool::weighted(0.15);
        (health, reach, 0_u16..3, 1_u8..4, sorry).prop_map(
            |(health, reach, weight, tier, sorry)| Seen {
                health,
                mode: Mode::Local,
                reach,
                weight,
                tier,
                sorry,
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2000, ..ProptestConfig::default() })]

        /// What holds of every choice, whatever the backends look like.
        #[test]
        fn a_choice_makes_sense(
            seen in prop::collection::vec(seen(), 1..12),
            min_healthy in 1_u16..4,
            threshold in 0_u8..=100,
            before in prop_oneof![
                Just(Target::Nobody), Just(Target::Tier(1)), Just(Target::Panic(1)),
                Just(Target::Sorry),
            ],
        ) {
            let choice = Choice::of(&seen, min_healthy, threshold, before);
            let takes: Vec<&Seen> = seen.iter().filter(|seen| choice.takes(seen)).collect();
            // Who takes new flows keeps them, can be reached and is not drained.
            for seen in &takes {
                prop_assert!(choice.keeps(seen) && seen.reach.is_open() && seen.weight > 0);
            }
            // Something is chosen exactly where somebody takes flows.
            prop_assert_eq!(takes.is_empty(), choice.target == Target::Nobody);
            // Whoever is healthy and reachable keeps flows: nothing that is chosen takes them away.
            for seen in seen.iter().filter(|seen| seen.serves()) {
                prop_assert!(choice.keeps(seen));
            }
            let regular = |seen: &&&Seen| !seen.sorry && seen.weight > 0;
            let all: Vec<&Seen> = seen.iter().collect();
            let healthy = all.iter().filter(regular).filter(|seen| seen.serves()).count();
            match choice.target {
                Target::Nobody => prop_assert_eq!(healthy, 0),
                Target::Tier(_) => prop_assert!(takes.iter().all(|seen| !seen.sorry && seen.serves())),
                // Too few are healthy, and with them all that can be reached of the tier are used.
                Target::Panic(tier) => {
                    let of = all.iter().filter(regular).count();
                    prop_assert!(healthy * 100 < usize::from(threshold) * of);
                    let open = all.iter().filter(regular)
                        .filter(|seen| seen.tier == tier && seen.reach.is_open());
                    prop_assert_eq!(open.count(), takes.len());
                }
                // Only where no other can.
                Target::Sorry => {
                    prop_assert_eq!(healthy, 0);
                    prop_assert!(takes.iter().all(|seen| seen.sorry && seen.serves()));
                }
            }
            if threshold == 0 {
                prop_assert!(!choice.target.is_panic());
            }
            // A second look at the same changes nothing.
            let again = Choice::of(&seen, min_healthy, threshold, choice.target);
            prop_assert_eq!(again.target, choice.target);
        }

        /// The more are healthy, the less panic.
        #[test]
        fn a_recovery_never_begins_a_panic(
            seen in prop::collection::vec(seen(), 1..12), threshold in 0_u8..=100, which in any::<usize>(),
        ) {
            let known: Vec<Seen> = seen.into_iter()
                .map(|seen| Seen { health: seen.health.or(Some(false)), sorry: false, ..seen }).collect();
            let before = Choice::of(&known, 1, threshold, Target::Nobody);
            let mut better = known.clone();
            better[which % known.len()].health = Some(true);
            let after = Choice::of(&better, 1, threshold, before.target);
            prop_assert!(before.target.is_panic() || !after.target.is_panic());
        }
    }
}
