//! The directory of pins: what in it is steerd's, and how it goes.
//!
//! Whatever else is pinned there stays, and so does a directory that holds it: the configuration may
//! name one that others use.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use nix::sys::statfs::{FsType, statfs};
use steerd_core::config::Dataplane as Config;
use steerd_ebpf::abi::{LINK_PREFIX, PIN_DIR, maps};

use super::{error::DataplaneError, load::pin_error};

/// Detaches the program from all interfaces and removes its maps, of every version. Returns whether
/// there were any.
pub(crate) fn unload(config: &Config) -> Result<bool, DataplaneError> {
    let mut found = false;
    for version in other_versions(&config.bpf_dir) {
        fs::remove_dir_all(&version).map_err(pin_error("remove", &version))?;
        found = true;
    }
    let pins = config.bpf_dir.join(PIN_DIR);
    let of_maps = maps::ALL.into_iter().map(|shape| pins.join(shape.name));
    for pin in links(&pins).into_iter().chain(of_maps) {
        found |= is_gone(fs::remove_file(&pin), &pin)?;
    }
    for directory in [&pins, &config.bpf_dir] {
        is_gone(fs::remove_dir(directory), directory)?;
    }
    Ok(found)
}

/// Whether it was there, and now is not; what holds something else stays.
fn is_gone(removed: io::Result<()>, path: &Path) -> Result<bool, DataplaneError> {
    match removed {
        Ok(()) => Ok(true),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound
                    | io::ErrorKind::DirectoryNotEmpty
                    | io::ErrorKind::ResourceBusy
            ) =>
        {
            Ok(false)
        }
        Err(error) => Err(pin_error("remove", path)(error)),
    }
}

/// The pin directories of other ABI versions of steerd.
pub(super) fn other_versions(bpf_dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(bpf_dir) else {
        return Vec::new();
    };
    let is_other_version = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let number = name.strip_prefix('v').unwrap_or_default();
        let is_version = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
        // Every version has this map.
        is_version && name != PIN_DIR && path.join(maps::CONTROL).exists()
    };
    entries
        .flatten()
        .map(|entry| entry.path())
        .filter(is_other_version)
        .collect()
}

/// The pinned links.
pub(super) fn links(pins: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(pins) else {
        return Vec::new();
    };
    let is_link =
        |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with(LINK_PREFIX);
    entries
        .flatten()
        .filter(is_link)
        .map(|entry| entry.path())
        .collect()
}

/// That `bpf_dir`, or its nearest existing ancestor, is on a bpffs, and that it is not all of it.
pub(super) fn check(bpf_dir: &Path) -> Result<(), DataplaneError> {
    let existing = bpf_dir
        .ancestors()
        .find(|dir| dir.exists())
        .unwrap_or(Path::new("/"));
    let is_bpffs =
        statfs(existing).is_ok_and(|stat| stat.filesystem_type() == FsType(libc::BPF_FS_MAGIC));
    let path = bpf_dir.to_owned();
    if !is_bpffs {
        Err(DataplaneError::NoBpffs { path })
    } else if existing == bpf_dir && is_mount_point(bpf_dir) {
        Err(DataplaneError::WholeBpffs { path })
    } else {
        Ok(())
    }
}

fn is_mount_point(path: &Path) -> bool {
    let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev()).ok();
    path.parent()
        .is_none_or(|parent| device(parent) != device(path))
}
