//! Interfaces that vanish and come back, and how the program is attached to them.

use std::time::Duration;

use steerd_core::config::XdpMode;
use steerd_tests::{
    config::Settings,
    error::Result,
    lab::{Lab, Options},
    link::{self, XdpAttached},
    node::NodeId::Primary,
    switch::{INTERFACE, VIP},
    wait,
};

use crate::{lab, stage};

const FAST: Options = Options::new(Settings::Fast);

/// How the kernel says that the program is attached on the primary.
fn attached(lab: &mut Lab) -> Result<XdpAttached> {
    let namespace = &lab.node(Primary)?.host.namespace;
    namespace.run(|| link::xdp(INTERFACE))
}

#[test]
fn an_interface_that_was_removed_and_made_again_serves_again() -> Result<()> {
    let mut stage = stage(FAST)?;
    let uptime = stage.lab.status(Primary)?.uptime_s;
    stage.lab.replug(Primary)?;
    stage.lab.until("the program on the new interface", |lab| {
        Ok(attached(lab)? != XdpAttached::None)
    })?;
    stage.until_in_charge(Primary, Primary)?;
    stage.gather(Primary)?;
    let namespace = stage.lab.node(Primary)?.host.namespace.clone();
    let addresses = namespace.run(|| link::addresses(INTERFACE))?;
    assert!(addresses.contains(&VIP), "{addresses:?}");
    // It is the program that serves: its counters go on.
    let before = stage.lab.status(Primary)?;
    stage
        .lab
        .until_status(Primary, "packets steered", |status| {
            status.services[0].packets > before.services[0].packets + 100
        })?;
    assert!(before.interfaces.iter().all(|i| i.up), "{before:?}");
    assert!(before.uptime_s >= uptime, "the daemon was restarted");
    Ok(())
}

#[test]
fn the_mode_shown_is_the_mode_in_the_kernel() -> Result<()> {
    let mut lab = lab(FAST)?;
    lab.node(Primary)?.start_server()?;
    for (mode, kernel) in [
        (XdpMode::Generic, Some(XdpAttached::SocketBuffer)),
        (XdpMode::Driver, Some(XdpAttached::Driver)),
        (XdpMode::Generic, Some(XdpAttached::SocketBuffer)),
        // Whatever it is: to attach it anew is not worth a packet.
        (XdpMode::Auto, None),
    ] {
        let name = match mode {
            XdpMode::Auto => "auto",
            XdpMode::Driver => "driver",
            XdpMode::Generic => "generic",
        };
        lab.configure(Primary, |config| config.set("dataplane", "xdp_mode", name))?;
        lab.start_daemon(Primary)?;
        lab.until_master(Primary)?;
        // An earlier program steers on, in its mode, until the kernel has verified the new one.
        if mode != XdpMode::Auto {
            lab.until_status(Primary, "attached as configured", |status| {
                status.interfaces[0].xdp_mode == mode
            })?;
        }
        let (shown, real) = (lab.status(Primary)?, attached(&mut lab)?);
        let shown = shown.interfaces[0].xdp_mode;
        let as_shown = match shown {
            XdpMode::Generic => XdpAttached::SocketBuffer,
            XdpMode::Driver => XdpAttached::Driver,
            XdpMode::Auto => XdpAttached::None,
        };
        assert_eq!(as_shown, real, "configured {mode:?}, shown {shown:?}");
        assert!(
            kernel.is_none_or(|kernel| kernel == real),
            "configured {mode:?}, attached {real:?}"
        );
        lab.stop_daemon(Primary)?;
    }
    Ok(())
}

/// What a link of an interface that is gone left behind is no reason to fail either.
#[test]
fn an_interface_made_again_while_the_daemon_is_down() -> Result<()> {
    let mut lab = lab(FAST)?;
    lab.start(Primary)?;
    lab.until_master(Primary)?;
    lab.kill_daemon(Primary)?;
    lab.replug(Primary)?;
    lab.start_daemon(Primary)?;
    lab.until_master(Primary)?;
    let patience = Duration::from_secs(5);
    wait::until(
        "the program on the new interface",
        patience,
        || Ok((attached(&mut lab)? != XdpAttached::None).then_some(())),
        String::new,
    )
}
