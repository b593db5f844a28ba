//! Tracks, and the virtual routers that name them.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    path::Path,
};

use super::router::{Vips, address_fault};
use crate::config::{
    FileCheck, Name, Pace, Script, Track, TrackKind,
    error::{Mistake, quote},
    limits,
    raw::{RawService, RawTrack, TrackWord},
    reader::{Given, List},
    words::suggestion,
};

/// The tracks by name.
pub(super) struct Tracks {
    /// In the order of the file. None: it has a mistake of its own.
    tracks: Vec<(Name, Option<Track>)>,
    /// Whether all names are known.
    whole: bool,
}

impl Tracks {
    fn find(&self, name: &Name) -> Option<&Option<Track>> {
        let found = self.tracks.iter().find(|(known, _)| known == name);
        found.map(|(_, track)| track)
    }

    /// Those that `routers` name.
    pub(super) fn named_by<'a>(
        self,
        routers: impl Iterator<Item = &'a Vec<Name>>,
    ) -> Option<Vec<Track>> {
        let named: HashSet<&Name> = routers.flatten().collect();
        let tracks = self.tracks.into_iter();
        tracks
            .filter(|(name, _)| named.contains(name))
            .map(|(_, track)| track)
            .collect()
    }
}

/// Checks the tracks.
pub(super) fn tracks(
    raw: &List<RawTrack>,
    services: &List<RawService>,
    vips: &Vips<'_>,
    mistakes: &mut Vec<Mistake>,
) -> Tracks {
    if let Some(extra) = raw.items.get(limits::TRACKS) {
        let message = format!("more than {} `[track.NAME]`", limits::TRACKS);
        mistakes.push(Mistake::new(&extra.span, message));
    }
    let mut tracks = Tracks {
        tracks: Vec::new(),
        whole: raw.whole,
    };
    for raw in &raw.items {
        let track = track(&raw.value, services, vips, mistakes);
        match raw.value.name.value() {
            Some(name) => tracks.tracks.push((name, track)),
            None => tracks.whole = false,
        }
    }
    tracks
}

/// The tracks that a virtual router names.
pub(super) fn names(raw: &List<Name>, tracks: &Tracks, mistakes: &mut Vec<Mistake>) -> Vec<Name> {
    let mut seen = HashMap::new();
    for at in &raw.items {
        if seen.insert(&at.value, ()).is_some() {
            let message = format!("track {} is listed twice", quote(at.value.as_str()));
            mistakes.push(Mistake::new(&at.span, message));
        } else if tracks.find(&at.value).is_none() && tracks.whole {
            let message = format!("there is no track {}", quote(at.value.as_str()));
            let known = || tracks.tracks.iter().map(|(name, _)| name.as_str());
            let help = suggestion(at.value.as_str(), known())
                .unwrap_or_else(|| format!("add a [track.{}]", at.value));
            mistakes.push(Mistake::new(&at.span, message).help(help));
        }
    }
    raw.items.iter().map(|at| at.value.clone()).collect()
}

fn track(
    raw: &RawTrack,
    services: &List<RawService>,
    vips: &Vips<'_>,
    mistakes: &mut Vec<Mistake>,
) -> Option<Track> {
    let pace = pace(raw, mistakes);
    let kind = kind(raw, services, vips, mistakes);
    Some(Track {
        name: raw.name.value()?,
        kind: kind?,
        weight: raw.weight.optional()?,
        pace: pace?,
    })
}

fn kind(
    raw: &RawTrack,
    services: &List<RawService>,
    vips: &Vips<'_>,
    mistakes: &mut Vec<Mistake>,
) -> Option<TrackKind> {
    Some(match raw.kind.value()? {
        TrackWord::Interface => TrackKind::Interface {
            interface: raw.interface.value()?,
        },
        TrackWord::Service => {
            let at_least = raw.at_least.or(1);
            if let Given::Value(name) = &raw.service {
                let found = services
                    .items
                    .iter()
                    .find(|service| service.value.name.value().as_ref() == Some(&name.value));
                let named = |service: &RawService| service.name.value().is_some();
                let whole = services.whole && services.items.iter().all(|at| named(&at.value));
                match found {
                    None if whole => {
                        let message = format!("there is no service {}", quote(name.value.as_str()));
                        mistakes.push(Mistake::new(&name.span, message));
                    }
                    Some(service) if service.value.backends.whole => {
                        let most = service.value.backends.items.len();
                        if let Given::Value(at_least) = &raw.at_least
                            && usize::from(at_least.value) > most
                        {
                            let message = format!(
                                "`at_least` is {}, but service {} has {most} backends",
                                at_least.value, name.value,
                            );
                            mistakes.push(Mistake::new(&at_least.span, message));
                        }
                    }
                    _ => {}
                }
            }
            TrackKind::Service {
                service: raw.service.value()?,
                at_least: at_least?,
            }
        }
        TrackWord::Script => TrackKind::Script(script(raw, mistakes)?),
        TrackWord::File => {
            let check = raw.expect.or(FileCheck::Exists)?;
            if let (FileCheck::Number, Given::Value(weight)) = (check, &raw.weight) {
                let message = "`weight` means nothing where the file holds the number";
                mistakes.push(Mistake::new(&weight.span, message).help("remove one of them"));
            }
            let path = raw.path.value()?;
            if path.file_name().is_none()
                && let Given::Value(at) = &raw.path
            {
                mistakes.push(Mistake::new(&at.span, "`path` must name a file"));
            }
            TrackKind::File { path, check }
        }
        TrackWord::Process => TrackKind::Process {
            process: raw.process.value()?,
            at_least: raw.at_least.or(1)?,
        },
        TrackWord::Gateway => {
            if let Given::Value(at) = &raw.address {
                let address = at.value;
                let interface = &raw.interface;
                if let Some(fault) = address_fault(address) {
                    mistakes.push(Mistake::new(&at.span, format!("gateway {address} {fault}")));
                } else if vips.contains(address) {
                    let message = format!("gateway {address} is a virtual address");
                    let help = "its master would ask itself: give another host's address";
                    mistakes.push(Mistake::new(&at.span, message).help(help));
                } else if matches!(address, IpAddr::V6(ip) if ip.is_unicast_link_local())
                    && matches!(interface, Given::Absent)
                {
                    let message = format!("gateway {address} is link-local");
                    let help = "say on which `interface`: every one has such a network";
                    mistakes.push(Mistake::new(&at.span, message).help(help));
                }
            }
            TrackKind::Gateway {
                address: raw.address.value()?,
                interface: raw.interface.optional()?,
            }
        }
    })
}

fn script(raw: &RawTrack, mistakes: &mut Vec<Mistake>) -> Option<Script> {
    let (argv, span) = (&raw.argv.items, raw.argv.span.as_ref()?);
    match argv.first() {
        None if raw.argv.whole => {
            mistakes.push(Mistake::new(span, "`argv` must not be empty"));
        }
        Some(program) if !Path::new(&program.value).is_absolute() => {
            let message = format!(
                "the program {} must be an absolute path",
                quote(&program.value)
            );
            let help = "no shell reads `argv`: [\"/bin/sh\", \"-c\", \"...\"] runs one";
            mistakes.push(Mistake::new(&program.span, message).help(help));
        }
        _ => {}
    }
    Some(Script {
        argv: argv.iter().map(|argument| argument.value.clone()).collect(),
        user: raw.user.optional()?,
    })
}

fn pace(raw: &RawTrack, mistakes: &mut Vec<Mistake>) -> Option<Pace> {
    let default = Pace::default();
    let interval = raw.interval.or(default.interval);
    if let (Given::Value(at), Some(interval)) = (&raw.timeout, interval)
        && at.value > interval
    {
        let message = format!(
            "`timeout` ({:?}) is above the track's `interval` ({interval:?})",
            at.value
        );
        mistakes.push(Mistake::new(&at.span, message));
    }
    let interval = interval?;
    Some(Pace {
        interval,
        timeout: raw.timeout.or(default.timeout.min(interval))?,
        rise: raw.rise.or(default.rise)?,
        fall: raw.fall.or(default.fall)?,
        debounce_up: raw.debounce_up.or(default.debounce_up)?,
        debounce_down: raw.debounce_down.or(default.debounce_down)?,
    })
}
