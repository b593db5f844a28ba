//! The socket file: where it is, that it is ours alone, and who can connect to it.
//!
//! | viewer_group, admin_group | socket | who can connect |
//! |---|---|---|
//! | neither | 0600 root | root |
//! | one of them, or both the same | 0660 root:group | its members |
//! | two different groups | 0666 | everybody |
//!
//! A file has one group only, hence the last line. In each case every request is checked against
//! the peer's own user and groups ([`super::access`]); the file's mode only spares strangers the
//! way.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt, PermissionsExt, chown},
    path::{Path, PathBuf},
};

use socket2::{Domain, SockAddr, Socket, Type};
use steerd_core::config::Control;
use tokio::net::UnixListener;

use super::access::{Access, Group};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 64;

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlError {
    /// The group is not there.
    #[error(
        "control.{key}: this host has no group `{name}`: create it with \
         `groupadd --system {name}`, or name another one"
    )]
    NoGroup {
        /// The configuration's key.
        key: &'static str,
        /// The name it holds.
        name: String,
    },
    /// The group could not be looked up.
    #[error("control.{key}: cannot look up the group `{name}`")]
    GroupLookup {
        /// The configuration's key.
        key: &'static str,
        /// The name it holds.
        name: String,
        /// Why.
        source: nix::Error,
    },
    /// Its directory could not be made.
    #[error("cannot create {}, the directory of the control socket", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another daemon holds it.
    #[error(
        "another steerd runs on the control socket {}: stop it, or give this one its own \
         control.socket and dataplane.bpf_dir",
        path.display()
    )]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something else is in its place.
    #[error(
        "{} exists and is no socket: move it away, or choose another control.socket",
        path.display()
    )]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// Any step failed.
    #[error("cannot {step} the control socket {}", path.display())]
    Socket {
        /// Which step.
        step: &'static str,
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The control socket, ready to serve. The file is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(super) listener: UnixListener,
    pub(super) access: Access,
    path: PathBuf,
    /// Held for as long as the socket: makes "nobody listens, so remove it" safe against another
    /// daemon that starts at the same time.
    _lock: File,
}

/// Makes the control socket.
///
/// # Errors
///
/// A group that is missing, a path that cannot be used, or another daemon on it.
pub(crate) fn bind(control: &Control) -> Result<Bound, ControlError> {
    let access = Access {
        viewers: group("viewer_group", control.viewer_group.as_deref())?,
        admins: group("admin_group", control.admin_group.as_deref())?,
    };
    let path = &control.socket;
    if let Some(directory) = path.parent() {
        create_directory(directory)?;
    }
    let lock = lock(path)?;
    remove_stale(path)?;
    let listener = listen(path, &access)?;
    Ok(Bound {
        listener,
        access,
        path: path.clone(),
        _lock: lock,
    })
}

impl Drop for Bound {
    fn drop(&mut self) {
        // Best effort: the next daemon removes one that is left.
        let _ = fs::remove_file(&self.path);
    }
}

fn group(key: &'static str, name: Option<&str>) -> Result<Option<Group>, ControlError> {
    let Some(name) = name else {
        return Ok(None);
    };
    match nix::unistd::Group::from_name(name) {
        Ok(Some(group)) => Ok(Some(Group {
            name: name.to_owned(),
            gid: group.gid,
        })),
        Ok(None) => Err(ControlError::NoGroup {
            key,
            name: name.to_owned(),
        }),
        Err(source) => Err(ControlError::GroupLookup {
            key,
            name: name.to_owned(),
            source,
        }),
    }
}

/// Under systemd it is there already (`RuntimeDirectory=`).
fn create_directory(path: &Path) -> Result<(), ControlError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)
        .map_err(|source| ControlError::Directory {
            path: path.to_owned(),
            source,
        })
}

fn lock(path: &Path) -> Result<File, ControlError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&name)
        .map_err(failed(path, "create the lock file of"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(ControlError::InUse {
            path: path.to_owned(),
        }),
        Err(TryLockError::Error(source)) => Err(failed(path, "lock")(source)),
    }
}

/// Removes the socket of a daemon that died; one that somebody listens on stays.
fn remove_stale(path: &Path) -> Result<(), ControlError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(failed(path, "inspect")(source)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(ControlError::NotASocket {
                path: path.to_owned(),
            });
        }
        Ok(_) => {}
    }
    let socket = new_socket(path)?;
    let address = SockAddr::unix(path).map_err(failed(path, "name"))?;
    match socket.connect(&address) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed(path, "remove the stale"))
        }
        // EAGAIN: its backlog is full, so somebody listens.
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
            Err(failed(path, "probe")(error))
        }
        Ok(()) | Err(_) => Err(ControlError::InUse {
            path: path.to_owned(),
        }),
    }
}

/// Between `bind` and `listen` nobody can connect, so nobody meets the wrong mode.
fn listen(path: &Path, access: &Access) -> Result<UnixListener, ControlError> {
    let socket = new_socket(path)?;
    let address = SockAddr::unix(path).map_err(failed(path, "name"))?;
    socket.bind(&address).map_err(failed(path, "bind"))?;
    let (mode, owner) = permissions(access);
    if let Some(group) = owner {
        chown(path, None, Some(group.gid.as_raw())).map_err(failed(path, "set the group of"))?;
    }
    fs::set_permissions(path, Permissions::from_mode(mode))
        .map_err(failed(path, "set the mode of"))?;
    socket.listen(BACKLOG).map_err(failed(path, "listen on"))?;
    UnixListener::from_std(std::os::fd::OwnedFd::from(socket).into())
        .map_err(failed(path, "register"))
}

/// The table at the top.
fn permissions(access: &Access) -> (u32, Option<&Group>) {
    match (&access.viewers, &access.admins) {
        (None, None) => (0o600, None),
        (Some(viewers), Some(admins)) if viewers.gid != admins.gid => (0o666, None),
        (Some(group), _) | (None, Some(group)) => (0o660, Some(group)),
    }
}

fn new_socket(path: &Path) -> Result<Socket, ControlError> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(failed(path, "create"))?;
    socket
        .set_nonblocking(true)
        .map_err(failed(path, "create"))?;
    Ok(socket)
}

fn failed(path: &Path, step: &'static str) -> impl FnOnce(io::Error) -> ControlError {
    let path = path.to_owned();
    move |source| ControlError::Socket { step, path, source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::{fs::MetadataExt, net::UnixStream};

    use nix::unistd::Gid;

    use super::*;

    fn control(directory: &Path) -> Control {
        Control {
            socket: directory.join("run/steerd/control.sock"),
            viewer_group: None,
            admin_group: None,
        }
    }

    fn own_group() -> String {
        nix::unistd::Group::from_gid(Gid::effective())
            .unwrap()
            .unwrap()
            .name
    }

    #[tokio::test]
    async fn makes_the_directory_and_the_modes() {
        let directory = tempfile::tempdir().unwrap();
        let mut control = control(directory.path());
        let bound = bind(&control).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!(mode(control.socket.parent().unwrap()) & !0o022, 0o755);
        assert_eq!(mode(&control.socket), 0o600);
        drop(bound);
        assert!(!control.socket.exists());

        control.admin_group = Some(own_group());
        let bound = bind(&control).unwrap();
        assert_eq!(mode(&control.socket), 0o660);
        assert_eq!(
            fs::metadata(&control.socket).unwrap().gid(),
            Gid::effective().as_raw()
        );
        drop(bound);
    }

    #[test]
    fn two_groups_need_a_socket_for_all() {
        let group = |gid| {
            Some(Group {
                name: "g".into(),
                gid: Gid::from_raw(gid),
            })
        };
        let mode = |viewers, admins| {
            let access = Access { viewers, admins };
            let (mode, owner) = permissions(&access);
            (mode, owner.map(|group| group.gid.as_raw()))
        };
        assert_eq!(mode(None, None), (0o600, None));
        assert_eq!(mode(group(1), None), (0o660, Some(1)));
        assert_eq!(mode(None, group(2)), (0o660, Some(2)));
        assert_eq!(mode(group(2), group(2)), (0o660, Some(2)));
        assert_eq!(mode(group(1), group(2)), (0o666, None));
    }

    #[tokio::test]
    async fn a_living_daemon_keeps_its_socket() {
        let directory = tempfile::tempdir().unwrap();
        let control = control(directory.path());
        let bound = bind(&control).unwrap();
        let error = bind(&control).unwrap_err();
        assert!(matches!(error, ControlError::InUse { .. }), "{error}");
        UnixStream::connect(&control.socket).unwrap();
        drop(bound);

        // Also one that knows nothing of the lock.
        let other = std::os::unix::net::UnixListener::bind(&control.socket).unwrap();
        let error = bind(&control).unwrap_err();
        assert!(matches!(error, ControlError::InUse { .. }), "{error}");
        assert!(control.socket.exists());
        drop(other);

        // Its file is left; now nobody listens.
        bind(&control).unwrap();
    }

    #[tokio::test]
    async fn what_is_no_socket_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let control = control(directory.path());
        fs::create_dir_all(control.socket.parent().unwrap()).unwrap();
        fs::write(&control.socket, "precious").unwrap();
        let error = bind(&control).unwrap_err();
        assert!(matches!(error, ControlError::NotASocket { .. }), "{error}");
        assert_eq!(fs::read(&control.socket).unwrap(), b"precious");
    }

    #[tokio::test]
    async fn a_missing_group_is_told_before_anything_is_made() {
        let directory = tempfile::tempdir().unwrap();
        let control = Control {
            admin_group: Some("no-such-group".into()),
            ..control(directory.path())
        };
        let error = bind(&control).unwrap_err().to_string();
        assert!(error.contains("groupadd --system no-such-group"), "{error}");
        assert!(error.starts_with("control.admin_group: "), "{error}");
        assert!(!control.socket.parent().unwrap().exists());
    }
}
