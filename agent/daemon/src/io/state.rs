//! What a daemon leaves for the next one of the same boot: of which virtual routers it was master.
//!
//! The state directory is on a tmpfs, so the file does not outlive the boot. Whether it is recent
//! is told by the heartbeat in the pinned control map, which the daemon writes all the time; the
//! file is written only when a role changes.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use steerd_core::config::Name;

/// The state of this node in a file.
pub(crate) struct StateFile {
    path: PathBuf,
    written: Option<State>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    masters: BTreeSet<Name>,
}

/// The file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {path}: {source}; check `state_dir` under [node]")]
pub(crate) struct StateError {
    path: PathBuf,
    source: io::Error,
}

impl StateFile {
    /// The file in `dir`, which is made if it is missing.
    pub(crate) fn open(dir: &Path) -> Result<Self, StateError> {
        let path = dir.join("state.json");
        fs::create_dir_all(dir).map_err(|source| StateError {
            path: path.clone(),
            source,
        })?;
        Ok(Self {
            path,
            written: None,
        })
    }

    /// Of which virtual routers the last daemon was master; none if it did not say, or said it in
    /// a way that this version does not understand.
    pub(crate) fn masters(&self) -> BTreeSet<Name> {
        let state = fs::read(&self.path)
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok());
        state.map(|State { masters }| masters).unwrap_or_default()
    }

    /// Notes of which virtual routers this daemon is master.
    pub(crate) fn set_masters(&mut self, masters: BTreeSet<Name>) -> Result<(), StateError> {
        let state = State { masters };
        if self.written.as_ref() == Some(&state) {
            return Ok(());
        }
        let fail = |source| StateError {
            path: self.path.clone(),
            source,
        };
        let text = serde_json::to_vec(&state).map_err(|error| fail(error.into()))?;
        // A reader sees the old state or the new one.
        let fresh = self.path.with_extension("new");
        fs::write(&fresh, text)
            .and_then(|()| fs::rename(&fresh, &self.path))
            .map_err(fail)?;
        self.written = Some(state);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_daemon_knows() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = StateFile::open(&dir.path().join("steerd")).unwrap();
        assert!(file.masters().is_empty());
        file.set_masters(BTreeSet::from([Name::new("game")]))
            .unwrap();
        let next = StateFile::open(&dir.path().join("steerd")).unwrap();
        assert_eq!(next.masters(), BTreeSet::from([Name::new("game")]));
        fs::write(&next.path, "{\"masters\": 7}").unwrap();
        assert!(next.masters().is_empty(), "not understood: as if cold");
    }
}
