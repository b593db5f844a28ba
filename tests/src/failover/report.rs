//! What came of it: a row for each event and pace, with what was to be reached beside it.

use std::{collections::BTreeMap, time::Duration};

use comfy_table::{Cell, CellAlignment, Color, Table, presets::UTF8_FULL_CONDENSED};
use serde::Serialize;

use super::{
    contender::{Contender, Pace},
    event::{Event, Sample},
    load::Cpu,
    stats::Summary,
    target::Target,
};
use crate::error::Error;

/// All samples, and what went wrong.
#[derive(Debug, Default)]
pub struct Report {
    /// By event and pace, of steerd and of keepalived.
    samples: BTreeMap<(Event, u32), [Vec<Sample>; 2]>,
    failed: BTreeMap<(Event, u32), [usize; 2]>,
    cpu: BTreeMap<u32, [Option<Cpu>; 2]>,
    takeovers: BTreeMap<u32, [Option<Takeovers>; 2]>,
    faults: Vec<String>,
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// What happened.
    pub event: &'static str,
    /// The time between two adverts.
    pub advert_ms: u32,
    /// The median of steerd's times; none where the event has no time, or no end.
    pub steerd_ms: Option<f64>,
    /// The same of keepalived's.
    pub keepalived_ms: Option<f64>,
    /// Whose CPU time it is: `master` or `backup`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    /// More of steerd.
    pub steerd: Figures,
    /// More of keepalived.
    pub keepalived: Figures,
    /// What steerd is to reach.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Whether it does; none where a figure is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub met: Option<bool>,
}

/// Figures of one contender. Those that its event does not have are absent.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Figures {
    /// How many samples there are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub samples: Option<usize>,
    /// How many measurements failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<usize>,
    /// The least time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_ms: Option<f64>,
    /// The greatest time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_ms: Option<f64>,
    /// The median of the datagrams lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost: Option<f64>,
    /// The median of the longest pauses of the stream, where the time is by ARP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream_ms: Option<f64>,
    /// In how many samples both nodes answer ARP in the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub both_answer: Option<usize>,
    /// The share of a CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percent: Option<f64>,
    /// How often the backup took over from a living master, and in which time.
    #[serde(flatten)]
    pub takeovers: Option<Takeovers>,
}

/// How often the backup took over from a living master.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Takeovers {
    /// How often.
    pub count: usize,
    /// In which time.
    pub seconds: f64,
}

impl Report {
    /// Adds a sample.
    pub fn add(&mut self, contender: Contender, pace: Pace, event: Event, sample: Sample) {
        let row = self.samples.entry((event, pace.advert_ms)).or_default();
        row[contender as usize].push(sample);
    }

    /// Adds a measurement that failed.
    pub fn failed(&mut self, contender: Contender, pace: Pace, event: Event, error: &Error) {
        self.failed.entry((event, pace.advert_ms)).or_default()[contender as usize] += 1;
        // A row without a sample is a row all the same.
        self.samples.entry((event, pace.advert_ms)).or_default();
        self.fault(format!(
            "{} of {} at {} ms: {error}",
            event.name(),
            contender.name(),
            pace.advert_ms
        ));
    }

    /// Adds what the daemons of a pair take of a CPU.
    pub fn cpu(&mut self, contender: Contender, pace: Pace, cpu: Cpu) {
        self.cpu.entry(pace.advert_ms).or_default()[contender as usize] = Some(cpu);
    }

    /// Adds how often a backup took over from a living master.
    pub fn takeovers(&mut self, contender: Contender, pace: Pace, count: usize, span: Duration) {
        let seconds = span.as_secs_f64();
        let takeovers = Takeovers { count, seconds };
        self.takeovers.entry(pace.advert_ms).or_default()[contender as usize] = Some(takeovers);
    }

    /// Adds something else that went wrong.
    pub fn fault(&mut self, fault: String) {
        self.faults.push(fault);
    }

    /// What went wrong: rows lack samples for it.
    #[must_use]
    pub fn faults(&self) -> &[String] {
        &self.faults
    }

    /// All rows.
    #[must_use]
    pub fn rows(&self) -> Vec<Row> {
        let timed = self.samples.keys();
        let timed = timed.map(|&(event, advert_ms)| self.timed(event, advert_ms));
        let cpu = self.cpu.iter().flat_map(|(&advert_ms, both)| {
            let share = |of: fn(&Cpu) -> f64| both.each_ref().map(|cpu| cpu.as_ref().map(of));
            [
                cpu_row(advert_ms, "master", share(|cpu| cpu.master)),
                cpu_row(advert_ms, "backup", share(|cpu| cpu.backup)),
            ]
        });
        let takeovers = self.takeovers.iter().map(|(&advert_ms, both)| {
            let figures = both.map(|takeovers| Figures {
                takeovers,
                ..Figures::default()
            });
            let met = both[0].map(|takeovers| takeovers.count == 0);
            bare(
                Event::FalseTakeovers,
                advert_ms,
                figures,
                Some(Target::None),
                met,
            )
        });
        timed.chain(cpu).chain(takeovers).collect()
    }

    fn timed(&self, event: Event, advert_ms: u32) -> Row {
        let none = Default::default();
        let samples = self.samples.get(&(event, advert_ms)).unwrap_or(&none);
        let failed = self.failed.get(&(event, advert_ms));
        let failed = failed.copied().unwrap_or_default();
        let times = samples.each_ref().map(|samples| Times::of(samples));
        let figures = [0, 1].map(|index| Figures {
            failed: Some(failed[index]).filter(|&failed| failed > 0),
            ..times[index].figures.clone()
        });
        let target = Target::of(event, advert_ms);
        let noise = self.samples.get(&(Event::NoiseFloor, advert_ms));
        let noise = noise.and_then(|both| Times::of(&both[0]).summary);
        let met = target.and_then(|target| match times[0].median {
            Some(ms) => target.is_met(ms, advert_ms, times[1].median, noise),
            // Measured, and without an end.
            None => times[0].figures.both_answer.map(|_| false),
        });
        Row {
            steerd_ms: times[0].median,
            keepalived_ms: times[1].median,
            ..bare(event, advert_ms, figures, target, met)
        }
    }

    /// The same to be read.
    #[must_use]
    pub fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED);
        table.set_header(["event", "adverts", "steerd", "keepalived", "target", "met"]);
        for row in self.rows() {
            let event = match row.role {
                Some(role) => format!("{} of the {role}", row.event),
                None => row.event.to_owned(),
            };
            let met = match row.met {
                Some(true) => Cell::new("yes").fg(Color::Green),
                Some(false) => Cell::new("no").fg(Color::Red),
                None => Cell::new("-"),
            };
            table.add_row([
                Cell::new(event),
                Cell::new(format!("{} ms", row.advert_ms)),
                Cell::new(told(row.steerd_ms, &row.steerd)),
                Cell::new(told(row.keepalived_ms, &row.keepalived)),
                Cell::new(row.target.unwrap_or_else(|| "-".into())),
                met,
            ]);
        }
        for column in table.column_iter_mut().skip(1).take(3) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table
    }
}

/// Samples of one contender, summed up.
struct Times {
    /// None without samples, and where one of them has no end.
    median: Option<f64>,
    summary: Option<Summary>,
    figures: Figures,
}

impl Times {
    fn of(samples: &[Sample]) -> Self {
        let of =
            |figure: fn(&Sample) -> Option<f64>| Summary::of(samples.iter().filter_map(figure));
        let summary = of(|sample| sample.ms);
        let both = samples.iter().filter(|sample| sample.ms.is_none()).count();
        let median = |summary: Option<Summary>| summary.map(|summary| tenths(summary.median));
        Self {
            median: median(summary).filter(|_| both == 0),
            summary,
            figures: Figures {
                samples: Some(samples.len()).filter(|&samples| samples > 0),
                min_ms: summary.map(|summary| tenths(summary.min)),
                max_ms: summary.map(|summary| tenths(summary.max)),
                lost: median(of(|sample| sample.lost.map(|lost| lost as f64))),
                stream_ms: median(of(|sample| sample.stream_ms)),
                both_answer: Some(both).filter(|&both| both > 0),
                ..Figures::default()
            },
        }
    }
}

fn cpu_row(advert_ms: u32, role: &'static str, shares: [Option<f64>; 2]) -> Row {
    let target = Target::of(Event::Cpu, advert_ms);
    let met = match (target, shares[0]) {
        (Some(Target::Percent(limit)), Some(share)) => Some(share < limit),
        _ => None,
    };
    let figures = shares.map(|share| Figures {
        percent: share.map(|share| (share * 100.0).round() / 100.0),
        ..Figures::default()
    });
    Row {
        role: Some(role),
        ..bare(Event::Cpu, advert_ms, figures, target, met)
    }
}

/// A row without times.
fn bare(
    event: Event,
    advert_ms: u32,
    [steerd, keepalived]: [Figures; 2],
    target: Option<Target>,
    met: Option<bool>,
) -> Row {
    Row {
        event: event.name(),
        advert_ms,
        steerd_ms: None,
        keepalived_ms: None,
        role: None,
        steerd,
        keepalived,
        target: target.map(|target| target.to_string()),
        met,
    }
}

/// The figures of one contender in a cell.
fn told(median: Option<f64>, figures: &Figures) -> String {
    let mut text = match (median, figures.both_answer, figures.samples) {
        (Some(median), ..) => format!("{median:.1} ms"),
        (None, Some(both), Some(samples)) => format!("both answer, {both} of {samples}"),
        _ => String::new(),
    };
    let range = figures.min_ms.zip(figures.max_ms);
    if let Some((min, max)) = range.filter(|(min, max)| min < max) {
        text += &format!(" [{min:.1}-{max:.1}]");
    }
    if let Some(lost) = figures.lost {
        text += &format!(", lost {lost}");
    }
    if let Some(stream) = figures.stream_ms {
        text += &format!(", stream {stream:.1} ms");
    }
    if let Some(percent) = figures.percent {
        text += &format!("{percent:.2} %");
    }
    if let Some(Takeovers { count, seconds }) = figures.takeovers {
        text += &format!("{count} in {seconds} s");
    }
    if let Some(failed) = figures.failed {
        text += &format!(" ({failed} failed)");
    }
    if text.is_empty() { "-".into() } else { text }
}

fn tenths(figure: f64) -> f64 {
    (figure * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace { advert_ms: 10 };

    fn outage(ms: f64, lost: u64) -> Sample {
        Sample {
            ms: Some(ms),
            stream_ms: None,
            lost: Some(lost),
        }
    }

    fn killed(ms: Option<f64>) -> Sample {
        Sample {
            ms,
            stream_ms: Some(40.0),
            lost: Some(39),
        }
    }

    fn report(event: Event, steerd: &[Sample], keepalived: &[Sample]) -> Report {
        let mut report = Report::default();
        for noise in [2.0, 3.0, 5.0] {
            report.add(Contender::Steerd, PACE, Event::NoiseFloor, outage(noise, 0));
        }
        for (contender, samples) in [
            (Contender::Steerd, steerd),
            (Contender::Keepalived, keepalived),
        ] {
            for &sample in samples {
                report.add(contender, PACE, event, sample);
            }
        }
        report
    }

    fn row(report: &Report, event: Event) -> Row {
        let mut rows = report.rows().into_iter();
        rows.rfind(|row| row.event == event.name()).unwrap()
    }

    #[test]
    fn medians_stand_beside_each_other_with_their_verdict() {
        let steerd = [outage(33.04, 33), outage(31.0, 31), outage(99.0, 99)];
        let crash = |keepalived| {
            let report = report(Event::Crash, &steerd, &[outage(keepalived, 1)]);
            row(&report, Event::Crash)
        };
        let better = crash(35.0);
        assert_eq!(
            (better.steerd_ms, better.keepalived_ms),
            (Some(33.0), Some(35.0))
        );
        assert_eq!(
            (better.steerd.min_ms, better.steerd.max_ms),
            (Some(31.0), Some(99.0))
        );
        assert_eq!(
            (better.steerd.lost, better.steerd.samples),
            (Some(33.0), Some(3))
        );
        assert_eq!(better.met, Some(true));
        assert_eq!(crash(27.1).met, Some(true), "within the noise");
        assert_eq!(crash(26.9).met, Some(false));
        let json = serde_json::to_string(&better).unwrap();
        assert!(
            json.starts_with(
                r#"{"event":"crash","advert_ms":10,"steerd_ms":33.0,"keepalived_ms":35.0,"#
            ),
            "{json}"
        );
        assert!(!json.contains("null"), "{json}");
    }

    #[test]
    fn an_orderly_event_may_cost_what_no_event_costs() {
        let met = |event, ms| row(&report(event, &[outage(ms, 0)], &[]), event).met;
        for event in [Event::Handover, Event::Failback, Event::Failover] {
            assert_eq!(
                (met(event, 6.0), met(event, 6.1)),
                (Some(true), Some(false))
            );
        }
        assert_eq!(
            (met(Event::Start, 30.0), met(Event::Start, 30.1)),
            (Some(true), Some(false))
        );
    }

    #[test]
    fn both_answering_is_no_time() {
        let report = report(
            Event::DaemonKilled,
            &[killed(Some(36.0)), killed(Some(38.0))],
            &[killed(None), killed(Some(36.0)), killed(None)],
        );
        let row = row(&report, Event::DaemonKilled);
        assert_eq!((row.steerd_ms, row.keepalived_ms), (Some(37.0), None));
        assert_eq!(row.keepalived.both_answer, Some(2));
        assert_eq!((row.met, row.steerd.stream_ms), (Some(true), Some(40.0)));
        assert!(report.table().to_string().contains("both answer, 2 of 3"));
        assert!(
            serde_json::to_string(&row)
                .unwrap()
                .contains(r#""keepalived_ms":null"#)
        );
    }

    #[test]
    fn what_failed_is_no_figure_and_is_told() {
        let mut report = Report::default();
        let error = Error::State {
            node: "primary",
            reason: "it is off",
        };
        report.failed(Contender::Steerd, PACE, Event::Crash, &error);
        let row = row(&report, Event::Crash);
        assert_eq!(
            (row.steerd_ms, row.met, row.steerd.failed),
            (None, None, Some(1))
        );
        assert_eq!(
            report.faults(),
            ["crash of steerd at 10 ms: primary: it is off"]
        );
    }

    #[test]
    fn shares_and_counts_have_rows_of_their_own() {
        let mut report = Report::default();
        let cpu = |master, backup| Cpu { master, backup };
        report.cpu(Contender::Steerd, PACE, cpu(0.456, 1.2));
        report.takeovers(Contender::Keepalived, PACE, 62, Duration::from_secs(20));
        report.takeovers(Contender::Steerd, PACE, 0, Duration::from_secs(60));
        let rows = report.rows();
        let brief: Vec<_> = rows
            .iter()
            .map(|row| (row.event, row.role, row.steerd.percent, row.met))
            .collect();
        assert_eq!(
            brief,
            [
                ("cpu", Some("master"), Some(0.46), Some(true)),
                ("cpu", Some("backup"), Some(1.2), Some(false)),
                ("false_takeovers", None, None, Some(true)),
            ]
        );
        let json = serde_json::to_string(&rows[2]).unwrap();
        assert!(
            json.contains(r#""keepalived":{"count":62,"seconds":20.0}"#),
            "{json}"
        );
    }
}
