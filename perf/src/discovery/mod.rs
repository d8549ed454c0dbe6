//! `ipop-perf discovery`: how fast nodes find each other over a real Prosody and a real coturn, how soon traffic is back
//! when something breaks, and what a network costs that nobody uses.
//!
//! * `network`: the lab: servers, a room, nodes that join by a token.
//! * `start`: from the second node's start to the first ping.
//! * `failures`: a cut path, a restarted server, another address.
//! * `idle`: bytes, CPU time, memory.
//! * `beat`, `saturate`: numbered frames at a steady pace, and TCP as fast as it goes.
//! * `report`: JSON and Markdown.
//!
//! A run can measure some parts only: those that the folder holds already are kept.

mod beat;
pub mod failures;
pub mod idle;
mod network;
pub mod report;
mod saturate;
pub mod start;

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use self::{
    failures::{Cut, Move, Pair, Restart},
    idle::{Idle, Place},
    network::Network,
    start::Start,
};
use crate::{
    folder,
    lab::{Access, InternetOptions, NatKind, NatOptions},
    machine::{CpuTime, Machine},
    progress::Progress,
    tunnel::Program,
};

/// Between two nodes behind NATs: the round-trip time.
pub const RTT: Duration = Duration::from_millis(40);

/// Something to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Part {
    /// From start to first ping, on one LAN.
    StartLan,
    /// The same through two port-restricted NATs at 40 ms.
    StartNats,
    /// The direct path is cut under TCP both ways.
    Cut,
    /// The XMPP server restarts.
    Server,
    /// A node's address changes, its peer is reachable.
    Move,
    /// A node's address changes, only a relay is there.
    MoveRelayed,
    /// Nothing happens, on one LAN and behind NATs.
    Idle,
}

impl Part {
    /// All, in the order of the report.
    pub const ALL: [Self; 7] = [
        Self::StartLan,
        Self::StartNats,
        Self::Cut,
        Self::Server,
        Self::Move,
        Self::MoveRelayed,
        Self::Idle,
    ];
}

/// What is measured.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Which parts.
    pub parts: Vec<Part>,
    /// How often each of them but the last.
    pub runs: u32,
    /// How long nothing happens.
    pub idle: Duration,
}

/// All figures; a part that was never measured is empty.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Figures {
    /// On which machine.
    pub machine: Option<Machine>,
    /// What the switch says to `--version`.
    pub version: String,
    /// What other guests took while it was measured, percent of all processors; of several runs the worst.
    pub steal_percent: f64,
    /// See [`Part::StartLan`].
    pub start_lan: Vec<Start>,
    /// See [`Part::StartNats`].
    pub start_nats: Vec<Start>,
    /// See [`Part::Cut`].
    pub cut: Vec<Cut>,
    /// See [`Part::Server`].
    pub server: Vec<Restart>,
    /// See [`Part::Move`].
    pub moved: Vec<Move>,
    /// See [`Part::MoveRelayed`].
    pub moved_relayed: Vec<Move>,
    /// See [`Part::Idle`]: on one LAN.
    pub idle_lan: Option<Idle>,
    /// The same behind NATs.
    pub idle_nats: Option<Idle>,
}

impl Figures {
    /// Those of a folder; none if it has none.
    ///
    /// # Errors
    /// When they can't be read.
    pub fn of_folder(folder: &Path) -> Result<Self> {
        let path = folder.join(folder::FIGURES);
        if !path.exists() {
            return Ok(Self::default());
        }
        let text =
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        serde_json::from_str(&text)
            .with_context(|| format!("{} is of another kind", path.display()))
    }
}

impl Plan {
    /// Measures the parts anew and keeps the others; `tell` hears what is begun.
    ///
    /// # Errors
    /// When the lab or a node does not come up, or two nodes do not find each other at all.
    pub fn measure(&self, mut figures: Figures, tell: &mut dyn FnMut(&str)) -> Result<Figures> {
        let runs = |part: &Part| if *part == Part::Idle { 2 } else { self.runs };
        let mut progress = Progress::of(self.parts.iter().map(runs).sum(), tell);
        let before = CpuTime::now()?;
        for part in &self.parts {
            self.measure_part(*part, &mut figures, &mut progress)?;
        }
        figures.machine = Some(Machine::this()?);
        figures.version = version()?;
        let steal_percent = CpuTime::now()?.steal_percent_since(before);
        figures.steal_percent = figures.steal_percent.max(steal_percent);
        Ok(figures)
    }

    fn measure_part(
        &self,
        part: Part,
        figures: &mut Figures,
        progress: &mut Progress<'_>,
    ) -> Result<()> {
        match part {
            Part::StartLan => figures.start_lan = self.starts(Place::Lan, progress)?,
            Part::StartNats => figures.start_nats = self.starts(Place::Nats, progress)?,
            Part::Cut => {
                let network = Network::start("cut", InternetOptions::new())?;
                let mut pair = Pair::start(&network, "direct")?;
                figures.cut = self.repeat("cut", progress, |_| pair.cut(&network))?;
            }
            Part::Server => {
                // Nodes wait ever longer for a server that has just gone again: each run has a server of its own.
                figures.server = self.repeat("server", progress, |run| {
                    let mut network = Network::start("server", InternetOptions::new())?;
                    Pair::start(&network, "direct")?.restart(&mut network, run % 2 == 1)
                })?;
            }
            Part::Move => figures.moved = self.moves("direct", progress)?,
            Part::MoveRelayed => figures.moved_relayed = self.moves("relayed", progress)?,
            Part::Idle => {
                for (place, idle) in
                    [(Place::Lan, &mut figures.idle_lan), (Place::Nats, &mut figures.idle_nats)]
                {
                    progress.step(&format!("idle, {place:?}"));
                    let network = Network::start("idle", InternetOptions::new())?;
                    *idle = Some(idle::measure(&network, place, self.idle)?);
                }
            }
        }
        Ok(())
    }

    fn starts(&self, place: Place, progress: &mut Progress<'_>) -> Result<Vec<Start>> {
        let (options, access) = match place {
            Place::Lan => (InternetOptions::new(), Access::Direct),
            Place::Nats => (
                InternetOptions::new().one_way_delay(RTT / 2),
                Access::Nat(NatOptions::new(NatKind::PortRestricted)),
            ),
        };
        let network = Network::start("start", options)?;
        let site = |name| network.internet.site(name, access);
        let sites = [site("a")?, site("b")?];
        let hosts = [sites[0].host(), sites[1].host()];
        self.repeat(&format!("start, {place:?}"), progress, |_| start::once(&network, hosts))
    }

    fn moves(&self, kind: &str, progress: &mut Progress<'_>) -> Result<Vec<Move>> {
        let network = Network::start("move", InternetOptions::new())?;
        if kind == "relayed" {
            failures::only_by_relay(&network)?;
        }
        let mut pair = Pair::start(&network, kind)?;
        self.repeat(&format!("move, {kind}"), progress, |run| {
            pair.readdress(&network, run as usize % 2, kind)
        })
    }

    fn repeat<T>(
        &self,
        what: &str,
        progress: &mut Progress<'_>,
        mut once: impl FnMut(u32) -> Result<T>,
    ) -> Result<Vec<T>> {
        let mut all = Vec::new();
        for run in 0..self.runs {
            progress.step(what);
            all.push(once(run)?);
        }
        Ok(all)
    }
}

fn version() -> Result<String> {
    let program = Program::Switch.find()?;
    let output = std::process::Command::new(&program).arg("--version").output();
    let output = output.with_context(|| format!("running {}", program.display()))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
