//! The demonstration: the deployment of `config/steerd.toml` loses its server, then its node, gets
//! both back, and then does it all again on fast settings; with a table of what it took.

use std::sync::Arc;

use comfy_table::{Cell, CellAlignment, Color, Table, presets::UTF8_FULL_CONDENSED};

use crate::{
    config::Settings,
    error::Result,
    lab::Options,
    node::Binaries,
    scenario::{self, Report, Stage},
    timeline::Timeline,
};

/// How the demonstration ended.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What was measured, in order.
    pub reports: Vec<(Settings, Report)>,
    /// What went wrong, in words: a target missed, a player who did not come back.
    pub faults: Vec<String>,
}

/// Runs the scenarios on each of `settings`, calling `report` as each ends.
///
/// # Errors
///
/// The lab could not be made, or never came to the state that a scenario needs.
pub fn run(
    binaries: &Binaries,
    timeline: &Arc<Timeline>,
    settings: &[Settings],
    players: usize,
    mut report: impl FnMut(Settings, &Report),
) -> Result<Outcome> {
    type Scenario = fn(&mut Stage) -> Result<Report>;
    let scenarios: [Scenario; 4] = [
        scenario::server_killed,
        scenario::server_back,
        scenario::node_killed,
        scenario::node_back,
    ];
    let mut outcome = Outcome::default();
    for &settings in settings {
        let path = settings
            .path()
            .canonicalize()
            .unwrap_or_else(|_| settings.path());
        timeline.heading(&format!(
            "{} settings ({})",
            settings.name(),
            path.display()
        ));
        let options = Options {
            exclusive: true,
            ..Options::new(settings)
        };
        let mut stage = Stage::new(options, binaries.clone(), timeline.clone(), players)?;
        for scenario in scenarios {
            let measured = scenario(&mut stage)?;
            report(settings, &measured);
            outcome.faults.extend(faults(settings, &measured));
            outcome.reports.push((settings, measured));
        }
    }
    Ok(outcome)
}

/// The table of all reports.
#[must_use]
pub fn table(reports: &[(Settings, Report)]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header([
        "settings",
        "scenario",
        "without service",
        "target",
        "players back",
        "packets lost",
    ]);
    for column in 2..6 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for (settings, report) in reports {
        let target = report.target(*settings);
        let color = if report.is_good(*settings) {
            Color::Green
        } else {
            Color::Red
        };
        table.add_row([
            Cell::new(settings.name()),
            Cell::new(&report.scenario),
            Cell::new(seconds(report.outage_ms)).fg(color),
            Cell::new(target.map_or("-".into(), |t| format!("< {}", seconds(t.as_millis())))),
            Cell::new(format!("{} of {}", report.reconnected, report.players)).fg(color),
            Cell::new(report.lost_packets),
        ]);
    }
    table
}

fn faults(settings: Settings, report: &Report) -> Vec<String> {
    let Report {
        scenario,
        outage_ms,
        players,
        reconnected,
        ..
    } = report;
    let mut faults = Vec::new();
    if reconnected < players {
        let lost = players - reconnected;
        faults.push(format!(
            "{scenario} ({}): {lost} players did not come back",
            settings.name()
        ));
    }
    if let Some(target) = report.target(settings).map(|target| target.as_millis())
        && u128::from(*outage_ms) >= target
    {
        let (took, target) = (seconds(*outage_ms), seconds(target));
        let settings = settings.name();
        faults.push(format!(
            "{scenario} ({settings}): {took} without service, target {target}"
        ));
    }
    faults
}

fn seconds(ms: impl TryInto<u64>) -> String {
    let ms = ms.try_into().unwrap_or(u64::MAX);
    format!("{}.{:03} s", ms / 1000, ms % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(outage_ms: u64, reconnected: usize) -> Report {
        let scenario = "node_killed".into();
        Report {
            scenario,
            outage_ms,
            players: 200,
            reconnected,
            lost_packets: 3,
        }
    }

    #[test]
    fn each_miss_is_a_fault() {
        assert_eq!(faults(Settings::Fast, &report(499, 200)), [""; 0]);
        assert_eq!(faults(Settings::Seed, &report(3999, 200)), [""; 0]);
        let both = faults(Settings::Fast, &report(500, 199));
        assert_eq!(
            both,
            [
                "node_killed (fast): 1 players did not come back",
                "node_killed (fast): 0.500 s without service, target 0.500 s",
            ]
        );
    }

    #[test]
    fn a_report_has_just_the_promised_fields() {
        let json = serde_json::to_string(&report(1, 2)).unwrap();
        assert_eq!(
            json,
            r#"{"scenario":"node_killed","outage_ms":1,"players":200,"reconnected":2,"lost_packets":3}"#
        );
    }

    #[test]
    fn the_table_has_a_row_a_report() {
        let text = table(&[(Settings::Seed, report(3512, 200))]).to_string();
        for part in ["seed", "node_killed", "3.512 s", "< 4.000 s", "200 of 200"] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }
}
