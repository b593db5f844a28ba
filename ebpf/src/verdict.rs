//! The ways a packet can end. Each has one fate and one counter.

/// What was decided about a packet, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Verdict {
    /// Neither IPv4 nor IPv6.
    NotIp,
    /// To no address of ours.
    NotVip,
    /// To an address of ours, but no service of it: another port or protocol.
    NoService,
    /// Ends before its headers do.
    Truncated,
    /// A header contradicts itself: version, header length.
    BadHeader,
    /// It says it is longer than it is, or shorter than its headers.
    BadLength,
    /// Wants to choose its way: IPv4 source route options, an IPv6 routing header with segments left.
    SourceRoute,
    /// IPv6 with an extension header that is not known, or with more than are looked at.
    ExtensionHeader,
    /// An IPv6 jumbogram (RFC 2675).
    Jumbogram,
    /// From or to port 0.
    ZeroPort,
    /// From the address it is to: a LAND attack.
    Land,
    /// A first fragment without the whole transport header (RFC 1858), or one that overlaps it.
    TinyFragment,
    /// A later fragment of a packet whose first one was not seen.
    EarlyFragment,
    /// For a service, but in a frame to another host: flooded by a switch or seen in promiscuous
    /// mode. The stack drops it.
    OtherHost,
    /// A peer steered it here; the stack takes it.
    Delivered,
    /// This host is its backend; the stack takes it.
    Local,
    /// Sent to its backend with another MAC.
    Dsr,
    /// Sent to its backend in a packet around it.
    Tunnel,
    /// Sent to its backend, translated.
    Nat,
    /// A backend's answer, translated and sent to its client.
    NatReturn,
    /// To an address that translated packets come from, but of no flow; the stack refuses it.
    NatUnknown,
    /// No port is left to translate a new flow with; the stack refuses it.
    NatExhausted,
    /// A peer sent it here in a packet around it, which is off; the stack takes it.
    Unwrapped,
    /// What was in the packet around it is no packet, or its mark of congestion was lost (RFC 6040).
    BadTunnel,
    /// An echo request, answered.
    Echo,
    /// Too big for the way to its backend; its sender was told.
    TooBig,
    /// Too big for the way to its backend; its sender was told of others lately, or cannot be told.
    TooBigDropped,
    /// A new flow from a network that is not allowed.
    Denied,
    /// A new flow beyond what its service allows in a second.
    Limited,
    /// No backend is healthy; the stack refuses it, so that the client knows at once.
    NoBackend,
    /// The backend's entry is unusable: a state between two updates.
    BadBackend,
    /// Forwarding would have used its last hop: two nodes pass it to each other.
    TtlExpired,
    /// A question for an address that another host has taken over while the daemon is dead.
    Fenced,
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
    /// Out of the interface that was decided on: where it came in, or another one.
    Out,
}

impl Verdict {
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 33] = [
        Self::NotIp,
        Self::NotVip,
        Self::NoService,
        Self::Truncated,
        Self::BadHeader,
        Self::BadLength,
        Self::SourceRoute,
        Self::ExtensionHeader,
        Self::Jumbogram,
        Self::ZeroPort,
        Self::Land,
        Self::TinyFragment,
        Self::EarlyFragment,
        Self::OtherHost,
        Self::Delivered,
        Self::Local,
        Self::Dsr,
        Self::Tunnel,
        Self::Nat,
        Self::NatReturn,
        Self::NatUnknown,
        Self::NatExhausted,
        Self::Unwrapped,
        Self::BadTunnel,
        Self::Echo,
        Self::TooBig,
        Self::TooBigDropped,
        Self::Denied,
        Self::Limited,
        Self::NoBackend,
        Self::BadBackend,
        Self::TtlExpired,
        Self::Fenced,
    ];

    /// The verdict with this number.
    #[must_use]
    #[inline(always)]
    pub const fn from_number(number: u8) -> Option<Self> {
        if (number as usize) < Self::COUNT {
            // SAFETY: the numbers run from 0 to COUNT - 1 without a gap, which a test checks.
            Some(unsafe { core::mem::transmute::<u8, Self>(number) })
        } else {
            None
        }
    }

    /// From what a function of the program returned: its number.
    #[must_use]
    #[inline(always)]
    pub const fn unpack(number: u64) -> Self {
        match Self::from_number(number as u8) {
            Some(verdict) => verdict,
            None => Self::BadBackend,
        }
    }

    /// What becomes of the packet.
    #[must_use]
    #[inline(always)]
    pub const fn fate(self) -> Fate {
        match self {
            Self::NotIp
            | Self::NotVip
            | Self::NoService
            | Self::Truncated
            | Self::BadHeader
            | Self::ExtensionHeader
            | Self::OtherHost
            | Self::Delivered
            | Self::Local
            | Self::NatUnknown
            | Self::NatExhausted
            | Self::Unwrapped
            | Self::NoBackend => Fate::Pass,
            Self::BadLength
            | Self::SourceRoute
            | Self::Jumbogram
            | Self::ZeroPort
            | Self::Land
            | Self::TinyFragment
            | Self::EarlyFragment
            | Self::BadTunnel
            | Self::TooBigDropped
            | Self::Denied
            | Self::Limited
            | Self::BadBackend
            | Self::TtlExpired
            | Self::Fenced => Fate::Drop,
            Self::Echo | Self::TooBig => Fate::Tx,
            Self::Dsr | Self::Tunnel | Self::Nat | Self::NatReturn => Fate::Out,
        }
    }

    /// The name under which it is counted.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotIp => "not-ip",
            Self::NotVip => "not-vip",
            Self::NoService => "no-service",
            Self::Truncated => "truncated",
            Self::BadHeader => "bad-header",
            Self::BadLength => "bad-length",
            Self::SourceRoute => "source-route",
            Self::ExtensionHeader => "extension-header",
            Self::Jumbogram => "jumbogram",
            Self::ZeroPort => "zero-port",
            Self::Land => "land",
            Self::TinyFragment => "tiny-fragment",
            Self::EarlyFragment => "early-fragment",
            Self::OtherHost => "other-host",
            Self::Delivered => "delivered",
            Self::Local => "local",
            Self::Dsr => "dsr",
            Self::Tunnel => "tunnel",
            Self::Nat => "nat",
            Self::NatReturn => "nat-return",
            Self::NatUnknown => "nat-unknown",
            Self::NatExhausted => "nat-exhausted",
            Self::Unwrapped => "unwrapped",
            Self::BadTunnel => "bad-tunnel",
            Self::Echo => "echo",
            Self::TooBig => "too-big",
            Self::TooBigDropped => "too-big-dropped",
            Self::Denied => "denied",
            Self::Limited => "limited",
            Self::NoBackend => "no-backend",
            Self::BadBackend => "bad-backend",
            Self::TtlExpired => "ttl-expired",
            Self::Fenced => "fenced",
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
            assert_eq!(Verdict::from_number(number as u8), Some(verdict));
            assert!(
                Verdict::ALL[..number]
                    .iter()
                    .all(|other| other.name() != verdict.name())
            );
        }
        assert_eq!(Verdict::from_number(Verdict::COUNT as u8), None);
    }
}
