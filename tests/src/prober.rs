//! A fresh connection and `GET /health` through the virtual address, each ten milliseconds.
//!
//! This is service as a new client sees it: an outage is the longest time between two successive
//! answers. Attempts overlap, so one that hangs hides none of those after it.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
    time::{MissedTickBehavior, interval, timeout},
};

use crate::{
    error::{Context, Result},
    game::Health,
    netns::Namespace,
};

/// The time between two attempts.
pub const PERIOD: Duration = Duration::from_millis(10);
/// How long one may take.
pub const TIMEOUT: Duration = Duration::from_millis(250);

/// The prober; it ends on drop.
#[derive(Debug)]
pub struct Prober {
    answers: Arc<Mutex<VecDeque<Answer>>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<()>>>,
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// When the attempt began.
    pub asked: Instant,
    /// When it was complete.
    pub at: Instant,
    /// Who answered.
    pub server: String,
}

impl Prober {
    /// Starts to probe `target` from `client`.
    ///
    /// # Errors
    ///
    /// The client's namespace is unusable.
    pub fn start(client: &Namespace, target: SocketAddr) -> Result<Self> {
        let answers = Arc::new(Mutex::default());
        let (stop, stopped) = oneshot::channel();
        let to_record = answers.clone();
        let thread = client.thread(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime
                .context(|| "start a runtime".into())?
                .block_on(async {
                    tokio::select! {
                        _ = stopped => {}
                        () = probe(target, to_record) => {}
                    }
                });
            Ok(())
        });
        Ok(Self {
            answers,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// The last answer.
    #[must_use]
    pub fn last(&self) -> Option<Answer> {
        self.read(|answers| answers.back().cloned())
    }

    /// The longest time without an answer since the last one before `since`, the time since the
    /// last of all included.
    #[must_use]
    pub fn outage(&self, since: Instant) -> Duration {
        self.read(|answers| {
            let times: Vec<Instant> = answers.iter().map(|answer| answer.at).collect();
            longest_gap(&times, since, Instant::now())
        })
    }

    fn read<T>(&self, read: impl FnOnce(&VecDeque<Answer>) -> T) -> T {
        read(&self.answers.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        drop(self.stop.take());
        // Its result matters to nobody any more.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Of ascending `times` and `now`: the longest step that ends after `since`.
fn longest_gap(times: &[Instant], since: Instant, now: Instant) -> Duration {
    let first = times
        .partition_point(|&time| time <= since)
        .saturating_sub(1);
    let from = times.get(first).copied().unwrap_or(since).min(since);
    let mut last = from;
    let mut longest = Duration::ZERO;
    for &time in times[first.min(times.len())..].iter().chain([&now]) {
        longest = longest.max(time.saturating_duration_since(last));
        last = time;
    }
    longest
}

async fn probe(target: SocketAddr, answers: Arc<Mutex<VecDeque<Answer>>>) {
    let mut tick = interval(PERIOD);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tick.tick().await;
        let answers = answers.clone();
        tokio::spawn(async move {
            let asked = Instant::now();
            // No answer is what is measured; why does not matter here.
            if let Ok(Ok(health)) = timeout(TIMEOUT, ask(target)).await {
                let mut answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
                answers.push_back(Answer {
                    asked,
                    at: Instant::now(),
                    server: health.server,
                });
                if answers.len() > KEPT {
                    answers.pop_front();
                }
            }
        });
    }
}

/// Ten minutes.
const KEPT: usize = 60_000;

async fn ask(target: SocketAddr) -> io::Result<Health> {
    let mut stream = TcpStream::connect(target).await?;
    let request = format!("GET /health HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (_, body) = answer
        .split_once("\r\n\r\n")
        .ok_or(io::ErrorKind::InvalidData)?;
    Ok(serde_json::from_str(body)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_counts_from_the_last_answer_before_the_event() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let times = [at(0), at(500), at(510), at(520), at(900), at(910)];
        let gap = |since, now| longest_gap(&times, at(since), at(now)).as_millis();
        assert_eq!(gap(515, 915), 380); // 520 to 900, not 0 to 500
        assert_eq!(gap(515, 2000), 1090); // still going on
        assert_eq!(gap(905, 912), 10);
        assert_eq!(longest_gap(&[], at(100), at(300)).as_millis(), 200);
    }
}
