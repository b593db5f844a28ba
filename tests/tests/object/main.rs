//! The built kernel object, run by the kernel on made-up packets (BPF_PROG_TEST_RUN): every
//! verdict, what forwarding changes in a packet and what it leaves alone, flows, and packets that
//! are cut off or make no sense. Needs root and `target/ebpf/steerd.o`.

// A test's helpers may panic too: that is how it fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod choosing;
mod fence;
mod flood;
mod flows;
mod fragments;
mod golden;
mod hostile;
mod icmp;
mod model;
mod modes;
mod nat;
mod packets;
mod protection;
mod raw;
mod tunnel;
mod world;

use steerd_ebpf::abi::maps;
use world::World;

/// The maps of the object are what the ABI module says: the daemon maps them by these sizes.
#[test]
fn maps_have_the_shapes_of_the_abi() {
    let world = World::new();
    for shape in maps::ALL {
        assert_eq!(
            world.shape(shape.name),
            (shape.key_size, shape.value_size, shape.entries),
            "{}",
            shape.name
        );
    }
}
