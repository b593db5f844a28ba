//! `virtual_ipaddress` and `virtual_ipaddress_excluded`, and what an address's line says beside it.

use ipnet::IpNet;

use super::{Translator, value};
use crate::import::{
    steer::{Piece, Router},
    tree::Node,
};

/// Addresses of a virtual router (RFC 9568 has room for 255).
const MAX_ADDRESSES: usize = 32;

impl<'a> Translator<'a> {
    /// Reads the addresses of an instance. The first one decides the family of all.
    pub(super) fn addresses(&mut self, block: &'a Node, router: &mut Piece<Router>) {
        self.account.used(block);
        for line in block.inner() {
            let Some(net) = value::network(line.keyword()) else {
                let why = "not an address with a prefix length";
                router.left.extend(self.account.left(line, why));
                continue;
            };
            if let Some(why) = self.address_fault(net, &router.value) {
                router.left.extend(self.account.left(line, why));
                continue;
            }
            router.value.addresses.push(net);
            self.held.insert(net.addr());
            match self.beside(line, &router.value) {
                None => self.account.used(line),
                Some(why) => {
                    let note = self.account.differs(line, why);
                    router.remark("addresses", note);
                }
            }
        }
        // Adverts carry a link-local address first (RFC 9568, 5.2.9).
        let link_local = |net: &IpNet| value::link_local(net.addr());
        router.value.addresses.sort_by_key(|net| !link_local(net));
    }

    /// Addresses that keepalived holds but does not advertise.
    pub(super) fn excluded(&mut self, block: &'a Node, router: &mut Piece<Router>) {
        let same = router
            .value
            .addresses
            .first()
            .map(|net| net.addr().is_ipv6());
        let other_family = block.inner().any(|line| {
            let net = value::network(line.keyword());
            net.is_some_and(|net| Some(net.addr().is_ipv6()) != same)
        });
        let why = if other_family {
            "steerd advertises every address it holds, and one virtual router has one family: before \
             the migration give these a vrrp_instance of their own on every node, in one \
             vrrp_sync_group with this one, and import again"
        } else {
            "steerd advertises every address it holds, and keepalived refuses adverts with another \
             list: before the migration move these to virtual_ipaddress on every node, and import \
             again"
        };
        router.left.extend(self.account.left(block, why));
        self.todo.push(format!(
            "Decide about the excluded addresses of {}: nobody would hold them.",
            router.value.name
        ));
    }

    /// Why the address cannot be the virtual router's.
    fn address_fault(&self, net: IpNet, router: &Router) -> Option<&'static str> {
        let address = net.addr();
        let first = router.addresses.first();
        if first.is_some_and(|first| first.addr().is_ipv6() != address.is_ipv6()) {
            return Some("the family differs from the first address's: keepalived ignores it too");
        }
        if value::unreachable(address) {
            return Some("no host can have this address for others to reach");
        }
        if net.prefix_len() == 0 {
            return Some("its network is the whole Internet");
        }
        if let IpNet::V4(net) = net
            && net.prefix_len() < 31
            && (net.addr() == net.network() || net.addr() == net.broadcast())
        {
            return Some(
                "the network's own address, or its broadcast address: check the prefix length",
            );
        }
        // A link-local address may be on several interfaces.
        let taken = match value::link_local(address) {
            true => router.addresses.iter().any(|net| net.addr() == address),
            false => self.held.contains(&address),
        };
        if taken {
            return Some("an address belongs to one virtual router, once");
        }
        (router.addresses.len() >= MAX_ADDRESSES)
            .then_some("a virtual router has 32 addresses at most: give it to another one")
    }

    /// What differs of an address because of what its line says beside it.
    fn beside(&self, line: &Node, router: &Router) -> Option<String> {
        let mut differs = Vec::new();
        let mut words = line.values().iter().map(|word| word.text.as_str());
        while let Some(word) = words.next() {
            match word {
                "dev" => match words.next() {
                    Some(device) if device == router.interface => {}
                    Some(device) => differs.push(format!(
                        "steerd puts it on {}, not on {device}; a virtual router of its own would hold \
                         it there, on every node",
                        router.interface
                    )),
                    None => {}
                },
                "scope" => match words.next() {
                    Some("global" | "0") | None => {}
                    Some(_) => differs.push("steerd sets no scope".to_owned()),
                },
                "label" => {
                    words.next();
                    differs.push("steerd sets no label".to_owned());
                }
                // The kernel knows it from the prefix length.
                "brd" | "broadcast" => _ = words.next(),
                "peer" => {
                    words.next();
                    differs.push("steerd sets no peer address".to_owned());
                }
                "preferred_lft" => {
                    words.next();
                    differs.push("steerd sets no lifetime".to_owned());
                }
                "use_vmac" => differs.push("see `virtual_mac`: it is for all addresses".to_owned()),
                // Flags by which IPv6 skips its check for duplicates, and the like.
                other => differs.push(format!("steerd does not set {other}")),
            }
        }
        (!differs.is_empty()).then(|| differs.join("; "))
    }
}
