//! What goes wrong while two nodes are connected: their direct path is cut, the XMPP server restarts, one of them gets
//! another address. For how long nothing crosses, and what is lost.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::{
    beat::{Beat, Heard},
    network::{FOUND_LIMIT, Network, address, wait_for_path, wait_for_report},
    saturate::{Flow, Received},
};
use crate::{
    lab::{Attached, Place, Traffic, wait_until},
    stream::Port,
    tunnel::Running,
};

/// Traffic before anything happens.
const BEFORE: Duration = Duration::from_secs(2);
/// How long is listened for the end of an outage.
const AFTER: Duration = Duration::from_secs(10);

/// The direct path is cut.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cut {
    /// The longest time without a numbered frame, either way, seconds.
    pub silence_s: f64,
    /// The longest time without a byte of TCP, either way, seconds: TCP's own pauses are in it.
    pub tcp_silence_s: f64,
    /// TCP, both ways together, before the cut.
    pub direct_mbit_per_s: f64,
    /// And in the last two seconds after it.
    pub relayed_mbit_per_s: f64,
}

/// The XMPP server goes and comes back.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Restart {
    /// `stopped` or `killed`.
    pub how: String,
    /// Numbered frames sent, both ways.
    pub sent: u64,
    /// Of these, those that did not arrive.
    pub lost: u64,
    /// The longest time without one, either way, seconds.
    pub silence_s: f64,
    /// From when the server answers again until both nodes are in the room and see each other, seconds.
    pub back_s: f64,
}

/// A node gets another address.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Move {
    /// The longest time without a numbered frame, either way, seconds.
    pub silence_s: f64,
    /// Numbered frames lost, both ways.
    pub lost: u64,
}

/// Two connected nodes on machines of their own at the router.
#[derive(Debug)]
pub(super) struct Pair {
    running: [Running; 2],
    machines: [Attached; 2],
}

impl Pair {
    pub(super) fn start(network: &Network, kind: &str) -> Result<Self> {
        let machine = |name| network.internet.machine(name, Place::Internet);
        let machines = [machine("a")?, machine("b")?];
        let running = network.pair([&machines[0].host, &machines[1].host], kind)?;
        Ok(Self { running, machines })
    }

    /// Numbered frames both ways, once the switches have learned where the stations are.
    fn beat(&self) -> Result<Beat> {
        let [a, b] = &self.running;
        Beat::start([Port::at(&a.host, &a.tap)?, Port::at(&b.host, &b.tap)?])
    }

    fn saturate(&self) -> Result<[Flow; 2]> {
        let [a, b] = &self.running;
        let to_b = Flow::start(&a.host, (&b.host, address(1)))?;
        Ok([to_b, Flow::start(&b.host, (&a.host, address(0)))?])
    }

    /// Cuts the direct path under TCP both ways, and heals it again.
    pub(super) fn cut(&mut self, network: &Network) -> Result<Cut> {
        wait_for_path(&mut self.running, "direct")?;
        let [a, b] = self.machines.each_ref().map(|machine| machine.ipv4);
        let (beat, flows) = (self.beat()?, self.saturate()?);
        thread::sleep(BEFORE);
        let cut_at = Instant::now();
        network.internet.cut(a, b, Traffic::Udp)?;
        thread::sleep(AFTER);
        let end = Instant::now();
        let received = flows.map(Flow::stop);
        let heard = beat.stop()?;
        let relayed = wait_for_path(&mut self.running, "relayed");
        network.internet.heal(a, b, Traffic::Udp)?;
        relayed?;
        let [to_b, to_a] = received;
        let received = [to_b?, to_a?];
        let rate = |from, to| received.iter().map(|r| r.mbit_per_s(from, to)).sum();
        let tcp = received.iter().map(|r: &Received| r.longest_silence(cut_at, end));
        Ok(Cut {
            silence_s: longest(&heard, cut_at, end).as_secs_f64(),
            tcp_silence_s: tcp.max().unwrap_or_default().as_secs_f64(),
            direct_mbit_per_s: rate(cut_at - BEFORE / 2, cut_at),
            relayed_mbit_per_s: rate(end - BEFORE, end),
        })
    }

    /// Restarts the XMPP server, as an operator does or as a crash does.
    pub(super) fn restart(&mut self, network: &mut Network, kill: bool) -> Result<Restart> {
        let joins = |node: &Running| node.process.stderr().matches("in the room as").count();
        let before = self.running.each_ref().map(joins);
        let beat = self.beat()?;
        thread::sleep(BEFORE / 2);
        let prosody = &mut network.servers.prosody;
        let began = Instant::now();
        if kill {
            prosody.kill()?
        } else {
            prosody.stop()?
        };
        prosody.start_again()?;
        let answers = Instant::now();
        let are_back = wait_until(FOUND_LIMIT, || {
            self.running.iter().zip(before).all(|(node, before)| joins(node) > before)
        });
        for node in &mut self.running {
            let label = node.process.label();
            ensure!(are_back, "{label} is not in the room again:\n{}", node.process.stderr());
            wait_for_report(node, "seeing its peer", |report| {
                report["network"]["occupants"].as_u64().is_some_and(|others| others > 0)
            })?;
        }
        let back_s = answers.elapsed().as_secs_f64();
        thread::sleep(BEFORE / 2);
        let end = Instant::now();
        let heard = beat.stop()?;
        Ok(Restart {
            how: if kill { "killed" } else { "stopped" }.into(),
            sent: heard.iter().map(|heard| heard.sent).sum(),
            lost: heard.iter().map(Heard::lost).sum(),
            silence_s: longest(&heard, began, end).as_secs_f64(),
            back_s,
        })
    }

    /// Gives one of the nodes another address.
    pub(super) fn readdress(
        &mut self,
        network: &Network,
        which: usize,
        kind: &str,
    ) -> Result<Move> {
        wait_for_path(&mut self.running, kind)?;
        let beat = self.beat()?;
        thread::sleep(BEFORE / 2);
        let machine = self.machines.get_mut(which).context("there are two nodes")?;
        let moved_at = network.internet.readdress(machine)?;
        thread::sleep(AFTER * 6 / 10);
        let end = Instant::now();
        let heard = beat.stop()?;
        Ok(Move {
            silence_s: longest(&heard, moved_at, end).as_secs_f64(),
            lost: heard.iter().map(Heard::lost).sum(),
        })
    }
}

/// The longer of both directions' longest silences.
fn longest(heard: &[Heard; 2], from: Instant, to: Instant) -> Duration {
    let silences = heard.iter().map(|heard| heard.longest_silence(from, to));
    silences.max().unwrap_or_default()
}

/// From now on the router carries UDP to and from this machine alone, so that nobody reaches anybody else but by its
/// relay.
pub(super) fn only_by_relay(network: &Network) -> Result<()> {
    let server = network.servers.machine.ipv4;
    network.internet.router().load_firewall(&format!(
        "table inet onlyrelay {{
            chain forward {{
                type filter hook forward priority filter
                meta l4proto udp ip saddr != {server} ip daddr != {server} drop
            }}
        }}\n"
    ))
}
