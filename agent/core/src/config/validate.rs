//! From the file as it is written to a configuration that cannot be wrong: defaults are filled in,
//! references resolved, and what must hold between values is checked.
//!
//! Each part takes what [`super::raw`] read, records every mistake and answers none where there
//! is no valid value. A value that was reported as unusable is left out of later checks, so that
//! one slip makes one mistake.
//!
//! * `router`: virtual routers and the addresses they hold; `wire`: how they speak.
//! * `group`: which of them are master together.
//! * `probe`: probes.
//! * `mode`: what tunnels and translation need.
//! * `service`: services, with their `policy` and their backends (`backend`).
//! * `track`: tracks.

mod backend;
mod group;
mod mode;
mod policy;
mod probe;
mod router;
mod service;
mod track;
mod wire;

use std::{collections::HashSet, path::PathBuf};

use super::{
    Config, Control, Dataplane, Log, LogFormat, Name, Node, VirtualRouter, XdpMode, channel,
    error::{Mistake, quote},
    raw::{RawConfig, RawControl, RawDataplane, RawLog, RawNode},
    reader::At,
    scalar,
};

/// Checks `raw`. None if there is a mistake in it, old or new.
pub(super) fn validate(
    raw: RawConfig,
    hostname: &str,
    mistakes: &mut Vec<Mistake>,
) -> Option<Config> {
    let vips = router::Vips::of(&raw.virtual_routers);
    let probes = probe::probes(&raw.probes, mistakes);
    let endpoints = &raw.tunnel.endpoints;
    let unwraps = !endpoints.whole || !endpoints.items.is_empty();
    let tracks = track::tracks(&raw.tracks, &raw.services, &vips, mistakes);
    let virtual_routers =
        router::virtual_routers(&raw.virtual_routers, &vips, &tracks, unwraps, mistakes);
    let names = vips.router_names();
    let sync_groups = group::sync_groups(
        &raw.sync_groups,
        names.as_deref(),
        virtual_routers.as_deref(),
        mistakes,
    );
    let means = mode::Means::of(&raw.tunnel, &raw.nat);
    let tunnel = mode::tunnel(&means, &vips, mistakes);
    let nat = mode::nat(&means, &vips, mistakes);
    let services = service::services(&raw.services, &vips, &means, &probes, mistakes);
    let node = node(&raw.node, hostname, mistakes);
    let dataplane = dataplane(&raw.dataplane, virtual_routers.as_deref(), mistakes);
    let own = node.as_ref().map(|node| &node.name);
    let channel = channel::validate(&raw.channel, &raw.channel_peers, own, mistakes);
    if !mistakes.is_empty() {
        return None;
    }
    let virtual_routers = virtual_routers?;
    let tracks = tracks.named_by(virtual_routers.iter().map(|router| &router.track));
    Some(Config {
        node: node?,
        control: control(&raw.control)?,
        log: log(&raw.log)?,
        dataplane: dataplane?,
        tunnel: tunnel?,
        nat: nat?,
        virtual_routers,
        services: services?,
        tracks: tracks?,
        channel: channel?,
        sync_groups: sync_groups?,
    })
}

fn node(raw: &RawNode, hostname: &str, mistakes: &mut Vec<Mistake>) -> Option<Node> {
    let name = raw.name.or_else(|| {
        let name = scalar::valid_name(hostname);
        if name.is_none() {
            let message = format!(
                "the host name {} cannot be the node's name",
                quote(hostname)
            );
            mistakes.push(Mistake::new(&(0..0), message).help("set `name` in [node]"));
        }
        name
    });
    Some(Node {
        name: name?,
        state_dir: raw.state_dir.or(PathBuf::from("/run/steerd"))?,
    })
}

fn control(raw: &RawControl) -> Option<Control> {
    Some(Control {
        socket: raw.socket.or(PathBuf::from("/run/steerd/control.sock"))?,
        viewer_group: raw.viewer_group.optional()?,
        admin_group: raw.admin_group.optional()?,
    })
}

fn log(raw: &RawLog) -> Option<Log> {
    Some(Log {
        level: raw.level.or("info".to_owned())?,
        format: raw.format.or(LogFormat::Text)?,
    })
}

fn dataplane(
    raw: &RawDataplane,
    virtual_routers: Option<&[VirtualRouter]>,
    mistakes: &mut Vec<Mistake>,
) -> Option<Dataplane> {
    let mut seen = HashSet::new();
    for interface in &raw.interfaces.items {
        if !seen.insert(&interface.value) {
            let message = format!(
                "interface {} is listed twice",
                quote(interface.value.as_str())
            );
            mistakes.push(Mistake::new(&interface.span, message));
        }
    }
    let interfaces = match &raw.interfaces.span {
        Some(span) => {
            if raw.interfaces.whole && raw.interfaces.items.is_empty() {
                let mistake = Mistake::new(span, "`interfaces` must not be empty");
                let help = "leave it out to use the virtual routers' interfaces";
                mistakes.push(mistake.help(help));
            }
            raw.interfaces
                .items
                .iter()
                .map(|interface| interface.value.clone())
                .collect()
        }
        None => {
            let mut seen = HashSet::new();
            if virtual_routers?.is_empty() && mistakes.is_empty() {
                let message = "no interface: there is no virtual router that has one";
                let help = "set `interfaces` in [dataplane] to those that wrapped packets come to";
                mistakes.push(Mistake::new(&(0..0), message).help(help));
            }
            let all = virtual_routers?.iter().map(|router| &router.interface);
            all.filter(|interface| seen.insert(*interface))
                .cloned()
                .collect()
        }
    };
    Some(Dataplane {
        interfaces,
        xdp_mode: raw.xdp_mode.or(XdpMode::Auto)?,
        bpf_dir: raw.bpf_dir.or(PathBuf::from("/sys/fs/bpf/steerd"))?,
    })
}

/// Records the names of `what` that an earlier one has.
fn unique_names<'a>(
    what: &str,
    names: impl Iterator<Item = Option<&'a At<Name>>>,
    mistakes: &mut Vec<Mistake>,
) {
    let mut seen = HashSet::new();
    for name in names.flatten() {
        if !seen.insert(&name.value) {
            let message = format!(
                "an earlier {what} is called {} too",
                quote(name.value.as_str())
            );
            mistakes.push(Mistake::new(&name.span, message).help("each needs a name of its own"));
        }
    }
}

/// The name of an address family.
fn family(ipv6: bool) -> &'static str {
    if ipv6 { "IPv6" } else { "IPv4" }
}
