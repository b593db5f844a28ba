//! The program's parts: functions of their own.
//!
//! In the kernel each is a global function, which the verifier (since Linux 5.6) looks at once and
//! for itself, whatever its callers do; together in one function they would be beyond its limits.
//! They share nothing but words: where a packet's headers are
//! ([`Head::pack`](crate::parse::Head::pack)), numbers of entries. That keeps the callers' stacks
//! small too: all parts of a chain of calls share 512 bytes. So a part reads the packet anew, and a
//! caller that goes on after a part that moved the packet would have to as well: none does.

use crate::{packet::Packet, parse::Family, steer::Tables};

/// The parts. Each returns a word, whose meaning is its own.
pub trait Parts: Tables + Sized {
    /// [`crate::general::general`]
    fn general<P: Packet>(&self, packet: &mut P) -> u64;
    /// [`crate::general::look_up`]
    fn look_up<P: Packet>(&self, packet: &mut P, head: u64) -> u64;
    /// [`crate::general::forward`]
    fn forward<P: Packet>(&self, packet: &mut P, head: u64, backend: u16) -> u64;
    /// [`crate::arrive::arrive`]
    fn arrive<P: Packet>(&self, packet: &mut P, head: u64, service_slot: u32) -> u64;
    /// [`crate::address::transport`]
    fn address<P: Packet>(&self, packet: &mut P, head: u64) -> u64;
    /// [`crate::tunnel::wrap`]
    fn wrap<P: Packet>(&self, packet: &mut P, head: u64, backend: u16) -> u64;
    /// [`crate::tunnel::unwrap`]
    fn unwrap<P: Packet>(&self, packet: &mut P, head: u64) -> u64;
    /// [`crate::tunnel::too_big`]
    fn too_big<P: Packet>(&self, packet: &mut P, head: u64, mtu: u16) -> u64;
    /// [`crate::nat::plain::translate`]
    fn translate_plain<P: Packet>(&self, packet: &mut P, family: Family, backend: u16) -> u64;
    /// [`crate::nat::translate`]
    fn translate<P: Packet>(&self, packet: &mut P, head: u64, backend: u16, place: u32) -> u64;
    /// [`crate::nat::open`]
    fn open<P: Packet>(&self, packet: &mut P, head: u64, backend: u16) -> u64;
    /// [`crate::nat::answer`]
    fn answer<P: Packet>(&self, packet: &mut P, head: u64, address: u32) -> u64;
    /// [`crate::icmp::message`]
    fn message<P: Packet>(&self, packet: &mut P, head: u64) -> u64;
    /// [`crate::icmp::retell`]
    fn retell<P: Packet>(&self, packet: &mut P, head: u64, place: u32, homeward: u32) -> u64;
    /// [`crate::fragment::follow`]
    fn follow<P: Packet>(&self, packet: &mut P, head: u64) -> u64;
    /// [`crate::fragment::record`]
    fn record(&self, place: u32, decision: u64) -> u64;
    /// [`crate::fence::arp`]
    fn arp<P: Packet>(&self, packet: &mut P) -> u64;
    /// [`crate::fence::message`]
    fn fence_message<P: Packet>(&self, packet: &mut P, head: u64) -> u64;
    /// [`crate::rewrite::retag`]
    fn retag<P: Packet>(&self, packet: &mut P, l3: usize, destination: u64, source: u64) -> u64;
}
