//! Why an import failed, and what to do about it.

use std::{fmt, io, path::PathBuf};

/// Why there is no output.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImportError {
    /// The file itself could not be read. An included one that is missing is no error: keepalived
    /// goes on without it too.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The output could not be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The output is there already.
    #[error("{} is there already: remove it, or name another file with --out", .0.display())]
    Exists(PathBuf),
    /// The text is not a keepalived configuration.
    #[error(transparent)]
    Syntax(#[from] SyntaxErrors),
}

impl ImportError {
    /// What the process exits with: 1 for files, 2 for what is in them.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Read { .. } | Self::Write { .. } | Self::Exists(_) => 1,
            Self::Syntax(_) => 2,
        }
    }
}

/// What is wrong with the text, in the order of the lines as they are read.
#[derive(Debug, thiserror::Error)]
pub(crate) struct SyntaxErrors(pub(super) Vec<SyntaxError>);

impl fmt::Display for SyntaxErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {problem}")]
pub(crate) struct SyntaxError {
    /// The file, as it is named in comments.
    pub(super) file: String,
    /// The line, from 1.
    pub(super) line: u32,
    /// What is wrong.
    #[source]
    pub(super) problem: Problem,
}

/// What is wrong with a line. Each says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Problem {
    #[error("a quote is not closed: add {0} where the text ends")]
    Quote(char),
    #[error("`{{` without a keyword before it: remove it, or write what it belongs to")]
    Open,
    #[error("`}}` closes nothing: remove it, or find the `{{` that is missing above")]
    Close,
    #[error("the block that begins here is not closed: add its `}}`")]
    Unclosed,
    #[error("blocks are nested more than {0} deep: a `}}` is missing above")]
    Deep(usize),
    #[error("{0} includes itself: remove this line")]
    Cycle(String),
    #[error("includes are nested more than {0} deep: include the file from a higher one")]
    Nested(usize),
    #[error("more than {0} files: import a configuration with fewer includes")]
    Files(usize),
    #[error("more than {0} MiB of text with all includes and expansions: import it in parts")]
    Large(usize),
    #[error("more than {0} lines after expansion: import it in parts")]
    Lines(usize),
    #[error("{0} expands without end: break the circle of its definition")]
    Endless(String),
    #[error("~{word} must be {form}")]
    Sequence {
        /// `SEQ` or `LST`.
        word: &'static str,
        /// What it looks like.
        form: &'static str,
    },
}
