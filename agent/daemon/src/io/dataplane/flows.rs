//! Passes over the flow tables: how many connections each backend has, what the program counts of
//! them, and flows of clients that are not wanted any more.
//!
//! A pass reads all of the tables, 64 MiB: it is for the worker, never for the thread that adverts
//! wait for. It works on a [`View`], with the names and rules of the moment when it was ordered.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use steerd_core::api::{Connections, Status, TableUse};
use steerd_ebpf::{
    abi::{Control, NatPool, maps},
    flow::{self, Idle},
    inspect,
    scan::{self, Ages, Count, Entries},
};
use tracing::info;

use super::{Dataplane, View, sources::Rules, view};

/// Services by id, with the clients that they take from now on.
#[derive(Debug, Default)]
pub(crate) struct Purge(pub(super) BTreeMap<u32, Rules>);

/// How often the tables are looked through for flows that have to go, at most: while there are some,
/// packets of such flows pass and may put them back.
const PURGES: usize = 8;

/// How long a count is good enough for who asks for a status: however many ask, it costs no more.
const FRESH: Duration = Duration::from_millis(100);

/// The last count for a status.
#[derive(Debug, Default)]
pub(super) struct LastCount(Mutex<Option<(Instant, Counted)>>);

/// What a count found.
#[derive(Debug, Clone)]
struct Counted {
    /// By backend number.
    connections: BTreeMap<u32, Connections>,
    tables: Vec<TableUse>,
}

impl Dataplane {
    /// The services whose flows have to be looked through since the last call.
    pub(crate) fn take_purge(&mut self) -> Option<Purge> {
        let purge = std::mem::take(&mut self.purge);
        (!purge.0.is_empty()).then_some(purge)
    }

    /// Whether a service goes by the connections that the program counts.
    pub(crate) fn counts_connections(&self) -> bool {
        self.steered.values().any(|steered| steered.counts())
    }
}

impl View {
    /// Adds to a status what takes a pass: each backend's connections, and how full the tables are.
    pub(crate) fn count(&self, status: &mut Status) {
        let Counted {
            connections,
            tables,
        } = self.counted();
        status.tables = tables;
        let numbers: BTreeMap<_, &u32> = self
            .backends
            .iter()
            .map(|(number, (service, backend))| ((service, backend), number))
            .collect();
        for service in &mut status.services {
            for backend in &mut service.backends {
                let number = numbers.get(&(&service.name, &backend.name));
                backend.connections = number.and_then(|number| connections.get(number)).copied();
            }
        }
    }

    /// A fresh count. Who asks while one is made waits for it.
    fn counted(&self) -> Counted {
        let mut last = self
            .last_count
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some((at, counted)) = &*last
            && at.elapsed() < FRESH
            && self.backends.keys().eq(counted.connections.keys())
        {
            return counted.clone();
        }
        let mut count = self.flow_count();
        let mut tables = self.count_flows(&mut count);
        tables.extend([self.count_translations(), self.count_fragments()]);
        let connections = |&number: &u32| {
            let counted = count.of(number);
            let connections = Connections {
                new: counted.new.into(),
                established: counted.established.into(),
                closing: counted.closing.into(),
            };
            (number, connections)
        };
        let counted = Counted {
            connections: self.backends.keys().map(connections).collect(),
            tables,
        };
        *last = Some((Instant::now(), counted.clone()));
        counted
    }

    /// Corrects what the program counts for services that go by connections: it misses flows that end
    /// without a word, and two CPUs may count one twice.
    pub(crate) fn correct_loads(&self) {
        let loads = |&number: &u32| {
            let connections = self.maps.loads.element(number).first()?;
            Some((number, connections, connections.load()))
        };
        let before: Vec<_> = self.weighed.iter().filter_map(loads).collect();
        let mut count = self.flow_count();
        self.count_flows(&mut count);
        for (number, connections, before) in before {
            let counted = count.of(number);
            let now = u64::from(counted.new) + u64::from(counted.established);
            // Added, so that what the program counted meanwhile is not lost.
            connections.fetch_add(now.wrapping_sub(before));
        }
    }

    /// Removes the flows of clients that their services do not take any more.
    pub(crate) fn purge(&self, purge: &Purge) {
        let goes = |service, client| {
            let rules = purge.0.get(&service);
            rules.is_some_and(|rules| rules.deny(inspect::address(client)))
        };
        let mut removed = 0;
        for _ in 0..PURGES {
            let found = scan::remove(self.maps.flows4.all(), Entries::V4, goes)
                + scan::remove(self.maps.flows6.all(), Entries::V6, goes);
            removed += found;
            if found == 0 {
                break;
            }
        }
        if removed != 0 {
            info!(
                flows = removed,
                "removed flows of clients that are denied now"
            );
        }
    }

    /// Counts flows that the program would go by, and those only.
    fn flow_count(&self) -> Count {
        let word = |class| self.maps.control_word(Control::FLOW_IDLE + class);
        let spans = Idle::from_words(word);
        self.count_with(
            Ages {
                new: spans.tcp_new,
                established: spans.tcp_established,
                closing: spans.tcp_closing,
            },
            Ages {
                new: spans.udp_new,
                established: spans.udp_established,
                closing: 0,
            },
        )
    }

    fn count_with(&self, tcp: Ages, udp: Ages) -> Count {
        let mut count = Count::new(flow::seen(view::read_clock().jiffies));
        for (&id, service) in &self.services {
            count.service(id, if service.is_udp { udp } else { tcp });
        }
        for &number in self.backends.keys() {
            if let Some(state) = self.maps.backend_state(number) {
                count.backend(number, state.generation);
            }
        }
        count
    }

    fn count_flows(&self, count: &mut Count) -> Vec<TableUse> {
        let tables = [
            (maps::FLOWS4, &self.maps.flows4, Entries::V4),
            (maps::FLOWS6, &self.maps.flows6, Entries::V6),
        ];
        let mut count = |(name, map, entries): (&str, &super::Mapped, Entries)| TableUse {
            table: name.to_owned(),
            used: count.table(map.all(), entries),
            capacity: u64::from(map.len()) * flow::WAYS as u64,
        };
        tables.map(&mut count).into()
    }

    /// Translations that last, of as many as there are ports.
    fn count_translations(&self) -> TableUse {
        let words = [0, 1].map(|n| self.maps.control_word(Control::NAT_TIMEOUTS + n));
        let spans = steerd_ebpf::abi::NatTimeouts::unpack(words);
        let mut count = self.count_with(
            Ages {
                new: spans.tcp_new,
                established: spans.tcp_established,
                closing: spans.tcp_closing.into(),
            },
            Ages {
                new: spans.udp_new.into(),
                established: spans.udp_established,
                closing: 0,
            },
        );
        count.table(self.maps.nat.all(), Entries::V6);
        let used = self.backends.keys().map(|&number| {
            let counted = count.of(number);
            u64::from(counted.new) + u64::from(counted.established) + u64::from(counted.closing)
        });
        let pool = NatPool::unpack(self.maps.control_word(Control::NAT_POOL));
        let addresses = u64::from(pool.ipv4) + u64::from(pool.ipv6);
        TableUse {
            table: maps::NAT.to_owned(),
            used: used.sum(),
            capacity: addresses * u64::from(pool.sets) * flow::WAYS as u64,
        }
    }

    fn count_fragments(&self) -> TableUse {
        /// Of [`steerd_ebpf::abi::Fragment`]: its words, and which of them says that it is in use.
        const WORDS: usize = size_of::<steerd_ebpf::abi::Fragment>() / 8;
        const VALUE: usize = std::mem::offset_of!(steerd_ebpf::abi::Fragment, value) / 8;
        let (entries, _) = self.maps.fragments.all().as_chunks::<WORDS>();
        let used = entries.iter().filter(|entry| entry[VALUE].load() != 0);
        TableUse {
            table: maps::FRAGMENTS.to_owned(),
            used: used.count() as u64,
            capacity: entries.len() as u64,
        }
    }
}
