//! A soak as a folder: `figures.json`, `report.md`, and memory and descriptors over time as charts.

use std::{fmt::Write as _, path::Path};

use anyhow::Result;

use super::{Round, Soak};
use crate::{
    chart::{self, Curve},
    folder,
    lab::tools::median,
};

impl Soak {
    /// Writes the folder's files.
    ///
    /// # Errors
    /// When the folder can't be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        folder::write(folder, self, &self.markdown(), &self.charts())
    }

    /// The report.
    pub fn markdown(&self) -> String {
        let total = |what: fn(&Round) -> u64| self.rounds.iter().map(what).sum::<u64>();
        let (sent, received) = (total(|round| round.sent), total(|round| round.received));
        let rates: Vec<f64> = self.rounds.iter().map(|round| round.tcp_mbit_per_s).collect();
        let last = self.rounds.last();
        let per_hour = |slope: Option<f64>| slope.map_or("unknown".into(), |s| format!("{s:.1}"));
        let machine = &self.machine;
        let mut text = String::from("# Soak\n\n");
        let _ = writeln!(
            text,
            "{}, on {} processors of {}, Linux {}. {} rounds in {:.0} minutes over the wire emulator, {} % of loss and {} ms of delay each way; after \
             each round the far switch was killed or ended and started again, or the wire was cut for 9 s.\n",
            self.version,
            machine.cpus,
            machine.cpu,
            machine.kernel,
            self.rounds.len(),
            last.map_or(0.0, |round| round.at_s / 60.0),
            self.loss_percent,
            self.delay_ms,
        );
        let _ = writeln!(
            text,
            "* TCP flow: median {:.0} Mbit/s\n\
             * numbered frames: {sent} sent, {received} received, {} twice, {} overtaken\n\
             * the near switch: {} KiB resident at the end, {} KiB an hour; {} descriptors, {} an hour (without the first third)",
            median(&rates).unwrap_or(0.0),
            total(|round| round.duplicates),
            total(|round| round.overtaken),
            last.map_or(0, |round| round.rss_kib),
            per_hour(self.rss_kib_per_hour),
            last.map_or(0, |round| round.descriptors),
            per_hour(self.descriptors_per_hour),
        );
        if let Some(account) = last.map(|round| round.accounts[0]) {
            let _ = writeln!(
                text,
                "* its frames: {} in, {} out, {} dropped for a reason, {} unaccounted for",
                account.received,
                account.sent,
                account.dropped,
                account.unaccounted()
            );
        }
        match self.problems.as_slice() {
            [] => text.push_str("* problems: none\n"),
            problems => problems.iter().for_each(|what| {
                let _ = writeln!(text, "* **{what}**");
            }),
        }
        text
    }

    fn charts(&self) -> Vec<(String, String)> {
        let over_time = |what: fn(&Round) -> f64| {
            self.rounds.iter().map(|round| (round.at_s / 60.0, what(round))).collect()
        };
        let curve = |label: &str, points| Curve { label: label.into(), points };
        let memory = curve("resident", over_time(|round| round.rss_kib as f64 / 1024.0));
        let descriptors = curve("open", over_time(|round| round.descriptors as f64));
        vec![
            ("memory".into(), chart::curves("Memory, MiB", "minutes", &[memory])),
            ("descriptors".into(), chart::curves("Descriptors", "minutes", &[descriptors])),
        ]
    }
}
