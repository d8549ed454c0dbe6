//! NATs: routers between a segment of private addresses and the outside.
//!
//! Linux by itself is close to a symmetric NAT that prefers to keep ports: what `masquerade` maps depends on the
//! destination, and a packet that comes in too early leaves a conntrack entry that spoils the mapping of the flow that
//! would have admitted it. So the mapping of UDP is kept in sets and maps of nftables, apart from conntrack, the way
//! RFC 4787 describes NATs:
//!
//! * *mapping*: `mapped` gives each inside endpoint its port outside, the same whatever the destination, and `owners`
//!   leads back. A symmetric NAT has neither: each flow gets a random port.
//! * *filtering*: `permits` remembers whom an inside endpoint has sent to. It is asked after the destination was
//!   translated, and what it does not know is dropped before conntrack confirms the flow: no trace is left, and no ICMP
//!   error gives the port away.
//!
//! All of these forget what no outbound packet has refreshed in time, and so does conntrack, which carries the flows once
//! they exist. TCP and ICMP echo are translated as Linux does. IPv4 only.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
};

use anyhow::{Context, Result, ensure};

use super::{
    Attached, Host, LinkOptions,
    network::{make_bridge, plug},
    route,
};

/// How a NAT maps and filters UDP, by the names that everybody uses. RFC 4787's terms follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NatKind {
    /// Endpoint-independent mapping and filtering.
    FullCone,
    /// Endpoint-independent mapping, address-dependent filtering.
    AddressRestricted,
    /// Endpoint-independent mapping, address- and port-dependent filtering.
    PortRestricted,
    /// Address- and port-dependent mapping and filtering.
    Symmetric,
}

impl NatKind {
    /// All of them.
    pub const ALL: [Self; 4] =
        [Self::FullCone, Self::AddressRestricted, Self::PortRestricted, Self::Symmetric];
}

/// How a NAT is made.
#[derive(Clone, Copy, Debug)]
pub struct NatOptions {
    kind: NatKind,
    hairpin: Hairpin,
    clients: Clients,
    mapping_timeout_s: u32,
    lan: Option<u8>,
}

/// Whether inside machines reach one another by their outside addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hairpin {
    Off,
    On,
}

/// Whether inside machines reach one another directly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Clients {
    Together,
    Isolated,
}

impl NatOptions {
    /// A NAT of this kind that does not hairpin and forgets a mapping after the 2 minutes that RFC 4787 demands.
    pub fn new(kind: NatKind) -> Self {
        Self {
            kind,
            hairpin: Hairpin::Off,
            clients: Clients::Together,
            mapping_timeout_s: 120,
            lan: None,
        }
    }

    /// Inside machines reach one another by their outside addresses, and appear with them (RFC 4787, REQ-9). Without
    /// effect on a symmetric NAT: what is filtered by the destination's port can't know the other's mapping.
    #[must_use]
    pub fn hairpin(mut self) -> Self {
        self.hairpin = Hairpin::On;
        self
    }

    /// Inside machines reach nobody but the NAT, as in a Wi-Fi for guests.
    #[must_use]
    pub fn isolated_clients(mut self) -> Self {
        self.clients = Clients::Isolated;
        self
    }

    /// A mapping that no packet has used for so many seconds is forgotten.
    #[must_use]
    pub fn mapping_timeout_s(mut self, seconds: u32) -> Self {
        self.mapping_timeout_s = seconds;
        self
    }

    /// The inside is 192.168.`lan`.0/24; by default each NAT has another number.
    #[must_use]
    pub fn lan(mut self, lan: u8) -> Self {
        self.lan = Some(lan);
        self
    }
}

/// The interface of a NAT's bridge, to which its clients are attached.
const LAN: &str = "lan0";
/// The ports of mappings, for nft's counter and range: far from where inside sockets are.
const FIRST_PORT: u16 = 20_000;
const PORTS: u16 = 20_000;

/// A running NAT: clones name the same one.
#[derive(Clone, Debug)]
pub struct Nat(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    host: Host,
    wan: Mutex<Attached>,
    options: NatOptions,
    lan: u8,
    clients: AtomicU8,
}

impl Nat {
    /// Turns a machine that is attached to its outside into a NAT; `number` is its own in the lab.
    pub(super) fn start(wan: Attached, number: u8, options: NatOptions) -> Result<Self> {
        let lan = options.lan.unwrap_or(number);
        let (host, wan) = (wan.host.clone(), Mutex::new(wan));
        let nat = Self(Arc::new(Inner { host, wan, options, lan, clients: AtomicU8::new(0) }));
        let host = nat.host();
        make_bridge(host, LAN)?;
        host.ip_batch(&[format!("address add {}/24 dev {LAN}", nat.gateway())])?;
        // The firewall stands before the first packet is forwarded.
        host.load_firewall(&nat.ruleset())?;
        for key in ["nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"] {
            let seconds = options.mapping_timeout_s.to_string();
            host.set_sysctl(&format!("netfilter/{key}"), &seconds)?;
        }
        route(host)?;
        Ok(nat)
    }

    /// Its namespace.
    pub fn host(&self) -> &Host {
        &self.0.host
    }

    /// Its side towards the internet, or towards the NAT that it is behind.
    pub fn wan(&self) -> Attached {
        self.0.wan.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Its kind.
    pub fn kind(&self) -> NatKind {
        self.0.options.kind
    }

    /// Its address on the inside.
    pub fn gateway(&self) -> Ipv4Addr {
        self.address(1)
    }

    /// Forgets every mapping and flow, as when it is switched off and on.
    ///
    /// # Errors
    /// When `nft` or `conntrack` fails.
    pub fn restart(&self) -> Result<()> {
        let ruleset = format!("delete table ip nat4\n{}", self.ruleset());
        self.host().load_firewall(&ruleset)?;
        self.host().run("conntrack", ["-F"]).map(drop)
    }

    /// From now on its outside is another one; what it had mapped is forgotten.
    pub(super) fn move_outside(&self, wan: Attached) -> Result<()> {
        *self.0.wan.lock().unwrap_or_else(PoisonError::into_inner) = wan;
        self.restart()
    }

    /// Attaches a machine to the inside.
    pub(super) fn attach(&self, host: &Host) -> Result<Attached> {
        let number = self.0.clients.fetch_add(1, Ordering::Relaxed);
        ensure!(number < 250, "a NAT has at most 250 clients");
        let client = Attached {
            host: host.clone(),
            interface: host.next_interface(),
            ipv4: self.address(number + 2),
            ipv6: None,
        };
        let port = self.host().next_interface();
        plug((self.host(), &port), (host, &client.interface), &LinkOptions::new())?;
        let isolated = match self.0.options.clients {
            Clients::Together => "off",
            Clients::Isolated => "on",
        };
        self.host().ip_batch(&[
            format!("link set {port} master {LAN} addrgenmode none"),
            format!("link set {port} type bridge_slave isolated {isolated}"),
            format!("link set {port} up"),
        ])?;
        client.set_up(24, self.gateway(), None).context("attaching a machine to a NAT")?;
        Ok(client)
    }

    fn address(&self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(192, 168, self.0.lan, host)
    }

    fn ruleset(&self) -> String {
        let inside = Ipv4Addr::new(192, 168, self.0.lan, 0);
        let Attached { ipv4: outside, interface: wan, .. } = self.wan();
        let options = &self.0.options;
        format!(
            "define wan = \"{wan}\"
define lan = \"{LAN}\"
define outside = {outside}
define inside = {inside}/24
table ip nat4 {{
    chain input {{
        type filter hook input priority filter
        iifname $wan drop
        ip daddr $outside drop
    }}
    chain forward {{
        type filter hook forward priority filter; policy drop
        iifname $lan oifname $wan accept
        oifname $lan ct state established accept
        oifname $lan ct state related icmp type destination-unreachable icmp code frag-needed accept
        {}
    }}
{}}}
",
            admission(options),
            translation(options),
        )
    }
}

/// Who may begin a flow towards the inside, in the chain `forward`.
fn admission(options: &NatOptions) -> String {
    let new = match options.kind {
        NatKind::FullCone => "iifname $wan oifname $lan ct status dnat accept",
        NatKind::AddressRestricted => {
            "iifname $wan oifname $lan ip daddr . udp dport . ip saddr @permits accept"
        }
        NatKind::PortRestricted => {
            "iifname $wan oifname $lan ip daddr . udp dport . ip saddr . udp sport @permits accept"
        }
        NatKind::Symmetric => "",
    };
    // These are looked at again when their source is translated.
    let hairpin = match options.hairpin {
        Hairpin::On => "iifname $lan oifname $lan ct status dnat accept",
        Hairpin::Off => "",
    };
    format!("{new}\n        {hairpin}")
}

/// The sets, and the chains that fill and use them.
fn translation(options: &NatOptions) -> String {
    let last_port = FIRST_PORT + PORTS - 1;
    let (whom, sender) = match options.kind {
        NatKind::Symmetric => {
            return format!(
                "    chain source {{
        type nat hook postrouting priority srcnat
        oifname $wan meta l4proto udp snat to $outside:{FIRST_PORT}-{last_port} fully-random
        oifname $wan snat to $outside
    }}
"
            );
        }
        NatKind::AddressRestricted => ("ip daddr", "ip saddr"),
        NatKind::FullCone | NatKind::PortRestricted => {
            ("ip daddr . udp dport", "ip saddr . udp sport")
        }
    };
    let whom_type = whom.replace("ip daddr", "ipv4_addr").replace("udp dport", "inet_service");
    let from = match options.hairpin {
        Hairpin::On => "",
        Hairpin::Off => "iifname $wan ",
    };
    let unwanted_hairpin = match options.kind {
        NatKind::FullCone => String::new(),
        _ => format!("oifname $lan ct state new ip daddr . udp dport . {sender} != @permits drop"),
    };
    let bounds =
        format!("flags dynamic,timeout; timeout {}s; size 65535;", options.mapping_timeout_s);
    // Ports are counted up rather than tried: two endpoints never share one, whomever they talk to.
    format!(
        "    map mapped {{ type ipv4_addr . inet_service : inet_service; {bounds} }}
    map owners {{ type inet_service : ipv4_addr . inet_service; {bounds} }}
    set permits {{ type ipv4_addr . inet_service . {whom_type}; {bounds} }}
    chain outbound {{
        type filter hook prerouting priority mangle
        iifname != $lan return
        ct state new add @mapped {{ ip saddr . udp sport : numgen inc mod {PORTS} offset {FIRST_PORT} }}
        update @permits {{ ip saddr . udp sport . {whom} }}
    }}
    chain destination {{
        type nat hook prerouting priority dstnat
        {from}ip daddr $outside dnat ip to udp dport map @owners
    }}
    chain source {{
        type nat hook postrouting priority srcnat
        oifname $wan meta l4proto udp snat ip to $outside : ip saddr . udp sport map @mapped
        oifname $wan meta l4proto != udp snat to $outside
        oifname $lan ip saddr $inside ct status dnat meta l4proto udp snat ip to $outside : ip saddr . udp sport map @mapped
    }}
    chain translated {{
        type filter hook postrouting priority srcnat + 10
        ip saddr != $outside return
        meta l4proto != udp return
        meta l4proto udp ct direction original update @mapped {{ ct original ip saddr . ct original proto-src : udp sport }}
        meta l4proto udp ct direction original update @owners {{ udp sport : ct original ip saddr . ct original proto-src }}
        meta l4proto udp ct direction reply update @mapped {{ ct reply ip saddr . ct reply proto-src : udp sport }}
        meta l4proto udp ct direction reply update @owners {{ udp sport : ct reply ip saddr . ct reply proto-src }}
        {unwanted_hairpin}
    }}
"
    )
}
