//! A guest: another kernel, under emulation, for tests of what the kernel at hand does not have. It
//! runs a test of the executable that asks for it, with the binaries under test beside it, and knows
//! nothing else: its whole file system is an archive in memory, made for this one run.
//!
//! `cargo xtask test` gets the emulator and the kernel, and puts both where [`Guest::find`] looks.
//! Time in a guest means nothing: it is some ten times slower than the machine it runs on,
//! so all that waits has more patience there ([`crate::wait::patience`]).

mod archive;
pub mod init;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use crate::{
    dir::Dir,
    error::{Context, Error, Result},
    link,
    netns::{Bpffs, Namespace},
    node::{Binaries, built},
    process::{self, Process},
    slots::Slots,
};
use archive::{Archive, strip, which};

/// An emulator and a kernel.
#[derive(Debug)]
pub struct Guest {
    dir: PathBuf,
}

/// Whether this is a guest.
#[must_use]
pub fn is_here() -> bool {
    Path::new(init::COMMAND).is_file()
}

/// Whether the kernel at hand has VLAN devices.
///
/// # Errors
///
/// Not root, or it has no veth either.
pub fn has_vlans_here() -> Result<bool> {
    let namespace = Namespace::new(Bpffs::Missing)?;
    namespace.run(|| {
        link::add_cable("a", "b")?;
        match link::add_vlan("a.1", "a", 1) {
            Ok(()) => Ok(true),
            Err(error) if error.is_unsupported() => Ok(false),
            Err(error) => Err(error),
        }
    })
}

impl Guest {
    /// The one that `cargo xtask test` set up.
    ///
    /// # Errors
    ///
    /// It did not yet.
    pub fn find() -> Result<Self> {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/guest");
        if dir.join(KERNEL).is_file() {
            Ok(Self { dir })
        } else {
            Err(Error::NoGuest { dir })
        }
    }

    /// Runs the test `name` of this executable in a guest, and passes on what it says.
    ///
    /// # Errors
    ///
    /// It failed, or did not end in time: the end of what it said.
    pub fn test(&self, name: &str, patience: Duration) -> Result<()> {
        // It has two processors, and so has many a machine.
        let _slots = Slots::all()?;
        let dir = Dir::new()?;
        let image = dir.path().join("image");
        self.pack(&dir, name)?.write(&image)?;
        let log = dir.path().join("guest.log");
        let mut guest = Process::start("the guest", self.command(&image), log.clone())?;
        let start = Instant::now();
        let status = guest.wait(patience)?;
        let said = Said::read(&log)?;
        print!("{}", said.text);
        println!("the guest ran for {:?}", start.elapsed());
        if said.passed {
            return Ok(());
        }
        Err(Error::Ended {
            process: format!("the test {name} in the guest"),
            status,
            log: process::tail(&log),
        })
    }

    fn pack(&self, dir: &Dir, name: &str) -> Result<Archive> {
        let binaries = Binaries::find()?;
        let this = env::current_exe().context(|| "find this executable".into())?;
        let mut archive = Archive::default();
        // Those under test are found beside the test.
        let own = [
            ("/init", built("steerd-guest", "STEERD_GUEST_BIN", None)?),
            ("/bin/test", this),
            ("/bin/steerd", binaries.steerd),
            ("/bin/steerctl", binaries.steerctl),
            ("/bin/game-server", binaries.game_server),
        ];
        for (at, path) in own {
            let small = dir.path().join("stripped");
            strip(&path, &small)?;
            archive.add_program(at, &small)?;
        }
        for program in PROGRAMS {
            archive.add_program(&format!("/bin/{program}"), &which(program)?)?;
        }
        let modules = self.dir.join(MODULES);
        let mut names: Vec<_> = fs::read_dir(&modules)
            .and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect())
            .context(|| format!("list {}", modules.display()))?;
        // Their names begin with their places.
        names.sort();
        for name in names {
            let name = name.to_string_lossy();
            archive.add_file(&format!("{}/{name}", init::MODULES), &modules.join(&*name))?;
        }
        let command = ["/bin/test", "--exact", name, "--nocapture"].join("\n");
        archive.add(init::COMMAND, command.into_bytes());
        ["/proc", "/sys", "/dev", "/tmp", "/run"]
            .iter()
            .for_each(|at| archive.add_dir(at));
        Ok(archive)
    }

    fn command(&self, image: &Path) -> Command {
        let mut command = Command::new(self.dir.join("qemu"));
        command
            .args(["-nodefaults", "-display", "none", "-serial", "stdio"])
            // KVM is not asked for: where it works, so does what guests are for.
            .args(["-accel", "tcg,thread=multi", "-cpu", "max"])
            .args(["-smp", "2", "-m", "1536", "-no-reboot"])
            .arg("-kernel")
            .arg(self.dir.join(KERNEL))
            .arg("-initrd")
            .arg(image)
            // A kernel that panics ends the guest, by a reboot that is none.
            .args(["-append", "console=ttyS0 loglevel=4 panic=-1"]);
        command
    }
}

/// The kernel, within the guest's directory.
const KERNEL: &str = "kernel";
/// Its modules, whose names begin with their place in the order of loading.
const MODULES: &str = "modules";

/// What a site runs besides the binaries under test.
const PROGRAMS: [&str; 4] = ["ip", "iperf3", "wrk", "haproxy"];

/// What a guest said.
struct Said {
    text: String,
    passed: bool,
}

impl Said {
    fn read(log: &Path) -> Result<Self> {
        let text = fs::read_to_string(log).context(|| format!("read {}", log.display()))?;
        let text = text.replace('\r', "");
        let passed = text.lines().any(|line| line == init::PASSED);
        Ok(Self { text, passed })
    }
}
