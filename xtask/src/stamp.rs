//! Remembers the toolchain chosen last time, in one small file in the cache directory. Reading it back takes a few
//! `stat` calls where finding a toolchain takes a process for each candidate.

use std::{
    env, fs,
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use crate::{
    error::Result,
    pins, run,
    toolchain::{Toolchain, join_paths},
};

/// The stamp's file.
fn path_in(cache: &Path) -> PathBuf {
    cache.join("chosen")
}

/// A file's identity: length and time. Another compiler under the same path has another.
fn identity(path: &Path) -> Option<String> {
    let meta = fs::metadata(path).ok()?;
    let time = meta
        .modified()
        .ok()?
        .duration_since(UNIX_EPOCH)
        .ok()?
        .as_nanos();
    Some(format!("{}@{time}", meta.len()))
}

/// The stamp's text: one field a line, first what it depends on.
fn text_of(toolchain: &Toolchain) -> Option<String> {
    let Toolchain {
        rustc,
        release,
        linker,
        lib_dirs,
    } = toolchain;
    Some(format!(
        "{} {}\n{} {}\n{}\n{}\n{release}\n{}\n",
        pins::BPF_LINKER,
        pins::NIGHTLY,
        identity(rustc)?,
        identity(linker)?,
        rustc.display(),
        linker.display(),
        join_paths(lib_dirs),
    ))
}

/// Takes a stamp's text apart, without believing it.
fn parse(text: &str) -> Option<Toolchain> {
    let mut lines = text.lines().skip(2);
    Some(Toolchain {
        rustc: lines.next()?.into(),
        linker: lines.next()?.into(),
        release: lines.next()?.into(),
        lib_dirs: lines
            .next()?
            .split(':')
            .filter(|dir| !dir.is_empty())
            .map(PathBuf::from)
            .collect(),
    })
}

/// The toolchain chosen last time, if everything about it is still as it was. With `RUSTC` set the choice is the user's.
pub(crate) fn read(cache: &Path) -> Option<Toolchain> {
    if env::var_os("RUSTC").is_some() {
        return None;
    }
    let text = fs::read_to_string(path_in(cache)).ok()?;
    let toolchain = parse(&text)?;
    let as_it_was = text_of(&toolchain)? == text && toolchain.source().is_dir();
    as_it_was.then_some(toolchain)
}

/// Remembers the choice.
pub(crate) fn write(cache: &Path, toolchain: &Toolchain) -> Result<()> {
    match text_of(toolchain) {
        Some(text) => run::write_if_changed(&path_in(cache), text.as_bytes()).map(|_| ()),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_comes_back() {
        let toolchain = Toolchain {
            rustc: env::current_exe().unwrap(),
            release: "1.96.0".into(),
            linker: "/proc/self/exe".into(),
            lib_dirs: vec!["/a".into(), "/b".into()],
        };
        assert_eq!(
            parse(&text_of(&toolchain).unwrap()),
            Some(toolchain.clone())
        );
        let none = Toolchain {
            lib_dirs: Vec::new(),
            ..toolchain
        };
        assert_eq!(parse(&text_of(&none).unwrap()), Some(none.clone()));
    }
}
