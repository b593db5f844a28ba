//! What to say of statements that have no counterpart: what does their work here, if anything.

/// What kind of block a statement stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Block {
    Top,
    Global,
    Instance,
    Group,
    Watch,
    Virtual,
    Real,
    Checker,
}

const MAIL: &str = "steerd sends no mail: let monitoring ask `steerctl -o json status`";
const NOTIFY: &str = "steerd runs no scripts when a role changes: if services must follow the \
                      address, see docs/migration.md";
const NOTIFY_HEALTH: &str = "steerd runs no scripts when health changes: let monitoring ask \
                             `steerctl -o json status`";
const PROCESS: &str = "how keepalived's processes run; steerd's unit and its heartbeat thread have \
                       settings of their own";
const SNMP: &str = "steerd speaks no SNMP and no D-Bus: `steerctl -o json status` tells the same";
const FIREWALL: &str = "steerd needs no firewall rules of its own";
const HOST: &str = "it does not move with an address: leave it to the host's network configuration";
const REFRESH: &str = "`refresh` of `announce` repeats one announcement for each address";
const BFD: &str = "steerd has no BFD: a track of kind \"gateway\" watches a neighbour";
const BINDING: &str = "probes leave from the address that the kernel chooses";
const IPVS: &str = "a detail of IPVS";
const BUFFERS: &str = "a detail of keepalived's sockets";
const UNKNOWN: &str = "not known to this import, and perhaps not to keepalived";

/// Why `keyword` in a block of this kind has no counterpart.
pub(super) fn hint(block: Block, keyword: &str) -> &'static str {
    let hint = match block {
        Block::Top => top(keyword),
        Block::Global => global(keyword),
        Block::Instance | Block::Group => instance(keyword),
        Block::Watch => watch(keyword),
        Block::Virtual | Block::Real => server(keyword),
        Block::Checker => checker(keyword),
    };
    match hint == UNKNOWN && block != Block::Top && TRANSLATED.contains(&keyword) {
        true => "its value cannot be used here",
        false => hint,
    }
}

/// Keywords that are translated if their values fit.
const TRANSLATED: [&str; 48] = [
    "advert_int",
    "connect_port",
    "connect_timeout",
    "default_interface",
    "delay",
    "delay_before_retry",
    "delay_loop",
    "fall",
    "fork_delay",
    "garp_master_delay",
    "garp_master_refresh",
    "garp_master_repeat",
    "interface",
    "interval",
    "lb_algo",
    "lb_kind",
    "lvs_method",
    "lvs_sched",
    "mcast_src_ip",
    "nb_get_retry",
    "path",
    "preempt_delay",
    "priority",
    "quorum",
    "retry",
    "rise",
    "router_id",
    "script",
    "script_user",
    "sorry_server_lvs_method",
    "state",
    "status_code",
    "strict_mode",
    "terminate_delay",
    "timeout",
    "unicast_src_ip",
    "unicast_ttl",
    "user",
    "version",
    "virtual_router_id",
    "virtualhost",
    "vrrp_garp_interval",
    "vrrp_garp_master_delay",
    "vrrp_garp_master_refresh",
    "vrrp_garp_master_repeat",
    "vrrp_min_garp",
    "vrrp_version",
    "weight",
];

fn top(keyword: &str) -> &'static str {
    match keyword {
        "static_ipaddress" | "static_routes" | "static_rules" | "track_group" => HOST,
        "bfd_instance" => BFD,
        "garp_group" => "steerd paces announcements for each virtual router, with `announce`",
        "linkbeat_interfaces" | "linkbeat_use_polling" => {
            "steerd follows links by netlink, at once"
        }
        "SSL" => {
            "probes show no client certificate; `ca_file` and `verify` of a probe check the server's"
        }
        "net_namespace" | "net_namespace_ipvs" | "namespace_with_ipsets" => {
            "start steerd in the namespace instead: NetworkNamespacePath= of its unit"
        }
        "instance" | "use_pid_dir" | "child_wait_time" => PROCESS,
        "interface_up_down_delays" => {
            "`debounce_down` and `debounce_up` of a track of kind \"interface\" do this"
        }
        _ => UNKNOWN,
    }
}

fn global(keyword: &str) -> &'static str {
    match keyword {
        "notification_email"
        | "notification_email_from"
        | "smtp_server"
        | "smtp_helo_name"
        | "smtp_connect_timeout"
        | "smtp_alert"
        | "smtp_alert_vrrp"
        | "smtp_alert_checker"
        | "no_email_faults"
        | "no_checker_emails" => MAIL,
        "notify_fifo"
        | "notify_fifo_script"
        | "vrrp_notify_fifo"
        | "vrrp_notify_fifo_script"
        | "lvs_notify_fifo"
        | "lvs_notify_fifo_script"
        | "fifo_write_vrrp_states_on_reload"
        | "vrrp_notify_priority_changes"
        | "rs_init_notifies" => NOTIFY,
        "startup_script"
        | "shutdown_script"
        | "startup_script_timeout"
        | "shutdown_script_timeout" => "ExecStartPre= and ExecStopPost= of steerd's unit do this",
        "enable_script_security" => {
            "whoever may change a track's program may run it as its `user`: keep both to root"
        }
        "lvs_sync_daemon" | "lvs_sync_daemon_interface" => {
            "there is no connection table to copy: with scheduler \"maglev\" every node chooses alike"
        }
        "lvs_timeouts" => "`tcp_established` and its like in [nat] are the nearest",
        "lvs_flush" | "lvs_flush_on_stop" => {
            "`ipvsadm --clear`, once, after the last keepalived: steerd does not touch IPVS"
        }
        "vrrp_mcast_group4" | "vrrp_mcast_group6" => {
            "steerd sends to the groups of the RFC; set `peers` where those do not fit"
        }
        "vrrp_garp_master_refresh_repeat" | "vrrp_garp_extra_if" => REFRESH,
        "vrrp_garp_lower_prio_delay" | "vrrp_garp_lower_prio_repeat" => {
            "`announce` says how often, whatever the cause"
        }
        "vrrp_lower_prio_no_advert" | "vrrp_higher_prio_send_advert" => {
            "steerd answers such adverts as the RFC says"
        }
        "vrrp_check_unicast_src" => "steerd always takes adverts of its `peers` only",
        "vrrp_skip_check_adv_addr" => "steerd looks at the addresses in every advert",
        "vrrp_down_timer_adverts" => "a master is given up after three adverts, as the RFC says",
        "vrrp_startup_delay" => {
            "order steerd's unit after the network instead: After=network-online.target"
        }
        "log_unknown_vrids" => "`steerctl status` counts such adverts under DROPPED ADVERTS",
        "checker_log_all_failures" => "level \"debug\" of [log] does this",
        "dynamic_interfaces" => {
            "interfaces must be there when steerd starts: order its unit after what makes them"
        }
        "vmac_prefix" | "vmac_addr_prefix" => "steerd names such devices itself",
        "include_check"
        | "reload_check_config"
        | "reload_time_file"
        | "reload_repeat"
        | "reload_file" => {
            "`steerctl check` and `steerctl reload --dry-run` tell before anything changes"
        }
        "disable_local_igmp" | "vrrp_iptables" | "vrrp_ipsets" => FIREWALL,
        _ if keyword.starts_with("nftables") => FIREWALL,
        _ if keyword.contains("snmp") || keyword.contains("dbus") || keyword == "enable_traps" => {
            SNMP
        }
        _ if keyword.contains("_bufs") => BUFFERS,
        _ if [
            "priority",
            "_no_swap",
            "_affinity",
            "_rttime",
            "process_name",
            "_delay",
        ]
        .iter()
        .any(|part| keyword.contains(part)) =>
        {
            PROCESS
        }
        "process_names"
        | "use_pid_dir"
        | "umask"
        | "random_seed"
        | "tmp_config_directory"
        | "config_save_dir"
        | "data_use_instance"
        | "instance" => PROCESS,
        _ => UNKNOWN,
    }
}

fn instance(keyword: &str) -> &'static str {
    match keyword {
        "smtp_alert" => MAIL,
        _ if keyword.starts_with("notify") => NOTIFY,
        "dont_track_primary" => "a virtual router always has a fault while its interface is down",
        "track_src_ip" => "set `source` only to an address that the host keeps",
        "track_bfd" => BFD,
        "garp_master_refresh"
        | "garp_master_refresh_repeat"
        | "garp_extra_if"
        | "garp_extra_if_vmac" => REFRESH,
        "garp_lower_prio_delay" | "garp_lower_prio_repeat" => {
            "`announce` says how often, whatever the cause"
        }
        "lower_prio_no_advert" | "higher_prio_send_advert" => {
            "steerd answers such adverts as the RFC says"
        }
        "check_unicast_src" => "steerd always takes adverts of its `peers` only",
        "unicast_fault_no_peer" => "without `peers` steerd uses multicast",
        "skip_check_adv_addr" => "steerd looks at the addresses in every advert",
        "old_unicast_checksum" => {
            "steerd takes both checksums of RFC 5798 and RFC 9568, but not that of keepalived before 1.3.7"
        }
        "down_timer_adverts" => "a master is given up after three adverts, as the RFC says",
        "mcast_dst_ip" => {
            "steerd sends to the group of the RFC; set `peers` where that does not fit"
        }
        "promote_secondaries" => "set the sysctl of that name for the interface",
        "lvs_sync_daemon_interface" => {
            "there is no connection table to copy: with scheduler \"maglev\" every node chooses alike"
        }
        "use_ipvlan" | "use_vmac_addr" | "vmac_xmit_base" => {
            "`virtual_mac = true` makes a macvlan on the virtual router's interface; there are no variants"
        }
        "vrf" => "put the interface into the VRF; steerd follows the interface",
        "debug" => "level \"debug\" of [log] does this",
        "kernel_rx_buf_size" => BUFFERS,
        "linkbeat_use_polling" => "steerd follows links by netlink, at once",
        "global_tracking" | "sync_group_tracking_weight" => {
            "each virtual router of the group has the tracks that it names"
        }
        _ => UNKNOWN,
    }
}

fn watch(keyword: &str) -> &'static str {
    match keyword {
        "init_fail" => {
            "until the first check a weight adds nothing, and a fault keeps a starting node back"
        }
        "init_file" => "steerd writes no files for tracks: have it made at boot (tmpfiles.d)",
        "param_match" | "full_command" => "a process is found by its name alone",
        "quorum_max" => "there is no upper bound: a script can count",
        _ => UNKNOWN,
    }
}

fn server(keyword: &str) -> &'static str {
    match keyword {
        "smtp_alert" => MAIL,
        "notify_up" | "notify_down" | "quorum_up" | "quorum_down" => NOTIFY_HEALTH,
        "omega" => "nothing runs when steerd stops: the kernel program goes on as it is",
        "hysteresis" => "`rise` and `fall` of the probes keep a tier from flapping",
        "inhibit_on_failure" => {
            "connections of a backend that fails are reset, so that clients come back at once; \
             weight 0 is for taking one out by hand"
        }
        "sorry_server_inhibit" => "a sorry backend is checked like the others",
        "ha_suspend" => "every node checks, so that a new master knows at once",
        "ops" | "flag-1" | "flag-2" | "flag-3" | "sh-fallback" | "mh-fallback"
        | "persistence_engine" => IPVS,
        "warmup" => "`jitter` of a probe spreads checks over time",
        "uthreshold" | "lthreshold" => {
            "there is no limit of connections for a backend; `syn_rate` limits new ones of a service"
        }
        "BFD_CHECK" => BFD,
        "FILE_CHECK" | "MISC_CHECK" => {
            "probes run no programs: have the server answer on an HTTP path, and check that"
        }
        "PING_CHECK" => "that a host answers pings says little: add a probe of what it serves",
        "UDP_CHECK" => "probes go over TCP: add one of a port that tells of the same server",
        "snmp_name" => SNMP,
        "ip_family" => IPVS,
        _ => UNKNOWN,
    }
}

fn checker(keyword: &str) -> &'static str {
    match keyword {
        "digest" => "`body_contains` of a probe looks for a text in the answer instead",
        _ if keyword.starts_with("regex") => {
            "`body_contains` of a probe looks for a plain text in the answer"
        }
        "http_protocol" => "probes speak HTTP/1.1",
        "connect_ip" | "host" => "a probe asks the backend's own address; `port` may be another",
        "bindto" | "bind_if" | "bind_port" | "fwmark" => BINDING,
        "warmup" => "`jitter` of a probe spreads checks over time",
        "log_all_failures" => "level \"debug\" of [log] does this",
        "fast_recovery" => "each probe has its own pace",
        "helo_name" | "type" | "name" => "the probe says and asks nothing, it only connects",
        _ => UNKNOWN,
    }
}
