//! Debian's packages: which hold a compiler, what they depend on, and installing those that change nothing the user has.

use std::collections::BTreeMap;

use crate::{
    error::{Error, Result},
    install, pins,
    run::{self, Cmd, say, which},
};

/// The packages that together are a compiler with its source and clippy, by [`pins::DEBIAN_RUST`].
pub(crate) fn compiler_packages() -> Result<Vec<String>> {
    if which("apt-get").is_none() || which("dpkg").is_none() {
        return Err(Error::NoToolchain {
            why: "this system has no apt-get".into(),
        });
    }
    let (major, minor) = pins::MIN_RUSTC;
    pins::DEBIAN_RUST
        .iter()
        .find(|names| show(names[0]).is_some_and(|record| new_enough(&record.version)))
        .map(|names| closure(names, show))
        .ok_or_else(|| Error::NoPackages {
            why: format!(
                "apt knows no rustc {major}.{minor} or newer (Debian's security archive has one)"
            ),
        })
}

/// Makes an attempt that needs apt's lists; if it fails, which is what empty and outdated lists come to, fetches the
/// lists and makes it once more.
pub(crate) fn with_fresh_lists<T>(install: bool, attempt: impl Fn() -> Result<T>) -> Result<T> {
    match attempt() {
        Err(error @ (Error::Failed { .. } | Error::NoPackages { .. })) => {
            say(error);
            as_root(
                "a current list of apt's packages",
                Cmd::new("apt-get").args(["-q", "update"]),
                install,
            )?;
            attempt()
        }
        done => done,
    }
}

/// Those dependencies of a package whose names begin so.
pub(crate) fn dependencies(package: &str, prefix: &str) -> Result<Vec<String>> {
    let record = show(package).ok_or_else(|| unknown(package))?;
    let mut names = record.depends;
    names.retain(|name| name.starts_with(prefix));
    Ok(names)
}

/// A package and all that it depends on, without what is installed.
pub(crate) fn with_absent_dependencies(package: &str) -> Result<Vec<String>> {
    let mut found = BTreeMap::new();
    let mut open = vec![package.to_owned()];
    while let Some(name) = open.pop() {
        if found.contains_key(&name) || installed(&name) {
            continue;
        }
        match show(&name) {
            Some(record) => open.extend(record.depends),
            // One that others provide: what provides it is not known.
            None if name != package => continue,
            None => return Err(unknown(package)),
        }
        found.insert(name, ());
    }
    Ok(found.into_keys().collect())
}

fn unknown(package: &str) -> Error {
    Error::NoPackages {
        why: format!("apt knows no package {package}"),
    }
}

/// The shared libraries of the system that these packages depend on.
pub(crate) fn library_dependencies(packages: &[String]) -> Vec<String> {
    let mut names: Vec<String> = packages
        .iter()
        .filter_map(|package| show(package))
        .flat_map(|record| record.depends)
        .filter(|name| {
            name.starts_with("lib") && !name.ends_with("-dev") && !packages.contains(name)
        })
        .collect();
    names.sort();
    names.dedup();
    names
}

/// Installs packages, except those that are there; never removes one.
pub(crate) fn install(what: &str, packages: &[String], install: bool) -> Result<()> {
    let absent: Vec<&String> = packages.iter().filter(|name| !installed(name)).collect();
    if absent.is_empty() {
        return Ok(());
    }
    let cmd = Cmd::new("apt-get")
        .args([
            "-q",
            "-y",
            "install",
            "--no-remove",
            "--no-install-recommends",
        ])
        .args(absent)
        .env("DEBIAN_FRONTEND", "noninteractive");
    with_fresh_lists(install, || as_root(what, cmd.clone(), install))
}

/// Runs a command that needs root, or says how to.
fn as_root(missing: &str, cmd: Cmd, install: bool) -> Result<()> {
    if install && !run::is_root() {
        return Err(Error::NeedsRoot {
            missing: missing.to_owned(),
            commands: format!("  {cmd}"),
        });
    }
    install::carry_out(missing, &[cmd], install)
}

/// What apt knows of a package.
#[derive(Clone, Debug, PartialEq)]
struct Record {
    version: String,
    depends: Vec<String>,
}

/// Asks apt for the version of a package it would install.
fn show(package: &str) -> Option<Record> {
    parse_record(
        &Cmd::new("apt-cache")
            .args(["show", "--no-all-versions", package])
            .env("LC_ALL", "C")
            .ask()?,
    )
}

/// Reads version and dependencies; of alternatives (`a | b`) the first.
fn parse_record(text: &str) -> Option<Record> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
    let depends = field("Depends:").unwrap_or_default();
    let names = depends.split(',').filter_map(|dependency| {
        let name = dependency
            .split(['(', '|', ' ', ':'])
            .find(|part| !part.is_empty())?;
        Some(name.to_owned())
    });
    Some(Record {
        version: field("Version:")?.trim().to_owned(),
        depends: names.collect(),
    })
}

/// Whether a Debian version of rustc (`1.96.0+dfsg1-1`) will do.
fn new_enough(version: &str) -> bool {
    let mut numbers = version
        .split(['.', '+', '-'])
        .map(|n| n.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= pins::MIN_RUSTC
}

/// The packages and those of their dependencies, and theirs, that are part of the compiler.
fn closure(names: &[&str], show: impl Fn(&str) -> Option<Record>) -> Vec<String> {
    let mut found: BTreeMap<String, ()> = BTreeMap::new();
    let mut open: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    while let Some(name) = open.pop() {
        let Some(record) = show(&name) else { continue };
        let part = |name: &String| {
            pins::DEBIAN_RUST_LIBS
                .iter()
                .any(|prefix| name.starts_with(prefix))
        };
        open.extend(
            record
                .depends
                .into_iter()
                .filter(|name| part(name) && !found.contains_key(name)),
        );
        found.insert(name, ());
    }
    found.into_keys().collect()
}

/// Whether a package is installed.
fn installed(package: &str) -> bool {
    Cmd::new("dpkg-query")
        .args(["-W", "-f", "${db:Status-Status}", package])
        .ask()
        .is_some_and(|status| status.starts_with("installed"))
}

/// The sonames that `ldd` did not find.
pub(crate) fn not_found(ldd: &str) -> Vec<String> {
    let mut names: Vec<String> = ldd
        .lines()
        .filter_map(|line| line.trim().strip_suffix("=> not found"))
        .map(|name| name.trim().to_owned())
        .collect();
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read() {
        let text = "Package: x\nVersion: 1.96.0+dfsg1-1~deb12u2\nDepends: libc6 (>= 2.34), python3:any, gcc | clang\n";
        let record = parse_record(text).unwrap();
        assert_eq!(record.depends, ["libc6", "python3", "gcc"]);
        assert!(new_enough(&record.version));
        assert!(!new_enough("1.85.0+dfsg3-1~deb12u3"));
        assert!(!new_enough(""));
    }

    #[test]
    fn the_closure_takes_the_compilers_own_parts_only() {
        let show = |name: &str| {
            let depends = match name {
                "rustc-web" => "libc6, libstd-rust-web-dev",
                "libstd-rust-web-dev" => "libstd-rust-web-1.96",
                "libstd-rust-web-1.96" => "libllvm22, libstdc++6",
                "libllvm22" => "libz3-4",
                _ => "",
            };
            Some(Record {
                version: "1".into(),
                depends: depends.split(", ").map(str::to_owned).collect(),
            })
        };
        let found = closure(&["rustc-web", "rust-web-src"], show);
        assert_eq!(
            found,
            [
                "libllvm22",
                "libstd-rust-web-1.96",
                "libstd-rust-web-dev",
                "rust-web-src",
                "rustc-web"
            ]
        );
    }

    #[test]
    fn ldds_gaps_are_found() {
        let said = "/a:\n\tlibz3.so.4 => not found\n\tlibc.so.6 => /lib/libc.so.6 (0x1)\n/b:\n\tlibz3.so.4 => not found\n";
        assert_eq!(not_found(said), ["libz3.so.4"]);
    }
}
