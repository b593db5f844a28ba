//! Which interfaces the core may count on.
//!
//! Netlink says which are up. To the core, an interface that is to carry the program is up only
//! while it does: without the program a master would take the addresses and steer nothing. And one
//! that was removed and made again, under the same name, is another interface: whatever was on it is
//! gone, so the core hears that it was down, even where that was over before anybody looked.

use std::collections::{BTreeMap, BTreeSet};

use steerd_core::{
    config::{Config, Name},
    event::Event,
};

use crate::io::netlink::Iface;

/// What is known of the interfaces, and what the core was told.
pub(super) struct Links {
    /// Those that are to carry the program.
    planned: BTreeSet<Name>,
    /// The kernel's numbers of those that do.
    attached: BTreeMap<Name, u32>,
    /// What netlink said last.
    up: BTreeMap<Name, bool>,
    /// What the core was told last: under which number it is up, or that it is down.
    told: BTreeMap<Name, Option<u32>>,
}

impl Links {
    /// Nothing is attached and the core was told nothing.
    pub(super) fn new(config: &Config) -> Self {
        Self {
            planned: config.dataplane.interfaces.iter().cloned().collect(),
            attached: BTreeMap::new(),
            up: BTreeMap::new(),
            told: BTreeMap::new(),
        }
    }

    /// Forgets interfaces that `config` no longer has: netlink does not follow them any more.
    pub(super) fn keep(&mut self, config: &Config) {
        let routers = config.virtual_routers.iter();
        let used: BTreeSet<&Name> = routers.map(|router| &router.interface).collect();
        let keep = |name: &Name| used.contains(name) || self.planned.contains(name);
        self.up.retain(|name, _| keep(name));
        self.told.retain(|name, _| keep(name));
    }

    /// Netlink says that `interface` is up, or not.
    pub(super) fn set(&mut self, interface: Name, up: bool) {
        self.up.insert(interface, up);
    }

    /// Those of the interfaces that exist (`now`) that lack the program.
    pub(super) fn bare(&self, now: &[Iface]) -> Vec<Name> {
        let planned = now.iter().filter(|one| self.planned.contains(&one.name));
        planned
            .filter(|one| self.attached.get(&one.name) != Some(&one.index))
            .map(|one| one.name.clone())
            .collect()
    }

    /// The program was attached to all planned interfaces; they existed as in `now` before.
    pub(super) fn set_attached(&mut self, now: &[Iface]) {
        let planned = now.iter().filter(|one| self.planned.contains(&one.name));
        self.attached = planned.map(|one| (one.name.clone(), one.index)).collect();
    }

    /// What to tell the core, which then was told.
    pub(super) fn news(&mut self, now: &[Iface]) -> Vec<Event> {
        let mut news = Vec::new();
        for (name, up) in &self.up {
            let index = now
                .iter()
                .find(|one| one.name == *name)
                .map(|one| one.index);
            let usable = index.filter(|index| {
                *up && (!self.planned.contains(name) || self.attached.get(name) == Some(index))
            });
            let link = |up| Event::Link {
                interface: name.clone(),
                up,
            };
            match (self.told.insert(name.clone(), usable), usable) {
                (Some(before), after) if before == after => {}
                (Some(Some(_)), Some(_)) => news.extend([link(false), link(true)]),
                (_, after) => news.push(link(after.is_some())),
            }
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::lab;

    fn links() -> Links {
        Links::new(&lab::config("eth0", &["10.9.0.100/24"], &[]))
    }

    fn at(name: &str, index: u32) -> Iface {
        Iface {
            name: Name::new(name),
            index,
            mac: [2, 0, 0, 0, 0, 1],
            vlans: BTreeMap::new(),
            up: true,
            ports: BTreeSet::new(),
            upper: None,
        }
    }

    fn news(links: &mut Links, now: &[Iface]) -> Vec<(String, bool)> {
        let news = links.news(now).into_iter();
        news.map(|event| match event {
            Event::Link { interface, up } => (interface.to_string(), up),
            other => panic!("{other:?}"),
        })
        .collect()
    }

    fn eth0(up: bool) -> (String, bool) {
        ("eth0".into(), up)
    }

    #[test]
    fn up_means_with_the_program() {
        let (mut links, now) = (links(), [at("eth0", 3)]);
        assert_eq!(news(&mut links, &now), [], "netlink has not said anything");
        links.set(Name::new("eth0"), true);
        assert_eq!(links.bare(&now), [Name::new("eth0")]);
        assert_eq!(news(&mut links, &now), [eth0(false)]);
        assert_eq!(news(&mut links, &now), []);
        links.set_attached(&now);
        assert!(links.bare(&now).is_empty());
        assert_eq!(news(&mut links, &now), [eth0(true)]);
        assert_eq!(news(&mut links, &now), []);
        links.set(Name::new("eth0"), false);
        assert_eq!(news(&mut links, &now), [eth0(false)]);
        links.set(Name::new("eth0"), true);
        assert_eq!(news(&mut links, &now), [eth0(true)]);
    }

    #[test]
    fn one_made_again_is_another_one() {
        let mut links = links();
        links.set(Name::new("eth0"), true);
        links.set_attached(&[at("eth0", 3)]);
        assert_eq!(news(&mut links, &[at("eth0", 3)]), [eth0(true)]);
        // It is gone, and netlink's word for it is still on its way.
        assert_eq!(news(&mut links, &[]), [eth0(false)]);
        assert!(links.bare(&[]).is_empty(), "there is nothing to attach to");
        let again = [at("eth0", 9)];
        assert_eq!(links.bare(&again), [Name::new("eth0")]);
        assert_eq!(news(&mut links, &again), []);
        links.set_attached(&again);
        assert_eq!(news(&mut links, &again), [eth0(true)]);
        // So fast that nobody saw it gone.
        let again = [at("eth0", 10)];
        links.set_attached(&again);
        assert_eq!(news(&mut links, &again), [eth0(false), eth0(true)]);
    }

    #[test]
    fn an_interface_without_the_program_is_taken_as_it_is() {
        let (mut links, now) = (links(), [at("eth0", 3), at("eth1", 4)]);
        links.set(Name::new("eth1"), true);
        assert_eq!(links.bare(&now), [Name::new("eth0")]);
        assert_eq!(news(&mut links, &now), [("eth1".into(), true)]);
        links.set(Name::new("eth1"), false);
        assert_eq!(news(&mut links, &now), [("eth1".into(), false)]);
        // No longer configured, it is not missed.
        links.set(Name::new("eth1"), true);
        assert_eq!(news(&mut links, &now), [("eth1".into(), true)]);
        links.keep(&lab::config("eth0", &["10.9.0.100/24"], &[]));
        assert_eq!(news(&mut links, &[at("eth0", 3)]), []);
    }
}
