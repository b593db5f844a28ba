//! What is steerd's in the directory of pins, and what is not.

use std::fs;

use super::*;
use crate::io::dataplane::pins;

#[test]
fn unloading_leaves_what_others_pinned() {
    with_bpffs(|bpffs| {
        let plane = plane(bpffs);
        let config = plane.config.clone();
        let pinned = |name: &str| config.bpf_dir.join(name);
        assert!(pinned(abi::PIN_DIR).join("FLOWS4").exists());
        // A file system of this kind holds pins, links and directories.
        for name in ["cilium", "v1", "vault", "v0/CONTROL"] {
            fs::create_dir_all(pinned(name)).unwrap();
        }
        let maps = Arc::clone(&plane.maps);
        drop(plane);
        assert!(unload(&config).is_ok());
        for name in ["cilium", "v1", "vault"] {
            assert!(pinned(name).exists(), "{name} is another program's");
        }
        for name in [abi::PIN_DIR, "v0"] {
            assert!(!pinned(name).exists(), "{name} is steerd's");
        }
        for name in ["cilium", "v1", "vault"] {
            fs::remove_dir(pinned(name)).unwrap();
        }
        assert!(!unload(&config).unwrap(), "nothing was left");
        assert!(!config.bpf_dir.exists(), "nobody's any more");
        drop(maps);
    });
}

#[test]
fn a_whole_file_system_is_refused() {
    with_bpffs(|bpffs| {
        let theirs = bpffs.join("theirs");
        fs::create_dir(&theirs).unwrap();
        let config = Config {
            bpf_dir: bpffs.to_owned(),
            ..plane(bpffs).config.clone()
        };
        let refusal = Dataplane::open(&config)
            .err()
            .map(|error| error.to_string());
        let refusal = refusal.expect("it is not steerd's alone");
        assert!(
            refusal.contains("other programs keep their pins"),
            "{refusal}"
        );
        assert!(
            theirs.exists(),
            "a start that is refused removes nothing of others"
        );
        assert!(pins::check(&bpffs.join("steerd")).is_ok());
        let elsewhere = pins::check(Path::new("/tmp/steerd")).unwrap_err();
        assert!(
            elsewhere.to_string().contains("not on a bpffs"),
            "{elsewhere}"
        );
    });
}
