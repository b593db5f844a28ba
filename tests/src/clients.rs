//! UDP clients, each a flow of its own: whose backend can be looked up by its port, and who notices
//! when it changes.

use std::{
    io::ErrorKind,
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::{
    error::{Context, Result},
    netns::Namespace,
};

/// The clients; each sends ten datagrams a second. They end on drop.
#[derive(Debug)]
pub struct Clients {
    ports: Vec<u16>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Clients {
    /// `count` clients on `client` begin to talk to the echo at `target`, an IPv4 address.
    ///
    /// # Errors
    ///
    /// The client's namespace is unusable.
    pub fn start(client: &Namespace, target: SocketAddr, count: usize) -> Result<Self> {
        let sockets =
            client.run(|| (0..count).map(|_| open(target)).collect::<Result<Vec<_>>>())?;
        let address = |socket: &UdpSocket| socket.local_addr().context(|| "name a socket".into());
        let ports = sockets.iter().map(|socket| Ok(address(socket)?.port()));
        let ports = ports.collect::<Result<_>>()?;
        let shared = Arc::new(Shared {
            counts: Mutex::new(vec![Count::default(); count]),
            ..Shared::default()
        });
        let to_talk = shared.clone();
        Ok(Self {
            ports,
            shared,
            thread: Some(thread::spawn(move || talk(&sockets, &to_talk))),
        })
    }

    /// Their ports.
    #[must_use]
    pub fn ports(&self) -> &[u16] {
        &self.ports
    }

    /// Whether each got the echo of a datagram that it sent after `since`.
    #[must_use]
    pub fn all_answered_since(&self, since: Instant) -> bool {
        let answered = |count: &Count| count.echoed.is_some_and(|sent| sent > since);
        self.shared.counts(|counts| counts.iter().all(answered))
    }

    /// How many datagrams were lost since the start. They are silent until the last echoes are in.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.shared.paused.store(true, Ordering::SeqCst);
        // One that is in the middle of sending is through with it by then.
        thread::sleep(2 * ROUND / BATCHES);
        let missing = || {
            let missing = |count: &Count| count.sent.saturating_sub(count.received);
            self.shared
                .counts(|counts| counts.iter().map(missing).sum())
        };
        // An echo that is late by more than this is as good as lost.
        let deadline = Instant::now() + Duration::from_millis(300);
        while missing() > 0 && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
        let missing = missing();
        self.shared.paused.store(false, Ordering::SeqCst);
        missing
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        // Its result matters to nobody any more.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// In what time each client sends once.
const ROUND: Duration = Duration::from_millis(100);
/// In how many steps.
const BATCHES: u32 = 20;

#[derive(Debug, Default)]
struct Shared {
    counts: Mutex<Vec<Count>>,
    paused: AtomicBool,
    stop: AtomicBool,
}

impl Shared {
    fn counts<T>(&self, with: impl FnOnce(&mut [Count]) -> T) -> T {
        with(&mut self.counts.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[derive(Debug, Clone, Default)]
struct Count {
    sent: u64,
    received: u64,
    /// When the last datagram that came back was sent.
    echoed: Option<Instant>,
}

/// A socket that gets datagrams of `target` only.
fn open(target: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind("0.0.0.0:0").context(|| "bind a UDP socket".into())?;
    let connect = socket.connect(target);
    connect.context(|| format!("connect to {target}"))?;
    let set = socket.set_nonblocking(true);
    set.context(|| "set a socket non-blocking".into())?;
    Ok(socket)
}

fn talk(sockets: &[UdpSocket], shared: &Shared) {
    let start = Instant::now();
    let batch = sockets.len().div_ceil(BATCHES as usize).max(1);
    let mut next = start;
    loop {
        for (number, sockets) in sockets.chunks(batch).enumerate() {
            if shared.stop.load(Ordering::SeqCst) {
                return;
            }
            let silent = shared.paused.load(Ordering::SeqCst);
            shared.counts(|counts| {
                for (socket, count) in sockets.iter().zip(&mut counts[number * batch..]) {
                    if !silent {
                        count.sent += 1;
                        let nanos = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
                        // Not sent is not echoed: counted where it matters.
                        let _ = socket.send(&nanos.to_be_bytes());
                    }
                }
            });
            next += ROUND / BATCHES;
            thread::sleep(next.saturating_duration_since(Instant::now()));
            shared.counts(|counts| {
                for (socket, count) in sockets.iter().zip(&mut counts[number * batch..]) {
                    receive(socket, count, start);
                }
            });
        }
    }
}

/// Takes what has arrived.
fn receive(socket: &UdpSocket, count: &mut Count, start: Instant) {
    let mut data = [0; 8];
    loop {
        match socket.recv(&mut data) {
            Ok(_) => {
                count.received += 1;
                let sent = start + Duration::from_nanos(u64::from_be_bytes(data));
                count.echoed = count.echoed.max(Some(sent));
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            // A refusal that a server sent is reported once; what it refused counts as lost.
            Err(_) => {}
        }
    }
}
