//! `real_server` and `sorry_server`: backends.

use std::{collections::BTreeSet, net::IpAddr};

use super::{
    Translator,
    probe::{Check, Checks},
    service::Settings,
    target::port,
    value,
};
use crate::import::{
    hints::Block,
    steer::{Backend, Mode, Piece, Service},
    toml::Names,
    tree::Node,
};

/// Backends of a service, and of all.
const MAX_BACKENDS: usize = 1024;
const ALL_BACKENDS: usize = 32_767;
/// steerd's largest weight.
const MAX_WEIGHT: u32 = 256;
/// The port for GUE that is steerd's default.
const GUE_PORT: u16 = 6080;

/// How packets reach a server: IPVS' default is `NAT`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Means {
    #[default]
    Nat,
    Direct,
    Ipip,
    Gue(u16),
}

impl Means {
    /// Reads `lb_kind` and its like.
    pub(super) fn read(line: &Node) -> Result<Self, &'static str> {
        let words: Vec<&str> = line
            .values()
            .iter()
            .map(|word| word.text.as_str())
            .collect();
        match words.as_slice() {
            ["NAT"] => Ok(Self::Nat),
            ["DR"] => Ok(Self::Direct),
            ["TUN"] | ["TUN", "type", "ipip", ..] => Ok(Self::Ipip),
            ["TUN", "type", "gue", "port", number, ..] => port(number)
                .map(Self::Gue)
                .ok_or("the port of GUE is no port"),
            ["TUN", "type", "gre", ..] => Err("there are tunnels of IPIP and GUE, not of GRE"),
            _ => Err("not NAT, DR or TUN"),
        }
    }
}

/// A real server that is a backend.
pub(super) struct Real<'a> {
    /// Its place among the backends.
    pub(super) index: usize,
    weight: u32,
    weight_line: Option<&'a Node>,
    pub(super) checks: Vec<Check<'a>>,
}

impl<'a> Translator<'a> {
    pub(super) fn real_server(
        &mut self,
        node: &'a Node,
        settings: &Settings<'a>,
        service: &mut Piece<Service>,
        names: &mut Names,
    ) -> Option<Real<'a>> {
        let mut means = settings.means;
        let mut checks: Checks = settings.checks.clone();
        let (mut weight, mut weight_line, mut name) = (1, None, None);
        self.account.used(node);
        for line in node.inner() {
            match line.keyword() {
                "weight" => match value::first(line, value::parsed::<u16>) {
                    Some(given) => {
                        weight = u32::from(given);
                        weight_line = Some(line);
                    }
                    None => continue,
                },
                "lvs_method" | "lb_kind" => match Means::read(line) {
                    Ok(given) => means = given,
                    Err(why) => {
                        service.left.extend(self.account.left(line, why));
                        continue;
                    }
                },
                "alpha" => {}
                "snmp_name" => name = line.word(1).map(str::to_owned),
                _ if checks.read(line) => {}
                _ => continue,
            }
            self.account.used(line);
        }
        let backend = self.backend(node, means, service, name, names)?;
        let port = backend.port.unwrap_or(service.value.port);
        let checks = self.checks(node, &checks, port, service);
        service.value.backends.push(backend);
        service.left.extend(self.account.rest(node, Block::Real));
        Some(Real {
            index: service.value.backends.len() - 1,
            weight,
            weight_line,
            checks,
        })
    }

    /// `sorry_server`, with the lines of the virtual server that belong to it.
    pub(super) fn sorry_server(
        &mut self,
        node: &'a Node,
        line: &'a Node,
        settings: &Settings<'a>,
        service: &mut Piece<Service>,
        names: &mut Names,
    ) {
        let mut means = settings.means;
        for line in node
            .inner()
            .filter(|line| line.keyword() == "sorry_server_lvs_method")
        {
            match Means::read(line) {
                Ok(given) => {
                    means = given;
                    self.account.used(line);
                }
                Err(why) => service.left.extend(self.account.left(line, why)),
            }
        }
        let name = Some("sorry".to_owned());
        let Some(backend) = self.backend(line, means, service, name, names) else {
            return;
        };
        let note = self.account.differs(
            line,
            "unlike keepalived, steerd checks it as it does the others",
        );
        service.remark("probes", note);
        service.value.backends.push(Backend {
            sorry: true,
            ..backend
        });
    }

    /// A backend at the address that `line` names; none: it was left.
    fn backend(
        &mut self,
        line: &'a Node,
        means: Means,
        service: &mut Piece<Service>,
        name: Option<String>,
        names: &mut Names,
    ) -> Option<Backend> {
        let given = line.word(2).and_then(port);
        let fault = match line.word(1).and_then(|text| text.parse().ok()) {
            None => Err("not an address"),
            Some(address) => self.place_of(address, given, means, &service.value),
        };
        let (address, mode, port) = match fault {
            Ok(found) => found,
            Err(why) => {
                service.left.extend(self.account.left(line, why));
                return None;
            }
        };
        if port.is_none() && given.is_some_and(|given| given != service.value.port) {
            let why = "the port stays the service's without translation, and so it does in IPVS";
            let note = self.account.differs(line, why);
            service.left.push(note);
        }
        self.backends += 1;
        match (mode, address.is_ipv6()) {
            (Mode::Nat, false) => self.file.nat.ipv4 = true,
            (Mode::Nat, true) => self.file.nat.ipv6 = true,
            _ => {}
        }
        if let Means::Gue(port) = means
            && port != GUE_PORT
        {
            self.file.gue_port = Some(port);
        }
        let name = name.unwrap_or_else(|| match port {
            Some(port) if service.value.backends.iter().any(|b| b.address == address) => {
                format!("{address}-{port}")
            }
            _ => address.to_string(),
        });
        Some(Backend {
            name: names.take(&name),
            address,
            port,
            weight: 1,
            tier: 1,
            sorry: false,
            mode,
        })
    }

    /// How packets reach a server and at which port, if that is another than the service's. Or why they
    /// cannot.
    fn place_of(
        &self,
        address: IpAddr,
        given: Option<u16>,
        means: Means,
        service: &Service,
    ) -> Result<(IpAddr, Mode, Option<u16>), &'static str> {
        let other = given.filter(|given| *given != service.port);
        let tunnel = matches!(means, Means::Ipip | Means::Gue(_));
        if address.is_ipv6() != service.address.is_ipv6() && !tunnel {
            return Err("only tunnels go from one family to the other");
        }
        if self.held.contains(&address) || address == service.address {
            return Err("a server is named by its own address, not by a virtual one");
        }
        let mode = match means {
            _ if address.is_loopback() => Mode::Local,
            Means::Nat => Mode::Nat,
            Means::Direct => Mode::Auto,
            Means::Ipip => Mode::Tunnel { gue: false },
            Means::Gue(_) => Mode::Tunnel { gue: true },
        };
        if mode == Mode::Local && other.is_some() {
            return Err("this host's own server is reached at the service's port only");
        }
        if mode != Mode::Local && (value::unreachable(address) || value::link_local(address)) {
            return Err("no server can be reached at this address");
        }
        let outer = match address {
            IpAddr::V4(ip) => ip.octets().starts_with(&[172, 16]),
            IpAddr::V6(ip) => ip.segments().starts_with(&[0x100, 0, 0, 0]),
        };
        if outer && matches!(mode, Mode::Tunnel { .. }) {
            return Err(
                "steerd makes up the outer sources of tunnels in this network: set `source4` or \
                        `source6` of [tunnel] to another one, then add it",
            );
        }
        if let Means::Gue(port) = means
            && self.file.gue_port.is_some_and(|other| other != port)
        {
            return Err("all tunnels of GUE have one port, and this is another one");
        }
        let port = other.filter(|_| mode == Mode::Nat);
        let same = |backend: &Backend| backend.address == address && backend.port == port;
        if service.backends.iter().any(same) {
            return Err(
                "an earlier server of this service is the same: give that one the sum of their \
                        weights",
            );
        }
        if service.backends.len() >= MAX_BACKENDS || self.backends >= ALL_BACKENDS {
            return Err("a service has 1024 backends at most, a node 32767");
        }
        Ok((address, mode, port))
    }

    /// Gives the backends their weights, or their tiers.
    pub(super) fn weights(
        &mut self,
        reals: &[Real<'a>],
        settings: &Settings<'a>,
        service: &mut Piece<Service>,
    ) {
        let heaviest = reals.iter().map(|real| real.weight).max().unwrap_or(0);
        let tiers: BTreeSet<u32> = reals.iter().map(|real| real.weight).collect();
        for real in reals {
            let scaled = match heaviest > MAX_WEIGHT && real.weight > 0 {
                true => (real.weight * MAX_WEIGHT / heaviest).max(1),
                false => real.weight,
            };
            if scaled != real.weight
                && !settings.failover
                && let Some(line) = real.weight_line
            {
                let why = "256 is the largest weight: those of the service keep their proportion";
                let note = self.account.differs(line, why);
                service.left.push(note);
            }
            let Some(backend) = service.value.backends.get_mut(real.index) else {
                continue;
            };
            if settings.failover {
                let heavier = tiers.iter().filter(|weight| **weight > real.weight).count();
                backend.tier = u8::try_from(heavier + 1).unwrap_or(u8::MAX);
                backend.weight = u16::from(real.weight > 0);
            } else {
                backend.weight = u16::try_from(scaled).unwrap_or(0);
            }
        }
    }
}
