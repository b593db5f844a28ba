//! Reading pins: against real maps where the test may make them (as root), in a bpffs of its own.

use std::{ffi::CString, os::unix::ffi::OsStrExt};

use steerd_ebpf::{
    abi::{BackendState, Mode},
    flow::{Key4, State, Value},
    verdict::Verdict,
};

use super::*;

const MMAPABLE: u32 = 1 << 10;
const NO_PREALLOC: u32 = 1;

/// Runs `test` with a bpffs that only this thread sees, and that goes with the thread.
fn with_bpffs(test: impl FnOnce(&Path) + Send + 'static) {
    // SAFETY: it only asks.
    if unsafe { libc::geteuid() } != 0 {
        eprintln!("not run: needs root");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    let run = move || {
        let target = CString::new(path.as_os_str().as_bytes()).unwrap();
        let none = std::ptr::null();
        // SAFETY: all texts are C strings that live through the calls; what changes is this
        // thread's view of the mounts, no memory.
        unsafe {
            assert_eq!(libc::unshare(libc::CLONE_NEWNS), 0);
            let private = libc::MS_REC | libc::MS_PRIVATE;
            assert_eq!(
                libc::mount(none, c"/".as_ptr(), none, private, none.cast()),
                0
            );
            let bpf = c"bpf".as_ptr();
            assert_eq!(libc::mount(bpf, target.as_ptr(), bpf, 0, none.cast()), 0);
        }
        test(&path);
    };
    if let Err(panic) = std::thread::spawn(run).join() {
        std::panic::resume_unwind(panic);
    }
}

/// All maps of the ABI, made and pinned.
fn pin_all(bpf_dir: &Path) -> (Pins, impl Fn(&str) -> Map) {
    let pins = Pins::new(bpf_dir);
    fs::create_dir(pins.directory()).unwrap();
    for shape in maps::ALL {
        let (map_type, flags) = match shape.kind {
            Kind::Array => (TYPE_ARRAY, MMAPABLE),
            Kind::PerCpu => (TYPE_PERCPU_ARRAY, 0),
            Kind::Trie => (TYPE_LPM_TRIE, NO_PREALLOC),
            Kind::Devices => (TYPE_DEVMAP_HASH, 0),
        };
        let map = Map::create(map_type, &shape, flags);
        map.unwrap()
            .pin(&pins.directory().join(shape.name))
            .unwrap();
    }
    let directory = pins.directory().to_owned();
    (pins, move |name| Map::open(&directory.join(name)).unwrap())
}

fn field<'a>(entry: &'a MapEntry, name: &str) -> &'a str {
    &entry.fields.iter().find(|field| field.0 == name).unwrap().1
}

#[test]
fn maps_are_listed_and_dumped() {
    with_bpffs(|bpf_dir| {
        let (pins, map) = pin_all(bpf_dir);

        let listed = pins.maps().unwrap().maps;
        assert_eq!(listed.len(), maps::ALL.len());
        let flows = listed.iter().find(|map| map.name == maps::FLOWS4).unwrap();
        assert_eq!(
            (flows.map_type.as_str(), flows.max_entries),
            ("array", abi::FLOW4_SETS)
        );
        let stats = listed
            .iter()
            .find(|map| map.name == maps::BACKEND_STATS)
            .unwrap();
        assert_eq!(
            (stats.map_type.as_str(), stats.value_size),
            ("percpu-array", 16)
        );

        for name in maps::ALL.map(|shape| shape.name) {
            let expected = usize::from(name == maps::CONTROL);
            assert_eq!(
                pins.dump(name, 0).unwrap().entries.len(),
                expected,
                "{name} when empty"
            );
        }

        // A backend in the last place: the whole of the map is seen.
        let last = abi::MAX_BACKENDS - 1;
        let state = BackendState {
            mac: abi::mac_word([2, 0, 0, 0, 0, 7]),
            generation: 3,
            mode: Mode::Dsr,
            alive: true,
        };
        map(maps::BACKENDS)
            .update(last, &[state.pack(), 0, 0, 0, 0, 0, 0, 0])
            .unwrap();
        let dump = pins.dump(maps::BACKENDS, 0).unwrap();
        assert_eq!(dump.entries.len(), 1);
        assert_eq!(dump.entries[0].key, u64::from(last));
        assert_eq!(field(&dump.entries[0], "mac"), "02:00:00:00:00:07");
        assert_eq!(pins.dump(maps::BACKENDS, u64::from(last)).unwrap(), dump);
        assert!(
            pins.dump(maps::BACKENDS, u64::from(last) + 1)
                .unwrap()
                .entries
                .is_empty()
        );
        assert!(
            pins.dump(maps::BACKENDS, u64::MAX)
                .unwrap()
                .entries
                .is_empty()
        );

        // Counters are summed over the CPUs.
        let cpus = possible_cpus().unwrap();
        let counters: Vec<u64> = (0..cpus as u64).flat_map(|cpu| [cpu + 1, 100]).collect();
        map(maps::VERDICT_STATS)
            .update(Verdict::Dsr as u32, &counters)
            .unwrap();
        let dump = pins.dump(maps::VERDICT_STATS, 0).unwrap();
        assert_eq!(dump.entries.len(), 1);
        assert_eq!(field(&dump.entries[0], "verdict"), "dsr");
        assert_eq!(
            field(&dump.entries[0], "packets"),
            (cpus * (cpus + 1) / 2).to_string()
        );
        assert_eq!(field(&dump.entries[0], "bytes"), (100 * cpus).to_string());
    });
}

#[test]
fn maps_without_indices_are_dumped() {
    with_bpffs(|bpf_dir| {
        let (pins, map) = pin_all(bpf_dir);
        let sources = map(maps::SOURCES);
        let rule = |service: u32, bits: u32, octets: [u8; 16], rule: u64| {
            let mut key = (32 + bits).to_ne_bytes().to_vec();
            key.extend(service.to_ne_bytes());
            key.extend(octets);
            sources.insert(&key, &[rule]).unwrap();
        };
        let net = std::net::Ipv4Addr::new(10, 1, 0, 0)
            .to_ipv6_mapped()
            .octets();
        rule(7, 0, [0; 16], 2);
        rule(7, 96 + 16, net, 1);
        let dump = pins.dump(maps::SOURCES, 0).unwrap();
        let mut shown: Vec<String> = dump
            .entries
            .iter()
            .map(|entry| {
                ["service", "network", "rule"]
                    .map(|name| field(entry, name))
                    .join(" ")
            })
            .collect();
        shown.sort();
        assert_eq!(shown, ["7 10.1.0.0/16 allow", "7 any deny"]);
        assert_eq!(
            pins.dump(maps::SOURCES, 1).unwrap().entries,
            dump.entries[1..]
        );
        // More than one part holds.
        for n in 0..5000_u16 {
            let [high, low] = n.to_be_bytes();
            let net = std::net::Ipv4Addr::new(10, 2, high, low).to_ipv6_mapped();
            rule(8, 128, net.octets(), 2);
        }
        let first = pins.dump(maps::SOURCES, 0).unwrap();
        let next = first.next.unwrap();
        let second = pins.dump(maps::SOURCES, next).unwrap();
        assert_eq!(
            (first.entries.len() + second.entries.len(), second.next),
            (5002, None)
        );
        assert!(!first.entries.contains(&second.entries[0]));

        // The loopback interface, the only one that is surely there.
        map(maps::DEVICES)
            .insert(&1_u32.to_ne_bytes(), &[1])
            .unwrap();
        let dump = pins.dump(maps::DEVICES, 0).unwrap();
        assert_eq!((dump.entries.len(), dump.entries[0].key), (1, 1));
        assert_eq!(field(&dump.entries[0], "ifindex"), "1");
        assert!(pins.dump(maps::DEVICES, 2).unwrap().entries.is_empty());
    });
}

#[test]
fn big_maps_come_in_parts() {
    with_bpffs(|bpf_dir| {
        let (pins, map) = pin_all(bpf_dir);
        let flows = map(maps::FLOWS4);
        // Sets of 1, 2, 3 and 4 flows, far apart.
        let mut expected = 0;
        for set in 0..5000_u32 {
            let mut words = [0; 8];
            for way in 0..=(set % 4) {
                let at = 2 * way as usize;
                (words[at], words[at + 1]) = (u64::from(set) << 32 | 5, flow_word(1, 0));
                expected += 1;
            }
            flows.update(set * 100, &words).unwrap();
        }
        let (mut seen, mut parts, mut from) = (0, 0, Some(0));
        let mut last_key = None;
        while let Some(at) = from {
            let part = pins.dump(maps::FLOWS4, at).unwrap();
            assert!(part.entries.len() <= MapDump::MAX_ENTRIES);
            assert!(part.entries.first().map(|entry| entry.key) > last_key);
            last_key = part.entries.last().map(|entry| entry.key);
            seen += part.entries.len();
            parts += 1;
            from = part.next;
        }
        assert_eq!((seen, parts), (expected, 4));
    });
}

fn flow_word(backend: u16, seen: u32) -> u64 {
    Value {
        backend,
        generation: 0,
        state: State::Established,
        seen,
    }
    .pack(0)
}

#[test]
fn flows_are_filtered_counted_and_limited() {
    with_bpffs(|bpf_dir| {
        let (pins, map) = pin_all(bpf_dir);
        let clock = read_clock().unwrap();
        let ago = flow::seen(clock.jiffies).wrapping_sub(100) & 0xf_ffff;
        let flows = map(maps::FLOWS4);
        for at in 0..10_u16 {
            let client = u32::from_ne_bytes([10, 0, 0, at as u8]);
            let key = Key4::new(client, (40_000 + at).to_be(), u32::from(1 + at % 2));
            let words = [key.0, flow_word(7 + at % 5, ago), 0, 0, 0, 0, 0, 0];
            flows.update(u32::from(at) * 50_000, &words).unwrap();
        }
        let query = |service: Option<&str>, backend: Option<&str>, limit| FlowsQuery {
            service: service.map(str::to_owned),
            backend: backend.map(str::to_owned),
            limit,
        };
        let all = pins.flows(&query(None, None, None)).unwrap();
        assert_eq!((all.total, all.flows.len()), (10, 10));
        let first = &all.flows[0];
        assert_eq!(
            (first.client.to_string(), first.client_port),
            ("10.0.0.0".into(), 40_000)
        );
        assert_eq!((first.service.as_str(), first.backend.as_str()), ("1", "7"));
        let expected = (clock.tick * 256 * 100).as_secs();
        assert!(
            (expected..expected + 20).contains(&first.idle_s),
            "{first:?}"
        );

        let some = pins.flows(&query(Some("2"), None, Some(3))).unwrap();
        assert_eq!((some.total, some.flows.len()), (5, 3));
        let one = pins.flows(&query(Some("2"), Some("8"), None)).unwrap();
        assert_eq!((one.total, one.flows.len()), (1, 1));
        let error = pins.flows(&query(Some("game"), None, None)).unwrap_err();
        assert!(error.to_string().contains("give the number"), "{error}");
    });
}

#[test]
fn what_is_pinned_there_is_not_trusted() {
    with_bpffs(|bpf_dir| {
        let pins = Pins::new(bpf_dir);
        let error = pins.maps().unwrap_err();
        assert!(matches!(error, PinError::NoDirectory(_)), "{error}");

        fs::create_dir(pins.directory()).unwrap();
        let path = pins.directory().join(maps::CONTROL);
        let small = maps::Shape {
            value_size: 8,
            entries: 1,
            ..maps::ALL[0]
        };
        Map::create(TYPE_ARRAY, &small, MMAPABLE)
            .unwrap()
            .pin(&path)
            .unwrap();
        let error = pins.dump(maps::CONTROL, 0).unwrap_err();
        assert!(matches!(error, PinError::Shape { .. }), "{error}");

        let error = pins.dump("../CONTROL", 0).unwrap_err();
        assert!(matches!(error, PinError::Unknown { .. }), "{error}");
        assert!(error.to_string().contains("FLOWS6"), "{error}");
    });
}

#[test]
fn cpu_lists() {
    let counts = ["0\n", "0-3\n", "0-1,4,6-7", "", "x", "3-1"].map(count_cpus);
    assert_eq!(counts, [Some(1), Some(4), Some(5), None, None, None]);
}

/// The kernel tells root its jiffies; the computed ones must agree to well under a unit of
/// [`flow::SEEN_SHIFT`].
#[test]
fn computed_jiffies_are_the_kernels() {
    let Ok(list) = fs::read_to_string("/proc/timer_list") else {
        eprintln!("not run: needs root and /proc/timer_list");
        return;
    };
    let kernels = list
        .lines()
        .find_map(|line| line.strip_prefix("jiffies: "))
        .unwrap();
    let kernels: u64 = kernels.trim().parse().unwrap();
    let difference = read_clock().unwrap().jiffies.abs_diff(kernels);
    assert!(difference < 1 << flow::SEEN_SHIFT, "differ by {difference}");
}
