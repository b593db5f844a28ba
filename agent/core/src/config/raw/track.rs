//! `[track.NAME]` as it is written.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use crate::config::{
    FileCheck, Name,
    error::{Mistake, quote},
    limits,
    reader::{At, Given, List, TableReader},
    scalar,
};

/// The time from one check to the next. A script is a process each time.
const INTERVAL: (Duration, Duration) = (Duration::from_millis(100), Duration::from_hours(1));

/// The `kind` of a track.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) enum TrackWord {
    Interface,
    Service,
    Script,
    File,
    Process,
    Gateway,
}

/// `[track.NAME]`. A key that its kind has no use for has been recorded as a mistake.
#[derive(Debug)]
pub(in crate::config) struct RawTrack {
    pub(in crate::config) name: Given<Name>,
    pub(in crate::config) kind: Given<TrackWord>,
    pub(in crate::config) weight: Given<i16>,
    pub(in crate::config) interval: Given<Duration>,
    pub(in crate::config) timeout: Given<Duration>,
    pub(in crate::config) rise: Given<u8>,
    pub(in crate::config) fall: Given<u8>,
    pub(in crate::config) debounce_up: Given<Duration>,
    pub(in crate::config) debounce_down: Given<Duration>,
    pub(in crate::config) interface: Given<Name>,
    pub(in crate::config) service: Given<Name>,
    pub(in crate::config) at_least: Given<u16>,
    pub(in crate::config) argv: List<String>,
    pub(in crate::config) user: Given<String>,
    pub(in crate::config) path: Given<PathBuf>,
    pub(in crate::config) expect: Given<FileCheck>,
    pub(in crate::config) process: Given<String>,
    pub(in crate::config) address: Given<IpAddr>,
}

pub(super) fn track(name: At<&str>, table: &mut TableReader<'_>) -> RawTrack {
    let kinds = [
        ("interface", TrackWord::Interface),
        ("service", TrackWord::Service),
        ("script", TrackWord::Script),
        ("file", TrackWord::File),
        ("process", TrackWord::Process),
        ("gateway", TrackWord::Gateway),
    ];
    let checks = [
        ("exists", FileCheck::Exists),
        ("absent", FileCheck::Absent),
        ("number", FileCheck::Number),
    ];
    let (shortest, longest) = INTERVAL;
    let debounce = Duration::ZERO..=longest;
    let track = RawTrack {
        name: track_name(name, table),
        kind: table.require("kind", scalar::choice(&kinds)),
        weight: table.get("weight", scalar::track::weight),
        interval: table.get("interval", scalar::duration(shortest..=longest)),
        timeout: table.get(
            "timeout",
            scalar::duration(Duration::from_millis(10)..=longest),
        ),
        rise: table.get("rise", scalar::integer(1..=255)),
        fall: table.get("fall", scalar::integer(1..=255)),
        debounce_up: table.get("debounce_up", scalar::duration(debounce.clone())),
        debounce_down: table.get("debounce_down", scalar::duration(debounce)),
        interface: table.get("interface", scalar::interface),
        service: table.get("service", scalar::name),
        at_least: table.get("at_least", scalar::integer(1..=limits::PROCESSES)),
        argv: table.list("argv", limits::ARGUMENTS, scalar::track::argument),
        user: table.get("user", scalar::track::user),
        path: table.get("path", scalar::path),
        expect: table.get("expect", scalar::choice(&checks)),
        process: table.get("process", scalar::track::process),
        address: table.get("address", scalar::address),
    };
    look_at_keys(&track, table);
    track
}

fn track_name(name: At<&str>, table: &mut TableReader<'_>) -> Given<Name> {
    let At { value, span } = name;
    if let Some(value) = scalar::valid_name(value) {
        return Given::Value(At { value, span });
    }
    let message = format!(
        "a track's name must be 1 to 64 letters (a-z, A-Z), digits, dots, underscores and hyphens, found {}",
        quote(value),
    );
    table.mistake(Mistake::new(&span, message));
    Given::Bad
}

/// Whether a kind has a use for a key.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Needed,
    Known,
    Useless,
}

/// Records the keys that the track's kind has no use for, as each of them would do nothing, and those
/// that are missing.
fn look_at_keys(track: &RawTrack, table: &mut TableReader<'_>) {
    use TrackWord::{File, Gateway, Interface, Process, Script, Service};
    let Some(kind) = track.kind.value() else {
        return;
    };
    let only = |kinds: &[TrackWord], what| match kinds.contains(&kind) {
        true => what,
        false => Use::Useless,
    };
    let checked = only(&[Script, Gateway], Use::Known);
    let watched = only(&[Interface, Service, File, Process], Use::Known);
    let interface = match kind {
        Interface => Use::Needed,
        _ => only(&[Gateway], Use::Known),
    };
    fn place<T>(given: &Given<T>) -> Place {
        match given {
            Given::Absent => Place::Absent,
            Given::Bad => Place::Bad,
            Given::Value(at) => Place::At(at.span.clone()),
        }
    }
    let argv = match &track.argv.span {
        Some(span) => Place::At(span.clone()),
        None => Place::Absent,
    };
    let keys = [
        (
            "interval",
            only(&[Script, Gateway, Process], Use::Known),
            place(&track.interval),
        ),
        ("timeout", checked, place(&track.timeout)),
        ("rise", checked, place(&track.rise)),
        ("fall", checked, place(&track.fall)),
        ("debounce_up", watched, place(&track.debounce_up)),
        ("debounce_down", watched, place(&track.debounce_down)),
        ("interface", interface, place(&track.interface)),
        (
            "service",
            only(&[Service], Use::Needed),
            place(&track.service),
        ),
        (
            "at_least",
            only(&[Service, Process], Use::Known),
            place(&track.at_least),
        ),
        ("argv", only(&[Script], Use::Needed), argv),
        ("user", only(&[Script], Use::Known), place(&track.user)),
        ("path", only(&[File], Use::Needed), place(&track.path)),
        ("expect", only(&[File], Use::Known), place(&track.expect)),
        (
            "process",
            only(&[Process], Use::Needed),
            place(&track.process),
        ),
        (
            "address",
            only(&[Gateway], Use::Needed),
            place(&track.address),
        ),
    ];
    let word = match kind {
        Interface => "interface",
        Service => "service",
        Script => "script",
        File => "file",
        Process => "process",
        Gateway => "gateway",
    };
    for (key, usage, place) in keys {
        match (usage, place) {
            (Use::Useless, Place::At(span)) => {
                let message = format!("`{key}` means nothing to a track of kind \"{word}\"");
                let mistake = Mistake::new(&span, message);
                table.mistake(mistake.help("remove it, or change the kind"));
            }
            (Use::Needed, Place::Absent) if !table.is_misspelt(key) => {
                let message = format!("a track of kind \"{word}\" needs `{key}`");
                let span = table.span.clone();
                table.mistake(Mistake::new(&span, message));
            }
            _ => {}
        }
    }
}

/// Where a key stands.
enum Place {
    Absent,
    Bad,
    At(std::ops::Range<usize>),
}
