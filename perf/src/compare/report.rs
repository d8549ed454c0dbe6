//! A comparison as a folder: `figures.json` with every figure, `report.md` for people, `charts/*.svg`.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Context, Result};

use super::{
    Comparison, Entry,
    contender::{Contender, Layer, Secrecy},
    measure::Measure,
    scenario::Scenario,
};
use crate::{chart, lab::tools::median};

/// The middle of the rounds, and how far they lie apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The median.
    pub median: f64,
    /// The smallest.
    pub least: f64,
    /// The largest.
    pub most: f64,
}

impl Comparison {
    /// What the rounds gave; `None` if none did.
    pub fn spread(&self, scenario: &str, contender: Contender, measure: Measure) -> Option<Spread> {
        let turns =
            self.turns.iter().filter(|t| t.scenario == scenario && t.contender == contender);
        let figures = turns.flat_map(|turn| &turn.figures).filter(|f| f.measure == measure);
        let values: Vec<f64> = figures.map(|figure| figure.value).collect();
        let least = values.iter().copied().min_by(f64::total_cmp)?;
        let most = values.iter().copied().max_by(f64::total_cmp)?;
        Some(Spread { median: median(&values)?, least, most })
    }

    /// Writes the folder's files.
    ///
    /// # Errors
    /// When the folder can't be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let charts = folder.join("charts");
        fs::create_dir_all(&charts).with_context(|| format!("making {}", charts.display()))?;
        let put = |name: &str, text: &str| {
            let path = folder.join(name);
            fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
        };
        put("figures.json", &(serde_json::to_string_pretty(self)? + "\n"))?;
        put("report.md", &self.markdown())?;
        for (name, svg) in self.charts() {
            put(&format!("charts/{name}.svg"), &svg)?;
        }
        Ok(())
    }

    /// The report.
    pub fn markdown(&self) -> String {
        let mut text = String::from("# Comparison\n\n");
        let machine = &self.machine;
        let _ = writeln!(
            text,
            "{} processors of {}, Linux {}, {}, TCP {}. {} rounds in which the contenders took turns, {} s for each measurement; \
             medians, least and most in brackets. CPU time is that of the tunnel's programs at both ends for 10^9 bytes of TCP payload.\n",
            machine.cpus,
            machine.cpu,
            machine.kernel,
            machine.iperf3,
            self.congestion,
            self.rounds,
            self.seconds
        );
        for scenario in &self.scenarios {
            let _ = writeln!(text, "## {}\n\n{}\n", scenario.name, scenario.description());
            self.table(scenario, &mut text);
            self.ratios(scenario, &mut text);
        }
        self.participants(&mut text);
        text
    }

    fn table(&self, scenario: &Scenario, text: &mut String) {
        let has = |measure: &Measure| {
            self.entries.iter().any(|e| self.spread(scenario.name, e.contender, *measure).is_some())
        };
        let measures: Vec<Measure> = Measure::ALL.into_iter().filter(has).collect();
        let headings: Vec<&str> = measures.iter().map(|measure| measure.heading()).collect();
        let _ = writeln!(text, "| | {} |", headings.join(" | "));
        let _ = writeln!(text, "| --- |{}", " ---: |".repeat(measures.len()));
        for entry in self.entries.iter().filter(|entry| scenario.suits(entry.contender)) {
            let cell = |measure: &Measure| {
                let spread = self.spread(scenario.name, entry.contender, *measure);
                spread.map_or("-".into(), |spread| spread.cell(*measure))
            };
            let cells: Vec<String> = measures.iter().map(cell).collect();
            let _ = writeln!(text, "| {} | {} |", entry.name, cells.join(" | "));
        }
        text.push('\n');
        for turn in self.turns.iter().filter(|turn| turn.scenario == scenario.name) {
            if let Some(why) = &turn.failed {
                let first = why.lines().next().unwrap_or_default();
                let _ = writeln!(
                    text,
                    "* {} failed in round {}: {first}",
                    turn.contender,
                    turn.round + 1
                );
            }
        }
    }

    /// This program against the best of its kind, VXLAN, the obvious implementation and quincy.
    fn ratios(&self, scenario: &Scenario, text: &mut String) {
        let median = |c, m| self.spread(scenario.name, c, m).map(|spread| spread.median);
        let ours = |measure| median(Contender::Switch, measure);
        let encrypted_peer = |entry: &&Entry| {
            entry.secrecy == Secrecy::Encrypted
                && entry.layer == Layer::Ethernet
                && !matches!(
                    entry.contender,
                    Contender::Switch | Contender::Switch2 | Contender::Obvious
                )
        };
        let best = |measure: Measure, prefer: fn(f64, f64) -> bool| {
            let peers = self.entries.iter().filter(encrypted_peer);
            let values = peers.filter_map(|e| Some((e, median(e.contender, measure)?)));
            values.reduce(|best, next| if prefer(next.1, best.1) { next } else { best })
        };
        let mut line = |measure: Measure, against: &str, theirs: Option<f64>| {
            if let (Some(ours), Some(theirs)) = (ours(measure), theirs)
                && theirs > 0.0
            {
                let (heading, ratio) = (measure.heading(), ours / theirs);
                let _ = writeln!(text, "* {heading}: {ratio:.2} times {against}");
            }
        };
        for (measure, prefer) in [
            (Measure::TcpMbitPerS, f64::gt as fn(&f64, &f64) -> bool),
            (Measure::TcpCpuSPerGb, f64::lt),
            (Measure::SmallestKpps, f64::gt),
            (Measure::IdleRttP50Us, f64::lt),
        ] {
            let prefer: fn(f64, f64) -> bool =
                if prefer(&1.0, &0.0) { |a, b| a > b } else { |a, b| a < b };
            if let Some((entry, value)) = best(measure, prefer) {
                line(
                    measure,
                    &format!("{}'s, the best encrypted layer-2 peer", entry.name),
                    Some(value),
                );
            }
            for other in [Contender::Vxlan, Contender::Obvious, Contender::Quincy] {
                line(measure, &format!("{}'s", other.name()), median(other, measure));
            }
        }
        text.push('\n');
    }

    fn participants(&self, text: &mut String) {
        text.push_str("## Contenders\n\n| | version | settings |\n| --- | --- | --- |\n");
        for entry in &self.entries {
            let _ = writeln!(text, "| {} | {} | {} |", entry.name, entry.version, entry.settings);
        }
        for absent in &self.absent {
            let _ = writeln!(
                text,
                "| {} | not installed: {} is missing ({}) | |",
                absent.name, absent.missing, absent.source
            );
        }
    }

    /// One chart for each measure under each condition that two contenders or more were measured under.
    fn charts(&self) -> Vec<(String, String)> {
        let mut charts = Vec::new();
        for scenario in &self.scenarios {
            for measure in Measure::ALL {
                let bars: Vec<chart::Bar> = self
                    .entries
                    .iter()
                    .filter_map(|entry| {
                        let spread = self.spread(scenario.name, entry.contender, measure)?;
                        let Spread { median, least, most } = spread;
                        let label = entry.name.into();
                        Some(chart::Bar { label, value: median, least, most })
                    })
                    .collect();
                if bars.len() >= 2 {
                    let title = format!("{}, {}", measure.heading(), scenario.name);
                    let name = format!("{}-{measure:?}", scenario.name).to_lowercase();
                    charts.push((name, chart::bars(&title, measure.decimals(), &bars)));
                }
            }
        }
        charts
    }
}

impl Spread {
    fn cell(&self, measure: Measure) -> String {
        let places = measure.decimals();
        let Self { median, least, most } = self;
        if least == most {
            return format!("{median:.places$}");
        }
        format!("{median:.places$} ({least:.places$} to {most:.places$})")
    }
}
