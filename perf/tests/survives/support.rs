//! Two switches in the lab, and what these tests ask of a running one: its log, its counters, the bytes that it carries.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    time::Duration,
};

use ipop_datapath::node_id::NodeId;
use ipop_perf::{
    lab::{Host, Lab, Link, LinkOptions, Process, tools::Ping, wait_until},
    tunnel::{Node, Program, Running},
    wire::{Wire, WireOptions},
};
use serde_json::Value;

use crate::common::{self, report::Report};
pub(crate) use crate::common::{SOON, switch_binary, transfer::expect_bytes_cross};

/// Within this a dead peer must be reported: 10 s are promised, 2 s are left to the machine.
pub(crate) const DEAD_WITHIN: Duration = Duration::from_secs(12);

/// How the log tells that a peer, not just a lane of it, is up: this follows its name.
pub(crate) const PEER_UP: &str = ") up";

/// An empty lab, on whose hosts the program can run.
pub(crate) fn lab(label: &str) -> Lab {
    switch_binary();
    common::lab(label)
}

/// A node with the inner address of this number.
pub(crate) fn node(lab: &Lab, host: &Host, number: u8) -> Node {
    let mut node = Node::new(lab, host, Program::Switch).unwrap_or_else(|e| panic!("{e:#}"));
    node.address(&format!("{}/24", inner(number)));
    node
}

/// The inner address of a node, by its number.
pub(crate) fn inner(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 0, number)
}

/// Two nodes, 1 and 2, of which the first will dial the second.
pub(crate) struct Pair {
    pub(crate) a: Node,
    pub(crate) b: Node,
    pub(crate) link: Link,
    /// The link, if it can be disturbed. It goes before the namespaces do.
    pub(crate) wire: Option<Wire>,
    pub(crate) lab: Lab,
}

impl Pair {
    /// On a cable.
    pub(crate) fn new(label: &str) -> Self {
        let lab = lab(label);
        let (a, b) = (lab.host("a").unwrap(), lab.host("b").unwrap());
        let link = lab.link(&a, &b, LinkOptions::new()).unwrap();
        Self::join(lab, &a, &b, link, None)
    }

    /// On an emulated wire.
    pub(crate) fn on_wire(label: &str, options: &WireOptions) -> Self {
        let lab = lab(label);
        let (a, b) = (lab.host("a").unwrap(), lab.host("b").unwrap());
        let (wire, link) = lab.wire(&a, &b, options).unwrap();
        Self::join(lab, &a, &b, link, Some(wire))
    }

    fn join(lab: Lab, a: &Host, b: &Host, link: Link, wire: Option<Wire>) -> Self {
        let (mut a, mut b) = (node(&lab, a, 1), node(&lab, b, 2));
        a.dial(b.node_id(), link.b.ipv4);
        b.admit(a.node_id());
        Self { a, b, link, wire, lab }
    }

    /// Starts both and waits until each reports the other up and a ping crosses.
    pub(crate) fn start(&self) -> [Running; 2] {
        let b = self.b.start().unwrap();
        let a = self.a.start().unwrap();
        let mut both = [a, b];
        self.wait_until_up(&mut both);
        both
    }

    pub(crate) fn wait_until_up(&self, [a, b]: &mut [Running; 2]) {
        wait_for_log(a, &format!("peer {} (", self.b.node_id()), SOON);
        wait_for_log(b, &format!("peer {} (", self.a.node_id()), SOON);
        a.wait_for_answer(inner(2).into()).unwrap();
    }

    pub(crate) fn wire(&self) -> &Wire {
        self.wire.as_ref().unwrap()
    }
}

/// nobody's number on every distribution.
pub(crate) const NOBODY: u32 = 65_534;
/// What `setpriv` leaves a program that may set up the network and nothing else.
pub(crate) const NET_ADMIN: &str = "--inh-caps=+net_admin --ambient-caps=+net_admin";

/// A node of this number that runs as nobody, with what these options of `setpriv` leave it.
pub(crate) fn as_nobody(lab: &Lab, host: &Host, number: u8, setpriv: &str) -> Node {
    let mut node = node(lab, host, number);
    let state = node.state().to_owned();
    for path in [state.clone(), state.join("identity.pem")] {
        chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    // Where nobody may read it, whatever the permissions of the build directory.
    let copy = state.join("ipop-switch");
    fs::copy(switch_binary(), &copy).unwrap();
    // Most hosts let everybody open the device; where not, it is one of the script's own.
    let line = format!(
        "{{ test -e {tun} || mknod -m 666 {tun} c 10 200; }} && exec unshare --mount sh -c \
         'mount --bind {tun} /dev/net/tun && \
         exec setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups {setpriv} {copy} \"$@\"' sh \"$@\"",
        tun = state.join("tun").display(),
        copy = copy.display()
    );
    node.run_as(&script(&state, "as-nobody", &line));
    node
}

/// Waits until this text is in the log.
#[track_caller]
pub(crate) fn wait_for_log(running: &mut Running, text: &str, limit: Duration) -> String {
    running.process.wait_for_line(text, limit).unwrap_or_else(|error| panic!("{error:#}"))
}

/// Waits until so many lines of the log contain this text.
#[track_caller]
pub(crate) fn wait_for_lines(running: &Running, text: &str, lines: usize, limit: Duration) {
    let enough = wait_until(limit, || count_lines(running, text) >= lines);
    assert!(enough, "not {lines} lines with {text:?}:\n{}", running.process.stderr());
}

/// How many lines of the log contain this text.
pub(crate) fn count_lines(running: &Running, text: &str) -> usize {
    running.process.stderr().lines().filter(|line| line.contains(text)).count()
}

/// What the switch prints at SIGUSR1.
#[track_caller]
pub(crate) fn counters(running: &mut Running) -> Value {
    Report::ask(&mut running.process).json().clone()
}

/// Asks for the counters until they are as wanted, and gives them back.
#[track_caller]
pub(crate) fn wait_for_counters(
    running: &mut Running,
    limit: Duration,
    wanted: impl Fn(&Value) -> bool,
) -> Value {
    let mut report = Value::Null;
    let found = wait_until(limit, || {
        report = counters(running);
        let found = wanted(&report);
        if !found {
            std::thread::sleep(Duration::from_millis(200));
        }
        found
    });
    assert!(found, "the counters never become as wanted: {report:#}");
    report
}

/// The state of a peer in the counters: `up`, `dialling`, `backing_off` or `awaited`.
pub(crate) fn peer_state(report: &Value, peer: NodeId) -> String {
    peer_of(report, peer)["state"].as_str().unwrap_or_default().into()
}

/// A peer in the counters.
pub(crate) fn peer_of(report: &Value, peer: NodeId) -> &Value {
    let peers = report["peers"].as_array().unwrap();
    peers.iter().find(|entry| entry["node"] == peer.to_string()).unwrap()
}

/// The sum of one number of all workers.
pub(crate) fn of_workers(report: &Value, name: &str) -> u64 {
    let workers = report["workers"].as_array().unwrap();
    workers.iter().map(|worker| worker[name].as_u64().unwrap()).sum()
}

/// Starts a node that is expected to refuse: its exit code and what it says.
#[track_caller]
pub(crate) fn refusal(node: &Node) -> (i32, String) {
    let process = node.host().spawn(node.binary(), node.command_line()).unwrap();
    ending(process)
}

/// Waits for the end of a program: its exit code and what it said.
#[track_caller]
pub(crate) fn ending(mut process: Process) -> (i32, String) {
    let exit = process.wait(SOON).unwrap_or_else(|e| panic!("{e:#}:\n{}", process.stderr()));
    let said = process.stderr();
    (exit.status.code().unwrap_or_else(|| panic!("{}: {said}", exit.status)), said)
}

/// A shell script of one line, in this directory.
pub(crate) fn script(directory: &Path, name: &str, line: &str) -> PathBuf {
    let path = directory.join(name);
    fs::write(&path, format!("#!/bin/sh\n{line}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// Whether this address answers one of a few pings.
pub(crate) fn answers(host: &Host, address: impl Into<IpAddr>) -> bool {
    Ping::to(address).count(2).run(host).is_ok_and(|report| report.received > 0)
}
