//! `ipop-perf compare`: the same work for every way to connect two hosts, in one lab.
//!
//! * [`contender`]: what is compared, and its settings; `tunnels` starts each.
//! * [`scenario`]: the conditions: a base point, and one thing changed at a time.
//! * [`measure`]: the work, and the figures that come of it.
//! * [`report`]: JSON, Markdown and charts.
//!
//! Contenders take turns, round by round, each on a fresh pair of hosts: a machine that slows down slows all of them, and
//! nothing is left of the one before. What counts is the median of the rounds, and the spread stands beside it. A turn
//! during which other guests took more than 4 % of the processors is measured again.
//!
//! A comparison takes hours with every contender and condition, so it can be made in slices: [`Comparison::join`] adds a
//! run to what a folder holds already.

pub mod contender;
pub mod measure;
pub mod report;
pub mod scenario;
mod tunnels;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use self::{
    contender::{Contender, Layer, Secrecy},
    measure::{Figure, TcpFlow},
    scenario::{Scenario, Stage},
};
use crate::{
    lab::Lab,
    machine::{CpuTime, Machine},
    quiet,
};

/// More stolen time than this spoils a turn, percent.
const MAX_STEAL_PERCENT: f64 = 4.0;
/// So often a spoilt turn is repeated; then it counts all the same, and its figure stands beside it.
const MAX_REPEATS: u32 = 2;

/// What is compared.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The contenders, in the order of their turns. Those that are not installed are left out, and named.
    pub contenders: Vec<Contender>,
    /// Under which conditions.
    pub scenarios: Vec<Scenario>,
    /// Rounds under each.
    pub rounds: u32,
    /// Length of each measurement.
    pub seconds: u32,
    /// TCP's congestion control inside the tunnels.
    pub congestion: String,
    /// How long to wait for the machine to become quiet before each turn.
    pub quiet_within: Duration,
}

/// One contender's figures of one round under one condition.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Turn {
    /// Under which condition, by its name.
    pub scenario: String,
    /// Whose.
    pub contender: Contender,
    /// In which round, from 0.
    pub round: u32,
    /// What others did on the machine just before, percent of all processors.
    pub busy_before_percent: f64,
    /// What other guests took during it, percent of all processors.
    pub steal_percent: f64,
    /// Whether it was disturbed and is followed by another in its place.
    pub repeated: bool,
    /// The figures; none if it failed.
    pub figures: Vec<Figure>,
    /// Why it failed, if it did.
    pub failed: Option<String>,
}

/// Who took part.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// Which.
    pub contender: Contender,
    /// Its name in the report.
    pub name: &'static str,
    /// What it carries.
    pub layer: Layer,
    /// Whether it encrypts.
    pub secrecy: Secrecy,
    /// As it was run.
    pub settings: &'static str,
    /// What it says to `--version`.
    pub version: String,
}

/// Who could not, and how to get it.
#[derive(Clone, Debug, Serialize)]
pub struct Absent {
    /// Which.
    pub contender: Contender,
    /// Its name in the report.
    pub name: &'static str,
    /// The program that is missing.
    pub missing: &'static str,
    /// How to get it.
    pub source: &'static str,
}

/// Everything.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// On which machine.
    pub machine: Machine,
    /// Who took part.
    pub entries: Vec<Entry>,
    /// Who is not installed.
    pub absent: Vec<Absent>,
    /// Under which conditions.
    pub scenarios: Vec<Scenario>,
    /// Length of each measurement.
    pub seconds: u32,
    /// TCP's congestion control inside the tunnels.
    pub congestion: String,
    /// All figures.
    pub turns: Vec<Turn>,
}

impl Plan {
    /// Measures; `tell` hears of each turn, the last one of the comparison so far, with how many there will be in all.
    ///
    /// # Errors
    /// When the lab can't be made, or `tell` fails. A contender that fails under a condition is a line in the report.
    pub fn measure(
        &self,
        mut tell: impl FnMut(&Comparison, usize) -> Result<()>,
    ) -> Result<Comparison> {
        let (present, missing): (Vec<_>, Vec<_>) =
            self.contenders.iter().copied().partition(|contender| contender.missing().is_none());
        let turns_of = |scenario: &Scenario| present.iter().filter(|c| scenario.suits(**c)).count();
        let count = self.scenarios.iter().map(turns_of).sum::<usize>() * self.rounds as usize;
        let mut comparison = Comparison {
            machine: Machine::this()?,
            entries: entries(&present)?,
            absent: missing.into_iter().map(absent).collect(),
            scenarios: self.scenarios.clone(),
            seconds: self.seconds,
            congestion: self.congestion.clone(),
            turns: Vec::with_capacity(count),
        };
        for scenario in &self.scenarios {
            for round in 0..self.rounds {
                for contender in present.iter().filter(|contender| scenario.suits(**contender)) {
                    for turn in self.turns(scenario, round, *contender)? {
                        comparison.turns.push(turn);
                        tell(&comparison, count)?;
                    }
                }
            }
        }
        Ok(comparison)
    }

    /// One that counts, after those that were disturbed.
    fn turns(&self, scenario: &Scenario, round: u32, contender: Contender) -> Result<Vec<Turn>> {
        let mut turns = Vec::new();
        for attempt in 0..=MAX_REPEATS {
            let mut turn = self.turn(scenario, round, contender)?;
            let disturbed = turn.failed.is_none() && turn.steal_percent > MAX_STEAL_PERCENT;
            turn.repeated = disturbed && attempt < MAX_REPEATS;
            let done = !turn.repeated;
            turns.push(turn);
            if done {
                break;
            }
        }
        Ok(turns)
    }

    fn turn(&self, scenario: &Scenario, round: u32, contender: Contender) -> Result<Turn> {
        let busy_before_percent = quiet::wait(self.quiet_within);
        let before = CpuTime::now()?;
        let (figures, failed) = match self.figures(scenario, round, contender) {
            Ok(figures) => (figures, None),
            Err(error) => (Vec::new(), Some(format!("{error:#}"))),
        };
        Ok(Turn {
            scenario: scenario.name.into(),
            contender,
            round,
            busy_before_percent,
            steal_percent: CpuTime::now()?.steal_percent_since(before),
            repeated: false,
            figures,
            failed,
        })
    }

    fn figures(
        &self,
        scenario: &Scenario,
        round: u32,
        contender: Contender,
    ) -> Result<Vec<Figure>> {
        let stage = Stage::set(scenario, u64::from(round) + 1)?;
        let site = stage.site();
        let mut tunnel = contender.start(&site)?;
        let tcp = TcpFlow { seconds: self.seconds, congestion: &self.congestion };
        let figures = measure::measure(&site, &mut tunnel, scenario.load, tcp)
            .with_context(|| format!("{contender} under {:?}", scenario.name))?;
        tunnel.stop()?;
        Ok(figures)
    }
}

impl Comparison {
    /// Puts the turns of an earlier run, as a folder's `figures.json` has them, before these; its rounds count on.
    ///
    /// # Errors
    /// When the text is not such a file, or that run was made on another machine or with other settings.
    pub fn join(mut self, earlier: &str) -> Result<Self> {
        let earlier: Earlier = serde_json::from_str(earlier).context("reading earlier figures")?;
        let same = earlier.machine == self.machine
            && (earlier.seconds, &earlier.congestion) == (self.seconds, &self.congestion);
        ensure!(same, "the earlier figures are of another machine, or of other settings");
        let next = |turn: &Turn| {
            let of_same =
                |t: &&Turn| (&t.scenario, t.contender) == (&turn.scenario, turn.contender);
            let rounds = earlier.turns.iter().filter(of_same).map(|turn| turn.round + 1);
            rounds.max().unwrap_or(0)
        };
        for turn in &mut self.turns {
            turn.round += next(turn);
        }
        let known: Vec<Contender> = self.entries.iter().map(|entry| entry.contender).collect();
        let others = earlier.entries.iter().filter(|entry| !known.contains(&entry.contender));
        self.entries.extend(others.map(|e| Entry::new(e.contender, e.version.clone())));
        self.entries.sort_by_key(|entry| Contender::ALL.iter().position(|c| *c == entry.contender));
        self.turns.splice(0..0, earlier.turns);
        let has_turns = |s: &Scenario| self.turns.iter().any(|turn| turn.scenario == s.name);
        self.scenarios = Scenario::ALL.into_iter().filter(has_turns).collect();
        Ok(self)
    }
}

/// What counts of an earlier [`Comparison`].
#[derive(Deserialize)]
struct Earlier {
    machine: Machine,
    seconds: u32,
    congestion: String,
    entries: Vec<EarlierEntry>,
    turns: Vec<Turn>,
}

#[derive(Deserialize)]
struct EarlierEntry {
    contender: Contender,
    version: String,
}

impl Entry {
    fn new(contender: Contender, version: String) -> Self {
        Self {
            contender,
            name: contender.name(),
            layer: contender.layer(),
            secrecy: contender.secrecy(),
            settings: contender.settings(),
            version,
        }
    }
}

fn entries(present: &[Contender]) -> Result<Vec<Entry>> {
    let lab = Lab::new("versions")?;
    let host = lab.host("a")?;
    let entry = |contender: &Contender| Ok(Entry::new(*contender, contender.version(&host)?));
    present.iter().map(entry).collect()
}

fn absent(contender: Contender) -> Absent {
    Absent {
        contender,
        name: contender.name(),
        missing: contender.missing().unwrap_or_default(),
        source: contender.source(),
    }
}
