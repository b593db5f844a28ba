//! `cargo xtask check`: everything that can be wrong without running a test. All steps run, even after one failed.

use crate::{
    build_ebpf::{self, ebpf_flags},
    error::{Error, Result},
    run::{self, Cmd, say},
    toolchain::Toolchain,
};

/// `cargo xtask check`
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Install nothing: if something is missing, print the commands that would install it and fail.
    #[arg(long)]
    no_install: bool,
}

impl Args {
    /// Runs the command.
    pub(crate) fn run(&self) -> Result<()> {
        let mut report = Report::default();
        report.step("fmt", || {
            run::cargo().args(["fmt", "--all", "--check"]).run()
        });
        // The daemon embeds the object: without it the host's clippy has nothing to compile.
        let mut toolchain = None;
        report.step("build-ebpf", || {
            toolchain = Some(build_ebpf::build(!self.no_install)?);
            Ok(())
        });
        if let Some(toolchain) = &toolchain {
            report.step("clippy (kernel program)", || clippy_ebpf(toolchain)?.run());
        }
        report.step("clippy (host)", || {
            run::cargo()
                .args([
                    "clippy",
                    "--workspace",
                    "--all-targets",
                    "--keep-going",
                    "--",
                    "-D",
                    "warnings",
                ])
                .run()
        });
        report.step("doc", || {
            run::cargo()
                .args([
                    "doc",
                    "--workspace",
                    "--no-deps",
                    "--document-private-items",
                ])
                // A module's page says how its private parts fit, with links to them.
                .env(
                    "RUSTDOCFLAGS",
                    "-D warnings -A rustdoc::private_intra_doc_links",
                )
                .run()
        });
        report.finish()
    }
}

/// Clippy on the kernel program, by the clippy of the compiler that builds it.
fn clippy_ebpf(toolchain: &Toolchain) -> Result<Cmd> {
    let clippy = toolchain.cargo_clippy().ok_or_else(|| Error::NoToolchain {
        why: format!("{} has no clippy beside it", toolchain.rustc.display()),
    })?;
    Ok(ebpf_flags(clippy, toolchain, &run::workspace()).args(["--", "-D", "warnings"]))
}

/// What each step came to.
#[derive(Default)]
struct Report {
    steps: Vec<(&'static str, bool)>,
}

impl Report {
    /// Runs a step and remembers how it went.
    fn step(&mut self, name: &'static str, step: impl FnOnce() -> Result<()>) {
        say(format_args!("check: {name}"));
        let done = step();
        if let Err(error) = &done {
            say(error);
        }
        self.steps.push((name, done.is_ok()));
    }

    /// Prints the summary.
    fn finish(self) -> Result<()> {
        for (name, ok) in &self.steps {
            println!("{} {name}", if *ok { "ok    " } else { "FAILED" });
        }
        let failed = self.steps.iter().filter(|(_, ok)| !ok).count();
        if failed == 0 {
            Ok(())
        } else {
            Err(Error::ChecksFailed {
                failed,
                total: self.steps.len(),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_steps_run_and_one_failure_fails() {
        let mut report = Report::default();
        report.step("bad", || Err(Error::TestsFailed));
        report.step("good", || Ok(()));
        assert_eq!(report.steps, [("bad", false), ("good", true)]);
        assert_eq!(
            report.finish().unwrap_err().to_string(),
            "1 of 2 checks failed"
        );
    }
}
