//! `cargo xtask bench`: readies the machine, builds what is measured, and becomes the benchmark.

use std::os::unix::process::CommandExt;

use crate::{
    build_ebpf,
    error::Result,
    run::{self, Cmd},
    setup,
};

/// `cargo xtask bench`
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

/// What is measured.
#[derive(Debug, clap::Subcommand)]
enum What {
    /// Nanoseconds a packet of the kernel program, beside the least that each kind of packet needs.
    Dataplane(Dataplane),
    /// Bytes, requests and connections through the lab, beside no balancer, nftables and HAProxy.
    Throughput(Throughput),
    /// Milliseconds without an answer when a node or a daemon ends, comes back or hands over, beside keepalived.
    Failover(Failover),
}

#[derive(Debug, clap::Args)]
struct Dataplane {
    /// Install nothing: if something is missing, print the commands that would install it and fail.
    #[arg(long)]
    no_install: bool,
    /// For the benchmark: `--json`, `--row udp`, `--object FILE`; `-- --help` lists them.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

#[derive(Debug, clap::Args)]
struct Throughput {
    /// Install nothing: if something is missing, print the commands that would install it and fail.
    #[arg(long)]
    no_install: bool,
    /// For the benchmark: `--json`, `--seconds 5`; `-- --help` lists them.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

#[derive(Debug, clap::Args)]
struct Failover {
    /// Install nothing: if something is missing, print the commands that would install it and fail.
    #[arg(long)]
    no_install: bool,
    /// For the benchmark: `--json`, `--quick`, `--event crash`, `--advert 10`, `--runs 9`; `-- --help` lists them.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

impl Args {
    /// Runs the command. With `--json`, stdout is the benchmark's alone.
    pub(crate) fn run(&self) -> Result<()> {
        match &self.what {
            What::Dataplane(dataplane) => dataplane.run(),
            What::Throughput(throughput) => throughput.run(),
            What::Failover(failover) => failover.run(),
        }
    }
}

impl Dataplane {
    fn run(&self) -> Result<()> {
        setup::machine(!self.no_install)?;
        build_ebpf::build(!self.no_install)?;
        // The dev profile: all that is measured runs in the kernel, in programs that are always optimized.
        run::cargo()
            .args(["build", "-p", "steerd-tests", "--bin", "steerd-bench"])
            .run()?;
        let workspace = run::workspace();
        let mut bench = Cmd::new(run::binary_dir()?.join("steerd-bench"))
            .arg("dataplane")
            .arg("--bench-object")
            .arg(workspace.join(build_ebpf::BENCH_OBJECT));
        if !names_object(&self.args) {
            bench = bench
                .arg("--object")
                .arg(workspace.join(build_ebpf::OBJECT));
        }
        let bench = bench.args(&self.args);
        // exec: signals and the exit code are the benchmark's.
        Err(bench.start_error(bench.command().exec()))
    }
}

impl Throughput {
    fn run(&self) -> Result<()> {
        setup::machine(!self.no_install)?;
        build_ebpf::build(!self.no_install)?;
        // The dev profile, as above: no packet passes through the daemon.
        let built = ["steerd", "steerctl", "steerd-tests"];
        let packages = built.into_iter().flat_map(|package| ["-p", package]);
        run::cargo()
            .args(["build", "--bins"])
            .args(packages)
            .run()?;
        let bench = Cmd::new(run::binary_dir()?.join("steerd-throughput")).args(&self.args);
        Err(bench.start_error(bench.command().exec()))
    }
}

impl Failover {
    fn run(&self) -> Result<()> {
        setup::machine(!self.no_install)?;
        build_ebpf::build(!self.no_install)?;
        // The release profile: what is measured is the daemon's own time too. It takes minutes to build, so
        // no program more than is needed.
        let packages = ["steerd", "steerctl", "steerd-tests"];
        let programs = ["steerd", "steerctl", "steerd-failover", "game-server"];
        run::cargo()
            .args(["build", "--release"])
            .args(packages.into_iter().flat_map(|package| ["-p", package]))
            .args(programs.into_iter().flat_map(|program| ["--bin", program]))
            .run()?;
        let bench = Cmd::new(run::release_dir()?.join("steerd-failover")).args(&self.args);
        Err(bench.start_error(bench.command().exec()))
    }
}

/// Whether the user's arguments name the program to measure.
fn names_object(args: &[String]) -> bool {
    args.iter()
        .any(|arg| arg == "--object" || arg.starts_with("--object="))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_object_is_respected() {
        let args = |list: &[&str]| list.iter().map(|&s| s.to_owned()).collect::<Vec<_>>();
        assert!(names_object(&args(&["--json", "--object", "a.o"])));
        assert!(names_object(&args(&["--object=a.o"])));
        assert!(!names_object(&args(&["--json", "--row", "udp"])));
    }
}
