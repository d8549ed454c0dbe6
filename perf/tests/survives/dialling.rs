//! How two switches find each other, and find each other again.

use std::{fs, net::Ipv4Addr, thread, time::Duration};

use ipop_datapath::node_id::NodeId;
use ipop_perf::{
    lab::{Host, LinkOptions},
    tunnel::{Node, Running},
};
use serde_json::Value;

use crate::support::{
    PEER_UP, Pair, SOON, count_lines, counters, inner, lab, node, of_workers, peer_of, peer_state,
    script, wait_for_counters, wait_for_lines, wait_for_log,
};

/// Lines that a tunnel which comes, goes or changes writes.
const CHANGES: [&str; 3] = [" up", "down", "moved"];

#[test]
fn simultaneous_dials_leave_one_tunnel() {
    let lab = lab("both");
    let (a, b) = (lab.host("a").unwrap(), lab.host("b").unwrap());
    let link = lab.link(&a, &b, LinkOptions::new()).unwrap();
    let (mut a, mut b) = (node(&lab, &a, 1), node(&lab, &b, 2));
    a.dial(b.node_id(), link.b.ipv4);
    b.dial(a.node_id(), link.a.ipv4);
    let pair = Pair { a, b, link, wire: None, lab };
    for _ in 0..3 {
        let mut both = start_at_once(&pair.a, &pair.b);
        pair.wait_until_up(&mut both);
        let [a, b] = &mut both;
        let workers = counters(a)["workers"].as_array().unwrap().len();
        let settled = |report: &Value, peer| lanes(report, peer).len() == workers;
        wait_for_counters(a, SOON, |report| settled(report, pair.b.node_id()));
        wait_for_counters(b, SOON, |report| settled(report, pair.a.node_id()));
        // One of two connections wins; the others are kept for up to 4 s.
        thread::sleep(Duration::from_secs(5));
        let (lanes_a, lanes_b) =
            (lanes(&counters(a), pair.b.node_id()), lanes(&counters(b), pair.a.node_id()));
        let changes = |running: &Running| CHANGES.map(|change| count_lines(running, change));
        let before = (changes(a), changes(b));
        thread::sleep(Duration::from_secs(3));
        assert_eq!((changes(a), changes(b)), before, "flapping:\n{}", a.process.stderr());
        let after = (lanes(&counters(a), pair.b.node_id()), lanes(&counters(b), pair.a.node_id()));
        assert_eq!((&after.0, &after.1), (&lanes_a, &lanes_b));
        for ((_, at_a), (_, at_b)) in lanes_a.iter().zip(&lanes_b) {
            assert_ne!(
                at_a, at_b,
                "one end dialled what the other accepted: {lanes_a:?} {lanes_b:?}"
            );
        }
        a.wait_for_answer(inner(2).into()).unwrap();
        b.wait_for_answer(inner(1).into()).unwrap();
    }
}

fn start_at_once(a: &Node, b: &Node) -> [Running; 2] {
    thread::scope(|scope| {
        let at_a = scope.spawn(|| a.start().unwrap());
        let b = b.start().unwrap();
        [at_a.join().unwrap(), b]
    })
}

/// Connection and direction of each lane to this peer.
fn lanes(report: &Value, peer: NodeId) -> Vec<(u64, String)> {
    let lanes = peer_of(report, peer)["lanes"].as_array().unwrap();
    let lane = |lane: &Value| {
        (lane["connection"].as_u64().unwrap(), lane["direction"].as_str().unwrap().to_owned())
    };
    lanes.iter().map(lane).collect()
}

/// Gives the host another address in place of this one.
fn readdress(host: &Host, interface: &str, from: Ipv4Addr, to: Ipv4Addr) {
    host.ip(&["address", "del", &format!("{from}/24"), "dev", interface]).unwrap();
    host.ip(&["address", "add", &format!("{to}/24"), "dev", interface]).unwrap();
}

#[test]
fn a_dialler_that_moves_takes_its_tunnel_along() {
    let pair = Pair::new("roams");
    let [a, mut b] = pair.start();
    let traffic = a.host.spawn("ping", ["-n", "-i", "0.05", &inner(2).to_string()]).unwrap();
    readdress(&a.host, &pair.link.a.name, pair.link.a.ipv4, Ipv4Addr::new(10, 0, 0, 77));
    wait_for_log(&mut b, "to 10.0.0.77", SOON);
    a.wait_for_answer(inner(2).into()).unwrap();
    b.wait_for_answer(inner(1).into()).unwrap();
    for running in [&a, &b] {
        assert_eq!(count_lines(running, "down"), 0, "{}", running.process.stderr());
    }
    drop(traffic);
}

#[test]
fn a_listener_that_moves_dials_its_peer() {
    let pair = Pair::new("moves");
    let [mut a, mut b] = pair.start();
    let traffic = a.host.spawn("ping", ["-n", "-i", "0.05", &inner(2).to_string()]).unwrap();
    readdress(&b.host, &pair.link.b.name, pair.link.b.ipv4, Ipv4Addr::new(10, 0, 0, 88));
    wait_for_counters(&mut a, SOON, |report| {
        let lanes = peer_of(report, pair.b.node_id())["lanes"].as_array().unwrap();
        let at_new = |lane: &Value| lane["remote"].as_str().unwrap().starts_with("10.0.0.88:");
        !lanes.is_empty() && lanes.iter().all(at_new)
    });
    a.wait_for_answer(inner(2).into()).unwrap();
    b.wait_for_answer(inner(1).into()).unwrap();
    assert_eq!(peer_state(&counters(&mut b), pair.a.node_id()), "up");
    for running in [&a, &b] {
        assert_eq!(count_lines(running, "down after"), 0, "{}", running.process.stderr());
    }
    drop(traffic);
}

#[test]
fn a_name_is_resolved_again_at_each_dial() {
    let mut pair = Pair::new("name");
    let hosts = pair.lab.dir().join("hosts");
    // Nobody is at the first address.
    fs::write(&hosts, "10.0.0.99 far.test\n").unwrap();
    let switch = pair.a.binary().display().to_string();
    let line = format!(
        "exec unshare --mount sh -c 'mount --bind {} /etc/hosts && exec {switch} \"$@\"' ipop-switch \"$@\"",
        hosts.display()
    );
    let mut a = node(&pair.lab, pair.a.host(), 1);
    a.run_as(&script(pair.lab.dir(), "with-hosts", &line));
    let far = format!("{}@far.test:5800", pair.b.node_id());
    a.args(&["--peer", &far]);
    pair.b.admit(a.node_id());
    let _b = pair.b.start().unwrap();
    let mut a = a.start().unwrap();
    let line = wait_for_log(&mut a, "cannot reach peer", SOON);
    assert!(line.contains("10.0.0.99") && line.contains(&pair.b.node_id().to_string()), "{line}");
    // In place: the file is what was mounted.
    fs::write(&hosts, format!("{} far.test\n", pair.link.b.ipv4)).unwrap();
    wait_for_lines(&a, PEER_UP, 1, 2 * SOON);
    a.wait_for_answer(inner(2).into()).unwrap();
}

#[test]
fn a_node_that_is_not_admitted_is_told_so_and_so_is_its_target() {
    let lab = lab("refused");
    let (a, b) = (lab.host("a").unwrap(), lab.host("b").unwrap());
    let link = lab.link(&a, &b, LinkOptions::new()).unwrap();
    let (mut near, mut far) = (node(&lab, &a, 1), node(&lab, &b, 2));
    // b expects another node than a.
    far.admit(node(&lab, &a, 3).node_id());
    near.dial(far.node_id(), link.b.ipv4);
    let mut b = far.start().unwrap();
    let mut a = near.start().unwrap();
    let at_a = wait_for_log(&mut a, "cannot reach peer", SOON);
    assert!(at_a.contains("refused this node") && at_a.contains("--peer"), "{at_a}");
    let id = near.node_id().to_string();
    let at_b = wait_for_log(&mut b, &id, SOON);
    assert!(at_b.contains("10.0.0.1") && at_b.contains(&format!("--peer {id}")), "{at_b}");
    // The end that dials for ever says why once.
    thread::sleep(Duration::from_secs(3));
    assert_eq!(count_lines(&a, "cannot reach peer"), 1, "{}", a.process.stderr());
    assert_eq!((count_lines(&a, PEER_UP), count_lines(&b, PEER_UP)), (0, 0));
}

/// A switch does not answer who asks for another one, so all that can be said is who was asked for, and where.
#[test]
fn an_address_where_another_node_listens_stays_silent() {
    let pair = Pair::new("another");
    let asked_for = node(&pair.lab, pair.b.host(), 3).node_id();
    let mut near = node(&pair.lab, pair.a.host(), 4);
    near.dial(asked_for, pair.link.b.ipv4);
    let mut b = pair.b.start().unwrap();
    let mut a = near.start().unwrap();
    let line = wait_for_log(&mut a, "cannot reach peer", SOON);
    assert!(line.contains(&asked_for.to_string()) && line.contains("10.0.0.2:5800"), "{line}");
    assert!(line.contains("no answer"), "{line}");
    let report = wait_for_counters(&mut b, SOON, |r| of_workers(r, "strangers") > 0);
    assert_eq!(of_workers(&report, "sent_packets"), 0, "{report:#}");
}
