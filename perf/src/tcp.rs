//! `ipop-perf tcp`: one TCP flow through each program's tunnel, in one lab, in turn.
//!
//! Runs of the programs alternate, so that a machine that slows down slows both. What counts is the medians, and their
//! ratio: absolute figures belong to one machine at one hour. A run during which other guests took more than 4 % of the
//! processors is measured again. CPU time is that of the two tunnel processes between just before and just after the
//! flow; that of `iperf3` is not in it.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::{
    lab::{
        Host, Lab, Link, LinkOptions,
        tools::{Iperf3, Ping, median},
    },
    machine::{CpuTime, Machine},
    tunnel::{Node, Program, Running},
};

/// More stolen time than this spoils a run, percent.
const MAX_STEAL_PERCENT: f64 = 4.0;
/// So often a spoilt run is repeated; then it counts all the same, and is marked by its figure.
const MAX_REPEATS: u32 = 3;

/// What is measured.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The programs and their files, in the order of their turns.
    pub programs: Vec<(Program, PathBuf)>,
    /// Runs of each.
    pub runs: u32,
    /// Length of a run.
    pub seconds: u32,
    /// Inner MTU.
    pub mtu: u16,
    /// TCP's congestion control inside the tunnel, as the kernel names it. Set for the flow, so that a figure does not depend on how the
    /// machine is set: BBR paces by timers, whose work lands on whatever runs, the tunnels included.
    pub congestion: String,
}

/// One flow.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    /// Through which tunnel.
    pub program: Program,
    /// TCP payload that arrived, Mbit/s.
    pub mbit_per_s: f64,
    /// CPU seconds of both tunnel processes for 10^9 bytes of TCP payload.
    pub cpu_s_per_gb: f64,
    /// Segments that TCP sent again.
    pub retransmits: u64,
    /// TCP's congestion control, as iperf3 found it.
    pub tcp_congestion: String,
    /// Time that other guests took from the processors, percent.
    pub steal_percent: f64,
    /// Time that went to neither the tunnel nor `iperf3`, percent: well above the kernel's own few, and another program
    /// was busy on this machine.
    pub others_percent: f64,
    /// Whether the run was disturbed and is followed by another in its place.
    pub repeated: bool,
}

/// All runs, and where.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// On which machine.
    pub machine: Machine,
    /// What each program says to `--version`.
    pub versions: Vec<String>,
    /// Inner MTU.
    pub mtu: u16,
    /// Length of a run.
    pub seconds: u32,
    /// The runs, in their order.
    pub runs: Vec<Run>,
    /// The medians, a program each.
    pub medians: Vec<Median>,
}

/// The middle of a program's runs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Median {
    /// Which program.
    pub program: Program,
    /// As [`Run::mbit_per_s`].
    pub mbit_per_s: f64,
    /// As [`Run::cpu_s_per_gb`].
    pub cpu_s_per_gb: f64,
}

impl Plan {
    /// Measures, telling of each run on the way.
    ///
    /// # Errors
    /// When a tunnel does not come up, or a flow does not cross it.
    pub fn measure(&self, mut tell: impl FnMut(&Run)) -> Result<Report> {
        let machine = Machine::this()?;
        let lab = Lab::new("tcp")?;
        let (a, b) = (lab.host("a")?, lab.host("b")?);
        let link = lab.link(&a, &b, LinkOptions::new())?;
        let versions = self.programs.iter().map(|(_, file)| a.run(file, ["--version"]));
        let versions = versions.map(|text| Ok(text?.trim().to_owned())).collect::<Result<_>>()?;
        let site = Site { lab: &lab, a: &a, b: &b, link: &link };
        let mut runs = Vec::new();
        for _ in 0..self.runs {
            for program in &self.programs {
                for attempt in 0..=MAX_REPEATS {
                    let mut run = self.run(&site, program)?;
                    run.repeated = run.steal_percent > MAX_STEAL_PERCENT && attempt < MAX_REPEATS;
                    tell(&run);
                    let done = !run.repeated;
                    runs.push(run);
                    if done {
                        break;
                    }
                }
            }
        }
        let medians = self.programs.iter().filter_map(|(p, _)| Median::of(*p, &runs)).collect();
        Ok(Report { machine, versions, mtu: self.mtu, seconds: self.seconds, runs, medians })
    }

    fn run(&self, site: &Site<'_>, (program, file): &(Program, PathBuf)) -> Result<Run> {
        let [mut at_a, mut at_b] = site.start(*program, file, self.mtu)?;
        // The largest packet that the tunnel takes: path MTU discovery is done when it crosses.
        let largest = u32::from(self.mtu) - 28;
        at_a.wait_for_ping(&Ping::to(ADDRESS_B).unfragmented(largest))?;

        let sent_before = site.a.counters(&at_a.tap)?.tx_bytes;
        let cpu_before = at_a.process.usage()?.cpu_s() + at_b.process.usage()?.cpu_s();
        let machine_before = CpuTime::now()?;
        let flow = Iperf3::to(ADDRESS_B).seconds(self.seconds).congestion(&self.congestion);
        let flow = flow.run(site.a, site.b);
        let flow = flow.with_context(|| format!("a TCP flow through {program}"))?;
        let machine_after = CpuTime::now()?;
        let cpu_s = at_a.process.usage()?.cpu_s() + at_b.process.usage()?.cpu_s() - cpu_before;
        let crossed = site.a.counters(&at_a.tap)?.tx_bytes - sent_before;
        ensure!(
            crossed >= flow.received_bytes,
            "{} bytes arrived, but only {crossed} went into the tunnel",
            flow.received_bytes
        );
        at_a.process.terminate()?;
        at_b.process.terminate()?;
        let iperf3_percent = flow.client_cpu_percent + flow.server_cpu_percent;
        let iperf3_s = iperf3_percent / 100.0 * f64::from(self.seconds);
        Ok(Run {
            program: *program,
            mbit_per_s: flow.received_bits_per_s / 1e6,
            cpu_s_per_gb: cpu_s / (flow.received_bytes as f64 / 1e9),
            retransmits: flow.retransmits,
            tcp_congestion: flow.tcp_congestion,
            steal_percent: machine_after.steal_percent_since(machine_before),
            others_percent: machine_after.others_percent_since(machine_before, cpu_s + iperf3_s),
            repeated: false,
        })
    }
}

impl Report {
    /// How often the first program's throughput is the last one's, and what share of its CPU time it takes.
    pub fn ratios(&self) -> Option<(f64, f64)> {
        let (first, last) = (self.medians.first()?, self.medians.last()?);
        let differ = first.program != last.program;
        let ratios = (first.mbit_per_s / last.mbit_per_s, first.cpu_s_per_gb / last.cpu_s_per_gb);
        differ.then_some(ratios)
    }
}

impl Median {
    fn of(program: Program, runs: &[Run]) -> Option<Self> {
        let counted = || runs.iter().filter(|run| run.program == program && !run.repeated);
        Some(Self {
            program,
            mbit_per_s: median(&counted().map(|run| run.mbit_per_s).collect::<Vec<_>>())?,
            cpu_s_per_gb: median(&counted().map(|run| run.cpu_s_per_gb).collect::<Vec<_>>())?,
        })
    }
}

const ADDRESS_B: std::net::Ipv4Addr = std::net::Ipv4Addr::new(192, 168, 0, 2);

struct Site<'a> {
    lab: &'a Lab,
    a: &'a Host,
    b: &'a Host,
    link: &'a Link,
}

impl Site<'_> {
    fn start(&self, program: Program, file: &std::path::Path, mtu: u16) -> Result<[Running; 2]> {
        let node = |host| Node::with_binary(self.lab, host, program, file);
        let (mut a, mut b) = (node(self.a)?, node(self.b)?);
        b.admit(a.node_id()).mtu(mtu).address(&format!("{ADDRESS_B}/24"));
        a.dial(b.node_id(), self.link.b.ipv4).mtu(mtu).address("192.168.0.1/24");
        let b = b.start()?;
        Ok([a.start()?, b])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(program: Program, mbit_per_s: f64, repeated: bool) -> Run {
        let cpu_s_per_gb = 1000.0 / mbit_per_s;
        Run {
            program,
            mbit_per_s,
            cpu_s_per_gb,
            retransmits: 0,
            tcp_congestion: String::new(),
            steal_percent: 0.0,
            others_percent: 0.0,
            repeated,
        }
    }

    #[test]
    fn medians_leave_out_disturbed_runs_and_the_other_program() {
        let runs = [
            run(Program::Switch, 4000.0, false),
            run(Program::Obvious, 1000.0, false),
            run(Program::Switch, 1.0, true),
            run(Program::Switch, 5000.0, false),
        ];
        let switch = Median::of(Program::Switch, &runs).unwrap();
        assert_eq!(switch.mbit_per_s, 4500.0);
        assert_eq!(switch.cpu_s_per_gb, 0.225);
        assert_eq!(Median::of(Program::Obvious, &runs).unwrap().mbit_per_s, 1000.0);
        assert_eq!(Median::of(Program::Obvious, &runs[..1]), None);
    }
}
