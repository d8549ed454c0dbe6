//! A comparison as a folder: `figures.json` with every figure, `report.md` for people, `charts/*.svg`.

use std::{fmt::Write as _, path::Path};

use anyhow::Result;

use super::{
    Comparison, Entry, Turn,
    contender::{Contender, Layer, Secrecy},
    measure::{Better, Measure},
    scenario::Scenario,
};
use crate::{chart, folder, lab::tools::median};

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
        let counts = |t: &&Turn| t.scenario == scenario && t.contender == contender && !t.repeated;
        let turns = self.turns.iter().filter(counts);
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
        folder::write(folder, self, &self.markdown(), &self.charts())
    }

    /// The report.
    pub fn markdown(&self) -> String {
        let mut text = String::from("# Comparison\n\n");
        let machine = &self.machine;
        let _ = writeln!(
            text,
            "{} processors of {}, Linux {}, {}, TCP {}. The contenders took turns, {} s for each measurement; \
             medians, least and most of the rounds in brackets. CPU time is that of the tunnel's programs at both ends for 10^9 bytes of TCP payload. \
             At worst other guests took {:.1} % of the processors during a turn that counts, and {:.0} % were busy before it.\n",
            machine.cpus,
            machine.cpu,
            machine.kernel,
            machine.iperf3,
            self.congestion,
            self.seconds,
            self.most_of(|turn| turn.steal_percent),
            self.most_of(|turn| turn.busy_before_percent),
        );
        for scenario in &self.scenarios {
            let rounds = self.rounds(scenario);
            let _ = writeln!(
                text,
                "## {}\n\n{}; {rounds} round{}\n",
                scenario.name,
                scenario.description(),
                if rounds == 1 { "" } else { "s" }
            );
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
        let took_part = |entry: &&Entry| {
            let of_it = |t: &Turn| t.scenario == scenario.name && t.contender == entry.contender;
            scenario.suits(entry.contender) && self.turns.iter().any(of_it)
        };
        for entry in self.entries.iter().filter(took_part) {
            let cell = |measure: &Measure| {
                let spread = self.spread(scenario.name, entry.contender, *measure);
                spread.map_or("-".into(), |spread| spread.cell(*measure))
            };
            let cells: Vec<String> = measures.iter().map(cell).collect();
            let _ = writeln!(text, "| {} | {} |", label(entry), cells.join(" | "));
        }
        text.push('\n');
        let of_it = |turn: &&Turn| turn.scenario == scenario.name && scenario.suits(turn.contender);
        for turn in self.turns.iter().filter(of_it) {
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

    /// The most rounds that a contender was measured in under this condition.
    fn rounds(&self, scenario: &Scenario) -> u32 {
        let turns = self.turns.iter().filter(|turn| turn.scenario == scenario.name);
        turns.map(|turn| turn.round + 1).max().unwrap_or(0)
    }

    fn most_of(&self, what: impl Fn(&Turn) -> f64) -> f64 {
        self.turns.iter().filter(|turn| !turn.repeated).map(what).fold(0.0, f64::max)
    }

    /// This program against the best of its kind, VXLAN, the obvious implementation and quincy.
    fn ratios(&self, scenario: &Scenario, text: &mut String) {
        let of = |contender, measure| Some(self.spread(scenario.name, contender, measure)?.median);
        for measure in [
            Measure::TcpMbitPerS,
            Measure::TcpCpuSPerGb,
            Measure::SmallestKpps,
            Measure::IdleRttP50Us,
            Measure::LoadedRttP50Us,
        ] {
            let Some(ours) = of(Contender::Switch, measure) else { continue };
            let best = self.best_peer(scenario, measure);
            let best = best.map(|c| (c, ", the best encrypted layer-2 peer"));
            let others = [Contender::Vxlan, Contender::Obvious, Contender::Quincy];
            for (contender, remark) in best.into_iter().chain(others.map(|c| (c, ""))) {
                if let Some(theirs) = of(contender, measure).filter(|theirs| *theirs > 0.0) {
                    let (heading, ratio) = (measure.heading(), ours / theirs);
                    let _ = writeln!(text, "* {heading}: {ratio:.2} times {contender}'s{remark}");
                }
            }
        }
        text.push('\n');
    }

    /// Of what users would otherwise pick, and as they would use it: frames, encrypted.
    fn best_peer(&self, scenario: &Scenario, measure: Measure) -> Option<Contender> {
        let is_peer = |entry: &&Entry| {
            entry.secrecy == Secrecy::Encrypted
                && entry.layer == Layer::Ethernet
                && !entry.contender.is_own()
        };
        let peers = self.entries.iter().filter(is_peer).filter_map(|entry| {
            let spread = self.spread(scenario.name, entry.contender, measure)?;
            Some((spread.median, entry.contender))
        });
        let best = match measure.better() {
            Better::More => peers.max_by(|a, b| a.0.total_cmp(&b.0)),
            Better::Less => peers.min_by(|a, b| a.0.total_cmp(&b.0)),
        };
        best.map(|(_, contender)| contender)
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

/// The name, and what makes its figures those of something else.
fn label(entry: &Entry) -> String {
    let clear = (entry.secrecy == Secrecy::Clear).then_some("not encrypted");
    let layer = (entry.layer == Layer::Ip).then_some("layer 3");
    match clear.or(layer) {
        Some(remark) => format!("{}, {remark}", entry.name),
        None => entry.name.into(),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        compare::{Absent, measure::Figure},
        machine::Machine,
    };

    fn entry(contender: Contender) -> Entry {
        Entry::new(contender, "1".into())
    }

    fn turn(contender: Contender, round: u32, mbit_per_s: f64, cpu_s_per_gb: f64) -> Turn {
        Turn {
            scenario: "base".into(),
            contender,
            round,
            busy_before_percent: 1.0,
            steal_percent: 2.0,
            repeated: false,
            figures: vec![
                Figure { measure: Measure::TcpMbitPerS, value: mbit_per_s },
                Figure { measure: Measure::TcpCpuSPerGb, value: cpu_s_per_gb },
            ],
            failed: None,
        }
    }

    fn comparison() -> Comparison {
        use Contender::{Fastd, Switch, Tinc};
        let machine = Machine {
            cpu: "a processor".into(),
            cpus: 2,
            kernel: "6.1.0".into(),
            iperf3: "iperf 3".into(),
        };
        let mut turns = vec![
            turn(Switch, 0, 4000.0, 2.0),
            turn(Fastd, 0, 800.0, 15.0),
            turn(Tinc, 0, 400.0, 30.0),
            turn(Switch, 1, 1.0, 99.0),
            turn(Switch, 1, 5000.0, 3.0),
            turn(Switch, 2, 6000.0, 4.0),
        ];
        turns[3].repeated = true;
        turns[2].failed = Some("it ended\nwith more words".into());
        Comparison {
            machine,
            entries: [Switch, Fastd, Tinc].map(entry).into(),
            absent: vec![Absent {
                contender: Contender::Vpncloud,
                name: "vpncloud",
                missing: "vpncloud",
                source: "perf/install-peers",
            }],
            scenarios: vec![Scenario::ALL[0]],
            seconds: 5,
            congestion: "cubic".into(),
            turns,
        }
    }

    #[test]
    fn the_report_has_medians_ratios_failures_and_who_is_absent() {
        let text = comparison().markdown();
        for expected in [
            "| ipop-switch | 5000 (4000 to 6000) | 3.00 (2.00 to 4.00) |",
            "| fastd | 800 | 15.00 |",
            "* TCP, Mbit/s: 6.25 times fastd's, the best encrypted layer-2 peer",
            "* CPU, s/GB: 0.20 times fastd's, the best encrypted layer-2 peer",
            "* tinc failed in round 1: it ended\n",
            "not installed: vpncloud is missing (perf/install-peers)",
            "2 processors of a processor, Linux 6.1.0",
            "3 rounds",
        ] {
            assert!(text.contains(expected), "{expected:?} in\n{text}");
        }
    }

    #[test]
    fn a_later_slice_counts_its_rounds_on() {
        let later =
            Comparison { turns: vec![turn(Contender::Switch, 0, 7000.0, 5.0)], ..comparison() };
        let earlier = serde_json::to_string(&comparison()).unwrap();
        let joined = later.clone().join(&earlier).unwrap();
        let spread = joined.spread("base", Contender::Switch, Measure::TcpMbitPerS).unwrap();
        assert_eq!(spread, Spread { median: 5500.0, least: 4000.0, most: 7000.0 });
        assert_eq!(joined.turns.last().unwrap().round, 3);
        let other = Comparison { seconds: 1, ..later };
        assert!(other.join(&earlier).unwrap_err().to_string().contains("other settings"));
    }

    #[test]
    fn what_is_no_encrypted_ethernet_says_so() {
        assert_eq!(label(&entry(Contender::Vxlan)), "kernel VXLAN, not encrypted");
        assert_eq!(label(&entry(Contender::Quincy)), "quincy, layer 3");
        assert_eq!(label(&entry(Contender::Tinc)), "tinc");
    }

    #[test]
    fn a_chart_needs_two_bars() {
        let names =
            |c: &Comparison| c.charts().into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        assert_eq!(names(&comparison()), ["base-tcpmbitpers", "base-tcpcpuspergb"]);
        let mut alone = comparison();
        alone.entries.truncate(1);
        assert_eq!(names(&alone), [""; 0]);
    }
}
