//! A site: one steerd between a client and its servers. Where a [`crate::lab::Lab`] shows what happens
//! when things die, a site shows whether what passes arrives: in every mode, in networks of every
//! [`Shape`], with checksums that the receivers verify.
//!
//! ```text
//!   OneArm                TwoArms                  FarServers               FarClient
//!
//!   client ─┐             client ─┐                client ─┐                         ┌─ client
//!   steerd ─┼─ front      steerd ─┼─ front         steerd ─┼─ front         steerd ─┐ │  narrow
//!   s1, s2 ─┘             router ─┘                router ─┘                s1, s2 ─┼─┼─ front
//!                         steerd ─┐                router ─┐                router ─┘ │
//!                         router ─┼─ back          s1, s2 ─┴─ back          router ───┴─ back
//!                         s1, s2 ─┘
//! ```
//!
//! `OneCable` is `TwoArms` where steerd has one interface for both, on which frames tell by their VLAN
//! tags which network they are of. Only there they have tags: at the other end of that cable a frame with
//! a tag that no network has reaches nobody.
//!
//! [`plan`] says what a site is like, [`hosts`] are the machines, [`haproxy`] their web server, [`sums`]
//! what their stacks found wrong with what they received; [`keepalived`] is a site of another kind: one
//! virtual router with steerd on one node and keepalived on the other. [`crate::traffic`] is what is sent through it.

pub mod haproxy;
pub mod hosts;
pub mod keepalived;
pub mod plan;
pub mod sums;

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::Command,
    time::Duration,
};

use steerd_core::{
    api::{BackendState, Status},
    vrrp::election::Role,
};

use crate::{
    dir::Dir,
    error::Result,
    link::{self, XdpAttached},
    netns::{self, Namespace},
    node::{Binaries, Ctl},
    process::Process,
    slots::Slots,
    switch::{INTERFACE, Switch, VIP, VIP6},
    wait,
    xdp::Tag,
};
use hosts::{EDGE, Host};
use plan::{Family, Plan, Port, ServerPlan, Shape, Way};
use sums::Sums;

/// The size of the largest packet on the client's network where it is a narrow one.
pub const NARROW: u32 = 1400;

/// A site. Everything in it ends with it.
#[derive(Debug)]
pub struct Site {
    /// What it was made by.
    pub plan: Plan,
    /// The client.
    pub client: Host,
    /// Where steerd runs.
    pub edge: Host,
    /// The servers, as in the plan; one of mode `local` has no host of its own.
    pub servers: Vec<Server>,
    daemon: Process,
    ctl: Ctl,
    _router: Option<Host>,
    switches: [Switch; 2],
    dir: Dir,
    _slots: Option<Slots>,
}

/// A server and what runs on it.
#[derive(Debug)]
pub struct Server {
    /// Its name.
    pub name: &'static str,
    /// Its host; none: it is the one that steerd runs on.
    pub host: Option<Host>,
    programs: Vec<Process>,
}

impl Site {
    /// Plugs everything together, starts servers and steerd, and waits until all servers are in use.
    /// Waits for a free slot first.
    ///
    /// # Errors
    ///
    /// Not root, a kernel that lacks something, a program that cannot be executed, or steerd did
    /// not come to serve: with the ends of the logs.
    pub fn new(plan: Plan, binaries: &Binaries) -> Result<Self> {
        netns::require_root()?;
        let slots = Slots::one()?;
        let mut site = Self::beside(plan, binaries)?;
        site._slots = Some(slots);
        Ok(site)
    }

    /// The same for one who holds slots already.
    ///
    /// # Errors
    ///
    /// See [`Site::new`].
    pub fn beside(plan: Plan, binaries: &Binaries) -> Result<Self> {
        let switches = [Switch::new()?, Switch::new()?];
        let dir = Dir::new()?;
        let client = hosts::client(&plan, &switches)?;
        let router = (plan.shape != Shape::OneArm)
            .then(|| hosts::router(&plan, &switches))
            .transpose()?;
        let edge = hosts::edge(&plan, &switches)?;
        let servers = plan
            .servers
            .iter()
            .map(|server| Server::start(&plan, server, &edge, &switches, &dir, binaries))
            .collect::<Result<Vec<_>>>()?;
        let config = dir.path().join("edge.toml");
        plan::write(&config, &plan.edge_config())?;
        let daemon = start_daemon(&edge, config, &dir, binaries)?;
        let ctl = Ctl::new(
            EDGE.name,
            &edge.namespace,
            binaries,
            "/run/steerd/control.sock".into(),
        );
        let mut site = Self {
            plan,
            client,
            edge,
            servers,
            daemon,
            ctl,
            _router: router,
            switches,
            dir,
            _slots: None,
        };
        site.until("every server in use", serves_all)?;
        Ok(site)
    }

    /// Waits until steerd's status is as awaited.
    ///
    /// # Errors
    ///
    /// A program ended meanwhile, or it was never so: with the ends of the logs.
    pub fn until(&mut self, what: &str, mut awaited: impl FnMut(&Status) -> bool) -> Result<()> {
        let (daemon, ctl, servers, dir) =
            (&mut self.daemon, &self.ctl, &mut self.servers, &self.dir);
        wait::until(
            what,
            PATIENCE,
            || {
                daemon.check()?;
                let mut programs = servers.iter_mut().flat_map(|server| &mut server.programs);
                programs.try_for_each(Process::check)?;
                // It may still be starting.
                Ok(ctl
                    .status()
                    .is_ok_and(|status| awaited(&status))
                    .then_some(()))
            },
            || format!("the logs end:\n{}", dir.logs()),
        )
    }

    /// Where a client finds a service.
    #[must_use]
    pub fn target(&self, family: Family, port: Port) -> SocketAddr {
        SocketAddr::new(vip(family), self.plan.service_port(port))
    }

    /// What steerd says of itself.
    ///
    /// # Errors
    ///
    /// It does not answer.
    pub fn status(&self) -> Result<Status> {
        self.ctl.status()
    }

    /// A way to ask steerd.
    #[must_use]
    pub const fn ctl(&self) -> &Ctl {
        &self.ctl
    }

    /// How many packets steerd's program ended so.
    ///
    /// # Errors
    ///
    /// It does not answer.
    pub fn verdict(&self, name: &str) -> Result<u64> {
        let verdicts = self.status()?.verdicts;
        let named = verdicts.iter().filter(|count| count.verdict == name);
        Ok(named.map(|count| count.packets).sum())
    }

    /// Where the programs of server number `index` run.
    #[must_use]
    pub fn server(&self, index: usize) -> &Namespace {
        self.servers[index]
            .host
            .as_ref()
            .map_or(&self.edge.namespace, |host| &host.namespace)
    }

    /// Plugs the client into a VLAN: what it sends arrives tagged. No other host knows of VLANs, so
    /// they are told here of the neighbours that they could not ask for.
    ///
    /// # Errors
    ///
    /// The kernel has no tcx.
    pub fn tag_client(&self, vlan: u16) -> Result<Tag> {
        for family in Family::ALL {
            let client = self.plan.client_address(family);
            self.client.add_neighbour(vip(family), EDGE)?;
            for server in self
                .servers
                .iter()
                .filter_map(|server| server.host.as_ref())
            {
                server.add_neighbour(client, self.client.spec)?;
            }
        }
        self.switches[0].tag(self.client.spec, vlan)
    }

    /// At which address server number `index` hears its clients: the virtual one, except where it
    /// is translated.
    #[must_use]
    pub fn heard_at(&self, index: usize, family: Family, port: Port) -> SocketAddr {
        let server = &self.plan.servers[index];
        let address = if server.way == Way::Nat {
            self.plan.address(server, family)
        } else {
            vip(family)
        };
        SocketAddr::new(address, port.of_server())
    }

    /// What all hosts' stacks found wrong since they are there.
    ///
    /// # Errors
    ///
    /// The kernel does not say.
    pub fn sums(&self) -> Result<Sums> {
        let servers = self
            .servers
            .iter()
            .filter_map(|server| server.host.as_ref());
        let hosts = servers
            .chain([&self.client, &self.edge])
            .chain(&self._router);
        hosts.map(|host| Sums::of(&host.namespace)).sum()
    }

    /// The ends of all logs.
    #[must_use]
    pub fn logs(&self) -> String {
        self.dir.logs()
    }
}

/// The virtual address.
#[must_use]
pub const fn vip(family: Family) -> IpAddr {
    match family {
        Family::V4 => VIP,
        Family::V6 => VIP6,
    }
}

impl Server {
    fn start(
        plan: &Plan,
        server: &ServerPlan,
        edge: &Host,
        switches: &[Switch; 2],
        dir: &Dir,
        binaries: &Binaries,
    ) -> Result<Self> {
        let ServerPlan { name, way, .. } = *server;
        let host = (way != Way::Local)
            .then(|| hosts::server(plan, name, way, switches))
            .transpose()?;
        let on = host.as_ref().unwrap_or(edge);
        let mut programs = serve(name, &on.namespace, dir, binaries)?;
        if let (true, Some(host)) = (way.is_tunnel(), &host) {
            let config = dir.path().join(format!("{name}.toml"));
            plan::write(&config, &plan.endpoint_config(host.spec))?;
            programs.push(start_daemon(host, config, dir, binaries)?);
            until_attached(host)?;
        }
        Ok(Self {
            name,
            host,
            programs,
        })
    }
}

/// Starts what a server offers.
///
/// # Errors
///
/// A program cannot be executed.
pub fn serve(name: &str, on: &Namespace, dir: &Dir, binaries: &Binaries) -> Result<Vec<Process>> {
    let start = |what: &str, command: Command| {
        let log = dir.path().join(format!("{name}-{what}.log"));
        Process::start(format!("{what} of {name}"), command, log)
    };
    let mut game = on.command(&binaries.game_server);
    game.args(["--name", name]);
    for (option, port) in [("--listen", Port::Game), ("--echo", Port::Echo)] {
        for any in ["0.0.0.0", "[::]"] {
            game.arg(option).arg(format!("{any}:{}", port.of_server()));
        }
    }
    let mut bulk = on.command("iperf3");
    bulk.args(["-s", "-p", &Port::Bulk.of_server().to_string()]);
    let config = dir.path().join(format!("{name}-web.cfg"));
    plan::write(&config, &haproxy::web_server(Port::Web.of_server()))?;
    Ok(vec![
        start("game-server", game)?,
        start("iperf3", bulk)?,
        start("web-server", haproxy::command(on, &config))?,
    ])
}

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(25);

fn start_daemon(host: &Host, config: PathBuf, dir: &Dir, binaries: &Binaries) -> Result<Process> {
    let name = host.spec.name;
    let mut command = host.namespace.command(&binaries.steerd);
    command.arg("--config").arg(config);
    let log = dir.path().join(format!("{name}-steerd.log"));
    Process::start(format!("steerd on {name}"), command, log)
}

/// Waits until a server can unwrap.
fn until_attached(host: &Host) -> Result<()> {
    wait::until(
        &format!("steerd on {}", host.spec.name),
        PATIENCE,
        || {
            let attached = host.namespace.run(|| link::xdp(INTERFACE))?;
            Ok((attached != XdpAttached::None).then_some(()))
        },
        || "its program is not attached".into(),
    )
}

/// Whether steerd has the addresses, and new flows go to every server.
fn serves_all(status: &Status) -> bool {
    let mut routers = status.virtual_routers.iter();
    let mut backends = status.services.iter().flat_map(|service| &service.backends);
    routers.all(|router| router.role == Role::Master)
        && backends.all(|backend| {
            backend.state == BackendState::Up && (backend.in_use || backend.weight == 0)
        })
}
