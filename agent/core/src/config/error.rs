//! What is wrong with a configuration, and where.
//!
//! The reader and the validation push a [`Mistake`] for each thing they find and go on, so that
//! one look at the file tells the operator all of them. [`ConfigErrors`] puts them in the order of
//! the file and finds their lines and columns; its `Display` is for a terminal, its
//! [`lines`](ConfigErrors::lines) for logs and scripts.

use std::{fmt, ops::Range};

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The bytes of the text it is about.
    pub span: Range<usize>,
    /// What is wrong, in one line.
    pub message: String,
    /// What to write instead, in one line.
    pub help: Option<String>,
}

impl Mistake {
    /// A mistake whose remedy is plain from the message.
    pub(crate) fn new(span: &Range<usize>, message: impl Into<String>) -> Self {
        Self {
            span: span.clone(),
            message: message.into(),
            help: None,
        }
    }

    /// The same with advice.
    #[must_use]
    pub(crate) fn help(self, help: impl Into<String>) -> Self {
        Self {
            help: Some(help.into()),
            ..self
        }
    }
}

/// Every mistake of a configuration, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors {
    path: String,
    mistakes: Vec<Mistake>,
    /// One for each mistake.
    places: Vec<Place>,
}

impl ConfigErrors {
    /// The mistakes of `text`, which came from `path`.
    pub(crate) fn new(path: &str, text: &str, mut mistakes: Vec<Mistake>) -> Self {
        mistakes.sort_by_key(|mistake| (mistake.span.start, mistake.span.end));
        mistakes.dedup();
        let lines = LineIndex::new(text);
        let places = mistakes
            .iter()
            .map(|mistake| lines.place(&mistake.span))
            .collect();
        Self {
            path: escape(path),
            mistakes,
            places,
        }
    }

    /// The mistakes.
    #[must_use]
    pub fn mistakes(&self) -> &[Mistake] {
        &self.mistakes
    }

    /// Each mistake as `file:line:column: message`. Lines and columns count from 1, columns in
    /// characters.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        self.mistakes
            .iter()
            .zip(&self.places)
            .map(|(mistake, place)| {
                format!(
                    "{}:{}:{}: {}",
                    self.path, place.line, place.column, mistake.message
                )
            })
    }
}

impl fmt::Display for ConfigErrors {
    /// One block a mistake, as compilers print them, and a last line that sums up.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let renderer = Renderer::plain();
        for (mistake, place) in self.mistakes.iter().zip(&self.places) {
            let snippet = Snippet::source(place.source.as_str())
                .path(self.path.as_str())
                .line_start(place.line)
                .annotation(AnnotationKind::Primary.span(place.marked.clone()));
            let mut block = Level::ERROR
                .primary_title(mistake.message.as_str())
                .element(snippet);
            if let Some(help) = &mistake.help {
                block = block.element(Level::HELP.message(help.as_str()));
            }
            writeln!(f, "{}\n", renderer.render(&[block]))?;
        }
        let count = self.mistakes.len();
        let noun = if count == 1 { "mistake" } else { "mistakes" };
        write!(f, "{count} {noun} in {}; nothing was changed", self.path)
    }
}

impl std::error::Error for ConfigErrors {}

/// `text` between backticks, short and without control characters: it goes to terminals and logs.
pub(super) fn quote(text: &str) -> String {
    const LIMIT: usize = 80;
    let mut short: String = text.chars().take(LIMIT).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    format!("`{}`", escape(&short))
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            escaped.extend(character.escape_default());
        } else {
            escaped.push(character);
        }
    }
    escaped
}

/// Where a mistake stands.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    line: usize,
    column: usize,
    /// The line's text: all that is shown, so that a report's length does not depend on the file's.
    source: String,
    /// The marked bytes of it.
    marked: Range<usize>,
}

/// Finds the line of a byte.
struct LineIndex<'a> {
    text: &'a str,
    /// The first byte of each line.
    starts: Vec<usize>,
}

impl<'a> LineIndex<'a> {
    fn new(text: &'a str) -> Self {
        let after_newlines = text.match_indices('\n').map(|(at, _)| at + 1);
        Self {
            text,
            starts: std::iter::once(0).chain(after_newlines).collect(),
        }
    }

    fn place(&self, span: &Range<usize>) -> Place {
        let start = self.text.floor_char_boundary(span.start);
        let line = self.starts.partition_point(|&first| first <= start);
        let first = self
            .starts
            .get(line.saturating_sub(1))
            .copied()
            .unwrap_or(0);
        let source = self
            .text
            .get(first..)
            .and_then(|rest| rest.lines().next())
            .unwrap_or("");

        // A value over many lines is marked on its first one.
        let from = source.floor_char_boundary(start - first);
        let until = source
            .floor_char_boundary(span.end.saturating_sub(first))
            .max(from);
        let column = source
            .get(..from)
            .map_or(0, |before| before.chars().count())
            + 1;
        Place {
            line,
            column,
            source: source.to_owned(),
            marked: from..until,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(text: &str, spans: &[Range<usize>]) -> ConfigErrors {
        let mistakes = spans
            .iter()
            .map(|span| Mistake::new(span, "wrong"))
            .collect();
        ConfigErrors::new("a.toml", text, mistakes)
    }

    fn places(text: &str, span: Range<usize>) -> (usize, usize) {
        let place = LineIndex::new(text).place(&span);
        (place.line, place.column)
    }

    #[test]
    fn lines_and_columns_count_from_one_in_characters() {
        assert_eq!(places("", 0..0), (1, 1));
        assert_eq!(places("ab\ncd", 0..1), (1, 1));
        assert_eq!(places("ab\ncd", 2..3), (1, 3));
        assert_eq!(places("ab\ncd", 3..4), (2, 1));
        assert_eq!(places("ab\r\ncd", 5..6), (2, 2));
        assert_eq!(places("aä = 'ö'", 3..4), (1, 3));
        assert_eq!(places("ab\n", 3..3), (2, 1));
        assert_eq!(places("ab", 700..900), (1, 3));
        assert_eq!(places("ä", 1..1), (1, 1), "inside a character");
    }

    #[test]
    fn terminal_form() {
        let text = "[node]\nname = \"ä\"\ncolour = 3\n";
        let mistakes = vec![
            Mistake::new(&(19..25), "unknown key").help("did you mean `name`?"),
            Mistake::new(&(14..18), "bad name"),
        ];
        let shown = ConfigErrors::new("steerd.toml", text, mistakes).to_string();
        let expected = "\
error: bad name
 --> steerd.toml:2:8
  |
2 | name = \"ä\"
  |        ^^^

error: unknown key
 --> steerd.toml:3:1
  |
3 | colour = 3
  | ^^^^^^
  |
  = help: did you mean `name`?

2 mistakes in steerd.toml; nothing was changed";
        assert_eq!(shown, expected);
    }

    #[test]
    fn both_forms_name_the_same_place() {
        let text = "a\n\tb = 1 # ä\nc = [\n  1,\n  2]\n\n";
        for at in 0..=text.len() {
            let errors = report(text, std::slice::from_ref(&(at..at + 3)));
            let line = errors.lines().next().unwrap();
            let place = line.strip_suffix(": wrong").unwrap();
            assert!(
                errors.to_string().contains(&format!("--> {place}\n")),
                "{line}\n{errors}"
            );
        }
    }

    #[test]
    fn the_order_is_the_files_and_repeats_are_dropped() {
        let errors = report("a\nb\nc", &[4..5, 0..1, 2..3, 0..1]);
        let lines: Vec<String> = errors.lines().collect();
        assert_eq!(
            lines,
            [
                "a.toml:1:1: wrong",
                "a.toml:2:1: wrong",
                "a.toml:3:1: wrong"
            ]
        );
    }

    #[test]
    fn quoted_text_is_short_and_harmless() {
        assert_eq!(quote("a\u{1b}[31m\n"), "`a\\u{1b}[31m\\n`");
        assert_eq!(quote(&"x".repeat(500)).chars().count(), 83);
    }
}
