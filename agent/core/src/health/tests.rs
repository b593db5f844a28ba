use super::*;
use crate::config::ProbeKind;

fn at(milliseconds: u64) -> Instant {
    Instant::from_origin(ms(milliseconds))
}

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn key(name: &str) -> BackendKey {
    BackendKey {
        service: Name::new("game"),
        backend: Name::new(name),
    }
}

fn probe(name: &str) -> Probe {
    Probe {
        name: Name::new(name),
        kind: ProbeKind::Tcp,
        port: None,
        interval: ms(5000),
        fast_interval: ms(500),
        timeout: ms(2000),
        rise: 2,
        fall: 3,
        jitter: 0.0,
    }
}

/// One backend `b` with one probe `p`, as `restored`, and its next checks at will.
struct One {
    health: Health,
    now: u64,
}

impl One {
    fn new(restored: Option<bool>) -> Self {
        let mut health = Health::new(1);
        health.set(&key("b"), &[probe("p")], restored, at(0));
        Self { health, now: 0 }
    }

    /// Waits for the next check and ends it after 10 ms; whether and how the backend turned.
    fn check(&mut self, passes: bool) -> Option<(bool, String)> {
        let due = self.health.next_deadline().unwrap();
        let changes = self.health.tick(due);
        assert_eq!(
            changes,
            [Change::Run {
                backend: key("b"),
                probe: Name::new("p")
            }]
        );
        self.now = due.since_origin().as_millis() as u64 + 10;
        self.end(passes)
    }

    fn end(&mut self, passes: bool) -> Option<(bool, String)> {
        let outcome = if passes {
            Ok(())
        } else {
            Err(ProbeFailure::Refused)
        };
        let ended = at(self.now);
        match self
            .health
            .result(&key("b"), &Name::new("p"), outcome, ms(10), ended)?
        {
            Change::Turned { up, cause, .. } => Some((up, cause)),
            Change::Run { .. } => panic!("a result runs nothing"),
        }
    }

    fn state(&self) -> BackendState {
        self.health.report(&key("b")).unwrap().state
    }

    /// The time from now to the next deadline, in milliseconds.
    fn pause(&self) -> u64 {
        self.health
            .next_deadline()
            .unwrap()
            .since(at(self.now))
            .as_millis() as u64
    }
}

#[test]
fn the_first_result_decides() {
    let mut good = One::new(None);
    assert_eq!(good.state(), BackendState::Unknown);
    assert_eq!(
        good.check(true),
        Some((true, "probe p passed (first check)".to_owned()))
    );
    let mut bad = One::new(None);
    let cause = "probe p: connection refused (first check)".to_owned();
    assert_eq!(bad.check(false), Some((false, cause)));
}

#[test]
fn fall_and_rise_need_results_in_a_row_and_make_checks_faster() {
    let mut one = One::new(None);
    one.check(true);
    assert_eq!(one.pause(), 4990);
    assert_eq!(one.check(false), None);
    assert_eq!((one.state(), one.pause()), (BackendState::Failing, 490));
    assert_eq!(one.check(false), None);
    assert_eq!(one.check(true), None);
    assert_eq!((one.state(), one.pause()), (BackendState::Up, 4990));
    assert_eq!((one.check(false), one.check(false)), (None, None));
    let cause = "probe p: connection refused (3 of 3)".to_owned();
    assert_eq!(one.check(false), Some((false, cause)));
    assert_eq!((one.state(), one.pause()), (BackendState::Down, 4990));
    assert_eq!(one.check(true), None);
    assert_eq!((one.state(), one.pause()), (BackendState::Rising, 490));
    assert_eq!(one.check(false), None);
    assert_eq!(one.check(true), None);
    assert_eq!(
        one.check(true),
        Some((true, "probe p passed (2 of 2)".to_owned()))
    );
}

#[test]
fn a_restored_backend_is_what_it_was_until_its_probes_say_otherwise() {
    let mut up = One::new(Some(true));
    assert_eq!(up.state(), BackendState::Up);
    assert_eq!((up.check(false), up.check(false)), (None, None));
    assert!(up.check(false).is_some_and(|(up, _)| !up));
    let mut down = One::new(Some(false));
    assert_eq!((down.state(), down.check(true)), (BackendState::Down, None));
    assert!(down.check(true).is_some_and(|(up, _)| up));
}

#[test]
fn a_check_never_overlaps_itself_and_one_that_never_ends_has_failed() {
    let mut one = One::new(None);
    one.check(true);
    let start = one.health.next_deadline().unwrap();
    assert_eq!(one.health.tick(start).len(), 1);
    // The timeout and a second, not the next interval.
    assert_eq!(one.health.next_deadline(), Some(start + ms(3000)));
    assert_eq!(one.health.tick(start + ms(2999)), []);
    let changes = one.health.tick(start + ms(3000));
    assert!(matches!(changes[..], [Change::Run { .. }]), "{changes:?}");
    let report = one.health.report(&key("b")).unwrap();
    assert_eq!(report.state, BackendState::Failing);
    assert!(
        report.reason.contains("the check never ended"),
        "{}",
        report.reason
    );
}

#[test]
fn a_pause_of_the_whole_daemon_fails_no_check() {
    let mut one = One::new(None);
    one.check(true);
    let start = one.health.next_deadline().unwrap();
    one.health.tick(start);
    assert_eq!(one.health.tick(start + ms(60_000)), []);
    one.now = 70_000;
    assert_eq!(one.end(true), None);
    assert_eq!(one.state(), BackendState::Up);
}

#[test]
fn results_nobody_asked_for_say_nothing() {
    let mut one = One::new(None);
    assert_eq!(one.end(false), None);
    assert_eq!(one.state(), BackendState::Unknown);
    one.check(true);
    assert_eq!((one.end(false), one.state()), (None, BackendState::Up));
}

#[test]
fn all_probes_must_pass() {
    let mut health = Health::new(1);
    health.set(&key("b"), &[probe("p"), probe("q")], None, at(0));
    assert_eq!(health.tick(at(10)).len(), 2);
    let mut end = |name: &str, outcome| {
        let (took, now) = (ms(1), at(20));
        health.result(&key("b"), &Name::new(name), outcome, took, now);
        health.up(&key("b"))
    };
    assert_eq!(end("p", Ok(())), None);
    assert_eq!(end("q", Err(ProbeFailure::Status(500))), Some(false));
    let reason = health.report(&key("b")).unwrap().reason;
    assert_eq!(reason, "probe q: HTTP status 500 (first check)");
}

#[test]
fn without_probes_a_backend_is_up() {
    let mut health = Health::new(1);
    health.set(&key("b"), &[], Some(false), at(0));
    assert_eq!(health.up(&key("b")), Some(true));
    health.suspect(&key("b"), at(1));
    assert_eq!(health.silence(&key("b"), "node silent", at(2)), None);
    assert_eq!(health.next_deadline(), None);
}

#[test]
fn silence_takes_a_backend_down_unless_it_answers() {
    let mut dead = One::new(None);
    dead.check(true);
    dead.health.suspect(&key("b"), at(1000));
    assert_eq!(dead.check(false), None, "at once: {}", dead.now);
    assert_eq!((dead.now, dead.pause()), (1010, 490));
    let turned = dead
        .health
        .silence(&key("b"), "node silent", at(1400))
        .unwrap();
    assert!(matches!(turned, Change::Turned { up: false, cause, .. } if cause == "node silent"));
    // It stays so while checks fail and is back with the first that passes, whatever `rise` is.
    assert_eq!(
        (dead.check(false), dead.state()),
        (None, BackendState::Down)
    );
    assert!(dead.check(true).is_some_and(|(up, _)| up));

    let mut alive = One::new(None);
    alive.check(true);
    alive.health.suspect(&key("b"), at(1000));
    alive.check(true);
    assert_eq!(
        alive.health.silence(&key("b"), "node silent", at(1400)),
        None
    );
    assert_eq!(alive.state(), BackendState::Up);
}

#[test]
fn a_suspect_is_checked_anew_when_an_older_check_ends() {
    let mut one = One::new(None);
    one.check(true);
    let start = one.health.next_deadline().unwrap();
    one.health.tick(start);
    one.now = start.since_origin().as_millis() as u64 + 100;
    one.health.suspect(&key("b"), at(one.now - 50));
    one.end(false);
    assert_eq!(one.pause(), 0);
    one.health.trust(&key("b"));
    one.check(true);
    assert_eq!(one.pause(), 4990);
}

#[test]
fn a_reload_keeps_what_did_not_change_and_moves_no_traffic() {
    let mut one = One::new(None);
    one.check(true);
    one.check(false);
    let before = one.health.report(&key("b"));
    one.health.set(&key("b"), &[probe("p")], None, at(one.now));
    assert_eq!(one.health.report(&key("b")), before);
    // A changed and a new probe: still up, both checked soon.
    let changed = Probe {
        timeout: ms(1000),
        ..probe("p")
    };
    one.health
        .set(&key("b"), &[changed, probe("q")], None, at(one.now));
    assert_eq!(one.state(), BackendState::Up);
    assert_eq!(one.health.tick(at(one.now + 2)).len(), 2);
}

#[test]
fn the_end_of_a_check_from_before_a_change_says_nothing() {
    let mut one = One::new(None);
    one.check(true);
    let start = one.health.next_deadline().unwrap();
    one.health.tick(start);
    one.now = start.since_origin().as_millis() as u64 + 10;
    let changed = Probe {
        fall: 1,
        ..probe("p")
    };
    one.health.set(&key("b"), &[changed], None, at(one.now));
    assert_eq!((one.end(false), one.state()), (None, BackendState::Up));
    assert_eq!(one.pause(), 0);
    assert!(one.check(false).is_some_and(|(up, _)| !up));
}

#[test]
fn another_server_under_the_same_name_is_unknown() {
    let mut one = One::new(None);
    one.check(true);
    one.health.renew(&key("b"), at(one.now));
    assert_eq!((one.state(), one.pause()), (BackendState::Unknown, 0));
    assert!(one.check(false).is_some_and(|(up, _)| !up));
    one.health.remove(&key("b"));
    assert_eq!(
        (one.health.report(&key("b")), one.health.next_deadline()),
        (None, None)
    );
}

#[test]
fn thousands_of_first_checks_are_spread() {
    let mut health = Health::new(1);
    for index in 0..5000 {
        health.set(&key(&format!("b{index}")), &[probe("p")], None, at(0));
    }
    let most = (0..=5000).map(|now| health.tick(at(now)).len()).max();
    // Two rounds of first checks, and two of those given up unanswered after three seconds.
    assert!(most <= Some(4), "{most:?} in a millisecond");
    let begun = |check: &Check| check.running.is_some() || check.last.is_some();
    let mut checks = health.backends.values().map(|backend| &backend.checks[0]);
    assert!(checks.all(begun));
}

#[test]
fn jitter_shortens_within_its_share() {
    let mut health = Health::new(7);
    let jittery = Probe {
        jitter: 0.5,
        ..probe("p")
    };
    health.set(&key("b"), &[jittery], None, at(0));
    let mut pauses = BTreeSet::new();
    for _ in 0..200 {
        let start = health.next_deadline().unwrap();
        health.tick(start);
        health.result(&key("b"), &Name::new("p"), Ok(()), ms(1), start + ms(1));
        pauses.insert(health.next_deadline().unwrap().since(start));
    }
    let (least, most) = (pauses.first().unwrap(), pauses.last().unwrap());
    assert!(*least >= ms(2500) && *least < ms(2700), "{least:?}");
    assert!(*most <= ms(5000) && *most > ms(4800), "{most:?}");
}
