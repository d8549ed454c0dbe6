//! Peers that are configured and denied: they are kept out, and nothing of the others is lost or counted under another's name.

use std::{fs, net::IpAddr, path::PathBuf};

use ipop_datapath::node_id::NodeId;
use ipop_perf::{
    lab::{Lab, LinkOptions, Signal, tools::Ping, wait_until},
    tunnel::{Node, Running},
};

use serde_json::Value;

use crate::support::{
    SOON, counters, inner, lab, node, peer_of, switch_binary, wait_for_counters, wait_for_log,
};

/// A node with two peers, of which it denies one or the other.
struct Trio {
    near: Node,
    config: PathBuf,
    /// Node 2 and node 3.
    far: [Node; 2],
    running: Vec<Running>,
    _lab: Lab,
}

impl Trio {
    /// The peers run and wait; the node between them does not yet.
    fn new(label: &str) -> Self {
        let lab = lab(label);
        let hosts = ["near", "second", "third"].map(|name| lab.host(name).unwrap());
        let ends = lab.underlay(&hosts.each_ref(), LinkOptions::new()).unwrap();
        let [mut near, mut second, mut third] =
            [0, 1, 2].map(|index| node(&lab, &hosts[index], index as u8 + 1));
        let config = lab.dir().join("config.toml");
        near.args(&["--config", config.to_str().unwrap()]);
        for far in [&mut second, &mut third] {
            far.dial(near.node_id(), ends[0].ipv4);
        }
        let running = vec![second.start().unwrap(), third.start().unwrap()];
        Self { near, config, far: [second, third], running, _lab: lab }
    }

    fn id(&self, far: usize) -> NodeId {
        self.far[far].node_id()
    }

    /// Names these peers, in this order.
    fn configure(&self, order: [usize; 2]) {
        let [one, other] = order.map(|far| self.id(far));
        fs::write(&self.config, format!("peer = [\"{one}\", \"{other}\"]\n")).unwrap();
    }

    fn trust(&self, what: &str, far: Option<usize>) -> String {
        let mut args = vec!["trust".to_owned(), what.into()];
        args.extend(far.map(|far| self.id(far).to_string()));
        args.extend(["--state".into(), self.near.state().to_str().unwrap().into()]);
        self.near.host().run(switch_binary(), args).unwrap()
    }

    /// Frames pass between the node and this peer, and no others: neither from nor to another port is anything counted.
    #[track_caller]
    fn expect_frames(&self, near: &mut Running, far: usize) {
        let (id, other) = (self.id(far), self.id(1 - far));
        let is_up = |peer: &Value| peer["node"] == id.to_string() && peer["state"] == "up";
        // Who was just let in is not among the peers yet.
        wait_for_counters(near, SOON, |report| {
            report["peers"].as_array().unwrap().iter().any(is_up)
        });
        let address: IpAddr = inner(far as u8 + 2).into();
        near.wait_for_answer(address).unwrap();
        let passed = |report: &Value, node| {
            let peer = peer_of(report, node);
            ["received_frames", "sent_frames"].map(|name| peer[name].as_u64().unwrap())
        };
        let before = counters(near);
        let ping = Ping::to(address).count(20).run(&near.host).unwrap();
        ping.expect_no_loss().unwrap();
        let after = counters(near);
        let grown = |node| {
            let [before, after] = [&before, &after].map(|report| passed(report, node));
            [after[0] - before[0], after[1] - before[1]]
        };
        assert!(grown(id).iter().all(|frames| *frames >= 20), "{after:#}");
        let is_known =
            after["peers"].as_array().unwrap().iter().any(|p| p["node"] == other.to_string());
        if is_known {
            assert!(grown(other).iter().all(|frames| *frames < 20), "{after:#}");
        }
    }
}

/// A peer that is denied takes no port, so whoever stands behind it in the list has another one than its place tells.
#[test]
fn a_denied_peer_takes_nothing_from_the_others() {
    let trio = Trio::new("denied");
    trio.configure([0, 1]);
    trio.trust("deny", Some(0));
    let mut near = trio.near.start().unwrap();
    wait_for_log(&mut near, &format!("--peer {}: it is denied", trio.id(0)), SOON);
    trio.expect_frames(&mut near, 1);
    assert_eq!(counters(&mut near)["peers"].as_array().unwrap().len(), 1);
    let up = format!("up       {} ", trio.id(1));
    let listed = || trio.trust("list", None);
    let is_listed = wait_until(SOON, || listed().contains(&up) && listed().contains("(--peer)"));
    assert!(is_listed, "{}", listed());

    // It is let in while the switch runs, and shut out again.
    trio.trust("forget", Some(0));
    trio.expect_frames(&mut near, 0);
    trio.expect_frames(&mut near, 1);
    trio.trust("deny", Some(1));
    wait_for_log(&mut near, &format!("closed the tunnels of peer {}", trio.id(1)), SOON);
    trio.expect_frames(&mut near, 0);

    // Another order at SIGHUP changes nothing, and who is accepted again finds its frames.
    trio.configure([1, 0]);
    near.process.signal(Signal::HUP).unwrap();
    wait_for_log(&mut near, "SIGHUP: 0 peers new or changed", SOON);
    trio.trust("accept", Some(1));
    trio.expect_frames(&mut near, 1);
    trio.expect_frames(&mut near, 0);
    drop(trio.running);
}
