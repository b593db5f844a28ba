//! What the configuration and the core say, in the program's words. Pure.

use std::{net::IpAddr, time::Duration};

use ipnet::{Ipv4Net, Ipv6Net};
use steerd_core::{
    action::{Affinity, Policy, Scheduler, SteeredBackend, SynRate, Way},
    config::{Encapsulation, FlowTimeouts, Name, Nat, NatTimeouts, Protocol},
};
use steerd_ebpf::{
    abi::{self, FragmentLifetimes, NAT_ADDRESSES, NatPool, Service, addr_words, is_mapped},
    flow::Idle,
    place::ServiceKey,
    scan,
};

/// The key of a service in the program's table.
pub(super) fn service_key(address: IpAddr, port: u16, protocol: Protocol) -> ServiceKey {
    let number = match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
    };
    (self::address(address), Service::key(port.to_be(), number))
}

/// An address.
pub(super) fn address(address: IpAddr) -> [u64; 2] {
    addr_words(octets(address))
}

/// The 16 bytes of an address, IPv4 mapped.
pub(super) fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// How new flows of a service of the family of `service` are chosen for, and its packets treated.
pub(super) fn policy(policy: &Policy, service: IpAddr) -> abi::Policy {
    let scheduler = match policy.scheduler {
        Scheduler::Maglev => abi::Scheduler::Hash,
        Scheduler::WeightedRoundRobin => abi::Scheduler::Sequence,
        Scheduler::LeastConnections => abi::Scheduler::LeastConnections,
    };
    let affinity = match policy.affinity {
        Affinity::FiveTuple => abi::Affinity {
            prefix: 128,
            port: true,
        },
        Affinity::Source { prefix4, prefix6 } => abi::Affinity {
            prefix: match service {
                // Of an address that is mapped into IPv6.
                IpAddr::V4(_) => 96 + prefix4.min(32),
                IpAddr::V6(_) => prefix6,
            },
            port: false,
        },
    };
    abi::Policy::new(
        scheduler,
        affinity,
        policy.mss.unwrap_or(0),
        !policy.sources.is_empty(),
        policy.syn_rate.is_some(),
        policy.quic,
    )
}

/// [`abi::SynLimit::rate`] and [`abi::SynLimit::burst`], where a jiffy lasts `tick`.
pub(super) fn limit(rate: SynRate, tick: Duration) -> (u64, u64) {
    const SECOND: u128 = 1_000_000_000;
    let a_jiffy = ((u128::from(rate.per_second) * tick.as_nanos()) << 16) + SECOND / 2;
    let a_jiffy = u64::try_from(a_jiffy / SECOND).unwrap_or(u64::MAX);
    (a_jiffy.max(1), u64::from(rate.burst) << 16)
}

/// How packets reach a backend.
pub(super) fn mode(way: &Way) -> abi::Mode {
    match way {
        Way::Local => abi::Mode::Local,
        Way::Dsr(_) => abi::Mode::Dsr,
        Way::Tunnel { encapsulation, .. } => match encapsulation {
            Encapsulation::Ipip => abi::Mode::Ipip,
            Encapsulation::Gue => abi::Mode::Gue,
        },
        Way::Nat(_) => abi::Mode::Nat,
    }
}

/// Backend ids by QUIC server id; 0: no backend has it.
pub(super) fn quic_table(backends: &[SteeredBackend], ids: &[(u32, Name)]) -> Vec<u16> {
    let mut table = Vec::new();
    for (backend, &(number, _)) in backends.iter().zip(ids) {
        let Some(server) = backend.quic_server_id.map(usize::from) else {
            continue;
        };
        if table.len() <= server {
            table.resize(server + 1, 0);
        }
        if let Some(slot) = table.get_mut(server) {
            *slot = number as u16;
        }
    }
    table
}

/// [`abi::Control::tunnel4`].
pub(super) fn tunnel4(source: Ipv4Net) -> u64 {
    let word = |address: std::net::Ipv4Addr| u64::from(u32::from_ne_bytes(address.octets()));
    word(source.netmask()) << 32 | word(source.network())
}

/// [`abi::Control::tunnel6`].
pub(super) fn tunnel6(source: Ipv6Net) -> [u64; 4] {
    let [first, second] = addr_words(source.network().octets());
    let [first_mask, second_mask] = addr_words(source.netmask().octets());
    [first, second, first_mask, second_mask]
}

/// The addresses of translated packets by their numbers; zero: no address has this one. Those that
/// stay keep theirs: it is half of every translation that lasts.
pub(super) type NatAddresses = [[u64; 2]; NAT_ADDRESSES];

/// Which ports and addresses packets are translated with, where the addresses were `known` by these
/// numbers before.
pub(super) fn nat_pool(nat: &Nat, known: &NatAddresses) -> (NatPool, NatAddresses) {
    let wanted: Vec<[u64; 2]> = nat
        .addresses
        .iter()
        .take(NAT_ADDRESSES)
        .map(|&address| self::address(address))
        .collect();
    let mut addresses = known.map(|address| {
        if wanted.contains(&address) {
            address
        } else {
            FREE
        }
    });
    for address in wanted {
        if !addresses.contains(&address)
            && let Some(free) = addresses.iter_mut().find(|slot| **slot == FREE)
        {
            *free = address;
        }
    }
    let of_family = |is_v4: bool| {
        let used = (0..).zip(&addresses);
        used.filter(move |(_, address)| **address != FREE && is_mapped(**address) == is_v4)
            .map(|(number, _)| number)
    };
    let first_set = nat.ports.low.div_ceil(4);
    let end = (u32::from(nat.ports.high) + 1) / 4;
    let sets = end.saturating_sub(u32::from(first_set)) as u16;
    let mut pool = NatPool {
        first_set,
        sets: if nat.addresses.is_empty() { 0 } else { sets },
        ipv4: of_family(true).count() as u8,
        ipv6: of_family(false).count() as u8,
        ..NatPool::NONE
    };
    let numbers = of_family(true).chain(of_family(false));
    for (slot, number) in pool.numbers.iter_mut().zip(numbers) {
        *slot = number;
    }
    (pool, addresses)
}

/// No address.
pub(super) const FREE: [u64; 2] = [0, 0];

/// How long flows count that nothing is heard of, where the flow clock's unit is `unit`.
pub(super) fn flow_idle(timeouts: &FlowTimeouts, unit: Duration) -> Idle {
    let units = |span| scan::age(span, unit);
    Idle {
        tcp_new: units(timeouts.tcp_new),
        tcp_established: units(timeouts.tcp_established),
        tcp_closing: units(timeouts.tcp_closing),
        udp_new: units(timeouts.udp_new),
        udp_established: units(timeouts.udp_established),
    }
}

/// How long later fragments may follow, where the flow clock's unit is `unit`.
pub(super) fn fragment_lifetimes(unit: Duration) -> FragmentLifetimes {
    FragmentLifetimes {
        // As long as Linux waits (`ipfrag_time`).
        v4: scan::age(Duration::from_secs(30), unit),
        // RFC 8200 section 4.5.
        v6: scan::age(Duration::from_secs(60), unit),
    }
}

/// How long translations last, where the flow clock's unit is `unit`.
pub(super) fn nat_timeouts(timeouts: &NatTimeouts, unit: Duration) -> abi::NatTimeouts {
    let units = |span| scan::age(span, unit);
    let short = |span| u16::try_from(units(span)).unwrap_or(u16::MAX);
    abi::NatTimeouts {
        tcp_new: units(timeouts.tcp_new),
        tcp_established: units(timeouts.tcp_established),
        tcp_closing: short(timeouts.tcp_closing),
        udp_new: short(timeouts.udp_new),
        udp_established: units(timeouts.udp_established),
    }
}

#[cfg(test)]
mod tests {
    use steerd_core::{action::Sources, config::PortRange, event::NextHop};

    use super::*;

    /// Whatever the kernel's tick, times are what they are: to one unit, and never shorter.
    #[test]
    fn times_are_the_same_on_every_tick() {
        for hertz in [100, 250, 300, 1000] {
            let unit = Duration::from_secs(1) / hertz * 256;
            let is = |units: u32, seconds: u64| {
                let (time, wanted) = (unit * units, Duration::from_secs(seconds));
                assert!((wanted..wanted + unit).contains(&time), "{hertz}: {time:?}");
            };
            let lifetimes = fragment_lifetimes(unit);
            is(lifetimes.v4, 30);
            is(lifetimes.v6, 60);
            let idle = flow_idle(&FlowTimeouts::default(), unit);
            is(idle.tcp_new, 60);
            is(idle.tcp_established, 7440);
            is(idle.tcp_closing, 60);
            is(idle.udp_new, 30);
            is(idle.udp_established, 180);
        }
    }

    #[test]
    fn a_prefix_of_an_ipv4_client_counts_within_the_mapped_address() {
        let affinity = |affinity, service: &str| {
            let policy = Policy {
                affinity,
                ..Policy::default()
            };
            super::policy(&policy, service.parse().unwrap()).affinity()
        };
        let source = Affinity::Source {
            prefix4: 24,
            prefix6: 56,
        };
        let expected = |prefix, port| abi::Affinity { prefix, port };
        assert_eq!(affinity(source, "10.0.0.1"), expected(120, false));
        assert_eq!(affinity(source, "fd00::1"), expected(56, false));
        let whole = Affinity::Source {
            prefix4: 32,
            prefix6: 128,
        };
        assert_eq!(affinity(whole, "10.0.0.1"), expected(128, false));
        assert_eq!(
            affinity(Affinity::FiveTuple, "10.0.0.1"),
            expected(128, true)
        );
    }

    #[test]
    fn a_policy_says_what_there_is_to_look_up() {
        let service = "10.0.0.1".parse().unwrap();
        assert_eq!(policy(&Policy::default(), service), abi::Policy::default());
        let all = Policy {
            scheduler: Scheduler::LeastConnections,
            mss: Some(1360),
            syn_rate: Some(SynRate {
                per_second: 1,
                burst: 1,
            }),
            sources: Sources {
                allow: Vec::new(),
                deny: vec!["10.1.0.0/16".parse().unwrap()],
            },
            quic: true,
            ..Policy::default()
        };
        let word = policy(&all, service);
        assert!(word.has_sources() && word.is_limited() && word.is_quic());
        assert_eq!(
            (word.mss(), word.scheduler()),
            (1360, abi::Scheduler::LeastConnections)
        );
        let turns = Policy {
            scheduler: Scheduler::WeightedRoundRobin,
            ..Policy::default()
        };
        assert_eq!(
            policy(&turns, service).scheduler(),
            abi::Scheduler::Sequence
        );
    }

    #[test]
    fn a_rate_is_per_jiffy() {
        let rate = |per_second, hertz: u32| {
            let rate = SynRate {
                per_second,
                burst: 50,
            };
            let (rate, burst) = limit(rate, Duration::from_secs(1) / hertz);
            assert_eq!(burst, 50 << 16);
            rate
        };
        assert_eq!(rate(250, 250), 1 << 16);
        assert_eq!(rate(1000, 100), 10 << 16);
        // A long time's worth is right to one in a thousand, however slow.
        assert_eq!(rate(1, 1000), 66);
        assert_eq!(rate(u32::MAX, 100), 2_814_749_766_451);
        assert!(rate(u32::MAX, 100) < 1 << 42);
    }

    #[test]
    fn quic_ids_lead_to_backends() {
        let backend = |server: Option<u16>| SteeredBackend {
            name: Name::new("b"),
            address: "10.0.0.2".parse().unwrap(),
            port: 443,
            weight: 1,
            alive: true,
            quic_server_id: server,
            way: Way::Local,
        };
        let ids: Vec<(u32, Name)> = [7, 8, 9].map(|id| (id, Name::new("b"))).into();
        let table = quic_table(&[backend(Some(3)), backend(None), backend(Some(1))], &ids);
        assert_eq!(table, [0, 9, 0, 7]);
        assert_eq!(quic_table(&[backend(None)], &ids), [0; 0]);
        let last = quic_table(&[backend(Some(u16::MAX))], &ids);
        assert_eq!((last.len(), last[65_535]), (65_536, 7));
    }

    #[test]
    fn a_way_has_a_mode() {
        let hop = Some(NextHop {
            ifindex: 3,
            mac: [2; 6],
            vlan: 0,
            mtu: 1500,
            gateway: false,
        });
        let tunnel = |encapsulation| Way::Tunnel {
            encapsulation,
            next_hop: hop,
        };
        let modes = [
            (Way::Local, abi::Mode::Local),
            (Way::Dsr(hop), abi::Mode::Dsr),
            (tunnel(Encapsulation::Ipip), abi::Mode::Ipip),
            (tunnel(Encapsulation::Gue), abi::Mode::Gue),
            (Way::Nat(hop), abi::Mode::Nat),
        ];
        for (way, expected) in modes {
            assert_eq!(mode(&way), expected);
        }
    }

    #[test]
    fn outer_sources_lie_as_in_a_packet() {
        let word = tunnel4("172.16.0.0/16".parse().unwrap());
        assert_eq!((word as u32).to_ne_bytes(), [172, 16, 0, 0]);
        assert_eq!(((word >> 32) as u32).to_ne_bytes(), [255, 255, 0, 0]);
        let words = tunnel6("100::/64".parse().unwrap());
        assert_eq!(words[0].to_ne_bytes(), [1, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(words[1..], [0, u64::MAX, 0]);
    }

    fn nat(addresses: &[&str], low: u16, high: u16) -> Nat {
        Nat {
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            ports: PortRange { low, high },
            ..Nat::default()
        }
    }

    const NONE: NatAddresses = [FREE; NAT_ADDRESSES];

    #[test]
    fn only_whole_sets_of_ports_are_used() {
        let sets = |low, high| {
            let (pool, _) = nat_pool(&nat(&["10.0.0.9"], low, high), &NONE);
            (pool.first_set, pool.sets)
        };
        assert_eq!(sets(1024, 65_535), (256, 16_128));
        assert_eq!(sets(1025, 65_534), (257, 16_126));
        assert_eq!(sets(4000, 4003), (1000, 1));
        assert_eq!(sets(4001, 4003), (1001, 0));
        let (none, _) = nat_pool(&nat(&[], 1024, 65_535), &NONE);
        assert_eq!(none.sets, 0, "no addresses, no translation");
    }

    #[test]
    fn addresses_that_stay_keep_their_numbers() {
        let words = |text: &str| match text {
            "" => FREE,
            text => address(text.parse().unwrap()),
        };
        let mut known = NONE;
        let mut next = |addresses: &[&str]| {
            let (pool, now) = nat_pool(&nat(addresses, 1024, 65_535), &known);
            assert_eq!(nat_pool(&nat(addresses, 1024, 65_535), &now), (pool, now));
            known = now;
            let numbers: Vec<u8> = pool.in_use().collect();
            (numbers, usize::from(pool.ipv4), now)
        };
        let expected = |numbers: &[u8], ipv4, addresses: [&str; 4]| {
            let mut all = NONE;
            all[..4].copy_from_slice(&addresses.map(words));
            (numbers.to_vec(), ipv4, all)
        };
        assert_eq!(
            next(&["fd00::9", "10.0.0.1", "10.0.0.2"]),
            expected(&[1, 2, 0], 2, ["fd00::9", "10.0.0.1", "10.0.0.2", ""])
        );
        // Another order, one replaced: only that one's number changes hands.
        assert_eq!(
            next(&["10.0.0.3", "fd00::9", "10.0.0.2"]),
            expected(&[1, 2, 0], 2, ["fd00::9", "10.0.0.3", "10.0.0.2", ""])
        );
        // One less, then one more of either family: who stays, stays.
        assert_eq!(
            next(&["10.0.0.2", "fd00::9"]),
            expected(&[2, 0], 1, ["fd00::9", "", "10.0.0.2", ""])
        );
        assert_eq!(
            next(&["fd00::8", "10.0.0.2", "fd00::9", "10.0.0.1"]),
            expected(
                &[2, 3, 0, 1],
                2,
                ["fd00::9", "fd00::8", "10.0.0.2", "10.0.0.1"]
            )
        );
        assert_eq!(next(&[]), (Vec::new(), 0, NONE));
    }

    #[test]
    fn timeouts_are_no_shorter_than_configured() {
        let unit = Duration::from_millis(1024);
        let words = nat_timeouts(&NatTimeouts::default(), unit);
        assert_eq!((words.tcp_new, words.tcp_established), (10, 7266));
        assert_eq!(
            (words.tcp_closing, words.udp_new, words.udp_established),
            (59, 30, 176)
        );
        let day = Duration::from_secs(86_400);
        let long = NatTimeouts {
            tcp_closing: day,
            tcp_established: 30 * day,
            ..NatTimeouts::default()
        };
        let words = nat_timeouts(&long, unit);
        assert_eq!(words.tcp_closing, u16::MAX);
        assert!(
            words.tcp_established < 1 << 19,
            "within what the clock tells apart"
        );
    }
}
