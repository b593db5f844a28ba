//! What came of it: medians, beside those of the first contender, which has no balancer.

use comfy_table::{CellAlignment, Table, presets::UTF8_FULL_CONDENSED};
use serde::Serialize;

use super::measure::{Kind, Sample};

/// One figure.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// `dsr_iperf3_1`, `haproxy_cpu_per_connection`.
    pub row: String,
    /// The figure: a rate, or CPU time.
    pub value: f64,
    /// Its unit.
    pub unit: &'static str,
    /// How it compares with the direct way, which is 1. Of CPU time: all that the machine spent, as
    /// in the direct way client, server and switch do.
    pub ratio_to_direct: f64,
}

/// Samples, by contender and kind.
#[derive(Debug)]
pub struct Report {
    contenders: Vec<(&'static str, [Vec<Sample>; Kind::ALL.len()])>,
    faults: Vec<String>,
}

impl Report {
    pub(super) fn new(contenders: impl Iterator<Item = &'static str>) -> Self {
        let contenders = contenders.map(|name| (name, Default::default()));
        Self {
            contenders: contenders.collect(),
            faults: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, contender: usize, kind: Kind, sample: Sample) {
        let (name, samples) = &mut self.contenders[contender];
        samples[kind as usize].push(sample);
        if sample.errors > 0 {
            let fault = format!("{name} {}: {} requests failed", kind.name(), sample.errors);
            self.faults.push(fault);
        }
    }

    pub(super) fn fault(&mut self, fault: String) {
        self.faults.push(fault);
    }

    /// What went wrong; a figure of a measurement that did is of other work.
    #[must_use]
    pub fn faults(&self) -> &[String] {
        &self.faults
    }

    /// All figures; those that could not be measured are missing.
    #[must_use]
    pub fn rows(&self) -> Vec<Row> {
        let each = self.contenders.iter().enumerate();
        each.flat_map(|(index, (name, _))| {
            let rates = Kind::ALL.into_iter().filter_map(move |kind| {
                let value = self.rate(index, kind)?;
                Some(Row {
                    row: format!("{name}_{}", kind.name()),
                    value,
                    unit: kind.unit(),
                    ratio_to_direct: value / self.rate(0, kind)?,
                })
            });
            let cpu = self.cpu(index).zip(self.cpu(0)).map(|(all, direct)| Row {
                row: format!("{name}_cpu_per_connection"),
                value: if index == 0 { all } else { all - direct },
                unit: "us",
                ratio_to_direct: all / direct,
            });
            rates.chain(cpu)
        })
        .collect()
    }

    /// The same to be read: each contender a line, each kind a column.
    #[must_use]
    pub fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED);
        let kinds = Kind::ALL.map(|kind| format!("{}\n{}", kind.name(), kind.unit()));
        let cpu = "cpu_per_connection\nus beyond direct".to_owned();
        table.set_header([String::new()].into_iter().chain(kinds).chain([cpu]));
        let rows = self.rows();
        for (name, _) in &self.contenders {
            let cell = |what: &str| {
                let name = format!("{name}_{what}");
                rows.iter().find(|row| row.row == name).map_or_else(
                    || "-".into(),
                    |row| {
                        let digits = if row.value < 100.0 { 2 } else { 0 };
                        format!("{:.digits$} ({:.2})", row.value, row.ratio_to_direct)
                    },
                )
            };
            let cells = Kind::ALL.map(|kind| cell(kind.name()));
            let cpu = cell("cpu_per_connection");
            table.add_row([(*name).to_owned()].into_iter().chain(cells).chain([cpu]));
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table
    }

    fn rate(&self, contender: usize, kind: Kind) -> Option<f64> {
        let samples = &self.contenders[contender].1[kind as usize];
        median(samples.iter().map(|sample| sample.rate))
    }

    fn cpu(&self, contender: usize) -> Option<f64> {
        let samples = &self.contenders[contender].1[Kind::Connect as usize];
        median(samples.iter().filter_map(|sample| sample.cpu_us))
    }
}

/// The middle one; of an even number the upper of both.
fn median(figures: impl Iterator<Item = f64>) -> Option<f64> {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(rate: f64, cpu_us: f64) -> Sample {
        Sample {
            rate,
            cpu_us: Some(cpu_us),
            errors: 0,
        }
    }

    #[test]
    fn figures_are_medians_beside_the_direct_ones() {
        let mut report = Report::new(["direct", "dsr"].into_iter());
        for (rate, cpu) in [(100.0, 50.0), (1.0, 1.0), (200.0, 60.0)] {
            report.add(0, Kind::Connect, sample(rate, cpu));
            report.add(1, Kind::Connect, sample(rate / 2.0, cpu + 10.0));
        }
        let rows: Vec<_> = report
            .rows()
            .into_iter()
            .map(|row| (row.row, row.value, row.ratio_to_direct))
            .collect();
        let row = |name: &str, value, ratio| (name.to_owned(), value, ratio);
        assert_eq!(
            rows,
            [
                row("direct_http_connect", 100.0, 1.0),
                row("direct_cpu_per_connection", 50.0, 1.0),
                row("dsr_http_connect", 50.0, 0.5),
                row("dsr_cpu_per_connection", 10.0, 1.2),
            ]
        );
        assert!(report.table().to_string().contains("50.00 (0.50)"));
    }

    #[test]
    fn failed_requests_are_a_fault() {
        let mut report = Report::new(["direct"].into_iter());
        report.add(
            0,
            Kind::Keep,
            Sample {
                errors: 3,
                ..sample(1.0, 1.0)
            },
        );
        assert_eq!(
            report.faults(),
            ["direct http_keep_alive: 3 requests failed"]
        );
    }
}
