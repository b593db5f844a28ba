//! The peer channel's connections: TLS 1.3 with certificates on both sides, one for each pair of nodes.
//!
//! * [`Channel`] is what the driver holds: it sends, follows the configuration, and tells the status.
//! * [`identity`] says who this node is and whom it believes; [`mod@line`] is one connection; [`refusal`]
//!   counts those that came to nothing.
//!
//! Each node listens, and dials every peer to which there is no connection. Where both dial at once,
//! the connection that the node of the lesser name dialled stays; of two from one side, the newer.
//! All of it runs on the worker; what arrives goes to the driver as [`Event::Channel`].
//!
//! Nobody can hold the daemon up: handshakes are bounded in time and number, with places kept for the
//! addresses of peers; the queue to a peer is bounded, and one that does not read is cut off; a frame
//! takes memory only as it arrives.

mod identity;
mod line;
mod refusal;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    hash::{BuildHasher as _, RandomState},
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use steerd_core::{
    api::RefusedPeers,
    channel::{Happening, Message, codec},
    config::{ChannelPeer, Config, Name},
    event::Event,
};
use tokio::{
    net::TcpListener,
    runtime::Handle,
    sync::{Notify, Semaphore, mpsc},
    task::AbortHandle,
};
use tracing::warn;

pub(crate) use self::identity::{Identity, IdentityError};
use self::{
    identity::expiry,
    line::Line,
    refusal::{Cause, Refusal, Refusals},
};

/// Messages that wait to be sent: to one peer, and before they are sorted by peer.
const QUEUE: usize = 256;
const OUTBOX: usize = 1024;

/// Handshakes at a time: of whoever connects, and of those who do from a peer's address.
const STRANGERS: usize = 8;
const KNOWN: usize = 16;

/// The time between two attempts to reach a peer.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// After so long a connection counts as one that worked.
const STABLE: Duration = Duration::from_secs(10);

/// Why there is no channel.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChannelError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(
        "cannot listen for peers at {listen}: {source}; correct `listen` in [channel], or stop what \
         listens there"
    )]
    Listen {
        listen: SocketAddr,
        source: io::Error,
    },
}

/// The connections to all peers.
pub(crate) struct Channel {
    shared: Arc<Shared>,
    /// Messages on their way to the queues of their peers.
    outbox: mpsc::Sender<(Name, Vec<u8>)>,
    workers: Handle,
    listening: Option<(SocketAddr, AbortHandle)>,
    dialling: Vec<AbortHandle>,
}

/// What the status tells of a connection.
#[derive(Debug, Clone, Default)]
pub(crate) struct LineStatus {
    /// Why the last attempt failed.
    pub(crate) error: Option<String>,
    /// When the peer's certificate expires.
    pub(crate) expires: Option<i64>,
}

/// What the connections work by.
struct Settings {
    identity: Identity,
    listen: SocketAddr,
    peers: Vec<ChannelPeer>,
}

struct Shared {
    events: mpsc::Sender<Event>,
    state: Mutex<State>,
    refusals: Refusals,
    strangers: Arc<Semaphore>,
    known: Arc<Semaphore>,
    /// A message found no room: whoever it was for has a wrong idea of this node.
    overflown: AtomicBool,
}

#[derive(Default)]
struct State {
    settings: Option<Arc<Settings>>,
    lines: BTreeMap<Name, Open>,
    errors: BTreeMap<Name, String>,
    /// Told when a peer's connection ends.
    ends: BTreeMap<Name, Arc<Notify>>,
    next: u64,
}

/// A connection that counts.
struct Open {
    number: u64,
    /// Whether this node made it.
    dialled: bool,
    queue: mpsc::Sender<Vec<u8>>,
    stop: Arc<Notify>,
    expires: i64,
}

impl Channel {
    /// A channel without connections; [`Channel::configure`] opens them.
    pub(crate) fn new(events: mpsc::Sender<Event>, workers: Handle) -> Self {
        let shared = Arc::new(Shared {
            events,
            state: Mutex::default(),
            refusals: Refusals::default(),
            strangers: Arc::new(Semaphore::new(STRANGERS)),
            known: Arc::new(Semaphore::new(KNOWN)),
            overflown: AtomicBool::new(false),
        });
        let (outbox, posted) = mpsc::channel(OUTBOX);
        workers.spawn(route(Arc::clone(&shared), posted));
        Self {
            shared,
            outbox,
            workers,
            listening: None,
            dialling: Vec::new(),
        }
    }

    /// Works by `config` from now on, with the certificates as they are now. Connections to peers that
    /// are still peers stay, unless the certificates are others.
    ///
    /// # Errors
    ///
    /// The certificates cannot be used: all stays as it was. Or nobody can listen where it is to: then
    /// it dials only, until the next call.
    pub(crate) fn configure(&mut self, config: &Config) -> Result<(), ChannelError> {
        let settings = match &config.channel {
            None => None,
            Some(channel) => Some(Arc::new(Settings {
                identity: Identity::load(channel, &config.node.name)?,
                listen: channel.listen,
                peers: channel.peers.clone(),
            })),
        };
        let before = {
            let mut state = self.shared.lock();
            let before = state.settings.clone();
            let fits = |before: &Settings, now: &Settings| {
                before.identity.is_same(&now.identity)
                    && before.listen == now.listen
                    && before.peers == now.peers
            };
            let unchanged = match (&before, &settings) {
                (Some(before), Some(now)) => fits(before, now),
                (None, None) => true,
                _ => false,
            };
            if unchanged && self.listening.is_some() == settings.is_some() {
                return Ok(());
            }
            state.settings.clone_from(&settings);
            before
        };
        for dialling in self.dialling.drain(..) {
            dialling.abort();
        }
        self.close_others(before.as_deref(), settings.as_deref());
        let Some(settings) = settings else {
            if let Some((_, listening)) = self.listening.take() {
                listening.abort();
            }
            return Ok(());
        };
        for warning in settings.identity.warnings() {
            warn!("{warning}");
        }
        for peer in settings.peers.clone() {
            let (shared, settings) = (Arc::clone(&self.shared), Arc::clone(&settings));
            let task = self.workers.spawn(dial(shared, settings, peer));
            self.dialling.push(task.abort_handle());
        }
        self.listen(settings.listen)
    }

    /// Sends `message` to `peer`, if there is a connection. Does not wait, not even for a lock that the
    /// worker holds while others have its CPU: this is called by the real-time thread.
    pub(crate) fn send(&self, peer: &Name, message: &Message) {
        match codec::encode(message) {
            Ok(frame) => {
                if self.outbox.try_send((peer.clone(), frame)).is_err() {
                    self.shared.overflown.store(true, Ordering::Relaxed);
                }
            }
            Err(error) => self.shared.refusals.count(&error.into(), peer),
        }
    }

    /// When this node's certificate expires, and what is wrong, each with what to do.
    pub(crate) fn health(&self) -> Option<(i64, Vec<String>)> {
        let state = self.shared.lock();
        let settings = state.settings.as_ref()?;
        let mut warnings = settings.identity.warnings();
        for (peer, open) in &state.lines {
            warnings.extend(expiry(open.expires).map(|when| {
                format!("the certificate of {peer} {when}: make a new one by `steerctl pki issue {peer}`")
            }));
        }
        Some((settings.identity.expires, warnings))
    }

    /// The connection to `peer`.
    pub(crate) fn line(&self, peer: &Name) -> LineStatus {
        let state = self.shared.lock();
        LineStatus {
            error: state.errors.get(peer).cloned(),
            expires: state.lines.get(peer).map(|open| open.expires),
        }
    }

    /// Connections that came to nothing, by cause.
    pub(crate) fn refused(&self) -> Vec<RefusedPeers> {
        let counts = self.shared.refusals.counts().into_iter();
        let told = counts.map(|(cause, times)| RefusedPeers {
            cause: cause.to_string(),
            times,
        });
        told.collect()
    }

    /// Ends the connections to those who are no peers any more, or all where the certificates changed.
    fn close_others(&self, before: Option<&Settings>, now: Option<&Settings>) {
        let same = before
            .zip(now)
            .is_some_and(|(before, now)| before.identity.is_same(&now.identity));
        let is_peer =
            |name: &Name| now.is_some_and(|now| now.peers.iter().any(|peer| peer.name == *name));
        let mut state = self.shared.lock();
        for (name, open) in &state.lines {
            if !same || !is_peer(name) {
                open.stop.notify_one();
            }
        }
        state.errors.retain(|name, _| is_peer(name));
    }

    fn listen(&mut self, at: SocketAddr) -> Result<(), ChannelError> {
        if let Some((old, listening)) = self.listening.take() {
            if old == at {
                self.listening = Some((old, listening));
                return Ok(());
            }
            listening.abort();
        }
        let failed = |source| ChannelError::Listen { listen: at, source };
        let listener = bind(at).map_err(failed)?;
        let _entered = self.workers.enter();
        let listener = TcpListener::from_std(listener).map_err(failed)?;
        let task = self.workers.spawn(take(Arc::clone(&self.shared), listener));
        self.listening = Some((at, task.abort_handle()));
        Ok(())
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        for dialling in self.dialling.drain(..) {
            dialling.abort();
        }
        if let Some((_, listening)) = self.listening.take() {
            listening.abort();
        }
        for open in self.shared.lock().lines.values() {
            open.stop.notify_one();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a connection the one that counts, if it is to be; then runs it in a task of its own.
    fn open(self: &Arc<Self>, settings: &Arc<Settings>, line: Line, dialled: bool) -> bool {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let stop = Arc::new(Notify::new());
        let mut state = self.lock();
        let current = state.settings.as_ref();
        if !current.is_some_and(|current| Arc::ptr_eq(current, settings)) {
            return false; // from before a reload: it dials again
        }
        if let Some(other) = state.lines.get(&line.peer) {
            let lesser_dialled = settings.identity.node < line.peer;
            let keeps = other.dialled != dialled && other.dialled == lesser_dialled;
            if keeps {
                return false;
            }
            other.stop.notify_one();
        }
        state.next += 1;
        let number = state.next;
        state.errors.remove(&line.peer);
        state.lines.insert(
            line.peer.clone(),
            Open {
                number,
                dialled,
                queue,
                stop: Arc::clone(&stop),
                expires: line.expires,
            },
        );
        drop(state);
        tokio::spawn(Arc::clone(self).run(line, number, waiting, stop));
        true
    }

    async fn run(
        self: Arc<Self>,
        line: Line,
        number: u64,
        mut waiting: mpsc::Receiver<Vec<u8>>,
        stop: Arc<Notify>,
    ) {
        let Line {
            stream,
            peer,
            hello,
            ..
        } = line;
        let ear = Ear {
            shared: Arc::clone(&self),
            peer: peer.clone(),
            number,
        };
        ear.hears(Happening::Up(hello)).await;
        let ended = tokio::select! {
            ended = line::run(stream, &mut waiting, &ear) => Some(ended),
            () = stop.notified() => None,
        };
        if let Some(refusal) = &ended
            && refusal.cause != Cause::Cut
        {
            self.refusals.count(refusal, &peer);
        }
        let (ours, end) = {
            let mut state = self.lock();
            let ours = state
                .lines
                .get(&peer)
                .is_some_and(|open| open.number == number);
            if ours {
                state.lines.remove(&peer);
                state
                    .errors
                    .extend(ended.map(|ended| (peer.clone(), ended.to_string())));
            }
            (ours, state.ends.get(&peer).cloned())
        };
        if ours {
            let what = Happening::Down;
            let peer = peer.clone();
            // The driver is gone: nobody wants to know.
            let _ = self.events.send(Event::Channel { peer, what }).await;
            if let Some(end) = end {
                end.notify_waiters();
            }
        }
    }
}

/// Where what a peer says on one connection goes.
struct Ear {
    shared: Arc<Shared>,
    peer: Name,
    number: u64,
}

impl Ear {
    /// Hands on what happened, unless another connection counts by now.
    async fn hears(&self, what: Happening) {
        let counts = |open: &Open| open.number == self.number;
        if self.shared.lock().lines.get(&self.peer).is_some_and(counts) {
            let peer = self.peer.clone();
            // The driver is gone: nobody wants to know.
            let _ = self.shared.events.send(Event::Channel { peer, what }).await;
        }
    }
}

/// Sorts what is to be sent by peer. To leave a message out would leave the peer with a wrong idea for
/// good; on a new connection it learns all anew.
async fn route(shared: Arc<Shared>, mut posted: mpsc::Receiver<(Name, Vec<u8>)>) {
    while let Some((peer, frame)) = posted.recv().await {
        let state = shared.lock();
        if shared.overflown.swap(false, Ordering::Relaxed) {
            state.lines.values().for_each(|open| open.stop.notify_one());
            let refusal = Refusal::new(Cause::Stuck, "this node does not keep up");
            shared.refusals.count(&refusal, &"all peers");
            continue;
        }
        let Some(open) = state.lines.get(&peer) else {
            continue;
        };
        if let Err(mpsc::error::TrySendError::Full(_)) = open.queue.try_send(frame) {
            open.stop.notify_one();
            let refusal = Refusal::new(Cause::Stuck, "its queue is full");
            shared.refusals.count(&refusal, &peer);
        }
    }
}

/// Keeps a connection to `peer`, where it does not make one itself.
async fn dial(shared: Arc<Shared>, settings: Arc<Settings>, peer: ChannelPeer) {
    let end = Arc::new(Notify::new());
    {
        let mut state = shared.lock();
        state.ends.insert(peer.name.clone(), Arc::clone(&end));
    }
    let mut pause = SHORTEST_PAUSE;
    loop {
        let began = Instant::now();
        loop {
            // Before the look, so that an end right after it is not missed.
            let ended = end.notified();
            if !shared.lock().lines.contains_key(&peer.name) {
                break;
            }
            ended.await;
        }
        if began.elapsed() >= STABLE {
            pause = SHORTEST_PAUSE;
        }
        match line::dial(&settings, &peer.name, peer.address).await {
            Ok(line) => {
                shared.open(&settings, line, true);
            }
            Err(refusal) => {
                // That it cannot be reached is told by the status; refusals are counted too.
                if refusal.cause != Cause::Cut {
                    shared.refusals.count(&refusal, &peer.name);
                }
                let mut state = shared.lock();
                if !state.lines.contains_key(&peer.name) {
                    state.errors.insert(peer.name.clone(), refusal.to_string());
                }
            }
        }
        tokio::time::sleep(jittered(pause)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Takes connections.
async fn take(shared: Arc<Shared>, listener: TcpListener) {
    loop {
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, or the other side is gone already.
                let refusal = Refusal::new(Cause::Busy, error.to_string());
                shared.refusals.count(&refusal, &"nobody yet");
                tokio::time::sleep(SHORTEST_PAUSE).await;
                continue;
            }
        };
        let Some(settings) = shared.lock().settings.clone() else {
            continue;
        };
        let address = from.ip().to_canonical();
        let is_peer = |peer: &ChannelPeer| peer.address.ip().to_canonical() == address;
        let places = match settings.peers.iter().any(is_peer) {
            true => &shared.known,
            false => &shared.strangers,
        };
        let Ok(place) = Arc::clone(places).try_acquire_owned() else {
            let refusal = Refusal::new(Cause::Busy, "it was not let in");
            shared.refusals.count(&refusal, &address);
            continue;
        };
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let accepted = line::accept(&settings, stream).await;
            drop(place);
            match accepted {
                Ok(line) => {
                    shared.open(&settings, line, false);
                }
                Err(refusal) => shared.refusals.count(&refusal, &address),
            }
        });
    }
}

fn bind(at: SocketAddr) -> io::Result<std::net::TcpListener> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    // An address that comes later, on an interface that is not up yet, will do.
    match at.ip() {
        IpAddr::V4(_) => socket.set_freebind_v4(true)?,
        IpAddr::V6(_) => socket.set_freebind_v6(true)?,
    }
    socket.bind(&at.into())?;
    socket.listen(64)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// From half of `pause` to one and a half, so that nodes do not meet again and again.
fn jittered(pause: Duration) -> Duration {
    let random = RandomState::new().hash_one(0) % 1000;
    pause / 2 + pause * u32::try_from(random).unwrap_or(0) / 1000
}
