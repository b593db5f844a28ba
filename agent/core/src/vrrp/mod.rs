//! VRRPv2 and VRRPv3 (RFC 3768, RFC 9568): the wire format and the election of a virtual router's master.
//!
//! * [`wire`]: an advert as bytes.
//! * [`election`]: the state machine of one virtual router, or of a sync group.
//! * [`peers`]: whom it heard, and what their adverts say about the set-up.

pub mod election;
pub mod peers;
pub mod wire;
