//! HAProxy, as the web server of a site, and as another balancer to compare with.

use std::{net::SocketAddr, path::Path, process::Command};

use crate::netns::Namespace;

/// The command that runs it on this configuration until it is killed.
#[must_use]
pub fn command(on: &Namespace, config: &Path) -> Command {
    let mut command = on.command("haproxy");
    // In the foreground: it must not outlive whoever started it.
    command.arg("-db").arg("-f").arg(config);
    command
}

/// A web server that gives everybody the same kilobyte.
#[must_use]
pub fn web_server(port: u16) -> String {
    let body = "0123456789abcdef".repeat(64);
    format!(
        "{GLOBAL}frontend web\n  mode http\n  bind :{port}\n  bind [::]:{port} v6only\n  \
         http-request return status 200 content-type text/plain string {body}\n"
    )
}

/// A balancer of TCP connections: of each pair, what comes to the port goes to the server.
#[must_use]
pub fn balancer(pairs: &[(u16, SocketAddr)]) -> String {
    let mut text = GLOBAL.to_owned();
    for (port, server) in pairs {
        text += &format!("listen port{port}\n  mode tcp\n  bind :{port}\n  server s1 {server}\n");
    }
    text
}

const GLOBAL: &str = "global\n  maxconn 4000\ndefaults\n  timeout connect 3s\n  timeout client 30s\n  \
                      timeout server 30s\n";
