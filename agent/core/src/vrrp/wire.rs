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
//! RFC 9568 computes the IPv4 checksum over these bytes alone; keepalived puts a pseudo-header
//! before them and drops what lacks it. So IPv4 adverts are sent with the pseudo-header, which
//! every peer in the field accepts, and both are understood. IPv6 always has one (RFC 8200 8.1).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The IP protocol number of VRRP.
pub const PROTOCOL: u8 = 112;
/// The TTL or hop limit that an advert is sent and accepted with (RFC 9568 5.1.1.3, 5.1.2.3).
pub const TTL: u8 = 255;
/// The IPv4 group of adverts.
pub const GROUP_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);
/// The IPv6 group of adverts.
pub const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12);
/// The longest interval the 12-bit field holds, in centiseconds.
pub const MAX_INTERVAL_CS: u16 = 0x0fff;
/// The most addresses the count can tell.
pub const MAX_ADDRESSES: usize = 255;

const HEADER: usize = 8;
const VERSION: u8 = 3;
const TYPE_ADVERT: u8 = 1;

/// An advert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advert {
    /// VRID, 1 to 255.
    pub vrid: u8,
    /// Priority; 0: the master resigns.
    pub priority: u8,
    /// The time between adverts in centiseconds, 1 to 4095.
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
    /// Not version 3.
    #[error("VRRP version {0}: set the peer to version 3 (keepalived: `vrrp_version 3`)")]
    Version(u8),
    /// Not an advert.
    #[error("VRRP type {0} is unknown: look for what else sends IP protocol 112 here")]
    Type(u8),
    /// VRID 0.
    #[error("VRID 0 is reserved: give the sender's virtual router a VRID from 1 to 255")]
    Vrid,
    /// Interval 0.
    #[error("an advert interval of 0: set the sender's interval to 10 ms or more")]
    Interval,
    /// The length does not fit the count of addresses, or there is no address.
    #[error(
        "{count} addresses need {} bytes, the advert has {found}: look for what truncates packets",
        expected(*.count)
    )]
    AddressCount {
        /// What the count says.
        count: u8,
        /// How many bytes there are.
        found: usize,
    },
    /// The checksum is wrong.
    #[error("the checksum is wrong: the packet was damaged, or is not from a VRRPv3 peer")]
    Checksum,
}

impl Advert {
    /// The bytes after the IP header. Addresses of another family than `source`'s and those beyond
    /// [`MAX_ADDRESSES`] are left out; an interval beyond [`MAX_INTERVAL_CS`] is cut to it.
    #[must_use]
    pub fn encode(&self, source: IpAddr, destination: IpAddr) -> Vec<u8> {
        let addresses: Vec<IpAddr> = self
            .addresses
            .iter()
            .copied()
            .filter(|address| address.is_ipv6() == source.is_ipv6())
            .take(MAX_ADDRESSES)
            .collect();
        let count = u8::try_from(addresses.len()).unwrap_or(u8::MAX);
        let mut bytes = vec![VERSION << 4 | TYPE_ADVERT, self.vrid, self.priority, count];
        bytes.extend(self.interval_cs.min(MAX_INTERVAL_CS).to_be_bytes());
        bytes.extend([0, 0]);
        for address in addresses {
            match address {
                IpAddr::V4(v4) => bytes.extend(v4.octets()),
                IpAddr::V6(v6) => bytes.extend(v6.octets()),
            }
        }
        let sum = !fold(pseudo_header(source, destination, bytes.len()) + sum(&bytes));
        bytes[6..HEADER].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    /// Reads the bytes after the IP header, as they came from `source` to `destination`.
    ///
    /// # Errors
    ///
    /// What is wrong with them; the caller counts and drops.
    pub fn decode(
        payload: &[u8],
        source: IpAddr,
        destination: IpAddr,
    ) -> Result<Self, AdvertError> {
        let Some((header, body)) = payload.split_first_chunk::<HEADER>() else {
            return Err(AdvertError::Truncated(payload.len()));
        };
        let [
            version_type,
            vrid,
            priority,
            count,
            interval_high,
            interval_low,
            ..,
        ] = *header;
        if version_type >> 4 != VERSION {
            return Err(AdvertError::Version(version_type >> 4));
        }
        if version_type & 0xf != TYPE_ADVERT {
            return Err(AdvertError::Type(version_type & 0xf));
        }
        if vrid == 0 {
            return Err(AdvertError::Vrid);
        }
        let interval_cs = u16::from_be_bytes([interval_high, interval_low]) & MAX_INTERVAL_CS;
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
        if !checksum_holds(payload, source, destination) {
            return Err(AdvertError::Checksum);
        }
        let addresses = body.chunks_exact(size).filter_map(address).collect();
        Ok(Self {
            vrid,
            priority,
            interval_cs,
            addresses,
        })
    }
}

/// The bytes that `count` addresses take, for the message.
fn expected(count: u8) -> String {
    match count {
        0 => "at least 4".to_owned(),
        _ => format!(
            "{} (IPv4) or {} (IPv6)",
            usize::from(count) * 4,
            usize::from(count) * 16
        ),
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        _ => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
    }
}

fn checksum_holds(payload: &[u8], source: IpAddr, destination: IpAddr) -> bool {
    let message = sum(payload);
    let holds = |pseudo: u32| fold(pseudo + message) == u16::MAX;
    holds(pseudo_header(source, destination, payload.len()))
        || source.is_ipv4()
            && (holds(0)
                // keepalived can be told to compute a unicast advert's sum as if it were multicast.
                || holds(pseudo_header(source, GROUP_V4.into(), payload.len())))
}

/// The sum of the pseudo-header: the same terms in both families, only wider (RFC 8200 8.1).
fn pseudo_header(source: IpAddr, destination: IpAddr, length: usize) -> u32 {
    let octets = |address: IpAddr| match address {
        IpAddr::V4(v4) => sum(&v4.octets()),
        IpAddr::V6(v6) => sum(&v6.octets()),
    };
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    octets(source) + octets(destination) + u32::from(PROTOCOL) + (length >> 16) + (length & 0xffff)
}

/// The sum of the 16-bit words; no payload an IP packet can hold overflows it.
fn sum(bytes: &[u8]) -> u32 {
    bytes
        .chunks(2)
        .map(|pair| match *pair {
            [high, low] => u32::from(u16::from_be_bytes([high, low])),
            [high] => u32::from(high) << 8,
            _ => 0,
        })
        .fold(0, u32::wrapping_add)
}

/// One's complement: carries come back in at the bottom.
fn fold(sum: u32) -> u16 {
    let once = (sum >> 16) + (sum & 0xffff);
    let twice = (once >> 16) + (once & 0xffff);
    (twice & 0xffff) as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SENDER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 1));
    const GROUP: IpAddr = IpAddr::V4(GROUP_V4);
    /// As keepalived 2.2.7 sends it.
    const GOLDEN_V4: [u8; 12] = [
        0x31, 0x33, 0x6e, 0x01, 0x00, 0x0a, 0x6b, 0x33, 0x0a, 0x4d, 0x00, 0x64,
    ];

    fn v4() -> Advert {
        Advert {
            vrid: 51,
            priority: 110,
            interval_cs: 10,
            addresses: vec![Ipv4Addr::new(10, 77, 0, 100).into()],
        }
    }

    fn v6() -> Advert {
        let addresses = ["fe80::64", "fd77::64"]
            .map(|text| text.parse().unwrap())
            .to_vec();
        Advert { addresses, ..v4() }
    }

    #[test]
    fn ipv4_is_what_keepalived_sends() {
        assert_eq!(v4().encode(SENDER, GROUP), GOLDEN_V4);
        assert_eq!(Advert::decode(&GOLDEN_V4, SENDER, GROUP), Ok(v4()));
    }

    #[test]
    fn ipv4_checksum_without_pseudo_header_is_understood() {
        let mut bytes = GOLDEN_V4;
        // 0x3133 + 0x6e01 + 0x000a + 0x0a4d + 0x0064 = 0xa9ef.
        bytes[6..8].copy_from_slice(&(!0xa9ef_u16).to_be_bytes());
        assert_eq!(Advert::decode(&bytes, SENDER, GROUP), Ok(v4()));
        let other: IpAddr = "10.77.0.9".parse().unwrap();
        assert_eq!(Advert::decode(&bytes, other, SENDER), Ok(v4()));
    }

    #[test]
    fn ipv4_unicast_may_be_summed_as_if_to_the_group() {
        let unicast: IpAddr = "10.77.0.2".parse().unwrap();
        assert_eq!(
            Advert::decode(&v4().encode(SENDER, unicast), SENDER, unicast),
            Ok(v4())
        );
        assert_eq!(Advert::decode(&GOLDEN_V4, SENDER, unicast), Ok(v4()));
        let stranger: IpAddr = "10.77.0.3".parse().unwrap();
        assert_eq!(
            Advert::decode(&GOLDEN_V4, stranger, GROUP),
            Err(AdvertError::Checksum)
        );
    }

    #[test]
    fn ipv6_has_the_header_keepalived_sends_and_needs_the_pseudo_header() {
        let source: IpAddr = "fe80::1".parse().unwrap();
        let bytes = v6().encode(source, GROUP_V6.into());
        assert_eq!(bytes[..6], [0x31, 0x33, 0x6e, 0x02, 0x00, 0x0a]);
        assert_eq!(Advert::decode(&bytes, source, GROUP_V6.into()), Ok(v6()));
        // By hand: header 0x9f3f, addresses fe80+64+fd77+64 = 0x1fcbf, pseudo-header
        // fe80+1+ff02+12+70+28 = 0x1fe2d; together 0x49a2b, folded 0x9a2f.
        assert_eq!(bytes[6..8], (!0x9a2f_u16).to_be_bytes());
        let mut bare = bytes;
        bare[6..8].copy_from_slice(&[0, 0]);
        let sum = !fold(sum(&bare));
        bare[6..8].copy_from_slice(&sum.to_be_bytes());
        let decoded = Advert::decode(&bare, source, GROUP_V6.into());
        assert_eq!(decoded, Err(AdvertError::Checksum));
    }

    #[test]
    fn each_fault_has_its_error() {
        let broken = |index: usize, value: u8| {
            let mut bytes = GOLDEN_V4;
            bytes[index] = value;
            Advert::decode(&bytes, SENDER, GROUP).unwrap_err()
        };
        assert_eq!(broken(0, 0x21), AdvertError::Version(2));
        assert_eq!(broken(0, 0x32), AdvertError::Type(2));
        assert_eq!(broken(1, 0), AdvertError::Vrid);
        assert_eq!(broken(5, 0), AdvertError::Interval);
        assert_eq!(
            broken(3, 2),
            AdvertError::AddressCount { count: 2, found: 4 }
        );
        assert_eq!(
            broken(3, 0),
            AdvertError::AddressCount { count: 0, found: 4 }
        );
        assert_eq!(broken(2, 111), AdvertError::Checksum);
        for length in 0..GOLDEN_V4.len() {
            let error = Advert::decode(&GOLDEN_V4[..length], SENDER, GROUP).unwrap_err();
            let truncated = AdvertError::Truncated(length);
            let expected = match length {
                0..8 => truncated,
                _ => AdvertError::AddressCount {
                    count: 1,
                    found: length - 8,
                },
            };
            assert_eq!(error, expected);
        }
    }

    fn addresses_v4() -> impl Strategy<Value = Vec<IpAddr>> {
        prop::collection::vec(any::<Ipv4Addr>().prop_map(IpAddr::from), 1..=MAX_ADDRESSES)
    }

    fn addresses_v6() -> impl Strategy<Value = Vec<IpAddr>> {
        prop::collection::vec(any::<Ipv6Addr>().prop_map(IpAddr::from), 1..=MAX_ADDRESSES)
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..1200),
            source: IpAddr,
            destination: IpAddr,
        ) {
            if let Ok(advert) = Advert::decode(&bytes, source, destination) {
                prop_assert_ne!(advert.vrid, 0);
                prop_assert_ne!(advert.interval_cs, 0);
            }
        }

        #[test]
        fn decode_undoes_encode(
            vrid in 1..=u8::MAX,
            priority: u8,
            interval_cs in 1..=MAX_INTERVAL_CS,
            v4 in addresses_v4(),
            v6 in addresses_v6(),
            from_v4: Ipv4Addr, to_v4: Ipv4Addr,
            from_v6: Ipv6Addr, to_v6: Ipv6Addr,
        ) {
            for (addresses, from, to) in
                [(v4, from_v4.into(), to_v4.into()), (v6, IpAddr::from(from_v6), IpAddr::from(to_v6))]
            {
                let advert = Advert { vrid, priority, interval_cs, addresses };
                let bytes = advert.encode(from, to);
                prop_assert_eq!(Advert::decode(&bytes, from, to), Ok(advert));
            }
        }

        #[test]
        fn a_flipped_bit_is_noticed(bit in 0..GOLDEN_V4.len() * 8) {
            let mut bytes = GOLDEN_V4;
            bytes[bit / 8] ^= 1 << (bit % 8);
            // The four reserved bits are covered by the sum too.
            prop_assert!(Advert::decode(&bytes, SENDER, GROUP).is_err());
        }
    }
}
