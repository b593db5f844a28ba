//! The addresses that translated packets come from, and those that wrapped packets come to.
//!
//! An address for translation that the host lacks is put on each interface through which answers may
//! come: those with the program, and the VLAN devices on them. For IPv6 a host answers who asks for an
//! address only on an interface that has it, and for IPv4 too where `arp_ignore` says so, as it does
//! on a backend of mode dsr.
//!
//! It is noted before: a daemon that comes after takes it off when its configuration lacks it. One that the
//! host has for itself may serve too, but only with ports that the host does not use: an answer to a
//! connection of its own would else be taken for one to a translated packet, or the other way round.

use std::{collections::BTreeSet, net::IpAddr, path::Path};

use ipnet::IpNet;
use steerd_core::config::{Config, Name, PortRange};
use tracing::{info, warn};

use super::Driver;
use crate::io::{
    netlink::{Iface, NetlinkError},
    state::{StateFile, nat_nets},
    sysctl::{self, SysctlError},
};

/// Why packets cannot be translated as configured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NatError {
    /// The host would use the same ports.
    #[error(
        "{address} under [nat] is this host's own address, and the host takes ports {from}-{to} of \
         it for its own connections: set `ports` to others than net.ipv4.ip_local_port_range \
         ({local_from}-{local_to}), add {from}-{to} to net.ipv4.ip_local_reserved_ports, or use an \
         address that the host does not have"
    )]
    Overlap {
        address: IpAddr,
        from: u16,
        to: u16,
        local_from: u16,
        local_to: u16,
    },
    /// It is not known which ports the host uses.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
}

/// That translated packets and the host's own do not get in each other's way, where the host has
/// these addresses.
pub(super) fn check(
    config: &Config,
    host: &BTreeSet<IpAddr>,
    state: &StateFile,
) -> Result<(), NatError> {
    const SYSCTL: &str = "/proc/sys/net/ipv4";
    let mut own = nat_nets(config)
        .filter(|net| host.contains(&net.addr()) && !state.was_put(*net))
        .map(|net| net.addr());
    let Some(address) = own.next() else {
        return Ok(());
    };
    let range = Path::new(SYSCTL).join("ip_local_port_range");
    let text = sysctl::text(&range)?;
    let mut bounds = text.split_whitespace().map(str::parse);
    let (Some(Ok(local_from)), Some(Ok(local_to))) = (bounds.next(), bounds.next()) else {
        return Err(SysctlError::NotANumber {
            path: range,
            value: text,
        }
        .into());
    };
    let reserved = sysctl::text(&Path::new(SYSCTL).join("ip_local_reserved_ports"))?;
    match overlap(config.nat.ports, local_from..=local_to, &reserved) {
        None => Ok(()),
        Some((from, to)) => Err(NatError::Overlap {
            address,
            from,
            to,
            local_from,
            local_to,
        }),
    }
}

/// The first and the last port that both use: the host takes none of the `reserved` ones by itself.
fn overlap(
    ports: PortRange,
    local: std::ops::RangeInclusive<u16>,
    reserved: &str,
) -> Option<(u16, u16)> {
    let mut free = vec![true; usize::from(u16::MAX) + 1];
    for range in reserved.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        if let (Ok(first), Ok(last)) = (first.trim().parse::<u16>(), last.trim().parse::<u16>()) {
            let range = usize::from(first)..=usize::from(last);
            free.get_mut(range).unwrap_or_default().fill(false);
        }
    }
    let mut both = (ports.low..=ports.high)
        .filter(|port| local.contains(port) && free.get(usize::from(*port)) == Some(&true));
    let first = both.next()?;
    Some((first, both.next_back().unwrap_or(first)))
}

/// The interfaces through which answers may come, as far as they exist.
pub(super) fn translating(config: &Config, interfaces: &[Iface]) -> BTreeSet<Name> {
    let programs = &config.dataplane.interfaces;
    let carry = interfaces.iter().filter(|one| programs.contains(&one.name));
    carry
        .flat_map(|one| std::iter::once(&one.name).chain(one.vlans.keys()))
        .cloned()
        .collect()
}

impl Driver {
    /// Puts the addresses for translation that are missing on the host, and says which ones for
    /// wrapped packets are.
    pub(super) async fn update_own(&mut self) {
        if self.addresses.is_empty() || !self.steers {
            // Netlink has not said yet, or the kernel may still refuse the program.
            return;
        }
        let mut faults = BTreeSet::new();
        match self.missing_places() {
            Ok(missing) => {
                for (interface, net) in missing {
                    if let Err(error) = self.state.putting(&interface, &[net]) {
                        self.complain("state", &error);
                    }
                    match self.netlink.put(&interface, net).await {
                        Ok(()) => info!(%interface, "put {net} there, to translate packets with"),
                        Err(error) => drop(faults.insert(format!(
                            "{error}; until then what is translated to {} finds no way back \
                             through {interface}",
                            net.addr()
                        ))),
                    }
                }
            }
            Err(error) => drop(faults.insert(error.to_string())),
        }
        self.set_faults("nat", faults);
        let endpoints = self.config.tunnel.endpoints.iter();
        let missing: BTreeSet<IpAddr> = endpoints
            .filter(|endpoint| !self.addresses.contains(endpoint))
            .copied()
            .collect();
        for endpoint in missing.difference(&self.missing_endpoints) {
            warn!(
                "{endpoint} under [tunnel] is no address of this host: wrapped packets to it do not \
                 come here; add it to an interface or correct `endpoints`"
            );
        }
        self.missing_endpoints = missing;
    }

    /// Where addresses for translation are missing. Where the host has one for itself, it has it
    /// where it wants it.
    fn missing_places(&self) -> Result<Vec<(Name, IpNet)>, NetlinkError> {
        let nets: Vec<IpNet> = nat_nets(&self.config)
            .filter(|net| !self.addresses.contains(&net.addr()) || self.state.was_put(*net))
            .collect();
        if nets.is_empty() {
            return Ok(Vec::new());
        }
        let placed = self.netlink.placed()?;
        let places = translating(&self.config, &self.interfaces.borrow());
        let all = places
            .into_iter()
            .flat_map(|place| nets.iter().map(move |net| (place.clone(), *net)));
        Ok(all
            .filter(|(place, net)| !placed.contains(&(place.clone(), net.addr())))
            .collect())
    }

    /// Takes addresses off that were put on the host for translation as configured `before`.
    pub(super) async fn drop_translation(&mut self, before: &Config) {
        let places = translating(&self.config, &self.interfaces.borrow());
        let for_translation: Vec<IpNet> = nat_nets(before).collect();
        let gone = self.state.left_behind(&self.config, &places);
        let gone = gone
            .into_iter()
            .filter(|(_, net)| for_translation.contains(net));
        for (interface, net) in gone {
            match self.netlink.remove(&interface, net).await {
                Ok(()) => {
                    info!(%interface, "took off {net}: nothing is translated with it any more");
                    if let Err(error) = self.state.released(&interface, &[net]) {
                        self.complain("state", &error);
                    }
                }
                // Still noted: the next daemon tries again.
                Err(error) => self.complain("nat", &error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::lab;

    fn ports(low: u16, high: u16) -> PortRange {
        PortRange { low, high }
    }

    #[test]
    fn ports_of_the_host_are_found() {
        let local = 32_768..=60_999;
        let found = |ports, reserved| overlap(ports, local.clone(), reserved);
        assert_eq!(found(ports(1024, 65_535), ""), Some((32_768, 60_999)));
        assert_eq!(found(ports(61_000, 65_535), ""), None);
        assert_eq!(found(ports(1024, 32_768), ""), Some((32_768, 32_768)));
        assert_eq!(found(ports(40_000, 44_999), "40000-44999"), None);
        assert_eq!(
            found(ports(40_000, 44_999), "8080, 40000-44000,44002-44999\n"),
            Some((44_001, 44_001))
        );
        assert_eq!(found(ports(65_535, 65_535), "9-1,x"), None);
    }

    #[test]
    fn only_an_address_of_the_hosts_own_is_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let mut state = StateFile::open(&dir.path().join("steerd")).unwrap();
        let mut config = lab::config("eth0", &["10.9.0.100/24"], &[]);
        let address: IpAddr = "10.9.0.50".parse().unwrap();
        config.nat.addresses = vec![address];
        assert!(
            check(&config, &BTreeSet::new(), &state).is_ok(),
            "not there"
        );
        let host = [address].into();
        let error = check(&config, &host, &state).unwrap_err().to_string();
        for word in ["10.9.0.50", "`ports`", "ip_local_port_range"] {
            assert!(error.contains(word), "{error}");
        }
        // Put there by an earlier daemon.
        let net = nat_nets(&config).next().unwrap();
        state.putting(&Name::new("eth1"), &[net]).unwrap();
        assert!(check(&config, &host, &state).is_ok());
    }
}
