//! The page about verdicts and events names each of them, in its row, with what becomes of it.

use steerd_ebpf::{
    event::Event,
    verdict::{Fate, Verdict},
};

const PAGE: &str = include_str!("../../docs/verdicts.md");

/// The row of a name: its cells.
fn row(name: &str) -> Vec<&str> {
    let start = format!("| `{name}` |");
    let mut rows = PAGE.lines().filter(|line| line.starts_with(&start));
    let row = rows
        .next()
        .unwrap_or_else(|| panic!("docs/verdicts.md lacks `{name}`"));
    assert_eq!(rows.next(), None, "`{name}` has two rows");
    row.trim_matches('|').split('|').map(str::trim).collect()
}

#[test]
fn the_page_has_every_verdict() {
    for verdict in Verdict::ALL {
        let cells = row(verdict.name());
        let [_, when, fate, action] = cells[..] else {
            panic!("{cells:?}");
        };
        let word = match verdict.fate() {
            Fate::Pass => "pass",
            Fate::Drop => "drop",
            Fate::Tx | Fate::Out => "send",
        };
        assert_eq!(fate.split(':').next(), Some(word), "`{}`", verdict.name());
        assert!(!when.is_empty() && !action.is_empty(), "{cells:?}");
    }
}

#[test]
fn the_page_has_every_event() {
    for event in Event::ALL {
        let cells = row(event.name());
        assert!(cells.len() == 3 && !cells.contains(&""), "{cells:?}");
    }
}

/// And nothing that there is not any more.
#[test]
fn the_page_has_nothing_else() {
    let names = Verdict::ALL
        .iter()
        .map(|verdict| verdict.name())
        .chain(Event::ALL.iter().map(|event| event.name()));
    let rows = PAGE.lines().filter(|line| line.starts_with("| `"));
    assert_eq!(rows.count(), names.count());
}
