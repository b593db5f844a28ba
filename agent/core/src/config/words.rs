//! The words of messages: values as an operator would call them, and what a misspelt word was
//! probably meant to be.

use toml::de::DeValue;

use super::error::quote;

/// A value as an operator would call it.
pub(super) fn describe(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) if text.is_empty() => "an empty string".to_owned(),
        DeValue::String(text) => format!("the string {}", quote(text)),
        DeValue::Integer(integer) => format!("the integer {}", quote(integer.as_str())),
        DeValue::Float(float) => format!("the number {}", quote(float.as_str())),
        DeValue::Boolean(boolean) => format!("`{boolean}`"),
        DeValue::Datetime(_) => "a date or time".to_owned(),
        DeValue::Array(_) => "an array".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

/// "did you mean", where one of `known` is close enough to `word` to be a slip of it.
pub(super) fn suggestion<'k>(
    word: &str,
    known: impl IntoIterator<Item = &'k str>,
) -> Option<String> {
    nearest(word, known).map(|nearest| format!("did you mean `{nearest}`?"))
}

/// That of `known` which `word` is a slip of.
pub(super) fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let limit = 1 + word.chars().count().min(64) / 4;
    let near = known
        .into_iter()
        .map(|known| (distance(word, known), known));
    near.filter(|&(distance, _)| distance <= limit)
        .min()
        .map(|(_, nearest)| nearest)
}

/// The number of characters to insert, delete or replace between two words (Levenshtein). Long
/// words are cut: they are nobody's slip.
fn distance(left: &str, right: &str) -> usize {
    let left: Vec<char> = left.chars().take(64).collect();
    let right: Vec<char> = right.chars().take(64).collect();
    // The distances from the part of `left` seen so far to each beginning of `right`.
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (index, from) in left.iter().enumerate() {
        let mut previous = index + 1;
        let mut next = vec![previous];
        for (to, above) in right.iter().zip(row.windows(2)) {
            let &[diagonal, above] = above else { continue };
            let replaced = diagonal + usize::from(from != to);
            previous = replaced.min(above + 1).min(previous + 1);
            next.push(previous);
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        assert_eq!(distance("", ""), 0);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", ""), 3);
        assert_eq!(distance("priority", "priority"), 0);
        assert_eq!(distance("prioritty", "priority"), 1);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("ä", "a"), 1);
    }

    #[test]
    fn suggestions_are_near_or_none() {
        let known = ["interval", "fast_interval", "timeout"];
        let suggest = |word| suggestion(word, known);
        assert_eq!(
            suggest("intervall").as_deref(),
            Some("did you mean `interval`?")
        );
        assert_eq!(
            suggest("fast-interval").as_deref(),
            Some("did you mean `fast_interval`?")
        );
        assert_eq!(suggest("colour"), None);
    }
}
