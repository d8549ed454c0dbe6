//! Tunnels over a wire that loses, reorders, duplicates, delays, shrinks and is cut.

use std::{thread::sleep, time::Duration};

use ipop_perf::{
    lab::tools::Ping,
    wire::{Impairments, Towards, WireOptions},
};
use serde_json::Value;

use crate::support::{
    DEAD_WITHIN, PEER_UP, Pair, SOON, count_lines, counters, expect_bytes_cross, inner, peer_of,
    wait_for_counters, wait_for_lines, wait_for_log,
};

/// What one TCP transfer of these tests may take.
const TRANSFER_LIMIT: Duration = Duration::from_secs(40);

fn pair(label: &str, impairments: Impairments) -> Pair {
    Pair::on_wire(label, &WireOptions::new(7).impairments(impairments))
}

#[test]
fn tcp_stays_intact_and_pings_get_through_at_one_percent_of_loss_and_reordering() {
    let impairments = Impairments { loss: 0.01, reordering: 0.01, ..Impairments::default() };
    let pair = pair("lossy", impairments);
    let [mut a, mut b] = pair.start();
    expect_bytes_cross(&a.host, &b.host, inner(2), 16 << 20, TRANSFER_LIMIT);
    expect_bytes_cross(&b.host, &a.host, inner(1), 4 << 20, TRANSFER_LIMIT);
    let interval = Duration::from_millis(10);
    let report = Ping::to(inner(2)).count(300).interval(interval).run(&a.host).unwrap();
    // Request and answer each take a chance of 1 %; a tenth would be something else.
    assert!(report.loss() < 0.1, "{report:?}");
    for (running, peer) in [(&mut a, pair.b.node_id()), (&mut b, pair.a.node_id())] {
        let report = counters(running);
        assert_eq!(peer_of(&report, peer)["state"], "up");
        assert_eq!(peer_of(&report, peer)["drops"].get("bad_record"), None, "{report:#}");
        assert_eq!(count_lines(running, "down after"), 0, "{}", running.process.stderr());
    }
}

#[test]
fn thirty_percent_of_loss_each_way_drop_no_tunnel() {
    let pair = pair("verylossy", Impairments::default());
    let [a, b] = pair.start();
    let before = [Towards::A, Towards::B].map(|towards| pair.wire().counters(towards));
    pair.wire().change(|both| both.loss = 0.3);
    // A minute of frames now and then.
    let interval = Duration::from_millis(300);
    let report = Ping::to(inner(2)).count(200).interval(interval).run(&a.host).unwrap();
    // What the wire did; of the pings fewer are lost, since small frames are repeated on such a path (`repeat.rs`).
    for (towards, before) in [Towards::A, Towards::B].into_iter().zip(before) {
        let now = pair.wire().counters(towards);
        let (lost, frames) = (now.lost - before.lost, now.frames - before.frames);
        assert!(frames > 200 && (20..=40).contains(&(lost * 100 / frames)), "{lost} of {frames}");
    }
    assert!((1..200).contains(&report.received), "{report:?}");
    for running in [&a, &b] {
        assert_eq!(count_lines(running, "down"), 0, "{}", running.process.stderr());
    }
}

#[test]
fn what_the_wire_duplicates_is_delivered_once() {
    let impairments = Impairments { duplication: 0.5, ..Impairments::default() };
    let pair = pair("twice", impairments);
    let [a, b] = pair.start();
    let interval = Duration::from_millis(10);
    let report = Ping::to(inner(2)).count(100).interval(interval).run(&a.host).unwrap();
    assert_eq!((report.received, report.duplicates), (100, 0), "{report:?}");
    assert!(pair.wire().counters(Towards::B).duplicated > 30);
    expect_bytes_cross(&a.host, &b.host, inner(2), 4 << 20, TRANSFER_LIMIT);
}

#[test]
fn twenty_milliseconds_of_delay_are_only_slow() {
    let delay = Duration::from_millis(20);
    let pair = pair("far", Impairments { delay, ..Impairments::default() });
    let [a, b] = pair.start();
    let report = Ping::to(inner(2)).count(20).interval(Duration::from_millis(50)).run(&a.host);
    let report = report.unwrap().expect_no_loss().unwrap();
    assert!(report.rtts_ms.iter().all(|rtt_ms| *rtt_ms >= 40.0), "{report:?}");
    expect_bytes_cross(&a.host, &b.host, inner(2), 4 << 20, TRANSFER_LIMIT);
}

#[test]
fn a_path_that_shrinks_silently_is_found_out() {
    let pair = pair("shrinks", Impairments::default());
    let [mut a, b] = pair.start();
    let smallest = |report: &Value| smallest_path_mtu(report, &pair);
    wait_for_counters(&mut a, SOON, |report| smallest(report) > 1_400);
    expect_bytes_cross(&a.host, &b.host, inner(2), 1 << 20, TRANSFER_LIMIT);
    pair.wire().change(|both| both.mtu = 1_300);
    expect_bytes_cross(&a.host, &b.host, inner(2), 4 << 20, TRANSFER_LIMIT);
    // The lane that carried it must have noticed; 28 bytes of the 1,300 are headers.
    wait_for_counters(&mut a, SOON, |report| smallest(report) <= 1_272);
    // Each lane has to notice for itself.
    a.wait_for_ping(&Ping::to(inner(2)).unfragmented(1_400 - 28).count(5)).unwrap();
    assert_eq!(count_lines(&a, "down after"), 0, "{}", a.process.stderr());
}

/// The smallest path MTU of the lanes to the peer, bytes of UDP payload.
fn smallest_path_mtu(report: &Value, pair: &Pair) -> u64 {
    let tunnels = peer_of(report, pair.b.node_id())["tunnels"].as_array().unwrap();
    tunnels.iter().map(|tunnel| tunnel["path_mtu_bytes"].as_u64().unwrap()).min().unwrap()
}

#[test]
fn a_partition_of_two_seconds_heals_unnoticed() {
    let pair = pair("brief", Impairments::default());
    let [a, b] = pair.start();
    pair.wire().cut();
    sleep(Duration::from_secs(2));
    pair.wire().heal();
    a.wait_for_answer(inner(2).into()).unwrap();
    b.wait_for_answer(inner(1).into()).unwrap();
    for running in [&a, &b] {
        assert_eq!(count_lines(running, "down"), 0, "{}", running.process.stderr());
    }
}

#[test]
fn a_partition_of_fifteen_seconds_ends_in_down_and_up_again() {
    let pair = pair("long", Impairments::default());
    let [mut a, mut b] = pair.start();
    let ups = count_lines(&a, PEER_UP);
    pair.wire().cut();
    wait_for_log(&mut a, "down after", DEAD_WITHIN);
    wait_for_log(&mut b, "down after", DEAD_WITHIN);
    // Long enough that dials fail and back off.
    wait_for_log(&mut a, "cannot reach peer", SOON);
    pair.wire().heal();
    wait_for_lines(&a, PEER_UP, ups + 1, 2 * SOON);
    a.wait_for_answer(inner(2).into()).unwrap();
    b.wait_for_answer(inner(1).into()).unwrap();
}

/// The end that sends cannot know what else is behind the other, so the other one counts.
#[test]
fn frames_that_do_not_fit_the_far_side_are_counted_there() {
    let mut pair = Pair::new("overmtu");
    pair.b.mtu(1_300);
    let [a, mut b] = pair.start();
    let large = Ping::to(inner(2)).count(3).unfragmented(1_372).run(&a.host).unwrap();
    assert_eq!(large.received, 0);
    let over_mtu = |report: &Value| peer_of(report, pair.a.node_id())["drops"]["over_mtu"].as_u64();
    wait_for_counters(&mut b, SOON, |report| over_mtu(report).is_some_and(|frames| frames >= 3));
}
