//! Whole files: those of tests/import with what they become, and files made up by chance.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
};

use steerd_core::config::Config;

use super::{lines::Place, tree::Node, *};

mod chance;

/// The mistakes that the configuration still finds in what these files become: keys that it does not
/// know yet. An entry goes when its key comes; a test fails where one is left that is known.
const UNKNOWN_YET: [&str; 4] = [
    "unknown key `accept` in [[virtual_router]]",
    "unknown key `routes` in [[virtual_router]]",
    "unknown key `rules` in [[virtual_router]]",
    "unknown key `virtual_mac` in [[virtual_router]]",
];

/// A directory of files that is not on the disk.
#[derive(Debug, Default)]
pub(super) struct Shelf(pub(super) BTreeMap<PathBuf, Vec<u8>>);

impl Shelf {
    pub(super) fn of(files: &[(&str, &str)]) -> Self {
        let file = |&(path, text): &(&str, &str)| (path.into(), text.as_bytes().to_vec());
        Self(files.iter().map(file).collect())
    }
}

impl Files for Shelf {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let found = self.0.get(path).cloned();
        found.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        let below = |path: &PathBuf| {
            let rest = path.strip_prefix(directory).ok()?;
            Some(
                rest.components()
                    .next()?
                    .as_os_str()
                    .to_string_lossy()
                    .into_owned(),
            )
        };
        let names: BTreeSet<String> = self.0.keys().filter_map(below).collect();
        Ok(names.into_iter().collect())
    }

    fn exists(&self, path: &Path) -> bool {
        self.0.keys().any(|known| known.starts_with(path))
    }
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/import")
}

/// The names of the files without their `.conf`.
fn names() -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for entry in fs::read_dir(directory()).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_some_and(|extension| extension == "conf")
        {
            names.push(path.file_stem().unwrap().to_string_lossy().into_owned());
        }
    }
    names.sort();
    names
}

fn arguments(name: &str) -> Keepalived {
    Keepalived {
        file: directory().join(format!("{name}.conf")),
        out: None,
        config_id: Some("zone-a".to_owned()),
        nat_address: match name {
            "nat-director" => vec!["10.20.0.5".parse().unwrap()],
            _ => Vec::new(),
        },
    }
}

fn imported(name: &str) -> Imported {
    keepalived(&arguments(name), "lb.example.net").unwrap()
}

/// What `text` becomes, which has no includes.
fn of(text: &str) -> Imported {
    let main = Main {
        name: "k.conf",
        path: None,
    };
    import(
        &Shelf::default(),
        &main,
        text.as_bytes(),
        "here",
        &Given::default(),
    )
    .unwrap()
}

/// The mistakes of a steerd.toml.
fn mistakes(text: &str) -> Vec<String> {
    match Config::parse("steerd.toml", text, "host") {
        Ok(_) => Vec::new(),
        Err(errors) => errors
            .mistakes()
            .iter()
            .map(|mistake| mistake.message.clone())
            .collect(),
    }
}

/// Asserts that the output mentions every line that was not translated, and that no statement is
/// without an account.
fn nothing_is_lost(imported: &Imported) {
    assert_eq!(
        imported.account.unseen(),
        Vec::<usize>::new(),
        "{}",
        imported.text
    );
    let comments = mentioned(&imported.text);
    fn every(nodes: &[Node], visit: &mut impl FnMut(&Node)) {
        for node in nodes {
            visit(node);
            every(node.all(), visit);
        }
    }
    let mut lines = BTreeSet::new();
    every(&imported.tree.nodes, &mut |node| {
        lines.insert(node.place);
        let name = &imported.tree.names[node.place.file];
        let mentioned = comments.contains(&(name.clone(), node.place.line));
        assert!(
            mentioned || !imported.account.is_left(node),
            "{name}: {}: {}",
            node.text,
            imported.text
        );
    });
    assert_eq!(imported.sum.translated + imported.sum.left, lines.len());
}

/// The files and lines that comments begin with: `# file:1, 2, other:3: ...`
fn mentioned(text: &str) -> BTreeSet<(String, u32)> {
    let mut found = BTreeSet::new();
    for line in text.lines() {
        let Some(comment) = line.strip_prefix("# ") else {
            continue;
        };
        let mut file = String::new();
        let mut rest = comment;
        loop {
            if let Some((name, after)) = rest.split_once(':')
                && after.starts_with(|c: char| c.is_ascii_digit())
                && !name.contains(' ')
            {
                file = name.to_owned();
                rest = after;
            }
            let end = rest
                .find(|c: char| !c.is_ascii_digit())
                .unwrap_or(rest.len());
            let Ok(number) = rest[..end].parse() else {
                break;
            };
            found.insert((file.clone(), number));
            rest = rest[end..].strip_prefix(", ").unwrap_or("");
            // The list may go on in the next line; the tests' lists do not.
        }
    }
    found
}

#[test]
fn files_become_what_is_beside_them() {
    // Write them anew: UPDATE_GOLDEN=1 cargo test -p steerctl files_become
    let update = env::var_os("UPDATE_GOLDEN").is_some();
    let names = names();
    assert!(names.len() >= 12, "{names:?}");
    for name in names {
        let path = directory().join(format!("{name}.toml"));
        let text = imported(&name).text;
        if update {
            fs::write(&path, &text).unwrap();
        }
        let wanted = fs::read_to_string(&path).unwrap_or_default();
        assert!(text == wanted, "{name}: {text}");
    }
}

#[test]
fn what_files_become_is_a_configuration() {
    let mut found = BTreeSet::new();
    for name in names() {
        for mistake in mistakes(&imported(&name).text) {
            assert!(UNKNOWN_YET.contains(&mistake.as_str()), "{name}: {mistake}");
            found.insert(mistake);
        }
    }
    let known: Vec<_> = UNKNOWN_YET
        .iter()
        .filter(|key| !found.contains(**key))
        .collect();
    assert!(
        known.is_empty(),
        "the configuration knows these by now: remove them here: {known:#?}"
    );
}

#[test]
fn no_line_of_the_files_is_lost() {
    for name in names() {
        nothing_is_lost(&imported(&name));
    }
}

#[test]
fn mentioned_lines_are_found() {
    let found = mentioned("# a.conf:1, 2, b/c.conf:3: x: y\n#   1\n# To do first:\na = 1\n");
    let of = |name: &str, line| (name.to_owned(), line);
    assert_eq!(
        found,
        [of("a.conf", 1), of("a.conf", 2), of("b/c.conf", 3)].into()
    );
}

#[test]
fn what_differs_in_meaning_is_said() {
    let instance = "interface eth0\nvirtual_router_id 1\nvirtual_ipaddress {\n10.0.0.1/24\n}\n";
    for (lines, wanted) in [
        // keepalived 2.2.7 says: nopreempt will not work with initial state MASTER - clearing
        (
            "state MASTER\nnopreempt\npriority 90",
            "k.conf:3: nopreempt: keepalived ignores it beside `state MASTER`",
        ),
        ("state MASTER", "priority = 255"),
        ("", "priority = 100"),
        ("advert_int 1.4", "advert_interval = \"1s\""),
        ("version 3\nadvert_int 1.4", "advert_interval = \"1400ms\""),
        ("version 3\nadvert_int 0.001", "advert_interval = \"10ms\""),
        (
            "version 3\nauthentication {\nauth_type PASS\nauth_pass x\n}",
            "VRRPv3 has no authentication",
        ),
        (
            "nopreempt\npreempt_delay 9",
            "without preemption there is nothing to delay",
        ),
        ("preempt_delay 0.5", "preempt_delay = \"500ms\""),
        (
            "priority 255\npreempt_delay 9",
            "the owner of the addresses takes them at once",
        ),
        (
            "priority 255\nnopreempt",
            "the owner of the addresses always takes them",
        ),
        ("unicast_ttl 64", "multicast adverts have a TTL of 255"),
        ("advert_int 300", "advert_interval = \"40s\""),
        ("authentication {\nauth_pass \"a b\"\n}", "visible ASCII"),
        ("accept", "accept = true"),
        (
            "unicast_src_ip 10.0.0.2\nunicast_peer {\n10.0.0.2\n10.0.0.3\n}",
            "peers = [\"10.0.0.3\"]",
        ),
        ("unicast_peer {\n10.0.0.3 min_ttl 250\n}", "min_ttl = 250"),
        ("unicast_ttl 64\nunicast_peer {\n10.0.0.3\n}", "ttl = 64"),
        (
            "priority much",
            "k.conf:2: priority much: its value cannot be used here",
        ),
        (
            "colour red",
            "k.conf:2: colour red: not known to this import",
        ),
    ] {
        let text = format!("vrrp_instance V {{\n{lines}\n{instance}}}\n");
        let imported = of(&text);
        assert!(imported.text.contains(wanted), "{lines}: {}", imported.text);
        nothing_is_lost(&imported);
    }
}

#[test]
fn a_group_of_routers_that_differ_stands_as_a_comment() {
    let instance = |n: u8, more: &str| {
        format!(
            "vrrp_instance V{n} {{\ninterface eth0\nvirtual_router_id {n}\nvirtual_ipaddress {{\n10.0.0.{n}/24\n}}\n{more}\n}}\n"
        )
    };
    let group = "vrrp_sync_group G {\ngroup {\nV1\nV2\n}\n}\n";
    for (more, wanted) in [
        (
            "",
            "\n[[sync_group]]\nname = \"G\"\nvirtual_routers = [\"V1\", \"V2\"]\n",
        ),
        ("priority 90", "# They differ in `priority`"),
        ("nopreempt", "# They differ in `preempt`"),
        ("garp_master_refresh 60", "# They differ in `announce`"),
        ("garp_master_refresh 60", "announce = { refresh = \"1m\" }"),
    ] {
        let imported = of(&format!("{}{}{group}", instance(1, ""), instance(2, more)));
        assert!(imported.text.contains(wanted), "{more}: {}", imported.text);
        nothing_is_lost(&imported);
    }
}

#[test]
fn what_cannot_be_used_stands_as_a_comment() {
    for (text, wanted) in [
        (
            "vrrp_instance V {\ninterface eth0\nvirtual_router_id 1\n}",
            "# It has no virtual address",
        ),
        (
            "vrrp_instance V {\ninterface eth0\nvirtual_ipaddress {\n10.0.0.1\n}\n}",
            "# It has no virtual_router_id",
        ),
        (
            "virtual_server 10.0.0.1 80 {\nreal_server 10.0.0.2 80 {\n}\n}",
            "# No virtual router holds 10.0.0.1",
        ),
        (
            "virtual_server 10.0.0.1 80 {\nprotocol SCTP\n}",
            "services of TCP and UDP only",
        ),
        (
            "virtual_server group G {\n}",
            "no virtual_server_group of this name",
        ),
    ] {
        let imported = of(text);
        assert!(imported.text.contains(wanted), "{text}: {}", imported.text);
        assert!(
            imported.text.contains("Add a [[virtual_router]]"),
            "{}",
            imported.text
        );
        // Nothing but that there is nothing.
        let left = mistakes(&imported.text);
        assert_eq!(
            left,
            ["no virtual router: there is no address to keep"],
            "{}",
            imported.text
        );
        nothing_is_lost(&imported);
    }
}

#[test]
fn a_file_that_is_there_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("steerd.toml");
    let args = Keepalived {
        out: Some(out.clone()),
        ..arguments("game-pair")
    };
    keepalived(&args, "host").unwrap();
    let text = fs::read_to_string(&out).unwrap();
    assert_eq!(text, imported("game-pair").text);
    // It has a password.
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(
        fs::metadata(&out).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let error = keepalived(&args, "host").unwrap_err();
    assert_eq!(error.exit_code(), 1);
    assert!(error.to_string().contains("is there already"), "{error}");
}

#[test]
fn what_cannot_be_read_is_told_with_its_place() {
    let missing = Keepalived {
        file: "/nonexistent/keepalived.conf".into(),
        ..arguments("")
    };
    let error = keepalived(&missing, "host").unwrap_err();
    assert_eq!(error.exit_code(), 1);
    let files = Shelf::of(&[("/k/conf.d/a.conf", "vrrp_instance V {\n")]);
    let main = Main {
        name: "k.conf",
        path: Some(Path::new("/k/k.conf")),
    };
    let errors = import(
        &files,
        &main,
        b"\ninclude conf.d/*.conf\n",
        "x",
        &Given::default(),
    )
    .unwrap_err();
    let wanted = "conf.d/a.conf:1: the block that begins here is not closed: add its `}`";
    assert_eq!(errors.to_string(), wanted);
    assert_eq!(ImportError::from(errors).exit_code(), 2);
}

#[test]
fn the_example_of_the_documentation_is_true() {
    let documentation = include_str!("../../../../docs/migration.md");
    let block = |language: &str| {
        let (_, after) = documentation
            .split_once(&format!("```{language}\n"))
            .unwrap();
        after.split_once("```").unwrap().0
    };
    let main = Main {
        name: "keepalived.conf",
        path: None,
    };
    let text = block("text").as_bytes();
    let imported = import(&Shelf::default(), &main, text, "here", &Given::default()).unwrap();
    assert_eq!(imported.text, block("toml"));
}

#[test]
fn the_sum_is_a_sentence() {
    let sum = |translated, left| Sum { translated, left }.to_string();
    assert_eq!(sum(17, 2), "17 lines translated, 2 left as comments");
    assert_eq!(sum(1, 1), "1 line translated, 1 left as a comment");
}

#[test]
fn a_place_is_ordered_by_file_and_line() {
    let place = |file, line| Place { file, line };
    assert!(place(0, 9) < place(1, 1) && place(1, 1) < place(1, 2));
}
