//! steerd's core: everything that decides, and nothing that does.
//!
//! The core holds no socket, no clock and no map. The daemon feeds it [`event::Event`]s with the
//! time at which they happened and carries out the [`action::Action`]s that come back:
//!
//! ```text
//! probe result / peer advert / link event / command
//!   -> node::Node::handle(event, now)
//!   -> node::Node::poll_action()       until None
//!   -> node::Node::next_deadline()     when to call node::Node::tick(now)
//! ```
//!
//! So a test runs a whole cluster on a virtual clock, and the same code decides in production.
//!
//! * [`announce`]: the frames that announce an address or ask who has it.
//! * [`config`]: the configuration, from text to types that cannot be wrong.
//! * [`vrrp`]: the wire format and the election of a virtual router's master.
//! * [`health`]: rise and fall of a backend's probes.
//! * [`maglev`]: the lookup table that spreads flows over backends.
//! * [`round_robin`]: one cycle of weighted turns.
//! * [`track`]: what else a node watches, and what that does to its virtual routers.
//! * [`node`]: the whole of a node, which ties them together.
//! * [`plan`]: the difference between two configurations.
//! * [`api`]: what the control socket speaks.
//! * [`channel`]: what nodes tell each other beside VRRP.

pub mod action;
pub mod announce;
pub mod api;
pub mod channel;
pub mod config;
pub mod event;
pub mod health;
pub mod maglev;
pub mod node;
pub mod plan;
pub mod round_robin;
pub mod time;
pub mod track;
pub mod vrrp;
