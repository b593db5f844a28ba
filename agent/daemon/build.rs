//! Embeds the kernel program: copies `target/ebpf/steerd.o`, which `cargo xtask build-ebpf` makes, to where
//! `include_bytes_aligned!` finds it. Compiling it is not done from here: it takes another compiler, which a build script
//! must not install.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

#[path = "../../xtask/src/sources.rs"]
mod sources;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if let Err(message) = embed() {
        println!("cargo::error={message}");
    }
}

/// Copies the object, and warns if it is older than its sources.
fn embed() -> Result<(), String> {
    let dir = |key: &str| {
        env::var_os(key)
            .map(PathBuf::from)
            .ok_or_else(|| format!("cargo did not set {key}"))
    };
    let manifest_dir = dir("CARGO_MANIFEST_DIR")?;
    let workspace = manifest_dir.ancestors().nth(2).unwrap_or(Path::new("/"));
    let object = workspace.join("target/ebpf/steerd.o");
    let recorded = object.with_extension("o.sources");
    // A path that is missing counts as changed: the script runs again once the object is there.
    println!("cargo::rerun-if-changed={}", object.display());

    fs::copy(&object, dir("OUT_DIR")?.join("steerd.o")).map_err(|error| {
        format!(
            "no kernel program ({}: {error}): run `cargo xtask build-ebpf` first",
            object.display()
        )
    })?;

    println!("cargo::rerun-if-changed={}", recorded.display());
    for file in sources::files(workspace).unwrap_or_default() {
        println!("cargo::rerun-if-changed={}", file.display());
    }
    println!(
        "cargo::rerun-if-changed={}",
        workspace.join("ebpf/src").display()
    );
    let now = sources::fingerprint(workspace).unwrap_or_default();
    if fs::read_to_string(&recorded).unwrap_or_default() != now {
        println!(
            "cargo::warning=the kernel program is older than ebpf/: run `cargo xtask build-ebpf`"
        );
    }
    Ok(())
}
