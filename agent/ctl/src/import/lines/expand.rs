//! Parameters (`$NAME`, `${NAME}`) and sequences (`~SEQ`, `~LST`).

use std::path::Path;

use super::{Files, MAX_LINES, Reader};
use crate::import::error::Problem;

/// Replacements in one line. Each may bring others; a circle never ends.
const MAX_STEPS: usize = 1000;
/// A line that grows further is in a circle too.
const MAX_LINE: usize = 1 << 20;

/// What a line has become.
pub(super) enum Made {
    /// One line, with nothing left to replace.
    Line(String),
    /// The lines of a definition, each to be looked at anew: it may define what the next one uses.
    Lines(Vec<String>),
}

/// Replaces the parameters of `line`, and those of what replaces them.
pub(super) fn parameters<F: Files>(
    reader: &mut Reader<'_, F>,
    directory: &Path,
    line: &str,
) -> Result<Made, Problem> {
    let mut line = line.to_owned();
    // What is left of here is done: it names nothing that is defined.
    let mut from = 0;
    for _ in 0..MAX_STEPS {
        let Some(found) = find(&line, from) else {
            return Ok(Made::Line(line));
        };
        let Some(value) = value(reader, directory, found.name) else {
            from = found.end;
            continue;
        };
        let (before, after) = (&line[..found.start], &line[found.end..]);
        if let Some((first, others)) = value.split_once('\n') {
            reader.work(value.len())?;
            let mut lines: Vec<String> = vec![format!("{before}{first}")];
            lines.extend(others.split('\n').map(str::to_owned));
            if let Some(last) = lines.last_mut() {
                last.push_str(after);
            }
            return Ok(Made::Lines(lines));
        }
        from = found.start;
        // `${_HASH}` and `${_BANG}` stand for what would begin a comment: words are all that is
        // left to make of the line, so nothing reads them as one.
        line = format!("{before}{value}{after}");
        reader.work(line.len())?;
        if line.len() > MAX_LINE {
            break;
        }
    }
    let name = find(&line, from).map_or("the line", |found| found.name);
    Err(Problem::Endless(name.chars().take(64).collect()))
}

/// Whether the line begins with a sequence, and of which kind.
pub(super) fn sequence_word(text: &str) -> Option<&'static str> {
    ["~SEQx(", "~SEQ(", "~LST("]
        .into_iter()
        .find(|word| text.starts_with(word))
}

/// The lines that a line beginning with a sequence stands for: each a definition of its variables, then
/// the rest.
pub(super) fn sequence<F: Files>(
    reader: &mut Reader<'_, F>,
    directory: &Path,
    text: &str,
    word: &'static str,
) -> Result<Vec<String>, Problem> {
    let list = word == "~LST(";
    let problem = || match list {
        true => Problem::Sequence {
            word: "LST",
            form: "~LST(NAME, value, ...) or ~LST({A, B}, {a, b}, ...)",
        },
        false => Problem::Sequence {
            word: "SEQ",
            form: "~SEQ(NAME, start, step, end) with integers, and a step towards the end",
        },
    };
    let (inside, rest) = text[word.len()..].split_once(')').ok_or_else(problem)?;
    let Made::Line(inside) = parameters(reader, directory, inside)? else {
        return Err(problem());
    };
    let rounds = match list {
        true => listed(&inside),
        false => counted(&inside, word == "~SEQx("),
    };
    let rounds = rounds.ok_or_else(problem)?;
    if rounds.len() > MAX_LINES {
        return Err(Problem::Lines(MAX_LINES));
    }
    reader.work(rounds.len().saturating_mul(rest.len()))?;
    let mut lines = Vec::new();
    for round in rounds {
        for (name, value) in round {
            lines.push(format!("${name}={value}"));
        }
        lines.push(rest.trim().to_owned());
    }
    Ok(lines)
}

/// Names with the values of one round.
type Round = Vec<(String, String)>;

/// `NAME, [[start,] step,] end`
fn counted(inside: &str, hexadecimal: bool) -> Option<Vec<Round>> {
    let mut words = inside.split(',').map(str::trim);
    let name = words.next().filter(|name| is_name(name))?;
    let numbers: Option<Vec<i64>> = words.map(number).collect();
    let (start, step, end) = match *numbers?.as_slice() {
        [end] => (if end < 0 { -1 } else { 1 }, None, end),
        [start, end] => (start, None, end),
        [start, step, end] => (start, Some(step), end),
        _ => return None,
    };
    let step = step.unwrap_or(if end < start { -1 } else { 1 });
    if step == 0 {
        return None;
    }
    let mut rounds = Vec::new();
    let mut at = start;
    while (step > 0 && at <= end || step < 0 && at >= end) && rounds.len() <= MAX_LINES {
        let value = match hexadecimal {
            true => format!("{at:x}"),
            false => at.to_string(),
        };
        rounds.push(vec![(name.to_owned(), value)]);
        let Some(next) = at.checked_add(step) else {
            break;
        };
        at = next;
    }
    Some(rounds)
}

/// A number, decimal or with `0x`.
fn number(text: &str) -> Option<i64> {
    match text.strip_prefix("0x") {
        Some(digits) => i64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// `NAME, value, ...` or `{A, B}, {a, b}, ...`
fn listed(inside: &str) -> Option<Vec<Round>> {
    let mut groups = groups(inside)?.into_iter();
    let names = groups.next()?;
    if !names.iter().all(|name| is_name(name)) {
        return None;
    }
    let rounds: Vec<Round> = groups
        .map(|values| {
            let same = values.len() == names.len();
            same.then(|| names.iter().cloned().zip(values).collect())
        })
        .collect::<Option<_>>()?;
    (!rounds.is_empty()).then_some(rounds)
}

/// The parts between commas; those in braces have parts of their own.
fn groups(inside: &str) -> Option<Vec<Vec<String>>> {
    let mut found = Vec::new();
    let mut rest = inside.trim();
    while !rest.is_empty() {
        let (group, after) = match rest.strip_prefix('{') {
            Some(inner) => {
                let (group, after) = inner.split_once('}')?;
                let parts = group.split(',').map(|part| part.trim().to_owned());
                (parts.collect(), after.trim_start())
            }
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                (vec![rest[..end].trim().to_owned()], &rest[end..])
            }
        };
        found.push(group);
        rest = match after.strip_prefix(',') {
            Some(after) => after.trim_start(),
            None if after.is_empty() => after,
            None => return None,
        };
    }
    Some(found)
}

/// A parameter in a line.
struct Found<'a> {
    name: &'a str,
    start: usize,
    end: usize,
}

/// The next parameter at or after `from`: `${NAME}` anywhere, `$NAME` before a space.
fn find(line: &str, from: usize) -> Option<Found<'_>> {
    for (at, _) in line[from..].match_indices('$') {
        let start = from + at;
        let after = &line[start + 1..];
        // No further than the name: a line of many `$` is looked through once.
        let (braced, after) = match after.strip_prefix('{') {
            Some(after) => (true, after),
            None => (false, after),
        };
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let length = after.find(|c| !fits(c)).unwrap_or(after.len());
        let (name, next) = (&after[..length], after[length..].chars().next());
        let ends = match braced {
            true => next == Some('}'),
            false => next.is_none_or(char::is_whitespace),
        };
        if ends && is_name(name) {
            let end = start + 1 + length + if braced { 2 } else { 0 };
            return Some(Found { name, start, end });
        }
    }
    None
}

/// What a parameter stands for, if it is defined.
fn value<F: Files>(reader: &Reader<'_, F>, directory: &Path, name: &str) -> Option<String> {
    if let Some(value) = reader.definitions.get(name) {
        return Some(value.clone());
    }
    match name {
        "_PWD" => Some(directory.display().to_string()),
        "_INSTANCE" => Some(reader.config_id.to_owned()),
        "_HASH" => Some("#".to_owned()),
        "_BANG" => Some("!".to_owned()),
        _ => None,
    }
}

/// Letters, digits and underscores, no digit first.
pub(super) fn is_name(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    !text.is_empty() && text.bytes().all(fits) && !text.as_bytes()[0].is_ascii_digit()
}
