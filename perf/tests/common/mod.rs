//! What the end-to-end tests share: a switch on a host of the lab, two of them back to back, what they report, and
//! checks that real tools make.
//!
//! A [`Site`] is a host with a running `ipop-switch`; a [`Pair`] is two of them on one cable, the first of which dials.
//! Site `n` (from 0) has the inner addresses [`inner`]`(n)` and [`inner6`]`(n)` on its TAP.
#![allow(dead_code, reason = "each file of tests uses a part")]

pub(crate) mod api;
pub(crate) mod network;
pub(crate) mod report;
pub(crate) mod transfer;

use std::{
    env,
    net::{Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    process::Command,
    sync::OnceLock,
    time::Duration,
};

use ipop_perf::{
    lab::{
        BridgeSite, Host, Lab, Link, LinkOptions, Signal,
        tools::{Ping, PingReport},
    },
    tunnel::{Node, Program, Running},
};

use self::report::Report;

/// How long anything may take that should happen at once; a loaded machine needs it.
pub(crate) const SOON: Duration = Duration::from_secs(20);
/// The TAP of a site.
pub(crate) const TAP: &str = "ipop0";

/// The inner IPv4 address of a site.
pub(crate) fn inner(site: usize) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 0, site as u8 + 1)
}

/// The inner IPv6 address of a site.
pub(crate) fn inner6(site: usize) -> Ipv6Addr {
    Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, site as u16 + 1)
}

/// An empty lab.
pub(crate) fn lab(label: &str) -> Lab {
    Lab::new(label).unwrap_or_else(|error| panic!("{error:#}"))
}

/// A switch to be started on this host, with the usual inner MTU and no addresses.
pub(crate) fn switch(lab: &Lab, host: &Host) -> Node {
    let mut node = Node::with_binary(lab, host, Program::Switch, switch_binary()).unwrap();
    node.mtu(1500);
    node
}

/// The program, which is built first if this is the only crate that was.
pub(crate) fn switch_binary() -> &'static PathBuf {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if Program::Switch.find().is_err() {
            build_switch();
        }
        Program::Switch.find().unwrap_or_else(|error| panic!("{error:#}"))
    })
}

/// Into the directory that this test was built into. Tests that come to it at once wait for one another in cargo.
fn build_switch() {
    let test = env::current_exe().unwrap();
    let profile_dir = test.ancestors().nth(2).expect("target/PROFILE/deps/TEST");
    let profile = match profile_dir.file_name().and_then(|name| name.to_str()) {
        Some("debug") => "dev",
        Some(profile) => profile,
        None => panic!("{} names no profile", profile_dir.display()),
    };
    let status = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--quiet", "--package", "ipop-switch", "--profile", profile])
        .arg("--manifest-path")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
        .arg("--target-dir")
        .arg(profile_dir.parent().expect("target/PROFILE"))
        .status()
        .expect("cargo builds the switch");
    assert!(status.success(), "building ipop-switch: {status}");
}

/// A host whose switch runs.
pub(crate) struct Site {
    /// How it was started.
    pub(crate) node: Node,
    /// What was started.
    pub(crate) switch: Running,
}

impl Site {
    /// Starts the switch.
    pub(crate) fn start(node: Node) -> Self {
        let switch = node.start().unwrap_or_else(|error| panic!("{error:#}"));
        Self { node, switch }
    }

    /// Where it runs.
    pub(crate) fn host(&self) -> &Host {
        &self.switch.host
    }

    /// What the switch counts now.
    pub(crate) fn report(&mut self) -> Report {
        Report::ask(&mut self.switch.process)
    }

    /// Waits until its report is as it should be, and gives it back.
    pub(crate) fn wait_for_report(
        &mut self,
        what: &str,
        accept: impl Fn(&Report) -> bool,
    ) -> Report {
        report::wait_for(what, || {
            let report = self.report();
            if accept(&report) { Ok(report) } else { Err(report.to_string()) }
        })
    }

    /// Waits until every peer is up on this many lanes.
    pub(crate) fn wait_for_peers(&mut self, lanes: usize) -> Report {
        self.wait_for_report("all peers up", |report| {
            report.peers().all(|peer| peer.is_up() && peer.lanes() == lanes)
        })
    }

    /// Ends the switch as an operator would, which must work, and must not have been preceded by a panic.
    pub(crate) fn stop(&mut self) {
        let process = &mut self.switch.process;
        process.signal(Signal::TERM).unwrap_or_else(|error| panic!("{error:#}"));
        let exit = process.wait(SOON).unwrap_or_else(|error| panic!("{error:#}"));
        let log = process.stderr();
        assert_eq!(exit.status.code(), Some(0), "{log}");
        assert!(!log.contains("panicked"), "{log}");
    }
}

/// The address family of an underlay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Family {
    V4,
    V6,
}

/// How a [`Pair`] is made.
pub(crate) struct PairOptions {
    /// MTU of the cable between the hosts.
    pub(crate) underlay_mtu: u32,
    /// What the tunnel runs over.
    pub(crate) underlay: Family,
    /// The inner MTU.
    pub(crate) mtu: u16,
    /// More options of either switch.
    pub(crate) args: [&'static [&'static str]; 2],
}

impl Default for PairOptions {
    fn default() -> Self {
        Self { underlay_mtu: 1500, underlay: Family::V4, mtu: 1500, args: [&[], &[]] }
    }
}

/// Two hosts on a cable, a switch on each, connected: `a` has dialled `b`.
pub(crate) struct Pair {
    /// The dialler, site 0.
    pub(crate) a: Site,
    /// The listener, site 1.
    pub(crate) b: Site,
    /// The cable.
    pub(crate) link: Link,
    /// Last, so that the switches end before their namespaces.
    pub(crate) lab: Lab,
}

impl Pair {
    /// Starts both switches and waits until frames cross.
    pub(crate) fn start(label: &str, options: &PairOptions) -> Self {
        let lab = lab(label);
        let (a, b) = (lab.host("a").unwrap(), lab.host("b").unwrap());
        let cable = LinkOptions::new().mtu(options.underlay_mtu);
        let link = lab.link(&a, &b, cable).unwrap();
        let [mut a, mut b] = [switch(&lab, &a), switch(&lab, &b)];
        match options.underlay {
            Family::V4 => a.dial(b.node_id(), link.b.ipv4),
            Family::V6 => a.dial(b.node_id(), link.b.ipv6),
        };
        b.admit(a.node_id());
        for (number, node) in [&mut a, &mut b].into_iter().enumerate() {
            if options.underlay == Family::V6 {
                node.listen((Ipv6Addr::UNSPECIFIED, ipop_perf::tunnel::PORT).into());
            }
            node.mtu(options.mtu).args(options.args[number]);
            node.address(&format!("{}/24", inner(number)));
            node.address(&format!("{}/64", inner6(number)));
        }
        let (b, a) = (Site::start(b), Site::start(a));
        a.switch.wait_for_answer(inner(1).into()).unwrap_or_else(|error| panic!("{error:#}"));
        Self { a, b, link, lab }
    }

    /// The largest ping that fits the inner MTU crosses in both directions, unfragmented, over both families.
    pub(crate) fn check_full_size_pings(&self, mtu: u32) {
        for family_ping in
            [Ping::to(inner(1)).unfragmented(mtu - 28), Ping::to(inner6(1)).unfragmented(mtu - 48)]
        {
            expect_pings(self.a.host(), &family_ping.count(3));
        }
    }

    /// What one switch sent, the other received or knows to be lost. Holds once nothing is under way.
    pub(crate) fn check_balance(&mut self) {
        report::wait_for("both ends count the same frames", || {
            let (a, b) = (self.a.report(), self.b.report());
            let balanced = [(&a, &b), (&b, &a)].into_iter().all(|(from, to)| {
                let received = to.peer(0);
                // A frame that the sender paused within may have been delivered in parts.
                from.peer(0).count("sent_frames") + received.count("salvaged_runs")
                    == received.count("received_frames")
                        + received.count("salvaged_frames")
                        + received.count("missing_frames")
            });
            if balanced { Ok(()) } else { Err(format!("{a}\n{b}")) }
        });
    }

    /// Stops both.
    pub(crate) fn stop(mut self) {
        self.a.stop();
        self.b.stop();
    }
}

/// Pings that must all be answered, and once each. What the first one may lose is asked for before.
pub(crate) fn expect_pings(host: &Host, ping: &Ping) -> PingReport {
    let report = ping.clone().interval(Duration::from_millis(20)).run(host);
    let report = report.and_then(PingReport::expect_no_loss);
    let report = report.unwrap_or_else(|error| panic!("{}: {ping}: {error:#}", host.name()));
    assert_eq!(report.duplicates, 0, "{}: {ping}", host.name());
    report
}

/// A VM of a bridge site reaches another: pings cross, once each, and so does ARP.
pub(crate) fn expect_reaches(from: &BridgeSite, vm: usize, to: &BridgeSite, other: usize) {
    let (host, interface) = &from.vms[vm];
    let target = &to.vms[other].1;
    expect_pings(host, &Ping::to(target.ipv4).count(3));
    expect_pings(host, &Ping::to(target.ipv6).count(2));
    expect_arp(host, &interface.name, target.ipv4);
}

/// Two broadcast ARP requests, a second apart, get two answers: a lost or a doubled frame shows.
pub(crate) fn expect_arp(host: &Host, interface: &str, address: Ipv4Addr) {
    let address = address.to_string();
    let args = ["-b", "-c", "2", "-I", interface, &address];
    let printed = host.run("arping", args).unwrap_or_else(|error| panic!("{error:#}"));
    assert!(printed.contains("Received 2 response(s)"), "{}: {printed}", host.name());
}
