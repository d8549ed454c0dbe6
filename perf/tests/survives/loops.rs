//! Segments that are reached twice, and an underlay that leads through the overlay.

use std::{thread::sleep, time::Duration};

use ipop_perf::{
    lab::{BridgeSite, Host, Interface, Lab, LinkOptions, SiteOptions, tools::Ping},
    tunnel::{Node, Running},
};
use serde_json::Value;

use crate::support::{
    NET_ADMIN, Pair, SOON, answers, as_nobody, count_lines, counters, inner, lab, peer_of,
    peer_state, wait_for_counters, wait_for_lines, wait_for_log,
};

/// How the log tells of a loop, and of its end.
const LOOP: &str = "is blocked until that ends";
const LOOP_ENDED: &str = "forwards again";

/// Two sites with a machine each, tunnelled together, and a cable between the sites' bridges that can be plugged in.
struct Sites {
    site_a: BridgeSite,
    site_b: BridgeSite,
    cable: (Interface, Interface),
    a: Running,
    b: Running,
    _lab: Lab,
}

impl Sites {
    fn new(label: &str) -> Self {
        let lab = lab(label);
        let (a, b) = (lab.host("a").unwrap(), lab.host("b").unwrap());
        let underlay = lab.link(&a, &b, LinkOptions::new()).unwrap();
        let cable = lab.link(&a, &b, LinkOptions::new()).unwrap();
        for (host, end) in [(&a, &cable.a), (&b, &cable.b)] {
            host.ip(&["address", "flush", "dev", &end.name]).unwrap();
        }
        let site = |host: &Host| lab.bridge_site(host, "br0", SiteOptions::new(1)).unwrap();
        let (site_a, site_b) = (site(&a), site(&b));
        let bridged = |host: &Host| -> Node {
            let mut node = node_in_bridge(&lab, host);
            node.mtu(1_500);
            node
        };
        let (mut at_a, mut at_b) = (bridged(&a), bridged(&b));
        at_a.dial(at_b.node_id(), underlay.b.ipv4);
        at_b.admit(at_a.node_id());
        let (a, b) = (at_a.start().unwrap(), at_b.start().unwrap());
        let cable = (cable.a, cable.b);
        Self { site_a, site_b, cable, a, b, _lab: lab }
    }

    fn plug_in(&self) {
        for (running, end) in [(&self.a, &self.cable.0), (&self.b, &self.cable.1)] {
            running.host.ip(&["link", "set", "dev", &end.name, "master", "br0"]).unwrap();
        }
    }

    fn unplug(&self) {
        for (running, end) in [(&self.a, &self.cable.0), (&self.b, &self.cable.1)] {
            running.host.ip(&["link", "set", "dev", &end.name, "nomaster"]).unwrap();
        }
    }

    fn wait_until_connected(&self) {
        let (vm, _) = &self.site_a.vms[0];
        let (_, far) = &self.site_b.vms[0];
        assert!(
            ipop_perf::lab::wait_until(2 * SOON, || answers(vm, far.ipv4)),
            "{}",
            self.a.process.stderr()
        );
    }

    /// Packets that have crossed the cable.
    fn crossed(&self) -> u64 {
        let counters = self.a.host.counters(&self.cable.0.name).unwrap();
        counters.rx_packets + counters.tx_packets
    }
}

fn node_in_bridge(lab: &Lab, host: &Host) -> Node {
    let mut node = Node::new(lab, host, ipop_perf::tunnel::Program::Switch)
        .unwrap_or_else(|e| panic!("{e:#}"));
    node.bridge("br0");
    node
}

#[test]
fn two_switches_on_one_lan_make_no_storm() {
    let mut sites = Sites::new("loop");
    sites.wait_until_connected();
    let before = sites.crossed();
    sites.plug_in();
    // Broadcasts, so that there is something to go round.
    let (vm, interface) = &sites.site_a.vms[0];
    let broadcast = ["-c", "20", "-w", "2", "-i", "0.1", "-b", "10.255.255.255"];
    let shouting = vm.spawn("ping", broadcast).unwrap();
    let blocked = ipop_perf::lab::wait_until(SOON, || {
        count_lines(&sites.a, LOOP) + count_lines(&sites.b, LOOP) > 0
    });
    assert!(blocked, "no loop was noticed on {}:\n{}", interface.name, sites.a.process.stderr());
    drop(shouting);
    // One second until the first probe, of at most 20,000 frames a second and port.
    let during = sites.crossed() - before;
    assert!(during < 400_000, "{during} frames crossed the cable before the loop was cut");
    sites.wait_until_connected();
    let after = sites.crossed();
    sleep(Duration::from_secs(3));
    let calm = sites.crossed() - after;
    assert!(calm < 300, "{calm} frames in three seconds: it still goes round");
    let blocked: usize = [&mut sites.a, &mut sites.b].map(blocked_taps).iter().sum();
    assert_eq!(blocked, 1, "one end is enough");

    sites.unplug();
    let unblocked = ipop_perf::lab::wait_until(SOON, || {
        count_lines(&sites.a, LOOP_ENDED) + count_lines(&sites.b, LOOP_ENDED) > 0
    });
    assert!(unblocked, "{}\n{}", sites.a.process.stderr(), sites.b.process.stderr());
    sites.wait_until_connected();
    assert_eq!([&mut sites.a, &mut sites.b].map(blocked_taps), [0, 0]);
}

fn blocked_taps(running: &mut Running) -> usize {
    let report = counters(running);
    let taps = report["taps"].as_array().unwrap();
    taps.iter().filter(|tap| tap["blocked"] == true).count()
}

#[test]
fn two_taps_of_one_switch_in_one_bridge_make_no_storm() {
    let lab = lab("twotaps");
    let host = lab.host("a").unwrap();
    let site = lab.bridge_site(&host, "br0", SiteOptions::new(2)).unwrap();
    let mut node = node_in_bridge(&lab, &host);
    let mut running = node.args(&["--tap", "ipop1"]).start().unwrap();
    let line = wait_for_log(&mut running, LOOP, SOON);
    assert!(line.contains("ipop1 is blocked") && line.contains("this node's own"), "{line}");
    let report = counters(&mut running);
    let blocked = |name: &str| {
        let taps = report["taps"].as_array().unwrap();
        taps.iter().find(|tap| tap["name"] == name).unwrap()["blocked"] == true
    };
    assert!(blocked("ipop1") && !blocked("ipop0"), "{report:#}");
    let ((vm, _), (_, other)) = (&site.vms[0], &site.vms[1]);
    let report = Ping::to(other.ipv4).count(5).run(vm).unwrap();
    assert_eq!((report.received, report.duplicates), (5, 0));
    let before = host.counters("ipop0").unwrap();
    sleep(Duration::from_secs(2));
    let after = host.counters("ipop0").unwrap();
    let frames = after.rx_packets + after.tx_packets - before.rx_packets - before.tx_packets;
    assert!(frames < 100, "{frames} frames in two seconds");

    host.ip(&["link", "set", "dev", "ipop1", "nomaster"]).unwrap();
    wait_for_lines(&running, LOOP_ENDED, 1, SOON);
    assert_eq!(blocked_taps(&mut running), 0);
}

/// What the bridge has learned on a TAP that is blocked leads nowhere. Making it forget takes CAP_NET_ADMIN and nothing else.
#[test]
fn the_bridge_forgets_the_stations_of_a_blocked_tap() {
    const STATION: &str = "02:00:00:00:00:77";
    let lab = lab("forget");
    let host = lab.host("a").unwrap();
    host.ip(&["link", "add", "br0", "up", "type", "bridge"]).unwrap();
    let mut node = as_nobody(&lab, &host, 1, NET_ADMIN);
    let mut running = node.args(&["--tap", "ipop1"]).start().unwrap();
    host.ip(&["link", "set", "dev", "ipop1", "master", "br0"]).unwrap();
    // Until this is taken back, no probe comes in on it.
    let probes = |flood| {
        host.run("bridge", ["link", "set", "dev", "ipop1", "mcast_flood", flood]).unwrap();
    };
    probes("off");
    host.ip(&["link", "set", "dev", "ipop0", "master", "br0"]).unwrap();
    host.run("bridge", ["fdb", "add", STATION, "dev", "ipop1", "master", "dynamic"]).unwrap();
    let knows_station =
        || host.run("bridge", ["fdb", "show", "brport", "ipop1"]).unwrap().contains(STATION);
    assert!(knows_station());
    probes("on");
    let line = wait_for_log(&mut running, LOOP, SOON);
    assert!(line.contains("ipop1 is blocked"), "{line}");
    let forgotten = ipop_perf::lab::wait_until(SOON, || !knows_station());
    assert!(forgotten, "{}", running.process.stderr());
}

/// The route to the peer leads into the tunnel itself.
#[test]
fn tunnel_packets_that_come_back_are_dropped() {
    let pair = Pair::new("own");
    let [mut a, b] = pair.start();
    let far = pair.link.b.ipv4.to_string();
    let far_mac = mac_of_tap(&b);
    let tap = a.tap.clone();
    a.host.ip(&["neighbour", "add", &far, "lladdr", &far_mac, "dev", &tap]).unwrap();
    a.host.ip(&["route", "add", &format!("{far}/32"), "dev", &tap]).unwrap();
    let own = |report: &Value| report["taps"][0]["drops"]["own_packet"].as_u64().unwrap_or(0);
    wait_for_counters(&mut a, SOON, |report| own(report) > 0);
    let (before, cpu_before) = (own(&counters(&mut a)), a.process.usage().unwrap().cpu_s());
    sleep(Duration::from_secs(2));
    let (after, cpu_after) = (own(&counters(&mut a)), a.process.usage().unwrap().cpu_s());
    assert!(after - before < 1_000, "{} of them in two seconds", after - before);
    assert!(cpu_after - cpu_before < 1.0, "{} s of CPU in two", cpu_after - cpu_before);
    a.host.ip(&["route", "del", &format!("{far}/32"), "dev", &tap]).unwrap();
    wait_for_counters(&mut a, 2 * SOON, |report| {
        let peer = pair.b.node_id();
        peer_state(report, peer) == "up" && peer_of(report, peer)["lanes"][0].is_object()
    });
    a.wait_for_answer(inner(2).into()).unwrap();
}

/// The MAC address of the TAP of a running switch.
fn mac_of_tap(running: &Running) -> String {
    let shown = running.host.ip(&["-json", "link", "show", "dev", &running.tap]).unwrap();
    let json: Value = serde_json::from_str(&shown).unwrap();
    json[0]["address"].as_str().unwrap().into()
}
