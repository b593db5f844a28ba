//! Answers as text for people. Every function here is pure: the same values give the same text.
//!
//! * [`mod@status`]: the whole of a node at one look, its services, its backends.
//! * [`mod@maps`]: the maps, what is in them, and flows.

mod channel;
mod maps;
mod status;

#[cfg(test)]
pub(crate) mod samples;

use std::net::{IpAddr, SocketAddr};

use steerd_core::{
    api::{BackendState, Done, Reloaded},
    vrrp::election::Role,
};

pub(crate) use maps::{DumpTable, flows, maps};
pub(crate) use status::{backends, services, status};

use crate::table::{Tone, clean};

/// What a reload changed, or would change.
pub(crate) fn reloaded(reloaded: &Reloaded, dry_run: bool) -> String {
    if reloaded.changes.is_empty() {
        let text = if dry_run {
            "nothing would change"
        } else {
            "nothing changed"
        };
        return format!("{text}\n");
    }
    let lead = if dry_run {
        "a reload would change:"
    } else {
        "changed:"
    };
    let mut text = format!("{lead}\n");
    for change in &reloaded.changes {
        text.push_str(&format!("  {}\n", clean(change)));
    }
    text
}

/// What was done.
pub(crate) fn done(done: &Done) -> String {
    format!("{}\n", clean(&done.message))
}

/// An address with its port.
pub(crate) fn socket(address: IpAddr, port: u16) -> String {
    SocketAddr::new(address, port).to_string()
}

fn role_word(role: Role) -> (&'static str, Tone) {
    match role {
        Role::Init => ("init", Tone::Doubtful),
        Role::Backup => ("backup", Tone::Plain),
        Role::Master => ("master", Tone::Good),
        Role::Fault => ("fault", Tone::Bad),
    }
}

fn state_word(state: BackendState) -> (&'static str, Tone) {
    match state {
        BackendState::Unknown => ("unknown", Tone::Doubtful),
        BackendState::Up => ("up", Tone::Good),
        BackendState::Failing => ("failing", Tone::Doubtful),
        BackendState::Down => ("down", Tone::Bad),
        BackendState::Rising => ("rising", Tone::Doubtful),
        BackendState::Unreachable => ("unreachable", Tone::Bad),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reloads() {
        let none = Reloaded {
            changes: Vec::new(),
        };
        assert_eq!(reloaded(&none, false), "nothing changed\n");
        assert_eq!(reloaded(&none, true), "nothing would change\n");
        let some = Reloaded {
            changes: vec!["service game: backend c added".into()],
        };
        assert_eq!(
            reloaded(&some, false),
            "changed:\n  service game: backend c added\n"
        );
        assert!(reloaded(&some, true).starts_with("a reload would change:\n"));
    }
}
