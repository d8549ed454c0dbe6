//! `ipop-perf compare`: the same work for every way to connect two hosts, in one lab.
//!
//! * [`contender`]: what is compared, and its settings; `tunnels` starts each.
//! * [`scenario`]: the conditions: a base point, and one thing changed at a time.
//! * [`measure`]: the work, and the figures that come of it.
//! * [`report`]: JSON, Markdown and charts.
//!
//! Contenders take turns, round by round, each on a fresh pair of hosts: a machine that slows down slows all of them, and
//! nothing is left of the one before. What counts is the median of the rounds, and the spread stands beside it.

pub mod contender;
pub mod measure;
pub mod report;
pub mod scenario;
mod tunnels;

use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use self::{
    contender::{Contender, Layer, Secrecy},
    measure::Figure,
    scenario::{Scenario, Stage},
};
use crate::{lab::Lab, machine::Machine, quiet};

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
#[derive(Clone, Debug, Serialize)]
pub struct Turn {
    /// Under which condition.
    pub scenario: &'static str,
    /// Whose.
    pub contender: Contender,
    /// In which round, from 0.
    pub round: u32,
    /// What others did on the machine just before, percent of all processors.
    pub busy_before_percent: f64,
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
    /// Rounds.
    pub rounds: u32,
    /// Length of each measurement.
    pub seconds: u32,
    /// TCP's congestion control inside the tunnels.
    pub congestion: String,
    /// All figures.
    pub turns: Vec<Turn>,
}

impl Plan {
    /// Measures; `tell` hears of each turn, with how many there are in all.
    ///
    /// # Errors
    /// When the lab can't be made. A contender that fails under a condition is a line in the report.
    pub fn measure(&self, mut tell: impl FnMut(&Turn, usize)) -> Result<Comparison> {
        let machine = Machine::this()?;
        let (present, missing): (Vec<_>, Vec<_>) =
            self.contenders.iter().copied().partition(|contender| contender.missing().is_none());
        let entries = entries(&present)?;
        let turns_of = |scenario: &Scenario| present.iter().filter(|c| scenario.suits(**c)).count();
        let count = self.scenarios.iter().map(turns_of).sum::<usize>() * self.rounds as usize;
        let mut turns = Vec::with_capacity(count);
        for scenario in &self.scenarios {
            for round in 0..self.rounds {
                for contender in present.iter().filter(|contender| scenario.suits(**contender)) {
                    let turn = self.turn(scenario, round, *contender);
                    tell(&turn, count);
                    turns.push(turn);
                }
            }
        }
        Ok(Comparison {
            machine,
            entries,
            absent: missing.into_iter().map(absent).collect(),
            scenarios: self.scenarios.clone(),
            rounds: self.rounds,
            seconds: self.seconds,
            congestion: self.congestion.clone(),
            turns,
        })
    }

    fn turn(&self, scenario: &Scenario, round: u32, contender: Contender) -> Turn {
        let busy_before_percent = quiet::wait(self.quiet_within);
        let measured = self.figures(scenario, round, contender);
        let (figures, failed) = match measured {
            Ok(figures) => (figures, None),
            Err(error) => (Vec::new(), Some(format!("{error:#}"))),
        };
        Turn { scenario: scenario.name, contender, round, busy_before_percent, figures, failed }
    }

    fn figures(
        &self,
        scenario: &Scenario,
        round: u32,
        contender: Contender,
    ) -> Result<Vec<Figure>> {
        let stage = Stage::set(scenario, u64::from(round) + 1)?;
        stage.congestion(&self.congestion)?;
        let site = stage.site();
        let mut tunnel = contender.start(&site)?;
        let figures = measure::measure(&site, &mut tunnel, scenario.load, self.seconds)
            .with_context(|| format!("{contender} under {:?}", scenario.name))?;
        tunnel.stop()?;
        Ok(figures)
    }
}

fn entries(present: &[Contender]) -> Result<Vec<Entry>> {
    let lab = Lab::new("versions")?;
    let host = lab.host("a")?;
    let entry = |&contender: &Contender| {
        Ok(Entry {
            contender,
            name: contender.name(),
            layer: contender.layer(),
            secrecy: contender.secrecy(),
            settings: contender.settings(),
            version: contender.version(&host)?,
        })
    };
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
