//! VLANs: what comes in one leaves in another, or in none, and answers take the same way back. On a
//! kernel without VLAN devices, by which steerd knows which VLAN a server is in, this runs in a guest.

use std::time::Duration;

use steerd_tests::{
    error::{Error, Result},
    guest::{self, Guest},
    site::{
        Site,
        plan::{Family, Port, Shape, Way},
        sums::Sums,
    },
    traffic,
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
    const PATIENCE: Duration = Duration::from_secs(600);
    if !guest::has_vlans_here()? {
        return Guest::find()?.test("vlan::traffic_between_vlans", PATIENCE);
    }
    let run = |(shape, ways): (_, &[Way])| modes::run_all(shape, ways.iter().copied(), all_traffic);
    let failed: Vec<String> = CASES.into_iter().flat_map(run).collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    Ok(())
}

/// TCP in bulk both ways, datagrams whole and in fragments, echo requests, ICMP errors.
fn all_traffic(site: &mut Site, way: Way) -> Result<()> {
    /// How much TCP carries each way. A rate would be the guest's own.
    const BYTES: u64 = 4 << 20;
    for family in Family::ALL {
        modes::warm_up(site, family)?;
        let to = site.target(family, Port::Bulk);
        for reverse in [false, true] {
            let carried = traffic::volume(&site.client.namespace, to, BYTES, reverse)?;
            println!("  {family:?} reverse {reverse}: {carried:?}");
            // At the end the receiver does not count what is still under way.
            if carried.bytes < BYTES / 2 {
                return Err(failed(format!("{family:?} reverse {reverse}: {carried:?}")));
            }
        }
        modes::small(site, family)?;
        modes::errors(site, family)?;
    }
    let steered = site.verdict(way.verdict())?;
    let sums = site.sums()?;
    if steered > 3000 && sums == Sums::default() {
        return Ok(());
    }
    Err(failed(format!(
        "{steered} packets {}; {sums}",
        way.verdict()
    )))
}

const fn failed(said: String) -> Error {
    Error::Traffic {
        program: "the site",
        said,
    }
}
