//! What tracks are made of.

use toml::de::DeValue;

use super::{integer, must};
use crate::config::reader::Problem;

/// What a track adds to the priority.
pub(in crate::config) fn weight(value: &DeValue<'_>) -> Result<i16, Problem> {
    match integer(-253..=253)(value)? {
        0 => {
            Err(must("not be 0: the track would do nothing", value)
                .help("leave it out for a fault"))
        }
        weight => Ok(weight),
    }
}

/// One argument of a program.
pub(in crate::config) fn argument(value: &DeValue<'_>) -> Result<String, Problem> {
    let fits = |text: &&str| text.len() <= 4096 && !text.contains('\0');
    let argument = value.as_str().filter(fits).map(str::to_owned);
    argument.ok_or_else(|| {
        must(
            "be text of at most 4096 bytes without zero characters",
            value,
        )
    })
}

/// The name of a Unix user, or its number.
pub(in crate::config) fn user(value: &DeValue<'_>) -> Result<String, Problem> {
    let fits = |name: &&str| {
        let byte_fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        (1..=32).contains(&name.len()) && !name.starts_with('-') && name.bytes().all(byte_fits)
    };
    let user = value.as_str().filter(fits).map(str::to_owned);
    user.ok_or_else(|| must("be the name of a user", value))
}

/// The name of a process.
pub(in crate::config) fn process(value: &DeValue<'_>) -> Result<String, Problem> {
    let fits = |name: &&str| {
        (1..=255).contains(&name.len()) && !name.contains(|c: char| c == '/' || c.is_control())
    };
    let name = value.as_str().filter(fits).map(str::to_owned);
    name.ok_or_else(|| {
        let problem = must(
            "be the name of a process: 1 to 255 bytes without slash",
            value,
        );
        problem.help("the last part of the program's path, as `ps -o comm` shows it")
    })
}
