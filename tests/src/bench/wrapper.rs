//! The wrapper around a program under test, and the references, from the benchmark's own object.

use std::{fs, path::Path};

use aya::{
    Ebpf,
    maps::{Array, MapData, ProgramArray},
    programs::{ProgramFd, TestRun, TestRunOptions, Xdp},
};
use nix::time::{ClockId, clock_gettime};
use steerd_ebpf::bench::{HEAD, RUN, Run, UNDER_TEST};

use super::{
    error::{self, Error, Result},
    frame::Family,
    program_info,
    report::Program,
};

/// XDP actions.
pub mod action {
    /// Gone.
    pub const DROP: u32 = 1;
    /// On to the host's stack.
    pub const PASS: u32 = 2;
    /// Out again where it came in.
    pub const TX: u32 = 3;
    /// Out of another interface.
    pub const REDIRECT: u32 = 4;
}

/// A program that does as little as can be for a kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reference {
    /// Nothing, and out again.
    Tx,
    /// Nothing, and on.
    Pass,
    /// New MACs, one hop less.
    Forward(Family),
    /// A constant outer IP header of this family.
    Encapsulate(Family),
    /// Constant outer IP and UDP headers.
    EncapsulateUdp(Family),
    /// The outer IP header off.
    Decapsulate(Family),
    /// The outer IP and UDP headers off.
    DecapsulateUdp(Family),
    /// Constant addresses and ports, checksums adjusted, and [`Reference::Forward`].
    Translate(Family),
}

impl Reference {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::Tx,
        Self::Pass,
        Self::Forward(Family::V4),
        Self::Forward(Family::V6),
        Self::Encapsulate(Family::V4),
        Self::Encapsulate(Family::V6),
        Self::EncapsulateUdp(Family::V4),
        Self::EncapsulateUdp(Family::V6),
        Self::Decapsulate(Family::V4),
        Self::Decapsulate(Family::V6),
        Self::DecapsulateUdp(Family::V4),
        Self::DecapsulateUdp(Family::V6),
        Self::Translate(Family::V4),
        Self::Translate(Family::V6),
    ];

    /// The program's name in the object.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tx => "bare_tx",
            Self::Pass => "bare_pass",
            Self::Forward(Family::V4) => "forward4",
            Self::Forward(Family::V6) => "forward6",
            Self::Encapsulate(Family::V4) => "encap4",
            Self::Encapsulate(Family::V6) => "encap6",
            Self::EncapsulateUdp(Family::V4) => "encap_udp4",
            Self::EncapsulateUdp(Family::V6) => "encap_udp6",
            Self::Decapsulate(Family::V4) => "decap4",
            Self::Decapsulate(Family::V6) => "decap6",
            Self::DecapsulateUdp(Family::V4) => "decap_udp4",
            Self::DecapsulateUdp(Family::V6) => "decap_udp6",
            Self::Translate(Family::V4) => "translate4",
            Self::Translate(Family::V6) => "translate6",
        }
    }

    /// What it returns.
    #[must_use]
    pub const fn action(self) -> u32 {
        match self {
            Self::Pass | Self::Decapsulate(_) | Self::DecapsulateUdp(_) => action::PASS,
            _ => action::TX,
        }
    }
}

/// How much of a frame the wrapper restores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    /// 64 bytes, as long as the shortest frame.
    Short,
    /// 72 bytes, which the frame must have.
    Long,
}

impl Head {
    const fn program(self) -> &'static str {
        match self {
            Self::Short => "wrap64",
            Self::Long => "wrap72",
        }
    }
}

/// The benchmark's object.
#[derive(Debug)]
pub struct Bench {
    object: Vec<u8>,
}

impl Bench {
    /// Reads it.
    ///
    /// # Errors
    ///
    /// It is not there.
    pub fn read(path: &Path) -> Result<Self> {
        read(path).map(|object| Self { object })
    }

    /// Loads a reference, in its wrapper.
    ///
    /// # Errors
    ///
    /// The kernel refuses it.
    pub fn reference(&self, reference: Reference, head: Head) -> Result<Wrapped> {
        let mut ebpf = Ebpf::load(&self.object)?;
        let program = load(&mut ebpf, reference.name())?;
        let program = program.fd().map_err(error::program(reference.name()))?;
        self.wrap(reference.name(), program, head)
    }

    /// Loads a wrapper around a program.
    ///
    /// # Errors
    ///
    /// The kernel refuses that.
    pub fn wrap(&self, name: &str, program: &ProgramFd, head: Head) -> Result<Wrapped> {
        // An object of its own for each: the tail call's target is then a constant, and the
        // kernel makes it a jump.
        let mut ebpf = Ebpf::load(&self.object)?;
        load(&mut ebpf, head.program())?;
        let map = ebpf.map_mut(UNDER_TEST).ok_or(Error::NoMap(UNDER_TEST))?;
        ProgramArray::try_from(map)
            .and_then(|mut array| array.set(0, program, 0))
            .map_err(error::map(UNDER_TEST))?;
        Ok(Wrapped {
            ebpf,
            head,
            program: name.to_owned(),
        })
    }

    /// What the kernel says of the references.
    ///
    /// # Errors
    ///
    /// The kernel refuses one.
    pub fn programs(&self) -> Result<Vec<Program>> {
        let mut ebpf = Ebpf::load(&self.object)?;
        Reference::ALL
            .into_iter()
            .map(|reference| program_info(reference.name(), load(&mut ebpf, reference.name())?))
            .collect()
    }
}

/// Reads an object.
pub(super) fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|source| Error::Object {
        path: path.to_owned(),
        source,
    })
}

/// Loads a program of an object.
pub(super) fn load<'e>(ebpf: &'e mut Ebpf, name: &str) -> Result<&'e mut Xdp> {
    let program: &mut Xdp = ebpf
        .program_mut(name)
        .and_then(|program| program.try_into().ok())
        .ok_or_else(|| Error::NoProgram(name.to_owned()))?;
    program.load().map_err(error::program(name))?;
    Ok(program)
}

/// A program in its wrapper.
#[derive(Debug)]
pub struct Wrapped {
    ebpf: Ebpf,
    head: Head,
    program: String,
}

/// Packets to send: the same frame from many clients in turn.
#[derive(Debug, Clone, Copy)]
pub struct Packets<'f> {
    /// The frame from client 0.
    pub frame: &'f [u8],
    /// Its family.
    pub family: Family,
    /// How many clients, a power of two.
    pub clients: u32,
    /// The client before the first one.
    pub after: u32,
    /// How many packets.
    pub count: u32,
}

/// What a run was.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Nanoseconds a packet, the wrapper's own included.
    pub ns: f64,
    /// What the program returned for the last packet.
    pub action: u32,
    /// The last packet as it left.
    pub frame: Vec<u8>,
}

impl Wrapped {
    /// Runs the program on these packets.
    ///
    /// # Errors
    ///
    /// The kernel refuses that, or the program does not return `action`.
    pub fn run(&mut self, packets: Packets<'_>, action: u32) -> Result<Sample> {
        self.prepare(packets)?;
        let name = self.head.program();
        let program: &Xdp = self
            .ebpf
            .program(name)
            .and_then(|program| program.try_into().ok())
            .ok_or_else(|| Error::NoProgram(name.to_owned()))?;
        let mut frame = vec![0; packets.frame.len() + 256];
        let mut options = TestRunOptions::new();
        options.data_in = Some(packets.frame);
        options.data_out = Some(&mut frame);
        options.repeat = packets.count;
        let before = cpu_time()?;
        let result = program.test_run(options).map_err(error::program(name))?;
        let took = cpu_time()?.saturating_sub(before);
        if result.return_value != action {
            return Err(Error::Action {
                program: self.program.clone(),
                got: result.return_value,
                wanted: action,
            });
        }
        frame.truncate(result.data_size_out as usize);
        Ok(Sample {
            ns: took.as_secs_f64() * 1e9 / f64::from(packets.count),
            action: result.return_value,
            frame,
        })
    }

    /// Tells the wrapper what the packets are.
    fn prepare(&mut self, packets: Packets<'_>) -> Result<()> {
        let mut head = [0; HEAD];
        let known = packets.frame.len().min(HEAD);
        head[..known].copy_from_slice(&packets.frame[..known]);
        let run = Run {
            head: std::array::from_fn(|word| {
                let bytes: [u8; 8] = std::array::from_fn(|byte| head[8 * word + byte]);
                u64::from_le_bytes(bytes)
            }),
            length: packets.frame.len() as u64,
            family: match packets.family {
                Family::V4 => 4,
                Family::V6 => 6,
            },
            source_mask: u64::from(packets.clients - 1),
            source: packets.after.into(),
        };
        let map = self.ebpf.map_mut(RUN).ok_or(Error::NoMap(RUN))?;
        let mut array: Array<&mut MapData, [u64; Run::WORDS]> =
            Array::try_from(map).map_err(error::map(RUN))?;
        array.set(0, run.words(), 0).map_err(error::map(RUN))
    }
}

/// The time that this thread had the CPU.
///
/// The kernel's own figure is of whole nanoseconds a packet, which is coarse for programs of a few.
/// What a call costs beside the packets is thousandths of one, and the same for all programs.
fn cpu_time() -> Result<std::time::Duration> {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
        .map(Into::into)
        .map_err(|errno| Error::Os {
            what: "read the thread's clock",
            source: errno.into(),
        })
}
