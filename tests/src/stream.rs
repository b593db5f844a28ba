//! A stream of numbered UDP datagrams, one each millisecond, and the count of those that found no
//! way to a server and back.
//!
//! This is the figure for what must lose nothing at all: a daemon that is killed and restarted.

use std::{
    io,
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

/// The stream; it ends on drop.
#[derive(Debug)]
pub struct UdpStream {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Result<()>>>,
}

/// A place in the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(usize);

impl UdpStream {
    /// Starts to send from `client` to the echo at `target`.
    ///
    /// # Errors
    ///
    /// The client's namespace is unusable.
    pub fn start(client: &Namespace, target: SocketAddr) -> Result<Self> {
        let socket = client.run(|| {
            let any = if target.is_ipv6() {
                "[::]:0"
            } else {
                "0.0.0.0:0"
            };
            let socket = UdpSocket::bind(any).context(|| "bind a UDP socket".into())?;
            let timeout = socket.set_read_timeout(Some(Duration::from_millis(50)));
            timeout.context(|| "set a timeout".into())?;
            Ok(socket)
        })?;
        let receiving = socket.try_clone().context(|| "share a socket".into())?;
        let shared = Arc::new(Shared::default());
        let (to_send, to_receive) = (shared.clone(), shared.clone());
        let threads = vec![
            thread::spawn(move || send(&socket, target, &to_send)),
            thread::spawn(move || receive(&receiving, target, &to_receive)),
        ];
        Ok(Self { shared, threads })
    }

    /// Here.
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark(self.echoed(Vec::len))
    }

    /// How many of the datagrams sent since `since` were lost; waits for the last echoes.
    #[must_use]
    pub fn lost(&self, since: Mark) -> u64 {
        let until = self.mark();
        let count = || {
            self.echoed(|echoed| {
                let part = echoed.get(since.0..until.0).unwrap_or_default();
                part.iter().filter(|&&echoed| !echoed).count() as u64
            })
        };
        // An echo that is late by more than this is as good as lost.
        let deadline = Instant::now() + Duration::from_millis(300);
        while count() > 0 && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
        count()
    }

    /// Whether the last datagrams are echoed.
    #[must_use]
    pub fn flows(&self) -> bool {
        self.echoed(|echoed| echoed.iter().rev().take(20).any(|&echoed| echoed))
    }

    /// Whether nothing was lost in the last third of a second, so that what is lost from here on
    /// is of what happens from here on.
    #[must_use]
    pub fn is_calm(&self) -> bool {
        // The very last ones may still be on their way.
        const RECENT: usize = 20;
        const CALM: usize = 300;
        self.echoed(|echoed| {
            let until = echoed.len().saturating_sub(RECENT);
            let from = until.checked_sub(CALM);
            from.is_some_and(|from| echoed[from..until].iter().all(|&echoed| echoed))
        })
    }

    fn echoed<T>(&self, read: impl FnOnce(&Vec<bool>) -> T) -> T {
        read(
            &self
                .shared
                .echoed
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }
}

impl Drop for UdpStream {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // Its result matters to nobody any more.
            let _ = thread.join();
        }
    }
}

#[derive(Debug, Default)]
struct Shared {
    /// By number: whether it came back.
    echoed: Mutex<Vec<bool>>,
    stop: AtomicBool,
}

fn send(socket: &UdpSocket, target: SocketAddr, shared: &Shared) -> Result<()> {
    let mut next = Instant::now();
    while !shared.stop.load(Ordering::Relaxed) {
        let number = {
            let mut echoed = shared.echoed.lock().unwrap_or_else(PoisonError::into_inner);
            echoed.push(false);
            echoed.len() as u64 - 1
        };
        // Not sent is not echoed: counted where it matters.
        let _ = socket.send_to(&number.to_be_bytes(), target);
        next += Duration::from_millis(1);
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    Ok(())
}

fn receive(socket: &UdpSocket, target: SocketAddr, shared: &Shared) -> Result<()> {
    let mut data = [0; 16];
    while !shared.stop.load(Ordering::Relaxed) {
        let received = match socket.recv_from(&mut data) {
            Ok((length, from)) if from == target => <[u8; 8]>::try_from(&data[..length]),
            // Another address's answer is none.
            Ok(_) => continue,
            Err(error) if is_timeout(&error) => continue,
            Err(error) => return Err(error).context(|| "receive echoes".into()),
        };
        let Ok(number) = received.map(u64::from_be_bytes) else {
            continue;
        };
        let mut echoed = shared.echoed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = usize::try_from(number).ok().and_then(|n| echoed.get_mut(n)) {
            *entry = true;
        }
    }
    Ok(())
}

fn is_timeout(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), WouldBlock | TimedOut | Interrupted)
}
