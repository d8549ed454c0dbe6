//! The obvious implementation as the far side: an independent reading of the wire format. Needs root.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use common::{
    SOON, Site, TAP, expect_arp, expect_pings, inner, inner6, lab, switch,
    transfer::{Numbers, expect_bytes_cross},
};
use ipop_perf::{
    lab::{
        LinkOptions,
        tools::{Iperf3, Ping},
    },
    tunnel::{Node, Program},
};

/// The most that a frame of the obvious implementation holds: it sends each in one datagram.
const MTU: u16 = 1400;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Dialler {
    Switch,
    Obvious,
}

fn check(label: &str, dialler: Dialler, workers: &'static str) {
    let lab = lab(label);
    let (a, b) = (lab.host("a").unwrap(), lab.host("b").unwrap());
    let link = lab.link(&a, &b, LinkOptions::new()).unwrap();
    let mut ours = switch(&lab, &a);
    let mut theirs = Node::new(&lab, &b, Program::Obvious).unwrap();
    match dialler {
        Dialler::Switch => {
            ours.dial(theirs.node_id(), link.b.ipv4);
            theirs.admit(ours.node_id());
        }
        Dialler::Obvious => {
            theirs.dial(ours.node_id(), link.a.ipv4);
            ours.admit(theirs.node_id());
        }
    }
    for (number, node) in [&mut ours, &mut theirs].into_iter().enumerate() {
        node.mtu(MTU);
        node.address(&format!("{}/24", inner(number))).address(&format!("{}/64", inner6(number)));
    }
    ours.args(&["--workers", workers]);
    let mut far = theirs.start().unwrap_or_else(|error| panic!("{error:#}"));
    let mut near = Site::start(ours);
    near.switch.wait_for_answer(inner(1).into()).unwrap_or_else(|error| panic!("{error:#}"));

    expect_pings(&a, &Ping::to(inner(1)).unfragmented(u32::from(MTU) - 28).count(5));
    expect_pings(&b, &Ping::to(inner6(0)).unfragmented(u32::from(MTU) - 48).count(5));
    expect_arp(&b, TAP, inner(0));
    Iperf3::to(inner(1)).seconds(1).run(&a, &b).unwrap();
    Iperf3::to(inner(1)).seconds(1).reverse().run(&a, &b).unwrap();
    expect_bytes_cross(&a, &b, inner(1), 4 << 20, SOON);
    expect_bytes_cross(&b, &a, inner6(0), 4 << 20, SOON);
    let numbers = Numbers { flows: 1, count: 300, payload_len_max: usize::from(MTU) - 28 };
    let arrived = numbers.run(&a, &b, inner(1));
    assert!(arrived[0].there.len() > 200, "{} of 300", arrived[0].there.len());

    let report = near.report();
    let peer = report.peer(0);
    assert!(peer.is_up() && peer.lanes() == 1, "{report}");
    assert_eq!(peer.drops_of("bad_record") + peer.drops_of("unknown_record"), 0, "{report}");
    let direction = &peer.json()["lanes"][0]["direction"];
    assert_eq!(direction == "dialled", dialler == Dialler::Switch, "{report}");
    near.stop();
    // A proper end is told to the far side, which counted no record that it could not read.
    far.process.wait_for_line("peer down", SOON).unwrap_or_else(|error| panic!("{error:#}"));
    far.process.terminate().unwrap();
    let log = far.process.stderr();
    assert!(log.contains("malformed: 0"), "{log}");
}

#[test]
fn the_switch_dials_the_obvious_implementation() {
    check("dials", Dialler::Switch, "1");
}

#[test]
fn the_obvious_implementation_dials_the_switch() {
    check("dialled", Dialler::Obvious, "1");
}

#[test]
fn two_workers_serve_a_peer_of_one_lane() {
    check("lanes", Dialler::Obvious, "2");
}
