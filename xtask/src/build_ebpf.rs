//! `cargo xtask build-ebpf`: compiles the kernel program to `target/ebpf/steerd.o`, which the daemon embeds, and the
//! benchmark's programs to `target/ebpf/bench.o`.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

use crate::{
    error::{Error, Result},
    pins,
    run::{self, Cmd, say},
    sources,
    toolchain::Toolchain,
};

/// `cargo xtask build-ebpf`
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Install nothing: if something is missing, print the commands that would install it and fail.
    #[arg(long)]
    no_install: bool,
}

impl Args {
    /// Runs the command.
    pub(crate) fn run(&self) -> Result<()> {
        build(!self.no_install).map(|_| ())
    }
}

/// The kernel program, within the workspace.
pub(crate) const OBJECT: &str = "target/ebpf/steerd.o";

/// The benchmark's programs.
pub(crate) const BENCH_OBJECT: &str = "target/ebpf/bench.o";

/// Builds the objects, and returns the toolchain it was built with.
pub(crate) fn build(install: bool) -> Result<Toolchain> {
    let toolchain = Toolchain::find_or_install(install)?;
    let workspace = run::workspace();
    // Taken before the build: a source changed during it makes the object stale, not fresh.
    let fingerprint = sources::fingerprint(&workspace)
        .map_err(file_error("read the sources in", workspace.join("ebpf")))?;
    ebpf_flags(toolchain.cargo().arg("build"), &toolchain, &workspace)
        .arg("--quiet")
        .run()?;

    let built = target_dir(&workspace)
        .join(pins::BPF_TARGET)
        .join("release");
    for (binary, object) in [("steerd-xdp", OBJECT), ("steerd-bench-xdp", BENCH_OBJECT)] {
        let built = built.join(binary);
        let object = workspace.join(object);
        let contents = fs::read(&built).map_err(file_error("read", built))?;
        if run::write_if_changed(&object, &contents)? {
            say(format_args!(
                "{} built with rustc {} ({} bytes)",
                object.display(),
                toolchain.release,
                contents.len()
            ));
        }
    }
    let sources = workspace.join(OBJECT).with_extension("o.sources");
    run::write_if_changed(&sources, fingerprint.as_bytes())?;
    Ok(toolchain)
}

/// Adds what every cargo command on the kernel programs needs: package, target, profile, flags.
pub(crate) fn ebpf_flags(cmd: Cmd, toolchain: &Toolchain, workspace: &Path) -> Cmd {
    cmd.args([
        "-Z",
        "build-std=core",
        "--release",
        "--target",
        pins::BPF_TARGET,
    ])
    .args([
        "--package",
        "steerd-ebpf",
        "--features",
        "kernel",
        "--bins",
        "--target-dir",
    ])
    .arg(target_dir(workspace))
    // The profile, over the workspace's: one module, so that everything inlines into the few functions a 512-byte
    // stack has room for; whole debug information, which --btf turns into types and lines for the verifier's log.
    .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
    .env("CARGO_PROFILE_RELEASE_LTO", "fat")
    .env("CARGO_PROFILE_RELEASE_DEBUG", "2")
    .env("CARGO_PROFILE_RELEASE_PANIC", "abort")
    .env(
        "CARGO_ENCODED_RUSTFLAGS",
        rustflags(toolchain, workspace).join("\x1f"),
    )
}

/// A target directory of its own: the flags differ, and cargo's lock on the other one is not waited for.
fn target_dir(workspace: &Path) -> PathBuf {
    workspace.join("target/ebpf-build")
}

/// The compiler's flags. `--target` is given, so build scripts and macros, which run here, do not get them.
fn rustflags(toolchain: &Toolchain, workspace: &Path) -> Vec<String> {
    let mut flags = vec![
        format!("-Clinker={}", toolchain.linker.display()),
        format!("-Ctarget-cpu={}", pins::BPF_CPU),
        "-Cdebuginfo=2".into(),
        "-Clink-arg=--btf".into(),
    ];
    // The object must not depend on where it was built. The last prefix that matches wins.
    let cargo_home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")));
    let source = toolchain.source();
    let remapped = [
        Some((workspace.to_owned(), ".")),
        cargo_home.map(|home| (home.join("registry/src"), "/crates")),
        fs::canonicalize(&source).ok().map(|real| (real, "/rust")),
        Some((source, "/rust")),
    ];
    flags.extend(
        remapped
            .into_iter()
            .flatten()
            .map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display())),
    );
    flags
}

/// Makes the error for a failed file operation.
fn file_error(what: &'static str, path: PathBuf) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::File { what, path, source }
}
