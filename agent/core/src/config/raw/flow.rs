//! `[flows]` as it is written.

use std::time::Duration;

use crate::config::{
    reader::{Given, TableReader},
    scalar,
};

/// `[flows]`.
#[derive(Debug)]
pub(in crate::config) struct RawFlows {
    pub(in crate::config) tcp_new: Given<Duration>,
    pub(in crate::config) tcp_established: Given<Duration>,
    pub(in crate::config) tcp_closing: Given<Duration>,
    pub(in crate::config) udp_new: Given<Duration>,
    pub(in crate::config) udp_established: Given<Duration>,
}

pub(super) fn flows(mut table: TableReader<'_>) -> RawFlows {
    // The data plane counts in units of 256 jiffies, in 19 bits: 37 hours with 1000 jiffies a second.
    let second = Duration::from_secs(1);
    let short = || scalar::duration(second..=Duration::from_hours(1));
    let long = || scalar::duration(second..=Duration::from_hours(24));
    RawFlows {
        tcp_new: table.get("tcp_new", short()),
        tcp_established: table.get("tcp_established", long()),
        tcp_closing: table.get("tcp_closing", short()),
        udp_new: table.get("udp_new", short()),
        udp_established: table.get("udp_established", long()),
    }
}
