//! Ethernet, with up to two VLAN tags (IEEE 802.1Q).

use steerd_ebpf::verdict::Verdict;

const VLAN: [u8; 2] = [0x81, 0x00];
const SERVICE_TAG: [u8; 2] = [0x88, 0xa8];
const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];

/// A frame's header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) to: [u8; 6],
    pub(super) from: [u8; 6],
    /// Type and value of each tag, outer first.
    pub(super) tags: Vec<[u8; 4]>,
    pub(super) is_ipv6: bool,
}

impl Link {
    /// Reads a frame's header; what comes behind it is the second.
    pub(super) fn read(frame: &[u8]) -> Result<(Self, &[u8]), Verdict> {
        let (addresses, mut rest) = frame.split_at_checked(12).ok_or(Verdict::Truncated)?;
        let (&to, &from) = addresses
            .first_chunk()
            .zip(addresses.last_chunk())
            .ok_or(Verdict::Truncated)?;
        let mut tags = Vec::new();
        loop {
            let (&kind, behind) = rest.split_first_chunk().ok_or(Verdict::Truncated)?;
            let is_tag = match tags.len() {
                0 => kind == VLAN || kind == SERVICE_TAG,
                1 => kind == VLAN,
                _ => false,
            };
            if !is_tag {
                let is_ipv6 = match kind {
                    IPV4 => false,
                    IPV6 => true,
                    _ => return Err(Verdict::NotIp),
                };
                let link = Self {
                    to,
                    from,
                    tags,
                    is_ipv6,
                };
                return Ok((link, behind));
            }
            let (&tag, behind) = rest.split_first_chunk().ok_or(Verdict::Truncated)?;
            tags.push(tag);
            rest = behind;
        }
    }

    /// How many bytes it has.
    pub(super) fn length(&self) -> usize {
        14 + 4 * self.tags.len()
    }

    /// The frame with this header around a packet.
    pub(super) fn around(&self, packet: &[u8]) -> Vec<u8> {
        let kind = if self.is_ipv6 { IPV6 } else { IPV4 };
        [
            &self.to[..],
            &self.from,
            self.tags.as_flattened(),
            &kind,
            packet,
        ]
        .concat()
    }

    /// The way back.
    pub(super) fn turned(&self) -> Self {
        Self {
            to: self.from,
            from: self.to,
            ..self.clone()
        }
    }

    /// The header of the frame that goes on from one MAC to another, in a VLAN or in none (0): the
    /// innermost tag is that of the VLAN. Its priority stays, as does an outer tag.
    pub(super) fn onward(&self, to: [u8; 6], from: [u8; 6], vlan: u16) -> Self {
        let mut link = Self {
            to,
            from,
            ..self.clone()
        };
        let inner = link.tags.pop();
        if vlan != 0 {
            let [id_high, id_low] = vlan.to_be_bytes();
            let priority = inner.map_or(0, |[_, _, high, _]| high & 0xf0);
            let [kind0, kind1] = inner.map_or(VLAN, |[kind0, kind1, ..]| [kind0, kind1]);
            link.tags.push([kind0, kind1, priority | id_high, id_low]);
        }
        link
    }
}
