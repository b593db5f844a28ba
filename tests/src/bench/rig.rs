//! The program under test on maps of its own, filled as the daemon would fill them. The only file
//! here that knows the maps.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use aya::{
    Ebpf,
    maps::{Array, DevMapHash, LpmTrie, MapData, PerCpuArray, lpm_trie::Key},
    programs::{ProgramFd, TestRun, TestRunOptions, Xdp},
};
use steerd_core::maglev::{self, Member};
use steerd_ebpf::{
    abi::{
        Affinity, Backend, BackendState, Control, FLOW4_SETS, FragmentLifetimes, MacOwner, Mode,
        NAT_PORT_SETS, NatPool, NatTimeouts, PROGRAM, Policy, RING_LINE, Role, Scheduler, Service,
        SourceRule, addr_words, mac_word, maps,
    },
    flow::{Idle, Key4, WAYS},
    hash,
    parse::protocol::{TCP, UDP},
    place::{self, ServiceKey},
    shared::Shared,
    verdict::Verdict,
};

use super::{
    error::{self, Error, Result},
    frame::{CLIENT_PORT, Family, OWN_MAC, PORT, client, octets, vip},
    program_info,
    report::Program,
    wrapper::load,
};

/// Flows that the IPv4 table holds.
pub const FLOWS4: u32 = FLOW4_SETS * WAYS as u32;

/// The interface that a test run's packets come from: the loopback device.
const INGRESS: u32 = 1;

/// Another interface, as the program knows it. Nothing is sent, so the loopback device stands for it
/// too.
const OTHER: u32 = 2;

/// Slots of each service's Maglev table: the daemon's default.
const RING: u32 = 4099;

/// The flow table's hash is seeded by chance in the daemon; here runs are to be alike.
const FLOW_SEED: u64 = 0x5eed_0f10_35ee_d001;

/// The daemon's defaults, in units of the flow table's clock, at 250 jiffies a second.
const IDLE: Idle = Idle {
    tcp_new: 59,
    tcp_established: 7266,
    tcp_closing: 59,
    udp_new: 30,
    udp_established: 176,
};
/// When a connection has lasted, in the same units.
const CONFIRM: u64 = 10;

/// How many networks new flows may not come from; the clients' is none of them.
const DENIED: u32 = 1000;

/// What a SYN's MSS is lowered to.
const MSS: u16 = 1400;

/// The port of GUE (IANA), and the addresses that wrapped packets come from: a hash of the client
/// fills what the masks leave.
const GUE_PORT: u16 = 6080;
const TUNNEL4: ([u8; 4], [u8; 4]) = ([10, 64, 0, 0], [255, 192, 0, 0]);
const TUNNEL6: (Ipv6Addr, Ipv6Addr) = (
    Ipv6Addr::new(0xfd00, 0x400, 0, 0, 0, 0, 0, 0),
    Ipv6Addr::new(0xffff, 0xffff, 0xffff, 0xffff, 0, 0, 0, 0),
);

/// The addresses that translated packets come from, of either family.
const NAT: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, 26)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x500, 0, 0, 0, 0, 0, 0x26)),
];

/// The first port that translated packets come from.
const NAT_FIRST_PORT: u16 = 1024;

/// What is configured: the same in all services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct World {
    /// How many services. The first three are those that packets are sent to: TCP, then UDP and
    /// TCP over IPv6; all others are TCP.
    pub services: u32,
    /// Backends of each service.
    pub backends: u32,
    /// How packets reach them.
    pub mode: Mode,
    /// Whether the backends have addresses of the service's family, or of the other one.
    pub same_family: bool,
    /// Whether packets leave through the interface that they came in through.
    pub same_interface: bool,
    /// Whether new flows are asked all that can be asked: lists of sources, a limit, their MSS.
    pub guarded: bool,
}

/// The loaded program and its maps.
#[derive(Debug)]
pub struct Rig {
    ebpf: Ebpf,
}

impl Rig {
    /// Loads and fills.
    ///
    /// # Errors
    ///
    /// The kernel refuses the object, or the services do not fit.
    pub fn new(object: &[u8], world: World) -> Result<Self> {
        let mut rig = Self {
            ebpf: Ebpf::load(object)?,
        };
        load(&mut rig.ebpf, PROGRAM)?;
        let services: Vec<ServiceKey> = (0..world.services).map(service).collect();
        let ring = ring(world.backends);
        let lines = RING.div_ceil(RING_LINE);
        let mut entries = Vec::new();
        for (id, &(addr, port_proto)) in (1..).zip(&services) {
            let first_line = (id - 1) * lines;
            rig.write_ring(first_line, &ring, (id - 1) * world.backends + 1)?;
            rig.add_backends(id, addr, world)?;
            rig.admit(id)?;
            entries.push(Service {
                addr,
                port_proto,
                id,
                ring: Shared::new(u64::from(RING) | u64::from(first_line) << 32),
                salt: hash::salt(addr, port_proto),
                policy: Shared::new(policy(world).0),
                ..Service::default()
            });
        }
        let mut addresses = addresses(&services, world);
        addresses.sort_unstable();
        addresses.dedup();
        entries.extend(addresses.into_iter().map(|(addr, role)| Service {
            addr,
            port_proto: Service::ADDRESS,
            id: role,
            ..Service::default()
        }));
        let keys: Vec<ServiceKey> = entries.iter().map(|e| (e.addr, e.port_proto)).collect();
        let (seed, slots) = place::services(&keys).ok_or(Error::Full(world.services))?;
        for (entry, slot) in entries.iter().zip(slots) {
            rig.set(maps::SERVICES, slot, entry.words())?;
        }
        let own = [(mac_word(OWN_MAC), MacOwner::Own)];
        let (mac_seed, macs) = place::macs(&own).ok_or(Error::Full(world.services))?;
        for (slot, entry) in (0..).zip(macs).filter(|&(_, entry)| entry != 0) {
            rig.set(maps::MACS, slot, [entry])?;
        }
        let mut control = control();
        control[Control::SERVICES] = u64::from(seed) << 32;
        control[Control::MACS] = u64::from(mac_seed) << 32;
        control[Control::FILTER..].copy_from_slice(&place::filter(&keys, seed));
        rig.set(maps::CONTROL, 0, control)?;
        rig.add_devices()?;
        Ok(rig)
    }

    /// Sends one packet, and returns it as it leaves.
    ///
    /// # Errors
    ///
    /// The kernel refuses that.
    pub fn send(&self, frame: &[u8]) -> Result<Vec<u8>> {
        let mut out = vec![0; frame.len() + 256];
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.data_out = Some(&mut out);
        let result = self
            .xdp()?
            .test_run(options)
            .map_err(error::program(PROGRAM))?;
        out.truncate(result.data_size_out as usize);
        Ok(out)
    }

    /// The program's name and descriptor.
    ///
    /// # Errors
    ///
    /// It is not loaded.
    pub fn program(&self) -> Result<(&'static str, &ProgramFd)> {
        Ok((PROGRAM, self.xdp()?.fd().map_err(error::program(PROGRAM))?))
    }

    fn xdp(&self) -> Result<&Xdp> {
        self.ebpf
            .program(PROGRAM)
            .and_then(|program| program.try_into().ok())
            .ok_or_else(|| Error::NoProgram(PROGRAM.to_owned()))
    }

    /// What the kernel says of the object's programs.
    ///
    /// # Errors
    ///
    /// The kernel does not say.
    pub fn programs(&self) -> Result<Vec<Program>> {
        self.ebpf
            .programs()
            .filter_map(|(name, program)| Some((name, <&Xdp>::try_from(program).ok()?)))
            .filter(|(_, program)| program.fd().is_ok())
            .map(|(name, program)| program_info(name, program))
            .collect()
    }

    /// Packets counted so far, by verdict.
    ///
    /// # Errors
    ///
    /// The kernel refuses to say.
    pub fn verdicts(&self) -> Result<[u64; Verdict::COUNT]> {
        let name = maps::VERDICT_STATS;
        let map = self.ebpf.map(name).ok_or(Error::NoMap(name))?;
        let array: PerCpuArray<&MapData, [u64; 2]> =
            PerCpuArray::try_from(map).map_err(error::map(name))?;
        let mut verdicts = [0; Verdict::COUNT];
        for (number, packets) in (0..).zip(&mut verdicts) {
            let cpus = array.get(&number, 0).map_err(error::map(name))?;
            *packets = cpus.iter().map(|[packets, _]| packets).sum();
        }
        Ok(verdicts)
    }

    /// How many flows the IPv4 table has.
    ///
    /// # Errors
    ///
    /// The kernel refuses to say.
    pub fn flows4(&self) -> Result<u32> {
        let array = self.array::<8>(maps::FLOWS4)?;
        let mut flows = 0;
        for set in array.iter() {
            let set = set.map_err(error::map(maps::FLOWS4))?;
            flows += set.iter().skip(1).step_by(2).filter(|&&v| v != 0).count() as u32;
        }
        Ok(flows)
    }

    /// Whether the IPv4 table has the flow of this client to service 0.
    ///
    /// # Errors
    ///
    /// The kernel refuses to say.
    pub fn knows4(&self, number: u32) -> Result<bool> {
        let [_, high] = addr_words(octets(client(Family::V4)));
        // Clients differ in the address's lower three bytes: the upper ones as read from a packet.
        let address = (high >> 32) as u32 ^ number << 8;
        let key = Key4::new(address, CLIENT_PORT.to_be(), 1);
        let ([_, vip], port_proto) = service(0);
        let set = hash::flow4(
            address,
            CLIENT_PORT.to_be(),
            (vip >> 32) as u32,
            port_proto,
            FLOW_SEED,
        ) as u32
            & (FLOW4_SETS - 1);
        let entries = self.array::<8>(maps::FLOWS4)?;
        let entries = entries.get(&set, 0).map_err(error::map(maps::FLOWS4))?;
        Ok(entries.iter().step_by(2).any(|&entry| entry == key.0))
    }

    /// The backends of a service: numbered in the order of the services.
    fn add_backends(&mut self, service: u32, service_addr: [u64; 2], world: World) -> Result<()> {
        for n in 0..world.backends {
            let id = (service - 1) * world.backends + n + 1;
            let [a, b, c, d] = id.to_be_bytes();
            let state = BackendState {
                mac: mac_word([2, 1, a, b, c, d]),
                generation: 1,
                mode: world.mode,
                alive: true,
            };
            let backend = Backend {
                state: Shared::new(state.pack()),
                source: Shared::new(Backend::source_word(mac_word(OWN_MAC), 0)),
                ifindex: if world.same_interface { INGRESS } else { OTHER },
                service,
                addr: backend(id, service_addr, world),
                port: PORT.to_be(),
                mtu: 1500,
                service_port: PORT.to_be(),
                reserved: 0,
                service_addr,
            };
            self.set(maps::BACKENDS, id, backend.words())?;
        }
        Ok(())
    }

    /// Lets new flows of a service in: from anywhere but some networks, and more than can come.
    fn admit(&mut self, service: u32) -> Result<()> {
        let name = maps::SYN_LIMITS;
        self.set(
            name,
            service,
            [u64::from(u32::MAX), u64::from(u32::MAX), 0, 0],
        )?;
        if service != 1 {
            return Ok(());
        }
        let name = maps::SOURCES;
        let map = self.ebpf.map_mut(name).ok_or(Error::NoMap(name))?;
        let mut trie: LpmTrie<&mut MapData, [u32; 5], u32> =
            LpmTrie::try_from(map).map_err(error::map(name))?;
        for n in 0..DENIED {
            let [_, _, high, low] = n.to_be_bytes();
            let network = addr_words(Ipv4Addr::new(172, high, low, 0).to_ipv6_mapped().octets());
            let [a, b] = network.map(|word| [word as u32, (word >> 32) as u32]);
            // The service's number, and an IPv4 network of 24 bits.
            let key = Key::new(32 + 96 + 24, [service, a[0], a[1], b[0], b[1]]);
            trie.insert(&key, SourceRule::Deny as u32, 0)
                .map_err(error::map(name))?;
        }
        Ok(())
    }

    /// The interfaces that packets may leave through.
    fn add_devices(&mut self) -> Result<()> {
        let name = maps::DEVICES;
        let map = self.ebpf.map_mut(name).ok_or(Error::NoMap(name))?;
        let mut devices: DevMapHash<&mut MapData> =
            DevMapHash::try_from(map).map_err(error::map(name))?;
        for number in [INGRESS, OTHER] {
            devices
                .insert(number, INGRESS, None, 0)
                .map_err(|source| Error::Device { source })?;
        }
        Ok(())
    }

    /// A Maglev table whose backend 0 has the number `first`.
    fn write_ring(&mut self, first_line: u32, ring: &[u16], first: u32) -> Result<()> {
        for (line, slots) in (first_line..).zip(ring.chunks(RING_LINE as usize)) {
            let mut words = [0; RING_LINE as usize / 4];
            for (at, &slot) in slots.iter().enumerate() {
                words[at / 4] |= u64::from(first + u32::from(slot)) << (at % 4 * 16);
            }
            self.set(maps::RINGS, line, words)?;
        }
        Ok(())
    }

    fn set<const WORDS: usize>(
        &mut self,
        name: &'static str,
        index: u32,
        words: [u64; WORDS],
    ) -> Result<()> {
        let map = self.ebpf.map_mut(name).ok_or(Error::NoMap(name))?;
        let mut array: Array<&mut MapData, [u64; WORDS]> =
            Array::try_from(map).map_err(error::map(name))?;
        array.set(index, words, 0).map_err(error::map(name))
    }

    fn array<const WORDS: usize>(
        &self,
        name: &'static str,
    ) -> Result<Array<&MapData, [u64; WORDS]>> {
        let map = self.ebpf.map(name).ok_or(Error::NoMap(name))?;
        Array::try_from(map).map_err(error::map(name))
    }
}

/// Service number `n`, in the program's terms.
fn service(n: u32) -> ServiceKey {
    let (family, address, protocol) = match n {
        1 => (Family::V4, 0, UDP),
        2 => (Family::V6, 0, TCP),
        _ => (Family::V4, n, TCP),
    };
    let address = addr_words(octets(vip(family, address)));
    (address, Service::key(PORT.to_be(), protocol))
}

/// How services are configured.
fn policy(World { guarded, .. }: World) -> Policy {
    let five_tuple = Affinity {
        prefix: 128,
        port: true,
    };
    let mss = if guarded { MSS } else { 0 };
    Policy::new(Scheduler::Hash, five_tuple, mss, guarded, guarded, false)
}

/// The address of a backend.
fn backend(id: u32, service: [u64; 2], world: World) -> [u64; 2] {
    let [a, b, c, d] = id.to_be_bytes();
    let is_ipv4 = service[0] == 0;
    addr_words(if is_ipv4 == world.same_family {
        Ipv4Addr::new(10, 1 + b, c, d).to_ipv6_mapped().octets()
    } else {
        [0xfd, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d]
    })
}

/// Addresses that are this host's and their roles: the services' own, those that translated packets
/// come from, and the first services' backends', so that wrapped packets can be sent back to where
/// they came from, which then is their end.
fn addresses(services: &[ServiceKey], world: World) -> Vec<([u64; 2], u32)> {
    let mut addresses: Vec<_> = services
        .iter()
        .map(|&(addr, _)| (addr, Role::VIRTUAL))
        .collect();
    for (number, address) in (0..).zip(NAT) {
        addresses.push((addr_words(octets(address)), Role::nat_bits(number)));
    }
    if matches!(world.mode, Mode::Ipip | Mode::Gue) {
        for (first, &(service, _)) in services.iter().take(3).enumerate() {
            let first = first as u32 * world.backends + 1;
            let ids = first..first + world.backends;
            addresses.extend(ids.map(|id| (backend(id, service, world), Role::ENDPOINT)));
        }
    }
    addresses
}

/// What the program reads about the node, but for the tables.
fn control() -> [u64; Control::WORDS] {
    // Units of the flow table's clock are about seconds.
    let timeouts = NatTimeouts {
        tcp_new: 60,
        tcp_established: 7500,
        tcp_closing: 60,
        udp_new: 30,
        udp_established: 180,
    };
    let first_set = NAT_FIRST_PORT / WAYS as u16;
    let pool = NatPool {
        first_set,
        sets: NAT_PORT_SETS as u16 - first_set,
        ipv4: 1,
        ipv6: 1,
        ..NatPool::NONE
    };
    let (network, mask) = TUNNEL4;
    let tunnel4 =
        u64::from(u32::from_ne_bytes(mask)) << 32 | u64::from(u32::from_ne_bytes(network));
    let tunnel6 = [TUNNEL6.0, TUNNEL6.1].map(|address| addr_words(address.octets()));
    let mut control = [0; Control::WORDS];
    control[Control::FLOW_SEED] = FLOW_SEED;
    control[Control::CONFIRM] = CONFIRM;
    control[Control::FRAGMENT_LIFETIMES] = FragmentLifetimes { v4: 30, v6: 60 }.pack();
    control[Control::FLOW_IDLE..][..Idle::WORDS].copy_from_slice(&IDLE.words());
    control[Control::NAT_TIMEOUTS..][..2].copy_from_slice(&timeouts.pack());
    control[Control::NAT_POOL] = pool.pack();
    control[Control::TUNNEL4] = tunnel4;
    control[Control::TUNNEL6..][..4].copy_from_slice(tunnel6.as_flattened());
    control[Control::GUE_PORT] = GUE_PORT.to_be().into();
    let addresses = control[Control::NAT_ADDRESSES..].chunks_exact_mut(2);
    for (words, address) in addresses.zip(NAT) {
        words.copy_from_slice(&addr_words(octets(address)));
    }
    control
}

/// The Maglev table of so many backends.
fn ring(backends: u32) -> Vec<u16> {
    let members: Vec<Member> = (0..backends as u16)
        .map(|index| Member {
            index,
            identity: SocketAddr::from((Ipv4Addr::from_bits(0x0a00_0001 + u32::from(index)), PORT)),
            weight: 1,
        })
        .collect();
    maglev::table(&members, RING)
}
