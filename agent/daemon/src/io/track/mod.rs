//! What is tracked beside the backends: looked at once, or watched, by order of the core.
//!
//! * [`Tracks`] is what the driver holds. Each order is a task on the workers' runtime, so that
//!   nothing here ever delays an advert.
//! * [`script`] runs a program; [`exec`] is what becomes of the daemon's executable in the new
//!   process before it is that program: without priority, capabilities and files.
//! * [`gateway`] asks a segment for a host.
//! * [`interface`], [`mod@file`] and [`process`] watch: they report what is so at first, and then whenever
//!   it changes, by the kernel's word and not by polling.
//!
//! What comes from outside is bounded: of a script's output a line is kept, of a file some bytes.

pub(crate) mod exec;
mod file;
mod gateway;
mod interface;
mod pidfd;
mod process;
mod script;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use steerd_core::{
    config::{Name, Track, TrackKind},
    event::{Event, Sight, TrackFailure},
};
use tokio::{runtime::Handle, sync::mpsc, task::AbortHandle};

use self::script::Scripts;

/// What a look found.
type Outcome = Result<Sight, TrackFailure>;

/// The checks and watches under way.
pub(crate) struct Tracks {
    workers: Handle,
    events: mpsc::Sender<Event>,
    /// All but scripts, which end by being killed.
    tasks: BTreeMap<Name, AbortHandle>,
    scripts: Scripts,
}

impl Tracks {
    /// Nothing is under way. What is seen goes to `events`.
    pub(crate) fn new(workers: Handle, events: mpsc::Sender<Event>) -> Self {
        Self {
            workers,
            events,
            tasks: BTreeMap::new(),
            scripts: Scripts::default(),
        }
    }

    /// Checks `track` once, or watches it from now on. `virtual_addresses` are never a sender's.
    pub(crate) fn run(
        &mut self,
        track: &Track,
        ticket: u64,
        virtual_addresses: impl FnOnce() -> BTreeSet<IpAddr>,
    ) {
        let mut reporter = Reporter {
            track: track.name.clone(),
            ticket,
            events: self.events.clone(),
            last: None,
        };
        let pace = track.pace;
        let task = match track.kind.clone() {
            TrackKind::Script(script) => {
                let run = self.scripts.run(script, pace.timeout, reporter);
                self.workers.spawn(run);
                return;
            }
            TrackKind::Gateway { address, interface } => {
                let virtual_addresses = virtual_addresses();
                self.workers.spawn(async move {
                    let seen =
                        gateway::ask(address, interface, &virtual_addresses, pace.timeout).await;
                    reporter.report(seen).await;
                })
            }
            TrackKind::Interface { interface } => {
                self.workers.spawn(interface::watch(interface, reporter))
            }
            TrackKind::File { path, check } => {
                self.workers.spawn(file::watch(path, check, reporter))
            }
            TrackKind::Process { process, at_least } => {
                let watch = process::watch(process, at_least, pace.interval, reporter);
                self.workers.spawn(watch)
            }
            // The node knows its services itself.
            TrackKind::Service { .. } => return,
        };
        if let Some(before) = self.tasks.insert(track.name.clone(), task.abort_handle()) {
            before.abort();
        }
    }

    /// Ends what is under way for `track`.
    pub(crate) fn stop(&mut self, track: &Name) {
        self.scripts.kill(track);
        if let Some(task) = self.tasks.remove(track) {
            task.abort();
        }
    }
}

impl Drop for Tracks {
    fn drop(&mut self) {
        self.scripts.kill_all();
        for task in self.tasks.values() {
            task.abort();
        }
    }
}

/// Where a run or watch tells what it saw.
struct Reporter {
    track: Name,
    ticket: u64,
    events: mpsc::Sender<Event>,
    last: Option<Outcome>,
}

impl Reporter {
    /// Tells what was seen, where that is not what was told last.
    async fn report(&mut self, outcome: Outcome) {
        if self.last.as_ref() == Some(&outcome) {
            return;
        }
        self.last = Some(outcome.clone());
        let event = Event::Track {
            track: self.track.clone(),
            ticket: self.ticket,
            outcome,
        };
        // The driver is gone: nobody wants to know.
        let _ = self.events.send(event).await;
    }
}
