//! What is wrong with a segment, and told: one address at two places, nodes that do not reach each other.

use std::time::Duration;

use ipop_perf::{lab::tools::Ping, tunnel::Node};

use crate::{
    BRIDGE, Sites,
    common::{SOON, Site, inner},
};

/// Pairs settle first.
const TOLD_WITHIN: Duration = Duration::from_secs(120);

#[test]
fn one_address_at_two_sites_is_told_with_both_places() {
    let mut sites = Sites::new("flap", &[1, 1, 1]);
    for node in &mut sites.nodes {
        node.bridge(BRIDGE);
    }
    let ids: Vec<_> = sites.nodes.iter().map(Node::node_id).collect();
    let mut switches = sites.start();
    const CLONED: &str = "02:00:00:00:0c:0c";
    let mut pings = Vec::new();
    for lan in &sites.lans[..2] {
        let (vm, interface) = &lan.vms[0];
        vm.ip(&["link", "set", "dev", &interface.name, "address", CLONED]).unwrap();
        let third = &sites.lans[2].vms[0].1;
        let ping = Ping::to(third.ipv4).count(100_000).interval(Duration::from_millis(50));
        pings.push(ping.start(vm).unwrap());
    }
    // The third site hears both; each of the others only its own machine.
    let told = switches[2].switch.process.wait_for_line("is heard at two places", SOON).unwrap();
    assert!(told.contains(&format!("address {CLONED}")), "{told}");
    assert!(ids[..2].iter().all(|id| told.contains(&format!("peer {id}"))), "{told}");
    for ping in pings {
        let _ = ping.stop();
    }
    switches.iter_mut().for_each(Site::stop);
    let lines = switches[2].switch.process.stderr().matches("is heard at two places").count();
    assert_eq!(lines, 1, "once a minute");
}

#[test]
fn static_peers_that_do_not_reach_each_other_are_told() {
    let mut sites = Sites::new("gap", &[0, 0, 0]);
    let ids: Vec<_> = sites.nodes.iter().map(Node::node_id).collect();
    let middle = sites.underlay[0].ipv4;
    for (number, node) in sites.nodes.iter_mut().enumerate() {
        node.args(&["--address", &format!("{}/24", inner(number))]);
        match number {
            0 => drop(node.admit(ids[1]).admit(ids[2])),
            _ => drop(node.dial(ids[0], middle)),
        }
    }
    let mut switches: Vec<_> = sites.nodes.drain(..).map(Site::start).collect();
    let mut told = |site: usize, text: &str| {
        switches[site].switch.process.wait_for_line(text, TOLD_WITHIN).unwrap()
    };
    let told_by_middle = told(0, "have no tunnel to each other");
    assert!([1, 2].iter().all(|site| told_by_middle.contains(&ids[*site].to_string())));
    for (site, other) in [(1, 2), (2, 1)] {
        let told = told(site, "this node has none");
        let beginning = ids[other].to_string()[..12].to_owned();
        assert!(told.contains(&beginning) && told.contains(&ids[0].to_string()), "{told}");
    }
    let report = switches[0].report();
    assert_eq!(report.json()["mesh"]["missing_pairs"], 1, "{report}");
    switches.iter_mut().for_each(Site::stop);
}
