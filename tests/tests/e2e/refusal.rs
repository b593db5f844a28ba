//! What the daemon cannot work with, it refuses: with a status, what is wrong, and what to do.

use std::{fs, os::unix::process::CommandExt, process::Output, time::Duration};

use steerd_core::vrrp::election::Role;
use steerd_tests::{
    config::{NodeConfig, Settings},
    error::Result,
    lab::{Lab, Options},
    link,
    netns::Bpffs,
    node::NodeId::Primary,
    process,
    switch::{HostSpec, INTERFACE, VIP},
    xdp::Pass,
};

use crate::lab;

const FAST: Options = Options::new(Settings::Fast);

/// The primary's daemon on a configuration changed by `change`, until it gives up.
fn refused(lab: &mut Lab, change: impl FnOnce(&mut NodeConfig) -> Result<()>) -> Result<Output> {
    lab.configure(Primary, change)?;
    let command = lab.node(Primary)?.daemon_command();
    process::output(command, Duration::from_secs(10))
}

/// It ended with `code`, and told all of `phrases`.
fn assert_told(output: &Output, code: i32, phrases: &[&str]) {
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{told}");
    for phrase in phrases {
        assert!(told.contains(phrase), "`{phrase}` is missing in:\n{told}");
    }
    assert!(!told.contains("panicked"), "{told}");
}

/// The host is as it was: no address, no pin, and room for an XDP program.
fn assert_untouched(lab: &mut Lab) -> Result<()> {
    let namespace = lab.node(Primary)?.host.namespace.clone();
    let addresses = namespace.run(|| link::addresses(INTERFACE))?;
    assert!(!addresses.contains(&VIP), "{addresses:?}");
    namespace.run(|| Pass::attach(INTERFACE))?;
    let mut find = namespace.command("find");
    // The kernel itself may put its iterators there.
    find.args(["/sys/fs/bpf", "-mindepth", "1", "-not", "-name", "*.debug"]);
    let found = process::output(find, Duration::from_secs(5))?;
    assert_eq!(String::from_utf8_lossy(&found.stdout), "");
    Ok(())
}

#[test]
fn five_mistakes_are_five_places() -> Result<()> {
    let mut lab = lab(FAST)?;
    let path = lab.node(Primary)?.config_path();
    let text = fs::read_to_string(Settings::Fast.path()).unwrap();
    let mistakes = [
        ("vrid = 51", "vrid = 510"),
        ("advert_interval = \"100ms\"", "advert_interval = \"100\""),
        ("type = \"websocket\"", "type = \"webscoket\""),
        ("192.168.1.27", "192.168.1.270"),
        ("tier = 2", "teir = 2"),
    ];
    let broken = mistakes.iter().fold(text, |text, (right, wrong)| {
        assert!(text.contains(right), "{right}");
        text.replacen(right, wrong, 1)
    });
    // Where each wrong text stands; a mistake may be marked at its key or at its value.
    let lines: Vec<usize> = mistakes
        .iter()
        .map(|(_, wrong)| {
            broken
                .lines()
                .position(|line| line.contains(wrong))
                .unwrap()
                + 1
        })
        .collect();
    fs::write(&path, broken).unwrap();

    let command = lab.node(Primary)?.daemon_command();
    let output = process::output(command, Duration::from_secs(10))?;
    assert_told(&output, 2, &["5 mistakes", "nothing was changed"]);
    let told = String::from_utf8_lossy(&output.stderr);
    let place = format!("{}:", path.display());
    assert_eq!(told.matches(&place).count(), 5, "{told}");
    for line in lines {
        assert!(
            told.contains(&format!("{place}{line}:")),
            "no line {line} in:\n{told}"
        );
    }
    assert_untouched(&mut lab)
}

#[test]
fn a_missing_interface() -> Result<()> {
    let mut lab = lab(FAST)?;
    let output = refused(&mut lab, |config| {
        for router in config.array("virtual_router")? {
            router.insert("interface".into(), "eth7".into());
        }
        Ok(())
    })?;
    assert_told(&output, 1, &["interface eth7 does not exist", "check"]);
    assert_untouched(&mut lab)
}

#[test]
fn an_interface_that_has_an_xdp_program() -> Result<()> {
    let mut lab = lab(FAST)?;
    let namespace = lab.node(Primary)?.host.namespace.clone();
    let pass = namespace.run(|| Pass::attach(INTERFACE))?;
    let output = refused(&mut lab, |_| Ok(()))?;
    assert_told(
        &output,
        1,
        &["eth0 already has an XDP program", "remove it with"],
    );
    drop(pass);
    nothing_attached(&mut lab)?;
    assert_untouched(&mut lab)
}

/// A link that nobody holds any more is detached by the kernel a moment later.
fn nothing_attached(lab: &mut Lab) -> Result<()> {
    lab.until("nothing on eth0", |lab| {
        let namespace = &lab.node(Primary)?.host.namespace;
        Ok(namespace.run(|| link::xdp(INTERFACE))? == link::XdpAttached::None)
    })
}

#[test]
fn one_of_two_interfaces_that_has_an_xdp_program() -> Result<()> {
    for order in [[INTERFACE, "eth1"], ["eth1", INTERFACE]] {
        let mut lab = lab(FAST)?;
        let namespace = lab.node(Primary)?.host.namespace.clone();
        let pass = namespace.run(|| {
            link::add_cable("eth1", "far1")?;
            link::up("eth1")?;
            Pass::attach("eth1")
        })?;
        let output = refused(&mut lab, |config| {
            config.set("dataplane", "interfaces", order.map(String::from).to_vec())
        })?;
        assert_told(
            &output,
            1,
            &["eth1 already has an XDP program", "remove it with"],
        );
        drop(pass);
        nothing_attached(&mut lab)?;
        assert_untouched(&mut lab)?;
    }
    Ok(())
}

#[test]
fn no_bpf_file_system() -> Result<()> {
    let mut lab = lab(Options {
        bpffs: Bpffs::Missing,
        ..FAST
    })?;
    let output = refused(&mut lab, |_| Ok(()))?;
    assert_told(
        &output,
        1,
        &["not on a bpffs", "mount -t bpf bpf /sys/fs/bpf"],
    );
    Ok(())
}

#[test]
fn no_capability_for_bpf() -> Result<()> {
    let mut lab = lab(FAST)?;
    lab.configure(Primary, |_| Ok(()))?;
    let mut command = lab.node(Primary)?.daemon_command();
    let drop_capabilities = || {
        // CAP_SYS_ADMIN stands in for CAP_BPF since before there was one (Linux 5.8).
        for capability in [CAP_SYS_ADMIN, CAP_BPF] {
            // SAFETY: prctl(2) with plain numbers.
            if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) } != 0 {
                return Err(std::io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: between fork and exec only system calls are made. It runs after the host is entered,
    // which needs what is dropped.
    unsafe { command.pre_exec(drop_capabilities) };
    let output = process::output(command, Duration::from_secs(10))?;
    assert_told(&output, 1, &["CAP_BPF", "run it as root"]);
    assert_untouched(&mut lab)
}

const CAP_SYS_ADMIN: libc::c_ulong = 21;
const CAP_BPF: libc::c_ulong = 39;

#[test]
fn an_address_that_another_host_has() -> Result<()> {
    let mut lab = lab(FAST)?;
    let squatter = lab.plug(HostSpec {
        name: "squatter",
        number: 66,
    })?;
    squatter
        .namespace
        .run(|| link::add_address(INTERFACE, VIP, 24))?;
    lab.start(Primary)?;
    lab.until_status(Primary, "a fault that names the other host", |status| {
        let router = &status.virtual_routers[0];
        let told = format!("{} {}", router.cause, router.diagnoses.join(" "));
        // Host .66 has this MAC.
        router.role == Role::Fault && told.contains("02:00:00:00:01:42")
    })?;
    let namespace = lab.node(Primary)?.host.namespace.clone();
    let addresses = namespace.run(|| link::addresses(INTERFACE))?;
    assert!(!addresses.contains(&VIP), "{addresses:?}");
    // It is gone: the address may be had.
    drop(squatter);
    lab.until_master(Primary)
}

/// What comes in by a port is the bridge's, and so are the routes: the program could send nothing back.
#[test]
fn a_port_of_a_bridge_is_no_interface_for_the_program() -> Result<()> {
    let mut lab = lab(FAST)?;
    let namespace = lab.node(Primary)?.host.namespace.clone();
    let ip = |arguments: &str| -> Result<()> {
        let mut command = namespace.command("ip");
        command.args(arguments.split_whitespace());
        let output = process::output(command, Duration::from_secs(5))?;
        assert!(output.status.success(), "{output:?}");
        Ok(())
    };
    ip("link add br0 type bridge")?;
    ip(&format!("link set {INTERFACE} master br0"))?;
    let output = refused(&mut lab, |_| Ok(()))?;
    let told = format!("{INTERFACE} is a port of the bridge br0");
    assert_told(&output, 1, &[&told, "name br0 in its place"]);
    ip(&format!("link set {INTERFACE} nomaster"))?;
    assert_untouched(&mut lab)
}
