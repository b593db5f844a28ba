//! The configurations of the lab's nodes, derived from the examples that users are given.
//!
//! The examples are the tests' input, so they cannot rot. A node changes only what is its own: its
//! name, its priority, its unicast peers.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use toml::{Table, Value};

use crate::{
    error::{Context, Error, Result},
    node::NodeId,
    switch::{HostSpec, VIP, VIP6},
};

/// Which example a lab runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settings {
    /// `config/steerd.toml`: adverts each second, probes each five.
    Seed,
    /// `config/examples/fast.toml`.
    Fast,
}

impl Settings {
    /// Its name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Seed => "seed",
            Self::Fast => "fast",
        }
    }

    /// How soon service must be back after a server died.
    #[must_use]
    pub const fn server_target(self) -> Duration {
        match self {
            Self::Seed => Duration::from_secs(16),
            Self::Fast => Duration::from_millis(500),
        }
    }

    /// How soon service must be back after a node died.
    #[must_use]
    pub const fn node_target(self) -> Duration {
        match self {
            Self::Seed => Duration::from_secs(4),
            Self::Fast => Duration::from_millis(500),
        }
    }

    /// After how long the lab stops waiting for an effect of anything.
    #[must_use]
    pub const fn patience(self) -> Duration {
        match self {
            Self::Seed => Duration::from_secs(40),
            Self::Fast => Duration::from_secs(25),
        }
    }

    /// The example.
    #[must_use]
    pub fn path(self) -> PathBuf {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        root.join("config").join(match self {
            Self::Seed => "steerd.toml",
            Self::Fast => "examples/fast.toml",
        })
    }
}

/// The name of the UDP echo's service.
pub const ECHO: &str = "echo";

/// The port of the UDP echo that the lab adds as a second service.
pub const ECHO_PORT: u16 = 8766;

/// A second port that servers echo on, for a service that a test adds.
pub const OTHER_ECHO_PORT: u16 = 8767;

/// An IPv6 virtual router's first address is link-local (RFC 9568, section 5.2.9).
const LINK_LOCAL_VIP: &str = "fe80::8765:25";

/// One node's configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeConfig {
    path: PathBuf,
    table: Table,
}

impl NodeConfig {
    /// The example as it would be copied to `node`.
    ///
    /// # Errors
    ///
    /// The example is missing, is not TOML or lacks what the lab needs.
    pub fn load(settings: Settings, node: NodeId) -> Result<Self> {
        let path = settings.path();
        let text = fs::read_to_string(&path).context(|| format!("read {}", path.display()))?;
        let table: Table = text.parse().map_err(|error| Error::Config {
            path: path.clone(),
            reason: format!("{error}"),
        })?;
        let mut config = Self { path, table };
        config.set("node", "name", node.name())?;
        for router in config.array("virtual_router")? {
            router.insert("priority".into(), Value::Integer(node.priority().into()));
            let peers = router.get("peers").and_then(Value::as_array);
            if peers.is_some_and(|peers| !peers.is_empty()) {
                router.insert("peers".into(), strings([node.other().spec().v4()]));
            }
        }
        Ok(config)
    }

    /// Adds the UDP echo at the first service's address. It is probed as that service is, so both
    /// move together.
    ///
    /// # Errors
    ///
    /// The example has no service.
    pub fn add_echo(&mut self) -> Result<()> {
        let game = self.game()?;
        self.copy_service(&game, ECHO, ECHO_PORT)?;
        self.service(ECHO)?.insert("protocol".into(), "udp".into());
        Ok(())
    }

    /// Adds a service like `from` on another port, whose backends are checked by the first probe of
    /// `from`, on that one's port.
    ///
    /// # Errors
    ///
    /// There is no service `from`, or it has no probe.
    pub fn copy_service(&mut self, from: &str, name: &str, port: u16) -> Result<()> {
        let mut copy = self.service(from)?.clone();
        let probed = copy.insert("port".into(), Value::Integer(port.into()));
        copy.insert("name".into(), name.into());
        for backend in tables(&mut copy, "backend") {
            backend.remove("port");
        }
        let probes = copy.get("probes").and_then(Value::as_array);
        let probe = probes
            .and_then(|probes| probes.first())
            .and_then(Value::as_str);
        let probe = probe.ok_or_else(|| lacks(&self.path, &format!("probe for service {from}")))?;
        let all = self.table.get_mut("probe").and_then(Value::as_table_mut);
        let all = all.ok_or_else(|| lacks(&self.path, "probe"))?;
        if let (Some(probe), Some(port)) = (all.get(probe).and_then(Value::as_table), probed) {
            let mut probe = probe.clone();
            probe.entry("port").or_insert(port);
            all.insert(name.to_owned(), probe.into());
        }
        copy.insert("probes".into(), strings([name]));
        self.push("service", copy)
    }

    /// Makes `hosts`, all of tier 1, the backends of the service `service`.
    ///
    /// # Errors
    ///
    /// There is no such service.
    pub fn set_backends(&mut self, service: &str, hosts: &[HostSpec]) -> Result<()> {
        let backends = hosts.iter().map(|host| {
            let mut backend = Table::new();
            backend.insert("name".into(), host.name.into());
            backend.insert("address".into(), host.v4().to_string().into());
            backend.into()
        });
        let backends = Value::Array(backends.collect());
        self.service(service)?.insert("backend".into(), backends);
        Ok(())
    }

    /// Adds the same virtual router and services over IPv6.
    ///
    /// # Errors
    ///
    /// The example has no virtual router or no service.
    pub fn add_ipv6(&mut self) -> Result<()> {
        let mut router = self.first("virtual_router")?;
        router.insert("name".into(), named6(&router));
        router.insert(
            "addresses".into(),
            strings([format!("{LINK_LOCAL_VIP}/64"), format!("{VIP6}/64")]),
        );
        if let Some(peers) = router.get("peers").and_then(Value::as_array) {
            let peers: Vec<Value> = peers.iter().map(to_ipv6).collect();
            router.insert("peers".into(), Value::Array(peers));
        }
        let router_name = router.get("name").cloned();
        let mut services: Vec<Table> = self
            .array("service")?
            .map(|service| service.clone())
            .collect();
        for service in &mut services {
            service.insert("name".into(), named6(service));
            service.insert("address".into(), VIP6.to_string().into());
            if let (true, Some(name)) = (service.contains_key("virtual_router"), &router_name) {
                service.insert("virtual_router".into(), name.clone());
            }
            for backend in tables(service, "backend") {
                if let Some(address) = backend.get("address").map(to_ipv6) {
                    backend.insert("address".into(), address);
                }
            }
        }
        self.push("virtual_router", router)?;
        services
            .into_iter()
            .try_for_each(|service| self.push("service", service))
    }

    /// Sets `[section] key`.
    ///
    /// # Errors
    ///
    /// `section` is not a table.
    pub fn set(&mut self, section: &str, key: &str, value: impl Into<Value>) -> Result<()> {
        let entry = self
            .table
            .entry(section)
            .or_insert_with(|| Table::new().into());
        let table = entry.as_table_mut().ok_or_else(|| Error::Config {
            path: self.path.clone(),
            reason: format!("{section} is not a table"),
        })?;
        table.insert(key.to_owned(), value.into());
        Ok(())
    }

    /// Adds a table to the array of tables `name`.
    ///
    /// # Errors
    ///
    /// What is of that name is no array.
    pub fn push(&mut self, name: &str, table: Table) -> Result<()> {
        let entry = self.table.entry(name);
        let array = entry.or_insert_with(|| Value::Array(Vec::new()));
        let array = array.as_array_mut();
        let array = array.ok_or_else(|| lacks(&self.path, name))?;
        array.push(Value::Table(table));
        Ok(())
    }

    /// The tables of the array `name`.
    ///
    /// # Errors
    ///
    /// There is none of that name.
    pub fn array(&mut self, name: &str) -> Result<impl Iterator<Item = &mut Table>> {
        let array = self.table.get_mut(name).and_then(Value::as_array_mut);
        let array = array.ok_or_else(|| lacks(&self.path, name))?;
        Ok(array.iter_mut().filter_map(Value::as_table_mut))
    }

    /// The backends of the service `service`, as tables.
    ///
    /// # Errors
    ///
    /// There is no such service.
    pub fn backends(&mut self, service: &str) -> Result<impl Iterator<Item = &mut Table>> {
        Ok(tables(self.service(service)?, "backend"))
    }

    /// The service `name`, as a table.
    ///
    /// # Errors
    ///
    /// There is no such service.
    pub fn service(&mut self, name: &str) -> Result<&mut Table> {
        let error = lacks(&self.path, &format!("service {name}"));
        let named = |table: &&mut Table| table.get("name").and_then(Value::as_str) == Some(name);
        self.array("service")?.find(named).ok_or(error)
    }

    /// Removes the service `service`.
    ///
    /// # Errors
    ///
    /// The example has no services at all.
    pub fn remove_service(&mut self, service: &str) -> Result<()> {
        let array = self.table.get_mut("service").and_then(Value::as_array_mut);
        let array = array.ok_or_else(|| lacks(&self.path, "service"))?;
        array.retain(|table| table.get("name").and_then(Value::as_str) != Some(service));
        Ok(())
    }

    /// The name of the first service: the game.
    ///
    /// # Errors
    ///
    /// The example has none.
    pub fn game(&self) -> Result<String> {
        let service = self.first("service")?;
        let name = service.get("name").and_then(Value::as_str);
        Ok(name
            .ok_or_else(|| lacks(&self.path, "service.name"))?
            .to_owned())
    }

    /// The path of the control socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        let control = self
            .table
            .get("control")
            .and_then(|control| control.get("socket"));
        control
            .and_then(Value::as_str)
            .unwrap_or("/run/steerd/control.sock")
            .into()
    }

    /// Writes it where a daemon will read it.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        fs::write(path, self.to_string()).context(|| format!("write {}", path.display()))
    }

    fn first(&self, name: &str) -> Result<Table> {
        let array = self.table.get(name).and_then(Value::as_array);
        let first = array
            .and_then(|array| array.first())
            .and_then(Value::as_table);
        first.cloned().ok_or_else(|| lacks(&self.path, name))
    }
}

impl std::fmt::Display for NodeConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.table)
    }
}

fn lacks(path: &Path, what: &str) -> Error {
    Error::Config {
        path: path.to_owned(),
        reason: format!("the lab needs a {what} in it"),
    }
}

fn tables<'a>(table: &'a mut Table, name: &str) -> impl Iterator<Item = &'a mut Table> + use<'a> {
    let array = table.get_mut(name).and_then(Value::as_array_mut);
    array.into_iter().flatten().filter_map(Value::as_table_mut)
}

fn strings<T: ToString>(items: impl IntoIterator<Item = T>) -> Value {
    Value::Array(
        items
            .into_iter()
            .map(|item| item.to_string().into())
            .collect(),
    )
}

fn named6(table: &Table) -> Value {
    format!(
        "{}6",
        table.get("name").and_then(Value::as_str).unwrap_or("x")
    )
    .into()
}

/// The lab's IPv6 address of the host that has this IPv4 one.
fn to_ipv6(value: &Value) -> Value {
    let text = value.as_str().unwrap_or_default();
    match text.parse() {
        Ok(address) if address == VIP => VIP6.to_string().into(),
        Ok(IpAddr::V4(address)) => {
            let name = "of the segment";
            HostSpec {
                name,
                number: address.octets()[3],
            }
            .v6()
            .to_string()
            .into()
        }
        _ => value.clone(),
    }
}
