//! The load: a client that sends a numbered datagram to the virtual address each millisecond, and on
//! each node what answers it with the node's name.
//!
//! Both run in threads of this process, on a CPU of their own and with a real-time priority below that
//! of steerd's: what is measured is when a node takes over, not when a busy machine gives a client its
//! turn.

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

use socket2::{Domain, Protocol, Socket, Type};

use super::{
    cpus::{self, Part},
    trace::{Answer, PERIOD, Trace},
};
use crate::{
    error::{Context, Result},
    netns::Namespace,
    node::NodeId,
};

/// The client; it ends on drop.
#[derive(Debug)]
pub struct Beat {
    trace: Arc<Mutex<Trace>>,
    threads: Threads,
}

impl Beat {
    /// Starts to send from `client` to `target`.
    ///
    /// # Errors
    ///
    /// The client's namespace is unusable, or threads get no real-time priority.
    pub fn start(client: &Namespace, target: SocketAddr) -> Result<Self> {
        let socket = client.run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").context(|| "bind a UDP socket".into())?;
            let timeout = socket.set_read_timeout(Some(WAKE));
            timeout.context(|| "set a timeout".into())?;
            Ok(socket)
        })?;
        let receiving = socket.try_clone().context(|| "share a socket".into())?;
        let trace = Arc::new(Mutex::new(Trace::default()));
        let (to_send, to_receive) = (trace.clone(), trace.clone());
        let mut threads = Threads::default();
        threads.spawn(move |stop| send(&socket, target, &to_send, stop));
        threads.spawn(move |stop| receive(&receiving, target, &to_receive, stop));
        Ok(Self { trace, threads })
    }

    /// Looks at what it saw.
    ///
    /// # Errors
    ///
    /// A thread of it failed.
    pub fn read<T>(&self, read: impl FnOnce(&Trace) -> T) -> Result<T> {
        self.threads.check()?;
        Ok(read(
            &self.trace.lock().unwrap_or_else(PoisonError::into_inner),
        ))
    }
}

/// What answers on a node; it ends on drop.
#[derive(Debug)]
pub struct Echo {
    _threads: Threads,
}

impl Echo {
    /// Answers what comes to `address` on `host`, which may not have it yet, in the name of `node`.
    ///
    /// # Errors
    ///
    /// The port is taken.
    pub fn start(host: &Namespace, address: SocketAddr, node: NodeId) -> Result<Self> {
        let socket = host.run(|| {
            let what = || format!("answer at {address}");
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP));
            let socket = socket.context(what)?;
            // Bound to it, it answers from it.
            socket.set_freebind_v4(true).context(what)?;
            socket.bind(&address.into()).context(what)?;
            socket.set_read_timeout(Some(WAKE)).context(what)?;
            Ok(UdpSocket::from(socket))
        })?;
        let mut threads = Threads::default();
        threads.spawn(move |stop| echo(&socket, node, stop));
        Ok(Self { _threads: threads })
    }
}

fn send(
    socket: &UdpSocket,
    target: SocketAddr,
    trace: &Mutex<Trace>,
    stop: &AtomicBool,
) -> Result<()> {
    let mut next = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let number = {
            let mut trace = trace.lock().unwrap_or_else(PoisonError::into_inner);
            trace.send(Instant::now()) as u64
        };
        // Not sent is not answered: counted where it matters.
        let _ = socket.send_to(&number.to_be_bytes(), target);
        next += PERIOD;
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    Ok(())
}

fn receive(
    socket: &UdpSocket,
    target: SocketAddr,
    trace: &Mutex<Trace>,
    stop: &AtomicBool,
) -> Result<()> {
    let mut data = [0; 16];
    while !stop.load(Ordering::Relaxed) {
        let (length, from) = match socket.recv_from(&mut data) {
            Ok(received) => received,
            Err(error) if is_nothing(&error) => continue,
            Err(error) => return Err(error).context(|| "receive answers".into()),
        };
        let at = Instant::now();
        // Another address's answer is none.
        if from != target || length != 9 {
            continue;
        }
        let mut number = [0; 8];
        number.copy_from_slice(&data[..8]);
        let node = NodeId::ALL.into_iter().find(|&node| node as u8 == data[8]);
        let number = usize::try_from(u64::from_be_bytes(number));
        if let (Some(node), Ok(number)) = (node, number) {
            let mut trace = trace.lock().unwrap_or_else(PoisonError::into_inner);
            trace.answered(Answer { at, number, node });
        }
    }
    Ok(())
}

fn echo(socket: &UdpSocket, node: NodeId, stop: &AtomicBool) -> Result<()> {
    let mut data = [0; 16];
    while !stop.load(Ordering::Relaxed) {
        match socket.recv_from(&mut data) {
            Ok((8, client)) => {
                data[8] = node as u8;
                // What cannot be answered is lost, which is what the client counts.
                let _ = socket.send_to(&data[..9], client);
            }
            Ok(_) => {}
            Err(error) if is_nothing(&error) => {}
            Err(error) => return Err(error).context(|| "receive datagrams".into()),
        }
    }
    Ok(())
}

/// How often a thread that waits looks whether it is to end.
const WAKE: Duration = Duration::from_millis(50);

/// Whether a receive call just has nothing to tell; an ICMP error is of a datagram that was lost.
fn is_nothing(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionRefused, HostUnreachable, Interrupted, NetworkUnreachable, TimedOut, WouldBlock,
    };
    matches!(
        error.kind(),
        WouldBlock
            | TimedOut
            | Interrupted
            | ConnectionRefused
            | HostUnreachable
            | NetworkUnreachable
    )
}

/// Real-time threads that end together, on drop.
#[derive(Debug, Default)]
pub(super) struct Threads {
    stop: Arc<AtomicBool>,
    failed: Arc<Mutex<Option<String>>>,
    handles: Vec<JoinHandle<()>>,
}

impl Threads {
    pub(super) fn spawn(&mut self, work: impl FnOnce(&AtomicBool) -> Result<()> + Send + 'static) {
        let (stop, failed) = (self.stop.clone(), self.failed.clone());
        self.handles.push(thread::spawn(move || {
            let ready = cpus::keep_to(Part::Load).and_then(|()| make_realtime());
            if let Err(error) = ready.and_then(|()| work(&stop)) {
                *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
            }
        }));
    }

    /// Whether all still work.
    pub(super) fn check(&self) -> Result<()> {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        match &*failed {
            None => Ok(()),
            Some(said) => Err(crate::error::Error::Traffic {
                program: "the benchmark's client",
                said: said.clone(),
            }),
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.handles.drain(..) {
            // What it failed at was told when it was asked for.
            let _ = thread.join();
        }
    }
}

/// The least real-time priority for the calling thread: before all that is ordinary, after steerd.
fn make_realtime() -> Result<()> {
    let parameters = libc::sched_param { sched_priority: 1 };
    let policy = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
    // SAFETY: the pointer is to a live, whole sched_param, which the kernel only reads; 0 is the
    // calling thread.
    if unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) } == 0 {
        return Ok(());
    }
    Err(io::Error::last_os_error()).context(|| "give a thread real-time priority".into())
}
