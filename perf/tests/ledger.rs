//! Every datagram of a flood arrives or stands in a counter, wherever it is lost. Needs root.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::{thread, time::Duration};

use common::{Pair, PairOptions, TAP, inner, report};
use ipop_perf::{
    batch::BATCH,
    flood::{AMPLE_BUFFER_BYTES, Flood},
    lab::{Host, Signal},
    overload::ledger::Ledger,
};

/// More than any tunnel carries that shares two processors with its sender.
const FLOOD: Flood = Flood {
    payload_len: 1_350,
    rate_per_s: None,
    together: BATCH,
    length: Duration::from_millis(1_500),
    receive_buffer_bytes: Some(AMPLE_BUFFER_BYTES),
};
/// Within the flood.
const A_WHILE: Duration = Duration::from_millis(500);

/// Nothing but the flood crosses: no neighbour is asked for, no router, no multicast group.
fn silence(pair: &mut Pair) {
    let mac = |report: report::Report| report.tap(0).json()["mac"].as_str().unwrap().to_owned();
    let macs = [mac(pair.a.report()), mac(pair.b.report())];
    for (number, host) in [pair.a.host(), pair.b.host()].into_iter().enumerate() {
        let setting = format!("net.ipv6.conf.{TAP}.disable_ipv6=1");
        host.run("sysctl", ["-q", "-w", &setting]).unwrap();
        let (address, mac) = (inner(1 - number).to_string(), &macs[1 - number]);
        let neighbour = ["neighbour", "replace", &address, "lladdr", mac, "dev", TAP];
        host.ip(&[&neighbour[..], &["nud", "permanent"]].concat()).unwrap();
    }
}

fn ledger(pair: &mut Pair) -> Ledger {
    Ledger::of(pair.a.report().json(), pair.b.report().json())
}

/// Floods site 1 while something is done to it, and gives back where what did not arrive was lost.
fn flood(pair: &mut Pair, meanwhile: impl FnOnce(&mut Pair)) -> Ledger {
    let before = ledger(pair);
    let (sender, receiver) = (pair.a.host().clone(), pair.b.host().clone());
    let flooding = thread::spawn(move || FLOOD.run(&sender, &receiver, inner(1)));
    thread::sleep(A_WHILE / 2);
    meanwhile(pair);
    let flood = flooding.join().unwrap().unwrap_or_else(|error| panic!("{error:#}"));
    assert_eq!(flood.unread, 0, "the receiver keeps up");
    report::wait_for("all that was lost stands in a counter", || {
        let lost = ledger(pair).since(&before);
        let placed = lost.lost() + flood.received;
        if placed == flood.sent { Ok(lost) } else { Err(format!("{flood:?}\n{lost:?}")) }
    })
}

fn overflows(host: &report::Report) -> u64 {
    let workers = host.json()["workers"].as_array().into_iter().flatten();
    workers.filter_map(|worker| worker["receive_overflows"].as_u64()).sum()
}

fn set_tap(host: &Host, state: &str) {
    host.ip(&["link", "set", "dev", TAP, state]).unwrap();
}

fn check(label: &str, args: &'static [&'static str]) {
    let options = PairOptions { args: [args; 2], ..PairOptions::default() };
    let mut pair = Pair::start(label, &options);
    silence(&mut pair);

    let lost = flood(&mut pair, |_| {});
    assert!(lost.lost_at("near TAP: kernel_tx_dropped") > 0, "{lost:?}");

    // The far switch reads nothing for a while: its sockets overflow, and say so.
    let before = overflows(&pair.b.report());
    let lost = flood(&mut pair, |pair| {
        let far = &mut pair.b.switch.process;
        far.signal(Signal::STOP).unwrap();
        thread::sleep(A_WHILE);
        far.signal(Signal::CONT).unwrap();
    });
    assert!(lost.lost_at("far tunnel: missing_frames") > 0, "{lost:?}");
    report::wait_for("the far switch's sockets say that they overflowed", || {
        let report = pair.b.report();
        if overflows(&report) > before { Ok(()) } else { Err(report.to_string()) }
    });

    // The far TAP takes nothing for a while, where datagrams come joined.
    let lost = flood(&mut pair, |pair| {
        set_tap(pair.b.host(), "down");
        thread::sleep(A_WHILE);
        set_tap(pair.b.host(), "up");
    });
    assert!(lost.lost_at("far TAP: tap_down") > 0, "{lost:?}");
    pair.stop();
}

#[test]
fn what_a_flood_loses_is_counted_where_it_is_lost() {
    check("ledger", &["--workers", "1"]);
    check("ledgertwo", &["--workers", "2"]);
}
