//! What steerd's kernel program and its daemon share, and all of the program's logic.
//!
//! Everything here is pure and runs on the host too, where it is tested; the kernel entry point
//! (`main.rs`, only for the bpf target) adds the maps and the packet's memory.
//!
//! * [`abi`]: the maps' names, values and version.
//! * [`packet`]: reading and writing a packet's bytes, bounds-checked.
//! * [`parse`]: for whom a packet is, and from whom.
//! * [`flow`]: the flow table's sets: look-up, insertion, eviction.
//! * [`hash`]: the mixing functions; the daemon places entries with the same ones.
//! * [`steer`]: the way of a packet, from service look-up to verdict.
//! * [`rewrite`]: what forwarding changes in a packet.
//! * [`shared`]: a word that several CPUs and the daemon use at once.
//! * [`verdict`]: the ways a packet can end.
//! * [`clock`]: the flow table's clock, as user space sees it (host only).
//! * [`inspect`]: map values in words, for people (host only).
//! * [`place`]: in which slots entries go (host only).
//! * [`bench`](mod@bench): what the benchmark's wrapper and its process share.

#![no_std]

#[cfg(not(target_arch = "bpf"))]
extern crate std;

pub mod abi;
pub mod bench;
#[cfg(not(target_arch = "bpf"))]
pub mod clock;
pub mod flow;
pub mod hash;
#[cfg(not(target_arch = "bpf"))]
pub mod inspect;
pub mod packet;
pub mod parse;
#[cfg(not(target_arch = "bpf"))]
pub mod place;
pub mod rewrite;
pub mod shared;
pub mod steer;
pub mod verdict;
