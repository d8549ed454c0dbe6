//! Which of its addresses a host offers to its peers.

use std::{collections::BTreeSet, net::Ipv4Addr};

use ipop_perf::lab::{Host, InternetOptions, Place, wait_until};

use crate::common::network::{FOUND_WITHIN, Network, Way, address, expect_ways, write_secret};

/// Remembers where the host's UDP packets to port 5800 go.
const WATCH: &str = "table ip watch {
    set destinations { type ipv4_addr; flags dynamic; size 100; }
    chain output {
        type filter hook output priority filter
        udp dport 5800 add @destinations { ip daddr }
    }
}
";

fn destinations(host: &Host) -> BTreeSet<Ipv4Addr> {
    let text = host.run("nft", ["-j", "list", "set", "ip", "watch", "destinations"]).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let sets = json["nftables"].as_array().into_iter().flatten();
    let elements = sets.filter_map(|entry| entry["set"]["elem"].as_array()).flatten();
    elements.map(|address| address.as_str().unwrap().parse().unwrap()).collect()
}

/// Each candidate of a host is checked by its peer, so the peer's packets show what was offered.
#[test]
fn no_ignored_interface_and_no_address_of_the_overlay() {
    let network = Network::new("offers", 2, InternetOptions::new());
    let machine = |name| network.internet.machine(name, Place::Internet).unwrap();
    let (offering, watching) = (machine("offering"), machine("watching"));
    let host = &offering.host;
    let mut members = [network.member(0, host), network.member(1, &watching.host)];
    let file = network.internet.lab().dir().join("offering.toml");
    write_secret(&file, "[ice]\nignore_interfaces = [\"docker*\"]\n");
    members[0].node.args(&["--config", file.to_str().unwrap()]);
    members[0].start();
    let ip = |line: &str| drop(host.ip(&line.split(' ').collect::<Vec<_>>()).unwrap());
    // The TAP goes into a bridge of which the program was not told, and the overlay's addresses are on both.
    let overlay = address(0);
    ip("link add br7 type bridge");
    ip("link set ipop0 master br7");
    ip(&format!("address del {overlay}/24 dev ipop0"));
    ip(&format!("address add {overlay}/24 dev br7"));
    ip("address add 10.71.0.1/24 dev ipop0");
    ip("address add 10.72.0.1/24 dev ipop0 label ipop0:1");
    ip("link add docker0 type bridge");
    ip("address add 10.73.0.1/24 dev docker0");
    ip("link add lan0 type bridge");
    for up in ["docker0", "lan0", "br7"] {
        ip(&format!("link set {up} up"));
    }
    // The last one, and an offered one: whoever hears of it has heard of all before.
    ip("address add 10.74.0.1/24 dev lan0");
    watching.host.load_firewall(WATCH).unwrap();
    members[1].start();
    expect_ways(&mut members, |_, _| Way::HostToHost);
    let last = Ipv4Addr::new(10, 74, 0, 1);
    assert!(wait_until(FOUND_WITHIN, || destinations(&watching.host).contains(&last)));
    assert_eq!(destinations(&watching.host), BTreeSet::from([offering.ipv4, last]));
}
