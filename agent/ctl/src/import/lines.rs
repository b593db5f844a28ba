//! The lines of a configuration and of all it includes, after what keepalived.conf(5) calls advanced
//! configuration: comments, `include`, conditions (`@host`), definitions (`$NAME=`) and sequences
//! (`~SEQ`, `~LST`).
//!
//! What comes out is bounded, whatever goes in: bytes, files, lines, and steps of expansion.

use std::{
    collections::{BTreeMap, VecDeque},
    path::{Path, PathBuf},
};

use super::{
    error::{Problem, SyntaxError},
    files::{self, Files, MAX_BYTES, MAX_FILES},
    toml::printable,
    words::without_comment,
};

mod expand;

/// Lines, after expansion.
const MAX_LINES: usize = 100_000;
/// Includes within includes.
const MAX_NESTED: usize = 16;
/// Bytes that expansion makes, all together.
const MAX_WORK: usize = 64 << 20;
/// No more than these are told.
const MAX_ERRORS: usize = 20;

/// Where a line is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// The file's place in [`Lines::names`].
    pub(super) file: usize,
    /// From 1.
    pub(super) line: u32,
}

/// A line to look at, without its comment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) place: Place,
    pub(super) text: String,
    /// Why it is not part of this node's configuration, if it is not.
    pub(super) aside: Option<String>,
}

/// All lines.
#[derive(Debug)]
pub(super) struct Lines {
    /// The files, as comments name them.
    pub(super) names: Vec<String>,
    pub(super) lines: Vec<Line>,
    pub(super) errors: Vec<SyntaxError>,
}

/// Reads `text`, which came from the file `main`, and what it includes, for the node that keepalived
/// knows as `config_id`.
pub(super) fn lines(files: &impl Files, main: &Main<'_>, text: &[u8], config_id: &str) -> Lines {
    let directory = main.path.and_then(Path::parent).unwrap_or(Path::new(""));
    let mut reader = Reader {
        files,
        root: directory.to_owned(),
        config_id,
        definitions: BTreeMap::new(),
        stack: main.path.map(files::normal).into_iter().collect(),
        bytes: 0,
        work: 0,
        full: false,
        out: Lines {
            names: vec![printable(main.name)],
            lines: Vec::new(),
            errors: Vec::new(),
        },
    };
    reader.file(0, directory, text);
    reader.out
}

/// The file that was named on the command line.
#[derive(Debug)]
pub(super) struct Main<'a> {
    /// How comments name it.
    pub(super) name: &'a str,
    /// Where it is; none: standard input, whose includes are seen from the working directory.
    pub(super) path: Option<&'a Path>,
}

struct Reader<'a, F> {
    files: &'a F,
    /// The main file's directory: files below it are named from there.
    root: PathBuf,
    config_id: &'a str,
    definitions: BTreeMap<String, String>,
    /// The files that are being read, for circles.
    stack: Vec<PathBuf>,
    /// Bytes read.
    bytes: usize,
    /// Bytes made by expansion.
    work: usize,
    /// A bound is reached: nothing more is read.
    full: bool,
    out: Lines,
}

impl<F: Files> Reader<'_, F> {
    /// The lines of one file.
    fn file(&mut self, file: usize, directory: &Path, text: &[u8]) {
        self.bytes += text.len();
        let text = String::from_utf8_lossy(text);
        if self.bytes > MAX_BYTES {
            let place = Place { file, line: 1 };
            self.stop(place, Problem::Large(MAX_BYTES >> 20));
            return;
        }
        let mut raw = (1..).zip(text.lines());
        while let Some((line, text)) = raw.next() {
            if self.full {
                return;
            }
            let place = Place { file, line };
            let text = without_comment(text).trim();
            let mut text = text.to_owned();
            // Only a definition goes on after a backslash.
            if is_definition(without_condition(&text)) {
                while let Some(begun) = text.strip_suffix('\\') {
                    text.truncate(begun.trim_end().len());
                    text.push('\n');
                    let Some((_, next)) = raw.next() else { break };
                    text.push_str(without_comment(next).trim());
                }
            }
            match included(&text) {
                Some(pattern) => self.include(place, directory, &text, pattern),
                None => self.expand(place, directory, text),
            }
        }
    }

    /// An `include` line.
    fn include(&mut self, place: Place, directory: &Path, text: &str, pattern: &str) {
        if self.stack.len() >= MAX_NESTED {
            self.error(place, Problem::Nested(MAX_NESTED));
            return;
        }
        let found = files::find(self.files, directory, pattern);
        let mut read = 0;
        for path in found {
            let path = files::normal(&path);
            let name = path
                .strip_prefix(files::normal(&self.root))
                .unwrap_or(&path);
            let name = printable(&name.display().to_string());
            if self.stack.contains(&path) {
                self.error(place, Problem::Cycle(name));
                return;
            }
            if self.out.names.len() >= MAX_FILES {
                self.stop(place, Problem::Files(MAX_FILES));
                return;
            }
            let Ok(bytes) = self.files.read(&path) else {
                continue;
            };
            read += 1;
            self.out.names.push(name);
            let directory = path.parent().unwrap_or(Path::new("")).to_owned();
            self.stack.push(path);
            self.file(self.out.names.len() - 1, &directory, &bytes);
            self.stack.pop();
            if self.full {
                return;
            }
        }
        if read == 0 {
            let why = "no such file could be read; keepalived goes on without it too";
            self.push(place, text.to_owned(), Some(why.to_owned()));
        }
    }

    /// A line, or what it becomes: its condition, definition, sequence and parameters in turn.
    fn expand(&mut self, place: Place, directory: &Path, text: String) {
        let mut open = VecDeque::from([text]);
        while let Some(text) = open.pop_front() {
            if self.full {
                return;
            }
            if let Err(problem) = self.work(text.len() + 1) {
                self.stop(place, problem);
                return;
            }
            let text = text.trim();
            if text.is_empty() {
                continue;
            }
            if let Some(conditional) = text.strip_prefix('@') {
                self.conditional(place, text, conditional, &mut open);
            } else if is_definition(text) {
                if let Some((name, value)) = text[1..].split_once('=') {
                    self.definitions.insert(name.to_owned(), value.to_owned());
                }
            } else if let Some(word) = expand::sequence_word(text) {
                match expand::sequence(self, directory, text, word) {
                    Ok(lines) => lines
                        .into_iter()
                        .rev()
                        .for_each(|line| open.push_front(line)),
                    Err(problem) => self.error(place, problem),
                }
            } else {
                match expand::parameters(self, directory, text) {
                    Ok(expand::Made::Line(line)) if line == text => self.push(place, line, None),
                    // It may have become a condition, or a sequence.
                    Ok(expand::Made::Line(line)) if line.trim_start().starts_with(['@', '~']) => {
                        open.push_front(line);
                    }
                    Ok(expand::Made::Line(line)) => self.push(place, line, None),
                    Ok(expand::Made::Lines(lines)) => {
                        self.steps(place, &mut open, lines);
                    }
                    Err(problem) => self.error(place, problem),
                }
            }
        }
    }

    /// Puts the lines of a definition before what is still to do.
    fn steps(&mut self, place: Place, open: &mut VecDeque<String>, lines: Vec<String>) {
        if open.len() + lines.len() > MAX_LINES {
            self.stop(place, Problem::Lines(MAX_LINES));
            return;
        }
        lines
            .into_iter()
            .rev()
            .for_each(|line| open.push_front(line));
    }

    /// `@host ...`: only for that host. `@^host ...`: for all others.
    fn conditional(
        &mut self,
        place: Place,
        text: &str,
        conditional: &str,
        open: &mut VecDeque<String>,
    ) {
        let (name, negative) = match conditional.strip_prefix('^') {
            Some(name) => (name, true),
            None => (conditional, false),
        };
        let (name, rest) = name.split_once(char::is_whitespace).unwrap_or((name, ""));
        if (name == self.config_id) != negative {
            open.push_front(rest.to_owned());
        } else {
            let why = format!(
                "not for this node, whose config id is {:?} (see --config-id)",
                self.config_id
            );
            self.push(place, text.to_owned(), Some(why));
        }
    }

    /// Counts so many bytes made.
    fn work(&mut self, bytes: usize) -> Result<(), Problem> {
        self.work = self.work.saturating_add(bytes);
        match self.work > MAX_WORK {
            true => Err(Problem::Large(MAX_WORK >> 20)),
            false => Ok(()),
        }
    }

    fn push(&mut self, place: Place, text: String, aside: Option<String>) {
        let text = text.trim().to_owned();
        if text.is_empty() {
            return;
        }
        if self.out.lines.len() >= MAX_LINES {
            self.stop(place, Problem::Lines(MAX_LINES));
            return;
        }
        self.out.lines.push(Line { place, text, aside });
    }

    fn error(&mut self, place: Place, problem: Problem) {
        let file = self.out.names.get(place.file).cloned().unwrap_or_default();
        self.out.errors.push(SyntaxError {
            file,
            line: place.line,
            problem,
        });
        self.full |= self.out.errors.len() >= MAX_ERRORS;
    }

    fn stop(&mut self, place: Place, problem: Problem) {
        self.full = true;
        self.error(place, problem);
    }
}

/// The line without `@host`.
fn without_condition(text: &str) -> &str {
    match text.strip_prefix('@') {
        Some(text) => text
            .split_once(char::is_whitespace)
            .map_or("", |(_, rest)| rest.trim_start()),
        None => text,
    }
}

/// Whether the line is `$NAME=...`.
fn is_definition(text: &str) -> bool {
    text.strip_prefix('$')
        .and_then(|text| text.split_once('='))
        .is_some_and(|(name, _)| expand::is_name(name))
}

/// What an include line includes. The letter says what keepalived finds wrong if nothing is there.
fn included(text: &str) -> Option<&str> {
    let (word, pattern) = text.split_once(char::is_whitespace)?;
    let includes = [
        "include", "includer", "includem", "includew", "includeb", "includea",
    ];
    let pattern = pattern.trim().trim_matches(['"', '\'']);
    (includes.contains(&word) && !pattern.is_empty()).then_some(pattern)
}

#[cfg(test)]
mod tests;
