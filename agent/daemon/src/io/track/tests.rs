//! Tracks against the real kernel. What a script is left with, and what all of it does to virtual
//! routers, is tested end to end.

use std::{
    fs,
    io::Write,
    os::unix::fs::symlink,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use steerd_core::config::{FileCheck, Pace, Script};

use super::*;
use crate::io::lab::{DEADLINE, DEV, DEV_B, Lab, ip, mac_of};

fn track(kind: TrackKind, timeout: Duration) -> Track {
    Track {
        name: Name::new("t"),
        kind,
        weight: None,
        pace: Pace {
            interval: Duration::from_millis(50),
            timeout,
            ..Pace::default()
        },
    }
}

/// The checks and watches of a test, and what they tell.
struct Bench {
    tracks: Tracks,
    events: mpsc::Receiver<Event>,
    tickets: u64,
}

impl Bench {
    fn new() -> Self {
        let (sender, events) = mpsc::channel(64);
        Self {
            tracks: Tracks::new(Handle::current(), sender),
            events,
            tickets: 0,
        }
    }

    fn run(&mut self, kind: TrackKind, timeout: Duration) -> u64 {
        self.tickets += 1;
        let own = || ["10.9.0.1".parse().unwrap()].into();
        self.tracks.run(&track(kind, timeout), self.tickets, own);
        self.tickets
    }

    async fn told(&mut self) -> (u64, Outcome) {
        let event = tokio::time::timeout(DEADLINE, self.events.recv()).await;
        match event.expect("in time") {
            Some(Event::Track {
                ticket, outcome, ..
            }) => (ticket, outcome),
            other => panic!("{other:?}"),
        }
    }

    /// The next thing told in words.
    async fn words(&mut self) -> String {
        match self.told().await.1 {
            Ok(sight) => sight.what,
            Err(failure) => failure.to_string(),
        }
    }

    /// Waits until this is told.
    async fn until(&mut self, wanted: &str) {
        while self.words().await != wanted {}
    }

    fn is_quiet(&mut self) -> bool {
        self.events.try_recv().is_err()
    }
}

fn shell(text: &str) -> TrackKind {
    TrackKind::Script(Script {
        argv: ["/bin/sh", "-c", text].map(str::to_owned).to_vec(),
        user: None,
    })
}

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(200);

#[tokio::test]
async fn an_exit_code_is_the_answer_and_the_last_line_its_reason() {
    let mut bench = Bench::new();
    for (text, words) in [
        ("exit 0", "exit code 0"),
        ("echo one; echo two; echo", "two"),
        ("echo out; echo err >&2; exit 7", "exit code 7: err"),
        ("printf '\\033[31mred\\007'; exit 1", "exit code 1: [31mred"),
        ("kill -TERM $$", "killed by signal 15"),
        ("exec 1>&- 2>&-; exit 4", "exit code 4"),
    ] {
        bench.run(shell(text), LONG);
        assert_eq!(bench.words().await, words, "{text}");
    }
    let missing = TrackKind::Script(Script {
        argv: vec!["/nonexistent".to_owned()],
        user: None,
    });
    bench.run(missing, LONG);
    let words = bench.words().await;
    assert!(words.contains("cannot start a process"), "{words}");
}

#[tokio::test]
async fn a_flood_of_output_is_drained_and_dropped() {
    let mut bench = Bench::new();
    let much = "head -c 2000000 /dev/zero | tr '\\0' x; echo; echo last";
    bench.run(shell(much), LONG);
    assert_eq!(bench.words().await, "last");
    // One line without an end.
    bench.run(shell("head -c 500000 /dev/zero | tr '\\0' x; exit 1"), LONG);
    let words = bench.words().await;
    assert!(words.starts_with("exit code 1: xxx"), "{words}");
    assert!(words.len() < 200, "{}", words.len());
    // And one that never ends.
    bench.run(shell("yes"), SHORT);
    assert_eq!(bench.words().await, "did not end within 200ms: y");
}

/// The process numbers in a file.
fn numbers(path: &Path) -> Vec<i32> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .map(|line| line.trim().parse().unwrap())
        .collect()
}

fn is_gone(pid: i32) -> bool {
    let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // A zombie is its parent's business.
    let state = state.rsplit(") ").next().unwrap_or("").chars().next();
    matches!(state, None | Some('Z' | 'X'))
}

async fn until_gone(pids: &[i32]) {
    let start = Instant::now();
    while !pids.iter().all(|pid| is_gone(*pid)) {
        assert!(start.elapsed() < DEADLINE, "{pids:?} go on");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn what_hangs_is_killed_with_all_its_children() {
    let dir = tempfile::tempdir().unwrap();
    let pids = dir.path().join("pids");
    let forks = format!(
        "trap '' TERM; echo $$ >>{0}; (trap '' TERM; sleep 1000) & echo $! >>{0}; (sleep 1000 | sleep 1001) & \
         echo $! >>{0}; wait",
        pids.display()
    );
    let mut bench = Bench::new();
    let start = Instant::now();
    bench.run(shell(&forks), SHORT);
    assert_eq!(bench.words().await, "did not end within 200ms");
    assert!(start.elapsed() >= SHORT);
    let hung = numbers(&pids);
    assert_eq!(hung.len(), 3);
    until_gone(&hung).await;
    // Those that a script left behind that ended well, too.
    fs::remove_file(&pids).unwrap();
    let leaves = format!("sleep 1000 & echo $! >{}; exit 0", pids.display());
    bench.run(shell(&leaves), LONG);
    assert_eq!(bench.words().await, "exit code 0");
    let left = numbers(&pids);
    assert_eq!(left.len(), 1);
    until_gone(&left).await;
}

#[tokio::test]
async fn a_run_that_is_stopped_ends_and_the_next_waits_for_that() {
    let dir = tempfile::tempdir().unwrap();
    let pids = dir.path().join("pids");
    let hangs = format!("echo $$ >>{}; sleep 1000 & wait", pids.display());
    let mut bench = Bench::new();
    let old = bench.run(shell(&hangs), LONG);
    while numbers(&pids).is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // While it runs there is no second one.
    let stuck = bench.run(shell("echo two"), SHORT);
    let (ticket, outcome) = bench.told().await;
    assert_eq!((ticket, outcome), (stuck, Err(TrackFailure::Stuck)));
    bench.tracks.stop(&Name::new("t"));
    let new = bench.run(shell("echo new"), LONG);
    let mut told = vec![bench.told().await, bench.told().await];
    told.sort_by_key(|(ticket, _)| *ticket);
    let line = String::new();
    let killed = Err(TrackFailure::Killed { signal: 9, line });
    assert_eq!(told, [(old, killed), (new, Ok(Sight::of("new")))]);
    until_gone(&numbers(&pids)).await;
    // All of them end with the driver.
    fs::remove_file(&pids).unwrap();
    bench.run(shell(&hangs), LONG);
    while numbers(&pids).is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(bench);
    until_gone(&numbers(&pids)).await;
}

fn file(path: &Path, check: FileCheck) -> TrackKind {
    TrackKind::File {
        path: path.to_owned(),
        check,
    }
}

#[tokio::test]
async fn a_file_may_come_go_and_be_anywhere() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a/b/c");
    let mut bench = Bench::new();
    bench.run(file(&path, FileCheck::Exists), LONG);
    bench.until("the file is not there").await;
    for _ in 0..3 {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "").unwrap();
        bench.until("the file is there").await;
        fs::remove_file(&path).unwrap();
        bench.until("the file is not there").await;
        fs::create_dir(&path).unwrap();
        bench.until("the file is there").await;
        // With a directory above it.
        fs::rename(dir.path().join("a"), dir.path().join("z")).unwrap();
        bench.until("the file is not there").await;
        fs::rename(dir.path().join("z"), dir.path().join("a")).unwrap();
        bench.until("the file is there").await;
        fs::remove_dir_all(dir.path().join("a")).unwrap();
        bench.until("the file is not there").await;
    }
    // In the place of a directory.
    fs::write(dir.path().join("a"), "").unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(bench.is_quiet());
}

#[tokio::test]
async fn a_number_is_read_when_it_is_written_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("number");
    let mut bench = Bench::new();
    bench.run(file(&path, FileCheck::Number), LONG);
    bench.until("the file is not there").await;
    for (text, words) in [
        ("-20\n", "the file holds -20"),
        (" +7 ", "the file holds 7"),
        ("1000000", "the file holds 253"),
        ("-1000000", "the file holds -253"),
        ("twenty", "the file holds no integer"),
        ("0", "the file holds 0"),
        ("1 2", "the file holds no integer"),
        ("4", "the file holds 4"),
        ("99999999999999999999", "the file holds no integer"),
        ("5", "the file holds 5"),
    ] {
        fs::write(&path, text).unwrap();
        if !words.starts_with("the file holds no") {
            // Truncated and then written, it never was a file without a number.
            assert_eq!(bench.words().await, words, "{text}");
        } else {
            bench.until(words).await;
        }
    }
    // By somebody slow, who has it open while it is empty.
    let mut slow = fs::File::create(&path).unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    slow.write_all(b"6").unwrap();
    drop(slow);
    assert_eq!(bench.words().await, "the file holds 6");
    fs::write(&path, "").unwrap();
    bench.until("the file holds no integer").await;
    // What can block is not read.
    fs::remove_file(&path).unwrap();
    bench.until("the file is not there").await;
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    bench.until("could not look: it is no regular file").await;
}

#[tokio::test]
async fn a_link_is_followed_when_it_is_set_anew() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for version in ["v1", "v2"] {
        fs::create_dir(at(version)).unwrap();
        fs::write(at(version).join("number"), version.replace('v', "")).unwrap();
    }
    // As orchestrators mount what they may change: a link to a directory that is a link.
    symlink("v1", at("current")).unwrap();
    fs::create_dir(at("mount")).unwrap();
    symlink("../current/number", at("mount/number")).unwrap();
    let mut bench = Bench::new();
    bench.run(file(&at("current/number"), FileCheck::Number), LONG);
    bench.until("the file holds 1").await;
    symlink("v2", at("new")).unwrap();
    fs::rename(at("new"), at("current")).unwrap();
    bench.until("the file holds 2").await;
    fs::write(at("v2/number"), "22").unwrap();
    bench.until("the file holds 22").await;
    bench.run(file(&at("mount/number"), FileCheck::Number), LONG);
    bench.until("the file holds 22").await;
    fs::write(at("v2/number"), "23").unwrap();
    bench.until("the file holds 23").await;
}

/// The kernel keeps so many events, and drops what comes then.
#[tokio::test]
async fn lost_events_are_made_good() {
    let most = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let most: usize = most.trim().parse().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    let mut bench = Bench::new();
    bench.run(file(&path, FileCheck::Exists), LONG);
    bench.until("the file is not there").await;
    // Nothing is read meanwhile: this is the only thread. Two files in turn, as equal events in a
    // row are one.
    let others = ["one", "two"].map(|name| dir.path().join(name));
    for _ in 0..most / 4 + 10 {
        for other in &others {
            fs::write(other, "").unwrap();
            fs::remove_file(other).unwrap();
        }
    }
    fs::write(&path, "").unwrap();
    bench.until("the file is there").await;
}

#[tokio::test]
async fn processes_come_and_go() {
    let dir = tempfile::tempdir().unwrap();
    let name = format!("steerd-track-{}", std::process::id());
    let program = dir.path().join(&name);
    fs::copy("/bin/sleep", &program).unwrap();
    let start = || {
        let mut command = Command::new(&program);
        command.arg("1000").stdin(Stdio::null());
        // The copy was open for writing a moment ago, in another thread's child perhaps.
        loop {
            match command.spawn() {
                Ok(child) => return child,
                Err(error) if error.raw_os_error() == Some(libc::ETXTBSY) => {}
                Err(error) => panic!("{error}"),
            }
        }
    };
    let mut bench = Bench::new();
    let kind = TrackKind::Process {
        process: name.clone(),
        at_least: 2,
    };
    bench.run(kind, LONG);
    bench.until("0 processes, 2 wanted").await;
    let mut children = [start(), start(), start()];
    bench.until(&format!("2 processes {name} run")).await;
    // A third one takes the place of the first, so that nothing is missing.
    children[0].kill().unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(bench.is_quiet());
    // Dead, but not waited for.
    children[1].kill().unwrap();
    bench.until("1 processes, 2 wanted").await;
    children[2].kill().unwrap();
    bench.until("0 processes, 2 wanted").await;
    for child in &mut children {
        child.wait().unwrap();
    }
}

fn gateway(address: &str, interface: Option<&str>) -> TrackKind {
    TrackKind::Gateway {
        address: address.parse().unwrap(),
        interface: interface.map(Name::new),
    }
}

#[test]
fn a_host_is_asked_and_nobody_else() {
    Lab::run(async |lab| {
        let mac = lab.on_b(|| mac_of(DEV_B));
        let mac: Vec<String> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
        let mac = mac.join(":");
        let link_local = lab.on_b(|| {
            let shown = ip(&format!("-6 -o address show dev {DEV_B} scope link"));
            let net = shown.split_whitespace().nth(3).unwrap().to_owned();
            net.split('/').next().unwrap().to_owned()
        });
        let mut bench = Bench::new();
        for (address, interface, protocol) in [
            ("10.9.0.2", None, "ARP"),
            ("10.9.0.2", Some(DEV), "ARP"),
            ("fd09::2", None, "neighbour discovery"),
            (&link_local, Some(DEV), "neighbour discovery"),
        ] {
            bench.run(gateway(address, interface), LONG);
            assert_eq!(bench.words().await, format!("{mac} answers {protocol}"));
        }
        // What the kernel knows of it is no answer.
        ip(&format!(
            "neighbour replace 10.9.0.3 lladdr {mac} dev {DEV} nud permanent"
        ));
        for (address, words) in [
            ("10.9.0.3", "ARP is not answered within 200ms"),
            (
                "fd09::3",
                "neighbour discovery is not answered within 200ms",
            ),
            ("10.9.0.1", "could not look: it is this host's own address"),
            (
                "10.10.0.1",
                "could not look: no interface has a network with it: set `interface`",
            ),
        ] {
            bench.run(gateway(address, None), SHORT);
            assert_eq!(bench.words().await, words);
        }
        bench.run(gateway("10.9.0.2", Some("nosuch0")), SHORT);
        assert_eq!(bench.words().await, "there is no interface nosuch0");
        bench.run(gateway("10.9.0.2", Some("lo")), SHORT);
        assert_eq!(
            bench.words().await,
            "could not look: lo is no Ethernet interface"
        );
        // The bench's only virtual address is this host's: it asks in nobody's name then, and the
        // other one does not learn from that where it is.
        lab.on_b(|| ip(&format!("neighbour flush dev {DEV_B}")));
        bench.run(gateway("10.9.0.2", None), LONG);
        assert_eq!(bench.words().await, format!("{mac} answers ARP"));
        let learnt = lab.on_b(|| ip(&format!("neighbour show dev {DEV_B}")));
        assert!(!learnt.contains("10.9.0.1"), "{learnt}");
        ip(&format!("address add 10.9.0.5/24 dev {DEV}"));
        bench.run(gateway("10.9.0.2", None), LONG);
        bench.words().await;
        let learnt = lab.on_b(|| ip(&format!("neighbour show dev {DEV_B}")));
        assert!(learnt.contains("10.9.0.5"), "{learnt}");
        assert!(!learnt.contains("10.9.0.1"), "{learnt}");
    });
}

#[test]
fn an_interface_is_followed() {
    Lab::run(async |lab| {
        let mut bench = Bench::new();
        let kind = TrackKind::Interface {
            interface: Name::new(DEV),
        };
        bench.run(kind, LONG);
        let up = format!("interface {DEV} is up");
        let down = format!("interface {DEV} is down");
        bench.until(&up).await;
        lab.on_b(|| ip(&format!("link set {DEV_B} down")));
        bench.until(&down).await;
        lab.on_b(|| ip(&format!("link set {DEV_B} up")));
        bench.until(&up).await;
        ip(&format!("link set {DEV} down"));
        bench.until(&down).await;
        ip(&format!("link set {DEV} name other0"));
        bench.until(&format!("there is no interface {DEV}")).await;
        ip(&format!("link set other0 name {DEV}"));
        ip(&format!("link set {DEV} up"));
        bench.until(&up).await;
    });
}
