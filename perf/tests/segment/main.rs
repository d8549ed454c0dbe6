//! More than two hosts on one segment: bridges with VMs behind the switches, three sites, several TAPs, DHCP. Needs root.
//!
//! * `neighbours`: what the host itself believes and says on its segment.
//! * `faults`: what is wrong with a segment, and told.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "../common/mod.rs"]
mod common;
mod faults;
mod neighbours;

use std::net::Ipv4Addr;

use common::{
    SOON, Site, TAP, expect_arp, expect_pings, expect_reaches, inner, inner6, lab, switch,
    transfer::expect_bytes_cross,
};
use ipop_perf::{
    lab::{BridgeSite, Host, Interface, Lab, LinkOptions, Process, SiteOptions, tools::Ping},
    tunnel::Node,
};

const BRIDGE: &str = "lan";

/// So many hosts on one underlay, each with a bridge that has VMs behind it.
struct Sites {
    nodes: Vec<Node>,
    lans: Vec<BridgeSite>,
    underlay: Vec<Interface>,
    lab: Lab,
}

impl Sites {
    fn new(label: &str, vms: &[u32]) -> Self {
        let lab = lab(label);
        let hosts: Vec<_> =
            (0..vms.len()).map(|number| lab.host(&format!("h{number}")).unwrap()).collect();
        let underlay = lab.underlay(&hosts.iter().collect::<Vec<_>>(), LinkOptions::new()).unwrap();
        let lan = |(host, &vms)| lab.bridge_site(host, BRIDGE, SiteOptions::new(vms)).unwrap();
        let lans = hosts.iter().zip(vms).map(lan).collect();
        let nodes = hosts.iter().map(|host| switch(&lab, host)).collect();
        Self { nodes, lans, underlay, lab }
    }

    /// Each dials those before it and admits those after it. Waits until all are connected.
    fn start(&mut self) -> Vec<Site> {
        let ids: Vec<_> = self.nodes.iter().map(Node::node_id).collect();
        for (number, node) in self.nodes.iter_mut().enumerate() {
            for (peer, (&id, interface)) in ids.iter().zip(&self.underlay).enumerate() {
                match peer.cmp(&number) {
                    std::cmp::Ordering::Less => drop(node.dial(id, interface.ipv4)),
                    std::cmp::Ordering::Greater => drop(node.admit(id)),
                    std::cmp::Ordering::Equal => {}
                }
            }
        }
        let mut sites: Vec<_> = self.nodes.drain(..).map(Site::start).collect();
        for site in &mut sites {
            site.wait_for_report("all peers up", |report| report.peers().all(|peer| peer.is_up()));
        }
        sites
    }
}

#[test]
fn three_bridged_sites_are_one_segment() {
    let mut sites = Sites::new("mesh", &[2, 2, 2]);
    for node in &mut sites.nodes {
        node.bridge(BRIDGE);
    }
    let mut switches = sites.start();
    for (from, to) in [(0, 1), (0, 2), (1, 2), (1, 0), (2, 0), (2, 1)] {
        let (from, to) = (&sites.lans[from], &sites.lans[to]);
        // Each machine of the one to each of the other; what floods must arrive once.
        for (vm, other) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let target = &to.vms[other].1;
            expect_pings(&from.vms[vm].0, &Ping::to(target.ipv4).count(3));
        }
        expect_reaches(from, 0, to, 1);
    }
    let machine = |site: usize, vm: usize| &sites.lans[site].vms[vm];
    let ((from, _), (to, end)) = (machine(0, 1), machine(2, 0));
    expect_bytes_cross(from, to, end.ipv4, 4 << 20, SOON);
    let ((from, _), (to, end)) = (machine(2, 1), machine(1, 0));
    expect_bytes_cross(from, to, end.ipv6, 4 << 20, SOON);
    for site in &mut switches {
        let report = site.report();
        // Each learned the two machines behind it, and two behind either peer.
        assert!(report.tap(0).count("stations") >= 2, "{report}");
        assert!(report.peers().all(|peer| peer.count("stations") >= 2), "{report}");
        let drops = |reason| report.peers().map(|peer| peer.drops_of(reason)).sum::<u64>();
        assert_eq!(drops("split_horizon"), 0, "nobody sends to where it is not: {report}");
    }
    let bridged = |site: &Site| {
        let link = site.host().ip(&["-json", "link", "show", "dev", TAP]).unwrap();
        link.contains(&format!("\"master\":\"{BRIDGE}\""))
    };
    assert!(switches.iter().all(bridged), "--bridge puts the TAP there");
    switches.iter_mut().for_each(Site::stop);
    for (site, lan) in switches.iter().zip(&sites.lans) {
        assert!(!site.host().has_interface(TAP), "a created TAP goes");
        assert!(site.host().has_interface(&lan.bridge), "the bridge stays");
    }
}

#[test]
fn local_taps_are_switched_among_themselves_and_to_a_peer() {
    let mut sites = Sites::new("taps", &[1, 1]);
    let host = sites.nodes[0].host().clone();
    let second = sites.lab.bridge_site(&host, "lan2", SiteOptions::new(1)).unwrap();
    sites.nodes[0].args(&["--tap", "ipop1"]);
    sites.nodes[1].bridge(BRIDGE);
    let mut switches = sites.start();
    for (tap, bridge) in [(TAP, BRIDGE), ("ipop1", "lan2")] {
        host.ip(&["link", "set", "dev", tap, "master", bridge]).unwrap();
    }
    let [first, far] = &sites.lans[..] else { panic!("two sites") };
    for (from, to) in [(first, &second), (first, far), (&second, first), (far, &second)] {
        expect_reaches(from, 0, to, 0);
    }
    let ((from, _), (to, end)) = (&first.vms[0], &second.vms[0]);
    expect_bytes_cross(from, to, end.ipv4, 4 << 20, SOON);
    expect_bytes_cross(to, from, first.vms[0].1.ipv6, 4 << 20, SOON);
    expect_bytes_cross(&far.vms[0].0, to, end.ipv4, 4 << 20, SOON);
    let report = switches[0].report();
    assert!(report.tap(0).count("stations") > 0 && report.tap(1).count("stations") > 0, "{report}");
    switches.iter_mut().for_each(Site::stop);
    assert!(!host.has_interface(TAP) && !host.has_interface("ipop1"));
}

#[test]
fn addresses_are_given_to_the_tap() {
    let mut sites = Sites::new("address", &[0, 0]);
    let (v4, v6) = (format!("{}/24", inner(0)), format!("{}/64", inner6(0)));
    sites.nodes[0].args(&["--address", &v4]);
    sites.nodes[1].args(&["--address", &format!("{}/24", inner(1))]);
    let mut switches = sites.start();
    expect_pings(switches[0].host(), &Ping::to(inner(1)).count(3));
    expect_arp(switches[1].host(), TAP, inner(0));
    switches.iter_mut().for_each(Site::stop);

    let mut sites = Sites::new("address6", &[0, 0]);
    sites.nodes[0].args(&["--address", &v6]);
    sites.nodes[1].args(&["--address", &format!("{}/64", inner6(1))]);
    let mut switches = sites.start();
    expect_pings(switches[0].host(), &Ping::to(inner6(1)).count(3));
    switches.iter_mut().for_each(Site::stop);
}

/// Runs a DHCP server on an interface of the host. It gives out addresses from `first` on.
fn dhcp_server(lab: &Lab, host: &Host, interface: &str, first: Ipv4Addr) -> Process {
    let last = Ipv4Addr::from_bits(first.to_bits() + 20);
    let leases = lab.dir().join("dnsmasq.leases");
    let args = [
        "--keep-in-foreground".into(),
        "--conf-file=/dev/null".into(),
        "--port=0".into(),
        "--bind-dynamic".into(),
        "--user=root".into(),
        "--no-ping".into(),
        "--dhcp-authoritative".into(),
        "--log-facility=-".into(),
        format!("--interface={interface}"),
        format!("--dhcp-range={first},{last},255.255.255.0,1h"),
        format!("--dhcp-leasefile={}", leases.display()),
        format!("--pid-file={}", lab.dir().join("dnsmasq.pid").display()),
    ];
    let mut server = host.spawn("dnsmasq", args).unwrap();
    server.wait_for_line("DHCP, IP range", SOON).unwrap_or_else(|error| panic!("{error:#}"));
    server
}

/// Asks for an address as a machine that boots does, through packet sockets. Those see a checksum that the kernel left open,
/// and old clients drop what has one, so the offer and the acknowledgement must arrive with theirs.
fn expect_lease(host: &Host, interface: &str, net: [u8; 3]) {
    let args = ["-n", "-vv", "-l", "-Q", "in", "-c", "2", "-i", interface, "udp src port 67"];
    let mut watch = host.spawn("tcpdump", args).unwrap();
    watch.wait_for_line("listening on", SOON).unwrap_or_else(|error| panic!("{error:#}"));
    let args = ["-f", "-q", "-n", "-t", "10", "-T", "1", "-s", "/bin/true", "-i", interface];
    let mut client = host.spawn("udhcpc", args).unwrap();
    let exit = client.wait(SOON).unwrap_or_else(|error| panic!("{error:#}"));
    let log = client.stderr();
    let [a, b, c] = net;
    let obtained = log.contains(&format!("lease of {a}.{b}.{c}."));
    assert!(exit.status.success() && obtained, "{}: {log}", host.name());
    watch.wait(SOON).unwrap_or_else(|error| panic!("{error:#}"));
    let answers = watch.stdout();
    assert_eq!(answers.matches("udp sum ok").count(), 2, "{}: {answers}", host.name());
}

#[test]
fn dhcp_crosses() {
    let mut sites = Sites::new("dhcp", &[1, 0]);
    let (host_net, vm_net) = ([192, 168, 77], [192, 168, 78]);
    let at = |[a, b, c]: [u8; 3], host| Ipv4Addr::new(a, b, c, host);
    sites.nodes[0].bridge(BRIDGE);
    sites.nodes[1].args(&["--address", &format!("{}/24", at(host_net, 1))]);
    let mut switches = sites.start();
    let (vm, interface) = &sites.lans[0].vms[0];
    let host = switches[1].host().clone();

    // The server on a TAP itself; the answer crosses the tunnel, a TAP and a bridge.
    let mut server = dhcp_server(&sites.lab, &host, TAP, at(host_net, 100));
    expect_lease(vm, &interface.name, host_net);
    server.terminate().unwrap();

    // The server behind a bridge; the answer is read from the TAP.
    vm.add_address(&interface.name, &format!("{}/24", at(vm_net, 1))).unwrap();
    let mut server = dhcp_server(&sites.lab, vm, &interface.name, at(vm_net, 100));
    expect_lease(&host, TAP, vm_net);
    server.terminate().unwrap();
    switches.iter_mut().for_each(Site::stop);
}
