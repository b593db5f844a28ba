//! Who is measured: nobody between client and server, steerd in each mode, and what else is used.

use std::net::SocketAddr;

use crate::{
    dir::Dir,
    error::{Context, Error, Result},
    netns::{self, Namespace},
    node::Binaries,
    process::{self, Process},
    site::{
        self, Site, haproxy,
        hosts::{self, EDGE, Host},
        plan::{Family, Plan, Port, Shape, Way},
    },
    switch::Switch,
    traffic::{self, Web},
    wait,
};
use std::{fs, process::Command, time::Duration};

/// A client, and the address at which it finds a server.
#[derive(Debug)]
pub struct Contender {
    /// Its name in the report.
    pub name: &'static str,
    /// Where the client is.
    pub client: Namespace,
    /// Where it finds what.
    pub bulk: SocketAddr,
    /// The web server.
    pub web: SocketAddr,
    _kept: Kept,
}

#[derive(Debug)]
enum Kept {
    Site { _site: Box<Site> },
    Plain { _plain: Box<Plain> },
}

/// What comes of setting one up.
pub type Made = (&'static str, Result<Contender>);

/// All of them, ready, or why one is not; the first is without a balancer.
pub fn all(binaries: &Binaries, told: &impl Fn(&str)) -> Vec<Made> {
    let ways = [Way::Local, Way::Dsr, Way::Ipip, Way::Gue, Way::Nat];
    let plain = |name, between| (name, plain(name, between, binaries));
    let mut all = vec![plain("direct", Between::Nothing)];
    all.extend(ways.map(|way| (way.name(), steerd(way, binaries))));
    all.push(plain("nftables", Between::Nftables));
    all.push(plain("haproxy", Between::Haproxy));
    let ready = |(name, made): Made| {
        told(&format!("{name} is set up"));
        let ready = made.and_then(|contender| contender.until_ready().map(|()| contender));
        (name, ready)
    };
    all.into_iter().map(ready).collect()
}

impl Contender {
    /// The first packets of a network wait for its neighbours to be found.
    fn until_ready(&self) -> Result<()> {
        let web = Web {
            seconds: 1,
            connections: 1,
            close: true,
        };
        wait::until(
            &format!("{} to carry anything", self.name),
            Duration::from_secs(10),
            || {
                let answered = traffic::web(&self.client, self.web, "/", web);
                Ok(answered
                    .is_ok_and(|answered| answered.requests > 0)
                    .then_some(()))
            },
            || "nothing came back".into(),
        )
    }
}

/// steerd, with servers reached this way.
fn steerd(way: Way, binaries: &Binaries) -> Result<Contender> {
    let site = Site::beside(Plan::one(Shape::OneArm, way), binaries)?;
    Ok(Contender {
        name: way.name(),
        client: site.client.namespace.clone(),
        bulk: site.target(Family::V4, Port::Bulk),
        web: site.target(Family::V4, Port::Web),
        _kept: Kept::Site {
            _site: Box::new(site),
        },
    })
}

/// What stands between client and server, if it is not steerd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Between {
    Nothing,
    Nftables,
    Haproxy,
}

/// A network without steerd.
#[derive(Debug)]
struct Plain {
    _client: Host,
    _edge: Option<Host>,
    _server: Host,
    _programs: Vec<Process>,
    _switches: [Switch; 2],
    _dir: Dir,
}

fn plain(name: &'static str, between: Between, binaries: &Binaries) -> Result<Contender> {
    // A server that does not know of the virtual address.
    let plan = Plan::one(Shape::OneArm, Way::Nat);
    let switches = [Switch::new()?, Switch::new()?];
    let dir = Dir::new()?;
    let client = hosts::client(&plan, &switches)?;
    let server = hosts::server(&plan, "s1", Way::Nat, &switches)?;
    let mut programs = site::serve("s1", &server.namespace, &dir, binaries)?;
    let to = |port: Port| SocketAddr::new(server.spec.v4(), port.of_server());
    let pairs = [Port::Bulk, Port::Web].map(|port| (port.of_server(), to(port)));
    let edge = match between {
        Between::Nothing => None,
        Between::Nftables => {
            let edge = hosts::edge(&plan, &switches)?;
            translate(&edge, &pairs)?;
            Some(edge)
        }
        Between::Haproxy => {
            let edge = hosts::edge(&plan, &switches)?;
            let config = dir.path().join("balancer.cfg");
            let write = fs::write(&config, haproxy::balancer(&pairs));
            write.context(|| format!("write {}", config.display()))?;
            let log = dir.path().join("balancer.log");
            let command = haproxy::command(&edge.namespace, &config);
            programs.push(Process::start("haproxy", command, log)?);
            Some(edge)
        }
    };
    let at = if edge.is_some() {
        EDGE.v4()
    } else {
        server.spec.v4()
    };
    Ok(Contender {
        name,
        client: client.namespace.clone(),
        bulk: SocketAddr::new(at, Port::Bulk.of_server()),
        web: SocketAddr::new(at, Port::Web.of_server()),
        _kept: Kept::Plain {
            _plain: Box::new(Plain {
                _client: client,
                _edge: edge,
                _server: server,
                _programs: programs,
                _switches: switches,
                _dir: dir,
            }),
        },
    })
}

/// Has a host's netfilter translate these ports to these servers', and the client to itself.
fn translate(edge: &Host, pairs: &[(u16, SocketAddr)]) -> Result<()> {
    edge.namespace
        .run(|| netns::sysctl("net/ipv4/ip_forward", "1"))?;
    let mut rules =
        String::from("table ip balance {\nchain to { type nat hook prerouting priority dstnat;\n");
    for (port, server) in pairs {
        rules += &format!("ip daddr {} tcp dport {port} dnat to {server}\n", EDGE.v4());
    }
    rules += "}\nchain from { type nat hook postrouting priority srcnat;\nmasquerade\n}\n}\n";
    let mut command: Command = edge.namespace.command("nft");
    command.arg(rules);
    let output = process::output(command, Duration::from_secs(5))?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Traffic {
        program: "nft",
        said: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}
