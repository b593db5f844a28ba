//! Finds a compiler and a linker for the eBPF target; [`crate::install`] gets what is missing.
//!
//! A rustc will do if its standard library's source lies in its sysroot (`-Z build-std=core` compiles it), it is new
//! enough for the workspace, and a bpf-linker stands or can be built on the libLLVM it comes with. What was found is
//! remembered in a [`stamp`], so that a build that has nothing to do starts no process to find out.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use crate::{
    error::{Error, Result},
    install, pins,
    run::{self, Cmd, which},
    stamp,
};

/// A compiler that can build core for the eBPF target.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rustc {
    /// Its path: the compiler itself, not rustup's proxy.
    pub(crate) path: PathBuf,
    /// Its version and its LLVM's.
    pub(crate) version: Version,
    /// The directories of shared libraries it needs and the loader does not know (a compiler unpacked aside).
    pub(crate) lib_dirs: Vec<PathBuf>,
}

/// A compiler with a linker that reads its bitcode.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Toolchain {
    /// The compiler.
    pub(crate) rustc: PathBuf,
    /// Its version, to say which it is.
    pub(crate) release: String,
    /// The linker.
    pub(crate) linker: PathBuf,
    /// See [`Rustc::lib_dirs`].
    pub(crate) lib_dirs: Vec<PathBuf>,
}

/// What `rustc -vV` says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Version {
    /// For example `1.97.0-nightly`.
    pub(crate) release: String,
    /// Major and minor.
    pub(crate) rust: (u32, u32),
    /// For example `22.1.4`.
    pub(crate) llvm: String,
    /// For example 22.
    pub(crate) llvm_major: u32,
}

impl Toolchain {
    /// The toolchain the stamp names, one found on the machine, or, if `install` allows, one installed.
    pub(crate) fn find_or_install(install: bool) -> Result<Self> {
        let cache = cache_dir()?;
        if let Some(known) = stamp::read(&cache) {
            return Ok(known);
        }
        let found = match Self::find(&cache) {
            Some(found) => found,
            None => install::toolchain(&cache, install)?,
        };
        stamp::write(&cache, &found)?;
        Ok(found)
    }

    /// A complete toolchain that is already on the machine.
    pub(crate) fn find(cache: &Path) -> Option<Self> {
        compilers(cache).into_iter().find_map(|rustc| {
            let linker = find_linker(cache, &rustc)?;
            Some(Self::new(rustc, linker))
        })
    }

    /// Joins a compiler and its linker.
    pub(crate) fn new(rustc: Rustc, linker: PathBuf) -> Self {
        Self {
            rustc: rustc.path,
            release: rustc.version.release,
            linker,
            lib_dirs: rustc.lib_dirs,
        }
    }

    /// The directory of the standard library's source.
    pub(crate) fn source(&self) -> PathBuf {
        sysroot(&self.rustc).join(SOURCE)
    }

    /// The user's cargo, set up to build for the eBPF target with this toolchain and with nothing of the environment
    /// that would change the object.
    pub(crate) fn cargo(&self) -> Cmd {
        self.drive(run::cargo())
    }

    /// This compiler's clippy, set up likewise. It runs the user's cargo, and wraps this compiler.
    pub(crate) fn cargo_clippy(&self) -> Option<Cmd> {
        let clippy = self.rustc.with_file_name("cargo-clippy");
        clippy.is_file().then(|| {
            self.drive(Cmd::new(clippy).dir(run::workspace()))
                .arg("clippy")
        })
    }

    fn drive(&self, mut cmd: Cmd) -> Cmd {
        for (key, _) in env::vars_os() {
            if key.to_str().is_some_and(leaks) {
                cmd = cmd.env_remove(key);
            }
        }
        cmd.env("RUSTC", &self.rustc)
            // -Z build-std, from whatever cargo the user has.
            .env("RUSTC_BOOTSTRAP", "1")
            // Empty: overrides a wrapper (sccache) in the user's config.toml, which may not know this compiler.
            .env("RUSTC_WRAPPER", "")
            // Of the outer `cargo run`, unless this compiler needs it.
            .env("LD_LIBRARY_PATH", join_paths(&self.lib_dirs))
    }
}

/// Whether an environment variable would reach into the object's build: flags and profiles of the outer cargo.
fn leaks(key: &str) -> bool {
    const PREFIXES: &[&str] = &[
        "CARGO_BUILD_",
        "CARGO_PROFILE_",
        "CARGO_TARGET_",
        "CARGO_UNSTABLE_",
        "CARGO_PKG_",
        "CARGO_MANIFEST_",
    ];
    const NAMES: &[&str] = &[
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_INCREMENTAL",
        "CARGO_MAKEFLAGS",
        "CLIPPY_ARGS",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTFLAGS",
    ];
    NAMES.contains(&key) || PREFIXES.iter().any(|prefix| key.starts_with(prefix))
}

/// Where the source lies in a sysroot that has it.
const SOURCE: &str = "lib/rustlib/src/rust";

/// The directory everything unpacked aside lives in.
pub(crate) fn cache_dir() -> Result<PathBuf> {
    let set = |key| {
        env::var_os(key)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    set("STEERD_TOOLCHAIN_DIR")
        .or_else(|| set("XDG_CACHE_HOME").map(|dir| dir.join("steerd/toolchain")))
        .or_else(|| set("HOME").map(|dir| dir.join(".cache/steerd/toolchain")))
        .ok_or(Error::NoCacheDir)
}

/// The directory Debian's packages are unpacked to.
pub(crate) fn unpacked_root(cache: &Path) -> PathBuf {
    cache.join("root")
}

/// All compilers on the machine that will do, best first: `$RUSTC`, rustup's (the pinned nightly before other
/// nightlies before others), the system's, the one unpacked aside.
pub(crate) fn compilers(cache: &Path) -> Vec<Rustc> {
    let mut paths: Vec<PathBuf> = env::var_os("RUSTC")
        .map(PathBuf::from)
        .into_iter()
        .collect();
    paths.extend(rustup_compilers());
    paths.extend(["/usr/bin/rustc", "/usr/local/bin/rustc"].map(PathBuf::from));
    let unpacked = unpacked_root(cache).join("usr/bin/rustc");
    paths.push(unpacked.clone());
    paths
        .into_iter()
        .filter(|path| {
            sysroot(path)
                .join(SOURCE)
                .join("library/core/Cargo.toml")
                .is_file()
        })
        .filter_map(|path| {
            let lib_dirs = if path == unpacked {
                library_dirs(&unpacked_root(cache))
            } else {
                Vec::new()
            };
            probe(path, lib_dirs)
        })
        .collect()
}

/// Asks a compiler for its version, and turns it down if that will not do.
fn probe(path: PathBuf, lib_dirs: Vec<PathBuf>) -> Option<Rustc> {
    let said = Cmd::new(&path)
        .arg("-vV")
        .env("LD_LIBRARY_PATH", join_paths(&lib_dirs))
        .ask()?;
    let version = parse_version(&said)?;
    (version.rust >= pins::MIN_RUSTC && pins::LINKER_LLVM.contains(&version.llvm_major)).then_some(
        Rustc {
            path,
            version,
            lib_dirs,
        },
    )
}

/// The compilers rustup has, by name alone: asking rustup costs more, and tells no more.
fn rustup_compilers() -> Vec<PathBuf> {
    let home = env::var_os("RUSTUP_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".rustup")));
    let Some(entries) = home.and_then(|home| fs::read_dir(home.join("toolchains")).ok()) else {
        return Vec::new();
    };
    let mut names: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    names.sort_by_key(|path| {
        let name = path
            .file_name()
            .map(|n| n.to_string_lossy().into_owned())
            .unwrap_or_default();
        (preference(&name), name)
    });
    names
        .into_iter()
        .map(|path| path.join("bin/rustc"))
        .collect()
}

/// The order in which rustup's toolchains are tried.
fn preference(name: &str) -> u8 {
    match name {
        pinned if pinned.starts_with(pins::NIGHTLY) => 0,
        nightly if nightly.starts_with("nightly") => 1,
        _ => 2,
    }
}

/// A rustc's sysroot, which all its packagers put at `bin/..`.
pub(crate) fn sysroot(rustc: &Path) -> PathBuf {
    rustc
        .parent()
        .and_then(Path::parent)
        .map_or_else(PathBuf::new, Path::to_owned)
}

/// The directories with shared libraries in an unpacked Debian tree (`usr/lib/x86_64-linux-gnu`).
pub(crate) fn library_dirs(root: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(root.join("usr/lib")) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_dir() && path.to_string_lossy().ends_with("-linux-gnu"))
        .collect()
}

/// The libLLVM a compiler comes with: the shared library bpf-linker is built on.
pub(crate) fn lib_llvm(rustc: &Rustc) -> Option<PathBuf> {
    let lib = sysroot(&rustc.path).join("lib");
    let mut dirs = rustc.lib_dirs.clone();
    dirs.push(lib.clone());
    if let Ok(entries) = fs::read_dir(&lib) {
        dirs.extend(
            entries
                .filter_map(|entry| Some(entry.ok()?.path()))
                .filter(|path| path.is_dir()),
        );
    }
    let prefix = format!("libLLVM.so.{}", rustc.version.llvm_major);
    dirs.iter()
        .filter_map(|dir| fs::read_dir(dir).ok())
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with(&prefix))
        })
}

/// Where bpf-linker for a compiler is installed by us: one for each LLVM.
pub(crate) fn linker_dir(cache: &Path, rustc: &Rustc) -> PathBuf {
    cache.join(format!(
        "bpf-linker-{}-llvm-{}",
        pins::BPF_LINKER,
        rustc.version.llvm
    ))
}

/// The bpf-linker for a compiler: ours, or the user's if it is the pinned version and its LLVM is not older.
fn find_linker(cache: &Path, rustc: &Rustc) -> Option<PathBuf> {
    let ours = linker_dir(cache, rustc).join("bin/bpf-linker");
    // Asked, not only looked for: it stops working when the compiler it took its libLLVM from is removed.
    if ours.is_file() && linker_version(&ours).as_deref() == Some(pins::BPF_LINKER) {
        return Some(ours);
    }
    let users = which("bpf-linker")?;
    let llvm = linker_llvm(&fs::read(&users).ok()?)?;
    (linker_version(&users).as_deref() == Some(pins::BPF_LINKER)
        && llvm >= rustc.version.llvm_major)
        .then_some(users)
}

/// What `bpf-linker --version` says.
fn linker_version(path: &Path) -> Option<String> {
    Cmd::new(path)
        .arg("--version")
        .ask()?
        .trim()
        .strip_prefix("bpf-linker ")
        .map(str::to_owned)
}

/// The LLVM major a bpf-linker was built on, from its binary: the soname it needs, or, linked statically, the producer
/// LLVM writes into bitcode. The program itself does not say.
fn linker_llvm(binary: &[u8]) -> Option<u32> {
    [&b"libLLVM.so."[..], b"libLLVM-", b"LLVM"]
        .iter()
        .find_map(|marker| {
            binary
                .windows(marker.len())
                .enumerate()
                .filter(|(_, window)| window == marker)
                .find_map(|(at, _)| major_at(&binary[at + marker.len()..]))
        })
}

/// A major version of two digits, followed by a dot or a dash, at the start of `text`.
fn major_at(text: &[u8]) -> Option<u32> {
    match text {
        [a @ b'1'..=b'9', b @ b'0'..=b'9', b'.' | b'-', ..] => {
            Some(u32::from(a - b'0') * 10 + u32::from(b - b'0'))
        }
        _ => None,
    }
}

/// Reads what `rustc -vV` says.
fn parse_version(said: &str) -> Option<Version> {
    let field = |name: &str| {
        said.lines()
            .find_map(|line| line.strip_prefix(name))
            .map(|v| v.trim().to_owned())
    };
    let (release, llvm) = (field("release:")?, field("LLVM version:")?);
    let mut numbers = release.split(['.', '-']).map(|n| n.parse().ok());
    let rust = (numbers.next()??, numbers.next()??);
    let llvm_major = llvm.split('.').next()?.parse().ok()?;
    Some(Version {
        release,
        rust,
        llvm,
        llvm_major,
    })
}

/// Directories as a value of `LD_LIBRARY_PATH`.
pub(crate) fn join_paths(dirs: &[PathBuf]) -> String {
    dirs.iter()
        .map(|dir| dir.to_string_lossy())
        .collect::<Vec<_>>()
        .join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        let said = "rustc 1.97.0-nightly (e50aa6fba 2026-05-19)\nbinary: rustc\nhost: x86_64-unknown-linux-gnu\n\
                    release: 1.97.0-nightly\nLLVM version: 22.1.4\n";
        let version = parse_version(said).unwrap();
        assert_eq!((version.rust, version.llvm_major), ((1, 97), 22));
        assert_eq!(
            (version.release.as_str(), version.llvm.as_str()),
            ("1.97.0-nightly", "22.1.4")
        );
        assert_eq!(parse_version("rustc 1.97.0\n"), None);
        assert_eq!(parse_version("release: x\nLLVM version: 22.1\n"), None);
    }

    #[test]
    fn the_pinned_nightly_comes_first() {
        let mut names = [
            "stable-x",
            "nightly-x",
            "nightly-2031-01-01-x",
            "nightly-2026-05-20-x86_64",
        ];
        names.sort_by_key(|name| (preference(name), *name));
        assert_eq!(names[0], "nightly-2026-05-20-x86_64");
        assert_eq!(names[3], "stable-x");
    }

    #[test]
    fn a_linkers_llvm_is_found_in_its_binary() {
        assert_eq!(linker_llvm(b"\0libLLVM.so.22.1\0"), Some(22));
        assert_eq!(linker_llvm(b"\0libLLVM-21-rust-1.90.so\0"), Some(21));
        assert_eq!(linker_llvm(b"any LLVM 22 build\0LLVM23.1.0\0"), Some(23));
        assert_eq!(linker_llvm(b"LLVM issued a diagnostic"), None);
    }

    #[test]
    fn flags_of_the_outer_cargo_do_not_leak() {
        for key in [
            "RUSTFLAGS",
            "CARGO_PROFILE_RELEASE_LTO",
            "CARGO_TARGET_DIR",
            "CARGO_BUILD_TARGET",
        ] {
            assert!(leaks(key), "{key}");
        }
        for key in [
            "CARGO",
            "CARGO_HOME",
            "PATH",
            "CARGO_NET_OFFLINE",
            "RUSTUP_TOOLCHAIN",
            "CARGO_HTTP_PROXY",
        ] {
            assert!(!leaks(key), "{key}");
        }
    }
}
