//! Where new flows go, and which are let in, as three real servers and their clients see it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};
use steerd_tests::{
    error::{Context, Result},
    link,
    node::Binaries,
    site::{
        Site,
        plan::{Family, Plan, Port, Way},
    },
    switch::{INTERFACE, v4},
    traffic::held::{self, Held, per_server},
    wait,
};

/// Three servers whose games are steered by `policy`.
fn site(policy: fn(Port, Family) -> String) -> Result<Site> {
    Site::new(Plan::three(Way::Dsr, policy), &Binaries::find()?)
}

fn game(site: &Site) -> SocketAddr {
    site.target(Family::V4, Port::Game)
}

/// How many established connections to the game steerd counts on each server.
fn counted(site: &Site) -> Result<BTreeMap<String, u64>> {
    let services = site.status()?.services.into_iter();
    let games = services.filter(|service| service.name.as_str() == "game");
    let backends = games.flat_map(|service| service.backends);
    Ok(backends
        .filter_map(|backend| {
            let connections = backend.connections?.established;
            Some((backend.name.to_string(), connections))
        })
        .collect())
}

/// Waits until steerd counts what there is.
fn until_counted(site: &Site, wanted: [u64; 3]) -> Result<()> {
    let wanted: BTreeMap<_, _> = ["s1", "s2", "s3"]
        .map(String::from)
        .into_iter()
        .zip(wanted)
        .collect();
    wait::until(
        &format!("connections to be {wanted:?}"),
        Duration::from_secs(5),
        || Ok((counted(site)? == wanted).then_some(())),
        || format!("they are {:?}", counted(site)),
    )
}

#[test]
fn weighted_round_robin_takes_turns() -> Result<()> {
    let mut plan = Plan::three(Way::Dsr, |_, _| {
        "scheduler = \"weighted-round-robin\"\n".into()
    });
    plan.servers[1].keys = |_| "weight = 2\n";
    plan.servers[2].keys = |_| "weight = 3\n";
    let site = Site::new(plan, &Binaries::find()?)?;
    let all = held::many(&site.client.namespace, game(&site), 60)?;
    assert_eq!(
        per_server(&all),
        BTreeMap::from([("s1", 10), ("s2", 20), ("s3", 30)])
    );
    until_counted(&site, [10, 20, 30])
}

#[test]
fn least_connections_levels() -> Result<()> {
    let site = site(|_, _| "scheduler = \"least-connections\"\n".into())?;
    let (client, to) = (&site.client.namespace, game(&site));
    let all = held::many(client, to, 30)?;
    let level = BTreeMap::from([("s1", 10), ("s2", 10), ("s3", 10)]);
    assert_eq!(per_server(&all), level);
    until_counted(&site, [10, 10, 10])?;
    // All of one server's players leave: the next ones are all its.
    let stay: Vec<Held> = all.into_iter().filter(|held| held.server != "s1").collect();
    until_counted(&site, [0, 10, 10])?;
    let new = held::many(client, to, 10)?;
    assert_eq!(per_server(&new), BTreeMap::from([("s1", 10)]));
    assert_eq!(per_server(stay.iter().chain(&new)), level);
    until_counted(&site, [10, 10, 10])
}

/// Gives the client these addresses more.
fn add_clients(site: &Site, numbers: impl IntoIterator<Item = u8> + Send) -> Result<()> {
    site.client.namespace.run(|| {
        let mut numbers = numbers.into_iter();
        numbers.try_for_each(|number| link::add_address(INTERFACE, v4(number), 24))
    })
}

/// Who answers connections from this client.
fn servers_of(site: &Site, from: IpAddr) -> Result<BTreeSet<String>> {
    let from = Some(SocketAddr::new(from, 0));
    let soon = Duration::from_secs(2);
    let begin = |_| held::begin(&site.client.namespace, from, game(site), soon);
    let all = (0..5).map(begin).filter_map(Result::transpose);
    all.map(|held| Ok(held?.server)).collect()
}

#[test]
fn all_of_a_client_go_to_one_server() -> Result<()> {
    let site = site(|_, _| "affinity = \"source-address\"\n".into())?;
    add_clients(&site, 100..120)?;
    let mut seen = BTreeSet::new();
    for number in 100..120 {
        let servers = servers_of(&site, v4(number))?;
        assert_eq!(servers.len(), 1, "of client {number}: {servers:?}");
        seen.extend(servers);
    }
    assert_eq!(seen.len(), 3, "twenty clients, all on {seen:?}");
    Ok(())
}

#[test]
fn all_of_a_network_go_to_one_server() -> Result<()> {
    let site = site(|_, family| match family {
        Family::V4 => "affinity = \"source-prefix\"\naffinity_prefix4 = 29\n".into(),
        Family::V6 => String::new(),
    })?;
    // 192.168.1.64/29 and so on: sixteen networks.
    let networks: Vec<u8> = (0..16).map(|network| 64 + network * 8).collect();
    for &first in &networks {
        add_clients(&site, [first + 1, first + 6])?;
    }
    let mut seen = BTreeSet::new();
    for first in networks {
        let mut servers = servers_of(&site, v4(first + 1))?;
        servers.extend(servers_of(&site, v4(first + 6))?);
        assert_eq!(servers.len(), 1, "of network {first}: {servers:?}");
        seen.extend(servers);
    }
    assert_eq!(seen.len(), 3, "sixteen networks, all on {seen:?}");
    Ok(())
}

/// A packet of a connection whose id the server made: it names the server. Short and long header.
fn quic(server: u16, long: bool) -> Vec<u8> {
    let [high, low] = server.to_be_bytes();
    let id = [0x5a, high, low, 1, 2, 3, 4, 5];
    let mut packet = if long {
        // Handshake, version 1, length of the id (RFC 9000, section 17.2).
        vec![0xe0, 0, 0, 0, 1, 8]
    } else {
        vec![0x40]
    };
    packet.extend(id);
    packet.extend([0; 32]);
    packet
}

#[test]
fn quic_follows_the_connection_id() -> Result<()> {
    let mut plan = Plan::three(Way::Dsr, |port, _| match port {
        Port::Talk => "quic = true\n".into(),
        _ => String::new(),
    });
    for (server, keys) in plan.servers.iter_mut().zip([
        |port| {
            if port == Port::Talk {
                "quic_server_id = 258\n"
            } else {
                ""
            }
        },
        |port| {
            if port == Port::Talk {
                "quic_server_id = 2\n"
            } else {
                ""
            }
        },
        |port| {
            if port == Port::Talk {
                "quic_server_id = 513\n"
            } else {
                ""
            }
        },
    ] as [fn(Port) -> &'static str; 3])
    {
        server.keys = keys;
    }
    let ids = [258, 2, 513];
    let site = Site::new(plan, &Binaries::find()?)?;
    let to = site.target(Family::V4, Port::Talk);
    let servers = (0..3)
        .map(|index| {
            site.server(index).run(|| {
                let socket = UdpSocket::bind(to).context(|| format!("bind {to}"))?;
                let soon = Some(Duration::from_millis(500));
                socket
                    .set_read_timeout(soon)
                    .context(|| "set a timeout".into())?;
                Ok(socket)
            })
        })
        .collect::<Result<Vec<_>>>()?;
    let client = || {
        site.client.namespace.run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").context(|| "bind".into())?;
            socket.connect(to).context(|| "connect".into())?;
            Ok(socket)
        })
    };
    let mut data = [0; 64];
    for round in 0..20 {
        // From a new port each time, as a client whose NAT forgot it.
        let client = client()?;
        for (&id, server) in ids.iter().zip(&servers) {
            for long in [false, true] {
                let packet = quic(id, long);
                client.send(&packet).context(|| "send".into())?;
                let received = server.recv(&mut data);
                assert!(
                    received.is_ok_and(|length| data[..length] == packet),
                    "round {round}, server id {id}, long {long}"
                );
            }
        }
    }
    // An id that is nobody's goes where the client's other packets do: somewhere.
    client()?.send(&quic(77, false)).context(|| "send".into())?;
    let got = |server: &UdpSocket| server.recv(&mut [0; 64]).is_ok();
    assert_eq!(servers.iter().filter(|server| got(server)).count(), 1);
    Ok(())
}

#[test]
fn new_flows_come_in_at_their_rate_only() -> Result<()> {
    const RATE: f64 = 50.0;
    const BURST: usize = 20;
    let mut site = site(|port, _| match port {
        Port::Game => "syn_rate = 50\nsyn_burst = 20\n".into(),
        _ => String::new(),
    })?;
    let to = game(&site);
    let start = Instant::now();
    let knocking = site.client.namespace.run(|| {
        let knock = |_| {
            let what = || format!("connect to {to}");
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).context(what)?;
            socket.set_nonblocking(true).context(what)?;
            // It is under way: EINPROGRESS.
            let _ = socket.connect(&to.into());
            Ok(socket)
        };
        (0..300).map(knock).collect::<Result<Vec<_>>>()
    })?;
    // Not so long that the others knock again (RFC 6298: a second).
    thread::sleep(Duration::from_millis(300));
    let inside = knocking.iter().filter(|socket| socket.peer_addr().is_ok());
    let (inside, most) = (
        inside.count(),
        BURST as f64 + RATE * start.elapsed().as_secs_f64(),
    );
    assert!(
        (BURST..=most as usize + 1).contains(&inside),
        "{inside} came in, not {BURST} to {most}"
    );
    assert!(site.verdict("limited")? > 0);
    // Those that knock again come in by and by; others are not concerned.
    let web = site.target(Family::V4, Port::Echo);
    assert!(steerd_tests::traffic::datagrams::echo(
        &site.client.namespace,
        web,
        9
    )?);
    site.until("more to come in", |status| {
        let games = status.services.iter().filter(|s| s.name.as_str() == "game");
        let all = games
            .flat_map(|s| &s.backends)
            .filter_map(|b| b.connections);
        all.map(|c| c.established).sum::<u64>() > 100
    })
}

#[test]
fn the_longest_prefix_lets_in_or_not() -> Result<()> {
    let site = site(|_, family| match family {
        Family::V4 => "allow_sources = [\"192.168.1.0/24\", \"192.168.1.65/32\"]\n\
                       deny_sources = [\"192.168.1.64/26\"]\n"
            .into(),
        Family::V6 => String::new(),
    })?;
    add_clients(&site, [65, 70])?;
    let comes_in = |number| -> Result<bool> {
        let from = Some(SocketAddr::new(v4(number), 0));
        let soon = Duration::from_millis(500);
        let held = held::begin(&site.client.namespace, from, game(&site), soon)?;
        Ok(held.is_some())
    };
    assert!(comes_in(10)?);
    assert_eq!(site.verdict("denied")?, 0);
    assert!(!comes_in(70)?);
    assert!(site.verdict("denied")? > 0);
    assert!(comes_in(65)?);
    Ok(())
}
