//! The candidates of least connections: among whom the program looks for the one with the fewest.
//!
//! It looks at one line of [`LINE`] slots for a flow, which a hash of the client picks, so that the
//! cost does not grow with the number of backends. Up to so many, the one line has them all. More
//! are listed [`LINE`] times, each time in another order, so that each is in many lines and meets
//! ever others there: the fewest of 32 from all over is hardly more than the fewest of all, and who
//! is loaded in one line is spared in the others.

use crate::maglev::{self, Member};

/// How many slots the program looks at for one flow.
pub const LINE: usize = 32;

/// The orders' seeds begin here; the Maglev table has those before.
const FIRST_SEED: u64 = 1000;

/// The candidates as their indices, lines full where there is more than one. Empty where no member
/// has weight.
#[must_use]
pub fn candidates(members: &[Member]) -> Vec<u16> {
    let members: Vec<&Member> = members.iter().filter(|m| m.weight > 0).collect();
    if members.len() <= LINE {
        return members.iter().map(|member| member.index).collect();
    }
    let mut slots = Vec::with_capacity(members.len() * LINE);
    for seed in (FIRST_SEED..).take(LINE) {
        let mut order = members.clone();
        order.sort_by_cached_key(|member| (maglev::hash(member.identity, seed), member.identity));
        slots.extend(order.iter().map(|member| member.index));
    }
    slots
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn members(weights: impl IntoIterator<Item = u16>) -> Vec<Member> {
        let member = |(index, weight): (u16, u16)| {
            let [high, low] = index.to_be_bytes();
            Member {
                index,
                identity: SocketAddr::from(([10, 0, high, low], 8765)),
                weight,
            }
        };
        (0..).zip(weights).map(member).collect()
    }

    #[test]
    fn few_are_all_in_one_line() {
        assert_eq!(candidates(&members([1, 0, 7])), [0, 2]);
        assert_eq!(candidates(&members([1; LINE])).len(), LINE);
        assert_eq!(candidates(&members([0, 0])), [0; 0]);
    }

    #[test]
    fn many_are_in_full_lines_and_equally_many() {
        for count in [33, 64, 100, 1024] {
            let slots = candidates(&members(vec![1; count]));
            assert_eq!(slots.len(), count * LINE);
            let mut times = vec![0; count];
            for slot in slots {
                times[usize::from(slot)] += 1;
            }
            assert!(times.iter().all(|times| *times == LINE));
        }
    }

    /// What the program does with the list: a line by the client's hash, there the fewest flows for
    /// the weight.
    fn loads(slots: &[u16], weights: &[u16], flows: usize) -> Vec<f64> {
        let mut counts = vec![0_u64; weights.len()];
        let lines: Vec<&[u16]> = slots.chunks(LINE).collect();
        let client = SocketAddr::from(([192, 0, 2, 1], 1));
        for flow in 0..flows {
            let hash = maglev::hash(client, flow as u64) as usize;
            let line = lines[hash % lines.len()];
            let load = |slot: &&u16| {
                let slot = usize::from(**slot);
                (counts[slot] + 1) * 1_000_000 / u64::from(weights[slot])
            };
            let least = line.iter().min_by_key(load).unwrap();
            counts[usize::from(*least)] += 1;
        }
        let total: f64 = weights.iter().copied().map(f64::from).sum();
        let fair = flows as f64 / total;
        let loads = counts.iter().zip(weights);
        loads
            .map(|(count, weight)| *count as f64 / f64::from(*weight) / fair)
            .collect()
    }

    #[test]
    fn loads_are_near_to_those_of_a_look_at_all() {
        for count in [33_u16, 64, 100, 1000] {
            for heaviest in [1, 4, 10] {
                let weights: Vec<u16> = (0..count).map(|n| n % heaviest + 1).collect();
                let slots = candidates(&members(weights.iter().copied()));
                let loads = loads(&slots, &weights, usize::from(count) * 1000);
                let least = loads.iter().copied().fold(f64::MAX, f64::min);
                let most = loads.iter().copied().fold(0.0, f64::max);
                println!("{count} of weights up to {heaviest}: {least:.4} to {most:.4}");
                assert!(
                    least > 0.98 && most < 1.02,
                    "{count}, {heaviest}: {least} to {most}"
                );
            }
        }
        // Without it: the second line has one backend, which gets every second flow.
        let slots: Vec<u16> = (0..33).collect();
        let most = loads(&slots, &[1; 33], 33_000)
            .into_iter()
            .fold(0.0, f64::max);
        assert!(most > 10.0, "{most}");
    }
}
