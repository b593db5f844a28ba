//! Kernel settings under `/proc/sys`: raised where they are too low, and put back at the end.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

/// Why a setting cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SysctlError {
    /// It cannot be read.
    #[error(
        "cannot read {path}: {source}; check that /proc is mounted and that the interface exists"
    )]
    Read { path: PathBuf, source: io::Error },
    /// It holds something that is no number.
    #[error("{path} holds `{value}`, which is no number; this kernel is not supported")]
    NotANumber { path: PathBuf, value: String },
    /// It cannot be changed.
    #[error(
        "cannot set {path} to {value}: {source}; run steerd with CAP_NET_ADMIN and a writable \
         /proc/sys/net (systemd: ProtectKernelTunables=no), or set it yourself with sysctl"
    )]
    Write {
        path: PathBuf,
        value: i64,
        source: io::Error,
    },
}

/// The settings that were changed, with what they were.
#[derive(Debug, Default)]
pub(crate) struct Sysctls {
    changed: BTreeMap<PathBuf, Change>,
}

#[derive(Debug, Clone, Copy)]
struct Change {
    before: i64,
    now: i64,
}

impl Sysctls {
    /// Sets `path` to `least` where it is lower.
    ///
    /// # Errors
    ///
    /// The setting cannot be read or written.
    pub(crate) fn raise(&mut self, path: &Path, least: i64) -> Result<(), SysctlError> {
        let before = read(path)?;
        if before >= least {
            return Ok(());
        }
        write(path, least)?;
        tracing::info!(path = %path.display(), before, now = least, "changed a kernel setting");
        self.changed
            .entry(path.to_owned())
            .and_modify(|change| change.now = least)
            .or_insert(Change { before, now: least });
        Ok(())
    }

    /// Puts back what was changed, except what somebody else has changed since or what is gone.
    ///
    /// # Errors
    ///
    /// One each that cannot be put back; the others were.
    pub(crate) fn restore(&mut self) -> Vec<SysctlError> {
        let back = |(path, change): (PathBuf, Change)| match read(&path) {
            Ok(value) if value == change.now => write(&path, change.before).err(),
            _ => None,
        };
        std::mem::take(&mut self.changed)
            .into_iter()
            .filter_map(back)
            .collect()
    }
}

fn read(path: &Path) -> Result<i64, SysctlError> {
    let text = fs::read_to_string(path).map_err(|source| SysctlError::Read {
        path: path.to_owned(),
        source,
    })?;
    let value = text.trim();
    value.parse().map_err(|_| SysctlError::NotANumber {
        path: path.to_owned(),
        value: value.chars().take(64).collect(),
    })
}

fn write(path: &Path, value: i64) -> Result<(), SysctlError> {
    fs::write(path, value.to_string()).map_err(|source| SysctlError::Write {
        path: path.to_owned(),
        value,
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory of settings, as `/proc/sys` shows them.
    fn settings(values: &[(&str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (name, value) in values {
            fs::write(directory.path().join(name), format!("{value}\n")).unwrap();
        }
        directory
    }

    #[test]
    fn only_low_settings_are_raised_and_put_back() {
        let directory = settings(&[("low", "0"), ("high", "8")]);
        let (low, high) = (directory.path().join("low"), directory.path().join("high"));
        let mut sysctls = Sysctls::default();
        for least in [1, 1, 2] {
            sysctls.raise(&low, least).unwrap();
            sysctls.raise(&high, least).unwrap();
        }
        assert_eq!((read(&low).unwrap(), read(&high).unwrap()), (2, 8));
        assert!(sysctls.restore().is_empty());
        assert_eq!((read(&low).unwrap(), read(&high).unwrap()), (0, 8));
        assert!(sysctls.restore().is_empty());
    }

    #[test]
    fn what_somebody_else_changed_stays() {
        let directory = settings(&[("one", "0"), ("two", "0")]);
        let (one, two) = (directory.path().join("one"), directory.path().join("two"));
        let mut sysctls = Sysctls::default();
        sysctls.raise(&one, 1).unwrap();
        sysctls.raise(&two, 1).unwrap();
        write(&one, 5).unwrap();
        fs::remove_file(&two).unwrap();
        assert!(sysctls.restore().is_empty());
        assert_eq!(read(&one).unwrap(), 5);
        assert!(!two.exists());
    }

    #[test]
    fn errors_tell_the_path() {
        let directory = settings(&[("text", "yes")]);
        let mut sysctls = Sysctls::default();
        let text = sysctls
            .raise(&directory.path().join("text"), 1)
            .unwrap_err();
        assert!(matches!(&text, SysctlError::NotANumber { value, .. } if value == "yes"));
        let missing = sysctls
            .raise(&directory.path().join("missing"), 1)
            .unwrap_err();
        assert!(matches!(missing, SysctlError::Read { .. }));
        assert!(missing.to_string().contains("missing"));
    }
}
