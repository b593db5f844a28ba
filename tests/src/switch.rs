//! The switch and the hosts plugged into it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{
    error::Result,
    link::{self, Offload},
    netns::{self, Bpffs, Namespace},
    xdp::{Pass, Tag},
};

/// The interface of every host.
pub const INTERFACE: &str = "eth0";
/// The virtual address of the example configuration.
pub const VIP: IpAddr = v4(25);
/// The virtual address of the dual-stack variant.
pub const VIP6: IpAddr = v6(0x25);

/// The host number `last` on the segment, IPv4.
#[must_use]
pub const fn v4(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(192, 168, 1, last))
}

/// The host number `last` (as written: `0x26` is `::26`) on the segment, IPv6.
#[must_use]
pub const fn v6(last: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x192, 0x168, 1, 0, 0, 0, last))
}

/// What a host is called and which addresses it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostSpec {
    /// The name, also of its port on the switch.
    pub name: &'static str,
    /// The last byte of its IPv4 address, the last group of its IPv6 one (in the same digits), and
    /// the last byte of its MAC.
    pub number: u8,
}

impl HostSpec {
    /// Its IPv4 address.
    #[must_use]
    pub const fn v4(self) -> IpAddr {
        v4(self.number)
    }

    /// Its MAC.
    #[must_use]
    pub const fn mac(self) -> [u8; 6] {
        [2, 0, 0, 0, 1, self.number]
    }

    /// Its IPv6 address: host .26 is ::26.
    #[must_use]
    pub const fn v6(self) -> IpAddr {
        let n = self.number as u16;
        v6(n / 100 * 0x100 + n / 10 % 10 * 0x10 + n % 10)
    }
}

/// A host with one interface.
#[derive(Debug)]
pub struct Host {
    /// Its name and addresses.
    pub spec: HostSpec,
    /// Where its programs run.
    pub namespace: Namespace,
    port: Pass,
}

impl Host {
    /// Makes it a backend that needs no steerd: it takes packets to [`VIP`], and tells nobody that
    /// it has it.
    ///
    /// # Errors
    ///
    /// It is one already.
    pub fn prepare_backend(&self) -> Result<()> {
        self.namespace.run(|| {
            netns::sysctl("net/ipv4/conf/all/arp_ignore", "1")?;
            netns::sysctl("net/ipv4/conf/all/arp_announce", "2")?;
            link::add_address("lo", VIP, 32)
        })
    }
}

/// The switch.
#[derive(Debug)]
pub struct Switch {
    namespace: Namespace,
}

impl Switch {
    /// A switch without hosts.
    ///
    /// # Errors
    ///
    /// Not root, or the kernel lacks bridges.
    pub fn new() -> Result<Self> {
        let namespace = Namespace::new(Bpffs::Missing)?;
        namespace.run(|| link::add_bridge(BRIDGE))?;
        Ok(Self { namespace })
    }

    /// Plugs in a new host, which has its usual addresses and MAC.
    ///
    /// # Errors
    ///
    /// The kernel lacks veth or XDP on veth.
    pub fn plug(&self, spec: HostSpec, bpffs: Bpffs) -> Result<Host> {
        let namespace = Namespace::new(bpffs)?;
        let port = self.connect(spec, &namespace)?;
        Ok(Host {
            spec,
            namespace,
            port,
        })
    }

    /// Takes a host's interface away and gives it a new one of the same name, MAC and addresses,
    /// as when a network card is reset by a driver that is loaded anew.
    ///
    /// # Errors
    ///
    /// The host is not plugged in; see [`Switch::plug`].
    pub fn replug(&self, host: &mut Host) -> Result<()> {
        self.unplug(host.spec)?;
        host.port = self.connect(host.spec, &host.namespace)?;
        Ok(())
    }

    fn connect(&self, spec: HostSpec, host: &Namespace) -> Result<Pass> {
        let addresses = [(spec.v4(), 24), (spec.v6(), 64)];
        self.join(spec, host, INTERFACE, &addresses)
    }

    /// Gives a host an interface on this switch, whose port has the host's name. The interface has
    /// the host's MAC, and leaves no work to the network card that it is not.
    ///
    /// # Errors
    ///
    /// See [`Switch::plug`]; or the host has an interface of this name, or here.
    pub fn join(
        &self,
        spec: HostSpec,
        host: &Namespace,
        interface: &str,
        addresses: &[(IpAddr, u8)],
    ) -> Result<Pass> {
        self.namespace.run(|| {
            // A name that no namespace has yet; it gets its real one where it belongs.
            let far = format!("{}-far", spec.name);
            link::add_cable(spec.name, &far)?;
            let of_port = [Offload::Tso, Offload::Gso, Offload::Gro, Offload::VlanTags];
            link::disable_offloads(spec.name, &of_port)?;
            let offloads = [
                Offload::TxChecksum,
                Offload::Tso,
                Offload::Gso,
                Offload::Gro,
            ];
            // A daemon may be waiting for the interface, to attach its program at once.
            link::disable_offloads(&far, &offloads)?;
            link::hand_over(&far, host.net(), interface)?;
            link::plug(spec.name, BRIDGE)
        })?;
        host.run(|| link::configure(interface, spec.mac(), addresses))?;
        // Last: it takes segmentation from the far end, which could not be switched off any more.
        self.namespace.run(|| Pass::attach(spec.name))
    }

    /// Lets a host's port here, which may be plugged in here or not, also carry frames of `other`:
    /// those with the tag of this VLAN, which they have on the cable only.
    ///
    /// # Errors
    ///
    /// The host has no port here, or the kernel has no VLANs.
    pub fn trunk(&self, spec: HostSpec, vlan: u16, other: &Self) -> Result<()> {
        let name = format!("{}.{vlan}", spec.name);
        self.namespace.run(|| {
            link::add_vlan(&name, spec.name, vlan)?;
            link::hand_over(&name, other.namespace.net(), &name)
        })?;
        other.namespace.run(|| link::plug(&name, BRIDGE))
    }

    /// Makes a host's port an access port of a VLAN. All other ports carry frames as they are.
    ///
    /// # Errors
    ///
    /// The host is not plugged in, or the kernel has no tcx.
    pub fn tag(&self, spec: HostSpec, vlan: u16) -> Result<Tag> {
        self.namespace.run(|| Tag::attach(spec.name, vlan))
    }

    /// Takes a host's port down: it loses carrier.
    ///
    /// # Errors
    ///
    /// The host is not plugged in.
    pub fn cut(&self, spec: HostSpec) -> Result<()> {
        self.namespace.run(|| link::down(spec.name))
    }

    /// Brings a host's port up again.
    ///
    /// # Errors
    ///
    /// The host is not plugged in.
    pub fn restore(&self, spec: HostSpec) -> Result<()> {
        self.namespace.run(|| link::up(spec.name))
    }

    /// Takes a host's interface away.
    ///
    /// # Errors
    ///
    /// The host is not plugged in.
    pub fn unplug(&self, spec: HostSpec) -> Result<()> {
        self.namespace.run(|| link::remove(spec.name))
    }
}

const BRIDGE: &str = "switch";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_in_the_same_digits() {
        let spec = HostSpec {
            name: "x",
            number: 26,
        };
        assert_eq!(spec.v4().to_string(), "192.168.1.26");
        assert_eq!(spec.v6().to_string(), "fd00:192:168:1::26");
        assert_eq!(VIP6.to_string(), "fd00:192:168:1::25");
    }
}
