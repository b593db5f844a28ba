//! Mixing functions. The program looks up with them what the daemon placed with them.

use crate::abi::{Affinity, FILTER_WORDS, FRAGMENT_SETS, MAC_SLOTS, SERVICE_SLOTS};

/// Odd constants with well spread bits (fractional parts of the golden ratio, and the finaliser
/// constants of splitmix64).
const K1: u64 = 0x9e37_79b9_7f4a_7c15;
const K2: u64 = 0xbf58_476d_1ce4_e5b9;
const K3: u64 = 0x94d0_49bb_1331_11eb;

/// Spreads the bits of `x` over the whole word: the splitmix64 finaliser (Stafford's variant 13).
#[must_use]
#[inline(always)]
pub const fn mix(mut x: u64) -> u64 {
    x ^= x >> 30;
    x = x.wrapping_mul(K2);
    x ^= x >> 27;
    x = x.wrapping_mul(K3);
    x ^ (x >> 31)
}

/// The hash of an address, with which the filter is asked.
///
/// One multiplication, because every packet pays for it, the host's own ones too. Whom it serves
/// badly the daemon gives another seed. A product's low bits depend on its factor's low bits only:
/// so the address is turned round, its last bytes lowest, and only the upper half of the hash is
/// used.
#[must_use]
#[inline(always)]
pub const fn address(addr: [u64; 2], seed: u32) -> u64 {
    let address = addr[1].swap_bytes() ^ addr[0].swap_bytes().rotate_left(29);
    (address ^ seed as u64).wrapping_mul(K1)
}

/// An address's word and bit in the filter, by [`address`].
#[must_use]
#[inline(always)]
pub const fn address_filter(address: u64) -> (usize, u64) {
    (
        (address >> 54) as usize & (FILTER_WORDS - 1),
        1 << ((address >> 48) & 63),
    )
}

/// The hash of a service, from its address's.
#[must_use]
#[inline(always)]
pub const fn service(address: u64, port_proto: u32) -> u64 {
    (address ^ address >> 32 ^ port_proto as u64).wrapping_mul(K2)
}

/// The two slots in which a service can be, from the start of its table.
#[must_use]
#[inline(always)]
pub const fn service_slots(service: u64) -> (u32, u32) {
    (
        (service >> 49) as u32 & (SERVICE_SLOTS - 1),
        (service >> 34) as u32 & (SERVICE_SLOTS - 1),
    )
}

/// The slot of a MAC, from the start of its table.
#[must_use]
#[inline(always)]
pub const fn mac_slot(mac: u64, seed: u32) -> u32 {
    let x = (mac ^ seed as u64).wrapping_mul(K1);
    (x >> 52) as u32 & (MAC_SLOTS - 1)
}

/// The hash of an IPv4 flow: of the packet's words alone, so that the table's line is on its way
/// while the service is still looked up.
#[must_use]
#[inline(always)]
pub const fn flow4(
    source: u32,
    source_port: u16,
    destination: u32,
    port_proto: u32,
    seed: u64,
) -> u64 {
    let service = (port_proto as u64 | (destination as u64) << 32).wrapping_mul(K3);
    spread((source as u64 | (source_port as u64) << 32) ^ service ^ seed)
}

/// The hash of an IPv6 flow.
#[must_use]
#[inline(always)]
pub const fn flow6(
    source: [u64; 2],
    source_port: u16,
    destination: [u64; 2],
    port_proto: u32,
    seed: u64,
) -> u64 {
    let service = (destination[1] ^ destination[0].rotate_left(17)).wrapping_mul(K3);
    let client = source[0].wrapping_mul(K2) ^ source[1].rotate_left(32);
    spread(client ^ spread(service ^ (port_proto as u64 | (source_port as u64) << 32) ^ seed))
}

#[inline(always)]
const fn spread(mut x: u64) -> u64 {
    x ^= x >> 32;
    x = x.wrapping_mul(K1);
    x ^= x >> 29;
    x = x.wrapping_mul(K2);
    x ^ (x >> 32)
}

/// The hash that picks a new flow's slot in its service's ring: of what [`Affinity`] leaves of the
/// client. It depends on nothing that differs between nodes, so they choose the same backend without
/// talking.
#[must_use]
#[inline(always)]
pub const fn ring(client: [u64; 2], client_port_be: u16, salt: u64, affinity: Affinity) -> u64 {
    let client = prefix(client, affinity.prefix);
    let port = if affinity.port { client_port_be } else { 0 };
    mix(mix(client[1] ^ client[0].wrapping_mul(K1)) ^ salt ^ (port as u64).wrapping_mul(K3))
}

/// The leading bits of an address (network byte order), the others zero.
#[must_use]
#[inline(always)]
pub const fn prefix(address: [u64; 2], bits: u8) -> [u64; 2] {
    let (first, second) = match bits {
        0 => (0, 0),
        1..=63 => (u64::MAX << (64 - bits), 0),
        64 => (u64::MAX, 0),
        65..=127 => (u64::MAX, u64::MAX << (128 - bits)),
        _ => (u64::MAX, u64::MAX),
    };
    [
        address[0] & first.swap_bytes(),
        address[1] & second.swap_bytes(),
    ]
}

/// The hash that spreads clients: over the outer sources of wrapped packets, over ports.
#[must_use]
#[inline(always)]
pub const fn client(client: [u64; 2], client_port_be: u16) -> u64 {
    mix(client[1] ^ client[0].wrapping_mul(K1) ^ (client_port_be as u64).wrapping_mul(K3))
}

/// The set of a fragmented packet.
#[must_use]
#[inline(always)]
pub const fn fragment(source: [u64; 2], destination: [u64; 2], identity: u64, seed: u64) -> u32 {
    let addresses = source[1] ^ source[0].rotate_left(17) ^ destination[1].rotate_left(31);
    let hash = mix(mix(addresses ^ destination[0].rotate_left(47) ^ seed) ^ identity);
    (hash >> 32) as u32 & (FRAGMENT_SETS - 1)
}

/// A service's salt, from what is equal on all nodes.
#[must_use]
pub const fn salt(addr: [u64; 2], port_proto: u32) -> u64 {
    mix(mix(addr[0] ^ K1) ^ addr[1] ^ (port_proto as u64).wrapping_mul(K3))
}

/// Maps the upper half of a hash onto `0..slots` by a multiplication, which costs less than a
/// remainder (Lemire, "Fast random integer generation in an interval", 2019).
#[must_use]
#[inline(always)]
pub const fn reduce(hash: u64, slots: u32) -> u32 {
    (((hash >> 32) * slots as u64) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Chi-squared of `n` values over `bins`, divided by the degrees of freedom: about 1 when even.
    fn unevenness(bins: usize, values: impl Iterator<Item = usize>) -> f64 {
        let mut counts = std::vec![0_u32; bins];
        let mut n = 0_u32;
        for value in values {
            counts[value] += 1;
            n += 1;
        }
        let expected = f64::from(n) / bins as f64;
        counts
            .iter()
            .map(|&c| (f64::from(c) - expected).powi(2) / expected)
            .sum::<f64>()
            / (bins - 1) as f64
    }

    #[test]
    fn sequential_clients_spread_evenly() {
        let sets = unevenness(
            1 << 10,
            (0..1 << 17)
                .map(|i: u64| (flow4((i as u32).swap_bytes(), 7, 9, 11, 42) & 0x3ff) as usize),
        );
        assert!((0.8..1.2).contains(&sets), "{sets}");
        let sets6 = unevenness(
            1 << 10,
            (0..1 << 17)
                .map(|i: u64| (flow6([0xfd, i << 40], 7, [0xfd, 9], 11, 42) & 0x3ff) as usize),
        );
        assert!((0.8..1.2).contains(&sets6), "{sets6}");
        let slots = unevenness(
            4099,
            (0..1 << 17).map(|port: u32| {
                reduce(
                    ring(
                        [0, 0x0a0b_0c0d_ffff_0000 + u64::from(port >> 16)],
                        port as u16,
                        7,
                        Affinity {
                            prefix: 128,
                            port: true,
                        },
                    ),
                    4099,
                ) as usize
            }),
        );
        assert!((0.8..1.2).contains(&slots), "{slots}");
    }

    /// Neighbours of a service, in address and port: no other address has its place in the filter,
    /// and few services share a slot.
    #[test]
    fn neighbours_are_told_apart() {
        let place = |last: u8, port: u16| {
            let addr = [
                0,
                u64::from(u32::from_ne_bytes([10, 200, 9, last])) << 32 | 0xffff_0000,
            ];
            let address = address(addr, 77);
            let service = service(address, u32::from(port.to_be()) | 6 << 16 | 1 << 24);
            (address_filter(address), service_slots(service))
        };
        let (filter, slots) = place(9, 8765);
        let neighbours = (0..=255)
            .filter(|&last| last != 9)
            .map(|last| (last, 8765))
            .chain((8000..8745).map(|port| (9, port)));
        let mut shared = 0;
        for (last, port) in neighbours {
            let (other_filter, other_slots) = place(last, port);
            assert_eq!(filter == other_filter, last == 9);
            shared += u32::from(slots.0 == other_slots.0) + u32::from(slots.1 == other_slots.1);
        }
        assert!(shared < 4, "{shared} of 2000 look-ups");
    }

    #[test]
    fn prefixes_keep_leading_bits() {
        let address = [0x0807_0605_0403_0201, 0x100f_0e0d_0c0b_0a09];
        assert_eq!(prefix(address, 128), address);
        assert_eq!(prefix(address, 64), [address[0], 0]);
        assert_eq!(prefix(address, 0), [0, 0]);
        assert_eq!(prefix(address, 16), [0x0201, 0]);
        assert_eq!(prefix(address, 120), [address[0], 0x000f_0e0d_0c0b_0a09]);
        assert_eq!(prefix([u64::MAX; 2], 12), [0xf0ff, 0]);
    }

    #[test]
    fn reduce_stays_in_range() {
        assert_eq!(reduce(u64::MAX, 7), 6);
        assert_eq!(reduce(0, 7), 0);
        assert_eq!(reduce(u64::MAX, 0), 0);
    }
}
