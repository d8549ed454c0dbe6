//! Cables and bridges between hosts.
//!
//! Each link or underlay is a subnet of its own: 10.x.y.0/24 and fd00:0:0:n::/64. The machines behind bridge sites are
//! on one segment once the sites are tunnelled together, so they share 10.255.0.0/16 and fd00:0:0:ff00::/64.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    sync::atomic::Ordering,
};

use anyhow::{Result, ensure};

use super::{Host, Lab};
use crate::wire::{Tap, Wire, WireOptions};

/// One end of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name on the host.
    pub name: String,
    /// Its IPv4 address.
    pub ipv4: Ipv4Addr,
    /// Its IPv6 address.
    pub ipv6: Ipv6Addr,
}

/// The two ends of a link, in the order in which the hosts were given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The first host's.
    pub a: Interface,
    /// The second host's.
    pub b: Interface,
}

/// How links are made: by default with an MTU of 1500 and every offload that veth has.
#[derive(Clone, Copy, Debug)]
pub struct LinkOptions {
    mtu: u32,
    offloads: Offloads,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Offloads {
    On,
    Off,
}

impl LinkOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self { mtu: 1500, offloads: Offloads::On }
    }

    /// This MTU at both ends, bytes.
    #[must_use]
    pub fn mtu(mut self, mtu: u32) -> Self {
        self.mtu = mtu;
        self
    }

    /// No segmentation, checksum or receive offload: every packet crosses on its own.
    #[must_use]
    pub fn without_offloads(mut self) -> Self {
        self.offloads = Offloads::Off;
        self
    }
}

impl Default for LinkOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// How a [`BridgeSite`] is made.
#[derive(Clone, Copy, Debug)]
pub struct SiteOptions {
    vms: u32,
    links: LinkOptions,
}

impl SiteOptions {
    /// This many machines, on links with an MTU of 1500 with offloads.
    pub fn new(vms: u32) -> Self {
        Self { vms, links: LinkOptions::new() }
    }

    /// Other links.
    #[must_use]
    pub fn links(mut self, links: LinkOptions) -> Self {
        self.links = links;
        self
    }
}

/// A Linux bridge on a host, with machines attached.
#[derive(Clone, Debug)]
pub struct BridgeSite {
    /// The bridge's name on the host.
    pub bridge: String,
    /// The machines, and the interface of each.
    pub vms: Vec<(Host, Interface)>,
}

impl Lab {
    /// A cable between two hosts.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn link(&self, a: &Host, b: &Host, options: LinkOptions) -> Result<Link> {
        let subnet = self.next_subnet()?;
        let link = Link {
            a: subnet.interface(a.next_interface(), 1),
            b: subnet.interface(b.next_interface(), 2),
        };
        plug((a, &link.a.name), (b, &link.b.name), &options)?;
        set_up(a, &link.a, subnet.prefix_len)?;
        set_up(b, &link.b, subnet.prefix_len)?;
        Ok(link)
    }

    /// One segment for all of these hosts: a bridge in a namespace of its own.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn underlay(&self, hosts: &[&Host], options: LinkOptions) -> Result<Vec<Interface>> {
        ensure!(hosts.len() < 250, "an underlay has at most 249 hosts");
        let subnet = self.next_subnet()?;
        let middle = self.host(&format!("underlay{}", subnet.number))?;
        make_bridge(&middle, "br0")?;
        let mut interfaces = Vec::with_capacity(hosts.len());
        for (host, number) in hosts.iter().zip(1..) {
            let interface = subnet.interface(host.next_interface(), number);
            attach(&middle, "br0", host, &interface, &options, subnet.prefix_len)?;
            interfaces.push(interface);
        }
        Ok(interfaces)
    }

    /// A Linux bridge on this host with machines behind it: what a switch's TAP is put into.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn bridge_site(
        &self,
        host: &Host,
        bridge: &str,
        options: SiteOptions,
    ) -> Result<BridgeSite> {
        make_bridge(host, bridge)?;
        let mut vms = Vec::new();
        for _ in 0..options.vms {
            let number = self.vms.fetch_add(1, Ordering::Relaxed) + 1;
            ensure!(number < 250, "a lab has at most 249 machines behind its bridges");
            let vm = self.host(&format!("vm{number}"))?;
            let interface = VM_SUBNET.interface(vm.next_interface(), number as u8);
            attach(host, bridge, &vm, &interface, &options.links, VM_SUBNET.prefix_len)?;
            vms.push((vm, interface));
        }
        Ok(BridgeSite { bridge: bridge.into(), vms })
    }

    /// A cable between two hosts that loses, delays and reorders as it is told. Both ends are TAPs without offloads, so
    /// that each packet on it is a real one.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn wire(&self, a: &Host, b: &Host, options: &WireOptions) -> Result<(Wire, Link)> {
        let subnet = self.next_subnet()?;
        let link = Link {
            a: subnet.interface(a.next_interface(), 1),
            b: subnet.interface(b.next_interface(), 2),
        };
        let taps = plug_taps((a, &link.a.name), (b, &link.b.name), options)?;
        set_up(a, &link.a, subnet.prefix_len)?;
        set_up(b, &link.b, subnet.prefix_len)?;
        let wire = Wire::start(taps, options)?;
        Ok((wire, link))
    }

    fn next_subnet(&self) -> Result<Subnet> {
        let number = self.links.fetch_add(1, Ordering::Relaxed);
        ensure!(number < 60_000, "a lab has at most 60,000 links");
        Ok(Subnet { number: number as u16, prefix_len: 24 })
    }
}

#[derive(Clone, Copy)]
struct Subnet {
    number: u16,
    prefix_len: u8,
}

const VM_SUBNET: Subnet = Subnet { number: 0xff00, prefix_len: 16 };

impl Subnet {
    fn interface(self, name: String, host: u8) -> Interface {
        let [high, low] = self.number.to_be_bytes();
        Interface {
            name,
            ipv4: Ipv4Addr::new(10, high, low, host),
            ipv6: Ipv6Addr::new(0xfd00, 0, 0, self.number, 0, 0, 0, host.into()),
        }
    }
}

/// A bridge that forwards at once, and floods multicast rather than snoop.
pub(super) fn make_bridge(host: &Host, name: &str) -> Result<()> {
    host.ip_batch(&[
        format!("link add {name} type bridge stp_state 0 forward_delay 0 mcast_snooping 0"),
        format!("link set {name} addrgenmode none"),
        format!("link set {name} up"),
    ])
}

/// Connects `host` to a port of the bridge on `middle`.
fn attach(
    middle: &Host,
    bridge: &str,
    host: &Host,
    interface: &Interface,
    options: &LinkOptions,
    prefix_len: u8,
) -> Result<()> {
    let port = middle.next_interface();
    plug((middle, &port), (host, &interface.name), options)?;
    middle.ip_batch(&[
        format!("link set {port} master {bridge}"),
        // Without an address a port sends nothing of its own.
        format!("link set {port} addrgenmode none"),
        format!("link set {port} up"),
    ])?;
    set_up(host, interface, prefix_len)
}

/// A veth pair, without addresses, down.
pub(super) fn plug(a: (&Host, &str), b: (&Host, &str), options: &LinkOptions) -> Result<()> {
    let mtu = options.mtu;
    let ((a_host, a_name), (b_host, b_name)) = (a, b);
    a_host.ip_batch(&[format!(
        "link add {a_name} mtu {mtu} type veth peer name {b_name} mtu {mtu} netns {}",
        b_host.netns()
    )])?;
    if options.offloads == Offloads::Off {
        for (host, name) in [a, b] {
            host.without_offloads(name)?;
        }
    }
    Ok(())
}

/// The ends of a wire, without addresses, down. It is to start when both are up, or it would carry to one that is not.
pub(super) fn plug_taps(
    a: (&Host, &str),
    b: (&Host, &str),
    options: &WireOptions,
) -> Result<[Tap; 2]> {
    let tap = |(host, name): (&Host, &str)| -> Result<Tap> {
        let tap = host.enter(|| Tap::create(name))??;
        // So long that the wire's queue, and not the TAP's, is where frames are lost.
        host.ip_batch(&[format!("link set {name} txqueuelen 8192 mtu {}", options.tap_mtu)])?;
        Ok(tap)
    };
    Ok([tap(a)?, tap(b)?])
}

fn set_up(host: &Host, interface: &Interface, prefix_len: u8) -> Result<()> {
    let Interface { name, ipv4, ipv6 } = interface;
    host.ip_batch(&[
        format!("address add {ipv4}/{prefix_len} dev {name}"),
        format!("address add {ipv6}/64 dev {name} nodad"),
        format!("link set {name} up"),
    ])
}
