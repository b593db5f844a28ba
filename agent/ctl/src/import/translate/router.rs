//! `vrrp_instance`: a virtual router.

use std::{net::IpAddr, time::Duration};

use super::{Renamed, Translator, group::Membership, value};
use crate::import::{
    hints::Block,
    steer::{Announce, Authentication, Piece, Router, RouterMore},
    tree::Node,
};

/// Virtual routers of a node, and peers of one.
const MAX_ROUTERS: usize = 64;
const MAX_PEERS: usize = 32;
/// VRRPv3 has 12 bits of hundredths of a second (RFC 9568, 5.2.7); steerd takes no longer ones of VRRPv2.
const LONGEST_INTERVAL: Duration = Duration::from_millis(40_950);
const LONGEST_INTERVAL_2: Duration = Duration::from_secs(40);

/// What has to be read before the whole can be made of it.
#[derive(Default)]
struct Reading<'a> {
    vrid: Option<u8>,
    priority: Option<u8>,
    version: Option<u8>,
    master: Option<&'a Node>,
    nopreempt: Option<&'a Node>,
    delay: Option<(&'a Node, Duration)>,
    interval: Option<(&'a Node, Duration)>,
    authentication: Option<&'a Node>,
    source: Option<(&'a Node, IpAddr)>,
    ttl: Option<(&'a Node, u8)>,
    accept: Option<bool>,
    strict: Option<bool>,
}

impl<'a> Translator<'a> {
    pub(super) fn instance(&mut self, node: &'a Node) {
        if self.file.routers.len() >= MAX_ROUTERS {
            let why = format!("a node has {MAX_ROUTERS} virtual routers at most");
            let left = self.account.left(node, why);
            self.file.left.extend(left);
            return;
        }
        self.account.used(node);
        let theirs = node.word(1).unwrap_or("");
        let name = self.router_names.take(theirs);
        let mut router = Piece::new(Router {
            name,
            interface: String::new(),
            vrid: 0,
            priority: 0,
            advert_interval: Duration::from_secs(1),
            preempt: true,
            addresses: Vec::new(),
            peers: Vec::new(),
            source: None,
            announce: Announce::default(),
            more: RouterMore::default(),
        });
        // The interface first: an address may say that it is on another one.
        self.interface(node, &mut router);
        for line in node
            .inner()
            .filter(|line| line.keyword() == "virtual_ipaddress")
        {
            self.addresses(line, &mut router);
        }
        let member = self.members.get(theirs).copied().unwrap_or_default();
        let mut reading = Reading::default();
        for line in node.inner() {
            if self.known(line, &mut router, &mut reading, member) {
                self.account.used(line);
            }
        }
        self.settle(node, &mut router, reading);
        let left = self.account.rest(node, Block::Instance);
        router.left.extend(left);
        router.left.sort_by_key(|note| note.place);
        let renamed = Renamed {
            name: router.value.name.clone(),
            off: router.off.is_some(),
        };
        if router.off.is_some() {
            let why = format!(
                "Complete virtual router {}, which stands as a comment.",
                renamed.name
            );
            self.todo.push(why);
            for net in &router.value.addresses {
                self.held.remove(&net.addr());
            }
        }
        self.renamed.insert(theirs.to_owned(), renamed);
        self.file.routers.push(router);
    }

    fn interface(&mut self, node: &'a Node, router: &mut Piece<Router>) {
        let line = node.inner().find(|line| line.keyword() == "interface");
        let named = line.and_then(|line| value::first(line, value::interface));
        match (line, named) {
            (Some(line), Some(name)) => {
                self.account.used(line);
                router.value.interface = name;
            }
            _ => {
                router.value.interface.clone_from(&self.globals.interface);
                let why = "it names no interface, and steerd needs one: this is keepalived's default \
                           one";
                let note = self.account.differs(node, why);
                router.remark("interface", note);
            }
        }
    }

    /// One line of the instance; true: all of it has a counterpart. What is not marked is left.
    fn known(
        &mut self,
        line: &'a Node,
        router: &mut Piece<Router>,
        reading: &mut Reading<'a>,
        member: Membership,
    ) -> bool {
        let value = &mut router.value;
        match line.keyword() {
            "state" => {
                if line.word(1) == Some("MASTER") {
                    reading.master = Some(line);
                }
                // Every node begins as backup; below priority 255 so does keepalived's.
                matches!(line.word(1), Some("MASTER" | "BACKUP"))
            }
            "virtual_router_id" => {
                reading.vrid = value::first(line, value::parsed).filter(|vrid| *vrid > 0);
                reading.vrid.is_some()
            }
            "priority" => {
                reading.priority = value::first(line, value::parsed).filter(|p| *p > 0);
                reading.priority.is_some()
            }
            "advert_int" => {
                reading.interval = value::first(line, value::seconds).map(|it| (line, it));
                reading.interval.is_some()
            }
            "version" => {
                reading.version = value::first(line, value::parsed).filter(|v| [2, 3].contains(v));
                reading.version.is_some()
            }
            "nopreempt" => {
                reading.nopreempt = Some(line);
                true
            }
            "preempt" | "native_ipv6" => true,
            "preempt_delay" => {
                let limit = Duration::from_secs(1000);
                let delay = value::first(line, value::seconds).filter(|delay| *delay <= limit);
                reading.delay = delay.map(|delay| (line, delay));
                delay.is_some()
            }
            "authentication" => {
                reading.authentication = Some(line);
                false
            }
            "virtual_ipaddress_excluded" => {
                self.excluded(line, router);
                false
            }
            "mcast_src_ip" | "unicast_src_ip" => {
                reading.source = value::first(line, value::parsed).map(|it| (line, it));
                reading.source.is_some()
            }
            "unicast_peer" => {
                self.peers(line, router);
                true
            }
            "unicast_ttl" => {
                let ttl = value::first(line, value::parsed).filter(|ttl| *ttl > 0);
                reading.ttl = ttl.map(|ttl| (line, ttl));
                ttl.is_some()
            }
            "use_vmac" => {
                value.more.virtual_mac = true;
                if line.values().is_empty() {
                    return true;
                }
                let why = "steerd names the device itself, and takes the MAC that the RFC gives the \
                           vrid";
                let note = self.account.differs(line, why);
                router.remark("virtual_mac", note);
                false
            }
            "accept" => {
                reading.accept = Some(true);
                true
            }
            "no_accept" => {
                reading.accept = Some(false);
                true
            }
            "strict_mode" => {
                reading.strict = value::yes(line);
                reading.strict.is_some()
            }
            "garp_master_delay" => value.announce.delay(line),
            "garp_master_repeat" => value.announce.repeat(line),
            "garp_master_refresh" => value.announce.again(line),
            "track_interface" | "track_script" | "track_file" | "track_process" => {
                for name in self.track_names(line, member, router) {
                    if !router.value.more.track.contains(&name) {
                        router.value.more.track.push(name);
                    }
                }
                true
            }
            "virtual_routes" => {
                self.routes(line, router);
                true
            }
            "virtual_rules" => {
                self.rules(line, router);
                true
            }
            _ => false,
        }
    }

    fn peers(&mut self, block: &'a Node, router: &mut Piece<Router>) {
        for line in block.inner() {
            let Ok(peer) = line.keyword().parse::<IpAddr>() else {
                router
                    .left
                    .extend(self.account.left(line, "not an address"));
                continue;
            };
            let first = router.value.addresses.first();
            let other = first.is_some_and(|net| net.addr().is_ipv6() != peer.is_ipv6());
            let fault = if other {
                Some("a peer is of the family of the virtual addresses")
            } else if value::unreachable(peer) || self.held.contains(&peer) {
                Some("a peer is another node, by its own address")
            } else if router.value.peers.contains(&peer) {
                Some("it is listed twice")
            } else if router.value.peers.len() >= MAX_PEERS {
                Some("a virtual router has 32 peers at most")
            } else {
                None
            };
            if let Some(why) = fault {
                router.left.extend(self.account.left(line, why));
                continue;
            }
            router.value.peers.push(peer);
            let mut words = line.values().iter().map(|word| word.text.as_str());
            let mut most = false;
            while let Some(word) = words.next() {
                let number = words.next().and_then(value::parsed::<u8>);
                match (word, number) {
                    ("min_ttl", Some(ttl)) => {
                        let least = router.value.more.min_ttl.unwrap_or(u8::MAX).min(ttl.max(1));
                        router.value.more.min_ttl = Some(least);
                    }
                    _ => most = true,
                }
            }
            if most {
                let why = "a peer's adverts have a least TTL here, `min_ttl`, but no largest one";
                let note = self.account.differs(line, why);
                router.remark("min_ttl", note);
            } else {
                self.account.used(line);
            }
        }
    }

    /// What depends on more than one line.
    fn settle(&mut self, node: &'a Node, router: &mut Piece<Router>, reading: Reading<'a>) {
        let ipv6 = router
            .value
            .addresses
            .first()
            .is_some_and(|net| net.addr().is_ipv6());
        let version = match ipv6 {
            true => 3,
            false => reading.version.unwrap_or(self.globals.version),
        };
        router.value.more.version2 = version == 2;
        router.value.more.rfc5798 = version == 3 && !ipv6;
        router.value.announce = router.value.announce.or(self.globals.announce);
        let strict = reading.strict.unwrap_or(self.globals.strict);
        router.value.priority = self.priority(node, router, &reading);
        let owner = router.value.priority == 255;
        router.value.more.accept = reading.accept.or((strict && !owner).then_some(false));
        self.preemption(router, &reading);
        self.interval(router, &reading, version);
        self.source(router, &reading, ipv6);
        self.unicast_ttl(node, router, reading.ttl);
        if let Some(block) = reading.authentication {
            self.authentication(block, router, version);
        }
        match reading.vrid {
            Some(vrid) => router.value.vrid = vrid,
            None => router.off("It has no virtual_router_id:"),
        }
        if router.value.addresses.is_empty() {
            router.off("It has no virtual address that can be kept:");
        }
        let id = (router.value.interface.clone(), router.value.vrid, ipv6);
        if router.off.is_none() && !self.ids.insert(id) {
            router.off(
                "An earlier virtual router has this vrid on this interface for this family too:",
            );
        }
    }

    fn priority(
        &mut self,
        node: &'a Node,
        router: &mut Piece<Router>,
        reading: &Reading<'a>,
    ) -> u8 {
        if let Some(priority) = reading.priority {
            return priority;
        }
        let Some(state) = reading.master else {
            return 100;
        };
        let why = "without a priority keepalived takes this for the owner of the addresses";
        let note = self.account.differs(state, why);
        router.remark("priority", note);
        self.account.used(node);
        255
    }

    fn preemption(&mut self, router: &mut Piece<Router>, reading: &Reading<'a>) {
        let owner = router.value.priority == 255;
        if owner && let Some((line, _)) = reading.delay {
            let why = "the owner of the addresses takes them at once";
            router.left.extend(self.account.left(line, why));
        }
        let Some(nopreempt) = reading.nopreempt else {
            if let Some((_, delay)) = reading.delay.filter(|_| !owner) {
                router.value.more.preempt_delay = (!delay.is_zero()).then_some(delay);
            }
            return;
        };
        if owner {
            let why = "the owner of the addresses always takes them, with keepalived too";
            router.left.extend(self.account.left(nopreempt, why));
            return;
        }
        if reading.master.is_some() {
            let why =
                "keepalived ignores it beside `state MASTER`; if it is meant, set preempt = false";
            let note = self.account.differs(nopreempt, why);
            router.remark("preempt", note);
            return;
        }
        router.value.preempt = false;
        if let Some((line, _)) = reading.delay {
            let why = "without preemption there is nothing to delay";
            router.left.extend(self.account.left(line, why));
        }
    }

    fn interval(&mut self, router: &mut Piece<Router>, reading: &Reading<'a>, version: u8) {
        let Some((line, wanted)) = reading.interval else {
            return;
        };
        let (step, longest) = match version {
            2 => (Duration::from_secs(1), LONGEST_INTERVAL_2),
            _ => (Duration::from_millis(10), LONGEST_INTERVAL),
        };
        let nanos = step.as_nanos();
        let steps = (wanted.as_nanos() + nanos / 2) / nanos;
        let steps = u32::try_from(steps).unwrap_or(u32::MAX).max(1);
        let interval = step.saturating_mul(steps).min(longest);
        if interval != wanted {
            let why = match version {
                2 => "VRRPv2 counts in whole seconds, and steerd up to 40 of them",
                _ => "VRRPv3 counts in hundredths of a second, up to 40.95s",
            };
            let note = self.account.differs(line, why);
            router.remark("advert_interval", note);
        }
        router.value.advert_interval = interval;
    }

    fn source(&mut self, router: &mut Piece<Router>, reading: &Reading<'a>, ipv6: bool) {
        let Some((line, source)) = reading.source else {
            return;
        };
        let multicast = router.value.peers.is_empty();
        let why = if source.is_ipv6() != ipv6 {
            "the source is of the family of the virtual addresses"
        } else if value::unreachable(source) || self.held.contains(&source) {
            "the source is an address of this node's own"
        } else if multicast && ipv6 && !value::link_local(source) {
            "multicast adverts over IPv6 come from a link-local address (RFC 9568, 5.1.2.1)"
        } else {
            router.value.source = Some(source);
            let before = router.value.peers.len();
            router.value.peers.retain(|peer| *peer != source);
            if router.value.peers.len() != before {
                let why = "this node's own address was among the peers, and is left out";
                let note = self.account.differs(line, why);
                router.remark("peers", note);
            }
            return;
        };
        router.left.extend(self.account.left(line, why));
    }

    /// The TTL of unicast adverts. keepalived takes them with any, steerd only from the link unless told.
    fn unicast_ttl(
        &mut self,
        node: &'a Node,
        router: &mut Piece<Router>,
        sent: Option<(&'a Node, u8)>,
    ) {
        if router.value.peers.is_empty() {
            router.value.more.min_ttl = None;
            if let Some((line, _)) = sent {
                let why = "multicast adverts have a TTL of 255";
                router.left.extend(self.account.left(line, why));
            }
            return;
        }
        router.value.more.ttl = sent.map(|(_, ttl)| ttl);
        let value = &router.value;
        if value.more.min_ttl.is_some() {
            return;
        }
        let nets = &value.addresses;
        let near =
            |peer: &IpAddr| value::link_local(*peer) || nets.iter().any(|net| net.contains(peer));
        if value.peers.iter().all(near) {
            return;
        }
        let block = node.inner().find(|line| line.keyword() == "unicast_peer");
        let why = "a peer may be behind routers, and keepalived takes any TTL; better is 255 less the \
                   routers on the way";
        let note = self.account.differs(block.unwrap_or(node), why);
        router.remark("min_ttl", note);
        router.value.more.min_ttl = Some(1);
    }

    fn authentication(&mut self, block: &'a Node, router: &mut Piece<Router>, version: u8) {
        if version == 3 {
            let why = "VRRPv3 has no authentication, and keepalived ignores this too";
            router.left.extend(self.account.left(block, why));
            return;
        }
        self.account.used(block);
        let (mut kind, mut password) = ("pass", None);
        for line in block.inner() {
            match (line.keyword(), line.word(1)) {
                ("auth_type", Some("PASS")) => kind = "pass",
                ("auth_type", Some("AH")) => kind = "ah",
                ("auth_pass", Some(pass)) => {
                    // Eight bytes go over the wire (RFC 2338, 5.3.10).
                    let mut end = pass.len().min(8);
                    while !pass.is_char_boundary(end) {
                        end -= 1;
                    }
                    password = Some(pass[..end].to_owned());
                }
                _ => continue,
            }
            self.account.used(line);
        }
        // So steerd wants it, and so do other routers.
        let visible =
            |text: &String| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
        match password.filter(visible) {
            Some(password) => {
                router.value.more.authentication = Some(Authentication { kind, password });
            }
            None => {
                let why = "a password is 1 to 8 visible ASCII characters: change it on every node";
                router.left.extend(self.account.left(block, why));
            }
        }
    }
}
