//! Installs what the eBPF build lacks. Nothing the user has is replaced: rustup gets a dated toolchain beside the others,
//! Debian's compiler is unpacked into the cache directory, bpf-linker goes there too. Only shared libraries are installed
//! as packages, with `--no-remove`. Every step is a command line, printed before it runs; `--no-install` only prints.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use crate::{
    debian,
    error::{Error, Result},
    pins,
    run::{self, Cmd, say, which},
    toolchain::{self, Rustc, Toolchain},
};

/// Installs a compiler if none will do, then its linker.
pub(crate) fn toolchain(cache: &Path, install: bool) -> Result<Toolchain> {
    if install {
        run::make_dir(cache)?;
    }
    let _lock = install.then(|| lock(cache)).transpose()?;
    // Another task may have installed it while this one waited for the lock.
    if let Some(found) = Toolchain::find(cache) {
        return Ok(found);
    }
    let rustc = match usable(cache) {
        Some(rustc) => rustc,
        None => compiler(cache, install)?,
    };
    let linker = linker(cache, &rustc, install)?;
    Ok(Toolchain::new(rustc, linker))
}

/// The first compiler that a bpf-linker can be built for.
fn usable(cache: &Path) -> Option<Rustc> {
    toolchain::compilers(cache)
        .into_iter()
        .find(|rustc| toolchain::lib_llvm(rustc).is_some())
}

/// Installs a compiler: with rustup if it is there and reaches its server, else from Debian.
fn compiler(cache: &Path, install: bool) -> Result<Rustc> {
    let mut why = Vec::new();
    match rustup().and_then(|cmd| by_rustup(cache, cmd, install)) {
        Ok(rustc) => return Ok(rustc),
        Err(NoRustup::Because(reason)) => why.push(reason),
        Err(NoRustup::Stop(error)) => return Err(error),
    }
    debian::with_fresh_lists(install, || from_debian(cache, install)).map_err(|error| match error {
        Error::NoPackages { why: reason } | Error::NoToolchain { why: reason } => {
            why.push(reason);
            Error::NoToolchain {
                why: why.join("; "),
            }
        }
        other => other,
    })
}

/// Unpacks Debian's compiler.
fn from_debian(cache: &Path, install: bool) -> Result<Rustc> {
    let packages = debian::compiler_packages()?;
    carry_out(
        "a Rust compiler for eBPF",
        &unpack(cache, &packages),
        install,
    )?;
    libraries(cache, &packages, install)?;
    usable(cache).ok_or_else(|| Error::NoToolchain {
        why: "the unpacked compiler does not run".into(),
    })
}

/// Why rustup is no way to a compiler.
enum NoRustup {
    /// Go on with the next way.
    Because(String),
    /// Do not.
    Stop(Error),
}

/// The command that has rustup install the pinned nightly.
fn rustup() -> std::result::Result<Cmd, NoRustup> {
    let Some(rustup) = which("rustup") else {
        return Err(NoRustup::Because("rustup is not installed".into()));
    };
    Ok(Cmd::new(rustup)
        .args([
            "toolchain",
            "install",
            pins::NIGHTLY,
            "--profile",
            "minimal",
            "--no-self-update",
        ])
        .args(["--component", "rust-src", "--component", "clippy"])
        // A machine that cannot reach its server goes on with Debian's packages soon.
        .env("RUSTUP_MAX_RETRIES", "0"))
}

/// Has rustup install, and looks what came of it.
fn by_rustup(cache: &Path, cmd: Cmd, install: bool) -> std::result::Result<Rustc, NoRustup> {
    match carry_out("a Rust compiler for eBPF", &[cmd], install) {
        Ok(()) => usable(cache).ok_or_else(|| {
            NoRustup::Because(format!(
                "rustup's {} brings no shared libLLVM",
                pins::NIGHTLY
            ))
        }),
        // The way is right, only not to be gone now.
        Err(error @ Error::NotInstalling { .. }) => Err(NoRustup::Stop(error)),
        Err(error) => Err(NoRustup::Because(error.to_string())),
    }
}

/// The commands that unpack Debian's packages into the cache.
pub(crate) fn unpack(cache: &Path, packages: &[String]) -> Vec<Cmd> {
    let (debs, root) = (cache.join("debs"), toolchain::unpacked_root(cache));
    // Unpacked beside and renamed at the end, so that a broken download leaves no half compiler to be found.
    let half = cache.join("root.half");
    vec![
        Cmd::new("rm")
            .args(["-rf", "--"])
            .args([&debs, &half, &root]),
        Cmd::new("mkdir").arg("-p").args([&debs, &half]),
        Cmd::new("apt-get")
            .args(["-q", "download"])
            .args(packages)
            .dir(&debs),
        Cmd::new("sh")
            .args([
                "-ec",
                r#"for deb in *.deb; do dpkg -x "$deb" "$1"; done"#,
                "unpack",
            ])
            .arg(&half)
            .dir(&debs),
        Cmd::new("mv").args([&half, &root]),
        Cmd::new("rm").args(["-rf", "--"]).arg(&debs),
    ]
}

/// Installs the shared libraries of the system that the unpacked compiler needs and the machine lacks.
fn libraries(cache: &Path, packages: &[String], install: bool) -> Result<()> {
    let root = toolchain::unpacked_root(cache);
    if missing_libraries(&root).is_empty() {
        return Ok(());
    }
    let needed = debian::library_dependencies(packages);
    debian::install("shared libraries of the compiler", &needed, install)?;
    let missing = missing_libraries(&root);
    if missing.is_empty() {
        Ok(())
    } else {
        Err(Error::MissingLibraries {
            libraries: missing.join(", "),
        })
    }
}

/// The sonames the loader does not find for the unpacked compiler and its libraries.
fn missing_libraries(root: &Path) -> Vec<String> {
    let dirs = toolchain::library_dirs(root);
    let mut objects = vec![root.join("usr/bin/rustc")];
    for dir in &dirs {
        if let Ok(entries) = fs::read_dir(dir) {
            objects.extend(
                entries
                    .filter_map(|entry| Some(entry.ok()?.path()))
                    .filter(|path| path.is_file()),
            );
        }
    }
    let said = Cmd::new("ldd")
        .args(objects)
        .env("LD_LIBRARY_PATH", toolchain::join_paths(&dirs))
        .ask();
    debian::not_found(&said.unwrap_or_default())
}

/// Installs bpf-linker, built on the libLLVM the compiler itself comes with: the bitcode it reads is of just that LLVM,
/// and no LLVM development package is needed.
fn linker(cache: &Path, rustc: &Rustc, install: bool) -> Result<PathBuf> {
    let Some(lib_llvm) = toolchain::lib_llvm(rustc) else {
        return Err(Error::NoToolchain {
            why: format!("{} comes without a shared libLLVM", rustc.path.display()),
        });
    };
    let dir = toolchain::linker_dir(cache, rustc);
    let target = dir.join("build");
    let lib = dir.join("llvm/lib");
    let soname = lib_llvm.file_name().unwrap_or_default().to_owned();
    let crate_version = format!("bpf-linker@{}", pins::BPF_LINKER);
    let feature = format!("llvm-{}", rustc.version.llvm_major);
    let mut build = run::cargo().dir(cache);
    for key in ["CARGO_ENCODED_RUSTFLAGS", "RUSTFLAGS", "CARGO_BUILD_TARGET"] {
        if env::var_os(key).is_some() {
            build = build.env_remove(key);
        }
    }
    let build = build
        .env("LLVM_PREFIX", dir.join("llvm"))
        .args([
            "install",
            &crate_version,
            "--no-default-features",
            "--features",
            &feature,
            "--locked",
            "--force",
        ])
        .args(["--quiet", "--no-track", "--target-dir"])
        .arg(&target)
        .arg("--root")
        .arg(&dir);
    let steps = [
        Cmd::new("mkdir").arg("-p").arg(&lib),
        // Under the name the build links (-lLLVM) and under the one the binary then asks for.
        Cmd::new("ln")
            .arg("-sfn")
            .arg(&lib_llvm)
            .arg(lib.join("libLLVM.so")),
        Cmd::new("ln")
            .arg("-sfn")
            .arg(&lib_llvm)
            .arg(lib.join(soname)),
        build,
        Cmd::new("rm").args(["-rf", "--"]).arg(&target),
    ];
    carry_out(
        &format!(
            "bpf-linker {} for LLVM {}",
            pins::BPF_LINKER,
            rustc.version.llvm
        ),
        &steps,
        install,
    )?;
    Ok(dir.join("bin/bpf-linker"))
}

/// Prints the steps, then runs them; with `install` false only says what they would be.
pub(crate) fn carry_out(missing: &str, steps: &[Cmd], install: bool) -> Result<()> {
    let commands = steps
        .iter()
        .map(|step| format!("  {}", subshell(step)))
        .collect::<Vec<_>>()
        .join("\n");
    if !install {
        return Err(Error::NotInstalling {
            missing: missing.to_owned(),
            commands,
        });
    }
    say(format_args!(
        "{missing} missing; installing with:\n{commands}"
    ));
    steps.iter().try_for_each(Cmd::run)
}

/// A step as a line that leaves the shell's directory alone.
fn subshell(step: &Cmd) -> String {
    let line = step.to_string();
    if line.starts_with("cd ") {
        format!("({line})")
    } else {
        line
    }
}

/// Lets one task install at a time.
fn lock(cache: &Path) -> Result<fs::File> {
    let path = cache.join("lock");
    let error = |source| Error::File {
        what: "lock",
        path: path.clone(),
        source,
    };
    let file = fs::File::create(&path).map_err(error)?;
    file.lock().map_err(error)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_print_as_lines_to_paste() {
        let steps = unpack(Path::new("/c"), &["rustc-web".into()]);
        let lines: Vec<String> = steps.iter().map(subshell).collect();
        assert_eq!(lines[2], "(cd /c/debs && apt-get -q download rustc-web)");
        assert!(lines[3].contains(r#"dpkg -x "$deb" "$1""#), "{}", lines[3]);
    }

    #[test]
    fn no_install_names_the_commands() {
        let error = carry_out("a thing", &[Cmd::new("false")], false)
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("a thing missing, and --no-install") && error.ends_with("\n  false"),
            "{error}"
        );
    }
}
