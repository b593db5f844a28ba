//! What clients connect to: the address of a virtual server, or the addresses of its group.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Translator;
use crate::import::tree::Node;

/// Services of a node, which is also how many addresses a range may have.
const MAX_SERVICES: usize = 4095;

impl<'a> Translator<'a> {
    /// What clients connect to.
    pub(super) fn targets(&mut self, node: &'a Node) -> Result<Vec<(IpAddr, u16)>, &'static str> {
        let room = MAX_SERVICES.saturating_sub(self.file.services.len());
        let full = "a node has 4095 services at most";
        match (node.word(1), node.word(2)) {
            (Some("fwmark"), _) => Err(
                "a service is an address and a port: write one for each that the \
                                        firewall marks",
            ),
            (Some("group"), Some(name)) => {
                let Some(&group) = self.server_groups.get(name) else {
                    return Err("there is no virtual_server_group of this name");
                };
                let mut targets = Vec::new();
                self.account.used(group);
                for line in group.inner() {
                    let found = range(line.keyword()).zip(line.word(1).and_then(port));
                    let Some(((first, count), port)) = found else {
                        let why = "a service is an address, or a range of them, and a port";
                        let left = self.account.left(line, why);
                        self.file.left.extend(left);
                        continue;
                    };
                    if count > room.saturating_sub(targets.len()) {
                        let left = self.account.left(line, full);
                        self.file.left.extend(left);
                        continue;
                    }
                    self.account.used(line);
                    targets.extend(successors(first, count).map(|address| (address, port)));
                }
                match targets.is_empty() {
                    true => Err("its group names no address with a port"),
                    false => Ok(targets),
                }
            }
            (Some(address), given) => {
                let address = address.parse().map_err(|_| "not an address")?;
                let port = given.and_then(port);
                let port = port.ok_or("a service has a port: write one for each that is served")?;
                match room {
                    0 => Err(full),
                    _ => Ok(vec![(address, port)]),
                }
            }
            (None, _) => Err("it names no address"),
        }
    }
}

/// A port that a service may have.
pub(super) fn port(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port| *port > 0)
}

/// The first address of `A`, `A-N`, `A-B` or `A/LENGTH`, and how many there are.
fn range(text: &str) -> Option<(IpAddr, usize)> {
    if let Ok(address) = text.parse() {
        return Some((address, 1));
    }
    if let Some((first, length)) = text.split_once('/') {
        let first: IpAddr = first.parse().ok()?;
        let bits = if first.is_ipv6() { 128 } else { 32_u32 };
        let rest = bits.checked_sub(length.parse().ok()?)?;
        return Some((first, 1_usize.checked_shl(rest).filter(|_| rest < 20)?));
    }
    let (first, last) = text.split_once('-')?;
    let first: IpAddr = first.parse().ok()?;
    let (from, to) = match (first, last.parse::<IpAddr>()) {
        (IpAddr::V4(from), Ok(IpAddr::V4(to))) => {
            (u128::from(u32::from(from)), u128::from(u32::from(to)))
        }
        (IpAddr::V6(from), Ok(IpAddr::V6(to))) => (u128::from(from), u128::from(to)),
        // The last part alone.
        (IpAddr::V4(from), Err(_)) => {
            let [a, b, c, _] = from.octets();
            let to = Ipv4Addr::new(a, b, c, last.parse().ok()?);
            (u128::from(u32::from(from)), u128::from(u32::from(to)))
        }
        (IpAddr::V6(from), Err(_)) => {
            let part = u128::from(u16::from_str_radix(last, 16).ok()?);
            let from = u128::from(from);
            (from, from & !0xffff | part)
        }
        _ => return None,
    };
    let count = to.checked_sub(from)?.checked_add(1)?;
    Some((first, usize::try_from(count).ok()?))
}

/// `count` addresses from `first` on.
fn successors(first: IpAddr, count: usize) -> impl Iterator<Item = IpAddr> {
    (0..count as u64).map(move |offset| match first {
        IpAddr::V4(first) => {
            let offset = u32::try_from(offset).unwrap_or(u32::MAX);
            Ipv4Addr::from(u32::from(first).wrapping_add(offset)).into()
        }
        IpAddr::V6(first) => Ipv6Addr::from(u128::from(first).wrapping_add(offset.into())).into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_have_all_forms() {
        let of = |text| range(text).map(|(first, count)| (first.to_string(), count));
        for (text, first, count) in [
            ("192.168.200.1-10", "192.168.200.1", 10),
            ("192.168.200.250-192.168.201.10", "192.168.200.250", 17),
            ("192.168.202.8/29", "192.168.202.8", 8),
            ("fd00::1-a", "fd00::1", 10),
            ("10.0.0.1", "10.0.0.1", 1),
        ] {
            assert_eq!(of(text), Some((first.to_owned(), count)), "{text}");
        }
        for bad in ["10.0.0.9-1", "10.0.0.0/33", "::/0", "x", "10.0.0.1-fd00::1"] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }
}
