//! Several workers: lanes, queues, and the order of each flow. Needs root.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use common::{
    Pair, PairOptions, SOON, expect_pings, inner, inner6,
    report::{Port, Report},
    transfer::{Numbers, expect_bytes_cross},
};
use ipop_perf::lab::{
    Host,
    tools::{Iperf3, Ping},
};

const ONE: &[&str] = &["--workers", "1"];
const TWO: &[&str] = &["--workers", "2"];

/// So many that all of them on one of two queues is next to impossible.
const FLOWS: usize = 16;

fn pair(label: &str, args: [&'static [&'static str]; 2], lanes: usize) -> Pair {
    let mut pair = Pair::start(label, &PairOptions { args, ..PairOptions::default() });
    // Until the last lane is up flows move over to it.
    pair.a.wait_for_peers(lanes);
    pair.b.wait_for_peers(lanes);
    pair
}

/// Numbered datagrams of many flows: each flow's arrive in order, once, in both directions.
fn check_order(pair: &Pair) {
    let (a, b) = (pair.a.host(), pair.b.host());
    let numbers = Numbers { flows: FLOWS, count: 500, payload_len_max: 1_472 };
    for (flow, arrived) in numbers.run(a, b, inner(1)).iter().enumerate() {
        assert_eq!(arrived.disorder(), None, "flow {flow} of {FLOWS}");
        let there = arrived.there.len();
        assert!(there > 400, "flow {flow}: {there} of 500, with nothing in the way");
    }
}

/// TCP over several flows at once in both directions, and its bytes.
fn check_tcp(pair: &Pair) {
    let (a, b) = (pair.a.host(), pair.b.host());
    Iperf3::to(inner(1)).flows(8).seconds(1).run(a, b).unwrap();
    Iperf3::to(inner6(1)).flows(8).seconds(1).reverse().run(a, b).unwrap();
    expect_bytes_cross(a, b, inner6(1), 4 << 20, SOON);
    expect_bytes_cross(b, a, inner(0), 4 << 20, SOON);
}

fn busy_workers<'a>(port: Port<'a>, counter: &str) -> usize {
    port.workers().filter(|worker| worker.count(counter) > 100).count()
}

fn lanes_in_use(report: &Report) -> usize {
    let tunnels = report.peer(0).json()["tunnels"].as_array().into_iter().flatten();
    tunnels.filter(|tunnel| tunnel["sent_packets"].as_u64() > Some(100)).count()
}

#[test]
fn two_workers_share_the_flows_and_keep_their_order() {
    let mut pair = pair("two", [TWO, TWO], 2);
    check_order(&pair);
    check_tcp(&pair);
    pair.check_full_size_pings(1500);
    for site in [&mut pair.a, &mut pair.b] {
        let report = site.wait_for_report("both lanes in use", |report| lanes_in_use(report) == 2);
        assert_eq!(report.tap(0).count("queues"), 2, "{report}");
        for counter in ["received_frames", "sent_frames"] {
            assert_eq!(busy_workers(report.tap(0), counter), 2, "{counter}: {report}");
            assert_eq!(busy_workers(report.peer(0), counter), 2, "{counter}: {report}");
        }
    }
    pair.check_balance();
    pair.stop();
}

/// Nothing from the dialler's source port of this lane gets in any more: lane 0 comes from port 5800, lane 1 from another.
fn kill_lane(lane: usize, host: &Host) {
    let is = ["==", "!="][lane];
    let rule = format!(
        "add table inet lane
        add chain inet lane input {{ type filter hook input priority 0; }}
        add rule inet lane input udp dport 5800 udp sport {is} 5800 drop"
    );
    for command in rule.lines() {
        host.run("nft", command.split_whitespace()).unwrap();
    }
}

#[test]
fn a_dead_lane_is_no_outage() {
    for lane in [0, 1] {
        let mut pair = pair("dead", [TWO, TWO], 2);
        check_order(&pair);
        let other = 1 - lane;
        let before = [&mut pair.a, &mut pair.b].map(|site| {
            let report = site.wait_for_report("both lanes", |report| report.peer(0).lanes() == 2);
            report.peer(0).json()["lanes"][other]["connection"].clone()
        });
        let (a, b) = (pair.a.host(), pair.b.host());
        kill_lane(lane, a);
        kill_lane(lane, b);
        // Noticed by whoever uses it: an idle further lane is asked now and then only.
        let numbers = Numbers { flows: FLOWS, count: 50, payload_len_max: 1_000 };
        numbers.run(a, b, inner(1));
        numbers.run(b, a, inner(0));
        for (site, connection) in [&mut pair.a, &mut pair.b].into_iter().zip(before) {
            let report = site.wait_for_report("one lane left", |report| {
                let peer = report.peer(0);
                peer.is_up() && peer.lanes() == 1
            });
            let left = &report.peer(0).json()["lanes"][0];
            assert_eq!(left["lane"], other);
            assert_eq!(left["connection"], connection, "it was left alone: {report}");
        }
        // What the kernel reads from the other queue goes through that lane's worker now.
        check_order(&pair);
        check_tcp(&pair);
        pair.stop();
    }
}

#[test]
fn one_worker_works_with_two() {
    for args in [[ONE, TWO], [TWO, ONE]] {
        // There are as many lanes as both serve.
        let mut pair = pair("onetwo", args, 1);
        expect_pings(pair.b.host(), &Ping::to(inner(0)).count(5));
        check_order(&pair);
        check_tcp(&pair);
        pair.check_full_size_pings(1500);
        pair.check_balance();
        pair.stop();
    }
}

#[test]
fn one_worker_works_with_one() {
    let mut pair = pair("one", [ONE, ONE], 1);
    check_order(&pair);
    check_tcp(&pair);
    pair.check_balance();
    pair.stop();
}
