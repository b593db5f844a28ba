//! Reads single values: each function turns a TOML value into a type, or says what it must be.
//!
//! What holds for a value by itself is checked here; what holds between values, in
//! [`super::validate`]. What a probe puts on the wire is in [`http`], networks in [`net`].

pub(super) mod http;
pub(super) mod net;
pub(super) mod track;
pub(super) mod wire;

use std::{net::IpAddr, ops::RangeInclusive, path::PathBuf, time::Duration};

use ipnet::IpNet;
use jiff::fmt::friendly::SpanParser;
use toml::de::DeValue;

use super::{
    Name,
    reader::Problem,
    words::{describe, suggestion},
};

/// A Unix socket's address holds 108 bytes, one of them the final zero (unix(7)).
const SOCKET_PATH_MAX: usize = 107;

/// An interface's name holds 16 bytes, one of them the final zero (IFNAMSIZ).
const INTERFACE_MAX: usize = 15;

/// `true` or `false`.
pub(super) fn boolean(value: &DeValue<'_>) -> Result<bool, Problem> {
    value
        .as_bool()
        .ok_or_else(|| must("be `true` or `false`", value))
}

/// An integer within bounds.
pub(super) fn integer<T: TryFrom<i64>>(
    bounds: RangeInclusive<i64>,
) -> impl Fn(&DeValue<'_>) -> Result<T, Problem> {
    move |value| {
        let wanted = || {
            must(
                &format!("be an integer from {} to {}", bounds.start(), bounds.end()),
                value,
            )
        };
        let integer = value.as_integer().ok_or_else(wanted)?;
        let number =
            i64::from_str_radix(integer.as_str(), integer.radix()).map_err(|_| wanted())?;
        let number = Some(number)
            .filter(|number| bounds.contains(number))
            .ok_or_else(wanted)?;
        T::try_from(number).map_err(|_| wanted())
    }
}

/// The size of a Maglev table: a prime, so that every backend's stride visits all of it.
pub(super) fn ring_size(value: &DeValue<'_>) -> Result<u32, Problem> {
    let size: u32 = integer(101..=65_537)(value)?;
    if is_prime(size) {
        return Ok(size);
    }
    // 65,537 is prime, so there is a next one.
    let next = (size..=65_537)
        .find(|&size| is_prime(size))
        .unwrap_or(65_537);
    Err(must("be a prime", value).help(format!("the next prime is {next}")))
}

/// A number within bounds.
pub(super) fn number(bounds: RangeInclusive<f64>) -> impl Fn(&DeValue<'_>) -> Result<f64, Problem> {
    move |value| {
        let text = match value {
            DeValue::Float(float) => float.as_str(),
            DeValue::Integer(integer) if integer.radix() == 10 => integer.as_str(),
            _ => "",
        };
        let number = text.parse().ok().filter(|number| bounds.contains(number));
        number.ok_or_else(|| {
            must(
                &format!("be a number from {} to {}", bounds.start(), bounds.end()),
                value,
            )
        })
    }
}

/// A duration within bounds, as text with units.
pub(super) fn duration(
    bounds: RangeInclusive<Duration>,
) -> impl Fn(&DeValue<'_>) -> Result<Duration, Problem> {
    move |value| {
        let wanted = || {
            must(
                "be a duration such as \"5s\", \"250ms\" or \"1m 30s\"",
                value,
            )
        };
        let text = match value {
            DeValue::String(text) => text,
            DeValue::Integer(integer) => {
                let help = format!("give the unit: \"{}s\"", integer.as_str());
                return Err(wanted().help(help));
            }
            _ => return Err(wanted()),
        };
        let parsed = SpanParser::new().parse_unsigned_duration(text.as_ref());
        let duration = parsed.map_err(|_| wanted())?;
        if bounds.contains(&duration) {
            return Ok(duration);
        }
        Err(must(
            &format!("be {} to {}", brief(*bounds.start()), brief(*bounds.end())),
            value,
        ))
    }
}

/// A VRRP advert interval: the wire carries 12 bits of hundredths of a second (RFC 9568, 5.2.7).
pub(super) fn advert_interval(value: &DeValue<'_>) -> Result<Duration, Problem> {
    let range = Duration::from_millis(10)..=Duration::from_millis(40_950);
    let interval = duration(range)(value)?;
    if interval.as_nanos().is_multiple_of(10_000_000) {
        return Ok(interval);
    }
    Err(must("be a multiple of 10ms", value).help("VRRPv3 counts in hundredths of a second"))
}

/// One of a few words.
pub(super) fn choice<T: Copy>(
    choices: &[(&'static str, T)],
) -> impl Fn(&DeValue<'_>) -> Result<T, Problem> {
    move |value| {
        let found = value.as_str();
        let chosen = choices.iter().find(|(word, _)| found == Some(*word));
        chosen.map(|&(_, choice)| choice).ok_or_else(|| {
            let words: Vec<String> = choices
                .iter()
                .map(|(word, _)| format!("\"{word}\""))
                .collect();
            let problem = must(&format!("be {}", either(&words)), value);
            let help = suggestion(found.unwrap_or(""), choices.iter().map(|&(word, _)| word));
            Problem { help, ..problem }
        })
    }
}

/// The name of something of ours.
pub(super) fn name(value: &DeValue<'_>) -> Result<Name, Problem> {
    value.as_str().and_then(valid_name).ok_or_else(|| {
        must(
            "be a name of 1 to 64 letters (a-z, A-Z), digits, dots, underscores and hyphens",
            value,
        )
    })
}

/// `text` as a name, if it has the shape of one.
pub(super) fn valid_name(text: &str) -> Option<Name> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let valid = (1..=64).contains(&text.len()) && text.bytes().all(fits);
    valid.then(|| Name::new(text))
}

/// The name of a network interface, by the kernel's rules.
pub(super) fn interface(value: &DeValue<'_>) -> Result<Name, Problem> {
    let fits = |name: &&str| {
        (1..=INTERFACE_MAX).contains(&name.len())
            && ![".", ".."].contains(name)
            && !name.contains(['/', ':'])
            && !name.contains(|character: char| character.is_whitespace() || character.is_control())
    };
    value.as_str().filter(fits).map(Name::new).ok_or_else(|| {
        must(
            "be an interface name of 1 to 15 bytes without slash, colon and space",
            value,
        )
    })
}

/// The name of a Unix group.
pub(super) fn group(value: &DeValue<'_>) -> Result<String, Problem> {
    let fits = |name: &&str| {
        let byte_fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        (1..=32).contains(&name.len()) && !name.starts_with('-') && name.bytes().all(byte_fits)
    };
    let group = value.as_str().filter(fits).map(str::to_owned);
    group.ok_or_else(|| must("be the name of a group", value))
}

/// A log filter in tracing's syntax: a level, or `target=level` pairs with one.
pub(super) fn log_level(value: &DeValue<'_>) -> Result<String, Problem> {
    const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];
    let wanted = || {
        must(
            "be a log filter such as \"info\" or \"info,steerd=debug\"",
            value,
        )
    };
    let text = value.as_str().ok_or_else(wanted)?;
    for directive in text.split(',') {
        // tracing takes a bare unknown word for a target and logs all of it: surely a slip.
        let (target, level) = directive.rsplit_once('=').unwrap_or(("_", directive));
        let known = LEVELS
            .iter()
            .any(|known| level.trim().eq_ignore_ascii_case(known));
        if !known || target.trim().is_empty() {
            let help = suggestion(level.trim(), LEVELS);
            let help = help.unwrap_or_else(|| format!("the levels are {}", LEVELS.join(", ")));
            return Err(wanted().help(help));
        }
    }
    Ok(text.to_owned())
}

/// An absolute path: the daemon's working directory is nobody's business.
pub(super) fn path(value: &DeValue<'_>) -> Result<PathBuf, Problem> {
    let fits = |path: &&str| path.starts_with('/') && !path.contains('\0');
    let path = value.as_str().filter(fits).map(PathBuf::from);
    path.ok_or_else(|| must("be an absolute path", value))
}

/// The path of a Unix socket.
pub(super) fn socket_path(value: &DeValue<'_>) -> Result<PathBuf, Problem> {
    let path = path(value)?;
    if path.as_os_str().len() <= SOCKET_PATH_MAX {
        return Ok(path);
    }
    Err(must(
        &format!("be at most {SOCKET_PATH_MAX} bytes long, as every Unix socket's path"),
        value,
    ))
}

/// A directory in bpffs, which reserves names with a dot (the kernel's `bpf_lookup`).
pub(super) fn bpf_path(value: &DeValue<'_>) -> Result<PathBuf, Problem> {
    let path = path(value)?;
    let name = path
        .file_name()
        .map(|name| name.to_string_lossy().contains('.'));
    match name {
        Some(false) => Ok(path),
        Some(true) => Err(must(
            "end in a name without a dot: bpffs allows none",
            value,
        )),
        None => Err(must("name a directory below bpffs", value)),
    }
}

/// An IP address.
pub(super) fn address(value: &DeValue<'_>) -> Result<IpAddr, Problem> {
    let wanted = || must("be an IP address", value);
    let text = value.as_str().ok_or_else(wanted)?;
    text.parse().map_err(|_| match text.split_once('/') {
        Some((address, _)) if address.parse::<IpAddr>().is_ok() => {
            wanted().help(format!("leave the prefix length out: \"{address}\""))
        }
        _ if text.contains('%') => wanted().help("leave the %interface out"),
        _ => wanted().help("names are not resolved here: write the address itself"),
    })
}

/// An IP address with a prefix length.
pub(super) fn network(value: &DeValue<'_>) -> Result<IpNet, Problem> {
    let wanted = || {
        must(
            "be an IP address with a prefix length, such as \"192.168.1.25/24\"",
            value,
        )
    };
    let text = value.as_str().ok_or_else(wanted)?;
    let bare = || {
        let problem = wanted();
        match text.parse() {
            Ok(IpAddr::V4(_)) => {
                problem.help(format!("write \"{text}/24\" if its network is a /24"))
            }
            Ok(IpAddr::V6(_)) => {
                problem.help(format!("write \"{text}/64\" if its network is a /64"))
            }
            Err(_) => problem,
        }
    };
    text.parse().map_err(|_| bare())
}

/// "must X, found Y".
fn must(wanted: &str, value: &DeValue<'_>) -> Problem {
    Problem::new(format!("must {wanted}, found {}", describe(value)))
}

/// A bound in the unit that it is a round number of.
fn brief(duration: Duration) -> String {
    match duration.as_secs() {
        0 if duration.is_zero() => "0s".to_owned(),
        seconds if seconds > 0 && seconds % 3600 == 0 => format!("{}h", seconds / 3600),
        _ => format!("{duration:?}"),
    }
}

/// "a, b or c".
fn either(words: &[String]) -> String {
    match words {
        [] => String::new(),
        [only] => only.clone(),
        [most @ .., last] => format!("{} or {last}", most.join(", ")),
    }
}

fn is_prime(number: u32) -> bool {
    number >= 2
        && (2..)
            .take_while(|n| n * n <= number)
            .all(|n| !number.is_multiple_of(n))
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn read<T>(
        text: &str,
        read: impl Fn(&DeValue<'_>) -> Result<T, Problem>,
    ) -> Result<T, String> {
        let value = DeValue::parse(text).unwrap();
        read(value.get_ref()).map_err(|problem| problem.message)
    }

    #[test]
    fn primes() {
        let primes: Vec<u32> = (0..30).filter(|&n| is_prime(n)).collect();
        assert_eq!(primes, [2, 3, 5, 7, 11, 13, 17, 19, 23, 29]);
        assert!(is_prime(4099) && is_prime(65_537));
    }

    #[test]
    fn durations() {
        let any = || duration(Duration::ZERO..=Duration::MAX);
        for (text, milliseconds) in [
            ("5s", 5000),
            ("250ms", 250),
            ("1m 30s", 90_000),
            ("1.5s", 1500),
            ("0s", 0),
        ] {
            let expected = Duration::from_millis(milliseconds);
            assert_eq!(read(&format!("\"{text}\""), any()), Ok(expected), "{text}");
        }
        for text in [
            "\"\"",
            "\"5\"",
            "\"-5s\"",
            "\"5s ago\"",
            "\"PT5S\"",
            "5",
            "5.0",
            "[]",
            "\"9y\"",
        ] {
            assert!(read(text, any()).is_err(), "{text}");
        }
    }

    #[test]
    fn integers() {
        let byte = || integer::<u8>(0..=255);
        assert_eq!(read("0xff", byte()), Ok(255));
        assert_eq!(read("2_5", byte()), Ok(25));
        assert_eq!(read("+1", byte()), Ok(1));
        for text in [
            "256",
            "-1",
            "99999999999999999999999999",
            "1.0",
            "\"1\"",
            "true",
        ] {
            assert!(read(text, byte()).is_err(), "{text}");
        }
    }

    #[test]
    fn numbers() {
        let share = || number(0.0..=0.5);
        assert_eq!(read("0", share()), Ok(0.0));
        assert_eq!(read("0.5", share()), Ok(0.5));
        assert_eq!(read("1e-1", share()), Ok(0.1));
        for text in ["0.51", "-0.1", "nan", "inf", "1", "\"0.1\"", "0x0"] {
            assert!(read(text, share()).is_err(), "{text}");
        }
    }

    #[test]
    fn names_and_interfaces() {
        let long = format!("\"{}\"", "x".repeat(65));
        assert!(read("\"game-1.a_B\"", name).is_ok());
        for text in [
            "\"\"",
            "\"a b\"",
            "\"ä\"",
            "\"a/b\"",
            "\"a\\n\"",
            long.as_str(),
            "1",
        ] {
            assert!(read(text, name).is_err(), "{text}");
        }
        assert!(read("\"enp0s31f6.100\"", interface).is_ok());
        for text in [
            "\"\"",
            "\"a/b\"",
            "\"a b\"",
            "\"a:b\"",
            "\"..\"",
            "\"sixteen-letters-\"",
        ] {
            assert!(read(text, interface).is_err(), "{text}");
        }
    }

    #[test]
    fn log_filters() {
        for text in [
            "info",
            "INFO",
            "steerd=debug",
            "info,steerd=debug",
            "info, a::b=off",
        ] {
            assert!(read(&format!("\"{text}\""), log_level).is_ok(), "{text}");
        }
        for text in ["", "inof", "steerd=", "=info", "info,", "steerd=inof", "3"] {
            assert!(read(&format!("\"{text}\""), log_level).is_err(), "{text}");
        }
    }

    #[test]
    fn paths() {
        assert!(read("\"/run/steerd\"", path).is_ok());
        assert!(read("\"run/steerd\"", path).is_err());
        assert!(read("\"/run/\\u0000\"", path).is_err());
        assert!(read(&format!("\"/{}\"", "x".repeat(106)), socket_path).is_ok());
        assert!(read(&format!("\"/{}\"", "x".repeat(107)), socket_path).is_err());
        assert!(read("\"/sys/fs/bpf/steerd\"", bpf_path).is_ok());
        assert!(read("\"/sys/fs/bpf/steerd.1\"", bpf_path).is_err());
        assert!(read("\"/\"", bpf_path).is_err());
    }
}
