//! Which hosts answer for an address: asked in the way of a client's kernel, with all answers seen.

use std::{
    collections::BTreeSet,
    io,
    mem::MaybeUninit,
    net::IpAddr,
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use steerd_core::announce::{self, Mac};

use crate::{
    error::{Context, Result},
    link,
    switch::{Host, HostSpec, INTERFACE},
};

/// A host that asks who has an address, and hears who says so.
#[derive(Debug)]
pub struct Asker {
    spec: HostSpec,
    socket: Socket,
}

/// How long is waited for further answers: on one machine they take microseconds.
const QUIET: Duration = Duration::from_millis(25);

impl Asker {
    /// An asker on this host. It does not matter what else runs there.
    ///
    /// # Errors
    ///
    /// The kernel refuses the socket.
    pub fn new(host: &Host) -> Result<Self> {
        let socket = host.namespace.run(|| {
            let index = link::index(INTERFACE)?;
            open(index).context(|| "open a packet socket".into())
        })?;
        Ok(Self {
            spec: host.spec,
            socket,
        })
    }

    /// Asks who has an address (ARP, neighbour discovery). Returns the MACs of all who say that they
    /// have it, asked or not, until nobody says anything for a moment.
    ///
    /// # Errors
    ///
    /// The kernel refuses to send.
    pub fn ask(&self, address: IpAddr) -> Result<BTreeSet<Mac>> {
        // What was said before the question is no answer to it.
        self.claims(Duration::from_millis(1), |_, _| {})?;
        let source = match address {
            IpAddr::V4(_) => self.spec.v4(),
            IpAddr::V6(_) => self.spec.v6(),
        };
        if let Some(question) = announce::question(self.spec.mac(), source, address) {
            let sent = self.socket.send(&question);
            sent.context(|| format!("ask who has {address}"))?;
        }
        let mut macs = BTreeSet::new();
        self.claims(QUIET, |claimed, mac| {
            if claimed == address {
                macs.insert(mac);
            }
        })?;
        Ok(macs)
    }

    /// Hears claims until there is none for `quiet`.
    fn claims(&self, quiet: Duration, mut hear: impl FnMut(IpAddr, Mac)) -> Result<()> {
        let mut buffer = [MaybeUninit::uninit(); 2048];
        let mut until = Instant::now() + quiet;
        while let Some(left) = until
            .checked_duration_since(Instant::now())
            .filter(|left| !left.is_zero())
        {
            let received = self
                .socket
                .set_read_timeout(Some(left))
                .and_then(|()| self.socket.recv(&mut buffer));
            let length = match received {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error).context(|| "hear answers".into()),
            };
            // SAFETY: so many bytes were received into the buffer.
            let frame = unsafe { buffer[..length].assume_init_ref() };
            if let Some(claim) = announce::parse_claim(frame) {
                hear(claim.address, claim.mac);
                until = Instant::now() + quiet;
            }
        }
        Ok(())
    }
}

fn open(index: u32) -> io::Result<Socket> {
    let all = (libc::ETH_P_ALL as u16).to_be();
    let socket = Socket::new(
        Domain::PACKET,
        Type::RAW,
        Some(Protocol::from(i32::from(all))),
    )?;
    let mut storage = socket2::SockAddrStorage::zeroed();
    // SAFETY: sockaddr_ll is one of the address types that the storage is made to hold.
    let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = all;
    address.sll_ifindex = index.cast_signed();
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the storage holds a whole sockaddr_ll, and `length` is its size.
    socket.bind(&unsafe { SockAddr::new(storage, length) })?;
    Ok(socket)
}
