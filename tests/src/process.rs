//! A program on a host: started, watched, and killed by its own process id, on drop at the latest.

use std::{
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    error::{Context, Error, Result},
    wait,
};

/// A running program.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts it, with its output appended to `log`.
    ///
    /// # Errors
    ///
    /// It cannot be executed, or the log cannot be written.
    pub fn start(name: impl Into<String>, mut command: Command, log: PathBuf) -> Result<Self> {
        let name = name.into();
        let open = || {
            let file = File::options().append(true).create(true).open(&log);
            file.context(|| format!("open {}", log.display()))
        };
        command.stdin(Stdio::null()).stdout(open()?).stderr(open()?);
        let child = command.spawn().context(|| format!("start {name}"))?;
        Ok(Self { name, child, log })
    }

    /// The programs that it started itself and that still run.
    #[must_use]
    pub fn children(&self) -> Vec<Pid> {
        let id = self.child.id();
        let list = fs::read_to_string(format!("/proc/{id}/task/{id}/children"));
        let list = list.unwrap_or_default();
        let ids = list.split_whitespace().filter_map(|id| id.parse().ok());
        ids.map(Pid::from_raw).collect()
    }

    /// How long it, in all its threads, and the programs that it started have worked.
    ///
    /// # Errors
    ///
    /// It is gone, or the kernel does not say.
    pub fn cpu_time(&mut self) -> Result<Duration> {
        self.check()?;
        let mut all = self.children();
        all.push(Pid::from_raw(self.child.id().cast_signed()));
        let mut total = Duration::ZERO;
        for pid in all {
            let tasks = format!("/proc/{pid}/task");
            for task in fs::read_dir(&tasks).context(|| format!("list {tasks}"))? {
                let path = task.context(|| format!("list {tasks}"))?.path();
                let path = path.join("schedstat");
                let text = fs::read_to_string(&path);
                let text = text.context(|| format!("read {}", path.display()))?;
                // The first figure: nanoseconds on a CPU.
                let worked = text
                    .split_whitespace()
                    .next()
                    .and_then(|ns| ns.parse().ok());
                total += Duration::from_nanos(worked.unwrap_or_default());
            }
        }
        Ok(total)
    }

    /// Kills it (SIGKILL) and waits until it is gone.
    ///
    /// # Errors
    ///
    /// None that a kernel is known to give.
    pub fn kill(&mut self) -> Result<()> {
        let what = || "kill a process".into();
        self.child.kill().context(what)?;
        self.child.wait().context(what)?;
        Ok(())
    }

    /// Sends it a signal.
    ///
    /// # Errors
    ///
    /// It is gone.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.check()?;
        let pid = Pid::from_raw(self.child.id().cast_signed());
        kill(pid, signal).context(|| format!("send {signal} to {}", self.name))
    }

    /// Waits for its end.
    ///
    /// # Errors
    ///
    /// It still runs after `deadline`.
    pub fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let Self { name, child, log } = self;
        wait::until(
            &format!("{name} to end"),
            deadline,
            || child.try_wait().context(|| format!("wait for {name}")),
            || format!("it still runs; its last words:\n{}", tail(log)),
        )
    }

    /// Whether it still runs.
    ///
    /// # Errors
    ///
    /// It does not: how it ended, and its last words.
    pub fn check(&mut self) -> Result<()> {
        match self
            .child
            .try_wait()
            .context(|| format!("ask for {}", self.name))?
        {
            None => Ok(()),
            Some(status) => Err(Error::Ended {
                process: self.name.clone(),
                status,
                log: tail(&self.log),
            }),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A process that is gone already needs nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a command to its end and returns its output; kills it after `deadline`.
///
/// # Errors
///
/// It cannot be executed, or took too long.
pub fn output(mut command: Command, deadline: Duration) -> Result<Output> {
    let name = command.get_program().to_string_lossy().into_owned();
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().context(|| format!("start {name}"))?;
    let read = |pipe: Option<Box<dyn Read + Send>>| {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            // What was read before an error is still the best answer there is.
            let _ = pipe.map(|mut pipe| pipe.read_to_end(&mut bytes));
            bytes
        })
    };
    let stdout = read(child.stdout.take().map(|pipe| Box::new(pipe) as _));
    let stderr = read(child.stderr.take().map(|pipe| Box::new(pipe) as _));
    let ended = wait::until(
        &format!("{name} to end"),
        deadline,
        || child.try_wait().context(|| format!("wait for {name}")),
        || "it was killed".into(),
    );
    if ended.is_err() {
        let _ = child.kill();
        let _ = child.wait();
    }
    let joined = |reader: thread::JoinHandle<Vec<u8>>| reader.join().unwrap_or_default();
    let (stdout, stderr) = (joined(stdout), joined(stderr));
    Ok(Output {
        status: ended?,
        stdout,
        stderr,
    })
}

/// The last lines of a log.
#[must_use]
pub fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

const LINES: usize = 40;
