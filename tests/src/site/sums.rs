//! What the stacks of hosts found wrong with the packets that they received.

use std::{fmt, fs, iter::Sum};

use crate::{
    error::{Context, Result},
    netns::Namespace,
};

/// Packets with a wrong checksum, by who found it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sums {
    /// IPv4 headers.
    pub ip: u64,
    /// ICMP and ICMPv6.
    pub icmp: u64,
    /// TCP, of both families.
    pub tcp: u64,
    /// UDP, of both families.
    pub udp: u64,
}

impl Sums {
    /// What the stack of a namespace found.
    ///
    /// # Errors
    ///
    /// The kernel does not say.
    pub fn of(namespace: &Namespace) -> Result<Self> {
        namespace.run(|| {
            // The thread's own: /proc/net is the process's.
            let read = |name: &str| {
                let path = format!("/proc/thread-self/net/{name}");
                fs::read_to_string(&path).context(|| format!("read {path}"))
            };
            let (snmp, snmp6) = (read("snmp")?, read("snmp6")?);
            let v6 = |name: &str| single(&snmp6, name);
            Ok(Self {
                // Also what is wrong with a header besides its checksum: there must be none.
                ip: pair(&snmp, "Ip:", "InHdrErrors"),
                icmp: pair(&snmp, "Icmp:", "InCsumErrors") + v6("Icmp6InCsumErrors"),
                tcp: pair(&snmp, "Tcp:", "InCsumErrors"),
                udp: pair(&snmp, "Udp:", "InCsumErrors") + v6("Udp6InCsumErrors"),
            })
        })
    }
}

impl Sum for Sums {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| Self {
            ip: sum.ip + one.ip,
            icmp: sum.icmp + one.icmp,
            tcp: sum.tcp + one.tcp,
            udp: sum.udp + one.udp,
        })
    }
}

impl fmt::Display for Sums {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ip, icmp, tcp, udp } = self;
        write!(f, "wrong: IP {ip}, ICMP {icmp}, TCP {tcp}, UDP {udp}")
    }
}

/// A figure of `/proc/net/snmp`, in which a line of names precedes one of figures; 0: there is none.
fn pair(text: &str, line: &str, name: &str) -> u64 {
    let mut lines = text.lines().filter(|text| text.starts_with(line));
    let (Some(names), Some(figures)) = (lines.next(), lines.next()) else {
        return 0;
    };
    let mut both = names.split_whitespace().zip(figures.split_whitespace());
    both.find(|(found, _)| *found == name)
        .and_then(|(_, figure)| figure.parse().ok())
        .unwrap_or(0)
}

/// A figure of `/proc/net/snmp6`, in which each has a line; 0: there is none.
fn single(text: &str, name: &str) -> u64 {
    let mut lines = text.lines().map(str::split_whitespace);
    lines
        .find_map(|mut words| (words.next() == Some(name)).then(|| words.next()))
        .flatten()
        .and_then(|figure| figure.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found() {
        let snmp = "Ip: Forwarding InHdrErrors\nIp: 1 3\nTcp: InSegs InCsumErrors\nTcp: 17 4\n";
        assert_eq!(pair(snmp, "Ip:", "InHdrErrors"), 3);
        assert_eq!(pair(snmp, "Tcp:", "InCsumErrors"), 4);
        assert_eq!(pair(snmp, "Udp:", "InCsumErrors"), 0);
        let snmp6 = "Udp6InDatagrams   \t5\nUdp6InCsumErrors \t6\n";
        assert_eq!(single(snmp6, "Udp6InCsumErrors"), 6);
    }
}
