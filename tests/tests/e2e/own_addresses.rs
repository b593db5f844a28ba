//! The addresses that translated packets come from: put on the host, and taken off again.

use std::{fs, net::IpAddr, time::Duration};

use nix::sys::signal::Signal;
use steerd_tests::{
    error::{Context, Result},
    lab::{Lab, Options},
    link,
    node::NodeId::Primary,
    process,
    switch::INTERFACE,
};

use crate::lab;

/// One that no host of the lab has.
const TRANSLATION: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 168, 1, 50));

#[test]
fn an_address_for_translation_is_steerds_own() -> Result<()> {
    let mut lab = lab(Options::new(steerd_tests::config::Settings::Fast))?;
    lab.start(Primary)?;
    lab.until_master(Primary)?;
    let plain = config(&mut lab)?;
    assert!(!has(&mut lab, TRANSLATION)?);

    reload(&mut lab, &translating(&plain, TRANSLATION))?;
    until(&mut lab, true)?;
    lab.until_status(Primary, "room for translations", |status| {
        let mut tables = status.tables.iter();
        tables.any(|table| table.table == "NAT" && table.capacity == 4 * 16_128)
    })?;
    // It outlives the daemon, as what it translates does, and the next one knows whose it is.
    lab.kill_daemon(Primary)?;
    assert!(has(&mut lab, TRANSLATION)?);
    lab.start_daemon(Primary)?;
    lab.until_master(Primary)?;
    assert!(has(&mut lab, TRANSLATION)?);
    // One that somebody takes off is put back.
    in_host(
        &mut lab,
        "ip",
        &["address", "del", "192.168.1.50/32", "dev", INTERFACE],
    )?;
    until(&mut lab, true)?;
    reload(&mut lab, &plain)?;
    until(&mut lab, false)?;

    // The host's own one it shares only with ports that the host does not use.
    let own = lab.node(Primary)?.host.spec.v4();
    reload(&mut lab, &translating(&plain, own))?;
    let log = lab.node(Primary)?.daemon_log();
    lab.until("the refusal", |_| {
        let log = fs::read_to_string(&log).unwrap_or_default();
        Ok(log.contains("nothing was reloaded") && log.contains("ip_local_port_range"))
    })?;
    assert!(has(&mut lab, own)?);
    let narrow = format!("{}ports = \"61000-65535\"\n", translating(&plain, own));
    reload(&mut lab, &narrow)?;
    lab.until_status(Primary, "room for translations", |status| {
        let mut tables = status.tables.iter();
        tables.any(|table| table.table == "NAT" && table.capacity == 4536)
    })?;

    // Off with all of it, but for what is the host's own.
    reload(&mut lab, &translating(&plain, TRANSLATION))?;
    until(&mut lab, true)?;
    lab.stop_daemon(Primary)?;
    assert!(has(&mut lab, TRANSLATION)?, "packets are still translated");
    let mut unload = lab.node(Primary)?.daemon_command();
    unload.arg("--unload");
    let output = process::output(unload, Duration::from_secs(10))?;
    assert!(output.status.success(), "{output:?}");
    assert!(!has(&mut lab, TRANSLATION)? && has(&mut lab, own)?);
    let pins = in_host(&mut lab, "ls", &["/sys/fs/bpf"])?;
    assert!(!pins.contains("steerd"), "{pins}");
    Ok(())
}

/// Answers may come through any interface with the program: each has the address, one that comes
/// later too, and one that is no longer the program's does not.
#[test]
fn an_address_for_translation_is_wherever_answers_come() -> Result<()> {
    const OTHER: &str = "nat0";
    const TRANSLATION6: IpAddr =
        IpAddr::V6(std::net::Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 0x50));
    let mut lab = lab(Options::new(steerd_tests::config::Settings::Fast))?;
    lab.start(Primary)?;
    lab.until_master(Primary)?;
    let make = |lab: &mut Lab| -> Result<()> {
        for command in [
            "link add nat0 type veth peer name nat1",
            "link set nat1 up",
            "link set nat0 up",
        ] {
            in_host(lab, "ip", &command.split(' ').collect::<Vec<_>>())?;
        }
        Ok(())
    };
    let all_on = |lab: &mut Lab, interface: &str, there: bool| -> Result<()> {
        let what = format!("the addresses on {interface}: {there}");
        let interface = interface.to_owned();
        lab.until(&what, move |lab| {
            let namespace = &lab.node(Primary)?.host.namespace;
            let placed = namespace.run(|| link::addresses(&interface))?;
            let both = [TRANSLATION, TRANSLATION6];
            Ok(both.iter().all(|address| placed.contains(address) == there))
        })
    };
    make(&mut lab)?;
    let plain = config(&mut lab)?;
    let one = format!("{plain}\n[nat]\naddresses = [\"{TRANSLATION}\", \"{TRANSLATION6}\"]\n");
    let two = format!("{one}\n[dataplane]\ninterfaces = [\"{INTERFACE}\", \"{OTHER}\"]\n");
    reload(&mut lab, &one)?;
    all_on(&mut lab, INTERFACE, true)?;
    all_on(&mut lab, OTHER, false)?;
    restart(&mut lab, &two)?;
    all_on(&mut lab, OTHER, true)?;
    all_on(&mut lab, INTERFACE, true)?;
    // One that is removed and made again.
    in_host(&mut lab, "ip", &["link", "del", OTHER])?;
    make(&mut lab)?;
    all_on(&mut lab, OTHER, true)?;
    restart(&mut lab, &one)?;
    all_on(&mut lab, OTHER, false)?;
    all_on(&mut lab, INTERFACE, true)?;
    reload(&mut lab, &plain)?;
    all_on(&mut lab, INTERFACE, false)
}

/// The configuration's text.
fn config(lab: &mut Lab) -> Result<String> {
    let path = lab.node(Primary)?.config_path();
    fs::read_to_string(&path).context(|| format!("read {}", path.display()))
}

/// The same with translation from `address`.
fn translating(config: &str, address: IpAddr) -> String {
    format!("{config}\n[nat]\naddresses = [\"{address}\"]\n")
}

fn reload(lab: &mut Lab, config: &str) -> Result<()> {
    let node = lab.node(Primary)?;
    let path = node.config_path();
    fs::write(&path, config).context(|| format!("write {}", path.display()))?;
    node.daemon()?.signal(Signal::SIGHUP)
}

/// For what a reload cannot change. The daemon that goes leaves all as it is.
fn restart(lab: &mut Lab, config: &str) -> Result<()> {
    let path = lab.node(Primary)?.config_path();
    lab.kill_daemon(Primary)?;
    fs::write(&path, config).context(|| format!("write {}", path.display()))?;
    lab.start_daemon(Primary)
}

fn until(lab: &mut Lab, there: bool) -> Result<()> {
    let what = format!("the address there: {there}");
    lab.until(&what, |lab| Ok(has(lab, TRANSLATION)? == there))
}

fn has(lab: &mut Lab, address: IpAddr) -> Result<bool> {
    let namespace = &lab.node(Primary)?.host.namespace;
    Ok(namespace
        .run(|| link::addresses(INTERFACE))?
        .contains(&address))
}

/// What a command prints on the primary's host.
fn in_host(lab: &mut Lab, program: &str, arguments: &[&str]) -> Result<String> {
    let mut command = lab.node(Primary)?.host.namespace.command(program);
    command.args(arguments);
    let output = process::output(command, Duration::from_secs(10))?;
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {output:?}"
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
