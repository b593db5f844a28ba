//! Tables and lines of text for a terminal, a pipe or a test: how wide, and whether in colour, is
//! given by a [`Look`], so that all rendering is a function from values to text.

use std::fmt::{Display, Write as _};

use comfy_table::{
    Cell as TableCell, CellAlignment, Color, ColumnConstraint, ContentArrangement, Width,
};

/// How output shall look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Look {
    /// Whether to mark what matters by colour.
    pub(crate) color: bool,
    /// The terminal's columns; none: lines may be as long as they are (in a pipe, for `grep`).
    pub(crate) width: Option<u16>,
}

/// What a text means for the reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    Plain,
    Good,
    Doubtful,
    Bad,
}

/// One cell's text with its meaning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cell {
    text: String,
    tone: Tone,
}

/// A column's title and which side its texts stand on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Column {
    title: String,
    right: bool,
    wraps: bool,
    at_least: u16,
}

/// A table in the making: titled columns, two spaces between them, no lines.
#[derive(Debug)]
pub(crate) struct Table {
    look: Look,
    columns: Vec<Column>,
    titles: bool,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// An empty table.
    pub(crate) fn new(look: Look, columns: impl IntoIterator<Item = Column>) -> Self {
        Self {
            look,
            columns: columns.into_iter().collect(),
            titles: true,
            rows: Vec::new(),
        }
    }

    /// The same without titles: it goes on where another one ended.
    pub(crate) fn untitled(self) -> Self {
        Self {
            titles: false,
            ..self
        }
    }

    /// Adds a row, one cell for each column.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The text, each line ended, and the columns' widths.
    pub(crate) fn render(&self) -> (String, Vec<u16>) {
        let mut table = comfy_table::Table::new();
        table.force_no_tty();
        if self.look.color {
            table.enforce_styling();
            table.style_text_only();
        }
        if let Some(width) = self.look.width {
            table
                .set_width(width)
                .set_content_arrangement(ContentArrangement::Dynamic);
        }
        table.load_style(comfy_table::presets::NOTHING);
        if self.titles {
            table.set_header(
                self.columns
                    .iter()
                    .map(|column| TableCell::new(&column.title)),
            );
        }
        for row in &self.rows {
            table.add_row(row.iter().map(|cell| {
                let shown = TableCell::new(&cell.text);
                match cell.tone {
                    Tone::Plain => shown,
                    Tone::Good => shown.fg(Color::Green),
                    Tone::Doubtful => shown.fg(Color::Yellow),
                    Tone::Bad => shown.fg(Color::Red),
                }
            }));
        }
        let widths = table.column_max_content_widths();
        for (shown, column) in table.column_iter_mut().zip(&self.columns) {
            shown.set_padding((0, 2));
            if column.right {
                shown.set_cell_alignment(CellAlignment::Right);
            }
            if column.at_least > 0 {
                // A boundary includes the padding.
                let at_least = column.at_least.saturating_add(2);
                shown.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(at_least)));
            } else if !column.wraps {
                shown.set_constraint(ColumnConstraint::ContentWidth);
            }
        }
        let mut text = table.trim_fmt();
        if !text.is_empty() {
            text.push('\n');
        }
        let at_least = self.columns.iter().map(|column| column.at_least);
        let widths = widths
            .into_iter()
            .zip(at_least)
            .map(|(a, b)| a.max(b))
            .collect();
        (text, widths)
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.render().0)
    }
}

impl Column {
    /// For names.
    pub(crate) fn left(title: &str) -> Self {
        Self {
            title: clean(title),
            right: false,
            wraps: false,
            at_least: 0,
        }
    }

    /// For numbers.
    pub(crate) fn right(title: &str) -> Self {
        Self {
            right: true,
            ..Self::left(title)
        }
    }

    /// For sentences: broken into lines where the terminal is narrow.
    pub(crate) fn prose(title: &str) -> Self {
        Self {
            wraps: true,
            ..Self::left(title)
        }
    }

    /// The same, but not narrower than this.
    pub(crate) fn at_least(self, columns: u16) -> Self {
        Self {
            at_least: columns,
            ..self
        }
    }
}

impl Cell {
    /// A text that means no more than it says.
    pub(crate) fn new(text: impl Display) -> Self {
        Self::toned(text, Tone::Plain)
    }

    /// A text with a meaning.
    pub(crate) fn toned(text: impl Display, tone: Tone) -> Self {
        Self {
            text: clean(&text.to_string()),
            tone,
        }
    }

    /// What there is, or a dash.
    pub(crate) fn or_dash(text: Option<impl Display>) -> Self {
        text.map_or_else(|| Self::new("-"), Self::new)
    }
}

impl Look {
    /// `text` as its tone wants it.
    pub(crate) fn paint(self, text: &str, tone: Tone) -> String {
        let text = clean(text);
        let code = match tone {
            Tone::Good => 32,
            Tone::Doubtful => 33,
            Tone::Bad => 31,
            Tone::Plain => return text,
        };
        if self.color {
            format!("\u{1b}[{code}m{text}\u{1b}[0m")
        } else {
            text
        }
    }

    /// `items` one after the other, `, ` between them, after `lead`; where the terminal ends, the
    /// next line goes on below the first item.
    pub(crate) fn list(self, lead: &str, items: impl IntoIterator<Item = String>) -> String {
        let indent = lead.chars().count();
        let limit = self.width.map_or(usize::MAX, usize::from);
        let (mut text, mut column) = (lead.to_owned(), indent);
        let mut items = items.into_iter().map(|item| clean(&item)).peekable();
        while let Some(mut item) = items.next() {
            if items.peek().is_some() {
                item.push(',');
            }
            let length = item.chars().count();
            if column > indent {
                if column + 1 + length > limit {
                    let _ = write!(text, "\n{:indent$}", "");
                    column = indent;
                } else {
                    text.push(' ');
                    column += 1;
                }
            }
            text.push_str(&item);
            column += length;
        }
        text.push('\n');
        text
    }
}

/// Without control characters: what a server or a peer sent shall not steer the terminal.
pub(crate) fn clean(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

/// A number with its thousands apart: `1,234,567`.
pub(crate) fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes in the unit a person would choose: `999 B`, `1.2 KiB`, `3.4 TiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(look: Look) -> Table {
        let columns = [
            Column::left("NAME"),
            Column::right("PACKETS"),
            Column::prose("REASON"),
        ];
        let mut table = Table::new(look, columns);
        table.row([
            Cell::toned("primary", Tone::Good),
            Cell::new(number(1_234_567)),
            Cell::new("3 of 3 checks passed"),
        ]);
        table.row([Cell::new("b"), Cell::or_dash(None::<u8>), Cell::new("")]);
        table
    }

    #[test]
    fn columns_line_up() {
        let expected = "\
NAME       PACKETS  REASON
primary  1,234,567  3 of 3 checks passed
b                -
";
        assert_eq!(table(Look::default()).to_string(), expected);
    }

    #[test]
    fn prose_wraps_where_the_terminal_ends() {
        let expected = "\
NAME       PACKETS  REASON
primary  1,234,567  3 of 3
                    checks
                    passed
b                -
";
        let look = Look {
            width: Some(30),
            color: false,
        };
        assert_eq!(table(look).to_string(), expected);
    }

    #[test]
    fn colour_only_where_it_is_wanted() {
        assert!(!table(Look::default()).to_string().contains('\u{1b}'));
        assert!(
            table(Look {
                color: true,
                width: None
            })
            .to_string()
            .contains("\u{1b}[")
        );
        assert_eq!(Look::default().paint("x", Tone::Bad), "x");
        let color = Look {
            color: true,
            width: None,
        };
        assert_eq!(color.paint("x", Tone::Bad), "\u{1b}[31mx\u{1b}[0m");
    }

    #[test]
    fn a_table_goes_on_with_the_widths_of_the_first() {
        let (_, widths) = table(Look::default()).render();
        assert_eq!(widths, [7, 9, 20]);
        let columns = [
            Column::left("NAME").at_least(7),
            Column::right("PACKETS").at_least(9),
        ];
        let mut next = Table::new(Look::default(), columns).untitled();
        next.row([Cell::new("c"), Cell::new(5)]);
        assert_eq!(next.to_string(), "c                5\n");
        assert_eq!(next.render().1, [7, 9]);
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let mut table = Table::new(Look::default(), [Column::left("A")]);
        table.row([Cell::new("x\u{1b}[31m\ny")]);
        assert_eq!(table.to_string(), "A\nx\u{fffd}[31m\u{fffd}y\n");
    }

    #[test]
    fn lists_break_at_the_terminals_edge() {
        let items = || ["dsr 12", "local 3", "not-vip 9"].map(String::from);
        assert_eq!(
            Look::default().list("a: ", items()),
            "a: dsr 12, local 3, not-vip 9\n"
        );
        let narrow = Look {
            width: Some(20),
            color: false,
        };
        assert_eq!(
            narrow.list("a: ", items()),
            "a: dsr 12, local 3,\n   not-vip 9\n"
        );
        assert_eq!(narrow.list("a: ", []), "a: \n");
    }

    #[test]
    fn numbers_and_bytes() {
        let shown = [0, 999, 1000, 1_234_567, u64::MAX].map(number);
        assert_eq!(
            shown,
            [
                "0",
                "999",
                "1,000",
                "1,234,567",
                "18,446,744,073,709,551,615"
            ]
        );
        let shown = [0, 1023, 1024, 1_048_575, 5 << 30, u64::MAX].map(bytes);
        assert_eq!(
            shown,
            ["0 B", "1023 B", "1.0 KiB", "1.0 MiB", "5.0 GiB", "16.0 EiB"]
        );
    }
}
