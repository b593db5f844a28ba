//! The tables and keys of the file.
//!
//! [`super::raw`] reads each key listed here; a test checks that. Another looks for each in
//! `docs/configuration.md` and `config/steerd.toml`.

use super::reader::Schema;

/// The file.
pub(super) const FILE: Schema = Schema {
    table: "",
    keys: &[
        "node",
        "control",
        "log",
        "dataplane",
        "flows",
        "tunnel",
        "nat",
        "virtual_router",
        "probe",
        "service",
        "track",
        "channel",
        "peer",
        "sync_group",
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
pub(super) const FLOWS: Schema = Schema {
    table: "[flows]",
    keys: &[
        "tcp_new",
        "tcp_established",
        "tcp_closing",
        "udp_new",
        "udp_established",
    ],
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
        "version",
        "authentication",
        "checksum",
        "ttl",
        "min_ttl",
        "track",
        "preempt_delay",
        "fence_after",
    ],
};
pub(super) const ANNOUNCE: Schema = Schema {
    table: "announce = { ... } of [[virtual_router]]",
    keys: &["count", "interval", "repeat_after", "refresh"],
};
pub(super) const SYNC_GROUP: Schema = Schema {
    table: "[[sync_group]]",
    keys: &["name", "virtual_routers"],
};
pub(super) const AUTHENTICATION: Schema = Schema {
    table: "authentication = { ... } of [[virtual_router]]",
    keys: &["type", "password"],
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
pub(super) const CHANNEL: Schema = Schema {
    table: "[channel]",
    keys: &["listen", "ca_file", "cert_file", "key_file"],
};
pub(super) const PEER: Schema = Schema {
    table: "[[peer]]",
    keys: &["name", "address"],
};

pub(super) const TRACK: Schema = Schema {
    table: "[track.NAME]",
    keys: &[
        "kind",
        "weight",
        "interval",
        "timeout",
        "rise",
        "fall",
        "debounce_up",
        "debounce_down",
        "interface",
        "service",
        "at_least",
        "argv",
        "user",
        "path",
        "expect",
        "process",
        "address",
    ],
};

/// Every table of the file.
#[cfg(test)]
pub(super) const SCHEMAS: [&Schema; 18] = [
    &FILE,
    &NODE,
    &CONTROL,
    &LOG,
    &DATAPLANE,
    &FLOWS,
    &TUNNEL,
    &NAT,
    &VIRTUAL_ROUTER,
    &ANNOUNCE,
    &AUTHENTICATION,
    &PROBE,
    &SERVICE,
    &BACKEND,
    &TRACK,
    &CHANNEL,
    &PEER,
    &SYNC_GROUP,
];
