//! Running other programs: commands that print as the shell line one could type instead, and the places they work in.

use std::{
    env,
    ffi::{OsStr, OsString},
    fmt, fs, io,
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::error::{Error, Result};

/// A command to run; its `Display` is a line for a POSIX shell that does the same.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Cmd {
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, Option<OsString>)>,
    dir: Option<PathBuf>,
}

impl Cmd {
    /// Begins a command.
    pub(crate) fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            dir: None,
        }
    }

    /// Adds one argument.
    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub(crate) fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args
            .extend(args.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }

    /// Sets a variable.
    pub(crate) fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env
            .push((key.as_ref().to_owned(), Some(value.as_ref().to_owned())));
        self
    }

    /// Takes a variable away.
    pub(crate) fn env_remove(mut self, key: impl AsRef<OsStr>) -> Self {
        self.env.push((key.as_ref().to_owned(), None));
        self
    }

    /// Sets the working directory.
    pub(crate) fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// The same as a `std` command.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.args);
        for (key, value) in &self.env {
            match value {
                Some(value) => command.env(key, value),
                None => command.env_remove(key),
            };
        }
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        command
    }

    /// Runs it to its end, with its stdout on our stderr: stdout belongs to a task's own result.
    pub(crate) fn run(&self) -> Result<()> {
        let stderr = io::stderr()
            .as_fd()
            .try_clone_to_owned()
            .map_err(|source| self.start_error(source))?;
        let status = self
            .command()
            .stdin(Stdio::null())
            .stdout(stderr)
            .status()
            .map_err(|source| self.start_error(source))?;
        if status.success() {
            Ok(())
        } else {
            Err(Error::Failed {
                command: self.brief(),
                status,
            })
        }
    }

    /// Runs it and returns its stdout; `None` if it failed or is not there, for questions where that is an answer.
    pub(crate) fn ask(&self) -> Option<String> {
        let out = self
            .command()
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output()
            .ok()?;
        out.status
            .success()
            .then(|| String::from_utf8_lossy(&out.stdout).into_owned())
    }

    /// The command without its environment, to name it in an error.
    pub(crate) fn brief(&self) -> String {
        Self {
            env: Vec::new(),
            dir: None,
            ..self.clone()
        }
        .to_string()
    }

    /// The error for a command that could not be started.
    pub(crate) fn start_error(&self, source: io::Error) -> Error {
        Error::Start {
            command: self.brief(),
            source,
        }
    }
}

impl fmt::Display for Cmd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(dir) = &self.dir {
            write!(f, "cd {} && ", quoted(dir.as_os_str()))?;
        }
        for (key, value) in &self.env {
            if let Some(value) = value {
                write!(f, "{}={} ", key.display(), quoted(value))?;
            }
        }
        write!(f, "{}", quoted(&self.program))?;
        for arg in &self.args {
            write!(f, " {}", quoted(arg))?;
        }
        Ok(())
    }
}

/// `word` as a shell reads it back unchanged.
fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.into_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// A step's title, on stderr.
pub(crate) fn say(text: impl fmt::Display) {
    eprintln!("xtask: {text}");
}

/// The workspace's root: xtask's own directory is one below it. Asked of the cargo that runs us first: what was true
/// when xtask was compiled is not in a checkout that has moved.
pub(crate) fn workspace() -> PathBuf {
    let now = env::var_os("CARGO_MANIFEST_DIR")
        .map(PathBuf::from)
        .filter(|dir| dir.ends_with("xtask"));
    let here = now.unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    here.parent().map_or_else(|| here.clone(), Path::to_owned)
}

/// The user's cargo, at the workspace root.
pub(crate) fn cargo() -> Cmd {
    Cmd::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into())).dir(workspace())
}

/// Where the outer cargo puts dev binaries: beside xtask itself, which it has just built.
pub(crate) fn binary_dir() -> Result<PathBuf> {
    let exe = env::current_exe().map_err(|source| Error::File {
        what: "find",
        path: "xtask itself".into(),
        source,
    })?;
    Ok(exe.parent().map_or_else(PathBuf::new, Path::to_owned))
}

/// Where it puts those of the release profile.
pub(crate) fn release_dir() -> Result<PathBuf> {
    let dir = binary_dir()?;
    // Beside the profile that xtask itself is of.
    Ok(dir
        .parent()
        .map_or_else(|| dir.clone(), |target| target.join("release")))
}

/// Finds a program on the PATH or in the directories of system administration, which a user's PATH may lack.
pub(crate) fn which(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|candidate| candidate.is_file())
}

/// Whether this process is root.
pub(crate) fn is_root() -> bool {
    fs::read_to_string("/proc/self/status").is_ok_and(|status| effective_uid(&status) == Some(0))
}

/// The effective user id in a `/proc/self/status`.
fn effective_uid(status: &str) -> Option<u32> {
    status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))?
        .split_whitespace()
        .nth(1)?
        .parse()
        .ok()
}

/// Creates a directory and those above it.
pub(crate) fn make_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|source| Error::File {
        what: "create",
        path: path.to_owned(),
        source,
    })
}

/// Writes a file, unless it already holds just that: its time is what cargo looks at. Returns whether it wrote.
pub(crate) fn write_if_changed(path: &Path, contents: &[u8]) -> Result<bool> {
    if fs::read(path).is_ok_and(|old| old == contents) {
        return Ok(false);
    }
    if let Some(dir) = path.parent() {
        make_dir(dir)?;
    }
    // Renamed into place, so that no reader sees half an object.
    let half = path.with_extension(format!("{}.tmp", std::process::id()));
    fs::write(&half, contents).map_err(|source| Error::File {
        what: "write",
        path: half.clone(),
        source,
    })?;
    fs::rename(&half, path).map_err(|source| Error::File {
        what: "write",
        path: path.to_owned(),
        source,
    })?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_prints_as_a_shell_line() {
        let cmd = Cmd::new("sh")
            .arg("-c")
            .arg("echo 'hi'")
            .env("A", "b c")
            .env_remove("X")
            .dir("/tmp/x y");
        assert_eq!(
            cmd.to_string(),
            r"cd '/tmp/x y' && A='b c' sh -c 'echo '\''hi'\'''"
        );
        assert_eq!(Cmd::new("true").arg("").to_string(), "true ''");
    }

    #[test]
    fn the_effective_uid_is_the_second() {
        assert_eq!(
            effective_uid("Name:\tx\nUid:\t1000\t0\t0\t0\nGid:\t1\t1\t1\t1\n"),
            Some(0)
        );
        assert_eq!(effective_uid("Name:\tx\n"), None);
    }

    #[test]
    fn a_file_is_written_only_when_it_changes() {
        let path = env::temp_dir()
            .join(format!("xtask-test-{}", std::process::id()))
            .join("file");
        assert!(write_if_changed(&path, b"a").unwrap());
        assert!(!write_if_changed(&path, b"a").unwrap());
        assert!(write_if_changed(&path, b"b").unwrap());
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }
}
