//! The maps as they are pinned in bpffs: what the daemon would tell of them, told without it.
//!
//! The pins outlive the daemon, so this works when it is down, hangs or will not start. Names of
//! services and backends are the daemon's knowledge: here they are the numbers in the maps.

use std::{
    fs, io,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::atomic::Ordering::Relaxed,
    time::Duration,
};

use steerd_core::api::{Flow, Flows, FlowsQuery, MapDump, MapEntry, MapInfo, Maps};
use steerd_ebpf::{
    abi::{
        self,
        maps::{self, Kind},
    },
    clock::Clock,
    flow, inspect,
};

use crate::bpf::{Map, TYPE_ARRAY, TYPE_DEVMAP_HASH, TYPE_LPM_TRIE, TYPE_PERCPU_ARRAY};

/// Why the pins do not answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PinError {
    /// The daemon never ran, or with another directory or version.
    #[error(
        "there are no maps in {}: steerd of this version has not run since the boot, or with \
         another directory (--bpf-dir; dataplane.bpf_dir in its configuration)",
        .0.display()
    )]
    NoDirectory(PathBuf),
    /// Not root.
    #[error("only root can read the maps in {}: use sudo", .0.display())]
    NoPermission(PathBuf),
    /// No map of that name.
    #[error("no map is called {name:?}; there are {}", maps::ALL.map(|map| map.name).join(", "))]
    Unknown {
        /// What was asked for.
        name: String,
    },
    /// Not what this program was built for.
    #[error(
        "{} has another shape than this steerctl expects: are steerctl {} and steerd of one \
         version?",
        path.display(),
        env!("CARGO_PKG_VERSION")
    )]
    Shape {
        /// The pin.
        path: PathBuf,
    },
    /// Any call failed.
    #[error("cannot {step} {}", path.display())]
    Io {
        /// What was tried.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A word of a query that only the daemon understands.
    #[error(
        "{0:?} is a name, and names are known to the running steerd only: give the number, see \
         `steerctl maps dump SERVICES` and `steerctl maps dump BACKENDS`"
    )]
    Name(String),
}

/// The directory of this version's maps.
#[derive(Debug, Clone)]
pub(crate) struct Pins {
    directory: PathBuf,
}

impl Pins {
    /// The pins in the daemon's bpffs directory.
    pub(crate) fn new(bpf_dir: &Path) -> Self {
        Self {
            directory: bpf_dir.join(abi::PIN_DIR),
        }
    }

    /// Where they are.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// What maps there are.
    pub(crate) fn maps(&self) -> Result<Maps, PinError> {
        let maps = maps::ALL
            .iter()
            .map(|shape| Ok(self.open(shape.name)?.info));
        Ok(Maps {
            maps: maps.collect::<Result<_, PinError>>()?,
        })
    }

    /// A part of a map, like [`steerd_core::api::DumpQuery`] asks for.
    pub(crate) fn dump(&self, name: &str, from: u64) -> Result<MapDump, PinError> {
        let pin = self.open(name)?;
        let (mut entries, mut next) = (Vec::new(), None);
        pin.each(from, |at, key, value| {
            let found = decode(name, at, key, value);
            let key = u64::from(at);
            if entries.len() + found.len() > MapDump::MAX_ENTRIES {
                next = Some(key);
                return ControlFlow::Break(());
            }
            entries.extend(found.into_iter().map(|fields| {
                MapEntry {
                    key,
                    fields: fields
                        .into_iter()
                        .map(|(name, value)| (name.to_owned(), value))
                        .collect(),
                }
            }));
            ControlFlow::Continue(())
        })?;
        Ok(MapDump {
            name: name.to_owned(),
            entries,
            next,
        })
    }

    /// Flows by the numbers of their services and backends.
    pub(crate) fn flows(&self, query: &FlowsQuery) -> Result<Flows, PinError> {
        let number = |text: &Option<String>| match text {
            None => Ok(None),
            Some(text) => text
                .parse()
                .map(Some)
                .map_err(|_| PinError::Name(text.clone())),
        };
        let service: Option<u16> = number(&query.service)?;
        let backend: Option<u16> = number(&query.backend)?;
        let clock = read_clock().map_err(|source| PinError::Io {
            step: "read the clock for",
            path: self.directory.clone(),
            source,
        })?;

        let limit = query.limit() as usize;
        let mut found = Flows {
            total: 0,
            flows: Vec::new(),
        };
        let mut take = |flow: inspect::Flow| {
            let asked = service.is_none_or(|id| id == flow.service)
                && backend.is_none_or(|id| id == flow.backend);
            if !asked {
                return;
            }
            found.total += 1;
            if found.flows.len() < limit {
                found.flows.push(Flow {
                    client: flow.client,
                    client_port: flow.client_port,
                    service: flow.service.to_string(),
                    backend: flow.backend.to_string(),
                    state: inspect::state_name(flow.state).to_owned(),
                    idle_s: clock.since(flow.seen).as_secs(),
                });
            }
        };
        self.open(maps::FLOWS4)?.each(0, |_, _, set| {
            set.chunks_exact(size_of::<flow::Entry4>())
                .filter_map(inspect::flow4)
                .for_each(&mut take);
            ControlFlow::Continue(())
        })?;
        self.open(maps::FLOWS6)?.each(0, |_, _, set| {
            set.chunks_exact(size_of::<flow::Entry6>())
                .filter_map(inspect::flow6)
                .for_each(&mut take);
            ControlFlow::Continue(())
        })?;
        Ok(found)
    }

    fn open(&self, name: &str) -> Result<Pin, PinError> {
        let Some(expected) = maps::ALL.iter().find(|shape| shape.name == name) else {
            return Err(PinError::Unknown {
                name: name.to_owned(),
            });
        };
        let path = self.directory.join(expected.name);
        let map = Map::open(&path).map_err(|error| self.unopened(&path, error))?;
        let info = map.info().map_err(failed("inspect", &path))?;
        let map_type = match expected.kind {
            Kind::Array => TYPE_ARRAY,
            Kind::PerCpu => TYPE_PERCPU_ARRAY,
            Kind::Trie => TYPE_LPM_TRIE,
            Kind::Devices => TYPE_DEVMAP_HASH,
        };
        let shape = (
            info.map_type,
            info.key_size,
            info.value_size,
            info.max_entries,
        );
        let wanted = (
            map_type,
            expected.key_size,
            expected.value_size,
            expected.entries,
        );
        if shape != wanted {
            return Err(PinError::Shape { path });
        }
        let info = MapInfo {
            name: expected.name.to_owned(),
            id: info.id,
            map_type: expected.kind.name().to_owned(),
            key_size: info.key_size,
            value_size: info.value_size,
            max_entries: info.max_entries,
            purpose: expected.purpose.to_owned(),
        };
        Ok(Pin {
            path,
            map,
            info,
            kind: expected.kind,
        })
    }

    fn unopened(&self, path: &Path, error: io::Error) -> PinError {
        match error.kind() {
            io::ErrorKind::NotFound => PinError::NoDirectory(self.directory.clone()),
            io::ErrorKind::PermissionDenied => PinError::NoPermission(self.directory.clone()),
            _ => failed("open the pinned map", path)(error),
        }
    }
}

/// An open map of the expected shape.
#[derive(Debug)]
struct Pin {
    path: PathBuf,
    map: Map,
    info: MapInfo,
    kind: Kind,
}

impl Pin {
    /// Hands out the elements from an index on: its index, key and value. Of a trie the index is the
    /// place in the kernel's order.
    fn each(
        &self,
        from: u64,
        mut visit: impl FnMut(u32, &[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), PinError> {
        let from = u32::try_from(from).unwrap_or(u32::MAX);
        let by_index = |index: u32, value: &[u8]| visit(index, &index.to_ne_bytes(), value);
        match self.kind {
            Kind::Array => self.each_mapped(from, by_index),
            Kind::PerCpu => self.each_sum(from, by_index),
            Kind::Trie => self.each_keyed((0..).zip(self.keys()?), from, visit),
            Kind::Devices => {
                let index =
                    |key: &Vec<u8>| key.first_chunk().map_or(0, |key| u32::from_ne_bytes(*key));
                let mut keys: Vec<_> = self
                    .keys()?
                    .into_iter()
                    .map(|key| (index(&key), key))
                    .collect();
                keys.sort_unstable();
                self.each_keyed(keys, from, visit)
            }
        }
    }

    /// All keys. While somebody takes keys out the kernel may begin anew, so there is an end.
    fn keys(&self) -> Result<Vec<Vec<u8>>, PinError> {
        let size = self.info.key_size as usize;
        let mut keys: Vec<Vec<u8>> = Vec::new();
        while keys.len() < self.info.max_entries as usize {
            let mut key = vec![0; size];
            // SAFETY: both are as long as the map's keys.
            let found = unsafe { self.map.next_key(keys.last().map(Vec::as_slice), &mut key) };
            if !found.map_err(failed("read the pinned map", &self.path))? {
                break;
            }
            keys.push(key);
        }
        Ok(keys)
    }

    /// The elements of these keys that are still there, from an index on.
    fn each_keyed(
        &self,
        keys: impl IntoIterator<Item = (u32, Vec<u8>)>,
        from: u32,
        mut visit: impl FnMut(u32, &[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), PinError> {
        let size = self.info.value_size as usize;
        let mut value = vec![0_u64; size.div_ceil(8)];
        for (index, key) in keys.into_iter().filter(|&(index, _)| index >= from) {
            // SAFETY: the key is one of the map's, and `value` has room for one of its values.
            let found = unsafe { self.map.look_up(&key, &mut value) };
            if !found.map_err(failed("read the pinned map", &self.path))? {
                continue;
            }
            let bytes: Vec<u8> = value.iter().flat_map(|word| word.to_ne_bytes()).collect();
            if visit(index, &key, bytes.get(..size).unwrap_or_default()).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// An array in memory: half a million elements without a system call for each.
    fn each_mapped(
        &self,
        from: u32,
        mut visit: impl FnMut(u32, &[u8]) -> ControlFlow<()>,
    ) -> Result<(), PinError> {
        let size = self.info.value_size as usize;
        let bytes = size * self.info.max_entries as usize;
        let view = self
            .map
            .view(bytes)
            .map_err(failed("map into memory", &self.path))?;
        let mut value = vec![0; size];
        for (key, words) in (0..).zip(view.chunks_exact(size / 8)).skip(from as usize) {
            for (bytes, word) in value.chunks_exact_mut(8).zip(words) {
                bytes.copy_from_slice(&word.load(Relaxed).to_ne_bytes());
            }
            if visit(key, &value).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// A per-CPU array: each word is the sum of the CPUs' words.
    fn each_sum(
        &self,
        from: u32,
        mut visit: impl FnMut(u32, &[u8]) -> ControlFlow<()>,
    ) -> Result<(), PinError> {
        let words = self.info.value_size as usize / 8;
        let mut values = vec![0_u64; words * possible_cpus()?];
        let mut sum = vec![0; words * 8];
        for key in from..self.info.max_entries {
            // SAFETY: a per-CPU array with values of `words` words, as `open` has checked, and
            // `values` has room for that of each possible CPU.
            unsafe { self.map.look_up(&key.to_ne_bytes(), &mut values) }
                .map_err(failed("read the pinned map", &self.path))?;
            for (at, bytes) in sum.chunks_exact_mut(8).enumerate() {
                let total = values
                    .chunks_exact(words)
                    .filter_map(|value| value.get(at))
                    .fold(0_u64, |total, word| total.wrapping_add(*word));
                bytes.copy_from_slice(&total.to_ne_bytes());
            }
            if visit(key, &sum).is_break() {
                break;
            }
        }
        Ok(())
    }
}

/// The entries of one element.
fn decode(name: &str, index: u32, key: &[u8], value: &[u8]) -> Vec<Vec<inspect::Field>> {
    if name != maps::SOURCES {
        return inspect::decode(name, index, value);
    }
    let entry = || {
        let (length, key) = key.split_first_chunk()?;
        let rule = u32::from_ne_bytes(*value.first_chunk()?);
        Some(inspect::source(
            u32::from_ne_bytes(*length),
            key.try_into().ok()?,
            rule,
        ))
    };
    entry().into_iter().collect()
}

/// How many CPUs the kernel keeps values for: all that may ever be plugged in.
fn possible_cpus() -> Result<usize, PinError> {
    let path = Path::new("/sys/devices/system/cpu/possible");
    let text = fs::read_to_string(path).map_err(failed("read", path))?;
    count_cpus(&text).ok_or_else(|| failed("understand", path)(io::ErrorKind::InvalidData.into()))
}

/// The length of a list like `0-3,8`.
fn count_cpus(list: &str) -> Option<usize> {
    let mut count = 0;
    for range in list.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        count += last.checked_sub(first)? + 1;
    }
    Some(count)
}

fn read_clock() -> io::Result<Clock> {
    let tick = timespec(|out| {
        // SAFETY: `out` is a timespec to write to.
        unsafe { libc::clock_getres(libc::CLOCK_MONOTONIC_COARSE, out) }
    })?;
    let now = timespec(|out| {
        // SAFETY: `out` is a timespec to write to.
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, out) }
    })?;
    Clock::new(tick, now).ok_or_else(|| io::ErrorKind::Unsupported.into())
}

fn timespec(call: impl FnOnce(*mut libc::timespec) -> libc::c_int) -> io::Result<Duration> {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    if call(&raw mut time) != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}

fn failed(step: &'static str, path: &Path) -> impl Fn(io::Error) -> PinError {
    let path = path.to_owned();
    move |source| PinError::Io {
        step,
        path: path.clone(),
        source,
    }
}

#[cfg(test)]
mod tests;
