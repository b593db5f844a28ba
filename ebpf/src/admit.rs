//! Whether a new flow may come in. A known flow was let in before: its packets are not asked.

use crate::{
    abi::{Service, SourceRule, SynLimit},
    packet::Packet,
    parse::{Family, Head, protocol},
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

/// Takes a token from the bucket, if there is one. Two CPUs may take the same one: over a second
/// the limit is exact to a few.
#[inline(always)]
fn take(limit: &SynLimit, now: u64) -> bool {
    let burst = limit.burst.load();
    let passed = now.wrapping_sub(limit.counted.load());
    let mut tokens = limit.tokens.load();
    if passed != 0 {
        // A day of jiffies at most: the product stays within the word.
        let passed = if passed > 1 << 26 { 1 << 26 } else { passed };
        tokens += passed * (limit.rate.load() & 0xff_ffff_ffff);
        limit.counted.store(now);
    }
    if tokens > burst {
        tokens = burst;
    }
    let taken = tokens >= TOKEN;
    if taken {
        tokens -= TOKEN;
    }
    limit.tokens.store(tokens);
    taken
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
}
