//! The VRRPv3 advert as bytes (RFC 9568 section 5).
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! | version 3 | 1 |     VRID      |   priority    |  address count  |
//! +---------------+---------------+---------------+-----------------+
//! | reserved | interval in 10 ms  |            checksum             |
//! +---------------------------------------------------------------+
//! | addresses, 4 or 16 bytes each                                  |
//! ```
//!
//! RFC 9568 computes the IPv4 checksum over these bytes alone; RFC 5798 put a pseudo-header before
//! them, and keepalived drops what lacks it. So IPv4 adverts are sent with the one that is
//! configured, and both are understood. IPv6 always has a pseudo-header (RFC 8200 8.1).

use std::net::IpAddr;

use super::{
    Advert, AdvertError, GROUP_V4, MAX_INTERVAL_CS, TYPE_ADVERT, addresses, count,
    sum::{fold, pseudo_header, sum},
};
use crate::config::{Checksum, Version};

const HEADER: usize = 8;

/// See [`Advert::encode`].
#[must_use]
pub fn encode(advert: &Advert, checksum: Checksum, source: IpAddr, destination: IpAddr) -> Vec<u8> {
    let addresses = advert.listed(source.is_ipv6());
    let first = Version::V3.number() << 4 | TYPE_ADVERT;
    let mut bytes = vec![first, advert.vrid, advert.priority, count(&addresses)];
    bytes.extend(advert.interval_cs.min(MAX_INTERVAL_CS).to_be_bytes());
    bytes.extend([0, 0]);
    for address in addresses {
        match address {
            IpAddr::V4(v4) => bytes.extend(v4.octets()),
            IpAddr::V6(v6) => bytes.extend(v6.octets()),
        }
    }
    let pseudo = match checksum {
        Checksum::Rfc9568 if source.is_ipv4() => 0,
        Checksum::Rfc5798 | Checksum::Rfc9568 => pseudo_header(source, destination, bytes.len()),
    };
    let sum = !fold(pseudo + sum(&bytes));
    bytes[6..HEADER].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// See [`Advert::decode`].
///
/// # Errors
///
/// What is wrong with it.
pub fn decode(message: &[u8], source: IpAddr, destination: IpAddr) -> Result<Advert, AdvertError> {
    let Some((header, body)) = message.split_first_chunk::<HEADER>() else {
        return Err(AdvertError::Truncated(message.len()));
    };
    let [first, vrid, priority, count, high, low, ..] = *header;
    if first >> 4 != Version::V3.number() {
        return Err(AdvertError::Version {
            found: first >> 4,
            wanted: Version::V3,
        });
    }
    if first & 0xf != TYPE_ADVERT {
        return Err(AdvertError::Type(first & 0xf));
    }
    if vrid == 0 {
        return Err(AdvertError::Vrid);
    }
    let interval_cs = u16::from_be_bytes([high, low]) & MAX_INTERVAL_CS;
    if interval_cs == 0 {
        return Err(AdvertError::Interval);
    }
    let size = if source.is_ipv6() { 16 } else { 4 };
    if count == 0 || body.len() != usize::from(count) * size {
        return Err(AdvertError::AddressCount {
            count,
            found: body.len(),
        });
    }
    if !checksum_holds(message, source, destination) {
        return Err(AdvertError::Checksum);
    }
    Ok(Advert {
        vrid,
        priority,
        interval_cs,
        addresses: addresses(body, size),
    })
}

fn checksum_holds(message: &[u8], source: IpAddr, destination: IpAddr) -> bool {
    let total = sum(message);
    let holds = |pseudo: u32| fold(pseudo + total) == u16::MAX;
    holds(pseudo_header(source, destination, message.len()))
        || source.is_ipv4()
            && (holds(0)
                // keepalived can be told to compute a unicast advert's sum as if it were multicast.
                || holds(pseudo_header(source, GROUP_V4.into(), message.len())))
}
