//! What the host itself believes and says on its segment: router advertisements of machines behind other nodes, and where its
//! own addresses are.

use std::{fs, net::IpAddr, os::unix::fs::PermissionsExt};

use ipop_perf::{
    lab::{Host, Lab, Process, tools::Ping, wait_until},
    tunnel::Node,
};

use crate::{
    BRIDGE, Sites,
    common::{SOON, Site, TAP, inner, inner6},
};

const PREFIX: &str = "fd99:1:2:3::";
const MAC_OF_TAP: &str = "02:00:00:00:00:01";

/// A machine that says that it is the segment's router.
fn advertise(lab: &Lab, host: &Host, interface: &str) -> Process {
    host.add_address(interface, &format!("{PREFIX}1/64")).unwrap();
    let args = [
        "--keep-in-foreground".into(),
        "--conf-file=/dev/null".into(),
        "--port=0".into(),
        "--bind-dynamic".into(),
        "--user=root".into(),
        "--enable-ra".into(),
        "--log-facility=-".into(),
        format!("--interface={interface}"),
        format!("--dhcp-range={PREFIX},ra-only,64,1h"),
        format!("--ra-param={interface},4,1800"),
        format!("--pid-file={}", lab.dir().join(format!("ra-{}.pid", host.name())).display()),
    ];
    host.spawn("dnsmasq", args).unwrap()
}

/// Its default routes by router advertisements.
fn advertised_routes(host: &Host) -> String {
    host.ip(&["-6", "route", "show", "default", "proto", "ra"]).unwrap()
}

fn wait_for_advertised_route(host: &Host) {
    let found = wait_until(SOON, || !advertised_routes(host).is_empty());
    assert!(found, "{} hears no router", host.name());
}

fn setting(host: &Host, key: &str) -> String {
    host.run("sysctl", ["-n", key]).unwrap().trim().to_owned()
}

const ACCEPT_RA: &str = "net.ipv6.conf.lan.accept_ra";

#[test]
fn a_machine_at_another_site_does_not_become_the_hosts_router() {
    let mut sites = Sites::new("ra", &[1, 1]);
    sites.nodes[0].bridge(BRIDGE);
    // On the other host the TAP is in no bridge.
    sites.nodes[1].args(&["--address", &format!("{}/24", inner(1))]);
    let mut switches = sites.start();
    let hosts = [switches[0].host().clone(), switches[1].host().clone()];
    assert_eq!(setting(&hosts[0], ACCEPT_RA), "0");

    let (vm, interface) = &sites.lans[0].vms[0];
    let _router = advertise(&sites.lab, vm, &interface.name);
    let (far, far_interface) = &sites.lans[1].vms[0];
    hosts[1].ip(&["link", "set", "dev", TAP, "master", BRIDGE]).unwrap();
    // A machine that takes advertisements gets the route across the tunnel, so they were all over the segment.
    wait_for_advertised_route(far);
    assert_eq!(advertised_routes(&hosts[0]), "", "{}", far_interface.name);
    hosts[1].ip(&["link", "set", "dev", TAP, "nomaster"]).unwrap();
    let heard = || hosts[1].run("tcpdump", ["-n", "-c", "1", "-i", TAP, "icmp6[0]=134"]);
    heard().unwrap();
    assert!(!advertised_routes(&hosts[1]).contains(TAP), "the TAP believes nobody");

    switches.iter_mut().for_each(Site::stop);
    assert_eq!(setting(&hosts[0], ACCEPT_RA), "1", "it is put back");
}

#[test]
fn an_uplink_that_lives_by_advertisements_stays_and_is_warned_of() {
    let mut sites = Sites::new("uplink", &[1, 0]);
    sites.nodes[0].bridge(BRIDGE);
    let host = sites.nodes[0].host().clone();
    let (vm, interface) = &sites.lans[0].vms[0];
    let _router = advertise(&sites.lab, vm, &interface.name);
    wait_for_advertised_route(&host);
    let mut switches = sites.start();
    let warned = switches[0].switch.process.wait_for_line("nft", SOON).unwrap();
    assert!(warned.contains("bridge lan has its IPv6 default route"), "{warned}");
    assert_eq!(setting(&host, ACCEPT_RA), "1");
    switches.iter_mut().for_each(Site::stop);
    assert_eq!(setting(&host, ACCEPT_RA), "1");
}

#[test]
fn settings_that_cannot_be_written_are_warned_of() {
    let mut sites = Sites::new("readonly", &[0, 0]);
    let script = sites.lab.dir().join("readonly-sysctl");
    let switch = sites.nodes[0].binary().display().to_string();
    let text = format!(
        "#!/bin/sh\nexec unshare --mount sh -c 'mount --bind /proc/sys /proc/sys && \
         mount -o remount,bind,ro /proc/sys && exec {switch} \"$@\"' sh \"$@\"\n"
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    sites.nodes[0].bridge(BRIDGE).run_as(&script);
    sites.nodes[1].run_as(&script);
    let mut switches = sites.start();
    for (switch, name) in switches.iter_mut().zip(["bridge lan", TAP]) {
        let warned = switch.switch.process.wait_for_line("sysctl -w", SOON).unwrap();
        assert!(warned.contains(&format!("cannot turn router advertisements off at {name}")));
    }
    switches.iter_mut().for_each(Site::stop);
}

/// Whoever this host finds over an interface stays where it was found, for the length of a test.
fn believe_for_long(host: &Host, interface: &str) {
    for family in ["ipv4", "ipv6"] {
        let key = format!("net.{family}.neigh.{interface}.base_reachable_time_ms=36000000");
        host.run("sysctl", ["-q", "-w", &key]).unwrap();
    }
}

/// Where the host believes that an address is.
fn neighbour(host: &Host, interface: &str, address: IpAddr) -> String {
    let address = address.to_string();
    let shown = host.ip(&["neigh", "show", "to", &address, "dev", interface]).unwrap();
    let mut words = shown.split_whitespace().skip_while(|word| *word != "lladdr");
    words.nth(1).unwrap_or_default().to_owned()
}

fn mac(host: &Host, interface: &str) -> String {
    let path = format!("/sys/class/net/{interface}/address");
    host.run("cat", [&path]).unwrap().trim().to_owned()
}

#[track_caller]
fn expect_neighbour(host: &Host, interface: &str, address: IpAddr, mac: &str) {
    let found = wait_until(SOON, || neighbour(host, interface, address) == mac);
    let believed = neighbour(host, interface, address);
    assert!(found, "{} believes {address} at {believed:?}, it is at {mac}", host.name());
}

/// Three hosts, of which the first two have the same address in turn; how the first one ends.
fn an_address_moves(label: &str, address: IpAddr, third: IpAddr, end: impl FnOnce(&mut Site)) {
    let mut sites = Sites::new(label, &[0, 0, 0]);
    let prefix_len = if address.is_ipv4() { 24 } else { 64 };
    let cidr = |address: IpAddr| format!("{address}/{prefix_len}");
    let ids: Vec<_> = sites.nodes.iter().map(Node::node_id).collect();
    for node in &mut sites.nodes[..2] {
        node.args(&["--address", &cidr(address)]).dial(ids[2], sites.underlay[2].ipv4);
    }
    let watcher = &mut sites.nodes[2];
    watcher.args(&["--address", &cidr(third)]).admit(ids[0]).admit(ids[1]);
    let mut nodes = sites.nodes.drain(..);
    let [first, second, watcher] = [(); 3].map(|()| nodes.next().unwrap());
    let watcher = Site::start(watcher);
    believe_for_long(watcher.host(), TAP);
    let mut first = Site::start(first);
    watcher.switch.wait_for_answer(address).unwrap();
    expect_neighbour(watcher.host(), TAP, address, &mac(first.host(), TAP));
    let pings = Ping::to(address).count(100_000).start(watcher.host()).unwrap();
    end(&mut first);
    let second = Site::start(second);
    expect_neighbour(watcher.host(), TAP, address, &mac(second.host(), TAP));
    let answered = pings.answers();
    assert!(wait_until(SOON, || pings.answers() > answered), "the pings find it");
    pings.stop().unwrap();
}

#[test]
fn an_address_that_moves_after_a_stop_is_found_at_once() {
    an_address_moves("moves4", inner(0).into(), inner(2).into(), Site::stop);
}

#[test]
fn an_address_that_moves_after_a_crash_is_found_at_once() {
    let crash = |site: &mut Site| {
        site.switch.process.kill().unwrap();
    };
    an_address_moves("moves6", inner6(0).into(), inner6(2).into(), crash);
}

#[test]
fn a_bridge_keeps_its_mac_address_or_says_where_it_is_now() {
    let mut sites = Sites::new("bridgemac", &[1, 1]);
    for node in &mut sites.nodes {
        node.bridge(BRIDGE);
    }
    let hosts = [sites.nodes[0].host().clone(), sites.nodes[1].host().clone()];
    for (host, (vm, interface), site) in
        [(&hosts[0], &sites.lans[0].vms[0], 0), (&hosts[1], &sites.lans[1].vms[0], 1)]
    {
        host.add_address(BRIDGE, &format!("{}/24", inner(site))).unwrap();
        host.add_address(BRIDGE, &format!("{}/64", inner6(site))).unwrap();
        believe_for_long(vm, &interface.name);
    }
    let (vm, interface) = sites.lans[1].vms[0].clone();
    let vm = &vm;
    vm.add_address(&interface.name, &format!("{}/24", inner(7))).unwrap();
    vm.add_address(&interface.name, &format!("{}/64", inner6(7))).unwrap();
    let known: [IpAddr; 2] = [inner(1).into(), inner6(1).into()];
    for address in known {
        assert!(wait_until(SOON, || Ping::to(address).run(vm).is_ok_and(|r| r.received > 0)));
    }
    let before = [0, 1].map(|site: usize| mac(&hosts[site], BRIDGE));
    // The second host's TAP is there before, with an address that is lower than any other.
    hosts[1].ip(&["tuntap", "add", "dev", TAP, "mode", "tap", "multi_queue"]).unwrap();
    hosts[1].ip(&["link", "set", "dev", TAP, "address", MAC_OF_TAP]).unwrap();
    let mut switches = sites.start();
    assert_eq!(mac(&hosts[0], BRIDGE), before[0], "a TAP that the switch makes changes nothing");
    assert_eq!(mac(&hosts[1], BRIDGE), MAC_OF_TAP);
    for address in known {
        expect_neighbour(vm, &interface.name, address, MAC_OF_TAP);
    }
    // And across the tunnel, however often the bridge gets another one.
    let (far, far_interface) = &sites.lans[0].vms[0];
    far.add_address(&far_interface.name, &format!("{}/24", inner(8))).unwrap();
    far.add_address(&far_interface.name, &format!("{}/64", inner6(8))).unwrap();
    for address in known {
        assert!(wait_until(SOON, || Ping::to(address).run(far).is_ok_and(|r| r.received > 0)));
        expect_neighbour(far, &far_interface.name, address, MAC_OF_TAP);
    }
    let given = "02:00:00:00:00:02";
    hosts[1].ip(&["link", "set", "dev", BRIDGE, "address", given]).unwrap();
    for address in known {
        expect_neighbour(far, &far_interface.name, address, given);
    }
    switches.iter_mut().for_each(Site::stop);
}
