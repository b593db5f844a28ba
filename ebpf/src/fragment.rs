//! Fragmented packets: the first fragment has the ports, the others follow it.

use crate::{packet::Packet, parse::Head, parts::Parts, steer::Decision, verdict::Verdict};

/// Decides about a fragment. The word is a [`Decision::pack`]ed one.
#[inline(always)]
pub fn part<P: Packet, T: Parts>(packet: &mut P, tables: &T, head: &Head) -> u64 {
    if !packet.has(head.l4()) || tables.control().is_none() {
        return Decision::new(Verdict::Truncated).pack();
    }
    Decision::new(Verdict::EarlyFragment).pack()
}
