//! What another host on the segment sees: the adverts, and which nodes answer when it asks by ARP who
//! has the virtual address. It asks in its own name, so that the client's neighbour table learns nothing
//! from the answers.

use std::{
    io::{self, Read, Write},
    mem,
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::beat::Threads;
use crate::{
    error::{Context, Error, Result},
    link,
    node::NodeId,
    switch::{Host, INTERFACE},
};

/// How often it asks.
pub const ASK: Duration = Duration::from_millis(2);

/// The host that watches; it ends on drop.
#[derive(Debug)]
pub struct Segment {
    seen: Arc<Mutex<Seen>>,
    asking: Arc<AtomicBool>,
    threads: Threads,
}

/// What was seen.
#[derive(Debug, Default)]
pub struct Seen {
    adverts: Vec<(Instant, NodeId)>,
    answers: Vec<(Instant, NodeId)>,
}

/// Who answers for the address in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holders {
    /// One node, and since when it alone.
    One(NodeId, Instant),
    /// Both.
    Both,
    /// None.
    None,
}

impl Segment {
    /// Begins to watch from `host`; it does not ask yet.
    ///
    /// # Errors
    ///
    /// The host has no interface.
    pub fn watch(host: &Host, address: Ipv4Addr) -> Result<Self> {
        let socket = host.namespace.run(|| {
            let what = || "watch a segment".into();
            let index = link::index(INTERFACE)?;
            let socket = Socket::new(Domain::PACKET, Type::RAW, None::<Protocol>).context(what)?;
            socket
                .set_read_timeout(Some(Duration::from_millis(50)))
                .context(what)?;
            socket.bind(&everything(index)).context(what)?;
            Ok(socket)
        })?;
        let (mac, own) = (host.spec.mac(), host.spec.v4());
        let IpAddr::V4(own) = own else {
            return Err(Error::State {
                node: host.spec.name,
                reason: "it has no IPv4 address",
            });
        };
        let to_ask = socket.try_clone().context(|| "share a socket".into())?;
        let asking = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(Mutex::new(Seen::default()));
        let mut threads = Threads::default();
        let (to_note, when) = (seen.clone(), asking.clone());
        threads.spawn(move |stop| look(&socket, address, &to_note, stop));
        threads.spawn(move |stop| ask(&to_ask, &question(mac, own, address), &when, stop));
        Ok(Self {
            seen,
            asking,
            threads,
        })
    }

    /// Begins or ends to ask who has the address.
    pub fn ask(&self, asks: bool) {
        self.asking.store(asks, Ordering::Relaxed);
    }

    /// Looks at what was seen.
    ///
    /// # Errors
    ///
    /// A thread of it failed.
    pub fn read<T>(&self, read: impl FnOnce(&Seen) -> T) -> Result<T> {
        self.threads.check()?;
        Ok(read(
            &self.seen.lock().unwrap_or_else(PoisonError::into_inner),
        ))
    }
}

impl Seen {
    /// How many adverts `node` has sent since `since`, and when the first one of them.
    #[must_use]
    pub fn adverts(&self, node: NodeId, since: Instant) -> (usize, Option<Instant>) {
        let mut times = self
            .adverts
            .iter()
            .filter(|(at, from)| *from == node && *at > since);
        let first = times.next().map(|(at, _)| *at);
        (times.count() + usize::from(first.is_some()), first)
    }

    /// Who answers for the address at the end of the time since `since`, of which the last `calm` is
    /// the end.
    #[must_use]
    pub fn holders(&self, since: Instant, now: Instant, calm: Duration) -> Holders {
        let mut answers = self.answers.iter().filter(|(at, _)| *at > since);
        let of_end = |node| {
            let mut late = self
                .answers
                .iter()
                .filter(|(at, _)| now.duration_since(*at) < calm);
            late.any(|(_, from)| *from == node)
        };
        match NodeId::ALL.map(of_end) {
            [true, true] => Holders::Both,
            [false, false] => Holders::None,
            [primary, _] => {
                let holder = if primary {
                    NodeId::Primary
                } else {
                    NodeId::Backup
                };
                let of_other = answers.clone().rfind(|(_, from)| *from != holder);
                // The first answer after the last one of the other node.
                let alone_after = of_other.map_or(since, |(at, _)| *at);
                let first = answers.find(|(at, from)| *from == holder && *at > alone_after);
                first.map_or(Holders::None, |(at, _)| Holders::One(holder, *at))
            }
        }
    }
}

/// A frame that matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Frame {
    Advert(NodeId),
    Answer(NodeId),
}

impl Frame {
    fn parse(frame: &[u8], address: Ipv4Addr) -> Option<Self> {
        let from: [u8; 6] = frame.get(6..12)?.try_into().ok()?;
        let from = NodeId::ALL
            .into_iter()
            .find(|node| node.spec().mac() == from)?;
        match frame.get(12..14)? {
            // IPv4 with VRRP (protocol 112).
            [0x08, 0x00] if frame.get(23) == Some(&112) => Some(Self::Advert(from)),
            // An ARP reply from the address to one host: what everyone hears is an announcement.
            [0x08, 0x06]
                if frame.get(20..22) == Some(&[0, 2])
                    && frame.get(28..32) == Some(&address.octets())
                    && frame.first().is_some_and(|first| first & 1 == 0) =>
            {
                Some(Self::Answer(from))
            }
            _ => None,
        }
    }
}

fn look(
    mut socket: &Socket,
    address: Ipv4Addr,
    seen: &Mutex<Seen>,
    stop: &AtomicBool,
) -> Result<()> {
    let mut data = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        let length = match socket.read(&mut data) {
            Ok(length) => length,
            Err(error) if is_timeout(&error) => continue,
            Err(error) => return Err(error).context(|| "watch a segment".into()),
        };
        let at = Instant::now();
        if let Some(frame) = Frame::parse(&data[..length], address) {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            match frame {
                Frame::Advert(from) => seen.adverts.push((at, from)),
                Frame::Answer(from) => seen.answers.push((at, from)),
            }
        }
    }
    Ok(())
}

fn ask(mut socket: &Socket, question: &[u8], asking: &AtomicBool, stop: &AtomicBool) -> Result<()> {
    while !stop.load(Ordering::Relaxed) {
        if asking.load(Ordering::Relaxed) {
            socket
                .write_all(question)
                .context(|| "ask who has an address".into())?;
        }
        thread::sleep(ASK);
    }
    Ok(())
}

/// The frame that asks everyone who has `address` (RFC 826).
fn question(mac: [u8; 6], own: Ipv4Addr, address: Ipv4Addr) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(mac);
    // ARP, between Ethernet and IPv4, a request.
    frame.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1]);
    frame.extend(mac);
    frame.extend(own.octets());
    frame.extend([0; 6]);
    frame.extend(address.octets());
    frame
}

fn is_timeout(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), WouldBlock | TimedOut | Interrupted)
}

/// The address of a packet socket for all that an interface gets.
fn everything(index: u32) -> SockAddr {
    let mut storage = socket2::SockAddrStorage::zeroed();
    // SAFETY: sockaddr_ll is one of the address types that the storage is made to hold.
    let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = index.cast_signed();
    let length = mem::size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the storage holds a whole sockaddr_ll, and `length` is its size.
    unsafe { SockAddr::new(storage, length) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 25);

    fn seen(start: Instant, answers: &[(u64, NodeId)]) -> Seen {
        let answers = answers.iter();
        Seen {
            adverts: Vec::new(),
            answers: answers
                .map(|(ms, node)| (start + Duration::from_millis(*ms), *node))
                .collect(),
        }
    }

    #[test]
    fn the_holder_is_who_answers_in_the_end_from_when_the_other_one_stopped() {
        use NodeId::{Backup, Primary};
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let calm = Duration::from_millis(50);
        let holders = |answers: &[_]| seen(start, answers).holders(at(100), at(200), calm);
        assert_eq!(holders(&[(90, Primary)]), Holders::None);
        assert_eq!(
            holders(&[
                (90, Primary),
                (110, Primary),
                (130, Backup),
                (160, Backup),
                (190, Backup)
            ]),
            Holders::One(Backup, at(130))
        );
        // The old holder went on for a while beside the new one.
        assert_eq!(
            holders(&[(110, Backup), (140, Primary), (141, Backup), (190, Backup)]),
            Holders::One(Backup, at(141))
        );
        assert_eq!(holders(&[(160, Backup), (170, Primary)]), Holders::Both);
        // Nobody answers any more.
        assert_eq!(holders(&[(110, Backup), (120, Backup)]), Holders::None);
        // Nothing happened to the holder.
        assert_eq!(
            holders(&[(90, Primary), (110, Primary), (190, Primary)]),
            Holders::One(Primary, at(110))
        );
    }

    #[test]
    fn frames_are_told_apart() {
        let parse = |frame: &[u8]| Frame::parse(frame, ADDRESS);
        let mac = NodeId::Backup.spec().mac();
        let mut reply = question(mac, ADDRESS, Ipv4Addr::new(192, 168, 1, 11));
        assert_eq!(parse(&reply), None, "a question");
        reply[21] = 2;
        assert_eq!(parse(&reply), None, "an announcement");
        reply[..6].copy_from_slice(&[2, 0, 0, 0, 1, 11]);
        assert_eq!(parse(&reply), Some(Frame::Answer(NodeId::Backup)));
        assert_eq!(parse(&reply[..30]), None);
        let mut advert = vec![0; 60];
        advert[6..12].copy_from_slice(&NodeId::Primary.spec().mac());
        advert[12..14].copy_from_slice(&[8, 0]);
        assert_eq!(parse(&advert), None);
        advert[23] = 112;
        assert_eq!(parse(&advert), Some(Frame::Advert(NodeId::Primary)));
    }
}
