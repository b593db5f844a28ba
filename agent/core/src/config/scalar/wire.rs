//! What only VRRP knows.

use toml::de::DeValue;

use crate::config::{Password, reader::Problem};

/// A password of VRRPv2. No message repeats what was found: it may be nearly the right one.
pub(in crate::config) fn password(value: &DeValue<'_>) -> Result<Password, Problem> {
    let text = value.as_str().unwrap_or_default();
    let visible = text.bytes().all(|byte| byte.is_ascii_graphic());
    let password = Password::new(text).filter(|_| visible);
    password.ok_or_else(|| {
        let problem = Problem::new(format!(
            "must be text of 1 to {} visible ASCII characters",
            Password::MAX
        ));
        match text.len() > Password::MAX {
            true => problem.help("a packet holds 8: keepalived uses the first 8 of a longer one"),
            false => problem,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::{super::tests::read, *};

    #[test]
    fn passwords() {
        assert!(read("\"s3cret12\"", password).is_ok());
        for text in ["\"\"", "\"123456789\"", "\"a b\"", "\"ä\"", "12345678"] {
            let refused = read(text, password).unwrap_err();
            assert!(!refused.contains("1234"), "{refused}");
        }
    }
}
