//! The kernel's side: its maps, what is in them, and the flows.

use std::{mem::replace, time::Duration};

use steerd_core::api::{Flows, MapDump, MapEntry, Maps, human_duration};

use super::socket;
use crate::table::{Cell, Column, Look, Table, number};

/// The maps.
pub(crate) fn maps(look: Look, maps: &Maps) -> String {
    let columns = [
        Column::left("NAME"),
        Column::left("TYPE"),
        Column::right("ENTRIES"),
        Column::right("KEY"),
        Column::right("VALUE"),
        Column::right("ID"),
        Column::prose("WHAT FOR"),
    ];
    let mut table = Table::new(look, columns);
    for map in &maps.maps {
        table.row([
            Cell::new(&map.name),
            Cell::new(&map.map_type),
            Cell::new(number(map.max_entries.into())),
            Cell::new(map.key_size),
            Cell::new(map.value_size),
            Cell::new(map.id),
            Cell::new(&map.purpose),
        ]);
    }
    table.to_string()
}

/// The flows, and how many more there are.
pub(crate) fn flows(look: Look, flows: &Flows) -> String {
    if flows.flows.is_empty() {
        return match flows.total {
            0 => "no flows\n".to_owned(),
            total => format!("{} flows, none shown\n", number(total)),
        };
    }
    let columns = [
        Column::left("CLIENT"),
        Column::left("SERVICE"),
        Column::left("BACKEND"),
        Column::left("STATE"),
        Column::right("IDLE"),
    ];
    let mut table = Table::new(look, columns);
    for flow in &flows.flows {
        // The table's clock is not finer than a second.
        let idle = match flow.idle_s {
            seconds @ 0..60 => format!("{seconds}s"),
            seconds => human_duration(Duration::from_secs(seconds)),
        };
        table.row([
            Cell::new(socket(flow.client, flow.client_port)),
            Cell::new(&flow.service),
            Cell::new(&flow.backend),
            Cell::new(&flow.state),
            Cell::new(idle),
        ]);
    }
    let shown = flows.flows.len() as u64;
    let mut text = table.to_string();
    if flows.total > shown {
        text.push_str(&format!(
            "{} of {} flows; see more with --limit\n",
            number(shown),
            number(flows.total)
        ));
    }
    text
}

/// A map's entries, part by part: a big map need not fit into memory, and its table goes on with
/// the same columns.
#[derive(Debug)]
pub(crate) struct DumpTable {
    look: Look,
    /// The fields of the table so far and the columns' widths.
    fields: Vec<String>,
    widths: Vec<u16>,
}

impl DumpTable {
    /// Before the first part.
    pub(crate) fn new(look: Look) -> Self {
        Self {
            look,
            fields: Vec::new(),
            widths: Vec::new(),
        }
    }

    /// The next part's text.
    pub(crate) fn part(&mut self, part: &MapDump) -> String {
        let mut text = String::new();
        for run in part.entries.chunk_by(same_fields) {
            text.push_str(&self.run(run));
        }
        text
    }

    /// What ends it: a word where there was nothing.
    pub(crate) fn end(self, name: &str) -> String {
        if self.fields.is_empty() {
            format!("{name} is empty\n")
        } else {
            String::new()
        }
    }

    /// Entries with the same fields.
    fn run(&mut self, entries: &[MapEntry]) -> String {
        let Some(first) = entries.first() else {
            return String::new();
        };
        let fields: Vec<String> = first.fields.iter().map(|field| field.0.clone()).collect();
        let goes_on = fields == self.fields;
        let first_at_all = replace(&mut self.fields, fields).is_empty();
        if !goes_on {
            self.widths.clear();
        }
        let mut widths = self.widths.iter().copied();
        let mut columns = vec![Column::right("KEY").at_least(widths.next().unwrap_or(0))];
        for (at, name) in self.fields.iter().enumerate() {
            let numbers = entries.iter().all(|entry| {
                entry
                    .fields
                    .get(at)
                    .is_some_and(|field| field.1.parse::<u64>().is_ok())
            });
            let title = name.to_uppercase().replace('_', " ");
            let column = match numbers {
                true => Column::right(&title),
                false if at + 1 == self.fields.len() => Column::prose(&title),
                false => Column::left(&title),
            };
            columns.push(column.at_least(widths.next().unwrap_or(0)));
        }
        let mut table = Table::new(self.look, columns);
        if goes_on {
            table = table.untitled();
        }
        for entry in entries {
            let fields = entry.fields.iter().map(|field| Cell::new(&field.1));
            table.row([Cell::new(entry.key)].into_iter().chain(fields));
        }
        let (text, widths) = table.render();
        self.widths = widths;
        if goes_on || first_at_all {
            text
        } else {
            format!("\n{text}")
        }
    }
}

fn same_fields(a: &MapEntry, b: &MapEntry) -> bool {
    a.fields.len() == b.fields.len() && a.fields.iter().zip(&b.fields).all(|(a, b)| a.0 == b.0)
}

#[cfg(test)]
mod tests {
    use steerd_core::api::{Flow, MapInfo};
    use steerd_ebpf::{abi, inspect, verdict::Verdict};

    use super::{super::samples::documented, *};

    #[test]
    fn maps_with_their_shapes() {
        let info = |(id, shape): (u32, abi::maps::Shape)| MapInfo {
            name: shape.name.into(),
            id,
            map_type: shape.kind.name().into(),
            key_size: shape.key_size,
            value_size: shape.value_size,
            max_entries: shape.entries,
            purpose: shape.purpose.into(),
        };
        let listed = Maps {
            maps: (31..).zip(abi::maps::ALL).map(info).collect(),
        };
        documented(&maps(Look::default(), &listed));
    }

    #[test]
    fn flows_and_how_many_more() {
        let flow = |client: &str, idle_s| Flow {
            client: client.parse().unwrap(),
            client_port: 51_234,
            service: "game".into(),
            backend: "primary".into(),
            state: "established".into(),
            idle_s,
        };
        let mut some = Flows {
            total: 1204,
            flows: vec![flow("192.168.1.77", 3), flow("2001:db8::7", 312)],
        };
        documented(&flows(Look::default(), &some));
        some.flows.clear();
        assert_eq!(flows(Look::default(), &some), "1,204 flows, none shown\n");
        some.total = 0;
        assert_eq!(flows(Look::default(), &some), "no flows\n");
    }

    /// Entries as the decoder makes them of a map's bytes.
    fn entries(map: &str, values: &[(u32, &[u64])]) -> MapDump {
        let entries = values.iter().flat_map(|(key, words)| {
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
            inspect::decode(map, *key, &bytes)
                .into_iter()
                .map(|fields| MapEntry {
                    key: u64::from(*key),
                    fields: fields
                        .into_iter()
                        .map(|(name, value)| (name.into(), value))
                        .collect(),
                })
        });
        MapDump {
            name: map.into(),
            entries: entries.collect(),
            next: None,
        }
    }

    #[test]
    fn a_dump_goes_on_over_its_parts() {
        let mac = |last, owner: abi::MacOwner| owner.entry(abi::mac_word([2, 0, 0, 0, 0, last]));
        let mut table = DumpTable::new(Look::default());
        let first = entries(
            abi::maps::MACS,
            &[(7, &[mac(1, abi::MacOwner::Own)]), (8, &[0])],
        );
        let second = entries(
            abi::maps::MACS,
            &[(300, &[mac(2, abi::MacOwner::Forwarder)])],
        );
        let text = table.part(&first) + &table.part(&second) + &table.end("MACS");
        documented(&text);
    }

    #[test]
    fn entries_with_other_fields_begin_a_table_of_their_own() {
        let counters = [
            (0, [5, 500].as_slice()),
            (Verdict::Dsr as u32, &[1_000_000, 2]),
            (63, &[7, 70]),
        ];
        let dump = entries(abi::maps::VERDICT_STATS, &counters);
        let expected = "\
KEY  VERDICT  PACKETS  BYTES
  0  not-ip         5    500
 16  dsr      1000000      2

KEY  PACKETS  BYTES
 63        7     70
";
        let mut table = DumpTable::new(Look::default());
        assert_eq!(table.part(&dump), expected);
    }

    #[test]
    fn an_empty_map_says_so() {
        let mut table = DumpTable::new(Look::default());
        let text = table.part(&entries(abi::maps::BACKENDS, &[(1, &[0; 8])]));
        assert_eq!(text + &table.end("BACKENDS"), "BACKENDS is empty\n");
    }
}
