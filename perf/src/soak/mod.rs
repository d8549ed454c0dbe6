//! `ipop-perf soak`: two switches under traffic, churn, loss, cuts and kills for as long as one likes.
//!
//! Between them is the wire emulator. In each round a TCP flow, numbered frames both ways and ever new stations cross it;
//! then traffic rests and every frame has to be accounted for ([`account`]); then the wire is cut, or the second switch killed
//! or ended, and comes back. The first switch lives through all of it: the slope of its memory and of its open descriptors
//! over the rounds is what a leak shows by.

pub mod account;
pub mod report;

use std::{
    fs,
    net::Ipv4Addr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use serde::Serialize;

use self::account::Account;
use crate::{
    counters,
    lab::{Lab, tools::Iperf3, wait_until},
    machine::Machine,
    progress::Progress,
    stream::{self, Addresses, Port, Sent, Stream, Tally, Until},
    tunnel::{Node, Program, Running},
    wire::{Impairments, Wire, WireOptions},
};

/// Traffic of a round.
const TRAFFIC: Duration = Duration::from_secs(5);
/// What a round takes with its checks and its disturbance, about.
const ROUND: Duration = Duration::from_secs(10);
/// How long the wire is cut: longer than the time after which a peer counts as down.
const CUT: Duration = Duration::from_secs(9);
/// How long a switch may take to settle its accounts, and to answer again.
const SETTLE_LIMIT: Duration = Duration::from_secs(20);
/// Numbered frames a second in each direction.
const FRAMES_PER_S: f64 = 5_000.0;
/// Stations a second that are heard for the first time.
const NEW_STATIONS_PER_S: f64 = 1_000.0;
const FRAME_LEN: usize = 512;
const ADDRESSES: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 168, 99, 1), Ipv4Addr::new(192, 168, 99, 2)];

/// How long, and on what wire.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// In all; at least two rounds.
    pub length: Duration,
    /// Workers of each switch.
    pub workers: u8,
    /// Packets lost in each direction, percent.
    pub loss_percent: f64,
    /// Delay in each direction.
    pub delay: Duration,
    /// What the wire's losses depend on.
    pub seed: u64,
}

/// What was done to the tunnel after a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Disturbance {
    /// The second switch was killed.
    Kill,
    /// The wire carried nothing for 9 s.
    Cut,
    /// The second switch was ended as an operator would.
    Restart,
}

/// A round.
#[derive(Clone, Debug, Serialize)]
pub struct Round {
    /// Since the start, seconds.
    pub at_s: f64,
    /// The TCP flow's goodput.
    pub tcp_mbit_per_s: f64,
    /// Numbered frames that were sent.
    pub sent: u64,
    /// Those that arrived.
    pub received: u64,
    /// Those that arrived twice.
    pub duplicates: u64,
    /// Those that a later one had overtaken.
    pub overtaken: u64,
    /// The switches' accounts after it, each since its start.
    pub accounts: [Account; 2],
    /// Resident memory of the first switch, KiB.
    pub rss_kib: u64,
    /// Its open descriptors.
    pub descriptors: u64,
    /// What was done then.
    pub disturbance: Disturbance,
}

/// All rounds, and what came of them.
#[derive(Clone, Debug, Serialize)]
pub struct Soak {
    /// On which machine.
    pub machine: Machine,
    /// What the switch says to `--version`.
    pub version: String,
    /// Packets lost in each direction, percent.
    pub loss_percent: f64,
    /// Delay in each direction, milliseconds.
    pub delay_ms: f64,
    /// The rounds.
    pub rounds: Vec<Round>,
    /// Growth of the first switch's memory, KiB an hour, without the first third of the rounds.
    pub rss_kib_per_hour: Option<f64>,
    /// The same of its descriptors.
    pub descriptors_per_hour: Option<f64>,
    /// What was not as it must be.
    pub problems: Vec<String>,
}

struct Pair {
    nodes: [Node; 2],
    running: [Running; 2],
    ports: [Port; 2],
    wire: Wire,
    /// Last, so that the switches end before their namespaces.
    _lab: Lab,
}

impl Plan {
    /// Goes on until the time is over; `tell` hears of each round.
    ///
    /// # Errors
    /// When a switch does not start or come back.
    pub fn run(&self, tell: &mut dyn FnMut(&str)) -> Result<Soak> {
        let start = Instant::now();
        let mut pair = Pair::start(self)?;
        let program = Program::Switch.find()?;
        let version = pair.running[0].host.run(program, ["--version"])?.trim().to_owned();
        let mut soak = Soak {
            machine: Machine::this()?,
            version,
            loss_percent: self.loss_percent,
            delay_ms: self.delay.as_secs_f64() * 1e3,
            rounds: Vec::new(),
            rss_kib_per_hour: None,
            descriptors_per_hour: None,
            problems: Vec::new(),
        };
        let rounds = self.length.as_secs_f64() / ROUND.as_secs_f64();
        let mut progress = Progress::of(rounds.ceil().max(2.0) as u32, tell);
        let disturbances = [Disturbance::Kill, Disturbance::Cut, Disturbance::Restart];
        for (number, disturbance) in (0_u32..).zip(disturbances.into_iter().cycle()) {
            progress.step(&format!("round {number}, then {disturbance:?}"));
            let round = pair.round(number, start, disturbance)?;
            soak.problems.extend(round.problems().map(|what| format!("round {number}: {what}")));
            soak.rounds.push(round);
            // On a machine that is busy with other things the first may take all of the time; a disturbance stands between two.
            if start.elapsed() >= self.length && soak.rounds.len() >= 2 {
                break;
            }
            pair.disturb(disturbance)?;
        }
        let settled = &soak.rounds[soak.rounds.len() / 3..];
        let slope = |what: fn(&Round) -> u64| {
            let points: Vec<_> =
                settled.iter().map(|r| (r.at_s / 3600.0, what(r) as f64)).collect();
            slope(&points)
        };
        soak.rss_kib_per_hour = slope(|round| round.rss_kib);
        soak.descriptors_per_hour = slope(|round| round.descriptors);
        Ok(soak)
    }
}

impl Round {
    /// What must not be.
    fn problems(&self) -> impl Iterator<Item = String> {
        let unbalanced = self.accounts.iter().enumerate().filter(|(_, a)| !a.balances());
        let unbalanced = unbalanced.map(|(switch, account)| {
            format!(
                "switch {switch} does not account for {} frames: {account:?}",
                account.unaccounted()
            )
        });
        let twice = (self.duplicates > 0).then(|| format!("{} frames came twice", self.duplicates));
        let unseen = self.sent - self.received;
        let lost: u64 = self.accounts.iter().map(|account| account.lost).sum();
        let vanished = (unseen > lost)
            .then(|| format!("{unseen} numbered frames vanished, but {lost} are known to be lost"));
        unbalanced.chain(twice).chain(vanished).collect::<Vec<_>>().into_iter()
    }
}

impl Pair {
    fn start(plan: &Plan) -> Result<Self> {
        let lab = Lab::new("soak")?;
        let hosts = [lab.host("a")?, lab.host("b")?];
        let loss = plan.loss_percent / 100.0;
        let impairments = Impairments { loss, delay: plan.delay, ..Impairments::default() };
        let options = WireOptions::new(plan.seed).impairments(impairments);
        let (wire, link) = lab.wire(&hosts[0], &hosts[1], &options)?;
        let mut nodes = [
            Node::new(&lab, &hosts[0], Program::Switch)?,
            Node::new(&lab, &hosts[1], Program::Switch)?,
        ];
        let ids = [nodes[0].node_id(), nodes[1].node_id()];
        nodes[0].dial(ids[1], link.b.ipv4);
        nodes[1].admit(ids[0]);
        for (node, address) in nodes.iter_mut().zip(ADDRESSES) {
            node.address(&format!("{address}/24")).args(&["--workers", &plan.workers.to_string()]);
        }
        let running = [nodes[0].start()?, nodes[1].start()?];
        let port = |switch: &Running| Port::at(&switch.host, &switch.tap);
        let ports = [port(&running[0])?, port(&running[1])?];
        running[0].wait_for_answer(ADDRESSES[1].into())?;
        Ok(Self { nodes, running, ports, wire, _lab: lab })
    }

    fn round(&mut self, number: u32, start: Instant, disturbance: Disturbance) -> Result<Round> {
        let (tcp_mbit_per_s, sent, seen) = self.traffic(number)?;
        let accounts = self.settle()?;
        let tallies = [&seen[1][0], &seen[0][1], &seen[0][2]];
        let total = |what: fn(&Tally) -> u64| tallies.iter().map(|tally| what(tally)).sum();
        let process = &mut self.running[0].process;
        let descriptors = fs::read_dir(format!("/proc/{}/fd", process.pid()))
            .context("counting the switch's descriptors")?
            .count() as u64;
        Ok(Round {
            at_s: start.elapsed().as_secs_f64(),
            tcp_mbit_per_s,
            sent: sent.iter().map(|sent| sent.frames).sum(),
            received: total(|tally| tally.received),
            duplicates: total(|tally| tally.duplicates),
            overtaken: total(|tally| tally.overtaken),
            accounts,
            rss_kib: process.usage()?.rss_kib,
            descriptors,
            disturbance,
        })
    }

    /// A TCP flow, frames both ways, and new stations behind the second switch.
    fn traffic(&self, round: u32) -> Result<(f64, Vec<Sent>, Vec<Vec<Tally>>)> {
        let stream = |number, from: u32, to: u32, rate_per_s| Stream {
            number,
            sources: Addresses::station(from),
            destinations: Addresses::station(to),
            frame_len: FRAME_LEN,
            rate_per_s: Some(rate_per_s),
            until: Until::Elapsed(TRAFFIC),
        };
        let newcomers = Addresses::Stations { first: 1_000 + round * 100_000, count: 100_000 };
        let streams = [
            (&self.ports[0], stream(0, 0, 1, FRAMES_PER_S)),
            (&self.ports[1], stream(1, 1, 0, FRAMES_PER_S)),
            (&self.ports[1], Stream { sources: newcomers, ..stream(2, 1, 0, NEW_STATIONS_PER_S) }),
        ];
        thread::scope(|scope| {
            let flow = Iperf3::to(ADDRESSES[1]).seconds(TRAFFIC.as_secs() as u32);
            let (a, b) = (&self.running[0].host, &self.running[1].host);
            let flow = scope.spawn(move || flow.run(a, b));
            let (sent, seen) = stream::run(&streams, &[&self.ports[0], &self.ports[1]])?;
            let flow = flow.join().map_err(|_| anyhow!("the flow panicked"))?;
            let flow = flow.context("a TCP flow beside the frames")?;
            Ok((flow.received_bits_per_s / 1e6, sent, seen))
        })
    }

    /// The accounts once nothing is under way; if they never add up, as they are at last.
    fn settle(&mut self) -> Result<[Account; 2]> {
        let mut accounts = Ok([Account::default(); 2]);
        let _ = wait_until(SETTLE_LIMIT, || {
            accounts = self.accounts();
            accounts.as_ref().map_or(true, |both| both.iter().all(Account::balances))
        });
        accounts
    }

    fn accounts(&mut self) -> Result<[Account; 2]> {
        let [a, b] = &mut self.running;
        let a = Account::of(&counters::ask(&mut a.process)?);
        Ok([a, Account::of(&counters::ask(&mut b.process)?)])
    }

    /// Afterwards the tunnel is up again.
    fn disturb(&mut self, disturbance: Disturbance) -> Result<()> {
        match disturbance {
            Disturbance::Cut => {
                self.wire.cut();
                thread::sleep(CUT);
                self.wire.heal();
            }
            Disturbance::Kill => {
                self.running[1].process.kill()?;
                self.start_again()?;
            }
            Disturbance::Restart => {
                self.running[1].process.terminate()?;
                self.start_again()?;
            }
        }
        self.running[0].wait_for_answer(ADDRESSES[1].into())
    }

    fn start_again(&mut self) -> Result<()> {
        self.running[1] = self.nodes[1].start()?;
        self.ports[1] = Port::at(&self.running[1].host, &self.running[1].tap)?;
        Ok(())
    }
}

/// Of the line that fits best (least squares); none through fewer than two places.
fn slope(points: &[(f64, f64)]) -> Option<f64> {
    let count = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (mean_x, mean_y) = (mean(|p| p.0), mean(|p| p.1));
    let spread: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    let common: f64 = points.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
    (points.len() > 1 && spread > 0.0).then(|| common / spread)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes_are_those_of_the_best_line() {
        assert_eq!(slope(&[(0.0, 1.0), (1.0, 3.0), (2.0, 5.0)]), Some(2.0));
        assert_eq!(slope(&[(0.0, 0.0), (1.0, 3.0), (2.0, 0.0)]), Some(0.0));
        assert_eq!(slope(&[(1.0, 1.0)]), None);
        assert_eq!(slope(&[(1.0, 1.0), (1.0, 2.0)]), None);
        assert_eq!(slope(&[]), None);
    }

    #[test]
    fn a_round_names_its_problems() {
        let good = Account { received: 10, sent: 8, dropped: 2, lost: 2 };
        let round = Round {
            at_s: 1.0,
            tcp_mbit_per_s: 1.0,
            sent: 100,
            received: 96,
            duplicates: 0,
            overtaken: 0,
            accounts: [good, good],
            rss_kib: 1,
            descriptors: 1,
            disturbance: Disturbance::Kill,
        };
        assert_eq!(round.problems().count(), 0);
        let bad = Round {
            received: 95,
            duplicates: 3,
            accounts: [good, Account { sent: 7, ..good }],
            ..round
        };
        let problems: Vec<String> = bad.problems().collect();
        assert!(problems[0].starts_with("switch 1 does not account for 1 frames"), "{problems:?}");
        assert_eq!(
            problems[1..],
            ["3 frames came twice", "5 numbered frames vanished, but 4 are known to be lost"]
        );
    }
}
