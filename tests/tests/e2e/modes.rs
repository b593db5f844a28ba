//! Real traffic in every mode, in networks of every shape, over IPv4 and IPv6: TCP in bulk both ways,
//! HTTP, WebSockets, datagrams whole and in fragments, echo requests, ICMP errors. All offloads are off,
//! so the receivers' stacks verify every checksum, and none may be wrong.

use std::{thread, time::Duration};

use steerd_tests::{
    error::Result,
    netns::Namespace,
    node::Binaries,
    players::Players,
    site::{
        NARROW, Site,
        plan::{Family, Plan, Port, Shape, Way},
        sums::Sums,
        vip,
    },
    traffic::{self, Bulk, Web, datagrams},
    wait,
};

/// The ways that servers in a network of this shape can be reached by.
fn ways(shape: Shape) -> impl Iterator<Item = Way> {
    let far = shape == Shape::FarServers;
    Way::ALL.into_iter().filter(move |way| match way {
        Way::Dsr => !far,
        // The stack's own business in all shapes alike.
        Way::Local => matches!(shape, Shape::OneArm | Shape::FarClient),
        Way::Ipip | Way::Cross | Way::Gue | Way::Nat => true,
    })
}

/// Runs `test` in a site of this shape for each way, and tells of all that fail.
fn in_all(shape: Shape, test: impl Fn(&mut Site, Way) -> Result<()>) {
    let failed = run_all(shape, ways(shape), test);
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// Runs `test` in a site of this shape for each of these ways, and returns what failed.
pub(crate) fn run_all(
    shape: Shape,
    ways: impl IntoIterator<Item = Way>,
    test: impl Fn(&mut Site, Way) -> Result<()>,
) -> Vec<String> {
    let mut failed = Vec::new();
    for way in ways {
        let name = format!("{shape:?} {}", way.name());
        let done = Binaries::find()
            .and_then(|binaries| Site::new(Plan::one(shape, way), &binaries))
            .and_then(|mut site| {
                let done = test(&mut site, way);
                if done.is_err() {
                    println!("{}", site.logs());
                }
                done
            });
        match done {
            Ok(()) => println!("{name}: ok"),
            Err(error) => failed.push(format!("{name}: {error}")),
        }
    }
    failed
}

/// An expectation of a site, told with its figures.
macro_rules! expect {
    ($met:expr, $($told:tt)+) => {
        if !$met {
            return Err(steerd_tests::error::Error::Traffic {
                program: "the site",
                said: format!($($told)+),
            });
        }
    };
}

/// All kinds of traffic. iperf3 serves one client at a time; all else is of both families at once.
fn all_traffic(site: &mut Site, way: Way) -> Result<()> {
    for family in Family::ALL {
        warm_up(site, family)?;
        bulk(site, family)?;
    }
    let of_family = |family| {
        web(site, family)?;
        small(site, family)?;
        errors(site, family)
    };
    thread::scope(|scope| {
        let both = Family::ALL.map(|family| scope.spawn(move || of_family(family)));
        both.into_iter().try_for_each(|one| {
            one.join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })?;
    players(site)?;
    let echoes = site.verdict("echo")?;
    let asked = (Family::ALL.len() * PINGS.len()) as u64;
    expect!(
        echoes == asked,
        "of {asked} echo requests the program answered {echoes}"
    );
    let steered = site.verdict(way.verdict())?;
    expect!(steered > 5000, "{steered} packets {}", way.verdict());
    let sums = site.sums()?;
    expect!(sums == Sums::default(), "{sums}");
    Ok(())
}

/// How much data echo requests have.
const PINGS: [usize; 3] = [0, 56, 1200];

/// The first packets may wait for a neighbour, or for the news that a server unwraps.
pub(crate) fn warm_up(site: &Site, family: Family) -> Result<()> {
    let to = site.target(family, Port::Echo);
    wait::until(
        &format!("an echo from {to}"),
        Duration::from_secs(5),
        || Ok(datagrams::echo(&site.client.namespace, to, 32)?.then_some(())),
        || {
            let counted = site.status().map(|status| status.verdicts);
            let counted = counted.unwrap_or_default().into_iter();
            let counted = counted.filter(|count| count.packets > 0);
            let counted: Vec<_> = counted
                .map(|c| format!("{} {}", c.packets, c.verdict))
                .collect();
            format!("there was none; packets: {}", counted.join(", "))
        },
    )
}

/// TCP both ways, in segments of the largest size: where they must be smaller, it has to be told.
fn bulk(site: &Site, family: Family) -> Result<()> {
    /// What the slowest mode carries in a second on a busy machine of two processors, and far above
    /// what a flow carries that has to guess its segments' size or sends all of them twice.
    const LEAST: u64 = 4 << 20;
    let to = site.target(family, Port::Bulk);
    for reverse in [false, true] {
        let run = Bulk {
            seconds: 1,
            streams: 2,
            reverse,
        };
        let carried = traffic::bulk(&site.client.namespace, to, run)?;
        println!("  {family:?} reverse {reverse}: {carried:?}");
        expect!(
            carried.bytes > LEAST,
            "{family:?}, reverse {reverse}: {carried:?}"
        );
    }
    Ok(())
}

/// HTTP on connections that are kept, and on one for each request.
fn web(site: &Site, family: Family) -> Result<()> {
    for (port, path, close) in [
        (Port::Web, "/", false),
        (Port::Web, "/", true),
        (Port::Game, "/health", true),
    ] {
        let run = Web {
            seconds: 1,
            connections: 8,
            close,
        };
        let to = site.target(family, port);
        let answered = traffic::web(&site.client.namespace, to, path, run)?;
        println!("  {family:?} {port:?} close {close}: {answered:?}");
        expect!(
            answered.requests > 200 && answered.errors == 0,
            "{family:?} {port:?}: {answered:?}"
        );
    }
    Ok(())
}

/// Datagrams of every size: the last ones are fragments, two of 1500 bytes and many.
pub(crate) fn small(site: &Site, family: Family) -> Result<()> {
    let client = &site.client.namespace;
    let to = site.target(family, Port::Echo);
    for size in [1, 2, 1000, 1400, 1472, 2000, 4000, 20_000] {
        // The first one may find out that it is too large for a tunnel.
        let mut tries = (0..3).map(|_| datagrams::echo(client, to, size));
        let echoed = tries.any(|echoed| echoed.unwrap_or(false));
        expect!(
            echoed,
            "{family:?}: a datagram of {size} bytes came not back"
        );
    }
    for size in PINGS {
        let answered = datagrams::ping(client, vip(family), size)?;
        expect!(
            answered,
            "{family:?}: no answer to an echo request of {size} bytes"
        );
    }
    Ok(())
}

/// A server is told that its client is gone.
pub(crate) fn errors(site: &Site, family: Family) -> Result<()> {
    let (to, heard_at) = (
        site.target(family, Port::Talk),
        site.heard_at(0, family, Port::Talk),
    );
    let told = datagrams::refusal(&site.client.namespace, to, site.server(0), heard_at)?;
    expect!(
        told,
        "{family:?}: the server was not told that its client is gone"
    );
    Ok(())
}

fn players(site: &mut Site) -> Result<()> {
    const EACH: usize = 20;
    let client = site.client.namespace.clone();
    let start = |family| Players::start(&client, site.target(family, Port::Game), EACH);
    let all = [start(Family::V4)?, start(Family::V6)?];
    wait::until(
        "all players to play",
        Duration::from_secs(5),
        || {
            let connected = all.iter().map(|players| players.snapshot().connected);
            Ok((connected.sum::<usize>() == 2 * EACH).then_some(()))
        },
        || format!("{:?}", all.each_ref().map(Players::snapshot)),
    )?;
    thread::sleep(Duration::from_secs(1));
    for players in &all {
        let snapshot = players.snapshot();
        expect!(snapshot.cuts == 0, "players were cut: {snapshot:?}");
    }
    let counted = |site: &Site| -> Result<u64> {
        let services = site.status()?.services;
        let games = services
            .iter()
            .filter(|s| s.name.as_str().starts_with("game"));
        let all = games.flat_map(|service| &service.backends);
        Ok(all
            .filter_map(|b| b.connections)
            .map(|c| c.established)
            .sum())
    };
    let established = counted(site)?;
    expect!(
        established == 2 * EACH as u64,
        "{established} connections are counted as established"
    );
    Ok(())
}

#[test]
fn one_arm() {
    in_all(Shape::OneArm, all_traffic);
}

#[test]
fn two_arms() {
    in_all(Shape::TwoArms, all_traffic);
}

#[test]
fn servers_behind_a_router() {
    in_all(Shape::FarServers, all_traffic);
}

/// Servers find out that their clients' network takes smaller packets only by what a router says of
/// it to the virtual address.
#[test]
fn clients_behind_a_narrow_network() {
    in_all(Shape::FarClient, |site, way| {
        for family in Family::ALL {
            warm_up(site, family)?;
            bulk(site, family)?;
            if way != Way::Local {
                let mtu = learned(site.server(0), site, family)?;
                expect!(
                    mtu == Some(NARROW),
                    "{family:?}: the server learned {mtu:?}"
                );
            }
        }
        let sums = site.sums()?;
        expect!(sums == Sums::default(), "{sums}");
        Ok(())
    });
}

/// A client learns from the program how large packets may be that go through a tunnel.
#[test]
fn a_client_learns_what_a_tunnel_carries() {
    in_all(Shape::OneArm, |site, way| {
        for family in Family::ALL {
            warm_up(site, family)?;
            bulk(site, family)?;
            let wanted = way.is_tunnel().then_some(1500 - way.overhead(family));
            let learned = learned(&site.client.namespace, site, family)?;
            expect!(learned == wanted, "{family:?}: {learned:?}, not {wanted:?}");
            let told = site.verdict("too-big")?;
            expect!((told > 0) == way.is_tunnel(), "{told} packets too big");
        }
        Ok(())
    });
}

/// The packet size that a host has learned of the way to what it takes for the client, or, if it is the
/// client, to the service.
fn learned(host: &Namespace, site: &Site, family: Family) -> Result<Option<u32>> {
    let from_client = std::ptr::eq(host, &raw const site.client.namespace);
    let translated = site.plan.servers[0].way == Way::Nat;
    let to = match (from_client, translated) {
        (true, _) => vip(family),
        (false, true) => site.plan.nat_address(family),
        (false, false) => site.plan.client_address(family),
    };
    let mut command = host.command("ip");
    command.args(["route", "get", &to.to_string()]);
    if !from_client && !translated {
        command.args(["from", &vip(family).to_string()]);
    }
    let output = steerd_tests::process::output(command, Duration::from_secs(5))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut words = text.split_whitespace();
    let mtu = words.find(|word| *word == "mtu").and_then(|_| words.next());
    Ok(mtu.and_then(|mtu| mtu.parse().ok()))
}

/// The client is in a VLAN, the servers are not: the program takes the tag off what it forwards.
#[test]
fn tagged_clients_of_servers_without_a_vlan() {
    in_all(Shape::OneArm, |site, way| {
        // Its own stack would answer the client, and knows of no VLAN.
        if way == Way::Local {
            return Ok(());
        }
        let _tag = site.tag_client(10)?;
        for family in Family::ALL {
            warm_up(site, family)?;
            bulk(site, family)?;
        }
        let steered = site.verdict(way.verdict())?;
        expect!(steered > 5000, "{steered} packets {}", way.verdict());
        let sums = site.sums()?;
        expect!(sums == Sums::default(), "{sums}");
        Ok(())
    });
}

/// The stacks verify: a wrong checksum is seen, and by the server.
#[test]
fn a_wrong_checksum_would_be_seen() -> Result<()> {
    let site = Site::new(Plan::one(Shape::OneArm, Way::Dsr), &Binaries::find()?)?;
    warm_up(&site, Family::V4)?;
    assert_eq!(site.sums()?, Sums::default());
    let to = site.target(Family::V4, Port::Echo);
    datagrams::send_broken(&site.client.namespace, to)?;
    wait::until(
        "the wrong checksum to be counted",
        Duration::from_secs(2),
        || Ok((Sums::of(site.server(0))?.udp == 1).then_some(())),
        || format!("{:?}", site.sums()),
    )
}
