//! What is tracked: scripts, files, processes and interfaces.
//!
//! keepalived gives a weight where something is tracked, steerd where it is described. So each weight
//! that something is tracked with makes a track.

use std::{collections::HashMap, path::Path, time::Duration};

use super::{Translator, group::Membership, value};
use crate::import::{
    hints::Block,
    steer::{Piece, Track, TrackKind},
    toml::Names,
    tree::Node,
    words,
};

/// Tracks of a node.
const MAX_TRACKS: usize = 64;
/// A track's shortest and longest interval.
const INTERVALS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_hours(1));

/// What keepalived keeps apart by kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Class {
    Interface,
    Script,
    File,
    Process,
}

/// Everything that may be tracked.
#[derive(Debug, Default)]
pub(super) struct Watches {
    watches: Vec<Watch>,
    by_name: HashMap<(Class, String), usize>,
    names: Names,
    tracks: usize,
    /// `interface_up_down_delays`: down and up.
    delays: HashMap<String, (Duration, Duration)>,
}

/// Something that may be tracked.
#[derive(Debug)]
struct Watch {
    /// What is the same whatever the weight.
    base: Piece<Track>,
    weight: i32,
    reverse: bool,
    /// The weights it is tracked with, and the tracks' names.
    variants: Vec<(Option<i16>, String)>,
}

impl Watches {
    fn add(&mut self, class: Class, name: &str, watch: Watch) -> usize {
        let index = self.watches.len();
        self.watches.push(watch);
        self.by_name
            .entry((class, name.to_owned()))
            .or_insert(index);
        index
    }

    /// The tracks, in the order in which they were described.
    pub(super) fn into_tracks(mut self) -> Vec<Piece<Track>> {
        let mut tracks = Vec::new();
        for watch in self.watches {
            let Watch {
                mut base, variants, ..
            } = watch;
            if variants.is_empty() {
                base.off("Nothing tracks this one:");
                base.value.name = self.names.take(&base.value.name);
                tracks.push(base);
                continue;
            }
            let mut left = std::mem::take(&mut base.left);
            for (weight, name) in variants {
                let mut track = base.clone();
                track.value.weight = weight;
                track.value.name = name;
                track.left = std::mem::take(&mut left);
                tracks.push(track);
                base.remarks.clear();
            }
        }
        tracks
    }
}

impl<'a> Translator<'a> {
    /// The tracks that a `track_...` block names.
    pub(super) fn track_names<T>(
        &mut self,
        block: &'a Node,
        member: Membership,
        piece: &mut Piece<T>,
    ) -> Vec<String> {
        let class = match block.keyword() {
            "track_interface" => Class::Interface,
            "track_script" => Class::Script,
            "track_file" => Class::File,
            _ => Class::Process,
        };
        self.account.used(block);
        let mut names = Vec::new();
        for line in block.inner() {
            match self.track_name(line, class, member) {
                Ok((name, differs)) => {
                    if let Some(why) = differs {
                        let note = self.account.differs(line, why);
                        piece.remark("track", note);
                    } else {
                        self.account.used(line);
                    }
                    names.push(name);
                }
                Err(why) => piece.left.extend(self.account.left(line, why)),
            }
        }
        names
    }

    /// The track of one line, and what differs of it. Or why there is none.
    fn track_name(
        &mut self,
        line: &'a Node,
        class: Class,
        member: Membership,
    ) -> Result<(String, Option<&'static str>), &'static str> {
        let (name, words) = line.words.split_first().ok_or("it is empty")?;
        let words: Vec<&str> = words.iter().map(|word| word.text.as_str()).collect();
        let (given, reversed) = match words.as_slice() {
            [] => (None, None),
            ["weight", weight] => (Some(*weight), None),
            ["weight", weight, "reverse"] => (Some(*weight), Some(true)),
            ["weight", weight, "noreverse" | "no_reverse"] => (Some(*weight), Some(false)),
            _ => return Err("not a name and a weight"),
        };
        let given = match given {
            Some(weight) => Some(
                weight
                    .parse::<i32>()
                    .map_err(|_| "the weight is no number")?,
            ),
            None => None,
        };
        let index = match self.watches.by_name.get(&(class, name.text.clone())) {
            Some(index) => *index,
            None if class == Class::Interface => self.interface_watch(&name.text)?,
            None => return Err("nothing of this name is described, and keepalived ignores it too"),
        };
        let watches = &mut self.watches;
        let watch = watches.watches.get_mut(index).ok_or("it is not known")?;
        let weight = given.unwrap_or(watch.weight);
        if reversed.unwrap_or(watch.reverse) {
            return Err("a weight cannot be reversed here: turn the check round instead");
        }
        if watch.base.off.is_some() {
            return Err("it stands as a comment, see its track");
        }
        let mut differs = None;
        let weight = if class == Class::File {
            match weight {
                0 => {
                    return Err(
                        "steerd adds the number in a file to the priority, and has no fault for it",
                    );
                }
                _ if member.weightless => {
                    return Err(
                        "keepalived takes any number but 0 for a fault in a sync group; steerd \
                                adds it to the priority",
                    );
                }
                1 => {}
                _ => {
                    differs = Some(
                        "steerd adds the number in the file as it is: multiply where it is \
                                    written",
                    );
                }
            }
            None
        } else if weight != 0 && member.weightless {
            differs = Some("keepalived ignores the weight in a sync group: a failure is a fault");
            None
        } else {
            match i16::try_from(weight) {
                Ok(0) => None,
                Ok(weight @ -253..=253) => Some(weight),
                _ => return Err("a weight is between -253 and 253"),
            }
        };
        let known = watch.variants.iter().find(|(other, _)| *other == weight);
        if let Some((_, name)) = known {
            return Ok((name.clone(), differs));
        }
        if watches.tracks >= MAX_TRACKS {
            return Err("a node has 64 tracks at most");
        }
        watches.tracks += 1;
        let name = watches.names.take(&watch.base.value.name);
        watch.variants.push((weight, name.clone()));
        Ok((name, differs))
    }

    fn interface_watch(&mut self, name: &str) -> Result<usize, &'static str> {
        let name = value::interface(name).ok_or("not an interface's name")?;
        let mut track = track(&name, TrackKind::Interface(name.clone()));
        if let Some(&(down, up)) = self.watches.delays.get(&name) {
            track.debounce_down = (!down.is_zero()).then_some(down);
            track.debounce_up = (!up.is_zero()).then_some(up);
        }
        let watch = Watch {
            base: Piece::new(track),
            weight: 0,
            reverse: false,
            variants: Vec::new(),
        };
        Ok(self.watches.add(Class::Interface, &name, watch))
    }

    /// `interface_up_down_delays`, for the tracks to come.
    pub(super) fn delays(&mut self, node: &'a Node) {
        for line in node.inner() {
            let limit = |delay: &Duration| *delay <= INTERVALS.1;
            let down = value::first(line, value::seconds).filter(limit);
            let up = line
                .word(2)
                .map_or(down, |up| value::seconds(up).filter(limit));
            if let (Some(down), Some(up)) = (down, up) {
                self.watches
                    .delays
                    .insert(line.keyword().to_owned(), (down, up));
            }
        }
    }

    /// Says which of the delays are in use: those of interfaces that are tracked by name.
    pub(super) fn delays_used(&mut self, node: &'a Node) {
        let watches = &self.watches;
        let used = |line: &&Node| {
            let name = line.keyword().to_owned();
            watches.delays.contains_key(&name)
                && watches.by_name.contains_key(&(Class::Interface, name))
        };
        let (used, unused): (Vec<_>, Vec<_>) = node.inner().partition(used);
        if used.is_empty() {
            return;
        }
        self.account.used(node);
        used.into_iter().for_each(|line| self.account.used(line));
        for line in unused {
            let why = "`debounce_down` and `debounce_up` are of a track: nothing tracks this one";
            let left = self.account.left(line, why);
            self.file.left.extend(left);
        }
    }

    pub(super) fn script(&mut self, node: &'a Node) {
        self.account.used(node);
        let name = node.word(1).unwrap_or("");
        let mut argv = Vec::new();
        let mut user = self.globals.user.clone();
        let (mut interval, mut timeout) = (Duration::from_secs(1), None);
        let (mut rise, mut fall) = (1, 1);
        let (mut weight, mut reverse) = (0, false);
        let mut base = Piece::new(track(name, TrackKind::File(String::new())));
        let mut asked = None;
        for line in node.inner() {
            match line.keyword() {
                "script" => {
                    argv = words::command(line.values());
                    asked = Some(line);
                }
                "interval" => match value::first(line, value::seconds) {
                    Some(wanted) => {
                        interval = wanted.clamp(INTERVALS.0, INTERVALS.1);
                        if interval != wanted {
                            let why = "an interval is between 100ms and 1h";
                            base.remark("interval", self.account.differs(line, why));
                        }
                    }
                    None => continue,
                },
                "timeout" => match value::first(line, value::seconds) {
                    Some(wanted) => timeout = Some((line, wanted)),
                    None => continue,
                },
                "rise" | "fall" => match value::first(line, value::parsed::<u8>) {
                    Some(count @ 1..) if line.keyword() == "rise" => rise = count,
                    Some(count @ 1..) => fall = count,
                    _ => continue,
                },
                "weight" => match weight_of(line) {
                    Some(of) => (weight, reverse) = of,
                    None => continue,
                },
                "user" => {
                    let Some(name) = value::first(line, value::user) else {
                        continue;
                    };
                    user = Some(name);
                    if line.word(2).is_some() {
                        let why = "the group is the user's own";
                        base.remark("user", self.account.differs(line, why));
                    }
                }
                _ => continue,
            }
            self.account.used(line);
        }
        let within = timeout.map_or(interval, |(_, timeout)| timeout.min(interval));
        let within = within.max(Duration::from_millis(10));
        if let Some((line, timeout)) = timeout
            && timeout > interval
        {
            let why = "a check ends before the next one begins";
            base.remark("timeout", self.account.differs(line, why));
        }
        let user = user.filter(|user| user != "root");
        let track = &mut base.value;
        track.interval = Some(interval);
        if let Some(process) = process_check(&argv) {
            if let Some(line) = asked {
                let why = "steerd looks for the process itself";
                let note = self.account.differs(line, why);
                base.remarks.push(("process", note));
            }
            let track = &mut base.value;
            let last = |count: u8| {
                let after = interval * u32::from(count - 1);
                (!after.is_zero()).then_some(after.min(INTERVALS.1))
            };
            track.kind = TrackKind::Process {
                process,
                at_least: 1,
            };
            (track.debounce_up, track.debounce_down) = (last(rise), last(fall));
        } else {
            (track.rise, track.fall) = (Some(rise), Some(fall));
            track.timeout = Some(within);
            if let Some(line) = asked
                && let Some(why) = runnable(&mut argv)
            {
                base.remark("argv", self.account.differs(line, why));
            }
            if argv.is_empty()
                || argv.len() > 64
                || argv
                    .iter()
                    .any(|word| word.len() > 4096 || word.contains('\0'))
            {
                base.off("It has no program that can be run:");
            }
            base.value.kind = TrackKind::Script { argv, user };
        }
        self.watch(Class::Script, node, name, base, (weight, reverse));
    }

    pub(super) fn track_file(&mut self, node: &'a Node) {
        self.account.used(node);
        let name = node.word(1).unwrap_or("");
        let mut path = None;
        // keepalived's default.
        let (mut weight, mut reverse) = (1, false);
        for line in node.inner() {
            match line.keyword() {
                "file" => path = line.word(1).map(str::to_owned),
                "weight" => match weight_of(line) {
                    Some(of) => (weight, reverse) = of,
                    None => continue,
                },
                _ => continue,
            }
            self.account.used(line);
        }
        let path = path.unwrap_or_default();
        let fits = Path::new(&path).is_absolute()
            && Path::new(&path).file_name().is_some()
            && !path.contains('\0');
        let mut base = Piece::new(track(name, TrackKind::File(path)));
        if !fits {
            base.off("It names no file by its absolute path:");
        }
        self.watch(Class::File, node, name, base, (weight, reverse));
    }

    pub(super) fn track_process(&mut self, node: &'a Node) {
        self.account.used(node);
        let name = node.word(1).unwrap_or("");
        let mut process = String::new();
        let mut least = 1;
        let (mut weight, mut reverse) = (1, false);
        let mut base = Piece::new(track(name, TrackKind::File(String::new())));
        for line in node.inner() {
            match line.keyword() {
                "process" => {
                    let program = line.word(1).unwrap_or("");
                    process = file_name(program).to_owned();
                    if line.word(2).is_some() {
                        let why = "a process is found by its name alone, whatever its arguments";
                        base.remark("process", self.account.differs(line, why));
                    }
                }
                "quorum" => match value::first(line, value::parsed) {
                    Some(count @ 1..=1024) => least = count,
                    _ => continue,
                },
                "weight" => match weight_of(line) {
                    Some(of) => (weight, reverse) = of,
                    None => continue,
                },
                "fork_delay" | "terminate_delay" | "delay" => {
                    let delay = value::first(line, value::seconds);
                    let Some(delay) = delay.filter(|delay| *delay <= INTERVALS.1) else {
                        continue;
                    };
                    let delay = (!delay.is_zero()).then_some(delay);
                    if line.keyword() != "terminate_delay" {
                        base.value.debounce_up = delay;
                    }
                    if line.keyword() != "fork_delay" {
                        base.value.debounce_down = delay;
                    }
                }
                _ => continue,
            }
            self.account.used(line);
        }
        if !is_process(&process) {
            base.off("It names no process:");
        }
        base.value.kind = TrackKind::Process {
            process,
            at_least: least,
        };
        self.watch(Class::Process, node, name, base, (weight, reverse));
    }

    /// Adds what a block describes.
    fn watch(
        &mut self,
        class: Class,
        node: &'a Node,
        name: &str,
        mut base: Piece<Track>,
        (weight, reverse): (i32, bool),
    ) {
        base.left.extend(self.account.rest(node, Block::Watch));
        let watch = Watch {
            base,
            weight,
            reverse,
            variants: Vec::new(),
        };
        self.watches.add(class, name, watch);
    }
}

/// A track that is paced as by default.
fn track(name: &str, kind: TrackKind) -> Track {
    Track {
        name: name.to_owned(),
        kind,
        weight: None,
        interval: None,
        timeout: None,
        rise: None,
        fall: None,
        debounce_up: None,
        debounce_down: None,
    }
}

/// `weight N [reverse]`
fn weight_of(line: &Node) -> Option<(i32, bool)> {
    let weight = value::first(line, value::parsed)?;
    match line.word(2) {
        None | Some("noreverse" | "no_reverse") => Some((weight, false)),
        Some("reverse") => Some((weight, true)),
        Some(_) => None,
    }
}

/// Makes a command one that runs without a shell and a search path; what to say of it.
fn runnable(argv: &mut Vec<String>) -> Option<&'static str> {
    let program = argv.first()?;
    if program.starts_with('<') {
        let command = argv.join(" ");
        *argv = vec!["/bin/bash".to_owned(), "-c".to_owned(), command];
        return Some("a shell's way to connect: here the shell is named");
    }
    if !program.starts_with('/') {
        argv.insert(0, "/usr/bin/env".to_owned());
        return Some("programs are named by their absolute path here: env finds this one");
    }
    let shell = argv
        .iter()
        .any(|word| word.contains(['|', ';', '<', '>', '`', '&']));
    shell.then_some("no shell reads this: [\"/bin/sh\", \"-c\", \"...\"] runs one")
}

/// The process that a command looks for, if that is all it does.
fn process_check(argv: &[String]) -> Option<String> {
    let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
    let (program, arguments) = argv.split_first()?;
    let process = match (file_name(program), arguments) {
        ("killall", ["-0" | "-CONT", process]) | ("pgrep", ["-x", process]) => process,
        ("pidof", [process] | ["-s", process]) => process,
        _ => return None,
    };
    let process = file_name(process);
    is_process(process).then(|| process.to_owned())
}

/// The last part of a path.
fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn is_process(name: &str) -> bool {
    (1..=255).contains(&name.len()) && !name.contains(|c: char| c == '/' || c.is_control())
}
