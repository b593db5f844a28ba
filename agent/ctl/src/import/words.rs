//! A line's words: quotes, escapes, braces and comments, as keepalived.conf(5) describes them.

use super::error::Problem;

/// A word, or a brace that stands for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    /// A word, its quotes removed.
    Word(Word),
    /// `{`
    Open,
    /// `}`
    Close,
}

/// A word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Word {
    /// The text without quotes, escapes replaced.
    pub(super) text: String,
    /// Whether any of it was quoted.
    pub(super) quoted: bool,
}

/// The line up to its comment: from `#` or `!` on, unless quoted or escaped.
pub(super) fn without_comment(line: &str) -> &str {
    let mut quote = None;
    let mut characters = line.char_indices();
    while let Some((at, character)) = characters.next() {
        match (character, quote) {
            ('\\', _) => _ = characters.next(),
            ('"' | '\'', None) => quote = Some(character),
            (character, Some(open)) if character == open => quote = None,
            ('#' | '!', None) => return &line[..at],
            _ => {}
        }
    }
    line
}

/// The words and braces of a line without comments.
pub(super) fn tokens(line: &str) -> Result<Vec<Token>, Problem> {
    let mut tokens = Vec::new();
    let mut rest = Characters::of(line);
    while let Some(character) = rest.peek() {
        let alone = rest.second().is_none_or(char::is_whitespace);
        match character {
            _ if character.is_whitespace() => _ = rest.next(),
            '{' if alone => {
                rest.next();
                tokens.push(Token::Open);
            }
            '}' if alone => {
                rest.next();
                tokens.push(Token::Close);
            }
            _ => {
                let (word, opens) = word(&mut rest)?;
                tokens.push(Token::Word(word));
                if opens {
                    tokens.push(Token::Open);
                }
            }
        }
    }
    Ok(tokens)
}

/// The words of a command: those of a quoted one are separated by spaces again, as keepalived does
/// before it runs a script.
pub(super) fn command(words: &[Word]) -> Vec<String> {
    match words {
        [only] if only.quoted => match tokens(&only.text) {
            Ok(tokens) => tokens
                .into_iter()
                .map(|token| match token {
                    Token::Word(word) => word.text,
                    Token::Open => "{".to_owned(),
                    Token::Close => "}".to_owned(),
                })
                .collect(),
            Err(_) => vec![only.text.clone()],
        },
        words => words.iter().map(|word| word.text.clone()).collect(),
    }
}

/// The next word, and whether a brace sticks to it.
fn word(rest: &mut Characters<'_>) -> Result<(Word, bool), Problem> {
    let (mut text, mut quoted, mut open) = (String::new(), false, None);
    while let Some(character) = rest.peek() {
        if open.is_none() && character.is_whitespace() {
            break;
        }
        rest.next();
        match (character, open) {
            ('\\', _) => escape(rest, &mut text),
            ('"' | '\'', None) => {
                open = Some(character);
                quoted = true;
            }
            (character, Some(quote)) if character == quote => open = None,
            // `vrrp_instance VI_1{`
            ('{', None) if !text.ends_with('$') && rest.peek().is_none_or(char::is_whitespace) => {
                return Ok((Word { text, quoted }, true));
            }
            _ => text.push(character),
        }
    }
    match open {
        Some(quote) => Err(Problem::Quote(quote)),
        None => Ok((Word { text, quoted }, false)),
    }
}

/// What follows a backslash.
fn escape(rest: &mut Characters<'_>, text: &mut String) {
    let Some(character) = rest.next() else {
        text.push('\\');
        return;
    };
    let code = match character {
        'a' => Some(7),
        'b' => Some(8),
        'E' => Some(27),
        'f' => Some(12),
        'n' => Some(10),
        'r' => Some(13),
        't' => Some(9),
        'v' => Some(11),
        'c' => rest.next().map(|character| u32::from(character) & 0x1f),
        'x' => Some(rest.number(16, 2, 0)),
        '0'..='7' => Some(rest.number(8, 2, character.to_digit(8).unwrap_or(0))),
        _ => None,
    };
    match code {
        Some(code) => text.extend(char::from_u32(code)),
        None => text.push(character),
    }
}

/// The characters of a line, with a look at the next two.
struct Characters<'a>(std::str::Chars<'a>);

impl<'a> Characters<'a> {
    fn of(line: &'a str) -> Self {
        Self(line.chars())
    }

    fn peek(&self) -> Option<char> {
        self.0.clone().next()
    }

    fn second(&self) -> Option<char> {
        self.0.clone().nth(1)
    }

    fn next(&mut self) -> Option<char> {
        self.0.next()
    }

    /// Up to `most` digits of a number that begins with `number`.
    fn number(&mut self, radix: u32, most: u32, mut number: u32) -> u32 {
        for _ in 0..most {
            let Some(digit) = self.peek().and_then(|character| character.to_digit(radix)) else {
                break;
            };
            self.next();
            number = number * radix + digit;
        }
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        let tokens = tokens(line).unwrap().into_iter();
        tokens
            .map(|token| match token {
                Token::Word(word) => word.text,
                Token::Open => "<".to_owned(),
                Token::Close => ">".to_owned(),
            })
            .collect()
    }

    #[test]
    fn quotes_join_and_escapes_stand_for_characters() {
        for (line, wanted) in [
            (
                r#"abcd "efg h jkl" mnop"#,
                vec!["abcd", "efg h jkl", "mnop"],
            ),
            (r#"a" b c "d"#, vec!["a b c d"]),
            (r#""a 'b' c" 'd "e"'"#, vec!["a 'b' c", "d \"e\""]),
            (r#""\x41\102\t\"\\\d""#, vec!["AB\t\"\\d"]),
            (
                "group { VI_1 VI_2 }",
                vec!["group", "<", "VI_1", "VI_2", ">"],
            ),
            ("vrrp_instance VI_1{", vec!["vrrp_instance", "VI_1", "<"]),
            ("${UNKNOWN}x $ {", vec!["${UNKNOWN}x", "$", "<"]),
            ("a\\", vec!["a\\"]),
        ] {
            assert_eq!(words(line), wanted, "{line}");
        }
        assert_eq!(tokens("a 'b"), Err(Problem::Quote('\'')));
    }

    #[test]
    fn comments_begin_anywhere_but_in_quotes() {
        assert_eq!(without_comment("a # b"), "a ");
        assert_eq!(without_comment("! b"), "");
        assert_eq!(without_comment("a '#' \\# \"!\" !x"), "a '#' \\# \"!\" ");
    }

    #[test]
    fn a_quoted_command_has_words_of_its_own() {
        let of = |line: &str| {
            let words = tokens(line).unwrap().into_iter();
            let words: Vec<Word> = words
                .filter_map(|token| match token {
                    Token::Word(word) => Some(word),
                    Token::Open | Token::Close => None,
                })
                .collect();
            command(&words)
        };
        assert_eq!(of(r#""/bin/a b 'c d'""#), ["/bin/a", "b", "c d"]);
        assert_eq!(of("/bin/a b"), ["/bin/a", "b"]);
    }
}
