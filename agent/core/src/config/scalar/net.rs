//! Networks and ranges of ports.

use std::net::{IpAddr, SocketAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use toml::de::DeValue;

use super::must;
use crate::config::{CHANNEL_PORT, PortRange, reader::Problem};

/// The data plane gives ports out in blocks of four; in so many there is one.
const PORTS_MIN: u32 = 8;

/// A network that clients are in.
pub(in crate::config) fn sources(value: &DeValue<'_>) -> Result<IpNet, Problem> {
    let net: IpNet = parse(value, "be a network such as \"198.51.100.0/24\"")?;
    whole(value, net)
}

/// A network for the outer IPv4 sources of tunnels.
pub(in crate::config) fn outer_sources4(value: &DeValue<'_>) -> Result<Ipv4Net, Problem> {
    let wanted = "be an IPv4 network of /8 to /32 such as \"172.16.0.0/16\"";
    match parse(value, wanted)? {
        IpNet::V4(net) if net.prefix_len() >= 8 => whole(value, net.into()).map(|_| net),
        _ => Err(must(wanted, value)),
    }
}

/// A network for the outer IPv6 sources of tunnels.
pub(in crate::config) fn outer_sources6(value: &DeValue<'_>) -> Result<Ipv6Net, Problem> {
    let wanted = "be an IPv6 network of /32 to /128 such as \"100::/64\"";
    match parse(value, wanted)? {
        IpNet::V6(net) if net.prefix_len() >= 32 => whole(value, net.into()).map(|_| net),
        _ => Err(must(wanted, value)),
    }
}

/// `LOW-HIGH`.
pub(in crate::config) fn port_range(value: &DeValue<'_>) -> Result<PortRange, Problem> {
    let wanted = || must("be a range of ports such as \"1024-65535\"", value);
    let (low, high) = value
        .as_str()
        .and_then(|text| text.split_once('-'))
        .ok_or_else(wanted)?;
    let port = |text: &str| {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u16>().ok().filter(|&port| digits && port > 0)
    };
    let (low, high) = port(low).zip(port(high)).ok_or_else(wanted)?;
    if low > high {
        return Err(wanted().help(format!("write \"{high}-{low}\"")));
    }
    let range = PortRange { low, high };
    if range.count() < PORTS_MIN {
        return Err(must(&format!("be at least {PORTS_MIN} ports"), value));
    }
    Ok(range)
}

/// An end of the channel: an address, with its port where that is not the usual one.
pub(in crate::config) fn endpoint(value: &DeValue<'_>) -> Result<SocketAddr, Problem> {
    let wanted =
        "be an address and a port such as \"192.168.1.26:7112\" or \"[2001:db8::26]:7112\"";
    let text = value.as_str().ok_or_else(|| must(wanted, value))?;
    let alone = text.parse().map(|address: IpAddr| (address, CHANNEL_PORT));
    let whole = text.parse::<SocketAddr>();
    let endpoint = whole.or_else(|_| alone.map(SocketAddr::from));
    let endpoint = endpoint.map_err(|_| must(wanted, value))?;
    match endpoint.port() {
        0 => Err(must(wanted, value).help("port 0 is none")),
        _ => Ok(endpoint),
    }
}

fn parse(value: &DeValue<'_>, wanted: &str) -> Result<IpNet, Problem> {
    let text = value.as_str().ok_or_else(|| must(wanted, value))?;
    text.parse().map_err(|_| {
        let problem = must(wanted, value);
        match text.parse() {
            Ok(IpAddr::V4(_)) => problem.help(format!("a single address is \"{text}/32\"")),
            Ok(IpAddr::V6(_)) => problem.help(format!("a single address is \"{text}/128\"")),
            Err(_) => problem,
        }
    })
}

/// `net`, unless it has bits behind its prefix: then it is not clear what was meant.
fn whole(value: &DeValue<'_>, net: IpNet) -> Result<IpNet, Problem> {
    if net == net.trunc() {
        return Ok(net);
    }
    let wanted = format!("be a network without bits behind its /{}", net.prefix_len());
    Err(must(&wanted, value).help(format!("the network is \"{}\"", net.trunc())))
}

#[cfg(test)]
mod tests {
    use super::{super::tests::read, *};

    #[test]
    fn networks() {
        for text in ["10.0.0.0/8", "0.0.0.0/0", "::/0", "10.1.2.3/32", "fd00::/8"] {
            assert!(read(&format!("\"{text}\""), sources).is_ok(), "{text}");
        }
        for text in [
            "10.0.0.1/8",
            "10.0.0.1",
            "10.0.0.0/33",
            "fd00::1/64",
            "x",
            "",
        ] {
            assert!(read(&format!("\"{text}\""), sources).is_err(), "{text}");
        }
        for (text, fits) in [
            ("172.16.0.0/16", true),
            ("10.0.0.0/8", true),
            ("10.0.0.1/32", true),
            ("0.0.0.0/7", false),
            ("10.0.0.1/24", false),
            ("100::/64", false),
        ] {
            let read = read(&format!("\"{text}\""), outer_sources4);
            assert_eq!(read.is_ok(), fits, "{text}");
        }
        for (text, fits) in [
            ("100::/64", true),
            ("fd00::1/128", true),
            ("fd00::/31", false),
            ("fd00::1/64", false),
            ("10.0.0.0/8", false),
        ] {
            let read = read(&format!("\"{text}\""), outer_sources6);
            assert_eq!(read.is_ok(), fits, "{text}");
        }
    }

    #[test]
    fn port_ranges() {
        let range = |text: &str| read(&format!("\"{text}\""), port_range).ok();
        assert_eq!(range("1024-65535").map(PortRange::count), Some(64_512));
        assert_eq!(range("1-8").map(PortRange::count), Some(8));
        for text in [
            "1-7", "8-1", "0-9", "1-65536", "1", "-", "+1-9", "1-9-20", "",
        ] {
            assert_eq!(range(text), None, "{text}");
        }
    }
}
