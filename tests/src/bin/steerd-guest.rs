//! The first program of a guest: see `steerd_tests::guest`.

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::process::id() != 1 {
        eprintln!("steerd-guest is the first program of a guest: `cargo xtask test` runs guests");
        return ExitCode::FAILURE;
    }
    match steerd_tests::guest::init::run() {
        Ok(never) => match never {},
        Err(error) => {
            eprintln!("steerd-guest: {error}");
            ExitCode::FAILURE
        }
    }
}
