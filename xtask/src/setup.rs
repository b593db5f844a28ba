//! Readies the machine for what runs in the kernel: the programs the lab calls, and the bpf filesystem.

use std::fs;

use crate::{
    debian,
    error::{Error, Result},
    install, pins,
    run::{self, Cmd, say, which},
};

/// Installs missing programs and mounts bpffs.
pub(crate) fn machine(install: bool) -> Result<()> {
    let missing: Vec<(&str, &str)> = pins::TEST_PROGRAMS
        .iter()
        .copied()
        .filter(|(_, program)| which(program).is_none())
        .collect();
    if let Some((package, program)) = missing.first() {
        if which("apt-get").is_none() {
            return Err(Error::NoApt {
                program: (*program).to_owned(),
                package: (*package).to_owned(),
            });
        }
        let packages: Vec<String> = missing
            .iter()
            .map(|(package, _)| (*package).to_owned())
            .collect();
        debian::install("programs the lab needs", &packages, install)?;
    }
    if !run::is_root() {
        say("not root: what loads programs into the kernel or makes network namespaces will fail");
    } else if !has_bpffs(&fs::read_to_string("/proc/mounts").unwrap_or_default()) {
        install::carry_out(
            "the bpf filesystem",
            &[Cmd::new("mount").args(["-t", "bpf", "bpf", "/sys/fs/bpf"])],
            install,
        )?;
    }
    Ok(())
}

/// Whether a `/proc/mounts` has bpffs where everyone expects it.
fn has_bpffs(mounts: &str) -> bool {
    mounts.lines().any(|line| {
        let mut fields = line.split(' ').skip(1);
        (fields.next(), fields.next()) == (Some("/sys/fs/bpf"), Some("bpf"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bpffs_is_seen() {
        assert!(has_bpffs(
            "proc /proc proc rw 0 0\nbpf /sys/fs/bpf bpf rw,mode=700 0 0\n"
        ));
        assert!(!has_bpffs("none /sys/fs/bpf tmpfs rw 0 0\n"));
    }
}
