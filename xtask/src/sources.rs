//! The fingerprint of the kernel program's sources. `cargo xtask build-ebpf` records it beside the object it built, and
//! `agent/daemon/build.rs`, which includes this file, compares: so a stale object is noticed, and a fresh checkout,
//! whose file times say nothing, is not called stale.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// The files the object is made from, sorted: `ebpf/Cargo.toml` and everything under `ebpf/src`.
pub(crate) fn files(workspace: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = vec![workspace.join("ebpf/Cargo.toml")];
    let mut dirs = vec![workspace.join("ebpf/src")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// A hash (64-bit FNV-1a) over those files' names and contents, in hexadecimal.
pub(crate) fn fingerprint(workspace: &Path) -> io::Result<String> {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut feed = |bytes: &[u8]| {
        // The length first: moving a byte from one field to the next must change the hash.
        for &byte in (bytes.len() as u64).to_le_bytes().iter().chain(bytes) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    };
    for file in files(workspace)? {
        let name = file.strip_prefix(workspace).unwrap_or(&file);
        feed(name.as_os_str().as_encoded_bytes());
        feed(&fs::read(&file)?);
    }
    Ok(format!("{hash:016x}"))
}
