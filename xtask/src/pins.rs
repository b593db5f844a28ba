//! Everything the build pins, in one place, each with its reason.

/// The linker that turns LLVM bitcode into an eBPF object. 0.13 is the first that builds against LLVM 21, 22 and 23,
/// so it follows the compiler found on the machine; its BTF output differs between releases, and the daemon loads that.
pub(crate) const BPF_LINKER: &str = "0.13.0";

/// LLVM majors `bpf-linker` has a cargo feature for (`llvm-22`, ...).
pub(crate) const LINKER_LLVM: &[u32] = &[21, 22, 23];

/// The oldest rustc that compiles this workspace: `rust-version` in the root Cargo.toml.
pub(crate) const MIN_RUSTC: (u32, u32) = (1, 95);

/// The nightly that rustup installs when nothing on the machine will do: 1.97 with LLVM 22, the LLVM the object is
/// tested with. Dated, so that it stands beside a user's own nightly instead of updating it.
pub(crate) const NIGHTLY: &str = "nightly-2026-05-20";

/// Debian's compiler packages: (compiler, its standard library's source, clippy). `-web` first: in a stable release it is
/// the one that is kept recent (for browsers); tested with 1.96 and LLVM 22. Debian keeps only the newest version of each,
/// so versions cannot be pinned, only bounded by [`MIN_RUSTC`] and [`LINKER_LLVM`].
pub(crate) const DEBIAN_RUST: &[[&str; 3]] = &[
    ["rustc-web", "rust-web-src", "rust-web-clippy"],
    ["rustc", "rust-src", "rust-clippy"],
];

/// Of those packages' dependencies, the ones unpacked with them; all others are libraries of the system.
pub(crate) const DEBIAN_RUST_LIBS: &[&str] = &["libstd-rust-", "libllvm"];

/// The instruction set of the object. v3 has 32-bit ALU and jump instructions (Linux 5.1), which halve the work on 32-bit
/// fields. Atomics that return a value need 5.12 and are emitted only where the program uses that value.
/// v4 would need 6.6.
pub(crate) const BPF_CPU: &str = "v3";

/// The target the kernel program is built for: little-endian, as every host we support.
pub(crate) const BPF_TARGET: &str = "bpfel-unknown-none";

/// Debian's newest kernel for virtual machines, by the package that depends on it: old ones leave the archive. On the
/// oldest Debian that is supported it is Linux 6.1.
pub(crate) const GUEST_KERNEL: &str = "linux-image-cloud-amd64";

/// Debian's package with the emulator that runs it.
pub(crate) const GUEST_EMULATOR: &str = "qemu-system-x86";

/// The modules that the lab needs there.
pub(crate) const GUEST_MODULES: &[&str] = &["veth", "bridge", "8021q"];

/// What the lab and the kernel tests run, as (Debian package, program it provides).
pub(crate) const TEST_PROGRAMS: &[(&str, &str)] = &[
    ("iproute2", "ip"),           // namespaces, veth pairs, routes
    ("ethtool", "ethtool"),       // offloads off: veth leaves checksums partial otherwise
    ("procps", "sysctl"),         // forwarding and ARP settings inside the namespaces
    ("iperf3", "iperf3"),         // TCP in bulk, in every mode
    ("wrk", "wrk"),               // HTTP requests
    ("haproxy", "haproxy"),       // their server, and a balancer to compare with
    ("nftables", "nft"),          // another one
    ("keepalived", "keepalived"), // a node of another kind in one virtual router
    ("binutils", "strip"),        // makes binaries small enough for a guest's memory
];
