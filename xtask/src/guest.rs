//! Sets up the guest, which runs tests of what the kernel at hand lacks (`steerd_tests::guest`): an emulator, another
//! kernel and its modules, in `target/guest`. Both are Debian's, unpacked into the cache directory; nothing is installed,
//! and a machine whose kernel has all that is tested gets none.

use std::{
    env, fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
    process::Stdio,
};

use crate::{
    debian,
    error::{Error, Result},
    install, pins,
    run::{self, Cmd, which},
    toolchain,
};

/// Where the tests look for it, within the workspace.
const GUEST: &str = "target/guest";

/// Sets it up, if the tests need it and it is not there.
pub(crate) fn prepare(install: bool) -> Result<()> {
    let dir = run::workspace().join(GUEST);
    // Without root the tests that need it fail anyway; and Debian's kernels here are of one architecture.
    if !run::is_root() || env::consts::ARCH != "x86_64" || has_vlans() || is_complete(&dir) {
        return Ok(());
    }
    let cache = toolchain::cache_dir()?.join("guest");
    if install {
        run::make_dir(&cache)?;
    }
    let root = toolchain::unpacked_root(&cache);
    debian::with_fresh_lists(install, || {
        let mut packages = debian::dependencies(pins::GUEST_KERNEL, "linux-image-")?;
        if which(EMULATOR).is_none() {
            packages.extend(debian::with_absent_dependencies(pins::GUEST_EMULATOR)?);
        }
        let what = "another kernel, and an emulator to run it:";
        install::carry_out(what, &install::unpack(&cache, &packages), install)
    })?;
    let modules = dir.join("modules");
    run::make_dir(&modules)?;
    write_modules(&root, &modules)?;
    run::write_if_changed(&dir.join("qemu"), script(&root).as_bytes())?;
    Cmd::new("chmod").arg("+x").arg(dir.join("qemu")).run()?;
    // Last: with it, the guest is there.
    let kernel = file_in(&root.join("boot"), |name| name.starts_with("vmlinuz-"))?;
    let contents = fs::read(&kernel).map_err(failed("read", &kernel))?;
    run::write_if_changed(&dir.join("kernel"), &contents).map(|_| ())
}

/// The emulator.
const EMULATOR: &str = "qemu-system-x86_64";

/// Whether the kernel at hand has VLAN devices. Asked in a network namespace of its own.
fn has_vlans() -> bool {
    const ASK: &str =
        "ip link add a type veth peer name b && ip link add link a name a.1 type vlan id 1";
    Cmd::new("unshare")
        .args(["-n", "sh", "-c", ASK])
        .ask()
        .is_some()
}

/// Whether all of it is there, and what it refers to.
fn is_complete(dir: &Path) -> bool {
    dir.join("kernel").is_file() && Cmd::new(dir.join("qemu")).arg("--version").ask().is_some()
}

/// A program that becomes the emulator, wherever that is.
fn script(root: &Path) -> String {
    if let Some(path) = which(EMULATOR) {
        return format!("#!/bin/sh\nexec {} \"$@\"\n", path.display());
    }
    let dirs = ["lib", "usr/lib"].map(|dir| root.join(dir).join("x86_64-linux-gnu"));
    let (libraries, root) = (toolchain::join_paths(&dirs), root.display());
    format!(
        "#!/bin/sh\nexport LD_LIBRARY_PATH='{}'\n\
         exec '{root}/usr/bin/{EMULATOR}' -L '{root}/usr/share/qemu' -L '{root}/usr/share/seabios' \"$@\"\n",
        libraries
    )
}

/// Writes the modules that the tests need, each after those that it needs: their names begin with their places.
fn write_modules(root: &Path, to: &Path) -> Result<()> {
    let all = files_below(&root.join("lib/modules"))?;
    let mut order: Vec<(String, Vec<u8>)> = Vec::new();
    let mut open: Vec<String> = pins::GUEST_MODULES
        .iter()
        .rev()
        .map(|&name| name.into())
        .collect();
    while let Some(name) = open.pop() {
        if order.iter().any(|(there, _)| *there == name) {
            continue;
        }
        // One without a file is part of the kernel.
        let Some(path) = all.iter().find(|path| module_name(path) == Some(&name)) else {
            continue;
        };
        let contents = read_module(path)?;
        let missing: Vec<String> = dependencies(&contents)
            .into_iter()
            .filter(|needed| all.iter().any(|path| module_name(path) == Some(needed)))
            .filter(|needed| order.iter().all(|(there, _)| there != needed))
            .collect();
        if missing.is_empty() {
            order.push((name, contents));
        } else {
            open.push(name);
            open.extend(missing);
        }
    }
    for (place, (name, contents)) in order.iter().enumerate() {
        run::write_if_changed(&to.join(format!("{place:02}-{name}.ko")), contents)?;
    }
    Ok(())
}

/// The name of the module in a file.
fn module_name(path: &Path) -> Option<&str> {
    let name = path.file_name()?.to_str()?;
    name.strip_suffix(".xz").unwrap_or(name).strip_suffix(".ko")
}

/// A module, which may be compressed.
fn read_module(path: &Path) -> Result<Vec<u8>> {
    if path.extension().is_none_or(|extension| extension != "xz") {
        return fs::read(path).map_err(failed("read", path));
    }
    let cmd = Cmd::new("xz").arg("-dc").arg(path);
    let mut child = cmd
        .command()
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|source| cmd.start_error(source))?;
    let mut contents = Vec::new();
    if let Some(mut stdout) = child.stdout.take() {
        stdout
            .read_to_end(&mut contents)
            .map_err(failed("read", path))?;
    }
    let status = child.wait().map_err(failed("read", path))?;
    if status.success() {
        Ok(contents)
    } else {
        Err(Error::Failed {
            command: cmd.brief(),
            status,
        })
    }
}

/// The modules that a module says it needs: `depends=a,b` among its strings.
fn dependencies(module: &[u8]) -> Vec<String> {
    let mut strings = module.split(|&byte| byte == 0);
    let names = strings.find_map(|string| string.strip_prefix(b"depends="));
    let names = String::from_utf8_lossy(names.unwrap_or_default()).into_owned();
    names
        .split(',')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

/// The first file in a directory with such a name.
fn file_in(dir: &Path, wanted: impl Fn(&str) -> bool) -> Result<PathBuf> {
    let found = files_below(dir)?;
    let is_wanted = |path: &&PathBuf| {
        path.file_name()
            .and_then(|name| name.to_str())
            .is_some_and(&wanted)
    };
    let found = found.iter().find(is_wanted).cloned();
    found.ok_or_else(|| failed("find a kernel in", dir)(io::ErrorKind::NotFound.into()))
}

/// All files below a directory.
fn files_below(dir: &Path) -> Result<Vec<PathBuf>> {
    let (mut files, mut open) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).map_err(failed("list", &dir))? {
            let entry = entry.map_err(failed("list", &dir))?;
            // Links are not followed: modules have one to their sources.
            match entry.file_type().map_err(failed("list", &dir))? {
                kind if kind.is_dir() => open.push(entry.path()),
                kind if kind.is_file() => files.push(entry.path()),
                _ => {}
            }
        }
    }
    Ok(files)
}

/// Makes the error for a failed file operation.
fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { what, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_says_what_it_needs() {
        let needs = |module: &[u8]| dependencies(module);
        assert_eq!(
            needs(b"\x7fELF\0license=GPL\0depends=garp,mrp\0x\0"),
            ["garp", "mrp"]
        );
        assert!(needs(b"\0depends=\0name=veth\0").is_empty());
    }

    #[test]
    fn modules_are_written_in_the_order_of_loading() {
        let dir = env::temp_dir().join(format!("xtask-modules-{}", std::process::id()));
        let (from, to) = (dir.join("root/lib/modules/1/net"), dir.join("to"));
        fs::create_dir_all(&from).unwrap();
        fs::create_dir_all(&to).unwrap();
        for (name, needs) in [
            ("8021q", "mrp,garp"),
            ("garp", "stp,gone"),
            ("mrp", ""),
            ("stp", ""),
            ("veth", ""),
        ] {
            fs::write(
                from.join(format!("{name}.ko")),
                format!("\0depends={needs}\0"),
            )
            .unwrap();
        }
        write_modules(&dir.join("root"), &to).unwrap();
        let mut names: Vec<_> = files_below(&to).unwrap();
        names.sort();
        let names: Vec<_> = names.iter().filter_map(|path| module_name(path)).collect();
        fs::remove_dir_all(&dir).unwrap();
        let place = |name: &str| {
            names
                .iter()
                .position(|there| there.ends_with(name))
                .unwrap()
        };
        assert_eq!(names.len(), 5, "{names:?}");
        assert!(
            place("-stp") < place("-garp")
                && place("-garp") < place("-8021q")
                && place("-mrp") < place("-8021q")
        );
    }
}
