//! Translated flows: the place of a flow's entry is its translation.
//!
//! [`super::maps::NAT`] has [`NAT_PORT_SETS`] sets of four entries for each of
//! [`super::NAT_ADDRESSES`] addresses, one entry for each port: that of the packets that a backend
//! sees. So an answer finds its flow by its destination alone, and a client's packet finds it in
//! one of the two sets that its hash picks.

use crate::shared::Shared;

/// Sets of four ports of one address.
pub const NAT_PORT_SETS: u32 = 1 << 14;

/// Sets of all addresses.
pub const NAT_SETS: u32 = NAT_PORT_SETS * super::NAT_ADDRESSES as u32;

/// The way back to the client of a translated flow: as its packets came.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Hop {
    /// Whose MAC its packets came from, low 48 bits; above, their 802.1Q tag as read; 0: none.
    pub client: Shared,
    /// This host's MAC that they came to, low 48 bits.
    pub own: Shared,
    /// The interface they came through.
    pub ifindex: Shared,
    /// Zero.
    pub reserved: Shared,
}

const _: () = assert!(size_of::<Hop>() == 32);
