//! The values that a probe sends or expects: none of them can carry a line break or a space into a
//! request.

use std::net::IpAddr;

use toml::de::DeValue;

use super::{Problem, integer, must};

/// An HTTP method: a token (RFC 9110, 5.6.2).
pub(in crate::config) fn method(value: &DeValue<'_>) -> Result<String, Problem> {
    const COMMON: [&str; 7] = ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"];
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let wanted = || must("be an HTTP method such as \"GET\"", value);
    let fits = |text: &&str| (1..=32).contains(&text.len()) && text.bytes().all(is_token);
    let text = value.as_str().filter(fits).ok_or_else(wanted)?;
    let upper = text.to_ascii_uppercase();
    if upper != text && COMMON.contains(&upper.as_str()) {
        return Err(wanted().help(format!("methods are case-sensitive: write \"{upper}\"")));
    }
    Ok(text.to_owned())
}

/// The path of a request, with its query if there is one. It goes on the wire as it is.
pub(in crate::config) fn request_path(value: &DeValue<'_>) -> Result<String, Problem> {
    let fits = |text: &&str| {
        let visible = text.bytes().all(|byte| byte.is_ascii_graphic());
        text.starts_with('/') && visible && !text.contains('#') && text.len() <= 2048
    };
    let path = value.as_str().filter(fits).map(str::to_owned);
    path.ok_or_else(|| {
        must(
            "be a path of visible ASCII characters that begins with `/`",
            value,
        )
    })
}

/// The value of a Host header.
pub(in crate::config) fn host(value: &DeValue<'_>) -> Result<String, Problem> {
    let byte_fits = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
    let fits = |text: &&str| (1..=255).contains(&text.len()) && text.bytes().all(byte_fits);
    let host = value.as_str().filter(fits).map(str::to_owned);
    host.ok_or_else(|| {
        must(
            "be a host name or an address, with `:port` if need be",
            value,
        )
    })
}

/// The name a certificate must carry: a DNS name or an address.
pub(in crate::config) fn server_name(value: &DeValue<'_>) -> Result<String, Problem> {
    let label_fits = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    let fits = |text: &&str| {
        text.parse::<IpAddr>().is_ok() || (text.len() <= 253 && text.split('.').all(label_fits))
    };
    let name = value.as_str().filter(fits).map(str::to_owned);
    name.ok_or_else(|| must("be a DNS name or an IP address", value))
}

/// A status or a range of them, both ends included.
pub(in crate::config) fn status(value: &DeValue<'_>) -> Result<(u16, u16), Problem> {
    let wanted = || {
        must(
            "be a status from 100 to 599 or a range such as \"200-399\"",
            value,
        )
    };
    let one = |text: &str| {
        text.trim()
            .parse()
            .ok()
            .filter(|status| (100..=599).contains(status))
    };
    let (low, high) = match value {
        DeValue::Integer(_) => {
            let status = integer(100..=599)(value).map_err(|_| wanted())?;
            (status, status)
        }
        DeValue::String(text) => {
            let (low, high) = text.split_once('-').unwrap_or((text, text));
            (one(low).ok_or_else(wanted)?, one(high).ok_or_else(wanted)?)
        }
        _ => return Err(wanted()),
    };
    if low > high {
        return Err(wanted().help(format!("the lower status comes first: \"{high}-{low}\"")));
    }
    Ok((low, high))
}

/// A text that a body must contain.
pub(in crate::config) fn needle(value: &DeValue<'_>) -> Result<String, Problem> {
    let fits = |text: &&str| (1..=4096).contains(&text.len());
    let needle = value.as_str().filter(fits).map(str::to_owned);
    needle.ok_or_else(|| must("be a text of 1 to 4096 bytes", value))
}

#[cfg(test)]
mod tests {
    use super::{super::tests::read, *};

    #[test]
    fn statuses() {
        assert_eq!(read("200", status), Ok((200, 200)));
        assert_eq!(read("\"204\"", status), Ok((204, 204)));
        assert_eq!(read("\"200-399\"", status), Ok((200, 399)));
        for text in [
            "99",
            "600",
            "\"399-200\"",
            "\"200-\"",
            "\"2xx\"",
            "\"200-300-400\"",
            "2.0",
        ] {
            assert!(read(text, status).is_err(), "{text}");
        }
    }

    #[test]
    fn nothing_that_goes_on_the_wire_can_carry_a_line_break() {
        for text in [
            "\"/a\\r\\nX: y\"",
            "\"/a b\"",
            "\"/ä\"",
            "\"a\"",
            "\"/a#b\"",
        ] {
            assert!(read(text, request_path).is_err(), "{text}");
        }
        assert!(read("\"a\\r\\nX: y\"", host).is_err());
        assert!(read("\"GET \"", method).is_err());
        assert!(read("\"a\\n\"", server_name).is_err());
        assert!(read("\"[fd00::1]:8080\"", host).is_ok());
        assert!(read("\"/a?b=%20\"", request_path).is_ok());
    }
}
