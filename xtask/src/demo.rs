//! `cargo xtask demo`: readies the machine, builds everything, and becomes the lab's demo.

use std::os::unix::process::CommandExt;

use crate::{
    build_ebpf,
    error::Result,
    run::{self, Cmd},
    setup,
};

/// `cargo xtask demo`
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Install nothing: if something is missing, print the commands that would install it and fail.
    #[arg(long)]
    no_install: bool,
    /// For the demo: `--players 1000`, `--json`; `--help` lists them.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

impl Args {
    /// Runs the command. All of the set-up's output goes to stderr: with `--json`, stdout is the demo's alone.
    pub(crate) fn run(&self) -> Result<()> {
        setup::machine(!self.no_install)?;
        build_ebpf::build(!self.no_install)?;
        // The dev profile: the packets' way is the kernel program's, which is always optimized, and these build in half
        // the time and are the binaries the tests have built already.
        run::cargo()
            .args([
                "build",
                "--bins",
                "-p",
                "steerd",
                "-p",
                "steerctl",
                "-p",
                "steerd-tests",
            ])
            .run()?;
        let dir = run::binary_dir()?;
        let lab = Cmd::new(dir.join("steerd-lab"))
            .arg("demo")
            .arg("--steerd")
            .arg(dir.join("steerd"))
            .arg("--steerctl")
            .arg(dir.join("steerctl"))
            .args(&self.args);
        // exec: signals and the exit code are the lab's.
        Err(lab.start_error(lab.command().exec()))
    }
}
