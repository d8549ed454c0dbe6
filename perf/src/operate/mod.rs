//! `ipop-perf operate`: what it costs to look at a switch that works.
//!
//! Two switches in one lab, a TCP flow between them. How long the API takes to answer is measured while nothing else runs and while the flow keeps both ends
//! busy; how long `ipop-switch status` takes from start to end; what the flow loses while everything is polled each second, in rounds that alternate
//! with others without; and how much memory the API takes. Figures of a kind compare within one run: both ends, the flow and whoever asks share
//! this machine's processors.

mod report;
mod requests;

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde::Serialize;

use self::requests::get;
use crate::{
    lab::{
        Host, Lab, Link, LinkOptions,
        tools::{Iperf3, Ping, median},
    },
    machine::Machine,
    quiet,
    tunnel::{Node, Program, Running},
};

const ADDRESSES: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 168, 98, 1), Ipv4Addr::new(192, 168, 98, 2)];
/// What whoever watches a switch asks each second.
const POLLED: [&str; 4] = ["/v1/status", "/v1/peers", "/v1/drops", "/metrics"];
/// Of the latency.
const ASKED: [&str; 2] = ["/v1/status", "/metrics"];

/// What is measured.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The program.
    pub binary: PathBuf,
    /// Requests of each kind in each state.
    pub requests: u32,
    /// Pairs of flows: without polling and with.
    pub rounds: u32,
    /// Length of a flow, seconds.
    pub seconds: u32,
    /// How long to wait for the machine to become quiet before it begins.
    pub quiet_within: Duration,
}

/// How long answers took.
#[derive(Clone, Debug, Serialize)]
pub struct Latency {
    /// What was asked.
    pub path: String,
    /// Whether a TCP flow kept both switches busy.
    pub saturated: bool,
    /// The middle, milliseconds.
    pub p50_ms: f64,
    /// One in a hundred takes longer, milliseconds.
    pub p99_ms: f64,
    /// The longest, milliseconds.
    pub max_ms: f64,
}

/// A pair of flows.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Round {
    /// Nobody asks anything, Mbit/s.
    pub alone_mbit_per_s: f64,
    /// Both switches are polled each second, Mbit/s.
    pub polled_mbit_per_s: f64,
}

/// All figures.
#[derive(Clone, Debug, Serialize)]
pub struct Operate {
    /// On which machine.
    pub machine: Machine,
    /// What the program says to `--version`.
    pub version: String,
    /// Requests of each kind in each state.
    pub requests: u32,
    /// Length of a flow, seconds.
    pub seconds: u32,
    /// Of each path, idle and saturated.
    pub latencies: Vec<Latency>,
    /// From the start of `ipop-switch status` to its end, the middle, milliseconds.
    pub status_ms: f64,
    /// Pairs of flows.
    pub rounds: Vec<Round>,
    /// Resident memory of a switch without an API, and with one that was asked, KiB.
    pub rss_kib: [u64; 2],
}

impl Operate {
    /// The share of the throughput that is left while both switches are polled each second: the middle of all pairs.
    pub fn polled_share(&self) -> f64 {
        let share = |round: &Round| round.polled_mbit_per_s / round.alone_mbit_per_s;
        median(&self.rounds.iter().map(share).collect::<Vec<_>>()).unwrap_or(0.0)
    }
}

struct Site<'a> {
    plan: &'a Plan,
    lab: &'a Lab,
    hosts: [&'a Host; 2],
    link: &'a Link,
}

/// Two switches and their sockets.
struct Pair {
    switches: [Running; 2],
    sockets: [PathBuf; 2],
}

impl Plan {
    /// Measures.
    ///
    /// # Errors
    /// When the switches do not come up, or do not answer.
    pub fn measure(&self, tell: &mut dyn FnMut(&str)) -> Result<Operate> {
        let machine = Machine::this()?;
        let lab = Lab::new("operate")?;
        let (a, b) = (lab.host("a")?, lab.host("b")?);
        let link = lab.link(&a, &b, LinkOptions::new())?;
        let version = a.run(&self.binary, ["--version"])?.trim().to_owned();
        quiet::wait(self.quiet_within);
        let site = Site { plan: self, lab: &lab, hosts: [&a, &b], link: &link };
        let rss_kib = site.memory()?;
        tell(&format!("memory: {} KiB without an API, {} KiB with one", rss_kib[0], rss_kib[1]));
        let mut pair = site.start(Api::On)?;
        let socket = pair.sockets[0].clone();
        let mut latencies = Vec::new();
        for path in ASKED {
            latencies.push(self.latency(&socket, path, Load::Idle)?);
        }
        let seconds = self.seconds.max(2);
        let busy: Vec<Latency> = site.beside_flow(seconds, |_| {
            ASKED.iter().map(|path| self.latency(&socket, path, Load::Flow)).collect::<Result<_>>()
        })?;
        latencies.extend(busy);
        latencies.iter().for_each(|latency| tell(&format!("{latency:?}")));
        let status_ms = self.status(&a, &socket)?;
        tell(&format!("`status`: {status_ms:.1} ms"));
        let mut rounds = Vec::new();
        for _ in 0..self.rounds {
            let alone_mbit_per_s = site.flow(self.seconds)?;
            let polled_mbit_per_s = site.polled_flow(&pair.sockets)?;
            rounds.push(Round { alone_mbit_per_s, polled_mbit_per_s });
            tell(&format!("{:?}", rounds[rounds.len() - 1]));
        }
        pair.switches.iter_mut().try_for_each(|end| end.process.terminate().map(drop))?;
        let (requests, seconds) = (self.requests, self.seconds);
        Ok(Operate { machine, version, requests, seconds, latencies, status_ms, rounds, rss_kib })
    }

    fn latency(&self, socket: &Path, path: &str, load: Load) -> Result<Latency> {
        let mut all = Vec::new();
        for _ in 0..self.requests {
            let start = Instant::now();
            get(socket, path)?;
            all.push(start.elapsed().as_secs_f64() * 1e3);
            thread::sleep(Duration::from_millis(2));
        }
        all.sort_by(f64::total_cmp);
        let at = |share: f64| all[((all.len() - 1) as f64 * share).round() as usize];
        let (p50_ms, p99_ms, max_ms) = (at(0.5), at(0.99), at(1.0));
        let saturated = load == Load::Flow;
        Ok(Latency { path: path.into(), saturated, p50_ms, p99_ms, max_ms })
    }

    fn status(&self, host: &Host, socket: &Path) -> Result<f64> {
        let mut all = Vec::new();
        let socket = socket.display().to_string();
        for _ in 0..20 {
            // In the thread that stays in the namespace: what is measured is the program, not `ip netns exec`.
            let took = host.enter(|| {
                let start = Instant::now();
                let command = ["status", "--socket", &socket];
                let output = std::process::Command::new(&self.binary).args(command).output();
                (output.map(|output| output.status.success()), start.elapsed())
            })?;
            let (ended, took) = took;
            anyhow::ensure!(ended.context("starting `status`")?, "`status` failed");
            all.push(took.as_secs_f64() * 1e3);
        }
        median(&all).context("no run of `status`")
    }
}

/// What the switches do meanwhile.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Load {
    /// Nothing.
    Idle,
    /// They carry a TCP flow.
    Flow,
}

/// Whether the switches have one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Api {
    On,
    Off,
}

impl Site<'_> {
    fn start(&self, api: Api) -> Result<Pair> {
        let node =
            |host: &Host| Node::with_binary(self.lab, host, Program::Switch, &self.plan.binary);
        let (mut a, mut b) = (node(self.hosts[0])?, node(self.hosts[1])?);
        let sockets = ["a", "b"].map(|name| self.lab.dir().join(format!("{name}.sock")));
        for (node, socket) in [&mut a, &mut b].into_iter().zip(&sockets) {
            let value = if api == Api::On { socket.display().to_string() } else { "off".into() };
            node.args(&["--api", &value]);
        }
        b.admit(a.node_id()).address(&format!("{}/24", ADDRESSES[1]));
        a.dial(b.node_id(), self.link.b.ipv4).address(&format!("{}/24", ADDRESSES[0]));
        let b = b.start()?;
        let a = a.start()?;
        a.wait_for_ping(&Ping::to(ADDRESSES[1]))?;
        Ok(Pair { switches: [a, b], sockets })
    }

    /// Without an API, and with one that was asked a while.
    fn memory(&self) -> Result<[u64; 2]> {
        let mut found = [0; 2];
        for (api, rss_kib) in [Api::Off, Api::On].into_iter().zip(&mut found) {
            let Pair { mut switches, sockets } = self.start(api)?;
            if api == Api::On {
                for _ in 0..50 {
                    POLLED.iter().try_for_each(|path| get(&sockets[0], path).map(drop))?;
                }
            }
            self.flow(1)?;
            *rss_kib = switches[0].process.usage()?.rss_kib;
            switches.iter_mut().try_for_each(|end| end.process.terminate().map(drop))?;
        }
        Ok(found)
    }

    /// One TCP flow; Mbit/s.
    fn flow(&self, seconds: u32) -> Result<f64> {
        let flow = Iperf3::to(ADDRESSES[1]).seconds(seconds).congestion("cubic");
        Ok(flow.run(self.hosts[0], self.hosts[1])?.received_bits_per_s / 1e6)
    }

    /// Does something while a flow runs.
    fn beside_flow<T>(
        &self,
        seconds: u32,
        work: impl FnOnce(&AtomicBool) -> Result<T>,
    ) -> Result<T> {
        let ends = AtomicBool::new(false);
        thread::scope(|scope| {
            let flow = scope.spawn(|| {
                let result = self.flow(seconds);
                ends.store(true, Ordering::Relaxed);
                result
            });
            // TCP's start is no load.
            thread::sleep(Duration::from_millis(500));
            let done = work(&ends);
            flow.join().map_err(|_| anyhow::anyhow!("the flow did not end"))??;
            done
        })
    }

    /// One TCP flow while both switches are polled each second.
    fn polled_flow(&self, sockets: &[PathBuf; 2]) -> Result<f64> {
        let ends = AtomicBool::new(false);
        thread::scope(|scope| {
            let poll = scope.spawn(|| -> Result<()> {
                while !ends.load(Ordering::Relaxed) {
                    for socket in sockets {
                        POLLED.iter().try_for_each(|path| get(socket, path).map(drop))?;
                    }
                    thread::sleep(Duration::from_secs(1));
                }
                Ok(())
            });
            let flow = self.flow(self.plan.seconds);
            ends.store(true, Ordering::Relaxed);
            poll.join().map_err(|_| anyhow::anyhow!("the polling did not end"))??;
            flow
        })
    }
}
