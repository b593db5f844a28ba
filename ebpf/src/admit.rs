//! Whether a new flow may come in. A known flow was let in before: its packets are not asked.

use crate::{
    abi::{Service, SourceRule, SynLimit},
    packet::Packet,
    parse::{Family, Head, protocol},
    repeat::{Step, repeat},
    steer::Tables,
    verdict::Verdict,
};

/// Whether the first packet of a flow is sound, and its flow one that may come in.
///
/// # Errors
///
/// The verdict on it.
#[inline(always)]
pub fn admit<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    service: &Service,
    head: &Head,
) -> Result<(), Verdict> {
    sound(packet, head)?;
    let policy = service.policy();
    if policy.has_sources()
        && tables.source(service.id, head.source) == Some(SourceRule::Deny as u32)
    {
        return Err(Verdict::Denied);
    }
    if policy.is_limited()
        && let Some(limit) = tables.limit(service.id)
        && !take(limit, tables.jiffies())
    {
        return Err(Verdict::Limited);
    }
    Ok(())
}

/// Whether the headers agree with each other and with the packet.
#[inline(always)]
fn sound<P: Packet>(packet: &P, head: &Head) -> Result<(), Verdict> {
    if head.source[1] == head.destination[1] && head.source[0] == head.destination[0] {
        return Err(Verdict::Land);
    }
    if head.source_port == 0 {
        return Err(Verdict::ZeroPort);
    }
    // Where the network header says that the packet ends.
    let stated: usize = match head.family {
        Family::V4 => be16(packet, head.l3() + 2)?,
        Family::V6 => 40 + be16(packet, head.l3() + 4)?,
    };
    let end = head.l3() + stated;
    if end > packet.length() {
        return Err(Verdict::BadLength);
    }
    if head.protocol() == protocol::TCP {
        let words: u8 = packet.load(head.l4() + 12).ok_or(Verdict::Truncated)?;
        let header = (words >> 4) as usize * 4;
        if header < 20 {
            return Err(Verdict::BadHeader);
        }
        if head.l4() + header > end {
            return Err(Verdict::BadLength);
        }
    } else {
        let length = be16(packet, head.l4() + 4)?;
        // A first fragment says how long the whole datagram is.
        if length < 8 || head.part.is_whole() && head.l4() + length > end {
            return Err(Verdict::BadLength);
        }
    }
    Ok(())
}

#[inline(always)]
fn be16<P: Packet>(packet: &P, at: usize) -> Result<usize, Verdict> {
    let word: u16 = packet.load(at).ok_or(Verdict::Truncated)?;
    Ok(u16::from_be(word) as usize)
}

/// One token, 16.16 fixed point.
const TOKEN: u64 = 1 << 16;

/// Takes a token from the bucket, if there is one. No token is taken twice and no time counts
/// twice, whatever other CPUs do or whoever is preempted where: each step is one exchange. If
/// others win every one of a few, there is none, and TCP tries again.
#[inline(always)]
fn take(limit: &SynLimit, now: u64) -> bool {
    let counted = limit.counted.load();
    // A clock that was read later than this one may have been counted already.
    let passed = now.wrapping_sub(counted) as i64;
    let mut bucket = Bucket {
        limit,
        earned: 0,
        taken: false,
    };
    if passed > 0 && limit.counted.compare_exchange(counted, now) == counted {
        // A day of jiffies at most: the product stays within the word.
        let passed = if passed > 1 << 26 {
            1 << 26
        } else {
            passed as u64
        };
        bucket.earned = passed * (limit.rate.load() & 0xff_ffff_ffff);
    }
    repeat(8, &mut bucket);
    bucket.taken
}

struct Bucket<'l> {
    limit: &'l SynLimit,
    /// What the time since the last count brings.
    earned: u64,
    taken: bool,
}

impl Step for Bucket<'_> {
    /// Whether others were faster.
    #[inline(always)]
    fn step(&mut self) -> bool {
        let (tokens, burst) = (self.limit.tokens.load(), self.limit.burst.load());
        let full = tokens + self.earned;
        let full = if full > burst { burst } else { full };
        let enough = full >= TOKEN;
        let left = if enough { full - TOKEN } else { full };
        if left != tokens && self.limit.tokens.compare_exchange(tokens, left) != tokens {
            return true;
        }
        self.taken = enough;
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::Shared;

    #[test]
    fn a_bucket_fills_and_empties() {
        let limit = SynLimit {
            rate: Shared::new(TOKEN / 4),
            burst: Shared::new(3 * TOKEN),
            tokens: Shared::new(0),
            counted: Shared::new(0),
        };
        let start = 1 << 33;
        for _ in 0..3 {
            assert!(take(&limit, start), "full after long");
        }
        assert!(!take(&limit, start));
        assert!(!take(&limit, start + 3));
        assert!(take(&limit, start + 4), "one in four jiffies");
        assert!(!take(&limit, start + 4));
        let taken = (0..1000).filter(|n| take(&limit, start + 4 + n)).count();
        assert_eq!(taken, 249);
    }

    /// CPUs that take at once get what there is, and not a token more.
    #[test]
    fn no_token_is_taken_twice() {
        const THREADS: u64 = 4;
        const ROUNDS: u64 = 100_000;
        let limit = SynLimit {
            rate: Shared::new(TOKEN / 4),
            burst: Shared::new(50 * TOKEN),
            tokens: Shared::new(0),
            counted: Shared::new(1 << 32),
        };
        let start = (1 << 32) + 200;
        let taken: u64 = std::thread::scope(|scope| {
            let threads: std::vec::Vec<_> = (0..THREADS)
                .map(|_| {
                    let takes = |round: u64| take(&limit, start + round / 100);
                    scope.spawn(move || (0..ROUNDS).filter(|&round| takes(round)).count() as u64)
                })
                .collect();
            threads.into_iter().map(|one| one.join().unwrap()).sum()
        });
        // The burst, and what a thousand jiffies bring.
        let most = 50 + ROUNDS / 100 / 4;
        assert!(taken <= most, "{taken} of {most}");
        // Who loses eight exchanges gets none although there is one; that is rare.
        assert!(taken > most - most / 10, "{taken} of {most}");
    }
}
