//! What a configuration may have fits into the program's maps: the core knows neither the program nor
//! its maps, so this is where the two meet.
#![allow(missing_docs)] // a test

use steerd_core::{config::limits, least_connections};
use steerd_ebpf::abi;

#[test]
fn the_largest_configuration_fits() {
    // The number 0 is nobody's.
    assert_eq!(limits::SERVICES, abi::MAX_SERVICES as usize - 1);
    assert_eq!(limits::ALL_BACKENDS, abi::MAX_BACKENDS as usize - 1);
    // A ring and the one that replaces it.
    let entries = (abi::RING_LINES * abi::RING_LINE) as usize;
    assert_eq!(2 * limits::RING_ENTRIES, entries);
}

#[test]
fn candidates_come_in_the_programs_lines() {
    assert_eq!(least_connections::LINE, abi::RING_LINE as usize);
}
