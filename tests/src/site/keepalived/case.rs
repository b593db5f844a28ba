//! How steerd and keepalived share a virtual router, and the configurations that follow from it.

use std::{fmt::Write as _, net::IpAddr};

use crate::{
    site::plan::Family,
    switch::{HostSpec, INTERFACE, VIP, VIP6},
};

/// Which of the two nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// It runs steerd.
    Steerd,
    /// It runs keepalived.
    Keepalived,
}

impl Side {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Steerd, Self::Keepalived];

    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Steerd => Self::Keepalived,
            Self::Keepalived => Self::Steerd,
        }
    }

    /// Its name and addresses.
    #[must_use]
    pub const fn spec(self) -> HostSpec {
        match self {
            Self::Steerd => HostSpec {
                name: "steerd",
                number: 26,
            },
            Self::Keepalived => HostSpec {
                name: "keepalived",
                number: 27,
            },
        }
    }

    fn address(self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.spec().v4(),
            Family::V6 => self.spec().v6(),
        }
    }
}

/// How the two speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speech {
    /// VRRPv2 without authentication.
    V2,
    /// VRRPv2 with a password.
    Pass,
    /// VRRPv2 with an authentication header.
    Ah,
    /// VRRPv3.
    V3,
}

impl Speech {
    const fn interval(self) -> &'static str {
        match self {
            Self::V3 => "100ms",
            Self::V2 | Self::Pass | Self::Ah => "1s",
        }
    }
}

/// A virtual router of both.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// How steerd speaks.
    pub steerd: Speech,
    /// How keepalived does: alike, or they do not hear each other.
    pub keepalived: Speech,
    /// About which address.
    pub family: Family,
    /// Whether to each other's address, or to the group.
    pub unicast: bool,
    /// Who has the higher priority.
    pub leader: Side,
    /// Further lines for steerd's virtual router.
    pub keys: &'static str,
}

impl Case {
    /// The virtual address.
    #[must_use]
    pub const fn vip(&self) -> IpAddr {
        match self.family {
            Family::V4 => VIP,
            Family::V6 => VIP6,
        }
    }

    fn priority(&self, side: Side) -> u8 {
        if side == self.leader { 110 } else { 100 }
    }

    fn addresses(&self) -> Vec<String> {
        match self.family {
            Family::V4 => vec![format!("{VIP}/24")],
            // RFC 9568, section 5.2.9: a link-local address first.
            Family::V6 => vec!["fe80::8765:25/64".into(), format!("{VIP6}/64")],
        }
    }

    /// The configuration of steerd. Its service is on its own host: the address is all that moves.
    #[must_use]
    pub fn steerd_config(&self) -> String {
        let mut text = format!(
            "[node]\nname = \"steerd\"\n[[virtual_router]]\nname = \"vr\"\n\
             interface = \"{INTERFACE}\"\nvrid = 51\npriority = {}\nadvert_interval = \"{}\"\n\
             addresses = {:?}\n{}",
            self.priority(Side::Steerd),
            self.steerd.interval(),
            self.addresses(),
            self.keys,
        );
        if self.unicast {
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "source = \"{}\"\npeers = [\"{}\"]",
                Side::Steerd.address(self.family),
                Side::Keepalived.address(self.family)
            );
        }
        text += match self.steerd {
            Speech::V2 => "version = 2\n",
            Speech::Pass => {
                "version = 2\nauthentication = { type = \"pass\", password = \"s3cret12\" }\n"
            }
            Speech::Ah => {
                "version = 2\nauthentication = { type = \"ah\", password = \"s3cret12\" }\n"
            }
            Speech::V3 => "",
        };
        let _ = write!(
            text,
            "[[service]]\nname = \"game\"\naddress = \"{}\"\nport = 8765\n\
             [[service.backend]]\nname = \"here\"\naddress = \"{}\"\nmode = \"local\"\n",
            self.vip(),
            Side::Steerd.address(self.family),
        );
        text
    }

    /// The configuration of keepalived.
    #[must_use]
    pub fn keepalived_config(&self) -> String {
        let (version, interval) = match self.keepalived {
            Speech::V3 => (3, "0.1"),
            Speech::V2 | Speech::Pass | Speech::Ah => (2, "1"),
        };
        let mut text = format!(
            "global_defs {{\n  vrrp_version {version}\n}}\nvrrp_instance vr {{\n  state BACKUP\n  \
             interface {INTERFACE}\n  virtual_router_id 51\n  priority {}\n  \
             advert_int {interval}\n",
            self.priority(Side::Keepalived),
        );
        if self.unicast {
            let _ = write!(
                text,
                "  unicast_src_ip {}\n  unicast_peer {{\n    {}\n  }}\n",
                Side::Keepalived.address(self.family),
                Side::Steerd.address(self.family)
            );
        }
        let authentication = match self.keepalived {
            Speech::Pass => Some("PASS"),
            Speech::Ah => Some("AH"),
            Speech::V2 | Speech::V3 => None,
        };
        if let Some(kind) = authentication {
            let _ = write!(
                text,
                "  authentication {{\n    auth_type {kind}\n    auth_pass s3cret12\n  }}\n"
            );
        }
        let addresses = self.addresses().join("\n    ");
        let _ = write!(text, "  virtual_ipaddress {{\n    {addresses}\n  }}\n}}\n");
        text
    }
}

#[cfg(test)]
mod tests {
    use steerd_core::config::Config;

    use super::*;

    #[test]
    fn all_configurations_of_steerd_are_valid() {
        for speech in [Speech::V2, Speech::Pass, Speech::Ah, Speech::V3] {
            for family in Family::ALL {
                if speech != Speech::V3 && family == Family::V6 {
                    continue;
                }
                for unicast in [false, true] {
                    let case = Case {
                        steerd: speech,
                        keepalived: speech,
                        family,
                        unicast,
                        leader: Side::Steerd,
                        keys: "",
                    };
                    let text = case.steerd_config();
                    if let Err(mistakes) = Config::parse("steerd.toml", &text, "host") {
                        panic!("{case:?}: {mistakes}\n{text}");
                    }
                }
            }
        }
    }
}
