//! The program under test on maps of its own, filled as the daemon would fill them. The only file
//! here that knows the maps.

use std::net::{Ipv4Addr, SocketAddr};

use aya::{
    Ebpf,
    maps::{Array, MapData, PerCpuArray},
    programs::{ProgramFd, Xdp},
};
use steerd_core::maglev::{self, Member};
use steerd_ebpf::{
    abi::{
        Backend, BackendState, Control, FLOW4_SETS, MacOwner, Mode as AbiMode, PROGRAM, RING_LINE,
        Service, addr_words, mac_word, mapped, maps,
    },
    flow::{Key4, WAYS},
    hash,
    parse::protocol::{TCP, UDP},
    place,
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

/// Another interface. Nothing is sent, so it need not be there.
const OTHER: u32 = 2;

/// Slots of each service's Maglev table: the daemon's default.
const RING: u32 = 4099;

/// The flow table's hash is seeded by chance in the daemon; here runs are to be alike.
const FLOW_SEED: u64 = 0x5eed_0f10_35ee_d001;

/// The daemon's hour, in units of the flow table's clock, at 250 jiffies a second.
const ESTABLISHED_IDLE: u64 = 3516;

/// How packets reach the backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// This host's stack.
    Local,
    /// A new MAC, out of the interface that they came in through.
    Dsr,
    /// A new MAC, out of another interface.
    DsrRedirect,
}

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
        let services: Vec<place::ServiceKey> = (0..world.services).map(service).collect();
        for (id, &key) in (1..).zip(&services) {
            rig.add_backends(id, key, world)?;
        }
        let (seed, slots) = place::services(&services).ok_or(Error::Full(world.services))?;
        let ring = ring(world.backends);
        let lines = RING.div_ceil(RING_LINE);
        for ((id, &key), slot) in (1..).zip(&services).zip(slots) {
            let first_line = (id - 1) * lines;
            rig.write_ring(first_line, &ring, (id - 1) * world.backends + 1)?;
            let (addr, port_proto) = key;
            let service = Service {
                addr,
                port_proto,
                id,
                ring: Shared::new(u64::from(RING) | u64::from(first_line) << 32),
                salt: hash::salt(addr, port_proto),
                ..Service::default()
            };
            rig.set(maps::SERVICES, slot, service.words())?;
        }
        let own = [(mac_word(OWN_MAC), MacOwner::Own)];
        let (mac_seed, macs) = place::macs(&own).ok_or(Error::Full(world.services))?;
        for (slot, entry) in (0..).zip(macs).filter(|&(_, entry)| entry != 0) {
            rig.set(maps::MACS, slot, [entry])?;
        }
        let mut control = [0; Control::WORDS];
        control[Control::SERVICES] = u64::from(seed) << 32;
        control[Control::MACS] = u64::from(mac_seed) << 32;
        control[Control::FLOW_SEED] = FLOW_SEED;
        control[Control::ESTABLISHED_IDLE] = ESTABLISHED_IDLE;
        control[Control::FILTER..].copy_from_slice(&place::filter(&services, seed));
        rig.set(maps::CONTROL, 0, control)?;
        Ok(rig)
    }

    /// The program's name and descriptor.
    ///
    /// # Errors
    ///
    /// It is not loaded.
    pub fn program(&self) -> Result<(&'static str, &ProgramFd)> {
        let program: &Xdp = self
            .ebpf
            .program(PROGRAM)
            .and_then(|program| program.try_into().ok())
            .ok_or_else(|| Error::NoProgram(PROGRAM.to_owned()))?;
        Ok((PROGRAM, program.fd().map_err(error::program(PROGRAM))?))
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
    fn add_backends(&mut self, service: u32, key: place::ServiceKey, world: World) -> Result<()> {
        for n in 0..world.backends {
            let id = (service - 1) * world.backends + n + 1;
            let [a, b, c, d] = id.to_be_bytes();
            let state = BackendState {
                mac: mac_word([2, 1, a, b, c, d]),
                generation: 1,
                mode: match world.mode {
                    Mode::Local => AbiMode::Local,
                    Mode::Dsr | Mode::DsrRedirect => AbiMode::Dsr,
                },
                alive: true,
            };
            let backend = Backend {
                state: Shared::new(state.pack()),
                source: Shared::new(Backend::source_word(mac_word(OWN_MAC), 0)),
                ifindex: match world.mode {
                    Mode::DsrRedirect => OTHER,
                    _ => INGRESS,
                },
                service,
                addr: match key.0 {
                    [0, _] => mapped(u32::from_ne_bytes([10, b, c, d])),
                    _ => addr_words([0xfd, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d]),
                },
                port: PORT.to_be(),
                ..Backend::default()
            };
            self.set(maps::BACKENDS, id, backend.words())?;
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
fn service(n: u32) -> place::ServiceKey {
    let (family, address, protocol) = match n {
        1 => (Family::V4, 0, UDP),
        2 => (Family::V6, 0, TCP),
        _ => (Family::V4, n, TCP),
    };
    let address = addr_words(octets(vip(family, address)));
    (address, Service::key(PORT.to_be(), protocol))
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
