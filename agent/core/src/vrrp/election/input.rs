//! What an election is told and what it answers.

use std::{fmt, net::IpAddr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{config::Name, vrrp::wire::Advert};

/// What a node is for a virtual router.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Just started: nothing decided yet. Also: stopped.
    Init,
    /// Listens to a master, ready to take over.
    Backup,
    /// Holds the addresses.
    Master,
    /// Cannot do its work: lost link, no healthy backend, address conflict.
    Fault,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Init => "init",
            Self::Backup => "backup",
            Self::Master => "master",
            Self::Fault => "fault",
        })
    }
}

/// Whether this node could do a master's work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ability {
    /// Not known yet, and what is waited for: a starting node waits, a running one goes on.
    Undecided(String),
    /// It could.
    Able,
    /// It could not, and why.
    Unable(String),
}

/// Something that happened to the virtual router, or to one of the group's.
#[derive(Debug, Clone, PartialEq)]
pub enum Input<'a> {
    /// What the node can do changed, or was looked at again.
    Ability(Ability),
    /// All links are up: peers are heard from now on.
    Listening,
    /// A peer's advert.
    Advert {
        /// For which virtual router.
        router: &'a Name,
        /// Who sent it.
        source: IpAddr,
        /// What it says.
        advert: &'a Advert,
    },
    /// An advert from this node's own address, which may be its own, back from the network.
    Echo {
        /// For which virtual router.
        router: &'a Name,
        /// What it says.
        advert: &'a Advert,
    },
    /// Another host has one of the addresses.
    Conflict {
        /// Whose address.
        router: &'a Name,
        /// The address.
        address: IpAddr,
        /// The host's MAC.
        mac: [u8; 6],
        /// Whether it is a known peer's, which announces the address when it becomes master.
        peer: bool,
    },
    /// The master orders this node over the channel to take over. The caller has made sure that it is
    /// the master.
    TakeOver {
        /// What.
        router: &'a Name,
        /// It sends its adverts from here.
        source: Option<IpAddr>,
    },
    /// The successor that was asked answers over the channel.
    Answered {
        /// For which virtual router.
        router: &'a Name,
        /// Whether it is master now.
        done: bool,
    },
    /// The peer that was master says over the channel that it is no longer.
    LetGo {
        /// Of which virtual router.
        router: &'a Name,
        /// It sent its adverts from here.
        source: Option<IpAddr>,
    },
    /// A deadline may have passed.
    Timer,
    /// Give the addresses to a peer.
    FailOver,
    /// End; `linger`: a master waits for a new holder first.
    Stop {
        /// Whether to wait.
        linger: bool,
    },
}

/// Something to do, in the order given: for every member, where none is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Send an advert.
    Advert {
        /// With this priority, 0 to resign.
        priority: u8,
    },
    /// Put the addresses on the interface.
    Acquire,
    /// Take them off.
    Release,
    /// Announce them once.
    Announce,
    /// Ask who has them.
    ProbeAddresses,
    /// Order this peer over the channel to take over.
    Ask {
        /// Whom.
        peer: Name,
    },
    /// The role changed.
    Role {
        /// Before.
        from: Role,
        /// After.
        to: Role,
        /// Why.
        cause: String,
    },
    /// A peer is heard for the first time or again, or a master is silent. When many appear at
    /// once, not each is told.
    Peer {
        /// Whose.
        router: Name,
        /// The peer.
        address: IpAddr,
        /// Whether it is heard.
        alive: bool,
    },
    /// Something is wrong with the set-up, with what to change. Of each kind of mistake one is told
    /// in a minute.
    Misconfigured {
        /// Where.
        router: Name,
        /// What, and what to change.
        what: String,
    },
}

/// What the adverts of the master that is followed say about its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// One is overdue by half an interval.
    Late(IpAddr),
    /// The master-down timer fires now.
    Silent(IpAddr, Duration),
}
