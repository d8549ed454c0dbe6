//! An internet: one router, and around it machines and NATs with more machines behind them.
//!
//! Whoever is attached to the router has a subnet of its own, 198.18.N.0/24 (RFC 2544's) and, if asked for,
//! 2001:db8:N::/64, where N counts from 1 in the order of attachment; its own address ends in 2, the router's in 1. Behind
//! NATs it is 192.168.M.0/24, M counting NATs; the NAT is 1, its clients follow from 2.
//!
//! With a delay, each attachment to the router is a [`Wire`] that takes half of it in each direction, so that all traffic
//! between any two of them, XMPP and relayed packets too, takes the whole: the machine that does it is in between, and
//! changes no address. Without a delay and loss the attachments are veth pairs, at the kernel's own speed.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use super::{
    Host, Lab, LinkOptions,
    nat::{Nat, NatOptions},
    network::{plug, plug_taps},
    route,
};
use crate::wire::{Impairments, Wire, WireOptions};

/// How an [`Internet`] is made: by default without delay, without loss, and for IPv4 only.
#[derive(Clone, Copy, Debug)]
pub struct InternetOptions {
    one_way_delay: Duration,
    loss: f64,
    seed: u64,
    families: Families,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Families {
    Ipv4,
    Both,
}

impl InternetOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self { one_way_delay: Duration::ZERO, loss: 0.0, seed: 1, families: Families::Ipv4 }
    }

    /// What a packet takes from any machine or NAT at the router to any other: half the round-trip time.
    #[must_use]
    pub fn one_way_delay(mut self, delay: Duration) -> Self {
        self.one_way_delay = delay;
        self
    }

    /// The share of packets that each attachment to the router loses in each direction, 0 to 1, and what decides which.
    #[must_use]
    pub fn loss(mut self, loss: f64, seed: u64) -> Self {
        (self.loss, self.seed) = (loss, seed);
        self
    }

    /// Machines at the router have an IPv6 address too. NATs are for IPv4 only.
    #[must_use]
    pub fn ipv6(mut self) -> Self {
        self.families = Families::Both;
        self
    }
}

impl Default for InternetOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// What one attaches to.
#[derive(Clone, Copy, Debug)]
pub enum Place<'a> {
    /// The router.
    Internet,
    /// The inside of a NAT.
    Behind(&'a Nat),
}

/// A machine's attachment.
#[derive(Clone, Debug)]
pub struct Attached {
    /// The machine.
    pub host: Host,
    /// The interface's name on it.
    pub interface: String,
    /// The address, as those at the same place see it.
    pub ipv4: Ipv4Addr,
    /// At the router, the IPv6 address, if the internet has such.
    pub ipv6: Option<Ipv6Addr>,
}

/// How a [`Site`] reaches the internet.
#[derive(Clone, Copy, Debug)]
pub enum Access {
    /// It is at the router.
    Direct,
    /// Through a NAT.
    Nat(NatOptions),
    /// Through a NAT of its own behind a carrier's.
    DoubleNat {
        /// The carrier's.
        outer: NatOptions,
        /// Its own.
        inner: NatOptions,
    },
}

/// A machine with the NATs before it.
#[derive(Clone, Debug)]
pub struct Site {
    /// The machine.
    pub machine: Attached,
    /// Its NATs, the outermost first.
    pub nats: Vec<Nat>,
}

impl Site {
    /// The machine.
    pub fn host(&self) -> &Host {
        &self.machine.host
    }

    /// Where its packets come from, as seen at the router.
    pub fn public_ipv4(&self) -> Ipv4Addr {
        self.nats.first().map_or(self.machine.ipv4, |nat| nat.wan().ipv4)
    }
}

/// What a cut stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// UDP alone: direct paths and STUN.
    Udp,
    /// Everything.
    All,
}

/// The router, what is attached to it, and the lab that they are in.
#[derive(Debug)]
pub struct Internet {
    // First, so that TAPs go before their namespaces.
    wires: Mutex<BTreeMap<String, Wire>>,
    router: Host,
    options: InternetOptions,
    attachments: AtomicU8,
    nats: AtomicU8,
    lab: Lab,
}

/// Pairs of addresses between which the router carries nothing, or no UDP.
const CUTS: &str = "table inet cuts {
    set all4 { type ipv4_addr . ipv4_addr; }
    set udp4 { type ipv4_addr . ipv4_addr; }
    set all6 { type ipv6_addr . ipv6_addr; }
    set udp6 { type ipv6_addr . ipv6_addr; }
    chain forward {
        type filter hook forward priority filter
        ip saddr . ip daddr @all4 counter drop
        ip6 saddr . ip6 daddr @all6 counter drop
        meta l4proto udp ip saddr . ip daddr @udp4 counter drop
        meta l4proto udp ip6 saddr . ip6 daddr @udp6 counter drop
    }
}
";

impl Internet {
    /// A router with nobody around it, in a lab with this label.
    ///
    /// # Errors
    /// Without root, or when the kernel refuses.
    pub fn new(label: &str, options: InternetOptions) -> Result<Self> {
        let lab = Lab::new(label)?;
        let router = lab.host("router")?;
        router.load_firewall(CUTS)?;
        route(&router)?;
        Ok(Self {
            wires: Mutex::default(),
            router,
            options,
            attachments: AtomicU8::new(0),
            nats: AtomicU8::new(0),
            lab,
        })
    }

    /// The lab that all of it is in.
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// The router.
    pub fn router(&self) -> &Host {
        &self.router
    }

    /// A new machine.
    ///
    /// # Errors
    /// When the name is taken, or the kernel refuses.
    pub fn machine(&self, name: &str, place: Place<'_>) -> Result<Attached> {
        self.attach(&self.lab.host(name)?, place)
    }

    /// A new machine with the NATs before it, which are named after it.
    ///
    /// # Errors
    /// When the name is taken, or the kernel refuses.
    pub fn site(&self, name: &str, access: Access) -> Result<Site> {
        let nats = match access {
            Access::Direct => vec![],
            Access::Nat(options) => {
                vec![self.nat(&format!("{name}nat"), options, Place::Internet)?]
            }
            Access::DoubleNat { outer, inner } => {
                let outer = self.nat(&format!("{name}carrier"), outer, Place::Internet)?;
                let inner = self.nat(&format!("{name}nat"), inner, Place::Behind(&outer))?;
                vec![outer, inner]
            }
        };
        let machine = self.machine(name, nats.last().map_or(Place::Internet, Place::Behind))?;
        Ok(Site { machine, nats })
    }

    /// A new NAT.
    ///
    /// # Errors
    /// When the name is taken, or the kernel refuses.
    pub fn nat(&self, name: &str, options: NatOptions, place: Place<'_>) -> Result<Nat> {
        let number = self.nats.fetch_add(1, Ordering::Relaxed) + 1;
        ensure!(number < 250, "an internet has at most 249 NATs");
        Nat::start(self.machine(name, place)?, number, options)
    }

    /// Attaches a machine that exists, which takes this as its way to everywhere: with [`Internet::detach`] it moves.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn attach(&self, host: &Host, place: Place<'_>) -> Result<Attached> {
        match place {
            Place::Internet => self.attach_to_router(host),
            Place::Behind(nat) => nat.attach(host),
        }
    }

    /// Takes an attachment away, and its interface with it.
    ///
    /// # Errors
    /// When there is none such.
    pub fn detach(&self, attached: &Attached) -> Result<()> {
        if self.wires().remove(&wire_key(attached)).is_some() {
            return Ok(());
        }
        attached.host.ip(&["link", "delete", "dev", &attached.interface]).map(drop)
    }

    /// Gives an attachment to the router another IPv4 address in another subnet, on the same interface, as when a lease
    /// ends; the moment of the change. Everything else is prepared before it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn readdress(&self, attached: &mut Attached) -> Result<Instant> {
        let (gateway, ipv4) = self.next_subnet()?;
        let route = self.router.ip(&["-json", "route", "get", &attached.ipv4.to_string()])?;
        let route: serde_json::Value = serde_json::from_str(&route).context("`ip -json`")?;
        let interface = route[0]["dev"].as_str().context("`ip -json` lacks a device")?.to_owned();
        let port = Attached { host: self.router.clone(), interface, ipv4: gateway, ipv6: None };
        self.router.add_address(&port.interface, &format!("{gateway}/24"))?;
        let (old, dev) = (attached.ipv4, attached.interface.clone());
        attached.ipv4 = ipv4;
        self.introduce(&port, &Attached { ipv6: None, ..attached.clone() })?;
        let lines = [
            format!("address delete {old}/24 dev {dev}"),
            format!("address add {ipv4}/24 dev {dev}"),
            format!("route replace default via {gateway} dev {dev}"),
        ];
        let changed = Instant::now();
        attached.host.ip_batch(&lines)?;
        Ok(changed)
    }

    /// Gives a NAT another outside, as when a provider hands out a new address: its clients notice nothing at first.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn move_nat(&self, nat: &Nat, place: Place<'_>) -> Result<()> {
        self.detach(&nat.wan())?;
        nat.move_outside(self.attach(nat.host(), place)?)
    }

    /// Changes what happens to packets of one attachment to the router, in both directions.
    ///
    /// # Errors
    /// When it is not a wire: the internet has neither delay nor loss, or this is behind a NAT.
    pub fn impair(&self, attached: &Attached, change: impl Fn(&mut Impairments)) -> Result<()> {
        let wires = self.wires();
        let wire = wires.get(&wire_key(attached)).context("this attachment is not a wire")?;
        wire.change(change);
        Ok(())
    }

    /// Carries no more such traffic between two addresses at the router, in either direction; silently.
    ///
    /// # Errors
    /// When they are of different families.
    pub fn cut(&self, a: impl Into<IpAddr>, b: impl Into<IpAddr>, traffic: Traffic) -> Result<()> {
        self.edit_cuts("add", a.into(), b.into(), traffic)
    }

    /// Undoes a cut.
    ///
    /// # Errors
    /// When there is none such.
    pub fn heal(&self, a: impl Into<IpAddr>, b: impl Into<IpAddr>, traffic: Traffic) -> Result<()> {
        self.edit_cuts("delete", a.into(), b.into(), traffic)
    }

    fn edit_cuts(&self, verb: &str, a: IpAddr, b: IpAddr, traffic: Traffic) -> Result<()> {
        let family = match (a, b) {
            (IpAddr::V4(_), IpAddr::V4(_)) => 4,
            (IpAddr::V6(_), IpAddr::V6(_)) => 6,
            _ => bail!("{a} and {b} are of different families"),
        };
        let set = match traffic {
            Traffic::Udp => format!("udp{family}"),
            Traffic::All => format!("all{family}"),
        };
        let pairs = format!("{{ {a} . {b}, {b} . {a} }}");
        self.router.run("nft", [verb, "element", "inet", "cuts", &set, &pairs]).map(drop)
    }

    fn attach_to_router(&self, host: &Host) -> Result<Attached> {
        let (gateway, ipv4) = self.next_subnet()?;
        let number = ipv4.octets()[2];
        let ipv6 = |end| Ipv6Addr::new(0x2001, 0xdb8, number.into(), 0, 0, 0, 0, end);
        let both = self.options.families == Families::Both;
        let attached = Attached {
            host: host.clone(),
            interface: host.next_interface(),
            ipv4,
            ipv6: both.then(|| ipv6(2)),
        };
        let port = Attached {
            host: self.router.clone(),
            interface: self.router.next_interface(),
            ipv4: gateway,
            ipv6: both.then(|| ipv6(1)),
        };
        let ends = ((&port.host, &*port.interface), (&attached.host, &*attached.interface));
        let up = || {
            port.set_up_addresses(24)?;
            attached.set_up(24, gateway, port.ipv6)?;
            self.introduce(&port, &attached)
        };
        match self.wire_options(number) {
            None => {
                plug(ends.0, ends.1, &LinkOptions::new())?;
                up()?;
            }
            Some(options) => {
                let taps = plug_taps(ends.0, ends.1, &options)?;
                up()?;
                self.wires().insert(wire_key(&attached), Wire::start(taps, &options)?);
            }
        }
        Ok(attached)
    }

    /// The router's address and the other one of the next subnet.
    fn next_subnet(&self) -> Result<(Ipv4Addr, Ipv4Addr)> {
        let number = self.attachments.fetch_add(1, Ordering::Relaxed) + 1;
        ensure!(number < 250, "an internet has at most 249 subnets");
        Ok((Ipv4Addr::new(198, 18, number, 1), Ipv4Addr::new(198, 18, number, 2)))
    }

    /// The wire of this attachment, if it has anything to do.
    fn wire_options(&self, number: u8) -> Option<WireOptions> {
        let InternetOptions { one_way_delay, loss, seed, .. } = self.options;
        let impairments = Impairments { delay: one_way_delay / 2, loss, ..Impairments::default() };
        // Each wire loses others.
        let options =
            WireOptions::new(seed.wrapping_add(u64::from(number) << 32)).impairments(impairments);
        (!one_way_delay.is_zero() || loss > 0.0).then_some(options)
    }

    /// Both ends know each other's link-layer address: what a delay is measured with does not begin with ARP.
    fn introduce(&self, port: &Attached, attached: &Attached) -> Result<()> {
        let introduce = |to: &Attached, whom: &Attached| -> Result<()> {
            let mac = whom.mac()?;
            let line = |address| {
                format!("neigh replace {address} lladdr {mac} dev {} nud permanent", to.interface)
            };
            to.host.ip_batch(&whom.addresses().map(line).collect::<Vec<_>>())
        };
        introduce(port, attached)?;
        introduce(attached, port)
    }

    fn wires(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Wire>> {
        self.wires.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Attached {
    /// The addresses that it has here, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        [Some(IpAddr::from(self.ipv4)), self.ipv6.map(IpAddr::from)].into_iter().flatten()
    }

    /// From now on it has IPv6 alone.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn give_up_ipv4(&self) -> Result<()> {
        self.host.ip(&["-4", "address", "flush", "dev", &self.interface]).map(drop)
    }

    /// Addresses, up, and the way to everywhere.
    pub(super) fn set_up(
        &self,
        prefix_len: u8,
        gateway: Ipv4Addr,
        gateway_v6: Option<Ipv6Addr>,
    ) -> Result<()> {
        self.set_up_addresses(prefix_len)?;
        let dev = &self.interface;
        let mut lines = vec![format!("route replace default via {gateway} dev {dev}")];
        lines.extend(gateway_v6.map(|via| format!("route replace ::/0 via {via} dev {dev}")));
        self.host.ip_batch(&lines)
    }

    fn set_up_addresses(&self, prefix_len: u8) -> Result<()> {
        let Self { interface, ipv4, ipv6, .. } = self;
        let mut lines = vec![format!("address add {ipv4}/{prefix_len} dev {interface}")];
        match ipv6 {
            Some(ipv6) => lines.push(format!("address add {ipv6}/64 dev {interface} nodad")),
            // Not even a link-local one, or there would be IPv6 on the segment after all.
            None => lines.push(format!("link set {interface} addrgenmode none")),
        }
        lines.push(format!("link set {interface} up"));
        self.host.ip_batch(&lines)
    }

    fn mac(&self) -> Result<String> {
        let text = self.host.ip(&["-json", "link", "show", "dev", &self.interface])?;
        let json: serde_json::Value = serde_json::from_str(&text).context("reading `ip -json`")?;
        Ok(json[0]["address"].as_str().context("`ip -json` lacks an address")?.to_owned())
    }
}

fn wire_key(attached: &Attached) -> String {
    format!("{}/{}", attached.host.netns(), attached.interface)
}
