//! Wrapped packets: put into another one for the way to their backend, and taken out of it there.

use crate::{packet::Packet, parse::Head, parts::Parts, steer::Decision, verdict::Verdict};

/// Wraps a packet for its backend. Returns the verdict's number.
#[inline(always)]
pub fn wrap<P: Packet, T: Parts>(packet: &mut P, tables: &T, head: &Head, backend: u16) -> u64 {
    if !packet.has(head.l4()) || tables.backend(backend).is_none() {
        return Verdict::Truncated as u64;
    }
    Verdict::BadBackend as u64
}

/// Takes a packet out of the one around it: an IP packet's or a UDP packet's payload. The word is a
/// [`Decision::pack`]ed one.
#[inline(always)]
pub fn unwrap<P: Packet, T: Parts>(packet: &mut P, tables: &T, head: &Head) -> u64 {
    if !packet.has(head.l4()) || tables.control().is_none() {
        return Decision::new(Verdict::Truncated).pack();
    }
    Decision::new(Verdict::NoService).pack()
}
