//! From keepalived's tree to the parts of a steerd.toml.
//!
//! * [`global`] reads what holds for all;
//! * [`router`] makes a virtual router of a `vrrp_instance`, with [`address`] and [`route`];
//! * [`watch`] makes tracks of scripts, files, processes and interfaces;
//! * [`service`] makes services of a `virtual_server`, with [`target`], [`backend`] and [`probe`];
//! * [`value`] reads single values.

mod address;
mod backend;
mod global;
mod group;
mod probe;
mod route;
mod router;
mod service;
mod target;
mod value;
mod watch;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
};

use self::{global::Globals, watch::Watches};
use super::{
    account::Account,
    hints::Block,
    steer::{self, File, Nat, Piece},
    toml::Names,
    tree::{Node, Tree},
};

/// What the command line adds.
#[derive(Debug, Clone, Default)]
pub(super) struct Given {
    /// Addresses of this host for mode `nat`.
    pub(super) nat_addresses: Vec<IpAddr>,
}

/// The parts, and what is to be done by hand.
#[derive(Debug)]
pub(super) struct Translated {
    pub(super) file: File,
    pub(super) todo: Vec<String>,
}

/// Translates `tree`. Afterwards each of its nodes is accounted for.
pub(super) fn translate(tree: &Tree, given: &Given, account: &mut Account) -> Translated {
    let mut translator = Translator {
        account,
        globals: Globals::default(),
        router_names: Names::default(),
        service_names: Names::default(),
        group_names: Names::default(),
        grouped: HashSet::new(),
        watches: Watches::default(),
        members: HashMap::new(),
        renamed: HashMap::new(),
        held: HashSet::new(),
        ids: HashSet::new(),
        places: HashSet::new(),
        server_groups: BTreeMap::new(),
        backends: 0,
        probes: HashMap::new(),
        todo: Vec::new(),
        file: File {
            node: Piece::new(steer::Node::default()),
            nat: Nat {
                addresses: given.nat_addresses.clone(),
                ..Nat::default()
            },
            gue_port: None,
            routers: Vec::new(),
            groups: Vec::new(),
            tracks: Vec::new(),
            probes: Vec::new(),
            services: Vec::new(),
            left: Vec::new(),
        },
    };
    translator.all(&tree.nodes);
    translator.name_services();
    let Translator {
        mut file,
        mut todo,
        watches,
        ..
    } = translator;
    file.tracks = watches.into_tracks();
    if file.routers.iter().all(|router| router.off.is_some()) {
        let none = "Add a [[virtual_router]]: without one there is no address to keep.";
        todo.insert(0, none.to_owned());
    }
    if (file.nat.ipv4 || file.nat.ipv6) && file.nat.addresses.is_empty() {
        let nat = "Set `addresses` in [nat] to addresses of this host's own, or import again with \
                   --nat-address.";
        todo.push(nat.to_owned());
    }
    Translated { file, todo }
}

struct Translator<'a> {
    account: &'a mut Account,
    globals: Globals,
    router_names: Names,
    service_names: Names,
    group_names: Names,
    /// The virtual routers that are in a group.
    grouped: HashSet<String>,
    watches: Watches,
    /// The sync group that instances are in.
    members: HashMap<String, group::Membership>,
    /// The virtual routers of instances.
    renamed: HashMap<String, Renamed>,
    /// The virtual addresses that are kept.
    held: HashSet<IpAddr>,
    /// Interfaces, VRIDs and families that are taken.
    ids: HashSet<(String, u8, bool)>,
    /// Addresses, ports and protocols that are taken.
    places: HashSet<(IpAddr, u16, bool)>,
    server_groups: BTreeMap<String, &'a Node>,
    /// How many backends there are.
    backends: usize,
    /// The probes there are, by all they do.
    probes: HashMap<String, usize>,
    file: File,
    todo: Vec<String>,
}

/// What has become of an instance.
#[derive(Debug)]
struct Renamed {
    name: String,
    /// Whether it stands as a comment.
    off: bool,
}

impl<'a> Translator<'a> {
    /// All statements of the file. What others refer to comes first.
    fn all(&mut self, nodes: &'a [Node]) {
        let of = |keywords: &'static [&str]| {
            nodes
                .iter()
                .filter(move |node| node.aside.is_none() && keywords.contains(&node.keyword()))
        };
        of(&["global_defs"]).for_each(|node| self.global_defs(node));
        of(&["vrrp_sync_group"]).for_each(|node| self.members(node));
        of(&["vrrp_script", "vrrp_track_script"]).for_each(|node| self.script(node));
        of(&["track_file", "vrrp_track_file"]).for_each(|node| self.track_file(node));
        of(&["vrrp_track_process", "track_process"]).for_each(|node| self.track_process(node));
        of(&["interface_up_down_delays"]).for_each(|node| self.delays(node));
        of(&["vrrp_instance"]).for_each(|node| self.instance(node));
        of(&["vrrp_sync_group"]).for_each(|node| self.sync_group(node));
        of(&["interface_up_down_delays"]).for_each(|node| self.delays_used(node));
        for node in of(&["virtual_server_group"]) {
            if let Some(name) = node.word(1) {
                self.server_groups.insert(name.to_owned(), node);
            }
        }
        of(&["virtual_server"]).for_each(|node| self.virtual_server(node));
        let left = self.account.rest_of(nodes, Block::Top);
        self.file.left.extend(left);
        self.file.left.sort_by_key(|note| note.place);
    }
}
