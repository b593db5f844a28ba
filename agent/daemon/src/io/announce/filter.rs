//! The kernel's filter for claims of given addresses, in classic BPF (the kernel's
//! Documentation/networking/filter.rst).
//!
//! A packet socket sees every ARP packet, or every IPv6 packet, of the segment. This leaves the few
//! that [`steerd_core::announce::parse_claim`] could read as a claim of one of the addresses.

use std::{collections::BTreeSet, net::IpAddr};

use socket2::SockFilter;

/// As much of a frame as reaches the daemon: an advertisement with several options.
pub(in crate::io) const SNAP_LENGTH: u32 = 256;

/// Offsets in an Ethernet frame.
const ETHERTYPE: u32 = 12;
const ARP_SENDER: u32 = 14 + 14;
const NEXT_HEADER: u32 = 14 + 6;
const ICMPV6_TYPE: u32 = 14 + 40;
const ADVERTISED_LAST_WORD: u32 = 14 + 40 + 8 + 12;

const ARP: u32 = 0x0806;
const IPV6: u32 = 0x86dd;
const ICMPV6: u32 = 58;
const NEIGHBOUR_ADVERTISEMENT: u32 = 136;

/// For an IPv4 socket: lets ARP packets through whose sender address is one of `addresses`. For an
/// IPv6 one: neighbour advertisements whose target ends like one of them. Addresses of the other
/// family match nothing. A frame that is too short for a load is refused by the kernel.
///
/// The last four bytes of an IPv6 address are enough to leave the rest of the segment out, and keep
/// 255 addresses within the 20 KiB that `net.core.optmem_max` allowed a filter before 6.6.
pub(in crate::io) fn claims_of(ipv6: bool, addresses: &BTreeSet<IpAddr>) -> Vec<SockFilter> {
    let mut program = Vec::new();
    let mut require = |size, offset, value| {
        program.push(load(size, offset));
        program.push(SockFilter::new(JUMP_IF_EQUAL, 1, 0, value));
        program.push(SockFilter::new(RETURN, 0, 0, 0));
    };
    if ipv6 {
        require(libc::BPF_H, ETHERTYPE, IPV6);
        require(libc::BPF_B, NEXT_HEADER, ICMPV6);
        require(libc::BPF_B, ICMPV6_TYPE, NEIGHBOUR_ADVERTISEMENT);
        program.push(load(libc::BPF_W, ADVERTISED_LAST_WORD));
    } else {
        require(libc::BPF_H, ETHERTYPE, ARP);
        program.push(load(libc::BPF_W, ARP_SENDER));
    }
    for address in addresses {
        let value = match (address, ipv6) {
            (IpAddr::V4(v4), false) => u32::from(*v4),
            (IpAddr::V6(v6), true) => u128::from(*v6) as u32,
            _ => continue,
        };
        // Each address returns by itself: a jump reaches no further than 255 instructions.
        program.push(SockFilter::new(JUMP_IF_EQUAL, 0, 1, value));
        program.push(SockFilter::new(RETURN, 0, 0, SNAP_LENGTH));
    }
    program.push(SockFilter::new(RETURN, 0, 0, 0));
    program
}

const JUMP_IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

fn load(size: u32, offset: u32) -> SockFilter {
    SockFilter::new((libc::BPF_LD | libc::BPF_ABS | size) as u16, 0, 0, offset)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use steerd_core::announce::{announcement, probe};

    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

    /// Whether the kernel lets `frame` through: a filter works on any socket.
    fn passes(addresses: &[&str], frame: &[u8]) -> bool {
        let addresses = addresses
            .iter()
            .map(|address| address.parse().unwrap())
            .collect();
        let through = [false, true].map(|ipv6| {
            let (sender, receiver) = UnixDatagram::pair().unwrap();
            let program = claims_of(ipv6, &addresses);
            socket2::SockRef::from(&receiver)
                .attach_filter(&program)
                .unwrap();
            receiver.set_nonblocking(true).unwrap();
            sender.send(frame).unwrap();
            receiver.recv(&mut [0; 2048]).is_ok()
        });
        assert_ne!(through, [true, true]);
        through.contains(&true)
    }

    #[test]
    fn claims_of_the_addresses_pass_and_nothing_else() {
        let ours = ["10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2"];
        for address in ours {
            let address: IpAddr = address.parse().unwrap();
            assert!(passes(&ours, &announcement(MAC, address)), "{address}");
            assert!(!passes(&ours, &probe(MAC, address)), "probe of {address}");
            assert!(!passes(&[], &announcement(MAC, address)), "no addresses");
        }
        for other in ["10.0.0.3", "fd00::3"] {
            assert!(
                !passes(&ours, &announcement(MAC, other.parse().unwrap())),
                "{other}"
            );
        }
    }

    #[test]
    fn short_frames_are_refused() {
        let ours = ["10.0.0.1", "fd00::1"];
        for address in ours {
            let frame = announcement(MAC, address.parse().unwrap());
            for length in 0..32 {
                assert!(
                    !passes(&ours, &frame[..length]),
                    "{address} cut to {length}"
                );
            }
        }
    }

    #[test]
    fn the_most_addresses_that_a_virtual_router_can_have_fit() {
        let many: Vec<String> = (1..=255).map(|host| format!("fd00::{host:x}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(passes(
            &many,
            &announcement(MAC, "fd00::ff".parse().unwrap())
        ));
        assert!(!passes(
            &many,
            &announcement(MAC, "fd00::100".parse().unwrap())
        ));
    }
}
