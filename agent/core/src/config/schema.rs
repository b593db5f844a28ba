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
pub(super) const MAX_SERVICES: usize = 4095;
pub(super) const MAX_BACKENDS: usize = 1024;
pub(super) const MAX_PROBES: usize = 16;
pub(super) const MAX_STATUSES: usize = 32;

/// The file.
pub(super) const FILE: Schema = Schema {
    table: "",
    keys: &[
        "node",
        "control",
        "log",
        "dataplane",
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
        "probes",
        "backend",
    ],
};
pub(super) const BACKEND: Schema = Schema {
    table: "[[service.backend]]",
    keys: &["name", "address", "port", "weight", "tier", "mode"],
};

/// Every table of the file.
#[cfg(test)]
pub(super) const SCHEMAS: [&Schema; 10] = [
    &FILE,
    &NODE,
    &CONTROL,
    &LOG,
    &DATAPLANE,
    &VIRTUAL_ROUTER,
    &ANNOUNCE,
    &PROBE,
    &SERVICE,
    &BACKEND,
];
