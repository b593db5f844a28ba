//! The rows of the table: what is sent to what, what becomes of it, and what it may cost.

use steerd_ebpf::{abi::Mode, verdict::Verdict};

use super::{
    error::{Error, Result},
    frame::{
        Family::{self, V4, V6},
        Kind,
    },
    rig::World,
    wrapper::{
        Head,
        Reference::{
            self, Decapsulate, DecapsulateUdp, Encapsulate, EncapsulateUdp, Forward, Pass,
            Translate,
        },
    },
};

/// One measurement.
#[derive(Debug, Clone)]
pub struct Row {
    /// Its name.
    pub name: &'static str,
    /// What is configured.
    pub world: World,
    /// The family of the client and the service.
    pub family: Family,
    /// The family of the packet that is around the client's, if the program gets it so.
    pub outer: Option<Family>,
    /// What is sent.
    pub kind: Kind,
    /// By whom.
    pub flows: Flows,
    /// What becomes of every packet.
    pub verdict: Verdict,
    /// What does the least that such a packet needs.
    pub limit: Reference,
    /// How much of the packet the wrapper restores.
    pub head: Head,
    /// What it must not cost more than.
    pub target: Option<Target>,
    /// What Katran's program costs on the machine that the targets are for, nanoseconds.
    pub katran: Option<u32>,
}

/// Who sends the packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flows {
    /// So many clients in turn, a power of two, which the table knows.
    Known(u32),
    /// A new client each time, in a table that such clients have filled.
    New,
}

/// What a row must not cost more than, nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Target {
    /// So much.
    Ns(f64),
    /// So much more than this other row.
    Over(&'static str, f64),
}

/// A realistic configuration.
const DEFAULT: World = World {
    services: 50,
    backends: 20,
    mode: Mode::Dsr,
    same_family: true,
    same_interface: true,
    guarded: false,
};

/// A client's data to a backend on the same segment.
const DSR: Row = Row {
    name: "dsr",
    world: DEFAULT,
    family: V4,
    outer: None,
    kind: Kind::Ack,
    flows: Flows::Known(1),
    verdict: Verdict::Dsr,
    limit: Forward(V4),
    head: Head::Short,
    target: None,
    katran: None,
};

/// The same over IPv6.
const DSR6: Row = Row {
    name: "dsr6",
    family: V6,
    limit: Forward(V6),
    ..DSR
};

/// A packet that is none of ours.
const NON_VIP: Row = Row {
    name: "non_vip",
    kind: Kind::Elsewhere,
    verdict: Verdict::NotVip,
    limit: Pass,
    ..DSR
};

/// All rows.
#[must_use]
pub fn all() -> Vec<Row> {
    let mut rows = flows();
    rows.extend(modes());
    rows.extend(services());
    rows
}

/// The rows with these names, all if there are none.
///
/// # Errors
///
/// There is no such row.
pub fn named(names: &[String]) -> Result<Vec<Row>> {
    let mut rows = all();
    if let Some(name) = names
        .iter()
        .find(|name| rows.iter().all(|row| row.name != **name))
    {
        let rows: Vec<&str> = rows.iter().map(|row| row.name).collect();
        return Err(Error::NoRow {
            name: name.clone(),
            rows: rows.join(", "),
        });
    }
    rows.retain(|row| names.is_empty() || names.iter().any(|name| name == row.name));
    Ok(rows)
}

/// What a packet costs by kind, and by how many flows there are.
fn flows() -> Vec<Row> {
    let ack = |name, flows, target, katran| Row {
        name,
        flows: Flows::Known(flows),
        target: Some(Target::Ns(target)),
        katran: Some(katran),
        ..DSR
    };
    vec![
        ack("tcp_ack_flows_1", 1, 30.0, 103),
        ack("tcp_ack_flows_1024", 1 << 10, 35.0, 112),
        ack("tcp_ack_flows_16384", 1 << 14, 60.0, 399),
        ack("tcp_ack_flows_131072", 1 << 17, 160.0, 413),
        ack("tcp_ack_flows_1048576", 1 << 20, 200.0, 472),
        Row {
            kind: Kind::Syn,
            flows: Flows::New,
            ..ack("tcp_syn_new_table_full", 1, 250.0, 854)
        },
        Row {
            name: "tcp_syn_new_table_full_guarded",
            world: World {
                guarded: true,
                ..DEFAULT
            },
            kind: Kind::Syn,
            flows: Flows::New,
            ..DSR
        },
        Row {
            kind: Kind::Udp,
            ..ack("udp", 1, 40.0, 133)
        },
        Row {
            name: "tcp6_ack",
            target: Some(Target::Ns(40.0)),
            katran: Some(101),
            ..DSR6
        },
        Row {
            target: Some(Target::Ns(8.0)),
            katran: Some(49),
            ..NON_VIP
        },
    ]
}

/// One flow in each mode, over IPv4 and IPv6.
fn modes() -> Vec<Row> {
    let mut rows = vec![
        Row {
            name: "local",
            world: mode(Mode::Local),
            verdict: Verdict::Local,
            limit: Pass,
            ..DSR
        },
        Row {
            name: "local6",
            world: mode(Mode::Local),
            verdict: Verdict::Local,
            limit: Pass,
            ..DSR6
        },
        DSR,
        DSR6,
        Row {
            name: "dsr_redirect",
            world: redirect(Mode::Dsr),
            ..DSR
        },
        Row {
            name: "dsr6_redirect",
            world: redirect(Mode::Dsr),
            ..DSR6
        },
    ];
    rows.extend(tunnels());
    rows.extend(translations());
    rows
}

/// Through tunnels: what a node that steers does, and what its backend does.
fn tunnels() -> Vec<Row> {
    let tunnel = |name, world, limit, client: Row| Row {
        name,
        world,
        verdict: Verdict::Tunnel,
        limit,
        target: Some(Target::Over(client.name, 15.0)),
        ..client
    };
    let unwrap = |name, world, outer, limit, client: Row| Row {
        name,
        world,
        outer: Some(outer),
        kind: Kind::Wrapped,
        verdict: Verdict::Unwrapped,
        limit,
        ..client
    };
    let (ipip, gue) = (mode(Mode::Ipip), mode(Mode::Gue));
    let across = World {
        same_family: false,
        ..ipip
    };
    vec![
        tunnel("tunnel_ipip", ipip, Encapsulate(V4), DSR),
        tunnel("tunnel_ip6ip6", ipip, Encapsulate(V6), DSR6),
        tunnel("tunnel_4in6", across, Encapsulate(V6), DSR),
        tunnel("tunnel_6in4", across, Encapsulate(V4), DSR6),
        tunnel("tunnel_gue", gue, EncapsulateUdp(V4), DSR),
        tunnel("tunnel_gue6", gue, EncapsulateUdp(V6), DSR6),
        Row {
            target: Some(Target::Over("dsr_redirect", 15.0)),
            ..tunnel(
                "tunnel_redirect",
                redirect(Mode::Ipip),
                Encapsulate(V4),
                DSR,
            )
        },
        unwrap("unwrap_ipip", ipip, V4, Decapsulate(V4), DSR),
        unwrap("unwrap_ip6ip6", ipip, V6, Decapsulate(V6), DSR6),
        unwrap("unwrap_4in6", across, V6, Decapsulate(V6), DSR),
        unwrap("unwrap_6in4", across, V4, Decapsulate(V4), DSR6),
        unwrap("unwrap_gue", gue, V4, DecapsulateUdp(V4), DSR),
        unwrap("unwrap_gue6", gue, V6, DecapsulateUdp(V6), DSR6),
    ]
}

/// Translated, there and back.
fn translations() -> Vec<Row> {
    let there = |name, kind, client: Row| Row {
        name,
        world: mode(Mode::Nat),
        kind,
        verdict: Verdict::Nat,
        limit: Translate(client.family),
        head: match client.family {
            V4 => Head::Short,
            V6 => Head::Long,
        },
        target: Some(Target::Over(client.name, 30.0)),
        ..client
    };
    let back = |name, client| Row {
        verdict: Verdict::NatReturn,
        ..there(name, Kind::Answer, client)
    };
    vec![
        there("nat", Kind::Ack, DSR),
        there("nat6", Kind::Ack, DSR6),
        there("nat_udp", Kind::Udp, DSR),
        Row {
            world: redirect(Mode::Nat),
            target: Some(Target::Over("dsr_redirect", 30.0)),
            ..there("nat_redirect", Kind::Ack, DSR)
        },
        back("nat_return", DSR),
        back("nat6_return", DSR6),
    ]
}

/// The realistic configuration in another mode.
const fn mode(mode: Mode) -> World {
    World { mode, ..DEFAULT }
}

/// Out through another interface.
const fn redirect(mode: Mode) -> World {
    World {
        mode,
        same_interface: false,
        ..DEFAULT
    }
}

/// That the number of services does not matter.
fn services() -> Vec<Row> {
    let with = |services| World {
        services,
        ..DEFAULT
    };
    let ack = |name, services| Row {
        name,
        world: with(services),
        ..DSR
    };
    let other = |name, services| Row {
        name,
        world: with(services),
        ..NON_VIP
    };
    vec![
        ack("tcp_ack_flows_1_services_1", 1),
        ack("tcp_ack_flows_1_services_50", 50),
        ack("tcp_ack_flows_1_services_1000", 1000),
        other("non_vip_services_1", 1),
        other("non_vip_services_50", 50),
        other("non_vip_services_1000", 1000),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_numbers_of_flows_powers_of_two() {
        let rows = all();
        for (at, row) in rows.iter().enumerate() {
            assert!(
                rows[..at].iter().all(|other| other.name != row.name),
                "{}",
                row.name
            );
            if let Flows::Known(flows) = row.flows {
                assert!(flows.is_power_of_two(), "{}", row.name);
            }
            if let Some(Target::Over(other, _)) = row.target {
                assert!(
                    rows[..at].iter().any(|row| row.name == other),
                    "{}",
                    row.name
                );
            }
        }
    }

    #[test]
    fn rows_are_found_by_name() {
        let names = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
            named(&names).map(|rows| rows.iter().map(|row| row.name).collect::<Vec<_>>())
        };
        assert_eq!(names(&["udp", "non_vip"]).unwrap(), ["udp", "non_vip"]);
        assert_eq!(names(&[]).unwrap().len(), all().len());
        let error = names(&["upd"]).unwrap_err().to_string();
        assert!(
            error.starts_with("there is no row `upd`; there are: tcp_ack"),
            "{error}"
        );
    }
}
