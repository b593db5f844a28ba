//! The Maglev table of a service (Eisenbud et al., NSDI'16, section 3.4): which backend takes the
//! flows of each hash slot.
//!
//! Each member has a permutation of the slots of its own; members take turns, and at its turn a
//! member takes the next slot of its permutation that is still free. So each gets its share of the
//! slots, and without one member nearly all other slots stay as they were.
//!
//! Nodes must build equal tables without talking: the table depends only on the members'
//! identities and weights, not on their order. [`hash`] and its seeds are therefore part of the
//! protocol between nodes: they never change.

use std::net::{IpAddr, SocketAddr};

/// One who takes slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// What the table holds for it.
    pub index: u16,
    /// Who it is, on every node: where it listens.
    pub identity: SocketAddr,
    /// Its share, relative to the others'; 0: none.
    pub weight: u16,
}

/// Builds the table of `size` slots (a prime above 1) for `members`. Empty where no member has
/// weight.
#[must_use]
pub fn table(members: &[Member], size: u32) -> Vec<u16> {
    let mut turns: Vec<Turns> = members
        .iter()
        .filter(|m| m.weight > 0)
        .map(|m| Turns::new(m, size))
        .collect();
    turns.sort_by_key(|turns| turns.identity);
    let heaviest = turns.iter().map(|turns| turns.weight).max().unwrap_or(0);
    if heaviest == 0 || size < 2 {
        return Vec::new();
    }
    let mut slots = vec![None; size as usize];
    let mut free = slots.len();
    // A round gives the heaviest a turn, and every other one as often as its weight's share of that.
    loop {
        for member in &mut turns {
            member.credit += member.weight;
            if member.credit < heaviest {
                continue;
            }
            member.credit -= heaviest;
            member.take(&mut slots);
            free -= 1;
            if free == 0 {
                return slots.into_iter().flatten().collect();
            }
        }
    }
}

/// The 64-bit hash of a member's identity: FNV-1a over address, port and seed, and the finalizer
/// of SplitMix64, because FNV alone hardly mixes the last bytes into the high bits.
#[must_use]
pub fn hash(identity: SocketAddr, seed: u64) -> u64 {
    let address = match identity.ip() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    let bytes = address
        .into_iter()
        .chain(identity.port().to_be_bytes())
        .chain(seed.to_be_bytes());
    let fnv = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mixed = (fnv ^ fnv >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}

const OFFSET_SEED: u64 = 1;
const SKIP_SEED: u64 = 2;

/// A member at the table: its weight's credit and its place in its permutation.
struct Turns {
    index: u16,
    identity: SocketAddr,
    weight: u32,
    credit: u32,
    next: u32,
    skip: u32,
    size: u32,
}

impl Turns {
    fn new(member: &Member, size: u32) -> Self {
        // Both fit: they are remainders of a u32. A size below 2 has no permutation; no division
        // by zero then either.
        let below =
            |seed, limit: u32| (hash(member.identity, seed) % u64::from(limit.max(1))) as u32;
        Self {
            index: member.index,
            identity: member.identity,
            weight: member.weight.into(),
            credit: 0,
            next: below(OFFSET_SEED, size),
            skip: below(SKIP_SEED, size.saturating_sub(1)) + 1,
            size,
        }
    }

    /// Takes the next free slot of the permutation; there is one.
    fn take(&mut self, slots: &mut [Option<u16>]) {
        // The size being prime, any step from 1 to size - 1 visits every slot.
        for _ in 0..self.size {
            let slot = self.next as usize;
            // Not `%`: a division for each step is most of the time of a large table.
            let room = self.size - self.next;
            self.next = if self.skip < room {
                self.next + self.skip
            } else {
                self.skip - room
            };
            if let Some(free @ None) = slots.get_mut(slot) {
                *free = Some(self.index);
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u32 = 65_537;

    fn members(count: u16) -> Vec<Member> {
        (0..count)
            .map(|index| Member {
                index,
                identity: identity(index),
                weight: 1,
            })
            .collect()
    }

    fn identity(index: u16) -> SocketAddr {
        let [high, low] = index.to_be_bytes();
        SocketAddr::from(([10, 0, high, low], 8765))
    }

    fn counts(table: &[u16], members: usize) -> Vec<usize> {
        let mut counts = vec![0; members];
        for slot in table {
            counts[usize::from(*slot)] += 1;
        }
        counts
    }

    /// The table by identity, which is what nodes must agree on.
    fn identities(members: &[Member], size: u32) -> Vec<SocketAddr> {
        let identity = |index| members.iter().find(|m| m.index == index).unwrap().identity;
        table(members, size).into_iter().map(identity).collect()
    }

    #[test]
    fn the_hash_is_the_same_for_ever() {
        let v4 = SocketAddr::from(([192, 168, 1, 26], 8765));
        let v6: SocketAddr = "[2001:db8::26]:8765".parse().unwrap();
        assert_eq!(
            [hash(v4, 1), hash(v4, 2), hash(v6, 1)],
            [
                0x235e_57cd_3054_a6f6,
                0x00b0_ccc8_d7d0_31fa,
                0x5f8c_eb35_fa6c_da80
            ]
        );
        assert_eq!(
            table(&members(3), 13),
            [1, 0, 1, 0, 2, 2, 0, 2, 1, 1, 0, 2, 0]
        );
    }

    #[test]
    fn nobody_gets_an_empty_table() {
        assert!(table(&[], SIZE).is_empty());
        assert!(
            table(
                &[Member {
                    weight: 0,
                    ..members(1)[0]
                }],
                SIZE
            )
            .is_empty()
        );
        assert!(table(&members(1), 1).is_empty());
        assert!(table(&members(1), 0).is_empty());
    }

    #[test]
    fn one_gets_all() {
        assert!(table(&members(1), 2) == [0, 0]);
        assert!(table(&members(1), SIZE).iter().all(|slot| *slot == 0));
    }

    #[test]
    fn equal_weights_get_equal_shares() {
        for count in [2, 3, 10, 100, 655] {
            let counts = counts(&table(&members(count), SIZE), count.into());
            let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
            // Turns are strict, so shares differ by one slot at most.
            assert!(most - least <= 1, "{count} members: {least} to {most}");
        }
    }

    #[test]
    fn weights_get_their_shares() {
        let weights = [1, 2, 3, 50, 256, 0];
        let members: Vec<Member> = members(6)
            .into_iter()
            .zip(weights)
            .map(|(m, weight)| Member { weight, ..m })
            .collect();
        let total: f64 = weights.iter().copied().map(f64::from).sum();
        for (count, weight) in counts(&table(&members, SIZE), 6).iter().zip(weights) {
            let share = f64::from(SIZE) * f64::from(weight) / total;
            let off = (*count as f64 - share).abs();
            assert!(
                off <= 1.0_f64.max(share * 0.01),
                "weight {weight}: {count}, not {share}"
            );
        }
    }

    /// Whichever it is: at most 1 % of the ring moves beside what the removed one had.
    #[test]
    fn removing_one_of_a_hundred_moves_few_others() {
        let all = members(100);
        let before = table(&all, SIZE);
        let moved = |gone| {
            let rest: Vec<Member> = all.iter().copied().filter(|m| m.index != gone).collect();
            let after = table(&rest, SIZE);
            let slots = before.iter().zip(&after);
            slots.filter(|(b, a)| **b != gone && b != a).count()
        };
        let worst = (0..100).map(moved).max().unwrap();
        println!("moved: {worst} of {SIZE}");
        assert!(worst * 100 <= SIZE as usize, "{worst}");
    }

    #[test]
    fn nodes_agree_whatever_the_order_of_their_configuration() {
        let one: Vec<Member> = members(20)
            .into_iter()
            .map(|m| Member {
                weight: m.index % 7 + 1,
                ..m
            })
            .collect();
        let mut other: Vec<Member> = one.iter().rev().copied().collect();
        other.rotate_left(7);
        for (index, member) in (0..).zip(&mut other) {
            member.index = index;
        }
        assert_eq!(identities(&one, 2053), identities(&other, 2053));
    }
}
