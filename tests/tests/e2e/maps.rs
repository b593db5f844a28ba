//! What the maps must say of themselves, whatever happened before.

use std::collections::{BTreeMap, BTreeSet};

use steerd_core::api::MapEntry;
use steerd_ebpf::abi::SERVICE_SLOTS;
use steerd_tests::{error::Result, node::Ctl};

/// A service as the program sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Service {
    pub(crate) id: u32,
    /// Address, port and protocol.
    pub(crate) key: String,
    pub(crate) ring_line: u32,
    pub(crate) ring_slots: u32,
}

/// The services of the table in use.
pub(crate) fn services(ctl: &Ctl) -> Result<Vec<Service>> {
    let control = ctl.dump("CONTROL")?;
    // "first slot N, seed S".
    let table = text(&control.entries[0], "services");
    let first = table.trim_start_matches("first slot ").split(',').next();
    let first = parsed(first.unwrap_or_default());
    let slots = u64::from(first)..u64::from(first + SERVICE_SLOTS);
    let entries = ctl.dump("SERVICES")?.entries.into_iter();
    // Addresses are in the same table, and have no number.
    let is_service = |entry: &MapEntry| entry.fields.iter().any(|(name, _)| name == "id");
    let used = entries.filter(|entry| slots.contains(&entry.key) && is_service(entry));
    Ok(used
        .map(|entry| Service {
            id: number(&entry, "id"),
            key: format!("{}/{}", text(&entry, "address"), text(&entry, "protocol")),
            ring_line: number(&entry, "ring_line"),
            ring_slots: number(&entry, "ring_slots"),
        })
        .collect())
}

/// The backends.
pub(crate) fn backends(ctl: &Ctl) -> Result<Vec<MapEntry>> {
    Ok(ctl.dump("BACKENDS")?.entries)
}

/// Each service has a number and a ring of its own, and backends; no backend is of another one; and
/// to none that is alive are packets sent without an address.
pub(crate) fn assert_sound(ctl: &Ctl) -> Result<()> {
    let (services, backends) = (services(ctl)?, backends(ctl)?);
    assert!(services.iter().all(|s| s.ring_slots > 0), "{services:?}");
    let ids: BTreeSet<u32> = services.iter().map(|service| service.id).collect();
    assert_eq!(ids.len(), services.len(), "one number twice: {services:?}");
    let mut rings = services.clone();
    rings.sort_by_key(|service| service.ring_line);
    for pair in rings.windows(2) {
        let lines = pair[0].ring_slots.div_ceil(steerd_ebpf::abi::RING_LINE);
        let end = pair[0].ring_line + lines;
        assert!(end <= pair[1].ring_line, "rings overlap: {pair:?}");
    }
    let of: BTreeSet<u32> = backends.iter().map(|b| number(b, "service")).collect();
    assert_eq!(of, ids, "services {services:?}, backends {backends:?}");
    for backend in backends {
        let (mac, mode) = (text(&backend, "mac"), text(&backend, "mode"));
        let nowhere = mode == "dsr" && mac == "00:00:00:00:00:00";
        assert!(
            text(&backend, "alive") == "false" || !nowhere,
            "{backend:?}"
        );
    }
    Ok(())
}

/// To which backend each of these client ports belongs.
pub(crate) fn flows_of(ctl: &Ctl, service: &str, ports: &[u16]) -> Result<BTreeMap<u16, String>> {
    let flows = ctl.flows(service)?.flows.into_iter();
    let asked = flows.filter(|flow| ports.contains(&flow.client_port));
    Ok(asked.map(|flow| (flow.client_port, flow.backend)).collect())
}

/// The flows that are not where they were.
pub(crate) fn moved(
    before: &BTreeMap<u16, String>,
    after: &BTreeMap<u16, String>,
) -> Vec<(u16, String, String)> {
    let moved = before.iter().filter_map(|(port, was)| {
        let is = after.get(port).map_or("none", String::as_str);
        (is != was).then(|| (*port, was.clone(), is.to_owned()))
    });
    moved.collect()
}

pub(crate) fn text(entry: &MapEntry, name: &str) -> String {
    let mut fields = entry.fields.iter();
    let value = fields.find_map(|(field, value)| (field == name).then(|| value.clone()));
    assert!(value.is_some(), "no field {name} in {entry:?}");
    value.unwrap_or_default()
}

fn number(entry: &MapEntry, name: &str) -> u32 {
    parsed(&text(entry, name))
}

fn parsed(number: &str) -> u32 {
    let value = number.parse();
    assert!(value.is_ok(), "{number:?} is no number");
    value.unwrap_or_default()
}
