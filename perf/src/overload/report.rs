//! A measurement as a folder: `figures.json`, `report.md`.

use std::{fmt::Write as _, path::Path};

use anyhow::Result;

use super::{Overload, Round, TOLERATED_PERCENT, Trial};
use crate::{folder, lab::tools::median};

impl Round {
    /// What gets through of this, as a share of the best rate that passes, or of what was offered where that is less.
    fn share(&self, trial: &Trial) -> f64 {
        trial.delivered_mbit_per_s / self.best_mbit_per_s.min(trial.offered_mbit_per_s)
    }
}

impl Overload {
    /// Writes the folder's files.
    ///
    /// # Errors
    /// When the folder can't be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        folder::write(folder, self, &self.markdown(), &[])
    }

    /// The report.
    pub fn markdown(&self) -> String {
        let mut text = String::from("# Overload\n\n");
        let machine = &self.machine;
        let _ = writeln!(
            text,
            "{} processors of {}, Linux {}; both switches, sender and receiver share them. UDP datagrams of {} bytes, one with each system \
             call; Mbit/s of their payload. Trials of {} s. Best is the highest rate of which at most {TOLERATED_PERCENT} % is lost; shares are \
             of that, or of what was offered where that is less.\n",
            machine.cpus, machine.cpu, machine.kernel, self.payload_len, self.trial_s,
        );
        if !self.args.is_empty() {
            let _ = writeln!(text, "The switches ran with `{}`.\n", self.args.join(" "));
        }
        for (number, (path, version)) in self.programs.iter().enumerate() {
            let file = path.file_name().unwrap_or_default().to_string_lossy();
            let _ = writeln!(text, "## {version}: {file}\n");
            let rounds: Vec<_> = self.rounds.iter().filter(|r| r.program == number).collect();
            table(&mut text, &rounds);
            self.medians(&mut text, &rounds);
        }
        text
    }

    fn medians(&self, text: &mut String, rounds: &[&Round]) {
        let of = |what: &dyn Fn(&Round) -> f64| {
            median(&rounds.iter().map(|round| what(round)).collect::<Vec<_>>()).unwrap_or(0.0)
        };
        let _ = writeln!(
            text,
            "\n* Medians: best {:.0} Mbit/s; at {:.0} Mbit/s {:.2} of it gets through, of a flood of {:.0} Mbit/s {:.2}.",
            of(&|round| round.best_mbit_per_s),
            self.stated_mbit_per_s,
            of(&|round| round.share(&round.stated)),
            of(&|round| round.flood.offered_mbit_per_s),
            of(&|round| round.share(&round.flood)),
        );
        for (what, trial) in [
            ("that rate", (|round| &round.stated) as fn(&Round) -> &Trial),
            ("the flood", |round| &round.flood),
        ] {
            let (mut places, mut lost) = (super::Ledger::default(), 0);
            for round in rounds {
                let trial = trial(round);
                lost += trial.lost;
                trial.places.places().for_each(|(place, count)| places.add(place.into(), count));
            }
            let placed = places.places().map(|(place, count)| format!("{count} {place}"));
            let placed = placed.collect::<Vec<_>>().join(", ");
            let counted = if placed.is_empty() { "nothing" } else { &placed };
            let _ = writeln!(text, "* Of {what} {lost} datagrams were lost. Counted: {counted}.");
        }
        text.push('\n');
    }
}

fn table(text: &mut String, rounds: &[&Round]) {
    text.push_str(
        "| best | offered | delivered | lost, % | share | CPU s for a million | flood offered | delivered | lost, % | share | CPU s for a million |\n\
         | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
    );
    for round in rounds {
        let cells = [&round.stated, &round.flood].map(|trial| {
            format!(
                "{:.0} | {:.0} | {:.1} | {:.2} | {:.1}",
                trial.offered_mbit_per_s,
                trial.delivered_mbit_per_s,
                trial.lost_percent,
                round.share(trial),
                trial.cpu_s_per_million,
            )
        });
        let _ = writeln!(text, "| {:.0} | {} |", round.best_mbit_per_s, cells.join(" | "));
    }
}
