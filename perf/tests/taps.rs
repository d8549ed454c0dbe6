//! TAPs that the switch did not make: attached, used, and left as they were found. Needs root.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::net::Ipv4Addr;

use common::{
    SOON, Site, TAP, expect_pings, inner, inner6, lab, switch, transfer::expect_bytes_cross,
};
use ipop_perf::lab::{Host, LinkOptions, tools::Ping, wait_until};
use serde_json::Value;

/// What an operator, or another program, may have set.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Seen {
    mtu: u64,
    flags: Value,
    mac: String,
    master: Value,
    addresses: Vec<String>,
    offloads: Vec<String>,
    ipv6: Vec<String>,
}

impl Seen {
    fn of(host: &Host) -> Self {
        let text = host.ip(&["-json", "address", "show", "dev", TAP]).unwrap();
        let json: Value = serde_json::from_str(&text).unwrap();
        let link = &json[0];
        // The kernel makes link-local ones by itself, once there is a carrier.
        let addresses = link["addr_info"].as_array().into_iter().flatten();
        let addresses = addresses.filter(|info| info["scope"] != "link");
        let features = host.run("ethtool", ["-k", TAP]).unwrap();
        let offload = |line: &&str| line.contains("segmentation") || line.contains("checksum");
        let setting = |key| format!("/proc/sys/net/ipv6/conf/{TAP}/{key}");
        let ipv6 = ["accept_ra", "autoconf", "addr_gen_mode"].map(setting);
        Self {
            mtu: link["mtu"].as_u64().unwrap(),
            flags: without_carrier(&link["flags"]),
            mac: link["address"].as_str().unwrap().into(),
            master: link["master"].clone(),
            addresses: addresses.map(|info| info["local"].to_string()).collect(),
            offloads: features.lines().filter(offload).map(without_requested).collect(),
            ipv6: host.run("cat", ipv6).unwrap().lines().map(str::to_owned).collect(),
        }
    }
}

/// Whether an offload is on, not whether it would be if it could.
fn without_requested(line: &str) -> String {
    line.split(" [requested").next().unwrap_or(line).to_owned()
}

/// Without a program at its fd a TAP has no carrier, which is nobody's setting.
fn without_carrier(flags: &Value) -> Value {
    let carrier =
        |flag: &&Value| !["LOWER_UP", "NO-CARRIER"].contains(&flag.as_str().unwrap_or(""));
    flags.as_array().unwrap().iter().filter(carrier).cloned().collect()
}

/// Another program at the same TAP, without a vnet header, gets the frames and nothing but them.
fn expect_plain_frames(host: &Host) {
    host.ip(&["link", "set", "dev", TAP, "up"]).unwrap();
    let tun = format!("TUN,tun-name={TAP},tun-type=tap,iff-no-pi");
    let reader = host.spawn("socat", ["-u", "-x", &tun, "OPEN:/dev/null"]).unwrap();
    let asks = wait_until(SOON, || {
        // Nobody is there: the host asks for the neighbour in a broadcast frame, which begins with its destination.
        let _ = Ping::to(Ipv4Addr::new(198, 51, 100, 2)).run(host);
        reader.stderr().lines().any(|line| line.trim_start().starts_with("ff ff ff ff ff ff"))
    });
    assert!(asks, "{}", reader.stderr());
}

/// A TAP made beforehand with these options of `ip tuntap` serves a switch with so many workers.
fn attach(label: &str, made_with: &[&str], workers: &'static str, queues: u64) {
    let lab = lab(label);
    let (a, b) = (lab.host("a").unwrap(), lab.host("b").unwrap());
    let link = lab.link(&a, &b, LinkOptions::new()).unwrap();
    let add = ["tuntap", "add", "dev", TAP, "mode", "tap"];
    a.ip(&[&add, made_with].concat()).unwrap();
    a.set_mtu(TAP, 1300).unwrap();
    a.add_address(TAP, "198.51.100.1/24").unwrap();
    let found = Seen::of(&a);

    let [mut at_a, mut at_b] = [switch(&lab, &a), switch(&lab, &b)];
    let address = format!("{}/24", inner(0));
    at_a.dial(at_b.node_id(), link.b.ipv4).args(&["--workers", workers, "--address", &address]);
    at_b.admit(at_a.node_id()).args(&["--workers", "1"]);
    at_b.address(&format!("{}/24", inner(1))).address(&format!("{}/64", inner6(1)));
    let (mut far, mut near) = (Site::start(at_b), Site::start(at_a));
    near.switch.wait_for_answer(inner(1).into()).unwrap_or_else(|error| panic!("{error:#}"));
    expect_pings(&a, &Ping::to(inner(1)).unfragmented(1500 - 28).count(3));
    expect_bytes_cross(&a, &b, inner(1), 4 << 20, SOON);
    expect_bytes_cross(&b, &a, inner(0), 4 << 20, SOON);
    let report = near.report();
    assert_eq!(report.tap(0).json()["attached"], true, "{report}");
    assert_eq!(report.tap(0).count("queues"), queues, "{report}");
    assert_eq!(Seen::of(&a).mtu, 1500);

    near.stop();
    far.stop();
    assert_eq!(Seen::of(&a), found, "left as it was found");
    if !made_with.contains(&"multi_queue") {
        expect_plain_frames(&a);
    }
}

#[test]
fn a_tap_of_ip_tuntap_is_used_and_left_as_found() {
    attach("attach", &[], "1", 1);
    // Its kernel refuses a second queue: the other worker does without.
    attach("attachtwo", &[], "2", 1);
}

#[test]
fn a_multi_queue_tap_of_ip_tuntap_is_used_and_left_as_found() {
    attach("queues", &["multi_queue"], "2", 2);
    attach("queue", &["multi_queue"], "1", 1);
}

#[test]
fn an_attached_tap_returns_to_its_bridge() {
    let lab = lab("rebridge");
    let a = lab.host("a").unwrap();
    for bridge in ["br0", "br1"] {
        a.ip(&["link", "add", bridge, "type", "bridge"]).unwrap();
    }
    a.ip(&["tuntap", "add", "dev", TAP, "mode", "tap"]).unwrap();
    a.ip(&["link", "set", "dev", TAP, "up", "master", "br0"]).unwrap();
    let found = Seen::of(&a);
    let mut node = switch(&lab, &a);
    node.bridge("br1");
    let mut site = Site::start(node);
    let moved = wait_until(SOON, || Seen::of(&a).master == "br1");
    assert!(moved, "{:?}", Seen::of(&a));
    site.stop();
    assert_eq!(Seen::of(&a), found, "left as it was found");
}
