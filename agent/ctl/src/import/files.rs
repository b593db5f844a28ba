//! The files that a configuration is made of: reading them, and the wildcards of `include`.

use std::{
    fs, io,
    io::Read,
    path::{Component, Path, PathBuf},
};

/// No file is read further.
pub(super) const MAX_BYTES: usize = 16 << 20;
/// No include leads to more files.
pub(super) const MAX_FILES: usize = 1000;
/// No more names of a directory are looked at.
const MAX_NAMES: usize = 100_000;
/// The kernel takes no longer path (PATH_MAX).
const MAX_PATH: usize = 4096;

/// Where files come from: the disk, or a test.
pub(super) trait Files {
    /// The bytes of a file, at most one more than [`MAX_BYTES`].
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// The names in a directory, in any order.
    fn list(&self, directory: &Path) -> io::Result<Vec<String>>;
    /// Whether there is such a file or directory.
    fn exists(&self, path: &Path) -> bool;
}

/// The files of this host.
#[derive(Debug)]
pub(super) struct Disk;

impl Files for Disk {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        // A pipe would be waited for, a device could be endless.
        if !fs::metadata(path)?.is_file() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it is not a regular file",
            ));
        }
        bounded(fs::File::open(path)?)
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        let names = fs::read_dir(directory)?.take(MAX_NAMES);
        names
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect()
    }

    fn exists(&self, path: &Path) -> bool {
        path.exists()
    }
}

/// The bytes of `from`, at most one more than [`MAX_BYTES`].
pub(super) fn bounded(from: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The files that `pattern` names, seen from `directory`: sorted for each alternative in braces, as
/// glob(3) does. Without wildcards: the path itself, whether it is there or not. At most one more
/// than [`MAX_FILES`].
pub(super) fn find(files: &impl Files, directory: &Path, pattern: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    if pattern.len() > MAX_PATH {
        return found;
    }
    for pattern in braces(pattern) {
        let mut paths = vec![PathBuf::new()];
        let mut any_wild = false;
        for component in directory.join(pattern).components() {
            let name = component.as_os_str().to_string_lossy().into_owned();
            let wild = matches!(component, Component::Normal(_)) && name.contains(['*', '?', '[']);
            any_wild |= wild;
            let mut next = Vec::new();
            for path in paths {
                if !wild {
                    next.push(path.join(component));
                    continue;
                }
                let mut names = files.list(&path).unwrap_or_default();
                names.retain(|found| fits(&name, found));
                names.sort_unstable();
                next.extend(names.into_iter().map(|name| path.join(name)));
                if next.len() > MAX_FILES {
                    break;
                }
            }
            paths = next;
        }
        // What a wildcard stood for may lack the rest of the path.
        found.extend(
            paths
                .into_iter()
                .filter(|path| !any_wild || files.exists(path)),
        );
        if found.len() > MAX_FILES {
            found.truncate(MAX_FILES + 1);
            break;
        }
    }
    found
}

/// `path` without `.` and `..`, as far as its text tells.
pub(super) fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir if normal.file_name().is_some() => _ = normal.pop(),
            component => normal.push(component),
        }
    }
    normal
}

/// csh's braces: `a{b,c}` is `ab` and `ac`. At most one more than [`MAX_FILES`].
fn braces(pattern: &str) -> Vec<String> {
    let mut done = Vec::new();
    let mut open = vec![pattern.to_owned()];
    while let Some(pattern) = open.pop() {
        if done.len() + open.len() > MAX_FILES {
            break;
        }
        match first_braces(&pattern) {
            None => done.push(pattern),
            Some((before, alternatives, after)) => {
                // The stack gives the last one first.
                let made = alternatives
                    .iter()
                    .rev()
                    .map(|one| format!("{before}{one}{after}"));
                open.extend(made);
            }
        }
    }
    done
}

/// The text before the first outermost pair of braces, its alternatives, the text after it.
fn first_braces(pattern: &str) -> Option<(&str, Vec<&str>, &str)> {
    let start = pattern.find('{')?;
    let (mut depth, mut from, mut alternatives) = (0_usize, start + 1, Vec::new());
    for (at, character) in pattern.char_indices().skip_while(|&(at, _)| at < start) {
        match character {
            '{' => depth += 1,
            ',' if depth == 1 => {
                alternatives.push(&pattern[from..at]);
                from = at + 1;
            }
            '}' if depth == 1 => {
                alternatives.push(&pattern[from..at]);
                return Some((&pattern[..start], alternatives, &pattern[at + 1..]));
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// Whether `name` fits the wildcards of `pattern`. A leading dot is to be written out, as in a shell.
fn fits(pattern: &str, name: &str) -> bool {
    if name.starts_with('.') && !pattern.starts_with('.') {
        return false;
    }
    let (pattern, name): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    // Where the last star stands, and how far it reached: a later one needs no earlier one's help.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        let step = match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
                continue;
            }
            Some('?') => Some(p + 1),
            Some('[') => class(&pattern, p, name[n]),
            Some(&character) if character == name[n] => Some(p + 1),
            _ => None,
        };
        match (step, &mut star) {
            (Some(next), _) => (p, n) = (next, n + 1),
            (None, Some((at, reached))) => {
                *reached += 1;
                (p, n) = (*at + 1, *reached);
            }
            (None, None) => return false,
        }
    }
    pattern[p..].iter().all(|&character| character == '*')
}

/// The place after the class `[...]` at `start`, if `character` is in it.
fn class(pattern: &[char], start: usize, character: char) -> Option<usize> {
    let negated = matches!(pattern.get(start + 1), Some('!' | '^'));
    let first = start + 1 + usize::from(negated);
    let end = (first + 1..pattern.len()).find(|&at| pattern[at] == ']')?;
    let (mut at, mut within) = (first, false);
    while at < end {
        if pattern.get(at + 1) == Some(&'-') && at + 2 < end {
            within |= (pattern[at]..=pattern[at + 2]).contains(&character);
            at += 3;
        } else {
            within |= pattern[at] == character;
            at += 1;
        }
    }
    (within != negated).then_some(end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_are_those_of_a_shell() {
        for (pattern, name, wanted) in [
            ("*.conf", "a.conf", true),
            ("*.conf", ".a.conf", false),
            (".*.conf", ".a.conf", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-b-b", false),
            ("?[0-9]", "x7", true),
            ("?[!0-9]", "x7", false),
            ("[]a]", "]", true),
            ("[a", "[a", false),
            ("*****", "", true),
        ] {
            assert_eq!(fits(pattern, name), wanted, "{pattern} {name}");
        }
    }

    #[test]
    fn many_stars_take_no_time() {
        assert!(!fits(
            &"*a".repeat(200),
            &"a".repeat(10_000).replace('a', "ab")
        ));
    }

    #[test]
    fn braces_are_alternatives() {
        assert_eq!(braces("a{b,{c,d}e,}f"), ["abf", "acef", "adef", "af"]);
        assert_eq!(braces("a{b"), ["a{b"]);
        assert!(braces(&"{a,b}".repeat(40)).len() <= MAX_FILES + 1);
    }

    #[test]
    fn a_path_is_normal_without_dots() {
        assert_eq!(normal(Path::new("/a/./b/../c")), Path::new("/a/c"));
        assert_eq!(normal(Path::new("../c")), Path::new("../c"));
    }
}
