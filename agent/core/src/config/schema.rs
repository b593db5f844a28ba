//! The tables and keys of the file, and how many of each there may be.
//!
//! [`super::raw`] reads each key listed here; a test checks that. Another looks for each in
//! `docs/configuration.md` and `config/steerd.toml`.

use super::reader::Schema;

/// At most this many of each; the data plane's maps and the packets of VRRP set the size.
pub(super) const MAX_VIRTUAL_ROUTERS: usize = 64;
pub(super) const MAX_ADDRESSES: usize = 32;
pub(super) const MAX_PEERS: usize = 32;
pub(super) const MAX_INTERFACES: usize = 16;
/// One less than places, as each address of services takes a place too.
pub(super) const MAX_SERVICES: usize = MAX_PLACES - 1;
pub(super) const MAX_BACKENDS: usize = 1024;
pub(super) const MAX_PROBES: usize = 16;
pub(super) const MAX_STATUSES: usize = 32;
pub(super) const MAX_ENDPOINTS: usize = 16;
pub(super) const MAX_NAT_ADDRESSES: usize = 8;
/// In one list of one service.
pub(super) const MAX_SOURCES: usize = 1024;

/// Services and their distinct addresses, together.
pub(super) const MAX_PLACES: usize = 4095;
/// Backends of all services, together.
pub(super) const MAX_ALL_BACKENDS: usize = 32_767;
/// Entries of all rings, together: half of those that the data plane has, because a ring is replaced
/// by one beside it, and a node that dies may change all of them at once.
pub(super) const MAX_RING_ENTRIES: usize = 1 << 22;
/// Networks of all source lists, together.
pub(super) const MAX_ALL_SOURCES: usize = 1 << 16;

/// The file.
pub(super) const FILE: Schema = Schema {
    table: "",
    keys: &[
        "node",
        "control",
        "log",
        "dataplane",
        "tunnel",
        "nat",
        "virtual_router",
        "probe",
        "service",
    ],
};
pub(super) const NODE: Schema = Schema {
    table: "[node]",
    keys: &["name", "state_dir"],
};
pub(super) const CONTROL: Schema = Schema {
    table: "[control]",
    keys: &["socket", "viewer_group", "admin_group"],
};
pub(super) const LOG: Schema = Schema {
    table: "[log]",
    keys: &["level", "format"],
};
pub(super) const DATAPLANE: Schema = Schema {
    table: "[dataplane]",
    keys: &["interfaces", "xdp_mode", "bpf_dir"],
};
pub(super) const TUNNEL: Schema = Schema {
    table: "[tunnel]",
    keys: &["source4", "source6", "gue_port", "endpoints"],
};
pub(super) const NAT: Schema = Schema {
    table: "[nat]",
    keys: &[
        "addresses",
        "ports",
        "tcp_new",
        "tcp_established",
        "tcp_closing",
        "udp_new",
        "udp_established",
    ],
};
pub(super) const VIRTUAL_ROUTER: Schema = Schema {
    table: "[[virtual_router]]",
    keys: &[
        "name",
        "interface",
        "vrid",
        "priority",
        "advert_interval",
        "preempt",
        "addresses",
        "peers",
        "source",
        "announce",
    ],
};
pub(super) const ANNOUNCE: Schema = Schema {
    table: "announce = { ... } of [[virtual_router]]",
    keys: &["count", "interval", "repeat_after"],
};
pub(super) const PROBE: Schema = Schema {
    table: "[probe.NAME]",
    keys: &[
        "type",
        "port",
        "interval",
        "fast_interval",
        "timeout",
        "rise",
        "fall",
        "jitter",
        "method",
        "path",
        "host",
        "status",
        "body_contains",
        "server_name",
        "verify",
        "ca_file",
    ],
};
pub(super) const SERVICE: Schema = Schema {
    table: "[[service]]",
    keys: &[
        "name",
        "address",
        "port",
        "protocol",
        "virtual_router",
        "min_healthy",
        "ring_size",
        "scheduler",
        "affinity",
        "affinity_prefix4",
        "affinity_prefix6",
        "slow_start",
        "panic_threshold",
        "mss",
        "syn_rate",
        "syn_burst",
        "allow_sources",
        "deny_sources",
        "quic",
        "probes",
        "backend",
    ],
};
pub(super) const BACKEND: Schema = Schema {
    table: "[[service.backend]]",
    keys: &[
        "name",
        "address",
        "port",
        "weight",
        "tier",
        "sorry",
        "mode",
        "encapsulation",
        "mtu",
        "quic_server_id",
    ],
};

/// Every table of the file.
#[cfg(test)]
pub(super) const SCHEMAS: [&Schema; 12] = [
    &FILE,
    &NODE,
    &CONTROL,
    &LOG,
    &DATAPLANE,
    &TUNNEL,
    &NAT,
    &VIRTUAL_ROUTER,
    &ANNOUNCE,
    &PROBE,
    &SERVICE,
    &BACKEND,
];
