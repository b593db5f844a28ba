//! The keepalived.conf files that `steerctl import` is tested with, under keepalived's own eyes: what
//! is tested is the import of files that keepalived takes.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Stdio,
};

use steerd_tests::{
    error::{Context, Result},
    link,
    netns::{Bpffs, Namespace},
};

/// What keepalived may say of them. Each is there to see what the import makes of such a line, or is
/// about this host.
const KNOWN: [&str; 9] = [
    "since not found/accessible",
    "Config files missing 'conf.d/{none,nothing}.conf'",
    "no scheduler set, setting default 'wlc'",
    "protocol specified for fwmark - protocol will be ignored",
    "Truncating auth_pass to 8 characters",
    "nopreempt will not work with initial state MASTER",
    "with no interface specified, not tracking",
    "xmit_base is incompatible with strict mode",
    "tracked interface weight due to SYNC group",
];

/// A host with the interfaces that the files name.
fn host() -> Result<Namespace> {
    let host = Namespace::new(Bpffs::Missing)?;
    host.run(|| {
        for number in 0..3 {
            let (name, far) = (format!("eth{number}"), format!("far{number}"));
            link::add_cable(&name, &far)?;
            link::up(&name)?;
            link::up(&far)?;
        }
        link::add_address("eth0", [10, 1, 0, 10].into(), 16)?;
        link::add_address("eth1", [172, 21, 0, 3].into(), 16)
    })?;
    Ok(host)
}

/// What keepalived's test of a file finds wrong with it.
fn complaints(host: &Namespace, file: &Path) -> Result<Vec<String>> {
    // In a group of its own: 2.2.7 ends its tests of files with tracked programs by killing process 0,
    // which is its whole group.
    let tested = host
        .command("keepalived")
        .args(["--config-test", "--config-id", "zone-a", "--use-file"])
        .arg(file)
        .process_group(0)
        .stdin(Stdio::null())
        .output()
        .context(|| "run keepalived: apt-get install keepalived".into())?;
    let said = [tested.stdout, tested.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let complaint = |line: &&str| !KNOWN.iter().any(|known| line.contains(known));
    Ok(said.lines().filter(complaint).map(str::to_owned).collect())
}

fn files() -> Result<Vec<PathBuf>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../agent/ctl/tests/import");
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).context(|| "list the files".into())? {
        let path = entry.context(|| "list the files".into())?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "conf")
        {
            files.push(path);
        }
    }
    Ok(files)
}

#[test]
fn keepalived_takes_the_files_that_the_import_is_tested_with() -> Result<()> {
    let host = host()?;
    let files = files()?;
    assert!(files.len() >= 12, "{files:?}");
    for file in files {
        let complaints = complaints(&host, &file)?;
        assert!(complaints.is_empty(), "{}: {complaints:#?}", file.display());
    }
    Ok(())
}

#[test]
fn keepalived_complains_of_a_file_with_mistakes() -> Result<()> {
    let host = host()?;
    let directory = tempfile::tempdir().context(|| "make a directory".into())?;
    let file = directory.path().join("keepalived.conf");
    for text in [
        "vrrp_instance V {\n    interface eth0\n    virtual_router_id 1\n    colour red\n}\n",
        "vrrp_instance V {\n    interface eth9\n    virtual_router_id 1\n}\n",
        "vrrp_instance V {\n    interface eth0\n    virtual_router_id 1\n",
    ] {
        fs::write(&file, text).context(|| "write a file".into())?;
        assert!(!complaints(&host, &file)?.is_empty(), "{text}");
    }
    Ok(())
}
