//! `ipop-perf switch`: `ipop-switch` measured as RFC 2544, RFC 2889 and RFC 9004 measure a switch.
//!
//! * [`search`]: the searches; they know no switch.
//! * [`segment`]: what is measured: sites, switches, a packet socket on each TAP.
//! * [`forwarding`]: throughput, latency, loss curve, bursts, recovery, order.
//! * [`addresses`]: caching capacity, learning rate, churn.
//! * [`fanout`]: broadcast, many to one, frames that must not pass.
//! * [`report`]: JSON, Markdown and charts.
//!
//! The sender, both switches and the receiver share this machine's processors, so the figures are those of the whole, and
//! lower than what a switch alone on its machine would reach.

pub mod addresses;
pub mod fanout;
pub mod forwarding;
pub mod report;
pub mod search;
pub mod segment;

use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use self::{
    addresses::{Churn, Learning},
    fanout::{Broadcast, Forbidden, ManyToOne},
    forwarding::{OfSize, Recovery},
    segment::Segment,
};
pub use crate::progress::Progress;
use crate::{
    machine::{CpuTime, Machine},
    quiet,
    tunnel::Program,
};

/// Peers that a broadcast goes to.
const PEERS: [usize; 3] = [1, 2, 4];
/// Senders to one receiver.
const SENDERS: usize = 3;

/// What is measured.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Frame sizes, FCS included.
    pub frame_bytes: Vec<usize>,
    /// Length of each trial.
    pub trial: Duration,
    /// Workers of each switch.
    pub workers: u8,
    /// How many numbers of stations and rates of learning are tried.
    pub learning_tries: usize,
    /// How long to wait for the machine to become quiet before it begins.
    pub quiet_within: Duration,
}

/// All figures.
#[derive(Clone, Debug, Serialize)]
pub struct Benchmark {
    /// On which machine.
    pub machine: Machine,
    /// What the switch says to `--version`.
    pub version: String,
    /// Workers of each switch.
    pub workers: u8,
    /// Length of each trial, seconds.
    pub trial_s: f64,
    /// What other guests took meanwhile, percent of all processors.
    pub steal_percent: f64,
    /// By frame size.
    pub sizes: Vec<OfSize>,
    /// After an overload.
    pub recovery: Recovery,
    /// Addresses.
    pub learning: Learning,
    /// New stations beside a flow.
    pub churn: Churn,
    /// One to many.
    pub broadcasts: Vec<Broadcast>,
    /// Many to one.
    pub many_to_one: ManyToOne,
    /// What must not pass.
    pub forbidden: Vec<Forbidden>,
}

impl Plan {
    /// Measures all of it; `tell` hears what is begun.
    ///
    /// # Errors
    /// When a switch does not start or the kernel refuses a frame.
    pub fn measure(&self, tell: &mut dyn FnMut(&str)) -> Result<Benchmark> {
        let learning = addresses::steps(self.learning_tries);
        let steps = 3 * self.frame_bytes.len() + learning + PEERS.len() + 4;
        let mut progress = Progress::of(steps as u32, tell);
        quiet::wait(self.quiet_within);
        let before = CpuTime::now()?;
        let mut segment = Segment::start(2, self.workers)?;
        let version = segment.switches[0].host.run(Program::Switch.find()?, ["--version"])?;
        let mut sizes = Vec::with_capacity(self.frame_bytes.len());
        for &frame_bytes in &self.frame_bytes {
            sizes.push(forwarding::of_size(&mut segment, frame_bytes, self.trial, &mut progress)?);
        }
        let throughput_per_s = sizes.first().map_or(0.0, |size| size.tolerant_per_s);
        progress.step("recovery after overload");
        let recovery = forwarding::recovery(&mut segment, throughput_per_s, self.trial)?;
        progress.step("new stations beside a flow");
        let churn = addresses::churn(&segment, throughput_per_s / 2.0, self.trial)?;
        progress.step("frames that must not pass");
        let forbidden = fanout::forbidden(&mut segment)?;
        drop(segment);
        let learning = addresses::learning(self.workers, self.learning_tries, &mut progress)?;
        let mut broadcasts = Vec::new();
        for peers in PEERS {
            progress.step(&format!("broadcast to {peers}"));
            let segment = Segment::start(peers + 1, self.workers)?;
            broadcasts.extend(fanout::broadcast(&segment, self.trial)?);
        }
        progress.step(&format!("{SENDERS} to one"));
        let segment = Segment::start(SENDERS + 1, self.workers)?;
        let many_to_one = fanout::many_to_one(&segment, self.trial)?;
        Ok(Benchmark {
            machine: Machine::this()?,
            version: version.trim().into(),
            workers: self.workers,
            trial_s: self.trial.as_secs_f64(),
            steal_percent: CpuTime::now()?.steal_percent_since(before),
            sizes,
            recovery,
            learning,
            churn,
            broadcasts,
            many_to_one,
            forbidden,
        })
    }
}
