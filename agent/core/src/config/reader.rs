//! Reads TOML tables key by key and remembers what was wrong.
//!
//! A derived deserializer stops at its first error; an operator wants all of them. So [`super::raw`]
//! asks a [`TableReader`] for each key, with one of the functions of [`super::scalar`] to read the
//! value. What is wrong is recorded with its place, and the answer, a [`Given`] or a [`List`], says
//! that it is [`Given::Bad`], so that later checks neither use a made-up value nor complain about
//! a consequence. A key that the table's [`Schema`] does not list is a mistake too.

use std::ops::Range;

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    error::{Mistake, quote},
    words::{describe, nearest, suggestion},
};

/// A value and the bytes it stands at.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) span: Range<usize>,
}

/// What a table says for a key.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Given<T> {
    /// Nothing: the default holds.
    Absent,
    /// Something unusable, which has been recorded as a mistake.
    Bad,
    /// A value.
    Value(At<T>),
}

impl<T: Clone> Given<T> {
    /// The value if there is one.
    pub(super) fn value(&self) -> Option<T> {
        self.at().map(|at| at.value.clone())
    }

    /// The value or the default; none if bad.
    pub(super) fn or(&self, default: T) -> Option<T> {
        self.or_else(|| Some(default))
    }

    /// The value or the default, which may be unknown itself; none if bad.
    pub(super) fn or_else(&self, default: impl FnOnce() -> Option<T>) -> Option<T> {
        match self {
            Self::Absent => default(),
            Self::Bad => None,
            Self::Value(at) => Some(at.value.clone()),
        }
    }

    /// The value if there is one; none if bad.
    pub(super) fn optional(&self) -> Option<Option<T>> {
        match self {
            Self::Absent => Some(None),
            Self::Bad => None,
            Self::Value(at) => Some(Some(at.value.clone())),
        }
    }
}

impl<T> Given<T> {
    /// The value and its place, if there is one.
    pub(super) fn at(&self) -> Option<&At<T>> {
        match self {
            Self::Value(at) => Some(at),
            Self::Absent | Self::Bad => None,
        }
    }
}

/// What a table says for a key that holds many values, or for its subtables.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct List<T> {
    /// The array; none if it is absent.
    pub(super) span: Option<Range<usize>>,
    /// Whether all of it could be read: if not, what is missing has been recorded as a mistake.
    pub(super) whole: bool,
    /// What could be read.
    pub(super) items: Vec<At<T>>,
}

impl<T> List<T> {
    fn absent() -> Self {
        Self {
            span: None,
            whole: true,
            items: Vec::new(),
        }
    }

    fn bad(span: Range<usize>) -> Self {
        Self {
            span: Some(span),
            whole: false,
            items: Vec::new(),
        }
    }
}

/// The keys of a table.
#[derive(Debug)]
pub(super) struct Schema {
    /// The table as it is written in the file; empty for the file itself.
    pub(super) table: &'static str,
    pub(super) keys: &'static [&'static str],
}

/// Why a value cannot be used: the message goes on where "`key` " ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) message: String,
    pub(super) help: Option<String>,
}

impl Problem {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            help: None,
        }
    }

    pub(super) fn help(self, help: impl Into<String>) -> Self {
        Self {
            help: Some(help.into()),
            ..self
        }
    }

    fn at(self, span: &Range<usize>, subject: &str) -> Mistake {
        let message = format!("{subject} {}", self.message);
        Mistake {
            span: span.clone(),
            message,
            help: self.help,
        }
    }
}

/// One table of the file.
pub(super) struct TableReader<'a> {
    schema: &'static Schema,
    /// The header, or the braces of an inline table.
    pub(super) span: Range<usize>,
    /// None where the file lacks the table: all of its keys are absent.
    table: Option<&'a DeTable<'a>>,
    /// The keys that an unknown one was probably meant to be. They count as bad, not as absent.
    misspelt: Vec<&'static str>,
    mistakes: &'a mut Vec<Mistake>,
}

impl<'a> TableReader<'a> {
    /// Reads `table`, which stands at `span`.
    pub(super) fn new(
        schema: &'static Schema,
        span: Range<usize>,
        table: Option<&'a DeTable<'a>>,
        mistakes: &'a mut Vec<Mistake>,
    ) -> Self {
        let mut misspelt = Vec::new();
        let keys = table.into_iter().flat_map(DeTable::keys);
        for key in keys.filter(|key| !schema.keys.contains(&key.get_ref().as_ref())) {
            mistakes.push(unknown_key(schema, key.get_ref(), &key.span()));
            misspelt.extend(nearest(key.get_ref(), schema.keys.iter().copied()));
        }
        Self {
            schema,
            span,
            table,
            misspelt,
            mistakes,
        }
    }

    /// The value of a key that may be absent.
    pub(super) fn get<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&DeValue<'_>) -> Result<T, Problem>,
    ) -> Given<T> {
        let Some(value) = self.find(key) else {
            return if self.misspelt.contains(&key) {
                Given::Bad
            } else {
                Given::Absent
            };
        };
        match read(value.get_ref()) {
            Ok(read) => Given::Value(At {
                value: read,
                span: value.span(),
            }),
            Err(problem) => {
                self.mistakes
                    .push(problem.at(&value.span(), &format!("`{key}`")));
                Given::Bad
            }
        }
    }

    /// The value of a key that must be there: never [`Given::Absent`].
    pub(super) fn require<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&DeValue<'_>) -> Result<T, Problem>,
    ) -> Given<T> {
        match self.get(key, read) {
            Given::Absent => {
                self.missing(key);
                Given::Bad
            }
            given => given,
        }
    }

    /// The values of a key that holds an array of at most `max` of them.
    pub(super) fn list<T>(
        &mut self,
        key: &'static str,
        max: usize,
        read: impl Fn(&DeValue<'_>) -> Result<T, Problem>,
    ) -> List<T> {
        let Some(value) = self.find(key) else {
            return self.no_list(key);
        };
        let Some(array) = value.get_ref().as_array() else {
            let found = describe(value.get_ref());
            let mistake = Mistake::new(
                &value.span(),
                format!("`{key}` must be an array, found {found}"),
            );
            self.mistakes
                .push(mistake.help("put the value between brackets: [...]"));
            return List::bad(value.span());
        };
        let mut list = List {
            span: Some(value.span()),
            whole: true,
            items: Vec::new(),
        };
        for (index, element) in array.iter().enumerate() {
            if index == max {
                self.too_many(key, max, &element.span());
                list.whole = false;
                break;
            }
            match read(element.get_ref()) {
                Ok(read) => list.items.push(At {
                    value: read,
                    span: element.span(),
                }),
                Err(problem) => {
                    let subject = format!("each of `{key}`");
                    self.mistakes.push(problem.at(&element.span(), &subject));
                    list.whole = false;
                }
            }
        }
        list
    }

    /// The same for a key that must be there.
    pub(super) fn require_list<T>(
        &mut self,
        key: &'static str,
        max: usize,
        read: impl Fn(&DeValue<'_>) -> Result<T, Problem>,
    ) -> List<T> {
        let list = self.list(key, max, read);
        if list.span.is_some() {
            return list;
        }
        self.missing(key);
        List::bad(self.span.clone())
    }

    /// A subtable; one without keys if it is absent or no table.
    pub(super) fn table(&mut self, key: &'static str, schema: &'static Schema) -> TableReader<'_> {
        let span = self.find(key).map_or(self.span.clone(), Spanned::span);
        let table = self.find(key).and_then(|value| {
            let table = value.get_ref().as_table();
            if table.is_none() {
                self.mistakes.push(not_a_table(key, schema, value));
            }
            table
        });
        TableReader::new(schema, span, table, self.mistakes)
    }

    /// The tables of an array of at most `max` of them (`[[key]]`).
    pub(super) fn tables<T>(
        &mut self,
        key: &'static str,
        schema: &'static Schema,
        max: usize,
        read: impl Fn(&mut TableReader<'_>) -> T,
    ) -> List<T> {
        let Some(value) = self.find(key) else {
            return self.no_list(key);
        };
        let Some(array) = value.get_ref().as_array() else {
            let found = describe(value.get_ref());
            let message = format!("`{key}` must be an array of tables, found {found}");
            let mistake = Mistake::new(&value.span(), message);
            self.mistakes
                .push(mistake.help(format!("begin each with {}", schema.table)));
            return List::bad(value.span());
        };
        let mut list = List {
            span: Some(value.span()),
            whole: true,
            items: Vec::new(),
        };
        for (index, element) in array.iter().enumerate() {
            if index == max {
                self.too_many(schema.table, max, &element.span());
                list.whole = false;
                break;
            }
            let Some(table) = element.get_ref().as_table() else {
                self.mistakes.push(not_a_table(key, schema, element));
                list.whole = false;
                continue;
            };
            let span = element.span();
            let mut reader = TableReader::new(schema, span.clone(), Some(table), self.mistakes);
            list.items.push(At {
                value: read(&mut reader),
                span,
            });
        }
        list
    }

    /// The tables whose names are up to the operator (`[key.NAME]`), in the order of the file.
    pub(super) fn named_tables<T>(
        &mut self,
        key: &'static str,
        schema: &'static Schema,
        read: impl Fn(At<&str>, &mut TableReader<'_>) -> T,
    ) -> List<T> {
        let Some(value) = self.find(key) else {
            return self.no_list(key);
        };
        let Some(tables) = value.get_ref().as_table() else {
            let found = describe(value.get_ref());
            let message = format!("`{key}` must be tables with names of their own, found {found}");
            let mistake = Mistake::new(&value.span(), message);
            self.mistakes
                .push(mistake.help(format!("begin each with {}", schema.table)));
            return List::bad(value.span());
        };
        let mut list = List {
            span: Some(value.span()),
            whole: true,
            items: Vec::new(),
        };
        for (name, element) in tables {
            let Some(table) = element.get_ref().as_table() else {
                self.mistakes
                    .push(not_a_table(name.get_ref(), schema, element));
                list.whole = false;
                continue;
            };
            let mut reader = TableReader::new(schema, element.span(), Some(table), self.mistakes);
            let name = At {
                value: name.get_ref().as_ref(),
                span: name.span(),
            };
            list.items.push(At {
                value: read(name, &mut reader),
                span: element.span(),
            });
        }
        list.items.sort_by_key(|item| item.span.start);
        list
    }

    /// Whether the file has the table.
    pub(super) fn is_given(&self) -> bool {
        self.table.is_some()
    }

    /// Whether an unknown key was probably meant to be `key`.
    pub(super) fn is_misspelt(&self, key: &str) -> bool {
        self.misspelt.contains(&key)
    }

    /// Records a mistake that the caller found.
    pub(super) fn mistake(&mut self, mistake: Mistake) {
        self.mistakes.push(mistake);
    }

    fn find(&self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        debug_assert!(
            self.schema.keys.contains(&key),
            "{key} is not in the schema"
        );
        self.table?.get(key)
    }

    fn no_list<T>(&self, key: &'static str) -> List<T> {
        if self.misspelt.contains(&key) {
            List::bad(self.span.clone())
        } else {
            List::absent()
        }
    }

    fn missing(&mut self, key: &str) {
        let message = format!("missing key `{key}` in {}", self.schema.table);
        self.mistakes.push(Mistake::new(&self.span, message));
    }

    fn too_many(&mut self, what: &str, max: usize, span: &Range<usize>) {
        self.mistakes.push(Mistake::new(
            span,
            format!("more than {max} {}", quote(what)),
        ));
    }
}

fn unknown_key(schema: &Schema, key: &str, span: &Range<usize>) -> Mistake {
    let place = match schema.table {
        "" => "at the top of the file".to_owned(),
        table => format!("in {table}"),
    };
    let all = || format!("the keys here are {}", schema.keys.join(", "));
    let help = suggestion(key, schema.keys.iter().copied()).unwrap_or_else(all);
    Mistake::new(span, format!("unknown key {} {place}", quote(key))).help(help)
}

fn not_a_table(key: &str, schema: &Schema, value: &Spanned<DeValue<'_>>) -> Mistake {
    let found = describe(value.get_ref());
    let message = format!("{} must be a table, found {found}", quote(key));
    Mistake::new(&value.span(), message).help(format!("the table is written {}", schema.table))
}
