//! How many of each thing a configuration may have. The data plane's maps and the packets of VRRP set
//! the size; a test of the workspace compares these with the maps.

/// Virtual routers.
pub const VIRTUAL_ROUTERS: usize = 64;
/// Addresses of a virtual router.
pub const ADDRESSES: usize = 32;
/// Peers of a virtual router.
pub const PEERS: usize = 32;
/// Other nodes on the channel.
pub const CHANNEL_PEERS: usize = 16;
/// Interfaces with the program.
pub const INTERFACES: usize = 16;
/// Addresses at which tunnelled packets are unwrapped.
pub const ENDPOINTS: usize = 16;
/// Addresses that translated packets come from.
pub const NAT_ADDRESSES: usize = 8;
/// Tracks, and tracks of a virtual router.
pub const TRACKS: usize = 64;
/// Arguments of a track's program, with its name.
pub const ARGUMENTS: usize = 64;
/// Processes, or backends, that a track may want.
pub const PROCESSES: i64 = 1024;
/// Services.
pub const SERVICES: usize = 4095;
/// Backends of a service.
pub const BACKENDS: usize = 1024;
/// Probes of a service.
pub const PROBES: usize = 16;
/// Ranges of statuses that a probe expects.
pub const STATUSES: usize = 32;
/// Networks in one list of sources of a service.
pub const SOURCES: usize = 1024;

/// Backends of all services, together.
pub const ALL_BACKENDS: usize = 32_767;
/// Networks of all lists of sources, together.
pub const ALL_SOURCES: usize = 1 << 16;
/// Entries of all rings, together: half of those that the data plane has, because a ring is replaced
/// by one beside it, and a node that dies may change all of them at once.
pub const RING_ENTRIES: usize = 1 << 23;
/// A ring takes whole lines of so many.
pub const RING_LINE: usize = 32;
