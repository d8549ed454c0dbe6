//! Devices that vanish or go down under a running switch.

use std::{thread::sleep, time::Duration};

use ipop_perf::{lab::wait_until, tunnel::Running};

use crate::support::{Pair, SOON, answers, count_lines, counters, inner, peer_state, wait_for_log};

#[test]
fn a_tap_that_is_deleted_ends_the_switch_with_1() {
    let pair = Pair::new("deleted");
    let [mut a, mut b] = pair.start();
    a.host.ip(&["link", "delete", "dev", &a.tap]).unwrap();
    let exit = a.process.wait(SOON).unwrap();
    let said = a.process.stderr();
    assert_eq!(exit.status.code(), Some(1), "{said}");
    assert!(said.contains("TAP ipop0 was deleted while in use"), "{said}");
    let down = wait_for_log(&mut b, "down after", SOON);
    assert!(down.contains("the peer was shut down"), "{down}");
}

#[test]
fn a_tap_that_goes_down_is_waited_for() {
    let pair = Pair::new("tapdown");
    let [mut a, b] = pair.start();
    a.host.ip(&["link", "set", "dev", &a.tap, "down"]).unwrap();
    // Frames that cannot be delivered arrive all the while.
    let knocking = b.host.spawn("ping", ["-n", "-i", "0.1", &inner(1).to_string()]).unwrap();
    assert_idle(&mut a);
    assert_eq!(peer_state(&counters(&mut a), pair.b.node_id()), "up");
    a.host.ip(&["link", "set", "dev", &a.tap, "up"]).unwrap();
    drop(knocking);
    a.wait_for_answer(inner(2).into()).unwrap();
    b.wait_for_answer(inner(1).into()).unwrap();
    assert_idle(&mut a);
}

/// A thread that spins would take all of two seconds.
fn assert_idle(running: &mut Running) {
    let before = running.process.usage().unwrap().cpu_s();
    sleep(Duration::from_secs(2));
    let used = running.process.usage().unwrap().cpu_s() - before;
    assert!(used < 1.0, "{used} s of CPU in two seconds of idling");
}

#[test]
fn an_underlay_that_goes_down_and_up_is_used_again() {
    let pair = Pair::new("linkdown");
    let [mut a, b] = pair.start();
    let interface = &pair.link.a.name;
    for outage_s in [1, 4] {
        a.host.ip(&["link", "set", "dev", interface, "down"]).unwrap();
        sleep(Duration::from_secs(outage_s));
        assert!(!answers(&a.host, inner(2)));
        a.host.ip(&["link", "set", "dev", interface, "up"]).unwrap();
        a.wait_for_answer(inner(2).into()).unwrap();
        b.wait_for_answer(inner(1).into()).unwrap();
    }
    assert_idle(&mut a);
    assert_eq!(count_lines(&a, "failed"), 0, "{}", a.process.stderr());
}

#[test]
fn an_attached_tap_is_left_as_it_was_found() {
    let pair = Pair::new("attached");
    let tuntap = ["tuntap", "add", "dev", "ipop0", "mode", "tap"];
    pair.a.host().ip(&tuntap).unwrap();
    pair.a.host().set_mtu("ipop0", 1_234).unwrap();
    let [mut a, _b] = pair.start();
    assert!(a.process.stderr().contains("attached"), "{}", a.process.stderr());
    assert_eq!(a.process.terminate().unwrap().status.code(), Some(0));
    let left = || a.host.ip(&["link", "show", "dev", "ipop0"]).unwrap();
    assert!(wait_until(SOON, || !left().contains("LOWER_UP")), "{}", left());
    assert!(left().contains("mtu 1234"), "{}", left());
}
