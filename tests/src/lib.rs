//! The lab: two nodes, a client and a switch on one machine, made of network namespaces, in which
//! the real `steerd` and `steerctl` run while servers, nodes and links die under load.
//!
//! ```text
//!   client .10 ─┐                       each host: a network and a mount namespace,
//!   players     ├─ switch (a bridge) ─┬─ primary .26: steerd, game-server
//!   probers     │                     └─ backup  .27: steerd, game-server
//!               │                        VIP .25 on whichever is master
//! ```
//!
//! * [`netns`], [`link`], [`xdp`], [`switch`]: hosts and cables. Everything of the kernel hangs on
//!   file descriptors of the lab, so nothing survives it, however it ends.
//! * [`process`], [`config`], [`node`], [`dir`], [`lab`]: the programs on the hosts, and their control.
//! * [`game`]: the server under protection. [`players`], [`prober`], [`stream`]: the load, and the
//!   three measures of an outage; [`clients`]: flows to be looked up in the table; [`asker`]: who
//!   answers for an address.
//! * [`scenario`]: what goes wrong, as functions from a running lab to a [`scenario::Report`];
//!   [`watch`] and [`timeline`]: the story of it for a person; [`demo`]: all of it in one command.
//!
//! * [`guest`]: another kernel to run a test on, where the one at hand lacks what it needs.
//!
//! Beside the lab: [`site`], a single node in networks of every shape, with [`traffic`] in every mode;
//! three benchmarks, [`bench`](mod@bench): what a packet costs, [`throughput`]: what a balancer
//! carries, and [`failover`]: how long an address does not answer; and [`model`]: what the kernel
//! program has to do.

pub mod asker;
pub mod bench;
pub mod clients;
pub mod config;
pub mod demo;
pub mod dir;
pub mod error;
pub mod failover;
pub mod game;
pub mod guest;
pub mod lab;
pub mod link;
pub mod model;
pub mod netns;
pub mod node;
pub mod players;
pub mod prober;
pub mod process;
pub mod scenario;
pub mod site;
pub mod slots;
pub mod stream;
pub mod switch;
pub mod throughput;
pub mod timeline;
pub mod traffic;
pub mod wait;
pub mod watch;
pub mod xdp;
