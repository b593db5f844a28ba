//! What a configuration may have fits into the program's maps: the core knows neither the program nor
//! its maps, so this is where the two meet.
#![allow(missing_docs)] // a test

use steerd_core::config::limits;
use steerd_ebpf::abi;

#[test]
fn the_largest_configuration_fits() {
    // The number 0 is nobody's.
    assert_eq!(limits::SERVICES, abi::MAX_SERVICES as usize - 1);
    assert_eq!(limits::ALL_BACKENDS, abi::MAX_BACKENDS as usize - 1);
    // A ring and the one that replaces it.
    let entries = (abi::RING_LINES * abi::RING_LINE) as usize;
    assert_eq!(2 * limits::RING_ENTRIES, entries);
    assert_eq!(limits::RING_LINE, abi::RING_LINE as usize);
    assert_eq!(limits::NAT_ADDRESSES, abi::NAT_ADDRESSES);
    // A service with networks has one more, for all others.
    assert!(limits::ALL_SOURCES + limits::SERVICES <= abi::MAX_SOURCES as usize);
}
