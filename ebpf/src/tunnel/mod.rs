//! Wrapped packets: put into another one for the way to their backend, and taken out of it there.
//!
//! A packet keeps its addresses, so the backend answers its client itself, and the way to it may
//! lead through routers. No tunnel device is needed at either end:
//!
//! ```text
//! client --- packet to the VIP ---> entry: outer header, new frame ---> routers
//!        <--- fragmentation needed -- mtu: if it does not fit             |
//!        <----------- answer ------ stack <--- exit: outer header off <---+
//! ```
//!
//! * [`entry`](mod@entry): the outer header, and what it takes over from the inner one.
//! * [`plain`](mod@plain): the same for nearly all packets.
//! * [`exit`](mod@exit): which wrapped packets are taken, and how one becomes a plain one again.
//! * [`mtu`](mod@mtu): the ICMP message about a packet that is too big with its outer header.
//! * [`link`](mod@link): the frame's header, with its VLAN tags.
//!
//! Outer addresses are of the backend's family, whatever is within: IPIP (RFC 2003), IPv4 and IPv6
//! in IPv6 (RFC 2473), IPv6 in IPv4 (RFC 4213); or the same four in UDP, Generic UDP Encapsulation
//! variant 1 (draft-ietf-intarea-gue), whose header is none: what is behind UDP's is an IP packet.

pub mod entry;
pub mod exit;
pub mod link;
pub mod mtu;
pub mod plain;

pub use entry::wrap;
pub use exit::unwrap;
pub use mtu::too_big;

/// The IPv4 header, without options.
const IPV4: usize = 20;
/// The IPv6 header.
const IPV6: usize = 40;
/// The UDP header.
const UDP: usize = 8;
