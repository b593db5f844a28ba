//! The story of a run: a line an event, with the time since the beginning, and on a terminal a
//! status line below them.

use std::{
    io::{self, IsTerminal, Write},
    sync::{Mutex, PoisonError},
    time::Instant,
};

/// Where the story is told.
#[derive(Debug)]
pub struct Timeline {
    start: Instant,
    output: Output,
    status: Mutex<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Output {
    Stdout,
    Stderr,
    /// By `println!`, which a test harness keeps for a test that fails.
    Test,
}

impl Timeline {
    /// On stdout.
    #[must_use]
    pub fn stdout() -> Self {
        Self::new(Output::Stdout)
    }

    /// On stderr.
    #[must_use]
    pub fn stderr() -> Self {
        Self::new(Output::Stderr)
    }

    /// Kept for a test that fails.
    #[must_use]
    pub fn test() -> Self {
        Self::new(Output::Test)
    }

    /// Tells an event.
    pub fn event(&self, what: impl std::fmt::Display) {
        let line = format!("{:>8.3}s  {what}", self.start.elapsed().as_secs_f64());
        if self.output == Output::Test {
            println!("{line}");
            return;
        }
        let status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        self.write(&if self.is_live() {
            format!("{CLEAR}{line}\n{status}")
        } else {
            format!("{line}\n")
        });
    }

    /// A heading.
    pub fn heading(&self, what: &str) {
        self.status("");
        self.write(&format!("\n{what}\n"));
    }

    /// Replaces the status line, where there is one.
    pub fn status(&self, line: &str) {
        if self.is_live() {
            let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
            status.clear();
            status.push_str(line);
            self.write(&format!("{CLEAR}{line}"));
        }
    }

    /// Seconds since the beginning.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    /// Whether somebody watches a status line.
    #[must_use]
    pub fn is_live(&self) -> bool {
        match self.output {
            Output::Stdout => io::stdout().is_terminal(),
            Output::Stderr => io::stderr().is_terminal(),
            Output::Test => false,
        }
    }

    fn new(output: Output) -> Self {
        Self {
            start: Instant::now(),
            output,
            status: Mutex::default(),
        }
    }

    fn write(&self, text: &str) {
        // A story that nobody can hear any more is not worth dying for.
        let _ = match self.output {
            Output::Stdout => io::stdout()
                .write_all(text.as_bytes())
                .and_then(|()| io::stdout().flush()),
            Output::Stderr => io::stderr().write_all(text.as_bytes()),
            Output::Test => {
                print!("{text}");
                Ok(())
            }
        };
    }
}

/// Back to the line's beginning; erase it.
const CLEAR: &str = "\r\x1b[2K";
