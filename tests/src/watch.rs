//! The watcher: asks the daemons and looks at the load, and tells what changed.

use std::{
    fmt::Write,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use steerd_core::{
    api::{BackendState, Status},
    vrrp::election::Role,
};

use crate::{
    config::ECHO,
    lab::{Ctls, Lab, Load},
    node::NodeId,
    players::Snapshot,
    timeline::Timeline,
};

/// A thread that watches a lab; it ends on drop.
#[derive(Debug)]
pub struct Watcher {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    /// Watches the daemons of `lab` and `load`, and tells its timeline.
    #[must_use]
    pub fn start(lab: &Lab, load: Arc<Load>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let mut watch = Watch {
            ctls: lab.ctls(),
            load,
            timeline: lab.timeline.clone(),
            since: None,
            nodes: [None, None],
            server: None,
            connected: 0,
            cuts: 0,
        };
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                watch.look();
                thread::sleep(Duration::from_millis(150));
            }
            watch.timeline.status("");
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // It only tells a story; if it failed at that, the run is still good.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

struct Watch {
    ctls: Ctls,
    load: Arc<Load>,
    timeline: Arc<Timeline>,
    /// Since when there is service at all.
    since: Option<Instant>,
    nodes: [Option<Status>; 2],
    server: Option<String>,
    connected: usize,
    cuts: u64,
}

impl Watch {
    fn look(&mut self) {
        for id in NodeId::ALL {
            let ctl = self.ctls.lock().unwrap_or_else(PoisonError::into_inner)[id as usize].clone();
            let now = ctl.and_then(|ctl| ctl.status().ok());
            for change in changes(self.nodes[id as usize].as_ref(), now.as_ref()) {
                self.timeline
                    .event(format_args!("{:<8} {change}", id.name()));
            }
            self.nodes[id as usize] = now;
        }
        self.look_at_load();
        if self.timeline.is_live() {
            self.timeline.status(&self.status_line());
        }
    }

    fn look_at_load(&mut self) {
        let server = self.load.prober.last().map(|answer| answer.server);
        if server.is_some() {
            self.since.get_or_insert_with(Instant::now);
        }
        if server != self.server {
            let name = server.as_deref().unwrap_or("nobody");
            self.timeline.event(format_args!(
                "clients  new connections are answered by {name}"
            ));
            self.server = server;
        }
        let players = self.load.players.snapshot();
        let cut = players.cuts > self.cuts;
        if cut || players.connected != self.connected {
            let Snapshot {
                connected,
                players,
                cuts,
                ..
            } = players;
            let there = if connected == players {
                "all are playing".to_owned()
            } else if cut {
                format!("{} connections were cut", cuts - self.cuts)
            } else {
                format!(
                    "{} are between two games or try to connect",
                    players - connected
                )
            };
            self.timeline.event(format_args!(
                "players  {connected} of {players} connected: {there}"
            ));
            (self.connected, self.cuts) = (connected, cuts);
        }
    }

    fn status_line(&self) -> String {
        let mut line = format!("{:>7.1}s  ", self.timeline.seconds());
        for id in NodeId::ALL {
            let role = match &self.nodes[id as usize] {
                None => "gone",
                Some(status) => status
                    .virtual_routers
                    .first()
                    .map_or("-", |router| role(router.role)),
            };
            // Writing to a string cannot fail.
            let _ = write!(line, "{} {role} | ", id.name());
        }
        let players = self.load.players.snapshot();
        let _ = write!(line, "players {}/{}", players.connected, players.players);
        for (server, count) in &players.per_server {
            let _ = write!(line, ", {count} on {server}");
        }
        if let Some(since) = self.since {
            let gap = self.load.prober.outage(since);
            let _ = write!(line, " | longest gap {} ms", gap.as_millis());
        }
        line
    }
}

/// What is different, in words. The lab's own echo moves as the game does, and is left out.
fn changes(before: Option<&Status>, now: Option<&Status>) -> Vec<String> {
    let Some(now) = now else {
        return before
            .map(|_| "steerd does not answer".to_owned())
            .into_iter()
            .collect();
    };
    let mut changes = Vec::new();
    for router in &now.virtual_routers {
        let old = before
            .into_iter()
            .flat_map(|status| &status.virtual_routers);
        let old = old.into_iter().find(|old| old.name == router.name);
        if old.is_none_or(|old| old.role != router.role) {
            changes.push(format!(
                "{}: {} ({})",
                router.name,
                role(router.role),
                router.cause
            ));
        }
    }
    for service in now
        .services
        .iter()
        .filter(|service| service.name.as_str() != ECHO)
    {
        let old = before.into_iter().flat_map(|status| &status.services);
        let old = old.into_iter().find(|old| old.name == service.name);
        for backend in &service.backends {
            let old = old.into_iter().flat_map(|old| &old.backends);
            let old = old.into_iter().find(|old| old.name == backend.name);
            if old.is_none_or(|old| old.state != backend.state) {
                let (state, reason) = (state(backend.state), &backend.reason);
                changes.push(format!(
                    "{}/{}: {state} ({reason})",
                    service.name, backend.name
                ));
            }
        }
        if old.is_none_or(|old| old.active_tier != service.active_tier) {
            let tier = service
                .active_tier
                .map_or("none".to_owned(), |tier| tier.to_string());
            changes.push(format!("{}: tier {tier} takes new flows", service.name));
        }
    }
    changes
}

const fn role(role: Role) -> &'static str {
    match role {
        Role::Init => "init",
        Role::Backup => "backup",
        Role::Master => "MASTER",
        Role::Fault => "FAULT",
    }
}

const fn state(state: BackendState) -> &'static str {
    match state {
        BackendState::Unknown => "unknown",
        BackendState::Up => "up",
        BackendState::Failing => "failing",
        BackendState::Down => "down",
        BackendState::Rising => "rising",
        BackendState::Unreachable => "unreachable",
    }
}
