use super::{super::tests::Shelf, *};

/// The lines of `text` in `/k/k.conf`, for the node `main`; those that are aside begin with `-`.
fn read(files: &[(&str, &str)], text: &str) -> (Vec<String>, Vec<String>) {
    let files = Shelf::of(files);
    let main = Main {
        name: "k.conf",
        path: Some(Path::new("/k/k.conf")),
    };
    let read = lines(&files, &main, text.as_bytes(), "main");
    let mark = |line: Line| match line.aside {
        Some(_) => format!("-{}", line.text),
        None => line.text,
    };
    let errors = read.errors.iter().map(ToString::to_string).collect();
    (read.lines.into_iter().map(mark).collect(), errors)
}

#[track_caller]
fn becomes(text: &str, wanted: &[&str]) {
    let (lines, errors) = read(&[], text);
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(lines, wanted, "{text}");
}

#[test]
fn conditions_are_of_this_node() {
    becomes(
        "@main a 1\n@backup a 2\n@^main a 3\n@^backup a 4\n@main",
        &["a 1", "-@backup a 2", "-@^main a 3", "a 4"],
    );
    becomes(
        "$IF=@main\n$IF a 1\n$IF=@other\n$IF a 2",
        &["a 1", "-@other a 2"],
    );
}

#[test]
fn parameters_are_replaced_when_they_are_met() {
    becomes(
        "$BASE=10.2.${SUB}\n$SUB=0\n${BASE}.100/32\n$SUB=10\n${BASE}.100/32",
        &["10.2.0.100/32", "10.2.10.100/32"],
    );
    becomes("$A=1\nx $A y ${A}z $Ab ${B} $", &["x 1 y 1z $Ab ${B} $"]);
    becomes("$A=\nx $A y", &["x  y"]);
    becomes("a ${_HASH}${_BANG} ${_PWD} ${_INSTANCE}", &["a #! /k main"]);
}

#[test]
fn a_definition_may_have_lines_that_define() {
    becomes(
        "$RS= \\\nreal ${N}.${R} { \\\n} \\\n\n$VS= \\\nvirtual $N { \\\n$R=1 \\\n$RS \\\n$R=2 \\\n$RS \\\n}\n$N=7\n$VS",
        &["virtual 7 {", "real 7.1 {", "}", "real 7.2 {", "}", "}"],
    );
    becomes(
        "@main $A= \\\nx \\\ny\n@other $A= \\\nz\n$A",
        &["-@other $A=\nz", "x", "y"],
    );
}

#[test]
fn sequences_count_and_lists_name() {
    becomes("~SEQ(I, 0, 3) a $I", &["a 0", "a 1", "a 2", "a 3"]);
    becomes("~SEQ(I, 2) a $I", &["a 1", "a 2"]);
    becomes("~SEQ(I, -2) a $I", &["a -1", "a -2"]);
    becomes("~SEQ(I, 3, 1) a $I", &["a 3", "a 2", "a 1"]);
    becomes(
        "~SEQx(I, 0x90, 0x10, 0xb0) a:${I}:",
        &["a:90:", "a:a0:", "a:b0:"],
    );
    becomes(
        "~LST({A, B}, {10,1},{20,4}) $A.${B} ${A}",
        &["$A.1 10", "$A.4 20"],
    );
    becomes(
        "~LST(A, x, y) ~SEQ(I, 1, 2) ${A}${I}",
        &["x1", "x2", "y1", "y2"],
    );
    for bad in [
        "~SEQ(I, 0, 0, 3) a",
        "~SEQ(I, x) a",
        "~SEQ(1, 2) a",
        "~SEQ(I, 1",
        "~LST(A) a",
        "~LST({A,B},{1}) a",
    ] {
        let (lines, errors) = read(&[], bad);
        assert!(
            lines.is_empty() && errors.len() == 1,
            "{bad}: {lines:?} {errors:?}"
        );
        assert!(errors[0].starts_with("k.conf:1: ~"), "{errors:?}");
    }
}

#[test]
fn includes_are_seen_from_their_file() {
    let files = [
        ("/k/a/one.conf", "include sub/*.conf\none"),
        ("/k/a/sub/x.conf", "x ${_PWD}"),
        ("/k/a/sub/y.conf", "y"),
        ("/k/a/sub/.hidden.conf", "hidden"),
        ("/etc/z.conf", "z"),
    ];
    let (lines, errors) = read(
        &files,
        "include a/one.conf\nincludea /etc/{z,q}.conf\ninclude none\nlast",
    );
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(
        lines,
        ["x /k/a/sub", "y", "one", "z", "-include none", "last"]
    );
}

#[test]
fn long_lines_are_looked_through_once() {
    for part in [
        "${",
        "$",
        "$a ",
        "{",
        "\\",
        "'\"",
        "a{ ",
        "~LST(A,",
        "include {",
    ] {
        let text = part.repeat(1 << 20);
        let (lines, errors) = read(&[], &text);
        assert!(lines.len() + errors.len() <= 2, "{part}");
    }
    let (lines, errors) = read(&[], &"$A= \\\n".repeat(1 << 18));
    assert!(lines.is_empty() && errors.is_empty());
}

#[test]
fn nothing_goes_round_for_ever() {
    let files = [
        ("/k/a.conf", "include b.conf"),
        ("/k/b.conf", "include a.conf\nb"),
    ];
    let (lines, errors) = read(&files, "include ../k/a.conf\ninclude k.conf\nlast");
    assert_eq!(lines, ["b", "last"]);
    assert_eq!(
        errors,
        [
            "b.conf:1: a.conf includes itself: remove this line",
            "k.conf:2: k.conf includes itself: remove this line"
        ]
    );

    for text in [
        "$A=$A\n$A",
        "$A=${B}${B}\n$B=${A}${A}\nx ${A}",
        "$A= \\\n$A \\\n$A\n$A",
        "~SEQ(I, 1, 9000000000) a $I",
        "~SEQ(I, 1, 999) ~SEQ(J, 1, 999) a $I $J",
        "~SEQ(I, 9223372036854775806, 5, 9223372036854775807) a",
    ] {
        let (lines, errors) = read(&[], text);
        assert!(lines.len() <= MAX_LINES, "{text}");
        assert!(
            errors.len() == 1 || text.contains("9223372036854775807"),
            "{text}: {errors:?}"
        );
    }
    // Nested further than anybody does.
    let names: Vec<String> = (0..30).map(|n| format!("/k/{n}.conf")).collect();
    let texts: Vec<String> = (1..31).map(|n| format!("include {n}.conf")).collect();
    let files: Vec<(&str, &str)> = names
        .iter()
        .zip(&texts)
        .map(|(n, t)| (n.as_str(), t.as_str()))
        .collect();
    let (_, errors) = read(&files, "include 0.conf");
    assert_eq!(
        errors,
        ["14.conf:1: includes are nested more than 16 deep: include the file from a higher one"]
    );
}
