//! The configuration as a tree: a statement is a line of words, perhaps with a block of others.

use super::{
    error::{Problem, SyntaxError},
    lines::{Line, Lines, Place},
    words::{self, Token, Word},
};

/// Blocks within blocks. keepalived's own need five.
const MAX_DEPTH: usize = 16;

/// A statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    /// Its number, in the order of the text.
    pub(super) id: usize,
    pub(super) place: Place,
    /// The words; none for a line that is aside.
    pub(super) words: Vec<Word>,
    /// The statement as it was written, without its block.
    pub(super) text: String,
    /// The block's statements; none: there is no block.
    pub(super) block: Option<Vec<Node>>,
    /// Why it is not part of this node's configuration, if it is not.
    pub(super) aside: Option<String>,
}

impl Node {
    /// The first word.
    pub(super) fn keyword(&self) -> &str {
        self.words.first().map_or("", |word| word.text.as_str())
    }

    /// The word after `index` others.
    pub(super) fn word(&self, index: usize) -> Option<&str> {
        self.words.get(index).map(|word| word.text.as_str())
    }

    /// The words after the first.
    pub(super) fn values(&self) -> &[Word] {
        self.words.get(1..).unwrap_or_default()
    }

    /// The statements of the block, but for those that are aside.
    pub(super) fn inner(&self) -> impl Iterator<Item = &Node> {
        self.all().iter().filter(|node| node.aside.is_none())
    }

    /// All statements of the block.
    pub(super) fn all(&self) -> &[Node] {
        self.block.as_deref().unwrap_or_default()
    }
}

/// The tree.
#[derive(Debug)]
pub(super) struct Tree {
    /// The files, as comments name them.
    pub(super) names: Vec<String>,
    pub(super) nodes: Vec<Node>,
    /// How many nodes there are at all depths.
    pub(super) count: usize,
}

/// Makes the tree of `lines`.
pub(super) fn tree(lines: Lines) -> Result<Tree, Vec<SyntaxError>> {
    let Lines {
        names,
        lines,
        errors,
    } = lines;
    let mut parser = Parser {
        names: &names,
        errors,
        // The file, which nothing opens.
        open: vec![Vec::new()],
        openers: Vec::new(),
        count: 0,
        deep: false,
    };
    for line in lines {
        parser.line(line);
        if parser.deep {
            // Nothing deeper is built: a tree takes its depth of the stack.
            break;
        }
    }
    while let Some(node) = parser.openers.pop() {
        parser.error(node.place, Problem::Unclosed);
    }
    let Parser {
        mut open,
        errors,
        count,
        ..
    } = parser;
    match errors.is_empty() {
        true => Ok(Tree {
            nodes: open.swap_remove(0),
            names,
            count,
        }),
        false => Err(errors),
    }
}

struct Parser<'a> {
    names: &'a [String],
    errors: Vec<SyntaxError>,
    /// The statements of each block that is open, the innermost last.
    open: Vec<Vec<Node>>,
    /// What each of them belongs to, but for the file.
    openers: Vec<Node>,
    count: usize,
    deep: bool,
}

impl Parser<'_> {
    fn line(&mut self, line: Line) {
        let Line { place, text, aside } = line;
        if aside.is_some() {
            let node = self.node(place, Vec::new(), text, aside);
            self.add(node);
            return;
        }
        let tokens = match words::tokens(&text) {
            Ok(tokens) => tokens,
            Err(problem) => return self.error(place, problem),
        };
        let mut words = Vec::new();
        for token in tokens {
            if self.deep {
                return;
            }
            match token {
                Token::Word(word) => words.push(word),
                Token::Open => {
                    let words = std::mem::take(&mut words);
                    self.opens(place, words);
                }
                Token::Close => {
                    let words = std::mem::take(&mut words);
                    self.statement(place, words);
                    self.closes(place);
                }
            }
        }
        self.statement(place, words);
    }

    /// A statement without a block, or one whose block begins on the next line.
    fn statement(&mut self, place: Place, words: Vec<Word>) {
        if !words.is_empty() {
            let text = written(&words);
            let node = self.node(place, words, text, None);
            self.add(node);
        }
    }

    fn opens(&mut self, place: Place, words: Vec<Word>) {
        let opener = if words.is_empty() {
            let last = self.open.last_mut();
            last.and_then(|block| {
                let fits = |node: &mut Node| node.block.is_none() && node.aside.is_none();
                block.pop_if(fits)
            })
        } else {
            let text = written(&words);
            Some(self.node(place, words, text, None))
        };
        let Some(opener) = opener else {
            self.error(place, Problem::Open);
            self.deep = self.openers.len() >= MAX_DEPTH;
            // Its end is not to be another mistake.
            let node = self.node(place, Vec::new(), String::new(), None);
            self.open.push(Vec::new());
            self.openers.push(node);
            return;
        };
        if self.openers.len() >= MAX_DEPTH {
            self.error(place, Problem::Deep(MAX_DEPTH));
            self.deep = true;
            return;
        }
        self.open.push(Vec::new());
        self.openers.push(opener);
    }

    fn closes(&mut self, place: Place) {
        let Some(mut opener) = self.openers.pop() else {
            self.error(place, Problem::Close);
            return;
        };
        opener.block = self.open.pop();
        self.add(opener);
    }

    fn add(&mut self, node: Node) {
        if let Some(block) = self.open.last_mut() {
            block.push(node);
        }
    }

    fn node(
        &mut self,
        place: Place,
        words: Vec<Word>,
        text: String,
        aside: Option<String>,
    ) -> Node {
        let id = self.count;
        self.count += 1;
        Node {
            id,
            place,
            words,
            text,
            block: None,
            aside,
        }
    }

    fn error(&mut self, place: Place, problem: Problem) {
        // The first mistakes are the ones to read: the others may follow from them.
        if self.errors.len() < 20 {
            let file = self.names.get(place.file).cloned().unwrap_or_default();
            self.errors.push(SyntaxError {
                file,
                line: place.line,
                problem,
            });
        }
    }
}

/// The words with quotes where they had some.
fn written(words: &[Word]) -> String {
    let words = words.iter().map(|word| match word.quoted {
        true => format!("\"{}\"", word.text),
        false => word.text.clone(),
    });
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tree of `text`, a node as `words<block>`.
    fn shape(text: &str) -> Result<String, Vec<String>> {
        let line = |(line, text): (u32, &str)| Line {
            place: Place { file: 0, line },
            text: text.to_owned(),
            aside: None,
        };
        let lines = Lines {
            names: vec!["f".to_owned()],
            lines: (1..).zip(text.lines()).map(line).collect(),
            errors: Vec::new(),
        };
        fn show(nodes: &[Node]) -> String {
            let nodes = nodes.iter().map(|node| match &node.block {
                Some(block) => format!("{}<{}>", node.text, show(block)),
                None => node.text.clone(),
            });
            nodes.collect::<Vec<_>>().join(", ")
        }
        match tree(lines) {
            Ok(tree) => Ok(show(&tree.nodes)),
            Err(errors) => Err(errors.iter().map(ToString::to_string).collect()),
        }
    }

    #[test]
    fn a_brace_may_stand_anywhere() {
        for (text, wanted) in [
            ("a {\nb 1\nc\n}\nd", "a<b 1, c>, d"),
            ("a\n{\nb\n}", "a<b>"),
            ("a { b 1 } c", "a<b 1>, c"),
            ("a { b { c } }", "a<b<c>>"),
            ("a {\n}", "a<>"),
            ("a \"b {\" {\n}", "a \"b {\"<>"),
        ] {
            assert_eq!(shape(text).as_deref(), Ok(wanted), "{text}");
        }
    }

    #[test]
    fn every_mistake_is_told_with_its_line() {
        for (text, wanted) in [
            (
                "a\n}",
                vec!["f:2: `}` closes nothing: remove it, or find the `{` that is missing above"],
            ),
            (
                "a\nb {\nc",
                vec!["f:2: the block that begins here is not closed: add its `}`"],
            ),
            (
                "{\n}",
                vec![
                    "f:1: `{` without a keyword before it: remove it, or write what it belongs to",
                ],
            ),
            (
                "a 'b\nc \"d",
                vec![
                    "f:1: a quote is not closed: add ' where the text ends",
                    "f:2: a quote is not closed: add \" where the text ends",
                ],
            ),
        ] {
            assert_eq!(
                shape(text),
                Err(wanted.iter().map(ToString::to_string).collect()),
                "{text}"
            );
        }
        assert!(shape(&"a {\n".repeat(5000)).unwrap_err().len() <= 20);
    }
}
