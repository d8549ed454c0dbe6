//! The obvious implementation against itself: it has to be right before anything is measured against it. Needs root.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::{net::Ipv4Addr, time::Duration};

use ipop_perf::{
    lab::{
        Interface, Lab, LinkOptions,
        tools::{Iperf3, Ping},
    },
    tunnel::{Node, Program, Running},
};

const SOON: Duration = Duration::from_secs(15);

fn inner(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 0, number as u8 + 1)
}

/// So many nodes on one underlay, each with an inner address.
fn nodes(label: &str, count: usize) -> (Lab, Vec<Node>, Vec<Interface>) {
    let lab = Lab::new(label).unwrap_or_else(|error| panic!("{error:#}"));
    let hosts: Vec<_> = (0..count).map(|n| lab.host(&format!("h{n}")).unwrap()).collect();
    let underlay = lab.underlay(&hosts.iter().collect::<Vec<_>>(), LinkOptions::new()).unwrap();
    let node = |(number, host)| {
        let mut node = Node::new(&lab, host, Program::Obvious).unwrap();
        node.address(&format!("{}/24", inner(number)));
        node
    };
    let nodes = hosts.iter().enumerate().map(node).collect();
    (lab, nodes, underlay)
}

/// Starts a pair of which the first dials.
fn pair(nodes: &mut [Node], underlay: &[Interface]) -> [Running; 2] {
    let [a, b] = nodes else { panic!("a pair") };
    b.admit(a.node_id());
    a.dial(b.node_id(), underlay[1].ipv4);
    let b = b.start().unwrap();
    [a.start().unwrap(), b]
}

#[test]
fn ping_and_tcp_cross_and_the_far_end_returns() {
    let (_lab, mut nodes, underlay) = nodes("pair", 2);
    let [mut a, mut b] = pair(&mut nodes, &underlay);
    a.wait_for_answer(inner(1).into()).unwrap();
    a.wait_for_ping(&Ping::to(inner(1)).unfragmented(1400 - 28)).unwrap();
    let flow = Iperf3::to(inner(1)).seconds(1).run(&a.host, &b.host).unwrap();
    assert!(b.host.counters(&b.tap).unwrap().rx_bytes > flow.received_bytes);

    b.process.kill().unwrap();
    let mut b = nodes[1].start().unwrap();
    a.wait_for_answer(inner(1).into()).unwrap();
    let exit = b.process.terminate().unwrap();
    assert_eq!(exit.status.code(), Some(0));
    let log = b.process.stderr();
    assert!(log.contains("malformed: 0") && log.contains("peer down"), "{log}");

    a.host.ip(&["link", "delete", &a.tap]).unwrap();
    assert_eq!(a.process.wait(SOON).unwrap().status.code(), Some(1));
    assert!(a.process.stderr().contains("reading the TAP ipop0"), "{}", a.process.stderr());
}

#[test]
fn three_nodes_that_all_dial_form_one_segment() {
    let (_lab, mut nodes, underlay) = nodes("mesh", 3);
    let ids: Vec<_> = nodes.iter().map(Node::node_id).collect();
    for (number, node) in nodes.iter_mut().enumerate() {
        for peer in (0..3).filter(|&peer| peer != number) {
            node.dial(ids[peer], underlay[peer].ipv4);
        }
    }
    let running: Vec<_> = nodes.iter().map(|node| node.start().unwrap()).collect();
    for (from, to) in [(0, 1), (1, 2), (2, 0)] {
        running[from].wait_for_answer(inner(to).into()).unwrap();
    }
    let broadcast = Ping::to(inner(2)).count(5).run(&running[0].host).unwrap();
    assert_eq!((broadcast.received, broadcast.duplicates), (5, 0));
}

#[test]
fn a_key_that_was_not_named_stays_outside() {
    let (_lab, mut nodes, underlay) = nodes("stranger", 3);
    let stranger_id = nodes[2].node_id();
    let [a, b, _] = &mut nodes[..] else { panic!("three nodes") };
    // b expects another node than a.
    b.admit(stranger_id);
    a.dial(b.node_id(), underlay[1].ipv4);
    let b = b.start().unwrap();
    let mut a = a.start().unwrap();
    a.process.wait_for_line("dialling", SOON).unwrap();
    assert_eq!(Ping::to(inner(1)).run(&a.host).unwrap().received, 0);
    assert!(!b.process.stderr().contains("peer up"), "{}", b.process.stderr());
}
