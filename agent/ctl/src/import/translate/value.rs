//! Reads single values as keepalived writes them.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use ipnet::IpNet;

use crate::import::tree::Node;

/// The node's first value, read by `read`.
pub(super) fn first<T>(node: &Node, read: impl Fn(&str) -> Option<T>) -> Option<T> {
    node.word(1).and_then(read)
}

/// Whether the node's value says yes. Without one it does.
pub(super) fn yes(node: &Node) -> Option<bool> {
    match node.word(1) {
        None | Some("on" | "true" | "yes") => Some(true),
        Some("off" | "false" | "no") => Some(false),
        Some(_) => None,
    }
}

/// Seconds, with a fraction. Rounded to microseconds, as keepalived does.
pub(super) fn seconds(text: &str) -> Option<Duration> {
    let seconds: f64 = text.parse().ok()?;
    let fits = (0.0..=1e9).contains(&seconds);
    // No more than 1e15 microseconds: they fit.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    fits.then(|| Duration::from_micros((seconds * 1e6).round() as u64))
}

/// Anything that has one way to be written.
pub(super) fn parsed<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

/// An address with a prefix length; without one it stands alone.
pub(super) fn network(text: &str) -> Option<IpNet> {
    match text.parse() {
        Ok(net) => Some(net),
        Err(_) => text.parse::<IpAddr>().ok().map(IpNet::from),
    }
}

/// The length of a netmask: `255.255.255.0`, or the length itself.
pub(super) fn prefix_length(text: &str) -> Option<u8> {
    if let Ok(length) = text.parse() {
        return Some(length);
    }
    let mask = u32::from(text.parse::<Ipv4Addr>().ok()?);
    let length = mask.leading_ones();
    (mask.count_ones() == length).then_some(u8::try_from(length).ok()?)
}

/// An interface's name, by the kernel's rules.
pub(super) fn interface(text: &str) -> Option<String> {
    let fits = (1..=15).contains(&text.len())
        && ![".", ".."].contains(&text)
        && !text.contains(['/', ':'])
        && !text.contains(|c: char| c.is_whitespace() || c.is_control());
    fits.then(|| text.to_owned())
}

/// The name of a user.
pub(super) fn user(text: &str) -> Option<String> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let valid = (1..=32).contains(&text.len()) && !text.starts_with('-') && text.bytes().all(fits);
    valid.then(|| text.to_owned())
}

/// Whether no host can have the address for others to reach.
pub(super) fn unreachable(address: IpAddr) -> bool {
    address.is_unspecified()
        || address.is_loopback()
        || address.is_multicast()
        || matches!(address, IpAddr::V4(ip) if ip.is_broadcast())
        || matches!(address, IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some())
}

/// Whether the address is an IPv6 one that says nothing without an interface.
pub(super) fn link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_keepalived_writes_them() {
        assert_eq!(seconds("0.92"), Some(Duration::from_millis(920)));
        assert_eq!(seconds("3"), Some(Duration::from_secs(3)));
        for bad in ["-1", "x", "nan", "inf", "1e30", ""] {
            assert_eq!(seconds(bad), None, "{bad}");
        }
        assert_eq!(network("10.0.0.1").unwrap().to_string(), "10.0.0.1/32");
        assert_eq!(prefix_length("255.255.255.0"), Some(24));
        assert_eq!(prefix_length("64"), Some(64));
        assert_eq!(prefix_length("255.0.255.0"), None);
        assert_eq!(interface("eth0:1"), None);
    }
}
