//! A client's packet, from how it is to be: sound, lying or damaged.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::world::{CLIENT_MAC, OWN_MAC, PEER_MAC};

pub(super) const VIP4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 1, 25));
pub(super) const VIP6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 0x25));
/// Where wrapped packets come to.
pub(super) const ENDPOINT4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 1, 26));
pub(super) const ENDPOINT6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 0x26));
pub(super) const GUE_PORT: u16 = 6080;
/// The first service's.
pub(super) const PORT: u16 = 8000;

pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;

/// How many services one run is about.
pub(super) const SERVICES: u16 = 3;

/// How a packet is made. All that is not said is right: lengths, checksums.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(super) ipv6: bool,
    pub(super) protocol: u8,
    /// Which service's port, from the first one's on.
    pub(super) service: u16,
    /// The last byte of its address.
    pub(super) client: u8,
    pub(super) client_port: u16,
    /// TCP's.
    pub(super) flags: u8,
    pub(super) hops: u8,
    /// Class of service and mark of congestion.
    pub(super) class: u8,
    /// IPv4 may be fragmented.
    pub(super) may_fragment: bool,
    pub(super) way: Way,
    /// IPv4 options, padded to whole words.
    pub(super) options: Vec<u8>,
    /// IPv6 extension headers.
    pub(super) extensions: Vec<Extension>,
    /// TCP options, padded to whole words.
    pub(super) tcp_options: Vec<u8>,
    pub(super) payload: Vec<u8>,
    /// Which part of the packet it is.
    pub(super) part: Option<Piece>,
    pub(super) damage: Damage,
}

/// A fragment: units of eight bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    pub(super) identification: u8,
    pub(super) from: u16,
    pub(super) units: u16,
    /// Others follow, whatever the rest of the packet is.
    pub(super) more: bool,
}

/// Where a frame comes from and goes to.
#[derive(Debug, Clone)]
pub(super) struct Way {
    pub(super) to_us: bool,
    pub(super) from_peer: bool,
    /// Type and value.
    pub(super) tags: Vec<(u16, u16)>,
    pub(super) to: To,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum To {
    Virtual,
    /// The virtual IPv4 address in an IPv6 packet.
    Mapped,
    /// That is said to have sent it, too.
    Sender,
    Other,
}

/// An IPv6 extension header.
#[derive(Debug, Clone, Copy)]
pub(super) enum Extension {
    /// Its type and its length in units of eight bytes behind the first.
    Options(u8, u8),
    /// Segments left.
    Routing(u8),
    Authentication,
    /// A fragment that is whole.
    AtomicFragment,
    Unknown(u8),
}

/// What is then wrong with it.
#[derive(Debug, Clone, Default)]
pub(super) struct Damage {
    /// The network header's length is changed by so much.
    pub(super) length: i16,
    /// It is zero, as of a jumbogram.
    pub(super) no_length: bool,
    /// UDP's is, or TCP's words of header.
    pub(super) transport_length: i16,
    /// The transport checksum is wrong.
    pub(super) checksum: bool,
    /// Bytes of an Ethernet minimum behind it.
    pub(super) padding: u8,
    /// Bytes from the network header on are others.
    pub(super) changes: Vec<(u8, u8)>,
    /// It ends here.
    pub(super) cut: Option<u8>,
}

impl Way {
    /// The frame around a packet, and what is wrong with it.
    pub(super) fn frame(&self, is_ipv6: bool, packet: Vec<u8>, damage: &Damage) -> Vec<u8> {
        let mut frame = Vec::new();
        frame.extend(if self.to_us {
            OWN_MAC
        } else {
            [2, 9, 9, 9, 9, 9]
        });
        frame.extend(if self.from_peer { PEER_MAC } else { CLIENT_MAC });
        for (kind, value) in &self.tags {
            frame.extend(kind.to_be_bytes());
            frame.extend(value.to_be_bytes());
        }
        frame.extend(if is_ipv6 { [0x86, 0xdd] } else { [8, 0] });
        let network = frame.len();
        frame.extend(packet);
        frame.resize(frame.len() + usize::from(damage.padding), 0);
        for &(at, byte) in &damage.changes {
            if let Some(place) = frame.get_mut(network + usize::from(at)) {
                *place = byte;
            }
        }
        if let Some(cut) = damage.cut {
            frame.truncate(cut.into());
        }
        frame
    }
}

impl Plan {
    /// Makes the number of its service among those of a run the one among all.
    pub(super) fn of_run(&mut self, services: &[u16]) {
        self.service = services[usize::from(self.service)];
    }

    pub(super) fn build(&self) -> Vec<u8> {
        self.way.frame(self.ipv6, self.packet(), &self.damage)
    }

    pub(super) fn packet(&self) -> Vec<u8> {
        let from = (self.client(), self.client_port);
        self.between(from, (self.destination(), PORT + self.service))
    }

    /// The packet from one end to another.
    pub(super) fn between(&self, from: (IpAddr, u16), to: (IpAddr, u16)) -> Vec<u8> {
        let segment = self.segment(from, to);
        self.carrying(from.0, to.0, &segment)
    }

    /// The packet, or the part of it, that carries this.
    pub(super) fn carrying(&self, from: IpAddr, to: IpAddr, segment: &[u8]) -> Vec<u8> {
        let segment = match self.part {
            None => segment,
            // Of a later one whatever is there: nobody looks at it.
            Some(piece) => &segment[..segment.len().min(usize::from(piece.units) * 8)],
        };
        match (from, to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => self.ipv4(from, to, segment),
            (IpAddr::V6(from), IpAddr::V6(to)) => self.ipv6(from, to, segment),
            _ => unreachable!("one family"),
        }
    }

    pub(super) fn client(&self) -> IpAddr {
        if matches!(self.way.to, To::Sender) {
            return self.destination();
        }
        if self.ipv6 {
            IpAddr::V6(Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, self.client.into()))
        } else {
            IpAddr::V4(Ipv4Addr::new(10, 0, 0, self.client))
        }
    }

    pub(super) fn destination(&self) -> IpAddr {
        match (self.way.to, VIP4, self.ipv6) {
            (To::Virtual | To::Sender, _, true) => VIP6,
            (To::Virtual | To::Sender | To::Mapped, _, false) => VIP4,
            (To::Mapped, IpAddr::V4(vip), true) => IpAddr::V6(vip.to_ipv6_mapped()),
            (_, _, false) => IpAddr::V4(Ipv4Addr::new(192, 168, 1, 24)),
            (_, _, true) => IpAddr::V6(Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 0x24)),
        }
    }

    /// The transport header and what is behind it.
    fn segment(&self, (from, from_port): (IpAddr, u16), (to, to_port): (IpAddr, u16)) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(from_port.to_be_bytes());
        bytes.extend(to_port.to_be_bytes());
        let field = if self.protocol == UDP {
            let length = (8 + self.payload.len()) as i16;
            bytes.extend(
                length
                    .wrapping_add(self.damage.transport_length)
                    .to_be_bytes(),
            );
            bytes.extend([0, 0]);
            6
        } else {
            let words = 5 + self.tcp_options.len() as i16 / 4 + self.damage.transport_length;
            bytes.extend([
                0,
                0,
                3,
                232,
                0,
                0,
                0,
                5,
                (words as u8) << 4,
                self.flags,
                250,
                0,
                0,
                0,
                0,
                0,
            ]);
            bytes.extend(&self.tcp_options);
            16
        };
        bytes.extend(&self.payload);
        let mut covered = [octets(from), octets(to)].concat();
        covered.extend((bytes.len() as u32).to_be_bytes());
        covered.extend([0, 0, 0, self.protocol]);
        covered.extend(&bytes);
        let mut sum = checksum(&covered);
        if sum == 0 && self.protocol == UDP {
            sum = 0xffff;
        }
        if self.damage.checksum {
            sum = sum.rotate_left(3) ^ 0x1111;
        }
        bytes[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    fn ipv4(&self, from: Ipv4Addr, to: Ipv4Addr, segment: &[u8]) -> Vec<u8> {
        let header = 20 + self.options.len();
        let length = ((header + segment.len()) as i16).wrapping_add(self.damage.length);
        let mut bytes = vec![0x40 | (header / 4) as u8, self.class];
        bytes.extend(length.to_be_bytes());
        match self.part {
            None if self.may_fragment => bytes.extend([0x12, 0x34, 0, 0]),
            None => bytes.extend([0x12, 0x34, 0x40, 0]),
            Some(piece) => {
                let place = piece.from | u16::from(piece.more) << 13;
                bytes.extend([0x77, piece.identification]);
                bytes.extend(place.to_be_bytes());
            }
        }
        bytes.extend([self.hops, self.protocol, 0, 0]);
        bytes.extend(from.octets());
        bytes.extend(to.octets());
        bytes.extend(&self.options);
        let sum = checksum(&bytes);
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        bytes.extend(segment);
        bytes
    }

    fn ipv6(&self, from: Ipv6Addr, to: Ipv6Addr, segment: &[u8]) -> Vec<u8> {
        let kinds: Vec<u8> = self
            .extensions
            .iter()
            .map(|extension| match *extension {
                Extension::Options(kind, _) | Extension::Unknown(kind) => kind,
                Extension::Routing(_) => 43,
                Extension::Authentication => 51,
                Extension::AtomicFragment => 44,
            })
            .chain(self.part.map(|_| 44))
            .chain([self.protocol])
            .collect();
        let mut extensions = Vec::new();
        for (extension, &next) in self.extensions.iter().zip(&kinds[1..]) {
            match *extension {
                Extension::Options(_, units) => {
                    extensions.extend([next, units]);
                    extensions.resize(extensions.len() + 6 + 8 * usize::from(units), 1);
                }
                Extension::Routing(left) => extensions.extend([next, 0, 3, left, 0, 0, 0, 0]),
                Extension::Authentication => {
                    extensions.extend([next, 4]);
                    extensions.resize(extensions.len() + 22, 9);
                }
                Extension::AtomicFragment => extensions.extend([next, 0, 0, 0, 0, 0, 0, 7]),
                Extension::Unknown(_) => extensions.extend([next, 0, 0, 0, 0, 0, 0, 0]),
            }
        }
        if let Some(piece) = self.part {
            let place = piece.from << 3 | u16::from(piece.more);
            extensions.extend([self.protocol, 0]);
            extensions.extend(place.to_be_bytes());
            extensions.extend([0, 0, 0x77, piece.identification]);
        }
        let length = match self.damage.no_length {
            true => 0,
            false => ((extensions.len() + segment.len()) as i16).wrapping_add(self.damage.length),
        };
        let mut bytes = vec![0x60 | self.class >> 4, self.class << 4 | 0xa, 0xbc, 0xde];
        bytes.extend(length.to_be_bytes());
        bytes.extend([kinds[0], self.hops]);
        bytes.extend(from.octets());
        bytes.extend(to.octets());
        bytes.extend(extensions);
        bytes.extend(segment);
        bytes
    }
}

pub(super) fn checksum(bytes: &[u8]) -> u16 {
    let sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)))
        .sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}

pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}
