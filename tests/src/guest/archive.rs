//! A file system in one file, as the kernel unpacks it into memory at its start (cpio, "newc").

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::{
    error::{Context, Error, Result},
    process,
};

/// Files and directories by their absolute paths.
#[derive(Debug, Default)]
pub(super) struct Archive {
    files: BTreeMap<String, Vec<u8>>,
    dirs: BTreeSet<String>,
}

impl Archive {
    /// Adds a file, and the directories above it.
    pub(super) fn add(&mut self, at: &str, contents: Vec<u8>) {
        self.add_dir(at.rsplit_once('/').map_or("", |(dir, _)| dir));
        self.files.insert(at.to_owned(), contents);
    }

    /// Adds a directory, and those above it.
    pub(super) fn add_dir(&mut self, at: &str) {
        for (end, _) in at.match_indices('/').skip(1) {
            self.dirs.insert(at[..end].to_owned());
        }
        if !at.is_empty() {
            self.dirs.insert(at.to_owned());
        }
    }

    /// Adds a file of this machine.
    pub(super) fn add_file(&mut self, at: &str, from: &Path) -> Result<()> {
        let contents = fs::read(from).context(|| format!("read {}", from.display()))?;
        self.add(at, contents);
        Ok(())
    }

    /// Adds a program of this machine, its loader and its shared libraries.
    pub(super) fn add_program(&mut self, at: &str, from: &Path) -> Result<()> {
        self.add_file(at, from)?;
        let mut ldd = Command::new("ldd");
        ldd.arg(from);
        let output = process::output(ldd, Duration::from_secs(10))?;
        for (at, library) in libraries(&String::from_utf8_lossy(&output.stdout)) {
            if !self.files.contains_key(&at) {
                self.add_file(&at, &library)?;
            }
        }
        Ok(())
    }

    /// Writes it.
    pub(super) fn write(&self, to: &Path) -> Result<()> {
        let write = || {
            let mut out = BufWriter::new(fs::File::create(to)?);
            let none = Vec::new();
            let dirs = self.dirs.iter().map(|at| (at, 0o040_755, &none));
            let files = self.files.iter().map(|(at, data)| (at, 0o100_755, data));
            // Directories first: in their order each comes after the one that it is in.
            for (number, (at, mode, data)) in (1..).zip(dirs.chain(files)) {
                entry(&mut out, number, at.trim_start_matches('/'), mode, data)?;
            }
            entry(&mut out, 0, "TRAILER!!!", 0, &none)?;
            out.flush()
        };
        write().context(|| format!("write {}", to.display()))
    }
}

/// One entry: a header of hexadecimal numbers, the name and the data, each padded to four bytes.
fn entry(out: &mut impl Write, number: u32, name: &str, mode: u32, data: &[u8]) -> io::Result<()> {
    let too_large = |_| io::Error::other(format!("{name} is too large"));
    let size = u32::try_from(data.len()).map_err(too_large)?;
    let name_size = u32::try_from(name.len() + 1).map_err(too_large)?;
    // Number, mode, owner, group, links, time, size, device, device's number (two each), length of
    // the name, and a sum that nobody checks.
    let fields = [number, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
    out.write_all(b"070701")?;
    for field in fields {
        write!(out, "{field:08x}")?;
    }
    out.write_all(name.as_bytes())?;
    let header = 6 + 8 * fields.len();
    out.write_all(&[0; 4][..1 + padding(header + name.len() + 1)])?;
    out.write_all(data)?;
    out.write_all(&[0; 4][..padding(data.len())])
}

const fn padding(length: usize) -> usize {
    length.next_multiple_of(4) - length
}

/// Where `ldd` says that libraries are, by where they are to be: the loader at its own path, all
/// others where every loader looks.
fn libraries(said: &str) -> Vec<(String, PathBuf)> {
    let paths = said.lines().filter_map(|line| {
        let words = line.split_whitespace();
        words.into_iter().find(|word| word.starts_with('/'))
    });
    let place = |path: &str| match path.rsplit_once('/') {
        Some((_, name)) if !name.starts_with("ld-") => format!("/lib/{name}"),
        _ => path.to_owned(),
    };
    paths.map(|path| (place(path), path.into())).collect()
}

/// A program of this machine, on the PATH or in the directories of system administration.
pub(super) fn which(program: &'static str) -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|candidate| candidate.is_file())
        .ok_or(Error::NoProgram { program })
}

/// Copies a program without what only a debugger reads: that is most of it, and the guest has it all
/// in memory.
pub(super) fn strip(from: &Path, to: &Path) -> Result<()> {
    let mut strip = Command::new("strip");
    strip.arg("-o").arg(to).arg(from);
    let output = process::output(strip, Duration::from_secs(30))?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Traffic {
        program: "strip",
        said: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_aligned() {
        for length in 0..9 {
            let mut out = Vec::new();
            entry(&mut out, 1, &"n".repeat(length), 0o100_755, &[7; 5]).unwrap();
            assert_eq!(out.len() % 4, 0, "{length}");
            assert_eq!(&out[out.len() - 8..], [7, 7, 7, 7, 7, 0, 0, 0]);
        }
    }

    #[test]
    fn libraries_go_where_they_are_found() {
        let said = "\tlinux-vdso.so.1 (0x1)\n\tlibm.so.6 => /usr/lib/x/libm.so.6 (0x2)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x3)\n";
        let found = libraries(said);
        let places: Vec<_> = found.iter().map(|(at, _)| at.as_str()).collect();
        assert_eq!(places, ["/lib/libm.so.6", "/lib64/ld-linux-x86-64.so.2"]);
        assert_eq!(found[0].1, Path::new("/usr/lib/x/libm.so.6"));
    }

    #[test]
    fn a_file_brings_its_directories() {
        let mut archive = Archive::default();
        archive.add("/a/b/c", Vec::new());
        archive.add("/d", Vec::new());
        assert_eq!(Vec::from_iter(&archive.dirs), ["/a", "/a/b"]);
    }
}
