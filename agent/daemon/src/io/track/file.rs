//! Files: the kernel tells by inotify(7) that something happened to one, and then it is looked at.
//!
//! Watched are the directory that the file is in, or would be in, the directories above it, and where
//! symbolic links lead, the place that they lead to. After each event all of that is set up anew, and
//! the file is looked at afterwards, so that it does not matter which event it was, nor that the
//! kernel dropped some (`IN_Q_OVERFLOW`). What other hosts do on a network's file system causes no
//! event here.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fs::{self, OpenOptions},
    io::{self, Read},
    os::{
        fd::{AsFd, AsRawFd, RawFd},
        unix::fs::OpenOptionsExt,
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor},
};
use steerd_core::{
    config::FileCheck,
    event::{Sight, TrackFailure},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::Instant,
};

use super::{Outcome, Reporter};

/// After how long what cannot be watched is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// A file is looked at this often at most.
const PAUSE: Duration = Duration::from_millis(10);
/// A file that is written anew is empty for a moment: so long it is given.
const WRITING: Duration = Duration::from_millis(100);
/// No priority can be changed by more.
const MOST: i64 = 253;

/// Reports whether the file at `path` is as wanted.
pub(super) async fn watch(path: PathBuf, check: FileCheck, mut reporter: Reporter) {
    loop {
        let error = match follow(&path, check, &mut reporter).await {
            Ok(never) => match never {},
            Err(error) => error,
        };
        let why = match error.raw_os_error() {
            Some(libc::EMFILE) => {
                "too many files are watched on this host: raise fs.inotify.max_user_instances"
                    .to_owned()
            }
            Some(libc::ENOSPC) => {
                "too many files are watched on this host: raise fs.inotify.max_user_watches"
                    .to_owned()
            }
            _ => format!("cannot watch the file: {error}"),
        };
        reporter.report(Err(TrackFailure::Local(why))).await;
        tokio::time::sleep(RETRY).await;
    }
}

/// The kernel's queue of events.
struct Queue(Inotify);

impl AsRawFd for Queue {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// What [`follow`] returns where it does not fail: nothing.
enum Never {}

async fn follow(path: &Path, check: FileCheck, reporter: &mut Reporter) -> io::Result<Never> {
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
    // SAFETY: it owns its descriptor, and never replaces or closes it before its drop.
    let inotify = unsafe { AsyncFd::register_with_interest(Queue(inotify), Interest::READABLE) };
    let inotify = Arc::new(inotify?);
    let mut watches = Watches::default();
    // How long a number is waited for.
    let mut empty_until = None;
    loop {
        // A file system that hangs is to hang no one else.
        let (shared, place) = (Arc::clone(&inotify), path.to_owned());
        let look = tokio::task::spawn_blocking(move || {
            let set_up = watches.set_up(&shared.get_ref().0, &place);
            (set_up, look(&place, check), watches)
        });
        let (set_up, seen, after) = look.await.map_err(io::Error::other)?;
        set_up?;
        watches = after;
        let outcome = match seen {
            Seen::Outcome(outcome) => outcome,
            Seen::Empty => {
                let until = *empty_until.get_or_insert_with(|| Instant::now() + WRITING);
                if Instant::now() < until {
                    // Whatever comes first: the file is looked at again.
                    let _ = tokio::time::timeout_at(until, relevant(&inotify, &watches)).await;
                    continue;
                }
                Err(TrackFailure::NoNumber)
            }
        };
        empty_until = None;
        reporter.report(outcome).await;
        tokio::time::sleep(PAUSE).await;
        relevant(&inotify, &watches).await?;
    }
}

/// Waits for an event that may be about the file.
async fn relevant(inotify: &AsyncFd<Queue>, watches: &Watches) -> io::Result<()> {
    loop {
        let mut ready = inotify.readable().await?;
        let mut found = false;
        loop {
            match inotify.get_ref().0.read_events() {
                Ok(events) => found |= events.iter().any(|event| watches.concern(event)),
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        ready.clear_ready();
        if found {
            return Ok(());
        }
    }
}

/// What is watched.
#[derive(Debug, Default, PartialEq, Eq)]
struct Watches {
    plan: Plan,
    set: BTreeMap<PathBuf, WatchDescriptor>,
}

/// What is to be watched for a path, as things are.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Plan {
    /// Those whose entries matter.
    directories: BTreeSet<PathBuf>,
    /// Those of which only matters that they stay.
    above: BTreeSet<PathBuf>,
    /// The names of entries that matter; empty: all of them, as there are symbolic links.
    names: BTreeSet<OsString>,
}

impl Plan {
    fn of(path: &Path) -> Self {
        let mut plan = Self::default();
        let mut names: BTreeSet<OsString> = BTreeSet::new();
        let mut linked = false;
        let mut deepest = true;
        let mut place = path;
        while let (Some(directory), Some(name)) = (place.parent(), place.file_name()) {
            let link = fs::symlink_metadata(place).is_ok_and(|data| data.is_symlink());
            linked |= link;
            names.insert(name.to_owned());
            if !fs::metadata(directory).is_ok_and(|data| data.is_dir()) {
                // It is missing itself: the one above is the deepest then.
            } else if deepest || link {
                plan.directories.insert(directory.to_owned());
                deepest = false;
            } else {
                plan.above.insert(directory.to_owned());
            }
            place = directory;
        }
        if linked {
            let real = fs::canonicalize(path).ok();
            let real = real.as_deref().and_then(Path::parent);
            plan.directories.extend(real.map(Path::to_owned));
            plan.above.extend(fs::canonicalize(path));
        } else {
            plan.names = names;
        }
        plan.above.retain(|above| !plan.directories.contains(above));
        plan
    }
}

impl Watches {
    /// Watches what there is to watch. What changed meanwhile is no longer missed then.
    fn set_up(&mut self, inotify: &Inotify, path: &Path) -> io::Result<()> {
        // Things may change faster than this, but then events wait.
        for _ in 0..8 {
            let plan = Plan::of(path);
            self.set_to(inotify, plan.clone())?;
            if Plan::of(path) == plan {
                break;
            }
        }
        Ok(())
    }

    fn set_to(&mut self, inotify: &Inotify, plan: Plan) -> io::Result<()> {
        let stays = AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_MOVE_SELF;
        let changes = AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_ATTRIB;
        let entries = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVE;
        let wanted: BTreeSet<&PathBuf> = plan.directories.iter().chain(&plan.above).collect();
        let mut set = BTreeMap::new();
        for path in wanted {
            let flags = match plan.directories.contains(path) {
                true => stays | changes | entries | AddWatchFlags::IN_ONLYDIR,
                false => stays | AddWatchFlags::IN_CLOSE_WRITE,
            };
            match inotify.add_watch(path, flags) {
                Ok(watch) => drop(set.insert(path.clone(), watch)),
                // It is gone by now, which the next plan sees.
                Err(Errno::ENOENT | Errno::ENOTDIR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        // One of another name may be the same directory, by a link.
        let kept: Vec<WatchDescriptor> = set.values().copied().collect();
        for watch in self.set.values().filter(|watch| !kept.contains(watch)) {
            // Of one that is gone the kernel has forgotten the watch.
            let _ = inotify.rm_watch(*watch);
        }
        (self.set, self.plan) = (set, plan);
        Ok(())
    }

    /// Whether the event may be about the file.
    fn concern(&self, event: &InotifyEvent) -> bool {
        let whole = AddWatchFlags::IN_Q_OVERFLOW
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_UNMOUNT;
        let names = &self.plan.names;
        match &event.name {
            _ if event.mask.intersects(whole) => true,
            // That a watch was removed, by ourselves or with what it was on.
            None if event.mask.contains(AddWatchFlags::IN_IGNORED) => false,
            None => true,
            Some(name) => names.is_empty() || names.contains(name),
        }
    }
}

/// What a look at a file found.
enum Seen {
    Outcome(Outcome),
    /// It is to hold a number and is empty: it may be about to be written.
    Empty,
}

fn look(path: &Path, check: FileCheck) -> Seen {
    let there = match fs::metadata(path) {
        Ok(_) => true,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            false
        }
        Err(error) => return Seen::Outcome(Err(TrackFailure::Local(error.to_string()))),
    };
    Seen::Outcome(match (check, there) {
        (FileCheck::Exists, true) => Ok(Sight::of("the file is there")),
        (FileCheck::Absent, false) => Ok(Sight::of("the file is not there")),
        (FileCheck::Exists | FileCheck::Number, false) => Err(TrackFailure::Missing),
        (FileCheck::Absent, true) => Err(TrackFailure::Present),
        (FileCheck::Number, true) => match text(path) {
            Ok(text) if text.is_empty() => return Seen::Empty,
            Ok(text) => number(&text).ok_or(TrackFailure::NoNumber),
            Err(error) => Err(TrackFailure::Local(error.to_string())),
        },
    })
}

/// The beginning of a file.
fn text(path: &Path) -> io::Result<Vec<u8>> {
    const LONGEST: u64 = 64;
    // Without waiting for a writer, where it is a pipe.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut text = Vec::new();
    file.take(LONGEST).read_to_end(&mut text)?;
    Ok(text)
}

/// The integer that a text is, as far as a priority can be changed by it.
fn number(text: &[u8]) -> Option<Sight> {
    let number: i64 = str::from_utf8(text).ok()?.trim().parse().ok()?;
    let number = i16::try_from(number.clamp(-MOST, MOST)).ok()?;
    Some(Sight {
        number: Some(number),
        what: format!("the file holds {number}"),
    })
}
