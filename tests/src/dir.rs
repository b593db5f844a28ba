//! The directory of a lab: configurations and logs. The only thing that a lab killed half-way
//! leaves behind, and so the only thing to sweep.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use crate::{
    error::{Context, Result},
    process::tail,
};

/// A directory whose name tells the process that owns it; removed on drop. A panicking test shows
/// the ends of the logs in it first.
#[derive(Debug)]
pub struct Dir(PathBuf);

impl Dir {
    /// A new one in the system's temporary directory.
    ///
    /// # Errors
    ///
    /// That cannot be written.
    pub fn new() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("{PREFIX}{}-{number}", process::id()));
        fs::create_dir(&path).context(|| format!("make {}", path.display()))?;
        Ok(Self(path))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The ends of all logs in it.
    #[must_use]
    pub fn logs(&self) -> String {
        let Ok(entries) = fs::read_dir(&self.0) else {
            return String::new();
        };
        let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
        paths.sort();
        let show = |path: &PathBuf| {
            let name = path.file_stem().unwrap_or_default().display();
            format!("--- {name}\n{}\n", tail(path))
        };
        paths.iter().map(show).collect()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        if thread::panicking() {
            println!("{}", self.logs());
        }
        // It is in the temporary directory: `steerd-lab clean` finds it too.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Removes the directories of labs whose process is gone, and returns them.
///
/// # Errors
///
/// The temporary directory cannot be read.
pub fn sweep() -> Result<Vec<PathBuf>> {
    let dir = env::temp_dir();
    let what = || format!("sweep {}", dir.display());
    let mut swept = Vec::new();
    for entry in fs::read_dir(&dir).context(what)? {
        let path = entry.context(what)?.path();
        if owner(&path).is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            match fs::remove_dir_all(&path) {
                // Another sweeper was faster.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                removed => {
                    removed.context(what)?;
                    swept.push(path);
                }
            }
        }
    }
    Ok(swept)
}

const PREFIX: &str = "steerd-lab-";

/// The process that owns a lab's directory; none: it is no such directory.
fn owner(path: &Path) -> Option<u32> {
    let (pid, number) = path
        .file_name()?
        .to_str()?
        .strip_prefix(PREFIX)?
        .split_once('-')?;
    number.parse::<u32>().ok()?;
    pid.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_directories_of_the_dead_are_swept() {
        let mine = Dir::new().unwrap();
        // Above the largest process id there can be.
        let dead = env::temp_dir().join(format!("{PREFIX}4194305-0"));
        let foreign = env::temp_dir().join(format!("{PREFIX}notes-{}", process::id()));
        fs::create_dir_all(dead.join("deep")).unwrap();
        fs::create_dir_all(&foreign).unwrap();
        sweep().unwrap();
        let (mine, dead, foreign) = (mine.path().exists(), dead.exists(), fs::remove_dir(foreign));
        assert!(mine && !dead && foreign.is_ok());
    }
}
