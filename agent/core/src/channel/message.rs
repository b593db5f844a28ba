//! What peers say. [`super::codec`] has the bytes.
//!
//! Each kind of message has a number, which never changes. A later version may add kinds (an unknown
//! one is passed over) and fields at the end of a message (what follows those that are known is
//! passed over).
//!
//! | numbers | what |
//! |---|---|
//! | 1 to 7 | the messages below |
//! | 8 to 0x00ff | further messages between nodes |
//! | 0x0100 to 0x01ff | kept for the replication of flows |

use std::{collections::BTreeSet, fmt, net::IpAddr};

use serde::{Deserialize, Deserializer, Serialize, de};
use sha2::{Digest as _, Sha256};

use super::digest::ConfigDigest;
use crate::{
    config::{Name, VirtualRouter, limits},
    event::BackendKey,
    vrrp::election::Role,
};

/// The numbers that are kept for the replication of flows.
pub const FLOW_REPLICATION: std::ops::RangeInclusive<u16> = 0x0100..=0x01ff;

/// How many backends one [`Health`] message names at most.
pub const VIEWS: usize = 256;

/// The longest text of a peer, in bytes.
const TEXT: usize = 64;

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// The first one on a connection, and only that.
    Hello(Hello),
    /// A sign of life.
    Alive(Alive),
    /// What the sender's configuration comes to.
    Config(ConfigDigest),
    /// What the sender is for each of its virtual routers.
    Roles(Roles),
    /// How the sender sees some of the backends.
    Health(Health),
    /// The order of a master to take its virtual router over.
    TakeOver(TakeOver),
    /// The answer to that.
    TakenOver(TakenOver),
}

/// Who is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`super::PROTOCOL`].
    pub protocol: u16,
    /// The node, as in its certificate.
    #[serde(deserialize_with = "name")]
    pub node: Name,
    /// The daemon's version.
    #[serde(deserialize_with = "text")]
    pub version: String,
    /// One bit for each thing that not every version understands; none so far.
    pub capabilities: u64,
}

/// A sign of life, which also measures the way there and back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alive {
    /// The sender's clock, in microseconds; of no meaning to others.
    pub sent: u64,
    /// The other side's last clock that was received; 0: none yet.
    pub echo: u64,
    /// For how many microseconds the sender has held that.
    pub held: u64,
}

/// What a node is for each of its virtual routers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roles {
    /// One for each.
    #[serde(deserialize_with = "routers")]
    pub routers: Vec<RoleView>,
}

/// What a node is for one virtual router.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleView {
    /// The virtual router.
    pub router: RouterId,
    /// The role.
    pub role: RoleWord,
    /// The effective priority.
    pub priority: u8,
    /// Whether it can do, and as master does, a master's work: its interface is up, a backend is
    /// usable, and it is not about to hand over.
    pub able: bool,
    /// The source of its adverts.
    pub source: Option<IpAddr>,
}

/// [`Role`] as it is said to peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RoleWord {
    /// [`Role::Init`].
    Init,
    /// [`Role::Backup`].
    Backup,
    /// [`Role::Master`].
    Master,
    /// [`Role::Fault`].
    Fault,
}

impl From<Role> for RoleWord {
    fn from(role: Role) -> Self {
        match role {
            Role::Init => Self::Init,
            Role::Backup => Self::Backup,
            Role::Master => Self::Master,
            Role::Fault => Self::Fault,
        }
    }
}

/// Which virtual router: by its number and its addresses, since names are each node's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RouterId {
    /// The VRID.
    pub vrid: u8,
    /// The first bytes of a SHA-256 over the sorted addresses.
    pub addresses: [u8; 8],
}

impl RouterId {
    /// That of `router`.
    #[must_use]
    pub fn of(router: &VirtualRouter) -> Self {
        let addresses: BTreeSet<IpAddr> = router.addresses.iter().map(|net| net.addr()).collect();
        let mut hash = Sha256::new();
        for address in addresses {
            match address {
                IpAddr::V4(v4) => hash.update(v4.octets()),
                IpAddr::V6(v6) => hash.update(v6.octets()),
            }
        }
        let hash = hash.finalize();
        let mut first = [0; 8];
        for (to, from) in first.iter_mut().zip(hash) {
            *to = from;
        }
        Self {
            vrid: router.vrid,
            addresses: first,
        }
    }
}

/// How a node sees some of the backends: all of them after [`Hello`], then those that changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Each of them.
    #[serde(deserialize_with = "views")]
    pub backends: Vec<BackendView>,
}

/// How a node sees one backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendView {
    /// Its service.
    #[serde(deserialize_with = "name")]
    pub service: Name,
    /// It.
    #[serde(deserialize_with = "name")]
    pub backend: Name,
    /// Its health.
    pub view: View,
    /// For how many milliseconds.
    pub since_ms: u64,
}

impl BackendView {
    /// The backend.
    #[must_use]
    pub fn key(&self) -> BackendKey {
        BackendKey {
            service: self.service.clone(),
            backend: self.backend.clone(),
        }
    }
}

/// The health of a backend, as one node sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum View {
    /// Not checked yet.
    Undecided,
    /// It passes its checks.
    Up,
    /// It does not.
    Down,
}

impl fmt::Display for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Undecided => "undecided",
            Self::Up => "up",
            Self::Down => "down",
        })
    }
}

/// "Be master of this from now on; I let go when you say that you are."
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakeOver {
    /// The virtual router.
    pub router: RouterId,
    /// Tells this order from the sender's earlier ones.
    pub order: u64,
}

/// What came of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakenOver {
    /// The virtual router.
    pub router: RouterId,
    /// The order.
    pub order: u64,
    /// Whether the sender is master now and has announced it.
    pub done: bool,
}

/// Whether this could be the name of something in a configuration.
#[must_use]
pub fn is_name(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    !text.is_empty() && text.len() <= TEXT && text.bytes().all(fits)
}

/// A name as of a configuration: what a peer says is logged and shown.
fn name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Name, D::Error> {
    match <&str>::deserialize(deserializer)? {
        text if is_name(text) => Ok(Name::new(text)),
        _ => Err(de::Error::custom("no name")),
    }
}

fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = <&str>::deserialize(deserializer)?;
    if text.len() > TEXT || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(de::Error::custom("no short printable text"));
    }
    Ok(text.to_owned())
}

fn routers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<RoleView>, D::Error> {
    at_most::<D, RoleView, { limits::VIRTUAL_ROUTERS }>(deserializer)
}

fn views<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<BackendView>, D::Error> {
    at_most::<D, BackendView, VIEWS>(deserializer)
}

/// A list that grows with what is there, not with what its length claims.
fn at_most<'de, D: Deserializer<'de>, T: Deserialize<'de>, const MAX: usize>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    struct Visitor<T, const MAX: usize>(std::marker::PhantomData<T>);

    impl<'de, T: Deserialize<'de>, const MAX: usize> de::Visitor<'de> for Visitor<T, MAX> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "at most {MAX} items")
        }

        fn visit_seq<A: de::SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
            let mut list = Vec::new();
            while let Some(item) = items.next_element()? {
                if list.len() == MAX {
                    return Err(de::Error::invalid_length(MAX + 1, &self));
                }
                list.push(item);
            }
            Ok(list)
        }
    }

    deserializer.deserialize_seq(Visitor::<T, MAX>(std::marker::PhantomData))
}
