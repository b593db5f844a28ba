//! Files made up by chance: parts of real ones cut, joined and spoilt.

use proptest::prelude::*;

use super::*;

/// What the configuration may find wrong with an import: what the operator was told to do first, or a
/// key that it does not know yet.
fn expected(mistake: &str) -> bool {
    const ON_ITS_OWN: [&str; 2] = [
        "no virtual router: there is no address to keep",
        "mode \"nat\" needs an ",
    ];
    UNKNOWN_YET.contains(&mistake) || ON_ITS_OWN.iter().any(|known| mistake.starts_with(known))
}

/// All lines of all files.
fn lines() -> Vec<String> {
    let mut lines = Vec::new();
    for directory in [directory(), directory().join("conf.d")] {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path
                .extension()
                .is_some_and(|extension| extension == "conf")
            {
                let text = fs::read_to_string(path).unwrap();
                lines.extend(text.lines().map(str::to_owned));
            }
        }
    }
    lines
}

/// How a file is spoilt.
#[derive(Debug, Clone)]
enum Spoil {
    Remove(usize),
    Repeat(usize, usize),
    Swap(usize, usize),
    Insert(usize, usize),
    Word(usize, usize, String),
    Byte(usize, u8),
}

fn spoil() -> impl Strategy<Value = Spoil> {
    let at = || any::<usize>();
    let word = prop_oneof![
        "[ -~]{0,12}",
        (0_u32..70_000).prop_map(|number| number.to_string()),
        Just("0".to_owned()),
        Just("-1".to_owned()),
        Just("99999999999999999999".to_owned()),
        Just("fe80::1".to_owned()),
        Just("10.0.0.1/24".to_owned()),
        Just("127.0.0.1".to_owned()),
        Just("::".to_owned()),
        Just("\u{1b}[31m".to_owned()),
    ];
    prop_oneof![
        at().prop_map(Spoil::Remove),
        (at(), at()).prop_map(|(a, b)| Spoil::Repeat(a, b)),
        (at(), at()).prop_map(|(a, b)| Spoil::Swap(a, b)),
        (at(), at()).prop_map(|(a, b)| Spoil::Insert(a, b)),
        (at(), at(), word).prop_map(|(a, b, word)| Spoil::Word(a, b, word)),
        (at(), any::<u8>()).prop_map(|(a, byte)| Spoil::Byte(a, byte)),
    ]
}

/// The bytes of a file that was spoilt; where its words alone were, its blocks still close.
fn spoilt(text: &str, spoils: &[Spoil], all: &[String]) -> Vec<u8> {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let mut bytes = Vec::new();
    for spoil in spoils {
        let count = lines.len().max(1);
        match spoil {
            Spoil::Remove(at) if !lines.is_empty() => _ = lines.remove(at % count),
            Spoil::Repeat(from, to) if !lines.is_empty() => {
                let line = lines[from % count].clone();
                lines.insert(to % count, line);
            }
            Spoil::Swap(a, b) if !lines.is_empty() => lines.swap(a % count, b % count),
            Spoil::Insert(from, to) => lines.insert(to % count, all[from % all.len()].clone()),
            Spoil::Word(at, place, word) if !lines.is_empty() => {
                let mut words: Vec<&str> = lines[at % count].split(' ').collect();
                let place = place % words.len();
                if !["{", "}"].contains(&words[place]) {
                    words[place] = word;
                }
                lines[at % count] = words.join(" ");
            }
            Spoil::Byte(at, byte) => bytes.push((*at, *byte)),
            _ => {}
        }
    }
    let mut text = lines.join("\n").into_bytes();
    for (at, byte) in bytes {
        if !text.is_empty() {
            let at = at % text.len();
            text[at] = byte;
        }
    }
    text
}

/// Imports the bytes. A file with a mistake is refused with its place; any other is accounted for
/// wholly, and becomes a configuration.
fn holds(bytes: &[u8]) {
    let path = directory().join("chance.conf");
    let main = Main {
        name: "chance.conf",
        path: Some(&path),
    };
    match import(&Disk, &main, bytes, "zone-a", &Given::default()) {
        Err(errors) => {
            assert!(!errors.0.is_empty() && errors.0.iter().all(|error| error.line > 0));
        }
        Ok(imported) => {
            assert_eq!(
                imported.account.unseen(),
                Vec::<usize>::new(),
                "{}",
                imported.text
            );
            for mistake in mistakes(&imported.text) {
                assert!(expected(&mistake), "{mistake}: {}", imported.text);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_spoilt_file_is_refused_or_translated_whole(
        name in prop::sample::select(names()),
        spoils in prop::collection::vec(spoil(), 1..12),
    ) {
        let text = fs::read_to_string(directory().join(format!("{name}.conf"))).unwrap();
        holds(&spoilt(&text, &spoils, &lines()));
    }

    #[test]
    fn lines_in_any_order_are_refused_or_translated(
        picked in prop::collection::vec(prop::sample::select(lines()), 0..80),
    ) {
        holds(picked.join("\n").as_bytes());
    }

    #[test]
    fn any_bytes_are_refused_or_translated(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        text in "[a-z$~@{}()\"'\\\\#!=,0-9 \n]{0,200}",
    ) {
        holds(&bytes);
        holds(text.as_bytes());
    }
}
