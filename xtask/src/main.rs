//! steerd's development tasks: `cargo xtask <command>`. One file a command; what they share is below them:
//! [`toolchain`] finds a compiler for eBPF, [`install`] and [`debian`] get one, [`setup`] readies the machine for tests,
//! [`guest`] gets another kernel to run some in, [`run`] runs programs, [`pins`] holds every pinned version.

use std::process::ExitCode;

use clap::Parser;

mod bench;
mod build_ebpf;
mod check;
mod debian;
mod demo;
mod error;
mod guest;
mod install;
mod pins;
mod run;
mod setup;
mod sources;
mod stamp;
mod test;
mod toolchain;

/// steerd's development tasks.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Task {
    /// Compile the kernel programs: target/ebpf/steerd.o, which the daemon embeds, and the benchmark's.
    BuildEbpf(build_ebpf::Args),
    /// Build everything and run all tests; ends with the line `N passed, N failed`.
    Test(test::Args),
    /// Build everything and show a failover in a lab of network namespaces.
    Demo(demo::Args),
    /// Measure what the data plane costs.
    Bench(bench::Args),
    /// Format, lint and document everything, host and kernel side, warnings denied.
    Check(check::Args),
}

fn main() -> ExitCode {
    let done = match Task::parse() {
        Task::BuildEbpf(args) => args.run(),
        Task::Test(args) => args.run(),
        Task::Demo(args) => args.run(),
        Task::Bench(args) => args.run(),
        Task::Check(args) => args.run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // The tests' last line has said it.
        Err(error::Error::TestsFailed) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}
