//! Everything that touches the world. Each part reports what happens as
//! [`steerd_core::event::Event`]s and does what the driver asks of it; none decides anything.

pub(crate) mod announce;
pub(crate) mod channel;
pub(crate) mod control;
pub(crate) mod dataplane;
#[cfg(test)]
pub(crate) mod lab;
pub(crate) mod netlink;
pub(crate) mod peer;
pub(crate) mod probe;
pub(crate) mod rt;
pub(crate) mod state;
pub(crate) mod sysctl;
pub(crate) mod track;
