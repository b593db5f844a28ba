//! What has become of each statement: none may be lost.
//!
//! A translation marks each node as used, or leaves it with a [`Note`] for the output. What it did not
//! look at is left by [`Account::rest`], so that forgetting one makes a comment, not a gap.

use std::{collections::BTreeMap, fmt};

use super::{
    hints::{Block, hint},
    lines::Place,
    tree::{Node, Tree},
};

/// What the output says of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) place: Place,
    /// The statement.
    pub(super) text: String,
    /// Why it has no counterpart, or what differs; empty: it belongs to the one before it.
    pub(super) why: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    Unseen,
    Used,
    Left,
}

/// What has become of each node.
#[derive(Debug)]
pub(super) struct Account {
    marks: Vec<Mark>,
    places: BTreeMap<Place, bool>,
}

/// How many lines there were.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Sum {
    /// Lines all of which has a counterpart.
    pub(crate) translated: usize,
    /// Lines that became a comment.
    pub(crate) left: usize,
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = |count| if count == 1 { "line" } else { "lines" };
        let Self { translated, left } = *self;
        write!(
            f,
            "{translated} {} translated, {left} left as ",
            lines(translated)
        )?;
        f.write_str(if left == 1 { "a comment" } else { "comments" })
    }
}

impl Account {
    /// Of the nodes of `tree`, none seen yet.
    pub(super) fn of(tree: &Tree) -> Self {
        Self {
            marks: vec![Mark::Unseen; tree.count],
            places: BTreeMap::new(),
        }
    }

    /// The statement has a counterpart. Its block counts for itself.
    pub(super) fn used(&mut self, node: &Node) {
        if self.mark(node, Mark::Used) {
            self.places.entry(node.place).or_insert(true);
        }
    }

    /// The statement has a counterpart that differs.
    pub(super) fn differs(&mut self, node: &Node, why: impl Into<String>) -> Note {
        self.used(node);
        note(node, why)
    }

    /// The statement and all of its block have no counterpart.
    pub(super) fn left(&mut self, node: &Node, why: impl Into<String>) -> Vec<Note> {
        let mut notes = Vec::new();
        self.leave(node, why.into(), 0, &mut notes);
        notes
    }

    /// Leaves what is unseen yet of the node's block, which is one of `block`'s kind.
    pub(super) fn rest(&mut self, node: &Node, block: Block) -> Vec<Note> {
        self.rest_of(node.all(), block)
    }

    /// Leaves what is unseen yet of `nodes`.
    pub(super) fn rest_of(&mut self, nodes: &[Node], block: Block) -> Vec<Note> {
        let mut notes = Vec::new();
        for node in nodes {
            match self.marks.get(node.id) {
                Some(Mark::Unseen) => {
                    let why = match &node.aside {
                        Some(why) => why.clone(),
                        None => hint(block, node.keyword()).to_owned(),
                    };
                    self.leave(node, why, 0, &mut notes);
                }
                Some(Mark::Used) => notes.extend(self.rest_of(node.all(), block)),
                Some(Mark::Left) | None => {}
            }
        }
        notes
    }

    /// The lines by what became of them.
    pub(super) fn sum(&self) -> Sum {
        let translated = self.places.values().filter(|&&used| used).count();
        Sum {
            translated,
            left: self.places.len() - translated,
        }
    }

    /// Whether the node became a comment.
    #[cfg(test)]
    pub(super) fn is_left(&self, node: &Node) -> bool {
        self.marks.get(node.id) == Some(&Mark::Left)
    }

    /// The numbers of the nodes that nothing was said of.
    #[cfg(test)]
    pub(super) fn unseen(&self) -> Vec<usize> {
        (0..self.marks.len())
            .filter(|&id| self.marks[id] == Mark::Unseen)
            .collect()
    }

    fn leave(&mut self, node: &Node, why: String, depth: usize, notes: &mut Vec<Note>) {
        if self.mark(node, Mark::Left) {
            self.places.insert(node.place, false);
            let mut note = note(node, why);
            note.text.insert_str(0, &"  ".repeat(depth));
            notes.push(note);
        }
        for inner in node.all() {
            let why = inner.aside.clone().unwrap_or_default();
            self.leave(inner, why, depth + 1, notes);
        }
    }

    /// Marks the node; false: it was left already, and that stays.
    fn mark(&mut self, node: &Node, mark: Mark) -> bool {
        match self.marks.get_mut(node.id) {
            Some(Mark::Left) | None => false,
            Some(old) => {
                *old = mark;
                true
            }
        }
    }
}

fn note(node: &Node, why: impl Into<String>) -> Note {
    Note {
        place: node.place,
        text: node.text.clone(),
        why: why.into(),
    }
}
