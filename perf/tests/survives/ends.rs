//! The end of a switch, and its return.

use std::time::Duration;

use ipop_perf::{
    lab::{Signal, tools::Ping, wait_until},
    tunnel::Running,
};

use crate::support::{
    DEAD_WITHIN, Pair, SOON, count_lines, counters, inner, lab, node, peer_state, script,
    wait_for_counters, wait_for_log,
};

/// How the log explains a peer that said nothing any more.
const SILENT: &str = "nothing was heard from it";

#[test]
fn a_killed_listener_that_returns_is_noticed_at_once() {
    let pair = Pair::new("listener");
    let [mut a, mut b] = pair.start();
    b.process.kill().unwrap();
    b = pair.b.start().unwrap();
    wait_for_log(&mut a, "restarted", SOON);
    a.wait_for_answer(inner(2).into()).unwrap();
    let log = a.process.stderr();
    assert!(!log.contains(SILENT), "the reset was not understood:\n{log}");
    assert_eq!(peer_state(&counters(&mut b), pair.a.node_id()), "up");
    assert_eq!(peer_state(&counters(&mut a), pair.b.node_id()), "up");
}

#[test]
fn a_killed_dialler_that_returns_is_noticed_at_once() {
    let pair = Pair::new("dialler");
    let [mut a, mut b] = pair.start();
    a.process.kill().unwrap();
    a = pair.a.start().unwrap();
    wait_for_log(&mut b, "restarted", SOON);
    b.wait_for_answer(inner(1).into()).unwrap();
    a.wait_for_answer(inner(2).into()).unwrap();
    assert!(!b.process.stderr().contains(SILENT), "{}", b.process.stderr());
}

#[test]
fn a_killed_switch_that_stays_away_is_reported_within_ten_seconds() {
    let pair = Pair::new("dead");
    let [mut a, mut b] = pair.start();
    b.process.kill().unwrap();
    let down = wait_for_log(&mut a, "down after", DEAD_WITHIN);
    assert!(down.contains(SILENT) && down.contains(&pair.b.node_id().to_string()), "{down}");
    let report = counters(&mut a);
    assert_ne!(peer_state(&report, pair.b.node_id()), "up");
    assert!(!b.host.has_interface(&b.tap), "a TAP goes with its switch");
}

/// Frames wait for it all the while.
#[test]
fn a_switch_that_is_stopped_for_two_seconds_keeps_its_tunnel() {
    let pair = Pair::new("stopped");
    let [mut a, mut b] = pair.start();
    let interval = Duration::from_millis(50);
    let pings = Ping::to(inner(2)).count(100_000).interval(interval).start(&a.host).unwrap();
    for _ in 0..3 {
        b.process.signal(Signal::STOP).unwrap();
        std::thread::sleep(Duration::from_secs(2));
        b.process.signal(Signal::CONT).unwrap();
        let answered = pings.answers();
        assert!(wait_until(SOON, || pings.answers() > answered + 10), "it goes on");
    }
    pings.stop().unwrap();
    for running in [&mut a, &mut b] {
        assert_eq!(downs(running), 0, "{}", running.process.stderr());
    }
}

fn downs(running: &Running) -> usize {
    count_lines(running, "down after") + count_lines(running, "down, others carry on")
}

#[test]
fn a_switch_that_is_told_to_stop_says_goodbye() {
    for signal in [Signal::INT, Signal::TERM] {
        let pair = Pair::new("goodbye");
        let [mut a, mut b] = pair.start();
        b.process.signal(signal).unwrap();
        assert_eq!(b.process.wait(SOON).unwrap().status.code(), Some(0), "{signal:?}");
        assert!(!b.host.has_interface(&b.tap), "a TAP that was made is removed");
        let down = wait_for_log(&mut a, "down after", SOON);
        assert!(down.contains("the peer was shut down"), "{down}");
        assert_ne!(peer_state(&counters(&mut a), pair.b.node_id()), "up");
    }
}

#[test]
fn a_log_that_takes_nothing_more_does_no_harm() {
    let lab = lab("fulllog");
    let host = lab.host("a").unwrap();
    let mut node = node(&lab, &host, 1);
    let line = format!("exec {} \"$@\" 2>/dev/full", node.binary().display());
    let mut running = node.run_as(&script(lab.dir(), "full-log", &line)).start().unwrap();
    assert!(counters(&mut running)["taps"].is_array());
    running.process.signal(Signal::TERM).unwrap();
    assert_eq!(running.process.wait(SOON).unwrap().status.code(), Some(0));
}

#[test]
fn a_dialler_that_is_told_to_stop_twice_still_says_goodbye() {
    let pair = Pair::new("twice");
    let [mut a, mut b] = pair.start();
    a.process.signal(Signal::TERM).unwrap();
    // It may have ended already, which is fine too.
    let _ = a.process.signal(Signal::TERM);
    assert_eq!(a.process.wait(SOON).unwrap().status.code(), Some(0));
    let down = wait_for_log(&mut b, "down after", SOON);
    assert!(down.contains("the peer was shut down"), "{down}");
    assert_eq!(peer_state(&counters(&mut b), pair.a.node_id()), "awaited");
}

/// Restarts of the peers leave nothing behind, and an idle switch is small.
#[test]
fn an_idle_switch_with_two_peers_is_small_and_keeps_its_descriptors() {
    let mut pair = Pair::new("idle");
    let third = pair.lab.host("c").unwrap();
    let link = {
        let (b, options) = (pair.b.host().clone(), ipop_perf::lab::LinkOptions::new());
        pair.lab.link(&third, &b, options).unwrap()
    };
    let mut c = node(&pair.lab, &third, 3);
    pair.b.admit(c.node_id());
    c.dial(pair.b.node_id(), link.b.ipv4);
    let [mut a, mut b] = pair.start();
    let mut at_c = c.start().unwrap();
    at_c.wait_for_answer(inner(2).into()).unwrap();
    // Lanes come up one after the other.
    let lanes = |report: &serde_json::Value| -> usize {
        report["peers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|p| p["lanes"].as_array().unwrap().len())
            .sum()
    };
    let workers = counters(&mut b)["workers"].as_array().unwrap().len();
    wait_for_counters(&mut b, SOON, |report| lanes(report) == 2 * workers);
    println!("resident with two peers: {} KiB", b.process.usage().unwrap().rss_kib);
    let before = descriptors(&b);
    for _ in 0..3 {
        at_c.process.terminate().unwrap();
        at_c = c.start().unwrap();
        at_c.wait_for_answer(inner(2).into()).unwrap();
        a.process.kill().unwrap();
        a = pair.a.start().unwrap();
        a.wait_for_answer(inner(2).into()).unwrap();
    }
    wait_for_counters(&mut b, SOON, |report| lanes(report) == 2 * workers);
    assert_eq!(descriptors(&b), before, "{}", b.process.stderr());
    let usage = b.process.usage().unwrap();
    assert!(usage.rss_kib < 40 << 10, "{usage:?}");
    println!("resident with two peers: {} KiB", usage.rss_kib);
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(count_lines(&b, "worker"), 1, "no worker complains:\n{}", b.process.stderr());
}

fn descriptors(running: &Running) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", running.process.pid())).unwrap().count()
}
