//! How a virtual router speaks on the wire.

use std::fmt;

/// How adverts are sent, and which are accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wire {
    /// The protocol's version. [`Version::V2`] is for IPv4 only.
    pub version: Version,
    /// How adverts prove where they come from; anything but [`Authentication::None`] is for
    /// [`Version::V2`] only.
    pub authentication: Authentication,
    /// What the checksum of IPv4 adverts of [`Version::V3`] covers when they are sent. Both are
    /// understood.
    pub checksum: Checksum,
    /// The TTL or hop limit of unicast adverts, 1 to 255; multicast ones always have 255.
    pub ttl: u8,
    /// The least TTL or hop limit with which a unicast advert is accepted, 1 to 255.
    pub min_ttl: u8,
}

impl Default for Wire {
    /// VRRPv3 that stays on its segment, as every peer in the field understands it.
    fn default() -> Self {
        Self {
            version: Version::V3,
            authentication: Authentication::None,
            checksum: Checksum::Rfc5798,
            ttl: 255,
            min_ttl: 255,
        }
    }
}

/// A version of VRRP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// RFC 3768; its authentication is RFC 2338's.
    V2,
    /// RFC 9568 and RFC 5798.
    V3,
}

impl Version {
    /// As it stands in a packet.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::V2 => 2,
            Self::V3 => 3,
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.number(), f)
    }
}

/// What the checksum of an IPv4 advert covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksum {
    /// The message and a pseudo-header of the addresses (RFC 5798 section 5.2.8).
    Rfc5798,
    /// The message alone (RFC 9568 section 5.2.8).
    Rfc9568,
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Rfc5798 => "rfc5798",
            Self::Rfc9568 => "rfc9568",
        })
    }
}

/// How adverts of VRRPv2 prove where they come from (RFC 2338 section 5.3.6).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authentication {
    /// Not at all.
    None,
    /// By a password that everybody on the segment can read: it keeps out mistakes, not attackers.
    Pass(Password),
    /// By an authentication header in front of each (RFC 2402), with a keyed hash over the packet
    /// and a sequence number.
    Ah(Password),
}

impl Authentication {
    /// Its number in a packet.
    #[must_use]
    pub const fn number(&self) -> u8 {
        match self {
            Self::None => 0,
            Self::Pass(_) => 1,
            Self::Ah(_) => 2,
        }
    }

    /// What the authentication of this number is called.
    #[must_use]
    pub const fn word(number: u8) -> &'static str {
        match number {
            0 => "no authentication",
            1 => "authentication \"pass\"",
            2 => "authentication \"ah\"",
            _ => "an unknown authentication",
        }
    }
}

/// The kind; never the password.
impl fmt::Display for Authentication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::None => "none",
            Self::Pass(_) => "pass",
            Self::Ah(_) => "ah",
        })
    }
}

/// A password of at most [`Password::MAX`] bytes, filled up with zeros. No log shows it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Password([u8; Self::MAX]);

impl Password {
    /// What a packet has room for.
    pub const MAX: usize = 8;

    /// `text`, if it has 1 to [`Password::MAX`] bytes.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let mut bytes = [0; Self::MAX];
        bytes
            .get_mut(..text.len())
            .filter(|room| !room.is_empty())?
            .copy_from_slice(text.as_bytes());
        Some(Self(bytes))
    }

    /// As it stands in a packet, and as it keys the hash.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; Self::MAX] {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_fit_a_packet_and_stay_out_of_logs() {
        assert_eq!(Password::new("abc").unwrap().bytes(), b"abc\0\0\0\0\0");
        assert!(Password::new("s3cret12").is_some());
        assert!(Password::new("").is_none() && Password::new("s3cret123").is_none());
        let shown = format!(
            "{:?}",
            Authentication::Ah(Password::new("s3cret12").unwrap())
        );
        assert!(!shown.contains("s3cret"), "{shown}");
    }
}
