//! The rows of the table: what is sent to what, what becomes of it, and what it may cost.

use steerd_ebpf::verdict::Verdict;

use super::{
    error::{Error, Result},
    frame::{
        Family::{self, V4, V6},
        Kind,
    },
    rig::{Mode, World},
    wrapper::{
        Head,
        Reference::{self, Forward, Pass},
    },
};

/// One measurement.
#[derive(Debug, Clone)]
pub struct Row {
    /// Its name.
    pub name: &'static str,
    /// What is configured.
    pub world: World,
    /// What is sent, over this protocol.
    pub family: Family,
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
};

/// A client's data to a backend on the same segment.
const DSR: Row = Row {
    name: "dsr",
    world: DEFAULT,
    family: V4,
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
    let local = World {
        mode: Mode::Local,
        ..DEFAULT
    };
    let redirect = World {
        mode: Mode::DsrRedirect,
        ..DEFAULT
    };
    vec![
        Row {
            name: "local",
            world: local,
            verdict: Verdict::Local,
            limit: Pass,
            ..DSR
        },
        Row {
            name: "local6",
            world: local,
            verdict: Verdict::Local,
            limit: Pass,
            ..DSR6
        },
        DSR,
        DSR6,
        Row {
            name: "dsr_redirect",
            world: redirect,
            verdict: Verdict::Dsr,
            ..DSR
        },
        Row {
            name: "dsr6_redirect",
            world: redirect,
            verdict: Verdict::Dsr,
            ..DSR6
        },
    ]
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
