//! `cargo xtask test`: readies the machine, builds everything, runs all tests, and counts them in one line.

use std::{
    io::{BufRead, BufReader, Write},
    process::Stdio,
};

use crate::{
    build_ebpf,
    error::{Error, Result},
    guest,
    run::{self, say},
    setup,
};

/// `cargo xtask test`
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Install nothing: if something is missing, print the commands that would install it and fail.
    #[arg(long)]
    no_install: bool,
    /// For `cargo test`: `-p steerd-core`, a test's name, `-- --nocapture`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

impl Args {
    /// Runs the command. Whatever happens, the last line counts: what keeps the tests from running is one failure.
    pub(crate) fn run(&self) -> Result<()> {
        let counts = self
            .prepare()
            .and_then(|()| test(&self.args))
            .unwrap_or_else(|error| {
                say(error);
                Counts {
                    passed: 0,
                    failed: 1,
                }
            });
        println!("{} passed, {} failed", counts.passed, counts.failed);
        if counts.failed == 0 {
            Ok(())
        } else {
            Err(Error::TestsFailed)
        }
    }

    /// Readies the machine and builds.
    fn prepare(&self) -> Result<()> {
        setup::machine(!self.no_install)?;
        guest::prepare(!self.no_install)?;
        build_ebpf::build(!self.no_install)?;
        // The end-to-end tests start the daemon, steerctl and the lab from beside themselves.
        run::cargo().args(["build", "--workspace", "--bins"]).run()
    }
}

/// Tests that ran.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Counts {
    passed: u64,
    failed: u64,
}

/// Runs `cargo test`, passes its output on as it comes, and counts.
fn test(args: &[String]) -> Result<Counts> {
    let mut cmd = run::cargo().args(["test", "--no-fail-fast"]);
    if !names_packages(args) {
        cmd = cmd.arg("--workspace");
    }
    let cmd = cmd.args(args);
    let mut child = cmd
        .command()
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|source| cmd.start_error(source))?;
    let mut counts = Counts::default();
    if let Some(stdout) = child.stdout.take() {
        let mut out = std::io::stdout().lock();
        let mut reader = BufReader::new(stdout);
        let mut line = Vec::new();
        // Bytes, not text: a test may print what is no UTF-8.
        while reader.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
            // Our own stdout may be closed (`| head`); the tests still run to their end.
            let _ = out.write_all(&line).and_then(|()| out.flush());
            if let Some(one) = parse_result(&String::from_utf8_lossy(&line)) {
                counts.passed += one.passed;
                counts.failed += one.failed;
            }
            line.clear();
        }
    }
    let status = child.wait().map_err(|source| cmd.start_error(source))?;
    if !status.success() {
        say(format_args!("`{}` failed ({status})", cmd.brief()));
        // With no failed test: one that does not compile, or whose process died.
        counts.failed = counts.failed.max(1);
    }
    Ok(counts)
}

/// Whether the user's arguments choose packages themselves.
fn names_packages(args: &[String]) -> bool {
    let choice = |arg: &String| arg == "-p" || arg.starts_with("--package") || arg == "--workspace";
    args.iter().take_while(|arg| *arg != "--").any(choice)
}

/// Reads one `test result: ok. 3 passed; 0 failed; ...` line.
fn parse_result(line: &str) -> Option<Counts> {
    let rest = line.trim().strip_prefix("test result: ")?;
    let (_, numbers) = rest.split_once(". ")?;
    let count = |name: &str| {
        numbers
            .split(';')
            .find_map(|part| part.trim().strip_suffix(name))
            .and_then(|n| n.trim().parse().ok())
    };
    Some(Counts {
        passed: count("passed")?,
        failed: count("failed")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_are_counted() {
        let ok = "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.01s\n";
        assert_eq!(
            parse_result(ok),
            Some(Counts {
                passed: 12,
                failed: 0
            })
        );
        let bad = "test result: FAILED. 2 passed; 5 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s";
        assert_eq!(
            parse_result(bad),
            Some(Counts {
                passed: 2,
                failed: 5
            })
        );
        assert_eq!(parse_result("test result_lines ... ok"), None);
        assert_eq!(parse_result("running 3 tests"), None);
    }

    #[test]
    fn chosen_packages_are_respected() {
        let args = |list: &[&str]| list.iter().map(|&s| s.to_owned()).collect::<Vec<_>>();
        assert!(names_packages(&args(&["-p", "steerd"])));
        assert!(names_packages(&args(&["--package=steerd"])));
        assert!(!names_packages(&args(&["name", "--", "-p"])));
    }
}
