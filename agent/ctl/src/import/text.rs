//! Writes the parts of a steerd.toml as text, with their comments, in the order of our examples.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt::Write,
};

use super::{
    account::Note,
    keys,
    steer::{
        Affinity, Backend, File, Group, Mode, Nat, Node, Piece, Probe, ProbeKind, Router, Service,
        Track, TrackKind,
    },
    toml::{Names, WIDTH, bare, duration, list, printable, quoted},
};

/// What comes before the tables.
#[derive(Debug)]
pub(super) struct Head<'a> {
    /// The file that was imported.
    pub(super) from: &'a str,
    /// What is to be done before the file can be used.
    pub(super) todo: &'a [String],
}

/// The whole text.
pub(super) fn write(head: &Head<'_>, file: &File, names: &[String]) -> String {
    let mut out = Writer {
        text: String::new(),
        names,
        off: false,
    };
    out.head(head);
    out.node(&file.node);
    if let Some(port) = file.gue_port {
        out.table("[tunnel]");
        out.key("gue_port", &port.to_string());
    }
    out.nat(&file.nat);
    file.routers.iter().for_each(|piece| out.router(piece));
    file.groups.iter().for_each(|piece| out.group(piece));
    file.tracks.iter().for_each(|piece| out.track(piece));
    let probes = probe_names(&file.probes);
    for (piece, name) in file.probes.iter().zip(&probes) {
        out.probe(piece, name);
    }
    for piece in &file.services {
        out.service(piece, &probes);
    }
    if !file.left.is_empty() {
        out.text.push('\n');
        out.comment("Without counterpart:");
        out.notes(&file.left);
    }
    out.text
}

struct Writer<'a> {
    text: String,
    names: &'a [String],
    /// Whether tables are commented out.
    off: bool,
}

impl Writer<'_> {
    fn head(&mut self, head: &Head<'_>) {
        let from = head.from;
        self.comment(&format!(
            "steerd.toml, made from {from} by `steerctl import keepalived`."
        ));
        self.text.push_str("#\n");
        self.comment(
            "A comment that begins with a file and a line tells what that line means here, or that \
             it has no counterpart. docs/migration.md says how to go on, node by node; \
             docs/configuration.md explains the keys.",
        );
        if head.todo.is_empty() {
            return;
        }
        self.text.push_str("#\n");
        self.comment("To do first:");
        for todo in head.todo {
            self.wrapped("#  - ", "#    ", todo);
        }
    }

    fn node(&mut self, piece: &Piece<Node>) {
        let Piece { value, left, .. } = piece;
        if value.name.is_none() && left.is_empty() && piece.remarks.is_empty() {
            return;
        }
        self.table("[node]");
        self.keys(piece, &[("name", value.name.as_deref().map(quoted))]);
    }

    fn nat(&mut self, nat: &Nat) {
        if !nat.ipv4 && !nat.ipv6 {
            return;
        }
        self.table("[nat]");
        self.comment(
            "IPVS leaves the client's address in a packet, and servers answer by way of the director. \
             Here packets come from an address of this host's own: servers need no such route, and \
             see this address in place of the client's. Best is one that nothing else uses.",
        );
        if nat.addresses.is_empty() {
            let example = match nat.ipv4 {
                true => "192.0.2.28",
                false => "2001:db8::28",
            };
            self.comment(&format!("addresses = [\"{example}\"]"));
        } else {
            let addresses = nat
                .addresses
                .iter()
                .map(|address| quoted(&address.to_string()));
            self.key("addresses", &list(addresses));
        }
    }

    fn router(&mut self, piece: &Piece<Router>) {
        let router = &piece.value;
        self.begin("[[virtual_router]]", piece);
        let text = |value: &dyn ToString| quoted(&value.to_string());
        let announce = router.announce;
        let announce = [
            ("count", announce.count.map(|count| count.to_string())),
            ("interval", announce.interval.map(duration)),
            ("repeat_after", announce.repeat_after.map(duration)),
            ("refresh", keys::refresh(router)),
        ];
        let announce: Vec<String> = announce
            .into_iter()
            .filter_map(|(key, value)| Some(format!("{key} = {}", value?)))
            .collect();
        let announce = (!announce.is_empty()).then(|| format!("{{ {} }}", announce.join(", ")));
        let peers = router.peers.iter().map(|peer| text(peer));
        self.keys(
            piece,
            &[
                ("name", Some(quoted(&router.name))),
                ("interface", Some(quoted(&router.interface))),
                ("vrid", Some(router.vrid.to_string())),
                ("priority", Some(router.priority.to_string())),
                ("version", keys::version(router)),
                ("checksum", keys::checksum(router)),
                ("authentication", keys::authentication(router)),
                ("advert_interval", Some(duration(router.advert_interval))),
                ("preempt", (!router.preempt).then(|| "false".to_owned())),
                ("preempt_delay", keys::preempt_delay(router)),
                (
                    "addresses",
                    Some(list(router.addresses.iter().map(|net| text(net)))),
                ),
                ("peers", (!router.peers.is_empty()).then(|| list(peers))),
                ("source", router.source.map(|source| text(&source))),
                ("ttl", keys::ttl(router)),
                ("min_ttl", keys::min_ttl(router)),
                ("virtual_mac", keys::virtual_mac(router)),
                ("accept", keys::accept(router)),
                ("announce", announce),
                ("track", keys::track(router)),
                ("routes", keys::routes(router)),
                ("rules", keys::rules(router)),
            ],
        );
        self.off = false;
    }

    fn group(&mut self, piece: &Piece<Group>) {
        self.begin("[[sync_group]]", piece);
        let routers = piece.value.virtual_routers.iter();
        self.keys(
            piece,
            &[
                ("name", Some(quoted(&piece.value.name))),
                (
                    "virtual_routers",
                    Some(list(routers.map(|name| quoted(name)))),
                ),
            ],
        );
        self.off = false;
    }

    fn track(&mut self, piece: &Piece<Track>) {
        let track = &piece.value;
        self.begin(&format!("[track.{}]", bare(&track.name)), piece);
        let (mut interface, mut argv, mut user, mut path) = (None, None, None, None);
        let (mut expect, mut process, mut least) = (None, None, None);
        let kind = match &track.kind {
            TrackKind::Interface(name) => {
                interface = Some(quoted(name));
                "interface"
            }
            TrackKind::Script {
                argv: words,
                user: name,
            } => {
                argv = Some(list(words.iter().map(|word| quoted(word))));
                user = name.as_deref().map(quoted);
                "script"
            }
            TrackKind::File(name) => {
                path = Some(quoted(name));
                expect = Some(quoted("number"));
                "file"
            }
            TrackKind::Process {
                process: name,
                at_least,
            } => {
                process = Some(quoted(name));
                least = (*at_least != 1).then(|| at_least.to_string());
                "process"
            }
        };
        self.keys(
            piece,
            &[
                ("kind", Some(quoted(kind))),
                ("interface", interface),
                ("argv", argv),
                ("user", user),
                ("path", path),
                ("expect", expect),
                ("process", process),
                ("at_least", least),
                ("weight", track.weight.map(|weight| weight.to_string())),
                ("interval", track.interval.map(duration)),
                ("timeout", track.timeout.map(duration)),
                ("rise", track.rise.map(|rise| rise.to_string())),
                ("fall", track.fall.map(|fall| fall.to_string())),
                ("debounce_up", track.debounce_up.map(duration)),
                ("debounce_down", track.debounce_down.map(duration)),
            ],
        );
        self.off = false;
    }

    fn probe(&mut self, piece: &Piece<Probe>, name: &str) {
        let probe = &piece.value;
        self.begin(&format!("[probe.{name}]"), piece);
        let (mut path, mut host, mut statuses) = (None, None, None);
        let (mut body, mut server, mut verify) = (None, None, None);
        let kind = match &probe.kind {
            ProbeKind::Tcp => "tcp",
            ProbeKind::Http {
                tls,
                path: request,
                host: name,
                status,
                body_contains,
                server_name,
            } => {
                path = Some(quoted(request));
                host = name.as_deref().map(quoted);
                statuses = Some(list(status.iter().map(
                    |status| match status.contains('-') {
                        true => quoted(status),
                        false => status.clone(),
                    },
                )));
                body = body_contains.as_deref().map(quoted);
                server = server_name.as_deref().map(quoted);
                verify = tls.then(|| "false".to_owned());
                if *tls { "https" } else { "http" }
            }
        };
        self.keys(
            piece,
            &[
                ("type", Some(quoted(kind))),
                ("port", probe.port.map(|port| port.to_string())),
                ("interval", Some(duration(probe.interval))),
                ("fast_interval", Some(duration(probe.fast_interval))),
                ("timeout", Some(duration(probe.timeout))),
                ("rise", Some(probe.rise.to_string())),
                ("fall", Some(probe.fall.to_string())),
                ("path", path),
                ("host", host),
                ("status", statuses),
                ("body_contains", body),
                ("server_name", server),
                ("verify", verify),
            ],
        );
        self.off = false;
    }

    fn service(&mut self, piece: &Piece<Service>, probes: &[String]) {
        let service = &piece.value;
        self.begin("[[service]]", piece);
        let (affinity, prefix) = match service.affinity {
            Affinity::FiveTuple => (None, None),
            Affinity::SourceAddress => (Some("source-address"), None),
            Affinity::SourcePrefix(length) => (Some("source-prefix"), Some(length.to_string())),
        };
        let (prefix4, prefix6) = match service.address.is_ipv4() {
            true => (prefix, None),
            false => (None, prefix),
        };
        let names = service.probes.iter().filter_map(|&probe| probes.get(probe));
        let names: Vec<String> = names.map(|name| quoted(name)).collect();
        let scheduler = (service.scheduler != "maglev").then(|| quoted(service.scheduler));
        let min_healthy = (service.min_healthy > 1).then(|| service.min_healthy.to_string());
        self.keys(
            piece,
            &[
                ("name", Some(quoted(&service.name))),
                ("address", Some(quoted(&service.address.to_string()))),
                ("port", Some(service.port.to_string())),
                ("protocol", service.udp.then(|| quoted("udp"))),
                ("min_healthy", min_healthy),
                ("scheduler", scheduler),
                ("affinity", affinity.map(quoted)),
                ("affinity_prefix4", prefix4),
                ("affinity_prefix6", prefix6),
                ("probes", (!names.is_empty()).then(|| list(names))),
            ],
        );
        for backend in &service.backends {
            self.backend(backend);
        }
        self.off = false;
    }

    fn backend(&mut self, backend: &Backend) {
        self.table("[[service.backend]]");
        let (mode, gue) = match backend.mode {
            Mode::Auto => (None, false),
            Mode::Local => (Some("local"), false),
            Mode::Nat => (Some("nat"), false),
            Mode::Tunnel { gue } => (Some("tunnel"), gue),
        };
        let keys = [
            ("name", Some(quoted(&backend.name))),
            ("address", Some(quoted(&backend.address.to_string()))),
            ("port", backend.port.map(|port| port.to_string())),
            (
                "weight",
                (backend.weight != 1).then(|| backend.weight.to_string()),
            ),
            (
                "tier",
                (backend.tier != 1).then(|| backend.tier.to_string()),
            ),
            ("mode", mode.map(quoted)),
            ("encapsulation", gue.then(|| quoted("gue"))),
            ("sorry", backend.sorry.then(|| "true".to_owned())),
        ];
        for (key, value) in keys {
            if let Some(value) = value {
                self.key(key, &value);
            }
        }
    }

    /// A table's header, after what is said of the table itself.
    fn begin<T>(&mut self, header: &str, piece: &Piece<T>) {
        if let Some(why) = &piece.off {
            self.text.push('\n');
            self.comment(why);
            self.off = true;
            self.line(header);
        } else {
            self.table(header);
        }
    }

    /// A table's keys, each below its remarks, and then the lines without counterpart.
    fn keys<T>(&mut self, piece: &Piece<T>, keys: &[(&'static str, Option<String>)]) {
        for (key, value) in keys {
            let remarks: Vec<Note> = piece
                .remarks
                .iter()
                .filter(|(about, _)| about == key)
                .map(|(_, note)| note.clone())
                .collect();
            self.notes(&remarks);
            if let Some(value) = value {
                if keys::FOR_KEEPALIVED.contains(key) {
                    self.comment("While a keepalived is in the group: docs/migration.md.");
                }
                self.key(key, value);
            }
        }
        self.notes(&piece.left);
    }

    /// Notes as comments: those that say the same of different lines, once.
    fn notes(&mut self, notes: &[Note]) {
        // A note and those of its block stay together.
        let mut groups: Vec<&[Note]> = Vec::new();
        let mut rest = notes;
        while let [_, after @ ..] = rest {
            let inner = after.iter().take_while(|note| note.why.is_empty()).count();
            let (group, next) = rest.split_at(1 + inner);
            groups.push(group);
            rest = next;
        }
        let mut merged: Vec<(Vec<&[Note]>, &[Note])> = Vec::new();
        let mut known: HashMap<Vec<(&str, &str)>, usize> = HashMap::new();
        for group in groups {
            let says = group
                .iter()
                .map(|note| (note.text.as_str(), note.why.as_str()));
            match known.entry(says.collect()) {
                Entry::Occupied(entry) => {
                    if let Some((all, _)) = merged.get_mut(*entry.get()) {
                        all.push(group);
                    }
                }
                Entry::Vacant(entry) => {
                    entry.insert(merged.len());
                    merged.push((vec![group], group));
                }
            }
        }
        let mut last: Option<&String> = None;
        for (all, group) in merged {
            for (index, note) in group.iter().enumerate() {
                let places = all.iter().filter_map(|other| other.get(index));
                let place = self.places(places.map(|note| note.place));
                let text = short(&note.text);
                let why = match &last {
                    Some(last) if group.len() == 1 && **last == note.why => "as above",
                    _ => note.why.as_str(),
                };
                match why {
                    "" => self.wrapped("# ", "#   ", &format!("{place}: {text}")),
                    why => self.wrapped("# ", "#   ", &format!("{place}: {text}: {why}")),
                }
            }
            last = group.first().map(|note| &note.why);
        }
    }

    /// `file:1, 2, 3`
    fn places(&self, places: impl Iterator<Item = super::lines::Place>) -> String {
        let mut text = String::new();
        let mut last = None;
        for place in places {
            if last == Some(place) {
                continue;
            }
            let separator = if last.is_some() { ", " } else { "" };
            text.push_str(separator);
            if last.is_none_or(|last| last.file != place.file) {
                let name = self.names.get(place.file).map_or("", String::as_str);
                _ = write!(text, "{name}:");
            }
            _ = write!(text, "{}", place.line);
            last = Some(place);
        }
        text
    }

    fn table(&mut self, header: &str) {
        let blank = if self.off { "#\n" } else { "\n" };
        self.text.push_str(blank);
        self.line(header);
    }

    /// A key. A list that is too long for a line has a line for each item.
    fn key(&mut self, key: &str, value: &str) {
        self.line(&format!("{key} = {value}"));
    }

    fn line(&mut self, text: &str) {
        for line in text.lines() {
            let mark = if self.off { "#" } else { "" };
            _ = writeln!(self.text, "{mark}{line}");
        }
    }

    fn comment(&mut self, text: &str) {
        self.wrapped("# ", "# ", text);
    }

    fn wrapped(&mut self, first: &str, others: &str, text: &str) {
        let mut line = first.to_owned();
        let mut empty = true;
        let text = printable(text);
        for word in text.split(' ') {
            if !empty && line.chars().count() + 1 + word.chars().count() > WIDTH {
                self.text.push_str(line.trim_end());
                self.text.push('\n');
                line = others.to_owned();
                empty = true;
            }
            if !empty {
                line.push(' ');
            }
            line.push_str(word);
            empty = false;
        }
        self.text.push_str(line.trim_end());
        self.text.push('\n');
    }
}

/// The probes' names: of what each does, and numbered where two do much the same.
fn probe_names(probes: &[Piece<Probe>]) -> Vec<String> {
    let (mut names, mut found) = (Names::default(), Vec::new());
    for probe in probes {
        let probe = &probe.value;
        let (kind, path) = match &probe.kind {
            ProbeKind::Tcp => ("tcp", ""),
            ProbeKind::Http { tls, path, .. } => {
                (if *tls { "https" } else { "http" }, path.as_str())
            }
        };
        let path = path.split(['?', ';']).next().unwrap_or("");
        let last = path.rsplit('/').find(|part| !part.is_empty()).unwrap_or("");
        let mut name = kind.to_owned();
        let fits = |c: &char| c.is_ascii_alphanumeric() || "_-".contains(*c);
        let last: String = last
            .split('.')
            .next()
            .unwrap_or("")
            .chars()
            .filter(fits)
            .take(32)
            .collect();
        if !last.is_empty() {
            _ = write!(name, "-{last}");
        }
        if let Some(port) = probe.port {
            _ = write!(name, "-{port}");
        }
        found.push(names.take(&name));
    }
    found
}

/// The text, but not too much of it.
fn short(text: &str) -> String {
    let mut short: String = text.chars().take(400).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}
