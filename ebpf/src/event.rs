//! What happens by the way: each is counted, besides the packet's verdict.

/// Something the program did or met that a verdict does not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Event {
    /// A new flow was recorded.
    FlowRecorded,
    /// It took the place of a closing one.
    FlowEvictedClosing,
    /// It took the place of a handshake that was not completed.
    FlowEvictedNew,
    /// It took the place of UDP, or of TCP that had not lasted.
    FlowEvictedUnconfirmed,
    /// It took the place of a connection that was idle for long.
    FlowEvictedIdle,
    /// It could not be recorded, as nothing in its set may go.
    FlowUnrecorded,
    /// A new translation was made.
    NatRecorded,
    /// It took the port of one that was never established.
    NatEvicted,
    /// A first fragment was recorded.
    FragmentRecorded,
    /// A later fragment followed its first.
    FragmentFollowed,
    /// A fragmented packet took the place of another one that was not old.
    FragmentEvicted,
    /// An ICMP error was steered by the packet it quotes.
    IcmpSteered,
    /// The MSS of a SYN was lowered.
    MssClamped,
    /// A packet with IPv4 options was steered.
    Ipv4Options,
    /// A packet with IPv6 extension headers was steered.
    Ipv6Extensions,
    /// A QUIC connection id said which backend it is.
    QuicRouted,
    /// A QUIC connection id named no backend, or one that cannot keep flows.
    QuicUnknown,
    /// Another host took a virtual router over while the daemon was dead.
    Fenced,
}

impl Event {
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 18] = [
        Self::FlowRecorded,
        Self::FlowEvictedClosing,
        Self::FlowEvictedNew,
        Self::FlowEvictedUnconfirmed,
        Self::FlowEvictedIdle,
        Self::FlowUnrecorded,
        Self::NatRecorded,
        Self::NatEvicted,
        Self::FragmentRecorded,
        Self::FragmentFollowed,
        Self::FragmentEvicted,
        Self::IcmpSteered,
        Self::MssClamped,
        Self::Ipv4Options,
        Self::Ipv6Extensions,
        Self::QuicRouted,
        Self::QuicUnknown,
        Self::Fenced,
    ];

    /// The name under which it is counted.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::FlowRecorded => "flow-recorded",
            Self::FlowEvictedClosing => "flow-evicted-closing",
            Self::FlowEvictedNew => "flow-evicted-new",
            Self::FlowEvictedUnconfirmed => "flow-evicted-unconfirmed",
            Self::FlowEvictedIdle => "flow-evicted-idle",
            Self::FlowUnrecorded => "flow-unrecorded",
            Self::NatRecorded => "nat-recorded",
            Self::NatEvicted => "nat-evicted",
            Self::FragmentRecorded => "fragment-recorded",
            Self::FragmentFollowed => "fragment-followed",
            Self::FragmentEvicted => "fragment-evicted",
            Self::IcmpSteered => "icmp-steered",
            Self::MssClamped => "mss-clamped",
            Self::Ipv4Options => "ipv4-options",
            Self::Ipv6Extensions => "ipv6-extensions",
            Self::QuicRouted => "quic-routed",
            Self::QuicUnknown => "quic-unknown",
            Self::Fenced => "fence-set",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_follow_the_list_and_names_are_unique() {
        for (number, event) in Event::ALL.into_iter().enumerate() {
            assert_eq!(event as usize, number);
            assert!(
                Event::ALL[..number]
                    .iter()
                    .all(|other| other.name() != event.name())
            );
        }
    }
}
