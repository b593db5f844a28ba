//! What a node tracks moves the addresses, and back: real scripts, files, processes, interfaces and
//! gateways.

#![allow(clippy::expect_used)] // tests may panic

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::sys::signal::Signal;
use steerd_core::{
    api::{Status, TrackState, TrackStatus},
    vrrp::election::Role,
};
use steerd_tests::{
    config::{NodeConfig, Settings},
    dir::Dir,
    error::{Context, Result},
    lab::{Lab, Options},
    link, netns,
    node::NodeId::{Backup, Primary},
    process::{self, Process},
    switch::{Host, HostSpec, INTERFACE},
};
use toml::{Table, Value};

use crate::lab;

const FAST: Options = Options::new(Settings::Fast);

/// A host that is asked whether it is there.
const GATEWAY: HostSpec = HostSpec {
    name: "gateway",
    number: 1,
};

/// Has the first virtual router track these, and no others. Each is the text of its table.
fn set_tracks(config: &mut NodeConfig, tracks: &[(&str, String)]) -> Result<()> {
    let names: Vec<Value> = tracks.iter().map(|(name, _)| (*name).into()).collect();
    for router in config.array("virtual_router")? {
        router.insert("track".into(), Value::Array(names.clone()));
    }
    for (name, text) in tracks {
        let table: Table = text.parse().expect("a table");
        config.set("track", name, table)?;
    }
    Ok(())
}

/// A lab in which the primary tracks these and is in charge. On the backup nothing is tracked.
fn tracking(tracks: &[(&str, String)]) -> Result<Lab> {
    let mut lab = lab(FAST)?;
    lab.configure(Primary, |config| set_tracks(config, tracks))?;
    lab.start(Primary)?;
    lab.start(Backup)?;
    lab.until_master(Primary)?;
    Ok(lab)
}

fn track<'s>(status: &'s Status, name: &str) -> &'s TrackStatus {
    let mut tracks = status.tracks.iter();
    tracks
        .find(|track| track.name.as_str() == name)
        .expect("it is tracked")
}

/// Waits until a track of the primary is in this state, and says what was seen.
fn until_track(lab: &mut Lab, name: &str, state: TrackState) -> Result<String> {
    let mut seen = String::new();
    lab.until_status(Primary, &format!("track {name} {state:?}"), |status| {
        let track = track(status, name);
        seen.clone_from(&track.last);
        track.state == state
    })?;
    Ok(seen)
}

/// Waits until the primary has this role and this priority.
fn until_primary(lab: &mut Lab, role: Role, priority: u8) -> Result<()> {
    let what = format!("{role} with priority {priority}");
    lab.until_status(Primary, &what, |status| {
        let router = &status.virtual_routers[0];
        router.role == role && router.effective_priority == priority
    })
}

/// The processes that have this word among their arguments.
fn processes(word: &str) -> Vec<PathBuf> {
    let all = fs::read_dir("/proc").expect("processes").flatten();
    let has = |path: &PathBuf| {
        let arguments = fs::read(path.join("cmdline")).unwrap_or_default();
        let mut arguments = arguments.split(|byte| *byte == 0);
        arguments.any(|argument| String::from_utf8_lossy(argument).contains(word))
    };
    all.map(|entry| entry.path()).filter(has).collect()
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).context(|| format!("write {}", path.display()))
}

fn remove(path: &Path) -> Result<()> {
    fs::remove_file(path).context(|| format!("remove {}", path.display()))
}

fn script(shell: &str, keys: &str) -> String {
    let shell = Value::from(shell);
    format!("kind = \"script\"\nargv = [\"/bin/sh\", \"-c\", {shell}]\n{keys}\n")
}

#[test]
fn a_script_that_fails_is_a_fault_and_one_with_a_weight_moves_too() -> Result<()> {
    let dir = Dir::new()?;
    let (flag, light) = (dir.path().join("fails"), dir.path().join("light"));
    let pace = "interval = \"100ms\"\nrise = 2\nfall = 2";
    let fails = format!(
        "echo first; if test -e {}; then echo not well >&2; exit 3; fi",
        flag.display()
    );
    let mut lab = tracking(&[
        ("fails", script(&fails, pace)),
        (
            "light",
            script(
                &format!("exec /usr/bin/test ! -e {}", light.display()),
                &format!("{pace}\nweight = -20"),
            ),
        ),
    ])?;
    assert_eq!(until_track(&mut lab, "fails", TrackState::Good)?, "first");
    write(&flag, "")?;
    lab.until_master(Backup)?;
    let seen = until_track(&mut lab, "fails", TrackState::Bad)?;
    assert_eq!(seen, "exit code 3: not well");
    let router = lab.status(Primary)?.virtual_routers.remove(0);
    assert_eq!(router.role, Role::Fault);
    assert_eq!(router.cause, "track fails: exit code 3: not well");
    remove(&flag)?;
    lab.until_master(Primary)?;

    write(&light, "")?;
    lab.until_master(Backup)?;
    until_primary(&mut lab, Role::Backup, 90)?;
    let router = lab.status(Primary)?.virtual_routers.remove(0);
    assert_eq!((router.priority, router.weightings.len()), (110, 1));
    assert_eq!(router.weightings[0].adds, -20);
    remove(&light)?;
    lab.until_master(Primary)?;
    until_primary(&mut lab, Role::Master, 110)
}

/// It holds a lock for as long as anything of it lives, and forks a child that ignores what it can: so
/// a run that began while anything of the last one was alive would find the lock taken.
#[test]
fn a_script_that_hangs_is_killed_with_its_children_and_never_overlaps() -> Result<()> {
    let dir = Dir::new()?;
    let at = |name: &str| dir.path().join(name).display().to_string();
    let (hang, lock, runs, overlaps) = (at("hang"), at("lock"), at("runs"), at("overlaps"));
    let shell = format!(
        "exec 9>{lock}; flock -n 9 || echo overlap >>{overlaps}; echo run >>{runs}; \
         trap '' TERM INT HUP; (trap '' TERM INT HUP; exec sleep 4711) & \
         test ! -e {hang} || {{ echo stuck; wait; }}"
    );
    let pace = "interval = \"200ms\"\ntimeout = \"200ms\"\nfall = 2\nrise = 2";
    let mut lab = tracking(&[("hangs", script(&shell, pace))])?;
    write(Path::new(&hang), "")?;
    lab.until_master(Backup)?;
    let seen = until_track(&mut lab, "hangs", TrackState::Bad)?;
    assert_eq!(seen, "did not end within 200ms: stuck");
    let count = || {
        fs::read_to_string(&runs)
            .unwrap_or_default()
            .lines()
            .count()
    };
    let before = count();
    lab.until("ten more runs", |_| Ok(count() >= before + 10))?;
    remove(Path::new(&hang))?;
    lab.until_master(Primary)?;
    assert!(!Path::new(&overlaps).exists(), "two runs at a time");
    // Those that ended by themselves left their child, too.
    let before = count();
    lab.until("ten more runs", |_| Ok(count() >= before + 10))?;
    assert!(!Path::new(&overlaps).exists(), "two runs at a time");
    lab.stop_daemon(Primary)?;
    let word = dir.path().display().to_string();
    lab.until("nothing left", |_| Ok(processes(&word).is_empty()))?;
    assert_eq!(processes("4711").len(), 0, "{:?}", processes("4711"));
    Ok(())
}

#[test]
fn a_daemon_that_dies_takes_its_script_along() -> Result<()> {
    let dir = Dir::new()?;
    let started = dir.path().join("started").display().to_string();
    let shell = format!("echo >{started}; while :; do sleep 0.1; done");
    let pace = "interval = \"1h\"\ntimeout = \"1h\"\nweight = 5";
    let mut lab = tracking(&[("long", script(&shell, pace))])?;
    let count = || processes(&started).len();
    for killed in [true, false] {
        lab.until("the script", |_| {
            Ok(count() == 1 && Path::new(&started).exists())
        })?;
        match killed {
            true => lab.kill_daemon(Primary)?,
            false => lab.stop_daemon(Primary)?,
        }
        lab.until("its end", |_| Ok(count() == 0))?;
        if killed {
            remove(Path::new(&started))?;
            lab.start_daemon(Primary)?;
        }
    }
    Ok(())
}

#[test]
fn a_script_has_no_powers_and_a_small_environment() -> Result<()> {
    let dir = Dir::new()?;
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777))
        .context(|| "open the directory".into())?;
    let tell = |name: &str| {
        let at = dir.path().join(name).display().to_string();
        let shell = format!(
            "{{ /usr/bin/env; /bin/cat /proc/self/status; echo stat: $(/bin/cat /proc/self/stat); \
             echo oom: $(/bin/cat /proc/self/oom_score_adj); pwd; umask; \
             echo fds: $(ls /proc/self/fd); echo bad: \"$0\" \"$1\"; }} >{at}.new; mv {at}.new {at}"
        );
        let shell = Value::from(shell.as_str());
        // Nothing here is for a shell to read.
        format!("kind = \"script\"\nargv = [\"/bin/sh\", \"-c\", {shell}, \"$HOME;\", \"a b\"]\n")
    };
    let mut lab = tracking(&[
        ("plain", tell("plain")),
        ("other", format!("{}user = \"nobody\"\n", tell("other"))),
        (
            "unknown",
            script("true", "user = \"nobody-at-all\"\nweight = 1"),
        ),
        (
            "missing",
            "kind = \"script\"\nargv = [\"/nonexistent\"]\nweight = 1".into(),
        ),
    ])?;
    for (name, uid, variables) in [
        ("plain", "0", vec!["LANG", "PATH", "PWD", "STEERD_TRACK"]),
        (
            "other",
            "65534",
            vec![
                "HOME",
                "LANG",
                "LOGNAME",
                "PATH",
                "PWD",
                "STEERD_TRACK",
                "USER",
            ],
        ),
    ] {
        until_track(&mut lab, name, TrackState::Good)?;
        let path = dir.path().join(name);
        let told = fs::read_to_string(&path).context(|| format!("read {}", path.display()))?;
        let field = |name: &str| {
            let line = told.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_else(|| panic!("no {name} in {told}"))
                .split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
            assert_eq!(field(set), ["0000000000000000"], "{set} of {name}");
        }
        assert_eq!(field("NoNewPrivs:"), ["1"]);
        assert_eq!(field("Uid:"), [uid; 4]);
        assert_eq!(field("oom:"), ["0"]);
        // The last is the directory that ls reads.
        assert_eq!(field("fds:"), ["0", "1", "2", "3"], "{name}");
        assert_eq!(field("bad:"), ["$HOME;", "a", "b"]);
        // proc(5): the real-time priority is field 40, the policy field 41.
        assert_eq!(field("stat:")[39..41], ["0", "0"]);
        assert!(told.contains("\n/\n0022\n"), "{told}");
        let mut env: Vec<&str> = told
            .lines()
            .take_while(|line| !line.starts_with("Name:"))
            .filter_map(|line| line.split_once('=').map(|(name, _)| name))
            .filter(|name| *name != "_")
            .collect();
        env.sort_unstable();
        env.retain(|variable| !["OLDPWD", "SHLVL"].contains(variable));
        assert_eq!(env, variables, "{told}");
    }
    let seen = until_track(&mut lab, "unknown", TrackState::Bad)?;
    assert!(seen.contains("exit code 125"), "{seen}");
    assert!(seen.contains("no such user"), "{seen}");
    let seen = until_track(&mut lab, "missing", TrackState::Bad)?;
    assert!(seen.contains("exit code 127"), "{seen}");
    Ok(())
}

#[test]
fn files_are_weights_and_faults() -> Result<()> {
    let dir = Dir::new()?;
    let (weight, stop) = (dir.path().join("weight"), dir.path().join("deep/er/stop"));
    let file = |path: &Path, expect: &str| {
        format!(
            "kind = \"file\"\npath = \"{}\"\nexpect = \"{expect}\"",
            path.display()
        )
    };
    let mut lab = tracking(&[
        ("weight", file(&weight, "number")),
        ("stop", file(&stop, "absent")),
    ])?;
    let seen = until_track(&mut lab, "weight", TrackState::Bad)?;
    assert_eq!(seen, "the file is not there");
    until_primary(&mut lab, Role::Master, 110)?;
    write(&weight, "-20\n")?;
    lab.until_master(Backup)?;
    until_primary(&mut lab, Role::Backup, 90)?;
    // As editors do it.
    let new = dir.path().join("weight.new");
    write(&new, "+7")?;
    fs::rename(&new, &weight).context(|| "rename".into())?;
    lab.until_master(Primary)?;
    until_primary(&mut lab, Role::Master, 117)?;
    write(&weight, "-9999999")?;
    until_primary(&mut lab, Role::Backup, 1)?;
    remove(&weight)?;
    until_primary(&mut lab, Role::Master, 110)?;

    // In a directory that does not exist yet, nor the one above it.
    fs::create_dir_all(dir.path().join("deep/er")).context(|| "make directories".into())?;
    write(&stop, "")?;
    lab.until_master(Backup)?;
    until_primary(&mut lab, Role::Fault, 110)?;
    fs::remove_dir_all(dir.path().join("deep")).context(|| "remove directories".into())?;
    lab.until_master(Primary)
}

#[test]
fn processes_are_weights_and_faults() -> Result<()> {
    let dir = Dir::new()?;
    // A name of its own, longer than the kernel keeps.
    let name = format!("steerd-e2e-{}", std::process::id() + 10_000_000);
    let program = dir.path().join(&name);
    fs::copy("/bin/sleep", &program).context(|| "copy sleep".into())?;
    let start = |host: &Host| {
        let mut command = host.namespace.command(&program);
        command.arg("1000");
        Process::start("a process", command, dir.path().join("process.log"))
    };
    let process = |keys: &str| {
        format!("kind = \"process\"\nprocess = \"{name}\"\ninterval = \"200ms\"\n{keys}\n")
    };
    let mut lab = lab(FAST)?;
    let client = |lab: &Lab| start(lab.client());
    let (mut first, mut second) = (client(&lab)?, client(&lab)?);
    let tracks = [
        ("one", process("")),
        ("two", process("at_least = 2\nweight = -20")),
    ];
    lab.configure(Primary, |config| set_tracks(config, &tracks))?;
    lab.start(Primary)?;
    lab.start(Backup)?;
    lab.until_master(Primary)?;
    until_primary(&mut lab, Role::Master, 110)?;
    first.kill()?;
    lab.until_master(Backup)?;
    until_primary(&mut lab, Role::Backup, 90)?;
    let seen = until_track(&mut lab, "two", TrackState::Bad)?;
    assert_eq!(seen, "1 processes, 2 wanted");
    second.kill()?;
    until_primary(&mut lab, Role::Fault, 90)?;
    let mut again = client(&lab)?;
    until_primary(&mut lab, Role::Backup, 90)?;
    let _second = client(&lab)?;
    lab.until_master(Primary)?;
    // One that has ended but was not waited for is none.
    again.signal(Signal::SIGKILL)?;
    lab.until_master(Backup)?;
    again.kill()
}

#[test]
fn an_interface_that_loses_its_link_is_a_weight_or_a_fault() -> Result<()> {
    let interface = |keys: &str| format!("kind = \"interface\"\ninterface = \"up0\"\n{keys}\n");
    let mut lab = lab(FAST)?;
    let host = lab.node(Primary)?.host.namespace.clone();
    host.run(|| {
        link::add_cable("up0", "up1")?;
        link::up("up0")?;
        link::up("up1")
    })?;
    let weighs = [("up", interface("weight = -20"))];
    lab.configure(Primary, |config| set_tracks(config, &weighs))?;
    lab.start(Primary)?;
    lab.start(Backup)?;
    lab.until_master(Primary)?;
    // It loses carrier.
    host.run(|| link::down("up1"))?;
    lab.until_master(Backup)?;
    until_primary(&mut lab, Role::Backup, 90)?;
    let seen = until_track(&mut lab, "up", TrackState::Bad)?;
    assert_eq!(seen, "interface up0 is down");
    host.run(|| link::up("up1"))?;
    lab.until_master(Primary)?;

    // As a fault, with time to settle.
    let faulty = [(
        "up",
        interface("debounce_up = \"1s\"\ndebounce_down = \"300ms\""),
    )];
    lab.reload(Primary, |config| set_tracks(config, &faulty))?;
    lab.until_status(Primary, "a fault track", |status| track(status, "up").fault)?;
    host.run(|| link::down("up1"))?;
    until_track(&mut lab, "up", TrackState::Failing)?;
    host.run(|| link::up("up1"))?;
    until_track(&mut lab, "up", TrackState::Good)?;
    until_primary(&mut lab, Role::Master, 110)?;
    host.run(|| link::remove("up0"))?;
    lab.until_master(Backup)?;
    let seen = until_track(&mut lab, "up", TrackState::Bad)?;
    assert_eq!(seen, "there is no interface up0");
    until_primary(&mut lab, Role::Fault, 110)?;
    host.run(|| {
        link::add_cable("up0", "up1")?;
        link::up("up0")?;
        link::up("up1")
    })?;
    until_track(&mut lab, "up", TrackState::Rising)?;
    lab.until_master(Primary)
}

/// The kernel's neighbour tables go on saying that they are there: what counts is an answer.
#[test]
fn a_gateway_that_stops_answering_is_a_weight_or_a_fault() -> Result<()> {
    let pace = "interval = \"200ms\"\nfall = 2\nrise = 2";
    let gateway = |address: &str, keys: &str| {
        format!("kind = \"gateway\"\naddress = \"{address}\"\n{pace}\n{keys}\n")
    };
    let (v4, v6) = (GATEWAY.v4().to_string(), GATEWAY.v6().to_string());
    let mut lab = lab(FAST)?;
    let host = lab.plug(GATEWAY)?;
    let tracks = [
        ("v4", gateway(&v4, "weight = -20")),
        ("v6", gateway(&v6, "")),
    ];
    lab.configure(Primary, |config| set_tracks(config, &tracks))?;
    lab.start(Primary)?;
    lab.start(Backup)?;
    lab.until_master(Primary)?;
    until_primary(&mut lab, Role::Master, 110)?;
    let seen = until_track(&mut lab, "v4", TrackState::Good)?;
    assert_eq!(seen, "02:00:00:00:01:01 answers ARP");

    // ARP for its address is not answered any more (arp_ignore 8), all else is.
    let ignore = |value: &str| {
        let value = value.to_owned();
        let set = move || netns::sysctl("net/ipv4/conf/all/arp_ignore", &value);
        host.namespace.run(set)
    };
    ignore("8")?;
    lab.until_master(Backup)?;
    until_primary(&mut lab, Role::Backup, 90)?;
    let seen = until_track(&mut lab, "v4", TrackState::Bad)?;
    assert_eq!(seen, "ARP is not answered within 200ms");
    ignore("0")?;
    lab.until_master(Primary)?;

    let address = |verb: &str| {
        let mut command = host.namespace.command("ip");
        command.args(["-6", "address", verb, &format!("{v6}/64"), "dev", INTERFACE]);
        if verb == "add" {
            command.arg("nodad");
        }
        process::output(command, Duration::from_secs(5)).map(drop)
    };
    address("del")?;
    lab.until_master(Backup)?;
    until_primary(&mut lab, Role::Fault, 110)?;
    let seen = until_track(&mut lab, "v6", TrackState::Bad)?;
    assert_eq!(seen, "neighbour discovery is not answered within 200ms");
    address("add")?;
    lab.until_master(Primary)?;

    // All of it is gone.
    lab.cut_host(GATEWAY)?;
    lab.until_master(Backup)?;
    until_primary(&mut lab, Role::Fault, 90)
}

#[test]
fn a_service_without_enough_usable_servers_is_a_weight() -> Result<()> {
    let game = |lab: &mut Lab| {
        let mut game = String::new();
        lab.configure(Primary, |config| {
            game = config.game()?;
            let text =
                format!("kind = \"service\"\nservice = \"{game}\"\nat_least = 2\nweight = -20");
            set_tracks(config, &[("game", text)])
        })?;
        Ok(game)
    };
    let mut lab = lab(FAST)?;
    let game = game(&mut lab)?;
    lab.start(Primary)?;
    lab.start(Backup)?;
    lab.until_master(Primary)?;
    until_primary(&mut lab, Role::Master, 110)?;
    lab.node(Primary)?.kill_server()?;
    lab.until_master(Backup)?;
    until_primary(&mut lab, Role::Backup, 90)?;
    let seen = until_track(&mut lab, "game", TrackState::Bad)?;
    assert_eq!(
        seen,
        format!("1 usable backends of service {game}, 2 wanted")
    );
    lab.node(Primary)?.start_server()?;
    lab.until_master(Primary)
}

#[test]
fn a_reload_adds_changes_and_removes_tracks() -> Result<()> {
    let dir = Dir::new()?;
    let flag = dir.path().join("flag");
    let file = |expect: &str, keys: &str| {
        format!(
            "kind = \"file\"\npath = \"{}\"\nexpect = \"{expect}\"\n{keys}\n",
            flag.display()
        )
    };
    let reload = |lab: &mut Lab, tracks: &[(&str, String)]| {
        lab.reload(Primary, |config| set_tracks(config, tracks))
    };
    let mut lab = tracking(&[])?;
    assert!(lab.status(Primary)?.tracks.is_empty());
    reload(&mut lab, &[("flag", file("exists", ""))])?;
    lab.until_master(Backup)?;
    until_primary(&mut lab, Role::Fault, 110)?;
    reload(&mut lab, &[("flag", file("exists", "weight = -5"))])?;
    lab.until_master(Primary)?;
    until_primary(&mut lab, Role::Master, 105)?;
    reload(&mut lab, &[("flag", file("absent", "weight = -5"))])?;
    until_primary(&mut lab, Role::Master, 110)?;
    write(&flag, "")?;
    until_primary(&mut lab, Role::Master, 105)?;
    reload(&mut lab, &[])?;
    until_primary(&mut lab, Role::Master, 110)?;
    assert!(lab.status(Primary)?.tracks.is_empty());
    Ok(())
}
