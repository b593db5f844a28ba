//! The authentication header in front of an advert of VRRPv2 (RFC 2402, as RFC 2338 section 5.3.6.3
//! uses it and keepalived sends it).
//!
//! ```text
//!  IPv4 header, protocol 51
//! +---------------+---------------+-------------------------------+
//! | protocol 112  |   length 4    |           reserved            |
//! +---------------+---------------+-------------------------------+
//! | security parameters index: the source address                 |
//! +---------------------------------------------------------------+
//! | sequence number                                               |
//! +---------------------------------------------------------------+
//! | integrity check value: 12 bytes of HMAC-MD5 (RFC 2403)        |
//! |                                                               |
//! |                                                               |
//! +---------------------------------------------------------------+
//!  the advert
//! ```
//!
//! The check value covers the whole packet with itself and what changes on the way taken as zero:
//! type of service, flags and fragment offset, header checksum, and of unicast the TTL. RFC 2402
//! takes the TTL as zero always; keepalived does not for multicast, which no router forwards.
//!
//! All nodes of a virtual router share the key, so [`Sequences`] does what a security association
//! would: no sender's number is taken twice, and the next to send is above every number heard,
//! because keepalived keeps one number for all senders.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    ops::Range,
};

use hmac::{Hmac, KeyInit, Mac};
use md5::Md5;

use super::PROTOCOL as VRRP;
use crate::config::Password;

/// The IP protocol number of the authentication header.
pub const PROTOCOL: u8 = 51;
/// The length of the header.
pub const LENGTH: usize = 24;
/// The most senders whose numbers are remembered.
pub const MAX_SENDERS: usize = 32;

const ICV: usize = 12;
const IPV4: usize = 20;
/// Offsets in the IPv4 header.
const TOS: usize = 1;
const FRAGMENT: Range<usize> = 6..8;
const TTL: usize = 8;
const CHECKSUM: Range<usize> = 10..12;
/// Where the check value is in the authentication header.
const CHECK_VALUE: Range<usize> = LENGTH - ICV..LENGTH;

/// The part of the IPv4 header that is not the same in every packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Who sends.
    pub source: Ipv4Addr,
    /// To whom.
    pub destination: Ipv4Addr,
    /// The type of service.
    pub tos: u8,
    /// The TTL.
    pub ttl: u8,
}

/// What a packet with the right check value says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened<'a> {
    /// Its sequence number.
    pub sequence: u32,
    /// The advert.
    pub message: &'a [u8],
}

/// Why a packet of IP protocol 51 is not an authenticated advert.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AhError {
    /// It is too short.
    #[error(
        "{0} bytes are too short for IPv4 and authentication headers: look for what truncates \
         packets"
    )]
    Truncated(usize),
    /// The header is not one of an advert.
    #[error(
        "its authentication header is not one of VRRP ({what} {found}, not {wanted}): look for what \
         else sends IP protocol 51 here"
    )]
    Malformed {
        /// Which field.
        what: &'static str,
        /// What it is.
        found: u8,
        /// What it should be.
        wanted: u8,
    },
    /// The index is not the source address.
    #[error(
        "its security parameters index {0} is not its source address: look for a sender that is no \
         VRRP router, or for address translation on the way"
    )]
    Index(Ipv4Addr),
    /// The check value is wrong.
    #[error(
        "the authentication header's check value is wrong: make `password` the same on all nodes \
         (keepalived: `auth_pass`, of which 8 bytes count)"
    )]
    CheckValue,
    /// The sequence number was heard before.
    #[error(
        "sequence number {found} from {sender} was heard already ({last} was the last): look for a \
         loop in the network, or for somebody who replays packets"
    )]
    Replayed {
        /// Who sent it.
        sender: Ipv4Addr,
        /// Its number.
        found: u32,
        /// The highest before.
        last: u32,
    },
}

/// The whole IPv4 packet: header, authentication header, advert. The kernel fills in the header's
/// checksum.
#[must_use]
pub fn seal(password: &Password, header: Header, sequence: u32, message: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; IPV4 + LENGTH];
    packet.extend(message);
    let length = u16::try_from(packet.len()).unwrap_or(u16::MAX);
    packet[0] = 0x45;
    packet[TOS] = header.tos;
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    // Not zero: then the kernel would put in a number of its own, which the check value covers.
    let id = (sequence as u16).max(1);
    packet[4..6].copy_from_slice(&id.to_be_bytes());
    packet[TTL] = header.ttl;
    packet[9] = PROTOCOL;
    packet[12..16].copy_from_slice(&header.source.octets());
    packet[16..20].copy_from_slice(&header.destination.octets());
    let ah = &mut packet[IPV4..];
    ah[0] = VRRP;
    ah[1] = PAYLOAD_LENGTH;
    ah[4..8].copy_from_slice(&header.source.octets());
    ah[8..12].copy_from_slice(&sequence.to_be_bytes());
    let value = check(password, &packet, IPV4)
        .map(|mac| mac.finalize().into_bytes())
        .unwrap_or_default();
    packet[IPV4..][CHECK_VALUE].copy_from_slice(&value[..ICV]);
    packet
}

/// The advert in a whole IPv4 packet. Whether its sequence number is new is [`Sequences`]' to say.
///
/// # Errors
///
/// What is wrong with it.
pub fn open<'a>(password: &Password, packet: &'a [u8]) -> Result<Opened<'a>, AhError> {
    let truncated = AhError::Truncated(packet.len());
    let header_length = usize::from(packet.first().ok_or(truncated)? & 0xf) * 4;
    let (header, rest) = packet.split_at_checked(header_length).ok_or(truncated)?;
    let (fixed, (ah, message)) = header
        .first_chunk::<IPV4>()
        .zip(rest.split_first_chunk::<LENGTH>())
        .ok_or(truncated)?;
    for (what, found, wanted) in [
        ("next header", ah[0], VRRP),
        ("length", ah[1], PAYLOAD_LENGTH),
    ] {
        if found != wanted {
            return Err(AhError::Malformed {
                what,
                found,
                wanted,
            });
        }
    }
    let [.., s0, s1, s2, s3, _, _, _, _] = *fixed;
    let [_, _, _, _, i0, i1, i2, i3, q0, q1, q2, q3, ..] = *ah;
    if [s0, s1, s2, s3] != [i0, i1, i2, i3] {
        return Err(AhError::Index(Ipv4Addr::new(i0, i1, i2, i3)));
    }
    let right = check(password, packet, header_length)
        .is_some_and(|mac| mac.verify_truncated_left(&ah[CHECK_VALUE]).is_ok());
    if !right {
        return Err(AhError::CheckValue);
    }
    Ok(Opened {
        sequence: u32::from_be_bytes([q0, q1, q2, q3]),
        message,
    })
}

/// The advert in a packet of IP protocol 51 whose check value nobody asked for: where no key is
/// configured, to say what the sender does.
#[must_use]
pub fn peek(payload: &[u8]) -> Option<&[u8]> {
    payload
        .split_first_chunk::<LENGTH>()
        .filter(|(ah, _)| ah[0] == VRRP && ah[1] == PAYLOAD_LENGTH)
        .map(|(_, message)| message)
}

/// The length of the header in words of 32 bits, less two (RFC 2402 section 2.2).
const PAYLOAD_LENGTH: u8 = (LENGTH / 4 - 2) as u8;

/// The hash over `packet`, whose IPv4 header has `header_length` bytes; none where it is too short.
fn check(password: &Password, packet: &[u8], header_length: usize) -> Option<Hmac<Md5>> {
    let mut header = packet.get(..header_length)?.to_vec();
    let (ah, message) = packet.get(header_length..)?.split_first_chunk::<LENGTH>()?;
    let is_multicast = header
        .get(16..IPV4)
        .and_then(|bytes| <[u8; 4]>::try_from(bytes).ok())
        .is_some_and(|destination| IpAddr::from(destination).is_multicast());
    header[TOS] = 0;
    header[FRAGMENT].fill(0);
    header[CHECKSUM].fill(0);
    if !is_multicast {
        header[TTL] = 0;
    }
    // A key of any length is one.
    let mut mac = Hmac::<Md5>::new_from_slice(password.bytes()).ok()?;
    mac.update(&header);
    mac.update(&ah[..CHECK_VALUE.start]);
    mac.update(&[0; ICV]);
    mac.update(message);
    Some(mac)
}

/// The sequence numbers of one virtual router.
#[derive(Debug, Clone, Default)]
pub struct Sequences {
    /// The highest of each sender, and when in the order of packets it came.
    heard: BTreeMap<Ipv4Addr, (u32, u64)>,
    packets: u64,
    /// The highest of all senders and of our own.
    highest: u32,
}

impl Sequences {
    /// Numbers that begin above `floor`. A node that starts anew must not begin below what it sent
    /// before, as its peers would take that for replayed: seconds since 1970 will do, as long as
    /// there is at most one advert a second.
    #[must_use]
    pub fn above(floor: u32) -> Self {
        Self {
            highest: floor,
            ..Self::default()
        }
    }

    /// The number of the next packet to send. At the end of the numbers it stays there, and peers
    /// take no more packets, until all nodes are started anew (RFC 2402 section 3.3.2: a number must
    /// not come back under the same key).
    pub fn next_number(&mut self) -> u32 {
        self.highest = self.highest.saturating_add(1);
        self.highest
    }

    /// Takes note of a packet with the right check value.
    ///
    /// # Errors
    ///
    /// Its number is not above the sender's last.
    pub fn accept(&mut self, sender: Ipv4Addr, found: u32) -> Result<(), AhError> {
        match self.heard.get(&sender) {
            Some(&(last, _)) if found <= last => {
                return Err(AhError::Replayed {
                    sender,
                    found,
                    last,
                });
            }
            Some(_) => {}
            None if self.heard.len() >= MAX_SENDERS => {
                // Only who has the key gets here.
                let stalest = self.heard.iter().min_by_key(|(_, (_, at))| *at);
                if let Some(stalest) = stalest.map(|(sender, _)| *sender) {
                    self.heard.remove(&stalest);
                }
            }
            None => {}
        }
        self.packets += 1;
        self.heard.insert(sender, (found, self.packets));
        self.highest = self.highest.max(found);
        Ok(())
    }
}
