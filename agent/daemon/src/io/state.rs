//! What a daemon leaves for the next one of the same boot: of which virtual routers it was master,
//! and which addresses it put where.
//!
//! The state directory is on a tmpfs, so the file does not outlive the boot. Whether the roles are
//! recent is told by the heartbeat in the pinned control map, which the daemon writes all the time;
//! the file is written only when something in it changes. An address is noted before it is put
//! anywhere and struck out after it was taken off: whenever the daemon is killed, the note names at
//! least what is there.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use steerd_core::config::{Config, Name, VirtualRouter};

/// The state of this node in a file.
pub(crate) struct StateFile {
    path: PathBuf,
    state: State,
    /// What the file says.
    written: State,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    masters: BTreeSet<Name>,
    /// The virtual routers' addresses and those for translation, by interface. An earlier version did
    /// not say.
    #[serde(default)]
    addresses: BTreeMap<Name, BTreeSet<Net>>,
    /// The virtual addresses on the loopback interface, of which this host is a backend.
    #[serde(default)]
    served: BTreeSet<IpAddr>,
}

/// An address with its prefix, in the file as people write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
struct Net(IpNet);

/// The file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {path}: {source}; check `state_dir` under [node]")]
pub(crate) struct StateError {
    path: PathBuf,
    source: io::Error,
}

impl StateFile {
    /// The file in `dir`, which is made if it is missing, with what the last daemon left in it:
    /// nothing if there was none, or if it said it in a way that this version does not understand.
    pub(crate) fn open(dir: &Path) -> Result<Self, StateError> {
        let path = dir.join("state.json");
        fs::create_dir_all(dir).map_err(|source| StateError {
            path: path.clone(),
            source,
        })?;
        let state: State = fs::read(&path)
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default();
        Ok(Self {
            path,
            written: state.clone(),
            state,
        })
    }

    /// The virtual routers that this daemon, or before its first word the last one, is master of.
    pub(crate) fn masters(&self) -> &BTreeSet<Name> {
        &self.state.masters
    }

    /// Notes of which virtual routers this daemon is master.
    pub(crate) fn set_masters(&mut self, masters: &BTreeSet<Name>) -> Result<(), StateError> {
        self.state.masters.clone_from(masters);
        self.write()
    }

    /// Notes that the addresses of `router` are about to be put on its interface.
    pub(crate) fn acquiring(&mut self, router: &VirtualRouter) -> Result<(), StateError> {
        self.putting(&router.interface, &router.addresses)
    }

    /// Notes that `nets` are about to be put on `interface`.
    pub(crate) fn putting(&mut self, interface: &Name, nets: &[IpNet]) -> Result<(), StateError> {
        let noted = self.state.addresses.entry(interface.clone()).or_default();
        noted.extend(nets.iter().copied().map(Net));
        self.write()
    }

    /// Whether it is noted that `net` was put on some interface.
    pub(crate) fn was_put(&self, net: IpNet) -> bool {
        let mut noted = self.state.addresses.values();
        noted.any(|nets| nets.contains(&Net(net)))
    }

    /// Notes that `nets` are no longer on `interface`.
    pub(crate) fn released(&mut self, interface: &Name, nets: &[IpNet]) -> Result<(), StateError> {
        if let Some(noted) = self.state.addresses.get_mut(interface) {
            noted.retain(|net| !nets.contains(&net.0));
            if noted.is_empty() {
                self.state.addresses.remove(interface);
            }
        }
        self.write()
    }

    /// The addresses that were put on interfaces where `config` does not want them: an earlier daemon
    /// did not live to take them off. Those for translation are wanted on the `translating` ones.
    pub(crate) fn left_behind(
        &self,
        config: &Config,
        translating: &BTreeSet<Name>,
    ) -> Vec<(Name, IpNet)> {
        let configured = |interface: &Name, net: IpNet| {
            let mut routers = config.virtual_routers.iter();
            routers.any(|router| router.interface == *interface && router.addresses.contains(&net))
                || translating.contains(interface) && nat_nets(config).any(|wanted| wanted == net)
        };
        let noted = self.state.addresses.iter();
        noted
            .flat_map(|(interface, nets)| nets.iter().map(move |net| (interface.clone(), net.0)))
            .filter(|(interface, net)| !configured(interface, *net))
            .collect()
    }

    /// The virtual addresses that were put on the loopback interface.
    pub(crate) fn served(&self) -> &BTreeSet<IpAddr> {
        &self.state.served
    }

    /// Notes the virtual addresses that are, or are about to be put, on the loopback interface.
    pub(crate) fn set_served(&mut self, served: BTreeSet<IpAddr>) -> Result<(), StateError> {
        self.state.served = served;
        self.write()
    }

    fn write(&mut self) -> Result<(), StateError> {
        if self.written == self.state {
            return Ok(());
        }
        let fail = |source| StateError {
            path: self.path.clone(),
            source,
        };
        let text = serde_json::to_vec(&self.state).map_err(|error| fail(error.into()))?;
        // A reader sees the old state or the new one.
        let fresh = self.path.with_extension("new");
        fs::write(&fresh, text)
            .and_then(|()| fs::rename(&fresh, &self.path))
            .map_err(fail)?;
        self.written.clone_from(&self.state);
        Ok(())
    }
}

/// The addresses that packets are translated with, each alone.
pub(crate) fn nat_nets(config: &Config) -> impl Iterator<Item = IpNet> {
    config.nat.addresses.iter().map(|&address| address.into())
}

impl From<Net> for String {
    fn from(net: Net) -> Self {
        net.0.to_string()
    }
}

impl TryFrom<String> for Net {
    type Error = ipnet::AddrParseError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::lab;

    fn file() -> (tempfile::TempDir, StateFile) {
        let dir = tempfile::tempdir().unwrap();
        let file = StateFile::open(&dir.path().join("steerd")).unwrap();
        (dir, file)
    }

    /// The next daemon's.
    fn next(dir: &tempfile::TempDir) -> StateFile {
        StateFile::open(&dir.path().join("steerd")).unwrap()
    }

    #[test]
    fn the_next_daemon_knows() {
        let (dir, mut file) = file();
        assert!(file.masters().is_empty());
        file.set_masters(&[Name::new("game")].into()).unwrap();
        let vip: IpAddr = "10.9.0.100".parse().unwrap();
        file.set_served([vip].into()).unwrap();
        let next_file = next(&dir);
        assert_eq!(*next_file.masters(), [Name::new("game")].into());
        assert_eq!(*next_file.served(), [vip].into());
        fs::write(&next_file.path, "{\"masters\": 7}").unwrap();
        assert!(
            next(&dir).masters().is_empty(),
            "not understood: as if cold"
        );
        // What the first version wrote.
        fs::write(&next_file.path, "{\"masters\":[\"game\"]}").unwrap();
        assert_eq!(*next(&dir).masters(), [Name::new("game")].into());
    }

    #[test]
    fn what_the_next_configuration_lacks_was_left_behind() {
        let (dir, mut file) = file();
        let before = lab::config("eth0", &["10.9.0.100/24", "10.9.0.101/24"], &[]);
        file.acquiring(&before.virtual_routers[0]).unwrap();
        let none = BTreeSet::new();
        assert!(next(&dir).left_behind(&before, &none).is_empty());

        let net = |text: &str| -> IpNet { text.parse().unwrap() };
        let left = |interface, addresses: &[&str]| {
            next(&dir).left_behind(&lab::config(interface, addresses, &[]), &none)
        };
        let eth0 = |text| (Name::new("eth0"), net(text));
        let both = [eth0("10.9.0.100/24"), eth0("10.9.0.101/24")];
        assert_eq!(left("eth0", &["10.9.0.100/24"]), both[1..]);
        assert_eq!(left("eth1", &["10.9.0.100/24", "10.9.0.101/24"]), both);
        // To the kernel that is another address.
        assert_eq!(left("eth0", &["10.9.0.100/32", "10.9.0.101/24"]), both[..1]);

        // What was taken off is no longer the daemon's: it may be anybody's.
        file.released(&Name::new("eth0"), &[net("10.9.0.100/24")])
            .unwrap();
        assert_eq!(left("eth1", &["10.9.0.1/24"]), both[1..]);
        file.released(&Name::new("eth1"), &[net("10.9.0.101/24")])
            .unwrap();
        file.released(&Name::new("eth0"), &[net("10.9.0.101/24")])
            .unwrap();
        assert!(left("eth1", &["10.9.0.1/24"]).is_empty());
    }

    #[test]
    fn an_address_for_translation_is_wanted_where_answers_come() {
        let (dir, mut file) = file();
        let mut config = lab::config("eth0", &["10.9.0.100/24"], &[]);
        config.nat.addresses = vec!["10.9.0.50".parse().unwrap(), "fd09::50".parse().unwrap()];
        let nets: Vec<IpNet> = nat_nets(&config).collect();
        let shown: Vec<String> = nets.iter().map(IpNet::to_string).collect();
        assert_eq!(shown, ["10.9.0.50/32", "fd09::50/128"]);
        let places: BTreeSet<Name> = [Name::new("eth0"), Name::new("eth0.7")].into();
        for interface in &places {
            file.putting(interface, &nets).unwrap();
        }
        let after = next(&dir);
        assert!(nets.iter().all(|net| after.was_put(*net)));
        assert!(after.left_behind(&config, &places).is_empty());
        let left = |config: &Config, places: &[&str]| {
            let places = places.iter().map(|place| Name::new(place)).collect();
            let left = after.left_behind(config, &places);
            let left = left.iter().map(|(place, net)| format!("{place} {net}"));
            left.collect::<Vec<_>>()
        };
        assert_eq!(
            left(&config, &["eth0"]),
            ["eth0.7 10.9.0.50/32", "eth0.7 fd09::50/128"]
        );
        config.nat.addresses.truncate(1);
        assert_eq!(
            left(&config, &["eth0", "eth0.7"]),
            ["eth0 fd09::50/128", "eth0.7 fd09::50/128"]
        );
        assert_eq!(left(&config, &[]).len(), 4);
    }

    #[test]
    fn what_could_not_be_written_is_written_later() {
        let (dir, mut file) = file();
        let path = file.path.clone();
        let obstacle = path.with_extension("new");
        fs::create_dir(&obstacle).unwrap();
        let masters = [Name::new("game")].into();
        let error = file.set_masters(&masters).unwrap_err();
        assert!(error.to_string().contains("state_dir"), "{error}");
        fs::remove_dir(&obstacle).unwrap();
        file.set_masters(&masters).unwrap();
        assert_eq!(*next(&dir).masters(), masters);
    }
}
