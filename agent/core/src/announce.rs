//! The frames that tell a segment where an address is, and that ask whether somebody else has it.
//!
//! | frame | says | by |
//! |---|---|---|
//! | [`gratuitous_arp`] | "this IPv4 address is at my MAC" | RFC 5227 section 3, RFC 9568 section 8.1.2 |
//! | [`arp_probe`] | "does anybody have this IPv4 address?" | RFC 5227 section 2.1.1 |
//! | [`question`] | "who has this address?" | RFC 826, RFC 4861 section 7.2.2 |
//! | [`unsolicited_advertisement`] | "this IPv6 address is at my MAC" | RFC 4861 section 7.2.6 |
//! | [`duplicate_solicitation`] | "does anybody have this IPv6 address?" | RFC 4862 section 5.4.2 |
//!
//! [`announcement`] and [`probe`] choose by family. [`parse_claim`] reads what comes back: any frame
//! by which a host says that an address is its own. All frames are whole Ethernet frames, since they
//! are sent and received through packet sockets, below the host's own ARP and neighbour discovery.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A link-layer address.
pub type Mac = [u8; 6];

/// Somebody says that an address is its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The address.
    pub address: IpAddr,
    /// Who says so.
    pub mac: Mac,
}

/// The frame by which the host at `mac` announces that it has `address`.
#[must_use]
pub fn announcement(mac: Mac, address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => gratuitous_arp(mac, address).to_vec(),
        IpAddr::V6(address) => unsolicited_advertisement(mac, address).to_vec(),
    }
}

/// The frame by which the host at `mac` asks whether anybody has `address`.
#[must_use]
pub fn probe(mac: Mac, address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => arp_probe(mac, address).to_vec(),
        IpAddr::V6(address) => duplicate_solicitation(mac, address).to_vec(),
    }
}

/// A broadcast ARP request for `address` from `address`.
///
/// A request and not a reply, because hosts update an existing entry from either, but some ignore
/// replies that they did not ask for (RFC 5227 section 3).
#[must_use]
pub fn gratuitous_arp(mac: Mac, address: Ipv4Addr) -> [u8; ARP_FRAME] {
    arp_request(mac, address, address)
}

/// A broadcast ARP request for `address` from nobody: the sender address is zero, so that no cache
/// is changed by the question (RFC 5227 section 2.1.1).
#[must_use]
pub fn arp_probe(mac: Mac, address: Ipv4Addr) -> [u8; ARP_FRAME] {
    arp_request(mac, Ipv4Addr::UNSPECIFIED, address)
}

/// A neighbour advertisement to all nodes: override set, solicited unset, from the address itself.
///
/// The router flag stays unset although RFC 9568 section 8.2.2 sets it: the address belongs to a
/// service, and a host that took it for a router's would use it as one.
#[must_use]
pub fn unsolicited_advertisement(mac: Mac, address: Ipv6Addr) -> [u8; NA_FRAME] {
    const OVERRIDE: u8 = 0x20;
    let mut frame = [0; NA_FRAME];
    let message = &mut frame[IPV6_HEADERS..];
    message[0] = NEIGHBOUR_ADVERTISEMENT;
    message[4] = OVERRIDE;
    message[8..24].copy_from_slice(&address.octets());
    message[24] = OPTION_TARGET_LINK_LAYER;
    message[25] = 1; // in units of eight bytes
    message[26..32].copy_from_slice(&mac);
    finish_icmpv6(&mut frame, mac, address, ALL_NODES);
    frame
}

/// A neighbour solicitation for `address` from the unspecified address to the solicited-node group,
/// without the source link-layer option, which RFC 4861 section 4.3 forbids here.
#[must_use]
pub fn duplicate_solicitation(mac: Mac, address: Ipv6Addr) -> [u8; NS_FRAME] {
    let mut frame = [0; NS_FRAME];
    let message = &mut frame[IPV6_HEADERS..];
    message[0] = NEIGHBOUR_SOLICITATION;
    message[8..24].copy_from_slice(&address.octets());
    finish_icmpv6(
        &mut frame,
        mac,
        Ipv6Addr::UNSPECIFIED,
        solicited_node(address),
    );
    frame
}

/// The frame by which the host at `mac` asks from its own `source` who has `target`; none where the two
/// are not of one family. What answers comes to this host alone.
#[must_use]
pub fn question(mac: Mac, source: IpAddr, target: IpAddr) -> Option<Vec<u8>> {
    match (source, target) {
        (IpAddr::V4(source), IpAddr::V4(target)) => Some(arp_request(mac, source, target).to_vec()),
        (IpAddr::V6(source), IpAddr::V6(target)) => {
            let mut frame = [0; NA_FRAME];
            let message = &mut frame[IPV6_HEADERS..];
            message[0] = NEIGHBOUR_SOLICITATION;
            message[8..24].copy_from_slice(&target.octets());
            message[24] = OPTION_SOURCE_LINK_LAYER;
            message[25] = 1; // in units of eight bytes
            message[26..32].copy_from_slice(&mac);
            finish_icmpv6(&mut frame, mac, source, solicited_node(target));
            Some(frame.to_vec())
        }
        _ => None,
    }
}

/// The claim that a frame makes, if it makes one.
///
/// ARP: the sender of a request or reply says that it has its own address; zero is nobody's, so
/// another host's probe is no claim. IPv6: a neighbour advertisement says who has its target, either
/// in its option or, where that is missing, by who sent it. Advertisements with a hop limit below
/// 255 come from off the segment and are void (RFC 4861 section 7.1.2), as are bad checksums.
#[must_use]
pub fn parse_claim(frame: &[u8]) -> Option<Claim> {
    let sender: Mac = *frame.get(6..)?.first_chunk()?;
    let payload = frame.get(ETHERNET..)?;
    match u16::from_be_bytes(*frame.get(12..)?.first_chunk()?) {
        ETHERTYPE_ARP => parse_arp(payload),
        ETHERTYPE_IPV6 => parse_advertisement(sender, payload),
        _ => None,
    }
    .filter(|claim| !claim.address.is_unspecified() && claim.mac[0] & 1 == 0)
}

const ETHERNET: usize = 14;
/// Ethernet and ARP for IPv4; the driver pads to the 60 bytes of Ethernet's minimum.
pub const ARP_FRAME: usize = ETHERNET + 28;
const IPV6_HEADERS: usize = ETHERNET + 40;
/// Ethernet, IPv6, a solicitation without options.
pub const NS_FRAME: usize = IPV6_HEADERS + 24;
/// Ethernet, IPv6, an advertisement or solicitation with one option.
pub const NA_FRAME: usize = IPV6_HEADERS + 32;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const BROADCAST: Mac = [0xff; 6];
const ARP_REQUEST: u16 = 1;
const ARP_REPLY: u16 = 2;
const ICMPV6: u8 = 58;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const OPTION_SOURCE_LINK_LAYER: u8 = 1;
const OPTION_TARGET_LINK_LAYER: u8 = 2;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

fn arp_request(mac: Mac, sender: Ipv4Addr, target: Ipv4Addr) -> [u8; ARP_FRAME] {
    let mut frame = [0; ARP_FRAME];
    frame[..6].copy_from_slice(&BROADCAST);
    frame[6..12].copy_from_slice(&mac);
    frame[12..14].copy_from_slice(&ETHERTYPE_ARP.to_be_bytes());
    frame[14..16].copy_from_slice(&1_u16.to_be_bytes()); // hardware: Ethernet
    frame[16..18].copy_from_slice(&ETHERTYPE_IPV4.to_be_bytes());
    frame[18] = 6;
    frame[19] = 4;
    frame[20..22].copy_from_slice(&ARP_REQUEST.to_be_bytes());
    frame[22..28].copy_from_slice(&mac);
    frame[28..32].copy_from_slice(&sender.octets());
    // The target MAC stays zero: "ignored" by RFC 5227 section 2.1.1.
    frame[38..42].copy_from_slice(&target.octets());
    frame
}

/// Fills in the Ethernet and IPv6 headers and the checksum around the message.
fn finish_icmpv6(frame: &mut [u8], mac: Mac, source: Ipv6Addr, group: Ipv6Addr) {
    let group_bytes = group.octets();
    let length = u16::try_from(frame.len() - IPV6_HEADERS).unwrap_or(u16::MAX);
    // RFC 2464 section 7: 33:33 and the last four bytes of the group.
    frame[..2].copy_from_slice(&[0x33, 0x33]);
    frame[2..6].copy_from_slice(&group_bytes[12..]);
    frame[6..12].copy_from_slice(&mac);
    frame[12..14].copy_from_slice(&ETHERTYPE_IPV6.to_be_bytes());
    frame[14] = 0x60;
    frame[18..20].copy_from_slice(&length.to_be_bytes());
    frame[20] = ICMPV6;
    frame[21] = 255;
    frame[22..38].copy_from_slice(&source.octets());
    frame[38..54].copy_from_slice(&group_bytes);
    let checksum = icmpv6_checksum(source, group, &frame[IPV6_HEADERS..]);
    frame[56..58].copy_from_slice(&checksum.to_be_bytes());
}

/// RFC 4291 section 2.7.1: ff02::1:ff and the last three bytes of the address.
fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

/// RFC 4443 section 2.3, over the pseudo-header of RFC 8200 section 8.1; zero when the message holds
/// its right checksum.
fn icmpv6_checksum(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> u16 {
    let words = |bytes: &[u8]| -> u64 {
        let (pairs, rest) = bytes.as_chunks::<2>();
        let last = rest.first().map_or(0, |byte| u64::from(*byte) << 8);
        last + pairs
            .iter()
            .map(|pair| u64::from(u16::from_be_bytes(*pair)))
            .sum::<u64>()
    };
    let mut sum = words(&source.octets())
        + words(&destination.octets())
        + message.len() as u64
        + u64::from(ICMPV6)
        + words(message);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn parse_arp(payload: &[u8]) -> Option<Claim> {
    let packet: &[u8; 28] = payload.first_chunk()?;
    let operation = u16::from_be_bytes([packet[6], packet[7]]);
    let ethernet_for_ipv4 = [0, 1, 8, 0, 6, 4];
    if packet[..6] != ethernet_for_ipv4 || !matches!(operation, ARP_REQUEST | ARP_REPLY) {
        return None;
    }
    let mac: Mac = *packet[8..].first_chunk()?;
    let address: [u8; 4] = *packet[14..].first_chunk()?;
    Some(Claim {
        address: Ipv4Addr::from(address).into(),
        mac,
    })
}

fn parse_advertisement(sender: Mac, packet: &[u8]) -> Option<Claim> {
    let header: &[u8; 40] = packet.first_chunk()?;
    let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
    if header[0] >> 4 != 6 || header[6] != ICMPV6 || header[7] != 255 {
        return None;
    }
    let source = Ipv6Addr::from(*header[8..].first_chunk::<16>()?);
    let destination = Ipv6Addr::from(*header[24..].first_chunk::<16>()?);
    let message = packet.get(40..)?.get(..length)?;
    if message.len() < 24
        || message[0] != NEIGHBOUR_ADVERTISEMENT
        || message[1] != 0
        || icmpv6_checksum(source, destination, message) != 0
    {
        return None;
    }
    let target = Ipv6Addr::from(*message[8..].first_chunk::<16>()?);
    let mut mac = sender;
    let mut options = &message[24..];
    while let [kind, units, ..] = *options {
        // RFC 4861 section 4.6: a length of zero voids the packet.
        let option = options
            .get(..usize::from(units) * 8)
            .filter(|option| !option.is_empty())?;
        if kind == OPTION_TARGET_LINK_LAYER {
            mac = *option[2..].first_chunk()?;
        }
        options = &options[option.len()..];
    }
    Some(Claim {
        address: target.into(),
        mac,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAC: Mac = [0x02, 0x00, 0x5e, 0x10, 0x20, 0x30];
    const VIP4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);
    const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0x12, 0x3456);

    #[test]
    fn gratuitous_arp_is_the_golden_frame() {
        #[rustfmt::skip]
        let golden = [
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 0x00, 0x5e, 0x10, 0x20, 0x30, 0x08, 0x06,
            0x00, 0x01, 0x08, 0x00, 0x06, 0x04, 0x00, 0x01,
            0x02, 0x00, 0x5e, 0x10, 0x20, 0x30, 10, 77, 0, 100,
            0, 0, 0, 0, 0, 0, 10, 77, 0, 100,
        ];
        assert_eq!(gratuitous_arp(MAC, VIP4), golden);
    }

    #[test]
    fn questions_are_asked_in_an_own_name() {
        let own4 = Ipv4Addr::new(10, 77, 0, 1);
        let frame = question(MAC, own4.into(), VIP4.into()).unwrap();
        assert_eq!(frame, arp_request(MAC, own4, VIP4));
        assert_eq!(frame[28..32], own4.octets());
        assert_eq!(frame[38..42], VIP4.octets());
        let own6: Ipv6Addr = "fe80::1".parse().unwrap();
        let frame = question(MAC, own6.into(), VIP6.into()).unwrap();
        assert_eq!(frame[..6], [0x33, 0x33, 0xff, 0x12, 0x34, 0x56]);
        assert_eq!(frame[22..38], own6.octets());
        assert_eq!(frame[38..54], solicited_node(VIP6).octets());
        let message = &frame[IPV6_HEADERS..];
        assert_eq!(icmpv6_checksum(own6, solicited_node(VIP6), message), 0);
        assert_eq!((message[0], message[1]), (NEIGHBOUR_SOLICITATION, 0));
        assert_eq!(message[8..24], VIP6.octets());
        assert_eq!(message[24..], [[1, 1].as_slice(), &MAC].concat());
        assert_eq!(parse_claim(&frame), None, "to ask is not to claim");
        assert_eq!(question(MAC, own4.into(), VIP6.into()), None);
        assert_eq!(question(MAC, own6.into(), VIP4.into()), None);
    }

    #[test]
    fn arp_probe_has_no_sender_address() {
        let mut golden = gratuitous_arp(MAC, VIP4);
        golden[28..32].fill(0);
        assert_eq!(arp_probe(MAC, VIP4), golden);
    }

    #[test]
    fn unsolicited_advertisement_is_the_golden_frame() {
        #[rustfmt::skip]
        let golden: [u8; NA_FRAME] = [
            0x33, 0x33, 0, 0, 0, 1, 0x02, 0x00, 0x5e, 0x10, 0x20, 0x30, 0x86, 0xdd,
            0x60, 0, 0, 0, 0, 32, 58, 255,
            0xfd, 0, 0, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x12, 0x34, 0x56,
            0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,
            // The checksum, worked out apart from the code: the words of the pseudo-header and the
            // message add up to 0x48d5c, folded 0x8d60, inverted 0x729f.
            136, 0, 0x72, 0x9f, 0x20, 0, 0, 0,
            0xfd, 0, 0, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x12, 0x34, 0x56,
            2, 1, 0x02, 0x00, 0x5e, 0x10, 0x20, 0x30,
        ];
        assert_eq!(unsolicited_advertisement(MAC, VIP6), golden);
    }

    #[test]
    fn duplicate_solicitation_is_the_golden_frame() {
        let frame = duplicate_solicitation(MAC, VIP6);
        assert_eq!(frame[..6], [0x33, 0x33, 0xff, 0x12, 0x34, 0x56]);
        assert_eq!(frame[18..22], [0, 24, 58, 255]);
        assert_eq!(frame[22..38], [0; 16]);
        assert_eq!(
            frame[38..54],
            [
                0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0x12, 0x34, 0x56
            ]
        );
        assert_eq!(frame[54], 135);
        assert_eq!(frame[62..78], VIP6.octets());
        let group = solicited_node(VIP6);
        assert_eq!(
            icmpv6_checksum(Ipv6Addr::UNSPECIFIED, group, &frame[54..]),
            0
        );
    }

    #[test]
    fn announcements_are_claims_and_probes_are_not() {
        for address in [IpAddr::V4(VIP4), IpAddr::V6(VIP6)] {
            let claim = Claim { address, mac: MAC };
            assert_eq!(parse_claim(&announcement(MAC, address)), Some(claim));
            assert_eq!(parse_claim(&probe(MAC, address)), None);
        }
    }

    #[test]
    fn an_arp_reply_is_a_claim_and_other_operations_are_not() {
        let mut frame = gratuitous_arp(MAC, VIP4);
        frame[21] = 2;
        assert_eq!(
            parse_claim(&frame),
            Some(Claim {
                address: VIP4.into(),
                mac: MAC
            })
        );
        frame[21] = 3;
        assert_eq!(parse_claim(&frame), None);
    }

    #[test]
    fn an_advertisement_without_option_claims_for_its_sender() {
        let mut frame = unsolicited_advertisement(MAC, VIP6)[..78].to_vec();
        frame[56..58].fill(0);
        finish_icmpv6(&mut frame, MAC, VIP6, ALL_NODES);
        assert_eq!(
            parse_claim(&frame),
            Some(Claim {
                address: VIP6.into(),
                mac: MAC
            })
        );
    }

    #[test]
    fn an_advertisement_from_off_the_segment_is_void() {
        let mut frame = unsolicited_advertisement(MAC, VIP6);
        frame[21] = 254;
        assert_eq!(parse_claim(&frame), None);
    }

    #[test]
    fn an_option_of_length_zero_voids_the_advertisement() {
        let mut frame = unsolicited_advertisement(MAC, VIP6);
        frame[79] = 0;
        frame[56..58].fill(0);
        finish_icmpv6(&mut frame, MAC, VIP6, ALL_NODES);
        assert_eq!(parse_claim(&frame), None);
    }

    #[test]
    fn a_damaged_advertisement_is_void() {
        let good = unsolicited_advertisement(MAC, VIP6);
        for at in (22..NA_FRAME).filter(|at| *at != 55) {
            let mut frame = good;
            frame[at] ^= 0x01;
            assert_eq!(parse_claim(&frame), None, "byte {at}");
        }
    }

    #[test]
    fn a_group_address_is_nobodys_mac() {
        assert_eq!(parse_claim(&gratuitous_arp([0xff; 6], VIP4)), None);
    }

    #[test]
    fn no_truncation_is_a_claim() {
        for address in [IpAddr::V4(VIP4), IpAddr::V6(VIP6)] {
            let frame = announcement(MAC, address);
            for length in 0..frame.len() {
                assert_eq!(
                    parse_claim(&frame[..length]),
                    None,
                    "{address} cut to {length}"
                );
            }
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(mut frame: Vec<u8>, kind in 0_u8..3) {
            if frame.len() > 20 {
                let ethertype = [ETHERTYPE_ARP, ETHERTYPE_IPV6, 0][usize::from(kind)];
                frame[12..14].copy_from_slice(&ethertype.to_be_bytes());
                frame[20] = ICMPV6;
            }
            let _ = parse_claim(&frame);
        }
    }
}
