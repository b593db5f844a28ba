//! What steerd's kernel program and its daemon share, and all of the program's logic.
//!
//! Everything here is pure and runs on the host too, where it is tested; the kernel entry point
//! (`main.rs`, only for the bpf target) adds the maps and the packet's memory.
//!
//! * [`abi`]: the maps' names, values and version.
//! * [`packet`]: reading, writing and resizing a packet, bounds-checked.
//! * [`parse`]: for whom a packet is, and from whom.
//! * [`steer`]: the way of a packet of a known flow, from service look-up to verdict.
//! * [`arrive`]: new flows; [`admit`] says whether they may come in, [`select`] where they go.
//! * [`general`]: packets that are not plain; [`fragment`]s, [`icmp`] messages, and those to an
//!   [`address`] of ours without a service.
//! * [`fence`]: ARP, neighbour discovery and adverts, when the daemon is dead.
//! * [`rewrite`], [`tunnel`], [`nat`], [`mss`]: what forwarding changes in a packet;
//!   [`sum`]: its checksums.
//! * [`flow`]: the flow table's sets: look-up, insertion, eviction.
//! * [`parts`]: its functions in the kernel.
//! * [`repeat`]: loops that the verifier takes.
//! * [`hash`]: the mixing functions; the daemon places entries with the same ones.
//! * [`shared`]: a word that several CPUs and the daemon use at once.
//! * [`verdict`]: the ways a packet can end; [`event`]: what happens by the way.
//! * [`clock`]: the flow table's clock, as user space sees it (host only).
//! * [`inspect`]: map values in words, for people (host only).
//! * [`place`]: in which slots entries go (host only).
//! * [`scan`]: counting and removing flows (host only).
//! * [`bench`](mod@bench): what the benchmark's wrapper and its process share.

#![no_std]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

#[cfg(not(target_arch = "bpf"))]
extern crate std;

pub mod abi;
pub mod address;
pub mod admit;
pub mod arrive;
pub mod bench;
#[cfg(not(target_arch = "bpf"))]
pub mod clock;
pub mod event;
pub mod fence;
pub mod flow;
pub mod fragment;
pub mod general;
pub mod hash;
pub mod icmp;
#[cfg(not(target_arch = "bpf"))]
pub mod inspect;
pub mod mss;
pub mod nat;
pub mod packet;
pub mod parse;
pub mod parts;
#[cfg(not(target_arch = "bpf"))]
pub mod place;
pub mod repeat;
pub mod rewrite;
#[cfg(not(target_arch = "bpf"))]
pub mod scan;
pub mod select;
pub mod shared;
pub mod steer;
pub mod sum;
pub mod tunnel;
pub mod verdict;
