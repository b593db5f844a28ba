//! Whole files: those of tests/import with what they become, and files made up by chance.

use std::{collections::BTreeMap, env, io};

use steerd_core::config::Config;

use super::{lines::Place, *};

mod chance;

/// The files, and what their import still needs: keys that the configuration does not know yet, and
/// what is the operator's to do. An entry goes when its key comes; a test holds the two equal.
const NEEDS: [(&str, &[&str]); 0] = [];

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/import")
}

/// The names of the files without their `.conf`.
fn names() -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for entry in fs::read_dir(directory()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "conf") {
            names.push(path.file_stem().unwrap().to_string_lossy().into_owned());
        }
    }
    names.sort();
    names
}

fn imported(name: &str) -> Imported {
    let args = Keepalived {
        file: directory().join(format!("{name}.conf")),
        out: None,
        config_id: Some("zone-a".to_owned()),
        nat_address: match name {
            "nat-director" => vec!["10.20.0.5".parse().unwrap()],
            _ => Vec::new(),
        },
    };
    keepalived(&args, "lb.example.net").unwrap()
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
