//! Packets: sound ones, ones that lie, damaged ones, noise.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use crate::world::{CLIENT_MAC, OWN_MAC, PEER_MAC};

pub(super) const VIP4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 1, 25));
pub(super) const VIP6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 0x25));
/// Where wrapped packets come to.
pub(super) const ENDPOINT4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 1, 26));
pub(super) const ENDPOINT6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 0x26));
pub(super) const GUE_PORT: u16 = 6080;
/// The first service's.
pub(super) const PORT: u16 = 8000;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// How many services one run is about.
pub(super) const SERVICES: u16 = 3;

/// How a packet is made. All that is not said is right: lengths, checksums.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    ipv6: bool,
    protocol: u8,
    /// Which service's port, from the first one's on.
    service: u16,
    /// The last byte of its address.
    client: u8,
    client_port: u16,
    /// TCP's.
    flags: u8,
    hops: u8,
    /// IPv4 may be fragmented.
    may_fragment: bool,
    way: Way,
    /// IPv4 options, padded to whole words.
    options: Vec<u8>,
    /// IPv6 extension headers.
    extensions: Vec<Extension>,
    /// TCP options, padded to whole words.
    tcp_options: Vec<u8>,
    payload: Vec<u8>,
    /// Which part of the packet it is.
    part: Option<Piece>,
    damage: Damage,
}

/// A fragment: units of eight bytes.
#[derive(Debug, Clone, Copy)]
struct Piece {
    identification: u8,
    from: u16,
    units: u16,
    /// Others follow, whatever the rest of the packet is.
    more: bool,
}

/// Where a frame comes from and goes to.
#[derive(Debug, Clone)]
struct Way {
    to_us: bool,
    from_peer: bool,
    /// Type and value.
    tags: Vec<(u16, u16)>,
    to: To,
}

#[derive(Debug, Clone, Copy)]
enum To {
    Virtual,
    /// The virtual IPv4 address in an IPv6 packet.
    Mapped,
    /// That is said to have sent it, too.
    Sender,
    Other,
}

/// An IPv6 extension header.
#[derive(Debug, Clone, Copy)]
enum Extension {
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
struct Damage {
    /// The network header's length is changed by so much.
    length: i16,
    /// It is zero, as of a jumbogram.
    no_length: bool,
    /// UDP's is, or TCP's words of header.
    transport_length: i16,
    /// The transport checksum is wrong.
    checksum: bool,
    /// Bytes of an Ethernet minimum behind it.
    padding: u8,
    /// Bytes from the network header on are others.
    changes: Vec<(u8, u8)>,
    /// It ends here.
    cut: Option<u8>,
}

pub(super) fn plan() -> BoxedStrategy<Plan> {
    let who = (
        any::<bool>(),
        prop_oneof![8 => Just(TCP), 6 => Just(UDP), 1 => Just(47_u8)],
        0..SERVICES,
        prop_oneof![4 => 0_u8..2, 1 => 0_u8..8],
        prop_oneof![12 => Just(40_000_u16), 4 => 40_001_u16..40_003, 1 => Just(0_u16)],
        any::<bool>(),
    );
    let what = (
        prop_oneof![
            4 => Just(0x02_u8), 6 => Just(0x10_u8), 2 => Just(0x11_u8), 1 => Just(0x04_u8),
            1 => Just(0x12_u8), 1 => any::<u8>()
        ],
        prop_oneof![6 => Just(64_u8), 1 => 0_u8..4, 1 => any::<u8>()],
        way(),
        prop_oneof![6 => Just(vec![]), 1 => options()],
        prop_oneof![6 => Just(vec![]), 2 => prop::collection::vec(extension(), 1..8)],
        prop_oneof![4 => Just(vec![]), 4 => tcp_options()],
        payload(),
        prop_oneof![5 => Just(None), 1 => piece().prop_map(Some)],
        prop_oneof![4 => Just(Damage::default()), 1 => damage()],
    );
    (who, what)
        .prop_map(
            |(
                (ipv6, protocol, service, client, client_port, may_fragment),
                (flags, hops, way, options, extensions, tcp_options, payload, part, damage),
            )| Plan {
                ipv6,
                protocol,
                service,
                client,
                client_port,
                flags,
                hops,
                may_fragment,
                way,
                options,
                extensions,
                tcp_options,
                payload,
                part,
                damage,
            },
        )
        .boxed()
}

fn piece() -> BoxedStrategy<Piece> {
    let place = prop_oneof![
        4 => Just((0_u16, 3_u16)),
        4 => Just((3, 3)),
        1 => (0_u16..4, 0_u16..6),
        1 => (any::<u16>().prop_map(|from| from & 0x1fff), 0_u16..6),
    ];
    (0_u8..2, place, prop::bool::weighted(0.7))
        .prop_map(|(identification, (from, units), more)| Piece {
            identification,
            from,
            units,
            more,
        })
        .boxed()
}

fn way() -> BoxedStrategy<Way> {
    let value = || prop::sample::select(vec![7_u16, 8, 0xa007, 0x6000, 0xffff]);
    let kind = || prop::sample::select(vec![0x8100_u16, 0x88a8]);
    let tags = prop_oneof![
        8 => Just(vec![]),
        4 => (kind(), value()).prop_map(|tag| vec![tag]),
        3 => (kind(), value(), value()).prop_map(|(kind, one, other)| {
            vec![(kind, one), (0x8100, other)]
        }),
        1 => prop::collection::vec((kind(), value()), 1..4),
    ];
    let to = prop_oneof![
        20 => Just(To::Virtual), 1 => Just(To::Mapped), 1 => Just(To::Sender), 1 => Just(To::Other)
    ];
    (
        prop_oneof![12 => Just(true), 1 => Just(false)],
        prop_oneof![12 => Just(false), 1 => Just(true)],
        tags,
        to,
    )
        .prop_map(|(to_us, from_peer, tags, to)| Way {
            to_us,
            from_peer,
            tags,
            to,
        })
        .boxed()
}

/// Options of IPv4: nothing, router alert, timestamps, routes, nonsense.
fn options() -> BoxedStrategy<Vec<u8>> {
    let option = prop_oneof![
        4 => Just(vec![1]),
        2 => Just(vec![148, 4, 0, 0]),
        2 => Just(vec![7, 7, 4, 0, 0, 0, 0]),
        1 => Just(vec![0]),
        1 => Just(vec![131, 7, 4, 0, 0, 0, 0]),
        1 => Just(vec![137, 3, 4]),
        1 => prop::collection::vec(any::<u8>(), 1..6),
    ];
    prop::collection::vec(option, 1..8)
        .prop_map(|options| fitting(options.concat()))
        .boxed()
}

/// Options of TCP: nothing, MSS, window scale, timestamps, nonsense.
fn tcp_options() -> BoxedStrategy<Vec<u8>> {
    let mss = prop_oneof![
        Just(1460_u16),
        Just(1200),
        Just(1201),
        Just(536),
        Just(0xffff),
        any::<u16>()
    ];
    let option = prop_oneof![
        4 => Just(vec![1]),
        6 => mss.prop_map(|mss| [&[2, 4][..], &mss.to_be_bytes()].concat()),
        2 => Just(vec![3, 3, 7]),
        2 => Just(vec![4, 2]),
        2 => Just(vec![8, 10, 0, 1, 2, 3, 4, 5, 6, 7]),
        1 => Just(vec![0]),
        1 => Just(vec![2]),
        1 => Just(vec![2, 3, 0xff]),
        1 => prop::collection::vec(any::<u8>(), 1..6),
    ];
    prop::collection::vec(option, 1..8)
        .prop_map(|options| fitting(options.concat()))
        .boxed()
}

/// At most ten words, whole ones.
fn fitting(mut options: Vec<u8>) -> Vec<u8> {
    options.truncate(40);
    options.resize(options.len().next_multiple_of(4), 0);
    options
}

fn extension() -> BoxedStrategy<Extension> {
    prop_oneof![
        3 => (prop::sample::select(vec![0_u8, 60]), prop_oneof![4 => 0_u8..3, 1 => 0_u8..64])
            .prop_map(|(kind, units)| Extension::Options(kind, units)),
        2 => prop_oneof![4 => Just(0_u8), 1 => any::<u8>()].prop_map(Extension::Routing),
        1 => Just(Extension::Authentication),
        1 => Just(Extension::AtomicFragment),
        1 => prop::sample::select(vec![135_u8, 139, 140, 253, 254]).prop_map(Extension::Unknown),
    ]
    .boxed()
}

/// Anything, or the beginning of a QUIC packet.
fn payload() -> BoxedStrategy<Vec<u8>> {
    let quic = (
        any::<bool>(),
        prop_oneof![6 => Just(0x07_u8), 1 => any::<u8>()],
        0_u8..6,
        0_u8..20,
    )
        .prop_map(|(is_long, first, server, length)| {
            let mut bytes = if is_long {
                vec![0xc3, 0, 0, 0, 1, length]
            } else {
                vec![0x43]
            };
            bytes.extend([first, 0, server, 1, 2, 3, 4, 5]);
            bytes
        });
    prop_oneof![
        3 => prop::collection::vec(any::<u8>(), 0..40),
        3 => quic,
        2 => prop::collection::vec(any::<u8>(), 1000..1400),
    ]
    .boxed()
}

fn damage() -> BoxedStrategy<Damage> {
    let rarely = |often| prop::bool::weighted(often);
    (
        prop_oneof![3 => Just(0_i16), 1 => -70_i16..20, 1 => any::<i16>()],
        prop_oneof![3 => Just(0_i16), 1 => -30_i16..20],
        rarely(0.3),
        rarely(0.2),
        prop_oneof![3 => Just(0_u8), 1 => 0_u8..40],
        prop_oneof![
            2 => Just(vec![]),
            1 => prop::collection::vec((0_u8..100, any::<u8>()), 1..5)
        ],
        prop::option::weighted(0.3, 14_u8..120),
    )
        .prop_map(
            |(length, transport_length, no_length, checksum, padding, changes, cut)| Damage {
                length,
                transport_length,
                no_length,
                checksum,
                padding,
                changes,
                cut,
            },
        )
        .boxed()
}

/// Frames whose headers lead to ours, and then are anything.
pub(super) fn noise() -> BoxedStrategy<Vec<u8>> {
    let kinds = prop::sample::select(vec![
        [8_u8, 0],
        [0x86, 0xdd],
        [0x81, 0],
        [0x88, 0xa8],
        [8, 6],
    ]);
    (prop::collection::vec(any::<u8>(), 14..200), kinds, 0..4_u8)
        .prop_map(|(mut frame, kind, ours)| {
            frame[..6].copy_from_slice(&OWN_MAC);
            frame[12..14].copy_from_slice(&kind);
            let (version, at, octets): (u8, usize, &[u8]) = match (kind, VIP4, VIP6) {
                ([8, 0], IpAddr::V4(vip), _) => (0x45, 30, &vip.octets()),
                ([0x86, 0xdd], _, IpAddr::V6(vip)) => (0x60, 38, &vip.octets()),
                _ => return frame,
            };
            if ours > 0 && frame.len() >= at + octets.len() {
                frame[at..at + octets.len()].copy_from_slice(octets);
            }
            if ours > 1 && frame.len() > 14 {
                frame[14] = version;
            }
            // No fragment, TCP or UDP.
            if ours > 2 && frame.len() > 23 && version == 0x45 {
                frame[20..22].fill(0);
                frame[23] = if frame[23] % 2 == 0 { TCP } else { UDP };
            }
            frame
        })
        .boxed()
}

/// A packet in another one.
#[derive(Debug, Clone)]
pub(crate) struct Wrapped {
    /// Of which the network header and what it carries is in there.
    pub(super) inner: Plan,
    ipv6: bool,
    /// The protocol of IP, or what is between UDP's header and the packet.
    gue: Option<Vec<u8>>,
    /// From the network that wrapped packets come from.
    from_network: bool,
    to_endpoint: bool,
    class: u8,
    way: Way,
    damage: Damage,
}

pub(super) fn wrapped() -> BoxedStrategy<Wrapped> {
    let gue = prop_oneof![
        3 => Just(None),
        3 => Just(Some(vec![])),
        1 => Just(Some(vec![0, 4, 0, 0])),
        1 => Just(Some(vec![0, 41, 0, 0])),
        1 => Just(Some(vec![1, 41, 0, 0, 1, 2, 3, 4])),
        1 => prop::collection::vec(any::<u8>(), 4..=8).prop_map(Some),
    ];
    (
        plan(),
        any::<bool>(),
        gue,
        prop::bool::weighted(0.9),
        prop::bool::weighted(0.9),
        any::<u8>(),
        way(),
        prop_oneof![4 => Just(Damage::default()), 1 => damage()],
    )
        .prop_map(
            |(inner, ipv6, gue, from_network, to_endpoint, class, way, damage)| Wrapped {
                inner,
                ipv6,
                gue,
                from_network,
                to_endpoint,
                class,
                way,
                damage,
            },
        )
        .boxed()
}

impl Wrapped {
    pub(super) fn build(&self) -> Vec<u8> {
        let mut carried = self.inner.packet();
        let protocol = match (&self.gue, self.inner.ipv6) {
            (Some(_), _) => UDP,
            (None, false) => 4,
            (None, true) => 41,
        };
        if let Some(header) = &self.gue {
            let length = (8 + header.len() + carried.len()) as i16;
            let length = length
                .wrapping_add(self.damage.transport_length)
                .to_be_bytes();
            let [high, low] = GUE_PORT.to_be_bytes();
            carried = [
                &[200, 1, high, low, length[0], length[1], 0, 0],
                &header[..],
                &carried,
            ]
            .concat();
        }
        let length = (carried.len() as i16).wrapping_add(self.damage.length);
        let mut packet;
        if self.ipv6 {
            packet = vec![0x60 | self.class >> 4, self.class << 4, 1, 2];
            packet.extend(length.to_be_bytes());
            packet.extend([protocol, 64]);
            let first = if self.from_network {
                [0xfd, 0, 0, 0x64]
            } else {
                [0xfd, 0, 0, 0x65]
            };
            packet.extend(first);
            packet.extend([0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
            packet.extend(octets(if self.to_endpoint { ENDPOINT6 } else { VIP6 }));
        } else {
            packet = vec![0x45, self.class];
            packet.extend(length.wrapping_add(20).to_be_bytes());
            packet.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
            packet.extend([10, if self.from_network { 99 } else { 9 }, 1, 2]);
            packet.extend(octets(if self.to_endpoint { ENDPOINT4 } else { VIP4 }));
            let sum = checksum(&packet);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        packet.extend(carried);
        self.way.frame(self.ipv6, packet, &self.damage)
    }
}

/// An answer of a translated flow's backend.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    /// Of which flow.
    pub(super) which: prop::sample::Index,
    /// What else it is like.
    like: Plan,
    /// From another port than the backend's, to another one than the flow's.
    from_elsewhere: bool,
    to_elsewhere: bool,
}

pub(super) fn answer() -> BoxedStrategy<Answer> {
    (
        any::<prop::sample::Index>(),
        plan(),
        prop::bool::weighted(0.05),
        prop::bool::weighted(0.05),
    )
        .prop_map(|(which, like, from_elsewhere, to_elsewhere)| Answer {
            which,
            like,
            from_elsewhere,
            to_elsewhere,
        })
        .boxed()
}

impl Answer {
    pub(super) fn build(&self, from: (IpAddr, u16), to: (IpAddr, u16), is_udp: bool) -> Vec<u8> {
        let from = (from.0, from.1 ^ u16::from(self.from_elsewhere));
        let to = (to.0, to.1 ^ (u16::from(self.to_elsewhere) << 12));
        let mut like = self.like.clone();
        if like.protocol == TCP || like.protocol == UDP {
            like.protocol = if is_udp { UDP } else { TCP };
        }
        let packet = like.between(from, to);
        like.way.frame(to.0.is_ipv6(), packet, &like.damage)
    }
}

/// An ICMP message.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    /// Its network header, and where it comes from and goes to.
    like: Plan,
    kind: u8,
    code: u8,
    /// What it is about: a packet to who sends this one.
    pub(super) about: Plan,
    /// How many bytes of that it has.
    quoted: u16,
    /// It is about a packet to a backend, of the translated flow with this number.
    pub(super) of_session: Option<prop::sample::Index>,
}

pub(super) fn message() -> BoxedStrategy<Message> {
    let kind = prop_oneof![
        6 => prop::sample::select(vec![3_u8, 11, 12, 1, 2, 4]),
        3 => prop::sample::select(vec![8_u8, 128]),
        1 => any::<u8>(),
    ];
    (
        plan(),
        kind,
        0_u8..5,
        plan(),
        prop_oneof![2 => Just(28_u16), 2 => Just(1400), 1 => 0_u16..100],
        prop::option::weighted(0.4, any::<prop::sample::Index>()),
    )
        .prop_map(|(like, kind, code, about, quoted, of_session)| Message {
            like,
            kind,
            code,
            about,
            quoted,
            of_session,
        })
        .boxed()
}

impl Message {
    /// About a packet of a service's.
    pub(super) fn build(&self) -> Vec<u8> {
        let mut about = self.about.clone();
        about.ipv6 = self.like.ipv6;
        let vip = if about.ipv6 { VIP6 } else { VIP4 };
        let client = (about.client(), about.client_port);
        self.about(
            self.like.destination(),
            about.between((vip, PORT + about.service), client),
        )
    }

    /// About one from one end of a translated flow to another.
    pub(super) fn build_about(
        &self,
        from: (IpAddr, u16),
        to: (IpAddr, u16),
        is_udp: bool,
    ) -> Vec<u8> {
        let mut about = self.about.clone();
        about.ipv6 = from.0.is_ipv6();
        about.protocol = if is_udp { UDP } else { TCP };
        self.about(from.0, about.between(from, to))
    }

    fn about(&self, to: IpAddr, mut quote: Vec<u8>) -> Vec<u8> {
        let mut like = self.like.clone();
        like.ipv6 = to.is_ipv6();
        like.protocol = if like.ipv6 { 58 } else { 1 };
        let from = like.client();
        let at_least = if like.ipv6 { 48 } else { 28 };
        quote.truncate(if self.quoted == 28 {
            at_least
        } else {
            self.quoted.into()
        });
        let mut message = vec![self.kind, self.code, 0, 0, 0, 0, 5, 0];
        message.extend(quote);
        let mut covered = Vec::new();
        if like.ipv6 {
            covered = [octets(from), octets(to)].concat();
            covered.extend((message.len() as u32).to_be_bytes());
            covered.extend([0, 0, 0, 58]);
        }
        covered.extend(&message);
        let mut sum = checksum(&covered);
        if like.damage.checksum {
            sum = sum.rotate_left(3) ^ 0x1111;
        }
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        like.way
            .frame(like.ipv6, like.carrying(from, to, &message), &like.damage)
    }
}

impl Way {
    /// The frame around a packet, and what is wrong with it.
    fn frame(&self, is_ipv6: bool, packet: Vec<u8>, damage: &Damage) -> Vec<u8> {
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

    fn packet(&self) -> Vec<u8> {
        let from = (self.client(), self.client_port);
        self.between(from, (self.destination(), PORT + self.service))
    }

    /// The packet from one end to another.
    fn between(&self, from: (IpAddr, u16), to: (IpAddr, u16)) -> Vec<u8> {
        let segment = self.segment(from, to);
        self.carrying(from.0, to.0, &segment)
    }

    /// The packet, or the part of it, that carries this.
    fn carrying(&self, from: IpAddr, to: IpAddr, segment: &[u8]) -> Vec<u8> {
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

    fn client(&self) -> IpAddr {
        if matches!(self.way.to, To::Sender) {
            return self.destination();
        }
        if self.ipv6 {
            IpAddr::V6(Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, self.client.into()))
        } else {
            IpAddr::V4(Ipv4Addr::new(10, 0, 0, self.client))
        }
    }

    fn destination(&self) -> IpAddr {
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
        let mut bytes = vec![0x40 | (header / 4) as u8, 0x28];
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
        let mut bytes = vec![0x62, 0x80, 0xab, 0xcd];
        bytes.extend(length.to_be_bytes());
        bytes.extend([kinds[0], self.hops]);
        bytes.extend(from.octets());
        bytes.extend(to.octets());
        bytes.extend(extensions);
        bytes.extend(segment);
        bytes
    }
}

fn checksum(bytes: &[u8]) -> u16 {
    let sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)))
        .sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}
