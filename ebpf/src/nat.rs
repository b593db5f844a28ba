//! Translated packets: source and destination of a client's, and back of the backend's answers.

use crate::{packet::Packet, parse::Head, parts::Parts, steer::Decision, verdict::Verdict};

/// Translates a client's packet for its backend. Returns the verdict's number.
#[inline(always)]
pub fn translate<P: Packet, T: Parts>(
    packet: &mut P,
    tables: &T,
    head: &Head,
    backend: u16,
) -> u64 {
    if !packet.has(head.l4()) || tables.backend(backend).is_none() {
        return Verdict::Truncated as u64;
    }
    Verdict::BadBackend as u64
}

/// Translates a backend's answer to the `address` with this number for its client. The word is a
/// [`Decision::pack`]ed one.
#[inline(always)]
pub fn answer<P: Packet, T: Parts>(packet: &mut P, tables: &T, head: &Head, address: u32) -> u64 {
    if !packet.has(head.l4()) || tables.hop(address).is_none() {
        return Decision::new(Verdict::Truncated).pack();
    }
    Decision::new(Verdict::NatUnknown).pack()
}
