//! The adverts of a virtual router as bytes.
//!
//! * [`v3`]: VRRPv3 (RFC 9568, RFC 5798), IPv4 and IPv6.
//! * [`v2`]: VRRPv2 (RFC 3768), IPv4, with the authentication of RFC 2338.
//! * [`ah`]: the authentication header that packets of VRRPv2 may have in front (RFC 2402).
//!
//! [`Advert::encode`] and [`Advert::decode`] choose by a virtual router's [`Wire`]. What cannot be
//! read is an [`AdvertError`] that says what to change; nothing that arrives makes them allocate
//! more than the 255 addresses that an advert can hold.

pub mod ah;
mod sum;
#[cfg(test)]
mod tests;
pub mod v2;
pub mod v3;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use crate::{
    api::human_duration,
    config::{Authentication, Version, Wire},
};

/// The IP protocol number of VRRP.
pub const PROTOCOL: u8 = 112;
/// The TTL or hop limit that a multicast advert is sent and accepted with (RFC 9568 5.1.1.3,
/// 5.1.2.3).
pub const TTL: u8 = 255;
/// The IPv4 group of adverts.
pub const GROUP_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);
/// The IPv6 group of adverts.
pub const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12);
/// The longest interval the 12-bit field of VRRPv3 holds, in centiseconds.
pub const MAX_INTERVAL_CS: u16 = 0x0fff;
/// The most addresses the count can tell.
pub const MAX_ADDRESSES: usize = 255;

const TYPE_ADVERT: u8 = 1;

/// An advert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advert {
    /// VRID, 1 to 255.
    pub vrid: u8,
    /// Priority; 0: the master resigns.
    pub priority: u8,
    /// The time between adverts in centiseconds: 1 to 4095, or whole seconds to 255 in VRRPv2.
    pub interval_cs: u16,
    /// The virtual addresses, of one family.
    pub addresses: Vec<IpAddr>,
}

/// Why a packet is not an advert for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AdvertError {
    /// Shorter than the fixed part.
    #[error("{0} bytes are too short for a VRRP advert: look for what truncates packets")]
    Truncated(usize),
    /// Another version than the virtual router's.
    #[error(
        "VRRP version {found}, here it is {wanted}: set `version = {found}` here, or the sender to \
         version {wanted} (keepalived: `vrrp_version {wanted}`)"
    )]
    Version {
        /// What it is.
        found: u8,
        /// What it should be.
        wanted: Version,
    },
    /// Not an advert.
    #[error("VRRP type {0} is unknown: look for what else sends IP protocol 112 here")]
    Type(u8),
    /// VRID 0.
    #[error("VRID 0 is reserved: give the sender's virtual router a VRID from 1 to 255")]
    Vrid,
    /// Interval 0.
    #[error("an advert interval of 0: set the sender's interval to what it is here")]
    Interval,
    /// The length does not fit the count of addresses, or there is no address.
    #[error(
        "the addresses take {found} bytes, which is not what {count} of them need: look for what \
         truncates packets, or for a sender with another version or family"
    )]
    AddressCount {
        /// What the count says.
        count: u8,
        /// How many bytes there are.
        found: usize,
    },
    /// The checksum is wrong.
    #[error("the checksum is wrong: the packet was damaged, look at the network cards on its way")]
    Checksum,
    /// Another authentication than the virtual router's.
    #[error(
        "it has {}, here it is {}: make `authentication` the same on all nodes (keepalived: \
         `auth_type`)",
        Authentication::word(*.found),
        Authentication::word(*.wanted)
    )]
    AuthenticationType {
        /// What it has.
        found: u8,
        /// What it should have.
        wanted: u8,
    },
    /// The wrong password.
    #[error(
        "the password is wrong: make `password` the same on all nodes (keepalived: `auth_pass`, of \
         which 8 bytes count)"
    )]
    Password,
}

/// What a peer's adverts are refused for although they are sound: the set-up of the two differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mismatch {
    /// It sends another version of VRRP.
    Version(u8),
    /// It has an authentication of this number in VRRPv2.
    Authentication(u8),
    /// It has the right authentication, with another password.
    Password,
    /// It sends at another interval, which VRRPv2 refuses (RFC 3768 section 7.1).
    Interval(Duration),
}

impl Mismatch {
    /// What to change about it, where `wire` and `interval` are this node's.
    #[must_use]
    pub fn advice(self, source: IpAddr, wire: &Wire, interval: Duration) -> String {
        let ours = Authentication::word(wire.authentication.number());
        match self {
            Self::Version(version) => format!(
                "{source} sends VRRP version {version}, this node {}, and neither hears the other: \
                 make `version` the same on all nodes (keepalived: `vrrp_version`)",
                wire.version
            ),
            Self::Authentication(found) => format!(
                "{source} sends {}, this node {ours}, and neither hears the other: make \
                 `authentication` the same on all nodes (keepalived: `auth_type`)",
                Authentication::word(found)
            ),
            Self::Password => format!(
                "{source} has another password, so neither hears the other: make `password` the \
                 same on all nodes (keepalived: `auth_pass`, of which 8 bytes count)"
            ),
            Self::Interval(found) => format!(
                "{source} sends an advert every {}, this node every {}, which VRRP version 2 \
                 refuses: make `advert_interval` the same on all nodes (keepalived: `advert_int`)",
                human_duration(found),
                human_duration(interval)
            ),
        }
    }
}

impl Advert {
    /// The bytes after the IP header, or after the authentication header where there is one.
    /// Addresses of another family than `source`'s and those beyond [`MAX_ADDRESSES`] are left
    /// out; an interval that is too long for the version is cut to what fits.
    #[must_use]
    pub fn encode(&self, wire: &Wire, source: IpAddr, destination: IpAddr) -> Vec<u8> {
        match wire.version {
            Version::V2 => v2::encode(self, &wire.authentication),
            Version::V3 => v3::encode(self, wire.checksum, source, destination),
        }
    }

    /// Reads the bytes after those headers, as they came from `source` to `destination`.
    ///
    /// # Errors
    ///
    /// What is wrong with them; the caller counts and drops.
    pub fn decode(
        message: &[u8],
        wire: &Wire,
        source: IpAddr,
        destination: IpAddr,
    ) -> Result<Self, AdvertError> {
        // In every version the first byte is version and type: a neighbour's other version is named
        // as that, and not as what it would be if misread.
        match message.first().map(|first| first >> 4) {
            Some(found) if found != wire.version.number() => Err(AdvertError::Version {
                found,
                wanted: wire.version,
            }),
            None => Err(AdvertError::Truncated(0)),
            Some(_) => match wire.version {
                Version::V2 => v2::decode(message, &wire.authentication),
                Version::V3 => v3::decode(message, source, destination),
            },
        }
    }

    /// The addresses of one family, as many as a packet counts.
    fn listed(&self, ipv6: bool) -> Vec<IpAddr> {
        let of_family = self
            .addresses
            .iter()
            .copied()
            .filter(|address| address.is_ipv6() == ipv6);
        of_family.take(MAX_ADDRESSES).collect()
    }
}

/// The addresses in `bytes`, `size` bytes each.
fn addresses(bytes: &[u8], size: usize) -> Vec<IpAddr> {
    let address = |bytes: &[u8]| match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        _ => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
    };
    bytes.chunks_exact(size).filter_map(address).collect()
}

fn count(addresses: &[IpAddr]) -> u8 {
    u8::try_from(addresses.len()).unwrap_or(u8::MAX)
}
