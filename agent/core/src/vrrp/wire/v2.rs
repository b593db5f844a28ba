//! The VRRPv2 advert as bytes (RFC 3768 section 5.3), IPv4 only.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! | version 2 | 1 |     VRID      |   priority    |  address count  |
//! +---------------+---------------+---------------+-----------------+
//! |authentication | interval in s |            checksum             |
//! +---------------+---------------+---------------------------------+
//! | addresses, 4 bytes each                                         |
//! +-----------------------------------------------------------------+
//! | the password, 8 bytes; zeros but for authentication 1           |
//! |                                                                 |
//! +-----------------------------------------------------------------+
//! ```
//!
//! RFC 3768 took the authentication of RFC 2338 section 5.3.6 away again, but keepalived and many
//! routers still have it: 0 none, 1 a password, 2 an authentication header in front ([`super::ah`]).
//! The checksum covers all of it, without a pseudo-header.

use std::net::IpAddr;

use subtle::ConstantTimeEq;

use super::{
    Advert, AdvertError, TYPE_ADVERT, addresses, count,
    sum::{fold, sum},
};
use crate::config::{Authentication, Password, Version};

const HEADER: usize = 8;
const ADDRESS: usize = 4;
/// Hundredths of a second in the unit of the interval.
const SECOND_CS: u16 = 100;

/// See [`Advert::encode`].
#[must_use]
pub fn encode(advert: &Advert, authentication: &Authentication) -> Vec<u8> {
    let addresses = advert.listed(false);
    let seconds = u8::try_from(advert.interval_cs / SECOND_CS).unwrap_or(u8::MAX);
    let mut bytes = vec![
        Version::V2.number() << 4 | TYPE_ADVERT,
        advert.vrid,
        advert.priority,
        count(&addresses),
        authentication.number(),
        seconds,
        0,
        0,
    ];
    for address in addresses {
        if let IpAddr::V4(v4) = address {
            bytes.extend(v4.octets());
        }
    }
    bytes.extend(match authentication {
        Authentication::Pass(password) => *password.bytes(),
        Authentication::None | Authentication::Ah(_) => [0; Password::MAX],
    });
    let sum = !fold(sum(&bytes));
    bytes[6..HEADER].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// See [`Advert::decode`]. Whether an authentication header was in front, and was right, is the
/// caller's to know: here it only must be what the advert says.
///
/// # Errors
///
/// What is wrong with it.
pub fn decode(message: &[u8], authentication: &Authentication) -> Result<Advert, AdvertError> {
    let Some((header, body)) = message.split_first_chunk::<HEADER>() else {
        return Err(AdvertError::Truncated(message.len()));
    };
    let [first, vrid, priority, count, kind, seconds, ..] = *header;
    if first >> 4 != Version::V2.number() {
        return Err(AdvertError::Version {
            found: first >> 4,
            wanted: Version::V2,
        });
    }
    if first & 0xf != TYPE_ADVERT {
        return Err(AdvertError::Type(first & 0xf));
    }
    if vrid == 0 {
        return Err(AdvertError::Vrid);
    }
    let Some((listed, password)) = body.split_last_chunk::<{ Password::MAX }>() else {
        return Err(AdvertError::Truncated(message.len()));
    };
    if count == 0 || listed.len() != usize::from(count) * ADDRESS {
        return Err(AdvertError::AddressCount {
            count,
            found: listed.len(),
        });
    }
    // Before the password: a damaged packet is not a wrong password.
    if fold(sum(message)) != u16::MAX {
        return Err(AdvertError::Checksum);
    }
    if kind != authentication.number() {
        return Err(AdvertError::AuthenticationType {
            found: kind,
            wanted: authentication.number(),
        });
    }
    if let Authentication::Pass(wanted) = authentication
        && !bool::from(wanted.bytes().ct_eq(password))
    {
        return Err(AdvertError::Password);
    }
    if seconds == 0 {
        return Err(AdvertError::Interval);
    }
    Ok(Advert {
        vrid,
        priority,
        interval_cs: u16::from(seconds) * SECOND_CS,
        addresses: addresses(listed, ADDRESS),
    })
}
