//! The object, loaded on maps of its own, with entries as the daemon would make them.

use std::{
    collections::BTreeMap,
    fs::File,
    net::IpAddr,
    os::fd::{AsFd, AsRawFd},
    path::Path,
    ptr::NonNull,
};

use aya::{
    Ebpf,
    maps::{
        Array, LpmTrie, Map, MapData, PerCpuArray, PerCpuValues, lpm_trie::Key, xdp::DevMapHash,
    },
    programs::{ProgramFd, TestRun, TestRunOptions, Xdp},
    util::nr_cpus,
};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use steerd_ebpf::{
    abi::{
        Backend, BackendState, Control, Counter, FragmentLifetimes, MacOwner, Mode, PROGRAM,
        Policy, RING_LINE, Role, Service, SourceRule, addr_words, mac_word, maps,
    },
    event::Event,
    flow::Idle,
    hash,
    inspect::{self, Flow},
    shared::Shared,
    verdict::Verdict,
};

pub(crate) const OWN_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x26];
pub(crate) const PEER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x27];
pub(crate) const CLIENT_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x10];
pub(crate) const BACKEND_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x99];

/// The interface that a test run's packets come from: the loopback device.
pub(crate) const INGRESS: u32 = 1;

/// Another interface.
pub(crate) const ELSEWHERE: u32 = 77;

/// XDP return values.
pub(crate) const DROP: u32 = 1;
pub(crate) const PASS: u32 = 2;
pub(crate) const TX: u32 = 3;
pub(crate) const REDIRECT: u32 = 4;

/// Of services' and MACs' places.
pub(crate) const SEED: u32 = 0x1234_5678;
/// Of flows' places.
pub(crate) const FLOW_SEED: u64 = 0xfeed;

pub(crate) struct World {
    ebpf: Ebpf,
    /// How many CPUs there can be.
    cpus: usize,
    lines: u32,
    services: BTreeMap<u32, ([u64; 2], u32)>,
    control: [u64; Control::WORDS],
}

/// The control map's value.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct ControlWords([u64; Control::WORDS]);

// SAFETY: words without padding; any bits are valid.
unsafe impl aya::Pod for ControlWords {}

/// What became of a packet.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) verdict: Verdict,
    pub(crate) action: u32,
    pub(crate) frame: Vec<u8>,
}

impl World {
    pub(crate) fn new() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/ebpf/steerd.o");
        let object = std::fs::read(&path)
            .unwrap_or_else(|error| panic!("{}: {error}: run `cargo xtask test`", path.display()));
        let mut ebpf = Ebpf::load(&object).expect("the object loads: are you root?");
        let program: &mut Xdp = ebpf.program_mut(PROGRAM).unwrap().try_into().unwrap();
        program.load().expect("the verifier accepts it");
        let mut world = Self {
            ebpf,
            cpus: nr_cpus().expect("the kernel says"),
            lines: 0,
            services: BTreeMap::new(),
            control: [0; Control::WORDS],
        };
        let seed = u64::from(SEED) << 32;
        world.control[Control::SERVICES] = seed;
        world.control[Control::MACS] = seed;
        world.control[Control::FLOW_SEED] = FLOW_SEED;
        let idle = Idle {
            tcp_new: 60,
            tcp_established: 3516,
            tcp_closing: 60,
            udp_new: 30,
            udp_established: 180,
        };
        world.control[Control::FRAGMENT_LIFETIMES] = FragmentLifetimes { v4: 30, v6: 60 }.pack();
        world.control[Control::FLOW_IDLE..][..Idle::WORDS].copy_from_slice(&idle.words());
        world.write_control();
        // Whatever leaves through interface 77 goes nowhere.
        let mut devices: DevMapHash<&mut MapData> =
            DevMapHash::try_from(world.ebpf.map_mut(maps::DEVICES).unwrap()).unwrap();
        devices.insert(ELSEWHERE, INGRESS, None, 0).unwrap();
        world.mac(OWN_MAC, MacOwner::Own);
        world.mac(PEER_MAC, MacOwner::Forwarder);
        world
    }

    pub(crate) fn set<const WORDS: usize>(&mut self, map: &str, index: u32, words: [u64; WORDS])
    where
        [u64; WORDS]: aya::Pod,
    {
        let map = self.ebpf.map_mut(map).unwrap();
        let mut array: Array<&mut MapData, [u64; WORDS]> = Array::try_from(map).unwrap();
        array.set(index, words, 0).unwrap();
    }

    pub(crate) fn get<const WORDS: usize>(&self, map: &str, index: u32) -> [u64; WORDS]
    where
        [u64; WORDS]: aya::Pod,
    {
        let array: Array<&MapData, [u64; WORDS]> =
            Array::try_from(self.ebpf.map(map).unwrap()).unwrap();
        array.get(&index, 0).unwrap()
    }

    fn write_control(&mut self) {
        let map = self.ebpf.map_mut(maps::CONTROL).unwrap();
        let mut array: Array<&mut MapData, ControlWords> = Array::try_from(map).unwrap();
        array.set(0, ControlWords(self.control), 0).unwrap();
    }

    pub(crate) fn mac(&mut self, mac: [u8; 6], owner: MacOwner) {
        let mac = mac_word(mac);
        self.set::<1>(maps::MACS, hash::mac_slot(mac, SEED), [owner.entry(mac)]);
    }

    /// A word of the control map; see [`Control`].
    pub(crate) fn control(&mut self, word: usize, value: u64) {
        self.control[word] = value;
        self.write_control();
    }

    /// A service whose ring has these backends in turn.
    pub(crate) fn service(
        &mut self,
        id: u32,
        address: IpAddr,
        port: u16,
        protocol: u8,
        ring: &[u16],
    ) {
        self.service_with(id, address, port, protocol, ring, Policy::default());
    }

    /// A service with a policy. Returns the slot of its entry.
    pub(crate) fn service_with(
        &mut self,
        id: u32,
        address: IpAddr,
        port: u16,
        protocol: u8,
        ring: &[u16],
        policy: Policy,
    ) -> u32 {
        let (addr, port_proto) = (words(address), Service::key(port.to_be(), protocol));
        self.services.insert(id, (addr, port_proto));
        let first = self.ring(ring);
        let service = Service {
            addr,
            port_proto,
            id,
            ring: Shared::new(ring.len() as u64 | u64::from(first) << 32),
            salt: hash::salt(addr, port_proto),
            policy: Shared::new(policy.0),
            ..Service::default()
        };
        self.address(address, Role::VIRTUAL);
        self.place(&service)
    }

    /// Makes a UDP service one that QUIC's connection ids steer, by this table of server ids.
    pub(crate) fn quic(
        &mut self,
        id: u32,
        address: IpAddr,
        port: u16,
        policy: Policy,
        ring: &[u16],
        table: &[u16],
    ) -> u32 {
        let slot = self.service_with(id, address, port, 17, ring, policy);
        let first = self.ring(table);
        let mut entry: [u64; 8] = self.get(maps::SERVICES, slot);
        entry[6] = table.len() as u64 | u64::from(first) << 32;
        self.set(maps::SERVICES, slot, entry);
        slot
    }

    /// An address of ours; what it is for is added to what it was for.
    pub(crate) fn address(&mut self, address: IpAddr, role: u32) {
        let entry = Service {
            addr: words(address),
            port_proto: Service::ADDRESS,
            id: role,
            ..Service::default()
        };
        self.listen(address);
        self.place(&entry);
    }

    /// Packets to this address are looked at.
    pub(crate) fn listen(&mut self, address: IpAddr) {
        let (word, bit) = hash::address_filter(hash::address(words(address), SEED));
        self.control[Control::FILTER + word] |= bit;
        self.write_control();
    }

    /// An entry of the service table in one of its slots: that where it is already, else half of
    /// them in the second, so that both are looked up.
    fn place(&mut self, entry: &Service) -> u32 {
        let key = |words: [u64; 8]| (words[0], words[1], words[2] as u32);
        let address = hash::address(entry.addr, SEED);
        let (one, other) = hash::service_slots(hash::service(address, entry.port_proto));
        let mut slots = [one, other];
        if entry.id.is_multiple_of(2) {
            slots.reverse();
        }
        let mut words = entry.words();
        let slot = slots
            .into_iter()
            .find(|&slot| key(self.get(maps::SERVICES, slot)) == key(words))
            .or_else(|| {
                slots
                    .into_iter()
                    .find(|&slot| self.get::<8>(maps::SERVICES, slot)[2] == 0)
            })
            .expect("choose another port: both slots are taken");
        if entry.port_proto == Service::ADDRESS {
            words[2] |= self.get::<8>(maps::SERVICES, slot)[2];
        }
        self.set::<8>(maps::SERVICES, slot, words);
        slot
    }

    /// A ring in lines of its own; returns the first.
    fn ring(&mut self, ring: &[u16]) -> u32 {
        let first = self.lines;
        for line in ring.chunks(RING_LINE as usize) {
            self.line(self.lines, line);
            self.lines += 1;
        }
        first
    }

    /// A line of the rings.
    pub(crate) fn line(&mut self, line: u32, backends: &[u16]) {
        let mut words = [0_u64; 8];
        for (slot, &backend) in backends.iter().enumerate() {
            words[slot / 4] |= u64::from(backend) << (slot % 4 * 16);
        }
        self.set::<8>(maps::RINGS, line, words);
    }

    pub(crate) fn backend(
        &mut self,
        id: u32,
        mode: Mode,
        alive: bool,
        generation: u8,
        ifindex: u32,
    ) {
        let state = BackendState {
            mac: mac_word(BACKEND_MAC),
            generation,
            mode,
            alive,
        };
        self.backend_with(id, &Self::reached(state, ifindex, 1500));
    }

    /// A backend behind an interface, and what the way to it carries.
    pub(crate) fn reached(state: BackendState, ifindex: u32, mtu: u16) -> Backend {
        Backend {
            state: Shared::new(state.pack()),
            source: Shared::new(Backend::source_word(mac_word(OWN_MAC), 0)),
            ifindex,
            mtu,
            ..Backend::default()
        }
    }

    pub(crate) fn backend_with(&mut self, id: u32, backend: &Backend) {
        self.set::<8>(maps::BACKENDS, id, backend.words());
    }

    /// What a backend bears.
    pub(crate) fn connections(&self, id: u32) -> i64 {
        self.get::<2>(maps::LOADS, id)[0].cast_signed()
    }

    /// What is done with new flows of a service from a network.
    pub(crate) fn source(&mut self, service: u32, network: IpAddr, prefix: u32, rule: SourceRule) {
        let mapped = match network {
            IpAddr::V4(address) => (address.to_ipv6_mapped().octets(), 96 + prefix),
            IpAddr::V6(address) => (address.octets(), prefix),
        };
        let mut data = [0; 20];
        data[..4].copy_from_slice(&service.to_ne_bytes());
        data[4..].copy_from_slice(&mapped.0);
        let mut trie: LpmTrie<&mut MapData, [u8; 20], u32> =
            LpmTrie::try_from(self.ebpf.map_mut(maps::SOURCES).unwrap()).unwrap();
        trie.insert(&Key::new(32 + mapped.1, data), rule as u32, 0)
            .unwrap();
    }

    /// As if no error message had been sent lately.
    pub(crate) fn allow_telling(&mut self) {
        let cpus = self.cpus;
        let map = self.ebpf.map_mut("TELL_GATE").unwrap();
        let mut gate: PerCpuArray<&mut MapData, [u64; 2]> = PerCpuArray::try_from(map).unwrap();
        let open = PerCpuValues::try_from(vec![[0; 2]; cpus]).unwrap();
        gate.set(0, open, 0).unwrap();
    }

    /// How often an event happened.
    pub(crate) fn events(&self, event: Event) -> u64 {
        self.counter(maps::EVENT_STATS, event as u32).packets
    }

    /// Hands a frame to the program.
    pub(crate) fn run(&self, frame: &[u8]) -> Outcome {
        let before = self.verdicts();
        let program: &Xdp = self.ebpf.program(PROGRAM).unwrap().try_into().unwrap();
        let mut out = vec![0; frame.len() + 256];
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.data_out = Some(&mut out);
        let result = program.test_run(options).unwrap();
        out.truncate(result.data_size_out as usize);
        let after = self.verdicts();
        let mut changed = Verdict::ALL.into_iter().filter(|&verdict| {
            let (before, after) = (before[verdict as usize], after[verdict as usize]);
            if after.packets == before.packets {
                return false;
            }
            assert_eq!(after.packets - before.packets, 1);
            assert_eq!(after.bytes - before.bytes, frame.len() as u64);
            true
        });
        let verdict = changed.next().expect("every packet is counted");
        assert_eq!(changed.next(), None, "under one verdict");
        Outcome {
            verdict,
            action: result.return_value,
            frame: out,
        }
    }

    /// Hands a frame to the program, for its effect on the maps.
    pub(crate) fn run_uncounted(&self, frame: &[u8]) {
        let program: &Xdp = self.ebpf.program(PROGRAM).unwrap().try_into().unwrap();
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        program.test_run(options).unwrap();
    }

    fn verdicts(&self) -> Vec<Counter> {
        self.counters(maps::VERDICT_STATS, Verdict::COUNT)
    }

    /// The first so many of a map's counters: one system call.
    pub(crate) fn counters(&self, map: &str, count: usize) -> Vec<Counter> {
        const BPF_MAP_LOOKUP_BATCH: libc::c_int = 24;
        /// The `batch` member of `union bpf_attr`.
        #[repr(C)]
        struct Batch {
            in_batch: u64,
            out_batch: u64,
            keys: u64,
            values: u64,
            count: u32,
            map: u32,
            element_flags: u64,
            flags: u64,
        }
        let Map::PerCpuArray(data) = self.ebpf.map(map).unwrap() else {
            panic!("{map} has no counters");
        };
        let mut keys = vec![0_u32; count];
        let mut values = vec![[0_u64; 2]; count * self.cpus];
        let mut next = 0_u32;
        let mut batch = Batch {
            in_batch: 0,
            out_batch: (&raw mut next) as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: count as u32,
            map: data.fd().as_fd().as_raw_fd().cast_unsigned(),
            element_flags: 0,
            flags: 0,
        };
        // SAFETY: the keys have room for so many, the values for so many of each CPU.
        let result = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                BPF_MAP_LOOKUP_BATCH,
                &raw mut batch,
                size_of::<Batch>(),
            )
        };
        assert!(result == 0, "{map}: {}", std::io::Error::last_os_error());
        assert_eq!(batch.count, count as u32, "{map}");
        values.chunks(self.cpus).map(sum).collect()
    }

    pub(crate) fn counter(&self, map: &str, index: u32) -> Counter {
        let array: PerCpuArray<&MapData, [u64; 2]> =
            PerCpuArray::try_from(self.ebpf.map(map).unwrap()).unwrap();
        sum(&array.get(&index, 0).unwrap())
    }

    /// The program, to be run by others.
    pub(crate) fn program(&self) -> &ProgramFd {
        let program: &Xdp = self.ebpf.program(PROGRAM).unwrap().try_into().unwrap();
        program.fd().unwrap()
    }

    /// The IPv4 flow of a client, if the table has it.
    pub(crate) fn flow(&self, client: IpAddr, port: u16, service: u32) -> Option<Flow> {
        use steerd_ebpf::abi::{FLOW4_SETS, FLOW6_SETS};
        let (vip, port_proto) = self.services[&service];
        match client {
            IpAddr::V4(address) => {
                let set = hash::flow4(
                    u32::from_ne_bytes(address.octets()),
                    port.to_be(),
                    (vip[1] >> 32) as u32,
                    port_proto,
                    FLOW_SEED,
                ) as u32
                    & (FLOW4_SETS - 1);
                let entries: [u64; 8] = self.get(maps::FLOWS4, set);
                bytes(&entries)
                    .chunks(16)
                    .filter_map(inspect::flow4)
                    .find(|flow| {
                        (flow.client, flow.client_port, u32::from(flow.service))
                            == (client, port, service)
                    })
            }
            IpAddr::V6(_) => {
                let set = hash::flow6(words(client), port.to_be(), vip, port_proto, FLOW_SEED)
                    as u32
                    & (FLOW6_SETS - 1);
                let entries: [u64; 16] = self.get(maps::FLOWS6, set);
                bytes(&entries)
                    .chunks(32)
                    .filter_map(inspect::flow6)
                    .find(|flow| {
                        (flow.client, flow.client_port, u32::from(flow.service))
                            == (client, port, service)
                    })
            }
        }
    }

    /// An array in this process's memory.
    pub(crate) fn mapped(&self, map: &str) -> Mapped {
        let Map::Array(data) = self.ebpf.map(map).unwrap() else {
            panic!("{map} is no array");
        };
        let info = data.info().unwrap();
        let bytes = info.value_size() as usize * info.max_entries() as usize;
        let file = File::from(data.fd().as_fd().try_clone_to_owned().unwrap());
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice aliases nothing in Rust.
        let base = unsafe {
            mmap(
                None,
                bytes.try_into().unwrap(),
                protection,
                MapFlags::MAP_SHARED,
                &file,
                0,
            )
        };
        Mapped {
            base: base.unwrap().cast(),
            words: bytes / 8,
        }
    }

    /// Key size, value size and capacity of a map.
    pub(crate) fn shape(&self, map: &str) -> (u32, u32, u32) {
        let (Map::Array(data)
        | Map::PerCpuArray(data)
        | Map::LpmTrie(data)
        | Map::DevMapHash(data)) = self.ebpf.map(map).unwrap()
        else {
            panic!("{map} is of an unknown kind");
        };
        let info = data.info().unwrap();
        (info.key_size(), info.value_size(), info.max_entries())
    }
}

/// An array map in this process's memory.
pub(crate) struct Mapped {
    base: NonNull<Shared>,
    words: usize,
}

impl Mapped {
    /// Its elements of so many words that are not all zero, with their numbers.
    pub(crate) fn occupied(&self, size: usize) -> Vec<(usize, &[Shared])> {
        const PAGE: usize = 512;
        // SAFETY: the mapping is as long, page-aligned, initialised by the kernel, and lives as long
        // as self. Programs that write to it run in `World::run` only, on this thread.
        let plain: &[u64] =
            unsafe { std::slice::from_raw_parts(self.base.cast().as_ptr(), self.words) };
        // SAFETY: as above; `Shared` is a word.
        let shared: &[Shared] =
            unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.words) };
        let mut occupied = Vec::new();
        // Most pages are empty, which one comparison tells.
        for (page, _) in plain
            .chunks(PAGE)
            .enumerate()
            .filter(|(_, page)| **page != [0; PAGE])
        {
            let first = page * PAGE;
            for (at, element) in shared[first..first + PAGE].chunks(size).enumerate() {
                if element.iter().any(|word| word.load() != 0) {
                    occupied.push((first / size + at, element));
                }
            }
        }
        occupied
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: it is this value's mapping, and nothing refers to it any more.
        unsafe { munmap(self.base.cast(), self.words * 8) }.unwrap();
    }
}

/// A counter of all CPUs.
fn sum(values: &[[u64; 2]]) -> Counter {
    values
        .iter()
        .fold(Counter::default(), |sum, [packets, bytes]| Counter {
            packets: sum.packets + packets,
            bytes: sum.bytes + bytes,
        })
}

pub(crate) fn words(address: IpAddr) -> [u64; 2] {
    addr_words(match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    })
}

fn bytes(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}
