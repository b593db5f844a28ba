//! Kernel settings under `/proc/sys`: read, and raised where they are too low.

use std::{
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

/// Sets `path` to `least` where it is lower.
///
/// Nothing puts it back: what the daemon stops doing the kernel program goes on with, and needs the
/// setting for.
///
/// # Errors
///
/// The setting cannot be read or written.
pub(crate) fn raise(path: &Path, least: i64) -> Result<(), SysctlError> {
    let before = read(path)?;
    if before >= least {
        return Ok(());
    }
    write(path, least)?;
    tracing::info!(path = %path.display(), before, now = least, "changed a kernel setting");
    Ok(())
}

/// What a setting says.
///
/// # Errors
///
/// It cannot be read.
pub(crate) fn text(path: &Path) -> Result<String, SysctlError> {
    fs::read_to_string(path).map_err(|source| SysctlError::Read {
        path: path.to_owned(),
        source,
    })
}

fn read(path: &Path) -> Result<i64, SysctlError> {
    let text = text(path)?;
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
    fn only_low_settings_are_raised() {
        let directory = settings(&[("low", "0"), ("high", "8")]);
        let (low, high) = (directory.path().join("low"), directory.path().join("high"));
        for least in [1, 1, 2] {
            raise(&low, least).unwrap();
            raise(&high, least).unwrap();
        }
        assert_eq!((read(&low).unwrap(), read(&high).unwrap()), (2, 8));
    }

    #[test]
    fn errors_tell_the_path() {
        let directory = settings(&[("text", "yes")]);
        let text = raise(&directory.path().join("text"), 1).unwrap_err();
        assert!(matches!(&text, SysctlError::NotANumber { value, .. } if value == "yes"));
        let missing = raise(&directory.path().join("missing"), 1).unwrap_err();
        assert!(matches!(missing, SysctlError::Read { .. }));
        assert!(missing.to_string().contains("missing"));
    }
}
