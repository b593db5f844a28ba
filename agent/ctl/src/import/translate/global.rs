//! `global_defs`: what holds for all.

use super::{Translator, value};
use crate::import::{hints::Block, steer::Announce, tree::Node};

/// What instances take where they say nothing themselves.
#[derive(Debug, Clone)]
pub(super) struct Globals {
    /// `vrrp_version`; keepalived's own default is 2.
    pub(super) version: u8,
    pub(super) announce: Announce,
    pub(super) strict: bool,
    /// The interface of what names none.
    pub(super) interface: String,
    /// Whom scripts run as.
    pub(super) user: Option<String>,
}

impl Default for Globals {
    fn default() -> Self {
        Self {
            version: 2,
            announce: Announce::default(),
            strict: false,
            interface: "eth0".to_owned(),
            user: None,
        }
    }
}

impl<'a> Translator<'a> {
    pub(super) fn global_defs(&mut self, node: &'a Node) {
        self.account.used(node);
        for line in node.inner() {
            self.global(line);
        }
        let left = self.account.rest(node, Block::Global);
        self.file.node.left.extend(left);
    }

    /// One of its lines. What is not marked here is left.
    fn global(&mut self, line: &'a Node) {
        let globals = &mut self.globals;
        let known = match line.keyword() {
            "router_id" => match line.word(1) {
                Some(name) => {
                    let name = name.to_owned();
                    self.router_id(line, &name);
                    return;
                }
                None => false,
            },
            "vrrp_version" => match value::first(line, value::parsed) {
                Some(version @ (2 | 3)) => {
                    globals.version = version;
                    true
                }
                _ => false,
            },
            "vrrp_strict" => {
                globals.strict = true;
                let why = "of its rules, steerd always keeps those of the wire; addresses do not \
                           accept packets, see `accept`";
                let note = self.account.differs(line, why);
                self.file.node.remark("name", note);
                return;
            }
            "vrrp_min_garp" if value::yes(line) == Some(true) => {
                globals.announce.count = Some(1);
                globals.announce.repeat_after = Some(std::time::Duration::ZERO);
                true
            }
            "vrrp_garp_master_delay" => globals.announce.delay(line),
            "vrrp_garp_master_repeat" => globals.announce.repeat(line),
            "vrrp_garp_master_refresh" => globals.announce.again(line),
            "vrrp_garp_interval" | "vrrp_gna_interval" => globals.announce.every(line),
            "default_interface" => match value::first(line, value::interface) {
                Some(interface) => {
                    globals.interface = interface;
                    true
                }
                None => false,
            },
            "script_user" => {
                globals.user = value::first(line, value::user);
                globals.user.is_some()
            }
            _ => false,
        };
        if known {
            self.account.used(line);
        }
    }

    fn router_id(&mut self, line: &'a Node, name: &str) {
        let ours = crate::import::toml::Names::default().take(name);
        if ours == name {
            self.account.used(line);
        } else {
            let why = "a name here has letters, digits, dots, underscores and hyphens only";
            let note = self.account.differs(line, why);
            self.file.node.remark("name", note);
        }
        self.file.node.value.name = Some(ours);
    }
}

impl Announce {
    /// `garp_master_delay`: when the second round follows.
    pub(super) fn delay(&mut self, line: &Node) -> bool {
        let limit = std::time::Duration::from_hours(1);
        let delay = value::first(line, value::seconds).filter(|delay| *delay <= limit);
        self.repeat_after = delay.or(self.repeat_after);
        delay.is_some()
    }

    /// `garp_master_repeat`: how often in a row.
    pub(super) fn repeat(&mut self, line: &Node) -> bool {
        let count = value::first(line, value::parsed).filter(|count| (1..=100).contains(count));
        self.count = count.or(self.count);
        count.is_some()
    }

    /// `garp_master_refresh`: how often a master goes on to announce.
    pub(super) fn again(&mut self, line: &Node) -> bool {
        let limit = std::time::Duration::from_hours(24);
        let refresh = value::first(line, value::seconds).filter(|refresh| *refresh <= limit);
        self.refresh = refresh.or(self.refresh);
        refresh.is_some()
    }

    /// The time between two. steerd's shortest is a millisecond, its default more: what keepalived
    /// sends at once is spread.
    fn every(&mut self, line: &Node) -> bool {
        use std::time::Duration;
        let interval = value::first(line, value::seconds)
            .filter(|interval| *interval <= Duration::from_secs(10))
            .map(|interval| interval.max(Duration::from_millis(1)));
        self.interval = interval.or(self.interval);
        interval.is_some()
    }

    /// What is set here, or else there.
    pub(super) fn or(self, other: Self) -> Self {
        Self {
            count: self.count.or(other.count),
            interval: self.interval.or(other.interval),
            repeat_after: self.repeat_after.or(other.repeat_after),
            refresh: self.refresh.or(other.refresh),
        }
    }
}
