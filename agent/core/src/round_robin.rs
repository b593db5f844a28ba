//! One cycle of weighted round robin: whose turn is when.
//!
//! Over the cycle each member has as many turns as its weight (all of them divided by what they
//! have in common), and they are interleaved: in each beginning of the cycle, a member's number of
//! turns differs from its exact share by less than one. So no member gets a burst of flows, as it
//! would if turns were dealt out one member at a time.
//!
//! The k-th turn of a member with the share `s` of the turns has a window, from where an earlier one
//! would put the member a whole turn ahead to where a later one would leave it a whole turn behind:
//! from floor((k - 1) / s) + 1 to ceil(k / s). Among the turns whose window is open, the one that
//! closes first is next (Baruah et al., "Proportionate progress", Algorithmica 1996: earliest
//! deadline first meets all of them, whenever they can be met, and these can).

use std::{cmp::Reverse, collections::BinaryHeap};

use crate::maglev::Member;

/// The turns of `members` as their indices: a whole cycle of `limit` turns or fewer. Where the
/// weights need a longer cycle, they are scaled down, but to no less than one turn each. Empty where
/// no member has weight; `limit` must not be below their number.
#[must_use]
pub fn cycle(members: &[Member], limit: u32) -> Vec<u16> {
    let mut members: Vec<&Member> = members.iter().filter(|m| m.weight > 0).collect();
    // Nodes deal alike, whatever the order of their configurations.
    members.sort_by_key(|member| member.identity);
    let weights = members.iter().map(|member| u64::from(member.weight));
    let weights = fitted(weights.collect(), limit.into());
    let length: u64 = weights.iter().sum();

    let mut turns = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
    // (when it opens, member, which of its turns), and (when it closes, member, which of them).
    let mut closed: BinaryHeap<Reverse<(u64, usize, u64)>> = (0..members.len())
        .map(|member| Reverse((1, member, 1)))
        .collect();
    let mut open: BinaryHeap<Reverse<(u64, usize, u64)>> = BinaryHeap::new();
    for now in 1..=length {
        while closed.peek().is_some_and(|Reverse((at, ..))| *at <= now) {
            let Some(Reverse((_, member, turn))) = closed.pop() else {
                break;
            };
            let Some(weight) = weights.get(member) else {
                continue;
            };
            open.push(Reverse(((turn * length).div_ceil(*weight), member, turn)));
        }
        let Some(Reverse((_, member, turn))) = open.pop() else {
            break;
        };
        if let (Some(weight), Some(dealt)) = (weights.get(member), members.get(member)) {
            turns.push(dealt.index);
            closed.push(Reverse((turn * length / weight + 1, member, turn + 1)));
        }
    }
    turns
}

/// `weights` divided by what they have in common, and so small that their sum is not above `limit`.
fn fitted(mut weights: Vec<u64>, limit: u64) -> Vec<u64> {
    reduce(&mut weights);
    let sum: u64 = weights.iter().sum();
    if sum <= limit {
        return weights;
    }
    for weight in &mut weights {
        *weight = (*weight * limit / sum).max(1);
    }
    // Those that were raised to one are at the cost of the heaviest.
    let mut over = weights.iter().sum::<u64>().saturating_sub(limit);
    while over > 0 {
        let Some(heaviest) = weights.iter_mut().max().filter(|weight| **weight > 1) else {
            break;
        };
        *heaviest -= 1;
        over -= 1;
    }
    reduce(&mut weights);
    weights
}

/// Divides all by their greatest common divisor.
fn reduce(weights: &mut [u64]) {
    let divisor = weights.iter().copied().fold(0, gcd);
    if divisor > 1 {
        weights.iter_mut().for_each(|weight| *weight /= divisor);
    }
}

fn gcd(left: u64, right: u64) -> u64 {
    if right == 0 {
        left
    } else {
        gcd(right, left % right)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use proptest::prelude::*;

    use super::*;

    fn members(weights: &[u16]) -> Vec<Member> {
        let member = |(index, weight): (u16, &u16)| {
            let [high, low] = index.to_be_bytes();
            Member {
                index,
                identity: SocketAddr::from(([10, 0, high, low], 8765)),
                weight: *weight,
            }
        };
        (0..).zip(weights).map(member).collect()
    }

    fn dealt(weights: &[u16]) -> Vec<u16> {
        cycle(&members(weights), 65_537)
    }

    #[test]
    fn turns_are_interleaved() {
        assert_eq!(dealt(&[1]), [0]);
        assert_eq!(dealt(&[7]), [0]);
        assert_eq!(dealt(&[3, 3, 3]), [0, 1, 2]);
        assert_eq!(dealt(&[1, 2]), [1, 0, 1]);
        assert_eq!(dealt(&[5, 1, 1]), [0, 0, 0, 1, 0, 0, 2]);
        assert_eq!(dealt(&[200, 100, 0, 100]), [0, 1, 0, 3]);
        assert_eq!(dealt(&[]), [0; 0]);
        assert_eq!(dealt(&[0, 0]), [0; 0]);
    }

    #[test]
    fn a_long_cycle_is_scaled_down_and_leaves_nobody_out() {
        let mut weights = vec![25_600; 40];
        weights.extend([1; 60]);
        let turns = cycle(&members(&weights), 101);
        assert_eq!(turns.len(), 101);
        for member in 0..100 {
            assert!(turns.contains(&member), "{member}");
        }
        // As many as there are places: a turn each, whatever the weights.
        let turns = cycle(&members(&weights), 100);
        assert_eq!(turns.len(), 100);
        // Primes, so that there is nothing to divide by.
        let turns = cycle(&members(&[251, 241, 9973]), 1000);
        assert!((998..=1000).contains(&turns.len()), "{}", turns.len());
        let count = |member| turns.iter().filter(|turn| **turn == member).count();
        assert!((23..=24).contains(&count(0)), "{}", count(0));
        assert!((952..=954).contains(&count(2)), "{}", count(2));
    }

    #[test]
    fn nodes_deal_alike_whatever_the_order_of_their_configuration() {
        let one = members(&[3, 1, 4, 1, 5, 9, 2, 6]);
        let mut other: Vec<Member> = one.iter().rev().copied().collect();
        other.rotate_left(3);
        assert_eq!(cycle(&one, 4099), cycle(&other, 4099));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// The promise of the module, for every beginning of the cycle.
        #[test]
        fn nobody_is_a_turn_ahead_or_behind(weights in prop::collection::vec(0_u16..300, 1..40)) {
            let total: u64 = weights.iter().copied().map(u64::from).sum();
            let turns = dealt(&weights);
            let common = weights.iter().copied().map(u64::from).fold(0, gcd).max(1);
            prop_assert_eq!(turns.len() as u64, total / common);
            let mut had = vec![0_u64; weights.len()];
            for (turn, now) in turns.iter().zip(1_u64..) {
                had[usize::from(*turn)] += 1;
                for (had, weight) in had.iter().zip(&weights) {
                    // had - now * weight / total, times the total.
                    let off = (had * total).abs_diff(now * u64::from(*weight));
                    prop_assert!(off < total, "{off} of {total} after {now} in {turns:?}");
                }
            }
        }

        #[test]
        fn a_cycle_is_within_its_limit(
            weights in prop::collection::vec(1_u16..=25_600, 1..200),
            room in 0_u32..300,
        ) {
            let limit = u32::try_from(weights.len()).unwrap() + room;
            let turns = cycle(&members(&weights), limit);
            prop_assert!(turns.len() <= limit as usize);
            for member in 0..weights.len() {
                prop_assert!(turns.iter().any(|turn| usize::from(*turn) == member));
            }
        }
    }
}
