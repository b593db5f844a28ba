//! Fragmented packets: where the first fragment went, so that the others follow.

use crate::shared::Shared;

/// Entries in a set.
pub const FRAGMENT_WAYS: usize = 4;

/// A fragmented packet: source, destination, identification and protocol say which one. One cache
/// line.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct Fragment {
    /// The source address, IPv4 mapped.
    pub source: [Shared; 2],
    /// The destination address.
    pub destination: [Shared; 2],
    /// `identification << 8 | protocol`, as read from the packet.
    pub identity: Shared,
    /// Where its first fragment went: see [`crate::fragment`]; 0: the entry is free.
    pub value: Shared,
    /// Of a translated flow: its place in [`super::maps::NAT`].
    pub translation: Shared,
    /// Zero.
    pub reserved: Shared,
}

/// A set of fragmented packets.
#[repr(C)]
#[derive(Debug, Default)]
pub struct FragmentSet(pub [Fragment; FRAGMENT_WAYS]);

const _: () = assert!(size_of::<FragmentSet>() == 256);
