//! `ipop-switch check` tries what `run` would do with the same options: each step fails once, none is told wrongly, a switch that
//! runs is not disturbed, and nothing stays behind.

use std::{fs, path::Path};

use ipop_perf::{
    counters,
    lab::{Host, Lab, Link, LinkOptions, Process, wait_until},
};
use serde_json::Value;

use crate::{
    check::{check, row, rows},
    common::switch_binary,
    world::{Ending, SOON, run},
};

/// Two hosts on one cable.
struct Two {
    lab: Lab,
    a: Host,
    b: Host,
    link: Link,
}

impl Two {
    fn new(label: &str) -> Self {
        switch_binary();
        let lab = Lab::new(label).unwrap_or_else(|error| panic!("{error:#}"));
        let (a, b) = (lab.host("a").unwrap(), lab.host("b").unwrap());
        let link = lab.link(&a, &b, LinkOptions::new()).unwrap();
        Self { lab, a, b, link }
    }

    /// A state directory's name.
    fn state(&self, name: &str) -> String {
        self.lab.dir().join(name).display().to_string()
    }

    /// The id of the key in that directory, which is made.
    fn node(&self, host: &Host, name: &str) -> String {
        run(host, &["identity", "--state", &self.state(name)]).output.trim().to_owned()
    }
}

fn start(host: &Host, args: &[&str]) -> Process {
    let mut process = host.spawn(switch_binary(), args).unwrap();
    process.wait_for_line("listens on", SOON).unwrap_or_else(|error| panic!("{error:#}"));
    process
}

/// The id of a node that nobody is.
fn stranger(letter: char) -> String {
    format!("{}a", letter.to_string().repeat(51))
}

/// This step fails with this code, found, cure; no other does.
#[track_caller]
fn expect_failure(ending: &Ending, what: &str, code: i32, found: &str, cure: &str) {
    let row = rows(ending, what).into_iter().find(|row| row.status == "failed");
    let row = row.unwrap_or_else(|| panic!("{what}:\n{}", ending.output));
    assert!(row.found.contains(found), "{found:?}: {row:?}");
    assert!(row.cure.contains(cure), "{cure:?}: {row:?}");
    assert_eq!(ending.code, code, "{}{}", ending.output, ending.said);
    let failed = ending.output.lines().filter(|line| line.starts_with("failed"));
    assert_eq!(failed.count(), 1, "{}", ending.output);
}

/// Names of the connections to the only peer.
fn connections(switch: &mut Process) -> Vec<Value> {
    let report = counters::ask(switch).unwrap_or_else(|error| panic!("{error:#}"));
    let lanes = report["peers"][0]["lanes"].as_array().cloned().unwrap_or_default();
    lanes.iter().map(|lane| lane["connection"].clone()).collect()
}

fn stop(mut switch: Process) {
    assert_eq!(switch.terminate().unwrap().status.code(), Some(0), "{}", switch.stderr());
}

/// Everything that `ip` shows of the host, but for what counts and ages by itself.
fn seen(host: &Host) -> String {
    host.ip(&["address"]).unwrap() + &host.ip(&["route"]).unwrap()
}

#[test]
fn whatever_run_would_not_get_is_named_and_nothing_stays_behind() {
    let two = Two::new("checkrun");
    let (a, state) = (&two.a, two.state("a"));
    let with = |more: &[&str]| check(a, &[&["--tap", "ipop0", "--state", &state], more].concat());
    a.ip(&["link", "add", "br0", "type", "bridge"]).unwrap();
    a.ip(&["link", "set", "br0", "up"]).unwrap();
    let before = seen(a);

    let good = with(&["--bridge", "br0"]);
    assert_eq!(good.code, 0, "{}{}", good.output, good.said);
    for (what, found) in [
        ("state directory", "will be made"),
        ("key", "will be made"),
        ("UDP port", "[::]:5800 is free"),
        ("TAP", "ipop0 will be made"),
        ("bridge", "br0 takes the TAPs"),
    ] {
        let row = row(&good, what);
        assert!(row.status == "ok" && row.found.contains(found), "{row:?}");
    }
    let address = with(&["--address", "10.9.0.1/24"]);
    assert_eq!((address.code, &*row(&address, "address").status), (0, "ok"), "{}", address.output);
    let own = format!("{}/24", two.link.a.ipv4);
    let overlapping = row(&with(&["--address", &own]), "address");
    assert_eq!(overlapping.status, "limited", "{overlapping:?}");

    expect_failure(
        &with(&["--bridge", "br1"]),
        "bridge",
        1,
        "br1 does not exist",
        "ip link add br1",
    );
    expect_failure(&with(&["--bridge", "eth0"]), "bridge", 1, "no bridge", "type bridge");
    let elsewhere = with(&["--listen", "203.0.113.9:5800", "--peer", &"a".repeat(52)]);
    expect_failure(&elsewhere, "UDP port", 1, "203.0.113.9", "ip address");
    assert_eq!(row(&elsewhere, "peer").status, "not tried", "{}", elsewhere.output);
    let kind = with(&["--tap", "eth0"]);
    expect_failure(&kind, "TAP", 1, "eth0 is there, and no TAP", "choose another name");
    assert_eq!(rows(&kind, "TAP").len(), 2, "each TAP is tried");
    let impossible = check(a, &["--tap", "ipop0", "--state", "/proc/none"]);
    expect_failure(&impossible, "state directory", 2, "/proc/none", "--state DIR");
    assert_eq!(row(&impossible, "key").status, "not tried", "{}", impossible.output);
    let unknown = with(&["--mtu", "9"]);
    expect_failure(&unknown, "configuration", 2, "--mtu", "correct it");
    assert_eq!(row(&unknown, "TAP").status, "not tried", "{}", unknown.output);

    assert_eq!(seen(a), before);
    assert!(!Path::new(&state).exists());
}

#[test]
fn a_tap_that_was_made_beforehand_stays_as_it_is() {
    let two = Two::new("checktap");
    let (a, state) = (&two.a, two.state("a"));
    let args = ["--tap", "ipop0", "--bridge", "br0", "--state", &state];
    a.ip(&["link", "add", "br0", "type", "bridge"]).unwrap();
    for queues in [&["multi_queue"][..], &[]] {
        let tuntap =
            |verb| a.ip(&[&["tuntap", verb, "dev", "ipop0", "mode", "tap"], queues].concat());
        tuntap("add").unwrap();
        let before = seen(a);
        let checked = check(a, &args);
        assert_eq!(checked.code, 0, "{}{}", checked.output, checked.said);
        assert!(row(&checked, "TAP").found.contains("is there"), "{}", checked.output);
        let bridge = row(&checked, "bridge");
        assert!(bridge.status == "limited" && bridge.cure.contains("set br0 up"), "{bridge:?}");
        assert_eq!(seen(a), before);
        assert!(wait_until(SOON, || tuntap("del").is_ok()));
    }
    a.ip(&["tuntap", "add", "dev", "ipop0", "mode", "tap"]).unwrap();
    // Another program has it, though it is not up.
    let tun = "TUN,tun-name=ipop0,tun-type=tap,iff-no-pi";
    let other = a.spawn("socat", ["-u", tun, "OPEN:/dev/null"]).unwrap();
    let is_taken = wait_until(SOON, || check(a, &args).code == 4);
    assert!(is_taken, "{}", other.stderr());
    expect_failure(&check(a, &args), "TAP", 4, "in use by socat (process", "end it");
}

#[test]
fn static_peers_are_dialled_beside_a_switch_that_runs() {
    let two = Two::new("checkpeer");
    let (id_a, id_b) = (two.node(&two.a, "a"), two.node(&two.b, "b"));
    let (state_a, state_b, state_c) = (two.state("a"), two.state("b"), two.state("c"));
    let to_b = format!("{id_b}@{}", two.link.b.ipv4);
    let at_a = ["--tap", "ipop0", "--state", &state_a, "--peer", &to_b];
    let silent = check(&two.a, &at_a);
    expect_failure(&silent, "peer", 1, "does not answer", "ipop-switch identity");

    let refusing =
        start(&two.b, &["--tap", "ipop0", "--state", &state_b, "--peer", &stranger('b')]);
    let refused = check(&two.a, &at_a);
    expect_failure(&refused, "peer", 1, "answers, but does not let this node in", "--peer");
    stop(refusing);

    let at_b = ["--tap", "ipop0", "--state", &state_b, "--name", "b", "--peer", &id_a];
    let mut b = start(&two.b, &at_b);
    let before = b.stderr();
    let good = check(&two.a, &at_a);
    assert_eq!(good.code, 0, "{}{}", good.output, good.said);
    let peer = row(&good, "peer");
    assert!(peer.status == "ok" && peer.found.contains("(b)"), "{peer:?}");
    let mtu = row(&check(&two.a, &[&at_a[..], &["--mtu", "9000"]].concat()), "peer");
    assert!(mtu.status == "limited" && mtu.cure.contains("--mtu"), "{mtu:?}");
    // Who has no address dials, and without a key nobody is dialled.
    let passive = row(&check(&two.a, &["--state", &state_a, "--peer", &id_b]), "peer");
    assert!(passive.status == "not tried" && passive.found.contains("no address"), "{passive:?}");
    let keyless = row(&check(&two.a, &["--state", &state_c, "--peer", &to_b]), "peer");
    assert!(keyless.status == "not tried" && keyless.found.contains("key"), "{keyless:?}");
    let unnamed = check(&two.a, &["--state", &state_a, "--peer", &format!("{id_b}@none.invalid")]);
    expect_failure(&unnamed, "peer", 1, "none.invalid", "correct the name");
    let other = format!("{}@{}", stranger('c'), two.link.b.ipv4);
    let wrong = check(&two.a, &["--state", &state_a, "--peer", &other]);
    expect_failure(&wrong, "peer", 1, "does not answer", "wrong one gets no answer");
    assert_eq!(b.stderr(), before, "nobody has come");

    let mut a = start(&two.a, &at_a);
    for switch in [&mut a, &mut b] {
        switch.wait_for_line(") up, ", SOON).unwrap_or_else(|error| panic!("{error:#}"));
    }
    // Both ends have settled on one tunnel a lane.
    let is_whole = wait_until(SOON, || {
        let lanes = [&mut a, &mut b].map(|switch| connections(switch).len());
        lanes[0] > 0 && lanes[0] == lanes[1]
    });
    assert!(is_whole, "{}", a.stderr());
    let (before, logs) = (connections(&mut a), [a.stderr(), b.stderr()]);
    let beside = check(&two.a, &at_a);
    assert_eq!(beside.code, 0, "{}{}", beside.output, beside.said);
    for what in ["UDP port", "TAP"] {
        let row = row(&beside, what);
        let process = format!("the switch that runs (process {})", a.pid());
        assert!(row.status == "ok" && row.found.contains(&process), "{row:?}");
    }
    assert_eq!(row(&beside, "peer").status, "ok", "{}", beside.output);
    // A second one on this host would not get them.
    let port = check(&two.a, &["--tap", "ipop1", "--state", &state_c]);
    expect_failure(&port, "UDP port", 4, "another ipop-switch (process", "--listen");
    let tap = check(&two.a, &["--tap", "ipop0", "--listen", "[::]:5801", "--state", &state_c]);
    expect_failure(&tap, "TAP", 4, "ipop0 is in use by another ipop-switch (process", "--tap");
    assert_eq!(connections(&mut a), before);
    assert_eq!([a.stderr(), b.stderr()], logs);
    stop(a);
    stop(b);
}

#[test]
fn what_needs_rights_is_not_tried_without_them() {
    let two = Two::new("checkrights");
    let binary = switch_binary().display().to_string();
    let state = two.state("a");
    let args = ["--bounding-set=-net_admin", &binary, "check", "--tap", "ipop0", "--state", &state];
    let mut process = two.a.spawn("setpriv", args).unwrap();
    let exit = process.wait(SOON).unwrap();
    let ending = Ending {
        code: exit.status.code().unwrap(),
        output: process.stdout(),
        said: process.stderr(),
    };
    assert_eq!(ending.code, 3, "{}{}", ending.output, ending.said);
    assert_eq!(row(&ending, "CAP_NET_ADMIN").status, "missing");
    for what in ["TAP", "TAP offloads"] {
        let row = row(&ending, what);
        assert!(row.status == "not tried" && row.found.contains("CAP_NET_ADMIN"), "{row:?}");
    }
    assert_eq!(row(&ending, "UDP port").status, "ok");
    assert!(fs::metadata(&state).is_err());
}
