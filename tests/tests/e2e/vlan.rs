//! VLANs: what comes in one leaves in another, or in none, and answers take the same way back. On a
//! kernel without VLAN devices, by which steerd knows which VLAN a server is in, this runs in a guest.

use std::time::Duration;

use steerd_tests::{
    error::{Error, Result},
    guest::{self, Guest},
    site::{
        Site,
        plan::{Family, Shape, Way},
        sums::Sums,
    },
};

use crate::modes;

/// From a tag to another, from a tag to none, and from none to one; in the modes whose answers the
/// program does not see, where it adds headers, and where it sees the answers.
const CASES: [(Shape, &[Way]); 3] = [
    (vlans(10, 20), &[Way::Dsr, Way::Gue, Way::Nat]),
    (vlans(10, 0), &[Way::Dsr, Way::Nat]),
    (vlans(0, 20), &[Way::Dsr, Way::Nat]),
];

const fn vlans(front: u16, back: u16) -> Shape {
    Shape::OneCable { front, back }
}

#[test]
fn traffic_between_vlans() -> Result<()> {
    const PATIENCE: Duration = Duration::from_secs(300);
    if !guest::has_vlans_here()? {
        return Guest::find()?.test("vlan::traffic_between_vlans", PATIENCE);
    }
    let run = |(shape, ways): (_, &[Way])| modes::run_all(shape, ways.iter().copied(), traffic);
    let failed: Vec<String> = CASES.into_iter().flat_map(run).collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    Ok(())
}

/// TCP in bulk both ways, datagrams whole and in fragments, echo requests, ICMP errors.
fn traffic(site: &mut Site, way: Way) -> Result<()> {
    /// A guest carries fifteen times as much.
    const LEAST: u64 = 1 << 20;
    for family in Family::ALL {
        modes::warm_up(site, family)?;
        modes::at_least(LEAST, site, family)?;
        modes::small(site, family)?;
        modes::errors(site, family)?;
    }
    let steered = site.verdict(way.verdict())?;
    let sums = site.sums()?;
    if steered > 1000 && sums == Sums::default() {
        return Ok(());
    }
    Err(Error::Traffic {
        program: "the site",
        said: format!("{steered} packets {}; {sums}", way.verdict()),
    })
}
