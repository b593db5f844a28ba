//! The ways a packet can end. Each is mapped to an XDP action in one exhaustive match and counted
//! under its own name.

/// What was done with a packet, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Verdict {
    /// Neither IPv4 nor IPv6.
    NotIp,
    /// IP, but neither TCP nor UDP.
    NotTransport,
    /// No service of ours.
    NotVip,
    /// Ends before its headers do.
    Truncated,
    /// A header contradicts itself: version, header length.
    Malformed,
    /// A fragment: its ports are elsewhere.
    Fragment,
    /// IPv6 with extension headers before the transport header.
    ExtensionHeader,
    /// For a service, but in a frame to another host: flooded by a switch or seen in promiscuous
    /// mode. The stack drops it.
    OtherHost,
    /// A peer steered it here; the stack takes it.
    Delivered,
    /// This host is its backend; the stack takes it.
    Local,
    /// Sent to its backend, out of the interface it came in through.
    Dsr,
    /// Sent to its backend through another interface.
    DsrRedirect,
    /// No backend is healthy; the stack refuses it, so that the client knows at once.
    NoBackend,
    /// The backend's entry is unusable: a state between two updates.
    BadBackend,
    /// Forwarding would have used its last hop: two nodes pass it to each other.
    TtlExpired,
}

/// What becomes of the packet in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// On to the host's stack.
    Pass,
    /// Gone.
    Drop,
    /// Out again where it came in.
    Tx,
    /// Out of another interface.
    Redirect,
}

impl Verdict {
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 15] = [
        Self::NotIp,
        Self::NotTransport,
        Self::NotVip,
        Self::Truncated,
        Self::Malformed,
        Self::Fragment,
        Self::ExtensionHeader,
        Self::OtherHost,
        Self::Delivered,
        Self::Local,
        Self::Dsr,
        Self::DsrRedirect,
        Self::NoBackend,
        Self::BadBackend,
        Self::TtlExpired,
    ];

    /// What becomes of the packet.
    #[must_use]
    #[inline(always)]
    pub const fn fate(self) -> Fate {
        match self {
            Self::NotIp
            | Self::NotTransport
            | Self::NotVip
            | Self::Truncated
            | Self::Malformed
            | Self::Fragment
            | Self::ExtensionHeader
            | Self::OtherHost
            | Self::Delivered
            | Self::Local
            | Self::NoBackend => Fate::Pass,
            Self::BadBackend | Self::TtlExpired => Fate::Drop,
            Self::Dsr => Fate::Tx,
            Self::DsrRedirect => Fate::Redirect,
        }
    }

    /// The name under which it is counted.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotIp => "not-ip",
            Self::NotTransport => "not-transport",
            Self::NotVip => "not-vip",
            Self::Truncated => "truncated",
            Self::Malformed => "malformed",
            Self::Fragment => "fragment",
            Self::ExtensionHeader => "extension-header",
            Self::OtherHost => "other-host",
            Self::Delivered => "delivered",
            Self::Local => "local",
            Self::Dsr => "dsr",
            Self::DsrRedirect => "dsr-redirect",
            Self::NoBackend => "no-backend",
            Self::BadBackend => "bad-backend",
            Self::TtlExpired => "ttl-expired",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_follow_the_list_and_names_are_unique() {
        for (number, verdict) in Verdict::ALL.into_iter().enumerate() {
            assert_eq!(verdict as usize, number);
            assert!(
                Verdict::ALL[..number]
                    .iter()
                    .all(|other| other.name() != verdict.name())
            );
        }
    }
}
