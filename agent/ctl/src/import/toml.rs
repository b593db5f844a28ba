//! TOML's values, and our names, as an operator would write them.

use std::{
    collections::{HashMap, HashSet},
    fmt::Write,
    time::Duration,
};

/// No line of a comment is longer, unless one word is.
pub(super) const WIDTH: usize = 100;

/// Names that are taken.
#[derive(Debug, Default)]
pub(super) struct Names {
    taken: HashSet<String>,
    /// How often a name was wanted.
    wanted: HashMap<String, usize>,
}

impl Names {
    /// `name` in the shape of one of ours, with a number if it is taken.
    pub(super) fn take(&mut self, name: &str) -> String {
        let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let shape = name.chars().map(|c| if fits(c) { c } else { '-' }).take(64);
        let mut name: String = shape.collect();
        if name.is_empty() {
            name.push('x');
        }
        loop {
            let wanted = self.wanted.entry(name.clone()).or_default();
            *wanted += 1;
            let numbered = match *wanted {
                1 => name.clone(),
                number => {
                    let suffix = format!("-{number}");
                    format!("{:.*}{suffix}", 64 - suffix.len(), name)
                }
            };
            if self.taken.insert(numbered.clone()) {
                return numbered;
            }
        }
    }
}

/// A duration as an operator would write it.
pub(super) fn duration(duration: Duration) -> String {
    let (seconds, nanos) = (duration.as_secs(), duration.subsec_nanos());
    match (seconds, nanos) {
        (0, 0) => "\"0s\"".to_owned(),
        (_, 0) if seconds % 3600 == 0 => format!("\"{}h\"", seconds / 3600),
        (_, 0) if seconds % 60 == 0 => format!("\"{}m\"", seconds / 60),
        (_, 0) => format!("\"{seconds}s\""),
        (_, _) if nanos % 1_000_000 == 0 => format!("\"{}ms\"", duration.as_millis()),
        (_, _) => format!("\"{}us\"", duration.as_micros()),
    }
}

/// An array: on one line where it fits.
pub(super) fn list(items: impl IntoIterator<Item = String>) -> String {
    let items: Vec<String> = items.into_iter().collect();
    let line = format!("[{}]", items.join(", "));
    if line.len() <= WIDTH - 20 || items.len() < 2 {
        return line;
    }
    let mut text = "[\n".to_owned();
    for item in items {
        _ = writeln!(text, "    {item},");
    }
    text.push(']');
    text
}

/// A TOML string.
pub(super) fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            _ if character.is_control() => {
                _ = write!(quoted, "\\u{:04X}", u32::from(character));
            }
            _ => quoted.push(character),
        }
    }
    quoted.push('"');
    quoted
}

/// A key of a table's header: quoted where TOML wants it.
pub(super) fn bare(name: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
    match name.chars().all(fits) {
        true => name.to_owned(),
        false => quoted(name),
    }
}

/// The text without what a comment may not hold.
pub(super) fn printable(text: &str) -> String {
    let printable = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().map(printable).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_ours_and_each_once() {
        let mut names = Names::default();
        let long = "x".repeat(70);
        let taken =
            ["VI_1", "VI_1", "VI_1-2", "a b", "", &long, &long].map(|name| names.take(name));
        let wanted = [
            "VI_1",
            "VI_1-2",
            "VI_1-2-2",
            "a-b",
            "x",
            &long[..64],
            &format!("{}-2", &long[..62]),
        ];
        assert_eq!(taken, wanted);
    }

    #[test]
    fn durations_have_the_unit_that_fits() {
        for (millis, wanted) in [
            (0, "0s"),
            (250, "250ms"),
            (1500, "1500ms"),
            (90_000, "90s"),
            (300_000, "5m"),
            (7_200_000, "2h"),
        ] {
            assert_eq!(
                duration(Duration::from_millis(millis)),
                format!("\"{wanted}\"")
            );
        }
        assert_eq!(duration(Duration::from_micros(1)), "\"1us\"");
    }

    #[test]
    fn texts_are_quoted() {
        assert_eq!(
            quoted("a\"b\\c\u{1b}\n\u{7f}"),
            r#""a\"b\\c\u001B\n\u007F""#
        );
        assert_eq!(bare("eth0.5"), "\"eth0.5\"");
        assert_eq!(bare("eth0"), "eth0");
        assert!(list((0..40).map(|n| n.to_string())).starts_with("[\n    0,\n"));
    }
}
