//! Local ports that come and go by SIGHUP under a running switch.

use std::{fs, time::Duration};

use ipop_perf::{
    lab::{Host, Interface, LinkOptions, Signal, tools::Ping, wait_until},
    tunnel::Running,
};

use crate::support::{Pair, SOON, answers, counters, inner, wait_for_lines, wait_for_log};

const FIRST: &str = "ipop0";
const SECOND: &str = "ipop1";

/// Node 1 of a pair, which has its TAPs from a file.
struct Configured {
    running: Running,
    config: String,
    reloads: usize,
}

impl Configured {
    fn start(pair: &Pair, taps: &str) -> Self {
        let config = pair.a.state().join("config.toml").display().to_string();
        fs::write(&config, taps).unwrap();
        let line = pair.a.command_line();
        // Its own `--tap` would take the place of the file's.
        let (tap, rest) = line.split_at(2);
        assert_eq!(tap, ["--tap", FIRST]);
        let line = [rest, &["--config".to_owned(), config.clone()]].concat();
        let host = pair.a.host().clone();
        let process = host.spawn(pair.a.binary(), line).unwrap();
        let running = Running { process, host, tap: FIRST.into() };
        let configured = Self { running, config, reloads: 0 };
        configured.wait_for_tap(FIRST);
        configured.running.host.add_address(FIRST, &format!("{}/24", inner(1))).unwrap();
        configured
    }

    /// Another configuration, and SIGHUP; until it was read.
    fn reload(&mut self, taps: &str) {
        fs::write(&self.config, taps).unwrap();
        self.running.process.signal(Signal::HUP).unwrap();
        self.reloads += 1;
        wait_for_lines(&self.running, "SIGHUP: ", self.reloads, SOON);
    }

    fn host(&self) -> &Host {
        &self.running.host
    }

    fn wait_for_tap(&self, tap: &str) {
        let is_up =
            || self.host().ip(&["link", "show", "up", "dev", tap]).is_ok_and(|l| !l.is_empty());
        assert!(wait_until(SOON, is_up), "{tap} does not come:\n{}", self.log());
    }

    fn wait_for_no_tap(&self, tap: &str) {
        let is_gone = wait_until(SOON, || !self.host().has_interface(tap));
        assert!(is_gone, "{tap} stays:\n{}", self.log());
    }

    fn taps(&mut self) -> Vec<String> {
        let report = counters(&mut self.running);
        let taps = report["taps"].as_array().unwrap().iter();
        taps.map(|tap| tap["name"].as_str().unwrap().to_owned()).collect()
    }

    fn log(&self) -> String {
        self.running.process.stderr()
    }
}

/// The other end of a bridge of the host, into which a TAP is to be put: a machine with the inner address 3.
struct Machine {
    host: Host,
    bridge_side: Interface,
}

impl Machine {
    fn new(pair: &Pair) -> Self {
        let (a, host) = (pair.a.host(), pair.lab.host("c").unwrap());
        let link = pair.lab.link(a, &host, LinkOptions::new()).unwrap();
        a.ip(&["link", "add", "lan", "type", "bridge"]).unwrap();
        a.ip(&["link", "set", "dev", "lan", "up"]).unwrap();
        a.ip(&["link", "set", "dev", &link.a.name, "master", "lan"]).unwrap();
        host.ip(&["address", "flush", "dev", &link.b.name]).unwrap();
        host.add_address(&link.b.name, &format!("{}/24", inner(3))).unwrap();
        host.set_mtu(&link.b.name, 1_400).unwrap();
        Self { host, bridge_side: link.a }
    }

    /// Whether it reaches the far node through a TAP that its bridge gets.
    fn reaches_far_node_by(&self, near: &Host, tap: &str) -> bool {
        assert!(near.has_interface(&self.bridge_side.name));
        near.ip(&["link", "set", "dev", tap, "master", "lan"]).unwrap();
        wait_until(SOON, || answers(&self.host, inner(2)))
    }
}

const ONE: &str = "tap = \"ipop0\"\n";
const BOTH: &str = "tap = \"ipop0\"\n[[port]]\nkind = \"tap\"\nname = \"ipop1\"\n";

#[test]
fn a_tap_comes_goes_and_comes_again_by_sighup_and_the_other_one_does_not_notice() {
    let pair = Pair::new("ports");
    let far = pair.b.start().unwrap();
    let mut near = Configured::start(&pair, ONE);
    near.running.wait_for_answer(inner(2).into()).unwrap();
    let machine = Machine::new(&pair);
    let undisturbed =
        Ping::to(inner(2)).interval(Duration::from_millis(20)).start(near.host()).unwrap();

    near.reload(BOTH);
    near.wait_for_tap(SECOND);
    assert_eq!(near.taps(), [FIRST, SECOND]);
    assert!(machine.reaches_far_node_by(near.host(), SECOND), "{}", near.log());
    assert!(answers(near.host(), inner(3)), "and the other port of this switch\n{}", near.log());

    near.reload(ONE);
    near.wait_for_no_tap(SECOND);
    assert_eq!(near.taps(), [FIRST]);
    assert!(!answers(&machine.host, inner(2)));

    near.reload(BOTH);
    near.wait_for_tap(SECOND);
    assert!(machine.reaches_far_node_by(near.host(), SECOND), "{}", near.log());
    // The answer to the last request may still be on its way.
    let report = undisturbed.stop().unwrap();
    assert!(report.received > 20 && report.received + 1 >= report.sent, "{report:?}");

    // What names no TAP is wrong, and changes nothing.
    near.reload("tap = []\n");
    wait_for_log(&mut near.running, "no TAP is named", SOON);
    assert_eq!(near.taps(), [FIRST, SECOND]);
    assert_eq!(near.running.process.terminate().unwrap().status.code(), Some(0));
    drop(far);
}

#[test]
fn a_tap_that_was_attached_is_left_as_found_and_one_that_cannot_be_opened_harms_nobody() {
    let pair = Pair::new("swap");
    let _far = pair.b.start().unwrap();
    let mut near = Configured::start(&pair, ONE);
    let tuntap = ["tuntap", "add", "dev", SECOND, "mode", "tap"];
    near.host().ip(&tuntap).unwrap();
    near.host().set_mtu(SECOND, 1_234).unwrap();

    // The loopback is no TAP.
    near.reload("tap = [\"ipop0\", \"lo\", \"ipop1\"]\n");
    wait_for_log(&mut near.running, "TAP lo is left out; SIGHUP tries it again", SOON);
    near.wait_for_tap(SECOND);
    assert_eq!(near.taps(), [FIRST, SECOND]);
    near.running.wait_for_answer(inner(2).into()).unwrap();

    // The first one goes as the only one that the switch made; the other one carries on.
    near.reload("tap = \"ipop1\"\n");
    near.wait_for_no_tap(FIRST);
    assert_eq!(near.taps(), [SECOND]);
    near.host().add_address(SECOND, &format!("{}/24", inner(1))).unwrap();
    near.running.wait_for_answer(inner(2).into()).unwrap();

    near.reload(ONE);
    near.wait_for_tap(FIRST);
    let left = || near.host().ip(&["link", "show", "dev", SECOND]).unwrap();
    assert!(wait_until(SOON, || !left().contains("LOWER_UP")), "{}", left());
    assert!(left().contains("mtu 1234"), "{}", left());
    assert_eq!(near.taps(), [FIRST]);
}
