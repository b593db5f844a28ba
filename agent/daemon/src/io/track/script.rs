//! Scripts: a program is run, and its exit code is the answer.
//!
//! A run ends in time, whatever the program does: at its timeout the whole process group is killed,
//! and so is what a program that ended by itself left running in it. Of one track there is one run at
//! a time: the next waits for the last one to be gone, and where that cannot be killed, as it hangs
//! in the kernel, there is none. A process that makes a group of its own escapes this.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use steerd_core::{
    config::{Name, Script},
    event::{Sight, TrackFailure},
};
use tokio::{
    io::AsyncReadExt,
    net::unix::pipe,
    sync::{Mutex as Slot, OwnedMutexGuard},
    task::spawn_blocking,
    time::{Instant, sleep, timeout_at},
};

use super::{Outcome, Reporter, exec, pidfd::PidFd};

/// What a script finds its programs by.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The scripts of all tracks.
#[derive(Default)]
pub(super) struct Scripts {
    /// Held by a run until its processes are gone.
    slots: BTreeMap<Name, Arc<Slot<()>>>,
    groups: Arc<Groups>,
}

impl Scripts {
    /// Runs `script` once.
    pub(super) fn run(
        &mut self,
        script: Script,
        timeout: Duration,
        reporter: Reporter,
    ) -> impl Future<Output = ()> + Send + 'static {
        self.slots.retain(|_, slot| Arc::strong_count(slot) > 1);
        let slot = self.slots.entry(reporter.track.clone()).or_default();
        run(
            script,
            timeout,
            Arc::clone(slot),
            Arc::clone(&self.groups),
            reporter,
        )
    }

    /// Kills the run of `track`, if there is one.
    pub(super) fn kill(&self, track: &Name) {
        self.groups.kill(track);
    }

    /// Kills all runs.
    pub(super) fn kill_all(&self) {
        for group in self.groups.lock().values() {
            kill(*group);
        }
    }
}

/// The process groups that run, by track. One is in here for as long as its leader was not waited
/// for, so its number is nobody else's.
#[derive(Default)]
struct Groups(Mutex<BTreeMap<Name, Pid>>);

impl Groups {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Name, Pid>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kill(&self, track: &Name) {
        if let Some(group) = self.lock().get(track) {
            kill(*group);
        }
    }

    /// Kills what is left of the group and waits for its leader, which has ended.
    fn reap(&self, track: &Name, child: &mut Child) -> io::Result<ExitStatus> {
        let mut groups = self.lock();
        if let Some(group) = groups.get(track) {
            kill(*group);
        }
        let status = child.wait();
        groups.remove(track);
        status
    }
}

fn kill(group: Pid) {
    // It may be gone already. Nothing else can be wrong but a missing CAP_KILL, which then shows as
    // a run that does not end.
    let _ = killpg(group, Signal::SIGKILL);
}

/// Whether a process of the group is more than a zombie.
fn lives(group: Pid) -> bool {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let stats = all.filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
    stats.into_iter().any(|stat| {
        // proc(5): number, name in parentheses, state, parent, group.
        let mut fields = stat
            .rsplit(") ")
            .next()
            .unwrap_or_default()
            .split_whitespace();
        let (state, its_group) = (fields.next(), fields.nth(1));
        !matches!(state, Some("Z" | "X")) && its_group == Some(group.to_string().as_str())
    })
}

async fn run(
    script: Script,
    timeout: Duration,
    slot: Arc<Slot<()>>,
    groups: Arc<Groups>,
    mut reporter: Reporter,
) {
    let deadline = Instant::now() + timeout;
    let Ok(turn) = timeout_at(deadline, slot.lock_owned()).await else {
        return reporter.report(Err(TrackFailure::Stuck)).await;
    };
    let track = reporter.track.clone();
    match Running::start(&script, &track, &groups, turn) {
        Ok(mut running) => {
            let in_time = running.end(Some(deadline)).await;
            running.groups.kill(&track);
            if in_time {
                let outcome = running.outcome(timeout);
                reporter.report(outcome).await;
            } else {
                let line = running.tail.line();
                let after = timeout;
                let late = TrackFailure::Timeout { after, line };
                reporter.report(Err(late)).await;
                running.end(None).await;
                // What it would say now is too late.
                drop(running.outcome(timeout));
            }
            // Only then is it the next one's turn.
            running.whole_end().await;
        }
        Err(error) => {
            let why = format!("cannot start a process: {error}");
            reporter.report(Err(TrackFailure::Local(why))).await;
        }
    }
}

/// A run under way.
struct Running {
    track: Name,
    child: Child,
    process: PidFd,
    /// None: it has closed its output.
    output: Option<pipe::Receiver>,
    tail: Tail,
    groups: Arc<Groups>,
    _turn: OwnedMutexGuard<()>,
}

impl Running {
    fn start(
        script: &Script,
        track: &Name,
        groups: &Arc<Groups>,
        turn: OwnedMutexGuard<()>,
    ) -> io::Result<Self> {
        let (output, input) = io::pipe()?;
        let output = pipe::Receiver::from_owned_fd(output.into())?;
        let mut command = command(script);
        command
            .env_clear()
            .env("PATH", PATH)
            .env("LANG", "C.UTF-8")
            .env("STEERD_TRACK", track.as_str())
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(input.try_clone()?)
            .stderr(input)
            .process_group(0);
        let mut child = command.spawn()?;
        let group = Pid::from_raw(child.id().cast_signed());
        let process = match PidFd::open(group) {
            Ok(process) => process,
            Err(error) => {
                kill(group);
                child.wait()?;
                return Err(error);
            }
        };
        groups.lock().insert(track.clone(), group);
        Ok(Self {
            track: track.clone(),
            child,
            process,
            output: Some(output),
            tail: Tail::default(),
            groups: Arc::clone(groups),
            _turn: turn,
        })
    }

    /// Takes its output until it ends; whether it did before the deadline.
    async fn end(&mut self, deadline: Option<Instant>) -> bool {
        /// Output is read this fast at most: what a script writes is not worth a CPU.
        const AT_A_TIME: usize = 64 * 1024;
        const PAUSE: Duration = Duration::from_millis(10);
        let mut buffer = [0; 4096];
        let mut taken = 0;
        let late = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(late);
        loop {
            let output = &mut self.output;
            let read = async {
                match output {
                    Some(output) => output.read(&mut buffer).await,
                    None => std::future::pending().await,
                }
            };
            let read = tokio::select! {
                biased;
                () = self.process.end() => break,
                () = &mut late => return false,
                read = read => read,
            };
            match read {
                Ok(0) | Err(_) => self.output = None,
                Ok(length) => {
                    self.tail.take(buffer.get(..length).unwrap_or_default());
                    taken += length;
                }
            }
            if taken >= AT_A_TIME {
                taken = 0;
                sleep(PAUSE).await;
            }
        }
        true
    }

    /// Waits for the others of its group to be gone, too: they were killed, but that takes its time,
    /// and they are not this process's children. Their group's number is nobody else's until then.
    async fn whole_end(&self) {
        const LOOK_CLOSER: Duration = Duration::from_millis(100);
        let group = Pid::from_raw(self.child.id().cast_signed());
        let mut pause = Duration::from_millis(1);
        while killpg(group, None).is_ok() {
            sleep(pause).await;
            pause = (pause * 2).min(LOOK_CLOSER);
            // Who is dead may stay a zombie, where their new parent does not wait for them.
            if pause == LOOK_CLOSER && !spawn_blocking(move || lives(group)).await.unwrap_or(true) {
                break;
            }
        }
    }

    /// Waits for the process, which has ended, and says how.
    fn outcome(&mut self, timeout: Duration) -> Outcome {
        self.take_rest();
        let line = self.tail.line();
        let status = self.groups.reap(&self.track, &mut self.child);
        let status = status.map_err(|error| TrackFailure::Local(error.to_string()))?;
        match (status.code(), status.signal()) {
            (Some(0), _) if line.is_empty() => Ok(Sight::of("exit code 0")),
            (Some(0), _) => Ok(Sight::of(line)),
            (Some(code), _) => Err(TrackFailure::Exit { code, line }),
            (None, Some(signal)) => Err(TrackFailure::Killed { signal, line }),
            (None, None) => Err(TrackFailure::Timeout {
                after: timeout,
                line,
            }),
        }
    }

    /// What it wrote right before its end: a pipe holds 64 KiB.
    fn take_rest(&mut self) {
        let mut buffer = [0; 4096];
        let Some(output) = &self.output else { return };
        for _ in 0..16 {
            match output.try_read(&mut buffer) {
                Ok(0) | Err(_) => break,
                Ok(length) => self.tail.take(buffer.get(..length).unwrap_or_default()),
            }
        }
    }
}

/// The end of what a script wrote.
#[derive(Default)]
struct Tail(Vec<u8>);

impl Tail {
    const KEPT: usize = 1024;
    /// Characters of a line.
    const SHOWN: usize = 160;

    fn take(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
        let surplus = self.0.len().saturating_sub(Self::KEPT);
        self.0.drain(..surplus);
    }

    /// The last line that is not blank, fit for a log.
    fn line(&self) -> String {
        let text = String::from_utf8_lossy(&self.0);
        let last = text.lines().rev().find(|line| !line.trim().is_empty());
        let shown = last.unwrap_or("").trim().chars();
        shown
            .filter(|character| !character.is_control())
            .take(Self::SHOWN)
            .collect()
    }
}

/// The daemon's own executable, which becomes the script. By this name it is found even when another
/// version has taken its place.
#[cfg(not(test))]
fn command(script: &Script) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command
        .arg(exec::ARGUMENT)
        .arg(std::process::id().to_string())
        .arg(script.user.as_deref().unwrap_or(""))
        .args(&script.argv);
    command
}

/// The executable is the tests'. What becoming a script means is tested end to end.
#[cfg(test)]
fn command(script: &Script) -> Command {
    let _ = exec::ARGUMENT;
    let mut argv = script.argv.iter();
    let mut command = Command::new(argv.next().map_or("", String::as_str));
    command.args(argv);
    command
}
