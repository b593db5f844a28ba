//! A cluster of nodes on a virtual clock, under every fault we could think of.
//!
//! Each seed is a cluster of two, three or five hosts, each with a game server, and with one virtual
//! router or two, which may be a sync group. It has a random history of faults: loss, duplicates,
//! reordering, delay, partitions of both directions and of one, of both families and of one, daemons
//! killed, stopped in order and restarted, daemons paused, hosts crashed and booted, servers dying,
//! links cut, orders to fail over, and reloads with other priorities, intervals, addresses, groups and
//! rules of preemption. What must hold:
//!
//! * **One master.** Two nodes that run, hear each other and have been free of faults (their own and
//!   the network's) for as long are never both master for longer than an advert interval and its
//!   way. Loss, partitions and pauses make double masters for a time; no protocol without a third
//!   party can avoid that, so the clock starts when the last fault ends.
//! * **No false takeover.** Nobody takes the addresses from a living master that it hears, not after a
//!   start or a pause either, except by its priority and when its `preempt_delay` is over.
//! * **The winner is known.** Of two such masters the one that remains announces the addresses after
//!   they have met, within an interval.
//! * **A master.** A backup that nobody keeps from it takes over within the master-down interval. When
//!   faults have ended, one able node is master within the time of detection and of the master-down
//!   timer: the one with the highest priority (and address), except with `preempt = false` and for
//!   who gave the addresses away by order.
//! * **Orders.** A failover is called off only where no backup could have heard of it, and lasts until
//!   its node is master again or has another configuration.
//! * **Whole groups.** A node holds all addresses of a sync group or none.
//! * **No traffic to the dead.** No running node's ring holds a server that it could not reach for
//!   longer than the bound of its probes.
//! * **Order.** Addresses are acquired and released in turns, a stopped daemon holds none, actions
//!   name only what is configured, and no deadline is in the past after it was served.
//!
//! `STEERD_SIM_SEED=n` replays one seed with a trace, `STEERD_SIM_SEEDS=n` sets how many are run.
//!
//! * `host`: a host and its configuration.
//! * `world`: the clock, the network and the kernel.
//! * `faults`: what goes wrong, and when.
//! * `checks`: what must hold.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)] // tests may panic

mod checks;
mod faults;
mod host;
mod random;
#[expect(dead_code, reason = "shared with other tests")]
#[path = "../support/mod.rs"]
mod support;
mod world;

use std::{
    collections::BTreeSet,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicU64, Ordering},
};

use world::World;

#[test]
fn holds_under_faults() {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse::<u64>().ok())
    };
    if let Some(seed) = number("STEERD_SIM_SEED") {
        World::new(seed, true).run();
        return;
    }
    let seeds = number("STEERD_SIM_SEEDS").unwrap_or(10_000);
    let next = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let failed = std::thread::scope(|scope| {
        let work = || {
            let mut failed = Vec::new();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= seeds {
                    return failed;
                }
                if catch_unwind(AssertUnwindSafe(|| World::new(seed, false).run())).is_err() {
                    failed.push(seed);
                }
            }
        };
        let handles: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        handles
            .into_iter()
            .flat_map(|handle| handle.join().unwrap())
            .collect::<BTreeSet<u64>>()
    });
    assert!(
        failed.is_empty(),
        "replay with STEERD_SIM_SEED=n: {failed:?}"
    );
}
