//! What a packet costs: nanoseconds a packet of the built kernel program, by `BPF_PROG_TEST_RUN`.
//!
//! For each [`rows`] entry the [`rig`] loads the program on maps of its own and fills them as the
//! daemon would; the [`wrapper`] restores the [`frame`] before each packet. [`measure`] runs three
//! programs in turns, each in the wrapper: one that does nothing, the row's reference, the program.
//! The first one's time is taken off the other two. [`report`] shows the figures with the limit and
//! the targets, [`machine`] says where they are from.
//!
//! All on one CPU, on no interface: the packet is in the cache, and there is no driver and no NIC.
//! What is compared is the work of the programs.

pub mod error;
pub mod frame;
pub mod machine;
pub mod measure;
pub mod report;
pub mod rig;
pub mod rows;
pub mod wrapper;

use std::path::PathBuf;

use error::{Error, Result};
use measure::Figures;
use report::{Program, Report};
use rig::Rig;
use rows::Row;
use wrapper::Bench;

/// What to measure, and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// The kernel program.
    pub object: PathBuf,
    /// The wrapper and the reference programs.
    pub bench_object: PathBuf,
    /// Rounds, each of all three programs.
    pub rounds: u32,
    /// The names of the rows; empty: all.
    pub rows: Vec<String>,
}

/// Measures the rows, telling of each before (`None`) and after.
///
/// # Errors
///
/// There is no such row, or nothing can be measured. A row that fails is in the report, and does
/// not keep the others from being measured.
pub fn run(
    options: &Options,
    mut progress: impl FnMut(&Row, Option<&Result<Figures>>),
) -> Result<Report> {
    let rows = rows::named(&options.rows)?;
    let bench = Bench::read(&options.bench_object)?;
    let object = wrapper::read(&options.object)?;
    let mut report = Report::default();
    for row in rows {
        progress(&row, None);
        let figures = Rig::new(&object, row.world).and_then(|mut rig| {
            for program in rig.programs()? {
                report.add_program(program);
            }
            measure::row(&bench, &mut rig, &row, options.rounds)
        });
        progress(&row, Some(&figures));
        match figures {
            Ok(figures) => report.rows.push((row, figures)),
            Err(error) => report.faults.push(Error::Row {
                row: row.name,
                source: Box::new(error),
            }),
        }
    }
    for program in bench.programs()? {
        report.add_program(program);
    }
    Ok(report)
}

/// What the kernel says of a loaded program.
fn program_info(name: &str, program: &aya::programs::Xdp) -> Result<Program> {
    let info = program.info().map_err(error::program(name))?;
    Ok(Program {
        name: name.to_owned(),
        xlated: info.size_translated().unwrap_or_default(),
        jited: info.size_jitted(),
        verified: info.verified_instruction_count().unwrap_or_default(),
    })
}
