//! Who may do what. A peer is known by what the kernel says about the process that connected: its
//! user (`SO_PEERCRED`) and groups (`SO_PEERGROUPS`, Linux 4.13), both as of `connect`.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

use nix::unistd::{Gid, Uid};

/// The groups that may do something. Root may do everything, with or without them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Access {
    /// May read.
    pub(super) viewers: Option<Group>,
    /// May read and change.
    pub(super) admins: Option<Group>,
}

/// A group of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) name: String,
    pub(super) gid: Gid,
}

/// What a request needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Right {
    /// To see.
    Read,
    /// To change what the node does.
    Change,
}

/// The process at the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Peer {
    pub(super) uid: Uid,
    /// Primary and supplementary.
    pub(super) groups: Vec<Gid>,
}

/// A refusal; tells which group is missing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Denied {
    /// Somebody may, but not this peer.
    #[error(
        "user {uid} may not {}: that needs root or membership of the group {}; \
         after `usermod -aG GROUP USER` log in again",
        verb(.right),
        .groups.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" or ")
    )]
    NotMember {
        /// Who asked.
        uid: Uid,
        /// For what.
        right: Right,
        /// Those who may.
        groups: Vec<String>,
    },
    /// Only root may.
    #[error(
        "user {uid} may not {}: only root may, as the configuration names no group for it \
         (control.{})",
        verb(.right),
        key(.right)
    )]
    OnlyRoot {
        /// Who asked.
        uid: Uid,
        /// For what.
        right: Right,
    },
}

impl Access {
    /// Whether `peer` has `right`.
    pub(super) fn check(&self, peer: &Peer, right: Right) -> Result<(), Denied> {
        let uid = peer.uid;
        if uid.is_root() {
            return Ok(());
        }
        let mut groups: Vec<&Group> = match right {
            Right::Read => self.viewers.iter().chain(&self.admins).collect(),
            Right::Change => self.admins.iter().collect(),
        };
        groups.dedup();
        if groups.iter().any(|group| peer.groups.contains(&group.gid)) {
            return Ok(());
        }
        if groups.is_empty() {
            return Err(Denied::OnlyRoot { uid, right });
        }
        let groups = groups.iter().map(|group| group.name.clone()).collect();
        Err(Denied::NotMember { uid, right, groups })
    }
}

impl Peer {
    /// The process that connected `stream`.
    pub(super) fn of(stream: &tokio::net::UnixStream) -> io::Result<Self> {
        let credentials = stream.peer_cred()?;
        let mut groups = supplementary_groups(std::os::fd::AsFd::as_fd(stream))?;
        groups.push(Gid::from_raw(credentials.gid()));
        Ok(Self {
            uid: Uid::from_raw(credentials.uid()),
            groups,
        })
    }
}

fn verb(right: &Right) -> &'static str {
    match right {
        Right::Read => "read the state of steerd",
        Right::Change => "change the state of steerd",
    }
}

fn key(right: &Right) -> &'static str {
    match right {
        Right::Read => "viewer_group",
        Right::Change => "admin_group",
    }
}

/// `SO_PEERGROUPS`: as many as NGROUPS_MAX (65,536), so the kernel is asked how many there are.
fn supplementary_groups(socket: BorrowedFd<'_>) -> io::Result<Vec<Gid>> {
    let mut groups: Vec<libc::gid_t> = vec![0; 32];
    loop {
        let mut bytes = size_of_val(groups.as_slice()) as libc::socklen_t;
        // SAFETY: the descriptor is open for as long as it is borrowed, `groups` is writable for
        // `bytes` bytes, and the kernel writes whole gid_t and no more than that.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut bytes,
            )
        };
        let count = bytes as usize / size_of::<libc::gid_t>();
        if result == 0 {
            groups.truncate(count);
            return Ok(groups.into_iter().map(Gid::from_raw).collect());
        }
        // ERANGE: too little room, and `bytes` says how much is needed.
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ERANGE) || count <= groups.len() {
            return Err(error);
        }
        groups.resize(count, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(name: &str, gid: u32) -> Option<Group> {
        Some(Group {
            name: name.into(),
            gid: Gid::from_raw(gid),
        })
    }

    fn peer(uid: u32, groups: &[u32]) -> Peer {
        let groups = groups.iter().copied().map(Gid::from_raw).collect();
        Peer {
            uid: Uid::from_raw(uid),
            groups,
        }
    }

    #[test]
    fn who_may_do_what() {
        let none = Access::default();
        let viewers = Access {
            viewers: group("view", 10),
            admins: None,
        };
        let admins = Access {
            viewers: None,
            admins: group("steerd", 20),
        };
        let both = Access {
            viewers: group("view", 10),
            admins: group("steerd", 20),
        };
        let same = Access {
            viewers: group("steerd", 20),
            admins: group("steerd", 20),
        };
        // Read and change, for: root, a member of neither, of 10, of 20, of both.
        let table = [
            (&none, ["rc", "", "", "", ""]),
            (&viewers, ["rc", "", "r", "", "r"]),
            (&admins, ["rc", "", "", "rc", "rc"]),
            (&both, ["rc", "", "r", "rc", "rc"]),
            (&same, ["rc", "", "", "rc", "rc"]),
        ];
        let peers = [
            peer(0, &[]),
            peer(1000, &[1000, 0]),
            peer(1000, &[1000, 10]),
            peer(1000, &[20]),
            peer(1000, &[1000, 10, 20]),
        ];
        for (access, expected) in table {
            for (peer, expected) in peers.iter().zip(expected) {
                let mut rights = String::new();
                if access.check(peer, Right::Read).is_ok() {
                    rights.push('r');
                }
                if access.check(peer, Right::Change).is_ok() {
                    rights.push('c');
                }
                assert_eq!(rights, expected, "{access:?} {peer:?}");
            }
        }
    }

    #[test]
    fn a_refusal_names_the_groups() {
        let access = Access {
            viewers: group("view", 10),
            admins: group("steerd", 20),
        };
        let refusal = |access: &Access, right| {
            access
                .check(&peer(1000, &[7]), right)
                .unwrap_err()
                .to_string()
        };
        assert_eq!(
            refusal(&access, Right::Read),
            "user 1000 may not read the state of steerd: that needs root or membership of the \
             group `view` or `steerd`; after `usermod -aG GROUP USER` log in again"
        );
        let same = Access {
            viewers: access.admins.clone(),
            ..access
        };
        assert!(refusal(&same, Right::Read).contains("the group `steerd`;"));
        assert!(refusal(&same, Right::Change).contains("change the state"));
        let only_root = refusal(&Access::default(), Right::Change);
        assert!(only_root.contains("only root may") && only_root.contains("control.admin_group"));
    }

    #[tokio::test]
    async fn the_peer_is_this_process() {
        let (ours, _theirs) = tokio::net::UnixStream::pair().unwrap();
        let peer = Peer::of(&ours).unwrap();
        assert_eq!(peer.uid, Uid::effective());
        let mut expected = nix::unistd::getgroups().unwrap();
        expected.push(Gid::effective());
        assert_eq!(peer.groups, expected);
    }
}
