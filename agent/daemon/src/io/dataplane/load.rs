//! Loading, pinning and attaching.
//!
//! Program, link and maps are pinned, so that they outlive the daemon:
//!
//! ```text
//! {bpf_dir}/v3/CONTROL, SERVICES, ...   the maps of this ABI version
//! {bpf_dir}/v3/link-eth0                the attachment to an interface
//! ```
//!
//! A daemon that starts finds them, checks that the maps are what it expects, loads its own
//! program on the same maps and puts it into the same link: packets see the old program or the new
//! one, never none. What an earlier ABI version left is taken over the same way, without its flows.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{MapInfo, MapType},
    programs::{
        ProgramError, Xdp, XdpMode as AyaMode,
        links::{FdLink, LinkError, PinnedLink},
        xdp::XdpLink,
    },
};
use steerd_core::config::{Dataplane as Config, Name, XdpMode};
use steerd_ebpf::abi::{
    LINK_PREFIX, PIN_DIR, PROGRAM,
    maps::{self, Kind, Shape},
};
use tracing::{debug, info, warn};

use super::{
    error::DataplaneError,
    mode,
    pins::{self, links, other_versions},
};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/steerd.o"));

/// Opens the pinned maps of this version, making those that are missing, for the program that
/// [`verify`] then hands to the kernel.
pub(super) fn prepare(config: &Config) -> Result<Ebpf, DataplaneError> {
    check_capabilities()?;
    let pins = config.bpf_dir.join(PIN_DIR);
    pins::check(&config.bpf_dir)?;
    // Other users have no business with the maps: the control socket decides who sees what.
    for dir in [&config.bpf_dir, &pins] {
        fs::create_dir_all(dir).map_err(pin_error("create", dir))?;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700))
            .map_err(pin_error("restrict", dir))?;
    }
    drop_mismatched(&pins)?;
    let mut loader = EbpfLoader::new();
    for shape in maps::ALL {
        loader.map_pin_path(shape.name, pins.join(shape.name));
    }
    loader.load(OBJECT).map_err(load_error)
}

/// Has the kernel verify the program, for which it takes several hundred milliseconds of a CPU.
///
/// The maps that were taken out of `ebpf` must still be open: the program names their descriptors.
pub(super) fn verify(mut ebpf: Ebpf) -> Result<Ebpf, DataplaneError> {
    let start = Instant::now();
    program(&mut ebpf)?.load().map_err(load_error)?;
    let verified_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    debug!(verified_ms, "the kernel has verified the program");
    Ok(ebpf)
}

/// Whether an earlier daemon left maps of this version.
pub(super) fn is_resumed(config: &Config) -> bool {
    config.bpf_dir.join(PIN_DIR).exists()
}

/// The configured interfaces on which an earlier daemon's program works with the maps of this version,
/// and how it is attached.
pub(super) fn carried(config: &Config) -> BTreeMap<Name, XdpMode> {
    let pins = config.bpf_dir.join(PIN_DIR);
    let carried = config.interfaces.iter().filter_map(|interface| {
        let link = PinnedLink::from_pin(pins.join(format!("{LINK_PREFIX}{interface}"))).ok()?;
        let link = FdLink::from(link).info().ok()?;
        // The interface may be another one of the same name: then the link is dead.
        let attached = attached(interface)?;
        (attached.program == link.program_id()).then(|| (interface.clone(), attached.mode))
    });
    carried.collect()
}

/// Attaches the loaded program to the configured interfaces, and takes it off those that are no
/// longer configured. Returns how it is attached to each.
///
/// # Errors
///
/// It cannot be attached to one: then it is on none that did not have it before.
pub(super) fn attach(
    ebpf: &mut Ebpf,
    config: &Config,
) -> Result<BTreeMap<Name, XdpMode>, DataplaneError> {
    let pins = config.bpf_dir.join(PIN_DIR);
    let program = program(ebpf)?;
    let others = other_versions(&config.bpf_dir);
    let mut fresh = Vec::new();
    for interface in &config.interfaces {
        if nix::net::if_::if_nametoindex(interface.as_str()).is_err() {
            // It was removed since the start; this is called again when it is back.
            continue;
        }
        let pin = pins.join(format!("{LINK_PREFIX}{interface}"));
        let attached = attach_one(program, interface, config.xdp_mode, &pin, &others);
        match attached {
            Ok(Attached::Replaced) => {}
            Ok(Attached::New) => fresh.push((interface, pin)),
            Err(error) => {
                for (interface, pin) in fresh {
                    detach(interface, &pin)?;
                }
                return Err(error);
            }
        }
    }
    for other in others {
        warn!(
            path = %other.display(),
            "removed the maps of another version of steerd: its flows are not carried over"
        );
        fs::remove_dir_all(&other).map_err(pin_error("remove", &other))?;
    }
    for link in links(&pins) {
        let keep = config
            .interfaces
            .iter()
            .any(|name| link.ends_with(format!("{LINK_PREFIX}{name}")));
        if !keep {
            info!(link = %link.display(), "detached from an interface that is no longer configured");
            fs::remove_file(&link).map_err(pin_error("remove", &link))?;
        }
    }
    let modes = config.interfaces.iter().filter_map(|interface| {
        let mode = attached(interface)?.mode;
        info!(%interface, ?mode, "program attached");
        Some((interface.clone(), mode))
    });
    Ok(modes.collect())
}

/// How the program came to be on an interface.
enum Attached {
    /// In place of an earlier one.
    Replaced,
    /// Where there was none.
    New,
}

fn attach_one(
    program: &mut Xdp,
    interface: &Name,
    mode: XdpMode,
    pin: &Path,
    others: &[PathBuf],
) -> Result<Attached, DataplaneError> {
    for other in others {
        adopt(
            program,
            &other.join(format!("{LINK_PREFIX}{interface}")),
            pin,
        )?;
    }
    // A link keeps its mode for life.
    if pin.exists()
        && mode != XdpMode::Auto
        && attached(interface).is_some_and(|attached| attached.mode != mode)
    {
        warn!(%interface, ?mode, "attaching anew for another mode: packets pass for a moment");
        detach(interface, pin)?;
    }
    if replace(program, pin)? {
        return Ok(Attached::Replaced);
    }
    attach_new(program, interface, mode, pin)?;
    Ok(Attached::New)
}

/// Removes a link's pin, and waits until the link is gone too: the kernel frees it later, from a
/// work queue.
fn detach(interface: &Name, pin: &Path) -> Result<(), DataplaneError> {
    fs::remove_file(pin).map_err(pin_error("remove", pin))?;
    let deadline = Instant::now() + Duration::from_secs(1);
    while attached(interface).is_some() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn attached(interface: &Name) -> Option<mode::Attached> {
    let index = nix::net::if_::if_nametoindex(interface.as_str()).ok()?;
    mode::attached(index).ok().flatten()
}

/// Puts the program into the link pinned at `from`, an earlier version's, and pins it at `to`.
fn adopt(program: &mut Xdp, from: &Path, to: &Path) -> Result<(), DataplaneError> {
    if from.exists() && !to.exists() && replace(program, from)? {
        fs::rename(from, to).map_err(pin_error("move", from))?;
    }
    Ok(())
}

/// Puts the program into the link pinned at `pin`. False if there is none, or its interface is
/// gone.
fn replace(program: &mut Xdp, pin: &Path) -> Result<bool, DataplaneError> {
    let link = match PinnedLink::from_pin(pin) {
        Ok(link) => link,
        Err(LinkError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => {
            return Ok(false);
        }
        Err(error) => return Err(pin_error("open", pin)(io::Error::other(error))),
    };
    let link = XdpLink::try_from(FdLink::from(link))
        .map_err(|error| pin_error("use", pin)(io::Error::other(error)))?;
    match program.attach_to_link(link) {
        Ok(id) => {
            // Dropping our descriptor does not detach: the pin holds the link.
            program
                .take_link(id)
                .map_err(|error| pin_error("hold", pin)(io::Error::other(error)))?;
            debug!(link = %pin.display(), "program replaced in its link");
            Ok(true)
        }
        Err(error) => {
            // The interface was removed and made again (ENOLINK): the link is dead.
            info!(link = %pin.display(), %error, "removed a link that no longer works");
            fs::remove_file(pin).map_err(pin_error("remove", pin))?;
            Ok(false)
        }
    }
}

fn attach_new(
    program: &mut Xdp,
    interface: &Name,
    mode: XdpMode,
    pin: &Path,
) -> Result<(), DataplaneError> {
    let aya_mode = match mode {
        XdpMode::Auto => AyaMode::Default,
        XdpMode::Driver => AyaMode::Driver,
        XdpMode::Generic => AyaMode::Skb,
    };
    let attach_error = |source: ProgramError| {
        let errno = match &source {
            ProgramError::SyscallError(error) => error.io_error.raw_os_error(),
            _ => None,
        };
        let interface = interface.clone();
        match errno {
            Some(libc::EBUSY | libc::EEXIST) => DataplaneError::Occupied { interface },
            Some(libc::EOPNOTSUPP) => DataplaneError::NoDriverSupport { interface },
            Some(libc::ENODEV) => DataplaneError::NoInterface { interface },
            _ => DataplaneError::Attach { interface, source },
        }
    };
    let index = nix::net::if_::if_nametoindex(interface.as_str()).map_err(|_| {
        DataplaneError::NoInterface {
            interface: interface.clone(),
        }
    })?;
    let id = program
        .attach_to_if_index(index, aya_mode)
        .map_err(attach_error)?;
    let link = program.take_link(id).map_err(attach_error)?;
    // Without a real link aya falls back to netlink, which cannot be pinned.
    let link = FdLink::try_from(link).map_err(|_| DataplaneError::NoXdpLinks)?;
    link.pin(pin)
        .map_err(|error| pin_error("pin the link at", pin)(io::Error::other(error)))?;
    Ok(())
}

fn program(ebpf: &mut Ebpf) -> Result<&mut Xdp, DataplaneError> {
    ebpf.program_mut(PROGRAM)
        .and_then(|program| program.try_into().ok())
        .ok_or_else(|| DataplaneError::Load(format!("the object has no program {PROGRAM}")))
}

/// Removes the pinned maps if one of them is not what this version expects: the kernel would let us
/// use it, and write beyond its values. All of them, because they refer to each other.
fn drop_mismatched(pins: &Path) -> Result<(), DataplaneError> {
    let fits = |shape: &Shape| {
        let path = pins.join(shape.name);
        let kind = match shape.kind {
            Kind::Array => (MapType::Array, BPF_F_MMAPABLE),
            Kind::PerCpu => (MapType::PerCpuArray, 0),
            Kind::Trie => (MapType::LpmTrie, BPF_F_NO_PREALLOC),
            Kind::Devices => (MapType::DevMapHash, BPF_F_RDONLY_PROG),
        };
        !path.exists()
            || MapInfo::from_pin(path).is_ok_and(|info| {
                info.map_type()
                    .is_ok_and(|map_type| (map_type, info.map_flags()) == kind)
                    && info.key_size() == shape.key_size
                    && info.value_size() == shape.value_size
                    && info.max_entries() == shape.entries
            })
    };
    let Some(odd) = maps::ALL.into_iter().find(|shape| !fits(shape)) else {
        return Ok(());
    };
    warn!(
        map = odd.name,
        path = %pins.display(),
        "replaced the pinned maps, because one has another shape: their flows are lost"
    );
    for shape in maps::ALL {
        let path = pins.join(shape.name);
        if path.exists() {
            fs::remove_file(&path).map_err(pin_error("remove", &path))?;
        }
    }
    Ok(())
}

/// The flag of a map that can be mapped into memory (linux/bpf.h).
const BPF_F_MMAPABLE: u32 = 1 << 10;

/// The flag of a map whose entries are made as they come: all tries.
const BPF_F_NO_PREALLOC: u32 = 1;

/// The flag that the kernel gives every map of devices.
const BPF_F_RDONLY_PROG: u32 = 1 << 7;

/// The capabilities steerd uses, by their numbers in linux/capability.h.
const CAPABILITIES: [(u32, &str); 4] = [
    (12, "CAP_NET_ADMIN"),
    (13, "CAP_NET_RAW"),
    (38, "CAP_PERFMON"),
    (39, "CAP_BPF"),
];
const CAP_SYS_ADMIN: u32 = 21;

fn check_capabilities() -> Result<(), DataplaneError> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    let missing = effective.map(missing_capabilities).unwrap_or_default();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(DataplaneError::Capability {
            missing: missing.join(", "),
        })
    }
}

fn missing_capabilities(effective: u64) -> Vec<&'static str> {
    let has = |number: u32| effective & 1 << number != 0;
    CAPABILITIES
        .into_iter()
        // Before Linux 5.8 there was no CAP_BPF and CAP_PERFMON, and CAP_SYS_ADMIN includes them.
        .filter(|&(number, _)| !(has(number) || number >= 38 && has(CAP_SYS_ADMIN)))
        .map(|(_, name)| name)
        .collect()
}

pub(super) fn pin_error(
    what: &'static str,
    path: &Path,
) -> impl FnOnce(io::Error) -> DataplaneError {
    let path = path.to_owned();
    move |source| DataplaneError::Pin { what, path, source }
}

/// The last lines of what the verifier says; the whole is thousands of lines.
fn load_error(error: impl std::error::Error) -> DataplaneError {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    let lines: Vec<&str> = text.lines().collect();
    let shown = if lines.len() > 12 {
        [&lines[..1], &["..."], &lines[lines.len() - 10..]].concat()
    } else {
        lines
    };
    DataplaneError::Load(shown.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_capabilities_are_named() {
        assert_eq!(missing_capabilities(u64::MAX), Vec::<&str>::new());
        assert_eq!(missing_capabilities(!(1 << 39 | 1 << 21)), ["CAP_BPF"]);
        assert_eq!(missing_capabilities(1 << 21 | 1 << 12), ["CAP_NET_RAW"]);
    }
}
