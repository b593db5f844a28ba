//! `virtual_routes` and `virtual_rules`: in the words of `ip route` and `ip rule`.

use ipnet::IpNet;

use super::{Translator, value};
use crate::import::{
    steer::{Piece, Route, Router, Rule},
    tree::Node,
};

impl<'a> Translator<'a> {
    pub(super) fn routes(&mut self, block: &'a Node, router: &mut Piece<Router>) {
        self.account.used(block);
        for line in block.inner() {
            match route(line) {
                Some(route) => {
                    self.account.used(line);
                    router.value.more.routes.push(route);
                }
                None => {
                    let why = "`routes` know a destination, a gateway, an interface, a source, a \
                               table by its number and a metric: add what is left of it by hand";
                    router.left.extend(self.account.left(line, why));
                }
            }
        }
    }

    pub(super) fn rules(&mut self, block: &'a Node, router: &mut Piece<Router>) {
        self.account.used(block);
        for line in block.inner() {
            match rule(line) {
                Some(rule) => {
                    self.account.used(line);
                    router.value.more.rules.push(rule);
                }
                None => {
                    let why = "`rules` know sources, destinations, a table by its number and a \
                               priority: add what is left of it by hand";
                    router.left.extend(self.account.left(line, why));
                }
            }
        }
    }
}

/// A route, if all of it can be said.
fn route(line: &Node) -> Option<Route> {
    let mut words = line.words.iter().map(|word| word.text.as_str());
    let (mut to, mut route) = (
        None,
        Route {
            to: IpNet::default(),
            via: None,
            interface: None,
            source: None,
            table: None,
            metric: None,
        },
    );
    while let Some(word) = words.next() {
        match word {
            "via" | "gw" => {
                let next = words.next()?;
                // `via inet6 ADDRESS`
                let next = if next.starts_with("inet") {
                    words.next()?
                } else {
                    next
                };
                route.via = Some(next.parse().ok()?);
            }
            "dev" | "oif" => route.interface = Some(value::interface(words.next()?)?),
            "src" => route.source = Some(words.next()?.parse().ok()?),
            "table" => route.table = Some(table(words.next()?)?),
            "metric" | "priority" | "preference" => {
                route.metric = Some(words.next()?.parse().ok()?)
            }
            "no_track" | "to" | "unicast" | "inet" | "inet6" => {}
            "scope" if matches!(words.next()?, "global" | "link") => {}
            "default" => to = Some(IpNet::default()),
            word if to.is_none() => to = Some(value::network(word)?),
            _ => return None,
        }
    }
    route.to = to?;
    // `default` is of the gateway's family.
    let ipv6 = route
        .via
        .or(route.source)
        .is_some_and(|address| address.is_ipv6());
    if route.to == IpNet::default() && ipv6 {
        route.to = "::/0".parse().ok()?;
    }
    let route_ipv6 = route.to.addr().is_ipv6();
    let same =
        |address: Option<std::net::IpAddr>| address.is_none_or(|a| a.is_ipv6() == route_ipv6);
    (same(route.via) && same(route.source)).then_some(route)
}

/// A rule, if all of it can be said.
fn rule(line: &Node) -> Option<Rule> {
    let mut words = line.words.iter().map(|word| word.text.as_str());
    let (mut found, mut rule) = (
        None,
        Rule {
            from: None,
            to: None,
            table: 0,
            priority: None,
        },
    );
    while let Some(word) = words.next() {
        match word {
            "from" => rule.from = Some(value::network(words.next()?)?),
            "to" => rule.to = Some(value::network(words.next()?)?),
            "table" | "lookup" => found = Some(table(words.next()?)?),
            "preference" | "priority" | "order" => {
                rule.priority = Some(words.next()?.parse().ok()?)
            }
            "no_track" | "inet" | "inet6" => {}
            _ => return None,
        }
    }
    rule.table = found?;
    (rule.from.is_some() || rule.to.is_some()).then_some(rule)
}

/// A routing table: names other than the kernel's own are the host's business.
fn table(text: &str) -> Option<u32> {
    match text {
        "main" => Some(254),
        "default" => Some(253),
        "local" => Some(255),
        text => text.parse().ok(),
    }
}
