//! The figures as a table for people and as JSON, with what they are to be compared with.

use comfy_table::{Cell, CellAlignment, Color, Table, presets::UTF8_FULL_CONDENSED};
use serde::Serialize;

use super::{
    error::Error,
    measure::Figures,
    rows::{Row, Target},
};

/// What was measured.
#[derive(Debug, Default)]
pub struct Report {
    /// The rows.
    pub rows: Vec<(Row, Figures)>,
    /// Why there is no figure for other rows.
    pub faults: Vec<Error>,
    /// The programs.
    pub programs: Vec<Program>,
}

/// A program, as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Its name.
    pub name: String,
    /// Bytes of its instructions after the verifier's rewriting, eight for each.
    pub xlated: u32,
    /// Bytes of its machine code.
    pub jited: u32,
    /// Instructions that the verifier followed, over all paths.
    pub verified: u32,
}

impl Report {
    /// Adds a program, unless it is there.
    pub fn add_program(&mut self, program: Program) {
        if !self.programs.contains(&program) {
            self.programs.push(program);
        }
    }

    /// A row's target in nanoseconds; `None`: it has none, or the row it refers to was not measured.
    fn target(&self, row: &Row) -> Option<f64> {
        match row.target? {
            Target::Ns(ns) => Some(ns),
            Target::Over(other, more) => self
                .rows
                .iter()
                .find(|(row, _)| row.name == other)
                .map(|(_, figures)| figures.net_median + more),
        }
    }

    /// The table of rows.
    #[must_use]
    pub fn table(&self) -> Table {
        let mut table = table(&[
            "row", "median", "min", "max", "limit", "target", "Katran", "verdict",
        ]);
        for (row, figures) in &self.rows {
            let target = self.target(row);
            let median = Cell::new(ns(figures.net_median));
            let median = match target {
                Some(target) if figures.net_median <= target => median.fg(Color::Green),
                Some(_) => median.fg(Color::Red),
                None => median,
            };
            let target = match (row.target, target) {
                (Some(Target::Over(other, more)), None) => format!("{other} + {more}"),
                (_, Some(target)) => format!("<= {target:.0}"),
                (_, None) => "-".into(),
            };
            table.add_row([
                Cell::new(row.name),
                median,
                Cell::new(ns(figures.net_min)),
                Cell::new(ns(figures.net_max)),
                Cell::new(format!("{} {}", row.limit.name(), ns(figures.limit))),
                Cell::new(target),
                Cell::new(row.katran.map_or("-".into(), |ns| ns.to_string())),
                Cell::new(row.verdict.name()).set_alignment(CellAlignment::Left),
            ]);
        }
        table
    }

    /// The table of programs.
    #[must_use]
    pub fn program_table(&self) -> Table {
        let mut table = table(&["program", "instructions", "xlated", "jited", "verified"]);
        for program in &self.programs {
            table.add_row([
                program.name.clone(),
                (program.xlated / 8).to_string(),
                program.xlated.to_string(),
                program.jited.to_string(),
                program.verified.to_string(),
            ]);
        }
        table
    }
}

/// A row as one JSON object.
#[must_use]
pub fn json(row: &Row, figures: &Figures) -> String {
    #[derive(Serialize)]
    struct Line {
        row: &'static str,
        net_ns_median: f64,
        net_ns_min: f64,
        limit_ns: f64,
    }
    let line = Line {
        row: row.name,
        net_ns_median: tenths(figures.net_median),
        net_ns_min: tenths(figures.net_min),
        limit_ns: tenths(figures.limit),
    };
    // Four plain fields: there is nothing in them that could fail.
    serde_json::to_string(&line).unwrap_or_default()
}

/// Nanoseconds to a tenth: rounds differ by more than that.
fn tenths(ns: f64) -> f64 {
    // Adding 0 makes -0 a 0.
    (ns * 10.0).round() / 10.0 + 0.0
}

fn ns(ns: f64) -> String {
    format!("{:.1}", tenths(ns))
}

/// A table whose columns but the first hold numbers.
fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header(header);
    for column in 1..header.len() {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::rows;

    const FIGURES: Figures = Figures {
        net_median: 12.34,
        net_min: 11.96,
        net_max: 20.0,
        limit: -0.04,
    };

    fn row(name: &str) -> Row {
        rows::named(&[name.to_owned()]).unwrap().remove(0)
    }

    #[test]
    fn a_line_has_just_the_promised_fields() {
        assert_eq!(
            json(&row("udp"), &FIGURES),
            r#"{"row":"udp","net_ns_median":12.3,"net_ns_min":12.0,"limit_ns":0.0}"#
        );
    }

    #[test]
    fn a_target_may_refer_to_another_row() {
        let mut report = Report::default();
        let over = Row {
            target: Some(Target::Over("dsr", 15.0)),
            ..row("udp")
        };
        assert_eq!(report.target(&over), None);
        report.rows.push((row("dsr"), FIGURES));
        assert_eq!(report.target(&over), Some(27.34));
        report.rows.push((over, FIGURES));
        let text = report.table().to_string();
        for part in [
            "udp",
            "12.3",
            "12.0",
            "20.0",
            "forward4 0.0",
            "<= 27",
            "133",
            "dsr",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }
}
