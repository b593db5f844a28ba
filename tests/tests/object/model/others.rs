//! Packets of others than clients: of peers that wrap, of backends that answer, of routers that tell.

use std::net::IpAddr;

use proptest::prelude::*;

use super::{
    packet::{
        Damage, ENDPOINT4, ENDPOINT6, GUE_PORT, PORT, Plan, TCP, UDP, VIP4, VIP6, Way, checksum,
        octets,
    },
    packets::{damage, plan, way},
};

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
