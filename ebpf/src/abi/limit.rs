//! Who may open flows, and how many.

use crate::shared::Shared;

/// A limit on a service's new flows: a token bucket.
#[repr(C)]
#[derive(Debug, Default)]
pub struct SynLimit {
    /// Tokens a jiffy, 16.16 fixed point.
    pub rate: Shared,
    /// The most that can be saved up, 16.16 fixed point of up to 32 bits before the point.
    pub burst: Shared,
    /// Tokens left, 16.16 fixed point.
    pub tokens: Shared,
    /// The jiffies at which they were counted.
    pub counted: Shared,
}

/// What is done with new flows from a network. The daemon writes it for the longest prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum SourceRule {
    /// They are steered.
    Allow = 1,
    /// They are dropped.
    Deny = 2,
}

const _: () = assert!(size_of::<SynLimit>() == 32);
