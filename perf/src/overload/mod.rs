//! `ipop-perf overload`: what a tunnel carries of more than it can carry.
//!
//! UDP datagrams, one with each system call as most programs send them, cross a tunnel at ever other rates. First the highest rate is
//! searched that passes without loss, then more is offered: a stated rate, and as much as the sender can. Overload should cost no throughput,
//! so what gets through then is given as a share of the best rate. Both switches, sender and receiver share this machine's processors.
//! All that is lost is placed ([`ledger`]).

pub mod ledger;
pub mod report;

use std::{net::Ipv4Addr, path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use serde::Serialize;

use self::ledger::Ledger;
use crate::{
    counters,
    flood::{AMPLE_BUFFER_BYTES, Flood, FloodReport},
    lab::{Lab, LinkOptions, tools::Ping, wait_until},
    machine::{CpuTime, Machine},
    progress::Progress,
    quiet,
    stream::Until,
    switch::search::{self, Device, Load, Outcome},
    tunnel::{Node, Program, Running},
};

const ADDRESSES: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 168, 99, 1), Ipv4Addr::new(192, 168, 99, 2)];
/// IPv4 and UDP headers.
const IP_UDP_LEN: u16 = 28;
/// How long the counters may take to tell of the last frames.
const SETTLE_LIMIT: Duration = Duration::from_secs(10);
/// Of the search for the best rate that passes. A machine that is shared loses some frames for reasons of its own.
pub const TOLERATED_PERCENT: f64 = 0.1;

/// What is measured.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The programs, in the order of their turns.
    pub binaries: Vec<PathBuf>,
    /// UDP payload of each datagram, bytes.
    pub payload_len: usize,
    /// The stated overload, Mbit/s of UDP payload.
    pub mbit_per_s: f64,
    /// Length of each trial.
    pub trial: Duration,
    /// Rounds; each begins with switches that were just started.
    pub rounds: u32,
    /// More options of each switch.
    pub args: Vec<String>,
    /// How long to wait for the machine to become quiet before it begins.
    pub quiet_within: Duration,
}

/// What became of one rate.
#[derive(Clone, Debug, Serialize)]
pub struct Trial {
    /// Offered, Mbit/s of UDP payload.
    pub offered_mbit_per_s: f64,
    /// Delivered.
    pub delivered_mbit_per_s: f64,
    /// Lost, percent.
    pub lost_percent: f64,
    /// Datagrams that did not arrive.
    pub lost: u64,
    /// Where they were lost.
    pub places: Ledger,
    /// CPU seconds of both switches for a million datagrams that arrived.
    pub cpu_s_per_million: f64,
}

/// A round of one program.
#[derive(Clone, Debug, Serialize)]
pub struct Round {
    /// Which program, by its place in the plan.
    pub program: usize,
    /// The highest rate that passes, Mbit/s of UDP payload.
    pub best_mbit_per_s: f64,
    /// At the stated rate.
    pub stated: Trial,
    /// As fast as the sender can.
    pub flood: Trial,
    /// What other guests took meanwhile, percent of all processors.
    pub steal_percent: f64,
}

/// All rounds, and where.
#[derive(Clone, Debug, Serialize)]
pub struct Overload {
    /// On which machine.
    pub machine: Machine,
    /// The programs, and what each says to `--version`.
    pub programs: Vec<(PathBuf, String)>,
    /// UDP payload of each datagram, bytes.
    pub payload_len: usize,
    /// The stated overload, Mbit/s of UDP payload.
    pub stated_mbit_per_s: f64,
    /// Length of each trial, seconds.
    pub trial_s: f64,
    /// More options of each switch.
    pub args: Vec<String>,
    /// The rounds.
    pub rounds: Vec<Round>,
}

/// Two switches, a host behind each.
struct Pair {
    switches: [Running; 2],
    payload_len: usize,
    /// Last, so that the switches end before their namespaces.
    _lab: Lab,
}

impl Plan {
    /// Measures all of it; `tell` hears what is begun.
    ///
    /// # Errors
    /// When a switch does not start or the kernel refuses a datagram.
    pub fn measure(&self, tell: &mut dyn FnMut(&str)) -> Result<Overload> {
        let turns = self.rounds * self.binaries.len() as u32;
        let mut progress = Progress::of(turns, tell);
        quiet::wait(self.quiet_within);
        let (mut rounds, mut programs) = (Vec::new(), Vec::new());
        for number in 0..self.rounds {
            for (program, binary) in self.binaries.iter().enumerate() {
                progress.step(&format!("round {number} of {}", binary.display()));
                let mut pair = Pair::start(self, binary)?;
                if number == 0 {
                    let version = pair.switches[0].host.run(binary, ["--version"])?;
                    programs.push((binary.clone(), version.trim().to_owned()));
                }
                rounds.push(self.round(program, &mut pair)?);
            }
        }
        Ok(Overload {
            machine: Machine::this()?,
            programs,
            payload_len: self.payload_len,
            stated_mbit_per_s: self.mbit_per_s,
            trial_s: self.trial.as_secs_f64(),
            args: self.args.clone(),
            rounds,
        })
    }

    fn round(&self, program: usize, pair: &mut Pair) -> Result<Round> {
        let before = CpuTime::now()?;
        let per_s = |mbit: f64| mbit * 1e6 / 8.0 / self.payload_len as f64;
        // The first one also lets neighbours and path MTU be found.
        let flood = pair.measured(None, self.trial)?;
        let ceiling = per_s(flood.offered_mbit_per_s.min(2.0 * flood.delivered_mbit_per_s));
        let (len, tolerated) = (self.payload_len, TOLERATED_PERCENT);
        let best = search::throughput(pair, len, self.trial, tolerated, ceiling)?;
        let stated = pair.measured(Some(per_s(self.mbit_per_s)), self.trial)?;
        let flood = pair.measured(None, self.trial)?;
        let best_mbit_per_s = best * self.payload_len as f64 * 8.0 / 1e6;
        let steal_percent = CpuTime::now()?.steal_percent_since(before);
        Ok(Round { program, best_mbit_per_s, stated, flood, steal_percent })
    }
}

impl Pair {
    fn start(plan: &Plan, binary: &std::path::Path) -> Result<Self> {
        let lab = Lab::new("overload")?;
        let hosts = [lab.host("a")?, lab.host("b")?];
        let link = lab.link(&hosts[0], &hosts[1], LinkOptions::new())?;
        let node = |host| Node::with_binary(&lab, host, Program::Switch, binary);
        let mut nodes = [node(&hosts[0])?, node(&hosts[1])?];
        let ids = [nodes[0].node_id(), nodes[1].node_id()];
        nodes[0].dial(ids[1], link.b.ipv4);
        nodes[1].admit(ids[0]);
        let args: Vec<&str> = plan.args.iter().map(String::as_str).collect();
        for (node, address) in nodes.iter_mut().zip(ADDRESSES) {
            node.mtu(1_500).address(&format!("{address}/24")).args(&args);
        }
        let switches = [nodes[0].start()?, nodes[1].start()?];
        switches[0]
            .wait_for_ping(&Ping::to(ADDRESSES[1]).unfragmented(1_500 - u32::from(IP_UDP_LEN)))?;
        Ok(Self { switches, payload_len: plan.payload_len, _lab: lab })
    }

    fn flood(&self, rate_per_s: Option<f64>, length: Duration) -> Result<FloodReport> {
        let receive_buffer_bytes = Some(AMPLE_BUFFER_BYTES);
        let payload_len = self.payload_len;
        let flood = Flood { payload_len, rate_per_s, together: 1, length, receive_buffer_bytes };
        let [near, far] = &self.switches;
        flood.run(&near.host, &far.host, ADDRESSES[1])
    }

    /// A trial whose losses are placed.
    fn measured(&mut self, rate_per_s: Option<f64>, length: Duration) -> Result<Trial> {
        let (before, cpu_before) = (self.ledger()?, self.cpu_s()?);
        let report = self.flood(rate_per_s, length)?;
        let cpu_s = self.cpu_s()? - cpu_before;
        let lost = report.sent.saturating_sub(report.received);
        let mut places = Ok(Ledger::default());
        let _ = wait_until(SETTLE_LIMIT, || {
            places = self.ledger().map(|ledger| ledger.since(&before));
            places.as_ref().map_or(true, |places| places.lost() + report.unread >= lost)
        });
        let mut places = places?;
        places.add("receiver's socket".into(), report.unread);
        let mbit = |datagrams: u64| {
            let bits = datagrams as f64 * self.payload_len as f64 * 8.0;
            bits / report.elapsed.as_secs_f64() / 1e6
        };
        Ok(Trial {
            offered_mbit_per_s: mbit(report.sent),
            delivered_mbit_per_s: mbit(report.received),
            lost_percent: report.lost_percent(),
            lost,
            places,
            cpu_s_per_million: cpu_s / (report.received.max(1) as f64 / 1e6),
        })
    }

    fn ledger(&mut self) -> Result<Ledger> {
        let [near, far] = &mut self.switches;
        let near = counters::ask(&mut near.process).context("the near switch")?;
        let far = counters::ask(&mut far.process).context("the far switch")?;
        Ok(Ledger::of(&near, &far))
    }

    fn cpu_s(&mut self) -> Result<f64> {
        let [near, far] = &mut self.switches;
        Ok(near.process.usage()?.cpu_s() + far.process.usage()?.cpu_s())
    }
}

/// One stream of datagrams; `frame_len` is their payload.
impl Device for Pair {
    fn trial(&mut self, load: &Load) -> Result<Outcome> {
        let length = match load.until {
            Until::Elapsed(length) => length,
            Until::Frames(_) => anyhow::bail!("only times are searched"),
        };
        let report = self.flood(load.rate_per_s, length)?;
        Ok(Outcome {
            sent: report.sent,
            elapsed: report.elapsed,
            received: report.received,
            ..Outcome::default()
        })
    }
}
